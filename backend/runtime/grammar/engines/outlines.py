"""outlines-core as an engine: a small regular pattern becomes an explicit automaton over tokens.

Owns: an exact index of a pattern, and its masks. Knows nothing of which pattern comes here.

outlines-core 0.2.14 finds the leftmost-first match (`a|ab` never gives "ab"), and loses tokens that lead from an
accepting state to one that does not accept. Neither happens if a text accepts only behind a sentinel. So `(?:R)\\x1e`
is compiled, with U+001E taken out of R and of the vocabulary. One end-of-text id stands for the byte 0x1E, so a text
can end exactly where that id is allowed.

A matcher's state is an integer: a fork copies a list, and a rollback cuts it. An index takes memory for each state and
token: megabytes for twenty repeats of a wide class. So large patterns are refused before they are compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import version as installed_version
from typing import Any

from .....lang.errors import ConstraintError, OptionError
from .....lang.kept import DEFINITIONS, CacheBudget, kept
from .....lang.pattern import PatternError, chars, plain, to_rust
from .....lang.pattern.nodes import NOTHING, Chars, PatternNode, Repeat, children, rebuilt, size
from ..protocol import Mask, has, mask_words, set_only
from ..vocabulary import TokenTable, Vocabulary
from .worker import Build, perform

SENTINEL = 0x1E
MOST_POSITIONS = 4_000
"""Characters that a pattern may span once its repeats are written out, each weighed by how many tokens it meets."""
_WIDE_CLASS, _WIDE_WEIGHT = 64, 16
"""A class of more characters than the first weighs the second: nearly every token begins with one of them."""
STATES_KEPT = 512
"""Masks in memory for each grammar, about 6 KB each for 49,152 tokens."""
MOST_FORCED_BYTES = 256
TASK = ".outlines:index_artefact"


class Outlines:
    """The engine, bound to one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, build: Build | None = None, masks: CacheBudget = DEFINITIONS) -> None:
        """`masks`: counts the masks that are kept."""
        if not vocabulary.eos_ids:
            raise OptionError("outlines needs a model with an end-of-text token")
        self.vocabulary = vocabulary
        self._kept: dict[str, Any] = {}
        self._masks = masks
        self._build: Build = build or (lambda task, source: perform(task, vocabulary, self._kept, source))

    def compile_regex(self, node: PatternNode) -> OutlinesGrammar:
        """Texts that the pattern matches as a whole. Raises `ConstraintError` for one that is too large for a table,
        or that needs intersection or complement; U+001E is not in the language."""
        try:
            node = plain(node)
        except PatternError as error:
            raise ConstraintError(str(error)) from error
        if (weight := estimate(node)) > MOST_POSITIONS:
            raise ConstraintError(
                f"the pattern is too large for outlines' tables (weight {weight:,}; at most {MOST_POSITIONS:,}): "
                "use another engine"
            )
        node = without_sentinel(node)
        if node == NOTHING:
            raise ConstraintError("no text matches the pattern")
        artefact = self._build(TASK, to_rust(node))
        try:
            index = _outlines().Index.from_binary(artefact)
        except ValueError as error:
            raise ConstraintError(f"what was compiled cannot be read: {error}") from error
        return OutlinesGrammar(self.vocabulary, index, self._masks)


class OutlinesGrammar:
    """A `CompiledGrammar`: an index, with the masks of its last states."""

    engine = "outlines"

    def __init__(self, vocabulary: Vocabulary, index: Any, masks: CacheBudget) -> None:
        self.vocabulary, self.index = vocabulary, index
        self.sentinel = vocabulary.eos_ids[0]
        self.next: Callable[[int, int], int | None] = index.get_next_state  # by state and token
        self.state = kept(STATES_KEPT, lambda args, state: 4 * mask_words(vocabulary.size), masks)(self._state)

    def matcher(self) -> OutlinesMatcher:
        return OutlinesMatcher(self, [self.index.get_initial_state()])

    def allowed(self, number: int) -> tuple[list[int], bool]:
        """The tokens that may follow, and whether the text may end."""
        ids: list[int] = self.index.get_allowed_tokens(number) or []
        ends = self.next(number, self.sentinel) is not None
        return ([i for i in ids if i != self.sentinel] if ends else ids), ends

    def _state(self, number: int) -> tuple[Mask, bytes, bool]:
        """The mask of a state, the bytes that are forced in it, and whether these were cut."""
        ids, ends = self.allowed(number)
        return self.vocabulary.mask_of(ids), *self._forced(ids, ends, number)

    def _forced(self, ids: list[int], ends: bool, number: int) -> tuple[bytes, bool]:
        """The bytes that every text goes on with, and whether they were cut at `MOST_FORCED_BYTES`."""
        data = b""
        while ids and not ends:
            tokens = [self.vocabulary.bytes[i] for i in ids]
            least = min(tokens, key=len)
            if not all(token.startswith(least) for token in tokens):
                break
            data += least
            if len(data) >= MOST_FORCED_BYTES:
                return data, True
            after = self.next(number, ids[tokens.index(least)])
            assert after is not None
            number = after
            ids, ends = self.allowed(number)
        return data, False


