"""A service in one process, in front of your own protocol.

A TCP server answers a line with the model's words, as they are written. Its programs are coroutines: requests that come
together go through the model together, and the event loop is free meanwhile. A client that leaves cancels its program.
A program that takes too long fails alone. The clients are in the same script and use real sockets.

Run: python examples/async_service.py [--clients 6]

Expect of a model of 135M parameters: right capitals. The clients are served side by side, so their times are alike.
For the protocols of OpenAI, Anthropic and Ollama there is `sgl serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import sgl

COUNTRIES = ["France", "Italy", "Japan", "Egypt", "Spain", "Norway"]
spent: list[sgl.Usage] = []


@sgl.function
async def reply(s: Any, question: str) -> None:
    s += sgl.system("You answer in a few words.")
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=24, stop="\n"))
    await s["answer"]


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, runtime: sgl.Runtime) -> None:
    question = (await reader.readline()).decode().strip()
    state = reply.run(question, stream=True, timeout=30, backend=runtime, temperature=0)
    try:
        async for piece in state.text_async_iter("answer"):
            writer.write(piece.encode())
            await writer.drain()
        spent.append(state.usage.total)
    except sgl.SglError as error:
        writer.write(f"error: {error}".encode())
    except ConnectionError:
        print("a client has left")
    finally:
        state.cancel()  # has no effect on a program that is finished
        writer.close()


async def ask(port: int, country: str) -> tuple[str, float]:
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"What is the capital of {country}?\n".encode())
    answer = (await reader.read()).decode()  # until the server closes
    writer.close()
    return answer, time.perf_counter() - began


async def serve_clients(clients: int, runtime: sgl.Runtime) -> None:
    server = await asyncio.start_server(lambda r, w: serve_one(r, w, runtime), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        countries = [COUNTRIES[i % len(COUNTRIES)] for i in range(clients)]
        began = time.perf_counter()
        answers = await asyncio.gather(*(ask(port, country) for country in countries))
        for country, (answer, seconds) in zip(countries, answers):
            print(f"{seconds:5.2f} s  {country}: {answer.strip()}")
        print(f"{clients} clients were served in {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=6, help="how many ask at once; default: 6")
    args = parser.parse_args()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        asyncio.run(serve_clients(args.clients, runtime))
    print(f"\n{sum(spent, sgl.Usage())}")


if __name__ == "__main__":
    main()
