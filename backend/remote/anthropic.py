"""`sgl.Anthropic`: programs on Anthropic's models, through its Messages API. Knows nothing of branches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from ...lang.constraint import Constraint, JsonSchema
from ...lang.errors import BackendError, CapabilityError
from .backend import RemoteBackend, model_of
from .failures import Withheld
from .forms import object_schema, opened_object, opened_string
from .openai import closing
from .options import as_fields, number, one_of
from .service import Ask, Delta, Messages, NativeForm, Scored, Taken, field_of, needed

_TAKEN: Mapping[str, Taken] = {
    "stop": Taken("stop_sequences"),
    "temperature": Taken("temperature", most=1, extra=True),
    "top_p": Taken("top_p", extra=True),
    "top_k": Taken("top_k", extra=True),
}
_ENDS = {"end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length"}
_ENDS |= {"model_context_window_exceeded": "length"}
MAX_TOKENS = 4096
"""Tokens of a call that names no budget: the API wants one, and every model takes this."""


class AnthropicService:
    """Requests for one model. `client` is an `anthropic.AsyncAnthropic`."""

    taken: Mapping[str, Taken] = _TAKEN
    unreachable: tuple[type[BaseException], ...]

    def __init__(self, client: Any, package: Any, model: str, max_tokens: int, body: Mapping[str, Any]) -> None:
        self.name = f"Anthropic({model})"
        self.unreachable = (package.APIConnectionError, *lost_connections("httpx2", "httpx"))
        self._client, self._model, self._max_tokens, self._body = client, model, max_tokens, dict(body)

    def native(self, constraint: Constraint, where: str) -> NativeForm:
        schema, wrapped = object_schema(constraint, self.name, where)
        opened = opened_object if isinstance(constraint, JsonSchema) else opened_string
        return NativeForm(
            {"output_config": {"format": {"type": "json_schema", "schema": schema}}}, opened if wrapped else None
        )

    async def deltas(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        plain, extra = as_fields(ask.sampling, self.taken)
        system, messages = parted(ask.prompt, self.name)  # type: ignore[arg-type]
        if system:
            plain["system"] = system
        most = self._max_tokens if ask.sampling.max_tokens is None else ask.sampling.max_tokens
        stream = await self._client.messages.create(
            model=self._model,
            messages=messages,
            max_tokens=most,
            stream=True,
            extra_body={**extra, **ask.fields, **self._body},  # versions of the package differ in what they know
            **plain,
        )
        async with closing(stream):
            async for event in stream:
                if (delta := _read(event, most)) is not None:
                    yield delta

    async def scores(self, prompt: str, choices: Sequence[str], alone: bool) -> Scored:
        raise NotImplementedError  # a chat has no place for a text to score: refused where the select is said

    async def close(self) -> None:
        await self._client.close()


def _read(event: Any, most: int) -> Delta | None:
    """The delta that an event of the stream tells."""
    kind = event.type
    if kind == "message_start":
        usage = event.message.usage
        cached = field_of(usage, "cache_read_input_tokens") or 0
        written = field_of(usage, "cache_creation_input_tokens") or 0
        return Delta(prompt=usage.input_tokens + cached + written, cached=cached)
    if kind == "content_block_delta" and field_of(event.delta, "type") == "text_delta":
        return Delta(text=event.delta.text)
    if kind != "message_delta":
        return None
    reason = event.delta.stop_reason
    if reason == "refusal":
        raise Withheld("stop_reason 'refusal'")
    end = _ENDS.get(reason, reason)
    finish = None
    if end == "length":
        finish = {"type": "length", "length": most}
    elif end is not None:
        finish = {"type": end, "matched": field_of(event.delta, "stop_sequence")}
    return Delta(finish=finish, generated=field_of(event.usage, "output_tokens"))


def parted(messages: Messages, name: str) -> tuple[str, list[dict[str, str]]]:
    """The system messages that a chat begins with, as one text, and the other messages.

    Raises `CapabilityError` for a system message that comes later.
    """
    rest = [dict(message) for message in messages]
    system = []
    while rest and rest[0]["role"] == "system":
        system.append(rest.pop(0)["content"])
    if any(message["role"] == "system" for message in rest):
        raise CapabilityError(
            f"{name} takes system messages only where a chat begins; say this one first, or as sgl.user(...)"
        )
    return "\n\n".join(system), rest


def lost_connections(*packages: str) -> tuple[type[BaseException], ...]:
    """The errors of lost connections of the HTTP packages that are there: client packages let some through."""
    found = []
    for package in packages:
        try:
            found.append(needed(package, package).TransportError)
        except (BackendError, AttributeError):
            continue
    return tuple(found)


class Anthropic(RemoteBackend):
    """Programs on Anthropic's models.

    Needs the package `anthropic` (`pip install 'sgl[anthropic]'`). What the service cannot do is refused with
    `CapabilityError` where the program says it, before anything is sent. [Remote backends](../remote.md) has the table.

    Args:
        model: The name of the model.
        base_url: Where the API is; default Anthropic.
        api_key: Default `ANTHROPIC_API_KEY`.
        max_tokens: Tokens of a call that names no budget of its own, which the API wants; default 4096.
        constrain: "native" (default: the service enforces a constraint), "validate" (each answer is checked, and asked
            for again), or "refuse". Answers are always checked.
        repairs: With "validate", how often an answer is asked for again; default 2.
        select: "refuse" (default), or "choice" (the model writes one of the choices, under `constrain`).
        prefill: A call may go on with text of its turn, which older models can; default False.
        retries: How often a request is sent again after a status of 408, 429 or 5xx or a lost connection, if nothing of
            its answer was streamed; default 2.
        timeout: Seconds without any news of a request; default 600.
        max_concurrency: Requests at a time; default 64.
        extra_body: Fields added to each request; default none.
        **options: Passed to `anthropic.AsyncAnthropic`.

    Raises:
        BackendError: The package `anthropic` is missing, or it refuses its options.
        OptionError: An option has a value that it cannot have.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def hello(s):
        ...     s += sgl.user("Hello") + sgl.assistant(sgl.gen("answer"))
        >>> backend = sgl.Anthropic("claude-sonnet-4-5", api_key="...")  # doctest: +SKIP
        >>> hello.run(backend=backend)["answer"]  # doctest: +SKIP
        'Hello! How can I help?'
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_tokens: int = MAX_TOKENS,
        constrain: str = "native",
        repairs: int = 2,
        select: str = "refuse",
        prefill: bool = False,
        retries: int = 2,
        timeout: float = 600.0,
        max_concurrency: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        model_of("Anthropic", model)
        number("Anthropic: max_tokens", max_tokens, 1, whole=True)
        one_of("Anthropic: select", select, "refuse", "choice")
        number("Anthropic: timeout", timeout, 0.001)
        package = needed("anthropic", "sgl.Anthropic")
        try:
            client = package.AsyncAnthropic(
                base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout, **options
            )
        except (package.AnthropicError, TypeError) as error:
            raise BackendError(f"sgl.Anthropic: the package anthropic refuses its options: {error}") from error
        super().__init__(
            AnthropicService(client, package, model, max_tokens, extra_body or {}),
            model=model,
            chat=True,
            prefill=prefill,
            native=("json_schema", "choices", "regex"),
            select=select,
            constrain=constrain,
            repairs=repairs,
            retries=retries,
            max_concurrency=max_concurrency,
        )
