"""Chats as services take them: messages, read from what a program says on a branch.

Knows nothing of services. The interpreter renders turns with `TURNS`, a template of this file's own, whose markup says
where a turn begins and ends. Only markup is read, so no text of a user or a model can spell a turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...lang.chat import CHATML, ChatTemplate
from ...lang.errors import CapabilityError
from .service import Messages

TURNS = ChatTemplate(CHATML, name="the messages of a chat")
_MARK = re.compile(r"<\|im_start\|>([^\n]*)\n|<\|im_end\|>\n")


def messages_of(pieces: Iterable[tuple[str, bool]], name: str) -> tuple[Messages, str | None]:
    """Read the messages said by `pieces` (text, is it markup), and the role of the last one if it is still open.

    Raises `CapabilityError`, with the backend's `name`, for text that is in no message.
    """
    found: list[tuple[str, list[str]]] = []
    role: str | None = None
    for text, markup in pieces:
        if not markup:
            if role is None:
                raise _outside(name, text)
            found[-1][1].append(text)
            continue
        at = 0
        while at < len(text):
            mark = _MARK.match(text, at)
            if mark is None:
                raise _outside(name, text[at:])
            role, at = mark[1], mark.end()  # None: an end
            if role is not None:
                found.append((role, []))
    return tuple({"role": who, "content": "".join(parts)} for who, parts in found), role


def _outside(name: str, text: str) -> CapabilityError:
    return CapabilityError(
        f"backend {name!r} takes the messages of a chat, and the text {text!r:.60} is in none of them; put it into "
        "sgl.system(...), sgl.user(...) or sgl.assistant(...)"
    )
