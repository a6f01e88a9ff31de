"""A context-free grammar as named patterns that may name one another: `RuleSet` and `RuleRef`.

Knows nothing of syntax: EBNF, Lark and lowered JSON Schemas are all read into a `RuleSet`.

1. The nodes are those of patterns (`lang/pattern/nodes.py`), made with the same constructors, and `RuleRef`. A node
   without a `RuleRef` beneath it is regular: it can be walked as an automaton.
2. `Both` and `Not` have regular nodes beneath them only.
3. A text is a sequence of characters (code points). A grammar says nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .....lang.pattern import PatternNode


@dataclass(frozen=True, slots=True, eq=False)
class RuleRef(PatternNode):
    """A text of the rule with this name."""

    name: str

    def __post_init__(self) -> None:
        self.note(self.name, ())


@dataclass(frozen=True, slots=True, eq=False)
class RuleSet:
    """The rules by name, and the name of the rule whose texts are the grammar's texts."""

    rules: Mapping[str, PatternNode]
    root: str
