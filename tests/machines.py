"""Machines that we do not own, as trees of the files in which Linux tells of a machine: each from a short description.

What is written is what the kernel writes, to the byte: lists, masks in groups of 32 bits as wide as there may be CPUs,
a directory for an offline CPU with nothing about its place. So other tools read these trees too (`lscpu --sysroot`,
hwloc's fsroot), and say whether we read them right. What two CPUs have in common is written once, and a link.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from corelane.cpu import format_cpus, parse_cpus


@dataclass(frozen=True)
class Place:
    """Where a CPU is, by the ids that the kernel gives; `group` is what shares its last-level cache."""

    package: int = 0
    core: int = 0
    die: int = 0
    cluster: int | None = None  # None: each core is one, as the kernel has it where there are none
    node: int | None = None
    group: int = 0
    kind: int = 0  # which of the machine's caches, capacities and frequencies


@dataclass(frozen=True)
class Made:
    """A cache: `by` names the fields of Place that its CPUs have in common."""

    level: int
    type: str
    size: str
    ways: int
    by: tuple[str, ...]
    line: int = 64
    sets: int = 64


def private(l1d, l1i, l2, ways=(8, 8, 8)):
    """The caches of a core that shares none of them."""
    core = ("package", "core")
    made = [Made(1, "Data", l1d, ways[0], core), Made(1, "Instruction", l1i, ways[1], core)]
    return (*made, Made(2, "Unified", l2, ways[2], core)) if l2 else tuple(made)


@dataclass(frozen=True)
class Machine:
    places: dict  # CPU -> Place, offline ones too
    caches: tuple = ()  # of each kind: a tuple of Made, in the order of their index
    offline: frozenset = frozenset()
    possible: str = ""
    isolated: str = ""
    nohz_full: str | None = ""
    memory: dict = field(default_factory=dict)  # node -> kB; none: a kernel without NUMA
    distances: dict = field(default_factory=dict)  # node -> its line
    capacity: tuple = ()  # of each kind
    khz: tuple = ()
    model: str = ""
    cpuinfo: str = "x86"
    hybrid: dict = field(default_factory=dict)  # directory below sys/devices -> list
    old: bool = False  # a kernel before 5.0: no core_cpus, package_cpus, die or cluster
    dies: bool = True
    topology: bool = True

    @cached_property
    def online(self):
        return frozenset(self.places) - self.offline

    def write(self, root):
        """Write the tree below `root`; returns it."""
        possible = self.possible or format_cpus(self.places)
        base = root / "sys/devices/system/cpu"
        base.mkdir(parents=True)
        files = {
            "online": format_cpus(self.online),
            "offline": format_cpus(self.offline),
            "present": format_cpus(self.places),
            "possible": possible,
            "isolated": self.isolated,
            "kernel_max": "8191",
        }
        if self.nohz_full is not None:
            files["nohz_full"] = self.nohz_full
        _write(base, files)
        for cpu in self.places:
            self._cpu(base / f"cpu{cpu}", cpu)
        if self.khz:
            self._policies(base)
        for name, text in self.hybrid.items():
            _write(root / "sys/devices" / name, {"cpus": text})
        if self.memory:
            self._nodes(root / "sys/devices/system/node")
        self._proc(root / "proc")
        return root

    def _mask(self, cpus):
        wide = max(parse_cpus(self.possible) if self.possible else self.places) + 1
        digits = f"{sum(1 << cpu for cpu in cpus):x}".zfill((wide + 3) // 4)
        head = len(digits) % 8
        return ",".join(([digits[:head]] if head else []) + [digits[i : i + 8] for i in range(head, len(digits), 8)])

    @cached_property
    def _groups(self):
        return {}

    def _same(self, cpu, *names):
        """The online CPUs with the same values in these fields."""
        groups = self._groups.get(names)
        if groups is None:
            groups = self._groups[names] = {}
            for each in sorted(self.online):
                groups.setdefault(attrgetter(*names)(self.places[each]), []).append(each)
        return groups[attrgetter(*names)(self.places[cpu])]

    def _cpu(self, at, cpu):
        place = self.places[cpu]
        if cpu in self.offline:
            _write(at, {"online": "0"})
            return
        _write(at, {"online": "1"} if cpu else {})
        if self.capacity:
            _write(at, {"cpu_capacity": self.capacity[place.kind]})
        if not self.topology:
            return
        core, package = self._same(cpu, "package", "die", "core", "cluster"), self._same(cpu, "package")
        if core[0] != cpu:
            (at / "topology").symlink_to(f"../cpu{core[0]}/topology")
        else:
            self._topology(at / "topology", cpu, core, package)
        for index, cache in enumerate(self.caches[place.kind] if self.caches else ()):
            self._cache(at / f"cache/index{index}", cache, cpu)

    def _topology(self, at, cpu, core, package):
        place = self.places[cpu]
        files = {"physical_package_id": place.package, "core_id": place.core}
        groups = {"thread_siblings": core, "core_siblings": package}
        if not self.old:
            groups |= {"core_cpus": core, "package_cpus": package}
            groups["cluster_cpus"] = core if place.cluster is None else self._same(cpu, "package", "cluster")
            files["cluster_id"] = 65535 if place.cluster is None else place.cluster
            if self.dies:
                groups["die_cpus"] = self._same(cpu, "package", "die")
                files["die_id"] = place.die
        for name, cpus in groups.items():
            files |= {name: self._mask(cpus), f"{name}_list": format_cpus(cpus)}
        _write(at, files)

    def _cache(self, at, cache, cpu):
        sharing = self._same(cpu, *cache.by)
        kinds = self.caches[self.places[sharing[0]].kind]
        if sharing[0] != cpu and cache in kinds:
            at.parent.mkdir(exist_ok=True)
            at.symlink_to(f"../../cpu{sharing[0]}/cache/index{kinds.index(cache)}")
            return
        # Numbered as they come, with a hole: ids are made of APIC ids.
        firsts = sorted({group[0] for group in self._groups[cache.by].values()})
        files = {
            "id": firsts.index(sharing[0]) * 2,
            "level": cache.level,
            "type": cache.type,
            "size": cache.size,
            "coherency_line_size": cache.line,
            "ways_of_associativity": cache.ways,
            "number_of_sets": cache.sets,
            "shared_cpu_list": format_cpus(sharing),
            "shared_cpu_map": self._mask(sharing),
        }
        _write(at, files)

    def _policies(self, base):
        for cpu in sorted(self.online):
            policy = base / f"cpufreq/policy{cpu}"
            khz = self.khz[self.places[cpu].kind]
            _write(policy, {"cpuinfo_max_freq": khz, "cpuinfo_min_freq": khz // 4, "scaling_cur_freq": khz})
            (base / f"cpu{cpu}/cpufreq").symlink_to(f"../cpufreq/policy{cpu}")

    def _nodes(self, at):
        of = {node: [cpu for cpu in self.online if self.places[cpu].node == node] for node in self.memory}
        with_cpus = [node for node, cpus in of.items() if cpus]
        _write(
            at,
            {
                "online": format_cpus(self.memory),
                "possible": format_cpus(self.memory),
                "has_cpu": format_cpus(with_cpus),
                "has_memory": format_cpus(node for node, size in self.memory.items() if size),
            },
        )
        for node, size in self.memory.items():
            lines = [f"Node {node} MemTotal:    {size:>10} kB", f"Node {node} MemFree:     {size // 2:>10} kB"]
            files = {
                "cpulist": format_cpus(of[node]),
                "cpumap": self._mask(of[node]),
                "distance": self.distances[node],
                "meminfo": "\n".join(lines),
            }
            _write(at / f"node{node}", files)
            for cpu in of[node]:
                (at / f"node{node}/cpu{cpu}").symlink_to(f"../../cpu/cpu{cpu}")

    def _proc(self, at):
        records = []
        for cpu in sorted(self.online):
            lines = {"processor": cpu}
            if self.cpuinfo == "x86":
                lines |= {"vendor_id": "GenuineIntel", "cpu family": 6, "model": 85, "model name": self.model}
                lines |= {"stepping": 7, "flags": "fpu lm"}
            elif self.cpuinfo == "power":
                lines |= {"cpu": self.model}
            else:
                part = "0xd03" if self.places[cpu].kind == 0 else "0xd08"
                lines |= {"CPU implementer": "0x41", "CPU architecture": 8, "CPU part": part, "CPU revision": 4}
            records.append("".join(f"{name}\t: {value}\n" for name, value in lines.items()))
        total = sum(self.memory.values()) or 4 << 20
        _write(at, {"cpuinfo": "\n".join(records), "meminfo": f"MemTotal:       {total} kB"})


def _write(at, files):
    at.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with open(f"{at}/{name}", "w") as file:
            file.write(f"{text}\n")


# ---- the machines ----------------------------------------------------------------------------------------------------


def xeon():
    """Two packages of 20 cores with SMT: siblings are far apart, core ids have holes."""
    core_ids = [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 24, 25, 26, 27, 28]
    places = {}
    for thread in range(2):
        for package in range(2):
            for at, core in enumerate(core_ids):
                place = Place(package=package, core=core, node=package, group=package)
                places[thread * 40 + package * 20 + at] = place
    caches = (*private("32K", "32K", "1024K", ways=(8, 8, 16)), Made(3, "Unified", "28160K", 11, ("group",)))
    return Machine(
        places,
        (caches,),
        isolated="2-3,42-43",
        nohz_full=" " * 74 + "(null)",  # what kernels before 6.2 say for none, as wide as the list could be
        memory={0: 98304000, 1: 99081216},
        distances={0: "10 21", 1: "21 10"},
        khz=(3900000,),
        model="Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz",
    )


def epyc():
    """Two packages of 64 cores with SMT, an L3 for eight cores, four nodes a package (NPS4): 256 CPUs."""
    places = {}
    for cpu in range(256):
        core = cpu % 128
        places[cpu] = Place(package=core // 64, core=core % 64, node=core // 16, group=core // 8)
    caches = (*private("32K", "32K", "512K"), Made(3, "Unified", "32768K", 16, ("group",)))
    far = [["12" if node // 4 == other // 4 else "32" for other in range(8)] for node in range(8)]
    for node in range(8):
        far[node][node] = "10"
    distances = {node: " ".join(line) for node, line in enumerate(far)}
    return Machine(
        places,
        (caches,),
        memory=dict.fromkeys(range(8), 65536000),
        distances=distances,
        nohz_full="8-15",
        model="AMD EPYC 7763 64-Core Processor",
    )


def big_little():
    """Four little cores and two big ones, no NUMA, no dies, each cluster with its L2 (an RK3399 board)."""
    places = {cpu: Place(core=cpu % 4, cluster=cpu // 4, group=cpu // 4, kind=cpu // 4) for cpu in range(6)}
    by = ("group",)
    little = (*private("32K", "32K", "", ways=(4, 2)), Made(2, "Unified", "512K", 16, by))
    big = (*private("32K", "48K", "", ways=(2, 3)), Made(2, "Unified", "1024K", 16, by))
    little = tuple(Made(c.level, c.type, c.size, c.ways, (*c.by, "cluster") if c.level == 1 else by) for c in little)
    big = tuple(Made(c.level, c.type, c.size, c.ways, (*c.by, "cluster") if c.level == 1 else by) for c in big)
    return Machine(places, (little, big), capacity=(485, 1024), khz=(1416000, 1800000), cpuinfo="arm", dies=False)


def hybrid():
    """Eight performance cores with SMT and four efficiency cores that share an L2 (an i7-12700)."""
    places = {cpu: Place(core=cpu // 2 * 4, node=0, cluster=cpu // 2) for cpu in range(16)}
    places |= {cpu: Place(core=32 + cpu - 16, node=0, cluster=8, kind=1) for cpu in range(16, 20)}
    last = Made(3, "Unified", "25600K", 10, ("group",))
    performance = (*private("48K", "32K", "1280K", ways=(12, 8, 10)), last)
    l2 = Made(2, "Unified", "2048K", 16, ("cluster",))
    efficiency = (*private("32K", "64K", "", ways=(8, 8)), l2, last)
    return Machine(
        places,
        (performance, efficiency),
        memory={0: 32768000},
        distances={0: "10"},
        khz=(4900000, 3600000),
        hybrid={"cpu_core": "0-15", "cpu_atom": "16-19"},
        model="12th Gen Intel(R) Core(TM) i7-12700",
    )


def vm():
    """A virtual machine with two CPUs."""
    places = {cpu: Place(core=cpu, node=0) for cpu in range(2)}
    caches = (*private("32K", "32K", "1024K"), Made(3, "Unified", "32768K", 16, ("group",)))
    return Machine(places, (caches,), memory={0: 4046848}, distances={0: "10"}, capacity=(1024,), model="AMD EPYC")


def holes():
    """A POWER server whose firmware numbers cores by fours and packages by thousands; half of the threads are offline,
    one node has memory alone (a GPU's), and the kernel is old."""
    places = {}
    for package, first in ((0, 0), (8, 1024)):
        for cpu in range(first, first + 16):
            places[cpu] = Place(package=package, core=cpu // 4 * 4, node=package, group=cpu // 8)
    offline = frozenset(cpu for cpu in places if cpu % 4 > 1) | {1036, 1037}
    caches = (*private("32K", "32K", "512K"), Made(3, "Unified", "10240K", 20, ("group",), line=128))
    return Machine(
        places,
        (caches,),
        offline=offline,
        possible="0-2047",
        nohz_full=None,
        memory={0: 134217728, 8: 134217728, 255: 16515072},
        distances={0: "10 40 80", 8: "40 10 80", 255: "80 80 10"},
        cpuinfo="power",
        model="POWER9, altivec supported",
        old=True,
    )


def arm_vm():
    """A virtual machine whose firmware tells nothing: package -1, no caches, no NUMA."""
    return Machine({cpu: Place(package=-1, core=cpu) for cpu in range(4)}, cpuinfo="arm", dies=False)


def bare():
    """A sandbox that shows the lists of CPUs and nothing else."""
    return Machine({cpu: Place() for cpu in range(3)}, nohz_full=None, topology=False, model="unknown")


MACHINES = {make.__name__: make for make in (xeon, epyc, big_little, hybrid, vm, holes, arm_vm, bare)}

_written = {}


def tree(name):
    """The tree of a machine of MACHINES, written once in a run of the tests: nobody changes it."""
    if name not in _written:
        directory = in_memory()  # goes with the last reference to it
        _written[name] = directory, MACHINES[name]().write(Path(directory.name) / "root")
    return _written[name][1]


def in_memory():
    """A temporary directory, in memory where there is room: on a disk, thousands of files take their time."""
    with contextlib.suppress(OSError):
        space = os.statvfs("/dev/shm")
        if os.access("/dev/shm", os.W_OK) and space.f_bavail * space.f_frsize > 1 << 28:
            return tempfile.TemporaryDirectory(dir="/dev/shm")
    return tempfile.TemporaryDirectory()
