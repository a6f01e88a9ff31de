"""The package as a user gets it: a wheel, installed in a fresh environment, every module imported."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

IMPORT_ALL = """
import importlib, pkgutil, sgl
names = [m.name for m in pkgutil.walk_packages(sgl.__path__, "sgl.") if m.name != "sgl.__main__"]
for name in names:
    importlib.import_module(name)
print(sgl.__file__, len(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy: building leaves traces in the tree
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_module_and_nothing_else(wheel: Path) -> None:
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    rooms = [ROOT / "lang", ROOT / "interpreter", ROOT / "backend"]
    modules = [p for room in rooms for p in room.rglob("*.py")] + [p for p in ROOT.glob("*.py") if p.name != "setup.py"]
    data = [
        ROOT / "interpreter/trace/page.html",
        ROOT / "backend/server/page/page.html",
        ROOT / "py.typed",
        ROOT / "backend/runtime/model/llama/tuned_h200.json",
        *(ROOT / "backend/runtime/model/cpu/native").iterdir(),
        *(ROOT / "backend/runtime/draft/eagle/smollm2-135m").iterdir(),
    ]
    packed -= {"sgl/backend/runtime/model/cpu/kernels.shared"}  # built where there is a compiler
    assert packed == {"sgl/" + str(p.relative_to(ROOT)) for p in [*modules, *data]}


def test_every_module_imports_from_the_wheel_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    (site / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # not sgl: it is installed there by a hook
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    done = subprocess.run([python, "-I", "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    where, count = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path) and int(count) > 50


def test_importing_sgl_is_light() -> None:
    code = "import sys, sgl; print([m for m in ('torch', 'transformers', 'xgrammar', 'numpy.ma') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("lang", r"\.\.(backend|interpreter)|sgl\.(backend|interpreter)|\btorch\b|\bthreading\b"),
        ("backend", r"\.(interpreter)\b|sgl\.interpreter"),
        ("interpreter", r"\.runtime\b|\btorch\b|\btransformers\b"),
    ],
)
def test_imports_point_one_way(room: str, forbidden: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.match(r"\s*(from|import)\b", line):
                assert not re.search(forbidden, line), f"{path.relative_to(ROOT)}: {line.strip()}"


def test_no_file_outgrows_a_readers_patience() -> None:
    for room in ("lang", "interpreter", "backend"):
        for path in (ROOT / room).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 450, f"{path.relative_to(ROOT)} is too long for one idea"
