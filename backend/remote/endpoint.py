"""`sgl.RuntimeEndpoint`: programs on an SGLang server, through its native `/generate`.

Knows nothing of branches. The server takes one text, whose tokens are its own affair.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from ...lang.chat import ChatTemplate
from ...lang.constant import constant_pieces
from ...lang.constraint import Choices, Constraint, Grammar, JsonSchema, Regex
from ...lang.errors import CapabilityError, OptionError, ServiceError, SglError
from ...lang.expr import Appendable, as_expr
from ..base import TokenLogprob
from .backend import RemoteBackend
from .failures import failure
from .forms import as_pattern, refused
from .http import HttpClient, HttpFailure
from .loop import blocking
from .openai import UNTOLD, template_given
from .options import as_fields, number
from .service import Ask, Delta, Garbled, NativeForm, PromptText, Scored, Taken, WrittenText

_TAKEN: Mapping[str, Taken] = {
    "min_tokens": Taken("min_new_tokens"),
    "n": Taken("n"),
    "stop": Taken("stop"),
    "stop_token_ids": Taken("stop_token_ids"),
    "stop_regex": Taken("stop_regex"),
    "temperature": Taken("temperature"),
    "top_p": Taken("top_p"),
    "top_k": Taken("top_k"),
    "min_p": Taken("min_p"),
    "frequency_penalty": Taken("frequency_penalty"),
    "presence_penalty": Taken("presence_penalty"),
    "repetition_penalty": Taken("repetition_penalty"),
    "ignore_eos": Taken("ignore_eos"),
    "logit_bias": Taken("logit_bias"),
    "seed": Taken("sampling_seed"),
    "logprob_start_len": Taken("logprob_start_len"),
    "top_logprobs_num": Taken("top_logprobs_num"),
}
_BESIDE = ("n", "seed", "logprob_start_len", "top_logprobs_num")
"""Options that are written beside the sampling parameters, or only in some requests."""
_PARTIAL = "�"
"""What a server prints for the bytes of a character that is not whole yet."""


class SGLangService:
    """Requests to one SGLang server."""

    taken: Mapping[str, Taken] = _TAKEN
    unreachable: tuple[type[BaseException], ...]

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.name = f"SGLang at {client.host}:{client.port}"
        self.unreachable = client.unreachable
        self.takes_parts = False
        """Whether prompts go in parts: text with markup told apart, and tokens of what was written before."""

    def _prompt(self, prompt: str, more: str = "") -> dict[str, Any]:
        """The fields of a request that say its prompt, with more text at its end."""
        if not self.takes_parts or not isinstance(prompt, PromptText):
            return {"text": prompt + more}
        parts: list[Any] = []
        for text, markup in (*prompt.pieces, (more, False)):
            if isinstance(text, WrittenText):
                parts.append(list(text.token_ids))
            elif text:
                parts.append([text, markup])
        return {"parts": parts} if parts else {"text": ""}

    def native(self, constraint: Constraint, where: str) -> NativeForm:
        if isinstance(constraint, JsonSchema):
            return NativeForm({"json_schema": constraint.source})
        if isinstance(constraint, Regex):
            return NativeForm({"regex": constraint.pattern})
        if isinstance(constraint, Choices):
            return NativeForm({"regex": as_pattern(constraint.choices)})
        if isinstance(constraint, Grammar) and constraint.syntax == "ebnf":
            return NativeForm({"ebnf": constraint.source})
        raise refused(constraint, self.name, where)

    async def deltas(self, ask: Ask) -> AsyncGenerator[Delta, None]:
        sampling = ask.sampling
        parameters, _ = as_fields(sampling, self.taken, *_BESIDE)
        parameters |= ask.fields
        if sampling.max_tokens is not None:
            parameters["max_new_tokens"] = sampling.max_tokens
        if ask.n > 1:
            parameters["n"] = ask.n
        if ask.seed is not None:
            parameters["sampling_seed"] = ask.seed
        data = {**self._prompt(cast(str, ask.prompt)), "sampling_params": parameters, "stream": True}
        if sampling.return_logprob:
            start = -1 if sampling.logprob_start_len is None else sampling.logprob_start_len
            data |= {"return_logprob": True, "return_text_in_logprobs": True, "logprob_start_len": start}
            data["top_logprobs_num"] = sampling.top_logprobs_num or 0
        samples = [_Grown(sampling.stop or ()) for _ in range(ask.n)]
        async with self.client.send("POST", "/generate", data) as reply:
            async for line in reply.lines():
                if not line.startswith("data:"):
                    continue
                if (said := line[5:].strip()) == "[DONE]":
                    break
                news = _parsed(said)
                index = news.get("index") or 0
                if not 0 <= index < len(samples):
                    raise Garbled(f"it told of sample {index} of {ask.n}")
                yield samples[index].delta(index, news)
            await reply.rest()

    async def scores(self, prompt: str, choices: Sequence[str], alone: bool) -> Scored:
        none = {"max_new_tokens": 0, "temperature": 0}
        data = {**self._prompt(prompt), "sampling_params": none}
        whole = _told(await self.client.json("POST", "/generate", data), 1)[0]
        before = whole["prompt_tokens"]
        asked = {"sampling_params": none, "return_logprob": True, "return_text_in_logprobs": True}
        said = [self._prompt(prompt, choice) for choice in choices]
        field = next(iter(said[0]))
        data = {field: [each[field] for each in said], **asked, "logprob_start_len": max(before - 2, 0)}
        told = _told(await self.client.json("POST", "/generate", data), len(choices))
        found = [_scored(each, choice, each["prompt_tokens"] - before) for each, choice in zip(told, choices)]
        told.append(whole)
        without = None
        if alone:
            ids = [[token.token_id for token in tokens] for tokens in found]
            data = {"input_ids": ids, **asked, "logprob_start_len": 0}
            more = _told(await self.client.json("POST", "/generate", data), len(choices))
            without = [_rows(each.get("input_token_logprobs")) for each in more]
            told += more
        prompts = sum(each.get("prompt_tokens") or 0 for each in told)
        return Scored(found, without, prompts, sum(each.get("cached_tokens") or 0 for each in told))

    async def close(self) -> None:
        await self.client.close()


class _Grown:
    """One sample of a stream, which tells its whole text each time. `shown` characters were given on."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._shown = ""
        self._tokens = 0

    def delta(self, index: int, news: dict[str, Any]) -> Delta:
        meta, text = news.get("meta_info") or {}, news.get("text")
        if not isinstance(text, str):
            raise Garbled(f"its news {str(news)[:200]!r} have no text")
        finish = meta.get("finish_reason")
        if isinstance(finish, dict) and finish.get("type") == "abort":
            raise HttpFailure(int(finish.get("status_code") or 0), {}, json.dumps(finish).encode())
        if finish is None:
            text = text[: len(text) - held_back(text, self._stops)]
        if len(text) < len(self._shown) and finish is None:
            text = self._shown
        if not text.startswith(self._shown):
            raise Garbled(f"its text {text[-80:]!r} contradicts what it streamed before, {self._shown[-80:]!r}")
        piece, self._shown = text[len(self._shown) :], text
        delta = Delta(index, piece, finish, of_sample=True)
        delta.prompt, delta.cached = meta.get("prompt_tokens"), meta.get("cached_tokens")
        delta.generated = meta.get("completion_tokens")
        if finish is not None:
            delta.token_ids = news.get("output_ids") or ()
            delta.logprobs = _rows(meta.get("output_token_logprobs"), meta.get("output_top_logprobs"))
            if meta.get("input_token_logprobs"):
                delta.input_logprobs = _rows(meta["input_token_logprobs"], meta.get("input_top_logprobs"))
        return delta


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of an unfinished text that may still change: the begin of a stop, half a character."""
    held = len(text) - len(text.rstrip(_PARTIAL))
    for stop in stops:
        if (at := text.find(stop)) >= 0:
            held = max(held, len(text) - at)
        for length in range(min(len(stop), len(text)), held, -1):
            if text.endswith(stop[:length]):
                held = length
                break
    return held


def _parsed(said: str) -> dict[str, Any]:
    try:
        news = json.loads(said)
    except ValueError:
        raise Garbled(f"{said[:200]!r} is not JSON") from None
    if not isinstance(news, dict):
        raise Garbled(f"{said[:200]!r} is not an object")
    if "error" in news:
        raise HttpFailure(0, {}, said.encode())
    return news


def _told(reply: Any, n: int) -> list[dict[str, Any]]:
    """The meta information of a reply for n texts."""
    replies = reply if isinstance(reply, list) else [reply]
    found = [each.get("meta_info") if isinstance(each, dict) else None for each in replies]
    if len(found) != n or not all(isinstance(each, dict) and "prompt_tokens" in each for each in found):
        raise Garbled(f"{str(reply)[:200]!r} is no reply of /generate to {n} texts")
    return found  # type: ignore[return-value]


def _rows(told: Any, tops: Any = None) -> list[TokenLogprob]:
    """Rows [logprob, token id, text] as the server writes them."""
    rows = []
    for place, row in enumerate(told or ()):
        top = tops[place] if tops and place < len(tops) else None
        alternatives = tuple((p, t, text) for p, t, text in top or ())
        rows.append(
            TokenLogprob(row[0], UNTOLD if row[1] is None else row[1], row[2] if len(row) > 2 else None, alternatives)
        )
    return rows


def _scored(meta: dict[str, Any], choice: str, tokens: int) -> list[TokenLogprob]:
    """The rows of the tokens that spell `choice`. The first may begin before it, where the prompt's last token grew.

    `tokens`: how many more tokens there are than the prompt alone has, where no text tells.
    """
    rows = _rows(meta.get("input_token_logprobs"))
    texts = [row.text for row in rows]
    if all(text is not None and _PARTIAL not in text for text in texts):
        length, tokens = 0, 0
        for text in reversed(texts):
            if length >= len(choice):
                break
            length, tokens = length + len(text or ""), tokens + 1
    found = rows[-max(tokens, 1) :]
    if not found:
        raise Garbled("it told no log-probabilities of a text that it was to score")
    return found


class RuntimeEndpoint(RemoteBackend):
    """Programs on an SGLang server, through its native API. Needs no other package.

    Nothing is sent before the first call. The server tokenises the whole text, so text that spells a control token is
    one there, whoever wrote it.

    Args:
        url: Where the server is.
        api_key: Its key; default none.
        chat_template: How roles are written: "chatml", a file, or a Jinja template's text; or "server": as `sgl serve`
            tells, which is asked at once. Then prompts go in parts, so that only the template's own text may spell
            control tokens, and what was written before comes back as the same tokens. Default none: roles raise.
            `sgl.OpenAI(..., base_url=..., server="sglang")` lets an SGLang server write them.
        constrain: "native" (default: the server enforces a constraint), "validate" (each answer is checked, and asked
            for again), or "refuse". Answers are always checked.
        repairs: With "validate", how often an answer is asked for again; default 2.
        retries: How often a request is sent again after a status of 408, 429 or 5xx or a lost connection, if nothing of
            its answer was streamed; default 2.
        timeout: Seconds without any news of a request; default 600.
        max_concurrency: Requests at a time; default 64.
        verify: A file of certificates for https, or False to check none; default the system's.

    Raises:
        OptionError: An option has a value that it cannot have.
        CapabilityError: With `chat_template="server"`, the server tells no chat template.
        ServiceError: With it, the server cannot be reached.

    Example:
        >>> import sgl
        >>> sgl.RuntimeEndpoint("http://localhost:30000", chat_template="chatml")
        <sgl.RuntimeEndpoint SGLang at localhost:30000>
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        chat_template: str | ChatTemplate | None = None,
        constrain: str = "native",
        repairs: int = 2,
        retries: int = 2,
        timeout: float = 600.0,
        max_concurrency: int = 64,
        verify: str | bool | None = None,
    ) -> None:
        if not isinstance(url, str):
            raise OptionError(f"RuntimeEndpoint: url must be a string, got {url!r:.60}")
        number("RuntimeEndpoint: timeout", timeout, 0.001)
        self._client = HttpClient(url, api_key, timeout, verify)
        asks = chat_template == "server"
        service = SGLangService(self._client)
        super().__init__(
            service,
            model=url,
            chat=False,
            template=None if asks else template_given(chat_template),
            native=("json_schema", "choices", "regex", "ebnf"),
            logprobs=True,
            select="logprobs",
            constrain=constrain,
            repairs=repairs,
            retries=retries,
            max_concurrency=max_concurrency,
        )
        self._info: dict[str, Any] | None = None
        if asks:
            self.chat_template = self._servers_template()
            service.takes_parts = True

    def _servers_template(self) -> ChatTemplate:
        info = self.model_info
        source = info.get("chat_template") if isinstance(info, dict) and info.get("server") == "sgl" else None
        if not isinstance(source, str):
            raise CapabilityError(
                f"RuntimeEndpoint: {self._service.name} tells no chat template; give one, as in chat_template='chatml'"
            )
        return ChatTemplate(source, str(info.get("bos_token") or ""), str(info.get("eos_token") or ""), "chat template")

    @property
    def model_info(self) -> dict[str, Any]:
        """What the server says of its model (`model_path`, ...); asked once."""
        if self._info is None:
            self._info = self._asked("GET", "/get_model_info")
        return self._info

    def flush_cache(self) -> bool:
        """Let the server drop its cached KV; False if it was busy and kept it.

        Raises:
            ServiceError: the server cannot be reached, or refuses.

        Example:
            >>> import sgl
            >>> sgl.RuntimeEndpoint("http://localhost:30000").flush_cache()  # doctest: +SKIP
            True
        """
        try:
            self._asked("POST", "/flush_cache")
        except ServiceError as error:
            if error.status == 400:
                return False
            raise
        return True

    def get_server_info(self) -> dict[str, Any]:
        """Tell what the server says of itself, and the requests that were sent to it from here.

        Raises:
            ServiceError: the server cannot be reached, or refuses.

        Example:
            >>> import sgl
            >>> sgl.RuntimeEndpoint("http://localhost:30000").get_server_info()["model_path"]  # doctest: +SKIP
            'meta-llama/Llama-3.1-8B-Instruct'
        """
        try:
            info = self._asked("GET", "/server_info")
        except ServiceError as error:
            if error.status != 404:
                raise
            info = self._asked("GET", "/get_server_info")  # of older servers
        return {**(info if isinstance(info, dict) else {}), "service": self._client.host, **self._counts()}

    def health(self) -> bool:
        """Whether the server can be reached and says that it is well.

        Example:
            >>> import sgl
            >>> sgl.RuntimeEndpoint("http://localhost:9", timeout=1).health()
            False
        """
        try:
            self._asked("GET", "/health")
        except SglError:
            return False
        return True

    def cache_prefix(self, prefix: Appendable) -> int:
        """Let the server compute the KV of a leading text; its length in tokens. The server may drop it.

        Raises:
            ServiceError: the server cannot be reached, or refuses.
            OptionError: the model writes in `prefix`.

        Example:
            >>> import sgl
            >>> sgl.RuntimeEndpoint("http://localhost:30000").cache_prefix("The rules are:")  # doctest: +SKIP
            4
        """
        return self.pin(constant_pieces("cache_prefix", as_expr(prefix), self.chat_template))

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        text = "".join(text for text, _ in pieces)
        reply = self._asked("POST", "/generate", {"text": text, "sampling_params": {"max_new_tokens": 0}})
        meta = reply.get("meta_info") if isinstance(reply, dict) else None
        return int((meta or {}).get("prompt_tokens") or 0)

    def _asked(self, method: str, path: str, data: Any = None) -> Any:
        self._check_process()

        async def ask() -> Any:
            try:
                return await self._client.json(method, path, data)
            except Exception as error:
                raise failure(self._service, error, f"{method} {path}") from error

        return blocking(ask())
