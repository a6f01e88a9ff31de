"""A script ends with its own exit code, whatever is in flight: real child processes on the toy model.

`SGL_PYTHONS` names more interpreters (paths, separated by os.pathsep) that have the library's dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import asyncio, atexit, concurrent.futures, multiprocessing, os, signal, subprocess, sys, threading, time
import sgl

@sgl.function
def story(s, tokens=3500):
    s += "Once" + sgl.gen("a", max_tokens=tokens, ignore_eos=True)

@sgl.function
async def astory(s, tokens=3500):
    s += "Once" + sgl.gen("a", max_tokens=tokens, ignore_eos=True)
    await s["a"]

def child():
    assert story.run(5, backend=sgl.Runtime.toy())["a"]

if __name__ == "__main__":
    runtime = sgl.Runtime.toy()
    forward = runtime.engine.model.forward
    def slow(batch):
        time.sleep(0.002)
        return forward(batch)
    runtime.engine.model.forward = slow
    rows = [{"tokens": 3500}] * 3
"""

SITUATIONS: dict[str, tuple[str, int]] = {
    "a wait that timed out": (
        """
async def main():
    try:
        await asyncio.wait_for(astory.arun(backend=runtime), 0.1)
    except asyncio.TimeoutError:
        pass
asyncio.run(main())
sys.exit(3)
""",
        3,
    ),
    "a daemon thread that runs a gen": (
        """
threading.Thread(target=lambda: story.run(backend=runtime)["a"], daemon=True).start()
time.sleep(0.1)
""",
        0,
    ),
    "a generator of rows that was left": (
        """
states = story.run_batch([{"tokens": 5}, *rows], backend=runtime, generator_style=True)
next(states)
sys.exit(3)
""",
        3,
    ),
    "arun_batch that was cancelled": (
        """
async def main():
    task = asyncio.ensure_future(astory.arun_batch(rows, backend=runtime))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
asyncio.run(main())
1 / 0
""",
        1,
    ),
    "a batch in a pool of threads": (
        """
pool = concurrent.futures.ThreadPoolExecutor(2)
future = pool.submit(lambda: story.run_batch([{"tokens": 20}] * 3, backend=runtime))
sys.exit(3)
""",
        3,
    ),
    "a stream that is half read": (
        """
state = story.run(backend=runtime, stream=True)
pieces = state.text_iter("a")
next(pieces)
sys.exit(3)
""",
        3,
    ),
    "an async stream in a loop that has ended": (
        """
async def main():
    state = astory.run(backend=runtime, stream=True)
    async for piece in state.text_async_iter("a"):
        break
asyncio.run(main())
""",
        0,
    ),
    "fork and exec": (
        """
story.run(backend=runtime)
assert subprocess.run([sys.executable, "-c", "raise SystemExit(4)"]).returncode == 4
sys.exit(3)
""",
        3,
    ),
    "a spawned process": (
        """
process = multiprocessing.get_context("spawn").Process(target=child)
process.start(); process.join()
sys.exit(process.exitcode)
""",
        0,
    ),
    "an atexit handler that uses the runtime": (
        """
def last():
    try:
        story.run(5, backend=runtime)["a"]
    except sgl.BackendError:
        pass
atexit.register(last)
sys.exit(3)
""",
        3,
    ),
    "os._exit": ("story.run(backend=runtime, stream=True); time.sleep(0.05); os._exit(7)", 7),
    "sys.exit in a body": (
        """
@sgl.function
def leaves(s):
    s += "Once" + sgl.gen("a", max_tokens=3500, ignore_eos=True)
    sys.exit(3)
leaves.run(backend=runtime)
""",
        3,
    ),
    "sys.exit in an async body": (
        """
@sgl.function
async def leaves(s):
    s += "Once" + sgl.gen("a", max_tokens=3500, ignore_eos=True)
    sys.exit(3)
asyncio.run(leaves.arun(backend=runtime))
""",
        3,
    ),
    "SIGTERM": (
        """
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
story.run(backend=runtime)["a"]
""",
        -15,
    ),
    "Ctrl-C": (
        """
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
story.run(backend=runtime)["a"]
""",
        -2,
    ),
    "Ctrl-C in a batch": (
        """
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
story.run_batch(rows, backend=runtime, on_error="keep")
""",
        -2,
    ),
    "Ctrl-C in a loop": (
        """
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
asyncio.run(astory.arun_batch(rows, backend=runtime, on_error="keep"))
""",
        -2,
    ),
}
"""What a script does, and its exit code (a shell says 130 for the -2 of Ctrl-C)."""


def pythons() -> list[str]:
    return [sys.executable, *filter(None, os.environ.get("SGL_PYTHONS", "").split(os.pathsep))]


def ends(python: str, what: str, folder: Path) -> None:
    code, expected = SITUATIONS[what]
    script = folder / "script.py"
    script.write_text(BEGIN + "\n".join("    " + line for line in code.strip().splitlines()) + "\n")
    place = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([python, str(script)], timeout=120, capture_output=True, text=True, env=env)
    assert done.returncode == expected, done.stderr
    assert "terminate called" not in done.stderr and "Fatal Python error" not in done.stderr, done.stderr


@pytest.mark.parametrize("what", SITUATIONS)
def test_the_exit_code_is_the_scripts_own(what: str, tmp_path: Path) -> None:
    for python in pythons():
        ends(python, what, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("what", SITUATIONS)
def test_the_exit_code_twenty_times(what: str, tmp_path: Path) -> None:
    for python in pythons():
        for _ in range(20):
            ends(python, what, tmp_path)
