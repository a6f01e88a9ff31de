"""What a program can say: immutable expressions, built by `gen`, `select`, `user(...)` and `+`.

Owns: the expression nodes and the sampling parameters, and every check that needs neither a model nor a backend.
Knows nothing of how anything is executed.

Invariants: an expression never changes after it was built and holds no reference to a caller's list or dict, so one
expression may be appended to any number of programs, branches and threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from .choices import ChoiceMethod, token_length_normalized
from .constraint import Constraint
from .errors import ConstraintError, OptionError
from .sampling import DEFAULT_MAX_TOKENS as DEFAULT_MAX_TOKENS
from .sampling import Sampling as Sampling  # part of a gen, so whoever reads gens finds it here

Appendable = Union["Expr", str]


class Expr:
    """Base of the nodes. `+` joins expressions and strings, left to right."""

    __slots__ = ()

    def __add__(self, other: object) -> Seq:
        if not isinstance(other, (Expr, str)):
            return NotImplemented
        return Seq((*self.parts(), *as_expr(other).parts()))

    def __radd__(self, other: object) -> Seq:
        if not isinstance(other, str):
            return NotImplemented
        return Seq((Text(other), *self.parts()))

    def parts(self) -> tuple[Expr, ...]:
        return (self,)


@dataclass(frozen=True, slots=True)
class Text(Expr):
    """Constant text, written by the program's author. Never parsed for control tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Gen(Expr):
    """The model writes here."""

    name: str | None
    sampling: Sampling
    n: int = 1
    constraint: Constraint | None = None
    on_budget: str = "close"


@dataclass(frozen=True, slots=True)
class Select(Expr):
    """The model picks one of `choices` (all non-empty, all different)."""

    name: str | None
    choices: tuple[str, ...]
    temperature: float = 0.0
    method: ChoiceMethod = token_length_normalized


@dataclass(frozen=True, slots=True)
class RoleBegin(Expr):
    role: str


@dataclass(frozen=True, slots=True)
class RoleEnd(Expr):
    role: str


@dataclass(frozen=True, slots=True)
class Seq(Expr):
    """Expressions one after the other."""

    items: tuple[Expr, ...] = field(default=())

    def parts(self) -> tuple[Expr, ...]:
        return self.items

    def __iter__(self) -> Iterator[Expr]:
        return iter(self.items)


def as_expr(value: object) -> Expr:
    """`str` or expression -> expression; anything else is an `OptionError` that says what was given."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Text(value)
    hint = "nothing was given" if value is None else f"got {type(value).__name__} {value!r:.60}"
    raise OptionError(f"only text and sgl expressions can be appended to a program; {hint}. Use str(...) for a value.")


def check_choices(where: str, choices: object) -> tuple[str, ...]:
    """The choices as a tuple of strings; `ConstraintError` for none, an empty, a duplicate or a non-string one."""
    if choices is None or isinstance(choices, str) or not isinstance(choices, (Sequence, Mapping, set, frozenset)):
        raise ConstraintError(f"{where}: choices must be a list of strings, got {choices!r:.60}")
    if isinstance(choices, (set, frozenset)):
        raise ConstraintError(f"{where}: choices must have an order; pass a list, not a set")
    found = tuple(choices)
    if not found:
        raise ConstraintError(f"{where}: the list of choices is empty; there is nothing to pick from")
    for i, choice in enumerate(found):
        if not isinstance(choice, str):
            raise ConstraintError(f"{where}: choice {i} is {choice!r:.60}; every choice must be a string")
        if not choice:
            raise ConstraintError(f"{where}: choice {i} is the empty string, which no token can spell")
    if len(set(found)) < len(found):
        twice = next(c for i, c in enumerate(found) if c in found[:i])
        raise ConstraintError(f"{where}: choice {twice!r} is listed twice; remove one")
    return found
