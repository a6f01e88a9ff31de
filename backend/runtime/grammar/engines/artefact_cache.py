"""CompiledGrammar grammars that are made once: in memory, and on disk across runs.

Owns: the two levels and their bounds. Knows nothing of what an artefact is: bytes under a key.

Invariants: a key names everything that an artefact depends on; a file is whole and as it was written (its SHA-256
stands before it), or it counts as absent; whatever goes wrong with the disk, a compile does not fail of it; equal
artefacts that are asked for at the same time are made once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from ...model.load.store import cache_folder

ENTRIES = 256
MEMORY_BYTES = 128 << 20
DISK_BYTES = 256 << 20

log = logging.getLogger(__name__)


def key_of(*parts: str) -> str:
    """The key of an artefact: SHA-256 over engine and version, vocabulary, task and source."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


class ArtefactCache:
    """Artefacts by key. Thread-safe; processes may share a folder."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        disk: bool = True,
        entries: int = ENTRIES,
        memory_bytes: int = MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
    ) -> None:
        """`folder`: `grammars` in sgl's cache folder unless told. `disk` False: memory alone."""
        self._folder = (cache_folder() / "grammars" if folder is None else folder) if disk else None
        self._entries, self._memory_bytes, self._disk_bytes = entries, memory_bytes, disk_bytes
        self._lock = threading.Lock()
        self._making: dict[str, tuple[threading.Lock, list[int]]] = {}
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._held = 0

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The artefact of `key`: kept, read, or made now. What `make` raises is raised, and nothing is kept."""
        with self._lock:
            if (found := self._recall(key)) is not None:
                return found
            lock, waiting = self._making.setdefault(key, (threading.Lock(), [0]))
            waiting[0] += 1
        try:
            with lock:
                with self._lock:
                    found = self._recall(key)
                if found is None:
                    found = self._read(key)
                    if found is None:
                        found = make()
                        self._write(key, found)
                    with self._lock:
                        self._keep(key, found)
                return found
        finally:
            with self._lock:
                waiting[0] -= 1
                if not waiting[0]:
                    self._making.pop(key, None)

    # -- memory
    def _recall(self, key: str) -> bytes | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def _keep(self, key: str, artefact: bytes) -> None:
        if len(artefact) > self._memory_bytes or key in self._kept:
            return
        self._kept[key] = artefact
        self._held += len(artefact)
        while self._held > self._memory_bytes or len(self._kept) > self._entries:
            _, dropped = self._kept.popitem(last=False)
            self._held -= len(dropped)

    # -- disk
    def _read(self, key: str) -> bytes | None:
        if self._folder is None:
            return None
        path = self._folder / key
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the grammar cache %s cannot be read: %s", path, error)
            return None
        if data[:32] != hashlib.sha256(data[32:]).digest():
            log.warning("%s in the grammar cache is damaged: made anew", key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the oldest are removed first
        return data[32:]

    def _write(self, key: str, artefact: bytes) -> None:
        if self._folder is None or len(artefact) > self._disk_bytes:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(artefact).digest() + artefact)
                os.replace(temporary, self._folder / key)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            self._trim(self._folder)
        except OSError as error:
            log.warning("the grammar cache %s cannot be written: %s", self._folder, error)

    def _trim(self, folder: Path) -> None:
        """Remove the files used longest ago until the others fit. Another process may be at it too."""
        files = []
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if entry.is_file(follow_symlinks=False):
                    files.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._disk_bytes:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
