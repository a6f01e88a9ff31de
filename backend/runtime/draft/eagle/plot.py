"""The log of a training as a picture, with matplotlib if it is installed.

Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_log(log: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """Draw loss and right guesses, a line for each step of a chain; whether matplotlib was there to do it."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (losses, rights) = pyplot.subplots(1, 2, figsize=(11, 4))
    at = [row["step"] for row in log]
    for axis, key, title in ((losses, "loss", "cross entropy"), (rights, "right", "right guesses")):
        for chain in range(len(log[0][key]) if log else 0):
            axis.plot(at, [row[key][chain] for row in log], label=f"draft {chain + 1}")
        axis.set_title(title)
        axis.set_xlabel("optimiser step")
        axis.grid(alpha=0.3)
    losses.set_yscale("log")
    rights.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return True
