"""Does the GPU path compute what the CPU path computes? A minute's check of everything at once, on a small model.

    python benchmarks/gpu/smoke.py [--device cuda] [--rows 24] [--only TEXT ...]

One line a check: PASS, FAIL with what differs (and a traceback where something raised), or SKIP where the runtime says
that it cannot do a thing here. Nothing stops at the first failure; the exit status is 1 if anything failed.

The model of the programs is a Llama of four layers with random weights, the same on both sides (few parameters are
drawn on the CPU for a GPU too), and a byte tokenizer; log-probabilities are compared on others too. In float32 texts
must be equal; log-probabilities may differ by rounding.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch

import sgl
from sgl.backend.runtime.step.packed import Batch, SpanLayout

CODE = r"[A-Z]{2,4}-[0-9]{3}(, [A-Z]{2,4}-[0-9]{3})?"
SHARED = "A beginning that all the rows of a batch have in common, long enough to be worth sharing. " * 2
POOL = 4096
TIGHT_POOL = 640
"""Tokens: far fewer than the programs need together, and more than one of them needs."""
EXACT, ROUGH = 2e-3, 0.8
"""Most that a log-probability may differ, in float32 and in bfloat16 (of logits of about 1 to 2)."""
ROUGH_MEAN = 0.1
PROMPT_LENGTHS = (1, 2, 17, 64, 130, 300)
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "num_attention_heads": 8,
        "tie_word_embeddings": True, "rope_theta": 1_000_000,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 4},
    "groups of three": {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3},
}  # fmt: skip
"""What they have that the first has not: a norm of q and k and groups of four, biases, an odd group."""
CONFIGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "graphs off": {"disable_cuda_graph": True},
    "overlap off": {"disable_overlap_schedule": True},
    "graphs and overlap off": {"disable_cuda_graph": True, "disable_overlap_schedule": True},
    "steps of 16 rows": {"chunked_prefill_size": 16},
    "three branches a step": {"max_running_requests": 3},
    "no prefix reuse": {"disable_radix_cache": True},
    "a small pool": {"max_total_tokens": TIGHT_POOL},
    "a small pool, graphs and overlap off": {
        "max_total_tokens": TIGHT_POOL, "disable_cuda_graph": True, "disable_overlap_schedule": True,
    },
    "attention: torch": {"attention_backend": "torch"},
    "attention: triton": {"attention_backend": "triton"},
    "attention: flashinfer": {"attention_backend": "flashinfer"},
}  # fmt: skip


@sgl.function
def greedy(s: Any, i: int) -> None:
    s += SHARED + f"Row {i}:" + sgl.gen("a", max_tokens=24, temperature=0, ignore_eos=True)
    forks = s.fork(3)
    forks += lambda k: f" branch {k}" + sgl.gen("b", max_tokens=8 + i % 5, temperature=0, ignore_eos=True)
    forks += sgl.select("c", [" yes", " no", " yes and no", " never"])
    forks.join()
    s += " The code is " + sgl.gen("d", max_tokens=24, temperature=0, regex=CODE)
    s += " and" + sgl.gen("e", max_tokens=6, temperature=0, ignore_eos=True)


@sgl.function
def sampled(s: Any, i: int) -> None:
    s += SHARED + f"Row {i}:"
    s += sgl.gen("a", max_tokens=12, temperature=0.9, top_k=40, top_p=0.9, ignore_eos=True)
    s += " then" + sgl.gen("b", max_tokens=12, temperature=1.1, min_p=0.02, frequency_penalty=0.4, ignore_eos=True)
    s += " code " + sgl.gen("d", max_tokens=24, temperature=1.0, regex=CODE)


Rows = list[dict[str, Any]]


class Skipped(Exception):
    """The runtime says that it does not do this here."""


@dataclass
class Smoke:
    folder: Path
    device: str
    rows: int
    only: list[str]
    failed: list[str] = field(default_factory=list)
    expected: dict[tuple[str, str], Any] = field(default_factory=dict)

    def check(self, name: str, body: Callable[[], str]) -> None:
        """Run one check and print its line; `body` gives a remark, or raises."""
        if self.only and not any(text in name for text in self.only):
            return
        began = time.perf_counter()
        try:
            remark, verdict = body(), "PASS"
        except (sgl.NotYet, Skipped) as error:
            remark, verdict = str(error), "SKIP"
        except Exception as error:
            remark, verdict = f"{type(error).__name__}: {error}", "FAIL"
            self.failed.append(name)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        print(f"{verdict}  {name}  ({time.perf_counter() - began:.1f} s)  {remark[:600]}", flush=True)

    @contextmanager
    def runtime(self, device: str, dtype: str, model: str = "llama", **options: Any) -> Iterator[sgl.Runtime]:
        given = {"max_total_tokens": POOL, "random_seed": 7, **options}
        with sgl.Runtime(self.folder / model, load_format="dummy", device=device, dtype=dtype, **given) as runtime:
            yield runtime

    def reference(self, what: str, compute: Callable[[sgl.Runtime], Any], model: str = "llama") -> Any:
        """What the CPU gives in float32, computed once."""
        if (what, model) not in self.expected:
            with self.runtime("cpu", "float32", model) as runtime:
                self.expected[what, model] = compute(runtime)
        return self.expected[what, model]

    # -- texts
    def texts(self, runtime: sgl.Runtime, program: Any) -> Rows:
        states = program.run_batch([{"i": i} for i in range(self.rows)], seed=11, backend=runtime)
        names = [name for name in "abcde" if name in states[0]]
        found = [{name: state[name] for name in names} for state in states]
        for state, row in zip(states, found):
            row["a's tokens"] = state.get_meta_info("a")["token_ids"]
            if not re.fullmatch(CODE, row["d"]):
                raise AssertionError(f"{row['d']!r} does not match {CODE!r}")
        runtime.check()
        return found

    def same_texts(self, program: Any, options: dict[str, Any]) -> str:
        if self.device == "cpu" and options.get("attention_backend") not in (None, "torch"):
            raise Skipped("needs a GPU")
        with self.runtime(self.device, "float32", **options) as runtime:
            found = self.texts(runtime, program)
            again = self.texts(runtime, program)
            info = runtime.get_server_info()
        expected = self.reference(program.__name__, lambda cpu: self.texts(cpu, program))
        _compare(found, expected)
        _compare(again, expected, "on a warm cache, ")
        return f"{info['steps']} steps, {info['computed_tokens']} rows, {info['preemptions']} preemptions"

    def rough_texts(self, dtype: str) -> str:
        with self.runtime(self.device, dtype) as runtime:
            found = self.texts(runtime, greedy)
        expected = self.reference("greedy", lambda cpu: self.texts(cpu, greedy))
        same = sum(a == b for a, b in zip(found, expected))
        return f"{same} of {len(found)} rows are those of the CPU in float32"

    # -- numbers
    def logprobs(self, runtime: sgl.Runtime) -> list[list[float]]:
        draw = np.random.default_rng(3)
        prompts = [draw.integers(0, 256, size=n).tolist() for n in PROMPT_LENGTHS]
        made = runtime.generate(
            input_ids=prompts,
            sampling_params={"max_new_tokens": 4, "temperature": 0, "ignore_eos": True},
            return_logprob=True,
            logprob_start_len=0,
            top_logprobs_num=4,
        )
        found = []
        for one in made:
            meta = one["meta_info"]
            told = [*meta["input_token_logprobs"], *meta["output_token_logprobs"][:1]]
            top = [each for tops in meta["input_top_logprobs"] for each in tops or []]
            found.append([each[0] for each in (*told, *top) if each[0] is not None])
        return found

    def same_logprobs(self, dtype: str, model: str, options: dict[str, Any]) -> str:
        with self.runtime(self.device, dtype, model, **options) as runtime:
            found = self.logprobs(runtime)
        expected = self.reference("logprobs", self.logprobs, model)
        return _near(found, expected, dtype)

    def same_logits(self, dtype: str) -> str:
        with self.runtime(self.device, dtype) as runtime:
            found = _logits(runtime)
        return _near(found, self.reference("logits", _logits), dtype)

    def same_scores(self, dtype: str) -> str:
        def scores(runtime: sgl.Runtime) -> list[list[float]]:
            states = greedy.run_batch([{"i": 0}], backend=runtime)
            return [meta["normalized_prompt_logprobs"] for meta in states[0].get_meta_info("c")]

        with self.runtime(self.device, dtype) as runtime:
            found = scores(runtime)
        if dtype == "float32":
            return _near(found, self.reference("scores", scores), dtype)
        assert np.isfinite(np.array(found)).all(), found
        return "finite"


def _compare(found: Rows, expected: Rows, where: str = "") -> None:
    wrong = [i for i, (a, b) in enumerate(zip(found, expected)) if a != b]
    if wrong:
        i = wrong[0]
        name = next(name for name in expected[i] if found[i][name] != expected[i][name])
        raise AssertionError(
            f"{where}{len(wrong)} of {len(expected)} rows differ ({wrong[:12]}); row {i}, {name!r}: "
            f"{found[i][name]!r:.220} instead of {expected[i][name]!r:.220}"
        )


def _near(found: list[list[float]], expected: list[list[float]], dtype: str) -> str:
    lengths, others = [len(x) for x in found], [len(x) for x in expected]
    assert lengths == others, f"{lengths} numbers instead of {others}"
    apart = [np.abs(np.array(a) - np.array(b)) for a, b in zip(found, expected)]
    most, mean = max(float(x.max()) for x in apart), float(np.concatenate(apart).mean())
    remark = f"most {most:.2e}, mean {mean:.2e} apart"
    good = most <= EXACT if dtype == "float32" else most <= ROUGH and mean <= ROUGH_MEAN
    assert good, f"{remark}; by sequence: {', '.join(f'{float(x.max()):.1e}' for x in apart)}"
    return remark


def _logits(runtime: sgl.Runtime) -> list[list[float]]:
    """The model's own logits of two ragged steps: prompts, then decodes beside more text, over shared slots."""
    model = runtime.engine.model
    if not hasattr(model, "forward"):
        raise Skipped("this model's logits stay on the device")
    draw = np.random.default_rng(5)
    prompts, later = (5, 17, 40), (1, 7, 1, 3)
    found: list[list[float]] = []
    spans, at = [], 0
    for rows in prompts:
        spans.append(SpanLayout(at, rows, (), 0))
        at += rows
    runs = [(100, 5), (10, 17), (200, 40)]
    found += _forward(model, draw, spans, [slot for start, n in runs for slot in range(start, start + n)])
    contexts = [(runs[0],), (runs[1],), (runs[2],), (runs[2],)]
    spans, at = [], 0
    for rows, context in zip(later, contexts):
        spans.append(SpanLayout(at, rows, context, sum(n for _, n in context)))
        at += rows
    found += _forward(model, draw, spans, list(range(300, 300 + at)))
    return found


