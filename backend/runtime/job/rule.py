"""The rule of one constrained sample: its matcher, its mask, its forced tokens, and the way to its end.

Knows nothing of steps or of text (`gen.py`). A rule says what may be sampled next, and when the text may end. It also
says which token to take so that the text can still be closed within its budget.

1. The matcher has accepted exactly the gen's tokens.
2. End-of-text tokens are legal exactly where the text is complete.
3. A known way to close that fits the budget is never given up for a token after which none fits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from threading import Thread
from typing import NamedTuple

import numpy as np

from ....lang.errors import ConstraintError
from ...contain import is_interruption, said
from ..grammar.compile import Prepared
from ..grammar.engines.watched import LateCall
from ..grammar.protocol import Mask, Matcher, has, mask_words
from ..grammar.rules.recogniser import Recogniser
from ..grammar.sharing.mask_cache import CachedMatcher, masks

SPARE_TOKENS, SPARE_SHARE = 8, 4
"""A way to close is not spelled while the budget left exceeds the most tokens that it can have, a quarter of them, and
these: where the engine forces text, it spells it in its own way."""
NEAR_TOKENS = 80
"""Where ways are searched for: with so many tokens left beside the way to close, or fewer, each token is looked at
before it is taken."""
LOOK_EVERY_TOKENS = 32
"""There, the way to close is looked for at least once in so many tokens."""
RETRY_TOKENS = 8
"""Tokens before another search when one has found nothing."""

_NONE: Mask = np.zeros(0, dtype=np.int32)


class Ahead(NamedTuple):
    """What is known of the place behind a token of a draft: its mask, and the tokens that end the text there."""

    token: int
    row: Mask
    ends: Mask


class Rule:
    """One sample's place in its grammar.

    `ends` are the tokens that end a text wherever it is complete (none with `ignore_eos`: then it ends only where
    nothing can follow). Two more kinds of token end a complete text that cannot go on with them: the first token of the
    constant text that comes next (`follow`), and tokens that begin with one of `stops`.
    """

    def __init__(
        self, prepared: Prepared, ends: Collection[int], follow: int | None, stops: Iterable[str], steer: bool
    ) -> None:
        self.prepared = prepared
        vocabulary = prepared.vocabulary
        self._ends = vocabulary.mask_of_few(tuple(ends or vocabulary.eos_ids))
        self._ending = vocabulary.mask_of_few((*ends, *(() if follow is None else (follow,))))
        for stop in stops:
            self._ending = self._ending | vocabulary.beginning_with(stop.encode())
        self._steer = steer
        self.restart()

    def restart(self) -> None:
        """Begin again with an empty text."""
        self.matcher = self.prepared.compiled.matcher()
        self._row: Mask | None = None  # of the next token, once it is computed
        self._ends_here = _NONE
        self._failure: Exception | None = None
        self._plan: list[int] | None = None  # tokens that close the text from here, if known
        self._look_at: int | None = None  # with so many tokens left, or fewer, the way to close is looked for
        self.steered = 0  # tokens that were not the sampled ones
        ways = self.prepared.ways if self._steer else None
        self._place: Recogniser | None = None if ways is None else ways.start()  # in the rules, if known
        self._behind: list[int] = []  # tokens that `_place` has not taken yet
        self._ahead: list[Ahead] = []  # of the tokens of a draft, in order

    # -- the mask
    def is_known(self) -> bool:
        """Whether the next mask takes no computing: other texts have been where this one is."""
        return self._row is not None or (isinstance(self.matcher, CachedMatcher) and self.matcher.is_known())

    def fill(self, may_end: bool) -> None:
        """Compute the mask of the next token; on any thread. `may_end` is False before `min_tokens`, which does not
        keep a text from ending that can only end."""
        try:
            if isinstance(self.matcher, CachedMatcher):
                row = self.matcher.mask()
            else:
                row = np.empty(mask_words(self.prepared.vocabulary.size), dtype=np.int32)
                self.matcher.fill(row)
            self.take(row, may_end)
        except BaseException as error:
            self._failure = _contained(error)

    def take(self, found: Mask | Exception, may_end: bool) -> None:
        """Take the matcher's mask, which is not to be written to, or the error that was met instead of it."""
        try:
            if isinstance(found, Exception):
                raise found
            self._row, self._ends_here = self._with_ends(found, self.matcher, may_end)
            self._failure = None
        except BaseException as error:
            self._failure = _contained(error)

    def _with_ends(self, row: Mask, matcher: Matcher, may_end: bool) -> tuple[Mask, Mask]:
        """The matcher's mask with the tokens that end the text here; and these alone."""
        ends = _NONE
        if matcher.can_end():
            if may_end:
                ends = self._ending & ~row
                row = row | ends
            if not row.any():
                ends = row = self._ends
        elif not row.any():
            raise ConstraintError("the grammar has no token that can follow here, and the text is not complete")
        return row, ends

    # -- a draft
    def likely(self) -> tuple[int, ...]:
        """Tokens that spell what the grammar forces, although others could spell it too, or begin within it. () where
        the engine does not tell."""
        try:
            return self.matcher.likely() if isinstance(self.matcher, CachedMatcher) else ()
        except BaseException as error:
            _contained(error)
            return ()

    def legal(self, draft: Sequence[int]) -> list[int]:
        """As much of a draft as the grammar allows. Tokens that it forces are put where the draft has others. Where the
        engine fails, the draft ends: the error is met again, and told, where the text comes to this place."""
        legal: list[int] = []
        try:
            after = self.matcher.fork()
            while len(legal) < len(draft) and after.accept(draft[len(legal)]):
                at = len(legal) + 1
                legal.append(draft[at - 1])
                for token in after.forced()[: len(draft) - at]:
                    after.accept(token)
                    legal.append(token)
                if legal[at:] != list(draft[at : len(legal)]):
                    break
        except BaseException as error:
            _contained(error)
        return legal

    def look_ahead(self, draft: Sequence[int], may_end: Callable[[int], bool]) -> None:
        """Compute the masks of the places behind each token of a draft; on any thread. `may_end(n)`: whether a text
        with n tokens more may end. Where a mask cannot be made, no further one is."""
        self._ahead = []
        if not draft:
            return
        try:
            matcher = self.matcher.fork()
            for i, token in enumerate(draft, 1):
                if not matcher.accept(token):
                    return
                row = np.empty(mask_words(self.prepared.vocabulary.size), dtype=np.int32)
                matcher.fill(row)
                self._ahead.append(Ahead(token, *self._with_ends(row, matcher, may_end(i))))
        except BaseException as error:
            _contained(error)  # it is met again, and told, where the text comes to this place

    def masks_ahead(self) -> list[Mask]:
        """What `look_ahead` computed."""
        return [ahead.row for ahead in self._ahead]

    def mask(self, may_end: bool) -> Mask:
        """The mask of the next token, not to be written to: what `fill` computed, or what is known. Raises what it
        met."""
        if self._row is None and self._failure is None:
            self.fill(may_end)
        if self._failure is not None:
            raise self._failure
        assert self._row is not None
        return self._row

    def is_end(self, token: int) -> bool:
        """Whether this sampled token ends the text instead of going on with it."""
        return len(self._ends_here) > 0 and has(self._ends_here, token)

    # -- tokens
    def accept(self, token: int) -> None:
        """A token is committed."""
        self._row = None
        if self._ahead:
            next_one = self._ahead.pop(0)
            if next_one.token == token:
                self._row, self._ends_here = next_one.row, next_one.ends
            else:
                self._ahead = []
        if not self.matcher.accept(token):
            raise ConstraintError(f"token {token} was sampled against its mask; please report this")
        plan = self._plan
        self._plan = plan[1:] if plan and plan[0] == token else None
        if self._place is not None:
            self._behind.append(token)

    def forced(self) -> list[int]:
        return self.matcher.forced()

    # -- the way to the end
    def hold_within(self, budget: int) -> None:
        """Hold on to a text of at most `budget` tokens as the way to close, if one is known."""
        self._plan = self.prepared.text_within(budget)

    def steer(self, token: int, left: int) -> int | None:
        """The token to take so that the text can still be closed; None to end here.

        That is the sampled `token`, unless no way to close would fit after it. `left`: tokens that the budget leaves,
        this one included.
        """
        if not self._steer or not self._is_due(left):
            return token
        place = self._place_after(token)
        if place is not None and self.prepared.ways is not None:
            need = self.prepared.ways.bytes_left(place)
            if need + need // SPARE_SHARE + SPARE_TOKENS < left:
                self._plan_look(left, need)
                return token
        after = self.matcher.fork()
        if not after.accept(token):
            return token  # `accept` will say so
        plan = self._plan
        follows = plan[1:] if plan and plan[0] == token else self._way(place, after, left - 1)
        if follows is not None and len(follows) < left:
            self._plan = [token, *follows]
            self._plan_look(left, len(follows))
            return token
        if plan is None:
            plan = self._way(self._place, self.matcher, left)
        if plan is None or len(plan) > left:
            self._look_at = left - (RETRY_TOKENS if self._place is None else 1)
            return token
        self._plan = plan
        self.steered += 1
        return plan[0] if plan else None

    def _place_after(self, token: int) -> Recogniser | None:
        """Return the place in the rules behind a token, or None. The tokens that were taken before are read first."""
        ways = self.prepared.ways
        if self._place is None or ways is None:
            return None
        behind, self._behind = self._behind, []
        if not ways.follow(self._place, behind):
            self._place = None  # the engine writes what the rules do not say: from here on, ways are searched for
            return None
        place = self._place.copy()
        return place if ways.follow(place, [token]) else None

    def _way(self, place: Recogniser | None, matcher: Matcher, limit: int) -> list[int] | None:
        """Return tokens that complete the text from where `matcher` is, if possible at most `limit`; None if none are
        known. `place`: the same place in the rules."""
        ways = self.prepared.ways
        known = None if place is None or ways is None else ways.path(place, matcher, limit)
        return self.prepared.closing(matcher, limit) if known is None else known

    def _is_due(self, left: int) -> bool:
        """Whether to look for the way to close now. Far from the end of the budget that is done now and then only."""
        if self._look_at is None:
            ways = self.prepared.ways
            self._plan_look(left, None if ways is None or self._place is None else ways.bytes_left(self._place))
        return self._look_at is not None and left <= self._look_at

    def _plan_look(self, left: int, way: int | None = None) -> None:
        """Decide when to look for the way to close again: at the next token if the budget is near its end.

        `way`: the length of the way to close, tokens or bytes (None: that of a whole text). One token may make that
        way longer by what one place of the constraint asks for at least.
        """
        deepest, ways = self.prepared.deepest, self.prepared.ways
        if deepest is not None:
            self._look_at = deepest + deepest // SPARE_SHARE + SPARE_TOKENS
            return
        way = self.prepared.length if way is None else way
        if ways is not None and self._place is not None:
            spare = left - way - way // SPARE_SHARE - SPARE_TOKENS
            self._look_at = left - max(spare // (1 + 2 * ways.longest_step), 0)
            return
        near = left <= way + NEAR_TOKENS
        self._look_at = left if near else left - LOOK_EVERY_TOKENS


def fill_all(rules: Sequence[tuple[Rule, bool]]) -> None:
    """`fill` each rule, given whether it may end; those that share what is known of grammars together."""
    together: list[tuple[Rule, bool, CachedMatcher]] = []
    alone: list[tuple[Rule, bool]] = []
    for rule, may_end in rules:
        if isinstance(rule.matcher, CachedMatcher):
            together.append((rule, may_end, rule.matcher))
        else:
            alone.append((rule, may_end))
    for i, (rule, may_end) in enumerate(alone, 1):
        rule.fill(may_end)
        if isinstance(rule._failure, LateCall):  # others may hang too: they wait together, and not one after the other
            threads = [Thread(target=each.fill, args=(ends,), daemon=True) for each, ends in alone[i:]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            break
    try:
        found = masks([matcher for _, _, matcher in together])
    except BaseException as error:
        found = [_contained(error)] * len(together)
    for (rule, may_end, _), row in zip(together, found):
        rule.take(row, may_end)


def _contained(error: BaseException) -> Exception:
    """The error of a gen for what a grammar engine raised: a panic of its Rust code is no `Exception`. Raises an
    interruption."""
    if is_interruption(error):
        raise error
    if isinstance(error, Exception):
        return error
    wrapped = ConstraintError(f"the grammar engine failed: {said(error)}")
    wrapped.__cause__ = error
    return wrapped
