"""All the short texts over a few characters: what two readers of a grammar are compared on."""

from __future__ import annotations

import itertools


def texts(alphabet: str, most: int) -> list[str]:
    """Every text of at most `most` characters of `alphabet`, the shortest first."""
    return ["".join(word) for length in range(most + 1) for word in itertools.product(alphabet, repeat=length)]
