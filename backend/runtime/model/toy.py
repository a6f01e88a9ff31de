"""`ToyModel`: a model whose KV holds (token, position) and whose logits are a hash of all that a row attends to.

Needs no torch. One wrong slot, mask, position or watermark changes the output completely, with no float tolerance, so
every test of the runtime's bookkeeping runs on it. Slots that were never written hold poison: reading one shows too.

Also `toy_tokenizer`: a small byte-level BPE vocabulary with multi-byte tokens and control tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..sample.noise import uniform
from ..step.packed import Batch
from ..text.pipeline import byte_level_alphabet
from ..text.tokenizer import Tokenizer

_POISON = -(2**40)
_WORDS = (
    "th", "he", "an", "in", "er", "the", "and", "ing", "\n\n", "ab", "abc", "bc", "stop", "st", "op", ".\n", ", ", " a",
    " the", "é", "日", "本", "日本", "yes", "no", "ye", " yes", " no", "Answer", "Answer:", ": ", "##", "###",
)  # fmt: skip
_CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


class ToyModel:
    """Implements `step.packed.Model`. `favour` adds to the logits of some ids: an adversarial ranking."""

    def __init__(self, vocab_size: int, context_length: int = 4096, favour: Mapping[int, float] | None = None) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.kv_bytes_per_token = 16
        self._bias = np.zeros(vocab_size, dtype=np.float32)
        for token, bonus in (favour or {}).items():
            self._bias[token] = bonus
        self._ids = np.arange(vocab_size, dtype=np.uint32)
        self._token = np.zeros(0, dtype=np.int64)
        self._position = np.zeros(0, dtype=np.int64)

    def allocate(self, slots: int) -> None:
        self._token = np.full(slots, _POISON, dtype=np.int64)
        self._position = np.full(slots, _POISON, dtype=np.int64)

    def forward(self, batch: Batch) -> npt.NDArray[np.float32]:
        self._token[batch.slots] = batch.tokens
        self._position[batch.slots] = batch.positions
        seen = np.zeros(len(batch.tokens), dtype=np.uint64)
        for span in batch.spans:
            own = batch.slots[span.first_row : span.first_row + span.rows]
            before = [np.arange(start, start + length) for start, length in span.context]
            total = np.cumsum(self._read(own), dtype=np.uint64)
            if before:
                total += self._read(np.concatenate(before)).sum(dtype=np.uint64)
            seen[span.first_row : span.first_row + span.rows] = total
        logits = np.empty((len(batch.want), self.vocab_size), dtype=np.float32)
        for i, row in enumerate(batch.want):
            logits[i] = 10 * uniform(int(seen[row]), 1, self._ids)
        return logits + self._bias

    def _read(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """One hash a slot of what its KV holds. Sums of them identify the set of (token, position) attended to."""
        h = self._token[slots].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        h ^= self._position[slots].astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        h ^= h >> np.uint64(29)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(32)
        mixed: npt.NDArray[np.uint64] = h * np.uint64(0x94D049BB133111EB)
        return mixed


def toy_tokenizer() -> Tokenizer:
    """The toy vocabulary: 256 bytes, some words as BPE merges, three control tokens."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    byte_chars = sorted(pre_tokenizers.ByteLevel.alphabet())
    spell = byte_level_alphabet()
    vocab = {c: i for i, c in enumerate(byte_chars)}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        spelt = "".join(spell[b] for b in word.encode())
        left = spelt[0]
        for char in spelt[1:]:
            if (left, char) not in merges:
                merges.append((left, char))
                vocab.setdefault(left + char, len(vocab))
            left += char
    tok = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _CONTROL])
    ids = tok.get_vocab(with_added_tokens=True)
    ends = ids["<|endoftext|>"], ids["<|im_end|>"]
    return Tokenizer(tok, bos_id=ends[0], eos_ids=ends, add_bos=False, vocab_size=None)
