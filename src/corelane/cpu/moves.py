"""Moving what runs already: which workers would gain by going elsewhere, and setting their CPUs when told to.

Owns nothing. `rebalance` and `propose` change nothing; `apply_moves` does.

What keeps workers from being sent to and fro: a worker moves only off a CPU that is crowded (`threshold`), and only for
a gain above `margin`, reckoned without the worker's own share: what it does, it will do there too. So one that fills a
CPU by itself stays. Each move takes at least twice its share times the margin off the sum of squares of what CPUs have
to do (siblings' products counted by their cost), which cannot fall for ever: the search ends, and where it ends no
further move is worth it. That is the potential argument for load balancing games (Rosenthal, 1973), with a margin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corelane._values import integer
from corelane.cpu.affinity import set_affinity
from corelane.cpu.lists import format_cpus
from corelane.cpu.model import Topology
from corelane.cpu.ordering import SIBLING_COST
from corelane.cpu.placement import Plan
from corelane.cpu.sampler import busyness
from corelane.cpu.setting import unless_gone
from corelane.errors import CpuRefused

__all__ = ["MARGIN", "THRESHOLD", "Move", "apply_moves", "check_limits", "propose", "rebalance"]

THRESHOLD = 0.8  # tasks that want a CPU, from which on it is crowded
MARGIN = 0.25  # tasks fewer there must be elsewhere
_IDLE = 0.01  # a worker that does less gains nothing anywhere


@dataclass(frozen=True, slots=True)
class Move:
    """One worker (its index in the plan; in an AffinityManager its pid) from some CPUs to others. `gain` is by how many
    tasks fewer want the CPU that it leaves for another."""

    worker: int
    source: frozenset[int]
    target: frozenset[int]
    gain: float
    load: Mapping[int, float] = field(repr=False, compare=False)

    def __str__(self) -> str:
        there = f"CPUs {format_cpus(self.source)} -> {format_cpus(self.target)}"
        return f"worker {self.worker}: {there} (gains {self.gain:.2f})"


def rebalance(
    plan: Plan,
    load: Any,
    *,
    threshold: float = THRESHOLD,
    margin: float = MARGIN,
    usage: Sequence[float] | Mapping[int, float] | None = None,
) -> list[Move]:
    """Which workers of a plan would gain by other CPUs. Nothing is moved: see `apply_moves`, and `Plan.moved`.

    The plan's own rules hold: only CPUs that were there to choose from; exclusive ones share no core; numa-local ones
    stay in their node.

    Args:
        load: a Load, or a mapping from CPUs to how many tasks want each; the workers' own work is in it.
        threshold: how many tasks must want a CPU before anybody leaves it.
        margin: how many fewer must want the other one.
        usage: CPUs' worth of work of each worker, by its index. Default: workers of a CPU share what it does evenly, at
            most one CPU's worth each, so that of a CPU's only worker all is taken to be its own, unless others wait.

    Returns:
        The moves, one for each worker at most. None for a load that was answered by the moves that made this plan: it
        was measured before them.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    heat = busyness(load)
    check_limits(threshold, margin)
    if plan.answered is not None and plan.answered == heat:
        return []
    workers = dict(enumerate(plan))
    return propose(
        workers,
        None if usage is None else _usage(usage, workers),
        heat,
        plan.cpus,
        plan.topology,
        threshold=threshold,
        margin=margin,
        exclusive=plan.policy == "exclusive",
        local=plan.policy == "numa-local",
    )


