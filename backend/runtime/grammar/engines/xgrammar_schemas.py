"""Which JSON Schemas xgrammar enforces exactly, and which it compiles at a bearable cost.

Owns: what is measured of xgrammar 0.2.8 (`strict_mode=False`): the keywords that it drops, weakens or tightens, mostly
without a word. Knows nothing of tokens.

What is not known to be exact is reported. Limits that all engines share (the order of properties, the spelling of
numbers) are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Finding = tuple[str, str]
"""JSON pointer ("" is the whole schema), reason."""

MOST_ITEMS, MOST_REQUIRED_ITEMS, MOST_CHARACTERS, MOST_NESTED = 1_000, 50, 100_000, 60
"""More would make compiling take seconds, or every mask slow."""

_IGNORED = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "additionalItems"}
    | {"dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"}
    | {"extends", "disallow", "divisibleBy", "$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor"}
)
"""Keywords of any draft that mean more to a validator than to xgrammar. Unknown ones are annotations to both."""
_NUMBER = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"])
_BY_TYPE: dict[str, frozenset[str]] = {
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "number": _NUMBER,
    "integer": _NUMBER,
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
    "object": frozenset(
        ["properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"]
    ),
    "boolean": frozenset(),
    "null": frozenset(),
}
_VALIDATIONS = frozenset().union(*_BY_TYPE.values())
_WINNERS = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
"""xgrammar takes the first that is there and drops everything beside it."""
_FORMATS = frozenset({"uuid"})
_PATTERN = re.compile(
    r"""\^(?P<body>(?:
        [A-Za-z0-9 _\-,:;@%&~!='<>#]            # plain characters
      | \\[.\-/+*?(){}\[\]|^$]                  # escaped punctuation
      | \\[dw]
      | \[(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_.,:;@ ]|\\[\-.dw])+\]
      | \((?:\?:)? | \) | \|
      | [*+?](?![*+?]) | \{\d{1,2}(?:,\d{1,2})?\}(?![*+?{])
    )*)\$""",
    re.VERBOSE,
)


def lint(schema: Any) -> list[Finding]:
    """What xgrammar would not enforce exactly; [] if it enforces the whole schema."""
    return XGrammarLint(schema).findings()


def cost(schema: Any) -> list[Finding]:
    """What would make compiling take seconds, or every mask slow."""
    found: list[Finding] = []

    def visit(part: Any, pointer: str, depth: int) -> None:
        if depth > MOST_NESTED:
            found.append((pointer, f"nested more than {MOST_NESTED} deep"))
            return
        if isinstance(part, dict):
            if (least := _count(part, "minItems")) > MOST_REQUIRED_ITEMS:
                found.append((pointer, f"minItems {least} (more than {MOST_REQUIRED_ITEMS} are slow)"))
            if (most := _count(part, "maxItems")) > MOST_ITEMS:
                found.append((pointer, f"maxItems {most} (more than {MOST_ITEMS} are slow)"))
            for key, value in part.items():
                visit(value, f"{pointer}/{_escaped(key)}", depth + 1)
        elif isinstance(part, list):
            for i, value in enumerate(part):
                visit(value, f"{pointer}/{i}", depth + 1)

    visit(schema, "", 0)
    if not found and (length := len(json.dumps(schema))) > MOST_CHARACTERS:
        found.append(("", f"the schema has {length:,} characters (more than {MOST_CHARACTERS:,} are slow)"))
    return found


class XGrammarLint:
    """One walk over a schema, each subschema once; then a search for subschemas that no finite value meets."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._seen: dict[int, tuple[Any, str]] = {}

    def findings(self) -> list[Finding]:
        if too_deep := [finding for finding in cost(self._root) if "nested" in finding[1]]:
            return too_deep
        return [*self._visit(self._root, "")] or [*self._endless()]

    def _visit(self, schema: Any, pointer: str) -> Iterator[Finding]:
        if schema is True or id(schema) in self._seen:
            return
        if not isinstance(schema, dict):
            yield pointer, "matches nothing" if schema is False else "not a schema"
            return
        self._seen[id(schema)] = schema, pointer
        winner = _winner(schema)
        for reason in _dropped(schema, winner, pointer):
            yield pointer, reason
        if winner in ("const", "enum"):
            for reason in _constants(schema, winner):
                yield pointer, reason
        elif winner == "$ref":
            yield from self._reference(schema["$ref"], pointer)
        elif winner is not None:
            yield from self._branches(schema[winner], winner, pointer)
        elif "type" in schema:
            yield from self._typed(schema, pointer)

    def _branches(self, branches: Any, winner: str, pointer: str) -> Iterator[Finding]:
        if not isinstance(branches, list) or not branches:
            yield pointer, f"{winner} without a branch"
            return
        if winner == "allOf" and len(branches) > 1:
            yield pointer, "allOf with more than one branch accepts any value"
        if winner == "oneOf" and not _disjoint(branches):
            yield pointer, "oneOf is taken for anyOf, and these branches are not known to exclude each other"
        for i, branch in enumerate(branches):
            yield from self._visit(branch, f"{pointer}/{winner}/{i}")

    def _reference(self, ref: Any, pointer: str) -> Iterator[Finding]:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")) or set(ref) & set("~%"):
            yield pointer, f"the $ref {ref!r} accepts any value"
        elif (target := self._target(ref)) is None:
            yield pointer, f"the target of the $ref {ref!r} is missing"
        else:
            yield from self._visit(target, ref[1:])

    def _target(self, ref: str) -> Any:
        at = self._root
        for part in ref[2:].split("/") if ref != "#" else []:
            if not isinstance(at, dict) or part not in at:
                return None
            at = at[part]
        return at

    def _typed(self, schema: dict[str, Any], pointer: str) -> Iterator[Finding]:
        types = _listed(schema["type"])
        if not types:
            yield pointer, "type without a type"
        for name in types:
            if not isinstance(name, str) or name not in _BY_TYPE:
                yield pointer, f"unknown type {name!r}"
            elif name == "object":
                yield from self._object(schema, pointer)
            elif name == "array":
                yield from self._array(schema, pointer)
            elif name in _SCALARS:
                for reason in _SCALARS[name](schema):
                    yield pointer, reason

    def _array(self, schema: dict[str, Any], pointer: str) -> Iterator[Finding]:
        if "prefixItems" in schema:
            yield pointer, "prefixItems must all be present"
        if isinstance(schema.get("items"), list):
            yield pointer, "items as a list (an old draft's)"
        elif "items" in schema:
            yield from self._visit(schema["items"], f"{pointer}/items")
        counts = [schema[key] for key in ("minItems", "maxItems") if key in schema]
        if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
            yield pointer, "minItems or maxItems is not a count"
        elif counts != sorted(counts):
            yield pointer, "minItems is more than maxItems"

    def _object(self, schema: dict[str, Any], pointer: str) -> Iterator[Finding]:
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        required, rest = schema.get("required", []), schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not isinstance(patterns, dict) or not isinstance(required, list):
            yield pointer, "properties, patternProperties or required of the wrong type"
            return
        for reason in _names(schema, properties, patterns, required, is_open=rest is not False):
            yield pointer, reason
        for name, value in patterns.items():
            if not _plain_pattern(name):
                yield pointer, "patternProperties with a pattern that is not a plain one between ^ and $"
            yield from self._visit(value, f"{pointer}/patternProperties/{_escaped(name)}")
        for name, value in properties.items():
            yield from self._visit(value, f"{pointer}/properties/{_escaped(name)}")
        if rest is not False:
            yield from self._visit(rest, f"{pointer}/additionalProperties")

    def _endless(self) -> Iterator[Finding]:
        """Subschemas that no finite value meets: xgrammar would never return from looking for a forced text."""
        finite: set[int] = set()
        while fresh := {key for key, (part, _) in self._seen.items() if self._is_finite(part, finite)} - finite:
            finite |= fresh
        return ((at, "no finite value is valid") for key, (_, at) in self._seen.items() if key not in finite)

    def _is_finite(self, part: dict[str, Any], finite: set[int]) -> bool:
        def ends(child: Any) -> bool:
            return child is True or id(child) in finite

        winner = _winner(part)
        if winner == "$ref":
            return ends(self._target(part["$ref"]))
        if winner in ("anyOf", "oneOf", "allOf"):
            return any(ends(branch) for branch in part[winner])
        if winner is not None or "type" not in part:
            return True
        if part["type"] == "array":
            return not part.get("minItems") or ends(part.get("items", True))
        if part["type"] == "object":
            if part.get("minProperties") and not ends(part.get("additionalProperties", True)):
                return False
            return all(ends(part["properties"][name]) for name in part.get("required", []))
        return True


# -- reasons, one keyword family each


def _winner(schema: dict[str, Any]) -> str | None:
    return next((key for key in _WINNERS if key in schema), None)


def _dropped(schema: dict[str, Any], winner: str | None, pointer: str) -> Iterator[str]:
    """Keywords that xgrammar does not read here."""
    for key in sorted(_IGNORED & schema.keys()):
        yield f"{key} is ignored, or not known to be enforced"
    if pointer and isinstance(base := schema.get("$id", schema.get("id")), str):
        yield f"{base!r} changes what a $ref here means"
    if schema.get("uniqueItems"):
        yield "uniqueItems is ignored"
    if winner is None and "type" not in schema and (dropped := sorted(_VALIDATIONS & schema.keys())):
        yield f"without a type, {', '.join(dropped)} would be ignored or restrict the type"
    if winner not in (None, "const", "enum") and (beside := _beside(schema, winner)):
        yield f"{', '.join(sorted(beside))} beside {winner} is ignored"


def _beside(schema: dict[str, Any], winner: str | None) -> set[str]:
    return {key for key in schema if key != winner and (key in _VALIDATIONS or key == "type" or key in _WINNERS)}


def _constants(schema: dict[str, Any], winner: str) -> Iterator[str]:
    values = [schema["const"]] if winner == "const" else schema["enum"]
    if not isinstance(values, list) or not values:
        yield f"{winner} without a value"
        return
    if any(isinstance(value, float) or (isinstance(value, (dict, list)) and value) for value in values):
        yield f"a float, object or array in {winner} has one fixed spelling"
    beside, allowed = _beside(schema, winner), _listed(schema.get("type"))
    fits = all(_type(v) in allowed or (_type(v) == "integer" and "number" in allowed) for v in values)
    if beside - {"type"} or (beside and not fits):
        yield f"{', '.join(sorted(beside))} beside {winner} is ignored"


def _string(schema: dict[str, Any]) -> Iterator[str]:
    used: list[str] = [key for key in ("format", "pattern") if key in schema]
    if schema.keys() & {"minLength", "maxLength"}:
        used.append("length")
    if len(used) > 1:
        yield f"of {', '.join(used)} only {used[0]} is enforced"
    elif used == ["length"]:
        yield "a string of limited length cannot hold an escape"
    elif used == ["format"] and schema["format"] not in _FORMATS:
        yield f"the format {schema['format']!r} is ignored or not exact"
    elif used == ["pattern"] and not _plain_pattern(schema["pattern"]):
        yield "the pattern is not a plain one between ^ and $"


def _number(schema: dict[str, Any]) -> Iterator[str]:
    bounds = [schema[key] for key in _NUMBER if key in schema]
    types = _listed(schema["type"])
    if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in bounds):
        yield "a bound that is no number"
    elif "multipleOf" in schema:
        step = schema["multipleOf"]
        if "number" in types or len(bounds) > 1 or step != int(step) or not 0 < step <= 1024:
            yield "multipleOf is ignored here"
    elif bounds and "number" in types:
        yield "a bounded number cannot have an exponent"
    elif not all(bound == int(bound) and abs(bound) < 10**15 for bound in bounds):
        yield "a bound that is no integer, or a large one"
    elif bounds and not _integer_between(schema):
        yield "no integer lies between the bounds"


