"""The page at `/` in a real headless Chromium, and what `/live` tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

import sgl

from ...chromium import Tab, find
from .served import Served, served

in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(find() is None, reason="no Chromium on this machine (apt-get install chromium)"),
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_live_tells_shapes_and_texts_only_if_asked() -> None:
    for texts in (False, True):
        runtime = sgl.Runtime.toy()
        runtime.cache_prefix("A secret prefix. ")
        with served(runtime, show_texts=texts) as server:
            now = server.http.get("/live").json()
            assert now["max_total_tokens"] == 65536 and now["running"] == 0 and now["left_out"] == 0
            assert [row["tokens"] for row in now["tree"]] and all(row["depth"] >= 0 for row in now["tree"])
            assert ("secret" in str(now)) == texts
    with served(sgl.Runtime.toy(), api_key="k") as server:
        assert server.http.get("/live").status_code == 401
        page = server.http.get("/")
        assert page.status_code == 200 and "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_rows_of_the_tree_are_bounded_and_deep_ones_are_fine() -> None:
    runtime = sgl.Runtime.toy()
    for i in range(60):
        runtime.cache_prefix("ab" * i + str(i))
    rows, left_out = runtime.tree_rows(10)
    everything, none = runtime.tree_rows(10_000, texts=True)
    assert len(rows) == 10 and left_out == len(everything) - 10 and none == 0
    drawn = [int(tokens) for tokens in re.findall(r"(\d+) (?:tokens|own)", runtime.draw())]
    assert sorted(row["tokens"] for row in everything) == sorted(drawn) and len(drawn) > 60
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in everything[:10]]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(sgl.Runtime.toy(), show_texts=True) as here:
        yield here


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    tab = Tab(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def tab(browser: Tab, server: Served) -> Iterator[Tab]:
    """The page, opened anew; at the end there must be no complaint."""
    browser.complaints.clear()
    browser.visit(server.url)
    yield browser
    assert browser.complaints == []


def fill(tab: Tab, name: str, text: str) -> None:
    tab.evaluate(f"document.getElementById({name!r}).focus()")
    tab.evaluate(f"document.getElementById({name!r}).select()")
    tab.type(text)


def say(tab: Tab, text: str) -> None:
    fill(tab, "text", text)
    tab.press("Enter")
    tab.until("document.documentElement.dataset.busy === 'no' && !document.getElementById('text').value")


def turns(tab: Tab) -> list[list[str]]:
    told = "[...t.children].slice(1).map(c => c.textContent).join('|')"
    return list(tab.evaluate(f"[...document.querySelectorAll('.turn')].map(t => [t.className, {told}])"))


def choose(tab: Tab, kind: str) -> None:
    found = "document.getElementById('kind')"
    tab.evaluate(f"(k => {{ k.value = '{kind}'; k.dispatchEvent(new Event('change')); }})({found})")


def browser_test(function):  # type: ignore[no-untyped-def]
    for mark in in_browser:
        function = mark(function)
    return function


@browser_test
def test_a_chat_streams_and_goes_on(tab: Tab, server: Served) -> None:
    fill(tab, "max_tokens", "20")
    say(tab, "Hello")
    say(tab, "And?")
    (_, user), (kind, answer), *more = turns(tab)
    assert user == "Hello" and kind == "turn assistant" and len(answer) > 5 and len(more) == 2
    assert "prompt tokens" in answer and "(0 cached)" not in more[1][1]
    tab.until("document.getElementById('tree').children.length > 0")
    assert "Hello" in tab.evaluate("document.getElementById('tree').textContent")
    assert tab.evaluate("Number(document.getElementById('meter').value)") > 0
    tab.evaluate("document.getElementById('clear').click()")
    assert turns(tab) == []


@browser_test
def test_a_constraint_is_obeyed_and_a_wrong_one_is_told(tab: Tab) -> None:
    fill(tab, "max_tokens", "20")
    choose(tab, "regex")
    fill(tab, "constraint", "(ab){3}")
    say(tab, "Hello")
    assert turns(tab)[1][1].startswith("ababab|")
    fill(tab, "constraint", "a(")
    say(tab, "Hello")
    assert "fail" in turns(tab)[3][0] and "regex" in turns(tab)[3][1]
    tab.complaints[:] = [said for said in tab.complaints if "400" not in said]  # Chromium logs the status
    choose(tab, "json_schema")
    say(tab, "Hello")
    assert "no JSON" in turns(tab)[-1][1]


@browser_test
def test_a_tool_is_called_and_answered(tab: Tab) -> None:
    fill(tab, "tools", json.dumps([{"name": "look", "parameters": SCHEMA}]))
    tab.evaluate("document.getElementById('choice').value = 'required'")
    fill(tab, "max_tokens", "200")
    say(tab, "Hello")
    assert '{"a":' in turns(tab)[1][1].replace("{ ", "{")
    tab.evaluate("document.querySelector('.turn.tool input').focus()")
    tab.type("it is " + HOSTILE)
    tab.press("Enter")
    tab.evaluate("document.getElementById('choice').value = 'none'")
    while tab.evaluate("document.querySelectorAll('.turn.tool input').length"):
        tab.evaluate("document.querySelector('.turn.tool input').focus()")
        tab.press("Enter")
    say(tab, "And?")
    assert "fail" not in turns(tab)[-1][0]


@browser_test
def test_a_prompt_is_continued_and_text_stays_text(tab: Tab, server: Served) -> None:
    tab.evaluate("document.getElementById('prompt').click()")
    fill(tab, "max_tokens", "10")
    say(tab, HOSTILE)
    assert turns(tab)[0][1] == HOSTILE and turns(tab)[1][0] == "turn assistant"
    tab.until("document.getElementById('tree').textContent.includes('script')")
    assert tab.evaluate("document.querySelectorAll('main script, main img, aside script, aside img').length") == 0


@browser_test
def test_a_key_is_asked_for(browser: Tab) -> None:
    with served(sgl.Runtime.toy(), api_key="secret") as server:
        browser.complaints.clear()
        browser.visit(server.url)
        browser.until("document.getElementById('state').textContent.includes('key')")
        fill(browser, "key", "secret")
        browser.until("document.getElementById('state').textContent === ''")
        browser.complaints.clear()  # Chromium logs the 401
