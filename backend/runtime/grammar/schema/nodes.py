"""The lowered schema as typed nodes: a grammar of JSON texts, the one walk over it, and its spelling for the engine.

Knows nothing of the keywords that users write, nor how a set of values became a node (`write.py`).

A `LoweredSchema` is a context-free grammar: a definition is a nonterminal, its node the right side of the one rule for
it. `UnionSchema` alone is a choice, `ObjectSchema` and `ArraySchema` are concatenations, the rest are terminals. So
what can be computed bottom-up (a least length, emptiness) is a least fixpoint over the definitions (Knuth 1977).

1. Only a `ReferenceSchema` leads to a definition, so every recursion passes through one.
2. Nodes are immutable and compared by identity. `ANYTHING` and `IMPOSSIBLE` are the only ones of their kinds.
3. Properties of an object are written in the order of `properties`; all other keys follow them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Scalar = str | int | float | bool | None


class SchemaNode:
    """What one value must be. `kind` names the method of a visitor."""

    __slots__ = ()
    kind: ClassVar[str]

    @property
    def children(self) -> tuple[SchemaNode, ...]:
        """The nodes of the values within this one, in the order in which they are written."""
        return ()


@dataclass(frozen=True, slots=True, eq=False)
class AnySchema(SchemaNode):
    """Every JSON value."""

    kind = "any"


@dataclass(frozen=True, slots=True, eq=False)
class NeverSchema(SchemaNode):
    """No value: a member or an item that cannot be there."""

    kind = "never"


@dataclass(frozen=True, slots=True, eq=False)
class EnumSchema(SchemaNode):
    """One of these constants."""

    values: tuple[Scalar, ...]
    kind = "enum"


@dataclass(frozen=True, slots=True, eq=False)
class BooleanSchema(SchemaNode):
    """`true` or `false`."""

    kind = "boolean"


@dataclass(frozen=True, slots=True, eq=False)
class NumberSchema(SchemaNode):
    """A number between two bounds, each included unless it is exclusive, in steps of `multiple`."""

    integer: bool
    minimum: int | float | None = None
    exclusive_minimum: bool = False
    maximum: int | float | None = None
    exclusive_maximum: bool = False
    multiple: int | float | None = None
    kind = "number"

    @property
    def said(self) -> list[int | float]:
        """The bounds and the step, as far as there are any."""
        return [number for number in (self.minimum, self.maximum, self.multiple) if number is not None]


@dataclass(frozen=True, slots=True, eq=False)
class StringSchema(SchemaNode):
    """A string of `least` to `most` characters that all `patterns` match, which are in llguidance's syntax."""

    least: int = 0
    most: int | None = None
    patterns: tuple[str, ...] = ()
    kind = "string"


@dataclass(frozen=True, slots=True, eq=False)
class ArraySchema(SchemaNode):
    """An array of `least` to `most` items: the first ones are those of `prefix`, each later one is a `rest`."""

    prefix: tuple[SchemaNode, ...]
    rest: SchemaNode
    least: int = 0
    most: int | None = None
    kind = "array"

    @property
    def children(self) -> tuple[SchemaNode, ...]:
        return (*self.prefix, self.rest)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectSchema(SchemaNode):
    """An object of `least` to `most` members.

    A member whose key is in `properties` has the node of that key. One whose key matches one of `patterns` has the node
    of that pattern. Any other has `others`. A member that is not `required` may be left out.
    """

    properties: Mapping[str, SchemaNode]
    patterns: Mapping[str, SchemaNode]
    others: SchemaNode
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    kind = "object"

    @property
    def children(self) -> tuple[SchemaNode, ...]:
        return (*self.properties.values(), *self.patterns.values(), self.others)


@dataclass(frozen=True, slots=True, eq=False)
class UnionSchema(SchemaNode):
    """A value of any of the branches."""

    branches: tuple[SchemaNode, ...]
    kind = "union"

    @property
    def children(self) -> tuple[SchemaNode, ...]:
        return self.branches


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSchema(SchemaNode):
    """A value of the definition with this name."""

    name: str
    kind = "reference"


ANYTHING = AnySchema()
IMPOSSIBLE = NeverSchema()


@dataclass(frozen=True, slots=True, eq=False)
class LoweredSchema:
    """A node, and the definitions that references lead to."""

    root: SchemaNode
    definitions: Mapping[str, SchemaNode] = field(default_factory=dict)

    def nodes(self) -> Iterator[SchemaNode]:
        """Yield every node once: depth first from the root, then from each definition."""
        stack = [*reversed([*self.definitions.values()]), self.root]
        while stack:
            node = stack.pop()
            yield node
            stack += reversed(node.children)


