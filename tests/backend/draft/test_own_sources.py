"""What a runtime drafts by itself, from texts and from constraints, changes no text: with trials that always allow it.

`test_speculation.py` has random drafts, and `test_trials.py` when drafts are allowed.
"""

from __future__ import annotations

from typing import Any

import pytest

from sgl.backend.base import GenRequest
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.expr import Sampling

from ..job.test_constrained import CONSTRAINTS, RANKINGS, favouring
from ..step.overlapping import outcome, step_to_the_end

SAMPLINGS = [
    Sampling(max_tokens=40, temperature=0.0),
    Sampling(max_tokens=60, temperature=1.0, top_p=0.9),
    Sampling(max_tokens=30, temperature=1.0, min_tokens=4, return_logprob=True, top_logprobs_num=1),
]


def texts_of(runtime: Runtime, kind: str) -> list[Any]:
    """Each prompt twice, so that the second one has a text to draft from."""
    handles = []
    for seed in (0, 1, 2, 0, 1, 2):
        branch = runtime.open(seed=seed)
        branch.append(f"{seed}: ")
        for sampling in (SAMPLINGS[seed], SAMPLINGS[seed - 1]):
            request = GenRequest(sampling, constraint=CONSTRAINTS[kind], on_budget="close" if seed else "error")
            handles.append(branch.gen(request))
            branch.append(" and ")
        step_to_the_end(runtime)
    runtime.check()
    return [outcome(handle) for handle in handles]


@pytest.mark.parametrize("ranking", ["none", "quotes", "words"])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constrained_texts_are_those_without_drafts(kind: str, ranking: str) -> None:
    plain, drafting = favouring(RANKINGS[ranking]), favouring(RANKINGS[ranking])
    plain.engine.speculation.proposers = []
    speculation = drafting.engine.speculation
    assert [source.name for source in speculation.proposers] == ["suffix", "grammar"]
    speculation.trials.drafting = lambda branches: True  # type: ignore[method-assign]
    speculation.cost.share = lambda rows: 0.0  # type: ignore[method-assign]
    assert texts_of(drafting, kind) == texts_of(plain, kind)
    assert sum(count.drafted for count in speculation.counts.values())
