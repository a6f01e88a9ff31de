"""A dry run: a body runs without a model, and what it says is collected as a graph.

Gens and selects answer at once with placeholders. Knows nothing of program states (`dry_state.py`), of printing, or of
what a graph is for.

Invariants
1. Nothing is global: everything hangs on one `GraphCollector`.
2. Every op, read and look counts against the collector's limit. After the end each further one raises, so a body that
   waits for a value that does not exist cannot go on for ever.
3. `GraphEnded` is no `Exception`, so a body's own `except Exception` does not catch it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from ..run import Instance, running
from ..source import program_line
from .nodes import MAX_DEPTH, Forked, Node, Nodes, Read, Stopped, Subprogram
from .placeholder import Placeholder

PLAIN = ChatTemplate(
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    name="plain chat template",
)
"""How turns are written when no backend says it: `user: ...`."""

_BRACES = re.compile(r"\{[^{}]*\}")
_FREE_REFUSALS = 1000
"""Ops that are refused after the end at full speed. Each further one waits 0.05 s: a body that catches even
`GraphEnded` must not keep a core busy."""


class GraphEnded(BaseException):
    """Raised in a body to end its dry run."""


class GraphCollector:
    """One dry run: its limit, its placeholders and its end. All threads of the body share it.

    `binds`: the program is bound to a backend, so what that backend cannot do is an error.
    """

    def __init__(self, binds: bool, limit: int) -> None:
        self.binds, self.limit = binds, limit
        self.stopped: Stopped | None = None
        self.over = False
        self.guessed = False  # the body was given a placeholder
        self.read = False  # the body has read a value that a model writes
        self.backend_errors: list[BaseException] = []
        self._prepared = 0.0  # seconds that the backend took to prepare constraints, which has a deadline of its own
        self._preparing: float | None = None  # since when it does
        self._spelt: dict[str, Placeholder] = {}  # how a placeholder looks in a text -> it
        self._lock = threading.RLock()
        self._ops = -1  # the program itself does not count
        self._refused = 0

    # -- placeholders
    def argument(self, name: str) -> Placeholder:
        """Make the placeholder of a program argument that was not given."""
        self.guessed = True
        return self._spelt.setdefault(f"{{{name}}}", Placeholder(name, "argument", self))

    def values(self, name: str | None, n: int) -> list[Placeholder]:
        """Make the placeholders of what a model would write: `{name}`, or for n > 1 `{name[0]}`, `{name[1]}`, ..."""
        shown = [name or "gen"] if n == 1 else [f"{name or 'gen'}[{i}]" for i in range(n)]
        found = [Placeholder(each, "value", self) for each in shown]
        self._spelt.update((str.__str__(p), p) for p in found)
        return found

    def held_by(self, text: str) -> list[Placeholder]:
        """Find the placeholders in a text. A text that happens to spell one is taken for it."""
        return [p for found in _BRACES.finditer(text) if (p := self._spelt.get(found[0])) is not None]

    def certain_part(self, text: str) -> str:
        """Cut `text` before its first placeholder."""
        return text[: next((found.start() for found in _BRACES.finditer(text) if found[0] in self._spelt), len(text))]

    def looked(self, placeholder: Placeholder) -> None:
        """Note on the running body's own branch that the body looks at an argument."""
        if self.over:
            return
        self.count()
        branch = branch_here()
        if placeholder.what == "argument" and branch is not None:
            branch.certain = False
            branch.add(Read(placeholder.name, "argument", program_line()))

    def refused(self, placeholder: Placeholder, what: str) -> BaseException:
        """Stop, because the body does with a placeholder what only a value can do; the exception to raise."""
        spelt = str.__str__(placeholder)
        if self.over:
            return TypeError(f"{spelt} is a placeholder of a graph that is finished")
        return self.stop(f"the body {what} {spelt}, a placeholder; only a run has its value")

    # -- the end
    def count(self, ops: int = 1) -> None:
        """Count ops that are about to be done. Raises at the limit and after the end."""
        with self._lock:
            self._ops += ops
            if self.stopped is None and self._ops > self.limit and not self.over:
                self.stop(f"the body says and reads more than limit={self.limit} things")
        if not self.over and self.stopped is None:
            return
        self._refused += 1
        if self._refused > _FREE_REFUSALS:
            time.sleep(0.05)
        if self.over:
            raise OptionError("this is the state of a program whose graph is finished; use run() to run the program")
        raise GraphEnded(self.stopped)

    def stop(self, why: str, line: str | None = None) -> GraphEnded:
        """End the dry run here, if it has not ended; the exception to raise in the body."""
        with self._lock:
            self.stopped = self.stopped or Stopped(why, line or program_line())
        return GraphEnded(self.stopped)

    # -- time that is not the body's
    def prepare(self, backend: Backend, constraint: Constraint, where: str) -> None:
        """Have `backend` prepare a constraint, unless a placeholder is in it: no run has that constraint."""
        if self.held_by(repr(constraint)):
            return
        self._preparing = began = time.monotonic()
        try:
            backend.prepare(constraint, where)
        except Exception as error:
            self.backend_errors.append(error)
            raise
        finally:
            self._preparing = None
            self._prepared += time.monotonic() - began

    def seconds_excused(self) -> float:
        """Seconds that the backend has spent on preparing constraints."""
        since = self._preparing
        return self._prepared + (0.0 if since is None else time.monotonic() - since)


