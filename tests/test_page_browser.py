"""The trace page in a real headless Chromium: what is drawn, what the mouse and the keys do, and that no text of a
trace becomes anything but text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgl.interpreter.trace.page import write_page

from .chromium import Tab, find
from .interpreter.trace.traces import SYSTEM, Clock, branch, call, many, program, story, trace

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find() is None, reason="no Chromium on this machine (apt-get install chromium)"),
]

Open = Callable[..., float]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    tab = Tab(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """The browser with a test's own complaints; at the end there must be none."""
    browser.complaints.clear()
    browser.theme("light")
    yield browser
    assert browser.complaints == []


@pytest.fixture
def show(tab: Tab, tmp_path: Path) -> Open:
    def opened(trace: dict[str, Any], fragment: str = "") -> float:
        file = tmp_path / "page.html"
        write_page(trace, file)
        seconds = tab.open(file, fragment)
        tab.frame()
        return seconds

    return opened


def keys(tab: Tab) -> list[str]:
    return list(tab.evaluate("[...document.querySelectorAll('[role=treeitem]')].map(row => row.dataset.key)"))


def row(key: str) -> str:
    return f'[data-key="{key}"] .name'


def shown(tab: Tab, selector: str) -> str:
    return str(tab.evaluate(f"document.querySelector({selector!r})?.textContent ?? ''"))


def pixel(tab: Tab, canvas: str, seconds: float, y: int) -> list[int]:
    """Red, green, blue of a canvas at a time of the (whole) axis."""
    read = (
        "(c, x, y) => { const g = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});"
        " g.drawImage(c, -x, -y); return [...g.getImageData(0, 0, 1, 1).data].slice(0, 3); }"
    )
    x = f"Math.round(({seconds} - from) / (to - from) * $('{canvas}').width)"
    return list(tab.evaluate(f"({read})($('{canvas}'), {x}, {y})"))


def colour(tab: Tab, name: str) -> list[int]:
    """A colour of the page's own palette."""
    text = tab.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
    text = text if len(text) == 7 else "#" + "".join(c * 2 for c in text[1:])
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def at(tab: Tab, canvas: str, seconds: float, y: float) -> tuple[float, float]:
    """Where on the screen a time and a height of a canvas are."""
    x, top = tab.evaluate(
        f"(r => [r.x + ({seconds} - from) / (to - from) * r.width, r.y])($('{canvas}').getBoundingClientRect())"
    )
    return x, top + y


ROW = 22


def middle(tab: Tab, key: str) -> int:
    """The height of a row's middle in the canvas of bars."""
    return ROW * keys(tab).index(key) + ROW // 2


# -- what is drawn
def test_the_tree_and_the_bars_are_drawn(tab: Tab, show: Open) -> None:
    show(story())
    assert keys(tab) == [
        *("p1", "p1/gen-1", "p1/select-1"),
        *("p1/0.0", "p1/gen-2", "p1/0.1", "p1/gen-3", "p1/0.2", "p1/gen-4"),
        *("p1/gen-5", "p2", "p2/gen-6", "p3"),
    ]
    assert "3programs" in tab.evaluate(
        "[...document.querySelectorAll('#totals div')].map(d => d.lastChild.textContent + d.firstChild.textContent)"
    )
    gen, queue, error = colour(tab, "gen"), colour(tab, "queue"), colour(tab, "error")
    assert pixel(tab, "bars", 0.05, middle(tab, "p1/gen-1")) == queue
    assert pixel(tab, "bars", 1.0, middle(tab, "p1/gen-2")) == gen
    assert pixel(tab, "bars", 1.75, middle(tab, "p1/gen-5")) == queue
    assert pixel(tab, "bars", 1.6, middle(tab, "p1/gen-2")) not in (gen, queue)
    striped = {tuple(pixel(tab, "bars", 1.0 + i / 100, middle(tab, "p1/gen-4"))) for i in range(20)}
    assert tuple(error) in striped and len(striped) > 1
    lane = [pixel(tab, "lane", 0.02 * i + 0.008, 92) for i in range(10, 30)]
    assert all(found == gen for found in lane)  # generation rows at the foot, in each step
    number = next(s for s in story()["steps"] if s[4] == 180)
    assert pixel(tab, "lane", (number[1] + number[2]) / 2, 40) == colour(tab, "prompt")


