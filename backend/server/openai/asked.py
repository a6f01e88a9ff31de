"""Sampling options and constraints of a request in OpenAI's form. Knows nothing of prompts.

What an option may be is the table of `lang/sampling.py`; here its fields have other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ....lang.constraint import Constraint, ebnf, json_schema, regex
from ....lang.errors import ConstraintError, OptionError
from ....lang.sampling import OPTIONS, Sampling, shown
from ....lang.tags.formats import structural_tag
from ..errors import RequestError
from ..fields import flag

MOST_TOP_LOGPROBS = 20
"""As in OpenAI's API."""
_SHARED = frozenset(option.name for option in OPTIONS)
_EXTENSIONS: dict[str, Callable[[Any], Constraint]] = {
    "regex": regex,
    "ebnf": ebnf,
    "json_schema": json_schema,
    "structural_tag": structural_tag,
}


def sampling_of(api: str, body: Mapping[str, Any], default_tokens: int | None, top_logprobs: int | None) -> Sampling:
    """The sampling options of a request.

    `default_tokens`: its `max_tokens`, if it says none; None: what its constraint needs. `top_logprobs`: how many are
    wanted a token; None: no log-probabilities.

    Raises `RequestError` with the field's name.
    """
    names = [name for name in body if name in _SHARED and name not in ("timeout", "return_logprob")]
    given = {name: body[name] for name in names if body[name] is not None}
    own = {"max_tokens": "max_tokens"}
    for name in ("max_completion_tokens", "max_output_tokens"):
        if (most := body.get(name)) is not None:
            if given.get("max_tokens", most) != most:
                raise RequestError(f"{api}: max_tokens and {name} differ; give one of them", param=name)
            given["max_tokens"], own["max_tokens"] = most, name
    if default_tokens is not None:
        given.setdefault("max_tokens", default_tokens)
    if given.get("stop") in ([], ""):
        del given["stop"]
    for name, value in given.items():
        try:
            Sampling.of(api, **{name: value})
        except (OptionError, ConstraintError) as error:
            field = own.get(name, name)
            raise RequestError(str(error).replace(f"{api}: {name}", f"{api}: {field}", 1), param=field) from None
    if top_logprobs is not None:
        given |= {"return_logprob": True, "top_logprobs_num": top_logprobs}
    return Sampling.of(api, **given)


def wants_usage(api: str, body: Mapping[str, Any]) -> bool:
    """Whether a stream is to end with the usage. Raises `RequestError` for wrong `stream_options`."""
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, Mapping) or options.keys() - {"include_usage", "include_obfuscation"}:
        raise RequestError(
            f"{api}: stream_options may have include_usage, got {shown(options)}", param="stream_options"
        )
    if not flag(api, body, "stream"):
        raise RequestError(f"{api}: stream_options needs stream: true", param="stream_options")
    return flag(api, options, "include_usage")


def constraint_field(body: Mapping[str, Any]) -> str:
    """The field of a request that says its constraint."""
    named = next((name for name in (*_EXTENSIONS, "response_format") if body.get(name) is not None), None)
    return named or ("text/format" if isinstance(body.get("text"), Mapping) else "tools")


def constraint_of(api: str, body: Mapping[str, Any]) -> Constraint | None:
    """The constraint that the fields of a request say. Raises `RequestError` with the field and what is wrong in it."""
    found: list[tuple[str, Callable[[], Constraint]]] = []
    for name, make in _EXTENSIONS.items():
        if (value := body.get(name)) is not None:
            found.append((name, partial(make, value)))
    text = body.get("text")
    forms = {"response_format": body.get("response_format")}
    forms["text/format"] = text.get("format") if isinstance(text, Mapping) else None
    for name, form in forms.items():
        if form is not None and not (isinstance(form, Mapping) and form.get("type") == "text"):
            found.append((name, partial(_of_format, form, nested=name == "response_format")))
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise RequestError(f"{api}: {names} together; give one of them", param=found[1][0])
    for name, build in found:
        try:
            return build()
        except (OptionError, ConstraintError) as error:
            raise RequestError(f"{api}: {name}: {error}", param=name, code="invalid_constraint") from None
    return None


def _of_format(form: Any, nested: bool) -> Constraint:
    """`nested`: the schema is one object further down."""
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind == "json_object":
        return json_schema({"type": "object"})
    if kind == "structural_tag":
        return structural_tag(dict(form))
    if kind != "json_schema":
        raise OptionError(
            "it must be an object whose type is 'text', 'json_object', 'json_schema' or 'structural_tag', "
            f"got {shown(form)}"
        )
    inner = form.get("json_schema") if nested else form
    if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), (Mapping, bool)):
        raise OptionError("it must have a name and a schema, and the schema be a JSON Schema")
    return json_schema(inner["schema"])
