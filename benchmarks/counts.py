"""How many CPUs do we have? What others answer to that, and what corelane does, where it matters:

    python benchmarks/counts.py

Each row is a process of its own in a place of its own: as it is; under taskset(1); in a cgroup of version 1 with one
CPU's quota (root, and such a hierarchy); in a container's tree of version 2 with the same quota, made of plain files
(root, unshare(1)); in a step of a private Slurm (its daemons installed). What cannot be asked here is a "-", with the
reason below the table. `loky` and `psutil` are asked if they are installed.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
V2 = "/sys/fs/cgroup"
COLUMNS = ("os.cpu_count", "os.process_cpu_count", "psutil.cpu_affinity", "loky.cpu_count", "corelane")

# Asks everybody; with a tree of files as argument, corelane is asked about that.
ASK = """
import json, os, sys
def loky():
    from loky import cpu_count
    return cpu_count()
def affinity():
    import psutil
    return len(psutil.Process().cpu_affinity())
def corelane():
    from corelane import cpu
    return cpu.budget(sys.argv[1]).count if sys.argv[1:] else cpu.count()
def asked(ask):
    try:
        return ask()
    except (AttributeError, ImportError):
        return None
print(json.dumps([asked(each) for each in (os.cpu_count, lambda: os.process_cpu_count(), affinity, loky, corelane)]))
"""
ASKER = (sys.executable, "-c", ASK)


class Missing(Exception):
    """Why a row cannot be asked."""


def ask(*argv: str) -> list[int | None]:
    """What the columns say, in a process that `argv` starts."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"it ended with {done.returncode}"
        )
    counts: list[int | None] = json.loads(done.stdout)
    return counts


def plain() -> list[int | None]:
    return ask(*ASKER)


def taskset() -> list[int | None]:
    if not shutil.which("taskset"):
        raise Missing("taskset is not installed")
    return ask("taskset", "-c", str(min(os.sched_getaffinity(0))), *ASKER)


@contextlib.contextmanager
def quota_v1() -> Iterator[Path]:
    """A cgroup of version 1 with one CPU's worth of time."""
    group = Path(f"{V2}/cpu/corelane-counts-{os.getpid()}")
    if not (group.parent / "tasks").exists():
        raise Missing(f"no cgroup v1 is mounted at {group.parent}")
    try:
        group.mkdir()
    except OSError as error:
        raise Missing(f"no cgroup can be made in {group.parent} ({error.strerror})") from None
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        (group / "cpu.cfs_period_us").write_text("100000")
        yield group
    finally:
        for _ in range(1000):
            with contextlib.suppress(OSError):
                group.rmdir()
            if not group.exists():
                break


def in_quota_v1() -> list[int | None]:
    with quota_v1() as group:
        return ask("sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "tasks"), *ASKER)


def in_tree_v2() -> list[int | None]:
    """The files of a container are put over /sys/fs/cgroup in a mount namespace, for those who look there; corelane
    looks for what is mounted as a cgroup, and is shown the tree."""
    with tempfile.TemporaryDirectory() as name:
        files = {
            "sys/devices/system/cpu/online": Path("/sys/devices/system/cpu/online").read_text(),
            "proc/self/status": f"Cpus_allowed_list:\t{','.join(map(str, sorted(os.sched_getaffinity(0))))}\n",
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": f"30 23 0:27 / {V2} rw,relatime - cgroup2 cgroup rw\n",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
        }
        for file, text in files.items():
            (Path(name) / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / file).write_text(text)
        script = f'mount --bind "$0/sys/fs/cgroup" {V2} && exec "$@" "$0"'
        return ask("unshare", "--mount", "sh", "-c", script, name, *ASKER)


def in_slurm() -> list[int | None]:
    sys.path.insert(0, str(ROOT / "tests"))
    import slurm

    try:
        with slurm.Slurm() as cluster:
            counts: list[int | None] = json.loads(cluster.srun("-c1", *ASKER))
            return counts
    except slurm.NoSlurm as error:
        raise Missing(str(error).splitlines()[0]) from None


ROWS: dict[str, Callable[[], list[int | None]]] = {
    "plain": plain,
    "taskset -c 0": taskset,
    "cgroup v1, quota 1.0": in_quota_v1,
    "cgroup v2, quota 1.0": in_tree_v2,
    "srun -c1": in_slurm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="what different libraries take for the number of CPUs")
    parser.add_argument("--json", action="store_true", help="the rows as JSON, null for what could not be asked")
    parser.add_argument("--without", action="append", default=[], choices=list(ROWS), help="leave out a row")
    args = parser.parse_args()
    rows: dict[str, list[int | None]] = {}
    notes = []
    for name, row in ROWS.items():
        if name in args.without:
            continue
        try:
            rows[name] = row()
        except Missing as why:
            rows[name] = [None] * len(COLUMNS)
            notes.append(f"{name}: {why}")
    if args.json:
        print(json.dumps({name: dict(zip(COLUMNS, row, strict=True)) for name, row in rows.items()}))
        return
    table = [("", *COLUMNS), *((name, *("-" if n is None else str(n) for n in row)) for name, row in rows.items())]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    table.insert(1, tuple("-" * width for width in widths))
    for line in table:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    print(*notes, sep="\n", end="\n" if notes else "")


if __name__ == "__main__":
    main()
