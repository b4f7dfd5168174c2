"""Histories of real processes over a Queue and a Ring: each is one that a single FIFO queue could have had.

When they called and when they had an answer is CLOCK_MONOTONIC, which is the same in all processes of a machine. What a
queue promises beyond that order, when somebody has died, is in test_shm_queue.py and in the soak.
"""

import json
import random
import subprocess
import sys
import time
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


def work(kind, fd, number, does, calls, broken):
    """What a process does: so many calls, puts ("p") and gets ("g") as `does` says, over and over. It prints them."""
    queue = {"Queue": cl.Queue, "Ring": cl.Ring}[kind].attach(int(fd))
    used = BROKEN[broken](queue) if broken else RingOfSize(queue) if kind == "Ring" else queue
    seen, number = [], int(number) * 1_000_000
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(int(calls)):
        number += call(used, does[turn % len(does)], number, seen)
        if turn % 7 == 0:
            time.sleep(0)  # with fewer processors than processes: another one's turn, perhaps
    print(json.dumps(seen), flush=True)
    sys.stdin.readline()
    queue.close()


def run(queue, does, calls, broken=""):
    """The history of as many processes as `does` has, and of what was left in the end."""
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
            found += json.loads(process.stdout.readline())
        if kind == "Ring":  # its consumer is gone, then
            processes[-1].communicate("done\n", timeout=PATIENCE)
        while call(queue, "g", 0, found):
            pass
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [Call(*each) for each in found]


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


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_queue_is_not(broken):
    with cl.Queue.create(64, 16) as queue:
        calls = excuse(run(queue, ("p", "g"), 60, broken))
        assert linearize(calls, 64) is None


if __name__ == "__main__":
    work(*sys.argv[1:])
