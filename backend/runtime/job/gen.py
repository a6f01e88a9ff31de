"""One gen's state machine: sampled tokens in, text out; stops, limits, log-probabilities.

Owns: when a generation ends and what its text and tokens then are. Knows nothing of steps, slots or other branches.

The generated tokens stay as they were sampled: they are never encoded again. Only when a stop cuts through a token are
the few bytes before the cut, within that token, encoded anew; the branch's watermark is lowered to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....lang.expr import DEFAULT_MAX_TOKENS, Sampling
from ...base import GenRequest, GenResult, Handle, TokenLogprob, Usage
from ..kv.chain import Trie
from ..sample.ask import Looked, Lookup
from ..sample.noise import mix
from ..sample.sampler import Recipe, Request, Sampled
from ..text.stop import StopMatcher
from ..text.tokenizer import Tokenizer
from .job import Job
from .told import Told

if TYPE_CHECKING:
    from ..program.branch import Branch
    from ..step.executor import Ask
    from ..step.span import Span


class Samples:
    """The n samples of one gen, collected into one handle. The first runs on the gen's own branch, the `owner`, whose
    next op waits for the others: the gen is over when all are."""

    def __init__(self, handle: Handle[list[GenResult]], branches: list[Branch]) -> None:
        self.handle = handle
        self.branches = branches
        self.owner = branches[0]
        self.results: list[GenResult | None] = [None] * len(branches)

    def finish(self, i: int, result: GenResult) -> None:
        self.results[i] = result
        self.owner.usage.add(result.usage)
        if all(self.results):
            self.owner.waits_for = None
            self.handle.finish([r for r in self.results if r is not None])
            self.owner.engine.notify(self.owner, wake=False)
        elif i == 0:
            self.owner.waits_for = self  # it waits without a job: it takes no part in steps, and may be parked

    def fail(self, error: BaseException) -> None:
        """One failed: all fail with it."""
        self.handle.finish(None, error)
        branches, self.branches = self.branches, []
        for branch in branches:
            branch.doom(error)


class Gen(Job):
    """Sample `index` of a gen, on its branch."""

    def __init__(
        self,
        branch: Branch,
        request: GenRequest,
        samples: Samples,
        index: int,
        tokenizer: Tokenizer,
        context_length: int,
    ) -> None:
        s = request.sampling
        super().__init__(branch, samples.handle, request.where, s.timeout)
        self.samples, self.index = samples, index
        if request.trace:
            self.told = Told(branch, tokenizer, first=index == 0)
        self.tokenizer = tokenizer
        self.start = branch.length
        asked = self.default_budget(s, context_length) if s.max_tokens is None else s.max_tokens
        self.budget = min(asked, context_length - branch.length)
        self.min_tokens = min(s.min_tokens or 0, self.budget)
        seed = branch.program.noise if s.seed is None else s.seed
        path = branch.path if index == 0 else mix(branch.path, -index)
        wants_prompt = s.repetition_penalty not in (None, 1.0)
        self.recipe = Recipe.of(s, mix(seed, path), branch.path_tokens() if wants_prompt else [], request.trace)
        self.text_in_logprobs = s.return_text_in_logprobs is not False
        ends = () if s.ignore_eos else tokenizer.eos_ids
        self.ends = frozenset((*ends, *(s.stop_token_ids or ())))
        self.stops = s.stop or (), s.stop_regex or ()
        self.matcher = StopMatcher(*self.stops)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: dict[str, Any] | None = None
        self.from_token: int | None = None
        if s.return_logprob and s.logprob_start_len is not None and s.logprob_start_len >= 0:
            self._score_prompt(branch, s.logprob_start_len)
        self.begin(branch)

    @staticmethod
    def default_budget(sampling: Sampling, context_length: int) -> int:
        return max(DEFAULT_MAX_TOKENS, sampling.min_tokens or 0)

    def begin(self, branch: Branch) -> None:
        """Before the first sample."""
        if not self.budget:
            self._end("length", length=0)

    def _score_prompt(self, branch: Branch, first: int) -> None:
        """Ask for the log-probabilities of the prompt from token `first` on. Their rows are computed again, beside the
        path: cached KV has no logits."""
        first = min(first, branch.length)
        self.from_token = max(0, first - 1)
        self.skip = 1 if first > 0 else 0
        sequence = branch.path_tokens()[self.from_token :]
        if sequence:
            self.tries = [Trie(self.from_token, [sequence])]

    # -- the scheduler's questions
    def most(self) -> int:
        return self.budget - len(self.tokens)

    def target(self, branch: Branch) -> int:
        if self.open_chains():
            return branch.length - 1
        return branch.length if self.finish_reason is None else 0

    def wants_last(self) -> bool:
        return self.finish_reason is None

    def asks(self, branch: Branch, span: Span) -> list[Ask]:
        if span.chain is None:
            return [self.request(branch)]
        top = self.recipe.top_logprobs
        return [Lookup(tuple(vertex.children), top) for vertex in span.chain.asked(span)]

    def request(self, branch: Branch) -> Request:
        """How to sample from the branch's last row."""
        banned = tuple(self.ends) if len(self.tokens) + branch.ahead < self.min_tokens else ()
        return Request(self.recipe, branch.length, banned)

    def runs_ahead(self) -> bool:
        return self.finish_reason is None and len(self.tokens) + 1 < self.budget and not self.recipe.penalised

    # -- reading
    def read(self, branch: Branch, span: Span, rows: Sequence[Looked]) -> None:
        """Rows of the prompt's own tokens (only asked for with logprob_start_len)."""
        for row, vertex in zip(rows, span.chain.asked(span)):
            vertex.learn(row)
        if not self.open_chains():
            self.park(branch)
            self.tries[0].done = True

    def accept(self, branch: Branch, sampled: Sampled) -> None:
        token = sampled.token
        if self.recipe.logprobs and sampled.logprob is not None:
            self.logprobs.append(self._described(token, sampled.logprob, sampled.top))
        if token in self.ends and len(self.tokens) >= self.min_tokens:
            self.usage.generated += 1
            self._end("stop", matched=token)
        else:
            self._commit(branch, token, sampled.logprob)
            if self.finish_reason is None and len(self.tokens) >= self.budget:
                self._end("length", length=len(self.tokens))

    def _commit(self, branch: Branch, token: int, logprob: float | None, forced: bool = False) -> None:
        """A token joins the text; a stop in it may end the gen."""
        self.usage.generated += 1
        branch.engine.meter.tokens += 1
        self.tokens.append(token)
        if self.told is not None:
            self.told.token(token, logprob, forced, branch.engine.landing)
        self.recipe.note(token)
        branch.commit(token)
        matcher = self.matcher
        self._show(matcher.push(self.tokenizer.token_bytes[token], len(self.tokens) >= self.min_tokens))
        if matcher.cut is not None:
            self._cut(branch, matcher.cut)
            self._end("stop", matched=matcher.matched)

    def _end(self, kind: str, **details: Any) -> None:
        self.finish_reason = {"type": kind, **details}
        self._show(self.matcher.finish())

    def _show(self, piece: str) -> None:
        if self.index == 0:
            self.samples.handle.grow(piece)

    def _cut(self, branch: Branch, at: int) -> None:
        """Cut the tokens `at` bytes into the text: keep whole tokens, encode what is left of the one cut through."""
        table = self.tokenizer.token_bytes
        ends, total = [], 0
        for token in self.tokens:
            total += len(table[token])
            ends.append(total)
        keep = sum(1 for end in ends if end <= at)
        text = b"".join([table[t] for t in self.tokens])
        while keep and not _starts_character(text, ends[keep - 1]):
            keep -= 1  # never begin the rest inside a character
        rest = text[(ends[keep - 1] if keep else 0) : at].decode("utf-8", errors="replace")
        again = self.tokenizer.encode([(rest, False)], first=False) if rest else []
        if self.logprobs:
            begun = sum(1 for end, token in zip(ends, self.tokens) if end - len(table[token]) < at)
            del self.logprobs[begun:]
        branch.truncate(self.start + keep)
        branch.high = min(branch.high, branch.length)
        branch.extend(again)
        self.tokens = self.tokens[:keep] + again

    def settled(self, branch: Branch) -> bool:
        return self.finish_reason is not None and not self.open_chains()

    def close(self, branch: Branch) -> None:
        ended = self.stamp()
        result = self.result()
        if self.told is not None:
            result.trace = self.told.finish(result.text, self.begun, ended)
            branch.told = branch.length
        self.samples.finish(self.index, result)

    def result(self) -> GenResult:
        assert self.finish_reason is not None
        return GenResult(
            text=self.matcher.text,
            token_ids=self.tokens,
            finish_reason=self.finish_reason,
            usage=self.usage,
            logprobs=self.logprobs if self.recipe.logprobs else None,
            input_logprobs=self._prompt_logprobs(),
        )

    def _prompt_logprobs(self) -> list[TokenLogprob] | None:
        if self.from_token is None:
            return None
        path = self.tries[0].paths[0][self.skip :] if self.tries else []
        return [self._described(v.token, v.logprob, v.top) for v in path]

    def _described(self, token: int, logprob: float | None, top: tuple[tuple[float, int], ...]) -> TokenLogprob:
        def text(t: int) -> str | None:
            return self.tokenizer.token_bytes[t].decode("utf-8", errors="replace") if self.text_in_logprobs else None

        return TokenLogprob(logprob, token, text(token), tuple((lp, t, text(t)) for lp, t in top))

    def abandon(self, branch: Branch, error: BaseException) -> None:
        self.park(branch)
        self.stamp()
        self.samples.owner.usage.add(self.usage)
        branch.engine.meter.ended.add(self.usage)
        self.samples.handle.usage = self.usage + (self.samples.handle.usage or Usage())
        self.samples.fail(error)


def _starts_character(data: bytes, at: int) -> bool:
    return at >= len(data) or data[at] & 0xC0 != 0x80
