"""Compiling in a child process that can be killed.

Owns: the child's life, the deadline and the memory limit; a hang or a crash becomes an error. Knows nothing of
grammars: a task is a function of one of the engines' modules.

1. Native code is interrupted by no signal, may take minutes and gigabytes, and has been seen to crash: hence a process.
2. The child gets this process's module path and nothing of its `__main__`, so scripts need no guard.
3. It serves one task at a time, and dies with this process.
4. Messages are pickles behind their length. What native code prints goes to a file; an error quotes its last lines.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from typing import IO, Any, BinaryIO

from .....lang.errors import BackendError, ConstraintError
from ..vocabulary import TokenTable
from .artefact_cache import ArtefactCache, key_of

Build = Callable[[str, str], bytes]
"""(task, source) -> the compiled artefact: `GrammarWorker.run`, or that behind a cache (`cached`)."""

DEADLINE_SECONDS, START_SECONDS = 30.0, 120.0
"""For one task, and for the child's start, which may be slow on a busy machine."""
MEMORY_BYTES = 4 << 30
"""Address space that compiling one grammar may take."""
_WATCH_SECONDS = 1.0
_LENGTH = struct.Struct("<Q")


class GrammarWorker:
    """A process that compiles for one vocabulary. Thread-safe: tasks wait for each other."""

    def __init__(self, table: TokenTable, *, memory: int = MEMORY_BYTES) -> None:
        self._table, self._memory = TokenTable(table.bytes, table.eos_ids), memory
        self._lock = threading.Lock()
        self._child: GrammarProcess | None = None

    def run(self, task: str, source: str, deadline_s: float = DEADLINE_SECONDS) -> bytes:
        """Run `task` (".module:function" beside this module, "module:function" elsewhere) on `source`.

        Raises `ConstraintError`: the task's own, or that it crashed or took more than `deadline_s` or its memory. The
        time to start a child is not counted.
        """
        with self._lock:
            child = self._alive()
            try:
                reply = child.ask((task, source), deadline_s)
            except BaseException:  # Ctrl-C too: an answer may still be under way
                self._child = None
                child.kill()
                raise
        kind, value = reply
        if kind == "done":
            assert isinstance(value, bytes)
            return value
        if kind == "refused":
            raise ConstraintError(value)
        if kind == "memory":
            raise ConstraintError(f"the grammar is refused: compiling it takes more than {self._memory >> 20:,} MiB")
        raise BackendError(f"the grammar worker failed: {value}")

    def close(self) -> None:
        """End the child; the next task starts another."""
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                child.kill()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        child = self._child
        return child.process.pid if child is not None else None

    def _alive(self) -> GrammarProcess:
        child = self._child
        if child is None or child.owner != os.getpid() or child.process.poll() is not None:
            if child is not None and child.owner == os.getpid():
                child.kill()
            self._child = None
            child = GrammarProcess(self._table, self._memory)
            self._child = child
        return child


