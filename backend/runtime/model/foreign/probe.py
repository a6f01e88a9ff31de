"""What attention a transformers model computes, found by running it; and the proof that ours is the same.

Owns: the names of our functions in transformers' attention and mask interfaces, how a layer's shape is read from one
real call, and the comparison with the model's own attention. Knows nothing of slots or of steps.

A model's source is its only full description, and there are hundreds of models. So there is no list of architectures.
A mask is the function that transformers would have drawn it with, evaluated at a few positions. A model with an unknown
argument is refused. State outside attention, biases and other positions show in a trial: then a step of interleaved
branches does not give the logits of one plain text.

Legend: T rows of a text, Q query heads, H KV heads, D head dim, R rows and L keys of a mask, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .....lang.errors import ModelLoadError
from ...step.packed import Batch, SpanLayout
from .attention import LayerShape

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = "sgl"
"""The attention of steps. It stands in the attention interface only: transformers then makes no masks at all."""
PROBE = "sgl_probe"
"""The attention that reads what a model asks for. It stands in the mask interface too, to be told the masks."""

SUPPORTED = (
    "decoder-only text models with causal attention, full or in sliding windows, that goes through transformers' "
    "attention interface (Gemma, Phi-3, OLMo, GPT-NeoX, StableLM, Granite, Cohere, Mixtral, Qwen-MoE, ...)"
)

_HARMLESS = frozenset({
    "dropout", "scaling", "sliding_window", "softcap", "position_ids", "cache_position", "use_cache", "return_dict",
    "output_attentions", "output_hidden_states", "output_router_logits", "logits_to_keep",
})  # fmt: skip
_TEXT_TOKENS = 16
"""Length of the text that is compared."""


def register() -> None:
    """Name our functions in transformers' interfaces. The functions hold no state, so a second call does no harm."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(STEP, _through)
    AttentionInterface.register(PROBE, _through)
    AttentionMaskInterface.register(PROBE, _read_mask)


