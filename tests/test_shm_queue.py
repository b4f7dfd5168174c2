"""Queues: between real processes, in order, through kills and stops; refused in words."""

import contextlib
import errno
import gc
import multiprocessing
import os
import pickle
import platform
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque

import pytest
from helpers import PATIENCE, by_every_handle, needs_linux, wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import corelane as cl
from corelane import shm
from corelane._ffi import PLATFORM
from corelane.shm import around

pytestmark = needs_linux


def another_program(code, queue, *args):
    """A Python that runs `code`, with the queue as `q`, and whose lines we can read."""
    fd = queue.segment.fileno()
    head = f"import sys, time, os; from corelane import shm, Closed; q = shm.Queue.attach({fd})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd],
    )


def end(program):
    program.kill()
    program.wait()
    for pipe in (program.stdin, program.stdout):
        pipe.close()


# ---- one process ----


def test_what_goes_in_comes_out():
    with cl.Queue.create(5, 64) as queue:
        assert (queue.slots, queue.slot_size, queue.name, queue.policy, queue.closed) == (8, 64, None, "block", False)
        records = [b"", b"x", bytes(range(64)), bytearray(b"array"), memoryview(b"view")]
        for record in records:
            queue.put(record)
        assert [queue.get() for _ in records] == [bytes(record) for record in records]
        stats = queue.stats()
        assert (stats.enqueued, stats.dequeued, stats.size, stats.most, stats.members) == (5, 5, 0, 5, 1)
    assert queue.closed
    assert "closed" in repr(queue)


def test_full_and_empty():
    with cl.Queue.create(2, 8) as queue:
        with pytest.raises(cl.QueueEmpty, match="no record in time"):
            queue.get_nowait()
        with pytest.raises(cl.QueueEmpty):
            queue.get(timeout=0.002)
        queue.put_many([b"1", b"2"])
        with pytest.raises(cl.QueueFull, match="no room in time") as caught:
            queue.put_nowait(b"3")
        assert isinstance(caught.value, cl.ShmError)
        with pytest.raises(cl.QueueFull) as caught:
            queue.put(b"3", 0.002)
        assert queue.blocked_by is None
        stats = queue.stats()
        assert (stats.failed_puts, stats.failed_gets, stats.size) == (2, 2, 2)


def test_being_empty_is_said_without_a_look_at_every_slot():
    with cl.Queue.create(2**18, 200) as queue:
        began = time.process_time()
        for _ in range(100):
            with pytest.raises(cl.QueueEmpty):
                queue.get_nowait()
        assert time.process_time() - began < 0.1


def test_many_at_once():
    with cl.Queue.create(4, 8) as queue:
        queue.put_many([])
        with pytest.raises(cl.QueueFull) as caught:
            queue.put_many((b"%d" % i for i in range(10)), timeout=0)
        assert caught.value.done == 4
        assert queue.get_many(3) == [b"0", b"1", b"2"]
        assert queue.get_many(3) == [b"3"]
        with pytest.raises(cl.QueueEmpty):
            queue.get_many(3, timeout=0)
        with pytest.raises(TypeError):
            queue.put_many([b"a", "b"], timeout=1)
        assert queue.get_many(10) == [b"a"]


def test_put_many_waits_for_room():
    with cl.Queue.create(4, 8) as queue:
        found = []
        reader = threading.Thread(target=lambda: found.extend(queue.get(timeout=20) for _ in range(100)))
        reader.start()
        queue.put_many([b"%d" % i for i in range(100)], timeout=20)
        reader.join()
        assert found == [b"%d" % i for i in range(100)]


def test_policies():
    with cl.Queue.create(2, 8, policy="fail") as queue:
        queue.put_many([b"1", b"2"])
        began = time.monotonic()
        with pytest.raises(cl.QueueFull):
            queue.put(b"3", timeout=10)
        assert time.monotonic() - began < 5
        with cl.Queue.attach(queue, policy="drop-new") as other:
            other.put(b"3")
            other.put_many([b"4", b"5"])
            assert other.stats().dropped_new == 3
            assert other.get_many(9) == [b"1", b"2"]
        with cl.Queue.attach(queue, policy="drop-old") as other:
            other.put_many([b"%d" % i for i in range(6)])
            assert other.stats().dropped_old == 4
            assert other.get_many(9) == [b"4", b"5"]
        stats = queue.stats()
        assert (stats.size, stats.enqueued, stats.dequeued) == (0, 8, 8)