def check_limits(threshold: float, margin: float) -> None:
    """Of `rebalance` and of an AffinityManager: TypeError or ValueError unless they are numbers of tasks."""
    for name, value in (("threshold", threshold), ("margin", margin)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number of tasks like 0.8, not {value!r}")
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be at least 0 tasks, not {value}")
    if not margin:
        raise ValueError("margin must be above 0: without one, workers would go to and fro between equals")


def _usage(usage: Any, workers: Mapping[int, frozenset[int]]) -> dict[int, float]:
    given = dict(usage) if isinstance(usage, Mapping) else dict(enumerate(usage))
    for worker in workers:
        if not 0 <= given.get(worker, -1) < float("inf"):
            raise ValueError(f"usage must have a number from 0 for each of {len(workers)} workers; see {worker}")
    return {worker: float(given[worker]) for worker in workers}


def propose(
    workers: Mapping[int, frozenset[int]],
    usage: Mapping[int, float] | None,
    heat: Mapping[int, float],
    allowed: frozenset[int],
    topology: Topology,
    *,
    threshold: float,
    margin: float,
    exclusive: bool = False,
    local: bool = False,
) -> list[Move]:
    """`rebalance`, of workers under any number and with their usage known."""
    machine = _Machine(topology, heat, allowed)
    masks = {worker: [machine.at[cpu] for cpu in sorted(mask)] for worker, mask in workers.items()}
    for mask in masks.values():
        machine.users[mask] += 1
    # What each worker does on each of its CPUs; with a move it goes along.
    shares = {
        worker: [
            usage[worker] / len(mask) if usage is not None else min(1.0, machine.heat[at] / machine.users[at])
            for at in mask
        ]
        for worker, mask in masks.items()
    }
    gains: dict[int, float] = {}
    changed = True
    while changed:
        changed = False
        for worker in sorted(masks, key=lambda worker: (-max(machine.cost[masks[worker]]), worker)):
            mask = masks[worker]
            turn = max(range(len(mask)), key=lambda turn: (machine.cost[mask[turn]], -turn))
            share = shares[worker][turn]
            if share < _IDLE or machine.cost[mask[turn]] < threshold:
                continue
            found = machine.better(mask, turn, share, exclusive, local)
            if found is None or found[1] <= margin:
                continue
            machine.move(mask[turn], found[0], share)
            gains[worker] = gains.get(worker, 0.0) + found[1]
            mask[turn] = found[0]
            changed = True
    targets = {worker: frozenset(machine.cpus[at] for at in masks[worker]) for worker in gains}
    return [
        Move(worker, workers[worker], target, gains[worker], heat)
        for worker, target in sorted(targets.items())
        if target != workers[worker]
    ]


class _Machine:
    """All CPUs as arrays: how many tasks want each, and what that costs with its siblings'."""

    def __init__(self, topology: Topology, heat: Mapping[int, float], allowed: frozenset[int]) -> None:
        self.cpus = [cpu.id for cpu in topology.cpus]
        self.at = {cpu: at for at, cpu in enumerate(self.cpus)}
        self.allowed = np.array([cpu in allowed for cpu in self.cpus])
        # What the load does not know is not a place to go to.
        self.heat = np.array([heat.get(cpu, 1.0) for cpu in self.cpus])
        self.users = np.zeros(len(self.cpus), dtype=np.int64)
        self.core = np.array([cpu.core for cpu in topology.cpus])
        self.near = [
            np.array([topology.neighbours(cpu)[0] for cpu in self.cpus]),
            np.array([cpu.node for cpu in topology.cpus]),
            np.array([cpu.package for cpu in topology.cpus]),
        ]
        self.node = self.near[1]
        of_core = np.zeros(int(self.core.max()) + 1)
        np.add.at(of_core, self.core, self.heat)
        self.cost = self.heat + SIBLING_COST * (of_core[self.core] - self.heat)

    def _add(self, at: int, share: float) -> None:
        self.cost[self.core == self.core[at]] += SIBLING_COST * share
        self.cost[at] += (1 - SIBLING_COST) * share

    def better(
        self, mask: list[int], turn: int, share: float, exclusive: bool, local: bool
    ) -> tuple[int, float] | None:
        """The best CPU instead of one of a worker's, and what that gains."""
        here = mask[turn]
        open_to = self.allowed.copy()
        open_to[mask] = False
        if local:
            open_to &= self.node == self.node[here]
        if exclusive:
            used = self.users.copy()
            used[mask] -= 1
            taken = np.unique(self.core[used > 0])
            open_to &= ~np.isin(self.core, taken)
        if not open_to.any():
            return None
        self._add(here, -share)
        # Between equals the one of fewest workers, who may only be resting; then the nearest, where caches are warm.
        far = sum((level != level[here]).astype(np.float64) for level in self.near)
        choice = int(np.argmin(np.where(open_to, self.cost + 1e-4 * self.users + 1e-6 * far, np.inf)))
        gain = float(self.cost[here] - self.cost[choice])
        self._add(here, share)
        return choice, gain

    def move(self, source: int, target: int, share: float) -> None:
        self._add(source, -share)
        self._add(target, share)
        self.users[source] -= 1
        self.users[target] += 1


def apply_moves(
    moves: Iterable[Move], pids: Sequence[int] | Mapping[int, int], *, best_effort: bool = False
) -> tuple[CpuRefused, ...]:
    """Set the CPUs of the processes that are a plan's workers, all their threads.

    Args:
        pids: the process of each worker, by its index. They must not have been reaped: whoever got such a number since
            would be moved (an AffinityManager looks after that).
        best_effort: return what the system refused instead of raising it.

    Raises:
        TypeError, ValueError: there is no pid for a worker, or it is none; nothing has been moved then.
        CpuRefused: the system refused one; those before it are moved.
    """
    moves = list(moves)
    given = dict(pids) if isinstance(pids, Mapping) else dict(enumerate(pids))
    parse = integer(1, 2**31 - 1)
    for move in moves:
        if move.worker not in given:
            raise ValueError(f"pids has no process for worker {move.worker}")
        parse(f"pids[{move.worker}]", given[move.worker])
    refused: tuple[CpuRefused, ...] = ()
    for move in moves:
        refused += unless_gone(set_affinity(move.target, given[move.worker], best_effort=best_effort))
    return refused
