"""The chat side of a program: the open role, the messages, and how the chat template turns them into text.

Gives pieces `(text, markup)`, which the caller appends. Knows nothing of branches.

A message of constant text is held back until its role ends, so that the template renders it as one whole turn. A gen, a
select, a fork or a read of the text opens the turn before its end, and the held text follows.

Results of tools are turns of the role "tool". A template that knows no such role gets them as one turn of the user,
which is held back until the next turn begins, since users' turns may not follow one another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..backend.base import Capabilities
from ..lang.chat import ChatTemplate
from ..lang.conversation import Conversation
from ..lang.errors import CapabilityError, OptionError
from ..lang.expr import Gen, RoleBegin, RoleEnd, Select, Text, ToolTurn
from ..lang.kept import kept
from ..lang.syntax import CallSyntax, shows_tools
from ..lang.tools.spec import ToolCall, ToolSpec
from .transcript import Segment, joined

Pieces = list[tuple[str, bool]]
TOOL_ROLE = re.compile(r"""["']tool["']""")
"""What a chat template that knows the role of tools' results has in its source."""


class Message:
    """One turn: its role and the segments of its content (without the template's markup)."""

    __slots__ = ("parts", "role")

    def __init__(self, role: str, parts: list[Segment]) -> None:
        self.role = role
        self.parts = parts


@kept(64)
def _prompt_of(template: ChatTemplate) -> str:
    """What a template prints for the model to go on."""
    try:
        return template.render([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    except OptionError:
        return ""


class Roles:
    """The roles of one line of a program."""

    __slots__ = (
        "_after", "_can", "_conversation", "_held", "_quoted", "_results", "_syntax", "_template", "messages", "open",
    )  # fmt: skip

    def __init__(self, template: ChatTemplate | None, syntax: Callable[[], CallSyntax], can: Capabilities) -> None:
        self._template, self._syntax, self._can = template, syntax, can
        self._quoted: re.Pattern[str] | None = None  # texts of shown tools that spell control tokens
        self._conversation: Conversation | None = None
        self._held: list[str] | None = None  # constant text of the open role that was not rendered yet
        self._results: list[str] = []  # of tools, for the next turn of the user
        self._after = ""  # the tools that are shown at the end of the open turn
        self.open: str | None = None
        self.messages: list[Message] = []

    @property
    def holds_back(self) -> bool:
        """Whether there is text for `release` to give."""
        return self._held is not None or bool(self._results)

    def check(self, parts: Iterable[object]) -> None:
        """Refuse roles that do not begin and end in turn, before any of `parts` is said.

        Also refuse what a backend that takes messages (`Capabilities.turns`) has no place for.
        """
        now = self.open
        empty = now is None or not self.messages[-1].parts
        for part in parts:
            if self._can.turns:
                self._check_place(part, now, empty)
                empty = empty if isinstance(part, Text) and not part.text else isinstance(part, (RoleBegin, RoleEnd))
            if isinstance(part, RoleBegin):
                if now is not None:
                    raise OptionError(f"role {part.role!r} begins inside the open role {now!r}; end that one first")
                if self._template is None:
                    raise CapabilityError(
                        f"{part.role}(...) needs a chat template and this backend has none; "
                        "pass chat_template= to it, or write the turns as plain text"
                    )
                now = part.role
            elif isinstance(part, ToolTurn) and now is not None:
                raise OptionError(f"tool_result: the role {now!r} is open; a result is a turn of its own, so end it")
            elif isinstance(part, RoleEnd):
                if now != part.role:
                    open_now = "no role is open" if now is None else f"the open role is {now!r}"
                    raise OptionError(f"role {part.role!r} ends, but {open_now}")
                now = None

    def _check_place(self, part: object, role: str | None, empty: bool) -> None:
        """Raise `CapabilityError` for a part that has no place in a chat. `empty`: the turn has no text yet."""
        name = self._can.name
        if (
            role is None
            and not isinstance(part, (RoleBegin, RoleEnd))
            and not (isinstance(part, Text) and not part.text)
        ):
            raise CapabilityError(
                f"backend {name!r} takes the messages of a chat, and {part!r:.60} stands outside of them; put it into "
                "sgl.system(...), sgl.user(...) or sgl.assistant(...)"
            )
        if isinstance(part, (Gen, Select)):
            what = f"{'gen' if isinstance(part, Gen) else 'select'}({part.name!r})"
            if role != "assistant":
                raise CapabilityError(
                    f"{what} is in a turn of {role!r}, and backend {name!r} writes only an assistant's: put it into "
                    "sgl.assistant(...)"
                )
            if not empty and not self._can.continues:
                raise CapabilityError(
                    f"{what} goes on with a turn that has text already, which backend {name!r} was not told to do: "
                    "begin the turn with it, or make the backend with prefill=True if its service can do that"
                )

    def in_thought(self, parts: Sequence[object], syntax: Callable[[], CallSyntax]) -> set[int]:
        """Which of `parts` the model begins within reasoning, which the template's prompt for a turn has begun."""
        if self._template is None or not syntax().opens_thinking(_prompt_of(self._template)):
            return set()
        found, now = set(), self.open
        empty, said = now is not None and not self.messages[-1].parts, len(self.messages)
        for i, part in enumerate(parts):
            if isinstance(part, (RoleBegin, ToolTurn)):
                now, empty, said = part.role if isinstance(part, RoleBegin) else None, True, said + 1
            elif isinstance(part, Text):
                empty = empty and not part.text
            else:
                if now == "assistant" and empty and said > 1:  # the first turn of a chat has no such prompt
                    found.add(i)
                empty = False
        return found

    def begin(self, role: str, tools: Sequence[ToolSpec] = ()) -> Pieces:
        """Begin a turn. `tools` are shown to the model in it, by the template if it can and this is the first turn."""
        assert self._template is not None
        held, pieces = "", []
        if self._results and self._template is not None:
            turn = self._take_results()
            if turn[0] == role:  # such turns may not follow one another
                held = turn[1] + "\n"
            else:
                pieces = self._turn(*turn)
        by_template = bool(tools) and self._conversation is None and shows_tools(self._template)
        if by_template:
            told = [tool.openai() for tool in tools]
            self._conversation, self._quoted = (
                Conversation(self._template, tools=told),
                _quoted(told, self._can.control_tokens),
            )
        self._after = "" if by_template or not tools else self._syntax().prompt(tools)
        self._conversation = self._conversation or Conversation(self._template)
        self.open, self._held = role, [held] if held else []
        self.messages.append(Message(role, []))
        return pieces

    def result(self, call: ToolCall, text: str) -> Pieces:
        """Say the result of a tool as a turn. Gives no pieces where it is held back until the next turn."""
        assert self.open is None
        self.messages.append(Message("tool", [Segment(text)]))
        if self._template is not None and TOOL_ROLE.search(self._template.source):
            return self._turn("tool", text, (("name", call.name), ("tool_call_id", call.id)))
        self._results.append(text)
        return [] if self._template is not None else [(self._take_results()[1], False)]

    def _turn(self, role: str, text: str, more: tuple[tuple[str, str], ...] = ()) -> Pieces:
        """Say a whole turn of constant text."""
        self._conversation = self._conversation or Conversation(self._template)
        return list(self._conversation.turn(role, text, more))

    def _take_results(self) -> tuple[str, str]:
        """The results that were held back, as the role and the text of one turn."""
        results, self._results = self._results, []
        return self._syntax().result_turn(results)

    def add(self, text: str, special: bool = False) -> Pieces:
        """Add constant text. Gives no pieces in a role that holds its text back.

        `special` text may spell control tokens. A template is rendered around it, so it opens its turn.
        """
        if self.open is None:
            return [*self.release(), (text, special)]
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
        if self.open is None and self._results:
            return self._turn(*self._take_results())
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
        pieces = self._without_quoted(pieces)
        return [*pieces, (held, False)] if held else pieces

    def end(self, role: str) -> Pieces:
        assert self.open == role and self._conversation is not None
        after, self._after = self._after, ""
        if after and (self._held is None or self._held):
            after = "\n\n" + after
        if self._held is None:
            pieces = [*([(after, False)] if after else []), *self._conversation.close(role)]
        else:
            try:
                pieces = list(self._conversation.turn(role, "".join([*self._held, after])))
            except OptionError:
                self._forget()
                raise
        self._held = self.open = None
        return self._without_quoted(pieces)

    def _without_quoted(self, pieces: Pieces) -> Pieces:
        """Make the texts of tools in a template's markup ordinary text. They stand in the first turn."""
        quoted, self._quoted = self._quoted, None
        if quoted is None:
            return pieces
        return [
            (part, markup and not i % 2)
            for text, markup in pieces
            for i, part in enumerate(quoted.split(text) if markup else [text])
            if part
        ]

    def _forget(self) -> None:
        """Drop the open turn: the template refused it before any of it was appended."""
        self.messages.pop()
        self._held = self.open = None
        self._after = ""

    def saved(self) -> dict[str, Any]:
        """The turns so far as JSON data, for `restore`. No role is open."""
        assert self.open is None
        return {
            "messages": [[message.role, joined(message.parts)] for message in self.messages],
            "results": list(self._results),
            "conversation": None if self._conversation is None else self._conversation.saved(),
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Put back what `saved` gave, with the same chat template."""
        self.messages = [Message(role, [Segment(text)]) for role, text in data["messages"]]
        self._results = list(data["results"])
        if data["conversation"] is not None:
            self._conversation = Conversation.restored(self._template, data["conversation"])

    def copy(self) -> Roles:
        """Copy for a fork. Closed messages never change and are shared; the open one goes on separately."""
        twin = Roles(self._template, self._syntax, self._can)
        twin._quoted = self._quoted
        twin._conversation = None if self._conversation is None else self._conversation.copy()
        twin._held = None if self._held is None else list(self._held)
        twin.open, twin._after, twin._results = self.open, self._after, list(self._results)
        twin.messages = list(self.messages)
        if self.open is not None:
            last = self.messages[-1]
            twin.messages[-1] = Message(last.role, list(last.parts))
        return twin


def _quoted(told: object, controls: frozenset[str]) -> re.Pattern[str] | None:
    """A pattern of the texts in the descriptions of tools that spell control tokens, as a template prints them.

    A tool's description may be a stranger's, so it must not end a turn. None if there is no such text.
    """
    whole = json.dumps(told, ensure_ascii=False)
    if not any(control in whole for control in controls):
        return None
    texts, stack = set(), [told]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            stack += [*part, *part.values()]
        elif isinstance(part, list):
            stack += part
        elif isinstance(part, str) and any(control in part for control in controls):
            texts |= {part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1]}
    return re.compile("(" + "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) + ")")
