"""A `tokenizers.Tokenizer` from the tokenizer metadata of a GGUF file.

Owns: what `tokenizer.ggml.*` means as a tokenizers pipeline (transformers has a converter too, in pure Python: 26 s for
49,152 tokens). Knows nothing of files or models. Ids are the file's own, control tokens are special, and nothing
(BOS included) is added by the tokenizer itself: `Checkpoint.add_bos` says what the runtime should do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from .....lang.errors import ModelLoadError
from .fields import Fields, brief, contained

LONGEST_TOKEN = 1024
"""Characters; each place where a SentencePiece token may be split is looked at."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def _plain() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _plain()])


def _words(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "smollm": _digits,
    "gpt-2": _plain,
    "default": _plain,
    "llama-bpe": lambda: _words(_LLAMA3_WORDS),
    "qwen2": lambda: _words(_QWEN2_WORDS),
}


def build_tokenizer(metadata: Mapping[str, Any], name: str) -> Tokenizer:
    """Build the tokenizer; `name` is the file, for messages."""
    fields = Fields(metadata, name)
    kind = fields.text("tokenizer.ggml.model")
    tokens = fields.items("tokenizer.ggml.tokens", str, "texts")
    types = fields.items("tokenizer.ggml.token_type", int, "numbers") or [NORMAL] * len(tokens)
    if (longest := max(map(len, tokens), default=0)) > LONGEST_TOKEN:
        raise ModelLoadError(f"{name}: the field 'tokenizer.ggml.tokens' has a token of {longest} characters")
    if not tokens:
        raise ModelLoadError(f"{name}: the file has no tokenizer (tokenizer.ggml.tokens); use a complete GGUF file")
    if kind == "gpt2":
        tokenizer = contained(lambda: _byte_level(fields, tokens), name, "its tokenizer cannot be built")
    elif kind == "llama":
        tokenizer = contained(lambda: _sentence_piece(fields, tokens), name, "its tokenizer cannot be built")
    else:
        raise ModelLoadError(f"{name}: tokenizer model {brief(kind)} is not supported; supported: gpt2, llama")
    _add(tokenizer, [(t, k) for t, k in zip(tokens, types) if k in (CONTROL, USER_DEFINED)])
    return tokenizer


def adds_bos(metadata: Mapping[str, Any]) -> bool:
    """Whether text should begin with BOS; where the file is silent, as llama.cpp decides."""
    silent = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    return bool(metadata.get("tokenizer.ggml.add_bos_token", silent))


def _byte_level(fields: Fields, tokens: list[str]) -> Tokenizer:
    pre = fields.text("tokenizer.ggml.pre") or "default"
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise ModelLoadError(f"{fields.name}: pre-tokenizer {brief(pre)} is not supported; supported: {known}")
    merges = [_pair(merge) for merge in fields.items("tokenizer.ggml.merges", str, "texts")]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _sentence_piece(fields: Fields, tokens: list[str]) -> Tokenizer:
    scores = fields.items("tokenizer.ggml.scores", (int, float), "numbers")
    if len(scores) != len(tokens):
        raise ModelLoadError(
            f"{fields.name}: a 'llama' tokenizer needs tokenizer.ggml.scores, one for each of {len(tokens)} tokens, "
            f"and the file has {len(scores)}"
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    unknown = tokens[fields.whole("tokenizer.ggml.unknown_token_id", 0, low=0, high=len(tokens) - 1)]
    model = models.BPE(
        vocab=vocab, merges=_merges_by_score(vocab, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges_by_score(vocab: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose result scores highest; as BPE merges, every split of a token, best first."""
    merges: list[tuple[float, int, int, str, str]] = []
    for token, i in vocab.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                merges.append((-scores[i], vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _add(tokenizer: Tokenizer, typed: list[tuple[str, int]]) -> None:
    """Register tokens that text is cut at before BPE. Their ids exist already: adding them by content keeps those."""
    if control := [AddedToken(token, special=True, normalized=False) for token, k in typed if k == CONTROL]:
        tokenizer.add_special_tokens(control)
    if user := [AddedToken(token, special=False, normalized=False) for token, k in typed if k == USER_DEFINED]:
        tokenizer.add_tokens(user)
