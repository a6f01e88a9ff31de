"""The documentation: its examples run, every public name is in it, and the site that is built of it asks no other host.

Examples run on the toy model. They are of two kinds: the `>>>` examples of docstrings, and the Python blocks of
`docs/*.md`, which run page by page, one block after the other. A block that cannot run has a comment above it,
`<!-- not run: WHY -->`.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import importlib.util
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sgl

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PUBLIC = [name for name in sgl.__all__ if name != "__version__"]

BETWEEN_ROOMS = {
    *("Runtime.open", "Runtime.wait", "Runtime.wait_async", "Runtime.prepare", "Runtime.prepared", "Runtime.watch"),
    *(f"FakeBackend.{name}" for name in ("open", "wait", "wait_async", "prepare", "prepared", "watch", "pin")),
    *("FakeBackend.text_for", "FakeBackend.shutdown"),
    *(
        f"{backend}.{name}"
        for backend in ("OpenAI", "Anthropic", "LiteLLM", "RuntimeEndpoint")
        for name in ("open", "wait", "wait_async", "prepare", "prepared", "watch", "pin", "enlist", "read")
    ),
    *("Runtime.pin", "Runtime.check", "Usage.add", "UsageTree.of_batch", "Trace.add", "Trace.seed", "Trace.stop"),
}
"""Methods that the rooms of the library call on each other's objects; a user needs none of them."""


def title(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def no_default_backend() -> Iterator[None]:
    yield
    sgl.set_default_backend(None)


# -- examples in docstrings
def functions() -> dict[str, Any]:
    """Public functions, and the public methods of public classes, by the name a reader would look for."""
    found: dict[str, Any] = {}
    for name in PUBLIC:
        thing = getattr(sgl, name)
        if not inspect.isclass(thing):
            found[name] = thing
        elif not issubclass(thing, BaseException):
            methods = {
                key: getattr(member, "__func__", member)
                for base in reversed(thing.__mro__)
                if base.__module__.startswith("sgl.")
                for key, member in vars(base).items()
            }
            found |= {f"{name}.{k}": m for k, m in methods.items() if not k.startswith("_") and inspect.isfunction(m)}
    return {name: thing for name, thing in found.items() if name not in BETWEEN_ROOMS}


FUNCTIONS = functions()


def examples(thing: Any, name: str) -> list[doctest.DocTest]:
    module = sys.modules[type(thing).__module__ if not hasattr(thing, "__name__") else thing.__module__]
    tests = doctest.DocTestFinder(recurse=False).find(thing, name, module=module)
    return [test for test in tests if test.examples]


def run_examples(tests: list[doctest.DocTest]) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append, clear_globs=False)
    assert runner.failures == 0, "".join(said)


MODULES = sorted(
    ".".join(("sgl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for room in ("lang", "interpreter", "backend")
    for path in (ROOT / room).rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("name", ["sgl", *MODULES])
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples(doctest.DocTestFinder().find(importlib.import_module(name)))


def has_example(name: str) -> bool:
    """Whether `name` has an example, or says "See `other`." of a sibling whose example calls it too."""
    thing, (owner, _, called) = FUNCTIONS[name], name.rpartition(".")
    if examples(thing, name):
        return True
    for other in re.findall(r"See `(\w+)`\.", inspect.getdoc(thing) or ""):
        sibling = f"{owner}.{other}".lstrip(".")
        tests = examples(FUNCTIONS[sibling], sibling) if sibling in FUNCTIONS else []
        shown = [example.source for test in tests for example in test.examples]
        if any(re.search(rf"\.{called}\(", line) for line in shown):
            return True
    return False


def test_every_public_function_has_an_example() -> None:
    lack = [name for name, thing in FUNCTIONS.items() if inspect.isfunction(thing) and not has_example(name)]
    assert not lack, f"without a >>> example: {', '.join(sorted(lack))}"


def test_every_public_name_has_a_docstring() -> None:
    lack = [name for name, thing in FUNCTIONS.items() if not inspect.getdoc(thing)]
    lack += [name for name in PUBLIC if inspect.isclass(getattr(sgl, name)) and not getattr(sgl, name).__doc__]
    assert not lack


# -- the Python blocks of the pages
BLOCK = re.compile(r"(?P<skip><!-- not run: [^>]+ -->\n)?^```(?P<kind>python|pycon)\n(?P<code>.*?)^```$", re.S | re.M)


class OnTheToyModel:
    """Stands for `sgl.Runtime` while the pages run: whatever model a page names, it gets the toy."""

    def __new__(cls, model_path: object = None, **options: object) -> Any:
        return REAL_RUNTIME.toy()

    toy = staticmethod(lambda **options: REAL_RUNTIME.toy(**options))


REAL_RUNTIME = sgl.Runtime


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=title)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sgl, "Runtime", OnTheToyModel, raising=False)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block["skip"]:
            continue
        line = text[: block.start("code")].count("\n")
        if block["kind"] == "pycon":
            run_examples(
                [doctest.DocTestParser().get_doctest(block["code"], vars(module), title(page), str(page), line)]
            )
            continue
        code = compile(
            "\n" * line + block["code"], str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        done = eval(code, vars(module))
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(done)


@pytest.mark.parametrize("name", ["tour", "trace", "tree"])
def test_the_example_scripts_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sgl, "Runtime", OnTheToyModel, raising=False)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


# -- what the pages say
def test_the_reference_has_every_public_name() -> None:
    said = re.findall(r"^::: sgl\.(\w+)$", "\n".join(p.read_text() for p in (DOCS / "reference").glob("*.md")), re.M)
    assert sorted(said) == sorted(PUBLIC)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=title)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if not re.match(r"https?:", target):
            assert (page.parent / target).exists(), f"{title(page)}: {target}"


