"""What is noted of a program while it runs, for `sgl.trace()`, `replay` and telemetry.

Owns: the tree of programs, branches and calls as it grows, and which recorder a program belongs to. Knows nothing of
files or pages (`trace.py`, `page.py`). A record holds no state of a program: a dropped branch is freed although its
record is kept.

A recorder is found through a context variable, so it hears of the programs that are started within its block, in the
threads and tasks that come from there, and of no others. Where there is none, a program carries None, and every hook
is one comparison.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..backend.base import Backend, Handle, StepRecord
from ..lang.expr import Gen, Select
from .arguments import Arguments, Options

current: contextvars.ContextVar[tuple[Recorder, ...]] = contextvars.ContextVar("sgl recorders", default=())
"""The recorders that hear of programs started here, outermost first."""


@dataclass(slots=True)
class CallRecord:
    """One gen or select. Everything that is known when it is over is in the handle's results."""

    kind: str
    name: str | None
    where: str
    expr: Gen | Select
    handle: Handle[Any]
    enqueued: float


class BranchRecord:
    """One line of a program. `events`: calls and constant texts in order; `forks`: its children with how many calls
    were said before them."""

    __slots__ = ("calls", "forks", "handle", "joined", "label", "tail")

    def __init__(self, label: str) -> None:
        self.label = label
        self.calls: list[CallRecord] = []
        self.forks: list[tuple[int, BranchRecord]] = []
        self.tail: list[str] = []  # constant text since the last call
        self.joined: str | None = None

    def constant(self, text: str) -> None:
        self.tail.append(text)

    def call(self, kind: str, where: str, expr: Gen | Select, handle: Handle[Any]) -> None:
        self.tail = []
        self.calls.append(CallRecord(kind, expr.name, where, expr, handle, time.monotonic()))

    def fork(self, label: str) -> BranchRecord:
        child = BranchRecord(label)
        self.forks.append((len(self.calls), child))
        return child


@dataclass(eq=False)
class ProgramRecord:
    """One run of a program. Times are `time.monotonic()` seconds."""

    id: int
    program: Any  # the SglFunction's function, to run it again
    name: str
    call: Arguments
    options: Options
    backend: Backend
    seed: int | None
    caller: ProgramRecord | None
    row: int | None
    root: BranchRecord
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    value: Any = None
    error: BaseException | None = None

    def end(self, value: Any, error: BaseException | None) -> None:
        self.ended, self.value, self.error = time.monotonic(), value, error


class Recorder:
    """A growing record of programs and of the steps of their backends. Thread-safe."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.wall = time.time()
        self.programs: list[ProgramRecord] = []
        self.steps: list[StepRecord] = []
        self._numbers = itertools.count(1)
        self._watched: dict[int, Any] = {}  # id of a backend -> what ends the watching
        self._lock = threading.Lock()

    def add(self, record: ProgramRecord) -> None:
        with self._lock:
            self.programs.append(record)
            watch = getattr(record.backend, "watch", None)
            if watch is not None and id(record.backend) not in self._watched:
                self._watched[id(record.backend)] = watch(self.steps.append)

    def stop(self) -> None:
        """Hear of no more steps."""
        with self._lock:
            for end in self._watched.values():
                end()
            self._watched.clear()


_numbers = itertools.count(1)


def begin(
    program: Any,
    name: str,
    call: Arguments,
    options: Options,
    backend: Backend,
    seed: int | None,
    caller: ProgramRecord | None,
    row: int | None,
) -> ProgramRecord | None:
    """The record of a program that starts here; None if nobody listens."""
    recorders = current.get()
    if not recorders:
        return None
    record = ProgramRecord(next(_numbers), program, name, call, options, backend, seed, caller, row, BranchRecord(name))
    for recorder in recorders:
        recorder.add(record)
    return record
