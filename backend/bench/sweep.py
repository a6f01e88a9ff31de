"""The settings of speculation, measured in turns on one piece of work; and which of them is best for a batch size.

Knows nothing of how a result is shown. Each setting has a runtime of its own, which learns as the user's would. A
repeat runs all of them one after the other, so what changes on the machine changes for all. A *ratio* is that of tokens
a second to those of the setting without drafts in the same repeat. The first repeat warms up, and does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...lang.errors import OptionError, suggest
from ..runtime.options import CHAIN_ALGORITHMS, DRAFT_ALGORITHMS, MOST_CHAIN_DRAFTS, MOST_DRAFT_TOKENS
from ..runtime.runtime import Runtime
from .work import Workload


@dataclass(frozen=True)
class Setting:
    """One way to draft: keyword arguments of `Runtime`, and what to call it."""

    name: str
    options: dict[str, Any]

    @property
    def drafts(self) -> bool:
        return self.options.get("speculative_num_draft_tokens") != 0


WITHOUT = Setting("none", {"speculative_num_draft_tokens": 0})


def settings_of(
    drafters: Sequence[str], steps: Sequence[int], tokens: Sequence[int], *, draft_model: str | None, head: str | None
) -> list[Setting]:
    """The settings to compare, the one without drafts first.

    Args:
        drafters: "NGRAM", "STANDALONE", "EAGLE3".
        steps: drafts in a row of a draft model or a head.
        tokens: tokens of the longest draft of "NGRAM".
        draft_model: the model of "STANDALONE".
        head: the head of "EAGLE3". Default: that of the embedded model.

    Raises:
        OptionError: A drafter that does not exist, a number out of range, or a missing draft model.
    """
    for option, numbers, most in (("--steps", steps, MOST_CHAIN_DRAFTS), ("--draft-tokens", tokens, MOST_DRAFT_TOKENS)):
        if wrong := [each for each in numbers if not 1 <= each <= most]:
            raise OptionError(f"{option} {wrong[0]}: give whole numbers from 1 to {most}")
    found = [WITHOUT]
    for drafter in dict.fromkeys(drafters):
        if drafter not in DRAFT_ALGORITHMS:
            known = ", ".join(DRAFT_ALGORITHMS)
            raise OptionError(f"--drafter {drafter!r} does not exist{suggest(drafter, DRAFT_ALGORITHMS)}: {known}")
        options: dict[str, Any] = {"speculative_algorithm": drafter}
        path = {"STANDALONE": draft_model, "EAGLE3": head}.get(drafter)
        if drafter == "STANDALONE" and path is None:
            raise OptionError("--drafter STANDALONE needs a smaller model: say --draft-model")
        if path is not None:
            options["speculative_draft_model_path"] = path
        if drafter in CHAIN_ALGORITHMS:
            for each in dict.fromkeys(steps):
                found.append(Setting(f"{drafter}, {each} steps", {**options, "speculative_num_steps": each}))
        else:
            for each in dict.fromkeys(tokens):
                found.append(Setting(f"{drafter}, {each} tokens", {**options, "speculative_num_draft_tokens": each}))
    return found


@dataclass
class Measured:
    """What one setting came to at one batch size: of each repeat the tokens a second and the ratio; and what became of
    its drafts, in all of them. `same`: texts that were those without drafts."""

    setting: Setting
    batch: int
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    same: int = 0
    texts: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)

    @property
    def accept_length(self) -> float:
        """Tokens a round with a draft."""
        return 1 + self.accepted / max(1, self.rounds)

    @property
    def accept_rate(self) -> float:
        return self.accepted / max(1, self.drafted)


@dataclass(frozen=True)
class Choice:
    """The best setting at one batch size. `alike`: settings that the spread does not tell from it. `clear`: it was
    faster than no drafts in every repeat. Where none was, the best setting is the one without drafts."""

    batch: int
    best: Measured
    clear: bool
    alike: Sequence[Measured]


def measure(
    settings: Sequence[Setting],
    make: Callable[[Setting], Runtime],
    work: Workload,
    batches: Iterable[int],
    repeats: int,
    told: Callable[[str], None] = lambda line: None,
) -> list[Measured]:
    """Measure each setting at each batch size, `repeats` times and once to warm up.

    `make` makes a setting's runtime; all of them live until the end. `told` is called with what is done next.
    """
    found = {batch: [Measured(setting, batch) for setting in settings] for batch in batches}
    runtimes: list[Runtime] = []
    try:
        for number, setting in enumerate(settings, 1):
            told(f"loading {number} of {len(settings)}: {setting.name}")
            runtimes.append(make(setting))
        for repeat in range(repeats + 1):
            for batch, lines in found.items():
                told(f"batch {batch}, {f'repeat {repeat} of {repeats}' if repeat else 'warming up'}")
                _repeat(lines, runtimes, work, batch, repeat)
    finally:
        for runtime in runtimes:
            runtime.shutdown()
    return [line for lines in found.values() for line in lines]


def _repeat(lines: Sequence[Measured], runtimes: Sequence[Runtime], work: Workload, batch: int, repeat: int) -> None:
    """Run each setting once, each repeat beginning with another one."""
    rates: dict[int, float] = {}
    texts: dict[int, Sequence[str]] = {}
    for i in [(repeat + i) % len(lines) for i in range(len(lines))]:
        line, runtime = lines[i], runtimes[i]
        runtime.flush_cache()
        before = _counts(runtime)
        began = time.perf_counter()
        written = work.run(runtime, batch)
        rates[i], texts[i] = written.tokens / (time.perf_counter() - began), written.texts
        if repeat:
            line.rates.append(rates[i])
            rounds, drafted, accepted = (after - was for after, was in zip(_counts(runtime), before))
            line.rounds += rounds
            line.drafted += drafted
            line.accepted += accepted
    if not repeat:
        return
    for i, line in enumerate(lines):
        line.ratios.append(rates[i] / rates[0] if rates[0] else 1.0)
        line.same += sum(mine == plain for mine, plain in zip(texts[i], texts[0]))
        line.texts += len(texts[0])


def _counts(runtime: Runtime) -> tuple[int, int, int]:
    told = list(runtime.get_server_info()["speculation"].values())
    rounds, drafted, accepted = (sum(each[name] for each in told) for name in ("rounds", "drafted", "accepted"))
    return rounds, drafted, accepted


def choose(lines: Sequence[Measured]) -> Choice:
    """The best of the lines of one batch size, of which the first is without drafts."""
    plain, *others = lines
    fastest = max(others, key=lambda line: line.ratio, default=plain)
    clear = fastest is not plain and fastest.spread[0] > 1
    best = fastest if clear else plain
    low, high = best.spread if clear else (1.0, 1.0)
    alike = [each for each in lines if each is not best and each.spread[0] <= high and each.spread[1] >= low]
    return Choice(best.batch, best, clear, alike)
