"""Sampling on a GPU, in Triton: one pass over each row for most asks, a few for filtered ones.

Owns: the arithmetic of `sampler.py` over rows of logits that stay on the device. Knows nothing of recipes: `packing.py`
packs them into records. Every kernel is asynchronous and allocates nothing.

A row is cut into tiles, one program each; the program that comes last combines them. Noise is evaluated in float32,
relative to the tile's best. Ids within MARGIN of the winner (hardly ever two) are compared again in float64.

Invariants: 1. no floating-point atomics and sums in a fixed order: a row's token does not depend on the rows beside it;
2. counters of arrived programs are zero before and after each launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .packing import ADJUSTED, FILTERED, LOOKUP, MASKED, MEASURED, NAN, NOTHING_ALLOWED, RECORD, STATS_FIELDS
from .row_kernels import float_word, ordered

TILE_FIELDS, STATE_FIELDS, GROUPS = 8, 5, 8
"""float64 numbers of a tile, and of a filtered row between passes; maxima a tile, which bound its k-th largest."""

_WORDS = tl.constexpr(RECORD.itemsize // 4)
_LOOKUP, _MASKED, _ADJUSTED = tl.constexpr(LOOKUP), tl.constexpr(MASKED), tl.constexpr(ADJUSTED)
_FILTERED, _MEASURED = tl.constexpr(FILTERED), tl.constexpr(MEASURED)
_NAN, _NOTHING_ALLOWED = tl.constexpr(NAN), tl.constexpr(NOTHING_ALLOWED)
_FIELDS, _STATE, _STATS, _GROUPS = (tl.constexpr(n) for n in (TILE_FIELDS, STATE_FIELDS, STATS_FIELDS, GROUPS))
_NO_ID = tl.constexpr(2**30)
"""More than any id, and exact in every type it passes through."""
_INF = tl.constexpr(float("inf"))
_MARGIN = tl.constexpr(1e-4)
"""More than the float32 error of a score that can win: those lie within 27 of the tile's best."""


@triton.jit
def _finalise(h):
    h ^= h >> 16
    h *= 0x85EBCA6B
    h ^= h >> 13
    h *= 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit
