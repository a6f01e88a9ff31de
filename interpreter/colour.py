"""A transcript as HTML for a notebook: text coloured by where it came from.

Knows nothing of states and groups, which hand over their text, and waits for nothing. Styles are inline, as notebooks
strip style blocks, and translucent, for light and dark pages. Each origin has an underline of its own, so no reader has
to tell colours apart. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ..backend.base import CallTrace, GenResult, ScoreResult
from .transcript import Segment

Part = tuple[str, str, "str | None"]  # text, origin, what hovering over it says

SHOWN_CHARACTERS = 20_000  # of one transcript: its beginning and its end

_STYLES = {
    "constant": "",
    "reused": "opacity:.65;border-bottom:1px dotted currentColor",
    "generated": "background:rgba(64,128,224,.18);border-bottom:2px solid rgb(64,128,224)",
    "forced": "background:rgba(48,160,80,.18);border-bottom:4px double rgb(48,150,80)",
    "error": "background:rgba(220,50,40,.15);border-bottom:2px dashed rgb(220,50,40)",
}
_BOX = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;font-family:monospace;line-height:1.6"
_RULE = "border-left:2px solid rgba(128,128,128,.4);padding-left:.6em"
_SMALL = "font-size:.85em;opacity:.75"


def html_of(parts: Sequence[Part], limit: int = SHOWN_CHARACTERS) -> str:
    """One transcript as HTML, with a legend of the origins in it. Its middle is left out beyond `limit` characters."""
    return f'<div style="{_BOX}">{_marked(parts, limit)}</div>{_legend({origin for _, origin, _ in parts})}'


def html_of_group(branches: Sequence[tuple[str, Sequence[Part]]], limit: int = 2_000, most: int = 50) -> str:
    """Labelled transcripts one under the other, `limit` characters of each and `most` of them, with one legend."""
    found = [
        f'<div style="margin:.4em 0 0;{_SMALL}">{escape(_whole(label))}</div>'
        f'<div style="{_BOX};{_RULE}">{_marked(parts, limit)}</div>'
        for label, parts in branches[:most]
    ]
    if len(branches) > most:
        found.append(f'<div style="{_SMALL}">… and {len(branches) - most:,} more branches</div>')
    if not branches:
        found.append(f'<div style="{_SMALL}">(no branches)</div>')
    return "".join(found) + _legend({origin for _, parts in branches[:most] for _, origin, _ in parts})


def parts_of(segments: Iterable[Segment]) -> list[Part]:
    """Split a transcript, as far as it has come, into parts: tokens where a call was traced, whole texts elsewhere.

    Only a traced call tells of "reused" and "forced" text. Its trace may differ from the transcript on the constants
    before the call, for example if they were said on a branch that was joined. Then the transcript is right.
    """
    found: list[Part] = []
    said: list[str] = []  # constants since the last call
    told: BaseException | None = None  # every call after one that failed carries its error
    for segment in segments:
        if segment.handle is None:
            said.append(segment.text)
            continue
        found += _constants(said, _trace(segment))
        said = []
        found += _written(segment)
        if segment.error is not None and segment.error is not told:
            told = segment.error
            found.append((f" ✕ {type(told).__name__}", "error", str(told)))
    return [part for part in [*found, *_constants(said, None)] if part[0]]


def since_fork(segments: Sequence[Segment], parent: Sequence[Segment]) -> Sequence[Segment]:
    """The segments that a branch said itself: a fork starts with its parent's segments, the very objects."""
    same = next((i for i, (own, theirs) in enumerate(zip(segments, parent)) if own is not theirs), None)
    return segments[min(len(segments), len(parent)) if same is None else same :]


def _constants(said: Sequence[str], trace: CallTrace | None) -> Iterator[Part]:
    text = "".join(said)
    runs: list[Part] = (
        [(run, "reused" if reused else "constant", None) for run, reused, _ in trace.prompt] if trace else []
    )
    known = "".join(run for run, _, _ in runs)
    if known.endswith(text):  # of a branch's first call it begins with what the parent said last
        yield from _cut(runs, len(known) - len(text), len(known))
    else:
        yield text, "constant", None


def _written(segment: Segment) -> Iterator[Part]:
    trace, text = _trace(segment), segment.text
    hover = segment.where or None
    if trace is None or not "".join(trace.texts).startswith(text):
        yield text, "generated", hover
    else:
        at = 0
        for piece, token, logprob, forced in zip(trace.texts, trace.token_ids, trace.logprobs, trace.forced):
            yield text[at : at + len(piece)], "forced" if forced else "generated", _token(token, logprob, forced)
            at += len(piece)
        yield text[at:], "generated", hover


def _token(token: int, logprob: float | None, forced: bool) -> str:
    if forced:
        return f"token {token}, forced by a constraint"
    return f"token {token}" if logprob is None else f"{math.exp(logprob):.1%} (logprob {logprob:.3f}), token {token}"


def _trace(segment: Segment) -> CallTrace | None:
    if segment.handle is None or not segment.handle.done or segment.handle.error is not None:
        return None
    result: object = segment.handle.result
    first = result[0] if isinstance(result, list) and result else result
    return first.trace if isinstance(first, (GenResult, ScoreResult)) else None


def _marked(parts: Sequence[Part], limit: int) -> str:
    total = sum(len(text) for text, _, _ in parts)
    if not total:
        return f'<span style="{_SMALL}">(no text)</span>'
    if total <= limit:
        return "".join(map(_span, parts))
    head, tail = limit // 2, total - (limit - limit // 2)
    note = f'<span style="{_SMALL}"> … {tail - head:,} characters are not shown … </span>'
    return "".join(map(_span, _cut(parts, 0, head))) + note + "".join(map(_span, _cut(parts, tail, total)))


def _cut(parts: Sequence[Part], start: int, end: int) -> Iterator[Part]:
    """The characters from `start` to `end` of the whole text, still in their parts."""
    at = 0
    for text, origin, hover in parts:
        piece = text[max(0, start - at) : max(0, end - at)]
        at += len(text)
        if piece:
            yield piece, origin, hover


def _span(part: Part) -> str:
    text, origin, hover = part
    title = f' title="{escape(_whole(hover))}"' if hover else ""
    style = f' style="{_STYLES[origin]}"' if _STYLES[origin] else ""
    return f"<span{style}{title}>{escape(_whole(text))}</span>"


def _whole(text: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _legend(origins: set[str]) -> str:
    names = " ".join(f'<span style="{style}">{origin}</span>' for origin, style in _STYLES.items() if origin in origins)
    return f'<div style="margin-top:.4em;{_SMALL}">{names}</div>' if names else ""
