"""`sgl.OpenAI`: programs on OpenAI, and on any server with its API (vLLM, SGLang, llama.cpp, Ollama, ...).

Knows nothing of branches. Chat models are asked through Chat Completions, others through Completions.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from inspect import isawaitable
from typing import Any

from ...lang.chat import ChatTemplate
from ...lang.constraint import Choices, Constraint, Grammar, JsonSchema, Regex
from ...lang.errors import BackendError, OptionError
from ..base import TokenLogprob
from .backend import RemoteBackend, model_of
from .failures import Withheld
from .forms import as_pattern, check_strict, object_schema, opened_object, opened_string, refused
from .options import as_fields, number, one_of
from .service import Ask, Delta, Garbled, NativeForm, Scored, Taken, field_of, needed

SERVERS = ("openai", "vllm", "sglang")
_COMPLETION_MODELS = ("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002")
UNTOLD = -1
"""The id of a token whose id a service does not tell."""

_OPENAI = {
    "n": Taken("n"),
    "stop": Taken("stop", most=4),
    "temperature": Taken("temperature", most=2),
    "top_p": Taken("top_p"),
    "frequency_penalty": Taken("frequency_penalty"),
    "presence_penalty": Taken("presence_penalty"),
    "seed": Taken("seed"),
    "logit_bias": Taken("logit_bias"),
    "top_logprobs_num": Taken("top_logprobs", most=20),
}
_SERVER = {
    **_OPENAI,
    "stop": Taken("stop"),
    "temperature": Taken("temperature"),
    **{
        option: Taken(option, extra=True)
        for option in ("min_tokens", "stop_token_ids", "top_k", "min_p", "repetition_penalty", "ignore_eos")
    },
}
TAKEN: Mapping[str, Mapping[str, Taken]] = {
    "openai": _OPENAI,
    "vllm": _SERVER,
    "sglang": {**_SERVER, "stop_regex": Taken("stop_regex", extra=True)},
}
KINDS_OF: Mapping[str, tuple[str, ...]] = {
    "openai": ("json_schema", "choices", "regex"),
    "vllm": ("json_schema", "choices", "regex", "ebnf"),
    "sglang": ("json_schema", "choices", "regex", "ebnf"),
}
"""Kinds of constraints that a server enforces."""


class OpenAIService:
    """Requests to one server, for one model. `client` is an `openai.AsyncOpenAI`."""

    name: str
    taken: Mapping[str, Taken]
    unreachable: tuple[type[BaseException], ...]

    def __init__(
        self, client: Any, package: Any, model: str, name: str, server: str, limit: str, body: Mapping[str, Any]
    ) -> None:
        self.name, self.taken = name, TAKEN[server]
        self.unreachable = (package.APIConnectionError,)
        self._client, self._model, self._server, self._limit = client, model, server, limit
        self._body = dict(body)

    def native(self, constraint: Constraint, where: str) -> NativeForm:
        if self._server == "openai":
            schema, wrapped = object_schema(constraint, self.name, where)
            check_strict(schema, self.name, where)
            opened = opened_object if isinstance(constraint, JsonSchema) else opened_string
            return NativeForm({"response_format": response_format(schema)}, opened if wrapped else None)
        return NativeForm(self._guided(constraint, where))

    def _guided(self, constraint: Constraint, where: str) -> dict[str, Any]:
        """A constraint as an extension of a server."""
        if self._server == "vllm":
            kind, value = _guide(constraint, self.name, where)
            return {"extra_body": {"structured_outputs": {kind: value}}}
        if isinstance(constraint, JsonSchema):
            return {"response_format": response_format(constraint.schema)}
        if isinstance(constraint, Choices):
            return {"extra_body": {"regex": as_pattern(constraint.choices)}}
        kind, value = _guide(constraint, self.name, where)
        return {"extra_body": {"ebnf" if kind == "grammar" else kind: value}}

    def _common(self, ask: Ask, *skip: str) -> tuple[dict[str, Any], dict[str, Any]]:
        plain, extra = as_fields(ask.sampling, self.taken, "n", "seed", "top_logprobs_num", *skip)
        plain |= {"model": self._model, "stream": True, "stream_options": {"include_usage": True}}
        if ask.n > 1:
            plain["n"] = ask.n
        if ask.seed is not None:
            plain["seed"] = ask.seed
        if ask.sampling.max_tokens is not None:
            plain[self._limit] = ask.sampling.max_tokens
        fields = dict(ask.fields)
        extra |= {**self._body, **fields.pop("extra_body", {})}
        return plain | fields, extra

    async def deltas(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        plain, extra = self._common(ask)
        sampling = ask.sampling
        if sampling.return_logprob:
            plain["logprobs"] = True
            if sampling.top_logprobs_num:
                plain["top_logprobs"] = sampling.top_logprobs_num
        if ask.continues:
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        messages = [dict(message) for message in ask.prompt]  # type: ignore[arg-type]
        stream = await self._client.chat.completions.create(messages=messages, extra_body=extra, **plain)
        async for delta in chat_deltas(stream, sampling.max_tokens):
            yield delta

    async def scores(self, prompt: str, choices: Sequence[str], alone: bool) -> Scored:
        raise NotImplementedError  # a chat has no place for a text to score: refused where the select is said

    async def close(self) -> None:
        await self._client.close()


class CompletionsService(OpenAIService):
    """The same server, asked to go on with a text."""

    async def deltas(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        plain, extra = self._common(ask)
        if ask.sampling.return_logprob:
            plain["logprobs"] = ask.sampling.top_logprobs_num or 0
        stream = await self._client.completions.create(prompt=ask.prompt, extra_body=extra, **plain)
        async with closing(stream):
            async for chunk in stream:
                for choice in field_of(chunk, "choices") or ():
                    yield Delta(
                        index=choice.index,
                        text=choice.text or "",
                        finish=finish_of(choice, ask.sampling.max_tokens),
                        logprobs=_completion_logprobs(field_of(choice, "logprobs")),
                    )
                if (counts := usage_of(chunk)) is not None:
                    yield counts

    async def scores(self, prompt: str, choices: Sequence[str], alone: bool) -> Scored:
        reply = await self._echoed([prompt + choice for choice in choices])
        scored = Scored([_suffix(each, choice) for each, choice in zip(reply[0], choices)], None, *reply[1:])
        if alone:
            reply = await self._echoed(list(choices))
            scored.alone = [_suffix(each, choice) for each, choice in zip(reply[0], choices)]
            scored.prompt, scored.cached = scored.prompt + reply[1], scored.cached + reply[2]
        return scored

    async def _echoed(self, texts: list[str]) -> tuple[list[list[TokenLogprob]], int, int]:
        """The log-probabilities of all tokens of texts, and the tokens of prompts and of cache that they took."""
        reply = await self._client.completions.create(
            model=self._model, prompt=texts, max_tokens=0, echo=True, logprobs=1, temperature=0, extra_body=self._body
        )
        found = sorted(reply.choices, key=lambda choice: choice.index)
        if len(found) != len(texts) or any(field_of(choice, "logprobs") is None for choice in found):
            raise Garbled("it told no log-probabilities of the prompt (echo=True, logprobs=1); its server cannot score")
        counts = usage_of(reply) or Delta()
        return [_completion_logprobs(choice.logprobs) for choice in found], counts.prompt or 0, counts.cached or 0


class closing:
    """Close a stream of a client package at the end of a block, so that its connection is let go."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *error: object) -> None:
        close = getattr(self._stream, "aclose", None) or getattr(self._stream, "close", None)
        if close is not None and isawaitable(done := close()):
            await done


