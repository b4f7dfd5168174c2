"""In which order a plan takes CPUs: a machine's CPUs as a tree of packages, nodes, caches and cores, and walks over it.

Owns nothing; pure functions of their arguments. Domains are ordered by what they are made of (how much they can do, how
many CPUs, how those are arranged) and only among those made alike by the numbers of their CPUs: so a machine whose CPUs
are numbered in another way gets the same plan in other numbers. That is the canonical form of trees by Aho, Hopcroft
and Ullman (The Design and Analysis of Computer Algorithms, 1974, section 3.2), with sizes in front.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from corelane.cpu.model import Topology

__all__ = [
    "SIBLING_COST",
    "Domain",
    "cores_of",
    "flatten",
    "forest",
    "heats",
    "least_loaded",
    "pack",
    "pack_cores",
    "spread",
]

# What a busy sibling costs: two threads of a core get about 1.2 to 1.3 times the work of one done between them, so each
# runs as if 0.4 of its CPU were taken. Only the order of choices depends on it.
SIBLING_COST = 0.4
_FULL = 1024  # the capacity of the biggest CPU, and of all where the kernel tells none
_TASK = 20  # steps of load
_BESIDE = round(_TASK * SIBLING_COST)
_CORE = 4  # the level of a domain that is one core; 0 is the machine


class Domain(NamedTuple):
    """A part of the machine: `parts` in their order, or a core's `cpus` in theirs."""

    key: tuple[Any, ...]  # what it is made of: equal for those made alike, less for those to be taken first
    first: int  # which of those alike: its lowest CPU, or place
    parts: tuple[Domain, ...]
    cpus: tuple[int, ...]


def _paths(topology: Topology) -> dict[int, tuple[tuple[int, int, int, int], int]]:
    """Each CPU's package, node, last-level cache and core, and its capacity."""
    # Kept with the topology, which does not change either: reading it is half of the cost of a plan.
    kept = vars(topology)
    if "_placement_paths" not in kept:
        kept["_placement_paths"] = {
            cpu.id: ((cpu.package, cpu.node, topology.neighbours(cpu.id)[0], cpu.core), cpu.capacity or _FULL)
            for cpu in topology.cpus
        }
    found: dict[int, tuple[tuple[int, int, int, int], int]] = kept["_placement_paths"]
    return found


def forest(
    topology: Topology, parts: Iterable[Iterable[int]], colours: Mapping[int, Any] | None = None
) -> list[Domain]:
    """CPUs as a tree for each part that has any.

    Args:
        parts: disjoint sets of CPUs.
        colours: what else makes CPUs different, in the order in which it is to be taken.
    """
    sets = [part for part in map(frozenset, parts) if part]
    if len(sets) < 2:
        return [_Builder(topology, colours).tree(part) for part in sets]
    # Two domains that are alike within their part may differ in what of them is in the other parts: so between equals
    # decides the order of the whole tree, the same in all parts.
    number = {cpu: (at, colours and colours[cpu]) for at, part in enumerate(sets) for cpu in part}
    order = flatten(_Builder(topology, number).tree(number), len(number))
    places = {cpu: at for at, cpu in enumerate(order)}
    return [_Builder(topology, colours, places).tree(part) for part in sets]


class _Builder:
    """Makes trees; `places` decides between domains that are alike, else CPUs' numbers do."""

    def __init__(
        self, topology: Topology, colours: Mapping[int, Any] | None, places: Mapping[int, int] | None = None
    ) -> None:
        self.paths, self.colours, self.places = _paths(topology), colours, places
        # Equal keys become one object: then most comparisons of the trees above end at once.
        self.known: dict[Any, Any] = {}

    def tree(self, cpus: Iterable[int]) -> Domain:
        tree: dict[int, Any] = {}
        for cpu in cpus:
            (package, node, cache, core), capacity = self.paths[cpu]
            level = tree.setdefault(package, {}).setdefault(node, {}).setdefault(cache, {})
            place = self.places[cpu] if self.places else cpu
            level.setdefault(core, []).append((-capacity, self.colours and self.colours[cpu], place, cpu))
        return self._made(tree, 0)

    def _made(self, tree: Any, level: int) -> Domain:
        if level == _CORE:
            tree.sort()
            key = (sum([each[0] for each in tree]), -len(tree), level, tuple([each[:2] for each in tree]))
            cpus = tuple([each[3] for each in tree])
            return Domain(self.known.setdefault(key, key), min([each[2] for each in tree]), (), cpus)
        parts = [self._made(part, level + 1) for part in tree.values()]
        if len(parts) == 1:
            return parts[0]
        parts.sort(key=lambda part: part[:2])
        keys = tuple([part.key for part in parts])
        key = (sum([each[0] for each in keys]), sum([each[1] for each in keys]), level, keys)
        return Domain(self.known.setdefault(key, key), min([part.first for part in parts]), tuple(parts), ())


