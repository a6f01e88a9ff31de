"""The job of a select: a trie of choices scored in one step; the winner's KV is the continuation.

Knows nothing of how steps are planned. It reads log-probabilities off the trie, asks the choice method, and continues
with the winner. The row of the branch's last token scores every first token; each further token has one row, however
many choices share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....lang.choices import ChoicesDecision, check_decision, logprobs_of
from ...base import CallTrace, ChoiceScores, Handle, ScoreRequest, ScoreResult, TokenLogprob
from ..kv.chain import Trie, Vertex
from ..kv.pool import size
from ..program.branch import Branch
from ..sample.ask import Looked, Lookup
from ..sample.noise import mix, uniform
from .job import Job, JobContext
from .told import Told


class SelectJob(Job):
    """One select. `tokens[i]` are the tokens of choice i as they continue the branch."""

    def __init__(
        self,
        branch: Branch,
        request: ScoreRequest,
        handle: Handle[ScoreResult],
        tokens: list[list[int]],
        context: JobContext,
    ) -> None:
        super().__init__(branch, handle, request.where, context)
        if request.trace:
            self.told = Told(self.cursor, branch.told, self.tokenizer, context.clock)
        self.request = request
        self.tokens = tokens
        pool = self.cursor.tree.pool
        self.choices = Trie(self.prompt_length, tokens, pool)
        self.tries = [self.choices]
        self.rooted = self.prompt_length == 0  # without context the first tokens have no log-probability
        self.alone: Trie | None = None
        if request.method.requires_unconditional_logprobs:
            self.alone = Trie(0, tokens, pool)
            self.tries.append(self.alone)
        asked = sum(len(t) for t in tokens)
        self.usage.prompt += asked
        self.usage.reused += asked

    def wants_last(self) -> bool:
        return not self.rooted

    def account_chain(self, rows: int) -> None:
        self.usage.computed += rows
        self.usage.reused = max(0, self.usage.reused - rows)

    def ask(self) -> Lookup:
        return Lookup(tuple(self.choices.root.children))

    def ask_chain(self, vertices: list[Vertex]) -> list[Lookup]:
        return [Lookup(tuple(vertex.children)) for vertex in vertices]

    def read(self, vertices: list[Vertex] | None, rows: Sequence[Looked]) -> None:
        self.rooted |= vertices is None
        for vertex, row in zip([self.choices.root] if vertices is None else vertices, rows):
            vertex.learn(row)

    def settled(self) -> bool:
        return self.rooted and not self.open_chains()

    def close(self) -> None:
        scores = ChoiceScores(self._described(self.choices), self._described(self.alone) if self.alone else None)
        decision, means = self._decide(scores)
        winner = self._winner(decision, means)
        self._continue(winner)
        ended = self.stamp()
        self.branch.usage.add(self.usage)
        self.handle.finish(
            ScoreResult(
                winner,
                self.request.choices[winner],
                scores,
                {"normalized_prompt_logprobs": means, **(decision.meta_info or {})},
                self.usage,
                self._trace(winner, ended),
            )
        )

    def _trace(self, winner: int, ended: float) -> CallTrace | None:
        if self.told is None:
            return None
        for vertex in self.choices.paths[winner]:
            self.told.token(vertex.token, self.tokenizer.token_bytes[vertex.token], vertex.logprob, False)
        self.branch.told = self.cursor.length
        return self.told.finish(self.request.choices[winner], self.begun, ended)

    def _decide(self, scores: ChoiceScores) -> tuple[ChoicesDecision, list[float]]:
        given = _rows(scores.token_logprobs)
        alone = _rows(scores.unconditional or [])
        means = [sum(logprobs_of(c)) / len(c) for c in given]
        decision = self.request.method(
            choices=list(self.request.choices),
            normalized_prompt_logprobs=means,
            input_token_logprobs=given,
            output_token_logprobs=[[] for _ in given],
            unconditional_token_logprobs=alone if self.alone else None,
        )
        return check_decision(self.where, decision, self.request.choices), means

    def _winner(self, decision: ChoicesDecision, means: list[float]) -> int:
        if self.request.temperature <= 0:
            return self.request.choices.index(decision.decision)
        scores = np.array(means if decision.scores is None else decision.scores, dtype=np.float64)
        seed = self.branch.program.noise if self.request.seed is None else self.request.seed
        u = uniform(mix(seed, self.branch.path), self.cursor.length, np.arange(len(scores), dtype=np.uint32))
        return int(np.argmax(scores / self.request.temperature - np.log(-np.log(u))))

    def _continue(self, winner: int) -> None:
        """Move the winner's KV behind the branch's own. All other slots of side chains are freed."""
        if self.alone is not None:
            self.alone.give_back()
        runs = self.choices.take_path(winner)
        self.cursor.adopt(self.tokens[winner], runs)
        account, rows = self.branch.account, size(runs)
        account.rows += rows
        account.computed += rows

    def _described(self, trie: Trie) -> list[list[TokenLogprob]]:
        """The tokens of each choice. Choices that begin alike share them, so nested choices cost no square."""
        table, known = self.tokenizer.token_bytes, {}
        for path in trie.paths:
            for vertex in reversed(path):
                if vertex in known:
                    break  # and so are those above it
                text = table[vertex.token].decode("utf-8", errors="replace")
                known[vertex] = TokenLogprob(vertex.logprob, vertex.token, text)
        return [[known[vertex] for vertex in path] for path in trie.paths]


def _rows(choices: list[list[TokenLogprob]]) -> list[list[tuple[float | None, int, str | None]]]:
    """What a choice method is given: a row a token. Choices share the rows, so these are not to be written to."""
    known = {id(t): (t.logprob, t.token_id, t.text) for tokens in choices for t in tokens}
    return [[known[id(t)] for t in tokens] for tokens in choices]
