"""The doctor's checks of a machine and its kernel, and the list of all checks. Each takes a `Look`, reads what it
needs, and says what that comes to; what it cannot read or understand it raises as `Unread`.

Owns nothing. A threshold is a name below, with its reason: where two people would draw it differently, the evidence and
the cost in the finding let them.
"""

from __future__ import annotations

import re
import time

from corelane.cpu import doctor_limits as limits
from corelane.cpu.doctor import Advice, Cost, Evidence
from corelane.cpu.doctor_host import Host, Look, Unread
from corelane.cpu.doctor_measures import cpu_times
from corelane.cpu.lists import format_cpus, format_mask

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable

    from corelane.cpu.doctor import Finding
    from corelane.cpu.doctor_measures import Figures, Spread

__all__ = ["CHECKS", "Host", "run_check"]

_CPU = "/sys/devices/system/cpu"
_COARSE_CLOCK = 6  # CLOCK_MONOTONIC_COARSE, whose resolution is the tick; the time module has no name for it
_STEAL_SHARE = 0.01  # what stays below this is within the noise of one neighbour
_STEAL_NOW = 0.05  # the same within half a second, which has so few ticks that one is a percent
_DEEP_US = 10  # leaving a deeper sleep than this shows beside a wake-up itself, which is 3 to 10 us
_WAKE_US = 5.0  # what idleness may add to a wake-up
_SLOW_CLOCK_NS = 150.0  # a clock that is read without a system call takes 15 to 60
_GAP_US = 100.0  # an interrupt is shorter than this; what is longer is another thread, or the hypervisor
_FAST_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "riscv_clocksource")
# These change each system call or each switch between processes. spectre_v1's do not.
_DEAR_MITIGATIONS = (
    "gather_data_sampling", "indirect_target_selection", "l1tf", "mds", "meltdown", "mmio_stale_data",
    "reg_file_data_sampling", "retbleed", "spec_rstack_overflow", "spec_store_bypass", "spectre_v2", "srbds", "tsa",
    "tsx_async_abort", "vmscape",
)  # fmt: skip
_VERDICTS = ("Not affected", "Vulnerable", "Mitigation", "Unknown", "KVM:", "Processor vulnerable")


def _us(figure: Spread, what: str) -> Cost:
    return Cost(figure.p50, "us", f"{what}, the median (p99 {figure.p99:,.0f})")


def _figures(look: Look) -> Figures | None:
    return look.host.figures


# ---- the CPUs


def governor(look: Look) -> Finding:
    """The frequency governor of each CPU."""
    found: dict[str, set[int]] = {}
    for name in look.directory(_CPU):
        if re.fullmatch(r"cpu\d+", name):
            try:
                text = look.text(f"{_CPU}/{name}/cpufreq/scaling_governor", note=False)
            except Unread:  # this CPU is offline, or has none
                continue
            found.setdefault(text, set()).add(int(name[3:]))
    where = look.host.path(f"{_CPU}/cpu*/cpufreq/scaling_governor")
    if not found:
        return look.unknown(f"no file {where}: the hypervisor or the firmware decides on the CPUs' frequency")
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


