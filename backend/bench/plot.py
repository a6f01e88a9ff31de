"""A sweep as a picture, with matplotlib: the ratio to no drafts over the batch size, a line for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...lang.errors import OptionError
from .sweep import Measured


def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files. Raises `OptionError` where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise OptionError('--png needs matplotlib: pip install "sgl[plot]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(lines: Sequence[Measured], title: str, file: Path) -> None:
    """Draw the lines, with the spread of the repeats. Raises `OptionError` for a file that cannot be written."""
    plots = pyplot()
    figure, axis = plots.subplots(figsize=(8, 4.5))
    batches = sorted({line.batch for line in lines})
    names = dict.fromkeys(line.setting.name for line in lines if line.setting.drafts)
    for number, name in enumerate(names):
        mine = [line for line in lines if line.setting.name == name]
        shift = 0.04 * (number - (len(names) - 1) / 2)  # error bars side by side
        low, high = ([abs(line.ratio - line.spread[end]) for line in mine] for end in (0, 1))
        at = [batches.index(line.batch) + shift for line in mine]
        axis.errorbar(at, [line.ratio for line in mine], [low, high], marker="o", capsize=3, label=name)
    axis.axhline(1, color="black", linewidth=1)
    axis.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axis.set_xlim(-0.5, len(batches) - 0.5)
    axis.set_xlabel("batch size")
    axis.set_ylabel("tokens a second, ratio to no drafts")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    if names:
        axis.legend(fontsize="small")
    figure.tight_layout()
    write_picture(figure, file)


def write_picture(figure: Any, file: Path) -> None:
    """Write a figure as PNG, and let go of it. Raises `OptionError` for a file that cannot be written."""
    try:
        figure.savefig(file, dpi=90, format="png")
    except OSError as error:
        raise OptionError(f"--png {file}: cannot be written ({error})") from None
    finally:
        pyplot().close(figure)
