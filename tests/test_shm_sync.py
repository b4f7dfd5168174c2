"""Locks, semaphores, events and barriers between real processes: through kills, stops, forks, signals; in loops."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress

import pytest
from helpers import PATIENCE, by_every_handle, needs_linux, script, wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import corelane as cl
from corelane import shm
from corelane._ffi import ffi, lib
from corelane.shm import around, looping

pytestmark = needs_linux

MAKE = {
    "Lock": lambda *args, **options: cl.Lock.create(*args, **options),
    "Semaphore": lambda *args, **options: cl.Semaphore.create(2, *args, **options),
    "Event": lambda *args, **options: cl.Event.create(*args, **options),
    "Barrier": lambda *args, **options: cl.Barrier.create(2, *args, **options),
}
every_kind = pytest.mark.parametrize("kind", MAKE)


def another_program(code, *objects):
    """A Python that runs `code`, with what it was given as `x`, a list, and whose lines we can read."""
    given = [(type(each).__name__, each.segment.fileno()) for each in objects]
    head = f"import sys, time, os; from corelane import shm; x = [getattr(shm, n).attach(fd) for n, fd in {given}]\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd for _, fd in given],
    )


def end(program):
    program.kill()
    program.wait()
    for pipe in (program.stdin, program.stdout):
        pipe.close()


HOLDS = (
    "x[0].acquire(); print('has it', flush=True); sys.stdin.readline(); x[0].release(); print('gave it', flush=True)"
)


@pytest.fixture
def holder():
    """Starts a program that has acquired what it is given, and releases it when it reads a line."""
    started = []

    def start(*objects):
        program = another_program(HOLDS, *objects)
        started.append(program)
        assert program.stdout.readline() == "has it\n"
        return program

    yield start
    for program in started:
        end(program)


def in_a_thread(call):
    """A thread that waits in `call` by the time this returns, as far as one can see; and what it will return."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def raised(call, *args):
    try:
        call(*args)
    except Exception as error:
        return error
    return None


def fork(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


# ---- all of them ----


@every_kind
def test_by_name_by_handle_and_by_descriptor(kind, name):
    with closing(MAKE[kind](name)) as one:
        cls = type(one)
        for target in (name, one.handle, one, one.segment.fileno(), one.segment):
            other = cls.attach(target)
            assert type(other) is type(one)
            assert other.name == (name if target in (name, one.handle) else None)
            assert one._report().joined == 2
            other.close()
            assert "closed" in repr(other)
        assert around.entry_of(name).kind == kind.lower()
        assert (one.name, one.closed) == (name, False)


@every_kind
@by_every_handle
def test_it_is_pickled(named, kind, name):
    one = MAKE[kind](name=name if named else None, spin=0)
    code = "import pickle, sys; x = pickle.loads(bytes.fromhex(sys.argv[1])); print(type(x).__name__, x._spin)"
    done = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(one).hex()], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stderr, done.stdout) == ("", f"{kind} 0\n")
    assert one._report().recoveries == 0  # it has left, it has not died
    one.close()


USES = {
    "Lock": [lambda x: x.acquire(), lambda x: x.try_acquire(), lambda x: x.release(), lambda x: x.__enter__()],
    "Semaphore": [lambda x: x.acquire(), lambda x: x.try_acquire(), lambda x: x.release(), lambda x: x.__enter__()],
    "Event": [lambda x: x.set(), lambda x: x.clear(), lambda x: x.wait()],
    "Barrier": [lambda x: x.wait(), lambda x: x.abort(), lambda x: x.reset()],
}
WAITS = {
    "Lock": lambda x: x.acquire_async(),
    "Semaphore": lambda x: x.acquire_async(),
    "Event": lambda x: x.wait_async(),
    "Barrier": lambda x: x.wait_async(),
}


@every_kind
def test_a_closed_one_is_refused(kind):
    one = MAKE[kind]()
    one.close()
    one.close()
    for use in [*USES[kind], lambda x: x.recover(), lambda x: x.register(), lambda x: asyncio.run(WAITS[kind](x))]:
        with pytest.raises(ValueError, match="closed"):
            use(one)
    with pytest.raises(ValueError, match="never opened"):
        USES[kind][0](type(one).__new__(type(one)))


