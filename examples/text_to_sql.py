"""A question becomes SQL that always runs.

A Lark grammar holds the model to the tables and columns that there are, and to reading. So each query is valid, names
nothing that does not exist, and can change nothing. SQLite runs it.

Run: python examples/text_to_sql.py

Expect of a model of 135M parameters: queries that run, always. Whether one is the *right* query is up to the model: of
these five, four are.
"""

from __future__ import annotations

import sqlite3

import sgl

CITIES = [
    ("Rome", "Italy", 2_750_000),
    ("Milan", "Italy", 1_370_000),
    ("Oslo", "Norway", 709_000),
    ("Bergen", "Norway", 289_000),
    ("Lima", "Peru", 10_090_000),
    ("Cusco", "Peru", 428_000),
]
GRAMMAR = r"""
start: "SELECT " what " FROM city" where? order? ";"
what: "name" | "country" | "population" | "count(*)" | "max(population)" | "sum(population)"
where: " WHERE " ("country = '" COUNTRY "'" | "name = '" NAME "'" | "population " (">" | "<") " " NUMBER)
order: " ORDER BY population" (" DESC")? " LIMIT " /[1-5]/
COUNTRY: "Italy" | "Norway" | "Peru"
NAME: "Rome" | "Milan" | "Oslo" | "Bergen" | "Lima" | "Cusco"
NUMBER: /[1-9][0-9]{3,6}/
"""
SHOWN = """Table city(name, country, population). Write the query in SQL.
Question: Which cities are in Norway?
SELECT name FROM city WHERE country = 'Norway';
Question: How many cities are in Italy?
SELECT count(*) FROM city WHERE country = 'Italy';
Question: Which city is the largest?
SELECT name FROM city ORDER BY population DESC LIMIT 1;
Question: Which two cities are the smallest?
SELECT name FROM city ORDER BY population LIMIT 2;
Question: How many cities are in Peru?
SELECT count(*) FROM city WHERE country = 'Peru';
Question: How many people live in Milan?
SELECT population FROM city WHERE name = 'Milan';
"""
QUESTIONS = [
    "Which cities are in Peru?",
    "How many people live in Oslo?",
    "How many cities are in Norway?",
    "Which three cities are the largest?",
    "Which cities have more than 1000000 people?",
]


@sgl.function
def write(s: sgl.ProgramState, question: str) -> None:
    s += SHOWN
    s += f"Question: {question}\n" + sgl.gen("query", lark=GRAMMAR, max_tokens=48)


def main() -> None:
    store = sqlite3.connect(":memory:")
    store.execute("create table city (name text, country text, population integer)")
    store.executemany("insert into city values (?, ?, ?)", CITIES)
    with sgl.Runtime(random_seed=0) as runtime:  # the default model; or sgl.Runtime("path/to/a/model")
        states = write.run_batch([{"question": question} for question in QUESTIONS], backend=runtime, temperature=0)
        for question, state in zip(QUESTIONS, states):
            rows = store.execute(state["query"]).fetchall()
            print(f"{question}\n    {state['query']}\n    {[value for (value,) in rows]}")
        print(f"\n{states.usage.total}")


if __name__ == "__main__":
    main()