def _through(
    module: torch.nn.Module,
    query_1QTD: torch.Tensor,
    key_1HTD: torch.Tensor,
    value_1HTD: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, with what `attend_through` put on the module; [1, T, Q, D]."""
    attend: Any = module.sgl_attend
    return attend(module, query_1QTD, key_1HTD, value_1HTD, attention_mask, options), None


def attend_through(network: torch.nn.Module, attend: Callable[..., torch.Tensor]) -> None:
    """Have every layer of the model call `attend(module, query, key, value, mask, options)`."""
    for module in network.modules():
        object.__setattr__(module, "sgl_attend", attend)


@dataclass(frozen=True, slots=True)
class _MaskPattern:
    """Stands for a mask. `causal`: a row sees the rows up to itself, `window` of them; False: it is something else."""

    causal: bool
    window: int | None = None


def _read_mask(*, mask_function: Callable[..., torch.Tensor], **options: Any) -> _MaskPattern:
    """Read the function that draws a mask: evaluate it at a few positions instead of drawing."""
    size = options.get("local_size")
    near = [0, 1, 7] if size is None else [0, size - 1, size, size + 1, 3 * size + 5]
    keys = range(41) if size is None else range(3 * size + 47)
    far = 1 << 20
    device = options.get("device", "cpu")
    q_R1 = torch.tensor([*near, far], device=device)[:, None]
    k_1L = torch.tensor([*keys, far - 1, far, far + 1], device=device)[None]
    if size is not None:
        k_1L = torch.cat((k_1L, far - size + torch.arange(-2, 3, device=device)[None]), dim=1)
    zero = torch.zeros((), dtype=torch.long, device=device)
    try:
        seen_RL = mask_function(zero, zero, q_R1, k_1L).expand(q_R1.shape[0], k_1L.shape[1])
    except (RuntimeError, IndexError):  # it looks at something else than the two positions
        return _MaskPattern(causal=False)
    expected_RL = k_1L <= q_R1
    if size is not None:
        expected_RL = expected_RL & (k_1L > q_R1 - size)
    return _MaskPattern(bool((seen_RL == expected_RL).all()), size)


class AttentionRecorder:
    """Stands in for attention in one forward: records what each call is, and returns zeros."""

    def __init__(self, name: str) -> None:
        self.layers: list[LayerShape] = []
        self._name = name

    def __call__(
        self,
        module: torch.nn.Module,
        query_1QTD: torch.Tensor,
        key_1HTD: torch.Tensor,
        value_1HTD: torch.Tensor,
        mask: Any,
        options: dict[str, Any],
    ) -> torch.Tensor:
        which = f"attention {len(self.layers)} ({type(module).__name__})"
        if not isinstance(mask, _MaskPattern):
            raise self._refuse(f"{which} does not take its mask from transformers' mask interface")
        if not mask.causal or options.get("is_causal") is False:
            raise self._refuse(f"{which} is neither causal nor a sliding window (bidirectional, chunked or sparse)")
        if options.get("s_aux") is not None:
            raise self._refuse(f"{which} has attention sinks")
        known = _HARMLESS | {"is_causal"}
        if unknown := sorted(key for key, value in options.items() if value is not None and key not in known):
            raise self._refuse(f"{which} is given {', '.join(unknown)}, which is not known")
        batch, heads, rows, dim = query_1QTD.shape
        kv_heads = key_1HTD.shape[1]
        if batch != 1 or key_1HTD.shape[2] != rows or value_1HTD.shape[1:3] != key_1HTD.shape[1:3] or heads % kv_heads:
            raise self._refuse(f"{which} is not attention of a text to itself")
        scaling = options.get("scaling")
        self.layers.append(
            LayerShape(
                query_heads=heads,
                kv_heads=kv_heads,
                head_dim=max(dim, value_1HTD.shape[3]),
                scaling=dim**-0.5 if scaling is None else float(scaling),
                window=mask.window,
                softcap=options.get("softcap"),
            )
        )
        return query_1QTD.new_zeros((1, rows, heads, value_1HTD.shape[3]))

    def _refuse(self, what: str) -> ModelLoadError:
        return ModelLoadError(f"{self._name}: {what}; supported: {SUPPORTED}")


def probe_tokens(vocab_size: int, count: int = _TEXT_TOKENS) -> list[int]:
    """Choose token ids; not the first ones, which are often special."""
    return [(11 + 37 * i * (i + 3)) % vocab_size for i in range(count)]


def interleaved(tokens: list[int]) -> tuple[Batch, list[int]]:
    """Make a step that holds the text as spans of one row, each beside a row of another branch; and the text's rows."""
    total = 2 * len(tokens)
    spans = []
    for i in range(len(tokens)):
        context = tuple((2 * j, 1) for j in range(i))
        spans += [SpanLayout(2 * i, 1, context, i), SpanLayout(2 * i + 1, 1, context, i)]
    rows = np.arange(total, dtype=np.int64)
    mixed = np.repeat(np.array(tokens, dtype=np.int64), 2)
    mixed[1::2] = mixed[0::2][::-1]
    return Batch(mixed, rows // 2, rows, spans, rows), list(range(0, total, 2))


def compare(ours_TV: torch.Tensor, own_TV: torch.Tensor, name: str) -> None:
    """Raise `ModelLoadError` unless the two are the same logits but for rounding.

    The median row decides: in 16 bits, rounding may send one row of a mixture of experts to another expert.
    """
    dtype = own_TV.dtype
    ours_TV, own_TV = ours_TV.float(), own_TV.float()
    if not bool(own_TV.isfinite().all()):
        raise ModelLoadError(f"{name}: its logits are not finite in {dtype}; use dtype='bfloat16' or 'float32'")
    scale_T = (own_TV - own_TV.mean(dim=1, keepdim=True)).norm(dim=1).clamp_min(1e-6)
    error = float(((ours_TV - own_TV).norm(dim=1) / scale_T).median())
    if not error < (0.02 if dtype == torch.float32 else 0.2):
        raise ModelLoadError(
            f"{name}: run as a batch of branches it gives other logits than by itself (off by {error:.0%}): it keeps "
            f"state outside attention, or takes positions from elsewhere; supported: {SUPPORTED}"
        )
