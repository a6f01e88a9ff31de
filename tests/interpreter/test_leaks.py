"""A process that does the same thing again and again holds no more than before: nothing outlives its last use."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

import sgl
from sgl.backend.runtime import drive, engine
from sgl.backend.runtime.grammar import compile as grammar_module
from sgl.backend.runtime.kv.tree import Node
from sgl.lang import kept


@pytest.fixture
def runtime() -> Iterator[Any]:
    with sgl.Runtime.toy(max_total_tokens=2000) as made:
        yield made


@sgl.function
def program(s: Any) -> None:
    s += "Hello " + sgl.gen("a", max_tokens=20) + sgl.select("b", ["x", "y"]) + sgl.gen("c", max_tokens=5)


@sgl.function
def forks(s: Any) -> None:
    s += "Hello "
    for i, branch in enumerate(s.fork(3)):
        branch += f"go {i}" + sgl.gen("a", max_tokens=10)


@sgl.function
def raises(s: Any) -> None:
    s += "Hello " + sgl.gen("a", max_tokens=5)
    _ = s.fork(2)[0]["a"]
    raise ValueError("boom")


@sgl.function
async def waits(s: Any) -> None:
    s += "Hello " + sgl.gen("a", max_tokens=400, ignore_eos=True)
    await s["a"]


@sgl.function
def typed(s: Any, model: Any) -> None:
    s += "x" + sgl.gen("a", schema=model, max_tokens=30)


LAST: deque[BaseException] = deque(maxlen=2)


def fails(runtime: Any, folder: Path) -> None:
    try:
        raises.run(backend=runtime)
    except ValueError as error:
        LAST.append(error)  # its traceback holds the state


def is_streamed(runtime: Any, folder: Path) -> None:
    next(iter(program.run(backend=runtime, stream=True).text_iter("a")))


def is_streamed_to_a_loop(runtime: Any, folder: Path) -> None:
    async def main() -> None:
        async for _ in program.run(backend=runtime, stream=True).text_async_iter("a"):
            break

    asyncio.run(main())


def is_cancelled(runtime: Any, folder: Path) -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(waits.arun(backend=runtime)) for _ in range(2)]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def is_left_in_a_batch(runtime: Any, folder: Path) -> None:
    next(iter(program.run_batch([{}] * 6, backend=runtime, generator_style=True, resume=folder / "rows.jsonl")))


def is_traced(runtime: Any, folder: Path) -> None:
    with sgl.trace(folder / "run.json"):
        program.run(backend=runtime)


KINDS: dict[str, Callable[[Any, Path], object]] = {
    "read": lambda runtime, folder: program.run(backend=runtime)["c"],
    "unread": lambda runtime, folder: program.run(backend=runtime),
    "forks": lambda runtime, folder: forks.run(backend=runtime),
    "batch": lambda runtime, folder: program.run_batch([{}] * 3, backend=runtime),
    "failed batch": lambda runtime, folder: raises.run_batch([{}] * 3, backend=runtime, on_error="keep"),
    "fake": lambda runtime, folder: program.run(backend=sgl.FakeBackend(["a", "x", "c"])),
    "error": fails,
    "stream": is_streamed,
    "stream in a loop": is_streamed_to_a_loop,
    "cancelled": is_cancelled,
    "left batch": is_left_in_a_batch,
    "trace": is_traced,
}


def collect() -> None:
    """Twice: what an engine in another language held is garbage only when that is gone."""
    gc.collect()
    gc.collect()


def held(runtime: Any) -> Counter[type]:
    """The objects of this package by their class, without the nodes of the KV cache, which the pool bounds."""
    collect()
    runtime.generate("x", {"max_new_tokens": 1})  # takes notice of what was dropped
    collect()
    found = Counter(type(one) for one in gc.get_objects() if str(type(one).__module__).startswith("sgl."))
    del found[Node]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_what_was_run(runtime: Any, tmp_path: Path, kind: str) -> None:
    def repeat(times: int) -> Counter[type]:
        for _ in range(times):
            KINDS[kind](runtime, tmp_path)
        return held(runtime)

    repeat(5)
    before = repeat(1)
    after = repeat(15)
    for _ in range(100):  # threads of a batch that was left end by themselves
        more = {made: count for made, count in (after - before).items() if count >= 10}
        if not more:
            break
        time.sleep(0.1)
        after = held(runtime)
    assert not more


def test_programs_that_nobody_reads_do_not_pile_up(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MANY_NEWS", 30)
    for _ in range(200):
        program.run(backend=runtime)
    assert len(runtime.engine.branches.inbox) <= 31


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_functions_are_let_go(runtime: Any, count: int) -> None:
    made: list[weakref.ref[Any]] = []
    for number in range(count):

        @sgl.function
        def one(s: Any, text: str = f"{number} ") -> None:
            s += text + sgl.gen("a", max_tokens=2)

        one.run(backend=runtime).text()
        one.graph()
        made += [weakref.ref(one), weakref.ref(one.func)]
        del one
    collect()
    assert sum(ref() is not None for ref in made) == 0


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_classes_and_patterns_are_let_go(runtime: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The last ones are kept with what was compiled of them, within bounds."""
    monkeypatch.setattr(kept.DEFINITIONS, "limit_bytes", 400_000)
    runtime.engine.grammars._prepared._entries = 8
    made: list[weakref.ref[Any]] = []
    for number in range(count):
        model = pydantic.create_model(f"Model{number}", **{f"field{number}": (bool, ...)})
        typed.run(model=model, backend=runtime)["a"]
        runtime.generate("x", {"max_new_tokens": 30, "regex": f"[ab]{{2}}{number}"})
        made.append(weakref.ref(model))
        del model
        memory = runtime.get_server_info()["memory"]
        assert all(entry["bytes"] <= entry["most_bytes"] for entry in memory.values()), memory
    collect()
    assert sum(ref() is not None for ref in made) < 60
    assert grammar_module.KEPT_CONSTRAINTS > 8 >= memory["constraints"]["entries"]


def test_the_thread_of_a_runtime_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "LINGER_SECONDS", 600.0)
    with sgl.Runtime.toy() as runtime:
        asyncio.run(runtime.async_generate("x", {"max_new_tokens": 2}))
        thread = runtime.engine.drive._thread
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()


def test_runtimes_are_let_go() -> None:
    made = []
    for number in range(6):
        runtime = sgl.Runtime.toy(max_total_tokens=1000)
        runtime.generate("x", {"max_new_tokens": 4, "regex": "[ab]{3}"})
        made += [weakref.ref(runtime.engine), weakref.ref(runtime.tokenizer)]
        if number % 2:
            runtime.shutdown()
    del runtime
    collect()
    assert sum(ref() is not None for ref in made) == 0
