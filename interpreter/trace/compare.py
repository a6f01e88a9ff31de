"""Two runs of one program as data, and the first place where they differ.

Owns: what counts as a difference, and which is the first: the one whose call was said first in the recorded run, since
a call depends only on what was said before it. Then come what the other run said in addition, texts after the last
calls, and what the body returned. Knows nothing of how a program is run again.

Not compared is what no run has to repeat: calls that were cancelled, timed out or not finished (and what follows them
on their line), times, usage and log-probabilities, the lines of the program's source, and addresses of objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Data = Mapping[str, Any]

_UNREPEATABLE = ("Cancelled", "ProgramTimeout")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
ABSENT = "(nothing)"


@dataclass(frozen=True)
class Difference:
    """`what` differs ("token 3", "text", "the text before it", "return value", ...): it was `recorded`, and is `now`.
    `branch` and `call` (its `where`) are None where the whole program is meant. `before`: the text up to there."""

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
    text = value if value == ABSENT or isinstance(value, _Token) else repr(value)
    return text if len(text) <= 400 else text[:300] + " … " + text[-60:]


class _Token(str):
    """A token as it is shown: its text, id and probability."""

    @staticmethod
    def of(token: list[Any] | None) -> str:
        if token is None:
            return ABSENT
        text, number, logprob, forced, _ = token
        how = "forced" if forced else "no logprob" if logprob is None else f"logprob {logprob:.4f}"
        return _Token(f"{text!r} (id {number}, {how})")


Ranked = tuple[tuple[int, float], Difference]
"""A difference and its place in the program: 0 and the time when its call was said, or a number of a later stage."""


@dataclass
class Found:
    """What one program's comparison came to."""

    calls: int = 0
    skipped: int = 0
    differences: list[Ranked] = field(default_factory=list)

    def note(self, rank: tuple[int, float], difference: Difference) -> None:
        self.differences.append((rank, difference))

    @property
    def first(self) -> Difference | None:
        return min(self.differences, key=lambda each: each[0])[1] if self.differences else None


def compare(old: Data, new: Data, found: Found) -> None:
    """Note in `found` how program `new` differs from the recorded `old`."""
    title = title_of(old)
    branches = {branch["id"]: branch for branch in new["branches"]}
    skipped = found.skipped
    lines: dict[str, str] = {}  # the text of each recorded branch up to each fork, for `before`
    for branch in old["branches"]:
        other = branches.pop(branch["id"], None)
        before = _lead(branch, old, lines)
        if other is None:
            if branch["calls"] or branch["tail"]:
                rank = _said(branch["calls"][0]) if branch["calls"] else (2, 0.0)
                found.note(rank, Difference(title, branch["id"], None, "the branch", branch["label"], ABSENT, before))
            continue
        _compare_branch(title, branch, other, before, found)
    for branch in branches.values():
        if branch["calls"] or branch["tail"]:
            found.note((1, 0.0), Difference(title, branch["id"], None, "the branch", ABSENT, branch["label"]))
    if found.skipped == skipped and old["ended"] is not None:
        _compare_end(title, old, new, found)


def title_of(program: Data) -> str:
    row = "" if program["row"] is None else f", row {program['row']}"
    return f"program {program['name']}{row}"


def _lead(branch: Data, program: Data, lines: dict[str, str]) -> str:
    """What was said on the ancestors' lines before `branch` was forked, up to their last calls."""
    if branch["parent"] is not None:
        parent = next(each for each in program["branches"] if each["id"] == branch["parent"])
        calls = parent["calls"][: branch["after"]]
        lines[branch["id"]] = lines[branch["parent"]] + "".join(_prompt(c) + _text(c) for c in calls)
    else:
        lines[branch["id"]] = ""
    return lines[branch["id"]]


