#!/usr/bin/env python3
"""Latency of small queries over Flight SQL from Python, as users measure it: one connection, one query after another.

    python3 benches/flight_latency.py

starts `target/release/onward serve` (or --onward PATH) on a free port with TPC-H data at scale 0.01, and prints p50 and p99
in milliseconds next to the goals. The clients are installed into a virtual environment in --cache on first use.
"""

import argparse
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLES = ["nation", "region", "supplier", "customer"]

GROUP_BY = "SELECT n_regionkey, count(*) FROM nation GROUP BY n_regionkey"
THREE_JOINS = """
SELECT r_name, count(*), sum(c_acctbal)
FROM customer
JOIN nation ON c_nationkey = n_nationkey
JOIN region ON n_regionkey = r_regionkey
JOIN supplier ON s_nationkey = n_nationkey
GROUP BY r_name"""

# Name, functions (0 = the planner's choice), SQL, goal for the p50 in ms.
QUERIES = [
    ("SELECT 1", 0, "SELECT 1", 2),
    ("group-by of nation, 1 function", 1, GROUP_BY, 4),
    ("group-by of nation, 2 functions", 2, GROUP_BY, 6),
    ("three small joins, 2 functions", 2, THREE_JOINS, 20),
]


def with_clients(cache):
    """Runs this script again with the clients of tests/python/requirements.txt, unless they are there."""
    try:
        import adbc_driver_flightsql  # noqa: F401
        import pyarrow.flight  # noqa: F401

        return
    except ImportError:
        pass
    venv = pathlib.Path(cache).expanduser() / "bench-venv"
    python = venv / "bin/python"
    if os.environ.get("ONWARD_BENCH_VENV"):
        sys.exit(f"the clients are not in {venv}: remove it and run this again")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        requirements = ROOT / "tests/python/requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    os.environ["ONWARD_BENCH_VENV"] = "1"
    os.execv(python, [str(python), *sys.argv])


def measure(run, runs):
    for _ in range(max(10, runs // 10)):
        run()
    times = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def clients(uri):
    """For each client: its name, and a function that runs SQL to its last row."""
    import adbc_driver_flightsql.dbapi as adbc
    import pyarrow.flight as flight

    sys.path.insert(0, str(ROOT / "tests/python"))
    from flightsql import query

    connection = adbc.connect(uri, autocommit=True)
    cursor = connection.cursor()

    def by_adbc(sql):
        cursor.execute(sql)
        return cursor.fetchall()

    client = flight.connect(uri)
    return [("adbc", by_adbc), ("pyarrow.flight", lambda sql: query(client, sql))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    parser.add_argument("--onward", default=pathlib.Path(target) / "release/onward", help="the binary to measure")
    parser.add_argument("--runs", type=int, default=500, help="runs of each query")
    parser.add_argument("--cache", default="~/.cache/onward", help="where the clients are installed")
    options = parser.parse_args()
    with_clients(options.cache)

    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder)
        subprocess.run([options.onward, "tpch", "gen", "--scale", "0.01", "--out", data], check=True, capture_output=True)
        server = subprocess.Popen(
            [options.onward, "serve", "--listen", "127.0.0.1:0", "--allow-path", data],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            uri = re.search(r"grpc://\S+", server.stdout.readline()).group()
            print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {options.runs} runs")
            print(f"{'query':34}{'client':16}{'p50 ms':>8}{'p99 ms':>8}{'goal':>6}")
            for client, run in clients(uri):
                for table in TABLES:
                    location = next(data.glob(f"{table}*"))
                    run(f"CREATE OR REPLACE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{location}'")
                for name, functions, sql, goal in QUERIES:
                    run(f"SET onward.functions = {functions}")
                    p50, p99 = measure(lambda: run(sql), options.runs)
                    print(f"{name:34}{client:16}{p50:8.2f}{p99:8.2f}{goal:6}")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
