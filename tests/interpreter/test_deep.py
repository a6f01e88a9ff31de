"""Forks nested as deep as they like: everything that walks the tree of branches walks it without recursion."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import sgl
from sgl.backend.runtime.runtime import Runtime
from sgl.interpreter.state import ProgramState

DEPTHS = [1_000, pytest.param(10_000, marks=pytest.mark.slow)]


@sgl.function
def nested(s: Any, depth: int, join: bool = False) -> Any:
    s += "start "
    line, groups = s, []
    for _ in range(depth):
        groups.append(line.fork(1))
        line = groups[-1][0]
    line += sgl.gen("a", max_tokens=3, temperature=0)
    if join:
        for group in reversed(groups):
            group.join()
    s.set_var("leaf", line)
    s.set_var("groups", groups)


def ran(depth: int, **options: Any) -> ProgramState:
    state = nested.run(depth, backend=Runtime.toy(), **options)
    assert len(state["leaf"]["a"]) > 0
    return state


def innermost(value: Any) -> Any:
    while isinstance(value, list):
        (value,) = value
    return value


@pytest.mark.parametrize("depth", DEPTHS)
def test_usage(depth: int) -> None:
    usage = ran(depth).usage
    assert usage.total.calls == 1 and sum(1 for _ in usage.walk()) == depth + 1
    again = pickle.loads(pickle.dumps(usage))
    assert again == usage and [tree.label for tree in again.walk()] == [tree.label for tree in usage.walk()]
    assert again != ran(1).usage


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_join_of_each(depth: int) -> None:
    state = ran(depth, join=True)
    assert innermost(state["a"]) == state["leaf"]["a"] and innermost(state.get_meta_info("a"))["finish_reason"]
    assert state.error() is None and state.usage.total.calls == 1
    state.sync()


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_error_of_the_innermost(depth: int) -> None:
    state = ran(depth)
    leaf = state["leaf"]
    leaf.cancel()
    for group in reversed(state["groups"]):
        group.join()
    assert isinstance(state.error(), sgl.Cancelled)


@pytest.mark.parametrize("depth", DEPTHS)
def test_cancel(depth: int) -> None:
    state = ran(depth)
    state.cancel()
    assert isinstance(state["leaf"].error(), sgl.Cancelled)


@pytest.mark.parametrize("depth", [1_000])
@pytest.mark.parametrize("show", [repr, lambda s: s.text(), lambda s: s._repr_html_()], ids=["repr", "text", "html"])
def test_the_text(depth: int, show: Callable[[ProgramState], str]) -> None:
    assert "start" in show(ran(depth))


@pytest.mark.parametrize("depth", [1_000])
def test_a_trace(depth: int) -> None:
    with sgl.trace() as traced:
        nested.run(depth, backend=Runtime.toy())
    data = traced.to_dict()
    assert len(data["programs"][0]["branches"]) == depth + 1 and "1 calls" in repr(traced)


@pytest.mark.parametrize("depth", [1_000])
def test_rows_and_the_pool_afterwards(depth: int) -> None:
    runtime = Runtime.toy()
    states = nested.run_batch(
        [{"depth": depth, "join": True}, {"depth": 2}], backend=runtime, on_error="keep", progress_bar=False
    )
    assert [state.error() for state in states] == [None, None]
    runtime.check()
    del states
    gc.collect()
    runtime.flush_cache()
    info = runtime.get_server_info()
    assert info["free_tokens"] == info["max_total_tokens"] and not info["attached"]
