"""Which JSON Schemas xgrammar enforces exactly, and which it compiles at a bearable cost.

Owns: what is measured of xgrammar 0.2.8 (`strict_mode=False`): the keywords that it drops, weakens or makes stricter,
mostly without a word. Knows nothing of tokens.

The lint errs on the safe side: what is not known to be exact is reported. Limits that every engine shares (the order of
properties, the spelling of numbers) are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Finding = tuple[str, str]
"""JSON pointer ("" is the whole schema), reason."""

MOST_ITEMS = 1_000
MOST_REQUIRED_ITEMS = 50
MOST_CHARACTERS = 100_000
DEEPEST = 60

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
    return _Lint(schema).findings()


def cost(schema: Any) -> list[Finding]:
    """What would make compiling take seconds, or every mask slow."""
    found: list[Finding] = []

    def visit(part: Any, pointer: str, depth: int) -> None:
        if depth > DEEPEST:
            found.append((pointer, f"nested more than {DEEPEST} deep"))
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


class _Lint:
    """One walk over a schema, each subschema once; then a search for subschemas that no finite value meets."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.found: list[Finding] = []
        self.seen: dict[int, tuple[Any, str]] = {}

    def findings(self) -> list[Finding]:
        if cost_of := [finding for finding in cost(self.root) if "nested" in finding[1]]:
            return cost_of
        self.visit(self.root, "")
        if not self.found:
            self.found += self._endless()
        return self.found

    def report(self, pointer: str, reason: str) -> None:
        self.found.append((pointer, reason))

    def visit(self, schema: Any, pointer: str) -> None:
        if schema is True:
            return
        if not isinstance(schema, dict):
            self.report(pointer, "matches nothing" if schema is False else "not a schema")
            return
        if id(schema) in self.seen:
            return
        self.seen[id(schema)] = schema, pointer
        winner = next((key for key in _WINNERS if key in schema), None)
        for key in sorted(_IGNORED & schema.keys()):
            self.report(pointer, f"{key} is ignored, or not known to be enforced")
        if pointer and isinstance(base := schema.get("$id", schema.get("id")), str):
            self.report(pointer, f"{base!r} changes what a $ref here means")
        if schema.get("uniqueItems"):
            self.report(pointer, "uniqueItems is ignored")
        if winner is not None:
            self._won(schema, winner, pointer)
        elif "type" in schema:
            self._typed(schema, pointer)
        elif dropped := sorted(_VALIDATIONS & schema.keys()):
            self.report(pointer, f"without a type, {', '.join(dropped)} would be ignored or restrict the type")

    def _won(self, schema: dict[str, Any], winner: str, pointer: str) -> None:
        beside = {key for key in schema if key != winner and (key in _VALIDATIONS or key == "type" or key in _WINNERS)}
        if winner in ("const", "enum"):
            values = [schema["const"]] if winner == "const" else schema["enum"]
            if not isinstance(values, list) or not values:
                self.report(pointer, f"{winner} without a value")
                return
            if any(isinstance(value, float) or (isinstance(value, (dict, list)) and value) for value in values):
                self.report(pointer, f"a float, object or array in {winner} has one fixed spelling")
            types = schema.get("type")
            allowed = types if isinstance(types, list) else [types]
            fits = all(_type(v) in allowed or (_type(v) == "integer" and "number" in allowed) for v in values)
            if beside - {"type"} or (beside and not fits):
                self.report(pointer, f"{', '.join(sorted(beside))} beside {winner} is ignored")
            return
        if beside:
            self.report(pointer, f"{', '.join(sorted(beside))} beside {winner} is ignored")
        if winner == "$ref":
            self._reference(schema["$ref"], pointer)
            return
        branches = schema[winner]
        if not isinstance(branches, list) or not branches:
            self.report(pointer, f"{winner} without a branch")
            return
        if winner == "allOf" and len(branches) > 1:
            self.report(pointer, "allOf with more than one branch accepts any value")
        if winner == "oneOf" and not _disjoint(branches):
            self.report(pointer, "oneOf is taken for anyOf, and these branches are not known to exclude each other")
        for i, branch in enumerate(branches):
            self.visit(branch, f"{pointer}/{winner}/{i}")

    def _reference(self, ref: Any, pointer: str) -> None:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")) or set(ref) & set("~%"):
            self.report(pointer, f"the $ref {ref!r} accepts any value")
            return
        target = self._target(ref)
        if target is None:
            self.report(pointer, f"the target of the $ref {ref!r} is missing")
        else:
            self.visit(target, ref[1:])

    def _target(self, ref: str) -> Any:
        at = self.root
        for part in ref[2:].split("/") if ref != "#" else []:
            if not isinstance(at, dict) or part not in at:
                return None
            at = at[part]
        return at

    def _typed(self, schema: dict[str, Any], pointer: str) -> None:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        rules: dict[str, Callable[[dict[str, Any], str], None]] = {
            "string": self._string,
            "number": self._number,
            "integer": self._number,
            "array": self._array,
            "object": self._object,
        }
        if not types:
            self.report(pointer, "type without a type")
        for name in types:
            if not isinstance(name, str) or name not in _BY_TYPE:
                self.report(pointer, f"unknown type {name!r}")
            elif name in rules:
                rules[name](schema, pointer)

    def _string(self, schema: dict[str, Any], pointer: str) -> None:
        used: list[str] = [key for key in ("format", "pattern") if key in schema]
        if schema.keys() & {"minLength", "maxLength"}:
            used.append("length")
        if len(used) > 1:
            self.report(pointer, f"of {', '.join(used)} only {used[0]} is enforced")
        elif used == ["length"]:
            self.report(pointer, "a string of limited length cannot hold an escape")
        elif used == ["format"] and schema["format"] not in _FORMATS:
            self.report(pointer, f"the format {schema['format']!r} is ignored or not exact")
        elif used == ["pattern"] and not _plain_pattern(schema["pattern"]):
            self.report(pointer, "the pattern is not a plain one between ^ and $")

    def _number(self, schema: dict[str, Any], pointer: str) -> None:
        bounds = [schema[key] for key in _NUMBER if key in schema]
        if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in bounds):
            self.report(pointer, "a bound that is no number")
            return
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if "multipleOf" in schema:
            step = schema["multipleOf"]
            if "number" in types or len(bounds) > 1 or step != int(step) or not 0 < step <= 1024:
                self.report(pointer, "multipleOf is ignored here")
        elif bounds and "number" in types:
            self.report(pointer, "a bounded number cannot have an exponent")
        elif bounds and not all(bound == int(bound) and abs(bound) < 10**15 for bound in bounds):
            self.report(pointer, "a bound that is no integer, or a large one")
        elif bounds and not _integer_between(schema):
            self.report(pointer, "no integer lies between the bounds")

    def _array(self, schema: dict[str, Any], pointer: str) -> None:
        if "prefixItems" in schema:
            self.report(pointer, "prefixItems must all be present")
        if isinstance(schema.get("items"), list):
            self.report(pointer, "items as a list (an old draft's)")
        elif "items" in schema:
            self.visit(schema["items"], f"{pointer}/items")
        self._counts(schema, "minItems", "maxItems", pointer)

    def _counts(self, schema: dict[str, Any], low: str, high: str, pointer: str) -> None:
        values = [schema[key] for key in (low, high) if key in schema]
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
            self.report(pointer, f"{low} or {high} is not a count")
        elif len(values) == 2 and values[0] > values[1]:
            self.report(pointer, f"{low} is more than {high}")

    def _object(self, schema: dict[str, Any], pointer: str) -> None:
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        rest, required = schema.get("additionalProperties", True), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(patterns, dict) or not isinstance(required, list):
            self.report(pointer, "properties, patternProperties or required of the wrong type")
            return
        if missing := [name for name in required if name not in properties]:
            self.report(pointer, f"required names without a property: {missing[:3]}")
        if properties and rest is not False:
            self.report(pointer, "an undeclared property may be a declared one in another spelling (\\u0061 for a)")
        if patterns and (len(patterns) > 1 or properties or rest is not False):
            self.report(pointer, "patternProperties beside other properties")
        if (properties or patterns) and schema.keys() & {"minProperties", "maxProperties"}:
            self.report(pointer, "minProperties and maxProperties beside properties")
        if isinstance(rest, dict) or (schema.keys() & {"minProperties", "maxProperties"} and rest is not False):
            if _count(schema, "minProperties") > 1 or "maxProperties" in schema:
                self.report(pointer, "a name that is repeated counts twice")
        elif schema.keys() & {"minProperties", "maxProperties"}:
            self.report(pointer, "minProperties or maxProperties of an object without properties")
        for name, value in patterns.items():
            if not _plain_pattern(name):
                self.report(pointer, "patternProperties with a pattern that is not a plain one between ^ and $")
            self.visit(value, f"{pointer}/patternProperties/{_escaped(name)}")
        for name, value in properties.items():
            self.visit(value, f"{pointer}/properties/{_escaped(name)}")
        if rest is not False:
            self.visit(rest, f"{pointer}/additionalProperties")

    def _endless(self) -> Iterable[Finding]:
        """Subschemas that no finite value meets: xgrammar would never return from looking for a forced text."""
        finite: set[int] = set()
        changed = True
        while changed:
            fresh = [key for key, (part, _) in self.seen.items() if key not in finite and self._is_finite(part, finite)]
            finite.update(fresh)
            changed = bool(fresh)
        return [(at, "no finite value is valid") for key, (_, at) in self.seen.items() if key not in finite]

    def _is_finite(self, part: dict[str, Any], finite: set[int]) -> bool:
        def ends(child: Any) -> bool:
            return child is True or id(child) in finite

        winner = next((key for key in _WINNERS if key in part), None)
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


def _type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "unknown")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
