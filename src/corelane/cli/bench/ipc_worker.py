"""Messages between processes, as Python sends them: asked on stdin as the raw C baseline is (benchmarks/c/ipc_floor.c).

Started as a file (`python -P ipc_worker.py`). The lines are `run KIND MS SIZE CPU CPU`, where KIND is a subject, a
number perhaps, and a contender of ipc_links.py (`rt/ring`, `fan_in/4/queue`, `idle/5/mp_pipe`), and `end`, which ends
what was begun. Owns its peers: forked children that die with it, are told to end, and are reaped.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
MOST_SAMPLES = 20000
FEWEST = 4
"""Records of a round: more than fit at once."""

OBJECTS = 32
"""How many are made to see what one takes."""

PATIENCE = 5.0
"""Seconds for a peer to end when it is told to, before it is killed."""


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


LINKS = _load("ipc_links").LINKS

clock = time.perf_counter_ns


class Peer:
    """A forked child on a CPU. What it is told is a number, for `serve`, whose result comes back."""

    def __init__(self, cpu: int, begin: Callable[[], None], serve: Callable[[int], Any]) -> None:
        """`begin` runs in the child first. `serve` is called there for each number, after `ready` was said."""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self._pending = b""
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._out)
                os.close(self._in)
                self._serve(cpu, begin, serve, theirs_in, theirs_out)
                status = 0
            except BaseException as error:
                with contextlib.suppress(OSError):
                    os.write(theirs_out, f"failed: {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(status)
        os.close(theirs_in)
        os.close(theirs_out)

    @staticmethod
    def _serve(cpu: int, begin: Callable[[], None], serve: Callable[[int], Any], source: int, sink: int) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.sched_setaffinity(0, {cpu})
        begin()
        with open(source, closefd=False) as lines:
            for line in lines:
                if line == "end\n":
                    return
                os.write(sink, b"ready\n")
                os.write(sink, f"{json.dumps(serve(int(line)))}\n".encode())

    def tell(self, number: int) -> None:
        """Returns when it has said that it begins."""
        os.write(self._out, f"{number}\n".encode())
        if (said := self._line()) != "ready":
            raise RuntimeError(f"the other process {said}")

    def _line(self) -> str:
        while b"\n" not in self._pending:
            chunk = os.read(self._in, 4096)
            if not chunk:
                raise RuntimeError("the other process ended")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def result(self) -> Any:
        """What `serve` returned; waits for it."""
        line = self._line()
        if line.startswith("failed"):
            raise RuntimeError(f"the other process {line}")
        return json.loads(line)

    def close(self) -> None:
        """Ends it, by a kill if need be, and reaps it."""
        with contextlib.suppress(OSError):
            os.write(self._out, b"end\n")
        deadline = time.monotonic() + PATIENCE
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                break
            time.sleep(0.001)
        os.close(self._out)
        os.close(self._in)


class Session:
    """Links and the processes at their other ends, for one kind, size and pair of CPUs."""

    def __init__(self, subject: str, number: int, name: str, size: int, theirs: int) -> None:
        self.measure: Callable[[int], Any] = getattr(self, f"_{subject}")
        self.number = number
        many = number if subject.startswith("fan") else 1
        self.links = [LINKS[name](size, many + 1) for _ in range(2 if subject == "rt" else 1)]
        self.link = self.links[0]
        if subject == "idle" and not self.link.WAITS:
            raise ValueError(f"{name} never waits")
        begin, serve = {
            "rt": (self._begin_echo, self._echo),
            "flow": (self._begin_sink, self._sink),
            "fan_in": (self._begin_source, self._source),
            "fan_out": (self._begin_sink, self._sink_all),
            "idle": (self._begin_sink, self._wait),
        }[subject]
        self.peers: list[Peer] = []
        try:
            for _ in range(many):
                self.peers.append(Peer(theirs, begin, serve))
            (self.link.open_receiver if subject == "fan_in" else self.link.open_sender)()
            if subject == "rt":
                self.links[1].open_receiver()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        for link in self.links:
            link.close()

    # ---- of the others ----

    def _begin_echo(self) -> None:
        self.links[0].open_receiver()
        self.links[1].open_sender()

    def _begin_source(self) -> None:
        self.link.open_sender()

    def _begin_sink(self) -> None:
        self.link.open_receiver()

    def _echo(self, count: int) -> None:
        get, put = self.links[0].get, self.links[1].put
        for _ in range(count):
            put(get())

    def _sink(self, count: int) -> None:
        self.link.get_all(count)

    def _sink_all(self, _: int) -> None:
        get = self.link.get
        while get():
            continue

    def _source(self, count: int) -> None:
        self.link.put_all(count)

    def _wait(self, count: int) -> tuple[int, int]:
        cpu, wall = time.process_time_ns(), clock()
        self.link.get_all(count)
        return time.process_time_ns() - cpu, clock() - wall

    # ---- of this process: each does `count` of it, and returns how long that took ----

    def _tell(self, count: int) -> None:
        for peer in self.peers:
            peer.tell(count)

    def _results(self) -> list[Any]:
        return [peer.result() for peer in self.peers]

    def _rt(self, count: int) -> list[int]:
        put, get, data = self.links[0].put, self.links[1].get, self.link.data
        samples = [0] * count
        self._tell(count)
        before = clock()
        for index in range(count):
            put(data)
            get()
            now = clock()
            samples[index] = now - before
            before = now
        self._results()
        return samples

    def _flow(self, count: int) -> int:
        self._tell(count)
        start = clock()
        self.link.put_all(count)
        self._results()
        return clock() - start

    def _fan_in(self, count: int) -> int:
        each = count // self.number + 1
        self._tell(each)
        start = clock()
        self.link.get_all(each * self.number)
        took = clock() - start
        self._results()
        return took * count // (each * self.number)

    def _fan_out(self, count: int) -> int:
        self._tell(count)
        start = clock()
        self.link.put_all(count)
        for _ in self.peers:
            self.link.put(b"")
        self._results()
        return clock() - start

    def _idle(self, ms: int) -> float:
        """Percent of a CPU."""
        count = ms // self.number + 1 if self.number else 1
        self._tell(count)
        for _ in range(count):
            time.sleep((self.number or ms) / 1e3)
            self.link.put(self.link.data)
        ((cpu, wall),) = self._results()
        return 100.0 * float(cpu) / float(wall)


# ---- what a round is ----


def _took(found: Any) -> int:
    return int(sum(found) if isinstance(found, list) else found)


def filled(call: Callable[[int], Any], ms: int, most: int, before: int = 0) -> tuple[int, int, Any]:
    """As many as fill the time: how many that was, how many it should be the next time, and what was found.

    The first time that is found by doing more and more; then it is what the last one said, as `before`.
    """
    budget, count = ms * 1_000_000, before or FEWEST
    while not before and (took := _took(call(count))) < budget // 3 and count < most:
        count = min(most, max(2 * count, min(16 * count, budget // (took // count + 1))))
    found = call(count)
    wanted = count * budget // max(1, _took(found))
    return count, min(most, max(FEWEST, count // 4, min(4 * count, wanted))), found


# ---- memory ----


def _pss_kib() -> int:
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _makers() -> dict[str, Callable[[], Any]]:
    import multiprocessing as mp

    import corelane as cl
    from corelane import shm

    whole = cl.Ring.create(4096)
    return {
        "ring": lambda: cl.Ring.create(4096),
        "ring_attached": lambda: cl.Ring.attach(whole),
        "queue": lambda: cl.Queue.create(16, 48, members=15),
        "array": lambda: shm.array((512,), "f8"),
        "mp_pipe": mp.Pipe,
        "mp_simple_queue": mp.SimpleQueue,
        "mp_queue": mp.Queue,
        "faster_fifo": lambda: importlib.import_module("faster_fifo").Queue(4096),
    }


def _measure_memory(name: str, _: int) -> tuple[float, float]:
    """KiB and descriptors of each, in a process that has made some already."""
    make = _makers()[name]
    kept = [make() for _ in range(OBJECTS)]
    gc.collect()
    kib, descriptors = _pss_kib(), len(os.listdir("/proc/self/fd"))
    kept += [make() for _ in range(OBJECTS)]
    found = (_pss_kib() - kib) / OBJECTS, (len(os.listdir("/proc/self/fd")) - descriptors) / OBJECTS
    assert len(kept) == 2 * OBJECTS
    return found


def memory(name: str, mine: int) -> tuple[float, float]:
    """The same, in a child."""
    child = Peer(mine, lambda: None, functools.partial(_measure_memory, name))
    try:
        child.tell(0)
        kib, descriptors = child.result()
        return kib, descriptors
    finally:
        child.close()


# ---- death ----


@contextlib.contextmanager
def _victim(cpu: int, begin: Callable[[], Any]) -> Iterator[int]:
    """A child that does something and then nothing more; it is reaped, and killed if it was not."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.sched_setaffinity(0, {cpu})
            kept = begin()
            os.write(theirs, b"x")
            while kept is not os:
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(theirs)
        if not os.read(ours, 1):
            raise RuntimeError("the one to be killed did not come so far")
        yield pid
    finally:
        os.close(ours)
        os.kill(pid, signal.SIGKILL)  # it is not reaped yet, so this is nobody else
        os.waitpid(pid, 0)


