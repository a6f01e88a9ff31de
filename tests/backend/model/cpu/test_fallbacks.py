"""What the CPU's kernels do where something is wrong: with the compiler, the library, the cache, or the sizes."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sgl
from sgl.backend.runtime.model.cpu import choose, native, packed_weights
from sgl.backend.runtime.model.cpu.choose import quantised_model
from sgl.backend.runtime.model.cpu.packed_weights import PIECE_BYTES, PackedWeights, checksums, kept
from sgl.backend.runtime.model.llama.llama import Llama
from sgl.backend.runtime.model.load.build import build
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.lang.errors import OptionError

from ..test_build import save
from ..test_loader import save_gguf

ROOT = Path(sgl.__file__).parent


def has_library() -> bool:
    try:
        return bool(native.library())
    except native.MissingLibrary:
        return False


needs_library = pytest.mark.skipif(not has_library(), reason="the kernels were not built: no C++ compiler")


# -- the compiler
@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler"])
def test_an_installation_goes_on_without_a_compiler(compiler: str, tmp_path: Path) -> None:
    """`setup.py build_ext` with a compiler that fails, and with none: a warning, no library, no error."""
    pytest.importorskip("setuptools")
    work = tmp_path / "sgl"
    native_code = "backend/runtime/model/cpu/native"
    (work / native_code).parent.mkdir(parents=True)
    shutil.copytree(ROOT / native_code, work / native_code)
    shutil.copy(ROOT / "setup.py", work)
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "out", "--build-temp", "temp"]
    environment = {"PATH": "/usr/bin:/bin", "CC": compiler, "CXX": compiler}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(work.rglob("*.shared"))
    assert "failed" in done.stdout + done.stderr


# -- the library
@pytest.fixture
def library_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the library is looked for."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    monkeypatch.delenv(native.LIBRARY_VARIABLE, raising=False)
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def computed_by_torch(tmp_path: Path, caplog: pytest.LogCaptureFixture, **change: Any) -> str:
    """Build a small model with blocks asked for; what the log says of its being computed by torch."""
    folder = tmp_path / "model"
    folder.mkdir()
    with caplog.at_level(logging.WARNING, "sgl"):
        model, *_ = build(
            save(folder, **{"intermediate_size": 64, "head_dim": 32, **change}),
            device="cpu",
            dtype="auto",
            load_format="dummy",
            quantization="q8",
        )
    assert isinstance(model, Llama)
    (line,) = [record.getMessage() for record in caplog.records if "torch computes" in record.getMessage()]
    return line


def test_without_the_library_the_log_says_what_it_costs(
    library_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = computed_by_torch(tmp_path, caplog)
    assert "were not built" in line and "install a compiler" in line
    assert "seven times the time" in line and "times the memory" in line


def test_a_library_that_is_none_is_not_used(
    library_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (library_folder / "kernels.shared").write_bytes(b"\x7fELF of another machine")
    assert "cannot be loaded" in computed_by_torch(tmp_path, caplog)


@needs_library
def test_a_library_of_another_version_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    try:
        assert "of another version of sgl" in computed_by_torch(tmp_path, caplog)
    finally:
        native.library.cache_clear()


@needs_library
@pytest.mark.parametrize("asked", ["avx512", "avxvnni", "avx2", "neon", "portable"])
def test_a_level_is_used_or_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without AVX2 computes in portable code; a level that it lacks is never carried out."""
    monkeypatch.setenv(native.LEVEL_VARIABLE, asked)
    there = native.LEVELS.index(asked)
    if native.library().sgl_has_level(there):
        assert native.level() == there
    else:
        with pytest.raises(OptionError, match=r"it has portable"):
            native.level()
    assert native.library().sgl_has_level(0) and not native.library().sgl_has_level(99)


