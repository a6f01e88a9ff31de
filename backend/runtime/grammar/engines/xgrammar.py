"""xgrammar as an engine: EBNF grammars, regular patterns, and JSON Schemas that it enforces exactly.

Owns: binding xgrammar to our vocabulary. Knows nothing of which constraint comes here.

1. xgrammar gets our table as raw bytes, empty for control tokens: by its own reading of a tokenizer these match text.
2. It wants a stop token, our masks have none: its bits are cleared, and a text can end where xgrammar is completed.
3. What is known to hang or crash xgrammar is refused before (`rules/write_ebnf.py`, `xgrammar_schemas.py`); `build` may
   compile in another process (`worker.py`).
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version as installed_version
from typing import Any, cast

from .....lang.errors import ConstraintError, OptionError
from .....lang.pattern.nodes import PatternNode
from ..protocol import Mask, has, set_only
from ..rules.ebnf import read_ebnf
from ..rules.write_ebnf import pattern_to_xgrammar, to_xgrammar
from ..vocabulary import TokenTable, Vocabulary
from .json_guard import GuardedText, JsonGuard
from .worker import Build, perform
from .xgrammar_schemas import cost, lint

_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
"""A surrogate in UTF-8: xgrammar's classes contain it, but no text does."""
EBNF, SCHEMA = ".xgrammar:ebnf_artefact", ".xgrammar:schema_artefact"


class XGrammar:
    """The engine, bound to one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, build: Build | None = None) -> None:
        self.vocabulary = vocabulary
        self.guard = JsonGuard(vocabulary)
        self._kept: dict[str, Any] = {}
        self._build: Build = build or (lambda task, source: perform(task, vocabulary, self._kept, source))

    def compile_ebnf(self, source: str) -> XGrammarGrammar:
        """Compile an EBNF grammar. Raises `ConstraintError` for one that xgrammar would not enforce exactly."""
        return self._load(self._build(EBNF, to_xgrammar(read_ebnf(source))))

    def compile_regex(self, node: PatternNode) -> XGrammarGrammar:
        """Compile a pattern for whole texts."""
        return self._load(self._build(EBNF, pattern_to_xgrammar(node)))

    def compile_schema(self, schema: Any) -> XGrammarGrammar:
        """Compile a schema; where JSON allows blanks, its texts have at most one.

        Raises `ConstraintError`, which names what xgrammar would weaken or what would be slow.
        """
        found = lint(schema) + cost(schema)
        if found:
            reasons = "; ".join(f"{pointer}: {reason}" for pointer, reason in found[:5])
            raise ConstraintError(f"xgrammar would not enforce this schema exactly: {reasons}")
        return self._load(self._build(SCHEMA, json.dumps(schema)), json=True)

    def _load(self, artefact: bytes, *, json: bool = False) -> XGrammarGrammar:
        xgr = _xgrammar()
        try:
            inner = xgr.CompiledGrammar.deserialize_json(artefact.decode(), self._info)
        except RuntimeError as error:
            raise ConstraintError(f"what was compiled cannot be read: {_message(error)}") from error
        return XGrammarGrammar(self, inner, json)

    @cached_property
    def _info(self) -> Any:
        return _info(self.vocabulary)

    @cached_property
    def text(self) -> Mask:
        """The mask of text without surrogates."""
        return self._without_surrogates(b"")

    @cached_property
    def after_ed(self) -> Mask:
        """The mask of text without surrogates, behind a byte 0xED."""
        return self._without_surrogates(b"\xed")

    def _without_surrogates(self, before: bytes) -> Mask:
        table = self.vocabulary.bytes
        return self.vocabulary.mask_of(
            i for i, data in enumerate(table) if data and not _SURROGATE.search(before + data)
        )


class XGrammarGrammar:
    """A `CompiledGrammar`."""

    engine = "xgrammar"

    def __init__(self, engine: XGrammar, inner: Any, json: bool) -> None:
        self.owner, self.inner, self.json = engine, inner, json

    def matcher(self) -> XGrammarMatcher:
        inner = _xgrammar().GrammarMatcher(self.inner)
        return XGrammarMatcher(self, inner, [GuardedText()] if self.json else None, [False])


class XGrammarMatcher:
    """A `Matcher`. After each token: `texts`, where a JSON text stands, for the guard; `eds`, whether the text ends in
    the byte 0xED, with which a surrogate would begin."""

    __slots__ = ("compiled", "eds", "inner", "texts")

    def __init__(self, compiled: XGrammarGrammar, inner: Any, texts: list[GuardedText] | None, eds: list[bool]) -> None:
        self.compiled, self.inner, self.texts, self.eds = compiled, inner, texts, eds

    def fork(self) -> XGrammarMatcher:
        texts = None if self.texts is None else self.texts[:]
        return XGrammarMatcher(self.compiled, self.inner.fork(), texts, self.eds[:])

    def accept(self, token: int) -> bool:
        table = self.compiled.owner.vocabulary.bytes
        if not 0 <= token < len(table) or not table[token]:
            return False  # a control token; a stop token would end the matcher for ever
        data = table[token]
        if _SURROGATE.search(b"\xed" + data if self.eds[-1] else data) or not self.inner.accept_token(token):
            return False
        self.eds.append(data[-1] == 0xED)
        if self.texts is not None:
            self.texts.append(self.texts[-1].copy())
            self.texts[-1].follow(data)
        return True

    def rollback(self, count: int) -> None:
        if count:
            self.inner.rollback(count)
            del self.eds[-count:]
            if self.texts is not None:
                del self.texts[-count:]

    def fill(self, row: Mask) -> None:
        first = self.compiled.owner.vocabulary.first_forced(self._forced_bytes())
        if first is not None:
            set_only(row, first)
            return
        self._fill_all(row)
        if self.texts is not None:
            self.compiled.owner.guard.narrow(row, self.texts[-1], may_end=self.can_end())
        if not row.any() and not self.can_end():
            raise ConstraintError(
                "no token of this model's vocabulary can continue the text: the grammar demands a character that the "
                "vocabulary cannot spell"
            )

    def allows(self, token: int) -> bool:
        row = self.compiled.owner.vocabulary.new_row()
        self.fill(row)
        return has(row, token)

    def forced(self) -> list[int]:
        return self.compiled.owner.vocabulary.settled(self._forced_bytes())

    def can_end(self) -> bool:
        return bool(self.inner.is_completed())

    def is_done(self) -> bool:
        if not self.can_end():
            return False
        row = self.compiled.owner.vocabulary.new_row()
        self._fill_all(row)
        return not row.any()

    def _fill_all(self, row: Mask) -> None:
        """Write xgrammar's mask, without stop tokens and surrogates."""
        if not self.inner.fill_next_token_bitmask(row.reshape(1, -1)):
            row.fill(-1)
        row &= self.compiled.owner.after_ed if self.eds[-1] else self.compiled.owner.text

    def _forced_bytes(self) -> bytes:
        try:
            text: str = self.inner.find_jump_forward_string()
        except UnicodeDecodeError as error:  # the text stands within a character, or would be left there
            return error.object
        return text.encode()


