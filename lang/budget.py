"""How many tokens a gen may write that names no `max_tokens`. Knows nothing of contexts and of how a text is closed."""

from __future__ import annotations

from .constraint import Choices, Constraint, Control, Exactly, Regex, Repeated, Sequenced, pattern_node
from .kept import kept
from .sampling import DEFAULT_MAX_TOKENS

REGEX_TOKENS = 512
"""Of a pattern without a longest text, such as `[0-9]+`: a model may never end it by itself."""
TOKENS_PER_CHARACTER = 4
"""At most, of a text that is to be closed: a token has at least a byte."""


def default_budget(constraint: Constraint | None, least: int = 0) -> int | None:
    """The budget in tokens of a gen without `max_tokens`; None: the context that is left. `least`: its `min_tokens`.

    Free text has SGLang's 128. What a constraint ends by itself needs no budget. A pattern that may go on for ever has
    512, or what its shortest text needs, and is steered to its end.
    """
    if constraint is None:
        return max(DEFAULT_MAX_TOKENS, least)
    shortest, longest = _lengths(constraint)
    return max(REGEX_TOKENS, TOKENS_PER_CHARACTER * shortest, least) if longest is None else None


_OTHER = 0, 0
"""Of constraints whose texts are structured: a value of JSON or of a grammar has an end of its own."""


@kept(1024)
def _lengths(constraint: Constraint) -> tuple[int, int | None]:
    """Characters of a shortest text, or less, and of a longest text, or more; None: there is no longest."""
    if isinstance(constraint, (Exactly, Control)):
        return len(constraint.text), len(constraint.text)
    if isinstance(constraint, Choices):
        return min(map(len, constraint.choices)), max(map(len, constraint.choices))
    if isinstance(constraint, Regex):
        from .pattern.marks import longest_length, shortest_length

        node = pattern_node(constraint.pattern)
        return shortest_length(node), longest_length(node)
    if not constraint.inner:
        return _OTHER
    shortest, longest = zip(*map(_lengths, constraint.inner))
    if isinstance(constraint, Repeated):
        each, most = longest[0], constraint.most
        whole = None if each is None or most is None else most * (each + len(constraint.separator))
        return constraint.least * shortest[0], whole
    known = [length for length in longest if length is not None]
    joins = sum if isinstance(constraint, Sequenced) else max
    return (sum if joins is sum else min)(shortest), None if len(known) < len(longest) else joins(known)
