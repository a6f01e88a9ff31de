"""Which kernel computes a product of few rows: a table of choices, kept on disk once they are measured.

Owns: `Product` (what is computed), `KernelChoice` (by which kernel), the table's file and its defaults. Knows nothing
of kernels or of measuring (`tune`).

1. A lookup never measures and never fails.
2. A file that cannot be read, or is of another device or another Triton, counts as absent.
3. A file is replaced whole, by rename.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..load.store import replace_file

FORMAT = 1
"""Raise it whenever a choice comes to mean something else."""
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows that are measured; others take the next one's choice. Beyond the last the library is always taken."""
KERNELS = ("library", "rows", "tiles")
_SHIPPED = Path(__file__).with_name("tuned_h200.json")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """y [M, N] = x [M, K] W^T and what is fused with it. `dtype` is torch's name without the prefix ("bfloat16")."""

    N: int
    K: int
    dtype: str
    norm: bool = False  # x is normalised first
    silu: bool = False  # W has 2N rows, gate and up
    add: bool = False  # y is added to a residual
    wide: bool = False  # y is float32, whatever x is

    @property
    def kind(self) -> str:
        return "+".join(name for name in ("norm", "silu", "add", "wide") if getattr(self, name)) or "plain"

    @property
    def weight_rows(self) -> int:
        return 2 * self.N if self.silu else self.N


@dataclass(frozen=True)
class KernelChoice:
    """How a product is computed. "library" is cuBLAS with separate kernels around it; the rest describes the others.

    - block_n: columns of y that a program computes; block_k: depth of one turn of its loop.
    - stages: blocks on their way at once; parts: programs that share the sum over K.
    - overlap: whether to begin before the launch before has ended; early: blocks of weights that "tiles" load into
      registers until then.
    """

    kernel: str = "library"
    block_n: int = 0
    block_k: int = 0
    warps: int = 4
    stages: int = 1
    parts: int = 1
    overlap: bool = False
    early: int = 0


LIBRARY = KernelChoice()


def bucket_of(rows: int) -> int | None:
    """The bucket that `rows` belong to; None when there are too many."""
    return next((bucket for bucket in BUCKETS if rows <= bucket), None)


def default_choice(product: Product, bucket: int) -> KernelChoice:
    """What is taken where nothing was measured: sure to run anywhere, and faster than the library for a row or two."""
    if bucket > 2:
        return LIBRARY
    return KernelChoice("rows", block_n=2 if product.silu else 4, block_k=512, warps=2)


class Table:
    """The choices for one device. `path` is None for a table without a file (defaults only)."""

    def __init__(self, device: str, compiler: str, path: Path | None) -> None:
        self.device = device
        self.compiler = compiler
        self.path = path
        self._choices: dict[str, KernelChoice] = {}

    def choose(self, product: Product, rows: int) -> KernelChoice:
        bucket = bucket_of(rows)
        if bucket is None:
            return LIBRARY
        return self._choices.get(_key(product, bucket)) or default_choice(product, bucket)

    def has(self, product: Product, bucket: int) -> bool:
        return _key(product, bucket) in self._choices

    def put(self, product: Product, bucket: int, choice: KernelChoice) -> None:
        self._choices[_key(product, bucket)] = choice

    def update(self, choices: Mapping[str, KernelChoice]) -> None:
        self._choices.update(choices)

    def save(self, path: Path | None = None) -> None:
        """Write the table (to its own file), keeping what others have added there since. A full disk is no error."""
        path = self.path if path is None else path
        if path is None:
            return
        self._choices = {**_read(path, self.device, self.compiler), **self._choices}
        content = {
            "format": FORMAT,
            "device": self.device,
            "compiler": self.compiler,
            "choices": {key: dataclasses.asdict(choice) for key, choice in sorted(self._choices.items())},
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content, indent=1) + "\n"
            replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            _log.warning("the measured kernel choices could not be kept in %s: %s", path, error)


def open_table(device: str, compiler: str, cache: Path) -> Table:
    """The table of a device (its name as CUDA tells it) and compiler version: what is shipped, then what was measured.

    Shipped choices are taken for their device whatever the compiler: they were fastest with another, and run with any.
    """
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", f"{device}-{compiler}").strip("-").lower()
    table = Table(device, compiler, cache / "tuned" / f"{slug}.json")
    table.update(_read(_SHIPPED, device, None))
    if table.path is not None:
        table.update(_read(table.path, device, compiler))
    return table


def _key(product: Product, bucket: int) -> str:
    return f"{product.dtype}/{product.kind}/{product.N}x{product.K}/{bucket}"


def _read(path: Path, device: str, compiler: str | None) -> dict[str, KernelChoice]:
    """The choices in a file; none of them if it is not one of ours, whole, for this device (and compiler)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["device"] != device:
            return {}
        if compiler is not None and content["compiler"] != compiler:
            return {}
        return {str(key): _choice(fields) for key, fields in content["choices"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is not a table of kernel choices (%s): ignored", path, error)
        return {}


def _choice(fields: Mapping[str, Any]) -> KernelChoice:
    """Checked: a wrong number from a file would fail far from here, in a compiler."""
    choice = KernelChoice(**fields)
    if choice.kernel not in KERNELS or type(choice.overlap) is not bool:
        raise ValueError(f"no such choice: {fields}")
    numbers = (choice.block_n, choice.block_k, choice.warps, choice.stages, choice.parts)
    if any(type(number) is not int for number in (*numbers, choice.early)) or not 0 <= choice.early <= 2:
        raise ValueError(f"no such choice: {fields}")
    powers = (choice.block_n, choice.block_k, choice.warps)
    if choice.kernel != "library" and (min(numbers) < 1 or any(number & (number - 1) for number in powers)):
        raise ValueError(f"no such choice: {fields}")
    return choice
