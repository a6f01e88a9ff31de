"""The graph of a program: what its body says, in the order it says it, as immutable values.

Owns: the nodes, the walks over them, and their printing as indented text. Knows nothing of how a graph is found
(`lower.py`) or drawn (`graph_svg.py`); holds no state, branch, backend or argument value of anybody.

Invariants
- A node never changes; equal nodes say the same at the same program line.
- A sequence holds what was said on one line of the program, in that order. A fork holds its branches' sequences whole,
  though what the parent says between the fork and its join is said at the same time.
- Nothing is deeper than `MAX_DEPTH` forks and programs, so every walk may recurse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...lang.constraint import Constraint
from ...lang.errors import OptionError
from ...lang.expr import Sampling

MAX_DEPTH = 64
"""Forks within forks and programs within programs; a trace ends there."""

Pieces = tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """Text of the author. `arguments` and `values`: the program arguments and the model's values that stand in it."""

    text: str
    arguments: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Begin:
    """A role ("user"), or a `var_scope` (its name), begins. `what` is "role" or "scope"."""

    what: str
    name: str
    line: str = "?"


@dataclass(frozen=True, slots=True)
class End:
    what: str
    name: str
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Generate:
    """The model writes. `sampling` is what this gen says itself; `constraint` what its text must be, if anything."""

    name: str | None
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    constraint: Constraint | None = None
    line: str = "?"

    @property
    def options(self) -> dict[str, Any]:
        """The sampling options that were said, by name."""
        said = {f.name: getattr(self.sampling, f.name) for f in fields(Sampling)}
        return {name: value for name, value in said.items() if value is not None and name != "n"}


@dataclass(frozen=True, slots=True)
class Choose:
    """The model picks one of `choices`; `method` is the choice method's name."""

    name: str | None
    choices: tuple[str, ...]
    method: str = "token_length_normalized"
    temperature: float = 0.0
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Forked:
    """The program goes on in several lines at once."""

    branches: tuple[Nodes, ...]
    line: str = "?"

    def alike(self) -> list[tuple[tuple[int, ...], Nodes]]:
        """Branches that say the same, once: (their places, what they say), by first place."""
        groups: dict[Nodes, list[int]] = {}
        for place, branch in enumerate(self.branches):
            groups.setdefault(branch, []).append(place)
        return [(tuple(places), branch) for branch, places in groups.items()]


@dataclass(frozen=True, slots=True)
class Joined:
    """`size` branches come together; `names` are the variables that were gathered from them."""

    mode: str
    size: int
    names: tuple[str, ...] = ()
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Read:
    """The body looks at a value that only a run has (`what`: "value", "text", "meta", or "argument"): what follows may
    depend on it. For "text", `name` is empty."""

    name: str
    what: str = "value"
    line: str = "?"


@dataclass(frozen=True, slots=True)
class Subprogram:
    """A program that the body started with `run`, with a text of its own."""

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


@dataclass(frozen=True)
class Graph:
    """What a program says, found by running its body once without a model.

    `prefix`: the text that every run begins with, as pieces `(text, markup)`: what comes before the first placeholder
    and the first call of a model, in the chat template that the program was traced with. `stopped`: None, or where and
    why the body could not be followed to its end. `placeholders`: the arguments that were not given.
    """

    name: str
    body: Nodes
    prefix: Pieces = ()
    stopped: Stopped | None = None
    placeholders: tuple[str, ...] = ()

    def walk(self) -> Iterator[Node]:
        """Every node, in program order: a fork before its branches, all of them."""
        return _walk(self.body, lambda node: True)

    def gens(self) -> Iterator[Generate]:
        """Every gen of the program: those of its branches and of the programs that it starts, too."""
        return (node for node in self.walk() if isinstance(node, Generate))

    def selects(self) -> Iterator[Choose]:
        """Every select, as `gens`."""
        return (node for node in self.walk() if isinstance(node, Choose))

    @property
    def names(self) -> tuple[str, ...]:
        """The program's own variables that a gen, a select or a scope defines, by first appearance."""
        own = _walk(self.body, lambda node: not isinstance(node, Subprogram))
        found = (
            node.name
            for node in own
            if isinstance(node, (Generate, Choose)) or (isinstance(node, Begin) and node.what == "scope")
        )
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def svg(self) -> str:
        """The graph as a picture: one SVG document without references to anything outside it."""
        from .svg import draw

        return draw(self)

    def save(self, path: str | Path) -> Path:
        """Write `path`: a picture (`.svg`), or the text (`.txt`)."""
        target = Path(path)
        kind = target.suffix.lower()
        if kind not in (".svg", ".txt"):
            raise OptionError(f"graph.save: {str(path)!r} must end in .svg or .txt")
        target.write_text(self.svg() if kind == ".svg" else f"{self}\n", encoding="utf-8", errors="replace")
        return target

    def _repr_svg_(self) -> str:
        return self.svg()

    def __str__(self) -> str:
        given = ", ".join(f"{{{name}}}" for name in self.placeholders)
        lines = [f"program {self.name}({given})", *_lines(self.body, 1)]
        if self.stopped is not None:
            lines.append(f"  {self.stopped}")
        return "\n".join(lines)


