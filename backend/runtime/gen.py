"""One gen's state machine: sampled tokens in, text out; stops, limits, log-probabilities.

Owns: when a generation ends and what its text and tokens then are. Knows nothing of steps, slots or other branches.

The generated tokens stay as they were sampled: they are never encoded again. Only when a stop cuts through a token are
the few bytes before the cut, within that token, encoded anew; the branch's watermark is lowered to there.

A constrained gen (`constrained.py`) commits the tokens its grammar forces along with the one that was sampled, so they
ride in the same span; ends where its text is complete; and checks the text against the original constraint before it is
handed over. If the mask could not enforce everything, a text that fails the check is dropped and sampled anew, a few
times; nothing of such a gen is streamed before it passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...lang.checking import Mismatch, check
from ...lang.errors import ConstraintError, Truncated
from ...lang.expr import DEFAULT_MAX_TOKENS
from ..base import GenRequest, GenResult, Handle, TokenLogprob
from .chain import Trie
from .constrained import Constrained
from .grammar.compile import Prepared
from .job import Job
from .noise import mix
from .sample.sampler import Recipe, Request, Sampled, log_softmax, top_of
from .text.stop import StopMatcher
from .text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from .branch import Branch
    from .step import Span


_DTYPE_STOPS: dict[type | None, tuple[str, ...]] = {int: (" ", "\n"), float: (" ", "\n")}
"""Where a number may end besides at the end of the text, as in SGLang."""
ATTEMPTS = 4
"""Samples of a gen whose constraint is partly checked afterwards, before it fails."""
FRESH_TEMPERATURE = 0.8
"""Of the fresh samples of a greedy gen, which would write the same again."""


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
            self.owner.sampling = None
            self.handle.finish([r for r in self.results if r is not None])
            self.owner.engine.notify(self.owner, wake=False)
        elif i == 0:
            self.owner.sampling = self  # it waits without a job: it takes no part in steps, and may be parked

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
        prepared: Prepared | None = None,
    ) -> None:
        s = request.sampling
        super().__init__(branch, samples.handle, request.where, s.timeout)
        self.samples, self.index = samples, index
        self.tokenizer = tokenizer
        self.start = branch.length
        room = context_length - branch.length
        default = room if prepared else max(DEFAULT_MAX_TOKENS, s.min_tokens or 0)
        self.budget = min(default if s.max_tokens is None else s.max_tokens, room)
        self.min_tokens = min(s.min_tokens or 0, self.budget)
        seed = branch.seed if s.seed is None else s.seed
        path = branch.path if index == 0 else mix(branch.path, -index)
        wants_prompt = s.repetition_penalty not in (None, 1.0)
        self.recipe = Recipe.of(s, mix(seed, path), branch.path_tokens() if wants_prompt else [])
        self.text_in_logprobs = s.return_text_in_logprobs is not False
        ends = () if s.ignore_eos else tokenizer.eos_ids
        self.ends = frozenset((*ends, *(s.stop_token_ids or ())))
        self.stops = s.stop or (), s.stop_regex or ()
        self.matcher = StopMatcher(*self.stops)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: dict[str, Any] | None = None
        self.from_token: int | None = None
        self.rule: Constrained | None = None
        self.partial = request.on_budget == "partial"
        self.attempt = 1
        self.complete = True
        self.forbidden: list[float] = []  # the model's probability of what the mask forbade, a sampled token
        self.value: Any = None
        if s.return_logprob and s.logprob_start_len is not None and s.logprob_start_len >= 0:
            self._score_prompt(branch, s.logprob_start_len)
        if prepared is not None:
            follow = tokenizer.encode([(request.follow, False)], first=False)[:1] if request.follow else []
            self.ending_stops = (*(s.stop or ()), *_DTYPE_STOPS.get(getattr(prepared.constraint, "dtype", None), ()))
            self.rule = Constrained(
                prepared, self.ends, follow[0] if follow else None, self.ending_stops, request.on_budget == "close"
            )
            self._begin(branch)
        elif not self.budget:
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
    def target(self, branch: Branch) -> int:
        if self.open_chains():
            return branch.length - 1
        return branch.length if self.finish_reason is None else 0

    def wants_last(self) -> bool:
        return self.finish_reason is None

    def fill_mask(self) -> None:
        """Compute the mask of the row that is being computed; on any thread."""
        if self.rule is not None:
            self.rule.fill(len(self.tokens) >= self.min_tokens)

    def request(self, branch: Branch) -> Request | None:
        if self.rule is not None:
            return Request(self.recipe, branch.length, mask=self.rule.mask())
        banned = tuple(self.ends) if len(self.tokens) < self.min_tokens else ()
        return Request(self.recipe, branch.length, banned)

    # -- reading
    def read(self, branch: Branch, span: Span, logits: Any) -> None:
        """Rows of the prompt's own tokens (only asked for with logprob_start_len)."""
        chain = span.chain
        for row, offset in zip(logits, span.want):
            lp = log_softmax(row[: self.tokenizer.vocab_size])
            for child in chain.vertices[span.start - chain.start + offset].children.values():
                child.logprob = float(lp[child.token])
                child.top = top_of(lp, self.recipe.top_logprobs)
        if not self.open_chains():
            self.park(branch)
            self.tries[0].done = True

    def accept(self, branch: Branch, sampled: Sampled) -> None:
        token = sampled.token
        if self.rule is not None:
            self._accept_constrained(branch, self.rule, sampled)
            return
        if sampled.logprob is not None:
            self.logprobs.append(self._described(token, sampled.logprob, sampled.top))
        if token in self.ends and len(self.tokens) >= self.min_tokens:
            self.usage.generated += 1
            self._end("stop", matched=token)
        else:
            self._commit(branch, token)
            if self.finish_reason is None and len(self.tokens) >= self.budget:
                self._end("length", length=len(self.tokens))

    def _commit(self, branch: Branch, token: int) -> None:
        """A token joins the text; a stop in it may end the gen."""
        self.usage.generated += 1
        self.tokens.append(token)
        self.recipe.note(token)
        branch.tail.append(token)
        matcher = self.matcher
        self._show(matcher.push(self.tokenizer.token_bytes[token], len(self.tokens) >= self.min_tokens))
        if matcher.cut is not None:
            self._cut(branch, matcher.cut)
            self._end("stop", matched=matcher.matched)

    def _end(self, kind: str, **details: Any) -> None:
        self.finish_reason = {"type": kind, **details}
        self._show(self.matcher.finish())

    def _show(self, piece: str) -> None:
        if self.index == 0 and (self.rule is None or not self.rule.prepared.checked):
            self.samples.handle.grow(piece)

    # -- under a constraint
    def _begin(self, branch: Branch) -> None:
        """The beginning of a constrained text: what is forced needs no model."""
        assert self.rule is not None
        self._extend_forced(branch, self.rule)
        self._conclude(branch, self.rule)

    def _accept_constrained(self, branch: Branch, rule: Constrained, sampled: Sampled) -> None:
        token: int | None = sampled.token
        self.forbidden.append(sampled.forbidden)
        if not rule.is_end(sampled.token):
            token = rule.steer(sampled.token, self.budget - len(self.tokens))
        if token is not None and sampled.logprob is not None:
            own = token == sampled.token
            self.logprobs.append(self._described(token, sampled.logprob if own else None, sampled.top))
        if token is None:
            self._end("stop", matched=None)
        elif rule.is_end(token):
            self.usage.generated += 1
            self._end("stop", matched=token if token in self.ends else self._stop_at(token))
        else:
            rule.accept(token)
            self._commit(branch, token)
            self._extend_forced(branch, rule)
        self._conclude(branch, rule)

    def _stop_at(self, token: int) -> str | None:
        """The stop that this token, which is no part of the text, begins with; None for the constant that follows."""
        data = self.tokenizer.token_bytes[token]
        return next((stop for stop in self.ending_stops if data.startswith(stop.encode())), None)

    def _extend_forced(self, branch: Branch, rule: Constrained) -> None:
        """Commit what the grammar leaves no choice about. With log-probabilities every token goes through the model."""
        if self.recipe.logprobs:
            return
        while self.finish_reason is None and len(self.tokens) < self.budget and (forced := rule.forced()):
            for token in forced[: self.budget - len(self.tokens)]:
                rule.accept(token)
                self.usage.forced += 1
                self._commit(branch, token)
                if self.finish_reason is not None:
                    return

    def _conclude(self, branch: Branch, rule: Constrained) -> None:
        """End the text where nothing can follow or the budget is spent; check an ended one."""
        if self.finish_reason is None:
            if rule.matcher.is_done():
                self._end("stop", matched=None)
            elif len(self.tokens) < self.budget:
                return
            elif rule.matcher.can_end():
                self._end("length", length=len(self.tokens))
            elif self.partial:
                self.complete = False
                self._end("length", length=len(self.tokens))
                return
            else:
                raise Truncated(self._truncated(rule), self.matcher.text)
        try:
            self.value = check(rule.prepared.constraint, self.matcher.text)
        except Mismatch as mismatch:
            self._reject(branch, rule, mismatch)

    def _truncated(self, rule: Constrained) -> str:
        shortest = rule.prepared.shortest
        need = f"; the shortest text known for this constraint is {shortest} tokens" if shortest > self.budget else ""
        return (
            f"{self.where}: the text was not complete when its budget of {self.budget} tokens was spent{need}; raise "
            f"max_tokens= (or the context), or take what there is with on_budget='partial'. It ends in "
            f"{self.matcher.text[-60:]!r}"
        )

    def _reject(self, branch: Branch, rule: Constrained, mismatch: Mismatch) -> None:
        """The text breaks the original constraint: sample afresh, or fail."""
        checked = rule.prepared.checked
        if not checked or self.attempt >= ATTEMPTS:
            why = (
                f"{self.attempt} samples in a row broke what only a check can enforce ({', '.join(checked)})"
                if checked
                else "the text breaks its constraint, although the mask allowed it"
                if self.finish_reason and self.finish_reason.get("matched") is None
                else "the stop cut the text where it was not complete"
            )
            raise ConstraintError(f"{self.where}: {why}: {mismatch}. The text: {self.matcher.text!r:.400}")
        self.attempt += 1
        self.finish_reason = None
        self.tokens, self.logprobs = [], []
        self.matcher = StopMatcher(*self.stops)
        branch.truncate(self.start)
        branch.high = min(branch.high, branch.length)
        self.recipe = self.recipe.afresh(mix(self.recipe.key, self.attempt), FRESH_TEMPERATURE)
        rule.restart()
        self._begin(branch)

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
        assert self.finish_reason is not None
        result = GenResult(
            text=self.matcher.text,
            token_ids=self.tokens,
            finish_reason=self.finish_reason,
            usage=self.usage,
            logprobs=self.logprobs if self.recipe.logprobs else None,
            input_logprobs=self._prompt_logprobs(),
            value=self.value,
            receipt=None if self.rule is None else self._receipt(self.rule),
        )
        if self.rule is not None and self.rule.prepared.checked and self.index == 0:
            self.samples.handle.grow(result.text)
        self.samples.finish(self.index, result)

    def _receipt(self, rule: Constrained) -> dict[str, Any]:
        receipt = {
            **rule.prepared.receipt(),
            "complete": self.complete,
            "attempts": self.attempt,
            "steered": rule.steered,
        }
        if self.recipe.logprobs:
            receipt["mask_loss"] = sum(self.forbidden) / max(1, len(self.forbidden))
        return receipt

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
        self.samples.fail(error)


def _starts_character(data: bytes, at: int) -> bool:
    return at >= len(data) or data[at] & 0xC0 != 0x80
