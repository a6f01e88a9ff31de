"""What a step of the GPU path costs the host, with a device that answers at once: milliseconds a step.

    python benchmarks/gpu/host.py --tokenizer FILE [raw:128 few_shot chat ...] [--in-flight 64] [--profile NAME]

All that the host does for a step is done (spans, the attention's plan and its packing, the inputs, the asks), nothing
is computed: tokens are made up, legal under their masks. What is left out is launching. Programs are those of
`programs.py`, `raw:N` is N prompts of 512 tokens through `generate`. No GPU is needed.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import programs
import report
import tokenizers

import sgl
from sgl.backend.runtime.attention.tree_plan import plan_tree, usual_caps
from sgl.backend.runtime.cuda.fixed_step import fill, layout
from sgl.backend.runtime.cuda.graphs import sizes
from sgl.backend.runtime.runtime import Runtime
from sgl.backend.runtime.sample.ask import Looked, Lookup
from sgl.backend.runtime.sample.packing import Packer
from sgl.backend.runtime.sample.sampler import Answer, Ask, Request, Sampled
from sgl.backend.runtime.step.packed import Batch
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.lang.chat import CHATML, ChatTemplate

HEADS = (32, 8)
POOL = 1_000_000
VOCABULARY = 151_936
DEFAULT = (
    "raw:64", "raw:128", "raw:256", "few_shot", "multiple_choice", "chat", "agent", "regex_record", "schema_record",
)  # fmt: skip


class Answered:
    """A step that is over at once."""

    def __init__(self, packer: Packer, room: Any) -> None:
        self._packer, self._room = packer, room
        self._asks: Sequence[Ask] = ()

    def ask(self, asks: Sequence[Ask]) -> None:
        self._asks = asks
        packed = self._packer.pack(asks)
        packed.write(self._room[: packed.size])

    def answers(self) -> list[Answer]:
        return [self._answer(i, ask) for i, ask in enumerate(self._asks)]

    @staticmethod
    def _answer(i: int, ask: Ask) -> Answer:
        if isinstance(ask, Lookup):
            return Looked(tuple([-1.0 - j for j in range(len(ask.ids))]))
        assert isinstance(ask, Request)
        if ask.mask is None:
            return Sampled(1000 + i)
        word = int(np.flatnonzero(ask.mask)[0])
        bits = int(ask.mask[word]) & 0xFFFFFFFF
        return Sampled(32 * word + (bits & -bits).bit_length() - 1)


class NullExecutor:
    """Prepares steps as the device's executor does, and sends them nowhere."""

    ahead = True

    def __init__(self, vocab_size: int, context_length: int) -> None:
        self._packer = Packer(vocab_size)
        self._room = np.zeros(1 << 23, dtype=np.int32)
        self._caps = [(rows, wants, usual_caps(rows, context_length, heads=HEADS)) for rows, wants in sizes(512)]

    def launch(self, batch: Batch) -> Answered:
        plan, rows, wants = plan_tree(batch.spans, batch.slots, heads=HEADS), len(batch.tokens), len(batch.want)
        fitting = (c for c in self._caps if rows <= c[0] and wants <= c[1] and plan.fits(c[2]))
        rows, wants, caps = next(fitting, (rows, wants, plan.needs))
        packed = plan.pack(caps)
        fill(self._room[: layout(rows, wants)[1] + len(packed)], batch, rows, wants, packed)
        return Answered(self._packer, self._room)


class NullModel:
    vocab_size, context_length, kv_bytes_per_token = VOCABULARY, 40_960, 1

    def allocate(self, slots: int) -> None:
        pass

    def forward(self, batch: Batch) -> Any:
        raise AssertionError("steps go through the executor")

    def executor(self, vocab_size: int, options: Any) -> NullExecutor:
        return NullExecutor(vocab_size, self.context_length)


def job_of(name: str, runtime: sgl.Runtime, together: int) -> Callable[[], float]:
    """To be called for one run: its seconds."""
    if name.startswith("raw:"):
        rng = np.random.default_rng(0)
        ids = [rng.integers(0, 150_000, 512).tolist() for _ in range(int(name[4:]))]
        params = {"temperature": 0, "ignore_eos": True, "max_new_tokens": 128}

        def job() -> float:
            began = time.perf_counter()
            runtime.generate(input_ids=ids, sampling_params=params)
            return time.perf_counter() - began

        return job
    case = programs.build(runtime, [name], False)[0]
    return lambda: programs.run_once(case, runtime, together).best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(DEFAULT))
    parser.add_argument("--tokenizer", type=Path, required=True, help="Qwen3's tokenizer.json, may be .xz or .gz")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--profile", metavar="NAME", help="where the time goes in raw:N (one thread)")
    args = parser.parse_args()
    report.show_about()
    rust = tokenizers.Tokenizer.from_str(models.read_packed(args.tokenizer).decode())
    ends = tuple([i for i in [rust.token_to_id("<|im_end|>")] if i is not None])
    tokenizer = Tokenizer(rust, bos_id=None, eos_ids=ends, add_bos=False, vocab_size=None)
    names = [args.profile] if args.profile else args.names
    print(f"{'':16} {'seconds':>8} {'steps':>6} {'ms a step':>10}")
    for name in names:
        runtime = Runtime.of(
            NullModel(), tokenizer, chat_template=ChatTemplate(CHATML, name="chatml"), max_total_tokens=POOL,
            chunked_prefill_size=8192, max_running_requests=512,
        )  # fmt: skip
        job = job_of(name, runtime, args.in_flight)
        job()
        runtime.flush_cache()
        before = runtime.engine.steps
        if args.profile:
            with cProfile.Profile() as profile:
                job()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        seconds = job()
        steps = runtime.engine.steps - before
        print(f"{name:16} {seconds:8.3f} {steps:6} {seconds / steps * 1e3:10.2f}", flush=True)


if __name__ == "__main__":
    main()
