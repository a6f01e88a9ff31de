"""What machine this is, and how fast its memory is read. Knows nothing of models."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
SECONDS = 1.0


def about() -> dict[str, Any]:
    """The processor by name, its cores for this process, and those of its flags that kernels choose by."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", text)
    has = set((re.search(r"flags\s*: (.*)", text) or re.match("()", "") or [""])[1].split())  # type: ignore[index]
    listed = subprocess.run(["lscpu"], capture_output=True, text=True).stdout if text else ""
    caches = re.findall(r"^(L[123]d?) cache:\s*(.*?)(?: \(|$)", listed, re.M)
    return {
        "processor": name[1] if name else platform.processor(),
        "model": (re.search(r"^model\s*: (\d+)", text, re.M) or ["", "?"])[1],
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if flag in has],
        "caches": dict(caches),
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }


def bandwidth(megabytes: tuple[int, ...] = (96, 1024)) -> dict[str, float]:
    """GB/s of reading a buffer again and again, by "MB, threads"; the best pass of each. Nothing is written."""
    most, found = torch.get_num_threads(), {}
    for size in megabytes:
        buffer = torch.ones(size * 250_000, dtype=torch.float32)
        for threads in sorted({1, most}):
            torch.set_num_threads(threads)
            best, end = float("inf"), time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                start = time.perf_counter()
                buffer.sum()
                best = min(best, time.perf_counter() - start)
            found[f"{size} MB, {threads}"] = size / 1e3 / best
    torch.set_num_threads(most)
    return found


def busy() -> float:
    """Seconds of all cores' work so far, by all processes, and by other machines on the same cores; 0 if not told."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def worked(process: int) -> float:
    """Seconds of the work of a process so far, all its threads; 0 if not told."""
    file = Path(f"/proc/{process}/stat")
    if not file.exists():
        return 0.0
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
