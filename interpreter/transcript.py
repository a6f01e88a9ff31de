"""The text of one line: segments of constant text and of text that the model wrote, in order.

Knows nothing of tokens, roles or variables.

1. A list of segments only grows at its end. A constant never changes.
2. The text of a written segment only grows, and is final once its handle is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend.base import GenResult, Handle, ScoreResult


class Segment:
    """A constant, or (with a handle) text that the model writes or picks. `where` names op and line for messages."""

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
        """The text so far: a prefix of the final text."""
        if self.handle is None:
            return self._text
        if self.handle.done and self.handle.error is None:
            return final_text(self.handle.result)
        return self.handle.text

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The final text in pieces, each with whether it is a control token."""
        result = None if self.handle is None else self.handle.result
        found = result[0].pieces if isinstance(result, list) else None
        return [(self.text, False)] if found is None else found


def final_text(result: object) -> str:
    """The text of a finished op in the transcript: the first sample of a gen, the winner of a select."""
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
