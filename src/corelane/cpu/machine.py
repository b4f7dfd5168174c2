"""The machine as plans see it when they are not told: its topology, and what of it is ours. Owns nothing."""

from __future__ import annotations

import os
from typing import Any

from corelane.cpu.lists import format_cpus, parse_cpus
from corelane.cpu.model import Core, Cpu, Node, Topology

__all__ = ["budget_cpus", "flat", "live_budget", "live_topology"]


def live_topology(root: str | os.PathLike[str] = "/") -> Topology:
    """This machine's topology, or a fixture's."""
    from corelane.cpu.hardware import topology

    return topology(root)


def live_budget() -> Any:
    """What this process may use."""
    from corelane.cpu.counting import budget

    return budget()


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
    given = getattr(budget, "cpus", budget)
    try:
        cpus = parse_cpus(given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"budget: {error}") from None
    strange = cpus - topology.online
    if strange:
        offline = strange & topology.offline
        why = f"CPUs {format_cpus(offline)} are offline" if offline else "the topology does not have them"
        raise ValueError(
            f"budget: CPUs {format_cpus(strange)} cannot be planned for: {why} (online: {format_cpus(topology.online)})"
        )
    return cpus
