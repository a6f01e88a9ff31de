"""Graphs of programs without a model: what they show, where they stop, and programs compiled for a backend."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import re
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import sgl
from sgl.interpreter import record
from sgl.interpreter.graph import lower
from sgl.interpreter.graph.graph import Graph
from sgl.interpreter.graph.lower import cache_program, compile_program, graph_program
from sgl.interpreter.graph.nodes import (
    Begin,
    Choose,
    Constant,
    End,
    Forked,
    Generate,
    Joined,
    Read,
    Stopped,
    Subprogram,
)
from sgl.lang.constraint import KINDS

from ...watchdog import within
from ..fake import FakeBackend


def graph_of(program, **kwargs) -> Graph:
    return graph_program(program, kwargs)


class PinningBackend(FakeBackend):
    """One that remembers what it was asked to pin and to prepare."""

    def __init__(self, *args, constraints=KINDS, refuses=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.capabilities = sgl.backend.base.Capabilities(
            "pins", self.capabilities.score, self.capabilities.logprobs, frozenset(constraints)
        )
        self.pinned, self.prepared, self.refuses = [], [], refuses

    def pin(self, pieces):
        self.pinned.append(tuple(pieces))
        return sum(len(text) for text, _ in pieces)

    def prepare(self, constraint, where):
        self.prepared.append(constraint)
        if constraint.kind in self.refuses:
            raise sgl.ConstraintError(f"{where}: cannot be enforced")


async def waited(awaitable):
    return await awaitable


def kinds(nodes):
    return [type(node).__name__ for node in nodes]


def texts(nodes):
    return [node.text for node in nodes if isinstance(node, Constant)]


# -- what a graph shows
@sgl.function
def qa(s, question: str, style="brief"):
    s += sgl.system(f"Be {style}.")
    s += sgl.user(f"Q: {question}")
    s += sgl.assistant(sgl.gen("answer", max_tokens=8, stop="\n"))


def test_a_plain_program():
    graph = graph_of(qa)
    assert kinds(graph.body) == ["Begin", "Constant", "End"] * 2 + ["Begin", "Generate", "End"]
    assert [n.name for n in graph.body if isinstance(n, Begin)] == ["system", "user", "assistant"]
    assert graph.body[4] == Constant("Q: {question}", ("question",), (), graph.body[4].line)
    (gen,) = graph.gens()
    assert (gen.name, gen.options, gen.constraint) == ("answer", {"max_tokens": 8, "stop": ("\n",)}, None)
    assert graph.names == ("answer",) and graph.placeholders == ("question",) and graph.stopped is None
    first = inspect.getsourcelines(qa.func)[1]
    assert gen.line == f"test_graph.py:{first + 4}"


def test_prefix_is_in_the_template_of_the_backend():
    chatml = FakeBackend()
    assert "".join(text for text, _ in graph_of(qa, backend=chatml).prefix) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: "
    )
    assert ("Be brief.", False) in graph_of(qa).prefix and ("<|im_start|>system\n", True) in graph_of(
        qa, backend=chatml
    ).prefix
    assert not chatml.branches and not chatml.requests, "the backend was never asked"


def test_what_every_run_begins_with_is_what_runs_begin_with():
    prefix = "".join(text for text, _ in graph_of(qa, backend=FakeBackend()).prefix)
    for question in ("a", "b"):
        assert qa.run(question=question, backend=FakeBackend()).text().startswith(prefix)


def test_defaults_and_bound_arguments_are_used():  # weakness 32
    assert "Be long." in texts(graph_of(qa.bind(style="long")).body)
    assert "Be brief." in texts(graph_of(qa, question="x").body) and graph_of(qa, question="x").placeholders == ()
    assert "Q: x" in texts(graph_of(qa, question="x").body)
    with pytest.raises(sgl.OptionError, match="did you mean 'question'"):
        graph_of(qa, questoin="x")
    with pytest.raises(sgl.OptionError, match="limit"):
        graph_of(qa, limit=0)
    with pytest.raises(sgl.OptionError, match="stream"):
        graph_of(qa, stream=True)


def test_the_programs_own_names_win():
    @sgl.function
    def program(s, limit, timeout, backend):
        s += f"{limit} {timeout} {backend}"

    assert texts(graph_of(program, limit="l", backend="b").body) == ["l {timeout} b"]


def test_positional_only_and_variadic_parameters():
    @sgl.function
    def program(s, a, /, *rest, key, **others):
        s += f"{a} {key} {rest} {others}"

    assert texts(graph_of(program).body) == ["{a} {key} () {}"]


def test_methods_partials_and_async_bodies():
    class Judge:
        tone = "kind"

        @sgl.function
        def ask(self, s, topic):
            s += f"{self.tone} {topic}" + sgl.gen("x")

    def plain(prefix, s, topic):
        s += prefix + topic

    @sgl.function
    async def later(s, topic):
        s += topic + sgl.gen("x")
        await asyncio.sleep(0)
        s += await s.aget("x")
        async with s.fork(2) as group:
            group += sgl.gen("y")
        s += " ".join(await s.aget("y"))

    assert texts(graph_of(Judge().ask).body) == ["kind {topic}"]
    assert texts(graph_of(sgl.function(functools.partial(plain, "p "))).body) == ["p {topic}"]
    graph = graph_of(later)
    assert texts(graph.body) == ["{topic}", "{x}", "{y} {y}"]
    assert kinds(graph.body) == [
        "Constant",
        "Generate",
        "Read",
        "Constant",
        "Forked",
        "Joined",
        "Read",
        "Constant",
    ]


def test_an_async_body_runs_dry_while_a_loop_runs():
    @sgl.function
    async def later(s, topic):
        await asyncio.sleep(0.001)
        s += topic

    async def main():
        return graph_of(later)

    assert texts(asyncio.run(main()).body) == ["{topic}"]


def test_awaited_reads():
    @sgl.function
    async def program(s):
        s += sgl.gen("x") + sgl.gen("n", dtype=int)
        group = s.fork(2, on_error="cancel")
        group += sgl.gen("y")
        winner = await sgl.first(group)
        s += f"{await s['x']} {await winner['y']} {await s.text()}"
        await s.value("n")
        s += "never"

    graph = graph_of(program)
    assert texts(graph.body) == ["{x} {y} {x}{n}"] and "typed value of gen('n')" in graph.stopped.why
    assert [r.name for r in graph.body if isinstance(r, Read)] == ["x", "", "n"]
    fork = next(node for node in graph.body if isinstance(node, Forked))
    assert [kinds(branch) for branch in fork.branches] == [["Generate", "Read"], ["Generate"]]


def test_inline_programs_and_started_ones():
    @sgl.function
    def inner(s, item):
        s += f"inner {item}" + sgl.gen("part")
        return "value"

    @sgl.function
    def outer(s, topic):
        inner(s, topic)
        sub = inner.run(item="x")
        assert sub.ret_value == "value"
        s += sub["part"]

    graph = graph_of(outer)  # no default backend is set: nothing may need one
    assert kinds(graph.body) == ["Constant", "Generate", "Subprogram", "Read", "Constant"]
    sub = graph.body[2]
    assert isinstance(sub, Subprogram) and sub.name == "inner" and texts(sub.body) == ["inner x"]
    assert kinds(sub.body) == ["Constant", "Generate"] and graph.names == ("part",)
    assert len(list(graph.gens())) == 2


def test_a_started_program_in_every_way_of_starting_it():
    @sgl.function
    def inner(s, i):
        s += f"{i}" + sgl.gen("x")

    @sgl.function
    async def outer(s):
        await inner.arun(i=0)
        for state in await inner.arun_batch([{"i": 1}, {"i": 2}]):
            state.error()
        async for _ in inner.run(i=3, stream=True).text_async_iter():
            pass

    @sgl.function
    def plain(s):
        inner.run_batch([{"i": i} for i in range(5)])
        list(inner.run(i=5, stream=True).text_iter("x"))

    model = FakeBackend()
    sgl.set_default_backend(model)
    for program, count in ((outer, 4), (plain, 6)):
        graph = graph_of(program)
        assert graph.stopped is None, graph.stopped
        bodies = sorted(node.body[0].text for node in graph.body if isinstance(node, Subprogram))
        assert bodies == [str(i) for i in range(count)]
    assert not model.branches


def test_forks_roles_scopes_selects_and_constraints():
    class Answer(BaseModel):
        n: int

    @sgl.function
    def program(s, topic):
        with s.user():
            s += "Pick."
        with s.assistant():
            s += sgl.select("tool", ["a", "b"], temperature=0.5)
        forks = s.fork(3)
        forks += sgl.user("u") + sgl.assistant(sgl.gen("x", schema=Answer, temperature=0.3))
        forks[1] += "more"
        forks.join()
        with s.var_scope("span"):
            s += "inside" + sgl.gen(regex="[a-z]+", n=2)
        with s.copy() as other:
            other += "copied"
        tail = s.fork(2)
        tail += "said"
        tail.join("concate_and_append")
        s += "after"

    graph = graph_of(program)
    (select,) = graph.selects()
    assert (select.name, select.choices, select.temperature) == ("tool", ("a", "b"), 0.5)
    forks = [node for node in graph.body if isinstance(node, Forked)]
    joins = [node for node in graph.body if isinstance(node, Joined)]
    assert [len(f.branches) for f in forks] == [3, 1, 2]
    assert [places for places, _ in forks[0].alike()] == [(0, 2), (1,)]
    assert [(j.mode, j.size, j.names) for j in joins] == [
        ("gather_variable", 3, ("x",)),
        ("gather_variable", 1, ()),
        ("concate_and_append", 2, ()),
    ]
    gens = list(graph.gens())
    assert [gen.constraint.kind for gen in gens] == ["json_schema"] * 3 + ["regex"] and gens[-1].n == 2
    assert graph.names == ("tool", "x", "span")
    assert texts(graph.body) == ["Pick.", "inside", "after"], "what a join says again is not said twice"
    assert Begin("scope", "span", joins[0].line) not in graph.body and any(
        isinstance(n, End) and n.name == "span" for n in graph.body
    )


def test_placeholders_of_what_a_model_writes():
    seen = {}

    @sgl.function
    def program(s):
        s += sgl.gen("one") + sgl.gen("many", n=3) + sgl.select("pick", ["yes", "no"]) + sgl.gen()
        seen.update(one=s["one"], many=s["many"], pick=s["pick"], text=s.text(), meta=s.get_meta_info("one"))
        s["own"] = 5
        seen["own"] = s["own"]

    graph = graph_of(program)
    assert seen["one"] == "{one}" and isinstance(seen["one"], str)
    assert seen["many"] == ["{many[0]}", "{many[1]}", "{many[2]}"] and seen["pick"] == "yes"
    assert seen["text"] == "{one}{many[0]}yes{gen}" and seen["own"] == 5
    assert [(r.name, r.what) for r in graph.body if isinstance(r, Read)] == [
        ("one", "value"),
        ("many", "value"),
        ("pick", "value"),
        ("", "text"),
        ("one", "meta"),
    ]


def test_reads_that_no_model_answers_are_none():
    @sgl.function
    def program(s):
        s += "constant"
        assert s.text() == "constant" and s.messages() == []
        s["x"] = "1"
        with s.var_scope("scope"):
            s += "said"
        s += s["x"] + s["scope"]

    graph = graph_of(program)
    assert not [n for n in graph.body if isinstance(n, Read)] and graph.stopped is None
    assert graph.prefix == (("constantsaid1said", False),)


def test_messages_and_text_of_an_open_role():
    @sgl.function
    def program(s, topic):
        with s.user():
            s += f"about {topic}"
            assert s.text().endswith("about {topic}")
        assert s.messages() == [{"role": "user", "content": "about {topic}"}]

    assert graph_of(program).stopped is None


# -- where a dry run ends
def test_side_effects_happen_once():  # weakness 7
    calls = []

    @sgl.function
    def program(s, topic):
        calls.append(topic)
        s += topic + sgl.gen("x")

    graph_of(program)
    assert calls == ["{topic}"]
    program.run_batch([{"topic": str(i)} for i in range(8)], backend=FakeBackend())
    assert len(calls) == 9, "a batch runs no body an extra time"


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda s, x: int(x), r"ValueError: int\(\) of the placeholder \{x\}"),
        (lambda s, x: float(x), "float"),
        (lambda s, x: {"a": 1}[x], "KeyError"),
        (lambda s, x: [1, 2][x], "TypeError"),
        (lambda s, x: range(x), "no number"),
        (lambda s, x: x["field"], "no 'field'"),
        (lambda s, x: x.field, "AttributeError"),
        (lambda s, x: list(x), r"iterates over \{x\}"),
        (lambda s, x: __import__("json").loads(x), "JSONDecodeError"),
        (lambda s, x: s.value("n"), "typed value"),
        (lambda s, x: s.fork(x), "fork: size"),
    ],
)
def test_a_placeholder_is_no_value(use, says):
    @sgl.function
    def program(s):
        s += sgl.gen("x") + sgl.gen("n", dtype=int)
        use(s, s["x"])
        s += "never"

    graph = graph_of(program)
    assert isinstance(graph.stopped, Stopped) and re.search(says, graph.stopped.why), graph.stopped
    assert graph.stopped.line.startswith("test_graph.py:") and "never" not in texts(graph.body)
    assert str(graph.stopped) in str(graph) and "stopped here" in graph.svg()


def test_the_same_for_an_argument_that_was_not_given():
    @sgl.function
    def program(s, rows, key):
        s += "before"
        s += {"a": "b"}[key]

    assert "KeyError" in graph_of(program).stopped.why and "no value was given for rows, key" in str(graph_of(program))
    assert graph_of(program, key="a").stopped is None
    with pytest.raises(KeyError):
        graph_of(program, key="c", rows=[])


def test_the_programs_own_error_is_raised_as_it_is():
    @sgl.function
    def program(s):
        s += "x" + sgl.gen("a")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        graph_of(program)
    assert caught.traceback[-1].name == "program"

    @sgl.function
    def exits(s):
        s += sgl.gen("a")
        s["a"]
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        graph_of(exits)


def test_a_loop_that_never_ends_is_cut():  # weakness 6
    @sgl.function
    def says(s, topic):
        while True:
            s += "more " + sgl.gen("x")

    @sgl.function
    def reads(s):
        s += sgl.gen("x")
        while s["x"] != "done":
            s.sync()

    @sgl.function
    def compares(s):
        s += sgl.gen("x")
        x = s["x"]
        while x != "done":
            pass

    @sgl.function
    def swallows(s):
        s += sgl.gen("x")
        while True:
            with contextlib.suppress(Exception):
                s += sgl.gen("x")

    for program in (says, reads, compares, swallows):
        with within(5):
            graph = graph_of(program, limit=500)
        assert "limit=500" in graph.stopped.why
    assert 200 < len(list(graph_of(says, limit=500).gens())) <= 250
    assert 9_000 < len(graph_of(says).body) <= 10_000
    assert "limit" in graph_of(sgl.function(lambda s: s.fork(60_000)), limit=500).stopped.why


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function WeakSet:pytest.PytestUnraisableExceptionWarning")
def test_a_body_that_does_not_end_by_itself():
    """(The collector, at work in a body's thread, swallows what is raised there to end it: it is raised once more.)"""

    @sgl.function
    def spins(s):
        s += "said"
        while True:
            pass

    @sgl.function
    def stubborn(s):
        s += "said"
        while True:
            try:
                s += "more"
            except BaseException:
                if done.is_set():
                    return

    @sgl.function
    async def sleeps(s):
        s += "said"
        await asyncio.sleep(1000)

    done = threading.Event()
    for program in (spins, stubborn, sleeps):
        graph = graph_of(program, timeout=0.2)
        assert graph.stopped is not None and texts(graph.body)[0] == "said"
    for program in (spins, sleeps):
        assert "still ran after 0.2 seconds" in graph_of(program, timeout=0.2).stopped.why
    assert graph_of(spins, timeout=0.2).stopped.line.startswith("test_graph.py")
    done.set()
    for thread in threading.enumerate():
        if thread.name.startswith("sgl-graph"):
            thread.join(5)
            assert not thread.is_alive(), thread.name


def test_depth_is_bounded():
    @sgl.function
    def deeper(s):
        state = s
        while True:
            state = state.fork(1)[0]

    @sgl.function
    def again(s):
        s += "x"
        again.run()

    for program in (deeper, again):
        graph = graph_of(program)
        assert "deep" in graph.stopped.why and str(graph) and graph.svg()


def test_an_argument_that_the_body_looks_at_is_noted():
    @sgl.function
    def program(s, topic):
        s += "always "
        if topic.startswith("a"):
            s += "a "
        s += f"{topic.strip()}"

    graph = graph_of(program)
    assert kinds(graph.body) == ["Constant", "Read", "Constant"] and graph.body[1].what == "argument"
    assert graph.prefix == (("always ", False),) and graph.body[2].arguments == ("topic",)


@pytest.mark.parametrize(
    "look", [lambda x: x == "a", lambda x: "a" in x, lambda x: x[:2], len, hash, lambda x: x.upper()]
)
def test_every_way_to_look_ends_the_common_beginning(look):
    @sgl.function
    def program(s, x):
        s += "certain "
        look(x)
        s += "perhaps"

    assert graph_of(program).prefix == (("certain ", False),)


def test_a_caught_failure_to_read_an_argument_ends_it_too():
    @sgl.function
    def program(s, n):
        s += "certain "
        try:
            many = int(n)
        except ValueError:
            many = 3
        s += f"perhaps {many} {n:.2f} {n:.1}"

    graph = graph_of(program)
    assert graph.prefix == (("certain ", False),) and texts(graph.body)[-1] == "perhaps 3 {n} {n}"


def test_the_common_beginning_ends_where_anything_is_read():
    @sgl.function
    def reads_a_branch(s):
        s += "certain "
        group = s.fork(2)
        group += sgl.gen("x")
        s += "still "
        if group[0]["x"] + group[0]["x"] != "yes":
            s += "perhaps"

    @sgl.function
    def joins(s):
        s += "certain "
        group = s.fork(2)
        group += sgl.select("x", ["a", "b"])
        group.join("concate_and_append")
        s += "perhaps"

    graph = graph_of(reads_a_branch)
    assert graph.prefix == (("certain still ", False),) and graph_of(joins).prefix == (("certain ", False),)
    assert [kinds(b) for b in graph.body[1].branches] == [["Generate", "Read"], ["Generate"]], "read once a line"


def test_a_placeholder_may_be_all_of_a_turn():
    graph = graph_of(
        sgl.function(lambda s, topic: s.__iadd__(sgl.system("Be.") + sgl.user(topic))), backend=FakeBackend()
    )
    assert graph.prefix[-1] == ("<|im_end|>\n<|im_start|>user\n", True)
    assert kinds(graph.body) == ["Begin", "Constant", "End"] * 2
    (select,) = graph_of(sgl.function(lambda s, topic: s.__iadd__(sgl.select("x", [topic, "b"])))).selects()
    assert all(type(text) is str for text in (*texts(graph.body), *select.choices)), "a graph keeps no placeholder"


# -- isolation
def test_threads_make_graphs_and_run_side_by_side():  # weakness 8
    def draws(out):
        out.append(graph_of(qa))

    def runs(out):
        out.append(qa.run(question="q", backend=FakeBackend()))

    results = [[] for _ in range(16)]
    threads = [threading.Thread(target=(draws, runs)[i % 2], args=(results[i],)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = graph_of(qa)
    for i, (result,) in enumerate(results):
        assert result == expected if i % 2 == 0 else result["answer"] == "ok"


def test_a_thread_of_the_body_runs_programs_as_ever():
    model, found = FakeBackend(), []

    @sgl.function
    def program(s):
        thread = threading.Thread(target=lambda: found.append(qa.run(question="q", backend=model)["answer"]))
        thread.start()
        thread.join()

    graph_of(program)
    assert found == ["ok"] and len(model.requests) == 1


def test_nothing_is_left_of_a_dry_run():
    kept = {}

    @sgl.function
    def program(s, topic):
        kept.update(state=s, topic=topic, context=__import__("contextvars").copy_context())

    graph_of(program)
    with pytest.raises(sgl.OptionError, match="graph is finished"):
        kept["state"] += "x"
    assert kept["topic"].upper() == "{TOPIC}" and list(map(str, (kept["topic"] + "!",))) == ["{topic}!"]
    state = kept["context"].run(lambda: qa.run(question="q", backend=FakeBackend()))
    assert state["answer"] == "ok"


def test_a_dry_run_within_a_run_costs_the_run_nothing():
    @sgl.function
    def program(s):
        s += sgl.gen("x")
        graph_of(qa)

    state = program.run(backend=FakeBackend())
    assert len(state.usage.calls) == 1 and state.usage.branches == []


def test_a_dry_run_is_no_run_that_a_recorder_hears_of():
    recorder = record.Recorder()
    token = record.current.set((recorder,))
    try:
        graph_of(qa)
        assert recorder.programs == []
        qa.run(question="q", backend=FakeBackend())
        assert len(recorder.programs) == 1
    finally:
        record.current.reset(token)
        recorder.stop()


# -- printing and drawing
def test_text_of_a_graph():
    @sgl.function
    def program(s, topic):
        s += sgl.user("A " + topic)
        many = s.fork(64)
        many += sgl.assistant(sgl.gen("x", temperature=0.5, regex="a+"))
        many.join()
        s += sgl.user(s["x"][0])

    said = re.sub(r" +test_graph.py:\d+", "", str(graph_of(program)))
    assert said == "\n".join(
        [
            "program program({topic})",
            "  user",
            '    "A {topic}"',
            "  fork x64",
            "    branches 0-63, all alike (x64)",
            "      assistant",
            "        gen x <regex> temperature=0.5",
            "  join gather_variable: x",
            "  reads x",
            "  user",
            '    "{x}"',
        ]
    )


def test_drawing_is_self_contained_and_escaped(tmp_path):
    @sgl.function
    def program(s, topic):
        s += "<script>alert('&')</script> \x00\x1b\ud800 ]]> " + topic + "\n" + "word " * 5000
        s += sgl.select("<b>", ["<i>", "&amp;"]) + sgl.gen("\u6f22" * 80, stop=["</x>"])
        (a, b) = s.fork(2)
        a += "a"
        b += "b"

    graph = graph_of(program)
    assert b'"?"' in str(graph_of(sgl.function(lambda s: s.__iadd__("\ud800")))).encode()
    svg = graph.svg()
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg") and len(svg) < 30_000
    outside = re.findall(r"(?:https?:|url\(|<script|@import|href)[^\"']*", svg)
    assert outside == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme:dark" in svg and "more lines" in svg
    assert graph._repr_svg_() == svg and graph.save(tmp_path / "x.svg").read_text(encoding="utf-8") == svg
    assert graph.save(tmp_path / "x.txt").read_text(encoding="utf-8", errors="replace")
    with pytest.raises(sgl.OptionError, match=r"\.svg"):
        graph.save(tmp_path / "x.png")


def boxes(svg):
    """The rectangles of a drawing, less the page: (class, x, y, width, height)."""
    found = [e for e in ET.fromstring(svg).iter() if e.tag.endswith("rect") and e.get("class") != "page"]
    return [(e.get("class"), *(float(e.get(k)) for k in ("x", "y", "width", "height"))) for e in found]


def test_forks_stand_side_by_side_and_alike_ones_are_drawn_once():
    @sgl.function
    def program(s, alike):
        group = s.fork(64)
        for i, branch in enumerate(group):
            branch += sgl.gen("x") if alike else f"branch {i}"

    once, each = graph_of(program, alike=True).svg(), graph_of(program, alike=False).svg()
    assert len([b for b in boxes(once) if b[0] == "gen"]) == 1 and "x64" in once
    columns = [b for b in boxes(each) if b[0] == "text"]
    assert len(columns) == 5 and len({y for _, _, y, _, _ in columns}) == 1 and "59 more branches" in each
    assert all(a[1] + a[3] <= b[1] for a, b in itertools.pairwise(columns))


PARTS = st.recursive(
    st.sampled_from(["text", "gen", "select", "read", "user", "scope"]),
    lambda inner: st.tuples(st.integers(0, 4), st.lists(inner, max_size=4)),
    max_leaves=12,
)


def say(s, parts, log):
    for part in parts:
        if isinstance(part, tuple):
            group = s.fork(part[0])
            inner = [[] for _ in group]
            for branch, lines in zip(group, inner):
                say(branch, part[1], lines)
            group.join()
            log.append((*(tuple(lines) for lines in inner),))
        elif part == "user":
            s += sgl.user("hi")
            log += ["Begin", "Constant", "End"]
        elif part == "scope":
            with s.var_scope("z"):
                s += sgl.gen("y")
            log += ["Begin", "Generate", "End"]
        elif part == "read":
            s += sgl.gen("r")
            s["r"]
            log += ["Generate", "Read"]
        else:
            s += {"text": "t", "gen": sgl.gen("g"), "select": sgl.select("c", ["1", "2"])}[part]
            log.append({"text": "Constant", "gen": "Generate", "select": "Choose"}[part])


def shape(nodes):
    """What `say` logged of the same sequence."""
    found = []
    for node in nodes:
        if isinstance(node, Forked):
            found.append(tuple(tuple(shape(branch)) for branch in node.branches))
        elif not isinstance(node, Joined):
            found.append(type(node).__name__)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(PARTS, max_size=6))
def test_a_graph_says_what_the_body_said_in_its_order(parts):
    log = []

    @sgl.function
    def program(s):
        say(s, parts, log)

    graph = graph_of(program)
    assert graph.stopped is None and shape(graph.body) == log
    assert hash(graph.body) == hash(graph_of(program).body) and str(graph)
    inside = ET.fromstring(graph.svg())
    width, height = float(inside.get("width")), float(inside.get("height"))
    for _, x, y, w, h in boxes(graph.svg()):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
    log.clear()
    state = program.run(backend=FakeBackend())
    assert state.text().startswith("".join(text for text, _ in graph_of(program, backend=FakeBackend()).prefix))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_text_can_be_drawn(pieces):
    @sgl.function
    def program(s):
        for piece in pieces:
            s += piece

    ET.fromstring(graph_of(program).svg())


# -- compiling
def test_compile_prepares_pins_and_runs():
    @sgl.function
    def program(s, topic):
        s += "Classify this. " + topic
        s += sgl.gen("kind", regex="[ab]") + sgl.select("pick", ["x", "y"])

    backend = PinningBackend()
    compiled = compile_program(program, backend)
    assert backend.pinned == [(("Classify this. ", False),)] and compiled.pinned == 15
    assert [c.kind for c in backend.prepared] == ["regex"] and not backend.requests and not backend.branches
    backend.prepared.clear()
    assert compiled.run(topic="t")["kind"] == "ok" and compiled("t").text() == "Classify this. tokx"
    assert [s["pick"] for s in compiled.run_batch([{"topic": "a"}, {"topic": "b"}])] == ["x", "x"]
    assert [s["pick"] for s in compiled.run_batch([("a",)], generator_style=True)] == ["x"]
    assert asyncio.run(compiled.arun(topic="t"))["pick"] == "x"
    assert [s["pick"] for s in asyncio.run(waited(compiled.arun_batch([("a",)])))] == ["x"]
    assert len(backend.pinned) == 1, "runs pin nothing again"
    assert compiled.arg_names == ("topic",) and compiled.__name__ == "program" and "pins" in repr(compiled)
    for run in (compiled.run, lambda **k: compiled.run_batch([("a",)], **k)):
        with pytest.raises(sgl.OptionError, match="compiled for backend 'pins'"):
            run(backend=FakeBackend())


def test_compile_of_bound_arguments_pins_more(capsys):
    backend = PinningBackend()
    compiled = compile_program(qa, backend).bind(question="why")
    assert len(backend.pinned[1]) > 1 and "why" in "".join(t for t, _ in backend.pinned[1])
    assert backend.pinned[0][-1] == ("Q: ", False) and compiled.run()["answer"] == "ok"
    compiled.print_graph()
    assert capsys.readouterr().out == f"{compiled.graph}\n"


def test_compile_uses_the_default_backend_and_runs_inline():
    with pytest.raises(sgl.BackendError, match="no backend"):
        compile_program(qa)
    backend = PinningBackend()
    sgl.set_default_backend(backend)
    compiled = compile_program(qa)
    sgl.set_default_backend(None)
    assert compiled.run(question="q")["answer"] == "ok"

    @sgl.function
    def outer(s):
        compiled(s, "inline")
        s += compiled.run(question="sub")["answer"]

    assert "inline" in outer.run(backend=backend).text()
    assert kinds(graph_of(outer).body)[-3:] == ["Subprogram", "Read", "Constant"]
    assert cache_program(qa, backend) == compiled.pinned and len(backend.pinned) == 2


def test_nothing_constant_is_pinned_for_a_program_that_begins_with_an_argument():
    backend = PinningBackend()
    compiled = compile_program(sgl.function(lambda s, q: s.__iadd__(q + " and then")), backend)
    assert backend.pinned == [] and compiled.pinned == 0


@pytest.mark.parametrize(
    ("say", "backend", "error", "says"),
    [
        (lambda: sgl.select("p", ["a"]), {"can_score": False}, sgl.CapabilityError, "cannot score"),
        (lambda: sgl.gen("p", return_logprob=True), {"can_logprobs": False}, sgl.CapabilityError, "no log-prob"),
        (lambda: sgl.gen("p", regex="a"), {"constraints": ()}, sgl.CapabilityError, "cannot enforce regex"),
        (lambda: sgl.gen("p", ebnf='root ::= "a"'), {"refuses": ("ebnf",)}, sgl.ConstraintError, "cannot be enforced"),
        (lambda: sgl.user("x"), {"template": False}, sgl.CapabilityError, "chat template"),
    ],
)
def test_compile_raises_what_a_run_raises(say, backend, error, says):
    @sgl.function
    def program(s, topic):
        s += topic + sgl.gen("first")
        s["first"]
        if topic:
            s += say()

    for run in (lambda b: compile_program(program, b), lambda b: program.run(topic="x", backend=b)):
        with pytest.raises(error, match=says) as caught:
            run(PinningBackend(**backend))
        assert "test_graph.py" in str(caught.value) or "chat template" in says
    assert graph_of(program).stopped is None, "a graph is bound to no backend"


def test_a_compiled_program_on_the_toy_model_reuses_what_was_pinned():
    runtime = sgl.Runtime.toy()
    compiled = compile_program(qa, runtime)
    assert compiled.pinned > 10
    state = compiled.run(question="why", seed=1)
    assert state.usage.total.reused >= compiled.pinned - 1
    assert state.text() == qa.run(question="why", seed=1, backend=sgl.Runtime.toy()).text()


def test_the_time_of_preparing_is_not_the_bodys(monkeypatch):
    class Slow(PinningBackend):
        def prepare(self, constraint, where):
            time.sleep(0.3)
            super().prepare(constraint, where)

    @sgl.function
    def program(s):
        s += sgl.gen("a", regex="a") + sgl.gen("b", regex="b")
        s += "end"

    monkeypatch.setattr(lower, "DEFAULT_SECONDS", 0.2)
    assert compile_program(program, Slow()).graph.stopped is None


def test_what_a_program_catches_itself_is_no_error_of_compile():
    @sgl.function
    def program(s):
        try:
            s += sgl.select("p", ["a", "b"])
        except sgl.CapabilityError:
            s += sgl.gen("p")

    compiled = compile_program(program, PinningBackend(can_score=False))
    assert [gen.name for gen in compiled.graph.gens()] == ["p"] and not list(compiled.graph.selects())


def test_a_constraint_made_of_a_placeholder_is_not_prepared():
    @sgl.function
    def program(s, word):
        s += sgl.gen("a", constraint=sgl.choice([word, "other"])) + sgl.gen("b", regex="b")

    backend = PinningBackend(refuses=("choices",))
    compile_program(program, backend)
    assert [c.kind for c in backend.prepared] == ["regex"]


def test_a_program_with_a_parameter_called_backend():
    @sgl.function
    def program(s, backend):
        s += f"on {backend}"

    with pytest.raises(sgl.OptionError, match="argument of the program itself"):
        compile_program(program, PinningBackend())
    default = PinningBackend()
    sgl.set_default_backend(default)
    assert compile_program(program).run(backend="x").text() == "on x"


def test_a_dry_run_asks_nothing_of_choice_methods():
    (select,) = graph_of(
        sgl.function(lambda s: s.__iadd__(sgl.gen("x", choices=["a", "b"], choices_method=sgl.greedy_token_selection)))
    ).selects()
    assert isinstance(select, Choose) and select.method and isinstance(Generate("x"), Generate)


def test_an_awaited_read_is_noted_where_it_is_written() -> None:
    @sgl.function
    async def program(s: Any) -> None:
        s += "x" + sgl.gen("a")
        await asyncio.gather(s["a"])

    printed = str(program.graph())
    assert "reads a" in printed and "tasks.py" not in printed and Path(__file__).name in printed


def test_the_limit_counts_what_the_body_says_and_not_the_program() -> None:
    @sgl.function
    def one(s: Any) -> None:
        s += "x"

    assert one.graph(limit=1).stopped is None


def test_a_loop_that_looks_at_its_state_ends_at_the_limit() -> None:
    @sgl.function
    async def program(s: Any) -> None:
        s += "x"
        while await s.error() is None:
            await s.sync()

    started = time.monotonic()
    assert "more than limit=50" in str(program.graph(limit=50, timeout=60))
    assert time.monotonic() - started < 30
