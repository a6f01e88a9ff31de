"""From logits to tokens: penalties, filters, noise, log-probabilities.

Owns: the arithmetic of one sampling decision. Knows nothing of branches or of what the tokens mean.

A sample is `argmax(filtered logits / T + Gumbel(key, position, token))` (Gumbel-max, Maddison et al. 2014), in float64
of the logits, the lowest id of equals. Temperature 0 is argmax, and so is a row whose largest logit is not finite.
Filters apply to the probabilities after temperature, in the order top-k, top-p, min-p, without renormalising between
them, as SGLang's do. More probable tokens come first, of equals the lowest id: what survives begins that order. A mask
comes after penalties, bias and bans, and before the filters. Without filters a row is drawn freely first, and again
under its mask only if that forbids the token: both are an argmax over noise keyed by token.

`model/cpu/native/sampling.inc` computes the same bits, faster (`host.py` calls it where it was built). What may differ
between libraries in the last bit, exp and log, decides nothing: logarithms of noise are the C library's in both, and
masses are sums and products (`mass.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....lang.errors import BackendError
from ....lang.expr import Sampling
from .ask import Looked, Lookup
from .mass import log_sum_exp, masses
from .noise import uniform

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.int32]

NOT_NUMBERS = "the model's logits are not numbers (NaN); the weights or the dtype are at fault"

NO_TOKEN = "a constrained row has no token that its mask allows"

COLDEST = 1e-5
"""Below this temperature sampling is argmax (dividing float32 logits by less overflows)."""
HOTTEST = 1e38
"""A higher temperature is taken as this one, which float32 holds."""


def _temperature(asked: float | None) -> float:
    """The temperature of a recipe: a number of float32, as every sampler takes it."""
    return 1.0 if asked is None else 0.0 if asked < COLDEST else float(np.float32(min(asked, HOTTEST)))


@dataclass(slots=True)
class Recipe:
    """How one gen samples; made once a gen. `key` is the root of its noise. Only `counts` changes, token by token.
    `penalised`: some penalty looks at the text; `adjusts`: logits are changed; `simple`: a key, a position and a
    temperature say all."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    frequency: float
    presence: float
    repetition: float
    bias: tuple[tuple[int, float], ...]
    key: int
    logprobs: bool
    top_logprobs: int
    traced: bool = False  # the probability of each token is wanted for a trace
    prompt: frozenset[int] = frozenset()  # for the repetition penalty
    counts: dict[int, int] = field(default_factory=dict)  # of generated tokens
    biased: npt.NDArray[np.int32] = field(init=False, compare=False)  # the ids of `bias`, each once
    biases: Floats = field(init=False, compare=False)
    prompt_ids: npt.NDArray[np.int32] = field(init=False, compare=False)  # those of `prompt`
    penalised: bool = field(init=False)
    adjusts: bool = field(init=False)
    simple: bool = field(init=False)
    log_min_p: float = field(init=False)  # -inf: none

    def __post_init__(self) -> None:
        summed: dict[int, float] = {}
        for token, more in self.bias:
            summed[token] = summed.get(token, 0.0) + more
        self.biased = np.fromiter(summed.keys(), np.int32, len(summed))
        self.biases = np.fromiter(summed.values(), np.float32, len(summed))
        self.prompt_ids = np.fromiter(self.prompt, np.int32, len(self.prompt))
        self.penalised = bool(self.frequency or self.presence or self.repetition != 1.0)
        self.log_min_p = math.log(self.min_p) if self.min_p > 0 else -math.inf
        self.adjusts = self.penalised or bool(self.bias)
        self.simple = not (self.adjusts or self.logprobs or self.traced or self.filtered)

    @staticmethod
    def of(sampling: Sampling, key: int, prompt: list[int], traced: bool = False) -> Recipe:
        """`sampling` with every default filled in. The default temperature is 1."""
        repetition = 1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty
        return Recipe(
            temperature=_temperature(sampling.temperature),
            top_k=-1 if sampling.top_k is None else sampling.top_k,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            min_p=sampling.min_p or 0.0,
            frequency=sampling.frequency_penalty or 0.0,
            presence=sampling.presence_penalty or 0.0,
            repetition=repetition,
            bias=sampling.logit_bias or (),
            key=key,
            logprobs=bool(sampling.return_logprob),
            top_logprobs=sampling.top_logprobs_num or 0,
            traced=traced,
            prompt=frozenset(prompt) if repetition != 1.0 else frozenset(),
        )

    @property
    def filtered(self) -> bool:
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    def afresh(self, key: int, least: float) -> Recipe:
        """The same recipe for another sample: other noise, no counts, and a temperature of at least `least` if it was
        greedy."""
        return replace(self, key=key, counts={}, temperature=self.temperature or least)

    def seen(self, size: int) -> npt.NDArray[np.int32]:
        """The ids below `size` that the repetition penalty is for, each once: of the prompt and of the text."""
        new = [token for token in self.counts if token not in self.prompt]
        ids = np.concatenate([self.prompt_ids, np.array(new, np.int32)]) if new else self.prompt_ids
        return ids[ids < size]

    def after(self, tokens: Sequence[int]) -> Recipe:
        """The same recipe where these tokens were generated too."""
        more = replace(self, counts=dict(self.counts))
        for token in tokens:
            more.note(token)
        return more

    def note(self, token: int) -> None:
        """Count a generated token."""
        if self.penalised:
            self.counts[token] = self.counts.get(token, 0) + 1


