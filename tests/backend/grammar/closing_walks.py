"""Random places of a constraint's texts, and whether a way to close is known at each of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np

from sgl.backend.runtime.grammar.compile import Prepared
from sgl.backend.runtime.grammar.protocol import Matcher
from sgl.backend.runtime.grammar.rules.recogniser import Recogniser

LONGEST_TEXT_TOKENS = 60


def places(prepared: Prepared, rng: Random, count: int) -> Iterator[tuple[bytes, Matcher, Recogniser | None]]:
    """Yield `count` places of random texts: the text, the engine's matcher, the place in the rules (None: lost)."""
    assert prepared.ways is not None
    row = prepared.vocabulary.new_row()
    while count > 0:
        text, at, place = b"", prepared.compiled.matcher(), prepared.ways.start()
        for _ in range(LONGEST_TEXT_TOKENS):
            count -= 1
            yield text, at, place
            if at.is_done() or not count:
                break
            at.fill(row)
            bits = np.unpackbits(row.view(np.uint8), count=prepared.vocabulary.size, bitorder="little")
            allowed = np.flatnonzero(bits).tolist()
            if not allowed:
                break
            plain = [token for token in allowed if prepared.vocabulary.bytes[token].isascii()]
            token = rng.choice(plain if plain and rng.random() < 0.9 else allowed)
            assert at.accept(token)
            text += prepared.vocabulary.bytes[token]
            if not prepared.ways.follow(place, [token]):
                yield text, at, None
                return


def without_a_way(prepared: Prepared, rng: Random, count: int) -> list[str]:
    """Return what is wrong at `count` random places: no known way, or one that the matcher does not take to an end."""
    assert prepared.ways is not None
    wrong = []
    for text, at, place in places(prepared, rng, count):
        if place is None:
            wrong.append(f"the rules do not go on like the engine: {text!r}")
            continue
        way = prepared.ways.path(place, at, 100_000)
        after = at.fork()
        if way is None:
            wrong.append(f"no way is known behind {text!r}")
        elif not all(after.accept(token) for token in way) or not after.can_end():
            wrong.append(f"the way does not end the text {text!r}")
    return wrong
