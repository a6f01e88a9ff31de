"""Many requests to one server: when each is sent. Knows nothing of what they say."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from .client import BenchClient, Timed
from .prompts import BenchRequest


async def drive(
    client: BenchClient,
    requests: Sequence[BenchRequest],
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    ended: Callable[[Timed], None] = lambda timed: None,
) -> tuple[list[Timed], float]:
    """Send all requests.

    Args:
        client: To the server.
        requests: Sent in this order.
        concurrency: So many are under way at a time, at most. None: no bound.
        rate: Requests a second, at random times (a Poisson process: the gaps are exponential). None: as early as
            `concurrency` lets them.
        temperature: Of the sampling.
        seed: Of the times.
        ended: Told each request when it has ended.

    Returns:
        The requests as they went, in their order, and the seconds from the first one's start to the last one's end.
    """
    dice = random.Random(seed)
    room = asyncio.Semaphore(concurrency or len(requests) or 1)
    began = time.perf_counter()

    async def one(request: BenchRequest) -> Timed:
        try:
            timed = await client.send(request, temperature)
        finally:
            room.release()
        ended(timed)
        return timed

    tasks = []
    due = began
    try:
        for request in requests:
            if rate is not None:
                due += dice.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await room.acquire()
            tasks.append(asyncio.create_task(one(request)))
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return list(found), time.perf_counter() - began
