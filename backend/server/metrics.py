"""`/metrics`: what the server has done, in Prometheus' text form, with SGLang's names where the thing is the same.

Knows nothing of requests' contents.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Counts of values by upper bounds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.total = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Sums since the start."""

    def __init__(self) -> None:
        self.prompt = self.cached = self.generated = 0
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.first = Histogram()
        self.whole = Histogram()

    def text(self, info: dict[str, Any], model: str) -> str:
        """The page. `info` is that of `get_server_info`."""
        name = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        label = f'model_name="{name}"'
        lines: list[str] = []

        def one(metric: str, kind: str, help: str, value: float) -> None:
            lines.extend((f"# HELP {metric} {help}", f"# TYPE {metric} {kind}", f"{metric}{{{label}}} {value}"))

        one("sglang:prompt_tokens_total", "counter", "Prompt tokens of finished requests.", self.prompt)
        one("sglang:generation_tokens_total", "counter", "Tokens written by finished requests.", self.generated)
        one("sglang:cached_tokens_total", "counter", "Prompt tokens whose KV was there already.", self.cached)
        one("sglang:num_requests_total", "counter", "Requests.", sum(self.requests.values()))
        one("sglang:num_running_reqs", "gauge", "Branches that take part in steps.", info["running"])
        one("sglang:num_queue_reqs", "gauge", "Programs that wait for room.", info["queued"])
        used = info["max_total_tokens"] - info["free_tokens"] - info["cached_tokens"]
        one("sglang:num_used_tokens", "gauge", "Slots of KV in use.", max(0, used))
        one("sglang:token_usage", "gauge", "Share of the KV in use.", max(0, used) / info["max_total_tokens"])
        hits = self.cached / self.prompt if self.prompt else 0.0
        one("sglang:cache_hit_rate", "gauge", "Share of prompt tokens whose KV was there.", round(hits, 6))
        one("sgl:steps_total", "counter", "Steps of the model.", info["steps"])
        one("sgl:preemptions_total", "counter", "Branches that lost their KV to others.", info["preemptions"])
        for metric, histogram, help in (
            ("sglang:time_to_first_token_seconds", self.first, "From a request to its first text."),
            ("sglang:e2e_request_latency_seconds", self.whole, "From a request to its end."),
        ):
            lines += [f"# HELP {metric} {help}", f"# TYPE {metric} histogram"]
            total = 0
            for bound, count in zip((*map(str, _SECONDS), "+Inf"), histogram.counts):
                total += count
                lines.append(f'{metric}_bucket{{{label},le="{bound}"}} {total}')
            lines += [f"{metric}_sum{{{label}}} {histogram.total:.6f}", f"{metric}_count{{{label}}} {total}"]
        lines += [
            "# HELP sgl:http_requests_total Requests by route and status.",
            "# TYPE sgl:http_requests_total counter",
        ]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'sgl:http_requests_total{{{label},path="{path}",status="{status}"}} {count}')
        return "\n".join(lines) + "\n"
