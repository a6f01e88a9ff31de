"""A toy model that behaves like a device: steps are carried out in the order of their launch, answers come late, and a
sampled token may stand in the next step before anybody has seen it. The oracle of overlap: exact, without a GPU.

It is as strict as a device is silent. Whatever a device would get wrong without a word is an `AssertionError` here, and
kept in `wrong` (the engine makes a step's error the error of its branches): a token that stands for something else than
a sample of the step right before, a step nobody asked about, answers taken twice or out of order, a slot written twice,
a context whose slots do not hold just those positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sgl.backend.runtime.kv.pool import SCRATCH
from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
from sgl.backend.runtime.runtime import Runtime
from sgl.backend.runtime.sample.host import HostSampler
from sgl.backend.runtime.sample.sampler import Answer, Ask, Request, Sampled
from sgl.backend.runtime.step.executor import HostFlight
from sgl.backend.runtime.step.packed import Batch
from sgl.lang.chat import CHATML, ChatTemplate

NO_TOKEN = 0
"""What a device leaves in the place of a sample that failed."""


class LaggingExecutor:
    """`trip(part, n)`: called when launch number n, what is asked of it ("ask"), or its answers ("answers") are done;
    what it raises is a device's failure. `spoil(n, answers)` may replace answers of launch n."""

    ahead = True

    def __init__(self, model: ToyModel, vocab_size: int) -> None:
        self.model, self.sampler = model, HostSampler(vocab_size)
        self.launches = 0
        self.flying: list[LaggingFlight] = []  # launched, not collected
        self.last: LaggingFlight | None = None  # whose samples lie on the device
        self.ran_ahead = 0  # rows whose token stood for one in flight
        self.alongside = 0  # launches while another step was in flight
        self.wrong: list[str] = []
        self.trip: Callable[[str, int], None] = lambda part, n: None
        self.spoil: Callable[[int, list[Answer]], None] = lambda n, answers: None

    def expect(self, right: Any, what: str) -> None:
        if not right:
            self.wrong.append(what)
            raise AssertionError(what)

    def abandon(self) -> None:
        """Nobody will collect what is in flight (an interruption): its samples stand for nothing any more."""
        self.flying.clear()

    def launch(self, batch: Batch) -> LaggingFlight:
        self.expect(len(self.flying) <= 1, "two steps are in flight already")
        self.expect(not self.flying or self.flying[-1].asked, "the step in flight was not asked yet")
        self.launches += 1
        self._check(batch)
        tokens = batch.tokens.copy()
        ahead = np.flatnonzero(tokens < 0)
        places = [-1 - int(token) for token in tokens[ahead]]
        self.expect(len(set(places)) == len(places), "two rows stand for one sample")
        tokens[ahead] = [self._sample(i) for i in places]
        self.ran_ahead += len(ahead)
        self.alongside += bool(self.flying)
        flight = LaggingFlight(self, self.launches, self.model.forward(replace(batch, tokens=tokens)))
        self.trip("launch", self.launches)
        self.flying.append(flight)
        return flight

    def _sample(self, i: int) -> int:
        """The token that -1 - i stands for."""
        last = self.last
        assert last is not None, "a token stands for a sample before the first step"
        self.expect(last in self.flying, "a token stands for an answer that was collected already")
        self.expect(i < len(last.asks) and isinstance(last.asks[i], Request), "a token stands for what is no sample")
        answer = last.found[i]
        return answer.token if isinstance(answer, Sampled) else NO_TOKEN

    def _check(self, batch: Batch) -> None:
        slots = batch.slots[batch.slots >= SCRATCH]
        self.expect(len(slots) == len(batch.slots), "a row writes the scratch slot")
        self.expect(len(np.unique(slots)) == len(slots), "two rows write one slot")
        written = self.model._position.copy()
        written[batch.slots] = batch.positions
        rows = 0
        for span in batch.spans:
            self.expect(span.first_row == rows, "the spans do not lie end to end")
            rows += span.rows
            own = np.arange(span.context_length, span.context_length + span.rows)
            self.expect((batch.positions[span.first_row : rows] == own).all(), "a span's positions do not follow")
            before = [np.arange(start, start + length) for start, length in span.context]
            seen = np.concatenate(before) if before else np.zeros(0, dtype=np.int64)
            self.expect(
                len(seen) == span.context_length and (written[seen] == np.arange(len(seen))).all(),
                "a context's slots do not hold its positions",
            )
        self.expect(rows == len(batch.tokens), "rows without a span")


class LaggingFlight:
    def __init__(self, executor: LaggingExecutor, number: int, logits: Any) -> None:
        self.executor, self.number = executor, number
        self.logits = logits
        self.asks: list[Ask] = []
        self.found: list[Answer] = []
        self.asked = False

    def ask(self, asks: Sequence[Ask]) -> None:
        executor = self.executor
        executor.expect(not self.asked, "a step was asked twice")
        executor.expect(
            executor.flying and executor.flying[-1] is self, "another step was launched before this was asked"
        )
        executor.expect(len(asks) == len(self.logits), "not one ask a wanted row")
        self.asked, executor.last = True, self
        try:
            executor.trip("ask", self.number)
        except BaseException:
            executor.flying.remove(self)  # what the step before sampled is overwritten, perhaps
            raise
        flight = HostFlight(self.logits, executor.sampler)
        flight.ask(asks)
        found = flight.answers()
        executor.spoil(self.number, found)
        self.asks, self.found = list(asks), found

    def answers(self) -> list[Answer]:
        executor = self.executor
        executor.expect(self.asked, "answers before anything was asked")
        executor.expect(executor.flying and executor.flying[0] is self, "answers taken twice, or out of order")
        del executor.flying[0]
        executor.trip("answers", self.number)
        return self.found


class LaggingToy(ToyModel):
    def executor(self, vocab_size: int, options: Any) -> LaggingExecutor:
        return LaggingExecutor(self, vocab_size)


def lagging(favour: dict[int, float] | None = None, **options: Any) -> Runtime:
    """`Runtime.toy`, on a toy device."""
    tokenizer = toy_tokenizer()
    model = LaggingToy(tokenizer.vocab_size + 5, favour=favour)
    template = ChatTemplate(CHATML, name="toy")
    return Runtime.of(model, tokenizer, chat_template=template, name="toy device", **options)
