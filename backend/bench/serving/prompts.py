"""The requests of a measurement: of random lengths, with a shared prefix, or those of a file.

Knows nothing of servers. One seed gives the same requests, whatever the server.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....lang.errors import OptionError

_WORDS = re.findall(
    "[a-z]+",
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power",
)
"""Common words, each one token in most vocabularies with the space before it."""


@dataclass(frozen=True)
class BenchRequest:
    """One request: a prompt or messages, and how many tokens may be written."""

    prompt: str | Sequence[dict[str, Any]]
    max_tokens: int


def random_requests(count: int, prompt: int, output: int, ratio: float, seed: int) -> list[BenchRequest]:
    """Prompts of random words, and random lengths.

    Args:
        count: How many.
        prompt: Longest prompt, words; about one token each.
        output: Longest output, tokens.
        ratio: The shortest of both, as a share of the longest, from 0 to 1. 1: all are equally long.
        seed: Of the words and lengths.
    """
    dice = random.Random(seed)

    def length(most: int) -> int:
        return dice.randint(max(1, round(most * ratio)), most)

    return [BenchRequest(_text(dice, length(prompt)), length(output)) for _ in range(count)]


def shared_requests(count: int, groups: int, shared: int, own: int, output: int, seed: int) -> list[BenchRequest]:
    """Prompts of `groups` groups, each with a beginning of `shared` words that its prompts share, and `own` more.

    They come in random order, as users do.
    """
    dice = random.Random(seed)
    begins = [_text(dice, shared) for _ in range(groups)]
    found = [BenchRequest(begins[i % groups] + _text(dice, own), output) for i in range(count)]
    dice.shuffle(found)
    return found


def _text(dice: random.Random, words: int) -> str:
    return "".join(" " + dice.choice(_WORDS) for _ in range(words))


def file_requests(file: Path, count: int, output: int, raw: bool) -> list[BenchRequest]:
    """Those of a file, JSON lines: a prompt, a question or messages each; from the first again, if it has too few.

    `raw`: the texts are continued as they are, so a line must have one.
    """
    from ...runtime.draft.eagle.writer import read_prompts

    talks = read_prompts(file)
    found = []
    for i in range(count):
        messages = talks[i % len(talks)]
        if raw and len(messages) > 1:
            raise OptionError(f"--dataset {file}: a prompt has several messages; use --backend openai-chat")
        found.append(BenchRequest(messages[0]["content"] if raw else messages, output))
    return found
