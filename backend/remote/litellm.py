"""`sgl.LiteLLM`: programs on any service that the package `litellm` knows, through its Chat Completions.

Knows nothing of branches. Which options a model takes is what `litellm` says of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from .anthropic import lost_connections
from .backend import RemoteBackend, model_of
from .openai import TAKEN, OpenAIService, chat_deltas
from .options import number, one_of
from .service import Ask, Delta, needed


class LiteLLMService(OpenAIService):
    """Requests for one model through the package `litellm`. `call` are arguments of each of its calls."""

    def __init__(self, package: Any, model: str, call: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        known = set(package.get_supported_openai_params(model=model) or ())
        self._package, self._call = package, dict(call)
        self.name, self._model, self._server = f"LiteLLM({model})", model, "openai"
        self.taken = {option: how for option, how in TAKEN["openai"].items() if how.wire in known}
        self.can_log, self.can_format = "logprobs" in known, "response_format" in known
        self._limit = "max_completion_tokens" if "max_completion_tokens" in known else "max_tokens"
        self._body = dict(body)
        errors = getattr(package, "exceptions", package)
        named = [getattr(errors, name, None) for name in ("APIConnectionError", "Timeout")]
        self.unreachable = (*(error for error in named if error is not None), *lost_connections("httpx2", "httpx"))

    async def deltas(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        plain, extra = self._common(ask)
        if ask.sampling.return_logprob:
            plain["logprobs"] = True
            if ask.sampling.top_logprobs_num:
                plain["top_logprobs"] = ask.sampling.top_logprobs_num
        if extra:
            plain["extra_body"] = extra
        messages = [dict(message) for message in ask.prompt]  # type: ignore[arg-type]
        stream = await self._package.acompletion(messages=messages, **plain, **self._call)
        async for delta in chat_deltas(stream, ask.sampling.max_tokens):
            yield delta

    async def close(self) -> None:
        """Connections are the package's own."""


class LiteLLM(RemoteBackend):
    """Programs on any service that LiteLLM knows: Gemini, Vertex AI, Bedrock, Azure, Mistral, Groq, ...

    Needs the package `litellm` (`pip install 'sgl[litellm]'`). An option that LiteLLM says the model does not take is
    refused with `CapabilityError`. [Remote backends](../remote.md) has the table.

    Args:
        model: The model, by LiteLLM's name, such as "gemini/gemini-2.5-flash".
        base_url: Where the API is; default: LiteLLM knows.
        api_key: Default: the variable of the environment that LiteLLM reads for the service.
        constrain: "native" (default), "validate" or "refuse", as of `sgl.OpenAI`.
        repairs: With "validate", how often an answer is asked for again; default 2.
        select: "refuse" (default), or "choice" (the model writes one of the choices, under `constrain`).
        retries: How often a request is sent again after a status of 408, 429 or 5xx or a lost connection, if nothing of
            its answer was streamed; default 2.
        timeout: Seconds a request may take; default 600.
        max_concurrency: Requests at a time; default 64.
        extra_body: Fields added to each request; default none.
        **options: Arguments of each `litellm.acompletion` (`api_version`, `organization`, `vertex_project`, ...).

    Raises:
        BackendError: The package `litellm` is missing.
        OptionError: An option has a value that it cannot have.

    Example:
        >>> import sgl
        >>> backend = sgl.LiteLLM("gemini/gemini-2.5-flash", select="choice")  # doctest: +SKIP
        >>> @sgl.function
        ... def mood(s, text):
        ...     s += sgl.user(f"The mood of: {text}") + sgl.assistant(sgl.select("mood", ["good", "bad"]))
        >>> mood.run("It rains.", backend=backend)["mood"]  # doctest: +SKIP
        'bad'
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        constrain: str = "native",
        repairs: int = 2,
        select: str = "refuse",
        retries: int = 2,
        timeout: float = 600.0,
        max_concurrency: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        model_of("LiteLLM", model)
        one_of("LiteLLM: select", select, "refuse", "choice")
        number("LiteLLM: timeout", timeout, 0.001)
        package = needed("litellm", "sgl.LiteLLM")
        call = {"max_retries": 0, "timeout": timeout, **options}
        call |= {name: value for name, value in (("base_url", base_url), ("api_key", api_key)) if value is not None}
        service = LiteLLMService(package, model, call, extra_body or {})
        super().__init__(
            service,
            model=model,
            chat=True,
            prefill=False,
            native=("json_schema", "choices", "regex") if service.can_format else (),
            logprobs=service.can_log,
            select=select,
            constrain=constrain,
            repairs=repairs,
            retries=retries,
            max_concurrency=max_concurrency,
        )
