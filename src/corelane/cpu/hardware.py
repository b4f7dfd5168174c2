"""The machine's topology, read from the system: `topology()`.

Owns the topologies that were read, by root, as long as the process lives. Linux tells in sysfs, in thousands of small
files: no file is read whose answer another has given. A list of siblings tells of all in it, and caches that lie within
one core, and have the same size as another core's, are taken to be of the same make.

What the kernel says in lists (who shares a core, a package, a cache) is believed before its ids: on Arm, in virtual
machines and in old kernels ids are -1, or one and the same for all. Does not follow the scaling of frequencies, nor
memory that is plugged in later.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from corelane.cpu.model import Cache, Core, Cpu, Node, Topology
from corelane.cpu.sysfs import SysFiles
from corelane.errors import CpuError

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["topology"]

_FRESH = 1.0  # seconds in which a topology is given again without a look at the system
_MOST_ROOTS = 8
_CHANGING = ("online", "isolated")  # what hotplug, SMT control and isolated cpusets change
_TRIES = 5  # when CPUs come and go while we read


class _Known:
    """A topology, what `_CHANGING` said when it was read, and when that was last looked at."""

    __slots__ = ("changing", "looked", "value")

    def __init__(self, value: Topology, changing: list[str | None], looked: float) -> None:
        self.value, self.changing, self.looked = value, changing, looked


_known: dict[str, _Known] = {}


def topology(root: str | os.PathLike[str] = "/", *, refresh: bool = False) -> Topology:
    """What the machine is made of: packages, cores, CPUs, caches, NUMA nodes.

    It is read once and then given again. At most once a second it is checked whether CPUs came or went, or were
    isolated, and if so all is read anew; so what is given is at most a second old in this. What else can change while a
    machine runs (its memory, the highest frequencies) is found with `refresh`. Safe to call from any thread.

    Args:
        root: a directory with another machine's sys/devices/system (and proc/cpuinfo for the model's name), as
            `lscpu --sysroot` takes it.
        refresh: read all of it now.

    Returns:
        The topology; the same object as long as nothing has changed.

    Raises:
        CpuError: a file of the system is missing, cannot be read, or says something else than it must.
        TypeError: `root` is no path.
    """
    # No lock: a topology does not change, and a dict's get and set are whole. Thread A reads, a CPU goes, B reads, B
    # stores, A stores: the older one is stored with the older text of `online`, so the next look finds that out.
    known = _known.get(root) if isinstance(root, str) else None
    if known is not None and not refresh and time.monotonic() - known.looked < _FRESH:
        return known.value
    path = os.fsdecode(root)
    if path != "/":
        path = os.path.abspath(path)
    return _look(path, refresh)


def _look(root: str, refresh: bool) -> Topology:
    known = _known.get(root)
    now = time.monotonic()
    if known is not None and not refresh:
        if now - known.looked < _FRESH:
            return known.value
        if known.changing == _changing(root):
            known.looked = now
            return known.value
    if sys.platform == "darwin" and root == "/":
        from corelane.cpu.sysctl import read_sysctl

        changing: list[str | None] = []
        value = read_sysctl()
    else:
        value, changing = _read_steady(root)
    if len(_known) >= _MOST_ROOTS:
        _known.clear()
    _known[root] = _Known(value, changing, now)
    return value


def _changing(root: str) -> list[str | None]:
    if sys.platform == "darwin" and root == "/":
        return []
    return SysFiles(os.path.join(root, "sys/devices/system/cpu")).read(_CHANGING)


def _read_steady(root: str) -> tuple[Topology, list[str | None]]:
    """A topology whose CPUs were the same before and after it was read.

    We read that CPU 3 is online; it goes offline; its directory is gone, or the lists of others are without it."""
    before = _changing(root)
    for left in reversed(range(_TRIES)):
        value, failure = None, None
        try:
            value = _read(root)
        except CpuError as error:
            failure = error
        after = _changing(root)
        if after == before or not left:
            break
        before = after
    if failure is not None:
        raise failure
    assert value is not None
    # If they still come and go, the older text: the next look finds that out.
    return value, before


# ---- sysfs -----------------------------------------------------------------------------------------------------------


def _read(root: str) -> Topology:
    files = SysFiles(os.path.join(root, "sys/devices/system/cpu"))
    names = ("online", "present", "possible", "isolated", "nohz_full", *_KINDS)
    texts = dict(zip(names, files.read(names), strict=True))
    sets = {name: files.cpus(name, text or "") for name, text in texts.items()}
    if not sets["online"]:
        what = "is not there" if texts["online"] is None else f"says {texts['online']!r}, no CPU at all"
        raise CpuError(f"{files.path('online')} {what}: CPUs are known from sysfs, which must be mounted at /sys")
    online = sets["online"]
    packages = _numbered(_packages(files, online))
    cores = _cores(files, online, packages)
    firsts = [core[0] for core in cores]
    core_of = {cpu: index for index, core in enumerate(cores) for cpu in core}
    node_of, nodes = _nodes(root, online)
    dies = _per_package(_siblings(files, ("die_cpus_list",), online), packages)
    clusters = _clusters(_siblings(files, ("cluster_cpus_list",), online), core_of)
    capacity = _numbers(files, firsts, "cpu_capacity")
    khz = _numbers(files, firsts, "cpufreq/cpuinfo_max_freq")
    kinds = {cpu: kind for name, kind in _KINDS.items() for cpu in sets[name]}
    cpus = []
    for cpu in sorted(online):
        first = cores[core_of[cpu]][0]
        cpus.append(
            Cpu(
                id=cpu,
                core=core_of[cpu],
                package=packages[cpu],
                node=node_of[cpu],
                die=dies.get(cpu, 0),
                capacity=capacity.get(first),
                max_khz=khz.get(first),
                isolated=cpu in sets["isolated"],
                nohz_full=cpu in sets["nohz_full"],
                cluster=clusters.get(cpu),
                kind=kinds.get(cpu, ""),
            )
        )
    return Topology(
        cpus=tuple(cpus),
        cores=tuple(Core(i, packages[core[0]], node_of[core[0]], core) for i, core in enumerate(cores)),
        caches=_caches(files, cores, online),
        nodes=nodes,
        offline=(sets["present"] or online) - online,
        possible=sets["possible"] or sets["present"] | online,
        model=_model(root),
    )


# The perf drivers of hybrid x86 machines say which CPUs are whose.
_KINDS = {
    "../../cpu_core/cpus": "performance",
    "../../cpu_atom/cpus": "efficiency",
    "../../cpu_lowpower/cpus": "efficiency",
}


def _siblings(files: SysFiles, names: Sequence[str], online: Iterable[int]) -> dict[int, frozenset[int]]:
    """For each CPU those that it shares something with, by files of topology/; CPUs without such a file are left out.

    `names` are of the same list, the newest kernel's first. We ask the lowest CPU, then guess that all groups look like
    its group, and ask the first of each; those that the guess was wrong about are asked again.
    """
    left = sorted(online)
    name = names[0]
    if len(names) > 1:
        answers = files.read(f"cpu{left[0]}/topology/{each}" for each in names)
        name = next((each for each, answer in zip(names, answers, strict=True) if answer is not None), name)
    found: dict[int, frozenset[int]] = {}
    mute: set[int] = set()
    shape: list[int] | None = None  # of a group: how far each is from the first
    while left:
        ask, guessed = [], set()
        for cpu in left[:1] if shape is None else left:
            if cpu not in guessed:
                ask.append(cpu)
                guessed.update([cpu + step for step in shape or ()])
        paths = [f"cpu{cpu}/topology/{name}" for cpu in ask]
        for cpu, path, text in zip(ask, paths, files.read(paths), strict=True):
            if text is None:
                mute.add(cpu)
                shape = shape or [0]
            elif cpu not in found:
                listed = files.cpus(path, text)
                if cpu not in listed:
                    raise CpuError(f"{files.path(path)} says {text[:200]!r}, where CPU {cpu} itself is missing")
                # Those that are not online are not for us: in a container, `online` may be a part of the truth.
                group = frozenset(each for each in listed if each in online and each not in found)
                shape = shape or sorted(each - cpu for each in group)
                found.update(dict.fromkeys(group, group))
        left = [cpu for cpu in left if cpu not in found and cpu not in mute]
    return found


def _numbers(files: SysFiles, cpus: Sequence[int], name: str) -> dict[int, int]:
    """What a file says for each CPU that has it. A machine has it for all CPUs or for none, nearly: if the first two
    and the last have none, nobody is asked."""
    found: dict[int, int] = {}
    probes = sorted({*cpus[:2], *cpus[-1:]})
    for asked in (probes, [cpu for cpu in cpus if cpu not in probes]):
        paths = [f"cpu{cpu}/{name}" for cpu in asked]
        for cpu, path, text in zip(asked, paths, files.read(paths), strict=True):
            if text is not None:
                found[cpu] = files.number(path, text)
        if not found:
            break
    return found


def _packages(files: SysFiles, online: frozenset[int]) -> dict[int, Any]:
    """A key for each CPU's package."""
    keys: dict[int, Any] = dict(_siblings(files, ("package_cpus_list", "core_siblings_list"), online))
    silent = sorted(online - keys.keys())
    if silent:
        ids = _numbers(files, silent, "topology/physical_package_id")
        keys.update((cpu, max(ids.get(cpu, -1), -1)) for cpu in silent)
    return keys


