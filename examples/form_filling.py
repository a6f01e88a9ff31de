"""A form, filled in from a letter, and the same as one typed record.

The program writes the form and the model fills its holes. Each hole has a constraint of its own: a date, a choice, a
number, a pattern. The text around the holes is never generated, so the form is always whole.

Run: python examples/form_filling.py

Expect of a model of 135M parameters: every field has its form, and what is copied is right. The breakfast, which
has to be understood, is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import Field

import sgl

LETTER = """Dear team,
I would like to book a double room for 3 nights. We arrive on 2027-05-14. Breakfast, please!
My number is 555-0147.
Yours, Maria Lopez"""


@dataclass
class Booking:
    name: Annotated[str, Field(max_length=24, pattern="^[A-Z][a-z]+ [A-Z][a-z]+$")]
    arrival: date
    nights: Annotated[int, Field(ge=1, le=30)]
    room: Literal["single", "double", "suite"]


@sgl.function
def fill(s: sgl.ProgramState, letter: str) -> Booking:
    s += sgl.user(f"Read this letter and fill in the form.\n\n{letter}")
    with s.assistant():
        s += "BOOKING"
        s += "\nName: " + sgl.gen("name", regex="[A-Z][a-z]{1,12} [A-Z][a-z]{1,12}")
        s += "\nArrival (YYYY-MM-DD): " + sgl.gen("arrival", regex=r"20\d\d-(0[1-9]|1[0-2])-([0-2]\d|3[01])")
        s += "\nStay: " + sgl.gen("stay", regex="([1-9]|[12][0-9]|30) nights?")  # with the unit, it ends at 3
        s += "\nRoom: " + sgl.select("room", ["single", "double", "suite"])
        s += "\nPhone: " + sgl.gen("phone", regex=r"\d{3}-\d{4}")
        s += "\nBreakfast: " + sgl.select("breakfast", ["yes", "no"])
    s += sgl.user("Write that as JSON.")
    s += sgl.assistant(sgl.gen("booking", schema=Booking, max_tokens=80))
    booking: Booking = s.value("booking")
    return booking


def main() -> None:
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        state = fill.run(LETTER, backend=runtime, temperature=0)
        print(state.messages()[1]["content"])
        print(f"\nas a record: {state.ret_value!r}")
        print(f"how the date was held to its form: {state.get_meta_info('arrival')['constraint']}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
