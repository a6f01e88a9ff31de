"""Weaknesses of SGLang's frontend that only show with a runtime beneath: whole programs on the toy model.

Numbers are those of the list the interpreter's tests use (`test_weakness_NN_...` there); here are the ones about
sampling, select, reuse and structure.
"""

from __future__ import annotations

from typing import Any

import pytest

import sgl

PREFIX = "A long common beginning, which many programs share because one person wrote them all. " * 3


@pytest.fixture
def runtime() -> Any:
    with sgl.Runtime.toy(random_seed=3, speculative_num_draft_tokens=0) as runtime:
        sgl.set_default_backend(runtime)
        yield runtime
        runtime.check()
    sgl.set_default_backend(None)


def greedy(name: str, tokens: int = 6, **options: Any) -> Any:
    return sgl.gen(name, max_tokens=tokens, temperature=0, ignore_eos=True, **options)


def test_weakness_11_stop_lists_do_not_grow(runtime: Any) -> None:
    stops = ["\n", "stop"]

    @sgl.function
    def program(s: Any) -> None:
        forks = s.fork(8)
        forks += sgl.gen("x", max_tokens=4, stop=stops)
        forks.join()

    for _ in range(3):
        assert len(program.run()["x"]) == 8
    assert stops == ["\n", "stop"]


def test_weakness_12_n_samples_locally(runtime: Any) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Say: " + sgl.gen("x", max_tokens=8, n=3, ignore_eos=True)
        s += " and then" + greedy("y")

    state = program.run(seed=1)
    assert len(state["x"]) == 3 and len(set(state["x"])) == 3
    assert state.text() == "Say: " + state["x"][0] + " and then" + state["y"]
    assert [m["completion_tokens"] for m in state.get_meta_info("x")] == [8, 8, 8]


def test_weakness_17_select_with_certain_and_nested_choices() -> None:
    from sgl.backend.runtime.model.toy import toy_tokenizer

    tokenizer = toy_tokenizer()
    (yes,) = tokenizer.encode([("yes", False)], first=False)
    runtime = sgl.Runtime.toy(favour={yes: 1000.0})  # its logprob is exactly 0.0

    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.select("a", ["yes", "no"])  # a prompt of one token
        s += sgl.select("b", ["no", "yes"], choices_method=sgl.greedy_token_selection)
        s += sgl.select("c", ["ab", "a", "abc"], choices_method=sgl.sequence_likelihood)
        s += sgl.select("d", ["the", "yes"], choices_method=sgl.unconditional_likelihood_normalized)

    state = program.run(backend=runtime)
    assert (state["a"], state["b"], state["d"]) == ("yes", "yes", "yes")
    assert state["c"] in ("ab", "a", "abc")
    meta = state.get_meta_info("a")
    assert meta["input_token_logprobs"][0][0][0] == 0.0 and meta["normalized_prompt_logprobs"][0] == 0.0


def test_weakness_26_nothing_is_sent_twice(runtime: Any) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += PREFIX
        for i in range(6):
            s += f" Step {i}:" + greedy(f"x{i}")

    state = program.run()
    state.sync()
    total = state.usage.total
    length = total.computed + 1  # every token once; the last one needs no KV
    assert runtime.get_server_info()["computed_tokens"] == total.computed
    assert total.prompt + total.generated > 4 * length
    assert total.recomputed == 0


def test_weakness_27_select_of_many_is_one_step(runtime: Any) -> None:
    @sgl.function
    def program(s: Any, i: int) -> None:
        s += PREFIX + f"Row {i}: "
        s += sgl.select("x", [" yes", " no", " the", "stop", " and so on"])

    steps = runtime.get_server_info()["steps"]
    states = program.run_batch([{"i": i} for i in range(12)])
    assert all(s["x"] for s in states)
    assert runtime.get_server_info()["steps"] - steps <= 12  # not two or three a row; the prompts are in them too


def test_weakness_30_siblings_go_together(runtime: Any) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += PREFIX + greedy("first")
        forks = s.fork(16)
        forks += lambda i: f" Branch {i}:" + greedy("x")
        forks.join()

    state = program.run()
    assert len(state["x"]) == 16
    assert runtime.get_server_info()["steps"] == 6 + 6


def test_weakness_32_a_prefix_is_shared_across_functions(runtime: Any) -> None:
    @sgl.function
    def one(s: Any) -> None:
        with s.user():
            s += PREFIX
        with s.assistant():
            s += greedy("x")

    @sgl.function
    def two(s: Any, more: str = " Something else. ") -> None:
        s += sgl.user(PREFIX + more) + sgl.assistant(greedy("y"))

    one.run().sync()
    state = two.run()
    usage = state.usage.total
    assert state["y"] and usage.reused > 0.8 * usage.prompt


def test_weakness_36_usage_of_programs_and_branches(runtime: Any) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += PREFIX + greedy("a")
        forks = s.fork(2)
        forks += " And" + greedy("b")
        forks.join()

    state = program.run()
    state.sync()
    tree = state.usage
    assert len(tree.branches) == 2 and tree.total.generated == 18 and tree.own.generated == 6
    assert tree.total.computed == runtime.get_server_info()["computed_tokens"]
    for branch in tree.branches:
        assert branch.own.prompt - branch.own.reused <= 1 + len(" And")


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(runtime: Any) -> None:
    @sgl.function
    def program(s: Any, i: int) -> None:
        s += PREFIX + f"Row {i}: " + sgl.gen("x", max_tokens=12)
        forks = s.fork(2)
        forks += sgl.gen("y", max_tokens=8, temperature=2.0)
        forks.join()

    alone = [(s["x"], s["y"]) for s in (program.run(i=i, seed=5) for i in range(6))]
    runtime.flush_cache()
    together = [(s["x"], s["y"]) for s in program.run_batch([{"i": i} for i in range(6)], seed=5)]
    assert alone == together and all(y[0] != y[1] for _, y in alone)
    unseeded = {program.run(i=0)["x"] for _ in range(5)}
    assert len(unseeded) > 1


def test_the_text_is_the_tokens() -> None:
    """Invariant 2, through the whole stack: the transcript's bytes are those of the branch's tokens."""
    from sgl.backend.runtime.model.toy import toy_tokenizer

    spelled = [(i, data) for i, data in enumerate(toy_tokenizer().token_bytes)]
    runtime = sgl.Runtime.toy(favour={i: 30.0 for i, data in spelled if data.isalpha() or data == "日".encode()})

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.system("日本 is far.") + sgl.user("Hello")
        s += sgl.assistant(sgl.gen("x", max_tokens=30, stop=["e", "日"]))
        s += sgl.user("And " + "é") + sgl.assistant(sgl.select("y", [" yes", " no"]))
        s += sgl.user("end") + sgl.assistant(greedy("z"))

    stopped = 0
    for seed in range(10):
        state = program.run(seed=seed, backend=runtime)
        text = state.text()
        stopped += state.get_meta_info("x")["finish_reason"]["type"] == "stop"
        branch = state._line.branch
        assert (
            runtime.tokenizer.spell(branch.cursor.path_tokens()) + "".join(piece for piece, _ in branch.pending) == text
        )
    assert stopped > 5
