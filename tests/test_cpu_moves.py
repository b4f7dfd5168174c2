"""Moves: who gains by going, who stays, that nobody goes to and fro, and that nothing is moved unless asked."""

import os
import random
import subprocess
import sys

import pytest
from helpers import needs_linux, needs_two
from hypothesis import given
from hypothesis import strategies as st
from shapes import machine

from corelane import cpu
from corelane.errors import CpuRefused

FLAT = machine(cores=4)
XEON = machine(packages=2, caches=1, cores=4, smt=2)


def plan(n, policy="compact", topology=FLAT, **options):
    load = dict.fromkeys(topology.online, 0.0)
    return cpu.plan(n, policy, topology=topology, budget=topology.online, load=load, **options)


def idle(topology=FLAT, **busy):
    return dict.fromkeys(topology.online, 0.0) | {int(name[3:]): value for name, value in busy.items()}


def measured(found, foreign, work):
    """The load of a machine where each worker does `work` on the CPUs that the plan has it on."""
    load = dict(foreign)
    for worker, mask in enumerate(found):
        for each in mask:
            load[each] += work[worker] / len(mask)
    return load


# ---- who goes --------------------------------------------------------------------------------------------------------


def test_of_two_on_one_cpu_one_goes_to_an_idle_one():
    found = plan(5)
    assert (found[0], found[4]) == ({0}, {0})
    (move,) = cpu.rebalance(found, idle(cpu0=1.0))
    assert (move.worker, move.source, move.target) == (0, {0}, {1})
    assert move.gain == pytest.approx(0.5)
    assert str(move) == "worker 0: CPUs 0 -> 1 (gains 0.50)"
    after = found.moved([move])
    assert after[0] == {1}
    assert found[0] == {0}  # plans are values


def test_who_fills_a_cpu_alone_stays():
    assert cpu.rebalance(plan(1), idle(cpu0=1.0)) == []


def test_who_is_crowded_by_a_stranger_goes():
    """Two tasks want the CPU of a single worker: one of them is none of ours."""
    (move,) = cpu.rebalance(plan(1), idle(cpu0=2.0, cpu1=0.5))
    assert move.target == {2}


def test_a_worker_whose_usage_is_known_leaves_a_stranger():
    assert cpu.rebalance(plan(1), idle(cpu0=1.0)) == []
    (move,) = cpu.rebalance(plan(1), idle(cpu0=1.0), usage=[0.3])
    assert move.gain == pytest.approx(0.7)
    assert cpu.rebalance(plan(1), idle(cpu0=1.0), usage={0: 0.0}) == []  # it does nothing


def test_nobody_leaves_what_is_not_crowded():
    assert cpu.rebalance(plan(5), idle(cpu0=0.7)) == []
    assert len(cpu.rebalance(plan(5), idle(cpu0=0.7), threshold=0.5)) == 1


def test_nobody_goes_for_a_small_gain():
    load = idle(cpu0=1.0, cpu1=0.3, cpu2=0.3, cpu3=0.3)
    assert cpu.rebalance(plan(5), load) == []
    assert len(cpu.rebalance(plan(5), load, margin=0.1, threshold=0.9)) == 1


def test_siblings_count():
    found = plan(2, topology=XEON)
    assert [sorted(mask) for mask in found] == [[0], [8]]
    (move,) = cpu.rebalance(found, idle(XEON, cpu0=1.0, cpu8=1.0))
    assert move.gain == pytest.approx(0.4)
    assert min(move.target) in range(1, 4)  # the nearest of those that are idle


def test_one_move_for_each_worker():
    found = plan(2, "spread", per=2, topology=machine(cores=8))
    load = dict.fromkeys(range(8), 0.0) | dict.fromkeys(found[0], 3.0)
    (move,) = cpu.rebalance(found, load)
    assert len(move.target) == 2
    assert not move.target & (found[0] | found[1])


# ---- the plan's rules ------------------------------------------------------------------------------------------------


