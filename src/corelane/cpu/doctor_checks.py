"""The list of the doctor's checks, in the order of the report. Each takes a `Look`, reads what it needs, and says what
that comes to; what it cannot read or understand it raises as `Unread`.

Owns nothing. In the modules of the checks a threshold is a name with its reason: where two people would draw it
differently, the evidence and the cost in the finding let them.
"""

from __future__ import annotations

from corelane.cpu import doctor_cpus as cpus
from corelane.cpu import doctor_kernel as kernel
from corelane.cpu import doctor_limits as limits
from corelane.cpu.doctor_host import Host, Look, Unread

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable

    from corelane.cpu.doctor import Finding

__all__ = ["CHECKS", "Host", "run_check"]

CHECKS: tuple[tuple[str, Callable[[Look], Finding]], ...] = (
    ("governor", cpus.governor),
    ("smt", cpus.smt),
    ("isolation", cpus.isolation),
    ("idle-wake-up", cpus.idle),
    ("steal", cpus.steal),
    ("quota", limits.quota),
    ("interruptions", cpus.interruptions),
    ("tick", kernel.tick),
    ("preemption", kernel.preemption),
    ("rt-throttling", kernel.rt_throttling),
    ("timer-slack", kernel.timer_slack),
    ("clock-source", kernel.clock_source),
    ("huge-pages", kernel.transparent_huge_pages),
    ("swap", kernel.swap),
    ("numa-balancing", kernel.numa_balancing),
    ("autogroup", kernel.autogroup),
    ("interrupts", kernel.interrupts),
    ("watchdog", kernel.watchdog),
    ("mitigations", kernel.mitigations),
    ("limit-nofile", limits.nofile),
    ("limit-memlock", limits.memlock),
    ("limit-rtprio", limits.rtprio),
    ("limit-nice", limits.nice),
)


def run_check(check: tuple[str, Callable[[Look], Finding]], host: Host) -> Finding:
    """One check's finding; "unknown" where something cannot be read or makes no sense."""
    name, examine = check
    look = Look(name, host)
    try:
        return examine(look)
    except Unread as error:
        return look.unknown(str(error))
