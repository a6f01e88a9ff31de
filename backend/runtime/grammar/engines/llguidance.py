"""llguidance as an engine: Lark grammars with regular expressions and JSON Schemas in them.

Owns: binding llguidance to our vocabulary, and the masks of many matchers at once. Knows nothing of how a constraint
becomes Lark (`lark.py`).

1. llguidance never raises. A matcher that met a limit or a wrong token stays in an error state, and then allows only
   the end of text. So a token is checked before it is taken, and the error state is polled after every call.
2. Copies of a matcher share the tables of its lexer under one lock, so their masks are computed one after the other.
   Where many matchers of a grammar live, it is compiled again for some of them (a *stem* for each thread). That decides
   how long masks take, never what is in them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import numpy as np

from .....lang.errors import ConstraintError
from ..protocol import Mask, has
from ..schema.engine import source_stumbles
from ..vocabulary import Vocabulary
from .json_guard import GuardedText, JsonGuard

MAX_ITEMS_IN_ROW, STEP_MAX_ITEMS = 20_000, 200_000
"""Over llguidance's defaults (2,000 and 50,000), which an enum of 2,000 values can meet."""
LEXER_FUEL = 5_000_000
"""For one mask; 0.1 s of work. The default (200,000) is too little for a lookahead beside a count."""
SPELLED_TEXTS, SPELLED_BYTES = 1_024, 256
"""Forced texts whose tokens are kept, and how long such a text may be."""
MOST_THREADS = 8
STEM_MATCHERS = 4
"""Live matchers of a stem, from which on there may be another stem."""
MOST_STEM_CHARACTERS = 50_000
"""A longer grammar is compiled once."""


class LLGuidance:
    """The engine, bound to one vocabulary; made in 0.1 s for 49,152 tokens. `threads` compute the masks of `fill_many`
    (default: half of the cores, at most `MOST_THREADS`)."""

    def __init__(self, vocabulary: Vocabulary, threads: int | None = None) -> None:
        from llguidance import LLExecutor, LLTokenizer, TokenizerWrapper

        self.vocabulary = vocabulary
        self.threads = max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2)) if threads is None else threads
        self.executor = LLExecutor(self.threads)
        self.tokenizer = LLTokenizer(
            TokenizerWrapper(LLGuidanceVocabulary(vocabulary)),
            n_vocab=vocabulary.size,
            eos_token=list(vocabulary.eos_ids),
        )
        self.guard = JsonGuard(vocabulary)
        self._spelled = lru_cache(SPELLED_TEXTS)(self._spell)

    def spelled_behind(self, last: int | None, forced: bytes) -> tuple[int, ...]:
        """The tokens of forced bytes behind the token `last`: spelled together with `last` if that leaves `last` as it
        is. So llguidance does it too, before it drops tokens at the end that further text might change."""
        return self._spelled(last, forced) if len(forced) <= SPELLED_BYTES else self._spell(last, forced)

    def _spell(self, last: int | None, forced: bytes) -> tuple[int, ...]:
        if last is not None:
            tokens: list[int] = self.tokenizer.tokenize_bytes(self.vocabulary.bytes[last] + forced)
            if tokens[:1] == [last]:
                return tuple(tokens[1:])
        return tuple(self.tokenizer.tokenize_bytes(forced))

    def compile_lark(
        self, source: str, *, json: bool = False, vocabulary: Vocabulary | None = None
    ) -> LLGuidanceGrammar:
        """Compile `source`, in llguidance's Lark dialect. `json`: its texts are JSON, and `json_guard.py` applies.
        `vocabulary`: the engine's with the control tokens in it that the grammar names.

        Raises `ConstraintError` with llguidance's message for a grammar that it does not take.
        """
        return LLGuidanceGrammar(self, source, json, vocabulary or self.vocabulary)

    def stem(self, source: str) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(source), log_level=0, limits=limits())
        if matcher.is_error():
            raise ConstraintError(f"the grammar is refused: {_first_lines(matcher.get_error())}")
        return matcher


