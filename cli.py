"""The command line: `sgl run`, `sgl serve`, `sgl models list | pull`, `sgl trace`, `sgl draft train`,
`sgl bench serving | speculative`, and `sgl --version`.

Each command is a function that takes its parsed arguments and returns an exit code. An error of sgl is one line on
stderr and exit code 1. Commands import what they need when they run, so `sgl --help` is instant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .lang.errors import SglError, suggest


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `argv` or that of the process, and return its exit code."""
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        args = _parser(words[:1] == ["serve"]).parse_args(words)
        return int(args.command(args))
    except SglError as error:
        print(f"sgl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """argparse with the nearest name for a command that does not exist."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            raise argparse.ArgumentError(
                action, f"no command {value!r}{suggest(str(value), known)}; there are: {', '.join(known)}"
            )


def _parser(serves: bool = False) -> argparse.ArgumentParser:
    """The parser. `serves`: with the flags of `sgl serve`, which are read off the runtime's own options."""
    from . import __version__

    parser = _Parser(prog="sgl", description="Programs that call a language model many times, fast.")
    parser.add_argument("--version", action="version", version=f"sgl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run the program of a file, once or over the rows of a file"))
    serve = commands.add_parser(
        "serve", help="serve a model over HTTP, to the clients of OpenAI, Anthropic, Ollama and SGLang"
    )
    if serves:
        _add_serve(serve)
    _add_models(commands.add_parser("models", help="list the models of the package index, or fetch one"))
    _add_trace(commands.add_parser("trace", help="draw a recorded run as one HTML page"))
    _add_draft(commands.add_parser("draft", help="train a draft head for a model"))
    _add_bench(commands.add_parser("bench", help="measure what suits your own prompts or program"))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    from .interpreter.command.run import add_arguments

    add_arguments(parser, _runtime)


def _runtime(options: dict[str, Any]) -> Any:
    from .backend.runtime.runtime import Runtime

    return Runtime(**options)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    from .backend.server.command import add_arguments

    add_arguments(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="list the models, and say which of them are here")
    listed.set_defaults(command=_models_list)
    pulled = commands.add_parser("pull", help="fetch a model into the cache and print its path")
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
    parser.add_argument("file", metavar="RUN.json", help="the file that sgl.trace() wrote")
    parser.add_argument("--html", metavar="OUT.html", required=True, help="the page to write")
    parser.set_defaults(command=_trace)


def _trace(args: argparse.Namespace) -> int:
    from .interpreter.trace.page import load, write_page

    write_page(load(args.file), args.html)
    print(args.html)
    return 0


def _add_draft(parser: argparse.ArgumentParser) -> None:
    from .backend.runtime.draft.eagle.command import add_arguments

    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_arguments(commands.add_parser("train", help="train an EAGLE-3 head on what the model itself writes"))


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from .backend.bench.command import add_arguments
    from .backend.bench.serving.command import add_arguments as add_serving

    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serving(commands.add_parser("serving", help="time requests to a server, ours or another"))
    add_arguments(commands.add_parser("speculative", help="compare ways to draft tokens"))


if __name__ == "__main__":
    sys.exit(main())
