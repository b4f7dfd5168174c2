"""What lies around: the segments that have a name, who made them, whether anybody holds them.

Owns nothing. Read-only but for `clean`, which removes what nobody holds.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from corelane._ffi import ffi, lib
from corelane.shm.names import entries, path_of
from corelane.shm.segment import KINDS, _corrupted, _failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Entry", "clean", "entry_of", "find_holders", "list_segments"]


class Entry:
    """One name. `held`: by any process; None where we may not look. `problem` says what is wrong with it, or "".

    `held_by` are the processes that hold it, by their leases, as our /proc numbers them; None before `find_holders`,
    and where it found none that it may look into. Those of other users, or outside our pid namespace, may be missing.
    `kind`, `size` (bytes of data), `creator` (a pid, perhaps of another pid namespace) and `created` (seconds since
    1970) are None if it is none that can be attached. `owner` is the number of its user, `mode` its permission bits.
    `ours`: it is a segment, or was one before it was damaged: what `clean` removes when nobody holds it.
    """

    __slots__ = (
        "_file",
        "created",
        "creator",
        "held",
        "held_by",
        "kind",
        "mode",
        "name",
        "ours",
        "owner",
        "problem",
        "size",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem = ""
        self.held: bool | None = None
        self.held_by: tuple[int, ...] | None = None
        self.kind: str | None = None
        self.size: int | None = None
        self.creator: int | None = None
        self.created: float | None = None
        self.owner: int | None = None
        self.mode: int | None = None
        self.ours = False
        self._file: tuple[int, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in sorted(self.__slots__) if name[0] != "_"}


def list_segments() -> list[Entry]:
    """All that have a name here, sorted by it."""
    found = []
    for name, _ in entries():
        try:
            found.append(entry_of(name))
        except FileNotFoundError:
            continue  # gone since
    return found


def entry_of(name: str) -> Entry:
    """One of them.

    Raises:
        FileNotFoundError: there is none of that name. ValueError: it is no name.
    """
    entry, path = Entry(name), path_of(name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _failed(errno.ENOENT, f"cannot look at the segment {name!r}", path, None) from None
    except OSError as error:
        entry.problem = f"cannot be opened: {error.strerror}"
        return entry
    try:
        there = os.fstat(fd)
        entry.owner, entry.mode = there.st_uid, there.st_mode & 0o7777
        entry._file = there.st_dev, there.st_ino
        held = lib.cl_segment_is_held(fd)
        entry.held = None if held < 0 else bool(held)
        _look_inside(entry, fd)
    finally:
        os.close(fd)
    return entry


def find_holders(found: list[Entry]) -> None:
    """Fill in `held_by` of each, from /proc.

    An fdinfo tells the locks of one open description, so it is the lease itself that is found, not a descriptor that
    was merely passed on. A process that ends meanwhile holds nothing.
    """
    by_file: dict[tuple[int, int], set[int]] = {entry._file: set() for entry in found if entry.held and entry._file}
    if by_file:
        with suppress(OSError):  # there is no /proc
            for process in filter(str.isdigit, os.listdir("/proc")):
                _look_at_process(process, by_file)
    for entry in found:
        pids = by_file.get(entry._file, ()) if entry._file else ()
        entry.held_by = tuple(sorted(pids)) if pids or entry.held is False else None


def _look_at_process(process: str, by_file: dict[tuple[int, int], set[int]]) -> None:
    try:
        numbers = os.listdir(f"/proc/{process}/fd")
    except OSError:
        return  # it has ended, or is not ours to look into
    for number in numbers:
        with suppress(OSError):  # closed since
            there = os.stat(f"/proc/{process}/fd/{number}")
            pids = by_file.get((there.st_dev, there.st_ino))
            if pids is None or int(process) in pids:
                continue
            with open(f"/proc/{process}/fdinfo/{number}") as file:
                if any(line.startswith("lock:") and "OFDLCK" in line for line in file):
                    pids.add(int(process))


# What cl_segment_clean leaves alone.
_NOT_OURS = (lib.CL_SEGMENT_FOREIGN, lib.CL_SEGMENT_NO_FILE, lib.CL_SEGMENT_SHORT)


def _look_inside(entry: Entry, fd: int) -> None:
    report = ffi.new("cl_segment_report *")
    rc = lib.cl_segment_peek(fd, report)
    entry.ours = rc >= 0 or (rc == -errno.EBADMSG and report.fault not in _NOT_OURS)
    if rc == -errno.EBADMSG:
        entry.problem = str(_corrupted("", report)).partition(": ")[2]
    elif rc < 0:
        entry.problem = os.strerror(-rc)
    else:
        entry.kind = KINDS.get(report.kind, f"kind {report.kind}")
        entry.size, entry.creator = int(report.size), int(report.creator)
        entry.created = report.created_ns / 1e9


def clean(names: list[str] | None = None) -> list[str]:
    """Remove the segments that nobody holds.

    Args:
        names: which; None: all there are, and what processes that were killed have left beside them (not on Linux).

    Returns:
        The names that were removed. What is held, or is no segment of ours, stays.

    Raises:
        FileNotFoundError: one of `names` is not there. PermissionError: it is somebody else's (only if it was named).
    """
    removed = []
    for name in [name for name, _ in entries()] if names is None else names:
        path = path_of(name)
        rc = lib.cl_segment_clean(os.fsencode(path))
        if rc == 1:
            removed.append(name)
        elif rc < 0 and names is not None and rc != -errno.EBADMSG:
            raise _failed(-rc, f"cannot remove the segment {name!r}", path, None)
    if names is None:
        lib.cl_segment_sweep()  # what lies beside them
    return removed
