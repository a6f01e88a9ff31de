"""The examples on the real model: each one runs with small arguments and prints what it promises.

Checked is the structure of what they print, not the model's words.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import sgl

FOLDER = Path(__file__).resolve().parents[1] / "examples"
HELPER = "common"
OTHERS = {"tour", "trace", "tree"}
"""They run in `make demo` and, on the toy model, in tests/test_docs.py."""
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - {HELPER})

# example -> its arguments, and a pattern for each thing that it must print
EXAMPLES: dict[str, tuple[str, list[str]]] = {
    "approval": ("", [r"paid \d+ euros to", r"Error \(denied\): \d+ euros is not", r"The bill is (not )?paid\."]),
    "async_service": ("--clients 3", [r"\d s  France: \S", r"3 clients were served in"]),
    "best_of_n": ("--drafts 2", [r"(\d of 4 rules, +-\d+\.\d\d: .*\n.*){4}"]),
    "chain_of_verification": ("--count 2", [r"(\w+: the draft has .*\n +verified: .*\n){3}"]),
    "classification": ("", [r"token_length_normalized: [5-8] of 8 are right", r"( +\d+ %  .*\n){8}"]),
    "extraction_pipeline": (
        "--rows 6",
        [r"3 of 6 rows come from the journal", "Problem\\(person='[A-Z]", "0 rows failed"],
    ),
    "few_shot_batch": ("--rows 8", [r"book -> ?\w+", r"[5-8] of 8 are right"]),
    "form_filling": ("", [r"Arrival \(YYYY-MM-DD\): 20\d\d-\d\d-\d\d", r"Phone: \d{3}-\d{4}", r"Booking\(name='[A-Z]"]),
    "judge_panel": (
        "",
        [r"(\d+ % polite\..*\n +\d+ % clear\..*\n +\d+ % helpful\.[\s\S]*){2}", r"prefers letter [12]"],
    ),
    "long_document_qa": ("--characters 1200", [r"What is a tool\?\n +\S", r"1,200 characters, 4 questions"]),
    "map_reduce": ("--sections 2", [r"# Install\n +about \w", r"title: [A-Z]"]),
    "mcp_client": ("", [r"to_celsius: .* \['fahrenheit'\]", r"-> [-\d.]+ (kilometres|degrees Celsius)\n +It is "]),
    "multi_turn_chat": ("", [r"(you: .*\nmodel: [\s\S]*? tokens before, \d+ of them.*\n){4}", r"has 9 messages"]),
    "parallel_tools": (
        "",
        [r"started:  distance", r"finished: [\d,]+ km from Rome to", r"stopped: \w+, after \d+ calls"],
    ),
    "rag_pipeline": ("", [r"\d+ sections are indexed", r"(\?\n +.{20,}\n +In short: .+\n +\[\w[\w-]*\.md: .+\n){4}"]),
    "react_agent": ("", [r"(  thought: .*\n  action: .*\n  observation: .*\n){2}  answer: \w+ is in \w+ and has"]),
    "router": ("", [r"(\?|!|\.)\n +(calculation: \{'a'|complaint: Ticket\(|greeting: Hello!)"]),
    "self_consistency": ("--rows 2 --samples 3", [r"votes for \d+, right is \d+", r"right by vote: \d of 2"]),
    "streaming_events": (
        "",
        [r"name='\w+' legs=None", r"CallBegan\(index=0, name='set_timer'", r"CallClosed\(.*\n.*rings in"],
    ),
    "sub_agents": ("", [r"(\w+ after 1 call: .*\n +the agent says: The file .* lines\.\n){3}", r"report: "]),
    "synthetic_data": ("--rows 4", [r'(\{"first_name":"[A-Z].*"interests":\[.*\]\}\n){4}', "4 records"]),
    "testing_programs": ("", [r"(passed: test_\w+\n[\s\S]*){3}", r"on the model: (refund|question), \S"]),
    "text_to_sql": ("", [r"(SELECT .*;\n +\[.*\]\n[\s\S]*){5}"]),
    "tool_calling": ("", [r"-> 23 times 17 is 391|calculate\(\{", r"The tool says that"]),
    "tree_of_thought": (
        "--width 2 --depth 2 --keep 1",
        [r"step 2: 2 plans, marks \d\.\d\d", r"\d\.\d\d:\n  1\..*\n  2\."],
    ),
}
USAGE = re.compile(r"Usage\(calls=[1-9]\d*, |^\w+: [1-9]\d* calls, \d+ prompt", re.MULTILINE)


def load(name: str) -> Any:
    """Import an example under a name that is no module of Python's (there is a module `trace`)."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runtime() -> Iterator[sgl.Runtime]:
    with sgl.Runtime(random_seed=0) as runtime:
        yield runtime
        runtime.check()


@pytest.mark.model
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_promises(
    name: str, runtime: sgl.Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "mcp_client":
        pytest.importorskip("mcp.server.mcpserver", reason="needs the package mcp, version 2")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sgl, "Runtime", lambda *given, **options: nullcontext(runtime), raising=False)
    arguments, patterns = EXAMPLES[name]
    load(name).main(arguments.split())
    printed = "".join(capsys.readouterr())
    for pattern in [*patterns, USAGE.pattern]:
        assert re.search(pattern, printed, re.MULTILINE), f"no {pattern} in:\n{printed}"


def test_every_example_is_tested() -> None:
    assert set(NAMES) == set(EXAMPLES) | OTHERS
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    said = ast.get_docstring(ast.parse(text)) or ""
    assert name in OTHERS or f"python examples/{name}.py" in said
    assert len(text.splitlines()) <= (240 if name in OTHERS else 90)


def test_the_map_has_a_line_for_every_file() -> None:
    mapped = re.findall(r"\(([\w-]+)\.py\)", (FOLDER / "README.md").read_text())
    assert sorted(mapped) == NAMES


@pytest.mark.parametrize("missing", ["mcp"])
def test_an_example_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.syspath_prepend(str(FOLDER))
    for module in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=r"pip install \"sgl\[mcp\]\""):
        load("mcp_client").main([])
