"""A draft, questions about it, and what is left of it: `python examples/chain_of_verification.py`.

The model lists things. Then every item is checked by a question of its own, in a fork that does not see the draft. So
an error in the draft is not repeated (Dhuliawala et al. 2023, arXiv:2309.11495). What is not confirmed is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import session

import sgl

DRAFTS = """Name things of a kind.
tool: hammer, saw, drill, spade, axe
fish: salmon, trout, carp, shark, tuna
"""
KINDS = ["tool", "fish", "fruit", "bird", "metal"]
CHECKED = [("hammer", "tool"), ("trout", "fish"), ("pear", "fruit"), ("crow", "bird"), ("iron", "metal")]


@sgl.function
def list_things(s: sgl.ProgramState, kind: str, count: int) -> list[tuple[str, str]]:
    checker = s.fork(1)[0]  # it begins before the draft, and never sees it
    checker += "Say of each thing what kind it is.\n" + "".join(f"{thing}: {what}\n" for thing, what in CHECKED)
    s += DRAFTS + f"{kind}:"
    for i in range(count):
        s += sgl.gen(f"item{i}", regex=" [a-z]{3,12}", max_tokens=8, temperature=0.7) + ","
    items = [s[f"item{i}"].strip() for i in range(count)]
    checks = checker.fork(count)  # one question for each item, side by side
    checks += [f"{item}: " for item in items]
    checks += sgl.select("verdict", KINDS)
    return [(item, check["verdict"]) for item, check in zip(items, checks)]


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, count=5) as args:
        kinds = ["fruit", "bird", "colour"]
        states = list_things.run_batch([{"kind": kind, "count": args.count} for kind in kinds], seed=3)
        for kind, state in zip(kinds, states):
            kept = [item for item, verdict in state.ret_value if verdict == kind]
            print(f"{kind}: the draft has {', '.join(f'{item} ({verdict}?)' for item, verdict in state.ret_value)}")
            print(f"    verified: {', '.join(dict.fromkeys(kept)) or 'nothing'}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
