"""What a program that is started here runs on: a backend, or the trace of the body that starts it.

Owns: the context variable through which a traced body's thread or task is known, and the one question asked at every
start of a program. It is all that ordinary runs know of tracing; the rest (`dry_state.py`) is imported by a trace.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...backend.base import Backend
from ..arguments import Arguments, Options
from ..defaults import resolve
from ..run import Instance

if TYPE_CHECKING:
    from .dry_state import Place

here: contextvars.ContextVar[Place | None] = contextvars.ContextVar("sgl traced program", default=None)
"""The traced body that runs in this thread or task."""


def backend_here(backend: Any = None) -> Backend:
    """`backend` or the default one; within a traced body, its trace."""
    place = here.get()
    return resolve(backend) if place is None or place.trace.over else place.backend(backend)


def instance_here(
    func: Callable[..., Any], name: str, call: Arguments, backend: Backend, options: Options, **batch: Any
) -> Instance:
    """A call of a program on what `backend_here` gave (perhaps in another thread). `batch`: what a row's `Instance` is
    told of its batch."""
    if not getattr(backend, "is_dry", False):
        return Instance(func, name, call, backend, options, **batch)
    from .dry_state import started

    return started(func, name, call, backend, options, **batch)
