"""`sgl.replay`: the same again on the same model, and the first difference wherever something changed."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgl
from sgl.interpreter.trace.recording import trace
from sgl.interpreter.trace.replay import replay

from ..fake import FakeBackend
from .test_trace import play, programs

QUESTIONS = [{"q": f"number {i}?"} for i in range(6)]


@sgl.function
def inner(s: Any, about: str) -> None:
    s += f"About {about}: " + sgl.gen("note", max_tokens=5, ignore_eos=True)


@sgl.function
def qa(s: Any, q: str, tags: Any = ("a", "b")) -> Any:
    s += sgl.user(f"Question {q}")
    s += sgl.assistant(sgl.gen("a", max_tokens=6, stop=["e", "1"]))
    s += "\nPicked: " + sgl.select("pick", ["yes", "no", "stop"], temperature=1.0)
    group = s.fork(2)
    for i, child in enumerate(group):
        child += f" branch {i} " + sgl.gen("b", max_tokens=4, n=2, ignore_eos=True)
    group.join()
    s += str(s["b"]) + sgl.gen("c", regex="(yes|no)[0-9]{3}", max_tokens=12)
    notes = [state["note"] for state in inner.run_batch([{"about": q}, {"about": q + "!"}], backend=s._line.backend)]
    s += inner.run(notes[0], backend=s._line.backend)["note"]
    return {"pick": s["pick"], "notes": notes, "last": s["c"]}


@pytest.fixture
def toy() -> Any:
    with sgl.Runtime.toy(random_seed=11) as runtime:
        sgl.set_default_backend(runtime)
        yield runtime
        runtime.check()


def recorded(path: Path | None = None) -> Any:
    """A traced batch without seeds of its own: each run gets the runtime's next."""
    with trace(path) as t:
        qa.run_batch(QUESTIONS)
    assert len(t.programs) == 4 * len(QUESTIONS)
    return t


# -- the same again
def test_a_live_trace_and_its_file_are_repeated(toy: Any, tmp_path: Path) -> None:
    t = recorded(tmp_path / "run.json")
    for source in (t, t.to_dict(), tmp_path / "run.json", str(tmp_path / "run.json")):
        report = replay(source, None if source is t else {"qa": qa})
        assert report.ok and bool(report) and report.difference is None, report
        assert len(report.programs) == len(QUESTIONS)
        assert sum(each.calls for each in report.programs) == len(QUESTIONS) * (5 + 3)
    assert str(report) == "replay: 6 programs, 48 calls: all as recorded"


def test_cache_order_and_pool_make_no_difference(toy: Any, tmp_path: Path) -> None:
    t = recorded()
    toy.flush_cache()
    assert replay(t)
    data = t.to_dict()
    random.Random(1).shuffle(data["programs"])
    with sgl.Runtime.toy(max_total_tokens=900, chunked_prefill_size=7, random_seed=99) as other:
        report = replay(data, qa, backend=other)
        assert report, report
        assert replay(t, backend=other)
        inner.run("what comes between", backend=other)["note"]
        assert replay(t, backend=other)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ops=programs(1), seed=st.none() | st.integers(0, 9))
def test_random_programs_are_repeated(ops: list[Any], seed: int | None) -> None:
    @sgl.function
    def prog(s: Any) -> None:
        play(s, ops, kept)

    kept: list[Any] = []
    with sgl.Runtime.toy() as one, sgl.Runtime.toy(chunked_prefill_size=3, random_seed=5) as other:
        with trace() as t:
            kept += [prog.run(backend=one, seed=seed) for _ in range(2)]
        report = replay(t)
        assert report, report
        one.flush_cache()
        report = replay(t.to_dict(), prog, backend=other)
        assert report, report


