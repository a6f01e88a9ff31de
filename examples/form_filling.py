"""A form, hole by hole: `python examples/form_filling.py`.

The program writes the form and the model fills its holes. Each hole has a constraint of its own: a date, a choice, a
number, a pattern. The text around the holes is never generated, so the form is always whole. Beside it the same letter
as one typed record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from common import session
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
        s += "\nNights: " + sgl.gen("nights", regex="[1-9]|[12][0-9]|30")
        s += "\nRoom: " + sgl.select("room", ["single", "double", "suite"])
        s += "\nPhone: " + sgl.gen("phone", regex=r"\d{3}-\d{4}")
        s += "\nBreakfast: " + sgl.select("breakfast", ["yes", "no"])
    with s.copy() as copy:  # the same again, as a record
        copy += sgl.user("Now as JSON, with name, arrival, nights and room.")
        copy += sgl.assistant(sgl.gen("booking", schema=Booking, max_tokens=80))
        booking: Booking = copy.value("booking")
    return booking


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv):
        state = fill.run(LETTER, temperature=0)
        print(state.messages()[-1]["content"])
        print(f"\n{state.ret_value!r}")
        receipt = state.get_meta_info("arrival")["constraint"]
        print(f"how the date was held to its form: {receipt}")
        print(f"\n{state.usage}")


if __name__ == "__main__":
    main()
