"""Tools and results as plain text, for models whose chat template has no place for them.

The texts are short: a small model reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import OptionError
from .form import CallForm
from .values import as_json, written_arguments

if TYPE_CHECKING:
    from ..tools.spec import ToolSpec


def shown_tools(form: CallForm, specs: Sequence[ToolSpec]) -> str:
    """Write the system text that names the tools, one a line as JSON, and shows what a call looks like."""
    if not specs:
        return ""
    lines = [as_json(spec.openai()["function"]) for spec in specs]
    example = "".join(text for text, _ in written_arguments(form.arguments, {"ARGUMENT": "VALUE"}, "NAME"))
    id_text = form.id_mark + "0" if form.id_pattern else ""
    call = form.section[0] + form.begin + "NAME" + id_text + form.middle + example + form.end + form.section[1]
    tools = "\n".join(lines)
    return f"You can use these tools:\n<tools>\n{tools}\n</tools>\n\nTo use a tool, write a call like this:\n{call}"


def shown_results(form: CallForm, results: Sequence[str]) -> tuple[str, str]:
    """Write the turn (role, text) of the results, in the order of their calls."""
    shape = form.result
    for result in results:
        if not isinstance(result, str):
            raise OptionError(f"result_turn takes texts, got {type(result).__name__}; json.dumps makes one of a value")
    return shape.role, shape.separator.join(shape.begin + result + shape.end for result in results)
