"""The compiled kernels: found, checked, and called.

Owns: the library, its structures as `ctypes` ones (`native/native.cpp` has the same), and which level of instructions
is used. Knows nothing of checkpoints.

`pip` builds the library, which knows nothing of Python. Where it is missing or of another version, `library()` says
why, and torch computes instead.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from .....lang.errors import OptionError

VERSION = 6
LEVELS = ("portable", "avx2", "avxvnni", "avx512", "amx", "neon")
LEVEL_VARIABLE = "SGL_CPU_LEVEL"
"""Environment variable: the level of instructions to use, for tests and measurements. Default: the best there is."""
LIBRARY_VARIABLE = "SGL_CPU_LIBRARY"
"""Environment variable: another file of the library, for tests (`make test-native`)."""

_pointer = ctypes.c_void_p
_int = ctypes.c_int32
_long = ctypes.c_int64


class MatrixView(ctypes.Structure):
    _fields_ = (
        ("data", _pointer),
        ("bias", _pointer),
        ("kind", _int),
        ("outputs", _int),
        ("depth", _int),
        ("unused", _int),
    )


class LayerView(ctypes.Structure):
    _fields_ = (
        ("norm_attention", _pointer),
        ("norm_feed", _pointer),
        ("norm_query", _pointer),
        ("norm_key", _pointer),
        ("qkv", MatrixView),
        ("out", MatrixView),
        ("gate", MatrixView),
        ("up", MatrixView),
        ("down", MatrixView),
        ("kv", _pointer),
    )


class ModelView(ctypes.Structure):
    _fields_ = (
        *((name, _int) for name in ("layers", "hidden", "wide", "heads", "kv_heads", "dim", "vocabulary", "level")),
        ("eps", ctypes.c_float),
        ("threads", _int),
        ("slots", _int),
        ("norm", _pointer),
        ("cos", _pointer),
        ("sin", _pointer),
        ("embedding", MatrixView),
        ("head", MatrixView),
        ("layer", ctypes.POINTER(LayerView)),
    )


class BatchView(ctypes.Structure):
    _fields_ = (
        ("rows", _long),
        ("spans", _long),
        ("wanted", _long),
        *(
            (name, _pointer)
            for name in ("tokens", "positions", "slots", "span", "runs", "want", "logits", "features", "depth")
        ),
        ("depths", _long),
    )


class HeadView(ctypes.Structure):
    _fields_ = (
        *((name, _int) for name in ("hidden", "wide", "heads", "kv_heads", "dim", "drafts", "level", "threads")),
        ("eps", ctypes.c_float),
        *((name, _int) for name in ("norm_output", "norm_before_residual", "unused")),
        *((name, _pointer) for name in ("norms_fuse", "norm_feature", "norm_input", "norm_feed", "norm", "cos", "sin")),
        *(
            (name, MatrixView)
            for name in ("fuse", "query", "key", "value", "out", "gate", "up", "down", "head", "embedding")
        ),
    )


class DraftsView(ctypes.Structure):
    _fields_ = (
        ("rows", _long),
        *((name, _pointer) for name in ("features", "embedded", "positions", "kv")),
        *((name, _long) for name in ("capacity", "length", "drafts")),
        ("least", ctypes.c_float),
        ("unused", _int),
        ("tokens", _pointer),
        ("chances", _pointer),
    )


class MissingLibrary(Exception):
    """The kernels cannot be used; the message says why, and what to do."""


@cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises `MissingLibrary`."""
    file = Path(os.environ.get(LIBRARY_VARIABLE) or Path(__file__).with_name("kernels.shared"))
    if not file.is_file():
        raise MissingLibrary(
            "the CPU kernels were not built (pip builds them where it finds a C++ compiler); install a compiler and "
            "install sgl again"
        )
    try:
        found = ctypes.CDLL(str(file))
        version = found.sgl_version()
    except (OSError, AttributeError) as error:
        raise MissingLibrary(f"the CPU kernels in {file} cannot be loaded ({error}); install sgl again") from error
    if version != VERSION:
        raise MissingLibrary(f"the CPU kernels in {file} are of another version of sgl; install sgl again")
    found.sgl_engine.restype = _pointer
    found.sgl_engine.argtypes = (ctypes.POINTER(ModelView),)
    found.sgl_engine_free.argtypes = (_pointer,)
    found.sgl_engine_free.restype = None
    found.sgl_chain.restype = _pointer
    found.sgl_chain.argtypes = (ctypes.POINTER(HeadView),)
    found.sgl_chain_free.argtypes = (_pointer,)
    found.sgl_chain_free.restype = None
    found.sgl_draft.argtypes = (_pointer, ctypes.POINTER(DraftsView))
    found.sgl_forward.argtypes = (_pointer, ctypes.POINTER(BatchView))
    found.sgl_multiply.argtypes = (ctypes.POINTER(MatrixView), _pointer, _int, _pointer, _int)
    found.sgl_multiply.restype = None
    found.sgl_matrix_row.argtypes = (ctypes.POINTER(MatrixView), _int, _pointer, _int)
    found.sgl_matrix_row.restype = None
    found.sgl_sample.argtypes = (_pointer, _long, _int, _pointer, _pointer, _int)
    return found


def level() -> int:
    """The level of instructions: the best that this machine has, or what the environment asks for.

    Raises `OptionError` for a level that does not exist or that this machine lacks, `MissingLibrary`.
    """
    has = library().sgl_has_level
    asked = os.environ.get(LEVEL_VARIABLE)
    if asked is None:
        return max(i for i in range(len(LEVELS)) if has(i))
    if asked not in LEVELS or not has(LEVELS.index(asked)):
        there = ", ".join(name for i, name in enumerate(LEVELS) if has(i))
        raise OptionError(f"{LEVEL_VARIABLE}={asked!r} is no level of instructions of this machine; it has {there}")
    return LEVELS.index(asked)


def threads() -> int:
    """How many threads compute: the cores that this process may use, at most what `torch.set_num_threads` or
    `OMP_NUM_THREADS` says."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch := sys.modules.get("torch"):  # it may not be loaded: its import takes seconds
        return max(1, min(free, torch.get_num_threads()))
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, min(free, int(said) if said.isdecimal() else free))