def test_dropping_does_not_rob_who_is_at_work():
    with cl.Queue.create(2, 8, policy="drop-old") as queue:
        queue.put_many([b"1", b"2"])
        with queue.peek() as view:
            queue.put(b"3")
            assert bytes(view) == b"1"
        assert queue.get_many(9) == [b"2"]
        assert queue.stats().dropped_new == 1


def test_in_place():
    with cl.Queue.create(4, 16) as queue:
        with queue.reserve() as view:
            assert view.nbytes == 16
            view[:] = b"0123456789abcdef"
        reserved = queue.reserve()
        reserved.view[:3] = b"abc"
        with pytest.raises(ValueError, match="size must be"):
            reserved.commit(17)
        reserved.commit(3)
        with pytest.raises(ValueError, match="done with"):
            reserved.commit()
        with pytest.raises(RuntimeError), queue.reserve():
            raise RuntimeError
        with queue.peek() as view:
            assert bytes(view) == b"0123456789abcdef"
            with pytest.raises(TypeError):
                view[0] = 0
        with pytest.raises(RuntimeError), queue.peek() as view:
            raise RuntimeError
        assert queue.get() == b"abc"
        peeked = queue.reserve()
        del peeked
        gc.collect()
        stats = queue.stats()
        assert (stats.unfinished, stats.redelivered, stats.size) == (2, 1, 0)
        with pytest.raises(cl.QueueEmpty):
            queue.peek(timeout=0)


class _Interrupted(cl.Queue):
    __slots__ = ()

    def _map(self, claim, readonly=False):
        raise KeyboardInterrupt


def test_a_claim_survives_no_signal():
    """An exception between the core's claim and our object of it leaves no slot behind that nobody knows of."""
    with _Interrupted.create(2, 8) as queue:
        with pytest.raises(KeyboardInterrupt):
            queue.reserve()
        queue.put(b"1")
        with pytest.raises(KeyboardInterrupt):
            queue.peek()
        gc.collect()
        assert queue.get(timeout=0) == b"1"
        queue.put_many([b"2", b"3"], timeout=0)


@pytest.mark.parametrize("slots", [1, 2, 16])
@pytest.mark.parametrize("looks", [False, True])
def test_circles_of_nothing_but_cancelled_ones(slots, looks):
    with cl.Queue.create(slots, 8) as queue:
        for i in range(9 * slots):
            queue.reserve().cancel()
            if looks:
                with pytest.raises(cl.QueueEmpty):
                    queue.get_nowait()
            elif i % 3 == 0:
                queue.reserve(timeout=0).cancel()
        with pytest.raises(cl.QueueEmpty):
            queue.get_nowait()
        for i in range(3 * slots):
            queue.put(b"%d" % i, timeout=0)
            assert queue.get(timeout=0) == b"%d" % i
        assert queue.stats().size == 0


def test_closing_gives_back_what_is_claimed():
    with cl.Queue.create(2, 8) as queue:
        other = cl.Queue.attach(queue)
        queue.put(b"1")
        peeked, reserved = other.peek(), other.reserve()
        other.close()
        assert bytes(peeked.view) == b"1"  # it stays mapped
        with pytest.raises(ValueError, match="closed"):
            peeked.release()
        with pytest.raises(ValueError, match="closed"):
            reserved.commit()
        with pytest.raises(ValueError, match="closed"):
            other.put(b"x")
        with pytest.raises(ValueError, match="closed"):
            other.get()
        with pytest.raises(ValueError, match="closed"):
            other.stats()
        other.close()
        assert queue.get() == b"1"
        queue.put_many([b"2", b"3"], timeout=0)
        assert queue.stats().recoveries == 0


