"""One-off generation: prompts in, dictionaries out, without a program.

Owns: SGLang's `generate` surface (its parameter names and its result) over plain branches. Knows nothing of who waits:
its flows run on a thread or in a coroutine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...lang.constraint import Constraint, ebnf, json_schema, regex
from ...lang.errors import NotYet, OptionError, suggest
from ...lang.sampling import OPTIONS, SGLANG_NAMES, Sampling
from ...lang.tags.formats import structural_tag
from ..base import GenRequest, GenResult, Handle
from ..meta import call_id, of_gen
from ..waiting import AtHandle, Flow, StreamFlow
from .local import LocalBackend
from .program.branch import Branch

_CONSTRAINTS = {"regex": regex, "json_schema": json_schema, "ebnf": ebnf, "structural_tag": structural_tag}
SAMPLING_NAMES = frozenset(option.name for option in OPTIONS) | set(_CONSTRAINTS)


class GenerateCall:
    """One call of `generate`: a branch a prompt, whose gens are queued when the object is made. `calls` are these.
    `single`: one prompt was given, not a list of them.

    Raises `OptionError` for wrong parameters, `NotYet` for those of a later version, `ConstraintError`.
    """

    def __init__(
        self,
        backend: LocalBackend,
        prompt: str | Sequence[str] | None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None,
        params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        *,
        return_logprob: bool,
        logprob_start_len: int | None,
        top_logprobs_num: int | None,
        stream: bool,
        special_tokens: bool,
        parts: Sequence[Any] | None = None,
        timeout: float | None = None,
        **others: Any,
    ) -> None:
        _refuse(others)
        for name, flag in (("stream", stream), ("special_tokens", special_tokens), ("return_logprob", return_logprob)):
            if not isinstance(flag, bool):
                raise OptionError(f"generate: {name} must be True or False, got {flag!r:.60}")
        if special_tokens and prompt is None:
            raise OptionError("generate: special_tokens= is for a prompt of text; input_ids have their control tokens")
        self._backend = backend
        self.single, prompts = _prompts(prompt, input_ids) if parts is None else _of_parts(parts)
        asked = []
        for each in _params(params, prompts):
            given, constraint = _constraint(each)
            if constraint is not None:
                backend.prepare(constraint, "generate")
            asked.append((_sampling(given, return_logprob, logprob_start_len, top_logprobs_num), constraint))
        if stream:
            _check_stream(prompts, asked[0][0])
        self.calls: list[tuple[Branch, Handle[list[GenResult]]]] = []
        self._closers: list[Callable[[], None]] = []
        weakref.finalize(self, _call_all, self._closers)  # a stream that is dropped unread
        for i, each in enumerate(prompts):
            sampling, constraint = asked[i if len(asked) > 1 else 0]
            branch = backend.open(seed=sampling.seed, timeout=timeout)
            if isinstance(each, str):
                branch.append(each, markup=special_tokens)
            elif isinstance(each, tuple):
                _append(branch, each)
            else:
                branch.append_tokens(each)
            request = GenRequest(sampling, sampling.n or 1, "generate", constraint)
            self.calls.append((branch, branch.gen(request)))
            branch.rest()  # a prompt that is finished makes room for the next ones
            self._closers.append(branch.closer())

    def results(self) -> Flow[Any]:
        """Wait for all gens; a dictionary for each prompt, or the one of a single prompt."""
        try:
            for _, handle in self.calls:
                yield AtHandle(self._backend, handle)
            out: list[Any] = []
            for _, handle in self.calls:
                samples = [as_dict(result) for result in handle.value()]
                out.append(samples[0] if len(samples) == 1 else samples)
            return out[0] if self.single else out
        finally:
            _call_all(self._closers)

    def pieces(self) -> StreamFlow[str]:
        """The text of the one gen, piece by piece."""
        _, handle = self.calls[0]
        seen = 0
        try:
            while True:
                yield AtHandle(self._backend, handle, seen)
                piece = handle.text[seen:]
                if piece:
                    seen += len(piece)
                    yield piece
                elif handle.done:
                    handle.value()
                    return
        finally:
            _call_all(self._closers)


def _check_stream(prompts: list[Any], sampling: Sampling) -> None:
    if len(prompts) != 1:
        raise OptionError("generate(stream=True) takes one prompt; make one call a prompt")
    if (sampling.n or 1) > 1 or sampling.return_logprob:
        raise OptionError("generate(stream=True) gives pieces of one text; leave out n= and return_logprob=")


_OF_SGLANG = frozenset(
    (
        *("image_data", "audio_data", "video_data", "token_ids_logprob", "lora_path", "custom_logit_processor"),
        *("return_hidden_states", "session_params", "rid", "priority"),
    )
)
"""Parameters of SGLang's `generate` that this version does not carry out."""
_AS_EVER = {"skip_special_tokens": True, "spaces_between_special_tokens": True, "no_stop_trim": False}
"""Sampling parameters of SGLang that are taken with the value that says what is done here anyway."""
_PARAMETERS = (
    *("prompt", "sampling_params", "input_ids", "return_logprob", "logprob_start_len", "top_logprobs_num"),
    *("stream", "special_tokens"),
)


