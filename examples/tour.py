"""A tour of sgl on a real model: what `make demo` runs.

Seven programs: few-shot questions, a chat, a select, a fork with a join, typed records, a batch of real problems, a
stream. A program is a function marked `@sgl.function`; its first parameter `s` is the text so far, and `s += ...` goes
on with it. At the end a table shows what each part cost: tokens asked for, computed and reused, and seconds.

Run: python examples/tour.py      (well under a minute on a laptop)

Expect of a model of 135M parameters: answers that are often wrong. Their cost does not depend on that, and every record
has its type.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

import sgl

PROBLEMS = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "gsm8k-200.jsonl").read_text().splitlines()[:32]
]

FACTS = """The following are short questions with short answers.
Q: What is the capital of Italy?
A: Rome
Q: What colour is a ripe banana?
A: Yellow
Q: How many legs does a spider have?
A: Eight
Q: What do bees make?
A: Honey
"""

EXAMPLE = """Solve the problem. End with "The answer is" and the number.

Problem: Tom has 3 boxes with 4 pens in each box. He gives 5 pens away. How many pens does he have left?
Solution: Tom has 3 * 4 = 12 pens. After giving 5 away he has 12 - 5 = 7 pens. The answer is 7.

Problem: A shirt costs $20 and a hat costs $8 less than the shirt. What do the shirt and the hat cost together?
Solution: The hat costs 20 - 8 = 12 dollars. Together they cost 20 + 12 = 32 dollars. The answer is 32.

"""


@sgl.function
def few_shot(s: sgl.ProgramState, question: str) -> None:
    s += FACTS  # the same text in each run: computed once
    s += f"Q: {question}\nA:" + sgl.gen("answer", max_tokens=12, stop="\n", temperature=0)


@sgl.function
def chat(s: sgl.ProgramState, first: str, second: str) -> None:
    s += sgl.system("You answer in one short sentence.")
    s += sgl.user(first)
    s += sgl.assistant(sgl.gen("one", max_tokens=48, temperature=0))
    s += sgl.user(second)  # the chat goes on where it is: nothing before this line is computed again
    s += sgl.assistant(sgl.gen("two", max_tokens=48, temperature=0))


LABELS = [" positive", " negative", " neutral"]


@sgl.function
def sentiment(s: sgl.ProgramState, review: str) -> None:
    s += "Review: I loved every minute of it.\nSentiment: positive\n"
    s += "Review: A waste of time and money.\nSentiment: negative\n"
    s += f"Review: {review}\nSentiment:" + sgl.select("label", LABELS)


@sgl.function
def tips(s: sgl.ProgramState, topic: str) -> None:
    s += sgl.user(f"Give me three tips about {topic}.")
    with s.assistant():
        s += "Here are three tips."
        forks = s.fork(3)  # three branches that share all text so far and are written side by side
        for i, branch in enumerate(forks):
            branch += f"\n{i + 1}." + sgl.gen("tip", max_tokens=32, stop=["\n", f"{i + 2}."], temperature=0)
        forks.join("concate_and_append")  # their texts, one after the other, become the text of `s`
        s += "\nIn short:" + sgl.gen("summary", max_tokens=32, temperature=0, stop="\n")


class Quantity(BaseModel):  # any Pydantic model, dataclass or type hint can be the type of a gen
    what: str = Field(max_length=30)
    number: float


class Summary(BaseModel):
    topic: Literal["money", "animals", "cooking", "time", "school"]
    people: list[str] = Field(max_length=3)
    quantities: list[Quantity] = Field(min_length=1, max_length=3)


@sgl.function
def record(s: sgl.ProgramState, problem: str) -> None:
    s += sgl.user(f"Describe this problem as JSON: its topic, the people in it, and the quantities.\n\n{problem}")
    s += sgl.assistant(sgl.gen("record", schema=Summary, max_tokens=120, temperature=0))


@sgl.function
def solve(s: sgl.ProgramState, question: str) -> None:
    s += EXAMPLE
    s += f"Problem: {question}\nSolution:" + sgl.gen("solution", max_tokens=64, stop=["\n", "Problem:"], temperature=0)


@sgl.function
def story(s: sgl.ProgramState) -> None:
    s += sgl.user("Tell me a very short story about a robot who learns to paint.")
    s += sgl.assistant(sgl.gen("story", max_tokens=80, temperature=0.7, seed=7))


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def show_few_shot() -> list[sgl.ProgramState]:
    """The examples before each question are the same text: it is computed once, in the first run."""
    questions = ["What is the capital of France?", "What do cows drink?", "How many days are in a week?"]
    states = few_shot.run_batch([{"question": q} for q in questions])
    for question, state in zip(questions, states):
        print(f"  Q: {question}  A:{bold(state['answer'])}")
    return states


def show_chat() -> list[sgl.ProgramState]:
    """The second turn goes on after the first: nothing is sent or computed twice."""
    state = chat.run(first="What is the capital of France?", second="And what is it famous for?")
    for message in state.messages():
        print(f"  {message['role']:>9}: {message['content']}")
    return [state]


def show_select() -> list[sgl.ProgramState]:
    """The model picks one of the given labels. All of them are scored in one step."""
    reviews = ["The food was great and the staff were friendly.", "Terrible. I want my money back."]
    states = sentiment.run_batch([{"review": r} for r in reviews])
    for review, state in zip(reviews, states):
        means = state.get_meta_info("label")["normalized_prompt_logprobs"]  # mean log-probability of a label's tokens
        scores = ",".join(f"{label} {mean:.2f}" for label, mean in zip(LABELS, means))
        print(f"  {review} ->{bold(state['label'])}  (scores:{scores})")
    return states


def show_fork() -> list[sgl.ProgramState]:
    """The program splits into three branches, which are written side by side, and goes on with all three texts."""
    state = tips.run(topic="staying healthy")
    print("  " + state.messages()[-1]["content"].replace("\n", "\n  "))
    return [state]


def show_records() -> list[sgl.ProgramState]:
    """The text is JSON of a Python type by construction, and is read as an instance of that type."""
    print(f"  how a Quantity is enforced (sgl.explain):\n{sgl.explain(Quantity)}".replace("\n", "\n    "))
    states = record.run_batch([{"problem": p["question"]} for p in PROBLEMS[:4]])
    for state in states:
        print(f"  {state.value('record')!r}")
    counts = [state.get_meta_info("record") for state in states]
    forced, written = (sum(count[kind] for count in counts) for kind in ("forced", "generated"))
    print(f"  {forced} of {written} tokens were forced: the type left no choice, so the model was not asked")
    return states


def show_batch() -> list[sgl.ProgramState]:
    """Many runs of one program at a time: `run_batch`."""
    states = solve.run_batch([{"question": p["question"]} for p in PROBLEMS], progress_bar=True)
    right = sum(number(s["solution"]) == number(p["answer"]) for s, p in zip(states, PROBLEMS))
    print(f"  first: {states[0]['solution'].strip()[:200]}")
    print(f"  {len(states)} problems, {right} right (a model of 135 M parameters is no mathematician)")
    return states


def number(text: str) -> str | None:
    """The last number of a solution, without thousands separators."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def show_stream() -> list[sgl.ProgramState]:
    """The text is shown while it is written: `run(stream=True)`."""
    state = story.run(stream=True)
    print("  ", end="")
    for piece in state.text_iter("story"):
        print(piece, end="", flush=True)
    print()
    return [state]


