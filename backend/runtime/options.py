"""The runtime's configuration: one frozen value, resolved once.

Owns: every option the engine reads, its check and its default. `Runtime` builds it from what the user wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...lang.errors import NotYet, OptionError, suggest


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Concrete values ("auto" is resolved before). Units: tokens, unless said otherwise."""

    context_length: int
    pool_tokens: int
    """Token slots of KV in all."""
    step_tokens: int
    """Most rows of one forward; longer prompts are computed in chunks (`chunked_prefill_size`)."""
    max_running: int
    """Most branches with a span in one step."""
    reuse: bool = True
    """Match new text against the tree (`disable_radix_cache` turns it off)."""
    seed: int = 0
    """Root of the noise of runs without a seed of their own."""
    grammar_backend: str = "auto"
    """The engine that enforces constraints, where it does so exactly."""
    attention_backend: str = "auto"
    """What computes attention on a GPU."""
    cuda_graph_max_bs: int = 0
    """Most branches of a decoding step that is replayed as a CUDA graph; 0: none is."""
    overlap: bool = False
    """Prepare and launch the next step while one runs (on a device)."""


_NOT_YET: dict[str, object] = {
    "speculative_algorithm": None,
    "speculative_draft_model_path": None,
    "speculative_num_steps": None,
    "speculative_eagle_topk": None,
    "speculative_num_draft_tokens": None,
    "quantization": None,
    "kv_cache_dtype": "auto",
    "tp_size": 1,
}
"""Options of the public contract that this version does not carry out, with the value that asks for nothing."""

KNOWN = (
    "device",
    "dtype",
    "load_format",
    "context_length",
    "mem_fraction_static",
    "max_total_tokens",
    "max_running_requests",
    "chunked_prefill_size",
    "disable_radix_cache",
    "grammar_backend",
    "random_seed",
    "chat_template",
    "log_level",
    "attention_backend",
    "cuda_graph_max_bs",
    "disable_cuda_graph",
    "disable_overlap_schedule",
)

ATTENTION_BACKENDS = ("auto", "triton", "flashinfer", "torch")


def check_attention(asked: str, device: str) -> None:
    """Raise `OptionError` for an attention backend that does not exist, or not on this device."""
    if asked not in ATTENTION_BACKENDS:
        raise OptionError(f"attention_backend must be one of {', '.join(ATTENTION_BACKENDS)}, got {asked!r}")
    if device == "cpu" and asked not in ("auto", "torch"):
        raise OptionError(f"attention_backend={asked!r} needs a GPU; on the CPU use 'auto' or 'torch'")


def refuse_unsupported(others: dict[str, object]) -> None:
    """Raise `OptionError` for an unknown option and `NotYet` for one that cannot be carried out."""
    for name, value in others.items():
        if name in _NOT_YET:
            if value != _NOT_YET[name]:
                raise NotYet(f"Runtime({name}={value!r}) is not supported by this version of sgl yet; leave it out")
        else:
            raise OptionError(f"Runtime has no option {name!r}{suggest(name, (*KNOWN, *_NOT_YET))}")
