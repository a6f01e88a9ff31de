"""`sgl.trace()`: what is heard, what is written, and that a trace tells exactly what was said."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

import sgl
from sgl.interpreter.arguments import Arguments
from sgl.interpreter.plain import plain
from sgl.interpreter.record import BranchRecord, current
from sgl.interpreter.trace.page import load, page
from sgl.interpreter.trace.recording import Trace, program_trace, trace

from ..fake import FakeBackend


@pytest.fixture
def toy() -> Any:
    with sgl.Runtime.toy() as runtime:
        sgl.set_default_backend(runtime)
        yield runtime
        runtime.check()


# -- the invariant
def ids_of(root: BranchRecord) -> dict[int, str]:
    """Branch records by identity -> their ids in the file."""
    found, todo = {}, [(root, "0")]
    while todo:
        branch, name = todo.pop()
        found[id(branch)] = name
        children = [event for event in branch.events if isinstance(event, BranchRecord)]
        todo += [(child, f"{name}.{i}") for i, child in enumerate(children)]
    return found


def text_of(program: dict[str, Any], name: str) -> str:
    """What the trace says that a branch's text is."""
    branches = {branch["id"]: branch for branch in program["branches"]}
    branch = branches[name]
    calls = list(branch["calls"])
    while branch["parent"] is not None:
        parent = branches[branch["parent"]]
        calls = parent["calls"][: branch["after"]] + calls
        branch = parent
    said = ["".join(run[0] for run in c["prompt"]) + (c["samples"] or [{"text": ""}])[0]["text"] for c in calls]
    return "".join(said) + branches[name]["tail"]


def check_tokens(data: dict[str, Any]) -> None:
    """Every call's tokens spell its samples, agree with its usage, and name steps that there are."""
    steps = {step[0] for step in data["steps"]}
    assert len(steps) == len(data["steps"])
    ids = [call["id"] for program in data["programs"] for b in program["branches"] for call in b["calls"]]
    assert len(set(ids)) == len(ids)
    for program in data["programs"]:
        for branch in program["branches"]:
            for call in branch["calls"]:
                if call["error"] is not None:
                    continue
                forced = 0
                for sample in call["samples"]:
                    assert "".join(token[0] for token in sample["tokens"]) == sample["text"]
                    known = steps if call["began"] is not None else {0}  # 0: no model was asked
                    assert all(step in known for *_, step in sample["tokens"])
                    assert [step for *_, step in sample["tokens"]] == sorted(step for *_, step in sample["tokens"])
                    forced += sum(token[3] for token in sample["tokens"])
                assert forced == call["usage"]["forced"]
                assert call["enqueued"] <= call["ended"] <= program["ended"]
                assert all(origin in ("constant", "reused") for _, origin, _ in call["prompt"])
                pairs = zip(call["prompt"], call["prompt"][1:])
                assert all(one[1] != other[1] for one, other in pairs), "runs are merged"


def check_counts(data: dict[str, Any], record: Any) -> None:
    """Prompt tokens told along each line agree with what the calls' usage counts."""
    program = program_trace(record)
    calls = {id(b): [e for e in b.events if not isinstance(e, (str, BranchRecord))] for b in _all(record.root)}
    by_id = {name: calls[key] for key, name in ids_of(record.root).items()}
    every = [call for b in program["branches"] for call in b["calls"]]
    behind = any(call["constraint"] or call["began"] is None for call in every)  # text that no step computed yet
    depth: dict[str, list[int]] = {}  # per branch: tokens after each of its calls, with that before the first
    for branch in program["branches"]:
        at = depth[branch["parent"]][branch["after"]] if branch["parent"] else 0
        depth[branch["id"]] = [at]
        for call, made in zip(branch["calls"], by_id[branch["id"]]):
            if call["error"] is not None:
                break
            length = at + sum(run[2] for run in call["prompt"])
            constant = sum(run[2] for run in call["prompt"] if run[1] == "constant")
            if call["kind"] == "gen":
                usage, kept = made.handle.result[0].usage, len(made.handle.result[0].token_ids)
                assert usage.prompt == length
                again = usage.prompt - usage.reused - constant  # the end of what was told before is computed here:
                assert 0 <= again <= (at if behind else min(at, 1))  # its last token
            else:
                kept = len(call["samples"][0]["tokens"])
                assert made.handle.result.usage.prompt > length
            at = length + kept
            depth[branch["id"]].append(at)


