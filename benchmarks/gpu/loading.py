"""How fast weights get to a device: sgl, and nothing but reading the same files; safetensors' own way too.

    python benchmarks/gpu/loading.py [--gib 4] [--shards 4] [--folder DIR] [--device cuda] [--seconds S]
    python benchmarks/gpu/loading.py --gib 16 --seconds 60        # all of an 8B model, the rows that count first

Writes a folder of bfloat16 weights with the layers of an 8B Llama (as many as fill `--gib`; all 32 with 16) to DIR, or
to a temporary folder, and prints seconds and GB/s for each way: with the files in the page cache ("warm"), and with
them dropped from it ("cold": asked of the kernel, which may refuse; "from disk" says how much of them was read from
there, by the kernel's own count). Then the same for random weights of the whole 8B shape (`load_format="dummy"`), on a
GPU only. After `--seconds` no further row is begun. A DIR that holds a model already is read as it is.
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
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from sgl.backend.runtime.model.load.build import build
from sgl.backend.runtime.model.load.config import ModelConfig
from sgl.backend.runtime.model.load.dummy import byte_tokenizer
from sgl.backend.runtime.model.load.fetch import CHUNK_BYTES, READERS, taking_order
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.backend.runtime.model.load.shapes import tensor_shapes, weight_bytes

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


def write(folder: Path, config: dict[str, object], shards: int) -> None:
    """A model folder of random weights; each tensor repeats one block of random numbers."""
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer(VOCABULARY, "benchmark").save(str(folder / "tokenizer.json"))
    shapes = tensor_shapes(ModelConfig.from_hf(config))
    total = sum(math.prod(shape) for shape in shapes.values())
    parts: list[list[str]] = [[] for _ in range(shards)]
    done = 0
    for name in taking_order(shapes):
        parts[min(shards - 1, done * shards // total)].append(name)
        done += math.prod(shapes[name])
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    block = memoryview(torch.randn(BLOCK).mul_(0.02).bfloat16().view(torch.uint8).numpy().data)
    with ThreadPoolExecutor(shards) as pool:
        written = [
            pool.submit(write_shard, folder / file, {name: shapes[name] for name in names}, block)
            for file, names in zip(files, parts)
        ]
    for each in written:
        each.result()
    weight_map = {name: file for file, names in zip(files, parts) for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_shard(file: Path, shapes: dict[str, tuple[int, ...]], block: memoryview) -> None:
    """One safetensors file: the length of its header, the header, the tensors' bytes."""
    header: dict[str, object] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb", buffering=0) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = 2 * math.prod(shape)
            while left:
                left -= stream.write(block[:left])
        os.fsync(stream.fileno())


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop the files from its page cache. They must be on the disk for that."""
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


def bytes_from_disk() -> int | None:
    """What this process has had fetched from storage so far; None where the kernel does not say."""
    try:
        counts = Path("/proc/self/io").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in counts.splitlines() if line.startswith("read_bytes:")), None)


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


class Row(NamedTuple):
    """One measurement: a way of loading, with the files in the page cache or not."""

    title: str
    work: Callable[[], object]
    cold: bool


def rows_of(folder: Path, files: list[Path], device: str) -> list[Row]:
    """What is measured, the most telling first: sgl beside plain reads, warm and cold."""

    def plain(threads: int) -> Callable[[], object]:
        return lambda: read_plainly(files, threads)

    many = f"plain read, {READERS} threads", plain(READERS)
    one = "plain read, 1 thread", plain(1)
    built = "sgl, the model built", lambda: build_model(folder, device, "safetensors")
    tensors = "sgl, every tensor", lambda: load_with_sgl(folder, device)
    theirs = "safetensors load_file + .to", lambda: load_with_safetensors(files, device)
    order = [(many, False), (built, False), (many, True), (built, True), (tensors, False), (theirs, False)]
    order += [(one, True), (one, False), (tensors, True), (theirs, True)]
    return [Row(title, work, cold) for (title, work), cold in order]


def measure(folder: Path, device: str, deadline: float) -> None:
    files = sorted(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    print(f"{size / 1e9:.2f} GB in {len(files)} files to {device}")
    print(f"{'':30} {'cache':>5} {'s':>7} {'GB/s':>7} {'from disk':>10}")
    cached = False
    for title, work, cold in rows_of(folder, files, device):
        if time.perf_counter() > deadline:
            print(f"{title:30} {'cold' if cold else 'warm':>5}: left out, no time")
            continue
        if cold:
            forget(files)
        elif not cached:
            read_plainly(files, READERS)
        before = bytes_from_disk()
        took = seconds(work, device)
        after = bytes_from_disk()
        disk = "?" if before is None or after is None else f"{(after - before) / size:.0%}"
        print(f"{title:30} {'cold' if cold else 'warm':>5} {took:7.2f} {size / took / 1e9:7.2f} {disk:>10}", flush=True)
        cached = not cold  # on a CPU, what was mapped is not all read


def measure_dummy(device: str) -> None:
    raw = {**SHAPE, "num_hidden_layers": LAYERS}
    size = weight_bytes(ModelConfig.from_hf(raw), torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw))
        for title in ("dummy 8B, the model built", "again"):
            took = seconds(lambda: build_model(Path(folder), device, "dummy"), device)
            print(f"{title:30} {'':>5} {took:7.2f} {size / took / 1e9:7.2f}", flush=True)


def prepare(device: str) -> None:
    """What a process does once, whatever it loads: imports, and the device's context."""
    small = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {**config_of(0), **small}, 1)
        build_model(Path(folder), device, "safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast weights get to a device.")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the folder")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where the weights are written, or were (then they are used)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-dummy", action="store_true")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no further row after so long")
    asked = parser.parse_args()
    deadline = time.perf_counter() + asked.seconds
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model.safetensors.index.json").is_file():
            start = time.perf_counter()
            write(folder, config_of(asked.gib), asked.shards)
            print(f"written in {time.perf_counter() - start:.1f} s", flush=True)
        prepare(asked.device)
        measure(folder, asked.device, deadline)
    if asked.device != "cpu" and not asked.no_dummy and time.perf_counter() < deadline:
        measure_dummy(asked.device)


if __name__ == "__main__":
    main()
