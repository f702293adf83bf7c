"""Two functions that scan the same columns use their memory once.

    python3 benches/cache_memory.py [ONWARD] [SCALE]

Starts a server, runs two queries at once, each in a function of its own, over the same columns of lineitem, and adds up what the kernel
says: RssShmem is what a function has mapped and touched, Pss_Shmem its share of it. Wants a release build.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

ONWARD = sys.argv[1] if len(sys.argv) > 1 else "target/release/onward"
SCALE = sys.argv[2] if len(sys.argv) > 2 else "0.1"
SQL = "select sum(l_quantity), sum(l_extendedprice), sum(l_discount), max(l_comment) from '{}' where l_orderkey > 0"


def functions(directory):
    """Processes of functions whose sockets lie below `directory`."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            line = open(path, "rb").read().decode(errors="replace")
        except OSError:
            continue
        if "\0function\0" in line and directory in line:
            yield path.split("/")[2]


def kib(path, name):
    match = re.search(rf"^{name}:\s+(\d+) kB", open(path).read(), re.MULTILINE)
    return int(match.group(1)) if match else 0


def main():
    onward = os.path.abspath(ONWARD)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([onward, "tpch", "gen", "--scale", SCALE, "--out", directory + "/data"], check=True,
                       stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.mkdir(directory + "/spill")
        environment = {**os.environ, "ONWARD_SPILL_DIR": directory + "/spill", "ONWARD_FUNCTION_IDLE_TIMEOUT_MS": "600000"}
        server = subprocess.Popen([onward, "serve", "--listen", "127.0.0.1:0", "--allow-path", directory],
                                  env=environment, stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"ready on (\S+)", server.stdout.readline()).group(1)
            sql = SQL.format(directory + "/data/lineitem.parquet")
            command = [onward, "sql", "--quiet", "--connect", url, "--functions", "1", "-c", sql]
            while True:
                queries = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
                if any(query.wait() for query in queries):
                    sys.exit("a query failed")
                pids = list(functions(directory))
                touched = [kib(f"/proc/{pid}/status", "RssShmem") for pid in pids]
                # Both must have run a query: the second may have waited for the first one's function.
                if len([rss for rss in touched if rss > 1024]) >= 2:
                    break
            shares = [kib(f"/proc/{pid}/smaps_rollup", "Pss_Shmem") for pid in pids]
            for pid, rss, pss in zip(pids, touched, shares):
                print(f"function {pid}: {rss / 1024:8.1f} MiB of shared memory mapped and touched, {pss / 1024:8.1f} MiB its share")
            print(f"in all: {sum(touched) / 1024:.1f} MiB touched, {sum(shares) / 1024:.1f} MiB used"
                  f" = {sum(shares) / max(touched):.2f}x of one function's")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
