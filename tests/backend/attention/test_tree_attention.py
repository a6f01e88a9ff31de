"""Attention on a GPU against the definition: what a plan lets each row see, and what the kernels make of it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))
from interpreted import DEVICE, torch

from sgl.backend.runtime.attention import tree_attention, tree_plan
from sgl.backend.runtime.attention.tree_attention import TreeAttention
from sgl.backend.runtime.attention.tree_plan import Caps, TreePlan, plan_tree
from sgl.backend.runtime.model.llama import kernels
from sgl.backend.runtime.step.packed import Batch, SpanLayout
from sgl.lang.errors import OptionError


@pytest.fixture(scope="module", autouse=True)
def one_thread():
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


def seen_by(spans, slots):
    """The slots each row may see, by the contract of a batch."""
    return [
        [s for start, length in span.context for s in range(start, start + length)]
        + slots[span.first_row : span.first_row + r + 1].tolist()
        for span in spans
        for r in range(span.rows)
    ]


def check_plan(plan: TreePlan, spans, slots, caps: Caps) -> None:
    """Carry a packed plan out by its documentation: each row meets its slots once, its parts are a block."""
    packed = plan.pack(caps).tolist()
    wide, small, listed, place, indptr, runs = caps.offsets
    keys = [-1] * caps.keys
    for at in range(runs, runs + tree_plan.RUN_INTS * packed[tree_plan.RUNS], tree_plan.RUN_INTS):
        first, length, to, _ = packed[at : at + tree_plan.RUN_INTS]
        assert length <= tree_plan.RUN_SLOTS
        keys[to : to + length] = range(first, first + length)
    met = [[] for _ in range(caps.rows)]
    parts = [[] for _ in range(caps.rows)]
    direct = [0] * caps.rows
    kinds = (
        (wide, caps.wide, tree_plan.WIDE, plan.tile_rows.wide),
        (small, caps.small, tree_plan.SMALL, plan.tile_rows.small),
    )
    for at, room, count, most in kinds:
        assert packed[count] <= room
        for i in range(room):
            item = packed[at + i * tree_plan.ITEM_INTS :][: tree_plan.ITEM_INTS]
            assert (item[1] > 0) == (i < packed[count]) and item[1] <= most
            for j in range(item[1]):
                row = item[0] + j if item[0] >= 0 else packed[listed - 1 - item[0] + j]
                met[row] += [keys[item[2] + n] for n in range(item[3]) if n <= item[4] + j]
                if item[5] < 0:
                    direct[row] += 1
                else:
                    parts[row].append(packed[place + item[5] + j])
    expected = seen_by(spans, slots)
    for row in range(caps.rows):
        assert sorted(met[row]) == sorted(expected[row] if row < len(slots) else [])
        begin, end = packed[indptr + row], packed[indptr + row + 1]
        assert sorted(parts[row]) == list(range(begin, end)) and direct[row] == (begin == end)


def compare(spans, slots, *, heads=(4, 2), dim=16, caps=None, seed=0, dtype=None, atol=2e-5):
    """Run a step twice (two layers, one set of scratch), check every row. `caps`: None, or a captured step's."""
    dtype = dtype or torch.float32
    attention = TreeAttention(*heads, dim, torch.device(DEVICE), dtype)
    if DEVICE == "cpu":
        attention.processors = 8  # programs are slow in the interpreter, also idle ones
    tokens = np.zeros(len(slots), dtype=np.int64)
    plan = attention.plan(Batch(tokens, tokens, slots, spans, tokens[:0]))
    caps = plan.needs if caps is None else attention.caps(*caps)
    generator = torch.Generator().manual_seed(seed)
    size = int(max([*slots, *(a + n for s in spans for a, n in s.context)])) + 2
    q = torch.randn(caps.rows, heads[0], dim, generator=generator).to(dtype)
    packed = torch.from_numpy(plan.pack(caps)).to(DEVICE)
    step = attention.start(packed, caps)
    for _ in range(2):
        k, v = (torch.randn(size, heads[1], dim, generator=generator).to(dtype) for _ in range(2))
        k[0] = v[0] = torch.nan  # scratch: nobody sees it
        out = torch.full((caps.rows, heads[0], dim), torch.nan, dtype=dtype, device=DEVICE)
        step.attend(q.to(DEVICE), k.to(DEVICE), v.to(DEVICE), out)
        expected = torch.zeros(caps.rows, heads[0], dim, dtype=torch.float64)
        for row, seen in enumerate(seen_by(spans, slots)):
            keys, values = (x[seen].double().repeat_interleave(heads[0] // heads[1], 1) for x in (k, v))
            weight = (torch.einsum("qd,lqd->ql", q[row].double(), keys) * dim**-0.5).softmax(-1)
            expected[row] = torch.einsum("ql,lqd->qd", weight, values)
        torch.testing.assert_close(out.double().cpu(), expected, atol=atol, rtol=1e-4)
    return plan


ALWAYS = -(10**9)
"""A threshold of sharing that all shared runs pass."""
ROOT, LEFT, RIGHT = (1, 90), (91, 70), (161, 66)
TREE = build(
    [[ROOT, LEFT], [ROOT, RIGHT, (230, 4)], [(235, 3)], [ROOT, LEFT], [ROOT, RIGHT], [ROOT]],
    [2, 1, 5, 3, 1, 11],
    range(300, 323),
)
"""Two levels of sharing, a span that shares nothing, a chunk under the root, spans of different lengths."""


@pytest.fixture
def everything_shared(monkeypatch):
    monkeypatch.setattr(tree_plan, "SHARE_FROM_KEYS", ALWAYS)
    monkeypatch.setattr(tree_plan, "MERGE_COST_KEYS", ALWAYS)


@pytest.mark.parametrize("caps", [None, (1, 1000)])
@pytest.mark.parametrize("context", [0, 5, 300])
def test_one_decode_row(context, caps):
    plan = compare(*build([[(1, context)]], [1], [context + 1]), caps=caps)
    assert len(plan.small_IC) == (5 if context == 300 else 1)  # in chunks of 64
    assert (plan.indptr_T is None) == (context < 300)  # a row with one part is written directly


@pytest.mark.parametrize("caps", [None, (4, 1000)])
def test_few_rows_are_merged_by_their_last_part(caps, everything_shared):
    compare(*build([[(1, 150)], [(1, 150), (200, 2)], [(210, 1)]], [1, 1, 1], [300, 310, 320]), caps=caps)


def test_shared_prefix_is_one_piece_for_all():
    contexts = [[(1, 90), (100 + 20 * i, 3 + i)] for i in range(8)]
    plan = compare(*build(contexts, [1] * 8, [103 + 21 * i for i in range(8)]))
    assert plan.wide_IC.tolist() == [] and [item[1] for item in plan.small_IC.tolist()] == [8] + [1] * 8
    assert plan.keys == 90 + sum(3 + i + 1 for i in range(8))


@pytest.mark.parametrize("caps", [None, (32, 1000)])
def test_tree_of_prefixes_with_an_outsider(caps, everything_shared):
    plan = compare(*TREE, caps=caps)
    assert len(plan.wide_IC) and len(plan.listed)


@pytest.mark.parametrize("rows", [7, 40])
@pytest.mark.parametrize("context", [0, 70])
def test_a_prompt_chunk(rows, context):
    compare(*build([[(1, context)] if context else []], [rows], range(context + 1, context + 1 + rows)))


def test_a_prompt_chunk_in_scattered_slots():
    own = np.random.default_rng(0).permutation(np.arange(100, 150))[:45]
    compare(*build([[(1, 20), (400, 7)]], [45], own), heads=(2, 2))


def test_context_written_by_another_span_of_the_same_step():
    compare(*build([[(1, 9)], [(1, 9), (10, 30)], [(1, 9), (10, 30)]], [30, 1, 2], [*range(10, 40), 200, 300, 301]))


def test_a_large_step_uses_wider_tiles(monkeypatch):
    monkeypatch.setattr(tree_plan, "FEW_ROWS", 40)
    spans, slots = build([[(1, 40)], [(1, 40)], []], [30, 18, 3], range(50, 101))
    plan = compare(spans, slots, heads=(6, 1), dtype=torch.float16, atol=4e-3)
    assert plan.tile_rows.wide_m == 64  # of 17 rows on average: wider tiles would be half empty
    monkeypatch.setattr(tree_attention, "LONG_SPAN_ROWS", 10)
    plan = compare(spans, slots, heads=(6, 1), dtype=torch.float16, atol=4e-3)
    assert plan.tile_rows.wide_m == 128 and plan.wide_IC[:, 1].max() == 21


@pytest.mark.parametrize(("heads", "dim"), [((3, 1), 16), ((9, 3), 24), ((1, 1), 80), ((20, 1), 16)])
def test_shapes_of_heads(heads, dim, everything_shared):
    compare(*build([[(1, 40), (50, 1)], [(1, 40)], [(200, 6)]], [1, 20, 3], range(300, 324)), heads=heads, dim=dim)


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 3e-2), ("float16", 4e-3)])
@pytest.mark.parametrize("few", [True, False])  # parts of a large step are rounded
def test_half_precision(dtype, atol, few, everything_shared, monkeypatch):
    if dtype == "bfloat16" and DEVICE == "cpu":
        pytest.skip("the interpreter multiplies the bits of bfloat16 as integers")
    monkeypatch.setattr(tree_plan, "FEW_ROWS", 512 if few else 1)
    compare(*TREE, dtype=getattr(torch, dtype), atol=atol)


