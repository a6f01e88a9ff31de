"""Chat templates: a model's jinja source, and running it.

Knows nothing of tokens, of models, or of turns: `conversation.py` renders a conversation as it goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .errors import OptionError
from .sandbox import bounded_render, bounded_template

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A plain ChatML template, without a default system prompt."""


@dataclass(frozen=True)
class ChatTemplate:
    """A model's jinja chat template.

    Args:
        source: the jinja source.
        bos_token: text of the token that begins a text; default empty.
        eos_token: text of the token that ends a text; default empty.
        name: where the template came from, for errors; default "chat template".

    Example:
        >>> import sgl
        >>> template = sgl.ChatTemplate("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}")
        >>> template.render([{"role": "user", "content": "Hello"}])
        '[user] Hello '
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    name: str = "chat template"

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **kwargs: Any) -> str:
        """Render a whole conversation.

        Args:
            messages: mappings with `role` and `content`.
            add_generation_prompt: end with what precedes an assistant's answer; default False.
            **kwargs: further variables of the template (`enable_thinking=False`).

        Returns:
            The text.

        Raises:
            OptionError: the template refuses or fails, in its own words, or it takes too much time or memory.

        Example:
            >>> import sgl
            >>> template = sgl.ChatTemplate("{{ messages[0].content }}{% if polite %} Please.{% endif %}")
            >>> template.render([{"role": "user", "content": "Why?"}], polite=True)
            'Why? Please.'
        """
        import jinja2

        template = self._compiled
        try:
            return bounded_render(
                template,
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                **{"bos_token": self.bos_token, "eos_token": self.eos_token, **kwargs},
            )
        except jinja2.TemplateError as error:
            raise OptionError(f"{self.name}: {error.message or error}") from error
        except (
            TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
        ) as error:  # fmt: skip
            raise OptionError(f"{self.name}: the template failed: {type(error).__name__}: {error}") from error

    @cached_property
    def _compiled(self) -> jinja2.Template:
        import jinja2

        try:
            return bounded_template(self.source, clock(None))
        except jinja2.TemplateSyntaxError as error:
            raise OptionError(f"{self.name}: not a jinja template: {error.message} (line {error.lineno})") from error
        except (jinja2.TemplateError, RecursionError, MemoryError, ArithmeticError, ValueError, TypeError) as error:
            raise OptionError(f"{self.name}: the template cannot be read: {type(error).__name__}: {error}") from error

    @cached_property
    def prints(self) -> TemplatePrints:
        """What the template printed before, for conversations to share."""
        return TemplatePrints()

    @cached_property
    def kept(self) -> int | None:
        """How many messages at the start of a long conversation must be rendered; None: all (see `locality.py`)."""
        from .locality import kept_messages

        return kept_messages(self._compiled.environment, self.source)

    def __getstate__(self) -> dict[str, Any]:  # a compiled template cannot be pickled, and marks are a process's own
        return {name: value for name, value in self.__dict__.items() if name not in ("_compiled", "prints")}


def clock(at: datetime | None) -> Callable[[str], str]:
    """Make the template's `strftime_now`: of the time `at`, or of now."""
    return lambda form: (at or datetime.now()).strftime(form)


class TemplatePrints(dict[tuple[object, ...], list[str]]):
    """What a template prints around contents that are all marks.

    Conversations of the same roles share it, so thousands of them render it once. `nonce` is in every mark; no content
    can spell it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nonce = secrets.token_hex(8)
