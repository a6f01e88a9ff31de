"""Reading text while it is being written: the walk over the growing segments of a transcript or of one variable.

Knows nothing of threads or event loops. A walk starts at the beginning whenever it comes and sees every character once.
It never holds up the program and never polls. It waits for the handle that it stands at, which drives the backend. If
the program has not said the next thing yet, it waits for news of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..backend.base import Backend
from ..backend.waiting import AtHandle, StreamFlow, through
from .body import AtNews, Body
from .transcript import Segment


def growing(body: Body, backend: Backend, source: Callable[[], tuple[Sequence[Segment], bool]]) -> StreamFlow[str]:
    """Pieces of text, until the end. Raises the error of a failed segment.

    `source()` gives the segments there are now, and whether there will be no more of them.
    """
    index = seen = 0  # the segment the walk stands at, and how many of its characters were given
    while True:
        news = body.pulse.news  # before looking: a change after this ends the wait
        segments, complete = source()
        if index >= len(segments):
            if complete:
                return
            yield AtNews(body, news)
            continue
        segment = segments[index]
        done, text = segment.done, segment.text  # in this order: done means that the text is final
        if len(text) > seen:
            piece, seen = text[seen:], len(text)
            yield piece
        elif not done:
            assert segment.handle is not None
            yield AtHandle(backend, segment.handle, seen)
        else:
            through(segment.check)
            index, seen = index + 1, 0
