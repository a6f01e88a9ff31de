"""The way to close: tokens that complete a constrained text from where it is, found by search.

Knows nothing of budgets (`job/rule.py`). Grammars are opaque, so the search tries what tends to close: quotes within
strings, brackets outside them, digits before words. A pattern may want anything at its end, so each regular part has a
*witness*, a shortest text of it: from nearly anywhere in a pattern, some end of its witness completes it.

A greedy walk finds most ends. Where it finds none, a breadth-first search does, in which two texts of equal length with
equal masks count as one. What is found does close; that nothing shorter does is not proven.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt

from .....lang.pattern import PatternError, PatternNode, shortest
from ..protocol import Mask, Matcher, mask_words
from ..schema.languages import parse_spelled
from ..schema.nodes import (
    ANYTHING,
    IMPOSSIBLE,
    ArraySchema,
    EnumSchema,
    LoweredSchema,
    NeverSchema,
    ObjectSchema,
    ReferenceSchema,
    SchemaNode,
    SchemaVisitor,
    StringSchema,
    UnionSchema,
)
from ..vocabulary import Vocabulary

BEAM_TEXTS = 16  # that the breadth-first search keeps a layer
MOST_WORK = 8_000
"""What one search may take: `MASK_WORK` for a mask, 1 for a token tried; about 50 ms at 50,000 tokens. It is no time,
because what is found decides what is sampled, and that may not depend on how fast the machine is."""
MASK_WORK = 16
MOST_WITNESSES, LONGEST_WITNESS_BYTES = 32, 400
MOST_CLOSING_TOKENS = 2_000  # of the first greedy walk
MOST_SEARCHED_TOKENS = 400  # of the second one, and layers of the breadth-first search
MOST_CANDIDATES = 96  # tokens of a mask that are all tried
LAST_CANDIDATES = 16  # that are tried of a larger mask, beside the handy ones


class Closer:
    """Finds closing tokens, for one vocabulary. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.size = vocabulary.size
        ids = [i for i, data in enumerate(vocabulary.bytes) if data]
        self.free = np.array(sorted(ids, key=lambda i: _in_free_text(vocabulary.bytes[i])), dtype=np.int64)
        self.structure = np.array(sorted(ids, key=lambda i: _in_structure(vocabulary.bytes[i])), dtype=np.int64)
        self.many = len(ids) // 2
        self.closes = np.zeros(vocabulary.size, dtype=bool)  # brackets and quotes: in JSON they are taken at once
        self.closes[[i for i in ids if not vocabulary.bytes[i].strip(b'"]}')]] = True
        self.first = np.array([data[0] if data else 0 for data in vocabulary.bytes], dtype=np.uint8)
        self.words = np.zeros(vocabulary.size, dtype=bool)
        self.words[[i for i in ids if _in_structure(vocabulary.bytes[i])[0] == _WORD]] = True
        single = [i for i in ids if len(vocabulary.bytes[i]) == 1]
        self.handy = np.array([*self.structure[:32], *self.free[:8], *single], dtype=np.int64)
        self.spelled = lru_cache(4096)(lambda data: tuple(vocabulary.spell(data)))

    def path(
        self,
        matcher: Matcher,
        limit: int,
        witnesses: Sequence[bytes] = (),
        json: bool = False,
        work: int = MOST_WORK,
    ) -> list[int] | None:
        """Return at most `limit` tokens that complete the text, or None if none were found. `matcher` stays as it is.

        `witnesses`: texts of the constraint's regular parts. `json`: only strings are regular parts. `work`: what the
        search may take.
        """
        search = _ClosingSearch(self, witnesses, json, work)
        found = search.greedy(matcher, min(limit, MOST_CLOSING_TOKENS))
        if found is not None or limit <= 0:
            return found
        limit = min(limit, MOST_SEARCHED_TOKENS)
        found = search.greedy(matcher, limit, last=True)
        return search.breadth_first(matcher, limit) if found is None else found


