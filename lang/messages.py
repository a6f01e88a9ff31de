"""The constructors of messages: `system`, `user`, `assistant`, and of what SGLang lets stand in them.

Knows nothing of how a chat template writes a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from .api import checked
from .errors import NotYet
from .expr import Appendable, Expr, RoleBegin, RoleEnd, Seq, as_expr
from .tools.listing import tool_list
from .tools.spec import ToolSpec


@checked
def system(expr: Appendable | None = None, tools: Iterable[Any] = ()) -> Seq:
    """A system message, in the words of the model's chat template.

    Args:
        expr: its content, text or an expression; default empty.
        tools: what the model is told that it can call (`sgl.call` says what it may call): tools as in `sgl.call`. The
            chat template shows them if it can and this is the first message; else they stand at the message's end.

    Returns:
        An expression to append.

    Raises:
        OptionError: `expr` is neither text nor an expression.

    Example:
        >>> import sgl
        >>> [type(part).__name__ for part in sgl.system("Be brief.")]
        ['RoleBegin', 'Text', 'RoleEnd']
    """
    return _turn("system", expr, tool_list(tools).specs)


@checked
def user(expr: Appendable | None = None) -> Seq:
    """A user's message, in the words of the model's chat template.

    Args:
        expr: its content, text or an expression; default empty.

    Returns:
        An expression to append.

    Raises:
        OptionError: `expr` is neither text nor an expression.

    Example:
        >>> import sgl
        >>> len(sgl.user("Capital of " + sgl.gen("country")).items)
        4
    """
    return _turn("user", expr)


@checked
def assistant(expr: Appendable | None = None) -> Seq:
    """An assistant's message, usually with a gen in it.

    Args:
        expr: its content, text or an expression; default empty.

    Returns:
        An expression to append.

    Raises:
        OptionError: `expr` is neither text nor an expression.

    Example:
        >>> import sgl
        >>> sgl.assistant(sgl.gen("answer", max_tokens=16)).items[1].name
        'answer'
    """
    return _turn("assistant", expr)


def system_begin() -> RoleBegin:
    """Begin a system message; what is appended until `system_end()` is its content.

    Example:
        >>> import sgl
        >>> sgl.system_begin()
        RoleBegin(role='system')
    """
    return RoleBegin("system")


def system_end() -> RoleEnd:
    """End the system message that `system_begin()` began.

    Example:
        >>> import sgl
        >>> sgl.system_end()
        RoleEnd(role='system')
    """
    return RoleEnd("system")


def user_begin() -> RoleBegin:
    """Begin a user message; what is appended until `user_end()` is its content.

    Example:
        >>> import sgl
        >>> list(sgl.user_begin() + "Why?" + sgl.user_end()) == list(sgl.user("Why?"))
        True
    """
    return RoleBegin("user")


def user_end() -> RoleEnd:
    """End the user message that `user_begin()` began.

    Example:
        >>> import sgl
        >>> sgl.user_end()
        RoleEnd(role='user')
    """
    return RoleEnd("user")


def assistant_begin() -> RoleBegin:
    """Begin an assistant message; what is appended until `assistant_end()` is its content.

    Example:
        >>> import sgl
        >>> sgl.assistant_begin()
        RoleBegin(role='assistant')
    """
    return RoleBegin("assistant")


def assistant_end() -> RoleEnd:
    """End the assistant message that `assistant_begin()` began.

    Example:
        >>> import sgl
        >>> sgl.assistant_end()
        RoleEnd(role='assistant')
    """
    return RoleEnd("assistant")


@checked
def image(expr: object) -> Expr:
    """An image. This version does not carry it out.

    Args:
        expr: the image, as SGLang takes it; no default.

    Raises:
        NotYet: always.

    Example:
        >>> import sgl
        >>> sgl.image("cat.png")
        Traceback (most recent call last):
        sgl.lang.errors.NotYet: image(...): ...
    """
    _refuse("image(...)", "an image in a prompt")


@checked
def video(path: str, num_frames: int) -> Expr:
    """Frames of a video. This version does not carry it out.

    Args:
        path: the file.
        num_frames: how many frames to show; no default.

    Raises:
        NotYet: always.

    Example:
        >>> import sgl
        >>> sgl.video("cat.mp4", num_frames=8)
        Traceback (most recent call last):
        sgl.lang.errors.NotYet: video(...): ...
    """
    _refuse("video(...)", "a video in a prompt")


@checked
def separate_reasoning(expr: Appendable | None = None, model_type: str | None = None) -> Expr:
    """Keep a model's reasoning apart from its answer. This version does not carry it out.

    Args:
        expr: what the model writes; default None.
        model_type: the family whose marks of reasoning to look for; default None.

    Raises:
        NotYet: always.

    Example:
        >>> import sgl
        >>> sgl.separate_reasoning(sgl.gen("answer"))
        Traceback (most recent call last):
        sgl.lang.errors.NotYet: separate_reasoning(...): ...
    """
    _refuse("separate_reasoning(...)", "splitting off a model's reasoning")


def _turn(role: str, expr: Appendable | None, tools: tuple[ToolSpec, ...] = ()) -> Seq:
    return Seq((RoleBegin(role, tools), *(() if expr is None else as_expr(expr).parts()), RoleEnd(role)))


def _refuse(where: str, what: str) -> NoReturn:
    raise NotYet(f"{where}: {what} is not supported by this version of sgl yet")
