"""The peer of `programs.py`: the same programs over `transformers`, re-sending the whole text with every call.

Owns: a `Backend` (the protocol the runtime implements) whose branch is a list of pieces of text. Every gen tokenises
the whole text and calls `model.generate`; every select scores each choice with a whole forward; a fork copies the text.
One call at a time, with `generate`'s own KV cache within a call. `tokens` counts what went through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StoppingCriteriaList,
    StopStringCriteria,
)

from sgl.backend.base import (
    Capabilities,
    ChoiceScores,
    GenRequest,
    GenResult,
    Handle,
    ScoreRequest,
    ScoreResult,
    TokenLogprob,
    Usage,
)
from sgl.backend.runtime.model.load.loader import Checkpoint
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.lang.chat import ChatTemplate


class NaiveBackend:
    """Same weights, same tokenizer, same chat template as the runtime it is compared with."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.tokenizer = tokenizer
        self.chat_template = template
        self.capabilities = Capabilities(name="transformers")
        self.model = transformers_model(checkpoint)
        self.fast = PreTrainedTokenizerFast(tokenizer_object=checkpoint.tokenizer)
        self.tokens = 0

    def open(self, *, seed: int | None = None, timeout: float | None = None, caller: Any = None) -> NaiveBranch:
        return NaiveBranch(self, [])

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        return handle.done

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        return None

    def flush_cache(self) -> bool:
        return True

    def get_server_info(self) -> dict[str, Any]:
        return {"computed_tokens": self.tokens}

    def shutdown(self) -> None:
        return None


class NaiveBranch:
    """All ops run at once, when they are asked for."""

    def __init__(self, backend: NaiveBackend, pieces: list[tuple[str, bool]]) -> None:
        self.backend = backend
        self.pieces = pieces
        self.usage = Usage()
        self.error: BaseException | None = None

    def append(self, text: str, *, markup: bool = False) -> None:
        self.pieces.append((text, markup))

    def _ids(self) -> list[int]:
        return self.backend.tokenizer.encode(self.pieces, first=True)

    @torch.inference_mode()
    def gen(self, request: GenRequest) -> Handle[list[GenResult]]:
        backend, s = self.backend, request.sampling
        ids = self._ids()
        stops = StoppingCriteriaList([StopStringCriteria(backend.fast, list(s.stop))] if s.stop else [])
        out = backend.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=s.max_tokens or 128,
            eos_token_id=list(backend.tokenizer.eos_ids),
            pad_token_id=backend.tokenizer.eos_ids[0],
            stopping_criteria=stops,
        )
        new = [t for t in out[0, len(ids) :].tolist() if t not in backend.tokenizer.eos_ids]
        text = backend.tokenizer.decode(new)
        for stop in s.stop or ():
            text = text.split(stop)[0]
        self.pieces.append((text, False))
        backend.tokens += len(ids) + out.shape[1] - len(ids) - 1
        usage = Usage(1, len(ids), 0, out.shape[1] - 1, out.shape[1] - len(ids))
        return self._done(GenResult(text, new, {"type": "stop"}, usage), usage, text)

    def _done(self, result: Any, usage: Usage, text: str = "") -> Handle[Any]:
        self.usage.add(usage)
        handle: Handle[Any] = Handle()
        handle.grow(text)
        handle.finish([result] if isinstance(result, GenResult) else result)
        return handle

    @torch.inference_mode()
    def score(self, request: ScoreRequest) -> Handle[ScoreResult]:
        prefix, rests = self.backend.tokenizer.encode_choices(self.pieces, request.choices, first=True)
        scores = []
        usage = Usage(calls=1)
        for rest in rests:
            logits = self.backend.model(torch.tensor([prefix + rest])).logits[0, len(prefix) - 1 : -1].float()
            lp = torch.log_softmax(logits, -1)[torch.arange(len(rest)), torch.tensor(rest)].tolist()
            scores.append([TokenLogprob(p, t, None) for p, t in zip(lp, rest)])
            usage.add(Usage(0, len(prefix) + len(rest), 0, len(prefix) + len(rest)))
        self.backend.tokens += usage.computed
        given = [[[t.logprob, t.token_id, None] for t in c] for c in scores]
        means = [sum(t.logprob or 0.0 for t in c) / len(c) for c in scores]
        decision = request.method(
            choices=request.choices,
            normalized_prompt_logprobs=means,
            input_token_logprobs=given,
            output_token_logprobs=[],
        )
        index = request.choices.index(decision.decision)
        self.pieces.append((decision.decision, False))
        return self._done(ScoreResult(index, decision.decision, ChoiceScores(scores), {}, usage), usage)

    def fork(self, n: int) -> Sequence[NaiveBranch]:
        return [NaiveBranch(self.backend, list(self.pieces)) for _ in range(n)]

    def sync(self) -> Handle[None]:
        handle: Handle[None] = Handle()
        handle.finish(None)
        return handle

    def rest(self) -> None:
        return None

    def closer(self) -> Callable[[], None]:
        return self.close

    def cancel(self, error: BaseException | None = None) -> None:
        self.error = error

    def close(self) -> None:
        return None


def transformers_model(checkpoint: Checkpoint) -> LlamaForCausalLM:
    """The checkpoint as `transformers`' own model, float32 (its own GGUF reader takes half a minute)."""
    c = checkpoint.config
    config = LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.rms_norm_eps,
        max_position_embeddings=c.max_position_embeddings,
        tie_word_embeddings=c.tie_word_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
    )
    model = LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in checkpoint.tensors.items()}, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model
