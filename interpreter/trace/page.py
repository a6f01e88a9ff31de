"""A recorded trace as one HTML page that needs nothing else: no network, no fonts, no library.

Owns: reading a trace file, checking that it is one, and putting it into the template `page.html` as data. What the page
shows of it is the template's. Knows nothing of recording.

Invariants: the trace enters the page once, as JSON in which `<`, `>`, `&` and every character beyond ASCII are escaped,
so that no text of a user can end the element that holds it; numbers that JavaScript would change are texts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...lang.errors import OptionError

VERSION = 1  # of the trace format that `load` and `page` know, as its "sgl_trace" says
_MARK = "TRACE_JSON"
_EXACT = 2**53  # beyond it JavaScript's numbers skip integers
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})  # in JSON these stand only within texts
_LISTS = {"trace": ("programs", "steps"), "program": ("branches",), "branch": ("calls",)}


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The trace in a file. `OptionError` if it cannot be read, is no trace, or is of a version unknown here."""
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
    """The whole HTML of a trace. `OptionError` for data that is no trace."""
    _check(trace, "the data")
    head, tail = files(__package__).joinpath("page.html").read_text(encoding="utf-8").split(_MARK + "</script>")
    return f"{head}{_embedded(trace)}</script>{tail}"


def write_page(trace: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `page(trace)` to `path`. `OptionError` if the file cannot be written."""
    text = page(trace)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write the page {str(path)!r}: {error.strerror or error}") from None


def _check(data: object, what: str) -> None:
    """Is this a trace, so far that the page can draw it? Deeper mistakes would be the recorder's."""
    if not isinstance(data, Mapping) or "sgl_trace" not in data:
        raise OptionError(f'{what} is not a trace: it has no "sgl_trace"; a trace is the file that sgl.trace() writes')
    version = data["sgl_trace"]
    if version != VERSION or isinstance(version, bool):
        raise OptionError(
            f"{what} is a trace of version {version!r:.40}, and this sgl reads version {VERSION}: "
            "use the sgl that recorded it, or record it again"
        )
    _check_lists(data, "trace", what)
    for program in data["programs"]:
        _check_lists(program, "program", what)
        for branch in program["branches"]:
            _check_lists(branch, "branch", what)


def _check_lists(record: object, kind: str, what: str) -> None:
    for name in _LISTS[kind]:
        if not isinstance(record, Mapping) or not isinstance(record.get(name), (list, tuple)):
            raise OptionError(f"{what} is not a whole trace: a {kind} in it has no list {name!r}; record it again")


def _embedded(trace: Mapping[str, Any]) -> str:
    """The trace as JSON that is safe inside a script element."""
    plain = {**trace, "programs": [_faithful(program) for program in trace["programs"]]}
    try:
        text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    except ValueError:  # an infinite log-probability, say: JSON has no word for it
        text = json.dumps(_exact(plain), allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _faithful(program: Mapping[str, Any]) -> dict[str, Any]:
    """A program whose own data (arguments, value, ...) can be shown as it is. Its calls' numbers are small."""
    shown = dict(program)
    for name in ("args", "options", "seed", "value"):
        try:
            shown[name] = _exact(program.get(name))
        except RecursionError:
            shown[name] = {"repr": "<nested too deeply to be shown>"}
    return shown


def _exact(data: Any) -> Any:
    """`data` with the numbers that JavaScript cannot hold as texts of the same spelling."""
    if isinstance(data, Mapping):
        return {str(key): _exact(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_exact(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, int) and abs(data) > _EXACT:
        return {"repr": str(data) if data.bit_length() < 10_000 else hex(data)}  # Python refuses to spell longer ones
    return data
