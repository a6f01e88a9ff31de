"""The constraint of one sample of a gen: its matcher, its mask, its forced tokens, and the way to its end.

Owns: what a constrained gen may sample next, when it may end, and steering it to close within its budget. Knows nothing
of steps or of text (`gen.py`).

Invariants: the matcher has accepted exactly the gen's tokens (6). End-of-text tokens are legal exactly where the text
is complete. A known way to close that fits the budget is never given up for a token after which none fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from ...lang.errors import ConstraintError
from .grammar.compile import Prepared
from .grammar.llguidance_engine import LLMatching, fill_many
from .grammar.protocol import Mask, Matcher, has, mask_words

SPARE, SPARE_SHARE = 8, 4
"""Where it is known how much any text can need (`Prepared.deepest`), no token is looked at while more than that is
left, these tokens and this part of it beside: the way that is found may be a longer one."""
NEAR = 64
"""Where it is not: tokens to spare beside the way to close and what one more token may add to it; with fewer left, each
token is looked at before it is taken."""
OFTEN = 32
"""Tokens after which the way to close is looked for in any case."""
PAUSE = 8
"""Tokens before another search when one has found nothing."""


_NONE: Mask = np.zeros(0, dtype=np.int32)


class Constrained:
    """One sample's place in its grammar. `ends` are the tokens that end a text wherever it is complete (none with
    `ignore_eos`: then it ends only where nothing can follow). The first token of the constant text that comes next
    (`follow`), and tokens that begin with one of `stops`, do so too, where the text itself cannot go on with them."""

    def __init__(
        self, prepared: Prepared, ends: Collection[int], follow: int | None, stops: Iterable[str], steer: bool
    ) -> None:
        self.prepared = prepared
        vocabulary = prepared.vocabulary
        self._ends = vocabulary.mask_of(ends or vocabulary.eos_ids)
        self._ending = vocabulary.mask_of([*ends, *([] if follow is None else [follow])])
        for stop in stops:
            self._ending = self._ending | vocabulary.beginning_with(stop.encode())
        self._steer = steer
        self.restart()

    def restart(self) -> None:
        """Begin again with an empty text."""
        self.matcher = self.prepared.compiled.matcher()
        self._row: Mask = np.zeros(mask_words(self.prepared.vocabulary.size), dtype=np.int32)
        self._ends_here = _NONE
        self._failure: Exception | None = None
        self._plan: list[int] | None = None  # tokens that close the text from here, if known
        self._look_at: int | None = None  # with so many tokens left, or fewer, the way to close is looked for
        self.steered = 0  # tokens that were not the sampled ones

    # -- the mask
    def fill(self, may_end: bool) -> None:
        """Compute the mask of the next token; on any thread. `may_end` is False before `min_tokens`, which does not
        keep a text from ending that can only end."""
        try:
            self._fill(may_end)
        except Exception as error:
            self._failure = error

    def _fill(self, may_end: bool) -> None:
        self.matcher.fill(self._row)
        self._add_ends(may_end)

    def take(self, row: Mask, met: Exception | None, may_end: bool) -> None:
        """As `fill`, with the matcher's mask computed already; or what was met instead."""
        self._row, self._failure = row, met
        if met is None:
            try:
                self._add_ends(may_end)
            except Exception as error:
                self._failure = error

    def _add_ends(self, may_end: bool) -> None:
        row = self._row
        self._ends_here = _NONE
        if self.matcher.can_end():
            if may_end:
                self._ends_here = self._ending & ~row
                row |= self._ends_here
            if not row.any():
                self._ends_here = self._ends
                row |= self._ends
        elif not row.any():
            raise ConstraintError("the grammar has no token that can follow here, and the text is not complete")

    def mask(self) -> Mask:
        """The row that `fill` computed. Raises what it met."""
        if self._failure is not None:
            raise self._failure
        return self._row

    def is_end(self, token: int) -> bool:
        """Whether this sampled token ends the text instead of going on with it."""
        return len(self._ends_here) > 0 and has(self._ends_here, token)

    # -- tokens
    def accept(self, token: int) -> None:
        """A token is committed."""
        if not self.matcher.accept(token):
            raise ConstraintError(f"token {token} was sampled against its mask; please report this")
        plan = self._plan
        self._plan = plan[1:] if plan and plan[0] == token else None

    def forced(self) -> list[int]:
        return self.matcher.forced()

    # -- the way to the end
    def steer(self, token: int, left: int) -> int | None:
        """The token to take instead of the sampled `token` so that the text can still be closed: itself, as a rule;
        None to end here. `left`: tokens that the budget leaves, this one included."""
        if not self._steer or not self._is_due(left):
            return token
        after = self.matcher.fork()
        if not after.accept(token):
            return token  # `accept` will say so
        plan = self._plan
        follows = plan[1:] if plan and plan[0] == token else self._still_closes(after, plan)
        if follows is None or len(follows) >= left:
            follows = self.prepared.closing(after, left - 1)
        if follows is not None and len(follows) < left:
            self._plan = [token, *follows]
            self._plan_look(left, len(follows))
            return token
        if plan is None:
            plan = self.prepared.closing(self.matcher, left)
        if plan is None or len(plan) > left:
            self._look_at = left - PAUSE
            return token
        self._plan = plan
        self.steered += 1
        return plan[0] if plan else None

    def _is_due(self, left: int) -> bool:
        """Whether to look for the way to close now. Far from the end of the budget that is done now and then only."""
        if self._look_at is None:
            self._plan_look(left, self.prepared.shortest)
        return self._look_at is not None and left <= self._look_at

    def _plan_look(self, left: int, way: int) -> None:
        """Look again at once if the budget is near its end, given that the `way` to close has so many tokens: a token
        may add to it what one place of the constraint asks for at least."""
        deepest = self.prepared.deepest
        if deepest is not None:
            self._look_at = deepest + deepest // SPARE_SHARE + SPARE
            return
        near = left <= way + 2 * self.prepared.heaviest + NEAR
        self._look_at = left if near else left - OFTEN

    def _still_closes(self, after: Matcher, plan: list[int] | None) -> list[int] | None:
        """`plan`, if it closes the text from `after` too, through the very masks and forced tokens on the way."""
        if plan is None:
            return None
        at, i = after.fork(), 0
        while i < len(plan):
            step = at.forced() or (plan[i : i + 1] if at.allows(plan[i]) else [])
            if not step or plan[i : i + len(step)] != step or not all(at.accept(token) for token in step):
                return None
            i += len(step)
        return plan if at.can_end() else None


def fill_all(rules: Sequence[tuple[Constrained, bool]]) -> None:
    """`fill` each rule, given whether it may end: those that llguidance enforces together, on its threads."""
    together = [(rule, may_end, rule.matcher) for rule, may_end in rules if isinstance(rule.matcher, LLMatching)]
    if len(together) > 1:
        matchers = [matcher for _, _, matcher in together]
        rows_MW = np.empty((len(matchers), mask_words(matchers[0].compiled.vocabulary.size)), dtype=np.int32)
        for (rule, may_end, _), row, met in zip(together, rows_MW, fill_many(matchers, rows_MW)):
            rule.take(row, met, may_end)
    for rule, may_end in rules:
        if len(together) <= 1 or not isinstance(rule.matcher, LLMatching):
            rule.fill(may_end)
