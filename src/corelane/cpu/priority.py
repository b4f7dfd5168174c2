"""How urgently a thread runs, and where its memory comes from: nice values, policies, clamps, I/O priority, autogroups,
memory policy, and on macOS the quality-of-service class.

Owns nothing. Whom `pid` and `tid` mean is said in `threads.py`. Each setter returns what was refused, which is nothing
unless `best_effort`; else it raises the first refusal.
"""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from collections.abc import Callable
from struct import Struct

from corelane._ffi import PLATFORM, ffi, lib
from corelane._values import choice, flag
from corelane.cpu import policies
from corelane.cpu.lists import from_kernel_mask, kernel_mask
from corelane.cpu.policies import Deadline
from corelane.cpu.sysfs import contents
from corelane.cpu.threads import Target, apply, collect, number_of, refusal
from corelane.errors import CpuError, CpuRefused, NotSupported

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Priority",
    "get_io_priority",
    "get_memory_policy",
    "get_nice",
    "get_priority",
    "get_qos",
    "set_io_priority",
    "set_memory_policy",
    "set_nice",
    "set_priority",
    "set_qos",
]

_SCHED = Struct("=9q")  # cl_sched
_QOS = {"user-interactive": 0x21, "user-initiated": 0x19, "default": 0x15, "utility": 0x11, "background": 0x09}


class Priority(namedtuple("Priority", "nice sched reset_on_fork uclamp io_priority autogroup")):
    """What chrt(1), ionice(1) and nice(1) would show of a thread, each in the form in which it can be asked for.

    Attributes:
        nice: -20 (most) to 19. sched: "other", "batch", "idle", ("fifo", 10), ("rr", 10) or a Deadline.
        reset_on_fork: what it forks has the policy "other" again.
        uclamp: (lowest, highest) of 1024; None where the kernel has no such thing.
        io_priority: ("best-effort", 4), ..., "idle", or "none": it follows the nice value; None where there is none.
        autogroup: the nice value of its session's autogroup; None where the kernel has none.
    """

    __slots__ = ()


# ---- who -------------------------------------------------------------------------------------------------------------


class _Many:
    """A process group or a user: the kernel does it to all threads of those by itself."""

    def __init__(self, group: int | None, user: int | None) -> None:
        if group is not None and user is not None:
            raise ValueError(f"give group={group} or user={user}, not both")
        if group is not None:
            self.who, self.id, self.text = lib.CL_WHO_GROUP, number_of("group", group), f"process group {group}"
        else:
            if isinstance(user, bool) or not isinstance(user, int) or not 0 <= user < 2**32 - 1:
                raise ValueError(f"user must be a user's number, not {user!r}")
            self.who, self.id, self.text = lib.CL_WHO_USER, user, f"all of user {user}"

    @property
    def number(self) -> int:
        """For the core's int32_t."""
        return self.id - 2**32 if self.id >= 2**31 else self.id


def _whom(pid: int | None, tid: int | None, group: int | None, user: int | None) -> Target | _Many:
    if group is None and user is None:
        return Target(pid, tid)
    if pid is not None or tid is not None:
        raise ValueError("give one of pid=, tid=, group= and user=")
    many = _Many(group, user)
    if many.who == lib.CL_WHO_USER and many.id == 0 and os.getuid() != 0:
        # To the kernel 0 is the caller's own user.
        raise ValueError("user=0 can only be named by root: to the kernel the number 0 means the calling user")
    return many


def _change(
    whom: Target | _Many, what: str, step: str, value: Any, best_effort: bool, call: Callable[[int, int], int]
) -> tuple[CpuRefused, ...]:
    """Do `call(who, id)`, which returns -errno, to each thread meant."""
    if isinstance(whom, _Many):
        rc = call(whom.who, whom.number)
        # For a value that one may not have the kernel answers EACCES, but EPERM for realtime I/O.
        if rc == -errno.EPERM and (step == "nice" or value >> 13 != policies.IO_CLASSES["realtime"]):
            step = "others"
        refused = [refusal(f"{what} for {whom.text}", -rc, step, value=value)] if rc < 0 else []
        return collect(refused, best_effort)

    def act(thread: int) -> CpuRefused | None:
        rc = call(lib.CL_WHO_THREAD, thread)
        if rc >= 0:
            return None
        return refusal(f"{what} for {whom.text}", -rc, step, value=value, target=whom)

    return collect(apply(whom, act, step, best_effort), best_effort)


def _answer(rc: int, what: str, whom: Target | _Many, step: str) -> int:
    if rc < 0:
        facts: dict[str, Any] = {"target": whom} if isinstance(whom, Target) else {}
        collect([refusal(f"{what} of {whom.text}", -rc, step, **facts)], False)
    return rc


