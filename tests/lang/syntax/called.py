"""What the tests of call syntaxes share: tools, calls, a small template of each family, a runtime with their tokens."""

from __future__ import annotations

from typing import Any

import sgl
from sgl.backend.runtime.model.toy import ToyModel
from sgl.backend.runtime.text.tokenizer import Tokenizer
from sgl.lang.syntax import FAMILIES, CallSyntax

GET = sgl.ToolSpec(
    "get",
    "Look something up.",
    sgl.json_schema(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
                "exact": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        }
    ),
)
GET_ALL = sgl.ToolSpec("get_all", "Look all up.", sgl.json_schema({"type": "object", "properties": {}}))
SPECS = [GET, GET_ALL]
NAMES = [family.name for family in FAMILIES]


def numbered(syntax: CallSyntax, *calls: tuple[str, dict[str, Any]]) -> list[sgl.ToolCall]:
    """Calls with the ids that the family's models write, or that sgl gives."""
    ids = [
        syntax.id_of(name, str(i)) if "{name}" in syntax.id_form else f"c0000000{i}"
        for i, (name, _) in enumerate(calls)
    ]
    return [sgl.ToolCall(name, arguments, id) for (name, arguments), id in zip(calls, ids, strict=True)]


def some_calls(syntax: CallSyntax) -> list[sgl.ToolCall]:
    """Two calls, or one where the family writes no more."""
    city = 'Zürich "x" <b>'
    calls = numbered(syntax, ("get", {"city": city, "days": 3, "tags": ["a b", "c"]}), ("get_all", {}))
    return calls if syntax.parallel else calls[:1]