@every_kind
def test_one_that_another_thread_is_closing_is_closed_not_read_only(kind):
    one = MAKE[kind]()
    one._leave()  # the first step of close(), which gives up its place
    for use in [*USES[kind], lambda x: asyncio.run(WAITS[kind](x))]:
        with pytest.raises(ValueError, match="was closed"):
            use(one)
    one.close()


@every_kind
def test_one_whose_segment_was_closed_is_refused(kind):
    one = MAKE[kind]()
    other = getattr(cl, kind).attach(one)
    one.segment.close()
    for use in [*USES[kind], lambda x: x.recover(), lambda x: x.register(), lambda x: asyncio.run(WAITS[kind](x))]:
        with pytest.raises(ValueError, match="closed"):
            use(one)
    assert other.recover() == 1
    other.close()


@every_kind
def test_a_read_only_one_is_looked_at(kind, name):
    with closing(MAKE[kind](name)), closing(getattr(cl, kind).attach(name, readonly=True)) as reader:
        for use in [*USES[kind], lambda x: x.register(), lambda x: asyncio.run(WAITS[kind](x))]:
            with pytest.raises(PermissionError, match="read-only"):
                use(reader)
        assert kind in repr(reader)


@every_kind
def test_a_forked_child_must_register(kind):
    one = MAKE[kind](members=2)

    def child():
        for use in [*USES[kind], lambda x: x.recover(), lambda x: asyncio.run(WAITS[kind](x))]:
            with pytest.raises(cl.ShmError, match="register"):
                use(one)
        one.register()
        assert one.recover() == 0

    pid = fork(child)
    assert os.waitpid(pid, 0)[1] == 0
    assert one.recover() == 1
    with closing(type(one).attach(one)), pytest.raises(cl.ShmError, match="2 participants, all alive"):
        type(one).attach(one)
    one.close()