def test_documents_name_no_host_but_of_the_two_conventions() -> None:
    allowed = {"https://keepachangelog.com/en/1.1.0/", "https://semver.org/spec/v2.0.0.html", "http://..."}
    for path in [*PAGES, *ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "Makefile", ROOT / "pyproject.toml"]:
        named = set(re.findall(r"https?://[^\s)\"'`]+", path.read_text()))
        assert {url for url in named if not re.match(r"http://(127\.0\.0\.1|localhost)[:/]", url)} <= allowed, title(
            path
        )


def test_the_table_of_sampling_options_is_the_one_of_the_code() -> None:
    describe = getattr(importlib.import_module("sgl.lang.sampling"), "describe", None)
    if describe is None:
        pytest.skip("the code has no table of its options yet")
    assert describe() in (DOCS / "programs.md").read_text(), "copy what sgl.lang.sampling.describe() gives"


def test_the_glossary_names_what_is_there() -> None:
    text = (DOCS / "glossary.md").read_text()
    modules = [path for room in ("lang", "interpreter", "backend", "tests") for path in (ROOT / room).rglob("*.py")]
    code = "\n".join(path.read_text() for path in modules)
    for path in re.findall(r"`([a-z_/]+\.py)`", text):
        assert any(str(module).endswith(f"/{path}") for module in modules), path
    for name in re.findall(r"`([A-Z][A-Za-z]+)`", text):
        assert re.search(rf"^class {name}\b", code, flags=re.M), name


def test_error_messages_are_those_of_the_product() -> None:
    """A heading of the troubleshooting page in backticks is a message, `...` where it varies."""
    said = re.findall(r"^#+ `(.+)`$", (DOCS / "troubleshooting.md").read_text(), flags=re.M)
    assert len(said) > 10
    templates = [
        t for room in ("lang", "interpreter", "backend") for p in (ROOT / room).rglob("*.py") for t in texts(p)
    ]
    for message in said:
        pattern = re.compile(".*".join(map(re.escape, filter(None, re.split(r"\s*\.\.\.\s*", message)))), re.S)
        assert any(pattern.search(t) for t in templates), f"no error says {message!r}"


def texts(path: Path) -> list[str]:
    """The strings of a module, with "{}" where an f-string has a value."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


# -- the site
class Loads(HTMLParser):
    """What a browser loads of its own accord for a page: scripts, styles, pictures, frames; not links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object", "image", "use"):
            self.found += [given[key] for key in ("src", "srcset", "data", "href", "xlink:href") if given.get(key)]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.found.append(given.get("href", ""))


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the packages of the extra `docs`")
def test_the_site_has_every_public_name_and_asks_no_other_host(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ids: set[str] = set()
    for path in tmp_path.rglob("*.html"):
        page = Loads()
        page.feed(path.read_text())
        ids |= page.ids
        assert not [url for url in page.found if re.match(r"(https?:)?//", url)], path
    for path in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path
    assert {f"sgl.{name}" for name in PUBLIC} <= ids