def message(calls: list[sgl.ToolCall], text: str | None) -> dict[str, Any]:
    """An assistant's message in OpenAI's form, its arguments as data."""
    told = [{"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    return {"role": "assistant", "content": text, "tool_calls": told}


_NAMED = "{%- for c in m.tool_calls -%}{%- set f = c.function -%}"
_JSON = "{{ f.arguments | tojson }}"
_ITEMS = "{%- for k, v in f.arguments.items() -%}"
_TEXT = "{{ v if v is string else v | tojson }}"
_LINES = "{%- if not loop.first or m.content -%}{{ '\\n' }}{%- endif -%}"
_CALLED = {
    "hermes": _NAMED
    + _LINES
    + '{{ \'<tool_call>\\n{"name": "\' + f.name + \'", "arguments": \' }}'
    + _JSON
    + "{{ '}\\n</tool_call>' }}{%- endfor -%}",
    "json": _NAMED
    + _LINES
    + '{{ \'<tool_call>{"name": "\' + f.name + \'", "arguments": \' }}'
    + _JSON
    + "{{ '}</tool_call>' }}{%- endfor -%}",
    "qwen3-coder": _NAMED
    + "{%- if loop.first and m.content -%}{{ '\\n\\n' }}{%- elif not loop.first -%}{{ '\\n' }}{%- endif -%}"
    + "{{ '<tool_call>\\n<function=' + f.name + '>\\n' }}"
    + _ITEMS
    + "{{ '<parameter=' + k + '>\\n' }}"
    + "{{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}"
    + "{{ '\\n</parameter>\\n' }}{%- endfor -%}{{ '</function>\\n</tool_call>' }}{%- endfor -%}",
    "llama3": '{%- set f = m.tool_calls[0].function -%}{{ \'{"name": "\' + f.name + \'", "parameters": \' }}'
    + _JSON
    + "{{ '}' }}",
    "mistral": _NAMED + "{{ '[TOOL_CALLS]' + f.name + '[ARGS]' }}" + _JSON + "{%- endfor -%}",
    "mistral-v11": _NAMED + "{{ '[TOOL_CALLS]' + f.name + '[CALL_ID]' + c.id + '[ARGS]' }}" + _JSON + "{%- endfor -%}",
    "deepseek-r1": "{{ '<｜tool▁calls▁begin｜>' }}"
    + _NAMED
    + "{%- if not loop.first -%}{{ '\\n' }}{%- endif -%}"
    + "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + f.name + '\\n```json\\n' }}"
    + _JSON
    + "{{ '\\n```<｜tool▁call▁end｜>' }}{%- endfor -%}{{ '<｜tool▁calls▁end｜>' }}",
    "deepseek-v3.1": "{{ '<｜tool▁calls▁begin｜>' }}"
    + _NAMED
    + "{{ '<｜tool▁call▁begin｜>' + f.name + '<｜tool▁sep｜>' }}"
    + _JSON
    + "{{ '<｜tool▁call▁end｜>' }}{%- endfor -%}{{ '<｜tool▁calls▁end｜>' }}",
    "gpt-oss": "{%- set f = m.tool_calls[0].function -%}"
    + "{{ ' to=functions.' + f.name + '<|channel|>commentary json<|message|>' }}"
    + _JSON
    + "{{ '<|call|>' }}",
    "kimi-k2": "{{ '<|tool_calls_section_begin|>' }}"
    + _NAMED
    + "{{ '<|tool_call_begin|>' + c.id + '<|tool_call_argument_begin|>' }}"
    + _JSON
    + "{{ '<|tool_call_end|>' }}{%- endfor -%}{{ '<|tool_calls_section_end|>' }}",
    "glm-4.7": _NAMED
    + "{{ '<tool_call>' + f.name }}"
    + _ITEMS
    + "{{ '<arg_key>' + k + '</arg_key><arg_value>' }}"
    + _TEXT
    + "{{ '</arg_value>' }}{%- endfor -%}{{ '</tool_call>' }}{%- endfor -%}",
    "glm-4.6": _NAMED
    + _LINES
    + "{{ '<tool_call>' + f.name + '\\n' }}"
    + _ITEMS
    + "{{ '<arg_key>' + k + '</arg_key>\\n<arg_value>' }}"
    + _TEXT
    + "{{ '</arg_value>\\n' }}{%- endfor -%}{{ '</tool_call>' }}{%- endfor -%}",
    "minimax-m2": "{{ '\\n<minimax:tool_call>\\n' }}"
    + _NAMED
    + "{{ '<invoke name=\"' + f.name + '\">\\n' }}"
    + _ITEMS
    + "{{ '<parameter name=\"' + k + '\">' }}"
    + _TEXT
    + "{{ '</parameter>\\n' }}{%- endfor -%}{{ '</invoke>\\n' }}{%- endfor -%}{{ '</minimax:tool_call>' }}",
    "gemma4": "{%- macro value(v) -%}{%- if v is string -%}{{ '<|\"|>' + v + '<|\"|>' }}"
    + "{%- elif v is boolean -%}{{ 'true' if v else 'false' }}"
    + "{%- elif v is mapping -%}{{ '{' }}{%- for k, x in v | dictsort -%}{{ k + ':' }}{{ value(x) }}"
    + "{%- if not loop.last -%},{%- endif -%}{%- endfor -%}{{ '}' }}"
    + "{%- elif v is sequence -%}[{%- for x in v -%}{{ value(x) }}{%- if not loop.last -%},{%- endif -%}{%- endfor -%}]"
    + "{%- else -%}{{ v }}{%- endif -%}{%- endmacro -%}"
    + _NAMED
    + "{{ '<|tool_call>call:' + f.name + '{' }}{%- for k, v in f.arguments | dictsort -%}{{ k + ':' }}{{ value(v) }}"
    + "{%- if not loop.last -%},{%- endif -%}{%- endfor -%}{{ '}<tool_call|>' }}{%- endfor -%}",
    "lfm2": "{{ '<|tool_call_start|>[' }}"
    + _NAMED
    + "{{ f.name + '(' }}{%- for k, v in f.arguments.items() -%}{{ k + '=' }}"
    + '{{ "\'" + v + "\'" if v is string else v | tojson if v is mapping else v | string }}'
    + "{%- if not loop.last -%}{{ ', ' }}{%- endif -%}{%- endfor -%}{{ ')' }}{%- if not loop.last -%}{{ ', ' }}"
    + "{%- endif -%}{%- endfor -%}{{ ']<|tool_call_end|>' }}",
}
for _name, _calls in (("deepseek-v3.2", "function_calls"), ("deepseek-v4", "tool_calls")):
    _CALLED[_name] = (
        "{{ '\\n\\n<｜DSML｜" + _calls + ">\\n' }}" + _NAMED
        + "{{ '<｜DSML｜invoke name=\"' + f.name + '\">\\n' }}" + _ITEMS
        + "{{ '<｜DSML｜parameter name=\"' + k + '\" string=\"' + ('true' if v is string else 'false') + '\">' }}"
        + _TEXT + "{{ '</｜DSML｜parameter>\\n' }}{%- endfor -%}{{ '</｜DSML｜invoke>\\n' }}{%- endfor -%}"
        + "{{ '</｜DSML｜" + _calls + ">' }}"
    )  # fmt: skip


def template_of(family: str) -> sgl.ChatTemplate:
    """A small template that prints calls as the family's own template does."""
    begin = "{%- if m.content -%}{{ '<|channel|>final<|message|>' }}{%- endif -%}" if family == "gpt-oss" else ""
    return sgl.ChatTemplate(
        "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' }}"
        + begin
        + "{%- if m.content -%}{{ m.content }}{%- endif -%}{%- if m.tool_calls -%}"
        + _CALLED[family]
        + "{%- endif -%}{{ '<|im_end|>\\n' }}{%- endfor -%}",
        name=family,
    )


def runtime_with(controls: tuple[str, ...]) -> sgl.Runtime:
    """A toy runtime over single bytes, whose tokenizer has these control tokens."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    texts = ["<|endoftext|>", *(text for text in controls if text != "<|endoftext|>")]
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in texts])
    end = inner.token_to_id("<|endoftext|>")
    tokenizer = Tokenizer(inner, bos_id=end, eos_ids=(end,), add_bos=False, vocab_size=None)
    return sgl.Runtime.of(ToyModel(tokenizer.vocab_size + 5), tokenizer, name="toy")
