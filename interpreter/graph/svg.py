"""The drawing of a program's graph: one SVG document, read from top to bottom.

Owns: layout and colours. A sequence is a column of boxes; roles, scopes and programs are frames around what they hold;
the branches of a fork stand side by side. Knows nothing of how a graph is found.

Invariants
- Self-contained: no script, no font, no reference to anything outside. Every text is escaped, and characters that XML
  cannot hold are replaced.
- Bounded: long texts, long sequences and wide forks are cut, and a note says how much is missing. `_ROOM` boxes in all.

Lengths are in pixels. A block knows its width and height before it is painted, so layout is one pass up, one down.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .nodes import (
    Begin,
    Choose,
    Constant,
    End,
    Forked,
    Generate,
    Graph,
    Joined,
    Node,
    Nodes,
    Read,
    Subprogram,
    branches_label,
    gen_details,
    label,
    quoted,
)

_WIDTH, _PAD, _GAP, _LINE = 286, 10, 14, 16
_CHARS = 37  # of monospace text in one line of a box
_TEXT_LINES = 6
_ROOM, _LONGEST = 800, 120  # boxes in all, boxes in one sequence
_COLUMNS = (6, 4, 3)  # branches drawn side by side, by depth of the fork; 2 below that

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
class _Room:
    """How many more boxes may be painted."""

    left: int = _ROOM

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


@dataclass
class _Row:
    """One line of text in a box: pieces of (text, class), and what stands at its right end."""

    pieces: list[tuple[str, str]]
    right: str = ""


def draw(graph: Graph) -> str:
    """The whole document."""
    body = _column(graph.body, 0, _Room())
    if graph.stopped is not None:
        rows = [_Row([("stopped here", "bold")], graph.stopped.line)]
        rows += [_Row([(line, "")]) for line in _wrapped(graph.stopped.why)]
        body = _stacked([*([body] if graph.body else []), _box("stop", rows)])
    title = f"{graph.name}({', '.join(f'{{{name}}}' for name in graph.placeholders)})"
    width = max(body.width, 9.2 * _wide(_cut(title, 60))) + 4 * _PAD
    height = body.height + 62
    shown = _spans([(_cut(title, 60), "bold big")])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="sgl-g" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" style="max-width:100%">',
        f"<title>{_safe(title)}</title><style>{_STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>',
        f'<text x="{2 * _PAD}" y="28">{shown}</text>',
        *body.paint((width - body.width) / 2, 46),
        "</svg>",
    ]
    return "".join(parts)


# -- sequences
def _column(nodes: Nodes, depth: int, room: _Room) -> _Block:
    """A sequence; what a role or a scope holds (to its end, or to the end of the sequence) is framed."""
    blocks: list[_Block] = []
    at = 0
    while at < len(nodes):
        if len(blocks) >= _LONGEST or not room.take():
            blocks.append(_more(f"... {len(nodes) - at:,} more"))
            break
        node = nodes[at]
        at += 1
        if isinstance(node, Begin):
            end = _end_of(node, nodes, at)
            kind = "" if node.what == "role" else f"{node.what} "
            blocks.append(_framed("frame", kind + node.name, node.line, _column(nodes[at:end], depth, room)))
            at = end + 1
        else:
            blocks.append(_one(node, depth, room))
    return _stacked(blocks) if blocks else _more("nothing is said")


def _end_of(begin: Begin, nodes: Nodes, at: int) -> int:
    """The place of what ends `begin`; the end of the sequence if it is not ended here."""
    inside = 0
    for i in range(at, len(nodes)):
        node = nodes[i]
        if isinstance(node, Begin):
            inside += 1
        elif isinstance(node, End):
            if inside == 0:
                return i
            inside -= 1
    return len(nodes)


def _one(node: Node, depth: int, room: _Room) -> _Block:
    if isinstance(node, Forked):
        return _forked(node, depth, room)
    if isinstance(node, Subprogram):
        return _framed("program", f"program {_cut(node.name, 28)}", node.line, _column(node.body, depth, room))
    if isinstance(node, Constant):
        return _constant(node)
    if isinstance(node, Generate):
        rows = _titled([("gen ", "dim"), (_cut(node.name or "(unnamed)", 32), "bold")], node.line)
        return _box("gen", rows + _small(_filled(gen_details(node), 42)))
    if isinstance(node, Choose):
        rows = _titled([("select ", "dim"), (_cut(node.name or "(unnamed)", 29), "bold")], node.line)
        shown = [quoted(choice, 38) for choice in node.choices[:6]]
        more = [f"... {len(node.choices) - 6:,} more"] if len(node.choices) > 6 else []
        return _box("select", rows + _small([*shown, *more]))
    if isinstance(node, Joined):
        rows = _titled([("join ", "bold"), (node.mode, "small")], node.line)
        return _box("bar", rows + _small(_wrapped(", ".join(node.names), 42) if node.names else []))
    kind = "read" if isinstance(node, Read) else "more"
    return _box(kind, _titled([(_cut(label(node), 40), "small")], node.line))


def _constant(node: Constant) -> _Block:
    lines = _wrapped(node.text) or [""]
    names = {f"{{{name}}}": "arg" for name in node.arguments} | {f"{{{name}}}": "val" for name in node.values}
    return _box("text", [_Row(_marked(line, names)) for line in lines])


def _marked(line: str, names: dict[str, str]) -> list[tuple[str, str]]:
    """The line with the placeholders in it set off."""
    if not names:
        return [(line, "")]
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return [(piece, names.get(piece, "")) for piece in re.split(f"({pattern})", line) if piece]


def _forked(fork: Forked, depth: int, room: _Room) -> _Block:
    """A bar with the branches beneath it, side by side; those that are alike once."""
    groups = fork.alike()
    most = _COLUMNS[depth] if depth < len(_COLUMNS) else 2
    columns = []
    for places, branch in groups[: most if len(groups) <= most else most - 1]:
        said = branches_label(places, len(fork.branches))
        columns.append(_framed("more", _cut(said, 44), "", _column(branch, depth + 1, room)))
    if rest := len(groups) - len(columns):
        columns.append(_more(f"... {rest:,} more branches"))
    if not columns:
        return _box("bar", [_Row([("fork x0", "bold")], fork.line)])
    width = sum(c.width for c in columns) + _GAP * (len(columns) - 1)
    bar = _box("bar", [_Row([(f"fork x{len(fork.branches)}", "bold")], fork.line)], max(width, _WIDTH))
    tallest = max(c.height for c in columns)

    def paint(x: float, y: float) -> Iterable[str]:
        top, left = y + bar.height + _GAP, x + (bar.width - width) / 2
        rail, middles = top + tallest + _GAP / 2, []  # where the branches meet again
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
    """Blocks under one another, centred, with edges between them."""
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
    width, height = inner.width + 2 * _PAD, inner.height + 2 * _PAD + _LINE

    def paint(x: float, y: float) -> Iterable[str]:
        yield _rect(kind, x, y, width, height)
        free = int((width - 2.5 * _PAD) / 6.5) - min(_wide(line), 30)
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


def _more(what: str) -> _Block:
    return _box("more", [_Row([(what, "dim small")])], 190)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'


def _edge(x: float, top: float, bottom: float) -> str:
    return f'<path class="edge" d="M{x:g} {top:g}V{bottom:g}"/>'


def _text(row: _Row, x: float, y: float, width: float) -> str:
    said = f'<text x="{x + _PAD:g}" y="{y:g}">{_spans(row.pieces)}</text>'
    if row.right:
        place = _safe(_cut(row.right, 30))
        said += f'<text class="dim small" x="{x + width - _PAD:g}" y="{y:g}" text-anchor="end">{place}</text>'
    return said


def _spans(pieces: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<tspan class="{kind}">{_safe(text)}</tspan>' if kind else _safe(text) for text, kind in pieces)


def _titled(pieces: list[tuple[str, str]], line: str) -> list[_Row]:
    """The first row of a box, with the program line at its end, or under it if there is no room."""
    used = 7.3 * sum(_wide(text) for text, _ in pieces) + 6.4 * min(_wide(line), 30)
    if used <= _WIDTH - 2.5 * _PAD:
        return [_Row(pieces, line)]
    return [_Row(pieces), _Row([], line)]


def _small(lines: Iterable[str]) -> list[_Row]:
    return [_Row([(line, "small")]) for line in lines]


# -- text
def _safe(text: str) -> str:
    """`text` as XML holds it; characters that XML has no place for become a dot."""
    return escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\u00b7", text))


def _wide(text: str) -> int:
    """Columns of monospace text."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, columns: int) -> str:
    if _wide(text) <= columns:
        return text
    kept = ""
    for c in text:
        if _wide(kept + c) > columns - 3:
            break
        kept += c
    return kept + "..."


