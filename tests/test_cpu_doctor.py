"""The doctor: a host where all is well and one where nothing is, each finding both ways; what is missing or makes no
sense is unknown and says so; and this machine."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CORELANE, PATIENCE, descriptors, needs_linux

from corelane import cpu
from corelane.cpu import doctor_measures
from corelane.cpu.doctor_checks import CHECKS, run_check
from corelane.cpu.doctor_host import Host
from corelane.cpu.doctor_measures import Figures, Spread
from corelane.errors import CallFailed, NotSupported

NAMES = [name for name, _ in CHECKS]
CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"
PAGES = "sys/kernel/mm/transparent_hugepage"
MOUNTS = """\
22 1 0:20 / / rw - ext4 /dev/root rw
31 22 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw
32 22 0:29 / /sys/fs/cg\\040cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
"""
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max open files            {nofile}             files
Max locked memory         {memlock}            bytes
Max nice priority         {nice}
Max realtime priority     {rtprio}
"""

# ---- two hosts, as {file: text}. Between them, every finding is there both ways. -------------------------------------

GOOD = {
    "proc/sys/kernel/osrelease": "6.8.0-fine\n",
    "proc/sys/kernel/version": "#1 SMP PREEMPT_DYNAMIC\n",
    "boot/config-6.8.0-fine": "# a comment\nCONFIG_HZ=1000\nCONFIG_PREEMPT_VOLUNTARY=y\nCONFIG_PREEMPT_DYNAMIC=y\n",
    "proc/cmdline": "quiet preempt=none preempt=full isolcpus=2-3\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "performance\n",
    f"{CPU}/cpu0/cpuidle/state0/name": "POLL\n",
    f"{CPU}/cpu0/cpuidle/state0/latency": "0\n",
    f"{CPU}/cpu0/cpuidle/state0/disable": "0\n",
    f"{CPU}/cpu0/cpuidle/state1/name": "C6\n",
    f"{CPU}/cpu0/cpuidle/state1/latency": "133\n",
    f"{CPU}/cpu0/cpuidle/state1/disable": "1\n",
    f"{CPU}/smt/active": "0\n",
    f"{CPU}/online": "0-3\n",
    f"{CPU}/isolated": "2-3\n",
    f"{CPU}/nohz_full": "2-3\n",
    f"{CPU}/vulnerabilities/meltdown": "Not affected\n",
    f"{CPU}/vulnerabilities/spectre_v1": "Mitigation: usercopy/swapgs barriers\n",
    "proc/cpuinfo": "processor: 0\nflags\t\t: fpu tsc\n",
    "proc/stat": "cpu  100 0 100 9800 0 0 0 0 0 0\ncpu0 100 0 100 9800 0 0 0 0 0 0\n",
    "proc/self/cgroup": "0::/job\n3:cpu,cpuacct:/job\n2:memory:/elsewhere\n",
    "proc/self/mountinfo": MOUNTS,
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\n",
    "sys/fs/cgroup/job/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/job/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 0\nthrottled_usec 0\n",
    "sys/fs/cg cpu/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    "sys/fs/cg cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cg cpu/job/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    "sys/fs/cg cpu/job/cpu.cfs_quota_us": "-1\n",
    "proc/sys/kernel/sched_rt_runtime_us": "-1\n",
    "proc/sys/kernel/sched_rt_period_us": "1000000\n",
    "proc/self/timerslack_ns": "1\n",
    f"{CLOCK}/current_clocksource": "tsc\n",
    f"{CLOCK}/available_clocksource": "tsc hpet acpi_pm \n",
    f"{PAGES}/enabled": "always [madvise] never\n",
    f"{PAGES}/defrag": "always defer [defer+madvise] madvise never\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/sys/kernel/numa_balancing": "0\n",
    "sys/devices/system/node/online": "0-1\n",
    "proc/sys/kernel/sched_autogroup_enabled": "0\n",
    "proc/irq/default_smp_affinity": "00000000,00000003\n",
    "proc/sys/kernel/nmi_watchdog": "0\n",
    "proc/self/limits": LIMITS.format(
        nofile="1048576 1048576", memlock="unlimited unlimited", nice="40 40", rtprio="99 99"
    ),
    "proc/self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
}
BAD = GOOD | {
    "proc/config.gz": gzip.compress(b"CONFIG_HZ=250\nCONFIG_PREEMPT_NONE=y\n"),
    f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
    f"{CPU}/cpu0/cpuidle/state1/disable": "0\n",
    f"{CPU}/smt/active": "1\n",
    f"{CPU}/isolated": "\n",
    f"{CPU}/nohz_full": "(null)\n",
    f"{CPU}/vulnerabilities/meltdown": "Mitigation: PTI\n",
    "proc/cpuinfo": "processor: 0\nflags\t\t: fpu tsc hypervisor\n",
    "proc/stat": "cpu  100 0 100 9000 0 0 0 800 0 0\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 1\nthrottled_usec 100\n",
    "sys/fs/cgroup/job/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\nthrottled_usec 200000\n",
    "proc/sys/kernel/sched_rt_runtime_us": "950000\n",
    "proc/self/timerslack_ns": "50000\n",
    f"{CLOCK}/current_clocksource": "hpet\n",
    f"{PAGES}/enabled": "[always] madvise never\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/sda 2\tpartition\t2097152\t1024\t-2\n",
    "proc/sys/kernel/numa_balancing": "1\n",
    "proc/sys/kernel/sched_autogroup_enabled": "1\n",
    "proc/irq/default_smp_affinity": "f\n",
    "proc/sys/kernel/nmi_watchdog": "1\n",
    "proc/self/limits": LIMITS.format(nofile="1024 4096", memlock="65536 8388608", nice="0 0", rtprio="0 0"),
}
CAPABLE = "Name:\tx\nCapEff:\t000001ffffffffff\n"


