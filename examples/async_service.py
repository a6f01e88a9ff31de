"""A service in one process: `python examples/async_service.py --clients 16`.

A TCP server answers one line with the model's words, as they are written. The programs are coroutines: requests that
come together go through the model together, and the event loop is free meanwhile. A client that leaves cancels its
program, and a program that takes too long fails alone. The clients here are in the same script and use real sockets.
(`sgl serve` speaks OpenAI's protocol; this shows how to put programs behind your own.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from common import session

import sgl

USAGE: list[sgl.Usage] = []


@sgl.function
async def reply(s: Any, question: str) -> None:
    s += sgl.system("You answer in a few words.")
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=24, stop="\n"))
    await s["answer"]


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    state = None
    try:
        question = (await reader.readline()).decode().strip()
        state = reply.run(question, stream=True, timeout=30, temperature=0)
        async for piece in state.text_async_iter("answer"):
            writer.write(piece.encode())
            await writer.drain()
        USAGE.append(state.usage.total)
    except sgl.SglError as error:
        writer.write(f"error: {error}".encode())
    except ConnectionError:
        print("a client has left")
    finally:
        if state is not None:
            state.cancel()  # without effect on a program that is finished
        writer.close()


async def client(port: int, country: str) -> tuple[str, float]:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"What is the capital of {country}?\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer, time.perf_counter() - began


async def everything(clients: int) -> None:
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        countries = [("France", "Italy", "Japan", "Egypt", "Spain", "Norway")[i % 6] for i in range(clients)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(client(port, country) for country in countries))
        for country, (answer, seconds) in zip(countries, answers):
            print(f"{seconds:5.2f} s  {country}: {answer.strip()}")
        print(f"{clients} clients were served in {time.perf_counter() - began:.2f} s")


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, clients=6) as args:
        asyncio.run(everything(args.clients))
        print(f"\n{sum(USAGE, sgl.Usage())}")


if __name__ == "__main__":
    main()