def _all(root: BranchRecord) -> list[BranchRecord]:
    return [root, *(each for e in root.events if isinstance(e, BranchRecord) for each in _all(e))]


def check_texts(program: dict[str, Any], states: list[Any]) -> None:
    names = ids_of(states[0]._line.record)
    for state in states:
        assert text_of(program, names[id(state._line.record)]) == state.text()


# -- random programs
WORDS = st.sampled_from([" the", "é日本", "Answer: ", "stop", "\n\n", "x", "🎉 and", " yes no", "abc. ", "<|im_end|>"])
GENS = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(0, 9),
        "temperature": st.sampled_from([0, 0.7, 1.5]),
        "n": st.sampled_from([1, 1, 1, 3]),
        "stop": st.sampled_from([None, ["e"], ["a", "1", "\n", "s"], ["日"]]),
        "min_tokens": st.just(None),
        "return_logprob": st.sampled_from([None, True]),
    }
)
PATTERNS = st.sampled_from(["stop[0-9]{2}", "(yes|no) the [a-z]{3}!!", "日本(é|abc)+x", "###", "[abc]{2,5}"])
LEAVES = st.one_of(
    st.tuples(st.just("text"), st.lists(WORDS, min_size=1, max_size=4).map("".join)),
    st.tuples(st.just("gen"), GENS),
    st.tuples(st.just("pattern"), PATTERNS),
    st.tuples(st.just("select"), st.sampled_from([("yes", "no"), (" yes", " no", "stop"), ("a", "ab", "abc")])),
    st.tuples(st.just("turn"), WORDS),
)


def programs(depth: int) -> st.SearchStrategy[list[Any]]:
    op = LEAVES
    if depth:
        modes = st.sampled_from([None, "gather_variable", "concate_and_append"])
        fork = st.tuples(st.just("fork"), st.lists(programs(depth - 1), min_size=1, max_size=3), modes)
        op = st.one_of(LEAVES, fork)
    return st.lists(op, min_size=1, max_size=5)


def play(s: Any, ops: list[Any], states: list[Any]) -> None:
    for i, op in enumerate(ops):
        if op[0] == "text":
            s += op[1]
        elif op[0] == "gen":
            s += "_" + sgl.gen(f"g{i}", **{k: v for k, v in op[1].items() if v is not None})
        elif op[0] == "pattern":
            s += sgl.gen(f"p{i}", regex=op[1], max_tokens=24)
        elif op[0] == "select":
            s += sgl.select(f"s{i}", list(op[1]))
        elif op[0] == "turn":
            s += sgl.user(op[1])
            s += sgl.assistant(sgl.gen(f"t{i}", max_tokens=4))
        else:
            _, bodies, mode = op
            group = s.fork(len(bodies))
            for child, body in zip(group, bodies):
                states.append(child)
                play(child, body, states)
            if mode is not None:
                group.join(mode)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ops=programs(2), pool=st.sampled_from([60_000, 60_000, 420]), chunk=st.sampled_from([512, 5]), warm=st.booleans()
)
def test_a_trace_tells_exactly_what_was_said(ops: list[Any], pool: int, chunk: int, warm: bool) -> None:
    states: list[Any] = []

    @sgl.function
    def prog(s: Any) -> None:
        states.append(s)
        play(s, ops, states)

    with sgl.Runtime.toy(max_total_tokens=pool, chunked_prefill_size=chunk) as runtime:
        if warm:
            prog.run(backend=runtime, seed=5).sync()
            states.clear()
        with trace() as t:
            _kept = prog.run(backend=runtime, seed=5)
        if any(state.error() is not None for state in states):
            assert pool == 420
            return
        data = t.to_dict()
        check_texts(data["programs"][0], states)
        check_tokens(data)
        if not runtime.engine.scheduler.preemptions:
            check_counts(data, t.programs[0])
        assert data["programs"][0]["branches"] == _without_frame(program_trace(t.programs[0]), data)
        page(data)
        runtime.check()


