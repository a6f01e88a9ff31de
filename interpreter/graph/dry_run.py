"""A backend without a model, for tracing: gens and selects answer at once with placeholders.

Owns: the `Backend` and `Branch` of a traced program, the lines of the graph while they grow, and the rules by which a
run without a model ends. Knows nothing of program states (`dry_state.py`), of printing, or of what a graph is for.

Invariants
- Nothing is global: all of it hangs on one `Trace`.
- Every op, read and look counts against the trace's limit. Once a trace has ended, every further one raises, so no
  body goes on for ever on the strength of values that do not exist.
- `Ended` is no `Exception`: a body's own `except Exception` does not swallow it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...backend.base import (
    Backend,
    Capabilities,
    ChoiceScores,
    GenRequest,
    GenResult,
    Handle,
    ScoreRequest,
    ScoreResult,
    StepRecord,
    Usage,
)
from ...lang.chat import ChatTemplate
from ...lang.constraint import KINDS, Constraint
from ...lang.errors import OptionError
from ..source import program_line
from .nodes import Forked, Nodes, Read, Stopped, Subprogram
from .placeholder import Placeholder

PLAIN = ChatTemplate(
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    name="plain chat template",
)
"""What turns look like when no backend says it: `user: ...`."""

_BRACES = re.compile(r"\{[^{}]*\}")
_PATIENCE = 1000  # refused ops after the end, before each further one waits a little


class Ended(BaseException):
    """Raised in a body to end its trace."""


class Trace:
    """One traced run. All its threads share it."""

    def __init__(self, target: Backend | None, binds: bool, limit: int) -> None:
        self.target = target
        self.binds = binds  # the program is bound to `target`: what that one cannot do is an error
        self.limit = limit
        self.lock = threading.RLock()
        self.ops = 0
        self.stopped: Stopped | None = None
        self.over = False
        self.guessed = False  # the body has a placeholder,
        self.read = False  # and one that stands for what a model writes
        self.spelt: dict[str, Placeholder] = {}  # how a placeholder looks in a text -> it
        self.backend_errors: list[BaseException] = []
        self.prepared = 0.0  # seconds that the backend took to prepare constraints, which has a deadline of its own
        self.preparing: float | None = None  # since when it does
        self.on_look: Callable[[Read], None] = lambda read: None
        self._refused = 0

    def argument(self, name: str) -> Placeholder:
        self.guessed = True
        return self.spelt.setdefault(f"{{{name}}}", Placeholder(name, "argument", self))

    def value(self, name: str | None, n: int) -> list[Placeholder]:
        """What the model would write: `{name}`, or for n > 1 `{name[0]}`, `{name[1]}`, ..."""
        shown = [name or "gen"] if n == 1 else [f"{name or 'gen'}[{i}]" for i in range(n)]
        found = [Placeholder(each, "value", self) for each in shown]
        self.spelt.update((str.__str__(p), p) for p in found)
        return found

    def held_by(self, text: str) -> list[Placeholder]:
        """The placeholders that stand in a text. (A text that happens to spell one is taken for it.)"""
        return [p for found in _BRACES.finditer(text) if (p := self.spelt.get(found[0])) is not None]

    def certain_part(self, text: str) -> str:
        """What comes before the first placeholder."""
        at = (found.start() for found in _BRACES.finditer(text) if found[0] in self.spelt)
        return text[: next(at, len(text))]

    def seconds_excused(self) -> float:
        since = self.preparing
        return self.prepared + (0.0 if since is None else time.monotonic() - since)

    # -- the end
    def count(self, ops: int = 1) -> None:
        """Every op passes here. Raises once the trace is at its end."""
        with self.lock:
            self.ops += ops
            if self.stopped is None and self.ops > self.limit and not self.over:
                self._stop(f"the body says and reads more than limit={self.limit} things")
        if not self.over and self.stopped is None:
            return
        self._refused += 1
        if self._refused > _PATIENCE:
            time.sleep(0.05)  # a body that catches even this must not burn a core
        if self.over:
            raise OptionError("this is the state of a traced program, and its trace is over; use run() to run it")
        raise Ended(self.stopped)

    def stop(self, why: str, line: str | None = None) -> Ended:
        with self.lock:
            self._stop(why, line)
        return Ended(self.stopped)

    def _stop(self, why: str, line: str | None = None) -> None:
        self.stopped = self.stopped or Stopped(why, line or program_line())

    # -- what placeholders tell
    def looked(self, placeholder: Placeholder) -> None:
        if self.over:
            return
        self.count()
        if placeholder.what == "argument":
            self.on_look(Read(placeholder.name, "argument", program_line()))

    def refused(self, placeholder: Placeholder, what: str) -> BaseException:
        spelt = str.__str__(placeholder)
        if self.over:
            return TypeError(f"{spelt} is a placeholder of a trace that is over")
        return self.stop(f"the body {what} {spelt}, a placeholder; only a run has its value")


@dataclass
class Line:
    """What was said on one line of a program so far; a fork's branches are lines of their own."""

    depth: int = 0
    nodes: list[Any] = field(default_factory=list)  # graph nodes, `Open`s among them until `frozen`
    certain: bool = True  # nothing was read yet that differs from run to run

    def add(self, node: Any) -> None:
        if not (isinstance(node, Read) and self.nodes and self.nodes[-1] == node):
            self.nodes.append(node)

    def frozen(self) -> Nodes:
        return tuple(node.frozen() if isinstance(node, Open) else node for node in list(self.nodes))


