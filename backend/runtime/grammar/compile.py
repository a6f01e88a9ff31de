"""Which engine enforces a constraint, and the constraints that are compiled already.

Owns: the routing, and the receipt that says what the mask enforces and what is checked afterwards. Knows nothing of
gens.

1. A constraint goes to one engine, which enforces it exactly, or is refused.
2. It is compiled once, before the gen is enqueued, while the thread that writes the gen waits, but no longer than a
   deadline (`deadline.py`). llguidance takes milliseconds. Engines that can take minutes or crash compile in a child
   process with a deadline of its own (`engines/worker.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ....lang.checking.check import Mismatch
from ....lang.constraint import Constraint, Grammar, JsonSchema
from ....lang.errors import ConstraintError, OptionError, suggest
from ....lang.kept import CacheBudget
from ....lang.pattern import PatternError
from ....lang.structure import controls
from ..text.tokenizer import Tokenizer
from .closing.search import MOST_WORK, Closer
from .closing.ways import MOST_WAY_BYTES, WAYS_BYTES, KnownWays, rule_set, too_long
from .deadline import TooLong, within
from .engines.artefact_cache import ArtefactCache
from .engines.llguidance import LLGuidance, LLGuidanceGrammar, try_writing
from .engines.outlines import Outlines
from .engines.watched import WatchedGrammar, WatchedMatcher
from .engines.worker import START_SECONDS, Build, GrammarWorker, cached
from .engines.xgrammar import XGrammar
from .lark import plainly_written, schemas, to_source
from .lexemes import LexemeRules, lexeme_rules, regular
from .once import OnceCache
from .protocol import CompiledGrammar, Matcher
from .raw import checked_text, raw_source
from .schema.keys import few_keys, open_keys
from .schema.lower import Lowered, lower
from .schema.nodes import LoweredSchema
from .sharing.json_state_keys import SchemaKeys
from .sharing.lexeme_keys import LexemeKeys
from .sharing.mask_cache import CACHE_BYTES, CachedGrammar
from .sharing.state_keys import PatternKeys, StateKeys, TextKeys
from .vocabulary import MOST_CONTROLS, Vocabulary

ENGINES = ("auto", "llguidance", "xgrammar", "outlines")
COMPILE_SECONDS = 20.0
"""For one constraint, from its schema or pattern to its first mask."""
KEPT_CONSTRAINTS, CONSTRAINT_BYTES = 512, 256 << 20
"""Compiled constraints in memory, and what they may take together, by the estimate of `Prepared.bytes`."""
KEPT_VOCABULARIES = 8
"""With the control tokens of constraints in them."""
PLAIN_BYTES, BYTES_OF_CHARACTER = 50_000, 105
"""What a small compiled constraint was measured to take, and one more character of its grammar."""


@dataclass(frozen=True)
class Prepared:
    """A constraint ready to be enforced.

    `checked`: JSON pointers of what the mask leaves open; a finished text that fails there is sampled again.
    `ways`: the ways to close a text, if the constraint is known as rules; else they are searched for with `closer`.
    `controls`: the texts of the control tokens that are part of its texts, by id.
    """

    constraint: Constraint
    compiled: CompiledGrammar
    checked: tuple[str, ...]
    closer: Callable[[], Closer]
    vocabulary: Vocabulary
    ways: KnownWays | None = None
    controls: Mapping[int, bytes] = field(default_factory=dict)

    @cached_property
    def length(self) -> int:
        """The length in tokens of a text known, 0 if none is. Other texts may be shorter."""
        return len(self._text or ())

    @cached_property
    def _text(self) -> list[int] | None:
        """A text that is known without much work, as tokens; None if none is."""
        matcher = self.compiled.matcher()
        if self.ways is not None:
            if self.ways.bytes_left(self.ways.start()) > MOST_WAY_BYTES:
                return None
            if (found := self.ways.path(self.ways.start(), matcher, MOST_WAY_BYTES)) is not None:
                return found
        return self.closing(matcher, 2_000, work=10 * MOST_WORK)

    @cached_property
    def _fewest(self) -> tuple[list[int] | None, int]:
        """The text of the fewest tokens known, and how many tokens every text has at least.

        They are looked for once, whatever the budget is, which may take a second.
        """
        known, matcher = self._text, self.compiled.matcher()
        if len(known or ()) == 1:
            return known, 1
        limit = len(known or (0,)) - 1
        if self.ways is not None:
            found, bound = self.ways.fewest(matcher, limit)
        else:
            found, bound = self.closing(matcher, limit, work=10 * MOST_WORK), min(len(known or ()), 1)
        return found if known is None or (found is not None and len(found) < len(known)) else known, bound

    @property
    def shortest(self) -> int:
        """The length in tokens of the shortest text known, 0 if none is. To find it may take a second, once."""
        return len(self._fewest[0] or ())

    def knows(self, budget: int) -> bool:
        """Whether `text_within` and `refusal` answer at once."""
        return self.length <= budget or "_fewest" in self.__dict__

    def text_within(self, budget: int) -> list[int] | None:
        """A text of at most `budget` tokens, if one is known."""
        text = self._text if self.length <= budget else self._fewest[0]
        return text if text is not None and len(text) <= budget else None

    def refusal(self, budget: int) -> str:
        """Why no text of at most `budget` tokens can be written; "" if one is known, or none of any length is."""
        if self.text_within(budget) is not None:
            return ""
        text, bound = self._fewest
        if bound <= budget and text is None:
            return ""
        fits = "fits" if bound > budget else "is known to fit"
        if text is None:
            return f"no text of this constraint {fits}: each has at least {bound} tokens"
        sure = "none has fewer" if bound >= len(text) else f"each has at least {max(bound, 1)}"
        return f"no text of this constraint {fits}: the shortest one known has {len(text)} tokens ({sure})"

    @property
    def deepest(self) -> int | None:
        """The most tokens that any text needs to its end, if known."""
        return None if self.ways is None else self.ways.deepest

    def closing(self, matcher: Matcher, limit: int, work: int = MOST_WORK) -> list[int] | None:
        """Search for at most `limit` tokens that complete a text from where `matcher` is; None if none were found."""
        if isinstance(matcher, WatchedMatcher):  # thousands of small calls, as one
            return matcher.within(lambda inner: self.closing(inner, limit, work), work / MOST_WORK)
        return self.closer().path(matcher, limit, work)

    @property
    def bytes(self) -> int:
        """About what it takes in memory, without its masks."""
        inner = self.compiled.inner if isinstance(self.compiled, (CachedGrammar, WatchedGrammar)) else self.compiled
        source: str = getattr(inner, "source", "") or getattr(self.constraint, "source", "")
        return PLAIN_BYTES + BYTES_OF_CHARACTER * len(source)

    def check(self, text: str) -> Any:
        """Check a finished text and read its value. Raises `Mismatch` if the text breaks the constraint."""
        return checked_text(self.constraint, text)

    def receipt(self) -> dict[str, Any]:
        return {
            "kind": self.constraint.kind,
            "engine": self.compiled.engine,
            "enforced": not self.checked,
            "checked": list(self.checked),
        }


class Grammars:
    """The compiled constraints of one runtime. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, backend: str = "auto") -> None:
        if backend not in ENGINES:
            raise OptionError(
                f"grammar_backend must be one of {', '.join(ENGINES)}, got {backend!r}{suggest(str(backend), ENGINES)}"
            )
        self.backend = backend
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._prepared: OnceCache[Constraint, Prepared] = OnceCache(
            KEPT_CONSTRAINTS, CONSTRAINT_BYTES, lambda prepared: prepared.bytes
        )
        self._vocabularies: OnceCache[tuple[int, ...], Vocabulary] = OnceCache(KEPT_VOCABULARIES)
        self._artefacts = ArtefactCache()
        self.budget, self._ways_budget = CacheBudget(CACHE_BYTES), CacheBudget(WAYS_BYTES)

    def prepare(self, constraint: Constraint, where: str = "constraint") -> Prepared:
        """Compile a constraint, unless it is compiled. Raises `ConstraintError` that names `where` and the reason."""
        try:
            return self._prepared.get(constraint, lambda: self._in_time(constraint))
        except ConstraintError as error:
            raise ConstraintError(f"{where}: {error}") from error

    def has(self, constraint: Constraint) -> bool:
        """Whether a constraint is compiled already."""
        return constraint in self._prepared

    def memory(self) -> dict[str, dict[str, int | None]]:
        """The bytes held by compiled constraints, their masks and ways to close, and what child processes compiled."""
        return {
            "constraints": self._prepared.held,
            "masks": self.budget.held,
            "ways": self._ways_budget.held,
            "compiled_grammars": self._artefacts.held,
        }

    # -- what the engines share
    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self._tokenizer, self._vocab_size)

    @cached_property
    def closer(self) -> Closer:
        return Closer(self.vocabulary)

    @cached_property
    def llguidance(self) -> LLGuidance:
        return LLGuidance(self.vocabulary)

    @cached_property
    def xgrammar(self) -> XGrammar:
        return XGrammar(self.vocabulary, self._build)

    @cached_property
    def outlines(self) -> Outlines:
        return Outlines(self.vocabulary, self._build, self.budget)

    @cached_property
    def _build(self) -> Build:
        table = self.vocabulary.table
        return cached(GrammarWorker(table), self._artefacts, table)

    # -- routing
    def _in_time(self, constraint: Constraint) -> Prepared:
        """Compile within the deadline. What is made once for all constraints, and a child's start, do not count."""
        limit_s = COMPILE_SECONDS
        if self.backend in ("xgrammar", "outlines"):
            limit_s += START_SECONDS
        if self.backend in ("auto", "llguidance"):
            _ = self.llguidance
        try:
            return within(limit_s, lambda: self._compile(constraint))
        except TooLong:
            raise ConstraintError(
                f"the {constraint.kind} constraint is refused: compiling it takes more than {limit_s:g} s; "
                "make it smaller (fewer alternatives, smaller repeat counts, fewer nested combinations)"
            ) from None

    def _compile(self, constraint: Constraint) -> Prepared:
        lowered = {part: lower(part.schema) for part in schemas(constraint)}
        named = self._controls(constraint)
        vocabulary = self._vocabulary_with(tuple(named.values())) if named else self.vocabulary
        ways = self._ways(constraint, {part: low.document for part, low in lowered.items()}, vocabulary)
        if ways is not None and (why := too_long(ways.automata)):
            raise ConstraintError(why)
        masks = {part: low.engine_schema for part, low in lowered.items()}
        rules = None  # of parts that are joined, made once: of a long list of tools they take the most time
        if (
            self.backend in ("auto", "llguidance")
            and not isinstance(constraint, Grammar)
            and regular(constraint) is None
        ):
            rules = lexeme_rules(constraint, masks)
        compiled = self._engine(constraint, masks, named, vocabulary, rules)
        checked = [pointer for part, low in lowered.items() for pointer in _unenforced(part, low)]
        joined = not isinstance(constraint, JsonSchema)  # within other text the mask does not follow an object's keys
        if any(open_keys(low.document) if joined else few_keys(low.document) for low in lowered.values()):
            checked.append("repeated keys")
        if isinstance(compiled, LLGuidanceGrammar):
            compiled = CachedGrammar(compiled, _state_keys(constraint, lowered, rules), self.budget)
        elif compiled.engine == "xgrammar":
            compiled = WatchedGrammar(compiled, f"{constraint!r:.200}")
        prepared = Prepared(
            constraint,
            compiled,
            tuple(dict.fromkeys(checked)),
            (lambda: Closer(vocabulary)) if named else (lambda: self.closer),
            vocabulary,
            ways,
            {token: text.encode() for text, token in named.items()},
        )
        _try(prepared)
        return prepared

    def _controls(self, constraint: Constraint) -> dict[str, int]:
        """The control tokens of a constraint. Raises `ConstraintError` for one that the tokenizer does not have."""
        found: dict[str, int] = {}
        for text in controls(constraint):
            token = self._tokenizer.control_token(text)
            if token is None or token in self._tokenizer.eos_ids:
                has = "no control token" if token is None else "an end of text, which is no part of a text, in"
                others = sorted(self._tokenizer.control_texts)
                raise ConstraintError(f"the tokenizer of this model has {has} {text!r}{suggest(text, others)}")
            found[text] = token
        if len(found) > MOST_CONTROLS:
            raise ConstraintError(
                f"the constraint names {len(found)} control tokens; at most {MOST_CONTROLS} are taken"
            )
        return found

    def _vocabulary_with(self, ids: tuple[int, ...]) -> Vocabulary:
        return self._vocabularies.get(ids, lambda: self.vocabulary.with_controls(ids))

    def _ways(
        self, constraint: Constraint, documents: dict[JsonSchema, LoweredSchema], vocabulary: Vocabulary
    ) -> KnownWays | None:
        """Return the ways to close of a constraint that is known as rules and whose engine writes what they say."""
        if documents and self.backend not in ("auto", "llguidance"):
            return None
        grammar = rule_set(constraint, documents)
        try:
            return None if grammar is None else KnownWays(grammar, vocabulary, self._ways_budget)
        except PatternError:
            return None

    def _engine(
        self,
        constraint: Constraint,
        masks: dict[JsonSchema, Any],
        named: dict[str, int],
        vocabulary: Vocabulary,
        rules: LexemeRules | None,
    ) -> CompiledGrammar | LLGuidanceGrammar:
        wanted = self.backend
        if isinstance(constraint, Grammar):
            if wanted == "xgrammar" and constraint.syntax == "ebnf":
                return self.xgrammar.compile_ebnf(constraint.source)
            if wanted not in ("auto", "llguidance"):
                raise ConstraintError(f"grammar_backend={wanted!r} does not read {constraint.syntax}; llguidance does")
            return self._tried(raw_source(constraint))
        if wanted in ("xgrammar", "outlines"):
            return self._asked(wanted, constraint, masks)
        source = to_source(constraint, masks, named, rules)
        if isinstance(constraint, JsonSchema):  # it was tried when it was lowered
            return self.llguidance.compile_lark(source, json=True)
        compiled = self.llguidance.compile_lark(source, vocabulary=vocabulary)
        try_writing(to_source(constraint, masks, rules=rules) if named else source)
        return compiled

    def _tried(self, source: str) -> LLGuidanceGrammar:
        compiled = self.llguidance.compile_lark(source)
        try_writing(source)
        return compiled

    def _asked(self, engine: str, constraint: Constraint, masks: dict[JsonSchema, Any]) -> CompiledGrammar:
        """Compile with the engine that the user asked for, if it enforces the constraint exactly."""
        node = regular(constraint)
        if node is not None:
            return self.xgrammar.compile_regex(node) if engine == "xgrammar" else self.outlines.compile_regex(node)
        if engine == "xgrammar" and isinstance(constraint, JsonSchema):
            return self.xgrammar.compile_schema(masks[constraint])
        raise ConstraintError(
            f"grammar_backend={engine!r} cannot enforce a {constraint.kind} constraint exactly; leave it at 'auto'"
        )