def test_totals_are_sums_of_the_trace(tab: Tab, show: Open) -> None:
    data = story()
    show(data)
    calls = [c for p in data["programs"] for b in p["branches"] for c in b["calls"]]
    totals = tab.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#totals div')]"
        ".map(d => [d.firstChild.textContent, d.lastChild.firstChild.data]))"
    )
    for name, field in (
        ("context tokens", "prompt"),
        ("generated", "generated"),
        ("forced", "forced"),
        ("reused", "reused"),
    ):
        assert totals[name] == str(sum(c["usage"][field] for c in calls)), name
    assert (totals["calls"], totals["errors"], totals["time"]) == ("7", "2", "4.00 s")


# -- a click opens a transcript
def test_a_click_opens_the_whole_transcript_coloured_by_origin(tab: Tab, show: Open) -> None:
    show(story())
    tab.click(*tab.place(row("p1/gen-5")))
    said = SYSTEM + "<|user|>\nWrite about Prague.\n<|assistant|>\n1. The bridge\n2. The castle\nIs that enough? Yes"
    assert shown(tab, ".transcript") == said + '\nAs a record: {"city": "Prague", "people": 1300000}\nDone.'
    assert shown(tab, ".transcript .reused") == SYSTEM
    forced = tab.evaluate("[...document.querySelectorAll('.transcript .forced')].map(e => e.textContent).join('')")
    assert forced == '{"city": "", "people":'
    styles = tab.evaluate(
        "['constant', 'reused', 'generated', 'forced']"
        ".map(o => (s => [s.backgroundColor, s.borderBottomStyle, s.textDecorationLine])"
        "(getComputedStyle(document.querySelector('.transcript .tx.' + o))))"
    )
    assert len({tuple(style[1:]) for style in styles}) == 4, "told apart without colour: by their underlines"
    assert len({style[0] for style in styles}) == 3, "constant and reused text have no ground, the others one each"
    panel = shown(tab, "#panel")
    for text in (
        "gen('record') at prog.py:12",
        "schema City {city: str, people: int}",
        "max_tokens",
        "Prague",
        '"words": 42',
        "<Config a=1>",
    ):
        assert text in panel
    assert tab.evaluate("document.querySelectorAll('.one.now').length") == 1


def test_hovering_a_token_shows_its_probability(tab: Tab, show: Open) -> None:
    data = story()
    show(data, "#p1%2Fgen-5")
    tokens = data["programs"][0]["branches"][0]["calls"][2]["samples"][0]["tokens"]
    assert tab.evaluate("document.querySelectorAll('.one.now [data-t]').length") == len(tokens)
    _, number, logprob, _, step = tokens[4]
    tab.move(*tab.place(".one.now [data-t]", 4))
    tip = shown(tab, "#tip")
    assert tab.evaluate("!tip.hidden")
    for part in ('"Prague"', f"{100 * math.exp(logprob):.1f} %", f"{logprob:.4f}", f"token {number}", f"step {step}"):
        assert part in tip, (part, tip)
    tab.move(*tab.place(".one.now [data-t]", 0))
    assert "forced" in shown(tab, "#tip")
    assert tab.evaluate("document.querySelectorAll('.row.lit').length") >= 2  # the call of that step, and its program
    tab.move(700, 890)
    assert tab.evaluate("tip.hidden")


def test_improbable_tokens_are_shaded(tab: Tab, show: Open) -> None:
    clock = Clock(1.0, seed=1)
    made = call(clock, "x", [], ["sure", "half", "low", "tiny", "cut"], (0.0, 0.1, 0.9), id="gen-1")
    for token, logprob in zip(made["samples"][0]["tokens"], (-0.1, -1.0, -2.0, -5.0, -0.1)):
        token[2] = logprob
    made["samples"][0]["text"] = "surehalflowtiny"  # the last token spelled the stop string
    show(trace([program(1, [branch("0", [made])], 0.0, 1.0)], clock.steps), "#p1")
    found = tab.evaluate(
        "[...document.querySelectorAll('.transcript [data-t]')].map(e => [e.textContent, e.className])"
    )
    assert found == [
        ["sure", "tx generated"],
        ["half", "tx generated lo1"],
        ["low", "tx generated lo2"],
        ["tiny", "tx generated lo3"],
    ]
    assert shown(tab, ".transcript") == "surehalflowtiny"