def _forward(model: Any, draw: Any, spans: list[SpanLayout], slots: list[int]) -> list[list[float]]:
    rows = sum(span.rows for span in spans)
    positions = [span.context_length + i for span in spans for i in range(span.rows)]
    batch = Batch(
        draw.integers(0, 256, size=rows).astype(np.int64),
        np.array(positions, dtype=np.int64),
        np.array(slots, dtype=np.int64),
        spans,
        np.array([span.first_row + span.rows - 1 for span in spans], dtype=np.int64),
    )
    logits = model.forward(batch)
    if hasattr(logits, "cpu"):
        logits = logits.float().cpu().numpy()
    return [row.tolist() for row in np.asarray(logits)]


def write_folder(folder: Path, layers: int) -> Path:
    """A folder with a folder for each of `MODELS`."""
    for name, differs in MODELS.items():
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 2000,
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "initializer_range": 0.08,
            **differs,
        }
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def run(smoke: Smoke) -> None:
    def check(name: str, method: Callable[..., str], *args: Any) -> None:
        smoke.check(name, lambda: method(*args))

    for dtype in ("float32", "bfloat16"):
        check(f"logits, {dtype}", smoke.same_logits, dtype)
        for model in MODELS:
            check(f"log-probabilities, {dtype}, {model}", smoke.same_logprobs, dtype, model, {})
        check(f"scores of choices, {dtype}", smoke.same_scores, dtype)
    chunked = {"chunked_prefill_size": 16}
    check("log-probabilities, float32, steps of 16 rows", smoke.same_logprobs, "float32", "llama", chunked)
    for name, options in CONFIGS.items():
        check(f"greedy texts, {name}", smoke.same_texts, greedy, options)
    for name in ("as it is", "graphs and overlap off"):
        check(f"sampled texts, {name}", smoke.same_texts, sampled, CONFIGS[name])
    for dtype in ("bfloat16", "float16"):
        check(f"greedy texts run in {dtype}", smoke.rough_texts, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=24, help="programs in a batch")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="checks whose name has this in it")
    args = parser.parse_args()
    report.show_about()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        smoke = Smoke(write_folder(Path(folder), args.layers), args.device, args.rows, args.only)
        run(smoke)
    print(f"{len(smoke.failed)} failed, {time.perf_counter() - began:.0f} s on {args.device}")
    raise SystemExit(1 if smoke.failed else 0)


if __name__ == "__main__":
    main()
