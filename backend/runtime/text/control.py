"""`ControlTokens`: the control and added tokens of a vocabulary, and text cut at those it spells.

Owns: which ids contribute no text, and the whitespace that a control token takes from the text around it. Knows nothing
of how ordinary text becomes tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken

Pieces = Sequence[tuple[str, bool]]
"""Runs of text, each with whether it is markup: the text of a chat template, which may spell control tokens."""


@dataclass(slots=True)
class Runs:
    """Pieces cut at control tokens: an int is a control token, a str a run of ordinary text (never empty)."""

    items: list[int | str] = field(default_factory=list)
    swallow: bool = False
    """Whether the last item is a control token that takes the whitespace after it (`rstrip`)."""

    def add_text(self, text: str) -> None:
        if self.swallow:
            text = text.lstrip()
        if not text:
            return
        self.swallow = False
        if self.items and isinstance(self.items[-1], str):
            self.items[-1] += text
        else:
            self.items.append(text)

    def add_control(self, token_id: int, *, lstrip: bool, rstrip: bool) -> None:
        if lstrip and self.items and isinstance(last := self.items[-1], str):
            self.items.pop()
            self.add_text(last.rstrip())
        self.items.append(token_id)
        self.swallow = rstrip

    def pop_text(self) -> str:
        """Take away the last run of text, "" where there is none after the last control token."""
        last = self.items[-1] if self.items else None
        if not isinstance(last, str):
            return ""
        self.items.pop()
        return last


class ControlTokens:
    """`vocabulary`: all pieces and their ids; `added`: the added tokens by id; `also`: ids that are control tokens
    whatever their flags say (BOS, EOS); `size`: how many ids there are."""

    def __init__(
        self, vocabulary: Mapping[str, int], added: Mapping[int, AddedToken], also: set[int], size: int
    ) -> None:
        named = also | {i for i, token in added.items() if token.special}
        self.added = added
        self.ids = frozenset(named | set(range(size)) - set(vocabulary.values()))
        """Control tokens, and ids without a token."""
        self.ordinary = [token for i, token in added.items() if i not in named]
        """Added tokens that any text may spell."""
        self.by_text = {token.content: i for i, token in added.items()}
        """Control tokens and added tokens by their text."""
        self.spelled = {piece: i for piece, i in vocabulary.items() if i in named}
        self.by_text |= self.spelled
        self.bytes = {i: text.encode() for text, i in self.spelled.items()}
        longest_first = sorted(self.spelled, key=len, reverse=True)
        self.regex = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def runs(self, pieces: Pieces) -> Runs:
        """Cut pieces at the control tokens that markup spells; join what touches."""
        runs = Runs()
        for text, markup in pieces:
            done = 0
            for m in self.regex.finditer(text) if markup else ():
                token_id = self.spelled[m[0]]
                flags = self.added.get(token_id)
                around = text[m.start() - 1 : m.start()] + text[m.end() : m.end() + 1]
                if flags is not None and flags.single_word and re.search(r"\w", around):
                    continue
                runs.add_text(text[done : m.start()])
                runs.add_control(
                    token_id, lstrip=flags is not None and flags.lstrip, rstrip=flags is not None and flags.rstrip
                )
                done = m.end()
            runs.add_text(text[done:])
        return runs

    def spelling(self, token_id: int) -> str:
        return next(text for text, i in self.spelled.items() if i == token_id)

    def found_in(self, text: str) -> bool:
        """Whether an added token that any text may spell is in `text`."""
        return any(token.content in text for token in self.ordinary)
