"""Reading text while it is being written: `text_iter` and `text_async_iter`.

Owns: the walk over growing segments. A reader starts at the beginning whenever it comes, early, late or second, and
sees every character once. It never holds up the program, and never polls: it waits for the handle it stands at (which
drives the backend) or, where the program has not said the next thing yet, for the program's pulse.

`Reader.next()` never blocks: it gives a piece of text, or what to wait for, or the end. The loops for threads and for
event loops around it differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..backend.base import Backend, Handle
from .body import Body
from .transcript import Segment


@dataclass(frozen=True, slots=True)
class AtHandle:
    """Wait until the handle has more than `seen` characters, or is done."""

    handle: Handle[Any]
    seen: int


@dataclass(frozen=True, slots=True)
class AtPulse:
    """Wait until the program is at another version."""

    version: int


class Reader:
    """One walk. `source()` gives the segments there are now, and whether they are all."""

    __slots__ = ("_body", "_index", "_seen", "_source")

    def __init__(self, body: Body, source: Callable[[], tuple[Sequence[Segment], bool]]) -> None:
        self._body, self._source = body, source
        self._index = 0  # the segment we stand at
        self._seen = 0  # characters of it already given

    def next(self) -> str | AtHandle | AtPulse | None:
        """A piece of text, or what to wait for, or None at the end. Raises the error of a failed segment."""
        while True:
            version = self._body.pulse.version  # before looking: a change after this ends the wait
            segments, complete = self._source()
            if self._index >= len(segments):
                return None if complete else AtPulse(version)
            segment = segments[self._index]
            done, text = segment.done, segment.text  # in this order: done means that text is final
            if len(text) > self._seen:
                piece, self._seen = text[self._seen :], len(text)
                return piece
            if not done:
                assert segment.handle is not None
                return AtHandle(segment.handle, self._seen)
            segment.check()
            self._index, self._seen = self._index + 1, 0


def pieces(reader: Reader, backend: Backend, body: Body) -> Iterator[str]:
    while (found := reader.next()) is not None:
        if isinstance(found, str):
            yield found
        elif isinstance(found, AtHandle):
            backend.wait(found.handle, found.seen)
        else:
            body.wait(found.version)


async def pieces_async(reader: Reader, backend: Backend, body: Body) -> AsyncIterator[str]:
    while (found := reader.next()) is not None:
        if isinstance(found, str):
            yield found
        elif isinstance(found, AtHandle):
            await backend.wait_async(found.handle, found.seen)
        else:
            await body.wait_async(found.version)
