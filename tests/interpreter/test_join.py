"""Forks and joins."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sgl

from ..watchdog import slowness
from .fake import FakeBackend


def run(body, backend=None, **options):
    return sgl.function(body).run(backend=backend or FakeBackend(), **options)


def echo(text, request):
    return text[-1].upper()


def fails_at_b(text, request):
    return ValueError("branch b") if text.endswith("b") else text[-1].upper()


def test_group():
    def body(s):
        s += "Q"
        forks = s.fork(3)
        assert len(forks) == 3 and list(forks) == [forks[i] for i in range(3)]
        forks += "."
        forks += ["a", "b", "c"]
        forks += lambda i: str(i)
        forks += sgl.gen("x")
        forks[1] += "!"
        with pytest.raises(sgl.OptionError):
            forks[0] = forks[1]
        with pytest.raises(sgl.OptionError, match="3 branches, and the list has 2"):
            forks += ["a", "b"]
        with pytest.raises(sgl.OptionError):
            forks += 5
        assert [f.text() for f in forks] == ["Q.a00", "Q.b11!", "Q.c22"]
        with pytest.raises(sgl.OptionError, match="unknown mode"):
            forks.join("gather")
        forks.join()
        return s["x"]

    assert run(body, FakeBackend(echo)).ret_value == ["0", "1", "2"]


def test_fork_options():
    def body(s):
        empty = s.fork(0)
        empty += sgl.gen("x")
        empty.join()
        assert len(empty) == 0 and "x" not in s
        for wrong in (-1, "2", True):
            with pytest.raises(sgl.OptionError):
                s.fork(wrong)
        with pytest.raises(sgl.OptionError, match="position_ids_offset"):
            s.fork(2, [0, 5])

    run(body)


def test_weakness_10_25_fork_needs_no_wait_and_no_threads():
    import threading

    backend = FakeBackend(manual=True)
    before = threading.active_count()

    def body(s):
        s += "Q" + sgl.gen("a")
        forks = s.fork(8)
        forks += sgl.gen("x")
        forks.join()

    state = run(body, backend)
    assert threading.active_count() == before and backend.branches[0].text == ""
    backend.steps()
    assert state["x"] == ["ok"] * 8


def test_weakness_03_a_failed_branch_is_a_hole():
    def body(s):
        forks = s.fork(3)
        forks += ["a", "b", "c"]
        forks += sgl.gen("x")
        forks.join()
        s += "still fine" + sgl.gen("after")

    state = run(body, FakeBackend(fails_at_b))
    found = state["x"]
    assert isinstance(found, list) and len(found) == 3
    assert (found[0], found[2], found[-1]) == ("A", "C", "C") and found.succeeded == ["A", "C"]
    assert found[::2] == ["A", "C"]
    reads = (
        lambda: found[1],
        lambda: list(found),
        lambda: [*found],
        lambda: ",".join(found),
        lambda: sorted(found),
        lambda: found == ["A"],
        lambda: "A" in found,
        lambda: json.dumps(found),
        lambda: found + [],  # noqa: RUF005
        lambda: found[1:][0],
        lambda: max(found),
        lambda: "C" in reversed(found) and list(reversed(found)),
    )
    for read in reads:
        with pytest.raises(ValueError, match="branch b"):
            read()
    assert "<failed: ValueError('branch b')>" in repr(found)
    error = state.error()
    assert error is found.errors[1]
    if sys.version_info >= (3, 11):
        assert "gen('x') at test_join.py" in error.__notes__[0]
    assert state["after"] == "E" and state.text() == "still fineE"


def test_weakness_05_a_second_join_of_a_name_overwrites():
    def body(s):
        s["x"] = "before"
        s["y"] = "kept"
        for word in ("a", "b"):
            forks = s.fork(2)
            forks += word + sgl.gen("x")
            forks.join()
        assert s["x"] == ["B", "B"] and s["y"] == "kept"

    run(body, FakeBackend(echo))


def test_only_what_changed_is_gathered():
    def body(s):
        s += "q" + sgl.gen("old")
        forks = s.fork(2)
        forks += "a" + sgl.gen("new")
        forks[1] += "b" + sgl.gen("only")
        forks.join()
        assert (s["old"], s["new"], s["only"]) == ("Q", ["A", "A"], ["B"])

    run(body, FakeBackend(echo))


def test_nested_joins_give_nested_lists():
    def body(s):
        outer = s.fork(2)
        for i, branch in enumerate(outer):
            inner = branch.fork(2)
            inner += [f"{i}a", f"{i}b"]
            inner += sgl.gen("x")
            inner.join()
        outer.join()
        assert s["x"] == [["A", "B"], ["A", "B"]]
        assert [m["completion_tokens"] for m in s.get_meta_info("x")[0]] == [1, 1]

    run(body, FakeBackend(echo))


def test_nested_holes():
    def body(s):
        outer = s.fork(1)
        inner = outer[0].fork(2)
        inner += ["a", "b"]
        inner += sgl.gen("x")
        inner.join()
        outer.join()

    state = run(body, FakeBackend(fails_at_b))
    assert state["x"][0][0] == "A"
    with pytest.raises(ValueError):
        state["x"][0][1]
    assert isinstance(state.error(), ValueError)


def test_gathering_is_lazy():
    backend = FakeBackend(manual=True)

    def body(s):
        forks = s.fork(2)
        forks += sgl.gen("x")
        forks.join()
        assert "x" in s

    state = run(body, backend)
    assert not backend.branches[1].text
    backend.steps()
    assert state["x"] == ["ok", "ok"]


def test_a_joined_branch_can_be_read_and_not_appended_to():
    def body(s):
        forks = s.fork(2)
        forks += "a" + sgl.gen("x")
        forks.join()
        assert forks[0]["x"] == "A" and forks[0].text() == "aA" and forks[0].error() is None
        with pytest.raises(sgl.OptionError, match="was joined"):
            forks[0] += "more"
        with pytest.raises(sgl.OptionError, match="was joined"):
            forks[0].fork(2)
        forks.join()

    run(body, FakeBackend(echo))


def test_weakness_09_concatenating_join():
    def body(s):
        s += "P:"
        forks = s.fork(2)
        forks += ["a", "b"]
        forks += sgl.gen("x")
        forks.join("concate_and_append")
        assert "x" not in s and s.text() == "P:aAbB"
        assert forks[1].text() == "P:bB" and forks[1]["x"] == "B"
        s += sgl.gen("y")
        assert s["y"] == "B"

    backend = FakeBackend(echo)
    state = run(body, backend)
    assert [b.closed for b in backend.branches] == [False, True, True] and state["y"] == "B"


def test_a_concatenating_join_raises_a_branchs_error():
    def body(s):
        forks = s.fork(2)
        forks += ["a", "b"]
        forks += sgl.gen("x")
        with pytest.raises(ValueError, match="branch b"):
            forks.join("concate_and_append")
        s += "c" + sgl.gen("y")
        assert s["y"] == "C"

    run(body, FakeBackend(fails_at_b))


def test_an_open_role_goes_on_in_every_branch():
    def body(s):
        s += sgl.assistant_begin()
        s += "so "
        forks = s.fork(2)
        forks += "a" + sgl.gen("x") + sgl.assistant_end()
        s += "mine" + sgl.assistant_end()
        assert forks[1].messages() == [{"role": "assistant", "content": "so aA"}]
        assert s.messages() == [{"role": "assistant", "content": "so mine"}]
        forks += sgl.user("next")
        assert [len(x.messages()) for x in (s, *forks)] == [1, 2, 2]

    run(body, FakeBackend(echo))


def test_copy():
    def body(s):
        s += "Q"
        with s.copy() as twin:
            twin += "a" + sgl.gen("x")
            assert twin["x"] == "A"
        assert s["x"] == ["A"] and s.text() == "Q"
        with pytest.raises(ZeroDivisionError), s.copy() as twin:
            twin += sgl.gen("y") + str(1 / 0)
        assert "y" not in s

    run(body, FakeBackend(echo))


def test_async_group():
    @sgl.function
    async def program(s):
        async with s.fork(2) as group:
            group += ["a", "b"]
            group += sgl.gen("x")
        return await s.aget("x")

    assert asyncio.run(program.arun(backend=FakeBackend(echo))).ret_value == ["A", "B"]


def test_weakness_23_a_forgotten_fork_does_not_keep_the_interpreter_alive():
    code = """
