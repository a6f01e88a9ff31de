"""The text of one branch: constants and what the model wrote, in order.

Owns: segments. Knows nothing of tokens (text is never re-derived from them), roles or variables.

Invariants: a list of segments only grows at its end; a constant never changes; the text of a written segment only
grows, and is final once its handle is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend.base import GenResult, Handle, ScoreResult


class Segment:
    """A constant, or (with a handle) text the model writes or picks. `where` names op and line for messages."""

    __slots__ = ("_text", "handle", "markup", "where")

    def __init__(
        self, text: str = "", *, markup: bool = False, handle: Handle[Any] | None = None, where: str = ""
    ) -> None:
        self._text = text
        self.markup = markup
        self.handle = handle
        self.where = where

    @property
    def done(self) -> bool:
        return self.handle is None or self.handle.done

    @property
    def error(self) -> BaseException | None:
        return None if self.handle is None else self.handle.error

    def check(self) -> None:
        """Raise the error of a finished segment that failed, as it was."""
        if self.handle is not None and self.handle.error is not None:
            self.handle.value()

    @property
    def text(self) -> str:
        """The text there is now: a prefix of the final text."""
        if self.handle is None:
            return self._text
        if self.handle.done and self.handle.error is None:
            return final_text(self.handle.result)
        return self.handle.text


def final_text(result: object) -> str:
    """What a finished op left in the transcript: the first sample of a gen, the winner of a select."""
    if isinstance(result, ScoreResult):
        return result.text
    assert isinstance(result, list) and isinstance(result[0], GenResult), result
    return result[0].text


def joined(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def pending(segments: Sequence[Segment]) -> list[Handle[Any]]:
    """The handles to wait on before `joined` is final."""
    return [s.handle for s in segments if s.handle is not None and not s.handle.done]


def first_failure(segments: Sequence[Segment], error: BaseException) -> Segment | None:
    """The op that failed: later ops of its branch carry the same exception."""
    return next((s for s in segments if s.error is error), None)
