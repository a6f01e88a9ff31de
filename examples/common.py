"""What the examples share: the option `--model`, and a runtime that is closed at the end. Not an example itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sgl


@contextmanager
def session(doc: str | None, argv: Sequence[str] | None, **options: int | str) -> Iterator[argparse.Namespace]:
    """Read the options of an example, and make a runtime the default backend for the `with` block.

    `options`: the example's own, with their defaults: `rows=8` is the option `--rows`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a name of `sgl models list`, or a path; default: SmolLM2-135M-Instruct")
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    args = parser.parse_args(argv)
    with sgl.Runtime(args.model, random_seed=0) as runtime:
        sgl.set_default_backend(runtime)
        try:
            yield args
        finally:
            sgl.set_default_backend(None)
