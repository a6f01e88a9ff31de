"""Stop strings and stop regexes against an oracle that searches the whole text anew after each token."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl.backend.runtime.text.stop import StopMatcher


def run(tokens: list[bytes], stop: tuple[str, ...] = (), stop_regex: tuple[str, ...] = (), unarmed: int = 0):
    """(matched, cut, pieces shown, final text); checks what must hold after every token."""
    matcher, pieces = StopMatcher(stop, stop_regex), []
    for i, token in enumerate(tokens):
        pieces.append(matcher.push(token, i >= unarmed))
        assert matcher.text == "".join(pieces)
        if matcher.matched is not None:
            break
    pieces.append(matcher.finish())
    assert matcher.text == "".join(pieces)
    return matcher.matched, matcher.cut, pieces, matcher.text


def oracle(tokens: list[bytes], stop: tuple[str, ...], stop_regex: tuple[str, ...], unarmed: int):
    """(matched, cut in bytes, text). For text that is valid UTF-8 at every token border that a regex looks at."""
    data = b""
    floor = -1
    for i, token in enumerate(tokens):
        data += token
        if i < unarmed:
            floor = len(data)
            continue
        if not token:
            continue
        found = []
        for s in stop:
            for at in range(len(data)):
                if data.startswith(s.encode(), at) and at + len(s.encode()) > floor:
                    found.append((at, -len(s.encode()), s))
                    break
        for source in stop_regex:
            text = data.decode()
            for at in range(len(text) + 1):
                m = regex.compile(source).match(text, at)
                if m and len(text[: m.end()].encode()) > floor:
                    size = len(text[: m.start()].encode())
                    found.append((size, size - len(text[: m.end()].encode()), source))
                    break
        if found:
            cut, _, matched = min(found, key=lambda f: f[:2])
            return matched, cut, data[:cut].decode("utf-8", errors="replace")
    return None, None, data.decode("utf-8", errors="replace")


letters = st.text(alphabet="aab\né", min_size=1, max_size=3)
broken = st.sampled_from([b"", b"\xc3", b"\xa9", b"\xff"])
byte_tokens = st.lists(st.one_of(letters.map(str.encode), broken), max_size=9)
text_tokens = st.lists(st.text(alphabet="aab\né", max_size=3).map(str.encode), max_size=9)
patterns = st.sampled_from(
    ["ab", "a+", "(ab)+", "b$", r"\n\s*", "a(?=b)", "(?<=b)a", "[ab]{3}", "ba?|aab", "a.*b|éa", "(?i)AÉ", "^b", r"\bé",
     r"a*b", "aa(?!b)", r"(?m)^a"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(byte_tokens, st.lists(letters, max_size=3).map(tuple), st.integers(0, 4))
def test_stop_strings(tokens: list[bytes], stop: tuple[str, ...], unarmed: int) -> None:
    matched, cut, _, text = run(tokens, stop, (), unarmed)
    assert (matched, cut, text) == oracle(tokens, stop, (), unarmed)


@settings(max_examples=500, deadline=None)
@given(text_tokens, st.lists(letters, max_size=1).map(tuple), st.lists(patterns, min_size=1, max_size=2).map(tuple),
       st.sampled_from([0, 0, 1, 2, 3]))  # fmt: skip
def test_stop_regexes(tokens, stop, stop_regex, unarmed) -> None:
    matched, cut, _, text = run(tokens, stop, stop_regex, unarmed)
    assert (matched, cut, text) == oracle(tokens, stop, stop_regex, unarmed)


@given(byte_tokens, patterns)
def test_a_regex_cut_is_where_its_text_ends_in_any_bytes(tokens: list[bytes], pattern: str) -> None:
    matched, cut, _, text = run(tokens, (), (pattern,))
    data = b"".join(tokens)
    assert text == (data if cut is None else data[:cut]).decode("utf-8", errors="replace")
    assert (matched is None) == (cut is None)
    assert data.decode("utf-8", errors="replace").startswith(text.rstrip("\ufffd"))


@given(byte_tokens, st.lists(letters, max_size=2).map(tuple), st.lists(patterns, max_size=2).map(tuple),
       st.integers(0, 3))  # fmt: skip
def test_shown_text_is_a_prefix_of_the_final_text(tokens, stop, stop_regex, unarmed) -> None:
    _, _, pieces, text = run(tokens, stop, stop_regex, unarmed)
    assert "".join(pieces) == text  # pieces were never taken back, and finish() only adds


def test_a_possible_stop_is_held_back_and_released() -> None:
    matcher = StopMatcher(("\n\nQ:",))
    assert [matcher.push(t) for t in (b"A", b" b\n", b"\n", b"Q", b"!", b"\n")] == ["A", " b", "", "", "\n\nQ!", ""]
    assert matcher.finish() == "\n"
    assert (matcher.matched, matcher.cut, matcher.text) == (None, None, "A b\n\nQ!\n")


def test_a_stop_across_tokens_cuts_in_mid_token() -> None:
    matched, cut, _, text = run([b"one EN", b"D two", b"END"], ("END",))
    assert (matched, cut, text) == ("END", 4, "one ")


def test_the_first_to_begin_wins_then_the_longest_then_the_listed() -> None:
    assert run([b"xab"], ("b", "ab"))[0] == "ab"
    assert run([b"xabc"], ("a", "abc", "ab"))[0] == "abc"
    assert run([b"xa", b"bc"], ("abc", "a"))[:2] == ("a", 1)  # the first token that has a stop decides
    assert run([b"ab"], ("ab",), ("ab",))[0] == "ab"
    assert run([b"ab"], ("b",), ("a.",))[0] == "a."


def test_a_stop_that_ended_before_arming_does_not_count() -> None:
    assert run([b"aEND", b"b", b"cEND"], ("END",), unarmed=2)[:2] == ("END", 6)
    assert run([b"aEND", b"b", b"cEND"], (), ("END",), unarmed=2)[:2] == ("END", 6)
    assert run([b"aEN", b"Db"], ("END",), unarmed=1)[:2] == ("END", 1)
    assert run([b"aEN", b"Db"], (), ("E.D",), unarmed=1)[:2] == ("E.D", 1)


def test_a_regex_holds_back_what_may_match() -> None:
    matcher = StopMatcher((), (r"\d{3}-\d",))
    assert [matcher.push(t) for t in (b"tel 1", b"2", b"x 555", b"-", b"9")] == ["tel ", "", "12x ", "", ""]
    assert (matcher.matched, matcher.cut, matcher.text) == (r"\d{3}-\d", 8, "tel 12x ")


def test_an_incomplete_character_is_not_shown() -> None:
    matcher = StopMatcher(("zz",))
    assert [matcher.push(t) for t in (b"\xe2", b"\x82", b"\xac")] == ["", "", "€"]
    matcher.push(b"\xe2")
    assert matcher.finish() == "\ufffd"


def test_pushing_after_a_stop_is_a_bug() -> None:
    matcher = StopMatcher(("a",))
    matcher.push(b"a")
    with pytest.raises(AssertionError):
        matcher.push(b"b")
