"""guidance on llama.cpp: one object of a schema, forced tokens without the model where it finds them."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import guidance
import llama_cpp
from child import serve
from weights import MODEL, q4_0


class Guidance:
    def open(self) -> dict[str, Any]:
        files = {"Q4_1": MODEL, "Q4_0": q4_0(llama_cpp)}
        threads = sorted({1, len(os.sched_getaffinity(0))})
        self.models = {
            (name, n): guidance.models.LlamaCpp(
                str(files[name]), n_ctx=2048, n_threads=n, n_threads_batch=n, echo=False, verbose=False
            )
            for name, n in itertools.product(files, threads)
        }
        return {"guidance": guidance.__version__, "llama-cpp-python": llama_cpp.__version__}

    def settings(self) -> list[dict[str, Any]]:
        return [{"file": name, "threads": n} for name, n in self.models]

    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        model = self.models[setting["file"], setting["threads"]]
        [[[_, text], [_, name, schema, tokens]]] = plans
        _ = model + "Another text."  # a cold cache: the engine keeps the KV of the last text's beginning
        start = time.perf_counter()
        after = model + text + guidance.json(name=name, schema=schema, temperature=0.0, max_tokens=tokens)
        made = after[name]
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "generated": len(llama_tokens(model, made)), "texts": [text + made]}


def llama_tokens(model: Any, text: str) -> Any:
    return model._interpreter.engine.tokenizer.encode(text.encode())


if __name__ == "__main__":
    serve(Guidance())
