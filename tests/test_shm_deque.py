"""Deques: newest first for the owner, oldest first for thieves, between real processes, through kills and stops."""

import contextlib
import gc
import multiprocessing
import os
import pickle
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
from corelane.shm import around

pytestmark = needs_linux


def another_program(code, made, *args):
    """A Python that runs `code`, with the deque as `d`, and whose lines we can read."""
    fd = made.segment.fileno()
    head = f"import sys, time, os; from corelane import shm; import corelane as cl; d = shm.Deque.attach({fd})\n"
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


def all_of(made):
    """What can be stolen, to the last."""
    found = []
    with contextlib.suppress(cl.QueueEmpty):
        while True:
            found.append(made.steal_nowait())
    return found


# ---- one process ----


def test_both_ends():
    with cl.Deque.create(5, 64) as made:
        assert (made.slots, made.slot_size, made.name, made.is_owner, made.closed) == (8, 64, None, False, False)
        for record in (b"", b"x", bytes(range(64)), bytearray(b"array"), memoryview(b"view")):
            made.push(record)
        assert made.is_owner
        assert made.pop() == b"view"
        assert made.steal() == b""
        assert made.steal_many(2) == [b"x", bytes(range(64))]
        assert made.pop() == b"array"
        stats = made.stats()
        assert (stats.pushed, stats.popped, stats.stolen, stats.size, stats.most) == (5, 2, 3, 0, 5)
        assert (stats.members, stats.owner, stats.owners) == (1, os.getpid(), 1)
    assert made.closed
    assert "closed" in repr(made)


def test_full_and_empty():
    with cl.Deque.create(2, 8) as made:
        for call in (made.pop, made.steal_nowait, lambda: made.steal(timeout=0.002), lambda: made.steal(0),
                     lambda: made.steal_many(3, timeout=0), made.pop_claim, lambda: made.steal_claim(0)):  # fmt: skip
            with pytest.raises(cl.QueueEmpty, match="no record in time"):
                call()
        with pytest.raises(cl.QueueFull, match="has no room") as caught:
            made.push_many([b"1", b"2", b"3"])
        assert caught.value.done == 2
        for call in (lambda: made.push(b"3"), made.reserve):
            with pytest.raises(cl.QueueFull):
                call()
        assert made.blocked_by is None
        stats = made.stats()
        assert (stats.failed_pushes, stats.failed_takes, stats.size) == (3, 7, 2)
        made.push_many([])


def test_in_place():
    with cl.Deque.create(4, 16) as made:
        with made.reserve() as view:
            assert view.nbytes == 16
            view[:] = b"0123456789abcdef"
        reserved = made.reserve()
        reserved.view[:3] = b"abc"
        for call in (lambda: made.push(b"x"), made.pop, made.reserve, made.pop_claim):
            with pytest.raises(RuntimeError, match="not committed yet"):
                call()
        with pytest.raises(ValueError, match="size must be"):
            reserved.commit(17)
        reserved.commit(3)
        with pytest.raises(ValueError, match="done with"):
            reserved.commit()
        with pytest.raises(RuntimeError), made.reserve():
            raise RuntimeError
        with made.pop_claim() as view:
            assert bytes(view) == b"abc"
            with pytest.raises(TypeError):
                view[0] = 0
            made.push_many([b"part 1", b"part 2"])
            assert made.steal() == b"0123456789abcdef"
            assert made.steal() == b"part 1"
        with pytest.raises(RuntimeError), made.steal_claim():
            raise RuntimeError
        assert made.pop() == b"part 2"
        dropped = made.reserve()
        del dropped
        gc.collect()
        made.push(b"last")
        dropped = made.pop_claim()
        del dropped
        gc.collect()
        assert made.steal() == b"last"
        stats = made.stats()
        assert (stats.redelivered, stats.size) == (2, 0)


class _Interrupted(cl.Deque):
    __slots__ = ()

    def _map(self, claim, readonly=False):
        raise KeyboardInterrupt


