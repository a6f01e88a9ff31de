"""The mask cache of a grammar: masks, forced tokens and ends are computed once for each state.

Owns: the cache, its bound, and a matcher that asks its engine only for what the cache lacks. Knows nothing of which
texts share a state (`state_keys.py`) or of how an engine computes a mask.

1. Texts of one state have the same masks, bit by bit: a mask says what may follow, and equal keys promise that.
2. How forced bytes are spelled depends on the token before them too, so their masks are kept by that spelling.
3. An engine's matcher lags behind: when it is asked, it first takes all tokens that it has missed.
4. A cached row is never written to.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from .....lang.kept import CacheBudget
from ..engines.llguidance import LLGuidanceGrammar, LLGuidanceMatcher, fill_many
from ..protocol import Mask, has, mask_words
from .state_keys import StateKeys

CACHE_BYTES = 128 << 20
"""What the caches of a runtime may hold together; when that is full, all is forgotten."""
_STEP_BYTES, _STATE_BYTES, _SPELLED_BYTES = 150, 800, 300
"""Of a cached step from one state to another, of a state without its masks, and of one more spelling in it."""


class CachedMask:
    """The mask (`row`) and the forced tokens of a state; None: not computed."""

    __slots__ = ("forced", "row")

    def __init__(self) -> None:
        self.row: Mask | None = None
        self.forced: tuple[int, ...] | None = None


class CachedState:
    """What is known of the texts with one key. `key` None: a single text, of which nothing is kept. `forces`: the bytes
    that are forced; where there are any, masks are in `spelled`, by the tokens that spell these bytes."""

    __slots__ = ("can_end", "forces", "is_done", "key", "known", "next", "spelled")

    def __init__(self, key: Hashable | None) -> None:
        self.key = key
        self.next: dict[int, CachedState] = {}
        self.can_end: bool | None = None
        self.is_done: bool | None = None
        self.forces: bytes | None = None
        self.known = CachedMask()
        self.spelled: dict[tuple[int, ...], CachedMask] = {}

    def drop(self) -> None:
        """Forget the masks, which are large, and the next states: matchers that were here still hold this state."""
        self.next = {}
        for known in (self.known, *self.spelled.values()):
            known.row = None


class CachedGrammar:
    """A `CompiledGrammar` of llguidance, with its cache."""

    def __init__(self, compiled: LLGuidanceGrammar, keys: StateKeys, budget: CacheBudget) -> None:
        self.inner, self.engine = compiled, compiled.engine
        self.budget, self.held = budget, 0
        self._keys = keys
        self._bytes = compiled.vocabulary.bytes
        self._states: dict[Hashable, CachedState] = {}
        budget.add(self)

    def matcher(self) -> CachedMatcher:
        return CachedMatcher(self, None, [], [self._state(self._keys.start)])

    def after(self, state: CachedState, token: int) -> CachedState:
        """The state after a token that the grammar allows in `state`."""
        found = state.next.get(token)
        if found is None:
            data = self._bytes[token]  # none: a control token, which the text does not show
            key = self._keys.after(state.key, data) if data and state.key is not None else None
            if key is None:
                return CachedState(None)
            found = state.next[token] = self._state(key)
            self.budget.hold(self, _STEP_BYTES)
        return found

    def _state(self, key: Hashable) -> CachedState:
        found = self._states.get(key)
        if found is None:
            found = self._states.setdefault(key, CachedState(key))
            self.budget.hold(self, _STATE_BYTES)
        return found

    def forget(self) -> None:
        """Empty the cache. Matchers go on from the states they are in."""
        states, self._states = self._states, {}
        self.held = 0
        for state in list(states.values()):
            state.drop()


class CachedMatcher:
    """A `Matcher`. `trail`: the states of the text, from the empty text on. `inner`: the engine's matcher, which has
    taken the first `taken` tokens; None: not needed yet. `sure`: tokens known to be allowed next, in this order."""

    __slots__ = ("compiled", "inner", "sure", "taken", "tokens", "trail")

    def __init__(
        self,
        compiled: CachedGrammar,
        inner: LLGuidanceMatcher | None,
        tokens: list[int],
        trail: list[CachedState],
        taken: int = 0,
    ) -> None:
        self.compiled, self.inner, self.tokens, self.trail, self.taken = compiled, inner, tokens, trail, taken
        self.sure: tuple[int, ...] = ()

    def fork(self) -> CachedMatcher:
        inner = None if self.inner is None else self.inner.fork()
        return CachedMatcher(self.compiled, inner, self.tokens[:], self.trail[:], self.taken)

    def accept(self, token: int) -> bool:
        state = self.trail[-1]
        if self.sure and self.sure[0] == token:
            self.sure = self.sure[1:]
        else:
            row = self._known(state).row
            if row is None or not 0 <= token < self.compiled.inner.vocabulary.size or not has(row, token):
                if not self.engine().accept(token):
                    return False
                self.taken += 1
            self.sure = ()
        if state.key is None:
            state.drop()
        self.tokens.append(token)
        self.trail.append(self.compiled.after(state, token))
        return True

    def rollback(self, count: int) -> None:
        if not count:
            return
        self.sure = ()
        del self.tokens[-count:], self.trail[-count:]
        if self.taken > len(self.tokens):
            self.inner, self.taken = None, 0  # it cannot go back

    def fill(self, row: Mask) -> None:
        row[:] = self.mask()

    def is_known(self) -> bool:
        """Whether the next mask is in the cache."""
        state = self.trail[-1]
        return state.forces is not None and state.can_end is not None and self._known(state).row is not None

    def mask(self) -> Mask:
        """The mask of the next token; not to be written to."""
        known = self.entry()
        row = known.row  # read once: another thread may empty the cache
        if row is None:
            row = self.compiled.inner.vocabulary.new_row()
            self.engine().fill(row)
            self.learn(known, row)
        return row

    def allows(self, token: int) -> bool:
        known = self.entry()
        row = known.row
        if row is not None and not self.trail[-1].forces:
            return has(row, token)
        return self.engine().allows(token)

    def forced(self) -> list[int]:
        known = self.entry()
        if known.forced is None:
            known.forced = tuple(self.engine().forced()) if self.trail[-1].forces else ()
        self.sure = known.forced
        return list(known.forced)

    def likely(self) -> tuple[int, ...]:
        """The canonical tokens of the bytes that are forced here. The last of them could be longer ones."""
        self.entry()
        forces = self.trail[-1].forces
        return self._spelled(forces) if forces else ()

    def can_end(self) -> bool:
        state = self.trail[-1]
        if state.can_end is None:
            state.can_end = self.engine().can_end()
        return state.can_end

    def is_done(self) -> bool:
        state = self.trail[-1]
        if state.is_done is None:
            state.is_done = self.engine().is_done()
        return state.is_done

    def engine(self) -> LLGuidanceMatcher:
        """The engine's own matcher, brought to where the text is."""
        if self.inner is None:
            self.inner = self.compiled.inner.matcher()
        if self.taken < len(self.tokens):
            self.inner.take(self.tokens[self.taken :])
            self.taken = len(self.tokens)
        return self.inner

    def entry(self) -> CachedMask:
        """The cache entry of the next mask. Its state knows from then on which bytes are forced."""
        state = self.trail[-1]
        if state.forces is None:
            state.forces = self.engine().forces()
        return self._known(state)

    def learn(self, known: CachedMask, row: Mask) -> None:
        """Put the mask `row` into the cache."""
        row.flags.writeable = False
        known.row = row
        if self.trail[-1].key is not None:
            self.compiled.budget.hold(self.compiled, row.nbytes)

    def _known(self, state: CachedState) -> CachedMask:
        if not state.forces:
            return state.known
        spelled = self._spelled(state.forces)
        found = state.spelled.get(spelled)
        if found is None:
            found = state.spelled.setdefault(spelled, CachedMask())
            if state.key is not None:
                self.compiled.budget.hold(self.compiled, _SPELLED_BYTES)
        return found

    def _spelled(self, forces: bytes) -> tuple[int, ...]:
        return self.compiled.inner.owner.spelled_behind(self.tokens[-1] if self.tokens else None, forces)


