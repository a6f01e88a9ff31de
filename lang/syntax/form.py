"""The description of how a family of models writes tool calls: texts around names and arguments, as immutable data.

Knows nothing of constraints, of events, or of any one family: `families.py` has the data.

1. A message is thinking, then text, then calls; each part may be missing.
2. The calls of a message are `section[0]`, the calls joined with `separator`, and `section[1]`.
3. A call is `begin`, the name, `id_mark` and an id if the model writes one, `middle`, the arguments, and `end`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Pieces = list[tuple[str, bool]]
"""Text, and whether it is markup: only markup may spell control tokens."""


@dataclass(frozen=True, slots=True)
class JsonArguments:
    """One JSON object, with `", "` and `": "` between its parts, as the template's `tojson` writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedArguments:
    """Each argument between tags. A string stands there as it is, any other value as JSON.

    `key`: the text before and after a name. `text_key`: the same for an argument that is a string, where it differs.
    `end`: the text after a value. `tag`: the part of `end` that no string may contain. `words`: true, false and null
    where the template does not print JSON's.
    """

    key: tuple[str, str]
    end: str
    tag: str
    text_key: tuple[str, str] | None = None
    words: tuple[str, str, str] = ("true", "false", "null")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralArguments:
    """Names and values in a notation of the family's own, that nests.

    `colon`: the text between an argument's name and value, `comma` that between arguments; `inner_colon` and
    `inner_comma` within values. `quote`: what begins and ends a string. `escapes`: whether a backslash escapes in it.
    `key_quote`: what surrounds a key within values. `words`: true, false and null. `ordered`: whether names come in the
    order of the alphabet. `json_objects`: whether an argument that is an object is written as JSON.
    """

    colon: str
    comma: str
    inner_colon: str
    inner_comma: str
    quote: str
    key_quote: str
    words: tuple[str, str, str]
    escapes: bool = False
    ordered: bool = False
    json_objects: bool = False


ArgumentsForm = JsonArguments | TaggedArguments | LiteralArguments


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingForm:
    """What surrounds the reasoning of a message: `begin`, `end`, and `after`, which follows the end.

    `lead`: what the template prints at both ends of a reasoning text.
    """

    begin: str = "<think>"
    end: str = "</think>"
    after: str = ""
    lead: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultForm:
    """How results are shown where the template has no turn for them: in a turn of `role`, each between two texts."""

    begin: str = "<tool_response>\n"
    end: str = "\n</tool_response>"
    separator: str = "\n"
    role: str = "user"


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """How a family of models writes calls.

    `models`: which models these are. `trigger`: the text that opens the calls and that free text never contains; it
    begins `section[0]`, or `begin` where there is no section. `controls`: the texts in the markup that are control
    tokens, where a tokenizer has them. `parallel`: whether a message may hold several calls. `lead`: what the template
    prints between a text and the calls; `alone`: the same where there is no text. `text_begin`: what opens a text
    that no call follows.
    `text_before_calls`: whether a message may hold text and calls. `id_pattern`: the regular expression of ids that the
    model writes; empty where sgl gives the ids. `id_form`: such an id, with `{name}` and, at its end, `{written}`.
    `aliases`: other names.
    """

    name: str
    models: str
    trigger: str
    begin: str
    middle: str
    end: str
    arguments: ArgumentsForm = field(default=JsonArguments())
    controls: tuple[str, ...] = ()
    section: tuple[str, str] = ("", "")
    separator: str = ""
    parallel: bool = True
    lead: str = ""
    alone: str = ""
    text_begin: str = ""
    text_before_calls: bool = True
    thinking: ThinkingForm | None = None
    id_mark: str = ""
    id_pattern: str = ""
    id_form: str = "{written}"
    result: ResultForm = field(default=ResultForm())
    aliases: tuple[str, ...] = ()

    @property
    def marked(self) -> bool:
        """Whether a call begins with a mark of its own, that no JSON begins with."""
        return not self.trigger.startswith("{")

    @property
    def opening(self) -> str:
        """The text from the first call's trigger to its name."""
        return self.section[0] + self.begin

    def id_of(self, name: str, written: str) -> str:
        """The id of a call of the tool `name`, from what a model writes of it."""
        return self.id_form.format(name=name, written=written)
