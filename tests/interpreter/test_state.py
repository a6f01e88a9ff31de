"""ProgramState: reading, roles, scopes, variables, errors."""

from __future__ import annotations

import gc
import sys

import pytest

import sgl
from sgl.lang.chat import CHATML, ChatTemplate

from .fake import FakeBackend


def run(body, backend=None, **options):
    return sgl.function(body).run(backend=backend or FakeBackend(), **options)


def test_text_is_what_was_appended():
    def body(s):
        s += "Q: " + sgl.gen("a") + "!"
        s += sgl.select("b", ["x", "y"])

    state = run(body)
    assert state.text() == "Q: ok!x"
    assert (state["a"], state["b"], state.get_var("a"), state.value("a")) == ("ok", "x", "ok", "ok")
    assert repr(state) == "ProgramState(Q: ok!x)"


def test_run_is_lazy():
    backend = FakeBackend(manual=True)

    def body(s):
        s += sgl.gen("a")
        assert "a" in s

    state = run(body, backend)
    assert "a" in state and not backend.branches[0].text
    backend.steps()
    assert state["a"] == "ok"


def test_weakness_01_work_after_an_error_does_not_hang():
    boom = ValueError("boom")

    def body(s):
        s += sgl.gen("a")
        s += "more" + sgl.gen("b")

    state = run(body, FakeBackend([boom]))
    state += sgl.gen("c")
    for read in (lambda: state["b"], lambda: state["c"], state.text, state.messages):
        with pytest.raises(ValueError) as caught:
            read()
        assert caught.value is boom
    assert state.error() is boom
    state.sync()
    assert repr(state) == "ProgramState(more)"


def test_weakness_02_the_original_error_at_the_read_with_the_program_line():
    boom = RuntimeError("no power")

    def body(s):
        s += sgl.gen("a")

    state = run(body, FakeBackend([boom]))
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught:
            state["a"]
        assert caught.value is boom
    if sys.version_info >= (3, 11):
        assert len(boom.__notes__) == 1
        assert "gen('a') at test_state.py:" in boom.__notes__[0]


def test_where_names_op_and_line():
    backend = FakeBackend()

    def body(s):
        s += sgl.gen("a") + sgl.gen()

    run(body, backend)
    line = body.__code__.co_firstlineno + 1
    assert [r.where for r in backend.requests] == [f"{gen} at test_state.py:{line}" for gen in ("gen('a')", "gen()")]


def test_weakness_04_fork_after_a_failure_fails_too():
    boom = ValueError("boom")

    def body(s):
        s += "x" + sgl.gen("a")
        for child in s.fork(2):
            child += sgl.gen("b")
            with pytest.raises(ValueError) as caught:
                child["b"]
            assert caught.value is boom
            with pytest.raises(ValueError):
                child.text()

    run(body, FakeBackend([boom]))


def test_weakness_11_a_stop_list_of_the_caller_stays_as_it_is():
    stop = ["\n"]

    def body(s):
        forks = s.fork(8)
        forks += sgl.user("x") + sgl.assistant(sgl.gen("a", stop=stop))

    backend = FakeBackend()
    run(body, backend, stop=stop)
    assert stop == ["\n"]
    assert {r.sampling.stop for r in backend.requests} == {("\n",)}


def test_weakness_12_n_samples():
    def body(s):
        s += "Q" + sgl.gen("a", n=3)
        s += "." + sgl.gen("b")

    state = run(body)
    assert state["a"] == ["ok", "ok#1", "ok#2"]
    assert state.text() == "Qok.ok"
    assert [m["finish_reason"]["type"] for m in state.get_meta_info("a")] == ["stop"] * 3
    with pytest.raises(sgl.OptionError, match="list"):
        list(state.text_iter("a"))


def test_weakness_14_the_backends_own_template_is_used():
    backend = FakeBackend()
    backend.chat_template = ChatTemplate(CHATML.replace("im_start", "begin"), name="mine")

    def body(s):
        s += sgl.user("hi")

    assert "<|begin|>user\nhi" in run(body, backend).text()


