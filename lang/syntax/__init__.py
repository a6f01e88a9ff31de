"""Call syntaxes: how families of models write tool calls, as data that constrains, renders and reads them.

This folder knows nothing of torch, threads, tokens, or of how a constraint is enforced.

    form.py              the description of a family: its texts, in dataclasses
    families.py          the families, and `syntax_named`
    call_syntax.py       `CallSyntax`: a description and what follows from it
    matching.py          `syntax_of`: the family of a chat template
    lowering.py          the constraint of a message with calls
    arguments.py         the constraint of a call's arguments
    markup.py            constraints put together of a family's texts
    writing.py           a message with calls as text
    values.py            arguments as text
    reading.py           `CallReader`: a message read while it is written
    argument_reading.py  the arguments of a call read while they are written
    events.py            what a reader says
    showing.py           tools and results as plain text
"""

from __future__ import annotations

from .call_syntax import CallSyntax
from .events import ArgumentsDelta, CallBegan, CallClosed, CallEvent, TextDelta, ThinkingDelta, merged
from .families import FAMILIES, syntax_named
from .lowering import ThinkingMode
from .matching import shows_tools, syntax_for, syntax_of
from .reading import CallReader

__all__ = [
    "FAMILIES",
    "ArgumentsDelta",
    "CallBegan",
    "CallClosed",
    "CallEvent",
    "CallReader",
    "CallSyntax",
    "TextDelta",
    "ThinkingDelta",
    "ThinkingMode",
    "merged",
    "shows_tools",
    "syntax_for",
    "syntax_named",
    "syntax_of",
]
