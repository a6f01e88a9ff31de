"""Invented records of a given type: `python examples/synthetic_data.py --rows 100 > customers.jsonl`.

Every row is sampled at a temperature above 0 with a seed of its own, under one schema. So the records differ, are all
valid, and are the same in the next run. What is drawn in Python (here the country) keeps them from being all alike.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from common import session
from pydantic import BaseModel, Field

import sgl

COUNTRIES = ["Italy", "Japan", "Kenya", "Brazil", "Norway", "India"]


class Customer(BaseModel):
    first_name: str = Field(pattern="^[A-Z][a-z]{2,9}$")
    last_name: str = Field(pattern="^[A-Z][a-z]{2,11}$")
    age: int = Field(ge=18, le=90)
    plan: Literal["free", "basic", "premium"]
    interests: list[Literal["music", "sport", "books", "travel", "cooking"]] = Field(min_length=1, max_length=2)


@sgl.function
def invent(s: sgl.ProgramState, country: str, number: int) -> None:
    s += sgl.user(f"Invent a customer from {country}, as JSON.")
    s += sgl.assistant(sgl.gen("customer", schema=Customer, max_tokens=70, temperature=1.0, top_p=0.95, seed=number))


def main(argv: Sequence[str] | None = None) -> None:
    with session(__doc__, argv, rows=8) as args:
        rows = [{"country": COUNTRIES[i % len(COUNTRIES)], "number": i} for i in range(args.rows)]
        states = invent.run_batch(rows)
        customers = [state.value("customer") for state in states]
        for customer in customers:
            print(customer.model_dump_json())
        names = {(customer.first_name, customer.last_name) for customer in customers}
        print(f"{len(customers)} records, {len(names)} different names", file=sys.stderr)
        print(f"\n{states.usage.total}", file=sys.stderr)


if __name__ == "__main__":
    main()
