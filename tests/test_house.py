"""The structure of the library: what imports what, what is called what, how large and how tangled each part is."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("lang", "interpreter", "backend")
FOLDERS = sorted({path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")})

CIRCLE_FILES = 3
FOLDER_FILES = 20
COMPLEXITY = 20
"""Of a function, by radon: decisions in it, and one."""


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the rooms by its dotted name: its file and its syntax tree."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path, ast.parse(path.read_text())
    return found


def imports() -> dict[str, set[str]]:
    """The modules that each module imports; under TYPE_CHECKING and within functions too."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, (path, tree) in modules().items():
        package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
                for alias in node.names:
                    target = ".".join([*base, alias.name])
                    while target and target not in modules():  # a name in a module, or in a package
                        target = target.rpartition(".")[0]
                    if target and target != name:
                        found[name].add(target)
    return found


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which imports all others, by whatever way."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in edges.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        reached[start] = seen
    found: list[set[str]] = []
    for name, seen in reached.items():
        if name in seen and not any(name in circle for circle in found):
            found.append({other for other in seen if name in reached.get(other, set())})
    return found


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(edges) == [{"a", "b", "c"}, {"d", "e"}]


def test_no_circle_of_imports_is_long() -> None:
    long = [sorted(circle) for circle in circles(imports()) if len(circle) > CIRCLE_FILES]
    assert not long


def test_a_class_name_means_one_class() -> None:
    places = defaultdict(list)
    for name, (_, tree) in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_is_small_and_its_init_maps_it(folder: Path) -> None:
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert len(files) <= FOLDER_FILES
    described = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    inside = {path.parent.name + "/" for path in folder.glob("*/__init__.py")}
    mapped = set(re.findall(r"^\s*(?:[-*] )?`?([\w.]+(?:\.py|/))`?:?\s+\S", described, re.MULTILINE))
    assert mapped >= files | inside, f"no line for {sorted((files | inside) - mapped)}"
    gone = {name for name in mapped if not (folder / name).exists()}
    assert not gone


def test_no_function_is_too_complex() -> None:
    """Triton kernels apart: they are compiled from the text of one function."""
    radon = pytest.importorskip("radon.complexity")
    found = Counter[str]()
    for name, (_, tree) in modules().items():
        for block in radon.cc_visit_ast(tree):
            for function in [*getattr(block, "methods", []), block]:
                if function.letter in "FM" and not kernel(tree, function.lineno):
                    found[f"{name}:{function.fullname}"] = function.complexity
    assert not {name: complexity for name, complexity in found.items() if complexity > COMPLEXITY}


def kernel(tree: ast.Module, line: int) -> bool:
    """Whether the function at `line` is written in Triton's language."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and line in {node.lineno, *(each.lineno for each in node.decorator_list)}:
            return any("triton" in ast.unparse(each) for each in node.decorator_list)
    return False
