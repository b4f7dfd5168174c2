"""AffinityManager: where processes go, what is remembered, that strangers are left alone, and who is moved."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import OURS, needs_linux, needs_two, script, wait_until
from shapes import machine

from corelane import cpu
from corelane.cpu import manager as module
from corelane.errors import CpuRefused

pytestmark = needs_linux


class Load:
    """A sampler that says what it is told."""

    def __init__(self, **busy):
        self.busy = busy
        self.first = True

    def sample(self):
        used = np.array([self.busy.get(f"cpu{each}", 0.0) for each in OURS])
        nothing = np.zeros(len(OURS))
        first, self.first = self.first, False
        return cpu.Load(
            cpus=np.array(OURS),
            utilisation=used,
            user=used,
            system=nothing,
            iowait=nothing,
            steal=nothing,
            waiting=None,
            pressure=None,
            runnable=None,
            tasks=None,
            averages=None,
            interval=1.0,
            since_boot=first,
            when=time.monotonic(),
        )


@pytest.fixture
def children():
    made = []

    def start(*argv):
        process = subprocess.Popen(argv or ("sleep", "60"))
        made.append(process)
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()


def make(sampler=None, **options):
    topology = machine(cores=len(OURS), numbers=OURS)
    options = {"interval": 0} | options
    return cpu.AffinityManager(topology=topology, budget=OURS, sampler=sampler or Load(), **options)


def test_what_was_placed_where(children):
    manager, child, before = make(), children(), time.time()
    placed = manager.place(child.pid, "low")
    assert (placed.pid, placed.name, placed.usage, placed.not_applied) == (child.pid, "low", None, ())
    assert before <= placed.when <= time.time()
    assert os.sched_getaffinity(child.pid) == placed.cpus
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == 10
    assert manager.placed() == (placed,)
    assert manager.forget(child.pid)
    assert not manager.forget(child.pid)
    assert manager.placed() == ()
    assert os.sched_getaffinity(child.pid) == placed.cpus


@needs_two
def test_normal_ones_go_where_least_is_done(children):
    manager = make(Load(**{f"cpu{OURS[0]}": 1.0}))
    assert manager.place(children().pid).cpus == {OURS[1]}


@needs_two
def test_those_placed_at_once_go_to_different_cpus(children):
    """No sample has seen the first at work when the second comes."""
    manager = make()
    places = [manager.place(children().pid).cpus for _ in range(2 * len(OURS))]
    statistics = manager.statistics()
    assert statistics.processes.tolist() == [2] * len(OURS)
    assert len(set(places)) == len(OURS)


def test_given_cpus_leave_the_priority_alone(children):
    manager, child = make(), children()
    placed = manager.place(child.pid, cpus={OURS[-1]})
    assert (placed.name, placed.cpus) == (None, {OURS[-1]})
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    manager.place(child.pid, cpus=OURS, nice=7)
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == 7


def test_statistics(children):
    manager = make(Load(**{f"cpu{OURS[0]}": 0.75}))
    manager.place(children().pid, "critical", best_effort=True)
    before = time.monotonic()
    found = manager.statistics()
    assert found.cpus.tolist() == OURS
    assert found.usage[0] == 0.75
    assert found.processes.tolist() == [1] * len(OURS)
    assert (found.updated >= before).all()


def test_a_cpu_that_was_never_seen(children):
    topology = machine(cores=2, numbers=[OURS[0], 5000])
    manager = cpu.AffinityManager(topology=topology, budget={OURS[0], 5000}, sampler=Load())
    found = manager.statistics()
    assert found.cpus.tolist() == [OURS[0], 5000]
    assert np.isnan(found.usage[1])
    assert found.updated[1] == 0


def test_those_that_ended_are_dropped(children):
    manager, one, two = make(), children(), children()
    manager.place(one.pid, "low")
    manager.place(two.pid, "low")
    one.kill()
    wait_until(lambda: len(manager.placed()) == 1, "the record to go, though nobody has reaped the process")
    one.wait()
    assert [placed.pid for placed in manager.placed()] == [two.pid]
    with pytest.raises(ProcessLookupError, match=str(one.pid)):
        manager.place(one.pid)
    assert manager.rebalance() == []


def test_memory_is_bounded(children, monkeypatch):
    """Of ten thousand processes that end, few records are there at any time."""
    manager, alive = make(), {}
    monkeypatch.setattr(module, "start_of", alive.get)
    monkeypatch.setattr(cpu.PriorityClass, "apply", lambda self, pid, best_effort: ())
    most = 0
    for pid in range(1, 10_001):
        alive[pid] = pid
        manager.place(pid, "low")
        most = max(most, len(manager._records))
        alive.pop(pid - 10, None)
    assert most <= 2 * 64


@needs_two
def test_a_number_that_came_again_is_a_stranger(children, monkeypatch):
    manager, child = make(Load(**{f"cpu{OURS[0]}": 1.0})), children()
    manager.place(child.pid)
    manager.rebalance()
    os.sched_setaffinity(child.pid, OURS)
    started = module.start_of(child.pid)
    move = cpu.Move(child.pid, frozenset(OURS[:1]), frozenset(OURS[1:2]), 1.0, {})
    monkeypatch.setattr(module, "start_of", lambda pid: started + 1)
    assert not manager._move(move)
    assert os.sched_getaffinity(child.pid) == set(OURS)
    assert manager.placed() == ()


def test_one_that_ends_while_it_is_placed(children, monkeypatch):
    manager, child = make(), children()
    starts = iter([5, 6])  # another process before and after
    monkeypatch.setattr(module, "start_of", lambda pid: next(starts))
    with pytest.raises(ProcessLookupError):
        manager.place(child.pid, "low")
    monkeypatch.undo()
    assert manager.placed() == ()


@needs_two
def test_rebalance_moves_only_when_told_to(children):
    load = Load(**{f"cpu{each}": 0.5 for each in OURS[1:]})
    manager, child = make(load, interval=0.2), children(sys.executable, "-ISc", "while True: pass")
    assert manager.place(child.pid).cpus == {OURS[0]}
    load.busy = {f"cpu{OURS[0]}": 3.0}
    (move,) = wait_until(manager.rebalance, "its usage to be seen")
    assert (move.worker, move.source) == (child.pid, {OURS[0]})
    assert os.sched_getaffinity(child.pid) == {OURS[0]}
    (move,) = manager.rebalance(apply=True)
    assert os.sched_getaffinity(child.pid) == move.target
    assert manager.placed()[0].cpus == move.target
    assert manager.rebalance(apply=True) == []  # it has not been measured there


@needs_two
def test_classes_of_many_cpus_are_not_moved(children):
    manager, child = make(Load(**{f"cpu{OURS[0]}": 3.0})), children(sys.executable, "-ISc", "while True: pass")
    manager.place(child.pid, cpus={OURS[0]})
    for _ in range(3):
        assert manager.rebalance(apply=True) == []


def test_a_real_sampler(children):
    manager = cpu.AffinityManager(interval=0.01)
    manager.place(children().pid)
    assert manager.rebalance(apply=True) == []
    assert set(manager.statistics().cpus.tolist()) <= set(OURS)


def test_threads_at_once(children):
    manager, failures = make(), []
    processes = [children() for _ in range(8)]

    def work(process):
        try:
            for turn in range(20):
                manager.place(process.pid, "low" if turn % 2 else "normal", nice=None)
                manager.statistics()
                manager.rebalance(apply=True)
                if turn == 15:
                    process.kill()
        except CpuRefused as error:
            if not isinstance(error, ProcessLookupError):
                failures.append(error)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    wait_until(lambda: manager.placed() == (), "all records to go")


def test_a_forked_child_is_not_held_by_a_lock_of_its_parents():
    code = """
