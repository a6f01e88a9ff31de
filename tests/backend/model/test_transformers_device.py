"""Models that run by transformers' own code on a device: the logits of their texts, the host executor's answers and
texts, windows as spans without windows. Here in Triton's interpreter; on a GPU with the kernels themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..cuda.interpreted import DEVICE, torch

from sgl.backend.runtime.step.packed import Batch  # isort: skip
from sgl.backend.runtime.cuda.executor import DeviceExecutor
from sgl.backend.runtime.model.foreign import tree as transformers_tree
from sgl.backend.runtime.model.foreign.attention import LayerShape, TilePlan
from sgl.backend.runtime.model.foreign.device import DeviceTransformers
from sgl.backend.runtime.model.foreign.load import load_transformers
from sgl.backend.runtime.model.foreign.tree import DeviceAttention, without_window
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.options import EngineOptions
from sgl.backend.runtime.runtime import Runtime
from sgl.backend.runtime.sample.ask import Lookup
from sgl.backend.runtime.sample.sampler import Recipe, Request, Sampled
from sgl.backend.runtime.step.executor import HostExecutor, HostFlight, ahead_of
from sgl.lang.expr import Sampling

from ..cuda.device_program import program
from .tiny_transformers import FAMILIES, KERNEL_SIZES, WINDOW, Pool, Text, check_tree, saved, some

OPTIONS = EngineOptions(context_length=300, pool_tokens=1199, step_tokens=256, max_running=16, overlap=True)
BOUND = 2e-4 if DEVICE == "cpu" else 1e-3
PROMPT = 24  # a long one takes the interpreter minutes; `test_gpu.py` has those


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def both(folder: Path, family: str, **change: Any) -> tuple[DeviceTransformers, Any]:
    """A model on the device, and the reference there."""
    reference = saved(folder, family, {**FAMILIES[family], **KERNEL_SIZES, **change}).to(DEVICE)
    network = load_transformers(folder).network.to(DEVICE)
    return DeviceTransformers(network, family), reference


def executor_of(model: DeviceTransformers, **change: Any) -> DeviceExecutor:
    made = model.executor(295, replace(OPTIONS, **change))
    assert isinstance(made, DeviceExecutor)
    return made


def kernels_of(model: DeviceTransformers) -> list[bool]:
    return [kind.tree is not None for kind in model.attention._kinds]


@pytest.mark.parametrize(
    ("family", "cut"),
    [
        ("Gemma3Text", True),
        ("Gemma3Text", False),
        pytest.param("Granite", True, marks=pytest.mark.slow),
        ("Gemma2", True),
    ],
)
def test_steps_of_the_executor_have_the_logits_of_their_texts(
    family: str, cut: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale of its own, windows in some layers (cut into spans, or straightforward), soft-caps."""
    if not cut:
        monkeypatch.setattr(transformers_tree, "CUT_KEYS", 0)
    model, reference = both(tmp_path, family)
    assert kernels_of(model) == ([False, False] if family == "Gemma2" else [True] * len(kernels_of(model)))
    executor = executor_of(model)
    check_tree(model, reference, BOUND, lambda batch: executor.logits(batch).float().cpu().numpy(), prompt=PROMPT)


@pytest.mark.parametrize("family", ["DeepseekV3", pytest.param("GPT2", marks=pytest.mark.slow)])
def test_its_own_forward_goes_the_same_way(family: str, tmp_path: Path) -> None:
    """Values narrower than keys; a scale that differs from layer to layer."""
    change = {"num_attention_heads": 6, "head_dim": 8} if family == "DeepseekV3" else {}
    model, reference = both(tmp_path, family, **change)
    assert kernels_of(model) == [True]
    check_tree(model, reference, BOUND, prompt=20)


def recipe(**options: Any) -> Recipe:
    return Recipe.of(Sampling(**options), key=5, prompt=[1, 2])


def test_answers_and_tokens_that_nobody_knows_yet(tmp_path: Path) -> None:
    """Against the host's executor over the same model; the second step is launched before the first is collected."""
    model, _ = both(tmp_path, "Gemma3Text")
    host = load_transformers(tmp_path)
    model.allocate(100), host.allocate(100)
    asks: list[Any] = [
        Lookup((3, 4), 2),
        Request(recipe(temperature=0.0), 6),
        Request(recipe(temperature=1.0), 7, (1, 2)),
        Request(recipe(temperature=0.7, top_p=0.8, return_logprob=True), 9),
    ]
    pool, text = Pool(100), Text()
    prompt = replace(pool.step([(text, some(15, 1))]), want=np.array([11, 12, 13, 14]))
    executor = executor_of(model)
    first = executor.launch(prompt)
    first.ask(asks)
    known = answers(HostExecutor(host, 295).launch(prompt), asks)
    tokens = [known[i].token for i in (1, 2, 3)]
    batch = pool.step([(text.fork(), [token]) for token in tokens])
    ahead = executor.launch(replace(batch, tokens=np.array([ahead_of(i) for i in (1, 2, 3)])))
    greedy = [Request(recipe(temperature=0.0, return_logprob=True), 9)] * 3
    ahead.ask(greedy)
    same(first.answers(), known)
    same(ahead.answers(), answers(HostExecutor(host, 295).launch(batch), greedy))
    assert executor.ahead and executor.graphs.steps == [] and executor.outside == 2


