"""The rows of a batch: read one at a time, and checked against the program's parameters.

Knows nothing of running them. A list is checked as a whole before anything runs, unless errors are kept. Any other
iterable may be endless: it is read row by row, as there is room, and never kept. Thread-safe: one reader at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from ...backend.contain import is_interruption
from ...lang.errors import OptionError
from ..arguments import Arguments, Declared
from ..source import note


@dataclass(frozen=True, slots=True)
class Row:
    """One set of arguments for a program, or the error that takes its place."""

    index: int
    call: Arguments | None
    error: BaseException | None = None


class Rows:
    """`total` is None where the number of rows is not known. With `keep`, a wrong row is a row too, with its error."""

    def __init__(self, declared: Declared, rows: Any, bound: Mapping[str, Any], keep: bool, is_async: bool) -> None:
        self._declared, self._bound = declared, bound
        self._where = f"{declared.name}.{'arun_batch' if is_async else 'run_batch'}"
        if isinstance(rows, (str, bytes, Mapping)) or not (hasattr(rows, "__iter__") or hasattr(rows, "__aiter__")):
            raise OptionError(f"{self._where}: the batch must be a list of rows, got {rows!r:.60}")
        self.is_async = not hasattr(rows, "__iter__")
        if self.is_async and not is_async:
            raise OptionError(
                f"{self._where}: the rows are an async iterable; use `await {declared.name}.arun_batch(...)`"
            )
        self.total = len(rows) if isinstance(rows, Sized) else None
        self.count = 0  # rows read
        self._over = False
        self._lock = threading.Lock()
        self._given: Iterator[Any] | None = None
        self._awaited: AsyncIterator[Any] | None = None
        if self.is_async:
            self._awaited = rows.__aiter__()
        elif isinstance(rows, (list, tuple)) and not keep:
            self._given = iter([self._call(i, row) for i, row in enumerate(rows)])
        else:
            self._given = iter(rows)

    def next(self) -> Row | None:
        """The next row; None when there are no more. Raises an interruption at most."""
        with self._lock:
            if self._over:
                return None
            assert self._given is not None
            try:
                row = next(self._given)
            except StopIteration:
                self._over = True
                return None
            except BaseException as error:
                if is_interruption(error):
                    raise
                return self._broken(error)
            return self._row(row)

    async def anext(self) -> Row | None:
        """`next` for a coroutine, one at a time: rows of an async iterable are awaited."""
        if self._awaited is None:
            return self.next()
        if self._over:
            return None
        try:
            row = await self._awaited.__anext__()
        except StopAsyncIteration:
            self._over = True
            return None
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if is_interruption(error):
                raise
            return self._broken(error)
        return self._row(row)

    def _row(self, row: Any) -> Row:
        i, self.count = self.count, self.count + 1
        if isinstance(row, Arguments):
            return Row(i, row)
        try:
            return Row(i, self._call(i, row))
        except BaseException as error:  # of the row's own mapping or values, too
            if is_interruption(error):
                raise
            return Row(i, None, error)

    def _broken(self, error: BaseException) -> Row:
        """End the rows: the error of the iterable takes the place of the row that it did not give."""
        self._over = True
        note(error, f"raised by the rows of {self._where} after {self.count} rows")
        return Row(self.count, None, error)

    def _call(self, i: int, row: Any) -> Arguments:
        where = f"{self._declared.name}.run_batch: row {i}"
        if isinstance(row, Mapping):
            self._declared.check_names(where, row)
            return self._declared.bind((), row, self._bound, where)
        if isinstance(row, (list, tuple)):
            return self._declared.bind(row, {}, self._bound, where)
        raise OptionError(f"{where} must be a dict of arguments (or a tuple, by position), got {row!r:.60}")
