"""The string formats that are enforced: one table of regular expressions, for the mask and for the check.

Knows nothing of schemas. The patterns use the syntax that Python's `re`, ECMA-262 and the engines read alike: no
lookaround, no `\\d`.

Sources: date, time, date-time, duration: RFC 3339 (real calendar days, years 0001 to 9999, no leap seconds, which
Python and pydantic do not read). email: the Mailbox of RFC 5321. hostname: RFC 1123. ipv4, ipv6: RFC 3986, RFC 4291.
uuid: RFC 9562, any version. uri, uri-reference: RFC 3986. iri, iri-reference: RFC 3987 (its characters up to U+EFFFD).
uri-template: RFC 6570. json-pointer: RFC 6901. `regex` is no regular language: it is only checked. A format that is
not in the table is an annotation, as JSON Schema has it.
"""

from __future__ import annotations

import functools
import re

CHECKED_ONLY = frozenset({"regex"})
"""Formats that a finished text is checked for and that no mask enforces."""

MOST = {"hostname": 253, "email": 320}
"""Greatest length of a string of the format, in characters."""


def _date() -> str:
    year = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
    month31 = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    month30 = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    february = "02-(?:0[1-9]|1[0-9]|2[0-8])"
    fours = "(?:0[48]|[2468][048]|[13579][26])"
    leap = f"(?:[0-9]{{2}}{fours}|{fours}00)-02-29"
    return f"(?:{year}-(?:{month31}|{month30}|{february})|{leap})"


def _time() -> str:
    offset = "(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    return f"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?{offset}"


def _duration() -> str:
    time = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
    date = "(?:[0-9]+D|[0-9]+M(?:[0-9]+D)?|[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?)"
    return f"P(?:{date}(?:{time})?|{time}|[0-9]+W)"


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_OCTET}(?:\\.{_OCTET}){{3}}"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = f"{_LABEL}(?:\\.{_LABEL})*"


def _ipv6() -> str:
    h16 = "[0-9A-Fa-f]{1,4}"
    last = f"(?:{h16}:{h16}|{_IPV4})"  # the last 32 bits
    forms = [f"(?:{h16}:){{6}}{last}", f"::(?:{h16}:){{5}}{last}"]
    for before in range(5):  # up to before + 1 groups, "::", 4 - before groups, the last 32 bits
        forms.append(f"(?:{h16}(?::{h16}){{0,{before}}})?::(?:{h16}:){{{4 - before}}}{last}")
    forms.append(f"(?:{h16}(?::{h16}){{0,5}})?::{h16}")
    forms.append(f"(?:{h16}(?::{h16}){{0,6}})?::")
    return "(?:" + "|".join(forms) + ")"


def _uri(*, reference: bool, wide: str = "") -> str:
    """URI, or URI reference; `wide` are the further characters of an IRI."""
    escaped = "%[0-9A-Fa-f]{2}"
    sub = "!$&'()*+,;="
    unreserved = f"A-Za-z0-9._~{wide}"
    pchar = f"(?:[{unreserved}{sub}:@-]|{escaped})"
    segments = f"(?:/{pchar}*)*"
    user = f"(?:(?:[{unreserved}{sub}:-]|{escaped})*@)?"
    future = f"[Vv][0-9A-Fa-f]+\\.[A-Za-z0-9._~{sub}:-]+"
    host = f"(?:\\[(?:{_ipv6()}|{future})\\]|(?:[{unreserved}{sub}-]|{escaped})*)"
    authority = f"//{user}{host}(?::[0-9]*)?{segments}"
    absolute = f"/(?:{pchar}+{segments})?"
    tail = f"(?:\\?(?:{pchar}|[/?])*)?(?:#(?:{pchar}|[/?])*)?"
    uri = f"[A-Za-z][A-Za-z0-9+.-]*:(?:{authority}|{absolute}|{pchar}+{segments}|){tail}"
    if not reference:
        return uri
    first = f"(?:[{unreserved}{sub}@-]|{escaped})+"
    return f"(?:{uri}|(?:{authority}|{absolute}|{first}{segments}|){tail})"


def _template() -> str:
    name = "(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*(?::[1-9][0-9]{0,3}|\\*)?"
    plain = "[^\\x00-\\x20\"'%<>\\\\^`{|}\\x7f]"
    return f"(?:{plain}|%[0-9A-Fa-f]{{2}}|\\{{[+#./;?&=,!@|]?{name}(?:,{name})*\\}})*"


def _email() -> str:
    atoms = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    quoted = '"(?:[\\x20\\x21\\x23-\\x5b\\x5d-\\x7e]|\\\\[\\x20-\\x7e])*"'
    return f"(?:{atoms}(?:\\.{atoms})*|{quoted})@(?:{_HOSTNAME}|\\[(?:{_IPV4}|IPv6:{_ipv6()})\\])"


_WIDE = "\\u00a0-\\ud7ff\\uf900-\\ufdcf\\ufdf0-\\uffef\U00010000-\U000efffd"
_POINTER = "(?:/(?:[^/~]|~[01])*)*"

FORMATS: dict[str, str] = {
    "date": _date(),
    "time": _time(),
    "date-time": f"{_date()}[Tt]{_time()}",
    "duration": _duration(),
    "email": _email(),
    "hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    "uuid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "uri": _uri(reference=False),
    "uri-reference": _uri(reference=True),
    "iri": _uri(reference=False, wide=_WIDE),
    "iri-reference": _uri(reference=True, wide=_WIDE),
    "uri-template": _template(),
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
}
"""Format name to the regular expression of its whole strings."""

# Names of old drafts and of common use.
FORMATS["ip-address"] = FORMATS["ipv4"]
FORMATS["host-name"] = FORMATS["hostname"]
MOST["host-name"] = MOST["hostname"]


def known(name: object) -> bool:
    """Whether a format is enforced or checked."""
    return isinstance(name, str) and (name in FORMATS or name in CHECKED_ONLY)


def check_format(name: str, text: str) -> bool:
    """Whether a string has a format. True for an unknown format."""
    if name == "regex":
        return _is_regex(text)
    if name not in FORMATS:
        return True
    return len(text) <= MOST.get(name, len(text)) and _compiled(name).fullmatch(text) is not None


@functools.cache
def _compiled(name: str) -> re.Pattern[str]:
    return re.compile(FORMATS[name])


def _is_regex(text: str) -> bool:
    """Whether ECMA-262 or Python can read a text as a regular expression."""
    from ..pattern import PatternError, parse_ecma

    try:
        parse_ecma(text)
        return True
    except PatternError:
        pass
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return "(?P" not in text and "\\Z" not in text