def _after_the_kill(pid: int, ms: int, wait: Callable[[], Any]) -> float:
    """Milliseconds from the end of a process to the end of `wait`, which began so long before."""
    at = [0]

    def kill() -> None:
        time.sleep(ms / 1e3)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        at[0] = clock()

    killer = threading.Thread(target=kill)
    killer.start()
    wait()
    end = clock()
    killer.join()
    return max(0.0, (end - at[0]) / 1e6)


def death(kind: str, ms: int, theirs: int) -> float:
    """A survivor waits, and the one it waits for is killed after `ms` milliseconds: how long it waits then."""
    import corelane as cl
    from corelane.errors import PeerDied

    if kind == "ring":
        with cl.Ring.create(4096) as ring:

            def wait() -> None:
                with contextlib.suppress(PeerDied):
                    ring.get(timeout=30.0)

            with _victim(theirs, lambda: ring.take("producer")) as pid:
                return _after_the_kill(pid, ms, wait)
    # Where it is put anew, what a dead consumer had is in the way of nobody but the next consumer.
    with cl.Queue.create(4, 8, delivery="at-most-once" if kind == "full" else "at-least-once") as queue:
        for _ in range({"producer": 0, "consumer": 1, "full": queue.slots}[kind]):
            queue.put(b"x")

        def begin() -> Any:
            queue.register()
            return queue.reserve() if kind == "producer" else queue.peek()

        with _victim(theirs, begin) as pid:
            if kind == "producer":
                queue.put(b"y")  # behind the slot
            again = functools.partial(queue.put, b"z") if kind == "full" else queue.get
            return _after_the_kill(pid, ms, lambda: again(timeout=30.0))