class GrammarProcess:
    """One process, from its start to its end."""

    def __init__(self, table: TokenTable, memory: int) -> None:
        self.owner = os.getpid()
        # Opened for appending: emptied before each task, and still written at its end.
        self.printed: IO[bytes] = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115
        code = (
            "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
            f"from importlib import import_module; import_module({__name__!r}).serve(int(sys.argv[2]))"
        )
        path = json.dumps([os.path.abspath(p) for p in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, path, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.printed,
            start_new_session=True,  # Ctrl-C is this process's business
        )
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        assert self.process.stdout is not None
        reader = threading.Thread(
            target=_read_replies, args=(self.process.stdout, self._replies), name="sgl-grammar-replies", daemon=True
        )
        reader.start()
        self._end = weakref.finalize(self, _end, self.process, self.printed, reader)
        try:
            self._expect(START_SECONDS, "start")
            self._send((table.bytes, table.eos_ids))
        except BaseException:
            self.kill()
            raise

    def ask(self, request: object, deadline_s: float) -> Any:
        with contextlib.suppress(OSError):
            self.printed.truncate(0)
        self._send(request)
        return self._expect(deadline_s, "task")

    def kill(self) -> None:
        self._end()

    def _send(self, message: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it died: `_expect` says so
            _write(self.process.stdin, message)

    def _expect(self, timeout: float, what: str) -> Any:
        try:
            reply = self._replies.get(timeout=timeout)
        except queue.Empty:
            if what == "start":
                raise BackendError(f"the grammar worker did not start in {timeout:g} s{self._last_words()}") from None
            raise ConstraintError(
                f"the grammar is refused: compiling it takes more than {timeout:g} s; simplify it (smaller counts, "
                "fewer alternatives), or leave the choice of the engine to sgl"
            ) from None
        if reply is not None:
            return reply
        code = self.process.wait()
        if what == "start":
            raise BackendError(f"the grammar worker did not start (exit status {code}){self._last_words()}")
        raise ConstraintError(f"the grammar crashed the compiler (exit status {code}): refused{self._last_words()}")

    def _last_words(self) -> str:
        """Quote what the child printed last."""
        try:
            size = self.printed.seek(0, os.SEEK_END)
            self.printed.seek(max(0, size - 2000))
            lines = self.printed.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f". It said: {' / '.join(lines[-3:])[-600:]}" if lines else ""


def _end(process: subprocess.Popen[bytes], printed: IO[bytes], reader: threading.Thread) -> None:
    process.kill()
    process.wait()
    reader.join(5)  # it sees the end of the pipe
    for stream in (process.stdin, process.stdout, printed):
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()


def _read_replies(stream: IO[bytes], replies: queue.SimpleQueue[Any]) -> None:
    """Read until the pipe ends, for which None stands."""
    try:
        while (message := _receive(stream)) is not None:
            replies.put(message)
    except (OSError, ValueError, pickle.UnpicklingError, EOFError):
        pass
    replies.put(None)


def _write(stream: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    return pickle.loads(data) if len(data) == length else None


def cached(
    worker: GrammarWorker, cache: ArtefactCache, vocabulary: TokenTable, deadline_s: float = DEADLINE_SECONDS
) -> Build:
    """Look artefacts up in `cache`, and let `worker` make the missing ones."""

    def build(task: str, source: str) -> bytes:
        module = importlib.import_module(task.partition(":")[0], __package__)
        key = key_of(module.version(), vocabulary.digest, task, source)
        return cache.get(key, lambda: worker.run(task, source, deadline_s))

    return build


# -- in the child


def serve(memory: int) -> None:
    """Answer requests until the pipe ends or the parent is gone."""
    requests: BinaryIO = os.fdopen(os.dup(0), "rb")
    answers: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer
    _follow_parent()
    _write(answers, ("ready", b""))
    setup = _receive(requests)
    if setup is None:
        return
    table = TokenTable(*setup)
    kept: dict[str, Any] = {}
    while (request := _receive(requests)) is not None:
        _write(answers, _do(request[0], table, kept, request[1], memory))


def perform(task: str, table: TokenTable, kept: dict[str, Any], source: str) -> bytes:
    """Do a task in this process. `kept`: where tasks keep what they make once."""
    module, _, function = task.partition(":")
    made: bytes = getattr(importlib.import_module(module, __package__), function)(table, kept, source)
    return made


def _do(task: str, table: TokenTable, kept: dict[str, Any], source: str, memory: int) -> tuple[str, object]:
    try:
        _limit(memory)
        return "done", perform(task, table, kept, source)
    except ConstraintError as error:
        return "refused", str(error)
    except (MemoryError, RecursionError) as error:
        kept.clear()
        return ("memory", "") if isinstance(error, MemoryError) else ("refused", "the grammar is nested too deeply")
    except Exception as error:
        if "bad_alloc" in str(error):
            return "memory", ""
        return "failed", f"{type(error).__name__}: {error}"


def _limit(memory: int) -> None:
    """Allow at most `memory` more bytes of address space than now, where the system can do so."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _follow_parent() -> None:
    """End this process when its parent is gone, even while native code runs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
