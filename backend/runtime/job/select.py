"""One select: a trie of choices scored in one step; the winner's KV is the continuation.

Owns: reading log-probabilities off the trie, asking the choice method, continuing with the winner. The row of the
branch's last token scores every first token; each further token has one row, however many choices share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ....lang.choices import ChoicesDecision, logprobs_of
from ....lang.errors import ConstraintError
from ...base import CallTrace, ChoiceScores, Handle, ScoreRequest, ScoreResult, TokenLogprob
from ..kv.chain import Trie, Vertex
from ..kv.pool import append_run
from ..sample.ask import Looked, Lookup
from ..sample.noise import mix, uniform
from ..text.tokenizer import Tokenizer
from .job import Job
from .told import Told

if TYPE_CHECKING:
    from ..program.branch import Branch
    from ..step.executor import Ask
    from ..step.span import Span


class Score(Job):
    """`tokens[i]` are choice i's tokens as they continue the branch."""

    def __init__(
        self,
        branch: Branch,
        request: ScoreRequest,
        handle: Handle[ScoreResult],
        tokens: list[list[int]],
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__(branch, handle, request.where)
        if request.trace:
            self.told = Told(branch, tokenizer)
        self.ask = request
        self.tokens = tokens
        self.tokenizer = tokenizer
        self.choices = Trie(branch.length, tokens)
        self.tries = [self.choices]
        self.rooted = branch.length == 0  # without context the first tokens have no log-probability
        self.alone: Trie | None = None
        if request.method.requires_unconditional_logprobs:
            self.alone = Trie(0, tokens)
            self.tries.append(self.alone)
        asked = sum(len(t) for t in tokens)
        self.usage.prompt += asked
        self.usage.reused += asked

    def wants_last(self) -> bool:
        return not self.rooted

    def account_chain(self, rows: int) -> None:
        self.usage.computed += rows
        self.usage.reused = max(0, self.usage.reused - rows)

    def asks(self, branch: Branch, span: Span) -> list[Ask]:
        return [Lookup(tuple(vertex.children)) for vertex in self._asked(span)]

    def read(self, branch: Branch, span: Span, rows: Sequence[Looked]) -> None:
        self.rooted |= span.chain is None
        for vertex, row in zip(self._asked(span), rows):
            vertex.learn(row)

    def _asked(self, span: Span) -> list[Vertex]:
        return [self.choices.root] if span.chain is None else span.chain.asked(span)

    def settled(self, branch: Branch) -> bool:
        return self.rooted and not self.open_chains()

    def close(self, branch: Branch) -> None:
        scores = ChoiceScores(
            [self._described(p) for p in self.choices.paths],
            [self._described(p) for p in self.alone.paths] if self.alone else None,
        )
        decision, means = self._decide(scores)
        winner = self._winner(branch, decision, means)
        self._continue(branch, winner)
        ended = self.stamp()
        branch.usage.add(self.usage)
        self.handle.finish(
            ScoreResult(
                winner,
                self.ask.choices[winner],
                scores,
                {"normalized_prompt_logprobs": means, **(decision.meta_info or {})},
                self.usage,
                self._trace(branch, winner, ended),
            )
        )

    def _trace(self, branch: Branch, winner: int, ended: float) -> CallTrace | None:
        if self.told is None:
            return None
        for vertex in self.choices.paths[winner]:
            self.told.token(vertex.token, vertex.logprob, False, branch.engine.landing)
        branch.told = branch.length
        return self.told.finish(self.ask.choices[winner], self.begun, ended)

    def _decide(self, scores: ChoiceScores) -> tuple[ChoicesDecision, list[float]]:
        given = [[[t.logprob, t.token_id, t.text] for t in c] for c in scores.token_logprobs]
        alone = [[[t.logprob, t.token_id, t.text] for t in c] for c in scores.unconditional or []]
        means = [sum(logprobs_of(c)) / len(c) for c in given]
        decision = self.ask.method(
            choices=list(self.ask.choices),
            normalized_prompt_logprobs=means,
            input_token_logprobs=given,
            output_token_logprobs=[[] for _ in given],
            unconditional_token_logprobs=alone if self.alone else None,
        )
        if not isinstance(decision, ChoicesDecision):
            raise ConstraintError(
                f"{self.where}: the choice method returned {decision!r:.60}; it must return a ChoicesDecision"
            )
        return decision, means

    def _winner(self, branch: Branch, decision: ChoicesDecision, means: list[float]) -> int:
        if decision.decision not in self.ask.choices:
            raise ConstraintError(
                f"{self.where}: the choice method decided {decision.decision!r}, which is not one of "
                f"the choices {list(self.ask.choices)!r:.200}"
            )
        if self.ask.temperature <= 0:
            return self.ask.choices.index(decision.decision)
        scores = np.array(means if decision.scores is None else decision.scores)
        seed = branch.program.noise if self.ask.seed is None else self.ask.seed
        u = uniform(mix(seed, branch.path), branch.length, np.arange(len(scores), dtype=np.uint32))
        return int(np.argmax(scores / self.ask.temperature - np.log(-np.log(u))))

    def _continue(self, branch: Branch, winner: int) -> None:
        """Move the winner's KV behind the branch's own; all other side KV is freed."""
        pool = branch.tree.pool
        if self.alone is not None:
            self.alone.give_back(pool)
        runs = self.choices.take_path(winner, pool)
        branch.drop_reserve()
        for run in runs:
            append_run(branch.runs, run)
        rows = sum(length for _, length in runs)
        branch.extend(self.tokens[winner])
        branch.tail_computed += rows
        branch.program.account.rows += rows
        branch.program.account.computed += rows
        branch.high = max(branch.high, branch.computed)

    def _described(self, path: list[Vertex]) -> list[TokenLogprob]:
        table = self.tokenizer.token_bytes
        return [TokenLogprob(v.logprob, v.token, table[v.token].decode("utf-8", errors="replace")) for v in path]
