"""Incremental UTF-8 decoding against decoding everything at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sgl.backend.runtime.text.detokenizer import Detokenizer

# Text, arbitrary bytes, and truncated or overlong sequences (first bytes, continuations, surrogates) alike.
chunk = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=4).map(str.encode),
    st.sampled_from([b"\xf0\x9f", b"\x98\x80", b"\xe2", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90", b"\x80", b"A"]),
)


@given(st.lists(chunk, max_size=12))
def test_every_split_gives_the_whole_decoding(chunks: list[bytes]) -> None:
    detokenizer, shown, data = Detokenizer(), "", b""
    for piece in chunks:
        data += piece
        shown += detokenizer.push(piece)
        assert data.decode("utf-8", errors="replace").startswith(shown)
    assert shown + detokenizer.flush() == data.decode("utf-8", errors="replace")
    assert detokenizer.flush() == ""


def test_a_character_is_shown_only_when_whole() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.push(bytes([b])) for b in "a€b".encode()] == ["a", "", "", "€", "b"]
    assert detokenizer.push(b"\xf0\x9f") == ""
    assert detokenizer.flush() == "\ufffd"
