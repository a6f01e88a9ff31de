"""The tree of KV as a picture in text. Reads the tree, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..text.tokenizer import Tokenizer
from .cursor import Cursor
from .tree import Node, Tree

Tails = dict[int, list[tuple[str, Cursor]]]
"""By the identity of a node: the cursors that end there, with their names."""


def draw_tree(tree: Tree, cursors: Iterable[tuple[str, Cursor]], tokenizer: Tokenizer, width: int = 60) -> str:
    """One line a node: tokens, `live xN` (branches beneath) or `cached`, the text; tails of branches in brackets."""
    tails: Tails = {}
    for name, cursor in cursors:
        tails.setdefault(id(cursor.node), []).append((name, cursor))
    return "\n".join(["root", *_below(tree.root, "", tails, tokenizer, width)])


def _below(node: Node, indent: str, tails: Tails, tokenizer: Tokenizer, width: int) -> Iterator[str]:
    rows: list[Node | tuple[str, Cursor]] = [*node.children.values(), *tails.get(id(node), [])]
    for i, row in enumerate(rows):
        last = i == len(rows) - 1
        mark, deeper = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if isinstance(row, Node):
            state = f"live x{row.live}" if row.live else "cached"
            yield f"{indent}{mark}{len(row.tokens):>4} tokens  {state:<8} {_text(tokenizer, row.tokens, width)}"
            yield from _below(row, indent + deeper, tails, tokenizer, width)
        else:
            name, cursor = row
            yield f"{indent}{mark}[branch {name}: {len(cursor.tail)} own] {_text(tokenizer, cursor.tail, width)}"


def _text(tokenizer: Tokenizer, tokens: list[int], width: int) -> str:
    text = repr(tokenizer.spell(tokens))
    half = (width - 5) // 2
    return text if len(text) <= width else f"{text[:half]} ... {text[-half:]}"