def _ask(whom: Target | _Many, call: Callable[[int, int], int], what: str, step: str) -> int:
    """What `call(who, id)` returns of those meant."""
    where = (whom.who, whom.number) if isinstance(whom, _Many) else (lib.CL_WHO_THREAD, whom.thread)
    return _answer(call(*where), what, whom, step)


# ---- nice and I/O priority -------------------------------------------------------------------------------------------


def get_nice(
    pid: int | None = None, *, tid: int | None = None, group: int | None = None, user: int | None = None
) -> int:
    """A nice value, from -20 (most) to 19.

    Args:
        pid: a process: its main thread's. tid: one thread. group, user: the lowest among the threads of a process
            group, or of a user's. None of them: the calling thread.

    Raises:
        CpuRefused: it is gone (also ProcessLookupError).
    """
    return 20 - _ask(_whom(pid, tid, group, user), lib.cl_cpu_get_nice, "the nice value", "nice")


def set_nice(
    nice: int,
    pid: int | None = None,
    *,
    tid: int | None = None,
    group: int | None = None,
    user: int | None = None,
    best_effort: bool = False,
) -> tuple[CpuRefused, ...]:
    """Set a nice value.

    Args:
        nice: -20 (most) to 19.
        pid: all threads of a process. tid: one thread. group, user: all threads of a process group, or of a user's.
            None of them: the calling thread.
        best_effort: return what is refused instead of raising it.

    Raises:
        ValueError, TypeError: no such value. CpuRefused: not allowed (also PermissionError), or gone.
    """
    value = policies.nice("nice", nice)
    whom = _whom(pid, tid, group, user)
    return _change(
        whom, f"nice {value}", "nice", value, best_effort, lambda who, id: lib.cl_cpu_set_nice(who, id, value)
    )


def get_io_priority(
    pid: int | None = None, *, tid: int | None = None, group: int | None = None, user: int | None = None
) -> Any:
    """An I/O priority: ("realtime", 0..7), ("best-effort", 0..7), "idle", or "none", which follows the nice value.

    Args:
        As for `get_nice`; of several threads the highest.

    Raises:
        CpuRefused: it is gone. NotSupported: macOS has none.
    """
    whom = _whom(pid, tid, group, user)
    return policies.io_priority_of(_ask(whom, lib.cl_cpu_get_io_priority, "the I/O priority", "io_priority"))


def set_io_priority(
    io_priority: str | tuple[str, int],
    pid: int | None = None,
    *,
    tid: int | None = None,
    group: int | None = None,
    user: int | None = None,
    best_effort: bool = False,
) -> tuple[CpuRefused, ...]:
    """Set an I/O priority, which counts where the disk's scheduler looks at it (bfq, mq-deadline).

    Args:
        io_priority: as `get_io_priority` returns it. The others: as for `set_nice`.

    Raises:
        ValueError: no such value. CpuRefused: not allowed, or gone. NotSupported: macOS has none.
    """
    value = policies.io_priority("io_priority", io_priority)
    whom = _whom(pid, tid, group, user)
    what = policies.written("io_priority", value)
    return _change(
        whom, what, "io_priority", value, best_effort, lambda who, id: lib.cl_cpu_set_io_priority(who, id, value)
    )


# ---- all of it -------------------------------------------------------------------------------------------------------


def _sched(target: Target) -> tuple[int, ...]:
    out = ffi.new("cl_sched *")
    _answer(lib.cl_cpu_get_sched(target.thread, out), "the scheduling policy", target, "scheduler")
    return _SCHED.unpack(ffi.buffer(out))


def get_priority(pid: int | None = None, *, tid: int | None = None) -> Priority:
    """How a thread is scheduled.

    Args:
        pid: a process: the answer is its main thread's. tid: one thread. Neither: the calling thread.

    Raises:
        CpuRefused: it is gone (also ProcessLookupError).
    """
    target = Target(pid, tid)
    if PLATFORM == "darwin":
        return Priority(get_nice(pid, tid=tid), "other", False, None, None, None)
    policy, priority, nice, reset, runtime, deadline, period, low, high = _sched(target)
    sched = policies.sched_of(policy, priority)
    if policy == policies.DEADLINE:
        sched = Deadline.of_nanoseconds(runtime, deadline, period)
    if policy not in (policies.POLICIES["other"], policies.POLICIES["batch"]):
        nice = get_nice(pid, tid=tid)  # which the kernel leaves out of the same answer
    clamps = None if low < 0 else (low, high)
    return Priority(nice, sched, bool(reset), clamps, get_io_priority(pid, tid=tid), _autogroup(target))


