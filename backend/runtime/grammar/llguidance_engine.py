"""llguidance as an engine: Lark grammars with regular expressions and JSON Schemas in them.

Owns: binding llguidance to our vocabulary, and turning its silent states into errors. Knows nothing of how a constraint
becomes Lark (`lark.py`).

llguidance never raises: a matcher that met a limit, or was given a wrong token, is in an error state for ever and then
allows only the end of text. So a token is checked before it is taken, and the error state is polled after every call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....lang.errors import ConstraintError
from .numbers import NumberGuard, Position
from .protocol import Mask
from .vocabulary import Vocabulary

MAX_ITEMS_IN_ROW, STEP_MAX_ITEMS = 20_000, 200_000
"""Over llguidance's defaults (2,000 and 50,000), which an enum of 2,000 values can meet."""


class LLGuidance:
    """The engine, bound to one vocabulary. Making it takes 0.1 s for 49,152 tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self.vocabulary = vocabulary
        self.tokenizer = LLTokenizer(
            TokenizerWrapper(_Adapter(vocabulary)), n_vocab=vocabulary.size, eos_token=list(vocabulary.eos_ids)
        )
        self.numbers = NumberGuard(vocabulary)

    def compile_lark(self, source: str, *, json: bool = False) -> LLCompiled:
        """`source` in llguidance's Lark dialect. `json`: numbers in it are JSON's and their digits are bounded.

        Raises `ConstraintError` with llguidance's message for a grammar that it does not take.
        """
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_items_in_row=MAX_ITEMS_IN_ROW, step_max_items=STEP_MAX_ITEMS)
        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(source), log_level=0, limits=limits)
        if matcher.is_error():
            raise ConstraintError(f"the grammar is refused: {_first_lines(matcher.get_error())}")
        return LLCompiled(self, matcher, self.numbers if json else None)


class LLCompiled:
    """A grammar at its beginning; matchers are copies of it and share its lexer's tables."""

    engine = "llguidance"

    def __init__(self, engine: LLGuidance, start: Any, numbers: NumberGuard | None) -> None:
        self.vocabulary = engine.vocabulary
        self.text = engine.vocabulary.text_mask
        self.numbers = numbers
        self.start = start

    def matcher(self) -> LLMatching:
        return LLMatching(self, self.start.deep_copy(), [Position()] if self.numbers else None)


class LLMatching:
    """A `protocol.Matcher`. `positions`: where in a JSON text each accepted token ended."""

    __slots__ = ("compiled", "inner", "positions")

    def __init__(self, compiled: LLCompiled, inner: Any, positions: list[Position] | None) -> None:
        self.compiled, self.inner, self.positions = compiled, inner, positions

    def fork(self) -> LLMatching:
        return LLMatching(self.compiled, self.inner.deep_copy(), None if self.positions is None else self.positions[:])

    def accept(self, token: int) -> bool:
        if self.inner.validate_tokens([token]) != 1:
            self._poll()
            return False
        if not self.inner.consume_token(token):
            self._poll()
        if self.positions is not None:
            assert self.compiled.numbers is not None
            self.positions.append(self.compiled.numbers.after(self.positions[-1], token))
        return True

    def rollback(self, count: int) -> None:
        if count:
            self.inner.rollback(count)
            self._poll()
            if self.positions is not None:
                del self.positions[-count:]

    def fill(self, row: Mask) -> None:
        self.inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self._poll()
        row &= self.compiled.text  # it sets end-of-text bits, and a complement's mask has control tokens in it
        if self.positions is not None:
            assert self.compiled.numbers is not None
            self.compiled.numbers.bound(row, self.positions[-1], may_end=self.can_end())
            self._keep_keys_apart(row, self.compiled.numbers.would_repeat(self.positions[-1]))

    def _keep_keys_apart(self, row: Mask, tokens: list[int]) -> None:
        """Take the tokens from `row` that would spell a key that is there already and cannot go on."""
        vocabulary = self.compiled.vocabulary
        for token in tokens:
            bit = vocabulary.mask_of([token])
            if (row & bit).any() and (row & ~bit).any():
                after, following = self.fork(), np.empty_like(row)
                if after.accept(token):
                    after.fill(following)
                    if not (following & ~vocabulary.beginning_with(b'"')).any():
                        row &= ~bit

    def forced(self) -> list[int]:
        tokens: list[int] = self.inner.compute_ff_tokens()
        self._poll()
        return tokens

    def can_end(self) -> bool:
        return bool(self.inner.is_accepting())

    def is_done(self) -> bool:
        return bool(self.inner.is_stopped()) and bool(self.inner.is_accepting())

    def _poll(self) -> None:
        if self.inner.is_error():
            raise ConstraintError(
                f"the grammar met a limit of its engine within a text: {_first_lines(self.inner.get_error())}; "
                "simplify the constraint (fewer alternatives, smaller repeat counts)"
            )


class _Adapter:
    """The vocabulary in the shape llguidance's `TokenizerWrapper` wants. A byte 0xFF at the beginning marks a control
    token there."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._encode = vocabulary.spell
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self.tokens = [data or b"\xff<%d>" % i for i, data in enumerate(vocabulary.bytes)]
        self.special_token_ids = [i for i, data in enumerate(vocabulary.bytes) if not data]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.encode() if isinstance(text, str) else text)


def _first_lines(message: str) -> str:
    head = message.split("<state>")[0].strip()
    return head if len(head) <= 400 else head[:400] + "..."
