"""Coding agents finish a turn with a tool: they run a command that the model calls for, and read what it then says.

The model follows a script (`scripted.py`); the agents and the server are the real ones. Each agent has a home of its
own, and asks nobody but this server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .scripted import FINAL
from .server import ROOT

BIN = ROOT / "build" / "clients-node" / "node_modules" / ".bin"
TOOLS = "exec_command,shell,shell_command,Bash,bash"
pytestmark = pytest.mark.clients


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """The URL of a scripted server, a folder with a file to read, and what the server saw."""
    folder, log = tmp_path / "work", tmp_path / "seen.log"
    folder.mkdir()
    (folder / "secret.txt").write_text("The secret fruit is a pear.\n")
    with log.open("w") as seen:
        command = [sys.executable, "-m", "sgl.tests.clients.scripted", TOOLS, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=seen, text=True)
        try:
            assert process.stdout is not None
            url = next(found[1] for line in process.stdout if (found := re.match(r"serving at (\S+)", line)))
            yield url, folder, log
        finally:
            process.terminate()
            process.wait(60)


def run(command: list[str], folder: Path, **more: str) -> str:
    """Run an agent in a home of its own; what it printed."""
    name = command[0]
    if not (BIN / name).exists():
        pytest.skip(f"{name} is not installed (make test-clients)")
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    done = subprocess.run(
        [str(BIN / name), *command[1:]], cwd=folder, env={**kept, "HOME": str(home), **more},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def check(said: str, log: Path) -> None:
    """The agent ran the command, sent its result back, and showed the model's last message."""
    seen = log.read_text(errors="replace")
    assert "CALL " in seen
    assert re.search(r"RESULT .*The secret fruit is a pear", seen)
    assert FINAL in said


def test_codex(served: tuple[str, Path, Path]) -> None:
    url, folder, log = served
    home = folder.parent / "home" / ".codex"
    home.mkdir(parents=True)
    (home / "config.toml").write_text(
        f"""
model = "scripted"
model_provider = "sgl"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.sgl]
name = "sgl"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "SGL_KEY"
"""
    )
    ask = ["codex", "exec", "--skip-git-repo-check", "What does secret.txt say?"]
    check(run(ask, folder, CODEX_HOME=str(home), SGL_KEY="none"), log)


def test_claude_code(served: tuple[str, Path, Path]) -> None:
    url, folder, log = served
    said = run(
        ["claude", "-p", "What does secret.txt say?", "--allowedTools", "Bash"],
        folder,
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_API_KEY="none",
        ANTHROPIC_MODEL="scripted",
        DISABLE_AUTOUPDATER="1",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    check(said, log)


def test_opencode(served: tuple[str, Path, Path]) -> None:
    url, folder, log = served
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": "none"},
        "models": {"scripted": {"name": "scripted"}},
    }
    config = {"model": "sgl/scripted", "small_model": "sgl/scripted", "autoupdate": False, "share": "disabled"}
    (folder / "opencode.json").write_text(json.dumps({**config, "provider": {"sgl": provider}}))
    said = run(["opencode", "run", "What does secret.txt say?"], folder, OPENCODE_DISABLE_MODELS_FETCH="1")
    check(said, log)
