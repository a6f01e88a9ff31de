"""`sgl bench speculative`: on a tiny Llama from the command line to what is printed, and what is refused."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

import sgl
from sgl.backend.bench.report import answer, table
from sgl.backend.bench.sweep import WITHOUT, Measured, Setting, choose, settings_of
from sgl.cli import main
from sgl.lang.errors import OptionError

from ..draft.tiny_llama import save_tiny

PROGRAM = """
import sgl

@sgl.function
def twice(s, word, times=2):
    for i in range(times):
        s += f"{word}: " + sgl.gen(f"text{i}", max_tokens=12, temperature=0, ignore_eos=True)

def plain(s):
    pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), num_hidden_layers=2)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    lines: list[Any] = [
        {"prompt": "Say it again and again"},
        {"messages": [{"role": "user", "content": "Say: abc abc"}]},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "rows.jsonl").write_text('{"word": "one"}\n\n{"word": "two", "times": 1}\n{"word": "three"}\n')
    return tmp_path / "mine.py"


def bench(*arguments: Any) -> int:
    return main(["bench", "speculative", *map(str, arguments), "--device", "cpu", "--max-total-tokens", "1000"])


def evaluated(line: str) -> sgl.Runtime:
    runtime = eval(line.strip(), {"sgl": sgl})
    assert isinstance(runtime, sgl.Runtime)
    return runtime


