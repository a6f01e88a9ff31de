"""A sweep as a picture, with matplotlib: latency against throughput, a point for each concurrency or rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..plot import pyplot, write_picture
from .figures import Figures


def draw(found: Sequence[Figures], title: str, file: Path) -> None:
    """Draw TTFT, TPOT and tokens a second per user over output tokens a second.

    Raises `OptionError` for a file that cannot be written.
    """
    plots = pyplot()
    figure, axes = plots.subplots(1, 3, figsize=(13, 4.2))
    rates = [each.output_tokens_per_second for each in found]
    for axis, name, what in zip(axes, ("ttft", "tpot", ""), ("TTFT, ms", "TPOT, ms", "tokens a second per user")):
        if name:
            for part, style in (("p50", "-o"), ("p99", "--s")):
                axis.plot(rates, [getattr(getattr(each, name), part) for each in found], style, label=part)
            axis.legend(fontsize="small")
        else:
            axis.plot(rates, [each.tokens_per_second_per_user for each in found], "-o")
        for rate, each in zip(rates, found):
            load = each.concurrency if each.request_rate is None else f"{each.request_rate:g}/s"
            low = axis.get_ylim()[0]
            axis.annotate(str(load), (rate, low), fontsize=7, ha="center", va="bottom", alpha=0.7)
        axis.set_xlabel("output tokens a second, all requests")
        axis.set_ylabel(what)
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    figure.tight_layout()
    write_picture(figure, file)
