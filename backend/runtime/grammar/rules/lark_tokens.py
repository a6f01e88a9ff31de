"""The text of a Lark grammar as tokens, in llguidance's dialect. Knows nothing of what they mean together."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .....lang.errors import ConstraintError

_TOKEN = re.compile(
    r"(?P<blank>[ \t]+|(?:\#|//)[^\n]*)|(?P<newline>(?:\r?\n)+[ \t]*)"
    r'|(?P<string>"(?:\\.|[^"\\\n])*"i?)|(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)'
    r"|(?P<keyword>%(?:json|regex|llguidance|lark|ignore|import|override|declare|if)\b)"
    r"|(?P<special><[^<>\s]+>)|(?P<reference>@[a-zA-Z0-9_-]+)"
    r"|(?P<name>!?[_?]?[a-z][_a-z0-9-]*|_?[A-Z][_A-Z0-9-]*)"
    r"|(?P<number>0x[0-9a-fA-F]+|[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<mark>->|::|\.\.|[:,.(){}\[\]~|&=+*?_])",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "/": "/", '"': '"', "\\": "\\"}
_WITH_JSON = ("%json", "%regex", "%llguidance")


@dataclass(frozen=True, slots=True)
class LarkToken:
    """A token of a Lark grammar. `text`: as written; `data`: the JSON behind %json, %regex, %llguidance."""

    kind: str
    text: str
    start: int
    end: int
    data: Any = None


def lark_error(source: str, at: int, message: str) -> ConstraintError:
    """An error that names line and column."""
    line = source.count("\n", 0, at) + 1
    column = at - (source.rfind("\n", 0, at) + 1) + 1
    return ConstraintError(f"Lark, line {line}, column {column}: {message}")


def lark_tokens(source: str) -> list[LarkToken]:
    """Cut a grammar into tokens, without blanks. Raises `ConstraintError` with line and column."""
    tokens: list[LarkToken] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            hint = "; texts stand in double quotes" if source[at] == "'" else ""
            raise lark_error(source, at, f"unexpected {source[at : at + 12].split(chr(10))[0]!r}{hint}")
        start, at, data = at, match.end(), None
        if match[0] in _WITH_JSON:
            data, at = _json(source, at, match[0])
        if match.lastgroup != "blank":
            tokens.append(LarkToken(str(match.lastgroup), match[0], start, at, data))
    return tokens


def _json(source: str, at: int, keyword: str) -> tuple[Any, int]:
    begin = at + len(source[at:]) - len(source[at:].lstrip())
    try:
        found: tuple[Any, int] = json.JSONDecoder().raw_decode(source, begin)
    except (ValueError, RecursionError) as error:
        raise lark_error(source, at, f"what follows {keyword} is not JSON: {error}") from None
    return found


def unquoted(text: str) -> str | None:
    """The characters of a text in double quotes; None for an escape that is not known."""
    try:
        plain = _ESCAPE.sub(_character, text[1 : text.rindex('"')])
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")
    except (KeyError, UnicodeDecodeError):
        return None


def _character(match: re.Match[str]) -> str:
    digits = match[1] or match[2]
    return chr(int(digits, 16)) if digits else _ESCAPED[match[3]]
