"""A job: the op a branch is computing for. What the scheduler and the engine ask of gen, select and warm-up.

Owns: the protocol between an op and the step, and the usage of one call. A job says how far its branch's path must be
computed and whether the last row's logits are wanted; it may have tries of side chains; it reads logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....lang.errors import ProgramTimeout
from ...base import Handle, Usage
from ..kv.chain import Trie
from ..sample.ask import Looked
from ..sample.sampler import Sampled

if TYPE_CHECKING:
    from ..program.branch import Branch
    from ..step.executor import Ask
    from ..step.span import Span
    from .told import Told


class Job:
    """Base: a job without logits (computing KV ahead of need)."""

    told: Told | None = None  # of a traced call

    def __init__(self, branch: Branch, handle: Handle[Any], where: str, timeout: float | None = None) -> None:
        self.handle = handle
        self.where = where
        self.started = time.monotonic()  # its turn came
        self.begun: float | None = None  # its first step was planned
        self.timeout = timeout
        self.tries: list[Trie] = []
        self.usage = Usage(calls=1, prompt=branch.length, reused=branch.length)
        self.prompt_length = branch.length

    # -- what the scheduler asks
    def most(self) -> int:
        """Tokens it may still generate."""
        return 0

    def target(self, branch: Branch) -> int:
        """How deep the branch's path must be computed next."""
        return branch.length

    def wants_last(self) -> bool:
        """Whether the row of the last token is wanted when the path is computed."""
        return False

    def open_chains(self) -> list[Any]:
        """Side chains with rows still to compute, in an order one step can take them."""
        if not self.tries:
            return []
        return [chain for trie in self.tries if not trie.done for chain in trie.chains if chain.computed < chain.rows]

    def account(self, branch: Branch, start: int, end: int) -> None:
        """Rows start .. end-1 of the branch's path are being computed for this call."""
        account = branch.program.account
        if start >= branch.high and start >= self.prompt_length and self.told is None:  # decoding, as a rule
            self.usage.computed += end - start
            account.rows += end - start
            account.computed += end - start
            branch.high = end
            return
        again = max(0, min(end, branch.high) - start)
        fresh_prompt = max(0, min(end, self.prompt_length) - max(start, branch.high))
        self.usage.computed += end - start
        self.usage.recomputed += again
        self.usage.reused -= fresh_prompt
        account.rows += end - start
        account.computed += end - start - again
        branch.high = max(branch.high, end)
        if self.told is not None:
            self.told.computed(start, end)

    def account_chain(self, rows: int) -> None:
        """Rows of a side chain are being computed for this call."""
        self.usage.computed += rows

    def in_step(self, now: float) -> None:
        """A step that is being planned has spans of this job."""
        self.usage.steps += 1
        if self.begun is None:
            self.begun = now

    def stamp(self) -> float:
        """The job is over: note how long it waited and ran. When it began, if it had a step."""
        now = time.monotonic()
        begun = now if self.begun is None else self.begun
        self.usage.queued, self.usage.running = begun - self.started, now - begun
        return now

    # -- what the engine asks when the step is there
    def asks(self, branch: Branch, span: Span) -> list[Ask]:
        """What is wanted of each row in `span.want`, in order."""
        return []

    def runs_ahead(self) -> bool:
        """Whether the next step may compute the row of the token that is being sampled, whatever it will be."""
        return False

    def accept(self, branch: Branch, sampled: Sampled) -> None:
        """Take a sampled token."""

    def read(self, branch: Branch, span: Span, rows: Sequence[Looked]) -> None:
        """Take the answers about the rows in `span.want`."""

    def settled(self, branch: Branch) -> bool:
        """Whether the job is over (its handle complete) after this step."""
        return branch.computed >= branch.length

    def close(self, branch: Branch) -> None:
        """The job is over without error."""
        self.handle.finish(self.usage)

    # -- interruptions
    def overdue(self, now: float) -> bool:
        return self.timeout is not None and now - self.started > self.timeout

    def timeout_error(self) -> ProgramTimeout:
        return ProgramTimeout(f"{self.where}: timeout={self.timeout:g} s passed before it finished")

    def park(self, branch: Branch) -> None:
        for trie in self.tries:
            trie.give_back(branch.tree.pool)

    def abandon(self, branch: Branch, error: BaseException) -> None:
        """The job ends with `error`; what it cost is its branch's."""
        self.park(branch)
        self.stamp()
        branch.usage.add(self.usage)
        branch.engine.meter.ended.add(self.usage)
        self.handle.usage = self.usage
        self.handle.finish(None, error)
