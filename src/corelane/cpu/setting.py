"""What placing needs to know of a process, and setting several things of it. Owns nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Any

from corelane.errors import CpuRefused

__all__ = ["cpu_seconds", "refusals", "start_of"]


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


def refusals(calls: Iterable[Callable[[], Any]], best_effort: bool) -> tuple[CpuRefused, ...]:
    """Call each; what the system refuses is raised, or with best_effort collected. A process that is gone is raised."""
    refused = []
    for call in calls:
        try:
            call()
        except CpuRefused as error:
            if not best_effort or error.errno == errno.ESRCH:
                raise
            refused.append(error)
    return tuple(refused)
