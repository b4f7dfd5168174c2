"""Whom a change is for: one thread, or all threads of a process; and the refusals that come of it.

Owns nothing. Linux schedules threads, and what POSIX says of processes it does to one thread. So everywhere in this
package: nothing given is the calling thread; `tid` is one thread; `pid` is, where something is asked, the main thread
of that process, as taskset(1), chrt(1) and ionice(1) have it, and, where something is set, all its threads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from corelane._ffi import PLATFORM
from corelane._values import integer
from corelane.errors import CpuError, CpuRefused, NotSupported, cpu_refused, cpu_unreadable

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Target", "apply", "collect", "number_of", "refusal"]

_MOST_PIDS = 2**22  # PID_MAX_LIMIT


def number_of(name: str, value: Any) -> int:
    """A pid, tid, or number of a group or user, checked."""
    if value == 0 and not isinstance(value, bool):
        raise ValueError(f"{name} cannot be 0; to name the calling thread, leave it out")
    return integer(1, _MOST_PIDS)(name, value)


class Target:
    """The thread or process that was named.

    Attributes:
        thread: its number for the kernel: 0 is the calling thread, and a process's names its main thread.
        pid: the process, or None where one thread is meant.
    """

    __slots__ = ("pid", "text", "thread")

    def __init__(self, pid: int | None, tid: int | None) -> None:
        if pid is not None and tid is not None:
            raise ValueError(f"give pid={pid}, for a process, or tid={tid}, for one thread, not both")
        self.pid = None if pid is None else number_of("pid", pid)
        self.thread = 0
        self.text = "this thread"
        if pid is not None:
            self.thread, self.text = pid, f"process {pid}"
        elif tid is not None:
            self.thread, self.text = number_of("tid", tid), f"thread {tid}"

    def threads(self) -> list[int]:
        """The numbers of the process's threads, as far as one look can tell.

        Raises:
            FileNotFoundError, ProcessLookupError: it is gone. CpuError: /proc cannot be asked.
        """
        try:
            return [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
        except FileNotFoundError:
            if not os.path.exists("/proc/self/task"):
                raise CpuError(
                    f"/proc is not mounted, so the threads of {self.text} are not known: give tid= for one of them"
                ) from None
            raise
        except ProcessLookupError:
            raise
        except OSError as error:
            raise cpu_unreadable(f"/proc/{self.pid}/task", error.errno or errno.EIO) from None


def refusal(what: str, number: int, step: str, **facts: Any) -> CpuRefused:
    """The error for something refused, with advice.

    Args:
        what: what was asked of which object. number: the errno. step: the kind of thing, see `refusals.advice`.
    """
    try:
        from corelane.cpu.refusals import advice
    except (ImportError, OSError):  # we have given up the rights to read it: the refusal must be told all the same
        return cpu_refused(what, number)
    return cpu_refused(what, number, advice(step, number, **facts))


def collect(refused: list[CpuRefused], best_effort: bool) -> tuple[CpuRefused, ...]:
    """What was refused, raised unless that is all right.

    Raises:
        NotSupported: the platform has no such thing. CpuRefused.
    """
    if refused and not best_effort:
        first = refused[0]
        if PLATFORM == "darwin" and first.errno == errno.ENOTSUP:
            raise NotSupported(f"{first.what}: macOS has no such thing (set_nice and set_qos are what it has)")
        raise first
    return tuple(refused)


def apply(target: Target, act: Callable[[int], CpuRefused | None], step: str, best_effort: bool) -> list[CpuRefused]:
    """Do something to a thread, or to all threads of a process.

    A process may start threads meanwhile, and a new thread has what the one that started it had at that moment:

        we                                    thread A                    thread B
        list the threads: A
                                              starts B
        set A
                                                                          has what A had before

    So the list is read again until it has nobody new. What is left of that race is a thread that is being made at the
    moment of the last look and is not in any list yet; no call of the kernel's excludes it.

    Args:
        act: changes one thread by its number; returns what refused it.

    Returns:
        What was refused, the first of each kind; of a thread that has ended meanwhile nothing.

    Raises:
        CpuRefused: the same, at once, unless `best_effort`.
    """
    if target.pid is None or PLATFORM == "darwin":
        refused = act(target.thread)
        return [] if refused is None else list(collect([refused], best_effort))
    kinds: dict[int | None, CpuRefused] = {}
    done: set[int] = set()
    while True:
        try:
            fresh = [tid for tid in target.threads() if tid not in done]
        except (FileNotFoundError, ProcessLookupError):
            if done:
                break  # it ended meanwhile
            gone = refusal(target.text, errno.ESRCH, step, target=target)
            return list(collect([gone], best_effort))
        if not fresh:
            break
        done.update(fresh)
        for tid in fresh:
            refused = act(tid)
            if refused is None or refused.errno == errno.ESRCH:
                continue
            collect([refused], best_effort)
            kinds.setdefault(refused.errno, refused)
    return list(kinds.values())
