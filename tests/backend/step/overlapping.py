"""Programs that overlap on a toy device, and what is looked at after every step. For `test_overlap*.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import sgl
from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime import invariants
from sgl.backend.runtime.kv.pool import cut
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import token_length_normalized, unconditional_likelihood_normalized
from sgl.lang.expr import Sampling

from ..naive import Naive, impatient
from .lagging import LaggingExecutor

EOS = min(toy_tokenizer().eos_ids)
ENDING = {EOS: 3.0}
"""With this, about one text in ten ends at each token."""
NAIVE = Naive(favour=ENDING)
PATIENCE = 3000
"""Steps that no test needs: with more, somebody hangs."""

TEXTS = ["ab", "the ", "\n", "日本", "Answer:", "st", "A long common beginning, which many programs share; "]
SAMPLINGS = [
    Sampling(max_tokens=7, temperature=0.0),
    Sampling(max_tokens=14, temperature=1.0),
    Sampling(max_tokens=12, temperature=0.9, top_k=30, stop=("a", "th", "\n")),
    Sampling(max_tokens=12, temperature=1.3, top_p=0.9, stop=("e", "日", "st"), min_tokens=3),
    Sampling(max_tokens=12, temperature=1.0, stop_token_ids=tuple(range(0, 300, 9)), min_tokens=2),
    Sampling(max_tokens=8, temperature=1.0, repetition_penalty=1.3, frequency_penalty=0.5, seed=11),
    Sampling(max_tokens=9, temperature=1.0, return_logprob=True, top_logprobs_num=2),
    Sampling(max_tokens=6, temperature=0.8, return_logprob=True, logprob_start_len=0, stop=("o",)),
    Sampling(max_tokens=1, temperature=0.0, ignore_eos=True),
    Sampling(max_tokens=0),
]
PATTERNS = [r"[ab]{2,5}", r"(yes|no), the (answer|stop)", r"[0-9]{3}\.", r"stop", r"(?=.*\d)[a-e0-9]{4,}"]
CHOICES = [("yes", "no"), ("a", "ab", "abc"), ("the", "th", "stop", "st", "日本")]
METHODS = [token_length_normalized, unconditional_likelihood_normalized]

text_op = st.tuples(st.just("text"), st.sampled_from(TEXTS))
gen_op = st.tuples(st.just("gen"), st.sampled_from(SAMPLINGS), st.sampled_from([1, 1, 1, 3]))
grammar_op = st.tuples(st.just("grammar"), st.sampled_from(PATTERNS), st.sampled_from([0.0, 1.0]))
select_op = st.tuples(st.just("select"), st.sampled_from(CHOICES), st.sampled_from(METHODS))


def programs(depth: int) -> st.SearchStrategy[list[Any]]:
    op: Any = st.one_of(text_op, gen_op, gen_op, grammar_op, select_op)
    if depth:
        op = st.one_of(op, op, st.tuples(st.just("fork"), st.lists(programs(depth - 1), min_size=1, max_size=3)))
    return st.lists(op, min_size=1, max_size=5)


CONFIGS = st.fixed_dictionaries(
    {
        "disable_radix_cache": st.booleans(),
        "chunked_prefill_size": st.sampled_from([1, 3, 7, 64]),
        "max_running_requests": st.sampled_from([1, 2, 64]),
        "max_total_tokens": st.sampled_from([130, 200, 500, 20000]),
    }
)


@dataclass
class Run:
    """One program on one runtime."""

    branch: Any
    handles: list[Any] = field(default_factory=list)
    children: list[Run] = field(default_factory=list)

    def everything(self) -> list[Run]:
        return [self, *(r for c in self.children for r in c.everything())]


def start(branch: Any, program: list[Any], trace: bool = False) -> Run:
    run = Run(branch)
    for op, *args in program:
        if op == "text":
            branch.append(args[0])
        elif op == "gen":
            run.handles.append(branch.gen(GenRequest(args[0], args[1], trace=trace)))
        elif op == "grammar":
            sampling = Sampling(max_tokens=20, temperature=args[1])
            run.handles.append(branch.gen(GenRequest(sampling, constraint=sgl.regex(args[0]), trace=trace)))
        elif op == "select":
            run.handles.append(branch.score(ScoreRequest(args[0], args[1], trace=trace)))
        else:
            run.children += [start(b, p, trace) for b, p in zip(branch.fork(len(args[0])), args[0])]
    return run


def outcome(handle: Any) -> Any:
    """What a caller gets, without what it cost."""
    assert handle.done, "a handle hangs"
    if handle.error is not None:
        return type(handle.error).__name__, str(handle.error)
    value = handle.value()
    if not isinstance(value, list):
        return value.index, value.text, value.scores, value.meta
    assert handle.text == value[0].text  # 7: what was streamed is the final text
    return [
        (r.text, r.token_ids, r.finish_reason, r.logprobs, r.input_logprobs, r.value, _told(r.receipt)) for r in value
    ]


def _told(receipt: Any) -> Any:
    return receipt and {key: receipt.get(key) for key in ("complete", "attempts", "steered", "mask_loss")}


def expected(batch: list[list[Any]], **config: Any) -> list[list[Run]]:
    """The programs on a runtime that knows each answer before it goes on, and drafts nothing."""
    plain = Runtime.toy(favour=ENDING, speculative_num_draft_tokens=0, **config)
    runs = [start(plain.open(seed=i % 2), program) for i, program in enumerate(batch)]
    step_to_the_end(plain)
    return [run.everything() for run in runs]


def step_to_the_end(runtime: Runtime) -> int:
    """Steps until nothing is left to do, looking at everything after each."""
    impatient(runtime)
    for steps in range(PATIENCE):
        if not runtime.engine.step():
            return steps
        look(runtime)
    raise AssertionError("somebody hangs")


def look(runtime: Runtime) -> None:
    """The invariants with a step in flight; and every slot that counts as computed holds just that token."""
    engine = runtime.engine
    invariants.check(engine)
    if not isinstance(engine.executor, LaggingExecutor):
        return
    tokens_N, positions_N = engine.model._token, engine.model._position  # type: ignore[attr-defined]

    def holds(runs: list[Any], start: int, tokens: list[int]) -> None:
        slots = np.concatenate([np.arange(at, at + n) for at, n in runs]) if runs else np.zeros(0, dtype=np.int64)
        real = np.array([t if t >= 0 else tokens_N[s] for t, s in zip(tokens, slots)], dtype=np.int64)
        assert (tokens_N[slots] == real).all() and (positions_N[slots] == start + np.arange(len(slots))).all()

    for node in invariants._all_nodes(engine):
        assert min(node.tokens) >= 0, "a token that stands for another is in the tree"
        holds(node.runs, node.start, node.tokens[: node.computed])
    for branch in engine.branches.attached:
        cursor = branch.cursor
        own = cursor.tail[: cursor.tail_computed]
        runs, _ = cut(cursor.runs, len(own))
        holds(runs, cursor.base, own)
        known = cursor.tail[:-1] if cursor.runs_ahead else cursor.tail
        assert not known or min(known) >= 0, "a token that stands for another is not the last"
        assert not cursor.runs_ahead or engine.flying is not None, "a token stands for one, and no step is in flight"


def whole(runtime: Runtime) -> None:
    """Nothing is lost, everything still works, and the device saw nothing wrong."""
    engine = runtime.engine
    for branch in list(engine.branches.attached):
        branch.close()
    engine.collect()
    engine.branches.take_news()
    runtime.check()
    invariants.idle_and_whole(engine)
    assert not engine.branches.attached
    device = engine.executor if isinstance(engine.executor, LaggingExecutor) else None
    assert device is None or (device.wrong == [] and device.flying == [])
    again = [["text", "still "], ["gen", SAMPLINGS[1], 3], ["select", CHOICES[1], METHODS[0]]]
    run = start(runtime.open(seed=0), again)
    step_to_the_end(runtime)
    assert [outcome(h) for h in run.handles] == [outcome(h) for h in expected([again])[0][0].handles]
    run.branch.close()
    runtime.flush_cache()
    assert engine.tree.pool.available == engine.tree.pool.capacity
    assert device is None or device.wrong == []


def executor_of(runtime: Runtime) -> LaggingExecutor:
    executor = runtime.engine.executor
    assert isinstance(executor, LaggingExecutor)
    return executor


MIXED: list[list[Any]] = [
    [("text", "A long common beginning; "), ("gen", SAMPLINGS[1], 1), ("text", " and"), ("gen", SAMPLINGS[0], 1)],
    [("text", "A long common beginning. "), ("gen", SAMPLINGS[6], 3), ("select", CHOICES[2], METHODS[1])],
    [("text", "the "), ("fork", [[("text", "a"), ("gen", SAMPLINGS[2], 1)], [("gen", SAMPLINGS[7], 1)]])],
    [("text", "Answer:"), ("grammar", PATTERNS[1], 1.0), ("gen", SAMPLINGS[5], 1)],
    [("text", "ab"), ("gen", SAMPLINGS[3], 1), ("grammar", PATTERNS[2], 0.0), ("gen", SAMPLINGS[1], 1)],
]
NARROW: dict[str, int] = {"chunked_prefill_size": 12, "max_total_tokens": 160}
