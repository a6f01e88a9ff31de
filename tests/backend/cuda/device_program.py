"""A program that a device and the host must write alike: sampled and greedy gens, forks, a select, a constraint."""

from __future__ import annotations

from typing import Any

import sgl


@sgl.function
def program(s: Any, i: int) -> None:
    s += "Shared by all. " + f"Row {i}: " + sgl.gen("a", max_tokens=4, temperature=0.8, ignore_eos=True, seed=3)
    forks = s.fork(2)
    forks += lambda k: f" b{k}" + sgl.gen("b", max_tokens=3, temperature=0, top_p=0.9, seed=4)
    forks += sgl.select("c", [" yes", " no", " yes!"])
    forks.join()
    s += sgl.gen("d", regex="[0-9]{2}", seed=5)
