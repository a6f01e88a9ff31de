"""SGLang's own `/generate`: `Runtime.generate` behind HTTP. Knows nothing of HTTP itself.

The texts and parameters are those of `backend/runtime/generate.py`. A stream gives the whole text so far in each event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from ...meta import call_id
from ...runtime.generate import GenerateCall, as_dict
from ..errors import RequestError
from ..fields import GENERATE, flag
from ..serving import Serving
from ..work import RequestWork

API = "generate"


def read_generate(body: Mapping[str, Any], serving: Serving) -> tuple[GenerateCall, bool]:
    """Check a body and queue its gens; the call, and whether it is to be streamed."""
    GENERATE.check(body)
    stream = flag(API, body, "stream")
    params = body.get("sampling_params")
    if stream and isinstance(params, Mapping) and params.get("n") not in (None, 1):
        raise RequestError(f"{API}: a stream gives one sample of a prompt; leave out n", param="sampling_params")
    if body.get("return_text_in_logprobs") is not None:
        value = flag(API, body, "return_text_in_logprobs")
        if params is None or isinstance(params, Mapping):
            params = {**(params or {}), "return_text_in_logprobs": value}
        elif isinstance(params, list) and all(isinstance(each, Mapping) for each in params):
            params = [{**each, "return_text_in_logprobs": value} for each in params]
    _check_scalars(body)
    given = [name for name in ("text", "input_ids", "parts") if body.get(name) is not None]
    if len(given) != 1:
        raise RequestError(f"{API}: give one of text, input_ids and parts", param=given[1] if given else "text")
    call = GenerateCall(
        serving.runtime, body.get("text"), body.get("input_ids"), params,
        return_logprob=flag(API, body, "return_logprob"), logprob_start_len=body.get("logprob_start_len"),
        top_logprobs_num=body.get("top_logprobs_num"), stream=False, special_tokens=flag(API, body, "special_tokens"),
        parts=body.get("parts"), timeout=serving.options.request_timeout,
    )  # fmt: skip
    return call, stream


def _check_scalars(body: Mapping[str, Any]) -> None:
    for name in ("logprob_start_len", "top_logprobs_num"):
        if isinstance(body.get(name), (list, dict)):
            raise RequestError(f"{API}: {name} must be one number for all prompts", param=name)
    for name in ("text", "input_ids"):
        if body.get(name) == []:
            raise RequestError(f"{API}: {name} must not be empty", param=name)


async def events(work: RequestWork, rid: str | None, batch: bool) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream: the result so far, with its `index` in a batch."""
    ids: Sequence[str] = [rid or call_id("generate") for _ in work.calls]
    async for growth in work.growths(details=True):
        result = growth.result or growth.so_far
        if result is None:  # it ended meanwhile: the next event tells
            continue
        told = as_dict(result)
        told["meta_info"]["id"] = ids[growth.index]
        yield {**told, "index": growth.index} if batch else told
