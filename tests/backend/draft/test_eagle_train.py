"""`sgl draft train` on a tiny model: data, training, evaluation, and going on after an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgl import cli
from sgl.backend.runtime.draft.eagle.conversations import frequent_tokens, load_conversations, pack
from sgl.backend.runtime.draft.eagle.files import load_head
from sgl.backend.runtime.draft.eagle.initial import initial_head
from sgl.backend.runtime.draft.eagle.target import Target
from sgl.backend.runtime.draft.eagle.train import HeadTrainer, TrainOptions
from sgl.backend.runtime.draft.eagle.writer import read_prompts
from sgl.backend.runtime.model.load.loader import load_checkpoint
from sgl.lang.errors import OptionError

from .tiny_llama import save_tiny

BYTES_KEPT = 1 << 24


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with a model, prompts, and the data that the model wrote."""
    folder = tmp_path_factory.mktemp("draft")
    save_tiny(folder / "model")
    prompts = [{"prompt": f"Question {i}:\u2028 what is the sun?"} for i in range(6)]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in prompts))
    (folder / "kept.jsonl").write_text(json.dumps(prompts[5]) + "\n" + json.dumps({"question": "Why?"}))
    assert command(folder, "--only", "data") == 0
    return folder


def command(folder: Path, *others: str) -> int:
    return cli.main(
        [
            "draft", "train", "--model", str(folder / "model"), "--data", str(folder / "prompts.jsonl"),
            "--eval", f"kept={folder / 'kept.jsonl'}", "--out", str(folder / "out"), "--device", "cpu",
            "--self-written", "6", "--begun", "5", "--answer-tokens", "16", "--steps", "12", "--length", "96",
            "--rows", "3", "--draft-vocab", "150", "--unroll", "3", *others,
        ]
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}


def test_the_model_writes_every_kind_of_conversation(written):
    tokenizer = load_checkpoint(written / "model", "auto", written).tokenizer
    kinds: dict[str, list] = {}
    for file in (written / "out/data").glob("*.safetensors"):
        kinds.setdefault(file.name.split("-")[0], []).extend(load_conversations(file))
    assert set(kinds) == {"asked", "written", "begun"}
    assert len(kinds["asked"]) == 10  # 5 prompts twice: the sixth is kept for measuring
    for conversations in kinds.values():
        for each in conversations:
            text = tokenizer.decode(each.tokens.tolist(), skip_special_tokens=False)
            assert text.startswith("<|im_start|>user\n")
            for begin, end in each.written:
                assert 0 < begin < end <= len(each.tokens)
                assert tokenizer.decode(each.tokens[:begin].tolist(), skip_special_tokens=False).endswith(
                    "<|im_start|>assistant\n"
                )
    asked = "".join(tokenizer.decode(each.tokens.tolist()) for each in kinds["asked"])
    assert "Question 4" in asked and "Question 5" not in asked


def test_data_is_written_once_and_in_parts_alike(written, tmp_path):
    before = files_of(written / "out")
    lost = sorted(before)[0]
    (written / "out" / lost).unlink()
    assert command(written, "--only", "data") == 0
    assert files_of(written / "out") == before
    for part in ("1/2", "0/2"):
        assert command(written, "--only", "data", "--part", part, "--out", str(tmp_path / "two")) == 0
    assert files_of(tmp_path / "two") == before


def test_a_head_is_trained_and_measured(written, capsys):
    assert command(written, "--only", "train", "--only", "eval") == 0
    out = capsys.readouterr().out
    assert ": trained" in out and "tokens a round" in out
    found = json.loads((written / "out/acceptance.json").read_text())["kept"]["tokens_a_round"]
    assert set(found) == {"2", "3", "4", "5"} and all(1 <= each <= 6 for each in found.values())
    head = load_head(written / "out/head")
    assert head.config.draft_vocab_size == 150
    assert head.config.target["name"] == "model"
    assert command(written, "--only", "eval", "--head", str(written / "out/head"), "--limit", "1", "--first", "5") == 0
    assert "; 4 tokens" in capsys.readouterr().out
    log = [json.loads(line) for line in (written / "out/train/log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 12 and len(log[-1]["loss"]) == len(log[-1]["right"]) == 3


def trainer(written: Path, folder: Path, keep: int = BYTES_KEPT, **options) -> HeadTrainer:
    target = Target(load_checkpoint(written / "model", "auto", written), "cpu", torch.float32)
    found = [each for file in sorted((written / "out/data").glob("*.safetensors")) for each in load_conversations(file)]
    ids, _ = frequent_tokens(found, target.config.vocab_size, 150)
    options = {"steps": 40, "rows": 3, "unroll": 3, "rate": 5e-3, **options}
    return HeadTrainer(initial_head(target, ids), target, pack(found, 96), TrainOptions(**options), folder, keep)


def test_training_learns(written, tmp_path):
    trained = trainer(written, tmp_path)
    assert trained.run(quiet=True)
    first, last = trained.log[0]["loss"], trained.log[-1]["loss"]
    assert all(after < 0.97 * before for before, after in zip(first, last))


@pytest.mark.parametrize("keep", [BYTES_KEPT, 96 * 4 * 32 * 4 * 4], ids=["all features kept", "four rows kept"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(keep, written, tmp_path):
    whole = trainer(written, tmp_path / "whole", steps=9)
    assert whole.run(quiet=True)
    begun = trainer(written, tmp_path / "parts", keep, steps=9)
    for numbers in (next(begun._order()) for _ in range(4)):
        begun.train(begun.store.batch(numbers))
        begun.step += 1
    begun.save()
    again = trainer(written, tmp_path / "parts", keep, steps=9)
    assert again.step == 4
    assert again.run(quiet=True)
    for name, weight in whole.head.named_parameters():
        torch.testing.assert_close(dict(again.head.named_parameters())[name], weight, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_other_options_is_refused(written, tmp_path):
    trainer(written, tmp_path).save()
    with pytest.raises(OptionError, match="rate"):
        trainer(written, tmp_path, rate=1e-4)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(OptionError, match="delete it"):
        trainer(written, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--part", "2/2"], "I/N"),
        (["--temperatures", "0;1"], "commas"),
        (["--eval", "nothing"], "NAME=FILE"),
        (["--data", "nowhere.jsonl"], "cannot be read"),
        (["--only", "train", "--minutes", "1"], "one of the two"),
        (["--only", "train", "--out", "nowhere"], "no conversations"),
        (["--only", "train", "--intermediate", "5"], "feed-forward"),
    ],
)
def test_wrong_options_are_told(given, message, written, capsys):
    assert command(written, *given) == 1
    assert message in capsys.readouterr().err


def test_a_line_that_is_no_prompt_is_named(tmp_path):
    file = tmp_path / "p.jsonl"
    for line in ("{", '{"prompt": 3}', '{"text": "a"}', '{"messages": []}', "[]"):
        file.write_text('{"prompt": "a"}\n' + line)
        with pytest.raises(OptionError, match=r"p\.jsonl:2: no prompt"):
            read_prompts(file)
    file.write_text("\n")
    with pytest.raises(OptionError, match="no prompts"):
        read_prompts(file)


def test_the_commands_help_loads_no_torch():
    code = "import sys\nfrom sgl import cli\ntry: cli.main(['draft', 'train', '--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("\nFalse")
