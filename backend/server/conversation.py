"""A conversation: messages in, one more message out. Every API that has such a thing reads and writes it here.

An API's own module reads its body into `Said` and `ToolUse`, and writes what `MessageReader` tells in its own form.
Knows nothing of HTTP, nor of any API's fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ...lang.chat import ChatTemplate
from ...lang.constraint import Constraint
from ...lang.errors import OptionError
from ...lang.sampling import Sampling, shown
from ...lang.syntax import CallBegan, CallClosed, CallEvent, CallReader, CallSyntax, TextDelta, ThinkingMode, syntax_of
from ...lang.syntax.matching import shows_tools
from ..base import GenResult
from ..runtime.local import LocalBackend
from ..runtime.text.tokenizer import Tokenizer
from .calling import Calling, ToolUse, prepare
from .errors import RequestError
from .serving import Serving
from .transcripts import ConversationKeys, Said, Transcripts, WrittenMessage, digest
from .turns import Pieces, Turn, cut, rendered_turns
from .work import PromptRequest

_TOOL_ROLE = re.compile(r"""["']tool["']""")
"""What a chat template that knows the role of tools' results has in its source."""
_RESULT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


MOST_TRIED = 2
"""Messages that a conversation may go on from, tried from the last one on: each costs a rendering."""


@dataclass(frozen=True)
class ConversationRequest:
    """A checked request: what the model is asked, and how its message is read.

    `keys`: what was said so far, for `transcripts`, which remember the message.
    """

    ask: PromptRequest
    calling: Calling
    keys: ConversationKeys
    transcripts: Transcripts

    def reader(self) -> MessageReader:
        """A reader of one message."""
        return MessageReader(self)

    def count(self, tokenizer: Tokenizer) -> int:
        """The tokens of the prompt."""
        head, pieces = self.ask.head, cast(Pieces, self.ask.prompt)
        return len(head) + len(tokenizer.encode(pieces, first=not head))

    def remember(self, result: GenResult) -> None:
        """Keep a message's tokens, so that the conversation can go on from them."""
        text, pieces = result.text, cast(Pieces, self.ask.prompt)
        said = []
        calls = []
        for event in self.reader().read(text, result):
            if isinstance(event, TextDelta):
                said.append(event.text)
            elif isinstance(event, CallClosed):
                calls.append(event.call)
        key = self.keys.after(Said("assistant", "".join(said), "", tuple(calls)))
        whole = self.ask.head_text + "".join(text for text, _ in pieces) + text
        written = WrittenMessage(self.ask.head, pieces, text, tuple(result.token_ids), digest(whole), len(whole))
        self.transcripts.put(key, written)


def template_of(api: str, backend: LocalBackend) -> ChatTemplate:
    """The model's chat template. Raises `RequestError` if it has none."""
    if (template := backend.chat_template) is None:
        raise RequestError(f"{api}: this model has no chat template; use /v1/completions, or pass --chat-template")
    return template


def conversation(
    api: str,
    serving: Serving,
    said: Sequence[Said],
    tools: ToolUse,
    sampling: Sampling,
    answer: Constraint | None = None,
    answer_at: str = "tools",
    options: Mapping[str, Any] | None = None,
) -> ConversationRequest:
    """Make the prompt of a conversation, and the constraint of the message that follows.

    Args:
        api: The API's name, for errors.
        serving: What all requests share.
        said: The messages.
        tools: What may be called.
        sampling: The sampling options.
        answer: The constraint of the message's text.
        answer_at: The field that says it, for errors.
        options: Further variables of the chat template.

    Raises:
        RequestError: A message cannot be shown to this model, or a constraint or tool cannot be enforced; it names
            where that stands.
    """
    runtime = serving.runtime
    template = template_of(api, runtime)
    controls = runtime.tokenizer.control_texts
    syntax = syntax_of(template).for_tokens(set(controls))
    turn = sum(1 for message in said if message.calls)
    calling = Calling(syntax, tools.specs, tools.allowed, tools.choice, tools.most, "none", turn)
    options = dict(options or {})
    if calling.specs and shows_tools(template):
        options["tools"] = [spec.openai() for spec in calling.specs]
    keys = ConversationKeys({**options, "specs": [spec.openai() for spec in calling.specs]})
    known = [serving.transcripts.get(key) if m.role == "assistant" else None for m, key in zip(said, keys.each(said))]

    def rendered(raw: Mapping[int, str]) -> Pieces:
        return rendered_turns(template, _turns(api, said, calling, template, raw), controls, **options)

    head, head_text, prompt = _resumed(known, rendered, runtime.tokenizer) or ((), "", rendered({}))
    calling = replace(calling, thinking=_thinking(syntax, prompt, template))
    constraint = calling.constraint(answer)
    prepare(api, answer_at, runtime, constraint, tools.allowed)
    ask = PromptRequest(prompt, sampling, sampling.n or 1, constraint, head, head_text)
    return ConversationRequest(ask, calling, keys, serving.transcripts)


def _resumed(
    known: Sequence[WrittenMessage | None], rendered: Callable[[Mapping[int, str]], Pieces], tokenizer: Tokenizer
) -> tuple[tuple[int, ...], str, Pieces] | None:
    """The prompt that goes on after the last message that is known as it was generated, if the template prints it so:
    its beginning as tokens and as text, and what follows."""
    last = [i for i, written in enumerate(known) if written is not None]
    for end in reversed(last[-MOST_TRIED:]):
        written = cast(WrittenMessage, known[end])
        pieces = rendered({i: cast(WrittenMessage, known[i]).text for i in last if i <= end})
        text = "".join(part for part, _ in pieces)
        if len(text) < written.length or digest(text[: written.length]) != written.whole:
            continue
        head = (*written.head, *tokenizer.encode(written.prompt, first=not written.head), *written.token_ids)
        return head, text[: written.length], cut(pieces, written.length, len(text))
    return None


def reasoning_option(api: str, field: str, backend: LocalBackend, wanted: bool | None) -> dict[str, Any]:
    """What the chat template is told when a request's `field` says whether reasoning is wanted; None: nothing said.

    Raises `RequestError` if the model writes none, or if it cannot be switched off.
    """
    if wanted is None:
        return {}
    template = template_of(api, backend)
    form = syntax_of(template).thinking
    thinks = form is not None and form.begin.strip() in template.source
    if "enable_thinking" in template.source:
        return {"enable_thinking": wanted}
    if wanted and not thinks:
        raise RequestError(f"{api}: {field}: this model writes no reasoning; leave it out", param=field)
    if thinks and not wanted:
        said = f"{api}: {field}: reasoning of this model cannot be switched off: its chat template has no such option"
        raise RequestError(said, param=field)
    return {}


def _thinking(syntax: CallSyntax, prompt: Pieces, template: ChatTemplate) -> ThinkingMode:
    """Whether reasoning comes first: the prompt has begun it, or the template speaks of it."""
    if syntax.thinking is None:
        return "none"
    if syntax.opens_thinking("".join(text for text, _ in prompt[-2:])):
        return "open"
    return "auto" if syntax.thinking.begin.strip() in template.source else "none"


def _turns(
    api: str, said: Sequence[Said], calling: Calling, template: ChatTemplate, raw: Mapping[int, str]
) -> list[Turn]:
    """The turns that the template is rendered with. `raw`: messages whose text as it was written is known."""
    knows_results = _TOOL_ROLE.search(template.source) is not None
    names: dict[str, str] = {}  # of calls, by id
    turns: list[Turn] = []
    results: list[str] = []
    for i, message in enumerate(said):
        if message.role == "tool":
            turn = _result(api, message, names)
            if knows_results:
                turns.append(turn)
            else:
                results.append(message.text)
            continue
        lead = ""
        if results:
            shown_as, text = calling.syntax.result_turn(results)
            results = []
            if shown_as == message.role:  # such turns may not follow one another
                lead = text + "\n"
            else:
                turns.append(Turn(shown_as, [(text, False)]))
        if message.role == "assistant":
            names |= {call.id: call.name for call in message.calls}
            try:
                content = calling.syntax.pieces(message.calls, message.text) if message.calls else None
            except OptionError as error:
                raise RequestError(f"{api}: {message.at}: its calls: {error}", param=message.at) from None
            content = [(raw[i], True)] if i in raw else content or [(message.text, False)]
            turns.append(Turn("assistant", content))
        else:
            turns.append(Turn(message.role, [(lead + message.text, False)]))
    if results:
        shown_as, text = calling.syntax.result_turn(results)
        turns.append(Turn(shown_as, [(text, False)]))
    return _with_tools(turns, calling) if calling.specs and not shows_tools(template) else turns


def _with_tools(turns: list[Turn], calling: Calling) -> list[Turn]:
    """Show the tools at the end of the system's message: the template shows none."""
    told = calling.syntax.prompt(calling.specs)
    if turns[0].role == "system":
        return [Turn("system", [(f"{turns[0].text}\n\n{told}", False)]), *turns[1:]]
    return [Turn("system", [(told, False)]), *turns]


def _result(api: str, message: Said, names: Mapping[str, str]) -> Turn:
    answers = message.answers
    if not isinstance(answers, str) or not _RESULT_ID.fullmatch(answers) or answers not in names:
        where = f"{message.at}/{message.id_at}"
        raise RequestError(
            f"{api}: {where} must be the id of a call in a message before, got {shown(answers)}", param=where
        )
    return Turn("tool", [(message.text, False)], {"name": names[answers], "tool_call_id": answers})


class MessageReader:
    """Reads one message while it is written: reasoning, text, and calls with their arguments.

    `calls`: how many have begun. `finish`: why the message ended: "stop", "length", or "tool_calls".
    """

    def __init__(self, request: ConversationRequest) -> None:
        self._reader: CallReader | None = request.calling.reader(request.ask.constraint)
        self._syntax = request.calling.syntax
        self._held = ""  # what may stand between a text and calls
        self.calls = 0
        self.finish: str | None = None

    def read(self, text: str, result: GenResult | None = None) -> list[CallEvent]:
        """What more text tells. `result` is given with the last of it. Texts in events are never empty."""
        found = [event for event in self._events(text, result is not None) if _says(event)]
        if result is not None:
            kind = result.finish_reason["type"]
            self.finish = "tool_calls" if self.calls and kind == "stop" else str(kind)
        return found

    def _events(self, text: str, done: bool) -> list[CallEvent]:
        if self._reader is None:
            return [TextDelta(text)]
        events = self._reader.feed(text)
        if done:
            events = [*events, *self._reader.close()]
        found = [told for event in events for told in self._told(event)]
        if done:
            found.append(TextDelta(self._held))
            self._held = ""
        return found

    def _told(self, event: CallEvent) -> list[CallEvent]:
        if isinstance(event, TextDelta):
            text = self._held + event.text
            ends = [lead[:i] for lead in (self._syntax.lead, self._syntax.alone) for i in range(len(lead), 0, -1)]
            self._held = max((end for end in ends if text.endswith(end)), key=len, default="")
            return [TextDelta(text[: len(text) - len(self._held)])]
        if isinstance(event, CallBegan):
            self.calls += 1
            held, self._held = self._syntax.content(self._held), ""
            return [TextDelta(held), event]
        return [event]


def _says(event: CallEvent) -> bool:
    return bool(getattr(event, "text", True))
