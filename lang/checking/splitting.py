"""Where the parts of a sequence end in a text, and whether a text matches a pattern, in bounded time.

Knows nothing of what a part's own check says: it is given that check.

A set of positions is carried from part to part: all places where the parts so far may end. A pattern walks the text
once for all its starts, by derivatives (`pattern/sets.py`), so nothing backtracks. What is not decided by the
deadline raises `Slow`: what was not checked is not handed over.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

from ..constraint import Choices, Constraint, Control, Either, Exactly, Grammar, JsonSchema, Regex, Repeated, Sequenced
from ..pattern import PatternError, parse_regex
from ..pattern.nodes import NOTHING, PatternNode
from ..pattern.sets import Derivatives

DECIDED_SECONDS = 2.0
"""After so long a text is given up: others may wait for the engine meanwhile."""
LONGEST_NUMBER_CHARACTERS = 400
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")

Fits = Callable[[Constraint, str], bool]


class Slow(ValueError):
    """A check takes too long to decide."""


def splits(parts: tuple[Constraint, ...], text: str, fits: Fits) -> bool:
    """Whether a text is the parts one after the other. `fits` checks one JSON part. Raises `Slow`."""
    return len(text) in _SplitWalk(text, fits).after(parts, {0})


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern matches the whole text. Raises `Slow`."""
    return len(text) in _SplitWalk(text, lambda part, piece: False).ends(Regex(pattern), {0})


class _SplitWalk:
    """One text. Positions are indices into it."""

    def __init__(self, text: str, fits: Fits) -> None:
        self.text, self.fits = text, fits
        self.deadline = time.monotonic() + DECIDED_SECONDS

    def after(self, parts: tuple[Constraint, ...], starts: set[int]) -> set[int]:
        for part in parts:
            starts = self.ends(part, starts)
        return starts

    def ends(self, part: Constraint, starts: set[int]) -> set[int]:
        """The positions where a part may end that begins at one of `starts`."""
        if not starts:
            return set()
        if isinstance(part, (Exactly, Control)):
            return self._literal((part.text,), starts)
        if isinstance(part, Choices):
            return self._literal(part.choices, starts)
        if isinstance(part, Either):
            return {end for branch in part.branches for end in self.ends(branch, starts)}
        if isinstance(part, Sequenced):
            return self.after(part.parts, starts)
        if isinstance(part, Repeated):
            return self._repeated(part, starts)
        if isinstance(part, Grammar):
            return set(range(min(starts), len(self.text) + 1))  # a grammar has no check of its own
        if isinstance(part, Regex):
            return self._pattern(part.pattern, starts)
        return {end for start in sorted(starts) for end in self._json(part, start)}

    def _repeated(self, part: Repeated, starts: set[int]) -> set[int]:
        """Go round while new positions are met; beyond `least` rounds, those met before add nothing."""
        found: set[int] = set()
        begun, count = starts, 0
        while begun and (part.most is None or count < part.most):
            ends = self.ends(part.part, begun)
            count += 1
            if count >= part.least:
                ends -= found
                found |= ends
            begun = self._literal((part.separator,), ends) if part.separator else ends
            self._watch()
        return found if part.least else found | starts

    def _literal(self, texts: tuple[str, ...], starts: set[int]) -> set[int]:
        return {start + len(text) for text in texts for start in starts if self.text.startswith(text, start)}

    def _pattern(self, pattern: str, starts: set[int]) -> set[int]:
        try:
            begun = parse_regex(pattern)
        except PatternError as error:
            raise Slow(str(error)) from None
        walk, states, out = Derivatives(), dict[PatternNode, None](), set[int]()
        for at in range(min(starts), len(self.text) + 1):
            if at in starts:
                states[begun] = None
            elif not states and at > max(starts):
                break
            if any(walk.nullable(state) for state in states):
                out.add(at)
            self._watch()
            if at < len(self.text):
                code = ord(self.text[at])
                states = dict.fromkeys(walk.step(state, code) for state in states)
                states.pop(NOTHING, None)
        return out

    def _json(self, part: Constraint, start: int) -> Iterator[int]:
        assert isinstance(part, JsonSchema)
        for end in self._json_ends(start):
            self._watch()
            if self.fits(part, self.text[start:end]):
                yield end

    def _json_ends(self, start: int) -> Iterator[int]:
        """The positions where JSON text may end: a number after any of its digits, a long one and any
        other value in one place: masks let no text follow a number that it may go on with."""
        if (number := _NUMBER.match(self.text, start)) is not None:
            most = start + LONGEST_NUMBER_CHARACTERS
            yield from range(start + 1 if number.end() <= most else number.end(), number.end() + 1)
            return
        try:
            yield json.JSONDecoder().raw_decode(self.text, start)[1]
        except (ValueError, RecursionError):
            return

    def _watch(self) -> None:
        if time.monotonic() > self.deadline:
            raise Slow(f"not decided in {DECIDED_SECONDS:g} s")
