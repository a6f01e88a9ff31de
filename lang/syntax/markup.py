"""Constraints put together of the family's own texts, in which control tokens are found.

Knows nothing of calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..constraint import Choices, Constraint, Control, Either, Exactly, Sequenced
from .form import CallForm, Pieces


def joined(form: CallForm, *parts: Constraint | str) -> Constraint:
    """The parts one after the other. Strings are markup; texts that meet are one text."""
    flat: list[Constraint] = []
    for part in parts:
        inner: Sequence[Constraint] = markup(form, part) if isinstance(part, str) else [part]
        for one in inner:
            for each in one.parts if isinstance(one, Sequenced) else (one,):
                if isinstance(each, Exactly) and flat and isinstance(before := flat[-1], Exactly):
                    flat[-1] = Exactly(before.text + each.text)
                else:
                    flat.append(each)
    if not flat:
        return Exactly("")
    return flat[0] if len(flat) == 1 else Sequenced(tuple(flat))


def markup(form: CallForm, text: str) -> list[Constraint]:
    """A text of the family's, with its control tokens."""
    if not form.controls:
        return [Exactly(text)] if text else []
    tokens = "|".join(re.escape(each) for each in sorted(form.controls, key=len, reverse=True))
    return [
        Control(piece) if i % 2 else Exactly(piece) for i, piece in enumerate(re.split(f"({tokens})", text)) if piece
    ]


def written(form: CallForm, pieces: Pieces) -> Constraint:
    """The text of pieces, of which markup may be control tokens."""
    return joined(form, *(text if is_markup else Exactly(text) for text, is_markup in pieces if text))


def any_of(branches: Sequence[Constraint]) -> Constraint:
    """One of the branches; texts among them are choices."""
    branches = tuple(dict.fromkeys(branches))
    texts = tuple(branch.text for branch in branches if isinstance(branch, Exactly) and branch.text)
    if len(texts) > 1:
        rest = tuple(branch for branch in branches if not (isinstance(branch, Exactly) and branch.text))
        branches = (Choices(texts), *rest)
    return branches[0] if len(branches) == 1 else Either(tuple(branches))
