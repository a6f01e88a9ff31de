"""What the ops of a branch mean: text becomes tokens, a gen or a select becomes a job, a fork becomes children.

Knows nothing of steps. An op is carried out under the engine's lock when its turn comes, with every check that needs
the branch's text. What is raised here fails the branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from ....lang.errors import ContextOverflow, OptionError
from ...base import Handle
from ..grammar.compile import Grammars
from ..job.constrained_gen import ConstrainedGenJob
from ..job.gen import GenJob, Samples
from ..job.job import Job, JobContext
from ..job.select import SelectJob
from .branch import Branch, ForkOp, GenOp, HoldOp, RestOp, SaveOp, ScoreOp, SyncOp, TokensOp, WarmOp, refuse


class Ops:
    """Carries out ops. `activate(branch, job)` is called for a job that wants steps, `rests(branch)` for a branch that
    has come to rest."""

    def __init__(
        self,
        context: JobContext,
        grammars: Grammars,
        activate: Callable[[Branch, Job], None],
        rests: Callable[[Branch], None],
    ) -> None:
        self.context, self.grammars = context, grammars
        self.tokenizer = context.tokenizer
        self._activate, self._rests = activate, rests

    def advance(self, branch: Branch) -> None:
        """Carry out ops until one needs the model, or none is left."""
        while branch.job is None and branch.hold_on is None and branch.ops:
            op = branch.ops.popleft()
            if isinstance(op, tuple):
                branch.pending.append(op)
                if not (op[1] or self.context.advice.gave("control")):
                    self._look_for_control_tokens(op[0])
            else:
                self._carry_out(branch, op)

    def _carry_out(self, branch: Branch, op: Any) -> None:
        if isinstance(op, GenOp) and self._searches_first(branch, op):
            return
        if isinstance(op, (GenOp, ScoreOp, WarmOp)):
            try:
                self._begin(branch, op)
            except BaseException as error:
                op.handle.finish(None, error)
                raise
        elif isinstance(op, ForkOp):
            try:
                self._fork(branch, op.children)
            except BaseException as error:
                refuse(op, error)
                raise
        elif isinstance(op, SyncOp):
            op.handle.finish(None)
        elif isinstance(op, SaveOp):
            noise = {"seed": branch.seed, "path": branch.path, "forks": branch.forks}
            pieces = [list(piece) for piece in branch.pending]  # their tokens may depend on what follows
            op.handle.finish({**noise, "tokens": list(map(int, branch.cursor.path_tokens())), "pieces": pieces})
        elif isinstance(op, RestOp):
            if all(isinstance(op, SyncOp) for op in branch.ops.copy()):
                branch.park()
                self._rests(branch)
        elif isinstance(op, HoldOp):
            branch.wait_outside(op.until)
        elif isinstance(op, TokensOp):
            self._append(branch, op.tokens)

    def _searches_first(self, branch: Branch, op: GenOp) -> bool:
        """Whether the text of the fewest tokens is looked for before a gen begins, since its budget is small.

        That takes up to seconds. So a thread does it, the branch is held until then, and others go on.
        """
        request = op.request
        if request.constraint is None or request.on_budget == "partial" or not self.grammars.has(request.constraint):
            return False
        prepared = self.grammars.prepare(request.constraint, request.where)
        budget = self.context.context_length - branch.cursor.length
        if request.sampling.max_tokens is not None:
            budget = min(budget, request.sampling.max_tokens)
        if prepared.knows(budget):
            return False
        found: Handle[None] = Handle(request.where)

        def search() -> None:
            try:
                prepared.text_within(budget)
            except BaseException as error:
                found.finish(None, error)
            else:
                found.finish(None)

        branch.ops.appendleft(op)
        branch.wait_outside(found)
        Thread(target=search, name="sgl-search", daemon=True).start()
        return True

    def _begin(self, branch: Branch, op: GenOp | ScoreOp | WarmOp) -> None:
        """Begin an op that needs the model."""
        if not isinstance(op, WarmOp) and op.request.gate is not None:
            op.request.gate()
        if isinstance(op, GenOp):
            self._begin_gen(branch, op)
        elif isinstance(op, ScoreOp):
            pending, branch.pending = branch.pending, []
            first = branch.cursor.length == 0
            with _named(op.request.where):
                prefix, tokens = self.tokenizer.encode_choices(pending, op.request.choices, first=first)
            self._extend(branch, prefix, op.request.where, room=max(map(len, tokens)))
            self._activate(branch, SelectJob(branch, op.request, op.handle, tokens, self.context))
        else:
            self._encode_pending(branch, "cache_prefix")
            self._activate(branch, Job(branch, op.handle, "cache_prefix", self.context))

    def _begin_gen(self, branch: Branch, op: GenOp) -> None:
        request, where = op.request, op.request.where
        self._check_ids("stop_token_ids", request.sampling.stop_token_ids or (), where)
        self._check_ids("logit_bias", [token for token, _ in request.sampling.logit_bias or ()], where)
        self._encode_pending(branch, where)
        if not branch.cursor.length:
            bos = self.tokenizer.bos_id
            if bos is None:
                raise OptionError(f"{where}: there is no text before it and the model has no begin token; add text")
            branch.cursor.extend([bos])
        self._extend(branch, [], where, room=0 if request.sampling.max_tokens == 0 else 1)
        prepared = None if request.constraint is None else self.grammars.prepare(request.constraint, where)
        if request.n > 1:
            branch.settle()
        branches = [branch, *(branch.child(-1, i) for i in range(1, request.n))]
        samples = Samples(op.handle, branches)
        for each in branches[1:]:
            each.path = branch.path
            each.be_born(branch)
            each.closing = True  # its KV becomes cache as soon as its sample is there
        try:
            for i, each in enumerate(branches):
                given = (each, request, samples, i, self.context)
                self._activate(each, GenJob(*given) if prepared is None else ConstrainedGenJob(*given, prepared))
        except BaseException as error:
            samples.fail(error)  # the other samples are born already
            raise

    def _fork(self, branch: Branch, children: tuple[Branch, ...]) -> None:
        """Freeze the branch except its last token and let the children continue from there. Text whose tokens may
        still depend on what follows it is handed down as text."""
        with _named("fork"):
            stable, branch.pending = self.tokenizer.encode_stable(branch.pending, first=branch.cursor.length == 0)
        self._extend(branch, stable, "fork")
        if branch.cursor.length:
            branch.settle()
        for child in children:
            if child.error is None and not (child.closing and not child.ops):
                child.be_born(branch)
                child.registry.notify(child, wake=False)

    def _look_for_control_tokens(self, text: str) -> None:
        """Tell the author of plain text that spells a control token, which plain text never becomes."""
        if (found := self.tokenizer.control_token_in(text)) is not None:
            self.context.advice.give(
                "control",
                f"plain text has {found!r}, the name of a control token, and it stays plain text for the model. If the "
                "token is meant, write sgl.special(...) in a program, or generate(..., special_tokens=True); roles "
                "(sgl.user(...)) write a model's own control tokens. This is said once.",
            )

    def _append(self, branch: Branch, tokens: tuple[int, ...]) -> None:
        """Append constant text that is already tokenised."""
        self._check_ids("input_ids", tokens, "generate")
        self._encode_pending(branch, "generate")
        self._extend(branch, list(tokens), "generate")

    def _encode_pending(self, branch: Branch, where: str) -> None:
        pending, branch.pending = branch.pending, []
        if pending:
            with _named(where):
                tokens = self.tokenizer.encode(pending, first=branch.cursor.length == 0)
            self._extend(branch, tokens, where)

    def _extend(self, branch: Branch, tokens: list[int], where: str, room: int = 0) -> None:
        limit = self.context.context_length
        length = branch.cursor.length + len(tokens)
        if length + room > limit:
            more = f" and {room} more needed" if room else ""
            raise ContextOverflow(
                f"{where}: the text is {length} tokens long{more}, but the context is {limit} tokens; "
                "shorten the text or raise context_length="
            )
        branch.cursor.extend(tokens)

    def _check_ids(self, option: str, ids: Iterable[int], where: str) -> None:
        last = self.tokenizer.vocab_size - 1
        for token in ids:
            if not isinstance(token, int) or not 0 <= token <= last:
                raise OptionError(f"{where}: {option} names token {token!r}, but token ids are 0 to {last}")


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say in which op a text is that no tokens spell."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from error.__cause__
