"""What placing needs to know of a process: which one it is, what it used, whether it is still there. Owns nothing."""

from __future__ import annotations

import errno
import os

from corelane.errors import CpuRefused

__all__ = ["cpu_seconds", "start_of", "unless_gone"]


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: the second, a name, may have anything in it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].decode("ascii", "replace").split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_of(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None if it is gone, or has ended and is not reaped.

    With its number that is the name of one process for ever: numbers come again, but not within a tick.
    """
    fields = _fields(pid)
    return int(fields[19]) if len(fields) > 19 and fields[0] not in "ZX" else None


def cpu_seconds(pid: int) -> float | None:
    """The CPU time that a process has used; None if it is gone."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else None


def unless_gone(refused: tuple[CpuRefused, ...]) -> tuple[CpuRefused, ...]:
    """What a best effort leaves out, as it is; but that the process is gone is an error all the same.

    Raises:
        CpuRefused: it is gone (also ProcessLookupError).
    """
    for error in refused:
        if error.errno == errno.ESRCH:
            raise error
    return refused