async def chat_deltas(stream: Any, max_tokens: int | None) -> AsyncGenerator[Delta, None]:
    """The deltas of a stream of Chat Completions."""
    refusals: dict[int, str] = {}
    async with closing(stream):
        async for chunk in stream:
            for choice in field_of(chunk, "choices") or ():
                index, delta = field_of(choice, "index") or 0, field_of(choice, "delta")
                if delta is not None and (refusal := field_of(delta, "refusal")):
                    refusals[index] = refusals.get(index, "") + refusal
                finish = finish_of(choice, max_tokens)
                if finish is not None and index in refusals:
                    raise Withheld(f"refused: {refusals[index]}")
                yield Delta(
                    index=index,
                    text=(field_of(delta, "content") if delta is not None else None) or "",
                    finish=finish,
                    logprobs=_chat_logprobs(field_of(choice, "logprobs")),
                )
            if (counts := usage_of(chunk)) is not None:
                yield counts


def response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _guide(constraint: Constraint, name: str, where: str) -> tuple[str, Any]:
    """A constraint under vLLM's name for its kind."""
    if isinstance(constraint, JsonSchema):
        return "json", constraint.schema
    if isinstance(constraint, Choices):
        return "choice", list(constraint.choices)
    if isinstance(constraint, Regex):
        return "regex", constraint.pattern
    if isinstance(constraint, Grammar) and constraint.syntax == "ebnf":
        return "grammar", constraint.source
    raise refused(constraint, name, where)


