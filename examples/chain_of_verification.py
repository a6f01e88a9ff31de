"""A draft, a question about each of its items, and what is left of it.

The model lists things of a kind. Then every item is checked by a question of its own, in a fork that never saw the
draft. So an error of the draft is not repeated (Dhuliawala et al. 2023, arXiv:2309.11495). What is not confirmed is
dropped.

Run: python examples/chain_of_verification.py [--items 5]

Expect of a model of 135M parameters: fruits and birds that are mostly right. As metals it lists wood and stone, and the
check drops them.
"""

from __future__ import annotations

import argparse

import sgl

SHOWN = """Name things of a kind.
tool: hammer, saw, drill, spade, axe
fish: salmon, trout, carp, shark, tuna
"""
CHECKED = "Say of each thing what kind it is.\nhammer: tool\ntrout: fish\npear: fruit\ncrow: bird\niron: metal\n"
CHECKED += "cotton: material\n"
KINDS = ["tool", "fish", "fruit", "bird", "metal", "material"]


@sgl.function
def list_things(s: sgl.ProgramState, kind: str, items: int) -> list[tuple[str, str]]:
    [checker] = s.fork(1)  # it begins before the draft
    checker += CHECKED
    s += SHOWN + f"{kind}:"
    for i in range(items):
        s += sgl.gen(f"item{i}", regex=" [a-z]{3,12}", max_tokens=8, temperature=0.7) + ","
    draft = [s[f"item{i}"].strip() for i in range(items)]
    checks = checker.fork(items)  # one for each item, side by side
    checks += [f"{item}: " for item in draft]
    checks += sgl.select("verdict", KINDS)
    return [(item, check["verdict"]) for item, check in zip(draft, checks)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=5, help="items of each list; default: 5")
    args = parser.parse_args()
    kinds = ["fruit", "bird", "metal"]
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        rows = [{"kind": kind, "items": args.items} for kind in kinds]
        states = list_things.run_batch(rows, backend=runtime, seed=3)
        for kind, state in zip(kinds, states):
            verdicts: list[tuple[str, str]] = state.ret_value
            kept = dict.fromkeys(item for item, verdict in verdicts if verdict == kind)
            print(f"{kind}: the draft has {', '.join(f'{item} ({verdict}?)' for item, verdict in verdicts)}")
            print(f"    verified: {', '.join(kept) or 'nothing'}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
