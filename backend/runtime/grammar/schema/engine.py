"""Whether llguidance takes a schema: a trial compilation in strict mode, and a trial run over single bytes.

Knows nothing of how the schema came to be, nor of the vocabulary that it will be used with. The run finds the limits
of llguidance's lexer that show only while text is written.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any

OPTIONS = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def engine_refuses(schema: dict[str, Any]) -> str | None:
    """Return what llguidance says against a schema, or None if it compiles."""
    from llguidance import LLMatcher

    refused, messages = LLMatcher.validate_grammar_with_warnings(lark_source(schema))
    if not refused:
        return None
    return _brief(str(messages[0]) if messages else "unknown error")


def engine_stumbles(schema: dict[str, Any], steps: int = 60) -> str | None:
    """Return what goes wrong while llguidance writes a text of a schema that it takes, or None."""
    return source_stumbles(lark_source(schema), steps)


def source_stumbles(source: str, steps: int = 60, limits: Any = None) -> str | None:
    """Return what is wrong with a grammar in llguidance's Lark dialect, or with writing a text of it; or None.

    `limits`: the engine's; None: its own, which a part of a larger grammar should keep to.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(source), log_level=0, limits=limits)
    if matcher.is_error():
        return _brief(matcher.get_error())
    rng = random.Random(0)
    for _ in range(steps):
        row = matcher.compute_bitmask()
        if matcher.is_error():
            return _brief(matcher.get_error())
        allowed = [byte for byte in range(256) if row[byte >> 3] >> (byte & 7) & 1]
        letters = [byte for byte in allowed if 97 <= byte <= 122] or allowed
        if not letters or not matcher.consume_token(rng.choice(letters)):
            break
    return _brief(matcher.get_error()) if matcher.is_error() else None


def _brief(message: str) -> str:
    """Shorten llguidance's message, which may quote a whole schema."""
    line = message.partition("\n")[0]
    line = line.partition("JSON schema: ")[2] or line
    return line if len(line) <= 160 else line[:160] + "..."


def lark_source(schema: dict[str, Any]) -> str:
    """Return the grammar of one JSON value of a schema, in llguidance's Lark dialect."""
    return f"start: json\njson: %json {json.dumps({**schema, 'x-guidance': OPTIONS})}\n"


class _ByteVocabulary:
    """A vocabulary of the 256 bytes and an end."""

    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def byte_tokenizer() -> Any:
    """Return llguidance's tokenizer over single bytes."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_ByteVocabulary()), n_vocab=257, eos_token=256)
