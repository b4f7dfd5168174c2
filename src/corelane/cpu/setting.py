"""What is set of processes by those who place them: one thin layer over the calls that do it. Owns nothing."""

from __future__ import annotations

import errno
import os
from typing import Any

from corelane.cpu.lists import format_cpus
from corelane.errors import CpuRefused, NotSupported, cpu_refused

__all__ = ["cpu_seconds", "refusals", "set_io_priority", "set_mask", "set_nice", "set_sched", "start_of"]

_POLICIES = {name: f"SCHED_{name.upper()}" for name in ("other", "batch", "idle", "fifo", "rr")}
_ADVICE = {
    "cpus": "none of them is both online and in its cpuset, or the process is another user's (that needs CAP_SYS_NICE)",
    "nice": "a higher priority than it has needs CAP_SYS_NICE or a lower RLIMIT_NICE",
    "sched": "real-time policies need CAP_SYS_NICE or RLIMIT_RTPRIO",
}


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _each_thread(pid: int, what: str, advice: str, call: Any) -> None:
    """Call for each thread, until none is left that was not there before.

    A new thread has what the thread has that made it: one made by a thread that was not set yet, after the list was
    read, is only in the next list.
    """
    done: set[int] = set()
    while new := [tid for tid in _threads(pid) if tid not in done]:
        for tid in new:
            done.add(tid)
            try:
                call(tid)
            except ProcessLookupError:  # that thread has ended; if all have, there is no list
                continue
            except OSError as error:
                raise cpu_refused(f"{what} of process {pid}", error.errno or errno.EIO, advice) from None
    if not done or not _threads(pid):
        raise cpu_refused(f"{what} of process {pid}", errno.ESRCH)


def set_mask(pid: int, cpus: frozenset[int]) -> None:
    """Make all threads of a process run on these CPUs.

    Raises:
        CpuRefused: the system does not; the process is gone. NotSupported: it has no such call (macOS).
    """
    if not hasattr(os, "sched_setaffinity"):
        raise NotSupported("this system has no call that keeps a process on some CPUs")
    what = f"CPUs {format_cpus(cpus)}"
    _each_thread(pid, what, _ADVICE["cpus"], lambda tid: os.sched_setaffinity(tid, cpus))


def set_nice(pid: int, nice: int) -> None:
    """The nice value of all threads: on Linux each has its own."""
    if not os.path.isdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, pid, nice)
        except OSError as error:
            raise cpu_refused(f"nice {nice} of process {pid}", error.errno or errno.EIO, _ADVICE["nice"]) from None
        return
    _each_thread(pid, f"nice {nice}", _ADVICE["nice"], lambda tid: os.setpriority(os.PRIO_PROCESS, tid, nice))


def set_sched(pid: int, sched: Any) -> None:
    """The scheduling policy of all threads: "batch", or ("fifo", 10)."""
    name, priority = (sched, 0) if isinstance(sched, str) else sched
    if not hasattr(os, "sched_setscheduler"):
        raise NotSupported(f"this system has no scheduling policies like {name}")
    policy = getattr(os, _POLICIES[name])
    parameter = os.sched_param(priority)
    _each_thread(pid, f"policy {sched!r}", _ADVICE["sched"], lambda tid: os.sched_setscheduler(tid, policy, parameter))


def set_io_priority(pid: int, value: Any) -> None:
    """The I/O priority of all threads: "idle", or ("best-effort", 4)."""
    import psutil

    name, level = (value, None) if isinstance(value, str) else value
    classes = {"realtime": "IOPRIO_CLASS_RT", "best-effort": "IOPRIO_CLASS_BE", "idle": "IOPRIO_CLASS_IDLE"}
    if not hasattr(psutil, "IOPRIO_CLASS_RT"):
        raise NotSupported("this system has no I/O priorities")
    number = getattr(psutil, classes[name])

    def call(tid: int) -> None:
        try:
            psutil.Process(tid).ionice(number, level)
        except psutil.AccessDenied:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None
        except psutil.NoSuchProcess:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None

    _each_thread(pid, f"I/O priority {value!r}", "the realtime class needs CAP_SYS_NICE", call)


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


def refusals(calls: Any, best_effort: bool) -> tuple[CpuRefused, ...]:
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
