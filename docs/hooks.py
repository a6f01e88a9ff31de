"""What mkdocs needs beyond `mkdocs.yml`: the package under its name, and the documents that lie outside `docs/`.

Knows nothing of the pages' content.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    **{name: ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE")},
    **{f"results/{path.name}": path for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))},
}
"""Documents outside `docs/`, by their place in the site."""

_folders: list[str] = []


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: Any) -> Any:
    """Let the reader of docstrings find the package: the repository's root is `sgl`, whatever its folder is called."""
    folder = tempfile.mkdtemp(prefix="sgl-docs-")
    _folders.append(folder)
    package = Path(folder, "sgl")
    package.mkdir()
    for name in ("__init__.py", "lang", "interpreter", "backend"):
        (package / name).symlink_to(ROOT / name)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [folder]
    return config


def on_files(files: Files, config: Any) -> Files:
    for place, path in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links that lead out of `docs/` to where those documents are in the site."""
    here = page.file.src_uri
    origin = OUTSIDE.get(here, ROOT / "docs" / here).parent
    inside = {path.resolve(): place for place, path in OUTSIDE.items()}

    def moved(link: re.Match[str]) -> str:
        target = (origin / link[1]).resolve()
        docs = ROOT / "docs"
        if target in inside:
            place = inside[target]
        elif here in OUTSIDE and target.is_relative_to(docs):
            place = target.relative_to(docs).as_posix()
        else:
            return link[0]
        return f"]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{link[2] or ''})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)


def on_post_build(**_: Any) -> None:
    while _folders:
        shutil.rmtree(_folders.pop())
