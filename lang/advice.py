"""Advice to a program's author: log lines of `sgl.advice`, each said once. Knows nothing of what they are about.

Advice is for what works and probably is not meant. What is wrong raises.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

log = logging.getLogger("sgl.advice")


class Advice:
    """Says each thing once. One of the process is `advice`; a runtime has one of its own."""

    def __init__(self) -> None:
        self._given: set[Hashable] = set()

    def give(self, key: Hashable, message: str) -> None:
        """Log `message`, unless advice with this `key` was given."""
        if key not in self._given:
            self._given.add(key)
            log.warning(message)

    def gave(self, key: Hashable) -> bool:
        """Whether advice with this `key` was given."""
        return key in self._given


advice = Advice()
