"""`transformers`: a batch of `generate` calls, with the KV of the text that the batch shares computed once.

A wave of gens is one call of `generate`: rows are padded on the left, after their common beginning, whose KV is kept
between calls and repeated for the rows. A wave of selects is one forward over all choices of all lines. The settings:
float32 and bfloat16, one thread and all.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
import transformers
import waves
from child import serve
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from waves import Ask
from weights import checkpoint

Line = list[int]
"""A line's tokens."""


class Transformers:
    def open(self) -> dict[str, Any]:
        folder = checkpoint()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.models = {
            name: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)).eval()
            for name in ("float32", "bfloat16")
        }
        self.most = torch.get_num_threads()
        return {"transformers": transformers.__version__, "torch": torch.__version__}

    def settings(self) -> list[dict[str, Any]]:
        return [{"dtype": d, "threads": n} for d, n in itertools.product(self.models, sorted({1, self.most}))]

    @torch.inference_mode()
    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(setting["threads"])
        self.model = self.models[setting["dtype"]]
        self.kept: tuple[Line, DynamicCache] = ([], DynamicCache())
        return waves.run(self, plans)

    def start(self) -> Line:
        return []

    def say(self, line: Line, text: str) -> None:
        line += self.tokenizer.encode(text, add_special_tokens=False)

    def fork(self, line: Line, count: int) -> list[Line]:
        return [line[:] for _ in range(count)]

    def text(self, line: Line) -> str:
        return self.tokenizer.decode(line)

    def prefix(self, rows: list[Line]) -> tuple[int, Any]:
        """How many tokens all rows begin with, and their KV, for one row. It grows from the last wave's."""
        ids, cache = self.kept
        common = common_length([row[:-1] for row in rows])
        old = common_length([ids, rows[0][:common]])
        if old < len(ids):
            cache.crop(old - len(ids))  # so many tokens off its end
        if common > old:
            self.model(torch.tensor([rows[0][old:common]]), past_key_values=cache, logits_to_keep=1)
        self.kept = rows[0][:common], cache
        return common, cache

    def batch(self, rows: list[Line]) -> tuple[dict[str, Any], int]:
        """What a call of the model takes for these rows, and how many tokens are in the cache already."""
        common, cache = self.prefix(rows)
        longest = max(map(len, rows))
        pad = [longest - len(row) for row in rows]
        mask = [[1] * common + [0] * n + [1] * (longest - common - n) for n in pad]
        ids = [row[:common] + [0] * n + row[common:] for row, n in zip(rows, pad)]
        mine = copy.deepcopy(cache)
        if common and len(rows) > 1:
            mine.batch_repeat_interleave(len(rows))
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "past_key_values": mine,
        }, common

    def gen(self, asks: list[Ask]) -> list[str]:
        tokens = max(ask.tokens for ask in asks)
        given, _ = self.batch([ask.line for ask in asks])
        out = self.model.generate(
            **given, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        new = out[:, given["input_ids"].shape[1] :].tolist()
        for ask, ids in zip(asks, new):
            ask.line += ids[: ask.tokens]
        return [self.tokenizer.decode(ids[: ask.tokens]) for ask, ids in zip(asks, new)]

    def select(self, asks: list[Ask]) -> list[str]:
        choices = [[self.tokenizer.encode(c, add_special_tokens=False) for c in ask.choices] for ask in asks]
        rows = [ask.line + ids for ask, some in zip(asks, choices) for ids in some]
        given, common = self.batch(rows)
        positions = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)[:, common:]
        given["input_ids"] = given["input_ids"][:, common:]
        longest = max(len(ids) for some in choices for ids in some)
        logits = self.model(**given, position_ids=positions, logits_to_keep=longest + 1).logits.float().log_softmax(-1)
        scores = iter(logits)
        won = []
        for ask, some in zip(asks, choices):
            of = [float(next(scores)[-len(c) - 1 : -1].gather(1, torch.tensor(c)[:, None]).mean()) for c in some]
            best = max(range(len(of)), key=of.__getitem__)
            ask.line += some[best]
            won.append(ask.choices[best])
        return won


def common_length(rows: list[Line]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*rows)))


if __name__ == "__main__":
    serve(Transformers())