def test_a_branch_shows_its_ancestors_text_and_its_error(tab: Tab, show: Open) -> None:
    data = story()
    show(data)
    tab.click(*tab.place(row("p1/0.0")))
    own = data["programs"][0]["branches"][1]["calls"][0]["samples"][0]["text"]
    text = shown(tab, ".transcript")
    assert text.endswith(f"Is that enough? Yes\nDetail 0: {own}\n(end of detail)")
    assert "As a record" not in text
    tab.click(*tab.place(row("p1/gen-4")))
    assert "Truncated" in shown(tab, ".fault") and "before it could end" in shown(tab, ".fault")
    assert "\n(end of detail)" not in shown(tab, ".transcript")


def test_a_select_shows_its_choices(tab: Tab, show: Open) -> None:
    show(story(), "#p1%2Fselect-1")
    cells = tab.evaluate("[...document.querySelectorAll('.choices tr')].map(r => [r.className, r.textContent])")
    assert [kind for kind, _ in cells] == ["picked", "", ""]
    assert "Yes" in cells[0][1] and "-0.240" in cells[0][1] and "78.7 %" in cells[0][1]
    assert "I cannot say" in cells[2][1]


def test_other_samples_of_a_call_are_shown(tab: Tab, show: Open) -> None:
    show(story(), "#p1%2Fgen-1")
    boxes = tab.evaluate("[...document.querySelectorAll('.transcript')].map(e => e.textContent)")
    assert len(boxes) == 2 and boxes[1] == "1. A second sample"


# -- steps and calls
def test_a_step_names_its_calls_and_a_call_its_steps(tab: Tab, show: Open) -> None:
    data = story()
    show(data)
    tokens = data["programs"][0]["branches"][2]["calls"][0]["samples"][0]["tokens"]
    number, began, ended, rows, prompt, branches = data["steps"][tokens[3][4] - 1]
    place = at(tab, "lane", (began + ended) / 2, 70)
    tab.move(*place)
    tip = shown(tab, "#tip")
    for part in (
        f"step {number}",
        "18.6 ms",
        f"{rows} rows: {prompt} prompt, {rows - prompt} generation",
        f"{branches} branches",
    ):
        assert part in tip, (part, tip)
    lit = tab.evaluate("[...document.querySelectorAll('.row.lit')].map(e => e.dataset.key)")
    assert "p1/gen-3" in lit and "p1" in lit and "p2" not in lit and "p1/gen-1" not in lit
    tab.click(*place)
    assert f"Step {number}" in shown(tab, "#panel h2") and "detail" in shown(tab, ".list")
    tab.click(*tab.place(".list .link"))
    assert shown(tab, "#panel h2").startswith("gen")
    tab.move(700, 890)
    tab.click(*at(tab, "bars", 1.0, middle(tab, "p1/gen-3")))
    assert tab.evaluate("chosen.key") == "p1/gen-3"
    tab.move(700, 890)
    assert pixel(tab, "lane", (began + ended) / 2, 92) == colour(tab, "gen")
    assert pixel(tab, "lane", 3.9 + 0.008, 92) != colour(tab, "gen")  # a step that gave this call nothing is faint


