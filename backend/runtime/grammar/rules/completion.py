"""The least text that completes a text of a grammar, from wherever a `Recogniser` is.

Knows nothing of tokens or budgets.

From an item, a text is complete after a least text to the end of its rule, then one from there to the end of the rule
that waits for it, and so on. The cost of what comes after a call is the least over all that wait for it. It is found
once for each call, by the least-cost derivation over calls (Dijkstra 1959; Knuth 1977).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count

from .....lang.pattern.chars import ALL, Ranges, difference
from .derived import BYTE_COST
from .recogniser import Item, Recogniser, RuleCall

MOST_PLACES = 4_000
"""Places that are looked at for texts that are not the least one."""


def bytes_left(place: Recogniser) -> int:
    """Return the bytes of a least text that completes the text so far."""
    return int(_least(place)[0] // BYTE_COST) - len(place.begun)


def completion(place: Recogniser) -> bytes:
    """Return a least text that completes the text so far. It begins with the rest of a character that is not whole."""
    _, item, begin = _least(place)
    state, call = item
    parts = [begin, place.automata.text(state)]
    while call is not place.whole:
        cost_of_call(call)
        assert call.via is not None
        state, call = call.via
        parts.append(place.automata.text(state))
    return "".join(parts).encode()[len(place.begun) :]


def completions(place: Recogniser, refused: Sequence[bytes] = ()) -> Iterator[bytes]:
    """Yield texts that complete the text so far, those of the least cost first; not all there are.

    Where many characters may come, a few of them are tried. What begins with one of `refused` is left out, and other
    characters are tried there. The caller may add to `refused` on the way.
    """
    automata, begun = place.automata, len(place.begun)
    first = completion(place)
    yield first
    order = count(0, -1)  # of equal costs, the longest text first: there may be too many to look at them all
    heap: list[tuple[float, int, float, str, Item | None]] = []

    def push(text: str, cost: float, item: Item) -> None:
        heapq.heappush(heap, (cost + _cost(item), next(order), cost, text, item))

    for item, begin in _places(place):
        push(begin, len(begin.encode()) * BYTE_COST, item)

    def push_after(text: str, cost: float, item: Item) -> None:
        for code, after in automata.choices(item[0], others.get(text, ALL)):
            push(text + chr(code), cost + len(chr(code).encode()) * BYTE_COST, (after, item[1]))

    seen = {first}
    known = 0  # of what is refused
    others: dict[str, Ranges] = {}  # the characters that are not refused behind a text
    met: dict[str, list[tuple[float, Item]]] = {}
    for _ in range(MOST_PLACES):
        for text, code in _last_characters(place.begun, refused[known:]):
            others[text] = difference(others.get(text, ALL), ((code, code),))
            for cost, item in met.get(text, ()):
                push_after(text, cost, item)
        known = len(refused)
        if not heap:
            return
        least, _, cost, text, found = heapq.heappop(heap)
        if found is None:
            data = text.encode()[begun:]
            if data not in seen:
                seen.add(data)
                yield data
            continue
        if refused and text.encode()[begun:].startswith((*refused,)):
            continue
        item = state, call = found
        if state.ends:
            if call is place.whole:
                heapq.heappush(heap, (least, next(order), cost, text, None))
            for waiting, above in call.waiters:
                push(text, cost, (waiting.goto(call.rule), above))
        met.setdefault(text, []).append((cost, item))
        push_after(text, cost, item)
        for rule in state.calls:
            start = automata.start(rule)
            assert start is not None
            called = RuleCall(rule)
            called.waiters.append(item)
            push(text, cost + 1, (start, called))


def _last_characters(begun: bytes, refused: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    """Split what is refused into a text and the character behind it, where that is whole."""
    for data in refused:
        try:
            text = (begun + data).decode()
        except UnicodeDecodeError:
            continue
        yield text[:-1], ord(text[-1])


def _places(place: Recogniser) -> Iterator[tuple[Item, str]]:
    """Yield where the text may be, and the character that its last bytes begin, if they do."""
    if not place.begun:
        yield from ((item, "") for item in place.items)
    else:
        yield from ((item, chr(code)) for code, item in place.finishing())


def _least(place: Recogniser) -> tuple[float, Item, str]:
    """Return the place with the least cost to the end, that cost, and the character that is begun there."""
    costs = ((_cost(item) + len(begin.encode()) * BYTE_COST, item, begin) for item, begin in _places(place))
    return min(costs, key=lambda found: found[0])


def _cost(item: Item) -> float:
    """Return the least cost from an item to the end of the text."""
    state, call = item
    return state.least + (cost_of_call(call) if call.up is None else call.up)


def cost_of_call(call: RuleCall) -> float:
    """Return the least cost from the end of a call to the end of the text. Sets `up` and `via` of all calls above."""
    if call.up is not None:
        return call.up
    below: dict[RuleCall, list[tuple[float, RuleCall, Item]]] = {}  # the calls that one above them is a way for
    order = count()
    heap: list[tuple[float, int, RuleCall, Item]] = []
    unknown, pending = {call}, [call]
    while pending:
        at = pending.pop()
        for state, above in at.waiters:
            after = state.goto(at.rule)
            if above.up is not None:
                heapq.heappush(heap, (after.least + above.up, next(order), at, (after, above)))
                continue
            below.setdefault(above, []).append((after.least, at, (after, above)))
            if above not in unknown:
                unknown.add(above)
                pending.append(above)
    while heap:
        cost, _, at, via = heapq.heappop(heap)
        if at.up is not None:
            continue
        at.up, at.via = cost, via
        for more, under, way in below.get(at, ()):
            heapq.heappush(heap, (cost + more, next(order), under, way))
    assert call.up is not None
    return call.up