def test_closing_beside_threads_that_peek_leaves_no_slot_behind():
    """A claim after the closing has looked at its slot would be nobody's: neither to be got, nor of a dead one."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with cl.Queue.create(64, 8) as queue:
            for _ in range(100):
                other = cl.Queue.attach(queue)
                queue.put_many([b"x"] * 32)

                def work(other=other):
                    with contextlib.suppress(ValueError, cl.ShmError, cl.QueueEmpty):
                        while True:
                            with other.peek(timeout=0):
                                pass

                threads = [threading.Thread(target=work) for _ in range(2)]
                for thread in threads:
                    thread.start()
                other.close()
                for thread in threads:
                    thread.join()
                with contextlib.suppress(cl.QueueEmpty):
                    while True:
                        queue.get(timeout=0)
                assert queue.stats().size == 0
    finally:
        sys.setswitchinterval(interval)


def test_shutdown_tells_all():
    with cl.Queue.create(4, 8) as queue, cl.Queue.attach(queue) as other:
        queue.put_many([b"1", b"2"])
        other.shutdown()
        with pytest.raises(cl.Closed, match="shut"):
            queue.put(b"3")
        assert list(queue) == [b"1", b"2"]
        with pytest.raises(cl.Closed):
            other.get(timeout=5)
        assert queue.stats().shut


def test_at_most_once():
    with cl.Queue.create(4, 8, delivery="at-most-once") as queue:
        queue.put(b"1")
        queue.peek().give_back()
        with pytest.raises(cl.QueueEmpty):
            queue.get_nowait()
        assert (queue.stats().lost, queue.stats().redelivered) == (1, 0)


def test_nothing_is_leaked():
    def maps():
        with open("/proc/self/maps") as file:
            return sum("corelane" in line for line in file)

    fds, mapped = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(30):
        with cl.Queue.create(8, 100) as one, cl.Queue.attach(one) as two:
            two.put(b"x")
            one.peek()
    del one, two
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), maps()) == (fds, mapped)


def test_a_cycle_with_a_claim_is_collected_in_a_safe_order():
    for _ in range(5):
        queue = cl.Queue.create(4, 8)
        queue.put(b"x")
        cycle = [queue.reserve(), queue.peek(), queue]
        cycle.append(cycle)
        del queue, cycle
        gc.collect()


class _Reader:
    """In a cycle with what it reads at its end."""

    def __init__(self, view):
        self.view, self.me = view, self

    def __del__(self):
        _Reader.last = bytes(self.view)


def test_a_view_is_there_for_whoever_is_collected_with_it():
    for _ in range(5):
        with cl.Queue.create(4, 8).reserve() as view:
            _Reader(memoryview(view))
        gc.collect()
        assert _Reader.last == bytes(8)


# ---- refused ----


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"slots": 0}, "slots must be from 1"),
        ({"slots": 2**25}, "slots must be from 1"),
        ({"slot_size": 0}, "slot_size must be from 1"),
        ({"slot_size": 2**31}, "slot_size must be from 1"),
        ({"members": 0}, "members must be from 1 to 4095"),
        ({"members": 5000}, "members must be from 1 to 4095"),
        ({"delivery": "once"}, "delivery must be one of at-least-once, at-most-once"),
        ({"policy": "wait"}, "policy must be one of block, fail"),
        ({"slots": 2**24, "slot_size": 2**30}, "more than any machine has"),
    ],
)
def test_what_cannot_be_made(arguments, match):
    with pytest.raises(ValueError, match=match):
        cl.Queue.create(**{"slots": 4, "slot_size": 8, **arguments})


def test_a_queue_larger_than_memory():
    with pytest.raises(OSError, match="bytes of memory and swap are available") as caught:
        cl.Queue.create(2**20, 2**24)
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_timeouts_that_cannot_be(timeout):
    with cl.Queue.create(4, 8) as queue:
        for call in (lambda: queue.put(b"x", timeout), lambda: queue.get(timeout=timeout),
                     lambda: queue.put_many([b"x"], timeout), lambda: queue.get_many(1, timeout),
                     lambda: queue.peek(timeout), lambda: queue.reserve(timeout=timeout)):  # fmt: skip
            with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
                call()
        with pytest.raises(TypeError, match="timeout"):
            queue.put(b"x", "1")
        with pytest.raises(TypeError, match="no argument"):
            queue.get(wait=1)
        with pytest.raises(TypeError, match="takes 1 arguments and a timeout"):
            queue.put(b"x", 1, 2)
        assert queue.stats().size == 0


def test_what_cannot_be_put():
    with cl.Queue.create(4, 8) as queue:
        with pytest.raises(ValueError, match=r"a record of 9 bytes does not fit into a slot of .*: 8 bytes"):
            queue.put(b"123456789")
        with pytest.raises(ValueError, match="9 bytes"):
            queue.put_many([b"1", b"123456789"])
        with pytest.raises(TypeError):
            queue.put("text")
        assert queue.get_many(9) == [b"1"]


def test_an_empty_handle_is_no_queue():
    with pytest.raises(ValueError, match="never opened"):
        cl.Queue.__new__(cl.Queue).put(b"x")


def test_too_many_participants():
    with (
        cl.Queue.create(4, 8, members=2) as queue,
        cl.Queue.attach(queue),
        pytest.raises(cl.ShmError, match="2 participants, all alive"),
    ):
        cl.Queue.attach(queue)


def test_one_that_another_thread_is_closing_is_not_said_to_be_read_only():
    with cl.Queue.create(4, 8) as queue:
        queue._leave()  # the other thread is between that and closing the segment
        with pytest.raises(ValueError, match="was closed"):
            queue.get_nowait()


def test_read_only(name):
    with cl.Queue.create(4, 8, name) as queue, cl.Queue.attach(name, readonly=True) as reader:
        queue.put(b"x")
        assert reader.stats().size == 1
        for call in (lambda: reader.put(b"x"), reader.get, reader.shutdown, reader.register):
            with pytest.raises(PermissionError, match="read-only"):
                call()


def test_what_is_no_queue(name):
    with shm.Segment.create(10000) as segment, pytest.raises(cl.Corrupted, match="of kind bytes, not queue"):
        cl.Queue.attach(segment)
    with cl.Queue.create(4, 8, name):
        assert around.entry_of(name).kind == "queue"
        with pytest.raises(cl.Corrupted, match="of kind queue, not array"):
            shm.attach_array(name)


def test_what_a_stranger_wrote():
    with cl.Queue.create(4, 8) as queue, shm.Segment.attach(queue.segment) as bytes_of_it:
        start = bytes_of_it.size - 4 * 64
        bytes_of_it.buf[start : start + 8] = (7 << 12 | 9 | 3 << 16).to_bytes(8, sys.byteorder)
        with pytest.raises(cl.Corrupted, match="slot 0 says state 7, lap 3, owner 9"):
            queue.put(b"x")
        with pytest.raises(cl.Corrupted, match="stranger"):
            queue.get()


# ---- other processes ----


@by_every_handle
def test_its_handle_is_pickled(named, name):
    code = (
        "import pickle, sys; q = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "q.put(q.get() + b'!'); print(q.policy, q.stats().members)"
    )
    with cl.Queue.create(4, 64, name if named else None, policy="fail") as queue:
        queue.put(b"hello")
        done = subprocess.run(
            [sys.executable, "-c", code, pickle.dumps(queue).hex()],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.stderr, done.stdout) == ("", "fail 2\n")
        assert queue.get() == b"hello!"
        stats = queue.stats()
        assert (stats.members, stats.recoveries) == (1, 0)  # it has left, it has not died


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing_takes_it_as_an_argument(method):
    with cl.Queue.create(4, 64) as there, cl.Queue.create(4, 64) as back:
        worker = multiprocessing.get_context(method).Process(target=_serve, args=(there, back, method == "fork"))
        worker.start()
        for i in range(10):
            there.put(b"%d" % i)
            assert back.get(timeout=60) == b"%d" % i * 2
        worker.join()
        assert worker.exitcode == 0
        assert there.stats().recoveries == 0


def _serve(there, back, forked):
    if forked:
        there.register()
        back.register()
    for _ in range(10):
        back.put(there.get(timeout=20) * 2)


def test_a_forked_child_must_register():
    with cl.Queue.create(4, 8) as queue:
        reserved = queue.reserve()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for call in (lambda: queue.put(b"x"), queue.get_nowait, lambda: reserved.commit(1), queue.recover):
                    with pytest.raises(cl.ShmError, match="register"):
                        call()
                queue.register()
                queue.put(b"child")
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        reserved.commit(0)
        assert queue.get_many(2) == [b"", b"child"]
        wait_until(lambda: queue.recover() or queue.stats().members == 1, "the child's place to be free")
        assert queue.stats().last_dead == pid


def test_order_is_kept_for_each_producer():
    code = "me = int(sys.argv[1])\nfor i in range(2000): q.put(b'%d %d' % (me, i))\n"
    with cl.Queue.create(16, 32) as queue:
        programs = [another_program(code, queue, i) for i in range(3)]
        seen = {i: [] for i in range(3)}
        for _ in range(6000):
            who, number = map(int, queue.get(timeout=60).split())
            seen[who].append(number)
        for program in programs:
            assert program.wait(60) == 0
            end(program)
        assert all(numbers == list(range(2000)) for numbers in seen.values())
        assert queue.stats().enqueued == 6000


def test_a_dead_producer_is_got_past():
    code = "r = q.reserve(); r.view[:3] = b'abc'; print('ready', flush=True); time.sleep(1000)"
    with cl.Queue.create(4, 8) as queue:
        program = another_program(code, queue)
        assert program.stdout.readline() == "ready\n"
        queue.put(b"next")
        with pytest.raises(cl.QueueEmpty, match=f"process {program.pid} is at work on the next slot, or stopped"):
            queue.get(timeout=0.01)
        assert queue.blocked_by == program.pid
        end(program)
        began = time.monotonic()
        assert queue.get(timeout=20) == b"next"
        assert time.monotonic() - began < 1  # 2 ms on a machine of our own
        stats = queue.stats()
        assert (stats.recoveries, stats.unfinished, stats.last_dead) == (1, 1, program.pid)


def test_a_stopped_owner_is_reported_and_not_robbed():
    code = "r = q.reserve(); r.view[:3] = b'abc'; print('ready', flush=True); sys.stdin.readline(); r.commit(3)"
    with cl.Queue.create(2, 8) as queue:
        program = another_program(code, queue)
        assert program.stdout.readline() == "ready\n"
        os.kill(program.pid, signal.SIGSTOP)
        queue.put(b"next")
        with pytest.raises(cl.QueueEmpty, match=f"process {program.pid}"):
            queue.get(timeout=0.05)
        with pytest.raises(cl.QueueFull, match=f"process {program.pid}"):
            queue.put(b"more", timeout=0.05)
        assert queue.recover() == 0
        os.kill(program.pid, signal.SIGCONT)
        program.stdin.write("\n")
        program.stdin.flush()
        assert [queue.get(timeout=20), queue.get(timeout=20)] == [b"abc", b"next"]
        assert program.wait(60) == 0
        end(program)
        assert queue.stats().recoveries == 0


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_a_dead_consumer(delivery):
    code = "r = q.peek(); print(bytes(r.view), flush=True); time.sleep(1000)"
    with cl.Queue.create(4, 8, delivery=delivery) as queue:
        queue.put(b"work")
        program = another_program(code, queue)
        assert program.stdout.readline() == "b'work'\n"
        with pytest.raises(cl.QueueEmpty):
            queue.get(timeout=0.01)
        end(program)
        if delivery == "at-least-once":
            assert queue.get(timeout=20) == b"work"
        else:
            wait_until(queue.recover, "the dead consumer to be found")
            with pytest.raises(cl.QueueEmpty):
                queue.get(timeout=0.01)
            assert queue.stats().lost == 1
        queue.put_many([b"1", b"2", b"3", b"4"], timeout=0)  # no slot is lost


# ---- killed again and again ----

_PRODUCER = """
import itertools
for i in itertools.count():
    record = b'%d %d ' % (os.getpid(), i)
    q.put(record + record[:1] * (48 - len(record)))
