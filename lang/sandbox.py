"""A chat template at work: Jinja's sandbox, with bounds on time, on steps and on the size of every value.

A template is foreign code: it comes with a model's files. Jinja's sandbox keeps it from Python's attributes; this
module keeps it from an endless loop and from gigabytes. Knows nothing of conversations.

Each place where a value may grow or work may repeat is guarded *before* it happens: operators, `~`, calls, filters,
loops, and the joining of what is printed.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

RENDER_SECONDS = 2.0
"""One rendering may take so long. An honest one takes milliseconds."""
MOST_STEPS = 1_000_000
"""Loop steps and calls of one rendering."""
LOOK_STEPS = 32
"""The clock is looked at once in so many steps."""
MOST_CHARACTERS = 1 << 24
"""Length of the longest text or list, and of what is printed."""
MOST_WIDTH = 10_000
"""The widest field that a value is padded to."""
MOST_BITS = 1 << 14
"""Of a whole number."""
LONGEST_SOURCE = 1 << 20
"""Characters of a template."""

_WIDE = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:\*|\d{5}|\d*\.(?:\*|\d{5}))")
_WIDE_FIELD = re.compile(r"\{[^{}]*\{|\{[^{}]*\d{5}")
_WIDENING = {
    "center",
    "indent",
    "wordwrap",
    "batch",
    "slice",
    "round",
    "tojson",
    "truncate",
    "pprint",
    "ljust",
    "rjust",
}
_WIDENING_METHODS = {"ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes"}


class _Work:
    """What one rendering has used."""

    __slots__ = ("deadline", "steps")

    def __init__(self) -> None:
        self.deadline = time.monotonic() + RENDER_SECONDS
        self.steps = 0


_working: ContextVar[_Work | None] = ContextVar("sgl_rendering", default=None)


def bounded_template(source: str, strftime: Callable[[str], str]) -> jinja2.Template:
    """Compile a template. Raises Jinja's errors."""
    from jinja2 import TemplateError

    if len(source) > LONGEST_SOURCE:
        raise TemplateError(f"it has {len(source)} characters; at most {LONGEST_SOURCE} are read")
    template: jinja2.Template = _environment(strftime).from_string(source)
    return template


def bounded_render(template: jinja2.Template, **variables: Any) -> str:
    """Render a template within the bounds. Raises Jinja's errors, and those of the template's own operations."""
    before = _working.set(_Work())
    try:
        return template.render(**variables)
    finally:
        _working.reset(before)


