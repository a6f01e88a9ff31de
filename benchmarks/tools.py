"""Calls of real functions by a small model: are they valid, are they right, and what does the grammar cost?

    python benchmarks/tools.py bfcl-simple-python.jsonl [--answers FILE] [--only KIND ...] [--count N] [--batch N]
        [--json FILE]

The data are requests of the Berkeley Function Calling Leaderboard (category "simple"), each with one function. Every
request is asked three times, greedy, on the default model:

- `required`: `sgl.call(choice="required", calls=1)`: name and arguments are constrained by the function's schema.
- `auto`: `sgl.call(choice="auto", calls=1)`: the model may answer with text instead.
- `free`: a gen without any constraint after the same prompt; what it wrote is looked for as `<tool_call>` and JSON.

*Valid*: the arguments validate against the function's schema under the `jsonschema` package, which has no part in
writing them. *Right*: the name and each argument are among the accepted answers, as the leaderboard compares them
(strings without case, spaces and `,./-_*^`). *Steps*: steps of the model a request takes part in. Those of `required`
are compared with those that the same tokens would take one by one.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

import sgl

_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
_IGNORED = re.compile(r"[\s,./\-_*^]")


def as_schema(part: Any) -> Any:
    """A function's parameters as JSON Schema: the data have Python's names of types."""
    if isinstance(part, list):
        return [as_schema(each) for each in part]
    if not isinstance(part, dict):
        return part
    found = {key: as_schema(value) for key, value in part.items()}
    kind = found.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        if _TYPES[kind] is None:
            del found["type"]
        else:
            found["type"] = _TYPES[kind]
    return found


def tools_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": f["name"], "description": f["description"], "parameters": as_schema(f["parameters"])}
        for f in row["function"]
    ]


@sgl.function
def constrained(s: Any, row: dict[str, Any], choice: str) -> Any:
    tools = tools_of(row)
    s += sgl.system("You call functions.", tools=tools) + sgl.user(row["question"][0][0]["content"])
    s += sgl.assistant(sgl.call("step", tools, choice, 1, max_tokens=512))
    return [(call.name, call.arguments) for call in s.value("step")]


@sgl.function
def free(s: Any, row: dict[str, Any]) -> Any:
    s += sgl.system("You call functions.", tools=tools_of(row)) + sgl.user(row["question"][0][0]["content"])
    s += sgl.assistant(sgl.gen("step", max_tokens=512))
    return read_free(s["step"])


def read_free(text: str) -> list[tuple[str, Any]]:
    """The first call in a text that nothing constrained, read as kindly as can be."""
    at = text.find("<tool_call>")
    begin = text.find("{", max(at, 0))
    try:
        data, _ = json.JSONDecoder().raw_decode(text, begin)
        return [(data["name"], data["arguments"])]
    except (ValueError, KeyError, TypeError):
        return []


def is_valid(calls: list[tuple[str, Any]], row: dict[str, Any]) -> bool:
    """Whether there is one call, of the function, with arguments that its schema allows."""
    by_name = {tool["name"]: tool["parameters"] for tool in tools_of(row)}
    if len(calls) != 1 or calls[0][0] not in by_name:
        return False
    return bool(jsonschema.Draft202012Validator(by_name[calls[0][0]]).is_valid(calls[0][1]))


def is_right(calls: list[tuple[str, Any]], accepted: list[dict[str, Any]]) -> bool:
    """Whether the one call is an accepted one."""
    if len(calls) != 1 or not isinstance(calls[0][1], dict):
        return False
    name, arguments = calls[0]
    wanted = next((each[name] for each in accepted if name in each), None)
    if wanted is None or not set(arguments) <= set(wanted):
        return False
    return all(
        any(_same(arguments[key], value) for value in values) if key in arguments else "" in values
        for key, values in wanted.items()
    )


def _same(given: Any, accepted: Any) -> bool:
    if isinstance(given, str) and isinstance(accepted, str):
        return _IGNORED.sub("", given).lower() == _IGNORED.sub("", accepted).lower()
    if isinstance(given, list) and isinstance(accepted, list):
        return len(given) == len(accepted) and all(map(_same, given, accepted))
    if isinstance(given, dict) and isinstance(accepted, dict):
        if not set(given) <= set(accepted):
            return False
        return all(
            any(_same(given[k], v) for v in vs) if k in given else "" in vs
            for k, vs in ((k, v if isinstance(v, list) else [v]) for k, v in accepted.items())
        )
    return (type(given) is type(accepted) and given == accepted) or (
        isinstance(given, (int, float))
        and isinstance(accepted, (int, float))
        and not isinstance(given, bool)
        and not isinstance(accepted, bool)
        and given == accepted
    )


def measured(name: str, run: Callable[[], list[Any]], rows: list[Any], answers: list[Any]) -> dict[str, Any]:
    began = time.perf_counter()
    states = run()
    seconds = time.perf_counter() - began
    count: Counter[str] = Counter()
    usage = sgl.Usage()
    for state, row, accepted in zip(states, rows, answers):
        error = state.error()
        usage = usage + state.usage.total
        calls = [] if error is not None else state.ret_value
        count["failed"] += error is not None
        count["called"] += bool(calls)
        count["valid"] += is_valid(calls, row)
        count["right"] += is_right(calls, accepted)
        if error is not None:
            print(f"{name} {row['id']}: {type(error).__name__}: {error}")
    return {
        "kind": name,
        **{key: count[key] for key in ("called", "valid", "right", "failed")},
        "requests": len(rows),
        "seconds": round(seconds, 1),
        "generated": usage.generated,
        "forced": usage.forced,
        "steps": usage.steps,
        "computed": usage.computed,
        "prompt": usage.prompt,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--answers", type=Path, help="default: the data's name with .answers before its ending")
    parser.add_argument("--count", type=int, help="requests, from the first; default all")
    parser.add_argument("--only", nargs="+", choices=("required", "auto", "free"), help="kinds; default all")
    parser.add_argument("--batch", type=int, default=8, help="requests at a time (8)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    answers_file = args.answers or args.data.with_name(args.data.stem + ".answers.jsonl")
    rows = [json.loads(line) for line in args.data.read_text().splitlines()][: args.count]
    by_id = {a["id"]: a["ground_truth"] for a in map(json.loads, answers_file.read_text().splitlines())}
    answers = [by_id[row["id"]] for row in rows]
    # Steps are counted, so nothing is guessed ahead.
    with sgl.Runtime(speculative_num_draft_tokens=0) as runtime:
        options = {"backend": runtime, "temperature": 0, "num_threads": args.batch, "on_error": "keep"}
        results = []
        for kind in args.only or ("required", "auto", "free"):
            program, more = (free, {}) if kind == "free" else (constrained, {"choice": kind})
            inputs = [{"row": row, **more} for row in rows]
            results.append(measured(kind, lambda p=program, i=inputs: p.run_batch(i, **options), rows, answers))  # type: ignore[misc]
    print(f"{platform.processor() or platform.machine()}, {runtime.model_name}, {len(rows)} requests")
    for result in results:
        print(json.dumps(result))
    for result in results:
        print(
            f"{result['kind']}: {result['valid']} of {result['requests']} valid, {result['right']} right; "
            f"{result['generated']} tokens in {result['steps']} steps"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
