"""The job of a gen under a constraint: what it commits, how it ends, and what happens to a text that fails its check.

Knows nothing of the grammar itself: its place there is `rule.py`'s, and what all gens share is `gen.py`'s.

1. The tokens that the grammar forces are committed along with the one that was sampled, so they ride in the same span.
2. The text ends where it is complete, and is checked against the original constraint before it is handed over.
3. A text that fails the check is dropped and sampled anew, a few times, if the mask could not enforce everything.
   Nothing of such a gen is streamed before it passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ....lang.checking.check import Mismatch, OutOfRange
from ....lang.errors import ConstraintError, Truncated
from ...base import GenRequest, GenResult
from ..grammar.compile import Prepared
from ..program.branch import Branch
from ..sample.noise import mix
from ..sample.sampler import Request, Sampled
from ..text.stop import StopMatcher
from .gen import GenJob, Samples
from .job import JobContext
from .rule import Rule

DTYPE_STOPS: dict[type | None, tuple[str, ...]] = {int: (" ", "\n"), float: (" ", "\n")}
"""Where a number of `dtype=` may end besides at the end of the text, as in SGLang."""
MOST_ATTEMPTS = 4
"""Samples of a gen whose constraint is partly checked afterwards, before it fails."""
FRESH_TEMPERATURE = 0.8
"""Temperature of the fresh samples of a greedy gen, which would write the same text again."""
LONG_TOKENS = 2048
"""Tokens of a gen without `max_tokens` after which its author is told, once a runtime."""


class ConstrainedGenJob(GenJob):
    """Sample number `index` of a constrained gen, on its branch."""

    constrained = True

    def __init__(
        self,
        branch: Branch,
        request: GenRequest,
        samples: Samples,
        index: int,
        context: JobContext,
        prepared: Prepared,
    ) -> None:
        self.prepared = prepared
        self.partial = request.on_budget == "partial"
        self.complete = True
        self.attempt = 1
        self.forbidden: list[float] = []  # the model's probability of what the mask forbade, a sampled token
        self.value: Any = None
        s, tokenizer = request.sampling, context.tokenizer
        self.ending_stops = (*(s.stop or ()), *DTYPE_STOPS.get(getattr(prepared.constraint, "dtype", None), ()))
        follow = tokenizer.encode([(request.follow, False)], first=False)[:1] if request.follow else []
        ends = () if s.ignore_eos else tokenizer.eos_ids
        self.rule = Rule(
            prepared,
            (*ends, *(s.stop_token_ids or ())),
            follow[0] if follow else None,
            self.ending_stops,
            request.on_budget == "close",
        )
        self.advice = context.advice
        self.long = LONG_TOKENS if s.max_tokens is None else context.context_length  # from here on it is worth a word
        super().__init__(branch, request, samples, index, context)

    # -- the engine's questions
    def may_end(self, more: int = 0) -> bool:
        """Whether the text, and `more` tokens, are as many tokens as were asked for at least."""
        return len(self.tokens) + more >= self.min_tokens

    def look_ahead(self, draft: Sequence[int]) -> None:
        """Compute the masks of the tokens after each one of `draft`; on any thread."""
        self.rule.look_ahead(draft, self.may_end)

    def ask_drafted(self, draft: Sequence[int]) -> list[Request]:
        asks, masks = super().ask_drafted(draft), self.rule.masks_ahead()
        return [asks[0], *(ask._replace(mask=mask, banned=()) for ask, mask in zip(asks[1:], masks))]

    def likely(self) -> tuple[int, ...]:
        """Tokens that the grammar nearly forces: the text is, how it is spelled is not."""
        return self.rule.likely()

    def legal(self, draft: Sequence[int]) -> list[int]:
        return self.rule.legal(super().legal(draft))

    def ask(self) -> Request:
        return Request(self.recipe, self.cursor.length, mask=self.rule.mask(self.may_end()))

    def may_run_ahead(self) -> bool:
        return False  # the next mask depends on the token

    # -- tokens
    def bytes_of(self, token: int) -> bytes:
        return self.prepared.controls.get(token) or super().bytes_of(token)

    def begin(self) -> None:
        """Commit what is forced at the beginning, which needs no model.

        Raises `ConstraintError` if no text of the constraint fits its budget.
        """
        if not self.partial:
            if why := self.prepared.refusal(self.budget):
                raise ConstraintError(
                    f"{self.where}: {why}, and max_tokens= and the context leave {self.budget}; raise max_tokens= (or "
                    "the context)"
                )
            self.rule.hold_within(self.budget)
        self._extend_forced()
        self._conclude()

    def accept(self, sampled: Sampled) -> None:
        rule = self.rule
        token: int | None = sampled.token
        if not rule.is_end(sampled.token):
            token = rule.steer(sampled.token, self.budget - len(self.tokens))
        if token is not None and self.recipe.logprobs and sampled.logprob is not None:
            self.forbidden.append(sampled.forbidden)
            own = token == sampled.token
            self.logprobs.append(self._described(token, sampled.logprob if own else None, sampled.top))
        if token is None:
            self._end("stop", matched=None)
        elif rule.is_end(token):
            self.usage.generated += 1
            self._end("stop", matched=token if token in self.ends else self._stop_at(token))
        else:
            rule.accept(token)
            self._commit(token, sampled.logprob if token == sampled.token else None)
            self._extend_forced()
        self._conclude()

    def _stop_at(self, token: int) -> str | None:
        """The stop that this token, which is no part of the text, begins with; None for the constant that follows."""
        data = self.tokenizer.token_bytes[token]
        return next((stop for stop in self.ending_stops if data.startswith(stop.encode())), None)

    def _extend_forced(self) -> None:
        """Commit what the grammar leaves no choice about. With log-probabilities every token goes through the model."""
        if self.recipe.logprobs:
            return
        while self.finish_reason is None and len(self.tokens) < self.budget and (forced := self.rule.forced()):
            for token in forced[: self.budget - len(self.tokens)]:
                self.rule.accept(token)
                self.usage.forced += 1
                self._commit(token, None, forced=True)
                if self.finish_reason is not None:
                    return

    def _conclude(self) -> None:
        """End the text where nothing can follow or the budget is spent; check an ended one."""
        if len(self.tokens) > self.long:
            self._notice_length()
        if self.finish_reason is None:
            if self.rule.matcher.is_done():
                self._end("stop", matched=None)
            elif len(self.tokens) < self.budget:
                return
            elif self.rule.matcher.can_end():
                self._end("length", length=len(self.tokens))
            elif self.partial:
                self.complete = False
                self._end("length", length=len(self.tokens))
                return
            else:
                raise Truncated(self._truncated(), self.matcher.text)
        try:
            self.value = self.prepared.check(self.matcher.text)
        except Mismatch as mismatch:
            self._reject(mismatch)
        else:
            if len(self.tokens) < self.min_tokens and self.matcher.cut is None:
                self.advice.give(
                    "short",
                    f"{self.where} ended after {len(self.tokens)} tokens, before min_tokens={self.min_tokens}: nothing "
                    "can follow there in its constraint; leave min_tokens out, or ask the constraint for a longer text",
                )

    def _notice_length(self) -> None:
        self.long = self.budget
        self.advice.give(
            "long",
            f"{self.where} has written more than {LONG_TOKENS:,} tokens and has no max_tokens=, so only its constraint "
            "and the context bound it; say max_tokens=, or bound the constraint",
        )

    def _truncated(self) -> str:
        return (
            f"{self.where}: the text was not complete when its budget of {self.budget} tokens was spent; raise "
            f"max_tokens= (or the context), or take what there is with on_budget='partial'. It ends in "
            f"{self.matcher.text[-60:]!r}"
        )

    def _reject(self, mismatch: Mismatch) -> None:
        """The text breaks the original constraint: sample afresh, or fail."""
        checked = self.prepared.checked
        if not checked or self.attempt >= MOST_ATTEMPTS:
            if self.matcher.cut is not None:
                why = f"the stop {self.matcher.matched!r} cut the text where it was not complete"
            elif checked:
                why = f"{self.attempt} samples in a row broke what only a check can enforce ({', '.join(checked)})"
            elif isinstance(mismatch, OutOfRange):
                why = (
                    "the text has a number that no double holds, which a mask within other text cannot rule out; bound "
                    "the number with minimum= and maximum=, or ask for an integer"
                )
            else:
                why = "the text breaks its constraint, although the mask allowed it; please report this"
            raise ConstraintError(f"{self.where}: {why}: {mismatch}. The text: {self.matcher.text!r:.400}")
        self.attempt += 1
        self.finish_reason = None
        self.tokens, self.logprobs = [], []
        if self.told is not None:
            self.told.restart()
        self.matcher = StopMatcher(*self.stops, self.where)
        self.branch.truncate(self.start)
        self.recipe = self.recipe.afresh(mix(self.recipe.key, self.attempt), FRESH_TEMPERATURE)
        self.rule.restart()
        self.begin()

    def _show(self, piece: str) -> None:
        if not self.prepared.checked:
            super()._show(piece)

    def result(self) -> GenResult:
        result = super().result()
        result.value, result.receipt = self.value, self._receipt()
        if not self.prepared.controls.keys().isdisjoint(self.tokens):
            result.pieces = self._pieces()
        if self.prepared.checked:
            super()._show(result.text)  # all at once, now that it has passed
        return result

    def _pieces(self) -> list[tuple[str, bool]]:
        """The text cut at its control tokens."""
        pieces: list[tuple[str, bool]] = []
        for control, tokens in groupby(self.tokens, self.prepared.controls.__contains__):
            data = [self.bytes_of(token) for token in tokens]
            pieces += [(each.decode(errors="replace"), control) for each in (data if control else [b"".join(data)])]
        return pieces

    def _receipt(self) -> dict[str, Any]:
        receipt = {
            **self.prepared.receipt(),
            "complete": self.complete,
            "attempts": self.attempt,
            "steered": self.rule.steered,
        }
        if self.recipe.logprobs:
            receipt["mask_loss"] = sum(self.forbidden) / max(1, len(self.forbidden))
        return receipt
