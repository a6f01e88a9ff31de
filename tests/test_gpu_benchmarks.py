"""The GPU benchmarks, on a CPU: every program runs at the size it says, and the limits are what a hand computes."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sgl

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
MODULES = ("texts", "limits", "cases", "models", "report", "programs", "raw", "ablations", "smoke", "idle")


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    """The modules of the folder, which are scripts and no package; one thread, as their models are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runtime(gpu: Any) -> Iterator[sgl.Runtime]:
    runtime, seconds = gpu.models.start("tiny", None, {"device": "cpu", "max_total_tokens": 30_000})
    assert seconds > 0
    with runtime:
        yield runtime


def call(monkeypatch: pytest.MonkeyPatch, module: Any, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *argv])
    module.main()


# -- limits


def shape(gpu: Any) -> Any:
    """Weights of 220 bytes, 8 bytes of KV a token, 16 FLOPs a pair."""
    return gpu.limits.Shape(layers=1, block=100, head=10, query_width=4, kv_width=2, element=2)


def steps(
    gpu: Any, programs: int, shared: int, *stages: Any, wave: int | None = None, later: bool = False
) -> list[Any]:
    work = gpu.limits.Work(programs, shared, tuple(gpu.limits.Stage(*stage) for stage in stages))
    found = gpu.limits._Wave(work, wave or programs, 0 if later else shared).steps()
    return [(step.rows, step.wanted, step.read, step.pairs) for step in found]


def test_a_prompt_and_two_tokens_by_hand(gpu: Any) -> None:
    assert steps(gpu, 1, 0, (1, 3, 2)) == [(3, 1, 0, 6), (1, 1, 3, 4)]
    work = gpu.limits.Work(1, 0, (gpu.limits.Stage(1, 3, 2),))
    # bytes: 220 + 3 * 8, then 220 + 4 * 8; FLOPs: 600 + 20 + 96, then 200 + 20 + 64
    slow = gpu.limits.limit(work, shape(gpu), gpu.limits.Card("slow", 1, 1))
    assert (slow.memory, slow.compute, slow.seconds, slow.floor) == (244 + 252, 716 + 284, 1000, 1000)
    fast = gpu.limits.limit(work, shape(gpu), gpu.limits.Card("fast", 1, 2))
    assert (fast.seconds, fast.floor, fast.steps, fast.rows) == (358 + 252, 500, 2, 4)


def test_a_shared_prefix_is_computed_by_the_first_wave_and_read_once_a_step(gpu: Any) -> None:
    assert steps(gpu, 2, 10, (1, 2, 1)) == [(14, 2, 0, 55 + 2 * 23)]
    assert steps(gpu, 2, 10, (1, 2, 2), wave=1, later=True) == [(2, 1, 10, 23), (1, 1, 12, 13)]
    work = gpu.limits.Work(3, 10, (gpu.limits.Stage(1, 2, 1),))
    found = gpu.limits.limit(work, shape(gpu), gpu.limits.H200, in_flight=2)
    assert (found.steps, found.rows) == (2, 16)


def test_forks_share_what_is_before_them_and_leave_nothing_when_they_end(gpu: Any) -> None:
    found = steps(gpu, 1, 0, (1, 4, 0), (2, 1, 2), (1, 5, 1))
    assert found == [(6, 2, 0, 10 + 2 * 5), (2, 2, 6, 2 * 6), (6, 1, 4, 35 + 10)]


def test_choices_are_scored_beside_the_path(gpu: Any) -> None:
    assert steps(gpu, 1, 0, (1, 3, 1, 2), (1, 1, 1)) == [(5, 3, 0, 6 + 2 * 3), (2, 1, 3, 4 + 5)]


def test_the_shapes_are_the_models_they_are_called_after(gpu: Any) -> None:
    large, small = (gpu.limits.Shape.of(gpu.models.SHAPES[name]) for name in ("8b", "0.6b"))
    assert large.weights / 1e9 == pytest.approx(15.1, abs=0.05)
    assert large.kv_token == 2 * 36 * 8 * 128 * 2
    assert small.weights / 2e9 == pytest.approx(0.596, abs=0.005)


