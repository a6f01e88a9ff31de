"""What is left when something failed: the user's own error, the text that was finished, tracebacks that do not grow."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sgl
from sgl.lang.chat import ChatTemplate

from ..watchdog import slowness
from .fake import FakeBackend

STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
)


def strict() -> FakeBackend:
    backend = FakeBackend()
    backend.chat_template = ChatTemplate(STRICT, name="strict")
    return backend


def depth(error: BaseException) -> int:
    at, frames = error.__traceback__, 0
    while at is not None:
        at, frames = at.tb_next, frames + 1
    return frames


def test_a_refused_turn_does_not_hide_the_users_error_and_is_no_message():
    def refused(s):
        with s.system():
            s += "S" + sgl.gen("x")

    def own(s):
        with s.system():
            s += "S"
            raise ValueError("the user's own")

    def goes_on(s):
        with pytest.raises(sgl.OptionError, match="no system role"):
            s += sgl.system("S")
        with pytest.raises(sgl.OptionError, match="no system role"), s.system():
            s += "S" + sgl.gen("x")
        s += sgl.user("Q")
        assert s.messages() == [{"role": "user", "content": "Q"}] and s.text() == "<user>Q</user>"

    with pytest.raises(sgl.OptionError, match="no system role"):
        sgl.function(refused).run(backend=strict())
    with pytest.raises(ValueError, match="the user's own"):
        sgl.function(own).run(backend=strict())
    sgl.function(goes_on).run(backend=strict())


def test_roles_are_paired_before_anything_is_said():
    @sgl.function
    def program(s):
        for wrong in ("said" + sgl.user_end(), "said" + sgl.user_begin() + sgl.user("x")):
            with pytest.raises(sgl.OptionError, match="role 'user'"):
                s += wrong
        assert s.text() == "" and s.messages() == []

    program.run(backend=FakeBackend())


def test_finished_text_stays_readable_after_a_cancel():
    @sgl.function
    def program(s):
        s += sgl.user("A") + sgl.assistant(sgl.gen("x"))

    state = program.run(backend=FakeBackend())
    text = state.text()
    [row] = program.run_batch([{}], backend=FakeBackend())
    for one in (state, row):
        one.cancel()
        assert one.text() == text and one["x"] == "ok" and one.error() is None and len(one.messages()) == 2
        one += "more"
        with pytest.raises(sgl.Cancelled):
            one.text()


def test_a_cancelled_stream_does_not_wait_for_the_body():
    leave, said = threading.Event(), threading.Event()

    @sgl.function
    def program(s):
        s += "A" + sgl.gen("x")
        assert s["x"] == "ok" and s.text() == "Aok"
        said.set()
        leave.wait(15)
        s["verdict"] = "still set"

    state = program.run(stream=True, backend=FakeBackend())
    assert said.wait(10)
    found: list[str] = []
    threading.Timer(0.1, state.cancel).start()
    with pytest.raises(sgl.Cancelled):
        found.extend(state.text_iter())
    with pytest.raises(sgl.Cancelled):
        state.text()
    assert not state._body.ended
    threading.Timer(0.05, leave.set).start()
    assert state["verdict"] == "still set"


def test_an_open_scope_read_from_outside_is_waited_for():
    inside, leave = threading.Event(), threading.Event()

    @sgl.function
    def program(s):
        with s.var_scope("v"):
            s += "A"
            inside.set()
            leave.wait(15)
            s += sgl.gen("x")

    state = program.run(stream=True, backend=FakeBackend())
    assert inside.wait(10)
    threading.Timer(0.05, leave.set).start()
    assert state["v"] == "Aok" and "".join(state.text_iter("v")) == "Aok"


@pytest.mark.parametrize("read", ["value", "text", "hole", "scope", "iter", "return", "unknown"])
def test_reading_an_error_again_does_not_grow_its_traceback(read):
    @sgl.function
    def program(s):
        forks = s.fork(2)
        forks[1] += sgl.gen("y")
        forks.join()
        with s.var_scope("v"):
            s += sgl.gen("x")

    @sgl.function
    def dies(s):
        raise ValueError("body")

    fails = FakeBackend(lambda text, request: RuntimeError("gen"))
    state = (
        dies.run(stream=True, backend=FakeBackend()) if read in ("return", "unknown") else program.run(backend=fails)
    )
    reads = {
        "value": lambda: state["x"],
        "text": state.text,
        "hole": lambda: list(state["y"]),
        "scope": lambda: state["v"],
        "iter": lambda: list(state.text_iter()),
        "return": lambda: state.ret_value,
        "unknown": lambda: state["nothing"],
    }
    depths = []
    for _ in range(20):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            reads[read]()
        depths.append(depth(caught.value))
    assert len(set(depths[1:])) == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_an_error_that_many_rows_share_is_noted_for_the_raised_row_only():
    shared = RuntimeError("the model died")

    @sgl.function
    def program(s, i):
        s += str(i) + sgl.gen("x")

    backend = FakeBackend(lambda text, request: shared)
    rows = program.run_batch([{"i": i} for i in range(20)], on_error="keep", backend=backend)
    assert all(row.error() is shared for row in rows)
    assert len(shared.__notes__) == 1 and "gen('x')" in shared.__notes__[0]
    with pytest.raises(RuntimeError):
        program.run_batch([{"i": i} for i in range(20)], backend=backend)
    assert [n for n in shared.__notes__ if "in row" in n] == ["in row 0 of program.run_batch"]


def test_ctrl_c_in_the_generator_style_of_an_async_program():
    code = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
import sgl
from tests.interpreter.fake import FakeBackend
@sgl.function
async def program(s, i):
    s += sgl.gen("x")
    await s.aget("x")
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    list(program.run_batch([(i,) for i in range(9)], generator_style=True, backend=FakeBackend(manual=True)))
except KeyboardInterrupt:
    print("interrupted")
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code.format(root=root)], timeout=15 * slowness(), capture_output=True, text=True
    )
    assert done.stdout == "interrupted\n" and done.stderr == ""
