"""`RemoteBackend`: the protocol of a backend, for every service. Knows nothing of any one service."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...lang.chat import ChatTemplate
from ...lang.constraint import KINDS, Constraint, kinds
from ...lang.errors import BackendError, CapabilityError, OptionError
from ...lang.expr import Gen, Select
from ..base import BackendBranch, Capabilities, Handle, StepRecord
from . import loop
from .branch import RemoteBranch
from .caller import Caller
from .options import check_sampling, number, one_of
from .policy import NATIVE, REFUSE, VALIDATE, Policy
from .service import Messages, PromptText, Service
from .turns import TURNS, messages_of


class RemoteBackend:
    """What `sgl.OpenAI`, `sgl.Anthropic`, `sgl.LiteLLM` and `sgl.RuntimeEndpoint` have in common.

    Args:
        service: The service.
        chat: It takes messages; else text.
        template: How roles are written for a service that takes text; None: roles raise.
        prefill: Of a chat: a call may go on with an open turn of the assistant.
        native: Kinds of constraints that the service enforces.
        logprobs: It tells log-probabilities of what it writes.
        select: How a select is carried out (`Policy`).
        constrain, repairs, retries, max_concurrency: As of `sgl.OpenAI`.
    """

    def __init__(
        self,
        service: Service,
        *,
        model: str,
        chat: bool,
        template: ChatTemplate | None = None,
        prefill: bool = True,
        native: Iterable[str] = (),
        logprobs: bool = False,
        select: str = "refuse",
        constrain: str = NATIVE,
        repairs: int = 2,
        retries: int = 2,
        max_concurrency: int = 64,
    ) -> None:
        what = type(self).__name__
        one_of(f"{what}: constrain", constrain, NATIVE, VALIDATE, REFUSE)
        number(f"{what}: repairs", repairs, 0, whole=True)
        number(f"{what}: retries", retries, 0, whole=True)
        number(f"{what}: max_concurrency", max_concurrency, 1, whole=True)
        self.model_name = model
        self.chat_template = TURNS if chat else template
        self.policy = Policy(constrain, repairs, select)
        self.caller = Caller(service, retries, max_concurrency)
        enforced = {NATIVE: frozenset(native), VALIDATE: KINDS, REFUSE: frozenset[str]()}[constrain]
        can_pick = select == "logprobs" or (select == "choice" and "choices" in enforced)
        self.capabilities = Capabilities(
            service.name, can_pick, logprobs, enforced, turns=chat, continues=prefill, check=self._check
        )
        self._service, self._chat = service, chat
        self._branches: weakref.WeakSet[RemoteBranch] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._shut = False

    # -- what is refused before anything is sent
    def _check(self, part: Gen | Select, where: str) -> None:
        name = self._service.name
        if isinstance(part, Select):
            self._check_select(part, where)
            return
        check_sampling(name, part.sampling, self._service.taken, where)
        if part.sampling.return_logprob and not self.capabilities.logprobs:
            raise CapabilityError(f"{where}: {name} tells no log-probabilities; leave out return_logprob=")
        if part.constraint is None:
            return
        if lacks := kinds(part.constraint) - self.capabilities.constraints:
            named = " and ".join(sorted(lacks))
            why = (
                f"was made with constrain={self.policy.constrain!r}"
                if self.policy.constrain == REFUSE
                else (f"cannot enforce {named} by itself")
            )
            fix = "ask with constrain='validate' (check each answer, ask again), or constrain on a sgl.Runtime(...)"
            raise CapabilityError(f"{where}: the call has a constraint ({named}), and {name} {why}; {fix}")

    def _check_select(self, part: Select, where: str) -> None:
        name, how = self._service.name, self.policy.select
        if how == "refuse":
            raise CapabilityError(
                f"{where}: {name} tells no log-probabilities of a given text, so it cannot score choices; make the "
                "backend with select='choice' to let the model write one of them, or score on a sgl.Runtime(...)"
            )
        if how == "choice" and not self.capabilities.score:
            raise CapabilityError(
                f"{where}: select='choice' needs a constraint, and {name} has none for choices with "
                f"constrain={self.policy.constrain!r}; make the backend with constrain='validate'"
            )
        if how == "choice" and part.method is not Select(None, ("-",)).method:
            raise CapabilityError(
                f"{where}: choices_method={part.method!r} needs log-probabilities, which {name} does not tell; "
                "leave it out"
            )

    # -- the protocol of a backend
    def prepare(self, constraint: Constraint, where: str) -> None:
        """Find what the service cannot be asked, before anything is sent."""
        if self.policy.constrain == NATIVE:
            self._service.native(constraint, where)

    def prepared(self, constraint: Constraint) -> bool:
        return True

    def open(
        self, *, seed: int | None = None, timeout: float | None = None, caller: BackendBranch | None = None
    ) -> RemoteBranch:
        self._check_process()
        if self._shut:
            raise BackendError(f"{self._service.name} was shut down; make a new backend")
        if seed is not None and "seed" not in self._service.taken:
            raise CapabilityError(f"run(seed={seed}): {self._service.name} has no seeds; leave it out")
        return RemoteBranch(self, seed, timeout)

    def enlist(self, branch: RemoteBranch) -> None:
        with self._lock:
            self._branches.add(branch)

    def read(self, pieces: Sequence[tuple[str, bool]]) -> tuple[str | Messages, bool]:
        """The prompt that the pieces of a branch say, and whether a call goes on with an open turn."""
        name = self._service.name
        if not self._chat:
            return PromptText.of(pieces), False
        messages, role = messages_of(pieces, name)
        if role != "assistant":
            raise CapabilityError(
                f"{name} writes only in a turn of the assistant: put the call into sgl.assistant(...)"
            )
        if not messages[-1]["content"]:
            return messages[:-1], False
        if not self.capabilities.continues:
            raise CapabilityError(f"{name} was not told to go on with a turn: make the backend with prefill=True")
        return messages, True

    def pin(self, pieces: Sequence[tuple[str, bool]]) -> int:
        return 0

    def watch(self, listener: Callable[[StepRecord], None]) -> Callable[[], None]:
        return lambda: None

    def wait(self, handle: Handle[Any], seen: int | None = None, timeout: float | None = None) -> bool:
        if not handle.ready(seen):
            self._check_process()
        return loop.wait(handle, seen, timeout)

    async def wait_async(self, handle: Handle[Any], seen: int | None = None) -> None:
        await loop.wait_async(handle, seen)

    def flush_cache(self) -> bool:
        """Say that nothing was dropped: what the service keeps of earlier prompts is its own. See `get_server_info`."""
        return False

    def get_server_info(self) -> dict[str, Any]:
        """Tell the model, and the requests that were sent and that run now.

        Example:
            >>> import sgl
            >>> backend = sgl.OpenAI("gpt-4o-mini", api_key="...")  # doctest: +SKIP
            >>> backend.get_server_info()["requests"]  # doctest: +SKIP
            0
            >>> backend.flush_cache()  # doctest: +SKIP
            False
        """
        return {"model": self.model_name, "service": self._service.name, **self._counts()}

    def _counts(self) -> dict[str, Any]:
        return {"requests": self.caller.sent, "running_requests": self.caller.running}

    def shutdown(self) -> None:
        """Cancel what runs, and close all connections. A backend that was shut down runs nothing more.

        Example:
            >>> import sgl
            >>> with sgl.RuntimeEndpoint("http://localhost:30000") as backend:
            ...     sgl.set_default_backend(backend)
            >>> sgl.function(lambda s: None).run(backend=backend)
            Traceback (most recent call last):
            sgl.lang.errors.BackendError: SGLang at localhost:30000 was shut down; make a new backend
            >>> sgl.set_default_backend(None)
        """
        if self._shut or self._process != os.getpid():
            return
        self._shut = True
        with self._lock:
            branches = list(self._branches)
        for branch in branches:
            branch.cancel(BackendError(f"{self._service.name} was shut down"))
        loop.blocking(self._service.close())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<sgl.{type(self).__name__} {self._service.name}>"

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise BackendError(
                "this process was forked from the one that made the remote backend, and its connections and threads "
                "stayed there; make a backend in this process"
            )


def model_of(what: str, model: Any) -> str:
    """The name of a model, checked."""
    if not isinstance(model, str) or not model:
        raise OptionError(f"{what}: model must be the name of a model, got {model!r:.60}")
    return model
