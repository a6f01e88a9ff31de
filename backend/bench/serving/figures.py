"""What many requests came to. The definitions:

- *TTFT*, time to first token: from sending a request to its first event with text.
- *E2E*: from sending it to the end of its answer.
- *TPOT*, time per output token: (E2E - TTFT) / (tokens written - 1); of answers with two tokens or more.
- *ITL*, inter-token latency: the time between an event with text and the next. An event may bring several tokens.
- *output tokens a second*: tokens written by all requests that were answered, over the seconds of the whole run.
- *per user*: tokens written over E2E, the mean of all requests.

Tokens are counted by the server. Requests that failed are counted, and are in no other figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from .client import Timed

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Spread:
    """The mean and percentiles of some times, milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Spread:
        """That of some times; zeros if there are none."""
        if not seconds:
            return Spread(0, 0, 0, 0, 0)
        ordered = sorted(seconds)
        at = [1000 * _percentile(ordered, percent) for percent in PERCENTILES]
        return Spread(1000 * sum(ordered) / len(ordered), *at)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """Between the two values around it, linearly (as NumPy's default)."""
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Figures:
    """One measurement. Rates are by second, `ttft`, `tpot`, `itl` and `e2e` in milliseconds."""

    concurrency: int | None
    request_rate: float | None
    completed: int
    failed: int
    errors: dict[str, int]
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    tokens_per_second_per_user: float
    mean_concurrency: float
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2e: Spread

    @staticmethod
    def of(timed: Sequence[Timed], seconds: float, concurrency: int | None, rate: float | None) -> Figures:
        """The figures of requests that took `seconds` together."""
        good = [each for each in timed if not each.error]
        written = sum(each.output_tokens for each in good)
        read = sum(each.prompt_tokens for each in good)
        users = [each.output_tokens / each.whole for each in good if each.whole]
        return Figures(
            concurrency=concurrency,
            request_rate=rate,
            completed=len(good),
            failed=len(timed) - len(good),
            errors=dict(Counter(each.error for each in timed if each.error).most_common(10)),
            seconds=seconds,
            prompt_tokens=read,
            cached_tokens=sum(each.cached_tokens for each in good),
            output_tokens=written,
            requests_per_second=len(good) / seconds,
            output_tokens_per_second=written / seconds,
            total_tokens_per_second=(written + read) / seconds,
            tokens_per_second_per_user=sum(users) / len(users) if users else 0.0,
            mean_concurrency=sum(each.whole for each in good) / seconds,
            ttft=Spread.of([each.first for each in good]),
            tpot=Spread.of(
                [(each.whole - each.first) / (each.output_tokens - 1) for each in good if each.output_tokens > 1]
            ),
            itl=Spread.of([gap for each in good for gap in each.gaps]),
            e2e=Spread.of([each.whole for each in good]),
        )

    def data(self) -> dict[str, object]:
        """All of it as plain data, for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """All of it for a person."""
        load = f"{self.concurrency} at a time" if self.request_rate is None else f"{self.request_rate:g} requests/s"
        yield f"{load}: {self.completed} requests in {self.seconds:.2f} s, {self.failed} failed"
        for error, count in self.errors.items():
            yield f"  failed {count} times: {error}"
        cached = f", {self.cached_tokens / self.prompt_tokens:.0%} cached" if self.prompt_tokens else ""
        yield f"  prompt tokens {self.prompt_tokens:,}{cached}; output tokens {self.output_tokens:,}"
        yield (
            f"  {self.requests_per_second:.2f} requests/s; output {self.output_tokens_per_second:,.1f} tokens/s, total "
            f"{self.total_tokens_per_second:,.1f}; per user {self.tokens_per_second_per_user:,.1f}; "
            f"{self.mean_concurrency:.1f} under way"
        )
        yield f"  {'ms':<6}{'mean':>10}{'p50':>10}{'p90':>10}{'p95':>10}{'p99':>10}"
        for name in ("ttft", "tpot", "itl", "e2e"):
            spread: Spread = getattr(self, name)
            numbers = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99)
            yield f"  {name.upper():<6}" + "".join(f"{number:>10.2f}" for number in numbers)
