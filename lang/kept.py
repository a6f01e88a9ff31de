"""What functions return, kept within bounds: each function's last results, and the bytes of all of them together.

Knows nothing of what the functions do. A cache keyed by what a program says (patterns, schemas, types, texts) has no
size of its own: one pattern may be a megabyte. So a count alone is no bound, and each cache counts bytes with a budget.

Any thread may use a cache. There is no lock, which a forked child could inherit locked: each change is one operation of
a dictionary, and what two threads do at once costs a result that is made twice, or a count that is a little off.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast
from weakref import ref

P = ParamSpec("P")
T = TypeVar("T")
Size = Callable[[tuple[Any, ...], Any], int]

DEFINITION_BYTES = 64 << 20
"""What is kept of patterns, schemas, types and grammars in a process; when that is full, all of it is forgotten."""
_ENTRY_BYTES = 300
"""Of an entry beside its key and value: a dictionary's place and links, two tuples."""
_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType)


class Forgetful(Protocol):
    """A cache that counts the bytes that it holds, in `held`, and can be emptied, by any thread."""

    held: int

    def forget(self) -> None: ...


class CacheBudget:
    """The bytes that the caches of one kind hold together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self._held = limit_bytes, 0
        self._caches: dict[int, ref[Forgetful]] = {}

    @property
    def held(self) -> dict[str, int | None]:
        """The bytes that are held, and their bound."""
        return {"bytes": self._sum(), "most_bytes": self.limit_bytes}

    def add(self, cache: Forgetful) -> None:
        caches, name = self._caches, id(cache)
        caches[name] = ref(cache, lambda gone: caches.pop(name, None))

    def hold(self, cache: Forgetful, size: int) -> None:
        """Count `size` more bytes of a cache; empty all caches if that is too much."""
        cache.held += size  # a few that two threads add at once may be lost
        self._held += size
        if self._held > self.limit_bytes:
            self._held = self._sum()  # caches that are gone hold nothing
            if self._held > self.limit_bytes:
                self._held = 0
                for one in self._alive():
                    one.forget()

    def _alive(self) -> list[Forgetful]:
        return [cache for one in list(self._caches.values()) if (cache := one()) is not None]

    def _sum(self) -> int:
        return sum(cache.held for cache in self._alive())


DEFINITIONS = CacheBudget(DEFINITION_BYTES)
"""Of the whole process: what a pattern means does not depend on a runtime."""


def weight(value: object) -> int:
    """About the bytes of plain data, with all that it refers to; classes, modules and functions are not its own."""
    seen: set[int] = set()
    left, total = [value], 0
    while left:
        one = left.pop()
        if id(one) not in seen and not isinstance(one, _SHARED):
            seen.add(id(one))
            total += sys.getsizeof(one)
            left += gc.get_referents(one)
    return total


def by_text(bytes_of_character: int, plain: int = 2_000) -> Size:
    """Size results that are no plain data by the characters of the arguments that are texts."""

    def size(args: tuple[Any, ...], made: Any) -> int:
        return plain + bytes_of_character * sum(len(arg) for arg in args if isinstance(arg, str))

    return size


def _plain_size(args: tuple[Any, ...], made: Any) -> int:
    return weight((args, made))


class KeptFunction(Generic[T]):
    """A function with its last results by its arguments. Thread-safe. What the function raises is not kept."""

    def __init__(self, function: Callable[..., T], entries: int, size: Size, budget: CacheBudget) -> None:
        functools.update_wrapper(self, function)
        self.held = 0
        self._function, self._entries, self._size, self._budget = function, entries, size, budget
        self._known: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        budget.add(self)

    def __call__(self, *args: Any) -> T:
        known = self._known
        if (found := known.get(args)) is not None:
            with suppress(KeyError):  # another thread has just dropped it
                known.move_to_end(args)
            return found[0]
        made = self._function(*args)
        size = _ENTRY_BYTES + self._size(args, made)
        if 2 * size <= self._budget.limit_bytes:  # else it would push everything out
            self._budget.hold(self, self._keep(args, made, size))
        return made

    def _keep(self, args: Hashable, made: T, size: int) -> int:
        """Put a result into the cache. Returns by how many bytes the cache has grown."""
        known = self._known
        _, before = known.get(args, (None, 0))  # another thread may have been first
        known[args] = made, size
        if len(known) > self._entries:
            with suppress(KeyError):
                before += known.popitem(last=False)[1][1]
        return size - before

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Empty the cache."""
        self._known = OrderedDict()
        self.held = 0


def kept(
    entries: int, size: Size = _plain_size, budget: CacheBudget = DEFINITIONS
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function of hashable arguments, given by position: its last `entries` results are kept, in `budget`.

    `size` gives the bytes of a result and its arguments; without it both are plain data, which is measured.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        return cast("Callable[P, T]", KeptFunction(function, entries, size, budget))

    return decorate
