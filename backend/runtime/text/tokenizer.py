"""Text to tokens and tokens to bytes, over a tokenizer of the `tokenizers` package (Rust).

Owns: how runs of text become tokens: where BOS goes, what may be cut and kept, what the choices of a select share.
Knows nothing of branches, of how a model file is read, or of incremental decoding.

1. `encode` of touching pieces gives the tokens of the whole string.
2. The bytes of the tokens are the (normalised) text, or `encode` raises: no character is lost silently.
3. `encode_choices` agrees token by token with `encode` of prompt + choice.
4. Thread-safe: after construction only caches change, and they are safe by themselves.

Programs send the same long texts again. So the tokens of a text's chunks and words are kept (`words.py`). Text is cut
into them only where a cut certainly changes no token.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from ....lang.chat import ChatTemplate, Message
from ....lang.constant import rendered
from ....lang.errors import CapabilityError, ModelLoadError, OptionError
from ....lang.kept import CacheBudget, kept
from .control import ControlTokens, Pieces
from .pipeline import SPACE, Pipeline, reaches_across_words
from .words import Words

MOST_TOKENS = 1 << 22
"""Ids of the largest vocabulary; one id that lies would make a table of gigabytes."""
CHUNK_CHARACTERS = 512
"""About how long a chunk is."""
KEPT_CHUNKS, CHUNK_BYTES = 2048, 16 << 20
"""Chunks whose tokens are kept, and their bytes: a text that no word boundary cuts is one chunk."""
_CROSSES_WORDS = re.compile(rf"[A-Za-z][ {SPACE}][A-Za-z]")
_BETWEEN_WORDS = re.compile(r"[A-Za-z](?= [A-Za-z])")


class Tokenizer:
    """A Rust tokenizer with a byte table.

    `vocab_size`: ids that exist (a model may pad its logits beyond). `token_bytes[id]`: the bytes the token
    contributes to the text, b"" for control tokens and for ids without a token. `taken`: nobody else
    encodes with `tok`, so it need not be cloned.
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
        taken: bool = False,
    ) -> None:
        if add_bos and bos_id is None:
            raise ModelLoadError("the tokenizer is to add a BOS token but has no bos_id")
        vocabulary = tok.get_vocab(with_added_tokens=True)
        self.vocab_size = vocab_size if vocab_size is not None else max(vocabulary.values(), default=-1) + 1
        if not 0 < self.vocab_size <= MOST_TOKENS:
            raise ModelLoadError(f"the tokenizer has {self.vocab_size} token ids; 1 to {MOST_TOKENS} are possible")
        if bos_id is not None and not 0 <= bos_id < self.vocab_size:
            raise ModelLoadError(f"bos_token_id {bos_id} is none of the tokenizer's {self.vocab_size} tokens")
        self.bos_id = bos_id
        self.eos_ids = eos_ids = tuple(i for i in eos_ids if 0 <= i < self.vocab_size)  # others cannot be sampled
        self.add_bos = add_bos
        added = {i: t for i, t in tok.get_added_tokens_decoder().items() if i < self.vocab_size}
        ends = {i for i in (bos_id, *eos_ids) if i is not None}
        self._control = ControlTokens(vocabulary, added, ends, self.vocab_size)
        pipeline = Pipeline.of(tok, taken=taken)
        self._at_start, self._inside = pipeline.at_start, pipeline.inside
        self._prefix, self._byte_level = pipeline.prefix, pipeline.byte_level
        spelled = {piece: i for piece, i in vocabulary.items() if i not in self._control.ids}
        self.token_bytes: list[bytes] = pipeline.byte_table(spelled, self.vocab_size, added)
        self._cuttable = (
            not any(reaches_across_words(token.content) for token in added.values())
            and not any(token.lstrip or token.rstrip for token in self._control.ordinary)
            and pipeline.cuts_between_words(self.token_bytes)
        )
        self.words = Words(lambda text: self._encode_chunk(text, False), self.token_bytes)
        self.chat_template: ChatTemplate | None = None
        self.chunks = CacheBudget(CHUNK_BYTES)
        self._known_chunk = kept(KEPT_CHUNKS, budget=self.chunks)(lambda chunk: tuple(self.words.tokens(chunk)))

    def with_template(self, template: ChatTemplate | None) -> Tokenizer:
        """The tokenizer with a chat template of its own."""
        twin = copy.copy(self)
        twin.chat_template = template
        return twin

    def difference(self, other: Tokenizer) -> str | None:
        """What differs first between the tokens of two tokenizers, in words; None if all are the same."""
        if self.vocab_size != other.vocab_size:
            return f"{other.vocab_size:,} tokens and not {self.vocab_size:,}"
        for token in range(self.vocab_size):
            mine, theirs = (each.spelled([token]) for each in (self, other))
            if mine != theirs or self.is_special(token) != other.is_special(token):
                return f"token {token} is {theirs!r:.60} and not {mine!r:.60}"
        return None

    def is_special(self, token_id: int) -> bool:
        """Whether this is a control token (or an id without a token), which contributes no text."""
        return token_id in self._control.ids

    def control_token(self, text: str) -> int | None:
        """The id of the control token, or added token, with this text; None if there is none."""
        return self._control.by_text.get(text)

    @property
    def control_texts(self) -> Collection[str]:
        """The texts of the control tokens and added tokens."""
        return self._control.by_text.keys()

    def control_token_in(self, text: str) -> str | None:
        """The first name of a control token in `text`, of three characters or more; None if there is none."""
        return next((m[0] for m in self._control.regex.finditer(text) if len(m[0]) > 2), None)

    def encode(self, pieces: str | Pieces, *, first: bool = True, special_tokens: bool = False) -> list[int]:
        """The tokens of a text, or of (text, markup) runs, tokenised jointly where they touch.

        `special_tokens`: a text given as one string spells control tokens; else they are plain text in it.
        `first`: the text begins a path. Only there BOS is added (unless the text begins with it, or the model wants
        none), and a SentencePiece tokenizer adds its dummy space.
        Raises `OptionError` for a character that the vocabulary cannot spell.
        """
        if pieces is None or isinstance(pieces, (bytes, int)):
            raise OptionError(f"encode takes a text, got {pieces!r:.60}")
        if isinstance(pieces, str):
            pieces = [(pieces, special_tokens)]
        return self._encode_runs(self._control.runs(pieces).items, first)

    def count(self, text: str, *, special_tokens: bool = False) -> int:
        """How many tokens `text` has at the beginning of a prompt."""
        return len(self.encode(text, special_tokens=special_tokens))

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> Any:
        """A conversation as the model's chat template writes it.

        `messages`: mappings with `role` and `content`. `tokenize`: give token ids, in which no content of a message
        spells a control token (for `generate(input_ids=)`); else the text (for `generate(..., special_tokens=True)`).
        `add_generation_prompt`: end with what precedes an assistant's answer. `options` go to the template.
        Raises `CapabilityError` if the model has no chat template, `OptionError` if the template refuses.
        """
        if self.chat_template is None:
            raise CapabilityError("this model has no chat template; pass chat_template= to sgl.Runtime(...)")
        if isinstance(messages, str) or not all(isinstance(message, Mapping) for message in messages):
            raise OptionError('apply_chat_template takes messages: [{"role": "user", "content": "..."}, ...]')
        if not tokenize:
            return self.chat_template.render(messages, add_generation_prompt, **options)
        return self.encode(rendered(self.chat_template, messages, add_generation_prompt, **options))

    def encode_choices(
        self, pieces: Pieces, choices: Sequence[str], *, first: bool
    ) -> tuple[list[int], list[list[int]]]:
        """(prefix, rests) with `prefix + rests[i] == encode([*pieces, (choices[i], False)], first=first)`.

        `prefix` holds the tokens of the prompt that no choice changes. It holds no token of a choice, even where all
        choices begin alike, since those tokens are scored. Every rest has at least one token.
        The prompt is encoded once. A choice is encoded after the prompt's last word, if text may be cut before that
        word. Else it is encoded after the prompt's whole last run of text.
        """
        runs = self._control.runs(pieces)
        text = runs.pop_text()
        prefixed = self._prefixed(len(runs.items), first)
        head = self._encode_runs(runs.items, first)
        base = self._encode_plain(text, prefixed)
        cut = self._word_boundary(text)
        if prefixed and any(self._control.found_in(text[cut:] + choice) for choice in choices):
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
        runs = self._control.runs(pieces)
        text = runs.pop_text()
        ordinary = self._prefix == "each" and bool(self._control.ordinary)
        cut = 0 if ordinary else self._word_boundary(text)  # an added token that may follow has a dummy space after it
        rest = [(text[cut:], False)] if text[cut:] else []
        if cut:
            runs.items.append(text[:cut])
        elif runs.items and (runs.swallow or self._prefix == "each"):
            last = runs.items.pop()  # the tokens of what follows depend on this control token
            assert isinstance(last, int)
            rest.insert(0, (self._control.spelling(last), True))
        return self._encode_runs(runs.items, first) if runs.items else [], rest

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens; bytes that are not UTF-8 become U+FFFD. A dummy space at the start is kept."""
        return b"".join([self.token_bytes[i] for i in ids]).decode("utf-8", errors="replace")

    def spell(self, ids: Sequence[int]) -> str:
        """The text of the tokens with control tokens spelled out: what a person wants to see."""
        return self.spelled(ids).decode("utf-8", errors="replace")

    def spelled(self, ids: Sequence[int]) -> bytes:
        """The bytes of the tokens with control tokens spelled out."""
        spelled = self._control.bytes
        return b"".join([spelled.get(i) or self.token_bytes[i] for i in ids])

    # -- encoding
    def _word_boundary(self, text: str) -> int:
        """The last place in `text` where it may be cut: before a space between two ASCII letters; 0 for none."""
        cut = text.rfind(" ", 0, len(text) - 1) if self._cuttable else -1
        while cut > 0 and not _CROSSES_WORDS.match(text, cut - 1):
            cut = text.rfind(" ", 0, cut)
        return max(cut, 0)

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
        if len(text) < 2 * CHUNK_CHARACTERS:
            return self.words.tokens(text)
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
        if self._control.ids.isdisjoint(ids) and (spelled == data or spelled == self._normalised(text, spelled)):
            return ids
        for token_id, (start, _) in zip(ids, encoding.offsets):
            m = self._control.regex.match(text, start) if token_id in self._control.ids else None
            if m and len(m[0]) > 1:
                # The vocabulary spells a control token as an ordinary piece (Unigram models can): break that word. Not
                # others that it need not break: a word has the same tokens in whatever text.
                return self._encode_chunk(text[: start + 1], prefixed) + self._encode_chunk(text[start + 1 :], False)
        raise OptionError(self._unspelled(text))

    def _normalised(self, text: str, spelled: bytes) -> bytes:
        """The bytes that `text` should have: after the tokenizer's own normalisation and with its dummy space."""
        normalizer = self._inside.normalizer
        norm = normalizer.normalize_str(text) if normalizer is not None else text
        data = (norm if self._byte_level else norm.replace(SPACE, " ")).encode()
        if spelled.startswith(b" ") and self._prefix != "none" and spelled != data:
            data = b" " + data
        if self._control.found_in(text) and _without_blanks(spelled) == _without_blanks(data):
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
    """The text in parts of about `CHUNK_CHARACTERS`, each cut at the first certain word boundary: texts that begin
    alike are cut alike."""
    start = 0
    while m := _BETWEEN_WORDS.search(text, start + CHUNK_CHARACTERS):
        yield text[start : m.start() + 1]
        start = m.start() + 1
    yield text[start:]


def _without_blanks(data: bytes) -> bytes:
    return data.translate(None, b" \t\r\n")


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for x, y in zip(a, b):
        if x != y:
            break
        length += 1
    return length
