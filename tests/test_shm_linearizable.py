"""Histories of real processes over a Queue, a Ring, a Deque, a Broadcast and a Lock: each is one that a single FIFO
queue could have had. A Lock is one with room for one record: who acquires it puts, who releases it gets that one back.

When they called and when they had an answer is CLOCK_MONOTONIC, which is the same in all processes of a machine. What a
queue promises beyond that order, when somebody has died, is in test_shm_queue.py and in the soak.
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
from helpers import PATIENCE, needs_linux
from linearizable import EMPTY, FULL, GET, PUT, Call, excuse, linearize

import corelane as cl

pytestmark = needs_linux

SIZE = 504  # with its header, an eighth of the smallest ring


# ---- the checker ----


def history(*calls):
    return [Call(*call) for call in calls]


RIGHT = {
    "one after the other": ((0, 1, PUT, 1), (2, 3, PUT, 2), (4, 5, GET, 1), (6, 7, GET, 2), (8, 9, EMPTY)),
    "at once, the other way round": ((0, 5, PUT, 1), (1, 4, PUT, 2), (6, 7, GET, 2), (8, 9, GET, 1)),
    "got while it is put": ((0, 9, PUT, 1), (1, 2, GET, 1), (3, 4, EMPTY)),
    "gets at once": ((0, 1, PUT, 1), (2, 3, PUT, 2), (4, 9, GET, 2), (5, 8, GET, 1)),
    "full": ((0, 1, PUT, 1), (2, 3, PUT, 2), (4, 5, FULL), (6, 7, GET, 1), (8, 9, PUT, 3)),
    "full for a moment": ((0, 1, PUT, 1), (2, 9, PUT, 2), (3, 8, FULL), (4, 7, GET, 1)),
    "nothing": (),
}
WRONG = {
    "out of order": ((0, 1, PUT, 1), (2, 3, PUT, 2), (4, 5, GET, 2), (6, 7, GET, 1)),
    "out of order, found late": ((0, 1, PUT, 1), (2, 9, PUT, 2), (3, 8, PUT, 3), (10, 11, GET, 3), (12, 13, GET, 1)),
    "got before it is put": ((0, 1, GET, 1), (2, 3, PUT, 1)),
    "got twice": ((0, 1, PUT, 1), (2, 3, GET, 1), (4, 5, GET, 1)),
    "got what nobody put": ((0, 1, PUT, 1), (2, 3, GET, 7)),
    "lost": ((0, 1, PUT, 1), (2, 3, PUT, 2), (4, 5, GET, 1), (6, 7, EMPTY)),
    "empty with a record in it": ((0, 1, PUT, 1), (2, 3, EMPTY), (4, 5, GET, 1)),
    "full with room in it": ((0, 1, PUT, 1), (2, 3, FULL)),
    "more than fit": ((0, 1, PUT, 1), (2, 3, PUT, 2), (4, 5, PUT, 3)),
}


@pytest.mark.parametrize("calls", RIGHT.values(), ids=RIGHT)
def test_the_checker_takes(calls):
    order = linearize(history(*calls), capacity=2)
    assert sorted(call.began for call in order) == [call[0] for call in calls]


@pytest.mark.parametrize("calls", WRONG.values(), ids=WRONG)
def test_the_checker_refuses(calls):
    assert linearize(history(*calls), capacity=2) is None


def test_the_checker_finds_the_way_back():
    """All are put at once, so the first orders that are tried are wrong."""
    puts = [(i, 1000 + i, PUT, i) for i in range(12)]
    order = random.Random(1).sample(range(12), 12)
    gets = [(2000 + 2 * i, 2001 + 2 * i, GET, value) for i, value in enumerate(order)]
    assert linearize(history(*puts, *gets), capacity=12)


def test_what_is_in_the_way_excuses():
    calls = history((0, 9, PUT, 1), (1, 2, PUT, 2), (3, 4, EMPTY), (10, 11, EMPTY))
    assert excuse(calls) == [calls[0], calls[1], calls[3]]


# ---- histories ----


class Swaps:
    """Every second record is put after the next one, though its put has returned."""

    def __init__(self, queue):
        self.queue, self.kept, self.get_nowait = queue, None, queue.get_nowait

    def put_nowait(self, record):
        if self.kept is None:
            self.kept = record
        else:
            self.queue.put(record, 20)
            self.queue.put(self.kept, 20)
            self.kept = None


class Loses:
    """Every fourth record goes nowhere."""

    def __init__(self, queue):
        self.queue, self.count, self.get_nowait = queue, 0, queue.get_nowait

    def put_nowait(self, record):
        self.count += 1
        if self.count % 4:
            self.queue.put_nowait(record)


class Repeats:
    """What is got is got twice."""

    def __init__(self, queue):
        self.queue, self.last, self.put_nowait = queue, None, queue.put_nowait

    def get_nowait(self):
        last, self.last = self.last, None
        if last is None:
            last = self.last = self.queue.get_nowait()
        return last


BROKEN = {each.__name__: each for each in (Swaps, Loses, Repeats)}


def call(queue, does, number, seen):
    """One call, noted in `seen`. Whether it did it."""
    began = time.monotonic_ns()
    try:
        if does == "p":
            queue.put_nowait(b"%d" % number)
            did = PUT
        else:
            number, did = int(queue.get_nowait()), GET
    except cl.QueueFull:
        did = FULL
    except cl.QueueEmpty:
        did = EMPTY
    ended = time.monotonic_ns()
    seen.append((began, ended, did, number if did in (PUT, GET) else None))
    return did in (PUT, GET)


class RingOfSize:
    """Records of one size, of which a number of calls fits."""

    def __init__(self, ring):
        self.ring = ring
        self.get_nowait = ring.get_nowait

    def put_nowait(self, record):
        self.ring.put_nowait(record.ljust(SIZE))


class Deque:
    """The owner's end to put into, the thieves' to get from."""

    def __init__(self, deque):
        self.put_nowait, self.get_nowait = deque.push, deque.steal_nowait


class Lock:
    """What is got is what was put: only who has a lock can release it."""

    def __init__(self, lock):
        self.lock, self.record = lock, None

    def put_nowait(self, record):
        if self.record is not None or not self.lock.try_acquire():
            raise cl.QueueFull("held")
        self.record = record

    def get_nowait(self):
        if self.record is None:
            raise NotOurs
        record, self.record = self.record, None
        self.lock.release()
        return record


class NotOurs(Exception):
    """No call was made."""


# How an object is used as a queue.
AS_QUEUE = {
    "Queue": lambda queue: queue,
    "Ring": RingOfSize,
    "Deque": Deque,
    "Broadcast": lambda cast: cast,
    "Lock": Lock,
}


def work(kind, fd, number, does, calls, broken):
    """What a process does: so many calls, puts ("p") and gets ("g") as `does` says, over and over. It prints them."""
    queue = getattr(cl, kind).attach(int(fd), **({"subscribe": "g" in does} if kind == "Broadcast" else {}))
    used = BROKEN[broken](queue) if broken else AS_QUEUE[kind](queue)
    seen, number = [], int(number) * 1_000_000
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(int(calls)):
        with contextlib.suppress(NotOurs):
            number += call(used, does[turn % len(does)], number, seen)
        if turn % 7 == 0:
            time.sleep(0)  # with fewer processors than processes: another one's turn, perhaps
    until = time.monotonic() + PATIENCE
    while not any(each[2] in (PUT, GET) for each in seen) and time.monotonic() < until:
        time.sleep(0.001)  # the others come later on a busy machine
        call(used, does[0], number, seen)
    print(json.dumps(seen), flush=True)
    sys.stdin.readline()
    queue.close()


def run(queue, does, calls, broken=""):
    """The history of as many processes as `does` has, and of what was left in the end."""
    return list(chain.from_iterable(run_each(queue, does, calls, broken)))


def run_each(queue, does, calls, broken=""):
    """The same, the history of each apart."""
    kind, fd = type(queue).__name__, queue.segment.fileno()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, kind, str(fd), str(number), each, str(calls), broken],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[fd],
            cwd=Path(__file__).parent,
        )
        for number, each in enumerate(does, 1)
    ]
    found = []
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            found.append([Call(*each) for each in json.loads(process.stdout.readline())])
        left = []
        if kind == "Ring":  # its consumer is gone, then
            processes[-1].communicate("done\n", timeout=PATIENCE)
        while kind in ("Queue", "Ring") and call(queue, "g", 0, left):
            pass
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [*found, [Call(*each) for each in left]]


# Each word is one process: what it does, over and over. More of one than of the other, so that it is full, or empty.
MIXES = [
    ("p", "g"),
    ("p", "p", "g", "g"),
    ("pg", "gp", "ppgg"),
    ("ppg", "pgg", "p", "g"),
    ("p", "p", "ggg"),
    ("p", "gg", "gg"),
]


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("does", MIXES, ids=" ".join)
def test_a_queue_is_linearizable(does, slots):
    with cl.Queue.create(slots, 16) as queue:
        calls = excuse(run(queue, does, 200))
        assert {PUT, GET} <= {each.did for each in calls}
        assert linearize(calls, slots)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_a_ring_is_linearizable(turn):
    with cl.Ring.create(1) as ring:
        calls = run(ring, [("p", "ppp", "p")[turn], ("g", "g", "ggg")[turn]], 400)
        assert {PUT, GET} <= {each.did for each in calls}
        assert linearize(calls, ring.capacity // (SIZE + 8))  # also what it refused was right, at that moment


@pytest.mark.slow
@pytest.mark.parametrize("does", [("p", "g"), ("p", "g", "g"), ("ppp", "g", "ggg")], ids=" ".join)
def test_a_deque_is_linearizable_for_its_owner_and_thieves(does):
    with cl.Deque.create(4, 16) as deque:
        calls = excuse(run(deque, does, 200))
        assert {PUT, GET} <= {each.did for each in calls}
        assert linearize(calls, 4)


@pytest.mark.slow
@pytest.mark.parametrize("does", [("p", "g"), ("ppp", "g"), ("p", "ggg")], ids=" ".join)
def test_a_lossless_broadcast_is_linearizable_for_its_reader(does):
    with cl.Broadcast.create(4, 16, lossless=True) as broadcast:
        calls = run(broadcast, does, 400)
        assert {PUT, GET} <= {each.did for each in calls}
        assert linearize(calls, 4)  # also what it refused was right, at that moment


@pytest.mark.slow
def test_so_it_is_for_each_of_its_readers():
    with cl.Broadcast.create(4, 16, lossless=True) as broadcast:
        puts, *others, _ = run_each(broadcast, ("p", "g", "ggg"), 300)
        for gets in others:  # a refused put may have been in the way of the other one
            calls = [each for each in puts if each.did == PUT] + gets
            assert {PUT, GET} <= {each.did for each in calls}
            assert linearize(calls, 4)


@pytest.mark.slow
@pytest.mark.parametrize("does", [("pg", "pg"), ("pppg", "pg", "ppggg"), ("pg",) * 4], ids=" ".join)
def test_a_lock_is_linearizable(does):
    lock = cl.Lock.create()
    calls = run(lock, does, 200)
    lock.close()
    assert {PUT, GET} <= {each.did for each in calls}
    assert linearize(calls, 1)  # nobody was refused while it was free


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_queue_is_not(broken):
    with cl.Queue.create(64, 16) as queue:
        calls = excuse(run(queue, ("p", "g"), 60, broken))
        assert linearize(calls, 64) is None


if __name__ == "__main__":
    work(*sys.argv[1:])