def test_a_closed_row_lets_its_calls_be_chosen(tab: Tab, show: Open) -> None:
    show(many(300))
    assert len(keys(tab)) < 60 and "p1/gen-0-0" not in keys(tab)
    first = tab.evaluate("(c => [c.began, c.ended])(byKey.get('p1/gen-0-2').call)")
    tab.evaluate("zoomTo(0, 3)")
    tab.frame()
    tab.click(*at(tab, "bars", sum(first) / 2, ROW // 2))
    assert "answer2" in shown(tab, "#panel h2")
    assert "p1/gen-0-0" not in keys(tab), "the row stays closed"


# -- keys, search, zoom
def test_keys(tab: Tab, show: Open) -> None:
    show(story())
    for key, at_row in (
        *(("ArrowDown", "p1"), ("ArrowDown", "p1/gen-1"), ("ArrowUp", "p1"), ("ArrowRight", "p1/gen-1")),
        *(("ArrowLeft", "p1"), ("ArrowLeft", "p1"), ("ArrowDown", "p3"), ("ArrowUp", "p1"), ("Enter", "p1")),
    ):
        tab.press(key)
        assert tab.evaluate("document.querySelector('[aria-selected=true]').dataset.key") == at_row, key
    assert len(keys(tab)) == 13
    assert shown(tab, "#panel h2") == "notes"
    tab.press("Escape")
    assert shown(tab, "#panel h2") == "Overview"
    assert tab.evaluate("document.querySelector('[aria-selected=true]')") is None


def test_search_filters_programs_and_marks_the_words(tab: Tab, show: Open) -> None:
    data = story()
    data["programs"][1]["branches"][0]["calls"][0]["samples"][0]["text"] += " Ünïque (word"
    show(data)
    tab.press("/")
    assert tab.evaluate("document.activeElement.id") == "find"
    tab.type("ünïque (WORD")
    tab.until("document.getElementById('found').textContent === '1 of 3 programs'")
    tab.frame()
    assert "p2" in keys(tab) and "p3" not in keys(tab)
    assert "p1" in keys(tab), "the program that called the one that was found"
    tab.click(*tab.place(row("p2")))
    assert tab.evaluate("[...CSS.highlights.get('found')].map(r => r.toString())") == ["Ünïque (word"]
    tab.click(*tab.place("#find"))
    tab.press("Escape")
    assert "p3" in keys(tab) and shown(tab, "#found") == ""
    tab.click(*tab.place("#bad"))
    assert keys(tab)[0] == "p1" and "p3" in keys(tab) and "p2" not in keys(tab)
    assert shown(tab, "#found") == "2 of 3 programs"


def test_zoom_and_move(tab: Tab, show: Open) -> None:
    show(story())
    view = "[from, to]"
    whole = tab.evaluate(view)
    place = at(tab, "bars", 1.0, 100)
    tab.wheel(*place, -300, control=True)
    tab.until("to - from < 3.5")
    low, high = tab.evaluate(view)
    assert low < 1.0 < high
    tab.press("0")
    assert tab.evaluate(view) == whole
    tab.drag(at(tab, "lane", 1.0, 60), at(tab, "lane", 2.0, 60))
    low, high = tab.evaluate(view)
    assert low == pytest.approx(1.0, abs=0.02) and high == pytest.approx(2.0, abs=0.02)
    tab.drag(at(tab, "bars", 1.5, 300), at(tab, "bars", 1.7, 300))
    assert tab.evaluate(view) == pytest.approx([low - 0.2, high - 0.2], abs=0.02)
    assert tab.evaluate("chosen") is None, "a drag is no click"


# -- hostile and odd data
EVIL = "</script><script>window.pwned=1;alert(1)</script><!--<img src=x onerror=alert(1)>\u2028'\"&lt;\0\u202eabc"


def test_hostile_texts_stay_texts(tab: Tab, show: Open) -> None:
    clock = Clock(1.0, seed=1)
    made = call(clock, EVIL, [[EVIL, "constant", 3]], [EVIL], (0.0, 0.1, 0.9), id=EVIL, where=EVIL, constraint=EVIL)
    made["error"] = fault = {"type": EVIL, "message": EVIL, "where": EVIL}
    made["params"], made["choices"] = {EVIL: EVIL}, [{"text": EVIL, "logprob": -1.0, "picked": True}]
    data = trace(
        [
            program(
                1,
                [branch("0", [made], tail=EVIL, label=EVIL, error=fault)],
                0.0,
                1.0,
                name=EVIL,
                args={EVIL: EVIL},
                value={"repr": EVIL},
                options={EVIL: EVIL},
                error=fault,
                module=EVIL,
            )
        ],
        clock.steps,
    )
    data["backend"] = {"name": EVIL, EVIL: EVIL}
    show(data)
    tab.click(*tab.place('[role="treeitem"] .name', 1))
    assert shown(tab, ".transcript") == EVIL * 3
    tab.move(*tab.place("[data-t]"))
    tab.press("Escape")
    assert tab.evaluate("window.pwned") is None
    assert tab.evaluate("document.querySelectorAll('img, iframe, object, script:not(#trace)').length") == 1


def test_the_policy_is_in_force(tab: Tab, show: Open) -> None:
    show(story())
    refused = tab.evaluate(
        "new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " fetch('http://127.0.0.1:9/').catch(() => 0); setTimeout(() => done('nothing'), 3000); })"
    )
    assert refused == "connect-src"
    tab.complaints.clear()  # the browser says so too


