"""How the doctor looks at a host: files below a root, with what they held kept as evidence.

Owns no resource: every file is closed when it has been read, and nothing is ever written. A file that cannot be read,
or makes no sense, raises `Unread`, which becomes the finding "unknown".
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass

from corelane.cpu.cgroups import MOUNTS, OWN, hierarchies
from corelane.cpu.doctor import COSTS, OK, UNKNOWN, Advice, Cost, Evidence, Finding
from corelane.cpu.lists import format_cpus, parse_cpus
from corelane.cpu.sysfs import contents
from corelane.errors import CpuError

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from corelane.cpu.doctor_measures import Figures, Spread

__all__ = ["CPU", "Group", "Host", "Look", "Unread", "cpu_groups", "spread_cost", "to_isolate"]

CPU = "/sys/devices/system/cpu"

_MOST_BYTES = 4 << 20  # that a packed file may unpack to
_SHOWN = 120  # characters of a value, as evidence


class Unread(Exception):
    """A value is not to be had; the message says which and why."""


@dataclass
class Host:
    """Where to look. `here`: it is the machine that we run on. `figures`: what was measured, None if nothing was."""

    root: str
    here: bool
    figures: Figures | None = None

    def path(self, name: str) -> str:
        """Where a file of the host's is for us."""
        return os.path.join(self.root, name.lstrip("/"))

    def name(self, path: str) -> str:
        """What a file of ours is called there: the way back."""
        return path.removeprefix(self.root.rstrip("/"))

    def bytes(self, name: str) -> bytes:
        """What is in a file.

        Raises:
            OSError: it cannot be read.
        """
        found = contents(self.path(name))
        if isinstance(found, int):
            raise OSError(-found, os.strerror(-found))
        return found


