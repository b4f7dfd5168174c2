"""The machine as plans see it: a budget held against a topology, and one for who knows nothing more. Owns nothing."""

from __future__ import annotations

from typing import Any

from corelane.cpu.lists import cpu_list, format_cpus
from corelane.cpu.model import Core, Cpu, Node, Topology

__all__ = ["budget_cpus", "flat"]


def flat(cpus: frozenset[int]) -> Topology:
    """A topology of which nothing but the CPUs is known: each a core of its own, in one package."""
    numbers = tuple(sorted(cpus))
    return Topology(
        cpus=tuple(Cpu(id=cpu, core=at, package=0) for at, cpu in enumerate(numbers)),
        cores=tuple(Core(index=at, package=0, node=0, cpus=(cpu,)) for at, cpu in enumerate(numbers)),
        nodes=(Node(0, numbers),),
        possible=frozenset(numbers),
    )


def budget_cpus(budget: Any, topology: Topology) -> frozenset[int]:
    """The CPUs of a Budget (what has `cpus`), or of any way of writing a set of CPUs.

    Raises:
        TypeError, ValueError: it is none, or has CPUs that are not in the topology.
    """
    cpus = frozenset(cpu_list("budget", getattr(budget, "cpus", budget)))
    strange = cpus - topology.online
    if strange:
        offline = strange & topology.offline
        why = f"CPUs {format_cpus(offline)} are offline" if offline else "the topology does not have them"
        raise ValueError(
            f"budget: CPUs {format_cpus(strange)} cannot be planned for: {why} (online: {format_cpus(topology.online)})"
        )
    return cpus
