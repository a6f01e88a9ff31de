"""The trace of one call: its tokens as text, where each came from, and when.

Owns: how a `CallTrace` is filled while a job runs. Only traced jobs have one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import CallTrace
from .text.detokenizer import Detokenizer
from .text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from .branch import Branch


class Told:
    """`prompt`: the tokens of the branch that no traced call told of, which are told here."""

    __slots__ = ("_computed", "_context", "_start", "_text", "_tokenizer", "trace")

    def __init__(self, branch: Branch, tokenizer: Tokenizer, *, first: bool = True) -> None:
        self._tokenizer = tokenizer
        self._start = branch.told
        self._context = branch.path_tokens()[branch.told :] if first else []
        self._computed = bytearray(len(self._context))
        self._text = Detokenizer()
        self.trace = CallTrace([])

    def computed(self, start: int, end: int) -> None:
        """The tokens at depth start .. end-1 went through the model for this call."""
        start, end = max(start - self._start, 0), min(end - self._start, len(self._context))
        if start < end:
            self._computed[start:end] = b"\1" * (end - start)

    def token(self, token: int, logprob: float | None, forced: bool, step: int) -> None:
        trace = self.trace
        trace.texts.append(self._text.push(self._tokenizer.token_bytes[token]))
        trace.token_ids.append(token)
        trace.logprobs.append(logprob)
        trace.forced.append(forced)
        trace.steps.append(step)

    def restart(self) -> None:
        """The text so far was dropped; another one begins."""
        trace, self._text = self.trace, Detokenizer()
        trace.texts, trace.token_ids, trace.logprobs, trace.forced, trace.steps = [], [], [], [], []

    def finish(self, text: str, began: float | None, ended: float) -> CallTrace:
        """`text` is the result's: what a stop cut off the last tokens is cut off here."""
        trace, context = self.trace, Detokenizer()
        over = sum(map(len, trace.texts)) - len(text)
        for i in range(len(trace.texts) - 1, -1, -1):
            if over <= 0:
                break
            kept = max(0, len(trace.texts[i]) - over)
            over -= len(trace.texts[i]) - kept
            trace.texts[i] = trace.texts[i][:kept]
        if over < 0 and trace.texts:
            trace.texts[-1] += text[over:]  # the end of a character that the text shows as broken
        at, size = 0, len(self._context)
        while at < size:
            end = at + 1
            while end < size and self._computed[end] == self._computed[at]:
                end += 1
            run = context.push(self._tokenizer.spelled(self._context[at:end])) + (
                context.flush() if end == size else ""
            )
            trace.prompt.append((run, not self._computed[at], end - at))
            at = end
        trace.began, trace.ended = began, ended
        return trace
