"""A checkpoint's files are foreign data: it loads, or an `SglError` says which file is wrong; nothing else happens."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.model.load.build import build
from sgl.lang.errors import ModelLoadError, SglError

from .test_loader import CONFIG, save_folder, save_gguf

VALUES: list[Any] = [
    "x", "1", "", None, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**400, -(2**63), 0.5, -0.5, 1e308, math.nan, math.inf, True,
    False, [], [1], ["x"], [[]], {}, {"x": 1}, "\ud800", {"rope_type": "yarn"}, {"rope_type": 3}, {"type": []},
    {"rope_type": "yarn", "factor": 0}, {"rope_type": "llama3", "factor": "x"},
    {"rope_type": "linear", "factor": math.nan}, {"rope_type": "yarn", "factor": 4, "beta_fast": "x"}, [-1], [2**63],
]  # fmt: skip
FIELDS = [
    *CONFIG, "head_dim", "rope_scaling", "rope_parameters", "sliding_window", "initializer_range", "attention_bias",
    "hidden_act", "mlp_bias", "quantization_config", "model_type", "partial_rotary_factor",
    "original_max_position_embeddings", "text_config", "torch_dtype", "use_sliding_window",
]  # fmt: skip


def load(path: Path) -> None:
    """Build a model: it works, or it raises an `SglError`."""
    try:
        build(path, device="cpu", dtype="float32", load_format="auto")
    except SglError as error:
        assert len(str(error)) < 3000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder in shards, with all the files that are read, and one GGUF file."""
    folder = tmp_path_factory.mktemp("sound")
    save_folder(folder, shards=2, hidden_size=16, intermediate_size=16)
    (folder / "generation_config.json").write_text('{"eos_token_id": [257]}')
    settings_ = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def changed(sound: Path, folder: Path, file: str, change: Any) -> Path:
    """A copy of a sound folder in which `change` made other bytes of one file."""
    shutil.copytree(sound, folder)
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    return folder


def test_the_sound_one_loads(sound: Path) -> None:
    build(sound, device="cpu", dtype="float32", load_format="auto")


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_config_has_its_type_and_range(field: str, sound: Path, tmp_path: Path) -> None:
    raw = json.loads((sound / "config.json").read_text())
    work = tmp_path / "work"
    shutil.copytree(sound, work)
    for value in VALUES:
        (work / "config.json").write_text(json.dumps({**raw, field: value}))
        load(work)


@pytest.mark.parametrize("field", ["num_hidden_layers", "vocab_size", "hidden_size", "num_attention_heads", "head_dim"])
@pytest.mark.parametrize("value", [2**63, 2**31, 9_999, "2", -1, 2.5, True])
def test_a_size_that_the_tensors_do_not_have_is_refused_by_name(
    field: str, value: Any, sound: Path, tmp_path: Path
) -> None:
    def change(data: bytes) -> bytes:
        return json.dumps({**json.loads(data), field: value}).encode()

    work = changed(sound, tmp_path / "work", "config.json", change)
    with pytest.raises(ModelLoadError, match=rf"work.*({field}|config says|is missing|heads|odd)"):
        build(work, device="cpu", dtype="float32", load_format="auto")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "data",
    [b"[" * 10**6, b'{"a":' * 10**6, b'{"a": 1, "a": 2}', b"", b"\xff\xfe", b"null", b"NaN", b'{"eos_token_id": NaN}'],
    ids=["deep list", "deep object", "twice", "empty", "no UTF-8", "null", "NaN", "NaN in it"],
)
def test_json_that_is_none(file: str, data: bytes, sound: Path, tmp_path: Path) -> None:
    work = changed(sound, tmp_path / "work", file, lambda _: data)
    with pytest.raises(ModelLoadError, match=file.replace(".", r"\.")):
        build(work, device="cpu", dtype="float32", load_format="auto")


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "", ".", "..", "a/b", "a\\b", "\0", "x" * 5000, 3, None]
)
def test_shards_stay_in_their_folder(shard: Any, sound: Path, tmp_path: Path) -> None:
    shutil.copy(next(sound.glob("*.safetensors")), tmp_path / "x.safetensors")

    def change(data: bytes) -> bytes:
        index = json.loads(data)
        index["weight_map"] = dict.fromkeys(index["weight_map"], shard)
        return json.dumps(index).encode()

    with pytest.raises(ModelLoadError, match=r"index\.json"):
        folder = changed(sound, tmp_path / "work", "model.safetensors.index.json", change)
        build(folder, device="cpu", dtype="float32", load_format="auto")


