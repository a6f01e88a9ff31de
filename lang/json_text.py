"""An incremental reader of JSON text: where a text that may be cut anywhere stands, piece by piece.

Knows nothing of schemas or values: `json.loads` reads a finished string or number, whose spelling is not checked here.

1. A reader's state is three strings (`state`), so a copy costs nothing and a state can be a key.
2. The pieces of a text follow one another without gaps, and a reader looks at each character once.
3. Text that is not JSON raises `NotJson` where it stops being JSON.

Bytes can be read as text decoded from Latin-1: outside strings JSON is ASCII.
"""

from __future__ import annotations

import re
from typing import Literal

JsonPiece = Literal[
    "open", "close", "comma", "colon", "blank", "quote", "characters", "escape", "unquote", "word", "word end"
]
"""What a piece of text is. "quote" and "unquote" begin and end a string, with runs of "characters" and "escape"s (two
characters each, unless a text is cut within) between them. A "word" is a number, true, false or null, or a part of one;
"word end" has no length: only what follows a number tells that the number is complete."""
JsonExpects = Literal["value", "item or end", "key", "key or end", "colon", "comma or end", "nothing"]
"""What may come next, or, within a string or word, what that string or word is."""
JsonState = tuple[str, JsonExpects, str]

_BLANK, _NUMBER = " \t\n\r", "0123456789-+.eE"
_CHARACTERS = re.compile(r'[^"\\]+')
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class NotJson(ValueError):
    """The text cannot be the beginning of JSON."""


class JsonReader:
    """A place in a JSON text. `containers`: "{" and "[" of the containers that are open.

    `inside` is what has begun and is not complete: '"' in a string, a backslash after one in a string, the letters of a
    word so far, or "".
    """

    __slots__ = ("containers", "expects", "inside")

    containers: str
    expects: JsonExpects
    inside: str

    def __init__(self, state: JsonState = ("", "value", "")) -> None:
        self.containers, self.expects, self.inside = state

    @property
    def state(self) -> JsonState:
        return self.containers, self.expects, self.inside

    @property
    def at_key(self) -> bool:
        """Whether a key may come next, or is being written."""
        return self.expects in ("key", "key or end")

    def read(self, text: str, at: int) -> tuple[JsonPiece, int]:
        """Read the piece of `text` that begins at `at` (before its end); what it is, and where it ends."""
        if self.inside:
            return self._in_string(text, at) if self.inside in '"\\' else self._word(text, at)
        char, expects = text[at], self.expects
        if char == '"':
            if expects not in ("value", "item or end", "key", "key or end"):
                raise NotJson
            self.inside = char
            return "quote", at + 1
        if char in _BLANK:
            end = at + 1
            while end < len(text) and text[end] in _BLANK:
                end += 1
            return "blank", end
        if char == "," and expects == "comma or end":
            self.expects = "key" if self.containers[-1] == "{" else "value"
            return "comma", at + 1
        if char == ":" and expects == "colon":
            self.expects = "value"
            return "colon", at + 1
        if char in "}]":
            return self._close(char, at)
        if expects not in ("value", "item or end") or char not in "-0123456789tfn{[":
            raise NotJson
        if char not in "{[":
            return self._word(text, at)
        self.containers += char
        self.expects = "key or end" if char == "{" else "item or end"
        return "open", at + 1

    def _in_string(self, text: str, at: int) -> tuple[JsonPiece, int]:
        if self.inside == "\\":
            self.inside = '"'
            return "escape", at + 1
        if found := _CHARACTERS.match(text, at):
            return "characters", found.end()
        if text[at] == '"':
            self.inside = ""
            self.expects = "colon" if self.at_key else self._after_value()
            return "unquote", at + 1
        if at + 2 <= len(text):
            return "escape", at + 2
        self.inside = "\\"
        return "escape", at + 1

    def _close(self, char: str, at: int) -> tuple[JsonPiece, int]:
        if self.containers[-1:] != ("{" if char == "}" else "["):
            raise NotJson
        if self.expects not in ("comma or end", "key or end", "item or end"):
            raise NotJson
        self.containers = self.containers[:-1]
        self.expects = self._after_value()
        return "close", at + 1

    def _word(self, text: str, at: int) -> tuple[JsonPiece, int]:
        begun, end = self.inside, at
        literal = _LITERALS.get(begun[:1] or text[at])
        if literal is None:
            while end < len(text) and text[end] in _NUMBER:
                end += 1
            if end > at:
                self.inside = begun + text[at:end]
                return "word", end
            if text[at] not in " \t\n\r,]}":
                raise NotJson
        else:
            end = min(at + len(literal) - len(begun), len(text))
            if not literal.startswith(text[at:end], len(begun)):
                raise NotJson
            if len(begun) + end - at < len(literal):
                self.inside = begun + text[at:end]
                return "word", end
        self.inside, self.expects = "", self._after_value()
        return "word" if literal else "word end", end

    def _after_value(self) -> JsonExpects:
        return "comma or end" if self.containers else "nothing"
