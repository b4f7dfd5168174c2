"""Our cgroups: where the directories are whose files limit this process, from our own up to the top that we can see.

Owns nothing. Knows version 1, version 2 and both at once, and what containers do to paths: mounts of a part of the
tree, and namespaces, in which our own path may lead out of what is mounted. It reads no limit: `counting.py` does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from corelane.cpu.sysfs import inside, read
from corelane.errors import CpuError

__all__ = ["MOUNTS", "OWN", "Hierarchy", "hierarchies"]

OWN = "/proc/self/cgroup"
MOUNTS = "/proc/self/mountinfo"

_WANTED = ("cpu", "cpuset")
_DELETED = " (deleted)"  # what the kernel writes behind the path of a removed cgroup


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One tree of cgroups that we are in.

    `directories` lead from ours to the top of what is mounted, with the root that they were looked for below.
    `controllers` are those of "cpu" and "cpuset" that it may have. `problem` says why our own directory was not found;
    the directories, if there are any, are then those above it.
    """

    version: int
    controllers: frozenset[str]
    path: str
    directories: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Mount:
    root: str
    point: str
    version: int
    controllers: frozenset[str]


def hierarchies(root: str = "/", pid: str = "self") -> list[Hierarchy]:
    """The trees with a cpu or cpuset controller that a process is in; none where there are no cgroups.

    Args:
        root: of a tree of files to read instead of the system's. pid: the process, by default this one.

    Raises:
        CpuError: one of the two files in /proc is unreadable or malformed.
    """
    where = inside(root, OWN if pid == "self" else f"/proc/{pid}/cgroup")
    own, mounted = read(where), read(inside(root, MOUNTS))
    if own is None or mounted is None:
        return []
    mounts = _mounts(mounted, inside(root, MOUNTS))
    found = []
    for line in own.splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3 or not fields[2].startswith("/"):
            raise CpuError(f"{where}: {line!r} is not of the form number:controllers:/path")
        names, path = fields[1], fields[2]
        version = 2 if fields[0] == "0" and not names else 1
        controllers = frozenset(_WANTED if version == 2 else names.split(",")) & frozenset(_WANTED)
        fit = [m for m in mounts if m.version == version and controllers & m.controllers]
        if controllers and fit:
            found.append(_locate(root, version, controllers, path, fit))
        elif controllers and version == 1:
            found.append(Hierarchy(version, controllers, path, (), "it is not mounted here"))
    return found


def _locate(root: str, version: int, controllers: frozenset[str], path: str, mounts: list[_Mount]) -> Hierarchy:
    """Look for our cgroup through each mount of its hierarchy: one may show another part of the tree."""
    best = None
    for mount in mounts:
        below, problem = _below(mount.root, path)
        if below is None:
            best = best or Hierarchy(version, controllers, path, (), problem)
            continue
        own = below
        while below and not os.path.isdir(inside(root, mount.point + below)):
            # Removed, or the mount shows less than it says. What is above limits us as well.
            problem = f"its directory {own} is not below {mount.point}"
            below = below.rpartition("/")[0]
        steps = [step for step in below.split("/") if step]
        chain = ["/".join([mount.point.rstrip("/"), *steps[:n]]) or "/" for n in range(len(steps), -1, -1)]
        found = Hierarchy(version, controllers, path, tuple(inside(root, each) for each in chain), problem)
        if not problem:
            return found
        if best is None or len(found.directories) > len(best.directories):
            best = found
    assert best is not None
    return best


def _below(top: str, path: str) -> tuple[str | None, str]:
    """Our path below the mount's top, and what is wrong with it; None if nothing there limits us.

    In a cgroup namespace both paths are told from the namespace's root: "/.." is above it.
    """
    if path.endswith(_DELETED):
        path = path.removesuffix(_DELETED)
    above = top.rstrip("/")
    if path == above or path.startswith(above + "/"):
        rest = path[len(above) :].rstrip("/")
        if ".." not in rest.split("/"):
            return rest, ""
        return None, f"our path {path} lies outside of what is mounted ({top}), in a cgroup namespace"
    steps = [step for step in top.split("/") if step]
    if steps and all(step == ".." for step in steps) and path.count("..") < len(steps):
        return "", f"how our path {path} goes on below the mount's top ({top}) is hidden by a cgroup namespace"
    if ".." in path.split("/"):
        return None, f"our path {path} lies outside of what is mounted ({top}), in a cgroup namespace"
    # A container that is shown its own part of the tree only, while /proc tells another path.
    return "", f"our path {path} is not below the mount's top ({top})"


def _mounts(text: str, where: str) -> list[_Mount]:
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 3:
            raise CpuError(f"{where}: {line!r} is no line of a table of mounts, see proc(5)")
        if kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        controllers = frozenset(_WANTED if version == 2 else kind[2].split(",")) & frozenset(_WANTED)
        if controllers:
            found.append(_Mount(_unescaped(fields[3]), _unescaped(fields[4]), version, controllers))
    return found


def _unescaped(field: str) -> str:
    """Blanks, tabs, newlines and backslashes stand in the table as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
