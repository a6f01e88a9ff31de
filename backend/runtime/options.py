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


_NOT_YET: dict[str, object] = {
    "attention_backend": "auto",
    "speculative_algorithm": None,
    "speculative_draft_model_path": None,
    "speculative_num_steps": None,
    "speculative_eagle_topk": None,
    "speculative_num_draft_tokens": None,
    "cuda_graph_max_bs": None,
    "quantization": None,
    "kv_cache_dtype": "auto",
    "tp_size": 1,
}
"""Options of the public contract that this version does not carry out, with the value that asks for nothing."""

_WITHOUT_EFFECT = ("disable_cuda_graph", "disable_overlap_schedule")
"""They turn off what is not there yet."""

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
)


def refuse_unsupported(others: dict[str, object]) -> None:
    """Raise `OptionError` for an unknown option and `NotYet` for one that cannot be carried out."""
    for name, value in others.items():
        if name in _NOT_YET:
            if value != _NOT_YET[name]:
                raise NotYet(f"Runtime({name}={value!r}) is not supported by this version of sgl yet; leave it out")
        elif name not in _WITHOUT_EFFECT:
            raise OptionError(f"Runtime has no option {name!r}{suggest(name, (*KNOWN, *_NOT_YET, *_WITHOUT_EFFECT))}")
