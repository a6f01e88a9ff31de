"""A soak: random programs, cancellations and faults for minutes on a small pool, and everything is given back.

Owns: the random programs, the ways to run and abandon them, and what must be true when nobody runs any more. A round
runs some of them side by side in threads and loops, then everything is dropped; every few seconds the runtime must be
whole and empty, a program with a seed must still give the text it gave at first, and in the end memory is as it was.

By hand: `python tests/test_soak.py --seconds 600 --seed 7`, or `--round 12` to repeat one round of that seed. What a
round does depends on its seed alone, as far as threads allow.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import faulthandler
import gc
import inspect
import os
import queue
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    __package__ = "tests"

import sgl
from sgl.backend.runtime import invariants
from sgl.backend.runtime.grammar.sharing.mask_cache import CacheBudget

from .backend.naive import rush
from .watchdog import slowness

SECONDS = 120.0
EVERY = 3.0  # seconds between two looks at the idle runtimes
POOL = 700  # tokens of KV: a few programs' worth
HANG = 60  # seconds of an idle machine after which a round counts as hung
THREADS = 12  # alive when nobody runs: this one, loops' executors, mask threads, drivers that are about to end
KNOWN_BYTES = 200_000  # what is known of grammars: so little that it is forgotten many times
GROWTH = 1.03  # what the last third may hold more than the first, of objects and of memory
SLACK_OBJECTS, SLACK_BYTES = 500, 6 << 20


class Boom(Exception):
    """A body's own error."""


class Fault(Exception):
    """The model's forward failed."""


class Worst(Exception):
    """What may not happen in a round, with how to repeat it."""


# -- random programs: one script for both kinds of body. In a plain one it never suspends.

WORDS = (
    "the and",
    "a stop",
    "Answer: ",
    "日本",
    "abc bc",
    "\n\n",
    "é",
    "no yes",
    "row 12, ",
    "a longer piece of text ",
)
REGEXES = ("[0-9]{1,4}", "(yes|no)+", "a[bc]*d", "[a-z ]{2,9}\\.")
CHOICES = ("yes", "no", "ye", "the and", "stop", "日本")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["n", "b"]}


async def now(value: Any) -> Any:
    """A read, in either kind of program."""
    return await value if inspect.isawaitable(value) else value


def some_gen(rng: random.Random, name: str) -> Any:
    kind = rng.random()
    common: dict[str, Any] = {"temperature": rng.choice([0, 0.7, 1.0, 2.0]), "max_tokens": rng.randint(1, 30)}
    if rng.random() < 0.04:
        common["timeout"] = rng.choice([1e-6, 0.002, 0.01])
    if kind < 0.15:
        return sgl.gen(name, regex=rng.choice(REGEXES), on_budget=rng.choice(["close", "partial", "error"]), **common)
    if kind < 0.2:
        return sgl.gen(name, json_schema=SCHEMA, **{**common, "max_tokens": rng.randint(5, 60)})
    if kind < 0.35:
        return sgl.select(name, rng.sample(CHOICES, 3), temperature=rng.choice([0, 1]))
    if kind < 0.5:
        common["n"] = rng.randint(2, 4)
    if kind < 0.6:
        common["return_logprob"] = True
    return sgl.gen(name, stop=rng.choice([None, "stop", ["\n\n", "the"]]), ignore_eos=rng.random() < 0.5, **common)


async def script(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any) -> None:
    """A few random things; `deep` more levels of branches and programs may follow."""
    for i in range(rng.randint(1, 5)):
        act = rng.choices(ACTS, WEIGHTS)[0]
        await act(s, rng, deep, is_async, runtime, f"{'abcde'[deep]}{i}")