def _autogroup_file(target: Target) -> str:
    return f"/proc/{target.thread or 'self'}/autogroup"


def _autogroup(target: Target) -> int | None:
    path = _autogroup_file(target)
    found = contents(path)
    if not isinstance(found, bytes) or not found:
        return None  # there are none, or it is the root of all, which has none
    text = found.decode("ascii", "replace")
    name, _, value = text.strip().rpartition(" nice ")
    try:
        return int(value) if name else None
    except ValueError:
        raise CpuError(f"{path} is not as it should be: {text!r}") from None


def _set_autogroup(target: Target, value: int, best_effort: bool) -> tuple[CpuRefused, ...]:
    try:
        with open(_autogroup_file(target), "wb", buffering=0) as file:
            file.write(b"%d" % value)
    except OSError as error:
        number = error.errno or errno.EIO
        if number == errno.ENOENT and os.path.exists("/proc/self/autogroup"):
            number = errno.ESRCH
        return collect(
            [
                refusal(
                    f"autogroup={value} for the session of {target.text}",
                    number,
                    "autogroup",
                    value=value,
                    target=target,
                )
            ],
            best_effort,
        )
    return ()


def set_priority(
    pid: int | None = None,
    *,
    tid: int | None = None,
    nice: int | None = None,
    sched: Any = None,
    reset_on_fork: bool | None = None,
    uclamp: tuple[int | None, int | None] | None = None,
    io_priority: str | tuple[str, int] | None = None,
    autogroup: int | None = None,
    best_effort: bool = False,
) -> tuple[CpuRefused, ...]:
    """Set how a thread, or all threads of a process, are scheduled: what is given, in this order.

    A new policy keeps the nice value. Real-time and deadline threads that never sleep keep all others from their CPU;
    the kernel leaves these 5 % of each second (kernel.sched_rt_runtime_us), and nothing else does.

    Args:
        pid: all threads of a process. tid: one thread. Neither: the calling thread.
        nice: -20 to 19.
        sched: "other", "batch", "idle", ("fifo", 1..99), ("rr", 1..99) or a Deadline, which counts for each thread:
            a process with 4 threads asks for it four times.
        reset_on_fork: what it forks has the policy "other" again. Default: on for a Deadline, with which a thread could
            not fork or start threads otherwise (EAGAIN); else off. Only root may take it back.
        uclamp: (lowest, highest) utilisation of 1024 that the frequency and the choice of a CPU assume; None:
            unchanged.
        io_priority: as `get_io_priority` returns it.
        autogroup: nice value of the autogroup: of all that is in the same session, whatever thread is named.
        best_effort: go on after a refusal, and return all of them.

    Returns:
        What was refused; () if nothing.

    Raises:
        TypeError, ValueError: a wrong value; nothing was done. CpuRefused: the first refusal; what comes before it in
            that order was done. NotSupported: macOS has nothing of this but nice.
    """
    target = Target(pid, tid)
    if sched is None and reset_on_fork is not None:
        raise ValueError("reset_on_fork goes with a policy: give sched= too")
    refused: list[CpuRefused] = []
    policy = None if sched is None else policies.scheduler("sched", sched)
    clamps = None if uclamp is None else policies.uclamp("uclamp", uclamp)
    nice = None if nice is None else policies.nice("nice", nice)
    group = None if autogroup is None else policies.nice("autogroup", autogroup)
    if io_priority is not None:
        policies.io_priority("io_priority", io_priority)
    resets = isinstance(policy, Deadline) if reset_on_fork is None else flag("reset_on_fork", reset_on_fork)
    if nice is not None:
        refused += set_nice(nice, pid, tid=tid, best_effort=best_effort)
    if policy is not None:
        wanted = _request(policy, resets)
        what = policies.written("sched", policy)
        refused += _change(target, what, "scheduler", policy, best_effort,
                           lambda _, thread: lib.cl_cpu_set_sched(thread, wanted))  # fmt: skip
    if clamps is not None:
        low_high = ffi.new("cl_sched *", {"policy": lib.CL_SCHED_KEEP, "util_min": clamps[0], "util_max": clamps[1]})
        what = policies.written("uclamp", clamps)
        refused += _change(target, what, "uclamp", clamps, best_effort,
                           lambda _, thread: lib.cl_cpu_set_sched(thread, low_high))  # fmt: skip
    if io_priority is not None:
        refused += set_io_priority(io_priority, pid, tid=tid, best_effort=best_effort)
    if group is not None:
        refused += _set_autogroup(target, group, best_effort)
    return tuple(refused)


