"""What a service over HTTP is to the rest of this folder: `Service`, what is asked of it, and what it answers.

Knows nothing of branches, of retries, or of any one service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from ...lang.constraint import Constraint
from ...lang.errors import BackendError
from ...lang.expr import Sampling
from ..base import TokenLogprob

Messages = tuple[Mapping[str, str], ...]
"""Turns of a chat: `role` and `content`."""


@dataclass(frozen=True, slots=True)
class NativeForm:
    """A constraint as a service takes it: fields of the request, and how the answer's text is read off the reply.

    `opened` is None where the reply is the text itself.
    """

    fields: Mapping[str, Any]
    opened: Callable[[str], str] | None = None


class WrittenText(str):
    """A text that a service wrote, with its tokens."""

    token_ids: Sequence[int] = ()


class PromptText(str):
    """A prompt as text, which knows the pieces that it was said in: text, and whether it is markup."""

    pieces: Sequence[tuple[str, bool]] = ()

    @staticmethod
    def of(pieces: Sequence[tuple[str, bool]]) -> PromptText:
        """The prompt that pieces say."""
        prompt = PromptText("".join(text for text, _ in pieces))
        prompt.pieces = tuple(pieces)
        return prompt


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `prompt` is a text, or the messages of a chat; `continues`: the last of them is to be gone on with.

    `fields` are added to the request as they are.
    """

    prompt: str | Messages
    sampling: Sampling
    n: int = 1
    seed: int | None = None
    continues: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Delta:
    """News of a stream: `text` more of sample `index`, and what else was told with it.

    `finish` is told once a sample: a reason as of `GenResult`. `prompt`, `cached` and `generated` are tokens so far, of
    all samples unless `of_sample`.
    """

    index: int = 0
    text: str = ""
    finish: dict[str, Any] | None = None
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    input_logprobs: Sequence[TokenLogprob] | None = None
    prompt: int | None = None
    cached: int | None = None
    generated: int | None = None
    of_sample: bool = False


@dataclass(slots=True)
class Scored:
    """Log-probabilities of choices, and what they cost in tokens of prompts."""

    choices: list[list[TokenLogprob]]
    alone: list[list[TokenLogprob]] | None = None
    prompt: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A sampling option that a service takes: its name there, its largest value (or how many), whether it is an
    extension that the service's client package does not know."""

    wire: str
    most: float | None = None
    extra: bool = False


class Service(Protocol):
    """One service. Its coroutines run on the loop of `loop.py`; what they raise is made one `ServiceError` elsewhere.

    `unreachable`: the types of errors that mean there was no answer.
    """

    name: str
    taken: Mapping[str, Taken]
    unreachable: tuple[type[BaseException], ...]

    def native(self, constraint: Constraint, where: str) -> NativeForm:
        """The constraint as the service takes it. Raises `CapabilityError` for one that it cannot take."""

    def deltas(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        """Send a request; its stream. Closing the generator closes the connection."""

    async def scores(self, prompt: str, choices: Sequence[str], alone: bool) -> Scored:
        """Score choices after `prompt`, and with `alone` also without it."""

    async def close(self) -> None:
        """Close connections."""


class Garbled(Exception):
    """A reply that the protocol of its service does not have."""


def needed(package: str, what: str, extra: str | None = None) -> Any:
    """Import the client package of a service. Raises `BackendError` with the command that installs it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise BackendError(
            f"{what} needs the package {package!r}, which is not installed ({error}): "
            f"pip install 'sgl[{extra or package}]'"
        ) from error


def field_of(thing: Any, name: str) -> Any:
    """A field of a reply, of an object or a dict; None where there is none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