def test_exclusive_ones_share_no_core_afterwards():
    found = plan(4, "exclusive", XEON)
    moves = cpu.rebalance(found, idle(XEON, cpu0=3.0, cpu1=3.0))
    after = found.moved(moves)
    assert len(moves) == 2
    assert len({XEON.by_id[each].core for mask in after for each in mask}) == 4
    full = plan(8, "exclusive", XEON, per=2)
    assert cpu.rebalance(full, idle(XEON, cpu0=3.0)) == []


def test_numa_local_ones_stay_with_their_memory():
    found = plan(1, "numa-local", XEON)
    (node,) = (node for node in XEON.nodes if found[0] <= set(node.cpus))
    busy = dict.fromkeys(node.cpus, 5.0)
    assert cpu.rebalance(found, idle(XEON) | busy) == []
    del busy[15 if 15 in busy else 11]
    (move,) = cpu.rebalance(found, idle(XEON) | busy)
    assert move.target <= set(node.cpus)


def test_nobody_goes_where_the_plan_may_not():
    found = cpu.plan(5, topology=FLAT, budget="0-1")
    assert all(move.target <= {0, 1} for move in cpu.rebalance(found, idle(cpu0=4.0, cpu1=0.1)))
    avoiding = cpu.plan(2, topology=XEON, budget=XEON.online, smt=False)
    for move in cpu.rebalance(avoiding, idle(XEON, cpu0=4.0, cpu1=4.0)):
        assert max(move.target) < 8


# ---- no ping-pong ----------------------------------------------------------------------------------------------------


@st.composite
def situations(draw):
    topology = machine(
        packages=draw(st.integers(1, 2)),
        caches=draw(st.integers(1, 2)),
        cores=draw(st.integers(1, 4)),
        smt=draw(st.sampled_from([1, 2])),
    )
    policy = draw(st.sampled_from(["compact", "spread", "numa-local", "exclusive"]))
    cores = len(topology.cores)
    n = draw(st.integers(1, cores if policy == "exclusive" else 12))
    found = plan(n, policy, topology)
    foreign = {each: draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 2.0])) for each in sorted(topology.online)}
    work = [draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])) for _ in range(n)]
    return found, foreign, work


@given(situations())
def test_the_load_after_the_moves_asks_for_no_more(situation):
    """The machine is measured again, with each worker where it went."""
    found, foreign, work = situation
    load = measured(found, foreign, work)
    moves = cpu.rebalance(found, load, usage=work)
    assert len({move.worker for move in moves}) == len(moves)
    assert all(len(move.target) == len(move.source) and move.target <= found.cpus for move in moves)
    after = found.moved(moves)
    assert cpu.rebalance(after, measured(after, foreign, work), usage=work) == []


@given(situations())
def test_the_same_load_asks_for_no_more(situation):
    found, foreign, work = situation
    load = measured(found, foreign, work)
    assert cpu.rebalance(found.moved(cpu.rebalance(found, load)), load) == []


@given(situations(), st.randoms(use_true_random=False))
def test_noise_moves_nobody(situation, chance):
    """Where nothing is to be gained, a tenth of a CPU to and fro gains nothing either."""
    found, foreign, work = situation
    calm = found
    for _ in range(3):
        calm = calm.moved(cpu.rebalance(calm, measured(calm, foreign, work), usage=work, margin=0.05))
    for _ in range(6):
        noisy = {each: value + chance.uniform(0, 0.05) for each, value in measured(calm, foreign, work).items()}
        assert cpu.rebalance(calm, noisy, usage=work) == []


@given(situations())
def test_every_move_makes_it_better(situation):
    found, foreign, work = situation
    before = measured(found, foreign, work)
    after = found.moved(cpu.rebalance(found, before, usage=work))
    assert uneven(measured(after, foreign, work), found.topology) <= uneven(before, found.topology) + 1e-9


def uneven(load, topology):
    return sum(load[a] * load[b] * (1 if a == b else 0.4) for a in load for b in topology.siblings(a))


