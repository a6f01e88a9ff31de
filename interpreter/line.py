"""One line of text of a program: it says more on a branch of the backend, and keeps what was said.

An op is enqueued on the branch, enters the transcript and defines its name in one go. Knows nothing of waiting
(`live.py`) or of how the body runs.

1. Only `say`, `fork` and the few methods beside them enqueue, under the line's own lock, which no listener takes.
2. A name is known from the moment its op is enqueued.
3. The branch is closed when the line is dropped, so a forgotten fork costs nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..backend.asked import Constraints
from ..backend.base import Backend, BackendBranch, GenRequest, Handle, ScoreRequest
from ..backend.contain import said
from ..lang.budget import default_budget
from ..lang.errors import Cancelled, CapabilityError, OptionError
from ..lang.expr import CallTools, Expr, Gen, RoleBegin, RoleEnd, Sampling, Select, Text, ToolTurn, flat
from .body import Pulse
from .record import BranchRecord
from .roles import Pieces, Roles
from .source import note, program_line
from .transcript import Segment, first_failure
from .usage import Ledger
from .variables import Called, Generated, Picked, Scope, Variable


class Line:
    """The branch, the transcript, the variables and the roles of one line of a program."""

    def __init__(
        self,
        backend: Backend,
        branch: BackendBranch,
        defaults: Sampling,
        pulse: Pulse,
        ledger: Ledger,
        record: BranchRecord | None = None,
    ) -> None:
        self.backend = backend
        self.branch = branch
        self.defaults = defaults
        self.pulse = pulse
        self.segments: list[Segment] = []
        self.own: dict[str, Variable] = {}  # defined here, in order
        self.inherited: dict[str, Variable] = {}
        self.asking = Constraints(backend, branch)
        self.roles = Roles(backend.chat_template, self.asking.syntax, backend.capabilities)
        self.turns = 0  # calls of tools so far
        self.ledger = ledger
        self.record = record  # where a trace notes what is said here
        self._bond: Bond | None = None  # the siblings that a failure of this branch cancels
        self.joined: list[Line] = []  # children whose variables were gathered here
        self._forked: list[weakref.ref[Line]] = []
        self._writing = threading.RLock()
        self._sealed: str | None = None
        self._synced: Handle[None] | None = None  # the barrier after everything that was said
        self._closed: Handle[None] | None = None  # the barrier of a branch that was closed
        self.log: list[Expr | Segment] | None = None  # in a fork: what was said since, with what the model wrote
        weakref.finalize(self, branch.closer()).atexit = False

    # -- saying more
    def say(self, expr: Expr) -> None:
        """Enqueue an expression. Raises only for a fault of the expression itself, before any of it is said."""
        at = program_line()
        parts = list(flat(expr))
        if any(isinstance(part, CallTools) for part in parts):
            for i in self.roles.in_thought(parts, self.asking.syntax):
                if isinstance(part := parts[i], CallTools):
                    parts[i] = replace(part, in_thought=True)
        parts = [self._resolved(part, at) for part in parts]
        with self._writing:
            self._check_open()
            self.roles.check(parts)
            for part, after in zip(parts, [*parts[1:], None]):
                self._say(part, at, after.text if isinstance(after, Text) and not after.special else "")
        self.pulse.beat()

    def _say(self, part: Expr, at: str, follow: str = "") -> None:
        if self.log is not None and not isinstance(part, (Gen, Select)):
            self.log.append(part)
        if isinstance(part, Text):
            if part.text:
                self._append(self.roles.add(part.text, part.special))
        elif isinstance(part, (Gen, Select)):
            self._ask(part, at, follow)
        elif isinstance(part, RoleBegin):
            self._append(self.roles.begin(part.role, part.tools))
        elif isinstance(part, RoleEnd):
            self._append(self.roles.end(part.role))
        elif isinstance(part, ToolTurn):
            self._append(self.roles.result(part.call, part.text))
        else:
            raise OptionError(f"{type(part).__name__} is not an expression this interpreter knows")

    def _ask(self, part: Gen | Select, at: str, follow: str) -> None:
        """Enqueue a call of the model and define its name."""
        where = _where(part, at)
        self.flush()
        self._synced = None
        gate = self.ledger.gate()
        trace = self.record is not None and self.record.tokens
        handle: Handle[Any]
        if isinstance(part, Gen):
            handle = self.branch.gen(
                GenRequest(
                    part.sampling, part.n, where, part.constraint, part.on_budget, follow, gate, trace, part.name
                )
            )
        else:
            handle = self.branch.score(
                ScoreRequest(part.choices, part.method, part.temperature, None, where, gate, trace, part.name)
            )
        segment = Segment(handle=handle, where=where)
        if self.record is not None:
            self.record.call(_op(part), where, part, handle)
        if self._bond is not None:
            self._bond.watch(self, handle)
        self.segments.append(segment)
        if self.log is not None:
            self.log.append(segment)
        self.roles.wrote(segment)
        self.ledger.call(where, handle)
        variable = self._variable(part, segment)
        if part.name is not None:
            self.own[part.name] = variable

    def _variable(self, part: Gen | Select, segment: Segment) -> Variable:
        if isinstance(part, Select):
            return Picked(segment)
        if isinstance(part, CallTools):
            self.turns += 1
            return Called(segment, part, self.asking.syntax(), self.turns - 1)
        return Generated(segment, part.n, part.constraint)

    def _append(self, pieces: Pieces) -> None:
        for text, markup in pieces:
            self._synced = None
            self.branch.append(text, markup=markup)
            if self.record is not None:
                self.record.constant(text)
            self.segments.append(Segment(text, markup=markup))

    def graft(self, said: Sequence[Expr | Segment]) -> None:
        """Say again what was said on finished branches; what the model wrote there becomes constant text."""
        with self._writing:
            self._check_open()
            try:
                self.roles.check(said)
            except OptionError as error:
                raise OptionError(
                    f"join: the branches cannot be concatenated, as their turns do not follow one another: {error}"
                ) from None
            for part in said:
                if isinstance(part, Segment):
                    self.flush()  # a turn that the model wrote is opened as one, here as there
                    for text, control in part.pieces:
                        self._say(Text(text, control), "")
                else:
                    self._say(part, "")
        self.pulse.beat()

    def restore(self, saved: dict[str, Any], text: Sequence[Sequence[Any]], roles: dict[str, Any], turns: int) -> None:
        """Put back the text of another line, which goes on here; see `BackendBranch.restore`."""
        with self._writing:
            self.branch.restore(saved)
            for part, markup in text:
                if self.record is not None:
                    self.record.constant(part)
                self.segments.append(Segment(part, markup=markup))
            self.roles.restore(roles)
            self.turns = turns
        self.pulse.beat()

    def flush(self) -> None:
        """Append the text that an open role held back, and results of tools."""
        if self.roles.holds_back:
            with self._writing:
                self._append(self.roles.release())

    def _resolved(self, part: Expr, at: str) -> Expr:
        """`part` with the program's sampling defaults under its own. Raises for what this backend cannot do."""
        can = self.backend.capabilities
        if isinstance(part, Select) and can.check is not None:
            can.check(part, _where(part, at))
        if isinstance(part, Select) and not can.score:
            raise CapabilityError(f"{_where(part, at)}: backend {can.name!r} cannot score choices")
        if not isinstance(part, Gen):
            return part
        if isinstance(part, CallTools):
            part = self.asking.of_call(part, _where(part, at))
        sampling = part.sampling.over(self.defaults)
        if can.check is not None:
            can.check(replace(part, sampling=sampling, n=sampling.n or 1), _where(part, at))
        if sampling.return_logprob and not can.logprobs:
            raise CapabilityError(f"{_where(part, at)}: backend {can.name!r} gives no log-probabilities")
        if not sampling.return_logprob and (sampling.top_logprobs_num or sampling.logprob_start_len is not None):
            option = "top_logprobs_num" if sampling.top_logprobs_num else "logprob_start_len"
            raise OptionError(f"{_where(part, at)}: {option}= needs return_logprob=True")
        least = sampling.min_tokens or 0
        if part.constraint is not None:
            self.asking.prepare(part.constraint, _where(part, at), part)
        most = sampling.max_tokens
        if most is None:
            sampling = replace(sampling, max_tokens=default_budget(part.constraint, least))
        elif least > most:
            raise OptionError(f"{_where(part, at)}: min_tokens={least} is more than max_tokens={most}")
        return replace(part, sampling=sampling, n=sampling.n or 1)

    # -- names
    def find(self, name: str) -> Variable | None:
        return self.own.get(name) or self.inherited.get(name)

    def names(self) -> list[str]:
        return [*(n for n in list(self.inherited) if n not in self.own), *list(self.own)]

    def define(self, name: str, variable: Variable) -> None:
        self.own[name] = variable
        self.pulse.beat()

    def open_scope(self, name: str) -> Scope:
        with self._writing:
            self._check_open()
            self.flush()
            scope = Scope(name, self.segments)
        self.define(name, scope)
        return scope

    def close_scope(self, scope: Scope) -> None:
        with self._writing:
            self.flush()
            scope.close()
        self.pulse.beat()

    # -- branching and ending
    def fork(self, n: int, together: bool = False) -> list[Line]:
        """Open `n` lines that go on from here. With `together`, when one fails the others are cancelled."""
        with self._writing:
            self._check_open()
            self.flush()
            self._synced = None
            branches = self.branch.fork(n) if n else ()
            children = [self._child(branch, f"branch {i} of {n}") for i, branch in enumerate(branches)]
        if together:
            bond = Bond(children)
            for child in children:
                child._bond = bond
        return children

    def _child(self, branch: BackendBranch, label: str) -> Line:
        record = None if self.record is None else self.record.fork(label)
        child = type(self)(self.backend, branch, self.defaults, self.pulse, Ledger(label, branch), record)
        child.asking.defers = self.asking.defers
        child.segments = list(self.segments)
        child.log = []
        known = {**self.inherited, **self.own}
        child.inherited = {k: v for k, v in known.items() if not (isinstance(v, Scope) and v.open)}
        child.roles, child.turns = self.roles.copy(), self.turns
        self.ledger.fork(child.ledger)
        if len(self._forked) >= 64 and len(self._forked) & (len(self._forked) - 1) == 0:
            self._forked = [ref for ref in self._forked if ref() is not None]
        self._forked.append(weakref.ref(child))
        return child

    def seal(self, why: str) -> None:
        """Refuse more text from now on; what was said is finished and can be read. `why` is for messages."""
        with self._writing:
            if self._sealed is None:
                self.flush()
                self._sealed = why
                self.branch.rest()

    def _check_open(self) -> None:
        if self._sealed is not None:
            raise OptionError(
                f"this branch {self._sealed} and can only be read now; append to the program it came from"
            )

    def rest(self) -> None:
        """Tell the backend that nothing follows for now."""
        with self._writing:
            if self._closed is None:
                self.flush()
                self.branch.rest()

    def close(self, barrier: Handle[None]) -> None:
        """Close the branch of a sealed line whose `barrier` is done; text and values stay readable."""
        assert barrier.done and self._sealed is not None
        with self._writing:
            self._closed = self._closed or barrier
            self.branch.close()

    def cancel(self, error: BaseException | None = None) -> None:
        """Cancel this branch and all branches forked from it. Takes no lock of the line, so a listener may cancel."""
        lines, at = [self], 0
        while at < len(lines):
            lines += [child for ref in list(lines[at]._forked) if (child := ref()) is not None]
            at += 1
        for line in reversed(lines):  # children first: their ops end before those of their parents
            line.branch.cancel(error)
        self.pulse.beat()

    def barrier(self) -> Handle[None]:
        """A handle that is done when everything said so far is, or carries the branch's error."""
        with self._writing:
            if self._closed is not None:
                return self._closed
            self.flush()
            if self._synced is None:
                self._synced = self.branch.sync()
            return self._synced

    def failure(self) -> Handle[None]:
        """`barrier()` for a program that is not over: it carries an error of the branch that came after all ops ended.

        One handle is kept, so every read raises the error with the same traceback.
        """
        with self._writing:
            if (
                (last := self._synced) is not None
                and last.done
                and last.error is None
                and self.branch.error is not None
            ):
                self._synced = None
            return self.barrier()

    def barriers(self) -> list[Handle[None]]:
        """The barriers of this branch and of every branch that was joined here."""
        return [line.barrier() for line in self.with_joined()]

    def with_joined(self) -> Iterator[Line]:
        """This line and every line that was joined here, parents first. Forks may nest deeper than Python recurses."""
        stack = [self]
        while stack:
            line = stack.pop()
            yield line
            stack += reversed(line.joined)

    def pending(self) -> bool:
        """Whether some gen or select of this branch, or of one joined here, is not done."""
        return any(not s.done for line in self.with_joined() for s in line.segments)

    def explain(self, error: BaseException) -> BaseException:
        """Add a note to `error`: the op that it comes from."""
        failed = first_failure(self.segments, error)
        if failed is not None:
            note(error, f"raised by {failed.where}")
        return error


