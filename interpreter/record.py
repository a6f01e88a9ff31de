"""What is noted of a program while it runs, for those who listen: a tree of programs, branches and calls.

Knows nothing of files, pages or spans. A recorder is found through a context variable. So it hears of the programs that
start within its block and in tasks and threads that have its context, as sgl's own have. It hears of no others.

1. A record holds no state of a program: a dropped branch is freed although its record is kept.
2. `BranchRecord.events` only grows, so a copy of it at any time is a consistent beginning of what was said.
3. A program without a listener has no record: each note costs one comparison.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..backend.base import Backend, Handle, StepRecord
from ..lang.expr import Gen, Select
from ..lang.tools.result import ToolResult
from ..lang.tools.spec import ToolCall
from .arguments import Arguments, Options
from .plain import plain

current: contextvars.ContextVar[tuple[Recorder, ...]] = contextvars.ContextVar("sgl recorders", default=())
"""The recorders that hear of programs started here, outermost first."""


class CallRecord:
    """One gen or select. Its results are in its handle. `enqueued` and `ended` are `time.monotonic()` seconds."""

    __slots__ = ("ended", "enqueued", "expr", "handle", "kind", "name", "where")

    def __init__(self, kind: str, where: str, expr: Gen | Select, handle: Handle[Any]) -> None:
        self.kind, self.name, self.where, self.expr, self.handle = kind, expr.name, where, expr, handle
        self.enqueued = time.monotonic()
        self.ended: float | None = None
        handle.listen(self._look)

    def _look(self) -> None:
        if self.handle.done and self.ended is None:
            self.ended = time.monotonic()


class ToolRecord:
    """One call of a tool. Its result is in its handle. `began` and `ended` are `time.monotonic()` seconds.

    `after`: how many calls of the model its branch had made.
    """

    __slots__ = ("after", "began", "call", "ended", "handle")

    def __init__(self, call: ToolCall, handle: Handle[ToolResult], after: int, began: float) -> None:
        self.call, self.handle, self.after, self.began = call, handle, after, began
        self.ended: float | None = None
        handle.listen(self._look)

    def _look(self) -> None:
        if self.handle.done and self.ended is None:
            self.ended = time.monotonic()


ToolScript = Callable[[str, ToolCall], ToolResult]
"""Gives the result of a tool that is not to be run, by the branch's id and the call."""
within_tool: contextvars.ContextVar[object] = contextvars.ContextVar("sgl within a tool", default=None)
"""The program one of whose tools runs here. What a tool does is its own: it is done again only if the tool is."""


class Listener(Protocol):
    """Hears of one program as it runs, in the thread that runs it. Must not raise."""

    def called(self, branch: BranchRecord, call: CallRecord) -> None:
        """A gen or select is enqueued; `branch.unread()` is the text that no call before it has read."""

    def ran(self, branch: BranchRecord, tool: ToolRecord) -> None:
        """A tool is started."""

    def ended(self, record: ProgramRecord) -> None:
        """The body has ended."""


class BranchRecord:
    """One line of a program. `events`, in order: constant texts, calls, and the branches that were forked here.

    `lead`: what the parent had said since its last call when this branch was forked. `id`: "0", of its child 2 "0.2".
    `tools`: the calls of tools, in order. `script`: where their results come from in place of the tools, in a replay.
    """

    __slots__ = ("events", "id", "joined", "label", "lead", "listener", "script", "tokens", "tools")

    def __init__(self, label: str, tokens: bool, listener: Listener | None = None, lead: tuple[str, ...] = ()) -> None:
        self.label = label
        self.tokens = tokens  # calls are to tell of each token: a trace listens
        self.listener = listener
        self.lead = lead
        self.events: list[Event] = []
        self.joined: str | None = None
        self.id = "0"
        self.tools: list[ToolRecord] = []
        self.script: ToolScript | None = None

    def constant(self, text: str) -> None:
        self.events.append(text)

    def call(self, kind: str, where: str, expr: Gen | Select, handle: Handle[Any]) -> None:
        call = CallRecord(kind, where, expr, handle)
        if self.listener is not None:
            self.listener.called(self, call)
        self.events.append(call)

    def tool(self, call: ToolCall, start: Callable[[], Handle[ToolResult]]) -> Handle[ToolResult]:
        """Note a call of a tool, which `start` starts; in a replay its result is there already."""
        began = time.monotonic()
        if self.script is None:
            handle = start()
        else:
            handle = Handle(f"tool {call.name}")
            handle.finish(self.script(self.id, call))
        after = sum(isinstance(event, CallRecord) for event in self.events)
        tool = ToolRecord(call, handle, after, began)
        if self.listener is not None:
            self.listener.ran(self, tool)
        self.tools.append(tool)
        return handle

    def fork(self, label: str) -> BranchRecord:
        child = BranchRecord(label, self.tokens, self.listener, self.unread())
        child.id = f"{self.id}.{sum(isinstance(event, BranchRecord) for event in self.events)}"
        child.script = self.script
        self.events.append(child)
        return child

    def unread(self) -> tuple[str, ...]:
        """The constant texts since the last call of this line, its parent's included: no call has read them."""
        texts: list[str] = []
        for event in reversed(self.events):
            if isinstance(event, CallRecord):
                return tuple(reversed(texts))
            if isinstance(event, str):
                texts.append(event)
        return (*self.lead, *reversed(texts))