def test_a_claim_survives_no_signal():
    """An exception between the core's claim and our object of it leaves no slot behind that nobody knows of."""
    with _Interrupted.create(2, 8) as made:
        with pytest.raises(KeyboardInterrupt):
            made.reserve()
        made.push(b"1")
        for call in (made.pop_claim, made.steal_claim):
            with pytest.raises(KeyboardInterrupt):
                call()
            gc.collect()
        assert made.pop() == b"1"
        made.push_many([b"2", b"3"])


def test_closing_gives_back_what_is_claimed():
    with cl.Deque.create(4, 8) as made:
        other = cl.Deque.attach(made)
        other.push_many([b"1", b"2", b"3"])
        claims = [other.steal_claim(), other.pop_claim(), other.reserve()]
        other.close()
        assert bytes(claims[0].view) == b"1"  # it stays mapped
        for call in (claims[0].release, claims[1].give_back, claims[2].commit, other.pop, other.stats, other.own,
                     lambda: other.push(b"x"), other.steal, other.shutdown):  # fmt: skip
            with pytest.raises(ValueError, match="closed"):
                call()
        other.close()
        assert sorted(all_of(made)) == [b"1", b"2", b"3"]
        made.push_many([b"1", b"2"])
        assert made.stats().recoveries == 0


def test_closing_beside_threads_that_claim_leaves_no_slot_behind():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with cl.Deque.create(64, 8) as made:
            for _ in range(100):
                other = cl.Deque.attach(made)
                made.push_many([b"x"] * 32)

                def work(other=other):
                    with contextlib.suppress(ValueError, cl.ShmError, cl.QueueEmpty):
                        while True:
                            with other.steal_claim(timeout=0):
                                pass

                threads = [threading.Thread(target=work) for _ in range(2)]
                for thread in threads:
                    thread.start()
                other.close()
                for thread in threads:
                    thread.join()
                all_of(made)
                assert made.stats().size == 0
    finally:
        sys.setswitchinterval(interval)


def test_shutdown_tells_all():
    with cl.Deque.create(4, 8) as made, cl.Deque.attach(made) as other:
        made.push_many([b"1", b"2"])
        other.shutdown()
        with pytest.raises(cl.Closed, match="shut"):
            made.push(b"3")
        assert (made.pop(), other.steal(timeout=5)) == (b"2", b"1")
        for call in (made.pop, other.steal, other.steal_nowait, lambda: other.steal_many(2), other.steal_claim):
            with pytest.raises(cl.Closed):
                call()
        assert made.stats().shut


def test_at_most_once():
    with cl.Deque.create(4, 8, delivery="at-most-once") as made:
        made.push_many([b"1", b"2"])
        made.pop_claim().give_back()
        made.steal_claim().give_back()
        with pytest.raises(cl.QueueEmpty):
            made.steal_nowait()
        assert (made.stats().lost, made.stats().redelivered) == (2, 0)


def test_nothing_is_leaked():
    def maps():
        with open("/proc/self/maps") as file:
            return sum("corelane" in line for line in file)

    fds, mapped = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(30):
        with cl.Deque.create(8, 100) as one, cl.Deque.attach(one) as two:
            two.push(b"x")
            one.steal_claim()
    del one, two
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), maps()) == (fds, mapped)


# ---- the owner ----


def test_there_is_one_owner():
    with cl.Deque.create(4, 8) as made, cl.Deque.attach(made) as other:
        made.own()
        made.own()
        for call in (other.own, lambda: other.push(b"x"), other.pop, other.reserve, other.pop_claim):
            with pytest.raises(cl.SideTaken, match=f"an owner that lives, process {os.getpid()}") as caught:
                call()
            assert caught.value.pid == os.getpid()
        made.push_many([b"1", b"2"])
        claim, reserved = made.pop_claim(), made.reserve()
        made.disown()
        made.disown()
        with pytest.raises(cl.ShmError, match="call its own"):
            reserved.commit()
        other.push(b"3")
        assert (other.pop(), other.pop()) == (b"3", b"1")
        claim.release()
        assert other.stats().size == 0
        other.close()
        made.push(b"4")
        assert (made.pop(), made.stats().owners) == (b"4", 3)