def masks(matchers: Sequence[CachedMatcher]) -> list[Mask | Exception]:
    """The mask of each matcher, or the error that it met. What the cache lacks is computed once a state, together."""
    found: list[Mask | Exception | CachedMask] = []
    missing: dict[int, tuple[CachedMatcher, CachedMask]] = {}
    for matcher in matchers:
        try:
            known = matcher.entry()
            row = known.row
            if row is None and id(known) not in missing:
                matcher.engine()
                missing[id(known)] = matcher, known
            found.append(known if row is None else row)
        except Exception as error:
            found.append(error)
    met = _compute(list(missing.values()))
    return [met[id(one)] if isinstance(one, CachedMask) else one for one in found]


def _compute(missing: Sequence[tuple[CachedMatcher, CachedMask]]) -> dict[int, Mask | Exception]:
    """Compute the masks of these matchers, by the `id` of their cache entries."""
    if not missing:
        return {}
    inner = [matcher.engine() for matcher, _ in missing]
    rows_MW = np.empty((len(inner), mask_words(inner[0].compiled.vocabulary.size)), dtype=np.int32)
    met: dict[int, Mask | Exception] = {}
    for (matcher, known), row, error in zip(missing, rows_MW, fill_many(inner, rows_MW)):
        if error is None:
            row = row.copy()  # alone: the cache may hold it for long
            matcher.learn(known, row)
        met[id(known)] = row if error is None else error
    return met