def limits() -> Any:
    """The limits of the engine, for a runtime and for a trial without one."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=MAX_ITEMS_IN_ROW,
        step_max_items=STEP_MAX_ITEMS,
        initial_lexer_fuel=LEXER_FUEL,
        step_lexer_fuel=LEXER_FUEL,
    )


class LLGuidanceGrammar:
    """A `CompiledGrammar`, whose matchers are copies of one of its stems."""

    engine = "llguidance"

    def __init__(self, engine: LLGuidance, source: str, json: bool, vocabulary: Vocabulary) -> None:
        self.owner = engine
        self.source = source
        self.vocabulary = vocabulary
        self.json = json
        self._lock = threading.Lock()
        self._most = engine.threads if len(source) <= MOST_STEM_CHARACTERS else 1
        self._stems = [engine.stem(source)]
        self._live: list[WeakSet[LLGuidanceMatcher]] = [WeakSet()]

    def matcher(self) -> LLGuidanceMatcher:
        with self._lock:
            stem = min(range(len(self._stems)), key=lambda i: len(self._live[i]))
            if len(self._live[stem]) >= STEM_MATCHERS and len(self._stems) < self._most:
                stem = len(self._stems)
                self._stems.append(self.owner.stem(self.source))
                self._live.append(WeakSet())
            made = LLGuidanceMatcher(self, self._stems[stem].deep_copy(), GuardedText() if self.json else None, stem)
            self._live[stem].add(made)
        return made


class LLGuidanceMatcher:
    """A `Matcher`, but without `rollback`: after llguidance's own, masks may lack tokens. `text`: where a JSON text
    stands, for the guard. `stem`: the stem that this is a copy of."""

    __slots__ = ("__weakref__", "compiled", "inner", "stem", "text")

    def __init__(self, compiled: LLGuidanceGrammar, inner: Any, text: GuardedText | None, stem: int) -> None:
        self.compiled, self.inner, self.text, self.stem = compiled, inner, text, stem

    def fork(self) -> LLGuidanceMatcher:
        text = None if self.text is None else self.text.copy()
        return LLGuidanceMatcher(self.compiled, self.inner.deep_copy(), text, self.stem)

    def accept(self, token: int) -> bool:
        if self.inner.validate_tokens([token]) != 1:
            self._poll()
            return False
        if not self.inner.consume_token(token):
            self._poll()
        self._follow(token)
        return True

    def take(self, tokens: list[int]) -> None:
        """Take tokens that are known to be allowed, one after the other."""
        self.inner.consume_tokens(tokens)
        self._poll()
        for token in tokens:
            self._follow(token)

    def _follow(self, token: int) -> None:
        if self.text is not None:
            self.text.follow(self.compiled.vocabulary.bytes[token])

    def fill(self, row: Mask) -> None:
        self.inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self.narrow(row)

    def narrow(self, row: Mask) -> None:
        """Take out of llguidance's mask the tokens that are no text or that the JSON guard forbids."""
        self._poll()
        row &= (
            self.compiled.vocabulary.text_mask
        )  # it sets end-of-text bits, and a complement's mask has control tokens in it
        if self.text is not None:
            guard = self.compiled.owner.guard
            guard.narrow(row, self.text, may_end=self.can_end())
            self._forbid_repeating(row, guard.repeating(self.text))

    def _forbid_repeating(self, row: Mask, tokens: list[int]) -> None:
        """Take out those of `tokens` (which complete a repeated key) behind which only its closing quote may follow."""
        vocabulary = self.compiled.vocabulary
        for token in tokens:
            bit = vocabulary.mask_of([token])
            if (row & bit).any() and (row & ~bit).any():
                after, following = self.fork(), np.empty_like(row)
                if after.accept(token):
                    after.fill(following)
                    if not (following & ~vocabulary.beginning_with(b'"')).any():
                        row &= ~bit

    def allows(self, token: int) -> bool:
        if self.text is not None and self.compiled.owner.guard.may_forbid(self.text, token):
            row = self.compiled.vocabulary.new_row()
            self.fill(row)
            return has(row, token)
        allowed = bool(self.compiled.vocabulary.bytes[token]) and self.inner.validate_tokens([token]) == 1
        self._poll()
        return allowed

    def forces(self) -> bytes:
        """The bytes that are forced here."""
        forces = bytes(self.inner.compute_ff_bytes())
        self._poll()
        return forces

    def forced(self) -> list[int]:
        if not self.forces():
            return []
        tokens: list[int] = self.inner.compute_ff_tokens()
        self._poll()
        return tokens

    def can_end(self) -> bool:
        return bool(self.inner.is_accepting())

    def is_done(self) -> bool:
        return bool(self.inner.is_stopped()) and bool(self.inner.is_accepting())

    def _poll(self) -> None:
        if not self.inner.is_error():
            return
        said = _first_lines(self.inner.get_error())
        if "NoExtensionBias" in said:
            raise ConstraintError(
                "no token of this model's vocabulary can continue the text: the grammar demands a character that the "
                "vocabulary cannot spell"
            )
        raise ConstraintError(
            f"the grammar met a limit of its engine within a text: {said}; "
            "simplify the constraint (fewer alternatives, smaller repeat counts)"
        )


def fill_many(matchers: Sequence[LLGuidanceMatcher], rows_MW: Mask) -> list[Exception | None]:
    """Compute the masks of matchers of one engine on its threads, without the GIL, into `rows_MW` (M matchers, W words,
    contiguous). Returns the error that each met, if any."""
    engine = matchers[0].compiled.owner
    order = sorted(range(len(matchers)), key=lambda i: matchers[i].stem)  # neighbours are done by one thread
    work = [(matchers[i].inner, i) for i in order]
    met: list[Exception | None] = []
    try:
        engine.executor.unsafe_compute_mask_ptr(work, rows_MW.ctypes.data, rows_MW.strides[0], len(rows_MW))
    except Exception as error:
        return [error] * len(matchers)
    for matcher, row in zip(matchers, rows_MW):
        try:
            matcher.narrow(row)
            met.append(None)
        except Exception as error:
            met.append(error)
    return met


class LLGuidanceVocabulary:
    """The vocabulary as llguidance's `TokenizerWrapper` wants it: control tokens begin with a byte 0xFF."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._spell = vocabulary.spell
        self._spelled = lru_cache(SPELLED_TEXTS)(vocabulary.spell)  # the same texts are forced again and again
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self.tokens = [data or b"\xff<%d>" % i for i, data in enumerate(vocabulary.bytes)]
        self.special_token_ids = [i for i, data in enumerate(vocabulary.bytes) if not data]

    def __call__(self, text: bytes | str) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return self._spelled(data) if len(data) <= SPELLED_BYTES else self._spell(data)


def refusal(source: str) -> str:
    """Why llguidance takes no Lark grammar; "" if it does. No vocabulary is needed."""
    from llguidance import LLMatcher

    wrong, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(source))
    return f"the grammar is refused: {_first_lines(messages[0])}" if wrong else ""


def try_writing(source: str) -> None:
    """Write a text of a Lark grammar in single bytes. `sgl.explain` and gens are told the same, whatever the
    vocabulary is.

    Raises `ConstraintError` for a grammar that meets a limit of the engine on the way.
    """
    if (why := source_stumbles(source, limits=limits())) is not None:
        raise ConstraintError(f"the engine cannot hold it: {why}")


def _first_lines(message: str) -> str:
    head = message.split("<state>")[0].strip()
    return head if len(head) <= 400 else head[:400] + "..."
