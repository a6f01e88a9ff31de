"""A grammar engine without limits of its own, called in time: a call that takes too long is an error.

Owns: the threads that call, and the limit. Knows nothing of any engine. Native code cannot be interrupted. So its calls
run on a thread that waits for them; when one is late, its thread is left behind, and the matcher is never used again.

1. xgrammar, whose calls release the GIL, is watched: with some grammars its mask never returns.
2. llguidance is not. It takes tokens with the GIL, so no thread could watch that. It computes masks without the GIL,
   but under a lock that all matchers of a stem share: the next of them would hang with the GIL. Its own limits
   (`MAX_ITEMS_IN_ROW`, `STEP_MAX_ITEMS`) end each call: 0.6 s was the longest that was met.
3. outlines looks its masks up in a finished index, in one step.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from .....lang.errors import ConstraintError
from ..protocol import CompiledGrammar, Mask, Matcher

log = logging.getLogger("sgl")

T = TypeVar("T")

CALL_SECONDS = 1.0
"""The most that one call of an engine may take. A mask takes milliseconds, and all programs wait for it."""

EXIT_SECONDS = 2.0
"""How long the process waits at its end for calls that were left behind. One that returned while the interpreter is
being taken down would abort the process ("terminate called")."""


class LateCall(ConstraintError):
    """A call of an engine that did not return in time."""


class CallThread:
    """A daemon thread that makes one call at a time for whoever holds it."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._left = False
        self._thread = threading.Thread(target=self._work, name="sgl-grammar-call", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._left:
            task = self._tasks.get()
            try:
                self._results.put((task(), None))
            except BaseException as error:
                self._results.put((None, error))
            del task

    def call(self, task: Callable[[], T], seconds: float) -> T:
        """Make a call. Raises what it raises, or `TimeoutError`: then this thread is of no more use."""
        self._tasks.put(task)
        try:
            result, error = self._results.get(timeout=seconds)
        except BaseException as late:  # an interruption too
            self._left = True
            _left_behind.append(self._thread)
            if isinstance(late, Empty):
                raise TimeoutError from None
            raise
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


_idle: list[CallThread] = []
"""Threads that nobody holds. A list's `append` and `pop` are atomic."""
_left_behind: list[threading.Thread] = []


@atexit.register
def _wait_for_those_left_behind() -> None:
    end = time.monotonic() + EXIT_SECONDS
    for thread in _left_behind:
        thread.join(max(0.0, end - time.monotonic()))


def in_time(task: Callable[[], T], name: str, calls: float = 1.0) -> T:
    """Call `task` on a thread. Raises `LateCall`, with the constraint's `name`, if it takes longer than `calls` calls
    may."""
    seconds = CALL_SECONDS * calls
    try:
        thread = _idle.pop()
    except IndexError:
        thread = CallThread()
    try:
        result = thread.call(task, seconds)
    except TimeoutError:
        log.warning("the grammar engine does not return from a call for %s; its thread is left behind", name)
        raise LateCall(
            f"the grammar engine took more than {seconds:g} s for one call with {name}, and was left behind; "
            "write the constraint in another way (no repeats of what may be empty, no rules that may spell one text in "
            "many ways)"
        ) from None
    except BaseException:
        if not thread._left:
            _idle.append(thread)
        raise
    _idle.append(thread)
    return result


class WatchedGrammar:
    """A `CompiledGrammar` whose calls are made in time. `name` is the constraint's, for errors."""

    def __init__(self, compiled: CompiledGrammar, name: str) -> None:
        self.inner, self.engine, self.name = compiled, compiled.engine, name

    def matcher(self) -> WatchedMatcher:
        return WatchedMatcher(self.name, in_time(self.inner.matcher, self.name))


class WatchedMatcher:
    """A `Matcher`. `late`: the error of a call that did not return. The engine may still be at work on that matcher."""

    __slots__ = ("_inner", "_known", "late", "name")

    def __init__(self, name: str, inner: Matcher) -> None:
        self.name, self._inner = name, inner
        self.late: ConstraintError | None = None
        self._known: tuple[list[int], bool, bool] | None = None  # what is asked after each token

    def within(self, task: Callable[[Matcher], T], calls: float = 1.0) -> T:
        """Call `task`, which may take as long as so many calls, with the engine's matcher. It must not keep that."""
        if self.late is not None:
            raise self.late
        inner = self._inner
        try:
            return in_time(lambda: task(inner), self.name, calls)
        except ConstraintError as error:
            if isinstance(error, LateCall):
                self.late = error
            raise

    def fork(self) -> WatchedMatcher:
        made = WatchedMatcher(self.name, self.within(lambda inner: inner.fork()))
        made._known = self._known
        return made

    def accept(self, token: int) -> bool:
        def take(inner: Matcher) -> tuple[list[int], bool, bool] | None:
            return _ends(inner) if inner.accept(token) else None

        found = self.within(take)
        self._known = found or self._known
        return found is not None

    def rollback(self, count: int) -> None:
        self._known = None
        self.within(lambda inner: inner.rollback(count))

    def fill(self, row: Mask) -> None:
        found = row.copy()  # a late call may still write

        def fill(inner: Matcher) -> None:
            inner.fill(found)

        self.within(fill)
        row[:] = found

    def allows(self, token: int) -> bool:
        return self.within(lambda inner: inner.allows(token))

    def forced(self) -> list[int]:
        return list(self._state()[0])

    def can_end(self) -> bool:
        return self._state()[1]

    def is_done(self) -> bool:
        return self._state()[2]

    def _state(self) -> tuple[list[int], bool, bool]:
        if self._known is None:
            self._known = self.within(_ends)
        return self._known


def _ends(inner: Matcher) -> tuple[list[int], bool, bool]:
    """What follows by force, whether the text is complete, and whether nothing may follow: one call for the three."""
    can_end = inner.can_end()
    return inner.forced(), can_end, can_end and inner.is_done()