class Request(NamedTuple):
    """One row to sample: a recipe at a position.

    `banned` ids may not be sampled: the ends of text before `min_tokens`. Ids whose bit in `mask` is 0 may not either
    (int32 words; id i has bit i % 32 of word i // 32).
    """

    recipe: Recipe
    position: int
    banned: tuple[int, ...] = ()
    mask: Mask | None = None

    @property
    def plain(self) -> bool:
        r = self.recipe
        return r.temperature == 0 and not self.banned and not r.penalised and not r.bias and not r.logprobs


class Sampled(NamedTuple):
    """A sampled token. `forbidden`: the probability of all ids that the mask forbids (with log-probabilities only)."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[float, int], ...] = ()
    forbidden: float = 0.0


Ask = Request | Lookup
Answer = Sampled | Looked | Exception
"""An exception is that row's alone."""


def sample(logits: Floats, requests: Sequence[Request], vocab_size: int) -> list[Sampled]:
    """Sample one token a row. `logits` is [W, V]; ids from `vocab_size` on are padding and never sampled.

    Raises `BackendError` for logits that are not numbers.
    """
    real = logits[:, :vocab_size]
    best = real.argmax(axis=1)  # a NaN is the argmax wherever there is one
    if np.isnan(real[np.arange(len(best)), best]).any():
        raise BackendError(NOT_NUMBERS)
    if all(request.plain for request in requests):
        sampled = [
            Sampled(int(token) if _allows(request.mask, int(token)) else _masked(row, request))
            for row, token, request in zip(real, best, requests)
        ]
    else:
        sampled = [_sample_row(row, request) for row, request in zip(real, requests)]
    for i, request in enumerate(requests):
        if request.recipe.traced and sampled[i].logprob is None:
            sampled[i] = sampled[i]._replace(logprob=float(real[i, sampled[i].token]) - log_sum_exp(real[i]))
    return sampled


def _sample_row(raw: Floats, request: Request) -> Sampled:
    recipe, mask = request.recipe, request.mask
    row = adjusted(raw, request)
    if mask is not None and recipe.filtered:
        token = _masked(row, request)
    else:
        best = int(row.argmax())
        free = recipe.temperature > 0 and np.isfinite(row[best])
        token = _draw(row, recipe, request.position) if free else best
        if not _allows(mask, token):
            token = _masked(row, request)
    if not recipe.logprobs:
        return Sampled(token)
    lse, forbidden = log_sum_exp(raw), 0.0
    if mask is not None and np.isfinite(lse):
        mass = masses(raw, float(raw.max()))
        forbidden = 1.0 - int(mass[_allowed_ids(mask, len(raw))].sum()) / int(mass.sum())
    return Sampled(token, float(raw[token]) - lse, top_of(raw, lse, recipe.top_logprobs), forbidden)


def _allows(mask: Mask | None, token: int) -> bool:
    return mask is None or (token >> 5 < len(mask) and bool(mask[token >> 5] >> (token & 31) & 1))


def _allowed_ids(mask: Mask, size: int) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=size, bitorder="little"))


def _masked(row: Floats, request: Request) -> int:
    """Sample among the ids that the mask allows."""
    assert request.mask is not None
    ids = _allowed_ids(request.mask, len(row))
    if not len(ids):
        raise BackendError(NO_TOKEN)
    allowed = row[ids]
    best = int(allowed.argmax())
    if request.recipe.temperature == 0 or not np.isfinite(allowed[best]):
        return int(ids[best])
    return int(_draw(allowed, request.recipe, request.position, ids))


