"""Whole programs on the real model, held against `transformers` token by token."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import sgl

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = [
    json.loads(line)["question"] for line in (ROOT / "examples/data/gsm8k-200.jsonl").read_text().splitlines()[:32]
]
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time",
    "1, 2, 3, 4,",
    "Zürich ist",
    "日本語で",
    "Dear Sir or Madam,",
    "SELECT name FROM",
    "The three primary colours are",
    "Water boils at",
    *PROBLEMS[:10],
]


@pytest.fixture(scope="module")
def runtime() -> Any:
    with sgl.Runtime(random_seed=0, quantization=None) as runtime:  # transformers computes in float32
        sgl.set_default_backend(runtime)
        yield runtime
        runtime.check()
    sgl.set_default_backend(None)


def test_the_capital_of_france(runtime: Any) -> None:
    @sgl.function
    def capital(s: Any) -> None:
        s += "The capital of France is" + sgl.gen("city", max_tokens=3, temperature=0)

    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.user("What is the capital of France?")
        s += sgl.assistant(sgl.gen("answer", max_tokens=32, temperature=0))

    assert capital.run()["city"].startswith(" Paris")
    state = chat.run()
    assert state["answer"] == "The capital of France is Paris."
    assert state.get_meta_info("answer")["finish_reason"]["type"] == "stop"


def test_greedy_text_is_that_of_transformers(runtime: Any) -> None:
    """20 prompts of 64 tokens, generated together. Each token must be the argmax of `transformers`' logits for the text
    before it; where it is not, the two logits must be within 1e-3 (a near-tie), and only then."""
    import torch

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from naive_backend import transformers_model

    from sgl.backend.runtime.model.load.loader import load_checkpoint
    from sgl.backend.runtime.model.load.store import cache_folder

    peer = transformers_model(load_checkpoint(None, "auto", cache_folder()))
    made = runtime.generate(PROMPTS, {"max_new_tokens": 64, "temperature": 0, "ignore_eos": True})
    ties = 0
    for prompt, result in zip(PROMPTS, made):
        ids = runtime.tokenizer.encode([(prompt, False)], first=True)
        assert len(result["output_ids"]) == 64
        with torch.inference_mode():
            logits = peer(torch.tensor([ids + result["output_ids"]])).logits[0, len(ids) - 1 : -1]
        for row, token in zip(logits, result["output_ids"]):
            margin = float(row.max() - row[token])
            ties += margin > 0
            assert margin < 1e-3, f"{prompt!r}: token {token} is {margin} below the best"
    assert ties < 5


def test_text_does_not_depend_on_how_it_is_run(runtime: Any) -> None:
    """Equivalence on real numbers: alone, in a batch, from the cache, streamed, in small chunks."""

    @sgl.function
    def program(s: Any, question: str) -> None:
        s += "Solve the problem.\n" + question + "\nSolution:"
        s += sgl.gen("a", max_tokens=12, temperature=0.8, top_p=0.9, stop="\n")
        forks = s.fork(2)
        forks += "\nSo the answer" + sgl.gen("b", max_tokens=6, temperature=0)
        forks.join()

    rows = [{"question": q} for q in PROBLEMS[:4]]
    alone = [(s["a"], s["b"]) for s in (program.run(**row, seed=3) for row in rows)]
    cached = [(s["a"], s["b"]) for s in program.run_batch(rows, seed=3)]
    runtime.flush_cache()
    together = [(s["a"], s["b"]) for s in program.run_batch(rows, seed=3)]
    with sgl.Runtime(chunked_prefill_size=7, disable_radix_cache=True, quantization=None) as other:
        chunked = [(s["a"], s["b"]) for s in program.run_batch(rows, seed=3, backend=other)]
        streamed = ["".join(program.run(**row, seed=3, backend=other, stream=True).text_iter("a")) for row in rows]
    assert alone == cached == together == chunked
    assert streamed == [a for a, _ in alone]


def test_chat_turns_have_the_tokens_of_the_whole_rendering(runtime: Any) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.system("You are brief.")
        s += sgl.user("  What is 2 + 2?\n")
        s += sgl.assistant(sgl.gen("a", max_tokens=16, temperature=0))
        s += sgl.user("And 3 + 3?")
        s += sgl.assistant(sgl.gen("b", max_tokens=16, temperature=0))
        s += sgl.user("Thanks.")

    state = chat.run()
    whole = runtime.chat_template.render(state.messages())
    assert state.text() == whole
    branch = state._line.branch
    ids = branch.cursor.path_tokens() + runtime.tokenizer.encode(branch.pending, first=False)
    assert ids == runtime.tokenizer.encode([(whole, True)], first=True)


def test_select_and_usage(runtime: Any) -> None:
    @sgl.function
    def sentiment(s: Any, review: str) -> None:
        s += f"Review: I loved it.\nSentiment: positive\nReview: A waste.\nSentiment: negative\nReview: {review}\n"
        s += "Sentiment:" + sgl.select("label", [" positive", " negative"])

    states = sentiment.run_batch(
        [{"review": "What a great film, I was so happy!"}, {"review": "Terrible, I hated it."}]
    )
    assert [s["label"] for s in states] == [" positive", " negative"]
    assert sum(s.usage.total.reused for s in states) > 20
