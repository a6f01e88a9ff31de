"""Which tools can be called here: those whose arguments a grammar can enforce.

Knows nothing of call syntaxes. One schema that is refused leaves the other tools alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from ....lang.tools.listing import RefusedTool, ToolList
from ....lang.tools.spec import ToolSpec
from .coverage import explain
from .schema.lint import KNOWN
from .schema.lower import KeywordRow


def refused_tools(specs: Iterable[ToolSpec]) -> list[RefusedTool]:
    """Find the tools whose parameters cannot be enforced; each with the pointer to the keyword, and the reason."""
    found = []
    for spec in specs:
        for row in explain(spec.parameters).rows:
            if row.status == "refused":
                found.append(RefusedTool(spec.name, f"tool {spec.name}, parameters {_place(row)}"))
                break
    return found


def _place(row: KeywordRow) -> str:
    """The pointer to the keyword that is to blame, and what is wrong with it."""
    keyword, note = row.keyword, row.note
    if not keyword and (first := note.partition(": "))[0] in KNOWN:
        keyword, _, note = first
    at = "" if row.pointer == "(root)" else row.pointer
    if keyword and not at.endswith(f"/{keyword}"):
        at = f"{at}/{keyword}"
    return f"{at or '(root)'}: {note}"


def usable_tools(tools: ToolList) -> ToolList:
    """Leave out the tools that cannot be enforced, with a warning each.

    Raises `ToolError` if one of them is the program's own function.
    """
    refused = refused_tools(tools.specs)
    return tools.without(refused) if refused else tools
