"""`ModelConfig`: the shape of a model of the Llama family, read from either description a checkpoint may carry.

Owns: the supported architectures and RoPE scalings, and the one normal form of their many spellings (`config.json` of
transformers 4 and 5, GGUF metadata). Knows nothing of files, tensors or tokenizers.
Invariant: what the model code cannot compute exactly is refused here by name, never approximated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .....lang.errors import ModelLoadError

_log = logging.getLogger(__name__)

HF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
GGUF_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("linear", "llama3", "yarn")


class Unsupported(ModelLoadError):
    """A model that is not of this family, or has a feature that the family's code lacks. Its description is sound."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes are numbers of elements; ids are token ids. `rope_scaling` is None or has `rope_type` in `ROPE_TYPES`.

    Without experts (`num_experts` 0) every layer is dense; see `is_sparse`.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    rope_scaling: Mapping[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    initializer_range: float = 0.02
    eos_ids: tuple[int, ...] = field(default=())
    bos_id: int | None = None
    num_experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    """The intermediate size of one expert."""
    normalized_experts: bool = False
    """Whether the weights of a token's experts are scaled to sum to one."""
    sparse_step: int = 1
    dense_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"model config: {self.num_heads} attention heads are not a multiple of {self.num_kv_heads} KV heads"
            )
        if self.head_dim % 2:
            raise ModelLoadError(f"model config: head_dim {self.head_dim} is odd; RoPE rotates pairs")

    @property
    def context_length(self) -> int:
        """The longest context that is computed exactly.

        The family's attention is full attention. Where a model slides a window, contexts longer than the window would
        be silently wrong, so the window is the limit.
        """
        return min(self.max_position_embeddings, self.sliding_window or self.max_position_embeddings)

    @property
    def limited_by_window(self) -> bool:
        return self.context_length < self.max_position_embeddings

    def warn_of_window(self, name: str) -> None:
        """Log a warning where the window limits the context of the model `name`."""
        if self.limited_by_window:
            _log.warning(
                "%s attends through a sliding window: its context is limited to those %d tokens (the model allows %d)",
                name, self.context_length, self.max_position_embeddings,
            )  # fmt: skip

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer's feed-forward is a mixture of experts."""
        return self.num_experts > 0 and layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], name: str = "config.json") -> ModelConfig:
        """Read a parsed `config.json`; `name` is for messages. Raises `Unsupported` for what is not of the family,
        `ModelLoadError` for what is wrong."""
        architecture = _hf_architecture(raw, name)
        _refuse_unsupported(raw, name)
        hidden = int(_need(raw, "hidden_size", name))
        heads = int(_need(raw, "num_attention_heads", name))
        theta, scaling = _hf_rope(raw, name)
        limit = int(_need(raw, "max_position_embeddings", name))
        window = raw.get("sliding_window")
        # Qwen configs carry a window they do not use unless this switch is on.
        if architecture.startswith("qwen") and not raw.get("use_sliding_window"):
            window = None
        return cls(
            architecture=architecture,
            vocab_size=int(_need(raw, "vocab_size", name)),
            hidden_size=hidden,
            intermediate_size=int(_need(raw, "intermediate_size", name)),
            num_layers=int(_need(raw, "num_hidden_layers", name)),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or hidden // heads),
            rms_norm_eps=float(raw.get("rms_norm_eps") or 1e-6),
            rope_theta=theta,
            max_position_embeddings=_scaled_context(limit, scaling),
            rope_scaling=scaling,
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=architecture == "qwen2" or bool(raw.get("attention_bias", False)),
            qk_norm=architecture.startswith("qwen3"),
            sliding_window=int(window) if window else None,
            initializer_range=float(raw.get("initializer_range") or 0.02),
            eos_ids=as_ids(raw.get("eos_token_id")),
            bos_id=raw.get("bos_token_id"),
            **(_hf_experts(raw, name) if architecture == "qwen3_moe" else {}),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], name: str = "GGUF file") -> ModelConfig:
        """Read GGUF metadata. Whether embeddings are tied is told by the tensors: the loader fills that in."""
        arch = metadata.get("general.architecture")
        if arch not in GGUF_ARCHITECTURES:
            raise ModelLoadError(f"{name}: architecture {arch!r} is not supported; supported: {_listed()}")
        if metadata.get(f"{arch}.expert_count"):
            raise ModelLoadError(f"{name}: mixture-of-experts models are not supported; supported: {_listed()}")

        def key(suffix: str) -> Any:
            return _need(metadata, f"{arch}.{suffix}", name)

        hidden, heads = int(key("embedding_length")), int(key("attention.head_count"))
        head_dim = int(metadata.get(f"{arch}.attention.key_length") or hidden // heads)
        if int(metadata.get(f"{arch}.rope.dimension_count") or head_dim) != head_dim:
            raise ModelLoadError(f"{name}: partial rotary embeddings are not supported")
        scaling = _gguf_scaling(metadata, arch, name)
        vocab = metadata.get(f"{arch}.vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ()))
        return cls(
            architecture=arch,
            vocab_size=int(vocab),
            hidden_size=hidden,
            intermediate_size=int(key("feed_forward_length")),
            num_layers=int(key("block_count")),
            num_heads=heads,
            num_kv_heads=int(metadata.get(f"{arch}.attention.head_count_kv") or heads),
            head_dim=head_dim,
            rms_norm_eps=float(key("attention.layer_norm_rms_epsilon")),
            rope_theta=float(metadata.get(f"{arch}.rope.freq_base") or 10000.0),
            max_position_embeddings=_scaled_context(int(key("context_length")), scaling),
            rope_scaling=scaling,
            attention_bias=arch == "qwen2",
            qk_norm=arch == "qwen3",
            sliding_window=metadata.get(f"{arch}.attention.sliding_window") or None,
            eos_ids=as_ids(metadata.get("tokenizer.ggml.eos_token_id")),
            bos_id=metadata.get("tokenizer.ggml.bos_token_id"),
        )


def as_ids(value: Any) -> tuple[int, ...]:
    """An `eos_token_id` field (absent, a number, or a list) as a tuple."""
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)


def _listed() -> str:
    return ", ".join(HF_ARCHITECTURES) + f" (config.json); {', '.join(GGUF_ARCHITECTURES)} (GGUF)"


def _need(raw: Mapping[str, Any], key: str, name: str) -> Any:
    value = raw.get(key)
    if value is None:
        raise ModelLoadError(f"{name}: the field {key!r} is missing; the file is incomplete or of another kind")
    return value


def _hf_architecture(raw: Mapping[str, Any], name: str) -> str:
    declared = raw.get("architectures") or []
    for candidate in declared:
        if candidate in HF_ARCHITECTURES:
            return HF_ARCHITECTURES[candidate]
    if not declared and raw.get("model_type") in HF_ARCHITECTURES.values():
        return str(raw["model_type"])
    found = ", ".join(map(str, declared)) or f"model_type {raw.get('model_type')!r}"
    raise Unsupported(f"{name}: architecture {found} is not supported; supported: {_listed()}")


def _refuse_unsupported(raw: Mapping[str, Any], name: str) -> None:
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "unknown")
        raise ModelLoadError(
            f"{name}: quantized safetensors ({method}) are not supported; use the unquantized checkpoint or a GGUF file"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise Unsupported(f"{name}: hidden_act {raw['hidden_act']!r} is not supported; only 'silu' is")
    if raw.get("mlp_bias"):
        raise Unsupported(f"{name}: mlp_bias is not supported")


def _hf_rope(raw: Mapping[str, Any], name: str) -> tuple[float, Mapping[str, Any] | None]:
    """(theta, scaling) from transformers 4's `rope_theta` and `rope_scaling`, or 5's `rope_parameters`."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = float(rope.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0)
    partial = rope.pop("partial_rotary_factor", None) or raw.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise Unsupported(f"{name}: partial_rotary_factor {partial} is not supported")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("default", "none"):
        return theta, None
    if kind not in ROPE_TYPES:
        raise Unsupported(f"{name}: RoPE scaling {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}")
    return theta, _hf_scaling(raw, rope, str(kind), name)


def _hf_scaling(raw: Mapping[str, Any], rope: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    """A RoPE scaling in its one form, with what configs leave out filled in."""
    rope = {k: v for k, v in rope.items() if k != "type" and v is not None}
    rope["rope_type"] = kind
    limit = raw.get("original_max_position_embeddings") or _need(raw, "max_position_embeddings", name)
    original = rope.setdefault("original_max_position_embeddings", limit)
    if kind == "yarn" and "factor" not in rope:
        rope["factor"] = _need(raw, "max_position_embeddings", name) / original
    for needed in ("factor", "low_freq_factor", "high_freq_factor")[: 3 if kind == "llama3" else 1]:
        _need(rope, needed, f"{name}: RoPE scaling {kind!r}")
    return rope


def _hf_experts(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "num_experts": int(raw.get("num_experts") or _need(raw, "num_local_experts", name)),
        "experts_per_token": int(_need(raw, "num_experts_per_tok", name)),
        "expert_size": int(_need(raw, "moe_intermediate_size", name)),
        "normalized_experts": bool(raw.get("norm_topk_prob", False)),
        "sparse_step": int(raw.get("decoder_sparse_step") or 1),
        "dense_layers": tuple(int(i) for i in raw.get("mlp_only_layers") or ()),
    }


def _gguf_scaling(metadata: Mapping[str, Any], arch: str, name: str) -> Mapping[str, Any] | None:
    """RoPE scaling of a GGUF file (Llama 3's is not metadata there but a tensor of factors, `rope_freqs`)."""
    prefix = f"{arch}.rope.scaling."
    kind = metadata.get(prefix + "type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ModelLoadError(f"{name}: RoPE scaling {kind!r} is not supported; supported in GGUF: linear, yarn")
    scaling = {"rope_type": kind, "factor": float(_need(metadata, prefix + "factor", name))}
    original = metadata.get(prefix + "original_context_length") or _need(metadata, f"{arch}.context_length", name)
    scaling["original_max_position_embeddings"] = int(original)
    if (attention := metadata.get(prefix + "attn_factor")) is not None:
        scaling["attention_factor"] = float(attention)
    return scaling


def _scaled_context(limit: int, scaling: Mapping[str, Any] | None) -> int:
    """Scale the context limit: YaRN configs often give the trained one, and a factor by which it was extended."""
    if scaling is not None and scaling["rope_type"] == "yarn":
        return max(limit, int(scaling["original_max_position_embeddings"] * scaling["factor"]))
    return limit
