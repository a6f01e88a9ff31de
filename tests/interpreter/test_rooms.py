"""The house: who may import whom inside `interpreter/`, and folders that say what is in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
INTERPRETER = ROOT / "interpreter"
WINGS = sorted(folder.name for folder in INTERPRETER.iterdir() if (folder / "__init__.py").exists())
DOOR = "function.py"
"""The one file of the core that joins it with the wings."""


def imported(file: Path) -> Iterator[tuple[str, ...]]:
    """Every module and name that a file imports from inside the package, as a path from the package's root. Function-
    local imports and those for annotations count."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module or "").split(".")) if node.module else base
            for alias in node.names:
                yield (*module, alias.name)


def test_the_core_imports_no_wing() -> None:
    assert {"batch", "journal", "trace", "graph", "partial"} <= set(WINGS)
    crossing = [
        f"{file.name} imports {'.'.join(name)}"
        for file in INTERPRETER.glob("*.py")
        if file.name != DOOR
        for name in imported(file)
        if len(name) > 1 and name[0] == "interpreter" and name[1] in WINGS
    ]
    assert not crossing, crossing
    joined = {name[1] for name in imported(INTERPRETER / DOOR) if name[0] == "interpreter"}
    assert set(WINGS) - {"journal", "agent", "command"} <= joined, "the door joins those that a program's methods need"


def test_only_the_graph_asks_for_the_door() -> None:
    """A wing may import the core. The door imports the wings, so a wing that imports the door closes a circle."""
    asking = [
        file.relative_to(INTERPRETER).as_posix()
        for wing in WINGS
        for file in (INTERPRETER / wing).glob("*.py")
        if any(name[:2] == ("interpreter", "function") for name in imported(file))
    ]
    assert set(asking) <= {"graph/lower.py"}, asking
