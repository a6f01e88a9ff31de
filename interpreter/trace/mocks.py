"""The recorded results of tools, in place of the tools: for a replay. Knows nothing of how a program is run again.

1. A result is given to a call of the same branch, name and arguments, in the order of the record, once.
2. A call that is not in the record has the error "unrecorded". No tool is run.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

from ...lang.tools.result import ToolResult
from ...lang.tools.spec import ToolCall
from ..plain import is_spelled, plain


class ToolMocks:
    """The results of one recorded program; of none, if `program` is None."""

    def __init__(self, program: Mapping[str, Any] | None) -> None:
        self._left: dict[tuple[str, str], deque[Mapping[str, Any]]] = defaultdict(deque)
        self._taking = threading.Lock()
        for branch in () if program is None else program["branches"]:
            for tool in branch.get("tools", ()):
                self._left[branch["id"], tool_key(tool)].append(tool)

    def result(self, branch: str, call: ToolCall) -> ToolResult:
        """The recorded result of a call on the branch with this id."""
        with self._taking:
            left = self._left[branch, tool_key({"name": call.name, "arguments": plain(call.arguments)})]
            tool = left.popleft() if left else None
        if tool is None:
            return ToolResult(call, "Error (unrecorded): the trace has no such call, so it is not run", "unrecorded")
        if tool["text"] is None:
            return ToolResult(call, "Error (cancelled): the trace ends before the tool did", "cancelled")
        value = None if is_spelled(tool["value"]) else tool["value"]
        told = {name: tool[name] for name in ("seconds", "truncated", "tries")}
        return ToolResult(call, tool["text"], tool["error"], value=value, **told)


def tool_key(tool: Mapping[str, Any]) -> str:
    """What equal calls have in common."""
    return json.dumps([tool["name"], tool["arguments"]], sort_keys=True)
