"""The README's programs, as a new user would paste them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.model
def test_the_programs_run_one_after_the_other(tmp_path: Path) -> None:
    first, constrained, many = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    (tmp_path / "first.py").write_text(first + constrained + many)
    done = subprocess.run([sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and "reused" in done.stdout
    assert (tmp_path / "run.html").stat().st_size > 20_000 and (tmp_path / "poems.jsonl").read_text().count("\n") == 5
    assert "replay: 4 programs" in done.stdout and "all as recorded" in done.stdout and "fork x2" in done.stdout
    assert "/properties/kind" in done.stdout and "'engine': 'llguidance'" in done.stdout


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
    for script in re.findall(r"python ((?:examples|benchmarks)/\w+\.py)", README):
        assert (ROOT / script).is_file(), script