import json, os, signal, threading, warnings
from corelane import cpu
warnings.simplefilter("ignore")
manager = cpu.AffinityManager()
held, go = threading.Event(), threading.Event()
def hold():
    with manager._locked():
        held.set(); go.wait()
thread = threading.Thread(target=hold); thread.start(); held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    manager.statistics()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
go.set(); thread.join()
print(json.dumps(status))
"""
    assert script(code) == 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pid": 0}, ValueError, "pid must be from 1"),
        ({"pid": "1"}, TypeError, "pid"),
        ({"cls": "urgent"}, ValueError, "critical, high, normal, low"),
        ({"cpus": "60000"}, ValueError, "outside the budget"),
        ({"nicer": 3}, TypeError, "no option 'nicer'"),
    ],
)
def test_bad_input(children, options, error, says):
    manager, child = make(), children()
    with pytest.raises(error, match=says):
        manager.place(**({"pid": child.pid} | options))
    assert manager.placed() == ()


def test_bad_managers():
    with pytest.raises(ValueError, match="margin"):
        cpu.AffinityManager(margin=0)
    with pytest.raises(ValueError, match="interval"):
        cpu.AffinityManager(interval=-1)
    with pytest.raises(ValueError, match="budget"):
        cpu.AffinityManager(topology=machine(cores=1), budget={7})
