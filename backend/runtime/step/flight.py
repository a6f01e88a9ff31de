"""What a step in flight is asked, how branches run ahead of its answers, and who takes them.

Knows nothing of plans, nor of what computes. A branch whose answer is in flight takes no part in the next plan,
unless it *runs ahead*. Then a stand-in is appended for the token that is being sampled (`executor.ahead_of`). A device
can compute the row of the stand-in, since it will know the token in time. The answer takes the stand-in's place. If the
text has ended instead, the branch falls back, and the row was in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from ...contain import is_interruption
from ..job.constrained_gen import ConstrainedGenJob
from ..job.job import Job
from ..job.rule import fill_all
from ..program.branch import Branch
from ..sample.ask import Looked, Lookup
from ..sample.sampler import Answer, Ask, Request, Sampled
from .executor import ahead_of
from .step import Span, Step

FULL_STEP_ROWS = 1024
"""From so many rows on, a step's time grows with its rows: two steps cost no more than one with the rows of both."""


def begin_masks(step: Step, pool: ThreadPoolExecutor, one_call: bool) -> Future[None] | None:
    """Fill the masks that are not known yet, on a thread, while the forward runs.

    Returns once that thread has begun: a thread that wants the interpreter while this one computes may wait for
    milliseconds. A forward that is `one_call` lets it run at once; then it is here that this thread would wait, until
    the other gives the interpreter back.
    """
    jobs = [
        (span.job, span.draft)
        for span in step.spans
        if span.job.constrained
        and span.want
        and span.chain is None
        and isinstance(span.job, ConstrainedGenJob)
        and (span.draft or not span.job.rule.is_known())
    ]
    if not jobs:
        return None
    begun = Event()
    masks = pool.submit(_fill_masks, jobs, begun)
    if not one_call:
        begun.wait()
    return masks


def _fill_masks(jobs: list[tuple[ConstrainedGenJob, Sequence[int]]], begun: Event) -> None:
    begun.set()
    fill_all([(job.rule, job.may_end()) for job, _ in jobs])
    for job, draft in jobs:
        if draft:
            job.look_ahead(draft)


def ask(step: Step, fail: Callable[[Branch, BaseException], None]) -> None:
    """Ask what each job wants of its rows; `fail(branch, error)` where a job cannot say (its mask could not be
    made)."""
    asks: list[Ask] = []
    for span in step.spans:
        if not span.want:
            continue
        branch, job = span.branch, span.job
        wanted: Sequence[Ask] = ()
        try:
            if branch.job is job:
                wanted = _asks(span)
        except BaseException as error:
            fail(branch, error)
            if is_interruption(error):
                raise
        if wanted:
            span.at = len(asks)
            if isinstance(wanted[0], Request):
                span.samples = True
                step.sampled_rows += 1
            step.asked.append(span)
            step.own_rows += span.chain is None
            branch.asked_in = step.number
            asks += wanted
        asks += [Lookup(())] * (len(span.want) - len(wanted))
    assert step.flight is not None
    try:
        step.flight.ask(asks)
    except BaseException as error:
        if is_interruption(error):
            raise
        step.flight = LostFlight(error)


def _asks(span: Span) -> Sequence[Ask]:
    """What a span's job wants of its rows; of the last ones perhaps nothing."""
    if span.chain is not None:
        return span.job.ask_chain(span.chain.at(span.start, span.want))
    return span.job.ask_drafted(span.draft) if span.draft else (span.job.ask(),)


class LostFlight:
    """A step that could not be asked: its error is that of every job that asked."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def ask(self, asks: Sequence[Ask]) -> None:
        raise AssertionError("a step is asked once")

    def answers(self) -> list[Answer]:
        raise self._error


def goes_on(step: Step) -> bool:
    """Whether the next step is worth launching before this one is collected.

    No, if most branches must know their token first: two groups would alternate, and each step would carry half of the
    branches. Yes, if the step is so large that alternating costs nothing. Notes in `step.going_on` the spans whose
    branches run ahead, by what was answered since the step was asked.
    """
    if isinstance(step.flight, LostFlight):
        return False
    step.going_on = [span for span in step.asked if span.samples and not span.draft and span.job.may_run_ahead()]
    return 2 * len(step.going_on) >= step.own_rows or step.rows >= FULL_STEP_ROWS


def run_ahead(step: Step) -> None:
    """Append a stand-in to each branch that runs ahead of this step's answers (see `goes_on`)."""
    for span in step.going_on:
        cursor = span.branch.cursor
        if span.branch.job is span.job and not cursor.runs_ahead:
            cursor.commit(ahead_of(span.at))


def hand_out(step: Step, fail: Callable[[Branch, BaseException], None]) -> None:
    """Give the answers to the jobs that asked. Raises what went wrong with all of them; `fail(branch, error)` where a
    job cannot take its answer, or the answer is an error."""
    assert step.flight is not None
    answers = step.flight.answers()
    number = step.number
    for span in step.asked:
        branch, job = span.branch, span.job
        if branch.asked_in == number:
            branch.asked_in = 0
        if branch.job is not job:
            continue
        try:
            if span.samples:
                _take_samples(branch, job, span, answers)
            else:
                vertices = span.chain.at(span.start, span.want) if span.chain is not None else None
                job.read(vertices, _looked(answers[span.at : span.at + len(span.want)]))
        except BaseException as error:
            fail(branch, error)
            if is_interruption(error):
                raise


def _take_samples(branch: Branch, job: Job, span: Span, answers: Sequence[Answer]) -> None:
    """Give a job the token that was sampled, and those after it as long as each follows a draft that was right. Raises
    what is wrong with the first answer; a later one is asked for again."""
    cursor, first = branch.cursor, span.start + span.want[0]
    row, last = 0, len(span.draft)
    while True:
        answer = answers[span.at + row]
        if not isinstance(answer, Sampled):
            if not row:
                assert isinstance(answer, Exception)
                raise answer
            break
        job.accept(answer)
        if not last or job.settled() or cursor.computed < cursor.length or not row < cursor.length - 1 - first <= last:
            break  # nothing was drafted, the text has ended, or its last token is another one
        row = cursor.length - 1 - first
    if cursor.runs_ahead or (branch.asked_in and job.settled()):
        branch.fall_back()  # the text has ended, and the next step is on its way already


def _looked(answers: list[Answer]) -> list[Looked]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers  # type: ignore[return-value]
