"""run_batch: order, errors, bounds, streams of rows, interruption."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time

import pytest

import sgl

from ...watchdog import slowness, within
from ..fake import FakeBackend


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
    end = time.monotonic() + 10 * slowness()
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


# -- rows of any kind


@pytest.mark.parametrize("which", [program, native])
def test_rows_from_a_generator_are_read_as_there_is_room(which):
    read = []

    def rows():
        for i in range(10**6):
            read.append(i)
            yield (f"{i}x",)

    states = which.run_batch(rows(), generator_style=True, num_threads=16, backend=FakeBackend(echo))
    assert [next(states).text() for _ in range(300)] == [f"{i}xXXX" for i in range(300)]
    assert len(read) < 300 + 5 * 64
    states.close()
    count = len(read)
    time.sleep(0.05)
    assert len(read) == count


def test_a_million_rows_hold_bounded_memory():
    """(Ten thousand here: what is held does not depend on the number.)"""
    import gc
    import weakref

    alive = weakref.WeakSet()

    @sgl.function
    def tiny(s, i):
        alive.add(s)
        return i

    most = 0
    for n, state in enumerate(
        tiny.run_batch(((i,) for i in range(10_000)), generator_style=True, backend=FakeBackend())
    ):
        assert state.ret_value == n
        if n % 500 == 0:
            gc.collect()
            most = max(most, len(alive))
    assert n == 9999 and most <= 256 * 4 + 256


@pytest.mark.parametrize("which", [program, native])
def test_wrong_rows_that_are_kept(which):
    states = which.run_batch([("a",), {"p": 1}, 7, ("c",)], on_error="keep", backend=FakeBackend(echo))
    assert [type(s.error()) for s in states] == [type(None), sgl.OptionError, sgl.OptionError, type(None)]
    assert "row 1: no parameter 'p'" in str(states[1].error()) and "row 2 must be a dict" in str(states[2].error())
    assert states[3]["b"] == "C" and list(states.errors) == [1, 2]
    with pytest.raises(sgl.OptionError, match="row 1"):
        states[1]["a"]
    assert states.usage.total.calls == 4


@pytest.mark.parametrize("which", [program, native])
@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_rows_that_raise_in_the_middle(which, on_error):
    def rows():
        yield ("a",)
        yield ("b",)
        raise LookupError("the file ended")

    if on_error == "keep":
        states = which.run_batch(rows(), on_error="keep", backend=FakeBackend(echo))
        assert [s["b"] for s in states[:2]] == ["A", "B"] and isinstance(states[2].error(), LookupError)
    else:
        with pytest.raises(LookupError, match="the file ended") as caught:
            which.run_batch(rows(), backend=FakeBackend(echo))
        assert [s["b"] for s in caught.value.states[:2]] == ["A", "B"]
    if sys.version_info >= (3, 11):
        error = states[2].error() if on_error == "keep" else caught.value
        assert "raised by the rows of" in error.__notes__[0] and "after 2 rows" in error.__notes__[0]


def test_async_rows_and_an_async_stream_of_states():
    async def rows():
        for i in range(100):
            await asyncio.sleep(0)
            yield (f"{i}x",)

    async def main():
        for which in (program, native):
            backend = FakeBackend(echo)
            states = await which.arun_batch(rows(), backend=backend)
            assert [s.text() for s in states] == [f"{i}xXXX" for i in range(100)]
            seen = [s.text() async for s in which.arun_batch(rows(), generator_style=True, backend=backend)]
            assert seen == [f"{i}xXXX" for i in range(100)]
            some = which.arun_batch(rows(), generator_style=True, ordered=False, backend=backend)
            assert (await some.__anext__()).error() is None
            await some.aclose()
        with pytest.raises(sgl.OptionError, match="arun_batch"):
            program.run_batch(rows(), backend=FakeBackend())

    asyncio.run(main())


# -- time


def test_a_body_that_blocks_is_one_rows_timeout():
    go = threading.Event()

    @sgl.function
    def blocks(s, i):
        s += f"{i}x" + sgl.gen("a")
        if i in (1, 2):
            go.wait(15)
        return i

    with within(5):
        states = blocks.run_batch(
            [(i,) for i in range(50)], timeout=0.3, num_threads=2, on_error="keep", backend=FakeBackend(echo)
        )
    assert list(states.errors) == [1, 2] and all(isinstance(e, sgl.ProgramTimeout) for e in states.errors.values())
    assert "timeout=0.3 s passed in its body" in str(states.errors[1])
    go.set()
    time.sleep(0.05)
    assert isinstance(states[1].error(), sgl.ProgramTimeout), "a body that ends late changes nothing"


def test_an_async_body_that_sleeps_too_long():
    @sgl.function
    async def sleeps(s, i):
        s += f"{i}x" + sgl.gen("a")
        await asyncio.sleep(15 if i == 1 else 0)

    states = sleeps.run_batch([(i,) for i in range(5)], timeout=0.2, on_error="keep", backend=FakeBackend(echo))
    assert list(states.errors) == [1] and isinstance(states.errors[1], sgl.ProgramTimeout)

    async def main():
        with pytest.raises(sgl.ProgramTimeout, match=r"timeout=0.1 s"):
            await sleeps.arun(1, timeout=0.1, backend=FakeBackend(echo))
        blocking = sgl.function(lambda s: time.sleep(2))
        with pytest.raises(sgl.ProgramTimeout):
            await blocking.arun(timeout=0.1, backend=FakeBackend(echo))

    with within(1.5):
        asyncio.run(main())


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_a_batch_has_its_own_time(native, on_error):
    @sgl.function
    def plain(s, i):
        s += f"{i}x" + sgl.gen("a")
        if i >= 3:
            time.sleep(0.6)

    @sgl.function
    async def coroutine(s, i):
        s += f"{i}x" + sgl.gen("a")
        if i >= 3:
            await asyncio.sleep(0.6)

    which = coroutine if native else plain
    rows = [(i,) for i in range(100)]
    with within(2):
        if on_error == "keep":
            states = which.run_batch(rows, batch_timeout=0.3, num_threads=4, on_error="keep", backend=FakeBackend(echo))
            assert len(states) == 100 and sorted(states.errors) == list(range(3, 100))
            assert all("batch_timeout=0.3 s" in str(error) for error in states.errors.values())
        else:
            with pytest.raises(sgl.ProgramTimeout, match=r"batch_timeout=0.3 s") as caught:
                which.run_batch(rows, batch_timeout=0.3, num_threads=4, backend=FakeBackend(echo))
            assert caught.value.states[0]["a"] == "X" and caught.value.states[50] is None
    with pytest.raises(sgl.OptionError, match="batch_timeout"):
        which.run_batch(rows, batch_timeout=-1, backend=FakeBackend())


# -- what a batch costs


@pytest.mark.parametrize("which", ["plain", "async"])
def test_the_common_beginning_is_computed_once_and_bodies_run_once(which):
    runs = []
    prefix = "These are the rules of the house, which all rows begin with. " * 4

    def body(s, i):
        runs.append(i)
        s += prefix + f"{i:03}" + sgl.gen("a", max_tokens=2, ignore_eos=True)

    async def abody(s, i):
        body(s, i)

    runtime = sgl.Runtime.toy(speculative_num_draft_tokens=0)
    states = sgl.function(body if which == "plain" else abody).run_batch([(i,) for i in range(64)], backend=runtime)
    assert sorted(runs) == list(range(64))
    total = states.usage.total
    common = len(runtime.tokenizer.encode([(prefix, False)], first=True))
    assert total.computed < common + 64 * (3 + 2 + 2), "the prefix once, each row's own tokens, what was generated"
    assert total.reused >= 63 * (common - 2)


def test_a_budget_raises_before_the_next_call():
    @sgl.function
    def program(s, k):
        for i in range(k):
            s += f"{i}:" + sgl.gen(f"a{i}", max_tokens=10, ignore_eos=True)

    runtime = sgl.Runtime.toy()
    state = program.run(8, budget=35, backend=runtime)
    error = state.error()
    assert isinstance(error, sgl.BudgetExceeded) and error.spent.generated == 40
    assert "program program has spent 40 generated tokens, and its budget is 35" in str(error)
    assert len(state["a3"]) and state.usage.total.generated == 40
    with pytest.raises(sgl.BudgetExceeded):
        state["a4"]
    states = program.run_batch([(2,), (8,)], budget={"calls": 4}, on_error="keep", backend=runtime)
    assert [type(s.error()) for s in states] == [type(None), sgl.BudgetExceeded]

    @sgl.function
    def outer(s):
        group = s.fork(2)
        group += "x" + sgl.gen("x", max_tokens=10, ignore_eos=True)
        group.join()
        s["x"]
        program.run(3, backend=runtime)["a0"]

    with pytest.raises(sgl.BudgetExceeded, match="program outer has spent 2"):
        outer.run(budget={"generated": 20}, backend=runtime)
    for wrong in ({"tokens": 3}, {}, -1, "x", {"calls": "many"}):
        with pytest.raises(sgl.OptionError, match="budget"):
            program.run(1, budget=wrong, backend=runtime)
    runtime.check()


# -- a journal


@pytest.mark.parametrize("which", [program, native])
@pytest.mark.parametrize("style", ["list", "stream"])
def test_an_interrupted_batch_continues(which, style, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [(f"{i}x",) for i in range(20)]

    def run(backend, **options):
        options = {"backend": backend, "resume": path, **options}
        if style == "list":
            return which.run_batch(rows, **options)
        return list(which.run_batch(rows, generator_style=True, **options))

    def dies(text, request):
        return ValueError("power cut") if text.startswith("7x") else text[-1].upper()

    with pytest.raises(ValueError, match="power cut"):
        run(FakeBackend(dies), num_threads=2)
    kept = path.read_bytes().count(b'"ok": true')
    assert 1 <= kept < 20
    backend = FakeBackend(echo)
    states = run(backend)
    assert [s.text() for s in states] == [f"{i}xXXX" for i in range(20)]
    assert len(backend.branches) == 20 - kept, "only what the journal lacks is run"
    again = FakeBackend(echo)
    assert [s["b"] for s in run(again)] == ["X"] * 20 and not again.branches
    with pytest.raises(sgl.OptionError, match="is the journal of the program"):
        (native if which is program else program).bind().run_batch(rows, resume=path, backend=again)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_a_full_disk_under_the_journal(on_error, tmp_path, monkeypatch):
    from sgl.interpreter.journal.journal import Journal

    full = os.open("/dev/full", os.O_WRONLY)
    written = []

    def write(self, content):
        written.append(bytes(content))
        return os.write(full if len(written) > 5 else self._fd, content)

    monkeypatch.setattr(Journal, "_write_some", write)
    path = tmp_path / "rows.jsonl"
    rows = [(f"{i}x",) for i in range(50)]
    if on_error == "keep":
        with pytest.warns(RuntimeWarning, match="No space left"):
            states = program.run_batch(rows, resume=path, on_error="keep", backend=FakeBackend(echo))
        assert [s.text() for s in states] == [f"{i}xXXX" for i in range(50)]
    else:
        with pytest.raises(sgl.JournalError, match="No space left") as caught:
            program.run_batch(rows, resume=path, num_threads=2, backend=FakeBackend(echo))
        assert caught.value.states[0].text() == "0xXXX"
    monkeypatch.undo()
    os.close(full)
    backend = FakeBackend(echo)
    states = program.run_batch(rows, resume=path, backend=backend)
    assert [s.text() for s in states] == [f"{i}xXXX" for i in range(50)] and len(backend.branches) == 46


# -- what a review found


def test_a_row_that_begins_while_the_waiter_sleeps_has_its_timeout():
    @sgl.function
    def sleeps(s, i):
        time.sleep(3 if i else 0.01)

    def rows():
        yield (0,)
        time.sleep(0.2)
        yield (1,)

    with within(2):
        states = sleeps.run_batch(rows(), timeout=0.3, num_threads=1, on_error="keep", backend=FakeBackend())
    assert list(states.errors) == [1]


def test_a_body_that_ends_at_its_deadline_finishes_its_row_once():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    @sgl.function
    def sleeps(s, k):
        time.sleep(0.03 + k * 1e-4)

    try:
        for turn in range(15):
            rows = [((turn * 7 + i * 13) % 25 - 20,) for i in range(32)]
            assert len(sleeps.run_batch(rows, timeout=0.03, on_error="keep", backend=FakeBackend())) == 32
    finally:
        sys.setswitchinterval(interval)


def test_rows_that_are_slow_to_come_hold_nothing_back():
    async def rows():
        yield ("0x",)
        await asyncio.sleep(1.5)
        yield ("1x",)

    async def main():
        start = time.monotonic()
        states = native.arun_batch(rows(), generator_style=True, backend=FakeBackend(echo))
        assert (await states.__anext__()).text() == "0xXXX" and time.monotonic() - start < 1
        await states.aclose()
        with pytest.raises(sgl.ProgramTimeout, match="batch_timeout"):
            await native.arun_batch(rows(), batch_timeout=0.2, backend=FakeBackend(echo))
        assert time.monotonic() - start < 1.2

        queue = asyncio.Queue()  # each row is put there by who reads the one before

        async def fed():
            while (i := await queue.get()) is not None:
                yield (f"{i}x",)

        queue.put_nowait(0)
        async for state in native.arun_batch(fed(), generator_style=True, backend=FakeBackend(echo)):
            n = int(state.text()[0])
            queue.put_nowait(n + 1 if n < 3 else None)
        assert n == 3

    asyncio.run(main())


def test_rows_that_block_do_not_hold_up_the_end_of_a_batch():
    def rows():
        yield ("0x",)
        time.sleep(2)

    with within(1), pytest.raises(sgl.ProgramTimeout, match="batch_timeout"):
        program.run_batch(rows(), batch_timeout=0.2, backend=FakeBackend(echo))


@pytest.mark.parametrize("options", [{"timeout": 0.2}, {"batch_timeout": 0.2}])
def test_a_body_that_refuses_to_be_cancelled_is_left_behind(options, monkeypatch):
    from sgl.interpreter import run

    monkeypatch.setattr(run, "CLEANUP_SECONDS", 0.1)

    @sgl.function
    async def stubborn(s, i):
        end = time.monotonic() + (1.5 if i else 0)
        while time.monotonic() < end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    start = time.monotonic()

    async def main():
        states = await stubborn.arun_batch([(0,), (1,)], on_error="keep", backend=FakeBackend(), **options)
        assert list(states.errors) == [1] and isinstance(states.errors[1], sgl.ProgramTimeout)
        return time.monotonic() - start

    assert asyncio.run(main()) < 1.4


def test_a_body_that_cancels_itself_is_one_rows_error():
    @sgl.function
    async def cancels(s, i):
        s += "a"
        if i == 1:
            raise asyncio.CancelledError
        if i == 2:
            raise SystemExit(3)

    for options in ({}, {"timeout": 5}):
        states = cancels.run_batch([(0,), (1,), (2,), (3,)], on_error="keep", backend=FakeBackend(), **options)
        assert list(states.errors) == [1, 2] and isinstance(states.errors[2], SystemExit)


def test_after_a_failure_no_waiting_row_begins():
    began = []

    @sgl.function
    def fails(s, i):
        began.append(i)
        raise LookupError(i)

    async def main():
        with pytest.raises(LookupError):
            await fails.arun_batch([(i,) for i in range(100)], num_threads=1, backend=FakeBackend())

    asyncio.run(main())
    assert len(began) < 10


def test_a_refused_batch_leaves_its_journal_free(tmp_path):
    async def main():
        with pytest.raises(sgl.OptionError, match="arun_batch") as kept:
            native.run_batch([("a",)], resume=tmp_path / "j", backend=FakeBackend(echo))
        states = await native.arun_batch([("a",)], resume=tmp_path / "j", backend=FakeBackend(echo))
        assert states[0]["b"] == "A" and kept is not None

    asyncio.run(main())


def test_a_system_without_threads_to_give_goes_on_with_those_there_are(monkeypatch):
    from sgl.interpreter.batch import threads as batch

    given = []
    start = batch.start_thread

    def few(name, work):
        if len(given) >= 2:
            raise RuntimeError("can't start new thread")
        given.append(name)
        return start(name, work)

    monkeypatch.setattr(batch, "start_thread", few)
    states = program.run_batch([(f"{i}x",) for i in range(30)], backend=FakeBackend(echo))
    assert [s.text() for s in states] == [f"{i}xXXX" for i in range(30)]


def test_a_slow_consumer_does_not_stop_the_model():
    @sgl.function
    def lazy(s, i):
        s += f"{i}:" + sgl.gen("a", max_tokens=20, ignore_eos=True)

    runtime = sgl.Runtime.toy()
    rows = lazy.run_batch(
        [(i,) for i in range(40)], generator_style=True, timeout=1.0, on_error="keep", backend=runtime
    )
    seen = []
    for state in rows:
        time.sleep(0.05)
        seen.append(state.error())
    assert len(seen) == 40 and not any(seen)


def test_a_budget_costs_little_with_many_branches_and_deep_ones():
    runtime = sgl.Runtime.toy()

    @sgl.function
    def wide(s, n):
        group = s.fork(n)
        group += "x" + sgl.gen("a", max_tokens=1, ignore_eos=True)

    @sgl.function
    def deep(s, n):
        s += "x"
        branch = s
        for _ in range(n):
            branch = branch.fork(1)[0]
        branch += sgl.gen("a", max_tokens=1, ignore_eos=True)
        return branch["a"]

    with within(8):
        wide.run(1500, budget=10**6, backend=runtime).sync()
    state = deep.run(1500, budget=10**6, backend=runtime)
    assert state.usage.total.generated == 1 and len(list(state.usage.walk())) == 1501
