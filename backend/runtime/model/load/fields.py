"""`Fields`: what a checkpoint's files say, read with a type and a range; and JSON files, read with bounds.

Owns: the errors of wrong types and values, which name the file and the field. Knows nothing of what a field means.
A file of a checkpoint is foreign data: nothing is allocated, and no loop is as long, as a number says that was not
checked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .....lang.errors import ModelLoadError, SglError

MOST_JSON_BYTES = 256 << 20
"""Size of the longest JSON file that is read. A tokenizer's is 20 MB, an index of shards 10 MB."""
MOST_LAYERS = 10_000
MOST_SIZE = 1 << 24
"""The largest size of one side of a tensor, and the largest vocabulary."""
MOST_CONTEXT = 1 << 31
"""The longest context, tokens."""


class Fields:
    """The fields of one file. `name` is the file. A field that is absent or null has its default, if there is one.

    Raises `ModelLoadError` that names the file and the field for another type, or a value out of its range.
    """

    def __init__(self, raw: Mapping[str, Any], name: str) -> None:
        self.raw, self.name = raw, name

    def wrong(self, key: str, what: str, value: Any) -> ModelLoadError:
        """The error of a field that is not `what`."""
        return ModelLoadError(f"{self.name}: the field {key!r} must be {what}, not {brief(value)}")

    def need(self, key: str) -> Any:
        """A field that must be there."""
        value = self.raw.get(key)
        if value is None:
            raise ModelLoadError(
                f"{self.name}: the field {key!r} is missing; the file is incomplete or of another kind"
            )
        return value

    def whole(self, key: str, default: int | None = None, *, low: int = 1, high: int = MOST_SIZE) -> int:
        """A whole number in [low, high]. A float without a fraction is one too."""
        value = self.raw.get(key)
        if value is None:
            value = self.need(key) if default is None else default
        return self._whole(key, value, low, high)

    def _whole(self, key: str, value: Any, low: int, high: int) -> int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or not low <= value <= high:
            raise self.wrong(key, f"a whole number in [{low}, {high}]", value)
        return int(value)

    def number(self, key: str, default: float | None = None, *, low: float = 0.0, high: float = 1e15) -> float:
        """A number in (low, high]."""
        value = self.raw.get(key)
        if value is None:
            value = self.need(key) if default is None else default
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
        if not good or not low < value <= high:
            raise self.wrong(key, f"a number in ({low:g}, {high:g}]", value)
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false", value)
        return default if value is None else value

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text without half a surrogate pair."""
        value = self.raw.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or not _encodes(value):
            raise self.wrong(key, "a text", value)
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object; empty where there is none."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(key, "an object", value)
        return value or {}

    def items(self, key: str, kind: type | tuple[type, ...], what: str) -> list[Any]:
        """A list whose members are all of a type; empty where there is none."""
        value = self.raw.get(key)
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            raise self.wrong(key, f"a list of {what}", value)
        for member in value:
            if not isinstance(member, kind) or (isinstance(member, bool) and kind is not bool):
                raise self.wrong(key, f"a list of {what}", member)
        return list(value)

    def token(self, key: str) -> int | None:
        """A token id, or None."""
        value = self.raw.get(key)
        return None if value is None else self._whole(key, value, 0, MOST_SIZE)

    def tokens(self, key: str) -> tuple[int, ...]:
        """Token ids: a field that is absent, a number, or a list of numbers."""
        value = self.raw.get(key)
        members = () if value is None else value if isinstance(value, (list, tuple)) else (value,)
        return tuple(self._whole(key, member, 0, MOST_SIZE) for member in members)


def check_sizes(raw: Mapping[str, Any], name: str) -> None:
    """Refuse a config with a size or a number of layers that no model has, whatever its fields are called."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            check_sizes(value, f"{name}: {key!r}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            most = MOST_LAYERS if "layer" in key and "eps" not in key else MOST_CONTEXT
            counts = key.startswith(("num_", "n_")) or "layer" in key or key.endswith(("_size", "_dim"))
            if counts and not -1 <= value <= most:
                raise Fields(raw, name).wrong(key, f"in [-1, {most}]", value)


def read_json(file: Path, optional: bool = False) -> dict[str, Any]:
    """Read a JSON object from a file. Raises `ModelLoadError` for what is no such thing."""
    try:
        if not file.is_file():
            if optional:
                return {}
            raise ModelLoadError(
                f"{file}: no such file; a model folder has config.json, tokenizer.json and *.safetensors"
            )
        value = parse_json(_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{file}: not valid JSON ({brief(str(error), 200)}); download the file again") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{file}: expected a JSON object")
    return value


def read_text(file: Path) -> str:
    """Read a text file. Raises `ModelLoadError` for bytes that are not UTF-8, and for an endless file."""
    try:
        return _bytes(file).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file}: cannot be read as UTF-8 text ({error}); download the file again") from error


def parse_json(data: bytes) -> Any:
    """Parse JSON without repeated keys. Raises `ValueError` or `RecursionError`."""
    return json.loads(data.decode("utf-8"), object_pairs_hook=_members)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.60} is there twice")
    return members


def _bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(MOST_JSON_BYTES + 1)
    if len(data) > MOST_JSON_BYTES:
        raise ValueError(f"it is longer than {MOST_JSON_BYTES >> 20} MiB")
    return data


def contained(call: Callable[[], Any], file: object, what: str) -> Any:
    """Call foreign code on foreign data. Whatever it raises, panics of Rust code included, is a `ModelLoadError`."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError, SglError):
        raise
    except BaseException as error:
        raise ModelLoadError(f"{file}: {what} ({type(error).__name__}: {first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def brief(value: Any, most: int = 60) -> str:
    """The beginning of a value's repr; its type where it has none (a number of thousands of digits)."""
    try:
        text = value if isinstance(value, str) and most > 60 else repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too large to show"
    return text[:most]


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_overlap(places: Iterable[tuple[int, int, str]]) -> str | None:
    """The name of the first place that begins before another one ends; `places` are (begin, end, name)."""
    last = 0
    for begin, end, name in sorted(places):
        if begin < last and end > begin:
            return name
        last = max(last, end)
    return None
