"""`CallSyntax`: one description of how a family of models writes calls, and what follows from it.

It constrains (`constraint`), writes (`render`, `pieces`) and reads (`reader`) calls, and shows tools and results to
models whose chat template has no place for them. Knows nothing of tokens, nor of how a constraint is enforced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..constraint import Constraint
from ..kept import kept
from .form import CallForm, Pieces
from .lowering import ThinkingMode, lower
from .reading import CallReader
from .showing import shown_results, shown_tools
from .writing import calls_pieces, message_pieces

if TYPE_CHECKING:
    from ..tools.spec import ToolCall, ToolSpec


@dataclass(frozen=True, kw_only=True)
class CallSyntax(CallForm):
    """How a family of models writes tool calls (`CallForm` has the data).

    Example:
        >>> from sgl.lang.syntax import syntax_named
        >>> from sgl.lang.tools.spec import ToolCall
        >>> print(syntax_named("qwen3").render([ToolCall("add", {"a": 1, "b": 2}, "c00000000")]))
        <tool_call>
        {"name": "add", "arguments": {"a": 1, "b": 2}}
        </tool_call>
    """

    def constraint(
        self,
        specs: Sequence[ToolSpec],
        *,
        choice: Literal["auto", "required", "none"] | str = "auto",
        calls: tuple[int, int | None] = (1, None),
        answer: Constraint | None = None,
        thinking: ThinkingMode = "none",
    ) -> Constraint:
        """Make the constraint of a message: text or calls, with the arguments of each tool by its schema.

        Args:
            specs: the tools that may be called; a subset of those shown to the model is fine.
            choice: "auto" (text, calls, or text and then calls), "required" (calls at once), "none" (text), or the name
                of the one tool that must be called; default "auto".
            calls: how many calls come at least and at most, where any come; None is no limit; default one or more. Of a
                family that writes one call a message, one.
            answer: what stands in the place of text, such as a schema of the final answer; default free text.
            thinking: whether reasoning comes first: "none" (default), "auto" (it may), "required", or "open" (the
                prompt has begun it).

        Returns:
            A constraint.

        Raises:
            OptionError: `choice` or `thinking` is none of these, or `calls` no counts.
            ConstraintError: two tools have one name, there is none to call, the family cannot write so many calls, or
                the family's notation cannot carry a schema (the message names tool, place and keyword).

        Example:
            >>> import sgl
            >>> from sgl.lang.syntax import syntax_named
            >>> from sgl.lang.tools.spec import ToolSpec
            >>> now = ToolSpec("now", "The time.", sgl.json_schema({"type": "object", "properties": {}}))
            >>> syntax_named("qwen3").for_tokens(()).constraint([now], choice="required").kind
            'repeat'
        """
        counts = tuple(calls) if isinstance(calls, list) else calls
        return _constraint(self, tuple(specs), choice, counts, answer, thinking)

    def render(self, calls: Sequence[ToolCall], text: str = "", thinking: str = "") -> str:
        """Write a message as the family's chat template writes it, without what surrounds a turn.

        Args:
            calls: the calls, in order.
            text: what is said before them; default nothing.
            thinking: the reasoning; default none.

        Returns:
            The text.

        Raises:
            ConstraintError: the notation cannot spell a value, such as a text with the closing tag in it.
            OptionError: an id is not of the family's form, or there are more calls than it writes in one message.

        Example:
            >>> from sgl.lang.syntax import syntax_named
            >>> from sgl.lang.tools.spec import ToolCall
            >>> syntax_named("mistral").render([ToolCall("now", {}, "c00000000")], "Let me see.")
            'Let me see.[TOOL_CALLS]now[ARGS]{}'
        """
        return "".join(text for text, _ in self.pieces(calls, text, thinking))

    def pieces(self, calls: Sequence[ToolCall], text: str = "", thinking: str = "") -> Pieces:
        """Write a message like `render`, as pieces (text, whether it is markup); only markup spells control tokens."""
        return message_pieces(self, calls, text, thinking)

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """Write the calls alone, from the trigger on."""
        return "".join(text for text, _ in calls_pieces(self, calls))

    def reader(self, specs: Sequence[ToolSpec], *, thinking: ThinkingMode = "none", turn: int = 0) -> CallReader:
        """Make a reader of one message that a model writes under this syntax's constraint.

        Args:
            specs: the tools of the constraint.
            thinking: as in `constraint`; default "none".
            turn: how many messages with calls came before, of which ids are made; default 0.

        Returns:
            A reader with `feed(text)` and `close()`, which return events.
        """
        return CallReader(self, specs, thinking=thinking, turn=turn)

    def content(self, text: str) -> str:
        """The text of a message as its author means it: without what stands between a text and the calls after it."""
        lead = next((lead for lead in (self.lead, self.alone) if lead and text.endswith(lead)), "")
        return text.removesuffix(lead)

    def opens_thinking(self, prompt: str) -> bool:
        """Whether a prompt ends within reasoning that it has begun, as some templates' generation prompts do."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking.begin.rstrip())

    def for_tokens(self, known: Collection[str] | Callable[[str], bool]) -> CallSyntax:
        """The same syntax for a tokenizer: of `controls` only those that it has as tokens of their own.

        Args:
            known: the texts of such tokens, or a function that says whether a text is one.
        """
        has = known if callable(known) else known.__contains__
        return replace(self, controls=tuple(text for text in self.controls if has(text)))

    def prompt(self, specs: Sequence[ToolSpec]) -> str:
        """Write a system text that shows the tools and how to call them, for templates that do not show any."""
        return shown_tools(self, specs)

    def result_turn(self, results: Sequence[str]) -> tuple[str, str]:
        """Write the turn (role, text) that shows results, in the order of their calls, where there is no tool role."""
        return shown_results(self, results)


@kept(256)
def _constraint(
    syntax: CallSyntax,
    specs: tuple[ToolSpec, ...],
    choice: str,
    calls: tuple[int, int | None],
    answer: Constraint | None,
    thinking: ThinkingMode,
) -> Constraint:
    return lower(syntax, specs, choice=choice, calls=calls, answer=answer, thinking=thinking)