Event = str | CallRecord | BranchRecord


@dataclass(eq=False)
class ProgramRecord:
    """One run of a program. Times are `time.monotonic()` seconds.

    `given`: its arguments at its start as JSON data (`plain.py`), by position and by name. `value`: what the body
    returned, as JSON data.
    """

    program: Callable[..., Any]  # the SglFunction's function, to run it again
    name: str
    call: Arguments
    options: Options
    backend: Backend
    seed: int | None
    caller: ProgramRecord | None
    row: int | None
    tokens: bool  # a trace listens
    root: BranchRecord = field(init=False)
    given: tuple[list[Any], dict[str, Any]] = field(init=False)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    value: Any = None
    error: BaseException | None = None
    listener: Listener | None = None
    in_tool: bool = field(default_factory=lambda: within_tool.get() is not None)  # a tool started it

    def __post_init__(self) -> None:
        self.root = BranchRecord(self.name, self.tokens)
        call = self.call if self.tokens else Arguments((), {})
        self.given = [plain(value) for value in call.args], {name: plain(value) for name, value in call.kwargs.items()}

    def end(self, value: Any, error: BaseException | None) -> None:
        self.value = plain(value) if self.tokens else None
        self.ended, self.error = time.monotonic(), error
        if self.listener is not None:
            self.listener.ended(self)


class Recorder:
    """A growing record of programs and of the steps of their backends. Thread-safe."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.wall = time.time()
        self.listening = True  # to programs that start
        self.programs: list[ProgramRecord] = []
        self.steps: dict[int, list[StepRecord]] = {}  # by the id of a backend (its records keep it alive)
        self._watched: dict[int, Callable[[], None]] = {}  # what ends the watching
        self._lock = threading.Lock()

    def add(self, record: ProgramRecord) -> None:
        key = id(record.backend)
        with self._lock:
            self.programs.append(record)
            watch = getattr(record.backend, "watch", None)
            if watch is not None and key not in self._watched:
                self._watched[key] = watch(self.steps.setdefault(key, []).append)

    def seed(self, caller: ProgramRecord | None, name: str, call: Arguments, row: int | None) -> int | None:
        """The seed for a program that starts now; None: any."""
        return None

    def stop(self) -> None:
        """Stop hearing of steps."""
        with self._lock:
            watched, self._watched = self._watched, {}
        for end in watched.values():
            end()


def begin(
    make: Callable[[bool], ProgramRecord], start_span: Callable[[ProgramRecord], Listener | None]
) -> ProgramRecord | None:
    """The record of a program that starts here; None without a listener.

    `make` makes it; the argument says whether calls are to tell of each token. `start_span` begins an OpenTelemetry
    span.
    """
    recorders = [recorder for recorder in current.get() if recorder.listening]
    spans = "opentelemetry.trace" in sys.modules  # the application uses it: importing it costs nothing
    if not recorders and not spans:
        return None
    record = make(bool(recorders))
    if spans:
        record.listener = record.root.listener = start_span(record)
        if not recorders and record.listener is None:
            return None
    for recorder in recorders:
        recorder.add(record)
    return record


def seed_of(given: int | None, name: str, call: Arguments, caller: ProgramRecord | None, row: int | None) -> int | None:
    """The seed for the branch of a program: the `given` one, or that of the run which a replay repeats."""
    if given is None:
        for recorder in current.get():
            if recorder.listening and (seed := recorder.seed(caller, name, call, row)) is not None:
                return seed
    return given
