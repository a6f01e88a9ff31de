"""`sgl.replay(trace)`: run the programs of a trace again, and say where they first differ.

Decides which function a recorded program is, what it is called with, and the seeds of the programs that its body
starts. Knows nothing of what a difference is (`compare.py`).

Invariant: a program that is run again gets the arguments, options and seed of its record. So on the same model it
writes the same tokens. Other programs, the cache and the size of the pool change nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...backend.base import Backend
from ...lang.errors import OptionError
from ..arguments import Arguments, Options
from ..defaults import resolve
from ..plain import is_spelled, plain
from ..record import ProgramRecord
from ..run import Instance, is_async, start_thread
from .compare import ABSENT, Data, Difference, ReplayFindings, compare, title_of
from .mocks import ToolMocks
from .page import VERSION, check_parts, load
from .recording import Trace, calls_of

REPLAY_THREADS = 16
"""Bodies of plain functions that run at a time: they wait for the model most of the time."""


@dataclass(frozen=True)
class Replayed:
    """One program that was run again, with the programs that its body ran.

    `calls` were compared. `skipped` were not, since the recorded calls were cancelled, timed out or not finished,
    or since they are cancelled now, as in a race of branches that another branch won.
    `difference` is the first one.
    """

    title: str
    calls: int
    skipped: int
    difference: Difference | None


@dataclass(frozen=True)
class ReplayReport:
    """What `sgl.replay` found; true if nothing differs. `programs` are in the order of the trace."""

    programs: tuple[Replayed, ...]

    @property
    def difference(self) -> Difference | None:
        """The first difference, in program order; None if there is none."""
        return next((each.difference for each in self.programs if each.difference is not None), None)

    @property
    def ok(self) -> bool:
        """Whether every compared call is as recorded."""
        return self.difference is None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        calls, skipped = (sum(getattr(each, name) for each in self.programs) for name in ("calls", "skipped"))
        left = (
            f"; {skipped} calls were cancelled or not finished, in the trace or now, and were not compared"
            if skipped
            else ""
        )
        if self.ok:
            return f"replay: {len(self.programs)} programs, {calls} calls: all as recorded{left}"
        wrong = sum(1 for each in self.programs if each.difference is not None)
        return (
            f"replay: {wrong} of {len(self.programs)} programs differ{left}. The first difference:\n{self.difference}"
        )

    __repr__ = __str__


def replay(
    trace: Trace | Mapping[str, Any] | str | os.PathLike[str],
    program: Any = None,
    *,
    backend: Any = None,
    tools: Literal["recorded", "run"] = "recorded",
) -> ReplayReport:
    """Run the programs of a trace again and compare each of their calls with the record.

    Compared are texts, token ids, choices, error types, and what the body returned. Programs that a body starts are run
    by that body. The bodies really run: what they do besides (write a file, send a mail) happens again. But tools
    (`sgl.agent`, `sgl.run_tools`) are not run, nor are approvals asked for: each call has its recorded result. An error
    of a program is part of the comparison and is not raised.

    Args:
        trace: What `sgl.trace()` gave, its `to_dict()`, or the name of its file.
        program: The function to run, or a dict of functions by name such as `{"qa": qa}`. A file needs it; a live trace
            knows its functions (default None).
        backend: Where to run. Default: for a live trace the recorded backend, for a file the default backend.
        tools: "recorded" (default): a call of a tool has the result of the recorded call of the same name and
            arguments; one that the trace does not have is not run, and is a difference. "run": tools run, and what they
            return is compared.

    Returns:
        A report that is true if nothing differs; its `difference` is the first one, and it prints in words.

    Raises:
        OptionError: The trace is of another model, a function is missing, or an argument is none that a file can hold.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def greet(s, name):
        ...     s += f"Hello {name}:" + sgl.gen("greeting", max_tokens=4)
        >>> with sgl.Runtime.toy() as runtime:
        ...     with sgl.trace() as traced:
        ...         state = greet.run("Ada", backend=runtime)
        ...     print(sgl.replay(traced))
        replay: 1 programs, 1 calls: all as recorded
    """
    if not isinstance(trace, (Trace, Mapping, str, os.PathLike)):
        raise OptionError(f"replay: a trace, its dict or the name of its file is needed, got {trace!r:.60}")
    if tools not in ("recorded", "run"):
        raise OptionError(f"replay: tools must be 'recorded' or 'run', got {tools!r:.60}")
    records = list(trace.programs) if isinstance(trace, Trace) else []
    data = trace.to_dict() if isinstance(trace, Trace) else trace if isinstance(trace, Mapping) else load(trace)
    _check_whole(data)
    plan = [
        _plan(old, records[i] if records else None, program, backend, data)
        for i, old in enumerate(data["programs"])
        if old["caller"] is None
    ]
    script = ReplayScript(data["programs"], tools == "recorded")
    records = _run(plan, script)
    now = {id(record): new for record, new in zip(script.programs, script.to_dict()["programs"])}
    return ReplayReport(tuple(_report(run.old, record, now, script) for run, record in zip(plan, records)))


_PARTS = {
    "trace": ("backend", "programs"),
    "program": ("id", "name", "caller", "row", "module", "args", "options", "seed", "began", "ended", "error", "value"),
    "branch": ("id", "parent", "after", "label", "calls", "tail"),
    "tool": ("name", "arguments", "after", "began", "text", "error", "value", "tries", "seconds", "truncated"),
    "call": ("kind", "name", "where", "params", "constraint", "enqueued", "ended", "error", "prompt", "samples"),
}


def _check_whole(data: Mapping[str, Any]) -> None:
    """Refuse data that lacks a part, as an edited file may."""
    if (version := data.get("sgl_trace")) != VERSION:
        raise OptionError(
            f"replay: a trace of version {VERSION} is needed, as sgl.trace() writes it, got {version!r:.40}"
        )
    check_parts("trace", data, _check_part)


def _check_part(kind: str, part: Any) -> None:
    lacks = [name for name in _PARTS[kind] if not isinstance(part, Mapping) or name not in part]
    if lacks:
        raise OptionError(f"replay: this is not a whole trace: a {kind} in it has no {lacks[0]!r}; record it again")
    for tool in part.get("tools", ()) if kind == "branch" else ():
        _check_part("tool", tool)


# -- what is to run
@dataclass(frozen=True)
class ReplayRun:
    """One program to run again."""

    old: Data
    func: Callable[..., Any]
    call: Arguments
    options: Options
    backend: Backend


def _plan(old: Data, record: ProgramRecord | None, program: Any, backend: Any, data: Mapping[str, Any]) -> ReplayRun:
    title = title_of(old)
    func = _function(old, record, program, title)
    if record is not None:
        call, options = _live_arguments(record), record.options
        target = record.backend if backend is None else resolve(backend)
        recorded = [record.backend.capabilities.name]
    else:
        call, options = _file_arguments(old, func, title), Options.of(f"replay: {title}", old["options"])
        target = resolve(backend)
        recorded = str(data["backend"]["name"]).split(" and ")
    if target.capabilities.name not in recorded:
        raise OptionError(
            f"replay: {title} was recorded on {' and '.join(recorded)}, and this backend is "
            f"{target.capabilities.name}: pass backend= with that model"
        )
    return ReplayRun(old, func, call, replace(options, seed=old["seed"], stream=False), target)


def _function(old: Data, record: ProgramRecord | None, program: Any, title: str) -> Callable[..., Any]:
    given = program.get(old["name"]) if isinstance(program, Mapping) else program
    if given is None and record is not None:
        return record.program
    if given is None:
        raise OptionError(
            f"replay: {title} was recorded in module {old['module']!r}, and a file holds no functions: pass "
            f"program={{{old['name']!r}: ...}} (or program=... if it is the only one)"
        )
    func = getattr(given, "func", given)
    if not callable(func):
        raise OptionError(f"replay: the program for {old['name']!r} must be an sgl.function, got {given!r:.60}")
    name = getattr(given, "__name__", old["name"])
    if not isinstance(program, Mapping) and name != old["name"]:
        raise OptionError(
            f"replay: {title} is in the trace, and program= is {name!r}: pass program={{{old['name']!r}: ..., ...}}"
        )
    return func  # type: ignore[no-any-return]


def _live_arguments(record: ProgramRecord) -> Arguments:
    """The arguments as they were at the start; the objects themselves where they are no JSON data."""
    args, kwargs = record.given
    return Arguments(
        tuple(map(_as_given, record.call.args, args)),
        {name: _as_given(now, kwargs[name]) for name, now in record.call.kwargs.items()},
    )


def _as_given(now: Any, was: Any) -> Any:
    """Give the object; of a list or dict of JSON data a copy as it was at the start, since the body may change it."""
    if type(now) not in (list, dict) or is_spelled(was):
        return now
    return now if _holds_tuples(now) else plain(was)


def _holds_tuples(value: Any) -> bool:
    """Whether there is a tuple in a list or dict: JSON data has none, so a copy would not be what was given."""
    if isinstance(value, dict):
        return any(map(_holds_tuples, value.values()))
    return isinstance(value, tuple) or (isinstance(value, list) and any(map(_holds_tuples, value)))


def _file_arguments(old: Data, func: Callable[..., Any], title: str) -> Arguments:
    args: Mapping[str, Any] = old["args"]
    lost = [name for name, value in args.items() if is_spelled(value)]
    if lost:
        raise OptionError(
            f"replay: {title}: the file holds only the repr of its argument {', '.join(map(repr, lost))}: replay the "
            "live trace, or give the program arguments that are JSON data"
        )
    bound = inspect.signature(func).bind_partial(None)
    _, *parameters = bound.signature.parameters.values()
    names = [p.name for p in parameters]
    bound.arguments.update({name: args[name] for name in names if name in args})
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [p for p in parameters if p.default is p.empty and p.kind not in optional and p.name not in args]
    if missing or not args.keys() <= set(names):
        raise OptionError(
            f"replay: {title} was recorded with the arguments {', '.join(args) or '(none)'}, and the program "
            f"given is {old['name']}{bound.signature}: pass the one that was recorded"
        )
    bound.apply_defaults()
    return Arguments(bound.args[1:], bound.kwargs)


# -- running
class ReplayScript(Trace):
    """Records a replay, and gives the programs that bodies start the seeds of their records.

    A program that starts repeats a recorded one of the same caller, name and row that was not repeated yet. The first
    with the same arguments is taken; if none has them, the first.
    """

    def __init__(self, programs: Sequence[Data], mocks: bool) -> None:
        super().__init__()
        self.mocks = mocks  # tools are not run
        self.old: dict[int, Data] = {}  # by the id of a new record: the recorded program that it repeats
        self.started: dict[int, list[ProgramRecord]] = {}  # by the id of a new record: the programs of its body
        self._waiting: dict[int, list[Data]] = {}  # by the id of the caller: its programs that did not start again
        self._claimed: dict[tuple[int, int | None], Data] = {}
        self._claiming = threading.Lock()
        for program in programs:
            if program["caller"] is not None:
                self._waiting.setdefault(program["caller"], []).append(program)

    def seed(self, caller: ProgramRecord | None, name: str, call: Arguments, row: int | None) -> int | None:
        if caller is None:
            return None
        with self._claiming:
            found = self._claim(caller, name, call, row)
            if found is not None:
                self._claimed[id(caller), found["seed"]] = found
        return None if found is None else found["seed"]

    def add(self, record: ProgramRecord) -> None:
        super().add(record)
        caller = record.caller
        if caller is None:
            return
        with self._claiming:
            self.started.setdefault(id(caller), []).append(record)
            found = self._claimed.pop((id(caller), record.seed), None)
            found = found or self._claim(caller, record.name, record.call, record.row)
            self.play(record, found)

    def play(self, record: ProgramRecord, old: Data | None) -> None:
        """Let the new program repeat the recorded one, if there is one."""
        if old is not None:
            self.old[id(record)] = old
        if self.mocks:
            record.root.script = ToolMocks(old).result

    def _claim(self, caller: ProgramRecord, name: str, call: Arguments, row: int | None) -> Data | None:
        old = self.old.get(id(caller))
        waiting = [] if old is None else self._waiting.get(old["id"], [])
        alike = [each for each in waiting if each["name"] == name and each["row"] == row]
        values = [plain(value) for value in (*call.args, *call.kwargs.values())]
        same = [each for each in alike if list(each["args"].values()) == values]
        if not alike:
            return None
        found = (same or alike)[0]
        waiting.remove(found)
        return found

    def never_started(self, old: Data) -> list[Data]:
        """The programs that the body of `old` ran, and the new body did not."""
        left = self._waiting.get(old["id"], [])
        return [each for each in left if not (self.mocks and each.get("in_tool"))]


def _run(plan: Sequence[ReplayRun], script: ReplayScript) -> list[ProgramRecord]:
    """Run all of `plan` to the end of every call; their records."""
    instances: list[Instance] = []
    records: dict[int, ProgramRecord] = {}
    unstartable: list[BaseException] = []
    coroutines = [i for i, run in enumerate(plan) if is_async(run.func)]
    bodies = deque(i for i, run in enumerate(plan) if not is_async(run.func))
    if coroutines and asyncio._get_running_loop() is not None:
        raise OptionError(
            "replay: the trace has async programs and an event loop is running here: use "
            "`await asyncio.to_thread(sgl.replay, ...)`"
        )

    def started(i: int) -> Instance:
        run = plan[i]
        instance = Instance(run.func, run.old["name"], run.call, run.backend, run.options, run.old["row"])
        assert instance.record is not None  # the script hears of it
        script.play(instance.record, run.old)
        records[i] = instance.record
        instances.append(instance)
        return instance

    async def run_coroutines() -> None:
        await asyncio.gather(*[started(i).execute_async() for i in coroutines])

    def run_bodies() -> None:
        with suppress(IndexError):  # no body is left
            while not unstartable:
                i = bodies.popleft()
                try:
                    started(i).execute()
                except BaseException as error:
                    unstartable.append(error)

    try:
        with script:
            threads = [start_thread("replay", run_bodies) for _ in range(min(REPLAY_THREADS, len(bodies)))]
            asyncio.run(run_coroutines()) if coroutines else None
            for thread in threads:
                thread.join()
            if unstartable:
                raise unstartable[0]
            for record in list(script.programs):
                for call in calls_of(record):
                    record.backend.wait(call.handle)
    except BaseException:
        bodies.clear()
        for instance in list(instances):
            instance.line.cancel()
        raise
    return [records[i] for i in range(len(plan))]


# -- comparing
def _report(old: Data, record: ProgramRecord, now: Mapping[int, Data], script: ReplayScript) -> Replayed:
    findings = ReplayFindings()
    _compare(old, record, now, script, findings)
    return Replayed(title_of(old), findings.calls, findings.skipped, findings.first)


def _compare(
    old: Data, record: ProgramRecord, now: Mapping[int, Data], script: ReplayScript, findings: ReplayFindings
) -> None:
    """Compare the program and those that its body ran."""
    compare(old, now[id(record)], findings)
    title, what = title_of(old), "a program that it runs"
    for inner in script.started.get(id(record), ()):
        recorded = script.old.get(id(inner))
        if recorded is not None:
            _compare(recorded, inner, now, script, findings)
        else:
            findings.note((1, 0.0), Difference(title, None, None, what, ABSENT, inner.name))
    for missing in script.never_started(old):
        findings.note((0, missing["began"]), Difference(title, None, None, what, missing["name"], ABSENT))
