"""The default backend of a process: what programs run on when nobody says.

Owns: that one reference (SGLang's `set_default_backend`).
"""

from __future__ import annotations

from typing import Any, cast

from ..backend.base import Backend
from ..lang.errors import BackendError

_default: list[Backend] = []


def set_default_backend(backend: Any) -> None:
    """Run programs on `backend` where none is given; None removes the default."""
    _default[:] = [] if backend is None else [_unwrap(backend)]


def resolve(backend: Any = None) -> Backend:
    """`backend`, or the default one; `BackendError` that says how to set it if there is none."""
    if backend is not None:
        return _unwrap(backend)
    if not _default:
        raise BackendError(
            "no backend to run on: call sgl.set_default_backend(sgl.Runtime()) once, or pass backend=... to run"
        )
    return _default[0]


def flush_cache(backend: Any = None) -> bool:
    """Drop cached KV; False if the backend could not (it is busy), or if there is no backend."""
    if backend is None and not _default:
        return False
    return resolve(backend).flush_cache()


def get_server_info(backend: Any = None) -> dict[str, Any]:
    return resolve(backend).get_server_info()


def _unwrap(backend: Any) -> Backend:
    """Like SGLang, take what stands in front of a backend (`.endpoint`) for it."""
    found = getattr(backend, "endpoint", None) or backend
    if not callable(getattr(found, "open", None)) or not hasattr(found, "capabilities"):
        raise BackendError(f"{backend!r:.80} is not a backend; sgl.Runtime() is one")
    return cast(Backend, found)
