"""A message with calls as text: what the family's chat template prints, and the grammar generates.

Knows nothing of schemas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import OptionError
from .form import CallForm, Pieces
from .values import written_arguments

if TYPE_CHECKING:
    from ..tools.spec import ToolCall


def message_pieces(form: CallForm, calls: Sequence[ToolCall], text: str, thinking: str) -> Pieces:
    """Write a message: thinking, text and calls, with what the template prints between them."""
    pieces: Pieces = []
    if thinking:
        if form.thinking is None:
            raise OptionError(f"thinking: models of {form.name!r} write no reasoning")
        lead = form.thinking.lead
        before = "" if thinking.startswith(lead) else lead
        after = "" if thinking.endswith(lead) else lead
        pieces += [(form.thinking.begin + before, True), (thinking, False)]
        pieces += [(after + form.thinking.end + form.thinking.after, True)]
    if text or not calls:
        pieces += [(form.text_begin, True), (text, False)]
    if text and calls and not form.text_before_calls:
        raise OptionError(f"models of {form.name!r} write a text or calls in a message, not both")
    if calls:
        lead = form.lead if text else form.alone
        pieces += [("" if text.endswith(lead) else lead, True), *calls_pieces(form, calls)]
    return [(piece, is_markup) for piece, is_markup in pieces if piece]


def calls_pieces(form: CallForm, calls: Sequence[ToolCall]) -> Pieces:
    """Write the calls of a message."""
    if len(calls) > 1 and not form.parallel:
        raise OptionError(f"models of {form.name!r} write one call in a message, and here are {len(calls)}")
    pieces: Pieces = [(form.section[0], True)]
    for i, call in enumerate(calls):
        pieces += [("" if i == 0 else form.separator, True), (form.begin, True), (call.name, False)]
        if form.id_pattern:
            pieces += [(form.id_mark, True), (written_id(form, call), False)]
        pieces += [(form.middle, True), *written_arguments(form.arguments, call.arguments, call.name), (form.end, True)]
    return [piece for piece in [*pieces, (form.section[1], True)] if piece[0]]


def written_id(form: CallForm, call: ToolCall) -> str:
    """What a model writes of a call's id. Raises `OptionError` for an id of another form."""
    before = form.id_of(call.name, "")
    written = (call.id or "").removeprefix(before)
    if not (call.id or "").startswith(before) or not re.fullmatch(form.id_pattern, written):
        form_of_ids = form.id_of(call.name, form.id_pattern)
        raise OptionError(f"id {call.id!r} of a call: models of {form.name!r} write ids of the form {form_of_ids!r}")
    return written
