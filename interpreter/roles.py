"""The chat side of a program: the open role, the messages, and how the chat template turns them into text.

Gives pieces `(text, markup)`, which the caller appends. Knows nothing of branches.

A message of constant text is held back until its role ends, so that the template renders it as one whole turn. A gen, a
select, a fork or a read of the text opens the turn before its end, and the held text follows.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..lang.chat import ChatTemplate
from ..lang.conversation import Conversation
from ..lang.errors import CapabilityError, OptionError
from ..lang.expr import RoleBegin, RoleEnd
from .transcript import Segment

Pieces = list[tuple[str, bool]]


class Message:
    """One turn: its role and the segments of its content (without the template's markup)."""

    __slots__ = ("parts", "role")

    def __init__(self, role: str, parts: list[Segment]) -> None:
        self.role = role
        self.parts = parts


class Roles:
    """The roles of one line of a program."""

    __slots__ = ("_conversation", "_held", "_template", "messages", "open")

    def __init__(self, template: ChatTemplate | None) -> None:
        self._template = template
        self._conversation: Conversation | None = None
        self._held: list[str] | None = None  # constant text of the open role that was not rendered yet
        self.open: str | None = None
        self.messages: list[Message] = []

    def check(self, parts: Iterable[object]) -> None:
        """Refuse roles that do not begin and end in turn, before any of `parts` is said."""
        now = self.open
        for part in parts:
            if isinstance(part, RoleBegin):
                if now is not None:
                    raise OptionError(f"role {part.role!r} begins inside the open role {now!r}; end that one first")
                if self._template is None:
                    raise CapabilityError(
                        f"{part.role}(...) needs a chat template and this backend has none; "
                        "pass chat_template= to it, or write the turns as plain text"
                    )
                now = part.role
            elif isinstance(part, RoleEnd):
                if now != part.role:
                    open_now = "no role is open" if now is None else f"the open role is {now!r}"
                    raise OptionError(f"role {part.role!r} ends, but {open_now}")
                now = None

    def begin(self, role: str) -> None:
        assert self._template is not None
        if self._conversation is None:
            self._conversation = Conversation(self._template)
        self.open, self._held = role, []
        self.messages.append(Message(role, []))

    def add(self, text: str, special: bool = False) -> Pieces:
        """Add constant text. Gives no pieces in a role that holds its text back.

        `special` text may spell control tokens. A template is rendered around it, so it opens its turn.
        """
        if self.open is None:
            return [(text, special)]
        self.messages[-1].parts.append(Segment(text, markup=special))
        if special:
            return [*self.release(constant=True), (text, True)]
        if self._held is None:
            return [(text, False)]
        self._held.append(text)
        return []

    def wrote(self, segment: Segment) -> None:
        """Add text of the model to the open role, if one is open."""
        if self.open is not None:
            self.messages[-1].parts.append(segment)

    def release(self, constant: bool = False) -> Pieces:
        """Open the turn whose text was held back; its text follows. `constant`: more constant text comes after it."""
        if self.open is None or self._held is None:
            return []
        assert self._conversation is not None
        held = "".join(self._held)
        try:
            pieces = list(self._conversation.open(self.open, generated=not held and not constant))
        except OptionError:
            self._forget()
            raise
        self._held = None
        return [*pieces, (held, False)] if held else pieces

    def end(self, role: str) -> Pieces:
        assert self.open == role and self._conversation is not None
        if self._held is None:
            pieces = list(self._conversation.close(role))
        else:
            try:
                pieces = list(self._conversation.turn(role, "".join(self._held)))
            except OptionError:
                self._forget()
                raise
        self._held = self.open = None
        return pieces

    def _forget(self) -> None:
        """Drop the open turn: the template refused it before any of it was appended."""
        self.messages.pop()
        self._held = self.open = None

    def copy(self) -> Roles:
        """Copy for a fork. Closed messages never change and are shared; the open one goes on separately."""
        twin = Roles(self._template)
        twin._conversation = None if self._conversation is None else self._conversation.copy()
        twin._held = None if self._held is None else list(self._held)
        twin.open = self.open
        twin.messages = list(self.messages)
        if self.open is not None:
            last = self.messages[-1]
            twin.messages[-1] = Message(last.role, list(last.parts))
        return twin