def test_weakness_22_reading_a_scope_inside_it_raises():
    def body(s):
        with s.var_scope("all"):
            s += "a"
            with pytest.raises(sgl.VariableError, match="being written"):
                s["all"]
            with pytest.raises(sgl.VariableError):
                list(s.text_iter("all"))
            s += sgl.gen("x") + "b"
        assert s["all"] == "aokb"

    state = run(body)
    assert state["all"] == "aokb" and "".join(state.text_iter("all")) == "aokb"
    assert state.get_meta_info("all") is None


def test_weakness_22_an_exception_inside_closes_role_and_scope():
    def body(s):
        with pytest.raises(ZeroDivisionError), s.var_scope("v"), s.user():
            s += "hal"
            s += str(1 / 0)
        assert s["v"]
        s += sgl.assistant(sgl.gen("a"))

    state = run(body)
    assert state.messages() == [{"role": "user", "content": "hal"}, {"role": "assistant", "content": "ok"}]


def test_weakness_24_a_name_is_there_while_its_gen_runs_and_anonymous_gens_do_not_meet():
    backend = FakeBackend(["1", "2", "3"])

    def body(s):
        s += sgl.gen() + sgl.gen() + sgl.gen("x")
        assert "x" in s and None not in s

    state = run(body, backend)
    assert state["x"] == "3" and state.text() == "123"
    with pytest.raises(sgl.VariableError):
        state[None]


def test_unknown_names_raise_at_once_and_list_the_known():
    def body(s, question):
        s += sgl.gen("answer")
        with pytest.raises(sgl.VariableError, match=r"did you mean 'answer'\?; it has 'answer'"):
            s["anwser"]
        with pytest.raises(KeyError):
            s["question"]

    sgl.function(body).run("why", backend=FakeBackend())


def test_set_variables():
    def body(s):
        s["a"] = 1
        s.set_var("b", [2])
        assert s["a"] == 1 and s["b"] == [2] and "a" in s
        s += sgl.gen("a")
        assert s["a"] == "ok"
        s["a"] = 3
        assert s["a"] == 3 and s.get_meta_info("a") is None

    run(body)


def test_nothing_but_text_and_expressions_can_be_appended():
    def body(s):
        for wrong in (None, 5, b"x", ["a"]):
            with pytest.raises(sgl.OptionError):
                s += wrong

    run(body)


def test_roles_by_call_append_once():
    def body(s):
        s += s.system("be brief")
        s.user("hi")
        s += s.assistant(sgl.gen("a"))
        assert s.messages()[1:] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}]

    text = run(body).text()
    assert text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n"
    )


def test_roles_by_with_and_by_begin_and_end():
    def body(s):
        with s.user():
            s += "a"
            assert s.messages() == [{"role": "user", "content": "a"}]
            s += "b"
        s += sgl.assistant_begin() + "so " + sgl.gen("x")
        assert s.messages()[-1] == {"role": "assistant", "content": "so ok"}
        s += sgl.assistant_end()

    backend = FakeBackend()
    state = run(body, backend)
    assert state.text().endswith("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\nso ok<|im_end|>\n")
    assert ("a", False) in backend.appended and all(markup == ("<|" in text) for text, markup in backend.appended)


def test_messages_is_a_fresh_list():
    def body(s):
        s.user("x")
        s.messages().clear()
        assert len(s.messages()) == 1

    run(body)


def test_wrong_roles():
    def body(s):
        with pytest.raises(sgl.OptionError, match="inside the open role 'user'"), s.user():
            s += sgl.system("x")
        with pytest.raises(sgl.OptionError, match="no role is open"):
            s += sgl.user_end()

    run(body)

    def chat(s):
        s += sgl.user("x")

    with pytest.raises(sgl.CapabilityError, match="chat template"):
        run(chat, FakeBackend(template=False))


def test_capabilities_are_checked_where_they_are_needed():
    def picks(s):
        s += "text" + sgl.select("a", ["x"])

    with pytest.raises(sgl.CapabilityError, match=r"select\('a'\) at test_state.py"):
        run(picks, FakeBackend(can_score=False))

    def wants(s):
        s += sgl.gen("a")

    with pytest.raises(sgl.CapabilityError):
        run(wants, FakeBackend(can_logprobs=False), return_logprob=True)


