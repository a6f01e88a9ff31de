"""Which texts of a constraint are alike: whatever may follow the one may follow the other.

Owns: keys of such texts (`Alike`), for patterns and for text as it is; `alike_json.py` has JSON's. Knows nothing of
tokens, masks or engines.

Equal keys promise that the same texts complete both. The converse is not promised: texts that are alike may have keys
of their own, and where nothing can be told the key is the text itself, as long as it is short.
"""

from __future__ import annotations

import codecs
from collections.abc import Hashable
from typing import NamedTuple, Protocol, cast

from .....lang.pattern import PatternError, PatternNode
from .....lang.pattern.nodes import NOTHING, children
from .....lang.pattern.sets import Derivatives

LONGEST = 1_000
"""Bytes of a text that is its own key."""
MOST_STEPS = 10_000
"""Characters after which the derivatives of a pattern are forgotten: each may be a tree of its own."""
WIDER, SPARE, LARGEST = 4, 256, 1_000
"""Times the pattern's own nodes that a derivative may have, some to spare, and the most that any may have; larger ones
are not followed: each character of a long constant would cost as much as the rest of it is long."""


class Alike(Protocol):
    """Keys of the texts of one constraint."""

    start: Hashable
    """The key of the empty text."""

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        """The key of a text, given that of its beginning and the bytes that follow that. None: it has none, nor has
        what follows it. The text is one that the constraint allows."""


class Written(NamedTuple):
    """A key with text as it is: `data` after a text with the key `base`."""

    base: Hashable
    data: bytes


def written(key: Hashable, data: bytes) -> Written | None:
    """The key of a text of which nothing more can be told than that `data` follows what has `key`."""
    base, before = key if isinstance(key, Written) else (key, b"")
    return Written(base, before + data) if len(before) + len(data) <= LONGEST else None


class Texts:
    """Only equal texts are alike."""

    start: Hashable = Written(None, b"")

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        return written(key, data)


class Apart:
    """No texts are alike, not even equal ones: it matters which tokens they are cut into."""

    start: Hashable = Written(None, b"")

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        return None


class Walk:
    """A pattern's derivatives (`sets.py`), as far as they stay small."""

    def __init__(self, node: PatternNode) -> None:
        self.node = node
        self._most = min(WIDER * _count(node, LARGEST) + SPARE, LARGEST)
        self._derivatives, self._small, self._steps = Derivatives(), {node}, 0

    def step(self, node: PatternNode, text: str) -> PatternNode | None:
        """What may follow `text` after what `node` is the rest of; None where that is not told."""
        try:
            for character in text:
                node = self._derivatives.step(node, ord(character))
                self._steps += 1
                if node not in self._small:
                    if node == NOTHING or _count(node, self._most) > self._most:
                        return None
                    self._small.add(node)
        except (PatternError, RecursionError):  # the stack may be deep already
            return None
        if self._steps > MOST_STEPS:
            self._derivatives, self._small, self._steps = Derivatives(), {self.node}, 0
        return node


class Patterns:
    """Texts of a pattern are alike that leave the same derivative. A key is that, and the bytes of a character that has
    begun. The pattern is plain: under `Both` and `Not` an engine may see by one way what is forced, and not by another.
    """

    def __init__(self, node: PatternNode) -> None:
        self._walk = Walk(node)
        self.start: Hashable = (node, b"")

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        if isinstance(key, Written):
            return written(key, data)
        node, begun = cast(tuple[PatternNode, bytes], key)
        try:
            text, used = utf8(begun + data)
        except UnicodeDecodeError:
            return written(key, data)
        rest = self._walk.step(node, text)
        return written(key, data) if rest is None else (rest, (begun + data)[used:])


def utf8(data: bytes) -> tuple[str, int]:
    """The whole characters that `data` begins with, and how many bytes they are; the rest is the beginning of one."""
    return codecs.utf_8_decode(data, "strict", False)


def _count(node: PatternNode, most: int) -> int:
    """Nodes of the tree; more than `most` if there are more."""
    pending, count = [node], 0
    while pending and count <= most:
        below = children(pending.pop())
        pending += below
        count += 1
    return count
