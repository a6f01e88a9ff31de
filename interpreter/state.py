"""`ProgramState`: what the body of a program calls `s`, and what a run returns.

The names and documentation of what a user says to a state; `reading.py` has the reads. Knows nothing of waiting.
`LiveState` (`live.py`) is the state of a program that runs here, `RestoredState` (`journal/`) that of a row read from a
journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, NoReturn, overload

from ..lang.errors import OptionError
from ..lang.expr import Appendable, RoleBegin, RoleEnd, Seq, ToolTurn, as_expr
from ..lang.sampling import shown
from ..lang.tools.listing import tool_list
from ..lang.tools.result import result_text
from ..lang.tools.spec import ToolCall, ToolSpec
from .body import Body
from .join import ProgramStateGroup
from .line import Line
from .reading import StateReads
from .usage import UsageTree
from .variables import Given

_SAID = Seq(())  # what `s.user("x")` returns: it was appended already, so appending this again adds nothing
_BLOCK = object()  # `s.user()` without an argument opens a block; None is a mistake like any other value


MOST_BRANCHES = 1 << 16
"""Of one fork: they are made at once."""


class ProgramState(StateReads):
    """One line of a program: its text so far and its variables. Values are read lazily, and so are errors.

    `s += x` appends text or an expression and returns at once. `s["name"]` waits for a value and raises the original
    error if there is none. In the body of an `async def` program every read is awaited: `await s["name"]`,
    `await s.text()`. Program arguments are no variables: read them as the Python names they are.

    Attributes:
        restored: True for a batch row read from a journal (`resume=`): it can be read, all else is an `OptionError`.

    Example:
        >>> import sgl
        >>> @sgl.function
        ... def greet(s, name):
        ...     s += f"Dear {name}, " + sgl.gen("rest", max_tokens=4)
        >>> state = greet.run("Ada", backend=sgl.Runtime.toy())
        >>> state.text() == "Dear Ada, " + state["rest"]
        True
    """

    restored = False
    given_to_tools = True  # a tool's parameter of this type is no matter of the model's
    _line: Line  # of a live state
    _body: Body  # of a live state

    # -- saying
    def __iadd__(self, other: Appendable) -> ProgramState:
        self._open("s += ...").say(as_expr(other))
        return self

    @overload
    def system(self, expr: Appendable, tools: Iterable[Any] = ()) -> Seq: ...
    @overload
    def system(self, *, tools: Iterable[Any] = ()) -> AbstractContextManager[None]: ...
    def system(self, expr: Any = _BLOCK, tools: Iterable[Any] = ()) -> Seq | AbstractContextManager[None]:
        """Append a system message. See `user`.

        Args:
            expr: The content, text or an expression, appended now. Without it: a context manager, in whose `with`
                block the content is appended.
            tools: What the model is told that it can call, as in `sgl.system`; default nothing.

        Raises:
            OptionError: Another role is open, or the chat template refuses this one here.
            CapabilityError: The backend has no chat template.
        """
        return self._role("system", expr, tool_list(tools).specs)

    @overload
    def user(self, expr: Appendable) -> Seq: ...
    @overload
    def user(self) -> AbstractContextManager[None]: ...
    def user(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append a user message. Arguments and errors are those of `system`.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def ask(s):
            ...     s.system("Be brief.")
            ...     s.user("Why?")
            ...     with s.assistant():
            ...         s += sgl.gen("answer", max_tokens=4)
            >>> [m["role"] for m in ask.run(backend=sgl.Runtime.toy()).messages()]
            ['system', 'user', 'assistant']
        """
        return self._role("user", expr)

    @overload
    def assistant(self, expr: Appendable) -> Seq: ...
    @overload
    def assistant(self) -> AbstractContextManager[None]: ...
    def assistant(self, expr: Any = _BLOCK) -> Seq | AbstractContextManager[None]:
        """Append an assistant message. Arguments and errors are those of `system`. See `user`."""
        return self._role("assistant", expr)

    def _role(self, role: str, expr: Any, tools: tuple[ToolSpec, ...] = ()) -> Seq | AbstractContextManager[None]:
        line = self._open(f"s.{role}(...)")
        if expr is _BLOCK:
            return self._role_block(role, tools)
        line.say(Seq((RoleBegin(role, tools), *as_expr(expr).parts(), RoleEnd(role))))
        return _SAID

    @contextmanager
    def _role_block(self, role: str, tools: tuple[ToolSpec, ...]) -> Iterator[None]:
        self._line.say(RoleBegin(role, tools))
        try:
            yield
        except BaseException:
            with suppress(OptionError):  # a turn that the template refuses must not hide the body's error
                self._line.say(RoleEnd(role))
            raise
        self._line.say(RoleEnd(role))

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """Make the text written in the `with` block a variable, readable after the block. See `copy`.

        Args:
            name: The name of the variable.
        """
        line = self._open("s.var_scope(...)")
        scope = line.open_scope(name)
        try:
            yield
        finally:
            line.close_scope(scope)

    def set_var(self, name: str, value: object) -> None:
        """Define a variable of the program's own, at once. `s[name] = value` does the same.

        Args:
            name: The name of the variable. A name that exists is overwritten.
            value: Any Python value. It is kept as it is, not copied.

        Example:
            >>> import sgl
            >>> sgl.function(lambda s: s.set_var("tries", 1)).run(backend=sgl.Runtime.toy()).get_var("tries")
            1
        """
        self._open("s.set_var(...)").define(name, Given(value))

    def __setitem__(self, name: str, value: object) -> None:
        self.set_var(name, value)

    def tool_result(self, call: ToolCall, value: object) -> None:
        """Append the result of a call as a turn of its own. Nothing before it is computed again.

        Args:
            call: The call that it answers, one of `s.value(name)` of a `sgl.call(name, ...)`.
            value: What the tool returned: text, JSON data, or an object that can be written as JSON; or the
                `sgl.ToolResult` of a tool that was run.

        Raises:
            OptionError: `call` is no call, or a role is open.

        Example:
            >>> import sgl
            >>> @sgl.tool
            ... def add(a: int, b: int) -> int:
            ...     "Add two numbers."
            ...     return a + b
            >>> @sgl.function
            ... def total(s):
            ...     s += sgl.user("2 + 2?") + sgl.assistant(sgl.call("step", [add], choice="add"))
            ...     [call] = s.value("step")
            ...     s.tool_result(call, add(**call.arguments))
            >>> total.run(backend=sgl.Runtime.toy()).messages()[-1]["role"]
            'tool'
        """
        if not isinstance(call, ToolCall):
            raise OptionError(f"tool_result: the first argument is a call, one of s.value(name), got {call!r:.60}")
        self._open("s.tool_result(...)").say(ToolTurn(call, result_text(value)))

    # -- branching
    def fork(
        self, size: int = 1, position_ids_offset: object = None, *, on_error: Literal["spare", "cancel"] = "spare"
    ) -> ProgramStateGroup:
        """Open a group of branches that go on from here independently and share the KV of everything said so far.

        Args:
            size: Number of branches, 0 to 65,536. Default 1.
            position_ids_offset: SGLang's argument; only None is possible, as a token's position is its depth.
            on_error: What happens to the siblings of a branch that fails: "spare" (default) leaves them alone,
                "cancel" cancels them (`Cancelled`, with the failure as its cause).

        Raises:
            OptionError: An argument is none of the above, or this branch was joined already.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def tips(s):
            ...     branches = s.fork(2)
            ...     branches += sgl.gen("tip", max_tokens=4)
            ...     branches.join()
            >>> len(tips.run(backend=sgl.Runtime.toy())["tip"])
            2
        """
        self._open("s.fork(...)")
        if on_error not in ("spare", "cancel"):
            raise OptionError(f"fork: on_error must be 'spare' or 'cancel', got {on_error!r:.60}")
        if position_ids_offset is not None:
            raise OptionError("fork: position_ids_offset has no meaning here; a token's position is its depth")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise OptionError(f"fork: size must be an integer of at least 0, got {shown(size)}")
        if size > MOST_BRANCHES:
            raise OptionError(
                f"fork: size must be at most {MOST_BRANCHES:,}, got {shown(size)}; use run_batch for rows"
            )
        return ProgramStateGroup(self._branches(size, on_error == "cancel"), self)

    @contextmanager
    def copy(self, position_ids_offset: object = None) -> Iterator[ProgramState]:
        """Open `fork(1)` for a `with` block; its variables come back as lists of one. Argument and errors are `fork`'s.

        Example:
            >>> import sgl
            >>> @sgl.function
            ... def think(s):
            ...     with s.copy() as branch, branch.var_scope("note"):
            ...         branch += "Look again."
            >>> think.run(backend=sgl.Runtime.toy())["note"]
            ['Look again.']
        """
        self._open("s.copy()")
        group = self.fork(1, position_ids_offset)
        try:
            yield group[0]
        except BaseException:
            group[0]._line.seal("ended with its `with s.copy()` block")
            raise
        group.join()

    # -- seeing and ending
    @property
    def usage(self) -> UsageTree:
        """Token counts of this branch, its calls and its forks, as a tree. Waits, except in an async program's body."""
        raise NotImplementedError

    @property
    def trace(self) -> dict[str, Any]:
        """This program's part of the trace, as JSON data. Waits for nothing.

        Raises:
            OptionError: The program was not run inside `with sgl.trace()`.
        """
        self._open("s.trace")
        return self._trace()

    @property
    def ret_value(self) -> Any:
        """What the body returned. Waits for the end of a body that runs elsewhere; raises the body's error."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Fail this branch and all forked from it with `Cancelled`. What is finished stays readable. See `error`."""
        self._open("s.cancel()").cancel()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise OptionError(
            "a program's state is live and cannot be copied or pickled: keep s.text() or s.messages(), or go on from "
            "it with s.fork(1)"
        )

    __iter__ = None  # a state has names and text, not items

    def _repr_html_(self) -> str:
        """Show the transcript in a notebook, coloured by where its text came from."""
        raise NotImplementedError

    # -- what each kind of state supplies, beside `__contains__`, `usage`, `ret_value` and `_repr_html_`
    def _open(self, what: str) -> Line:
        """The line to say more on. A state that can only be read raises, and says that `what` is not possible."""
        raise NotImplementedError

    def _branches(self, n: int, together: bool) -> list[Any]:
        """`n` states that go on from here; with `together`, when one fails the others are cancelled."""
        raise NotImplementedError

    def _trace(self) -> dict[str, Any]:
        raise NotImplementedError
