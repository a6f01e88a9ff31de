"""Steps on a device are the host's steps: the same logits eagerly and through fixed steps, the same answers, the same
texts while steps overlap. Here in Triton's interpreter, on a GPU with captured graphs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .interpreted import DEVICE, torch

import sgl  # isort: skip
from sgl.backend.runtime.step.packed import Batch, Run, SpanLayout  # isort: skip
from sgl.backend.runtime.cuda import executor as executor_module
from sgl.backend.runtime.cuda.executor import DeviceExecutor
from sgl.backend.runtime.cuda.graphs import MOST_CAPTURED_ROWS, sizes
from sgl.backend.runtime.draft.draft_model import DraftModel
from sgl.backend.runtime.model.llama.fused import FusedLlama
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.checkpoint import Checkpoint
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.options import EngineOptions
from sgl.backend.runtime.runtime import Runtime
from sgl.backend.runtime.sample.ask import Looked, Lookup
from sgl.backend.runtime.sample.host import HostSampler
from sgl.backend.runtime.sample.sampler import Recipe, Request, Sampled
from sgl.backend.runtime.step.executor import HostFlight, ahead_of
from sgl.lang.expr import Sampling

from ..draft.guessing import speculate
from .device_program import program

VOCAB = 311
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 303,
}
SLOTS = 120
OPTIONS = EngineOptions(
    context_length=32, pool_tokens=SLOTS - 1, step_tokens=64, max_running=16, cuda_graph_max_bs=4, overlap=True
)
on_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
DTYPES = ["float32", pytest.param("bfloat16", marks=[pytest.mark.gpu, on_gpu])]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return load_checkpoint(folder, "dummy", folder)


class Both:
    """The same steps on the device and on the host, one after the other."""

    def __init__(self, checkpoint: Checkpoint, options: EngineOptions | None = OPTIONS, dtype: str = "float32") -> None:
        self.host = Llama(checkpoint)
        self.model = FusedLlama(checkpoint, DEVICE, getattr(torch, dtype))
        self.host.allocate(SLOTS), self.model.allocate(SLOTS)
        self.executor = DeviceExecutor(self.model, VOCAB - 5, options)
        self.exact = dtype == "float32"

    def same(self, got: Any, want: Any) -> None:
        assert got.shape == want.shape
        bound = 1e-4 if DEVICE == "cpu" else 2e-3 if self.exact else 0.05 * np.abs(want).max(initial=0.0)
        assert np.abs(got - want).max(initial=0.0) <= bound  # both 0 where nothing was wanted

    def eager(self, batch: Batch) -> None:
        self.same(self.executor.logits(batch).float().cpu().numpy(), self.host.forward(batch))

    def replayed(self, batch: Batch) -> tuple[int, int]:
        """(rows, wanted rows) of the step that it was replayed with."""
        plan = self.executor.attention.plan(batch)
        step = self.executor.graphs.choose(batch, plan)
        assert step is not None, "no captured step fits"
        logits_WV = step.replay(batch, plan, self.executor.staging)[: len(batch.want)]
        self.same(logits_WV.float().cpu().numpy(), self.host.forward(batch))
        return step.rows, step.wants


def batch_of(*spans: tuple[Sequence[int], Sequence[Run], Sequence[int], Sequence[int]]) -> Batch:
    """Spans of (tokens, context runs, slots, wanted rows)."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    want: list[int] = []
    layout = []
    for mine, context, where, wanted in spans:
        before = sum(length for _, length in context)
        layout.append(SpanLayout(len(tokens), len(mine), tuple(context), before))
        want += [len(tokens) + row for row in wanted]
        tokens += mine
        positions += range(before, before + len(mine))
        slots += where
    arrays = [np.array(values, dtype=np.int64) for values in (tokens, positions, slots, want)]
    return Batch(arrays[0], arrays[1], arrays[2], layout, arrays[3])


def words(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 300, n).tolist()  # type: ignore[no-any-return]


