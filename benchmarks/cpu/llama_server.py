"""llama.cpp's server in this process (`xllamacpp`, a wheel): a slot a line, prefixes cached, selects by grammar.

The settings: the file as shipped and requantised to Q4_0, one thread and as many as there are cores.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import llama_cpp
import waves
import xllamacpp as xl
from child import serve
from text_lines import TextLines
from weights import MODEL, q4_0

SLOTS, CONTEXT = 32, 24576


class LlamaServer(TextLines):
    def open(self) -> dict[str, Any]:
        self.files = {"Q4_1": MODEL, "Q4_0": q4_0(llama_cpp)}
        self.now: tuple[Any, dict[str, Any]] | None = None
        return {"xllamacpp": xl.__version__, "instructions": xl.get_system_info()}

    def settings(self) -> list[dict[str, Any]]:
        threads = sorted({1, len(os.sched_getaffinity(0))})
        return [{"file": f, "threads": n} for f, n in itertools.product(self.files, threads)]

    def server(self, setting: dict[str, Any]) -> Any:
        if self.now is None or self.now[1] != setting:
            self.now = None  # ends the old one
            params = xl.CommonParams()
            params.model.path = str(self.files[setting["file"]])
            params.n_ctx, params.n_parallel, params.kv_unified = CONTEXT, SLOTS, True
            params.n_batch, params.n_ubatch, params.cache_prompt = 2048, 512, True
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setting["threads"]
            params.cache_ram_mib, params.warmup = 0, True
            self.now = xl.Server(params), setting
        return self.now[0]

    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        self.slots = self.server(setting)
        for slot in range(SLOTS):  # a cold cache: every slot holds another text
            self.request({"prompt": f"{slot}", "n_predict": 1, "id_slot": slot})
        return waves.run(self, plans)

    def request(self, what: dict[str, Any]) -> dict[str, Any]:
        answer = self.slots.handle_completions({"temperature": 0, "cache_prompt": True, **what})
        if "content" not in answer and "choices" not in answer:
            raise RuntimeError(str(answer)[:300])
        return answer

    def complete(self, text: str, tokens: int, choices: tuple[str, ...]) -> str:
        if choices:
            grammar = "root ::= " + " | ".join(f'"{choice}"' for choice in choices)
            answer = self.request({"prompt": text, "n_predict": 16, "grammar": grammar})
        else:
            answer = self.request({"prompt": text, "n_predict": tokens, "ignore_eos": True})
        return answer["content"] if "content" in answer else answer["choices"][0]["text"]


if __name__ == "__main__":
    serve(LlamaServer())