@every_kind
@pytest.mark.parametrize("timeout", [float("nan"), -1, "1", True, False])
def test_a_timeout_that_is_none(kind, timeout):
    one = MAKE[kind]()
    call = one.wait if kind in ("Event", "Barrier") else one.acquire
    wrong = TypeError if isinstance(timeout, (str, bool)) else ValueError
    with pytest.raises(wrong, match="timeout must be"):
        call(timeout)
    with pytest.raises(wrong, match="timeout must be"):
        asyncio.run((one.wait_async if kind in ("Event", "Barrier") else one.acquire_async)(timeout))
    if kind == "Barrier":
        assert (one.waiting, one.broken) == (0, False)
    if kind in ("Lock", "Semaphore"):
        assert one.try_acquire()
    one.close()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cl.Semaphore.create(0), "value must be from 1 to 65536, not 0"),
        (lambda: cl.Semaphore.create(65537), "value must be"),
        (lambda: cl.Barrier.create(0), "parties must be"),
        (lambda: cl.Lock.create(members=0), "members must be"),
        (lambda: cl.Lock.create(members=4096), "members must be"),
        (lambda: cl.Lock.create(spin=-1), "spin must be"),
        (lambda: cl.Lock.create("a/b"), "name must be"),
    ],
)
def test_numbers_out_of_range(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_what_is_another_kind(name):
    with closing(cl.Lock.create(name)), pytest.raises(cl.Corrupted, match="of kind lock, not semaphore"):
        cl.Semaphore.attach(name)
    with shm.Segment.create(10000) as segment, pytest.raises(cl.Corrupted, match="of kind bytes, not lock"):
        cl.Lock.attach(segment)
    with closing(cl.Lock.create(name)), pytest.raises(FileExistsError):
        cl.Event.create(name)


@every_kind
def test_nothing_is_leaked(kind):
    def once():
        one = MAKE[kind]()
        other = type(one).attach(one)
        if kind in ("Lock", "Semaphore"):
            one.acquire()  # dropped while held
        with pytest.raises(cl.ShmTimeout):
            asyncio.run(WAITS_BRIEFLY[kind](other))
        if kind in ("Lock", "Semaphore"):
            del one
            gc.collect()
            assert other.acquire(timeout=PATIENCE)

    once()
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == fds


WAITS_BRIEFLY = {
    "Lock": lambda x: x.acquire_async(0.002),
    "Semaphore": lambda x: _all_permits(x),
    "Event": lambda x: x.wait_async(0.002),
    "Barrier": lambda x: x.wait_async(0.002),
}


async def _all_permits(semaphore):
    for _ in range(3):
        await semaphore.acquire_async(0.002)


# ---- locks ----


def test_a_lock():
    lock, other = cl.Lock.create(), None
    assert (lock.holder, lock.held, lock.recovered) == (None, False, None)
    assert lock.acquire() is True
    assert (lock.holder, lock.held, lock.recovered) == (os.getpid(), True, None)
    assert not lock.try_acquire()
    with pytest.raises(cl.AlreadyHeld, match="this thread has it already"):
        lock.acquire()
    other = cl.Lock.attach(lock)
    assert not other.try_acquire()
    assert not other.held
    with pytest.raises(cl.NotHeld, match="does not have it") as refused:
        other.release()
    assert refused.value.pid == os.getpid()
    with pytest.raises(cl.ShmTimeout, match=f"process {os.getpid()} has it, at work or stopped") as late:
        other.acquire(timeout=0.01)
    assert late.value.pid == os.getpid()
    assert isinstance(late.value, TimeoutError)
    lock.release()
    with pytest.raises(cl.NotHeld):
        lock.release()
    with other as same:
        assert same is other
        assert lock.holder == os.getpid()
    assert lock.try_acquire()
    lock.release()
    with pytest.raises(TypeError):
        lock.acquire(wait=1)
    other.close()
    lock.close()


def test_threads_of_one_handle_exclude_each_other():
    lock, counter = cl.Lock.create(), [0]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def count():
        for _ in range(500):
            with lock:
                seen = counter[0]
                assert lock.held  # a call, after which another thread may run
                counter[0] = seen + 1

    try:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter == [2000]
    lock.acquire()
    thread, results = in_a_thread(lambda: raised(lock.release))
    thread.join()
    assert isinstance(results[0], cl.NotHeld)
    assert lock.held
    thread, results = in_a_thread(lambda: lock.acquire(PATIENCE))  # it would wait for us, and not for itself
    lock.release()
    thread.join()
    assert results == [True]
    lock.close()


def test_a_waiter_is_woken(holder):
    lock = cl.Lock.create()
    program = holder(lock)
    thread, results = in_a_thread(lambda: lock.acquire(PATIENCE))
    assert lock.holder == program.pid
    program.stdin.write("\n")
    program.stdin.flush()
    thread.join()
    assert results == [True]
    lock.close()


def test_a_stopped_holder_is_named_and_not_robbed(holder):
    lock = cl.Lock.create()
    program = holder(lock)
    os.kill(program.pid, signal.SIGSTOP)
    for _ in range(2):
        with pytest.raises(cl.ShmTimeout, match=f"process {program.pid} has it") as late:
            lock.acquire(timeout=0.15)
        assert late.value.pid == program.pid
    assert lock.recover() == 0
    with pytest.raises(cl.ShmTimeout):
        asyncio.run(lock.acquire_async(0.15))
    os.kill(program.pid, signal.SIGCONT)
    program.stdin.write("\n")
    program.stdin.flush()
    assert lock.acquire(PATIENCE)
    assert lock.recovered is None
    lock.close()


@pytest.mark.parametrize("asleep", [False, True])
def test_a_dead_holder_is_told_of(asleep, holder):
    lock = cl.Lock.create()
    program = holder(lock)
    if asleep:
        thread, results = in_a_thread(lambda: (lock.acquire(PATIENCE), lock.recovered, lock.release()))
        wait_until(lambda: lock._report().joined == 2, "both to be there")
        end(program)
        thread.join()
        assert results == [(True, program.pid, None)]
    else:
        end(program)
        with pytest.raises(ZeroDivisionError), lock:
            1 // (lock.recovered != program.pid)  # it is half done, and stays so
        with lock:
            assert lock.recovered == program.pid
    with lock:
        assert lock.recovered is None
    assert lock.recovered is None
    lock.close()


def test_a_second_death_is_told_of():
    lock = cl.Lock.create()
    pids = []
    for _ in range(2):

        def child():
            lock.register()
            assert lock.acquire(PATIENCE)
            assert lock.recovered == (pids[0] if pids else None)

        pids.append(fork(child))
        assert os.waitpid(pids[-1], 0)[1] == 0
    with lock:
        assert lock.recovered == pids[1]
    lock.close()


def test_closing_with_it_is_like_dying_with_it():
    lock = cl.Lock.create()
    other = cl.Lock.attach(lock)
    other.acquire()
    other.close()
    with lock:
        assert lock.recovered == os.getpid()
    with pytest.raises(ValueError, match="closed"), lock:
        lock.close()


def test_the_child_of_a_holder_does_not_have_it():
    lock = cl.Lock.create()

    def child():
        with pytest.raises(cl.ShmError, match="register"):
            lock.release()
        lock.register()
        assert not lock.held
        assert not lock.try_acquire()

    with lock:
        assert os.waitpid(fork(child), 0)[1] == 0
        assert lock.held
        lock.recover()
        assert lock.held
    lock.close()


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing_takes_it_as_an_argument(method):
    lock, event, barrier = cl.Lock.create(), cl.Event.create(), cl.Barrier.create(2)
    worker = multiprocessing.get_context(method).Process(target=_work, args=(lock, event, barrier, method == "fork"))
    with lock:
        worker.start()
        barrier.wait(60)
        assert not event.is_set()
    event.wait(60)
    worker.join()
    assert worker.exitcode == 0
    assert lock._report().recoveries == 0
    for each in (lock, event, barrier):
        each.close()


def _work(lock, event, barrier, forked):
    for each in (lock, event, barrier) if forked else ():
        each.register()
    barrier.wait(60)
    with lock:
        event.set()


_INTERRUPTED = """
import json, os, random, signal, sys
import corelane as cl

class Stop(Exception):
    pass

def stop(*unused):
    raise Stop

signal.signal(signal.SIGALRM, stop)
x = cl.Lock.create() if sys.argv[1] == "Lock" else cl.Semaphore.create(1)
pid = os.fork()
if pid == 0:  # it is taken most of the time
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    x.register()
    while os.getppid() != 1:
        with x:
            for _ in range(100):
                pass
rng, leaks = random.Random(11), 0
for _ in range(int(sys.argv[2])):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 4e-4))
        while True:
            with x:
                pass
    except Stop:
        pass
    if x.held:
        leaks += 1
        x.release()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
print(json.dumps(leaks))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_a_signals_exception_leaves_nothing_held(kind):
    assert script(_INTERRUPTED, kind, 2000) == 0


def test_a_wait_can_be_interrupted(holder):
    lock, barrier, event = cl.Lock.create(), cl.Barrier.create(2), cl.Event.create()
    holder(lock)

    class Stop(Exception):
        pass

    def stop(*unused):
        raise Stop

    was = signal.signal(signal.SIGALRM, stop)
    try:
        for call in (lock.acquire, event.wait, barrier.wait):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(Stop):
                call(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, was)
    assert not lock.held
    assert barrier.broken  # it was one of those who wait
    for each in (lock, barrier, event):
        each.close()


_COUNTS = """
import struct
lock, buf = x[0], x[1].buf
print('ready', flush=True)
while True:
    with lock:
        one, two = struct.unpack_from('qq', buf)
        if one != two:
            assert lock.recovered, 'half done, and nobody said so'
            two = one
        struct.pack_into('q', buf, 0, one + 1)
        struct.pack_into('q', buf, 8, one + 1)
"""


class Segments:
    """So that a Segment can be handed to `another_program`."""

    def __init__(self, segment):
        self.segment = segment


Segments.__name__ = "Segment"


@pytest.mark.slow
def test_nobody_is_stopped_by_kills():
    """SIGKILL at random moments, of whoever has it or waits for it: others go on, one at a time, and are told."""
    rng, told = random.Random(5), 0
    lock = cl.Lock.create(members=32)
    with shm.Segment.create(16) as segment:
        start = lambda: another_program(_COUNTS, lock, Segments(segment))  # noqa: E731
        programs = [start() for _ in range(3)]
        for program in programs:
            assert program.stdout.readline() == "ready\n"
        for _ in range(8):
            before = struct.unpack_from("q", segment.buf)[0]
            wait_until(lambda before=before: struct.unpack_from("q", segment.buf)[0] > before + 50, "others to go on")
            time.sleep(rng.uniform(0, 0.003))  # whatever it is just doing
            program = programs.pop(0)
            end(program)
            assert program.returncode == -signal.SIGKILL
            with lock:
                one, two = struct.unpack_from("qq", segment.buf)
                assert one == two or lock.recovered
                told += lock.recovered is not None
                struct.pack_into("q", segment.buf, 8, one)
            programs.append(start())
            assert programs[-1].stdout.readline() == "ready\n"
        for program in programs:
            assert program.poll() is None
            end(program)
    assert lock.acquire(PATIENCE)
    lock.close()


# ---- semaphores ----


def test_a_semaphore(holder):
    semaphore = cl.Semaphore.create(2)
    assert (semaphore.value, semaphore.permits, semaphore.held, semaphore.holders()) == (2, 2, 0, {})
    with pytest.raises(cl.NotHeld, match="has no permit"):
        semaphore.release()
    with semaphore:
        program = holder(semaphore)
        assert semaphore.holders() == {os.getpid(): 1, program.pid: 1}
        assert not semaphore.try_acquire()
        with pytest.raises(cl.ShmTimeout, match=f"process {program.pid} has 1"):
            semaphore.acquire(0.005)
        thread, results = in_a_thread(lambda: (semaphore.acquire(PATIENCE), semaphore.release()))
        program.stdin.write("\n")
        program.stdin.flush()
        thread.join()
        assert results == [(True, None)]
        assert semaphore.held == 1
    wait_until(lambda: semaphore.value == 2, "the other one's permit")
    program = holder(semaphore)
    semaphore.acquire()
    os.kill(program.pid, signal.SIGSTOP)
    with pytest.raises(cl.ShmTimeout):
        semaphore.acquire(0.15)
    end(program)
    assert semaphore.acquire(PATIENCE)
    assert semaphore.holders() == {os.getpid(): 2}
    semaphore.close()


class AgainstCounts(RuleBasedStateMachine):
    """Two handles, against a count for each."""

    @initialize(value=st.integers(1, 5))
    def make(self, value):
        one = cl.Semaphore.create(value)
        self.handles, self.held, self.value = [one, cl.Semaphore.attach(one)], [0, 0], value

    @rule(which=st.integers(0, 1))
    def acquire(self, which):
        free = self.value - sum(self.held)
        assert self.handles[which].try_acquire() == (free > 0)
        self.held[which] += free > 0

    @rule(which=st.integers(0, 1))
    def release(self, which):
        if self.held[which]:
            self.handles[which].release()
            self.held[which] -= 1
        else:
            with pytest.raises(cl.NotHeld):
                self.handles[which].release()

    @rule(which=st.integers(0, 1))
    def wait(self, which):
        if sum(self.held) == self.value:
            with pytest.raises(cl.ShmTimeout):
                self.handles[which].acquire(timeout=0)
        else:
            assert self.handles[which].acquire(timeout=0)
            self.held[which] += 1

    @rule(which=st.integers(0, 1))
    def attach_anew(self, which):
        self.handles[which].close()
        self.held[which] = 0
        self.handles[which] = cl.Semaphore.attach(self.handles[1 - which])

    @invariant()
    def agrees(self):
        if hasattr(self, "handles"):
            assert [each.held for each in self.handles] == self.held
            assert self.handles[0].value == self.value - sum(self.held)

    def teardown(self):
        for each in getattr(self, "handles", []):
            each.close()


TestAgainstCounts = AgainstCounts.TestCase
TestAgainstCounts.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


class AgainstOneName(RuleBasedStateMachine):
    """Three handles of a lock, against who has it, and whether somebody has died with it since a release."""

    @initialize()
    def make(self):
        one = cl.Lock.create()
        self.handles = [one, cl.Lock.attach(one), cl.Lock.attach(one)]
        self.owner, self.died = None, False

    @rule(which=st.integers(0, 2), waits=st.booleans())
    def acquire(self, which, waits):
        lock = self.handles[which]
        if self.owner == which and waits:
            with pytest.raises(cl.AlreadyHeld):
                lock.acquire(timeout=0)
        elif self.owner is None:
            assert lock.acquire(timeout=0) if waits else lock.try_acquire()
            self.owner = which
        elif waits:
            with pytest.raises(cl.ShmTimeout) as caught:
                lock.acquire(timeout=0)
            assert caught.value.pid == os.getpid()
        else:
            assert not lock.try_acquire()

    @rule(which=st.integers(0, 2))
    def release(self, which):
        if self.owner == which:
            self.handles[which].release()
            self.owner, self.died = None, False
        else:
            with pytest.raises(cl.NotHeld):
                self.handles[which].release()

    @rule(which=st.integers(0, 2), fails=st.booleans())
    def block(self, which, fails):
        if self.owner is not None:
            return
        with suppress(KeyError), self.handles[which]:
            self.owner = which
            self.agrees()
            if fails:
                raise KeyError
        self.owner, self.died = None, self.died and fails

    @rule(which=st.integers(0, 2))
    def close(self, which):
        """With the lock, if it has it: as a death."""
        self.handles[which].close()
        self.handles[which] = cl.Lock.attach(self.handles[which - 1])
        if self.owner == which:
            self.owner, self.died = None, True

    @invariant()
    def agrees(self):
        if hasattr(self, "handles"):
            assert [each.held for each in self.handles] == [i == self.owner for i in range(3)]
            assert self.handles[0].holder == (None if self.owner is None else os.getpid())
            if self.owner is not None:
                assert self.handles[self.owner].recovered == (os.getpid() if self.died else None)

    def teardown(self):
        for each in getattr(self, "handles", []):
            each.close()


TestAgainstOneName = AgainstOneName.TestCase
TestAgainstOneName.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


# ---- events ----


def test_an_event():
    with cl.Event.create() as event, cl.Event.attach(event) as other:
        with pytest.raises(cl.ShmTimeout, match="not set in time"):
            event.wait(0.01)
        with pytest.raises(cl.ShmTimeout):
            event.wait(0)
        other.set()
        other.set()
        assert event.is_set()
        assert event.wait(0)
        event.clear()
        event.clear()
        assert not other.is_set()


def test_all_who_wait_for_an_event_go_on():
    code = "print('ready', flush=True); x[0].wait(60); print('went on', flush=True)"
    with cl.Event.create() as event:
        programs = [another_program(code, event) for _ in range(3)]
        for program in programs:
            assert program.stdout.readline() == "ready\n"
        event.set()
        for program in programs:
            assert program.stdout.readline() == "went on\n"
            end(program)


def test_who_waited_goes_on_also_when_it_is_cleared_again(monkeypatch):
    with cl.Event.create() as event:
        waits = cl.Event._wait_until

        def pulse(self, ticket, state):
            event.set()
            event.clear()
            return waits(self, ticket, state)

        monkeypatch.setattr(cl.Event, "_wait_until", pulse)
        assert event.wait(PATIENCE)
        assert not event.is_set()


# ---- barriers ----


def test_a_barrier_between_processes():
    code = "for i in range(20): print(x[0].wait(60), flush=True)"
    with cl.Barrier.create(3) as barrier:
        programs = [another_program(code, barrier) for _ in range(2)]
        for _ in range(20):
            mine = barrier.wait(60)
            assert sorted([mine, *(int(program.stdout.readline()) for program in programs)]) == [0, 1, 2]
        for program in programs:
            assert program.wait(60) == 0
            end(program)
        assert (barrier.parties, barrier.waiting, barrier.broken) == (3, 0, False)
        assert barrier._report().recoveries == 0


def test_who_dies_waiting_breaks_it():
    with cl.Barrier.create(3) as barrier:
        program = another_program("x[0].wait(60)", barrier)
        wait_until(lambda: barrier.waiting == 1, "the other one to come")
        thread, results = in_a_thread(lambda: raised(barrier.wait, PATIENCE))
        wait_until(lambda: barrier.waiting == 2, "both to come")
        os.kill(program.pid, signal.SIGSTOP)
        assert barrier.recover() == 0  # it is only stopped
        end(program)
        thread.join()
        assert f"process {program.pid} died while it waited" in str(results[0])
        assert results[0].pid == program.pid
        with pytest.raises(cl.BrokenBarrier):
            barrier.wait(0)
        assert barrier.broken
        barrier.reset()
        assert not barrier.broken


def test_who_waits_no_longer_breaks_it():
    with cl.Barrier.create(2) as barrier, cl.Barrier.attach(barrier) as other:
        with pytest.raises(cl.ShmTimeout, match="not all came in time"):
            barrier.wait(0.01)
        with pytest.raises(cl.BrokenBarrier, match=f"process {os.getpid()} waited no longer"):
            other.wait()
        barrier.reset()
        for how, what in ((other.abort, "aborted it"), (other.reset, "reset it while this one waited")):
            thread, results = in_a_thread(lambda: raised(barrier.wait, PATIENCE))
            wait_until(lambda: barrier.waiting == 1, "it to come")
            how()
            thread.join()
            assert what in str(results[0])
            barrier.reset()


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_who_waits_while_a_handle_is_being_closed(kind):
    """Between the steps of `close` in another thread: it has left, its descriptor is gone, and then it is closed."""
    one = cl.Lock.create() if kind == "Lock" else cl.Semaphore.create(1)
    with closing(type(one).attach(one)) as other:
        other.acquire()
        thread, results = in_a_thread(lambda: raised(one.acquire))
        time.sleep(0.005)  # it is in C by then, and asks every millisecond or two
        one._leave()
        lib.cl_segment_let_go(one.segment._core)
        thread.join()
        for error in (*results, raised(one.acquire), raised(one.recover)):
            assert isinstance(error, ValueError), repr(error)
            assert "was closed" in str(error)
    one.close()


def test_a_child_does_not_give_up_for_its_parent():
    """It has a copy of the task that waits, and drops that; also when it takes part itself."""
    barrier = cl.Barrier.create(2)

    async def main():
        waiting = asyncio.create_task(barrier.wait_async(timeout=PATIENCE))
        while not barrier.waiting:
            await asyncio.sleep(0)

        def child():
            barrier.register()
            waiting.get_coro().close()
            assert not barrier.broken

        assert os.waitpid(fork(child), 0)[1] == 0
        assert sorted(await asyncio.gather(waiting, barrier.wait_async(timeout=PATIENCE))) == [0, 1]

    asyncio.run(main())
    barrier.close()


def test_who_comes_while_the_handle_is_closed_is_missed():
    barrier = cl.Barrier.create(2)
    other, ticket = cl.Barrier.attach(barrier), ffi.new("cl_barrier_ticket *")
    assert lib.cl_barrier_arrive(other._core, ticket) == 0
    barrier.reset()  # nobody has come when it leaves
    generation = ticket.generation
    other.close()
    ticket.generation = generation + 1  # and the claim comes after that
    assert lib.cl_barrier_give_up(other._core, ticket) == 0
    assert barrier.broken
    barrier.close()


@every_kind
def test_who_waits_through_a_handle_that_is_closed(kind):
    one = MAKE[kind]()
    user = type(one).attach(one)
    while kind in ("Lock", "Semaphore") and one.try_acquire():
        continue
    call = user.wait if kind in ("Event", "Barrier") else user.acquire
    thread, results = in_a_thread(lambda: raised(call, PATIENCE))
    wait_until(lambda: one.waiting if kind == "Barrier" else user._core, "it to come")
    user.close()
    thread.join()
    assert isinstance(results[0], (ValueError, cl.BrokenBarrier))
    one.close()


# ---- under an event loop ----


@pytest.fixture
def rarely(monkeypatch):
    """Nobody looks by itself: who is woken, was rung for."""
    monkeypatch.setattr(looping, "LOOK", PATIENCE)


async def asleep(one, count):
    until = time.monotonic() + PATIENCE
    while (bell := one._bells.get(0)) is None or len(bell._waiting) < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_a_task_that_had_it_lets_others_have_a_turn(kind):
    one = cl.Lock.create() if kind == "Lock" else cl.Semaphore.create(1)

    async def gives_way(other):
        other._poll_fd(0)
        other._armed()  # somebody waits for it
        await one.acquire_async()
        one.release()
        again = asyncio.create_task(one.acquire_async(PATIENCE))
        await asyncio.sleep(0)
        had_it = other.try_acquire()
        if had_it:
            other.release()
        await again
        one.release()
        return had_it

    with closing(type(one).attach(one)) as other:
        # For a fifth of a millisecond, at most once in one; this machine may be slower than that.
        wait_until(lambda: time.sleep(0.002) or asyncio.run(gives_way(other)), "a turn")
    one.close()


@pytest.mark.usefixtures("rarely")
def test_tasks_exclude_each_other():
    lock, log = cl.Lock.create(), []

    async def work(i):
        for _ in range(5):
            async with lock as same:
                assert same is lock
                log.append(i)
                await asyncio.sleep(0)
                log.append(i)

    async def main():
        await asyncio.wait_for(asyncio.gather(*(work(i) for i in range(6))), PATIENCE)

    asyncio.run(main())
    assert log[::2] == log[1::2]
    assert len(log) == 60
    assert lock.try_acquire()
    lock.close()


@pytest.mark.usefixtures("rarely")
def test_a_task_is_rung_for_by_another_process(holder):
    lock = cl.Lock.create()
    program = holder(lock)

    async def main():
        task = asyncio.create_task(lock.acquire_async(PATIENCE))
        await asleep(lock, 1)
        program.stdin.write("\n")
        program.stdin.flush()
        assert await task

    asyncio.run(main())
    assert lock.held
    lock.close()


def test_a_task_does_not_wait_for_itself():
    lock = cl.Lock.create()

    async def main():
        async with lock:
            with pytest.raises(cl.AlreadyHeld, match="this task has it already"):
                await lock.acquire_async()
            with pytest.raises(cl.AlreadyHeld, match="this thread has it already"):
                lock.acquire()
            with pytest.raises(cl.ShmTimeout):
                await asyncio.create_task(lock.acquire_async(0.01))
            task = asyncio.create_task(lock.acquire_async())
            await asleep(lock, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert lock.holder is None

    asyncio.run(main())
    lock.close()


def test_a_task_waits_for_another_one_of_its_thread_that_took_it_at_once():
    lock = cl.Lock.create()

    async def take():
        assert lock.try_acquire()

    async def main():
        assert await lock.acquire_async()
        lock.release()
        await asyncio.create_task(take())
        with pytest.raises(cl.ShmTimeout):
            await lock.acquire_async(0.01)
        lock.release()

    asyncio.run(main())
    lock.close()


def test_a_task_is_told_of_a_death(holder):
    lock, semaphore, barrier = cl.Lock.create(), cl.Semaphore.create(1), cl.Barrier.create(2)
    programs = [holder(lock), holder(semaphore)]
    programs.append(another_program("x[0].wait(60)", barrier))
    wait_until(lambda: barrier.waiting == 1, "it to come")
    three = cl.Barrier.create(3)
    programs.append(another_program("x[0].wait(60)", three))
    wait_until(lambda: three.waiting == 1, "it to come")

    async def main():
        tasks = [asyncio.create_task(each(PATIENCE)) for each in (lock.acquire_async, semaphore.acquire_async)]
        broken = asyncio.create_task(three.wait_async(PATIENCE))
        await asleep(lock, 1)
        await asleep(three, 1)
        for program in programs:
            end(program)
        assert await asyncio.gather(*tasks) == [True, True]
        assert lock.recovered == programs[0].pid
        with pytest.raises(cl.BrokenBarrier, match=f"process {programs[3].pid} died") as caught:
            await broken
        assert caught.value.pid == programs[3].pid
        with pytest.raises(cl.BrokenBarrier):
            await barrier.wait_async(PATIENCE)

    asyncio.run(main())
    for each in (lock, semaphore, barrier, three):
        each.close()


@pytest.mark.usefixtures("rarely")
def test_events_and_barriers_under_a_loop():
    event, barrier, semaphore = cl.Event.create(), cl.Barrier.create(3), cl.Semaphore.create(2)

    async def use():
        async with semaphore:
            await asyncio.sleep(0)

    async def main():
        tasks = [asyncio.create_task(event.wait_async(PATIENCE)) for _ in range(3)]
        await asleep(event, 3)
        event.set()
        event.clear()
        assert await asyncio.gather(*tasks) == [True] * 3
        with pytest.raises(cl.ShmTimeout):
            await event.wait_async(0.005)
        for _ in range(3):
            assert sorted(await asyncio.gather(*(barrier.wait_async(PATIENCE) for _ in range(3)))) == [0, 1, 2]
        await asyncio.gather(*(use() for _ in range(10)))
        assert semaphore.value == 2
        task = asyncio.create_task(barrier.wait_async(PATIENCE))
        await asleep(barrier, 1)
        other = asyncio.create_task(barrier.wait_async(PATIENCE))
        await asleep(barrier, 2)
        other.cancel()
        with pytest.raises(cl.BrokenBarrier, match="waited no longer"):
            await task
        barrier.reset()
        with pytest.raises(cl.ShmTimeout):
            await barrier.wait_async(0.005)

    asyncio.run(main())
    for each in (event, barrier, semaphore):
        each.close()
