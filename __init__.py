"""sgl: a language for programs that call a language model many times, and the runtime that makes them fast.

Owns: the public names. `Runtime` is imported when it is first asked for, since it brings the machinery of models; and
so are the remote backends.
`Engine`, SGLang's name for generation without a program, is the same class.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .backend.base import Usage
from .backend.fake import FakeBackend
from .interpreter.agent.events import AgentResult, StepBegan, ToolFinished
from .interpreter.agent.loop import agent
from .interpreter.agent.mcp import mcp_tools
from .interpreter.agent.running import PAUSE, arun_tools, run_tools
from .interpreter.defaults import flush_cache, get_server_info, set_default_backend
from .interpreter.function import SglFunction, function
from .interpreter.join import ProgramStateGroup, first
from .interpreter.state import ProgramState
from .interpreter.trace.recording import Trace, trace
from .interpreter.trace.replay import ReplayReport, replay
from .interpreter.usage import UsageTree
from .lang.api import gen, gen_int, gen_string, select, special
from .lang.chat import ChatTemplate
from .lang.choices import (
    ChoicesDecision,
    greedy_token_selection,
    sequence_likelihood,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from .lang.constraint import Constraint, choice, ebnf, json_schema, lark, regex, schema
from .lang.errors import (
    BackendError,
    BudgetExceeded,
    Cancelled,
    CapabilityError,
    ConstraintError,
    ContextOverflow,
    JournalError,
    ModelLoadError,
    NotYet,
    OptionError,
    OutOfMemory,
    ProgramTimeout,
    ServiceError,
    SglError,
    ToolError,
    Truncated,
    VariableError,
)
from .lang.later import missing
from .lang.messages import (
    assistant,
    assistant_begin,
    assistant_end,
    image,
    separate_reasoning,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
    video,
)
from .lang.structure import control, free_text, repeat
from .lang.syntax import ArgumentsDelta, CallBegan, CallClosed, TextDelta, ThinkingDelta
from .lang.tags.formats import structural_tag
from .lang.tools.call import call
from .lang.tools.result import ToolResult
from .lang.tools.spec import ToolCall, ToolSpec
from .lang.tools.tool import Injected, Tool, tool

if TYPE_CHECKING:
    from .backend.remote.anthropic import Anthropic
    from .backend.remote.endpoint import RuntimeEndpoint
    from .backend.remote.litellm import LiteLLM
    from .backend.remote.openai import OpenAI
    from .backend.runtime.grammar.coverage import Explanation
    from .backend.runtime.runtime import Runtime

__version__ = "0.1.0"

__all__ = [
    "PAUSE",
    "AgentResult",
    "Anthropic",
    "ArgumentsDelta",
    "BackendError",
    "BudgetExceeded",
    "CallBegan",
    "CallClosed",
    "Cancelled",
    "CapabilityError",
    "ChatTemplate",
    "ChoicesDecision",
    "Constraint",
    "ConstraintError",
    "ContextOverflow",
    "FakeBackend",
    "Injected",
    "JournalError",
    "LiteLLM",
    "ModelLoadError",
    "NotYet",
    "OpenAI",
    "OptionError",
    "OutOfMemory",
    "ProgramState",
    "ProgramStateGroup",
    "ProgramTimeout",
    "ReplayReport",
    "Runtime",
    "RuntimeEndpoint",
    "ServiceError",
    "SglError",
    "SglFunction",
    "StepBegan",
    "TextDelta",
    "ThinkingDelta",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolFinished",
    "ToolResult",
    "ToolSpec",
    "Trace",
    "Truncated",
    "Usage",
    "UsageTree",
    "VariableError",
    "__version__",
    "agent",
    "arun_tools",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "call",
    "choice",
    "control",
    "ebnf",
    "explain",
    "first",
    "flush_cache",
    "free_text",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_info",
    "greedy_token_selection",
    "image",
    "json_schema",
    "lark",
    "mcp_tools",
    "regex",
    "repeat",
    "replay",
    "run_tools",
    "schema",
    "select",
    "separate_reasoning",
    "sequence_likelihood",
    "set_default_backend",
    "special",
    "structural_tag",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "tool",
    "trace",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]


def explain(constraint: Any) -> Explanation:
    """How a constraint would be enforced, part by part: by mask, checked afterwards, or refused. Nothing is run.

    Args:
        constraint: what `gen(constraint=)` takes: `sgl.regex(...)`, `sgl.json_schema(...)`, a Python type, ...

    Returns:
        The rows; it prints as a table.

    Raises:
        ConstraintError: `constraint` is neither a constraint nor a type that has a JSON Schema.

    Example:
        >>> import sgl
        >>> "enforced" in str(sgl.explain(sgl.regex("[0-9]{4}")))
        True
    """
    from .backend.runtime.grammar.coverage import explain
    from .lang.constraint import constraint_of

    return explain(constraint_of(constraint))


_REMOTE = {"OpenAI": "openai", "Anthropic": "anthropic", "LiteLLM": "litellm", "RuntimeEndpoint": "endpoint"}


def __getattr__(name: str) -> Any:
    if name in ("Runtime", "Engine"):
        from .backend.runtime.runtime import Runtime

        return Runtime
    if name in _REMOTE:
        return getattr(import_module(f"{__name__}.backend.remote.{_REMOTE[name]}"), name)
    raise missing(sys.modules[__name__], name, __all__)


def __dir__() -> list[str]:
    return __all__