@dataclass
class GrowingNode:
    """A fork (`name` None) or a program, while more may be said on its branches."""

    name: str | None
    branches: list[DryBranch]
    line: str

    def frozen(self) -> Forked | Subprogram:
        if self.name is not None:
            return Subprogram(self.name, self.branches[0].frozen(), self.line)
        return Forked(tuple(branch.frozen() for branch in self.branches), self.line)


class DryBranch:
    """A backend's branch whose ops are done at once, and the sequence of what was said on it.

    `prefix` is the constant text that every run begins with. It grows while the branch is `certain`: until something
    is read that differs from run to run.
    """

    def __init__(self, collector: GraphCollector, depth: int = 0, certain: bool = True) -> None:
        self.collector, self.depth, self.certain = collector, depth, certain
        self.prefix: list[tuple[str, bool]] = []
        self.names: deque[str | None] = deque()  # of the gens and selects about to be enqueued
        self.usage = Usage()
        self.error: BaseException | None = None
        self.seed: int | None = None
        self._nodes: list[Node | GrowingNode] = []

    # -- the graph
    def add(self, node: Node | GrowingNode) -> None:
        """Add a node at the end of the sequence. A read that repeats the one before it is not added."""
        if not (isinstance(node, Read) and self._nodes and self._nodes[-1] == node):
            self._nodes.append(node)

    def frozen(self) -> Nodes:
        """The sequence so far."""
        return tuple(node.frozen() if isinstance(node, GrowingNode) else node for node in list(self._nodes))

    def deeper(self, certain: bool) -> DryBranch:
        """Make the branch of a fork's child or of a program that is started here. Stops the dry run at `MAX_DEPTH`."""
        if self.depth >= MAX_DEPTH:
            raise self.collector.stop(f"forks and programs are more than {MAX_DEPTH} deep")
        return DryBranch(self.collector, self.depth + 1, certain)

    # -- the protocol of a backend's branch
    def append(self, text: str, *, markup: bool = False) -> None:
        if not self.certain:
            return
        if certain := self.collector.certain_part(text):
            self.prefix.append((certain, markup))
        self.certain = certain == text

    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        texts = self.collector.values(self._name(), request.n)
        receipt = None if request.constraint is None else UnknownReceipt(self.collector, request.where)
        reason = {"type": "stop", "matched": None}
        return self._done([GenResult(t, [], reason, Usage(), receipt=receipt) for t in texts], request.where)

    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        first = Placeholder(self._name() or "select", "value", self.collector, request.choices[0])
        scores = ChoiceScores([[] for _ in request.choices])
        return self._done(ScoreResult(0, first, scores, {}, Usage()), request.where)

    def _name(self) -> str | None:
        return self.names.popleft() if self.names else None

    def _done(self, result: Any, where: str) -> Handle[Any]:
        self.certain = False
        handle: Handle[Any] = Handle(where)
        handle.finish(result)
        return handle

    def fork(self, n: int) -> Sequence[DryBranch]:
        return [self.deeper(certain=False) for _ in range(n)]

    def sync(self) -> Handle[None]:
        handle: Handle[None] = Handle("sync")
        handle.finish(None)
        return handle

    def saved(self) -> Handle[dict[str, Any]]:
        raise self.collector.stop("the body saves its text, which a run has")

    def restore(self, data: dict[str, Any]) -> None:
        raise self.collector.stop("the body goes on with the text of another run")

    def closer(self) -> Callable[[], None]:
        return self.close

    def hold(self, until: Handle[Any]) -> None: ...  # nothing is under way here, so nothing is held, rested or ended
    def rest(self) -> None: ...
    def cancel(self, error: BaseException | None = None) -> None: ...
    def close(self) -> None: ...


