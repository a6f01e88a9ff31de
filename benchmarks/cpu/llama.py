"""llama.cpp through its C API, built for this machine (`llama-cpp-python` from source), arranged as well as it goes.

A line is a sequence of one context with unified KV. All lines go on in one `llama_decode` a token. What lines share is
computed once and shared by `llama_memory_seq_cp`: the common beginning of a batch, and a fork's prefix. A select is one
decode: tokens of longer choices go along in sequences of their own. The settings: the file as shipped (Q4_1) and
requantised to Q4_0 (its fastest), each with one and two threads, with and without flash attention.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as api
import numpy as np
import waves
from child import serve
from waves import Ask
from weights import MODEL, q4_0

CONTEXT, BATCH, SEQUENCES = 8192, 2048, 128
Row = tuple[int, int, list[int], bool]
"""A token, its position, its sequences, and whether its logits are wanted."""


@dataclass(eq=False)
class Line:
    sequence: int
    computed: int = 0
    pending: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def push(self, ids: list[int]) -> None:
        self.pending += ids
        self.ids += ids


class Context:
    """A model and a context of it."""

    def __init__(self, file: Path, flash: bool) -> None:
        params = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(str(file).encode(), params)
        options = api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = CONTEXT, BATCH, 512
        options.n_seq_max, options.kv_unified, options.no_perf = SEQUENCES, True, True
        options.flash_attn_type = int(flash)
        self.context = api.llama_init_from_model(self.model, options)
        self.memory = api.llama_get_memory(self.context)
        self.vocab = api.llama_model_get_vocab(self.model)
        self.size = api.llama_vocab_n_tokens(self.vocab)
        self.batch = api.llama_batch_init(BATCH, 0, SEQUENCES)

    def decode(self, rows: list[Row]) -> np.ndarray:
        """Compute the rows; the wanted rows' logits, one after the other. They are valid until the next call."""
        batch = self.batch
        batch.n_tokens, wanted = len(rows), 0
        for i, (token, position, sequences, wants) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, len(sequences)
            for j, sequence in enumerate(sequences):
                batch.seq_id[i][j] = sequence
            batch.logits[i] = wants
            wanted += wants
        if code := api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        logits = api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (wanted, self.size)) if wanted else np.empty((0, self.size), np.float32)

    def copy(self, source: int, target: int, first: int = -1) -> None:
        api.llama_memory_seq_cp(self.memory, source, target, first, -1)

    def tokens(self, text: str) -> list[int]:
        data = text.encode()
        ids = (api.llama_token * (len(data) + 8))()
        return ids[: api.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, False)]

    def text(self, ids: list[int]) -> str:
        out = ctypes.create_string_buffer(16 * len(ids) + 64)
        array = (api.llama_token * len(ids))(*ids)
        length = api.llama_detokenize(self.vocab, array, len(ids), out, len(out), False, True)
        return out.raw[:length].decode(errors="replace")