def cores_of(domain: Domain) -> list[tuple[int, ...]]:
    """The CPUs of each core, neighbours beside each other."""
    if not domain.parts:
        return [domain.cpus]
    return [core for part in domain.parts for core in cores_of(part)]


def flatten(domain: Domain, width: int) -> list[int]:
    """Its CPUs, core by core, at most `width` of each."""
    return [cpu for core in cores_of(domain) for cpu in core[:width]]


def pack(domain: Domain, per: int, width: int) -> list[list[int]]:
    """As many groups of `per` CPUs as there can be, each in the smallest domain possible.

    A domain makes groups of what its parts have left over, and leaves the rest to what it is a part of; so the order is
    that of the tree, with those that span two parts behind those inside.
    """
    groups: list[list[int]] = []
    if per == 1:
        return [[cpu] for cpu in flatten(domain, width)]

    def visit(domain: Domain) -> list[int]:
        left = [cpu for part in domain.parts for cpu in visit(part)] if domain.parts else list(domain.cpus[:width])
        whole = len(left) // per * per
        groups.extend(left[at : at + per] for at in range(0, whole, per))
        return left[whole:]

    visit(domain)
    return groups


def pack_cores(domain: Domain, per: int) -> list[list[tuple[int, ...]]]:
    """The same of whole cores: groups of `per` cores."""
    groups: list[list[tuple[int, ...]]] = []

    def visit(domain: Domain) -> list[tuple[int, ...]]:
        left = [core for part in domain.parts for core in visit(part)] if domain.parts else [domain.cpus]
        whole = len(left) // per * per
        groups.extend(left[at : at + per] for at in range(0, whole, per))
        return left[whole:]

    visit(domain)
    return groups


def spread(domain: Domain, wanted: frozenset[int] | None = None) -> list[int]:
    """Its CPUs so that those at the beginning are as far from each other as can be: over packages, then over the nodes,
    caches and cores of each, and siblings only after all cores.

    Args:
        wanted: leave out all others.
    """

    def visit(domain: Domain) -> list[tuple[int, int]]:
        if not domain.parts:
            cpus = domain.cpus if wanted is None else [cpu for cpu in domain.cpus if cpu in wanted]
            return list(enumerate(cpus))
        # The k-th of each part before the (k+1)-th of any: whoever has few takes part while they last.
        merged = [
            (rank, turn, number, cpu)
            for number, part in enumerate(domain.parts)
            for turn, (rank, cpu) in enumerate(visit(part))
        ]
        merged.sort()
        return [(rank, cpu) for rank, _, _, cpu in merged]

    return [cpu for _, cpu in visit(domain)]


def heats(topology: Topology, load: Mapping[int, float]) -> dict[int, tuple[int, int]]:
    """What there is to do on each CPU and what its siblings' work costs it, in twentieths of a task: less is noise,
    which should not tear neighbours apart. A CPU that the load does not know counts as busy."""
    heat = {cpu.id: round(load.get(cpu.id, 1.0) * _TASK) for cpu in topology.cpus}
    return {
        cpu: (own, sum([heat[each] * _BESIDE // _TASK for each in topology.siblings(cpu) if each != cpu]))
        for cpu, own in heat.items()
    }


def least_loaded(cores: Iterable[tuple[int, ...]], heat: Mapping[int, tuple[int, int]], count: int) -> list[int]:
    """`count` different CPUs, always the one with least to do next, where one that was taken has a task more.

    Args:
        cores: the CPUs to take from by core, in the order that decides between equals.
        heat: see `heats`.
    """
    place = {cpu: number for number, cpu in enumerate(cpu for core in cores for cpu in core)}
    now = {cpu: sum(heat[cpu]) for cpu in place}
    heap = [(now[cpu], at, cpu) for cpu, at in place.items()]
    heapq.heapify(heap)
    core_of = {cpu: core for core in cores for cpu in core}
    taken: list[int] = []
    while len(taken) < count:
        found, at, cpu = heapq.heappop(heap)
        if found < now[cpu]:  # a sibling was taken since
            heapq.heappush(heap, (now[cpu], at, cpu))
            continue
        taken.append(cpu)
        for each in core_of[cpu]:
            now[each] += _BESIDE
    return taken
