"""Log-probabilities as OpenAI's APIs tell them. Knows nothing of requests.

Told are the tokens that the text shows: not the token that ended it, and of a stream not those whose text is held back.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from ...base import TokenLogprob
from ...runtime.text.tokenizer import Tokenizer

LEAST = -9999.0
"""Stands for a probability of 0, as JSON has no infinity."""


class Shown:
    """Which tokens of one growing text were told. `at`: the characters that they cover."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._count = self._at = 0

    def take(self, tokens: Sequence[TokenLogprob], text: str, done: bool) -> list[TokenLogprob]:
        """The tokens to tell now that `text` is all that was told. However it was cut, the same tokens are told."""
        taken = []
        while self._count < len(tokens):
            token = tokens[self._count]
            before = self._decoder.getstate()
            spelled = self._bytes(token.token_id, text)
            size = len(self._decoder.decode(spelled))
            begun = bool(before[0])  # a character that the text has, or will have
            ends = self._at >= len(text) or (not spelled and self._at + begun >= len(text))
            if ends or (self._at + size > len(text) and not done):
                self._decoder.setstate(before)
                break  # its text is still held back, or it is the end token
            self._at += size
            self._count += 1
            taken.append(token)
        return taken

    def _bytes(self, token: int, text: str) -> bytes:
        """What the token adds to the text: a control token its name, if the constraint asked for it."""
        own = self._tokenizer.token_bytes[token]
        name = b"" if own else self._tokenizer.spelled([token])
        return name if name and text.startswith(name.decode("utf-8", "replace"), self._at) else own


def of_chat(tokens: Sequence[TokenLogprob], tokenizer: Tokenizer) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    content = []
    for token in tokens:
        top = [_told(lp, i, text, tokenizer) for lp, i, text in token.top]
        content.append({**_told(token.logprob, token.token_id, token.text, tokenizer), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _told(logprob: float | None, token: int, text: str | None, tokenizer: Tokenizer) -> dict[str, Any]:
    return {"token": text or "", "logprob": finite(logprob), "bytes": list(tokenizer.spelled([token]))}


def of_completion(tokens: Sequence[TokenLogprob], offset: int, top: int) -> dict[str, Any]:
    """`logprobs` of a completion's choice; `offset`: the characters of the choice's text before these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text or "")
    tops = [None if t.logprob is None else {text or "": finite(lp) for lp, _, text in t.top} for t in tokens]
    return {
        "tokens": [token.text or "" for token in tokens],
        "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
        "top_logprobs": tops if top else None,
        "text_offset": offsets,
    }


def finite(logprob: float | None) -> float:
    return LEAST if logprob is None or logprob < LEAST else float(logprob)
