"""What is measured: prompts of a file, or a program over the rows of a file; and what a run of it came to.

Knows nothing of settings. Foreign data and code: whatever is wrong with a file is an `OptionError` that names it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ...lang.errors import OptionError
from ..contain import is_interruption, said
from ..runtime.runtime import Runtime


@dataclass(frozen=True)
class Written:
    """What a run wrote: the tokens, and the texts in the order of the work."""

    tokens: int
    texts: Sequence[str]


class Workload(Protocol):
    """Something that a runtime can do `batch` pieces of at a time, and that writes the same text each time."""

    name: str

    def __len__(self) -> int: ...

    def run(self, runtime: Runtime, batch: int) -> Written: ...


class PromptWork:
    """Prompts that are answered, `batch` at a time.

    `prompts`: conversations, each a list of messages. With `raw` the content of a lone message is continued as it is;
    otherwise the model's chat template writes the conversation, if the model has one.
    """

    def __init__(
        self, name: str, prompts: Sequence[Any], *, max_tokens: int, temperature: float, raw: bool = False
    ) -> None:
        self.name = name
        self._prompts, self._raw = prompts, raw
        self._sampling = {"max_new_tokens": max_tokens, "temperature": temperature}

    def __len__(self) -> int:
        return len(self._prompts)

    def run(self, runtime: Runtime, batch: int) -> Written:
        asked = [self._tokens(runtime, messages) for messages in self._prompts]
        tokens, texts = 0, []
        for at in range(0, len(asked), batch):
            some = asked[at : at + batch]
            sampling = [{**self._sampling, "sampling_seed": at + i} for i in range(len(some))]
            for answer in runtime.generate(input_ids=some, sampling_params=sampling):
                tokens += answer["meta_info"]["completion_tokens"]
                texts.append(answer["text"])
        return Written(tokens, texts)

    def _tokens(self, runtime: Runtime, messages: Sequence[Any]) -> list[int]:
        if not self._raw and runtime.chat_template is not None:
            return list(runtime.tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        if len(messages) > 1:
            raise OptionError(f"{self.name}: a prompt of several messages needs a chat template; leave --raw out")
        return runtime.tokenizer.encode(messages[0]["content"])


class ProgramWork:
    """A program that runs over rows, `batch` at a time."""

    def __init__(self, name: str, program: Any, rows: Sequence[dict[str, Any]]) -> None:
        self.name = name
        self._program, self._rows = program, rows

    def __len__(self) -> int:
        return len(self._rows)

    def run(self, runtime: Runtime, batch: int) -> Written:
        tokens, texts = 0, []
        for at in range(0, len(self._rows), batch):
            states = self._program.run_batch(
                list(self._rows[at : at + batch]), backend=runtime, num_threads=batch, seed=at + 1
            )
            tokens += states.usage.total.generated
            texts += [str(state.text()) for state in states]
        return Written(tokens, texts)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read rows, a JSON object of arguments a line. Raises `OptionError` that names the line."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # texts may hold other line ends
    except (OSError, ValueError) as error:
        raise OptionError(f"--rows {file}: cannot be read ({error}); name a file of JSON lines") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise OptionError(f"--rows {file}:{number}: no JSON ({error})") from None
        if not isinstance(row, dict):
            raise OptionError(f"--rows {file}:{number}: a row is an object, the program's arguments by name: {{...}}")
        rows.append(row)
    if not rows:
        raise OptionError(f"--rows {file}: has no rows")
    return rows


def program_of(asked: str) -> Any:
    """The program that `FILE.py:FUNCTION` names. Raises `OptionError`."""
    name, _, function = asked.rpartition(":")
    if not name or not function.isidentifier():
        raise OptionError(f"--program {asked!r}: write FILE.py:FUNCTION, as in my_programs.py:extract")
    module = module_of(Path(name), f"--program {asked!r}")
    program = getattr(module, function, None)
    if not callable(getattr(program, "run_batch", None)):
        what = "there is no such name" if program is None else f"it is {type(program).__name__}"
        raise OptionError(f"--program {asked!r}: {function} is no @sgl.function: {what}")
    return program


def module_of(file: Path, what: str) -> ModuleType:
    """Import a Python file, as `python FILE` would find its neighbours. `what` begins the `OptionError`s."""
    file = file.expanduser()
    if not file.is_file():
        raise OptionError(f"{what}: no such file: {file}")
    found = importlib.util.spec_from_file_location(file.stem, file)
    if found is None or found.loader is None:
        raise OptionError(f"{what}: {file} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules.setdefault(file.stem, module)  # types that the file defines look for their module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        found.loader.exec_module(module)
    except BaseException as error:
        if is_interruption(error):
            raise
        raise OptionError(f"{what}: {file} cannot be imported: {said(error)}") from error
    return module
