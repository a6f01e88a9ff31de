"""What a step in flight asks, how branches go on before it has answered, and who takes its answers.

Owns: the order of asks and answers in a step, and running ahead. Knows nothing of plans or of what computes.

A branch whose answer is in flight takes no part in the next plan, unless it *runs ahead*: a token is appended that
stands for the one being sampled (`executor.ahead_of`), so that its row can be computed on a device where it will be
known in time. When the answer is there it takes that token's place; if the text ended instead, the branch falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from ..job.constrained_gen import ConstrainedGen
from ..job.job import Job
from ..job.rule import fill_all
from ..program.branch import Branch
from ..sample.ask import Looked, Lookup
from ..sample.sampler import Request, Sampled
from .executor import Answer, Ask, ahead_of
from .span import Span, Step

LARGE = 1024
"""Rows from which a step's time grows with them: two steps take no longer than one of both."""


def begin_masks(spans: list[Span], pool: ThreadPoolExecutor) -> Future[None] | None:
    """Fill the masks of constrained rows that are not known yet while the forward runs. Returns once that has begun: a
    thread that wants the interpreter while this one computes may wait milliseconds for it."""
    jobs = [
        span.branch.job
        for span in spans
        if span.want
        and span.chain is None
        and isinstance(span.branch.job, ConstrainedGen)
        and not span.branch.job.rule.is_known()
    ]
    if not jobs:
        return None
    begun = Event()
    masks = pool.submit(_fill_masks, jobs, begun)
    begun.wait()
    return masks


def _fill_masks(jobs: list[ConstrainedGen], begun: Event) -> None:
    begun.set()
    fill_all([(job.rule, job.may_end()) for job in jobs])


def ask(step: Step, fail: Callable[[Branch, BaseException], None]) -> None:
    """Ask what each job wants of its rows; `fail(branch, error)` where one cannot say (its mask could not be made)."""
    asks: list[Ask] = []
    for span in step.spans:
        if not span.want:
            continue
        branch = span.branch
        job = branch.job
        wanted: Sequence[Ask] = ()
        if job is not None:
            try:
                wanted = job.asks(branch, span)
            except Exception as error:
                fail(branch, error)
        if not wanted:
            asks += [Lookup(())] * len(span.want)
            continue
        span.job, span.at = job, len(asks)
        if isinstance(wanted[0], Request):
            span.samples = True
            step.sampled += 1
        step.asked.append(span)
        step.own += span.chain is None
        branch.asked_in = step.number
        asks += wanted
    try:
        step.flight.ask(asks)
    except Exception as error:
        step.flight = Lost(error)


class Lost:
    """A step that could not be asked: its error is for all who wanted to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def ask(self, asks: Sequence[Ask]) -> None:
        raise AssertionError("a step is asked once")

    def answers(self) -> list[Answer]:
        raise self._error


def goes_on(step: Step) -> bool:
    """Whether the next step is worth launching before this one is collected: not where most samples must be known first
    (they would take turns, half of them idle in every step), unless this one has rows enough to be no turn lost.

    Notes in `step.going_on` who runs ahead: what was answered since the step was asked decides that."""
    if isinstance(step.flight, Lost):
        return False
    step.going_on = [span for span in step.asked if span.samples and span.job.runs_ahead()]  # type: ignore[union-attr]
    return 2 * len(step.going_on) >= step.own or step.rows >= LARGE


def run_ahead(step: Step) -> None:
    """Let the branches that the step samples for go on (those that may: see `goes_on`), each after a token that is not
    known yet."""
    for span in step.going_on:
        branch = span.branch
        if branch.job is span.job and not branch.ahead:
            branch.run_ahead(ahead_of(span.at))


def answered(step: Step, fail: Callable[[Branch, BaseException], None]) -> None:
    """Give the answers to those who asked; raises what went wrong with all of them. `fail(branch, error)` where one
    cannot take them, or was answered with an error."""
    answers = step.flight.answers()
    number = step.number
    for span in step.asked:
        branch, job = span.branch, span.job
        if branch.asked_in == number:
            branch.asked_in = 0
        if job is None or branch.job is not job:
            continue
        try:
            if span.samples:
                _take(branch, job, answers[span.at])
            else:
                job.read(branch, span, _looked(answers[span.at : span.at + len(span.want)]))
        except BaseException as error:
            fail(branch, error)
            if not isinstance(error, Exception):
                raise


def _take(branch: Branch, job: Job, answer: Answer) -> None:
    """The token that was sampled for a branch; raises what is wrong with it."""
    if not isinstance(answer, Sampled):
        assert isinstance(answer, Exception)
        raise answer
    job.accept(branch, answer)
    if branch.ahead or job.settled(branch):
        branch.fall_back()


def _looked(answers: list[Answer]) -> list[Looked]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers  # type: ignore[return-value]
