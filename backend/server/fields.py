"""What each API does with each field of a request. Knows nothing of what an obeyed field means.

A field is *obeyed*, *inert* (accepted: it changes no text), or *refused*: it would change the text, and this server
does not carry it out. A refused field may be sent with a value that asks for nothing. Any other field is an
error, or left out with a warning where the clients of an API send fields of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...lang.errors import suggest
from ...lang.sampling import shown
from .errors import RequestError

log = logging.getLogger("sgl")
MOST_WARNINGS = 1000
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class FieldTable:
    """The fields of one API. `refused`: the name, what to do instead, and the values that ask for nothing.

    `tolerant`: a field that nobody knows is left out, with a warning in the log once a name. So it is where clients
    send fields of their own.
    """

    api: str
    obeyed: frozenset[str]
    inert: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    tolerant: bool = False

    def check(self, body: Mapping[str, Any], at: str = "") -> None:
        """Raise `RequestError` for the first field that is not obeyed and not harmless. `at`: where the body stands."""
        for name, value in body.items():
            if name in self.obeyed or name in self.inert or (name in self.refused and value is None):
                continue
            if name in self.refused:
                fix, harmless = self.refused[name]
                if any(value == each and type(value) is type(each) for each in harmless):
                    continue
                raise RequestError(
                    f"{self.api}: {at}{name} is not supported by this server, and would change the text; {fix}",
                    param=at + name,
                    code="unsupported_field",
                )
            if self.tolerant:
                self.warn(at + str(name))
                continue
            known = [*self.obeyed, *self.inert, *self.refused]
            raise RequestError(
                f"{self.api}: unknown field {at + str(name)!r:.120}{suggest(str(name)[:100], known)}",
                param=f"{at}{name}"[:120],
                code="unknown_field",
            )

    def warn(self, name: str) -> None:
        """Say in the log, once, that something of a request is left out."""
        key = (self.api, name[:120])
        if key not in _warned and len(_warned) < MOST_WARNINGS:
            _warned.add(key)
            log.warning("%s: %.120r is not known here and left out; this is told once", *key)

    def describe(self) -> str:
        """The table in Markdown, for the documentation."""
        rows = ["| fields | |", "|---|---|", f"| {_names(self.obeyed)} | obeyed |"]
        if self.inert:
            rows.append(f"| {_names(self.inert)} | inert |")
        if self.refused:
            rows.append(f"| {_names(self.refused)} | refused |")
        rows.append(f"| any other | {'left out, with a warning in the log' if self.tolerant else 'refused'} |")
        return "\n".join(rows) + "\n"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def count(api: str, name: str, value: Any, most: int) -> int:
    """A whole number of 0 .. `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RequestError(f"{api}: {name} must be a whole number from 0 to {most}, got {shown(value)}", param=name)
    return value


def flag(api: str, body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A field that is true or false; null is the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"{api}: {name} must be true or false, got {shown(value)}", param=name)
    return value


_SAMPLING = frozenset([
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "stop", "stop_token_ids", "stop_regex", "seed", "logit_bias", "max_tokens", "min_tokens", "ignore_eos", "n",
])  # fmt: skip
"""Names that are those of `gen`'s options too."""
_CONSTRAINTS = frozenset(["response_format", "regex", "ebnf", "json_schema", "structural_tag"])
_EVERY = frozenset(["model", "stream", "stream_options", "logprobs"])
_INERT = frozenset([
    "user", "metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "client_metadata", "prediction", "skip_special_tokens", "spaces_between_special_tokens", "priority",
])  # fmt: skip
_LEAVE_OUT = "leave it out"
_NO_ADAPTERS = ("this server has one model; " + _LEAVE_OUT, ())

CHAT = FieldTable(
    "chat.completions",
    _SAMPLING | _CONSTRAINTS | _EVERY
    | {"messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
       "chat_template_kwargs"},
    _INERT,
    {
        "modalities": ("the model writes text only", (["text"],)),
        "audio": ("the model writes text only", ()),
        "functions": ("use tools", ([],)),
        "function_call": ("use tool_choice", ("auto", "none")),
        "web_search_options": (_LEAVE_OUT, ()),
        "reasoning_effort": ("use chat_template_kwargs, if the model's template has such an option", ()),
        "verbosity": ("say it in a message", ()),
        "continue_final_message": ("use /v1/completions", (False,)),
        "add_generation_prompt": (_LEAVE_OUT, (True,)),
        "separate_reasoning": (_LEAVE_OUT, ()),
        "lora_path": _NO_ADAPTERS,
        "guided_json": ("use response_format", ()),
        "guided_regex": ("use regex", ()),
        "guided_grammar": ("use ebnf", ()),
    },
)  # fmt: skip
COMPLETIONS = FieldTable(
    "completions",
    _SAMPLING | _CONSTRAINTS | _EVERY | {"prompt", "echo", "special_tokens"},
    _INERT,
    {
        "suffix": (_LEAVE_OUT, ("",)),
        "best_of": ("use n", (1,)),
        "lora_path": _NO_ADAPTERS,
    },
)
GENERATE = FieldTable(
    "generate",
    frozenset([
        "text", "input_ids", "parts", "sampling_params", "return_logprob", "logprob_start_len", "top_logprobs_num",
        "stream",
        "special_tokens", "rid", "return_text_in_logprobs",
    ]),
    frozenset(["model", "priority", "log_metrics", "background"]),
    {
        "image_data": ("the model reads text only", ([],)),
        "audio_data": ("the model reads text only", ([],)),
        "video_data": ("the model reads text only", ([],)),
        "input_embeds": ("send text or input_ids", ()),
        "token_ids_logprob": ("use top_logprobs_num", ([],)),
        "lora_path": _NO_ADAPTERS,
        "return_hidden_states": (_LEAVE_OUT, (False,)),
        "session_params": ("prompts that begin alike share their KV anyway", ()),
        "custom_logit_processor": ("use a constraint", ()),
    },
)  # fmt: skip
RESPONSES = FieldTable(
    "responses",
    _SAMPLING - {"n", "max_tokens"}
    | {"regex", "ebnf", "structural_tag", "model", "input", "instructions", "max_output_tokens", "text", "tools",
       "tool_choice", "parallel_tool_calls", "top_logprobs", "include", "stream", "stream_options", "reasoning",
       "chat_template_kwargs"},
    _INERT
    | {"prompt_cache_options", "background_options", "access_programs", "truncation", "max_tool_calls", "moderation"},
    {
        "previous_response_id": ("this server keeps no responses: send the items so far as input", ()),
        "conversation": ("this server keeps no conversations: send the items so far as input", ()),
        "prompt": ("this server keeps no prompts: send it as instructions and input", ()),
        "background": ("wait for the answer, or stream it", (False,)),
        "context_management": ("send the items that are to stay", ([],)),
        "image": ("the model writes text only", ()),
        "n": ("send the request again, with another seed", (1,)),
        "max_tokens": ("use max_output_tokens", ()),
        "messages": ("use input", ()),
        "response_format": ("use text.format", ()),
    },
    tolerant=True,
)  # fmt: skip
MESSAGE = FieldTable(
    "chat.completions",
    frozenset(["role", "content", "tool_calls", "tool_call_id"]),
    frozenset(["name", "annotations", "id", "reasoning_content", "reasoning"]),
    {
        "refusal": (_LEAVE_OUT, ("",)),
        "audio": ("the model reads text only", ()),
        "function_call": ("use tool_calls", ()),
    },
)

MESSAGES = FieldTable(
    "messages",
    frozenset([
        "model", "messages", "max_tokens", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream",
        "tools", "tool_choice", "thinking", "output_config", "seed",
    ]),
    frozenset([
        "metadata", "service_tier", "cache_control", "inference_geo", "speed", "diagnostics", "user_profile_id",
        "workspace_id",
    ]),
    {
        "container": ("this server runs no code; " + _LEAVE_OUT, ()),
        "mcp_servers": ("call the servers from the client; " + _LEAVE_OUT, ([],)),
        "output_format": ("use output_config.format", ()),
    },
    tolerant=True,
)  # fmt: skip
_OLLAMA_INERT = frozenset(["keep_alive"])
OLLAMA_CHAT = FieldTable(
    "api/chat",
    frozenset(["model", "messages", "tools", "format", "options", "stream", "think"]),
    _OLLAMA_INERT,
    {"logprobs": ("use /v1/chat/completions", (False,)), "top_logprobs": ("use /v1/chat/completions", (0,))},
)
OLLAMA_GENERATE = FieldTable(
    "api/generate",
    frozenset(["model", "prompt", "system", "format", "options", "stream", "raw", "think"]),
    _OLLAMA_INERT,
    {
        "suffix": (_LEAVE_OUT, ("",)),
        "images": ("the model reads text only", ([],)),
        "template": ("use raw, with the whole prompt as text", ("",)),
        "context": ("use /api/chat with the messages so far", ([],)),
        "logprobs": ("use /v1/completions", (False,)),
        "top_logprobs": ("use /v1/completions", (0,)),
    },
)
OLLAMA_MESSAGE = FieldTable(
    "api/chat",
    frozenset(["role", "content", "tool_calls", "tool_name", "name"]),
    frozenset(["thinking", "tool_call_id"]),
    {"images": ("the model reads text only", ([],))},
)
OLLAMA_OPTIONS = FieldTable(
    "options",
    frozenset([
        "num_predict", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "repeat_penalty", "presence_penalty",
        "frequency_penalty",
    ]),
    frozenset([
        "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa",
        "low_vram", "mirostat_tau", "mirostat_eta", "penalize_newline",
    ]),
    {
        "mirostat": (_LEAVE_OUT, (0,)),
        "tfs_z": (_LEAVE_OUT, (1, 1.0)),
        "typical_p": (_LEAVE_OUT, (1, 1.0)),
        "repeat_last_n": ("penalties are of the whole text here; " + _LEAVE_OUT, (-1,)),
    },
)  # fmt: skip
