"""DuckDB as one side of a comparison: reads JSON lines {"sql": ...} and answers each with {"ms": ..., "rows": ...}.

    python3 benches/duckdb_side.py DIR parquet|own [THREADS]

DIR has the TPC-H tables as Parquet. `parquet` reads them in place, `own` loads them into a file of DuckDB's own format first, in the
directory for temporary files. DuckDB's memory limit is a sixth of the machine's. Makes a virtual environment with DuckDB below
~/.cache/onward when there is none.
"""

import glob
import json
import os
import subprocess
import sys
import tempfile
import time
import venv

TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]


def inside_venv():
    """Runs this script again where DuckDB is installed."""
    home = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "onward", "duckdb-venv")
    python = os.path.join(home, "bin", "python")
    if not os.path.exists(python):
        venv.create(home, with_pip=True)
    if subprocess.run([python, "-c", "import duckdb"], stderr=subprocess.DEVNULL).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "duckdb"], check=True, stdout=sys.stderr)
    os.execv(python, [python, *sys.argv])


def main():
    try:
        import duckdb
    except ImportError:
        inside_venv()
    directory, kind = sys.argv[1:3]
    # It runs beside other engines that keep state.
    home = tempfile.TemporaryDirectory()
    connection = duckdb.connect(os.path.join(home.name, "tables.duckdb") if kind == "own" else ":memory:")
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 6
    connection.execute(f"SET memory_limit = '{memory_bytes >> 20}MiB'")
    connection.execute(f"SET temp_directory = '{home.name}/spill'")
    if len(sys.argv) > 3:
        connection.execute(f"SET threads = {int(sys.argv[3])}")
    for table in TABLES:
        files = sorted(glob.glob(os.path.join(directory, f"{table}.parquet"))
                       + glob.glob(os.path.join(directory, table, "*.parquet")))
        what = "VIEW" if kind == "parquet" else "TABLE"
        connection.execute(f"CREATE {what} {table} AS SELECT * FROM read_parquet({files!r})")
    print(json.dumps({"ready": duckdb.__version__}), flush=True)
    for line in sys.stdin:
        sql = json.loads(line)["sql"]
        start = time.perf_counter()
        rows = 0
        for statement in duckdb.extract_statements(sql):
            result = connection.execute(statement)
            rows = len(result.fetchall()) if result.description else 0
        print(json.dumps({"ms": (time.perf_counter() - start) * 1e3, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
