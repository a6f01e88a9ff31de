"""Constraints on generated text: immutable values, built by `regex`, `json_schema`, `choice`, ..., `+` and `|`.

Knows nothing of how a constraint is enforced, nor of tokens. `gen(regex=...)`, `gen(schema=...)` and the other keywords
are shorthands of `gen(constraint=...)`, which takes any of these values or a Python type.

Invariants: a constraint never changes, and is equal to another one by content, so it is its own cache key. The order of
a schema's properties is kept as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ConstraintError
from .kept import by_text, kept
from .types.conversion import MOST_TYPES, KnownType, dtype_pattern, known_type, named_dtype

if TYPE_CHECKING:
    from .pattern import PatternNode

KINDS = frozenset({"text", "regex", "choices", "json_schema", "ebnf", "lark", "sequence", "union", "repeat", "control"})
"""What a backend may know how to enforce."""


class Constraint:
    """Base of all constraints. `a + b`: one after the other; `a | b`: either; a string stands for itself."""

    __slots__ = ()
    kind = "constraint"

    @property
    def inner(self) -> tuple[Constraint, ...]:
        """The constraints that this one joins."""
        return ()

    def __format__(self, spec: str) -> str:
        raise ConstraintError(
            f"{self!r:.60} is no text, so an f-string or format() cannot hold it: join with +, as in "
            '"Total: " + sgl.regex("[0-9]+")'
        )

    def parse(self, text: str) -> Any:
        """Check a finished text and read its value.

        Args:
            text: the text of a gen.

        Returns:
            An instance of a schema's type, the data of a JSON Schema, else the text.

        Raises:
            ConstraintError: the text breaks the constraint.

        Example:
            >>> import sgl
            >>> sgl.schema(list[int]).parse("[3]")
            [3]
        """
        # Here, since the check reads constraints: a constraint is a value and its check another module's.
        from .checking.check import Mismatch, check

        if not isinstance(text, str):
            raise ConstraintError(f"parse takes the text of a gen, got {text!r:.80}")
        try:
            return check(self, text)
        except Mismatch as mismatch:
            raise ConstraintError(f"the text breaks its constraint: {mismatch}") from mismatch.__cause__

    def __add__(self, other: object) -> Constraint:
        return NotImplemented if (right := as_constraint(other)) is None else Sequenced((*_parts(self), *_parts(right)))

    def __radd__(self, other: object) -> Constraint:
        return NotImplemented if (left := as_constraint(other)) is None else Sequenced((*_parts(left), *_parts(self)))

    def __or__(self, other: object) -> Constraint:
        return (
            NotImplemented if (right := as_constraint(other)) is None else Either((*_branches(self), *_branches(right)))
        )

    def __ror__(self, other: object) -> Constraint:
        return (
            NotImplemented if (left := as_constraint(other)) is None else Either((*_branches(left), *_branches(self)))
        )


@dataclass(frozen=True, slots=True)
class Exactly(Constraint):
    """One text."""

    text: str
    kind = "text"


@dataclass(frozen=True, slots=True)
class Regex(Constraint):
    """Text that `re.fullmatch(pattern, text)` accepts (see `pattern/`).

    `dtype`: the type that its value is read as, if the constraint was made from one (`gen(dtype=int)`).
    """

    pattern: str
    dtype: type | None = None
    kind = "regex"


@dataclass(frozen=True, slots=True)
class Choices(Constraint):
    """One of these texts."""

    choices: tuple[str, ...]
    kind = "choices"


@dataclass(frozen=True, slots=True)
class JsonSchema(Constraint):
    """JSON text that is valid under a JSON Schema. `source`: the schema as JSON text, its order kept.

    `type`: the Python type that the schema was made from, if any; the value is then an instance of it. Schemas of
    different types are different constraints, whatever their text.
    """

    source: str
    type: Any = field(default=None)
    kind = "json_schema"

    @property
    def schema(self) -> Any:
        """The schema as Python data (a new copy)."""
        return json.loads(self.source)

    def __hash__(self) -> int:
        return hash((self.source, id(self.type)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonSchema) and self.source == other.source and self.type is other.type


@dataclass(frozen=True, slots=True)
class Grammar(Constraint):
    """A context-free grammar: `syntax` is "ebnf" (xgrammar's, or GBNF) or "lark" (llguidance's)."""

    source: str
    syntax: str

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.syntax


@dataclass(frozen=True, slots=True)
class Sequenced(Constraint):
    """The parts, one after the other."""

    parts: tuple[Constraint, ...]
    kind = "sequence"

    @property
    def inner(self) -> tuple[Constraint, ...]:
        return self.parts


@dataclass(frozen=True, slots=True)
class Either(Constraint):
    """Any one of the branches."""

    branches: tuple[Constraint, ...]
    kind = "union"

    @property
    def inner(self) -> tuple[Constraint, ...]:
        return self.branches


@dataclass(frozen=True, slots=True)
class Repeated(Constraint):
    """`part` from `least` to `most` times (None: any number), with `separator` between two of them."""

    part: Constraint
    least: int
    most: int | None
    separator: str
    kind = "repeat"

    @property
    def inner(self) -> tuple[Constraint, ...]:
        return (self.part,)


@dataclass(frozen=True, slots=True)
class Control(Constraint):
    """One control token of the model's tokenizer, by its text. No ordinary tokens spell it."""

    text: str
    kind = "control"


