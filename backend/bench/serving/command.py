"""`sgl bench serving`: how long requests to a server take, at a rate or with so many at a time."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from ....lang.errors import OptionError
from .client import ROUTES, BenchClient, Timed
from .figures import Figures
from .load import drive
from .prompts import BenchRequest, file_requests, random_requests, shared_requests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sgl bench serving`."""
    add = parser.add_argument
    add("--base-url", metavar="URL", help="the server (default: serve --model in this process)")
    add("--model", metavar="M", help="the model's name on the server, or the model to serve here")
    add("--api-key", metavar="KEY", help="the server's key")
    add("--backend", default="openai", choices=list(ROUTES), help="which API to use (default openai: completions)")
    add(
        "--dataset",
        default="random",
        metavar="D",
        help="random, shared-prefix, or a file of JSON lines",
    )
    add("--num-prompts", type=int, default=64, metavar="N", help="requests of each measurement (default 64)")
    add("--random-input-len", type=int, default=256, metavar="N", help="longest prompt, words (default 256)")
    add("--random-output-len", type=int, default=64, metavar="N", help="longest output, tokens (default 64)")
    add("--random-range-ratio", type=float, default=1.0, metavar="X", help="shortest length over longest (default 1)")
    add("--shared-groups", type=int, default=4, metavar="N", help="groups with a prefix each (default 4)")
    add("--shared-prefix-len", type=int, default=512, metavar="N", help="words that a group shares (default 512)")
    add("--concurrency", type=int, nargs="+", metavar="N", help="requests at a time; several: a sweep (default 1 8)")
    add("--request-rate", type=float, nargs="+", metavar="R", help="requests a second, at random times, in place of it")
    add("--max-concurrency", type=int, metavar="N", help="with --request-rate: most requests at a time")
    add("--warmup", type=int, default=4, metavar="N", help="requests before each measurement, not counted (default 4)")
    add("--temperature", type=float, default=0.0, help="of the sampling (default 0)")
    add("--stop-early", action="store_true", help="let answers end by themselves; else ignore_eos is sent")
    add("--seed", type=int, default=1, help="of prompts, lengths and times (default 1)")
    add("--timeout", type=float, default=600.0, help="seconds without news after which a request fails (default 600)")
    add("--extra", metavar="JSON", help="more fields of every request, an object")
    add("--json", metavar="FILE", help="write all figures")
    add("--png", metavar="FILE", help='draw latency against throughput; needs matplotlib: pip install "sgl[plot]"')
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `sgl bench serving`; 1 if every request of a measurement failed. Raises `OptionError`."""
    _check(args)
    extra = _extra(args)
    found: list[Figures] = []
    with ExitStack() as stack:
        url, name = args.base_url, args.model
        if url is None:
            from ...runtime.runtime import Runtime
            from .here import served

            runtime = Runtime(args.model, random_seed=args.seed)
            url, name = stack.enter_context(served(runtime)), None
        try:
            asyncio.run(_measure(args, url, name, extra, found))
        finally:
            if found:
                _tell(args, url, found)
    return 1 if any(not each.completed for each in found) else 0


def _check(args: argparse.Namespace) -> None:
    numbers = {
        "--num-prompts": [args.num_prompts],
        "--random-input-len": [args.random_input_len],
        "--random-output-len": [args.random_output_len],
        "--shared-groups": [args.shared_groups],
        "--shared-prefix-len": [args.shared_prefix_len],
        "--concurrency": args.concurrency or [],
        "--max-concurrency": [] if args.max_concurrency is None else [args.max_concurrency],
    }
    for option, values in numbers.items():
        if wrong := [value for value in values if value < 1]:
            raise OptionError(f"{option} {wrong[0]}: give a whole number of at least 1")
    if not 0 <= args.random_range_ratio <= 1:
        raise OptionError(f"--random-range-ratio {args.random_range_ratio}: give a number from 0 to 1")
    if args.warmup < 0:
        raise OptionError(f"--warmup {args.warmup}: give a whole number of at least 0")
    for rate in args.request_rate or ():
        if not 0 < rate < float("inf"):
            raise OptionError(f"--request-rate {rate}: give a number of more than 0")
    if args.request_rate and args.concurrency:
        raise OptionError("--request-rate and --concurrency: give one of them; a rate's bound is --max-concurrency")
    if args.max_concurrency is not None and not args.request_rate:
        raise OptionError("--max-concurrency is for --request-rate; say --concurrency")
    for name in ("json", "png"):
        file = getattr(args, name)
        if file and not Path(file).expanduser().absolute().parent.is_dir():
            raise OptionError(f"--{name} {file}: there is no such folder")
    if args.png:
        from ..plot import pyplot

        pyplot()


def _extra(args: argparse.Namespace) -> dict[str, Any]:
    extra: dict[str, Any] = {} if args.stop_early else {"ignore_eos": True}
    if args.extra is not None:
        try:
            more = json.loads(args.extra)
        except ValueError as error:
            raise OptionError(f"--extra: no JSON ({error})") from None
        if not isinstance(more, dict):
            raise OptionError("--extra: give an object, such as '{\"top_p\": 0.9}'")
        extra |= more
    return extra


def _requests(args: argparse.Namespace, count: int, seed: int) -> list[BenchRequest]:
    output = args.random_output_len
    if args.dataset == "random":
        return random_requests(count, args.random_input_len, output, args.random_range_ratio, seed)
    if args.dataset == "shared-prefix":
        return shared_requests(count, args.shared_groups, args.shared_prefix_len, args.random_input_len, output, seed)
    return file_requests(Path(args.dataset).expanduser(), count, output, raw=args.backend != "openai-chat")


async def _measure(
    args: argparse.Namespace, url: str, model: str | None, extra: dict[str, Any], found: list[Figures]
) -> None:
    client = BenchClient(url, args.backend, model, args.api_key, args.timeout, extra)
    try:
        if model is None and args.backend != "sglang":
            await client.close()
            client = BenchClient(url, args.backend, await _first_model(client), args.api_key, args.timeout, extra)
        loads = [(None, rate) for rate in args.request_rate or ()]
        loads = loads or [(each, None) for each in args.concurrency or (1, 8)]  # type: ignore[misc]
        for number, (concurrency, rate) in enumerate(loads):
            if args.warmup:  # other prompts, so that none is cached
                warm = _requests(args, args.warmup, args.seed + 1_000_003 * (number + 1))
                timed, _ = await drive(client, warm, concurrency=concurrency or 8, temperature=args.temperature)
                if all(each.error for each in timed):
                    raise OptionError(f"{url} answers no request: {timed[0].error}")
            found.append(await _one(args, client, concurrency, rate, args.seed + number))
            for line in found[-1].lines():
                print(line, flush=True)
    finally:
        await client.close()


async def _first_model(client: BenchClient) -> str:
    try:
        return (await client.models())[0]
    except Exception as error:
        raise OptionError(f"the server tells no models ({error}); name one with --model") from None


async def _one(
    args: argparse.Namespace, client: BenchClient, concurrency: int | None, rate: float | None, seed: int
) -> Figures:
    from tqdm.auto import tqdm

    requests = _requests(args, args.num_prompts, seed)
    with tqdm(total=len(requests), unit="request", leave=False) as bar:

        def ended(timed: Timed) -> None:
            bar.update()

        timed, seconds = await drive(
            client, requests, concurrency=concurrency or args.max_concurrency, rate=rate,
            temperature=args.temperature, seed=seed, ended=ended,
        )  # fmt: skip
    return Figures.of(timed, seconds, concurrency, rate)


def _tell(args: argparse.Namespace, url: str, found: Sequence[Figures]) -> None:
    from .... import __version__

    about = {
        "date": date.today().isoformat(),
        "sgl": __version__,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "server": "in this process" if args.base_url is None else url,
        "options": {name: value for name, value in vars(args).items() if name not in ("command", "api_key")},
    }
    if args.json:
        file = Path(args.json).expanduser()
        try:
            file.write_text(json.dumps({**about, "figures": [each.data() for each in found]}, indent=1) + "\n")
        except OSError as error:
            raise OptionError(f"--json {file}: cannot be written ({error.strerror or error})") from None
    if args.png:
        from .picture import draw

        draw(found, f"{args.dataset}, {about['server']}, {about['date']}", Path(args.png).expanduser())