@dataclass
class Open:
    """A fork (`name` None) or a program, while its lines may still grow."""

    name: str | None
    lines: list[Line]
    line: str

    def frozen(self) -> Forked | Subprogram:
        if self.name is not None:
            return Subprogram(self.name, self.lines[0].frozen(), self.line)
        return Forked(tuple(line.frozen() for line in self.lines), self.line)


class DryBranch:
    """A branch whose ops are done at once. Notes the constant text that every run begins with."""

    def __init__(self, trace: Trace, line: Line) -> None:
        self.trace, self.line = trace, line
        self.usage = Usage()
        self.error: BaseException | None = None
        self.seed: int | None = None
        self.names: deque[str | None] = deque()  # of the gens and selects about to be enqueued
        self.prefix: list[tuple[str, bool]] = []

    def append(self, text: str, *, markup: bool = False) -> None:
        if not self.line.certain:
            return
        if certain := self.trace.certain_part(text):
            self.prefix.append((certain, markup))
        self.line.certain = certain == text

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        texts = self.trace.value(self._name(), request.n)
        receipt = None if request.constraint is None else Unknown(self.trace, request.where)
        reason = {"type": "stop", "matched": None}
        return self._done([GenResult(t, [], reason, Usage(), receipt=receipt) for t in texts], request.where)

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        first = Placeholder(self._name() or "select", "value", self.trace, request.choices[0])
        scores = ChoiceScores([[] for _ in request.choices])
        return self._done(ScoreResult(0, first, scores, {}, Usage()), request.where)

    def hold(self, until: Handle[Any]) -> None:
        """What it would wait for was waited for where it was said."""

    def _name(self) -> str | None:
        return self.names.popleft() if self.names else None

    def _done(self, result: Any, where: str) -> Handle[Any]:
        self.line.certain = False
        handle: Handle[Any] = Handle(where)
        handle.finish(result)
        return handle

    def fork(self, n: int) -> Sequence[DryBranch]:
        return [DryBranch(self.trace, Line(self.line.depth + 1, certain=False)) for _ in range(n)]

    def sync(self) -> Handle[None]:
        handle: Handle[None] = Handle("sync")
        handle.finish(None)
        return handle

    def rest(self) -> None:
        return None

    def cancel(self, error: BaseException | None = None) -> None:
        return None  # nothing is under way

    def closer(self) -> Callable[[], None]:
        return self.close

    def close(self) -> None:
        return None


class Unknown(dict[str, Any]):
    """The receipt of a constrained gen that never ran: whoever asks it for the value ends the trace."""

    def __init__(self, trace: Trace, where: str) -> None:
        super().__init__()
        self._trace, self._where = trace, where

    def __missing__(self, key: str) -> Any:
        raise self._trace.stop(f"the body asks for the typed value of {self._where.split(' at ')[0]}, which a run has")


class DryBackend:
    """The `Backend` of a traced program: the chat template and, if the program is bound, the capabilities of `target`,
    and no model."""

    is_dry = True

    def __init__(self, trace: Trace, target: Backend | None, line: Line) -> None:
        self.trace, self.line, self.target = trace, line, target
        self.where = program_line()  # where programs that are started on it are started
        self.chat_template = PLAIN if target is None else target.chat_template
        self._bound = target if trace.binds else None
        self.capabilities = Capabilities("a trace", constraints=KINDS)
        if self._bound is not None:
            self.capabilities = self._bound.capabilities

    def prepared(self, constraint: Constraint) -> bool:
        return True  # a traced body has a thread of its own, where it may wait

    def prepare(self, constraint: Constraint, where: str) -> None:
        if self._bound is None or self.trace.held_by(repr(constraint)):
            return  # what is made of a placeholder is not the constraint of any run
        trace = self.trace
        trace.preparing = began = time.monotonic()
        try:
            self._bound.prepare(constraint, where)
        except Exception as error:
            trace.backend_errors.append(error)
            raise
        finally:
            trace.preparing = None
            trace.prepared += time.monotonic() - began

    def open(self, *, seed: int | None = None, timeout: float | None = None, caller: Any = None) -> DryBranch:
        return DryBranch(self.trace, self.line)

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Ours are all done; somebody else's is waited for until the trace is over."""
        self.trace.count()
        if handle.ready(seen):
            return True
        woken, ends = threading.Event(), None if timeout is None else time.monotonic() + timeout
        handle.listen(woken.set)
        try:
            while not handle.ready(seen) and (ends is None or time.monotonic() < ends):
                woken.wait(0.02)
                self.trace.count(0)
        finally:
            handle.unlisten(woken.set)
        return handle.ready(seen)

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        self.trace.count()
        while not handle.ready(seen):
            await asyncio.sleep(0.02)
            self.trace.count(0)

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        return 0

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        return lambda: None

    def flush_cache(self) -> bool:
        return True

    def get_server_info(self) -> dict[str, Any]:
        return {}

    def shutdown(self) -> None:
        return None
