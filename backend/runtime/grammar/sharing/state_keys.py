"""State keys: two texts of a constraint with equal keys can be completed by exactly the same texts.

Owns: the protocol `StateKeys`, and the keys of patterns and of plain text (JSON's are in `json_state_keys.py`). Knows
nothing of tokens, masks or engines.

1. Equal keys promise equal completions. Different keys promise nothing.
2. Where nothing else is known, the key of a text is the text itself, as long as it is short.
"""

from __future__ import annotations

import codecs
from collections.abc import Hashable
from typing import NamedTuple, Protocol, cast

from .....lang.pattern import PatternError, PatternNode
from .....lang.pattern.nodes import NOTHING, children
from .....lang.pattern.sets import Derivatives

LONGEST_TEXT_BYTES = 1_000
"""A longer text is no key."""
MOST_DERIVED_CHARACTERS = 10_000
"""After so many the derivatives of a pattern are forgotten: each may be a tree of its own."""
DERIVATIVE_GROWTH, SPARE_NODES, MOST_NODES = 4, 256, 1_000
"""A derivative may have so many times the nodes of its pattern, and some to spare, but never more than the last. Larger
ones are not followed: each character of a long constant would cost as much as the rest of the constant is long."""


class StateKeys(Protocol):
    """The state keys of one constraint."""

    start: Hashable
    """The key of the empty text."""

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        """The key of a text, given the key of its beginning and the bytes that follow. None: neither this text nor a
        longer one has a key. The constraint must allow the text."""


class TextKey(NamedTuple):
    """The key of `data` as it is, behind a text with the key `base`."""

    base: Hashable
    data: bytes


def text_key(key: Hashable, data: bytes) -> TextKey | None:
    """The key where nothing is known but that `data` follows a text with `key`."""
    base, before = key if isinstance(key, TextKey) else (key, b"")
    return TextKey(base, before + data) if len(before) + len(data) <= LONGEST_TEXT_BYTES else None


class TextKeys:
    """Each text is a state of its own."""

    start: Hashable = TextKey(None, b"")

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        return text_key(key, data)


class PatternWalk:
    """A pattern's derivatives (`lang/pattern/sets.py`), as far as they stay small."""

    def __init__(self, node: PatternNode) -> None:
        self.node = node
        self._most = min(DERIVATIVE_GROWTH * count_nodes(node, MOST_NODES) + SPARE_NODES, MOST_NODES)
        self._derivatives, self._small, self._steps = Derivatives(), {node}, 0

    def step(self, node: PatternNode, text: str) -> PatternNode | None:
        """The derivative of `node` by `text`; None where it is too large to follow."""
        try:
            for character in text:
                node = self._derivatives.step(node, ord(character))
                self._steps += 1
                if node not in self._small:
                    if node == NOTHING or count_nodes(node, self._most) > self._most:
                        return None
                    self._small.add(node)
        except (PatternError, RecursionError):  # the stack may be deep already
            return None
        if self._steps > MOST_DERIVED_CHARACTERS:
            self._derivatives, self._small, self._steps = Derivatives(), {self.node}, 0
        return node


class PatternKeys:
    """A key is the derivative that a text leaves, and the bytes of a character that is cut. The pattern is plain: under
    `Both` and `Not` an engine may see what is forced along one way to a state, and not along another."""

    def __init__(self, node: PatternNode) -> None:
        self._walk = PatternWalk(node)
        self.start: Hashable = (node, b"")

    def after(self, key: Hashable, data: bytes) -> Hashable | None:
        if isinstance(key, TextKey):
            return text_key(key, data)
        node, begun = cast(tuple[PatternNode, bytes], key)
        try:
            text, used = utf8(begun + data)
        except UnicodeDecodeError:
            return text_key(key, data)
        rest = self._walk.step(node, text)
        return text_key(key, data) if rest is None else (rest, (begun + data)[used:])


def utf8(data: bytes) -> tuple[str, int]:
    """The whole characters that `data` begins with, and how many bytes they take; what follows is cut."""
    return codecs.utf_8_decode(data, "strict", False)


def count_nodes(node: PatternNode, most: int) -> int:
    """The nodes of the tree; more than `most` if there are more."""
    pending, count = [node], 0
    while pending and count <= most:
        pending += children(pending.pop())
        count += 1
    return count
