"""The doctor's checks of the kernel: its clock and timers, its scheduler, its memory. Owns nothing."""

from __future__ import annotations

import re
import time

from corelane.cpu.doctor import Advice, Cost, Evidence
from corelane.cpu.doctor_host import CPU as _CPU
from corelane.cpu.doctor_host import Look, Unread, spread_cost, to_isolate
from corelane.cpu.lists import format_cpus, format_mask

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from corelane.cpu.doctor import Finding

__all__ = [
    "autogroup",
    "clock_source",
    "interrupts",
    "mitigations",
    "numa_balancing",
    "preemption",
    "rt_throttling",
    "swap",
    "tick",
    "timer_slack",
    "transparent_huge_pages",
    "watchdog",
]

_COARSE_CLOCK = 6  # CLOCK_MONOTONIC_COARSE, whose resolution is the tick; the time module has no name for it
_SLACK_NS = 10_000  # the default is 50,000
_SLOW_CLOCK_NS = 150.0  # a clock that is read without a system call takes 15 to 60
_FAST_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "riscv_clocksource")
# These change each system call or each switch between processes. spectre_v1's do not.
_DEAR_MITIGATIONS = (
    "gather_data_sampling", "indirect_target_selection", "l1tf", "mds", "meltdown", "mmio_stale_data",
    "reg_file_data_sampling", "retbleed", "spec_rstack_overflow", "spec_store_bypass", "spectre_v2", "srbds", "tsa",
    "tsx_async_abort", "vmscape",
)  # fmt: skip
_VERDICTS = ("Not affected", "Vulnerable", "Mitigation", "Unknown", "KVM:", "Processor vulnerable")
_FOR_EVER = "one that never sleeps then has its CPU for ever"


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
    kept = to_isolate(online)
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


def rt_throttling(look: Look) -> Finding:
    """The share of time that real-time threads may have."""
    release = look.text("/proc/sys/kernel/osrelease", note=False)
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is not None and (int(version[1]), int(version[2])) >= (6, 12):
        return _fair_server(look)
    runtime = look.number("/proc/sys/kernel/sched_rt_runtime_us")
    period = look.number("/proc/sys/kernel/sched_rt_period_us")
    if period < 1:
        raise look.odd("/proc/sys/kernel/sched_rt_period_us", str(period), "a time above 0")
    if runtime < 0 or runtime >= period:
        return look.ok("a real-time thread may run for as long as it likes")
    advice = Advice("sysctl -w kernel.sched_rt_runtime_us=-1", but=_FOR_EVER)
    return _held(look, (period - runtime) / 1e3, period / 1e3, advice)


def _held(look: Look, held: float, period: float, advice: Advice) -> Finding:
    return look.costs(
        "a real-time thread that does not sleep is held for a part of each period, if others want its CPU",
        advice,
        Cost(held, "ms", f"of each {period:g} ms, at most"),
    )


def _fair_server(look: Look) -> Finding:
    """From Linux 6.12 on, sched_rt_runtime_us only limits what is admitted; a deadline server makes room for others."""
    where = "/sys/kernel/debug/sched/fair_server"
    found = []
    try:
        for name in look.directory(where):
            if re.fullmatch(r"cpu\d+", name):
                files = (f"{where}/{name}/runtime", f"{where}/{name}/period")
                runtime, period = (look.to_int(file, look.text(file, note=False)) for file in files)
                found.append((runtime / 1e6, period / 1e6))
        if not found:
            raise Unread(f"{look.host.path(where)} has no CPU")
    except Unread as error:
        default = "by default, the fair server of this kernel holds real-time threads for 50 ms of each second"
        raise Unread(f"{default}, and what is set cannot be read: {error}") from None
    held, each = max(found)
    look.note(f"{look.host.path(where)}/cpu*/runtime", f"{held:g} of {each:g} ms")
    if held <= 0:
        return look.ok("a real-time thread may run for as long as it likes")
    return _held(look, held, each, Advice(f"echo 0 | tee {where}/cpu*/runtime", but=_FOR_EVER))


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
    figures = look.host.figures
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
    figures = look.host.figures
    timer = figures.timer if figures else None
    cost = None
    if timer is not None:
        cost = spread_cost(timer, "how late sleeps of 1 ms end")
    if slack <= _SLACK_NS:
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
    figures = look.host.figures
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
