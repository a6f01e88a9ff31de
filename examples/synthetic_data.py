"""Invented records of a given type, as JSON lines.

Every row is sampled at a temperature above 0 under one schema, with a seed of its own. So the records differ, are all
valid, and are the same in the next run. What is drawn in Python (here the country) keeps them from being all alike.

Run: python examples/synthetic_data.py [--rows 8] > customers.jsonl

Expect of a model of 135M parameters: valid records, plausible first names, odd last names, ages near 20.
"""

from __future__ import annotations

import argparse
import sys
from typing import Literal

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=8, help="how many records; default: 8")
    args = parser.parse_args()
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        rows = [{"country": COUNTRIES[i % len(COUNTRIES)], "number": i} for i in range(args.rows)]
        states = invent.run_batch(rows, backend=runtime)
        customers: list[Customer] = [state.value("customer") for state in states]
    for customer in customers:
        print(customer.model_dump_json())
    names = {(customer.first_name, customer.last_name) for customer in customers}
    print(f"{len(customers)} records, {len(names)} different names\n\n{states.usage.total}", file=sys.stderr)


if __name__ == "__main__":
    main()