async def say(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    s += rng.choice(WORDS) * rng.randint(1, 4)


async def generate(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    s += rng.choice(WORDS) + some_gen(rng, name) + rng.choice(["", *WORDS])
    if rng.random() < 0.4:
        with suppress(sgl.Truncated):
            await now(s[name])


async def turn(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    if deep < 2:
        return  # a branch may be inside one already
    s += sgl.user("q " + rng.choice(WORDS))
    with suppress(Boom), s.assistant():
        s += some_gen(rng, name)
        if rng.random() < 0.3:
            raise Boom("in a turn")
    assert (await now(s.messages()))[-1]["role"] == "assistant"


async def fork(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    if not deep:
        return
    group = s.fork(rng.randint(1, 4), on_error=rng.choice(["spare", "cancel"]))
    group += rng.choice(WORDS)
    for branch in group:
        with suppress(Boom):
            await script(branch, rng, deep - 1, is_async, runtime)
    end = rng.random()
    if end < 0.15:
        return  # forgotten
    if end < 0.3:
        group[rng.randrange(len(group))].cancel()
    elif end < 0.4:
        group.cancel()
    elif end < 0.6:
        winner = await now(sgl.first(group))
        winner += "won" + some_gen(rng, name)
        return
    if end < 0.8:
        await group.ajoin() if is_async else group.join()
    elif is_async:
        await group.ajoin("concate_and_append")
    else:
        group.join("concate_and_append")


async def copy(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    if deep:
        with s.copy() as other:
            await script(other, rng, 0, is_async, runtime)


async def scope(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    with s.var_scope(name):
        s += "scoped " + some_gen(rng, name + "x")
        with pytest.raises(sgl.VariableError, match="being written"):
            await now(s[name])
    if rng.random() < 0.5:
        await now(s[name])


async def inner(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    if deep < 2:
        return
    seed, timeout = rng.getrandbits(32), rng.choice([None, 0.05])
    if is_async:
        state = await coroutine.arun(seed, 1, runtime, seed=seed, timeout=timeout, backend=runtime)
    else:
        state = plain.run(seed, 1, runtime, seed=seed, timeout=timeout, backend=runtime)
    if state.error() is None:
        s += "inner said " + state.text()[:40]


async def read(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        await now(s.text())
    elif kind == 1:
        await now(s.error())
    elif kind == 2:
        assert s.usage.total.computed >= 0
    elif kind == 3 and is_async:
        async for _ in s.text_async_iter():
            if rng.random() < 0.2:
                break
    elif kind == 3:
        for _ in s.text_iter():
            if rng.random() < 0.2:
                break
    else:
        await now(s.sync())


async def trip(s: Any, rng: random.Random, deep: int, is_async: bool, runtime: Any, name: str) -> None:
    kind = rng.randrange(4)
    if kind == 0:
        raise Boom("in a body")
    if kind == 1:
        s.cancel()
    elif is_async:
        await asyncio.sleep(rng.random() * 0.004)
    else:
        time.sleep(rng.random() * 0.004)


ACTS = [say, generate, turn, fork, copy, scope, inner, read, trip]
WEIGHTS = [4, 10, 2, 5, 1, 1, 1, 2, 1]


@sgl.function
def plain(s: Any, dice: int, deep: int, runtime: Any) -> None:
    body = script(s, random.Random(dice), deep, False, runtime)
    try:
        body.send(None)
    except StopIteration:
        return
    finally:
        body.close()
    raise AssertionError("a plain body was suspended")


@sgl.function
async def coroutine(s: Any, dice: int, deep: int, runtime: Any) -> None:
    await script(s, random.Random(dice), deep, True, runtime)


@sgl.function
def canary(s: Any) -> tuple[Any, ...]:
    """What it gives depends on its seed alone, whatever happens around it."""
    s += "canary " + sgl.gen("a", max_tokens=20, temperature=1.0, stop="\n\n")
    group = s.fork(2)
    group += "b" + sgl.gen("b", max_tokens=8, regex="[a-z]{3,8}")
    group.join()
    s += sgl.select("c", ["yes", "no", "ye"], temperature=1.0) + sgl.gen("d", n=2, max_tokens=5, temperature=1.0)
    return s["a"], list(s["b"]), s["c"], s["d"]


# -- ways to run them, and to lose interest


class Round:
    """One round: its randomness, its runtime, and what came of its programs."""

    def __init__(self, runtime: Any, seed: str, outcomes: collections.Counter[str]) -> None:
        self.runtime, self.seed = runtime, seed
        self.outcomes = outcomes
        self.wrong: list[BaseException] = []
        self.dropped: queue.SimpleQueue[Any] = queue.SimpleQueue()  # states to be collected in another thread

    def options(self, rng: random.Random) -> dict[str, Any]:
        found: dict[str, Any] = {"backend": self.runtime, "seed": rng.getrandbits(32)}
        if rng.random() < 0.15:
            found["timeout"] = rng.choice([0.001, 0.01, 0.05])
        if rng.random() < 0.15:
            found["budget"] = rng.choice([5, {"calls": 2}, {"computed": 50}])
        return found

    def row(self, rng: random.Random) -> tuple[Any, ...]:
        return rng.getrandbits(32), rng.choice([0, 1, 1, 2]), self.runtime

    def note(self, error: BaseException | None) -> None:
        """Count how a program ended; an error that it cannot have is wrong."""
        kind = "fine" if error is None else type(error).__name__
        if isinstance(error, (sgl.BackendError,)):
            kind = "Fault" if isinstance(error.__cause__, Fault) else "wrong"
        elif isinstance(error, sgl.OptionError):
            kind = "refused join" if "join: " in str(error) or "turn" in str(error) else "wrong"
        elif error is not None and not isinstance(
            error,
            (
                *(Boom, sgl.Cancelled, sgl.ProgramTimeout, sgl.BudgetExceeded, sgl.OutOfMemory, sgl.Truncated),
                *(asyncio.CancelledError, sgl.ContextOverflow),
            ),
        ):
            kind = "wrong"
        self.outcomes[kind] += 1
        if kind == "wrong":
            assert error is not None
            self.wrong.append(error)

    def end(self, state: Any, rng: random.Random) -> None:
        """One of the ways to leave a state behind."""
        way = rng.randrange(6)
        if way == 0:
            self.outcomes["dropped unread"] += 1
        elif way == 1:
            self.dropped.put(state)
        elif way == 2:
            state.cancel()
            self.note(state.error())
        elif way == 3:
            pieces = state.text_iter()
            with suppress(Exception):
                for _ in pieces:
                    if rng.random() < 0.1:
                        break
        else:
            self.note(state.error())

    # the ways
    def run_plain(self, rng: random.Random) -> None:
        for _ in range(rng.randint(1, 6)):
            try:
                state = plain.run(*self.row(rng), **self.options(rng))
            except Exception as error:
                self.note(error)
            else:
                self.end(state, rng)

    def run_streams(self, rng: random.Random) -> None:
        states = [
            rng.choice([plain, coroutine]).run(*self.row(rng), stream=True, **self.options(rng))
            for _ in range(rng.randint(1, 4))
        ]
        while states:
            self.end(states.pop(rng.randrange(len(states))), rng)

    def run_batches(self, rng: random.Random) -> None:
        rows = [self.row(rng) for _ in range(rng.randint(1, 24))]
        which, options = rng.choice([plain, coroutine]), self.options(rng)
        if rng.random() < 0.2:
            options["batch_timeout"] = rng.choice([0.01, 0.1])
        way = rng.randrange(3)
        if way == 0:
            for state in which.run_batch(rows, on_error="keep", num_threads=rng.choice([1, 4, "auto"]), **options):
                self.note(state.error())
        elif way == 1:
            try:
                which.run_batch(rows, **options)
            except Exception as error:
                self.note(error)
        else:
            ordered = rng.random() < 0.5
            found = which.run_batch(iter(rows), generator_style=True, on_error="keep", ordered=ordered, **options)
            for state in found:
                self.note(state.error())
                if rng.random() < 0.15:
                    break
            found.close()

    def run_loop(self, rng: random.Random) -> None:
        asyncio.run(self._loop(rng))

    async def _loop(self, rng: random.Random) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        tasks = [
            asyncio.create_task(coroutine.arun(*self.row(rng), **self.options(rng))) for _ in range(rng.randint(1, 12))
        ]
        tasks += [
            asyncio.create_task(plain.arun(*self.row(rng), **self.options(rng))) for _ in range(rng.randint(0, 3))
        ]
        batch = asyncio.create_task(self._abatch(rng))
        await asyncio.sleep(rng.random() * 0.05)
        for task in tasks:
            if rng.random() < 0.3:
                task.cancel()
        if rng.random() < 0.3:
            batch.cancel()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            self.note(found if isinstance(found, BaseException) else found.error())
        with suppress(asyncio.CancelledError):
            await batch

    async def _abatch(self, rng: random.Random) -> None:
        rows = [self.row(rng) for _ in range(rng.randint(1, 12))]
        which = rng.choice([plain, coroutine])
        if rng.random() < 0.5:
            for state in await which.arun_batch(rows, on_error="keep", **self.options(rng)):
                self.note(state.error())
            return
        found = which.arun_batch(rows, generator_style=True, on_error="keep", **self.options(rng))
        async for state in found:
            self.note(state.error())
            if rng.random() < 0.15:
                break
        await found.aclose()

    def _on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        self.wrong.append(context.get("exception") or RuntimeError(context["message"]))

    def run_generate(self, rng: random.Random) -> None:
        try:
            pieces = self.runtime.generate("one " * rng.randint(1, 20), {"max_new_tokens": 20}, stream=True)
            for _ in pieces:
                if rng.random() < 0.2:
                    break
        except Exception as error:
            self.note(error)

    def look(self, rng: random.Random) -> None:
        """Somebody else who looks at the engine in the middle of things."""
        for _ in range(10):
            time.sleep(rng.random() * 0.02)
            rng.choice(
                [self.runtime.check, self.runtime.get_server_info, self.runtime.draw, self.runtime.flush_cache]
            )()

    def collect_dropped(self, over: threading.Event) -> None:
        while not over.is_set() or not self.dropped.empty():
            with suppress(queue.Empty):
                self.dropped.get(timeout=0.01)  # gone at once, in this thread
                self.outcomes["collected elsewhere"] += 1
            gc.collect(0)

    def sing(self, expected: Any) -> None:
        """The canary, in the middle of it all."""
        for _ in range(3):
            try:
                found = canary.run(seed=11, backend=self.runtime).ret_value
            except Exception as error:
                self.note(error)
                continue
            assert found == expected, f"the canary said {found}, and {expected} at first"

    def play(self, expected: Any) -> None:
        rng = random.Random(self.seed)
        ways = [self.run_plain, self.run_streams, self.run_batches, self.run_loop, self.run_generate, self.look]
        chosen = rng.choices(ways, [4, 3, 4, 4, 1, 2], k=rng.randint(2, 6))
        over = threading.Event()
        work: list[Callable[[], Any]] = [partial(way, random.Random(rng.getrandbits(32))) for way in chosen]
        work.append(lambda: self.sing(expected))
        with faults(self.runtime, random.Random(rng.getrandbits(32)), rng.choice([0, 0, 0.003, 0.02])):
            threads = [threading.Thread(target=self._guarded, args=(each,)) for each in work]
            reaper = threading.Thread(target=self._guarded, args=(lambda: self.collect_dropped(over),))
            for thread in (*threads, reaper):
                thread.start()
            for thread in threads:
                thread.join()
            over.set()
            reaper.join()
        if self.wrong:
            raise self.wrong[0]

    def _guarded(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            self.wrong.append(error)


@contextmanager
def faults(runtime: Any, rng: random.Random, share: float) -> Iterator[None]:
    """The model's forward raises in this share of the steps."""
    model = runtime.engine.model
    forward = type(model).forward

    def sometimes(batch: Any) -> Any:
        if rng.random() < share:
            raise Fault("the device is on fire")
        return forward(model, batch)

    model.forward = sometimes
    try:
        yield
    finally:
        del model.forward


# -- the soak


def make(tight: bool) -> Any:
    runtime = sgl.Runtime.toy(max_total_tokens=POOL, chunked_prefill_size=64, max_running_requests=24)
    runtime.engine.grammars.budget = CacheBudget(KNOWN_BYTES)
    if tight:
        rush(runtime)
    return runtime


def quiet(runtimes: list[Any]) -> None:
    """Nobody runs: nothing is held, and nobody is left."""
    end = time.monotonic() + 20 * slowness()  # bodies whose programs were given up are still to come to their ends
    while True:
        gc.collect()
        for runtime in runtimes:
            runtime.check()
        idle = not any(runtime.engine.branches.attached or runtime.engine.branches.running for runtime in runtimes)
        if idle and not any(thread.name.startswith("sgl-") and "masks" not in thread.name for thread in alive()):
            break
        assert time.monotonic() < end, f"still there: {alive()}, {[r.get_server_info() for r in runtimes]}"
        time.sleep(0.02)
    for runtime in runtimes:
        engine = runtime.engine
        with engine.drive.held():
            assert not engine.step(), "there was something left to do"
        info = runtime.get_server_info()
        assert info["free_tokens"] + info["cached_tokens"] == info["max_total_tokens"], info
        assert not engine.branches.attached and not engine.branches.running, info
        assert not engine.branches.admission.line and not engine.branches.admission.admitted, (
            info,
            engine.branches.admission.admitted,
        )
        assert (
            not engine.branches.timed
            and not engine.branches.inbox
            and not engine.drive._sleepers
            and not engine.drive._coroutines
        )
        invariants.idle_and_whole(engine)
        runtime.flush_cache()
        assert runtime.get_server_info()["free_tokens"] == POOL
    assert len(alive()) <= THREADS, alive()


def alive() -> list[threading.Thread]:
    return threading.enumerate()


def resident() -> int:
    """Bytes of memory that this process holds; 0 where that is not known."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@contextmanager
def nothing_is_swallowed() -> Iterator[list[Any]]:
    """What threads and finalisers raised."""
    found: list[Any] = []
    outer = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda args: found.append((args.exc_value, args.object))
    threading.excepthook = lambda args: found.append((args.exc_value, args.thread))
    try:
        yield found
    finally:
        sys.unraisablehook, threading.excepthook = outer


def soak(seconds: float, seed: int, only: int | None = None, report: Any = 2) -> dict[str, int]:
    """Run rounds for `seconds` (or just round `only`), and give how often everything happened. Raises `Worst`; a round
    that hangs ends the process, with every thread's traceback on the file `report`."""
    runtimes = [make(tight=False), make(tight=True)]
    expected = canary.run(seed=11, backend=sgl.Runtime.toy()).ret_value
    outcomes: collections.Counter[str] = collections.Counter()
    objects: list[int] = []
    memory: list[int] = []
    end = looked = time.monotonic()
    end += seconds
    number = 0 if only is None else only
    with nothing_is_swallowed() as swallowed:
        while time.monotonic() < end and only in (None, number):
            faulthandler.dump_traceback_later(HANG * slowness(), exit=True, file=report)
            try:
                Round(runtimes[number % 2], f"{seed}:{number}", outcomes).play(expected)
                if time.monotonic() - looked > EVERY or only is not None:
                    quiet(runtimes)
                    objects.append(len(gc.get_objects()))
                    memory.append(resident())
                    looked = time.monotonic()
                assert not swallowed, swallowed
            except BaseException as error:
                raise Worst(f"repeat it with: python tests/test_soak.py --seed {seed} --round {number}") from error
            number += 1
        quiet(runtimes)
    faulthandler.cancel_dump_traceback_later()
    outcomes["preemptions"] = sum(runtime.get_server_info()["preemptions"] for runtime in runtimes)
    outcomes["rounds"] = number
    if only is None:
        flat("objects", objects, SLACK_OBJECTS)
        flat("bytes of memory", memory, SLACK_BYTES)
    return dict(outcomes)


def flat(what: str, seen: list[int], slack: int) -> None:
    """The last third is as the first (after one look, as caches fill)."""
    third = len(seen[1:]) // 3
    if third < 3:
        return
    first, last = statistics.median(seen[1 : 1 + third]), statistics.median(seen[-third:])
    assert last <= first * GROWTH + slack, f"{what} grew from {first:.0f} to {last:.0f}: {seen}"


@pytest.mark.slow
def test_soak(request: pytest.FixtureRequest) -> None:
    outcomes = soak(SECONDS, seed=2026, report=request.config.stash.get(fault_handler_stderr_fd_key, 2))
    for kind in (
        *("fine", "Boom", "Cancelled", "ProgramTimeout", "BudgetExceeded", "Fault", "CancelledError"),
        *("dropped unread", "collected elsewhere", "preemptions"),
    ):
        assert outcomes.get(kind, 0) > 3, f"{kind} hardly happened: {outcomes}"


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--seconds", type=float, default=SECONDS)
    asked.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked.add_argument("--round", type=int, default=None)
    given = asked.parse_args()
    print(f"seed {given.seed}", soak(given.seconds, given.seed, given.round), flush=True)
