"""The eleven programs that SGLang was timed with, as programs of this package, at the same sizes in tokens.

Owns: the programs, their rows, and what work each is (`limits.Work`). Knows nothing of runtimes or of time.

Sizes are those of the issue's table. What it leaves open is chosen here: the prompts of the one stream (128 tokens),
the tree (150), the skeleton (60) and the records (60), the task of an agent (30), and labels between calls (2 to 6
tokens, counted as part of a round where a round has a size). A record is a name, an age, a house, a height, two words,
a flag and a list of two or three words, about 70 tokens with a real vocabulary.

Every gen is greedy and ignores the end token, so lengths are as said; random weights write nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from limits import Stage, Work
from texts import Texts

import sgl

LETTERS = [" A", " B", " C", " D"]
GRADES = [" poor", " fair", " good", " great"]
SCORES = [" terrible", " bad", " fair", " good", " great"]
TOOLS = [" search", " compute", " finish"]
ASPECTS = ["style", "logic", "facts", "order", "tone"]
HOUSES = ["oak", "birch", "willow", "maple"]
WORD = "[A-Za-z]{3,12}"
RECORD_REGEX = (
    rf'\{{"name": "{WORD} {WORD}", "age": [1-9][0-9]{{0,2}}, "house": "({"|".join(HOUSES)})", '
    rf'"height": [12]\.[0-9]{{2}}, "friend": "{WORD}", "fear": "{WORD}", "awake": (true|false), '
    rf'"skills": \["{WORD}", "{WORD}"(, "{WORD}")?\]\}}'
)
RECORD_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": f"^{WORD} {WORD}$"},
        "age": {"type": "integer", "minimum": 1, "maximum": 999},
        "house": {"enum": HOUSES},
        "height": {"type": "number", "minimum": 1, "maximum": 3, "multipleOf": 0.25},
        "friend": {"type": "string", "minLength": 3, "maxLength": 12},
        "fear": {"type": "string", "minLength": 3, "maxLength": 12},
        "awake": {"type": "boolean"},
        "skills": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "age", "house", "height", "friend", "fear", "awake", "skills"],
    "additionalProperties": False,
}
RECORD_BUDGET = 256
"""Tokens a record may take at most, about three times what it takes; with a token a byte four times as many."""


def write(name: str, size: int) -> Any:
    return sgl.gen(name, max_tokens=size, temperature=0, ignore_eos=True)


@sgl.function
def one_stream(s: Any, prompt: str, out: int) -> None:
    s += prompt + write("text", out)


@sgl.function
def few_shot(s: Any, shared: str, question: str, out: int) -> None:
    s += shared + question + write("answer", out)


@sgl.function
def multiple_choice(s: Any, shared: str, question: str) -> None:
    s += shared + question + sgl.select("answer", LETTERS)


@sgl.function
def endings(s: Any, shared: str, question: str, choices: list[str]) -> None:
    s += shared + question + sgl.select("ending", choices)


@sgl.function
def tree_of_thought(s: Any, question: str, plan_out: int, step_out: int) -> None:
    s += question
    plans = s.fork(3)
    for i, plan in enumerate(plans):
        plan += f"\nPlan {'ABC'[i]}:" + write("plan", plan_out)
        steps = plan.fork(3)
        for j, step in enumerate(steps):
            step += f"\nStep {'ABC'[j]}:" + write("step", step_out)
            step += "\nValue:" + sgl.select("score", SCORES)
        steps.join()
    plans.join()


@sgl.function
def skeleton(s: Any, question: str, points_out: int, detail_out: int, last_out: int) -> None:
    s += question + write("points", points_out)
    details = s.fork(3)
    for i, detail in enumerate(details):
        detail += f"\nPoint {'ABC'[i]}:" + write("detail", detail_out)
    details.join("concate_and_append")
    s += "\nIn short:" + write("summary", last_out)


@sgl.function
def judge(s: Any, essay: str, view_out: int, last_out: int) -> None:
    s += essay
    views = s.fork(len(ASPECTS))
    for aspect, view in zip(ASPECTS, views):
        view += f"\nThe {aspect}:" + write("view", view_out)
        view += "\nGrade:" + sgl.select("grade", GRADES)
    views.join()
    s += "".join(f"\n{a}:{v}{g}" for a, v, g in zip(ASPECTS, s["view"], s["grade"]))
    s += "\nVerdict:" + write("verdict", last_out)


@sgl.function
def regex_record(s: Any, question: str, budget: int) -> None:
    s += question + sgl.gen("record", max_tokens=budget, temperature=0, regex=RECORD_REGEX)


@sgl.function
def schema_record(s: Any, question: str, budget: int) -> None:
    s += question + sgl.gen("record", max_tokens=budget, temperature=0, json_schema=json.dumps(RECORD_SCHEMA))


@sgl.function
def chat(s: Any, turns: list[str], out: int) -> None:
    for i, turn in enumerate(turns):
        s += sgl.user(turn)
        s += sgl.assistant(write(f"reply{i}", out))


@sgl.function
def agent(s: Any, shared: str, task: str, observations: list[str], thought_out: int, input_out: int) -> None:
    s += shared + task
    for i, observation in enumerate(observations):
        s += "\nThought:" + write(f"thought{i}", thought_out)
        s += "\nAction:" + sgl.select(f"action{i}", TOOLS)
        s += "\nInput:" + write(f"input{i}", input_out)
        tool = s[f"action{i}"]  # an agent must know it to run the tool
        s += f"\nThe{tool} says:{observation}"


@dataclass(frozen=True)
class Case:
    """`opening`: tokens of each program's text before its first call, all rows alike. `generated`: tokens that the gens
    of all rows write, None where a constraint decides. `work`: None there too, for the same reason."""

    name: str
    program: Any
    rows: Sequence[dict[str, Any]]
    opening: int
    generated: int | None
    work: Work | None

    @property
    def waits(self) -> bool:
        """Whether its body reads values, and so waits for them."""
        return self.name in ("tree_of_thought", "skeleton", "judge", "agent")


@dataclass(frozen=True)
class Scale:
    """How much smaller than the table's the programs are: divisors of prompts, outputs and rows."""

    prompt: int = 1
    out: int = 1
    rows: int = 1

    def prompts(self, size: int) -> int:
        return max(8, size // self.prompt)

    def outs(self, size: int) -> int:
        return max(2, size // self.out)

    def times(self, rows: int) -> int:
        return max(1, rows // self.rows)


FULL = Scale()
SMALL = Scale(prompt=10, out=12, rows=32)
"""For a check on a CPU that everything runs."""


@dataclass(frozen=True)
class Builder:
    """Makes the cases: `texts` measures, `scale` shrinks."""

    texts: Texts
    scale: Scale

    def count(self, text: str) -> int:
        return self.texts.count(text)

    def words(self, size: int, *seed: object, begin: str = "", end: str = "") -> str:
        return self.texts.words(size, seed, begin, end)

    def case(self, program: Any, rows: Sequence[dict[str, Any]], opening: int, *stages: Stage, **more: Any) -> Case:
        name, shared = program.__name__, more.get("shared", 0)
        if not stages:
            return Case(name, program, rows, opening, None, None)
        work = Work(len(rows), shared, stages)
        return Case(name, program, rows, opening, work.generated, work)

    def beside(self, choices: Sequence[str]) -> int:
        """Rows of a select beside the path: of each choice, every token but the last (they begin differently)."""
        return sum(self.count(choice) - 1 for choice in choices)

    def one_stream(self) -> Case:
        size, out = self.scale.prompts(128), self.scale.outs(256)
        rows = [{"prompt": self.words(size, "one"), "out": out}]
        return self.case(one_stream, rows, size, Stage(1, size, out))

    def few_shot(self) -> Case:
        shared, asked, out = self.scale.prompts(900), self.scale.prompts(70), self.scale.outs(128)
        text = self.words(shared, "few", end="\n\n")
        rows = [
            {"shared": text, "question": self.question(asked, "few", i), "out": out}
            for i in range(self.scale.times(128))
        ]
        return self.case(few_shot, rows, shared + asked, Stage(1, asked, out), shared=shared)

    def question(self, size: int, *seed: object) -> str:
        return self.words(size, *seed, begin="Question:", end="\nAnswer:" if size > 20 else "")

    def multiple_choice(self) -> Case:
        shared, asked = self.scale.prompts(1500), self.scale.prompts(70)
        text = self.words(shared, "choice", end="\n\n")
        rows = [{"shared": text, "question": self.question(asked, "choice", i)} for i in range(self.scale.times(256))]
        ask = Stage(1, asked, 1, self.beside(LETTERS))
        return self.case(multiple_choice, rows, shared + asked, ask, shared=shared)

    def endings(self) -> Case:
        shared, asked, size = self.scale.prompts(900), self.scale.prompts(70), self.scale.prompts(25)
        text = self.words(shared, "endings", end="\n\n")
        rows = [
            {"shared": text, "question": self.question(asked, "endings", i), "choices": self.choices(size, i)}
            for i in range(self.scale.times(64))
        ]
        ask = Stage(1, asked, 1, 4 * (size - 1))
        return self.case(endings, rows, shared + asked, ask, shared=shared)

    def choices(self, size: int, row: int) -> list[str]:
        """Four of a size that differ in their first token."""
        return [self.words(size, "ending", row, i, begin=f" {begin}") for i, begin in enumerate(("a", "b", "c", "d"))]

    def tree_of_thought(self) -> Case:
        size, plan, step = self.scale.prompts(150), self.scale.outs(48), self.scale.outs(64)
        rows = [
            {"question": self.words(size, "tree", i), "plan_out": plan, "step_out": step}
            for i in range(self.scale.times(16))
        ]
        return self.case(
            tree_of_thought,
            rows,
            size,
            Stage(1, size, 0),
            Stage(3, self.count("\nPlan A:"), plan),
            Stage(9, self.count("\nStep A:"), step),
            Stage(9, self.count("\nValue:"), 1, self.beside(SCORES)),
        )

    def skeleton(self) -> Case:
        size, label = self.scale.prompts(60), self.count("\nPoint A:")
        points, detail, last = (self.scale.outs(n) for n in (32, 96, 16))
        outs = {"points_out": points, "detail_out": detail, "last_out": last}
        rows = [{"question": self.words(size, "skeleton", i), **outs} for i in range(self.scale.times(32))]
        return self.case(
            skeleton,
            rows,
            size,
            Stage(1, size, points),
            Stage(3, label, detail),
            Stage(1, 3 * (label + detail) + self.count("\nIn short:"), last),
        )

    def judge(self) -> Case:
        size, view, last = self.scale.prompts(300), self.scale.outs(48), self.scale.outs(64)
        rows = [
            {"essay": self.words(size, "essay", i), "view_out": view, "last_out": last}
            for i in range(self.scale.times(32))
        ]
        gathered = sum(self.count(f"\n{a}:") + view + self.count(GRADES[0]) for a in ASPECTS)
        return self.case(
            judge,
            rows,
            size,
            Stage(1, size, 0),
            Stage(5, self.count("\nThe tone:"), view),
            Stage(5, self.count("\nGrade:"), 1, self.beside(GRADES)),
            Stage(1, gathered + self.count("\nVerdict:"), last),
        )

    def record(self, program: Any) -> Case:
        size = self.scale.prompts(60)
        budget = RECORD_BUDGET * (4 if self.count("word") > 1 else 1)
        rows = [
            {"question": self.words(size, program.__name__, i), "budget": budget} for i in range(self.scale.times(64))
        ]
        return self.case(program, rows, size)

    def chat(self) -> Case:
        size, out = self.scale.prompts(40), self.scale.outs(32)
        around = self.texts.count("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n", markup=True)
        turn_end = self.texts.count("<|im_end|>\n", markup=True)
        sizes = [max(4, size - around - (turn_end if i else 0)) for i in range(4)]
        rows = [
            {"turns": [self.words(n, "chat", row, i).strip() for i, n in enumerate(sizes)], "out": out}
            for row in range(self.scale.times(64))
        ]
        turns = [Stage(1, n + around + (turn_end if i else 0), out) for i, n in enumerate(sizes)]
        return self.case(chat, rows, turns[0].text, *turns)

    def agent(self) -> Case:
        shared, task, said = self.scale.prompts(1200), self.scale.prompts(30), self.scale.prompts(60)
        thought, text = self.scale.outs(24), self.scale.outs(8)
        labels = [self.count(label) for label in ("\nThought:", "\nAction:", "\nInput:")]
        seen = max(4, said - sum(labels) - self.count(f"\nThe{TOOLS[0]} says:"))
        prompt = self.words(shared, "agent", end="\n\n")
        rows = [
            {
                "shared": prompt,
                "task": self.words(task, "task", row, begin="Task:"),
                "observations": [self.words(seen, "seen", row, i) for i in range(4)],
                "thought_out": thought,
                "input_out": text,
            }
            for row in range(self.scale.times(64))
        ]
        stages = [Stage(1, task, 0)]
        for _ in range(4):
            stages += [Stage(1, labels[0], thought), Stage(1, labels[1], 1, self.beside(TOOLS))]
            stages += [Stage(1, labels[2], text), Stage(1, said - sum(labels), 0)]
        return self.case(agent, rows, shared + task, *stages, shared=shared)

    def all(self) -> dict[str, Callable[[], Case]]:
        """The cases by name, in the table's order, each made when it is asked for."""
        return {
            "one_stream": self.one_stream,
            "few_shot": self.few_shot,
            "multiple_choice": self.multiple_choice,
            "endings": self.endings,
            "tree_of_thought": self.tree_of_thought,
            "skeleton": self.skeleton,
            "judge": self.judge,
            "regex_record": lambda: self.record(regex_record),
            "schema_record": lambda: self.record(schema_record),
            "chat": self.chat,
            "agent": self.agent,
        }


NAMES = tuple(Builder(Texts(None), FULL).all())


def constrained_work(rows: Sequence[dict[str, Any]], opening: int, sampled: int) -> Work:
    """What constrained programs were, once it is known that the longest sampled `sampled` tokens (forced ones ride)."""
    return Work(len(rows), 0, (Stage(1, opening, max(1, sampled)),))
