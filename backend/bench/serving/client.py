"""One request to a server, timed while its answer is streamed. Knows nothing of other requests."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....lang.errors import OptionError
from ...remote.http import HttpClient, HttpFailure
from .prompts import BenchRequest

ROUTES = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions", "sglang": "/generate"}
"""The API to use, and its route."""
_TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Fields of a chat's delta that bring new text."""


@dataclass
class Timed:
    """One request that has ended. Times are seconds; those of the answer count from `began`.

    `gaps`: between one event with text and the next. `error` is empty if it was answered.
    """

    began: float
    first: float = 0.0
    whole: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    error: str = ""


class BenchClient:
    """Sends requests to one server."""

    def __init__(self, url: str, backend: str, model: str | None, key: str | None, timeout: float,
                 extra: Mapping[str, Any]) -> None:  # fmt: skip
        if backend not in ROUTES:
            raise OptionError(f"--backend {backend!r}: it must be one of {', '.join(ROUTES)}")
        url = url.rstrip("/").removesuffix("/v1")
        self._backend, self._route = backend, ROUTES[backend]
        self._client = HttpClient(url, key, timeout)
        self._extra = dict(extra)
        if backend != "sglang":
            self._extra |= {"stream_options": {"include_usage": True}}
            self._extra |= {} if model is None else {"model": model}

    async def close(self) -> None:
        await self._client.close()

    async def models(self) -> list[str]:
        """The models that the server has."""
        if self._backend == "sglang":
            return [str((await self._client.json("GET", "/get_model_info")).get("model_path"))]
        return [str(each["id"]) for each in (await self._client.json("GET", "/v1/models"))["data"]]

    async def send(self, request: BenchRequest, temperature: float) -> Timed:
        """Send a request and read its answer. What goes wrong is in the result."""
        timed = Timed(time.perf_counter())
        try:
            async with self._client.send("POST", self._route, self._body(request, temperature)) as reply:
                last = 0.0
                async for line in reply.lines():
                    if not line.startswith("data:") or (said := line[5:].strip()) == "[DONE]":
                        continue
                    now = time.perf_counter()
                    if self._read(timed, json.loads(said)):
                        if last:
                            timed.gaps.append(now - last)
                        else:
                            timed.first = now - timed.began
                        last = now
                    timed.whole = now - timed.began
        except HttpFailure as failure:
            timed.error = f"status {failure.status_code}: {_said(failure.body)}"
        except (OSError, EOFError, ValueError, KeyError, TypeError, TimeoutError) as error:
            timed.error = f"{type(error).__name__}: {str(error)[:200]}"
        else:
            if not timed.error and not timed.first:
                timed.error = "no text came"
        return timed

    def _body(self, request: BenchRequest, temperature: float) -> dict[str, Any]:
        most = request.max_tokens
        if self._backend == "sglang":
            sampling = {"max_new_tokens": most, "temperature": temperature, **self._extra}
            return {"text": request.prompt, "sampling_params": sampling, "stream": True}
        body = {"max_tokens": most, "temperature": temperature, "stream": True, **self._extra}
        if self._backend == "openai":
            return {"prompt": request.prompt, **body}
        prompt = request.prompt
        return {"messages": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, **body}

    def _read(self, timed: Timed, event: dict[str, Any]) -> bool:
        """Take what an event tells; whether it has new text."""
        if (error := event.get("error")) is not None:
            timed.error = str(error.get("message") if isinstance(error, dict) else error)[:200]
            return False
        if self._backend == "sglang":
            meta = event["meta_info"]
            grew = meta["completion_tokens"] > timed.output_tokens
            timed.prompt_tokens, timed.output_tokens = meta["prompt_tokens"], meta["completion_tokens"]
            timed.cached_tokens = meta.get("cached_tokens") or 0
            return bool(grew)
        if (usage := event.get("usage")) is not None:
            timed.prompt_tokens, timed.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            timed.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        for choice in event["choices"]:
            delta = choice.get("delta") or {}
            if choice.get("text") or any(
                delta.get(k) for k in ("content", "reasoning_content", "reasoning", "tool_calls")
            ):
                return True
        return False


def _said(body: Any) -> str:
    """What the body of an error says, in the forms of several servers."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