def _compare_branch(title: str, old: Data, new: Data, before: str, found: Found) -> None:
    for i, call in enumerate(old["calls"]):
        if call["ended"] is None or (call["error"] or {}).get("type") in _UNREPEATABLE:
            found.skipped += len(old["calls"]) - i
            return
        found.calls += 1
        other = new["calls"][i] if i < len(new["calls"]) else None
        for what, recorded, now, text in _differences(call, other):
            where = Difference(title, old["id"], call["where"], what, recorded, now, before + text)
            found.note(_said(call), where)
            return  # what follows on this line follows from it
        before += _prompt(call) + _text(call)
    for extra in new["calls"][len(old["calls"]) :]:
        found.note((1, 0.0), Difference(title, old["id"], extra["where"], "the call", ABSENT, extra["kind"], before))
        return
    if old["tail"] != new["tail"]:
        found.note(
            (2, -_depth(old)), Difference(title, old["id"], None, "the last text", old["tail"], new["tail"], before)
        )


def _differences(old: Data, new: Data | None) -> Iterator[tuple[str, Any, Any, str]]:
    """(what, recorded, now, the text of this call before it) of each way in which two calls differ, in order."""
    if new is None:
        yield "the call", f"{old['kind']} {old['name']!r}", ABSENT, ""
        return
    prompt = _prompt(old)
    if prompt != _prompt(new):
        yield "the text before it", prompt, _prompt(new), ""
    for what in ("kind", "name", "params", "constraint"):
        if old[what] != new[what]:
            yield what, old[what], new[what], prompt
    kinds = [None if each["error"] is None else each["error"]["type"] for each in (old, new)]
    if kinds[0] != kinds[1]:
        yield (
            "the error",
            kinds[0] or ABSENT,
            f"{kinds[1]}: {new['error']['message']}" if kinds[1] else ABSENT,
            prompt,
        )
    if None not in kinds:
        return  # how far a failed call got depends on when it failed
    texts = [[choice["text"] for choice in each["choices"] or ()] for each in (old, new)]
    if texts[0] != texts[1]:
        yield "the list of choices", texts[0], texts[1], prompt
    picked = [next((c["text"] for c in each["choices"] or () if c["picked"]), None) for each in (old, new)]
    if picked[0] != picked[1]:
        yield "the choice", picked[0], picked[1], prompt
    yield from _sample_differences(old["samples"], new["samples"], prompt)


def _sample_differences(old: list[Data], new: list[Data], prompt: str) -> Iterator[tuple[str, Any, Any, str]]:
    if len(old) != len(new):
        yield "the number of samples", len(old), len(new), prompt
    for i, (one, other) in enumerate(zip(old, new)):
        of = f" of sample {i}" if len(old) > 1 else ""
        ours, theirs = one["tokens"], other["tokens"]
        if ours and theirs:
            for k in range(max(len(ours), len(theirs))):
                a, b = (tokens[k] if k < len(tokens) else None for tokens in (ours, theirs))
                if a is None or b is None or a[1] != b[1]:
                    yield f"token {k}{of}", _Token.of(a), _Token.of(b), prompt + "".join(t[0] for t in ours[:k])
                    break
        if one["text"] != other["text"]:
            yield f"the text{of}", one["text"], other["text"], prompt
        elif one["finish"] != other["finish"]:
            yield f"the reason why it ended{of}", one["finish"], other["finish"], prompt + one["text"]


def _compare_end(title: str, old: Data, new: Data, found: Found) -> None:
    errors = [None if each["error"] is None else each["error"]["type"] for each in (old, new)]
    if errors[0] in _UNREPEATABLE:
        return
    if errors[0] != errors[1]:
        found.note((3, 0.0), Difference(title, None, None, "the error", errors[0] or ABSENT, errors[1] or ABSENT))
    elif _without_addresses(old["value"]) != _without_addresses(new["value"]):
        found.note((3, 1.0), Difference(title, None, None, "the return value", old["value"], new["value"]))


def _said(call: Data) -> tuple[int, float]:
    return 0, call["enqueued"]


def _depth(branch: Data) -> int:
    return str(branch["id"]).count(".")  # children first: their parents may say what they said


def _prompt(call: Data) -> str:
    return "".join(run[0] for run in call["prompt"])


def _text(call: Data) -> str:
    return call["samples"][0]["text"] if call["samples"] else ""


def _without_addresses(value: Any) -> Any:
    return {"repr": _ADDRESS.sub("", value["repr"])} if isinstance(value, dict) and "repr" in value else value
