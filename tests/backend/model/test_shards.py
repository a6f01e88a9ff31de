"""Weights on their way to a device: the file format, reading ahead on threads, made-up weights, and taking by name."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sgl.backend.runtime.model.load import fetch
from sgl.backend.runtime.model.load.config import ModelConfig
from sgl.backend.runtime.model.load.dummy import DummyTensors, _DrawnThere, random_tensors
from sgl.backend.runtime.model.load.fetch import Fetch, taking_order
from sgl.backend.runtime.model.load.shapes import parameter_count, tensor_shapes, weight_bytes
from sgl.backend.runtime.model.load.shards import ShardedTensors, read_header
from sgl.backend.runtime.model.load.weights import Weights
from sgl.lang.errors import ModelLoadError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CONFIG = ModelConfig(
    architecture="qwen3", vocab_size=64, hidden_size=16, intermediate_size=24, num_layers=12, num_heads=4,
    num_kv_heads=2, head_dim=8, rms_norm_eps=1e-5, rope_theta=1e4, max_position_embeddings=64, qk_norm=True,
)  # fmt: skip


def on(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(device)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file with every kind of tensor a model has."""
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(CONFIG).items()}
    tensors["model.norm.weight"] = torch.randn(16)
    tensors["scalar"] = torch.tensor(3.5, dtype=torch.float16)
    tensors["nothing"] = torch.empty(0, 4)
    tensors["numbers"] = torch.arange(7)
    tensors["model.layers.3.small"] = torch.randn(5).to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors", tensors


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    a = a.cpu()
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(-1).float(), b.view(-1).float())


# -- the format ---------------------------------------------------------------------------------------------------


def test_a_mapped_file_holds_what_was_saved(saved):
    file, tensors = saved
    mapped = ShardedTensors(read_header(file))
    assert set(mapped) == set(tensors) and len(mapped) == len(tensors) and "other" not in mapped
    assert all(same(mapped[name], tensor) for name, tensor in tensors.items())
    assert all(same(mapped[name], tensor) for name, tensor in load_file(file).items())


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(saved):
    file, _ = saved
    before = file.read_bytes()
    ShardedTensors(read_header(file))["model.norm.weight"].zero_()
    assert file.read_bytes() == before


def test_a_header_of_odd_length(tmp_path):
    """Writers pad the header to 8 bytes, but the format does not ask for it."""
    value = torch.randn(3)
    header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (1 + len(header) % 2)
    assert len(header) % 4
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header + value.numpy().tobytes())
    assert torch.equal(ShardedTensors(read_header(tmp_path / "m"))["x"], value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "ends at byte 16 of 12"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}, "bytes 0 to 12"),
        ({"dtype": "F32", "shape": [-3], "data_offsets": [0, -12]}, "has shape"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [-12, 0]}, "bytes -12 to 0"),
        ({"dtype": "F4", "shape": [3], "data_offsets": [0, 12]}, "'x' has type F4, which is not supported"),
        ({"dtype": "F32", "shape": [3]}, "entry of 'x'"),
        ({"dtype": "F32", "shape": 3, "data_offsets": [0, 12]}, "entry of 'x'"),
        ([], "entry of 'x'"),
    ],
)
def test_wrong_headers_are_named(entry, message, tmp_path):
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "bad.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(ModelLoadError, match=rf"bad\.safetensors.*{message}"):
        read_header(tmp_path / "bad.safetensors")


