"""Which conditions the root leads to, and which of them some finite value meets: a walk, and a least fixpoint.

Knows nothing of how conditions are written for the engine. Nothing meets a recursive schema without a base case, and
the engine would never end in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .....lang.errors import ConstraintError
from .sets import ANY, NEVER, ArraySet, Condition, ObjectSet, ValueSet, meet

MOST_CONDITIONS = 20_000  # of a schema
MOST_OVERLAPS = 256  # conditions that the members of several kinds of one object can come to


def children(shape: ValueSet) -> Iterator[Condition]:
    """Yield the conditions of the items and members of a set."""
    for items in shape.arrays:
        yield from items.prefix
        yield items.rest
    for members in shape.objects:
        yield from (cond for _, cond in members.named)
        yield from overlaps([cond for _, cond in members.kinds])
        yield members.others


def overlaps(conds: list[Condition]) -> list[Condition]:
    """Return the conditions that a member of one or more kinds may have to meet."""
    out = dict.fromkeys(conds)
    for cond in conds:
        for other in [*out]:
            if len(out) > MOST_OVERLAPS:
                return list(out)
            out.setdefault(meet(cond, other))
    return list(out)


def reach(root: Condition, shape: Callable[[Condition], ValueSet]) -> dict[Condition, ValueSet]:
    """Return each condition that can be reached, with its set."""
    found: dict[Condition, ValueSet] = {}
    stack = [root]
    while stack:
        cond = stack.pop()
        if cond in found or cond in (ANY, NEVER):
            continue
        if len(found) > MOST_CONDITIONS:
            raise ConstraintError(
                f"(root): the schema is too large: it comes to more than {MOST_CONDITIONS} conditions"
            )
        found[cond] = shape(cond)
        stack.extend(children(found[cond]))
    return found


def inhabited(found: dict[Condition, ValueSet]) -> set[Condition]:
    """Return the conditions that some finite value meets."""
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
    """Whether the items that an array must have can exist."""
    return items.needed <= known


def possible_object(members: ObjectSet, known: set[Condition]) -> bool:
    """Whether the members that an object must have can exist."""
    named = dict(members.named)
    if not all(named[name] in known for name in members.required):
        return False
    if members.least <= len(members.required):
        return True
    can = sum(cond in known for cond in named.values())
    return can >= members.least or members.others in known or any(cond in known for _, cond in members.kinds)
