"""`/v1/completions`: prompts in, their continuations out, whole or as a stream. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....lang.sampling import shown
from ...base import GenResult
from ...runtime.text.tokenizer import Tokenizer
from ..calling import prepare
from ..errors import RequestError
from ..fields import COMPLETIONS, count, flag
from ..serving import Serving
from ..work import PromptRequest, RequestWork
from .asked import MOST_TOP_LOGPROBS, constraint_field, constraint_of, sampling_of, wants_usage
from .chat import head, usage_of
from .logprobs import Shown, of_completion

API = "completions"
DEFAULT_TOKENS = 16
"""As in OpenAI's API."""
MOST_PROMPTS = 1024


@dataclass(frozen=True)
class CompletionRequest:
    """A checked request. `echoes`: the prompts as text, if they are to be told again."""

    asks: list[PromptRequest]
    echoes: list[str] | None
    top: int | None
    stream: bool
    usage: bool

    @property
    def each(self) -> int:
        """Samples of a prompt."""
        return self.asks[0].n


def read_completion(body: Mapping[str, Any], serving: Serving) -> CompletionRequest:
    """Check a body. Raises `RequestError`, and the errors of constraints."""
    COMPLETIONS.check(body)
    prompts = _prompts(body.get("prompt"))
    special = flag(API, body, "special_tokens")
    echo, stream = flag(API, body, "echo"), flag(API, body, "stream")
    asked = body.get("logprobs")
    if isinstance(asked, bool):
        asked = 0 if asked else None
    top = None if asked is None else count(API, "logprobs", asked, MOST_TOP_LOGPROBS)
    if stream and echo and top is not None:
        raise RequestError(f"{API}: echo with logprobs cannot be streamed; leave out stream", param="stream")
    constraint = constraint_of(API, body)
    prepare(API, constraint_field(body), serving.runtime, constraint)
    sampling = sampling_of(API, body, DEFAULT_TOKENS if constraint is None else None, top)
    if echo and top is not None:
        sampling = replace(sampling, logprob_start_len=0)
    asks = [
        PromptRequest([(prompt, special)] if isinstance(prompt, str) else prompt, sampling, sampling.n or 1, constraint)
        for prompt in prompts
    ]
    if sum(ask.n for ask in asks) > MOST_PROMPTS:
        raise RequestError(f"{API}: prompts times n may be {MOST_PROMPTS} at most", param="n")
    spell = serving.runtime.tokenizer.spell
    echoes = [prompt if isinstance(prompt, str) else spell(prompt) for prompt in prompts] if echo else None
    return CompletionRequest(asks, echoes, top, stream, wants_usage(API, body))


def _prompts(given: Any) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if (isinstance(given, list) and given and len(given) <= MOST_PROMPTS) or _ids(given):
        if _ids(given):
            return [given]
        if all(isinstance(each, str) or _ids(each) for each in given):
            return list(given)
    raise RequestError(
        f"{API}: prompt must be a text, a list of token ids, or a list of up to {MOST_PROMPTS} of either, got "
        f"{shown(given)}",
        param="prompt",
    )


def _ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**31 for each in value)
    )


class CompletionWriter:
    """Turns the text of one choice into parts with their log-probabilities."""

    def __init__(self, request: CompletionRequest, index: int, tokenizer: Tokenizer) -> None:
        self._top = request.top
        self._lead = "" if request.echoes is None else request.echoes[index // request.each]
        self._shown = None if request.top is None else Shown(tokenizer)
        self._text, self._told = "", False

    def write(self, text: str, so_far: GenResult | None, result: GenResult | None) -> dict[str, Any]:
        lead, self._told = "" if self._told else self._lead, True
        before = len(self._lead) + len(self._text)
        self._text += text
        logprobs = None
        known = result or so_far
        if self._shown is not None and known is not None:
            tokens = self._shown.take(known.logprobs or (), self._text, result is not None)
            if known.input_logprobs is not None:
                tokens, before = [*known.input_logprobs, *tokens], 0
            logprobs = of_completion(tokens, before, self._top or 0)
        finish = None if result is None else result.finish_reason["type"]
        return {"text": lead + text, "logprobs": logprobs, "finish_reason": finish}


async def answer(request: CompletionRequest, work: RequestWork, model: str) -> dict[str, Any]:
    """The whole answer."""
    results = await work.results()
    choices = [
        {"index": i, **CompletionWriter(request, i, work.backend.tokenizer).write(result.text, None, result)}
        for i, result in enumerate(results)
    ]
    usage = usage_of(results, len(request.asks), request.each)
    return {**head("text_completion", "cmpl", model), "choices": choices, "usage": usage}


async def events(request: CompletionRequest, work: RequestWork, model: str) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a stream."""
    top = head("text_completion", "cmpl", model)
    more: dict[str, Any] = {"usage": None} if request.usage else {}
    writers = [CompletionWriter(request, i, work.backend.tokenizer) for i in range(len(work.calls))]
    results: dict[int, GenResult] = {}
    async for growth in work.growths(request.top is not None):
        part = writers[growth.index].write(growth.text, growth.so_far, growth.result)
        if growth.result is not None:
            results[growth.index] = growth.result
        yield {**top, "choices": [{"index": growth.index, **part}], **more}
    if request.usage:
        usage = usage_of([results[i] for i in sorted(results)], len(request.asks), request.each)
        yield {**top, "choices": [], "usage": usage}
