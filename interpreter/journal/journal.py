"""The journal of a batch (`resume="file.jsonl"`): a file of finished rows, from which an interrupted batch continues.

Knows nothing of what a row's line says (`finished.py`). The first line names the program; each other line is a row:

    {"sgl_journal": 1, "program": "qa"}
    {"crc": "0b1c2d3e", "i": 7, "ok": true, "key": "<fingerprint of its arguments>", "text": ..., ...}

1. A row's line is written with one `write` when the row finishes, and reaches the disk at `close`.
2. A last line that is not whole (its process was killed) is cut off by the next `open`, and its row runs again.
3. One process at a time writes. After a failed write the file ends with a whole line, and nothing more is written.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
import time
import weakref
import zlib
from array import array
from contextlib import suppress
from types import TracebackType
from typing import Any

from ...backend.contain import said
from ...lang.errors import JournalError, OptionError
from ..arguments import Arguments
from ..run import Instance
from . import file_lock
from .fingerprint import fingerprint
from .finished import Finished

_HEAD = b'{"sgl_journal": '
_MOST_HEAD_BYTES = 1 << 16
_ROW = re.compile(
    rb'\{"crc": "([0-9a-f]{8})", ("i": ([0-9]{1,18}), "ok": (true|false), "key": "([0-9a-f]{32})", .*\}\n)'
)
_PAGE_ROWS = 256


class Journal:
    """An open journal, made by `Journal.open` and to be closed. Thread-safe.

    `crc` is the checksum of a line from `"i"` on, so opening finds damage without parsing, a million lines in seconds.
    Of each row only its place and a part of its key are in memory: 16 bytes.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._file = os.path.abspath(path)  # a program may change the working directory
        self._fd = fd
        self._end = 0  # bytes that are whole lines
        self._rows = _Places()
        self._began: dict[int, tuple[str, float]] = {}  # rows that run: fingerprint and time of start
        self._broken = self._closed = False
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close, fd, os.getpid())

    @staticmethod
    def open(path: str | os.PathLike[str], program: str) -> Journal:
        """Open the journal at `path`, or make one.

        Raises `OptionError` for a file that is no journal of this program, is damaged or in use, or cannot be read and
        written.
        """
        name = _checked_path(path)
        try:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise OptionError(_unusable(name, error)) from None
        journal = Journal(name, fd)
        try:
            file_lock.take(fd, name)
            journal._load(program)
        except OSError as error:
            journal._finalizer()
            raise OptionError(_unusable(name, error)) from None
        except BaseException:
            journal._finalizer()
            raise
        return journal

    # -- what is there
    def _load(self, program: str) -> None:
        with open(self._file, "rb") as file:
            head = file.readline(_MOST_HEAD_BYTES)
            if head.endswith(b"\n"):
                self._check_head(head, program)
                self._end = len(head)
                for number, line in enumerate(file, 2):
                    if not self._index(line) and not self._is_torn(line, file.readline(_MOST_HEAD_BYTES)):
                        raise OptionError(
                            f"resume: line {number} of {self.path!r} is damaged (did two programs write to it, or was "
                            "it edited?): remove that line, and its row runs again"
                        )
            elif len(head) == _MOST_HEAD_BYTES or not (head.startswith(_HEAD) or _HEAD.startswith(head)):
                raise self._no_journal()
        if os.fstat(self._fd).st_size != self._end:
            os.ftruncate(self._fd, self._end)
        if self._end == 0:
            self._append(json.dumps({"sgl_journal": 1, "program": program}).encode() + b"\n")

    def _is_torn(self, line: bytes, following: bytes) -> bool:
        """Whether a line that is not whole is the end of the file; a whole row may lack only its newline."""
        if following:
            return False
        if not line.endswith(b"\n") and self._index(line + b"\n"):
            self._end -= 1
            self._append(b"\n")
        return True

    def _check_head(self, head: bytes, program: str) -> None:
        try:
            said = json.loads(head)
            version, of = said["sgl_journal"], said["program"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._no_journal() from None
        if version != 1:
            raise OptionError(
                f"resume: {self.path!r} is a journal of version {version!r:.20}, which this version of sgl cannot "
                "read; give another path"
            )
        if of != program:
            raise OptionError(
                f"resume: {self.path!r} is the journal of the program {of!r:.60}, not of {program!r}; give this "
                "program a path of its own"
            )

    def _no_journal(self) -> OptionError:
        return OptionError(
            f"resume: {self.path!r} is not a journal of a batch, and is left as it is; give the path of a journal, or "
            "one where there is no file yet"
        )

    def _index(self, line: bytes) -> bool:
        """Note the place of a line's row. False if the line is not whole."""
        found = _ROW.fullmatch(line)
        if found is None or int(found[1], 16) != zlib.crc32(found[2]):
            return False
        if found[4] == b"true":
            self._rows.put(int(found[3]), self._end, int(found[5][:16], 16))
        self._end += len(line)
        return True

    def __contains__(self, i: object) -> bool:
        """Whether there is a successful row `i`, with any arguments."""
        return isinstance(i, int) and self._rows.get(i) is not None

    def restored(self, i: int, call: Arguments) -> Finished | None:
        """Row `i`, if it is there with these arguments and did not fail.

        If not, the row is taken to start now: its line will have the fingerprint of these arguments, whatever the
        program does to them. Raises `OptionError` for arguments that cannot be recognised (`fingerprint.py`).
        """
        key = fingerprint(call, f"resume: row {i}")
        with self._lock:
            place = self._rows.get(i)
            if place is not None and not self._closed and place[1] == int(key[:16], 16):
                found = self._read(i, place[0], key)
                if found is not None:
                    return found
            if not self._broken:
                self._began[i] = key, time.monotonic()
        return None

    def _read(self, i: int, offset: int, key: str) -> Finished | None:
        """Read the row of a line. None if the file was changed meanwhile: the row runs again.

        Raises `JournalError` for a whole line that is no row.
        """
        try:
            with open(self._file, "rb") as file:
                file.seek(offset)
                line = file.readline()
        except OSError:
            return None
        found = _ROW.fullmatch(line)
        if found is None or int(found[1], 16) != zlib.crc32(found[2]):
            return None
        try:
            data = json.loads(line)
            return Finished.from_json(i, data) if (data["i"], data["key"]) == (i, key) else None
        except Exception as error:
            raise JournalError(
                f"resume: the line at byte {offset} of {self.path!r} (row {i}) has a right checksum, but is no row of "
                f"a batch ({said(error)}); delete the line, and the row runs again"
            ) from error

    # -- what is added
    def note(self, i: int, instance: Instance, error: BaseException | None) -> None:
        """Add row `i`, whose program has finished (`error`: the row's). Raises `JournalError` as `write` does."""
        if not self._broken:
            _, began = self._began.get(i, ("", time.monotonic()))
            self.write(instance.call, Finished.of(i, instance, error, time.monotonic() - began))

    def write(self, call: Arguments, row: Finished) -> None:
        """Add a finished row. The first write that fails raises `JournalError`; after it nothing is written."""
        began = self._began.pop(row.index, None)
        if self._broken or self._closed:
            return
        key = began[0] if began is not None else fingerprint(call, f"resume: row {row.index}")
        said = {"i": row.index, "ok": row.error is None, "key": key, **row.to_json(call)}
        content = json.dumps(said, ensure_ascii=False, allow_nan=False).encode()[1:] + b"\n"
        line = b'{"crc": "%08x", %s' % (zlib.crc32(content), content)
        with self._lock:
            if self._broken or self._closed:
                return
            at = self._end
            try:
                self._append(line)
            except OSError as error:
                self._broken = True
                self._began.clear()
                raise self._failed(f"row {row.index}", error) from error
            if row.error is None:
                self._rows.put(row.index, at, int(key[:16], 16))

    def _append(self, line: bytes) -> None:
        """Add a line, or leave the file as it was."""
        try:
            os.lseek(self._fd, self._end, os.SEEK_SET)
            left = memoryview(line)
            while left:
                left = left[self._write_some(left) :]
        except OSError:
            with suppress(OSError):  # else it is a torn last line, which the next `open` cuts off
                os.ftruncate(self._fd, self._end)
            raise
        self._end += len(line)

    def _write_some(self, content: memoryview) -> int:
        return os.write(self._fd, content)

    def _failed(self, what: str, error: OSError) -> JournalError:
        return JournalError(
            f"resume: {what} could not be written to {self.path!r}: {error.strerror or error}. No more rows are noted "
            "there; make room (or mend the disk) and run the batch again with the same resume=: the rows that it lacks "
            "run again"
        )

    def close(self) -> None:
        """Bring the file to the disk and release it. Raises `JournalError` if that fails. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if not self._broken:
                    os.fsync(self._fd)
            except OSError as error:
                raise self._failed("the end of the journal", error) from error
            finally:
                self._finalizer()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Places:
    """For each row the offset of its line and the first 64 bits of its key, in pages of rows."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def put(self, i: int, offset: int, key: int) -> None:
        page = self._pages.get(i // _PAGE_ROWS)
        if page is None:
            page = self._pages[i // _PAGE_ROWS] = array("Q", bytes(16 * _PAGE_ROWS))
        at = 2 * (i % _PAGE_ROWS)
        page[at], page[at + 1] = offset, key

    def get(self, i: int) -> tuple[int, int] | None:
        page = self._pages.get(i // _PAGE_ROWS)
        if page is None:
            return None
        at = 2 * (i % _PAGE_ROWS)
        return (page[at], page[at + 1]) if page[at] else None  # no row begins where the file does


def _close(fd: int, opener: int) -> None:
    if os.getpid() == opener:  # not in a process that was forked from it
        file_lock.release(fd)
    os.close(fd)


def _checked_path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(name := os.fspath(path), str) or "\0" in name:
        raise OptionError(f"resume must be the path of a file, got {path!r:.60}")
    if not name:
        raise OptionError('resume is an empty path; give the path of a file, such as resume="rows.jsonl"')
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return name
    except OSError as error:
        raise OptionError(_unusable(name, error)) from None
    if stat.S_ISDIR(mode):
        raise OptionError(f"resume: {name!r} is a directory; give the path of a file in it")
    if not stat.S_ISREG(mode):
        raise OptionError(f"resume: {name!r} is not an ordinary file, and a journal is read again; give another path")
    return name


def _unusable(name: str, error: OSError) -> str:
    folder = os.path.dirname(os.path.abspath(name))
    if not os.path.isdir(folder):
        return f"resume: there is no directory {folder!r} for {name!r}; make it first"
    return (
        f"resume: {name!r} cannot be read and written: {error.strerror or error}; give it permissions and room, or "
        "give another path"
    )