def finish_of(choice: Any, max_tokens: int | None) -> dict[str, Any] | None:
    """Why a choice ended; None while it has not. Raises `Withheld` for an answer that a filter stopped."""
    reason = field_of(choice, "finish_reason")
    if reason is None:
        return None
    if reason in ("content_filter", "refusal"):
        raise Withheld(str(reason))
    if reason == "length":
        return {"type": "length", "length": max_tokens}
    matched = field_of(choice, "matched_stop")
    matched = field_of(choice, "stop_reason") if matched is None else matched
    kind = reason if reason not in ("eos", "end_turn") else "stop"
    return {"type": kind, "matched": matched if isinstance(matched, (str, int)) else None}


def usage_of(chunk: Any) -> Delta | None:
    """The counts that a chunk tells."""
    usage = field_of(chunk, "usage")
    if usage is None:
        return None
    cached = field_of(field_of(usage, "prompt_tokens_details"), "cached_tokens")
    return Delta(prompt=field_of(usage, "prompt_tokens"), cached=cached, generated=field_of(usage, "completion_tokens"))


def _chat_logprobs(told: Any) -> list[TokenLogprob]:
    rows = (field_of(told, "content") if told is not None else None) or ()
    return [
        TokenLogprob(
            field_of(row, "logprob"),
            UNTOLD,
            field_of(row, "token"),
            tuple((field_of(t, "logprob"), UNTOLD, field_of(t, "token")) for t in field_of(row, "top_logprobs") or ()),
        )
        for row in rows
    ]


def _completion_logprobs(told: Any) -> list[TokenLogprob]:
    if told is None:
        return []
    tokens, logprobs = field_of(told, "tokens") or (), field_of(told, "token_logprobs") or ()
    tops = field_of(told, "top_logprobs") or [None] * len(tokens)
    return [
        TokenLogprob(logprob, UNTOLD, token, tuple((p, UNTOLD, t) for t, p in (top or {}).items()))
        for token, logprob, top in zip(tokens, logprobs, tops)
    ]


def _suffix(rows: Sequence[TokenLogprob], choice: str) -> list[TokenLogprob]:
    """The rows of the tokens that spell `choice` at the end of a text; the first may begin before it."""
    found: list[TokenLogprob] = []
    length = 0
    for row in reversed(rows):
        if length >= len(choice):
            break
        found.append(row)
        length += len(row.text or "")
    if not found:
        raise Garbled("it told no tokens of a text that it was to score")
    return found[::-1]


