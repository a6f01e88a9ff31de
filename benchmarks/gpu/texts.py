"""Texts of an exact number of tokens, made of ordinary words.

Owns: the words and the fitting. Every text is drawn from its own seed, so texts of different seeds hardly share a
beginning, and the same seed gives the same text.
"""

from __future__ import annotations

import random
from typing import Any

_LIST = """
able about above across after again air all along among animal answer apple area arm art ask autumn away
back ball bank base bear beat bed before begin behind best better bird black blue boat body book both bottle
box boy bread break bridge bright bring brother brown build business buy cake call camp car card care carry
case cat center chair chance change cheap check child city class clean clear climb clock close cloud coat
coffee cold color come cook copy corn corner cost country course cover cross cup cut dance dark daughter day
dear deep desk dinner doctor dog door down draw dream dress drink drive dry early earth east easy eat egg
eight end enough evening ever every eye face fact fall family far farm fast father few field fight find fine
finger fire first fish five floor flower fly follow food foot forest four free fresh friend front fruit full
game garden girl give glass gold good grass great green ground group grow hair half hand happy hard hat head
hear heart heat heavy help high hill history hold home horse hot hotel hour house hundred ice idea inside
iron island job join jump keep kind king kitchen knife know lake land language large last late laugh lead
learn leave left leg letter life light line list listen little long look love low lunch machine make man
many map market matter meal meat meet middle milk mind minute money month moon more morning mother mountain
mouth move much music name near neck new news night nine noise north nose note number ocean office often oil
old one open orange order other outside page paint pair paper park part party pass past pay peace pen people
picture piece place plain plan plane plant play point poor power press price public pull push put queen
question quick quiet radio rain reach read ready red rest rice rich ride right ring river road rock roll
room round rule run sad safe salt same sand school sea season seat second see seed sell send seven shape
share ship shirt shoe shop short show side silver simple sing sister sit six size skin sky sleep slow small
smile snow soft some son song soon sound south space speak spring stand star start station stay step stone
stop store storm story street strong student study summer sun sure sweet swim table tail take talk tall
taste teach team tell ten test thick thin thing think third three ticket time tired today top touch town
train travel tree trip true try turn twelve two uncle under use valley very visit voice wait walk wall want
warm wash watch water way wear weather week west wet wheel white wide wife wild wind window wine winter wish
woman wonder wood word work world write year yellow young
"""
WORDS = tuple(_LIST.split())
FILLERS = (" a", ".", ",")
"""Short ends that are tried, in this order, when no whole word fits any more."""
TOLERANCE = 0.02
"""How far a text may be from its size, as a part of it."""


class Texts:
    """Texts measured by `tokenizer` (a runtime's)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def count(self, text: str, markup: bool = False) -> int:
        """Tokens of a text; as `markup`, the spellings of control tokens are those tokens."""
        return len(self._tokenizer.encode([(text, markup)], first=False))

    def words(self, size: int, seed: object, begin: str = "", end: str = "") -> str:
        """`begin`, words, `end`: `size` tokens in all. Raises `ValueError` where that cannot be had within 2 %."""
        draw = random.Random(repr(seed))
        parts = [f" {draw.choice(WORDS)}" for _ in range(max(0, size))]

        def made(count: int, filling: str = "") -> str:
            return begin + "".join(parts[:count]) + filling + end

        low, high = 0, len(parts)
        while low < high:  # the most words that fit; more words are never fewer tokens
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.count(made(middle)) <= size else (low, middle - 1)
        filling = ""
        for filler in FILLERS:
            while self.count(made(low, filling + filler)) <= size and len(filling) < 40:
                filling += filler
        text = made(low, filling)
        self.check(text, size)
        return text

    def check(self, text: str, size: int) -> None:
        """Raise `ValueError` if a text is not `size` tokens long, give or take 2 % (or one token)."""
        found = self.count(text)
        if abs(found - size) > max(1, TOLERANCE * size):
            raise ValueError(f"a text of {size} tokens came out as {found}: {text[:80]!r}...")
