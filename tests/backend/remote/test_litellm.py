"""`sgl.LiteLLM` over a small module that stands for the package, and over the package itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

import sgl

from .doubles import Reply, chat_events, served


class Busy(Exception):
    status_code = 503
    message = "busy"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with what `sgl.LiteLLM` uses of the package. `replies` are texts, or errors."""
    module: Any = ModuleType("litellm")
    module.calls, module.replies = [], []
    module.exceptions = ModuleType("litellm.exceptions")

    def chunk(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}

    async def stream(text: str) -> AsyncIterator[dict[str, Any]]:
        for character in text:
            yield chunk(character)
        yield chunk(None, "stop")
        yield {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(text)}}

    async def acompletion(**asked: Any) -> Any:
        module.calls.append(asked)
        reply = module.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return stream(reply)

    def supported(model: str) -> list[str]:
        return ["temperature", "stop", "max_tokens", "response_format", "stream"] if model == "full" else ["max_tokens"]

    module.acompletion, module.get_supported_openai_params = acompletion, supported
    monkeypatch.setitem(sys.modules, "litellm", module)
    return module


def program(**options: Any) -> Any:
    return sgl.function(lambda s: s.__iadd__(sgl.user("?") + sgl.assistant(sgl.gen("x", **options))))


def test_a_gen(package: Any) -> None:
    package.replies = ["Paris"]
    with sgl.LiteLLM("full", api_key="k", vertex_project="p") as backend:
        state = program(max_tokens=4, temperature=0.5).run(backend=backend, stream=True)
        assert "".join(state.text_iter("x")) == state["x"] == "Paris"
        assert state.usage.total.prompt == 5 and state.usage.total.generated == 5
    sent = package.calls[0]
    assert sent["messages"] == [{"role": "user", "content": "?"}] and sent["max_tokens"] == 4
    assert (sent["model"], sent["api_key"], sent["vertex_project"]) == ("full", "k", "p")
    assert sent["max_retries"] == 0 and sent["temperature"] == 0.5 and sent["stream"] is True


def test_what_a_model_takes_is_what_the_package_says(package: Any) -> None:
    poor = sgl.LiteLLM("poor")
    for options, words in (({"temperature": 0}, "temperature="), ({"dtype": int}, "regex"), ({"n": 2}, "n=")):
        with pytest.raises(sgl.CapabilityError, match=words):
            program(**options).run(backend=poor)
    with pytest.raises(sgl.CapabilityError, match="log-probabilities"):
        program(return_logprob=True).run(backend=sgl.LiteLLM("full"))
    package.replies = ["7"]
    assert program(dtype=int).run(backend=sgl.LiteLLM("poor", constrain="validate")).value("x") == 7
    package.replies = ['{"answer": "7"}']
    assert program(dtype=int).run(backend=sgl.LiteLLM("full")).value("x") == 7


def test_errors_are_asked_again(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl.backend.remote.failures.FIRST_WAIT", 0.01)
    package.replies = [Busy(), "ok"]
    assert program().run(backend=sgl.LiteLLM("full"))["x"] == "ok"
    package.replies = [Busy()]
    with pytest.raises(sgl.ServiceError, match=r"LiteLLM\(full\) failed with status 503: busy"):
        program().run(backend=sgl.LiteLLM("full", retries=0))["x"]


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(sgl.BackendError, match=r"pip install 'sgl\[litellm\]'"):
        sgl.LiteLLM("m")


@pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="the package litellm is not installed")
def test_the_package_itself() -> None:
    with served(Reply(chat_events(["Par", "is"]))) as double:
        backend = sgl.LiteLLM("openai/gpt-4o-mini", base_url=f"{double.url}/v1", api_key="k")
        assert program(max_tokens=4).run(backend=backend)["x"] == "Paris"
    assert double.asked[0].data["messages"] == [{"role": "user", "content": "?"}]
