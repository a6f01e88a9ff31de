"""Reading a message while a model writes it: an incremental reader that follows a family's description.

It relies on the text being in the grammar of the same description, so it guesses nothing: at each place it knows what
can come. It holds back only what may be the beginning of a text that it looks for. Only text that a model has written
goes through a reader: what a user or a tool says is never read as a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..errors import ConstraintError
from ..tools.spec import ToolCall, call_id
from .argument_reading import ArgumentReader, argument_reader
from .events import ArgumentsDelta, CallBegan, CallClosed, CallEvent, TextDelta, ThinkingDelta
from .form import CallForm
from .lowering import ThinkingMode, check_thinking
from .values import overlap

if TYPE_CHECKING:
    from ..tools.spec import ToolSpec


class CallReader:
    """A place in a message. `calls`: those that are complete. `inside_call`: whether one has begun and is not complete.

    Example:
        >>> from sgl.lang.syntax import syntax_named
        >>> from sgl.lang.tools.spec import ToolSpec
        >>> import sgl
        >>> now = ToolSpec("now", "The time.", sgl.json_schema({"type": "object", "properties": {}}))
        >>> reader = syntax_named("mistral").reader([now])
        >>> reader.feed("Let me see.[TOOL_CA")
        [TextDelta(text='Let me see.')]
        >>> [type(event).__name__ for event in reader.feed("LLS]now[ARGS]{}")]
        ['CallBegan', 'ArgumentsDelta', 'CallClosed']
    """

    def __init__(
        self, form: CallForm, specs: Sequence[ToolSpec], *, thinking: ThinkingMode = "none", turn: int = 0
    ) -> None:
        check_thinking(form, thinking)
        self._form, self._turn = form, turn
        self._specs = {spec.name: spec for spec in specs}
        self._may_think = form.thinking is not None and thinking in ("auto", "required")
        self._held = ""
        self._events: list[CallEvent] = []
        self._state: Callable[[], bool] = self._thinking if thinking == "open" else self._start
        self._name = self._id = ""
        self._arguments: ArgumentReader | None = None
        self._began = 0
        self.calls: list[ToolCall] = []

    @property
    def inside_call(self) -> bool:
        return self._began > len(self.calls)

    def feed(self, text: str) -> list[CallEvent]:
        """Read more text.

        Args:
            text: what the model has written since the last call, cut anywhere.

        Returns:
            The events of it. Joined deltas do not depend on how the text was cut.

        Raises:
            ConstraintError: the text is not what the family writes.
        """
        self._held += text
        while self._held and self._state():
            pass
        events, self._events = self._events, []
        return events

    def close(self) -> list[CallEvent]:
        """End the text: what was held back is text, unless a call is cut off. Then the call stays open."""
        held, self._held = self._held, ""
        if self._state in (self._start, self._text, self._next) and held:
            return [TextDelta(held)]
        return [ThinkingDelta(held)] if self._state == self._thinking and held else []

    # -- one state a method; each returns whether it did something
    def _start(self) -> bool:
        """Nothing was read: thinking, text and calls may come."""
        form = self._form
        ways = {form.trigger: self._text, form.alone + form.trigger: self._text}
        if form.text_begin:
            ways[form.text_begin] = self._rest
        if self._may_think and form.thinking is not None:
            ways[form.thinking.begin] = self._thinking
        return self._branch(ways, keep={form.trigger, form.alone + form.trigger}, otherwise=self._text)

    def _thinking(self) -> bool:
        assert self._form.thinking is not None
        before, found = self._until(self._form.thinking.end)
        if before:
            self._events.append(ThinkingDelta(before))
        if found:
            self._may_think = False
            self._state = self._after_thinking
        return found

    def _after_thinking(self) -> bool:
        assert self._form.thinking is not None
        return self._expect(self._form.thinking.end + self._form.thinking.after, self._start)

    def _text(self) -> bool:
        before, found = self._until(self._form.trigger)
        if before:
            self._events.append(TextDelta(before))
        if found:
            self._state = self._opening
        return found

    def _opening(self) -> bool:
        opening = self._form.opening
        if not opening.startswith(self._held[: len(opening)]) and not self._form.marked:
            return self._no_call()
        return self._expect(opening, self._called)

    def _called(self) -> bool:
        """A name comes, with what follows it: an id, or the arguments."""
        form = self._form
        after = form.id_mark if form.id_pattern else form.middle
        texts = {name + after: name for name in self._specs}
        if any(text.startswith(self._held) and text != self._held for text in texts):
            return False
        found = max((text for text in texts if self._held.startswith(text)), key=len, default=None)
        if found is None:
            return self._no_call()
        self._held = self._held[len(found) :]
        self._name = texts[found]
        if form.id_pattern:
            self._state = self._identified
            return True
        return self._begin(call_id(self._turn, self._began))

    def _identified(self) -> bool:
        at = self._held.find(self._form.middle)
        if at < 0:
            return False
        written, self._held = self._held[:at], self._held[at + len(self._form.middle) :]
        return self._begin(self._form.id_of(self._name, written))

    def _begin(self, call: str) -> bool:
        self._id = call
        self._events.append(CallBegan(self._began, self._name, call))
        self._began += 1
        self._arguments = argument_reader(self._form, self._specs[self._name])
        self._state = self._argued
        return True

    def _argued(self) -> bool:
        """The arguments come."""
        assert self._arguments is not None
        try:
            delta, used = self._arguments.read(self._held)
        except ValueError as error:
            self._refuse(str(error))
        self._held = self._held[used:]
        index = len(self.calls)
        if delta:
            self._events.append(ArgumentsDelta(index, delta))
        if not self._arguments.complete:
            return False
        self.calls.append(ToolCall(self._name, self._arguments.value, self._id))
        self._events.append(CallClosed(index, self.calls[-1]))
        self._arguments = None
        self._state = self._ending
        return True

    def _ending(self) -> bool:
        return self._expect(self._form.end, self._next)

    def _next(self) -> bool:
        """A call is complete: another one may come, or the end of the calls."""
        form = self._form
        ways: dict[str, Callable[[], bool]] = {}
        if form.parallel:
            ways[form.separator + form.begin] = self._called
        if form.section[1]:
            ways[form.section[1]] = self._text
        return self._branch(ways, keep=set(), otherwise=self._text)

    # -- what they share
    def _branch(self, ways: dict[str, Callable[[], bool]], keep: set[str], otherwise: Callable[[], bool]) -> bool:
        """Go where one of the texts leads, the longest first. A text in `keep` is not taken away."""
        if any(text.startswith(self._held) and text != self._held for text in ways):
            return False
        text = max((text for text in ways if self._held.startswith(text)), key=len, default=None)
        self._state = otherwise if text is None else ways[text]
        if text is not None and text not in keep:
            self._held = self._held[len(text) :]
        return True

    def _until(self, text: str) -> tuple[str, bool]:
        """Take what comes before `text`, and say whether it was found. A possible beginning of it is held back."""
        at = self._held.find(text)
        if at < 0:
            at = len(self._held) - overlap(self._held, text)
            before, self._held = self._held[:at], self._held[at:]
            return before, False
        before, self._held = self._held[:at], self._held[at:]
        return before, True

    def _expect(self, text: str, then: Callable[[], bool]) -> bool:
        if self._held.startswith(text):
            self._held = self._held[len(text) :]
            self._state = then
            return True
        if not text.startswith(self._held):
            self._refuse(f"{text!r} should come")
        return False

    def _no_call(self) -> bool:
        """What looked like a call is none: an answer in JSON may begin as a call of a family without marks does."""
        if self._form.marked:
            known = ", ".join(self._specs) or "none"
            self._refuse(f"the name of a tool should come (there are: {known})")
        opening = self._form.opening if self._state == self._called else ""
        self._events.append(TextDelta(opening + self._held))
        self._held = ""
        self._state = self._rest
        return True

    def _rest(self) -> bool:
        self._events.append(TextDelta(self._held))
        self._held = ""
        return True

    def _refuse(self, why: str) -> NoReturn:
        raise ConstraintError(
            f"this is no message of the call syntax {self._form.name!r}: {why}, got {self._held!r:.80}"
        )
