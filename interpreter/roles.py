"""The chat side of a program: which role is open, what the messages are, how they become text.

Owns: the open role and the messages. Turns roles into pieces `(text, markup)` through the chat template's
`Conversation`; whoever calls appends the pieces. Knows nothing of branches.

A message of constant text is held back until its role ends, so that the template renders it as one whole turn. As soon
as something dynamic comes (a gen, a select, a fork, a read of the text), the turn is opened and what was held follows.
"""

from __future__ import annotations

from ..lang.chat import ChatTemplate, Conversation
from ..lang.errors import CapabilityError, OptionError
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

    def begin(self, role: str) -> None:
        if self.open is not None:
            raise OptionError(f"role {role!r} begins inside the open role {self.open!r}; end that one first")
        if self._template is None:
            raise CapabilityError(
                f"{role}(...) needs a chat template and this backend has none; "
                "pass chat_template= to it, or write the turns as plain text"
            )
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
        held, self._held = "".join(self._held), None
        pieces = list(self._conversation.open(self.open, generated=not held))
        return [*pieces, (held, False)] if held else pieces

    def end(self, role: str) -> Pieces:
        if self.open != role:
            now = "no role is open" if self.open is None else f"the open role is {self.open!r}"
            raise OptionError(f"role {role!r} ends, but {now}")
        assert self._conversation is not None
        held, self._held, self.open = self._held, None, None
        if held is None:
            return list(self._conversation.close(role))
        return list(self._conversation.turn(role, "".join(held)))

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