def test_every_program_has_figures_to_be_compared_with(gpu: Any) -> None:
    assert set(gpu.cases.NAMES) == set(gpu.report.SGLANG) == set(gpu.report.TARGETS)
    assert len(gpu.cases.NAMES) == 11


# -- programs


def test_texts_have_the_size_asked_for(gpu: Any, runtime: sgl.Runtime) -> None:
    texts = gpu.texts.Texts(runtime.tokenizer)
    for size in (8, 33, 200):
        text = texts.words(size, "seed", begin="Question:", end="\n") if size > 20 else texts.words(size, "seed")
        assert texts.count(text) == size
    assert texts.words(50, 1) == texts.words(50, 1) != texts.words(50, 2)
    with pytest.raises(ValueError, match="a text of 3 tokens came out as"):
        texts.words(3, 0, begin="much longer than that")


def test_programs_run_and_write_as_much_as_they_say(gpu: Any, runtime: sgl.Runtime) -> None:
    cases = gpu.programs.build(runtime, None, small=True)
    assert [case.name for case in cases] == list(gpu.cases.NAMES)
    for case in cases:
        found = gpu.programs.run_once(case, runtime, 64)
        assert not found.failed, case.name
        assert case.generated in (None, found.generated)
        least = gpu.programs.limit_of(case, found, "tiny", 64)
        assert 0 < least.steps <= found.steps
    runtime.check()


def test_a_program_of_another_size_is_noticed(gpu: Any, runtime: sgl.Runtime) -> None:
    case = gpu.programs.build(runtime, ["few_shot"], small=True)[0]
    texts = gpu.texts.Texts(runtime.tokenizer)
    longer = gpu.cases.Case(case.name, case.program, case.rows, case.opening * 2, case.generated * 2, case.work)
    with pytest.raises(ValueError, match="a text of"):
        gpu.programs.check_sizes(longer, texts)
    with pytest.raises(AssertionError, match="tokens generated"):
        gpu.programs.run_once(longer, runtime, 64)


def test_a_record_is_what_its_constraint_says(gpu: Any, runtime: sgl.Runtime) -> None:
    for case in gpu.programs.build(runtime, ["regex_record", "schema_record"], small=True):
        for state in case.program.run_batch(case.rows, backend=runtime):
            record = json.loads(state["record"])
            assert list(record) == ["name", "age", "house", "height", "friend", "fear", "awake", "skills"]
            assert record["house"] in gpu.cases.HOUSES and 2 <= len(record["skills"]) <= 3


@pytest.mark.parametrize("name, together", [("few_shot", 64), ("judge", 3), ("few_shot", 2)])
def test_no_more_programs_are_in_flight_than_asked(gpu: Any, runtime: sgl.Runtime, name: str, together: int) -> None:
    """Whether their bodies hold a thread each (judge), or `run_batch` has four in flight a thread."""
    seen = []

    @sgl.function
    def program(s: Any, i: int) -> None:
        info = runtime.get_server_info()
        seen.append(info["running"] + info["queued"])
        s += f"{i}:" + sgl.gen("a", max_tokens=6, temperature=0, ignore_eos=True)

    case = gpu.cases.Case(name, program, [{"i": i} for i in range(150)], 1, None, None)
    threads, run = gpu.programs.run_in(case, together)
    run.run_batch(case.rows, num_threads=threads, backend=runtime)
    assert len(seen) == 150 and 1 <= max(seen) <= together - 1


