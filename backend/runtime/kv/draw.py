"""The tree of KV as a picture in text. Reads the tree, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

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


def tree_rows(
    tree: Tree, cursors: Iterable[tuple[str, Cursor]], tokenizer: Tokenizer | None, most: int, width: int = 60
) -> tuple[list[dict[str, Any]], int]:
    """The tree as data: rows depth first, what is live before what is only cached, and how many rows were left out.

    A row has `depth` and `tokens`; a node `live` (branches beneath), a branch its name as `branch`. With a tokenizer it
    has its `text` too.
    """
    tails: Tails = {}
    for name, cursor in cursors:
        tails.setdefault(id(cursor.node), []).append((name, cursor))
    found: list[dict[str, Any]] = []
    left_out = 0
    stack: list[tuple[Node | tuple[str, Cursor], int]] = [(tree.root, -1)]
    while stack:
        row, depth = stack.pop()
        if isinstance(row, Node):
            children = sorted(row.children.values(), key=lambda node: node.live)
            stack += [(below, depth + 1) for below in (*children, *tails.get(id(row), ()))]
            tokens, more = row.tokens, {"live": row.live}
        else:
            tokens, more = row[1].tail, {"branch": row[0]}  # type: ignore[dict-item]
        if depth < 0:
            continue
        if len(found) == most:
            left_out += 1
            continue
        found.append({"depth": depth, "tokens": len(tokens), **more})
        if tokenizer is not None:
            found[-1]["text"] = _text(tokenizer, tokens[: 2 * width] if len(tokens) > 4 * width else tokens, width)
    return found, left_out


def _text(tokenizer: Tokenizer, tokens: list[int], width: int) -> str:
    text = repr(tokenizer.spell(tokens))
    half = (width - 5) // 2
    return text if len(text) <= width else f"{text[:half]} ... {text[-half:]}"