def _walk(nodes: Nodes, enter: Callable[[Node], bool]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if enter(node):
            if isinstance(node, Forked):
                for branch in node.branches:
                    yield from _walk(branch, enter)
            elif isinstance(node, Subprogram):
                yield from _walk(node.body, enter)


# -- printing
def _lines(nodes: Nodes, depth: int) -> Iterator[str]:
    """The text of a sequence; what a role or a scope holds is indented under it."""
    base = depth
    for node in nodes:
        if isinstance(node, End):
            if depth > base:
                depth -= 1
            else:  # it began before this sequence did
                yield _line(depth, f"end of {node.what} {node.name}", node.line)
        elif isinstance(node, Forked):
            yield _line(depth, f"fork x{len(node.branches)}", node.line)
            for places, branch in node.alike():
                yield _line(depth + 1, branches_label(places, len(node.branches)))
                yield from _lines(branch, depth + 2)
        elif isinstance(node, Subprogram):
            yield _line(depth, f"program {node.name}", node.line)
            yield from _lines(node.body, depth + 1)
        else:
            yield _line(depth, label(node), node.line)
            if isinstance(node, Begin):
                depth += 1


def _line(depth: int, text: str, line: str = "") -> str:
    said = f"{'  ' * depth}{text}"
    return f"{said:<72}  {line}" if line else said


def branches_label(places: Sequence[int], total: int) -> str:
    """`branch 3`, `branches 0-63, all alike (x64)`, `branches 0, 2-4 (x4)`."""
    if len(places) == 1:
        return f"branch {places[0]}"
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:4]] + (["..."] if len(runs) > 4 else [])
    return f"branches {', '.join(shown)}{', all alike' if len(places) == total else ''} (x{len(places)})"


def label(node: Node) -> str:
    """One node in words, without its line and without what it holds."""
    if isinstance(node, Constant):
        return quoted(node.text, 60)
    if isinstance(node, Begin):
        return node.name if node.what == "role" else f"scope {node.name}"
    if isinstance(node, Generate):
        return " ".join([f"gen {node.name or '(unnamed)'}", *gen_details(node)])
    if isinstance(node, Choose):
        heat = f" temperature={node.temperature:g}" if node.temperature else ""
        choices = " | ".join(quoted(choice, 24) for choice in node.choices[:8])
        more = f" | ... {len(node.choices) - 8} more" if len(node.choices) > 8 else ""
        return f"select {node.name or '(unnamed)'} {choices}{more}{heat}"
    if isinstance(node, Joined):
        return f"join {node.mode}" + (f": {', '.join(node.names)}" if node.names else "")
    if isinstance(node, Read):
        if node.what == "text":
            return "reads the text"
        return f"reads {node.name}" if node.what == "value" else f"reads {node.what} {node.name}"
    if isinstance(node, End):
        return f"end of {node.what} {node.name}"
    return f"fork x{len(node.branches)}" if isinstance(node, Forked) else f"program {node.name}"


def gen_details(node: Generate) -> list[str]:
    """What was said of a gen: samples, constraint kind, sampling options."""
    details = [f"n={node.n}"] if node.n > 1 else []
    if node.constraint is not None:
        details.append(f"<{node.constraint.kind}>")
    return details + [f"{name}={_shown(value)}" for name, value in node.options.items()]


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        return _shown(value[0])
    return quoted(value, 30) if isinstance(value, str) else f"{value!r:.40}"


def quoted(text: str, width: int) -> str:
    """`text` on one line, in quotes, cut in the middle to about `width` characters."""
    if len(text) > width:
        half = (width - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    shown = json.dumps(text, ensure_ascii=False)
    return shown.encode(errors="replace").decode()  # a lone surrogate could not be printed
