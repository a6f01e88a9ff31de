"""`sgl.trace()`: records the programs of a `with` block, in memory, in a file, or as a page.

Knows nothing of what a trace's data is (`data.py`) or how it looks (`page.py`).

1. A block that ends without an error finishes the calls of programs whose bodies have ended, as reading their values
   would. (Generation is lazy: a program that was only started would be traced without a token.)
2. The end of a block never waits for a body. On an event loop only `async with` waits.
3. After the block, later calls of a program that still runs are recorded; new programs are not.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import secrets
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ...backend.base import Backend, Handle
from ...backend.waiting import AtHandle, Flow, block_on, suspend_on
from ...lang.errors import OptionError
from ..record import BranchRecord, CallRecord, ProgramRecord, Recorder, current
from ..source import note
from .data import TraceFrame, program_data, trace_data
from .page import page, write_page


class Trace(Recorder):
    """A recording of the programs that started in one block; what `sgl.trace()` gives.

    Use a trace once, with `with` or `async with`. Traces may be nested: each hears all that is started in its block.
    `programs` are the records in the order of their start. `to_dict()` is what the file holds.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise OptionError(f"sgl.trace: the path must be a file name, got {path!r:.60}")
        self.path = None if path is None else Path(path)
        self._used = False

    # -- the block
    def __enter__(self) -> Trace:
        if self._used:
            raise OptionError("a trace records one block, and this one was used already: use a new sgl.trace()")
        if self.path is not None and not self.path.absolute().parent.is_dir():
            raise _unwritable(self.path, f"there is no folder {str(self.path.absolute().parent)!r}")
        self._used = True
        self.began, self.wall = time.monotonic(), time.time()
        current.set((*current.get(), self))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        block_on(self._end_block(error, may_wait=asyncio._get_running_loop() is None))

    async def __aenter__(self) -> Trace:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        await suspend_on(self._end_block(error, may_wait=True))

    def _end_block(self, error: BaseException | None, may_wait: bool) -> Flow[None]:
        self.listening = False  # also where the context of the block was copied to
        current.set(tuple(recorder for recorder in current.get() if recorder is not self))
        try:
            if error is None and may_wait:
                for backend, handle in self._open_calls():
                    yield AtHandle(backend, handle)
        finally:
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if any(record.ended is None for record in self.programs) or next(self._open_calls(), None) is not None:
            weakref.finalize(self, _end_all, self._watched).atexit = False  # steps of programs that still run count
        else:
            self.stop()
        if self.path is None:
            return
        try:
            self.save(self.path)
        except Exception as failed:
            if error is None:
                raise
            note(error, f"and the trace was not written: {failed}")

    def _open_calls(self) -> Iterator[tuple[Backend, Handle[Any]]]:
        """Yield the calls that still run, of programs whose bodies have ended."""
        for record in list(self.programs):
            if record.ended is not None:
                for call in calls_of(record):
                    if not call.handle.done:
                        yield record.backend, call.handle

    # -- what it holds
    def to_dict(self) -> dict[str, Any]:
        """Give the trace as JSON data, as it is now: calls that still run are shown as far as they are.

        Returns:
            A new dict, as the file holds it (version 1 of the format). Waits for nothing.

        Example:
            >>> import sgl
            >>> with sgl.trace() as traced:
            ...     state = sgl.function(lambda s: s.user("Why?")).run(backend=sgl.Runtime.toy())
            >>> len(traced.to_dict()["programs"])
            1
        """
        return trace_data(list(self.programs), dict(self.steps), self.began, self.wall)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` to a JSON file, whole or not at all.

        Args:
            path: The file to write or replace.

        Raises:
            OptionError: The file cannot be written.

        Example:
            >>> import sgl
            >>> with sgl.trace() as traced:
            ...     state = sgl.function(lambda s: s.user("Why?")).run(backend=sgl.Runtime.toy())
            >>> traced.save("/no-such-folder/run.json")
            Traceback (most recent call last):
            sgl.lang.errors.OptionError: cannot write the trace ...
        """
        text = json.dumps(self.to_dict(), separators=(",", ":"))
        target = Path(path)
        try:
            _write(target, text)
        except OSError as error:
            raise _unwritable(target, error.strerror or str(error)) from error

    def html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Draw the trace as one HTML page that needs no network.

        Args:
            path: The file to write the page to (default None: no file).

        Returns:
            The page.

        Raises:
            OptionError: The file cannot be written.

        Example:
            >>> import sgl
            >>> with sgl.trace() as traced:
            ...     state = sgl.function(lambda s: s.user("Why?")).run(backend=sgl.Runtime.toy())
            >>> traced.html().startswith("<!DOCTYPE html>")
            True
        """
        data = self.to_dict()
        if path is not None:
            write_page(data, path)
        return page(data)

    def __repr__(self) -> str:
        calls = [call for record in list(self.programs) for call in calls_of(record)]
        failed = sum(1 for call in calls if call.handle.error is not None)
        running = sum(1 for record in self.programs if record.ended is None)
        counts = [f"{len(self.programs)} programs", f"{len(calls)} calls"]
        counts += [f"{failed} failed"] if failed else []
        counts += [f"{running} programs running"] if running else []
        return f"<sgl trace: {', '.join(counts)}>"

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame of its own."""
        return f'<iframe srcdoc="{html.escape(self.html())}" style="width:100%;height:640px;border:0"></iframe>'


def trace(path: str | os.PathLike[str] | None = None) -> Trace:
    """Record every program that is started in a `with` (or `async with`) block.

    Recorded are branches and calls, each token with its probability and where it came from, times and steps. At the end
    of the block the calls of programs whose bodies have ended are finished. A trace hears of programs that start in the
    block's own context: its thread, the tasks it makes, `asyncio.to_thread` and the threads of sgl. A
    `threading.Thread` of your own needs `contextvars.copy_context().run`.

    Args:
        path: The JSON file to write at the end of the block, also if the block raises (default None: no file).

    Returns:
        The trace, for `with`. `t.html("run.html")` writes it as a page, `sgl.replay(t)` runs it again.

    Raises:
        OptionError: The file cannot be written.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def greet(s, name):
        ...     s += f"Hello {name}:" + sgl.gen("greeting", max_tokens=4)
        >>> with sgl.Runtime.toy() as runtime, sgl.trace() as traced:
        ...     state = greet.run("Ada", backend=runtime)
        >>> traced
        <sgl trace: 1 programs, 1 calls>
        >>> len(traced.to_dict()["programs"][0]["branches"][0]["calls"][0]["samples"][0]["tokens"])
        4
    """
    return Trace(path)


def program_trace(record: ProgramRecord | None) -> dict[str, Any]:
    """Give the part of a trace that is about one program (`state.trace`). Its times count from its own start."""
    if record is None or not record.tokens:
        raise OptionError("this program was not traced: run it inside `with sgl.trace() as t:`")
    return program_data(record, TraceFrame(record.began, [record], {}))


def calls_of(record: ProgramRecord) -> Iterator[CallRecord]:
    """Yield every call of a program, branch by branch."""
    todo = [record.root]
    while todo:
        for event in list(todo.pop().events):
            if isinstance(event, CallRecord):
                yield event
            elif isinstance(event, BranchRecord):
                todo.append(event)


def _end_all(watched: dict[int, Any]) -> None:
    for end in watched.values():
        end()


def _unwritable(path: Path, why: str) -> OptionError:
    return OptionError(f"cannot write the trace {str(path)!r}: {why}; give sgl.trace() a path that can be written")


def _write(path: Path, text: str) -> None:
    """Replace the file `path` as a whole. A device or a pipe is written to directly."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    place = path.resolve()  # the file that a link points to
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with open(beside, "x", encoding="utf-8") as file:
            file.write(text)
        if place.exists():
            beside.chmod(place.stat().st_mode & 0o777)
        os.replace(beside, place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
