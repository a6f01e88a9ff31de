"""Products at every level of instructions: a row has the same bits in any number of rows; weights in large pages."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sgl
from sgl.backend.runtime.model.cpu import native
from sgl.backend.runtime.model.cpu.packed import Q4_0, Q4_1, Q4_K, Q8_0, Blocks, packed
from sgl.backend.runtime.model.cpu.packed_weights import PackedWeights
from sgl.backend.runtime.model.cpu.quantised_llama import in_large_pages

ROOT = Path(sgl.__file__).parent


def levels() -> list[int]:
    try:
        return [i for i in range(len(native.LEVELS)) if native.library().sgl_has_level(i)]
    except native.MissingLibrary:
        return []


needs_library = pytest.mark.skipif(not levels(), reason="the kernels were not built: no C++ compiler")
KINDS = {"q4_0": Q4_0, "q4_1": Q4_1, "q4_k": Q4_K, "q8_0": Q8_0}
SHAPES = {"one group": (16, 32), "ragged": (50, 96), "odd groups": (48, 160), "deeper than a panel": (40, 32 * 131)}
ROWS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 40, 127, 128, 129, 145)


def product(kind: int, outputs: int, depth: int, rows: int, level: int) -> Any:
    """The first `rows` rows of one product."""
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 256 if kind == Q8_0 else 16, (outputs, depth), dtype=np.uint8)
    real = np.float32 if kind == Q4_K else np.float16
    scale, minimum = (rng.standard_normal((outputs, depth // 32)).astype(real) for _ in range(2))
    data = packed(Blocks(kind, codes, scale, minimum if kind in (Q4_1, Q4_K) else None))
    bias = rng.standard_normal(outputs).astype(np.float32)
    x = rng.standard_normal((max(ROWS), depth)).astype(np.float32)
    x[::3, ::5] *= 300
    matrix = native.MatrixView(data.ctypes.data, bias.ctypes.data, kind, outputs, depth, 0)
    y = np.full((rows, outputs), np.nan, np.float32)
    native.library().sgl_multiply(ctypes.byref(matrix), x.ctypes.data, rows, y.ctypes.data, level)
    return y


@needs_library
@pytest.mark.parametrize("level", levels(), ids=lambda level: native.LEVELS[level])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_row_has_the_same_bits_in_any_number_of_rows(level: int, kind: int, shape: tuple[int, int]) -> None:
    if native.LEVELS[level] == "portable" and shape[1] > 1000:
        rows = ROWS[:6]  # plain C++ is slow
    else:
        rows = ROWS
    most = product(kind, *shape, rows[-1], level)
    assert np.isfinite(most).all()
    for some in rows:
        np.testing.assert_array_equal(product(kind, *shape, some, level), most[:some])


@needs_library
@pytest.mark.skipif(native.LEVELS.index("amx") not in levels(), reason="this machine has no AMX")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_tiles_have_the_bits_of_avx512(kind: int, shape: tuple[int, int]) -> None:
    """Only whole numbers are computed otherwise, and these are exact."""
    for rows in (1, 16, 145):
        vectors, tiles = (product(kind, *shape, rows, native.LEVELS.index(name)) for name in ("avx512", "amx"))
        np.testing.assert_array_equal(vectors, tiles)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="no compiler or no emulator for aarch64",
)
def test_neon_is_beside_the_portable_level_in_an_emulator() -> None:
    done = subprocess.run(["make", "-s", "test-neon"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "neon: " in done.stdout, done.stdout + done.stderr


def test_weights_in_large_pages_are_a_copy() -> None:
    raw = np.arange(1000, dtype=np.uint8)
    arrays = {"embedding": raw, "norm": np.linspace(0, 1, 7, dtype=np.float32), "head": raw[:]}
    copied = in_large_pages(PackedWeights("x", arrays, {})).arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(copied[name], array)
        assert copied[name].dtype == array.dtype and copied[name].ctypes.data % 64 == 0
        assert not np.shares_memory(copied[name], array)
    assert copied["head"].ctypes.data == copied["embedding"].ctypes.data
