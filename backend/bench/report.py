"""What a sweep came to: a table, the best setting for each batch size as a call of `Runtime`, and a JSON file.

Knows nothing of how it was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...lang.errors import OptionError
from .sweep import Choice, Measured

_COLUMNS = ("drafter", "batch", "tokens/s", "ratio", "from", "to", "tokens a round", "accepted", "equal texts")


def table(lines: Sequence[Measured]) -> Iterator[str]:
    """The lines of a table, in Markdown."""
    cells = [_COLUMNS, *(_cells(line) for line in lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    for number, row in enumerate(cells):
        yield "| " + " | ".join(_padded(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths))) + " |"
        if not number:
            yield "|" + "|".join("-" * (width + 1) + ("-" if not i else ":") for i, width in enumerate(widths)) + "|"


def _padded(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def _cells(line: Measured) -> tuple[str, ...]:
    low, high = line.spread
    drafted = (f"{line.accept_length:.2f}", f"{line.accept_rate:.2f}") if line.drafted else ("", "")
    return (
        line.setting.name,
        str(line.batch),
        f"{line.rate:.1f}",
        f"{line.ratio:.2f}",
        f"{low:.2f}",
        f"{high:.2f}",
        *drafted,
        f"{line.same} of {line.texts}",
    )


def answer(choice: Choice, runtime: Mapping[str, Any]) -> Iterator[str]:
    """The best setting of one batch size in words, and the call of `Runtime` that has it. `runtime`: the other options
    of that call; `model_path` comes first."""
    best, (low, high) = choice.best, choice.best.spread
    if choice.clear:
        others = ", ".join(each.setting.name for each in choice.alike)
        also = f"; the spread does not tell it from: {others}" if others else ""
        yield f"batch {choice.batch}: {best.setting.name}, {best.ratio:.2f} times ({low:.2f} to {high:.2f}){also}"
    else:
        within = ", ".join(each.setting.name for each in choice.alike)
        what = f"; within the spread: {within}" if within else ""
        yield f"batch {choice.batch}: no drafts, since no setting was faster in every repeat{what}"
    yield "    " + call(runtime, best.setting.options)


def call(runtime: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """A call of `sgl.Runtime`, as Python."""
    named = {**runtime, **options}
    path = named.pop("model_path", None)
    arguments = [*([] if path is None else [repr(path)]), *(f"{key}={value!r}" for key, value in named.items())]
    return f"sgl.Runtime({', '.join(arguments)})"


def write_json(
    file: Path,
    about: Mapping[str, Any],
    lines: Sequence[Measured],
    choices: Sequence[Choice],
    runtime: Mapping[str, Any],
) -> None:
    """Write all that was measured. Raises `OptionError` for a file that cannot be written."""
    data = {
        **about,
        "measured": [
            {
                "drafter": line.setting.name,
                "options": line.setting.options,
                "batch": line.batch,
                "tokens_a_second": line.rates,
                "ratios": line.ratios,
                "accept_length": line.accept_length,
                "accept_rate": line.accept_rate,
                "drafted": line.drafted,
                "accepted": line.accepted,
                "equal_texts": line.same,
                "texts": line.texts,
            }
            for line in lines
        ],
        "best": [
            {
                "batch": choice.batch,
                "drafter": choice.best.setting.name,
                "options": choice.best.setting.options,
                "ratio": choice.best.ratio,
                "clear": choice.clear,
                "alike": [each.setting.name for each in choice.alike],
                "call": call(runtime, choice.best.setting.options),
            }
            for choice in choices
        ],
    }
    try:
        file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--json {file}: cannot be written ({error})") from None
