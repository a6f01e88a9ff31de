"""The algebra of objects: both of two pieces, and what a piece leaves out.

Owns: `both_members`, `not_members`, `cond_of` (what the member of a name must meet). As in `pieces.py`, what is
returned is simplified. An object is *closed* if no key but its named ones can be in it; then "some member is such" is
spelled out.
"""

from __future__ import annotations

from dataclasses import replace

from .languages import member, names, vacant
from .pieces import MOST_WAYS, WAYS, Inexact
from .sets import ANY, NEVER, Class, Cond, Members, Origin, Some, meet, negated

Kind = tuple[Class, Cond]


def cond_of(members: Members, name: str) -> Cond:
    """What the member of this name must meet."""
    return _cond(members, dict(members.named), name)


def _cond(members: Members, named: dict[str, Cond], name: str) -> Cond:
    if name in named:
        return named[name]
    met = [cond for group, cond in members.kinds if member(group, name)]
    if not met:
        return members.others
    out = ANY
    for cond in met:
        out = meet(out, cond)
    return out


def is_closed(members: Members) -> bool:
    return not members.kinds and members.others == NEVER


def both_members(a: Members, b: Members) -> list[Members]:
    named_a, named_b = dict(a.named), dict(b.named)
    named = tuple(
        (name, meet(_cond(a, named_a, name), _cond(b, named_b, name))) for name in dict.fromkeys((*named_a, *named_b))
    )
    kinds, others = _both_kinds(a, b)
    most = b.most if a.most is None else a.most if b.most is None else min(a.most, b.most)
    made = Members(
        named,
        kinds,
        others,
        tuple(dict.fromkeys((*a.required, *b.required))),
        max(a.least, b.least),
        most,
        a.some | b.some,
        a.origins | b.origins,
    )
    return tidy_members(made)


def _both_kinds(a: Members, b: Members) -> tuple[tuple[Kind, ...], Cond]:
    if is_closed(a) or is_closed(b):
        return (), NEVER
    if not a.kinds and not b.kinds:
        return (), meet(a.others, b.others)
    if [group for group, _ in a.kinds] == [group for group, _ in b.kinds]:
        both = tuple((group, meet(x, y)) for (group, x), (_, y) in zip(a.kinds, b.kinds))
        return both, meet(a.others, b.others)
    if not b.kinds and b.others == ANY:
        return a.kinds, a.others
    if not a.kinds and a.others == ANY:
        return b.kinds, b.others
    kinds = dict(a.kinds)
    for group, cond in (*b.kinds, *_remainder(a), *_remainder(b)):
        kinds[group] = meet(kinds.get(group, ANY), cond)
    return tuple(kinds.items()), ANY


def _remainder(members: Members) -> list[Kind]:
    """`others` as a kind."""
    if members.others == ANY:
        return []
    return [(rest_of(members), members.others)]


def rest_of(members: Members) -> Class:
    """The language of the keys that are in none of the kinds (named keys are not taken out)."""
    out: Class = frozenset()
    for group, _ in members.kinds:
        if len(group) > 1:
            raise Inexact
        out |= {pattern.opposite() for pattern in group}
    return out


def tidy_members(members: Members) -> list[Members]:
    named = dict(members.named)
    for name in members.required:
        if name not in named:
            named[name] = _cond(members, named, name)
        if named[name] == NEVER:
            return []
    most, least = members.most, members.least
    if most is not None and most < max(least, len(members.required)):
        return []
    least = 0 if least <= len(members.required) else least
    if is_closed(members):
        named = {name: cond for name, cond in named.items() if cond != NEVER}
        if least > len(named):
            return []
        most = None if most is not None and most >= len(named) else most
    if most == len(members.required):
        named = {name: named[name] for name in members.required}
        made = Members(tuple(named.items()), (), NEVER, members.required, 0, None, members.some)
        return _with_some(made)
    return _with_some(replace(members, named=tuple(named.items()), least=least, most=most))


def _with_some(members: Members) -> list[Members]:
    named = dict(members.named)
    for some in sorted(members.some, key=lambda s: (sorted(s.cond), s.origin.pointer)):
        others = replace(members, some=members.some - {some})
        if some.cond == ANY and not some.names and not some.but:
            return tidy_members(replace(others, least=max(others.least, 1), origins=others.origins | {some.origin}))
        can = [name for name in named if name not in some.but and member(some.names, name)]
        if any(name in members.required and some.cond <= named[name] for name in can):
            return tidy_members(others)
        if len(can) > WAYS or len(can) ** len(members.some) > MOST_WAYS or not _shut(members, some):
            continue
        out: list[Members] = []
        for name in can:
            cond = meet(named[name], some.cond)
            if cond != NEVER:
                changed = tuple({**named, name: cond}.items())
                out += tidy_members(replace(others, named=changed, required=(*members.required, name)))
        return out
    return [members]


def _shut(members: Members, some: Some) -> bool:
    """Whether only named keys can meet a duty."""
    beside = some.names | ({names(some.but).opposite()} if some.but else frozenset())
    for group, cond in members.kinds:
        if meet(cond, some.cond) != NEVER and not vacant(beside | group):
            return False
    if meet(members.others, some.cond) == NEVER:
        return True
    try:
        return vacant(beside | rest_of(members))
    except Inexact:
        return False


def not_members(members: Members, origin: Origin) -> list[Members]:
    out: list[Members] = []
    for name in members.required:
        out.append(Members(((name, NEVER),)))
    for name, cond in members.named:
        out += [Members(((name, negated(place)),), required=(name,)) for place in sorted(cond)]
    but = frozenset(name for name, _ in members.named)
    for group, cond in members.kinds:
        out += [_duty(negated(place), origin, group, but) for place in sorted(cond)]
    if members.others != ANY:
        rest = rest_of(members)
        out += [_duty(negated(place), origin, rest, but) for place in sorted(members.others)]
    if members.least > 0:
        out.append(Members(most=members.least - 1, origins=frozenset({origin})))
    if members.most is not None:
        out.append(Members(least=members.most + 1, origins=frozenset({origin})))
    for some in members.some:
        if len(some.cond) > 1:
            raise Inexact
        cond = negated(next(iter(some.cond))) if some.cond else NEVER
        group = some.names | ({names(some.but).opposite()} if some.but else frozenset())
        out.append(Members(kinds=((group, cond),)) if group else Members(others=cond))
    return [tidy for piece in out for tidy in tidy_members(piece)]


def _duty(cond: Cond, origin: Origin, group: Class, but: frozenset[str]) -> Members:
    return Members(some=frozenset({Some(cond, origin, group, but)}))


def covers(a: Members, b: Members) -> bool:
    """Whether every object of `b` is surely one of `a` (by what is written only)."""
    if not (set(a.required) <= set(b.required) and a.some <= b.some and a.least <= max(b.least, len(b.required))):
        return False
    if a.most is not None and (b.most is None or b.most > a.most):
        return False
    named_a, named_b = dict(a.named), dict(b.named)
    if any(not implied(_cond(a, named_a, name), _cond(b, named_b, name)) for name in {**named_a, **named_b}):
        return False
    if is_closed(b) or (not a.kinds and a.others == ANY):
        return True
    if [group for group, _ in a.kinds] != [group for group, _ in b.kinds] or not implied(a.others, b.others):
        return False
    return all(implied(x, y) for (_, x), (_, y) in zip(a.kinds, b.kinds))


def implied(a: Cond, b: Cond) -> bool:
    """Whether what meets `b` surely meets `a`."""
    return a <= b or b == NEVER
