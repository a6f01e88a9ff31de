"""`Pipeline`: what a tokenizer of the `tokenizers` package does to text, read from its own description.

Owns: two clones of the tokenizer (one for text at the start, one for text that continues other text), the bytes of
its tokens, and where text may be cut. Knows nothing of control tokens, of BOS, or of what was encoded before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tokenizers

from ....lang.errors import ModelLoadError

PrefixScheme = Literal["none", "first", "each"]

SPACE = "▁"
"""The character that SentencePiece tokenizers write for a space."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REACHES_ACROSS = re.compile(rf"[A-Za-z][ {SPACE}](?:[A-Za-z]|\Z)")
_CHARACTER_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]")
# Lookbehind, anchors, wildcards, back references: with these a match may depend on more than the text it covers.
_UNSURE_REGEX = re.compile(r"\(\?<[=!]|\\[bBAGzZXRK0-9]|[\^$]|(?<!\\)\.")
_LOCAL_NORMALIZERS = {"Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace"}
_LOCAL_PRE_TOKENIZERS = {"Sequence", "ByteLevel", "Metaspace", "Digits", "Punctuation", "WhitespaceSplit", "Split"}

PipelineNodes = dict[str, list[dict[str, Any]]]
"""The JSON nodes of the normalizer, the pre-tokenizer and the decoder, each as a flat list."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Both tokenizers take control tokens' spellings for ordinary text. `inside` never adds a dummy space."""

    at_start: tokenizers.Tokenizer
    inside: tokenizers.Tokenizer
    nodes: PipelineNodes
    byte_level: bool
    """Whether tokens are spelled in GPT-2's alphabet of bytes; else SentencePiece's way."""
    prefix: PrefixScheme
    """Where the tokenizer puts a dummy space: nowhere, before the first run, or also after each control token."""

    @classmethod
    def of(cls, tok: tokenizers.Tokenizer, *, taken: bool = False) -> Pipeline:
        """Read a tokenizer. `taken`: nobody else encodes with it, so it is changed and not cloned (a clone of a large
        vocabulary takes half a second). Raises `ModelLoadError` if its tokens' bytes are unknown."""
        nodes = {part: list(_nodes(getattr(tok, part))) for part in ("normalizer", "pre_tokenizer", "decoder")}
        prefix = _prefix_scheme(nodes)
        source = None if taken and prefix == "none" else tok.to_str()
        at_start = _plain(tok if taken or source is None else tokenizers.Tokenizer.from_str(source))
        return cls(
            at_start=at_start,
            inside=at_start
            if prefix == "none" or source is None
            else _plain(tokenizers.Tokenizer.from_str(_without_prefix(source))),
            nodes=nodes,
            byte_level=_is_byte_level(nodes, getattr(tok.model, "byte_fallback", False)),
            prefix=prefix,
        )

    def byte_table(self, vocabulary: Mapping[str, int], size: int, added: Collection[int]) -> list[bytes]:
        """The bytes of each of `size` token ids, b"" for ids that `vocabulary` does not have. `added`: ids of tokens
        that are spelled as they are read, not in the alphabet of bytes."""
        table = [b""] * size
        alphabet = byte_level_alphabet()
        byte_of = str.maketrans({char: chr(byte) for byte, char in alphabet.items()})
        in_alphabet = re.compile(f"[{re.escape(''.join(alphabet.values()))}]*").fullmatch
        for piece, i in vocabulary.items():
            if i >= size:
                continue
            if not self.byte_level:
                byte = _BYTE_TOKEN.fullmatch(piece)
                table[i] = bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()
            elif i in added or not in_alphabet(piece):
                table[i] = piece.encode()
            else:
                table[i] = piece.translate(byte_of).encode("latin-1")
        return table

    def cuts_between_words(self, token_bytes: Collection[bytes]) -> bool:
        """Whether "letter | space letter" is always a boundary that text may be cut at, whatever follows.

        Normalisation must be local, and every split regex must match on the text it covers alone. And the pre-tokenizer
        must split there; or, with BPE, no token may have a letter before a space, so that no merge can cross.
        """
        if not (self._normalises_locally() and self._splits_locally()):
            return False
        if (splitter := self.inside.pre_tokenizer) is not None:
            sample = "one Two THREE x yZ, (four five"
            starts = {start for _, (start, _) in splitter.pre_tokenize_str(sample)}
            if all(m.start() + 1 in starts for m in re.finditer(r"[A-Za-z](?= [A-Za-z])", sample)):
                return True
        bpe = isinstance(self.inside.model, tokenizers.models.BPE)
        return bpe and not any(re.search(rb"[A-Za-z] ", data) for data in token_bytes)

    def _normalises_locally(self) -> bool:
        return all(
            node["type"] in _LOCAL_NORMALIZERS and (node["type"] != "Replace" or node["pattern"] == {"String": " "})
            for node in self.nodes["normalizer"]
        )

    def _splits_locally(self) -> bool:
        nodes = self.nodes["pre_tokenizer"]
        regexes = [node["pattern"].get("Regex", "") for node in nodes if node["type"] == "Split"]
        return all(node["type"] in _LOCAL_PRE_TOKENIZERS for node in nodes) and not any(
            _UNSURE_REGEX.search(_CHARACTER_CLASS.sub("C", regex)) for regex in regexes
        )


