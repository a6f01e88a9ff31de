"""`EngineOptions`: the runtime's configuration, one frozen value that is resolved once; and the checks of its options.

Knows nothing of models or of engines. What each option means to a user stands at `Runtime`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...lang.advice import log as advice_log
from ...lang.chat import CHATML, ChatTemplate
from ...lang.errors import NotYet, OptionError, suggest

log = logging.getLogger("sgl")


DRAFT_TOKENS = 24
"""Tokens of the longest draft, if nothing is said."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Concrete values of `Runtime`'s options: "auto" and None are resolved before. Each comment names the option."""

    context_length: int
    pool_tokens: int  # max_total_tokens
    step_tokens: int  # chunked_prefill_size
    max_running: int  # max_running_requests
    reuse: bool = True  # not disable_radix_cache
    seed: int = 0  # random_seed
    grammar_backend: str = "auto"
    attention_backend: str = "auto"
    cuda_graph_max_bs: int = 0  # 0: nothing is captured
    overlap: bool = False  # not disable_overlap_schedule, on a device
    draft_tokens: int = DRAFT_TOKENS  # speculative_num_draft_tokens; 0: nothing is drafted
    chain_drafts: int = 0  # speculative_num_steps; 0: neither a head nor a draft model drafts


_NOT_YET: dict[str, object] = {
    "kv_cache_dtype": "auto",
    "tp_size": 1,
}
"""Options of the public contract that this version does not carry out, with the value that asks for nothing."""

OF_A_SERVER = frozenset(
    (
        *("port", "host", "launch_timeout", "api_key", "tokenizer_path", "tokenizer_mode", "trust_remote_code"),
        *("served_model_name", "log_requests", "enable_metrics", "skip_server_warmup", "dist_init_addr", "nnodes"),
    )
)
"""Options of SGLang that only a server, or other code than sgl's, has."""
MOST_STEP_TOKENS = 1 << 20
MOST_BRANCHES = 1 << 16
"""Bounds of `chunked_prefill_size` and `max_running_requests`: arrays of these sizes are kept."""
DRAFT_ALGORITHMS = ("NGRAM", "STANDALONE", "EAGLE3")
CHAIN_ALGORITHMS = DRAFT_ALGORITHMS[1:]
"""Ways to draft with a model: a chain of tokens, one after the other."""
LATER_DRAFT_ALGORITHMS = ("EAGLE", "NEXTN")
CHAIN_DRAFTS, MOST_CHAIN_DRAFTS = 4, 15
"""Drafts of the longest chain: if nothing is said, and at most."""
MOST_DRAFT_TOKENS = 64
ATTENTION_BACKENDS = ("auto", "triton", "flashinfer", "torch")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def refuse_unsupported(others: dict[str, object], known: Iterable[str]) -> None:
    """Raise `OptionError` for an option that is not one of `known`, `NotYet` for one of a later version."""
    for name, value in others.items():
        if name in OF_A_SERVER:
            raise OptionError(f"Runtime({name}=...) is an option of SGLang's server, and here is none; leave it out")
        if name not in _NOT_YET:
            raise OptionError(f"Runtime has no option {name!r}{suggest(name, (*known, *_NOT_YET))}")
        if value != _NOT_YET[name]:
            raise NotYet(f"Runtime({name}={value!r}) is not supported by this version of sgl yet; leave it out")


def check_attention(asked: str, device: str) -> None:
    """Raise `OptionError` for an attention backend that does not exist, or not on this device."""
    if asked not in ATTENTION_BACKENDS:
        hint = suggest(str(asked), ATTENTION_BACKENDS)
        raise OptionError(f"attention_backend must be one of {', '.join(ATTENTION_BACKENDS)}, got {asked!r}{hint}")
    if device == "cpu" and asked not in ("auto", "torch"):
        raise OptionError(f"attention_backend={asked!r} needs a GPU; on the CPU use 'auto' or 'torch'")


