"""Prefix reuse that is real: counters of what went through the model, row by row."""

from __future__ import annotations

import pytest

import sgl
from sgl.backend.base import GenRequest, Handle, ScoreRequest
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import token_length_normalized, unconditional_likelihood_normalized
from sgl.lang.expr import Sampling

from ..naive import rush

GREEDY = Sampling(max_tokens=8, temperature=0.0, ignore_eos=True)
PREFIX = "A long common beginning, which many programs share because one person wrote them. " * 4


@pytest.fixture(params=[True, False], ids=["cache", "no-cache"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return Runtime.toy(disable_radix_cache=not request.param, speculative_num_draft_tokens=0)


def run(runtime: Runtime, *handles: Handle) -> None:
    for handle in handles:
        assert runtime.wait(handle, timeout=60)
        handle.value()
    runtime.check()


def gen(branch, sampling: Sampling = GREEDY, n: int = 1) -> Handle:  # type: ignore[no-untyped-def]
    return branch.gen(GenRequest(sampling, n))


def tokens(runtime: Runtime, text: str) -> int:
    return len(runtime.tokenizer.encode([(text, False)], first=True))


def test_gen_after_gen_never_recomputes(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append(PREFIX)
    first = gen(branch)
    branch.append(" and then ")
    second = gen(branch)
    third = gen(branch)
    run(runtime, first, second, third)
    a, b, c = (h.value()[0].usage for h in (first, second, third))
    m = tokens(runtime, " and then ")
    assert (a.prompt, a.reused) == (tokens(runtime, PREFIX), 0)
    assert b.prompt - b.reused == 1 + m  # the last sampled token and the constant, in one span
    assert c.prompt - c.reused == 1
    assert a.computed + b.computed + c.computed == branch.cursor.length - 1 == runtime.engine.rows
    assert branch.usage.generated == 24 and branch.usage.recomputed == 0
    # one step for each sampled token: the constant had no step of its own
    assert runtime.engine.steps == 24 + (tokens(runtime, PREFIX) - 1) // 512


def test_fork_computes_nothing_but_one_token_a_child(runtime: Runtime) -> None:
    branch = runtime.open()
    branch.append(PREFIX)
    run(runtime, gen(branch))
    rows, steps = runtime.engine.rows, runtime.engine.steps
    children = branch.fork(5)
    run(runtime, branch.sync())
    assert (runtime.engine.rows, runtime.engine.steps) == (rows, steps)  # no forward pass of its own
    handles = [gen(c) for c in children]
    run(runtime, *handles)
    for handle in handles:
        usage = handle.value()[0].usage
        assert usage.prompt - usage.reused == 1
        assert usage.computed == 1 + 7
    assert runtime.engine.steps == steps + 8  # the five go on together


def test_fork_before_anything_was_computed_shares_one_prefill() -> None:
    runtime = Runtime.toy()
    branch = runtime.open()
    branch.append(PREFIX)
    children = branch.fork(4)
    handles = []
    for i, child in enumerate(children):
        child.append(f"{i}, go")
        handles.append(gen(child, Sampling(max_tokens=1, temperature=0.0)))
    run(runtime, *handles)
    together = tokens(runtime, PREFIX)
    own = sum(tokens(runtime, PREFIX + f"{i}, go") - together for i in range(4))
    assert runtime.engine.steps == 1
    assert runtime.engine.rows <= together + own + 4


def test_programs_started_together_compute_a_common_prefix_once() -> None:
    runtime = Runtime.toy(chunked_prefill_size=4096)
    handles = []
    for i in range(20):
        branch = runtime.open()
        branch.append(PREFIX)
        branch.append(f"Row {i}:")
        handles.append((branch, gen(branch, Sampling(max_tokens=1, temperature=0.0))))
    run(runtime, *(h for _, h in handles))
    whole = [tokens(runtime, PREFIX + f"Row {i}:") for i in range(20)]
    shared = tokens(runtime, PREFIX + "Row ") - 1
    assert runtime.engine.steps == 1  # a prefix that nobody had computed yet, in the same step as all that use it
    assert runtime.engine.rows <= shared + sum(n - shared for n in whole)
    assert runtime.engine.rows < sum(whole) / 8
    assert sum(h.value()[0].usage.reused for _, h in handles) == sum(whole) - runtime.engine.rows


def test_a_common_prefix_longer_than_a_step_is_computed_once() -> None:
    runtime = Runtime.toy(chunked_prefill_size=32)
    branches = [runtime.open() for _ in range(6)]
    handles = []
    for i, branch in enumerate(branches):
        branch.append(PREFIX + f"Row {i}:")
        handles.append(gen(branch, Sampling(max_tokens=1, temperature=0.0)))
    run(runtime, *handles)
    whole = tokens(runtime, PREFIX + "Row 0:")
    assert runtime.engine.rows <= whole + 6 * 8


def test_select_is_one_step_over_a_trie_and_the_winner_keeps_its_kv() -> None:
    runtime = Runtime.toy()
    branch = runtime.open()
    branch.append(PREFIX)
    run(runtime, gen(branch))
    steps, rows = runtime.engine.steps, runtime.engine.rows
    choices = (" yes, it stops here", " yes, it goes on", " no")
    branch.append("Answer:")
    handle = branch.score(ScoreRequest(choices, token_length_normalized))
    run(runtime, handle)
    assert runtime.engine.steps == steps + 1
    usage = handle.value().usage
    lengths = [len(c) for c in handle.value().scores.token_logprobs]
    trie = runtime.engine.rows - rows
    assert trie == usage.computed < 2 + tokens(runtime, "Answer:") + sum(lengths)  # the shared beginning once
    rows = runtime.engine.rows
    again = gen(branch, Sampling(max_tokens=1, temperature=0.0))
    run(runtime, again)
    assert runtime.engine.rows - rows == 1  # the winner's last token; the rest of its KV was kept
    assert again.value()[0].usage.reused == again.value()[0].usage.prompt - 1


def test_unconditional_scores_ride_in_the_same_step() -> None:
    runtime = Runtime.toy()
    branch = runtime.open()
    branch.append(PREFIX)
    handle = branch.score(ScoreRequest((" yes and", " no and"), unconditional_likelihood_normalized))
    run(runtime, handle)
    assert runtime.engine.steps == 1


def test_a_second_run_of_a_program_finds_its_prompt() -> None:
    runtime = Runtime.toy()
    for attempt in range(2):
        branch = runtime.open(seed=1)
        branch.append(PREFIX)
        handle = gen(branch)
        run(runtime, handle)
        usage = handle.value()[0].usage
        assert usage.reused == (0 if attempt == 0 else usage.prompt - 1)
        branch.close()


def test_n_samples_share_the_prompt(runtime: Runtime) -> None:
    branch = runtime.open(seed=5)
    branch.append(PREFIX)
    handle = gen(branch, Sampling(max_tokens=8, temperature=1.0, ignore_eos=True), n=4)
    run(runtime, handle)
    results = handle.value()
    assert len({r.text for r in results}) == 4
    assert runtime.engine.rows == tokens(runtime, PREFIX) - 1 + 4 + 4 * 7
    alone = runtime.open(seed=5)
    alone.append(PREFIX)
    single = gen(alone, Sampling(max_tokens=8, temperature=1.0, ignore_eos=True))
    run(runtime, single)
    assert single.value()[0].text == results[0].text  # the first of n is what n=1 gives


def test_preemption_recomputes_and_says_so() -> None:
    runtime = Runtime.toy(max_total_tokens=150, disable_radix_cache=True, speculative_num_draft_tokens=0)
    rush(runtime)
    handles = []
    for i in range(4):
        branch = runtime.open(seed=i)
        branch.append(f"{i} " + "a" * 40)
        handles.append((branch, gen(branch, Sampling(max_tokens=50, temperature=1.0, ignore_eos=True))))
    run(runtime, *(h for _, h in handles))
    assert runtime.engine.scheduler.preemptions > 0
    assert sum(b.usage.recomputed for b, _ in handles) > 0
    fresh = sum(b.usage.computed - b.usage.recomputed for b, _ in handles)
    assert fresh == sum(b.cursor.length - 1 for b, _ in handles)


def test_cache_prefix_is_found_and_stays() -> None:
    runtime = Runtime.toy(max_total_tokens=600)
    length = runtime.cache_prefix(PREFIX)
    for i in range(5):  # enough other work to evict anything that is not pinned
        branch = runtime.open()
        branch.append(f"{i}" + "b" * 100)
        run(runtime, gen(branch))
        branch.close()
    branch = runtime.open()
    branch.append(PREFIX + " more")
    handle = gen(branch)
    run(runtime, handle)
    assert handle.value()[0].usage.reused >= length - 2
    branch.close()
    runtime.flush_cache()
    assert runtime.get_server_info()["free_tokens"] == 600


def test_a_batch_of_small_rows_touches_few_slots() -> None:
    """Programs that come and go use the slots of those before them, and the memory behind them."""
    runtime = Runtime.toy(max_total_tokens=1_000_000)

    @sgl.function
    def row(s, i):
        s += f"row {i}: " + sgl.gen("a", max_tokens=8, ignore_eos=True)

    row.run_batch([(i,) for i in range(400)], num_threads=8, backend=runtime)
    info = runtime.get_server_info()
    assert info["touched_tokens"] < 1.7 * info["cached_tokens"], "with 32 slots ahead of each it would be three times"
    runtime.flush_cache()
    before = info["touched_tokens"]
    row.run_batch([(i,) for i in range(1000, 1200)], num_threads=8, backend=runtime)
    assert runtime.get_server_info()["touched_tokens"] == before, "flushed slots are used again"
