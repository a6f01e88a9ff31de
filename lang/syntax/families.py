"""The families: how each writes calls, as data.

Sources: the structural tags of xgrammar 0.2.8 where it has the family, and what published chat templates print.
"""

from __future__ import annotations

from ..errors import OptionError, suggest
from .call_syntax import CallSyntax
from .form import LiteralArguments, ResultForm, TaggedArguments, ThinkingForm

_CALL = ("<tool_call>", "</tool_call>")
_THINK = ThinkingForm()
_THINK_LINES = ThinkingForm(after="\n\n", lead="\n")
_JSON_CALL = '{"name": "'

HERMES = CallSyntax(
    name="hermes",
    aliases=("qwen3", "qwen2.5", "qwen3-next", "granite4"),
    models="Hermes 2 Pro and 3, Qwen2.5, Qwen3, QwQ, Granite 4",
    trigger="<tool_call>",
    begin="<tool_call>\n" + _JSON_CALL,
    middle='", "arguments": ',
    end="}\n</tool_call>",
    controls=_CALL,
    separator="\n",
    lead="\n",
    thinking=_THINK_LINES,
)
PLAIN = CallSyntax(
    name="json",
    aliases=("plain", "smollm2", "exaone"),
    models="models whose chat template knows no tools, such as SmolLM2; EXAONE 4",
    trigger="<tool_call>",
    begin="<tool_call>" + _JSON_CALL,
    middle='", "arguments": ',
    end="}</tool_call>",
    controls=_CALL,
    separator="\n",
    lead="\n",
    thinking=_THINK_LINES,
    result=ResultForm(begin="The tool says: ", end=""),  # a small model copies tags, and answers to a sentence
)
QWEN_CODER = CallSyntax(
    name="qwen3-coder",
    aliases=("qwen3.5", "qwen3.6", "nemotron3"),
    models="Qwen3-Coder, Qwen3.5, Qwen3.6, Nemotron 3",
    trigger="<tool_call>",
    begin="<tool_call>\n<function=",
    middle=">\n",
    end="</function>\n</tool_call>",
    arguments=TaggedArguments(
        key=("<parameter=", ">\n"), end="\n</parameter>\n", tag="</parameter>", words=("True", "False", "None")
    ),
    controls=_CALL,
    separator="\n",
    lead="\n\n",
    thinking=_THINK_LINES,
)
LLAMA = CallSyntax(
    name="llama3",
    aliases=("llama3.1", "llama3.2", "llama3.3"),
    models="Llama 3.1, 3.2 and 3.3",
    trigger=_JSON_CALL,
    begin=_JSON_CALL,
    middle='", "parameters": ',
    end="}",
    parallel=False,
    text_before_calls=False,
)
MISTRAL = CallSyntax(
    name="mistral",
    aliases=("mistral-v13", "ministral3", "devstral"),
    models="Mistral models of tokenizer version 13 on: Devstral, Magistral, Ministral 3",
    trigger="[TOOL_CALLS]",
    begin="[TOOL_CALLS]",
    middle="[ARGS]",
    end="",
    controls=("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
    thinking=ThinkingForm(begin="[THINK]", end="[/THINK]"),
)
MISTRAL_V11 = CallSyntax(
    name="mistral-v11",
    aliases=("mistral-small-3",),
    models="Mistral models of tokenizer version 11: Mistral Small 3.1 and 3.2",
    trigger="[TOOL_CALLS]",
    begin="[TOOL_CALLS]",
    id_mark="[CALL_ID]",
    id_pattern="[a-zA-Z0-9]{9}",
    middle="[ARGS]",
    end="",
    controls=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
)
_DEEPSEEK = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
)  # fmt: skip
_DEEPSEEK_SECTION = (_DEEPSEEK[0], _DEEPSEEK[1])
_DEEPSEEK_RESULT = ResultForm(begin="<｜tool▁output▁begin｜>", end="<｜tool▁output▁end｜>", separator="")
DEEPSEEK_R1 = CallSyntax(
    name="deepseek-r1",
    models="DeepSeek R1 and its distilled models",
    trigger=_DEEPSEEK[0],
    section=_DEEPSEEK_SECTION,
    begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    middle="\n```json\n",
    end="\n```<｜tool▁call▁end｜>",
    controls=_DEEPSEEK,
    separator="\n",
    thinking=_THINK,
)
DEEPSEEK_V3_1 = CallSyntax(
    name="deepseek-v3.1",
    models="DeepSeek V3.1 and V3.2-Exp",
    trigger=_DEEPSEEK[0],
    section=_DEEPSEEK_SECTION,
    begin="<｜tool▁call▁begin｜>",
    middle="<｜tool▁sep｜>",
    end="<｜tool▁call▁end｜>",
    controls=_DEEPSEEK,
    thinking=_THINK,
)


def _dsml(name: str, models: str, calls: str) -> CallSyntax:
    parameter = '<｜DSML｜parameter name="'
    return CallSyntax(
        name=name,
        models=models,
        trigger=f"<｜DSML｜{calls}>",
        section=(f"<｜DSML｜{calls}>\n", f"</｜DSML｜{calls}>"),
        begin='<｜DSML｜invoke name="',
        middle='">\n',
        end="</｜DSML｜invoke>\n",
        arguments=TaggedArguments(
            key=(parameter, '" string="false">'),
            text_key=(parameter, '" string="true">'),
            end="</｜DSML｜parameter>\n",
            tag="</｜DSML｜parameter>",
        ),
        controls=("｜DSML｜",),
        lead="\n\n",
        alone="\n\n",
        thinking=_THINK,
    )


