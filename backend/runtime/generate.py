"""One-off generation: prompts in, dictionaries out, without a program.

Owns: SGLang's `generate` surface (its parameter names and its result) over plain branches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...lang.errors import NotYet, OptionError
from ...lang.expr import Sampling
from ..base import GenRequest, GenResult, Handle
from ..meta import call_id, of_gen
from .branch import Branch

if TYPE_CHECKING:
    from .runtime import Runtime

_RENAMED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}
_CONSTRAINTS = ("regex", "json_schema", "ebnf", "structural_tag")


class Generation:
    """One call of `generate`: a branch a prompt."""

    def __init__(
        self,
        runtime: Runtime,
        prompt: str | Sequence[str] | None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None,
        params: Mapping[str, Any],
        return_logprob: bool,
        logprob_start_len: int | None,
        top_logprobs_num: int | None,
    ) -> None:
        self.runtime = runtime
        self.single, prompts = _prompts(prompt, input_ids)
        sampling = _sampling(params, return_logprob, logprob_start_len, top_logprobs_num)
        self.calls: list[tuple[Branch, Handle[list[GenResult]]]] = []
        for each in prompts:
            branch = runtime.open(seed=sampling.seed)
            if isinstance(each, str):
                branch.append(each)
            else:
                branch.append_tokens(each)
            self.calls.append((branch, branch.gen(GenRequest(sampling, sampling.n or 1, "generate"))))

    def results(self) -> Any:
        try:
            for _, handle in self.calls:
                self.runtime.wait(handle)
            return self._shaped()
        finally:
            self._close()

    async def results_async(self) -> Any:
        try:
            for _, handle in self.calls:
                await self.runtime.wait_async(handle)
            return self._shaped()
        finally:
            self._close()

    def pieces(self) -> Iterator[str]:
        handle = self._streamed()
        seen = 0
        try:
            while True:
                self.runtime.wait(handle, seen)
                piece = handle.text[seen:]
                if piece:
                    seen += len(piece)
                    yield piece
                elif handle.done:
                    handle.value()
                    return
        finally:
            self._close()

    async def pieces_async(self) -> AsyncIterator[str]:
        handle = self._streamed()
        seen = 0
        try:
            while True:
                await self.runtime.wait_async(handle, seen)
                piece = handle.text[seen:]
                if piece:
                    seen += len(piece)
                    yield piece
                elif handle.done:
                    handle.value()
                    return
        finally:
            self._close()

    def _streamed(self) -> Handle[list[GenResult]]:
        if len(self.calls) != 1:
            self._close()
            raise OptionError("generate(stream=True) takes one prompt; make one call a prompt")
        return self.calls[0][1]

    def _shaped(self) -> Any:
        out: list[Any] = []
        for _, handle in self.calls:
            samples = [as_dict(r) for r in handle.value()]
            out.append(samples[0] if len(samples) == 1 else samples)
        return out[0] if self.single else out

    def _close(self) -> None:
        for branch, handle in self.calls:
            if not handle.done:
                branch.cancel()
            branch.close()


def as_dict(result: GenResult) -> dict[str, Any]:
    return {"text": result.text, "output_ids": list(result.token_ids), "meta_info": of_gen(call_id("generate"), result)}


def _prompts(prompt: Any, input_ids: Any) -> tuple[bool, list[Any]]:
    if (prompt is None) == (input_ids is None):
        raise OptionError("generate takes prompt= or input_ids=, one of them")
    if prompt is not None:
        if isinstance(prompt, str):
            return True, [prompt]
        if isinstance(prompt, Sequence) and all(isinstance(p, str) for p in prompt):
            return False, list(prompt)
        raise OptionError(f"prompt must be a string or a list of strings, got {type(prompt).__name__}")
    if not isinstance(input_ids, Sequence) or not input_ids:
        raise OptionError("input_ids must be a list of token ids, or a list of such lists")
    if isinstance(input_ids[0], int):
        return True, [list(input_ids)]
    return False, [list(ids) for ids in input_ids]


def _sampling(params: Mapping[str, Any], return_logprob: bool, start: int | None, top: int | None) -> Sampling:
    given = {_RENAMED.get(name, name): value for name, value in params.items()}
    for name in _CONSTRAINTS:
        if given.pop(name, None) is not None:
            raise NotYet(f"generate: {name} is not supported by this version of sgl yet; it was not ignored")
    if return_logprob:
        given["return_logprob"] = True
    if start is not None:
        given["logprob_start_len"] = start
    if top is not None:
        given["top_logprobs_num"] = top
    return Sampling.of("generate", **given)
