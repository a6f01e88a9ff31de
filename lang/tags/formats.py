"""The formats of structural tags as constraints: free text, tags in it, JSON Schemas, and how they join.

Owns: reading both forms, and which texts each type of format has. Knows nothing of tokens.

1. Nothing is handed to xgrammar: JSON parts are lowered as `json_schema=` is.
2. What has no exact constraint is refused with a JSON pointer and the type of the format.
3. Free text within a tag ends where one of the tag's ends begins, and it never holds a control token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from .. import constraint as constraints
from ..constraint import Constraint, Control, Either, Exactly, Repeated, Sequenced
from ..errors import ConstraintError, suggest
from ..structure import control, free_text, repeat
from .parameters import STYLES, parameters


def structural_tag(tag: object) -> Constraint:
    """The constraint of a structural tag, as xgrammar, SGLang and vLLM take it.

    Args:
        tag: `{"type": "structural_tag", "format": {...}}`, or the older `{"structures": [{"begin", "schema", "end"}],
            "triggers": [...]}`; as a mapping, as JSON text, or as an object of pydantic (xgrammar's `StructuralTag`).

    Returns:
        A constraint; `+` and `|` join it with others and with strings.

    Raises:
        ConstraintError: it is no structural tag, or has a format that cannot be enforced exactly; the message has a
            JSON pointer to it and its type.

    Example:
        >>> import sgl
        >>> call = {"begin": "<n>", "content": {"type": "regex", "pattern": "[0-9]+"}, "end": "</n>"}
        >>> tags = {"type": "triggered_tags", "triggers": ["<n>"], "tags": [call]}
        >>> sgl.structural_tag({"type": "structural_tag", "format": tags}).parse("It is <n>12</n>.")
        'It is <n>12</n>.'
    """
    data = _plain(tag)
    if data.get("type", "structural_tag") != "structural_tag":
        _refuse("/type", None, f'must be "structural_tag", got {data["type"]!r:.60}')
    if "structures" in data:
        return _triggered("", _of_structures(data), ())
    if "format" not in data:
        _refuse("", None, "needs a format (or, in the older form, structures and triggers)")
    return _lowered("/format", data["format"], ())


def _plain(tag: object) -> Mapping[str, Any]:
    if isinstance(tag, str):
        try:
            tag = json.loads(tag)
        except (ValueError, RecursionError) as error:
            _refuse("", None, f"this is not JSON: {error}")
    if not isinstance(tag, (Mapping, type)) and hasattr(tag, "model_dump"):
        tag = tag.model_dump(by_alias=True)
    if not isinstance(tag, Mapping):
        _refuse("", None, f"must be a mapping, JSON text or a StructuralTag, got {tag!r:.80}")
    return tag


def _of_structures(data: Mapping[str, Any]) -> Mapping[str, Any]:
    tags = []
    for number, each in enumerate(_list("", data, "structures")):
        where = f"/structures/{number}"
        schema = _of("", where, each, "schema")
        schema = json.loads(schema) if isinstance(schema, str) else schema
        if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        content = {"type": "json_schema", "json_schema": schema}
        tags.append({"begin": _of("", where, each, "begin"), "content": content, "end": _of("", where, each, "end")})
    return {"tags": tags, "triggers": data.get("triggers")}


def _refuse(where: str, type: str | None, why: str) -> NoReturn:
    raise ConstraintError(f"structural_tag: {where or '(root)'}{f' ({type})' if type else ''}: {why}")


def _of(type: str, where: str, data: object, name: str) -> Any:
    """A field that must be there."""
    if not isinstance(data, Mapping):
        _refuse(where, type, f"must be a mapping, got {data!r:.60}")
    if name not in data:
        _refuse(where, type, f"has no {name!r}")
    return data[name]


def _list(where: str, data: Mapping[str, Any], name: str, least: int = 1) -> list[Any]:
    found = _of(str(data.get("type", "")), where, data, name)
    if not isinstance(found, (list, tuple)) or len(found) < least:
        _refuse(f"{where}/{name}", None, f"must be a list with at least {least} in it, got {found!r:.60}")
    return list(found)


def _texts(where: str, data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = tuple(data.get(name) or ())
    for text in found:
        if not isinstance(text, str) or not text:
            _refuse(f"{where}/{name}", data.get("type"), f"must be texts that are not empty, got {text!r:.60}")
    return found


Ends = tuple[str, ...]
"""The texts that end the tag around a format, if the format is the last thing in it."""
_Lower = Callable[[str, Mapping[str, Any], Ends], Constraint]


def _lowered(where: str, data: object, ends: Ends) -> Constraint:
    kind = _of("", where, data, "type")
    assert isinstance(data, Mapping)
    if not isinstance(kind, str) or kind not in _FORMATS:
        _refuse(where, None, f"unknown type {kind!r:.60}{suggest(str(kind), list(_FORMATS))}")
    try:
        return _FORMATS[kind](where, data, ends)
    except ConstraintError as error:
        if str(error).startswith("structural_tag: "):
            raise
        _refuse(where, kind, str(error))
    except RecursionError:
        _refuse(where, kind, "is nested too deeply")


# ---------------------------------------------------------------------------------------------------------- contents


def _constant(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    value = _of("const_string", where, data, "value")
    if not isinstance(value, str):
        _refuse(f"{where}/value", "const_string", f"must be a text, got {value!r:.60}")
    return Exactly(value)


def _json_schema(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    schema, kind = _of("json_schema", where, data, "json_schema"), data["type"]
    style = data.get("style", "json") if kind == "json_schema" else "qwen_xml"
    if data.get("excludes"):
        _refuse(f"{where}/excludes", kind, "is not carried out; say it with a pattern in the schema")
    if data.get("max_whitespace_cnt") == 0:
        _refuse(f"{where}/max_whitespace_cnt", kind, "JSON may have a blank after a comma or colon; 1 or more is taken")
    if style == "json":
        return constraints.json_schema(schema)
    if style not in STYLES:
        known = ", ".join(("json", *STYLES))
        _refuse(f"{where}/style", kind, f"{style!r:.60} is not carried out; those that are: {known}")
    try:
        return parameters(schema, style)
    except ConstraintError as error:
        _refuse(f"{where}/json_schema", kind, str(error))


def _any_text(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    _no_tokens(where, data)
    without = (*_texts(where, data, "excludes"), *ends)
    most = data.get("max_chars")
    if most is None:
        return free_text(without)
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        _refuse(f"{where}/max_chars", "any_text", f"must be a number from 0 on, got {most!r:.60}")
    barred = f"(?!{'|'.join(map(re.escape, without))})" if without else ""
    return constraints.regex(f"(?s:(?:{barred}.){{0,{most}}})") if most else Exactly("")


def _any_tokens(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    _no_tokens(where, data)
    return free_text((*_token_texts(where, data, "exclude_tokens"), *ends))


def _no_tokens(where: str, data: Mapping[str, Any]) -> None:
    if data.get("max_tokens") is not None:
        _refuse(f"{where}/max_tokens", data["type"], "a part has no budget of tokens; say max_chars")


def _token(where: str, data: object, type: str = "token") -> Constraint:
    text = _of(type, where, data, "token") if isinstance(data, Mapping) else data
    if not isinstance(text, str):
        _refuse(where, type, f"a token is named by its text, got {text!r:.60}")
    return control(text)


def _token_texts(where: str, data: Mapping[str, Any], name: str) -> Ends:
    tokens = (_token(f"{where}/{name}/{i}", each) for i, each in enumerate(data.get(name) or ()))
    return tuple(token.text for token in tokens if isinstance(token, Control))


def _not_lowered(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    _refuse(where, data["type"], "has no constraint of ours: which tokens spell a text is the model's; say any_text")


# ------------------------------------------------------------------------------------------------------------- joined


def _sequence(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    elements = _list(where, data, "elements")
    last = len(elements) - 1
    return _joined(_lowered(f"{where}/elements/{i}", e, ends if i == last else ()) for i, e in enumerate(elements))


def _joined(parts: Any) -> Constraint:
    found = tuple(parts)
    return found[0] if len(found) == 1 else Sequenced(found)


def _either(branches: list[Constraint]) -> Constraint:
    found = tuple(dict.fromkeys(branches))
    return found[0] if len(found) == 1 else Either(found)


def _or(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    return _either([_lowered(f"{where}/elements/{i}", e, ends) for i, e in enumerate(_list(where, data, "elements"))])


def _times(least: int, most: int | None) -> _Lower:
    def lower(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
        content = _lowered(f"{where}/content", _of(data["type"], where, data, "content"), ends)
        return repeat(content, least, most)

    return lower


def _repeat(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    least, most = _of("repeat", where, data, "min"), _of("repeat", where, data, "max")
    content = _lowered(f"{where}/content", _of("repeat", where, data, "content"), ends)
    return Exactly("") if most == 0 == least else repeat(content, least, None if most == -1 else most)


# --------------------------------------------------------------------------------------------------------------- tags


class _Call(NamedTuple):
    """A tag in free text: the text or token that begins it, and all that follows."""

    begin: Constraint
    rest: Constraint


def _begin(where: str, tag: object) -> Constraint:
    begin = _of("tag", where, tag, "begin")
    if isinstance(begin, str):
        return Exactly(begin)
    return _token(f"{where}/begin", begin)


def _rest(where: str, tag: Mapping[str, Any]) -> Constraint:
    """The content of a tag and its end."""
    end = _of("tag", where, tag, "end")
    texts: tuple[Any, ...] = (end,) if isinstance(end, str) else tuple(end) if isinstance(end, (list, tuple)) else ()
    if not all(isinstance(text, str) for text in texts) or (not texts and isinstance(end, (list, tuple))):
        _refuse(f"{where}/end", "tag", f"must be a text, texts or a token, got {end!r:.60}")
    content = _lowered(f"{where}/content", _of("tag", where, tag, "content"), tuple(text for text in texts if text))
    if not texts:
        return _joined((content, _token(f"{where}/end", end)))
    if texts == ("",):
        return content
    return _joined((content, Exactly(texts[0]) if len(texts) == 1 else _either([Exactly(text) for text in texts])))


def _tag(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    return _joined((_begin(where, data), _rest(where, data)))


def _tags(where: str, data: Mapping[str, Any]) -> list[_Call]:
    found = []
    for i, tag in enumerate(_list(where, data, "tags")):
        at = f"{where}/tags/{i}"
        found.append(_Call(_begin(at, tag), _rest(at, tag)))
    return found


def _separated(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    tag = _either([_joined(call) for call in _tags(where, data)])
    most = 1 if data.get("stop_after_first") else None
    return repeat(tag, int(bool(data.get("at_least_one"))), most, separator=data.get("separator", ""))


def _triggered(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    triggers = list(dict.fromkeys(_list(where, data, "triggers")))
    if not all(isinstance(trigger, str) and trigger for trigger in triggers):
        _refuse(f"{where}/triggers", "triggered_tags", "must be texts that are not empty")
    rests: dict[str, list[Constraint]] = {}
    for i, call in enumerate(_tags(where, data)):
        at = f"{where}/tags/{i}/begin"
        if not isinstance(call.begin, Exactly):
            _refuse(at, "triggered_tags", "must be a text; a token begins tags of token_triggered_tags")
        begin = call.begin.text
        fitting = [trigger for trigger in triggers if begin.startswith(trigger)]
        if len(fitting) != 1:
            why = "begins with no trigger" if not fitting else f"begins with {len(fitting)} triggers; one must decide"
            _refuse(at, "triggered_tags", f"{begin!r:.60} {why}")
        rests.setdefault(fitting[0], []).append(_joined((Exactly(begin[len(fitting[0]) :]), call.rest)))
    calls = [_Call(Exactly(trigger), _either(rests[trigger])) for trigger in triggers if trigger in rests]
    without = (*triggers, *_texts(where, data, "excludes"), *ends)
    return _in_text(calls, without, bool(data.get("at_least_one")), bool(data.get("stop_after_first")))


def _token_triggered(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    triggers = _token_texts(where, data, "trigger_tokens")
    calls = _tags(where, data)
    for i, call in enumerate(calls):
        if not isinstance(call.begin, Control) or call.begin.text not in triggers:
            _refuse(f"{where}/tags/{i}/begin", "token_triggered_tags", "must be one of the trigger tokens")
    without = (*triggers, *_token_texts(where, data, "exclude_tokens"), *ends)
    return _in_text(calls, without, bool(data.get("at_least_one")), bool(data.get("stop_after_first")))


def _dispatch(where: str, data: Mapping[str, Any], ends: Ends) -> Constraint:
    by_token = data["type"] == "token_dispatch"
    calls = []
    for i, rule in enumerate(_list(where, data, "rules")):
        at = f"{where}/rules/{i}"
        if not isinstance(rule, (list, tuple)) or len(rule) != 2 or (not by_token and not isinstance(rule[0], str)):
            _refuse(at, data["type"], f"must be a pair of a pattern and a format, got {rule!r:.60}")
        begin = _token(at, rule[0]) if by_token else Exactly(rule[0])
        calls.append(_Call(begin, _lowered(f"{at}/1", rule[1], ())))
    excluded = _token_texts(where, data, "exclude_tokens") if by_token else _texts(where, data, "excludes")
    without = (*(call.begin.text for call in calls if isinstance(call.begin, (Exactly, Control))), *excluded, *ends)
    return _in_text(calls, without, False, not data.get("loop", True))


def _in_text(calls: list[_Call], without: Ends, at_least_one: bool, stop_after_first: bool) -> Constraint:
    """Tags in free text. With `at_least_one`, the text begins with one; with `stop_after_first`, it ends with it."""
    call, free = _either([_joined(each) for each in calls]), free_text(without)
    if stop_after_first:
        return call if at_least_one else Sequenced((free, Repeated(call, 0, 1, "")))
    more = Sequenced((Repeated(Sequenced((free, call)), 0, None, ""), free))
    return Sequenced((call, *more.parts)) if at_least_one else more


_FORMATS: dict[str, _Lower] = {
    "const_string": _constant,
    "json_schema": _json_schema,
    "qwen_xml_parameter": _json_schema,
    "any_text": _any_text,
    "token": lambda where, data, ends: _token(where, data),
    "exclude_token": _not_lowered,
    "any_tokens": _any_tokens,
    "grammar": lambda where, data, ends: constraints.ebnf(_of("grammar", where, data, "grammar")),
    "regex": lambda where, data, ends: constraints.regex(_of("regex", where, data, "pattern")),
    "sequence": _sequence,
    "or": _or,
    "tag": _tag,
    "triggered_tags": _triggered,
    "token_triggered_tags": _token_triggered,
    "tags_with_separator": _separated,
    "optional": _times(0, 1),
    "plus": _times(1, None),
    "star": _times(0, None),
    "repeat": _repeat,
    "dispatch": _dispatch,
    "token_dispatch": _dispatch,
}
