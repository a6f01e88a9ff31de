"""Text to tokens and tokens to bytes, over a `tokenizers` (Rust) tokenizer.

Owns: the byte table (token id -> the exact bytes it contributes to the text), and how runs of text become tokens:
which text may spell control tokens, where BOS goes, what a select's choices share.
Knows nothing of chat templates, of branches, of how a model file is read, or of incremental decoding.

Invariants:
- `encode` of touching pieces gives the tokens of the whole string; only pieces with markup=True spell control tokens.
- The bytes of the tokens are the (normalised) text, or `encode` raises: no character is lost silently.
- `encode_choices` agrees token by token with `encode` of prompt + choice.

Thread-safe: nothing is written after construction but caches that see to it themselves, and the Rust tokenizers are our
own clones, set up once.

Programs say the same long texts again and again (a prompt that a thousand rows begin with), and a tokenizer takes a
microsecond a token or more. So a long run is encoded in chunks, cut where a cut certainly changes nothing, and the
tokens of recent chunks are kept; within chunks, those of recent words (`words.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import tokenizers

from ....lang.errors import ModelLoadError, OptionError
from .words import Words

Pieces = Sequence[tuple[str, bool]]
PrefixScheme = Literal["none", "first", "each"]

CHUNK = 512
"""Characters of a chunk, about."""
CHUNKS = 2048
"""Chunks whose tokens are kept: some megabytes."""
_SPACE = "▁"  # SentencePiece's visible space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CROSSES_WORDS = re.compile(rf"[A-Za-z][ {_SPACE}][A-Za-z]")
_REACHES_ACROSS = re.compile(rf"[A-Za-z][ {_SPACE}](?:[A-Za-z]|\Z)")
_BETWEEN_WORDS = re.compile(r"[A-Za-z](?= [A-Za-z])")
_BLANKS = b" \t\r\n"
_CHARACTER_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]")
# Lookbehind, anchors, wildcards, back references: with these a match may depend on more than the text it covers.
_UNSURE_REGEX = re.compile(r"\(\?<[=!]|\\[bBAGzZXRK0-9]|[\^$]|(?<!\\)\.")
_LOCAL_NORMALIZERS = {"Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace"}
_LOCAL_PRE_TOKENIZERS = {"Sequence", "ByteLevel", "Metaspace", "Digits", "Punctuation", "WhitespaceSplit", "Split"}


@dataclass(slots=True)
class _Runs:
    """Pieces cut at control tokens: an int is a control token, a str a run of ordinary text (never empty).

    `swallow`: the last item is a control token whose `rstrip` flag takes the whitespace that follows it.
    """

    items: list[int | str] = field(default_factory=list)
    swallow: bool = False

    def add_text(self, text: str) -> None:
        if self.swallow:
            text = text.lstrip()
        if not text:
            return
        self.swallow = False
        if self.items and isinstance(self.items[-1], str):
            self.items[-1] += text
        else:
            self.items.append(text)

    def add_control(self, token_id: int, *, lstrip: bool, rstrip: bool) -> None:
        if lstrip and self.items and isinstance(last := self.items[-1], str):
            self.items.pop()
            self.add_text(last.rstrip())
        self.items.append(token_id)
        self.swallow = rstrip


class Tokenizer:
    """A Rust tokenizer with a byte table.

    `vocab_size`: ids that exist (a model may pad its logits beyond). `token_bytes[id]`: the bytes the token
    contributes to the text, b"" for control tokens and for ids without a token.
    Raises `ModelLoadError` for a tokenizer that is neither byte-level nor SentencePiece-style.
    """

    def __init__(
        self,
        tok: tokenizers.Tokenizer,
        *,
        bos_id: int | None,
        eos_ids: tuple[int, ...],
        add_bos: bool,
        vocab_size: int | None,
    ) -> None:
        if add_bos and bos_id is None:
            raise ModelLoadError("the tokenizer is to add a BOS token but has no bos_id")
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self.add_bos = add_bos
        vocabulary = tok.get_vocab(with_added_tokens=True)
        self.vocab_size = vocab_size if vocab_size is not None else max(vocabulary.values(), default=-1) + 1
        added = {i: t for i, t in tok.get_added_tokens_decoder().items() if i < self.vocab_size}
        control = {i for i, t in added.items() if t.special} | {i for i in (bos_id, *eos_ids) if i is not None}
        self._nodes = {part: list(_nodes(getattr(tok, part))) for part in ("normalizer", "pre_tokenizer", "decoder")}
        self._byte_level = _is_byte_level(self._nodes, getattr(tok.model, "byte_fallback", False))
        self.token_bytes: list[bytes] = self._byte_table(vocabulary, set(added), control)
        self._control = frozenset(control | set(range(self.vocab_size)) - set(vocabulary.values()))
        self._added = added
        self._ordinary = [t for i, t in added.items() if i not in control]  # added tokens that any text may spell
        self._spelled = {piece: i for piece, i in vocabulary.items() if i in control}
        self._control_bytes = {i: text.encode() for text, i in self._spelled.items()}
        longest_first = sorted(self._spelled, key=len, reverse=True)
        self._control_regex = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._prefix: PrefixScheme = _prefix_scheme(self._nodes)
        source = tok.to_str()
        self._at_start = _plain_clone(source)
        self._inside = self._at_start if self._prefix == "none" else _plain_clone(_without_prefix(source))
        self._cuttable = self._certain_word_boundaries()
        self._words = Words(lambda text: self._encode_chunk(text, False), self.token_bytes)
        self._known_chunk = lru_cache(CHUNKS)(lambda chunk: tuple(self._words.tokens(chunk)))

    def is_special(self, token_id: int) -> bool:
        """A control token (or an id without a token): it contributes no text."""
        return token_id in self._control

    def encode(self, pieces: Pieces, *, first: bool) -> list[int]:
        """Tokens of (text, markup) runs, tokenised jointly where they touch.

        `first`: this is position 0 of a path. There BOS is added (unless the text begins with it, or the model wants
        none) and a SentencePiece tokenizer adds its dummy space; elsewhere neither is.
        Raises `OptionError` for a character that the vocabulary cannot spell.
        """
        return self._encode_runs(self._runs(pieces).items, first)

    def encode_choices(
        self, pieces: Pieces, choices: Sequence[str], *, first: bool
    ) -> tuple[list[int], list[list[int]]]:
        """(prefix, rests) with `prefix + rests[i] == encode([*pieces, (choices[i], False)], first=first)`.

        `prefix` holds the tokens of the prompt that no choice changes; every rest has at least one token. It never
        holds a token of a choice, even where all choices begin alike: those tokens are to be scored.
        The prompt is encoded once. A choice is encoded after the prompt's last word only, where the pre-tokenizer
        certainly splits before that word, and after the prompt's whole last run of text where that is not certain.
        """
        runs = self._runs(pieces)
        text = runs.items.pop() if runs.items and isinstance(runs.items[-1], str) else ""
        assert isinstance(text, str)
        prefixed = self._prefixed(len(runs.items), first)
        head = self._encode_runs(runs.items, first)
        base = self._encode_plain(text, prefixed)
        cut = self._word_boundary(text)
        if prefixed and any(t.content in text[cut:] + c for t in self._ordinary for c in choices):
            cut = 0  # in mid-text no dummy space follows an added token
        if cut:
            tail = self._encode_plain(text[cut:], False)
            if base[-len(tail) :] == tail:
                head += base[: -len(tail)]
                text, base, prefixed = text[cut:], tail, False
        rests = [self._encode_plain(text + (c.lstrip() if runs.swallow else c), prefixed) for c in choices]
        if not all(rests):  # a control token took a choice's whitespace: the choice is scored by that token
            base, rests, head = head + base, [head + rest for rest in rests], []
        if not all(rests):
            empty = choices[[bool(rest) for rest in rests].index(False)]
            raise OptionError(f"no token spells the choice {empty!r} here; remove it")
        shared = min([_common(base, rest) for rest in rests] + [len(rest) - 1 for rest in rests])
        return head + base[:shared], [rest[shared:] for rest in rests]

    def encode_stable(self, pieces: Pieces, *, first: bool) -> tuple[list[int], list[tuple[str, bool]]]:
        """(tokens, rest): the tokens that stay as they are whatever text follows, and the pieces left over.

        `tokens + encode(rest + more) == encode(pieces + more)` for any `more`: the text may be continued in several
        ways (a fork), each tokenised as if it had been written in one go.
        """
        runs = self._runs(pieces)
        text = runs.items.pop() if runs.items and isinstance(runs.items[-1], str) else ""
        assert isinstance(text, str)
        ordinary = self._prefix == "each" and not self._control.issuperset(self._added)
        cut = 0 if ordinary else self._word_boundary(text)  # an added token that may follow has a dummy space after it
        rest = [(text[cut:], False)] if text[cut:] else []
        if cut:
            runs.items.append(text[:cut])
        elif runs.items and (runs.swallow or self._prefix == "each"):  # what follows depends on this control token
            last = runs.items.pop()
            spelled = next(s for s, i in self._spelled.items() if i == last)
            rest.insert(0, (spelled, True))
        return self._encode_runs(runs.items, first) if runs.items else [], rest

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens; bytes that are not UTF-8 become U+FFFD. A dummy space at the start is kept."""
        return b"".join([self.token_bytes[i] for i in ids]).decode("utf-8", errors="replace")

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the tokens with control tokens spelled out: what a person wants to see."""
        return self.spelled(ids).decode("utf-8", errors="replace")

    def spelled(self, ids: Sequence[int]) -> bytes:
        """The bytes of the tokens with control tokens spelled out."""
        spelled = self._control_bytes
        return b"".join([spelled.get(i) or self.token_bytes[i] for i in ids])

    # -- construction
    def _byte_table(self, vocabulary: dict[str, int], added: set[int], control: set[int]) -> list[bytes]:
        table = [b""] * self.vocab_size
        byte_of = _byte_level_alphabet()
        for piece, i in vocabulary.items():
            if i in control or i >= self.vocab_size:
                continue
            if not self._byte_level:
                byte = _BYTE_TOKEN.fullmatch(piece)
                table[i] = bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()
            elif i in added or not all(c in byte_of for c in piece):  # spelled as it is read, not in the alphabet
                table[i] = piece.encode()
            else:
                table[i] = bytes([byte_of[c] for c in piece])
        return table

    def _certain_word_boundaries(self) -> bool:
        """Whether "letter | space letter" is always a boundary that text may be cut at, whatever follows.

        It is when normalisation is local, no added token reaches across, every split regex matches on the text it
        covers alone, and either the pre-tokenizer splits there or (BPE) no token of the vocabulary has a letter
        before a space, so that no merge can cross.
        """
        if any(_REACHES_ACROSS.search(t.content) for t in self._added.values()):
            return False
        if any(t.lstrip or t.rstrip for t in self._ordinary):
            return False
        normalizers, pre_tokenizers = self._nodes["normalizer"], self._nodes["pre_tokenizer"]
        if any(n["type"] not in _LOCAL_NORMALIZERS for n in normalizers):
            return False
        if any(n["type"] == "Replace" and n["pattern"] != {"String": " "} for n in normalizers):
            return False
        if any(n["type"] not in _LOCAL_PRE_TOKENIZERS for n in pre_tokenizers):
            return False
        regexes = [n["pattern"].get("Regex", "") for n in pre_tokenizers if n["type"] == "Split"]
        if any(_UNSURE_REGEX.search(_CHARACTER_CLASS.sub("C", regex)) for regex in regexes):
            return False
        if (splitter := self._inside.pre_tokenizer) is not None:
            sample = "one Two THREE x yZ, (four five"
            starts = {start for _, (start, _) in splitter.pre_tokenize_str(sample)}
            if all(m.start() + 1 in starts for m in re.finditer(r"[A-Za-z](?= [A-Za-z])", sample)):
                return True
        bpe = isinstance(self._inside.model, tokenizers.models.BPE)
        return bpe and not any(re.search(rb"[A-Za-z] ", data) for data in self.token_bytes)

    # -- encoding
    def _word_boundary(self, text: str) -> int:
        """The last place in `text` where it may be cut: before a space between two ASCII letters; 0 for none."""
        cut = text.rfind(" ", 0, len(text) - 1) if self._cuttable else -1
        while cut > 0 and not _CROSSES_WORDS.match(text, cut - 1):
            cut = text.rfind(" ", 0, cut)
        return max(cut, 0)

    def _runs(self, pieces: Pieces) -> _Runs:
        runs = _Runs()
        for text, markup in pieces:
            done = 0
            for m in self._control_regex.finditer(text) if markup else ():
                token_id = self._spelled[m[0]]
                flags = self._added.get(token_id)
                around = text[m.start() - 1 : m.start()] + text[m.end() : m.end() + 1]
                if flags is not None and flags.single_word and re.search(r"\w", around):
                    continue
                runs.add_text(text[done : m.start()])
                runs.add_control(
                    token_id, lstrip=flags is not None and flags.lstrip, rstrip=flags is not None and flags.rstrip
                )
                done = m.end()
            runs.add_text(text[done:])
        return runs

    def _prefixed(self, index: int, first: bool) -> bool:
        """Whether the run at `index` gets the dummy space. A run after a control token does so in old tokenizers."""
        return first and self._prefix != "none" if index == 0 else self._prefix == "each"

    def _encode_runs(self, runs: list[int | str], first: bool) -> list[int]:
        ids: list[int] = []
        if first and self.add_bos and self.bos_id is not None and runs[:1] != [self.bos_id]:
            ids.append(self.bos_id)
        for index, run in enumerate(runs):
            if isinstance(run, int):
                ids.append(run)
            else:
                ids += self._encode_plain(run, self._prefixed(index, first))
        return ids

    def _encode_plain(self, text: str, prefixed: bool) -> list[int]:
        """Tokens of ordinary text; none of them is a control token, and none of its characters is missing."""
        if prefixed or not self._cuttable or not text:
            return self._encode_chunk(text, prefixed)
        if len(text) < 2 * CHUNK:
            return self._words.tokens(text)
        ids: list[int] = []
        for chunk in _chunks(text):
            ids += self._known_chunk(chunk)
        return ids

    def _encode_chunk(self, text: str, prefixed: bool) -> list[int]:
        if not text:
            return []
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise OptionError(f"text has a lone surrogate {text[error.start]!r}, which no token can spell") from None
        encoding = (self._at_start if prefixed else self._inside).encode(text, add_special_tokens=False)
        ids = encoding.ids
        spelled = b"".join([self.token_bytes[i] for i in ids])
        if self._control.isdisjoint(ids) and (spelled == data or spelled == self._normalised(text, spelled)):
            return ids
        for token_id, (start, _) in zip(ids, encoding.offsets):
            m = self._control_regex.match(text, start) if token_id in self._control else None
            if m and len(m[0]) > 1:
                # The vocabulary spells a control token as an ordinary piece (Unigram models can): break that word. Not
                # others that it need not break: a word has the same tokens in whatever text.
                return self._encode_chunk(text[: start + 1], prefixed) + self._encode_chunk(text[start + 1 :], False)
        raise OptionError(self._unspelled(text))

    def _normalised(self, text: str, spelled: bytes) -> bytes:
        """The bytes that `text` should have: after the tokenizer's own normalisation and with its dummy space."""
        normalizer = self._inside.normalizer
        norm = normalizer.normalize_str(text) if normalizer is not None else text
        data = (norm if self._byte_level else norm.replace(_SPACE, " ")).encode()
        if spelled.startswith(b" ") and self._prefix != "none" and spelled != data:
            data = b" " + data
        if any(t.content in text for t in self._ordinary) and spelled.translate(None, _BLANKS) == data.translate(
            None, _BLANKS
        ):
            return spelled  # an added token took the whitespace around it, or got a dummy space after it
        return data

    def _unspelled(self, text: str) -> str:
        for c in dict.fromkeys(text):
            ids = self._inside.encode(c, add_special_tokens=False).ids
            spelled = b"".join([self.token_bytes[i] for i in ids])
            if spelled not in (c.encode(), self._normalised(c, spelled)):
                return f"the tokenizer has no token for {c!r} (U+{ord(c):04X}) in {text!r:.60}; remove it from the text"
        return f"the tokenizer does not give back {text!r:.60}: its tokens spell another text; rewrite the text"


