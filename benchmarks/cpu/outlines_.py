"""outlines on `transformers`: one object of a schema. The schema is compiled before the time is taken."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import time
from typing import Any

import outlines
import torch
from child import serve
from outlines.types import JsonSchema
from transformers import AutoModelForCausalLM, AutoTokenizer
from weights import checkpoint


class Outlines:
    def open(self) -> dict[str, Any]:
        folder = checkpoint()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.models = {
            name: outlines.from_transformers(
                AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)), self.tokenizer
            )
            for name in ("float32", "bfloat16")
        }
        self.most, self.generators = torch.get_num_threads(), {}
        return {"outlines": importlib.metadata.version("outlines")}

    def settings(self) -> list[dict[str, Any]]:
        return [{"dtype": d, "threads": n} for d, n in itertools.product(self.models, sorted({1, self.most}))]

    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(setting["threads"])
        [[[_, text], [_, _name, schema, tokens]]] = plans
        key = setting["dtype"], json.dumps(schema)
        if key not in self.generators:
            schema_type = JsonSchema(schema, whitespace_pattern="")
            self.generators[key] = outlines.Generator(self.models[setting["dtype"]], schema_type)
        start = time.perf_counter()
        made = self.generators[key](text, max_new_tokens=tokens, do_sample=False)
        seconds = time.perf_counter() - start
        ids = self.tokenizer.encode(made, add_special_tokens=False)
        return {"seconds": seconds, "generated": len(ids), "texts": [text + made]}


if __name__ == "__main__":
    serve(Outlines())