# -- what the worker process does


def ebnf_artefact(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Compile a checked EBNF grammar."""
    return _artefact(lambda: _compiler(table, kept).compile_grammar(source))


def schema_artefact(table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Compile a linted schema: JSON Schema's own meaning (undeclared properties are allowed), little whitespace."""
    compiler = _compiler(table, kept)
    return _artefact(lambda: compiler.compile_json_schema(source, strict_mode=False, max_whitespace_cnt=1))


def version() -> str:
    """The engine and its version, for cache keys."""
    return f"xgrammar {installed_version('xgrammar')}"


def _artefact(compile: Callable[[], Any]) -> bytes:
    try:
        return cast(str, compile().serialize_json()).encode()
    except RuntimeError as error:
        raise ConstraintError(f"xgrammar refuses the grammar: {_message(error)}") from error


def _compiler(table: TokenTable, kept: dict[str, Any]) -> Any:
    if "xgrammar" not in kept:
        kept["xgrammar"] = _xgrammar().GrammarCompiler(_info(table), max_threads=1, cache_limit_bytes=64 << 20)
    return kept["xgrammar"]


def _info(table: TokenTable) -> Any:
    xgr = _xgrammar()
    return xgr.TokenizerInfo(table.bytes, xgr.VocabType.RAW, vocab_size=table.size, stop_token_ids=list(table.eos_ids))


def _xgrammar() -> Any:
    try:
        return importlib.import_module("xgrammar")
    except ImportError as error:
        raise OptionError("EBNF needs xgrammar: pip install xgrammar") from error


def _message(error: BaseException) -> str:
    """xgrammar's message without time stamp and source line."""
    text = str(error).strip()
    return text.split(": ", 1)[1] if text.startswith("[") and ": " in text else text
