"""What of a schema can be reached, and what can hold at all.

Owns: the walk over the conditions from the root, and the least fixpoint of "some finite value meets it". A recursive
schema without a base case is met by nothing; the engine would never end. Knows nothing of how it is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .....lang.errors import ConstraintError
from .pieces import item
from .sets import ANY, NEVER, ArraySet, Condition, ObjectSet, ValueSet, meet

MOST = 20_000  # conditions of a schema


def children(shape: ValueSet) -> Iterator[Condition]:
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


def overlaps(conds: list[Condition]) -> list[Condition]:
    """The conditions that members of several kinds can come to."""
    out = dict.fromkeys(conds)
    for cond in conds:
        for other in [*out]:
            if len(out) > 256:
                return list(out)
            out.setdefault(meet(cond, other))
    return list(out)


def reach(root: Condition, shape: Callable[[Condition], ValueSet]) -> dict[Condition, ValueSet]:
    """Each condition that can be reached, with its shape."""
    found: dict[Condition, ValueSet] = {}
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


def inhabited(found: dict[Condition, ValueSet]) -> set[Condition]:
    """The conditions that some finite value meets."""
    out: set[Condition] = {ANY}
    waiting: dict[Condition, list[Condition]] = {}
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


def _holds(shape: ValueSet, known: set[Condition]) -> bool:
    return (
        shape.null
        or bool(shape.booleans or shape.numbers or shape.strings)
        or any(possible_array(items, known) for items in shape.arrays)
        or any(possible_object(members, known) for members in shape.objects)
    )


def possible_array(items: ArraySet, known: set[Condition]) -> bool:
    """Whether the items that an array needs can be."""
    return all(item(items, index) in known for index in range(min(items.least, len(items.prefix) + 1)))


def possible_object(members: ObjectSet, known: set[Condition]) -> bool:
    """Whether the members that an object needs can be."""
    named = dict(members.named)
    if not all(named[name] in known for name in members.required):
        return False
    if members.least <= len(members.required):
        return True
    can = sum(cond in known for cond in named.values())
    return can >= members.least or members.others in known or any(cond in known for _, cond in members.kinds)
