"""The line of the user's program where an op was written: the nearest frame that is not sgl's own.

Knows nothing of states or ops. It costs about a microsecond, so every gen carries its line from the moment it was
enqueued: when it fails, that frame is gone.
"""

from __future__ import annotations

import os
import sys
from types import FrameType

from ..backend.contain import is_interruption, message_of

_PACKAGE = __name__.rpartition(".interpreter")[0]
_ROOMS = tuple(f"{_PACKAGE}.{room}" for room in ("interpreter", "lang", "backend"))
_PLUMBING = ("contextlib", "functools")  # frames between the user's `with s.user():` and us


def program_line() -> str:
    """`"prog.py:12"`: the file name and line of the innermost caller outside sgl, or `"?"`."""
    frame = sys._getframe(1)
    while frame is not None:
        if not _is_ours(frame):
            return _spelled(frame, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


def error_line(error: BaseException) -> str:
    """The innermost line outside sgl in the traceback of `error`."""
    found, at = "?", error.__traceback__
    while at is not None:
        if not _is_ours(at.tb_frame):
            found = _spelled(at.tb_frame, at.tb_lineno)
        at = at.tb_next
    return found


def _is_ours(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return module.startswith(_ROOMS) or module in _PLUMBING


def _spelled(frame: FrameType, line: int) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{line}"


def note(error: BaseException, text: str) -> None:
    """Add a note to an error (Python 3.11 and later), once, unless its message says the same already."""
    try:
        notes = getattr(error, "__notes__", ())
        if hasattr(error, "add_note") and text not in notes and text not in message_of(error):
            error.add_note(text)
    except BaseException as inner:  # a user's exception may take no notes
        if is_interruption(inner):
            raise