def test_async_programs_streams_and_errors_are_repeated(toy: Any) -> None:
    @sgl.function
    async def later(s: Any, n: int) -> Any:
        s += f"later {n}" + sgl.gen("x", max_tokens=5)
        return await s["x"]

    @sgl.function
    def fails(s: Any) -> None:
        s += "x" + sgl.gen("bad", regex="[0-9]{30}", max_tokens=4)
        s["bad"]

    @sgl.function
    def raises(s: Any) -> None:
        s += "x" + sgl.gen("fine", max_tokens=4)
        raise LookupError("mine")

    async def main() -> None:
        await asyncio.gather(later.arun(1), later.arun(2))

    with trace() as t:
        asyncio.run(main())
        inner.run("a stream", stream=True)["note"]
        with pytest.raises(sgl.ConstraintError):
            fails.run()
        with pytest.raises(LookupError):
            raises.run()
    report = replay(t)
    assert report and len(report.programs) == 5, report
    assert [p["error"] and p["error"]["type"] for p in t.to_dict()["programs"]][-2:] == [
        "ConstraintError",
        "LookupError",
    ]

    async def within() -> None:
        with pytest.raises(sgl.OptionError, match=r"asyncio\.to_thread\(sgl\.replay"):
            replay(t)
        assert await asyncio.to_thread(replay, t)

    asyncio.run(within())


def test_what_was_cancelled_is_not_compared(toy: Any) -> None:
    @sgl.function
    def stopped(s: Any) -> None:
        s += "x" + sgl.gen("first", max_tokens=4)
        s["first"]
        s += sgl.gen("second", max_tokens=4) + sgl.gen("third", max_tokens=4)
        s.cancel()

    with trace() as t:
        _kept = stopped.run()
    report = replay(t)
    assert report.ok and report.programs[0].calls == 1 and report.programs[0].skipped == 2
    assert "2 calls were cancelled or not finished" in str(report)


def test_a_race_may_have_another_winner(toy: Any) -> None:
    """The clock decides which branch of `sgl.first` is cancelled; a flag takes its place here."""
    loser = [None]

    @sgl.function
    def race(s: Any) -> str:
        group = s.fork(2)
        group += sgl.gen("a", max_tokens=3, ignore_eos=True)
        [branch["a"] for branch in group]  # both are done: nothing of the record is cancelled
        for i, branch in enumerate(group):
            branch += sgl.gen("b", max_tokens=100, ignore_eos=True)
            if i == loser[0]:
                branch.cancel()
            else:
                branch["b"]
        if loser[0] is not None:
            group[0] += "!" + sgl.gen("c", max_tokens=2, ignore_eos=True)  # what only this winner says
        return str(group[0 if loser[0] else 1]["a"])

    with trace() as t:
        race.run()
    assert replay(t)
    loser[0] = 1
    report = replay(t)
    assert report.ok and report.programs[0].skipped == 1, report
    assert "1 calls were cancelled or not finished, in the trace or now" in str(report)


def test_arguments_that_a_body_changed_and_those_that_are_no_data(toy: Any, tmp_path: Path) -> None:
    class Thing:
        name = "thing"

    @sgl.function
    def uses(s: Any, words: list[str], thing: Any, *rest: Any, **more: Any) -> None:
        s += " ".join(words) + thing.name + str(rest) + str(more) + sgl.gen("x", max_tokens=3)
        words.append("again")

    with trace(tmp_path / "run.json") as t:
        uses.run(["one"], Thing(), (1, 2), 3, key={"a": 1})["x"]
    assert replay(t) and replay(t)
    with pytest.raises(sgl.OptionError, match=r"only the repr of its argument 'thing'.*live trace"):
        replay(tmp_path / "run.json", uses)


# -- differences
def test_a_changed_model_is_found_at_its_first_token(toy: Any) -> None:
    t = recorded()
    calls = [b["calls"] for p in t.to_dict()["programs"] if p["name"] == "qa" for b in p["branches"]]
    never = {k[1] for call in calls[0][:1] for s in call["samples"] for k in s["tokens"]}
    favoured = next(i for i in range(40, 60) if i not in never)
    with sgl.Runtime.toy(favour={favoured: 30.0}) as other:
        report = replay(t, backend=other)
    found = report.difference
    assert not report and found is not None and not report.ok
    first = t.to_dict()["programs"][0]
    assert found.program == f"program qa, row {first['row']}" and found.branch == "0"
    assert found.what == "token 0" and f"(id {favoured}," in found.now and "logprob -" in found.recorded
    prompt = first["branches"][0]["calls"][0]["prompt"]
    assert found.before == "".join(run[0] for run in prompt)
    assert "replay: 6 of 6 programs differ" in str(report) and "gen('a') at test_replay.py" in str(report)


