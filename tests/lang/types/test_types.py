# ruff: noqa: UP006, UP007, UP035, UP045 (typing's own spellings are types too)
"""Python types as constraints: golden schemas, instances of the schema read back by pydantic, and what is refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import ipaddress
import json
import re
import subprocess
import sys
import types
import typing
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Dict, Generic, List, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import annotated_types
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    RootModel,
    Tag,
    computed_field,
    field_validator,
    model_validator,
)
from typing_extensions import NotRequired, Required, TypeAliasType, TypedDict

from sgl.lang.constraint import JsonSchema, Regex, from_type, of_dtype
from sgl.lang.errors import ConstraintError
from sgl.lang.types.conversion import (
    checked_afterwards,
    parse,
    value_of_dtype,
)
from sgl.lang.types.decimals import decimals

T = TypeVar("T")


def named(value: object) -> str:
    """`value` as a test's name: without addresses, because the workers of one run must find the same names."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Mixed(enum.Enum):
    WORD = "w"
    ONE = 1
    HALF = 0.5
    NOTHING = None
    YES = "true"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str, enum.Enum):
    """Words."""

    A = "a"


class Valued(BaseModel):
    model_config = ConfigDict(use_enum_values=True)
    color: Color


class Fruit(BaseModel):
    zebra: int
    apple: str
    mango: Optional[float] = None


class Address(BaseModel):
    street: str = Field(min_length=1, description="street and number")
    zip: Annotated[str, Field(pattern=r"^[0-9]{5}$")]