def check_drafts(
    algorithm: str | None, steps: int | None, topk: int | None, tokens: int | None, path: object
) -> tuple[int, int]:
    """Check the options of speculation, of which `path` is that of a head or a draft model; the tokens of the longest
    draft, and those of a model's longest chain. Raises `OptionError`, and `NotYet` for a way to draft of a later
    version."""
    if algorithm in LATER_DRAFT_ALGORITHMS:
        raise NotYet(
            f"Runtime(speculative_algorithm={algorithm!r}) is not supported by this version of sgl yet; use 'EAGLE3' "
            "with a head, 'STANDALONE' with a smaller model, or leave it out: tokens are drafted from what was written "
            "before, without a model"
        )
    if algorithm is not None and algorithm not in DRAFT_ALGORITHMS:
        hint = suggest(str(algorithm), (*DRAFT_ALGORITHMS, *LATER_DRAFT_ALGORITHMS))
        known = ", ".join(map(repr, DRAFT_ALGORITHMS))
        raise OptionError(f"speculative_algorithm must be None or one of {known}, got {algorithm!r:.60}{hint}")
    if topk not in (None, 1):
        raise OptionError(
            f"speculative_eagle_topk={topk!r:.60}: a draft is a chain of tokens, so it must be 1; leave it out"
        )
    if algorithm in CHAIN_ALGORITHMS:
        return DRAFT_TOKENS, _chain_drafts(steps, tokens)
    for option, value in (("speculative_num_steps", steps), ("speculative_draft_model_path", path)):
        if value is not None:
            raise OptionError(
                f"{option}={value!r:.60} is of a head or a draft model; say speculative_algorithm='EAGLE3' or "
                "'STANDALONE', or leave it out"
            )
    return draft_tokens(tokens), 0


def _chain_drafts(steps: int | None, tokens: int | None) -> int:
    """`speculative_num_steps`. A round's tokens, if they are given, are one more: the model's own."""
    if tokens is None:
        return positive("speculative_num_steps", steps, CHAIN_DRAFTS, MOST_CHAIN_DRAFTS)
    tokens = positive("speculative_num_draft_tokens", tokens, 0, MOST_CHAIN_DRAFTS + 1)
    steps = positive("speculative_num_steps", tokens - 1 if steps is None else steps, 0, MOST_CHAIN_DRAFTS)
    if tokens != steps + 1:
        raise OptionError(
            f"speculative_num_draft_tokens={tokens} and speculative_num_steps={steps} contradict each other: with a "
            f"head or a draft model a round has {steps} drafts and the model's own token, {steps + 1}; leave one of "
            "them out"
        )
    return steps


def draft_tokens(asked: int | None) -> int:
    """`speculative_num_draft_tokens`: tokens of the longest draft; 0 drafts nothing."""
    if asked == 0 and not isinstance(asked, bool):
        return 0
    return positive("speculative_num_draft_tokens", asked, DRAFT_TOKENS, MOST_DRAFT_TOKENS)


def positive(option: str, value: int | None, default: int, most: int | None = None) -> int:
    """The option's value, or its default for None. Raises `OptionError` unless it is a whole number in 1 .. `most`."""
    if value is None:
        return default
    if isinstance(value, bool) or not hasattr(value, "__index__") or (number := value.__index__()) < 1:
        raise OptionError(f"{option} must be a whole number of at least 1, got {value!r:.60}")
    if most is not None and number > most:
        raise OptionError(f"{option} must be at most {most:,}, got {value!r:.60}")
    return number


def flag(option: str, value: bool) -> bool:
    """The option's value. Raises `OptionError` unless it is True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{option} must be True or False, got {value!r:.60}")
    return value


def seed_of(asked: int | None) -> int:
    """`random_seed`; a random one for None."""
    if asked is None:
        return secrets.randbits(63)
    if isinstance(asked, bool) or not hasattr(asked, "__index__") or not -(2**63) <= asked.__index__() < 2**64:
        raise OptionError(f"random_seed must be a whole number of 64 bits, got {asked!r:.60}")
    return asked.__index__()


def context_of(asked: int | None, model: int) -> int:
    """`context_length`, at most the model's, which is its default."""
    context = positive("context_length", asked, model)
    if context > model:
        raise OptionError(f"context_length={context} is more than the model's {model}")
    return context


def template_of(asked: str | None, own: ChatTemplate | None) -> ChatTemplate | None:
    """`chat_template`: None (the model's own), "chatml", a file, or the template's text."""
    if asked is None:
        return own
    if asked == "chatml":
        source = CHATML
    elif "{" in asked:
        source = asked
    elif (file := Path(asked).expanduser()).is_file():
        source = file.read_text(encoding="utf-8")
    else:
        raise OptionError(f"chat_template={asked!r} is neither 'chatml', nor a file, nor a Jinja template")
    return ChatTemplate(
        source, name="chat_template=", bos_token=own.bos_token if own else "", eos_token=own.eos_token if own else ""
    )


def show_log(level: str) -> None:
    """Let the log of `sgl` say as much; on stderr, unless the program has set up logging itself."""
    if not isinstance(level, str) or level.lower() not in LOG_LEVELS:
        hint = suggest(str(level), LOG_LEVELS)
        raise OptionError(f"log_level must be debug, info, warning, error or critical, got {level!r}{hint}")
    log.setLevel(level.upper())
    advice_log.setLevel("CRITICAL" if level.lower() == "critical" else "WARNING")  # said once, so it is always worth it
    if log.isEnabledFor(logging.INFO) and not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s] sgl: %(message)s", datefmt="%H:%M:%S"))
        log.addHandler(handler)