def test_captured_step_carries_out_any_plan_that_fits():
    caps = TreeAttention(4, 2, 16, torch.device(DEVICE), torch.float32).caps(32, 1000)
    larger = Caps(*(2 * n for n in caps))
    for spans, slots in (TREE, build([[(1, 9)]] * 32, [1] * 32, range(20, 52)), build([[(1, 9)]], [32], range(20, 52))):
        plan = plan_tree(spans, slots, heads=(4, 2))
        assert plan.fits(caps) and plan.fits(larger) and plan.fits(plan.needs)
        check_plan(plan, spans, slots, caps)
        check_plan(plan, spans, slots, larger)
    for i, room in enumerate(plan.needs):
        if room:
            small = plan.needs._replace(**{Caps._fields[i]: 0})
            assert not plan.fits(small)
            with pytest.raises(ValueError, match="does not fit"):
                plan.pack(small)
    assert not plan.fits(caps._replace(rows=1000))  # a step of so many rows has tiles of another width


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 512])
@pytest.mark.parametrize("heads", [(32, 8), (9, 3), (16, 16), (8, 1)])
def test_usual_steps_fit_a_captured_step(rows, heads):
    caps = TreeAttention(*heads, 64, torch.device("cpu"), torch.float32).caps(rows, 4096)
    context = 4000 // max(1, rows // 64)
    alone = [[(1 + i * context, context)] for i in range(rows)]
    tree = [[(1, 900), (1000 + (i % 2) * 300, 300), (2000 + i * 100, 90)] for i in range(rows)]
    for contexts in (alone, tree):
        spans, slots = build(contexts, [1] * rows, 10**6 + 2 * np.arange(rows))
        plan = plan_tree(spans, slots, heads=heads)
        assert plan.fits(caps), (plan.needs, caps)


