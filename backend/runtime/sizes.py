"""Default sizes of a runtime: rows of a step, branches at a time, tokens of KV, captured steps.

Owns: the defaults by kind of device, and which share of the free memory becomes KV. Knows nothing of engines. torch is
imported only for a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...lang.errors import OptionError, OutOfMemory
from .step.packed import Model

STEP_TOKENS = {"cpu": 256, "cuda": 8192}
"""Rows of one step: enough to fill the machine, few enough that streams and Ctrl-C stay lively."""
MAX_RUNNING_BRANCHES = {"cpu": 256, "cuda": 512}
"""Branches of one step."""
MAX_POOL_TOKENS = {"cpu": 131_072, "cuda": 16_777_216}
MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.85}
"""Of the memory that is free once the weights are loaded."""
CAPTURED_BRANCHES_FROM_GIB = ((40, 512), (16, 256), (0, 64))
"""(GiB of a card, branches of a captured step), largest first: captured steps keep their activations."""


def pool_size(model: Model, kind: str, fraction: float | None, step_tokens: int, more: int = 0) -> int:
    """Count the tokens of KV that fit in `fraction` of the memory that is free now (None: the device's default).
    `more`: bytes that each takes beside the model's own KV, for a draft model."""
    if fraction is not None and not (isinstance(fraction, (int, float)) and 0 < fraction < 1):
        raise OptionError(f"mem_fraction_static must be between 0 and 1, got {fraction!r}")
    share = MEMORY_SHARE[kind] if fraction is None else fraction
    if kind == "cuda":
        from .device import free_memory, pool_tokens

        free = free_memory(model.device)  # type: ignore[attr-defined]
        reserve = model.step_bytes(step_tokens)  # type: ignore[attr-defined]
        return min(MAX_POOL_TOKENS[kind], pool_tokens(free, share, model.kv_bytes_per_token + more, reserve))
    return max(1, min(MAX_POOL_TOKENS[kind], int(_host_memory() * share) // (model.kv_bytes_per_token + more)))


def allocate(model: Model, slots: int) -> None:
    """Have the model take the memory of its KV. Raises `OutOfMemory` where that cannot be."""
    size = slots * model.kv_bytes_per_token
    why: BaseException | None = None
    if getattr(model, "device_type", "cpu") == "cuda" or size <= _host_memory():
        try:
            return model.allocate(slots)
        except (MemoryError, OverflowError, ValueError, RuntimeError) as error:  # numpy's and torch's, by the size
            why = error
    raise OutOfMemory(
        f"max_total_tokens={slots - 1}: their KV would take {size >> 20:,} MiB, which this machine does not have free; "
        "give a smaller number, or leave it out"
    ) from why


def captured_rows(model: Model, asked: int | None, max_running: int) -> int:
    """`cuda_graph_max_bs`: what was asked for, or by the card's memory; no more than run at a time."""
    from .device import card_of

    card = card_of(str(model.device))  # type: ignore[attr-defined]
    gib = 0 if card is None else card.total >> 30
    return min(max_running, asked or next(rows for least, rows in CAPTURED_BRANCHES_FROM_GIB if gib >= least))


def _host_memory() -> int:
    """Free bytes of this machine's memory; half of all of it where only that is known."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30
