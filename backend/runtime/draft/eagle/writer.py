"""Training data: conversations that the model itself writes, through sgl's own engine, in files that are kept.

Owns: what conversations are asked for, how their turns are spelled in the model's chat template, and the files of a
folder. Knows nothing of heads. A file is written whole or not at all, and one that is there is not written again, so an
interrupted run goes on where it was.

The user turns are prompts of a file; or turns that the model writes after the bare header of a user turn (Xu et al.,
Magpie, arXiv 2406.08464); or turns that begin with the first words of a prompt, and that the model ends.

Legend: a task is one file: conversations of one kind.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .....lang.errors import OptionError
from .conversations import Dialogue, load_conversations, save_conversations

if TYPE_CHECKING:
    from ...runtime import Runtime
    from ...text.tokenizer import Tokenizer

Prompt = list[dict[str, str]]
"""Messages; the last one is the user's."""
_SECOND_TURN_EACH = 4
"""Of so many self-written conversations one has a second turn."""
_OPENING_WORDS = (3, 12)


@dataclass(frozen=True, kw_only=True)
class WriterOptions:
    """What is written.

    `temperatures`: each prompt is answered once at each of these. `self_written`, `begun`: how many conversations have
    user turns that the model writes from nothing, or from the first words of a prompt; their answers take the
    temperatures in turn. `answer_tokens`, `user_tokens`: longest turns. `task`: conversations a file.
    """

    temperatures: tuple[float, ...] = (0.0, 1.0)
    self_written: int = 0
    begun: int = 0
    answer_tokens: int = 512
    user_tokens: int = 192
    task: int = 2048
    seed: int = 0


@dataclass(frozen=True)
class WritingTask:
    """One file: `kind` is "asked", "written" or "begun"; `numbers` are prompts, or conversations of the kind."""

    name: str
    kind: str
    numbers: range
    temperatures: tuple[float, ...]


def read_prompts(file: Path) -> list[Prompt]:
    """Read prompts, one a line: {"prompt": text}, {"question": text} or {"messages": [...]}, as messages.

    Raises `OptionError` that names the line.
    """
    found = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # texts may hold other line ends
    except (OSError, ValueError) as error:
        raise OptionError(f"{file}: cannot be read ({error}); name a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row.get("prompt", row.get("question"))
            messages = row["messages"] if text is None else [{"role": "user", "content": text}]
            if not messages or not all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages):
                raise ValueError("roles and contents must be texts")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(
                f"{file}:{number}: no prompt ({type(error).__name__}: {error}); a line is {{'prompt': text}}, "
                "{'question': text} or {'messages': [...]}"
            ) from None
        found.append(messages)
    if not found:
        raise OptionError(f"{file}: has no prompts")
    return found


