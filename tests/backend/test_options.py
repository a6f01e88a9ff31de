"""What a newcomer writes as options of a runtime and on the command line: it works, or the error has the fix."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sgl
from sgl import cli
from sgl.backend.runtime.model.load import store
from sgl.backend.runtime.model.load.loader import load_any
from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
from sgl.backend.runtime.options import template_of
from sgl.lang.chat import ChatTemplate


@pytest.mark.parametrize("slots", [10**12, 10**15, 10**30])
def test_a_pool_that_no_machine_has(slots: int) -> None:
    with pytest.raises(sgl.OutOfMemory, match=f"max_total_tokens={slots}: .* MiB"):
        sgl.Runtime.toy(max_total_tokens=slots)


def test_a_tokenizer_with_more_tokens_than_its_model() -> None:
    tokenizer = toy_tokenizer()
    with pytest.raises(sgl.ModelLoadError, match=rf"{tokenizer.vocab_size} token ids, .* embeddings for 200"):
        sgl.Runtime.of(ToyModel(200), tokenizer)
    assert sgl.Runtime.of(ToyModel(tokenizer.vocab_size), tokenizer).generate("a", {"max_new_tokens": 2})["text"]


def test_a_toy_with_a_template_of_its_own() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    said = sgl.function(lambda s: s.user("hi")).run(backend=sgl.Runtime.toy(chat_template=template, name="mine"))
    assert said.text() == "[hi]"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chunked_prefill_size": 10**12}, "chunked_prefill_size must be at most"),
        ({"max_running_requests": 10**15}, "max_running_requests must be at most"),
        ({"context_length": 10**12}, "more than the model's"),
        ({"random_seed": 10**40}, "64 bits"),
        ({"random_seed": -(2**63) - 1}, "64 bits"),
        ({"max_total_tokens": 2.0**20}, "whole number"),
        ({"max_total_tokens": float("inf")}, "whole number"),
        ({"max_total_tokens": 0}, "at least 1"),
        ({"max_total_tokens": True}, "whole number"),
        ({"disable_radix_cache": "yes"}, "True or False"),
        ({"max_total_token": 5}, "did you mean 'max_total_tokens'"),
        ({"port": 30000}, "an option of SGLang's server"),
    ],
)
def test_wrong_options_of_a_runtime(options: dict[str, Any], says: str) -> None:
    with pytest.raises(sgl.OptionError, match=says):
        sgl.Runtime.toy(**options)


def test_numbers_of_numpy_are_numbers() -> None:
    assert sgl.Runtime.toy(max_total_tokens=np.int64(500), random_seed=np.int32(3)).options.pool_tokens == 500


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtyp": "auto"}, "did you mean 'dtype'"),
        ({"modelpath": "x"}, "did you mean"),
        ({"launch_timeout": 300.0}, "an option of SGLang's server"),
        ({"log_level": "warn"}, "did you mean 'warning'"),
    ],
)
def test_misspelt_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(sgl.OptionError, match=says):
        sgl.Runtime(**options)


def test_dtypes_and_devices_by_their_other_names() -> None:
    torch = pytest.importorskip("torch")
    from sgl.backend.runtime.device import resolve_device, resolve_dtype

    same = {
        torch.float32: ["float32", "fp32", "float", torch.float32, "torch.float32"],
        torch.bfloat16: ["bfloat16", "bf16", torch.bfloat16],
        torch.float16: ["float16", "fp16", "half", torch.float16, torch.half],
    }
    for dtype, names in same.items():
        assert all(resolve_dtype(name, None) == dtype for name in names)
    for wrong, says in (("bfloat", "did you mean 'bfloat16'"), (torch.int8, "got 'int8'"), (None, "got 'None'")):
        with pytest.raises(sgl.OptionError, match=says):
            resolve_dtype(wrong, None)
    assert resolve_device(torch.device("cpu")) == "cpu"
    with pytest.raises(sgl.OptionError, match="did you mean 'cuda'"):
        resolve_device("gpu")


def test_model_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, says in {
        store.DEFAULT_MODEL: f"sgl models pull {store.DEFAULT_MODEL}",
        "smollm-135m": f"did you mean '{store.DEFAULT_MODEL}'",
        "~nobody-knows/model": "nobody-knows",
        "~/no/model.gguf": "no such file",
        "": "model_path is empty",
    }.items():
        with pytest.raises(sgl.ModelLoadError, match=says):
            load_any(name, "auto", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    with pytest.raises(sgl.ModelLoadError, match=str(tmp_path / "model" / "config.json")):
        load_any("~/model", "auto", tmp_path)
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    template = template_of("~/chat.jinja", None)
    assert template is not None and template.source == "{{ messages }}"


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code, says in (
        (["--version"], 0, f"sgl {sgl.__version__}"),
        (["model"], 2, "no command 'model'; did you mean 'models'?"),
        (["models", "lst"], 2, "did you mean 'list'"),
        (["quit"], 2, "there are: run, serve, models, trace"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(argv)
        out = capsys.readouterr()
        assert ended.value.code == code and says in out.out + out.err
    assert cli.main(["run", "gone.py"]) == 1 and "no such file" in capsys.readouterr().err


# -- in a notebook: no files of source, and an event loop that runs already
CELL = """
import sgl

@sgl.function
def ask(s, q):
    s += sgl.user(q) + sgl.assistant(sgl.gen("a", max_tokens=3, temperature=0))

@sgl.function
async def aask(s, q):
    s += sgl.user(q) + sgl.assistant(sgl.gen("a", max_tokens=3, temperature=0))
    return await s["a"]

runtime = sgl.Runtime.toy()
"""


def cell(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "/tmp/kernel_1/123.py", "exec"), names)


def test_programs_of_a_notebook() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}

    async def notebook() -> None:
        cell(CELL, names)
        cell("a = ask.run('x', backend=runtime)['a']", names)
        cell("b = [s['a'] for s in ask.run_batch([('x',), ('y',)], backend=runtime)]", names)
        cell("c = ''.join(ask.run('x', stream=True, backend=runtime).text_iter('a'))", names)
        cell("d = str(ask.graph()), repr(ask.run('x', backend=runtime)._repr_html_())", names)
        with pytest.raises(sgl.OptionError, match=r"as in a notebook\): use `await aask\.arun\(\.\.\.\)`"):
            cell("aask.run('x', backend=runtime)", names)
        with pytest.raises(sgl.OptionError, match=r"async for state in aask\.arun_batch"):
            cell("aask.run_batch([('x',)], generator_style=True, backend=runtime)", names)
        names["e"] = (await names["aask"].arun("x", backend=names["runtime"])).ret_value

    asyncio.run(notebook())
    assert names["a"] == names["b"][0] == names["c"] == names["e"]
    assert "123.py:6" in names["d"][0]