def adjusted(raw: Floats, request: Request) -> Floats:
    """Logits after penalties, bias and bans; `raw` itself when there are none.

    Raises `BackendError` if bans leave nothing, or penalties no numbers.
    """
    recipe = request.recipe
    if not (recipe.adjusts or request.banned):
        return raw
    row: Floats = raw.copy()
    if recipe.repetition != 1.0:
        seen = recipe.seen(len(row))
        row[seen] = np.where(row[seen] > 0, row[seen] / recipe.repetition, row[seen] * recipe.repetition)
    if recipe.counts and (recipe.frequency or recipe.presence):
        ids = np.fromiter(recipe.counts.keys(), dtype=np.int64)
        row[ids] -= recipe.presence + recipe.frequency * np.fromiter(recipe.counts.values(), dtype=np.float32)
    if recipe.bias:
        row[recipe.biased] += recipe.biases
    row[list(request.banned)] = -np.inf
    best = row.max()
    if np.isnan(best):
        raise BackendError(NOT_NUMBERS)
    if request.banned and request.mask is None and best == -np.inf:
        raise BackendError(
            "every token that may follow is banned: those that end the text may not come before min_tokens"
        )
    return row


_ROUGH = 1e-4
"""More than the relative error of a bound in float32."""
_ROUNDED = 1e-15
"""More than the relative error of a score, which is all of it where logits are huge."""


def _draw(row: Floats, recipe: Recipe, position: int, names: npt.NDArray[np.int64] | None = None) -> int:
    """One id of a row with a finite largest logit; `names` are the ids of its entries where those are not 0, 1, ..."""
    ids = _survivors(row, recipe)
    named = ids if names is None else names[ids]
    if len(ids) == 1:
        return int(named[0])
    x, u = row[ids], uniform(recipe.key, position, named.astype(np.uint32))
    # The sample is argmin(E / p), E = -log(u) >= 1 - u. That bound leaves few candidates that need logarithms.
    with np.errstate(over="ignore", invalid="ignore"):
        inverse = np.exp((row.max() - x) / np.float32(recipe.temperature)).astype(np.float64)
    bound = (1.0 - u) * inverse
    first = int(bound.argmin())
    slack = math.exp(min(700.0, _ROUGH + _ROUNDED * float(np.abs(x).max()) / recipe.temperature))
    close = np.flatnonzero(bound <= -math.log(u[first]) * inverse[first] * slack)
    scores = [float(x[i]) / recipe.temperature - math.log(-math.log(u[i])) for i in close]
    return int(named[close[scores.index(max(scores))]])


_SHORTLIST_IDS = 1024
"""Ids that are sorted first where top-k or top-p wants a few; eight times as many when they do not suffice."""


def _survivors(row: Floats, recipe: Recipe) -> npt.NDArray[np.int64]:
    """Ids that pass top-k, top-p and min-p, ascending. The most probable token always does."""
    n, peak, top_p = len(row), float(row.max()), recipe.top_p
    if recipe.min_p > 0:
        ids = np.flatnonzero(row.astype(np.float64) >= peak + recipe.temperature * recipe.log_min_p)
    else:
        ids = np.flatnonzero(row > -np.inf)
    if recipe.top_k <= 0 and top_p >= 1:
        return ids
    limit = min(n, recipe.top_k if recipe.top_k > 0 else n)
    if top_p >= 1:
        return np.intersect1d(heaviest(row, limit), ids, assume_unique=True)
    mass = masses(row, peak, recipe.temperature)
    enough = top_p * float(mass.sum())
    short = min(limit, _SHORTLIST_IDS)  # only as long a list as is needed
    while True:
        order = heaviest(row, short)
        until = np.cumsum(mass[order])
        if short >= limit or until[-1] >= enough:
            break
        short = min(limit, short * 8)
    before = until - mass[order]
    kept = order[: max(1, int((before < enough).sum()))]
    return np.intersect1d(kept, ids, assume_unique=True)


def heaviest(row: Floats, k: int) -> npt.NDArray[np.int64]:
    """Ids of the k largest logits, falling; of equals the lowest ids. Independent of how the selection is done."""
    if k < len(row):
        threshold = np.partition(row, len(row) - k)[len(row) - k]
        ids = np.flatnonzero(row >= threshold)
    else:
        ids = np.arange(len(row))
    return ids[np.argsort(-row[ids], kind="stable")][:k]


def look(row: Floats, lookup: Lookup) -> Looked:
    """Read one row [V]. Raises `BackendError` for logits that are not numbers."""
    if not lookup.ids and not lookup.top:
        return Looked(())
    lse = log_sum_exp(row)
    if np.isnan(lse):
        raise BackendError(NOT_NUMBERS)
    return Looked(tuple([float(row[i]) - lse for i in lookup.ids]), top_of(row, lse, lookup.top))


def log_softmax(row: Floats) -> npt.NDArray[np.float64]:
    """Natural-log probabilities of one row, in float64."""
    return row.astype(np.float64) - log_sum_exp(row)


def top_of(row: Floats, lse: float, n: int) -> tuple[tuple[float, int], ...]:
    """The n most probable (logprob, id), falling. `lse`: the row's log-sum-exp."""
    if n <= 0:
        return ()
    return tuple([(float(row[i]) - lse, int(i)) for i in heaviest(row, min(n, len(row)))])