def _wrapped(text: str, columns: int = _CHARS) -> list[str]:
    """Lines that fit into a box: the first ones, a note of what is missing, and the last one."""
    if len(text) > 4000:  # what is cut away anyway need not be wrapped
        text = f"{text[:2000]} ... {text[-2000:]}"
    lines = [part for line in text.expandtabs(4).split("\n") for part in _broken(line, columns)]
    if len(lines) <= _TEXT_LINES:
        return lines
    return [*lines[: _TEXT_LINES - 2], f"... {len(lines) - _TEXT_LINES + 1:,} more lines ...", lines[-1]]


def _broken(line: str, columns: int) -> list[str]:
    """One line broken at spaces where there are some; nothing is lost but the space it is broken at."""
    found = []
    while _wide(line) > columns:
        fits = 0
        used = 0
        while used + (step := _wide(line[fits])) <= columns:
            used += step
            fits += 1
        space = line.rfind(" ", fits // 2, fits + 1)
        at = fits if space < 1 else space
        found.append(line[:at])
        line = line[at + (space >= 1) :]
    return [*found, line]


def _filled(words: Sequence[str], columns: int) -> list[str]:
    """Words joined into lines of at most `columns`."""
    lines: list[str] = []
    for word in words:
        word = _cut(word, columns)
        if lines and _wide(lines[-1]) + 1 + _wide(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