"""
_CONSUMER = """
while True:
    with q.peek() as view:
        data = bytes(view)
        assert len(data) == 48 and set(data.split(b' ')[2]) <= {data[0]}, data
        os.write(1, data[:24].ljust(24) + b'\\n')
"""


@pytest.mark.slow
def test_nobody_is_stopped_by_kills():
    """SIGKILL at random moments, of anybody, again and again: the survivors go on, and no record is torn or lost that a
    consumer did not take with it."""
    rng = random.Random(7)
    with cl.Queue.create(8, 64, members=32) as queue:
        producers = [another_program(_PRODUCER, queue) for _ in range(2)]
        until, kills, got = time.monotonic() + 4, 0, Counter()
        last: dict[bytes, int] = {}
        while time.monotonic() < until:
            pause = time.monotonic() + rng.uniform(0.01, 0.2)
            while time.monotonic() < pause:
                data = queue.get(timeout=20)
                pid, number, rest = data.split(b" ")
                assert set(rest) <= {data[0]}, data
                assert int(number) > last.get(pid, -1)  # in order, and none twice: no consumer dies here
                last[pid] = int(number)
                got[pid] += 1
            index = rng.randrange(len(producers))
            end(producers[index])
            kills += 1
            producers[index] = another_program(_PRODUCER, queue)
        for program in producers:
            end(program)
        while True:
            try:
                data = queue.get(timeout=0.3)
            except cl.QueueEmpty:
                break
            pid, number, _ = data.split(b" ")
            last[pid] = int(number)
            got[pid] += 1
        # What a producer had put when it died was got: its numbers have no hole.
        assert all(last[pid] + 1 == got[pid] for pid in got)
        assert kills > 5
        queue.recover()
        queue.put_many([b"x"] * 8, timeout=0)
        assert queue.stats().members == 1


@pytest.mark.slow
def test_killed_consumers_lose_nothing():
    rng = random.Random(8)
    with cl.Queue.create(8, 64, members=32) as queue:
        consumers = [another_program(_CONSUMER, queue) for _ in range(2)]
        seen: Counter[bytes] = Counter()
        programs, readers, lock = [], [], threading.Lock()

        def read(pipe):
            for line in pipe:
                with lock:
                    seen[line.encode()[:24].strip()] += 1

        def watch(program):
            thread = threading.Thread(target=read, args=(program.stdout,))
            thread.start()
            readers.append(thread)
            programs.append(program)

        for program in consumers:
            watch(program)
        until, number, kills = time.monotonic() + 4, 0, 0
        while time.monotonic() < until:
            pause = time.monotonic() + rng.uniform(0.05, 0.3)
            while time.monotonic() < pause:
                record = b"7 %d " % number
                queue.put(record + b"7" * (48 - len(record)), timeout=20)
                number += 1
            index = rng.randrange(2)
            consumers[index].kill()
            consumers[index].wait()
            kills += 1
            consumers[index] = another_program(_CONSUMER, queue)
            watch(consumers[index])
        wait_until(lambda: queue.stats().size == 0, "the consumers to get all")
        wait_until(lambda: len(seen) >= number, "the pipes to be read")
        for program in consumers:
            program.kill()
        for thread in readers:
            thread.join()
        for program in programs:
            end(program)
        assert len(seen) == number
        assert sum(seen.values()) <= number + kills  # twice only because its consumer died over it


# ---- against a model ----


class AgainstADeque(RuleBasedStateMachine):
    """One participant, against a deque of what is in it."""

    @initialize(slots=st.sampled_from([1, 2, 4, 8]))
    def make(self, slots):
        self.queue = cl.Queue.create(slots, 16)
        self.slots, self.model = slots, deque()
        self.peeked = None

    def free_behind(self):
        """Slots come free in their order: one that is peeked at is in the way of those behind it."""
        return self.peeked is None

    @precondition(lambda self: self.free_behind())
    @rule(data=st.binary(max_size=16))
    def put(self, data):
        if len(self.model) < self.slots:
            self.queue.put_nowait(data)
            self.model.append(data)
        else:
            with pytest.raises(cl.QueueFull):
                self.queue.put_nowait(data)

    @precondition(lambda self: self.free_behind())
    @rule(data=st.lists(st.binary(max_size=16), max_size=10))
    def put_many(self, data):
        room = self.slots - len(self.model)
        if len(data) <= room:
            self.queue.put_many(data, timeout=0)
        else:
            with pytest.raises(cl.QueueFull) as caught:
                self.queue.put_many(data, timeout=0)
            assert caught.value.done == room
        self.model.extend(data[:room])

    @precondition(lambda self: self.free_behind())
    @rule()
    def get(self):
        if self.model:
            assert self.queue.get_nowait() == self.model.popleft()
        else:
            with pytest.raises(cl.QueueEmpty):
                self.queue.get_nowait()

    @precondition(lambda self: self.free_behind() and self.model)
    @rule(most=st.integers(1, 10))
    def get_many(self, most):
        assert self.queue.get_many(most) == [self.model.popleft() for _ in range(min(most, len(self.model)))]

    @precondition(lambda self: self.free_behind() and self.model)
    @rule()
    def peek(self):
        self.peeked = self.queue.peek(timeout=0)
        assert bytes(self.peeked.view) == self.model[0]

    @precondition(lambda self: self.peeked)
    @rule(back=st.booleans())
    def end_peek(self, back):
        if back:
            self.peeked.give_back()
            # Those behind it may come first: who would wait looks for one that was given back.
            rest = sorted([self.queue.get_nowait() for _ in self.model])
            assert rest == sorted(self.model)
            self.model.clear()
        else:
            self.peeked.release()
            self.model.popleft()
        self.peeked = None

    @precondition(lambda self: self.free_behind() and len(self.model) < self.slots)
    @rule(data=st.binary(max_size=16), commits=st.booleans())
    def reserve(self, data, commits):
        reserved = self.queue.reserve(timeout=0)
        if not self.model:
            with pytest.raises(cl.QueueEmpty):
                self.queue.get_nowait()
        reserved.view[: len(data)] = data
        if commits:
            reserved.commit(len(data))
            self.model.append(data)
        else:
            reserved.cancel()
            # It keeps its slot until a consumer comes by, or a producer comes round.
            assert [self.queue.get_nowait() for _ in self.model] == list(self.model)
            self.model.clear()
            with pytest.raises(cl.QueueEmpty):
                self.queue.get_nowait()

    @invariant()
    def has_that_many(self):
        if hasattr(self, "queue"):
            assert self.queue.stats().size == len(self.model)

    def teardown(self):
        if hasattr(self, "queue"):
            self.queue.close()


TestAgainstADeque = AgainstADeque.TestCase
TestAgainstADeque.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


_FUTEX = {"x86_64": "202", "aarch64": "98"}.get(platform.machine())


@pytest.mark.skipif(not _FUTEX, reason="the number of futex is not known here")
@pytest.mark.skipif(not os.path.exists("/proc/self/syscall"), reason="this kernel does not tell what a thread waits in")
@pytest.mark.skipif(PLATFORM != "linux", reason="the portable build takes naps")
def test_a_wait_sleeps_in_the_kernel_and_is_woken():
    """Not in naps: who waits on an empty queue costs nothing, and what is put wakes it."""

    def sleeps(tid):
        """On a word that processes share: Python's own waits are private to one."""
        with open(f"/proc/self/task/{tid}/syscall") as file:
            number, _, operation, *_ = [*file.read().split(), "", "0x80"]
        return number == _FUTEX and not int(operation, 16) & 0x80

    for blocked, wake in (
        (lambda queue: queue.get(timeout=PATIENCE), lambda queue: queue.put(b"1")),
        (lambda queue: queue.put_many([b"2"] * 3, timeout=PATIENCE), lambda queue: queue.get_many(2)),
        (list, lambda queue: queue.shutdown()),
    ):
        with cl.Queue.create(2, 16) as queue:
            tids, ended = [], threading.Event()

            def wait(queue=queue, blocked=blocked, tids=tids, ended=ended):
                tids.append(threading.get_native_id())
                blocked(queue)
                ended.set()

            thread = threading.Thread(target=wait)
            thread.start()
            wait_until(lambda tids=tids: tids and sleeps(tids[0]), "the thread to sleep in futex")
            wake(queue)
            assert ended.wait(PATIENCE)
            thread.join()
