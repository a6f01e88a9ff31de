"""The graph of a program as values: what its body says, in the order in which the body says it.

Knows nothing of how a graph is collected (`dry_run.py`), printed (`graph.py`) or drawn (`svg.py`). A node holds no
state, branch, backend or argument value.

Invariants
1. A node never changes. Equal nodes say the same at the same program line.
2. A sequence holds what was said on one line of the program, in that order. A fork holds the whole sequences of its
   branches, although the parent may go on at the same time.
3. Forks and programs are at most `MAX_DEPTH` deep, so every walk may recurse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ...lang.constraint import Constraint
from ...lang.expr import Sampling

MAX_DEPTH = 64
"""Forks within forks and programs within programs; the graph stops there."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Text of the author. `arguments` and `values` name the program arguments and the model's values in it.

    `special`: its control tokens are meant (`sgl.special`).
    """

    text: str
    arguments: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    line: str = "?"
    special: bool = False


@dataclass(frozen=True, slots=True)
class Begin:
    """The start of a role ("user") or of a `var_scope` (its name). `what` is "role" or "scope"."""

    what: str
    name: str
    line: str = "?"


@dataclass(frozen=True, slots=True)
class End:
    """The end of a role or of a `var_scope`."""

    what: str
    name: str
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Generate:
    """A gen. `sampling` holds the options of this gen alone, without those of the run.

    `tools`: the names of the tools that may be called, if it is a `sgl.call`.
    """

    name: str | None
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    constraint: Constraint | None = None
    line: str = "?"
    tools: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The sampling options that were given, by name."""
        given = {f.name: getattr(self.sampling, f.name) for f in fields(Sampling)}
        return {name: value for name, value in given.items() if value is not None and name != "n"}


@dataclass(frozen=True, slots=True)
class Choose:
    """A select: the model picks one of `choices`. `method` is the name of the choice method."""

    name: str | None
    choices: tuple[str, ...]
    method: str = "token_length_normalized"
    temperature: float = 0.0
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Forked:
    """A fork: the program goes on in several branches at once."""

    branches: tuple[Nodes, ...]
    line: str = "?"

    def alike(self) -> list[tuple[tuple[int, ...], Nodes]]:
        """Group equal branches: (their indices, their sequence), by first index."""
        groups: dict[Nodes, list[int]] = {}
        for index, branch in enumerate(self.branches):
            groups.setdefault(branch, []).append(index)
        return [(tuple(indices), branch) for branch, indices in groups.items()]


@dataclass(frozen=True, slots=True)
class Joined:
    """A join of `size` branches. `names` are the variables that were gathered from them."""

    mode: str
    size: int
    names: tuple[str, ...] = ()
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Read:
    """The body reads a value that only a run has, so what follows may depend on it.

    `what` is "value", "text", "meta" or "argument". The `name` of a "text" is empty.
    """

    name: str
    what: str = "value"
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Subprogram:
    """A program that the body started with `run`. Its text is its own."""

    name: str
    body: Nodes
    line: str = "?"


Node = Constant | Begin | End | Generate | Choose | Forked | Joined | Read | Subprogram
Nodes = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where and why the body could not be followed further without a model."""

    why: str
    line: str = "?"

    def __str__(self) -> str:
        return f"stopped at {self.line}: {self.why}"


# -- what the text and the drawing share
def outline(nodes: Nodes) -> Iterator[tuple[Node, Nodes]]:
    """Yield each node with the sequence that it holds. A role or a scope holds what comes before its end."""
    at = 0
    while at < len(nodes):
        node, at = nodes[at], at + 1
        if isinstance(node, Begin):
            end = _end_of(nodes, at)
            yield node, nodes[at:end]
            at = end + 1
        else:
            yield node, node.body if isinstance(node, Subprogram) else ()


def _end_of(nodes: Nodes, begin: int) -> int:
    """Find the `End` of what is open at `begin`; without one, the end of the sequence."""
    depth = 1
    for i in range(begin, len(nodes)):
        depth += isinstance(nodes[i], Begin) - isinstance(nodes[i], End)
        if depth == 0:
            return i
    return len(nodes)


def label(node: Node) -> tuple[str, str]:
    """Put a node into words: its title ("gen answer") and its details ("max_tokens=8")."""
    match node:
        case Constant():
            return ("special " if node.special else "") + _quoted(node.text, 60), ""
        case Begin():
            return node.name if node.what == "role" else f"scope {node.name}", ""
        case End():
            return f"end of {node.what} {node.name}", ""
        case Generate():
            return f"{'call' if node.tools else 'gen'} {node.name or '(unnamed)'}", _gen_details(node)
        case Choose():
            choices = [_quoted(choice, 24) for choice in node.choices[:8]]
            more = [f"... {len(node.choices) - 8} more"] if len(node.choices) > 8 else []
            heat = f" temperature={node.temperature:g}" if node.temperature else ""
            return f"select {node.name or '(unnamed)'}", " | ".join(choices + more) + heat
        case Forked():
            return f"fork x{len(node.branches)}", ""
        case Joined():
            return f"join {node.mode}" + (":" if node.names else ""), ", ".join(node.names)
        case Read():
            return "reads " + {"text": "the text", "value": node.name}.get(node.what, f"{node.what} {node.name}"), ""
        case Subprogram():
            return f"program {node.name}", ""


def _gen_details(node: Generate) -> str:
    samples = [f"n={node.n}"] if node.n > 1 else []
    samples += [f"tools={_quoted(', '.join(node.tools), 60)}"] if node.tools else []
    constraint = [f"<{node.constraint.kind}>"] if node.constraint is not None else []
    return " ".join(samples + constraint + [f"{name}={_shown(value)}" for name, value in node.options.items()])


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        return _shown(value[0])
    return _quoted(value, 30) if isinstance(value, str) else f"{value!r:.40}"


def branches_label(indices: Sequence[int], total: int) -> str:
    """Name some of `total` branches: `branch 3`, `branches 0-63, all alike (x64)`, `branches 0, 2-4 (x4)`."""
    if len(indices) == 1:
        return f"branch {indices[0]}"
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:4]] + (["..."] if len(runs) > 4 else [])
    return f"branches {', '.join(shown)}{', all alike' if len(indices) == total else ''} (x{len(indices)})"


def _quoted(text: str, width: int) -> str:
    """Put `text` on one line, in quotes, cut in the middle to about `width` characters."""
    if len(text) > width:
        half = (width - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    shown = json.dumps(text, ensure_ascii=False)
    return shown.encode(errors="replace").decode()  # a lone surrogate could not be printed
