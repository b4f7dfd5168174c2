"""The contenders of the subject `cpu`, in a process of their own: the protocol is worker.py's, the modes are NAME/N.

Started as a file (`python -P cpu_worker.py`). What a contender needs is prepared at its first, unmeasured call. Owns
the tree of a made-up /proc/stat, which goes with the process.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], object]


def _stat_text(cpus: int) -> str:
    """A /proc/stat of so many CPUs that have all been up for a while, with its other lines."""
    times = "4705 150 1120 16250 520 30 45 12 0 0"
    rows = "".join(f"cpu{number} {times}\n" for number in range(cpus))
    return f"cpu  {times}\n{rows}intr 114930548 {'0 ' * 900}\nctxt 1990473\nbtime 1062191376\nprocs_running 1\n"


@functools.cache
def _fixture(cpus: int) -> str:
    root = tempfile.mkdtemp(prefix="corelane-bench-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    os.mkdir(os.path.join(root, "proc"))
    Path(root, "proc", "stat").write_text(_stat_text(cpus))
    # What load() reads besides, which psutil does not: it shall not be spared that.
    domains = "".join(f"domain{level} {'f' * (cpus // 4 or 1)} {'1203 ' * 36}\n" for level in range(3))
    queues = "".join(f"cpu{number} 0 0 0 0 0 0 12345678901 2345678901 123456\n{domains}" for number in range(cpus))
    Path(root, "proc", "schedstat").write_text(f"version 15\ntimestamp 4296061361\n{queues}")
    Path(root, "proc", "loadavg").write_text("0.20 0.18 0.12 1/80 11206\n")
    os.mkdir(os.path.join(root, "proc", "pressure"))
    Path(root, "proc", "pressure", "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n")
    return root


def _made_up(cpus: int) -> Any:
    """A topology of two packages, cores of two CPUs, and a last-level cache for each eight cores."""
    cpu = _cpu()
    size = max(2, cpus // 2)
    nodes = [tuple(range(first, min(first + size, cpus))) for first in range(0, cpus, size)]
    cores = [
        cpu.Core(index, pair[0] // size, pair[0] // size, pair)
        for index, pair in enumerate(tuple(range(one, min(one + 2, cpus))) for one in range(0, cpus, 2))
    ]
    caches = [
        cpu.Cache(3, "unified", 32 << 20, tuple(range(first, min(first + 16, cpus)))) for first in range(0, cpus, 16)
    ]
    return cpu.Topology(
        cpus=tuple(cpu.Cpu(one, one // 2, one // size, one // size) for one in range(cpus)),
        cores=tuple(cores),
        caches=tuple(caches),
        nodes=tuple(cpu.Node(index, members, 64 << 30) for index, members in enumerate(nodes)),
        possible=frozenset(range(cpus)),
    )


def _cpu() -> Any:
    return importlib.import_module("corelane.cpu")


def _our_get(_: int) -> Call:
    get: Call = _cpu().get_affinity
    return get


def _our_set(_: int) -> Call:
    return functools.partial(_cpu().set_affinity, _cpu().get_affinity())


def _os_set(_: int) -> Call:
    return functools.partial(os.sched_setaffinity, 0, os.sched_getaffinity(0))


def _psutil_get(_: int) -> Call:
    import psutil

    return psutil.Process().cpu_affinity


def _psutil_set(_: int) -> Call:
    import psutil

    process = psutil.Process()
    return functools.partial(process.cpu_affinity, process.cpu_affinity())


def _again(make: Callable[[int], Call], times: int) -> Call:
    """What it takes to set the masks of so many workers, each with a call of its own."""
    call = make(1)
    return lambda: [call() for _ in range(times)]


def _our_plan(policy: str, cpus: int) -> Call:
    topology = _made_up(cpus)
    options = {"topology": topology, "budget": topology.online, "load": dict.fromkeys(topology.online, 0.25)}
    workers = cpus // 2 if policy == "exclusive" else cpus  # a core each
    return functools.partial(_cpu().plan, workers, policy, **options)


def _our_topology(fresh: bool, _: int) -> Call:
    return functools.partial(_cpu().topology, refresh=fresh)


def _psutil_cores(_: int) -> Call:
    import psutil

    return functools.partial(psutil.cpu_count, logical=False)


def _lscpu(_: int) -> Call:
    import subprocess

    return lambda: json.loads(subprocess.run(["lscpu", "-J"], check=True, capture_output=True).stdout)


def _our_load(cpus: int) -> Call:
    sample: Call = _cpu().LoadSampler(_fixture(cpus)).sample
    return sample


def _psutil_load(cpus: int) -> Call:
    import psutil

    psutil.PROCFS_PATH = os.path.join(_fixture(cpus), "proc")
    return functools.partial(psutil.cpu_percent, percpu=True)


MODES: dict[str, Callable[[int], Call]] = {
    "corelane_get": _our_get,
    "os_get": lambda _: functools.partial(os.sched_getaffinity, 0),
    "psutil_get": _psutil_get,
    "corelane_set": _our_set,
    "os_set": _os_set,
    "psutil_set": _psutil_set,
    **{
        f"corelane_plan_{policy}": functools.partial(_our_plan, policy)
        for policy in ("compact", "spread", "least-loaded", "exclusive", "numa-local")
    },
    "os_place": functools.partial(_again, _os_set),
    "psutil_place": functools.partial(_again, _psutil_set),
    "corelane_topology_cold": functools.partial(_our_topology, True),
    "corelane_topology": functools.partial(_our_topology, False),
    "psutil_cores": _psutil_cores,
    "lscpu": _lscpu,
    "corelane_load": _our_load,
    "psutil_load": _psutil_load,
}
"""What can be called, by a number: of CPUs, where that means something."""

prepared = functools.cache(lambda kind, number: MODES[kind](number))


def _many(kind: str, number: int, count: int, program: str) -> None:
    call = prepared(kind, number)
    for _ in range(count):
        call()


def main() -> None:
    """Serves worker.py's commands with these modes besides."""
    spec = importlib.util.spec_from_file_location("worker", Path(__file__).with_name("worker.py"))
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    sys.modules["worker"] = worker
    spec.loader.exec_module(worker)
    worker.MANY.update({kind: functools.partial(_many, kind) for kind in MODES})
    worker.main()


if __name__ == "__main__":
    main()
