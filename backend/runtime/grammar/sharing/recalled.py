"""What is known already of the places of a constraint: masks that are computed once for all texts that are alike.

Owns: the memory of masks, forced tokens and ends, by state; a matcher that asks its engine only for what is not known.
Knows nothing of which texts are alike (`alike.py`) or of how an engine finds a mask.

A state stands for texts that are alike: engines' masks are about what may follow, so they are equal there, bit by bit.
Where bytes are forced, how they are spelled depends on the token before too, and what is known is kept by that
spelling. What an engine has not been asked for it is not told either: its own matcher lags behind, and takes all tokens
it missed when it is needed. Rows that are kept are never written to.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from weakref import WeakSet

import numpy as np

from ..engines.llguidance_engine import LLCompiled, LLMatching, fill_many
from ..engines.protocol import Mask, has, mask_words
from .alike import Alike

MEMORY = 128 << 20
"""Bytes of all that is kept of the constraints of a runtime; when they are full, all is forgotten."""
_EDGE, _STATE = 150, 800
"""Bytes of a known step, and of a state without its masks."""


class Memory:
    """How much is known of the grammars of one runtime."""

    def __init__(self, limit: int = MEMORY) -> None:
        self._limit, self._held = limit, 0
        self._grammars: WeakSet[Recalled] = WeakSet()
        self._lock = threading.Lock()

    def add(self, grammar: Recalled) -> None:
        with self._lock:
            self._grammars.add(grammar)

    def hold(self, size: int) -> None:
        """So many bytes more are kept."""
        self._held += size  # a few that two threads add at once may be lost
        if self._held > self._limit:
            with self._lock:
                self._held = 0
                for grammar in self._grammars:
                    grammar.forget()


class Known:
    """What is known of a state; None is not known. `row`: the mask."""

    __slots__ = ("forced", "row")

    def __init__(self) -> None:
        self.row: Mask | None = None
        self.forced: tuple[int, ...] | None = None


class State:
    """Texts that are alike. `key` None: one text, which nothing is kept of. `forces`: the bytes that are forced; if
    there are any, what is known is kept by their spelling (`behind`)."""

    __slots__ = ("behind", "can_end", "forces", "is_done", "key", "known", "next")

    def __init__(self, key: Hashable | None) -> None:
        self.key = key
        self.next: dict[int, State] = {}
        self.can_end: bool | None = None
        self.is_done: bool | None = None
        self.forces: bytes | None = None
        self.known = Known()
        self.behind: dict[tuple[int, ...], Known] = {}

    def drop(self) -> None:
        """Forget the masks, which are large, and what follows: texts that went through here still hold the state."""
        self.next = {}
        for known in (self.known, *self.behind.values()):
            known.row = None


class Recalled:
    """A grammar of llguidance, with what is known of it."""

    def __init__(self, compiled: LLCompiled, alike: Alike, memory: Memory) -> None:
        self.inner, self.engine = compiled, compiled.engine
        self.memory = memory
        self._alike = alike
        self._bytes = compiled.vocabulary.bytes
        self._states: dict[Hashable, State] = {}
        memory.add(self)

    def matcher(self) -> Recalling:
        return Recalling(self, None, [], [self._state(self._alike.start)])

    def after(self, state: State, token: int) -> State:
        """The state after a token that the grammar allows in `state`."""
        found = state.next.get(token)
        if found is None:
            data = self._bytes[token]  # none: a control token, which the text does not show
            key = self._alike.after(state.key, data) if data and state.key is not None else None
            if key is None:
                return State(None)
            found = state.next[token] = self._state(key)
            self.memory.hold(_EDGE)
        return found

    def _state(self, key: Hashable) -> State:
        found = self._states.get(key)
        if found is None:
            found = self._states.setdefault(key, State(key))
            self.memory.hold(_STATE)
        return found

    def forget(self) -> None:
        """Begin anew. Texts go on from the states they are in."""
        states, self._states = self._states, {}
        for state in list(states.values()):
            state.drop()


class Recalling:
    """A `protocol.Matcher`. `trail`: the states of the text, from the empty one on. `inner` has taken the first `taken`
    tokens; None: none is needed yet. `sure`: tokens known to be allowed next, one after the other."""

    __slots__ = ("compiled", "inner", "sure", "taken", "tokens", "trail")

    def __init__(
        self, compiled: Recalled, inner: LLMatching | None, tokens: list[int], trail: list[State], taken: int = 0
    ) -> None:
        self.compiled, self.inner, self.tokens, self.trail, self.taken = compiled, inner, tokens, trail, taken
        self.sure: tuple[int, ...] = ()

    def fork(self) -> Recalling:
        inner = None if self.inner is None else self.inner.fork()
        return Recalling(self.compiled, inner, self.tokens[:], self.trail[:], self.taken)

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
        """Whether the mask here has been computed."""
        state = self.trail[-1]
        return state.forces is not None and state.can_end is not None and self._known(state).row is not None

    def mask(self) -> Mask:
        """The mask of the next token, for reading only."""
        known = self.place()
        row = known.row  # read once: another thread may find the memory full
        if row is None:
            row = np.empty(mask_words(self.compiled.inner.vocabulary.size), dtype=np.int32)
            self.engine().fill(row)
            self.learn(known, row)
        return row

    def allows(self, token: int) -> bool:
        known = self.place()
        row = known.row
        if row is not None and not self.trail[-1].forces:
            return has(row, token)
        return self.engine().allows(token)

    def forced(self) -> list[int]:
        known = self.place()
        if known.forced is None:
            known.forced = tuple(self.engine().forced()) if self.trail[-1].forces else ()
        self.sure = known.forced
        return list(known.forced)

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

    def engine(self) -> LLMatching:
        """The engine's own matcher, where the text is now."""
        if self.inner is None:
            self.inner = self.compiled.inner.matcher()
        if self.taken < len(self.tokens):
            self.inner.take(self.tokens[self.taken :])
            self.taken = len(self.tokens)
        return self.inner

    def place(self) -> Known:
        """What is known here. Which bytes are forced is known from then on."""
        state = self.trail[-1]
        if state.forces is None:
            state.forces = self.engine().forces()
        return self._known(state)

    def learn(self, known: Known, row: Mask) -> None:
        """The mask here is computed. Nobody writes to `row` any more."""
        row.flags.writeable = False
        known.row = row
        if self.trail[-1].key is not None:
            self.compiled.memory.hold(row.nbytes)

    def _known(self, state: State) -> Known:
        if not state.forces:
            return state.known
        owner = self.compiled.inner.owner
        spelled = owner.spelled_behind(self.tokens[-1] if self.tokens else None, state.forces)
        found = state.behind.get(spelled)
        if found is None:
            found = state.behind.setdefault(spelled, Known())
        return found


