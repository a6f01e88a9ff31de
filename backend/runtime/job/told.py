"""The trace of one call: its tokens as text, where each came from, and when.

Knows nothing of what the call does. Only jobs of traced calls have a `Told`.

1. Rows that count as reused here are those that `Usage.reused` counts (a row computed *again* was computed once).
2. The texts of the tokens spell the call's text, also where a stop or a merge with the prompt cut the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...base import CallTrace
from ..kv.cursor import Cursor
from ..text.detokenizer import Detokenizer
from ..text.tokenizer import Tokenizer


@dataclass(slots=True)
class StepClock:
    """Numbers of steps, counted from 1. `planned`: the step planned last; `landing`: the step whose answers are being
    collected, or were last."""

    planned: int = 0
    landing: int = 0


class Told:
    """Records one call. Its context are the tokens of `cursor` from depth `told` on, which no earlier traced call has
    recorded. A sample that is not the `first` of its gen has no context: the first one records it."""

    __slots__ = ("_born", "_clock", "_computed", "_context", "_high", "_start", "_text", "_tokenizer", "trace")

    def __init__(
        self, cursor: Cursor, told: int, tokenizer: Tokenizer, clock: StepClock, *, first: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._clock = clock
        self._start = told
        self._context = cursor.path_tokens(told) if first else []
        self._computed = bytearray(len(self._context))
        self._high = cursor.high
        self._born = clock.planned
        self._text = Detokenizer()
        self.trace = CallTrace([])

    def computed(self, start: int, end: int) -> None:
        """Record that the tokens at depth start .. end-1 go through the model for this call."""
        first, self._high = max(start, self._high), max(end, self._high)
        first, last = max(first - self._start, 0), min(end - self._start, len(self._context))
        if first < last:
            self._computed[first:last] = b"\1" * (last - first)

    def token(self, token: int, data: bytes, logprob: float | None, forced: bool) -> None:
        """Record a committed token, which adds `data` to the text, and the step whose answers are being collected.

        No step is recorded if that step was planned before the call's turn came.
        """
        trace, step = self.trace, self._clock.landing
        trace.texts.append(self._text.push(data))
        trace.token_ids.append(token)
        trace.logprobs.append(logprob)
        trace.forced.append(forced)
        trace.steps.append(step if step > self._born else 0)

    def restart(self) -> None:
        """Drop the text so far; another one begins."""
        trace, self._text = self.trace, Detokenizer()
        trace.texts, trace.token_ids, trace.logprobs, trace.forced, trace.steps = [], [], [], [], []

    def finish(self, text: str, began: float | None, ended: float) -> CallTrace:
        """Complete the trace. `text` is the text of the result."""
        trace = self.trace
        trace.texts = _fitted(trace.texts, text)
        first = next((step for step in trace.steps if step), 0)  # tokens forced at the beginning ride in it
        trace.steps = [0 if began is None else step or first for step in trace.steps]
        context, at, size = Detokenizer(), 0, len(self._context)
        while at < size:
            end = at + 1
            while end < size and self._computed[end] == self._computed[at]:
                end += 1
            run = context.push(self._tokenizer.spelled(self._context[at:end]))
            trace.prompt.append((run + context.flush() if end == size else run, not self._computed[at], end - at))
            at = end
        trace.began, trace.ended = began, ended
        return trace


def _fitted(pieces: list[str], text: str) -> list[str]:
    """Cut `pieces` so that they spell `text`.

    They are longer at their end after a stop. They are longer at their beginning in a select whose choices' first token
    has the end of the prompt in it. An unfinished character at the end is shown as the text shows it.
    """
    spelled = "".join(pieces)
    if spelled == text or not pieces:
        return pieces
    at_start = len(spelled) - len(text) if not spelled.startswith(text) and spelled.endswith(text) else 0
    fitted, at = [], -at_start
    for piece in pieces:
        begin, at = max(0, at), at + len(piece)
        fitted.append(text[begin : max(0, at)])
    fitted[-1] += text[max(0, at) :]
    return fitted
