"""How constraints and choices are enforced on a service: natively, by asking again, or not at all; always checked here.

Knows nothing of branches or of the wire. `write` carries out a gen, `pick` a select.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...lang.checking.check import Mismatch
from ...lang.choices import check_decision, logprobs_of
from ...lang.constraint import Choices, Constraint, Grammar, JsonSchema, Regex
from ...lang.errors import CapabilityError, ConstraintError, Truncated
from ...lang.expr import Sampling
from ..base import CallTrace, ChoiceScores, GenRequest, GenResult, ScoreRequest, ScoreResult, TokenLogprob, Usage
from .caller import Answer, Caller, Sample
from .service import Ask, Messages, NativeForm

NATIVE, VALIDATE, REFUSE = "native", "validate", "refuse"


@dataclass(frozen=True, slots=True)
class Policy:
    """`constrain`: one of the three; `repairs`: how often a text that breaks its constraint is asked for again;
    `select`: "logprobs" (choices are scored), "choice" (the model writes one of them), or "refuse"."""

    constrain: str
    repairs: int
    select: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call stands: what was said before it, whether it goes on with an open turn, and the seed it has."""

    prompt: str | Messages
    continues: bool
    seed: int | None
    untold: tuple[str, int]  # what no traced call of this line has told of, for a trace; and tokens of it


Grow = Callable[[str], None]


async def write(
    caller: Caller, policy: Policy, place: Place, request: GenRequest, grow: Grow, spent: Usage
) -> list[GenResult]:
    """Carry out a gen. `grow` hears of text that is final; `spent` counts, also of a gen that fails.

    Raises `ConstraintError` for a text that breaks its constraint, `Truncated` for one that its budget cut.
    """
    form = None
    if request.constraint is not None and policy.constrain == NATIVE:
        form = caller.service.native(request.constraint, request.where)
    streams = request.constraint is None or (form is not None and form.opened is None)
    shown: list[str] = []

    def show(piece: str) -> None:
        shown.append(piece)
        grow(piece)

    fields = {} if form is None else form.fields
    ask = Ask(place.prompt, request.sampling, request.n, place.seed, place.continues, fields)
    began = time.monotonic()
    answer = await caller.ask(ask, request.where, show if streams else None)
    spent.add(answer.usage())
    results = []
    for sample in answer.samples:
        checked = _Checked(caller, policy, ask, request, form, spent)
        result = await checked.result(sample)
        if request.trace:
            result.trace = _traced(place, sample, result.text, began)
        results.append(result)
    grow(results[0].text[len("".join(shown)) :])
    _share(results, answer, spent)
    return results


def _share(results: list[GenResult], answer: Answer, spent: Usage) -> None:
    """Give each sample the tokens that it wrote, where the service tells; the first one has all else."""
    first = results[0].usage
    first.add(spent)
    for result, sample in list(zip(results, answer.samples))[1:]:
        if sample.generated is not None:
            result.usage.generated = result.usage.computed = sample.generated
            first.generated -= sample.generated
            first.computed -= sample.generated


class _Checked:
    """One sample of a gen, and the requests that follow when its text breaks the constraint."""

    def __init__(
        self, caller: Caller, policy: Policy, ask: Ask, request: GenRequest, form: NativeForm | None, spent: Usage
    ) -> None:
        self._caller, self._policy, self._ask, self._request = caller, policy, ask, request
        self._form, self._spent = form, spent
        self._asked = 1

    async def result(self, sample: Sample) -> GenResult:
        constraint = self._request.constraint
        if constraint is None:
            return self._made(sample, sample.text)
        while True:
            try:
                text, value = self._read(constraint, sample)
            except Mismatch as mismatch:
                if sample.finish is not None and sample.finish["type"] == "length":
                    return self._cut(sample)
                if self._policy.constrain != VALIDATE or self._asked > self._policy.repairs:
                    raise self._broken(mismatch) from mismatch
                sample = await self._again(constraint, sample.text, mismatch)
                continue
            result = self._made(sample, text)
            result.value, result.receipt = value, self._receipt(True)
            return result

    def _read(self, constraint: Constraint, sample: Sample) -> tuple[str, Any]:
        """The text of a reply, and its value. Raises `Mismatch`."""
        from ..runtime.grammar.raw import checked_text

        opened = self._form.opened if self._form is not None else None
        text = sample.text if opened is None else opened(sample.text)
        return text, checked_text(constraint, text)

    def _cut(self, sample: Sample) -> GenResult:
        if self._request.on_budget != "partial":
            raise Truncated(
                f"{self._request.where}: the answer of {self._caller.service.name} was cut by its budget of tokens "
                "before it fitted its constraint; raise max_tokens=",
                sample.text,
            )
        result = self._made(sample, sample.text)
        result.receipt = self._receipt(False)
        return result

    def _broken(self, mismatch: Mismatch) -> ConstraintError:
        name, times = self._caller.service.name, f"{self._asked} times" if self._asked > 1 else "once"
        how = "took the constraint" if self._policy.constrain == NATIVE else f"was asked {times}"
        return ConstraintError(f"{self._request.where}: {name} {how}, and its answer breaks it: {mismatch.reason}")

    async def _again(self, constraint: Constraint, text: str, mismatch: Mismatch) -> Sample:
        """Ask for one sample once more; a chat is told what was wrong."""
        prompt = self._ask.prompt
        if not isinstance(prompt, str) and not self._ask.continues:
            told = (
                f"That answer cannot be used: {mismatch.reason}. The whole answer must be {described(constraint)}. "
                "Write it again, with nothing before it and nothing after it."
            )
            prompt = (*prompt, {"role": "assistant", "content": text}, {"role": "user", "content": told})
        seed = None if self._ask.seed is None else self._ask.seed + self._asked
        self._asked += 1
        answer = await self._caller.ask(replace(self._ask, prompt=prompt, n=1, seed=seed), self._request.where)
        self._spent.add(answer.usage())
        return answer.samples[0]

    def _receipt(self, complete: bool) -> dict[str, Any]:
        return {
            "engine": self._caller.service.name,
            "policy": self._policy.constrain,
            "complete": complete,
            "attempts": self._asked,
        }

    def _made(self, sample: Sample, text: str) -> GenResult:
        sampling = self._request.sampling
        logprobs = _shown(sample.logprobs, sampling) if sampling.return_logprob else None
        inputs = None if sample.input_logprobs is None else _shown(sample.input_logprobs, sampling)
        return GenResult(text, list(sample.token_ids), dict(sample.finish or {}), Usage(), logprobs, inputs)


