"""Arguments that models write as XML: each property of an object between tags, strings as they are, the rest as JSON.

Knows nothing of the formats around them (`formats.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..constraint import Choices, Constraint, Either, Exactly, Sequenced, json_schema, regex
from ..errors import ConstraintError
from ..structure import free_text

_DSML = "｜DSML｜"
_BLANK = Either((Exactly(""), Exactly("\n")))
"""What models write between a tag and its value, and between two values."""

Style = tuple[Callable[[str, bool], str], str]
"""The text before a value, by the name of the property and whether the value is a string; and the text behind it."""

STYLES: dict[str, Style] = {
    "qwen_xml": (lambda name, text: f"<parameter={name}>", "</parameter>"),
    "minimax_xml": (lambda name, text: f'<parameter name="{name}">', "</parameter>"),
    "glm_xml": (lambda name, text: f"<arg_key>{name}</arg_key><arg_value>", "</arg_value>"),
    "deepseek_xml": (
        lambda name, text: f'<{_DSML}parameter name="{name}" string="{str(text).lower()}">',
        f"</{_DSML}parameter>",
    ),
    "deepseek_v4_1_xml": (
        lambda name, text: f'<{_DSML} parameter name="{name}" string="{str(text).lower()}">',
        f"</{_DSML} parameter>",
    ),
}
_OF_OBJECTS = frozenset(
    (
        "type",
        "properties",
        "required",
        "additionalProperties",
        "title",
        "description",
        "$schema",
        "$defs",
        "definitions",
    )
)
_OF_STRINGS = frozenset(("type", "enum", "const", "pattern", "title", "description", "default", "examples"))


def parameters(schema: object, style: str) -> Constraint:
    """The properties of an object schema, in their order, each between the tags of a style.

    A property that is not required may be left out, and there are no others. Raises `ConstraintError` for a schema that
    cannot be written so; its message begins with a JSON pointer into the schema.
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise ConstraintError('(root): an object is written in this style; say "type": "object"')
    for keyword in schema:
        if keyword not in _OF_OBJECTS:
            raise ConstraintError(f"/{keyword}: not carried out for an object in this style; leave it out")
    properties, required = schema.get("properties", {}), schema.get("required", ())
    for name in required:
        if name not in properties:
            raise ConstraintError(f"/required: {name!r} is none of the properties")
    written = [_property(schema, name, each, name in required, style) for name, each in properties.items()]
    return Sequenced(tuple(written)) if written else Exactly("")


def _property(root: Mapping[str, Any], name: str, schema: Any, required: bool, style: str) -> Constraint:
    before, behind = STYLES[style]
    text = isinstance(schema, Mapping) and schema.get("type") == "string"
    value = _string(f"/properties/{name}", schema, behind) if text else _json(f"/properties/{name}", schema, root)
    whole = Sequenced((Exactly(before(name, text)), *value, Exactly(behind), _BLANK))
    return whole if required else Either((Exactly(""), whole))


def _string(where: str, schema: Mapping[str, Any], behind: str) -> tuple[Constraint, ...]:
    for keyword in schema:
        if keyword not in _OF_STRINGS:
            raise ConstraintError(f"{where}/{keyword}: not carried out for a string in this style; leave it out")
    texts = [schema["const"]] if "const" in schema else schema.get("enum")
    if texts is not None:
        known = tuple(each for each in texts if isinstance(each, str))
        if not known or "pattern" in schema:
            raise ConstraintError(f"{where}: a string's enum must have strings, and no pattern beside it")
        return _BLANK, Choices(known), _BLANK
    if "pattern" in schema:
        pattern = schema["pattern"]
        if not (isinstance(pattern, str) and pattern.startswith("^") and pattern.endswith("$")):
            raise ConstraintError(f"{where}/pattern: must begin with ^ and end with $ in this style")
        return _BLANK, regex(pattern), _BLANK
    return (free_text([behind]),)


def _json(where: str, schema: Any, root: Mapping[str, Any]) -> tuple[Constraint, ...]:
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds or "string" in kinds:
        raise ConstraintError(
            f"{where}: a value that may be a string has no one spelling in this style; give it one type"
        )
    definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return _BLANK, json_schema({**schema, **definitions}), _BLANK
