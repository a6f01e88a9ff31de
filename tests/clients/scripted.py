"""The server over a model that follows a script: it calls one tool, and then says what it was told to say.

`python -m sgl.tests.clients.scripted` is run by the tests of coding agents. All of the server is real: routes, fields,
the chat template, constraints, streams. Only the model is the toy, and each message's constraint leaves it one text.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sgl import Runtime
from sgl.backend.runtime.model.toy import ToyModel, toy_tokenizer
from sgl.backend.server import calling, conversation
from sgl.backend.server.command import listen, serve
from sgl.backend.server.flags import ServeOptions
from sgl.lang.chat import CHATML, ChatTemplate
from sgl.lang.constraint import Constraint, Exactly, json_schema
from sgl.lang.tools.spec import ToolSpec

FINAL = "The file says: pear."
ARGUMENTS: dict[str, Any] = {
    "command": "cat secret.txt", "cmd": "cat secret.txt", "file_path": "secret.txt", "filePath": "secret.txt",
    "description": "Read a file",
}  # fmt: skip
"""What is written for these parameters; others are left out."""


def script(tools: list[str], folder: str) -> None:
    """Let each message be a call of the first of `tools` that there is, and after its result `FINAL`."""
    given = {**ARGUMENTS, "file_path": f"{folder}/secret.txt", "filePath": f"{folder}/secret.txt"}

    def constraint(self: calling.Calling, answer: Constraint | None) -> Constraint | None:
        spec = next((spec for name in tools for spec in self.allowed if spec.name == name), None)
        if spec is None or self.turn:
            return Exactly(FINAL if self.allowed else "A title")
        properties = spec.openai()["function"]["parameters"]["properties"]
        values: dict[str, Any] = {}
        for name, own in properties.items():
            if name in given:
                values[name] = ["bash", "-lc", given[name]] if own.get("type") == "array" else given[name]
        fixed = {name: {"const": value} for name, value in values.items()}
        form = {"type": "object", "properties": fixed, "required": list(fixed), "additionalProperties": False}
        only = ToolSpec(spec.name, spec.description, json_schema(form))
        print(f"CALL {spec.name} {json.dumps(values)}", file=sys.stderr, flush=True)
        return self.syntax.constraint([only], choice=spec.name, calls=(1, 1))

    calling.Calling.constraint = constraint  # type: ignore[method-assign]
    turns = conversation._turns

    def noted(api: str, said: Any, *more: Any) -> Any:
        for message in said:
            if message.role == "tool":
                print(f"RESULT {message.text!r:.300}", file=sys.stderr, flush=True)
        return turns(api, said, *more)

    conversation._turns = noted  # type: ignore[assignment]


def main() -> None:
    tools, folder = sys.argv[1].split(","), sys.argv[2]
    script(tools, folder)
    tokenizer = toy_tokenizer()
    model = ToyModel(tokenizer.vocab_size + 5, context_length=400_000)
    runtime = Runtime.of(
        model, tokenizer, chat_template=ChatTemplate(CHATML, name="toy"), name="scripted", max_total_tokens=1_000_000,
        chunked_prefill_size=8192,
    )  # fmt: skip
    serve(runtime, ServeOptions(port=0, served_model_name="scripted", log_requests=True), listen("127.0.0.1", 0))


if __name__ == "__main__":
    main()
