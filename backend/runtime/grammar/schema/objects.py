"""The algebra of one piece of objects: what is in two, what is not in one, and which covers which.

Knows nothing of unions of pieces (`combine.py`); `both_*`, `not_*` and `tidy_*` are as in `pieces.py`. An object is
*closed* if only its named keys can be in it; then a duty that some member must meet is spelled out.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from .languages import member, names, vacant
from .pieces import MOST_COMBINED_WAYS, MOST_WAYS, Inexact, fewest, unmet
from .sets import ANY, NEVER, Condition, Duty, Languages, ObjectSet, Origin, meet, negated

Kind = tuple[Languages, Condition]


def cond_of(members: ObjectSet, name: str) -> Condition:
    """Return what the member of this name must meet."""
    return _cond(members, dict(members.named), name)


def _cond(members: ObjectSet, named: dict[str, Condition], name: str) -> Condition:
    if name in named:
        return named[name]
    met = [cond for group, cond in members.kinds if member(group, name)]
    return functools.reduce(meet, met) if met else members.others


def both_object(a: ObjectSet, b: ObjectSet) -> list[ObjectSet]:
    named_a, named_b = dict(a.named), dict(b.named)
    named = tuple(
        (name, meet(_cond(a, named_a, name), _cond(b, named_b, name))) for name in dict.fromkeys((*named_a, *named_b))
    )
    kinds, others = _both_kinds(a, b)
    made = ObjectSet(
        named,
        kinds,
        others,
        tuple(dict.fromkeys((*a.required, *b.required))),
        max(a.least, b.least),
        fewest(a.most, b.most),
        a.duties | b.duties,
        a.origins | b.origins,
    )
    return tidy_object(made)


def _both_kinds(a: ObjectSet, b: ObjectSet) -> tuple[tuple[Kind, ...], Condition]:
    if a.closed or b.closed:
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


def _remainder(members: ObjectSet) -> list[Kind]:
    """Return `others` as a kind."""
    return [] if members.others == ANY else [(rest_of(members), members.others)]


def rest_of(members: ObjectSet) -> Languages:
    """Return the language of the keys that are in none of the kinds; it may hold named keys."""
    out: Languages = frozenset()
    for group, _ in members.kinds:
        if len(group) > 1:
            raise Inexact
        out |= {pattern.opposite() for pattern in group}
    return out


def tidy_object(members: ObjectSet) -> list[ObjectSet]:
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
    if members.closed:
        named = {name: cond for name, cond in named.items() if cond != NEVER}
        if least > len(named):
            return []
        most = None if most is not None and most >= len(named) else most
    if most == len(members.required):
        required = tuple((name, named[name]) for name in members.required)
        return _with_some(ObjectSet(required, (), NEVER, members.required, 0, None, members.duties))
    return _with_some(replace(members, named=tuple(named.items()), least=least, most=most))


def _with_some(members: ObjectSet) -> list[ObjectSet]:
    named = dict(members.named)
    for duty in sorted(members.duties, key=lambda s: (sorted(s.cond), s.origin.pointer)):
        others = replace(members, duties=members.duties - {duty})
        if duty.cond == ANY and not duty.names and not duty.but:
            return tidy_object(replace(others, least=max(others.least, 1), origins=others.origins | {duty.origin}))
        can = [name for name in named if name not in duty.but and member(duty.names, name)]
        if any(name in members.required and duty.cond <= named[name] for name in can):
            return tidy_object(others)
        if len(can) > MOST_WAYS or len(can) ** len(members.duties) > MOST_COMBINED_WAYS or not _shut(members, duty):
            continue
        out: list[ObjectSet] = []
        for name in can:
            cond = meet(named[name], duty.cond)
            if cond != NEVER:
                changed = tuple({**named, name: cond}.items())
                out += tidy_object(replace(others, named=changed, required=(*members.required, name)))
        return out
    return [members]


def _keys_of(duty: Duty) -> Languages:
    """Return the language of the keys whose member can meet a duty."""
    return duty.names | ({names(duty.but).opposite()} if duty.but else frozenset())


def _shut(members: ObjectSet, duty: Duty) -> bool:
    """Whether only named keys can meet a duty."""
    beside = _keys_of(duty)
    for group, cond in members.kinds:
        if meet(cond, duty.cond) != NEVER and not vacant(beside | group):
            return False
    if meet(members.others, duty.cond) == NEVER:
        return True
    try:
        return vacant(beside | rest_of(members))
    except Inexact:
        return False


def not_object(members: ObjectSet, origin: Origin) -> list[ObjectSet]:
    out = [ObjectSet(((name, NEVER),)) for name in members.required]
    for name, cond in members.named:
        out += [ObjectSet(((name, negated(place)),), required=(name,)) for place in sorted(cond)]
    but = frozenset(name for name, _ in members.named)
    for group, cond in members.kinds:
        out += [_duty(negated(place), origin, group, but) for place in sorted(cond)]
    if members.others != ANY:
        rest = rest_of(members)
        out += [_duty(negated(place), origin, rest, but) for place in sorted(members.others)]
    if members.least > 0:
        out.append(ObjectSet(most=members.least - 1, origins=frozenset({origin})))
    if members.most is not None:
        out.append(ObjectSet(least=members.most + 1, origins=frozenset({origin})))
    for duty in members.duties:
        group, cond = _keys_of(duty), unmet(duty)
        out.append(ObjectSet(kinds=((group, cond),)) if group else ObjectSet(others=cond))
    return [tidy for piece in out for tidy in tidy_object(piece)]


def _duty(cond: Condition, origin: Origin, group: Languages, but: frozenset[str]) -> ObjectSet:
    return ObjectSet(duties=frozenset({Duty(cond, origin, group, but)}))


def covers(a: ObjectSet, b: ObjectSet) -> bool:
    """Whether every object of `b` is surely one of `a`, as far as the pieces themselves tell."""
    if not (set(a.required) <= set(b.required) and a.duties <= b.duties and a.least <= max(b.least, len(b.required))):
        return False
    if a.most is not None and (b.most is None or b.most > a.most):
        return False
    named_a, named_b = dict(a.named), dict(b.named)
    if any(not implied(_cond(a, named_a, name), _cond(b, named_b, name)) for name in {**named_a, **named_b}):
        return False
    if b.closed or (not a.kinds and a.others == ANY):
        return True
    if [group for group, _ in a.kinds] != [group for group, _ in b.kinds] or not implied(a.others, b.others):
        return False
    return all(implied(x, y) for (_, x), (_, y) in zip(a.kinds, b.kinds))


def implied(a: Condition, b: Condition) -> bool:
    """Whether what meets `b` surely meets `a`."""
    return a <= b or b == NEVER
