"""The Triton kernels of attention over a `TreePlan`: expand runs, attend items, merge parts.

Owns: the arithmetic, and what is read and written where. Knows nothing of how a plan is made or launched.

Invariants: 1. sizes that vary between steps are read from device memory, so a captured launch can be replayed; 2. the
softmax is in base 2 (the scale holds log2 e), its maximum and sum in float32; 3. a part is normalised and comes with
log2 of its sum, -inf where its row sees no key; 4. offsets into K, V, Q and the output have 64 bits (a large pool has
more than 2^31 elements); 5. of overlapping launches ("programmatic dependent launch") a program reads the plan and its
slots, which were there before the layer began, then waits for the launch before. Each launch has a program that waits.

Legend: M rows x query heads of a KV head (row j, head g at j * G + g), N keys, D head dim (DP: padded to a power of
two), P parts, GP query heads of a KV head (padded).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

WIDE, SMALL, RUNS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
ITEM = tl.constexpr(8)
RUN = tl.constexpr(4)
APART, ALONE, FIRST, SECOND = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
"""How a launch of `attend` overlaps with others: not at all; with those around it; as one of two."""

_PLAN = ["packed", "wide_items", "small_items", "listed", "place", "indptr", "runs"]
"""Sections of a packed plan: wherever they begin, the same compiled kernels read them."""


@triton.jit(do_not_specialize_on_alignment=_PLAN)
def expand(packed, runs, slots, tickets, TICKETS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the slots of each run to its destination in `slots`; zero the `TICKETS` tickets."""
    program = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    for run in range(program, tl.load(packed + RUNS), tl.num_programs(0)):
        first = tl.load(runs + run * RUN)
        length = tl.load(runs + run * RUN + 1)
        to = slots + tl.load(runs + run * RUN + 2)
        for at in range(0, length, BLOCK):
            tl.store(to + at + n, first + at + n, mask=at + n < length)
    if TICKETS > 0 and program == 0:
        for at in range(0, TICKETS, BLOCK):
            tl.store(tickets + at + n, tl.zeros([BLOCK], tl.int32), mask=at + n < TICKETS)


