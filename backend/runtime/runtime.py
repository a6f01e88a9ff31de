"""`sgl.Runtime`: the public door to the local runtime.

Owns: turning what a user writes into concrete options, a model, a tokenizer and an engine; the `Backend` protocol over
it; one-off generation without a program. Knows nothing of how steps work.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...lang.chat import ChatTemplate
from ...lang.constraint import KINDS as CONSTRAINTS
from ...lang.constraint import Constraint, constraint_of
from ...lang.errors import OptionError
from ..base import BackendBranch, Capabilities, Handle, StepRecord
from . import invariants
from .engine import Engine
from .kv.draw import draw_tree
from .options import EngineOptions, refuse_unsupported
from .program.branch import Branch
from .sizes import MAX_RUNNING, STEP_TOKENS, captured_rows, pool_size
from .step.packed import Model
from .text.tokenizer import Tokenizer
from .threads import wait_briefly

if TYPE_CHECKING:
    from .grammar.accepts import Verdict

log = logging.getLogger("sgl")


class Runtime:
    """A language model in this process: no port, no child process, no server.

    `sgl.Runtime()` runs the embedded default model; `sgl.Runtime("path/or/hub-id")` a safetensors folder, a `.gguf`
    file or a hub model. Option names are SGLang's where the thing is the same. Sizes are in tokens. Options that this
    version cannot carry out raise `NotYet`; none is ignored. On a GPU (docs/gpu.md): `attention_backend` is "triton"
    (ours, "auto"), "flashinfer" or "torch"; steps of up to `cuda_graph_max_bs` branches are replayed as CUDA graphs.

    Raises `ModelLoadError` (the file and the fix), `OptionError` (an option's value), `OutOfMemory` (no room for KV).
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
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
        **others: Any,
    ) -> None:
        _show_log(_log_level(log_level))
        refuse_unsupported(others)
        _positive("cuda_graph_max_bs", cuda_graph_max_bs, 1)
        wait_briefly()
        from .model.load.build import build  # imports torch

        model, tokenizer, template, name = build(
            model_path, device=device, dtype=dtype, load_format=load_format, attention=attention_backend
        )
        kind = getattr(model, "device_type", "cpu")
        context = _context(context_length, model.context_length)
        step_tokens = _positive("chunked_prefill_size", chunked_prefill_size, STEP_TOKENS[kind])
        max_running = _positive("max_running_requests", max_running_requests, MAX_RUNNING[kind])
        own = hasattr(model, "executor")  # else the host computes one step after the other
        captures = own and getattr(model, "captured", True)
        if not captures and cuda_graph_max_bs is not None:
            log.warning("cuda_graph_max_bs=%d has no effect: no steps of %s are captured here", cuda_graph_max_bs, name)
        self._start(
            model,
            tokenizer,
            _template(chat_template, template),
            name,
            EngineOptions(
                context_length=context,
                pool_tokens=_positive("max_total_tokens", max_total_tokens, 1)
                if max_total_tokens is not None
                else pool_size(model, kind, mem_fraction_static, step_tokens),
                step_tokens=step_tokens,
                max_running=max_running,
                reuse=not disable_radix_cache,
                seed=_seed(random_seed),
                grammar_backend=grammar_backend,
                attention_backend=attention_backend,
                cuda_graph_max_bs=captured_rows(model, cuda_graph_max_bs, max_running)
                if captures and not disable_cuda_graph
                else 0,
                overlap=own and not disable_overlap_schedule,
            ),
        )

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
    ) -> Runtime:
        """A runtime over any object with the `Model` protocol (a test's toy, a model of your own)."""
        self = cls.__new__(cls)
        self._start(
            model,
            tokenizer,
            chat_template,
            name,
            EngineOptions(
                context_length=_context(context_length, model.context_length),
                pool_tokens=_positive("max_total_tokens", max_total_tokens, 1),
                step_tokens=_positive("chunked_prefill_size", chunked_prefill_size, 1),
                max_running=_positive("max_running_requests", max_running_requests, 1),
                reuse=not disable_radix_cache,
                seed=_seed(random_seed),
                grammar_backend=grammar_backend,
            ),
        )
        return self

    @classmethod
    def toy(cls, **options: Any) -> Runtime:
        """The hash-everything toy model: deterministic nonsense in microseconds, without torch, for tests."""
        from ...lang.chat import CHATML
        from .model.toy import ToyModel, toy_tokenizer

        tokenizer = toy_tokenizer()
        favour = options.pop("favour", None)
        model = ToyModel(tokenizer.vocab_size + 5, favour=favour)
        return cls.of(model, tokenizer, chat_template=ChatTemplate(CHATML, name="toy"), name="toy", **options)

    def _start(
        self, model: Model, tokenizer: Tokenizer, template: ChatTemplate | None, name: str, options: EngineOptions
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = template
        self.model_name = name
        self.options = options
        self.engine = Engine(model, tokenizer, options)
        self.capabilities = Capabilities(name=f"Runtime({name})", constraints=CONSTRAINTS)
        self._pinned: dict[tuple[tuple[str, bool], ...], Branch] = {}
        self._watching = threading.Lock()
        log.info("runtime %s: %s", name, options)

    # -- the Backend protocol
    def prepare(self, constraint: Constraint, where: str = "constraint") -> None:
        """Compile a constraint now, on this thread, and keep it. Raises `ConstraintError`."""
        self.engine.grammars.prepare(constraint, where)

    def prepared(self, constraint: Constraint) -> bool:
        return self.engine.grammars.has(constraint)

    def open(
        self, *, seed: int | None = None, timeout: float | None = None, caller: BackendBranch | None = None
    ) -> Branch:
        self._check_open()
        inside = (
            caller.program if isinstance(caller, Branch) and caller.registry is self.engine.branches.registry else None
        )
        return self.engine.open(seed=seed, timeout=timeout, caller=inside)

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        return self.engine.drive.wait(handle, seen, timeout)

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        await self.engine.drive.wait_async(handle, seen)

    def flush_cache(self) -> bool:
        """Drop every cached prefix that no live program holds (pinned ones too). True when done."""
        with self.engine.drive.held():
            for branch in self._pinned.values():
                branch.close()
            self._pinned.clear()
            return self.engine.flush()

    def get_server_info(self) -> dict[str, Any]:
        """What runs and how full it is. Token counts of the pool, steps and rows since the start."""
        engine = self.engine
        with engine.drive.held():
            pool = engine.tree.pool
            return {
                "model": self.model_name,
                "context_length": self.options.context_length,
                "max_total_tokens": pool.capacity,
                "free_tokens": pool.available,
                "cached_tokens": engine.tree.cached,
                "running": len(engine.branches.running),
                "queued": len(engine.branches.admission.waiting),
                "attached": len(engine.branches.attached),
                "steps": engine.steps,
                "computed_tokens": engine.rows,
                "preemptions": engine.scheduler.preemptions,
                "programs": engine.programs,
                "options": self.options,
            }

    def shutdown(self) -> None:
        """Free the model. Programs still running fail with `BackendError`; calling it twice is fine."""
        if self.engine.closed is None:
            with self.engine.drive.held():
                self.engine.shut_down()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<sgl.Runtime {self.model_name}, {self.options.pool_tokens} tokens of KV>"

    @property
    def endpoint(self) -> Runtime:
        """SGLang's runtime has its backend here; ours is its own."""
        return self

    # -- without a program
    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Mapping[str, Any] | None = None,
        *,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
    ) -> Any:
        """Continue a prompt, or a list of them together: `{"text", "output_ids", "meta_info"}` each.

        `sampling_params` as in SGLang (`max_new_tokens`, `temperature`, ...). With `stream=True` (one prompt only), an
        iterator of pieces of text. Give `prompt` or `input_ids`, not both.
        """
        from .generate import GenerateCall

        generation = GenerateCall(
            self, prompt, input_ids, sampling_params or {}, return_logprob, logprob_start_len, top_logprobs_num, stream
        )
        return generation.pieces() if stream else generation.results()

    async def async_generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Mapping[str, Any] | None = None,
        *,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stream: bool = False,
    ) -> Any:
        """`generate` for a coroutine; with `stream=True`, an async iterator of pieces."""
        from .generate import GenerateCall

        generation = GenerateCall(
            self, prompt, input_ids, sampling_params or {}, return_logprob, logprob_start_len, top_logprobs_num, stream
        )
        return generation.pieces_async() if stream else await generation.results_async()

    def accepts(self, constraint: Any, text: str) -> Verdict:
        """Whether generation under `constraint` (what `gen(constraint=)` takes) could write `text` and hand it over:
        its tokens walk through the very masks, its end included. Raises `ConstraintError` for a wrong constraint."""
        from .grammar.accepts import accepts

        if not isinstance(text, str):
            raise OptionError(f"accepts: text must be a string, got {text!r:.60}")
        wanted = constraint_of(constraint)
        return accepts(self.engine.grammars.prepare(wanted, "accepts"), text)

    def cache_prefix(self, text: str) -> int:
        """Compute the KV of `text` now and keep it until `flush_cache()`; its length in tokens. Programs that begin
        with this text reuse it."""
        return self.pin([(text, False)])

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        """`cache_prefix` for pieces of text, each with whether it is a chat template's own (markup)."""
        self._check_open()
        pinned = tuple(pieces)
        if pinned not in self._pinned:
            branch = self.engine.open()
            try:
                for text, markup in pinned:
                    branch.append(text, markup=markup)
                branch.cursor.pinned = True
                handle = branch.warm()
                self.wait(handle)
                handle.value()
            except BaseException:
                branch.close()
                raise
            with self.engine.drive.held():
                self.engine.branches.admission.over(branch, well=False)  # it keeps its KV, and wants no more
            self._pinned[pinned] = branch
        return self._pinned[pinned].cursor.length

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        """Call `listener` after each step, from whichever thread drives; gives what ends that."""
        engine = self.engine
        with self._watching:
            engine.watchers = [*engine.watchers, listener]

        def end() -> None:
            with self._watching:
                engine.watchers = [each for each in engine.watchers if each is not listener]

        return end

    # -- looking inside
    def check(self) -> None:
        """Assert the runtime's invariants (tests, debugging)."""
        with self.engine.drive.held():
            self.engine.collect()
            self.engine.branches.take_news()
            invariants.check(self.engine)

    def draw(self, width: int = 60) -> str:
        """The tree of KV as text: one node a line, its tokens, whether it is live or cache, and its text."""
        with self.engine.drive.held():
            self.engine.branches.take_news()
            branches = sorted(self.engine.branches.attached, key=lambda b: b.order)
            cursors = [(".".join(map(str, branch.order)), branch.cursor) for branch in branches]
            return draw_tree(self.engine.tree, cursors, self.tokenizer, width)

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

    def _check_open(self) -> None:
        if self.engine.closed is not None:
            raise self.engine.closed


