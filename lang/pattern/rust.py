"""Pydantic's patterns as ECMA-262 patterns that match nothing else.

Knows nothing of schemas. Pydantic searches with Rust's `regex` (or, if asked to, Python's `re`), where `\\d \\w \\s`
are Unicode's. A schema's `pattern` is ECMA-262, where they are ASCII's: narrower, so they stay. But `\\s`,
`\\S \\D \\W`, and any of them in a negated class are written out: the mask may admit less than pydantic, never more.
"""

from __future__ import annotations

import re

_SPACE = r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # in Rust, Python and ECMA-262
_WIDE = {  # at least what any of them calls so, to be left out
    "s": _SPACE + r"\u0085\ufeff\x1c-\x1f",
    "d": r"\p{Nd}\p{Cn}",
    "w": r"\p{L}\p{M}\p{N}\p{Pc}\p{So}\p{Cn}\u200c\u200d",
}
_TOKEN = re.compile(r"\\(?:[pP]\{[^}]*\}|.)|\[\^?|\]|\(\?[a-zA-Z-]*|.", re.DOTALL)


def narrowed(pattern: str) -> tuple[str, bool]:
    """Rewrite a pattern; also whether pydantic surely finds the original wherever the result is found."""
    out: list[str] = []
    sure = True
    negated: bool | None = None  # in a class: whether it is negated
    for token in _TOKEN.findall(pattern):
        kind = token[1] if token[0] == "\\" and len(token) == 2 else ""
        if negated is not None:
            if token == "]":
                negated = None
            elif kind in ("D", "W", "S"):
                sure = sure and not negated and f"\\{kind.lower()}" in pattern  # [\s\S]: anything
            elif kind in _WIDE:
                token = _WIDE[kind] if negated else _SPACE if kind == "s" else token
        elif token in ("[", "[^"):
            negated = token.endswith("^")
        elif kind == "s":
            token = f"[{_SPACE}]"
        elif kind in ("D", "W", "S"):
            token = f"[^{_WIDE[kind.lower()]}]"
        elif kind in ("b", "B") or (token.startswith("(?") and "i" in token and "[^" in pattern):
            sure = False
        out.append(token)
    return "".join(out), sure
