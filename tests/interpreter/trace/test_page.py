"""The trace page as text, and transcripts as HTML. What the page does in a browser: `tests/test_page_browser.py`."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import sgl
from sgl.backend.base import CallTrace, ChoiceScores, GenResult, Handle, ScoreResult, Usage
from sgl.interpreter.colour import html_of, html_of_group, parts_of, since_fork
from sgl.interpreter.trace.page import load, page, write_page
from sgl.interpreter.transcript import Segment

from .traces import story

EVIL = "</script><script>alert(1)</script><!-- <b>&amp;\u2028\u2029\0 \ud800 é 漢 \u202e"


def embedded(html: str) -> str:
    found = re.findall(r'<script id="trace" type="application/json">(.*?)</script>', html, re.S)
    assert len(found) == 1
    return str(found[0])


class Reader(HTMLParser):
    """The texts of an HTML piece, with the style and title of the element each is in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[dict[str, str | None]] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.found.append((data, self.open[-1]))

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.found)


# -- the file
def test_load_gives_back_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(story()), encoding="utf-8")
    assert load(file) == story() == load(str(file))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'no "sgl_trace"'),
        (b"null", 'no "sgl_trace"'),
        (b'{"traceEvents": []}', 'no "sgl_trace"'),
        (b'{"sgl_trace": 2}', "version 2, and this sgl reads version 1"),
        (b'{"sgl_trace": true}', "version True"),
        (b'{"sgl_trace": 1}', "list 'programs'"),
        (b'{"sgl_trace": 1, "programs": []}', "list 'steps'"),
        (b'{"sgl_trace": 1, "programs": [3], "steps": []}', "list 'branches'"),
        (b'{"sgl_trace": 1, "programs": [{"branches": [{"calls": {}}]}], "steps": []}', "list 'calls'"),
    ],
)
def test_a_file_that_is_no_trace(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(sgl.OptionError, match=re.escape(says)) as caught:
        load(file)
    assert "run.json" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(sgl.OptionError, match="No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(sgl.OptionError, match="cannot read the trace"):
        load(tmp_path)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(sgl.OptionError, match="cannot write the page"):
        write_page(story(), tmp_path / "no" / "folder.html")


# -- the page
def test_the_page_holds_the_trace_and_needs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "out.html"
    write_page(story(), file)
    html = file.read_text(encoding="utf-8")
    assert html == page(story())
    assert json.loads(embedded(html)) == story()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy and policy[1] == (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    shell = html.replace(embedded(html), "")
    assert not re.search(r"https?://|\bsrc=|@import|url\(|innerHTML|insertAdjacent|document\.write|\beval\b", shell)


def test_no_text_leaves_its_place() -> None:
    trace = story()
    trace["backend"]["name"] = EVIL
    program = trace["programs"][0]
    program["name"] = program["args"]["place"] = program["branches"][0]["calls"][0]["samples"][0]["text"] = EVIL
    program["args"][EVIL] = EVIL
    text = embedded(page(trace))
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == trace
    page(trace).encode("utf-8")


def test_the_marker_of_the_template_is_only_text_in_a_trace() -> None:
    trace = story()
    trace["programs"][0]["name"] = "TRACE_JSON</script>TRACE_JSON"
    assert json.loads(embedded(page(trace))) == trace


def test_numbers_that_javascript_would_change() -> None:
    trace = story()
    program = trace["programs"][0]
    program["seed"] = 2**64 - 1
    program["value"] = {"big": [-(10**5000)], "float": math.inf, "flag": True, "small": 2**53, "deep": {1: (2.5, None)}}
    program["branches"][0]["calls"][0]["samples"][0]["tokens"][0][2] = -math.inf
    before = copy.deepcopy(trace)
    found = json.loads(embedded(page(trace)), parse_constant=lambda name: pytest.fail(f"JSON has no {name}"))
    shown = found["programs"][0]
    assert shown["seed"] == {"repr": "18446744073709551615"}
    big = shown["value"].pop("big")[0]["repr"]
    assert int(big, 0) == -(10**5000)
    assert shown["value"] == {"float": "inf", "flag": True, "small": 2**53, "deep": {"1": [2.5, None]}}
    assert shown["branches"][0]["calls"][0]["samples"][0]["tokens"][0][2] == "-inf"
    assert trace == before


def test_a_value_nested_too_deeply_is_said_to_be() -> None:
    trace, value = story(), []  # type: ignore[var-annotated]
    for _ in range(sys.getrecursionlimit()):
        value = [value]
    trace["programs"][0]["value"] = value
    assert json.loads(embedded(page(trace)))["programs"][0]["value"] == {"repr": "<nested too deeply to be shown>"}


# -- transcripts in a notebook
def test_each_origin_has_its_own_style() -> None:
    parts: list[Any] = [
        ("You are", "reused", "2 tokens"),
        (" here.\n", "constant", None),
        ("I am", "generated", "97.0% (logprob -0.030), token 7"),
        ('{"', "forced", None),
        (" ✕ Truncated", "error", 'too "long" <b>'),
    ]
    html = html_of(parts)
    reader = Reader(html)
    spans = dict(reader.found)
    styles = [spans[text].get("style") for text, _, _ in parts]
    assert len(set(styles)) == 5
    for style in styles[2:]:
        assert style and "border-bottom" in style and "background" in style
    assert spans["I am"]["title"] == "97.0% (logprob -0.030), token 7"
    assert spans[" ✕ Truncated"]["title"] == 'too "long" <b>'
    assert "white-space:pre-wrap" in html and "<style" not in html and "class=" not in html
    assert reader.text.endswith("constant reused generated forced error")


def test_a_transcript_is_escaped_and_can_be_written() -> None:
    html = html_of([(EVIL, "generated", EVIL), (EVIL, "constant", None)])
    assert Reader(html).tags == {"div", "span"}
    assert Reader(html).text.startswith(EVIL.replace("\ud800", "?"))
    html.encode("utf-8")


def test_the_middle_of_a_long_text_is_left_out() -> None:
    html = html_of(
        [("a" * 30, "constant", None), ("b" * 40, "generated", None), ("c" * 30, "constant", None)], limit=70
    )
    text = Reader(html).text
    assert text.startswith("a" * 30 + "b" * 5 + " … 30 characters are not shown … " + "b" * 5 + "c" * 30)
    assert "(no text)" in html_of([]) and "(no text)" in html_of([("", "constant", None)])


def test_a_group_has_labels_and_limits() -> None:
    branches: list[Any] = [(f"branch {i} of 60 <b>", [(f"text {i} " * 100, "generated", None)]) for i in range(60)]
    html = html_of_group(branches, limit=50, most=3)
    reader = Reader(html)
    assert reader.tags == {"div", "span"}
    assert [f"branch {i} of 60 <b>" in reader.text for i in range(4)] == [True, True, True, False]
    assert "and 57 more branches" in reader.text and reader.text.count("characters are not shown") == 3
    assert "(no branches)" in html_of_group([])


def done(result: Any, error: BaseException | None = None, text: str = "") -> Segment:
    handle: Handle[Any] = Handle("gen('x') at prog.py:1")
    handle.grow(text)
    handle.finish(result, error)
    return Segment(handle=handle, where=handle.where)


def gen(text: str, trace: CallTrace | None = None) -> list[GenResult]:
    return [GenResult(text, [], {"type": "stop"}, Usage(), trace=trace)]


def test_parts_of_a_traced_and_of_an_untraced_call() -> None:
    trace = CallTrace(
        [("Hel", True, 1), ("lo ", False, 2)],
        ["wor", "ld", "STOP"],
        [5, 6, 7],
        [-0.5, None, -1.0],
        [False, True, False],
        [1, 1, 2],
    )
    score = ScoreResult(0, "yes", ChoiceScores([]), {}, Usage())
    parts = parts_of(
        [
            Segment("Hel"),
            Segment("lo "),
            done(gen("world", trace)),
            Segment("!"),
            done(score),
            Segment("?"),
            done(gen("ok")),
        ]
    )
    assert parts == [
        ("Hel", "reused", None),
        ("lo ", "constant", None),
        ("wor", "generated", "60.7% (logprob -0.500), token 5"),
        ("ld", "forced", "token 6, forced by a constraint"),
        ("!", "constant", None),
        ("yes", "generated", "gen('x') at prog.py:1"),
        ("?", "constant", None),
        ("ok", "generated", "gen('x') at prog.py:1"),
    ]


def test_parts_are_right_where_the_trace_tells_of_another_text() -> None:
    trace = CallTrace([("said elsewhere", True, 2)], ["other"], [5], [-0.5], [False], [1])
    parts = parts_of([Segment("here "), done(gen("text", trace)), Segment(" end")])
    assert [part[:2] for part in parts] == [("here ", "constant"), ("text", "generated"), (" end", "constant")]
    assert "".join(part[0] for part in parts) == "here text end"


def test_parts_of_a_branch_alone() -> None:
    trace = CallTrace([("said before the fork, ", True, 4), ("own", False, 1)], ["x"], [5], [-0.5], [False], [1])
    before = [Segment("said before the fork, ")]
    branch = [*before, Segment("own"), done(gen("x", trace))]
    assert [p[:2] for p in parts_of(since_fork(branch, [*before, Segment("own")]))] == [
        ("own", "constant"),
        ("x", "generated"),
    ]
    assert since_fork(before, before) == [] == since_fork([], before)
    assert since_fork(branch, []) == branch


def test_parts_of_a_failed_call_and_of_one_that_still_runs() -> None:
    running: Handle[Any] = Handle()
    running.grow("so f")
    failed = done(None, sgl.Cancelled("it was cancelled"), "half a")
    assert parts_of([Segment("a"), Segment(handle=running)]) == [("a", "constant", None), ("so f", "generated", None)]
    assert parts_of([failed, Segment("!"), done(None, failed.error)])[:2] == parts_of([failed])
    assert [part[1] for part in parts_of([failed, Segment("!"), done(None, failed.error)])].count("error") == 1
    assert parts_of([failed]) == [
        ("half a", "generated", "gen('x') at prog.py:1"),
        (" ✕ Cancelled", "error", "it was cancelled"),
    ]