_SCALARS = {"string": _string, "number": _number, "integer": _number}


def _names(
    schema: dict[str, Any], properties: dict[str, Any], patterns: dict[str, Any], required: list[Any], *, is_open: bool
) -> Iterator[str]:
    """What xgrammar does not enforce of an object's names; `is_open`: other names are allowed."""
    if missing := [name for name in required if name not in properties]:
        yield f"required names without a property: {missing[:3]}"
    if properties and is_open:
        yield "an undeclared property may be a declared one in another spelling (\\u0061 for a)"
    if patterns and (len(patterns) > 1 or properties or is_open):
        yield "patternProperties beside other properties"
    if not schema.keys() & {"minProperties", "maxProperties"}:
        return
    if properties or patterns:
        yield "minProperties and maxProperties beside properties"
    if not is_open:
        yield "minProperties or maxProperties of an object without properties"
    elif _count(schema, "minProperties") > 1 or "maxProperties" in schema:
        yield "a name that is repeated counts twice"


def _plain_pattern(pattern: Any) -> bool:
    """A pattern of plain characters, positive classes, groups and small counts, between ^ and $.

    No class may hold a quote or a backslash, which JSON spells otherwise; `\\d` and `\\w` are ASCII in both dialects.
    """
    if not isinstance(pattern, str) or not (match := _PATTERN.fullmatch(pattern)):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    body = re.sub(r"\\.|\[[^\]]*\]", "x", match["body"])
    depth = 0
    for char in body:
        depth += (char == "(") - (char == ")")
        if char == "|" and not depth:
            return False
    spans = 1
    for count in re.findall(r"\{(?:\d+,)?(\d+)\}", body):
        spans *= int(count) or 1
    return spans <= 200


