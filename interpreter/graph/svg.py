"""The drawing of a program's graph: one SVG document, read from top to bottom.

Knows nothing of how a graph is collected. A sequence is a column of boxes. Roles, scopes and programs are frames around
what they hold. The branches of a fork stand side by side.

Invariants
1. The document is self-contained: no script, no font, no reference to anything outside. Every text is escaped.
2. The document is bounded: long texts, long sequences and wide forks are cut, and a note says how much is missing.

Lengths are in pixels. A block knows its width and height before it is painted: layout goes up once, painting down once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .nodes import (
    Begin,
    Choose,
    Constant,
    Forked,
    Generate,
    Joined,
    Node,
    Nodes,
    Read,
    Stopped,
    Subprogram,
    branches_label,
    label,
    outline,
)

_WIDTH, _PAD, _GAP, _LINE = 286, 10, 14, 16
"""Pixels: the width of a box, the space within it, the space between boxes, the height of a line of text."""
_CHAR, _SMALL_CHAR, _BIG_CHAR = 7.3, 6.4, 9.2
"""Pixels: the width of a character in the fonts of 12, 10.5 and 15 pixels; a little more than most fonts need."""
_TEXT_COLUMNS, _SMALL_COLUMNS = 37, 42
"""Characters in one line of a box, in the normal and in the small font."""
_PLACE_COLUMNS = 30
_TEXT_LINES = 6
_MOST_BOXES, _MOST_BOXES_OF_SEQUENCE = 800, 120
_MOST_COLUMNS = (6, 4, 3, 2)
"""Branches drawn side by side, by depth of the fork (the last also for deeper ones): wider drawings cannot be read."""
_CSS_CLASS: dict[type, str] = {Generate: "gen", Choose: "select", Joined: "bar", Read: "read"}

_STYLE = """
.sgl-g text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.sgl-g text{fill:#1f2328;white-space:pre}
.sgl-g .page{fill:#fff;stroke:#d0d7de}.sgl-g .edge{stroke:#afb8c1;fill:none;stroke-width:1.5}
.sgl-g .dim{fill:#656d76}.sgl-g .small{font-size:10.5px}.sgl-g .bold{font-weight:600}.sgl-g .big{font-size:15px}
.sgl-g .text{fill:#f6f8fa;stroke:#d0d7de}.sgl-g .frame{fill:#8c959f;fill-opacity:.07;stroke:#afb8c1}
.sgl-g .program{fill:#bf8700;fill-opacity:.08;stroke:#bf8700}
.sgl-g .gen{fill:#dafbe1;stroke:#4ac26b}.sgl-g .select{fill:#fbefff;stroke:#c297ff}
.sgl-g .bar{fill:#ddf4ff;stroke:#54aeff}.sgl-g .read{fill:#fff8c5;stroke:#d4a72c;stroke-dasharray:4 3}
.sgl-g .stop{fill:#ffebe9;stroke:#ff8182}.sgl-g .more{fill:none;stroke:#afb8c1;stroke-dasharray:4 3}
.sgl-g .arg{fill:#0969da;font-weight:600}.sgl-g .val{fill:#1a7f37;font-weight:600}
@media(prefers-color-scheme:dark){.sgl-g text{fill:#e6edf3}.sgl-g .page{fill:#0d1117;stroke:#30363d}
.sgl-g .edge{stroke:#6e7681}.sgl-g .frame,.sgl-g .more{stroke:#484f58}
.sgl-g .dim{fill:#8d96a0}.sgl-g .text{fill:#161b22;stroke:#30363d}
.sgl-g .gen{fill:#12261e;stroke:#2ea043}.sgl-g .select{fill:#231c35;stroke:#8957e5}
.sgl-g .bar{fill:#121d2f;stroke:#388bfd}.sgl-g .read{fill:#272115;stroke:#9e6a03}
.sgl-g .stop{fill:#2d1517;stroke:#f85149}.sgl-g .arg{fill:#58a6ff}.sgl-g .val{fill:#56d364}}
""".replace("\n", "")


@dataclass(frozen=True)
class _Block:
    """Something to paint with its top left corner at (x, y)."""

    width: float
    height: float
    paint: Callable[[float, float], Iterable[str]]


@dataclass
class _Row:
    """One line of text in a box: pieces of (text, CSS class), and the text at its right end."""

    pieces: Sequence[tuple[str, str]]
    right: str = ""


def draw(title: str, body: Nodes, stopped: Stopped | None) -> str:
    """Draw the whole document."""
    block = _column(body, 0, iter(range(_MOST_BOXES)))
    if stopped is not None:
        rows = [_Row([("stopped here", "bold")], stopped.line), *_rows(_wrapped(stopped.why), "")]
        block = _stacked([*([block] if body else []), _box("stop", rows)])
    shown = _cut(title, 60)
    width = max(block.width, _BIG_CHAR * _columns(shown)) + 4 * _PAD
    height = block.height + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sgl-g" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" style="max-width:100%">',
        f"<title>{_safe(title)}</title><style>{_STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>',
        f'<text x="{2 * _PAD}" y="28">{_spans([(shown, "bold big")])}</text>',
        *block.paint((width - block.width) / 2, 46),
        "</svg>",
    ]
    return "".join(parts)


# -- nodes as blocks
def _column(nodes: Nodes, depth: int, boxes: Iterator[int]) -> _Block:
    """Stack the nodes of a sequence. `boxes` yields once for each box that may still be drawn."""
    blocks: list[_Block] = []
    held = list(outline(nodes))
    for node, inside in held:
        if len(blocks) == _MOST_BOXES_OF_SEQUENCE or next(boxes, None) is None:
            blocks.append(_note(f"... {len(held) - len(blocks):,} more"))
            break
        if isinstance(node, Forked):
            blocks.append(_forked(node, depth, boxes))
        elif isinstance(node, (Begin, Subprogram)):
            kind = "frame" if isinstance(node, Begin) else "program"
            blocks.append(_framed(kind, label(node)[0], node.line, _column(inside, depth, boxes)))
        else:
            blocks.append(_leaf(node))
    return _stacked(blocks) if blocks else _note("nothing is said")


def _leaf(node: Node) -> _Block:
    if isinstance(node, Constant):
        names = {f"{{{name}}}": "arg" for name in node.arguments} | {f"{{{name}}}": "val" for name in node.values}
        return _box("text", [_Row(_marked(line, names)) for line in _wrapped(node.text) or [""]])
    title, details = label(node)
    what, _, name = title.partition(" ")
    pieces = [(f"{what} ", "dim"), (_cut(name, 32), "bold")]
    used = _CHAR * sum(_columns(text) for text, _ in pieces) + _SMALL_CHAR * min(_columns(node.line), _PLACE_COLUMNS)
    fits = used <= _WIDTH - 2.5 * _PAD  # else the program line stands under the title
    head = [_Row(pieces, node.line)] if fits else [_Row(pieces), _Row([], node.line)]
    return _box(_CSS_CLASS.get(type(node), "more"), head + _rows(_wrapped(details, _SMALL_COLUMNS) if details else []))


def _marked(line: str, names: dict[str, str]) -> list[tuple[str, str]]:
    """Cut a line of text into pieces, so that its placeholders can be coloured."""
    if not names:
        return [(line, "")]
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return [(piece, names.get(piece, "")) for piece in re.split(f"({pattern})", line) if piece]


def _forked(fork: Forked, depth: int, boxes: Iterator[int]) -> _Block:
    """Set the branches side by side under a bar; equal branches are drawn once."""
    groups = fork.alike()
    most = _MOST_COLUMNS[min(depth, len(_MOST_COLUMNS) - 1)]
    columns = []
    for indices, branch in groups[: most if len(groups) <= most else most - 1]:
        said = branches_label(indices, len(fork.branches))
        columns.append(_framed("more", said, "", _column(branch, depth + 1, boxes)))
    if rest := len(groups) - len(columns):
        columns.append(_note(f"... {rest:,} more branches"))
    width = sum(c.width for c in columns) + _GAP * (len(columns) - 1)
    bar = _box("bar", [_Row([(label(fork)[0], "bold")], fork.line)], max(width, _WIDTH))
    if not columns:
        return bar
    tallest = max(c.height for c in columns)

    def paint(x: float, y: float) -> Iterable[str]:
        top, left = y + bar.height + _GAP, x + (bar.width - width) / 2
        rail, middles = top + tallest + _GAP / 2, []  # the rail is where the branches meet again
        yield from bar.paint(x, y)
        for column in columns:
            middles.append(left + column.width / 2)
            yield _edge(middles[-1], y + bar.height, top)
            yield from column.paint(left, top)
            yield _edge(middles[-1], top + column.height, rail)
            left += column.width + _GAP
        yield f'<path class="edge" d="M{middles[0]:g} {rail:g}H{middles[-1]:g}"/>'

    return _Block(bar.width, bar.height + 1.5 * _GAP + tallest, paint)


# -- blocks
def _stacked(blocks: Sequence[_Block]) -> _Block:
    """Set blocks under one another, centred, with edges between them."""
    width = max(b.width for b in blocks)
    height = sum(b.height for b in blocks) + _GAP * (len(blocks) - 1)

    def paint(x: float, y: float) -> Iterable[str]:
        for i, block in enumerate(blocks):
            if i:
                yield _edge(x + width / 2, y - _GAP, y)
            yield from block.paint(x + (width - block.width) / 2, y)
            y += block.height + _GAP

    return _Block(width, height, paint)


def _framed(kind: str, title: str, line: str, inner: _Block) -> _Block:
    """Draw a frame with a title around a block."""
    width, height = inner.width + 2 * _PAD, inner.height + 2 * _PAD + _LINE

    def paint(x: float, y: float) -> Iterable[str]:
        yield _rect(kind, x, y, width, height)
        free = int((width - 2.5 * _PAD) / _SMALL_CHAR) - min(_columns(line), _PLACE_COLUMNS) - 1
        yield _text(_Row([(_cut(title, free), "bold small")], line), x, y + _PAD + 7, width)
        yield from inner.paint(x + _PAD, y + _PAD + _LINE)

    return _Block(width, height, paint)


def _box(kind: str, rows: Sequence[_Row], width: float = _WIDTH) -> _Block:
    height = _LINE * len(rows) + _PAD

    def paint(x: float, y: float) -> Iterable[str]:
        yield _rect(kind, x, y, width, height)
        for i, row in enumerate(rows):
            yield _text(row, x, y + _LINE * (i + 1) + 1, width)

    return _Block(width, height, paint)


def _note(what: str) -> _Block:
    return _box("more", [_Row([(what, "dim small")])], 190)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'


def _edge(x: float, top: float, bottom: float) -> str:
    return f'<path class="edge" d="M{x:g} {top:g}V{bottom:g}"/>'


# -- text
def _text(row: _Row, x: float, y: float, width: float) -> str:
    said = f'<text x="{x + _PAD:g}" y="{y:g}">{_spans(row.pieces)}</text>'
    if row.right:
        place = _safe(_cut(row.right, _PLACE_COLUMNS))
        said += f'<text class="dim small" x="{x + width - _PAD:g}" y="{y:g}" text-anchor="end">{place}</text>'
    return said


def _spans(pieces: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<tspan class="{kind}">{_safe(text)}</tspan>' if kind else _safe(text) for text, kind in pieces)


def _rows(lines: Iterable[str], css_class: str = "small") -> list[_Row]:
    return [_Row([(line, css_class)]) for line in lines]


def _safe(text: str) -> str:
    """Escape `text`. Characters that XML cannot hold become a dot."""
    return escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\u00b7", text))


def _columns(text: str) -> int:
    """Count the columns that `text` takes in a monospace font."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fitting(text: str, columns: int) -> int:
    """Count the characters of `text` that fit into `columns`."""
    for i, c in enumerate(text):
        columns -= _columns(c)
        if columns < 0:
            return i
    return len(text)


def _cut(text: str, columns: int) -> str:
    return text if _fitting(text, columns) == len(text) else f"{text[: _fitting(text, columns - 3)]}..."


def _wrapped(text: str, columns: int = _TEXT_COLUMNS) -> list[str]:
    """Break `text` into the lines of a box: the first ones, a note of what is missing, and the last one."""
    if len(text) > 4000:  # what is cut away anyway need not be wrapped
        text = f"{text[:2000]} ... {text[-2000:]}"
    lines = [part for line in text.expandtabs(4).split("\n") for part in _broken(line, columns)]
    if len(lines) <= _TEXT_LINES:
        return lines
    return [*lines[: _TEXT_LINES - 2], f"... {len(lines) - _TEXT_LINES + 1:,} more lines ...", lines[-1]]


def _broken(line: str, columns: int) -> Iterator[str]:
    """Break one line, at spaces if it has some. Only the space at a break is lost."""
    while (fits := _fitting(line, columns)) < len(line):
        space = line.rfind(" ", fits // 2, fits + 1)
        yield line[: fits if space < 1 else space]
        line = line[fits if space < 1 else space + 1 :]
    yield line
