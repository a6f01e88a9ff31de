"""How a select decides: the choice methods, pure functions of token log-probabilities.

Knows nothing of where the log-probabilities come from.

The protocol is SGLang's, so a method written for SGLang works here. It has a property
`requires_unconditional_logprobs`, takes these keyword arguments, and returns a `ChoicesDecision`:

- `choices`, and `normalized_prompt_logprobs`: the mean of each choice;
- `input_token_logprobs` and `unconditional_token_logprobs`: of each choice a list of rows (logprob, token id, text);
- `output_token_logprobs`: of each choice an empty list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .errors import ConstraintError

TokenScores = Sequence[Sequence[Any]]
"""One choice: (logprob, token id, text) a token; a logprob of None is unknown (a first token without context)."""


@dataclass(frozen=True)
class ChoicesDecision:
    """What a choice method returns.

    Args:
        decision: the chosen text.
        meta_info: what to show of how it was chosen, in `s.get_meta_info(name)`; default none.
        scores: one number for each choice; default none. A select with a temperature draws by them. Not NaN and not
            infinity; minus infinity is never drawn.

    Example:
        >>> import sgl
        >>> scores = {"normalized_prompt_logprobs": [-2.0, -1.0]}
        >>> sgl.token_length_normalized(choices=["a", "b"], **scores).decision
        'b'
    """

    decision: str
    meta_info: dict[str, Any] | None = None
    scores: Sequence[float] | None = field(default=None)


@runtime_checkable
class ChoiceMethod(Protocol):
    @property
    def requires_unconditional_logprobs(self) -> bool: ...

    def __call__(
        self,
        *,
        choices: Sequence[str],
        normalized_prompt_logprobs: Sequence[float],
        input_token_logprobs: Sequence[TokenScores],
        output_token_logprobs: Sequence[TokenScores],
        unconditional_token_logprobs: Sequence[TokenScores] | None = None,
    ) -> ChoicesDecision: ...


def check_decision(where: str, decision: object, choices: Sequence[str]) -> ChoicesDecision:
    """Check what a choice method returned: user code, whose mistakes are its select's error.

    Raises `ConstraintError` for another type, for a text that is none of the choices, and for scores that are not one
    number for each choice. A score may be minus infinity, which is never drawn, unless all are.
    """
    if not isinstance(decision, ChoicesDecision):
        raise ConstraintError(f"{where}: the choice method returned {decision!r:.60}; it must return a ChoicesDecision")
    chosen, scores = decision.decision, decision.scores
    if not isinstance(chosen, str) or chosen not in choices:
        raise ConstraintError(
            f"{where}: the choice method decided {chosen!r:.200}, which is not one of the choices {choices!r:.200}"
        )
    if decision.meta_info is not None and not isinstance(decision.meta_info, Mapping):
        raise ConstraintError(
            f"{where}: the choice method's meta_info must be a mapping or None, got {decision.meta_info!r:.60}"
        )
    if scores is None:
        return decision
    try:
        found = [float(score) for score in scores]
    except (TypeError, ValueError, OverflowError) as error:
        raise ConstraintError(f"{where}: the choice method's scores must be a list of numbers: {error}") from None
    if len(found) != len(choices):
        raise ConstraintError(
            f"{where}: the choice method gave {len(found)} scores for {len(choices)} choices; it must give one for each"
        )
    if any(math.isnan(score) or score == math.inf for score in found) or max(found) == -math.inf:
        raise ConstraintError(
            f"{where}: the choice method's scores must be numbers below infinity, and one of them above minus "
            f"infinity; got {found!r:.200}"
        )
    return decision


def logprobs_of(tokens: TokenScores) -> list[float]:
    """The log-probabilities of one choice. An unknown one counts 0."""
    return [0.0 if token[0] is None else float(token[0]) for token in tokens]


def _decide(choices: Sequence[str], scores: Sequence[float], **meta: Any) -> ChoicesDecision:
    return ChoicesDecision(choices[int(np.argmax(scores))], meta, list(scores))  # first of equals


class _Method:
    """A choice method with a name; instances are the public callables."""

    requires_unconditional_logprobs = False

    def __repr__(self) -> str:
        return type(self).__name__.lstrip("_")


class _TokenLengthNormalized(_Method):
    """The highest mean log-probability of its tokens. Short and long choices compete on equal terms."""

    def __call__(
        self, *, choices: Sequence[str], normalized_prompt_logprobs: Sequence[float], **_: Any
    ) -> ChoicesDecision:
        return _decide(choices, normalized_prompt_logprobs)


class _SequenceLikelihood(_Method):
    """The highest log-likelihood: the sum over the choice's tokens, so what the model finds most probable."""

    def __call__(
        self, *, choices: Sequence[str], input_token_logprobs: Sequence[TokenScores], **_: Any
    ) -> ChoicesDecision:
        return _decide(choices, [sum(logprobs_of(tokens)) for tokens in input_token_logprobs])


class _GreedyTokenSelection(_Method):
    """Token by token, the choices with the best token stay; a shorter choice is extended with its own mean.

    So a choice wins that greedy decoding would pick, and a prefix of another choice competes to the end.
    """

    def __call__(
        self, *, choices: Sequence[str], input_token_logprobs: Sequence[TokenScores], **_: Any
    ) -> ChoicesDecision:
        rows = [logprobs_of(tokens) for tokens in input_token_logprobs]
        width = max(len(row) for row in rows)
        matrix = np.array([row + [sum(row) / len(row)] * (width - len(row)) for row in rows])
        alive = np.arange(len(choices))
        for column in matrix.T:
            alive = alive[column[alive] == column[alive].max()]
            if len(alive) == 1:
                break
        winner = int(alive[0])
        return ChoicesDecision(choices[winner], {"greedy_logprob_matrix": matrix.tolist()})


class _UnconditionalLikelihoodNormalized(_Method):
    """The highest mean of log-probability here minus log-probability without the context (Holtzman et al. 2021).

    The first token without a context has no probability and counts 0.
    """

    requires_unconditional_logprobs = True

    def __call__(
        self,
        *,
        choices: Sequence[str],
        input_token_logprobs: Sequence[TokenScores],
        unconditional_token_logprobs: Sequence[TokenScores] | None = None,
        **_: Any,
    ) -> ChoicesDecision:
        assert unconditional_token_logprobs is not None, "the backend must score the choices alone too"
        scores = []
        for here, alone in zip(input_token_logprobs, unconditional_token_logprobs):
            a, b = logprobs_of(here), logprobs_of(alone)
            scores.append(sum(a) / len(a) - sum(b) / len(b))
        return _decide(
            choices,
            scores,
            normalized_unconditional_prompt_logprobs=scores,
            unconditional_token_logprobs=[[list(row) for row in t] for t in unconditional_token_logprobs],
        )


token_length_normalized = _TokenLengthNormalized()
"""Choice method: the highest mean log-probability of its tokens (the default)."""
sequence_likelihood = _SequenceLikelihood()
"""Choice method: the highest sum of log-probabilities."""
greedy_token_selection = _GreedyTokenSelection()
"""Choice method: what greedy decoding would pick, token by token."""
unconditional_likelihood_normalized = _UnconditionalLikelihoodNormalized()
"""Choice method: the highest mean gain over the choice's log-probability without the context."""