def regex(pattern: str) -> Constraint:
    """Text that the whole pattern matches, in the syntax and meaning of Python's `re.fullmatch`, and `\\p{...}`.

    Args:
        pattern: the regular expression.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: the pattern is wrong, empty, matches nothing, or no engine can enforce it (backreferences).

    Example:
        >>> import sgl
        >>> price = sgl.regex("[0-9]{1,4}") + " euros"
        >>> price.parse("12 euros")
        '12 euros'
    """
    if not isinstance(pattern, str):
        raise ConstraintError(f"regex must be a string, got {pattern!r:.80}")
    if not pattern:
        raise ConstraintError("regex is empty; nothing could be generated")
    pattern_node(pattern)
    return Regex(pattern)


@kept(256)
def pattern_node(pattern: str) -> PatternNode:
    """Read a pattern. Raises `ConstraintError` if it is wrong or matches nothing."""
    from .pattern import PatternError, is_empty, parse_regex

    try:
        node = parse_regex(pattern)
        empty = is_empty(node)
    except PatternError as error:
        raise ConstraintError(f"regex {pattern!r:.200}: {error}") from None
    if empty:
        raise ConstraintError(f"regex {pattern!r:.200} matches no text at all; nothing could be generated")
    return node


def json_schema(schema: str | Mapping[str, Any] | bool) -> Constraint:
    """JSON text that is valid under a JSON Schema. What the schema means is looked at when a program uses it.

    Args:
        schema: the schema, as JSON text or as a mapping; the order of its properties is kept.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: it is not JSON, or a Python type (`sgl.schema` takes those).

    Example:
        >>> import sgl
        >>> sgl.json_schema({"type": "array", "items": {"type": "integer"}}).parse("[1, 2]")
        [1, 2]
    """
    if isinstance(schema, str):
        return _json_schema(schema)
    if isinstance(schema, type) or not isinstance(schema, (Mapping, bool)):
        hint = "; a Python type goes into schema=" if isinstance(schema, type) else ""
        raise ConstraintError(f"json_schema must be a JSON Schema as a string or a mapping, got {schema!r:.80}{hint}")
    try:
        return JsonSchema(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"json_schema holds something that is not JSON: {error}") from None


@kept(256)
def _json_schema(source: str) -> Constraint:
    try:
        parsed = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"json_schema is not valid JSON: {error}") from None
    if not isinstance(parsed, (dict, bool)):
        raise ConstraintError(f"json_schema must be a JSON object, got {source!r:.80}")
    return json_schema(parsed)


def schema(type: Any) -> Constraint:
    """JSON text of a Python type; `s.value(name)` is then an instance of the type.

    Args:
        type: a Pydantic model, dataclass, TypedDict, NamedTuple, Literal, Enum, Union, Annotated, `list[...]`,
            `dict[str, ...]`, date, UUID, Decimal, `int`, ...

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: the type has no JSON Schema, or no value; the message names the place in the type.

    Example:
        >>> import sgl
        >>> sgl.schema(dict[str, int]).parse('{"a": 1}')
        {'a': 1}
    """
    return from_type(type)


