"""`Finished`: what is kept of a finished row as plain data, and its spelling as JSON. Knows nothing of files.

A value comes back as it was if it is made of None, bools, numbers, strings, bytes, lists, tuples, sets and dicts. A
value that JSON cannot spell is an object with one key that begins with "!": `{"!tuple": [1, 2]}`, `{"!float": "nan"}`.
Any other value becomes `NotKept`, which has its type, and a read of it raises.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from ...backend.base import Usage
from ...backend.contain import is_interruption, said
from ...lang.tools.result import ToolResult
from ...lang.tools.spec import ToolCall
from ..arguments import Arguments
from ..line import Line
from ..run import Instance
from ..transcript import joined
from ..usage import Call, UsageTree


@dataclass(frozen=True)
class NotKept:
    """Stands for a value that is not in the journal. `what` is its type or, if `failed`, the error instead of it."""

    what: str
    failed: bool = False


@dataclass(frozen=True)
class Kept:
    """A variable: `s[name]`, `s.value(name)` and `s.get_meta_info(name)`. Each may be `NotKept`."""

    value: Any
    typed: Any
    meta: Any = None


@dataclass(frozen=True)
class Finished:
    """One row that ran to its end. A failed one has an `error`, and no variables and no value.

    `seconds`: from the start of the row to its end.
    """

    index: int
    text: str
    messages: list[dict[str, str]] = field(default_factory=list)
    variables: dict[str, Kept] = field(default_factory=dict)
    ret_value: Any = None
    usage: UsageTree = field(default_factory=lambda: UsageTree("", Usage()))
    error: str | None = None
    seconds: float = 0.0

    @staticmethod
    def of(index: int, instance: Instance, error: BaseException | None, seconds: float) -> Finished:
        """Take a row from a program whose body and ops have ended.

        A joined branch that failed makes the row a failed one, as the failed place in a list cannot be kept.
        """
        line = instance.line
        error = error or _first_hole(line)
        usage = line.ledger.tree()
        if error is not None:
            return Finished(index, joined(line.segments), usage=usage, error=said(error), seconds=seconds)
        return Finished(
            index,
            joined(line.segments),
            [{"role": m.role, "content": joined(m.parts)} for m in line.roles.messages],
            {name: _kept(line, name) for name in line.names()},
            instance.body.outcome.value(),
            usage,
            seconds=seconds,
        )

    def to_json(self, call: Arguments) -> dict[str, Any]:
        """Spell the row as JSON data, with the program's arguments for human readers."""
        return {
            "arguments": [_spelled(value, brief=True) for value in call.args],
            "named_arguments": {_printable(name): _spelled(value, brief=True) for name, value in call.kwargs.items()},
            "text": _spelled(self.text),
            "messages": _spelled(self.messages),
            "variables": [[_spelled(name), *_kept_to_json(kept)] for name, kept in self.variables.items()],
            "ret_value": _spelled(self.ret_value),
            "usage": _usage_of_any_depth(self.usage),
            "error": _spelled(self.error),
            "seconds": round(self.seconds, 6),
        }

    @staticmethod
    def from_json(index: int, data: dict[str, Any]) -> Finished:
        """Read the row back. Raises `KeyError`, `TypeError` or `ValueError` for data that `to_json` never wrote."""
        text, messages = read_back(data["text"]), read_back(data["messages"])
        if not (isinstance(text, str) and isinstance(messages, list) and all(isinstance(m, dict) for m in messages)):
            raise TypeError("its text is no text, or its messages are no list")
        return Finished(
            index,
            text,
            messages,
            {read_back(name): _kept_from_json(kept) for name, *kept in data["variables"]},
            read_back(data["ret_value"]),
            _tree_from_json(data["usage"]),
            read_back(data["error"]),
            data["seconds"],
        )


def _first_hole(line: Line) -> BaseException | None:
    """The error of the first failed branch that was joined here."""
    joined_here = (child for child in line.with_joined() if child is not line)
    return next((error for child in joined_here if (error := child.barrier().error) is not None), None)


def _kept(line: Line, name: str) -> Kept:
    variable = line.find(name)
    assert variable is not None
    parts = []
    for read in (variable.value, variable.typed, variable.meta):
        try:
            parts.append(read())
        except Exception as error:  # there is no such value: a text that was cut has none of its type
            parts.append(NotKept(said(error), failed=True))
    return Kept(*parts)


def _kept_to_json(kept: Kept) -> list[Any]:
    """[value, meta], then the typed value if that differs from the value."""
    value, typed = _spelled(kept.value), _spelled(kept.typed)
    same = json.dumps(value) == json.dumps(typed)  # 1, True and 1.0 are equal and not the same
    return [value, _spelled(kept.meta), *([] if same else [typed])]


def _kept_from_json(parts: list[Any]) -> Kept:
    value, meta, *typed = parts
    read = read_back(value)
    return Kept(read, read_back(typed[0]) if typed else read, read_back(meta))


