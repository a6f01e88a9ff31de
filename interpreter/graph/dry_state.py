"""The program state of a traced body, and one traced call of a program.

Owns: noting what the body says and reads, on the line of the program where it does. Text, roles, names and joins are
those of any program state; only the backend (`dry_run.py`) has no model.

Invariants: a traced program is found by the programs that its body starts through a context variable of that body's
thread or task (`started.py`), never through anything global; after the trace it has no effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ...backend.base import Backend
from ...backend.waiting import Flow
from ...lang.errors import BackendError, OptionError
from ...lang.expr import Appendable, Expr, Gen, RoleBegin, RoleEnd, Select, Seq, Text, as_expr
from ..arguments import Arguments, Options
from ..body import Body
from ..defaults import resolve
from ..join import ProgramStateGroup
from ..line import flat
from ..live import LiveState
from ..run import Instance
from ..source import program_line
from ..state import ProgramState
from ..variables import Variable
from .dry_run import DryBackend, DryBranch, Line, Open, Trace
from .nodes import MAX_DEPTH, Begin, Choose, Constant, End, Generate, Joined, Node, Read
from .started import here


class DryState(LiveState):
    """Says and reads as any program state, and notes it."""

    @property
    def _branch(self) -> DryBranch:
        branch = self._line.branch
        assert isinstance(branch, DryBranch)
        return branch

    # -- saying
    def __iadd__(self, other: Appendable) -> DryState:
        parts = _plainly(as_expr(other))
        with self._saying(parts):
            super().__iadd__(Seq(tuple(parts)))
        return self

    def _role(self, role: str, expr: Any) -> Any:
        if not isinstance(expr, (str, Expr)):
            return super()._role(role, expr)  # a block, or a mistake
        inner = tuple(_plainly(as_expr(expr)))
        with self._saying([RoleBegin(role), *inner, RoleEnd(role)]):
            return super()._role(role, Seq(inner))

    @contextmanager
    def _saying(self, parts: Sequence[Expr]) -> Iterator[None]:
        """Note `parts` once they are said."""
        branch, line = self._branch, program_line()
        branch.trace.count(max(1, len(parts)))
        branch.names = deque(part.name for part in parts if isinstance(part, (Gen, Select)))
        yield
        for part in parts:
            branch.line.add(_node(part, branch.trace, line))

    @contextmanager
    def _role_block(self, role: str) -> Iterator[None]:
        self._branch.trace.count()
        with super()._role_block(role), self._holding("role", role):
            yield

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        self._branch.trace.count()
        with super().var_scope(name), self._holding("scope", name):
            yield

    @contextmanager
    def _holding(self, what: str, name: str) -> Iterator[None]:
        self._branch.line.add(Begin(what, name, program_line()))
        try:
            yield
        finally:
            self._branch.line.add(End(what, name, program_line()))

    # -- branching
    def fork(
        self, size: int = 1, position_ids_offset: object = None, *, on_error: Literal["spare", "cancel"] = "spare"
    ) -> ProgramStateGroup:
        branch, line = self._branch, program_line()
        branch.trace.count(1 + size if isinstance(size, int) and size > 0 else 1)
        if branch.line.depth >= MAX_DEPTH:
            raise branch.trace.stop(f"forks and programs are more than {MAX_DEPTH} deep")
        group = super().fork(size, position_ids_offset, on_error=on_error)
        states = [DryState(state._line, self._body, outside=self._outside) for state in group]
        branch.line.add(Open(None, [state._branch.line for state in states], line))
        return DryGroup(states, self)

    # -- reading
    def _reading(self, name: str | None, what: str) -> None:
        """Note a read of what only a run knows: the variable `name`, or (None) the text."""
        trace, place = self._branch.trace, here.get()
        trace.count()
        if not self._asked(name):
            return
        trace.guessed = trace.read = True
        mine = self._branch.line
        mine.certain = False
        read = Read(name or "", what, program_line())
        if place is None or place.trace is not trace:
            mine.add(read)
            return
        place.line.certain = False
        (mine if place.body is self._body else place.line).add(read)

    def _asked(self, name: str | None) -> bool:
        """Was a model asked for it?"""
        if name is None:
            return any(segment.handle is not None for segment in self._line.segments)
        variable = self._line.find(name)
        return variable is not None and _asked(variable, name)

    def __getitem__(self, name: str) -> Any:
        self._reading(name, "value")
        return super().__getitem__(name)

    def value(self, name: str) -> Any:
        self._reading(name, "value")
        return super().value(name)

    def get_meta_info(self, name: str) -> Any:
        self._reading(name, "meta")
        return super().get_meta_info(name)

    async def aget(self, name: str) -> Any:
        self._reading(name, "value")
        return await super().aget(name)

    def text(self) -> str:
        self._reading(None, "text")
        return super().text()

    async def async_text(self) -> str:
        self._reading(None, "text")
        return await super().async_text()

    def messages(self) -> list[dict[str, str]]:
        self._reading(None, "text")
        return super().messages()

    def text_iter(self, name: str | None = None) -> Iterator[str]:
        self._reading(name, "text" if name is None else "value")
        return super().text_iter(name)

    def text_async_iter(self, name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        self._reading(name, "text" if name is None else "value")
        return super().text_async_iter(name, return_meta_data)


class DryGroup(ProgramStateGroup):
    """The branches of a traced fork."""

    def _join(self, mode: str) -> Flow[None]:
        parent = self.src_state
        assert isinstance(parent, DryState)
        branch, line = parent._branch, program_line()
        branch.trace.count()
        gathers = mode == "gather_variable"
        if not gathers:
            branch.line.certain = False  # what the branches said is said again on the parent
        yield from super()._join(mode)
        names = dict.fromkeys(name for state in self.states for name in state._line.own) if gathers else ()
        branch.line.add(Joined(mode, len(self), tuple(names), line))


class DryInstance(Instance):
    """One traced call of a program: the program itself, or one that its body starts."""

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        call: Arguments,
        options: Options,
        trace: Trace,
        line: Line,
        target: Backend | None,
        **batch: Any,
    ) -> None:
        super().__init__(func, name, call, DryBackend(trace, target, line), options, **batch)
        self.state = DryState(self.line, self.body, root=True)
        self.place = Place(trace, line, self.body)

    def outside(self) -> ProgramState:
        return DryState(self.line, self.body, outside=True, root=True)

    def execute(self) -> None:
        outer = here.set(self.place)
        try:
            super().execute()
        finally:
            here.reset(outer)

    async def execute_async(self) -> None:
        outer = here.set(self.place)
        try:
            await super().execute_async()
        finally:
            here.reset(outer)


@dataclass(frozen=True)
class Place:
    """Where a traced body runs."""

    trace: Trace
    line: Line
    body: Body

    def backend(self, backend: Any) -> DryBackend:
        """What a program that is started here runs on. `backend`: what it would run on without the trace."""
        try:
            target = resolve(backend)
        except BackendError:
            if backend is not None:
                raise
            target = None  # no default is set: a trace does without
        return DryBackend(self.trace, target, self.line)


def started(
    func: Callable[..., Any], name: str, call: Arguments, backend: Backend, options: Options, **batch: Any
) -> DryInstance:
    """A program that a traced body starts: traced too, and noted on the line of that body."""
    assert isinstance(backend, DryBackend)
    trace, line = backend.trace, Line(backend.line.depth + 1)
    trace.count()
    if line.depth > MAX_DEPTH:
        raise trace.stop(f"forks and programs are more than {MAX_DEPTH} deep")
    backend.line.add(Open(name, [line], backend.where))
    return DryInstance(func, name, call, options, trace, line, backend.target, **batch)


def looked_here(read: Read) -> None:
    """The running body looked at an argument that it was not given."""
    if (place := here.get()) is not None:
        place.line.certain = False
        place.line.add(read)


def _asked(variable: Variable, name: str) -> bool:
    try:
        segments, _ = variable.stream(name)
    except OptionError:  # a list: of samples, or gathered from branches
        return True
    return any(segment.handle is not None for segment in segments)


def _plainly(expr: Expr) -> list[Expr]:
    """Its parts, with texts that are no placeholders: whoever looks at what was said is not the body."""
    return [Text(str.__str__(part.text)) if isinstance(part, Text) else part for part in flat(expr)]


def _node(part: Expr, trace: Trace, line: str) -> Node:
    if isinstance(part, Text):
        held = trace.held_by(part.text)
        arguments = dict.fromkeys(p.name for p in held if p.what == "argument")
        values = dict.fromkeys(p.name for p in held if p.what == "value")
        return Constant(part.text, tuple(arguments), tuple(values), line)
    if isinstance(part, Gen):
        return Generate(part.name, part.sampling, part.sampling.n or part.n, part.constraint, line)
    if isinstance(part, Select):
        method = getattr(part.method, "__name__", None) or repr(part.method)
        return Choose(part.name, tuple(map(str.__str__, part.choices)), method, part.temperature, line)
    if isinstance(part, RoleBegin):
        return Begin("role", part.role, line)
    assert isinstance(part, RoleEnd), part
    return End("role", part.role, line)