def _cores(files: SysFiles, online: frozenset[int], packages: Mapping[int, int]) -> list[tuple[int, ...]]:
    """The CPUs of each core, by their lowest."""
    keys: dict[int, Any] = dict(_siblings(files, ("core_cpus_list", "thread_siblings_list"), online))
    silent = sorted(online - keys.keys())
    if silent:
        ids = _numbers(files, silent, "topology/core_id")
        for cpu in silent:
            known = ids.get(cpu, -1)
            keys[cpu] = (packages[cpu], known) if known >= 0 else -cpu - 1
    cores: dict[Any, list[int]] = {}
    for cpu in sorted(online):
        cores.setdefault(keys[cpu], []).append(cpu)
    return [tuple(core) for core in cores.values()]


def _numbered(keys: Mapping[int, Any]) -> dict[int, int]:
    """Groups by number, in the order of their lowest CPUs."""
    numbers: dict[Any, int] = {}
    return {cpu: numbers.setdefault(keys[cpu], len(numbers)) for cpu in sorted(keys)}


def _per_package(keys: Mapping[int, Any], packages: Mapping[int, int]) -> dict[int, int]:
    """Groups by number within each package."""
    numbers: dict[int, dict[Any, int]] = {}
    found = {}
    for cpu in sorted(keys):
        of_package = numbers.setdefault(packages[cpu], {})
        found[cpu] = of_package.setdefault(keys[cpu], len(of_package))
    return found