# ---- refused ----


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"slots": 0}, "slots must be from 1"),
        ({"slots": 2**25}, "slots must be from 1"),
        ({"slot_size": 0}, "slot_size must be from 1"),
        ({"members": 5000}, "members must be from 1 to 4095"),
        ({"delivery": "once"}, "delivery must be one of at-least-once, at-most-once"),
        ({"spin": -1}, "spin must be at least 0"),
        ({"slots": 2**24, "slot_size": 2**30}, "more than any machine has"),
    ],
)
def test_what_cannot_be_made(arguments, match):
    with pytest.raises(ValueError, match=match):
        cl.Deque.create(**{"slots": 4, "slot_size": 8, **arguments})


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_timeouts_that_cannot_be(timeout):
    with cl.Deque.create(4, 8) as made:
        made.push(b"x")
        for call in (lambda: made.steal(timeout), lambda: made.steal(timeout=timeout),
                     lambda: made.steal_many(1, timeout), lambda: made.steal_claim(timeout)):  # fmt: skip
            with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
                call()
        with pytest.raises(TypeError, match="no argument"):
            made.steal(wait=1)
        assert made.stats().size == 1


def test_what_cannot_be_pushed():
    with cl.Deque.create(4, 8) as made:
        with pytest.raises(ValueError, match=r"a record of 9 bytes does not fit into a slot of .*: 8 bytes"):
            made.push(b"123456789")
        with pytest.raises(ValueError, match="9 bytes"):
            made.push_many([b"1", b"123456789"])
        with pytest.raises(TypeError):
            made.push("text")
        with pytest.raises(TypeError):
            made.push_many([b"2", "text"])
        assert made.steal_many(9) == [b"1", b"2"]
        with pytest.raises(ValueError, match="most must be"):
            made.steal_many(0)


def test_an_empty_handle_is_no_deque():
    with pytest.raises(ValueError, match="never opened"):
        cl.Deque.__new__(cl.Deque).push(b"x")


def test_too_many_participants():
    with (
        cl.Deque.create(4, 8, members=2) as made,
        cl.Deque.attach(made),
        pytest.raises(cl.ShmError, match="2 participants, all alive"),
    ):
        cl.Deque.attach(made)


def test_one_that_another_thread_is_closing_is_not_said_to_be_read_only():
    with cl.Deque.create(4, 8) as deque:
        deque._leave()  # the other thread is between that and closing the segment
        with pytest.raises(ValueError, match="was closed"):
            deque.steal_nowait()


def test_read_only(name):
    with cl.Deque.create(4, 8, name) as made, cl.Deque.attach(name, readonly=True) as reader:
        made.push(b"x")
        assert (reader.stats().size, reader.is_owner) == (1, False)
        for call in (lambda: reader.push(b"x"), reader.pop, reader.steal, reader.own, reader.shutdown, reader.register):
            with pytest.raises(PermissionError, match="read-only"):
                call()


def test_what_is_no_deque(name):
    with shm.Segment.create(10000) as segment, pytest.raises(cl.Corrupted, match="of kind bytes, not deque"):
        cl.Deque.attach(segment)
    with cl.Deque.create(4, 8, name):
        assert around.entry_of(name).kind == "deque"
        with pytest.raises(cl.Corrupted, match="of kind deque, not queue"):
            cl.Queue.attach(name)


def test_what_a_stranger_wrote():
    with cl.Deque.create(4, 8) as made, shm.Segment.attach(made.segment) as bytes_of_it:
        made.own()
        start = bytes_of_it.size - 4 * 64
        bytes_of_it.buf[start : start + 8] = (9 << 12 | 9 | 3 << 16).to_bytes(8, sys.byteorder)
        for call in (lambda: made.push(b"x"), made.steal, made.steal_claim):
            with pytest.raises(cl.Corrupted, match="slot 0 says state 9, lap 3, owner 9"):
                call()


