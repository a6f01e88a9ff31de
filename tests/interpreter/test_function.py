"""The decorator, arguments and options, binding, calling programs from programs, default backends."""

from __future__ import annotations

import functools

import pytest

import sgl

from .fake import FakeBackend


@sgl.function
def qa(s, question: str, style="brief"):
    """Answer."""
    s += f"{style}: {question} " + sgl.gen("answer")
    return question


def test_decorator_keeps_the_functions_face():
    assert (qa.__name__, qa.__doc__, qa.arg_names) == ("qa", "Answer.", ("question", "style"))

    @sgl.function()
    def other(state):
        state += "x"

    assert other.run(backend=FakeBackend()).text() == "x" and len({qa, other}) == 2
    with pytest.raises(sgl.NotYet):
        sgl.function(num_api_spec_tokens=64)


def test_what_cannot_be_a_program():
    with pytest.raises(sgl.OptionError, match="first parameter"):
        sgl.function(lambda: None)
    with pytest.raises(sgl.OptionError):
        sgl.function(5)
    with pytest.raises(sgl.OptionError, match="yield"):

        @sgl.function
        def generator(s):
            yield s


def test_ret_value_and_arguments():
    state = qa.run("why", backend=FakeBackend())
    assert (state.ret_value, state.text()) == ("why", "brief: why ok")
    assert qa.run(question="a", style="b", backend=FakeBackend()).text() == "b: a ok"
    assert qa("why", backend=FakeBackend())["answer"] == "ok"


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing argument 'question'"),
        (("a", "b", "c"), {}, "too many positional arguments"),
        (("a",), {"question": "b"}, "multiple values for argument 'question'"),
        (("a",), {"qestion": "b"}, "unknown argument 'qestion'; did you mean 'question'"),
        (("a",), {"max_tokens": 5}, "did you mean 'max_new_tokens'"),
        (("a",), {"temperature": -1}, "qa.run: temperature"),
        (("a",), {"stream": 1}, "stream must be"),
    ],
)
def test_wrong_arguments(args, kwargs, says):
    with pytest.raises(sgl.OptionError, match=says):
        qa.run(*args, backend=FakeBackend(), **kwargs)


def test_weakness_20_the_programs_own_parameter_names_win():
    @sgl.function
    def sample(s, n, stop, temperature=2, timeout=0):
        for fork in s.fork(n):
            fork += sgl.gen("x")
        return stop, temperature, timeout

    backend = FakeBackend()
    assert sample.run(n=3, stop="S", timeout=-1, max_new_tokens=4, backend=backend).ret_value == ("S", 2, -1)
    assert len(backend.requests) == 3
    assert {(r.sampling.stop, r.sampling.temperature, r.sampling.max_tokens) for r in backend.requests} == {
        (None, None, 4)
    }
    assert backend.branches[0].timeout is None


def test_keyword_parameters_of_every_kind():
    @sgl.function
    def program(s, a, /, *rest, b, **more):
        return a, rest, b, more

    def values(*args, **kwargs):
        return program.run(*args, backend=FakeBackend(), **kwargs).ret_value

    assert values(1, 2, b=3, c=4, temperature=0) == (1, (2,), 3, {"c": 4})
    assert program.bind(b=5, d=6).run(1, backend=FakeBackend()).ret_value == (1, (), 5, {"d": 6})


def test_weakness_21_bind():
    bound = qa.bind(style="long")
    assert bound.run("x", backend=FakeBackend()).text() == "long: x ok"
    assert bound.run("x", style="own", backend=FakeBackend()).text() == "own: x ok"
    assert bound.bind(question="y").run(backend=FakeBackend()).text() == "long: y ok"
    assert qa.bind(question="z").run("given", backend=FakeBackend()).ret_value == "given"
    row = {"question": "r"}
    assert bound.run_batch([row], backend=FakeBackend())[0].text() == "long: r ok" and row == {"question": "r"}
    with pytest.raises(sgl.OptionError, match="did you mean 'question'"):
        qa.bind(qestion="x")


def test_programs_call_programs():
    @sgl.function
    def outer(s, topic):
        separate = qa.run(topic, backend=FakeBackend("sub"))
        s += separate["answer"] + "|"
        s["inner"] = qa(s, topic, style="inline")
        assert s["answer"] == "ok"
        with pytest.raises(sgl.OptionError, match="temperature"):
            qa(s, topic, temperature=0)
        with pytest.raises(sgl.OptionError, match="missing argument"):
            qa(s)

    state = outer.run("t", backend=FakeBackend())
    assert state.text() == "sub|inline: t ok" and state["inner"] == "t"


def test_methods_partials_and_callables():
    class Agent:
        name = "agent"

        @sgl.function
        def act(self, s, what):
            s += f"{self.name} {what}"

        def __call__(self, s, what):
            s += f"called {what}"

    agent = Agent()
    assert agent.act.run("runs", backend=FakeBackend()).text() == "agent runs"
    assert agent.act.bind(what="b").run(backend=FakeBackend()).text() == "agent b"
    assert [s.text() for s in agent.act.run_batch([("x",), {"what": "y"}], backend=FakeBackend())] == [
        "agent x",
        "agent y",
    ]
    assert sgl.function(agent).run("x", backend=FakeBackend()).text() == "called x"
    partial = sgl.function(functools.partial(qa.func, style="partial"))
    assert partial.__name__ == "qa" and partial.run("x", backend=FakeBackend()).text() == "partial: x ok"


def test_an_error_of_the_body_propagates_and_frees_the_branch():
    backend = FakeBackend(manual=True)

    @sgl.function
    def broken(s):
        s += sgl.gen("x")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        broken.run(backend=backend)
    assert isinstance(backend.branches[0].error, sgl.Cancelled)


def test_default_backend():
    with pytest.raises(sgl.BackendError, match=r"sgl.set_default_backend\(sgl.Runtime\(\)\)"):
        qa.run("x")
    assert sgl.flush_cache() is False
    with pytest.raises(sgl.BackendError):
        sgl.get_server_info()
    with pytest.raises(sgl.BackendError, match="not a backend"):
        sgl.set_default_backend(5)
    backend = FakeBackend()

    class Front:
        endpoint = backend

    sgl.set_default_backend(Front())
    assert qa.run("x")["answer"] == "ok" and len(backend.branches) == 1
    assert sgl.flush_cache() is True and sgl.get_server_info() == {"name": "fake"}


def test_weakness_06_07_08_nothing_is_traced_and_bodies_run_once():
    calls = []
    topics = {"a": 1, "b": 2}

    @sgl.function
    def program(s, topic):
        calls.append(topics[topic])
        while True:
            s += "try" + sgl.gen("x")
            if s["x"] == "ok":
                break

    states = program.run_batch([{"topic": "a"}, {"topic": "b"}], backend=FakeBackend())
    assert sorted(calls) == [1, 2] and [s["x"] for s in states] == ["ok", "ok"]
