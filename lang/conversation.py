"""Conversations rendered turn by turn: the text that a new message adds to what was said already.

Knows nothing of tokens, of models, or of how text is executed.

A model writes parts of a conversation, so nothing is rendered twice. The template sees each content that was said as a
*mark* (a unique word); what it prints after the last mark is what to append now. Text comes as pieces `(text, markup)`:
only markup, the template's own text, may spell control tokens.

1. The joined pieces of constant turns are the template's rendering of them, less an EOS that it prints only at the end.
2. What was emitted is never changed. A template that would change it is refused, except in what it prints before an
   assistant's content: reasoning models drop old reasoning there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .chat import ChatTemplate, TemplatePrints, clock
from .errors import OptionError
from .locality import LAST_KEPT

MOST_SHARED_MESSAGES = 64
"""Longer conversations do not share what the template prints for their roles: long ones are few."""
MOST_PRINTS = 4096
"""Texts of a template that are kept; each order of roles has a handful."""
Pieces = list[tuple[str, bool]]
_MAY_WAIT_FOR = {"system": "user", "developer": "user", "tool": "tool"}


@dataclass(frozen=True, slots=True)
class _Said:
    """A message as the template sees it; `content` is a mark, or the author's text.

    `gap`: what the template printed between the mark before and this one; None where `content` is no mark, or where
    messages before it were left out. `more`: its other fields, such as the id of the call that a tool's result answers.
    """

    role: str
    content: str
    gap: str | None = None
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a conversation is. `said`: what was emitted; `tail`: its text after the last mark.

    `held`: constants that the template prints only with the next message. `opened`: the message being written.
    """

    said: tuple[_Said, ...] = ()
    tail: str = ""
    held: tuple[_Said, ...] = ()
    opened: _Said | None = None


class _Unmarked(Exception):
    """The template prints other text around a content than around a mark."""


