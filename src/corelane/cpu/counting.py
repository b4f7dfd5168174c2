"""The true count: what affinity, cpusets, cgroup quotas, batch systems and Python's own setting leave to this process.

Owns the last live budgets with the texts that they were made of. It keeps no descriptor: whoever closes the
descriptors of a program would have us read somebody else's file. Any thread may ask; a value is replaced as a whole.
After fork the child's texts are compared as the parent's are. It changes nothing; `watch.py` tells of changes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from corelane.cpu import granted
from corelane.cpu.cgroups import OWN, Hierarchy, hierarchies
from corelane.cpu.limit import Budget, Limit, rounded_up
from corelane.cpu.lists import cpu_list, parse_cpus
from corelane.cpu.sysfs import inside, read
from corelane.errors import CpuError

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["available", "budget", "count", "cpuset_of", "explain", "live", "usable"]

_ONLINE = "/sys/devices/system/cpu/online"
_STATUS = "/proc/self/status"
# v1 has names without a prefix where it is mounted with "noprefix"; "effective" is what the parents leave of it.
_CPUSETS = {
    1: ("cpuset.effective_cpus", "effective_cpus", "cpuset.cpus", "cpus"),
    2: ("cpuset.cpus.effective", "cpuset.cpus"),
}
_get_affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # Linux


# ---- what is asked for -----------------------------------------------------------------------------------------------


def budget(
    root: str | os.PathLike[str] = "/",
    environ: Mapping[str, str] | None = None,
    affinity: Any = None,
    *,
    best_effort: bool = False,
) -> Budget:
    """What this process may use: its affinity, the cpusets and CPU quotas of its cgroups and of all their parents, what
    Slurm, PBS or LSF granted, and PYTHON_CPU_COUNT; the lowest is the count.

    The affinity is the calling thread's, the cgroups are the process's. A quota is rounded up: 2.5 CPUs' worth of time
    are used by three threads, not by two. Malformed or stale variables of the environment are in `ignored`.

    Args:
        root: of a tree of files to read instead of the system's, for machines that this is not. The affinity is then
            that of its proc/self/status.
        environ: variables to read instead of os.environ and `python -X cpu_count`.
        affinity: CPUs to take for the affinity, in any way `parse_cpus` reads.
        best_effort: what cannot be read, or is malformed, is among the ignored instead of being an error.

    Raises:
        CpuError: a file of the kernel is there but unreadable or malformed; it is named.
        TypeError, ValueError: `affinity` is no set of CPUs, `root` no path.
    """
    root = os.fsdecode(root)
    given = None if affinity is None else parse_cpus(affinity)
    if given is None and environ is None and root == "/" and not best_effort:
        return live().budget
    variables = os.environ if environ is None else environ
    return _evaluate(root, variables.get, _option() if environ is None else None, given, best_effort).budget


def count() -> int:
    """How many threads or processes can really run at the same time here: at least 1. See `budget`."""
    return live().budget.count


def usable() -> int:
    """`count()`, for who has to have a number: what cannot be read limits nothing."""
    try:
        return count()
    except CpuError:
        return budget(best_effort=True).count


def available() -> frozenset[int]:
    """The CPUs that the calling thread may run on: its affinity, within the cpuset and a batch system's binding."""
    return live().budget.cpus


def explain() -> str:
    """`count()` as a table: every limit, where it was read, and which of them binds."""
    return _evaluate("/", os.environ.get, _option(), None, False).budget.explain()


# ---- kept as long as nothing changes ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Evaluation:
    """A budget and what it was made of. `texts` are the files that decided it, None for one that was not there but may
    come; `watched` are those of them whose change is a write, and those that tell of files to come."""

    budget: Budget
    key: tuple[Any, ...]
    texts: dict[str, str | None]
    watched: tuple[str, ...]


# Each by its key: threads may have an affinity each.
_kept: dict[tuple[Any, ...], Evaluation] = {}
_MOST_KEPT = 64


def live(thread: int = 0) -> Evaluation:
    """The budget of the running process; the last one if what it was made of has not changed.

    The table of mounts is read again only when our cgroup changes or a file of it goes: it is long.

    Args:
        thread: the kernel's number of the one whose affinity counts; 0 for the calling one.
    """
    key = _key(thread)
    last = _kept.get(key)
    if last is not None and is_current(last):
        return last
    found = _evaluate("/", os.environ.get, _option(), None, False, key)
    if _key(thread) == key:  # else another thread has changed a variable, and what was found is not of this key
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[key] = found
    return found


def is_current(evaluation: Evaluation) -> bool:
    """Whether the files that it was made of have not changed."""
    try:
        return all(read(path) == text for path, text in evaluation.texts.items())
    except CpuError:
        return False  # an evaluation says it better


def _key(thread: int) -> tuple[Any, ...]:
    affinity = None if _get_affinity is None else frozenset(_get_affinity(thread))
    # Looking up what is not there costs os.environ an exception each; what it is made of does not.
    stored = getattr(os.environ, "_data", None)
    if type(stored) is dict:
        return affinity, _option(), *map(stored.get, _STORED_NAMES)
    return affinity, _option(), *map(os.environ.get, granted.NAMES)


