"""Why the system refused a placement or a priority, and what to ask the administrator for.

Owns nothing. It looks at limits, capabilities and sysfs after the fact, only to explain: what happened is what the
kernel answered. A file that cannot be read leaves a sentence out, and raises nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

from corelane._ffi import PLATFORM
from corelane.cpu.lists import format_cpus, parse_cpus
from corelane.cpu.policies import Deadline
from corelane.cpu.sysfs import contents
from corelane.errors import CpuError

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from corelane.cpu.threads import Target

__all__ = ["advice", "left_out"]

_CAP_SYS_NICE, _CAP_SYS_RESOURCE = 23, 24
_GRANT = "ask the administrator for CAP_SYS_NICE (AmbientCapabilities= of the service, or setcap on the program)"


def advice(
    step: str,
    number: int,
    value: Any = None,
    *,
    target: Target | None = None,
    obtained: Iterable[int] = (),
    root: str = "/",
) -> str:
    """What to tell of a refusal.

    Args:
        step: "nice", "scheduler", "uclamp", "affinity", "io_priority", "memory_policy", "autogroup", "oom", or
            "others": something for a group or a user, some of whose processes are somebody else's.
        number: the errno.
        value: what was asked for, in its normal form: a nice value, a policy, CPUs, nodes.
        target: whom it was for; None: this thread, or a child of it.
        obtained: of CPUs or nodes, those that were applied; of a policy, the CPUs that the thread was kept to before,
            where that is another mask than it has now.
        root: where sys/ and proc/ are, for tests.

    Returns:
        A sentence, or nothing.
    """
    if PLATFORM == "darwin" and number == errno.ENOTSUP:
        return "macOS has no such thing"
    pid = "self" if target is None or not target.thread else str(target.thread)
    if number == errno.ESRCH:
        return "there is none with that number, or not any more"
    if number in (errno.EPERM, errno.EACCES):
        stranger = _stranger(pid, root)
        if stranger:
            return stranger
    explain = _STEPS.get(step)
    return explain(number, value, pid, root, obtained) if explain else ""


# ---- looking ---------------------------------------------------------------------------------------------------------


def _read(root: str, path: str) -> str:
    # As bytes: a codec is a module, which whoever has given up their rights may not be able to import any more.
    found = contents(os.path.join(root, path))
    return found.decode("ascii", "replace").strip() if isinstance(found, bytes) else ""


def _status(pid: str, name: str, root: str) -> str:
    for line in _read(root, f"proc/{pid}/status").splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    return ""


def _set_in(root: str, path: str) -> frozenset[int]:
    with contextlib.suppress(ValueError):
        return parse_cpus(_read(root, path))
    return frozenset()


def _can(capability: int) -> bool:
    bits = _status("self", "CapEff", "/")
    return bool(bits) and bool(int(bits, 16) >> capability & 1)


def _limit(pid: str, name: str) -> int | None:
    which = getattr(resource, f"RLIMIT_{name}", None)
    if which is None:
        return None
    try:
        return resource.prlimit(0 if pid == "self" else int(pid), which)[0]
    except OSError:
        return None


def _stranger(pid: str, root: str) -> str:
    """Whether it is somebody else's, in words."""
    owner = _status(pid, "Uid", root).split()
    ours = os.geteuid()
    if _can(_CAP_SYS_NICE) or not owner or str(ours) in owner[:2]:
        return ""
    return f"it belongs to user {owner[0]}, and we are user {ours}: run this as that user, or {_GRANT}"


