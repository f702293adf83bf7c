#!/usr/bin/env python3
"""Shows that nothing intermediate touches the object store, from outside the engine, in three ways:

    python3 benches/nothing_intermediate.py

1. TPC-H with the tables on a file system that is mounted read-only (needs root; said and left out without).
2. TPC-H with the tables in a bucket of an S3 server: its request log has reads, and no write.
3. TPC-H under strace: every file that a function opens for writing, makes, renames or removes lies in a directory of
   segments or spills.

All with 2 functions and a segment memory so small that exchanges also take the disk tier. It needs
`target/release/onward` (or --onward PATH) and strace, and installs the S3 server of tests/python into --cache. The exit
code is 1 when any of it does not hold.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]
QUERIES = sorted((ROOT / "tpch/queries").glob("q*.sql"))
FUNCTIONS = ["--functions", "2"]
BUCKET = "tables"

# What makes or changes a name or a content, as strace shows it. Descriptors that a function did not open itself came
# from its host: segments, and its socket.
OPENED = re.compile(r'^(\d+) +(open|openat|creat)\((?:AT_FDCWD, )?"([^"]*)", ([A-Z_|]+)')
CHANGED = re.compile(r'^(\d+) +(rename\w*|unlink\w*|mkdir\w*|rmdir|link\w*|symlink\w*|truncate)\([^"]*"([^"]*)"')
# Devices and settings of the process itself.
NO_FILES = ["/dev/null", "/proc/self/oom_score_adj"]
STARTED = re.compile(r'^(\d+) +execve\("[^"]*", \["[^"]*", "([^"]*)"')
SPAWNED = re.compile(r"^(\d+) +(?:<\.\.\. )?(?:clone\d?|v?fork)\b.*= (\d+)$")


def python(cache):
    """An interpreter with the packages of tests/python/requirements.txt."""
    venv = pathlib.Path(cache).expanduser() / "bench-venv"
    requirements = ROOT / "tests/python/requirements.txt"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/python", "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return venv / "bin/python"


def read_only(options, data, work):
    """TPC-H, verified, over a read-only mount."""
    mount = work / "read-only"
    mount.mkdir()
    try:
        subprocess.run(["mount", "--bind", data, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, f"nothing can be mounted here ({error}): run it as root"
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
        try:
            (mount / "probe").touch()
            return False, "the mount can be written"
        except OSError:
            pass
        run = ["tpch", "run", "--scale", str(options.scale), "--data", mount, "--verify", *FUNCTIONS]
        ran = subprocess.run([options.onward, *run], env=environment(work), capture_output=True, text=True)
        if ran.returncode != 0:
            print(ran.stdout, ran.stderr, sep="\n")
        return ran.returncode == 0, f"{len(QUERIES)} queries verified with the tables mounted read-only"
    finally:
        subprocess.run(["umount", mount], check=True)


def environment(work, **more):
    spill = work / "spill"
    spill.mkdir(exist_ok=True)
    limits = {"ONWARD_SEGMENT_DIR": spill, "ONWARD_SPILL_DIR": spill, "ONWARD_SEGMENT_MEMORY_BYTES": "16MiB"}
    return {**os.environ, **{name: str(value) for name, value in {**limits, **more}.items()}}


def script(work, location):
    """A file with all queries over tables of `location`."""
    lines = [f"CREATE EXTERNAL TABLE {t} STORED AS PARQUET LOCATION '{location(t)}';" for t in TABLES]
    path = work / "all.sql"
    path.write_text("\n".join(lines) + "\n" + "\n".join(q.read_text().rstrip().rstrip(";") + ";" for q in QUERIES))
    return path


def rows(options, work, file, environ, before=()):
    command = [*before, options.onward, "sql", "--quiet", "--format", "csv", *FUNCTIONS, "-f", file]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"{file}: {ran.stderr}")
    return sorted(ran.stdout.splitlines())


def bucket(options, data, work):
    """TPC-H over S3: the rows are those of local files, the log has no write."""
    log = work / "requests"
    server = subprocess.Popen(
        [python(options.cache), ROOT / "tests/python/s3_server.py", log, BUCKET],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = server.stdout.readline().strip()
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"}
        environ = environment(work, AWS_ENDPOINT=address, **keys)
        for table in TABLES:
            file = next(data.glob(f"{table}*"))
            copy = f"COPY (SELECT * FROM '{file}') TO 's3://{BUCKET}/{table}.parquet' STORED AS PARQUET"
            subprocess.run([options.onward, "sql", "--quiet", "-c", copy], env=environ, check=True, stdout=subprocess.DEVNULL)
        uploads = len(log.read_text().splitlines())
        found = rows(options, work, script(work, lambda table: f"s3://{BUCKET}/{table}.parquet"), environ)
        requests = log.read_text().splitlines()[uploads:]
        expected = rows(options, work, script(work, lambda table: next(data.glob(f"{table}*"))), environ)
    finally:
        server.communicate()
    methods = collections.Counter(line.split()[0] for line in requests)
    good = found == expected and set(methods) <= {"GET", "HEAD"} and methods["GET"] > 0
    said = ", ".join(f"{count} {method}" for method, count in sorted(methods.items()))
    same = "the rows of local files" if found == expected else "OTHER ROWS than local files"
    return good, f"{len(QUERIES)} queries over S3 gave {same}; requests: {said}"


def traced(options, data, work):
    """TPC-H under strace: what functions write."""
    trace = work / "trace"
    calls = "trace=open,openat,creat,/rename,/unlink,/mkdir,rmdir,/link,/symlink,truncate,execve,clone,clone3,fork,vfork"
    environ = environment(work)
    file = script(work, lambda table: next(data.glob(f"{table}*")))
    # -ff would be a file per process; one file keeps the order in which processes were made.
    rows(options, work, file, environ, ["strace", "-f", "-qq", "-s", "4096", "-e", calls, "-o", trace])
    functions, parents, written, outside = set(), {}, collections.Counter(), set()
    lines = trace.read_text(errors="replace").splitlines()
    for line in lines:
        if (started := STARTED.match(line)) and started[2] == "function":
            functions.add(started[1])
        if spawned := SPAWNED.match(line):
            parents[spawned[2]] = spawned[1]

    def of_function(pid):
        while pid is not None and pid not in functions:
            pid = parents.get(pid)
        return pid is not None

    for line in lines:
        opened, changed = OPENED.match(line), CHANGED.match(line)
        if opened and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", opened[4]) and opened[2] != "creat":
            continue
        call = opened or changed
        if call is None or not of_function(call[1]) or call[3] in NO_FILES:
            continue
        allowed = call[3].startswith(f"{work / 'spill'}/")
        written["in segment and spill directories" if allowed else "elsewhere"] += 1
        if not allowed:
            outside.add(call[3])
    said = ", ".join(f"{count} {place}" for place, count in sorted(written.items())) or "none"
    for path in sorted(outside):
        print(f"   a function wrote {path}")
    good = not outside and len(functions) > 0
    return good, f"{len(QUERIES)} queries traced, {len(functions)} function processes; files they made or changed: {said}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    parser.add_argument("--onward", default=pathlib.Path(target) / "release/onward", help="the binary to watch")
    parser.add_argument("--scale", type=float, default=0.1, help="scale of TPC-H")
    parser.add_argument("--cache", default="~/.cache/onward", help="where the S3 server is installed")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        work, data = pathlib.Path(folder), pathlib.Path(folder) / "data"
        generate = [options.onward, "tpch", "gen", "--scale", str(options.scale), "--out", data]
        subprocess.run(generate, check=True, capture_output=True)
        for check in [read_only, bucket, traced]:
            good, said = check(options, data, work)
            failed |= good is False
            print({True: "yes", False: "NO", None: "left out"}[good], said, sep=": ", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
