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

from .branch import Branch
from .constrained import fill_all
from .constrained_gen import ConstrainedGen
from .executor import Answer, Ask, ahead_of
from .job import Job
from .sample.ask import Lookup
from .sample.sampler import Request, Sampled
from .step import Asked, Span, Step


def begin_masks(spans: list[Span], pool: ThreadPoolExecutor) -> Future[None] | None:
    """Fill the masks of constrained rows while the forward runs. Returns once that has begun: a thread that wants the
    interpreter while this one computes may wait milliseconds for it."""
    jobs = [
        span.branch.job
        for span in spans
        if span.want and span.chain is None and isinstance(span.branch.job, ConstrainedGen)
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
        branch, job = span.branch, span.branch.job
        wanted: Sequence[Ask] = [Lookup(())] * len(span.want)
        if span.want and job is not None:
            try:
                wanted = job.asks(branch, span)
                step.asked.append(Asked(branch, job, span, len(asks), wanted))
                step.sampled += isinstance(wanted[0], Request)
                branch.asked_in = step.number
            except Exception as error:
                step.asked.append(Asked(branch, job, span, len(asks), wanted))
                fail(branch, error)
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
    (they would take turns, half of them idle in every step)."""
    if isinstance(step.flight, Lost):
        return False
    samples = [asked.job.runs_ahead() for asked in step.asked if asked.span.chain is None]
    return 2 * sum(samples) >= len(samples)


def run_ahead(step: Step) -> None:
    """Let the branches that the step samples for go on, each after a token that is not known yet."""
    for branch, job, _, at, asks in step.asked:
        if branch.job is job and not branch.ahead and job.runs_ahead() and isinstance(asks[0], Request):
            branch.run_ahead(ahead_of(at))


def answered(step: Step) -> list[tuple[Branch, Job, Span, list[Answer]]]:
    """The answers, for those who asked; raises what went wrong with all of them."""
    answers = step.flight.answers()
    for asked in step.asked:
        if asked.branch.asked_in == step.number:
            asked.branch.asked_in = 0
    return [(branch, job, span, answers[at : at + len(asks)]) for branch, job, span, at, asks in step.asked]


def take(branch: Branch, job: Job, span: Span, answers: list[Answer]) -> None:
    """Give a job the answers it asked for; raises what is wrong with them."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    if isinstance(answers[0], Sampled):
        job.accept(branch, answers[0])
        if branch.ahead or job.settled(branch):
            branch.fall_back()
    else:
        job.read(branch, span, answers)  # type: ignore[arg-type]
