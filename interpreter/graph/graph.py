"""`Graph`: a program's graph as its user gets it, to walk, print, draw and save.

Knows nothing of how a graph is collected (`lower.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...lang.errors import OptionError
from .nodes import Begin, Choose, Forked, Generate, Node, Nodes, Stopped, Subprogram, branches_label, label, outline
from .svg import draw

Pieces = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Graph:
    """What a program says, found by running its body once without a model.

    `prefix` is the text that every run begins with, as pieces `(text, markup)`. It ends before the first placeholder,
    read or call of a model, and is written in the chat template that the graph was made with. `stopped` is None, or
    says where and why the body could not be followed to its end. `placeholders` are the arguments that were not given.
    """

    name: str
    body: Nodes
    prefix: Pieces = ()
    stopped: Stopped | None = None
    placeholders: tuple[str, ...] = ()

    def walk(self) -> Iterator[Node]:
        """Yield every node in program order: a fork, then the nodes of each of its branches."""
        return _walk(self.body)

    def gens(self) -> Iterator[Generate]:
        """Yield every gen, also those of branches and of the programs that the body starts."""
        return (node for node in self.walk() if isinstance(node, Generate))

    def selects(self) -> Iterator[Choose]:
        """Yield every select, also those of branches and of the programs that the body starts."""
        return (node for node in self.walk() if isinstance(node, Choose))

    @property
    def names(self) -> tuple[str, ...]:
        """The variables of the program itself (gens, selects and scopes), by first appearance."""
        found = (
            node.name
            for node in _walk(self.body, into_programs=False)
            if isinstance(node, (Generate, Choose)) or (isinstance(node, Begin) and node.what == "scope")
        )
        return tuple(dict.fromkeys(name for name in found if name is not None))

    @property
    def title(self) -> str:
        """The program's name and its placeholders: `qa({question})`."""
        return f"{self.name}({', '.join(f'{{{name}}}' for name in self.placeholders)})"

    def svg(self) -> str:
        """Draw the graph as one SVG document without references to anything outside it."""
        return draw(self.title, self.body, self.stopped)

    def save(self, path: str | Path) -> Path:
        """Write `path`: a drawing (`.svg`), or the text (`.txt`)."""
        target = Path(path)
        kind = target.suffix.lower()
        if kind not in (".svg", ".txt"):
            raise OptionError(f"graph.save: {str(path)!r} must end in .svg or .txt")
        target.write_text(self.svg() if kind == ".svg" else f"{self}\n", encoding="utf-8", errors="replace")
        return target

    def _repr_svg_(self) -> str:
        return self.svg()

    def __str__(self) -> str:
        end = [] if self.stopped is None else [f"  {self.stopped}"]
        return "\n".join([f"program {self.title}", *_lines(self.body, 1), *end])


def _walk(nodes: Nodes, into_programs: bool = True) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Forked):
            for branch in node.branches:
                yield from _walk(branch, into_programs)
        elif isinstance(node, Subprogram) and into_programs:
            yield from _walk(node.body)


def _lines(nodes: Nodes, depth: int) -> Iterator[str]:
    """Print a sequence; what a node holds is indented under it."""
    for node, held in outline(nodes):
        title, details = label(node)
        yield f"{'  ' * depth}{title} {details}".rstrip().ljust(72) + f"  {node.line}"
        if isinstance(node, Forked):
            for indices, branch in node.alike():
                yield f"{'  ' * (depth + 1)}{branches_label(indices, len(node.branches))}"
                yield from _lines(branch, depth + 2)
        yield from _lines(held, depth + 1)
