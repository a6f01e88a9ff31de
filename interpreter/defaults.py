"""The default backend of a process: what programs run on without `backend=`. Knows nothing of programs."""

from __future__ import annotations

from typing import Any, cast

from ..backend.base import Backend
from ..lang.errors import BackendError

_default: list[Backend] = []


def set_default_backend(backend: Any) -> None:
    """Run programs on `backend` where none is given.

    Args:
        backend: A backend, such as `sgl.Runtime()`; None removes the default.

    Raises:
        BackendError: `backend` is no backend.

    Example:
        >>> import sgl
        >>> sgl.set_default_backend(sgl.Runtime.toy())
        >>> sgl.flush_cache()
        True
        >>> sgl.set_default_backend(None)
    """
    _default[:] = [] if backend is None else [_unwrap(backend)]


def resolve(backend: Any = None) -> Backend:
    """`backend`, or the default one. Raises `BackendError`, which says how to set it, if there is none."""
    if backend is not None:
        return _unwrap(backend)
    if not _default:
        raise BackendError(
            "no backend to run on: call sgl.set_default_backend(sgl.Runtime()) once, or pass backend=... to run"
        )
    return _default[0]


def flush_cache(backend: Any = None) -> bool:
    """Drop the KV that a backend keeps for later programs.

    Args:
        backend: The backend. Default: the one given to `set_default_backend`.

    Returns:
        False if the backend was busy and kept its cache, or if there is no backend.

    Example:
        >>> import sgl
        >>> sgl.flush_cache(sgl.Runtime.toy())
        True
    """
    if backend is None and not _default:
        return False
    return resolve(backend).flush_cache()


def get_server_info(backend: Any = None) -> dict[str, Any]:
    """Give what a backend says of itself: its model, sizes and counters, as a dict.

    Args:
        backend: The backend. Default: the one given to `set_default_backend`.

    Raises:
        BackendError: There is no backend.

    Example:
        >>> import sgl
        >>> sgl.get_server_info(sgl.Runtime.toy())["model"]
        'toy'
    """
    return resolve(backend).get_server_info()


def _unwrap(backend: Any) -> Backend:
    """The backend behind an object that stands in front of one (`.endpoint`), as in SGLang."""
    found = getattr(backend, "endpoint", None) or backend
    if not callable(getattr(found, "open", None)) or not hasattr(found, "capabilities"):
        raise BackendError(f"{backend!r:.80} is not a backend; sgl.Runtime() is one")
    return cast(Backend, found)
