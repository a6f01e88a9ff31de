"""What a busy neighbour costs: the same work with and without another process, for several spin counts.

    python benchmarks/threads.py

Runs a prompt of 512 tokens and a generation of 30 in child processes, with GNU OpenMP's default waiting, and with
`GOMP_SPINCOUNT` set, alone and beside one process that does matrix products on all cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

CHILD = """
import sys, time, sgl
runtime = sgl.Runtime(random_seed=0)
def seconds(prompt, n):
    runtime.flush_cache()
    start = time.perf_counter()
    runtime.generate(prompt, {"max_new_tokens": n, "temperature": 0, "ignore_eos": True})
    return time.perf_counter() - start
seconds("warm up", 3)
print(f"{seconds('word ' * 512, 1):6.2f} {seconds('hello', 30):6.2f}")
"""
NEIGHBOUR = "import torch\na = torch.rand(600, 600)\nwhile True: a @ a"
SETTINGS = {"default": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "passive"}}
SETTINGS |= {f"spin {n}": {"GOMP_SPINCOUNT": str(n)} for n in (1000, 4000, 50000)}


def measure(settings: dict[str, str]) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    env.update({k: v for k, v in settings.items() if v})
    try:
        return subprocess.run(
            [sys.executable, "-c", CHILD], env=env, capture_output=True, text=True, check=True, timeout=100
        ).stdout.strip()
    except subprocess.TimeoutExpired:
        return "   over 100"


def main() -> None:
    print("waiting      alone: prompt, decode (s)   beside a busy process")
    for name, settings in SETTINGS.items():
        alone = measure(settings)
        neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
        time.sleep(3)
        try:
            busy = measure(settings)
        finally:
            neighbour.kill()
            neighbour.wait()
        print(f"{name:<12} {alone:<27} {busy}")


if __name__ == "__main__":
    main()
