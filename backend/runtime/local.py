"""`LocalBackend`: an engine behind the `Backend` protocol.

Owns: the pinned prefixes, and the lock under which other threads look at the engine. Knows nothing of how a model is
found or loaded, nor of what its options mean.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ...lang.chat import ChatTemplate
from ...lang.constraint import KINDS as CONSTRAINTS
from ...lang.constraint import Constraint
from ...lang.errors import ModelLoadError, NotYet
from ...lang.kept import DEFINITIONS
from ..base import BackendBranch, Capabilities, Handle, StepRecord
from . import invariants
from .engine import Engine
from .kv.cursor import Cursor
from .kv.draw import draw_tree, tree_rows
from .kv.tree import NODE_BYTES, RUN_BYTES, TOKEN_BYTES
from .options import EngineOptions
from .program.branch import Branch
from .step.packed import Model
from .text.tokenizer import Tokenizer

log = logging.getLogger("sgl")


class LocalBackend:
    """Implements `Backend` over a model in this process, and shows what its engine does."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, template: ChatTemplate | None, name: str, options: EngineOptions
    ) -> None:
        if tokenizer.vocab_size > model.vocab_size:
            raise ModelLoadError(
                f"{name}: the tokenizer has {tokenizer.vocab_size} token ids, and the model has embeddings for "
                f"{model.vocab_size}; use the tokenizer that belongs to this model"
            )
        self.tokenizer = tokenizer = tokenizer.with_template(template)
        self.chat_template = template
        self.model_name = name
        self.options = options
        self.engine = Engine(model, tokenizer, options)
        controls = frozenset(tokenizer.control_texts)
        self.capabilities = Capabilities(
            name=f"Runtime({name})", constraints=CONSTRAINTS, control_tokens=controls, saves=self._identity
        )
        self._pinned: dict[tuple[tuple[str, bool], ...], Branch] = {}
        self._digest: str | None = None
        self._sizes = (model.vocab_size, model.context_length)
        log.info("runtime %s: %s", name, options)

    def _identity(self) -> str:
        """What a saved text must have in common with this runtime: its tokens, and the sizes of its model."""
        if self._digest is None:
            tokens = hashlib.sha256()
            for token in range(self.tokenizer.vocab_size):
                spelled = self.tokenizer.spelled([token])
                tokens.update(b"%d %b" % (len(spelled), spelled))
            self._digest = "{} {} {}".format(*self._sizes, tokens.hexdigest())
        return self._digest

    def prepare(self, constraint: Constraint, where: str = "constraint") -> None:
        """Compile a constraint now, on this thread, and keep it. `where` begins the message of an error.

        Raises:
            ConstraintError: The constraint is wrong, or no engine can enforce it.
        """
        self.engine.grammars.prepare(constraint, where)

    def prepared(self, constraint: Constraint) -> bool:
        """Whether `prepare` would return at once."""
        return self.engine.grammars.has(constraint)

    def open(
        self, *, seed: int | None = None, timeout: float | None = None, caller: BackendBranch | None = None
    ) -> Branch:
        """Open an empty branch.

        Args:
            seed: What the branch samples depends on this seed and its text alone. Default: on `random_seed` and on how
                many branches were opened before.
            timeout: Seconds for the branch and everything forked from it (`ProgramTimeout`). Default: none.
            caller: A branch of the program whose body runs this one, if one does.

        Raises:
            BackendError: The runtime is shut down.
        """
        self._check_open()
        inside = (
            caller.program if isinstance(caller, Branch) and caller.registry is self.engine.branches.registry else None
        )
        return self.engine.open(seed=seed, timeout=timeout, caller=inside)

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        """Drive the engine until `handle` is done or has more than `seen` characters.

        Args:
            handle: What a branch's `gen`, `score` or `sync` returned.
            seen: Characters of text that are known already. Default: wait for the end.
            timeout: Most seconds to wait. Default: none.

        Returns:
            False if `timeout` passed first.
        """
        return self.engine.drive.wait(handle, seen, timeout)

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        """`wait` for a coroutine, without a timeout; it does not block the event loop."""
        await self.engine.drive.wait_async(handle, seen)

    def flush_cache(self) -> bool:
        """Drop every cached prefix that no live program holds, pinned ones too.

        Returns:
            True: the cache is empty but for what live programs hold.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> length = runtime.cache_prefix("The rules are: ")
            >>> runtime.flush_cache(), runtime.get_server_info()["cached_tokens"]
            (True, 0)
        """
        with self.engine.drive.held():
            for branch in self._pinned.values():
                branch.close()
            self._pinned.clear()
            return self.engine.flush()

    def get_server_info(self) -> dict[str, Any]:
        """What runs, how full the KV pool is, and what was computed since the start.

        Returns:
            A dictionary: `model` (its name), `options` (the resolved ones); in tokens `context_length`,
            `max_total_tokens`, `free_tokens`, `cached_tokens`, `touched_tokens` (slots that were ever in use: so
            many take memory) and `computed_tokens`; counts of branches `running`, `queued` and `attached`; counts of
            `steps`, `programs` and `preemptions`. `speculation`: for each source of drafts the counts of `rounds`,
            `drafted` and `accepted` tokens, the `accept_length` (tokens a round) and the `accept_rate`. `memory` has
            the `bytes` that each of these holds now (estimated, but for `kv`) and `most_bytes` that it may hold: `kv`;
            `tree` (where the KV of which tokens is); `drafts` (what was written before); `words` and `chunks` of text
            with their tokens; compiled `constraints`, their `masks`, their `ways` to close a text, `compiled_grammars`
            (what xgrammar and outlines-core made); and `definitions` (what is known of patterns, schemas, types and
            grammars), which all runtimes of the process share.

        Example:
            >>> import sgl
            >>> info = sgl.Runtime.toy(max_total_tokens=1000).get_server_info()
            >>> info["model"], info["max_total_tokens"], info["steps"]
            ('toy', 1000, 0)
        """
        engine = self.engine
        with engine.drive.held():
            engine.branches.take_news()  # a branch that was cancelled or dropped since the last step counts no more
            pool = engine.tree.pool
            return {
                "model": self.model_name,
                "context_length": self.options.context_length,
                "max_total_tokens": pool.capacity,
                "free_tokens": pool.available,
                "cached_tokens": engine.tree.cached,
                "touched_tokens": pool.touched,
                "running": len(engine.branches.running),
                "queued": sum(1 for _ in engine.branches.admission.waiting()),
                "attached": len(engine.branches.attached),
                "steps": engine.steps,
                "computed_tokens": engine.rows,
                "preemptions": engine.scheduler.preemptions,
                "programs": engine.programs,
                "speculation": engine.speculation.told(),
                "memory": self._memory(),
                "options": self.options,
            }

    def _memory(self) -> dict[str, dict[str, int | None]]:
        """The bytes of everything that grows with use, and their bounds."""
        tree = self.engine.tree
        return {
            "kv": self._kv_memory(),
            "tree": {"bytes": tree.bytes, "most_bytes": tree.pool.capacity * (NODE_BYTES + RUN_BYTES + TOKEN_BYTES)},
            "drafts": self.engine.speculation.memory(),
            "words": self.tokenizer.words.held,
            "chunks": self.tokenizer.chunks.held,
            **self.engine.grammars.memory(),
            "definitions": DEFINITIONS.held,
        }

    def _kv_memory(self) -> dict[str, int | None]:
        """The KV that is in use or cached, and the pool's size, which is allocated from the start."""
        pool, model = self.engine.tree.pool, self.engine.model
        slot = 0 if model is None else model.kv_bytes_per_token  # a runtime that was shut down has none
        return {"bytes": (pool.capacity - pool.available) * slot, "most_bytes": pool.capacity * slot}

    def encode(self, prompt: Any) -> Any:
        """An embedding of a text, as SGLang's `encode` gives. This version does not carry it out (`NotYet`).

        Example:
            >>> import sgl
            >>> sgl.Runtime.toy().encode("Hello")
            Traceback (most recent call last):
            sgl.lang.errors.NotYet: Runtime.encode: ...
        """
        raise NotYet(
            "Runtime.encode: embeddings are not supported by this version of sgl yet; for token ids use "
            "runtime.tokenizer.encode(text)"
        )

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer: `encode`, `decode`, `count` and `apply_chat_template`. Also `runtime.tokenizer`.

        Example:
            >>> import sgl
            >>> tokenizer = sgl.Runtime.toy().get_tokenizer()
            >>> tokenizer.decode(tokenizer.encode("Hello")), tokenizer.count("Hello")
            ('Hello', 5)
        """
        return self.tokenizer

    def shutdown(self) -> None:
        """Free the model. Programs that still run fail with `BackendError`; a second call does nothing.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> runtime.shutdown()
            >>> runtime.generate("Hello")
            Traceback (most recent call last):
            ...
            sgl.lang.errors.BackendError: the runtime was shut down; make a new sgl.Runtime()
        """
        if self.engine.closed is None:
            with self.engine.drive.held():
                self.engine.shut_down()
            self.engine.drive.wake()  # a thread that waits for more coroutines need not

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        """`cache_prefix` for text that may be markup.

        Args:
            pieces: Runs of text, each with whether it is markup: a chat template's text, which spells control tokens.

        Returns:
            Its length, tokens.

        Raises:
            OutOfMemory: The KV pool has no room for it.
            BackendError: The model failed, or the runtime is shut down.
        """
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
                kept = self._pinned.setdefault(pinned, branch)
            if kept is not branch:  # another thread was first
                branch.close()
            return kept.cursor.length
        return self._pinned[pinned].cursor.length

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        """Call `listener` after each step, on the thread that drives it.

        Args:
            listener: Gets a `StepRecord`: what the step computed, and how long it took. A listener that raises is
                logged, and told of no more steps.

        Returns:
            A function that ends this.

        Example:
            >>> import sgl
            >>> runtime, steps = sgl.Runtime.toy(), []
            >>> end = runtime.watch(steps.append)
            >>> answer = runtime.generate("Hello", {"max_new_tokens": 4, "ignore_eos": True})
            >>> end()
            >>> len(steps)
            4
        """
        engine = self.engine
        engine.watch(listener)
        return lambda: engine.unwatch(listener)

    # -- looking inside
    def check(self) -> None:
        """Check the runtime's invariants: for tests and debugging.

        Raises:
            AssertionError: An invariant is broken.
        """
        with self.engine.drive.held():
            self.engine.collect()
            self.engine.branches.take_news()
            invariants.check(self.engine)

    def draw(self, width: int = 60) -> str:
        """Draw the tree of KV: one node a line, with its tokens, whether it is live or cache, and its text.

        Args:
            width: Most characters of a node's text. Default 60.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> length = runtime.cache_prefix("The rules are: ")
            >>> "The rules are:" in runtime.draw()
            True
        """
        with self.engine.drive.held():
            return draw_tree(self.engine.tree, self._cursors(), self.tokenizer, width)

    def tree_rows(self, most: int, texts: bool = False) -> tuple[list[dict[str, Any]], int]:
        """The tree of KV as data, for pages and tools.

        Args:
            most: Most rows.
            texts: Tell the text of each row too. Default False.

        Returns:
            Rows, depth first, and how many were left out. A row has `depth` and `tokens`; a node `live` (branches
            beneath), a branch its name as `branch`.

        Example:
            >>> import sgl
            >>> runtime = sgl.Runtime.toy()
            >>> length = runtime.cache_prefix("The rules are: ")
            >>> rows, left_out = runtime.tree_rows(10)
            >>> sorted(rows[0]), left_out
            (['depth', 'live', 'tokens'], 0)
        """
        with self.engine.drive.held():
            return tree_rows(self.engine.tree, self._cursors(), self.tokenizer if texts else None, most)

    def _cursors(self) -> list[tuple[str, Cursor]]:
        self.engine.branches.take_news()
        branches = sorted(self.engine.branches.attached, key=lambda b: b.order)
        return [(".".join(map(str, branch.order)), branch.cursor) for branch in branches]

    def _check_open(self) -> None:
        self.engine.drive.check_process()
        if self.engine.closed is not None:
            raise self.engine.closed