@st.composite
def steps(draw, lengths=(1, 2, 17, 64, 200), most=(1, 1, 1, 2, 5, 49)):
    """A random tree of runs, spans at random nodes of it, rows in random slots."""
    nodes, next_slot = [[]], 1
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from(nodes))
        length = draw(st.sampled_from(lengths))
        nodes.append([*parent, (next_slot, length)])
        next_slot += length + draw(st.integers(0, 1))
    rows = draw(st.lists(st.sampled_from(most), min_size=1, max_size=7))
    contexts = [draw(st.sampled_from(nodes)) for _ in rows]
    own = next_slot + np.arange(sum(rows))
    if draw(st.booleans()):
        own = np.random.default_rng(draw(st.integers(0, 99))).permutation(own)
    return build(contexts, rows, own)


@settings(max_examples=150, deadline=None)
@given(
    steps(),
    st.sampled_from([(4, 2), (3, 3), (20, 1)]),
    st.sampled_from([(ALWAYS, ALWAYS, 4, 4, 100), (512, 16, 128, 64, 4096), (ALWAYS, ALWAYS, 128, 64, 4096)]),
    st.integers(0, 70),
)
def test_any_plan(step, heads, constants, padding):
    spans, slots = step
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(
            ("SHARE_FROM_KEYS", "MERGE_COST_KEYS", "LEAST_CHUNK_KEYS", "ALIGN_KEYS", "RUN_SLOTS"), constants
        ):
            patch.setattr(tree_plan, name, value)
        plan = plan_tree(spans, slots, heads=heads)
        check_plan(plan, spans, slots, plan.needs)
        roomy = Caps(*(n + 80 for n in plan.needs))._replace(rows=len(slots) + padding)
        check_plan(plan, spans, slots, roomy)


@settings(max_examples=12, deadline=None)
@given(steps((1, 2, 17, 70), (1, 1, 2, 5, 20)), st.booleans(), st.sampled_from([16, 128]))
def test_any_step(step, captured, chunk):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("SHARE_FROM_KEYS", ALWAYS),
            ("MERGE_COST_KEYS", ALWAYS),
            ("LEAST_CHUNK_KEYS", chunk),
            ("LEAST_CHUNK_KEYS_FEW_ROWS", chunk),
            ("ALIGN_KEYS", 16),
        ):
            patch.setattr(tree_plan, name, value)
        compare(*step, heads=(2, 1), caps=(len(step[1]) + 3, 300) if captured else None)