# -- sizes
@pytest.mark.parametrize(
    "change, said",
    [
        ({"hidden_size": 36, "num_attention_heads": 4, "head_dim": 32}, "hidden_size 36"),
        ({"hidden_size": 320, "num_attention_heads": 4, "head_dim": 80}, "head_dim 80"),
    ],
)
@needs_library
def test_sizes_that_no_kernel_takes_are_computed_by_torch(
    change: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert said in computed_by_torch(tmp_path, caplog, **change)


# -- the cache
def weights(seed: int = 0, size: int = 1 << 10) -> PackedWeights:
    rng = np.random.default_rng(seed)
    arrays = {"norm": rng.standard_normal(32).astype(np.float32), "head": rng.integers(0, 256, size, dtype=np.uint8)}
    return PackedWeights("auto", arrays, {"head": (16, size // 16, 3)})


def same(left: PackedWeights, right: PackedWeights) -> bool:
    return all(np.array_equal(left.arrays[name], array) for name, array in right.arrays.items())


@pytest.mark.parametrize("bit", [0, 12345, (PIECE_BYTES + 77) * 8 + 3, (PIECE_BYTES + (1 << 20)) * 8 - 1])
def test_one_bit_of_the_cached_weights_is_seen(bit: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = weights(size=PIECE_BYTES + (1 << 20))
    kept(tmp_path, lambda: made)
    file = tmp_path / "weights.bin"
    with file.open("r+b") as stream:
        stream.seek(bit // 8)
        (byte,) = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))
    with caplog.at_level(logging.WARNING, "sgl"):
        assert same(kept(tmp_path, lambda: made), made)
    assert "packing again" in caplog.text
    assert same(kept(tmp_path, lambda: pytest.fail("made again")), made)


def test_any_change_of_what_is_said_of_the_weights_is_seen(tmp_path: Path) -> None:
    """The kernels believe the sizes: a wrong one would have them read elsewhere."""
    made, meta = weights(), tmp_path / "meta.json"
    kept(tmp_path, lambda: made)
    text = meta.read_text()
    for at in [i for i, character in enumerate(text) if character.isdigit()]:
        meta.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
        assert packed_weights._read(tmp_path) is None, text[:at]
    meta.write_text(text)
    assert packed_weights._read(tmp_path) is not None


def test_checksums_are_of_every_piece(tmp_path: Path) -> None:
    file = tmp_path / "f"
    for size in (0, 1, PIECE_BYTES, PIECE_BYTES + 1):
        file.write_bytes(bytes(size))
        assert checksums(file)[0] == size and len(checksums(file)) == 1 + -(-size // PIECE_BYTES)


@pytest.mark.parametrize("trouble", ["a file where the folder should be", "full disk"])
def test_a_cache_that_takes_nothing_costs_the_next_start_alone(
    trouble: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = weights()
    if trouble == "full disk":

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(packed_weights, "replace_file", full)
    else:
        (tmp_path / "entry").write_text("here")
    with caplog.at_level(logging.WARNING, "sgl"):
        assert kept(tmp_path / "entry", lambda: made) is made
    assert "could not be cached" in caplog.text


def test_a_disk_that_fills_while_weights_are_written_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the system on the size of a file, in a process of its own."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from sgl.backend.runtime.model.cpu.packed_weights import PackedWeights, kept\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "made = PackedWeights('auto', {'head': np.zeros(100_000, np.uint8)}, {'head': (16, 6250, 3)})\n"
        "assert kept(Path(sys.argv[1]), lambda: made) is made\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_library
def test_processes_that_pack_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    save_gguf(tmp_path / "m.gguf", choose_type("Q4_1"))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sgl.backend.runtime.model.load.loader import load_checkpoint\n"
        "from sgl.backend.runtime.model.cpu.choose import quantised_model\n"
        "folder = Path(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(5):\n"
        "    model = quantised_model(load_checkpoint(folder / 'm.gguf', 'auto', folder), 'auto', folder)\n"
        "    print(sum(int(array.astype('f8').sum()) for array in model._weights.arrays.values()), flush=True)\n"
        "    for file in (folder / 'packed').rglob('meta.json'):\n"
        "        file.unlink(missing_ok=True)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    sums = {line for process in processes for line in process.communicate(timeout=90)[0].split()}
    assert all(process.returncode == 0 for process in processes) and len(sums) == 1
    assert quantised_model(load_checkpoint(tmp_path / "m.gguf", "auto", tmp_path), "auto", tmp_path) is not None
    left = [file for file in (tmp_path / "packed").rglob("*") if file.is_file()]
    assert {file.name for file in left} == {"weights.bin", "meta.json"}


def choose_type(name: str) -> Any:
    import gguf

    return gguf.GGMLQuantizationType[name]


@needs_library
def test_an_entry_of_another_format_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = weights()
    kept(tmp_path, lambda: made)
    monkeypatch.setattr(packed_weights, "FORMAT", packed_weights.FORMAT + 1)
    with caplog.at_level(logging.WARNING, "sgl"):
        assert same(kept(tmp_path, lambda: made), made)
    assert "another version" in caplog.text
    assert json.loads((tmp_path / "meta.json").read_text())["format"] == packed_weights.FORMAT


# -- the start
@needs_library
def test_a_start_with_blocks_imports_no_torch(tmp_path: Path) -> None:
    """Its import takes longer than the rest of the start; floats are neither made nor cached."""
    if not choose_no_gpu():
        pytest.skip("a GPU: torch decides")
    save_gguf(tmp_path / "m.gguf", choose_type("Q4_1"))
    code = (
        "import sys\n"
        "import sgl\n"
        "with sgl.Runtime(sys.argv[1], max_total_tokens=200) as runtime:\n"
        "    runtime.generate('he 12', {'max_new_tokens': 4, 'ignore_eos': True})\n"
        "assert not {'torch', 'transformers', 'safetensors'} & sys.modules.keys()\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ":".join(sys.path)}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "m.gguf")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert names == {"meta.json", "tokenizer.json", "weights.bin"}


def choose_no_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def test_the_log_line_of_floats_is_no_warning_on_a_gpu() -> None:
    assert choose.quantization_of("auto", True, None, "auto") == "auto"
