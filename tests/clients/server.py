"""`sgl serve` in a process of its own, on a free port."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def served(*flags: str) -> Iterator[str]:
    """The URL of a server that runs while the block does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sgl", "serve", "--port", "0", *flags], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"serving at (\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.terminate()
        assert process.wait(60) == 0
