"""What the ops of a branch mean: text becomes tokens, a gen or a select becomes a job, a fork becomes children.

Owns: the beginning of each op, with every check that needs the branch's text. Knows nothing of steps. Called by the
engine, under its lock, when the op's turn comes; what is raised here fails the branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ....lang.errors import ContextOverflow, OptionError
from ..grammar.compile import Grammars
from ..job.constrained_gen import ConstrainedGen
from ..job.gen import Gen, Samples
from ..job.job import Job
from ..job.select import Score
from ..options import EngineOptions
from ..text.tokenizer import Tokenizer
from .branch import GenOp, ScoreOp, WarmOp

if TYPE_CHECKING:
    from .branch import Branch


class Ops:
    """`activate(branch, job)`: the job wants steps. `notify(branch, wake)`: the branch has news."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        options: EngineOptions,
        grammars: Grammars,
        activate: Callable[[Branch, Job], None],
        notify: Callable[[Branch, bool], None],
    ) -> None:
        self.tokenizer, self.options, self.grammars = tokenizer, options, grammars
        self._activate, self._notify = activate, notify

    def begin(self, branch: Branch, op: GenOp | ScoreOp | WarmOp) -> None:
        """An op that needs the model."""
        if not isinstance(op, WarmOp) and op.request.gate is not None:
            op.request.gate()
        if isinstance(op, GenOp):
            self._begin_gen(branch, op)
        elif isinstance(op, ScoreOp):
            pending, branch.pending = branch.pending, []
            prefix, tokens = self.tokenizer.encode_choices(pending, op.request.choices, first=branch.length == 0)
            self._extend(branch, prefix, op.request.where, room=max(map(len, tokens)))
            self._activate(branch, Score(branch, op.request, op.handle, tokens, self.tokenizer))
        else:
            self._encode_pending(branch, "cache_prefix")
            self._activate(branch, Job(branch, op.handle, "cache_prefix"))

    def _begin_gen(self, branch: Branch, op: GenOp) -> None:
        request, where = op.request, op.request.where
        self._check_ids("stop_token_ids", request.sampling.stop_token_ids or (), where)
        self._check_ids("logit_bias", [token for token, _ in request.sampling.logit_bias or ()], where)
        self._encode_pending(branch, where)
        if not branch.length:
            bos = self.tokenizer.bos_id
            if bos is None:
                raise OptionError(f"{where}: there is no text before it and the model has no begin token; add text")
            branch.extend([bos])
        self._extend(branch, [], where, room=0 if request.sampling.max_tokens == 0 else 1)
        prepared = None if request.constraint is None else self.grammars.prepare(request.constraint, where)
        if request.n > 1:
            branch.settle()
        branches = [branch, *(branch.child(-1, i) for i in range(1, request.n))]
        samples = Samples(op.handle, branches)
        for each in branches[1:]:
            each.path = branch.path
            each.inherit(branch)
            each.closing = True  # its KV becomes cache as soon as its sample is there
        for i, each in enumerate(branches):
            given = (each, request, samples, i, self.tokenizer, self.options.context_length)
            self._activate(each, Gen(*given) if prepared is None else ConstrainedGen(*given, prepared))

    def fork(self, branch: Branch, children: tuple[Branch, ...]) -> None:
        """Freeze the branch except its last token and let the children continue from there. Text whose tokens may
        still depend on what follows it is handed down as text."""
        stable, branch.pending = self.tokenizer.encode_stable(branch.pending, first=branch.length == 0)
        self._extend(branch, stable, "fork")
        if branch.length:
            branch.settle()
        for child in children:
            if child.error is None and not (child.closing and not child.ops):
                child.inherit(branch)
                self._notify(child, False)

    def append(self, branch: Branch, tokens: tuple[int, ...]) -> None:
        """Constant text that is tokenised already."""
        self._check_ids("input_ids", tokens, "generate")
        self._encode_pending(branch, "generate")
        self._extend(branch, list(tokens), "generate")

    def _encode_pending(self, branch: Branch, where: str) -> None:
        pending, branch.pending = branch.pending, []
        if pending:
            self._extend(branch, self.tokenizer.encode(pending, first=branch.length == 0), where)

    def _extend(self, branch: Branch, tokens: list[int], where: str, room: int = 0) -> None:
        limit = self.options.context_length
        length = branch.length + len(tokens)
        if length + room > limit:
            more = f" and {room} more needed" if room else ""
            raise ContextOverflow(
                f"{where}: the text is {length} tokens long{more}, but the context is {limit} tokens; "
                "shorten the text or raise context_length="
            )
        branch.extend(tokens)

    def _check_ids(self, option: str, ids: Iterable[int], where: str) -> None:
        last = self.tokenizer.vocab_size - 1
        for token in ids:
            if not isinstance(token, int) or not 0 <= token <= last:
                raise OptionError(f"{where}: {option} names token {token!r}, but token ids are 0 to {last}")