def make_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.fixture
def tree(tmp_path):
    """tree(host, {file: text, file: None}) makes a host, with some files other or missing, and diagnoses it."""

    def diagnose(host, changes=None):
        files = {name: text for name, text in {**host, **(changes or {})}.items() if text is not None}
        return cpu.diagnose(make_tree(tmp_path / str(len(os.listdir(tmp_path))), files))

    return diagnose


@pytest.fixture
def one(tmp_path):
    """one(name, host, changes, figures) is a single finding, with what was measured given."""

    def find(name, host, changes=None, figures=None):
        files = {each: text for each, text in {**host, **(changes or {})}.items() if text is not None}
        root = make_tree(tmp_path / str(len(os.listdir(tmp_path))), files)
        return run_check((name, dict(CHECKS)[name]), Host(str(root), False, figures))

    return find


# ---- each finding both ways ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "interruptions"])
def test_a_finding_both_ways(tree, name):
    good, bad = tree(GOOD)[name], tree(BAD)[name]
    assert good.status == "ok", good
    assert good.advice is None
    assert bad.status == "costs", bad
    assert bad.evidence
    assert bad.advice.command


def test_what_costs_is_proved_and_can_be_changed(tree):
    found = tree(BAD)

    def advice(name):
        return found[name].advice

    def read(name):
        return {each.where.partition("/sys/")[2]: each.value for each in found[name].evidence}

    assert advice("governor").command == f"echo performance | tee /{CPU}/cpu*/cpufreq/scaling_governor"
    assert read("governor") == {
        "devices/system/cpu/cpu*/cpufreq/scaling_governor": "performance (CPU 1)"
    }  # the last of two
    assert "powersave (CPU 0)" in {each.value for each in found["governor"].evidence}
    assert advice("isolation").command == "isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3"
    assert advice("isolation").boot
    assert "C6 133 us" in read("idle-wake-up")["devices/system/cpu/cpu0/cpuidle/state*/latency"]
    assert advice("idle-wake-up").command == f"echo 1 | tee /{CPU}/cpu*/cpuidle/state1/disable"
    assert found["steal"].cost == cpu.Cost(8.0, "%", "of the CPUs' time since boot")
    assert found["quota"].cost == cpu.Cost(50.0, "ms", "each of 4 times")
    assert advice("quota").command == "echo max > /sys/fs/cgroup/job/cpu.max"
    assert found["tick"].cost == cpu.Cost(250, "ticks/s", "on each busy CPU")
    assert found["rt-throttling"].cost == cpu.Cost(50.0, "ms", "of each 1000 ms, at most")
    assert advice("clock-source").command == f"echo tsc > /{CLOCK}/current_clocksource"
    assert found["swap"].cost == cpu.Cost(1.0, "MiB", "in swap now")
    assert advice("interrupts").command == "echo 3 > /proc/irq/default_smp_affinity"
    assert advice("limit-rtprio").command == "echo '* - rtprio 99' >> /etc/security/limits.d/corelane.conf"
    assert [each.name for each in found.findings if each.advice and not each.advice.administrator] == ["timer-slack"]