def test_a_shard_may_be_a_link_as_in_the_hubs_cache(sound: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(sound, work)
    for file in list(work.glob("*.safetensors")):
        os.replace(file, tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    build(work, device="cpu", dtype="float32", load_format="auto")


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": ENTRY, "b": ENTRY},
        {"a": {**ENTRY, "data_offsets": [0, 10**18]}},
        {"a": {**ENTRY, "data_offsets": [-8, 0]}},
        {"a": {**ENTRY, "shape": [2**62, 4]}},
        {"a": {**ENTRY, "shape": [math.nan]}},
        {"a": {**ENTRY, "shape": [True, 2]}},
        {"a": {**ENTRY, "shape": [1] * 10_000 + [2]}},
        {"a": {**ENTRY, "dtype": "X"}},
        {"a": {**ENTRY, "dtype": None}},
        {"a": []},
        {"a": {**ENTRY, "data_offsets": [0, 8.0]}},
    ],
    ids=lambda header: str(header)[:50],
)
def test_headers_that_lie(header: Any, sound: Path, tmp_path: Path) -> None:
    data = json.dumps(header).encode()
    shard = next(sound.glob("*.safetensors")).name
    work = changed(sound, tmp_path / "work", shard, lambda _: struct.pack("<Q", len(data)) + data + bytes(16))
    with pytest.raises(ModelLoadError, match=shard):
        build(work, device="cpu", dtype="float32", load_format="auto")


FILES = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
]  # fmt: skip


def mutate(data: bytes, draw: Any, header: int) -> bytes:
    """A few bytes written over, put in, or cut out; most of them where the file describes itself."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, min(len(data), header) - 1)))
        more = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"9" * 18, b"-", b"[", b'"', b"{}"])))
        match draw(st.sampled_from(["over", "in", "out", "end"])):
            case "over":
                data = data[:at] + more + data[at + len(more) :]
            case "in":
                data = data[:at] + more + data[at:]
            case "out":
                data = data[:at] + data[at + draw(st.integers(1, 16)) :]
            case _:
                data = data[: draw(st.integers(0, len(data)))]
    return data


def replaced(value: Any, draw: Any) -> Any:
    """A JSON value with one of its places replaced."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: replaced(value[key], draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], replaced(value[at], draw), *value[at + 1 :]]
    return draw(st.sampled_from(VALUES))


def fuzz_folder(sound: Path, data: Any) -> None:
    file = data.draw(st.sampled_from(FILES))
    raw = (sound / file).read_bytes()
    if file.endswith(".json") and data.draw(st.booleans()):
        raw = json.dumps(replaced(json.loads(raw), data.draw)).encode()
    else:
        raw = mutate(raw, data.draw, 1500)
    with tempfile.TemporaryDirectory() as place:
        load(changed(sound, Path(place) / "work", file, lambda _: raw))


def fuzz_gguf(sound: Path, data: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.gguf"
        path.write_bytes(mutate(sound.read_bytes(), data.draw, 9000))
        load(path)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    save_gguf(path)
    return path


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(data=st.data())
def test_any_damage_to_a_folder_is_an_error_of_ours(sound: Path, data: Any) -> None:
    fuzz_folder(sound, data)


@QUICK
@given(data=st.data())
def test_any_damage_to_a_gguf_file_is_an_error_of_ours(gguf_file: Path, data: Any) -> None:
    fuzz_gguf(gguf_file, data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_much_damage_to_a_folder_is_an_error_of_ours(sound: Path, data: Any) -> None:
    fuzz_folder(sound, data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_much_damage_to_a_gguf_file_is_an_error_of_ours(gguf_file: Path, data: Any) -> None:
    fuzz_gguf(gguf_file, data)
