"""A byte-level llguidance for tests of masks: no tokenizer, no model.

`Masks(schema)` lowers and compiles; `.admits(value)` walks the text of a value, in the order of its keys as given.
"""

from __future__ import annotations

import json
import random
from typing import Any

from sgl.backend.runtime.grammar.schema.engine import byte_tokenizer, lark_source
from sgl.backend.runtime.grammar.schema.lower import lower
from sgl.lang.checking.check import Mismatch, check
from sgl.lang.constraint import JsonSchema


class Masks:
    def __init__(self, schema: Any) -> None:
        from llguidance import LLMatcher

        self.schema = schema
        self.constraint = JsonSchema(json.dumps(schema))
        self.lowered = lower(schema)
        self.start = LLMatcher(
            byte_tokenizer(), LLMatcher.grammar_from_lark(lark_source(self.lowered.engine_schema)), log_level=0
        )
        assert not self.start.is_error(), self.start.get_error()[:400]

    def admits_text(self, text: str) -> bool:
        matcher = self.start.deep_copy()
        data = list(text.encode())
        if matcher.validate_tokens(data) != len(data):
            assert not matcher.is_error(), matcher.get_error()[:400]
            return False
        matcher.consume_tokens(data)
        return bool(matcher.is_accepting())

    def admits(self, value: Any) -> bool:
        return self.admits_text(spelled(value))

    def passes(self, value: Any) -> bool:
        """Whether the check of the finished text lets a value through."""
        try:
            check(self.constraint, spelled(value))
        except Mismatch:
            return False
        return True

    def draw(self, rng: random.Random, most: int = 400) -> str | None:
        """A random text of the mask, or None if it does not end."""
        matcher, out = self.start.deep_copy(), bytearray()
        for _ in range(most):
            row = matcher.compute_bitmask()
            assert not matcher.is_error(), matcher.get_error()[:400]
            allowed = [byte for byte in range(256) if row[byte >> 3] >> (byte & 7) & 1]
            if matcher.is_accepting() and (not allowed or rng.random() < 0.3):
                return out.decode()
            closing = [byte for byte in allowed if byte in b'"]}']
            printable = [byte for byte in allowed if 32 <= byte < 127] or allowed
            byte = rng.choice(closing if closing and rng.random() < 0.5 else printable)
            matcher.consume_token(byte)
            out.append(byte)
        return None


def spelled(value: Any) -> str:
    """JSON text as masks spell it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(spelled(v) for v in value) + "]"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