def _clusters(keys: Mapping[int, frozenset[int]], core_of: Mapping[int, int]) -> dict[int, int]:
    """Groups of more than one core; a kernel that knows of no clusters gives each core one of its own."""
    return _numbered({cpu: group for cpu, group in keys.items() if len({core_of[each] for each in group}) > 1})


# ---- caches ----------------------------------------------------------------------------------------------------------

_DETAILS = ("level", "type", "coherency_line_size", "ways_of_associativity")


def _caches(files: SysFiles, cores: Sequence[tuple[int, ...]], online: frozenset[int]) -> tuple[Cache, ...]:
    # By index and not by level: a core that lacks a level has the next one at its index.
    sharing: dict[tuple[int, frozenset[int]], int] = {}  # -> the CPU to ask for its details
    index, asked = 0, [core[0] for core in cores]
    while asked:
        # Four at once, as most machines have.
        paths = [(cpu, i, f"cpu{cpu}/cache/index{i}/shared_cpu_list") for cpu in asked for i in range(index, index + 4)]
        texts = files.read(path for _, _, path in paths)
        more = set()
        for (cpu, i, path), text in zip(paths, texts, strict=True):
            if text is not None:
                sharing.setdefault((i, (files.cpus(path, text) & online) or frozenset([cpu])), cpu)
                if i == index + 3:
                    more.add(cpu)
        asked, index = [cpu for cpu in asked if cpu in more], index + 4
    wanted = [(i, cpu, cpus) for (i, cpus), cpu in sharing.items()]
    names = [f"cpu{cpu}/cache/index{i}/{name}" for i, cpu, _ in wanted for name in ("size", "id")]
    texts = files.read(names)
    core_of = {cpu: core for core in cores for cpu in core}
    makes: dict[tuple[Any, ...], tuple[int, int]] = {}  # which caches are alike -> one of them
    alike = []
    for (i, cpu, cpus), size in zip(wanted, texts[::2], strict=True):
        within = core_of[cpu] == tuple(sorted(cpus))
        alike.append((i, size, len(cpus)) if within else (i, cpu))
        makes.setdefault(alike[-1], (i, cpu))
    details = dict(zip(makes, _details(files, makes.values()), strict=True))
    caches: dict[tuple[int, str, tuple[int, ...]], Cache] = {}
    for at, ((_, _, cpus), make) in enumerate(zip(wanted, alike, strict=True)):
        told = details[make]
        if told is not None:
            level, kind, line, ways = told
            size, number = texts[2 * at], texts[2 * at + 1]
            cache = Cache(
                level=level,
                kind=kind,
                size=files.size(names[2 * at], size) if size else 0,
                cpus=tuple(sorted(cpus)),
                line=line,
                ways=ways,
                id=files.number(names[2 * at + 1], number) if number else None,
            )
            caches.setdefault((level, kind, cache.cpus), cache)
    return tuple(caches[key] for key in sorted(caches))