@pytest.mark.parametrize(
    ("name", "host", "changes", "status", "text"),
    [
        ("smt", BAD, {f"{CPU}/smt/active": None, f"{CPU}/cpu0/topology/thread_siblings_list": "0-1"}, "unknown", "smt"),
        ("isolation", BAD, {f"{CPU}/online": "0"}, "ok", "one CPU"),
        ("interrupts", BAD, {f"{CPU}/online": "0"}, "ok", "one CPU"),
        ("interrupts", GOOD, {"proc/irq/default_smp_affinity": "7"}, "costs", "isolated CPUs"),
        ("tick", BAD, {f"{CPU}/nohz_full": None}, "costs", "each 4 ms"),
        ("tick", BAD, {"proc/config.gz": None, "boot/config-6.8.0-fine": None}, "costs", "rate is not known"),
        ("tick", GOOD, {"proc/config.gz": b"no gzip"}, "ok", "CPU 2-3"),
        ("preemption", GOOD, {"proc/cmdline": "quiet"}, "costs", "'voluntary'"),
        ("preemption", GOOD, {"boot/config-6.8.0-fine": None}, "unknown", "chosen at boot"),
        ("preemption", GOOD, {"boot/config-6.8.0-fine": "CONFIG_PREEMPT_RT=y"}, "ok", "gives way"),
        (
            "preemption",
            GOOD,
            {"boot/config-6.8.0-fine": None, "proc/sys/kernel/version": "#1 SMP PREEMPT_RT"},
            "ok",
            "real-time kernel",
        ),
        ("preemption", GOOD, {"boot/config-6.8.0-fine": None, "proc/sys/kernel/version": "#1 SMP"}, "costs", "'none'"),
        ("governor", BAD, {f"{CPU}/cpu0/cpufreq/scaling_governor": None}, "ok", "full frequency"),
        ("huge-pages", GOOD, {f"{PAGES}/defrag": "[always] never"}, "costs", "moved together"),
        ("numa-balancing", BAD, {"sys/devices/system/node/online": "0"}, "ok", "unmapped"),
        ("numa-balancing", BAD, {"proc/sys/kernel/numa_balancing": None}, "ok", "no NUMA balancing"),
        ("autogroup", BAD, {"proc/sys/kernel/sched_autogroup_enabled": None}, "ok", "all processes"),
        ("watchdog", BAD, {"proc/sys/kernel/nmi_watchdog": None}, "ok", "no watchdog"),
        ("limit-nofile", BAD, {"proc/self/limits": "Max open files 1024 1048576 files"}, "costs", "its own limit"),
        ("limit-memlock", BAD, {"proc/self/status": CAPABLE}, "ok", "all memory"),
        ("limit-rtprio", BAD, {"proc/self/status": CAPABLE}, "ok", "may be used"),
        ("limit-nice", BAD, {"proc/self/status": CAPABLE}, "ok", "any nice"),
        ("limit-nice", BAD, {"proc/self/limits": "Max nice priority 25 25"}, "costs", "below -5"),
        ("clock-source", GOOD, {f"{CLOCK}/current_clocksource": "kvm-clock"}, "ok", "without a system call"),
        ("clock-source", BAD, {f"{CLOCK}/available_clocksource": "hpet acpi_pm"}, "costs", "hpet"),
        ("quota", GOOD, {"sys/fs/cgroup/job/cpu.max": "max 100000"}, "ok", "no CPU quota"),
        ("quota", GOOD, {}, "ok", "never used up"),
        ("quota", BAD, {"proc/self/cgroup": "0::/job/../../other"}, "unknown", "lies outside of what is mounted"),
    ],
)  # fmt: skip
def test_shapes_of_hosts(one, name, host, changes, status, text):
    found = one(name, host, changes)
    assert (found.status, text in found.text) == (status, True), found


def test_from_linux_6_12_on_it_is_the_fair_server(one):
    """The old files are still there, and say nothing any more."""
    new = {**GOOD, "proc/sys/kernel/osrelease": "6.12.0\n"}
    server = "sys/kernel/debug/sched/fair_server"
    hidden = one("rt-throttling", new)
    assert (hidden.status, f"{server}: No such file" in hidden.text) == ("unknown", True)
    on = {f"{server}/cpu0/runtime": "0", f"{server}/cpu1/runtime": "50000000"}
    on |= {f"{server}/cpu{number}/period": "1000000000" for number in (0, 1)}
    found = one("rt-throttling", new, on)
    assert found.cost == cpu.Cost(50.0, "ms", "of each 1000 ms, at most")
    assert found.advice.command == f"echo 0 | tee /{server}/cpu*/runtime"
    assert one("rt-throttling", new, {**on, f"{server}/cpu1/runtime": "0"}).status == "ok"
    odd = one("rt-throttling", new, {**on, f"{server}/cpu1/period": "often"})
    assert (odd.status, f"{server}/cpu1/period holds 'often'" in odd.text) == ("unknown", True)


