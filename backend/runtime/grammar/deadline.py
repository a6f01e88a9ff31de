"""A deadline for work that nothing interrupts: it is done on a thread of its own, which may be left behind.

Knows nothing of what the work is.

1. The caller waits no longer than the deadline. Python code of the work is interrupted then. Native code goes on until
   it returns, without the interpreter's lock, and its result is dropped.
2. Ctrl-C reaches the caller while it waits, and leaves the work behind in the same way.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TooLong(Exception):
    """The work did not end in time."""


class LeftBehind(BaseException):
    """Raised within work that nobody waits for any more. No `except Exception` of the work stops it."""


class Work(Generic[T]):
    """One piece of work."""

    def __init__(self, do: Callable[[], T]) -> None:
        self._do = do
        self._over = threading.Event()
        self._lock = threading.Lock()  # held while `LeftBehind` is sent, and to say that it would come too late
        self._ended = False
        self._value: list[T] = []
        self._error: BaseException | None = None

    def run(self, limit_s: float) -> T:
        """Do it. Raises `TooLong`, or what the work raises."""
        thread = threading.Thread(target=self._work, name="sgl-compile", daemon=True)
        thread.start()
        try:
            in_time = self._over.wait(limit_s)
        except BaseException:
            self._leave(thread)
            raise
        if not in_time:
            self._leave(thread)
            raise TooLong
        if self._error is not None:
            raise self._error
        return self._value[0]

    def _work(self) -> None:
        try:
            try:
                self._value.append(self._do())
            except BaseException as error:
                self._error = error
            with self._lock:
                self._ended = True
        except LeftBehind:
            pass  # it came between the end of the work and its note
        finally:
            self._over.set()

    def _leave(self, thread: threading.Thread) -> None:
        with self._lock:
            if not self._ended and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(LeftBehind))


def within(limit_s: float, do: Callable[[], T]) -> T:
    """Do it within `limit_s` seconds. Raises `TooLong`, or what the work raises."""
    return Work(do).run(limit_s)
