"""What free text around tool calls costs a token: masks alone, and whole gens beside unconstrained ones.

    python benchmarks/free_text.py [MODEL]

Prints microseconds a token at batch 1, greedy, of SmolLM2-135M-Instruct unless MODEL says otherwise. The prose of
`masks` is a model's own text, so its tokens are what a model writes; a second text shares what the first one computed.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

import sgl

TOKENS, REPEATS = 128, 5
ARGUMENTS = sgl.json_schema(
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
)
PROSE = sgl.free_text(["<tool_call>"])
AUTO = sgl.repeat(PROSE + "<tool_call>\n" + ARGUMENTS + "\n</tool_call>") + PROSE


@sgl.function
def write(s: Any, constraint: Any) -> None:
    s += "The history of bread begins"
    s += sgl.gen("x", constraint=constraint, max_tokens=TOKENS, temperature=0, ignore_eos=True)


def gen_us(runtime: Any, constraint: Any) -> float:
    """The time of a token of a gen, in microseconds: the median of some runs whose prompt is cached."""
    times = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        state = write.run(constraint=constraint, backend=runtime)
        count = len(state.get_meta_info("x")["token_ids"])
        times.append((time.perf_counter() - begun) / count)
    return median(times[1:]) * 1e6


def mask_us(runtime: Any, tokens: list[int]) -> tuple[float, float]:
    """The time of a mask and of taking a token: of the first text, and of a later one."""
    prepared = runtime.engine.grammars.prepare(AUTO)
    found = []
    for _ in range(REPEATS):
        matcher = prepared.compiled.matcher()
        begun = time.perf_counter()
        for token in tokens:
            matcher.mask()
            assert matcher.accept(token)
        found.append((time.perf_counter() - begun) / len(tokens) * 1e6)
    return found[0], median(found[1:])


def main() -> None:
    with sgl.Runtime(*sys.argv[1:2]) as runtime:
        begun = time.perf_counter()
        runtime.prepare(AUTO, "benchmark")
        print(f"compile              {(time.perf_counter() - begun) * 1e3:8.1f} ms")
        tokens = write.run(constraint=None, backend=runtime).get_meta_info("x")["token_ids"]
        first, later = mask_us(runtime, tokens)
        print(f"masks, first text    {first:8.1f} us a token")
        print(f"masks, later text    {later:8.1f} us a token")
        rounds = [(gen_us(runtime, None), gen_us(runtime, AUTO)) for _ in range(3)]
        plain, constrained = (median(each) for each in zip(*rounds))
        print(f"gen, unconstrained   {plain:8.1f} us a token")
        print(f"gen, auto tool calls {constrained:8.1f} us a token ({constrained - plain:+.1f})")


if __name__ == "__main__":
    main()
