#!/usr/bin/env python3
"""Run a command and all its children within a limit of memory, and say how much they needed.

    benches/limit_memory.py 8GiB target/release/onward tpch run --scale 10 --functions 2 --verify

With a writable memory cgroup (version 2 or 1, as root) the kernel enforces the limit: anonymous memory, shared memory
and page cache count, and the peak is the kernel's. Otherwise the command runs without enforcement, its whole process
tree is sampled (proportional set size, so that shared segments count once), and a peak past the limit is a failure.
The limit is also told to Onward (ONWARD_MEMORY_BYTES, unless it is set), as it would find it in a container.
"""

import os
import pathlib
import re
import subprocess
import sys
import time

UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
SAMPLE_SECONDS = 0.2


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMG]iB)?", text, re.IGNORECASE)
    if match is None:
        sys.exit(f"`{text}` is not a size such as 8GiB")
    return int(match[1]) * UNITS[(match[2] or "").upper()]


class Cgroup:
    """A memory cgroup of its own for the command; `open` gives None where none can be made."""

    def __init__(self, directory: pathlib.Path, limit: str, peak: str):
        self.directory, self.limit, self.peak_file = directory, limit, peak

    @classmethod
    def open(cls, limit_bytes: int):
        name = f"onward-bench-{os.getpid()}"
        for root, limit, peak in [
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        ]:
            group = cls(pathlib.Path(root) / name, limit, peak)
            try:
                group.directory.mkdir()
            except OSError:
                continue
            try:
                if (group.directory / limit).exists():  # a directory elsewhere is no cgroup
                    (group.directory / limit).write_text(str(limit_bytes))
                    return group
            except OSError:
                pass
            group.directory.rmdir()
        return None

    def enter(self):
        (self.directory / "cgroup.procs").write_text(str(os.getpid()))

    def read(self, name: str) -> str:
        try:
            return (self.directory / name).read_text()
        except OSError:
            return ""

    def killed(self) -> int:
        text = self.read("memory.events") + self.read("memory.oom_control")
        return sum(int(count) for count in re.findall(r"^oom_kill (\d+)", text, re.MULTILINE))

    def close(self):
        for _ in range(50):  # processes that are just ending keep the group busy
            try:
                return self.directory.rmdir()
            except OSError:
                time.sleep(0.1)


def tree_pss_bytes(root: int) -> int:
    """Proportional set size of a process and its descendants."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            pass
    tree, total = {root}, 0
    while grown := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    for pid in tree:
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(size) << 10 for size in re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE))
    return total


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    limit, command = parse_size(sys.argv[1]), sys.argv[2:]
    environment = {"ONWARD_MEMORY_BYTES": str(limit), **os.environ}
    group = Cgroup.open(limit)
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, preexec_fn=group.enter if group else None)
    sampled = 0
    while process.poll() is None:
        sampled = max(sampled, tree_pss_bytes(process.pid))
        time.sleep(SAMPLE_SECONDS)
    elapsed, code = time.monotonic() - start, process.returncode
    print(f"{elapsed:.1f} s, exit code {code}, peak PSS of all processes {sampled / 2**20:.0f} MiB (sampled)")
    if group is None:
        print(f"no writable memory cgroup: the limit of {limit / 2**20:.0f} MiB was not enforced")
        return code or int(sampled > limit)
    peak, killed = int(group.read(group.peak_file) or 0), group.killed()
    group.close()
    print(f"limit {limit / 2**20:.0f} MiB enforced by a cgroup, its peak {peak / 2**20:.0f} MiB with page cache, killed {killed}")
    return code or int(killed > 0)


if __name__ == "__main__":
    sys.exit(main())
