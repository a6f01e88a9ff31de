"""The default model on the GPU and on the CPU: the same programs, greedy, side by side.

    python benchmarks/gpu/real.py [--model PATH] [--dtype float32]

Prints each text of both, whether they are equal, and the largest difference of log-probabilities. In float32 texts are
expected to be equal; in bfloat16 they may part where two tokens are nearly as probable.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, Literal

import report

import sgl


@sgl.function
def capital(s: Any, country: str) -> None:
    s += sgl.system("You are brief.")
    s += sgl.user(f"What is the capital of {country}?")
    s += sgl.assistant(sgl.gen("answer", max_tokens=32, temperature=0, return_logprob=True))
    s += sgl.user("Is it a large city?")
    s += sgl.assistant(sgl.select("large", ["Yes", "No", "I do not know"]))
    branches = s.fork(3)
    for i, branch in enumerate(branches):
        branch += sgl.user(f"Name thing {i + 1} to see there.")
        branch += sgl.assistant(sgl.gen("thing", max_tokens=16, temperature=0, stop="\n"))
    branches.join()
    s += sgl.user("Its continent, as JSON?")
    s += sgl.assistant(sgl.gen("json", schema=Literal["Africa", "America", "Asia", "Europe"], temperature=0))
    s += sgl.user("Sample a word.") + sgl.assistant(sgl.gen("word", max_tokens=6, temperature=0.8, top_p=0.9))


COUNTRIES = ["France", "Japan", "Peru", "Kenya", "Norway", "Egypt", "Canada", "India"]


def run(model: str | None, device: str, dtype: str) -> tuple[list[Any], float]:
    with sgl.Runtime(model, device=device, dtype=dtype, random_seed=0) as runtime:
        began = time.perf_counter()
        states = capital.run_batch([{"country": c} for c in COUNTRIES], backend=runtime, seed=7)
        found = [(s["answer"], s["large"], *s["thing"], s["json"], s["word"]) for s in states]
        logprobs = [[row[0] for row in s.get_meta_info("answer")["output_token_logprobs"]] for s in states]
        seconds = time.perf_counter() - began
        runtime.check()
    return list(zip(found, logprobs)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a model's path; the default model without it")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    report.show_about()
    on_gpu, gpu_seconds = run(args.model, "auto", args.dtype)
    on_cpu, cpu_seconds = run(args.model, "cpu", "float32")
    equal, apart = 0, 0.0
    for country, (gpu, gpu_lp), (cpu, cpu_lp) in zip(COUNTRIES, *map(iter, (on_gpu, on_cpu))):
        equal += gpu == cpu
        shared = next((i for i, pair in enumerate(zip(gpu[0], cpu[0])) if pair[0] != pair[1]), len(gpu[0]))
        if gpu[0] == cpu[0]:
            apart = max([apart, *(abs(a - b) for a, b in zip(gpu_lp, cpu_lp))])
        print(f"{country}: {'equal' if gpu == cpu else f'apart (answers from character {shared} on)'}: {gpu}")
        if gpu != cpu:
            print(f"{'on the CPU':>{len(country) + 12}}: {cpu}")
    print(f"{equal} of {len(COUNTRIES)} programs equal; log-probabilities of equal answers at most {apart:.2g} apart")
    print(f"seconds: {gpu_seconds:.2f} on the GPU ({args.dtype}), {cpu_seconds:.2f} on the CPU (float32)")


if __name__ == "__main__":
    main()