# -- from end to end
def test_prompts_are_measured_and_the_answer_can_be_pasted(
    folder: Path, prompts: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out.json"
    asked = ("--drafter", "NGRAM", "STANDALONE", "--draft-model", folder, "--steps", 3, "--draft-tokens", 8, 16)
    code = bench(
        "--model", folder, "--prompts", prompts, "--batch", 1, 2, "--repeats", 2, "--max-tokens", 20, *asked,
        "--json", out, "--raw",
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    rows = [line for line in said.out.splitlines() if line.startswith("|")][2:]
    names = ["none", "NGRAM, 8 tokens", "NGRAM, 16 tokens", "STANDALONE, 3 steps"]
    assert [row.split("|")[1].strip() for row in rows] == names * 2
    assert all("4 of 4" in row for row in rows)  # the texts do not change
    calls = [line for line in said.out.splitlines() if line.startswith("    sgl.Runtime(")]
    assert len(calls) == 2 and "batch 1: " in said.out and "batch 2: " in said.out
    with evaluated(calls[0]) as runtime:
        assert runtime.model_name == folder.name
    data = json.loads(out.read_text())
    assert [each["batch"] for each in data["best"]] == [1, 2] and len(data["measured"]) == 8
    for each in data["measured"]:
        assert len(each["tokens_a_second"]) == len(each["ratios"]) == 2 and min(each["tokens_a_second"]) > 0
        assert each["equal_texts"] == each["texts"] == 4
        if each["drafter"] == "none":
            assert each["ratios"] == [1.0, 1.0] and not each["drafted"]
    assert "warming up" in said.err and "repeat 2 of 2" in said.err
    best = data["best"][0]
    assert best["call"] == calls[0].strip()
    evaluated(best["call"]).shutdown()


def test_a_program_is_measured_over_its_rows(folder: Path, program: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.json"
    rows = program.parent / "rows.jsonl"
    where = f"{program}:twice"
    assert (
        bench("--model", folder, "--program", where, "--rows", rows, "--batch", 3, "--repeats", 1, "--json", out) == 0
    )
    data = json.loads(out.read_text())
    assert data["pieces"] == 3 and data["work"] == where
    assert [each["drafter"] for each in data["measured"]] == ["none", "NGRAM, 8 tokens", "NGRAM, 24 tokens"]
    assert all(each["texts"] == each["equal_texts"] == 3 for each in data["measured"])


def test_chat_messages_go_through_the_template(folder: Path, prompts: Path) -> None:
    from sgl.backend.bench.work import PromptWork
    from sgl.backend.runtime.draft.eagle.writer import read_prompts

    work = PromptWork("p", read_prompts(prompts), max_tokens=4, temperature=0.0)
    with sgl.Runtime(folder, device="cpu") as runtime:
        tokens = work._tokens(runtime, [{"role": "user", "content": "Hello"}])
        assert runtime.tokenizer.spell(tokens).startswith("<|im_start|>user\nHello<|im_end|>")
        assert runtime.tokenizer.spell(tokens).endswith("<|im_start|>assistant\n")
        written = work.run(runtime, 2)
        assert written.texts == work.run(runtime, 1).texts and len(written.texts) == 2


def test_a_picture_is_drawn(folder: Path, prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "out.png"
    asked = ("--model", folder, "--prompts", prompts, "--batch", 1, 2, "--repeats", 1, "--max-tokens", 4, "--raw")
    assert bench(*asked, "--png", file) == 0
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size < 60_000


def test_a_picture_without_matplotlib_is_refused_at_once(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert bench("--prompts", prompts, "--png", tmp_path / "out.png") == 1
    assert 'pip install "sgl[plot]"' in capsys.readouterr().err


# -- what the figures mean
def line(name: str, ratios: list[float], batch: int = 1) -> Measured:
    setting = WITHOUT if name == "none" else Setting(name, {"speculative_algorithm": name})
    return Measured(setting, batch, [100 * each for each in ratios], ratios, 10, 40, 20, 3, 3)


def test_the_best_setting_and_those_like_it() -> None:
    lines = [
        line("none", [1, 1, 1]),
        line("A", [1.4, 1.5, 1.6]),
        line("B", [1.3, 1.45, 1.5]),
        line("C", [1.1, 1.2, 1.3]),
    ]
    choice = choose(lines)
    assert choice.best.setting.name == "A" and choice.clear and [each.setting.name for each in choice.alike] == ["B"]
    words, call = answer(choice, {"model_path": "m", "device": "cpu"})
    assert words == "batch 1: A, 1.50 times (1.40 to 1.60); the spread does not tell it from: B"
    assert call == "    sgl.Runtime('m', device='cpu', speculative_algorithm='A')"


def test_a_difference_within_the_spread_is_none() -> None:
    choice = choose([line("none", [1, 1, 1]), line("A", [0.9, 1.1, 1.2]), line("B", [0.7, 0.8, 0.9])])
    assert choice.best.setting is WITHOUT and not choice.clear
    assert [each.setting.name for each in choice.alike] == ["A"]
    words, call = answer(choice, {})
    assert words == "batch 1: no drafts, since no setting was faster in every repeat; within the spread: A"
    assert call == "    sgl.Runtime(speculative_num_draft_tokens=0)"


def test_the_table() -> None:
    head, rule, first, second = table([line("none", [1.0, 1.0]), line("A", [1.25, 1.5])])
    assert len({len(head), len(rule), len(first), len(second)}) == 1
    cells = [cell.strip() for cell in second.strip("|").split("|")]
    assert cells == ["A", "1", "137.5", "1.38", "1.25", "1.50", "3.00", "0.50", "3 of 3"]


def test_settings_are_the_options_of_a_runtime() -> None:
    found = settings_of(["EAGLE3", "NGRAM"], [2, 4, 2], [8], draft_model=None, head="h")
    head = {"speculative_algorithm": "EAGLE3", "speculative_draft_model_path": "h"}
    assert [each.options for each in found] == [
        {"speculative_num_draft_tokens": 0},
        {**head, "speculative_num_steps": 2},
        {**head, "speculative_num_steps": 4},
        {"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 8},
    ]


# -- what is refused, before a model is loaded
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "--prompts FILE, or --program"),
        (["--prompts", "p.jsonl", "--program", "a.py:f"], "--prompts FILE, or --program"),
        (["--prompts", "no.jsonl"], "no.jsonl: cannot be read"),
        (["--prompts", "PROMPTS", "--rows", "r.jsonl"], "--rows are a program's arguments"),
        (["--prompts", "PROMPTS", "--batch", "0"], "--batch 0"),
        (["--prompts", "PROMPTS", "--batch", "3"], "--batch 3: there are 2 prompts"),
        (["--prompts", "PROMPTS", "--repeats", "0"], "--repeats 0"),
        (["--prompts", "PROMPTS", "--steps", "16"], "--steps 16"),
        (["--prompts", "PROMPTS", "--draft-tokens", "0"], "--draft-tokens 0"),
        (["--prompts", "PROMPTS", "--drafter", "EAGEL3"], "did you mean 'EAGLE3'"),
        (["--prompts", "PROMPTS", "--drafter", "STANDALONE"], "say --draft-model"),
        (["--prompts", "PROMPTS", "--json", "no-such-folder/x.json"], "there is no such folder"),
        (["--program", "mine.py"], "write FILE.py:FUNCTION"),
        (["--program", "no-such.py:f"], "no such file"),
        (["--program", "PROGRAM:nothing"], "there is no such name"),
        (["--program", "PROGRAM:plain"], "no @sgl.function: it is function"),
        (["--program", "BROKEN:f"], "cannot be imported: ZeroDivisionError"),
        (["--program", "PROGRAM:twice", "--rows", "WRONG"], "rows.txt:2: a row is an object"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], match: str, prompts: Path, program: Path, tmp_path: Path, capsys: Any
) -> None:
    broken, wrong = tmp_path / "broken.py", tmp_path / "rows.txt"
    broken.write_text("1 / 0")
    wrong.write_text("{}\n[1]\n")
    places = {"PROMPTS": prompts, "PROGRAM": program, "BROKEN": broken, "WRONG": wrong}
    filled = []
    for argument in arguments:
        name, colon, rest = argument.partition(":")
        filled.append(f"{places.get(name, name)}{colon}{rest}")
    assert bench(*filled) == 1
    assert match in capsys.readouterr().err


def test_a_row_that_fails_is_the_programs_error(folder: Path, program: Path, tmp_path: Path) -> None:
    rows = tmp_path / "other.jsonl"
    rows.write_text('{"nobody": 1}')
    with pytest.raises(OptionError, match="nobody"):
        raise_of(["--model", folder, "--program", f"{program}:twice", "--rows", rows, "--batch", 1])


def raise_of(arguments: list[Any]) -> None:
    from sgl.cli import _parser

    args = _parser().parse_args(["bench", "speculative", *map(str, arguments), "--device", "cpu"])
    args.command(args)