# Values

_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_DECIMAL_BITS = 3000
"""Bits of an int that is written in decimal: Python refuses to read more than about 14,000."""


_RECORDS: dict[str, Any] = {"ToolCall": ToolCall, "ToolResult": ToolResult}


def _fields(record: Any) -> list[str]:
    """The fields that are kept: not a tool's own value, nor what it raised."""
    return [each.name for each in fields(record) if each.compare]


def _spelled(value: Any, brief: bool = False) -> Any:
    """A value as JSON data. `brief`, for human readers: a value without a spelling is shown by its repr."""
    if isinstance(value, NotKept):
        return {"!failed" if value.failed else "!lost": _printable(value.what)}
    try:
        return _to_json(value)
    except _NoSpelling as found:
        what = found.what
    except RecursionError:
        what = "a value that is nested too deeply, or holds itself"
    return {"!lost": _brief(value) if brief else what}


class _NoSpelling(Exception):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.what = f"a {type(value).__qualname__}"


def _to_json(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return {"!str": value.encode("utf-8", "surrogatepass").hex()} if _SURROGATE.search(value) else value
    if kind is int:
        return value if value.bit_length() <= _MOST_DECIMAL_BITS else {"!int": f"{value:x}"}
    if kind is float:
        return value if value - value == 0 else {"!float": repr(value)}
    if kind is bytes:
        return {"!bytes": value.hex()}
    if kind is list:
        return [_to_json(item) for item in value]
    if kind in (tuple, set, frozenset):
        return {f"!{kind.__name__}": [_to_json(item) for item in value]}
    if kind is dict:
        return _dict_to_json(value)
    if kind in _RECORDS.values():
        return {f"!{kind.__name__}": [_to_json(getattr(value, name)) for name in _fields(kind)]}
    raise _NoSpelling(value)


def _dict_to_json(value: dict[Any, Any]) -> dict[str, Any]:
    if all(type(k) is str and not k.startswith("!") and not _SURROGATE.search(k) for k in value):
        return {key: _to_json(item) for key, item in value.items()}
    return {"!dict": [[_to_json(key), _to_json(item)] for key, item in value.items()]}


def read_back(data: Any) -> Any:
    """Read a value that `_spelled` wrote."""
    if isinstance(data, list):
        return [read_back(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((tag, content),) = data.items()
        if tag.startswith("!"):
            return _tagged(tag, content)
    return {key: read_back(item) for key, item in data.items()}


def _tagged(tag: str, content: Any) -> Any:
    if tag in ("!lost", "!failed"):
        return NotKept(content, tag == "!failed")
    if tag == "!str":
        return bytes.fromhex(content).decode("utf-8", "surrogatepass")
    if tag == "!int":
        return int(content, 16)
    if tag == "!float":
        return float(content)
    if tag == "!bytes":
        return bytes.fromhex(content)
    if tag == "!dict":
        return {read_back(key): read_back(item) for key, item in content}
    if tag.removeprefix("!") in _RECORDS:
        record = _RECORDS[tag.removeprefix("!")]
        return record(**dict(zip(_fields(record), map(read_back, content))))
    made: Iterable[Any] = map(read_back, content)
    return {"!tuple": tuple, "!set": set, "!frozenset": frozenset}[tag](made)


def _brief(value: object) -> str:
    try:
        text = repr(value)
    except BaseException as error:
        if is_interruption(error):
            raise
        text = f"a {type(value).__qualname__}"
    return _printable(text if len(text) <= 200 else text[:197] + "...")


def _printable(text: str) -> str:
    return _SURROGATE.sub("?", text)


# Usage


def _usage_of_any_depth(tree: UsageTree) -> dict[str, Any]:
    try:
        return _tree_to_json(tree)
    except RecursionError:
        return _tree_to_json(UsageTree(tree.label, tree.own, tree.calls))


def _tree_to_json(tree: UsageTree) -> dict[str, Any]:
    return {
        "label": _spelled(tree.label),
        "own": _usage_to_json(tree.own),
        "calls": [[_spelled(call.where), _usage_to_json(call.usage)] for call in tree.calls],
        "branches": [_tree_to_json(branch) for branch in tree.branches],
    }


def _tree_from_json(data: dict[str, Any]) -> UsageTree:
    return UsageTree(
        read_back(data["label"]),
        _usage_from_json(data["own"]),
        [Call(read_back(where), _usage_from_json(usage)) for where, usage in data["calls"]],
        [_tree_from_json(branch) for branch in data["branches"]],
    )


def _usage_to_json(usage: Usage) -> dict[str, Any]:
    found = dataclasses.asdict(usage)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items() if value}


def _usage_from_json(data: dict[str, Any]) -> Usage:
    known = {part.name for part in dataclasses.fields(Usage)}
    return Usage(**{name: value for name, value in data.items() if name in known})
