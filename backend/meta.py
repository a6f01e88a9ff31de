"""`get_meta_info`: a finished gen or select as a plain dict with SGLang's keys. Knows nothing of programs.

A token's log-probability is `[logprob, token id, text]`; the top alternatives of a position are a list of those lists.
Keys of log-probabilities are there when they were asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .base import GenResult, ScoreResult, TokenLogprob, Usage

_serial = itertools.count(1)


def call_id(kind: str) -> str:
    """A name for one call, unique in this process."""
    return f"{kind}-{next(_serial)}"


def of_gen(id: str, result: GenResult) -> dict[str, Any]:
    """The meta information of one sample of a gen."""
    meta = {"id": id, "finish_reason": dict(result.finish_reason) or None, **_counts(result.usage)}
    if result.token_ids:
        meta["completion_tokens"] = len(result.token_ids)
    meta["token_ids"] = list(result.token_ids)
    if result.receipt is not None:
        meta["constraint"] = dict(result.receipt)
    if result.logprobs is not None:
        meta["output_token_logprobs"] = _rows(result.logprobs)
        meta["output_top_logprobs"] = _tops(result.logprobs)
    if result.input_logprobs is not None:
        meta["input_token_logprobs"] = _rows(result.input_logprobs)
        meta["input_top_logprobs"] = _tops(result.input_logprobs)
    return meta


def of_select(id: str, result: ScoreResult) -> dict[str, Any]:
    """The meta information of a select. Log-probabilities are lists with one entry a choice."""
    scores = result.scores.token_logprobs
    meta = {
        "id": id,
        "finish_reason": {"type": "stop", "matched": result.text},
        **_counts(result.usage),
        "decision": result.text,
        "index": result.index,
        "normalized_prompt_logprobs": [_mean(tokens) for tokens in scores],
        "input_token_logprobs": [_rows(tokens) for tokens in scores],
    }
    if result.scores.unconditional is not None:
        meta["unconditional_token_logprobs"] = [_rows(tokens) for tokens in result.scores.unconditional]
    return {**meta, **result.meta}


def _counts(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "cached_tokens": usage.reused,
        "reused": usage.reused,
        "computed": usage.computed,
        "generated": usage.generated,
        "forced": usage.forced,
        "drafted": usage.drafted,
        "accepted": usage.accepted,
        "spec_accept_length": 1 + usage.accepted / max(1, usage.steps),
        "spec_accept_rate": usage.accepted / max(1, usage.drafted),
        "steps": usage.steps,
        "queued": usage.queued,
        "running": usage.running,
    }


def _rows(tokens: Sequence[TokenLogprob]) -> list[list[Any]]:
    return [[t.logprob, t.token_id, t.text] for t in tokens]


def _tops(tokens: Sequence[TokenLogprob]) -> list[list[list[Any]] | None]:
    return [[list(alternative) for alternative in t.top] or None for t in tokens]


def _mean(tokens: Sequence[TokenLogprob]) -> float:
    """Mean log-probability; an unknown one counts 0 (see `lang/choices.py`)."""
    return sum(t.logprob or 0.0 for t in tokens) / len(tokens) if tokens else 0.0
