"""Ragged attention against the definition: each row, alone, over the slots its span may see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.attention import plan as plan_module
from sgl.backend.runtime.attention import torch_attention
from sgl.backend.runtime.attention.plan import plan_attention
from sgl.backend.runtime.attention.torch_attention import StepAttention, attend_dense, attend_dense_plain
from sgl.backend.runtime.step.packed import SpanLayout


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads, and lose much to them when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(contexts, rows, slots):
    """SpanLayouts for spans with these context runs and row counts, and the slots of all rows."""
    spans, first = [], 0
    for context, n in zip(contexts, rows):
        spans.append(SpanLayout(first, n, tuple(context), sum(length for _, length in context)))
        first += n
    return spans, np.array(slots, dtype=np.int64)


def compare(spans, slots, *, groups=3, heads=2, dim=8, pool=None, seed=0, dtype=torch.float32, atol=1e-5):
    """Run a step's attention and check every row against the naive one. Returns the plan."""
    generator = torch.Generator().manual_seed(seed)
    size = pool or int(max([*slots, *(a + n for s in spans for a, n in s.context)])) + 2
    kv = torch.randn(size, 2 * heads, dim, generator=generator).to(dtype)
    new = torch.randn(len(slots), 2 * heads, dim, generator=generator).to(dtype)
    q = torch.randn(len(slots), groups * heads, dim, generator=generator).to(dtype)
    plan = plan_attention(spans, slots)
    step = StepAttention(plan, slots, groups, device="cpu", dtype=dtype)
    step.write(kv, new)
    assert torch.equal(kv[torch.from_numpy(slots)], new)
    got = step.attend(q, kv).view(len(slots), groups * heads, dim)
    expected = torch.zeros(len(slots), groups * heads, dim)
    for span in spans:
        context = [s for start, length in span.context for s in range(start, start + length)]
        for r in range(span.rows):
            row = span.first_row + r
            seen = context + slots[span.first_row : row + 1].tolist()
            k, v = kv[seen, :heads].float(), kv[seen, heads:].float()
            grouped = q[row].float().view(groups, heads, dim)  # head (g, h) reads KV head h
            weight = (torch.einsum("ghd,lhd->ghl", grouped, k) * dim**-0.5).softmax(-1)
            expected[row] = torch.einsum("ghl,lhd->ghd", weight, v).reshape(groups * heads, dim)
    torch.testing.assert_close(got.float(), expected, atol=atol, rtol=1e-4)
    return plan


def test_one_decode_row_is_one_view():
    plan = compare(*build([[(1, 90)]], [1], [91]))
    assert len(plan.pieces) == 1 and plan.parts == ()
    assert plan.pieces[0].slots == slice(1, 92) and plan.pieces[0].limit_SR is None


def test_empty_context():
    compare(*build([[], [], [(0, 0)]], [1, 4, 1], [3, 9, 8, 5, 4, 1]))


@pytest.mark.parametrize("rows", [1, 7, 60, 200])
@pytest.mark.parametrize("context", [0, 5, 130])
def test_a_prompt_chunk(rows, context):
    slots = range(context, context + rows)
    compare(*build([[(0, context)] if context else []], [rows], slots))


def test_a_prompt_chunk_in_scattered_slots():
    compare(*build([[(0, 20), (400, 7)]], [100], np.random.default_rng(0).permutation(np.arange(100, 300))[:100]))


def test_shared_prefix_is_one_piece_for_all():
    contexts = [[(0, 90), (100 + 20 * i, 3 + i)] for i in range(8)]
    plan = compare(*build(contexts, [1] * 8, [100 + 20 * i + 3 + i for i in range(8)]))
    assert plan.pieces[0].slots == slice(0, 90) and plan.pieces[0].rows == slice(0, 8)
    assert len(plan.pieces) == 2 and plan.absent_TP is None


