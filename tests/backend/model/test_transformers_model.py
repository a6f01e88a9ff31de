"""Models that run by transformers' own code: tiny random ones of many families against the same code run plainly.

The reference is always a whole text through the model's eager attention, never a step.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

import sgl
from sgl.backend.runtime.model.foreign.attention import LayerShape, TiledStep
from sgl.backend.runtime.model.foreign.load import load_transformers
from sgl.backend.runtime.model.load.dummy import byte_tokenizer
from sgl.backend.runtime.step.packed import Batch, Model, SpanLayout
from sgl.backend.runtime.text.tokenizer import Tokenizer

from .tiny_transformers import FAMILIES, WINDOW, WINDOWED, check_tree, plain_logits, random_model, saved, some


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices gain nothing from threads, and lose much to them when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_of_branches_has_the_logits_of_its_texts(family, tmp_path):
    reference = saved(tmp_path, family)
    model = load_transformers(tmp_path)
    assert isinstance(model, Model) and model.vocab_size == 300 and model.context_length == 512
    windows = {layer.window for layer in model.layers}
    assert (WINDOW in windows) == (family in WINDOWED)
    check_tree(model, reference)


def test_a_window_matters_in_these_texts(tmp_path):
    """Else the test above would pass without windows."""
    reference = saved(tmp_path, "Gemma2")
    wide = random_model("Gemma2", {**FAMILIES["Gemma2"], "sliding_window": 500})
    text = some(60, 0)
    assert np.abs(plain_logits(reference, text) - plain_logits(wide, text)).max() > 0.05


def test_only_wanted_rows_are_answered(tmp_path):
    reference = saved(tmp_path, "Olmo2")
    model = load_transformers(tmp_path)
    model.allocate(64)
    tokens, rows = some(20, 0), np.arange(20)
    expected = plain_logits(reference, tokens)
    for want in ([19], [3, 0, 7], [], list(range(20))):
        batch = Batch(np.array(tokens), rows, rows, [SpanLayout(0, 20, (), 0)], np.array(want, dtype=np.int64))
        np.testing.assert_allclose(model.forward(batch), expected[want], atol=2e-4)
    nothing = Batch(*(np.array([], dtype=np.int64) for _ in range(3)), [], np.array([], dtype=np.int64))
    assert model.forward(nothing).shape == (0, 300)
    model._takes_rows = False  # a model whose forward cannot choose rows
    np.testing.assert_allclose(model.forward(batch), expected, atol=2e-4)


@pytest.mark.parametrize("family", ["Olmo2", "GPT2", "Qwen3Moe"])
def test_tokens_of_a_step_may_come_from_the_device(family, tmp_path):
    saved(tmp_path, family)
    model = load_transformers(tmp_path)
    model.allocate(64)
    tokens, rows = np.array(some(20, 0)), np.arange(20)
    spans = [SpanLayout(0, 20, (), 0)]
    expected = model.forward(Batch(tokens, rows, rows, spans, rows))
    unknown = Batch(np.full(20, -1), rows, rows, spans, rows)
    got = model.forward_device(torch.from_numpy(tokens), unknown)
    assert isinstance(got, torch.Tensor) and got.device.type == model.device_type
    np.testing.assert_array_equal(got.numpy(), expected)
    narrow = (torch.from_numpy(array.astype(np.int32)) for array in (tokens, rows, rows))
    np.testing.assert_array_equal(model.forward_rows(*narrow, model.attention.begin(unknown)).numpy(), expected)


def test_bfloat16_is_close_and_half_as_large(tmp_path):
    reference = saved(tmp_path, "Gemma2")
    small, full = (load_transformers(tmp_path, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    assert full.kv_bytes_per_token == 2 * small.kv_bytes_per_token == 3 * 2 * 2 * 8 * 4
    scale = np.abs(plain_logits(reference, some(20, 0))).max()
    check_tree(small, reference, tolerance=0.15 * scale)


def test_values_narrower_than_keys_take_the_room_of_keys(tmp_path):
    saved(tmp_path, "DeepseekV3")
    model = load_transformers(tmp_path)
    assert {layer.head_dim for layer in model.layers} == {16}
    assert model.kv_bytes_per_token == 3 * 2 * 6 * 16 * 4


def test_two_models_at_once_do_not_mix(tmp_path):
    references = [saved(tmp_path / name, name) for name in ("Gemma2", "Olmo2")]
    models = [load_transformers(tmp_path / name) for name in ("Gemma2", "Olmo2")]
    for model, reference in zip(models, references):
        check_tree(model, reference)


class Apart:
    """An attention with keys and values in tensors of their own, as a GPU kernel may want them."""

    def __init__(self, layers: tuple[LayerShape, ...]) -> None:
        self._layers = layers

    def allocate(self, slots: int) -> None:
        self._k, self._v = ([torch.zeros(slots, x.kv_heads, x.head_dim) for x in self._layers] for _ in range(2))

    def begin(self, batch: Batch) -> Apart:
        self._slots = torch.from_numpy(batch.slots)
        self._step = TiledStep(batch, torch.device("cpu"))
        return self

    def attend(self, layer: int, q_TQD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor) -> torch.Tensor:
        k_NHD, v_NHD = self._k[layer], self._v[layer]
        k_NHD[self._slots], v_NHD[self._slots] = k_THD, v_THD
        return self._step.attend(self._layers[layer], q_TQD, k_NHD, v_NHD)


@pytest.mark.parametrize("family", ["Cohere2", "Granite"])
def test_another_attention_may_stand_behind_the_seam(family, tmp_path):
    reference = saved(tmp_path, family)
    model = load_transformers(tmp_path)
    model.attention = Apart(tuple(model.layers))
    check_tree(model, reference)


def test_a_program_writes_what_a_naive_loop_writes(tmp_path):
    """gen, fork and select through a runtime; a window far shorter than the text."""
    reference = saved(tmp_path, "Gemma2")
    raw = byte_tokenizer(300, "test")
    tokenizer = Tokenizer(raw, bos_id=None, eos_ids=(256,), add_bos=False, vocab_size=257)

    def logits(ids: list[int]) -> np.ndarray:
        return torch.from_numpy(plain_logits(reference, ids)[:, :257]).log_softmax(dim=1).numpy()

    def greedy(ids: list[int], count: int) -> list[int]:
        out: list[int] = []
        while len(out) < count:
            row = logits(ids + out)[-1]
            row[256] = -np.inf
            out.append(int(row.argmax()))
        return out

    @sgl.function
    def program(s: Any) -> None:
        s += "A text that is longer than the window of the model. "
        s += sgl.gen("first", max_tokens=12, temperature=0, ignore_eos=True)
        forks = s.fork(3)
        for i, fork in enumerate(forks):
            fork += f" fork {i}:" + sgl.gen("more", max_tokens=6, temperature=0, ignore_eos=True)
            fork += " so " + sgl.select("pick", ["alpha", "beta", "gamma"])
        forks.join()

    def token_ids(text: str) -> list[int]:
        return tokenizer.encode([(text, False)], first=False)

    start = token_ids("A text that is longer than the window of the model. ")
    first = greedy(start, 12)
    with sgl.Runtime.of(load_transformers(tmp_path), tokenizer, max_total_tokens=2048) as runtime:
        state = program.run(backend=runtime)
        assert state["first"] == _text(tokenizer, first)
        picked = []
        for i in range(3):
            ids = start + first + token_ids(f" fork {i}:")
            more = greedy(ids, 6)
            assert state["more"][i] == _text(tokenizer, more)
            ids += more + token_ids(" so ")
            scores = {}
            for choice in ("alpha", "beta", "gamma"):
                tail = token_ids(choice)
                rows = logits(ids + tail)[len(ids) - 1 : -1]
                scores[choice] = np.mean([row[token] for row, token in zip(rows, tail)])
            picked.append(max(scores, key=scores.__getitem__))
        assert list(state["pick"]) == picked
        runtime.check()


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return b"".join(tokenizer.token_bytes[i] for i in ids).decode("utf-8", "replace")


def test_random_weights_are_the_same_every_time(tmp_path):
    (tmp_path / "config.json").write_text(random_model("Olmo2", {}).config.to_json_string(use_diff=False))
    before = torch.random.get_rng_state()
    models = [load_transformers(tmp_path, dummy=True) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    rows = np.arange(8)
    batch = Batch(np.array(some(8, 0)), rows, rows, [SpanLayout(0, 8, (), 0)], rows)
    answers = []
    for model in models:
        model.allocate(16)
        answers.append(model.forward(batch))
    np.testing.assert_array_equal(*answers)


def test_longrope_is_limited_to_its_short_factors(tmp_path, caplog):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 200, "factor": 2.5}  # fmt: skip
    reference = saved(tmp_path, "Phi3", {"rope_parameters": rope, "original_max_position_embeddings": 200})
    with caplog.at_level(logging.WARNING, logger="sgl"):
        model = load_transformers(tmp_path)
    assert model.context_length == 200
    assert any("200" in record.getMessage() and "longrope" in record.getMessage() for record in caplog.records)
    check_tree(model, reference)


def test_yarn_extends_the_context(tmp_path):
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
    saved(tmp_path, "Olmo2", {"rope_parameters": rope})
    assert load_transformers(tmp_path).context_length == 1024
