"""The arguments of a call as text in a family's notation.

Knows nothing of schemas: a value is written as what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ConstraintError
from .form import ArgumentsForm, JsonArguments, LiteralArguments, Pieces, TaggedArguments

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def written_arguments(form: ArgumentsForm, arguments: Mapping[str, Any], tool: str) -> Pieces:
    """Write the arguments of a call, as pieces (text, whether it is markup)."""
    if isinstance(form, JsonArguments):
        return [(as_json(arguments), False)]
    pieces: Pieces = []
    if isinstance(form, TaggedArguments):
        for name, value in arguments.items():
            before, after = form.text_key if form.text_key and isinstance(value, str) else form.key
            pieces += [(before, True), (name, False), (after, True)]
            pieces += [(tagged_value(form, value, tool), False), (form.end, True)]
        return pieces
    names = sorted(arguments, key=str.lower) if form.ordered else list(arguments)
    for name in names:
        pieces += [(form.comma, True)] if pieces else []
        pieces += [(name + form.colon, False), *literal_pieces(form, arguments[name], top=True)]
    return pieces


def as_json(value: Any) -> str:
    """JSON text as the `tojson` of chat templates writes it."""
    return json.dumps(value, ensure_ascii=False)


def tagged_value(form: TaggedArguments, value: Any, tool: str) -> str:
    """A value between tags: a string as it is, any other value as JSON."""
    if value is True or value is False or value is None:
        return form.words[0 if value else 1] if value is not None else form.words[2]
    text = value if isinstance(value, str) else as_json(value)
    if form.tag in text:
        raise ConstraintError(f"tool {tool!r}: a value has {form.tag!r} in it, which ends an argument: {text!r:.80}")
    return text


def literal(form: LiteralArguments, value: Any, *, top: bool = False) -> str:
    """A value in the family's own notation."""
    return "".join(text for text, _ in literal_pieces(form, value, top=top))


def literal_pieces(form: LiteralArguments, value: Any, *, top: bool = False) -> Pieces:
    """`literal`, as pieces (text, whether it is markup): quotes are markup."""
    if isinstance(value, str):
        return [(form.quote, True), (_escaped(form, value), False), (form.quote, True)]
    if value is True or value is False or value is None:
        return [(form.words[0 if value else 1] if value is not None else form.words[2], False)]
    if isinstance(value, Mapping):
        if top and form.json_objects:
            return [(as_json(value), False)]
        pieces: Pieces = [("{", False)]
        names = sorted(value, key=str.lower) if form.ordered else list(value)
        for i, name in enumerate(names):
            key = ("" if i == 0 else form.inner_comma) + form.key_quote + name + form.key_quote + form.inner_colon
            pieces += [(key, False), *literal_pieces(form, value[name])]
        return [*pieces, ("}", False)]
    if isinstance(value, (list, tuple)):
        pieces = [("[", False)]
        for i, item in enumerate(value):
            pieces += [("" if i == 0 else form.inner_comma, False), *literal_pieces(form, item)]
        return [*pieces, ("]", False)]
    return [(as_json(value), False)]


def _escaped(form: LiteralArguments, text: str) -> str:
    if form.escapes:
        return "".join("\\" + char if char == form.quote else _ESCAPES.get(char, char) for char in text)
    if form.quote in text:
        raise ConstraintError(f"a string has {form.quote!r} in it, which ends a string: {text!r:.80}")
    return text


def overlap(text: str, wanted: str) -> int:
    """The length of the longest end of `text` that begins `wanted`."""
    for length in range(min(len(text), len(wanted) - 1), 0, -1):
        if text.endswith(wanted[:length]):
            return length
    return 0