class _ClosingSearch:
    """One search, with its own row for masks. `left`: the work that it may still do."""

    def __init__(self, closer: Closer, witnesses: Sequence[bytes], json: bool, work: int) -> None:
        self.closer, self.witnesses, self.json = closer, witnesses, json
        self.row: Mask = np.zeros(mask_words(closer.size), dtype=np.int32)
        self.left = work

    def greedy(self, matcher: Matcher, limit: int, last: bool = False) -> list[int] | None:
        """Follow the likeliest token, step by step. `last`: of words, take the last; the first may lead in a circle."""
        at = matcher.fork()
        path: list[int] = []
        while len(path) <= limit:
            if at.can_end():
                return path
            step: Sequence[int] = at.forced() or self._likely(at, last)
            self.left -= len(step)
            if not step or not all(at.accept(token) for token in step) or self.left < 0:
                return None
            path += step
        return None

    def _likely(self, at: Matcher, last: bool = False) -> Sequence[int]:
        allowed = self._allowed(at)
        best: list[int] = allowed[:1].tolist()
        if last and best and self.closer.words[best[0]]:
            best = allowed[-1:].tolist()
        if self.json and best and self.closer.closes[best[0]]:
            return best
        return self._witnessed(at) or best

    def _witnessed(self, at: Matcher) -> Sequence[int]:
        """Return the shortest end of a witness that completes its part here, as tokens; () if none does."""
        found: Sequence[int] = ()
        for witness in self.witnesses:
            for start in range(len(witness) - 1, -1, -1):
                step = self.closer.spelled(witness[start:])
                if found and len(step) >= len(found):
                    break
                after = at.fork()
                self.left -= 1
                if step and all(after.accept(token) for token in step) and self._is_over(after):
                    found = step
                    break
        return found

    def _is_over(self, after: Matcher) -> bool:
        """Whether a part is complete here: the text may end, in JSON a quote may come, or one character must."""
        if after.can_end() or after.forced():
            return True
        allowed = self._allowed(after)
        if not len(allowed):
            return False
        first = self.closer.first[allowed]
        return bool(self.json and self.closer.closes[allowed[0]]) or bool((first == first[0]).all())

    def breadth_first(self, matcher: Matcher, limit: int) -> list[int] | None:
        """Search in layers of texts of equal length."""
        layer: list[tuple[Matcher, list[int]]] = [(matcher.fork(), [])]
        for _ in range(limit):
            seen: dict[bytes, tuple[Matcher, list[int]]] = {}
            for at, path in layer:
                for token in self._candidates(at):
                    self.left -= 1
                    if self.left < 0:
                        return None
                    after = at.fork()
                    if not after.accept(token):
                        continue
                    if after.can_end():
                        return [*path, token]
                    after.fill(self.row)
                    self.left -= MASK_WORK
                    seen.setdefault(self.row.tobytes(), (after, [*path, token]))
            layer = list(seen.values())[:BEAM_TEXTS]
            if not layer:
                return None
        return None

    def _candidates(self, matcher: Matcher) -> Iterator[int]:
        forced = matcher.forced()
        if forced:
            yield forced[0]
            return
        allowed = self._allowed(matcher)
        if len(allowed) > MOST_CANDIDATES:
            handy = self.closer.handy[self._bits()[self.closer.handy]]
            allowed = np.concatenate([handy, allowed[-LAST_CANDIDATES:]])
        yield from dict.fromkeys(allowed.tolist())

    def _allowed(self, matcher: Matcher) -> npt.NDArray[np.int64]:
        """Return the tokens that the mask allows, those that most likely close first."""
        matcher.fill(self.row)
        self.left -= MASK_WORK
        bits = self._bits()
        order = self.closer.free if np.count_nonzero(bits) > self.closer.many else self.closer.structure
        return order[bits[order]]

    def _bits(self) -> npt.NDArray[np.bool_]:
        return np.unpackbits(self.row.view(np.uint8), count=self.closer.size, bitorder="little").view(np.bool_)


