"""The constraint of a message that may hold calls, from the description of a family.

Knows nothing of how a constraint is enforced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from ..constraint import Constraint, Exactly, JsonSchema, Regex, Sequenced
from ..errors import ConstraintError, OptionError, suggest
from ..structure import free_text, repeat
from .arguments import arguments_constraint
from .form import CallForm
from .markup import any_of, joined

if TYPE_CHECKING:
    from ..tools.spec import ToolSpec

ThinkingMode = Literal["none", "auto", "required", "open"]


def lower(
    form: CallForm,
    specs: Sequence[ToolSpec],
    *,
    choice: str,
    calls: tuple[int, int | None],
    answer: Constraint | None,
    thinking: ThinkingMode,
) -> Constraint:
    """Make the constraint of a message (see `CallSyntax.constraint`)."""
    check_thinking(form, thinking)
    specs = _chosen(specs, choice)
    if choice == "none" or (choice == "auto" and not specs):
        body = _said(form, answer)
    elif choice == "auto":
        body = _either(form, specs, _counts(form, calls), answer)
    else:
        body = joined(form, form.alone, _calls(form, specs, _counts(form, calls)))
    return joined(form, *_thought(form, thinking), body)


def check_thinking(form: CallForm, thinking: object) -> None:
    """Raise `OptionError` for a mode that does not exist, or that the family does not have."""
    if thinking not in get_args(ThinkingMode):
        modes = ", ".join(map(repr, get_args(ThinkingMode)))
        raise OptionError(f"thinking must be one of {modes}, got {thinking!r:.60}")
    if thinking in ("required", "open") and form.thinking is None:
        raise OptionError(f"thinking={thinking!r}: models of {form.name!r} write no reasoning; say 'none' or 'auto'")


def _chosen(specs: Sequence[ToolSpec], choice: object) -> Sequence[ToolSpec]:
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConstraintError(f"two tools are called {twice!r}; rename one")
    if choice in ("auto", "none"):
        return specs
    if not isinstance(choice, str):
        raise OptionError(f"choice must be 'auto', 'required', 'none' or the name of a tool, got {choice!r:.60}")
    if choice == "required":
        if not specs:
            raise ConstraintError("choice='required' without tools: there is nothing to call")
        return specs
    if choice not in names:
        known = ", ".join(names) or "none"
        raise OptionError(f"choice={choice!r} is no tool; there are: {known}{suggest(choice, names)}")
    return [specs[names.index(choice)]]


def _counts(form: CallForm, calls: tuple[int, int | None]) -> tuple[int, int | None]:
    least, most = calls if isinstance(calls, (tuple, list)) and len(calls) == 2 else (None, None)
    for count in (least, 1 if most is None else most):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise OptionError(f"calls must be two counts (least, most), such as (1, 3) or (1, None), got {calls!r:.60}")
    assert least is not None
    least = max(least, 1)  # how many there are where there are any
    if most is not None and most < least:
        raise OptionError(f"calls={calls!r}: at most {most} calls cannot be at least {least}; choice='none' bars calls")
    if form.parallel:
        return least, most
    if least > 1:
        raise ConstraintError(f"calls={calls!r}: models of {form.name!r} write one call in a message; say calls=(1, 1)")
    return 1, 1


def _text(form: CallForm) -> Constraint:
    """Free text that opens neither a call nor a reasoning. Where a mark opens the text, it may hold anything."""
    if form.text_begin:
        return free_text()
    return free_text([form.trigger, *((form.thinking.begin, form.thinking.end) if form.thinking else ())])


def _said(form: CallForm, answer: Constraint | None) -> Constraint:
    return joined(form, form.text_begin, _text(form) if answer is None else answer)


def _either(
    form: CallForm, specs: Sequence[ToolSpec], counts: tuple[int, int | None], answer: Constraint | None
) -> Constraint:
    if answer is not None and not form.marked and _begins_with_json(answer):
        raise ConstraintError(
            f"answer: models of {form.name!r} write calls as JSON without a mark, so an answer in JSON could be one; "
            "write a text before it, as in answer='Answer: ' + sgl.schema(...), or let the answer be a tool"
        )
    calls = _calls(form, specs, counts)
    if answer is None and form.text_before_calls:
        return joined(form, form.text_begin, _text(form), repeat(calls, 0, 1))
    return any_of([joined(form, form.alone, calls), _said(form, answer)])


def _begins_with_json(constraint: Constraint) -> bool:
    if isinstance(constraint, (JsonSchema, Exactly)):
        return isinstance(constraint, JsonSchema) or constraint.text.startswith("{")
    return any(map(_begins_with_json, constraint.inner[: 1 if isinstance(constraint, Sequenced) else None]))


def _calls(form: CallForm, specs: Sequence[ToolSpec], counts: tuple[int, int | None]) -> Constraint:
    call = joined(form, form.begin, any_of([_call(form, spec) for spec in specs]), form.end)
    least, most = counts
    many = call if most == 1 else repeat(call, least, most, separator=form.separator)
    return joined(form, form.section[0], many, form.section[1])


def _call(form: CallForm, spec: ToolSpec) -> Constraint:
    """What follows the beginning of a call: the name, an id, the arguments."""
    model_id = (form.id_mark, Regex(form.id_pattern)) if form.id_pattern else ()
    return joined(form, Exactly(spec.name), *model_id, form.middle, arguments_constraint(form, spec))


def _thought(form: CallForm, thinking: ThinkingMode) -> list[Constraint | str]:
    if form.thinking is None or thinking == "none":
        return []
    inner = free_text([form.thinking.end])
    end = form.thinking.end + form.thinking.after
    if thinking == "open":
        return [inner, end]
    whole = joined(form, form.thinking.begin, inner, end)
    return [whole] if thinking == "required" else [repeat(whole, 0, 1)]
