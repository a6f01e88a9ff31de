"""What of a constraint is enforced, and how: the table behind `sgl.explain`.

Owns: `explain` and how its table looks. Knows nothing of vocabularies; the
lowering of a schema, and a grammar, are tried in an engine.

- **enforced**: no other text can be generated.
- **checked**: the mask is wider there. The finished text is validated, and generated again if it fails.
- **annotation**: the keyword says nothing about validity.
- **refused**: a gen with this constraint raises `ConstraintError`, with this reason.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ....lang.constraint import (
    Choices,
    Constraint,
    Control,
    Either,
    Exactly,
    Grammar,
    JsonSchema,
    Regex,
    Repeated,
    Sequenced,
)
from ....lang.errors import ConstraintError
from ....lang.pattern import PatternError, is_empty, parse_regex, size
from ....lang.structure import FreeText
from .closing.ways import rule_set, too_long
from .engines.llguidance import refusal, try_writing
from .lark import schemas, to_source
from .raw import raw_rows, raw_source
from .rules.automata import RuleAutomata
from .rules.nodes import RuleSet
from .schema.lower import KeywordRow, lower


@dataclass(frozen=True, repr=False)
class Explanation:
    """A row for each keyword of a constraint."""

    rows: tuple[KeywordRow, ...]

    @property
    def ok(self) -> bool:
        """Whether the constraint can be used at all."""
        return all(row.status != "refused" for row in self.rows)

    @property
    def fully_enforced(self) -> bool:
        """Whether nothing but what the constraint says can be generated."""
        return all(row.status in ("enforced", "annotation") for row in self.rows)

    def __str__(self) -> str:
        table = [("pointer", "keyword", "how", "note"), *(_cells(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(3)]
        lines = []
        for row in table:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) + "  " + row[3])
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("pointer", "keyword", "how", "note"))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def explain(constraint: Constraint) -> Explanation:
    """How each keyword of a constraint is carried out; a constraint that is refused has a row that says why."""
    rows = tuple(_rows(constraint))
    if all(row.status != "refused" for row in rows) and (why := _refused_whole(constraint)):
        one = len(rows) == 1 and not isinstance(constraint, JsonSchema)
        refused = KeywordRow("", constraint.kind, "refused", why)
        rows = (replace(rows[0], status="refused", note=why),) if one else (*rows, refused)
    return Explanation(rows)


def _refused_whole(constraint: Constraint) -> str:
    """Why a constraint is refused whose parts are right by themselves: at a joint or for its size; "" if it is not.

    A schema alone was tried in the engine when it was lowered.
    """
    lowered = {part: lower(part.schema) for part in schemas(constraint)}
    try:
        grammar = rule_set(constraint, {part: low.document for part, low in lowered.items()})
        if why := _too_long(grammar):
            return why
        if isinstance(constraint, Grammar):
            try_writing(raw_source(constraint))
        elif not isinstance(constraint, JsonSchema):
            try_writing(to_source(constraint, {part: low.engine_schema for part, low in lowered.items()}))
    except (ConstraintError, PatternError) as error:
        return str(error)
    return ""


def _too_long(grammar: RuleSet | None) -> str:
    try:
        return "" if grammar is None else too_long(RuleAutomata(grammar))
    except PatternError:  # a gen has no rules to close by either
        return ""


def _rows(constraint: Constraint) -> Iterator[KeywordRow]:
    if isinstance(constraint, (Sequenced, Either)):
        parts, word = (
            (constraint.parts, "part") if isinstance(constraint, Sequenced) else (constraint.branches, "branch")
        )
        for number, part in enumerate(parts, 1):
            for row in _rows(part):
                yield replace(row, pointer=f"{word} {number}" + (f": {row.pointer}" if row.pointer else ""))
    elif isinstance(constraint, Repeated):
        yield KeywordRow("", "repeat", "enforced", _rounds(constraint))
        for row in _rows(constraint.part):
            yield replace(row, pointer=f"each: {row.pointer}" if row.pointer else "each")
    elif isinstance(constraint, Control):
        yield KeywordRow("", "control", "enforced", f"the token {constraint.text}, where the tokenizer has it")
    elif isinstance(constraint, Exactly):
        yield KeywordRow("", "text", "enforced", _count(len(constraint.text), "character"))
    elif isinstance(constraint, Choices):
        yield KeywordRow("", "choices", "enforced", _count(len(constraint.choices), "choice"))
    elif isinstance(constraint, FreeText):
        without = f"without {', '.join(map(repr, constraint.without))}" if constraint.without else "any text"
        yield KeywordRow("", "free text", "enforced", without)
    elif isinstance(constraint, Regex):
        yield _regex(constraint.pattern)
    elif isinstance(constraint, JsonSchema):
        yield from _schema(constraint)
    elif isinstance(constraint, Grammar):
        yield from _grammar(constraint)
    else:
        raise TypeError(f"explain takes a constraint, not {type(constraint).__name__}")


def _rounds(constraint: Repeated) -> str:
    most = "any number of times" if constraint.most is None else f"at most {_count(constraint.most, 'time')}"
    least = f"at least {_count(constraint.least, 'time')}, " if constraint.least else ""
    return f"{least}{most}" + (f", {constraint.separator!r} between" if constraint.separator else "")


def _grammar(constraint: Grammar) -> list[KeywordRow]:
    try:
        rows = list(raw_rows(constraint))
        if all(row.status != "refused" for row in rows) and (why := refusal(raw_source(constraint))):
            raise ConstraintError(why)
    except ConstraintError as error:
        return [KeywordRow("", constraint.syntax, "refused", str(error))]
    return rows


def _regex(pattern: str) -> KeywordRow:
    try:
        node = parse_regex(pattern)
        if is_empty(node):
            return KeywordRow("", "regex", "refused", "no text matches this pattern")
    except PatternError as error:
        return KeywordRow("", "regex", "refused", str(error))
    return KeywordRow("", "regex", "enforced", f"normalised, {_count(size(node), 'position')}")


def _schema(constraint: JsonSchema) -> Iterator[KeywordRow]:
    try:
        yield from lower(constraint.schema).rows
    except ConstraintError as error:
        pointer, _, why = str(error).partition(": ")
        known = pointer == "(root)" or pointer.startswith("/")
        yield KeywordRow(pointer if known else "", "", "refused", why if known else str(error))
        return
    if constraint.type is not None:
        from ....lang.types.conversion import checked_afterwards

        for what in checked_afterwards(constraint.type):
            yield KeywordRow("", "type", "checked", what)


def _cells(row: KeywordRow) -> tuple[str, str, str, str]:
    return row.pointer or "(root)", row.keyword or "-", row.status, row.note


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
