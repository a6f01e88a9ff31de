"""A peer in a process of its own: calls as lines of JSON on its input, answers as lines of JSON on its output.

Knows nothing of what is measured. A peer is an object with

    open() -> dict          loads; versions and what else is to be told
    settings() -> list      the settings that may be its best, as dictionaries
    run(plans, setting)     carries plans out, its caches empty at first; `{"seconds", "generated", "texts"}`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

SPIN_TURNS = "10000"
"""How long OpenMP's threads spin at a barrier before they sleep: turns, some 0.3 ms (GNU OpenMP's own: 300,000). Longer
than the waits within a token. Two threads that spin longer get nowhere beside a busy process: 20 times slower."""


class PeerError(Exception):
    """A peer said that a call failed, ended, or did not answer in time."""


class Child:
    """The parent's end: starts `python FILE`, and calls the peer in it."""

    def __init__(self, python: Path, file: Path, log: Path) -> None:
        self._log = log
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("w")}
        environment = {"GOMP_SPINCOUNT": SPIN_TURNS, **os.environ}
        self._process = subprocess.Popen([python, file], **pipes, text=True, env=environment)

    def call(self, name: str, *args: Any, limit: float = 150) -> Any:
        """The peer's answer. Raises `PeerError`, after `limit` seconds at the latest."""
        assert self._process.stdin and self._process.stdout
        watch = threading.Timer(limit, self._process.kill)
        watch.start()
        try:
            self._process.stdin.write(json.dumps([name, *args]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise PeerError(f"ended, or took over {limit:.0f} s: {last[0][:200]}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["answer"]

    @property
    def process(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(peer: Any) -> None:
    """The child's end: answer calls until the input ends. What libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, *args = json.loads(line)
        try:
            answer = {"answer": getattr(peer, name)(*args)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    os._exit(0)  # threads of a library may not end