def _try(prepared: Prepared) -> None:
    """Meet limits of the engine that show on the first mask, make ready what checks a text, and find a text, before a
    gen waits for it and all others with it."""
    with suppress(Mismatch):
        prepared.check("")
    matcher = prepared.compiled.matcher()
    if prepared.ways is None and prepared.length:
        return
    if not matcher.forced() and not matcher.is_done():
        matcher.fill(prepared.vocabulary.new_row())
    _ = prepared.length


def _state_keys(constraint: Constraint, lowered: dict[JsonSchema, Lowered], rules: LexemeRules | None) -> StateKeys:
    if isinstance(constraint, JsonSchema):
        return SchemaKeys(lowered[constraint].document)
    if isinstance(constraint, Grammar):
        return TextKeys()
    node = regular(constraint)
    if node is not None:
        return PatternKeys(node) if node.plain else TextKeys()
    if rules is None or not plainly_written(rules):
        return TextKeys()
    return LexemeKeys(rules, {part: low.document for part, low in lowered.items()}, controls(constraint))


def _unenforced(part: JsonSchema, low: Lowered) -> list[str]:
    pointers = list(low.checked)
    if part.type is not None:
        from ....lang.types.conversion import checked_afterwards

        pointers += checked_afterwards(part.type)
    return pointers
