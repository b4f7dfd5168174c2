"""Rings, queues and deques under random signals: real processes put and get, and any is killed or stopped at any time.

    python tests/soak.py [--seconds 60] [--seed N] [ring] [queue] [deque] ...

Prints a line of JSON for each object; an AssertionError says which promise was broken, and the seed. What is promised:

    no hang           something is delivered again and again, whoever is dead or stopped
    no torn record    each has a checksum
    none lost         a put that has returned is delivered, also if its producer was killed afterwards
    none invented     of a killed producer's at most those it was just putting; no record comes twice, unless its
                      consumer was killed with it
    no lost slot      in the end there is room for as much as in the beginning

A consumer notes what it has got before it releases it, so each death of one may repeat what it had in hand, once.
Processes are forked (with a handle of their own, or with the inherited one), or another program, or one in another pid
namespace.

To soak another kind of object, add a class like Queue to KINDS; `pace`: seconds between signals, at most.
"""

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import numpy as np

import corelane as cl

MOST_PROCESSES = 1 << 18
STOP, TORN, PUT = 0, 1, 2  # in the notes: numbers of 8 bytes; from PUT on, how many records each process has put
PATIENCE = 20.0
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
AT_ONCE = 3  # records of one put_many


# ---- kinds of objects ----


class Ring:
    """One producer and one consumer; each successor takes the side of the one before."""

    producers, consumers, largest, pace = 1, 1, 900, 0.06

    @staticmethod
    def create():
        return cl.Ring.create(1)

    @staticmethod
    def attach(fd):
        return cl.Ring.attach(fd)

    inherit = None  # a ring's side cannot be registered anew: it is taken by whoever puts or gets

    @staticmethod
    def count_room(ring):
        """Whether there is room for as much as in the beginning."""
        stats = ring.stats()
        ring.put_nowait(bytes(ring.largest))
        return stats.depth == 0 and len(ring.get_nowait()) == ring.largest


class Queue:
    """Some producers and some consumers, few slots."""

    producers, consumers, largest, pace = 2, 2, 200, 0.03

    @staticmethod
    def create():
        return cl.Queue.create(8, 232, members=32)

    @staticmethod
    def attach(fd):
        return cl.Queue.attach(fd)

    @staticmethod
    def inherit(queue):
        queue.register()
        return queue

    @staticmethod
    def count_room(queue):
        for i in range(queue.slots):
            queue.put_nowait(b"%d" % i)
        with contextlib.suppress(cl.QueueFull):
            queue.put_nowait(b"more")
            return False
        return queue.get_many(queue.slots) == [b"%d" % i for i in range(queue.slots)]


class DequeAsQueue(cl.Deque):
    """Its owner's calls as a producer's, its thieves' as a consumer's."""

    __slots__ = ()

    put = cl.Deque.push
    put_many = cl.Deque.push_many
    peek = cl.Deque.steal_claim


class Deque:
    """One owner, who pushes, and some thieves; each successor takes the owner's place."""

    producers, consumers, largest, pace = 1, 3, 200, 0.03

    @staticmethod
    def create():
        return DequeAsQueue.create(8, 232, members=32)

    @staticmethod
    def attach(fd):
        return DequeAsQueue.attach(fd)

    @staticmethod
    def inherit(deque):
        deque.register()
        return deque

    @staticmethod
    def count_room(deque):
        deque.push_many([b"%d" % i for i in range(deque.slots)])
        with contextlib.suppress(cl.QueueFull):
            deque.push(b"more")
            return False
        return deque.steal_many(deque.slots) == [b"%d" % i for i in range(deque.slots)]


KINDS = {"ring": Ring, "queue": Queue, "deque": Deque}


# ---- what the processes do ----

HEAD = struct.Struct("<IIII")  # whose, which, of how many bytes, checksum