class Conversation:
    """One conversation's position in a template. `options` go to the template (`enable_thinking=False`).

    The caller appends the returned pieces in order, with the contents of opened messages between them. A call raises
    `OptionError` if there is no template, or if the template refuses a role or an order of roles. It also does if a
    message's text cannot be told from what was said. A call that raises changes nothing.
    """

    __slots__ = ("_began", "_options", "_place", "_prints", "_rendered", "_shared", "_template")

    def __init__(self, template: ChatTemplate | None, **options: Any) -> None:
        self._template = template
        # Options, and the time, may change what is printed around contents.
        self._shared = template is not None and not options and "strftime_now" not in template.source
        self._prints = template.prints if template is not None and self._shared else TemplatePrints()
        # A template that prints the time must not change what it printed while the conversation goes on.
        self._began = datetime.now()
        self._options = {"strftime_now": clock(self._began), **options}
        self._place = _Place()
        self._rendered: dict[tuple[object, ...], str] = {}  # what one turn is rendered from, until it was said

    def copy(self) -> Conversation:
        """Copy the position, to go on independently. Cheap: a position is immutable."""
        twin = object.__new__(Conversation)
        twin._template, twin._prints, twin._shared = self._template, self._prints, self._shared
        twin._options, twin._place, twin._rendered = self._options, self._place, {}
        twin._began = self._began
        return twin

    def saved(self) -> dict[str, Any]:
        """Give the position as JSON data, for `restored`. No message is open."""
        assert self._place.opened is None
        return {
            "began": self._began.isoformat(),
            "options": {name: value for name, value in self._options.items() if name != "strftime_now"},
            "tail": self._place.tail,
            **{part: list(map(self._spelled, getattr(self._place, part))) for part in ("said", "held")},
        }

    @staticmethod
    def restored(template: ChatTemplate | None, data: dict[str, Any]) -> Conversation:
        """The conversation whose position was `saved`, with the same template."""
        made = Conversation(template, **data["options"])
        made._began = datetime.fromisoformat(data["began"])
        made._options["strftime_now"] = clock(made._began)
        said, held = (tuple(map(made._read, data[part])) for part in ("said", "held"))
        made._place = _Place(said, data["tail"], held)
        return made

    def _spelled(self, m: _Said) -> list[Any]:
        """A message as JSON data. A mark is spelled as its number, since marks differ from process to process."""
        content = int(m.content[len(self._mark(0)) - 8 : -1]) if self._is_mark(m.content) else m.content
        return [m.role, content, m.gap, [list(pair) for pair in m.more]]

    def _read(self, spelled: list[Any]) -> _Said:
        role, content, gap, more = spelled
        text = content if isinstance(content, str) else self._mark(content)
        return _Said(role, text, gap, tuple((name, value) for name, value in more))

    @property
    def role(self) -> str | None:
        """The role of the open message, if one is."""
        return self._place.opened.role if self._place.opened else None

    @property
    def holds_back(self) -> bool:
        """Whether a constant message waits to be printed with the next one."""
        return bool(self._place.held)

    def turn(self, role: str, content: str, more: tuple[tuple[str, str], ...] = ()) -> Pieces:
        """Say a whole constant message. Returns no pieces if the template prints it only with the next message.

        `more` are further fields of the message, as pairs of name and text.
        """
        place = self._ready(role)
        new = (*place.held, _Said(role, content, more=more))
        if self._waits(place, new):
            self._place = replace(place, held=new)
            return []
        pieces, self._place = self._compose(place, new)
        self._rendered.clear()
        return _joined(pieces)

    def open(self, role: str, *, generated: bool = True) -> Pieces:
        """Begin a message whose content comes in parts. Returns the pieces before the content.

        These are what precedes a constant content. But an assistant's content that is `generated` from its first token
        on follows the template's generation prompt, which may begin a reasoning block. Without such a prompt, the space
        before the content is left out: a model writes its first space itself.
        """
        place = self._ready(role)
        opened = _Said(role, self._mark(len(place.said) + len(place.held)))
        pieces, after = self._compose(place, (*place.held, opened))
        at = pieces.index((opened.content, False))
        pieces = pieces[:at]  # what follows the content is for close()
        if role == "assistant" and generated:
            pieces[-1] = (self._generation_prompt(place, pieces[-1][0]), True)
        held_is_marked = any(m.gap is not None for m in after.said[len(place.said) : -1])
        self._place = _Place(after.said[:-1], "" if held_is_marked else place.tail, (), opened)
        return _joined(pieces)

    def close(self, role: str) -> Pieces:
        """End the open message. Returns the pieces after its content."""
        place = self._place
        if place.opened is None or place.opened.role != role:
            now = f"the open message is {self.role!r}" if self.role else "no message is open"
            raise OptionError(f"cannot end role {role!r}: {now}")
        try:
            gap, tail = self._parts(place, (place.opened,))
        except _Unmarked as error:
            raise self._refusal(role, str(error)) from None
        self._rendered.clear()
        self._place = _Place((*place.said, replace(place.opened, gap=place.tail + gap)), tail)
        return _joined([(tail, True)])

    # -- what a template prints
    def _ready(self, role: str) -> _Place:
        if self._template is None:
            raise OptionError(
                f"role {role!r}: this model has no chat template; pass chat_template= (a jinja source, or 'chatml')"
            )
        if self._place.opened is not None:
            raise OptionError(f"cannot begin role {role!r}: {self.role!r} is still open; end it first")
        self._rendered.clear()
        return self._place

    def _compose(self, place: _Place, new: Sequence[_Said]) -> tuple[Pieces, _Place]:
        """Make the pieces that say `new` (empty ones too), and the place after them."""
        try:
            gaps, contents = self._lay_out(place, new)
        except _Unmarked as error:
            return self._compose_by_search(place, new, str(error))
        pieces: Pieces = []
        said = list(place.said)
        before = place.tail
        for m, gap, content in zip(self._marked(place, new), gaps, contents):
            pieces += [(gap, True), (content, False)]
            said.append(replace(m, gap=before + gap))
            before = ""
        pieces.append((gaps[-1], True))
        return pieces, _Place(tuple(said), gaps[-1])

    def _lay_out(self, place: _Place, new: Sequence[_Said]) -> tuple[list[str], list[str]]:
        """Read the n + 1 texts around the new contents, and the n contents as the template prints them.

        The texts come from a rendering with marks, each content from one in which it alone is not a mark.
        """
        marked = self._marked(place, new)
        gaps = self._parts(place, marked)
        contents = []
        for j, m in enumerate(new):
            parts = self._parts(place, (*marked[:j], m, *marked[j + 1 :]))
            if self._is_mark(m.content):  # an opened message
                contents.append(m.content)
                continue
            before, after, both = gaps[j], gaps[j + 1], parts[j]
            around = parts[:j] + parts[j + 1 :] == gaps[:j] + gaps[j + 2 :]
            fits = both.startswith(before) and both[len(before) :].endswith(after)
            if not (around and fits):
                raise _Unmarked(f"prints other text around {m.content!r:.40} than around other contents")
            contents.append(both[len(before) : len(both) - len(after)])
        return gaps, contents

    def _compose_by_search(self, place: _Place, new: Sequence[_Said], why: str) -> tuple[Pieces, _Place]:
        """`_compose` for contents that the template looks into (an empty one, say): find them in what it prints."""
        rest = self._new_text(place, new)
        pieces: Pieces = []
        for m in new:
            content = m.content.strip()
            if content and rest.count(content) != 1:
                raise self._refusal(new[-1].role, why)
            before, found, rest = rest.partition(content) if content else ("", "", rest)
            pieces += [(before, True), (found, False)]
        pieces.append((rest, True))
        tail = place.tail + "".join(text for text, _ in pieces)
        return pieces, _Place((*place.said, *new), tail)

    def _waits(self, place: _Place, new: Sequence[_Said]) -> bool:
        """Whether the template prints these messages only, or in another way, when the next message follows.

        So it may be with a system message before a user's, and with the result of a tool before another result.
        """
        next_role = _MAY_WAIT_FOR.get(new[-1].role)
        if next_role is None:
            return False
        marked = self._marked(place, new)
        following = _Said(next_role, self._mark(len(place.said) + len(new)), more=new[-1].more)
        try:
            followed = self._parts(place, (*marked, following))
        except (OptionError, _Unmarked):
            return False
        try:
            alone = self._parts(place, marked)
        except (OptionError, _Unmarked):
            return True
        return followed[: len(new)] != alone[:-1] or not followed[len(new)].startswith(alone[-1])

    def _generation_prompt(self, place: _Place, header: str) -> str:
        """The text before an assistant's generated content; `header` precedes a constant one."""
        held = self._marked(place, place.held)
        if not place.said and not held:
            return header.rstrip(" ")  # the template may print a default system message in the header only
        try:
            prompt = self._parts(place, held, add_generation_prompt=True)[-1]
            if prompt != self._parts(place, held)[-1]:
                return prompt
        except (OptionError, _Unmarked):
            pass
        return header.rstrip(" ")

    def _parts(self, place: _Place, new: Sequence[_Said], *, add_generation_prompt: bool = False) -> list[str]:
        """The new text, cut at the marks of `new`."""
        if (short := self._shortened(place)) is not None:
            marks = [self._is_mark(m.content) for m in new]
            numbered = self._marked(short, new)
            try:
                told = [mark if is_mark else m for m, mark, is_mark in zip(new, numbered, marks)]
                return self._parts_of(short, told, add_generation_prompt)
            except (OptionError, _Unmarked):
                pass  # the whole conversation says what is wrong
        return self._parts_of(place, new, add_generation_prompt)

    def _shortened(self, place: _Place) -> _Place | None:
        """The same place after fewer messages, where the template prints the next one alike; None: not known."""
        said = place.said
        assert self._template is not None
        if len(said) <= LAST_KEPT + 2 or (kept := self._template.kept) is None:
            return None
        left_out = (len(said) - kept - LAST_KEPT) // 2 * 2
        if left_out <= 0 or said[kept + left_out].gap is None:
            return None
        ends = [*said[:kept], replace(said[kept + left_out], gap=None), *said[kept + left_out + 1 :]]
        numbered = [replace(m, content=self._mark(i)) if self._is_mark(m.content) else m for i, m in enumerate(ends)]
        return replace(place, said=tuple(numbered))

    def _parts_of(self, place: _Place, new: Sequence[_Said], add_generation_prompt: bool) -> list[str]:
        if (
            not self._shared
            or len(place.said) > MOST_SHARED_MESSAGES
            or not all(self._is_mark(m.content) for m in (*place.said, *new))
        ):
            return self._cut(place, new, add_generation_prompt)
        key = (place.said, place.tail, tuple(new), add_generation_prompt)
        if (parts := self._prints.get(key)) is None:
            if len(self._prints) >= MOST_PRINTS:
                self._prints.clear()
            parts = self._prints[key] = self._cut(place, new, add_generation_prompt)
        return parts

    def _cut(self, place: _Place, new: Sequence[_Said], add_generation_prompt: bool) -> list[str]:
        rest = self._new_text(place, new, add_generation_prompt)
        parts = []
        for m in new:
            if self._is_mark(m.content):
                if (times := rest.count(m.content)) != 1:
                    raise _Unmarked(f"prints the content of a {m.role!r} message {times} times, not once")
                part, _, rest = rest.partition(m.content)
                parts.append(part)
        return [*parts, rest]

    def _new_text(self, place: _Place, new: Sequence[_Said], add_generation_prompt: bool = False) -> str:
        """The text that the template prints for `new`. Checks that it prints the past as before."""
        messages = (*place.said, *new)
        text = self._render(messages, True) if add_generation_prompt else self._closed(messages)
        at, where = 0, _marks_in(text)
        for number, m in enumerate(place.said):
            end = where.get(m.content, -1)  # printed once, and after the one before
            if m.gap is None:
                at = end + len(m.content) if end >= at else at
                continue
            same = end >= at and (text[at:end] == m.gap or m.role == "assistant")
            if not same:
                raise self._rewritten(messages, number)
            at = end + len(m.content)
        if not text.startswith(place.tail, at):
            raise self._rewritten(messages, len(place.said) - 1)
        return text[at + len(place.tail) :]

    def _closed(self, messages: Sequence[_Said]) -> str:
        """Render `messages`, less an EOS that is printed only where the whole conversation ends."""
        assert self._template is not None
        text = self._render(messages)
        eos = self._template.eos_token
        if eos and text.endswith(eos):
            try:
                further = self._render(messages, True)
            except OptionError:
                return text
            if not further.startswith(text) and further.startswith(text.removesuffix(eos)):
                return text.removesuffix(eos)
        return text

    def _render(self, messages: Sequence[_Said], add_generation_prompt: bool = False) -> str:
        """Render `messages`. One turn asks for the same renderings again and again, so they are kept for its time."""
        assert self._template is not None
        key = (add_generation_prompt, *((m.role, m.content, m.more) for m in messages))
        if (text := self._rendered.get(key)) is not None:
            return text
        told = [{"role": m.role, "content": m.content, **dict(m.more)} for m in messages]
        try:
            text = self._rendered[key] = self._template.render(told, add_generation_prompt, **self._options)
            return text
        except OptionError as error:
            if not messages:
                raise
            order = ", ".join(m.role for m in messages[:-1]) or "nothing"
            raise OptionError(f"role {messages[-1].role!r} is refused after {order}: {error}") from error

    def _mark(self, number: int) -> str:
        return f"sgl{self._prints.nonce}n{number:07}e"

    def _is_mark(self, content: str) -> bool:
        return content.startswith(f"sgl{self._prints.nonce}n")

    def _marked(self, place: _Place, new: Sequence[_Said]) -> tuple[_Said, ...]:
        return tuple(_Said(m.role, self._mark(len(place.said) + j), more=m.more) for j, m in enumerate(new))

    def _refusal(self, role: str, why: str) -> OptionError:
        assert self._template is not None
        fix = "so it cannot be used turn by turn; pass another chat_template="
        return OptionError(f"role {role!r}: {self._template.name} {why}, {fix}")

    def _rewritten(self, messages: Sequence[_Said], number: int) -> OptionError:
        role = messages[number].role if number >= 0 else "the start"
        return self._refusal(messages[-1].role, f"changes what it printed for message {number + 1} ({role})")


_MARK = re.compile("sgl[0-9a-f]{16}n[0-9]+e")


def _marks_in(text: str) -> dict[str, int]:
    """Find where each mark is printed; -1 for one that is printed more than once."""
    found: dict[str, int] = {}
    for match in _MARK.finditer(text):
        found[match[0]] = -1 if match[0] in found else match.start()
    return found


def _joined(pieces: Pieces) -> Pieces:
    return [piece for piece in pieces if piece[0]]
