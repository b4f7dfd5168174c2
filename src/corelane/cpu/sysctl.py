"""A topology from what macOS says of the machine: `read_sysctl` asks, `topology_of` makes a Topology of the answers.

Owns nothing. macOS counts, it does not list: which CPU is whose follows from the counts, in the order in which the
systems number their CPUs. On Apple silicon efficiency cores come first; on Intel the siblings of a core are neighbours.
What it does not tell (packages' NUMA, offline CPUs, capacities) is left out.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping

from corelane._ffi import ffi, lib
from corelane.cpu.model import Cache, Core, Cpu, Node, Topology
from corelane.errors import CpuError

__all__ = ["read_sysctl", "topology_of"]

_TEXTS = ("machdep.cpu.brand_string",)
_NUMBERS = (
    "hw.cachelinesize",
    "hw.cpufrequency_max",
    "hw.l1dcachesize",
    "hw.l1icachesize",
    "hw.l2cachesize",
    "hw.l3cachesize",
    "hw.logicalcpu",
    "hw.memsize",
    "hw.nperflevels",
    "hw.packages",
    "hw.physicalcpu",
)
_OF_LEVEL = ("cpusperl2", "cpusperl3", "l1dcachesize", "l1icachesize", "l2cachesize", "l3cachesize")
_OF_LEVEL_TOO = ("logicalcpu", "physicalcpu")
_CACHES = ((1, "data", "l1d"), (1, "instruction", "l1i"), (2, "unified", "l2"), (3, "unified", "l3"))
_LONGEST = 256  # bytes of a value


def read_sysctl() -> Topology:
    """The topology of the Mac we run on.

    Raises:
        CpuError: a value is missing or malformed.
    """
    values: dict[str, int | str] = {}
    for name in (*_TEXTS, *_NUMBERS):
        _ask(values, name)
    for level in range(_count(values, "hw.nperflevels", 0)):
        _ask(values, f"hw.perflevel{level}.name", text=True)
        for name in (*_OF_LEVEL, *_OF_LEVEL_TOO):
            _ask(values, f"hw.perflevel{level}.{name}")
    return topology_of(values)


def _ask(values: dict[str, int | str], name: str, text: bool = False) -> None:
    room = ffi.new("char[]", _LONGEST)
    length = lib.cl_sysctl(name.encode(), room, _LONGEST)
    if length == -errno.ENOENT:
        return
    if length < 0:
        raise CpuError(f"sysctl {name} cannot be read: {os.strerror(-length)}")
    found = bytes(ffi.buffer(room, length))
    if text or name in _TEXTS:
        values[name] = found.split(b"\0")[0].decode("utf-8", "replace")
    elif length in (4, 8):
        values[name] = int.from_bytes(found, sys.byteorder)
    else:
        raise CpuError(f"sysctl {name} is {length} bytes long, which is no number")


def topology_of(values: Mapping[str, int | str]) -> Topology:
    """A topology from the values of sysctl(3) names.

    Args:
        values: by name: hw.packages, hw.physicalcpu, hw.logicalcpu, hw.memsize, hw.cachelinesize, hw.l1dcachesize,
            hw.l1icachesize, hw.l2cachesize, hw.l3cachesize; hw.nperflevels and hw.perflevelN.* of hybrid machines;
            machdep.cpu.brand_string. In bytes where it is a size.

    Raises:
        CpuError: there are no CPUs in it, or a number is none or does not fit the others.
    """
    cores: list[Core] = []
    cpus: list[Cpu] = []
    caches: list[Cache] = []
    packages = max(1, _count(values, "hw.packages", 1))
    kinds = _count(values, "hw.nperflevels", 0)
    # Of the performance levels 0 is the fastest, and its CPUs have the highest numbers.
    prefixes = [f"hw.perflevel{level}." for level in reversed(range(kinds))] if kinds else ["hw."]
    for prefix in prefixes:
        physical, logical = _count(values, prefix + "physicalcpu"), _count(values, prefix + "logicalcpu")
        if physical < 1 or logical < physical or logical % physical or (physical % packages and not kinds):
            raise CpuError(
                f"sysctl {prefix}physicalcpu is {physical}, {prefix}logicalcpu {logical}, hw.packages {packages}: "
                "these do not fit each other"
            )
        kind = str(values.get(prefix + "name", "")).lower() if kinds > 1 else ""
        khz = _count(values, "hw.cpufrequency_max", 0) // 1000 or None
        smt, first = logical // physical, len(cpus)
        for at in range(physical):
            package = 0 if kinds else at * packages // physical
            mine = tuple(range(first + at * smt, first + (at + 1) * smt))
            for cpu in mine:
                cpus.append(Cpu(id=cpu, core=len(cores), package=package, max_khz=khz, kind=kind))
            cores.append(Core(len(cores), package, 0, mine))
        caches += _caches(values, prefix, range(first, len(cpus)), smt, packages)
    everything = tuple(cpu.id for cpu in cpus)
    return Topology(
        cpus=tuple(cpus),
        cores=tuple(cores),
        caches=tuple(sorted(caches, key=lambda cache: (cache.level, cache.kind, cache.cpus))),
        nodes=(Node(0, everything, _count(values, "hw.memsize", 0)),),
        possible=frozenset(everything),
        model=str(values.get("machdep.cpu.brand_string", "")),
    )


def _caches(values: Mapping[str, int | str], prefix: str, cpus: range, smt: int, packages: int) -> list[Cache]:
    """The caches of the CPUs of one performance level, or of all."""
    line = _count(values, "hw.cachelinesize", 0)
    found = []
    for level, kind, name in _CACHES:
        size = _count(values, f"{prefix}{name}cachesize", 0)
        if not size:
            continue
        # Intel Macs share an L3 in a package; only the others say how many share.
        usual = len(cpus) // packages if level == 3 else smt
        sharing = _count(values, f"{prefix}cpusper{name}", usual) or usual
        for first in range(cpus.start, cpus.stop, sharing):
            group = tuple(range(first, min(first + sharing, cpus.stop)))
            found.append(Cache(level, kind, size, group, line))
    return found


def _count(values: Mapping[str, int | str], name: str, missing: int | None = None) -> int:
    value = values.get(name, missing)
    if not isinstance(value, int) or value < 0:
        what = "is not there" if value is None else f"says {value!r}, which is no count"
        raise CpuError(f"sysctl {name} {what}")
    return value