def test_very_long_and_empty_texts_keep_the_layout(tab: Tab, show: Open) -> None:
    clock, long = Clock(1.0, seed=1), "x" * 200_000
    made = call(
        clock, long, [[long, "constant", 9], ["\n" * 300, "reused", 300]], [long, "", "\n"], (0.0, 0.1, 0.9), id="gen-1"
    )
    nothing = call(clock, None, [], [], (0.9, 0.9, 0.9), id="gen-2")
    nothing["samples"], nothing["began"], nothing["usage"] = [], None, {}
    calls = [made, nothing]
    data = trace(
        [
            program(1, [branch("0", calls)], 0.0, None, name=long, args={long: long}, value=long),
            program(2, [branch("0", [])], 0.0, 0.0, name="", caller=99),
        ],
        clock.steps,
    )
    data["backend"] = {"name": long}
    show(data, "#p1%2Fgen-1")
    assert tab.evaluate("document.documentElement.scrollWidth") == 1400
    assert tab.evaluate("$('panel').scrollWidth - $('panel').clientWidth") == 0
    assert tab.evaluate("document.querySelector('header').offsetHeight") < 120
    assert tab.evaluate("document.querySelector('.row').getBoundingClientRect().height") == ROW
    assert shown(tab, ".transcript") == long + "\n" * 300 + long + "\n"
    tab.click(*tab.place(row("p2")))
    assert tab.evaluate("getComputedStyle(document.querySelector('.transcript'), '::before').content") == '"(no text)"'


def test_a_trace_of_nothing(tab: Tab, show: Open) -> None:
    show(trace([], []))
    assert keys(tab) == [] and "no program" in shown(tab, "#panel")
    for key in ("ArrowDown", "ArrowLeft", "Enter", "z", "+", "0"):
        tab.press(key)
    tab.click(*at(tab, "lane", 0.0, 50))
    show(trace([program(1, [branch("0", [])], 0.0, 0.0)], []), "#nowhere")
    assert keys(tab) == ["p1"]


def test_callers_that_go_in_a_circle_lose_no_program(tab: Tab, show: Open) -> None:
    show(trace([program(i, [branch("0", [])], 0.0, 1.0, caller=3 - i) for i in (1, 2)], []))
    assert sorted(keys(tab)) == ["p1", "p2"]


# -- size and theme
def test_two_thousand_programs_load_in_seconds_and_stay_quick(tab: Tab, show: Open) -> None:
    took = show(many(2000))
    assert took < 5.0
    assert shown(tab, "#totals div dd") == "2,000"
    assert 20 < len(keys(tab)) < 60
    tab.evaluate("scroll.scrollTop = 1e9")
    tab.frame()
    assert keys(tab)[-1] == "p2000"
    tab.click(*tab.place("#all"))
    assert tab.evaluate("rows.length") == 18_000 and len(keys(tab)) < 60
    quick = tab.evaluate(
        "(() => { const t = performance.now();"
        " for (let i = 0; i < 20; i++) { scroll.scrollTop = i * 9000; drawLabels(); drawLane(); drawBars(); }"
        " return (performance.now() - t) / 20; })()"
    )
    assert quick < 100, f"{quick} ms a frame"
    tab.press("/")
    tab.type("row 1234:")
    tab.until("document.getElementById('found').textContent === '1 of 2,000 programs'", 5)


def test_light_and_dark(tab: Tab, show: Open) -> None:
    show(story(), "#p1%2Fgen-5")
    seen = {}
    for theme in ("light", "dark"):
        tab.theme(theme)
        tab.frame()
        ink, sheet = colour(tab, "ink"), colour(tab, "sheet")
        seen[theme] = sheet
        assert abs(sum(ink) - sum(sheet)) > 450, "text stands out"
        assert pixel(tab, "bars", 1.0, middle(tab, "p1/gen-2")) == colour(tab, "gen"), (
            "the canvas changes with the theme"
        )
    assert sum(seen["light"]) > 600 > 200 > sum(seen["dark"])
