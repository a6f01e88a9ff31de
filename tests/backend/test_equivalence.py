"""Invariant 8: for a fixed seed, the text depends on nothing but the program.

cache on/off x batch 1/8 x chunk sizes x fork or sequence x pool large/tight, all against the naive oracle.
"""

from __future__ import annotations

import itertools
from functools import cache

import pytest

from sgl.backend.base import GenRequest, ScoreRequest
from sgl.backend.runtime.runtime import Runtime
from sgl.backend.runtime.sample.noise import mix
from sgl.lang.choices import sequence_likelihood, token_length_normalized
from sgl.lang.expr import Sampling

from .naive import Naive, NaiveBranch, rush

SHARED = "You are brief. Answer: the thing that is asked, and nothing else at all. "
WARM = Sampling(max_tokens=10, temperature=1.0, top_p=0.95, stop=("stop", "\n\n"))
COLD = Sampling(max_tokens=7, temperature=0.0)
ENDS = (" and the first", " and the second one", "\nthen")


def program(branch, row: int) -> list:  # type: ignore[no-untyped-def,type-arg]
    """Constants, gens, a select and a fork of three; the oracle's branch has the same methods."""
    out = []
    branch.append(SHARED + f"Row {row}: ")
    out.append(branch.gen(GenRequest(WARM)) if not isinstance(branch, NaiveBranch) else branch.gen(WARM))
    branch.append(" Then: ")
    if isinstance(branch, NaiveBranch):
        out.append(branch.select((" yes", " no", "stop"), token_length_normalized)[0])
    else:
        out.append(branch.score(ScoreRequest((" yes", " no", "stop"), token_length_normalized)))
    return out


def branches_of(branch, row: int) -> list:  # type: ignore[no-untyped-def,type-arg]
    out = []
    for child, end in zip(branch.fork(len(ENDS)), ENDS):
        child.append(end)
        if isinstance(child, NaiveBranch):
            out.append(child.gen(WARM))
            out.append(child.select(("a", "ab"), sequence_likelihood)[0])
            out.append(child.gen(COLD))
        else:
            out.append(child.gen(GenRequest(WARM)))
            out.append(child.score(ScoreRequest(("a", "ab"), sequence_likelihood)))
            out.append(child.gen(GenRequest(COLD)))
    return out


@cache
def expected(row: int) -> tuple[str, ...]:
    naive = NaiveBranch.open(Naive(), row)
    found = program(naive, row) + branches_of(naive, row)
    return tuple(r if isinstance(r, str) else r[0] for r in found)


def text(handle) -> str:  # type: ignore[no-untyped-def]
    value = handle.value()
    return value.text if not isinstance(value, list) else value[0].text


@pytest.mark.parametrize(
    ("reuse", "batch", "chunk", "forked", "pool"),
    list(itertools.product([True, False], [1, 8], [1, 5, 512], [True, False], [50000, 260])),
)
def test_text_depends_on_the_program_alone(reuse: bool, batch: int, chunk: int, forked: bool, pool: int) -> None:
    runtime = Runtime.toy(disable_radix_cache=not reuse, chunked_prefill_size=chunk, max_total_tokens=pool)
    if chunk > 1:
        rush(runtime)
    runs = []
    for row in range(batch):
        branch = runtime.open(seed=row)
        handles = program(branch, row)
        if forked:
            handles += branches_of(branch, row)
        else:  # each child as a program of its own, re-run from the start, under the child's noise
            for i, end in enumerate(ENDS):
                alone = runtime.open(seed=row)
                program(alone, row)
                runtime.wait(alone.sync())
                alone.path = mix(mix(0, 1), i + 1)
                alone.append(end)
                handles += [
                    alone.gen(GenRequest(WARM)),
                    alone.score(ScoreRequest(("a", "ab"), sequence_likelihood)),
                    alone.gen(GenRequest(COLD)),
                ]
        runs.append(handles)
    for row, handles in enumerate(runs):
        for handle in handles:
            assert runtime.wait(handle, timeout=120)
        assert tuple(map(text, handles)) == expected(row)
    runtime.check()
    if pool == 260 and batch == 8 and forked and chunk > 1:
        assert runtime.engine.scheduler.preemptions > 0, "the tight pool was not tight"