def _details(files: SysFiles, places: Iterable[tuple[int, int]]) -> Iterable[tuple[int, str, int, int] | None]:
    """Level, kind, length of a line and ways of the caches at these indexes of CPUs. None: Arm's device trees may say
    who shares a cache, and not what it is."""
    names = [[f"cpu{cpu}/cache/index{i}/{name}" for name in _DETAILS] for i, cpu in places]
    texts = iter(files.read(name for of_cache in names for name in of_cache))
    for of_cache in names:
        level, kind, line, ways = (next(texts) for _ in of_cache)
        if level is None or kind is None:
            yield None
            continue
        if kind not in ("Data", "Instruction", "Unified"):
            raise CpuError(f"{files.path(of_cache[1])} says {kind!r}, not Data, Instruction or Unified")
        yield (
            files.number(of_cache[0], level),
            kind.lower(),
            files.number(of_cache[2], line) if line else 0,
            files.number(of_cache[3], ways) if ways else 0,
        )


# ---- NUMA ------------------------------------------------------------------------------------------------------------


def _nodes(root: str, online: frozenset[int]) -> tuple[dict[int, int], tuple[Node, ...]]:
    """Each CPU's node, and the nodes; one node for all on a kernel without NUMA."""
    files = SysFiles(os.path.join(root, "sys/devices/system/node"))
    numbers = sorted(files.cpus("online", files.read(["online"])[0] or ""))
    if not numbers:
        files = SysFiles(os.path.join(root, "proc"))
        node = Node(0, tuple(sorted(online)), _memory(files, "meminfo", files.read(["meminfo"])[0]))
        return dict.fromkeys(online, 0), (node,)
    names = [[f"node{node}/{name}" for name in ("cpulist", "distance", "meminfo")] for node in numbers]
    texts = iter(files.read(name for of_node in names for name in of_node))
    nodes: list[Node] = []
    node_of: dict[int, int] = {}
    for number, (cpulist, distance, meminfo) in zip(numbers, names, strict=True):
        cpus = files.cpus(cpulist, next(texts) or "") & online
        node_of.update(dict.fromkeys(cpus, number))
        distances = _distances(files, distance, next(texts), numbers)
        nodes.append(Node(number, tuple(sorted(cpus)), _memory(files, meminfo, next(texts)), distances))
    # A CPU of no node: the kernel takes its memory from the first.
    return dict.fromkeys(online, numbers[0]) | node_of, tuple(nodes)


def _distances(files: SysFiles, name: str, text: str | None, nodes: Sequence[int]) -> dict[int, int]:
    if text is None:
        return {}
    values = [files.number(name, word) for word in text.split()]
    if len(values) != len(nodes):  # a column for each node that is online, whatever its number
        raise CpuError(f"{files.path(name)} says {text[:200]!r}: {len(values)} distances for {len(nodes)} nodes")
    return dict(zip(nodes, values, strict=True))


def _memory(files: SysFiles, name: str, text: str | None) -> int:
    """Bytes, by the line "Node 0 MemTotal:  1024 kB"; 0 if there is no such file."""
    if text is None:
        return 0
    for line in text.splitlines():
        words = line.split()
        if "MemTotal:" in words[:-1]:
            return files.number(name, words[words.index("MemTotal:") + 1]) * 1024
    raise CpuError(f"{files.path(name)} has no line with MemTotal: {text[:60]!r}")


# ---- the name --------------------------------------------------------------------------------------------------------


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO in a copied tree must not hold us


def _model(root: str) -> str:
    """The processor's name, from the record of the first CPU: the kernel takes milliseconds to write all of them."""
    try:
        with open(os.path.join(root, "proc/cpuinfo"), "rb", buffering=0, opener=_at_once) as file:
            text = (file.read(8192) or b"").decode("utf-8", "replace")
    except OSError:
        return ""  # a name is no reason to fail
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    names = ("model name", "cpu model", "cpu", "Processor")  # x86, MIPS, POWER, old Arm
    return next((" ".join(found[name].split()) for name in names if found.get(name)), "")
