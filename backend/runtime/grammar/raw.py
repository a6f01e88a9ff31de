"""Grammars as users write them (`ebnf=`, `lark=`): as llguidance is given them, and the second look at their texts.

Owns: what is refused of JSON within a grammar, and the check of finished texts. Knows nothing of tokens.

1. EBNF, and Lark that was read exactly, is rewritten: llguidance is given rules of our own (`rules/`), which have
   exactly the grammar's texts.
2. Other Lark is given as it is, but for its JSON Schemas. They are lowered as `json_schema=` is, and refused where a
   mask within other text does not do all that they say: nothing checks a part of a text afterwards.
3. A finished text is read by a recogniser of our own parse, which shares no code with the engines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from ....lang.checking.check import Mismatch, check
from ....lang.checking.dialect import SEARCH_SECONDS, brief
from ....lang.constraint import Constraint, Grammar
from ....lang.errors import ConstraintError
from ....lang.kept import kept
from ....lang.pattern import PatternError
from .lark import json_rule
from .rules.automata import RuleAutomata
from .rules.ebnf import read_ebnf
from .rules.lark import read_lark
from .rules.measure import least_lengths, most_demanded
from .rules.nodes import RuleSet
from .rules.normal import normalised
from .rules.recogniser import Recogniser
from .rules.write_lark import to_llguidance
from .schema.keys import few_keys, open_keys
from .schema.lower import KeywordRow, Lowered, lower

KEPT_AUTOMATA, AUTOMATON_BYTES = 32, 1 << 19
"""Automata that check texts, and what each may hold of the texts that it has read."""
MOST_FORCED_CHARACTERS = 4_000
"""What a part of a grammar may demand at least: its forced text is spelled before the model is asked again."""
CHARACTERS_A_LOOK = 256
"""Characters that are read between two looks at the clock."""


def raw_source(grammar: Grammar) -> str:
    """Write a grammar for llguidance. Raises `ConstraintError` for one that is wrong, or that a mask cannot enforce."""
    if grammar.syntax == "ebnf":
        return _ebnf(grammar.source)
    if (rewritten := _rewritten(grammar.source)) is not None:
        return rewritten
    lark = read_lark(grammar.source)
    return lark.source([json_rule(_whole(lower(schema), number)) for number, schema in enumerate(lark.schemas, 1)])


@kept(KEPT_AUTOMATA)
def _rewritten(source: str) -> str | None:
    """A Lark grammar by rules of our own; None where it is not read exactly, or llguidance cannot take such rules."""
    lark = read_lark(source)
    if lark.rules is None or not lark.exact:
        return None
    try:
        return _by_rules("Lark", lark.rules)
    except ConstraintError:
        return None


@kept(KEPT_AUTOMATA)
def _ebnf(source: str) -> str:
    return _by_rules("EBNF", read_ebnf(source))


def _by_rules(what: str, read: RuleSet) -> str:
    try:
        rules = normalised(read)
        least = least_lengths(rules)
        if (length := max(most_demanded(node, least) for node in rules.rules.values())) > MOST_FORCED_CHARACTERS:
            raise ConstraintError(
                f"{what}: a part of the grammar demands {length:,.0f} characters at least; "
                f"{MOST_FORCED_CHARACTERS:,} are taken"
            )
        return to_llguidance(rules)
    except (PatternError, RecursionError) as error:
        raise ConstraintError(f"{what}: the grammar is nested too deeply or too large: {error}") from None


def _whole(low: Lowered, number: int) -> object:
    """The engine's schema of a JSON Schema that a mask enforces by itself."""
    for row in _json_rows(low):
        if row.status == "refused":
            raise ConstraintError(f"%json {number}: {row.pointer or '(root)'}: {row.keyword}: {row.note}")
    return low.engine_schema


def _json_rows(low: Lowered) -> Iterator[KeywordRow]:
    fix = "or join sgl.json_schema(...) with text by +, which is checked when it is finished"
    for row in low.rows:
        note = f"within a grammar no check follows: {row.note or 'only a check enforces it'}; leave it out, {fix}"
        yield replace(row, status="refused", note=note) if row.status == "checked" else row
    if open_keys(low.document) or few_keys(low.document):
        what = "keys could be repeated where an object may have others than it names"
        note = f'{what}; say "additionalProperties": false, {fix}'
        yield KeywordRow("", "additionalProperties", "refused", note)


def raw_rows(grammar: Grammar) -> Iterator[KeywordRow]:
    """The rows of `sgl.explain` for a grammar. Raises `ConstraintError` for one that is refused."""
    if grammar.syntax == "ebnf":
        raw_source(grammar)
        yield KeywordRow("", "ebnf", "enforced", "rewritten as rules; the finished text is read a second time")
        return
    lark = read_lark(grammar.source)
    if _rewritten(grammar.source) is not None:
        yield KeywordRow("", "lark", "enforced", "rewritten as rules; the finished text is read a second time")
        return
    again = "read a second time" if lark.rules is not None else f"not read a second time: {lark.unread}"
    yield KeywordRow("", "lark", "enforced", f"lexemes are as long as they can be; the finished text is {again}")
    for number, schema in enumerate(lark.schemas, 1):
        for row in _json_rows(lower(schema)):
            yield replace(row, pointer=f"%json {number}" + (f": {row.pointer}" if row.pointer else ""))


def rule_set(grammar: Grammar) -> RuleSet | None:
    """The rules with a grammar's texts, as it was read; None where they are wider than the grammar, or not known.

    llguidance's lexer is greedy: of the texts of Lark that is given as it is, its masks may leave some out.
    """
    if grammar.syntax == "ebnf":
        return read_ebnf(grammar.source)
    return None if _rewritten(grammar.source) is None else read_lark(grammar.source).rules


@kept(KEPT_AUTOMATA, lambda args, automata: AUTOMATON_BYTES + 100 * len(args[0].source))
def _automata(grammar: Grammar) -> RuleAutomata | None:
    rules = read_ebnf(grammar.source) if grammar.syntax == "ebnf" else read_lark(grammar.source).rules
    try:
        return None if rules is None else RuleAutomata(rules)
    except PatternError:
        return None


def checked_text(constraint: Constraint, text: str) -> object:
    """Check a finished text and read its value, as `check` does; and a grammar's text by the recogniser.

    Raises `Mismatch` if the text breaks the constraint. What takes longer than `SEARCH_SECONDS` is left to the mask.
    """
    value = check(constraint, text)
    if not isinstance(constraint, Grammar) or (automata := _automata(constraint)) is None:
        return value
    try:
        return _recognised(automata, text, value)
    finally:
        if automata.size > AUTOMATON_BYTES:
            automata.forget()


def _recognised(automata: RuleAutomata, text: str, value: object) -> object:
    end = time.monotonic() + SEARCH_SECONDS
    place = Recogniser(automata)
    for at in range(0, len(text), CHARACTERS_A_LOOK):
        if not place.feed_text(text[at : at + CHARACTERS_A_LOOK]):
            raise Mismatch(f"{brief(text)} is no text of the grammar")
        if time.monotonic() > end:
            return value
    if not place.can_end():
        raise Mismatch(f"{brief(text)} is not a whole text of the grammar")
    return value