class Bond:
    """Branches of one fork that fall together: when one fails, its siblings are cancelled.

    A branch that the program itself cancelled has not failed.
    """

    __slots__ = ("_members", "_size")

    def __init__(self, members: Sequence[Line]) -> None:
        self._members = [weakref.ref(member) for member in members]
        self._size = len(members)

    def watch(self, line: Line, handle: Handle[Any]) -> None:
        failing = weakref.ref(line)

        def look() -> None:
            if handle.done and handle.error is not None and not isinstance(handle.error, Cancelled):
                self._fall(failing(), handle)

        handle.listen(look)

    def _fall(self, failed: Line | None, handle: Handle[Any]) -> None:
        assert handle.error is not None
        members, self._members = self._members, []
        i = next((i for i, member in enumerate(members) if member() is failed), None)
        why = Cancelled(
            f"cancelled because branch {i} of {self._size} failed: {handle.where}: {said(handle.error):.200}"
        )
        why.__cause__ = handle.error
        for member in members:
            if (sibling := member()) is not None and sibling is not failed:
                sibling.cancel(why)


def _op(part: Gen | Select) -> str:
    return "call" if isinstance(part, CallTools) else "gen" if isinstance(part, Gen) else "select"


def _where(part: Gen | Select, at: str) -> str:
    """How messages name a call: `gen('answer') at prog.py:12`."""
    return f"{_op(part)}({'' if part.name is None else repr(part.name)}) at {at}"