def test_siblings_tell_of_smt_where_the_kernel_is_older(one):
    bare = {name: text for name, text in GOOD.items() if not name.startswith(f"{CPU}/smt/")}
    for siblings, status in (("0-1", "costs"), ("0,2", "costs"), ("0", "ok")):
        changes = {f"{CPU}/smt/control": "on", f"{CPU}/cpu0/topology/thread_siblings_list": siblings}
        assert one("smt", bare, changes).status == status


def test_throttling_of_v1_and_of_a_parent(one):
    """Nanoseconds there; and what holds a parent holds us."""
    changes = {"sys/fs/cg cpu/cpu.stat": "nr_throttled 10\nthrottled_time 20000000\n"}
    changes |= {"sys/fs/cg cpu/cpu.cfs_quota_us": "150000", "sys/fs/cg cpu/cpu.cfs_period_us": "100000"}
    found = one("quota", GOOD, changes)
    assert found.cost == cpu.Cost(2.0, "ms", "each of 10 times")
    assert found.advice.command == "echo -1 > '/sys/fs/cg cpu/cpu.cfs_quota_us'"


def test_a_container_sees_its_cgroup_at_the_mount_point(one):
    mounts = "31 22 0:28 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    stat = {"sys/fs/cgroup/cpu.stat": "nr_throttled 2\nthrottled_usec 6000\n", "proc/self/mountinfo": mounts}
    for ours in ("0::/docker/abc", "0::/", "0::/docker/abc/gone"):
        found = one("quota", GOOD, {**stat, "proc/self/cgroup": ours})
        assert found.cost == cpu.Cost(3.0, "ms", "each of 2 times"), ours


# ---- what was measured -----------------------------------------------------------------------------------------------


def spread(p50):
    return Spread(p50, p50 * 2, p50 * 3)


@pytest.mark.parametrize(
    ("name", "figures", "status", "cost"),
    [
        ("idle-wake-up", Figures(wake_idle=spread(60.0), wake_busy=spread(4.0)), "costs", 60.0),
        ("idle-wake-up", Figures(wake_idle=spread(7.0), wake_busy=spread(4.0)), "ok", 7.0),
        ("clock-source", Figures(clock=30.0, call=200.0), "ok", 30.0),
        ("clock-source", Figures(clock=190.0, call=200.0), "costs", 190.0),
        ("clock-source", Figures(clock=50.0, call=60.0), "costs", 50.0),  # a real call, though a fast one
        ("timer-slack", Figures(timer=spread(51.0)), "ok", 51.0),
        ("steal", Figures(steal=0.2), "costs", 20.0),
        ("interruptions", Figures(gap_rate=0.0), "ok", None),
        ("interruptions", Figures(gaps=spread(25.0), gap_rate=100.0), "ok", 75.0),
        ("interruptions", Figures(gaps=spread(900.0), gap_rate=100.0), "costs", 2700.0),
        ("mitigations", Figures(call=90.0), "ok", 90.0),
    ],
)
def test_what_is_measured_decides(one, name, figures, status, cost):
    found = one(name, GOOD, figures=figures)
    assert found.status == status, found
    assert (found.cost and round(found.cost.value, 3)) == cost


def test_what_could_not_be_measured_is_unknown(one, monkeypatch):
    def refuse(*_):
        raise CallFailed(24, "measuring wake-ups: no descriptors")

    monkeypatch.setattr(doctor_measures, "_wakeups", refuse)
    figures = doctor_measures.measured(Host("/nowhere", True))
    assert set(figures.problems) == {"wake_idle", "wake_busy", "steal"}
    assert figures.steal is None
    assert figures.clock > 0
    found = one("idle-wake-up", GOOD, figures=figures)
    assert (found.status, "no descriptors" in found.text) == ("unknown", True)


def test_without_measuring_an_interruption_is_unknown(tree):
    assert tree(GOOD)["interruptions"].status == "unknown"