def branch_here() -> DryBranch | None:
    """The own branch of the program whose dry body runs in this thread or task."""
    caller = running.get()
    branch = None if caller is None else caller.line.branch
    return branch if isinstance(branch, DryBranch) and not branch.collector.over else None


class UnknownReceipt(dict[str, Any]):
    """The receipt of a constrained gen that never ran. Asking it for the value ends the dry run."""

    def __init__(self, collector: GraphCollector, where: str) -> None:
        super().__init__()
        self._collector, self._where = collector, where

    def __missing__(self, key: str) -> Any:
        gen = self._where.split(" at ")[0]
        raise self._collector.stop(f"the body asks for the typed value of {gen}, which a run has")


class DryBackend:
    """A backend without a model, for a program that is started on `branch`.

    It has the chat template of `target` and, if the program is bound to it, its capabilities.
    """

    instance_type: type[Instance]  # what runs a program here; `dry_state.py` says it

    def __init__(self, branch: DryBranch, target: Backend | None) -> None:
        self.branch, self.target = branch, target
        self.collector = branch.collector
        self.where = program_line()  # where programs that are started on it are started
        self.chat_template = PLAIN if target is None else target.chat_template
        self._bound = target if self.collector.binds else None
        self.capabilities = Capabilities("a dry run", constraints=KINDS)
        if self._bound is not None:
            self.capabilities = self._bound.capabilities

    def open(self, *, seed: int | None = None, timeout: float | None = None, caller: Any = None) -> DryBranch:
        return self.branch

    def prepared(self, constraint: Constraint) -> bool:
        return True  # a dry body has a thread of its own, where it may wait

    def prepare(self, constraint: Constraint, where: str) -> None:
        if self._bound is not None:
            self.collector.prepare(self._bound, constraint, where)

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Wait for a handle of another program until the dry run is over. All handles of a dry run are done."""
        self.collector.count()
        if handle.ready(seen):
            return True
        woken, ends = threading.Event(), None if timeout is None else time.monotonic() + timeout
        handle.listen(woken.set)
        try:
            while not handle.ready(seen) and (ends is None or time.monotonic() < ends):
                woken.wait(0.02)
                self.collector.count(0)
        finally:
            handle.unlisten(woken.set)
        return handle.ready(seen)

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        self.collector.count()
        while not handle.ready(seen):
            await asyncio.sleep(0.02)
            self.collector.count(0)

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        return 0

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        return lambda: None

    def flush_cache(self) -> bool:
        return True

    def get_server_info(self) -> dict[str, Any]:
        return {}

    def shutdown(self) -> None: ...
