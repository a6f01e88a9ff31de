"""Typed partial values: the same however the text is cut, typed as far as they go, never an error."""

# ruff: noqa: UP007, UP037, UP045 -- all spellings of a type are tested
from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import json
import time
import typing
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar, Union

import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    TypeAdapter,
    field_validator,
    model_validator,
)

import sgl
from sgl.interpreter.partial.values import MAX_DEPTH, Partials
from sgl.lang.constraint import Constraint, constraint_of, json_schema, of_dtype, schema

from ...watchdog import slowness, within

ANY = json_schema(True)


def events(constraint: Constraint | None, text: str) -> list[Any]:
    return Partials(constraint).feed(text)


def fed(constraint: Constraint, text: str, cuts: typing.Iterable[int]) -> list[Any]:
    """The events of a text that comes in pieces."""
    partials = Partials(constraint)
    return [event for cut in [*sorted(cuts), len(text)] for event in partials.feed(text[:cut])]


def last(tp: Any, text: str) -> Any:
    """What is known of a `tp` when its text has come so far."""
    return events(schema(tp), text)[-1]


# -- the events are a function of the text


def grown(value: Any) -> Iterator[Any]:
    """How a plain value grows, from its structure: the oracle."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            for part in grown(item):
                yield [*value[:i], part]
    elif isinstance(value, dict):
        members = list(value.items())
        for i, (key, item) in enumerate(members):
            for part in grown(item):
                yield {**dict(members[:i]), key: part}
    yield value


texts = st.text(st.characters(exclude_categories=("Cs",)))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)
layouts = st.fixed_dictionaries({"indent": st.sampled_from([None, 0, 2, "\t"]), "ensure_ascii": st.booleans()})


@given(plain, layouts, st.data())
def test_plain_values_grow_however_their_text_is_cut(value: Any, layout: Any, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(["", "\n "])) + json.dumps(value, **layout) + data.draw(st.sampled_from(["", " "]))
    expected = list(grown(value))
    if text[-1].isdigit():
        expected.pop()  # a digit may follow
    assert repr(events(ANY, text)) == repr(expected)
    assert repr(fed(ANY, text, range(len(text)))) == repr(expected)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert repr(fed(ANY, text, cuts)) == repr(expected)
    for cut in cuts:  # a prefix has a prefix of the events
        found = events(ANY, text[:cut])
        assert repr(found) == repr(expected[: len(found)])


@given(plain, layouts, st.data())
def test_malformed_text_raises_nothing_and_ends_the_events(value: Any, layout: Any, data: st.DataObject) -> None:
    text = json.dumps([value, value], **layout)
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.sampled_from('{}[],:"\\0-+.eEtfnNI\x00 x\ud800') | st.characters())
    text = text[:at] + junk + text[at + data.draw(st.integers(0, 1)) :]
    expected = events(ANY, text)
    assert repr(fed(ANY, text, range(len(text)))) == repr(expected)
    try:
        whole = json.loads(text)
    except ValueError:
        return
    if expected and len(list(grown(whole))) == len(expected):
        assert repr(expected[-1]) == repr(whole)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("[1, nul]", [[1]]),
        ("[1, nulll]", [[1], [1, None]]),
        ("[1,]", [[1]]),
        ("[1 2]", [[1]]),
        ("[1}", [[1]]),
        ("[1]]", [[1], [1]]),
        ('{"a": 1, "a": 2}', [{"a": 1}]),
        ('{"a": 1, "b" 2}', [{"a": 1}]),
        ('{"a": 1, 2: 3}', [{"a": 1}]),
        ('{"a": 1,}', [{"a": 1}]),
        ("{,}", []),
        ('[1, "\\x"]', [[1]]),
        ('[1, "\n"]', [[1]]),
        ('[1, "\\ud800"]', [[1]]),
        ("[1, NaN]", [[1]]),
        ("[1, -Infinity]", [[1]]),
        ("[1, 1e999]", [[1]]),
        ("[1, 01]", [[1]]),
        ("[1, 1.]", [[1]]),
        ("[1, +1]", [[1]]),
        ("[1, ٣]", [[1]]),
        ("[1, " + "9" * 5000 + "]", [[1]]),
        ("}", []),
        ("", []),
        (" ", []),
        ("12", []),
        ("12 ", [12]),
        ('"a" "b"', ["a"]),
        ("\ufeff[1]", []),
    ],
)
def test_what_is_no_json(text: str, known: list[Any]) -> None:
    assert events(ANY, text) == known == fed(ANY, text, range(len(text)))


def test_depth_is_bounded() -> None:
    text = "[" * 100_000 + "]" * 100_000
    with within(5):
        assert events(ANY, text) == []
        deep = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
        assert len(events(ANY, deep)) == MAX_DEPTH + 1
        nested: Any = list[int]
        for _ in range(50):
            nested = list[nested]
        assert events(schema(nested), "[" * 51 + "1" + "]" * 51)[-1] == json.loads("[" * 51 + "1" + "]" * 51)


# -- typed


class Kind(enum.Enum):
    BUG = "bug"
    IDEA = "idea"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: Optional["Point"] = None
    tags: set[str] = dataclasses.field(default_factory=set)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    lives: int
    born: datetime.date


class Size(NamedTuple):
    width: int
    unit: str = "cm"


class Extra(typing_extensions.TypedDict):
    a: int
    b: typing_extensions.NotRequired[datetime.date]


class Ticket(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    title: str = Field(alias="Title")
    kind: Kind = Kind.BUG
    pet: Union[Cat, Dog, None] = None
    tagged: Optional[Annotated[Union[Cat, Dog], Field(discriminator="kind")]] = None
    point: Point
    price: decimal.Decimal
    size: Size
    at: list[datetime.datetime]
    owners: dict[int, uuid.UUID]
    pair: tuple[int, str]
    extra: Extra
    either: Union[int, str, list[int]]
    anything: Any
    children: list["Ticket"] = []


pets = st.fixed_dictionaries({"lives": st.integers(0, 9), "kind": st.just("cat")}) | st.fixed_dictionaries(
    {"born": st.dates().map(str), "lives": st.integers(0, 9), "kind": st.just("dog")}
)
points = st.recursive(
    st.fixed_dictionaries({"x": st.integers(0, 9)}),
    lambda inner: st.fixed_dictionaries({"x": st.integers(0, 9), "y": inner, "tags": st.lists(texts, max_size=2)}),
    max_leaves=3,
)


def tickets(children: Any) -> Any:
    return st.fixed_dictionaries(
        {
            "Title": texts,
            "kind": st.sampled_from(["bug", "idea"]),
            "pet": pets | st.none(),
            "tagged": pets | st.none(),
            "point": points,
            "price": st.decimals(0, 9, places=2).map(str),
            "size": st.fixed_dictionaries({"width": st.integers(0, 9)}, optional={"unit": texts}),
            "at": st.lists(st.datetimes().map(lambda t: t.isoformat() + "Z"), max_size=2),
            "owners": st.dictionaries(st.integers(0, 99).map(str), st.uuids().map(str), max_size=2),
            "pair": st.tuples(st.integers(), texts),
            "extra": st.fixed_dictionaries({"a": st.integers()}, optional={"b": st.dates().map(str)}),
            "either": st.integers() | texts | st.lists(st.integers(), max_size=3),
            "anything": plain,
            "children": children,
        }
    )


some_tickets = tickets(st.lists(tickets(st.just([])), max_size=2))


def check_grows_into(partial: Any, final: Any) -> None:
    """Each part of a partial value is missing, or what it will be, or a part of that of the same type."""
    if partial is None:
        return
    if isinstance(final, (Cat, Dog)) and type(partial) is dict:  # undecided
        assert all(str(getattr(final, key)) == str(value) for key, value in partial.items())
        return
    assert type(partial) is type(final), (partial, final)
    if isinstance(final, BaseModel):
        for name in type(final).model_fields:
            check_grows_into(getattr(partial, name), getattr(final, name))
    elif dataclasses.is_dataclass(final):
        for field in dataclasses.fields(final):
            check_grows_into(getattr(partial, field.name), getattr(final, field.name))
    elif isinstance(final, dict):
        for key, value in partial.items():
            check_grows_into(value, final[key]) if value is not None else None
    elif isinstance(final, (list, tuple)):
        assert len(partial) <= len(final)
        for part, whole in zip(partial, final):
            check_grows_into(part, whole)
    elif isinstance(final, set):
        assert partial <= final
    else:
        assert partial == final


@settings(max_examples=40, deadline=None)
@given(some_tickets, layouts, st.data())
def test_typed_values_grow_however_their_text_is_cut(value: Any, layout: Any, data: st.DataObject) -> None:
    constraint, text = schema(Ticket), json.dumps(value, **layout)
    expected = events(constraint, text)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert repr(fed(constraint, text, cuts)) == repr(expected) == repr(fed(constraint, text, range(len(text))))
    final = TypeAdapter(Ticket).validate_json(text)
    assert expected[-1] == final and len(expected) == len(list(grown(json.loads(text))))
    for event in expected:
        check_grows_into(event, final)


def test_a_ticket_step_by_step() -> None:
    text = '{"Title": " x ", "kind": "idea", "point": {"x": 1, "y": {"x": 2'
    assert [e.title for e in events(schema(Ticket), text)] == ["x"] * 3
    ticket = last(Ticket, text + ",")
    assert isinstance(ticket, Ticket) and ticket.model_fields_set == {"title", "kind", "point"}
    assert ticket.kind is Kind.IDEA and ticket.point == Point(1, Point(2, None, None), None)  # type: ignore[arg-type]
    assert ticket.size is None and ticket.children is None, "missing, and no default"
    assert "kind=<Kind.IDEA" in repr(ticket)


def test_what_is_complete_is_as_it_will_be() -> None:
    assert last(Point, '{"x": 1, "y": {"x": 2}, ').y == Point(2), "its defaults too"
    assert last(Ticket, '{"title": "by its name", "kind": "bug", ').title is None, "in JSON it has another name"


def test_earlier_snapshots_stay_as_they_were() -> None:
    partials, text = (
        Partials(schema(Ticket)),
        '{"Title": "x", "at": ["2020-01-01T00:00:00Z"], "owners": {}, "pair": [1, "a"]}',
    )
    seen: list[tuple[Any, str]] = []
    for i in range(len(text) + 1):
        seen += [(event, repr(event)) for event in partials.feed(text[:i])]
        assert all(repr(event) == was for event, was in seen)
    assert len(seen) == 8


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    with_init: dataclasses.InitVar[int]
    b: str = "default"
    c: int = dataclasses.field(default=3, init=False)

    def __post_init__(self, with_init: int) -> None:
        assert isinstance(self.b, str)


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)
    a: int = Field(0, alias="A")


class Choices(BaseModel):
    a: int = Field(validation_alias=AliasChoices("first", "second"))


class Numbers(RootModel[list[int]]):
    pass


class ByName(RootModel[dict[str, Cat]]):
    pass


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class OldDict(TypedDict, total=False):
    a: int


class Alias(typing_extensions.TypedDict):
    a: Annotated[int, Field(alias="A")]


@pytest.mark.parametrize(
    ("tp", "text", "value"),
    [
        (int, "12 ", 12),
        (Kind, '"bug"', Kind.BUG),
        (Literal["a", 1], '"a"', "a"),
        (datetime.date, '"2020-01-02"', datetime.date(2020, 1, 2)),
        (datetime.timedelta, '"P1D"', datetime.timedelta(1)),
        (list[decimal.Decimal], '["1.0", "2', [decimal.Decimal("1.0")]),
        (set[int], "[1, 2, ", {1, 2}),
        (frozenset[int], "[1, ", frozenset([1])),
        (collections.deque[int], "[1, ", [1]),
        (collections.deque[int], "[1]", collections.deque([1])),
        (tuple[int, str], "[1, ", (1, None)),
        (tuple[datetime.date, ...], '["2020-01-02", ', (datetime.date(2020, 1, 2),)),
        (tuple[int, str], "[]", (None, None)),  # refused: as it was while it was open
        (dict[str, Kind], '{"a": "bug", "b', {"a": Kind.BUG}),
        (dict[int, list[int]], '{"1": [2, ', {1: [2]}),
        (dict[Kind, int], '{"bug": 2, ', {Kind.BUG: 2}),
        (collections.Counter[str], '{"a": 2}', collections.Counter(a=2)),
        (Optional[Point], '{"x": 1, ', Point(1, None, None)),  # type: ignore[arg-type]
        (Optional[Point], "null", None),
        (Union[Point, list[Kind], int], '["bug", ', [Kind.BUG]),
        (Annotated[list[int], Field(max_length=2)], "[1, ", [1]),
        (Annotated[list[int], BeforeValidator(lambda v: v)], "[1, ", [1]),
        (Numbers, "[1, ", Numbers([1])),
        (Optional[Numbers], "[1, ", Numbers([1])),
        (Box[Numbers], '{"content": [1, ', Box[Numbers](content=Numbers([1]))),
        (Box[int], '{"content": 1, ', Box[int](content=1)),
        (Choices, '{"second": 1, ', Choices(second=1)),  # type: ignore[call-arg]
        (Extra, '{"a": 1, ', {"a": 1}),
        (Extra, '{"b": "2020-01-02", ', {"a": None, "b": datetime.date(2020, 1, 2)}),
        (OldDict, "{}", {}),
        (Alias, '{"A": 1, ', {"a": 1}),
        (Size, '{"width": 1, ', Size(1, None)),  # type: ignore[arg-type]
        (list[Size], '[{"width": 1}, ', [Size(1)]),
        (Any, '{"a": [1, ', {"a": [1]}),
        (dict[str, Any], '{"a": [1, {"b": "2020-01-01"', {"a": [1, {"b": "2020-01-01"}]}),
    ],
)
def test_each_kind_of_type(tp: Any, text: str, value: Any) -> None:
    found = last(tp, text)
    assert found == value and type(found) is type(value)
    assert repr(found) == repr(value)


def test_classes_that_need_their_own_code() -> None:
    slotted = last(Slotted, '{"a": 1, "with_init": 2, ')
    assert (type(slotted), slotted.a, slotted.b, slotted.c) == (Slotted, 1, None, None)
    whole = last(Slotted, '{"a": 1, "with_init": 2, "b": "x"}')
    assert (whole.a, whole.b, whole.c) == (1, "x", 3)
    loose = last(Loose, '{"A": 1, "more": [2], ')
    assert loose.a == 1 and loose.more == [2] and loose.model_extra == {"more": [2]}
    assert last(Loose, '{"a": 1, ').a == 1
    named = last(ByName, '{"tom": {"lives": 7, ')
    assert type(named) is ByName and type(named.root["tom"]) is Cat and named.root["tom"].lives == 7


RAN: list[str] = []


class Careful(BaseModel):
    _private: int = PrivateAttr(default=5)
    _made: list[int] = PrivateAttr(default_factory=lambda: RAN.append("private") or [6])
    low: int
    high: int = Field(default_factory=lambda: RAN.append("default") or 1)
    parts: list[Careful] = []
    name: str = ""

    @field_validator("name")
    @classmethod
    def _upper(cls, name: str, info: Any) -> str:
        return f"{name.upper()} {info.data['low']}" if name == "broken" else name.upper()

    @model_validator(mode="after")
    def _check(self) -> Careful:
        RAN.append("whole")
        if self.low > self.high:
            raise ValueError("low is above high")
        return self

    def model_post_init(self, context: object) -> None:
        RAN.append("post")


def test_code_of_the_whole_object_runs_only_when_it_is_whole() -> None:
    RAN.clear()
    partials, text = Partials(schema(Careful)), '{"low": 2, "name": "x", "high": 3'
    found = partials.feed(text + ",")
    assert RAN == [] and [(f.low, f.high, f.name) for f in found] == [(2, None, None), (2, None, "X"), (2, 3, "X")]
    assert found[0]._private == 5 and not hasattr(found[0], "_made")
    found = events(schema(Careful), text + "}")
    assert RAN == ["private", "post", "whole"] and type(found[-1]) is Careful


def test_what_is_refused_is_left_as_it_is() -> None:
    found = last(list[Careful], '[{"low": 3, "high": 1}, ')
    assert type(found[0]) is Careful and (found[0].low, found[0].high) == (3, 1), "refused as a whole"
    found = last(Careful, '{"low": "three", "name": "broken", ')
    assert (found.low, found.name) == ("three", "broken"), "refused, and a validator that needs what is not there"
    assert last(list[datetime.date], '["2020-13-01", "2020-01-01"') == ["2020-13-01", datetime.date(2020, 1, 1)]
    assert last(set[Any], "[[1], ") == [[1]], "a set cannot hold it"
    assert last(Careful, '{"unknown": 1, "low": 2, ').low == 2
    assert last(Careful, "[1, 2]") == [1, 2]
    assert last(list[Careful], '{"a": 1, ') == {"a": 1}

    def odd(value: int) -> int:
        raise ZeroDivisionError

    assert last(list[Annotated[int, AfterValidator(odd)]], "[1, ") == [1]


class Left(BaseModel):
    a: int
    b: int
    c: datetime.date


class Right(BaseModel):
    a: int
    d: int


def test_a_union_is_plain_until_one_member_is_left() -> None:
    union = Union[Left, Right]
    assert last(union, '{"a": 1, ') == {"a": 1}
    left = last(union, '{"c": "2020-01-02", ')
    assert type(left) is Left and left.c == datetime.date(2020, 1, 2)
    left = last(union, '{"a": 1, "b": 2, ')
    assert type(left) is Left and (left.a, left.b, left.c) == (1, 2, None)
    pet = Union[Cat, Dog]
    assert last(pet, '{"lives": 3, ') == {"lives": 3}
    assert type(last(pet, '{"lives": 3, "kind": "dog", ')) is Dog
    assert type(last(list[pet], '[{"kind": "dog", "lives": 2}, {"kind": "cat", ')[1]) is Cat
    assert last(Union[list[int], list[datetime.date]], '["2020-01-02", ') == [datetime.date(2020, 1, 2)]
    assert last(Union[list[int], tuple[str, str]], '["a", ') == ("a", None)
    assert last(Union[Cat, dict[str, int]], '{"lives": 3, ') == {"lives": 3}, "both may be"
    assert last(Union[Cat, dict[str, int]], '{"lives": 3}') == Cat(lives=3)
    assert last(union, '{"a": 1, "z": 2, ') == {"a": 1, "z": 2}, "none is left"
    nested = Union[Left, Box[Union[Left, Right]]]
    found = last(nested, '{"content": {"a": 1, "d": 4, ')
    assert isinstance(found, Box) and type(found.content) is Right


def test_types_of_a_dtype_and_plain_schemas() -> None:
    assert events(of_dtype(list[Kind]), '["bug"]')[0] == [Kind.BUG]
    assert events(json_schema({"type": "object"}), '{"a": "2020-01-01"}') == [{"a": "2020-01-01"}] * 2


@pytest.mark.parametrize(
    "constraint",
    [
        None,
        of_dtype(int),
        sgl.regex(r"\[1\]"),
        sgl.choice(["[1]"]),
        sgl.ebnf('root ::= "[1]"'),
        "Total: " + schema(list[int]),
        schema(list[int]) | schema(list[str]),
    ],
)
def test_other_constraints_have_no_partial_values(constraint: Any) -> None:
    assert events(constraint if constraint is None else constraint_of(constraint), "[1]") == []


def test_a_late_reader_may_take_events_one_by_one() -> None:
    partials = Partials(ANY)
    found = partials.events("[1, 2, 3]")
    assert next(found) == [1] and list(found) == [[1, 2], [1, 2, 3], [1, 2, 3]]
    assert partials.feed("[1, 2, 3] ") == []


class Item(BaseModel):
    name: str
    n: int
    ok: bool
    at: datetime.date
    tags: list[str]


class Items(BaseModel):
    items: list[Item]


def _seconds(constraint: Constraint, text: str) -> float:
    began, partials = time.process_time(), Partials(constraint)
    for i in range(0, len(text) + 5, 5):
        collections.deque(partials.events(text[:i]), maxlen=0)
    return time.process_time() - began


@pytest.mark.parametrize("constraint", [schema(Items), ANY], ids=["typed", "plain"])
def test_a_long_array_costs_no_quadratic_time(constraint: Constraint) -> None:
    """2,000 objects of 160 kB in pieces of 5 characters take 0.3 s; a parse at each event would take minutes."""
    item = {"name": "x" * 9, "n": 1, "ok": True, "at": "2020-01-02", "tags": ["a", "b"]}
    short, long = (json.dumps({"items": [item] * n}) for n in (250, 2000))
    first = min(_seconds(constraint, short) for _ in range(3))
    assert _seconds(constraint, long) < max(8 * 4 * first, 1.0 * slowness())


def test_a_long_string_is_scanned_once() -> None:
    text = '["' + "\\n" * 50_000 + "x" * 50_000
    partials = Partials(ANY)
    with within(10):
        for i in range(0, len(text), 3):
            assert partials.feed(text[:i]) == []
        assert partials.feed(text + '"') == [["\n" * 50_000 + "x" * 50_000]]


def test_snapshots_can_be_copied() -> None:
    ticket = last(Ticket, '{"Title": "x", "point": {"x": 1, ')
    assert copy.deepcopy(ticket) == ticket and ticket.model_copy().title == "x"