def _shown(rows: list[TokenLogprob], sampling: Sampling) -> list[TokenLogprob]:
    if sampling.return_text_in_logprobs is not False:
        return rows
    return [TokenLogprob(r.logprob, r.token_id, None, tuple((p, t, None) for p, t, _ in r.top)) for r in rows]


def described(constraint: Constraint) -> str:
    """A constraint in words for a model."""
    if isinstance(constraint, JsonSchema):
        return f"JSON that is valid under this JSON Schema: {constraint.source}"
    if isinstance(constraint, Regex):
        return f"text that this whole regular expression matches: {constraint.pattern}"
    if isinstance(constraint, Choices):
        return "exactly one of these texts: " + ", ".join(map(repr, constraint.choices))
    if isinstance(constraint, Grammar):
        return f"a text of this grammar:\n{constraint.source}\n"
    return f"a text of this form: {constraint!r}"


def _traced(place: Place, sample: Sample, text: str, began: float) -> CallTrace:
    before, tokens = place.untold
    trace = CallTrace([(before, False, tokens)], began=began, ended=time.monotonic())
    rows = [row for row in sample.logprobs if row.text is not None]
    if rows and "".join(row.text or "" for row in rows) == text:
        trace.texts = [row.text or "" for row in rows]
        trace.logprobs = [row.logprob for row in rows]
    else:
        trace.texts = list(sample.parts) if "".join(sample.parts) == text else [text]
        trace.logprobs = [None] * len(trace.texts)
    trace.token_ids = list(sample.token_ids) if len(sample.token_ids) == len(trace.texts) else [-1] * len(trace.texts)
    trace.forced, trace.steps = [False] * len(trace.texts), [0] * len(trace.texts)
    return trace


async def pick(caller: Caller, policy: Policy, place: Place, request: ScoreRequest, spent: Usage) -> ScoreResult:
    """Carry out a select."""
    if policy.select == "choice":
        return await _written_choice(caller, policy, place, request, spent)
    if not isinstance(place.prompt, str):
        raise CapabilityError(f"{request.where}: {caller.service.name} cannot score choices")
    began = time.monotonic()
    alone = bool(request.method.requires_unconditional_logprobs)
    scored = await caller.scores(place.prompt, request.choices, alone, request.where)
    spent.add(Usage(0, scored.prompt, scored.cached, max(0, scored.prompt - scored.cached)))
    given = [[(t.logprob, t.token_id, t.text) for t in tokens] for tokens in scored.choices]
    without = None if scored.alone is None else [[(t.logprob, t.token_id, t.text) for t in c] for c in scored.alone]
    means = [sum(logprobs_of(tokens)) / len(tokens) for tokens in given]
    decision = request.method(
        choices=list(request.choices),
        normalized_prompt_logprobs=means,
        input_token_logprobs=given,
        output_token_logprobs=[[] for _ in given],
        unconditional_token_logprobs=without,
    )
    decision = check_decision(request.where, decision, request.choices)
    index = request.choices.index(decision.decision)
    if request.temperature > 0:
        index = _drawn(means if decision.scores is None else decision.scores, request.temperature, place.seed)
    text = request.choices[index]
    result = ScoreResult(
        index, text, ChoiceScores(scored.choices, scored.alone), dict(decision.meta_info or {}), replace(spent)
    )
    if request.trace:
        won = Sample([text], logprobs=scored.choices[index])
        result.trace = _traced(place, won, text, began)
    return result


def _drawn(scores: Any, temperature: float, seed: int | None) -> int:
    """Draw one of the scores: the largest of score / temperature + Gumbel noise."""
    noise = random.Random(seed)
    uniform = [(noise.getrandbits(52) + 0.5) / 2**52 for _ in scores]
    drawn = [float(score) / temperature - math.log(-math.log(u)) for score, u in zip(scores, uniform)]
    return drawn.index(max(drawn))


async def _written_choice(
    caller: Caller, policy: Policy, place: Place, request: ScoreRequest, spent: Usage
) -> ScoreResult:
    """Let the model write one of the choices, under the policy of constraints: nothing is scored."""
    sampling = Sampling(temperature=request.temperature)
    gen = GenRequest(sampling, where=request.where, constraint=Choices(request.choices), trace=request.trace)
    result = (await write(caller, policy, place, gen, lambda piece: None, spent))[0]
    meta = {"normalized_prompt_logprobs": None, "input_token_logprobs": None, "constraint": result.receipt}
    scores = ChoiceScores([[] for _ in request.choices])
    return ScoreResult(request.choices.index(result.text), result.text, scores, meta, result.usage, result.trace)
