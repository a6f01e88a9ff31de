"""Programs inside a web service: each request is a program, on the server's own event loop."""

from __future__ import annotations

import asyncio
import time

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import sgl
from sgl import Runtime


@sgl.function
async def chat(s, question):
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=12, ignore_eos=True))
    return await s["answer"]


@sgl.function
def plain(s, question):
    s += sgl.user(question) + sgl.assistant(sgl.gen("answer", max_tokens=12, ignore_eos=True))
    return s["answer"]


def service(runtime: Runtime) -> FastAPI:
    app = FastAPI()

    @app.get("/chat")
    async def _(question: str, seed: int = 1) -> dict[str, str]:
        return {"answer": (await chat.arun(question, seed=seed, backend=runtime)).ret_value}

    @app.get("/plain")
    async def _(question: str, seed: int = 1) -> dict[str, str]:
        return {"answer": (await plain.arun(question, seed=seed, backend=runtime)).ret_value}

    @app.get("/threaded")
    def _(question: str, seed: int = 1) -> dict[str, str]:
        return {"answer": plain.run(question, seed=seed, backend=runtime)["answer"]}

    @app.get("/stream")
    async def _(question: str, seed: int = 1) -> StreamingResponse:
        state = chat.run(question, seed=seed, stream=True, backend=runtime)
        return StreamingResponse(state.text_async_iter("answer"), media_type="text/plain")

    return app


def test_requests_are_programs():
    runtime = Runtime.toy()
    forward = runtime.engine.model.forward

    def slow(batch):
        time.sleep(0.005)
        return forward(batch)

    runtime.engine.model.forward = slow

    async def main():
        transport = httpx.ASGITransport(app=service(runtime))
        async with httpx.AsyncClient(transport=transport, base_url="http://sgl") as client:

            async def ask(route, i):
                return await client.get(route, params={"question": f"number {i}?", "seed": i})

            routes = ("/chat", "/plain", "/threaded", "/stream")
            replies = await asyncio.gather(*(ask(route, i) for i in range(8) for route in routes))
            alone = [
                plain.run(f"number {i}?", seed=i, backend=Runtime.toy())["answer"] for i in range(8)
            ]  # (a blocking call: nothing else is going on)
            for i in range(8):
                by_route = dict(zip(routes, replies[4 * i : 4 * i + 4]))
                assert all(reply.status_code == 200 for reply in by_route.values())
                assert by_route["/stream"].text == alone[i]
                assert {by_route[r].json()["answer"] for r in routes[:3]} == {alone[i]}

    asyncio.run(main())
    assert runtime.engine.steps < 32 * 12, "requests share steps"
    runtime.check()


def test_a_client_that_goes_away_frees_its_program():
    runtime = Runtime.toy()

    async def main():
        transport = httpx.ASGITransport(app=service(runtime))
        async with httpx.AsyncClient(transport=transport, base_url="http://sgl") as client:
            task = asyncio.create_task(client.get("/chat", params={"question": "x" * 100}))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    runtime.check()
    info = runtime.get_server_info()
    assert info["running"] == 0 and info["free_tokens"] + info["cached_tokens"] == info["max_total_tokens"]
