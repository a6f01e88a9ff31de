"""`sgl.trace()`: the programs of a `with` block as a tree of calls and tokens, in memory, in a file, or as a page.

Owns: the block (what is heard, when recording ends, what happens at its end) and the file. What a trace holds is
`trace_data.py`'s, how it looks `page.py`'s.

A block that ends without an error finishes the calls of programs whose bodies have ended, as reading their values would
(generation is lazy: a program that was only started would be traced without a token). It never waits for a body, and on
an event loop only `async with` waits. Later calls of a program that is still running are noted; new programs are not.
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
from ...lang.errors import OptionError
from ..record import BranchRecord, CallRecord, ProgramRecord, Recorder, current
from ..source import note
from .data import TraceFrame, program_data, trace_data
from .page import page, write_page


class Trace(Recorder):
    """`programs`: the records of the programs that started in the block, in that order; `to_dict()` is what the file
    holds. Usable once, as `with` or `async with`; traces may be nested, and each hears all that is started in it."""

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
        self._leave()
        try:
            if error is None and asyncio._get_running_loop() is None:
                for backend, handle in self._open_calls():
                    backend.wait(handle)
        finally:
            self._close(error)

    async def __aenter__(self) -> Trace:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        try:
            if error is None:
                for backend, handle in self._open_calls():
                    await backend.wait_async(handle)
        finally:
            self._close(error)

    def _leave(self) -> None:
        """Hear of no new programs, wherever the context of the block was copied to."""
        self.listening = False
        current.set(tuple(recorder for recorder in current.get() if recorder is not self))

    def _close(self, error: BaseException | None) -> None:
        if any(record.ended is None for record in self.programs) or next(self._open_calls(), None) is not None:
            weakref.finalize(self, _end_all, self._watched).atexit = False  # the steps of what still runs count
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
        """The calls that are not over, of programs whose bodies are."""
        for record in list(self.programs):
            if record.ended is not None:
                for call in calls_of(record):
                    if not call.handle.done:
                        yield record.backend, call.handle

    # -- what it holds
    def to_dict(self) -> dict[str, Any]:
        """The trace as JSON data, as it is now: what is not finished is shown as far as it is. Waits for nothing."""
        return trace_data(list(self.programs), dict(self.steps), self.began, self.wall)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as a JSON file, whole or not at all. `OptionError` if it cannot be written."""
        text = json.dumps(self.to_dict(), separators=(",", ":"))
        target = Path(path)
        try:
            _write(target, text)
        except OSError as error:
            raise _unwritable(target, error.strerror or str(error)) from error

    def html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The trace as one self-contained HTML page, which is also written to `path` if one is given."""
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
        """In a notebook: the page, in a frame of its own."""
        return f'<iframe srcdoc="{html.escape(self.html())}" style="width:100%;height:640px;border:0"></iframe>'


def trace(path: str | os.PathLike[str] | None = None) -> Trace:
    """`with sgl.trace("run.json") as t:` records every program that is started in the block: its branches and calls,
    each token with its probability and where it came from, times and steps.

    At the end of the block the calls of programs whose bodies have ended are finished, and the trace is written to
    `path` (if one is given; also if the block raises). `t.html("run.html")` writes it as a page, `sgl.replay(t)` runs
    it again. Programs are heard of if they start in the block's own context: its thread, the tasks it makes,
    `asyncio.to_thread` and the threads of sgl itself; a `threading.Thread` of your own needs
    `contextvars.copy_context().run`.

    Raises `OptionError` if the file cannot be written.
    """
    return Trace(path)


def program_trace(record: ProgramRecord | None) -> dict[str, Any]:
    """`state.trace`: the part of the trace that is about one program; its times count from its own start."""
    if record is None or not record.tokens:
        raise OptionError("this program was not traced: run it inside `with sgl.trace() as t:`")
    return program_data(record, TraceFrame(record.began, [record], {}))


def calls_of(record: ProgramRecord) -> Iterator[CallRecord]:
    """Every call of a program, branch by branch."""
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
    """Replace `path` as a whole; a device or a pipe is written to as it is."""
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