DEEPSEEK_V3_2 = _dsml("deepseek-v3.2", "DeepSeek V3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "DeepSeek V4", "tool_calls")
HARMONY = CallSyntax(
    name="gpt-oss",
    aliases=("harmony",),
    models="gpt-oss",
    trigger=" to=functions.",
    begin=" to=functions.",
    middle="<|channel|>commentary json<|message|>",
    end="<|call|>",
    controls=("<|channel|>", "<|message|>", "<|call|>", "<|end|>", "<|start|>"),
    parallel=False,
    text_before_calls=False,
    text_begin="<|channel|>final<|message|>",
    thinking=ThinkingForm(begin="<|channel|>analysis<|message|>", end="<|end|>", after="<|start|>assistant"),
)
GEMMA = CallSyntax(
    name="gemma4",
    aliases=("gemma-4",),
    models="Gemma 4",
    trigger="<|tool_call>",
    begin="<|tool_call>call:",
    middle="{",
    end="}<tool_call|>",
    arguments=LiteralArguments(
        colon=":",
        comma=",",
        inner_colon=":",
        inner_comma=",",
        quote='<|"|>',
        key_quote="",
        words=("true", "false", "None"),
        ordered=True,
    ),
    controls=("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
    thinking=ThinkingForm(begin="<|channel>thought\n", end="<channel|>", lead="\n"),
)
KIMI = CallSyntax(
    name="kimi-k2",
    aliases=("kimi-k2.5", "kimi"),
    models="Kimi K2 and K2.5",
    trigger="<|tool_calls_section_begin|>",
    section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    begin="<|tool_call_begin|>functions.",
    id_mark=":",
    id_pattern="[0-9]+",
    id_form="functions.{name}:{written}",
    middle="<|tool_call_argument_begin|>",
    end="<|tool_call_end|>",
    controls=(
        "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>",
        "<|tool_call_argument_begin|>",
    ),
    thinking=_THINK,
)  # fmt: skip
LFM2 = CallSyntax(
    name="lfm2",
    aliases=("lfm2.5",),
    models="LFM2 and LFM2.5",
    trigger="<|tool_call_start|>",
    section=("<|tool_call_start|>[", "]<|tool_call_end|>"),
    begin="",
    middle="(",
    end=")",
    arguments=LiteralArguments(
        colon="=",
        comma=", ",
        inner_colon=": ",
        inner_comma=", ",
        quote="'",
        key_quote="'",
        words=("True", "False", "None"),
        escapes=True,
        json_objects=True,
    ),
    controls=("<|tool_call_start|>", "<|tool_call_end|>"),
    separator=", ",
    thinking=_THINK,
)
_ARG = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
GLM_4_7 = CallSyntax(
    name="glm-4.7",
    aliases=("glm-5",),
    models="GLM 4.7 and 5",
    trigger="<tool_call>",
    begin="<tool_call>",
    middle="",
    end="</tool_call>",
    arguments=TaggedArguments(key=("<arg_key>", "</arg_key><arg_value>"), end="</arg_value>", tag="</arg_value>"),
    controls=(*_CALL, *_ARG),
    thinking=_THINK,
    result=ResultForm(begin="<tool_response>", end="</tool_response>", separator=""),
)
GLM_4_6 = CallSyntax(
    name="glm-4.6",
    aliases=("glm-4.5",),
    models="GLM 4.5 and 4.6",
    trigger="<tool_call>",
    begin="<tool_call>",
    middle="\n",
    end="</tool_call>",
    arguments=TaggedArguments(key=("<arg_key>", "</arg_key>\n<arg_value>"), end="</arg_value>\n", tag="</arg_value>"),
    controls=(*_CALL, *_ARG),
    separator="\n",
    lead="\n",
    thinking=ThinkingForm(after="\n"),
)
MINIMAX = CallSyntax(
    name="minimax-m2",
    aliases=("minimax",),
    models="MiniMax M2, M2.5 and M2.7",
    trigger="<minimax:tool_call>",
    section=("<minimax:tool_call>\n", "</minimax:tool_call>"),
    begin='<invoke name="',
    middle='">\n',
    end="</invoke>\n",
    arguments=TaggedArguments(key=('<parameter name="', '">'), end="</parameter>\n", tag="</parameter>"),
    controls=("<minimax:tool_call>", "</minimax:tool_call>"),
    lead="\n",
    alone="\n",
    thinking=_THINK_LINES,
    result=ResultForm(begin="<response>", end="</response>"),
)

FAMILIES: tuple[CallSyntax, ...] = (
    HERMES, QWEN_CODER, LLAMA, MISTRAL, MISTRAL_V11, DEEPSEEK_R1, DEEPSEEK_V3_1, DEEPSEEK_V3_2, DEEPSEEK_V4, HARMONY,
    GEMMA, KIMI, LFM2, GLM_4_7, GLM_4_6, MINIMAX, PLAIN,
)  # fmt: skip
"""All families that are known."""


def syntax_named(name: str) -> CallSyntax:
    """Find a call syntax by name.

    Args:
        name: the name of a family, or another one that it goes by, such as "qwen3".

    Returns:
        The syntax.

    Raises:
        OptionError: no family has the name; the message lists them.

    Example:
        >>> from sgl.lang.syntax import syntax_named
        >>> syntax_named("qwen3").name
        'hermes'
    """
    names = named_families()
    if not isinstance(name, str) or name.lower() not in names:
        known = ", ".join(sorted(family.name for family in FAMILIES))
        raise OptionError(f"no call syntax is called {name!r:.60}; there are: {known}{suggest(str(name), names)}")
    return names[name.lower()]


def named_families() -> dict[str, CallSyntax]:
    """The families by each of their names."""
    return {name: family for family in FAMILIES for name in (family.name, *family.aliases)}
