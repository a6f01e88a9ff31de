"""A recorded trace as one HTML page that needs nothing else: no network, no fonts, no library.

Reads a trace file, checks that it is one, and puts it as data into the template `page.html`, which draws it. Knows
nothing of recording.

Invariants
1. The trace enters the page once, as JSON in which `<`, `>`, `&` and every character beyond ASCII are escaped. So no
   text of a user can end the element that holds it.
2. Numbers that JavaScript cannot hold are texts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...lang.errors import OptionError

VERSION = 1
"""The version of the trace format, as its "sgl_trace" says."""
_MARK = "TRACE_JSON"
_LARGEST_EXACT_INT = 2**53  # beyond it JavaScript's numbers skip integers
_DECIMAL_BITS = 10_000  # Python refuses to spell much longer integers in decimal
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})  # in JSON these stand only within texts
_LISTS = {"trace": ("programs", "steps"), "program": ("branches",), "branch": ("calls",)}
_INNER = {"trace": ("programs", "program"), "program": ("branches", "branch"), "branch": ("calls", "call")}


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the trace in a file. Raises `OptionError` if it cannot be read, is no trace, or has another version."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"cannot read the trace {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(
            f"{str(path)!r} is not a trace: it is not JSON ({error}); a trace is the file that sgl.trace() writes"
        ) from None
    _check(data, repr(str(path)))
    return data  # type: ignore[no-any-return]


def page(trace: Mapping[str, Any]) -> str:
    """Give the HTML page of a trace. Raises `OptionError` for data that is no trace."""
    _check(trace, "the data")
    head, tail = files(__package__).joinpath("page.html").read_text(encoding="utf-8").split(_MARK + "</script>")
    return f"{head}{_embedded(trace)}</script>{tail}"


def write_page(trace: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `page(trace)` to `path`. Raises `OptionError` if the file cannot be written."""
    text = page(trace)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write the page {str(path)!r}: {error.strerror or error}") from None


def _check(data: object, what: str) -> None:
    """Refuse data that the page could not draw. Deeper mistakes would be the recorder's."""
    if not isinstance(data, Mapping) or "sgl_trace" not in data:
        raise OptionError(f'{what} is not a trace: it has no "sgl_trace"; a trace is the file that sgl.trace() writes')
    version = data["sgl_trace"]
    if version != VERSION or isinstance(version, bool):
        raise OptionError(
            f"{what} is a trace of version {version!r:.40}, and this sgl reads version {VERSION}: "
            "use the sgl that recorded it, or record it again"
        )

    def check_lists(kind: str, part: Any) -> None:
        for name in _LISTS.get(kind, ()):
            if not isinstance(part, Mapping) or not isinstance(part.get(name), (list, tuple)):
                raise OptionError(f"{what} is not a whole trace: a {kind} in it has no list {name!r}; record it again")

    check_parts("trace", data, check_lists)


def check_parts(kind: str, part: Any, check: Callable[[str, Any], None]) -> None:
    """Check a part of a trace, and then the parts in it: its programs, their branches, their calls."""
    check(kind, part)
    if kind in _INNER:
        name, inner = _INNER[kind]
        for each in part[name]:
            check_parts(inner, each, check)


def _embedded(trace: Mapping[str, Any]) -> str:
    """Give the trace as JSON that is safe inside a script element."""
    plain = {**trace, "programs": [_faithful(program) for program in trace["programs"]]}
    try:
        text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    except ValueError:  # an infinite log-probability, say: JSON has no word for it
        text = json.dumps(_exact(plain), allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _faithful(program: Mapping[str, Any]) -> dict[str, Any]:
    """Give a program with the numbers of the user's own data as JavaScript can hold them. Other numbers are small."""
    shown = dict(program)
    for name in ("args", "options", "seed", "value"):
        try:
            shown[name] = _exact(program.get(name))
        except RecursionError:
            shown[name] = {"repr": "<nested too deeply to be shown>"}
    if any("tools" in branch for branch in program["branches"]):
        shown["branches"] = [
            {**branch, "tools": _exact(branch["tools"])} if "tools" in branch else branch
            for branch in program["branches"]
        ]
    return shown


def _exact(data: Any) -> Any:
    """Replace the numbers that JavaScript cannot hold with texts of the same spelling."""
    if isinstance(data, Mapping):
        return {str(key): _exact(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_exact(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, int) and abs(data) > _LARGEST_EXACT_INT:
        return {"repr": str(data) if data.bit_length() < _DECIMAL_BITS else hex(data)}
    return data