def _environment(strftime: Callable[[str], str]) -> Any:
    """Jinja as `transformers` sets it up for chat templates, with the guards."""
    from jinja2 import TemplateError, nodes
    from jinja2.compiler import CodeGenerator, Frame
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(what: str) -> None:
        raise TemplateError(f"the template {what}")

    def check() -> None:
        work = _working.get()
        if work is None:
            return  # Jinja computes constants when it reads a template
        work.steps = steps = work.steps + 1
        if steps > MOST_STEPS:
            refuse(f"makes more than {MOST_STEPS} steps")
        if not steps % LOOK_STEPS and time.monotonic() > work.deadline:
            refuse(f"takes longer than {RENDER_SECONDS:g} s")

    def fits(size: int) -> None:
        if size > MOST_CHARACTERS:
            refuse(f"makes a text or a list of {size} members; at most {MOST_CHARACTERS} are allowed")

    def narrow(values: Iterable[Any]) -> None:
        if any(isinstance(value, int) and abs(value) > MOST_WIDTH for value in values):
            refuse(f"pads a text to more than {MOST_WIDTH} characters")

    def printed(texts: Iterable[str]) -> str:
        out, size = [], 0
        for text in texts:
            size += len(text)
            if size > MOST_CHARACTERS:
                fits(size)
            out.append(text)
        return "".join(out)

    def joined(texts: Iterable[Any]) -> str:
        check()
        return printed([str(text) for text in texts])

    def steps_of(iterable: Any) -> Any:
        if not isinstance(iterable, Sized):
            taken = []
            for item in iterable:
                check()
                taken.append(item)
            iterable = taken
        return _Steps(iterable, check)

    def before_method(name: str, owner: Any, args: tuple[Any, ...], values: list[Any]) -> None:
        """Guard a method of a text."""
        if name in _WIDENING_METHODS:
            narrow(values)
        elif name == "replace" and len(args) >= 2:
            grown(owner, str(args[0]), str(args[1]))
        elif name == "join" and args and isinstance(args[0], Sized):
            fits(len(owner) * len(args[0]))
        elif name in ("format", "format_map") and _WIDE_FIELD.search(owner):
            refuse("formats a wide or nested field")

    def grown(text: str, old: str, new: str) -> None:
        if (len(text) + 1) * len(new) > MOST_CHARACTERS:
            fits((text.count(old) if old else len(text) + 1) * len(new))

    def guarded(name: str, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def filtered(*args: Any, **options: Any) -> Any:
            check()
            values = [*args, *options.values()]
            texts = [value for value in values if isinstance(value, str)]
            if name in _WIDENING:
                narrow(values)
            if name in ("indent", "wordwrap") and len(texts) > 1:
                fits(texts[0].count("\n") * max(map(len, texts[1:])))
            if name == "replace" and len(texts) > 2:
                grown(*texts[:3])
            if name == "join" and texts:
                fits(max(map(len, texts)) * max([len(v) for v in values if isinstance(v, (list, tuple, dict))] or [1]))
            if name == "format" and texts and _WIDE.search(texts[0]):
                refuse("formats a wide field")
            result = func(*args, **options)
            if isinstance(result, (str, list, tuple)):
                fits(len(result))
            return result

        return filtered

    class GenerationTag(Extension):
        """`{% generation %} ... {% endgeneration %}` marks text for training; here it prints its body."""

        tags = {"generation"}  # noqa: RUF012 (jinja's own interface)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Generator(CodeGenerator):
        """Jinja's code, with `~` and loops guarded."""

        def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
            self.write("environment.joined((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

        def visit_For(self, node: nodes.For, frame: Frame) -> None:
            node.iter = nodes.Call(
                nodes.EnvironmentAttribute("steps_of"), [node.iter], [], None, None, lineno=node.lineno
            )
            super().visit_For(node, frame)

    class Environment(ImmutableSandboxedEnvironment):
        code_generator_class = Generator
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "+":
                if type(left) is str and type(right) is str and len(left) + len(right) <= MOST_CHARACTERS:
                    return left + right
                if isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
                    fits(len(left) + len(right))
                return left + right
            check()
            if operator == "*":
                for one, other in ((left, right), (right, left)):
                    if isinstance(one, int) and isinstance(other, Sized):
                        fits(one * len(other))
                if isinstance(left, int) and isinstance(right, int) and _bits(left) + _bits(right) > MOST_BITS:
                    refuse("computes a number that is too large")
            elif operator == "**" and isinstance(left, int) and isinstance(right, int):
                if right > MOST_BITS or _bits(left) * max(right, 0) > MOST_BITS:
                    refuse("computes a number that is too large")
            elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
                refuse("formats a wide field")
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *args: Any, **options: Any) -> Any:
            check()
            owner = getattr(function, "__self__", None)
            if isinstance(owner, (str, int)):
                before_method(function.__name__, owner, args, [*args, *options.values()])
            elif isinstance(inner := getattr(getattr(function, "__wrapped__", None), "__self__", None), str):
                before_method("format", inner, args, [])  # the sandbox wraps this method
            return super().call(context, function, *args, **options)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    def strftime_now(form: str) -> str:
        if not isinstance(form, str) or len(form) > 256 or re.search(r"\d{3}", form):
            refuse("asks for the time in a form that is too wide")
        return strftime(form)

    environment: Any = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.filters = {name: guarded(name, func) for name, func in environment.filters.items() if name != "urlize"}
    environment.steps_of = steps_of
    environment.concat, environment.joined = printed, joined
    environment.globals.pop("lipsum", None)  # texts of any length
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


class _Steps:
    """A list that is walked step by step, each of which is counted."""

    def __init__(self, items: Any, check: Callable[[], None]) -> None:
        self._items, self._check = items, check

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        check = self._check
        for item in self._items:
            check()
            yield item


def _bits(number: int) -> int:
    return number.bit_length()
