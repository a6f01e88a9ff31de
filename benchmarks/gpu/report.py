"""What the figures are compared with, and how they are shown.

Owns: SGLang's times and the issue's targets; the machine's description; tables as Markdown.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

SGLANG: dict[str, dict[str, float]] = {
    "one_stream": {"8b": 1.33, "0.6b": 0.43},
    "few_shot": {"8b": 2.28, "0.6b": 1.33},
    "multiple_choice": {"8b": 3.94, "0.6b": 4.76},
    "endings": {"8b": 0.81, "0.6b": 0.81},
    "tree_of_thought": {"8b": 2.22, "0.6b": 1.66},
    "skeleton": {"8b": 1.31, "0.6b": 0.62},
    "judge": {"8b": 3.04, "0.6b": 1.72},
    "regex_record": {"8b": 1.38, "0.6b": 0.78},
    "schema_record": {"8b": 1.39, "0.6b": 0.65},
    "chat": {"8b": 1.32, "0.6b": 0.73},
    "agent": {"8b": 6.18, "0.6b": 6.70},
}
"""Seconds of SGLang 0.5.14 on one H200, bf16, random weights, 64 in flight, cold cache, best of two. (Two of its
endings failed.)"""
TARGETS: dict[str, dict[str, float]] = {
    "one_stream": {"8b": 1.02, "0.6b": 0.30},
    "few_shot": {"8b": 1.1, "0.6b": 0.45},
    "multiple_choice": {"8b": 0.5, "0.6b": 0.25},
    "endings": {"8b": 0.35, "0.6b": 0.15},
    "tree_of_thought": {"8b": 1.0, "0.6b": 0.5},
    "skeleton": {"8b": 0.9, "0.6b": 0.35},
    "judge": {"8b": 1.1, "0.6b": 0.45},
    "regex_record": {"8b": 0.6, "0.6b": 0.3},
    "schema_record": {"8b": 0.6, "0.6b": 0.3},
    "chat": {"8b": 0.95, "0.6b": 0.35},
    "agent": {"8b": 1.2, "0.6b": 0.6},
}
"""Seconds at most, on the same card."""
SGLANG_RAW: dict[tuple[int, int, int], dict[str, float]] = {
    (1, 128, 256): {"8b": 195, "0.6b": 596},
    (8, 128, 256): {"8b": 1429, "0.6b": 4808},
    (32, 512, 256): {"8b": 4242, "0.6b": 13449},
    (128, 512, 256): {"8b": 8358, "0.6b": 26544},
    (256, 512, 256): {"8b": 9754, "0.6b": 32185},
    (512, 1024, 128): {"8b": 35086, "0.6b": 150786},
}
"""(batch, tokens in, tokens out): output tokens a second of SGLang's `Engine.generate`; of the last, all tokens."""
RAW_TARGET = 1.15
"""Times SGLang's rate, at least."""
_PACKAGES = ("torch", "triton", "flashinfer-python", "transformers", "llguidance", "xgrammar")


def about() -> dict[str, str]:
    """Date, command, machine and versions."""
    found = {"date": date.today().isoformat(), "command": " ".join(["python", *sys.argv])}
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def show_about() -> None:
    print("; ".join(f"{name} {value}" for name, value in about().items()))


def table(title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A Markdown table, its first column to the left."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|---|{'--:|' * (len(head) - 1)}")
    for cells in lines:
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def ratio(ours: float, theirs: float | None) -> str:
    """How many times theirs ours is; nothing where there is nothing to compare with."""
    return "" if theirs is None or ours <= 0 else f"{theirs / ours:.2f}"


def cell(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def save(file: Path | None, lines: Sequence[Any]) -> None:
    """The figures as JSON, with what they are of."""
    if file is not None:
        file.write_text(json.dumps({"about": about(), "lines": lines}, indent=1), encoding="utf-8")
