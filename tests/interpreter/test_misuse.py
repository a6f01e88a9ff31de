"""Mistakes that would do nothing, or something else than they seem to, raise and say what to do."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import warnings

import pytest

import sgl

from .fake import FakeBackend


@sgl.function
async def inner(s):
    s += "said"
    return "returned"


def test_an_async_body_that_nobody_awaits_raises():
    def logged(func):
        @functools.wraps(func)
        def wrapper(s):
            return func(s)

        return wrapper

    @sgl.function
    @logged
    async def hidden(s):
        s += "never said"

    @sgl.function
    def outer(s):
        inner(s)

    backend = FakeBackend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "coroutine was never awaited"
        with pytest.raises(sgl.OptionError, match="hidden is async"):
            hidden.run(backend=backend)
        with pytest.raises(sgl.OptionError, match="hidden is async"):
            asyncio.run(hidden.arun(backend=backend))
        with pytest.raises(sgl.OptionError, match=r"await inner\(s"):
            outer.run(backend=backend)


def test_an_async_program_is_awaited_inline_in_another():
    @sgl.function
    async def outer(s):
        return await inner(s)

    state = outer.run(backend=FakeBackend())
    assert state.text() == "said" and state.ret_value == "returned"


def test_a_parameter_may_be_called_self():
    @sgl.function
    def program(s, self):
        s += self

    backend = FakeBackend()
    states = [program.run(self="x", backend=backend), program(self="x", backend=backend)]
    states += [program.bind(self="x").run(backend=backend), asyncio.run(program.arun(self="x", backend=backend))]
    assert [state.text() for state in states] == ["x"] * 4


def test_a_method_is_run_on_its_instance():
    class Asks:
        @sgl.function
        def ask(self, s, q):
            s += q

        @sgl.function
        def static(s, q):
            s += q

    backend = FakeBackend()
    assert Asks().ask.run(q="Q", backend=backend).text() == "Q" == Asks.static.run("Q", backend=backend).text()
    with pytest.raises(sgl.OptionError, match=r"Asks\.ask is a method"):
        Asks.ask.run(Asks(), q="Q", backend=backend)


def test_a_turn_of_none_is_refused():
    @sgl.function
    def program(s, question=None):
        with s.user():
            s += "a block"
        s.user(question)

    with pytest.raises(sgl.OptionError, match="nothing was given"):
        program.run(backend=FakeBackend())


def test_a_state_is_not_copied_or_iterated():
    state = sgl.function(lambda s: None).run(backend=FakeBackend())
    for wrong in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match=r"s\.fork\(1\)"):
            wrong(state)
    with pytest.raises(TypeError, match="not iterable"):
        list(state)
    assert "x" not in state


def test_what_a_program_runs_inside_is_part_of_its_usage():
    @sgl.function
    def part(s):
        s += sgl.gen("a")

    @sgl.function
    async def async_part(s):
        s += sgl.gen("a")
        await s.aget("a")

    @sgl.function
    def program(s):
        assert part.run(backend=backend)["a"] == "ok"
        assert async_part.run(backend=backend)["a"] == "ok"
        part.run_batch([{}, {}], backend=backend)
        s += sgl.gen("b")

    backend = FakeBackend()
    usage = program.run(backend=backend).usage
    assert [b.label for b in usage.branches] == ["part", "async_part", "part", "part"]
    assert usage.own.calls == 1 and usage.total.calls == 5
    assert part.run(backend=backend).usage.total.calls == 1 and len(usage.branches) == 4


@pytest.mark.parametrize("options", [{"top_logprobs_num": 3}, {"logprob_start_len": 0}])
def test_options_of_logprobs_need_logprobs(options):
    program = sgl.function(lambda s: s.__iadd__(sgl.gen("a", **options)).sync())
    with pytest.raises(sgl.OptionError, match="needs return_logprob=True"):
        program.run(backend=FakeBackend())
    program.run(backend=FakeBackend(), return_logprob=True)