def _to_isolate(online: frozenset[int]) -> str:
    return format_cpus(sorted(online)[(len(online) + 1) // 2 :])


def isolation(look: Look) -> Finding:
    """CPUs that the scheduler puts nothing on by itself."""
    isolated, online = look.cpus(f"{_CPU}/isolated"), look.online()
    if isolated:
        return look.ok(f"CPU {format_cpus(isolated)}: nothing runs there that is not put there")
    if len(online) < 2:
        return look.ok("there is one CPU: none can be kept free")
    kept = _to_isolate(online)
    return look.costs(
        "no CPU is isolated: the scheduler may put any thread on any of them",
        Advice(
            f"isolcpus=managed_irq,domain,{kept} nohz_full={kept} rcu_nocbs={kept}",
            boot=True,
            but="what is not pinned there has only the other CPUs",
        ),
    )


def _tick_rate(look: Look) -> int | None:
    """CONFIG_HZ; None if nobody tells."""
    try:
        name, config = look.kernel_config()
    except Unread:
        if not look.host.here:
            return None
        resolution = time.clock_getres(_COARSE_CLOCK)
        look.note("clock_getres(CLOCK_MONOTONIC_COARSE)", f"{resolution:g} s")
        return round(1 / resolution)
    text = config.get("CONFIG_HZ", "")
    if not text.isdecimal() or int(text) < 1:
        raise look.odd(name, f"CONFIG_HZ={text}", "a number of ticks a second")
    look.note(look.host.path(name), f"CONFIG_HZ={text}")
    return int(text)


def tick(look: Look) -> Finding:
    """The timer interrupt of each busy CPU."""
    online = look.online()
    full = frozenset[int]()
    if look.text_or_none(f"{_CPU}/nohz_full") is not None:
        look.evidence.pop()  # read once more as a list
        full = look.cpus(f"{_CPU}/nohz_full")
    hz = _tick_rate(look)
    if full:
        return look.ok(f"CPU {format_cpus(full)}: no tick while one thread runs there")
    kept = _to_isolate(online)
    advice = Advice(f"nohz_full={kept} rcu_nocbs={kept}", boot=True, but="needs a kernel with CONFIG_NO_HZ_FULL")
    if hz is None:
        return look.costs("the tick interrupts every busy CPU; its rate is not known", advice if kept else None)
    text = f"the tick interrupts every busy CPU each {1000 / hz:g} ms"
    return look.costs(text, advice if kept else None, Cost(hz, "ticks/s", "on each busy CPU"))


def preemption(look: Look) -> Finding:
    """Whether a thread in the kernel gives way at once."""
    try:
        name, config = look.kernel_config()
    except Unread as error:
        version = look.text("/proc/sys/kernel/version")
        if "PREEMPT_RT" in version:
            return look.ok("this is a real-time kernel")
        if "PREEMPT_DYNAMIC" in version:
            raise Unread(f"the kernel's preemption is chosen at boot, and its default is not told: {error}") from None
        kind = "full" if "PREEMPT" in version else "none"
    else:
        kinds = {"CONFIG_PREEMPT_RT": "rt", "CONFIG_PREEMPT": "full", "CONFIG_PREEMPT_LAZY": "lazy"}
        kinds |= {"CONFIG_PREEMPT_VOLUNTARY": "voluntary", "CONFIG_PREEMPT_NONE": "none"}
        built = next((key for key in kinds if config.get(key) == "y"), None)
        if built is None:
            raise Unread(f"{look.host.path(name)} has no CONFIG_PREEMPT_NONE, nor another preemption model")
        look.note(look.host.path(name), f"{built}=y")
        kind = kinds[built]
        if config.get("CONFIG_PREEMPT_DYNAMIC") == "y":
            asked = re.findall(r"(?:^|\s)preempt=(\w+)", look.text("/proc/cmdline", note=False))
            if asked:
                look.note(look.host.path("/proc/cmdline"), f"preempt={asked[-1]}")
                kind = asked[-1]
    if kind in ("rt", "full"):
        return look.ok("a thread in the kernel gives way to a more urgent one at once")
    return look.costs(
        f"preemption is {kind!r}: a thread in a long system call gives way late",
        Advice("preempt=full", boot=True, but="needs CONFIG_PREEMPT_DYNAMIC, and takes a little throughput"),
    )


def idle(look: Look) -> Finding:
    """How long an idle CPU takes to wake up."""
    figures = _figures(look)
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
        command = f"echo 1 | tee {_CPU}/cpu*/cpuidle/state[{min(deep)}-{max(deep)}]/disable"
        advice = Advice(command, but="costs power")
    elif re.search(r"(?m)^flags\s.*\bhypervisor\b", _cpuinfo(look)):
        advice = Advice(
            "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns",
            but="a guest then polls before it sleeps, and uses more of its host; needs the haltpoll driver",
        )
    else:
        advice = Advice("cpuidle.off=1 idle=poll", boot=True, but="each idle CPU then runs at full power")
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
    cost = _us(slow, "until a thread runs on a CPU that was idle")
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
    figures = _figures(look)
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
    figures = _figures(look)
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
    kept = _to_isolate(look.online())
    look.evidence.pop()
    advice = Advice(f"isolcpus=managed_irq,domain,{kept} nohz_full={kept}", boot=True) if kept else None
    return look.costs("a running thread loses its CPU to others, or the hypervisor does", advice, cost)


# ---- the kernel


def rt_throttling(look: Look) -> Finding:
    """The share of time that real-time threads may have."""
    runtime = look.number("/proc/sys/kernel/sched_rt_runtime_us")
    period = look.number("/proc/sys/kernel/sched_rt_period_us")
    if period < 1:
        raise look.odd("/proc/sys/kernel/sched_rt_period_us", str(period), "a time above 0")
    if runtime < 0 or runtime >= period:
        return look.ok("a real-time thread may run for as long as it likes")
    return look.costs(
        "a real-time thread that does not sleep is held for the rest of each period",
        Advice("sysctl -w kernel.sched_rt_runtime_us=-1", but="one that never sleeps then has its CPU for ever"),
        Cost((period - runtime) / 1e3, "ms", f"of each {period / 1e3:g} ms, at most"),
    )


def transparent_huge_pages(look: Look) -> Finding:
    """Huge pages that nobody asked for."""
    where = "/sys/kernel/mm/transparent_hugepage"
    enabled, defrag = look.chosen(f"{where}/enabled"), look.chosen(f"{where}/defrag")
    if enabled == "always":
        return look.costs(
            "any page fault may clear 2 MiB, and khugepaged moves pages under running threads",
            Advice(f"echo madvise > {where}/enabled", but="programs that want huge pages must ask for them"),
        )
    if enabled == "madvise" and defrag == "always":
        return look.costs(
            "a page fault may wait until memory has been moved together",
            Advice(f"echo defer+madvise > {where}/defrag"),
        )
    return look.ok("only who asks for huge pages gets them")


def swap(look: Look) -> Finding:
    """Pages that may have to come from a disk."""
    size = used = 0
    for line in look.text("/proc/swaps").splitlines()[1:]:
        words = line.split()
        if len(words) < 5:
            raise look.odd("/proc/swaps", line, "a swap area")
        size += look.to_int("/proc/swaps", words[-3])
        used += look.to_int("/proc/swaps", words[-2])
    if not size:
        return look.ok("there is no swap")
    look.evidence[-1] = Evidence(look.host.path("/proc/swaps"), f"{used >> 10:,} of {size >> 10:,} MiB in use")
    look.number("/proc/sys/vm/swappiness")
    advice = Advice("swapoff -a", but="without it: mlockall in the programs that matter, or vm.swappiness=1")
    state = "pages are in swap now" if used else "pages may go there"
    return look.costs(f"{state}: touching one waits for a disk", advice, Cost(used / 1024, "MiB", "in swap now"))


def clock_source(look: Look) -> Finding:
    """Where the time comes from, and whether reading it takes a system call."""
    where = "/sys/devices/system/clocksource/clocksource0"
    current = look.text(f"{where}/current_clocksource")
    others = look.text(f"{where}/available_clocksource").split()
    if not re.fullmatch(r"[\w-]+", current):
        raise look.odd(f"{where}/current_clocksource", current, "the name of a clock source")
    figures = _figures(look)
    read, call = (figures.clock, figures.call) if figures else (None, None)
    cost = None
    slow = current not in _FAST_CLOCKS
    if read is not None and call is not None:
        look.note("measured", f"clock_gettime {read:.0f} ns, a bare system call {call:.0f} ns")
        cost = Cost(read, "ns", "each reading of the clock")
        slow = read > _SLOW_CLOCK_NS or read > 0.8 * call
    if not slow:
        return look.ok(f"the clock source {current} is read without a system call", cost)
    fast = next((name for name in _FAST_CLOCKS if name in others and name != current), None)
    if fast is not None:
        advice = Advice(f"echo {fast} > {where}/current_clocksource", but="see dmesg for why the kernel left it")
    else:
        advice = Advice("clocksource=tsc tsc=reliable", boot=True, but="only where the CPUs' counters agree")
    return look.costs(f"reading the clock source {current} is slow", advice, cost)


def numa_balancing(look: Look) -> Finding:
    """Pages that are unmapped to see who uses them."""
    mode = look.text_or_none("/proc/sys/kernel/numa_balancing")
    if mode is None:
        return look.ok("this kernel does no NUMA balancing")
    value = look.to_int("/proc/sys/kernel/numa_balancing", mode)
    nodes = look.cpus("/sys/devices/system/node/online") if value else frozenset()
    if not value or len(nodes) < 2:
        return look.ok("no page is unmapped to see who uses it")
    return look.costs(
        "the kernel unmaps pages to see which node uses them: each costs a fault",
        Advice("sysctl -w kernel.numa_balancing=0", but="then bind memory yourself"),
    )


def timer_slack(look: Look) -> Finding:
    """How late a sleep may end, to be bundled with others."""
    name = "/proc/self/timerslack_ns"
    slack = look.number(name)
    if slack < 0:
        raise look.odd(name, str(slack), "a time")
    figures = _figures(look)
    timer = figures.timer if figures else None
    cost = None
    if timer is not None:
        cost = _us(timer, "how late sleeps of 1 ms end")
    if slack <= limits.SLACK_NS:
        return look.ok("sleeps end when they should", cost)
    return look.costs(
        f"a sleep may end {slack / 1e3:g} us late, except of real-time threads",
        Advice(f"echo 1 > {name}", administrator=False, but="in the shell that starts the program: it is inherited"),
        cost,
    )


def autogroup(look: Look) -> Finding:
    """Whether nice counts between sessions."""
    name = "/proc/sys/kernel/sched_autogroup_enabled"
    text = look.text_or_none(name)
    if text is None or look.to_int(name, text) == 0:
        return look.ok("nice counts between all processes")
    return look.costs(
        "each session is a group, and nice counts only within it: a low nice does not help against other sessions",
        Advice("sysctl -w kernel.sched_autogroup_enabled=0"),
    )


def mitigations(look: Look) -> Finding:
    """What the kernel does on each system call or switch against flaws of the CPU."""
    where = f"{_CPU}/vulnerabilities"
    active = []
    for name in look.directory(where):
        text = look.text(f"{where}/{name}", note=False)
        if not text.startswith(_VERDICTS):
            raise look.odd(f"{where}/{name}", text, "a verdict like 'Not affected'")
        if name in _DEAR_MITIGATIONS and "Mitigation" in text:
            look.note(look.host.path(f"{where}/{name}"), text)
            active.append(name)
    figures = _figures(look)
    call = figures.call if figures else None
    cost = None if call is None else Cost(call, "ns", "a system call that does nothing")
    if not active:
        return look.ok("no costly mitigation of CPU flaws is on", cost)
    but = "lets any program read what is not its own: only where all that runs is trusted"
    return look.costs(
        f"what guards against flaws of the CPU ({', '.join(active)}) makes system calls or switches dearer",
        Advice("mitigations=off", boot=True, but=but),
        cost,
    )


def watchdog(look: Look) -> Finding:
    """The hard lockup detector, which interrupts each CPU."""
    text = look.text_or_none("/proc/sys/kernel/nmi_watchdog")
    if text is None or look.to_int("/proc/sys/kernel/nmi_watchdog", text) == 0:
        return look.ok("no watchdog interrupts the CPUs by NMI")
    return look.costs(
        "the NMI watchdog interrupts each busy CPU, and holds a performance counter",
        Advice("sysctl -w kernel.nmi_watchdog=0", but="a CPU that hangs in the kernel is then not noticed"),
    )


def interrupts(look: Look) -> Finding:
    """Which CPUs serve new interrupts."""
    name = "/proc/irq/default_smp_affinity"
    served, online = look.cpus(name, mask=True) & (every := look.online()), every
    isolated = look.cpus(f"{_CPU}/isolated")
    if len(online) < 2:
        return look.ok("there is one CPU, which serves all interrupts")
    if not served & isolated and served < online:
        return look.ok(f"CPU {format_cpus(served)}: new interrupts are served there only")
    kept = (
        online - isolated if isolated and online - isolated else online - set(sorted(online)[(len(online) + 1) // 2 :])
    )
    return look.costs(
        "any CPU may have to serve an interrupt" if not isolated else "isolated CPUs may have to serve interrupts",
        Advice(
            f"echo {format_mask(kept)[2:]} > {name}",
            but="for those that exist already: /proc/irq/*/smp_affinity; irqbalance, where it runs, undoes it",
        ),
    )


CHECKS: tuple[tuple[str, Callable[[Look], Finding]], ...] = (
    ("governor", governor),
    ("smt", smt),
    ("isolation", isolation),
    ("idle-wake-up", idle),
    ("steal", steal),
    ("quota", limits.quota),
    ("interruptions", interruptions),
    ("tick", tick),
    ("preemption", preemption),
    ("rt-throttling", rt_throttling),
    ("timer-slack", timer_slack),
    ("clock-source", clock_source),
    ("huge-pages", transparent_huge_pages),
    ("swap", swap),
    ("numa-balancing", numa_balancing),
    ("autogroup", autogroup),
    ("interrupts", interrupts),
    ("watchdog", watchdog),
    ("mitigations", mitigations),
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
