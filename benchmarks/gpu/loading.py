"""How fast weights get to a device: sgl, safetensors' own way, and nothing but reading the same files.

    python benchmarks/gpu/loading.py [--gib 4] [--shards 4] [--folder DIR] [--device cuda] [--no-dummy]

Writes a folder of bfloat16 weights with the layers of an 8B Llama (as many as fill `--gib`; all 32 with 16) to DIR, or
to a temporary folder, and prints seconds and GB/s for each way, with the files out of the page cache ("cold": asked of
the kernel, which may refuse where the folder is in memory) and in it ("warm"). Then the same for random weights of the
whole 8B shape (`load_format="dummy"`), on a GPU only. A DIR that holds a model already is read as it is.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sgl.backend.runtime.model.build import build
from sgl.backend.runtime.model.config import ModelConfig
from sgl.backend.runtime.model.dummy import byte_tokenizer
from sgl.backend.runtime.model.fetch import CHUNK_BYTES, READERS, taking_order
from sgl.backend.runtime.model.loader import load_checkpoint
from sgl.backend.runtime.model.shapes import tensor_shapes, weight_bytes

VOCABULARY = 128256
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
    "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
LAYERS = 32
BLOCK = 8 << 20


def config_of(gib: float) -> dict[str, object]:
    """The 8B shape with as many layers as fit into so much bfloat16, but one at least; tied embeddings if it is few."""
    raw = {**SHAPE, "tie_word_embeddings": gib < 6}
    one, two = (
        weight_bytes(ModelConfig.from_hf({**raw, "num_hidden_layers": layers}), torch.bfloat16) for layers in (1, 2)
    )
    layers = 1 + max(0, int((gib * (1 << 30) - one) // (two - one)))
    return {**raw, "num_hidden_layers": min(LAYERS, layers)}


def write(folder: Path, gib: float, shards: int) -> None:
    """A model folder of random weights; each tensor repeats one block of random numbers."""
    config = config_of(gib)
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer(VOCABULARY, "benchmark").save(str(folder / "tokenizer.json"))
    shapes = tensor_shapes(ModelConfig.from_hf(config))
    block = torch.randn(BLOCK).mul_(0.02).bfloat16()
    total = sum(math.prod(shape) for shape in shapes.values())
    parts: list[list[str]] = [[] for _ in range(shards)]
    done = 0
    for name in taking_order(shapes):
        parts[min(shards - 1, done * shards // total)].append(name)
        done += math.prod(shapes[name])
    weight_map: dict[str, str] = {}
    for i, names in enumerate(parts):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        tensors = {}
        for name in names:
            count = math.prod(shapes[name])
            tensors[name] = block.repeat(-(-count // BLOCK))[:count].clone().view(shapes[name])
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop the files from its page cache."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(files: list[Path], threads: int) -> None:
    """Read every byte into a buffer and forget it, as dd does."""
    own = threading.local()

    def read(file: Path, start: int) -> None:
        if not hasattr(own, "buffer"):
            own.buffer = bytearray(CHUNK_BYTES)
        with file.open("rb", buffering=0) as stream:
            stream.seek(start)
            stream.readinto(own.buffer)

    with ThreadPoolExecutor(threads) as pool:
        parts = [(file, start) for file in files for start in range(0, file.stat().st_size, CHUNK_BYTES)]
        list(pool.map(lambda part: read(*part), parts))


def load_with_safetensors(files: list[Path], device: str) -> object:
    return [{name: tensor.to(device) for name, tensor in load_file(file).items()} for file in files]


def load_with_sgl(folder: Path, device: str) -> object:
    checkpoint = load_checkpoint(folder, "safetensors", folder)
    with checkpoint.weights(device, torch.bfloat16) as take:
        return [take(name, *shape) for name, shape in tensor_shapes(checkpoint.config).items()]


def build_model(folder: Path, device: str, load_format: str) -> object:
    return build(folder, device=device, dtype="bfloat16", load_format=load_format)


def seconds(work: Callable[[], object], device: str) -> float:
    """Until the work's results are on the device; they are dropped again."""
    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    else:
        touch(result)
    passed = time.perf_counter() - start
    del result
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    return passed


def touch(result: object) -> None:
    """Tensors on the CPU are mapped, not read, until somebody looks."""
    if isinstance(result, torch.Tensor):
        result.view(-1).view(torch.uint8)[::4096].sum()
    elif isinstance(result, dict):
        touch(list(result.values()))
    elif isinstance(result, list):
        for each in result:
            touch(each)


def measure(folder: Path, device: str) -> None:
    files = sorted(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    ways: list[tuple[str, Callable[[], object]]] = [
        ("plain read, 1 thread", lambda: read_plainly(files, 1)),
        (f"plain read, {READERS} threads", lambda: read_plainly(files, READERS)),
        ("safetensors load_file + .to", lambda: load_with_safetensors(files, device)),
        ("sgl, every tensor", lambda: load_with_sgl(folder, device)),
        ("sgl, the model built", lambda: build_model(folder, device, "safetensors")),
    ]
    print(f"{size / 1e9:.2f} GB in {len(files)} files to {device}")
    print(f"{'':30} {'cold s':>8} {'GB/s':>7} {'warm s':>8} {'GB/s':>7}")
    for title, work in ways:
        forget(files)
        cold = seconds(work, device)
        read_plainly(files, READERS)
        warm = min(seconds(work, device) for _ in range(2))
        print(f"{title:30} {cold:8.2f} {size / cold / 1e9:7.2f} {warm:8.2f} {size / warm / 1e9:7.2f}", flush=True)


def measure_dummy(device: str) -> None:
    raw = {**SHAPE, "num_hidden_layers": LAYERS}
    size = weight_bytes(ModelConfig.from_hf(raw), torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw))
        for title in ("dummy 8B, the model built", "again"):
            took = seconds(lambda: build_model(Path(folder), device, "dummy"), device)
            print(f"{title:30} {took:8.2f} {size / took / 1e9:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast weights get to a device.")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the folder")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the weights are written, or were (then they are used)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-dummy", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model.safetensors.index.json").is_file():
            start = time.perf_counter()
            write(folder, asked.gib, asked.shards)
            os.sync()
            print(f"written in {time.perf_counter() - start:.1f} s")
        if asked.device != "cpu":
            torch.zeros(1, device=asked.device)
        measure(folder, asked.device)
    if asked.device != "cpu" and not asked.no_dummy:
        measure_dummy(asked.device)


if __name__ == "__main__":
    main()
