"""`sgl.replay(trace)`: run the programs of a trace again, and say where they first differ.

Owns: which function a recorded program is, what it is called with, the seeds of the programs that its body starts, and
the report. What a difference is, is `compare.py`'s.

Invariant: a program that is run again gets the arguments, options and seed of its record, so on the same model it
writes the same tokens whatever else runs, whatever is cached, and however large the pool is.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...backend.base import Backend
from ...lang.errors import OptionError
from ..arguments import Arguments, Options
from ..defaults import resolve
from ..plain import is_spelled, plain
from ..record import ProgramRecord
from ..run import Instance, is_async, start_thread
from .compare import ABSENT, Data, Difference, Found, compare, title_of
from .page import VERSION, load
from .recording import Trace, calls_of

THREADS = 16
"""Bodies of plain functions that run at a time."""


@dataclass(frozen=True)
class Replayed:
    """One program that was run again, the programs that its body ran included: `calls` were compared, `skipped` were
    not, since the recorded ones were cancelled, timed out or not finished. `difference`: the first one."""

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
        """The first one, in program order; None if there is none."""
        return next((each.difference for each in self.programs if each.difference is not None), None)

    @property
    def ok(self) -> bool:
        return self.difference is None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        calls, skipped = (sum(getattr(each, name) for each in self.programs) for name in ("calls", "skipped"))
        left = f"; {skipped} calls were cancelled or not finished in the trace and were not compared" if skipped else ""
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
) -> ReplayReport:
    """Run every program of `trace` again that was not started by another one, and compare each of its calls with the
    record: texts, token ids, choices, error types, and what the body returned.

    `trace`: what `sgl.trace()` gave, its `to_dict()`, or the name of its file. A live trace knows its functions and
    backends; for a file say them: `program=f`, or `{"qa": f, ...}` by name; `backend=` or the default one. The bodies
    really run: what they do besides (a file written, a mail sent) happens again.

    Raises `OptionError` for a trace of another model, a function that is missing, or arguments that a file could not
    hold; an error of a program is part of the comparison and is not raised.
    """
    records: Sequence[ProgramRecord] = ()
    if isinstance(trace, Trace):
        records = list(trace.programs)
        data: Mapping[str, Any] = trace.to_dict()
    elif isinstance(trace, Mapping):
        data = trace
    elif isinstance(trace, (str, os.PathLike)):
        data = load(trace)
    else:
        raise OptionError(f"replay: a trace, its dict or the name of its file is needed, got {trace!r:.60}")
    _check_whole(data)
    plan = [
        _plan(old, records[i] if records else None, program, backend, data)
        for i, old in enumerate(data["programs"])
        if old["caller"] is None
    ]
    script = Script(data["programs"])
    instances = _run(plan, script)
    now = script.to_dict()["programs"]
    new_of = {id(record): each for record, each in zip(script.programs, now)}
    return ReplayReport(
        tuple(_report(run.old, instance.record, new_of, script) for run, instance in zip(plan, instances))
    )


_PARTS = {
    "trace": ("backend", "programs"),
    "program": ("id", "name", "caller", "row", "module", "args", "options", "seed", "began", "ended", "error", "value"),
    "branch": ("id", "parent", "after", "label", "calls", "tail"),
    "call": ("kind", "name", "where", "params", "constraint", "enqueued", "ended", "error", "prompt", "samples"),
}


def _check_whole(data: Mapping[str, Any]) -> None:
    """A file may have been edited."""
    version = data.get("sgl_trace")
    if version != VERSION:
        raise OptionError(
            f"replay: a trace of version {VERSION} is needed, as sgl.trace() writes it, got {version!r:.40}"
        )
    _check_part("trace", data)
    for program in data["programs"]:
        _check_part("program", program)
        for branch in program["branches"]:
            _check_part("branch", branch)
            for call in branch["calls"]:
                _check_part("call", call)


def _check_part(kind: str, part: Any) -> None:
    lacks = [name for name in _PARTS[kind] if not isinstance(part, Mapping) or name not in part]
    if lacks:
        raise OptionError(f"replay: this is not a whole trace: a {kind} in it has no {lacks[0]!r}; record it again")


# -- what is to run
@dataclass(frozen=True)
class Run:
    """One program to run again."""

    old: Data
    func: Callable[..., Any]
    call: Arguments
    options: Options
    backend: Backend


def _plan(old: Data, record: ProgramRecord | None, program: Any, backend: Any, data: Mapping[str, Any]) -> Run:
    title = title_of(old)
    func = _function(old, record, program, title)
    call = _call(old, record, func, title)
    if record is not None:
        options, target = record.options, record.backend if backend is None else resolve(backend)
    else:
        options, target = Options.of(f"replay: {title}", old["options"]), resolve(backend)
    name, recorded = target.capabilities.name, data["backend"]["name"]
    if record is None and name not in str(recorded).split(" and "):
        raise OptionError(
            f"replay: the trace was recorded on {recorded}, and this backend is {name}: pass backend= with that model"
        )
    if record is not None and record.backend.capabilities.name != name:
        raise OptionError(
            f"replay: {title} was recorded on {record.backend.capabilities.name}, and this backend is {name}: pass "
            "backend= with that model"
        )
    return Run(old, func, call, replace(options, seed=old["seed"], stream=False), target)


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


def _call(old: Data, record: ProgramRecord | None, func: Callable[..., Any], title: str) -> Arguments:
    """The arguments as they were at the start; of a live trace the objects themselves where they are no JSON data."""
    if record is not None:
        args, kwargs = record.given
        return Arguments(
            tuple(_as_given(now, was) for now, was in zip(record.call.args, args)),
            {name: _as_given(now, kwargs[name]) for name, now in record.call.kwargs.items()},
        )
    lost = [name for name, value in old["args"].items() if is_spelled(value)]
    if lost:
        raise OptionError(
            f"replay: {title}: the file holds only the repr of its argument {', '.join(map(repr, lost))}: replay the "
            "live trace, or give the program arguments that are JSON data"
        )
    bound = inspect.signature(func).bind_partial(None)
    parameters = bound.signature.parameters
    state, *_ = parameters
    unknown = [name for name in old["args"] if name not in parameters or name == state]
    bound.arguments.update({name: old["args"][name] for name in parameters if name in old["args"]})
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name not in bound.arguments
    ]
    if unknown or missing:
        raise OptionError(
            f"replay: {title} was recorded with the arguments {', '.join(old['args']) or '(none)'}, and the program "
            f"given is {old['name']}{bound.signature}: pass the one that was recorded"
        )
    bound.apply_defaults()
    return Arguments(bound.args[1:], bound.kwargs)


def _as_given(now: Any, was: Any) -> Any:
    """A list or dict of JSON data as it was at the start, though the body may have changed it; else the object."""
    return plain(was) if type(now) in (list, dict) and not is_spelled(was) and _same_kinds(now, was) else now


def _same_kinds(now: Any, was: Any) -> bool:
    """JSON data keeps no tuples: is there one?"""
    if isinstance(now, tuple):
        return False
    if type(now) is list and type(was) is list:
        return all(map(_same_kinds, now, was))
    if type(now) is dict and type(was) is dict:
        return all(_same_kinds(now[key], was[key]) for key in now.keys() & was.keys())
    return True


# -- running
class Script(Trace):
    """Records a replay, and gives the programs that bodies start the seeds of their records: those of the same caller,
    name, row and arguments, in order."""

    def __init__(self, programs: Sequence[Data]) -> None:
        super().__init__()
        self._script = threading.Lock()
        self._waiting: dict[int, list[Data]] = {}  # by the id of the caller: its programs that did not start again
        for program in programs:
            if program["caller"] is not None:
                self._waiting.setdefault(program["caller"], []).append(program)
        self.old: dict[int, Data] = {}  # by the id of a new record: the recorded program that it repeats
        self._claimed: dict[tuple[int, int | None], Data] = {}
        self.new: dict[int, list[ProgramRecord]] = {}  # by the id of the caller's new record, in order

    def seed(self, caller: ProgramRecord | None, name: str, call: Arguments, row: int | None) -> int | None:
        if caller is None:
            return None
        with self._script:
            found = self._claim(caller, name, call, row)
            if found is not None:
                self._claimed[id(caller), found["seed"]] = found
        return None if found is None else found["seed"]

    def add(self, record: ProgramRecord) -> None:
        super().add(record)
        caller = record.caller
        if caller is None:
            return
        with self._script:
            self.new.setdefault(id(caller), []).append(record)
            found = self._claimed.pop((id(caller), record.seed), None)
            found = found or self._claim(caller, record.name, record.call, record.row)
            if found is not None:
                self.old[id(record)] = found

    def _claim(self, caller: ProgramRecord, name: str, call: Arguments, row: int | None) -> Data | None:
        old = self.old.get(id(caller))
        waiting = [] if old is None else self._waiting.get(old["id"], [])
        alike = [each for each in waiting if each["name"] == name and each["row"] == row]
        values = [plain(value) for value in (*call.args, *call.kwargs.values())]
        same = next((each for each in alike if _values(each["args"]) == values), alike[0] if alike else None)
        if same is not None:
            waiting.remove(same)
        return same

    def never_started(self, old: Data) -> list[Data]:
        return self._waiting.get(old["id"], [])


def _values(args: Mapping[str, Any]) -> list[Any]:
    return list(args.values())


def _run(plan: Sequence[Run], script: Script) -> list[Instance]:
    """Run all of `plan`; their instances, finished."""
    instances: dict[int, Instance] = {}
    unstartable: list[BaseException] = []
    todo = deque(i for i, run in enumerate(plan) if not is_async(run.func))
    taking = threading.Lock()
    if asyncio._get_running_loop() is not None and any(is_async(run.func) for run in plan):
        raise OptionError(
            "replay: the trace has async programs and an event loop is running here: use "
            "`await asyncio.to_thread(sgl.replay, ...)`"
        )

    def started(i: int) -> Instance:
        run = plan[i]
        instance = Instance(run.func, run.old["name"], run.call, run.backend, run.options, run.old["row"])
        assert instance.record is not None
        script.old[id(instance.record)] = run.old
        instances[i] = instance
        return instance

    async def coroutines(places: list[int]) -> None:
        await asyncio.gather(*[started(i).execute_async() for i in places])

    def bodies() -> None:
        while not unstartable:
            with taking:
                if not todo:
                    return
                i = todo.popleft()
            try:
                started(i).execute()
            except BaseException as error:
                unstartable.append(error)

    try:
        with script:
            threads = [start_thread("replay", bodies) for _ in range(min(THREADS, len(todo)))]
            if places := [i for i, run in enumerate(plan) if is_async(run.func)]:
                asyncio.run(coroutines(places))
            for thread in threads:
                thread.join()
            if unstartable:
                raise unstartable[0]
            for record in list(script.programs):
                for call in calls_of(record):
                    record.backend.wait(call.handle)
    except BaseException:
        todo.clear()
        for instance in list(instances.values()):
            instance.line.cancel()
        raise
    return [instances[i] for i in range(len(plan))]


# -- comparing
def _report(old: Data, record: ProgramRecord | None, new_of: Mapping[int, Data], script: Script) -> Replayed:
    assert record is not None
    found = Found()
    _compare(old, record, new_of, script, found)
    return Replayed(title_of(old), found.calls, found.skipped, found.first)


def _compare(old: Data, record: ProgramRecord, new_of: Mapping[int, Data], script: Script, found: Found) -> None:
    """The program and those that its body ran."""
    compare(old, new_of[id(record)], found)
    for inner in script.new.get(id(record), ()):
        recorded = script.old.get(id(inner))
        if recorded is not None:
            _compare(recorded, inner, new_of, script, found)
        else:
            found.note(
                (1, 0.0), Difference(title_of(old), None, None, "a program that it runs", "(nothing)", inner.name)
            )
    for missing in script.never_started(old):
        lost = Difference(title_of(old), None, None, "a program that it runs", missing["name"], ABSENT)
        found.note((0, missing["began"]), lost)
