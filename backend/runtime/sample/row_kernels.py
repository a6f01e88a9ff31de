"""The small kernels around the passes of `kernels.py`, in Triton: rows adjusted before, log-probabilities read after.

Owns: penalties, bias and bans, which touch few ids of a row; the log-probabilities of named ids; the n most probable.
Knows nothing of recipes: `packing.py` says where in the packed words each list lies.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .packing import STATS_FIELDS

_STATS = tl.constexpr(STATS_FIELDS)
_INF = tl.constexpr(float("inf"))


@triton.jit
def float_word(pointer):
    return tl.load(pointer).to(tl.float32, bitcast=True)


@triton.jit
def ordered(x):
    """int32 numbers in the order of float32 ones (0 and -0 are one)."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def adjust(adjusted, packed, lists, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (adjusted rows), one program each, in the CPU sampler's order: repetition penalty, what is subtracted, bias,
    bans. `lists`: word offset of the offsets of each row's list: four counts, the penalty, and the ids with their
    numbers."""
    slot = tl.program_id(0)
    row = adjusted + slot.to(tl.int64) * VOCAB
    head = packed + tl.load(packed + lists + slot)
    repeated, lessened, biased, banned = tl.load(head), tl.load(head + 1), tl.load(head + 2), tl.load(head + 3)
    penalty = float_word(head + 4)
    at = head + 5
    for start in range(0, repeated, BLOCK):
        i = start + tl.arange(0, BLOCK)
        ids = tl.load(at + i, mask=i < repeated, other=0)
        x = tl.load(row + ids, mask=i < repeated, other=0.0)
        tl.store(row + ids, tl.where(x > 0, tl.div_rn(x, penalty), x * penalty), mask=i < repeated)
    tl.debug_barrier()
    at += repeated
    for start in range(0, lessened, BLOCK):
        i = start + tl.arange(0, BLOCK)
        ids = tl.load(at + i, mask=i < lessened, other=0)
        x = tl.load(row + ids, mask=i < lessened, other=0.0)
        less = tl.load(at + lessened + i, mask=i < lessened, other=0).to(tl.float32, bitcast=True)
        tl.store(row + ids, x - less, mask=i < lessened)
    tl.debug_barrier()
    at += 2 * lessened
    for start in range(0, biased, BLOCK):
        i = start + tl.arange(0, BLOCK)
        ids = tl.load(at + i, mask=i < biased, other=0)
        x = tl.load(row + ids, mask=i < biased, other=0.0)
        more = tl.load(at + biased + i, mask=i < biased, other=0).to(tl.float32, bitcast=True)
        tl.store(row + ids, x + more, mask=i < biased)
    tl.debug_barrier()
    at += 2 * biased
    for start in range(0, banned, BLOCK):
        i = start + tl.arange(0, BLOCK)
        ids = tl.load(at + i, mask=i < banned, other=0)
        tl.store(row + ids, tl.full([BLOCK], -_INF, tl.float32), mask=i < banned)


@triton.jit(do_not_specialize=["pairs", "count"])
def look(logits, stride, packed, pairs, count, stats, out, BLOCK: tl.constexpr):
    """Grid (pairs / BLOCK): the log-probability of each (row, id). `pairs`: word offset of the rows, then the ids."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(packed + pairs + i, mask=i < count, other=0).to(tl.int64)
    token = tl.load(packed + pairs + count + i, mask=i < count, other=0)
    raw = tl.load(logits + row * stride + token, mask=i < count, other=0.0).to(tl.float32).to(tl.float64)
    tl.store(out + i, raw - tl.load(stats + row * _STATS, mask=i < count, other=0.0), mask=i < count)


@triton.jit(do_not_specialize=["rows", "n"])
def tops(logits, stride, packed, rows, n, out, VOCAB: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (TILES, rows): the n largest of each tile as int64 keys that order by logit, then by falling id."""
    tile, i = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tl.load(packed + rows + i).to(tl.int64)
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * stride + ids, mask=ids < VOCAB, other=-_INF).to(tl.float32)
    keys = (ordered(x).to(tl.int64) << 32) | (2147483647 - ids).to(tl.int64)
    keys = tl.where(ids < VOCAB, keys, -0x7FFFFFFFFFFFFFFF)
    for j in range(n):
        best = tl.max(keys)
        tl.store(out + (i * TILES + tile) * n + j, best)
        keys = tl.where(keys == best, -0x7FFFFFFFFFFFFFFF, keys)
