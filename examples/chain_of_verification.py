"""A draft, questions about it, and what is left of it: `python examples/chain_of_verification.py`.

The model lists things. Then every item is checked by a question of its own, in a fork that does not see the draft. So
an error in the draft is not repeated (Dhuliawala et al. 2023, arXiv:2309.11495). What is not confirmed is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import session

import sgl

SHOWN = [
    ("Is a rose a flower?", "Yes"),
    ("Is a hammer a flower?", "No"),
    ("Is a salmon a fish?", "Yes"),
    ("Is a table an animal?", "No"),
]


@sgl.function
def list_things(s: sgl.ProgramState, kind: str, count: int) -> tuple[list[str], list[str]]:
    s += sgl.system("You answer with Yes or No, or with the list that is asked for.")
    for question, reply in SHOWN:
        s += sgl.user(question) + sgl.assistant(reply)
    checks = s.fork(count)  # they begin before the draft: the same examples, nothing of the list
    s += sgl.user(f"List {count} {kind}s.")
    with s.assistant():
        for i in range(count):
            s += f"{i + 1}. " + sgl.gen(f"item{i}", regex="[A-Z]?[a-z]{3,12}", max_tokens=8, temperature=0.8) + "\n"
    items = [s[f"item{i}"].lower() for i in range(count)]
    checks += [sgl.user(f"Is {'an' if item[0] in 'aeiou' else 'a'} {item} a {kind}?") for item in items]
    checks += sgl.assistant(sgl.select("verdict", ["Yes", "No"]))
    return items, [check["verdict"] for check in checks]


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, count=5) as args:
        kinds = ["fruit", "bird", "colour"]
        states = list_things.run_batch([{"kind": kind, "count": args.count} for kind in kinds], seed=3)
        for kind, state in zip(kinds, states):
            items, verdicts = state.ret_value
            kept = [item for item, verdict in zip(items, verdicts) if verdict == "Yes"]
            print(f"{kind}: the draft has {', '.join(items)}")
            print(f"    verified: {', '.join(dict.fromkeys(kept)) or 'nothing'}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
