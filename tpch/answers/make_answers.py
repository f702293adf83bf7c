#!/usr/bin/env python3
"""Make the committed answers of the 22 queries with DuckDB, on the Parquet files that our generator wrote.

    onward tpch gen --scale 0.1 --out DIR
    python3 -m venv VENV && VENV/bin/pip install duckdb
    VENV/bin/python tpch/answers/make_answers.py 0.1 DIR

writes tpch/answers/sf0.1/qNN.csv: a header, NULL as \\N, rows in the order of the query. Fails when a LIMIT cuts rows
that are equal in every ORDER BY key, since such an answer would not be the only right one.
"""

import csv
import pathlib
import re
import sys

import duckdb

TABLES = ["nation", "region", "supplier", "part", "partsupp", "customer", "orders", "lineitem"]
# Columns of ORDER BY in the queries with LIMIT, as in tpch/src/compare.rs.
ORDER = {2: [0, 2, 1, 3], 3: [1, 2], 10: [2], 18: [4, 3], 21: [1, 0]}


def query_text(number: int, scale: float) -> str:
    path = pathlib.Path(__file__).parent.parent / "queries" / f"q{number:02}.sql"
    text = re.sub(r"^--.*\n", "", path.read_text(), flags=re.MULTILINE)
    if number == 11:  # FRACTION is 0.0001 / scale (TPC-H 2.4.11.3)
        fraction = f"{0.0001 / scale:.14f}".rstrip("0").rstrip(".")
        assert text.count("0.0001") == 1
        text = text.replace("0.0001", fraction)
    return text


def cell(value) -> str:
    if value is None:
        return r"\N"
    return format(value, ".17g") if isinstance(value, float) else str(value)


def rows_of(database, number: int, scale: float):
    text = query_text(number, scale)
    limit = re.search(r"\nlimit (\d+)\s*$", text)
    assert (limit is not None) == (number in ORDER)
    if limit is None:
        result = database.execute(text)
        return [column[0] for column in result.description], result.fetchall()
    count = int(limit[1])
    result = database.execute(text[: limit.start()] + f"\nlimit {count + 1}")
    header, rows = [column[0] for column in result.description], result.fetchall()
    if len(rows) > count:
        last, following = ([row[key] for key in ORDER[number]] for row in rows[count - 1 :])
        if last == following:
            sys.exit(f"Q{number}: its LIMIT cuts a tie at {last}")
    return header, rows[:count]


def main() -> None:
    scale, data = float(sys.argv[1]), pathlib.Path(sys.argv[2])
    out = pathlib.Path(__file__).parent / f"sf{sys.argv[1]}"
    out.mkdir(exist_ok=True)
    database = duckdb.connect()
    for table in TABLES:
        parts = data / table
        files = f"{parts}/*.parquet" if parts.is_dir() else f"{parts}.parquet"
        database.execute(f"create view {table} as select * from read_parquet('{files}')")
    for number in range(1, 23):
        header, rows = rows_of(database, number, scale)
        with open(out / f"q{number:02}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows([cell(value) for value in row] for row in rows)
        print(f"Q{number}: {len(rows)} rows")


if __name__ == "__main__":
    main()