def test_tree_of_prefixes_with_an_outsider():
    """Two levels of sharing, a span that shares nothing, a chunk under the root, spans of different lengths."""
    root, left, right = (0, 300), (300, 150), (450, 140)
    contexts = [[root, left], [root, right, (700, 4)], [(710, 3)], [root, left], [root, right], [root]]
    rows = [2, 1, 5, 3, 1, 70]
    plan = compare(*build(contexts, rows, range(800, 800 + sum(rows))))
    assert len(plan.pieces) > 3 and plan.absent_TP is not None and len(plan.parts) >= 3


def test_context_written_by_another_span_of_the_same_step():
    """A prompt chunk and, in the same step, children that attend to what it writes."""
    rows = [80, 1, 2]
    slots = [*range(10, 90), 200, 300, 301]
    compare(*build([[(0, 10)], [(0, 10), (10, 80)], [(0, 10), (10, 80)]], rows, slots))


def test_fragmented_context():
    scattered = [(2 * i, 1) for i in range(150)]
    plan = compare(*build([scattered, scattered[:40], scattered], [1, 2, 1], [400, 410, 405, 420]))
    assert len(plan.pieces) <= 3


def test_select_of_many_children():
    contexts = [[(0, 40)]] * 6 + [[(50, 30)]] * 6
    rows = [1, 5, 3, 2, 4, 5] * 2
    compare(*build(contexts, rows, range(100, 100 + sum(rows))))


def test_large_spread_of_lengths_is_several_rectangles():
    contexts, start = [], 0
    for length in [1000, 3, 5, 900, 4, 2]:
        contexts.append([(start, length)])
        start += length
    plan = compare(*build(contexts, [1] * 6, range(start, start + 6)), heads=1, groups=1)
    assert len(plan.pieces) == 2


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("heads", [1, 3])
def test_head_ratios(groups, heads):
    contexts = [[(0, 140), (150, 10)], [(0, 140)], [(200, 6)]]
    compare(*build(contexts, [1, 60, 3], range(300, 364)), groups=groups, heads=heads)


def test_bfloat16():
    compare(*build([[(0, 140), (150, 10)], [(0, 140)]], [1, 60], range(300, 361)), dtype=torch.bfloat16, atol=3e-2)


@st.composite
def steps(draw):
    """A random tree of runs, spans at random nodes of it, rows in random slots."""
    nodes, next_slot = [[]], 1
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from(nodes))
        length = draw(st.sampled_from([1, 2, 17, 64, 200]))
        nodes.append([*parent, (next_slot, length)])
        next_slot += length + draw(st.integers(0, 1))
    rows = draw(st.lists(st.sampled_from([1, 1, 1, 2, 5, 49]), min_size=1, max_size=7))
    contexts = [draw(st.sampled_from(nodes)) for _ in rows]
    own = next_slot + np.arange(sum(rows))
    if draw(st.booleans()):
        own = np.random.default_rng(draw(st.integers(0, 99))).permutation(own)
    return build(contexts, rows, own)


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(1, 2))
def test_any_step(step, groups):
    compare(*step, groups=groups, dim=4)


@settings(max_examples=25, deadline=None)
@given(steps())
def test_any_step_without_the_fast_kernel(step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_attention, "_flash_cpu", None)
        compare(*step, groups=2, dim=4)


@settings(max_examples=25, deadline=None)
@given(steps())
def test_any_step_with_everything_shared_and_small_tiles(step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "SHARE_FROM_SLOTS", 1)
        patch.setattr(plan_module, "TILE_ROWS", 3)
        patch.setattr(plan_module, "PADDING_COST", 0)
        compare(*step, groups=2, dim=4)


@pytest.mark.parametrize("masked", [False, True])
def test_both_dense_attentions_agree(masked):
    if torch_attention._flash_cpu is None:
        pytest.skip("this torch has no CPU flash attention")
    q, k, v = (torch.randn(2, 3, 40, 16) for _ in range(3))
    mask = torch.zeros(2, 1, 40, 40).masked_fill_(torch.rand(2, 1, 40, 40) < 0.3, -torch.inf) if masked else None
    fast, plain = attend_dense(q, k, v, mask), attend_dense_plain(q, k, v, mask)
    for a, b in zip(fast, plain):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
