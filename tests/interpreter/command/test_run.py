"""`sgl run`: the program of a file, once or over rows, with data on stdout and the rest on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sgl
from sgl.cli import main
from sgl.interpreter.command import run

PROGRAMS = """
import sgl

@sgl.function
def qa(s, question: str, n: int = 4):
    s += question + sgl.gen("answer", max_tokens=n, temperature=0)
    if question == "bad":
        raise ValueError("no such question")
    return {"asked": question}
"""
MORE = """
@sgl.function
async def later(s, question: str):
    s += question + sgl.gen("answer", max_tokens=3)
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_backend", lambda args: sgl.Runtime.toy())


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "asks.py"
    file.write_text(PROGRAMS)
    return file


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_one_run_prints_its_text(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(program), "--arg", "question=Why?", "--arg", "n=6"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("Why?") and len(told.out) > len("Why?\n")
    assert "qa" in told.err and "generated" in told.err


def test_one_run_writes_its_data(program: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert main(["run", f"{program}:qa", "--arg", "question=Why?", "--output", str(output)]) == 0
    (found,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert found["value"] == {"asked": "Why?"} and found["error"] is None
    assert found["text"] == "Why?" + found["variables"]["answer"]


def test_rows_are_lines_and_a_failed_one_is_told(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_file(tmp_path, [{"question": "a"}, {"question": "bad"}, {"question": "c"}, {"quest": "d"}])
    assert main(["run", str(program), "--rows", rows, "--arg", "n=2"]) == 1
    told = capsys.readouterr()
    found = [json.loads(line) for line in told.out.splitlines()]
    assert [line["row"] for line in found] == [0, 1, 2, 3]
    assert [line["error"] for line in found[:3]] == [None, "ValueError: no such question", None]
    assert "quest" in found[3]["error"]
    assert "2 of 4 rows failed; the first is row 1" in told.err


def test_finished_rows_are_not_run_again(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, journal = rows_file(tmp_path, [{"question": "a"}, {"question": "b"}]), str(tmp_path / "rows.journal")
    assert main(["run", str(program), "--rows", rows, "--resume", journal]) == 0
    first = capsys.readouterr().out
    size = Path(journal).stat().st_size
    assert main(["run", str(program), "--rows", rows, "--resume", journal]) == 0
    assert capsys.readouterr().out == first and Path(journal).stat().st_size == size


def test_an_async_program_runs(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.write_text(PROGRAMS + MORE)
    assert main(["run", f"{program}:later", "--arg", "question=Why?"]) == 0
    assert capsys.readouterr().out.startswith("Why?")
    rows = rows_file(tmp_path, [{"question": "a"}])
    assert main(["run", f"{program}:later", "--rows", rows]) == 0
    assert json.loads(capsys.readouterr().out)["variables"].keys() == {"answer"}


def test_what_is_wrong_is_one_line(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both.py"
    both.write_text(PROGRAMS + MORE)
    none = tmp_path / "none.py"
    none.write_text("import sgl\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    rows = rows_file(tmp_path, [{"question": "a"}])
    for argv, says in (
        ([str(both)], "has the programs qa, later; write"),
        ([str(none)], "has no @sgl.function"),
        ([f"{program}:qaa"], "did you mean 'qa'"),
        ([str(broken)], "cannot be imported"),
        ([str(tmp_path / "gone.py")], "no such file"),
        ([str(program), "--arg", "question"], "write NAME=VALUE"),
        ([str(program), "--resume", "x"], "--resume is for --rows"),
        ([str(program), "--rows", str(tmp_path / "gone.jsonl")], "cannot be read"),
        ([str(program), "--rows", rows, "--output", str(tmp_path)], "cannot be written"),
        ([str(program)], "question"),
    ):
        assert main(["run", *argv]) == 1
        told = capsys.readouterr()
        assert says in told.err and len(told.err.splitlines()) == 1, told.err


def test_options_of_a_model_and_a_server_do_not_mix(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert main(["run", str(program), "--server", "http://127.0.0.1:9", "--device", "cpu"]) == 1
    assert main(["run", str(program), "--server", "http://127.0.0.1:9", "--arg", "question=a"]) == 1
