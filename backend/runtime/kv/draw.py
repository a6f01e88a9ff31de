"""The tree of KV as a picture in text.

Owns: the drawing. Reads the tree, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .tree import Node

if TYPE_CHECKING:
    from ..engine import Engine
    from ..program.branch import Branch


def draw_tree(engine: Engine, width: int = 60) -> str:
    """One line a node: tokens, `live xN` (branches beneath) or `cached`, the text; tails of branches in brackets."""
    tails: dict[int, list[Branch]] = {}
    for branch in sorted(engine.attached, key=lambda b: b.order):
        tails.setdefault(id(branch.node), []).append(branch)
    lines = ["root"]
    lines += _below(engine, engine.tree.root, "", tails, width)
    return "\n".join(lines)


def _below(engine: Engine, node: Node, indent: str, tails: dict[int, list[Branch]], width: int) -> Iterator[str]:
    branches = tails.get(id(node), [])
    rows: list[Node | Branch] = [*node.children.values(), *branches]
    for i, row in enumerate(rows):
        last = i == len(rows) - 1
        mark, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if isinstance(row, Node):
            state = f"live x{row.live}" if row.live else "cached"
            yield f"{indent}{mark}{len(row.tokens):>4} tokens  {state:<8} {_text(engine, row.tokens, width)}"
            yield from _below(engine, row, indent + deeper, tails, width)
        else:
            name = ".".join(map(str, row.order))
            yield f"{indent}{mark}[branch {name}: {len(row.tail)} own] {_text(engine, row.tail, width)}"


def _text(engine: Engine, tokens: list[int], width: int) -> str:
    text = repr(engine.tokenizer.spell(tokens))
    half = (width - 5) // 2
    return text if len(text) <= width else f"{text[:half]} ... {text[-half:]}"
