"""Lines of a peer that takes a whole text with every request, and finds out by itself what it has computed before."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from waves import Ask


@dataclass(eq=False)
class TextLine:
    text: str = ""


class TextLines:
    """Sends all requests of a wave at once, each from a thread. A select is a request whose grammar allows the choices.

    `complete(text, tokens, choices)` is the peer's: so many tokens, or one of the choices.
    """

    complete: Callable[[str, int, tuple[str, ...]], str]

    def __init__(self, at_once: int = 32) -> None:
        self._threads = ThreadPoolExecutor(at_once)

    def start(self) -> TextLine:
        return TextLine()

    def say(self, line: TextLine, text: str) -> None:
        line.text += text

    def fork(self, line: TextLine, count: int) -> list[TextLine]:
        return [TextLine(line.text) for _ in range(count)]

    def text(self, line: TextLine) -> str:
        return line.text

    def gen(self, asks: list[Ask]) -> list[str]:
        answers = list(self._threads.map(lambda ask: self.complete(ask.line.text, ask.tokens, ask.choices), asks))
        for ask, answer in zip(asks, answers):
            ask.line.text += answer
        return answers

    select = gen


def pattern(choices: tuple[str, ...]) -> str:
    return "(" + "|".join(map(re.escape, choices)) + ")"