class Look:
    """What one check reads: each value is also its evidence."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.evidence: list[Evidence] = []

    # ---- reading

    def note(self, where: str, value: object) -> None:
        """Keep what was found; a long value is cut."""
        text = str(value)
        self.evidence.append(Evidence(where, text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."))

    def text(self, name: str, note: bool = True) -> str:
        """A file, without the white space around it."""
        try:
            text = self.host.bytes(name).decode(errors="replace").strip()
        except OSError as error:
            raise Unread(f"{self.host.path(name)}: {os.strerror(error.errno or 0)}") from None
        if note:
            self.note(self.host.path(name), text.partition("\n")[0] or "(empty)")
        return text

    def text_or_none(self, name: str) -> str | None:
        """The same, or None where this kernel has no such file although it has its directory."""
        path = self.host.path(name)
        if os.path.isdir(os.path.dirname(path)) and not os.path.lexists(path):
            self.note(path, "(no such file)")
            return None
        return self.text(name)

    def odd(self, name: str, found: str, wanted: str) -> Unread:
        """For what makes no sense."""
        return Unread(f"{self.host.path(name)} holds {found[:60]!r}, not {wanted}")

    def to_int(self, name: str, text: str) -> int:
        """A number out of that file."""
        try:
            return int(text)
        except ValueError:
            raise self.odd(name, text, "a number") from None

    def number(self, name: str) -> int:
        """A file that holds one number."""
        return self.to_int(name, self.text(name))

    def cpus(self, name: str, *, mask: bool = False) -> frozenset[int]:
        """A file that holds a list or a mask of CPUs or nodes, or none."""
        text = self.text(name)
        if text in ("", "(null)"):  # as kernels print the empty set
            return frozenset()
        try:
            return parse_cpus(text, mask=mask)
        except ValueError:
            raise self.odd(name, text, "a mask of CPUs" if mask else "a list of CPUs") from None

    def chosen(self, name: str) -> str:
        """The word in brackets: "always [madvise] never"."""
        text = self.text(name)
        found = re.search(r"[\[(]([\w+-]+)[\])]", text)
        if found is None:
            raise self.odd(name, text, "a choice like 'a [b] c'")
        return found[1]

    def fields(self, name: str) -> dict[str, str]:
        """Lines of "name: value", as in /proc/self/status; or "name value"."""
        lines = self.text(name, note=False).splitlines()
        pairs = (line.split(maxsplit=1) for line in lines)
        return {words[0].rstrip(":"): "".join(words[1:]).strip() for words in pairs if words}

    def directory(self, name: str) -> list[str]:
        """The names in a directory, sorted."""
        try:
            return sorted(os.listdir(self.host.path(name)))
        except OSError as error:
            raise Unread(f"{self.host.path(name)}: {os.strerror(error.errno or 0)}") from None

    def kernel_config(self) -> tuple[str, dict[str, str]]:
        """How the kernel was built: the file that says so, and its settings."""
        release = self.text("/proc/sys/kernel/osrelease", note=False)
        missing = []
        for name in ("/proc/config.gz", f"/boot/config-{os.path.basename(release)}"):
            try:
                data = self.host.bytes(name)
                if name.endswith(".gz"):
                    data = zlib.decompressobj(31).decompress(data, _MOST_BYTES)
            except OSError as error:
                missing.append(f"{self.host.path(name)}: {os.strerror(error.errno or 0)}")
            except zlib.error:
                missing.append(f"{self.host.path(name)} is no gzip file")
            else:
                lines = data.decode(errors="replace").splitlines()
                return name, dict(line.split("=", 1) for line in lines if re.match(r"CONFIG_\w+=", line))
        raise Unread("; ".join(missing))

    def online(self) -> frozenset[int]:
        """The CPUs that take work."""
        name = f"{CPU}/online"
        cpus = self.cpus(name)
        if not cpus:
            raise self.odd(name, "", "a list of CPUs")
        return cpus

    def capable(self, bit: int) -> bool:
        """Whether we have a capability, by its number."""
        name = "/proc/self/status"
        mask = self.fields(name).get("CapEff", "")
        try:
            return bool(int(mask, 16) >> bit & 1)
        except ValueError:
            raise self.odd(name, f"CapEff: {mask}", "a mask of capabilities") from None

    # ---- what comes of it

    def _finding(self, status: str, text: str, advice: Advice | None = None, cost: Cost | None = None) -> Finding:
        return Finding(self.name, status, text, tuple(self.evidence), cost, advice)

    def ok(self, text: str, cost: Cost | None = None) -> Finding:
        return self._finding(OK, text, None, cost)

    def costs(self, text: str, advice: Advice | None, cost: Cost | None = None) -> Finding:
        return self._finding(COSTS, text, advice, cost)

    def unknown(self, text: str) -> Finding:
        return self._finding(UNKNOWN, text)


def spread_cost(figure: Spread, what: str) -> Cost:
    """What was measured several times, by its median."""
    return Cost(figure.p50, "us", f"{what}, the median (p99 {figure.p99:,.0f})")


def to_isolate(online: frozenset[int]) -> str:
    """The CPUs that an administrator might keep free: the upper half, as the first ones serve most interrupts."""
    return format_cpus(sorted(online)[(len(online) + 1) // 2 :])


@dataclass(frozen=True)
class Group:
    """One cgroup that limits our CPU time: ours, or one above it. `directory` is its name on the host."""

    directory: str
    version: int


def cpu_groups(look: Look) -> list[Group]:
    """Our cgroups that have a CPU controller and all above them, the lowest first; none where there are no cgroups."""
    for name in (OWN, MOUNTS):
        look.text(name, note=False)  # without which there is nothing to be known
    groups = []
    try:
        for found in hierarchies(look.host.root):
            if "cpu" in found.controllers:
                if not found.directories:
                    raise Unread(f"{look.host.path(OWN)}: {found.path}: {found.problem}")
                groups += [Group(look.host.name(each), found.version) for each in found.directories]
    except CpuError as error:
        raise Unread(str(error)) from None
    return groups
