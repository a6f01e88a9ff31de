"""Reading the arguments of a call while a model writes them, in each notation: JSON text comes out, piece by piece.

Knows nothing of calls. A reader takes the text that was not used yet, and says how much of it it used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..json_text import JsonReader
from .arguments import argument_kinds
from .form import CallForm, JsonArguments, LiteralArguments, TaggedArguments
from .values import as_json, overlap

if TYPE_CHECKING:
    from ..tools.spec import ToolSpec


_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


class ArgumentReader(Protocol):
    """A place in the arguments of one call. `complete`: whether they are read; `value`: what they are then."""

    complete: bool

    @property
    def value(self) -> dict[str, Any]:
        """The arguments."""

    def read(self, text: str) -> tuple[str, int]:
        """Read text; return JSON text, and how many characters were used. Raises `ValueError` for another notation."""


def argument_reader(form: CallForm, spec: ToolSpec) -> ArgumentReader:
    """Make the reader of one call of a tool."""
    if isinstance(form.arguments, JsonArguments):
        return JsonArgumentReader()
    if isinstance(form.arguments, TaggedArguments):
        return TaggedArgumentReader(form, form.arguments, spec)
    return LiteralArgumentReader(form, form.arguments)


class JsonArgumentReader:
    """JSON arguments: the text itself."""

    def __init__(self) -> None:
        self._reader = JsonReader()
        self._json = ""
        self.complete = False

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._json)
        return value

    def read(self, text: str) -> tuple[str, int]:
        at = 0
        while at < len(text) and not self.complete:
            _, at = self._reader.read(text, at)
            self.complete = self._reader.expects == "nothing"
        self._json += text[:at]
        return text[:at], at


class TaggedArgumentReader:
    """Arguments between tags. A string is handed on as it comes; any other value when it is complete."""

    def __init__(self, form: CallForm, notation: TaggedArguments, spec: ToolSpec) -> None:
        self._end, self._notation = form.end, notation
        self._kinds = argument_kinds(form, spec)
        self._openings = {"".join((notation.key[0], name, notation.key[1])): (name, False) for name in self._kinds}
        if (key := notation.text_key) is not None:
            self._openings |= {"".join((key[0], name, key[1])): (name, True) for name in self._kinds}
        self._name: str | None = None
        self._streams = False
        self._text = ""
        self._nested: JsonReader | None = None
        self.value: dict[str, Any] = {}
        self.complete = False

    def read(self, text: str) -> tuple[str, int]:
        out, at = "", 0
        while at < len(text) and not self.complete:
            made, used = self._tag(text[at:]) if self._name is None else self._inside(text[at:])
            out, at = out + made, at + used
            if not used:
                break
        return out, at

    def _tag(self, text: str) -> tuple[str, int]:
        """The tag of the next argument, or the end."""
        wanted = [*self._openings, self._end]
        if any(each.startswith(text) and each != text for each in wanted):
            return "", 0
        found = max((each for each in wanted if text.startswith(each)), key=len, default=None)
        if found is None:
            raise ValueError("an argument or the end of the call should come")
        if found == self._end:
            self.complete = True
            return ("}" if self.value else "{}"), 0
        self._name, is_text = self._openings[found]
        kind = self._kinds[self._name]
        self._streams = is_text or (kind.is_text and not kind.others)
        self._text, self._nested = "", None
        begin = ("{" if not self.value else ", ") + as_json(self._name) + ": "
        return begin + ('"' if self._streams else ""), len(found)

    def _inside(self, text: str) -> tuple[str, int]:
        """More of a value. Strings within JSON may hold what ends an argument elsewhere."""
        assert self._name is not None
        if not self._text and text[0] in "{[" and not self._streams and not self._kinds[self._name].is_text:
            self._nested = JsonReader()
        start = 0
        if self._nested is not None:
            while start < len(text) and self._nested.expects != "nothing":
                _, start = self._nested.read(text, start)
            if self._nested.expects != "nothing":
                self._text += text
                return "", len(text)
        end = self._notation.end
        at = text.find(end, start)
        ready = at if at >= 0 else max(start, len(text) - overlap(text, end))
        self._text += text[:ready]
        out = as_json(text[:ready])[1:-1] if self._streams else ""
        if at < 0:
            return out, ready
        value = self._text if self._streams else self._kinds[self._name].read(self._text, self._notation.words)
        self.value[self._name] = value
        self._name = None
        return out + ('"' if self._streams else as_json(value)), at + len(end)


class LiteralArgumentReader:
    """Arguments in a notation of the family's own, turned into JSON piece by piece."""

    def __init__(self, form: CallForm, notation: LiteralArguments) -> None:
        self._notation = notation
        self._open = [form.end[0]]  # what closes each container that is open
        self._state: Callable[[str], tuple[str, int]] = self._first
        self._json = ""
        self._nested: JsonReader | None = None
        self.complete = False

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._json)
        return value

    def read(self, text: str) -> tuple[str, int]:
        out, at = "", 0
        while at < len(text) and not self.complete:
            made, used = self._state(text[at:])
            out, at = out + made, at + used
            if not used:
                break
        self._json += out
        return out, at

    def _first(self, text: str) -> tuple[str, int]:
        """The beginning of the arguments."""
        if text[0] == self._open[-1]:
            self.complete = True
            return "{}", 0
        out, used = self._key(text)
        return "{" * bool(used) + out, used

    def _key(self, text: str) -> tuple[str, int]:
        top = len(self._open) == 1
        colon = self._notation.colon if top else self._notation.inner_colon
        quote = "" if top else self._notation.key_quote
        at = text.find(quote + colon, len(quote))
        if at < 0:
            return "", 0
        self._state = self._value
        return as_json(text[len(quote) : at]) + ": ", at + len(quote + colon)

    def _value(self, text: str) -> tuple[str, int]:
        quote = self._notation.quote
        if quote.startswith(text) and quote != text:
            return "", 0
        if text.startswith(quote):
            self._state = self._string
            return '"', len(quote)
        if text[0] == "{" and len(self._open) == 1 and self._notation.json_objects:
            self._nested, self._state = JsonReader(), self._embedded
            return self._embedded(text)
        if text[0] in "{[":
            self._open.append("}" if text[0] == "{" else "]")
            self._state = self._begun
            return text[0], 1
        word = re.match(r"[^\s,\]})]*", text)
        assert word is not None
        if word.end() == len(text):
            return "", 0
        if not word[0]:
            raise ValueError("a value should come")
        self._state = self._after
        words = self._notation.words
        return (("true", "false", "null")[words.index(word[0])] if word[0] in words else word[0]), word.end()

    def _begun(self, text: str) -> tuple[str, int]:
        """The beginning of a container within an argument."""
        if text[0] == self._open[-1]:
            return self._after(text)
        return self._key(text) if self._open[-1] == "}" else self._value(text)

    def _embedded(self, text: str) -> tuple[str, int]:
        assert self._nested is not None
        at = 0
        while at < len(text) and self._nested.expects != "nothing":
            _, at = self._nested.read(text, at)
        if self._nested.expects == "nothing":
            self._state = self._after
        return text[:at], at

    def _string(self, text: str) -> tuple[str, int]:
        quote = self._notation.quote
        if not self._notation.escapes:
            at = text.find(quote)
            if at > 0 or at < 0:
                ready = at if at > 0 else len(text) - overlap(text, quote)
                return as_json(text[:ready])[1:-1], ready
        elif text[0] == "\\":
            if len(text) < 2:
                return "", 0
            return as_json(_ESCAPED.get(text[1], text[1]))[1:-1], 2
        elif text[0] != quote:
            run = re.match(f"[^{quote}\\\\]+", text)
            assert run is not None
            return as_json(run[0])[1:-1], run.end()
        self._state = self._after
        return '"', len(quote)

    def _after(self, text: str) -> tuple[str, int]:
        """A value is complete: another one may come, or the end of what it stands in."""
        if text[0] == self._open[-1]:
            if len(self._open) == 1:
                self.complete = True
                return "}", 0
            self._state = self._after
            return self._open.pop(), 1
        comma = self._notation.comma if len(self._open) == 1 else self._notation.inner_comma
        if not text.startswith(comma):
            if not comma.startswith(text):
                raise ValueError(f"{comma!r} or {self._open[-1]!r} should come")
            return "", 0
        self._state = self._value if self._open[-1] == "]" else self._key
        return ", ", len(comma)
