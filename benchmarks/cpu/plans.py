"""What is measured: lines of the table, each a batch of plans. A plan is a program as data, for every peer.

Knows nothing of who carries a plan out. A plan is a list of steps:

    ["text", text]                      constant text
    ["fill", text]                      text with `{name}` or `{name[0]}` in it: values of this plan, or of joined forks
    ["gen", name, tokens]               so many tokens, greedy; no stop, no end of text: all peers generate as many
    ["select", name, choices]           the choice that the model finds the most probable
    ["fork", plans]                     these go on from here side by side; their values come back as lists
    ["json", name, schema, tokens]      an object of this schema, in at most so many tokens

The programs are those of `benchmarks/programs.py` without their stops.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Plan = list[list[Any]]


@dataclass(frozen=True)
class Measure:
    """A line of the table: what it is called, what is to be done, and the ratio to the best peer that is aimed at."""

    name: str
    plans: list[Plan]
    aim: float
    peers: tuple[str, ...]


ALL = ("llama", "llama_amx", "llama_server", "mistralrs", "vllm", "transformers")
SEVERAL = ("llama", "llama_amx", "llama_server")
RECORD = {
    "type": "object",
    "properties": {
        "topic": {"enum": ["money", "animals", "time", "food", "travel", "school"]},
        "person": {"type": "string", "minLength": 1, "maxLength": 20},
        "numbers": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 999},
            "minItems": 3,
            "maxItems": 3,
        },
        "asked_for": {"type": "string", "minLength": 20, "maxLength": 60},
        "hard": {"type": "boolean"},
    },
    "required": ["topic", "person", "numbers", "asked_for", "hard"],
    "additionalProperties": False,
}


def few_shot(shots: str, question: str) -> Plan:
    return [["text", f"{shots}Problem: {question}\nSolution:"], ["gen", "a", 32]]


def multiple_choice(shots: str, question: str) -> Plan:
    choices = [" money", " animals", " time", " food", " travel and distance", " school"]
    return [["text", f"{shots}Problem: {question}\nIs this problem about"], ["select", "topic", choices]]


def tree_of_thought(shots: str, question: str) -> Plan:
    grades = [" bad", " fair", " good", " excellent"]

    def idea(j: int) -> Plan:
        step: Plan = [["text", f" Idea {j + 1}:"], ["gen", "step", 16], ["text", " How good is it?"]]
        return [*step, ["select", "score", grades]]

    def plan(i: int) -> Plan:
        return [["text", f" Plan {i + 1}:"], ["gen", "plan", 16], ["fork", [idea(j) for j in range(3)]]]

    text = f"{shots}Problem: {question}\nLet us think of a plan."
    return [["text", text], ["fork", [plan(i) for i in range(3)]]]


def judge(essay: str) -> Plan:
    aspects = ["clarity", "originality", "evidence", "structure", "tone"]

    def view(aspect: str) -> Plan:
        grades = [" poor", " fair", " good", " excellent"]
        step: Plan = [["text", f"Its {aspect}, in a sentence:"], ["gen", "view", 24]]
        return [*step, ["text", f"\nOverall, its {aspect} is"], ["select", "grade", grades]]

    return [
        ["text", f"Please read this essay.\n{essay * 2}\n"],
        ["fork", [view(aspect) for aspect in aspects]],
        ["fill", "".join(f"{a}: {{view[{i}]}} ({{grade[{i}]}})\n" for i, a in enumerate(aspects))],
        ["text", "In summary, the essay"],
        ["gen", "verdict", 32],
    ]


def agent(tools: str, task: str) -> Plan:
    steps: Plan = [["text", f"{tools}Task: {task}\n"]]
    for i in range(4):
        steps += [["text", "Thought:"], ["gen", f"thought{i}", 16], ["text", "\nAction:"]]
        steps += [["select", f"action{i}", [" search", " calculate", " finish"]]]
        steps += [["text", "\nInput:"], ["gen", f"input{i}", 8]]
        seen = f"\nObservation: the tool {{action{i}}} returned nothing of interest, so please think again about it.\n"
        steps += [["fill", seen]]
    return steps


def branches(prefix: str, count: int) -> Plan:
    return [["text", prefix], ["fork", [[["text", f" Number {i}:"], ["gen", "a", 64]] for i in range(count)]]]


def exactly(text: str, tokens: int, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> str:
    """The longest beginning of a text that has so many tokens, whatever is around it."""
    ids = encode(text)
    for end in range(tokens, tokens + 50):
        part = decode(ids[:end])
        if len(encode(part)) == tokens:
            return part
    raise ValueError(f"no beginning of the text has {tokens} tokens")


def measures(encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> list[Measure]:
    """All lines of the table, in order. `encode` and `decode` are of the model's tokenizer."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from programs import ESSAY, PROBLEMS, SHOTS, TOOLS, TOPICS

    rows = [json.loads(row) for row in (ROOT / "examples/data/gsm8k-200.jsonl").read_text().splitlines()]
    long = "".join(f"Problem: {row['question']}\nSolution: {row['answer']}\n\n" for row in rows[40:80])
    short, middle, whole = (exactly(long, tokens, encode, decode) for tokens in (16, 500, 1000))
    tasks = [agent(TOOLS, f"find out what {t} costs in a year") for t in TOPICS[:2]]
    record: Plan = [["text", f"Problem: {PROBLEMS[0]}\nThe same as JSON: "], ["json", "record", RECORD, 120]]
    return [
        Measure("one stream, 128 tokens after 16", [[["text", short], ["gen", "a", 128]]], 1.1, ALL),
        Measure("prompt of 1,000 tokens", [[["text", whole], ["gen", "a", 1]]], 2, ALL),
        Measure("prompt of 500 tokens", [[["text", middle], ["gen", "a", 1]]], 2, ("llama", "llama_amx")),
        Measure("8 branches of 500 tokens, 64 each", [branches(middle, 8)], 3, SEVERAL),
        Measure("32 branches of 500 tokens, 64 each", [branches(middle, 32)], 3, SEVERAL),
        Measure("few-shot batch", [few_shot(SHOTS, q) for q in PROBLEMS[:8]], 4, ALL),
        Measure("select", [multiple_choice(SHOTS, q) for q in PROBLEMS[:4]], 4, ALL),
        Measure("tree of thought", [tree_of_thought(SHOTS, PROBLEMS[0])], 4, ALL),
        Measure("judge", [judge(ESSAY)], 4, ALL),
        Measure("agent loop", tasks, 4, ALL),
        Measure("constrained JSON", [record], 2, ("guidance", "outlines")),
    ]