class SchemaVisitor(Generic[P, T]):
    """A value for each node, by a method `visit_KIND(node, ...)`; kinds without a method go to `otherwise`.

    The method decides which children are visited and what they are given. Recursion ends here: a reference to a
    definition that is being visited, and a node beneath more than `MOST_LEVELS` others, go to `again`.
    """

    MOST_LEVELS: ClassVar[int] = 400  # two Python frames each, of the thousand that there are

    def __init__(self, schema: LoweredSchema) -> None:
        self.schema = schema
        self._open: set[str] = set()
        self._level = 0

    def visit(self, node: SchemaNode, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the value of a node."""
        if self._level > self.MOST_LEVELS:
            return self.again(node)
        self._level += 1
        try:
            value: T = getattr(self, "visit_" + node.kind, self.otherwise)(node, *args, **kwargs)
            return value
        finally:
            self._level -= 1

    def visit_reference(self, node: ReferenceSchema, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the value of the definition."""
        if node.name in self._open:
            return self.again(node)
        self._open.add(node.name)
        try:
            return self.visit(self.schema.definitions[node.name], *args, **kwargs)
        finally:
            self._open.discard(node.name)

    def otherwise(self, node: SchemaNode, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the value of a node whose kind has no method."""
        raise NotImplementedError(node.kind)

    def again(self, node: SchemaNode) -> T:
        """Return the value of a definition within itself, or of a node that is too deep."""
        raise NotImplementedError(node.kind)


def spelled_schema(schema: LoweredSchema) -> dict[str, Any]:
    """Return the JSON Schema that llguidance is given."""
    spelling = _SchemaSpelling(schema)
    out: dict[str, Any] = spelling.visit(schema.root)
    definitions = {name: spelling.visit(node) for name, node in schema.definitions.items()}
    return {**out, "$defs": definitions} if definitions else out


class _SchemaSpelling(SchemaVisitor[[], Any]):
    """Each node in the keywords of JSON Schema; keywords that say nothing are left out."""

    def visit_any(self, node: AnySchema) -> Any:
        return {}

    def visit_never(self, node: NeverSchema) -> Any:
        return False

    def visit_enum(self, node: EnumSchema) -> Any:
        return {"enum": list(node.values)}

    def visit_boolean(self, node: BooleanSchema) -> Any:
        return {"type": "boolean"}

    def visit_number(self, node: NumberSchema) -> Any:
        out: dict[str, Any] = {"type": "integer" if node.integer else "number"}
        if node.minimum is not None:
            out["exclusiveMinimum" if node.exclusive_minimum else "minimum"] = node.minimum
        if node.maximum is not None:
            out["exclusiveMaximum" if node.exclusive_maximum else "maximum"] = node.maximum
        return out if node.multiple is None else {**out, "multipleOf": node.multiple}

    def visit_string(self, node: StringSchema) -> Any:
        out = {"type": "string", **_limits(node, "Length")}
        if node.patterns:
            out["pattern"] = node.patterns[0]
        if node.patterns[1:]:
            out["allOf"] = [{"type": "string", "pattern": pattern} for pattern in node.patterns[1:]]
        return out

    def visit_array(self, node: ArraySchema) -> Any:
        out: dict[str, Any] = {"type": "array"}
        if node.prefix:
            out["prefixItems"] = [self.visit(item) for item in node.prefix]
        if node.rest is not ANYTHING:
            out["items"] = self.visit(node.rest)
        return {**out, **_limits(node, "Items")}

    def visit_object(self, node: ObjectSchema) -> Any:
        out: dict[str, Any] = {"type": "object"}
        if node.required:
            out["required"] = list(node.required)
        out |= _limits(node, "Properties")
        for keyword, members in (("properties", node.properties), ("patternProperties", node.patterns)):
            if members:
                out[keyword] = {key: self.visit(member) for key, member in members.items()}
        if node.others is not ANYTHING:
            out["additionalProperties"] = self.visit(node.others)
        return out

    def visit_union(self, node: UnionSchema) -> Any:
        return {"anyOf": [self.visit(branch) for branch in node.branches]}

    def visit_reference(self, node: ReferenceSchema) -> Any:
        return {"$ref": f"#/$defs/{node.name}"}


def _limits(node: StringSchema | ArraySchema | ObjectSchema, what: str) -> dict[str, Any]:
    least: dict[str, Any] = {f"min{what}": node.least} if node.least else {}
    return least if node.most is None else {**least, f"max{what}": node.most}
