"""The invariants, on random programs: append, gen, select, fork, cancel, evict, close, in orders nobody thinks of.

The toy model's logits depend on every (token, position) a row can see, so equality with the naive oracle means that
every slot, mask, position and watermark was right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import (
    greedy_token_selection,
    sequence_likelihood,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from sgl.lang.errors import OutOfMemory
from sgl.lang.expr import Sampling

from .naive import Naive, NaiveBranch, impatient, rush

NAIVE = Naive()
TEXTS = [
    "ab",
    "c",
    "the",
    " ",
    "\n",
    "日",
    "日本 ",
    "Answer:",
    " yes",
    "st",
    "op stop",
    "é",
    "A long common beginning, ",
    "which many programs share because they were written by one person and then run over many rows. ",
]
SAMPLINGS = [
    Sampling(max_tokens=6, temperature=0.0),
    Sampling(max_tokens=9, temperature=1.0),
    Sampling(max_tokens=8, temperature=0.7, top_k=20, stop=("a", "\n")),
    Sampling(max_tokens=12, temperature=1.5, top_p=0.9, stop=("th", "e", "日"), min_tokens=2),
    Sampling(max_tokens=5, temperature=1.0, repetition_penalty=1.3, frequency_penalty=0.5, seed=11),
    Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
    Sampling(max_tokens=0),
]
CHOICES = [("yes", "no"), (" yes", " no", " ye"), ("a", "ab", "abc"), ("the", "th", "stop", "st", "日本", "日")]
METHODS = [token_length_normalized, greedy_token_selection, unconditional_likelihood_normalized, sequence_likelihood]

text_op = st.tuples(st.just("text"), st.sampled_from(TEXTS))
gen_op = st.tuples(st.just("gen"), st.sampled_from(SAMPLINGS), st.sampled_from([1, 1, 1, 3]))
select_op = st.tuples(st.just("select"), st.sampled_from(CHOICES), st.sampled_from(METHODS))


def programs(depth: int) -> st.SearchStrategy[list[Any]]:
    op: Any = st.one_of(text_op, text_op, gen_op, select_op)
    if depth:
        op = st.one_of(op, op, st.tuples(st.just("fork"), st.lists(programs(depth - 1), min_size=1, max_size=3)))
    return st.lists(op, min_size=1, max_size=5)


@dataclass
class Run:
    """One program on the fast runtime: what it enqueued, with the oracle's expectation beside each handle."""

    branch: Any
    checks: list[tuple[Any, Any]] = field(default_factory=list)
    children: list[Run] = field(default_factory=list)
    naive: Any = None

    def everything(self) -> list[Run]:
        return [self, *(r for c in self.children for r in c.everything())]


def start(branch: Any, oracle: NaiveBranch, program: list[Any]) -> Run:
    """Enqueue the whole program at once (nothing is computed yet) and compute what the oracle says."""
    run = Run(branch, naive=oracle)
    for op in program:
        if op[0] == "text":
            branch.append(op[1])
            oracle.append(op[1])
        elif op[0] == "gen":
            handle = branch.gen(GenRequest(op[1], op[2]))
            others = [expected_sample(oracle, op[1], i) for i in range(1, op[2])]
            run.checks.append((handle, ("gen", [oracle.gen(op[1]), *others])))
        elif op[0] == "select":
            run.checks.append((branch.score(ScoreRequest(op[1], op[2])), ("select", oracle.select(op[1], op[2]))))
        else:
            mine, theirs = branch.fork(len(op[1])), oracle.fork(len(op[1]))
            run.children += [start(b, o, p) for b, o, p in zip(mine, theirs, op[1])]
    return run


def expected_sample(oracle: NaiveBranch, sampling: Sampling, i: int) -> Any:
    from sgl.backend.runtime.sample.noise import mix

    (copy,) = NaiveBranch(oracle.naive, oracle.seed, oracle.path, list(oracle.tokens), list(oracle.pending)).fork(1)
    copy.path = oracle.path
    return copy.gen(sampling, mix(oracle.path, -i))


def verify(run: Run, pool: int) -> None:
    if isinstance(run.branch.error, OutOfMemory):  # allowed only where one branch alone is too big for the pool
        assert len(run.naive.tokens) + 60 > pool
        return
    for handle, (kind, expected) in run.checks:
        if kind == "gen":
            got = [(r.text, r.token_ids, r.finish_reason) for r in handle.value()]
            assert got == expected
            assert handle.text == expected[0][0]  # 7: what was streamed is the final text
        else:
            result = handle.value()
            assert result.text == expected[0]
            assert [[t.logprob for t in c] for c in result.scores.token_logprobs] == expected[1]
    for child in run.children:
        verify(child, pool)


CONFIGS = st.fixed_dictionaries(
    {
        "disable_radix_cache": st.booleans(),
        "chunked_prefill_size": st.sampled_from([1, 3, 7, 64]),
        "max_running_requests": st.sampled_from([1, 2, 64]),
        "max_total_tokens": st.sampled_from([90, 130, 400, 20000]),
    }
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(programs(2), min_size=1, max_size=4), CONFIGS, st.data())
def test_random_programs_equal_the_oracle(batch: list[list[Any]], config: dict[str, Any], data: st.DataObject) -> None:
    runtime = Runtime.toy(**config)
    engine = runtime.engine
    impatient(runtime)
    if data.draw(st.booleans()):
        rush(runtime)
    runs = [start(runtime.open(seed=i % 2), NaiveBranch.open(NAIVE, i % 2), p) for i, p in enumerate(batch)]
    cancelled: set[int] = set()
    while engine.step():
        runtime.check()
        event = data.draw(st.sampled_from(["go", "go", "go", "go", "flush", "cancel", "rest"]))
        if event == "flush":
            runtime.flush_cache()
        elif event == "cancel" and len(runs) > 1:
            runs[0].branch.cancel()
            cancelled.add(0)
        elif event == "rest":
            runs[-1].branch.rest()
    for i, run in enumerate(runs):
        if i not in cancelled:
            verify(run, config["max_total_tokens"])
            for each in run.everything():  # 2: the tokens are the text
                each.naive._flush()
                if each.branch.error is not None:
                    continue
                fast = each.branch.cursor.path_tokens()
                assert each.naive.tokens[: len(fast)] == fast
    for run in runs:
        for each in run.everything():
            assert all(handle.done for handle, _ in each.checks)
            each.branch.close()
    runtime.check()
    invariants.idle_and_whole(engine)
    assert not engine.branches.attached
    runtime.flush_cache()
    assert engine.tree.pool.available == engine.tree.pool.capacity
