"""The places of a schema: each subschema has a number, and a reference stands for the place that it leads to.

Knows nothing of what keywords mean, but for those that name or refer (base URIs, anchors, `$ref`). A schema that says
nothing has no place: its condition is ANY. `false` is the place FALSE. References out of the schema are refused, as
nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from .....lang.errors import ConstraintError
from .sets import ANY, NEVER, Condition

DATA = frozenset({"const", "enum", "default", "examples", "example"})  # their values are data, not schemas
NAMED = frozenset({"properties", "patternProperties", "definitions", "$defs", "dependentSchemas", "dependencies"})
SILENT = frozenset(
    {"$id", "id", "$anchor", "$schema", "$comment", "$defs", "definitions", "title", "description", "default"}
)


@dataclass(frozen=True, slots=True)
class Subschema:
    """A place: a part of the document that is a schema.

    `branch`: it is one of several alternatives, which nothing need satisfy. `made`: it is not in the document, but
    stands for a part of the value of the const or enum at the pointer.
    """

    pointer: str
    schema: Any
    branch: bool
    made: bool = False


def child(pointer: str, *names: str | int) -> str:
    """Return the JSON pointer of what these names lead to from a pointer."""
    return pointer + "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in names)


class SchemaPlaces:
    """The places of one document."""

    def __init__(self, document: Any, draft: int) -> None:
        self.document = document
        self.draft = draft
        self.places: list[Subschema] = [Subschema("", None, True), Subschema("", False, True)]
        self._numbers: dict[str, int] = {}
        self._bases: dict[str, str] = {}
        self._uris: dict[str, str] = {}
        self._index("", document, "", True)

    def __getitem__(self, number: int) -> Subschema:
        return self.places[number]

    def cond(self, pointer: str, schema: Any, *, branch: bool = False) -> Condition:
        """Return the condition of a subschema, with references followed."""
        seen: list[str] = []
        while True:
            if schema is True or (isinstance(schema, dict) and schema.keys() <= SILENT):
                return ANY
            if schema is False:
                return NEVER
            target = self._only_reference(schema)
            if target is None:
                return frozenset({self.number(pointer, schema, branch)})
            if pointer in seen:
                raise ConstraintError(
                    f"{pointer}: $ref leads back to itself without saying anything: {' -> '.join(seen)}"
                )
            seen.append(pointer)
            pointer, schema = self.resolve(pointer, target)

    def number(self, pointer: str, schema: Any, branch: bool = False) -> int:
        """Return the number of a place, a new one if the pointer has none."""
        if pointer not in self._numbers:
            self._numbers[pointer] = len(self.places)
            self.places.append(Subschema(pointer, schema, branch))
        number = self._numbers[pointer]
        if self.places[number].branch and not branch:
            self.places[number] = Subschema(pointer, schema, False)
        return number

    def constant(self, pointer: str, value: Any) -> Condition:
        """Return the condition of being equal to a value, which is a part of the one at `pointer`."""
        key = f"{pointer}\0{json.dumps(value)}"
        if key not in self._numbers:
            self._numbers[key] = len(self.places)
            self.places.append(Subschema(pointer, {"const": value}, True, True))
        return frozenset({self._numbers[key]})

    def is_static(self, keyword: str, reference: Any) -> bool:
        """Whether a dynamic reference can lead to one place only."""
        if keyword == "$recursiveRef":
            return self._count("$recursiveAnchor", True) == 0
        return isinstance(reference, str) and self._count("$dynamicAnchor", reference.lstrip("#")) == 1

    def _count(self, key: str, value: Any) -> int:
        found, stack = 0, [self.document]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                found += node.get(key) == value
                stack.extend(node.values())
            elif isinstance(node, list):
                stack.extend(node)
        return found

    def _only_reference(self, schema: Any) -> str | None:
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            return None
        if self.draft <= 7 or schema.keys() - {"$ref"} <= SILENT:
            return str(schema["$ref"])
        return None

    def resolve(self, pointer: str, reference: str) -> tuple[str, Any]:
        """Return the pointer and the schema that a `$ref` at a pointer leads to."""
        base = self._bases.get(pointer, "")
        uri, fragment = urldefrag(urljoin(base, reference) if base else reference)
        root = self._uris.get(uri.rstrip("#")) if uri else ""
        if root is None:
            raise ConstraintError(
                f"{child(pointer, '$ref')}: the reference {reference!r} leads out of the schema; nothing is fetched; "
                f"put the schema under $defs and refer to it as '#/$defs/name'"
            )
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            named = self._uris.get(f"{uri}#{fragment}")
            if named is None:
                raise ConstraintError(f"{child(pointer, '$ref')}: no schema has the anchor {fragment!r}")
            return named, self._at(named, pointer, reference)
        target = root + fragment
        return target, self._at(target, pointer, reference)

    def _at(self, target: str, pointer: str, reference: str) -> Any:
        node = self.document
        for part in target.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(name)] if isinstance(node, list) else node[name]
            except (KeyError, IndexError, ValueError, TypeError):
                raise ConstraintError(f"{child(pointer, '$ref')}: there is nothing at {reference!r}") from None
        if not isinstance(node, (dict, bool)):
            raise ConstraintError(f"{child(pointer, '$ref')}: what is at {reference!r} is no schema")
        return node

    def _index(self, pointer: str, node: Any, base: str, schema: bool) -> None:
        """Note base URIs and anchors. `schema`: the node is a schema, not a mapping of names to schemas."""
        stack: list[tuple[str, Any, str, bool]] = [(pointer, node, base, schema)]
        while stack:
            pointer, node, base, schema = stack.pop()
            if isinstance(node, dict) and schema:
                base = self._identify(pointer, node, base)
            if base:
                self._bases[pointer] = base
            for name, value in _children(node, schema):
                mapping = schema and name in NAMED and isinstance(value, dict)
                stack.append((child(pointer, name), value, base, not mapping))

    def _identify(self, pointer: str, node: dict[str, Any], base: str) -> str:
        own = node.get("id" if self.draft == 4 else "$id")
        if isinstance(own, str) and not ("$ref" in node and self.draft <= 7):
            uri, fragment = urldefrag(urljoin(base, own))
            if fragment:
                self._uris.setdefault(f"{uri}#{fragment}", pointer)
            if uri:
                self._uris.setdefault(uri, pointer)
                base = uri
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(key), str):
                self._uris.setdefault(f"{base}#{node[key]}", pointer)
        return base


def _children(node: Any, schema: bool) -> Iterator[tuple[str | int, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if isinstance(value, (dict, list)) and not (schema and name in DATA):
                yield name, value
    elif isinstance(node, list):
        for index, value in enumerate(node):
            if isinstance(value, (dict, list)):
                yield index, value
