"""Compiled artefacts of the engines, in memory and on disk across runs.

Owns: the two levels and their bounds. Knows nothing of what an artefact is: bytes under a key.

1. A key names everything that an artefact depends on.
2. A file is whole and as it was written (its SHA-256 stands before it), or it counts as absent.
3. An error of the disk never makes a compile fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...model.load.store import cache_folder
from ..once import OnceCache

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


class ArtefactCache(OnceCache[str, bytes]):
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
        """Keep files in `folder` (default: `grammars` in sgl's cache folder), or with `disk` False in memory alone."""
        super().__init__(entries, memory_bytes, len)
        self._folder = (cache_folder() / "grammars" if folder is None else folder) if disk else None
        self._disk_bytes = disk_bytes

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The artefact of `key`: kept, read, or made now. What `make` raises is raised, and nothing is kept."""

        def read_or_make() -> bytes:
            found = self._read(key)
            if found is None:
                found = make()
                self._write(key, found)
            return found

        return super().get(key, read_or_make)

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