def _positive(option: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OptionError(f"{option} must be a whole number of at least 1, got {value!r}")
    return value


def _seed(asked: int | None) -> int:
    if asked is None:
        return secrets.randbits(63)
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise OptionError(f"random_seed must be a whole number, got {asked!r}")
    return asked


def _context(asked: int | None, model: int) -> int:
    context = _positive("context_length", asked, model)
    if context > model:
        raise OptionError(f"context_length={context} is more than the model's {model}")
    return context


def _template(asked: str | None, own: ChatTemplate | None) -> ChatTemplate | None:
    """`chat_template=`: None (the model's own), "chatml", a file, or the template's text."""
    if asked is None:
        return own
    from ...lang.chat import CHATML

    if asked == "chatml":
        source = CHATML
    elif "{" in asked:
        source = asked
    elif Path(asked).is_file():
        source = Path(asked).read_text(encoding="utf-8")
    else:
        raise OptionError(f"chat_template={asked!r} is neither 'chatml', nor a file, nor a Jinja template")
    return ChatTemplate(
        source, name="chat_template=", bos_token=own.bos_token if own else "", eos_token=own.eos_token if own else ""
    )


def _show_log(level: str) -> None:
    """Let the log say as much; on stderr, unless the program has set up logging itself."""
    log.setLevel(level)
    if log.isEnabledFor(logging.INFO) and not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s] sgl: %(message)s", datefmt="%H:%M:%S"))
        log.addHandler(handler)


def _log_level(level: str) -> str:
    if not isinstance(level, str) or level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise OptionError(f"log_level must be debug, info, warning, error or critical, got {level!r}")
    return level.upper()
