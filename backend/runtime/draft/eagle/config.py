"""`HeadConfig`: the shape of an EAGLE-3 head, read from and written to the `config.json` that SpecForge gives a head.

Owns: the fields of that file, which of them change what is computed, and whether a head fits a model. Knows nothing of
tensors. A field that would change the computation and is not obeyed here is refused by name.

Source: Li et al., EAGLE-3 (arXiv 2503.01840); the file's layout is that of SpecForge's published heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .....lang.errors import ModelLoadError
from ...model.load.config import ModelConfig
from ...model.load.fields import Fields

ARCHITECTURES = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM")
_LLAMA = "LlamaForCausalLM"
_REFUSED = {
    "attention_bias": False, "mlp_bias": False, "norm_before_fc": False, "logit_scale": 1.0, "parallel_drafting": False,
    "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
"""Fields that change what is computed, each with the only value that is obeyed."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The shape of a head.

    `shape` has the sizes of its one layer, with the vocabulary of the target. `feature_layers`: after how many layers
    of the target its residual stream is a feature (three numbers); None: 2, half and all but three. `fc_norm`: each
    feature is normed before it is fused. `norm_output`: the next step reads the normed output, not the plain one.
    `norm_before_residual`: the residual stream begins with the normed feature. `target` says which model the head was
    trained for; empty in heads that do not say it.
    """

    shape: ModelConfig
    draft_vocab_size: int
    feature_layers: tuple[int, int, int] | None = None
    fc_norm: bool = False
    norm_output: bool = False
    norm_before_residual: bool = False
    target: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], name: str) -> HeadConfig:
        """Read a parsed `config.json`; `name` is the file. Raises `ModelLoadError` that names the field."""
        fields = Fields(raw, name)
        declared = fields.items("architectures", str, "names")
        if not set(declared) & set(ARCHITECTURES):
            raise ModelLoadError(
                f"{name}: the field 'architectures' is {declared}, not {ARCHITECTURES[0]!r}: this is no EAGLE-3 head; "
                "name the folder of a draft head, not of a model"
            )
        if (layers := fields.whole("num_hidden_layers", 1)) != 1:
            raise ModelLoadError(f"{name}: the field 'num_hidden_layers' is {layers}; heads of one layer are supported")
        eagle = fields.mapping("eagle_config")
        for key, obeyed in _REFUSED.items():
            for where in (raw, eagle):
                if where.get(key) not in (None, obeyed):
                    raise ModelLoadError(
                        f"{name}: the field {key!r} is {where[key]!r:.60}; only {obeyed!r} is supported; use another "
                        "head"
                    )
        hidden = fields.whole("hidden_size")
        if (of_target := fields.whole("target_hidden_size", hidden)) != hidden:
            raise ModelLoadError(
                f"{name}: 'target_hidden_size' is {of_target} and 'hidden_size' {hidden}; a head as wide as its "
                "target is supported"
            )
        shape = ModelConfig.from_hf({**raw, "architectures": [_LLAMA], "tie_word_embeddings": False}, name)
        return cls(
            shape=shape,
            draft_vocab_size=fields.whole("draft_vocab_size", shape.vocab_size, high=shape.vocab_size),
            feature_layers=_feature_layers(raw, eagle, name),
            fc_norm=fields.flag("fc_norm"),
            norm_output=fields.flag("norm_output"),
            norm_before_residual=fields.flag("norm_before_residual"),
            target=fields.mapping("target"),
        )

    def to_json(self) -> dict[str, Any]:
        """The `config.json` of the head."""
        shape = self.shape
        written: dict[str, Any] = {
            "architectures": [ARCHITECTURES[0]],
            "model_type": "llama",
            "num_hidden_layers": 1,
            "vocab_size": shape.vocab_size,
            "draft_vocab_size": self.draft_vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": shape.rms_norm_eps,
            "max_position_embeddings": shape.max_position_embeddings,
            "rope_theta": shape.rope_theta,
            "tie_word_embeddings": False,
            "fc_norm": self.fc_norm,
            "norm_output": self.norm_output,
            "norm_before_residual": self.norm_before_residual,
        }
        if shape.rope_scaling is not None:
            written["rope_scaling"] = dict(shape.rope_scaling)
        if self.feature_layers is not None:
            outputs = [layers - 1 for layers in self.feature_layers]  # SpecForge counts the layer that was last
            written["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": outputs, "use_aux_hidden_state": True}
        if self.target:
            written["target"] = dict(self.target)
        return written

    def features_of(self, layers: int) -> tuple[int, int, int]:
        """After how many of a target's `layers` layers its residual stream is taken."""
        if self.feature_layers is not None:
            return self.feature_layers
        return default_features(layers)

    def check_target(self, model: ModelConfig, head: str, name: str) -> None:
        """Raise `ModelLoadError` unless the head `head` was made for a model of this shape, whose name is `name`."""
        said = self.target.get("num_hidden_layers")
        facts = {
            "hidden_size": (self.shape.hidden_size, model.hidden_size),
            "vocab_size": (self.shape.vocab_size, model.vocab_size),
            "num_hidden_layers": (model.num_layers if said is None else said, model.num_layers),
        }
        for key, (mine, theirs) in facts.items():
            if mine != theirs:
                raise ModelLoadError(
                    f"{head}: {key!r} of its target is {mine}, and that of {name} is {theirs}: the head was trained "
                    f"for another model{self._whose()}; train one with `sgl draft train --model {name}`"
                )
        if max(self.features_of(model.num_layers)) > model.num_layers:
            raise ModelLoadError(
                f"{head}: 'eagle_aux_hidden_state_layer_ids' names a layer that {name} lacks (it has "
                f"{model.num_layers}): the head was trained for another model{self._whose()}"
            )

    def _whose(self) -> str:
        return f" ({self.target['name']})" if isinstance(self.target.get("name"), str) else ""


def default_features(layers: int) -> tuple[int, int, int]:
    """After 2, half and all but three of `layers` layers. Raises `ModelLoadError` where there are too few."""
    if layers < 2:
        raise ModelLoadError(f"a model of {layers} layer has no features for an EAGLE-3 head; it needs 2 or more")
    return min(2, layers - 1), max(1, layers // 2), max(1, layers - 3)


def _feature_layers(raw: Mapping[str, Any], eagle: Mapping[str, Any], name: str) -> tuple[int, int, int] | None:
    """Read where features lie. In `eagle_config` an id is the layer before (SpecForge, SGLang); at the top the layer
    after (vLLM)."""
    key = "eagle_aux_hidden_state_layer_ids"
    for where, offset in ((eagle, 1), (raw, 0)):
        ids = Fields(where, name).items(key, int, "layers")
        if ids:
            if len(ids) != 3 or min(ids) + offset < 0 or max(ids) > 10_000:
                raise ModelLoadError(f"{name}: the field {key!r} must be three layers, not {ids!r:.60}")
            first, second, third = (i + offset for i in ids)
            return first, second, third
    return None