# ---- other processes ----


@by_every_handle
def test_its_handle_is_pickled(named, name):
    code = "import pickle, sys; d = pickle.loads(bytes.fromhex(sys.argv[1]))\nprint(d.steal(), d.stats().members)"
    with cl.Deque.create(4, 64, name if named else None, spin=0) as made:
        made.push(b"hello")
        done = subprocess.run(
            [sys.executable, "-c", code, pickle.dumps(made).hex()],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.stderr, done.stdout) == ("", "b'hello' 2\n")
        stats = made.stats()
        assert (stats.members, stats.recoveries) == (1, 0)  # it has left, it has not died


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing_takes_it_as_an_argument(method):
    with cl.Deque.create(16, 64) as there, cl.Queue.create(4, 64) as back:
        worker = multiprocessing.get_context(method).Process(target=_serve, args=(there, back, method == "fork"))
        worker.start()
        for i in range(10):
            there.push(b"%d" % i)
            assert back.get(timeout=60) == b"%d" % i * 2
        worker.join()
        assert worker.exitcode == 0
        assert there.stats().recoveries == 0


def _serve(there, back, forked):
    if forked:
        there.register()
        back.register()
    for _ in range(10):
        back.put(there.steal(timeout=20) * 2)


def test_a_forked_child_must_register():
    with cl.Deque.create(4, 8) as made:
        made.push_many([b"1", b"2"])
        claim = made.pop_claim()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for call in (lambda: made.push(b"x"), made.pop, made.steal, claim.release, made.own, made.recover):
                    with pytest.raises(cl.ShmError, match="register"):
                        call()
                made.register()
                with pytest.raises(cl.SideTaken):
                    made.push(b"child")
                assert made.steal(timeout=20) == b"1"
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        claim.give_back()
        assert made.steal_many(2) == [b"2"]
        wait_until(lambda: made.recover() or made.stats().members == 1, "the child's place to be free")
        assert made.stats().last_dead == pid


def test_a_waiting_thief_is_woken():
    code = "print('ready', flush=True)\nfor i in range(3): print(d.steal(timeout=60).decode(), flush=True)"
    with cl.Deque.create(4, 8) as made:
        program = another_program(code, made)
        assert program.stdout.readline() == "ready\n"
        for i in range(3):
            made.push(b"%d" % i)
            assert program.stdout.readline() == f"{i}\n"
        assert program.wait(60) == 0
        end(program)


def test_a_wait_for_work_costs_nothing():
    with cl.Deque.create(4, 8) as made:
        began = time.process_time()
        with pytest.raises(cl.QueueEmpty):
            made.steal(timeout=0.3)
        assert time.process_time() - began < 0.1


def test_a_signal_ends_a_wait():
    code = """
try:
    print('ready', flush=True)
    d.steal()
except KeyboardInterrupt:
    print('interrupted', flush=True)
"""
    with cl.Deque.create(4, 8) as made:
        program = another_program(code, made)
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "interrupted\n"
        assert program.wait(PATIENCE) == 0
        end(program)


_OWNER = """
d.push_many([b'1', b'2', b'3'])
claim = d.pop_claim()
print('ready', flush=True)
sys.stdin.readline()
claim.release()
"""


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_a_dead_owner_has_a_successor(delivery):
    with cl.Deque.create(4, 8, delivery=delivery) as made:
        program = another_program(_OWNER, made)
        assert program.stdout.readline() == "ready\n"
        assert made.stats().owner == program.pid
        with pytest.raises(cl.SideTaken, match=f"process {program.pid}"):
            made.push(b"x")
        end(program)
        made.push(b"4")
        assert made.pop() == b"4"
        rest = [made.pop(), made.pop()]
        if delivery == "at-least-once":
            assert rest == [b"3", b"2"]
            rest.append(made.pop())
        assert rest[-1] == b"1"
        stats = made.stats()
        assert (stats.recoveries, stats.last_dead, stats.owner, stats.owners) == (1, program.pid, os.getpid(), 2)
        made.push_many([b"1", b"2", b"3"])


