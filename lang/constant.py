"""Constant text rendered with a chat template: an expression that no model writes in, or a list of messages.

Text comes as runs `(text, may it spell control tokens)`. Knows nothing of programs, of tokens, or of caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from .chat import ChatTemplate, Message, clock
from .conversation import Conversation, Pieces
from .errors import CapabilityError, OptionError
from .expr import Expr, RoleBegin, RoleEnd, Text, flat


def constant_pieces(where: str, expr: Expr, template: ChatTemplate | None) -> Pieces:
    """The runs of a constant expression, as a program says them.

    A role may be open at the end. Raises `OptionError`, with `where`, for a gen or a select, for roles that do not
    begin and end in turn, and for a message that the template prints only with the next one. Raises `CapabilityError`
    for a role without a template.
    """
    conversation = Conversation(template)
    pieces: Pieces = []
    role: str | None = None
    held: Pieces = []  # of the open role
    for part in flat(expr):
        if isinstance(part, Text):
            (pieces if role is None else held).append((part.text, part.special))
        elif isinstance(part, RoleBegin) and role is None:
            if template is None:
                raise CapabilityError(f"{where}: {part.role}(...) needs a chat template; pass chat_template=")
            role, held = part.role, []
        elif isinstance(part, RoleEnd) and role == part.role:
            pieces += _turn(conversation, role, held)
            role = None
        elif isinstance(part, (RoleBegin, RoleEnd)):
            raise OptionError(f"{where}: roles begin and end in turn; {part!r} comes where {role or 'none'!r} is open")
        else:
            raise OptionError(f"{where}: only text that is the same in every run can be kept, and {part!r:.60} is not")
    if role is not None:
        pieces += [*conversation.open(role, generated=not held), *held]
    if conversation.holds_back:
        raise OptionError(
            f"{where}: the chat template prints this message only with the next one; add the message that follows"
        )
    return pieces


def _turn(conversation: Conversation, role: str, content: Pieces) -> Pieces:
    if any(special for _, special in content):
        return [*conversation.open(role, generated=False), *content, *conversation.close(role)]
    return conversation.turn(role, "".join(text for text, _ in content))


def rendered(
    template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool = False, **options: Any
) -> Pieces:
    """The runs of a conversation, which together are the template's own rendering of it.

    Raises `OptionError` where the contents cannot be told from the template's text.
    """
    where = "apply_chat_template"
    if "strftime_now" in template.source:
        options = {"strftime_now": clock(datetime.now()), **options}
    conversation = Conversation(template, **options)
    pieces: Pieces = []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise OptionError(f"{where}: message {i} needs a role and a content of text, or tokenize=False")
        pieces += conversation.turn(role, content)
    if add_generation_prompt:
        pieces += conversation.open("assistant")
    whole = template.render(messages, add_generation_prompt, **options)
    said = "".join(text for text, _ in pieces)
    if said + template.eos_token == whole and said != whole:
        pieces.append((template.eos_token, True))
    elif said != whole:
        raise OptionError(
            f"{where}: {template.name} prints these messages together in another way than one after the other; use "
            "tokenize=False and generate(..., special_tokens=True)"
        )
    return pieces
