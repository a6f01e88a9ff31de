"""A long text in pieces: `python examples/map_reduce.py`.

*Map*: every section of a page is described in one sentence, all sections side by side. *Reduce*: the sentences become
one title. The text may be longer than the model's context, since no call sees the whole of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common import session

import sgl

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECTION_CHARACTERS = 800


@sgl.function
def describe(s: sgl.ProgramState, section: str) -> None:
    s += sgl.system("You say in one short sentence what a text is about.")
    s += sgl.user(section) + sgl.assistant("This text is about" + sgl.gen("about", max_tokens=24, stop=[".", "\n"]))


@sgl.function
def entitle(s: sgl.ProgramState, sentences: list[str]) -> None:
    s += sgl.user("Find a title for a document with these parts.\n" + "\n".join(f"- {one}" for one in sentences))
    s += sgl.assistant('The title is "' + sgl.gen("title", regex="[A-Z][A-Za-z ,:]{8,50}", max_tokens=16) + '".')


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, document=str(DOCS / "install.md"), sections=6) as args:
        parts = re.split(r"^(?=#{1,3} )", Path(args.document).read_text(), flags=re.M)
        sections = [part.strip()[:SECTION_CHARACTERS] for part in parts if part.strip()][: args.sections]
        mapped = describe.run_batch([{"section": section} for section in sections], temperature=0)
        for section, state in zip(sections, mapped):
            print(f"{section.splitlines()[0]}\n    about{state['about']}")
        reduced = entitle.run([state["about"].strip() for state in mapped], temperature=0)
        print(f"title: {reduced['title']}")
        print(f"\n{mapped.usage.total + reduced.usage.total}")


if __name__ == "__main__":
    main()
