"""The examples on the real model: each one runs with small arguments and prints what it promises.

What is checked is the structure of what they print, and facts that hold for any model or that this model reaches
easily. They run in this process on one runtime, as `python examples/NAME.py` would run them; the slow tests start them
as scripts, with their own arguments.
"""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgl

FOLDER = Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))

# example -> its arguments, and a pattern for each thing that it must print
EXAMPLES: dict[str, tuple[str, list[str]]] = {
    "approval": (
        "",
        [
            r"'amount': 30\}\) -> paid 30 euros to \w+; 970 are left",
            r"'amount': 300\}\) -> paid 100 euros to \w+; 870 are left",
            r"'amount': 9000\}\) -> Error \(denied\): 9000 euros is not",
            r"(the model: The tool says: [\s\S]*){3}^870 euros are left",
        ],
    ),
    "async_service": ("--clients 3", [r"\d s  France: .*Paris", r"^3 clients were served in"]),
    "best_of_n": ("--drafts 2", [r"bread\n( +\d of 4 rules, +-\d+\.\d\d: .*\n){2}.*\n( +\d of 4 rules, .*\n){2}"]),
    "chain_of_verification": ("--items 2", [r"(\w+: the draft has \w+ \(\w+\?\), \w+ \(\w+\?\)\n +verified: .*\n){3}"]),
    "classification": ("", [r"token_length_normalized: [5-8] of 8 are right", r"( +\d+ %  (pos|neg|not).*\n){8}"]),
    "extraction_pipeline": (
        "--rows 6",
        [
            r"stopped after 3 rows\nstarted again: [3-6] of 6 rows come from the journal\n.*; 0 rows failed",
            r"the last one: Problem\(person='[A-Z][a-z]+', topic='\w+', numbers=\[\d+(, \d+){0,3}\]\)",
            r"[1-9]\d* of \d+ numbers are in their documents",
        ],
    ),
    "few_shot_batch": ("--rows 8", [r"book -> ?\w+", r"[5-8] of 8 are right; [1-9]\d+ of \d+ tokens"]),
    "form_filling": (
        "",
        [
            r"Arrival \(YYYY-MM-DD\): 2027-05-14\nStay: \d+ nights?\nRoom: (single|double|suite)\nPhone: \d{3}-\d{4}\n",
            r"as a record: Booking\(name='[A-Z]\w+ [A-Z]\w+', arrival=datetime.date\(20",
        ],
    ),
    "judge_panel": (
        "",
        [r"(( +\d+ % (polite|clear|helpful)\. .*\n){3} +the panel: [\s\S]*){2}", r"prefers letter 2"],
    ),
    "long_document_qa": ("--characters 1200", [r"(.*\?\n +\S.*\n){4}", r"1,200 characters, 4 questions"]),
    "map_reduce": ("--sections 2", [r"# Install\n +about \w.*\n#.*\n +about .*\ntitle: \w"]),
    "mcp_client": (
        "",
        [
            r"to_celsius: .* \['fahrenheit'\]",
            r"-> 41\.8 kilometres\n +It is \d",
            r"(It is [\d.]+ (kilometres|degrees Celsius)\.[\s\S]*){2}",
        ],
    ),
    "multi_turn_chat": (
        "",
        [
            r"(you: .*\nmodel: .*\n +\[\d+ tokens before it, \d+ of them computed already\]\n){4}",
            r"(model: .*\n.* [1-9]\d+ of them[\s\S]*){3}has 8 messages",
            "Paris",
        ],
    ),
    "parallel_tools": (
        "",
        [
            r"started:  distance[\s\S]*started:  distance",
            r"(finished: [\d,]+ km from Rome to \w+ \(\d\.\d\d s\)[\s\S]*){2}",
            r"answer:   The distance to \w+ is [\d,]+ km\. \(2 calls in [23] turns\)",
        ],
    ),
    "rag_pipeline": (
        "",
        [r"[1-9]\d\d+ sentences are indexed", r'(.*\?\n +".{20,}" \([\w-]+\.md, .*\)\n +the model: .*\n\n){5}'],
    ),
    "react_agent": (
        "",
        [r"((  thought: .*\n  action: \w+\(\{'city': .*\n  observation: \w.*\n){2}  answer: I found[\s\S]*){2}"],
    ),
    "router": (
        "",
        [
            r"calculation: \{'a': \d+, 'operation': 'times', 'b': \d+\} = \d+",
            r"complaint: Ticket\(title='.+', urgency='(low|normal|high)'\)",
            r"greeting: .{6,}[.!?]",
        ],
    ),
    "self_consistency": ("--rows 2 --samples 3", [r"Canada: \w.*   votes: \{", r"right by vote: [12] of 2"]),
    "streaming_events": (
        "",
        [
            r"pieces of a text:\n +\S+(\|.*){5}\n",
            r"name='\w+' legs=None home=None\n[\s\S]* home='(land|water|air)'\nevents",
            r"CallBegan\(index=0, name='set_timer'[\s\S]*CallClosed\(.*\n.*rings in \d+ minutes",
        ],
    ),
    "sub_agents": (
        "",
        [
            r"(count_lines\(.*\n +the agent: The file \w+\.py has \d+ lines\.\n){3}",
            rf"-> tree\.py has {len((FOLDER / 'tree.py').read_text().splitlines())} lines\.",
            r"branch 2 of 3: 2 calls, \d+ prompt \([1-9]\d+ reused\)",
        ],
    ),
    "synthetic_data": (
        "--rows 4",
        [r'(\{"first_name":"[A-Z].*"interests":\[.*\]\}\n){4}', "4 records, [2-4] different"],
    ),
    "testing_programs": ("", [r"(passed: test_\w+\n){3}", r"on the model: (refund, order \d+ is|question, sent to a)"]),
    "text_to_sql": ("", [r"(SELECT .* FROM city.*;\n +\[.*\]\n[\s\S]*){5}", r"\['Lima', 'Cusco'\]"]),
    "tool_calling": ("", [r"-> 23 times 17 is 391", r"(\w+\(\{.*\}\) -> .*\n +The tool says that.*\n[\s\S]*){4}"]),
    "trace": ("", [r"(\n    (a bug|billing|a wish|praise): Ticket\(title=[\s\S]*){6}", r"[1-9]\d* calls had"]),
    "tree": ("", [r"tokens  live x3", r"(\w+day: cook.*\. Is that hard\? (No|Yes).*\.\n){3}"]),
    "tree_of_thought": (
        "--width 2 --depth 2 --keep 1",
        [r"level 2: 2 plans, marks [1-5]\.\d\d, [1-5]\.\d\d\n", r"a plan of mark [1-5]\.\d\d:\n  1\..*\n  2\."],
    ),
}
SLOW = {"tour"}
"""It takes half a minute; on the toy model it runs in tests/test_docs.py."""

