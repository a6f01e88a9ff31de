"""What of a schema can be reached, and what can hold at all.

Owns: the walk over the conditions from the root, and the least fixpoint of "some finite value meets it". A recursive
schema without a base case is met by nothing; the engine would never end. Knows nothing of how it is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .....lang.errors import ConstraintError
from .pieces import item
from .sets import ANY, NEVER, Cond, Items, Members, Shape, meet

MOST = 20_000  # conditions of a schema


def children(shape: Shape) -> Iterator[Cond]:
    """The conditions that the pieces of a shape speak of."""
    for items in shape.arrays:
        yield from items.prefix
        yield items.rest
    for members in shape.objects:
        for _, cond in members.named:
            yield cond
        for cond in overlaps([cond for _, cond in members.kinds]):
            yield cond
        yield members.others


def overlaps(conds: list[Cond]) -> list[Cond]:
    """The conditions that members of several kinds can come to."""
    out = dict.fromkeys(conds)
    for cond in conds:
        for other in [*out]:
            if len(out) > 256:
                return list(out)
            out.setdefault(meet(cond, other))
    return list(out)


def reach(root: Cond, shape: Callable[[Cond], Shape]) -> dict[Cond, Shape]:
    """Each condition that can be reached, with its shape."""
    found: dict[Cond, Shape] = {}
    stack = [root]
    while stack:
        cond = stack.pop()
        if cond in found or cond in (ANY, NEVER):
            continue
        if len(found) > MOST:
            raise ConstraintError(f"(root): the schema is too large: it comes to more than {MOST} conditions")
        found[cond] = shape(cond)
        stack.extend(children(found[cond]))
    return found


def inhabited(found: dict[Cond, Shape]) -> set[Cond]:
    """The conditions that some finite value meets."""
    out: set[Cond] = {ANY}
    waiting: dict[Cond, list[Cond]] = {}
    for cond, shape in found.items():
        for needed in children(shape):
            waiting.setdefault(needed, []).append(cond)
    stack = list(found)
    while stack:
        cond = stack.pop()
        if cond not in out and _holds(found[cond], out):
            out.add(cond)
            stack.extend(waiting.get(cond, ()))
    return out


def _holds(shape: Shape, known: set[Cond]) -> bool:
    return (
        shape.null
        or bool(shape.booleans or shape.numbers or shape.strings)
        or any(possible_items(items, known) for items in shape.arrays)
        or any(possible_members(members, known) for members in shape.objects)
    )


def possible_items(items: Items, known: set[Cond]) -> bool:
    """Whether the items that an array needs can be."""
    return all(item(items, index) in known for index in range(min(items.least, len(items.prefix) + 1)))


def possible_members(members: Members, known: set[Cond]) -> bool:
    """Whether the members that an object needs can be."""
    named = dict(members.named)
    if not all(named[name] in known for name in members.required):
        return False
    if members.least <= len(members.required):
        return True
    can = sum(cond in known for cond in named.values())
    return can >= members.least or members.others in known or any(cond in known for _, cond in members.kinds)