def reaches_across_words(added: str) -> bool:
    """Whether an added token may begin in one word of a text and end in the next."""
    return _REACHES_ACROSS.search(added) is not None


def byte_level_alphabet() -> dict[int, str]:
    """GPT-2's character for each byte (Radford et al. 2019: printable Latin-1, the rest from U+0100 on)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(0x100 + n) for n, b in enumerate(others)}


def _nodes(component: Any) -> Iterator[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as the flat list of its JSON nodes."""
    todo = [json.loads(component.__getstate__())] if component is not None else []
    while todo:
        node = todo.pop(0)
        yield node
        for key in ("normalizers", "pretokenizers", "decoders"):
            todo += node.get(key, [])


def _is_byte_level(nodes: PipelineNodes, byte_fallback: bool) -> bool:
    """True for byte-level BPE (GPT-2's alphabet), False for SentencePiece style; the decoder has the first word."""
    for part in ("decoder", "pre_tokenizer", "normalizer"):
        types = {node["type"] for node in nodes[part]}
        if "ByteLevel" in types:
            return True
        if types & {"Metaspace", "ByteFallback"} or any(
            SPACE in (node.get("prepend"), node.get("content"), node.get("pattern", {}).get("String"))
            for node in nodes[part]
            if node["type"] in ("Replace", "Prepend")
        ):
            return False
    if byte_fallback:
        return False
    found = ", ".join(node["type"] for node in nodes["decoder"]) or "none"
    raise ModelLoadError(
        f"tokenizer with decoder {found} is not supported: its tokens' bytes are unknown; "
        "use a byte-level BPE or a SentencePiece-style tokenizer"
    )


def _prefix_scheme(nodes: PipelineNodes) -> PrefixScheme:
    if any(node["type"] == "Prepend" for node in nodes["normalizer"]):
        return "each"
    for node in nodes["pre_tokenizer"]:
        if node["type"] == "ByteLevel" and node["add_prefix_space"]:
            return "each"
        if node["type"] == "Metaspace" and node["prepend_scheme"] != "never":
            return "each" if node["prepend_scheme"] == "always" else "first"
    return "none"


def _plain(tok: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Have a tokenizer take control tokens' spellings for ordinary text, and never cut or pad."""
    tok.encode_special_tokens = True
    tok.no_truncation()
    tok.no_padding()
    return tok


def _without_prefix(source: str) -> str:
    """The tokenizer's JSON with every dummy space taken out, for text that continues other text."""
    tree = json.loads(source)

    def strip(node: dict[str, Any]) -> dict[str, Any]:
        for key in ("normalizers", "pretokenizers"):
            if key in node:
                node[key] = [strip(child) for child in node[key] if child["type"] != "Prepend"]
        if node["type"] == "Metaspace":
            node["prepend_scheme"] = "never"
        if node["type"] == "ByteLevel":
            node["add_prefix_space"] = False
        return node

    for part in ("normalizer", "pre_tokenizer"):
        if tree[part] is not None:
            tree[part] = None if tree[part]["type"] == "Prepend" else strip(tree[part])
    return json.dumps(tree)
