"""Load: the figures of known counters, what counters do that should not, and what is no file of counters."""

import contextlib
import errno
import json
import os
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from helpers import needs_linux, script

from corelane import cpu
from corelane.cpu import sampler
from corelane.errors import CpuError, NotSupported


class Machine:
    """A fixture's /proc, whose counters move when told to."""

    def __init__(self, root):
        self.root = root
        (root / "proc" / "pressure").mkdir(parents=True)

    def stat(self, rows, *, after="intr 5 0 0\nctxt 1\n"):
        """Rows of (cpu, user, nice, system, idle, ...)."""
        lines = ["cpu  1 2 3 4 5 6 7 8 9 10", *(f"cpu{row[0]} {' '.join(map(str, row[1:]))}" for row in rows)]
        self.write("stat", "\n".join(lines) + "\n" + after)

    def write(self, name, text):
        (self.root / "proc" / name).write_text(text)

    def sampler(self):
        return cpu.LoadSampler(self.root)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_parts_of_the_time_between_two_samples(machine):
    machine.stat([(0, *[100] * 10), (1, *[100] * 10)])
    sampler = machine.sampler()
    sampler.sample()
    #                  user nice system idle iowait irq softirq steal guest guest_nice
    machine.stat([(0, 130, 110, 120, 110, 110, 105, 105, 110, 120, 110), (1, 100, 100, 100, 180, 120, 100, 100, 100)])
    load = sampler.sample()
    assert load.cpus.tolist() == [0, 1]
    assert load.user.tolist() == [0.4, 0.0]
    assert load.system.tolist() == [0.2, 0.0]
    assert load.iowait.tolist() == [0.1, 0.2]
    assert load.steal.tolist() == [0.1, 0.0]
    assert load.utilisation.tolist() == pytest.approx([0.8, 0.0])
    assert load.demand is load.utilisation
    assert not load.since_boot
    assert load.interval > 0
    assert (load.waiting, load.pressure, load.runnable, load.tasks, load.averages) == (None,) * 5


def test_a_first_sample_is_since_boot(machine):
    machine.stat([(0, 300, 0, 0, 700), (4, 0, 0, 0, 1000)])
    load = machine.sampler().sample()
    assert load.since_boot
    assert load.utilisation.tolist() == pytest.approx([0.3, 0])
    assert load.interval == 1000 / os.sysconf("SC_CLK_TCK")
    assert cpu.load(root=machine.root).since_boot


