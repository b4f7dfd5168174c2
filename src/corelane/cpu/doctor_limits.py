"""The doctor's checks of what this process may have: its CPU quota, and its limits. Owns nothing."""

from __future__ import annotations

import re
import shlex

from corelane.cpu.doctor import Advice, Cost
from corelane.cpu.doctor_host import Group, Look, Unread, cpu_groups

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from corelane.cpu.doctor import Finding

__all__ = ["memlock", "nice", "nofile", "quota", "rtprio"]

_MANY_FILES = 65536  # 10,000 children with three pipes each, and room
_IPC_LOCK, _SYS_NICE, _SYS_RESOURCE = 14, 23, 24  # capabilities, by their bits
_CONF = "/etc/security/limits.d/corelane.conf"


# ---- the CPU quota


def _quota_text(look: Look, group: Group) -> str:
    """What is allowed, or "" if there is no quota here."""
    if group.version == 2:
        name = f"{group.directory}/cpu.max"
        text = look.text_or_none(name)
        if text is None:  # the root of the hierarchy
            look.evidence.pop()
            return ""
        words = text.split()
        if len(words) != 2 or not re.fullmatch(r"max|\d+", words[0]) or not words[1].isdecimal():
            raise look.odd(name, text, "a quota like 'max 100000'")
        return "" if words[0] == "max" else text
    quota_us = look.number(f"{group.directory}/cpu.cfs_quota_us")
    return "" if quota_us < 0 else f"{quota_us} us of each {look.number(f'{group.directory}/cpu.cfs_period_us')}"


def quota(look: Look) -> Finding:
    """How often we or our cgroups were held because the CPU quota of a period was used up."""
    held, time_us, where, limited = 0, 0.0, None, False
    groups = cpu_groups(look)
    for group in groups:
        limited = bool(_quota_text(look, group)) or limited
        name = f"{group.directory}/cpu.stat"
        counts = look.fields(name)
        times = look.to_int(name, counts.get("nr_throttled", "0"))
        if times == 0:
            continue
        in_us, in_ns = counts.get("throttled_usec"), counts.get("throttled_time")
        took = look.to_int(name, in_us) if in_us is not None else look.to_int(name, in_ns or "0") / 1e3
        look.note(look.host.path(name), f"nr_throttled {times}, {took / 1e6:,.3f} s together")
        if took >= time_us:
            held, time_us, where = times, took, group
    if where is None:
        return look.ok("a quota is set, and was never used up" if limited else "no CPU quota holds us")
    value, file = ("max", "cpu.max") if where.version == 2 else ("-1", "cpu.cfs_quota_us")
    command = f"echo {value} > {shlex.quote(f'{where.directory}/{file}')}"
    return look.costs(
        "a cgroup of ours was held until the next period because its CPU quota was used up",
        Advice(command, but="or start fewer threads: cpu.budget() has the quota"),
        Cost(time_us / held / 1e3, "ms", f"each of {held:,} times"),
    )


# ---- limits


def _limit(look: Look, label: str) -> tuple[float, float]:
    """Soft and hard, infinity for "unlimited"."""
    name = "/proc/self/limits"
    for line in look.text(name, note=False).splitlines():
        if line.startswith(label):
            words = line[len(label) :].split()
            if len(words) < 2 or not all(re.fullmatch(r"unlimited|\d+", word) for word in words[:2]):
                raise look.odd(name, line, "a soft and a hard limit")
            look.note(look.host.path(name), f"{label}: {words[0]} (hard: {words[1]})")
            soft, hard = (float("inf") if word == "unlimited" else float(word) for word in words[:2])
            return soft, hard
    raise Unread(f"{look.host.path(name)} has no line {label!r}")


def _capable(look: Look, bit: int, name: str) -> bool:
    has = look.capable(bit)
    if has:
        look.note(look.host.path("/proc/self/status"), f"CapEff has {name}")
    return has


def _line(item: str, value: str) -> str:
    return f"echo '* - {item} {value}' >> {_CONF}"


def nofile(look: Look) -> Finding:
    """Descriptors."""
    soft, hard = _limit(look, "Max open files")
    if soft >= _MANY_FILES:
        return look.ok("there is room for many descriptors")
    if hard >= _MANY_FILES:
        return look.costs(
            f"a program that does not raise its own limit has {soft:,.0f} descriptors",
            Advice(f"ulimit -n {_MANY_FILES}", administrator=False),
        )
    return look.costs(
        f"{hard:,.0f} descriptors are not enough for ten thousand children", Advice(_line("nofile", str(_MANY_FILES)))
    )


def memlock(look: Look) -> Finding:
    """Memory that may be kept from being swapped."""
    soft, hard = _limit(look, "Max locked memory")
    if soft == float("inf") or _capable(look, _IPC_LOCK, "CAP_IPC_LOCK"):
        return look.ok("all memory may be locked")
    if hard == float("inf"):
        return look.costs(
            "a program that does not raise its own limit may lock little memory",
            Advice("ulimit -l unlimited", administrator=False),
        )
    return look.costs(
        f"only {hard / 2**20:,.3g} MiB may be locked: the rest may have to come from a disk",
        Advice(_line("memlock", "unlimited")),
    )


def rtprio(look: Look) -> Finding:
    """Real-time policies."""
    soft, hard = _limit(look, "Max realtime priority")
    if soft >= 1 or _capable(look, _SYS_NICE, "CAP_SYS_NICE"):
        return look.ok("real-time policies may be used")
    if hard >= 1:
        return look.costs("real-time policies are refused", Advice(f"ulimit -r {hard:.0f}", administrator=False))
    return look.costs("real-time policies are refused", Advice(_line("rtprio", "99")))


def nice(look: Look) -> Finding:
    """A better nice than the usual."""
    soft, hard = _limit(look, "Max nice priority")
    if soft >= 40 or _capable(look, _SYS_NICE, "CAP_SYS_NICE"):  # 20 - nice
        return look.ok("any nice may be set")
    if hard >= 40:
        return look.costs("a low nice is refused", Advice(f"ulimit -e {hard:.0f}", administrator=False))
    lowest = f"below {20 - int(hard)}" if hard >= 1 else "lower than the present one"
    return look.costs(f"a nice {lowest} is refused", Advice(_line("nice", "-20")))
