"""`sgl run FILE.py`: run the program of a file, once or over the rows of a file, here or on a server.

What it writes to stdout is data: the text of one run, or a JSON object a row. Progress and usage go to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from ...backend.bench.work import module_of, read_rows
from ...lang.errors import CapabilityError, OptionError, suggest
from ..plain import plain
from ..run import is_async
from ..state import ProgramState

_RUNTIME = ("model_path", "device", "dtype", "context_length", "max_total_tokens", "quantization", "random_seed")
"""Options of `Runtime` that have a flag here."""


def add_arguments(parser: argparse.ArgumentParser, make_runtime: Callable[[dict[str, Any]], Any]) -> None:
    """Declare the options of `sgl run`. `make_runtime` loads a model, with options of `Runtime`."""
    add = parser.add_argument
    add("file", metavar="FILE.py[:FUNCTION]", help="a file with an @sgl.function; name it if there are several")
    add("--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the program: JSON, or a text")
    add("--rows", metavar="FILE", help="run once for each line, a JSON object of the program's arguments")
    add("--output", metavar="FILE", help="write the results there (default: stdout)")
    add("--resume", metavar="FILE", help="note finished rows in this journal, and run only rows that it has not")
    add("--num-threads", type=int, metavar="N", help="bodies that run at a time (default: as sgl thinks best)")
    add("--server", metavar="URL", help="run on this server, SGLang's or `sgl serve`, in place of a model here")
    for name in _RUNTIME:
        kind = int if name in ("context_length", "max_total_tokens", "random_seed") else str
        add("--" + name.replace("_", "-"), type=kind, help=f"as in sgl.Runtime({name}=...)")
    parser.set_defaults(command=run, make_runtime=make_runtime)


def run(args: argparse.Namespace) -> int:
    """Carry out `sgl run`; the exit code is 1 if a row failed. Raises `OptionError`, and what one run raises."""
    program = _program(args.file)
    given = _arguments(args.arg)
    rows = None if args.rows is None else [{**given, **row} for row in read_rows(Path(args.rows).expanduser())]
    for name in ("resume", "num_threads"):
        if rows is None and getattr(args, name) is not None:
            raise OptionError(f"--{name.replace('_', '-')} is for --rows FILE; give rows, or leave it out")
    with ExitStack() as stack:
        output = sys.stdout if args.output is None else stack.enter_context(_opened(Path(args.output).expanduser()))
        backend = stack.enter_context(_backend(args))
        if rows is None:
            return _once(program, given, backend, output, args.output is not None)
        return _each(program, rows, backend, output, args)


def _program(asked: str) -> Any:
    """The program of a file: the one that is named, or the only one that is defined there."""
    name, _, function = asked.rpartition(":")
    if not name or not function.isidentifier():
        name, function = asked, ""
    module = module_of(Path(name), name)
    programs = {
        key: value
        for key, value in vars(module).items()
        if callable(getattr(value, "run_batch", None)) and getattr(value, "__module__", None) == module.__name__
    }
    if function:
        if (found := getattr(module, function, None)) is not None and callable(getattr(found, "run_batch", None)):
            return found
        raise OptionError(f"{name} has no @sgl.function {function!r}{suggest(function, programs)}")
    if len(programs) != 1:
        what = f"the programs {', '.join(programs)}" if programs else "no @sgl.function"
        raise OptionError(f"{name} has {what}; write {name}:FUNCTION")
    return next(iter(programs.values()))


def _arguments(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise OptionError(f"--arg {pair!r}: write NAME=VALUE, as in --arg question='Why?'")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _opened(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--output {file}: cannot be written ({error.strerror or error})") from None


def _backend(args: argparse.Namespace) -> Any:
    options = {name: value for name in _RUNTIME if (value := getattr(args, name)) is not None}
    if args.server is not None:
        if options:
            flag = "--" + next(iter(options)).replace("_", "-")
            raise OptionError(f"{flag} is for a model that runs here; leave it or --server out")
        from ...backend.remote.endpoint import RuntimeEndpoint

        try:
            return RuntimeEndpoint(args.server, chat_template="server")
        except CapabilityError:  # an SGLang server: programs with roles need a template of their own
            return RuntimeEndpoint(args.server)
    return args.make_runtime(options)


def _once(program: Any, given: Mapping[str, Any], backend: Any, output: TextIO, as_data: bool) -> int:
    """Run once. The text goes to the terminal as it comes; a file gets a JSON object."""
    if is_async(program.func):
        state = asyncio.run(program.arun(**given, backend=backend))
    else:
        state = program.run(**given, backend=backend, stream=True)
    if as_data:
        print(json.dumps(_told(state), ensure_ascii=False), file=output)
    else:
        for piece in [state.text()] if is_async(program.func) else state.text_iter():
            print(piece, end="", file=output, flush=True)
        print(file=output)
    state.sync()
    if (error := state.error()) is not None:
        raise error
    print(state.usage, file=sys.stderr)
    return 0


def _each(program: Any, rows: list[dict[str, Any]], backend: Any, output: TextIO, args: argparse.Namespace) -> int:
    """Run once a row; a row that fails is told in its place, and the others go on."""
    more: dict[str, Any] = {"progress_bar": True, "on_error": "keep", "resume": args.resume, "backend": backend}
    if args.num_threads is not None:
        more["num_threads"] = args.num_threads
    if is_async(program.func):
        states = asyncio.run(program.arun_batch(rows, **more))
    else:
        states = program.run_batch(rows, **more)
    for i, state in enumerate(states):
        print(json.dumps({"row": i, **_told(state)}, ensure_ascii=False), file=output)
    output.flush()
    print(states.usage, file=sys.stderr)
    if states.errors:
        first, error = min(states.errors.items())
        print(
            f"sgl: {len(states.errors)} of {len(states)} rows failed; the first is row {first}: {_said(error)}",
            file=sys.stderr,
        )
    return 1 if states.errors else 0


def _told(state: ProgramState) -> dict[str, Any]:
    """What a row came to: its variables, its value, its text, and its error."""
    if (error := state.error()) is not None:
        return {"variables": {}, "value": None, "text": None, "error": _said(error)}
    variables = {name: plain(state[name]) for name in state._names()}
    return {"variables": variables, "value": plain(state.ret_value), "text": state.text(), "error": None}


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