@triton.jit
def _over_keys(
    q_MD, acc_MD, top_M, sum_M, slot_N, keys, values, slots, begin, end, count, limit_M, scale,
    STEP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add keys `begin .. end` (in blocks of N) to a running softmax. STEP: elements from a slot to the next.

    `slot_N` are the slots of the first block; those of each next one are loaded a block ahead. So the loads of K and V
    depend on no other load of their own iteration, and are prefetched by as many stages as the loop is told.
    """
    d = tl.arange(0, DP)
    n = tl.arange(0, N)
    for start in tl.range(begin, end, N, num_stages=STAGES):
        i = start + n
        at_ND = slot_N.to(tl.int64)[:, None] * STEP + d[None, :]
        there_ND = (i < count)[:, None] & (d < D)[None, :]
        slot_N = tl.load(slots + N + i, mask=N + i < count, other=0)
        if MASKED or D != DP:
            k_ND = tl.load(keys + at_ND, mask=there_ND, other=0.0)
            v_ND = tl.load(values + at_ND, mask=there_ND, other=0.0)
        else:
            k_ND = tl.load(keys + at_ND)
            v_ND = tl.load(values + at_ND)
        score_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=PRECISION)
        if MASKED:
            sees_MN = (i < count)[None, :] & (i[None, :] <= limit_M[:, None])
            score_MN = tl.where(sees_MN, score_MN, float("-inf"))
        new_M = tl.maximum(top_M, tl.max(score_MN, 1) * scale)
        if MASKED:
            base_M = tl.where(new_M == float("-inf"), 0.0, new_M)
        else:
            base_M = new_M
        weight_MN = tl.exp2(score_MN * scale - base_M[:, None])
        fade_M = tl.exp2(top_M - base_M)
        sum_M = sum_M * fade_M + tl.sum(weight_MN, 1)
        acc_MD = tl.dot(weight_MN.to(v_ND.dtype), v_ND, acc_MD * fade_M[:, None], input_precision=PRECISION)
        top_M = new_M
    return acc_MD, top_M, sum_M, slot_N


@triton.jit
def _merge_row(
    row, head, begin, end, part_out, part_lse, out,
    Q: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Merge parts `begin .. end` of a row's query heads that belong to KV head `head` into the output."""
    g = tl.arange(0, GP)
    d = tl.arange(0, DP)
    p = tl.arange(0, P)
    top_G = tl.full([GP], float("-inf"), tl.float32)
    sum_G = tl.zeros([GP], tl.float32)
    acc_GD = tl.zeros([GP, DP], tl.float32)
    for first in range(begin, end, P):
        there_PG = (first + p < end)[:, None] & (g < G)[None, :]
        at_PG = (first + p)[:, None] * Q + head * G + g[None, :]
        # L1 may hold what these addresses had when a former layer was merged.
        lse_PG = tl.load(part_lse + at_PG, mask=there_PG, other=float("-inf"), cache_modifier=".cg")
        part_PGD = tl.load(
            part_out + (at_PG.to(tl.int64) * D)[:, :, None] + d[None, None, :],
            mask=there_PG[:, :, None] & (d < D)[None, None, :], other=0.0, cache_modifier=".cg",
        )  # fmt: skip
        new_G = tl.maximum(top_G, tl.max(lse_PG, 0))
        base_G = tl.where(new_G == float("-inf"), 0.0, new_G)
        weight_PG = tl.exp2(lse_PG - base_G[None, :])
        fade_G = tl.exp2(top_G - base_G)
        sum_G = sum_G * fade_G + tl.sum(weight_PG, 0)
        acc_GD = acc_GD * fade_G[:, None] + tl.sum(part_PGD.to(tl.float32) * weight_PG[:, :, None], 0)
        top_G = new_G
    acc_GD = acc_GD / tl.where(sum_G > 0, sum_G, 1.0)[:, None]
    to_GD = out + (row.to(tl.int64) * Q + head * G + g)[:, None] * D + d[None, :]
    tl.store(to_GD, acc_GD.to(out.dtype.element_ty), mask=(g < G)[:, None] & (d < D)[None, :])


@triton.jit
def _attend_item(
    item, head, listed, place, indptr, slots, q, k, v, out, part_out, part_lse, tickets, scale,
    Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, GP: tl.constexpr, P: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, LAST_MERGES: tl.constexpr,
    PRECISION: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One item for one KV head. SPLIT: keys that all rows see are gone through without a mask."""
    G: tl.constexpr = Q // H
    q_begin = tl.load(item)
    q_count = tl.load(item + 1)
    key_begin = tl.load(item + 2)
    key_count = tl.load(item + 3)
    limit = tl.load(item + 4)
    part_begin = tl.load(item + 5)
    if q_count > 0:
        m = tl.arange(0, M)
        d = tl.arange(0, DP)
        j_M = m // G
        is_row_M = j_M < q_count
        listed_M = tl.load(listed + (j_M - 1 - q_begin), mask=tl.where(is_row_M, q_begin, 0) < 0, other=0)
        row_M = tl.where(q_begin < 0, listed_M, q_begin + j_M)
        head_M = head * G + m % G
        at_MD = (row_M.to(tl.int64) * Q + head_M)[:, None] * D + d[None, :]
        there_MD = is_row_M[:, None] & (d < D)[None, :]
        slots += key_begin
        slot_N = tl.load(slots + tl.arange(0, N), mask=tl.arange(0, N) < key_count, other=0)
        first_row = q_begin
        if LAST_MERGES:  # where latency counts; else it would cost registers, and with them programs side by side
            part_M = tl.load(place + part_begin + j_M, mask=tl.where(is_row_M, part_begin, -1) >= 0, other=0)
            if q_begin < 0:
                first_row = tl.load(listed - 1 - q_begin)
            first_begin = tl.load(indptr + first_row)
            first_end = tl.load(indptr + first_row + 1)
        if OVERLAP:
            gdc_wait()
        # L1 may hold what these addresses had in a former layer: `SECOND` does not wait.
        q_MD = tl.load(q + at_MD, mask=there_MD, other=0.0, cache_modifier=".cg")
        acc_MD = tl.zeros([M, DP], tl.float32)
        top_M = tl.full([M], float("-inf"), tl.float32)
        sum_M = tl.zeros([M], tl.float32)
        limit_M = limit + j_M
        keys = k + head * D
        values = v + head * D
        seen_by_all = 0
        if SPLIT:
            seen_by_all = tl.maximum(tl.minimum(key_count, limit + 1), 0) // N * N
            acc_MD, top_M, sum_M, slot_N = _over_keys(
                q_MD, acc_MD, top_M, sum_M, slot_N, keys, values, slots, 0, seen_by_all, key_count, limit_M, scale,
                H * D, D, DP, N, STAGES, False, PRECISION,
            )  # fmt: skip
        acc_MD, top_M, sum_M, slot_N = _over_keys(
            q_MD, acc_MD, top_M, sum_M, slot_N, keys, values, slots, seen_by_all, key_count, key_count, limit_M, scale,
            H * D, D, DP, N, STAGES, True, PRECISION,
        )  # fmt: skip
        acc_MD = acc_MD / tl.where(sum_M > 0, sum_M, 1.0)[:, None]
        if part_begin < 0:
            tl.store(out + at_MD, acc_MD.to(out.dtype.element_ty), mask=there_MD)
        else:
            if not LAST_MERGES:
                part_M = tl.load(place + part_begin + j_M, mask=is_row_M, other=0)
            at_M = part_M * Q + head_M
            # Without a key `top_M` is minus infinity, and so is the sum.
            tl.store(part_lse + at_M, top_M + tl.log2(tl.where(sum_M > 0, sum_M, 1.0)), mask=is_row_M)
            to_MD = part_out + (at_M.to(tl.int64) * D)[:, None] + d[None, :]
            tl.store(to_MD, acc_MD.to(part_out.dtype.element_ty), mask=there_MD)
            if LAST_MERGES:
                _merge_complete(
                    q_begin, q_count, first_row, first_begin, first_end, head, listed, indptr, part_out, part_lse, out,
                    tickets, Q, H, G, GP, D, DP, P,
                )  # fmt: skip


@triton.jit
def _merge_complete(
    q_begin, q_count, row, begin, end, head, listed, indptr, part_out, part_lse, out, tickets,
    Q: tl.constexpr, H: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    P: tl.constexpr,
):  # fmt: skip
    """Merge those of an item's rows whose other parts are there already, and set their tickets to zero again.

    `row`, `begin` and `end` are of the first row. The barrier orders this program's stores before its ticket. The
    ticket (acquire and release) orders them before the loads of the program that draws the last ticket.
    """
    tl.debug_barrier()
    for j in range(q_count):
        if j > 0:
            row = q_begin + j
            if q_begin < 0:
                row = tl.load(listed + (j - 1 - q_begin))
            begin = tl.load(indptr + row)
            end = tl.load(indptr + row + 1)
        before = tl.atomic_add(tickets + row * H + head, 1, sem="acq_rel", scope="gpu")
        if before == end - begin - 1:
            _merge_row(row, head, begin, end, part_out, part_lse, out, Q, G, GP, D, DP, P)
            tl.store(tickets + row * H + head, 0)


@triton.jit(do_not_specialize=["wide_room"], do_not_specialize_on_alignment=_PLAN)
def attend(
    packed, wide_items, small_items, listed, place, indptr, slots, q, k, v, out, part_out, part_lse, tickets,
    wide_room, scale,
    Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, GP: tl.constexpr, P: tl.constexpr,
    WIDE_M: tl.constexpr, WIDE_N: tl.constexpr, WIDE_STAGES: tl.constexpr,
    SMALL_M: tl.constexpr, SMALL_N: tl.constexpr, SMALL_STAGES: tl.constexpr,
    ONCE: tl.constexpr, LAST_MERGES: tl.constexpr, PRECISION: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    """All items of a kind, or of both; WIDE_M or SMALL_M is 0 where a launch leaves that kind out.

    ONCE: the grid has a program for each place of an item, used or not (`wide_room` of them are for wide ones).
    Otherwise programs take items in turn, as many as the plan says there are.

    ORDER, where launches overlap: `ALONE` waits item by item. Of two launches that run side by side, `FIRST` waits for
    the launch before, and only then lets `SECOND` begin. `SECOND` need not wait, but ends after `FIRST`.
    """
    OVERLAP: tl.constexpr = ORDER == ALONE
    if ORDER == FIRST:
        gdc_wait()
    if ORDER != APART:
        gdc_launch_dependents()
    program = tl.program_id(0)
    if ONCE:
        begin = program
        end = program + 1
        wide = wide_room
    else:
        begin = program
        wide = 0
        if WIDE_M > 0:
            wide = tl.load(packed + WIDE)
        end = wide
        if SMALL_M > 0:
            end = wide + tl.load(packed + SMALL)
        end = end * H
    for work in range(begin, end, tl.num_programs(0)):
        index = work // H
        head = work % H
        if WIDE_M > 0 and SMALL_M > 0:
            if index < wide:
                _attend_item(
                    wide_items + index * ITEM, head, listed, place, indptr, slots, q, k, v, out, part_out, part_lse,
                    tickets, scale, Q, H, D, DP, GP, P, WIDE_M, WIDE_N, WIDE_STAGES, True, LAST_MERGES, PRECISION,
                    OVERLAP,
                )  # fmt: skip
            else:
                _attend_item(
                    small_items + (index - wide) * ITEM, head, listed, place, indptr, slots, q, k, v, out, part_out,
                    part_lse, tickets, scale, Q, H, D, DP, GP, P, SMALL_M, SMALL_N, SMALL_STAGES, False, LAST_MERGES,
                    PRECISION, OVERLAP,
                )  # fmt: skip
        elif WIDE_M > 0:
            _attend_item(
                wide_items + index * ITEM, head, listed, place, indptr, slots, q, k, v, out, part_out, part_lse,
                tickets, scale, Q, H, D, DP, GP, P, WIDE_M, WIDE_N, WIDE_STAGES, True, LAST_MERGES, PRECISION,
                OVERLAP,
            )  # fmt: skip
        else:
            _attend_item(
                small_items + index * ITEM, head, listed, place, indptr, slots, q, k, v, out, part_out, part_lse,
                tickets, scale, Q, H, D, DP, GP, P, SMALL_M, SMALL_N, SMALL_STAGES, False, LAST_MERGES, PRECISION,
                OVERLAP,
            )  # fmt: skip
    if ORDER == SECOND:
        gdc_wait()


@triton.jit(do_not_specialize_on_alignment=_PLAN)
def merge(
    indptr, part_out, part_lse, out,
    Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, GP: tl.constexpr, P: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Merge the parts of one row for one KV head (grid: rows, KV heads). Rows without parts are left alone."""
    if OVERLAP:
        gdc_launch_dependents()
    row = tl.program_id(0)
    begin = tl.load(indptr + row)
    end = tl.load(indptr + row + 1)
    if OVERLAP:
        gdc_wait()
    if end > begin:
        _merge_row(row, tl.program_id(1), begin, end, part_out, part_lse, out, Q, Q // H, GP, D, DP, P)
