"""Names of sgl and of SGLang that this version does not have yet, and the errors that say so.

Knows nothing of what the names will do. `getattr` and `from sgl import ...` fail in two ways, and callers test for
both. So the error is an `AttributeError` in the one case and an `ImportError` in the other, and `NotYet` in both:
`hasattr`, `try: ... except ImportError`, `unittest.mock` and tab completion go on working.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType

from .errors import NotYet, suggest

LATER = {
    "VertexAI": ("a backend for one service", "use sgl.LiteLLM('vertex_ai/...')"),
    "Crusoe": ("a backend for one service", "use sgl.OpenAI(model, base_url=...) with its address"),
    "ServerArgs": ("options of a server", "pass options to sgl.Runtime(...)"),
    "global_config": ("settings of the whole process", "pass options to run(...) and to sgl.Runtime(...)"),
}
"""Name of the module `sgl` -> what it stands for, and what to do until it is there."""


class NotYetName(AttributeError, NotYet):
    """A name that this version does not have yet was looked up. Also an `AttributeError`."""


class NotYetImport(ImportError, NotYet):
    """A name that this version does not have yet was imported. Also an `ImportError`."""


def missing(module: ModuleType, name: str, known: Iterable[str]) -> Exception:
    """The error for a name that `module` does not have. To be called by the module's own `__getattr__`."""
    if name in LATER:
        what, instead = LATER[name]
        message = f"{module.__name__}.{name} ({what}) is not supported by this version of sgl yet; {instead}"
        # `from sgl import tool` asks through this function of Python's, and drops the message of an AttributeError.
        importing = sys._getframe(2).f_code.co_name == "_handle_fromlist"
        return NotYetImport(message, name=name) if importing else NotYetName(message, name=name, obj=module)
    hint = "" if name.startswith("_") else suggest(name, known)
    return AttributeError(f"module {module.__name__!r} has no attribute {name!r}{hint}", name=name, obj=module)
