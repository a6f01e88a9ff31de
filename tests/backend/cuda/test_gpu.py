"""A GPU against the CPU: the same programs, the same text; with our kernels and with torch's alone. And models that
transformers runs, against its own attention on the same GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sgl

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a CUDA build of torch"),
]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "eos_token_id": 299,
}


@sgl.function
def program(s: Any, i: int) -> None:
    s += "A beginning that all rows share, long enough to be worth it, and then some more of the same. " * 3
    s += f"Row {i}: " + sgl.gen("a", max_tokens=12, temperature=0, ignore_eos=True)
    forks = s.fork(3)
    forks += lambda k: f" branch {k}" + sgl.gen("b", max_tokens=8, temperature=0, ignore_eos=True)
    forks += sgl.select("c", [" yes", " no", " yes and no"])
    forks.join()


def results(tmp_path: Path, **options: Any) -> list[Any]:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return texts(tmp_path, load_format="dummy", **options)


def texts(folder: Path, ahead: bool | None = None, **options: Any) -> list[Any]:
    """What six programs write. `ahead`: whether the executor must run ahead."""
    with sgl.Runtime(folder, max_total_tokens=20000, **options) as runtime:
        assert ahead is None or runtime.engine.executor.ahead == ahead
        states = program.run_batch([{"i": i} for i in range(6)], backend=runtime)
        found = [(s["a"], s["b"], s["c"]) for s in states]
        runtime.check()
        return found


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_programs_give_the_same_text_on_both(tmp_path: Path, backend: str) -> None:
    on_cpu = results(tmp_path, device="cpu")
    on_gpu = {"device": "cuda", "dtype": "float32", "attention_backend": backend}
    assert results(tmp_path, **on_gpu) == on_cpu
    assert results(tmp_path, chunked_prefill_size=16, **on_gpu) == on_cpu


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(tmp_path: Path, dtype: str) -> None:
    assert len(results(tmp_path, device="cuda", dtype=dtype)) == 6
    assert len(results(tmp_path)) == 6  # device="auto"


OTHERS = [
    "Gemma2", "Gemma3Text", "Phi3", "Olmo2", "GPTNeoX", "StableLm", "Granite", "Cohere2", "Mixtral", "Qwen3Moe", "GPT2",
    "DeepseekV3",
]  # fmt: skip
"""Gemma 2 is computed in plain torch (soft-caps), the others by our kernels."""


def save_other(folder: Path, family: str, **change: Any) -> Any:
    """A small random model whose heads our kernels compute; gives it, on the GPU."""
    from sgl.backend.runtime.model.load.dummy import byte_tokenizer

    from ..model.tiny_transformers import FAMILIES, KERNEL_SIZES, saved

    own = {"num_attention_heads": 6, "head_dim": 8} if family == "DeepseekV3" else {}
    reference = saved(folder, family, {**FAMILIES[family], **KERNEL_SIZES, **own, **change})
    byte_tokenizer(300, "test").save(str(folder / "tokenizer.json"))
    return reference.to("cuda")


def load_other(folder: Path, slots: int, **options: Any) -> tuple[Any, Any]:
    """The model, and its executor."""
    from sgl.backend.runtime.model.foreign.device import DeviceTransformers
    from sgl.backend.runtime.model.foreign.load import load_transformers
    from sgl.backend.runtime.options import EngineOptions

    model = load_transformers(folder, device="cuda", **options)
    assert isinstance(model, DeviceTransformers)
    model.allocate(slots)
    sizes = EngineOptions(context_length=500, pool_tokens=slots - 1, step_tokens=256, max_running=16, overlap=True)
    return model, model.executor(295, sizes)


@pytest.mark.parametrize("family", OTHERS)
def test_steps_of_other_models_have_the_logits_of_their_own_attention(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from sgl.backend.runtime.model.foreign import tree as transformers_tree

    from ..model.tiny_transformers import check_tree

    reference = save_other(tmp_path, family)
    model, executor = load_other(tmp_path, 1200)
    assert [kind.tree is None for kind in model.attention._kinds] == [family == "Gemma2"] * len(model.attention._kinds)

    def logits(batch: Any) -> Any:
        return executor.logits(batch).float().cpu().numpy()

    check_tree(model, reference, 2e-3, logits)
    monkeypatch.setattr(transformers_tree, "CUT_KEYS", 0)  # windows of prompts the straightforward way
    check_tree(model, reference, 2e-3, logits)
    model.attention.without_kernels()
    check_tree(model, reference, 2e-3)


@pytest.mark.parametrize("family", ["Gemma3Text", "Granite", "GPTNeoX", "Mixtral"])
def test_programs_of_other_models_give_the_same_text_on_both(tmp_path: Path, family: str) -> None:
    pytest.importorskip("transformers")
    save_other(tmp_path, family)
    on_cpu = texts(tmp_path, device="cpu", ahead=False)
    on_gpu: dict[str, Any] = {"device": "cuda", "dtype": "float32"}
    assert texts(tmp_path, ahead=True, **on_gpu) == on_cpu
    assert texts(tmp_path, ahead=False, attention_backend="torch", **on_gpu) == on_cpu
    assert texts(tmp_path, ahead=False, disable_overlap_schedule=True, chunked_prefill_size=16, **on_gpu) == on_cpu


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", OTHERS)
def test_other_models_run_in_half_precision(tmp_path: Path, family: str, dtype: str) -> None:
    pytest.importorskip("transformers")
    save_other(tmp_path, family)
    assert len(texts(tmp_path, ahead=True, device="cuda", dtype=dtype)) == 6


@pytest.mark.parametrize("family", ["Gemma3Text", "Olmo2", "Granite", "Gemma2"])
def test_launching_a_step_of_another_model_waits_for_nothing(tmp_path: Path, family: str) -> None:
    """Prompts, then decoding beyond the window; a wait would keep the next step from being prepared meanwhile."""
    pytest.importorskip("transformers")
    from sgl.backend.runtime.sample.sampler import Recipe, Request
    from sgl.lang.expr import Sampling

    from ..model.tiny_transformers import Pool, Text, some

    save_other(tmp_path, family)
    _, executor = load_other(tmp_path, 400, dtype=torch.bfloat16)
    pool, text = Pool(400), Text()
    greedy = Request(Recipe.of(Sampling(temperature=0.0), key=5, prompt=[1]), 6)
    for rows in (30, 1, 1, 4):
        batch = pool.step([(text, some(rows, rows))])
        torch.cuda.set_sync_debug_mode("error")
        try:
            flight = executor.launch(batch)
            flight.ask([greedy] * rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(flight.answers()) == rows