def test_no_damage_is_anything_but_a_load_error(saved, tmp_path):
    """Cut anywhere, or with bytes of its head changed: a `ModelLoadError`, or a file that still reads whole."""
    file, _ = saved
    raw, rng, refused = file.read_bytes(), random.Random(0), 0
    head = int.from_bytes(raw[:8], "little") + 8
    damaged = tmp_path / "damaged"
    for _ in range(300):
        wrong = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            wrong[rng.randrange(head)] = rng.randrange(256)
        damaged.write_bytes(bytes(wrong))
        try:
            tensors = ShardedTensors(read_header(damaged))
            assert all(tensors[name].numel() >= 0 for name in tensors)
        except ModelLoadError as error:
            assert "damaged" in str(error) or "not supported" in str(error)
            refused += 1
    assert refused > 200
    for cut in [0, 1, 7, 8, 9, head - 1, head, head + 1, len(raw) // 2, len(raw) - 1]:
        damaged.write_bytes(raw[:cut])
        with pytest.raises(ModelLoadError, match=r"damaged: truncated or damaged"):
            read_header(damaged)


# -- reading ahead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize(("readers", "chunk", "window"), [(1, 64, 1), (4, 100, 3000), (8, 1 << 20, 1 << 30)])
@pytest.mark.parametrize("order", ["natural", "reversed", "shuffled"])
def test_every_tensor_arrives_whole(device, dtype, readers, chunk, window, order, saved):
    file, tensors = saved
    names = taking_order(tensors)
    if order != "natural":
        names = names[::-1] if order == "reversed" else random.Random(1).sample(names, len(names))
    reader = Fetch(read_header(file), on(device), dtype, readers=readers, chunk=chunk, window=window)
    taken = {name: reader.take(name) for name in names}
    again = reader.take("model.norm.weight")
    assert reader.take("no such tensor") is None
    reader.close()
    for name, tensor in taken.items():
        assert tensor.device.type == device and same(tensor, tensors[name].to(dtype)), name
    assert torch.equal(again, taken["model.norm.weight"]) and again is not taken["model.norm.weight"]


@pytest.mark.gpu
def test_what_was_taken_may_be_used_and_freed_at_once(tmp_path):
    """Memory goes round between the taker's stream and the readers': none may write too early or be read too early."""
    device = on("cuda")
    tensors = {f"model.layers.{i}.w": torch.full((1 << 20,), float(i)) for i in range(200)}
    save_file(tensors, tmp_path / "m.safetensors")
    reader = Fetch(read_header(tmp_path / "m.safetensors"), device, torch.float32, chunk=1 << 19, window=16 << 20)
    sums = []
    for i in range(200):
        tensor = reader.take(f"model.layers.{i}.w")
        for _ in range(5):
            tensor = tensor * 1.0
        sums.append((tensor.min(), tensor.max()))
        del tensor
    reader.close()
    assert [(float(low), float(high)) for low, high in sums] == [(i, i) for i in range(200)]


def test_no_more_is_read_ahead_than_asked_for(saved, monkeypatch):
    file, tensors = saved
    read, real = [], fetch._read
    monkeypatch.setattr(fetch, "_read", lambda *args: (read.append(len(args[2])), real(*args))[1])
    names = taking_order(tensors)
    largest = max(tensor.nbytes for tensor in tensors.values())
    reader = Fetch(read_header(file), torch.device("cpu"), torch.bfloat16, window=2000)
    reader.take(names[0])
    reader.close()
    assert tensors[names[0]].nbytes <= sum(read) <= tensors[names[0]].nbytes + 2000 + largest
    assert sum(read) < sum(tensor.nbytes for tensor in tensors.values()) / 2


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_that_shrinks_while_it_is_read_is_named(device, saved):
    file, tensors = saved
    places = read_header(file)
    last = max(places, key=lambda name: places[name].start)
    file.write_bytes(file.read_bytes()[: places[last].start + 1])
    reader = Fetch(places, on(device), torch.float32, chunk=64)
    assert same(reader.take("scalar"), tensors["scalar"].float())
    with pytest.raises(ModelLoadError, match=r"m\.safetensors: cannot be read .*missing at its end"):
        reader.take(last)
    reader.close()
    file.unlink()
    reader = Fetch(places, on(device), torch.float32)
    with pytest.raises(ModelLoadError, match=r"m\.safetensors: cannot be read"):
        reader.take("scalar")
    reader.close()


@pytest.mark.parametrize("device", DEVICES)
def test_closing_early_ends_the_readers(device, saved):
    file, _ = saved
    reader = Fetch(read_header(file), on(device), torch.float32, chunk=16)
    reader.take("scalar")
    reader.close()
    reader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sgl-load")]


@pytest.mark.parametrize("device", DEVICES)
def test_taking_in_inference_mode(device, saved):
    file, tensors = saved
    reader = Fetch(read_header(file), on(device), torch.float32)
    with torch.inference_mode():
        assert same(reader.take("numbers"), tensors["numbers"].float())
    reader.close()


def test_taking_order():
    names = ["lm_head.weight", "model.embed_tokens.weight", "model.layers.10.a", "model.layers.2.mlp.experts.11.w",
             "model.layers.2.mlp.experts.2.w", "model.norm.weight"]  # fmt: skip
    assert taking_order(names) == [names[1], names[4], names[3], names[2], names[0], names[5]]


# -- made-up weights ----------------------------------------------------------------------------------------------


def test_the_values_on_the_cpu_are_those_of_one_generator():
    """Pinned: results recorded with dummy weights must not change."""
    tensors = DummyTensors(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for name in tensor_shapes(CONFIG):
        if tensors[name].ndim == 2:
            expected = torch.empty(tensors[name].shape).normal_(0.0, 0.02, generator=generator)
            assert torch.equal(tensors[name], expected), name
        else:
            assert bool((tensors[name] == 1).all()), name
    with pytest.raises(KeyError):
        tensors["other"]


@pytest.mark.parametrize("device", DEVICES)
def test_small_made_up_weights_are_the_same_everywhere(device):
    tensors, supply = DummyTensors(CONFIG), DummyTensors(CONFIG).supply(on(device), torch.bfloat16)
    for name in reversed(list(tensors)):
        assert same(supply.take(name), tensors[name].bfloat16())


@pytest.mark.parametrize("device", DEVICES)
def test_large_made_up_weights_are_drawn_where_they_are_used(device):
    def drawn(seed: int = 0, dtype: torch.dtype = torch.float32) -> _DrawnThere:
        return _DrawnThere(tensor_shapes(CONFIG), 0.5, seed, on(device), dtype)

    names = list(tensor_shapes(CONFIG))
    first, second = drawn(), drawn()
    taken = {name: first.take(name) for name in names}
    assert all(torch.equal(taken[name], second.take(name)) for name in reversed(names)), "the order matters"
    assert {name: tuple(tensor.shape) for name, tensor in taken.items()} == tensor_shapes(CONFIG)
    assert bool((taken["model.layers.4.self_attn.q_norm.weight"] == 1).all())
    embeddings = taken["model.embed_tokens.weight"]
    q, other_q = (taken[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(2))
    assert 0.45 < float(embeddings.std()) < 0.55 and abs(float(embeddings.mean())) < 0.05
    assert not torch.equal(q, other_q)
    assert not torch.equal(q, drawn(seed=1).take("model.layers.0.self_attn.q_proj.weight"))
    assert drawn(dtype=torch.bfloat16).take("model.embed_tokens.weight").dtype == torch.bfloat16
    assert first.take("other") is None


def test_which_way_is_taken_depends_on_the_size(monkeypatch):
    meta, count = torch.device("meta"), parameter_count(CONFIG)
    monkeypatch.setattr("sgl.backend.runtime.model.load.dummy.CPU_DRAWN_PARAMETERS", count - 1)
    assert isinstance(DummyTensors(CONFIG).supply(meta, torch.float16), _DrawnThere)
    assert not isinstance(DummyTensors(CONFIG).supply(torch.device("cpu"), torch.float16), _DrawnThere)
    monkeypatch.setattr("sgl.backend.runtime.model.load.dummy.CPU_DRAWN_PARAMETERS", count)
    assert not isinstance(DummyTensors(CONFIG).supply(meta, torch.float16), _DrawnThere)


def test_what_weights_weigh():
    tensors = random_tensors(CONFIG)
    assert parameter_count(CONFIG) == sum(tensor.numel() for tensor in tensors.values())
    assert weight_bytes(CONFIG, torch.bfloat16) == 2 * parameter_count(CONFIG)


# -- taking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["dict", "file", "dummy"])
def test_weights_are_taken_and_checked(kind, device, saved, monkeypatch):
    file, tensors = saved
    source = {"dict": tensors, "file": ShardedTensors(read_header(file)), "dummy": DummyTensors(CONFIG)}[kind]
    with Weights(source, on(device), torch.float16, "here/model") as take:
        taken = take("model.norm.weight", 16)
        assert taken.dtype == torch.float16 and taken.device.type == device
        assert same(taken, source["model.norm.weight"].half())
        assert take.optional("model.layers.0.self_attn.q_proj.bias", 32) is None
        with pytest.raises(ModelLoadError, match=r"here/model: the tensor 'model\.other' is missing"):
            take("model.other", 1)
        with pytest.raises(ModelLoadError, match=r"here/model: 'model\.norm\.weight' has shape \(16,\).*\(17,\)"):
            take("model.norm.weight", 17)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sgl-load")]