_STORED_NAMES = tuple(name.encode() for name in granted.NAMES)


def _option() -> object:
    """Of `python -X cpu_count=`; under -E and -I Python looks at none of its variables, and neither do we."""
    return sys._xoptions.get("cpu_count", "default" if sys.flags.ignore_environment else None)


# ---- reading it all --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reading:
    """What one evaluation has found so far."""

    root: str
    best_effort: bool
    limits: list[Limit] = field(default_factory=list)
    ignored: list[Limit] = field(default_factory=list)
    texts: dict[str, str | None] = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)

    def attempt(self, name: str, where: str, step: Callable[[], Any]) -> Any:
        """A step that may meet an unreadable or malformed file, which is an error only if that was asked for."""
        try:
            return step()
        except CpuError as error:
            if not self.best_effort:
                raise
            self.ignored.append(Limit(name, where=where, ignored=str(error)))
            return None

    def text(self, path: str, *, may_come: bool = False) -> str | None:
        """The text of a file that decides; one that is not there is asked for again only if it may come."""
        text = read(path)
        if text is not None or may_come:
            self.texts[path] = text
        if text is not None:
            self.watched.append(path)
        return text


def _evaluate(
    root: str,
    get: Callable[[str], str | None],
    option: object,
    affinity: frozenset[int] | None,
    best_effort: bool,
    key: tuple[Any, ...] = (),
) -> Evaluation:
    reading = _Reading(root, best_effort)
    own = inside(root, OWN)
    online = reading.attempt("online", _ONLINE, lambda: _online(reading))
    reading.attempt("affinity", _STATUS, lambda: _affinity(reading, affinity, key))
    reading.attempt("cgroups", own, lambda: reading.texts.update({own: read(own)}))
    for hierarchy in reading.attempt("cgroups", own, lambda: hierarchies(root)) or ():
        if hierarchy.problem:
            name = f"cgroup v{hierarchy.version} {','.join(sorted(hierarchy.controllers))}"
            reading.ignored.append(Limit(name, where=own, text=hierarchy.path, ignored=hierarchy.problem))
        _hierarchy(reading, hierarchy)
    for limit in granted.limits(get, option):
        (reading.ignored if limit.ignored else reading.limits).append(limit)
    return Evaluation(_summed(reading, online), key, reading.texts, tuple(dict.fromkeys(reading.watched)))


def _parsed(path: str, text: str) -> frozenset[int] | None:
    """The CPUs of a file; None for an empty one."""
    if not text.strip():
        return None
    try:
        return frozenset(cpu_list("it", text))
    except ValueError as error:
        raise CpuError(f"{path}: {text!r} is no list of CPUs ({error})") from None


def _online(reading: _Reading) -> frozenset[int] | None:
    # Not among the texts that decide: when a CPU goes, the affinity loses it.
    path = inside(reading.root, _ONLINE)
    text = read(path) or ""
    cpus = _parsed(path, text)
    if cpus:
        reading.limits.append(Limit("online", cpus=cpus, where=path, text=text))
    return cpus


def _affinity(reading: _Reading, given: frozenset[int] | None, key: tuple[Any, ...]) -> None:
    if given is not None:
        reading.limits.append(Limit("affinity", cpus=given, where="affinity="))
    elif reading.root == "/":
        found = key[0] if key else None if _get_affinity is None else _get_affinity(0)
        if found:
            reading.limits.append(Limit("affinity", cpus=frozenset(found), where="sched_getaffinity(2)"))
    else:
        path = inside(reading.root, _STATUS)
        for line in (read(path) or "").splitlines():
            if line.startswith("Cpus_allowed_list:"):
                text = line.partition(":")[2]
                reading.limits.append(Limit("affinity", cpus=_parsed(path, text), where=path, text=text))


def _hierarchy(reading: _Reading, hierarchy: Hierarchy) -> None:
    """The limits of one tree of cgroups, from our directory up."""
    controllers, version = hierarchy.controllers, hierarchy.version
    if version == 2 and hierarchy.directories:
        controllers = _given_out(reading, hierarchy)
    for directory in hierarchy.directories:
        if version == 2 and controllers and directory != hierarchy.directories[0]:
            reading.watched.append(f"{directory}/cgroup.subtree_control")  # a write there brings and takes files
        if "cpu" in controllers:
            reading.attempt("quota", directory, partial(_quota_v2 if version == 2 else _quota_v1, reading, directory))
    if "cpuset" in controllers:
        reading.attempt("cpuset", hierarchy.path, partial(_cpuset, reading, hierarchy))


def _given_out(reading: _Reading, hierarchy: Hierarchy) -> frozenset[str]:
    """The controllers that version 2 has at the top of what we see; the others are in version 1, or nowhere."""
    top = hierarchy.directories[-1]
    path = f"{top}/cgroup.controllers"
    text = reading.attempt("cgroups", path, lambda: read(path))
    if text is None:
        return hierarchy.controllers
    controllers = hierarchy.controllers & frozenset(text.split())
    # The root of all has no type, and what it is given only mounting changes. Elsewhere a parent may give more.
    if controllers != hierarchy.controllers and os.path.exists(f"{top}/cgroup.type"):
        reading.texts[path] = text
    return controllers


