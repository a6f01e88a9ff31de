"""The README's programs and commands, as a new user would paste them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)


@pytest.mark.model
def test_the_programs_run_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("".join(code for kind, code in BLOCKS if kind == "python"))
    done = subprocess.run([sys.executable, "first.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and "reused" in done.stdout
    assert (tmp_path / "run.html").stat().st_size > 20_000 and (tmp_path / "poems.jsonl").read_text().count("\n") == 5
    assert "replay: 4 programs" in done.stdout and "all as recorded" in done.stdout and "fork x2" in done.stdout
    assert "({'a': 17, 'b': 25}, '42')" in done.stdout
    assert "/properties/kind" in done.stdout and "'engine': 'llguidance'" in done.stdout


@pytest.mark.model
def test_the_default_model_is_fetched_once() -> None:
    assert "sgl models pull smollm2-135m" in README
    command = [sys.executable, "-m", "sgl", "models", "pull", "smollm2-135m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and Path(done.stdout.strip()).is_file(), done.stderr


def test_the_first_screen_says_what_it_is_how_to_install_it_and_one_program() -> None:
    first_screen = "\n".join(README.splitlines()[:36])
    assert first_screen.index("pip install") < first_screen.index("@sgl.function") < first_screen.index(".run(")
    assert README.index("pip install") < README.index("make demo")


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    pages = [README, (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / "docs" / "install.md").read_text()]
    for text in pages:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.M)) <= targets
        for script in re.findall(r"python ((?:examples|benchmarks)/\w+\.py)", text):
            assert (ROOT / script).is_file(), script
        for path in re.findall(r"`((?:tests|benchmarks|examples|docs|backend)/[\w./]+\.\w+)`", text):
            assert (ROOT / path).is_file(), path


def test_the_command_line_says_what_the_documents_say() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    for command, word in [("models list", "smollm2-135m"), ("models pull --help", "NAME"), ("trace --help", "--html")]:
        assert f"sgl {command.removesuffix(' --help')}" in page
        done = subprocess.run(
            [sys.executable, "-m", "sgl", *command.split()], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and word in done.stdout, done.stderr


# -- what is installed
DRY_RUN = ["-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]


def test_installing_asks_for_no_other_torch(tmp_path: Path) -> None:
    """With a torch in place (in CI one without CUDA), the tested versions are what is there already."""
    done = subprocess.run(
        [sys.executable, *DRY_RUN, "-c", "constraints.txt", "."], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    would = " ".join(re.findall(r"Would install (.*)", done.stdout))
    assert would.split() in ([], ["sgl-0.1.0"]), would


def test_a_torch_without_cuda_has_one_option() -> None:
    """`TORCH=cpu` of the Makefile and the line in the documents are the same option of uv."""
    line = subprocess.run(
        ["make", "-n", "-B", "install", "TORCH=cpu"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--torch-backend=cpu -c constraints.txt" in line
    assert "uv pip install --torch-backend=cpu -c constraints.txt -e ." in (ROOT / "docs" / "install.md").read_text()


def test_the_tested_versions_are_within_what_the_package_asks_for() -> None:
    from packaging.requirements import Requirement
    from packaging.version import Version

    if sys.version_info < (3, 11):
        pytest.skip("reads pyproject.toml with tomllib")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    pinned: dict[str, list[Version]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("==")
            pinned.setdefault(name.replace("_", "-").lower(), []).append(Version(rest.partition(";")[0].strip()))
    for requirement in map(Requirement, asked):
        for version in pinned.get(requirement.name.replace("_", "-").lower(), []):
            assert version in requirement.specifier, f"{requirement} does not take {version}"
    lack = [r.name for r in map(Requirement, project["dependencies"]) if r.name.replace("_", "-").lower() not in pinned]
    assert not lack, lack
