"""The gate: for any order of arrivals and ends, what runs alone is alone, and nobody waits for ever."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.interpreter.agent.gate import Gate

WORK = st.tuples(st.booleans(), st.integers(0, 3), st.booleans())  # alone, turns of the loop, cancelled early


@settings(max_examples=200, deadline=None)
@given(st.lists(WORK, max_size=12), st.integers(1, 3), st.integers(0, 4))
def test_any_order(works: list[tuple[bool, int, bool]], most: int, cancel_after: int) -> None:
    running: list[int] = []
    began: list[int] = []

    async def work(gate: Gate, i: int, alone: bool, turns: int) -> None:
        async with gate.place(alone):
            running.append(i)
            began.append(i)
            try:
                for _ in range(turns):
                    assert len(running) <= most
                    assert running == [i] if alone else not any(works[j][0] for j in running)
                    await asyncio.sleep(0)
            finally:
                running.remove(i)

    async def all_of_them() -> None:
        gate = Gate(most)
        tasks = [asyncio.create_task(work(gate, i, alone, turns)) for i, (alone, turns, _) in enumerate(works)]
        for _ in range(cancel_after):
            await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, works):
            if cancelled:
                task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        async with gate.place(True):  # every place was given back
            pass

    asyncio.run(all_of_them())
    assert began == sorted(began)
    assert {i for i, (_, _, cancelled) in enumerate(works) if not cancelled} <= set(began)