def test_without_a_margin_they_would_go_to_and_fro():
    """The trap that the margin is for: noise decides, each time."""
    found, chance, count = plan(5), random.Random(4), 0
    for _ in range(20):
        load = {each: 0.9 + chance.uniform(0, 0.1) for each in range(4)}
        moves = cpu.rebalance(found, load, margin=1e-9, usage=[0.02] * 5)
        found, count = found.moved(moves), count + len(moves)
        assert cpu.rebalance(found, load | {0: 0.95}, usage=[0.02] * 5) == []
    assert count > 20


# ---- moving for real -------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper():
    code = "import threading as t, time; t.Thread(target=time.sleep, args=(60,)).start(); print(flush=True)"
    process = subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE)
    process.stdout.read(1)
    yield process
    process.kill()
    process.communicate()


@needs_linux
@needs_two
def test_all_threads_of_a_worker_are_moved(sleeper):
    first, second = sorted(os.sched_getaffinity(0))[:2]
    here = cpu.plan(1, budget={first, second}, topology=machine(cores=2, numbers=[first, second]))
    moves = cpu.rebalance(here, {first: 2.0, second: 0.0})
    os.sched_setaffinity(sleeper.pid, {first})
    assert os.sched_getaffinity(sleeper.pid) == {first}  # nothing is moved by asking
    assert cpu.apply_moves(moves, [sleeper.pid]) == ()
    for thread in os.listdir(f"/proc/{sleeper.pid}/task"):
        assert os.sched_getaffinity(int(thread)) == {second}


@needs_linux
def test_a_process_that_is_gone(sleeper):
    sleeper.kill()
    sleeper.wait()
    moves = cpu.rebalance(plan(5), idle(cpu0=1.0))
    with pytest.raises(ProcessLookupError, match=f"process {sleeper.pid}") as caught:
        cpu.apply_moves(moves, {0: sleeper.pid})
    assert isinstance(caught.value, CpuRefused)
    with pytest.raises(ProcessLookupError, match=f"process {sleeper.pid}"):
        cpu.apply_moves(moves, {0: sleeper.pid}, best_effort=True)  # which is of the system's refusals, not of this


@needs_linux
def test_what_the_system_refuses(sleeper):
    moves = cpu.rebalance(
        cpu.plan(2, topology=machine(cores=2, numbers=[60000, 60001]), budget={60000, 60001}), {60000: 4.0, 60001: 0.0}
    )
    with pytest.raises(CpuRefused, match=f"CPUs 60001 .* process {sleeper.pid}"):
        cpu.apply_moves(moves, [sleeper.pid, sleeper.pid])
    (refused,) = cpu.apply_moves(moves, [sleeper.pid, sleeper.pid], best_effort=True)
    assert "60001" in str(refused)


def test_nothing_is_moved_unless_all_have_a_process():
    moves = cpu.rebalance(plan(5), idle(cpu0=1.0))
    with pytest.raises(ValueError, match="no process for worker 0"):
        cpu.apply_moves(moves, {})
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=r"pids\[0\]"):
            cpu.apply_moves(moves, [wrong])
    with pytest.raises(TypeError, match=r"pids\[0\]"):
        cpu.apply_moves(moves, ["1"])


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"margin": 0}, "to and fro"),
        ({"margin": -1}, "margin"),
        ({"threshold": float("nan")}, "threshold"),
        ({"usage": [0.1]}, "usage"),
        ({"usage": [-1.0] * 5}, "usage"),
    ],
)
def test_bad_values(options, says):
    with pytest.raises(ValueError, match=says):
        cpu.rebalance(plan(5), idle(), **options)


def test_bad_types():
    with pytest.raises(TypeError, match="margin"):
        cpu.rebalance(plan(1), idle(), margin="0.1")
    with pytest.raises(TypeError, match="load"):
        cpu.rebalance(plan(1), [0.0])


def test_a_move_of_another_plan():
    (move,) = cpu.rebalance(plan(5), idle(cpu0=1.0))
    with pytest.raises(ValueError, match="does not have that worker there"):
        cpu.plan(1, topology=FLAT, budget={2}).moved([move])