import sys; sys.path.insert(0, {root!r})
import sgl
from tests.interpreter.fake import FakeBackend
@sgl.function
def program(s):
    global kept
    kept = s.fork(4)
    kept += sgl.gen("x")
state = program.run(backend=FakeBackend(manual=True))
streaming = program.run(backend=FakeBackend(manual=True), stream=True)
@sgl.function
def reads(s):
    s += sgl.gen("x")
    s["x"]
stuck = reads.run(backend=FakeBackend(manual=True), stream=True)
"""
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code.format(root=root)], check=True, timeout=15 * slowness())


def test_a_failed_branch_keeps_its_place_in_names_it_never_reached():
    def body(s):
        forks = s.fork(3)
        forks += ["a", "b", "c"]
        forks += sgl.gen("x")
        for branch in (forks[0], forks[2]):
            branch += sgl.gen("v")
        forks[0] += sgl.gen("only")
        forks.join()

    state = run(body, FakeBackend(fails_at_b))
    assert len(state["v"]) == 3 and state["v"][2] == "C" and list(state["v"].errors) == [1]
    assert len(state["only"]) == 2 and state["only"][0] == "A" and len(state.get_meta_info("v").succeeded) == 2
    for read in (lambda: state["v"][1], lambda: ["a"] + state["v"]):
        with pytest.raises(ValueError, match="branch b"):
            read()


def test_a_branch_that_never_said_a_name_has_no_place_though_it_is_cancelled_later():
    def body(s):
        forks = s.fork(2)
        forks += "a" + sgl.gen("x")
        forks[0] += sgl.gen("only")
        forks.join()
        assert s["x"] == ["A", "A"]

    backend = FakeBackend(echo)
    state = run(body, backend)
    backend.steps()
    state.cancel()
    assert state["only"] == ["A"]


def test_what_is_done_to_a_gathered_list_is_not_seen_by_the_next_read():
    def body(s):
        forks = s.fork(2)
        forks += ["b", "a"]
        forks += sgl.gen("x")
        forks.join()
        s["x"].sort()
        s["x"].append("Q")
        assert s["x"] == ["B", "A"]

    run(body, FakeBackend(echo))


def test_turns_of_concatenated_branches_are_turns_of_the_parent():
    def body(s):
        s += sgl.user("q")
        forks = s.fork(2)
        forks += sgl.assistant(sgl.gen("x")) + sgl.user("more")
        forks.join("concate_and_append")
        s += sgl.assistant(sgl.gen("y"))
        with pytest.raises(sgl.OptionError, match="already joined"):
            forks.join("concate_and_append")

    state = run(body)
    turns = [("user", "q"), *[("assistant", "ok"), ("user", "more")] * 2, ("assistant", "ok")]
    assert state.messages() == [{"role": role, "content": content} for role, content in turns]
    assert state.text() == "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


def test_concatenated_branches_must_take_turns():
    def body(s):
        with s.user():
            s += "Q"
            forks = s.fork(2)
            forks += ["1", "2"]
            inner = forks[0].fork(1)
            inner += "i" + sgl.gen("x")
            inner.join("concate_and_append")
            forks.join("concate_and_append")
            closing = s.fork(2)
            closing += sgl.user_end()
            with pytest.raises(sgl.OptionError, match="cannot be concatenated"):
                closing.join("concate_and_append")
        return s.messages()

    assert run(body, FakeBackend(echo)).ret_value == [{"role": "user", "content": "Q1iI2"}]