def test_a_stopped_owner_is_reported_and_not_robbed():
    with cl.Deque.create(4, 8) as made:
        program = another_program(_OWNER, made)
        assert program.stdout.readline() == "ready\n"
        os.kill(program.pid, signal.SIGSTOP)
        assert made.steal_many(9) == [b"1", b"2"]
        with pytest.raises(cl.QueueEmpty, match=f"process {program.pid} is at work on a record, or stopped, and alive"):
            made.steal(timeout=0.05)
        assert made.blocked_by == program.pid
        assert made.recover() == 0
        with pytest.raises(cl.SideTaken):
            made.own()
        os.kill(program.pid, signal.SIGCONT)
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(60) == 0
        end(program)
        stats = made.stats()
        assert (stats.recoveries, stats.size, stats.owner) == (0, 0, None)


def test_a_dead_thief():
    code = "c = d.steal_claim(); print('ready', flush=True); time.sleep(1000)"
    with cl.Deque.create(4, 8) as made:
        made.push_many([b"1", b"2"])
        program = another_program(code, made)
        assert program.stdout.readline() == "ready\n"
        assert made.steal() == b"2"
        end(program)
        assert made.steal(timeout=20) == b"1"
        assert made.stats().redelivered == 1
        made.push_many([b"1", b"2", b"3", b"4"])


# ---- killed again and again ----

_KILLED_OWNER = """
n = int(sys.argv[1])
rest = lambda head: head + b'.' * (48 - len(head))
while True:
    try:
        for _ in range(n % 7 + 1):
            d.push(rest(b'%d ' % n)); n += 1
            os.write(1, b'+%d\\n' % (n - 1))
    except cl.QueueFull: pass
    try:
        for _ in range(n % 5):
            with d.pop_claim() as view:
                data = bytes(view)
                assert len(data) == 48 and set(data.split(b' ')[1]) == {46}, data
                os.write(1, b'-%s\\n' % data.split(b' ')[0])
    except cl.QueueEmpty: pass
"""
_KILLED_THIEF = """
while True:
    with d.steal_claim() as view:
        data = bytes(view)
        assert len(data) == 48 and set(data.split(b' ')[1]) == {46}, data
        os.write(1, b'-%s\\n' % data.split(b' ')[0])
"""


@pytest.mark.slow
def test_nobody_is_stopped_by_kills():
    """SIGKILL at random moments, of owners and thieves: each record that was pushed is taken, and more than once only
    if somebody died over it."""
    rng = random.Random(7)
    pushed, taken, lock = set(), Counter(), threading.Lock()
    with cl.Deque.create(16, 64, members=32) as made:
        programs, readers = [], []

        def read(pipe):
            for line in pipe:
                with lock:
                    if line.startswith("+"):
                        pushed.add(int(line[1:]))
                    else:
                        taken[int(line[1:])] += 1

        def start(code, *args):
            program = another_program(code, made, *args)
            thread = threading.Thread(target=read, args=(program.stdout,))
            thread.start()
            readers.append(thread)
            programs.append(program)
            return program

        running = [start(_KILLED_OWNER, 0), start(_KILLED_THIEF), start(_KILLED_THIEF)]
        until, kills = time.monotonic() + 5, 0
        while time.monotonic() < until:
            size = len(taken)
            wait_until(lambda size=size: len(taken) > size, "somebody to take something")
            time.sleep(rng.uniform(0.02, 0.3))
            index = rng.randrange(3)
            running[index].kill()
            running[index].wait()
            kills += 1
            running[index] = start(_KILLED_OWNER, kills * 10**6) if index == 0 else start(_KILLED_THIEF)
        running[0].kill()
        running[0].wait()
        wait_until(lambda: made.recover() + made.stats().size == 0, "the thieves to take all")
        for program in programs:
            program.kill()
            program.wait()
        for thread in readers:
            thread.join()
        for program in programs:
            end(program)
        assert kills > 5
        assert pushed <= set(taken)
        assert len(set(taken) - pushed) <= kills + 1  # pushed, and killed before it could say so
        assert sum(taken.values()) <= len(taken) + kills + 3
        made.recover()
        assert made.stats().members == 1
        made.push_many([b"x"] * 8)
        assert len(all_of(made)) == 8


