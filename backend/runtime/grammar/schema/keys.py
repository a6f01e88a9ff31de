"""Where the keys of an object are not all named by its schema, so that a mask may have to let one be repeated.

Knows nothing of engines.
"""

from __future__ import annotations

from .....lang.pattern import size
from .languages import parse_spelled
from .nodes import IMPOSSIBLE, AnySchema, LoweredSchema, ObjectSchema

SHORT_KEY_CHARACTERS = 4
"""A pattern of keys that spans no more is so short that an object may run out of new keys."""


def open_keys(document: LoweredSchema) -> bool:
    """Whether some object in the schema may have keys that it does not name."""
    return any(
        isinstance(node, AnySchema)
        or (isinstance(node, ObjectSchema) and (bool(node.patterns) or node.others is not IMPOSSIBLE))
        for node in document.nodes()
    )


def few_keys(document: LoweredSchema) -> bool:
    """Whether some object's keys follow a pattern of so few texts that the mask may run out of new ones."""
    patterns = (p for node in document.nodes() if isinstance(node, ObjectSchema) for p in node.patterns)
    return any(size(parse_spelled(pattern)) <= SHORT_KEY_CHARACTERS for pattern in patterns)
