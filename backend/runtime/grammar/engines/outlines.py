"""outlines-core as an engine: small regular patterns as an explicit automaton over tokens.

Owns: the way to an exact index, its masks, and the shortest way to an end. Knows nothing of which pattern comes here.

outlines-core 0.2.14 finds the leftmost-first match (`a|ab` never gives "ab") and loses tokens that lead from an
accepting state to one that does not accept. Both vanish if a text accepts only after a sentinel: we compile
`(?:R)\\x1e`, with U+001E taken out of R and out of the vocabulary, and let one end-of-text id stand for the byte 0x1E.
Then a text can end exactly where that id is allowed.

A matcher's state is an integer, so a fork copies a list and a rollback cuts it. An index takes memory for each state
and token (several MB for twenty repeats of a wide class), so large patterns are refused before they are compiled.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np

from .....lang.errors import ConstraintError, OptionError
from .....lang.pattern import PatternError, chars, plain, to_rust
from .....lang.pattern.nodes import NOTHING, Alt, Chars, Concat, PatternNode, Repeat, either, repeated, sequence, size
from ..protocol import Mask, has, mask_words
from ..vocabulary import TokenTable, Vocabulary
from .worker import Build, perform

SENTINEL = 0x1E
MOST_POSITIONS = 4_000
"""Characters that a pattern may span once its repeats are written out, each weighed by how many tokens it meets."""
_WIDE = 64
_WIDE_WEIGHT = 16
MASKS_KEPT = 512
FORCED_BYTES = 256
TASK = ".outlines:index_artefact"


class Outlines:
    """The engine, bound to one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, build: Build | None = None) -> None:
        if not vocabulary.eos_ids:
            raise OptionError("outlines needs a model with an end-of-text token")
        self.vocabulary = vocabulary
        self._kept: dict[str, Any] = {}
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
        return OutlinesGrammar(self.vocabulary, index)


class OutlinesGrammar:
    """An index, with what is looked up in it: masks, forced bytes, ways to an end. Thread-safe."""

    engine = "outlines"

    def __init__(self, vocabulary: Vocabulary, index: Any) -> None:
        self.vocabulary, self.index = vocabulary, index
        self.sentinel = vocabulary.eos_ids[0]
        self.next: Callable[[int, int], int | None] = index.get_next_state
        self._lock = threading.Lock()
        self._states: OrderedDict[int, _State] = OrderedDict()

    def matcher(self) -> OutlinesMatcher:
        return OutlinesMatcher(self, [self.index.get_initial_state()])

    def shortest(self, matcher: OutlinesMatcher) -> list[int]:
        """The fewest tokens that lead from where `matcher` is to an end; [] if it can end."""
        path = []
        state = matcher.states[-1]
        while (step := self._closing.get(state)) is not None:
            path.append(step[0])
            state = step[1]
        return path

    def state(self, number: int) -> _State:
        """What is known of a state. The last `MASKS_KEPT` are kept."""
        with self._lock:
            found = self._states.get(number)
            if found is not None:
                self._states.move_to_end(number)
                return found
        found = _State(self, number)
        with self._lock:
            self._states[number] = found
            while len(self._states) > MASKS_KEPT:
                self._states.popitem(last=False)
        return found

    def allowed(self, number: int) -> tuple[list[int], bool]:
        """The tokens that may follow, and whether the text may end."""
        ids: list[int] = self.index.get_allowed_tokens(number) or []
        ends = self.next(number, self.sentinel) is not None
        return ([i for i in ids if i != self.sentinel] if ends else ids), ends

    @cached_property
    def _closing(self) -> dict[int, tuple[int, int]]:
        """state -> (token, state after it) one token nearer to an end, for states that cannot end. Backward, breadth
        first; of tokens that lead equally far the lowest id."""
        into: dict[int, dict[int, int]] = {}
        layer: list[int] = []
        start = self.index.get_initial_state()
        todo, seen = [start], {start}
        while todo:
            number = todo.pop()
            ids, ends = self.allowed(number)
            if ends:
                layer.append(number)
            for token in ids:
                after = self.next(number, token)
                assert after is not None
                sources = into.setdefault(after, {})
                sources[number] = min(token, sources.get(number, token))
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        closing: dict[int, tuple[int, int]] = {}
        done = set(layer)
        while layer:
            found: dict[int, tuple[int, int]] = {}
            for after in layer:
                for number, token in into.get(after, {}).items():
                    if number not in done and (number not in found or token < found[number][0]):
                        found[number] = token, after
            closing |= found
            done |= found.keys()
            layer = list(found)
        return closing