def test_a_model_that_changes_late_is_found_in_a_branch(toy: Any) -> None:
    """Everything up to the fork is as recorded; the first difference is in branch 1, not in the join after it."""

    @sgl.function
    def forks(s: Any) -> None:
        s += "one " + sgl.gen("a", max_tokens=3, temperature=0)
        group = s.fork(3)
        for i, child in enumerate(group):
            child += f" branch {i} " + sgl.gen("b", max_tokens=6, temperature=0)
        group.join()
        s += str(s["b"]) + sgl.gen("c", max_tokens=4, temperature=0)

    with trace() as t:
        forks.run().sync()
    data = t.to_dict()
    branches = data["programs"][0]["branches"]
    token = branches[2]["calls"][0]["samples"][0]["tokens"][3]
    token[1] += 1
    report = replay(data, forks)
    assert report.difference is not None
    assert (report.difference.branch, report.difference.what) == ("0.1", "token 3")
    assert report.difference.before.endswith("".join(k[0] for k in branches[2]["calls"][0]["samples"][0]["tokens"][:3]))


def changed_text(s: Any, q: str, tags: Any = None) -> None:
    s += sgl.user(f"Another question {q}") + sgl.assistant(sgl.gen("a", max_tokens=6, stop=["e", "1"]))


def changed_option(s: Any, q: str, tags: Any = None) -> None:
    s += sgl.user(f"Question {q}")
    s += sgl.assistant(sgl.gen("a", max_tokens=7, stop=["e", "1"]))


def changed_end(s: Any, q: str, tags: Any = None) -> None:
    s += sgl.user(f"Question {q}")
    s += sgl.assistant(sgl.gen("a", max_tokens=6, stop=["e", "1"]))


def changed_error(s: Any, q: str, tags: Any = None) -> None:
    raise LookupError(q)


@pytest.mark.parametrize(
    ("func", "what", "recorded_is", "now_is"),
    [
        (changed_text, "the text before it", "Question", "Another"),
        (changed_option, "params", "6", "7"),
        (changed_end, "the call", "select 'pick'", "(nothing)"),
        (changed_error, "the call", "gen 'a'", "(nothing)"),
    ],
)
def test_a_changed_program_is_found(toy: Any, func: Any, what: str, recorded_is: str, now_is: str) -> None:
    t = recorded()
    found = replay(t, {"qa": func}).difference
    assert found is not None and found.what == what, found
    assert recorded_is in str(found.recorded) and now_is in str(found.now)


def test_other_text_at_the_end_and_another_value_are_found(toy: Any) -> None:
    @sgl.function
    def ends(s: Any) -> Any:
        s += "a" + sgl.gen("x", max_tokens=3) + "the end"
        return 1

    @sgl.function
    def more(s: Any) -> Any:
        s += "a" + sgl.gen("x", max_tokens=3) + "the end"
        s += sgl.gen("y", max_tokens=3)
        return 1

    with trace() as t:
        ends.run()["x"]
    data = t.to_dict()

    def edited(**changes: Any) -> Any:
        copy = json.loads(json.dumps(data))
        copy["programs"][0].update(changes)
        return copy

    assert replay(data, ends)
    assert replay(edited(value=2), ends).difference.what == "the return value"  # type: ignore[union-attr]
    other = edited()
    other["programs"][0]["branches"][0]["tail"] = "The end"
    found = replay(other, ends).difference
    assert found is not None and (found.what, found.now) == ("the last text", "the end")
    found = replay(data, {"ends": more}).difference
    assert found is not None and (found.what, found.recorded, found.now) == ("the call", "(nothing)", "gen")


