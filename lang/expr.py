"""Expressions: immutable trees of text, calls and roles, built by `gen`, `select`, `user(...)` and `+`.

Knows nothing of how an expression is executed.

Invariant: an expression never changes after it was built, and holds no reference to a caller's list or dict. So one
expression may be appended to any number of programs, branches and threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Union

from .choices import ChoiceMethod, token_length_normalized
from .constraint import Constraint
from .errors import OptionError
from .sampling import DEFAULT_MAX_TOKENS as DEFAULT_MAX_TOKENS
from .sampling import Sampling as Sampling  # re-exported: it is part of a gen
from .tools.spec import ToolCall, ToolSpec

Appendable = Union["Expr", str]


class Expr:
    """Base of the expressions. `+` joins expressions and strings.

    An expression has no text, since nothing ran yet. So `str`, f-strings and `%s` raise `OptionError`; `repr` works.
    """

    __slots__ = ()

    def __add__(self, other: object) -> Seq:
        return Seq((*self.parts(), *as_expr(other).parts()))

    def __radd__(self, other: object) -> Seq:
        return Seq((*as_expr(other).parts(), *self.parts()))

    def __str__(self) -> str:
        raise OptionError(
            f"{self!r:.60} is a place in a program and has no text yet, so an f-string, str(), % or format() cannot "
            'hold it: join with +, as in "Answer: " + sgl.gen("a")'
        )

    def __format__(self, spec: str) -> str:
        return str(self)  # raises

    def parts(self) -> tuple[Expr, ...]:
        return (self,)


@dataclass(frozen=True, slots=True)
class Text(Expr):
    """Constant text, written by the program's author. Only `special` text is parsed for control tokens."""

    text: str
    special: bool = False


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
class CallTools(Gen):
    """The model writes calls of tools here, or text, or an answer. Its constraint follows from the backend's model.

    `least` and `most` calls (None: any number). `choice`: "auto", "required", "none" or the name of a tool. `own`: the
    names of tools that are the program's own functions: what is wrong with one of them is an error. `in_thought`: the
    chat template has begun the reasoning of the turn, so the model ends it first.
    """

    tools: tuple[ToolSpec, ...] = ()
    choice: str = "auto"
    least: int = 0
    most: int | None = None
    answer: Constraint | None = None
    own: frozenset[str] = frozenset()
    in_thought: bool = False


@dataclass(frozen=True, slots=True)
class ToolTurn(Expr):
    """The result of one call, as a turn of its own: its text answers `call`."""

    call: ToolCall
    text: str


@dataclass(frozen=True, slots=True)
class RoleBegin(Expr):
    """A turn begins. `tools` are shown to the model in it."""

    role: str
    tools: tuple[ToolSpec, ...] = field(default=(), repr=False)


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


def flat(expr: Expr) -> list[Expr]:
    """The parts of an expression, one after the other."""
    if isinstance(expr, Seq):
        return [part for item in expr.parts() for part in flat(item)]
    return [expr]


def as_expr(value: object) -> Expr:
    """Make an expression of text. Raises `OptionError` for what is neither text nor an expression."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Text(value)
    hint = "nothing was given" if value is None else f"got {type(value).__name__} {value!r:.60}"
    raise OptionError(f"only text and sgl expressions can be appended to a program; {hint}. Use str(...) for a value.")
