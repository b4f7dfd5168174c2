"""The suite of CPUs: affinity, plans, topology and load, beside os and psutil, in small tables.

Owns nothing but the contenders it starts. The ping-pong, which belongs to the same subject, is pingpong.py's.
"""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from corelane.cli.bench.contenders import Available
from corelane.cli.bench.protocol import Contender
from corelane.cli.bench.report import Section, Target
from corelane.cli.bench.spawn import Watch, measure

WORKER = str(Path(__file__).with_name("cpu_worker.py"))
CPUS = 256
"""How many the made-up machine has."""

LOAD_BOUND = 5.0


@dataclass(frozen=True)
class _Plan:
    """One table: its rows as {mode: label}, the first of them the floor, and how many calls make a round."""

    key: str
    title: str
    rows: dict[str, str]
    ours: str
    count: int


PLANS = (
    _Plan(
        "cpu_get",
        "affinity of this process, read",
        {"os_get/1": "os.sched_getaffinity", "corelane_get/1": "corelane get_affinity", "psutil_get/1": "psutil"},
        "corelane_get/1",
        2000,
    ),
    _Plan(
        "cpu_set",
        "affinity of this process, set",
        {"os_set/1": "os.sched_setaffinity", "corelane_set/1": "corelane set_affinity", "psutil_set/1": "psutil"},
        "corelane_set/1",
        1000,
    ),
    _Plan(
        "cpu_topology",
        "topology of this machine",
        {
            "lscpu/1": "lscpu -J, a process",
            "corelane_topology_cold/1": "corelane topology, read anew",
            "psutil_cores/1": "psutil, number of cores only",
        },
        "corelane_topology_cold/1",
        20,
    ),
    # In a table of its own: in as few calls as a process is worth, the look for new CPUs, once a second, would count.
    _Plan(
        "cpu_topology_cached",
        "topology of this machine, asked for again and again",
        {"psutil_cores/1": "psutil, number of cores only", "corelane_topology/1": "corelane topology, cached"},
        "corelane_topology/1",
        5000,
    ),
    _Plan(
        "cpu_plan",
        f"a plan for {CPUS} workers on {CPUS} CPUs (exclusive: {CPUS // 2}), beside setting {CPUS} masks",
        {
            f"os_place/{CPUS}": f"os.sched_setaffinity, {CPUS} times",
            f"psutil_place/{CPUS}": f"psutil, {CPUS} times",
        }
        | {
            f"corelane_plan_{policy}/{CPUS}": f"corelane {policy}"
            for policy in ("compact", "spread", "least-loaded", "exclusive", "numa-local")
        },
        f"corelane_plan_compact/{CPUS}",
        10,
    ),
    _Plan(
        "cpu_load",
        f"load of each of {CPUS} CPUs (made up), one sample",
        {f"psutil_load/{CPUS}": "psutil.cpu_percent(percpu=True)", f"corelane_load/{CPUS}": "corelane load"},
        f"corelane_load/{CPUS}",
        100,
    ),
)


@dataclass(frozen=True)
class CpuEffort:
    """How much is measured: rounds a table, and by what the calls of a round are divided."""

    rounds: int
    less: int


QUICK = CpuEffort(rounds=5, less=10)
FULL = CpuEffort(rounds=15, less=1)


def _contender(mode: str, label: str) -> Contender:
    return Contender(mode, label, (sys.executable, "-P", WORKER), mode, ours=mode.startswith("corelane"))


def _is_there(mode: str) -> bool:
    if mode.startswith("lscpu"):
        return shutil.which("lscpu") is not None
    return not mode.startswith("psutil") or importlib.util.find_spec("psutil") is not None


def sections(available: Available, effort: CpuEffort, watch: Watch) -> list[Section]:
    """The tables, on Linux; elsewhere there is nothing to compare."""
    if sys.platform != "linux":
        available.notices.append(f"the tables of CPUs are skipped: {sys.platform} has no affinity")
        return []
    found = []
    for plan in PLANS:
        for mode in plan.rows:
            if not _is_there(mode):
                available.notices.append(f"{plan.rows[mode]} is skipped: not installed")
        series = measure(
            [_contender(mode, label) for mode, label in plan.rows.items() if _is_there(mode)],
            "-",
            plan.title,
            rounds=effort.rounds,
            count=max(1, plan.count // effort.less),
            warm_up=2,
            watch=watch,
            on_skip=available.notices.append,
        )
        found.append(Section(plan.key, plan.title, next(iter(plan.rows)), plan.ours, series))
    return found


def targets(found: list[Section]) -> list[Target]:
    """What is promised of these tables."""
    load = next((section for section in found if section.key == "cpu_load"), None)
    if load is None:
        return []
    return [Target("psutil.cpu_percent vs load()", LOAD_BOUND, load.ratio(load.floor, load.ours), at_most=False)]
