"""Messages of a request as text: the model's chat template, rendered around marks.

The template is rendered twice: with a mark in the place of each content, and with the contents. What stands between the
marks is the template's own text, and only that may spell control tokens. Together the pieces are the template's own
rendering. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ...lang.chat import ChatTemplate, clock
from ...lang.errors import OptionError

Pieces = list[tuple[str, bool]]


@dataclass(frozen=True)
class Turn:
    """One message: its content as pieces (text, whether it is markup), and further fields for the template."""

    role: str
    content: Pieces
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.content)


def rendered_turns(template: ChatTemplate, turns: Sequence[Turn], controls: Collection[str], **options: Any) -> Pieces:
    """The prompt of a conversation, the generation prompt at its end.

    Args:
        template: The model's.
        turns: The messages.
        controls: The texts of control tokens.
        options: Further variables of the template.

    Raises:
        OptionError: The template refuses the messages, or prints a content that spells a control token in another way
            than other contents.
    """
    options = {"strftime_now": clock(datetime.now()), **options}
    marks = [f"sgl{template.prints.nonce}m{i}e" for i in range(len(turns))]
    whole = _render(template, turns, [turn.text for turn in turns], options)
    pieces = _aligned(whole, _between(_render(template, turns, marks, options), marks), turns)
    if pieces is not None:
        return pieces
    # The template looks into some content. All of it may be markup if no content spells a control token.
    for i, turn in enumerate(turns):
        for control in controls:
            if any(control in text for text, markup in turn.content if not markup):
                raise OptionError(
                    f"messages/{i}: the content has {control!r}, a control token's name, and {template.name} prints "
                    "this content in a way of its own, so that the two cannot be told apart; remove it"
                )
    return [(whole, True)]


def _render(template: ChatTemplate, turns: Sequence[Turn], contents: Sequence[str], options: dict[str, Any]) -> str:
    messages = [{"role": t.role, "content": content, **t.more} for t, content in zip(turns, contents)]
    return template.render(messages, True, **options)


def _between(text: str, marks: Sequence[str]) -> list[str] | None:
    """The texts around the marks; None if they do not stand there once each, in order."""
    found = []
    for mark in marks:
        before, at, text = text.partition(mark)
        if not at or mark in text:
            return None
        found.append(before)
    return [*found, text]


def _aligned(whole: str, gaps: list[str] | None, turns: Sequence[Turn]) -> Pieces | None:
    """`whole`, cut at `gaps`; None if a content is printed in another way than as it is, or stripped."""
    if gaps is None or not whole.startswith(gaps[0]):
        return None
    pieces, at = [(gaps[0], True)], len(gaps[0])
    for i, (turn, gap) in enumerate(zip(turns, gaps[1:])):
        text = turn.text
        last = i == len(turns) - 1
        for said in dict.fromkeys((text, text.rstrip(), text.lstrip(), text.strip())):
            end = at + len(said) + len(gap)
            if whole.startswith(said + gap, at) and (not last or end == len(whole)):
                start = text.find(said) if said else 0
                pieces += [*cut(turn.content, start, start + len(said)), (gap, True)]
                at = end
                break
        else:
            return None
    return [piece for piece in pieces if piece[0]]


def cut(pieces: Pieces, start: int, end: int) -> Pieces:
    """The characters start .. end-1 of pieces."""
    found, at = [], 0
    for text, markup in pieces:
        part = text[max(0, start - at) : max(0, end - at)]
        if part:
            found.append((part, markup))
        at += len(text)
    return found
