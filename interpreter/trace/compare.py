"""Two runs of one program as trace data, and the first difference between them.

Knows nothing of how a program is run again. The first difference is the one whose call came first in the recorded run,
since a call depends only on what was said before it. What the new run said in addition comes next, then texts after the
last calls, then what the body returned.

What no run has to repeat is not compared: times, usage, log-probabilities, lines of the program's source, addresses of
objects. Calls that were cancelled, timed out or not finished are not compared either, nor what follows them on their
branch. A call that is cancelled only now is such a call too: the branches of an `sgl.first` race, and the clock decides
which of them is cancelled, so a replay can have another winner. What the program says in addition is then not
compared. A call that times out only now is a difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .mocks import tool_key

Data = Mapping[str, Any]
Rank = tuple[int, float]
"""The place of a difference: (0, seconds when its call was said), or the number of a later stage."""

ABSENT = "(nothing)"
_UNREPEATABLE = ("Cancelled", "ProgramTimeout")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Difference:
    """`what` differs ("token 3", "text", "the text before it", "return value", ...): it was `recorded`, and is `now`.

    `branch` and `call` (the call's `where`) are None where the whole program is meant. `before` is the text up to it.
    """

    program: str
    branch: str | None
    call: str | None
    what: str
    recorded: Any
    now: Any
    before: str = ""

    def __str__(self) -> str:
        at = [self.program]
        at += [] if self.branch in (None, "0") else [f"branch {self.branch}"]
        at += [] if self.call is None else [self.call]
        lines = [f"{', '.join(at)}: {self.what} differs"]
        lines += [f"  after     …{self.before[-80:]!r}"] if self.before else []
        return "\n".join([*lines, f"  recorded  {_shown(self.recorded)}", f"  now       {_shown(self.now)}"])


def _shown(value: Any) -> str:
    text = value if value == ABSENT or isinstance(value, _ShownToken) else repr(value)
    return text if len(text) <= 400 else text[:300] + " … " + text[-60:]


class _ShownToken(str):
    """A token as it is shown: its text, id and probability."""

    @staticmethod
    def of(token: list[Any]) -> _ShownToken:
        text, number, logprob, forced, _ = token
        how = "forced" if forced else "no logprob" if logprob is None else f"logprob {logprob:.4f}"
        return _ShownToken(f"{text!r} (id {number}, {how})")


@dataclass
class ReplayFindings:
    """What the comparison of a program, and of the programs that its body ran, has found."""

    calls: int = 0
    skipped: int = 0
    differences: list[tuple[Rank, Difference]] = field(default_factory=list)

    def note(self, rank: Rank, difference: Difference) -> None:
        self.differences.append((rank, difference))

    @property
    def first(self) -> Difference | None:
        return min(self.differences, key=lambda each: each[0])[1] if self.differences else None


def title_of(program: Data) -> str:
    """Name a program for messages."""
    return f"program {program['name']}" + ("" if program["row"] is None else f", row {program['row']}")


def compare(old: Data, new: Data, findings: ReplayFindings) -> None:
    """Note in `findings` how program `new` differs from the recorded `old`."""
    title, skipped = title_of(old), findings.skipped
    recorded, now = ({branch["id"]: branch for branch in program["branches"]} for program in (old, new))
    raced = any(_cancelled_only_now(branch, now[name]) for name, branch in recorded.items() if name in now)
    for name, branch in recorded.items():
        before = _text_before(branch, recorded)
        if name in now:
            _compare_branch(title, branch, now[name], before, raced, findings)
            if not raced and findings.skipped == skipped:
                _compare_tools(title, branch, now[name], findings)
        elif branch["calls"] or branch["tail"]:
            rank = (0, branch["calls"][0]["enqueued"]) if branch["calls"] else (2, 0.0)
            findings.note(rank, Difference(title, name, None, "the branch", branch["label"], ABSENT, before))
    for name, branch in now.items():
        if name not in recorded and not raced and (branch["calls"] or branch["tail"]):
            findings.note((1, 0.0), Difference(title, name, None, "the branch", ABSENT, branch["label"]))
    if findings.skipped == skipped and old["ended"] is not None:
        _compare_end(title, old, new, findings)


def _text_before(branch: Data, branches: Mapping[str, Data]) -> str:
    """The text of a branch's ancestors before the forks, up to their last calls."""
    before = ""
    while branch["parent"] is not None:
        after, branch = branch["after"], branches[branch["parent"]]
        before = "".join(_prompt(call) + _text(call) for call in branch["calls"][:after]) + before
    return before


def _cancelled_only_now(old: Data, new: Data) -> bool:
    calls = zip(old["calls"], new["calls"])
    return any(_error_type(now) == "Cancelled" != _error_type(recorded) for recorded, now in calls)


def _compare_branch(title: str, old: Data, new: Data, before: str, raced: bool, findings: ReplayFindings) -> None:
    name, calls = old["id"], new["calls"]
    for i, call in enumerate(old["calls"]):
        cancelled = i < len(calls) and _error_type(calls[i]) == "Cancelled"
        if cancelled or call["ended"] is None or _error_type(call) in _UNREPEATABLE:
            findings.skipped += len(old["calls"]) - i
            return
        findings.calls += 1
        lost = "the call", f"{call['kind']} {call['name']!r}", ABSENT, ""
        found = _first_difference(call, calls[i]) if i < len(calls) else lost
        if found is not None:
            what, recorded, now, text = found
            difference = Difference(title, name, call["where"], what, recorded, now, before + text)
            findings.note((0, call["enqueued"]), difference)
            return  # what follows on this branch follows from it
        before += _prompt(call) + _text(call)
    if raced:
        return
    if len(calls) > len(old["calls"]):
        extra = calls[len(old["calls"])]
        findings.note((1, 0.0), Difference(title, name, extra["where"], "the call", ABSENT, extra["kind"], before))
    elif old["tail"] != new["tail"]:
        rank = (2, -float(str(name).count(".")))  # children first: their parents may say what they said
        findings.note(rank, Difference(title, name, None, "the last text", old["tail"], new["tail"], before))


def _compare_tools(title: str, old: Data, new: Data, findings: ReplayFindings) -> None:
    """Compare the calls of tools on a branch, in whatever order they were started."""
    left = list(old.get("tools", ()))
    for tool in new.get("tools", ()):
        same = next((each for each in left if tool_key(each) == tool_key(tool)), None)
        if same is None:
            following = old["calls"][tool["after"] :]
            rank = (0, following[0]["enqueued"] - 1e-7) if following else (1, 0.0)
            findings.note(rank, Difference(title, old["id"], None, "the call of a tool", ABSENT, _shown_tool(tool)))
            continue
        left.remove(same)
        if same["error"] not in ("cancelled", "timeout") and same["text"] != tool["text"]:
            what, where = "the result", f"tool {tool['name']}"
            findings.note((0, same["began"]), Difference(title, old["id"], where, what, same["text"], tool["text"]))
    for lost in left:
        rank = (0, lost["began"])
        findings.note(rank, Difference(title, old["id"], None, "the call of a tool", _shown_tool(lost), ABSENT))


def _shown_tool(tool: Data) -> str:
    return f"{tool['name']}({json.dumps(tool['arguments'], ensure_ascii=False)})"


def _first_difference(old: Data, new: Data) -> tuple[str, Any, Any, str] | None:
    """Find the first fact in which two calls differ: what it is, as recorded, as it is now, the text before it."""
    for (what, value, shown, before), (other, now, now_shown, before_now) in zip(_facts(old), _facts(new)):
        if what == other and value != now:
            return what, shown, now_shown, before
        if what != other:  # one of them wrote more tokens
            mine = what.startswith("token")
            return (what, shown, ABSENT, before) if mine else (other, ABSENT, now_shown, before_now)
    return None


def _facts(call: Data) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield what a call has to repeat, in order: (what, its value, the value as shown, the call's text before it)."""
    prompt, error = _prompt(call), call["error"]
    yield "the text before it", prompt, prompt, ""
    for what in ("kind", "name", "params", "constraint"):
        yield what, call[what], call[what], prompt
    shown = ABSENT if error is None else f"{error['type']}: {error.get('message', '')}"
    yield "the error", _error_type(call), shown, prompt
    if error is not None:
        return  # how far a failed call got depends on when it failed
    choices = call["choices"] or ()
    texts, picked = [each["text"] for each in choices], [each["text"] for each in choices if each["picked"]]
    yield "the list of choices", texts, texts, prompt
    yield "the choice", picked, ", ".join(picked), prompt
    samples = call["samples"]
    yield "the number of samples", len(samples), len(samples), prompt
    for i, sample in enumerate(samples):
        of, before = f" of sample {i}" if len(samples) > 1 else "", prompt
        for k, token in enumerate(sample["tokens"]):
            yield f"token {k}{of}", token[1], _ShownToken.of(token), before
            before += token[0]
        yield f"the text{of}", sample["text"], sample["text"], prompt
        yield f"the reason why it ended{of}", sample["finish"], sample["finish"], prompt + sample["text"]


def _compare_end(title: str, old: Data, new: Data, findings: ReplayFindings) -> None:
    failed, fails = _error_type(old), _error_type(new)
    if failed in _UNREPEATABLE:
        return
    if failed != fails:
        findings.note((3, 0.0), Difference(title, None, None, "the error", failed or ABSENT, fails or ABSENT))
    elif _without_addresses(old["value"]) != _without_addresses(new["value"]):
        findings.note((3, 1.0), Difference(title, None, None, "the return value", old["value"], new["value"]))


def _error_type(part: Data) -> Any:
    return None if part["error"] is None else part["error"]["type"]


def _prompt(call: Data) -> str:
    return "".join(run[0] for run in call["prompt"])


def _text(call: Data) -> str:
    return call["samples"][0]["text"] if call["samples"] else ""


def _without_addresses(value: Any) -> Any:
    return {"repr": _ADDRESS.sub("", value["repr"])} if isinstance(value, dict) and "repr" in value else value