def answers(flight: HostFlight, asks: list[Any]) -> list[Any]:
    flight.ask(asks)
    return flight.answers()


def same(got: list[Any], want: list[Any]) -> None:
    assert len(got) == len(want)
    for mine, theirs in zip(got, want):
        assert type(mine) is type(theirs)
        if isinstance(theirs, Sampled):
            assert mine.token == theirs.token
            assert theirs.logprob is None or mine.logprob == pytest.approx(theirs.logprob, abs=2e-3)
        else:
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=2e-3)


class Overlapping(DeviceTransformers):
    """Runs ahead, as `Runtime` has it on a GPU."""

    made: Any = None

    def executor(self, vocab_size: int, options: EngineOptions) -> Any:
        self.made = super().executor(vocab_size, replace(options, overlap=True, cuda_graph_max_bs=4))
        return self.made


def texts(model: Any) -> list[Any]:
    runtime = Runtime.of(model, toy_tokenizer(), max_total_tokens=300, chunked_prefill_size=24)
    states = program.run_batch([{"i": i} for i in range(2)], backend=runtime)
    runtime.check()
    return [(s["a"], s["b"], s["c"], s["d"]) for s in states]


@pytest.mark.parametrize("family", ["Gemma3Text", pytest.param("Phi3", marks=pytest.mark.slow)])
def test_a_program_writes_the_same_as_with_the_hosts_executor(family: str, tmp_path: Path) -> None:
    sizes = {**FAMILIES[family], **KERNEL_SIZES, "vocab_size": toy_tokenizer().vocab_size + 5}
    saved(tmp_path, family, sizes)
    host = load_transformers(tmp_path)
    model = Overlapping(load_transformers(tmp_path).network.to(DEVICE), family)
    assert texts(model) == texts(host)
    assert model.made.ahead and model.made.outside > 0 and model.made.graphs.steps == []


def test_attention_in_torch_brings_the_hosts_executor(tmp_path: Path) -> None:
    model, reference = both(tmp_path, "Olmo2")
    assert kernels_of(model) == [True]
    assert isinstance(model.executor(295, replace(OPTIONS, attention_backend="torch")), HostExecutor)
    assert kernels_of(model) == [False]
    check_tree(model, reference, BOUND, prompt=PROMPT)


def seen(batch: Batch, spans: Any, window: int | None) -> list[set[int]]:
    """The slots that each row sees."""
    rows: list[set[int]] = []
    for span in spans:
        keys = [slot for start, length in span.context for slot in range(start, start + length)]
        for row in range(span.rows):
            assert span.first_row + row == len(rows), "rows lie in order"
            keys.append(int(batch.slots[len(rows)]))
            mine = keys if window is None else keys[-window:]
            assert len(set(mine)) == len(mine)
            rows.append(set(mine))
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("window", [1, 2, 7, 30, 1000])
def test_spans_without_a_window_see_what_a_window_shows(window: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pool, paths = Pool(1200), [Text()]
    for _ in range(6):
        paths += [paths[int(random.integers(len(paths)))].fork() for _ in range(2)]
        few = [paths[int(i)] for i in random.permutation(len(paths))[:4]]
        batch = pool.step([(path, some(int(random.choice([1, 2, 6, 40])), 0)) for path in few])
        spans = without_window(batch, window)
        assert spans is not None
        assert seen(batch, spans, None) == seen(batch, batch.spans, window)
        assert (spans is batch.spans) == all(span.context_length + span.rows <= window for span in batch.spans)


def test_long_spans_beyond_a_window_are_left_to_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, text = Pool(1200), Text()
    batch = pool.step([(text, some(100, 0))])
    rows = 100 - WINDOW
    monkeypatch.setattr(transformers_tree, "CUT_KEYS", rows * WINDOW)
    cut = without_window(batch, WINDOW)
    assert cut is not None and [span.rows for span in cut] == [WINDOW] + [1] * rows
    monkeypatch.setattr(transformers_tree, "CUT_KEYS", rows * WINDOW - 1)
    assert without_window(batch, WINDOW) is None
    decode = pool.step([(text, some(1, 0))])
    assert without_window(decode, WINDOW) is not None, "a span of one row reads no more than it must"


def test_layers_that_see_the_same_share_a_plan(caplog: pytest.LogCaptureFixture) -> None:
    plain = LayerShape(4, 2, 16, 0.3)
    layers = [plain, replace(plain, window=50), replace(plain, window=60, scaling=1.0), replace(plain, head_dim=8)]
    with caplog.at_level(logging.INFO, logger="sgl"):
        attention = DeviceAttention(layers, torch.device("cpu"), torch.float32)
    said = [record.getMessage() for record in caplog.records]
    assert any("1 of 4 layers is plain torch" in line and "heads of 8" in line for line in said)
    assert any("beyond a window" in line and "50" in line and "60" in line for line in said)
    pool, text = Pool(400), Text()

    def parts(rows: int) -> tuple[list[int], list[bool]]:
        plan = attention.plan(pool.step([(text, some(rows, 0))]))
        return plan.part_of, [isinstance(part.plan, TilePlan) for part in plan.parts]

    assert parts(20) == ([0, 0, 0, 1], [False, True])
    assert parts(35) == ([0, 1, 0, 2], [False, False, True])
    assert parts(20) == ([0, 1, 2, 3], [False, False, False, True])