USAGE = r"[1-9]\d* calls(, | had )[\d,]+ (prompt \([1-9]\d* reused\), [1-9]\d* computed|tokens)"


@pytest.fixture(scope="module")
def runtime() -> Iterator[sgl.Runtime]:
    with sgl.Runtime(random_seed=0) as runtime:
        yield runtime
        runtime.check()


@pytest.mark.model
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_promises(
    name: str,
    runtime: sgl.Runtime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "mcp_client":
        pytest.importorskip("mcp.server.mcpserver", reason="needs the package mcp, version 2")
    arguments, patterns = EXAMPLES[name]
    monkeypatch.setattr(type(runtime), "shutdown", lambda self: None)  # it serves the next example, too
    monkeypatch.setattr(sgl, "Runtime", lambda *given, **options: runtime, raising=False)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments.split()])
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    finally:
        sgl.set_default_backend(None)
    printed = "".join(capsys.readouterr())
    for pattern in [*patterns, USAGE]:
        assert re.search(pattern, printed, re.MULTILINE), f"no {pattern} in:\n{printed}"


@pytest.mark.model
@pytest.mark.parametrize(
    "name", [name if name == "tool_calling" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_an_example_is_a_script(name: str, tmp_path: Path) -> None:
    script = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d calls|what it cost, in tokens", done.stdout + done.stderr)


def test_every_example_is_tested() -> None:
    assert set(NAMES) == set(EXAMPLES) | SLOW
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_what_it_shows_and_how_to_run_it(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    said = ast.get_docstring(ast.parse(text)) or ""
    assert f"Run: python examples/{name}.py" in said and "Expect of a model of 135M parameters:" in said
    assert len(text.splitlines()) <= (250 if name == "tour" else 100)


def test_the_map_has_a_line_for_every_file() -> None:
    text = (FOLDER / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert sorted(links) == sorted([*(f"{name}.py" for name in NAMES), "data/README.md"])
    assert all(f"[{link}]({link})" in text for link in links if link.endswith(".py"))


def test_an_example_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    with pytest.raises(SystemExit, match=r"pip install \"sgl\[mcp\]\""):
        runpy.run_path(str(FOLDER / "mcp_client.py"))


def test_a_question_without_a_word_to_search_for_finds_nothing() -> None:
    rag = runpy.run_path(str(FOLDER / "rag_pipeline.py"))
    store = rag["index"]()
    assert rag["search"](store, "What is that?") == []
    assert len(rag["search"](store, "What is a batch?")) == rag["MOST_FOUND"]