# ---- what is missing, and what makes no sense ------------------------------------------------------------------------


def test_an_empty_root_knows_nothing(tmp_path):
    found = cpu.diagnose(tmp_path)
    assert [each.name for each in found.findings] == NAMES
    for each in found.findings:
        assert each.status == "unknown", each
        assert str(tmp_path) in each.text or each.name == "interruptions", each


_WRONG = {name: "h\udcffllo?!\n".encode(errors="surrogateescape") for name in GOOD}
# What says nothing by itself, or of which any text will do.
_FREE = {"proc/cpuinfo", "proc/cmdline", "proc/sys/kernel/osrelease", "proc/sys/kernel/version"}
_FREE |= {f"{CPU}/cpu0/cpuidle/{state}/name" for state in ("state0", "state1")}
_FREE |= {f"{CLOCK}/available_clocksource", "proc/sys/vm/swappiness", "sys/devices/system/node/online", "proc/swaps"}
_FREE |= {name for name in GOOD if name.endswith("cpu.stat")} | {"proc/self/status"}


@pytest.mark.parametrize("name", sorted(set(GOOD) - _FREE))
def test_what_makes_no_sense_is_named(tree, name):
    found = tree(GOOD, {name: _WRONG[name]})
    named = [each for each in found.of("unknown") if name.rpartition("/")[2] in each.text or "PREEMPT" in each.text]
    if "scaling_governor" in name:
        named = [each for each in found.of("unknown") if "scaling_governor" in each.text]
    assert named, found
    assert all(each.status != "unknown" or each in named or each.name == "interruptions" for each in found.findings)


@pytest.mark.parametrize(
    ("name", "check", "text"),
    [
        ("proc/swaps", "swap", "Filename\n/dev/sda"),
        ("proc/swaps", "swap", "Filename\n/dev/sda partition much more -2"),
        ("sys/fs/cgroup/job/cpu.stat", "quota", "nr_throttled many"),
        ("sys/fs/cgroup/job/cpu.stat", "quota", "nr_throttled 3\nthrottled_usec"),
        ("sys/fs/cgroup/job/cpu.max", "quota", "-5 100000"),
        ("proc/sys/kernel/sched_rt_period_us", "rt-throttling", "0"),
        ("proc/sys/kernel/sched_rt_runtime_us", "rt-throttling", "9" * 5000),
        ("proc/self/timerslack_ns", "timer-slack", "-1"),
        ("proc/stat", "steal", "cpu  1 2 3"),
        ("proc/stat", "steal", ""),
        (f"{CPU}/online", "isolation", "\n"),
        (f"{CPU}/vulnerabilities/mds", "mitigations", "hello"),
        ("proc/self/limits", "limit-nofile", "Max open files many 5"),
        ("proc/self/limits", "limit-nofile", ""),
        ("boot/config-6.8.0-fine", "tick", "CONFIG_HZ=0"),
    ],
)
def test_odd_text_is_unknown_and_named(one, name, check, text):
    found = one(check, GOOD, {name: text})
    assert (found.status, name in found.text) == ("unknown", True), found


def test_odd_capabilities_are_unknown(one):
    for text in ("", "CapEff:", "CapEff:\tmany", "nothing like it"):
        found = one("limit-rtprio", BAD, {"proc/self/status": text})
        assert (found.status, "proc/self/status" in found.text) == ("unknown", True), found


def test_no_text_of_any_file_crashes_it(tree):
    """Pieces of sense: numbers that are none, lines cut off, bytes of any kind."""
    rng = random.Random(7)
    for _ in range(25):
        changes = {}
        for name, text in (GOOD if rng.random() < 0.5 else BAD).items():
            data = bytearray(text if isinstance(text, bytes) else text.encode())
            for _ in range(rng.choice((0, 0, 1, 5))):
                data[rng.randrange(len(data))] = rng.randrange(256)
                if data and rng.random() < 0.5:
                    data = data[: rng.randrange(1, len(data) + 1)]
            if rng.random() < 0.1:
                data = bytearray(rng.randbytes(40))
            changes[name] = bytes(data)
        found = tree(BAD, changes)
        assert [each.name for each in found.findings] == NAMES
        json.dumps(found.as_dict())
        assert str(found)


