"""The typed errors of sgl, one family for all rooms; every room raises them, so they live in the lowest one.

Knows nothing of who raises them. Each type is an `SglError` and also the builtin that a Python reader would expect
(`ValueError`, `MemoryError`, ...), so `except sgl.SglError` and ordinary handling both work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SglError(Exception):
    """Base of every error raised by sgl itself (an error of a user's own code is raised as it is)."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return " ".join(str(arg) for arg in self.args)


class OptionError(SglError, TypeError):
    """An option or argument that does not exist, or that has a value it cannot have."""


class ConstraintError(SglError, ValueError):
    """A constraint (choices, stop regex, schema, ...) that is wrong, or that cannot be enforced."""


class NotYet(SglError, NotImplementedError):
    """Part of the public contract that this version does not carry out. Never ignored silently."""


class VariableError(SglError, KeyError):
    """A variable was read that no gen, select or scope of this program ever defined."""


class ContextOverflow(SglError, ValueError):
    """The text is longer than the model's context."""


class OutOfMemory(SglError, MemoryError):
    """Memory that does not suffice: for weights or a step on a device, or the KV pool for one request, even after
    everything else was given up."""


class Truncated(SglError):
    """A constrained generation ran out of budget before it could end. `.text` has what there is."""

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class BackendError(SglError, RuntimeError):
    """The backend failed: a model's forward raised, a step could not run, a runtime was shut down."""


class ModelLoadError(BackendError):
    """A model file that cannot be found, read, or understood."""


class CapabilityError(BackendError):
    """A program needs something its backend does not have. Raised when the program is bound to the backend."""


class Cancelled(SglError):
    """The generation, branch or program was cancelled."""


class ProgramTimeout(SglError, TimeoutError):
    """A `timeout=` (of a gen or of a program) passed."""


class BudgetExceeded(SglError):
    """A program has spent its `budget=`, and was about to make another call. `.spent` is the usage so far."""

    def __init__(self, message: str, spent: object = None) -> None:
        super().__init__(message)
        self.spent = spent


class JournalError(SglError, OSError):
    """A batch's journal (`resume=`) could not be written. The rows themselves are unharmed."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
