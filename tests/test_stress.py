"""Many threads and coroutines against one driver, threads switched as often as can be: the texts of a quiet run."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl
from sgl.backend.runtime.runtime import Runtime

STRESS_SECONDS = 60.0
ROWS = 12


@sgl.function
def said(s: Any, i: int) -> None:
    s += f"row {i}: " + sgl.gen("a", max_tokens=6, temperature=1.0, ignore_eos=True, seed=i)
    branches = s.fork(2)
    branches += lambda k: f" {k} " + sgl.gen("b", max_tokens=4, temperature=0.0, ignore_eos=True)
    branches.join()
    s += sgl.select("c", choices=["yes", "no", f"maybe {i}"])
    s += sgl.gen("d", regex="[ab]{2,5}", max_tokens=8, temperature=1.0, seed=i)


@sgl.function
async def said_async(s: Any, i: int) -> None:
    s += f"row {i}: " + sgl.gen("a", max_tokens=6, temperature=1.0, ignore_eos=True, seed=i)
    await s["a"]
    s += sgl.gen("d", regex="[ab]{2,5}", max_tokens=8, temperature=1.0, seed=i)


@sgl.function
def dropped(s: Any, i: int) -> None:
    s += f"row {i}: " + sgl.gen("a", max_tokens=900, ignore_eos=True)


def shown(state: Any) -> tuple[Any, ...]:
    return tuple(state[name] for name in ("a", "b", "c", "d") if name in state)


@pytest.fixture
def hasty() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def stress(seconds: float, folder: Path) -> None:
    quiet, runtime = Runtime.toy(), Runtime.toy(max_total_tokens=3_000)
    plain = [shown(said.run(i, backend=quiet, seed=i)) for i in range(ROWS)]
    awaited = [shown(said_async.run(i, backend=quiet, seed=i)) for i in range(ROWS)]
    until, failures = time.monotonic() + seconds, []

    def bodies(rng: random.Random) -> None:
        i = rng.randrange(ROWS)
        assert shown(said.run(i, backend=runtime, seed=i)) == plain[i]

    def rows(rng: random.Random) -> None:
        states = said.run_batch([{"i": i} for i in range(ROWS)], backend=runtime, seed=None, on_error="keep")
        assert not states.errors and all(len(state["d"]) >= 2 for state in states)

    def noted(rng: random.Random) -> None:
        path = folder / f"{threading.get_ident()}-{rng.random()}.jsonl"
        given = [{"i": i} for i in range(4)]
        first = said.run_batch(given, backend=runtime, resume=path)
        again = said.run_batch(given, backend=runtime, resume=path)
        assert [*map(shown, first)] == [*map(shown, again)] and all(state.restored for state in again)

    def tasks(rng: random.Random) -> None:
        async def main() -> None:
            states = await asyncio.gather(*(said_async.arun(i, backend=runtime, seed=i) for i in range(ROWS)))
            assert [*map(shown, states)] == awaited

        asyncio.run(main())

    def cancels(rng: random.Random) -> None:
        state = dropped.run(rng.randrange(ROWS), backend=runtime, stream=True)
        time.sleep(rng.random() * 0.01)
        state.cancel()
        assert isinstance(state.error(), sgl.Cancelled)

    def looks(rng: random.Random) -> None:
        steps: list[Any] = []
        end = runtime.watch(steps.append)
        runtime.cache_prefix(f"row {rng.randrange(ROWS)}: ")
        runtime.get_server_info()
        if rng.random() < 0.3:
            runtime.flush_cache()
        runtime.check()
        end()

    def loop(work: Any, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while time.monotonic() < until and not failures:
                work(rng)
        except BaseException as error:
            failures.append(error)

    works = [bodies, bodies, rows, noted, tasks, tasks, cancels, looks]
    threads = [threading.Thread(target=loop, args=(work, i), daemon=True) for i, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 120)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "some program hangs"
    runtime.check()
    assert [shown(said.run(i, backend=runtime, seed=i)) for i in range(ROWS)] == plain


def test_for_a_moment(hasty: None, tmp_path: Path) -> None:
    stress(3.0, tmp_path)


@pytest.mark.slow
def test_for_a_minute(hasty: None, tmp_path: Path) -> None:
    stress(STRESS_SECONDS, tmp_path)
