"""What a machine is made of, as values: CPUs, cores, caches, NUMA nodes. Read from the system in `hardware.py`; built
by hand in tests of what only reasons about them (placement)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from corelane.cpu.lists import format_cpus

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["Cache", "Core", "Cpu", "Node", "Topology"]


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical CPU: what the scheduler places a thread on.

    `id` is the kernel's number. `core`, `package` and `node` are indexes into the topology's own lists or numbers of
    nodes, see there; `die` counts within its package. `capacity` is its share of the machine's biggest CPU in 1024ths
    (big/little), None if not told. `cluster` is a group of cores below a die that share something (tags of a cache, a
    bus), counted over the machine; None where there is none. `kind` is "performance" or "efficiency" on machines that
    have both and say so.
    """

    id: int
    core: int
    package: int
    node: int = 0
    die: int = 0
    capacity: int | None = None
    max_khz: int | None = None
    isolated: bool = False
    nohz_full: bool = False
    cluster: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core and the CPUs (SMT siblings) that share it."""

    index: int
    package: int
    node: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache and the CPUs that share it. `kind`: "data", "instruction" or "unified". `size` and `line` in bytes, 0
    if not told. `id` is the kernel's number of it among those of its level and kind, which may have holes."""

    level: int
    kind: str
    size: int
    cpus: tuple[int, ...]
    line: int = 0
    ways: int = 0
    id: int | None = None

    @property
    def name(self) -> str:
        """As lscpu(1) names it: "L1d", "L1i", "L2"."""
        return f"L{self.level}" + {"data": "d", "instruction": "i"}.get(self.kind, "")


@dataclass(frozen=True, slots=True)
class Node:
    """One NUMA node. `memory` in bytes; `distances` maps each node's number to its distance (10: itself), and is
    empty on a system without NUMA, where all is node 0. `cpus` can be empty: memory alone."""

    id: int
    cpus: tuple[int, ...]
    memory: int = 0
    distances: dict[int, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Topology:
    """A machine. `cpus` are those online, by number; `cores` by their lowest CPU, whose `index` is their place in the
    list; `caches` by level, kind and lowest CPU; `nodes` by number; packages are numbered from 0 in order of their
    lowest CPU. `offline` CPUs are present but take no work, `possible` is how far the kernel's numbers may go."""

    cpus: tuple[Cpu, ...]
    cores: tuple[Core, ...]
    caches: tuple[Cache, ...] = ()
    nodes: tuple[Node, ...] = ()
    offline: frozenset[int] = frozenset()
    possible: frozenset[int] = frozenset()
    model: str = ""

    @cached_property
    def by_id(self) -> dict[int, Cpu]:
        """Each online CPU by its number."""
        return {cpu.id: cpu for cpu in self.cpus}

    @property
    def online(self) -> frozenset[int]:
        return frozenset(self.by_id)

    @property
    def isolated(self) -> frozenset[int]:
        """CPUs that the scheduler puts nothing on by itself (isolcpus=, isolated cpuset partitions)."""
        return frozenset(cpu.id for cpu in self.cpus if cpu.isolated)

    @property
    def nohz_full(self) -> frozenset[int]:
        """CPUs whose timer tick stops while they run a single thread (nohz_full=)."""
        return frozenset(cpu.id for cpu in self.cpus if cpu.nohz_full)

    @property
    def packages(self) -> int:
        """How many there are."""
        return len({cpu.package for cpu in self.cpus})

    @property
    def smt(self) -> int:
        """The most CPUs that any core has: 1 is no SMT."""
        return max(len(core.cpus) for core in self.cores)

    def siblings(self, cpu: int) -> tuple[int, ...]:
        """The CPUs that share a core with this one, itself among them.

        Raises:
            KeyError: that CPU is not online.
        """
        return self.cores[self._online(cpu).core].cpus

    def _online(self, cpu: int) -> Cpu:
        try:
            return self.by_id[cpu]
        except KeyError:
            raise KeyError(f"CPU {cpu!r} is not online here (online: {format_cpus(self.online)})") from None

    @cached_property
    def _last_level(self) -> dict[int, tuple[int, ...]]:
        shared: dict[int, tuple[int, ...]] = {cpu.id: self.cores[cpu.core].cpus for cpu in self.cpus}
        for cache in sorted(self.caches, key=lambda cache: cache.level):
            if cache.kind != "instruction":
                shared.update((cpu, cache.cpus) for cpu in cache.cpus if cpu in shared)
        return shared

    def neighbours(self, cpu: int) -> tuple[int, ...]:
        """The CPUs that share its last-level cache, itself among them; its core's where no cache is known.

        Raises:
            KeyError: that CPU is not online.
        """
        return self._last_level[self._online(cpu).id]

    def as_dict(self) -> dict[str, Any]:
        """All of it in lists, numbers and words, for JSON; `corelane topology --json` prints this.

        Sets of CPUs are sorted lists; the keys of `distances` are text, as JSON has it; the rest is named as the fields
        here are. A release may add keys, and takes none away."""
        return {
            "model": self.model,
            "packages": self.packages,
            "smt": self.smt,
            "online": sorted(self.online),
            "offline": sorted(self.offline),
            "possible": sorted(self.possible),
            "isolated": sorted(self.isolated),
            "nohz_full": sorted(self.nohz_full),
            "cpus": [_fields(cpu) for cpu in self.cpus],
            "cores": [_fields(core) for core in self.cores],
            "caches": [_fields(cache) for cache in self.caches],
            "nodes": [_fields(node) for node in self.nodes],
        }

    def draw(
        self,
        width: int | None = None,
        *,
        mark: Iterable[int] | str | None = None,
        allowed: Iterable[int] | str | None = None,
        ascii: bool = False,
        collapse: bool | None = None,
    ) -> str:
        """The machine as boxes within boxes, for a terminal: packages, NUMA nodes, shared caches, cores and their CPUs.

        Args:
            width: columns, at least 40; None: those of the terminal, 80 where there is none.
            mark: CPUs to mark as the caller's own ("*"): numbers, or a list like "0-3,8".
            allowed: CPUs that a container or a batch system allows; others are crossed out ("x").
            ascii: boxes of "+", "-" and "|".
            collapse: draw one of several neighbours that look the same. None: where the picture is long otherwise.

        Returns:
            Lines, the last without its newline.

        Raises:
            ValueError: `width` is below 40, a set of CPUs is empty or malformed. TypeError: an argument is of another
                kind.
        """
        from corelane.cpu.picture import draw

        return draw(self, width, mark=mark, allowed=allowed, ascii=ascii, collapse=collapse)

    def __str__(self) -> str:
        """The first line of the picture; all of it is in repr()."""
        from corelane.cpu.picture import head

        return head(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _fields(value: Cpu | Core | Cache | Node) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if "cpus" in found:
        found["cpus"] = list(found["cpus"])
    if "distances" in found:
        found["distances"] = {str(node): distance for node, distance in found["distances"].items()}
    return found
