"""One client of another project against a server: `python python_clients.py CLIENT URL`. Prints one JSON object.

It runs in an environment without sgl.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pydantic import BaseModel, Field

QUESTION = "What is the capital of France? Answer in one sentence."
SUM = "What is 17 + 25? Call the tool add with these two numbers."


class Sum(BaseModel):
    """Two numbers to add."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


def langchain_openai(url: str) -> dict[str, Any]:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    told: dict[str, Any] = {}
    for name, responses in (("chat", False), ("responses", True)):
        model = ChatOpenAI(
            model="default", base_url=f"{url}/v1", api_key="none", temperature=0, max_retries=0,
            use_responses_api=responses,
        )  # fmt: skip
        bound = model.bind(max_tokens=24)
        told[f"{name} answer"] = _text(bound.invoke(QUESTION).content)
        told[f"{name} streamed"] = "".join(_text(part.content) for part in bound.stream(QUESTION))
        tools = model.bind_tools([Sum], tool_choice="required", parallel_tool_calls=False)
        called = tools.invoke(SUM)
        told[f"{name} call"] = called.tool_calls[0]["args"]
        result = ToolMessage("42", tool_call_id=called.tool_calls[0]["id"])
        told[f"{name} last"] = _text(bound.invoke([HumanMessage(SUM), called, result]).content)
        told[f"{name} typed"] = model.with_structured_output(Sum, method="json_schema").invoke(SUM).model_dump()
    return told


def langchain_anthropic(url: str) -> dict[str, Any]:
    from langchain_anthropic import ChatAnthropic

    model = ChatAnthropic(model="default", base_url=url, api_key="none", max_tokens=64, max_retries=0, temperature=0)
    called = model.bind_tools([Sum], tool_choice="any").invoke(SUM)
    return {
        "answer": _text(model.invoke(QUESTION).content),
        "streamed": "".join(_text(part.content) for part in model.stream(QUESTION)),
        "call": called.tool_calls[0]["args"],
    }


def litellm(url: str) -> dict[str, Any]:
    from litellm import completion

    told: dict[str, Any] = {}
    tools = [{"type": "function", "function": {"name": "add", "parameters": Sum.model_json_schema()}}]
    for model, base in (
        ("openai/default", f"{url}/v1"),
        ("anthropic/default", url),
        ("ollama_chat/default", url),
    ):
        asked: dict[str, Any] = {
            "model": model,
            "api_base": base,
            "api_key": "none",
            "max_tokens": 24,
            "temperature": 0,
        }
        messages = [{"role": "user", "content": QUESTION}]
        told[f"{model} answer"] = completion(messages=messages, **asked).choices[0].message.content
        parts = completion(messages=messages, stream=True, **asked)
        told[f"{model} streamed"] = "".join(part.choices[0].delta.content or "" for part in parts)
        if "ollama" not in model:
            called = completion(
                messages=[{"role": "user", "content": SUM}], tools=tools, tool_choice="required",
                **{**asked, "max_tokens": 200},
            )  # fmt: skip
            told[f"{model} call"] = json.loads(called.choices[0].message.tool_calls[0].function.arguments)
    return told


def instructor(url: str) -> dict[str, Any]:
    import instructor as package
    import openai

    told: dict[str, Any] = {}
    for mode in (package.Mode.TOOLS, package.Mode.JSON_SCHEMA):
        client = package.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), mode=mode)
        made = client.chat.completions.create(
            model="default", response_model=Sum, messages=[{"role": "user", "content": SUM}], max_retries=0,
            temperature=0,
        )  # fmt: skip
        told[f"{mode.value} call"] = made.model_dump()
    return told


def pydantic_ai(url: str) -> dict[str, Any]:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    told: dict[str, Any] = {}
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind("default", provider=provider)
        settings: Any = {"max_tokens": 200, "temperature": 0}
        told[f"{kind.__name__} answer"] = Agent(model, model_settings=settings).run_sync(QUESTION).output
        typed = Agent(model, output_type=NativeOutput(Sum), model_settings=settings, retries=0)
        told[f"{kind.__name__} typed"] = typed.run_sync(SUM).output.model_dump()
        tooled = Agent(model, output_type=Sum, model_settings=settings, retries=0)
        told[f"{kind.__name__} call"] = tooled.run_sync(SUM).output.model_dump()

        async def streamed(agent: Any) -> str:
            async with agent.run_stream(QUESTION) as run:
                return str(await run.get_output())

        told[f"{kind.__name__} streamed"] = asyncio.run(streamed(Agent(model, model_settings=settings)))
    return told


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))


if __name__ == "__main__":
    clients = [langchain_openai, langchain_anthropic, litellm, instructor, pydantic_ai]
    client = {each.__name__: each for each in clients}[sys.argv[1]]
    print(json.dumps(client(sys.argv[2])))