def test_arrays_cannot_be_changed(machine):
    machine.stat([(0, 1, 2, 3, 4)])
    load = machine.sampler().sample()
    for name in ("cpus", "utilisation", "user", "system", "iowait", "steal"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(load, name)[0] = 1


def test_counters_that_run_backwards_stand_still(machine):
    """iowait and idle do: see proc(5)."""
    machine.stat([(0, 100, 0, 0, 100, 50)])
    sampler = machine.sampler()
    sampler.sample()
    machine.stat([(0, 110, 0, 0, 110, 30)])
    load = sampler.sample()
    assert load.utilisation.tolist() == [0.5]
    assert load.iowait.tolist() == [0]
    machine.stat([(0, 0, 0, 0, 0, 0)])  # all of them: put on line anew
    assert sampler.sample().utilisation.tolist() == [0.5]
    machine.stat([(0, 1, 0, 0, 3, 0)])
    assert sampler.sample().utilisation.tolist() == [0.25]


def test_no_tick_keeps_the_last_figure(machine):
    machine.stat([(0, 100, 0, 0, 100)])
    sampler = machine.sampler()
    sampler.sample()
    machine.stat([(0, 140, 0, 0, 110)])
    assert sampler.sample().utilisation.tolist() == pytest.approx([0.8])
    assert sampler.sample().utilisation.tolist() == pytest.approx([0.8])


def test_cpus_that_come_and_go(machine):
    machine.stat([(0, 100, 0, 0, 100), (2, 100, 0, 0, 100), (1500, 100, 0, 0, 100)])
    sampler = machine.sampler()
    sampler.sample()
    machine.stat([(0, 110, 0, 0, 190), (1500, 190, 0, 0, 110)])
    load = sampler.sample()
    assert dict(zip(load.cpus.tolist(), load.utilisation.tolist(), strict=True)) == pytest.approx({0: 0.1, 1500: 0.9})
    machine.stat([(0, 110, 0, 0, 290), (3, 30, 0, 0, 10), (1500, 290, 0, 0, 110)])
    load = sampler.sample()
    expected = {0: 0.0, 3: 0.75, 1500: 1.0}  # the new one has its own since boot
    assert dict(zip(load.cpus.tolist(), load.utilisation.tolist(), strict=True)) == pytest.approx(expected)


def test_any_number_of_cpus(machine):
    for count in (1, 64, 65, 1024):
        machine.stat([(number, 1, 0, 0, number) for number in range(count)])
        load = machine.sampler().sample()
        assert load.cpus.tolist() == list(range(count))
        assert load.utilisation[-1] == pytest.approx(1 / count)


def test_lines_in_any_order(machine):
    machine.stat([(3, 1, 0, 0, 3), (1, 1, 0, 0, 0)])
    load = machine.sampler().sample()
    assert load.cpus.tolist() == [1, 3]
    assert load.utilisation.tolist() == pytest.approx([1, 0.25])


def test_pressure_and_averages(machine):
    machine.stat([(0, 1, 1, 1, 1)])
    machine.write("pressure/cpu", "some avg10=12.50 avg60=6.00 avg300=1.00 total=5000000\nfull avg10=0.00 total=0\n")
    machine.write("loadavg", "1.50 1.25 1.00 3/110 24971\n")
    sampler = machine.sampler()
    first = sampler.sample()
    assert first.pressure == cpu.Pressure(0.125, 0.06, 0.01, 5.0, None)
    assert (first.runnable, first.tasks, first.averages) == (3, 110, (1.5, 1.25, 1.0))
    machine.write("pressure/cpu", "some avg10=12.50 avg60=6.00 avg300=1.00 total=5000001\n")
    second = sampler.sample()
    assert second.pressure.recent == pytest.approx(1e-6 / second.interval)


def test_queues_of_each_cpu(machine):
    machine.stat([(0, 100, 0, 0, 0), (7, 100, 0, 0, 0)])
    lines = "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 5 {} 9\ndomain0 3 1 1\ncpu7 0 0 0 0 0 0 5 {} 9\n"
    machine.write("schedstat", lines.format(0, 10**9))
    sampler = machine.sampler()
    assert sampler.sample().waiting.tolist() == pytest.approx([0, 1])  # a second of waiting in the second since boot
    machine.write("schedstat", lines.format(3 * 10**9, 10**9))
    load = sampler.sample()
    assert load.waiting.tolist() == pytest.approx([3 / load.interval, 0])
    assert (load.demand == load.utilisation + load.waiting).all()
    assert cpu.LoadSampler(machine.root, queues=False).sample().waiting is None
    machine.write("schedstat", "version 14\ncpu0 1 2 3\n")
    assert sampler.sample().waiting is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "intr 1\n",
        "cpu  1 2 3 4\n",
        "cpu0 1 2 3\n",
        "cpu0 1 2 3 -4\n",
        "cpu0 1 2 3 4 x\n",
        "cpu0 5000000000000000000 0 0 5000000000000000000\n",
        "cpux 1 2 3 4\ncpu",
        "\0",
    ],
)
def test_what_is_no_stat(machine, text):
    machine.write("stat", text)
    with pytest.raises(CpuError, match="malformed") as caught:
        machine.sampler().sample()
    assert str(machine.root / "proc" / "stat") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pressure/cpu", "full avg10=0\n"),
        ("pressure/cpu", "some avg10=x avg60=0 avg300=0 total=0\n"),
        ("pressure/cpu", "some avg10=1\n"),
        ("loadavg", "1 2 3\n"),
        ("loadavg", "1 2 3 x/y 5\n"),
        ("schedstat", "cpu0 1 2\n"),
        ("schedstat", "version 15\ncpu0 1 2\n"),
    ],
)
def test_other_files_that_are_malformed(machine, name, text):
    machine.stat([(0, 1, 1, 1, 1)])
    machine.write(name, text)
    with pytest.raises(CpuError, match="malformed") as caught:
        machine.sampler().sample()
    assert name in str(caught.value)
    assert text.split("\n")[0] in str(caught.value) or "version" in text


@needs_linux
@pytest.mark.parametrize("name", ["stat", "schedstat", "pressure/cpu", "loadavg"])
def test_what_is_no_file_of_counters(machine, name):
    """A FIFO that nobody writes to holds nobody; a file without an end takes no memory."""
    machine.stat([(0, 1, 1, 1, 1)])
    path = machine.root / "proc" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with contextlib.suppress(CpuError):  # it is empty, as some of these may be
        machine.sampler().sample()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CpuError, match=f"{name} does not end"):
        machine.sampler().sample()


def test_the_bad_line_is_named(machine):
    machine.stat([(0, 1, 1, 1, 1), (1, 1, "zwei", 1, 1)])
    with pytest.raises(CpuError, match="'cpu1 1 zwei 1 1'"):
        machine.sampler().sample()
    machine.stat([(1, 1, 1, 1, 1), (1, 1, 1, 1, 1)])
    with pytest.raises(CpuError, match="CPU 1 twice"):
        machine.sampler().sample()


def test_a_bad_sample_does_not_spoil_the_next(machine):
    machine.stat([(0, 100, 0, 0, 100)])
    sampler = machine.sampler()
    sampler.sample()
    machine.write("stat", "nothing")
    with pytest.raises(CpuError):
        sampler.sample()
    machine.stat([(0, 130, 0, 0, 110)])
    assert sampler.sample().utilisation.tolist() == [0.75]


