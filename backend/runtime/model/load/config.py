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
from .fields import MOST_CONTEXT, MOST_LAYERS, Fields, brief

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
MOST_EXPERTS = 4096


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
        fields = Fields(raw, name)
        hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        theta, scaling = _hf_rope(raw, name)
        limit = fields.whole("max_position_embeddings", high=MOST_CONTEXT)
        window: int | None = fields.whole("sliding_window", 0, low=0, high=MOST_CONTEXT)
        # Qwen configs carry a window they do not use unless this switch is on.
        if architecture.startswith("qwen") and not fields.flag("use_sliding_window"):
            window = None
        return _made(
            name,
            architecture=architecture,
            vocab_size=fields.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.whole("intermediate_size"),
            num_layers=fields.whole("num_hidden_layers", high=MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=fields.whole("num_key_value_heads", heads),
            head_dim=fields.whole("head_dim", max(1, hidden // heads)),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0),
            rope_theta=theta,
            max_position_embeddings=_scaled_context(limit, scaling),
            rope_scaling=scaling,
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            attention_bias=architecture == "qwen2" or fields.flag("attention_bias"),
            qk_norm=architecture.startswith("qwen3"),
            sliding_window=window or None,
            initializer_range=fields.number("initializer_range", 0.02, high=1e3),
            eos_ids=fields.tokens("eos_token_id"),
            bos_id=fields.token("bos_token_id"),
            **(_hf_experts(raw, name) if architecture == "qwen3_moe" else {}),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], name: str = "GGUF file") -> ModelConfig:
        """Read GGUF metadata. Whether embeddings are tied is told by the tensors: the loader fills that in."""
        arch = metadata.get("general.architecture")
        if arch not in GGUF_ARCHITECTURES:
            raise ModelLoadError(f"{name}: architecture {brief(arch)} is not supported; supported: {_listed()}")
        if metadata.get(f"{arch}.expert_count"):
            raise ModelLoadError(f"{name}: mixture-of-experts models are not supported; supported: {_listed()}")

        fields, prefix = Fields(metadata, name), f"{arch}."
        hidden, heads = fields.whole(prefix + "embedding_length"), fields.whole(prefix + "attention.head_count")
        head_dim = fields.whole(prefix + "attention.key_length", max(1, hidden // heads))
        if fields.whole(prefix + "rope.dimension_count", head_dim) != head_dim:
            raise ModelLoadError(f"{name}: partial rotary embeddings are not supported")
        limit, scaling = fields.whole(prefix + "context_length", high=MOST_CONTEXT), _gguf_scaling(metadata, arch, name)
        words = metadata.get("tokenizer.ggml.tokens")
        vocab = fields.whole(prefix + "vocab_size", len(words) if isinstance(words, list) else 0)
        return _made(
            name,
            architecture=arch,
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=fields.whole(prefix + "feed_forward_length"),
            num_layers=fields.whole(prefix + "block_count", high=MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=fields.whole(prefix + "attention.head_count_kv", heads),
            head_dim=head_dim,
            rms_norm_eps=fields.number(prefix + "attention.layer_norm_rms_epsilon", high=1.0),
            rope_theta=fields.number(prefix + "rope.freq_base", 10000.0, low=1.0),
            max_position_embeddings=_scaled_context(limit, scaling),
            rope_scaling=scaling,
            attention_bias=arch == "qwen2",
            qk_norm=arch == "qwen3",
            sliding_window=fields.whole(prefix + "attention.sliding_window", 0, low=0, high=MOST_CONTEXT) or None,
            eos_ids=fields.tokens("tokenizer.ggml.eos_token_id"),
            bos_id=fields.token("tokenizer.ggml.bos_token_id"),
        )


def _made(name: str, **values: Any) -> ModelConfig:
    """Make a config. Raises `ModelLoadError` that names the file for sizes that do not fit each other."""
    try:
        return ModelConfig(**values)
    except ModelLoadError as error:
        raise ModelLoadError(f"{name}: {error}") from None


def _listed() -> str:
    return ", ".join(HF_ARCHITECTURES) + f" (config.json); {', '.join(GGUF_ARCHITECTURES)} (GGUF)"


def _hf_architecture(raw: Mapping[str, Any], name: str) -> str:
    declared = Fields(raw, name).items("architectures", str, "names")
    for candidate in declared:
        if candidate in HF_ARCHITECTURES:
            return HF_ARCHITECTURES[candidate]
    if not declared and str(raw.get("model_type")) in HF_ARCHITECTURES.values():
        return str(raw["model_type"])
    found = ", ".join(declared)[:200] or f"model_type {brief(raw.get('model_type'))}"
    raise Unsupported(f"{name}: architecture {found} is not supported; supported: {_listed()}")


def _refuse_unsupported(raw: Mapping[str, Any], name: str) -> None:
    if quantized := Fields(raw, name).mapping("quantization_config"):
        method = brief(quantized.get("quant_method", "unknown"))
        raise ModelLoadError(
            f"{name}: quantized safetensors ({method}) are not supported; use the unquantized checkpoint or a GGUF file"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise Unsupported(f"{name}: hidden_act {brief(raw['hidden_act'])} is not supported; only 'silu' is")
    if raw.get("mlp_bias"):
        raise Unsupported(f"{name}: mlp_bias is not supported")


def _hf_rope(raw: Mapping[str, Any], name: str) -> tuple[float, Mapping[str, Any] | None]:
    """(theta, scaling) from transformers 4's `rope_theta` and `rope_scaling`, or 5's `rope_parameters`."""
    fields = Fields(raw, name)
    scaling = dict(fields.mapping("rope_parameters") or fields.mapping("rope_scaling"))
    rope = Fields(scaling, f"{name}: RoPE scaling")
    theta = rope.number("rope_theta", fields.number("rope_theta", 10000.0, low=1.0), low=1.0)
    partial = rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise Unsupported(f"{name}: partial_rotary_factor {partial} is not supported")
    kind = rope.text("rope_type") or rope.text("type") or "default"
    if kind in ("default", "none"):
        return theta, None
    if kind not in ROPE_TYPES:
        raise Unsupported(f"{name}: RoPE scaling {kind!r:.60} is not supported; supported: {', '.join(ROPE_TYPES)}")
    return theta, _hf_scaling(fields, rope, kind)


def _hf_scaling(fields: Fields, rope: Fields, kind: str) -> Mapping[str, Any]:
    """A RoPE scaling in its one form, with what configs leave out filled in."""
    limit = fields.whole("max_position_embeddings", high=MOST_CONTEXT)
    original = fields.whole("original_max_position_embeddings", limit, high=MOST_CONTEXT)
    original = rope.whole("original_max_position_embeddings", original, high=MOST_CONTEXT)
    scaling: dict[str, Any] = {"rope_type": kind, "original_max_position_embeddings": original}
    scaling["factor"] = rope.number("factor", limit / original if kind == "yarn" else None, high=1e6)
    if kind == "llama3":
        low, high = rope.number("low_freq_factor", high=1e6), rope.number("high_freq_factor", high=1e6)
        if low == high:
            raise rope.wrong("high_freq_factor", "another number than low_freq_factor", high)
        scaling |= {"low_freq_factor": low, "high_freq_factor": high}
    if kind == "yarn":
        numbers = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
        scaling |= {key: rope.number(key, low=-1e-9, high=1e6) for key in numbers if rope.raw.get(key) is not None}
        scaling["truncate"] = rope.flag("truncate", True)
    return scaling


def _hf_experts(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    fields = Fields(raw, name)
    key = "num_experts" if raw.get("num_experts") else "num_local_experts"
    return {
        "num_experts": fields.whole(key, high=MOST_EXPERTS),
        "experts_per_token": fields.whole("num_experts_per_tok", high=MOST_EXPERTS),
        "expert_size": fields.whole("moe_intermediate_size"),
        "normalized_experts": fields.flag("norm_topk_prob"),
        "sparse_step": fields.whole("decoder_sparse_step", 1),
        "dense_layers": tuple(fields.items("mlp_only_layers", int, "layers")),
    }


def _gguf_scaling(metadata: Mapping[str, Any], arch: str, name: str) -> Mapping[str, Any] | None:
    """RoPE scaling of a GGUF file (Llama 3's is not metadata there but a tensor of factors, `rope_freqs`)."""
    fields, prefix = Fields(metadata, name), f"{arch}.rope.scaling."
    kind = fields.text(prefix + "type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ModelLoadError(f"{name}: RoPE scaling {kind!r:.60} is not supported; supported in GGUF: linear, yarn")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": fields.number(prefix + "factor", high=1e6)}
    original = fields.whole(f"{arch}.context_length", high=MOST_CONTEXT)
    original = fields.whole(prefix + "original_context_length", original, high=MOST_CONTEXT)
    scaling["original_max_position_embeddings"] = original
    if metadata.get(prefix + "attn_factor") is not None:
        scaling["attention_factor"] = fields.number(prefix + "attn_factor", high=1e6)
    return scaling


def _scaled_context(limit: int, scaling: Mapping[str, Any] | None) -> int:
    """Scale the context limit: YaRN configs often give the trained one, and a factor by which it was extended."""
    if scaling is not None and scaling["rope_type"] == "yarn":
        return max(limit, int(scaling["original_max_position_embeddings"] * scaling["factor"]))
    return limit