def _chunks(text: str) -> Iterator[str]:
    """The text in parts of about `CHUNK` characters, each cut at the first certain word boundary: texts that begin
    alike are cut alike."""
    start = 0
    while m := _BETWEEN_WORDS.search(text, start + CHUNK):
        yield text[start : m.start() + 1]
        start = m.start() + 1
    yield text[start:]


def _nodes(component: Any) -> Iterator[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as the flat list of its JSON nodes."""
    todo = [json.loads(component.__getstate__())] if component is not None else []
    while todo:
        node = todo.pop(0)
        yield node
        for key in ("normalizers", "pretokenizers", "decoders"):
            todo += node.get(key, [])


def _is_byte_level(nodes: dict[str, list[dict[str, Any]]], byte_fallback: bool) -> bool:
    """True for byte-level BPE (GPT-2's alphabet), False for SentencePiece style; the decoder has the first word."""
    for part in ("decoder", "pre_tokenizer", "normalizer"):
        types = {node["type"] for node in nodes[part]}
        if "ByteLevel" in types:
            return True
        if types & {"Metaspace", "ByteFallback"} or any(
            _SPACE in (node.get("prepend"), node.get("content"), node.get("pattern", {}).get("String"))
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


def _prefix_scheme(nodes: dict[str, list[dict[str, Any]]]) -> PrefixScheme:
    """Where the tokenizer puts a dummy space: nowhere, before the first run, or also after each control token."""
    if any(node["type"] == "Prepend" for node in nodes["normalizer"]):
        return "each"
    for node in nodes["pre_tokenizer"]:
        if node["type"] == "ByteLevel" and node["add_prefix_space"]:
            return "each"
        if node["type"] == "Metaspace" and node["prepend_scheme"] != "never":
            return "each" if node["prepend_scheme"] == "always" else "first"
    return "none"


def _plain_clone(source: str) -> tokenizers.Tokenizer:
    """A tokenizer that takes control tokens' spellings for ordinary text, and never cuts or pads."""
    clone: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(source)
    clone.encode_special_tokens = True
    clone.no_truncation()
    clone.no_padding()
    return clone


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


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's character for each byte, reversed (Radford et al. 2019: printable Latin-1, the rest from U+0100 on)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for x, y in zip(a, b):
        if x != y:
            break
        length += 1
    return length