@pytest.mark.parametrize(
    ("edit", "what", "call"),
    [
        (lambda b: b[0]["calls"][0]["samples"][0].update(text="other"), "the text", "gen('a')"),
        (lambda b: b[0]["calls"][1]["choices"][0].update(text="maybe"), "the list of choices", "select('pick')"),
        (lambda b: [c.update(picked=not c["picked"]) for c in b[0]["calls"][1]["choices"]], "the choice", "select"),
        (lambda b: b[2]["calls"][0]["samples"].pop(), "the number of samples", "gen('b')"),
        (lambda b: b[2]["calls"][0]["samples"][1]["tokens"][1].__setitem__(1, 7), "token 1 of sample 1", "gen('b')"),
        (lambda b: b[0]["calls"][2].update(error={"type": "Truncated"}, samples=[]), "the error", "gen('c')"),
        (lambda b: b[0]["calls"].pop(), "the call", "gen('c')"),
        (lambda b: b.pop(), "the branch", None),
    ],
)
def test_an_edited_file_is_found(toy: Any, tmp_path: Path, edit: Any, what: str, call: str | None) -> None:
    recorded(tmp_path / "run.json")
    data = json.loads((tmp_path / "run.json").read_text())
    place = [i for i, p in enumerate(data["programs"]) if p["caller"] is None][2]
    edit(data["programs"][place]["branches"])
    (tmp_path / "run.json").write_text(json.dumps(data))
    report = replay(tmp_path / "run.json", {"qa": qa})
    found = report.difference
    assert found is not None and found.what == what, found
    assert [each.difference is not None for each in report.programs] == [False, False, True, False, False, False]
    assert found.program == f"program qa, row {data['programs'][place]['row']}"
    assert (found.call or "").startswith(call or "")


def test_a_program_that_another_ran_is_found(toy: Any, tmp_path: Path) -> None:
    data = recorded().to_dict()
    first = data["programs"][0]["id"]
    of_first = [p for p in data["programs"] if p["caller"] == first]
    of_first[-1]["branches"][0]["calls"][0]["samples"][0]["tokens"][2][1] += 1
    found = replay(data, qa).difference
    assert found is not None and found.program == "program inner" and found.what == "token 2"
    data["programs"] = [p for p in data["programs"] if p is not of_first[-1]]
    found = replay(data, qa).difference
    assert found is not None and (found.what, found.now) == ("a program that it runs", "inner")


# -- what cannot be repeated
def test_what_is_missing_is_said(toy: Any, tmp_path: Path) -> None:
    recorded(tmp_path / "run.json")
    path = tmp_path / "run.json"
    with pytest.raises(sgl.OptionError, match=r"a file holds no functions: pass program=\{'qa'"):
        replay(path)
    with pytest.raises(sgl.OptionError, match=r"pass program=\{'qa'"):
        replay(path, {"other": qa})
    with pytest.raises(sgl.OptionError, match="program= is 'inner'"):
        replay(path, inner)
    with pytest.raises(sgl.OptionError, match=r"must be an sgl\.function"):
        replay(path, {"qa": 3})
    with pytest.raises(sgl.OptionError, match=r"with the arguments q, tags, and the program given is qa\(s: 'Any', a"):
        replay(path, {"qa": inner})
    with pytest.raises(sgl.OptionError, match=r"recorded on Runtime\(toy\), and this backend is fake"):
        replay(path, {"qa": qa}, backend=FakeBackend())
    with pytest.raises(sgl.OptionError, match="cannot read the trace"):
        replay(tmp_path / "none.json", {"qa": qa})
    with pytest.raises(sgl.OptionError, match="or the name of its file"):
        replay(3)  # type: ignore[arg-type]
    with pytest.raises(sgl.OptionError, match="a trace of version 1 is needed"):
        replay({"sgl_trace": 7}, {"qa": qa})
    data = json.loads(path.read_text())
    del data["programs"][0]["branches"][0]["calls"][0]["samples"]
    with pytest.raises(sgl.OptionError, match="a call in it has no 'samples'"):
        replay(data, {"qa": qa})


def test_a_replay_on_another_backend_of_a_live_trace_needs_the_same_model() -> None:
    backend = FakeBackend("hello")
    with trace() as t:
        inner.run("x", backend=backend)["note"]
    assert replay(t), "a backend that gives no tokens: texts are compared"
    with sgl.Runtime.toy() as runtime, pytest.raises(sgl.OptionError, match="recorded on fake"):
        replay(t, backend=runtime)
    found = replay(t, backend=FakeBackend("hullo")).difference
    assert found is not None and (found.what, found.recorded, found.now) == ("the text", "hello", "hullo")
