"""The job of a gen: sampled tokens in, text out; stops, limits, log-probabilities.

Knows nothing of steps, slots or other branches. It decides when a generation ends, and what its text and tokens then
are. The tokens stay as they were sampled: text is not tokenised again. There is one exception. Where a stop cuts
through a token, the bytes of that token before the cut are encoded anew, and the branch's watermark is lowered.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from ....lang.budget import default_budget
from ....lang.errors import OptionError
from ...base import GenRequest, GenResult, Handle, TokenLogprob, Usage
from ..kv.chain import Trie, Vertex
from ..program.branch import Branch
from ..sample.ask import Looked, Lookup
from ..sample.noise import mix
from ..sample.sampler import Recipe, Request, Sampled
from ..text.stop import StopMatcher
from .job import Job, JobContext
from .told import Told


class Samples:
    """The n samples of one gen, collected into one handle.

    The first sample runs on the gen's own branch, the `owner`, whose next op waits for the others. The gen is over when
    all samples are.
    """

    def __init__(self, handle: Handle[list[GenResult]], branches: list[Branch]) -> None:
        self.handle = handle
        self.branches = branches
        self.owner = branches[0]
        self.results: list[GenResult | None] = [None] * len(branches)

    def finish(self, i: int, result: GenResult) -> None:
        """Take the result of sample i; the last one completes the gen."""
        self.results[i] = result
        owner = self.owner
        owner.usage.add(result.usage)
        if all(self.results):
            owner.release()
            self.handle.finish([r for r in self.results if r is not None])
            owner.registry.notify(owner, wake=False)
        elif i == 0:
            owner.wait_for(self)  # without a job: it takes no part in steps, and may be parked

    def fail(self, error: BaseException) -> None:
        """Fail all samples, since one has failed."""
        self.handle.finish(None, error)
        branches, self.branches = self.branches, []
        for branch in branches:
            branch.doom(error)


class GenJob(Job):
    """Sample number `index` of a gen, on its branch. `drafts_next`: it does not run ahead, since the next
    plan may draft behind its next token. `source`: where its draft came from."""

    drafts_next = False
    source = ""

    def __init__(self, branch: Branch, request: GenRequest, samples: Samples, index: int, context: JobContext) -> None:
        s = request.sampling
        super().__init__(branch, samples.handle, request.where, context, s.timeout)
        self.samples, self.index = samples, index
        if request.trace:
            self.told = Told(self.cursor, branch.told, self.tokenizer, context.clock, first=index == 0)
        self.start = self.prompt_length
        self.budget = context.context_length - self.start
        most = default_budget(request.constraint, s.min_tokens or 0) if s.max_tokens is None else s.max_tokens
        if most is not None:
            self.budget = min(self.budget, most)
        self.min_tokens = min(s.min_tokens or 0, self.budget)
        seed = branch.program.noise if s.seed is None else s.seed
        path = branch.path if index == 0 else mix(branch.path, -index)
        wants_prompt = s.repetition_penalty not in (None, 1.0)
        self.recipe = Recipe.of(s, mix(seed, path), self.cursor.path_tokens() if wants_prompt else [], request.trace)
        self.text_in_logprobs = s.return_text_in_logprobs is not False
        ends = () if s.ignore_eos else self.tokenizer.eos_ids
        self.ends = frozenset((*ends, *(s.stop_token_ids or ())))
        self.banned = tuple(self.ends) if self.min_tokens else ()  # before `min_tokens`
        if len(self.banned) >= self.tokenizer.vocab_size:
            raise OptionError(
                f"{self.where}: min_tokens={s.min_tokens} bans the {len(self.banned)} tokens that end the text, and "
                "the model has no others; take some out of stop_token_ids, or leave min_tokens out"
            )
        self.stops = s.stop or (), s.stop_regex or ()
        self.matcher = StopMatcher(*self.stops, self.where)
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: dict[str, Any] | None = None
        self.from_token: int | None = None
        if index == 0:
            samples.handle.so_far = self.so_far
        if s.return_logprob and s.logprob_start_len is not None and s.logprob_start_len >= 0:
            self._score_prompt(s.logprob_start_len)
        self.begin()

    def begin(self) -> None:
        """Do what comes before the first sample."""
        if not self.budget and not self.recipe.logprobs:
            self._end("length", length=0)

    def _score_prompt(self, first: int) -> None:
        """Ask for the log-probabilities of the prompt from token `first` on. Their rows are computed again, beside the
        path: cached KV has no logits."""
        first = min(first, self.start)
        self.from_token = max(0, first - 1)
        self.skip = 1 if first > 0 else 0
        if sequence := self.cursor.path_tokens(self.from_token):
            self.tries = [Trie(self.from_token, [sequence], self.cursor.tree.pool)]

    # -- the scheduler's questions
    def most(self) -> int:
        return self.budget - len(self.tokens)

    def target(self) -> int:
        if self.open_chains():
            return self.cursor.length - 1
        return self.cursor.length if self.finish_reason is None else 0

    def wants_last(self) -> bool:
        return self.finish_reason is None

    def ask(self) -> Request:
        cursor = self.cursor
        banned: tuple[int, ...] = ()
        if self.min_tokens and len(self.tokens) + cursor.runs_ahead < self.min_tokens:
            banned = self.banned
        return Request(self.recipe, cursor.base + len(cursor.tail), banned)

    def ask_drafted(self, draft: Sequence[int]) -> list[Request]:
        asks = [self.ask()]
        position = asks[0].position
        for i in range(1, len(draft) + 1):
            recipe = self.recipe.after(draft[:i]) if self.recipe.penalised else self.recipe
            banned = self.banned if len(self.tokens) + i < self.min_tokens else ()
            asks.append(Request(recipe, position + i, banned))
        return asks

    def legal(self, draft: Sequence[int]) -> list[int]:
        """As much of a draft as may follow the text, within what is left of the budget."""
        return list(draft[: self.budget - len(self.tokens) - 1])

    def ask_chain(self, vertices: list[Vertex]) -> list[Lookup]:
        return [Lookup(tuple(vertex.children), self.recipe.top_logprobs) for vertex in vertices]

    def may_run_ahead(self) -> bool:
        ends = self.finish_reason is not None or len(self.tokens) + 1 >= self.budget
        return not (ends or self.drafts_next or self.recipe.penalised)

    # -- reading
    def read(self, vertices: list[Vertex] | None, rows: Sequence[Looked]) -> None:
        """Take the rows of the prompt's own tokens (asked for with `logprob_start_len`)."""
        for row, vertex in zip(rows, vertices or ()):
            vertex.learn(row)
        if not self.open_chains():
            self.park()
            self.tries[0].done = True

    def accept(self, sampled: Sampled) -> None:
        token = sampled.token
        if self.recipe.logprobs and sampled.logprob is not None:
            self.logprobs.append(self._described(token, sampled.logprob, sampled.top))
        if not self.budget:  # only the token that would come was asked for
            self._end("length", length=0)
        elif token in self.ends and len(self.tokens) >= self.min_tokens:
            self.usage.generated += 1
            self._end("stop", matched=token)
        else:
            self._commit(token, sampled.logprob)
            if self.finish_reason is None and len(self.tokens) >= self.budget:
                self._end("length", length=len(self.tokens))

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        return self.tokenizer.token_bytes[token]

    def _commit(self, token: int, logprob: float | None, forced: bool = False) -> None:
        """Add a token to the text. A stop in it may end the gen."""
        self.usage.generated += 1
        self.meter.tokens += 1
        self.tokens.append(token)
        if self.told is not None:
            self.told.token(token, self.bytes_of(token), logprob, forced)
        if self.recipe.penalised:
            self.recipe.note(token)
        self.cursor.commit(token)
        matcher = self.matcher
        self._show(matcher.push(self.bytes_of(token), len(self.tokens) >= self.min_tokens))
        if matcher.cut is not None:
            self._cut(matcher.cut)
            self._end("stop", matched=matcher.matched)

    def _end(self, kind: str, **details: Any) -> None:
        self.finish_reason = {"type": kind, **details}
        self._show(self.matcher.finish())

    def _show(self, piece: str) -> None:
        if self.index == 0:
            self.samples.handle.grow(piece)

    def _cut(self, at: int) -> None:
        """Cut the tokens `at` bytes into the text: keep whole tokens, and encode the rest of the one cut through."""
        spelled = [self.bytes_of(token) for token in self.tokens]
        ends, total = [], 0
        for data in spelled:
            total += len(data)
            ends.append(total)
        keep = sum(1 for end in ends if end <= at)
        text = b"".join(spelled)
        while keep and not _starts_character(text, ends[keep - 1]):
            keep -= 1  # never begin the rest inside a character
        rest = text[(ends[keep - 1] if keep else 0) : at].decode("utf-8", errors="replace")
        again = self.tokenizer.encode([(rest, False)], first=False) if rest else []
        if self.logprobs:
            begun = sum(1 for end, data in zip(ends, spelled) if end - len(data) < at)
            del self.logprobs[begun:]
        self.branch.truncate(self.start + keep)
        self.cursor.extend(again)
        self.tokens = self.tokens[:keep] + again

    def settled(self) -> bool:
        return self.finish_reason is not None and not self.open_chains()

    def close(self) -> None:
        ended = self.stamp()
        result = self.result()
        if self.told is not None:
            result.trace = self.told.finish(result.text, self.begun, ended)
            self.branch.told = self.cursor.length
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

    def so_far(self) -> GenResult:
        """What there is of the result while the gen runs; from any thread."""
        logprobs = list(self.logprobs) if self.recipe.logprobs else None
        return GenResult(self.samples.handle.text, list(self.tokens), {}, copy(self.usage), logprobs)

    def _prompt_logprobs(self) -> list[TokenLogprob] | None:
        if self.from_token is None:
            return None
        path = self.tries[0].paths[0][self.skip :] if self.tries else []
        return [self._described(v.token, v.logprob, v.top) for v in path]

    def _described(self, token: int, logprob: float | None, top: tuple[tuple[float, int], ...]) -> TokenLogprob:
        def text(t: int) -> str | None:
            return self.tokenizer.spell([t]) if self.text_in_logprobs else None

        return TokenLogprob(logprob, token, text(token), tuple((lp, t, text(t)) for lp, t in top))

    def abandon(self, error: BaseException) -> None:
        self.park()
        self.stamp()
        self.samples.owner.usage.add(self.usage)
        self.meter.ended.add(self.usage)
        self.samples.handle.usage = self.usage + (self.samples.handle.usage or Usage())
        self.samples.fail(error)


def _starts_character(data: bytes, at: int) -> bool:
    return at >= len(data) or data[at] & 0xC0 != 0x80
