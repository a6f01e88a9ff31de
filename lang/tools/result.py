"""What became of a call, and any value as a text that a model reads. Knows nothing of how a tool is run.

A text is JSON where a value can be JSON, and its `repr`, with a note, where it cannot. So it never raises, and a model
reads what it would have written itself. What a value's own code raises is noted, too.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from .spec import ToolCall

ToolFault = Literal["unknown", "arguments", "denied", "raised", "timeout", "cancelled", "limit", "paused", "unrecorded"]
"""Why a call has no value: no such tool; arguments of another type; not approved; the tool raised (a lost MCP server
too); it took too long; the program was cancelled; there were enough calls; it waits for an approval; it is run again
(`sgl.replay`) and the trace has no such call."""
Cut = Callable[[str, int], str]
"""`cut(text, n)`: the longest beginning of `text` that has at most n tokens."""

CHARACTERS_OF_A_TOKEN = 4
"""Where no tokenizer counts: about what English has."""
MOST_NOTE_CHARACTERS = 500
_MOST_DEPTH = 60
_MOST_REPR_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What became of one call.

    Attributes:
        call: The call, with the arguments that it was run with.
        text: What the model is told: the value as text, or a short message that begins with "Error".
        error: Why there is no value: "unknown", "arguments", "denied", "raised", "timeout",
            "cancelled", "limit", "paused" or "unrecorded"; else None.
        seconds: How long it took, with all tries and without waiting for other tools.
        truncated: Whether `text` is only the beginning of the result.
        value: What the tool returned; None if it failed.
        exception: What the tool raised, if it did.
        tries: How often the tool was started.
    """

    call: ToolCall
    text: str
    error: ToolFault | None = None
    seconds: float = field(default=0.0, repr=False)  # two runs of a program print the same
    truncated: bool = False
    value: Any = field(default=None, compare=False, repr=False)
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    tries: int = 0


def result_text(value: object) -> str:
    """Write a value as a text for a model: a text as it is, a `ToolResult`'s own text, all else as JSON.

    Pydantic models, dataclasses, dates, enums, bytes, sets and mappings become JSON. NaN and infinities become texts.
    What has no JSON is written as its `repr`; so are circular and very deep values.
    """
    if isinstance(value, ToolResult):
        return value.text
    if isinstance(value, str):
        return str(value)
    return json.dumps(_plain(value, _MOST_DEPTH, ()), ensure_ascii=False)


def cut_text(text: str, most_tokens: int | None, cut: Cut | None = None) -> tuple[str, bool]:
    """Cut a text to so many tokens, and say so at its end (about 20 tokens more). Also gives whether it was cut.

    Without `cut`, a token counts as four characters.
    """
    if most_tokens is None:
        return text, False
    kept = text[: most_tokens * CHARACTERS_OF_A_TOKEN] if cut is None else cut(text, most_tokens)
    if len(kept) >= len(text):
        return text, False
    return f"{kept}\n[truncated: {len(text) - len(kept):,} of {len(text):,} characters are not shown]", True


def _plain(value: Any, depth: int, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if value.bit_length() < 10_000 else f"an integer of {value.bit_length():,} bits"
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if id(value) in above:
        return f"<{kind.__name__} that holds itself>"
    if not depth:
        return _spelled(value)
    within = (*above, id(value))
    if isinstance(value, dict):
        return {_key(key): _plain(item, depth - 1, within) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = value if isinstance(value, (list, tuple)) else _in_order(value)
        fields = getattr(value, "_fields", None)
        if isinstance(value, tuple) and isinstance(fields, tuple):
            return {name: _plain(item, depth - 1, within) for name, item in zip(fields, value)}
        return [_plain(item, depth - 1, within) for item in items]
    found = _opened(value)
    return _spelled(value) if found is None else _plain(found[0], depth - 1, within)


def _opened(value: Any) -> tuple[Any] | None:
    """A value that is no JSON by itself as one that is nearer to it, in a tuple; None if there is none."""
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return ({f.name: getattr(value, f.name) for f in dataclasses.fields(value)},)
        if isinstance(value, Mapping):
            return (dict(value),)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return (_of_bytes(bytes(value)),)
        if isinstance(value, Iterator):  # reading it may never end
            return None
        if hasattr(value, "model_dump"):
            return (value.model_dump(mode="python"),)
        if isinstance(value, BaseException):
            return (f"{type(value).__name__}: {value}",)
        if isinstance(value, (str, int, float, list, tuple)):  # of a class of its own
            return (value.value if isinstance(value, Enum) else _base_value(value),)
        from pydantic_core import to_jsonable_python

        return (to_jsonable_python(value, inf_nan_mode="strings"),)
    except BaseException as error:  # of the value's own code
        if not isinstance(error, Exception) and not isinstance(error, (SystemExit, GeneratorExit)):
            raise
        return None


def _base_value(value: Any) -> Any:
    kind = next(base for base in (str, int, float, list, tuple) if isinstance(value, base))
    return kind(value)


def _of_bytes(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    plain = _plain(key, 3, ())
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _in_order(values: Any) -> list[Any]:
    """The items of a set in an order that does not change from one process to the next, where they can be ordered."""
    try:
        return sorted(values)
    except Exception:
        return sorted(values, key=_spelled)


def _spelled(value: Any) -> str:
    """The `repr` of a value, with a note that it is one; bounded."""
    try:
        text = _REPR.repr(value)[:_MOST_REPR_CHARACTERS]
    except Exception as error:
        text = f"a {type(value).__name__} whose repr raised {type(error).__name__}"
    return f"{text} (not JSON: its Python repr)"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _MOST_REPR_CHARACTERS