class Llama:
    def open(self) -> dict[str, Any]:
        api.llama_backend_init()
        files = {"Q4_1": MODEL, "Q4_0": q4_0(api)}
        self.contexts = {(name, flash): Context(files[name], flash) for name in files for flash in (False, True)}
        about = api.llama_print_system_info().decode()
        has = [part.split("=")[0].strip() for part in about.split("|") if "= 1" in part]
        return {"llama-cpp-python": api.__version__, "instructions": " ".join(has)}

    def settings(self) -> list[dict[str, Any]]:
        threads = sorted({1, len(os.sched_getaffinity(0))})
        return [{"file": f, "flash": a, "threads": n} for (f, a), n in itertools.product(self.contexts, threads)]

    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        self.now = self.contexts[setting["file"], setting["flash"]]
        api.llama_set_n_threads(self.now.context, setting["threads"], setting["threads"])
        api.llama_memory_clear(self.now.memory, False)
        self.free = list(range(SEQUENCES))
        return waves.run(self, plans)

    def start(self) -> Line:
        return Line(self.free.pop())

    def say(self, line: Line, text: str) -> None:
        line.push(self.now.tokens(text))

    def text(self, line: Line) -> str:
        return self.now.text(line.ids)

    def fork(self, line: Line, count: int) -> list[Line]:
        """Children that share all of the line's KV; each computes the last token again, for logits of its own."""
        self.compute(line, line.pending[:-1])
        children = [Line(self.free.pop(), line.computed, line.pending[:], line.ids[:]) for _ in range(count)]
        for child in children:
            self.now.copy(line.sequence, child.sequence)
        return children

    def compute(self, line: Line, ids: list[int]) -> None:
        """Compute the first of the line's pending tokens, with no wish for logits."""
        if ids:
            self.now.decode([(token, line.computed + i, [line.sequence], False) for i, token in enumerate(ids)])
            line.computed, line.pending = line.computed + len(ids), line.pending[len(ids) :]

    def share(self, lines: list[Line]) -> None:
        """Compute once what all new lines begin with."""
        new = [line for line in lines if not line.computed]
        if len(new) > 1:
            columns = zip(*(line.pending[:-1] for line in new))
            common = sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))
            self.compute(new[0], new[0].pending[:common])
            for line in new[1:] if common else ():
                self.now.copy(new[0].sequence, line.sequence)
                line.computed, line.pending = common, line.pending[common:]

    def rows(self, line: Line, sequences: list[int]) -> list[Row]:
        """The line's pending tokens as rows of these sequences too, with the logits of the last."""
        first, last = line.computed, len(line.pending) - 1
        return [(token, first + i, [line.sequence, *sequences], i == last) for i, token in enumerate(line.pending)]

    def gen(self, asks: list[Ask]) -> list[str]:
        self.share([ask.line for ask in asks])
        first = {id(ask): len(ask.line.ids) for ask in asks}
        live = asks
        while live:
            logits = self.now.decode([row for ask in live for row in self.rows(ask.line, [])])
            for ask, token in zip(live, logits.argmax(1).tolist()):
                ask.line.computed += len(ask.line.pending)
                ask.line.pending = []
                ask.line.push([token])
            live = [ask for ask in live if len(ask.line.ids) - first[id(ask)] < ask.tokens]
        return [self.now.text(ask.line.ids[first[id(ask)] :]) for ask in asks]

    def select(self, asks: list[Ask]) -> list[str]:
        """Token-length normalised, as `sgl.select` by default: the mean log-probability of a choice's tokens."""
        self.share([ask.line for ask in asks])
        rows: list[Row] = []
        tried = []
        for ask in asks:
            line, choices = ask.line, [self.now.tokens(choice) for choice in ask.choices]
            sides = {i: self.free.pop() for i, ids in enumerate(choices) if len(ids) > 1}
            for side in sides.values():
                self.now.copy(line.sequence, side)
            rows += self.rows(line, [*sides.values()])
            line.computed += len(line.pending)
            for i, side in sides.items():
                rows += [(token, line.computed + j, [side], True) for j, token in enumerate(choices[i][:-1])]
            tried.append((line, choices, sides))
        logits = iter(self.now.decode(rows))
        won = []
        for ask, (line, choices, sides) in zip(asks, tried):
            after = log_probabilities(next(logits))
            scores = [float(after[ids[0]]) for ids in choices]
            for i in sides:
                scores[i] += sum(float(log_probabilities(next(logits))[token]) for token in choices[i][1:])
            best = max(range(len(choices)), key=lambda i: scores[i] / len(choices[i]))
            ids = choices[best]
            if best in sides:
                self.now.copy(sides[best], line.sequence, line.computed)
            for side in sides.values():
                api.llama_memory_seq_rm(self.now.memory, side, -1, -1)
                self.free.append(side)
            line.computed, line.pending = line.computed + len(ids) - 1, ids[-1:]
            line.ids += ids
            won.append(ask.choices[best])
        return won


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


if __name__ == "__main__":
    serve(Llama())
