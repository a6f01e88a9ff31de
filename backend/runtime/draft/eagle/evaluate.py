"""How many tokens a round a head brings: measured on texts that the model wrote greedily.

Owns: `acceptance`, which plays rounds of drafting and verifying over a finished text. Knows nothing of the engine.

A round drafts a chain after the last known token, and ends with one token of the model's own. Its drafts are accepted
as long as they are the text's own tokens. So what each position would draft is computed once, for all positions
together (`unroll`), and rounds of any length are counted on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .conversations import Dialogue, pack
from .head import Eagle3Head
from .target import Target, visible
from .unroll import Unroller

CHAINS = (2, 3, 4, 5)
"""Lengths of chains that are measured."""


@dataclass(frozen=True)
class Acceptance:
    """`a_round[k]`: tokens a round with chains of k drafts, the model's own token included. `right[s]`: which share of
    the texts' tokens step s guesses. `tokens`: how many tokens were measured."""

    a_round: dict[int, float]
    right: tuple[float, ...]
    tokens: int


@torch.no_grad()
def acceptance(
    head: Eagle3Head,
    target: Target,
    conversations: Sequence[Dialogue],
    chains: Sequence[int] = CHAINS,
    first: int | None = None,
) -> Acceptance:
    """Measure a head on conversations whose written spans are greedy.

    `first`: of each conversation's first answer so many tokens alone are measured. Long greedy answers of small models
    repeat themselves, which heads guess well; default: all of every answer.
    """
    ids = head.draft_ids()
    after = head.config.features_of(target.config.num_layers)
    most = max(chains)
    rounds, produced = dict.fromkeys(chains, 0), dict.fromkeys(chains, 0)
    right, counted = np.zeros(most), np.zeros(most)
    unroller = Unroller()
    for whole in conversations:
        each = whole if first is None else _begun(whole, first)
        rows = pack([each], len(each.tokens))
        tokens, segments = rows.tokens.to(target.device), rows.segments.to(target.device)
        seen = target.see(tokens, segments, torch.zeros_like(rows.written).to(target.device), after)
        with torch.autocast(target.device.type, torch.bfloat16, enabled=target.dtype == torch.bfloat16):
            steps = unroller.steps(head, target.embed_VE, tokens, visible(segments), seen.features, most)
            guesses = torch.stack([ids[head.lm_head(normed[0]).argmax(-1)] for normed in steps])
        hits = _hits(guesses.cpu().numpy(), each.tokens)
        for begin, end in each.written:
            for step in range(most):
                right[step] += hits[step, begin - 1 : max(begin - 1, end - 2 - step)].sum()
                counted[step] += max(0, end - begin - 1 - step)
            for drafts in chains:
                turns, known = play(hits[:drafts], begin, end)
                rounds[drafts] += turns
                produced[drafts] += known
    return Acceptance(
        {drafts: produced[drafts] / max(1, rounds[drafts]) for drafts in chains},
        tuple(float(x) for x in right / np.maximum(1, counted)),
        int(counted[0]),
    )


def play(hits_SP: npt.NDArray[np.bool_], begin: int, end: int) -> tuple[int, int]:
    """Count rounds over the text `begin .. end - 1`, whose first token is known: (rounds, tokens).

    `hits_SP[s, p]`: whether step s at position p guesses token p + 2 + s.
    """
    leading = np.cumprod(hits_SP, 0).sum(0)
    known, rounds = begin, 0
    while known < end - 1:
        known += min(int(leading[known - 1]) + 1, end - 1 - known)
        rounds += 1
    return rounds, max(0, end - 1 - begin)


def _begun(conversation: Dialogue, first: int) -> Dialogue:
    begin, end = conversation.written[0]
    end = min(end, begin + first)
    return Dialogue(conversation.tokens[:end], ((begin, end),))


def _hits(guesses_SL: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    hits = np.zeros((len(guesses_SL), len(tokens)), np.bool_)
    for step, guesses in enumerate(guesses_SL):
        count = len(tokens) - 2 - step
        if count > 0:
            hits[step, :count] = guesses[:count] == tokens[2 + step :]
    return hits
