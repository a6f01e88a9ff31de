"""The naive runtime: every token from the whole text, one branch at a time. The oracle of the fast one.

No tree, no slots, no watermarks, no batches: tokens in a list, one forward of the whole list for each token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
from sgl.backend.runtime.sample.noise import mix
from sgl.backend.runtime.sample.sampler import Recipe, Request, log_softmax, sample
from sgl.backend.runtime.step.packed import Batch, SpanLayout
from sgl.lang.choices import ChoiceMethod
from sgl.lang.expr import DEFAULT_MAX_TOKENS, Sampling


class Naive:
    def __init__(self, favour: dict[int, float] | None = None) -> None:
        self.tokenizer = toy_tokenizer()
        self.model = ToyModel(self.tokenizer.vocab_size + 5, favour=favour)
        self.rows = 0

    def logits(self, tokens: list[int]) -> np.ndarray:
        """All rows [T, V] of a text, computed from nothing."""
        n = len(tokens)
        self.model.allocate(n)
        self.rows += n
        ids = np.arange(n, dtype=np.int64)
        return self.model.forward(Batch(np.array(tokens, dtype=np.int64), ids, ids, [SpanLayout(0, n, (), 0)], ids))


@dataclass
class NaiveBranch:
    naive: Naive
    seed: int
    path: int = 0
    tokens: list[int] = field(default_factory=list)
    pending: list[tuple[str, bool]] = field(default_factory=list)
    forks: int = 0

    @staticmethod
    def open(naive: Naive, seed: int) -> NaiveBranch:
        return NaiveBranch(naive, mix(seed))

    def append(self, text: str, markup: bool = False) -> None:
        if text:
            self.pending.append((text, markup))

    def _flush(self) -> None:
        if self.pending:
            self.tokens += self.naive.tokenizer.encode(self.pending, first=not self.tokens)
            self.pending = []

    def gen(self, s: Sampling, path: int | None = None) -> tuple[str, list[int], Any]:
        self._flush()
        tok = self.naive.tokenizer
        if not self.tokens:
            self.tokens = [tok.bos_id]
        seed = self.seed if s.seed is None else s.seed
        recipe = Recipe.of(s, mix(seed, self.path if path is None else path), list(self.tokens))
        ends = set(() if s.ignore_eos else tok.eos_ids) | set(s.stop_token_ids or ())
        budget = DEFAULT_MAX_TOKENS if s.max_tokens is None else s.max_tokens
        least = min(s.min_tokens or 0, budget)
        out: list[int] = []
        reason: Any = {"type": "length", "length": 0}
        cut: int | None = None
        while len(out) < budget:
            row = self.naive.logits(self.tokens + out)[-1:]
            banned = tuple(ends) if len(out) < least else ()
            token = sample(row, [Request(recipe, len(self.tokens) + len(out), banned)], tok.vocab_size)[0].token
            if token in ends and len(out) >= least:
                reason = {"type": "stop", "matched": token}
                break
            out.append(token)
            recipe.note(token)
            if len(out) >= least:
                skip = sum(len(tok.token_bytes[t]) for t in out[: least - 1]) if least > 1 else 0
                found = self._stops(b"".join(tok.token_bytes[t] for t in out), s.stop or (), skip)
                if found:
                    cut, matched = found
                    reason = {"type": "stop", "matched": matched}
                    break
            reason = {"type": "length", "length": len(out)}
        data = b"".join(tok.token_bytes[t] for t in out)
        if cut is not None:
            keep, size = 0, 0
            while keep < len(out) and size + len(tok.token_bytes[out[keep]]) <= cut:
                size += len(tok.token_bytes[out[keep]])
                keep += 1
            while keep and size < len(data) and data[size] & 0xC0 == 0x80:
                keep -= 1
                size -= len(tok.token_bytes[out[keep]])
            rest = data[size:cut].decode(errors="replace")
            out = out[:keep] + (tok.encode([(rest, False)], first=False) if rest else [])
            data = data[:cut]
        self.tokens = self.tokens + out
        return data.decode(errors="replace"), out, reason

    @staticmethod
    def _stops(data: bytes, stops: tuple[str, ...], skip: int) -> tuple[int, str] | None:
        """(start, stop) of the first stop that ends after `skip` bytes; of equals the longest."""
        hits = []
        for stop in stops:
            needle = stop.encode()
            for at in range(len(data) - len(needle) + 1):
                if data[at : at + len(needle)] == needle and at + len(needle) > skip:
                    hits.append((at, -len(needle), stop))
                    break
        return (min(hits)[0], min(hits)[2]) if hits else None

    def select(self, choices: tuple[str, ...], method: ChoiceMethod) -> tuple[str, list[list[float | None]]]:
        tok = self.naive.tokenizer
        prefix, rests = tok.encode_choices(self.pending, choices, first=not self.tokens)
        self.pending = []
        self.tokens += prefix
        scores, alone = [], []
        for rest in rests:
            rows = self.naive.logits(self.tokens + rest)
            at = len(self.tokens)
            scores.append(
                [
                    None if at + i == 0 else float(log_softmax(rows[at + i - 1, : tok.vocab_size])[t])
                    for i, t in enumerate(rest)
                ]
            )
            rows = self.naive.logits(rest)
            alone.append([None] + [float(log_softmax(rows[i, : tok.vocab_size])[t]) for i, t in enumerate(rest[1:])])
        given = [[[lp, t, ""] for lp, t in zip(s, r)] for s, r in zip(scores, rests)]
        bare = [[[lp, t, ""] for lp, t in zip(s, r)] for s, r in zip(alone, rests)]
        means = [sum(lp or 0.0 for lp in s) / len(s) for s in scores]
        decision = method(
            choices=choices,
            normalized_prompt_logprobs=means,
            input_token_logprobs=given,
            output_token_logprobs=[],
            unconditional_token_logprobs=bare,
        )
        self.tokens = self.tokens + rests[choices.index(decision.decision)]
        return decision.decision, scores

    def fork(self, n: int) -> list[NaiveBranch]:
        number, self.forks = self.forks, self.forks + 1
        return [
            NaiveBranch(
                self.naive, self.seed, mix(mix(self.path, number + 1), i + 1), list(self.tokens), list(self.pending)
            )
            for i in range(n)
        ]


def rush(runtime: Any) -> None:
    """Let every program in at once, so that a small pool must preempt."""
    runtime.engine.branches.admission._fits = lambda rows, room: True


def impatient(runtime: Any) -> None:
    """Let the next program in at once when the admitted ones are silent: for tests that step by hand."""
    runtime.engine.branches.admission.grace = runtime.engine.branches.admission.patience = -1.0