def record_of(who, number, size):
    body = (b"%d " % (who * 31 + number)) * (size // 2 + 1)
    body = body[:size]
    return HEAD.pack(who, number, size, zlib.crc32(body, who ^ number)) + body


def is_whole(record):
    if len(record) < HEAD.size:
        return False
    who, number, size, checksum = HEAD.unpack_from(record)
    return len(record) == HEAD.size + size and zlib.crc32(record[HEAD.size :], who ^ number) == checksum


# The other side has no successor yet; the one before us is not quite dead; a deque, which never waits, has no room.
NOT_NOW = (cl.PeerDied, cl.SideTaken, cl.QueueFull)


def produce(handle, kind, who, notes, pick):
    number = 0

    def commit(record):
        with handle.reserve(len(record)) as view:
            view[:] = record

    def commit_part(record):  # of a slot, which is larger
        reserved = handle.reserve()
        with reserved as view:
            view[: len(record)] = record
            reserved.commit(len(record))

    def put_one(records):
        pick.choice((handle.put, commit if kind is Ring else commit_part))(records[0])

    while not notes[STOP]:
        count = pick.choice((1, 1, AT_ONCE))
        records = [record_of(who, number + 1 + i, pick.randrange(kind.largest)) for i in range(count)]
        put_all(handle.put_many if count > 1 else put_one, records)
        number += count
        notes[PUT + who] = number
        if pick.random() < 0.01:
            time.sleep(pick.random() * 0.005)  # so that consumers fall asleep


def put_all(put, records):
    while records:
        try:
            put(records)
            return
        except NOT_NOW as problem:
            records = records[getattr(problem, "done", 0) :]
            time.sleep(0.001)


def consume(handle, notes, log):
    while True:
        try:
            view = handle.peek(0.05)
        except (*NOT_NOW, cl.QueueEmpty, cl.Closed):
            if notes[STOP] > 1:
                return
            time.sleep(0.001)
            continue
        with view as data:
            record = bytes(data)
            if not is_whole(record):
                notes[TORN] += 1
            os.write(log, record[:8])


def live(kind, role, who, handle, notes, log):
    """A process's whole life; its exit status is 0 only if it ended by itself, when it was told to."""
    if role == "producer":
        produce(handle, kind, who, notes, random.Random(who))
    else:
        consume(handle, notes, log)
    handle.close()


def map_notes(fd):
    return memoryview(mmap.mmap(fd, 8 * (MOST_PROCESSES + PUT))).cast("Q")


# ---- who kills ----


class Storm:
    """Processes, each in a place, of which any is killed, or stopped for a while, at any time; a killed one gets a
    successor. A subclass says what they do (`live`) and what counts as going on (`done`)."""

    pace = 0.03  # seconds between signals, at most

    def __init__(self, name, seed):
        self.name, self.seed = name, seed
        self.pick = random.Random(seed)
        self.processes = {}  # of each place: pid and who
        self.who = self.kills = self.stops = self.longest = 0
        self.stopped = []

    def said(self):
        return f"{self.name}, seed {self.seed}"

    def start(self, place):
        self.who += 1
        who, road = self.who, self.choose_road()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: none is left behind
                self.live(place, who, road)
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        self.processes[place] = pid, who

    def choose_road(self):
        """How the next process comes by the object: drawn here, as a child's draws are not seen by the next."""
        return None

    def check_hang(self, state):
        now, count = time.monotonic(), self.done()
        if count != state[0]:
            self.longest = max(self.longest, now - state[1])
            state[:] = count, now
        assert now - state[1] < PATIENCE, f"{self.said()}: a hang; {self.object!r}"

    def go_on(self, now):
        for entry in [each for each in self.stopped if each[0] <= now]:
            self.stopped.remove(entry)
            place, pid = entry[1:]
            if self.processes[place][0] == pid:
                os.kill(pid, signal.SIGCONT)

    def kill(self, place):
        pid, _ = self.processes[place]
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"{self.said()}: {place} ended by itself: status {status:#x}"
        self.kills += 1

    def run(self, seconds, places):
        for place in places:
            self.start(place)
        until, state = time.monotonic() + seconds, [0, time.monotonic()]
        while (now := time.monotonic()) < until:
            time.sleep(self.pick.random() * self.pace)
            self.go_on(now)
            self.check_hang(state)
            place = self.pick.choice(places)
            if self.pick.random() < 0.5:
                self.kill(place)
                self.start(place)
            else:
                os.kill(self.processes[place][0], signal.SIGSTOP)
                self.stops += 1
                self.stopped.append((now + self.pick.random() * 0.1, place, self.processes[place][0]))
        self.go_on(float("inf"))
        return state

    def join(self, places, state, goes_on):
        """They have been told to end, and do. `goes_on`: what counts is still done meanwhile."""
        for place in places:
            pid, _ = self.processes.pop(place)
            while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
                time.sleep(0.01)
                if goes_on:
                    self.check_hang(state)
                assert time.monotonic() - state[1] < 2 * PATIENCE, f"{self.said()}: {place} does not end"
            assert found[1] == 0, f"{self.said()}: {place} ended with status {found[1]:#x}"

    def close(self):
        for pid, _ in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.object.close()

    def figures(self):
        return {
            "kind": self.name,
            "seed": self.seed,
            "kills": self.kills,
            "stops": self.stops,
            "longest_pause_ms": round(self.longest * 1e3, 1),
            "processes": self.who,
        }


class Soak(Storm):
    """Of what records go through: by producers and consumers."""

    def __init__(self, name, seed):
        super().__init__(name, seed)
        self.kind = KINDS[name]
        self.pace = self.kind.pace
        self.object = self.kind.create()
        self.notes_fd = os.memfd_create("notes")
        os.ftruncate(self.notes_fd, 8 * (MOST_PROCESSES + PUT))
        self.notes = map_notes(self.notes_fd)
        self.log = os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.others = can_unshare()
        self.consumers_killed, self.killed = 0, set()
        self.roads = dict.fromkeys(("attach", "inherit", "exec", "pid namespace"), 0)

    def choose_road(self):
        road = self.pick.choices(("attach", "inherit", "exec", "pid namespace"), (60, 37, 2, 1))[0]
        if (road == "inherit" and not self.kind.inherit) or (road == "pid namespace" and not self.others):
            road = "attach"
        self.roads[road] += 1
        return road

    def live(self, place, who, road):
        if road in ("exec", "pid namespace"):
            self.execute(road, place[0], who)
        inherited = road == "inherit"
        handle = self.kind.inherit(self.object) if inherited else self.kind.attach(self.object.segment.fileno())
        live(self.kind, place[0], who, handle, self.notes, self.log)

    def execute(self, road, role, who):
        fds = (self.object.segment.fileno(), self.notes_fd, self.log)
        for fd in fds:
            os.set_inheritable(fd, True)
        argv = [sys.executable, __file__, "--child", self.name, role, str(who), *map(str, fds)]
        if road == "pid namespace":
            argv = [*UNSHARE, *argv]
        os.execvp(argv[0], argv)

    def done(self):
        return os.fstat(self.log).st_size // 8

    def kill(self, place):
        _, who = self.processes[place]
        super().kill(place)
        self.consumers_killed += place[0] == "consumer"
        self.killed.add(who)

    def soak(self, seconds):
        producers = [("producer", i) for i in range(self.kind.producers)]
        consumers = [("consumer", i) for i in range(self.kind.consumers)]
        state = self.run(seconds, producers + consumers)
        self.notes[STOP] = 1
        self.join(producers, state, goes_on=True)
        self.notes[STOP] = 2
        self.join(consumers, state, goes_on=False)
        if not isinstance(self.object, cl.Ring):
            self.object.recover()
        consume(self.object, self.notes, self.log)

    def close(self):
        self.notes[STOP] = 2  # one whose `unshare` was killed before it had promised to take it along ends, too
        super().close()

    def check(self):
        said = self.said()
        assert self.notes[TORN] == 0, f"{said}: {self.notes[TORN]} torn records"
        assert self.kind.count_room(self.object), f"{said}: there is less room than in the beginning"
        found = (
            np.frombuffer(os.pread(self.log, os.fstat(self.log).st_size, 0), dtype="<u4").reshape(-1, 2).astype("u8")
        )
        keys, times = np.unique(found[:, 0] << np.uint64(32) | found[:, 1], return_counts=True)
        whose, numbers = (keys >> np.uint64(32)).astype(int), (keys & np.uint64(0xFFFFFFFF)).astype(int)
        put = np.array(self.notes[PUT : PUT + self.who + 1], dtype=int)
        delivered = np.bincount(whose[numbers <= put[whose]], minlength=self.who + 1)
        lost = put - delivered
        assert not lost.any(), f"{said}: records are lost, of the processes {lost.nonzero()[0].tolist()}"
        more = whose[numbers > put[whose]]
        assert set(more.tolist()) <= self.killed, (
            f"{said}: of {set(more.tolist()) - self.killed} came what they had not put"
        )
        assert (numbers <= put[whose] + AT_ONCE).all(), f"{said}: more than a killed producer was just putting"
        again = int((times - 1).sum())
        assert again <= self.consumers_killed, f"{said}: {again} came twice"
        return {**self.figures(), "records": len(keys), "again": again, **self.roads}


def can_unshare():
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0
    )


def soak(name, seconds, seed):
    """What has happened in so many seconds; raises AssertionError."""
    one = Soak(name, seed)
    try:
        one.soak(seconds)
        return one.check()
    finally:
        one.close()


def from_command_line(about, kinds, call):
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"{', '.join(kinds)}; all of them by default")
    parser.add_argument("--seconds", type=float, default=60, help="for each kind")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    args = parser.parse_args()
    for name in args.kinds or kinds:
        print(json.dumps(call(name, args.seconds, args.seed)), flush=True)


def main():
    if sys.argv[1:2] == ["--child"]:
        name, role, who, *fds = sys.argv[2:]
        fd, notes, log = map(int, fds)
        live(KINDS[name], role, int(who), KINDS[name].attach(fd), map_notes(notes), log)
        return
    from_command_line(__doc__, KINDS, soak)


if __name__ == "__main__":
    main()
