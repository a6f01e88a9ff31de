"""Constraints for text with a structure in it: free text, parts that repeat, control tokens.

Knows nothing of how a constraint is enforced, nor of tokens. With `+` and `|` they say, for one, text in which tool
calls may come: `sgl.repeat(sgl.free_text(without=["<call>"]) + "<call>" + sgl.schema(Args) + "</call>")` and free text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .constraint import Constraint, Control, Regex, Repeated, as_constraint, whole_characters
from .errors import ConstraintError

MOST_WITHOUT = 256
"""Texts that free text is to be without."""


@dataclass(frozen=True, slots=True)
class FreeText(Regex):
    """Any text in which none of some texts occurs. Free text that touches the same free text is one free text."""

    without: tuple[str, ...] = ()


def free_text(without: Sequence[str] = ()) -> Constraint:
    """Any text, also none, in which none of the given texts occurs.

    Args:
        without: texts that do not occur in it, such as the one that a call begins with; default none.

    Returns:
        A constraint; `+` and `|` join it with others and with strings. It has no end of its own: the next part begins
        where one of its texts does, or the model ends the text.

    Raises:
        ConstraintError: a text is empty or no string.

    Example:
        >>> import sgl
        >>> aside = sgl.free_text(without=["<n>"]) + "<n>" + sgl.regex("[0-9]+") + "</n>"
        >>> aside.parse("It is <n>12</n>")
        'It is <n>12</n>'
    """
    if isinstance(without, str) or not isinstance(without, Sequence):
        raise ConstraintError(f"free_text: without must be a list of texts, got {without!r:.80}")
    if len(without) > MOST_WITHOUT:
        raise ConstraintError(f"free_text: without has {len(without)} texts; at most {MOST_WITHOUT} are taken")
    for text in without:
        if not isinstance(text, str) or not text:
            raise ConstraintError(f"free_text: without holds {text!r:.80}; each must be a text that is not empty")
        whole_characters("free_text: without", text)
    texts = tuple(dict.fromkeys(without))
    barred = "|".join(map(re.escape, texts))
    return FreeText(f"(?s:(?:(?!{barred}).)*)" if barred else "(?s:.*)", None, texts)


def repeat(constraint: Constraint | str, least: int = 0, most: int | None = None, *, separator: str = "") -> Constraint:
    """A part that comes several times, one after the other.

    Args:
        constraint: the part: a constraint, or a text.
        least: how often it comes at least; default 0.
        most: how often it comes at most; default None, any number of times.
        separator: text between two of them; default none.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: the part is neither, a count is no number, or `most` is less than `least`.

    Example:
        >>> import sgl
        >>> sgl.repeat(sgl.schema(int), 1, 3, separator=";").parse("1;22")
        '1;22'
    """
    if (part := as_constraint(constraint)) is None:
        raise ConstraintError(f"repeat takes a constraint or a text, got {constraint!r:.80}")
    for name, count in (("least", least), ("most", most)):
        open_end = name == "most" and count is None
        if not open_end and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise ConstraintError(f"repeat: {name} must be a whole number from 0 on, got {count!r:.80}")
    if most is not None and most < max(least, 1):
        raise ConstraintError(f"repeat: most={most} must be at least {max(least, 1)}")
    if not isinstance(separator, str):
        raise ConstraintError(f"repeat: separator must be a text, got {separator!r:.80}")
    whole_characters("repeat: separator", separator)
    return Repeated(part, least, most, separator)


def control(text: str) -> Constraint:
    """One control token: a special token of the model's tokenizer, such as `<|tool_call|>`.

    Ordinary tokens that spell the same text do not match. The token's text is part of what was generated.

    Args:
        text: the token's text, exactly.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: it is no text. A program that uses it raises one if the tokenizer has no such token.

    Example:
        >>> import sgl
        >>> call = sgl.control("<|call|>") + sgl.json_schema({"type": "object"})
        >>> call.kind
        'sequence'
    """
    if not isinstance(text, str) or not text:
        raise ConstraintError(f"control takes the text of a control token, got {text!r:.80}")
    whole_characters("control", text)
    return Control(text)


def controls(constraint: Constraint) -> list[str]:
    """The texts of the control tokens in a constraint, in order, each once."""
    own = [constraint.text] if isinstance(constraint, Control) else []
    return list(dict.fromkeys([*own, *(text for part in constraint.inner for text in controls(part))]))