def test_the_profile_shows_the_steps(gpu: Any, runtime: sgl.Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    case = gpu.programs.build(runtime, ["few_shot"], small=True)[0]
    gpu.programs.show_profile(case, runtime, "auto")
    told = capsys.readouterr().out
    assert "few_shot: " in told and "tottime" in told
    assert "0.000 s within" not in told


def test_gaps_are_between_what_runs(gpu: Any) -> None:
    events = [(40, 50), (10, 20), (15, 30), (16, 18), (50, 60)]
    assert gpu.idle.busy_and_gaps(events) == (40, [10])
    assert gpu.idle.busy_and_gaps([]) == (0, [])


def test_a_batch_of_token_ids(gpu: Any, runtime: sgl.Runtime) -> None:
    found = gpu.raw.run_once(runtime, 3, 20, 6, seed=0)
    assert (found.rows, found.counted) == (3 * (20 + 5), 18)
    assert gpu.raw.Measured(2, 1024, 128, [1.0], 0, 0).counted == 2 * 1152
    least = gpu.raw.limit_of(found, "tiny")
    assert (least.steps, least.rows) == (6, found.rows)


# -- the commands


def test_commands_print_tables(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ("--shape", "tiny", "--small", "--option", "device=cpu", "--option", "max_total_tokens=20000")
    file = tmp_path / "figures.json"
    call(monkeypatch, gpu.programs, *tiny, "--only", "endings", "chat", "--in-flight", "auto", "--json", str(file))
    written = json.loads(file.read_text())
    assert [line["name"] for line in written["lines"]] == ["endings", "chat"]
    assert len(written["lines"][0]["seconds"]) == 2 and written["about"]["torch"]
    call(monkeypatch, gpu.raw, *tiny, "--batch", "4")
    call(
        monkeypatch, gpu.ablations, *tiny, "--only", "one_stream", "--times", "1", "--configs", "graphs off",
        "--config", "no such thing", "colour=red", "--config", "small steps", "chunked_prefill_size=8",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "| endings | 2 |" in told and "| 4 x 20 + 8 |" in told
    assert "no such thing: OptionError" in told
    assert "| no such thing |  | failed |" in told and "| small steps |" in told and "| graphs off |" in told


def test_a_shape_takes_a_real_tokenizer(gpu: Any, tmp_path: Path, runtime: sgl.Runtime) -> None:
    import lzma

    source = runtime.tokenizer
    from sgl.backend.runtime.model.load.dummy import byte_tokenizer

    packed = tmp_path / "tokenizer.json.xz"
    tokenizer = byte_tokenizer(600, "test")
    tokenizer.add_tokens([f"<word{i}>" for i in range(400)])
    packed.write_bytes(lzma.compress(tokenizer.to_str().encode()))
    folder = gpu.models.write_folder(tmp_path, "tiny", packed)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 657
    assert (folder / "tokenizer.json").is_file() and source.vocab_size == 257


def test_options_are_values_or_words(gpu: Any) -> None:
    assert gpu.models.options_of(["a=1", "b=True", "c=triton"]) == {"a": 1, "b": True, "c": "triton"}
    with pytest.raises(SystemExit, match="NAME=VALUE"):
        gpu.models.options_of(["a"])


def test_smoke_passes_here(gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("logits", "log-probabilities, float32, llama", "log-probabilities, float32, qwen3")
    names += ("greedy texts, as it is", "greedy texts, a small pool, graphs")
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, gpu.smoke, "--device", "cpu", "--rows", "2", "--layers", "1", "--only", *names)
    told = capsys.readouterr().out
    assert ended.value.code == 0, told
    assert told.count("PASS  ") == 6 and "0 failed" in told


def test_smoke_tells_what_differs_and_goes_on(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = gpu.smoke.Smoke(tmp_path, "cpu", 2, [])
    smoke.check("one", lambda: gpu.smoke._near([[1.0, 2.0]], [[1.0, 2.1]], "float32"))
    smoke.check("two", lambda: gpu.smoke._compare([{"a": "x"}], [{"a": "y"}]) or "same")
    smoke.check("three", lambda: str(1 // 0))
    smoke.check("four", lambda: gpu.smoke._near([[1.0, 2.0]], [[1.0, 2.0001]], "float32"))
    told = capsys.readouterr().out
    assert smoke.failed == ["one", "two", "three"]
    assert "most 1.00e-01" in told and "row 0, 'a': 'x' instead of 'y'" in told and "PASS  four" in told
