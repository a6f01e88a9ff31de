"""What a docstring says of a function and of its parameters, in Google's, NumPy's or Sphinx's style.

Knows nothing of schemas. The package `docstring_parser` reads it; it is imported when a tool is made.
"""

from __future__ import annotations


def described(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Give the text before the sections, and the text of each parameter."""
    if not docstring or not docstring.strip():
        return "", {}
    import docstring_parser

    try:
        read = docstring_parser.parse(docstring)
    except Exception:  # of a foreign parser, about a user's text
        return docstring.strip(), {}
    of_parameters = {p.arg_name.lstrip("*"): _one_line(p.description) for p in read.params if p.description}
    return (read.description or "").strip(), of_parameters


def _one_line(text: str) -> str:
    return " ".join(text.split())