def from_type(tp: Any, where: str = "schema") -> JsonSchema:
    """The constraint of a type. Equal types give the same object. Raises `ConstraintError` with `where`."""
    return _of_known(known_type(tp, where))


@kept(MOST_TYPES, by_text(0))
def _of_known(known: KnownType) -> JsonSchema:
    return JsonSchema(known.source, known.type)


def of_dtype(dtype: Any, where: str = "dtype") -> Constraint:
    """The constraint of `gen(dtype=...)`: SGLang's for int, float, bool, str or their names; else `from_type`'s."""
    dtype = named_dtype(dtype, where)
    pattern = dtype_pattern(dtype)
    return from_type(dtype, where) if pattern is None else Regex(pattern, dtype)


def choice(choices: object) -> Constraint:
    """One of these texts, written under a mask (`select` scores them instead).

    Args:
        choices: a list of strings, none empty, all different.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: there are no choices, or one is empty, repeated or no string.

    Example:
        >>> import sgl
        >>> (sgl.choice(["red", "green"]) + " light").parse("red light")
        'red light'
    """
    return Choices(check_choices("choice", choices))


def check_choices(where: str, choices: object) -> tuple[str, ...]:
    """Check choices and return them as a tuple. Raises `ConstraintError` for none, or an empty or repeated one."""
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
        whole_characters(f"{where}: choice {i}", choice)
    if len(set(found)) < len(found):
        twice = next(c for i, c in enumerate(found) if c in found[:i])
        raise ConstraintError(f"{where}: choice {twice!r} is listed twice; remove one")
    return found


def ebnf(source: str) -> Constraint:
    """A grammar in EBNF: xgrammar's dialect, or llama.cpp's GBNF.

    Args:
        source: the rules; the start rule is `root`.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: it is empty or has a character that no token spells; a program that uses it reads its rules.

    Example:
        >>> import sgl
        >>> sgl.ebnf('root ::= "a" root | "b"').kind
        'ebnf'
    """
    return Grammar(_text("ebnf", source), "ebnf")


def lark(source: str) -> Constraint:
    """A grammar in llguidance's Lark dialect.

    Args:
        source: the rules; the start rule is `start`.

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: it is empty or has a character that no token spells; a program that uses it reads its rules.

    Example:
        >>> import sgl
        >>> sgl.lark('start: "a" start | "b"').kind
        'lark'
    """
    return Grammar(_text("lark", source), "lark")


def constraint_of(value: object) -> Constraint:
    """Make a constraint of what `constraint=` takes: a constraint, or a Python type. Else `ConstraintError`."""
    if isinstance(value, Constraint):
        return value
    if isinstance(value, (str, Mapping)):
        hint = "a text is ambiguous: say sgl.regex(...) or sgl.choice([...])"
        raise ConstraintError(f"{hint if isinstance(value, str) else 'say sgl.json_schema(...)'}, got {value!r:.80}")
    return schema(value)


def kinds(constraint: Constraint) -> set[str]:
    """The kinds that a backend must know to enforce this constraint."""
    return {constraint.kind}.union(*map(kinds, constraint.inner))


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConstraintError(f"{what} must be a string, got {value!r:.80}")
    if not value.strip():
        raise ConstraintError(f"{what} is empty; nothing could be generated")
    whole_characters(what, value)
    if "\0" in value:
        raise ConstraintError(f"{what} has a NUL character at position {value.index(chr(0))}, which no token can spell")
    return value


def whole_characters(what: str, text: str) -> None:
    """Raise `ConstraintError` for a text with half a character in it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(
            f"{what} has a lone surrogate {text[error.start]!r} at position {error.start}, which no token can spell; "
            "write the whole character"
        ) from None


def as_constraint(value: object) -> Constraint | None:
    """A constraint, or the text that a string stands for; None for anything else."""
    if isinstance(value, Constraint) or not isinstance(value, str):
        return value if isinstance(value, Constraint) else None
    whole_characters("a text joined to a constraint", value)
    return Exactly(value)


def _parts(constraint: Constraint) -> tuple[Constraint, ...]:
    return constraint.parts if isinstance(constraint, Sequenced) else (constraint,)


def _branches(constraint: Constraint) -> tuple[Constraint, ...]:
    return constraint.branches if isinstance(constraint, Either) else (constraint,)
