"""What blocks of 4 and 8 bits cost the default model's quality on a CPU, against float32.

    python benchmarks/cpu_quality.py gsm8k.jsonl --keep figures.json
    python benchmarks/cpu_quality.py gsm8k.jsonl --keep figures.json --only q4 --measure tokens    # in pieces
    python benchmarks/cpu_quality.py gsm8k.jsonl --keep figures.json --only                        # prints what is kept

The file has a problem a line, {"question": ..., "answer": "... #### 18"}. Prints, for each `quantization=`: perplexity
of questions with their answers; right answers after four examples, greedy; and the share of greedy tokens of 50 prompts
that are those of float32, up to the first difference. Needs the default model (`make model`); minutes for each on two
cores.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import sgl

WEIGHTS = {"float32": None, "auto": "auto", "q8": "q8", "q4": "q4"}
MEASURES = ("tokens", "perplexity", "answers")
SHOTS, PROMPTS, TOKENS, ANSWER_TOKENS, AT_ONCE = 4, 50, 64, 200, 50


def written(problem: dict[str, str], answer: bool = True) -> str:
    return f"Question: {problem['question']}\nAnswer:" + (f" {problem['answer']}" if answer else "")


def number_in(text: str) -> str | None:
    """The number after the first ####, else the last number."""
    marked = re.search(r"####\s*\$?(-?[\d,.]+)", text)
    found = marked[1] if marked else next(iter(reversed(re.findall(r"-?\d[\d,.]*", text))), None)
    return None if found is None else found.replace(",", "").rstrip(".")


def generated(runtime: sgl.Runtime, prompts: list[str], sampling: dict[str, Any], **options: Any) -> list[Any]:
    """The calls in rounds, so that a small machine holds them."""
    out: list[Any] = []
    for at in range(0, len(prompts), AT_ONCE):
        out += runtime.generate(prompts[at : at + AT_ONCE], {"temperature": 0, **sampling}, **options)
    return out


def perplexity(runtime: sgl.Runtime, problems: list[dict[str, str]]) -> tuple[float, int]:
    """e to the mean negative log-probability of a token, given those before it; and how many tokens."""
    done = generated(
        runtime, [written(p) for p in problems], {"max_new_tokens": 1}, return_logprob=True, logprob_start_len=0
    )
    logprobs = [each[0] for one in done for each in one["meta_info"]["input_token_logprobs"] if each[0] is not None]
    return math.exp(-sum(logprobs) / len(logprobs)), len(logprobs)


def right_answers(runtime: sgl.Runtime, problems: list[dict[str, str]], first: int, last: int) -> list[bool]:
    """Whether the answers to these problems are right, after the first four with their answers."""
    shots = "".join(written(p) + "\n\n" for p in problems[:SHOTS])
    asked = problems[SHOTS + first : SHOTS + last]
    done = generated(
        runtime, [shots + written(p, answer=False) for p in asked], {"max_new_tokens": ANSWER_TOKENS, "stop": "\n\n"}
    )
    return [number_in(one["text"]) == number_in(p["answer"]) for one, p in zip(done, asked)]


def greedy_tokens(runtime: sgl.Runtime, problems: list[dict[str, str]]) -> list[list[int]]:
    sampling = {"max_new_tokens": TOKENS, "ignore_eos": True}
    done = generated(runtime, [p["question"] for p in problems[:PROMPTS]], sampling, return_logprob=True)
    return [[token for _, token, *_ in one["meta_info"]["output_token_logprobs"]] for one in done]


def equal_share(tokens: list[list[int]], wanted: list[list[int]]) -> float:
    """The share of tokens before the first one that differs; after it the two continue different texts."""
    same = sum(next((i for i, (a, b) in enumerate(zip(x, y)) if a != b), len(y)) for x, y in zip(tokens, wanted))
    return same / sum(map(len, wanted))


def line(figures: dict[str, Any], base: dict[str, Any]) -> str:
    """The figures that there are, beside those of float32."""
    parts = []
    if "perplexity" in figures:
        value, tokens = figures["perplexity"]
        parts += [f"perplexity {value:.4f} of {tokens:,} tokens"]
        parts += [f"{value / base['perplexity'][0] - 1:+.2%}"] if "perplexity" in base else []
    if "answers" in figures:
        parts += [f"right answers {sum(figures['answers'])} of {len(figures['answers'])}"]
    if "tokens" in figures and "tokens" in base:
        parts += [f"equal greedy tokens {equal_share(figures['tokens'], base['tokens']):.1%}"]
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("problems", type=Path, help="GSM8K as JSON lines")
    parser.add_argument("--count", type=int, default=200, help="problems for perplexity (200)")
    parser.add_argument("--answers", type=int, default=200, help="problems for answers (200)")
    parser.add_argument("--only", nargs="*", choices=WEIGHTS, default=[*WEIGHTS], help="these weights")
    parser.add_argument("--measure", nargs="*", choices=MEASURES, default=MEASURES, help="these measures")
    parser.add_argument("--keep", type=Path, required=True, help="a JSON file that keeps the figures between runs")
    args = parser.parse_args()
    problems = [json.loads(row) for row in args.problems.read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = json.loads(args.keep.read_text()) if args.keep.exists() else {}
    for name in args.only:
        figures: dict[str, Any] = found.setdefault(name, {})
        with sgl.Runtime(quantization=WEIGHTS[name], random_seed=0, max_total_tokens=40_000) as runtime:
            if "tokens" in args.measure and "tokens" not in figures:
                figures["tokens"] = greedy_tokens(runtime, problems)
            if "perplexity" in args.measure and "perplexity" not in figures:
                figures["perplexity"] = perplexity(runtime, problems[: args.count])
            args.keep.write_text(json.dumps(found))
            answers = figures.setdefault("answers", [])
            while "answers" in args.measure and (first := len(answers)) < args.answers:
                answers += right_answers(runtime, problems, first, min(first + AT_ONCE, args.answers))
                args.keep.write_text(json.dumps(found))
    for name, figures in found.items():
        print(f"{name:8} {line(figures, found.get('float32', {}))}")


if __name__ == "__main__":
    main()