def _noise_words(record):
    """`noise.mix(key, position)`, as two words."""
    low = tl.load(record).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(record + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
    position = tl.load(record + 2).to(tl.uint64)
    z = ((high << 32) | low) * 0x9E3779B97F4A7C15 + position * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z ^= z >> 31
    return z.to(tl.uint32), (z >> 32).to(tl.uint32)


@triton.jit
def _hash(ids, low, high):
    """`noise.uniform` before it is scaled."""
    return _finalise(_finalise((ids.to(tl.uint32) * 0x9E3779B1) ^ low) + high)


@triton.jit
def _score(x, ids, temperature, low, high):
    """logits / T + Gumbel, in float64."""
    u = (_hash(ids, low, high).to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return x.to(tl.float64) / temperature.to(tl.float64) - tl.log(-tl.log(u))


@triton.jit
def _draw(x, open, ids, top, temperature, low, high):
    """(id, logit) of the winner among the ids where `open`; (_NO_ID, -inf) if none is. `top` is no less than any of
    their logits, and finite."""
    h = _hash(ids, low, high)
    # E = -log(u): u near 1 is not resolved in float32, its complement is
    rest = ((~h).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    u = (h.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    near_one = rest * (1.0 + rest * (0.5 + rest * (0.33333334 + rest * 0.25)))
    exponential = tl.where(rest < 0.03125, near_one, -tl.log(u))
    open = open & (x > -_INF)
    rough = tl.where(open, (x - top) / temperature - tl.log(exponential), -_INF)
    close = open & (rough >= tl.max(rough) - _MARGIN)
    winner, last = tl.min(tl.where(close, ids, _NO_ID)), tl.max(tl.where(close, ids, -1))
    value = tl.max(tl.where(ids == winner, x, -_INF))
    if last > winner:
        best = _score(value, winner, temperature, low, high)
        other = winner
        while other < last:
            other = tl.min(tl.where(close & (ids > other), ids, _NO_ID))
            logit = tl.max(tl.where(ids == other, x, -_INF))
            score = _score(logit, other, temperature, low, high)
            if score > best:
                winner, value, best = other, logit, score
    return winner, value


@triton.jit
def _read(logits, adjusted, packed, record, row, stride, ids, VOCAB: tl.constexpr, RICH: tl.constexpr):
    """(raw logits, those to sample from, which may be sampled) of some ids of a row."""
    allowed = ids < VOCAB
    raw = tl.load(logits + row * stride + ids, mask=allowed, other=-_INF).to(tl.float32)
    x = raw
    if RICH:
        kind = tl.load(record + 4)
        if (kind & _ADJUSTED) != 0:
            slot = tl.load(record + 10).to(tl.int64)
            x = tl.load(adjusted + slot * VOCAB + ids, mask=allowed, other=-_INF)
        if (kind & _MASKED) != 0:
            words = tl.load(packed + tl.load(record + 9) + (ids >> 5), mask=allowed, other=0)
            allowed = allowed & (((words >> (ids & 31)) & 1) != 0)
            x = tl.where(allowed, x, -_INF)
    return raw, x, allowed


@triton.jit
def _last(counter, TILES: tl.constexpr):
    """Whether the other programs of the row have come here, and what they stored can be read; resets the counter."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == TILES - 1
    tl.debug_barrier()
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def _field(tiles, FIELD: tl.constexpr, none, TILES: tl.constexpr, POW2: tl.constexpr):
    """One number of each tile of a row. Not through the L1 cache, which may hold what lay there before."""
    tile = tl.arange(0, POW2)
    return tl.load(tiles + tile * _FIELDS + FIELD, mask=tile < TILES, other=none, cache_modifier=".cg")


@triton.jit
def _best_draw(tiles, record, TILES: tl.constexpr, POW2: tl.constexpr):
    """(id, logit) of the winner among those of a row's tiles."""
    winners = _field(tiles, 2, _NO_ID, TILES, POW2).to(tl.int32)
    values = _field(tiles, 3, -_INF, TILES, POW2)
    low, high = _noise_words(record)
    scores = _score(values, winners, float_word(record + 3), low, high)
    winner = tl.min(tl.where(scores == tl.max(scores), winners, _NO_ID))
    return winner, tl.max(tl.where(winners == winner, values, -_INF)).to(tl.float32)


@triton.jit
def _finish(token, row, kind, logits, stride, stats, out, sampled):
    """The row's token is known."""
    tl.store(out + row, token)
    tl.store(sampled + row, token)
    if (kind & _MEASURED) != 0:
        raw = tl.load(logits + row * stride + token).to(tl.float64)
        tl.store(stats + row * _STATS + 1, raw - tl.load(stats + row * _STATS))


@triton.jit
def _measure(tiles, row, stats, TILES: tl.constexpr, POW2: tl.constexpr):
    """Log-sum-exp of a row, and the mass that its mask forbids, from its tiles."""
    maxima = _field(tiles, 4, -_INF, TILES, POW2)
    top = tl.max(maxima)
    scale = tl.exp((maxima - top).to(tl.float32)).to(tl.float64)
    total = tl.sum(_field(tiles, 5, 0.0, TILES, POW2) * scale)
    allowed = tl.sum(_field(tiles, 6, 0.0, TILES, POW2) * scale)
    tl.store(stats + row * _STATS, top + tl.log(total))
    tl.store(stats + row * _STATS + 2, 1.0 - allowed / total)
    tl.debug_barrier()


@triton.jit
def _kth(values, k):
    """The k-th largest of some float32 numbers, -inf if there are fewer: bit by bit, from above."""
    keys = ordered(values).to(tl.int64)
    found = tl.full([], -(2**31), tl.int64)
    step = tl.full([], 2**31, tl.int64)
    for _ in range(32):
        found = tl.where(tl.sum((keys >= found + step).to(tl.int32)) >= k, found + step, found)
        step = step >> 1
    bits = found.to(tl.int32)
    value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(value == value, value, -_INF)


@triton.jit
def _open_row(state, group_maxima, record, top, winner, value, TILES: tl.constexpr, POW2: tl.constexpr):
    """Note the free draw of a filtered row, and a bound: the k-th largest of some logits is at most that of all."""
    floor = tl.full([], -_INF, tl.float32)
    k = tl.load(record + 5)
    if (k > 0) & (k <= TILES * _GROUPS):
        group = tl.arange(0, POW2 * _GROUPS)
        inside = group < TILES * _GROUPS
        floor = _kth(tl.load(group_maxima + group, mask=inside, other=-_INF, cache_modifier=".cg"), k)
    tl.store(state, 1.0)
    tl.store(state + 1, top)
    tl.store(state + 2, winner.to(tl.float64))
    tl.store(state + 3, value.to(tl.float64))
    tl.store(state + 4, floor.to(tl.float64))


@triton.jit(do_not_specialize_on_alignment=["sampled"])
def first(
    logits, stride, adjusted, packed, scratch, groups, counters, states, stats, out, sampled,
    VOCAB: tl.constexpr, TILES: tl.constexpr, POW2: tl.constexpr, BLOCK: tl.constexpr,
    NOISY: tl.constexpr, RICH: tl.constexpr,
):  # fmt: skip
    """Grid (TILES, rows). Every ask but filtered ones is answered by it. NOISY: some temperature is not 0; RICH: some
    record has a kind (then all are NOISY)."""
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    record = packed + row * _WORDS
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    raw, x, allowed = _read(logits, adjusted, packed, record, row, stride, ids, VOCAB, RICH)
    x = tl.where(x == x, x, -_INF)
    top = tl.max(x)
    best = tl.where(raw == raw, tl.where(allowed & (x == top), ids, _NO_ID), -1)
    tiles = scratch + row * TILES * _FIELDS
    mine = tiles + tile * _FIELDS
    tl.store(mine, top.to(tl.float64))
    tl.store(mine + 1, tl.min(best).to(tl.float64))
    if NOISY:
        temperature = float_word(record + 3)
        if (temperature > 0) & (tl.abs(top) < _INF):
            low, high = _noise_words(record)
            winner, value = _draw(x, allowed, ids, top, temperature, low, high)
            tl.store(mine + 2, winner.to(tl.float64))
            tl.store(mine + 3, value.to(tl.float64))
        else:
            tl.store(mine + 2, _NO_ID)
            tl.store(mine + 3, -_INF)
    if RICH:
        kind = tl.load(record + 4)
        if (kind & _MEASURED) != 0:
            peak = tl.max(tl.where(raw == raw, raw, -_INF))
            weights = tl.exp(raw - tl.where(tl.abs(peak) < _INF, peak, 0.0))
            tl.store(mine + 4, peak.to(tl.float64))
            tl.store(mine + 5, tl.sum(weights).to(tl.float64))
            tl.store(mine + 6, tl.sum(tl.where(allowed, weights, 0.0)).to(tl.float64))
        if (kind & _FILTERED) != 0:
            maxima = tl.max(tl.reshape(x, [_GROUPS, BLOCK // _GROUPS]), axis=1)
            tl.store(groups + (row * TILES + tile) * _GROUPS + tl.arange(0, _GROUPS), maxima)
    if _last(counters + row, TILES):
        bests = _field(tiles, 0, -_INF, TILES, POW2)
        ids_of = _field(tiles, 1, _NO_ID, TILES, POW2).to(tl.int32)
        peak = tl.max(bests)
        token = tl.min(tl.where(bests == peak, ids_of, _NO_ID))
        fault = tl.where(tl.min(ids_of) == -1, _NAN, tl.where(token == _NO_ID, _NOTHING_ALLOWED, 0))
        undecided = fault == 0
        kind = tl.full([], 0, tl.int32)
        if RICH:
            kind = tl.load(record + 4)
            if (kind & _MEASURED) != 0:
                _measure(tiles, row, stats, TILES, POW2)
            undecided = undecided & ((kind & _LOOKUP) == 0)
            tl.store(states + row * _STATE, 0.0)
        if NOISY:  # noqa: SIM102 - decided when it is compiled
            if undecided & (tl.abs(peak) < _INF) & (float_word(record + 3) > 0):
                token, value = _best_draw(tiles, record, TILES, POW2)
                if RICH:  # noqa: SIM102
                    if (kind & _FILTERED) != 0:
                        group_maxima = groups + row * TILES * _GROUPS
                        _open_row(states + row * _STATE, group_maxima, record, peak, token, value, TILES, POW2)
                        undecided = undecided & False
        if undecided:
            _finish(token, row, kind, logits, stride, stats, out, sampled)
        else:
            tl.store(out + row, fault)
            if (fault != 0) & ((kind & _LOOKUP) == 0):
                tl.store(sampled + row, 0)


# Filters. Order ids by falling logit, then rising id: what survives top-k, top-p and min-p is a prefix of that order.
# So a draw from a longer prefix that survives is the sample. If it does not survive, nothing behind it does: draw again
# from what lies before it. `first` draws freely and bounds the k-th largest logit, `again` judges a draw and makes
# another, `settle` loops over rows that stay open. A row expects 1 + ln(mass of the first prefix / mass of the
# survivors) draws. The pass of the next draw finds the count and the mass before the last one.


@triton.jit
def _judge_tile(
    tile, tiles, logits, adjusted, packed, record, row, stride, peak, token, value, floor,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count and mass before `token` in one tile, and the mass of all; stores the tile's next draw."""
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    _, x, allowed = _read(logits, adjusted, packed, record, row, stride, ids, VOCAB, True)
    temperature = float_word(record + 3)
    weights = tl.exp((x - peak) / temperature)
    before = allowed & ((x > value) | ((x == value) & (ids < token)))
    open = before & (x >= floor) & (weights >= float_word(record + 8)) & (weights > 0)
    low, high = _noise_words(record)
    winner, logit = _draw(x, open, ids, peak, temperature, low, high)
    tl.store(tiles + tile * _FIELDS + 2, winner.to(tl.float64))
    tl.store(tiles + tile * _FIELDS + 3, logit.to(tl.float64))
    wide = weights.to(tl.float64)
    return tl.sum(before.to(tl.int32)), tl.sum(tl.where(before, wide, 0.0)), tl.sum(wide)


@triton.jit
def _survives(record, peak, value, floor, count, mass, total):
    """Whether the token with this logit, count and mass before it passes the row's filters."""
    k = tl.load(record + 5)
    low = tl.load(record + 6).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(record + 7).to(tl.uint32, bitcast=True).to(tl.uint64)
    top_p = ((high << 32) | low).to(tl.float64, bitcast=True)
    weight = tl.exp((value - peak) / float_word(record + 3))
    passes = (value >= floor) & (weight >= float_word(record + 8)) & ((k <= 0) | (count < k))
    return (count == 0) | (passes & ((top_p >= 1) | (mass < top_p * total)))


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["sampled"])
def again(
    logits, stride, adjusted, packed, rows, scratch, counters, states, stats, out, sampled,
    VOCAB: tl.constexpr, TILES: tl.constexpr, POW2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (TILES, filtered rows): judge the draw of each row, which answers it or leaves another draw. `rows`: word
    offset of the list of rows."""
    tile = tl.program_id(0)
    row = tl.load(packed + rows + tl.program_id(1)).to(tl.int64)
    state, record = states + row * _STATE, packed + row * _WORDS
    if tl.load(state) > 0:
        peak, token = tl.load(state + 1).to(tl.float32), tl.load(state + 2).to(tl.int32)
        value, floor = tl.load(state + 3).to(tl.float32), tl.load(state + 4).to(tl.float32)
        tiles = scratch + row * TILES * _FIELDS
        count, mass, total = _judge_tile(
            tile, tiles, logits, adjusted, packed, record, row, stride, peak, token, value, floor, VOCAB, BLOCK
        )
        tl.store(tiles + tile * _FIELDS + 4, count.to(tl.float64))
        tl.store(tiles + tile * _FIELDS + 5, mass)
        tl.store(tiles + tile * _FIELDS + 6, total)
        if _last(counters + row, TILES):
            count = tl.sum(_field(tiles, 4, 0.0, TILES, POW2)).to(tl.int32)
            mass = tl.sum(_field(tiles, 5, 0.0, TILES, POW2))
            total = tl.sum(_field(tiles, 6, 0.0, TILES, POW2))
            if _survives(record, peak, value, floor, count, mass, total):
                tl.store(state, 0.0)
                _finish(token, row, tl.load(record + 4), logits, stride, stats, out, sampled)
            else:
                token, value = _best_draw(tiles, record, TILES, POW2)
                tl.store(state + 2, token.to(tl.float64))
                tl.store(state + 3, value.to(tl.float64))


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["sampled"])
def settle(
    logits, stride, adjusted, packed, rows, scratch, states, stats, out, sampled,
    VOCAB: tl.constexpr, TILES: tl.constexpr, POW2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (filtered rows), one program each: judge and draw until the row is answered."""
    row = tl.load(packed + rows + tl.program_id(0)).to(tl.int64)
    state, record = states + row * _STATE, packed + row * _WORDS
    tiles = scratch + row * TILES * _FIELDS
    open = tl.load(state) > 0
    peak, floor = tl.load(state + 1).to(tl.float32), tl.load(state + 4).to(tl.float32)
    token, value = tl.load(state + 2).to(tl.int32), tl.load(state + 3).to(tl.float32)
    while open:
        count, mass, total = tl.full([], 0, tl.int32), tl.full([], 0.0, tl.float64), tl.full([], 0.0, tl.float64)
        for tile in range(TILES):
            before, lighter, whole = _judge_tile(
                tile, tiles, logits, adjusted, packed, record, row, stride, peak, token, value, floor, VOCAB, BLOCK
            )
            count += before
            mass += lighter
            total += whole
        if _survives(record, peak, value, floor, count, mass, total):
            _finish(token, row, tl.load(record + 4), logits, stride, stats, out, sampled)
            open = open & False
        else:
            tl.debug_barrier()
            token, value = _best_draw(tiles, record, TILES, POW2)
            tl.debug_barrier()