def _quota_v2(reading: _Reading, directory: str) -> None:
    path = f"{directory}/cpu.max"
    text = reading.text(path, may_come=True)
    if text is None:
        return
    fields = text.split()
    if len(fields) in (1, 2) and fields[0] == "max":
        return
    if len(fields) != 2 or not all(each.isdecimal() for each in fields) or not int(fields[0]) or not int(fields[1]):
        raise CpuError(f"{path}: {text!r} is no quota and period in microseconds, like 'max 100000'")
    reading.limits.append(Limit("quota (cgroup v2)", amount=int(fields[0]) / int(fields[1]), where=path, text=text))


def _quota_v1(reading: _Reading, directory: str) -> None:
    path = f"{directory}/cpu.cfs_quota_us"
    quota = reading.text(path)
    if quota is None or quota == "-1\n":
        return
    period = reading.text(f"{directory}/cpu.cfs_period_us") or ""
    for name, text in (("cpu.cfs_quota_us", quota), ("cpu.cfs_period_us", period)):
        if not text.strip().isdecimal() or not int(text):
            raise CpuError(f"{directory}/{name}: {text!r} is no number of microseconds")
    text = f"{quota.strip()} of {period.strip()}"
    reading.limits.append(Limit("quota (cgroup v1)", amount=int(quota) / int(period), where=path, text=text))


def _cpuset(reading: _Reading, hierarchy: Hierarchy) -> None:
    """That of the nearest directory which has one: an empty one of version 2 has its parent's."""
    version = hierarchy.version
    for place, directory in enumerate(hierarchy.directories):
        for name in _CPUSETS[version]:
            path = f"{directory}/{name}"
            text = reading.text(path, may_come=version == 2 and "effective" in name)
            cpus = None if text is None else _parsed(path, text)
            if text is None or cpus is None:
                continue
            reading.limits.append(Limit(f"cpuset (cgroup v{version})", cpus=cpus, where=path, text=text))
            # Nobody writes to the effective one: it changes by a write to ours or to one above.
            written = "cpuset.cpus" if name.startswith("cpuset.") else "cpus"
            reading.watched += [f"{each}/{written}" for each in hierarchy.directories[place:]]
            return


def cpuset_of(pid: str, root: str = "/") -> frozenset[int]:
    """The CPUs that the cpusets of a process leave it; none where no cpuset of its can be read."""
    reading = _Reading(root, best_effort=True)
    for hierarchy in reading.attempt("cgroups", pid, lambda: hierarchies(root, pid)) or ():
        if "cpuset" in hierarchy.controllers:
            reading.attempt("cpuset", hierarchy.path, partial(_cpuset, reading, hierarchy))
    sets = [limit.cpus for limit in reading.limits if limit.cpus is not None]
    return frozenset.intersection(*sets) if sets else frozenset()


# ---- summing up ------------------------------------------------------------------------------------------------------


def _summed(reading: _Reading, online: frozenset[int] | None) -> Budget:
    sets = [limit for limit in reading.limits if limit.cpus is not None and limit.name != "online"]
    # Containers are shown an invented list of those online: where the kernel has told the affinity, it is the truth.
    told = any(limit.where == "sched_getaffinity(2)" for limit in sets)
    cpus = None if told else online
    stale = []
    for limit in sets:
        both = limit.cpus if cpus is None else cpus & (limit.cpus or cpus)
        if both:
            cpus = both
        else:
            stale.append(replace(limit, ignored="none of its CPUs is among those that the limits above leave"))
    if cpus is None:
        if reading.root != "/":
            raise CpuError(
                f"no CPUs are known below {reading.root}: {inside(reading.root, _ONLINE)} is missing or empty"
            )
        cpus = frozenset(range(os.cpu_count() or 1))
        reading.limits.insert(0, Limit("online", cpus=cpus, where="os.cpu_count()"))
    names = {(limit.name, limit.where) for limit in stale}
    kept = [limit for limit in reading.limits if (limit.name, limit.where) not in names]
    amounts = [limit.amount for limit in kept if limit.amount is not None]
    many = min([len(cpus), *(rounded_up(amount) for amount in amounts)])
    everything = online or cpus
    limits = tuple(replace(limit, binds=_binds(limit, many, cpus, everything)) for limit in kept)
    quota = min((limit.amount for limit in kept if limit.name.startswith("quota") and limit.amount), default=math.inf)
    return Budget(cpus, None if quota == math.inf else quota, many, limits, (*stale, *reading.ignored))


def _binds(limit: Limit, many: int, cpus: frozenset[int], online: frozenset[int]) -> bool:
    if limit.amount is not None:
        return rounded_up(limit.amount) == many
    if limit.name == "online" or limit.cpus is None:
        return False
    return len(cpus) == many and not online <= limit.cpus
