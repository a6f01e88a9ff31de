"""Pydantic's URL types: what pydantic accepts can be written."""

from __future__ import annotations

import json
import re

import pydantic
import pytest
from pydantic import TypeAdapter

from sgl.lang.constraint import from_type
from sgl.lang.errors import ConstraintError

WEB = [
    "http://localhost", "http://localhost:8000/", "https://example.com:65535/a?b=c#d", "http://127.0.0.1:8080",
    "http://[::1]:8000/x", "https://user:pass@example.com/p", "http://a", "http://a_b.c",
    "http://bücher.example", "http://EXAMPLE.com", "http://example.com/%20a", "http://example.com:0", "http://x/?q=ä",
    "http://xn--bcher-kva.example", "http://10.0.0.255", "http://u@h?q", "http://h#f", "http://api.v2.internal:49152",
]  # fmt: skip
DSNS = {
    "FileUrl": ["file:///etc/passwd", "file://host/x"],
    "WebsocketUrl": ["ws://localhost:1/x", "wss://h"],
    "FtpUrl": ["ftp://ftp.example.com/x"],
    "PostgresDsn": ["postgresql://u:p@localhost:5432/db", "postgres://h/db", "postgresql+asyncpg://u:p@h1:1,h2:2/d"],
    "CockroachDsn": ["cockroachdb://u@h:26257/d"],
    "AmqpDsn": ["amqp://guest:guest@localhost:5672//", "amqps://h/v"],
    "RedisDsn": ["redis://localhost:6379/0", "redis://:pw@h:1/0", "rediss://h", "redis://"],
    "MongoDsn": ["mongodb://h1:27017,h2:27017/db", "mongodb+srv://u:p@cluster0.x.net/db"],
    "KafkaDsn": ["kafka://h:9092"],
    "NatsDsn": ["nats://h:4222"],
    "MySQLDsn": ["mysql://u:p@h:3306/d", "mysql+pymysql://u:p@127.0.0.1/d"],
    "MariaDBDsn": ["mariadb://u:p@h:3306/d"],
    "ClickHouseDsn": ["clickhouse+native://u@h:9000/d"],
    "SnowflakeDsn": ["snowflake://u:p@acc/db"],
    "HttpUrl": WEB,
    "AnyHttpUrl": WEB,
}


@pytest.mark.parametrize("name", DSNS)
def test_what_pydantic_accepts(name: str) -> None:
    kind = getattr(pydantic, name, None)
    if kind is None:
        pytest.skip("not in this version of pydantic")
    constraint = from_type(kind)
    pattern = re.compile(constraint.schema["pattern"])
    for url in DSNS[name]:
        assert constraint.parse(json.dumps(url)) == TypeAdapter(kind).validate_python(url)
        assert pattern.search(url), url


@pytest.mark.parametrize(
    "url",
    ["http://", "http://:80", "example.com", "http://ex ample.com",
     "http://example.com:99999", "http://256.1.1.1", "http://[::zz]", "http://exa<mple.com",
     "ftp://h", "http://1.2.3.4.5"],
)  # fmt: skip
def test_what_it_refuses_is_not_written(url: str) -> None:
    constraint = from_type(pydantic.HttpUrl)
    assert not re.search(constraint.schema["pattern"], url)
    with pytest.raises(ConstraintError):
        constraint.parse(json.dumps(url))


def test_schemes_of_ones_own() -> None:
    from typing import Annotated

    kind = Annotated[pydantic.AnyUrl, pydantic.UrlConstraints(allowed_schemes=["s3", "git+ssh"])]
    pattern = from_type(kind).schema["pattern"]
    for url in ("s3://bucket/key", "git+ssh://git@host/x.git"):
        assert re.search(pattern, url) and TypeAdapter(kind).validate_python(url)
    assert not re.search(pattern, "http://bucket")
