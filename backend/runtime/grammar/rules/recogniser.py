"""A recogniser of a grammar's texts, fed character by character: `Recogniser`, and `is_text` for a whole text.

Knows nothing of tokens or engines. It is Earley's algorithm (1970) over `automata.py`: exact for every grammar, left or
right recursive, ambiguous or with empty rules.

1. An item is a state of a rule and the `RuleCall` that the rule answers. A call keeps the items that wait for it, so
   items share their pasts (a graph-structured stack). What no item leads to any more is freed.
2. A chain of calls of which each ends with the next is skipped at once (Leo 1991), so right recursion is linear.
3. Every item leads to an end. So `feed` refuses the first character after which no text goes on.
4. Items and complete calls never change, so a copy of a recogniser shares them.
"""

from __future__ import annotations

from collections.abc import Iterator

from .automata import RuleAutomata, RuleState
from .nodes import RuleSet

MOST_BEGUN_BYTES = 3
"""Bytes of a character of UTF-8 that is not whole."""


class RuleCall:
    """A use of a rule that began somewhere in the text. `waiters`: the items that go on when it ends.

    `skip`: the call that ends wherever this one does, with nothing between. `up`, `via`: the least cost from the end of
    the rule to the end of the text, and the state and the call on the way (`completion.py`).
    """

    __slots__ = ("rule", "skip", "up", "via", "waiters")

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.waiters: list[Item] = []
        self.skip: RuleCall | None = None
        self.up: float | None = None
        self.via: Item | None = None


Item = tuple[RuleState, RuleCall]


class Recogniser:
    """The place of one text in a grammar. `items`: what the text may be so far. `begun`: bytes of a begun character."""

    __slots__ = ("automata", "begun", "items", "whole")

    def __init__(self, automata: RuleAutomata) -> None:
        self.automata = automata
        self.whole = RuleCall("")  # the text
        self.whole.up = 0
        start = automata.start(automata.grammar.root)
        assert start is not None
        self.begun = b""
        self.items: tuple[Item, ...] = self._closed({(start, self.whole): None})

    def copy(self) -> Recogniser:
        """Return an independent copy."""
        other = Recogniser.__new__(Recogniser)
        other.automata, other.whole, other.items, other.begun = self.automata, self.whole, self.items, self.begun
        return other

    def can_end(self) -> bool:
        """Whether the text so far is a text of the grammar."""
        return not self.begun and any(state.ends and call is self.whole for state, call in self.items)

    def feed(self, character: str) -> bool:
        """Take a character. False, and nothing changes, if no text of the grammar goes on with it."""
        return self._feed(ord(character))

    def feed_text(self, text: str) -> bool:
        """Take a text. False, and nothing changes, if no text of the grammar goes on with it."""
        before = self.items
        for character in text:
            if not self._feed(ord(character)):
                self.items = before
                return False
        return True

    def feed_bytes(self, data: bytes) -> bool:
        """Take bytes of UTF-8, the last character maybe in part. False, and nothing changes, if no text goes on so."""
        data = self.begun + data
        whole = len(data) - _begun(data)
        try:
            text = data[:whole].decode()
        except UnicodeDecodeError:
            return False
        before = self.items, self.begun
        self.begun = b""
        if self.feed_text(text):
            self.begun = data[whole:]
            if not self.begun or next(self.finishing(), None) is not None:
                return True
        self.items, self.begun = before
        return False

    def finishing(self) -> Iterator[tuple[int, Item]]:
        """Yield some characters that the begun one may become, of all kinds, each with an item after it."""
        among = span(self.begun)
        for state, call in self.items:
            for code, after in self.automata.choices(state, among):
                yield code, (after, call)

    def _feed(self, code: int) -> bool:
        items = self.items
        if len(items) == 1:
            state, call = items[0]
            after = state.step(code)
            if after is not None and after.inert:  # within a literal, a string, a number: no rule begins or ends
                self.items = ((after, call),)
                return True
        found: dict[Item, None] = {}
        for state, call in items:
            after = state.step(code)
            if after is not None:
                found[after, call] = None
        if not found:
            return False
        self.items = self._closed(found)
        return True

    def _closed(self, found: dict[Item, None]) -> tuple[Item, ...]:
        """Add the rules that may begin at this place and the items that go on because a rule has ended here."""
        begun: dict[str, RuleCall] = {}
        new: set[RuleCall] = set()  # their empty texts are skipped where they stand (`automata.py`)
        ended: set[RuleCall] = set()
        pending = list(found)
        while pending:
            state, call = item = pending.pop()
            more: list[Item] = []
            for rule in state.calls:
                called = begun.get(rule)
                if called is None:
                    start = self.automata.start(rule)
                    assert start is not None
                    called = begun[rule] = RuleCall(rule)
                    new.add(called)
                    more.append((start, called))
                called.waiters.append(item)
            if state.ends and call is not self.whole and call not in new:
                last = self._last(call)
                if last not in ended:
                    ended.add(last)
                    more += [(waiting.goto(last.rule), above) for waiting, above in last.waiters]
            for each in more:
                if each not in found:
                    found[each] = None
                    pending.append(each)
        # What can only end has done all it will, but at the end of the text.
        return tuple(item for item in found if not item[0].over or item[1] is self.whole)

    def _last(self, call: RuleCall) -> RuleCall:
        """Return the last call of the chain of calls that end where this one does."""
        chain: list[RuleCall] = []
        while True:
            if call.skip is not None:
                call = call.skip
                break
            if len(call.waiters) != 1:
                break
            state, above = call.waiters[0]
            if above is self.whole or not state.goto(call.rule).over:
                break
            chain.append(call)
            call = above
        for each in chain:
            each.skip = call
        return call


def is_text(grammar: RuleSet | RuleAutomata, text: str) -> bool:
    """Whether a text is one of the grammar's. Raises `PatternError` for a grammar that is too deep or has no text."""
    automata = RuleAutomata(grammar) if isinstance(grammar, RuleSet) else grammar
    place = Recogniser(automata)
    return place.feed_text(text) and place.can_end()


def _begun(data: bytes) -> int:
    """Return the number of bytes at the end that begin a character which is not whole."""
    for count in range(1, min(MOST_BEGUN_BYTES, len(data)) + 1):
        first = data[-count]
        if first >= 0xC0:
            return count if count < (2 if first < 0xE0 else 3 if first < 0xF0 else 4) else 0
        if first < 0x80:
            return 0
    return 0


def span(begun: bytes) -> tuple[tuple[int, int]]:
    """Return the characters whose UTF-8 begins with these bytes, as a range; without those that have a shorter form."""
    first = begun[0]
    length, bits = (2, first & 0x1F) if first < 0xE0 else (3, first & 0x0F) if first < 0xF0 else (4, first & 0x07)
    for byte in begun[1:]:
        bits = bits << 6 | byte & 0x3F
    missing = 6 * (length - len(begun))
    return ((max(bits << missing, (0x80, 0x800, 0x10000)[length - 2]), min((bits + 1 << missing) - 1, 0x10FFFF)),)
