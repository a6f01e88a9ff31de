"""A job: the op that a branch computes for. What the scheduler and the engine ask of gen, select and warm-up.

Knows nothing of how steps are planned. A job says how far its branch's path must be computed, and whether the logits
of the last row are wanted. It may have side chains. It takes the answers about its rows, and accounts for one call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....lang.advice import Advice
from ....lang.errors import ProgramTimeout
from ...base import Handle, Usage
from ..kv.chain import Chain, Trie, Vertex
from ..meter import Meter
from ..program.branch import Branch
from ..sample.ask import Looked, Lookup
from ..sample.sampler import Request, Sampled
from ..text.tokenizer import Tokenizer
from .told import StepClock, Told


@dataclass(frozen=True, slots=True)
class JobContext:
    """What an engine gives to each job at its birth."""

    tokenizer: Tokenizer
    context_length: int
    meter: Meter
    clock: StepClock
    advice: Advice


class Job:
    """A job without logits: it computes KV ahead of need. The base of all jobs.

    `branch`: what it works on. `handle`: what completes when it is over. `where`: op and program line, for errors.
    `timeout`: seconds from the op's turn.
    """

    told: Told | None = None  # of a traced call
    constrained = False  # whether its rows need a mask
    draft: Sequence[int] = ()  # tokens that may follow its text, for the next plan

    def __init__(
        self, branch: Branch, handle: Handle[Any], where: str, context: JobContext, timeout: float | None = None
    ) -> None:
        self.branch = branch
        self.cursor = branch.cursor
        self.handle = handle
        self.where = where
        self.tokenizer = context.tokenizer
        self.meter = context.meter
        self.started = time.monotonic()  # its turn came
        self.begun: float | None = None  # its first step was planned
        self.timeout = timeout
        self.tries: list[Trie] = []
        self.prompt_length = self.cursor.length
        self.usage = Usage(calls=1, prompt=self.prompt_length, reused=self.prompt_length)

    # -- what the scheduler asks
    def most(self) -> int:
        """Tokens it may still generate."""
        return 0

    def target(self) -> int:
        """How deep the branch's path must be computed next."""
        return self.cursor.length

    def wants_last(self) -> bool:
        """Whether the row of the last token is wanted when the path is computed."""
        return False

    def open_chains(self) -> list[Chain]:
        """Side chains with rows still to compute, in an order one step can take them."""
        if not self.tries:
            return []
        return [chain for trie in self.tries if not trie.done for chain in trie.chains if chain.computed < chain.rows]

    def account(self, start: int, end: int, step: int, now: float) -> None:
        """Account for rows start .. end-1 of the path in step number `step`, whose plan began at `now`."""
        branch, cursor, usage = self.branch, self.cursor, self.usage
        if branch.planned_in != step:
            self.join(step, now)
        account, rows, high = branch.account, end - start, cursor.high
        usage.computed += rows
        account.rows += rows
        if start >= high and start >= self.prompt_length:  # decoding, as a rule
            account.computed += rows
            cursor.high = end
        else:
            again = max(0, min(end, high) - start)
            usage.recomputed += again
            usage.reused -= max(0, min(end, self.prompt_length) - max(start, high))
            account.computed += rows - again
            cursor.high = max(high, end)
        if self.told is not None:
            self.told.computed(start, end)

    def account_chain(self, rows: int) -> None:
        """Account for rows of a side chain."""
        self.usage.computed += rows

    def account_draft(self, rows: int) -> None:
        """Account for rows of tokens that may follow."""
        self.usage.computed += rows
        self.usage.drafted += rows

    def join(self, step: int, now: float) -> None:
        """Take part in step number `step`, whose plan began at `now`."""
        if self.branch.planned_in != step:
            self.branch.planned_in = step
            self.usage.steps += 1
            if self.begun is None:
                self.begun = now

    # -- what the engine asks when the step is there
    def ask(self) -> Request | Lookup:
        """Say what is wanted of the path's last row. Raises the error of a mask that cannot be made."""
        raise NotImplementedError("a job that wants a row says what for")

    def ask_drafted(self, draft: Sequence[int]) -> list[Request]:
        """Say what is wanted of the path's last row, and of the rows of `draft`, as if its tokens were the text."""
        raise NotImplementedError("a job with a draft says what for")

    def ask_chain(self, vertices: list[Vertex]) -> Sequence[Request | Lookup]:
        """Say what is wanted of the rows of these vertices of a side chain."""
        raise NotImplementedError("a job with side chains says what for")

    def may_run_ahead(self) -> bool:
        """Whether the next step may compute the row of the token that is being sampled, before the token is known."""
        return False

    def accept(self, sampled: Sampled) -> None:
        """Take a sampled token."""

    def read(self, vertices: list[Vertex] | None, rows: Sequence[Looked]) -> None:
        """Take the answers about the rows of these vertices (None: about the path's last row)."""

    def settled(self) -> bool:
        """Whether the job is over after this step."""
        return self.cursor.computed >= self.cursor.length

    def close(self) -> None:
        """End the job without error: complete its handle."""
        self.handle.finish(self.usage)

    # -- interruptions
    def overdue(self, now: float) -> bool:
        return self.timeout is not None and now - self.started > self.timeout

    def timeout_error(self) -> ProgramTimeout:
        return ProgramTimeout(f"{self.where}: timeout={self.timeout:g} s passed before it finished")

    def park(self) -> None:
        """Give back the slots of side chains."""
        for trie in self.tries:
            trie.give_back()

    def abandon(self, error: BaseException) -> None:
        """End the job with `error`. What it has cost is its branch's."""
        self.park()
        self.stamp()
        self.branch.usage.add(self.usage)
        self.meter.ended.add(self.usage)
        self.handle.usage = self.usage
        self.handle.finish(None, error)

    def stamp(self) -> float:
        """Note how long the job waited and ran; the time now. The job is over."""
        now = time.monotonic()
        begun = now if self.begun is None else self.begun
        self.usage.queued, self.usage.running = begun - self.started, now - begun
        return now