# ---- against a model ----


class AgainstACollectionsDeque(RuleBasedStateMachine):
    """One participant, against a deque of what is in it."""

    @initialize(slots=st.sampled_from([1, 2, 4, 8]))
    def make(self, slots):
        self.made = cl.Deque.create(slots, 16)
        self.slots, self.model = slots, deque()
        self.claims = []

    @rule(data=st.binary(max_size=16), in_place=st.booleans())
    def push(self, data, in_place):
        try:
            if in_place:
                reserved = self.made.reserve()
                reserved.view[: len(data)] = data
                reserved.commit(len(data))
            else:
                self.made.push(data)
            self.model.append(data)
        except cl.QueueFull:
            # It is full, or what is or was worked on in place stands in the way: never if all of it is free.
            assert self.model or self.claims
            if not self.in_place_was_used:
                assert len(self.model) == self.slots

    in_place_was_used = False

    @rule(data=st.lists(st.binary(max_size=16), max_size=10))
    def push_many(self, data):
        try:
            self.made.push_many(data)
            done = len(data)
        except cl.QueueFull as full:
            done = full.done
        self.model.extend(data[:done])
        if not self.in_place_was_used:
            assert done == len(data) or len(self.model) == self.slots

    @rule()
    def pop(self):
        if self.model:
            assert self.made.pop() == self.model.pop()
        else:
            with pytest.raises(cl.QueueEmpty):
                self.made.pop()

    @rule()
    def steal(self):
        if self.model:
            assert self.made.steal_nowait() == self.model.popleft()
        else:
            with pytest.raises(cl.QueueEmpty):
                self.made.steal_nowait()

    @precondition(lambda self: self.model)
    @rule(most=st.integers(1, 10))
    def steal_many(self, most):
        assert self.made.steal_many(most) == [self.model.popleft() for _ in range(min(most, len(self.model)))]

    @precondition(lambda self: self.model and len(self.claims) < 3)
    @rule(newest=st.booleans())
    def claim(self, newest):
        self.in_place_was_used = True
        claim = self.made.pop_claim() if newest else self.made.steal_claim(timeout=0)
        data = self.model.pop() if newest else self.model.popleft()
        assert bytes(claim.view) == data
        self.claims.append((claim, data))

    @precondition(lambda self: self.claims)
    @rule(index=st.integers(0, 2), back=st.booleans())
    def end_claim(self, index, back):
        claim, data = self.claims.pop(index % len(self.claims))
        if not back:
            claim.release()
            return
        claim.give_back()
        # The others may come first.
        assert sorted(all_of(self.made)) == sorted([*self.model, data])
        self.model.clear()

    @rule()
    def another_owner(self):
        self.made.disown()

    @precondition(lambda self: not self.claims)
    @rule()
    def is_emptied(self):
        """Then all of it is free, whatever was done in place."""
        while self.model:
            assert self.made.pop() == self.model.pop()
        for _ in range(2):  # what was given back above the newest is passed once
            with contextlib.suppress(cl.QueueFull):
                self.made.push_many([b"x"] * self.slots)
            while self.made.stats().size:
                self.made.pop()
        self.in_place_was_used = False

    @invariant()
    def has_that_many(self):
        if hasattr(self, "made"):
            assert self.made.stats().size == len(self.model) + len(self.claims)

    def teardown(self):
        if hasattr(self, "made"):
            self.claims.clear()
            self.made.close()


TestAgainstACollectionsDeque = AgainstACollectionsDeque.TestCase
TestAgainstACollectionsDeque.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
