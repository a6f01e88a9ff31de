"""What a reader says of a message while it is written: typed, frozen events.

Knows nothing of how a message is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tools.spec import ToolCall


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the text that is for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The name of call number `index` of this message is known, and so is its `id`."""

    index: int
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the arguments of call number `index`. Joined they are one JSON object, whatever the family writes."""

    index: int
    json: str


@dataclass(frozen=True, slots=True)
class CallClosed:
    """The arguments of call number `index` are complete: the tool can start, though the model may write on."""

    index: int
    call: ToolCall


CallEvent = TextDelta | ThinkingDelta | CallBegan | ArgumentsDelta | CallClosed
"""What `CallReader.feed` returns."""


def merged(events: list[CallEvent]) -> list[CallEvent]:
    """Join deltas of the same kind that follow one another: the same list, however the text was cut."""
    found: list[CallEvent] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            found[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ThinkingDelta) and isinstance(last, ThinkingDelta):
            found[-1] = ThinkingDelta(last.text + event.text)
        elif isinstance(event, ArgumentsDelta) and isinstance(last, ArgumentsDelta) and last.index == event.index:
            found[-1] = ArgumentsDelta(event.index, last.json + event.json)
        else:
            found.append(event)
    return found