def masks(matchers: Sequence[Recalling]) -> list[Mask | Exception]:
    """The mask of each, or what was met; those of a state are computed once, all together."""
    found: list[Mask | Exception | Known] = []
    missing: dict[int, tuple[Recalling, Known]] = {}
    for matcher in matchers:
        try:
            known = matcher.place()
            row = known.row
            if row is None and id(known) not in missing:
                matcher.engine()
                missing[id(known)] = matcher, known
            found.append(known if row is None else row)
        except Exception as error:
            found.append(error)
    met = _compute(list(missing.values()))
    return [met[id(one)] if isinstance(one, Known) else one for one in found]


def _compute(missing: Sequence[tuple[Recalling, Known]]) -> dict[int, Mask | Exception]:
    """The masks of these, by what is known there."""
    if not missing:
        return {}
    inner = [matcher.engine() for matcher, _ in missing]
    rows_MW = np.empty((len(inner), mask_words(inner[0].compiled.vocabulary.size)), dtype=np.int32)
    met: dict[int, Mask | Exception] = {}
    for (matcher, known), row, error in zip(missing, rows_MW, fill_many(inner, rows_MW)):
        if error is None:
            row = row.copy()  # it may be kept for long, and the others not
            matcher.learn(known, row)
        met[id(known)] = row if error is None else error
    return met