def _request(policy: tuple[int, int] | Deadline, resets: bool) -> Any:
    wanted = ffi.new("cl_sched *", {"reset_on_fork": resets, "util_min": -1, "util_max": -1})
    if isinstance(policy, Deadline):
        wanted.policy = lib.CL_SCHED_DEADLINE
        wanted.runtime_ns, wanted.deadline_ns, wanted.period_ns = policy.nanoseconds
    else:
        wanted.policy, wanted.priority = policy
    return wanted


# ---- memory ----------------------------------------------------------------------------------------------------------

_NODE_BYTES = policies.MOST_NODES // 8 * 4  # more than any kernel's mask has
_MODE = 0xFF  # of what the core returns; the rest are flags that others have set (MPOL_F_STATIC_NODES, ...)


def get_memory_policy() -> Any:
    """From which NUMA nodes the calling thread's memory comes: "default", "local", or a pair like ("bind", (0, 1)).

    Raises:
        CpuRefused: the kernel has no NUMA, or a filter forbids to ask. NotSupported: macOS has none.
    """
    nodes = ffi.new("uint8_t[]", _NODE_BYTES)
    target = Target(None, None)
    rc = _answer(lib.cl_cpu_get_memory_policy(nodes, _NODE_BYTES), "the memory policy", target, "memory_policy")
    return policies.memory_policy_of(rc & _MODE, tuple(sorted(from_kernel_mask(ffi.buffer(nodes)[:]))))


def set_memory_policy(policy: str | tuple[str, Any], *, best_effort: bool = False) -> tuple[CpuRefused, ...]:
    """Say from which NUMA nodes the calling thread's memory comes, where it is first touched from now on. What the
    thread starts inherits it, also over exec.

    Args:
        policy: "default" (the nearest), "local" (the nearest, also with a default of the system's), ("bind", nodes)
            (these only), ("interleave", nodes) (in turns), ("preferred", node), ("preferred-many", nodes), or
            ("weighted-interleave", nodes). Nodes as CPUs are written: 0, "0-1", {0, 1}.

    Raises:
        ValueError, TypeError: no such policy. CpuRefused: a node does not exist or the cpuset forbids it; the policy is
            as before. NotSupported: macOS has none.
    """
    mode, nodes = policies.memory_policy("policy", policy)
    what = f"{policies.written('memory_policy', (mode, nodes))} for this thread"
    before = ffi.new("uint8_t[]", _NODE_BYTES)
    was = lib.cl_cpu_get_memory_policy(before, _NODE_BYTES)
    mask = kernel_mask(nodes) if nodes else b""
    rc = lib.cl_cpu_set_memory_policy(mode, mask if nodes else ffi.NULL, len(mask))
    obtained: frozenset[int] = frozenset()
    if rc >= 0 and nodes:
        after = ffi.new("uint8_t[]", _NODE_BYTES)
        lib.cl_cpu_get_memory_policy(after, _NODE_BYTES)
        obtained = from_kernel_mask(ffi.buffer(after)[:])
        if not obtained >= set(nodes):
            rc = -errno.ENODEV
            if not best_effort and was >= 0:
                held = was & _MODE not in (lib.CL_MEMORY_DEFAULT, lib.CL_MEMORY_LOCAL) and any(before)
                lib.cl_cpu_set_memory_policy(was, before if held else ffi.NULL, _NODE_BYTES if held else 0)
    if rc >= 0:
        return ()
    return collect([refusal(what, -rc, "memory_policy", value=(mode, nodes), obtained=obtained)], best_effort)


# ---- macOS -----------------------------------------------------------------------------------------------------------


def get_qos() -> str:
    """The calling thread's quality-of-service class: "user-interactive", "user-initiated", "default", "utility",
    "background", or "unspecified".

    Raises:
        NotSupported: only macOS has these.
    """
    rc = lib.cl_cpu_get_qos()
    if rc < 0:
        raise NotSupported("quality-of-service classes are macOS's; here there are nice, sched and io_priority")
    return {number: name for name, number in _QOS.items()}.get(rc, "unspecified")


def set_qos(qos: str) -> None:
    """Set the calling thread's quality-of-service class.

    Args:
        qos: "user-interactive", "user-initiated", "default", "utility" or "background".

    Raises:
        ValueError: no such class. NotSupported: only macOS has these.
        CpuRefused: the thread has opted out of them (its policy was set by hand).
    """
    choice(*_QOS)("qos", qos)
    rc = lib.cl_cpu_set_qos(_QOS[qos])
    if rc == -errno.ENOTSUP:
        raise NotSupported("quality-of-service classes are macOS's; here there are nice, sched and io_priority")
    if rc < 0:
        collect([refusal(f"qos={qos!r} for this thread", -rc, "qos")], False)
