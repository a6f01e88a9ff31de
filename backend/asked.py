"""`Constraints`: the constraints of one line's calls, made ready on its backend. Knows nothing of what is said.

1. In a sync program a constraint is compiled when its call is said. In a coroutine it is compiled on a thread, and the
   branch waits for it: the event loop goes on.
2. A stranger's tool that the backend cannot enforce is left out of a call, in both; the program's own is an error. In a
   coroutine the strangers' schemas are therefore compiled when the call is said, each once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from ..lang.advice import advice
from ..lang.constraint import Constraint, kinds
from ..lang.errors import CapabilityError, ConstraintError, ToolError
from ..lang.expr import CallTools, Gen
from ..lang.syntax import CallSyntax, syntax_for
from ..lang.tools.spec import ToolSpec
from .base import Backend, BackendBranch, Handle


class Constraints:
    """The constraints of the calls on one branch. `defers`: in a coroutine."""

    def __init__(self, backend: Backend, branch: BackendBranch) -> None:
        self._backend, self._branch = backend, branch
        self.defers = False

    def syntax(self) -> CallSyntax:
        """How this backend's model writes calls of tools."""
        can = self._backend.capabilities
        return syntax_for(self._backend.chat_template, can.call_syntax, can.control_tokens)

    def of_call(self, part: CallTools, where: str) -> CallTools:
        """`part` with its constraint. A tool that the backend refuses is left out, unless it is the program's own."""
        can = self._backend.capabilities
        if can.turns:
            raise CapabilityError(
                f"{where}: backend {can.name!r} is not told of tools by this version of sgl; run the program on an "
                "sgl.Runtime(...)"
            )
        wanted = self.syntax().constraint(
            part.tools,
            choice=part.choice,
            calls=(part.least, part.most),
            answer=part.answer,
            thinking="open" if part.in_thought else "none",
        )
        if self.defers:
            found = {} if self._backend.prepared(wanted) else self._refused(part, part.own)
            return self._without(part, found, where) if found else replace(part, constraint=wanted)
        try:
            self.prepare(wanted, where)
        except ConstraintError:
            if (found := self._refused(part)) and len(found) < len(part.tools):
                return self._without(part, found, where)
            raise
        return replace(part, constraint=wanted)

    def _without(self, part: CallTools, refused: dict[str, str], where: str) -> CallTools:
        left: Sequence[ToolSpec] = [tool for tool in part.tools if tool.name not in refused]
        for name, why in refused.items():
            if name in part.own or name == part.choice or not left:
                raise ToolError(f"{where}: {why}") from None
            advice.give(("refused tool", name), f"{why}; this tool is left out")
        return self.of_call(replace(part, tools=tuple(left)), where)

    def _refused(self, part: CallTools, known: frozenset[str] = frozenset()) -> dict[str, str]:
        """The tools (but those of the names `known`) whose arguments the backend cannot enforce, and why."""
        found = {}
        for tool in part.tools:
            try:
                if tool.name not in known and not self._backend.prepared(tool.parameters):
                    self._backend.prepare(tool.parameters, f"tool {tool.name}, parameters")
            except ConstraintError as error:
                found[tool.name] = str(error)
        return found

    def prepare(self, constraint: Constraint, where: str, part: Gen | None = None) -> None:
        """Compile the constraint of `part`, which comes next. In a coroutine the branch has the error, if any."""
        can = self._backend.capabilities
        lacks = kinds(constraint) - can.constraints
        if lacks:
            raise CapabilityError(
                f"{where}: backend {can.name!r} cannot enforce {', '.join(sorted(lacks))} constraints"
            )
        if not self.defers or self._backend.prepared(constraint):
            self._backend.prepare(constraint, where)
            return
        ready: Handle[None] = Handle(where)

        def prepare() -> None:
            try:
                self._backend.prepare(constraint, where)
            except BaseException as error:
                bad = self._refused(part) if isinstance(part, CallTools) and isinstance(error, ConstraintError) else {}
                ready.finish(None, next((ToolError(f"{where}: {why}") for why in bad.values()), error))
            else:
                ready.finish(None)

        threading.Thread(target=prepare, name="sgl-prepare", daemon=True).start()
        self._branch.hold(ready)
