"""URLs of given schemes as a pattern: the forms that pydantic's URL types accept.

Knows nothing of pydantic. The pattern is a little wider than pydantic, which validates the finished text: some names
are no valid international ones. It is narrower in three ways: the scheme is in the letters that the type gives,
addresses have their usual form (not `0x7f.1`), and `//` is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..checking.formats import FORMATS

_LETTERS = "a-zA-Zß-öø-ÿα-ωа-я一-龥ぁ-ゖァ-ヺ가-힣"
_LABEL = f"[{_LETTERS}0-9_]([{_LETTERS}0-9_-]{{0,61}}[{_LETTERS}0-9_])?"
_LAST_LABEL = f"[{_LETTERS}_]([{_LETTERS}0-9_-]{{0,61}}[{_LETTERS}0-9_])?"
"""It begins with a letter: a name whose last label is a number is read as an address."""
_HOST = f"(({_LABEL}\\.)*{_LAST_LABEL}|{FORMATS['ipv4']}|\\[{FORMATS['ipv6']}\\])"
_PORT = "(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_USER = "[A-Za-z0-9._~!$&'()*+,;=%-]*"
_REST = "A-Za-z0-9._~!$&'()*+,;=:@%/\\u00a0-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\uffef-"
_WITH_HOST = frozenset({"http", "https", "ws", "wss", "ftp"})
"""Schemes whose URLs have a host, whatever a type says."""


def url_pattern(schemes: Sequence[str], *, needs_host: bool, several_hosts: bool = False) -> str:
    """The pattern of a whole URL. `several_hosts`: there may be more than one, with commas between them."""
    host = f"{_HOST}(:{_PORT})?"
    if several_hosts:
        host = f"{host}(,{host})*"
    authority = f"({_USER}(:{_USER})?@)?{host}"
    if not needs_host and not _WITH_HOST.intersection(schemes):
        authority = f"({authority})?"
    named = "|".join(map(re.escape, schemes))
    return f"^({named})://{authority}(/[{_REST}]*)?(\\?[{_REST}?]*)?(#[{_REST}?]*)?$"