class TurnSpelling:
    """How a chat template spells turns, as tokens. Raises `OptionError` for a template that does not show contents."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        first, answer, second = (f"mark{secrets.token_hex(6)}" for _ in range(3))
        messages = [{"role": "user", "content": first}]
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": second}]
        longer = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, _, after = asked.partition(first)
        between = longer.partition(answer)[2].partition(second)[0]
        if not asked.count(first) == longer.count(second) == 1 or not between:
            raise OptionError("the chat template does not print each message once: no user turn can be left open")
        self.user = tokenizer.encode([(before, True)])
        self.answer = tokenizer.encode([(after, True)], first=False)
        self.next_user = tokenizer.encode([(between, True)], first=False)

    def after_answer(self, tokens: Sequence[int]) -> list[int]:
        """What opens the next user turn after an answer, which may have written the end of its turn itself."""
        ended = tokens[-1] == self.next_user[0]
        return self.next_user[1:] if ended else self.next_user


class ConversationWriter:
    """Writes conversations with a runtime into a folder. `prompts`: groups of them (files), which begin turns equally
    often."""

    def __init__(
        self, runtime: Runtime, prompts: Sequence[Sequence[Prompt]], options: WriterOptions, folder: Path
    ) -> None:
        self._runtime, self._options, self._folder = runtime, options, folder
        self._groups = [group for group in prompts if group]
        self._prompts = [prompt for group in prompts for prompt in group]
        self._spelling = TurnSpelling(runtime.tokenizer)

    def tasks(self) -> list[WritingTask]:
        """What there is to write, the same for the same prompts and options; mixed, so that any part has all kinds."""
        options = self._options
        found = []
        for temperature in options.temperatures:
            for part in _parts(len(self._prompts), options.task):
                found.append(WritingTask(f"asked-{temperature:g}-{part.start:07}", "asked", part, (temperature,)))
        for kind, count in (("written", options.self_written), ("begun", options.begun)):
            for part in _parts(count, options.task):
                found.append(WritingTask(f"{kind}-{part.start:07}", kind, part, options.temperatures))
        random.Random(options.seed).shuffle(found)
        return found

    def write(self, tasks: Sequence[WritingTask]) -> Iterator[int]:
        """Write the files that are not there; after each, how many tokens it has."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            file = self._folder / f"{task.name}.safetensors"
            if not file.exists():
                save_conversations(file, self._conversations(task))
            yield sum(len(each.tokens) for each in load_conversations(file))

    def _conversations(self, task: WritingTask) -> list[Dialogue]:
        seeds = [f"{self._options.seed}/{task.kind}/{number}" for number in task.numbers]
        heat = [task.temperatures[number % len(task.temperatures)] for number in task.numbers]
        if task.kind == "asked":
            asked = [
                list(self._runtime.tokenizer.apply_chat_template(self._prompts[number], add_generation_prompt=True))
                for number in task.numbers
            ]
            return self._answered([(tokens, ()) for tokens in asked], heat, [f"{s}/{heat[0]:g}" for s in seeds])
        opened = [self._spelling.user + self._opening(task.kind, seed) for seed in seeds]
        first = self._answered(*self._asked([(tokens, ()) for tokens in opened], heat, seeds))
        longer = [i for i in range(len(first)) if i % _SECOND_TURN_EACH == 0]
        again = [
            (first[i].tokens.tolist() + self._spelling.after_answer(first[i].tokens.tolist()), first[i].written)
            for i in longer
        ]
        second = self._answered(*self._asked(again, [heat[i] for i in longer], [f"{seeds[i]}/2" for i in longer]))
        rest = [each for i, each in enumerate(first) if i % _SECOND_TURN_EACH]
        return rest + second

    def _opening(self, kind: str, seed: str) -> list[int]:
        if kind != "begun":
            return []
        draw = random.Random(seed)
        words = draw.choice(draw.choice(self._groups))[-1]["content"].split(" ")
        text = " ".join(words[: draw.randint(*_OPENING_WORDS)])
        return list(self._runtime.tokenizer.encode(text, first=False))

    def _asked(
        self, begun: list[tuple[list[int], tuple[tuple[int, int], ...]]], heat: list[float], seeds: list[str]
    ) -> tuple[list[tuple[list[int], tuple[tuple[int, int], ...]]], list[float], list[str]]:
        """Let the model write user turns. Those that do not end, and empty ones, are left out."""
        turns = self._generate([tokens for tokens, _ in begun], [1.0] * len(begun), self._options.user_tokens, seeds)
        kept = []
        for i, ((tokens, spans), (written, ended)) in enumerate(zip(begun, turns)):
            if ended and len(written) > 1:
                kept.append(((tokens + written[:-1] + self._spelling.answer, spans), heat[i], seeds[i]))
        return [each for each, _, _ in kept], [h for _, h, _ in kept], [s for _, _, s in kept]

    def _answered(
        self, asked: list[tuple[list[int], tuple[tuple[int, int], ...]]], heat: list[float], seeds: list[str]
    ) -> list[Dialogue]:
        answers = self._generate([tokens for tokens, _ in asked], heat, self._options.answer_tokens, seeds)
        return [
            Dialogue(np.array(tokens + written, np.int64), (*spans, (len(tokens), len(tokens) + len(written))))
            for (tokens, spans), (written, _) in zip(asked, answers)
            if written
        ]

    def _generate(
        self, prompts: list[list[int]], heat: list[float], most: int, seeds: list[str]
    ) -> list[tuple[list[int], bool]]:
        """Continue each prompt: its tokens, the one that ends it included, and whether there was one.

        A prompt that fills the context is continued by nothing.
        """
        context = self._runtime.options.context_length
        found: list[tuple[list[int], bool]] = [([], False)] * len(prompts)
        fitting = [i for i, tokens in enumerate(prompts) if len(tokens) + 1 < context]
        params: list[dict[str, Any]] = [
            {
                "max_new_tokens": min(most, context - 1 - len(prompts[i])),
                "temperature": heat[i],
                "sampling_seed": random.Random(seeds[i]).getrandbits(31),
            }
            for i in fitting
        ]
        results = (
            self._runtime.generate(input_ids=[prompts[i] for i in fitting], sampling_params=params) if fitting else []
        )
        for i, result in zip(fitting, results):
            reason = result["meta_info"]["finish_reason"]
            end = reason.get("matched") if reason["type"] == "stop" else None
            ended = isinstance(end, int)
            found[i] = result["output_ids"] + ([end] if ended else []), ended
        return found


def _parts(count: int, size: int) -> list[range]:
    return [range(at, min(count, at + size)) for at in range(0, count, size)]
