"""The known way to close: a least text that completes what is there, as tokens that the engine's matcher confirms.

Knows nothing of budgets (`job/rule.py`). The grammar of a constraint as rules (`rules/`) says which texts complete it,
those of the fewest bytes first. The engine may allow a little less than the rules do (keys that repeat, spellings of
numbers), so the matcher follows each way token by token, and the next way is tried where it refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from .....lang.constraint import Constraint, Control, Either, Grammar, JsonSchema, Repeated
from .....lang.kept import CacheBudget
from .....lang.pattern import (
    Alt,
    Both,
    Chars,
    Concat,
    Not,
    PatternError,
    PatternNode,
    Repeat,
    both,
    either,
    literal,
    sequence,
)
from .....lang.pattern.chars import ALL, difference
from .....lang.pattern.nodes import rebuilt, repeated
from .....lang.structure import controls
from ..lexemes import regular
from ..protocol import Matcher
from ..raw import rule_set as grammar_rules
from ..rules.automata import RuleAutomata
from ..rules.completion import bytes_left, completions
from ..rules.derived import BYTE_COST
from ..rules.nodes import RuleRef, RuleSet
from ..rules.recogniser import Recogniser
from ..rules.schema_rules import schema_rules
from ..schema.nodes import LoweredSchema
from ..vocabulary import CONTROL_CODES, Vocabulary
from .deepest import deepest
from .fewest import TOKEN_PRICE, FewestSearch, token_prices

MOST_WAYS = 64
"""Completions that are tried of one text: the least one is refused only where the engine allows less than the rules."""
SHORTER_WAYS = 6
"""Completions that are spelled in tokens to find one with fewer tokens: fewer bytes are not always fewer tokens."""
MOST_WAY_BYTES = 20_000
"""A longer way is never spelled: no budget holds it."""
MOST_LEAST_BYTES = 200_000
"""Of a shortest text: the engine looks ahead over all that is forced, and no budget holds it."""
WAYS_BYTES = 64 << 20
"""What is kept of texts that were met, of all constraints of a runtime; when that is full, all is forgotten."""


def rule_set(constraint: Constraint, documents: dict[JsonSchema, LoweredSchema]) -> RuleSet | None:
    """Return the grammar of a constraint as rules; None if it is not known. `documents`: its schemas, lowered."""
    if isinstance(constraint, Grammar):
        return grammar_rules(constraint)
    rules: dict[str, PatternNode] = {}
    try:
        letters = controls(constraint)
        root = _node(constraint, documents, rules, letters)
    except (PatternError, RecursionError):
        return None
    if root is None:
        return None
    rules = {"": root, **rules}
    return RuleSet(_apart(rules, len(letters)) if letters else rules, "")


def _apart(rules: dict[str, PatternNode], count: int) -> dict[str, PatternNode]:
    """Take the characters that stand for control tokens out of all text."""
    letters = ((CONTROL_CODES, CONTROL_CODES + count - 1),)
    others = Chars(difference(ALL, letters))
    known: dict[PatternNode, PatternNode] = {}

    def without(node: PatternNode) -> PatternNode:
        if node not in known:
            if isinstance(node, Chars):
                known[node] = Chars(difference(node.ranges, letters))
            elif node.plain:
                known[node] = rebuilt(node, without)
            else:
                known[node] = both(node, repeated(others, 0, None))
        return known[node]

    alone = (Chars(((CONTROL_CODES + at, CONTROL_CODES + at),)) for at in range(count))
    known.update((node, node) for node in alone)
    return {name: without(node) for name, node in rules.items()}


def too_long(automata: RuleAutomata) -> str:
    """Return why a grammar is refused, if its shortest text has too many bytes; else ""."""
    least = int(automata.costs[automata.grammar.root] // BYTE_COST)
    if least <= MOST_LEAST_BYTES:
        return ""
    return (
        f"the shortest text has {least:,} bytes, and no more than {MOST_LEAST_BYTES:,} are taken; "
        "use smaller repeat counts"
    )


def _node(
    constraint: Constraint,
    documents: dict[JsonSchema, LoweredSchema],
    rules: dict[str, PatternNode],
    letters: list[str],
) -> PatternNode | None:
    node = regular(constraint)
    if node is not None:
        return node
    if isinstance(constraint, JsonSchema):
        return schema_rules(documents[constraint], rules, f"{len(rules)}.")
    if isinstance(constraint, Control):
        code = CONTROL_CODES + letters.index(constraint.text)
        rules[name := f"{len(rules)}."] = Chars(((code, code),))
        return RuleRef(name)
    nodes = [_node(each, documents, rules, letters) for each in constraint.inner]
    known = [each for each in nodes if each is not None]
    if len(known) < len(nodes) or not nodes:
        return None  # a grammar among other parts, which no engine takes
    if isinstance(constraint, Repeated):
        return _rounds(known[0], constraint, rules)
    return either(known) if isinstance(constraint, Either) else sequence(known)


def _rounds(part: PatternNode, of: Repeated, rules: dict[str, PatternNode]) -> PatternNode:
    """Return the rounds of a repeat; the part is a rule of its own, since its place may be met again."""
    rules[name := f"{len(rules)}."] = part
    each: PatternNode = RuleRef(name)
    if not of.separator:
        return repeated(each, of.least, of.most)
    again = sequence([literal(of.separator), each])
    rounds = sequence([each, repeated(again, max(of.least - 1, 0), None if of.most is None else of.most - 1)])
    return rounds if of.least else repeated(rounds, 0, 1)


class _Begun(NamedTuple):
    """The beginning of a way that a matcher has taken."""

    data: bytes
    matcher: Matcher
    tokens: list[int]


class KnownWays:
    """The ways to close the texts of one constraint. Thread-safe.

    `budget`: counts what is kept of the texts that were met, of all constraints of a runtime (None: of this one alone).
    `held`: the bytes of that here, beyond what an unused constraint takes.
    `longest_step`: the bytes that one character may add to the way at most, within one rule.
    Raises `PatternError` for rules that are too deep or have no text.
    """

    def __init__(self, grammar: RuleSet, vocabulary: Vocabulary, budget: CacheBudget | None = None) -> None:
        self.vocabulary = vocabulary
        self.automata = RuleAutomata(grammar)
        self._budget = CacheBudget(WAYS_BYTES) if budget is None else budget
        self._lock = threading.Lock()
        self._empty()
        self._budget.add(self)

    def _empty(self) -> None:
        self.automata.forget()
        self._start = Recogniser(self.automata)
        self._unused, self._taken = self.automata.size, self.automata.taken
        self.held, self._full = 0, False

    def forget(self) -> None:
        """Drop what is kept of texts; where it is in use now, when that use ends."""
        self._full = True
        if self._lock.acquire(blocking=False):
            try:
                self._empty()
            finally:
                self._lock.release()

    def _count(self) -> None:
        """Count what was made since the last time. Called with the lock held, at the end of a use."""
        if self.automata.taken == self._taken and not self._full:
            return
        self._taken = self.automata.taken
        more = self.automata.size - self._unused - self.held
        if more > 0 and not self._full:
            self._budget.hold(self, more)
        if more < 0 or self._full:  # the automata were full, or the budget is
            self._empty()

    def start(self) -> Recogniser:
        """Return the place before any text."""
        return self._start.copy()

    @cached_property
    def deepest(self) -> int | None:
        """The most tokens that any text needs to its end, if known."""
        with self._lock:
            return deepest(self.automata, self.vocabulary.by_bytes) if self.vocabulary.spells_all else None

    @cached_property
    def longest_step(self) -> int:
        """The bytes that one character may add to the way to the end at most, within one rule."""
        known: dict[PatternNode, float] = {}
        try:
            with self._lock:
                steps = [_longest_step(node, self.automata, known) for node in self.automata.grammar.rules.values()]
        except RecursionError:
            return MOST_WAY_BYTES
        return int(max(steps) // BYTE_COST)

    def follow(self, place: Recogniser, tokens: Sequence[int]) -> bool:
        """Take tokens. False, and nothing changes, if the rules do not go on so."""
        with self._lock:
            taken = place.feed_bytes(b"".join([self.vocabulary.bytes[token] for token in tokens]))
            self._count()
            return taken

    def bytes_left(self, place: Recogniser) -> int:
        """Return the bytes of a least text that completes the text so far."""
        with self._lock:
            return bytes_left(place)

    def fewest(self, matcher: Matcher, limit: int) -> tuple[list[int] | None, int]:
        """Search for a whole text of at most `limit` tokens, from a `matcher` at the beginning of a text.

        Return its tokens (None: none was found), and how many tokens every text has at least. The search takes a while
        (`fewest.py`). Where the engine forces text, it may spell it in more tokens than the first search found. Then a
        second one counts forced text as the engine spells it.
        """
        vocabulary = self.vocabulary
        automata = RuleAutomata(self.automata.grammar, token_prices(self.vocabulary.longest_with))
        found = FewestSearch(automata, vocabulary.trie, TOKEN_PRICE).run(Recogniser(automata), limit)
        if found.text is None:
            return None, found.bound
        begin = _Begun(b"", matcher, [])
        tokens = self._confirmed(begin, found.text, [])[0]
        if tokens is not None and len(tokens) > found.bound:
            search = FewestSearch(automata, vocabulary.trie, TOKEN_PRICE, first_forced=self._first_forced)
            again = search.run(Recogniser(automata), min(limit, len(tokens) - 1))
            other = None if again.text is None else self._confirmed(begin, again.text, [])[0]
            tokens = tokens if other is None or len(other) > len(tokens) else other
        return tokens, found.bound

    def _first_forced(self, data: bytes) -> bytes | None:
        token = self.vocabulary.first_forced(data)
        return None if token is None else self.vocabulary.bytes[token]

    def path(self, place: Recogniser, matcher: Matcher, limit: int) -> list[int] | None:
        """Return the tokens of a way to close from a place, where `matcher` is too; None if it confirms none.

        The way has at most `limit` tokens if one of those that are tried has; else it may have more.
        """
        with self._lock:
            if bytes_left(place) > MOST_WAY_BYTES:
                return None
            best: list[int] | None = None
            refused: list[bytes] = []
            begun = _Begun(b"", matcher, [])
            for tried, data in enumerate(islice(completions(place, refused), MOST_WAYS)):
                if best is not None and tried >= SHORTER_WAYS:
                    break
                begun = begun if data.startswith(begun.data) else _Begun(b"", matcher, [])
                found, begun = self._confirmed(begun, data, refused)
                if found is not None and (best is None or len(found) < len(best)):
                    best = found
                    if len(best) <= max(limit, 1):
                        break
            self._count()
            return best

    def _confirmed(self, begun: _Begun, data: bytes, refused: list[bytes]) -> tuple[list[int] | None, _Begun]:
        """Return the tokens of a way that has begun, if the matcher takes them, and how far it took them.

        Else what it refuses of the way goes to `refused`. Forced tokens are taken as the engine spells them.
        """
        at, done, tokens = begun.matcher.fork(), len(begun.data), begun.tokens[:]
        words, fewest = self.vocabulary.by_bytes, self._fewest(data)
        while done < len(data):
            step = at.forced()
            if step:
                spelled = b"".join([self.vocabulary.bytes[token] for token in step])
                if not data.startswith(spelled, done) or not all(at.accept(token) for token in step):
                    refused += _differing(data, done, spelled)
                    return None, begun  # some of what is forced may be taken
            else:
                ends = reversed(self.vocabulary.trie.ends_from(data, done))
                known = [(fewest[end], words[data[done:end]][0]) for end in ends]
                found = (token for _, token in sorted(known, key=lambda each: each[0]) if at.allows(token))
                token = next(found, None)
                if token is None or not at.accept(token):
                    refused.append(data[: done + 1])
                    return None, _Begun(data[:done], at, tokens)
                step, spelled = [token], self.vocabulary.bytes[token]
            tokens += step
            done += len(spelled)
        return (tokens if at.can_end() else None), begun

    def _fewest(self, data: bytes) -> list[int]:
        """Return for each place in a text the fewest tokens that spell the rest."""
        trie, never = self.vocabulary.trie, len(data) + 1
        fewest = [never] * len(data) + [0]
        for start in range(len(data) - 1, -1, -1):
            fewest[start] = 1 + min((fewest[end] for end in trie.ends_from(data, start)), default=never)
        return fewest


def _differing(data: bytes, done: int, forced: bytes) -> list[bytes]:
    """Return the beginning of `data` that is not what is forced behind `done`; none if more is forced than there is."""
    return [data[:end] for end in range(done + 1, len(data) + 1) if not forced.startswith(data[done:end])][:1]


def _longest_step(node: PatternNode, automata: RuleAutomata, known: dict[PatternNode, float]) -> float:
    """Return the most that is left of a text of a node within it, as a cost."""
    found = known.get(node)
    if found is not None:
        return found
    most: float = 0
    if isinstance(node, Concat):
        after: float = 0
        for part in reversed(node.parts):
            most = max(most, _longest_step(part, automata, known) + after)
            after += automata.cost(part)
    elif isinstance(node, Alt):
        most = max(_longest_step(part, automata, known) for part in node.parts)
    elif isinstance(node, Repeat):
        again = max(node.low - 1, 0)
        most = _longest_step(node.node, automata, known) + (again * automata.cost(node.node) if again else 0)
    elif isinstance(node, (Both, Not)):
        most = automata.cost(node) + 8 * BYTE_COST
    else:
        most = automata.cost(node)
    known[node] = most if most < MOST_WAY_BYTES * BYTE_COST else 0
    return known[node]
