"""`sgl.Runtime`: the public door to the local runtime.

Owns: turning what a user writes into concrete options, a model and a tokenizer; generation without a program. Knows
nothing of steps, nor of the engine that `LocalBackend` holds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...lang.chat import CHATML, ChatTemplate
from ...lang.constant import constant_pieces
from ...lang.constraint import constraint_of
from ...lang.errors import OptionError
from ...lang.expr import Appendable, as_expr
from ..waiting import block_on, iterate, iterate_async, suspend_on
from .draft.choose import drafter_of
from .generate import GenerateCall
from .local import LocalBackend
from .options import (
    MOST_BRANCHES,
    MOST_STEP_TOKENS,
    EngineOptions,
    check_drafts,
    context_of,
    draft_tokens,
    flag,
    positive,
    refuse_unsupported,
    seed_of,
    show_log,
    template_of,
)
from .sizes import MAX_RUNNING_BRANCHES, STEP_TOKENS, captured_rows, pool_size
from .step.packed import Model
from .text.tokenizer import Tokenizer
from .threads import wait_briefly

if TYPE_CHECKING:
    import torch

    from .grammar.accepts import Verdict

log = logging.getLogger("sgl")


class Runtime(LocalBackend):
    """A language model in this process: no port, no child process, no server.

    Option names are SGLang's where the thing is the same. An option that this version cannot carry out raises `NotYet`;
    none is ignored. Token counts are in tokens, and one slot of KV holds one token.

    Args:
        model_path: A folder with safetensors, a `.gguf` file, a name of `sgl models list` or a hub id (`org/name`).
            Default: the embedded model, SmolLM2-135M-Instruct.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1". Default "auto".
        dtype: "auto", "float32", "bfloat16" or "float16", also as "bf16", "half" or `torch.bfloat16`. "auto" (default):
            float32 on the CPU, else bfloat16, or float16 on cards without it.
        load_format: "auto" (default), "safetensors", "gguf" or "dummy" (random weights for any `config.json`).
        context_length: Longest text of a branch, tokens. Default: the model's.
        mem_fraction_static: Share of the free memory for KV, between 0 and 1. Default: 0.85 on a GPU, 0.25 on the CPU.
        max_total_tokens: Slots of KV, tokens. Default: as many as `mem_fraction_static` allows.
        max_running_requests: Most branches in one step. Default: 512 on a GPU, 256 on the CPU.
        chunked_prefill_size: Most rows of one step, tokens; longer prompts are computed in chunks. Default: 8,192 on a
            GPU, 256 on the CPU.
        disable_radix_cache: Do not match new text against cached prefixes. Default False.
        grammar_backend: "auto" (default), or the grammar engine to use where it enforces a constraint exactly.
        random_seed: Root of the noise of runs without a seed of their own. Default: drawn at the start.
        chat_template: "chatml", a file, or a Jinja template's text. Default: the model's own.
        log_level: "debug", "info", "warning", "error" (default) or "critical".
        attention_backend: "triton" (ours), "flashinfer" or "torch" on a GPU. Default "auto": "triton" on a GPU that can
            run it, else "torch".
        cuda_graph_max_bs: Most branches of a step that is replayed as a CUDA graph. Default: 64 to 512, by the card.
        disable_cuda_graph: Launch every step kernel by kernel. Default False.
        disable_overlap_schedule: Do not prepare the next step while one runs on the GPU. Default False.
        quantization: On the CPU, the weights' format. "auto" (default): a GGUF file's own blocks, if it is quantised
            and `dtype` and `attention_backend` are "auto", else floats. "q4" or "q8": blocks of 32 weights with 4 or 8
            bits each. None: floats in `dtype`. Sizes that no kernel takes are computed in floats; the log says so.
        speculative_algorithm: Where drafts come from: None (default) or "NGRAM": from text that was written before,
            where that pays. "STANDALONE": from a smaller model too. "EAGLE3": from a draft head too, on the CPU.
        speculative_draft_model_path: The smaller model, as `model_path` names one; or the folder of the head, for the
            embedded model by default the package's.
        speculative_num_steps: Most drafts of the head or the smaller model in a row. Default 4.
        speculative_num_draft_tokens: Most tokens of a draft; 0 drafts nothing. Default 24. With a head or a smaller
            model the tokens of a round: `speculative_num_steps` + 1.
        speculative_eagle_topk: 1, if it is given: a draft is a chain.
        others: Options of later versions (`NotYet`) and misspelt ones (`OptionError`).

    Raises:
        ModelLoadError: A file is missing, damaged or of a model that is not supported; the message says what to do.
        OptionError: An option is unknown or has a wrong value.
        NotYet: An option of a later version has another value than its default.
        OutOfMemory: The weights, or one token of KV, do not fit into memory.

    Example:
        >>> import sgl
        >>> with sgl.Runtime.toy() as runtime:  # sgl.Runtime() loads the embedded model
        ...     print(runtime)
        <sgl.Runtime toy, 65536 tokens of KV>
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        load_format: str = "auto",
        context_length: int | None = None,
        mem_fraction_static: float | None = None,
        max_total_tokens: int | None = None,
        max_running_requests: int | None = None,
        chunked_prefill_size: int | None = None,
        disable_radix_cache: bool = False,
        grammar_backend: str = "auto",
        random_seed: int | None = None,
        chat_template: str | None = None,
        log_level: str = "error",
        attention_backend: str = "auto",
        cuda_graph_max_bs: int | None = None,
        disable_cuda_graph: bool = False,
        disable_overlap_schedule: bool = False,
        quantization: str | None = "auto",
        speculative_algorithm: str | None = None,
        speculative_draft_model_path: str | os.PathLike[str] | None = None,
        speculative_num_steps: int | None = None,
        speculative_num_draft_tokens: int | None = None,
        speculative_eagle_topk: int | None = None,
        **others: Any,
    ) -> None:
        show_log(log_level)
        refuse_unsupported(others, known=("model_path", *(Runtime.__init__.__kwdefaults__ or ())))
        positive("cuda_graph_max_bs", cuda_graph_max_bs, 1)
        most_drafts, chain_drafts = check_drafts(
            speculative_algorithm, speculative_num_steps, speculative_eagle_topk, speculative_num_draft_tokens,
            speculative_draft_model_path,
        )  # fmt: skip
        wait_briefly()
        from .model.load.build import build

        load = partial(
            build,
            device=device,
            dtype=dtype,
            load_format=load_format,
            attention=attention_backend,
            quantization=quantization,
        )
        model, tokenizer, template, name = load(model_path)
        kind = getattr(model, "device_type", "cpu")
        drafter = drafter_of(
            speculative_algorithm, speculative_draft_model_path, model, tokenizer, name,
            partial(load, load_format="dummy" if load_format == "dummy" else "auto"),
            steps=chain_drafts, embedded=model_path is None,
        )  # fmt: skip
        context = context_of(context_length, model.context_length)
        step_tokens = positive("chunked_prefill_size", chunked_prefill_size, STEP_TOKENS[kind], MOST_STEP_TOKENS)
        max_running = positive("max_running_requests", max_running_requests, MAX_RUNNING_BRANCHES[kind], MOST_BRANCHES)
        own = hasattr(model, "executor")  # else the host computes one step after the other
        captures = own and getattr(model, "captured", True)
        if not captures and cuda_graph_max_bs is not None:
            log.warning("cuda_graph_max_bs=%d has no effect: no steps of %s are captured here", cuda_graph_max_bs, name)
        super().__init__(
            model,
            tokenizer,
            template_of(chat_template, template),
            name,
            EngineOptions(
                context_length=context,
                pool_tokens=positive("max_total_tokens", max_total_tokens, 1)
                if max_total_tokens is not None
                else pool_size(
                    model, kind, mem_fraction_static, step_tokens, drafter.kv_bytes_per_token if drafter else 0
                ),
                step_tokens=step_tokens,
                max_running=max_running,
                reuse=not flag("disable_radix_cache", disable_radix_cache),
                seed=seed_of(random_seed),
                grammar_backend=grammar_backend,
                attention_backend=attention_backend,
                cuda_graph_max_bs=captured_rows(model, cuda_graph_max_bs, max_running)
                if not flag("disable_cuda_graph", disable_cuda_graph) and captures
                else 0,
                overlap=not flag("disable_overlap_schedule", disable_overlap_schedule) and own,
                draft_tokens=most_drafts,
                chain_drafts=chain_drafts,
            ),
        )
        if drafter is not None:
            drafter.add(self.engine)

    @classmethod
    def of(
        cls,
        model: Model,
        tokenizer: Tokenizer,
        *,
        chat_template: ChatTemplate | None = None,
        name: str = "custom",
        max_total_tokens: int = 65536,
        max_running_requests: int = 256,
        chunked_prefill_size: int = 512,
        context_length: int | None = None,
        disable_radix_cache: bool = False,
        grammar_backend: str = "auto",
        random_seed: int = 0,
        speculative_num_draft_tokens: int | None = None,
    ) -> Runtime:
        """Make a runtime over any object with the `Model` protocol: a test's toy, a model of your own.

        Args:
            model: What computes a step (`backend/runtime/step/packed.py` has the protocol).
            tokenizer: The model's tokenizer.
            chat_template: How chat turns are written. Default: none, so roles raise.
            name: The model's name in messages. Default "custom".
            max_total_tokens: Slots of KV, tokens. Default 65,536.
            max_running_requests: Most branches in one step. Default 256.
            chunked_prefill_size: Most rows of one step, tokens. Default 512.
            context_length: Longest text of a branch, tokens. Default: the model's.
            disable_radix_cache: Do not match new text against cached prefixes. Default False.
            grammar_backend: As for `Runtime`. Default "auto".
            random_seed: Root of the noise of runs without a seed of their own. Default 0.
            speculative_num_draft_tokens: As for `Runtime`. Default 24.

        Raises:
            OptionError: An option has a wrong value.
            ModelLoadError: The tokenizer has more token ids than the model has embeddings.

        Example:
            >>> import sgl
            >>> from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
            >>> tokenizer = toy_tokenizer()
            >>> sgl.Runtime.of(ToyModel(tokenizer.vocab_size), tokenizer, max_total_tokens=1000)
            <sgl.Runtime custom, 1000 tokens of KV>
        """
        self = cls.__new__(cls)
        LocalBackend.__init__(
            self,
            model,
            tokenizer,
            chat_template,
            name,
            EngineOptions(
                context_length=context_of(context_length, model.context_length),
                pool_tokens=positive("max_total_tokens", max_total_tokens, 1),
                step_tokens=positive("chunked_prefill_size", chunked_prefill_size, 1, MOST_STEP_TOKENS),
                max_running=positive("max_running_requests", max_running_requests, 1, MOST_BRANCHES),
                reuse=not flag("disable_radix_cache", disable_radix_cache),
                seed=seed_of(random_seed),
                grammar_backend=grammar_backend,
                draft_tokens=draft_tokens(speculative_num_draft_tokens),
            ),
        )
        return self

    @classmethod
    def toy(cls, **options: Any) -> Runtime:
        """Make a runtime over the toy model: deterministic nonsense in microseconds, without torch, for tests.

        Args:
            options: Those of `of`, and `favour`: {token id: what is added to its logit}.

        Raises:
            OptionError: An option has a wrong value.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> first, second = (runtime.generate("Hello", {"max_new_tokens": 4, "sampling_seed": 1}) for _ in range(2))
            >>> first["text"] == second["text"]
            True
        """
        from .model.toy import ToyModel, toy_tokenizer

        tokenizer = toy_tokenizer()
        favour = options.pop("favour", None)
        refuse_unsupported(
            {k: v for k, v in options.items() if k not in (cls.of.__kwdefaults__ or ())},
            known=("favour", *(cls.of.__kwdefaults__ or ())),
        )
        model = ToyModel(tokenizer.vocab_size + 5, favour=favour)
        return cls.of(model, tokenizer, **{"chat_template": ChatTemplate(CHATML, name="toy"), "name": "toy", **options})

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<sgl.Runtime {self.model_name}, {self.options.pool_tokens} tokens of KV>"

    @property
    def endpoint(self) -> Runtime:
        """The backend of this runtime: itself. (SGLang's programs pass `runtime.endpoint`.)"""
        return self

    @property
    def model_info(self) -> dict[str, Any]:
        """What runs, with the keys of SGLang's `/get_model_info`; `get_server_info()` has more."""
        return {"model_path": self.model_name, "tokenizer_path": self.model_name, "is_generation": True}

    # -- without a program
    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
        special_tokens: bool = False,
        **others: Any,
    ) -> Any:
        """Continue a prompt, or a list of prompts together. Give `prompt` or `input_ids`, not both.

        Args:
            prompt: One text, or a list of texts. Its control tokens are plain text, unless `special_tokens` is True.
            sampling_params: Sampling options by SGLang's names (`max_new_tokens`, `temperature`, `stop`, ...), or one
                of `regex`, `json_schema`, `ebnf`; or a list of these, one a prompt. Default: temperature 1.
            input_ids: Token ids instead of text: a list of ids, or a list of such lists.
            return_logprob: Put the log-probabilities of the tokens into `meta_info`. Default False.
            logprob_start_len: Position (tokens) from which the prompt's log-probabilities are wanted too.
            top_logprobs_num: How many of the most probable tokens are wanted for each token. Default: none.
            stream: Return an iterator of pieces of text; for one prompt only. Default False.
            special_tokens: The prompts spell control tokens, as `tokenizer.apply_chat_template(..., tokenize=False)`
                writes them. Put no text of a user into such a prompt. Default False.
            others: Parameters of SGLang that are not carried out yet (`NotYet`) and misspelt ones (`OptionError`).

        Returns:
            `{"text", "output_ids", "meta_info"}` for a prompt, a list of them for a list; with `n` samples a list of
            `n` in place of each.

        Raises:
            OptionError: A parameter is unknown or wrong.
            ConstraintError: The constraint is wrong, or no engine can enforce it.
            BackendError: The model failed, or the runtime is shut down.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> answer = runtime.generate("Hello", {"max_new_tokens": 4, "regex": "[ab]+"})
            >>> len(answer["output_ids"]) <= 4 and set(answer["text"]) <= {"a", "b"}
            True
            >>> len(runtime.generate(["one", "two"], {"max_new_tokens": 4}))
            2
            >>> "".join(runtime.generate("Hello", {"max_new_tokens": 4, "regex": "abc"}, stream=True))
            'abc'
        """
        call = GenerateCall(
            self, prompt, input_ids, sampling_params, return_logprob=return_logprob,
            logprob_start_len=logprob_start_len, top_logprobs_num=top_logprobs_num, stream=stream,
            special_tokens=special_tokens, **others,
        )  # fmt: skip
        return iterate(call.pieces()) if stream else block_on(call.results())

    async def async_generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
        special_tokens: bool = False,
        **others: Any,
    ) -> Any:
        """`generate` for a coroutine, with the same arguments and errors.

        Returns:
            What `generate` returns; with `stream=True` an async iterator of pieces of text.

        Example:
            >>> import asyncio, sgl
            >>> runtime = sgl.Runtime.toy()
            >>> asyncio.run(runtime.async_generate("Hello", {"max_new_tokens": 4, "regex": "abc"}))["text"]
            'abc'
        """
        call = GenerateCall(
            self, prompt, input_ids, sampling_params, return_logprob=return_logprob,
            logprob_start_len=logprob_start_len, top_logprobs_num=top_logprobs_num, stream=stream,
            special_tokens=special_tokens, **others,
        )  # fmt: skip
        return iterate_async(call.pieces()) if stream else await suspend_on(call.results())

    def accepts(self, constraint: Any, text: str) -> Verdict:
        """Whether generation under `constraint` could write `text` and hand it over.

        The text's tokens walk through the very masks that generation would use, its end included.

        Args:
            constraint: What `gen(constraint=)` takes: `sgl.regex(...)`, `sgl.json_schema(...)`, a Python type, ...
            text: The text to try.

        Returns:
            A `Verdict`: `ok` (its truth value), `at` (the first character that could not be written) and `why`.

        Raises:
            ConstraintError: The constraint is wrong, or no engine can enforce it.
            OptionError: `text` is no string.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> bool(runtime.accepts(sgl.regex("[ab]+"), "abba")), runtime.accepts(sgl.regex("[ab]+"), "abc").at
            (True, 2)
        """
        from .grammar.accepts import accepts

        if not isinstance(text, str):
            raise OptionError(f"accepts: text must be a string, got {text!r:.60}")
        wanted = constraint_of(constraint)
        return accepts(self.engine.grammars.prepare(wanted, "accepts"), text)

    def cache_prefix(self, prefix: Appendable) -> int:
        """Compute the KV of a beginning now and keep it until `flush_cache()`. Programs that begin so reuse it.

        Args:
            prefix: Text, or a constant expression: `sgl.system("...")`, `sgl.special("...")`, a sum of these.

        Returns:
            Its length, tokens.

        Raises:
            OptionError: The expression has a gen or a select, or its last message is not printed by itself.
            OutOfMemory: The KV pool has no room for it.
            BackendError: The model failed, or the runtime is shut down.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> length = runtime.cache_prefix("The rules are: ")
            >>> runtime.generate("The rules are: go", {"max_new_tokens": 1})["meta_info"]["cached_tokens"] >= length - 1
            True
            >>> runtime.cache_prefix(sgl.system("Be brief.")) > 0
            True
        """
        return self.pin(constant_pieces("cache_prefix", as_expr(prefix), self.chat_template))
