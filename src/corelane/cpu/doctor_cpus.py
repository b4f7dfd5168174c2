"""The doctor's checks of the CPUs: their speed, who shares them, and what a thread on them loses. Owns nothing."""

from __future__ import annotations

import re

from corelane.cpu.doctor import Advice, Cost
from corelane.cpu.doctor_host import CPU as _CPU
from corelane.cpu.doctor_host import Look, Unread, spread_cost, to_isolate
from corelane.cpu.doctor_measures import cpu_times
from corelane.cpu.lists import format_cpus

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from corelane.cpu.doctor import Finding

__all__ = ["governor", "idle", "interruptions", "isolation", "smt", "steal"]

_STEAL_SHARE = 0.01  # what stays below this is within the noise of one neighbour
_STEAL_NOW = 0.05  # the same within half a second, which has so few ticks that one is a percent
_DEEP_US = 10  # leaving a deeper sleep than this shows beside a wake-up itself, which is 3 to 10 us
_WAKE_US = 5.0  # what idleness may add to a wake-up
_GAP_US = 100.0  # an interrupt is shorter than this; what is longer is another thread, or the hypervisor


def governor(look: Look) -> Finding:
    """The frequency governor of each CPU."""
    found: dict[str, set[int]] = {}
    why = ""
    for name in look.directory(_CPU):
        if re.fullmatch(r"cpu\d+", name):
            try:
                text = look.text(f"{_CPU}/{name}/cpufreq/scaling_governor", note=False)
            except Unread as error:  # this CPU is offline, or has none
                why = str(error)
                continue
            found.setdefault(text, set()).add(int(name[3:]))
    where = look.host.path(f"{_CPU}/cpu*/cpufreq/scaling_governor")
    if not found:
        reason = why or f"{look.host.path(_CPU)} has no CPU"
        return look.unknown(f"{reason}: in a virtual machine, its host decides on the CPUs' frequency")
    for text, cpus in found.items():
        look.note(where, f"{text} (CPU {format_cpus(cpus)})")
    odd = next((text for text in found if not re.fullmatch(r"\w+", text)), None)
    if odd is not None:
        raise look.odd(f"{_CPU}/cpu*/cpufreq/scaling_governor", odd, "the name of a governor")
    slow = [text for text in found if text != "performance"]
    if not slow:
        return look.ok("all CPUs run at their full frequency")
    advice = Advice(f"echo performance | tee {_CPU}/cpu*/cpufreq/scaling_governor", but="costs power")
    return look.costs(f"the governor {' and '.join(slow)} lowers the frequency of a CPU that has little to do", advice)


def smt(look: Look) -> Finding:
    """Siblings that share a core."""
    active = look.text_or_none(f"{_CPU}/smt/active")
    if active is None:  # before Linux 4.19
        active = str(int(len(look.cpus(f"{_CPU}/cpu0/topology/thread_siblings_list")) > 1))
    if active not in ("0", "1"):
        raise look.odd(f"{_CPU}/smt/active", active, "0 or 1")
    if active == "0":
        return look.ok("each CPU has a core of its own")
    return look.costs(
        "two CPUs share a core: what one does slows the other down",
        Advice(
            f"echo off > {_CPU}/smt/control",
            but="takes half of the CPUs; without an administrator: cpu.plan(n, 'exclusive') leaves the siblings free",
        ),
    )


def isolation(look: Look) -> Finding:
    """CPUs that the scheduler puts nothing on by itself."""
    isolated, online = look.cpus(f"{_CPU}/isolated"), look.online()
    if isolated:
        return look.ok(f"CPU {format_cpus(isolated)}: nothing runs there that is not put there")
    if len(online) < 2:
        return look.ok("there is one CPU: none can be kept free")
    kept = to_isolate(online)
    return look.costs(
        "no CPU is isolated: the scheduler may put any thread on any of them",
        Advice(
            f"isolcpus=managed_irq,domain,{kept} nohz_full={kept} rcu_nocbs={kept}",
            boot=True,
            but="what is not pinned there has only the other CPUs",
        ),
    )


