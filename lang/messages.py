"""The constructors of messages: `system`, `user`, `assistant`, and of what SGLang lets stand in them.

Knows nothing of how a chat template writes a message.
"""

from __future__ import annotations

from typing import NoReturn

from .api import checked
from .errors import NotYet
from .expr import Appendable, Expr, RoleBegin, RoleEnd, Seq, as_expr


@checked
def system(expr: Appendable | None = None) -> Seq:
    """A system message, in the words of the model's chat template.

    Args:
        expr: its content, text or an expression; default empty.

    Returns:
        An expression to append.

    Raises:
        OptionError: `expr` is neither text nor an expression.

    Example:
        >>> import sgl
        >>> [type(part).__name__ for part in sgl.system("Be brief.")]
        ['RoleBegin', 'Text', 'RoleEnd']
    """
    return _turn("system", expr)


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
    """Begin a system message; what is appended until `system_end()` is its content."""
    return RoleBegin("system")


def system_end() -> RoleEnd:
    """End the system message that `system_begin()` began."""
    return RoleEnd("system")


def user_begin() -> RoleBegin:
    """Begin a user message; what is appended until `user_end()` is its content."""
    return RoleBegin("user")


def user_end() -> RoleEnd:
    """End the user message that `user_begin()` began."""
    return RoleEnd("user")


def assistant_begin() -> RoleBegin:
    """Begin an assistant message; what is appended until `assistant_end()` is its content."""
    return RoleBegin("assistant")


def assistant_end() -> RoleEnd:
    """End the assistant message that `assistant_begin()` began."""
    return RoleEnd("assistant")


@checked
def image(expr: object) -> Expr:
    """An image. This version does not carry it out.

    Args:
        expr: the image, as SGLang takes it.

    Raises:
        NotYet: always.
    """
    _refuse("image(...)", "an image in a prompt")


@checked
def video(path: str, num_frames: int) -> Expr:
    """Frames of a video. This version does not carry it out.

    Args:
        path: the file.
        num_frames: how many frames to show.

    Raises:
        NotYet: always.
    """
    _refuse("video(...)", "a video in a prompt")


@checked
def separate_reasoning(expr: Appendable | None = None, model_type: str | None = None) -> Expr:
    """Keep a model's reasoning apart from its answer. This version does not carry it out.

    Args:
        expr: what the model writes.
        model_type: the family whose marks of reasoning to look for.

    Raises:
        NotYet: always.
    """
    _refuse("separate_reasoning(...)", "splitting off a model's reasoning")


def _turn(role: str, expr: Appendable | None) -> Seq:
    return Seq((RoleBegin(role), *(() if expr is None else as_expr(expr).parts()), RoleEnd(role)))


def _refuse(where: str, what: str) -> NoReturn:
    raise NotYet(f"{where}: {what} is not supported by this version of sgl yet")
