"""A GPU against the CPU: the same programs, the same text; with our kernels and with torch's alone."""

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
    with sgl.Runtime(tmp_path, load_format="dummy", max_total_tokens=20000, **options) as runtime:
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