# ---- commands ----

_sessions: dict[tuple[str, int, int], Session] = {}
_counts: dict[tuple[str, int, int], int] = {}


def run(kind: str, ms: int, size: int, mine: int, theirs: int) -> dict[str, Any]:
    """One round; raises what the contender raises. Of deaths, MS is when, and SIZE how many."""
    os.sched_setaffinity(0, {mine})
    subject, *rest = kind.split("/")
    name, number = rest[-1], int(rest[0]) if len(rest) > 1 else 0
    if subject == "memory":
        return {"value": memory(name, mine)}
    if subject == "death":
        return {"values": [death(name, (ms + 37 * turn) % 100 + 10, theirs) for turn in range(size)]}
    if subject not in ("rt", "flow", "fan_in", "fan_out", "idle") or name not in LINKS:
        raise ValueError(f"no such kind: {kind!r}")
    key = (kind, size, theirs)
    if key not in _sessions:
        _sessions[key] = Session(subject, number, name, size, theirs)
    measure = _sessions[key].measure
    if subject == "idle":
        return {"value": measure(ms)}
    if key not in _counts:
        measure(1)  # what happens once, as connecting, is no part of it
    most = MOST_SAMPLES if subject == "rt" else 1 << 40
    count, _counts[key], found = filled(measure, ms, most, _counts.get(key, 0))
    if subject == "rt":
        return {"ns": found, "wall_ns": sum(found), "cpu_ns": 0}
    return {"value": found / count}


def end() -> dict[str, Any]:
    """Ends all sessions."""
    _counts.clear()
    while _sessions:
        _sessions.popitem()[1].close()
    return {"ok": 1}


def answer(line: str) -> dict[str, Any]:
    """Obeys one line."""
    command, *words = line.split()
    if command == "end":
        return end()
    if command != "run" or len(words) != 5:
        raise ValueError("commands: run KIND MS SIZE CPU CPU, end")
    kind, *numbers = words
    ms, size, mine, theirs = map(int, numbers)
    return run(kind, ms, size, mine, theirs)


def main() -> None:
    """Serves commands until stdin ends."""
    try:
        for line in sys.stdin:
            try:
                reply = answer(line)
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply), flush=True)
    finally:
        end()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
