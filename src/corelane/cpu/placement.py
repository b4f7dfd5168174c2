"""Who goes where: a Plan of CPUs for workers, made before anything starts.

`plan` is a pure function of a topology, a budget and a load; what of these it is not given it reads from the machine.
A Plan is a value: it owns nothing, changes nothing, and prints itself. The walks over the machine are in `ordering.py`,
moving what runs already is in `moves.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Any, overload

from corelane._values import integer
from corelane.cpu import counting, hardware
from corelane.cpu.lists import MOST_CPUS, cpu_list, format_cpus, format_mask
from corelane.cpu.machine import budget_cpus
from corelane.cpu.model import Topology
from corelane.cpu.ordering import Domain, cores_of, flatten, forest, heats, least_loaded, pack, pack_cores, spread
from corelane.errors import CpuError

if TYPE_CHECKING:
    from corelane.cpu.moves import Move

__all__ = ["POLICIES", "Place", "Plan", "plan"]

MOST_WORKERS = 1 << 20  # so that a typing error takes no memory
_MOST_NAMED = 64  # workers that a reason names; of more it says how many they are


@dataclass(frozen=True, slots=True)
class Place:
    """Where one worker goes. `node` is the NUMA node of all its CPUs, None if they are of several."""

    worker: int
    cpus: frozenset[int]
    node: int | None
    reason: str


@dataclass(frozen=True)
class Plan(Sequence[frozenset[int]]):
    """CPUs for each worker. `plan[i]` is what `cpus=` of a command takes; printing it gives a table.

    Attributes:
        policy, per: as asked for.
        masks: each worker's CPUs.
        cpus: those that were there to choose from.
        notes: what should be known of the whole.
        topology: what it was made for.
    """

    policy: str
    per: int
    masks: tuple[frozenset[int], ...]
    cpus: frozenset[int]
    notes: tuple[str, ...]
    topology: Topology = field(repr=False)
    load: Mapping[int, float] | None = field(default=None, repr=False, compare=False)
    # The load that the moves which made it were an answer to.
    answered: Mapping[int, float] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.masks)

    @overload
    def __getitem__(self, worker: int) -> frozenset[int]: ...
    @overload
    def __getitem__(self, worker: slice) -> tuple[frozenset[int], ...]: ...
    def __getitem__(self, worker: int | slice) -> frozenset[int] | tuple[frozenset[int], ...]:
        return self.masks[worker] if isinstance(worker, slice) else self._mask(worker)

    def _mask(self, worker: int) -> frozenset[int]:
        try:
            return self.masks[worker]
        except IndexError:
            raise IndexError(f"there is no worker {worker}: the plan is for {len(self)}, from 0 on") from None

    def __iter__(self) -> Iterator[frozenset[int]]:
        return iter(self.masks)

    @cached_property
    def users(self) -> dict[int, tuple[int, ...]]:
        """The workers of each CPU that was there to choose from."""
        found: dict[int, list[int]] = {cpu: [] for cpu in sorted(self.cpus)}
        for worker, mask in enumerate(self.masks):
            for cpu in mask:
                found[cpu].append(worker)
        return {cpu: tuple(workers) for cpu, workers in found.items()}

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The same with the node and the reason of each."""
        return tuple(
            Place(worker, mask, self._node(mask), self._reason(worker, mask)) for worker, mask in enumerate(self.masks)
        )

    def options(self, worker: int) -> dict[str, Any]:
        """Options of a Command for that worker: `cpus`, and with the policy numa-local on a machine of several nodes
        `memory_policy`: memory of the worker's own node as long as there is any."""
        mask = self._mask(worker)
        node = self._memory_node(mask)
        return {"cpus": mask} if node is None else {"cpus": mask, "memory_policy": ("preferred", (node,))}

    def moved(self, moves: Iterable[Move]) -> Plan:
        """The plan after these moves (see `rebalance`). It remembers the load that they were an answer to.

        Raises:
            ValueError: a move is of a worker that is not in the plan, or not on those CPUs.
        """
        masks, answered = list(self.masks), self.answered
        for move in moves:
            if not 0 <= move.worker < len(masks) or masks[move.worker] != move.source:
                raise ValueError(f"{move}: the plan does not have that worker there")
            masks[move.worker] = move.target
            answered = move.load
        return replace(self, masks=tuple(masks), answered=answered)

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON; the keys are described in docs/cpu.md."""
        workers = []
        for place in self.places:
            options = self.options(place.worker)
            memory = options.get("memory_policy")
            workers.append(
                {
                    "worker": place.worker,
                    "cpus": sorted(place.cpus),
                    "list": format_cpus(place.cpus),
                    "mask": format_mask(place.cpus),
                    "node": place.node,
                    "memory_policy": [memory[0], list(memory[1])] if memory else None,
                    "reason": place.reason,
                }
            )
        return {
            "policy": self.policy,
            "per": self.per,
            "cpus": format_cpus(self.cpus),
            "workers": workers,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        head = ("worker", "CPUs", "node", "why")
        rows = [
            (str(place.worker), format_cpus(place.cpus), "-" if place.node is None else str(place.node), place.reason)
            for place in self.places
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(3)]
        count = f"{len(self)} worker{'s' * (len(self) != 1)}"
        each = f"{self.per} CPU{'s' * (self.per != 1)}"
        lines = [f"{count} of {each}, {self.policy}, from CPUs {format_cpus(self.cpus)}"]
        for row in [head, *rows]:
            lines.append(f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    # ---- in words ----

    def _node(self, mask: frozenset[int]) -> int | None:
        nodes = {self.topology.by_id[cpu].node for cpu in mask}
        return nodes.pop() if len(nodes) == 1 else None

    def _memory_node(self, mask: frozenset[int]) -> int | None:
        """Where its memory should come from: the nearest node that has some."""
        node = self._node(mask)
        nodes = {each.id: each for each in self.topology.nodes}
        if self.policy != "numa-local" or len(nodes) < 2 or node not in nodes:
            return None
        own = nodes[node]
        if own.memory or not any(each.memory for each in nodes.values()):
            return node
        far = max(own.distances.values(), default=0) + 1
        return min((own.distances.get(each.id, far), each.id) for each in nodes.values() if each.memory)[1]

    @cached_property
    def _company(self) -> dict[frozenset[int], tuple[list[int] | int, list[int] | int]]:
        """For each mask the workers on its CPUs (its own, too), and the others beside them on its cores: their numbers,
        or how many they are if there are more than one would read. Workers by mask and not one by one: n of them on
        few CPUs all have nearly n others."""
        workers: dict[frozenset[int], list[int]] = {}
        for worker, mask in enumerate(self.masks):
            workers.setdefault(mask, []).append(worker)
        of_cpu: dict[int, list[frozenset[int]]] = {}
        for mask in workers:
            for cpu in mask:
                of_cpu.setdefault(cpu, []).append(mask)

        def named(masks: set[frozenset[int]]) -> list[int] | int:
            count = sum(len(workers[mask]) for mask in masks)
            return count if count > _MOST_NAMED else sorted(worker for mask in masks for worker in workers[mask])

        found = {}
        for mask in workers:
            here = {other for cpu in mask for other in of_cpu[cpu]}
            siblings = {each for cpu in mask for each in self.topology.siblings(cpu)} - mask
            found[mask] = named(here), named({other for cpu in siblings for other in of_cpu.get(cpu, ())} - here)
        return found

    def _reason(self, worker: int, mask: frozenset[int]) -> str:
        topology = self.topology
        cores = {topology.by_id[cpu].core for cpu in mask}
        packages = {topology.by_id[cpu].package for cpu in mask}
        words = [f"core {format_cpus(cores)}" if len(cores) == 1 else f"cores {format_cpus(cores)}"]
        if len(cores) > 1 and mask <= set(topology.neighbours(min(mask))):
            words[0] += " of one cache"
        if topology.packages > 1:
            words.append(f"package{'s' * (len(packages) > 1)} {format_cpus(packages)}")
        if mask <= topology.isolated:
            words.append("isolated")
        if self.policy == "least-loaded" and self.load is not None:
            words.append(f"{sum(self.load.get(cpu, 1.0) for cpu in mask) / len(mask):.0%} busy")
        here, there = self._company[mask]
        others, beside = _without(worker, here), _workers(there)
        if others:
            words.append(f"CPUs shared with {others}")
        siblings = {each for cpu in mask for each in topology.siblings(cpu)} - mask
        if beside:
            words.append(f"cores shared with {beside}")
        elif siblings and self.policy == "exclusive":
            ours = siblings & self.cpus
            if ours:
                words.append(f"CPU{'s' * (len(ours) > 1)} {format_cpus(ours)} beside left idle")
            if siblings - ours:
                words.append(f"beside CPU{'s' * (len(siblings - ours) > 1)} {format_cpus(siblings - ours)}, not ours")
        return ", ".join(words)


def _without(worker: int, workers: list[int] | int) -> str:
    return _workers(workers - 1 if isinstance(workers, int) else [each for each in workers if each != worker])


def _workers(workers: list[int] | int) -> str:
    """In words; "" for nobody."""
    if isinstance(workers, int):
        return f"{workers} others"
    return f"worker{'s' * (len(workers) > 1)} {format_cpus(workers)}" if workers else ""


# ---- making one ------------------------------------------------------------------------------------------------------


def plan(
    n: int,
    policy: str = "compact",
    *,
    per: int = 1,
    avoid: Any = (),
    smt: bool | None = None,
    numa: Any = None,
    topology: Topology | None = None,
    budget: Any = None,
    load: Any = None,
) -> Plan:
    """CPUs for `n` workers.

    The same arguments give the same plan, and a machine that is numbered in another way gets the same one in its own
    numbers: as many CPUs of each core, cache, node and package. Where there are fewer CPUs than are asked for, they are
    shared: of any two CPUs, one has at most one worker more than the other (numa-local: within each node). CPUs that
    the scheduler is kept from (isolcpus=) are used when there are no others; by exclusive they are used first.

    Args:
        n: how many workers.
        policy: "compact" fills core by core, so that neighbours share caches. "spread" goes over packages, then over
            nodes, caches and cores, and takes siblings when all cores are taken; the CPUs of one worker stay together.
            "least-loaded" takes those with least to do, where a busy sibling counts too. "exclusive" gives each worker
            whole cores, of which nobody else gets a CPU. "numa-local" keeps the CPUs of each worker in one node, gives
            nodes workers by their size, and spreads inside.
        per: CPUs for each worker.
        avoid: CPUs to leave out, in any way of writing a set of CPUs.
        smt: whether a worker may have several CPUs of one core: True, it gets them together; None, only if there are
            not enough cores (compact: together); False, one CPU of each core is used, and the others by nobody.
        numa: only CPUs of these NUMA nodes: a number, numbers, or text like "0-1".
        topology: default: this machine's.
        budget: what may be used: a Budget, or a set of CPUs; default: this process's.
        load: for least-loaded: a Load, or a mapping from CPUs to how many tasks want each. Default: that of now, for
            which two samples are taken a tenth of a second apart.

    Raises:
        TypeError, ValueError: an argument is wrong, or leaves fewer CPUs than one worker needs.
        CpuError: there are not enough cores for so many exclusive workers.
    """
    n = integer(1, MOST_WORKERS)("n", n)
    per = integer(1, MOST_CPUS)("per", per)
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
    if smt is not None and not isinstance(smt, bool):
        raise TypeError(f"smt must be True, False or None, not {smt!r}")
    live = budget is None
    budget = counting.budget() if live else budget
    if topology is None:
        topology = hardware.topology()
    if live:
        # A CPU may go offline between the two readings of the machine; a budget that was given is held to what it says.
        cpus = frozenset(getattr(budget, "cpus", budget)) & topology.online
        if not cpus:
            raise ValueError("topology: it has none of this process's CPUs; give budget= with some of its own")
    else:
        cpus = budget_cpus(budget, topology)
    cpus = _allowed(cpus, avoid, numa, topology)
    request = _Request(n, per, smt, cpus, topology, _busyness(load) if policy == "least-loaded" else None)
    groups = _CHOOSE[policy](request)
    masks = {id(group): frozenset(group) for group in {id(group): group for group in groups}.values()}
    return Plan(
        policy=policy,
        per=per,
        masks=tuple(masks[id(group)] for group in groups),
        cpus=request.usable,
        notes=tuple(_notes(request, budget)),
        topology=topology,
        load=request.load,
    )


def _busyness(load: Any) -> dict[int, float]:
    from corelane.cpu.sampler import busyness, load_now

    return busyness(load_now() if load is None else load)


def _allowed(cpus: frozenset[int], avoid: Any, numa: Any, topology: Topology) -> frozenset[int]:
    if avoid is not None and not (hasattr(avoid, "__len__") and len(avoid) == 0):
        avoided = frozenset(cpu_list("avoid", avoid))
        if not cpus - avoided:
            raise ValueError(f"avoid={format_cpus(avoided)} leaves nothing of the CPUs {format_cpus(cpus)}")
        cpus -= avoided
    if numa is not None:
        there = {node.id: frozenset(node.cpus) for node in topology.nodes} or {0: topology.online}
        wanted = frozenset(cpu_list("numa", numa, "node"))
        if absent := format_cpus(wanted - there.keys()):
            raise ValueError(f"numa: there is no node {absent}; nodes of this machine: {format_cpus(there)}")
        local = frozenset(cpu for node in wanted for cpu in there[node])
        if not cpus & local:
            raise ValueError(f"numa={format_cpus(wanted)} leaves nothing of the CPUs {format_cpus(cpus)}")
        cpus &= local
    return cpus


class _Request:
    """What is asked for, and the machine as trees."""

    def __init__(
        self,
        n: int,
        per: int,
        smt: bool | None,
        cpus: frozenset[int],
        topology: Topology,
        load: dict[int, float] | None = None,
    ) -> None:
        self.n, self.per, self.smt, self.cpus, self.topology, self.load = n, per, smt, cpus, topology, load
        self.width = 1 if smt is False else topology.smt
        self.heat = None if load is None else heats(topology, load)
        chosen = self._one_of_each_core() if smt is False else cpus
        # Isolated ones get a tree of their own: they are the last choice.
        isolated = chosen & topology.isolated
        self.trees = forest(topology, (chosen - isolated, isolated), self.heat)
        self.order = [cpu for tree in self.trees for cpu in flatten(tree, self.width)]
        self.usable = frozenset(self.order)
        if per > len(self.order):
            which = "cores" if smt is False else "CPUs"
            raise ValueError(
                f"per={per}: a worker cannot have more {which} than the {len(self.order)} there are "
                f"({format_cpus(self.usable)})"
            )

    def _one_of_each_core(self) -> frozenset[int]:
        by_id, heat, best = self.topology.by_id, self.heat, dict[int, tuple[Any, ...]]()
        for cpu in self.cpus:
            each = by_id[cpu]
            key = (each.isolated, heat[cpu] if heat else 0, -(each.capacity or 0), cpu)
            best[each.core] = min(best.get(each.core, key), key)
        return frozenset(key[-1] for key in best.values())

    @property
    def widths(self) -> range:
        """How many CPUs of each core to try with, one after the other."""
        return range(1, self.width + 1) if self.smt is None else range(self.width, self.width + 1)


def _shared(order: list[int], n: int, per: int) -> list[list[int]]:
    """Masks that go round and round: no CPU has two workers more than another."""
    size = len(order)
    twice = order + order[:per]
    rounds = size // gcd(size, per)  # then it begins again, and with the same lists: many workers take little memory
    once = [twice[at : at + per] for at in ((turn * per) % size for turn in range(min(n, rounds)))]
    return [once[worker % rounds] for worker in range(n)]


def _repeated(groups: list[list[int]], order: list[int], n: int, per: int) -> list[list[int]]:
    """The first `n` groups; if there are not as many, all of them again and again, or what else shares evenly."""
    if n > len(groups) and len(groups) * per < len(order):
        return _shared(order, n, per)
    return [groups[worker % len(groups)] for worker in range(n)]


def _compact(request: _Request) -> list[list[int]]:
    groups = [group for tree in request.trees for group in pack(tree, request.per, request.width)]
    return _repeated(groups, request.order, request.n, request.per)


def _spread(request: _Request) -> list[list[int]]:
    trees = request.trees
    for count in range(1, len(trees) + 1):
        for width in request.widths:
            found = [_far_apart(tree, pack(tree, request.per, width)) for tree in trees[:count]]
            groups = [group for part in found for group in part]
            if len(groups) >= request.n:
                return groups[: request.n]
    return _repeated(groups, request.order, request.n, request.per)


def _far_apart(tree: Domain, groups: list[list[int]]) -> list[list[int]]:
    of = {group[0]: group for group in groups}
    return [of[cpu] for cpu in spread(tree, frozenset(of))]


def _least_loaded(request: _Request) -> list[list[int]]:
    assert request.heat is not None
    cores = [core[: request.width] for tree in request.trees for core in cores_of(tree)]
    wanted = min(request.n * request.per, len(request.order))
    order = least_loaded(cores, request.heat, wanted)
    if request.per == 1 or request.n * request.per > len(order):
        return _shared(order, request.n, request.per)
    # Which CPUs, says the load; who gets which of them, their neighbourhood. The least loaded group comes first.
    turn = {cpu: at for at, cpu in enumerate(order)}
    chosen = forest(request.topology, (order,), turn)[0]
    return sorted(pack(chosen, request.per, request.width), key=lambda group: sorted(turn[cpu] for cpu in group))


def _numa_local(request: _Request) -> list[list[int]]:
    topology, per = request.topology, request.per
    nodes: dict[int, set[int]] = {}
    for cpu in request.cpus:
        nodes.setdefault(topology.by_id[cpu].node, set()).add(cpu)
    parts = {
        node: _Request(1, per, request.smt, frozenset(cpus), topology)
        for node, cpus in nodes.items()
        if len({topology.by_id[cpu].core for cpu in cpus} if request.smt is False else cpus) >= per
    }
    if not parts:
        biggest = max(len(cpus) for cpus in nodes.values())
        raise ValueError(f"per={per}: no NUMA node has so many of the CPUs; the biggest has {biggest}")
    # Workers go to the node that they fill least (the method of D'Hondt, on CPUs).
    heap = [(per / len(part.order), part.trees[0].key, node) for node, part in parts.items()]
    heapq.heapify(heap)
    turns: list[int] = []
    counts = dict.fromkeys(parts, 0)
    while len(turns) < request.n:
        _, key, node = heap[0]
        turns.append(node)
        counts[node] += 1
        heapq.heapreplace(heap, ((counts[node] + 1) * per / len(parts[node].order), key, node))
    places: dict[int, Iterator[list[int]]] = {}
    for node, part in parts.items():
        part.n = counts[node]
        places[node] = iter(_spread(part) if part.n else [])
    return [next(places[node]) for node in turns]


def _exclusive(request: _Request) -> list[list[int]]:
    topology, per, n = request.topology, request.per, request.n
    cpus, isolated = request.cpus, topology.isolated
    # Whole cores: siblings are of one part. Beside a CPU that is not ours somebody else may work: such cores come last.
    parts: tuple[set[int], ...] = (set(), set(), set())
    for cpu in cpus:
        siblings = topology.siblings(cpu)
        parts[2 if not cpus.issuperset(siblings) else 0 if isolated.issuperset(siblings) else 1].add(cpu)
    trees = forest(topology, parts)
    cores = [core for tree in trees for core in cores_of(tree)]
    for width in request.widths:
        units = -(-per // width)
        if all(len(core) >= width for core in cores):
            groups = [group for tree in trees for group in pack_cores(tree, units)]
            if len(groups) >= n:
                return [[cpu for core in group for cpu in core[:width]][:per] for group in groups[:n]]
        masks = _by_size([core[:width] for core in cores], n, per)
        if len(masks) == n:
            return masks
    raise _too_few(request, len(masks), len(cores))


def _by_size(cores: list[tuple[int, ...]], n: int, per: int) -> list[list[int]]:
    """Up to `n` masks of whole cores of different sizes: big ones first, and for what is missing then the smallest that
    will do. (To find the most masks in every case would be bin covering, which is NP-hard.)"""
    sizes: dict[int, list[tuple[int, ...]]] = {}
    for core in reversed(cores):  # so that pop() takes the first
        sizes.setdefault(len(core), []).append(core)
    masks: list[list[int]] = []
    while len(masks) < n:
        mask: list[int] = []
        while len(mask) < per:
            left = [size for size, some in sizes.items() if some]
            if not left:
                return masks
            missing = per - len(mask)
            enough = [size for size in left if size >= missing]
            mask += sizes[min(enough) if enough and max(left) >= missing else max(left)].pop()[:missing]
        masks.append(mask)
    return masks


def _too_few(request: _Request, fit: int, cores: int) -> CpuError:
    topology = request.topology
    message = (
        f"plan: {request.n} exclusive workers of {request.per} CPU{'s' * (request.per != 1)} do not fit: the {cores} "
        f"core{'s' * (cores != 1)} of CPUs {format_cpus(request.cpus)} hold {fit}"
    )
    advice = [f"ask for at most {fit} worker{'s' * (fit != 1)}" if fit else "ask for fewer CPUs for each"]
    if request.smt is False and topology.smt > 1:
        advice.append("allow siblings with smt=None")
    beyond = topology.isolated - request.cpus
    if beyond:
        advice.append(f"give budget= with the isolated CPUs {format_cpus(beyond)}, which are not in it")
    return CpuError(f"{message}; {', or '.join([*advice, 'use spread, which shares'])}")


def _notes(request: _Request, budget: Any) -> Iterator[str]:
    wanted, there = request.n * request.per, len(request.order)
    if wanted > there:
        yield f"{wanted} CPUs are asked for and {there} {'are' if there > 1 else 'is'} there: they are shared"
    quota = getattr(budget, "quota", None)
    if quota is not None and quota < min(wanted, there):
        yield f"a quota allows {quota:g} CPUs' worth of time: more run at once, and are stopped until its next period"


# The one list of policies.
_CHOOSE: dict[str, Any] = {
    "compact": _compact,
    "spread": _spread,
    "least-loaded": _least_loaded,
    "exclusive": _exclusive,
    "numa-local": _numa_local,
}
POLICIES = tuple(_CHOOSE)
