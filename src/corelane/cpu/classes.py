"""Priority classes: four names for how much a process matters, and what each comes to. Owns nothing.

The table is all there is; each field of what `priority_class` makes of a row can be given instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from corelane._values import flag, integer
from corelane.cpu import hardware, policies
from corelane.cpu.affinity import set_affinity
from corelane.cpu.counting import available
from corelane.cpu.lists import cpu_list, format_cpus, parse_cpus
from corelane.cpu.model import Topology
from corelane.cpu.priority import set_priority
from corelane.cpu.setting import unless_gone
from corelane.errors import CpuRefused

__all__ = ["PRIORITY_CLASSES", "ClassRule", "PriorityClass", "priority_class"]


@dataclass(frozen=True, slots=True)
class ClassRule:
    """One row of the table.

    Attributes:
        cpus: of the budgeted CPUs, "all", "first half", "second half", or the one "least loaded".
        nice: the nice value. io_priority: as the option of a command takes it; None leaves it alone.
        real_time: the policy with real_time=True; None: this class has none.
    """

    cpus: str
    nice: int
    io_priority: tuple[str, int] | None = None
    real_time: tuple[str, int] | None = None


PRIORITY_CLASSES: Mapping[str, ClassRule] = MappingProxyType(
    {
        "critical": ClassRule("all", -10, ("best-effort", 0), ("fifo", 10)),
        "high": ClassRule("first half", -5, ("best-effort", 2), ("fifo", 5)),
        "normal": ClassRule("least loaded", 0),
        "low": ClassRule("second half", 10, ("best-effort", 7)),
    }
)


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """What a class comes to here and now. A field that is None is left as it is."""

    name: str
    cpus: frozenset[int] | None
    nice: int | None
    sched: Any = None
    io_priority: Any = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of a Command, or of `run`."""
        fields = {"cpus": self.cpus, "nice": self.nice, "sched": self.sched, "io_priority": self.io_priority}
        return {name: value for name, value in fields.items() if value is not None}

    def apply(self, pid: int, *, best_effort: bool = False) -> tuple[CpuRefused, ...]:
        """Set it for all threads of a process that runs.

        Args:
            best_effort: what the system refuses (a negative nice without CAP_SYS_NICE) is returned instead of raised,
                and the rest is set.

        Raises:
            CpuRefused: the system refused something; what comes before it in `options` is set. The process is gone.
            NotSupported: the system has no such setting.
        """
        pid = integer(1, 2**31 - 1)("pid", pid)
        options = self.options
        cpus = options.pop("cpus", None)
        refused: tuple[CpuRefused, ...] = ()
        if cpus is not None:
            refused += unless_gone(set_affinity(cpus, pid, best_effort=best_effort))
        return refused + unless_gone(set_priority(pid, **options, best_effort=best_effort))


_AS_THE_CLASS_SAYS: Any = object()


def priority_class(
    name: str,
    *,
    cpus: Any = _AS_THE_CLASS_SAYS,
    nice: int | None = _AS_THE_CLASS_SAYS,
    sched: Any = None,
    io_priority: Any = _AS_THE_CLASS_SAYS,
    real_time: bool = False,
    budget: Any = None,
    load: Any = None,
    topology: Topology | None = None,
) -> PriorityClass:
    """What a priority class comes to.

    The budgeted CPUs are halved between cores where there are several: siblings are in one half. With an odd number the
    first half has one more. On one CPU all classes have that one.

    Args:
        name: "critical", "high", "normal" or "low", see PRIORITY_CLASSES.
        cpus, nice, sched, io_priority: instead of what the class says; as options of a command. None: leave it alone.
        real_time: with the class's real-time policy (critical and high have one). A thread that never sleeps then keeps
            all others off its CPU but for what the kernel reserves (sched_rt_runtime_us).
        budget: the CPUs to share out, or a Budget; default: this process's.
        load: for normal: a Load or a mapping; default: that of now, which takes a tenth of a second.
        topology: what siblings are known from; default: this machine's, if it has all CPUs of the budget.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    if name not in PRIORITY_CLASSES:
        raise ValueError(f"there is no priority class {name!r}; there are {', '.join(PRIORITY_CLASSES)}")
    rule = PRIORITY_CLASSES[name]
    if nice is not _AS_THE_CLASS_SAYS and nice is not None:
        policies.nice("nice", nice)
    if sched is not None:
        policies.scheduler("sched", sched)
    if io_priority is not _AS_THE_CLASS_SAYS and io_priority is not None:
        policies.io_priority("io_priority", io_priority)
    if flag("real_time", real_time):
        if rule.real_time is None:
            known = ", ".join(each for each, row in PRIORITY_CLASSES.items() if row.real_time)
            raise ValueError(f"the class {name} is not for real-time work; those with a policy are {known}")
        if sched is not None:
            raise ValueError(f"sched={sched!r} and real_time=True both name a policy: give either")
        sched = rule.real_time
    if cpus is _AS_THE_CLASS_SAYS:
        cpus = _cpus_of(rule.cpus, budget, load, topology)
    elif cpus is not None:
        cpus = parse_cpus(cpus)
    return PriorityClass(
        name,
        cpus,
        rule.nice if nice is _AS_THE_CLASS_SAYS else nice,
        sched,
        rule.io_priority if io_priority is _AS_THE_CLASS_SAYS else io_priority,
    )


def _cpus_of(rule: str, budget: Any, load: Any, topology: Topology | None) -> frozenset[int]:
    cpus = available() if budget is None else frozenset(cpu_list("budget", getattr(budget, "cpus", budget)))
    if topology is None:
        found = hardware.topology()
        topology = found if cpus <= found.online else None
    elif cpus - topology.online:
        raise ValueError(f"budget: the topology does not have CPUs {format_cpus(cpus - topology.online)}")
    if rule == "all" or len(cpus) == 1:
        return cpus
    if rule == "least loaded":
        return _least_loaded(cpus, load, topology)
    return halves(cpus, topology)[rule != "first half"]


def halves(cpus: frozenset[int], topology: Topology | None) -> tuple[frozenset[int], frozenset[int]]:
    """Two halves, the first with one more if the number is odd; neither is ever empty."""
    order = sorted(cpus)
    if len(order) == 1:
        return cpus, cpus
    if topology is not None:
        from corelane.cpu.ordering import cores_of, forest

        cores = cores_of(forest(topology, (cpus,))[0])
        first: list[int] = []
        for core in cores[:-1]:  # the last one is left for the second half
            if len(first) >= (len(cpus) + 1) // 2:
                break
            first += core
        if first:
            return frozenset(first), cpus - frozenset(first)
    middle = (len(order) + 1) // 2
    return frozenset(order[:middle]), frozenset(order[middle:])


def _least_loaded(cpus: frozenset[int], load: Any, topology: Topology | None) -> frozenset[int]:
    from corelane.cpu.machine import flat
    from corelane.cpu.placement import plan

    return plan(1, "least-loaded", topology=topology or flat(cpus), budget=cpus, load=load)[0]
