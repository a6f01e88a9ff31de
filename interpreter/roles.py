"""The chat side of a program: which role is open, what the messages are, how they become text.

Owns: the open role and the messages. Turns roles into pieces `(text, markup)` through the chat template's
`Conversation`; whoever calls appends the pieces. Knows nothing of branches.

A message of constant text is held back until its role ends, so that the template renders it as one whole turn. As soon
as something dynamic comes (a gen, a select, a fork, a read of the text), the turn is opened and what was held follows.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..lang.chat import ChatTemplate, Conversation
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

    def add(self, text: str) -> Pieces:
        """Constant text of the program; in a role that holds text back, nothing is to be appended yet."""
        if self.open is None:
            return [(text, False)]
        self.messages[-1].parts.append(Segment(text))
        if self._held is None:
            return [(text, False)]
        self._held.append(text)
        return []

    def wrote(self, segment: Segment) -> None:
        """The model writes inside the open role, if one is open."""
        if self.open is not None:
            self.messages[-1].parts.append(segment)

    def release(self) -> Pieces:
        """Something dynamic comes: open the turn for real."""
        if self.open is None or self._held is None:
            return []
        assert self._conversation is not None
        held = "".join(self._held)
        try:
            pieces = list(self._conversation.open(self.open, generated=not held))
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
        """The template refused the open turn before any of it was appended: it was never said."""
        self.messages.pop()
        self._held = self.open = None

    def copy(self) -> Roles:
        """For a fork. Closed messages never change and are shared; the open one goes on separately."""
        twin = Roles(self._template)
        twin._conversation = None if self._conversation is None else self._conversation.copy()
        twin._held = None if self._held is None else list(self._held)
        twin.open = self.open
        twin.messages = list(self.messages)
        if self.open is not None:
            last = self.messages[-1]
            twin.messages[-1] = Message(last.role, list(last.parts))
        return twin