def _integer_between(schema: dict[str, Any]) -> bool:
    low = max([schema.get("minimum", -(10**18)), schema.get("exclusiveMinimum", -(10**18) - 1) + 1])
    high = min([schema.get("maximum", 10**18), schema.get("exclusiveMaximum", 10**18 + 1) - 1])
    return bool(low <= high)


def _disjoint(branches: list[Any]) -> bool:
    """Whether the branches certainly exclude each other: different types, or different constants."""
    if not all(isinstance(branch, dict) for branch in branches):
        return False
    types = [branch.get("type") for branch in branches]
    if all(isinstance(name, str) for name in types) and len(set(types)) == len(types):
        return not {"integer", "number"} <= set(types)
    if all(("const" in b or isinstance(b.get("enum"), list)) and not b.keys() & {"$ref"} for b in branches):
        values = [v for b in branches for v in ([b["const"]] if "const" in b else b["enum"])]
        spelled = [json.dumps(value, sort_keys=True) for value in values]
        return len(set(spelled)) == len(spelled)
    return False


def _count(schema: dict[str, Any], key: str) -> int:
    value = schema.get(key, 0)
    return value if isinstance(value, int) else 0


def _listed(types: Any) -> list[Any]:
    return types if isinstance(types, list) else [types]


def _type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "unknown")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
