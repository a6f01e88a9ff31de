"""The trace of one call: its tokens as text, where each came from, and when.

Owns: how a `CallTrace` is filled while a job runs. Only traced jobs have one of these.

Invariants: what counts as reused here is what `Usage.reused` counts (a row that is computed *again* was computed once);
the texts of the tokens spell the call's text, whatever a stop or a merge with the prompt cut off the tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base import CallTrace
from ..text.detokenizer import Detokenizer
from ..text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..program.branch import Branch


class Told:
    """The context it tells of are the branch's tokens that no traced call told of yet (not `first`: another sample of a
    call whose first sample tells of it)."""

    __slots__ = ("_born", "_computed", "_context", "_high", "_start", "_text", "_tokenizer", "trace")

    def __init__(self, branch: Branch, tokenizer: Tokenizer, *, first: bool = True) -> None:
        self._tokenizer = tokenizer
        self._start = branch.told
        self._context = _tokens_from(branch, branch.told) if first else []
        self._computed = bytearray(len(self._context))
        self._high = branch.high
        self._born = branch.engine.scheduler.number
        self._text = Detokenizer()
        self.trace = CallTrace([])

    def computed(self, start: int, end: int) -> None:
        """The tokens at depth start .. end-1 go through the model for this call."""
        first, self._high = max(start, self._high), max(end, self._high)
        first, last = max(first - self._start, 0), min(end - self._start, len(self._context))
        if first < last:
            self._computed[first:last] = b"\1" * (last - first)

    def token(self, token: int, logprob: float | None, forced: bool, step: int) -> None:
        """A token is committed by `step`; by none yet, if that is not after the step in which the call's turn came."""
        trace = self.trace
        trace.texts.append(self._text.push(self._tokenizer.token_bytes[token]))
        trace.token_ids.append(token)
        trace.logprobs.append(logprob)
        trace.forced.append(forced)
        trace.steps.append(step if step > self._born else 0)

    def restart(self) -> None:
        """The text so far was dropped; another one begins."""
        trace, self._text = self.trace, Detokenizer()
        trace.texts, trace.token_ids, trace.logprobs, trace.forced, trace.steps = [], [], [], [], []

    def finish(self, text: str, began: float | None, ended: float) -> CallTrace:
        """`text` is the result's."""
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


def _tokens_from(branch: Branch, depth: int) -> list[int]:
    """The branch's tokens from `depth` on, without walking all of its path."""
    if depth >= branch.base:
        return branch.tail[depth - branch.base :]
    parts = [branch.tail]
    for node in branch.node.path():
        parts.append(node.tokens[max(0, depth - node.start) :])
        if node.start <= depth:
            break
    return [token for part in reversed(parts) for token in part]


def _fitted(pieces: list[str], text: str) -> list[str]:
    """`pieces` cut so that they spell `text`: at their end (a stop), or at their beginning (a select whose choices'
    first token has the end of the prompt in it); an unfinished character at the end is shown as the text shows it."""
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
