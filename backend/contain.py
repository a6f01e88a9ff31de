"""Containment: who answers for what user code, foreign code and data raise.

Knows nothing of engines or programs. Every call that leaves sgl's own code has one owner. The owner turns whatever the
call raises (an `Exception`, a `SystemExit`, a `KeyboardInterrupt` that is no Ctrl-C, a panic of Rust code) into its own
error. No other call or program fails with it, and only the engine's own bookkeeping closes a runtime. (Paths below are
those of `interpreter/` and ``.)

    call                                            owner                     guard
    the body of a program, `group += function`      the program               run.py: execute, execute_async
    rows of a batch: their iterator                 the row that it owed      batch/rows.py: next, anext
    a row's mapping, its keys and their values      the row                   batch/rows.py: _row
    a tool, validators of its arguments             the call (`ToolResult`)   agent/trying.py
    what becomes text of a tool's value             the call (`ToolResult`)   agent/trying.py; lang/tools/result.py
    an approval of a call, an MCP server            the call (`ToolResult`)   agent/trying.py: ask; agent/mcp.py: _call
    arguments at `resume=`, a line of a journal     the row                   batch/results.py: begin
    a value that a journal keeps                    that value                journal/finished.py: _spelled
    a progress bar                                  nobody: it is closed      batch/progress.py
    `__repr__` of what a trace notes                that note                 plain.py
    `__str__` of an error                           that message              backend/contain.py: said; source.py: note
    spans and exporters of OpenTelemetry            nobody: it is logged      trace/spans.py
    a chat template                                 the body that says it     line.py: say; run.py: _end
    the compiling of a constraint                   the call                  line.py: _prepare
    a gate, the tokenizer                           the branch                program/branches.py: advance
    a model's forward, a device                     the branches of the step  engine.py: launch, collect
    a mask of a grammar engine                      the call                  job/rule.py: fill, fill_all
    a matcher's accept, forced, can_end             the call                  step/flight.py: hand_out
    a grammar engine that does not return           the call                  grammar/engines/watched.py
    a check, a validator, a default factory         the call                  step/flight.py: hand_out
    a choice method                                 the branch                program/branches.py
    a file of programs (`sgl bench`)                the command               bench/work.py: program_of
    a source of drafts                              nobody: it is asked no more  runtime/draft/speculation.py: _asked
    a gate, a check, a choice method, over HTTP     the branch                remote/branch.py: _work
    a client package, the reply of a service        the call                  remote/caller.py: _tried
    a listener of a handle                          nobody: it is logged      backend/base.py: _tell
    a listener of steps (`watch`)                   nobody: it hears no more  engine.py: _tell

Ctrl-C is an interruption of the main thread: it is raised there, and the runtime stays usable. A `KeyboardInterrupt`
anywhere else was raised by user code, and is its owner's error like any other (`is_interruption`).
"""

from __future__ import annotations

import signal
import threading


def is_interruption(error: BaseException) -> bool:
    """Whether `error` may be Ctrl-C: where none can come, user code has raised it.

    Python runs signal handlers on the main thread alone. `Drive.wait` holds Ctrl-C back while it steps, and
    `asyncio.run` (from Python 3.11 on) cancels its main task instead.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(signal.SIGINT)
    of_asyncio = getattr(getattr(handler, "func", None), "__name__", "") == "_on_sigint"
    return not (of_asyncio or isinstance(handler, HeldBack))


class HeldBack:
    """A handler of SIGINT that notes Ctrl-C in `came`, to be raised later."""

    __slots__ = ("came",)

    def __init__(self) -> None:
        self.came: list[int] = []

    def __call__(self, number: int, frame: object) -> None:
        self.came.append(number)


def message_of(error: BaseException) -> str:
    """The message of an error; "" where its own `__str__` raises."""
    try:
        return str(error)
    except BaseException as inner:
        if is_interruption(inner):
            raise
        return ""


def said(error: BaseException) -> str:
    """The type and the message of an error."""
    message = message_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
