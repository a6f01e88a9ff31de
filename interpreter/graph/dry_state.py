"""The program state of a dry run: it says and reads as any program state does, and notes it on a `DryBranch`.

Text, roles, names and joins are those of any program state. Knows nothing of how a dry run ends (`dry_run.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ...backend.base import Backend
from ...backend.waiting import Flow, StreamFlow, T
from ...lang.errors import BackendError, OptionError
from ...lang.expr import CallTools, Expr, Gen, RoleBegin, RoleEnd, Select, Seq, Text, flat
from ..arguments import Arguments, Options
from ..defaults import resolve
from ..join import ProgramStateGroup
from ..line import Line
from ..live import LiveState
from ..reading import Part
from ..run import Instance, running
from ..source import program_line
from ..transcript import Segment
from ..variables import Scope
from .dry_run import DryBackend, DryBranch, GraphCollector, GrowingNode
from .nodes import Begin, Choose, Constant, End, Generate, Joined, Node, Read


class DryLine(Line):
    """A line of a program whose branch notes what is said."""

    branch: DryBranch

    def say(self, expr: Expr) -> None:
        parts, branch, at = _plainly(expr), self.branch, program_line()
        branch.collector.count(max(1, len(parts)))
        branch.names = deque(part.name for part in parts if isinstance(part, (Gen, Select)))
        super().say(Seq(tuple(parts)))
        for part in parts:
            branch.add(_node(part, branch.collector, at))

    def open_scope(self, name: str) -> Scope:
        self.branch.collector.count()
        scope = super().open_scope(name)
        self.branch.add(Begin("scope", name, program_line()))
        return scope

    def close_scope(self, scope: Scope) -> None:
        super().close_scope(scope)
        self.branch.add(End("scope", scope.name, program_line()))

    def fork(self, n: int, together: bool = False) -> list[Line]:
        self.branch.collector.count(1 + n)
        children = super().fork(n, together)
        branches = [child.branch for child in children if isinstance(child, DryLine)]
        self.branch.add(GrowingNode(None, branches, program_line()))
        return children


class DryState(LiveState):
    """A program state that notes what the body reads, and has forks and joins that are noted."""

    _line: DryLine

    def _run(self, what: str, flow: Callable[[], Flow[T]]) -> T:
        made = [flow()]  # now: a read is noted where it is written, not where it is awaited
        return super()._run(what, lambda: made.pop() if made else flow())

    def fork(self, *args: Any, **kwargs: Any) -> ProgramStateGroup:
        return DryGroup(super().fork(*args, **kwargs).states, self)

    def _read(self, name: str, part: Part) -> Flow[Any]:
        self._note_read(name, "meta" if part == "meta" else "value")
        return super()._read(name, part)

    def _text(self, deep: bool | None = None) -> Flow[str]:
        self._note_read(None, "text")
        return super()._text(deep)

    def _messages(self) -> Flow[list[dict[str, str]]]:
        self._note_read(None, "text")
        return super()._messages()

    def _pieces(self, name: str | None, with_meta: bool = False, deep: bool | None = None) -> StreamFlow[Any]:
        self._note_read(name, "text" if name is None else "value")
        return super()._pieces(name, with_meta, deep)

    def _sync(self) -> Flow[None]:
        self._line.branch.collector.count()
        return super()._sync()

    def _error(self) -> Flow[BaseException | None]:
        self._line.branch.collector.count()
        return super()._error()

    def _values(self, name: str) -> StreamFlow[Any]:
        self._note_read(name, "value")
        return super()._values(name)

    def _note_read(self, name: str | None, what: str) -> None:
        """Note a read of the variable `name`, or (None) of the text, if a model writes it."""
        branch, reader = self._line.branch, running.get()
        branch.collector.count()
        if not self._is_written(name):
            return
        branch.collector.guessed = branch.collector.read = True
        branch.certain = False
        if isinstance(reader, DryInstance):
            reader.branch.certain = False
            if reader.body is not self._body:  # a body reads what another program wrote
                branch = reader.branch
        branch.add(Read(name or "", what, program_line()))

    def _is_written(self, name: str | None) -> bool:
        """Whether a model writes (some of) the variable `name`, or of the text."""
        segments: Sequence[Segment] = self._line.segments
        if name is not None:
            variable = self._line.find(name)
            if variable is None:
                return False
            try:
                segments, _ = variable.stream(name)
            except OptionError:  # a list: of samples, or gathered from branches
                return True
        return any(segment.handle is not None for segment in segments)


class DryGroup(ProgramStateGroup):
    """The branches of a fork in a dry run."""

    def _join(self, mode: str) -> Flow[None]:
        parent, line = self.src_state._line, program_line()
        assert isinstance(parent, DryLine)
        parent.branch.collector.count()
        gathers = mode == "gather_variable"
        if not gathers:
            parent.branch.certain = False  # what the branches said is said again on the parent
        yield from super()._join(mode)
        names = dict.fromkeys(name for state in self.states for name in state._line.own) if gathers else ()
        parent.branch.add(Joined(mode, len(self), tuple(names), line))


class DryInstance(Instance):
    """One call of a program in a dry run: a node on the branch where the program was started."""

    line_type = DryLine
    state_type = DryState

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        call: Arguments,
        backend: Backend,
        options: Options,
        **batch: Any,
    ) -> None:
        assert isinstance(backend, DryBackend)
        backend.collector.count()
        self.branch = backend.branch.deeper(certain=True)
        backend.branch.add(GrowingNode(name, [self.branch], backend.where))
        super().__init__(func, name, call, DryBackend(self.branch, backend.target), options, **batch)

    def backend_of_started(self, backend: Any) -> Backend:
        if self.branch.collector.over:
            return super().backend_of_started(backend)
        try:
            target = resolve(backend)
        except BackendError:
            if backend is not None:
                raise
            target = None  # no default is set: a dry run needs none
        return DryBackend(self.branch, target)


DryBackend.instance_type = DryInstance


def _plainly(expr: Expr) -> list[Expr]:
    """The parts of `expr`. Texts are no placeholders any more: to look at what was said is not to look at a value."""
    return [Text(str.__str__(part.text), part.special) if isinstance(part, Text) else part for part in flat(expr)]


def _node(part: Expr, collector: GraphCollector, line: str) -> Node:
    if isinstance(part, Text):
        held = collector.held_by(part.text)
        arguments = dict.fromkeys(p.name for p in held if p.what == "argument")
        values = dict.fromkeys(p.name for p in held if p.what == "value")
        return Constant(part.text, tuple(arguments), tuple(values), line, part.special)
    if isinstance(part, Gen):
        tools = tuple(tool.name for tool in part.tools) if isinstance(part, CallTools) else ()
        return Generate(part.name, part.sampling, part.sampling.n or part.n, part.constraint, line, tools)
    if isinstance(part, Select):
        method = getattr(part.method, "__name__", None) or repr(part.method)
        return Choose(part.name, tuple(map(str.__str__, part.choices)), method, part.temperature, line)
    if isinstance(part, RoleBegin):
        return Begin("role", part.role, line)
    assert isinstance(part, RoleEnd), part
    return End("role", part.role, line)