@pytest.mark.skipif(DEVICE != "cuda", reason="launches overlap on a device")
@pytest.mark.parametrize("rows", [2, 40, 96, 300])
@pytest.mark.parametrize("shared", [0, 700])
def test_a_chain_of_overlapping_layers_gives_the_bits_of_one_launch_at_a_time(rows, shared):
    """Layers write q, K and V where the layer before read its own: whoever reads too early reads something else."""
    layers, heads, dim = 16, (8, 2), 128
    contexts = [[(1, shared), (1000 + 64 * i, 40)] if shared else [(1000 + 64 * i, 40 + i % 20)] for i in range(rows)]
    spans, slots = build(contexts, [1] * rows, [1000 + 64 * i + 62 for i in range(rows)])
    attention = TreeAttention(*heads, dim, torch.device("cuda"), torch.bfloat16)
    plan = attention.plan(Batch(slots, slots, slots, spans, slots[:0]))
    caps = attention.caps(rows, 4096)
    assert attention.overlap and (len(attention.launches(caps, plan.tile_rows)) == 2) == (rows > 64)
    packed = torch.from_numpy(plan.pack(caps)).cuda()
    generator = torch.Generator(device="cuda").manual_seed(rows)
    new = functools.partial(torch.randn, generator=generator, device="cuda", dtype=torch.bfloat16)
    qkv_LTC = new(layers, rows, (heads[0] + 2 * heads[1]) * dim)
    k_NHD, v_NHD = new(2, 1000 + 64 * rows, heads[1], dim)
    positions_T = torch.arange(rows, dtype=torch.int32, device="cuda")
    slots_T = torch.from_numpy(slots).int().cuda()
    cos_PF, sin_PF = torch.rand(2, rows, dim // 2, generator=generator, device="cuda")
    q_TQD = torch.empty(rows, heads[0], dim, dtype=torch.bfloat16, device="cuda")
    out_LTQD = torch.empty(layers, *q_TQD.shape, dtype=torch.bfloat16, device="cuda")

    def run(between):
        step = attention.start(packed, caps)
        for qkv_TC, out_TQD in zip(qkv_LTC, out_LTQD):
            args = qkv_TC, positions_T, slots_T, cos_PF, sin_PF, None, 1e-6, q_TQD, k_NHD, v_NHD
            kernels.rope_and_store(*args, overlap=True)
            between()
            step.attend(q_TQD, k_NHD, v_NHD, out_TQD)
            between()

    run(torch.cuda.synchronize)
    expected = out_LTQD.clone()
    assert not expected.isnan().any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(lambda: None)
    for _ in range(20):
        out_LTQD.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out_LTQD, expected)


def test_refuses_heads_it_is_not_made_for():
    for heads in ((4, 3, 64), (4, 2, 8), (4, 2, 512)):
        with pytest.raises(OptionError):
            TreeAttention(*heads, torch.device("cpu"), torch.float32)


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sgl.backend.runtime.attention import tree_kernels
from sgl.backend.runtime.attention.tree_attention import TreeAttention
from sgl.backend.runtime.attention.tree_plan import TileRows

for dim, rows in ((64, 16), (128, 2)):
    attention = TreeAttention(8, 2, dim, torch.device("cpu"), torch.bfloat16)
    caps = attention.caps(rows, 1000)
    (launch,) = attention.launches(caps, TileRows.of(4, rows))
    warps = launch.constants.pop("num_warps")
    types = {"q": "*bf16", "k": "*bf16", "v": "*bf16", "out": "*bf16", "part_out": "*fp32", "part_lse": "*fp32"}
    types |= {"wide_room": "i32", "scale": "fp32"} | {name: "constexpr" for name in launch.constants}
    signature = {name: types.get(name, "*i32") for name in tree_kernels.attend.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(signature) if signature[n].startswith("*")}
    source = ASTSource(tree_kernels.attend, signature, launch.constants, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert built.metadata.shared <= 227 * 1024
    print("wgmma" in built.asm["ptx"], "cp.async" in built.asm["ptx"])
"""


@pytest.mark.skipif(DEVICE == "cuda", reason="every other test has compiled it")
def test_kernels_compile_for_hopper_without_one():
    """Wide tiles use its matrix units; loads of K and V are asynchronous."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.split("\n")[:2] == ["True True", "False True"], done.stderr[-2000:]
