"""`fingerprint`: a hash of a program's arguments, equal in every process and for every order of a dict.

Knows nothing of files. Arguments that are not equal, or not of one type (1, 1.0 and True; a list and a tuple), have
different hashes. A value is read by the first rule that fits:

1. None, bool, int, float, str, bytes and containers of them: exactly.
2. Enums by name. Classes and functions by module and name. Dataclasses, attrs classes and Pydantic models by their
   fields. Subclasses of str, list, tuple, ... as these, with the name of the class.
3. An object that gives its memory as a buffer (an array): its format, shape and bytes.
4. Anything else by type and `repr`. A repr that has a memory address, leaves something out or rounds: `OptionError`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Set
from types import ModuleType
from typing import Any

from ...backend.contain import is_interruption, said
from ...lang.errors import OptionError
from ..arguments import Arguments

_ADDRESS = re.compile(r"\b(?:at|id=?) ?0x[0-9A-Fa-f]{5,}")
_ABRIDGED = re.compile(r"\.\.\.|…")


def fingerprint(call: Arguments, where: str) -> str:
    """32 hexadecimal digits. Raises `OptionError`, with `where` and the argument, for one that cannot be recognised."""
    arguments = [(f"argument {i + 1}", value) for i, value in enumerate(call.args)] + sorted(call.kwargs.items())
    parts = [_of(len(call.args))]
    for name, value in arguments:
        try:
            parts.append(_pair(_tagged("str", _utf8(name)), _of(value)))
        except RecursionError:
            raise OptionError(f"{where}: {name!r} is nested too deeply for resume=; flatten it") from None
        except _Unknown as unknown:
            raise OptionError(
                f"{where}: {name!r} holds a {unknown.what}, by which a journal (resume=) cannot tell whether a later "
                f"run has the same row: it {unknown.why}. Pass plain data, or give the class a __repr__ that spells "
                "its value"
            ) from None
        except BaseException as error:  # of the value: its __repr__, a property, a buffer
            if is_interruption(error):
                raise
            raise OptionError(
                f"{where}: {name!r} could not be read for resume=: {said(error)}; pass plain data"
            ) from error
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


class _Unknown(Exception):
    def __init__(self, value: object, why: str) -> None:
        super().__init__(why)
        self.what, self.why = type(value).__qualname__, why


def _tagged(tag: str, content: bytes) -> bytes:
    """Encode `content` with its tag and length, so that two different sequences of values never give the same bytes."""
    return b"%s:%d:%s" % (tag.encode(), len(content), content)


def _pair(key: bytes, value: bytes) -> bytes:
    return _tagged("pair", key + value)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_EXACT: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: _tagged("None", b""),
    bool: lambda value: _tagged("bool", b"%d" % value),
    int: lambda value: _tagged("int", b"%x" % value),
    float: lambda value: _tagged("float", b"nan" if value != value else struct.pack(">d", value)),
    str: lambda value: _tagged("str", _utf8(value)),
    bytes: lambda value: _tagged("bytes", value),
    list: lambda value: _tagged("list", b"".join(map(_of, value))),
    tuple: lambda value: _tagged("tuple", b"".join(map(_of, value))),
    dict: lambda value: _members("dict", value.items()),
    set: lambda value: _tagged("set", b"".join(sorted(map(_of, value)))),
    frozenset: lambda value: _tagged("frozenset", b"".join(sorted(map(_of, value)))),
}


def _of(value: Any) -> bytes:
    exact = _EXACT.get(type(value))
    return exact(value) if exact is not None else _of_other(value)


def _of_other(value: Any) -> bytes:
    kind = _name(type(value))
    if isinstance(value, enum.Enum):
        return _tagged(kind, _utf8(str(value.name)))
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _of_code(value)
    if dataclasses.is_dataclass(value):
        return _members(kind, [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)])
    if hasattr(type(value), "__pydantic_fields_set__"):
        extra = getattr(value, "__pydantic_extra__", None) or {}
        return _members(kind, [*((name, vars(value).get(name)) for name in type(value).model_fields), *extra.items()])
    if hasattr(type(value), "__attrs_attrs__"):
        return _members(kind, [(each.name, getattr(value, each.name)) for each in type(value).__attrs_attrs__])
    for base in (int, float, str, bytes, list, tuple):
        if isinstance(value, base):
            return _tagged(kind, _EXACT[base](value))
    if isinstance(value, Mapping):
        return _members(kind, value.items())
    if isinstance(value, Set):
        return _tagged(kind, b"".join(sorted(map(_of, value))))
    return _tagged(kind, _of_memory(value))


def _of_memory(value: Any) -> bytes:
    try:
        memory = memoryview(value)
        content = memory.format, memory.shape, memory.tobytes()
    except (TypeError, ValueError, BufferError):
        return _utf8(_repr(value))
    if "O" in memory.format:
        raise _Unknown(value, "is an array of objects, whose memory has addresses")
    return _of(content)


def _of_code(value: Any) -> bytes:
    name = _name(value)
    owner = getattr(value, "__self__", None)
    bound = owner is not None and not isinstance(owner, (type, ModuleType))
    if "<lambda>" in name or "<locals>" in name or bound:
        raise _Unknown(value, "does not tell what it does (a lambda, a local function, or one bound to an object)")
    return _tagged("code", _utf8(name))


def _repr(value: Any) -> str:
    if hasattr(type(value), "__array__"):
        raise _Unknown(value, "shows itself rounded")
    try:
        text = repr(value)
    except Exception as error:
        raise _Unknown(value, f"has a repr that raises {said(error):.80}") from None
    if _ADDRESS.search(text):
        raise _Unknown(value, f"has a repr with a memory address, which is another in each process ({text:.60})")
    if _ABRIDGED.search(text):
        raise _Unknown(value, f"has a repr that leaves something out ({text:.60})")
    return text


def _members(kind: str, items: Iterable[tuple[Any, Any]]) -> bytes:
    return _tagged(kind, b"".join(sorted(_pair(_of(key), _of(value)) for key, value in items)))


def _name(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{code.__qualname__}"
