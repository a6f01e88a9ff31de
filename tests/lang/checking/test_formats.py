"""Each format, both ways; and dates against the calendar."""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import calendar
import json
import re

import pytest

from sgl.lang.checking.formats import FORMATS, check_format, known

GOOD_AND_BAD: dict[str, tuple[list[str], list[str]]] = {
    "date": (
        ["2024-02-29", "2000-02-29", "1999-12-31", "0001-01-01"],
        ["2023-02-29", "1900-02-29", "2024-04-31", "2024-00-01", "2024-1-1", "24-01-01", "0000-01-01", "2024-01-01 "],
    ),
    "time": (
        ["00:00:00Z", "23:59:59.123+05:30", "12:00:00z", "01:01:01-23:59"],
        ["24:00:00Z", "12:60:00Z", "12:00:00", "12:00Z", "12:00:60Z", "12:00:00+24:00", "1:00:00Z", "12:00:00.Z"],
    ),
    "date-time": (
        ["2024-02-29T12:00:00Z", "1985-04-12t23:20:50.52z", "1996-12-19T16:39:57-08:00"],
        ["2023-02-29T12:00:00Z", "2024-01-01 12:00:00Z", "2024-01-01T12:00:00", "2024-01-01"],
    ),
    "duration": (
        ["P1D", "PT1H", "P1Y2M3DT4H5M6S", "P2W", "PT0S", "P1YT1S"],
        ["P", "PT", "1D", "P1D2H", "P1W2D", "PT1D", "P1DT", "P1S", "P1Y3D"],
    ),
    "email": (
        ["a@b.cc", "joe.b+tag@sub.example.org", '"joe b"@example.com', "a@[127.0.0.1]", "a@[IPv6:::1]", "te~st@x.y"],
        ["a", "@b", "a@", ".a@b.c", "a.@b.c", "a..b@c.d", "a@-b.c", "a b@c.d", "a@b@c"],
    ),
    "hostname": (
        ["a", "www.example.com", "xn--4gbwdl", "1host", "a" * 63],
        ["", "-a", "a-", "a_b", "a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5), "a.", "exa mple"],
    ),
    "ipv4": (["0.0.0.0", "255.255.255.255", "192.168.1.1"], ["256.0.0.1", "1.2.3", "01.2.3.4", "1.2.3.4.5", "1.2.3.4 "]),
    "ipv6": (
        ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8"],
        ["", ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "::1.2.3", "fe80::1%eth0", "1:2:3:4:5:6:7:8::", "g::"],
    ),
    "uuid": (
        ["2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2EB8AA08-AA98-11EA-B4AA-73B441D16380", "0" * 8 + "-0000-0000-0000-" + "0" * 12],
        ["2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08-aa98-11ea-b4aa-73b441d1638", "g" * 8 + "-0000-0000-0000-" + "0" * 12],
    ),
    "uri": (
        ["http://a.b/c?d#e", "mailto:a@b.c", "urn:x:y", "ftp://[::1]:80/", "http://a/%20", "tel:+1-2", "http://u:p@h:1/;x=1"],
        ["//a.b/c", "/a", "a b", "http://a b", "http://a/%2", "1a:b", "http://[::1", "\\\\a", "http:// a", "http://a/<b>", ":x", "http://é"],
    ),
    "uri-reference": (["", "/a", "a/b", "?q", "#f", "//h/p", "http://a", "./a:b"], ["\\a", "a b", "#a#b", "1:2", "%", "é"]),
    "iri": (["http://é.de/ü?ß#ø", "http://a"], ["é", "http://a b"]),
    "iri-reference": (["é", "/ü", "#ø"], ["a b", "\\"]),
    "uri-template": (["http://a/{b}/{c}", "{+x,y*}{?q:3}", ""], ["{a", "a}", "{}", "{a b}", "<a>"]),
    "json-pointer": (["", "/", "/a/b", "/a~0b~1", "/é"], ["a", "/~", "/~2", "#/a"]),
    "relative-json-pointer": (["0", "1/a", "12#", "0/~0"], ["", "01", "/a", "-1", "0##", "a"]),
    "regex": (["a+", "^[a-z]$", "(?=a)", "\\d{3}"], ["(", "[", "a{2,1}", "*"]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_each_format(name: str) -> None:
    good, bad = GOOD_AND_BAD[name]
    assert [text for text in good if not check_format(name, text)] == []
    assert [text for text in bad if check_format(name, text)] == []


def test_the_table_is_covered() -> None:
    assert {*FORMATS, "regex"} == {*GOOD_AND_BAD, "ip-address", "host-name"}
    assert known("date") and known("regex") and not known("zip") and not known(3)
    assert check_format("zip", "anything")


def test_dates_are_those_of_the_calendar() -> None:
    pattern = re.compile(FORMATS["date"])
    for year in (1, 4, 100, 400, 1900, 1904, 1999, 2000, 2023, 2024, 2100, 9996, 9999):
        for month in range(14):
            days = calendar.monthrange(year, month)[1] if 1 <= month <= 12 else 0
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                assert (pattern.fullmatch(text) is not None) is (1 <= day <= days), text


def test_leap_days_of_every_year() -> None:
    pattern = re.compile(FORMATS["date"])
    for year in range(1, 10_000):
        assert (pattern.fullmatch(f"{year:04}-02-29") is not None) is calendar.isleap(year), year


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_syntax_that_dialects_read_differently(name: str) -> None:
    assert not re.search(r"\(\?[^:]|\\[dwsbDWSB]", FORMATS[name])
    assert len(FORMATS[name]) < 10_000 and json.dumps(FORMATS[name])
