"""Errors as HTTP statuses and bodies, in OpenAI's form and in that of other APIs."""

from __future__ import annotations

from typing import Any

from ...lang.errors import (
    Cancelled,
    CapabilityError,
    ConstraintError,
    ContextOverflow,
    NotYet,
    OptionError,
    OutOfMemory,
    ProgramTimeout,
    SglError,
    ToolError,
    Truncated,
)

MOST_MESSAGE = 4000
"""Characters of a message: it is for reading."""


class RequestError(SglError):
    """A request that is refused: its status, the field that is wrong, and a code for programs."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


_STATUS: tuple[tuple[type[BaseException], int, str | None], ...] = (
    (ContextOverflow, 400, "context_length_exceeded"),
    (ConstraintError, 400, "invalid_constraint"),
    (ToolError, 400, "invalid_tool"),
    (NotYet, 400, "not_supported"),
    (CapabilityError, 400, "not_supported"),
    (Truncated, 400, "budget_too_small"),
    (OptionError, 400, None),
    (ProgramTimeout, 504, "timeout"),
    (Cancelled, 499, "aborted"),
    (OutOfMemory, 503, "out_of_memory"),
)
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def told(error: BaseException) -> tuple[int, dict[str, Any]]:
    """The status and the body of an error. One that is not the client's says no more than that it happened."""
    if isinstance(error, RequestError):
        return error.status, body(str(error), error.status, error.param, error.code)
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return status, body(str(error), status, None, code)
    said = str(error) if isinstance(error, SglError) else "the server failed; its log says why"
    return 500, body(said, 500, None, None)


def body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error's body. A message that quotes much of the request is cut."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message[:MOST_MESSAGE], "type": kind, "param": param, "code": code}}


_ANTHROPIC = {
    401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def in_form_of(path: str, status: int, said: dict[str, Any]) -> dict[str, Any]:
    """An error's body in the form of the API that a route belongs to."""
    message = said["error"]["message"]
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    if path.startswith("/api/"):
        return {"error": message}
    return said
