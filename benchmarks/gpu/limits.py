"""The least time a card needs for a program or a raw batch: from bytes and FLOPs alone.

Owns: what work a program is (`Work`: a chain of stages), what one step of it moves and computes, and the sum. Knows
nothing of how anything is measured.

The formulas, for a step of R rows of which W want logits, with context C (in KV tokens that must be read):

- weights: the linear layers of every block and the LM head, read once a step (not at all from the cache of an earlier
  step: they do not fit there). The embedding is read a row a token and not counted.
- KV: `C + R` tokens of `2 * layers * KV heads * head dim` elements: read once a step, however many rows share them (a
  prefix common to all programs once, one common to a program's branches once a program), and written once.
- memory seconds = (weights + KV) bytes / bandwidth. The bandwidth is the card's copy rate.
- FLOPs = 2 * R * (parameters of the blocks) + 2 * W * (LM head) + 4 * layers * query heads * head dim * (pairs of a row
  and a token it attends to). compute seconds = FLOPs / peak.
- a step takes max(memory, compute); activations, norms, sampling, launches and the host cost nothing.

Steps: a program is a chain (a token needs the one before it), so a wave of programs in flight takes as many steps as
its longest chain, all programs in lockstep; what a stage says rides in the first step of the next stage that samples,
and so does the row of the last token, whose logits forks and joins ask for again.
Programs beyond those in flight come in further waves. `floor` drops the lockstep: all bytes or all FLOPs, whichever is
longer, as if the prompts of one program could hide under the decoding of another. `seconds` is the limit that
shares are given of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Card:
    """`bandwidth` in bytes a second, `peak` in dense FLOPs a second at the model's type."""

    name: str
    bandwidth: float
    peak: float


H200 = Card("H200", 4.28e12, 790e12)
"""The copy rate that was measured on it, and its bf16 tensor cores under a large matrix product."""


@dataclass(frozen=True)
class Shape:
    """A model's shape in numbers: parameters, and bytes at `element` bytes each."""

    layers: int
    block: int  # parameters of one block's linear layers
    head: int  # parameters of the LM head
    query_width: int  # query heads * head dim
    kv_width: int  # KV heads * head dim
    element: int = 2

    @classmethod
    def of(cls, config: Mapping[str, Any], element: int = 2) -> Shape:
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        query = config["num_attention_heads"] * config["head_dim"]
        kv = config["num_key_value_heads"] * config["head_dim"]
        block = hidden * (query + 2 * kv) + query * hidden + 3 * hidden * wide
        return cls(config["num_hidden_layers"], block, config["vocab_size"] * hidden, query, kv, element)

    @property
    def weights(self) -> int:
        """Bytes read by a step that wants logits."""
        return (self.layers * self.block + self.head) * self.element

    @property
    def kv_token(self) -> int:
        """Bytes of KV of one token."""
        return 2 * self.layers * self.kv_width * self.element


@dataclass(frozen=True)
class Stage:
    """What each of a program's `branches` branches does next: it says `text` tokens, then takes `steps` steps that each
    sample a token (0: it only speaks; a select is one step), with `beside` more rows scored in the first of them.

    More branches than before are forks of those; fewer: what the forks said is gone, and the parent goes on.
    """

    branches: int
    text: int
    steps: int
    beside: int = 0


@dataclass(frozen=True)
class Work:
    """`programs` alike, each beginning with the same `shared` tokens."""

    programs: int
    shared: int
    stages: tuple[Stage, ...]

    @property
    def generated(self) -> int:
        """Tokens sampled in stages of more than one step (a select samples none)."""
        return self.programs * sum(s.branches * s.steps for s in self.stages if s.steps > 1)


@dataclass(frozen=True)
class StepWork:
    """One step: rows, those that want logits, KV tokens read, and pairs (row, token attended to)."""

    rows: int
    wanted: int
    read: int
    pairs: int


@dataclass(frozen=True)
class Limit:
    """`seconds`: in lockstep. `floor`: all bytes or all FLOPs. `memory`, `compute`: their seconds alone."""

    seconds: float
    floor: float
    memory: float
    compute: float
    steps: int
    rows: int


def step_seconds(step: StepWork, shape: Shape, card: Card) -> tuple[float, float]:
    """(memory, compute) seconds of one step."""
    weights = shape.weights if step.wanted else shape.weights - shape.head * shape.element
    moved = weights + (step.read + step.rows) * shape.kv_token
    flops = 2 * step.rows * shape.layers * shape.block + 2 * step.wanted * shape.head
    flops += 4 * shape.layers * shape.query_width * step.pairs
    return moved / card.bandwidth, flops / card.peak


def limit(work: Work, shape: Shape, card: Card = H200, in_flight: int = 64) -> Limit:
    """The least time of `work` with at most `in_flight` programs at a time."""
    seconds = memory = compute = 0.0
    steps = rows = 0
    for begun in range(0, work.programs, in_flight):
        wave = min(in_flight, work.programs - begun)
        for step in _Wave(work, wave, work.shared if begun == 0 else 0).steps():
            moving, computing = step_seconds(step, shape, card)
            seconds += max(moving, computing)
            memory, compute = memory + moving, compute + computing
            steps, rows = steps + 1, rows + step.rows
    return Limit(seconds, max(memory, compute), memory, compute, steps, rows)


@dataclass
class _Wave:
    """`programs` programs in lockstep. `levels[n]` are the tokens that each of n branches of a program has of its own,
    whose KV is there; `said` what is said and not yet computed, as (branches, tokens)."""

    work: Work
    programs: int
    new_shared: int  # of the shared prefix, tokens that this wave computes
    levels: dict[int, int] = field(default_factory=dict)
    said: list[tuple[int, int]] = field(default_factory=list)

    def steps(self) -> Iterator[StepWork]:
        stepped = False
        for stage in self.work.stages:
            self.levels = {n: tokens for n, tokens in self.levels.items() if n <= stage.branches}
            self.said = [(n, tokens) for n, tokens in self.said if n <= stage.branches]
            self.said.append((stage.branches, stage.text))
            for i in range(stage.steps):
                if stepped:
                    self.said.append((stage.branches, 1))  # the last token: sampled, or before a fork or join
                yield self._step(stage.branches, stage.beside if i == 0 else 0)
                stepped = True

    def _step(self, branches: int, beside: int) -> StepWork:
        """Compute all that was said, and score `beside` rows a branch."""
        rows, pairs = self.new_shared, _triangle(0, self.new_shared)
        self.new_shared = 0
        read = self.work.shared - rows
        read += self.programs * sum(n * tokens for n, tokens in self.levels.items())
        for n, tokens in sorted(self.said):
            before = self._depth(n)
            rows += self.programs * n * tokens
            pairs += self.programs * n * _triangle(before, tokens)
            self.levels[n] = self.levels.get(n, 0) + tokens
        self.said = []
        rows += self.programs * branches * beside
        pairs += self.programs * branches * beside * self._depth(branches)
        return StepWork(rows, self.programs * branches * (1 + beside), read, pairs)

    def _depth(self, branches: int) -> int:
        """Tokens with KV before the next one of a branch at that level."""
        return self.work.shared + sum(tokens for n, tokens in self.levels.items() if n <= branches)


def _triangle(before: int, new: int) -> int:
    """Pairs of `new` rows, each with `before` tokens, those of its own run up to it, and itself."""
    return new * before + new * (new + 1) // 2