class _State:
    """A state of an index as masks see it."""

    __slots__ = ("ends", "forced", "forced_cut", "mask")

    def __init__(self, compiled: OutlinesGrammar, number: int) -> None:
        vocabulary = compiled.vocabulary
        ids, self.ends = compiled.allowed(number)
        bits = np.zeros(mask_words(vocabulary.size) * 32, dtype=bool)
        bits[ids] = True
        self.mask: Mask = np.packbits(bits, bitorder="little").view(np.int32)
        self.forced, self.forced_cut = _forced(compiled, ids, self.ends, number)


class OutlinesMatcher:
    """A `protocol.Matcher`. `states`: one for the beginning and one after each accepted token."""

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
        state = self.compiled.state(self.states[-1])
        first = self.compiled.vocabulary.first_forced(state.forced)
        if first is None:
            row[:] = state.mask
        else:
            row.fill(0)
            row.view(np.uint32)[first >> 5] = 1 << (first & 31)

    def allows(self, token: int) -> bool:
        row: Mask = np.empty(mask_words(self.compiled.vocabulary.size), dtype=np.int32)
        self.fill(row)
        return has(row, token)

    def forced(self) -> list[int]:
        state = self.compiled.state(self.states[-1])
        return self.compiled.vocabulary.settled(state.forced, cut=state.forced_cut)

    def can_end(self) -> bool:
        return self.compiled.next(self.states[-1], self.compiled.sentinel) is not None

    def is_done(self) -> bool:
        return self.can_end() and not self.compiled.state(self.states[-1]).mask.any()


def estimate(node: PatternNode) -> int:
    """How large the automaton of a plain pattern may be: characters with repeats written out, wide classes weighed
    more."""
    weighed: dict[PatternNode, int] = {}

    def weigh(node: PatternNode) -> int:
        if node not in weighed:
            if isinstance(node, Chars):
                wide = sum(high - low + 1 for low, high in node.ranges) > _WIDE
                weighed[node] = (_WIDE_WEIGHT if wide else 1) + len(node.ranges)
            elif isinstance(node, Repeat):
                weighed[node] = weigh(node.node) * (max(node.low, 1) if node.high is None else node.high)
            else:
                assert isinstance(node, (Concat, Alt))
                weighed[node] = sum(map(weigh, node.parts))
        return weighed[node]

    return weigh(node) if size(node) <= MOST_POSITIONS else size(node)


def without_sentinel(node: PatternNode) -> PatternNode:
    """The pattern without the texts that hold U+001E."""
    if isinstance(node, Chars):
        return Chars(chars.difference(node.ranges, ((SENTINEL, SENTINEL),)))
    if isinstance(node, Concat):
        return sequence(map(without_sentinel, node.parts))
    if isinstance(node, Alt):
        return either(map(without_sentinel, node.parts))
    assert isinstance(node, Repeat)
    return repeated(without_sentinel(node.node), node.low, node.high)


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
    return outlines.Vocabulary(table.size, ids)  # an end-of-text id that no mask reaches: ours is the sentinel's


def _outlines() -> Any:
    try:
        return importlib.import_module("outlines_core")
    except ImportError as error:
        raise OptionError("grammar_backend='outlines' needs outlines-core: pip install outlines-core") from error


def _forced(compiled: OutlinesGrammar, ids: list[int], ends: bool, number: int) -> tuple[bytes, bool]:
    """The bytes that every text goes on with, and whether they were cut at `FORCED_BYTES`."""
    table = compiled.vocabulary.bytes
    data = b""
    while ids and not ends:
        tokens = [table[i] for i in ids]
        least = min(tokens, key=len)
        if not all(token.startswith(least) for token in tokens):
            break
        data += least
        if len(data) >= FORCED_BYTES:
            return data, True
        after = compiled.next(number, ids[tokens.index(least)])
        assert after is not None
        number = after
        ids, ends = compiled.allowed(number)
    return data, False
