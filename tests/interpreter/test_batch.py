"""run_batch: order, errors, bounds, streams of rows, interruption."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time

import pytest

import sgl

from .fake import FakeBackend


@sgl.function
def program(s, q, sleep=0.0):
    s += q + sgl.gen("a")
    time.sleep(sleep)
    s += s["a"] + sgl.gen("b")


@sgl.function
async def native(s, q):
    s += q + sgl.gen("a")
    s += await s.aget("a") + sgl.gen("b")


def echo(text, request):
    return ValueError("bad row") if text.startswith("bad") else text[-1].upper()


def test_rows_in_order():
    rows = [{"q": f"{i}x"} for i in range(100)]
    kept = [dict(row) for row in rows]
    states = program.run_batch(rows, backend=FakeBackend(echo), temperature=0)
    assert [s.text() for s in states] == [f"{i}xXXX" for i in range(100)] and rows == kept
    assert [s["b"] for s in native.run_batch(rows, backend=FakeBackend(echo))] == ["X"] * 100
    assert program.run_batch([]) == []
    assert list(program.run_batch([], generator_style=True)) == []
    assert program.run_batch([("p",), ["q", 0]], backend=FakeBackend(echo))[1].text() == "qQQQ"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"q": "x"}, {"p": "x"}], "row 1: no parameter 'p'"),
        ([{}], "row 0: missing argument 'q'"),
        ([("a", "b", "c")], "row 0: too many positional arguments"),
        ([{"q": "x"}, "text"], "row 1 must be a dict"),
        ("text", "list of rows"),
        ({"q": "x"}, "list of rows"),
        ([{"q": "x", "temperature": 0}], "row 0: no parameter 'temperature'"),
    ],
)
def test_wrong_rows(rows, says):
    with pytest.raises(sgl.OptionError, match=says):
        program.run_batch(rows, backend=FakeBackend())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_threads": 0}, "num_threads"),
        ({"on_error": "ignore"}, "on_error"),
        ({"num_thread": 3}, "did you mean"),
        ({"stream": True}, "unknown option 'stream'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(sgl.OptionError, match=says):
        program.run_batch([("x",)], backend=FakeBackend(), **options)


@pytest.mark.parametrize("which", [program, native])
def test_weakness_31_the_first_failing_row_raises_its_own_error_and_nothing_is_lost(which):
    rows = [{"q": "a"}, {"q": "bad"}, {"q": "c"}, {"q": "bad2"}]
    with pytest.raises(ValueError, match="bad row") as caught:
        which.run_batch(rows, backend=FakeBackend(echo))
    states = caught.value.states
    assert states[0]["b"] == "A" and isinstance(states[1].error(), ValueError)
    if sys.version_info >= (3, 11):
        assert any("in row 1 of " in note for note in caught.value.__notes__)
        assert any("gen('a') at test_batch.py" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("which", [program, native])
def test_keeping_errors(which):
    states = which.run_batch([{"q": "a"}, {"q": "bad"}, {"q": "c"}], backend=FakeBackend(echo), on_error="keep")
    assert [type(s.error()) for s in states] == [type(None), ValueError, type(None)]
    assert states[2]["b"] == "C"
    with pytest.raises(ValueError):
        states[1]["a"]


def test_a_body_error_is_a_rows_error():
    @sgl.function
    def divides(s, by):
        s += sgl.gen("a")
        return 1 // by

    with pytest.raises(ZeroDivisionError):
        divides.run_batch([(1,), (0,)], backend=FakeBackend())
    states = divides.run_batch([(1,), (0,)], backend=FakeBackend(), on_error="keep")
    assert isinstance(states[1].error(), ZeroDivisionError) and states[1]["a"] == "ok" and states[0].ret_value == 1


def test_after_an_error_no_row_is_started():
    started = []

    @sgl.function
    def fails(s, i):
        started.append(i)
        raise LookupError(i)

    with pytest.raises(LookupError) as caught:
        fails.run_batch([(i,) for i in range(1000)], num_threads=2, backend=FakeBackend())
    assert len(started) < 1000 and caught.value.states[-1] is None


@pytest.mark.parametrize("which", [program, native])
@pytest.mark.parametrize("ordered", [True, False])
def test_weakness_31_generator_style(which, ordered):
    rows = [{"q": f"{i}x"} for i in range(300)]
    seen = [s.text() for s in which.run_batch(rows, generator_style=True, ordered=ordered, backend=FakeBackend(echo))]
    expected = [f"{i}xXXX" for i in range(300)]
    assert (seen if ordered else sorted(seen)) == (expected if ordered else sorted(expected))


def test_weakness_31_a_straggler_holds_up_nobody():
    go = threading.Event()

    @sgl.function
    def straggles(s, i):
        if i == 0:
            go.wait(15)
        s += sgl.gen("a")
        return i

    rows = straggles.run_batch([(i,) for i in range(20)], generator_style=True, ordered=False, backend=FakeBackend())
    first = [next(rows).ret_value for _ in range(19)]
    assert 0 not in first
    go.set()
    assert next(rows).ret_value == 0


def test_closing_the_generator_cancels_the_rest():
    started = []

    @sgl.function
    def stuck(s, i):
        started.append(i)
        s += str(i) + sgl.gen("a")
        if i:
            s["a"]

    endless = "z" * 10**6
    backend = FakeBackend(lambda text, request: "z" if text == "0" else endless)
    rows = stuck.run_batch([(i,) for i in range(5000)], num_threads=4, generator_style=True, backend=backend)
    next(rows)
    rows.close()
    time.sleep(0.05)
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count < 5000
    assert [s["a"] for s in program.run_batch([("x",)], backend=FakeBackend(echo))] == ["X"]


def test_generator_errors():
    rows = program.run_batch([("a",), ("bad",), ("c",)], generator_style=True, backend=FakeBackend(echo))
    assert next(rows)["b"] == "A"
    with pytest.raises(ValueError):
        next(rows)
    kept = list(program.run_batch([("a",), ("bad",)], generator_style=True, on_error="keep", backend=FakeBackend(echo)))
    assert isinstance(kept[1].error(), ValueError)


def test_weakness_25_few_threads_many_programs():
    backend = FakeBackend(manual=True)
    peak = 0

    @sgl.function
    def forks(s, i):
        nonlocal peak
        group = s.fork(4)
        group += sgl.gen("x")
        group.join()
        peak = max(peak, threading.active_count())

    before = threading.active_count()
    done = threading.Event()
    out = []

    def batch():
        out.extend(forks.run_batch([(i,) for i in range(500)], num_threads=4, backend=backend))
        done.set()

    threading.Thread(target=batch, daemon=True).start()
    end = time.monotonic() + 10
    while len(backend.branches) < 64 * 5 and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(backend.branches) == 64 * 5  # bounded in flight
    while not done.is_set():
        backend.step()
        time.sleep(0.0005)
    assert peak <= before + 5 and [s["x"] for s in out] == [["ok"] * 4] * 500


def test_progress_bar(capsys):
    program.run_batch([("a",), ("b",)], progress_bar=True, backend=FakeBackend(echo))
    assert "2/2" in capsys.readouterr().err
    with pytest.raises(ValueError):
        program.run_batch([("bad",), ("b",)], progress_bar=True, backend=FakeBackend(echo))


def test_ctrl_c_cancels_and_leaves_the_backend_usable():
    backend = FakeBackend("alpha", manual=True)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        program.run_batch([(str(i),) for i in range(10)], backend=backend)
    assert all(b.error is not None for b in backend.branches)
    backend.manual = False
    assert program.run_batch([("x",)], backend=backend)[0]["a"] == "alpha"


def test_arun_batch():
    async def main():
        for which in (program, native):
            states = await which.arun_batch([(f"{i}x",) for i in range(50)], backend=FakeBackend(echo))
            assert [s.text() for s in states] == [f"{i}xXXX" for i in range(50)]
            with pytest.raises(ValueError) as caught:
                await which.arun_batch([("a",), ("bad",)], backend=FakeBackend(echo))
            assert caught.value.states[0]["b"] == "A"

    asyncio.run(main())


def test_a_backend_that_cannot_open_raises():
    class Closed(FakeBackend):
        def open(self, **options):
            raise sgl.BackendError("shut down")

    for which in (program, native):
        with pytest.raises(sgl.BackendError, match="shut down"):
            which.run_batch([("a",)], backend=Closed(), on_error="keep")
