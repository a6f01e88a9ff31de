"""What generated text must be: immutable constraint values, built by `regex`, `json_schema`, `choice`, `+` and `|`.

Owns: the constraint nodes and what can be said about them without an engine. Knows nothing of how a constraint is
enforced, nor of tokens.

`gen(regex=...)`, `gen(schema=...)` and their kin are shorthands for `gen(constraint=...)`, which takes any of these
values or a Python type. Constraints join: `sgl.regex(r"[A-Z]{3}") + ": " + sgl.json_schema({...})`, `a | b`.

Invariants: a constraint never changes and is equal to another by content, so it is its own cache key. The order of a
schema's properties is kept as it was written.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ConstraintError

if TYPE_CHECKING:
    from .pattern import PatternNode

KINDS = frozenset({"text", "regex", "choices", "json_schema", "ebnf", "lark", "sequence", "union"})
"""What a backend may know how to enforce."""


class Constraint:
    """Base of the nodes. `a + b`: one after the other; `a | b`: either. Strings stand for themselves."""

    __slots__ = ()
    kind = "constraint"

    def parse(self, text: str) -> Any:
        """The value that a whole text stands for under this constraint: an instance of a schema's type, parsed data,
        or the text. Raises `ConstraintError` for a text that breaks it."""
        from .checking.check import Mismatch, check

        if not isinstance(text, str):
            raise ConstraintError(f"parse takes the text of a gen, got {text!r:.80}")
        try:
            return check(self, text)
        except Mismatch as mismatch:
            raise ConstraintError(f"the text breaks its constraint: {mismatch}") from mismatch.__cause__

    def __add__(self, other: object) -> Constraint:
        return NotImplemented if (right := _operand(other)) is None else Sequenced((*_parts(self), *_parts(right)))

    def __radd__(self, other: object) -> Constraint:
        return NotImplemented if (left := _operand(other)) is None else Sequenced((*_parts(left), *_parts(self)))

    def __or__(self, other: object) -> Constraint:
        return NotImplemented if (right := _operand(other)) is None else Either((*_branches(self), *_branches(right)))

    def __ror__(self, other: object) -> Constraint:
        return NotImplemented if (left := _operand(other)) is None else Either((*_branches(left), *_branches(self)))


@dataclass(frozen=True, slots=True)
class Exactly(Constraint):
    """This text."""

    text: str
    kind = "text"


@dataclass(frozen=True, slots=True)
class Regex(Constraint):
    """Text that `re.fullmatch(pattern, text)` accepts: Python's syntax and meaning (see `pattern/`). `dtype` is the
    Python type that its value is read as, if it was made from one (`gen(dtype=int)`)."""

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
    """JSON text that is valid under a JSON Schema. `source` is the schema as JSON text, its order kept.

    `type` is the Python type that it was made from, if any: then the value is an instance of that type. Two schemas
    made from different types are different constraints, whatever their text.
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
    """A context-free grammar: `syntax` is "ebnf" (xgrammar's GBNF dialect) or "lark" (llguidance's)."""

    source: str
    syntax: str

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.syntax


@dataclass(frozen=True, slots=True)
class Sequenced(Constraint):
    """One after the other."""

    parts: tuple[Constraint, ...]
    kind = "sequence"


@dataclass(frozen=True, slots=True)
class Either(Constraint):
    """One of these."""

    branches: tuple[Constraint, ...]
    kind = "union"


# -- builders: what a user writes
def regex(pattern: str) -> Constraint:
    """Text that the whole pattern matches: Python's `re` syntax and meaning (`re.fullmatch`), and `\\p{...}`.

    Raises `ConstraintError` for a pattern that is wrong, empty, matches nothing, or that no engine can enforce
    (backreferences), with the position and a hint.
    """
    pattern_node(_text("regex", pattern))
    return Regex(pattern)


@functools.lru_cache(1024)
def pattern_node(pattern: str) -> PatternNode:
    """The language of a pattern. Raises `ConstraintError` for one that is wrong, or that nothing matches."""
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
    """JSON text that is valid under a JSON Schema (a string or a mapping; the order of properties is kept).

    Raises `ConstraintError` for what is not JSON. What the schema means is looked at when a program uses it.
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


@functools.lru_cache(256)
def _json_schema(source: str) -> Constraint:
    try:
        parsed = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"json_schema is not valid JSON: {error}") from None
    if not isinstance(parsed, (dict, bool)):
        raise ConstraintError(f"json_schema must be a JSON object, got {source!r:.80}")
    return json_schema(parsed)


def schema(type: Any) -> Constraint:
    """JSON text of a Python type: a Pydantic model, dataclass, TypedDict, NamedTuple, Literal, Enum, Union, Annotated,
    `list[...]`, `dict[str, ...]`, date, UUID, Decimal, `int`, ... `s.value(name)` is then an instance of it."""
    from .types.conversion import from_type

    return from_type(type)


def dtype(type: Any) -> Constraint:
    """SGLang's `dtype=`: int, float, bool or str (or their names): a number, `True|False`, or a quoted string. Any
    other type is the same as `schema`."""
    from .types.conversion import of_dtype

    return of_dtype(type, "dtype")


def choice(choices: object) -> Constraint:
    """One of these texts, written under a mask (`select` scores them instead)."""
    from .expr import check_choices

    return Choices(check_choices("choice", choices))


def ebnf(source: str) -> Constraint:
    """A grammar in xgrammar's EBNF (llama.cpp's GBNF); its start rule is `root`."""
    return Grammar(_text("ebnf", source), "ebnf")


def lark(source: str) -> Constraint:
    """A grammar in llguidance's Lark dialect; its start rule is `start`."""
    return Grammar(_text("lark", source), "lark")


def constraint_of(value: object) -> Constraint:
    """What `constraint=` takes: a constraint, or a Python type. `ConstraintError` for anything else."""
    if isinstance(value, Constraint):
        return value
    if isinstance(value, (str, Mapping)):
        hint = "a text is ambiguous: say sgl.regex(...) or sgl.choice([...])"
        raise ConstraintError(f"{hint if isinstance(value, str) else 'say sgl.json_schema(...)'}, got {value!r:.80}")
    return schema(value)


def kinds(constraint: Constraint) -> set[str]:
    """The kinds that a backend must know to enforce this constraint."""
    inner = (
        constraint.parts
        if isinstance(constraint, Sequenced)
        else constraint.branches
        if isinstance(constraint, Either)
        else ()
    )
    return {constraint.kind}.union(*[kinds(part) for part in inner])


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConstraintError(f"{what} must be a string, got {value!r:.80}")
    if not value.strip():
        raise ConstraintError(f"{what} is empty; nothing could be generated")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ConstraintError(f"{what} has a lone surrogate, which no token can spell")
    if "\0" in value:
        raise ConstraintError(f"{what} has a NUL character at position {value.index(chr(0))}, which no token can spell")
    return value


def _operand(value: object) -> Constraint | None:
    if isinstance(value, Constraint):
        return value
    return Exactly(value) if isinstance(value, str) else None


def _parts(constraint: Constraint) -> tuple[Constraint, ...]:
    return constraint.parts if isinstance(constraint, Sequenced) else (constraint,)


def _branches(constraint: Constraint) -> tuple[Constraint, ...]:
    return constraint.branches if isinstance(constraint, Either) else (constraint,)
