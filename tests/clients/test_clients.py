"""Clients of other people, each in a process of its own, against one server on the embedded model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .server import ROOT, served

HERE = Path(__file__).parent
PYTHON = ROOT / "build" / "clients" / "bin" / "python"
NODE = ROOT / "build" / "clients-node"
pytestmark = [pytest.mark.clients, pytest.mark.model]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("--random-seed", "0") as here:
        yield here


def run(command: list[Any], **more: Any) -> dict[str, Any]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(told: dict[str, Any]) -> None:
    """What a client was told: an answer is right, a stream is not empty, and arguments are of the schema."""
    assert told
    for name, value in told.items():
        if name.endswith(("call", "typed")):
            assert value.keys() == {"a", "b"} and all(0 <= number <= 99 for number in value.values()), (name, value)
        elif name.endswith("answer"):
            assert "Paris" in value, (name, value)
        else:
            assert len(value) > 5, (name, value)


@pytest.mark.parametrize("client", ["langchain_openai", "langchain_anthropic", "litellm", "instructor", "pydantic_ai"])
def test_a_client_in_python(url: str, client: str) -> None:
    if not PYTHON.exists():
        pytest.skip("the clients are not installed (make test-clients)")
    check(run([PYTHON, HERE / "python_clients.py", client, url]))


def test_openais_client_in_javascript(url: str) -> None:
    if not (NODE / "node_modules" / "openai").exists() or shutil.which("node") is None:
        pytest.skip("the client is not installed (make test-clients)")
    shutil.copy(HERE / "openai.mjs", NODE / "openai.mjs")  # a module finds packages beside itself
    check(run(["node", NODE / "openai.mjs", url], env={**os.environ, "NODE_NO_WARNINGS": "1"}))
