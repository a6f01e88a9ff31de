"""`sgl bench speculative`: which way to draft is best for the user's own prompts or program, by batch size.

Owns: the options on the command line and the order of what is done. What can be wrong is refused before a model is
loaded.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...lang.errors import OptionError, OutOfMemory

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime
    from .sweep import Setting
    from .work import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sgl bench speculative`."""
    add = parser.add_argument
    add("--model", metavar="M", help="a file, a folder or a name (default: the embedded model)")
    add("--prompts", metavar="FILE", help="prompts, JSON lines: a prompt, a question or messages each")
    add("--program", metavar="FILE.py:FUNCTION", help="an @sgl.function, in place of prompts")
    add("--rows", metavar="FILE", help="the program's arguments, a JSON object a line (default: one run without any)")
    add("--limit", type=int, default=16, help="take so many prompts or rows, the first ones (default 16)")
    add("--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="how many at a time (default 1 8)")
    add("--drafter", nargs="+", default=["NGRAM"], metavar="D", help="NGRAM, STANDALONE, EAGLE3 (default NGRAM)")
    add("--draft-tokens", type=int, nargs="+", default=[8, 24], metavar="N", help="longest drafts of NGRAM (8 24)")
    add("--steps", type=int, nargs="+", default=[2, 4], metavar="N", help="drafts in a row of a model or head (2 4)")
    add("--draft-model", metavar="M", help="the smaller model of STANDALONE")
    add("--head", metavar="DIR", help="the head of EAGLE3 (default: that of the embedded model)")
    add("--max-tokens", type=int, default=128, help="longest answer to a prompt (default 128)")
    add("--temperature", type=float, default=0.0, help="of answers to prompts (default 0)")
    add("--raw", action="store_true", help="continue prompts as they are, without the chat template")
    add("--repeats", type=int, default=3, help="measurements of each setting (default 3)")
    add("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")
    add("--max-total-tokens", type=int, default=32768, help="KV of each runtime, tokens (default 32768)")
    add("--json", metavar="FILE", help="write all that was measured")
    add("--png", metavar="FILE", help='draw it; needs matplotlib: pip install "sgl[plot]"')
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `sgl bench speculative`. Raises `OptionError`, and what a runtime or the program raises."""
    from .plot import draw
    from .report import answer, table, write_json
    from .sweep import choose, measure, settings_of

    files = _checked_files(args)
    settings = settings_of(args.drafter, args.steps, args.draft_tokens, draft_model=args.draft_model, head=args.head)
    work = _work(args)
    batches = list(dict.fromkeys(args.batch))
    if too_many := [batch for batch in batches if batch > len(work)]:
        raise OptionError(
            f"--batch {too_many[0]}: there are {len(work)} prompts or rows to run at a time; give more of them, or a "
            "higher --limit"
        )
    shared = {} if args.model is None else {"model_path": args.model}
    if args.device != "auto":
        shared["device"] = args.device
    lines = measure(settings, lambda each: _make(each, args, len(settings)), work, batches, args.repeats, _say)
    choices = [choose([line for line in lines if line.batch == batch]) for batch in batches]
    about = _about(args, work)
    print(", ".join(f"{key} {value}" for key, value in about.items()), end="\n\n")
    print("\n".join(table(lines)), end="\n\n")
    for choice in choices:
        print("\n".join(answer(choice, shared)))
    if "json" in files:
        write_json(files["json"], about, lines, choices, shared)
    if "png" in files:
        draw(lines, work.name, files["png"])
    return 0


def _checked_files(args: argparse.Namespace) -> dict[str, Path]:
    """Check numbers and files; the files to write. Raises `OptionError`."""
    from .plot import pyplot

    for option, numbers in (
        *(("--batch", args.batch), ("--limit", [args.limit]), ("--repeats", [args.repeats])),
        *(("--max-tokens", [args.max_tokens]), ("--max-total-tokens", [args.max_total_tokens])),
    ):
        if wrong := [each for each in numbers if each < 1]:
            raise OptionError(f"{option} {wrong[0]}: give a whole number of at least 1")
    files = {name: Path(file).expanduser() for name in ("json", "png") if (file := getattr(args, name))}
    for name, file in files.items():
        if not file.absolute().parent.is_dir():
            raise OptionError(f"--{name} {file}: there is no such folder")
    if "png" in files:
        pyplot()
    return files


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _work(args: argparse.Namespace) -> Workload:
    from .work import ProgramWork, PromptWork, program_of, read_rows

    if (args.prompts is None) == (args.program is None):
        raise OptionError("say what to measure: --prompts FILE, or --program FILE.py:FUNCTION with --rows FILE")
    if args.program is not None:
        program = program_of(args.program)
        rows: list[dict[str, Any]] = [{}] if args.rows is None else read_rows(Path(args.rows).expanduser())
        return ProgramWork(args.program, program, rows[: args.limit])
    if args.rows is not None:
        raise OptionError("--rows are a program's arguments: say --program FILE.py:FUNCTION, or leave them out")
    from ..runtime.draft.eagle.writer import read_prompts

    prompts = read_prompts(Path(args.prompts).expanduser())[: args.limit]
    return PromptWork(args.prompts, prompts, max_tokens=args.max_tokens, temperature=args.temperature, raw=args.raw)


def _make(setting: Setting, args: argparse.Namespace, count: int) -> Runtime:
    from ..runtime.runtime import Runtime

    try:
        return Runtime(
            args.model, device=args.device, max_total_tokens=args.max_total_tokens, random_seed=1, **setting.options
        )
    except OutOfMemory as error:
        raise OutOfMemory(
            f"{error}. Each of the {count} settings loads the model: name fewer with --drafter, --steps and "
            "--draft-tokens, or a smaller --max-total-tokens"
        ) from error


def _about(args: argparse.Namespace, work: Workload) -> dict[str, Any]:
    from ... import __version__

    return {
        "sgl": __version__,
        "python": platform.python_version(),
        "model": args.model or "the embedded model",
        "device": args.device,
        "work": work.name,
        "pieces": len(work),
        "repeats": args.repeats,
    }