PROMPTS = batch_of((words(19, 1), [], range(1, 20), [18]), (words(6, 2), [], range(40, 46), [0, 5]))
DECODES = batch_of(([7], [(1, 19)], [20], [0]), ([8], [(40, 6)], [46], [0]), ([9], [(1, 19)], [60], [0]))
RAGGED = batch_of(
    ([11], [(1, 20)], [21], [0]),
    (words(5, 3), [(1, 19), (60, 1)], [61, 62, 63, 70, 71], [1, 4]),
    (words(3, 4), [], [80, 81, 90], []),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_steps_launched_one_kernel_at_a_time(checkpoint: Checkpoint, dtype: str) -> None:
    both = Both(checkpoint, None, dtype)
    for batch in (PROMPTS, DECODES, RAGGED):
        both.eager(batch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_replayed_steps_with_other_inputs_each_time(checkpoint: Checkpoint, dtype: str) -> None:
    """Fewer rows than the last time, other contexts, other slots: what a replay reads is all new."""
    both = Both(checkpoint, OPTIONS, dtype)
    both.eager(PROMPTS)
    assert both.replayed(DECODES) == (4, 4)
    assert both.replayed(batch_of(([21], [(1, 20)], [21], [0]), ([22], [(40, 7)], [47], [0]))) == (2, 2)
    assert both.replayed(batch_of(([5], [(40, 8)], [48], [0]))) == (1, 1)
    assert both.replayed(batch_of(([6], [], [100], []))) == (1, 1)  # nothing is wanted
    mixed = batch_of(([1], [(1, 21)], [22], [0]), (words(3, 6), [(1, 19), (60, 1)], [61, 62, 63], [2]))
    assert both.replayed(mixed) == (4, 4)


def test_a_padded_step_writes_nothing_but_its_own_slots(checkpoint: Checkpoint) -> None:
    both = Both(checkpoint)
    both.eager(PROMPTS)
    before = [torch.stack(pair).clone() for pair in both.model._kv]
    both.replayed(DECODES)
    for old, pair in zip(before, both.model._kv):
        changed = (torch.stack(pair) != old).flatten(2).any(-1).any(0).nonzero().flatten().tolist()
        assert set(changed) <= {0, 20, 46, 60} and {20, 46, 60} <= set(changed)


def test_the_smallest_captured_step_that_fits_is_chosen(checkpoint: Checkpoint) -> None:
    executor = Both(checkpoint).executor

    def chosen(batch: Batch) -> tuple[int, int] | None:
        step = executor.graphs.choose(batch, executor.attention.plan(batch))
        return None if step is None else (step.rows, step.wants)

    def decodes(n: int) -> Batch:
        return batch_of(*[([i], [(1, 10)], [20 + i], [0]) for i in range(n)])

    assert [chosen(decodes(n)) for n in range(1, 6)] == [(1, 1), (2, 2), (4, 4), (4, 4), None]
    assert chosen(batch_of((words(3, 1), [], [1, 2, 3], [2]))) == (4, 4)
    assert chosen(PROMPTS) is None
    without = DeviceExecutor(executor.model, VOCAB - 5, replace(OPTIONS, cuda_graph_max_bs=0))
    assert without.graphs.steps == [] and without.graphs.choose(DECODES, without.attention.plan(DECODES)) is None


@pytest.mark.parametrize("most", [1, 2, 5, 8, 100, 256, MOST_CAPTURED_ROWS])
def test_sizes_of_captured_steps(most: int) -> None:
    found = sizes(most)
    assert found == sorted(set(found)) and (most, most) in found and (1, 1) in found
    assert all(wants <= rows <= MOST_CAPTURED_ROWS for rows, wants in found)
    decoding = [rows for rows, wants in found if rows == wants and rows <= most]
    assert all(b <= 2 * a for a, b in pairwise(decoding)), "padding would more than double a step"


def recipe(**options: Any) -> Recipe:
    return Recipe.of(Sampling(**options), key=5, prompt=[1, 2])


ASKS: list[Any] = [
    Lookup((3, 4), 2),
    Request(recipe(temperature=0.0), 6),
    Request(recipe(temperature=1.0), 7, (1, 2)),
    Lookup(()),
    Request(recipe(temperature=0.7, top_p=0.8, return_logprob=True, top_logprobs_num=2), 9),
    Lookup((300,)),
    Request(recipe(temperature=1.0, repetition_penalty=1.4), 3),
]


def same_answers(got: list[Any], want: list[Any]) -> None:
    assert len(got) == len(want)
    for mine, theirs in zip(got, want):
        assert type(mine) is type(theirs)
        if isinstance(theirs, Sampled):
            assert mine.token == theirs.token and [t for _, t in mine.top] == [t for _, t in theirs.top]
            assert (mine.logprob is None) == (theirs.logprob is None)
            assert theirs.logprob is None or mine.logprob == pytest.approx(theirs.logprob, abs=2e-3)
        else:
            assert isinstance(theirs, Looked) and [t for _, t in mine.top] == [t for _, t in theirs.top]
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=2e-3)


@pytest.mark.parametrize("rows", [3, 1024])
def test_answers_in_pieces_and_tokens_that_stand_for_them(
    checkpoint: Checkpoint, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many wanted rows are read a few at a time; the next step finds each sample in its place all the same."""
    monkeypatch.setattr(executor_module, "LOGIT_ROWS", rows)
    both = Both(checkpoint, replace(OPTIONS, cuda_graph_max_bs=0))
    prompt = batch_of((words(9, 7), [], range(1, 10), [1, 2, 4, 5, 6, 7, 8]))
    flight = both.executor.launch(prompt)
    flight.ask(ASKS)
    host = HostFlight(both.host.forward(prompt), HostSampler(VOCAB - 5))
    host.ask(ASKS)
    known = host.answers()
    samples = [i for i, ask in enumerate(ASKS) if isinstance(ask, Request)]

    def following(tokens: list[int]) -> Batch:
        return batch_of(*[([t], [(1, 9)], [20 + i], [0]) for i, t in enumerate(tokens)])

    ahead = both.executor.launch(following([ahead_of(i) for i in samples]))  # before anything was collected
    greedy = [Request(recipe(temperature=0.0), 9)] * len(samples)
    ahead.ask(greedy)
    same_answers(flight.answers(), known)
    then = HostFlight(both.host.forward(following([known[i].token for i in samples])), HostSampler(VOCAB - 5))  # type: ignore[union-attr]
    then.ask(greedy)
    same_answers(ahead.answers(), then.answers())
    assert both.executor.outside == 2


class Overlapping(FusedLlama):
    """Replays and overlaps wherever it may, as `Runtime` has it on a GPU."""

    graphs = 4
    made: Any = None

    def executor(self, vocab_size: int, options: EngineOptions) -> Any:
        made = replace(options, overlap=True, cuda_graph_max_bs=self.graphs)
        self.made = super().executor(vocab_size, made)
        return self.made


def texts(model: Any, draft: Any = None, **options: Any) -> tuple[list[Any], Runtime]:
    runtime = Runtime.of(model, toy_tokenizer(), max_total_tokens=300, chunked_prefill_size=24, **options)
    if draft is not None:
        DraftModel(draft, "a draft model", 3).add(runtime.engine)
        speculate(runtime, runtime.engine.speculation.proposers[-1])
        runtime.engine.speculation.cost.seconds = lambda rows: 1e9  # type: ignore[method-assign]
    states = program.run_batch([{"i": i} for i in range(2)], backend=runtime)
    found = [(s["a"], s["b"], s["c"], s["d"]) for s in states]
    runtime.check()
    return found, runtime


def test_a_program_writes_the_same_as_on_the_host(checkpoint: Checkpoint) -> None:
    model = Overlapping(checkpoint, DEVICE, torch.float32)
    found, runtime = texts(model)
    assert found == texts(Llama(checkpoint))[0]
    assert 0 < model.made.outside < runtime.engine.steps, "nothing was replayed, or everything"


@pytest.mark.slow
def test_a_draft_model_on_the_device(checkpoint: Checkpoint) -> None:
    """The target drafts for itself: both on the device, and the target's steps overlap."""
    found, runtime = texts(
        Overlapping(checkpoint, DEVICE, torch.float32), FusedLlama(checkpoint, DEVICE, torch.float32)
    )
    assert found == texts(Llama(checkpoint))[0]
    counts = runtime.get_server_info()["speculation"]["standalone"]
    assert counts["drafted"] >= 4 and counts["accept_rate"] == 1


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"disable_cuda_graph": True}, {"disable_overlap_schedule": True}])
def test_a_runtime_with_captured_graphs(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = []
    for more in ({"device": "cpu"}, {"device": "cuda", "dtype": dtype, "cuda_graph_max_bs": 16, **options}):
        with sgl.Runtime(tmp_path, load_format="dummy", max_total_tokens=4000, **more) as runtime:
            states = program.run_batch([{"i": i} for i in range(12)], seed=1, backend=runtime)
            found.append([(s["a"], s["b"], s["c"], s["d"]) for s in states])
            runtime.check()
            if more["device"] == "cuda":
                executor: Any = runtime.engine.executor
                assert bool(executor.graphs.steps) == ("disable_cuda_graph" not in options)
                assert executor.ahead == ("disable_overlap_schedule" not in options)
                assert all(step._graph is not None for step in executor.graphs.steps)
    assert dtype == "bfloat16" or found[0] == found[1]
    assert len(found[1]) == 12
