"""The typed errors of sgl, one family for all rooms; every room raises them, so they live in the lowest one.

Knows nothing of who raises them. Each type is an `SglError`, and also the builtin that a Python reader would expect
(`ValueError`, `MemoryError`, ...). So `except sgl.SglError` and ordinary handling both work.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SglError(Exception):
    """Base of every error that sgl raises itself. An error of a user's own code is raised as it is.

    Example:
        >>> import sgl
        >>> try:
        ...     sgl.gen("a", temprature=1)
        ... except sgl.SglError as error:
        ...     print(type(error).__name__, error)
        OptionError gen: unknown option 'temprature'; did you mean 'temperature'?
    """

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return " ".join(str(arg) for arg in self.args)


class OptionError(SglError, TypeError):
    """An option does not exist, or has a value that it cannot have. Also a `TypeError`."""


class ConstraintError(SglError, ValueError):
    """A constraint (choices, stop regex, schema, ...) is wrong or cannot be enforced. Also a `ValueError`."""


class ToolError(SglError, ValueError):
    """A tool cannot be made of a function or a schema, or cannot be run. Also a `ValueError`.

    A tool may raise it itself: the model reads its message as it is, and the call is not tried again.
    """


class NotYet(SglError, NotImplementedError):
    """An option or a function that this version knows, but does not carry out yet. Also a `NotImplementedError`."""


class VariableError(SglError, KeyError):
    """A program's state was asked for a variable that no gen, select or scope defined. Also a `KeyError`."""


class ContextOverflow(SglError, ValueError):
    """The text is longer than the model's context. Also a `ValueError`."""


class OutOfMemory(SglError, MemoryError):
    """Memory does not suffice: for weights, for a step on a device, or for one request in the KV pool. Also a
    `MemoryError`."""


class Truncated(SglError):
    """A constrained text ran out of budget before it could end.

    Args:
        message: what happened.
        text: the text as far as it came; kept as `.text`.
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class BackendError(SglError, RuntimeError):
    """The backend failed: a model's forward raised, a step could not run, a runtime was shut down. Also a
    `RuntimeError`."""


class ModelLoadError(BackendError):
    """A model's file cannot be found, read or understood."""


class CapabilityError(BackendError):
    """A program needs what its backend does not have. Raised where the program says it, before it is enqueued."""


class ServiceError(BackendError):
    """A service over HTTP refused a request, failed in it, or could not be reached.

    Args:
        message: what happened, with the service's own words.
        status: the HTTP status; None where there was no answer. Kept as `.status`.
        request_id: the service's name of the request, for its operators; kept as `.request_id`.
    """

    def __init__(self, message: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status, self.request_id = status, request_id


class Cancelled(SglError):
    """The gen, branch or program was cancelled."""


class ProgramTimeout(SglError, TimeoutError):
    """The `timeout=` of a gen or of a program has passed. Also a `TimeoutError`."""


class BudgetExceeded(SglError):
    """A program has spent its `budget=` and was about to make another call.

    Args:
        message: what happened.
        spent: the usage so far; kept as `.spent`.
    """

    def __init__(self, message: str, spent: object = None) -> None:
        super().__init__(message)
        self.spent = spent


class JournalError(SglError, OSError):
    """The journal of a batch (`resume=`) could not be written; the rows are unharmed. Also an `OSError`."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
