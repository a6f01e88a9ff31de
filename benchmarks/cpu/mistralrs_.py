"""mistral.rs in this process, on the GGUF file as shipped: prefix cache on, selects by regex."""

from __future__ import annotations

import importlib.metadata
import uuid
from typing import Any

import mistralrs
import waves
from child import serve
from text_lines import TextLines, pattern
from weights import MODEL


class MistralRs(TextLines):
    """One request at a time: its Python class takes no second one meanwhile ("Already borrowed")."""

    def __init__(self) -> None:
        super().__init__(at_once=1)

    def open(self) -> dict[str, Any]:
        which = mistralrs.Which.GGUF(str(MODEL.parent), MODEL.name)
        self.runner = mistralrs.Runner(which, max_seqs=32, prefix_cache_n=64, token_source="none")
        return {"mistralrs": importlib.metadata.version("mistralrs")}

    def settings(self) -> list[dict[str, Any]]:
        return [{}]

    def run(self, plans: list[Any], setting: dict[str, Any]) -> dict[str, Any]:
        # Its cache cannot be emptied: another first word makes every text new, at the cost of a few tokens.
        cold = [[["text", f"{uuid.uuid4().hex[:4]} "], *plan] for plan in plans]
        for plan in cold[1:]:
            plan[0] = cold[0][0]
        return waves.run(self, cold)

    def complete(self, text: str, tokens: int, choices: tuple[str, ...]) -> str:
        grammar = {"grammar": pattern(choices), "grammar_type": "regex"} if choices else {"ignore_eos": True}
        request = mistralrs.CompletionRequest(
            prompt=text, model="default", max_tokens=16 if choices else tokens, temperature=0.0, **grammar
        )
        return self.runner.send_completion_request(request).choices[0].text


if __name__ == "__main__":
    serve(MistralRs())
