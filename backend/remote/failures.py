"""What goes wrong with a service: one error type for all of them, and whether and when to ask again.

Knows nothing of any one service: client packages name the status, the headers and the body of an error alike.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from ...lang.errors import ServiceError
from .service import Garbled, Service, field_of

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds before the second try, and at most before a later one: doubled each time, less a random quarter of it."""
MOST_OBEYED = 120.0
"""Seconds of `Retry-After` that are waited. A service that asks for more is down for now, and its error is raised."""
MOST_WORDS = 1000
"""Characters of a service's own words in an error."""
_BUSY = ("overloaded_error", "rate_limit_error", "api_error", "server_error", "rate_limit_exceeded")
"""Errors that a service may tell of in its stream, when the status was 200 already, and that pass."""


class Withheld(Exception):
    """A service wrote an answer and does not give it: a refusal, or a filter of content."""


def failure(service: Service, error: BaseException, where: str) -> ServiceError:
    """The error for a user: the service, its own words, the status and the name of the request."""
    status = status_of(error)
    headers = _headers(error)
    request_id = field_of(error, "request_id") or headers.get("x-request-id") or headers.get("request-id")
    words = _words(error)
    if isinstance(error, service.unreachable):
        what = f"could not be reached: {type(error).__name__}"
    elif isinstance(error, Withheld):
        what = "withheld its answer"
    elif isinstance(error, Garbled):
        what = "answered what cannot be read"
    else:
        what = f"failed with status {status}" if status else f"failed: {type(error).__name__}"
    named = f" (request {request_id})" if request_id else ""
    message = f"{where}: {service.name} {what}{f': {words}' if words else ''}{named}"
    found = ServiceError(message, status, request_id if isinstance(request_id, str) else None)
    found.__cause__ = error
    return found


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error; None for one that came within a stream, or without an answer."""
    status = field_of(error, "status_code")
    return status if isinstance(status, int) and not isinstance(status, bool) and status >= 400 else None


def seconds_to_wait(service: Service, error: BaseException, tries: int) -> float | None:
    """Seconds after which a request that failed for the `tries`th time may be sent again; None: it may not."""
    status = status_of(error)
    if status is not None:
        passes = status in (408, 429) or status >= 500
    else:
        passes = isinstance(error, (*service.unreachable, Garbled)) or _kind(error) in _BUSY
    if not passes:
        return None
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * (1 - random.random() / 4)
    asked = _retry_after(_headers(error))
    if asked is None:
        return backoff
    return None if asked > MOST_OBEYED else max(asked, 0.0)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds: a number, or a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return float(value) * unit
        except ValueError:
            pass
        try:
            return parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            pass
    return None


def _headers(error: BaseException) -> Mapping[str, str]:
    found = field_of(field_of(error, "response"), "headers") or field_of(error, "headers")
    return found if isinstance(found, Mapping) else {}


def _inner(error: BaseException) -> Any:
    """The error that the body of a reply tells of."""
    body = field_of(error, "body")
    inner = body.get("error") if isinstance(body, Mapping) else None
    return inner if inner is not None else body


def _kind(error: BaseException) -> Any:
    return field_of(_inner(error), "type") if isinstance(_inner(error), Mapping) else None


def _words(error: BaseException) -> str:
    inner = _inner(error)
    words = field_of(inner, "message") if isinstance(inner, Mapping) else inner
    if isinstance(words, Mapping):
        words = json.dumps(words)
    return str(words or field_of(error, "message") or error)[:MOST_WORDS].strip()
