"""A long text in pieces.

*Map*: every section of a page is described in a few words, all sections side by side. *Reduce*: the descriptions become
one title. The text may be longer than the model's context, since no call sees the whole of it.

Run: python examples/map_reduce.py [--document FILE] [--sections 6]

Expect of a model of 135M parameters: descriptions that name the subject, some of them wrong, and a dull title.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import sgl

INSTALL_PAGE = Path(__file__).resolve().parents[1] / "docs" / "install.md"
SECTION_CHARACTERS = 800  # of each section are read


@sgl.function
def describe(s: sgl.ProgramState, section: str) -> None:
    s += sgl.system("You say in one short sentence what a text is about.")
    s += sgl.user(section) + sgl.assistant("This text is about" + sgl.gen("about", max_tokens=24, stop=[".", "\n"]))


@sgl.function
def entitle(s: sgl.ProgramState, descriptions: list[str]) -> None:
    s += sgl.user("Find a title for a document with these parts.\n" + "\n".join(f"- {one}" for one in descriptions))
    s += sgl.assistant('The title is "' + sgl.gen("title", max_tokens=24, stop=['"', "\n"]) + '".')


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--document", type=Path, default=INSTALL_PAGE, help="a Markdown file; default: docs/install.md")
    parser.add_argument("--sections", type=int, default=6, help="how many are read; default: 6")
    args = parser.parse_args()
    parts = re.split(r"^(?=#{1,3} )", args.document.read_text(encoding="utf-8"), flags=re.M)
    sections = [part.strip() for part in parts if part.strip()][: args.sections]
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        rows = [{"section": section[:SECTION_CHARACTERS]} for section in sections]
        mapped = describe.run_batch(rows, backend=runtime, temperature=0)
        for section, state in zip(sections, mapped):
            print(f"{section.splitlines()[0]}\n    about{state['about']}")
        reduced = entitle.run([state["about"].strip() for state in mapped], backend=runtime, temperature=0)
        print(f"title: {reduced['title']}")
        print(f"\n{mapped.usage.total + reduced.usage.total}")


if __name__ == "__main__":
    main()
