"""A bounded cache in memory whose values are made once, also for threads that ask at the same time.

Knows nothing of what the values are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class OnceCache(Generic[K, V]):
    """Values by key, the last used ones kept. Thread-safe."""

    def __init__(
        self, entries: int, limit_bytes: int | None = None, size: Callable[[V], int] = lambda value: 0
    ) -> None:
        """Keep at most `entries` values and `limit_bytes` (None: any number) of them, by `size`."""
        self._entries, self._limit_bytes, self._size = entries, limit_bytes, size
        self._lock = threading.Lock()
        self._making: dict[K, tuple[threading.Lock, list[int]]] = {}
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._held = 0

    @property
    def held(self) -> dict[str, int | None]:
        """How many values are kept, their bytes by `size`, and the bounds of both."""
        with self._lock:
            return {
                "entries": len(self._kept),
                "most_entries": self._entries,
                "bytes": self._held,
                "most_bytes": self._limit_bytes,
            }

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._kept

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, kept or made now. What `make` raises is raised, and nothing is kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            making, waiting = self._making.setdefault(key, (threading.Lock(), [0]))
            waiting[0] += 1
        try:
            with making:
                with self._lock:
                    if key in self._kept:
                        return self._kept[key]
                made = make()
                with self._lock:
                    self._keep(key, made)
                return made
        finally:
            with self._lock:
                waiting[0] -= 1
                if not waiting[0]:
                    self._making.pop(key, None)

    def _keep(self, key: K, value: V) -> None:
        limit = self._limit_bytes
        if limit is not None and self._size(value) > limit:
            return
        self._kept[key] = value
        self._held += self._size(value)
        while len(self._kept) > self._entries or (limit is not None and self._held > limit):
            _, dropped = self._kept.popitem(last=False)
            self._held -= self._size(dropped)