def test_odd_files_do_not_hold_or_crash_it(tmp_path):
    root = make_tree(tmp_path, GOOD)
    (root / "proc/stat").unlink()
    os.mkfifo(root / "proc/stat")
    (root / "proc/swaps").unlink()
    (root / "proc/swaps").mkdir()
    (root / "proc/self/limits").unlink()
    (root / "proc/self/limits").symlink_to("limits")
    found = cpu.diagnose(root)
    assert {found[name].status for name in ("steal", "swap", "limit-nofile")} == {"unknown"}
    assert "Is a directory" in found["swap"].text


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_unknown(tmp_path):
    root = make_tree(tmp_path, GOOD)
    (root / "proc/swaps").chmod(0)
    assert "Permission denied" in cpu.diagnose(root)["swap"].text


@pytest.mark.parametrize(
    ("root", "options", "error"),
    [
        ("/nonexistent/root", {}, ValueError),
        (__file__, {}, ValueError),
        (b"/", {}, TypeError),
        (None, {}, TypeError),
        ("/", {"measure": 1}, TypeError),
    ],
)
def test_bad_input_is_refused(root, options, error):
    with pytest.raises(error, match=r"root|measure|path"):
        cpu.diagnose(root, **options)


def test_another_system_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotSupported, match="darwin"):
        cpu.diagnose()
    assert cpu.diagnose(make_tree(tmp_path, GOOD))["smt"].status == "ok"


# ---- this machine, and the command -----------------------------------------------------------------------------------


@needs_linux
def test_this_machine(tmp_path):
    before = descriptors()
    found = cpu.diagnose()
    assert descriptors() == before
    assert found.measured
    assert [each.name for each in found.findings] == NAMES
    for name in ("idle-wake-up", "timer-slack", "clock-source", "mitigations"):
        assert found[name].cost is not None, found[name]
        assert found[name].cost.value > 0
    # The evidence is what is in the files.
    slack = Path("/proc/self/timerslack_ns").read_text().strip()
    assert cpu.Evidence("/proc/self/timerslack_ns", slack) in found["timer-slack"].evidence
    assert Path("/sys/devices/system/cpu/online").read_text().strip() in {
        each.value for each in found["isolation"].evidence
    }


@needs_linux
def test_each_file_of_this_machine_is_read_whole():
    """Of megabytes at once, /proc/sys says ENOMEM."""
    found = cpu.diagnose(measure=False)
    assert not found.measured
    assert [each for each in found.of("unknown") if "allocate" in each.text] == []
    assert found["autogroup"].status != "unknown" or not Path("/proc/sys/kernel/osrelease").exists()


def test_the_report_has_all_of_it(tree):
    found = tree(BAD)
    text = str(found)
    for each in found.findings:
        assert f"  {each.name} " in text
        if each.status == "costs":
            assert each.advice.command in text
    assert text.startswith(f"{len(found.costs)} of {len(NAMES)} cost latency, 1 ")
    assert found.as_dict()["findings"][0] == {
        "name": "governor",
        "status": "costs",
        "text": found["governor"].text,
        "evidence": [{"where": each.where, "value": each.value} for each in found["governor"].evidence],
        "cost": None,
        "advice": {
            "command": f"echo performance | tee /{CPU}/cpu*/cpufreq/scaling_governor",
            "administrator": True,
            "boot": False,
            "but": "costs power",
        },
    }
    with pytest.raises(KeyError, match="there are governor, "):
        found["nothing of that name"]


def doctor(*argv, **options):
    command = [CORELANE, "doctor", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, **options)


def test_the_command(tmp_path):
    good, bad = make_tree(tmp_path / "good", GOOD), make_tree(tmp_path / "bad", BAD)
    assert doctor("--root", bad).stdout == f"{cpu.diagnose(bad)}\n"
    assert json.loads(doctor("--root", bad, "--json").stdout) == cpu.diagnose(bad).as_dict()
    statuses = [doctor("--root", root, *strict).returncode for root in (good, bad) for strict in ([], ["--strict"])]
    assert statuses == [0, 0, 0, 1]
    wrong = doctor("--root", tmp_path / "none")
    assert (wrong.returncode, wrong.stdout) == (125, "")
    assert "is no directory" in wrong.stderr


@needs_linux
def test_the_command_measures_unless_told_not_to():
    assert json.loads(doctor("--json").stdout)["measured"]
    assert not json.loads(doctor("--json", "--no-measure").stdout)["measured"]


@needs_linux
def test_the_command_says_when_nobody_reads_it():
    with open("/dev/full", "w") as full:
        argv = [CORELANE, "doctor", "--no-measure"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (125, "corelane: stdout: No space left on device\n")