PARTS: list[tuple[str, Callable[[], list[sgl.ProgramState]]]] = [
    ("few-shot questions", show_few_shot),
    ("a chat of two turns", show_chat),
    ("select", show_select),
    ("fork into three, join", show_fork),
    ("typed records", show_records),
    ("32 problems of GSM8K", show_batch),
    ("a streamed answer", show_stream),
]


def main() -> None:
    began = time.perf_counter()
    runtime = sgl.Runtime(random_seed=0)
    sgl.set_default_backend(runtime)
    print(f"{runtime!r}, loaded in {time.perf_counter() - began:.1f} s")
    rows: list[tuple[str, sgl.Usage, float]] = []
    for title, part in PARTS:
        print(f"\n{bold(title)}\n{part.__doc__}")
        start = time.perf_counter()
        states = part()
        seconds = time.perf_counter() - start
        rows.append((title, sum((s.usage.total for s in states), sgl.Usage()), seconds))
    print(summary(rows))
    runtime.shutdown()


def summary(rows: list[tuple[str, sgl.Usage, float]]) -> str:
    """Draw the table of costs. "Asked for" is what a server would process, which gets the whole text with each call."""
    total = sum((usage for _, usage, _ in rows), sgl.Usage()), sum(seconds for *_, seconds in rows)
    table = [("part", "calls", "asked for", "computed", "reused", "generated", "seconds")]
    table += [cells(*row) for row in [*rows, ("all", *total)]]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table]
    rule = "-" * len(lines[0])
    note = "asked for: the tokens of each call's prompt and answer; computed: those that went through the model"
    return "\n".join([bold("\nwhat it cost, in tokens"), lines[0], rule, *lines[1:-1], rule, lines[-1], note])


def cells(title: str, usage: sgl.Usage, seconds: float) -> tuple[str, ...]:
    counts: list[Any] = [usage.calls, usage.prompt + usage.generated, usage.computed, usage.reused, usage.generated]
    return title, *(f"{c:,}" for c in counts), f"{seconds:.1f}"


if __name__ == "__main__":
    main()