class OutlinesMatcher:
    """A `Matcher`. `states`: one for the beginning and one after each accepted token."""

    __slots__ = ("compiled", "states")

    def __init__(self, compiled: OutlinesGrammar, states: list[int]) -> None:
        self.compiled, self.states = compiled, states

    def fork(self) -> OutlinesMatcher:
        return OutlinesMatcher(self.compiled, self.states[:])

    def accept(self, token: int) -> bool:
        after = None if token == self.compiled.sentinel or token < 0 else self.compiled.next(self.states[-1], token)
        if after is None:
            return False
        self.states.append(after)
        return True

    def rollback(self, count: int) -> None:
        if count >= len(self.states):
            raise ValueError(f"cannot take back {count} of {len(self.states) - 1} tokens")
        if count:
            del self.states[-count:]

    def fill(self, row: Mask) -> None:
        mask, forced, _ = self.compiled.state(self.states[-1])
        first = self.compiled.vocabulary.first_forced(forced)
        if first is None:
            row[:] = mask
        else:
            set_only(row, first)

    def allows(self, token: int) -> bool:
        row = self.compiled.vocabulary.new_row()
        self.fill(row)
        return has(row, token)

    def forced(self) -> list[int]:
        _, forced, is_cut = self.compiled.state(self.states[-1])
        return self.compiled.vocabulary.settled(forced, cut=is_cut)

    def can_end(self) -> bool:
        return self.compiled.next(self.states[-1], self.compiled.sentinel) is not None

    def is_done(self) -> bool:
        return self.can_end() and not self.compiled.state(self.states[-1])[0].any()


def estimate(node: PatternNode) -> int:
    """How large the automaton of a plain pattern may be: its characters with repeats written out, wide classes weighed
    more."""

    @cache
    def weigh(node: PatternNode) -> int:
        if isinstance(node, Chars):
            wide = sum(high - low + 1 for low, high in node.ranges) > _WIDE_CLASS
            return (_WIDE_WEIGHT if wide else 1) + len(node.ranges)
        if isinstance(node, Repeat):
            return weigh(node.node) * (max(node.low, 1) if node.high is None else node.high)
        return sum(map(weigh, children(node)))

    return weigh(node) if size(node) <= MOST_POSITIONS else size(node)


def without_sentinel(node: PatternNode) -> PatternNode:
    """The pattern without the texts that hold U+001E."""
    if isinstance(node, Chars):
        return Chars(chars.difference(node.ranges, ((SENTINEL, SENTINEL),)))
    return rebuilt(node, without_sentinel)


# -- what the worker process does


def index_artefact(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Compile a pattern (Rust's syntax, without U+001E) to an index."""
    outlines = _outlines()
    if "outlines" not in kept:
        kept["outlines"] = _outlines_vocabulary(outlines, table)
    try:
        index = outlines.Index(f"(?:{source})\\x1e", kept["outlines"])
    except ValueError as error:
        raise ConstraintError(f"outlines refuses the pattern: {str(error)[:300]}") from error
    _, (data, *_) = index.__reduce__()
    return bytes(data)


def version() -> str:
    """The engine and its version, for cache keys."""
    return f"outlines-core {installed_version('outlines-core')}"


def _outlines_vocabulary(outlines: Any, table: TokenTable) -> Any:
    ids: dict[bytes, list[int]] = {}
    for i, data in enumerate(table.bytes):
        if data and SENTINEL not in data:
            ids.setdefault(data, []).append(i)
    ids[bytes([SENTINEL])] = [table.eos_ids[0]]
    return outlines.Vocabulary(table.size, ids)  # its own end-of-text id is one that no mask reaches


def _outlines() -> Any:
    try:
        return importlib.import_module("outlines_core")
    except ImportError as error:
        raise OptionError("grammar_backend='outlines' needs outlines-core: pip install outlines-core") from error
