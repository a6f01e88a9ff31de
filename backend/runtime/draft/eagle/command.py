"""`sgl draft train`: the command, from its arguments to a head's folder.

Owns: the options on the command line, the order of data, training and evaluation, and the folder they share: `data/`,
`eval/NAME/`, `train/`, `head/`, `loss.png`, `acceptance.json`. Each part goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .....lang.errors import ModelLoadError, OptionError

if TYPE_CHECKING:
    from .conversations import Dialogue
    from .head import Eagle3Head
    from .target import Target
    from .writer import ConversationWriter, WritingTask

PARTS = ("data", "train", "eval")
LEAST_VOCAB = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sgl draft train`."""
    add = parser.add_argument
    add("--model", metavar="M", help="the target: a file, a folder or a name (default: the embedded model)")
    add("--data", metavar="FILE", action="append", default=[], help="prompts, JSON lines; may be given several times")
    add(
        "--eval", metavar="NAME=FILE", action="append", default=[], help="prompts to measure with, kept out of training"
    )
    add("--out", metavar="DIR", required=True, help="the folder that everything is kept in")
    add("--only", choices=PARTS, action="append", help="do this part alone (default: data, train, eval)")
    add("--part", metavar="I/N", default="0/1", help="of the data, write files I, I+N, ...: for N processes at once")
    add("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")
    add("--memory", type=float, help="share of the free memory for the engine's KV (default: the runtime's)")
    add("--running", type=int, help="conversations that are written at once (default: the runtime's)")
    add("--temperatures", default="0,1", help="each prompt is answered once at each (default 0,1)")
    add("--self-written", type=int, default=2000, help="conversations whose user the model plays (default 2000)")
    add("--begun", type=int, default=0, help="the same, from the first words of a prompt (default 0)")
    add("--answer-tokens", type=int, default=512, help="longest answer (default 512)")
    add("--steps", type=int, help="optimiser steps (default 1000, unless --minutes is given)")
    add("--minutes", type=float, help="minutes of training, in place of --steps")
    add("--seconds", type=float, default=math.inf, help="stop this run after so long; the next one goes on")
    add("--length", type=int, default=1024, help="tokens of a training row (default 1024)")
    add("--rows", type=int, default=32, help="rows a step (default 32)")
    add("--unroll", type=int, default=5, help="steps of training-time test (default 5)")
    add("--rate", type=float, default=1e-3, help="highest learning rate (default 0.001)")
    add("--draft-vocab", type=int, default=16384, help="tokens that can be drafted (default 16384)")
    add("--intermediate", type=int, help="width of the head's feed-forward (default: the target's)")
    add("--form", default="int8", help="int8 or bf16 (default int8)")
    add("--keep-gb", type=float, help="memory for features (default: half of a GPU's free memory, else 2)")
    add("--head", metavar="DIR", help="measure this head (default: the one in --out)")
    add("--limit", type=int, help="measure with so many prompts of each file (default: all)")
    add("--first", type=int, help="measure so many tokens of each answer (default: all)")
    add("--seed", type=int, default=0)
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `sgl draft train`. Raises `OptionError` and `ModelLoadError`."""
    out = Path(args.out).expanduser()
    parts = args.only or PARTS
    measured = dict(_named(each) for each in args.eval)
    if "data" in parts:
        _write(args, out, measured)
    if "train" in parts:
        _train(args, out)
    if "eval" in parts:
        _evaluate(args, out, list(measured) or sorted(p.name for p in (out / "eval").glob("*") if p.is_dir()))
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, sign, file = text.partition("=")
    if not sign or not name.isidentifier():
        raise OptionError(f"--eval {text!r}: write NAME=FILE, the name of letters, digits and underscores")
    return name, Path(file).expanduser()


def _write(args: argparse.Namespace, out: Path, measured: dict[str, Path]) -> None:
    from tqdm import tqdm

    from ...runtime import Runtime
    from .writer import ConversationWriter, WriterOptions, read_prompts

    given = [read_prompts(Path(file).expanduser()) for file in args.data]
    kept_out = {name: read_prompts(file) for name, file in measured.items()}
    held = {json.dumps(prompt) for found in kept_out.values() for prompt in found}
    given = [[prompt for prompt in found if json.dumps(prompt) not in held] for found in given]
    if args.begun and not any(given):
        raise OptionError("--begun needs prompts to begin with: name a file with --data")
    options = WriterOptions(
        temperatures=_numbers(args.temperatures), self_written=args.self_written, begun=args.begun,
        answer_tokens=args.answer_tokens, seed=args.seed,
    )  # fmt: skip
    greedy = WriterOptions(temperatures=(0.0,), answer_tokens=args.answer_tokens, task=512, seed=args.seed)
    running = {} if args.running is None else {"max_running_requests": args.running}
    with Runtime(args.model, device=args.device, mem_fraction_static=args.memory, **running) as runtime:
        work: list[tuple[ConversationWriter, WritingTask]] = []
        for name, found in kept_out.items():
            writer = ConversationWriter(runtime, [found], greedy, out / "eval" / name)
            work += [(writer, task) for task in writer.tasks()]
        writer = ConversationWriter(runtime, given, options, out / "data")
        work += [(writer, task) for task in writer.tasks()]
        with tqdm(_share(args.part, work), unit="file") as bar:
            total = 0
            for writer, task in bar:
                total += sum(writer.write([task]))
                bar.set_postfix_str(f"{task.name}, {total:,} tokens")


def _share(
    part: str, work: list[tuple[ConversationWriter, WritingTask]]
) -> list[tuple[ConversationWriter, WritingTask]]:
    first, sign, every = part.partition("/")
    if not sign or not first.isdigit() or not every.isdigit() or int(first) >= int(every):
        raise OptionError(f"--part {part!r}: write I/N with I below N, as in 0/4")
    return work[int(first) :: int(every)]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise OptionError(f"--temperatures {text!r}: write numbers with commas between, as in 0,1") from None


def _target(args: argparse.Namespace) -> Target:
    import torch

    from ...device import resolve_device
    from ...model.load.loader import Foreign, load_any
    from ...model.load.store import cache_folder
    from .target import Target

    found = load_any(args.model, "auto", cache_folder())
    if isinstance(found, Foreign):
        raise ModelLoadError(f"{found.name}: heads are trained for models of the Llama family: {found.reason}")
    device = resolve_device(args.device)
    return Target(found, device, torch.bfloat16 if device.startswith("cuda") else torch.float32)


def _conversations(folder: Path) -> list[Dialogue]:
    from .conversations import load_conversations

    found = [each for file in sorted(folder.glob("*.safetensors")) for each in load_conversations(file)]
    if not found:
        raise OptionError(f"{folder}: no conversations there; write them first (--only data)")
    return found


def _train(args: argparse.Namespace, out: Path) -> None:
    import torch

    from .conversations import frequent_tokens, pack
    from .files import save_head
    from .initial import initial_head
    from .train import HeadTrainer, TrainOptions

    conversations = _conversations(out / "data")
    target = _target(args)
    vocab = target.config.vocab_size
    if not args.draft_vocab >= LEAST_VOCAB:
        raise OptionError(f"--draft-vocab {args.draft_vocab}: at least {LEAST_VOCAB}")
    ids, covered = frequent_tokens(conversations, vocab, min(vocab, args.draft_vocab))
    rows = pack(conversations, args.length, args.seed)
    print(
        f"{len(conversations):,} conversations, {sum(len(each.tokens) for each in conversations):,} tokens in "
        f"{len(rows):,} rows of {args.length}; {len(ids):,} draft tokens cover {covered:.2%} of what the model wrote"
    )
    head = initial_head(target, ids, intermediate=args.intermediate, seed=args.seed)
    print(f"a head of {sum(p.numel() for p in head.parameters()) / 1e6:.2f}M parameters")
    steps = 1000 if args.steps is None and args.minutes is None else args.steps
    options = TrainOptions(
        steps=steps, minutes=args.minutes, rows=args.rows, unroll=args.unroll, rate=args.rate, seed=args.seed
    )
    keep = 2.0 * 2**30 if args.keep_gb is None else args.keep_gb * 2**30
    if args.keep_gb is None and target.device.type == "cuda":
        keep = torch.cuda.mem_get_info(target.device)[0] / 2
    trainer = HeadTrainer(
        head, target, rows, options, out / "train", int(keep),
        saved=lambda trained: save_head(trained, out / "head", form=args.form),
    )  # fmt: skip
    ended = trainer.run(args.seconds)
    if _plot(trainer.log, out / "loss.png"):
        print(out / "loss.png")
    print(f"{out / 'head'}: {'trained' if ended else f'{trainer.progress:.0%} trained; the same command goes on'}")


def _plot(log: Sequence[dict[str, object]], file: Path) -> bool:
    """Draw the log, if matplotlib is there."""
    from .plot import draw_log

    return draw_log(log, file)


def _evaluate(args: argparse.Namespace, out: Path, names: list[str]) -> None:
    from .evaluate import acceptance
    from .files import check_head, load_head

    if not names:
        return
    target = _target(args)
    folder = out / "head" if args.head is None else Path(args.head).expanduser()
    head: Eagle3Head = load_head(folder, device=target.device, dtype=target.dtype)
    check_head(head, target.config, target.embed_VE, head_name=str(folder), name=target.name)
    found = {}
    for name in names:
        measured = acceptance(head, target, _conversations(out / "eval" / name)[: args.limit], first=args.first)
        found[name] = {"tokens_a_round": measured.a_round, "right": measured.right, "tokens": measured.tokens}
        chains = ", ".join(f"{drafts} drafts {each:.3f}" for drafts, each in measured.a_round.items())
        print(f"{name}: tokens a round: {chains}; {measured.tokens:,} tokens")
    text = json.dumps(found, indent=2) + os.linesep
    (out / "acceptance.json").write_text(text, encoding="utf-8")