def _without_frame(program: dict[str, Any], data: dict[str, Any]) -> Any:
    """`state.trace` has the same calls; its times count from the program's start."""
    began = data["programs"][0]["began"]
    for branch in program["branches"]:
        for call in branch["calls"]:
            for name in ("enqueued", "began", "ended"):
                call[name] = call[name] if call[name] is None else pytest.approx(call[name] + began, abs=1e-5)
    return program["branches"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(options=GENS, text=WORDS, pattern=st.none() | PATTERNS)
def test_log_probabilities_are_those_of_return_logprob(options: dict[str, Any], text: str, pattern: Any) -> None:
    said = {k: v for k, v in options.items() if v is not None and k not in ("n", "return_logprob")}
    if pattern is not None:
        said = {"regex": pattern, "temperature": said["temperature"], "max_tokens": 24}

    @sgl.function
    def prog(s: Any, more: Any) -> None:
        s += text + sgl.gen("x", **said, **more)

    with sgl.Runtime.toy() as runtime:
        with trace() as t:
            _kept = prog.run(more={}, backend=runtime, seed=3)
        asked = prog.run(more={"return_logprob": True}, backend=runtime, seed=3)
        rows = asked.get_meta_info("x")["output_token_logprobs"]
        tokens = t.to_dict()["programs"][0]["branches"][0]["calls"][0]["samples"][0]["tokens"]
        for (piece, token, logprob, forced, _), row in zip(tokens, rows):
            assert token == row[1], piece
            assert (logprob is None) == bool(forced) or row[0] is None
            assert logprob is None or row[0] is None or logprob == pytest.approx(row[0], abs=1e-5)


def test_preemption_under_a_tiny_pool() -> None:
    """What is computed again counts as before: reused tokens stay reused, and every text is told once."""

    @sgl.function
    def prog(s: Any, q: str) -> None:
        s += f"The beginning that all of them share, and then {q} " + sgl.gen("a", max_tokens=20, ignore_eos=True)
        s += " and more of it " + sgl.gen("b", max_tokens=20, ignore_eos=True)

    rows = [{"q": f"row {i} " + "x" * i} for i in range(12)]
    with sgl.Runtime.toy(max_total_tokens=330) as runtime:
        runtime.engine.branches.admission._fits = lambda *_: True  # all at once
        with trace() as t:
            states = [prog.run(**row, backend=runtime) for row in rows]
        assert runtime.engine.scheduler.preemptions > 0, "the pool was not tight"
        data = t.to_dict()
        check_tokens(data)
        assert sum(c["usage"]["recomputed"] for p in data["programs"] for c in p["branches"][0]["calls"]) > 0
        for program, record, state in zip(data["programs"], t.programs, states):
            check_texts(program, [state])
            first = program["branches"][0]["calls"][0]
            counts = {kind: sum(r[2] for r in first["prompt"] if r[1] == kind) for kind in ("constant", "reused")}
            usage = first["usage"]
            assert (counts["reused"], sum(counts.values())) == (usage["reused"], usage["prompt"])
            assert record.ended is not None


class Even(BaseModel):
    n: int = Field(ge=0, le=9)

    @field_validator("n")
    @classmethod
    def even(cls, n: int) -> int:
        assert n % 2 == 0, "must be even"
        return n


def test_rejected_samples_leave_no_tokens_in_the_trace() -> None:
    """A constraint that is partly checked afterwards: the tokens told of are those of the sample that passed."""

    @sgl.function
    def prog(s: Any) -> None:
        s += "Two: " + sgl.gen("x", schema=Even, max_tokens=60) + "!"

    attempts = set()
    with sgl.Runtime.toy() as runtime:
        for seed in range(30):
            with trace() as t:
                state = prog.run(backend=runtime, seed=seed)
            if state.error() is None:
                attempts.add(state.get_meta_info("x")["constraint"]["attempts"])
                check_texts(t.to_dict()["programs"][0], [state])
                call = t.to_dict()["programs"][0]["branches"][0]["calls"][0]
                assert "".join(k[0] for k in call["samples"][0]["tokens"]) == state["x"]
                assert call["constraint"] == "schema Even"
    assert attempts - {1}, f"no sample was ever rejected: {attempts}"


# -- what is heard
@sgl.function
def hello(s: Any, name: Any = "you", **more: Any) -> Any:
    s += f"Hello {name}: " + sgl.gen("x", max_tokens=4)
    return {"said": name}


def test_programs_of_the_block_are_heard_and_no_others(toy: Any) -> None:
    hello.run("before")
    with trace() as t:
        hello.run("within", seed=4, temperature=0.5, stop=["e", "a"], budget=50)
    late = hello.run("after")
    assert t.programs[0].call == Arguments(("within",), {}) and len(t.programs) == 1
    program = t.to_dict()["programs"][0]
    assert program["args"] == {"name": "within"}
    assert program["options"] == {
        "seed": 4,
        "temperature": 0.5,
        "stop": ["e", "a"],
        "budget": {"generated": 50},
    }
    assert program["seed"] == 4 and program["value"] == {"said": "within"} and program["row"] is None
    assert program["branches"][0]["calls"][0]["params"]["stop"] == ["e", "a"]
    assert program["module"] == __name__
    with pytest.raises(sgl.OptionError, match=r"with sgl\.trace\(\)"):
        program_trace(late._body.record)
    assert current.get() == ()


def test_the_end_of_the_block_finishes_what_was_said(toy: Any, tmp_path: Path) -> None:
    with trace(tmp_path / "run.json"):
        _kept = hello.run()  # nothing is read
    data = load(tmp_path / "run.json")
    program = data["programs"][0]
    assert program["ended"] is not None and len(program["branches"][0]["calls"][0]["samples"][0]["tokens"]) == 4
    check_tokens(data)


def test_nested_traces_both_hear_and_two_threads_do_not_hear_each_other(toy: Any) -> None:
    with trace() as outer:
        hello.run("1")
        with trace() as inner:
            hello.run("2")
        hello.run("3")
    names = [[p["args"]["name"] for p in t.to_dict()["programs"]] for t in (outer, inner)]
    assert names == [["1", "2", "3"], ["2"]]
    assert [p["id"] for p in inner.to_dict()["programs"]] == [1]

    heard: dict[str, list[Any]] = {}
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with trace() as t:
            both.wait(10)
            hello.run(name)
            both.wait(10)
        heard[name] = [p["args"]["name"] for p in t.to_dict()["programs"]]

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert heard == {"a": ["a"], "b": ["b"]}


def test_tasks_and_copied_contexts_are_heard(toy: Any) -> None:
    async def main() -> Trace:
        async with trace() as t:
            await asyncio.gather(hello.arun("1"), asyncio.to_thread(hello.run, "2"))
            copied = contextvars.copy_context()
            thread = threading.Thread(target=copied.run, args=(hello.run, "3"))
            thread.start()
            await asyncio.to_thread(thread.join)
        copied.run(hello.run, "too late")
        return t

    t = asyncio.run(main())
    toy.check()  # whoever drove has told of its last step
    data = t.to_dict()
    assert sorted(p["args"]["name"] for p in data["programs"]) == ["1", "2", "3"]
    assert all(p["ended"] is not None for p in data["programs"])
    check_tokens(data)


def test_programs_inside_programs_and_rows(toy: Any) -> None:
    @sgl.function
    def outer(s: Any, q: str) -> str:
        s += q + sgl.gen("x", max_tokens=3)
        return str(hello.run(q)["x"])

    with trace() as t:
        states = outer.run_batch([{"q": f"row {i}"} for i in range(5)])
    toy.check()  # whoever drove has told of its last step
    data = t.to_dict()
    outers = [p for p in data["programs"] if p["name"] == "outer"]
    assert sorted(p["row"] for p in outers) == list(range(5)) and len(data["programs"]) == 10
    for p in data["programs"]:
        if p["name"] == "hello":
            caller = next(o for o in outers if o["id"] == p["caller"])
            assert p["args"]["name"] == caller["args"]["q"] and p["row"] is None
            assert caller["value"] == p["branches"][0]["calls"][0]["samples"][0]["text"]
    check_tokens(data)
    for state in states:
        check_texts(next(p for p in outers if p["args"]["q"] in state.text()), [state])


def test_a_stream_is_written_as_running_and_told_when_it_ends(toy: Any, tmp_path: Path) -> None:
    go = threading.Event()

    @sgl.function
    def slow(s: Any) -> None:
        s += "one" + sgl.gen("x", max_tokens=3)
        s["x"]
        go.wait(10)
        s += "two" + sgl.gen("y", max_tokens=3)

    with trace(tmp_path / "run.json") as t:
        state = slow.run(stream=True)
        first = state["x"]
    program = load(tmp_path / "run.json")["programs"][0]
    assert program["ended"] is None and program["options"] == {"stream": True}
    assert [c["samples"][0]["text"] for c in program["branches"][0]["calls"]] == [first]
    assert "1 programs running" in repr(t)
    go.set()
    state["y"]
    state.sync()
    toy.check()
    data = t.to_dict()
    assert data["programs"][0]["ended"] is not None
    check_tokens(data)
    check_texts(data["programs"][0], [state])


def test_unfinished_calls_are_not_waited_for() -> None:
    backend = FakeBackend("abcdef", manual=True)

    states: list[Any] = []
    t = trace()

    async def main() -> None:
        with t:  # on an event loop: a plain `with` waits for nothing
            states.append(hello.run(backend=backend))
            for _ in range(4):
                backend.step()

    asyncio.run(main())
    program = t.to_dict()["programs"][0]
    call = program["branches"][0]["calls"][0]
    assert program["ended"] is None and call["ended"] is None and call["error"] is None
    assert call["samples"] == [{"text": "abc", "finish": None, "tokens": []}]
    assert call["prompt"] == [["Hello you: ", "constant", None]]
    backend.steps()
    program = t.to_dict()["programs"][0]
    assert program["ended"] is not None and program["branches"][0]["calls"][0]["samples"][0]["text"] == "abcdef"


# -- errors
def test_failed_and_cancelled_calls(toy: Any, tmp_path: Path) -> None:
    @sgl.function
    def failing(s: Any) -> None:
        s += "one" + sgl.gen("x", max_tokens=3)
        f = s.fork(2)
        f[0] += "bad" + sgl.gen("y", regex="[0-9]{30}", max_tokens=5)
        f[1] += "gone" + sgl.gen("z", max_tokens=5)
        f[1].cancel()
        f.join()
        s["y"][0]

    with pytest.raises(sgl.ConstraintError), trace(tmp_path / "run.json"):
        failing.run()
    program = load(tmp_path / "run.json")["programs"][0]
    root, bad, gone = program["branches"]
    assert program["error"]["type"] == "ConstraintError" and program["error"]["where"].startswith("test_trace.py:")
    assert root["error"] is None and root["calls"][0]["error"] is None
    assert bad["error"]["type"] == "ConstraintError" and bad["calls"][0]["error"] == bad["error"]
    assert bad["calls"][0]["where"] == bad["error"]["where"] and "gen('y')" in bad["error"]["where"]
    assert bad["calls"][0]["prompt"] == [["bad", "constant", None]]
    assert gone["calls"][0]["error"]["type"] == "Cancelled" and gone["calls"][0]["ended"] is not None
    assert [b["joined"] for b in program["branches"]] == [None, "gather_variable", "gather_variable"]
    assert [b["label"] for b in program["branches"]] == ["failing", "branch 0 of 2", "branch 1 of 2"]


def test_an_error_of_the_block_is_raised_and_the_file_written(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), trace(tmp_path / "run.json"):
        hello.run()
        1 / 0  # noqa: B018
    assert len(load(tmp_path / "run.json")["programs"]) == 1
    assert current.get() == ()


def test_what_cannot_be_written_is_said(toy: Any, tmp_path: Path) -> None:
    with pytest.raises(sgl.OptionError, match=r"no folder.*give sgl\.trace\(\) a path"), trace(tmp_path / "no" / "x"):
        raise AssertionError("the block must not begin")
    with pytest.raises(sgl.OptionError, match="cannot write the trace"), trace(tmp_path) as t:
        hello.run()
    assert len(t.to_dict()["programs"]) == 1
    with pytest.raises(KeyError), trace(tmp_path):  # the block's own error is the one that is raised
        raise KeyError("mine")
    with pytest.raises(sgl.OptionError, match="used already"), t:
        pass
    with pytest.raises(sgl.OptionError, match="must be a file name"):
        trace(3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# -- data
@pytest.mark.parametrize(
    ("value", "data"),
    [
        ((1, [True, None]), [1, [True, None]]),
        ({"a": 1.5}, {"a": 1.5}),
        (float("nan"), {"repr": "nan"}),
        ({1: 2}, {"repr": "{1: 2}"}),
        ({"repr": "x"}, {"repr": "{'repr': 'x'}"}),
        (b"x", {"repr": "b'x'"}),
        ([{"a": {3}}], {"repr": "[{'a': {3}}]"}),
    ],
)
def test_values_are_json_data_or_spelled(value: Any, data: Any) -> None:
    assert plain(value) == data
    json.dumps(plain(value), allow_nan=False)


def test_hostile_values_are_written(toy: Any, tmp_path: Path) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with trace(tmp_path / "run.json"):
        for value in (Broken(), loop, deep, 10**9999, "\ud800", "</script>", 1 << 60, object()):
            hello.run(1, other=value)
    data = load(tmp_path / "run.json")
    assert data["programs"][3]["args"]["more"]["other"]["repr"].startswith("0x")
    page(data)
    while deep:
        deep = deep[0]


def test_a_returned_state_is_neither_waited_for_nor_kept() -> None:
    backend = FakeBackend("abcdef", manual=True)

    @sgl.function
    def gives(s: Any) -> Any:
        s += sgl.gen("x", max_tokens=3)
        return [s]

    async def main() -> Any:
        with trace() as t:
            gives.run(backend=backend)
        return t

    assert asyncio.run(main()).to_dict()["programs"][0]["value"] == {"repr": "[<ProgramState>]"}


def test_arguments_are_as_they_were_at_the_start(toy: Any) -> None:
    @sgl.function
    def changes(s: Any, first: Any, *rest: Any, key: Any = None) -> None:
        first.append("changed")

    with trace() as t:
        changes.run(["as it was"], 1, 2, key={"a": (1,)})
    assert t.to_dict()["programs"][0]["args"] == {"first": ["as it was"], "rest": [1, 2], "key": {"a": [1]}}


def test_steps_of_two_backends_have_numbers_of_their_own(toy: Any) -> None:
    with sgl.Runtime.toy() as second, trace() as t:
        hello.run("a")["x"]
        hello.run("b", backend=second)["x"]
        hello.run("c")["x"]
    data = t.to_dict()
    check_tokens(data)
    used = [{k[4] for k in p["branches"][0]["calls"][0]["samples"][0]["tokens"]} for p in data["programs"]]
    assert all(one.isdisjoint(other) for i, one in enumerate(used) for other in used[:i])
    assert data["backend"]["name"] == "Runtime(toy)" and data["backend"]["pool_tokens"] == 65536
    assert toy.engine.watchers == [] and data["sgl"] == sgl.__version__ and data["created"].endswith("Z")


def test_a_page_and_a_notebook_view(toy: Any, tmp_path: Path) -> None:
    with trace() as t:
        _kept = hello.run("<b>")
    text = t.html(tmp_path / "run.html")
    assert text == (tmp_path / "run.html").read_text(encoding="utf-8") and text.startswith("<!")
    assert t._repr_html_().startswith("<iframe srcdoc=") and "<script" not in t._repr_html_()
    assert repr(t) == "<sgl trace: 1 programs, 1 calls>"


def test_a_record_keeps_no_branch_alive(toy: Any) -> None:
    @sgl.function
    def forks(s: Any) -> None:
        s += "the beginning of it all" + sgl.gen("x", max_tokens=3)
        s.fork(3)
        s["x"]

    with trace() as t:
        forks.run()
    gc.collect()
    toy.check()  # takes notice of what was dropped
    assert toy.get_server_info()["attached"] == 0 and len(t.programs) == 1


@pytest.mark.model
def test_the_real_model_is_told_exactly() -> None:
    states: list[Any] = []

    @sgl.function
    def chat(s: Any) -> None:
        states.append(s)
        s += sgl.system("You are brief.") + sgl.user("Which city — Zürich or 東京 — is larger?")
        s += sgl.assistant("It is " + sgl.gen("a", max_tokens=12, temperature=0, stop=["\n"]))
        s += sgl.user("Sure?") + sgl.assistant_begin() + sgl.select("b", ["Yes", "No, it is not"])
        group = s.fork(2)
        for i, child in enumerate(group):
            states.append(child)
            child += f" Reason {i}: " + sgl.gen("c", max_tokens=8, n=2) + " The year: " + sgl.gen("d", dtype=int)
        group.join("concate_and_append")

    with sgl.Runtime(random_seed=0) as runtime:
        with trace() as t:
            _kept = chat.run(backend=runtime)
        data = t.to_dict()
        check_texts(data["programs"][0], states)
        check_tokens(data)
        check_counts(data, t.programs[0])
        call = data["programs"][0]["branches"][0]["calls"][0]
        asked = chat.run(backend=runtime, return_logprob=True).get_meta_info("a")["output_token_logprobs"]
        tokens = call["samples"][0]["tokens"]
        assert [token[1] for token in tokens] == [row[1] for row in asked][: len(tokens)] and len(tokens) >= 5
        for (_, _, logprob, _, _), row in zip(tokens, asked):
            assert logprob == pytest.approx(row[0], abs=1e-3)
        page(data)
