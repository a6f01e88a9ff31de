"""Which chat templates print each message by itself, read off their source.

Such a template prints the end of a long conversation as it prints the end of a short one. So a conversation that leaves
out messages from its middle can be rendered in place of the whole, and a turn costs the same however long the chat is.

The reader knows few constructs, and of a template with any other it says nothing. It allows one loop over the messages.
In its body, what is printed may depend on the message, its neighbours, whether it is the first or the last, whether its
number is even, and on messages at the start. What depends on the end of the conversation (`add_generation_prompt`,
`messages[-1]`) may be read outside of the loop, and in the loop only for its last message. An even number of messages
is to be left out, behind the first `kept_messages` and before the last `LAST_KEPT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes

NodeKind = TypeVar("NodeKind", bound="nodes.Node")

LAST_KEPT = 6
"""Messages at the end of a conversation that are rendered: more than any index from the end, or neighbour, reaches."""
_INDEX_FROM_END = 3
_PLAIN = frozenset({
    "Template", "Output", "TemplateData", "Const", "If", "CondExpr", "Getattr", "Getitem", "Slice", "Compare",
    "Operand", "And", "Or", "Not", "Add", "Sub", "Mul", "Mod", "Concat", "Neg", "Pos", "List", "Tuple", "Dict",
    "Pair", "Keyword", "Continue",
})  # fmt: skip
_FUNCTIONS = frozenset({"raise_exception", "strftime_now"})
_METHODS = frozenset({
    "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "replace", "upper",
    "lower", "title", "capitalize", "join", "find", "count", "removeprefix", "removesuffix", "get", "items", "keys",
    "values",
})  # fmt: skip
_FILTERS = frozenset({
    "trim", "length", "count", "upper", "lower", "title", "capitalize", "replace", "default", "d", "string",
    "tojson", "safe", "join", "first", "last", "int", "list", "indent", "items",
})  # fmt: skip
_TESTS = frozenset({
    "defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "boolean", "true",
    "false", "eq", "equalto", "ne", "in",
})  # fmt: skip
_PLACES = frozenset({"first", "last", "previtem", "nextitem"})
_INNER_PLACES = frozenset({*_PLACES, "index", "index0", "revindex", "revindex0", "length"})


class _UnknownConstruct(Exception):
    """The template has a construct of which nothing is known."""


def kept_messages(environment: jinja2.Environment, source: str) -> int | None:
    """How many messages at the start are to be kept so that others may be left out behind them; None: nothing is known
    of this template."""
    tree = environment.parse(source)
    reader = _TemplateReader()
    try:
        reader.find_lists(tree)
        if _loops(tree, reader) > 1:
            return None
        reader.read(tree, _ReadAt())
    except _UnknownConstruct:
        return None
    return reader.kept + reader.offset + 2


@dataclass(frozen=True)
class _ReadAt:
    """Where a node stands. `loop`: "messages", "inner" or "" (none). `messages`: within the loop over the messages.
    `last`: only carried out for the last message. `late`: under a condition on the end of the conversation."""

    loop: str = ""
    messages: bool = False
    last: bool = False
    late: bool = False


@dataclass
class _TemplateReader:
    """`lists`: names of the messages, or of the messages less some at the start (`offset` in all). `late`: names of
    values that depend on the end of the conversation. `kept`: the most messages at the start that are looked at."""

    lists: set[str] = field(default_factory=lambda: {"messages"})
    late: set[str] = field(default_factory=lambda: {"add_generation_prompt"})
    offset: int = 0
    kept: int = 1

    def find_lists(self, tree: nodes.Template) -> None:
        from jinja2 import nodes

        assigned = list(tree.find_all(nodes.Assign))
        for _ in range(len(assigned) + 1):
            for each in assigned:
                if isinstance(each.target, nodes.Name):
                    if self.is_list(each.node):
                        self.lists.add(each.target.name)
                    elif self._is_late(each.node):
                        self.late.add(each.target.name)
        for each in assigned:
            if isinstance(each.target, nodes.Name) and self.is_list(each.node):
                self.offset += sum(s.start.value for s in each.node.find_all(nodes.Slice) if s.start)  # type: ignore[attr-defined]

    def is_list(self, node: nodes.Node) -> bool:
        """Whether a node is the messages, less some at the start."""
        from jinja2 import nodes

        if isinstance(node, nodes.Name):
            return node.name in self.lists
        if isinstance(node, nodes.Getitem) and isinstance(cut := node.arg, nodes.Slice):
            whole = cut.stop is None and cut.step is None and (cut.start is None or _number(cut.start) is not None)
            return whole and isinstance(node.node, nodes.Name) and node.node.name in self.lists
        return False

    def _is_late(self, node: nodes.Node) -> bool:
        from jinja2 import nodes

        return any(n.name in self.late for n in _all(node, nodes.Name)) or any(
            self.is_list(n.node) and isinstance(n.arg, (nodes.Neg, nodes.Const)) and _number(n.arg) is None
            for n in _all(node, nodes.Getitem)
        )

    def read(self, node: nodes.Node, at: _ReadAt) -> None:
        """Raise `_UnknownConstruct` unless everything in `node` is known."""
        kind = type(node).__name__
        special = getattr(self, f"_read_{kind.lower()}", None)
        if special is not None and special(node, at):
            return
        if kind not in _PLAIN:
            raise _UnknownConstruct
        self._read_children(node, at)

    def _read_children(self, node: nodes.Node, at: _ReadAt) -> None:
        for child in node.iter_child_nodes():
            self.read(child, at)

    # Each says whether it has read the node; if not, its children are read.
    def _read_name(self, node: nodes.Name, at: _ReadAt) -> bool:
        late = node.name in self.late and at.messages and not at.last
        if node.name in self.lists or node.name == "loop" or late:
            raise _UnknownConstruct
        return True

    def _read_getitem(self, node: nodes.Getitem, at: _ReadAt) -> bool:
        if not (_is_name(node.node) and self.is_list(node.node)):
            return False
        index = _number(node.arg)
        if index is not None:
            self.kept = max(self.kept, index + 1)
        elif (_from_end(node.arg) or 99) > _INDEX_FROM_END or (at.messages and not at.last):
            raise _UnknownConstruct
        return True

    def _read_getattr(self, node: nodes.Getattr, at: _ReadAt) -> bool:
        if not _is_name(node.node, "loop"):
            return False
        if not at.loop or node.attr not in (_PLACES if at.loop == "messages" else _INNER_PLACES):
            raise _UnknownConstruct
        return True

    def _read_mod(self, node: nodes.Mod, at: _ReadAt) -> bool:
        return at.loop == "messages" and _is_index(node.left) and _number(node.right) == 2

    def _read_compare(self, node: nodes.Compare, at: _ReadAt) -> bool:
        from jinja2 import nodes

        if len(node.ops) != 1 or (number := _number(node.ops[0].expr)) is None:
            return False
        sized = isinstance(node.expr, nodes.Filter) and node.expr.name in ("length", "count") and node.expr.node
        if (at.loop == "messages" and _is_index(node.expr)) or (sized and self.is_list(sized)):
            self.kept = max(self.kept, number + 1)  # which side of it a number or a length is on does not change
            return True
        return False

    def _read_and(self, node: nodes.And, at: _ReadAt) -> bool:
        if at.loop != "messages" or not (_is_last(node.left) or _is_last(node.right)):
            return False
        self._read_children(node, _ReadAt(at.loop, at.messages, True, at.late))
        return True

    def _read_if(self, node: nodes.If, at: _ReadAt) -> bool:
        self.read(node.test, at)
        late = at.late or (self._is_late(node.test) and not at.messages)
        last = at.last or (at.loop == "messages" and _is_last(node.test))
        for child in node.body:
            self.read(child, _ReadAt(at.loop, at.messages, last, late))
        for child in [*node.elif_, *node.else_]:
            self.read(child, _ReadAt(at.loop, at.messages, at.last, late))
        return True

    def _read_for(self, node: nodes.For, at: _ReadAt) -> bool:
        if node.recursive or node.test is not None or not _is_name(node.target) or node.target.name in self.lists:  # type: ignore[attr-defined]
            raise _UnknownConstruct
        over = self.is_list(node.iter)
        if over and (at.loop or at.late):
            raise _UnknownConstruct
        if over:
            from jinja2 import nodes

            self.offset += sum(s.start.value for s in node.iter.find_all(nodes.Slice) if s.start)  # type: ignore[attr-defined]
        else:
            self.read(node.iter, at)
        inside = _ReadAt("messages", True) if over else _ReadAt("inner", at.messages, at.last, at.late)
        for child in node.body:
            self.read(child, inside)
        for child in node.else_:
            self.read(child, at)
        return True

    def _read_assign(self, node: nodes.Assign, at: _ReadAt) -> bool:
        from jinja2 import nodes

        if not isinstance(node.target, nodes.Name) or at.late:
            raise _UnknownConstruct
        name, is_list = node.target.name, self.is_list(node.node)
        if is_list != (name in self.lists) or name == "loop" or (is_list and at.loop):
            raise _UnknownConstruct
        if not is_list:
            self.read(node.node, at)
        return True

    def _read_call(self, node: nodes.Call, at: _ReadAt) -> bool:
        from jinja2 import nodes

        called = node.node
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _UnknownConstruct
        if isinstance(called, nodes.Getattr) and called.attr in _METHODS and not _is_name(called.node, "loop"):
            self.read(called.node, at)
        elif not (isinstance(called, nodes.Name) and called.name in _FUNCTIONS):
            raise _UnknownConstruct
        for child in [*node.args, *node.kwargs]:
            self.read(child, at)
        return True

    def _read_filter(self, node: nodes.Filter, at: _ReadAt) -> bool:
        if node.node is None or node.name not in _FILTERS:
            raise _UnknownConstruct
        self._read_children(node, at)
        return True

    def _read_test(self, node: nodes.Test, at: _ReadAt) -> bool:
        if node.name not in _TESTS:
            raise _UnknownConstruct
        self._read_children(node, at)
        return True


def _all(node: nodes.Node, kind: type[NodeKind]) -> Iterator[NodeKind]:
    """The nodes of a kind in `node`, itself included."""
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)


def _loops(node: nodes.Node, reader: _TemplateReader) -> int:
    """Most loops over the messages that one rendering goes through."""
    from jinja2 import nodes

    if isinstance(node, nodes.If):
        ways = [node.body, node.else_, *[each.body for each in node.elif_]]
        return max(sum(_loops(child, reader) for child in way) for way in ways)
    own = isinstance(node, nodes.For) and reader.is_list(node.iter)
    return own + sum(_loops(child, reader) for child in node.iter_child_nodes())


def _number(node: nodes.Node | None) -> int | None:
    value = getattr(node, "value", None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _from_end(node: nodes.Node) -> int | None:
    """k of an index -k."""
    from jinja2 import nodes

    if isinstance(node, nodes.Neg):
        return _number(node.node)
    value = getattr(node, "value", None)
    return -value if isinstance(value, int) and value < 0 else None


def _is_name(node: nodes.Node, name: str | None = None) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Name) and name in (None, node.name)


def _is_index(node: nodes.Node) -> bool:
    return getattr(node, "attr", None) in ("index", "index0") and _is_name(node.node, "loop")  # type: ignore[attr-defined]


def _is_last(node: nodes.Node) -> bool:
    return getattr(node, "attr", None) == "last" and _is_name(node.node, "loop")  # type: ignore[attr-defined]