class OpenAI(RemoteBackend):
    """Programs on OpenAI's models, or on a server that has its API.

    Needs the package `openai` (`pip install 'sgl[openai]'`). What the service cannot do is refused with
    `CapabilityError` where the program says it, before anything is sent. [Remote backends](../remote.md) has the table.

    Args:
        model: The name of the model.
        base_url: Where the API is; default OpenAI, or `OPENAI_BASE_URL`.
        api_key: Default `OPENAI_API_KEY`; a server of your own may need none.
        is_chat_model: Ask through Chat Completions, else through Completions; default: by the model's name.
        server: What has the API: "openai" (default), "vllm" or "sglang". The last two take more options.
        constrain: "native" (default: the service enforces a constraint), "validate" (each answer is checked, and asked
            for again), or "refuse". Answers are always checked.
        repairs: With "validate", how often an answer is asked for again; default 2.
        select: For a chat: "refuse" (default), or "choice" (the model writes one of the choices, under `constrain`).
        prefill: A call may go on with text of its turn (`server="vllm"` or `"sglang"`); default False.
        chat_template: How roles are written for Completions: "chatml", a file, or a Jinja template's text;
            default none, so roles raise.
        retries: How often a request is sent again after a status of 408, 429 or 5xx or a lost connection, if nothing of
            its answer was streamed; default 2.
        timeout: Seconds without any news of a request; default 600.
        max_concurrency: Requests at a time; default 64.
        extra_body: Fields added to each request; default none.
        **options: Passed to `openai.AsyncOpenAI`.

    Raises:
        BackendError: The package `openai` is missing, or it refuses its options.
        OptionError: An option has a value that it cannot have.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def capital(s, country):
        ...     s += sgl.user(f"The capital of {country}?") + sgl.assistant(sgl.gen("answer", max_tokens=16))
        >>> backend = sgl.OpenAI("gpt-4o-mini", api_key="...")  # doctest: +SKIP
        >>> capital.run("France", backend=backend)["answer"]  # doctest: +SKIP
        'Paris.'
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        is_chat_model: bool | None = None,
        server: str = "openai",
        constrain: str = "native",
        repairs: int = 2,
        select: str = "refuse",
        prefill: bool = False,
        chat_template: str | ChatTemplate | None = None,
        retries: int = 2,
        timeout: float = 600.0,
        max_concurrency: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        model_of("OpenAI", model)
        one_of("OpenAI: server", server, *SERVERS)
        one_of("OpenAI: select", select, "refuse", "choice")
        number("OpenAI: timeout", timeout, 0.001)
        if prefill and server == "openai":
            raise OptionError(
                "OpenAI: prefill=True needs server='vllm' or 'sglang': OpenAI's API cannot go on with a turn"
            )
        chat = not model.startswith(_COMPLETION_MODELS) if is_chat_model is None else is_chat_model
        package = needed("openai", "sgl.OpenAI")
        elsewhere = base_url or os.environ.get("OPENAI_BASE_URL")
        if elsewhere and not api_key:
            api_key = os.environ.get("OPENAI_API_KEY") or "none"
        try:
            client = package.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout, **options)
        except (package.OpenAIError, TypeError) as error:
            raise BackendError(f"sgl.OpenAI: the package openai refuses its options: {error}") from error
        limit = "max_completion_tokens" if chat and not elsewhere else "max_tokens"
        service_type = OpenAIService if chat else CompletionsService
        name = f"OpenAI({model})"
        super().__init__(
            service_type(client, package, model, name, server, limit, extra_body or {}),
            model=model,
            chat=chat,
            template=template_given(chat_template),
            prefill=prefill if chat else True,
            native=KINDS_OF[server] if chat or server != "openai" else (),
            logprobs=True,
            select=select if chat else "logprobs",
            constrain=constrain,
            repairs=repairs,
            retries=retries,
            max_concurrency=max_concurrency,
        )


def template_given(asked: str | ChatTemplate | None) -> ChatTemplate | None:
    """A chat template as a user gives it."""
    if asked is None or isinstance(asked, ChatTemplate):
        return asked
    from ..runtime.options import template_of

    return template_of(asked, None)
