"""The command line: `sgl models pull | list`, `sgl trace`.

Owns: argument parsing and how errors look (one line on stderr, exit code 1). Each command is a function of its parsed
arguments that returns an exit code; a new command is one more entry in `_parser`. Imports are inside the commands, so
that `sgl --help` is instant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .lang.errors import SglError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` by default) and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.command(args))
    except SglError as error:
        print(f"sgl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgl", description="Programs that call a language model many times, fast.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_models(commands.add_parser("models", help="the models that can be had from the package index"))
    _add_trace(commands.add_parser("trace", help="a recorded run as one HTML page"))
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="list models, and which of them are here")
    listed.set_defaults(command=_models_list)
    pulled = commands.add_parser("pull", help="fetch a model into the cache")
    pulled.add_argument("name", metavar="NAME", help="a name from `sgl models list`")
    pulled.set_defaults(command=_models_pull)


def _models_list(args: argparse.Namespace) -> int:
    from .backend.runtime.model.load.store import MODELS, cache_folder, is_pulled, stored_path

    cache = cache_folder()
    for name, model in MODELS.items():
        where = stored_path(name, cache) if is_pulled(name, cache) else f"not here: sgl models pull {name}"
        print(f"{name}  {model.title}  {model.size / 1e6:.0f} MB  {model.licence}  {where}")
    return 0


def _models_pull(args: argparse.Namespace) -> int:
    from .backend.runtime.model.load.store import pull

    print(pull(args.name))
    return 0


def _add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="RUN.json", help="what sgl.trace() wrote")
    parser.add_argument("--html", metavar="OUT.html", required=True, help="where the page goes")
    parser.set_defaults(command=_trace)


def _trace(args: argparse.Namespace) -> int:
    from .interpreter.trace.page import load, write_page

    write_page(load(args.file), args.html)
    print(args.html)
    return 0


if __name__ == "__main__":
    sys.exit(main())
