"""Synthetic traces for the tests of the trace page: whole, consistent, and made from a seed.

`story()` is a small run with a bit of everything; `many(n)` is a batch of n programs of eight calls.
"""

from __future__ import annotations

import random
from collections.abc import Set
from typing import Any

Trace = dict[str, Any]
_TEXT = """the model answers with a short and plain sentence about rivers bridges towers of old cities that were built
long before anyone kept records in numbers so nobody can say how many stones were carried up from the valley"""
WORDS = _TEXT.split()


class Clock:
    """Steps of a made-up engine: each call is given the steps that fall into its time."""

    def __init__(self, length: float, seed: int, each: float = 0.02) -> None:
        self.random = random.Random(seed)
        self.each = each
        self.steps: list[list[Any]] = []
        for number in range(int(length / each)):
            prompt = self.random.choice([0, 0, 0, 0, 24, 180])
            rows = prompt + self.random.randint(3, 24)
            self.steps.append([number + 1, number * each, (number + 0.93) * each, rows, prompt, min(rows, 12)])

    def tokens(self, pieces: list[str], began: float, ended: float, forced: Set[int] = frozenset()) -> list[Any]:
        first, last = int(began / self.each), max(int(ended / self.each) - 1, int(began / self.each))
        found = []
        for i, piece in enumerate(pieces):
            step = min(len(self.steps), first + 1 + (last - first) * i // max(1, len(pieces)))
            logprob = None if i in forced else -self.random.choice([0.01, 0.03, 0.1, 0.3, 1.0, 1.9, 3.4])
            found.append([piece, 100 + i, logprob, int(i in forced), step])
        return found


def usage(prompt: int, reused: int, generated: int, began: float, ended: float, queued: float, forced: int = 0) -> Any:
    return {
        "prompt": prompt,
        "reused": reused,
        "computed": prompt - reused + generated,
        "generated": generated,
        "forced": forced,
        "drafted": 0,
        "accepted": 0,
        "recomputed": 0,
        "steps": generated,
        "queued": queued,
        "running": ended - began,
    }


def call(
    clock: Clock, name: str | None, prompt: list[Any], pieces: list[str], times: tuple[float, float, float], **more: Any
) -> Any:
    """A gen (or, with `choices=`, a select) whose tokens are `pieces`; times are enqueued, began, ended."""
    enqueued, began, ended = times
    forced = more.pop("forced", set())
    tokens = clock.tokens(pieces, began, ended, forced)
    asked, reused = sum(run[2] for run in prompt), sum(run[2] for run in prompt if run[1] == "reused")
    return {
        "id": more.pop("id"),
        "kind": "select" if "choices" in more else "gen",
        "name": name,
        "where": f"{'select' if 'choices' in more else 'gen'}({name!r}) at prog.py:12",
        "params": {"max_tokens": 48, "temperature": 0.7},
        "constraint": None,
        "enqueued": enqueued,
        "began": began,
        "ended": ended,
        "error": None,
        "usage": usage(asked, reused, len(pieces), began, ended, began - enqueued, len(forced)),
        "prompt": prompt,
        "samples": [{"text": "".join(pieces), "finish": {"type": "stop", "matched": None}, "tokens": tokens}],
        "choices": None,
        **more,
    }


def branch(id: str, calls: list[Any], **more: Any) -> Any:
    return {
        "id": id,
        "parent": None,
        "after": 0,
        "label": "",
        "error": None,
        "joined": None,
        "calls": calls,
        "tail": "",
        **more,
    }


def program(id: int, branches: list[Any], began: float, ended: float | None, **more: Any) -> Any:
    return {
        "id": id,
        "name": "qa",
        "caller": None,
        "row": None,
        "module": "prog",
        "args": {},
        "options": {"temperature": 0.7},
        "seed": 7,
        "began": began,
        "ended": ended,
        "error": None,
        "value": None,
        "branches": branches,
        **more,
    }


def trace(programs: list[Any], steps: list[Any]) -> Trace:
    return {
        "sgl_trace": 1,
        "created": "2026-11-21T13:30:00Z",
        "sgl": "0.1.0",
        "backend": {"name": "Runtime(smollm2-135m)", "device": "cpu", "slots": 65536},
        "programs": programs,
        "steps": steps,
    }


def sentence(source: random.Random, n: int) -> list[str]:
    return [(" " if i else "") + source.choice(WORDS) for i in range(n)]


# One program that forks, with a constraint's forced tokens, a select, two samples, a failure, a sub-program.
SYSTEM = "<|system|>\nYou write short notes on places. Answer in plain sentences.\n"
NOTE = [[SYSTEM, "reused", 14], ["<|user|>\nWrite about Prague.\n<|assistant|>\n", "constant", 12]]


def story() -> Trace:
    clock = Clock(4.0, seed=3)
    plan = ["1", ".", " The", " bridge", "\n", "2", ".", " The", " castle"]
    record = ['{"', "city", '":', ' "', "Prague", '",', ' "', "people", '":', " 1", "3", "0", "0", "0", "0", "0", "}"]
    choices = [
        {"text": "Yes", "logprob": -0.24, "picked": True},
        {"text": "No", "logprob": -1.61, "picked": False},
        {"text": "I cannot say", "logprob": -4.9, "picked": False},
    ]
    main = [
        call(clock, "plan", NOTE, plan, (0.0, 0.1, 0.7), id="gen-1"),
        call(
            clock,
            "good",
            [["\nIs that enough? ", "constant", 5]],
            ["Yes"],
            (0.0, 0.7, 0.76),
            id="select-1",
            choices=choices,
        ),
        call(
            clock,
            "record",
            [["\nAs a record: ", "constant", 4]],
            record,
            (1.7, 1.8, 2.6),
            id="gen-5",
            forced={0, 1, 2, 3, 5, 6, 7, 8},
            constraint="schema City {city: str, people: int}",
        ),
    ]
    main[0]["samples"].append({"text": "1. A second sample", "finish": {"type": "length", "length": 4}, "tokens": []})
    source = random.Random(5)
    topics = [
        branch(
            f"0.{i}",
            [
                call(
                    clock,
                    "detail",
                    [[f"\nDetail {i}: ", "constant", 4]],
                    sentence(source, 14 + 5 * i),
                    (0.8, 0.85, 1.3 + i / 10),
                    id=f"gen-{i + 2}",
                )
            ],
            parent="0",
            after=2,
            label=f"branch {i} of 3",
            joined="gather_variable",
            tail="\n(end of detail)" if i == 0 else "",
        )
        for i in range(3)
    ]
    failure = {
        "type": "Truncated",
        "message": "gen('detail'): the text was cut by its budget\nbefore it could end",
        "where": "prog.py:31",
    }
    topics[2]["calls"][0]["error"] = topics[2]["error"] = failure
    notes = program(
        1,
        [branch("0", main, tail="\nDone."), *topics],
        0.0,
        3.4,
        name="notes",
        args={"place": "Prague", "config": {"repr": "<Config a=1>"}},
        value={"ok": True, "words": 42},
    )
    check = program(
        2,
        [
            branch(
                "0",
                [
                    call(
                        clock,
                        "verdict",
                        [["Check: 1. The bridge", "constant", 6]],
                        sentence(source, 20),
                        (2.7, 2.75, 3.3),
                        id="gen-6",
                    )
                ],
            )
        ],
        2.65,
        3.35,
        name="check",
        caller=1,
        args={"text": "1. The bridge"},
    )
    late = program(
        3,
        [branch("0", [])],
        3.4,
        None,
        name="waiting",
        args={"text": ""},
        row=0,
        error={"type": "Cancelled", "message": "the batch was cancelled", "where": ""},
    )
    return trace([notes, check, late], clock.steps)


def many(n: int, calls: int = 8, words: int = 30) -> Trace:
    """A batch of n programs, some of which fail."""
    clock, source = Clock(n * 0.05 + 4, seed=1), random.Random(2)
    programs = []
    for i in range(n):
        began = i * 0.05
        done, now = [], began + source.random() * 0.1
        for k in range(calls):
            ended = now + 0.2 + source.random() * 0.4
            prompt: list[Any] = [[f"\nQuestion {k} of row {i}: why?\n", "constant", 9]]
            if k == 0:
                prompt.insert(0, [SYSTEM * 3, "reused", 42])
            pieces = sentence(source, words)
            done.append(
                call(clock, f"answer{k}", prompt, pieces, (began, now, min(ended, n * 0.05 + 3.9)), id=f"gen-{i}-{k}")
            )
            now = min(ended, n * 0.05 + 3.8)
        error = (
            {"type": "ProgramTimeout", "message": f"row {i} took too long", "where": "prog.py:9"}
            if i % 97 == 5
            else None
        )
        done[-1]["error"] = error
        programs.append(
            program(
                i + 1,
                [branch("0", done)],
                began,
                now,
                row=i,
                args={"question": f"Why is row {i} so long?"},
                error=error,
            )
        )
    return trace(programs, clock.steps)