class Person(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=20)]
    age: int = Field(ge=0, lt=150)
    home: Address
    work: Optional[Address] = None
    tags: List[str] = Field(default=[], max_length=3)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Extras(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Dict[str, int]
    a: str


class Aliased(BaseModel):
    first: int = Field(alias="First")
    second: int = Field(validation_alias=AliasChoices("Second", "2nd"))


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    first: int = Field(alias="First")


class Infinite(BaseModel):
    a: float = float("inf")
    b: dt.timedelta = dt.timedelta(1)


class Computed(BaseModel):
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class Box(BaseModel, Generic[T]):
    content: T
    count: int = 1


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Zoo(BaseModel):
    first: Annotated[Union[Cat, Dog], Field(discriminator="kind")]
    second: Annotated[Union[Cat, Dog], Field(discriminator="kind")]


class Node(BaseModel):
    value: int
    next: Optional[Node] = None


class Tree(BaseModel):
    children: List[Tree]


class Left(BaseModel):
    right: Optional[Right]


class Right(BaseModel):
    left: Optional[Left]


class Endless(BaseModel):
    other: EndlessToo


class EndlessToo(BaseModel):
    more: Annotated[List[Endless], Field(min_length=1)]


for model in (Left, Right, Endless, EndlessToo):
    model.model_rebuild()


@dataclasses.dataclass
class Point:
    """A place."""

    x: int
    y: int = 0
    derived: int = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class KeywordFirst:
    zebra: int = dataclasses.field(kw_only=True)
    apple: int


@pydantic.dataclasses.dataclass(config=ConfigDict(extra="forbid"))
class Checked:
    n: Annotated[int, Field(gt=3)]


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Loose(TypedDict, total=False):
    a: int


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Names(RootModel[Dict[str, int]]):
    pass


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    word: str = Field(min_length=2)
    code: str = Field(pattern="^[a-z ]*$")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: dt.date
    price: Decimal
    color: Color
    codes: set[int]
    where: Pair
    names: Dict[int, bool]
    both: tuple[int, str]


UserId = NewType("UserId", int)
Numbers = TypeAliasType("Numbers", List[int])
Nested = TypeAliasType("Nested", "Union[int, List[Nested]]")


def obj(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "object", "properties": properties}
    names = list(properties) if required is None else required
    return {**result, **({"required": names} if names else {}), "additionalProperties": False}


STRING, INTEGER, NUMBER, BOOLEAN, NULL = ({"type": t} for t in ("string", "integer", "number", "boolean", "null"))
DURATION = from_type(dt.timedelta).schema["pattern"]
DECIMAL = "^-?(0|[1-9][0-9]{0,19})(\\.[0-9]{1,20})?$"
ADDRESS = {
    **obj(
        street={"type": "string", "minLength": 1, "description": "street and number"},
        zip={**STRING, "pattern": "^[0-9]{5}$"},
    ),
}
PERSON = {
    **obj(
        ["name", "age", "home"],
        name={"type": "string", "minLength": 1, "maxLength": 20},
        age={"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        home={"$ref": "#/$defs/Address"},
        work={"anyOf": [{"$ref": "#/$defs/Address"}, NULL], "default": None},
        tags={"type": "array", "items": STRING, "maxItems": 3, "default": []},
    ),
    "$defs": {"Address": ADDRESS},
}

GOLDEN: list[tuple[Any, Any]] = [
    (int, INTEGER),
    (float, NUMBER),
    (bool, BOOLEAN),
    (str, STRING),
    (None, NULL),
    (type(None), NULL),
    (Any, {}),
    (object, {}),
    (UserId, INTEGER),
    (Numbers, {"type": "array", "items": INTEGER}),
    (
        Annotated[int, Field(ge=1, lt=5, multiple_of=2)],
        {**INTEGER, "minimum": 1, "exclusiveMaximum": 5, "multipleOf": 2},
    ),
    (Annotated[int, annotated_types.Interval(gt=1, le=9)], {**INTEGER, "exclusiveMinimum": 1, "maximum": 9}),
    (Annotated[float, Field(ge=Decimal("0.5"))], {**NUMBER, "minimum": 0.5}),
    (Annotated[str, Field(pattern="^a+$", max_length=4)], {**STRING, "pattern": "^a+$", "maxLength": 4}),
    (Annotated[str, Field(pattern=re.compile("^a+$", re.I))], {**STRING, "pattern": "(?i:^a+$)"}),
    (Literal["a", 1, True, None, 1.5], {"enum": ["a", 1, True, None, 1.5]}),
    (Literal["only"], {"const": "only"}),
    (Literal[Word.A, Level.LOW, "x"], {"enum": ["a", 1, "x"]}),
    (Color, {"enum": ["red", "blue"]}),
    (Mixed, {"enum": ["w", 1, 0.5, None, "true"]}),
    (Level, {"enum": [1, 2]}),
    (Word, {"const": "a", "description": "Words."}),
    (Valued, {**obj(color={"$ref": "#/$defs/Color"}), "$defs": {"Color": {"enum": ["red", "blue"]}}}),
    (Union[int, str, None], {"anyOf": [INTEGER, STRING, NULL]}),
    (Optional[int], {"anyOf": [INTEGER, NULL]}),
    (int | None, {"anyOf": [INTEGER, NULL]}),
    (list, {"type": "array", "items": {}}),
    (list[int], {"type": "array", "items": INTEGER}),
    (tuple[int, str], {"type": "array", "prefixItems": [INTEGER, STRING], "minItems": 2, "maxItems": 2}),
    (tuple[int, ...], {"type": "array", "items": INTEGER}),
    (tuple[()], {"type": "array", "minItems": 0, "maxItems": 0}),
    (set[int], {"type": "array", "items": INTEGER}),
    (Annotated[set[int], Field(min_length=1)], {"type": "array", "items": INTEGER, "minItems": 1}),
    (
        Annotated[frozenset[int], Field(min_length=2)],
        {"type": "array", "uniqueItems": True, "items": INTEGER, "minItems": 2},
    ),
    (dict, {"type": "object", "additionalProperties": True}),
    (dict[str, int], {"type": "object", "additionalProperties": INTEGER}),
    (
        Annotated[dict[str, int], Field(min_length=1)],
        {"type": "object", "minProperties": 1, "additionalProperties": INTEGER},
    ),
    (dict[Color, int], obj([], red=INTEGER, blue=INTEGER)),
    (dict[Level, int], obj([], **{"1": INTEGER, "2": INTEGER})),
    (dict[Literal["a"], int], obj([], a=INTEGER)),
    (dict[bool, int], obj([], true=INTEGER, false=INTEGER)),
    (
        dict[int, str],
        {"type": "object", "patternProperties": {"^-?(0|[1-9][0-9]{0,17})$": STRING}, "additionalProperties": False},
    ),
    (
        dict[Annotated[int, Field(ge=3, le=12)], str],
        {"type": "object", "patternProperties": {"^(3|[4-9]|1[0-1]|12)$": STRING}, "additionalProperties": False},
    ),
    (
        dict[Annotated[str, Field(pattern="^a")], int],
        {"type": "object", "patternProperties": {"^a": INTEGER}, "additionalProperties": False},
    ),
    (dict[uuid.UUID, int], {"type": "object", "propertyNames": {"format": "uuid"}, "additionalProperties": INTEGER}),
    (dict[Union[int, str], int], {"type": "object", "additionalProperties": INTEGER}),
    (dt.date, {**STRING, "format": "date"}),
    (dt.datetime, {**STRING, "format": "date-time"}),
    (uuid.UUID, {**STRING, "format": "uuid"}),
    (ipaddress.IPv4Address, {**STRING, "format": "ipv4"}),
    (bytes, STRING),
    (Path, STRING),
    (Decimal, {**STRING, "pattern": DECIMAL}),
    (
        Annotated[Decimal, Field(ge=0, max_digits=5, decimal_places=2)],
        {**STRING, "pattern": "^(0|[1-9][0-9]{0,2})(\\.[0-9]{1,2})?$"},
    ),
    (Fruit, obj(["zebra", "apple"], zebra=INTEGER, apple=STRING, mango={"anyOf": [NUMBER, NULL], "default": None})),
    (Person, PERSON),
    (Open, {**obj(a=INTEGER), "additionalProperties": True}),
    (Extras, {**obj(a=STRING), "additionalProperties": INTEGER}),
    (Aliased, obj(First=INTEGER, Second=INTEGER)),
    (ByName, obj(first=INTEGER)),
    (Computed, obj(side=INTEGER)),
    (Infinite, obj([], a=NUMBER, b={**STRING, "default": "P1D", "pattern": DURATION})),
    (Box[int], obj(["content"], content=INTEGER, count={**INTEGER, "default": 1})),
    (Point, {**obj(["x"], x=INTEGER, y={**INTEGER, "default": 0}), "description": "A place."}),
    (KeywordFirst, obj(zebra=INTEGER, apple=INTEGER)),
    (Checked, obj(n={**INTEGER, "exclusiveMinimum": 3})),
    (Movie, obj(["title"], title=STRING, year=INTEGER)),
    (Loose, obj([], a=INTEGER)),
    (Pair, obj(["left"], left=INTEGER, right={**STRING, "default": "r"})),
    (Names, {"type": "object", "additionalProperties": INTEGER}),
    (
        Zoo,
        {
            **obj(
                first={"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
                second={"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
            ),
            "$defs": {
                "Cat": obj(["kind", "lives"], kind={"const": "cat", "default": "cat"}, lives=INTEGER),
                "Dog": obj(kind={"const": "dog"}, good=BOOLEAN),
            },
        },
    ),
    (
        Node,
        {
            "$ref": "#/$defs/Node",
            "$defs": {
                "Node": obj(["value"], value=INTEGER, next={"anyOf": [{"$ref": "#/$defs/Node"}, NULL], "default": None})
            },
        },
    ),
    (
        Tree,
        {"$ref": "#/$defs/Tree", "$defs": {"Tree": obj(children={"type": "array", "items": {"$ref": "#/$defs/Tree"}})}},
    ),
]


@pytest.mark.parametrize("tp, schema", GOLDEN, ids=lambda value: None if isinstance(value, dict) else named(value))
def test_golden(tp: Any, schema: Any) -> None:
    made = from_type(tp)
    assert isinstance(made, JsonSchema) and made.schema == schema
    assert json.dumps(made.schema, sort_keys=True) == json.dumps(schema, sort_keys=True)  # 1 == True in Python
    assert not checked_afterwards(tp)
    if "properties" in made.schema:
        assert list(made.schema["properties"]) == list(schema["properties"])  # dicts are equal in any order


def test_declaration_order() -> None:
    assert list(from_type(Fruit).schema["properties"]) == ["zebra", "apple", "mango"]
    assert list(from_type(KeywordFirst).schema["properties"]) == ["zebra", "apple"]
    assert parse(KeywordFirst, '{"zebra": 1, "apple": 2}') == KeywordFirst(2, zebra=1)


# What the schema admits, pydantic takes


def instances(schema: Any, definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that are valid under a schema of the subset that types give."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if isinstance(definitions[name], dict):  # the first time; itself within itself
            described = definitions[name]
            definitions[name] = st.deferred(lambda: instances(described, definitions))
        return definitions[name]
    if "anyOf" in schema:
        return st.one_of([instances(part, definitions) for part in reversed(schema["anyOf"])])  # shrinks to the last
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    made = {
        None: lambda: (
            st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
        ),
        "null": st.none,
        "boolean": st.booleans,
        "integer": lambda: integers(schema),
        "number": lambda: numbers(schema),
        "string": lambda: strings(schema),
        "array": lambda: arrays(schema, definitions),
        "object": lambda: objects(schema, definitions),
    }[kind]()
    return made


def integers(schema: Any) -> st.SearchStrategy[int]:
    low, high = schema.get("minimum"), schema.get("maximum")
    low = schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else low
    high = schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else high
    return st.integers(low, high).filter(lambda n: n % schema.get("multipleOf", 1) == 0)


def numbers(schema: Any) -> st.SearchStrategy[float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    found = st.floats(low, high, allow_nan=False, allow_infinity=False)
    return found.filter(lambda x: x not in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")))


FORMATS: dict[str, st.SearchStrategy[str]] = {
    "date": st.dates().map(str),
    "date-time": st.datetimes(timezones=st.just(dt.timezone.utc)).map(lambda t: t.isoformat()),
    "uuid": st.uuids().map(str),
    "ipv4": st.ip_addresses(v=4).map(str),
}


def strings(schema: Any) -> st.SearchStrategy[str]:
    patterns = [part["pattern"] for part in [schema, *schema.get("allOf", [])] if "pattern" in part]
    patterns = [re.sub(r"\$(?=\)*$)", r"\\Z", pattern) for pattern in patterns]  # ECMA's $ is Python's \Z
    if "format" in schema:
        found = FORMATS[schema["format"]]
    elif patterns:
        found = st.from_regex(patterns[0])
    else:
        return st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength"))
    low, high = schema.get("minLength", 0), schema.get("maxLength", 10**6)
    return found.filter(lambda s: low <= len(s) <= high and all(re.search(p, s) for p in patterns))


def arrays(schema: Any, definitions: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    if "prefixItems" in schema:
        return st.tuples(*(instances(part, definitions) for part in schema["prefixItems"])).map(list)
    low, high = schema.get("minItems", 0), schema.get("maxItems", schema.get("minItems", 0) + 3)
    unique = json.dumps if schema.get("uniqueItems") else None
    return st.lists(instances(schema.get("items", {}), definitions), min_size=low, max_size=high, unique_by=unique)


def objects(schema: Any, definitions: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = {name: instances(part, definitions) for name, part in schema.get("properties", {}).items()}
    required = {name: part for name, part in properties.items() if name in schema.get("required", [])}
    rest = {name: part for name, part in properties.items() if name not in required}
    fixed = st.fixed_dictionaries(required, optional=rest)
    low = schema.get("minProperties", 0)
    if extra := schema.get("additionalProperties", True):
        names = strings(schema["propertyNames"]) if "propertyNames" in schema else st.text(max_size=3)
        names = names.filter(lambda name: name not in properties)
        values = instances({} if extra is True else extra, definitions)
        more = st.dictionaries(names, values, min_size=low, max_size=low + 2)
    elif "patternProperties" in schema:
        ((pattern, value),) = schema["patternProperties"].items()
        more = st.dictionaries(
            strings({"pattern": pattern}), instances(value, definitions), min_size=low, max_size=low + 2
        )
    else:
        more = st.just({})
    return st.tuples(fixed, more).map(lambda both: {**both[0], **both[1]})


MORE: list[Any] = [
    Nested,
    Left,
    Stripped,
    Strict,
    Fraction,
    dt.time,
    dt.timedelta,
    pydantic.NaiveDatetime,
    pydantic.UUID4,
    pydantic.SecretStr,
    Annotated[bytes, Field(max_length=4)],
    Annotated[Decimal, Field(gt=Decimal("-1.25"), lt=30)],
    Annotated[Decimal, Field(max_digits=4)],
    Annotated[Decimal, Field(multiple_of=Decimal("0.01"), ge=1)],
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    collections.deque[int],
    collections.OrderedDict[str, int],
    collections.defaultdict[str, list[int]],
    dict[Decimal, int],
    dict[dt.date, Pair],
    dict[float, int],
    Box[Box[Pair]],
    list[Union[Cat, Dog]],
    dict[str, Union[Point, Movie, Color, None]],
]


CHECKED = [tp for tp, _ in GOLDEN] + MORE


@cache
def admitted(key: int) -> st.SearchStrategy[Any]:
    """Instances of the schema of the type in CHECKED that has this id (not every type can be hashed)."""
    schema = from_type(next(tp for tp in CHECKED if id(tp) == key)).schema
    return instances(schema, schema.get("$defs", {}))


@pytest.mark.parametrize("tp", CHECKED, ids=named)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_pydantic_takes_what_the_schema_admits(tp: Any, data: st.DataObject) -> None:
    parse(tp, json.dumps(data.draw(admitted(id(tp)))))


ROUND_TRIPS: list[tuple[Any, str, Any]] = [
    (
        Person,
        '{"name": "A", "age": 3, "home": {"street": "s", "zip": "12345"}}',
        Person(name="A", age=3, home=Address(street="s", zip="12345")),
    ),
    (Decimal, '"0.10"', Decimal("0.10")),
    (Decimal, '"12345678901234567890.12345678901234567890"', Decimal("12345678901234567890.12345678901234567890")),
    (Fraction, '"-1/3"', Fraction(-1, 3)),
    (Pair, '{"left": 1}', Pair(1, "r")),
    (list[Pair], '[{"left": 1, "right": "x"}]', [Pair(1, "x")]),
    (Point, '{"x": 1}', Point(1, 0)),
    (Movie, '{"title": "t"}', {"title": "t"}),
    (Color, '"red"', Color.RED),
    (Mixed, "null", Mixed.NOTHING),
    (Level, "2", Level.HIGH),
    (Literal[1, True, "1"], "true", True),
    (Literal[1, True, "1"], '"1"', "1"),
    (Literal[Word.A], '"a"', Word.A),
    (Valued, '{"color": "red"}', Valued(color="red")),
    (dict[Level, int], '{"2": 1}', {Level.HIGH: 1}),
    (dict[int, int], '{"-7": 1}', {-7: 1}),
    (set[int], "[1, 1]", {1}),
    (bytes, '"\\u00e9"', "é".encode()),
    (dt.date, '"2024-02-29"', dt.date(2024, 2, 29)),
    (dt.time, '"09:30:00"', dt.time(9, 30)),
    (dt.timedelta, '"-P1DT2H0.5S"', -dt.timedelta(days=1, hours=2, seconds=0.5)),
    (uuid.UUID, '"12345678-1234-5678-1234-567812345678"', uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (Nested, "[1, [2]]", [1, [2]]),
    (Names, '{"a": 1}', Names({"a": 1})),
]


@pytest.mark.parametrize("tp, text, value", ROUND_TRIPS, ids=named)
def test_values(tp: Any, text: str, value: Any) -> None:
    found = parse(tp, text)
    assert found == value and type(found) is type(value)
    schema = from_type(tp).schema
    if "pattern" in schema:
        assert re.search(schema["pattern"], json.loads(text))


@pytest.mark.parametrize(
    "tp, text",
    [
        (float, "NaN"),
        (float, "-Infinity"),
        (float, "1e999"),
        (int, "1,"),
        (int, ""),
        (int, '"x"'),
        (Fruit, "{}"),
        (Any, "[1] 2"),
    ],
)
def test_text_that_is_not_of_the_type(tp: Any, text: str) -> None:
    with pytest.raises(ValueError):
        parse(tp, text)


# Decimal numbers between bounds

decimal = st.decimals(-300, 300, places=2) | st.integers(-30, 30).map(Decimal)
spelling = st.decimals(-310, 310, places=3).map(lambda d: f"{d:f}".rstrip("0").rstrip(".")) | decimal.map(
    lambda d: f"{d:f}"
)


@settings(max_examples=400, deadline=None, database=None)
@given(
    low=st.none() | decimal,
    high=st.none() | decimal,
    open=st.tuples(st.booleans(), st.booleans()),
    texts=st.lists(spelling),
)
def test_decimals_between_bounds(low: Any, high: Any, open: tuple[bool, bool], texts: list[str]) -> None:
    bounds = {"gt" if open[0] else "ge": low, "lt" if open[1] else "le": high}
    try:
        pattern = decimals(places=3, whole=3, **bounds)
    except ConstraintError:
        assert low is not None and high is not None and (low > high or (low == high and any(open)))
        return
    for text in [*texts, *(f"{b:f}" for b in (low, high) if b is not None), "0", "0.001", "-0.001"]:
        number = Decimal(text)
        above = low is None or (number > low if open[0] else number >= low)
        below = high is None or (number < high if open[1] else number <= high)
        assert bool(re.fullmatch(pattern, text)) == (above and below), (pattern, text)


def test_decimals_have_one_spelling() -> None:
    for text in ("01", "1.", ".5", "+1", "1e3", "", "1.0000", "12345"):
        assert not re.fullmatch(decimals(places=3, whole=4), text)
    assert decimals(ge=Decimal(1), le=Decimal(1), places=0) == "1"
    assert re.fullmatch(decimals(digits=3), "12.3") and not re.fullmatch(decimals(digits=3), "12.34")


# What is only checked afterwards


def positive(value: int) -> int:
    if value <= 0:
        raise ValueError("not positive")
    return value


class Picky(BaseModel):
    a: int
    b: int

    @model_validator(mode="after")
    def ordered(self) -> Picky:
        if self.a > self.b:
            raise ValueError("a > b")
        return self


class FieldPicky(BaseModel):
    a: int

    @field_validator("a")
    @classmethod
    def even(cls, value: int) -> int:
        return value


@dataclasses.dataclass
class PostInit:
    a: int

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("negative")


def kind_of(value: Any) -> str:
    return "cat" if "lives" in value else "dog"


@pytest.mark.parametrize(
    "tp",
    [
        Picky,
        FieldPicky,
        PostInit,
        list[Picky],
        Annotated[int, AfterValidator(positive)],
        Annotated[int, BeforeValidator(positive)],
        Annotated[dt.date, Field(ge=dt.date(2020, 1, 1))],
        pydantic.PastDate,
        HttpUrl,
        pydantic.FilePath,
        pydantic.Json[int],
        complex,
        Annotated[Decimal, Field(multiple_of=Decimal("0.3"))],
        Annotated[Union[Annotated[Cat, Tag("cat")], Annotated[Dog, Tag("dog")]], Discriminator(kind_of)],
    ],
    ids=named,
)
def test_checked_afterwards(tp: Any) -> None:
    from_type(tp)
    assert checked_afterwards(tp) and all(isinstance(reason, str) for reason in checked_afterwards(tp))


def test_validators_run() -> None:
    assert checked_afterwards(Annotated[int, AfterValidator(positive)]) == ("validator positive",)
    with pytest.raises(ValueError, match="a > b"):
        parse(Picky, '{"a": 2, "b": 1}')
    with pytest.raises(ValueError, match="not positive"):
        parse(Annotated[int, AfterValidator(positive)], "-1")


def test_urls_of_the_schema_are_read() -> None:
    pattern = from_type(HttpUrl).schema["pattern"]
    for url in ("https://example.com", "http://a-b.example.org:8080/x/y.html?q=1#top"):
        assert re.search(pattern, url) and parse(HttpUrl, json.dumps(url))
    assert not re.search(pattern, "ftp://example.com") and not re.search(pattern, "https:example")


# What is refused


class Plain:
    pass


class Unhashable(enum.Enum):
    LIST = (1, 2)


class Empty(enum.Enum):
    pass


@dataclasses.dataclass
class Holder:
    fine: int
    inner: list[dict[str, Plain]]


class Arbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    ok: int
    bad: Plain


@dataclasses.dataclass
class Unresolved:
    a: Optional[Nowhere]  # noqa: F821  # type: ignore[name-defined]


class PathAlias(BaseModel):
    a: int = Field(validation_alias=AliasPath("x", 0))


class Contradictory(BaseModel):
    inner: List[Annotated[int, Field(ge=5, le=3)]]


def function(a: int) -> int:
    return a


REFUSED: list[Any] = [
    ("int", r"'int' is a string, not a type"),
    (3, r"3 is not a type"),
    (Fruit(zebra=1, apple="a"), r"is not a type"),
    (Point(1), r"is not a type"),
    (function, r"is a function, not a type"),
    (Plain, r"Plain: Plain has no JSON schema; use a model"),
    (Callable[[int], int], r"has no JSON schema"),
    (type[int], r"has no JSON schema"),
    (Holder, r"Holder\.inner\[0\]\[1\]: Plain has no JSON schema"),
    (Arbitrary, r"Arbitrary\.bad: Plain has no JSON schema"),
    (Union[int, Plain], r"\[1\]: Plain has no JSON schema"),
    (Union[int, Callable[[], int]], r"\[1\]: .*Callable.* has no JSON schema"),
    (Unresolved, r"Unresolved\.a: the name 'Nowhere' cannot be resolved; define it"),
    (list["Nowhere"], r"the name 'Nowhere' cannot be resolved"),  # noqa: F821
    (Unhashable, r"Unhashable has the value <Unhashable.LIST: \(1, 2\)>, which no JSON text gives back"),
    (Literal[b"x"], r"b'x'"),
    (Literal[Color.RED], r"Literal has the value <Color.RED: 'red'>, .* an Enum that is also a str"),
    (Empty, r"Empty has no values"),
    (dict[Literal[1, 2], int], r"the dict key 1 .* use strings"),
    (dict[tuple[int, int], int], r"the keys of a dict are strings in JSON"),
    (PathAlias, r"field a: its alias is a path"),
    (
        Contradictory,
        r"Contradictory: at #/properties/inner/items: no number .* minimum 5, maximum 3.* correct the bounds",
    ),
    (Annotated[int, Field(gt=1, lt=2)], r"no number"),
    (Annotated[int, Field(ge=4, le=5, multiple_of=3)], r"no number"),
    (Annotated[float, Field(gt=1, le=1)], r"no number"),
    (Annotated[Decimal, Field(gt=1, le=1)], r"no number"),
    (Annotated[str, Field(min_length=3, max_length=2)], r"at #: at least 3 and at most 2 length"),
    (Annotated[list[int], Field(min_length=3, max_length=2)], r"at least 3 and at most 2 items"),
    (Annotated[dict[Literal["a"], int], Field(min_length=2)], r"at least 2 and at most 1 properties"),
    (Annotated[set[bool], Field(min_length=3)], r"at least 3 different items of which there are 2"),
    (Endless, r"at #/\$defs/Endless: .* its text never ends; make the field"),
    (Annotated[str, Field(pattern="(")], r"regex parse error|unclosed group"),
]


@pytest.mark.parametrize("tp, message", REFUSED, ids=lambda value: named(value)[:60])
def test_refused(tp: Any, message: str) -> None:
    with pytest.raises(ConstraintError, match=message) as caught:
        from_type(tp, "gen('x'): schema=")
    assert str(caught.value).startswith("gen('x'): schema=: ")
    assert "errors.pydantic.dev" not in str(caught.value)


# Equality and cache


def test_equal_types_are_one_constraint() -> None:
    assert from_type(list[Fruit]) is from_type(list[Fruit])
    assert from_type(Union[int, str]).schema != from_type(Union[str, int]).schema
    assert from_type(list[Literal[1]]).source != from_type(list[Literal[True]]).source
    unhashable = Annotated[int, types.SimpleNamespace(), {"a": []}]
    assert from_type(unhashable) is from_type(unhashable)


def test_pydantic_is_imported_when_a_type_is_used() -> None:
    code = "import sys, sgl.lang.types.conversion; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# dtype


@pytest.mark.parametrize(
    "dtype, text, value",
    [
        (int, "42", 42),
        ("int", "-7 ", -7),
        (float, "+.5", 0.5),
        ("float", "3", 3.0),
        (bool, "True", True),
        ("bool", "False", False),
        (str, '"a b é"', "a b é"),
        ("str", '""', ""),
    ],
)
def test_dtype(dtype: Any, text: str, value: Any) -> None:
    made = of_dtype(dtype)
    assert isinstance(made, Regex) and re.fullmatch(made.pattern, text.strip())
    found = value_of_dtype(dtype, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "dtype, text", [(int, "1.5"), (int, "1" * 21), (float, "1."), (bool, "true"), (str, "a"), (str, '"a\nb"')]
)
def test_dtype_refuses(dtype: Any, text: str) -> None:
    assert not re.fullmatch(of_dtype(dtype).pattern, text)  # type: ignore[attr-defined]
    with pytest.raises(ValueError):
        value_of_dtype(dtype, text)


def test_dtype_of_another_type() -> None:
    assert of_dtype(Fruit) is from_type(Fruit)
    assert value_of_dtype(Pair, '{"left": 1}') == Pair(1)
    with pytest.raises(ConstraintError, match="'list' is none of int, float, bool, str"):
        of_dtype("list")


class Simple(typing.TypedDict):
    a: int
    b: NotRequired[str]


class Partial(typing.TypedDict, total=False):
    x: Required[list[Simple]]
    y: Optional[Simple]


def test_typed_dicts_of_the_standard_library():
    simple = from_type(Simple).schema
    assert simple["required"] == ["a"] and list(simple["properties"]) == ["a", "b"]
    assert from_type(Partial).schema["required"] == ["x"]
    assert parse(list[Partial], '[{"x": [{"a": 1}]}]') == [{"x": [{"a": 1}]}]


def test_an_iterable_is_read_at_once():
    assert parse(collections.abc.Iterable[int], "[1, 2]") == [1, 2]
    with pytest.raises(ValueError):
        parse(collections.abc.Iterable[typing.Annotated[int, Field(ge=3)]], "[1]")