def _refuse(others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if name not in _OF_SGLANG:
            hint = suggest(name, _PARAMETERS)
            if SGLANG_NAMES.get(name, name) in SAMPLING_NAMES:
                hint = f"; it goes into sampling_params: generate(prompt, {{{name!r}: ...}})"
            raise OptionError(f"generate: unknown parameter {name!r}{hint}")
        if value is not None:
            raise NotYet(f"generate: {name}= is not supported by this version of sgl yet; leave it out")


def _call_all(closers: list[Callable[[], None]]) -> None:
    for close in closers:
        close()


def as_dict(result: GenResult) -> dict[str, Any]:
    """A gen's result as SGLang's `generate` returns it."""
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
    if isinstance(input_ids, str) or not hasattr(input_ids, "__len__") or not len(input_ids):
        raise OptionError("input_ids must be a list of token ids, or a list of such lists")
    if hasattr(input_ids[0], "__index__"):
        return True, [_ids(input_ids)]
    return False, [_ids(ids) for ids in input_ids]


def _of_parts(parts: Any) -> tuple[bool, list[Any]]:
    """Prompts in parts. A part is a text and whether it is markup, or a list of token ids; a prompt a list of parts."""
    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise OptionError("parts must be a list of parts, or a list of such lists")
    if all(isinstance(each, Sequence) and each and _is_part(each[0]) for each in parts):
        return False, [tuple(map(_part, each)) for each in parts]
    return True, [tuple(map(_part, parts))]


def _is_part(part: Any) -> bool:
    return isinstance(part, Sequence) and not isinstance(part, str)


def _part(part: Any) -> tuple[str, bool] | list[int]:
    if _is_part(part):
        if len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], bool):
            return part[0], part[1]
        if part and not isinstance(part[0], str):
            return _ids(part)
    raise OptionError(f"a part must be [text, whether it is markup] or a list of token ids, got {part!r:.60}")


def _append(branch: Branch, parts: Sequence[tuple[str, bool] | list[int]]) -> None:
    for part in parts:
        if isinstance(part, tuple):
            branch.append(part[0], markup=part[1])
        else:
            branch.append_tokens(part)


def _params(params: Any, prompts: list[Any]) -> list[Mapping[str, Any]]:
    """The parameters of each prompt, or the one set of all of them."""
    if params is None or isinstance(params, Mapping):
        return [params or {}]
    if not isinstance(params, Sequence) or not all(isinstance(each, Mapping) for each in params):
        raise OptionError(f"sampling_params must be a dict, or a list with one for each prompt, got {params!r:.60}")
    if len(params) != len(prompts):
        raise OptionError(f"sampling_params has {len(params)} dicts for {len(prompts)} prompts; give one a prompt")
    return list(params) or [{}]


def _ids(values: Any) -> list[int]:
    """Token ids as plain integers, whatever holds them (a list, an array)."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise OptionError(f"input_ids must hold token ids, got {values!r:.60}")
    found = list(values)
    for value in found:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise OptionError(f"input_ids must hold token ids, got {value!r:.60}")
    return [int(value.__index__()) for value in found]


def _constraint(params: Mapping[str, Any]) -> tuple[dict[str, Any], Constraint | None]:
    """The parameters without their constraint, and the constraint."""
    given = {name: value for name, value in params.items() if name not in _CONSTRAINTS}
    asked = {name: params[name] for name in _CONSTRAINTS if params.get(name) is not None}
    if len(asked) > 1:
        raise OptionError(f"generate: {' and '.join(asked)} together; give one of them")
    for name, value in asked.items():
        return given, _CONSTRAINTS[name](value)
    return given, None


def _sampling(params: Mapping[str, Any], return_logprob: bool, start: int | None, top: int | None) -> Sampling:
    given = {SGLANG_NAMES.get(name, name): value for name, value in params.items()}
    for name, usual in _AS_EVER.items():
        if (value := given.pop(name, usual)) != usual:
            raise NotYet(f"generate: {name}={value!r} is not supported by this version of sgl yet; leave it out")
    if return_logprob:
        given["return_logprob"] = True
    if start is not None:
        given["logprob_start_len"] = start
    if top is not None:
        given["top_logprobs_num"] = top
    if not given.get("return_logprob") and (
        given.get("logprob_start_len") is not None or given.get("top_logprobs_num")
    ):
        raise OptionError("generate: logprob_start_len and top_logprobs_num need return_logprob=True")
    return Sampling.of("generate", **given)