def _permille(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"


# ---- by step ---------------------------------------------------------------------------------------------------------


def _nice(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    limit = _limit(pid, "NICE")
    if limit is None:
        return f"only a value above the present one is free; {_GRANT}"
    allowed = f"allows down to {20 - limit}" if limit else "allows none below the present one"
    wanted = (
        "" if value is None else f"; ask the administrator for `nice {value}` in limits.conf, or LimitNICE={value:+d}"
    )
    return f"RLIMIT_NICE is {limit}, which {allowed}{wanted}, or for CAP_SYS_NICE"


def _scheduler(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    if isinstance(value, Deadline):
        return _deadline(number, value, pid, root, obtained)
    if number == errno.EBUSY:
        return "it has a deadline, which this change would break"
    if number not in (errno.EPERM, errno.EACCES):
        return ""
    priority = value[1] if value else 0
    if not priority:
        return (
            f"leaving SCHED_IDLE or a real-time policy, or taking back reset-on-fork, is not free; {_GRANT}, or, to "
            "leave SCHED_IDLE, for a higher RLIMIT_NICE"
        )
    limit = _limit(pid, "RTPRIO")
    if not _can(_CAP_SYS_NICE) and limit is not None and limit < priority:
        return (
            f"RLIMIT_RTPRIO is {limit}, and priority {priority} is asked; ask the administrator for "
            f"`rtprio {priority}` in limits.conf, or LimitRTPRIO={priority}, or for CAP_SYS_NICE"
        )
    return _real_time_share(pid, root)


def _real_time_share(pid: str, root: str) -> str:
    runtime = _read(root, "proc/sys/kernel/sched_rt_runtime_us")
    if runtime == "0":
        return (
            "kernel.sched_rt_runtime_us is 0: no real-time policy may run at all; ask the administrator to set it back "
            "(950000 is the default)"
        )
    with contextlib.suppress(ImportError, OSError, CpuError):  # modules, as in _read
        from corelane.cpu.cgroups import hierarchies

        for hierarchy in hierarchies(root, pid):
            where = next(iter(hierarchy.directories), "") + "/cpu.rt_runtime_us"
            if "cpu" in hierarchy.controllers and _read(root, where) == "0":
                return (
                    f"its cgroup has no real-time share: {where} is 0; ask the administrator to write some "
                    "microseconds there, as far as the parent's allow, or to start us in a cgroup that has them"
                )
    return f"its cgroup may have no real-time share (cpu.rt_runtime_us), or a filter forbids it; {_GRANT}"


def _deadline(number: int, value: Deadline, pid: str, root: str, cpus: Iterable[int]) -> str:
    if number == errno.EBUSY:
        period = int(_read(root, "proc/sys/kernel/sched_rt_period_us") or 0)
        runtime = int(_read(root, "proc/sys/kernel/sched_rt_runtime_us") or 0)
        share = _permille(value.nanoseconds[0], value.nanoseconds[2])
        limit = f", {_permille(runtime, period)} of each CPU" if period and runtime > 0 else ""
        return (
            f"the machine cannot promise it: it asks for {share} of a CPU, and all deadlines together may have "
            f"kernel.sched_rt_runtime_us={runtime} of sched_rt_period_us={period}{limit}; ask for less, or ask the "
            "administrator who else has deadlines, or for a larger sched_rt_runtime_us"
        )
    if number == errno.EINVAL:
        low, high = (_read(root, f"proc/sys/kernel/sched_deadline_period_{end}_us") for end in ("min", "max"))
        bounds = f" (kernel.sched_deadline_period_min_us={low}, _max_us={high})" if low else ""
        return f"its period of {value.period * 1e6:.0f} us is perhaps outside of what this kernel takes{bounds}"
    if number not in (errno.EPERM, errno.EACCES):
        return ""
    if not _can(_CAP_SYS_NICE):
        return f"SCHED_DEADLINE takes CAP_SYS_NICE, whatever RLIMIT_RTPRIO is; {_GRANT}"
    online = _set_in(root, "sys/devices/system/cpu/online")
    with contextlib.suppress(ValueError):
        mine = frozenset(cpus) or parse_cpus(_status(pid, "Cpus_allowed_list", root))
        if online - mine:
            return (
                f"it is kept to CPUs {format_cpus(mine)} of {format_cpus(online)}, and a thread with a deadline runs "
                "on all CPUs of its scheduling domain: let it run on all of these first, or ask the administrator for "
                "an exclusive cpuset partition of those CPUs"
            )
    return "a mask of CPUs and a deadline exclude each other (cpus= with sched=Deadline), and a filter may forbid it"


def left_out(missing: Iterable[int], pid: str = "self", root: str = "/") -> str:
    """Why these CPUs are not to be had, in words.

    Args:
        missing: the CPUs. pid: of the process, or "self". root: where sys/ and proc/ are.
    """
    cpus = frozenset(missing)
    possible = _set_in(root, "sys/devices/system/cpu/present") or _set_in(root, "sys/devices/system/cpu/possible")
    online = _set_in(root, "sys/devices/system/cpu/online")
    absent = cpus - possible if possible else frozenset()
    offline = cpus - online - absent if online else frozenset()
    where = _read(root, f"proc/{pid}/cpuset")
    outside = cpus - absent - offline
    with contextlib.suppress(ImportError, OSError):  # modules, as above
        from corelane.cpu.counting import cpuset_of

        outside -= cpuset_of(pid, root)
    said = []
    if absent:
        verb = "CPU {} does not" if len(absent) == 1 else "CPUs {} do not"
        said.append(f"{verb.format(format_cpus(absent))} exist here (CPUs here: {format_cpus(possible)})")
    if offline:
        said.append(
            f"CPU {format_cpus(offline)} is offline; ask the administrator to write 1 to "
            f"/sys/devices/system/cpu/cpu{min(offline)}/online"
        )
    if outside:
        said.append(
            f"CPU {format_cpus(outside)} is there, but outside of the cpuset {where or 'of its cgroup'}; ask the "
            "administrator, or the batch system, for it (cpuset.cpus)"
        )
    if not said and cpus:
        said.append(f"CPU {format_cpus(cpus)} is there and allowed; a kernel thread cannot be moved")
    return "; ".join(said)


def _affinity(number: int, value: Any, pid: str, root: str, obtained: Iterable[int]) -> str:
    if number == errno.EBUSY:
        return "a thread with SCHED_DEADLINE runs on all CPUs of its scheduling domain: give it another policy first"
    if number in (errno.EINVAL, errno.ENODEV):
        return left_out(set(value or ()) - set(obtained), pid, root)
    return _GRANT if number in (errno.EPERM, errno.EACCES) else ""


def _uclamp(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    if number in (errno.ENOTSUP, errno.ENOSYS):
        return "this kernel is built without utilisation clamps (CONFIG_UCLAMP_TASK)"
    return f"a clamp above the present ones is not free; {_GRANT}" if number == errno.EPERM else ""


def _io_priority(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    return f"the realtime class is not free; {_GRANT}" if number == errno.EPERM else ""


def _memory_policy(number: int, value: Any, pid: str, root: str, obtained: Iterable[int]) -> str:
    if number == errno.ENOSYS:
        return "this kernel is built without NUMA"
    if number == errno.EPERM:
        return f"a filter forbids set_mempolicy(2), as containers do to what has no CAP_SYS_NICE; {_GRANT}"
    if number not in (errno.EINVAL, errno.ENODEV):
        return ""
    missing = set(value[1] if value else ()) - set(obtained)
    there = _set_in(root, "sys/devices/system/node/has_memory") or _set_in(root, "sys/devices/system/node/online")
    allowed = _status("self", "Mems_allowed_list", root)
    if there and missing - there:
        absent = format_cpus(missing - there)
        return f"node {absent} does not exist here, or has no memory (nodes with memory: {format_cpus(there)})"
    return (
        f"of the nodes our cpuset allows {allowed} (Mems_allowed_list); ask the administrator for more in cpuset.mems"
    )


def _autogroup(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    if number == errno.ENOENT:
        return "this kernel is built without autogroups (CONFIG_SCHED_AUTOGROUP)"
    if number in (errno.EAGAIN, errno.EBUSY):
        return (
            "without CAP_SYS_ADMIN the kernel allows one change in 0.1 s on the whole machine, and somebody has just "
            "made one; try again"
        )
    return _nice(number, value, pid, root, obtained) if number in (errno.EPERM, errno.EACCES) else ""


def _others(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    return f"not all of them are of user {os.geteuid()}, who we are: run this as that user, or {_GRANT}"


def _oom(number: int, value: Any, pid: str, root: str, obtained: Any) -> str:
    if number not in (errno.EPERM, errno.EACCES):
        return ""
    return (
        "lowering the score takes CAP_SYS_RESOURCE; ask the administrator for it, or for OOMScoreAdjust= of the service"
    )


_STEPS = {
    "nice": _nice,
    "scheduler": _scheduler,
    "uclamp": _uclamp,
    "affinity": _affinity,
    "io_priority": _io_priority,
    "memory_policy": _memory_policy,
    "autogroup": _autogroup,
    "others": _others,
    "oom": _oom,
}
