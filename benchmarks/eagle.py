"""What a draft of the shipped EAGLE-3 head costs on the CPU, in float32 and in 8 bits.

    python benchmarks/eagle.py

A round adds the positions that the round before accepted (2 here), and drafts a chain. Embeddings and features are
random: time does not depend on them.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

import sgl
from sgl.backend.runtime.draft.eagle.files import load_head
from sgl.backend.runtime.draft.eagle.packed_head import pack_head
from sgl.backend.runtime.draft.eagle.propose import Drafter, HeadKv

HEAD = Path(sgl.__file__).parent / "backend/runtime/draft/eagle/smollm2-135m"
PREFIX, ACCEPTED, ROUNDS = 200, 2, 60


def milliseconds(drafter: Drafter, drafts: int) -> float:
    """The median time of a round."""
    kv, features = HeadKv(drafter.head), torch.randn(PREFIX, 3 * 576)
    drafter.propose(kv, [5] * PREFIX, features, 0)
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        drafter.propose(kv, [5] * ACCEPTED, features[:ACCEPTED], drafts)
        times.append(time.perf_counter() - begin)
        kv.truncate(PREFIX)
    return 1000 * statistics.median(times)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    embed = torch.randn(49152, 576) * 0.1
    print("| head, one thread | round of 1 draft, ms | of 4, ms | a further draft, ms |\n|---|--:|--:|--:|")
    for name, change in (("float32", None), ("8 bits", pack_head)):
        head = load_head(HEAD)
        if change is not None and not change(head):
            print("the kernels are missing: no 8 bits")
            return
        drafter = Drafter(head, embed, positions=1024)
        one, four = milliseconds(drafter, 1), milliseconds(drafter, 4)
        print(f"| {name} | {one:.2f} | {four:.2f} | {(four - one) / 3:.2f} |")


if __name__ == "__main__":
    main()