def test_no_stat_at_all(tmp_path):
    with pytest.raises(CpuError, match="No such file") as caught:
        cpu.load(root=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_live_system_without_stat_is_said_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    live = cpu.LoadSampler()
    live._stat = "/no/such/stat"
    with pytest.raises(NotSupported, match="darwin"):
        live.sample()


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_intervals_that_are_none(interval):
    with pytest.raises(ValueError, match="interval"):
        cpu.load(interval)


@pytest.mark.parametrize("interval", ["1", True])
def test_intervals_of_another_type(interval):
    with pytest.raises(TypeError, match="interval"):
        cpu.load(interval)


@needs_linux
def test_this_machine():
    load = cpu.load(0.02)
    assert set(load.cpus.tolist()) >= os.sched_getaffinity(0)
    assert len(load.cpus) == len(psutil.cpu_times(percpu=True))
    for array in (load.utilisation, load.user, load.system, load.iowait, load.steal):
        assert array.dtype == np.float64
        assert ((array >= 0) & (array <= 1)).all()
    assert load.interval >= 0.02
    assert load.runnable >= 1
    json.dumps(load.as_dict())
    assert f"{len(load.cpus)} CPUs" in repr(load)


@needs_linux
def test_the_same_as_psutil_since_boot():
    load = cpu.LoadSampler().sample()
    for ours, theirs in zip(load.utilisation, psutil.cpu_times(percpu=True), strict=True):
        total = sum(theirs[:8])
        assert ours == pytest.approx(1 - (theirs.idle + theirs.iowait) / total, abs=0.01)


@needs_linux
def test_a_cpu_that_is_kept_busy_is_seen():
    target = min(os.sched_getaffinity(0))
    stop = threading.Event()

    def spin():
        os.sched_setaffinity(threading.get_native_id(), {target})
        while not stop.is_set():
            sum(range(1000))

    spinner = threading.Thread(target=spin)
    spinner.start()
    try:
        sampler = cpu.LoadSampler()
        sampler.sample()
        until = time.monotonic() + 10
        busy = 0.0
        while busy < 0.5:
            assert time.monotonic() < until, busy
            time.sleep(0.05)
            load = sampler.sample()
            busy = load.utilisation[load.cpus.tolist().index(target)]
    finally:
        stop.set()
        spinner.join()


@needs_linux
def test_the_last_call_of_load_is_whom_the_next_is_compared_with():
    cpu.load()
    load = cpu.load()
    assert not load.since_boot
    assert load.interval < 5
    cpu.load(0.02)
    assert cpu.load().interval > 0.02  # one with an interval is nobody's last


@needs_linux
def test_threads_share_a_sampler():
    shared = cpu.LoadSampler()
    failures = []

    def look():
        try:
            for _ in range(100):
                assert ((shared.sample().utilisation >= 0) & (shared.sample().utilisation <= 1)).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@needs_linux
def test_a_forked_child_is_not_held_by_a_lock_of_its_parents():
    """Another thread of the parent may be in the middle of a sample when it forks."""
    code = """
import json, os, signal, warnings
from corelane import cpu
warnings.simplefilter("ignore")
sampler = cpu.LoadSampler()
sampler.sample()
sampler._work.lock.acquire()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    os._exit(0 if not sampler.sample().since_boot else 1)
print(json.dumps(os.waitpid(pid, 0)[1]))
"""
    assert script(code) == 0


def test_five_times_as_fast_as_psutil(machine, monkeypatch):
    machine.stat([(number, *range(1000, 1010)) for number in range(256)], after="intr " + "0 " * 2000 + "\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(machine.root / "proc"))
    ours = machine.sampler()

    def best(call):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    assert 5 * best(ours.sample) < best(lambda: psutil.cpu_percent(percpu=True))


def test_names_do_not_become_modules():
    """`import corelane.cpu.NAME` would put a module where the function of that name is."""
    code = """
import json
from corelane import cpu
for name in cpu.__all__:
    getattr(cpu, name)
print(json.dumps([name for name in cpu.__all__ if type(getattr(cpu, name)).__name__ == "module"]))
"""
    assert script(code) == []


def test_what_a_load_may_be():
    assert sampler.busyness({0: 0.5, 3: 1}) == {0: 0.5, 3: 1.0}
    for wrong in (5, [1, 2], {0: "busy"}, {"0": 1.0}, {0: True}):
        with pytest.raises(TypeError, match="load"):
            sampler.busyness(wrong)
    for wrong in ({0: -1}, {0: float("nan")}, {0: float("inf")}, {0: 1e308}):
        with pytest.raises(ValueError, match="CPU 0"):
            sampler.busyness(wrong)


def test_unreadable(machine):
    machine.stat([(0, 1, 1, 1, 1)])
    (machine.root / "proc" / "stat").unlink()
    (machine.root / "proc" / "stat").mkdir()
    with pytest.raises(CpuError, match=os.strerror(errno.EISDIR)):
        machine.sampler().sample()