def _in_free_text(data: bytes) -> tuple[int, int]:
    """Rank a token where nearly everything is allowed: what ends a string, then long words, to reach a least length."""
    if data[:1] == b'"' and not data[1:].strip(b"]}"):
        return 0, -len(data)
    return 1, -min(len(data), 16) if data.isalpha() and data.isascii() else 0


_WORD = 6


def _in_structure(data: bytes) -> tuple[int, int]:
    """Rank a token elsewhere: brackets that close, `null`, a quote, digits, punctuation, openers, words."""
    if not data.strip(b"]}"):
        return 0, -len(data)
    if data == b"null":
        return 1, 0
    if data in (b'"', b")"):
        return 2, 0
    if data.isdigit():
        return 3, len(data)
    if len(data) == 1 and not data.isalpha() and data not in b"[{(\\":
        return 4, 0
    if data in (b"[", b"{", b"("):
        return 5, 0
    return _WORD, -min(len(data), 16) if data.isalpha() and data.isascii() else len(data)


# -- what is known of a constraint before anything is generated


def witness(node: PatternNode) -> bytes | None:
    """Return a shortest text of a pattern; None for one that is too long or not soon found."""
    try:
        text = shortest(node)
    except PatternError:
        return None
    return text.encode() if text is not None and 0 < len(text) <= LONGEST_WITNESS_BYTES else None


def schema_witnesses(schema: LoweredSchema) -> tuple[bytes, ...]:
    """Return shortest texts of the patterns of strings in a lowered schema."""
    patterns = dict.fromkeys(p for node in schema.nodes() if isinstance(node, StringSchema) for p in node.patterns)
    found = (text for pattern in patterns if (text := _of_pattern(pattern)) is not None)
    return tuple(islice(dict.fromkeys(found), MOST_WITNESSES))


@lru_cache(1024)
def _of_pattern(pattern: str) -> bytes | None:
    try:
        return witness(parse_spelled(pattern))
    except PatternError:
        return None


def heaviest(schema: LoweredSchema) -> int:
    """Return the most characters that any place of a lowered schema asks for at least.

    So much one opening bracket or comma may add to the way to the end.
    """
    sizes = _LeastSizes(schema)
    return max(sizes.visit(node) for node in schema.nodes())


class _LeastSizes(SchemaVisitor[[], int]):
    """The least size of a value of each node, in characters; 1 where it is not told."""

    MOST_LEVELS = 60

    def __init__(self, schema: LoweredSchema) -> None:
        super().__init__(schema)
        self._known: dict[str, int] = {}

    def visit_reference(self, node: ReferenceSchema) -> int:
        if node.name not in self._known:
            self._known[node.name] = 1  # within itself
            self._known[node.name] = super().visit_reference(node)
        return self._known[node.name]

    def visit_union(self, node: UnionSchema) -> int:
        return min((self.visit(branch) for branch in node.branches), default=1)

    def visit_enum(self, node: EnumSchema) -> int:
        return min(len(str(value)) + 2 for value in node.values)

    def visit_object(self, node: ObjectSchema) -> int:
        members = (len(name) + 6 + self.visit(node.properties.get(name, IMPOSSIBLE)) for name in node.required)
        return 2 + sum(members)

    def visit_array(self, node: ArraySchema) -> int:
        rest = 1 if node.rest is ANYTHING else self.visit(node.rest)
        return 2 + node.least * (2 + rest) + sum(2 + self.visit(item) for item in node.prefix)

    def visit_string(self, node: StringSchema) -> int:
        return 2 + max(node.least, *(len(_of_pattern(pattern) or b"") for pattern in node.patterns), 0)

    def visit_never(self, node: NeverSchema) -> int:
        return 1

    def otherwise(self, node: SchemaNode) -> int:
        return 2

    def again(self, node: SchemaNode) -> int:
        return 1
