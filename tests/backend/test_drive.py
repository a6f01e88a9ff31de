"""Whoever waits drives: many threads, coroutines, and nobody left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from queue import SimpleQueue

from sgl.backend.base import GenRequest
from sgl.backend.runtime.drive import Drive
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.expr import Sampling

GREEDY = Sampling(max_tokens=20, temperature=0.0, ignore_eos=True)


def test_many_threads_share_the_engine() -> None:
    runtime = Runtime.toy()
    texts: dict[int, list[str]] = {}

    def work(i: int) -> None:
        branch = runtime.open(seed=i)
        out = []
        for turn in range(5):
            branch.append(f"turn {turn} of {i % 4}: ")
            handle = branch.gen(GenRequest(GREEDY))
            assert runtime.wait(handle, timeout=60)
            out.append(handle.value()[0].text)
        texts[i] = out
        branch.close()

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a waiter was left behind"
    assert len(texts) == 24
    for i in range(24):
        assert texts[i] == texts[i % 4]
    runtime.check()
    assert not runtime.engine.branches.attached


def test_a_sleeper_takes_over_from_a_driver_that_is_done() -> None:
    runtime = Runtime.toy()
    short, long = runtime.open(), runtime.open()
    short.append("a")
    long.append("b")
    quick = short.gen(GenRequest(Sampling(max_tokens=3, ignore_eos=True)))
    slow = long.gen(GenRequest(Sampling(max_tokens=300, ignore_eos=True)))
    done = []
    thread = threading.Thread(target=lambda: done.append(runtime.wait(slow, timeout=60)), daemon=True)
    thread.start()
    assert runtime.wait(quick, timeout=60)
    thread.join(60)
    assert done == [True]


def test_a_waiter_without_work_wakes_when_another_thread_brings_it() -> None:
    runtime = Runtime.toy()
    branch = runtime.open()
    branch.append("x")
    parent = runtime.open()
    (child,) = parent.fork(1)
    handle = child.gen(GenRequest(GREEDY))
    other = branch.gen(GenRequest(GREEDY))
    threading.Timer(0.1, lambda: runtime.wait(other)).start()
    assert runtime.wait(handle, timeout=30)


def test_streaming_is_a_growing_prefix() -> None:
    runtime = Runtime.toy()
    branch = runtime.open(seed=2)
    branch.append("stream")
    handle = branch.gen(GenRequest(Sampling(max_tokens=60, temperature=1.0, stop=("stop",), ignore_eos=True)))
    seen: list[str] = []
    while not handle.done:
        runtime.wait(handle, seen=len(seen[-1]) if seen else 0)
        seen.append(handle.text)
    assert len(seen) > 5
    final = handle.value()[0].text
    assert all(final.startswith(text) for text in seen) and seen[-1] == final


def test_coroutines_wait_without_blocking_the_loop() -> None:
    runtime = Runtime.toy()
    real = runtime.engine.model.forward

    def slow(batch):  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        return real(batch)

    runtime.engine.model.forward = slow

    async def one(i: int) -> str:
        branch = runtime.open(seed=i)
        branch.append("async")
        handle = branch.gen(GenRequest(GREEDY))
        await runtime.wait_async(handle)
        return handle.value()[0].text

    async def main() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticker = asyncio.create_task(tick())
        texts = await asyncio.gather(*(one(i) for i in range(10)))
        ticker.cancel()
        assert len(set(texts)) == 1
        return ticks

    assert asyncio.run(main()) >= 10  # 20 steps of 10 ms passed meanwhile
    deadline = time.monotonic() + 5
    while runtime.engine.drive._thread is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert runtime.engine.drive._thread is None  # the driver ends with the last coroutine


def test_others_get_the_engine_between_steps() -> None:
    """Looking at a running engine, cancelling and shutting down wait for a step, not for a generation; and a waiter
    that found the engine taken by one of them is woken when it is free."""
    runtime = Runtime.toy()
    looking = True

    def look() -> None:
        while looking:
            runtime.get_server_info()
            victim = runtime.open()
            victim.append("zz")
            victim.gen(GenRequest(GREEDY))
            victim.cancel()
            victim.close()
            time.sleep(0.0005)

    watchers = [threading.Thread(target=look, daemon=True) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(60):
            branch = runtime.open()
            branch.append("x")
            handle = branch.gen(GenRequest(Sampling(max_tokens=2, ignore_eos=True)))
            assert runtime.wait(handle, timeout=20), "lost wake-up"
            branch.close()
        long = runtime.open()
        long.append("y")
        handle = long.gen(GenRequest(Sampling(max_tokens=4000, ignore_eos=True)))
        waiter = threading.Thread(target=lambda: runtime.wait(handle), daemon=True)
        waiter.start()
        time.sleep(0.05)
        looking = False
        for watcher in watchers:
            watcher.join(20)
        runtime.shutdown()
        waiter.join(20)
        assert not waiter.is_alive() and handle.error is not None
    finally:
        looking = False


def test_closing_from_the_garbage_collector_takes_no_lock() -> None:
    """A finaliser may run anywhere, also while its own thread holds a lock of the engine's."""
    runtime = Runtime.toy()
    branch = runtime.open()
    held = [runtime.engine.drive._lock, runtime.engine.drive._thread_lock]
    done = threading.Event()

    def close_with_everything_held() -> None:
        for lock in held:
            lock.acquire()
        branch.close()
        for lock in held:
            lock.release()
        done.set()

    threading.Thread(target=close_with_everything_held, daemon=True).start()
    assert done.wait(10)
    runtime.check()
    assert not runtime.engine.branches.attached


def bells(drive: Drive, n: int) -> list[SimpleQueue[None]]:
    """Bells of `n` sleeping threads that are none of this process's."""
    drive._sleepers.update({-1 - i: SimpleQueue() for i in range(n)})
    return list(drive._sleepers.values())


def test_who_looks_anyway_is_not_woken() -> None:
    drive = Runtime.toy().engine.drive
    first, second = bells(drive, 2)
    drive._driving = True  # it takes notice by itself
    drive.wake()
    assert first.empty() and second.empty()
    drive._driving = False
    drive.wake()
    assert first.qsize() == 1 and second.empty()
    drive.wake()  # the first was rung, and will look
    drive.wake()
    assert first.qsize() == 1 and second.qsize() == 1


def test_what_comes_while_the_driver_leaves_is_passed_on() -> None:
    runtime = Runtime.toy()
    drive, seen = runtime.engine.drive, bells(runtime.engine.drive, 1)
    branch, step = runtime.open(seed=0), runtime.engine.step

    def last_step() -> bool:
        worked = step()
        branch.append("text")  # after the inbox was read, while this thread still drives
        assert seen[0].empty()
        return worked

    runtime.engine.step = last_step  # type: ignore[method-assign]
    assert drive._drive(lambda: False, None)  # there is news: look again
    assert seen[0].qsize() == 1


def test_who_is_ready_is_woken_after_the_step() -> None:
    runtime = Runtime.toy()
    drive, step, during = runtime.engine.drive, runtime.engine.step, []
    bell: SimpleQueue[None] = SimpleQueue()

    def slow_step() -> bool:
        worked = step()
        drive._ring(bell)
        during.append(bell.qsize())
        return worked

    runtime.engine.step = slow_step  # type: ignore[method-assign]
    drive._drive(lambda: False, None)
    assert during == [0] and bell.qsize() == 1
    drive._ring(bell)  # nobody drives
    assert bell.qsize() == 2