def idle(look: Look) -> Finding:
    """How long an idle CPU takes to wake up."""
    figures = look.host.figures
    deep, shown = [], []
    states = f"{_CPU}/cpu0/cpuidle"
    try:
        names = [name for name in look.directory(states) if re.fullmatch(r"state\d+", name)]
        missing = ""
    except Unread as error:
        names, missing = [], str(error)
    for state in names:
        label = look.text(f"{states}/{state}/name", note=False)
        latency = look.to_int(f"{states}/{state}/latency", look.text(f"{states}/{state}/latency", note=False))
        off = look.to_int(f"{states}/{state}/disable", look.text(f"{states}/{state}/disable", note=False))
        shown.append(f"{label} {latency} us{' (off)' if off else ''}")
        if not off and latency > _DEEP_US:
            deep.append(int(state[5:]))
    if names:
        look.note(f"{look.host.path(states)}/state*/latency", ", ".join(shown))
    if deep:
        numbers = f"[{min(deep)}-{max(deep)}]" if len(deep) > 1 else str(deep[0])  # the kernel has ten at most
        advice = Advice(f"echo 1 | tee {_CPU}/cpu*/cpuidle/state{numbers}/disable", but="costs power")
    elif re.search(r"(?m)^flags\s.*\bhypervisor\b", _cpuinfo(look)):
        advice = Advice(
            "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns",
            but="a guest then polls before it sleeps, and uses more of its host; needs the haltpoll driver",
        )
    else:
        advice = Advice("idle=poll", boot=True, but="each idle CPU then runs at full power")
    if figures is None:
        if deep:
            return look.costs("an idle CPU may sleep so deeply that waking up is slow (not measured)", advice)
        return (
            look.ok("no sleep of a CPU is deep (not measured)") if names else look.unknown(f"{missing}; not measured")
        )
    slow, fast = figures.wake_idle, figures.wake_busy
    if slow is None or fast is None:
        raise Unread("; ".join(figures.problems.values()))
    look.note("measured", f"{slow.p50:.1f} us after 3 ms of idleness, {fast.p50:.1f} us without")
    cost = spread_cost(slow, "until a thread runs on a CPU that was idle")
    if slow.p50 - fast.p50 <= _WAKE_US:
        return look.ok("a CPU that was idle wakes up fast", cost)
    return look.costs(f"waking up takes {slow.p50 - fast.p50:.1f} us longer when the CPU was idle", advice, cost)


def _cpuinfo(look: Look) -> str:
    try:
        return look.text("/proc/cpuinfo", note=False)
    except Unread:
        return ""


def steal(look: Look) -> Finding:
    """CPU time that the hypervisor gave to others."""
    stolen, total = cpu_times(look)
    guest = bool(re.search(r"(?m)^flags\s.*\bhypervisor\b", _cpuinfo(look)))
    share = stolen / total if total else 0.0
    look.note(look.host.path("/proc/stat"), f"{share:.2%} of all CPU time since boot was stolen")
    if guest:
        look.note(look.host.path("/proc/cpuinfo"), "flag hypervisor: a virtual machine")
    figures = look.host.figures
    now = figures.steal if figures else None
    if now is not None:
        look.note("measured", f"{now:.1%} while this was measured")
    if share < _STEAL_SHARE and (now is None or now < _STEAL_NOW):
        return look.ok("the hypervisor takes no time from us, or does not tell" if guest else "no time is stolen")
    advice = Advice(
        "virsh vcpupin DOMAIN VCPU CPU", but="on the hypervisor's host, whose administrator is meant: no others there"
    )
    worst = max(share, now or 0.0)
    what = "of the CPUs' time, while this was measured" if worst == now else "of the CPUs' time since boot"
    return look.costs("the hypervisor lets others run when we want to", advice, Cost(100 * worst, "%", what))


def interruptions(look: Look) -> Finding:
    """What a thread that only runs loses."""
    figures = look.host.figures
    if figures is None:
        return look.unknown("not measured")
    if figures.gaps is None:
        look.note("measured", "a thread ran for 100 ms without a gap of 20 us")
        return look.ok("a running thread is left alone")
    gaps, rate = figures.gaps, figures.gap_rate or 0.0
    look.note(
        "measured", f"{rate:,.0f} gaps of 20 us and more a second, {gaps.p50:,.0f} us each, longest {gaps.longest:,.0f}"
    )
    cost = Cost(gaps.longest, "us", "the longest time in 100 ms in which a running thread did not run")
    if gaps.longest < _GAP_US:
        return look.ok("a running thread is interrupted for short moments only", cost)
    kept = to_isolate(look.online())
    look.evidence.pop()
    advice = Advice(f"isolcpus=managed_irq,domain,{kept} nohz_full={kept}", boot=True) if kept else None
    return look.costs("a running thread loses its CPU to others, or the hypervisor does", advice, cost)
