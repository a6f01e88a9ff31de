"""Lark, in llguidance's dialect, read into rules: far enough to know its texts, and to refuse what a mask cannot do.

Knows nothing of engines, or of what a JSON Schema means.

1. The rules have all texts of the grammar as Lark reads it: any split of a text into lexemes counts. llguidance's lexer
   is greedy and takes no lexeme back, so it may take fewer of these texts, never others.
2. JSON (`%json`) is read as any JSON text, what is ignored (`%ignore`) also where the text begins, and a rule's
   parameters not at all. Where that or anything else makes the rules wider than the grammar, `exact` is False.
3. What llguidance would take and not carry out as written is refused: tokens, options, attributes of rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .....lang.kept import kept
from .....lang.pattern import (
    ANY_CHAR,
    ANY_TEXT,
    Chars,
    PatternError,
    PatternNode,
    both,
    complement,
    either,
    literal,
    parse_regex,
    sequence,
)
from .....lang.pattern.nodes import EMPTY, no_deeper, repeated
from .lark_common import COMMON
from .lark_syntax import LarkDefinition, LarkSyntax, Tree, UnreadLark
from .lark_tokens import LarkToken, lark_error, lark_tokens
from .measure import least_lengths, names, reached
from .nodes import RuleRef, RuleSet

KEPT_GRAMMARS = 64
MOST_CHUNKS = 2_000
_IGNORED, _JSON = "%ignore", "%json"
_REFUSED = {
    "temperature": "the temperature is the gen's (`temperature=`): leave it out, or write several gens",
    "max_tokens": "a grammar says nothing of tokens: bound the characters, as in /[a-z]{0,200}/, or use the gen's own",
    "stop": "what ends a text is part of it: write `suffix=` in place of `stop=`, or the gen's own `stop=`",
    "capture": "nothing would be captured: leave it out, or write a gen for each part that is wanted",
    "stop_capture": "nothing would be captured: leave it out, or write a gen for each part that is wanted",
}
_NO_TOKENS = (
    "a grammar cannot name tokens, a mask has text alone: write the token's text as a string; a control token is no "
    "text, so end the gen before it and let the program append it"
)
_NOT_YET = Chars(())


@dataclass(frozen=True)
class LarkGrammar:
    """A grammar that was read. `pieces`: its source around its JSON Schemas, `schemas`.

    `rules`: None if it holds something that is not read; `unread` says what. `exact`: no wider than the grammar.
    """

    pieces: tuple[str, ...]
    schemas: tuple[Any, ...]
    rules: RuleSet | None
    exact: bool
    unread: str

    def source(self, written: list[str]) -> str:
        """The grammar with these rules in place of its JSON Schemas."""
        return "".join(piece + rule for piece, rule in zip(self.pieces, [*written, ""]))


@kept(KEPT_GRAMMARS)
def read_lark(source: str) -> LarkGrammar:
    """Read a grammar; its root is the rule `start`.

    Raises `ConstraintError` with line and column for what is refused, and for a grammar without a finite text.
    """
    tokens = lark_tokens(source)
    _refuse(source, tokens)
    jsons = [token for token in tokens if token.text == "%json"]
    cuts = [0, *(edge for token in jsons for edge in (token.start, token.end)), len(source)]
    pieces = tuple(source[start:end] for start, end in zip(cuts[::2], cuts[1::2]))
    rules, unread = None, ""
    reader = LarkReader(source, tokens)
    try:
        rules = reader.rule_set()
        if least_lengths(rules)[rules.root] == math.inf:
            raise lark_error(source, 0, "no finite text matches the rule start: each alternative goes on for ever")
    except UnreadLark as error:
        unread = str(error)
    except (PatternError, RecursionError) as error:
        unread = f"it is nested too deeply or too large: {error}"
    return LarkGrammar(pieces, tuple(t.data for t in jsons), rules, reader.exact and not jsons, unread)


def _refuse(source: str, tokens: list[LarkToken]) -> None:
    """Refuse what is told by single tokens, and attributes, also where the rest of the grammar is not read."""
    for at, token in enumerate(tokens):
        if token.kind == "name" and _begins_line(tokens, at) and [t.text for t in tokens[at + 1 : at + 2]] == ["["]:
            for key in tokens[at + 2 :]:
                if key.text == "]":
                    break
                if key.text in _REFUSED:
                    raise lark_error(source, key.start, f"the attribute {key.text}: {_REFUSED[key.text]}")
        if token.kind == "special":
            raise lark_error(source, token.start, f"the token {token.text}: {_NO_TOKENS}")
        if token.kind == "reference":
            raise lark_error(source, token.start, f"{token.text}: there is no other grammar; write its rules here")
        if token.text == "%llguidance" and token.data not in ({}, {"allow_initial_skip": True}):
            raise lark_error(source, token.start, "the options of %llguidance are not taken; leave them out")


def _begins_line(tokens: list[LarkToken], at: int) -> bool:
    return at == 0 or tokens[at - 1].kind == "newline"


class LarkReader(LarkSyntax):
    """The nodes of what was read."""

    def __init__(self, source: str, tokens: list[LarkToken]) -> None:
        super().__init__(source, tokens)
        self.terminals: dict[str, PatternNode | None] = {}
        self.rules: dict[str, PatternNode] = {}

    @no_deeper
    def rule_set(self) -> RuleSet:
        self.read()
        for name, path in self.imported.items():
            self.terminals[name] = parse_regex(COMMON[path])
        if "start" not in self.defined:
            raise UnreadLark("there is no rule named start")
        if self.ignored:
            self.exact = False
            self.rules[_IGNORED] = repeated(either(self._regular(tree) for tree in self.ignored), 0, None)
        pending = ["start"]
        while pending:
            name = pending.pop()
            if name in self.rules:
                continue
            if name not in self.defined:
                raise UnreadLark(f"there is no rule named {name}")
            definition = self.defined[name]
            self.rules[name] = _NOT_YET
            if _is_terminal(name):
                self.rules[name] = self._terminal(name)
            elif definition.attributes:
                self.rules[name] = self._lexeme(self._lazy(definition))
            else:
                self.rules[name] = self._node(definition.tree)
            pending += names(self.rules[name])
        whole = RuleSet(self.rules, "start")
        return RuleSet({name: self.rules[name] for name in reached(whole)}, "start")

    # -- what it means

    def _node(self, tree: Tree) -> PatternNode:
        """The node of a part of a rule."""
        kind, *below = tree
        if kind == "name":
            return RuleRef(below[0]) if not _is_terminal(below[0]) else self._lexeme(RuleRef(below[0]))
        if kind == "lexeme":
            return self._lexeme(below[0])
        if kind == "substring":
            return self._lexeme(self._substring(below[0]))
        if kind == "json":
            for name, node in _JSON_RULES.items():
                self.rules.setdefault(name, node)
            return self._lexeme(RuleRef(_JSON))
        return self._joined(tree, self._node)

    def _regular(self, tree: Tree) -> PatternNode:
        """The node of a part of a terminal."""
        kind, *below = tree
        if kind == "name":
            return self._terminal(below[0])
        if kind == "lexeme":
            node: PatternNode = below[0]
            return node
        if kind == "substring":
            return self._substring(below[0])
        if kind == "both":
            node = ANY_TEXT
            for part in below:
                node = both(node, self._plain(part))
            return node
        if kind == "not":
            return complement(self._plain(below[0]))
        return self._joined(tree, self._regular)

    def _plain(self, tree: Tree) -> PatternNode:
        """The node of a part of a terminal that is joined with others, or not wanted: it must be known exactly."""
        before, self.exact = self.exact, True
        node = self._regular(tree)
        if not self.exact or next(names(node), None) is not None:
            raise UnreadLark("%regex within & or ~")
        self.exact = before
        return node

    def _joined(self, tree: Tree, inner: Callable[[Tree], PatternNode]) -> PatternNode:
        kind, *below = tree
        if kind == "repeat":
            return repeated(inner(below[0]), below[1], below[2])
        if kind in ("either", "sequence"):
            return (either if kind == "either" else sequence)([inner(part) for part in below])
        raise UnreadLark(f"{kind} is not read here")

    def _terminal(self, name: str) -> PatternNode:
        if name not in self.terminals:
            if name not in self.defined or not _is_terminal(name):
                raise UnreadLark(f"there is no terminal named {name}")
            self.terminals[name] = None
            self.terminals[name] = self._regular(self.defined[name].tree)
        node = self.terminals[name]
        if node is None:
            raise UnreadLark(f"the terminal {name} names itself")
        return node

    def _lazy(self, definition: LarkDefinition) -> PatternNode:
        """A lexeme that ends where it first can."""
        if not set(definition.attributes) <= {"lazy", "suffix"}:
            raise UnreadLark(f"the attributes {', '.join(definition.attributes)}")
        suffix = definition.attributes.get("suffix")
        node = sequence([self._plain(definition.tree), EMPTY if suffix is None else self._plain(suffix)])
        return both(node, complement(sequence([node, ANY_CHAR, ANY_TEXT])))

    def _lexeme(self, node: PatternNode) -> PatternNode:
        return sequence([RuleRef(_IGNORED), node]) if self.ignored else node

    def _substring(self, data: Any) -> PatternNode:
        """Any run of chunks of a text, or of its characters."""
        chunks: Any = None
        if isinstance(data, dict) and len(data) == 1:
            (kind, chunks), *_ = data.items()
            if kind == "substring_words" and isinstance(chunks, str):
                self.exact, kind = False, "substring_chars"
            chunks = list(chunks) if kind == "substring_chars" and isinstance(chunks, str) else chunks
        if not isinstance(chunks, list) or not all(isinstance(c, str) for c in chunks) or len(chunks) > MOST_CHUNKS:
            raise UnreadLark("a %regex of a kind or size that is not read")
        number = len(self.rules)
        for i, chunk in enumerate(chunks):
            more = RuleRef(f"%regex {number} {i + 1}") if i + 1 < len(chunks) else EMPTY
            self.rules[f"%regex {number} {i}"] = either([EMPTY, sequence([literal(chunk), more])])
        return either([EMPTY, *(RuleRef(f"%regex {number} {i}") for i in range(len(chunks)))])


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


_JSON_RULES: dict[str, PatternNode] = {
    _JSON: either(
        [
            sequence(
                [
                    literal(begin),
                    repeated(sequence([item, repeated(sequence([parse_regex(", ?"), item]), 0, None)]), 0, 1),
                    literal(end),
                ]
            )
            for begin, end, item in (
                ("[", "]", RuleRef(_JSON)),
                ("{", "}", sequence([RuleRef("%string"), parse_regex(": ?"), RuleRef(_JSON)])),
            )
        ]
        + [RuleRef("%string"), parse_regex(r"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")]
    ),
    "%string": parse_regex(r'"([^"\\\x00-\x1f]|\\(["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'),
}
"""Any JSON text, with at most a space behind commas and colons."""