def test_meta_info():
    def body(s):
        s += "Q" + sgl.gen("a", return_logprob=True) + sgl.select("b", ["xy", "z"])

    state = run(body)
    meta = state.get_meta_info("a")
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (1, 2, 0)
    assert meta["output_token_logprobs"] == [[-1.0, 111, "o"], [-1.0, 107, "k"]]
    assert meta["token_ids"] == [111, 107] and meta["finish_reason"]["type"] == "stop"
    picked = state.get_meta_info("b")
    assert picked["normalized_prompt_logprobs"] == [0.0, -1.0] and len(picked["input_token_logprobs"][0]) == 2
    assert picked["id"] != meta["id"]
    with pytest.raises(sgl.VariableError):
        state.get_meta_info("c")


def test_weakness_17_a_certain_choice_wins_with_its_zero_logprobs():
    def body(s):
        s += sgl.select("a", ["no", "yes"])

    assert run(body, FakeBackend(pick=lambda text, request: 1))["a"] == "yes"


def test_weakness_36_usage_is_a_tree():
    def body(s):
        s += "Q" + sgl.gen("a")
        forks = s.fork(2)
        forks += sgl.gen("b")
        forks.join()

    usage = run(body).usage
    assert usage.label == "body" and usage.total.calls == 3 and usage.own.calls == 1
    assert [b.label for b in usage.branches] == ["branch 0 of 2", "branch 1 of 2"]
    assert usage.calls[0].where.startswith("gen('a') at ")
    assert usage.total.generated == 6 and "gen('b')" in repr(usage)


def test_weakness_29_cancel_reaches_every_branch():
    backend = FakeBackend(manual=True)

    def body(s):
        s += sgl.gen("a")
        s.group = s.fork(2)
        s.group += sgl.gen("b")

    state = run(body, backend)
    state.cancel()
    for read in (lambda: state["a"], lambda: state.group[1]["b"]):
        with pytest.raises(sgl.Cancelled):
            read()
    assert isinstance(state.error(), sgl.Cancelled)


def test_weakness_29_seed_and_timeout_reach_the_backend():
    backend = FakeBackend()

    def body(s):
        s += sgl.gen("a", seed=5)

    run(body, backend, seed=3, timeout=1.5)
    assert (backend.branches[0].seed, backend.branches[0].timeout) == (3, 1.5)
    assert backend.requests[0].sampling.seed == 5 and backend.requests[0].sampling.timeout is None


def test_a_dropped_state_frees_its_branch():
    backend = FakeBackend()

    def body(s):
        forks = s.fork(2)
        forks += "x"

    state = run(body, backend)
    gc.collect()
    assert [b.closed for b in backend.branches] == [False, True, True]
    del state
    gc.collect()
    assert all(b.closed for b in backend.branches)


def test_sampling_is_resolved():
    backend = FakeBackend()

    def body(s):
        s += sgl.gen("a", stop="b", max_tokens=3) + sgl.gen("b")
        with pytest.raises(sgl.OptionError, match=r"gen\('c'\) at .*: min_tokens=50 is more than max_tokens=9"):
            s += "never" + sgl.gen("c", min_tokens=50)
        assert s.text() == "okok"

    run(body, backend, max_new_tokens=9, stop=["a"], temperature=0)
    said = [(r.sampling.max_tokens, r.sampling.stop, r.sampling.temperature) for r in backend.requests]
    assert said == [(3, ("b",), 0), (9, ("a",), 0)]


def test_default_budget():
    backend = FakeBackend()

    def body(s):
        s += sgl.gen("a") + sgl.gen("b", min_tokens=500)

    run(body, backend)
    assert [r.sampling.max_tokens for r in backend.requests] == [128, 500]


def test_a_read_of_many_calls_sleeps_once(monkeypatch):
    backend = sgl.Runtime.toy()
    slept = []
    wait = backend.wait
    monkeypatch.setattr(backend, "wait", lambda handle, *a, **k: slept.append(handle.done) or wait(handle, *a, **k))

    def body(s):
        for i in range(4):
            s += f"{i}: " + sgl.gen(f"a{i}", max_tokens=3)

    state = run(body, backend)
    assert state.text().startswith("0: ")
    assert slept == [False]
