"""The constructor of calls of tools: `sgl.call`. Knows nothing of how a model writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..api import checked_budget, name_of_call, thinking
from ..constraint import Constraint, constraint_of
from ..errors import OptionError
from ..expr import CallTools, Seq
from ..sampling import Sampling
from .listing import tool_list

CALL_TOKENS = 1_024
"""Budget of a call that names none: text before the calls, and the calls."""


def call(
    name: str | None = None,
    tools: Iterable[Any] = (),
    choice: str = "auto",
    calls: tuple[int, int | None] | int | None = None,
    answer: Any = None,
    *,
    think: int | None = None,
    on_budget: str | None = None,
    **sampling: Any,
) -> CallTools | Seq:
    """The model calls tools here, in the words of its own syntax, or says something else.

    Text and calls are one grammar: the text is free until the model opens a call. Then the name is one of `tools`, and
    the arguments are valid under the tool's schema, with the promises of `gen(schema=...)`. Text of a user that looks
    like a call is no call.

    Args:
        name: variable that holds the text as it was written, `s[name]`. `s.value(name)` is a list of `sgl.ToolCall`,
            empty if none was made; `s.event_iter(name)` gives events while the model writes.
        tools: the tools that may be called: functions (`@sgl.tool`), raw descriptions, or tools of an MCP server. They
            may be other ones than the model was shown (`sgl.system(..., tools=...)`); the text before stays as it is.
        choice: "auto" (the default): text, calls, or text and then calls. "required": calls at once. "none": no calls.
            The name of a tool: a call of that tool.
        calls: how many calls at least and at most where any are made, `(1, 3)`, `(1, None)` or one number; default
            `(1, None)`, and `(1, 1)` for a named tool.
        answer: a type or a constraint that stands in the place of free text: then `s.value(name)` is the list of calls,
            or the answer's value; default free text.
        think: most tokens of reasoning before, as in `sgl.gen`; default none.
        on_budget: as in `sgl.gen`; by default a call that is open near `max_tokens` is closed within it.
        **sampling: sampling options of `sgl.gen`; `max_tokens` has the default 1,024.

    Returns:
        An expression to append, usually in `sgl.assistant(...)`.

    Raises:
        OptionError: an option is unknown, out of its range, or names no tool.
        ToolError: something in `tools` is no tool.
        ConstraintError: `answer` is no constraint; or, when it is appended, a schema cannot be enforced.

    Example:
        >>> import sgl
        >>> @sgl.tool
        ... def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> @sgl.function
        ... def total(s):
        ...     s += sgl.user("2 + 2?") + sgl.assistant(sgl.call("step", [add], choice="required"))
        ...     return [add(**call.arguments) for call in s.value("step")]
        >>> len(total.run(backend=sgl.Runtime.toy()).ret_value) >= 1
        True
    """
    where = name_of_call("call", name)
    known = tool_list(tools)
    specs = known.specs
    names = [spec.name for spec in specs]
    if choice not in ("auto", "required", "none") and choice not in names:
        raise OptionError(
            f"{where}: choice must be 'auto', 'required', 'none' or the name of a tool "
            f"({', '.join(names) or 'there are none'}), got {choice!r:.60}"
        )
    if not specs and choice != "none":
        raise OptionError(f"{where}: there are no tools to call; pass tools=, or choice='none'")
    least, most = _counts(where, choice, calls)
    wanted: Constraint | None = None if answer is None else constraint_of(answer)
    written = CallTools(
        name,
        Sampling.of(where, **{"max_tokens": CALL_TOKENS, **sampling}),
        sampling.get("n") or 1,
        None,
        checked_budget(where, on_budget),
        specs,
        choice,
        least,
        most,
        wanted,
        frozenset(tool.name for tool in known if tool.own),
    )
    return written if think is None else thinking(where, name, think, written)


def _counts(where: str, choice: str, calls: object) -> tuple[int, int | None]:
    if calls is None:
        return 1, None if choice in ("auto", "required", "none") else 1
    found = (calls, calls) if isinstance(calls, int) else calls
    if isinstance(found, tuple) and len(found) == 2:
        least, most = found
        counts = [least, least if most is None else most]
        if all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in counts) and counts == sorted(counts):
            return least, most
    raise OptionError(
        f"{where}: calls must be a number of at least 1, or two such as (1, 3) or (1, None), got {calls!r:.60}; "
        "choice='none' bars calls"
    )
