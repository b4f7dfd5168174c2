"""Rings from Python: records in and out by every road, both sides waiting, one that dies, one that is forked, one
that is scribbled on; the fast calls and the slow ones say the same."""

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import mmap
import multiprocessing
import os
import pickle
import queue
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import PATIENCE, needs_linux, needs_reopening, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

import corelane as cl
from corelane import shm
from corelane._ffi import ffi, lib
from corelane.shm import around
from corelane.shm import ring as ring_module
from corelane.shm import ring_claims as claims_module

pytestmark = needs_linux


@pytest.fixture
def ring():
    with cl.Ring.create(1) as made:
        yield made


@contextlib.contextmanager
def another(code, ring, *args, **options):
    """A program that has a ring of its own as `ring`, and stdout as a pipe; killed at the end."""
    start = f"import corelane as cl, os, sys, time\nring = cl.Ring.attach({ring.segment.fileno()})\n"
    given = {"pass_fds": [ring.segment.fileno()], "stdout": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen([sys.executable, "-c", start + code, *args], **given)
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()


def line_of(process):
    return process.stdout.readline().strip()


# ---- in and out ----


def test_records_come_out_as_they_went_in(ring):
    assert (ring.capacity, ring.largest) == (os.sysconf("SC_PAGESIZE"), os.sysconf("SC_PAGESIZE") - 8)
    sent = [b"", b"x", b"12345678", bytes(range(256)) * 8]
    for record in sent:
        ring.put(record)
    assert [ring.get() for _ in sent] == sent
    for kind in (bytearray, memoryview, lambda data: np.frombuffer(data, "u1")):
        ring.put_nowait(kind(b"abc"))
        assert ring.get_nowait() == b"abc"


def test_a_buffer_of_wider_elements_is_its_bytes(ring):
    values = np.arange(4, dtype="<i8")
    ring.put(values)
    assert ring.get() == values.tobytes()


@pytest.mark.parametrize("bad", ["text", 3, None, np.zeros((4, 4))[:, 1]])
def test_what_is_no_buffer_of_bytes_is_refused(ring, bad):
    with pytest.raises((TypeError, ValueError, BufferError)):
        ring.put(bad)
    with pytest.raises((TypeError, ValueError, BufferError)):
        ring.put_many([b"good", bad])
    assert ring.get_many(10) == [b"good"]  # what came before it was put


def test_full_and_empty_are_typed_and_name_the_ring(ring):
    with pytest.raises(cl.QueueEmpty, match="Ring of"):
        ring.get_nowait()
    began = time.monotonic()
    with pytest.raises(cl.QueueEmpty):
        ring.get(timeout=0.02)
    with pytest.raises(cl.QueueEmpty):
        ring.get(0)
    assert time.monotonic() - began >= 0.02
    ring.put(bytes(ring.largest))
    with pytest.raises(cl.QueueFull, match="5 bytes"):
        ring.put_nowait(b"12345")
    with pytest.raises(cl.QueueFull):
        ring.put(b"12345", timeout=0.01)
    with pytest.raises(cl.QueueFull):
        ring.reserve(1, timeout=0)
    assert issubclass(cl.QueueFull, cl.ShmError)
    again = pickle.loads(pickle.dumps(cl.QueueFull("why", 3)))
    assert (str(again), again.done) == ("why", 3)
    again = pickle.loads(pickle.dumps(cl.PeerDied("why", 3)))
    assert (str(again), again.pid) == ("why", 3)


def test_many_at_once(ring):
    records = [bytes([i]) * i for i in range(20)]
    ring.put_many(iter(records))
    assert ring.get_many(5) == records[:5]
    assert ring.get_many(100) == records[5:]
    ring.put_many([])
    with pytest.raises(cl.QueueFull) as caught:
        ring.put_many([bytes(1000)] * 10, timeout=0.01)
    assert caught.value.done == 4
    assert len(ring.get_many(100)) == 4
    assert ring.stats().producer.records == 24


def test_records_of_an_array(ring):
    table = np.zeros(50, [("when", "f8"), ("id", "<i4"), ("name", "S5")])
    table["id"] = range(50)
    table["name"] = b"abc"
    ring.records_in(table)
    back = ring.records_out(table.dtype, 30)
    assert (back == table[:30]).all()
    assert (ring.records_out(table.dtype, 100, timeout=1) == table[30:]).all()
    rows = np.arange(12, dtype="f4").reshape(3, 4)
    ring.records_in(rows)
    assert ring.get() == rows[0].tobytes()
    assert ring.get_many(2) == [row.tobytes() for row in rows[1:]]
    ring.records_in(rows[:, ::2])  # not contiguous
    assert ring.get() == rows[0, ::2].tobytes()
    ring.get_many(2)
    ring.records_in(np.array(["2026-01-01"], "M8[s]"))
    assert ring.records_out("M8[s]", 1)[0] == np.datetime64("2026-01-01")
    ring.records_in(np.zeros((0, 4)))
    with pytest.raises(cl.QueueEmpty):
        ring.records_out("f8", 1, timeout=0)


def test_records_that_are_none(ring):
    with pytest.raises(TypeError, match="Python objects"):
        ring.records_in(np.array([object()]))
    with pytest.raises(TypeError, match="Python objects"):
        ring.records_out(object, 1)
    with pytest.raises(ValueError, match="axis"):
        ring.records_in(np.array(3))
    with pytest.raises(TypeError, match="must be a numpy array, not b'1234'"):
        ring.records_in(b"1234")
    with pytest.raises(ValueError, match="a size"):
        ring.records_out("V0", 1)
    ring.put(b"123")
    with pytest.raises(ValueError, match="3 bytes, not the 8"):
        ring.records_out("f8", 1)
    assert ring.get() == b"123"


def test_a_record_is_written_and_read_where_it_lies(ring):
    with ring.reserve(10) as view:
        view[:5] = b"hello"
        view[5:] = b"world"
    reserved = ring.reserve(10)
    reserved.view[:2] = b"ab"
    reserved.commit(2)
    with pytest.raises(ValueError, match="done with"):
        reserved.commit()
    with pytest.raises(ValueError, match="released"):
        reserved.view[0]
    with pytest.raises(ZeroDivisionError), ring.reserve(3):
        raise ZeroDivisionError
    with ring.peek() as view:
        assert bytes(view) == b"helloworld"
        assert view.readonly
    with pytest.raises(ZeroDivisionError), ring.peek():
        raise ZeroDivisionError
    assert ring.get() == b"ab"
    with pytest.raises(cl.QueueEmpty):
        ring.peek(timeout=0)
    with pytest.raises(ValueError, match="size"):
        ring.reserve(-1)


def test_one_thing_at_a_time(ring):
    with ring.reserve(8) as view:
        view[:] = b"12345678"
        for call in (lambda: ring.put(b"x"), lambda: ring.put_many([b"x"]), lambda: ring.reserve(1)):
            with pytest.raises(RuntimeError, match="was not committed"):
                call()
    with ring.peek():
        for call in (ring.get, lambda: ring.get_many(1), ring.peek, lambda: ring.records_out("f8", 1)):
            with pytest.raises(RuntimeError, match="looked at"):
                call()
    assert ring.stats().depth == 0
    dropped = ring.reserve(8)
    del dropped
    ring.put(b"after")
    assert ring.get() == b"after"


@pytest.mark.slow
def test_ctrl_c_anywhere_leaves_both_sides_usable(ring):
    """An exception between any two steps of the program."""

    def raise_at(count):
        def trace(frame, event, argument):
            nonlocal count
            frame.f_trace_opcodes = True
            told = frame.f_code.co_name in ("_free", "__del__")  # which can raise nothing
            count -= frame.f_code.co_filename in (ring_module.__file__, claims_module.__file__) and not told
            if count < 0 and not told:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        return trace

    before, count, interrupted = sys.gettrace(), 0, True
    while interrupted:
        interrupted = False
        try:
            sys.settrace(raise_at(count))
            with ring.reserve(8) as view:
                view[:] = b"12345678"
            with ring.peek() as view:
                assert view == b"12345678"
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        view = None
        for record in iter(lambda: None if ring.stats().depth == 0 else ring.get_nowait(), None):
            assert record == b"12345678"
        ring.put(b"next")
        assert ring.get() == b"next"
        count += 1
    assert count > 100


def test_ctrl_c_does_not_let_go_of_what_another_thread_holds(ring):
    """Just before the call that would have been refused."""

    def profile(frame, event, what):
        if event == "c_call" and getattr(what, "__name__", "") in ("_reserve", "_peek"):
            raise KeyboardInterrupt

    def interrupted(call):
        sys.setprofile(profile)
        try:
            with pytest.raises(KeyboardInterrupt):
                call()
        finally:
            sys.setprofile(None)

    ring.put(b"first")
    held = []
    thread = threading.Thread(target=lambda: held.extend([ring.reserve(5), ring.peek()]))
    thread.start()
    thread.join()
    for _ in range(2):
        interrupted(lambda: ring.reserve(5))
        interrupted(ring.peek)
        with pytest.raises(RuntimeError, match="a reserved record was not committed yet"):
            ring.put(b"other")
        with pytest.raises(RuntimeError, match="a record is being looked at"):
            ring.get()
    held[0].view[:] = b"whole"
    held[0].commit()
    assert held[1].view == b"first"
    held[1].release()
    assert ring.get() == b"whole"


def test_a_view_keeps_the_memory(ring):
    with cl.Ring.create(1) as short:
        short.put(b"kept")
        peeked = short.peek()
        array = np.frombuffer(peeked.view, "u1")
        short.close()
        del short, peeked
        gc.collect()
        assert bytes(array) == b"kept"


class _Holder:
    """In a cycle with what it uses at its end."""

    ended = 0

    def __init__(self, *held):
        self.held, self.me = held, self

    def __del__(self):
        for each in self.held:
            if isinstance(each, memoryview):
                bytes(each)
            else:
                each.close()
        _Holder.ended += 1


@pytest.mark.parametrize(("call", "other"), [("_reserve(10)", "put_nowait(b'')"), ("_peek()", "get_nowait()")])
def test_a_finalizer_that_uses_the_ring_meanwhile_is_refused(call, other):
    # Before Python 3.12 the collector runs when something is made: the view, too. It waited for itself, for ever.
    code = f"""
import gc, corelane as cl
class Cycle:
    def __init__(self): self.me = self
    def __del__(self):
        try: ring.{other}
        except RuntimeError: pass
ring = cl.Ring.create(4096)
ring.put(b"none")
ring.get()
ring.put(b"first")
gc.collect()
gc.disable()
Cycle()
gc.set_threshold(1)
gc.enable()
view = ring.{call}
gc.disable()
print(len(view))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.split() == ["10" if "reserve" in call else "5"]


def test_a_cycle_is_collected_in_a_safe_order():
    before = _Holder.ended
    for _ in range(5):
        ring = cl.Ring.create(2**20)
        ring.put(b"x")
        with ring.peek() as view:
            holder = _Holder(ring, memoryview(view), ring.segment.buf)
        holder.reserved = ring.reserve(8)
        with cl.Ring.create(2**20).reserve(8) as view:
            _Holder(memoryview(view))
        del ring, holder
        gc.collect()
    assert _Holder.ended == before + 10


def test_a_buffer_that_grows_while_it_waits_burns_nothing():
    """It waits for the room that it needs now, not for what it needed when it was given."""
    with cl.Ring.create(8192) as first, cl.Ring.attach(first) as second, cl.Ring.attach(first) as consumer:
        for _ in range(3):
            first.put(bytes(2000))
        consumer.take("consumer")
        first.close()
        data, burnt = bytearray(3000), []

        def put():  # its first one, which takes the side
            began = time.thread_time()
            with contextlib.suppress(cl.QueueFull):
                second.put(data, timeout=0.5)
            burnt.append(time.thread_time() - began)

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(0.1)
        data.extend(bytes(3000))
        consumer.get()
        thread.join()
        assert burnt[0] < 0.1


def test_a_full_ring_and_its_policy():
    record = bytes(1000)  # four of them fit
    with cl.Ring.create(4096, policy="fail") as ring:
        with pytest.raises(cl.QueueFull) as caught:
            ring.put_many([record] * 6, timeout=PATIENCE)
        assert caught.value.done == 4
        with pytest.raises(cl.QueueFull):
            ring.put(record)
        assert (ring.policy, len(ring.get_many(9)), ring.stats().dropped) == ("fail", 4, 0)
    with cl.Ring.create(4096, policy="drop-new") as ring:
        ring.put_many([b"%d" % i + record for i in range(6)])
        ring.put(b"6" + record)
        ring.put_nowait(b"7" + record)
        asyncio.run(ring.aput(b"8" + record))
        ring.put(b"small")  # what fits is not dropped
        assert ring.stats().dropped == 5
        assert [got[:1] for got in ring.get_many(9)] == [b"0", b"1", b"2", b"3", b"s"]
        ring.records_in(np.zeros((6, 125), "f8"))
        assert (len(ring.records_out((np.void, 1000), 9)), ring.stats().dropped) == (4, 7)
        with pytest.raises(ValueError, match="timeout"):
            ring.put(record, -1)
        assert cl.Ring.attach(ring, policy="drop-new", readonly=True).policy == "drop-new"
    with pytest.raises(ValueError, match="policy must be one of block, fail, drop-new, not 'drop-old'"):
        cl.Ring.create(4096, policy="drop-old")


def test_what_a_dead_consumer_will_never_get_is_not_dropped():
    with cl.Ring.create(4096, policy="drop-new") as ring:
        pid = os.fork()
        if pid == 0:
            with cl.Ring.attach(ring) as own:
                own.take("consumer")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(cl.PeerDied):
            ring.put_many([bytes(1000)] * 6)
        assert ring.stats().dropped == 0


def test_what_never_fits_names_both_sizes(ring):
    for call in (ring.put, ring.put_nowait, lambda data: ring.put_many([data]), lambda data: ring.reserve(len(data))):
        with pytest.raises(ValueError, match=rf"{ring.capacity} bytes never fits.*largest has {ring.largest}"):
            call(bytes(ring.capacity))
    ring.put(bytes(ring.largest))


@pytest.mark.parametrize("bad", [-1, float("nan"), -0.1])
def test_a_timeout_that_is_none(ring, bad):
    ring.put(b"x")  # it would not have to wait
    for call in (
        lambda: ring.get(bad),
        lambda: ring.get(timeout=bad),
        lambda: ring.put(b"x", bad),
        lambda: ring.put(b"x", timeout=bad),
        lambda: ring.put_many([], bad),
        lambda: ring.get_many(1, bad),
        lambda: ring.reserve(1, bad),
        lambda: ring.peek(bad),
    ):
        with pytest.raises(ValueError, match="timeout"):
            call()
    with pytest.raises(TypeError, match="timeout"):
        ring.get(timeout="soon")
    assert ring.get(timeout=1e300) == b"x"


def test_wrong_arguments(ring):
    for call in (ring.put, lambda: ring.put(b"x", 1, 2), lambda: ring.put(b"x", time=3), lambda: ring.get(1, 2)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="most"):
        ring.get_many(0)
    with pytest.raises(ValueError, match="side"):
        ring.take("both")
    with pytest.raises(ValueError, match="never opened"):
        cl.Ring.__new__(cl.Ring).put(b"x")


@pytest.mark.parametrize("capacity", [0, -1, 2**62 + 1])
def test_a_capacity_that_cannot_be(capacity):
    with pytest.raises(ValueError, match="capacity"):
        cl.Ring.create(capacity)


def test_a_capacity_larger_than_memory_is_refused():
    with pytest.raises((OSError, ValueError)):
        cl.Ring.create(2**40)
    with pytest.raises(TypeError):
        cl.Ring.create("big")


def test_a_large_record_leaves_the_gil():
    with cl.Ring.create(2**23) as ring:
        data = os.urandom(3_000_000)
        ring.put(data)
        ring.put(data[:200_000])
        assert ring.get() == data
        assert ring.get() == data[:200_000]


# ---- two sides ----


def test_another_program_gets_what_we_put(ring):
    with another("for record in ring: print(record.decode(), flush=True)\nprint('end', flush=True)", ring) as process:
        ring.put(b"one")
        assert line_of(process) == "one"
        ring.put_many([b"two", b"three"])
        assert [line_of(process) for _ in range(2)] == ["two", "three"]
        ring.close()
        assert line_of(process) == "end"
        assert process.wait(PATIENCE) == 0


def test_by_name_and_by_handle(name):
    with cl.Ring.create(100, name) as ring, cl.Ring.attach(name) as by_name, cl.Ring.attach(ring.handle) as by_handle:
        by_name.put(b"x")
        assert by_handle.get() == b"x"
        again = pickle.loads(pickle.dumps(by_handle))
        assert again.stats().producer.records == 1
        assert {entry.name: entry.kind for entry in around.list_segments()}[name] == "ring"
    with pytest.raises(FileNotFoundError):
        cl.Ring.attach(name)


def _put_numbers(ring, count):
    for i in range(count):
        ring.put(i.to_bytes(4, "little"))


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("spin", [0, None])
def test_multiprocessing_takes_it_and_its_end_is_a_close(method, spin):
    with cl.Ring.create(1, spin=spin) as ring:
        process = multiprocessing.get_context(method).Process(target=_put_numbers, args=(ring, 20_000))
        process.start()
        assert [int.from_bytes(record, "little") for record in ring] == list(range(20_000))
        process.join(PATIENCE)
        assert process.exitcode == 0
        assert ring.stats().producer.state == "closed"


def test_two_producers_are_detected(ring):
    with pickle.loads(pickle.dumps(ring)) as other:
        ring.put(b"x")
        with pytest.raises(cl.SideTaken, match="has a producer") as caught:
            other.put(b"y")
        assert caught.value.pid == os.getpid()
        assert other.get() == b"x"
        with pytest.raises(cl.SideTaken, match="has a consumer"):
            ring.get()
        other.close()
        with pytest.raises(cl.Closed, match=r"consumer.*nobody will get"):
            ring.put(b"x")
        assert ring.take("consumer") is None
        ring.put(b"x")


def test_closed_is_not_empty(ring):
    other = cl.Ring.attach(ring)
    ring.put(b"last")
    ring.close()
    assert ring.closed
    ring.close()
    for call in (
        lambda: ring.put(b"x"),
        ring.get,
        ring.stats,
        ring.fileno,
        ring.segment.fileno,
        lambda: ring.reserve(1),
        ring.peek,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert other.get() == b"last"
    for call in (
        other.get,
        other.get_nowait,
        lambda: other.get_many(3),
        lambda: other.records_out("f8", 1),
        other.peek,
    ):
        with pytest.raises(cl.Closed, match=r"producer.*all that it had put"):
            call()
    assert list(other) == []
    other.close()


def test_one_that_is_dropped_has_closed(ring):
    dropped = cl.Ring.attach(ring)
    dropped.put(b"x")
    del dropped
    gc.collect()
    assert list(ring) == [b"x"]


def test_closing_wakes_a_thread_that_waits(ring):
    ended = []

    def wait():
        with contextlib.suppress(ValueError, cl.ShmError):
            ring.get()
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: ring.stats().consumer.state == "open", "the thread to wait")
    ring.close()
    thread.join(PATIENCE)
    assert ended


@pytest.mark.slow
def test_threads_that_take_a_side_at_once_take_it_once():
    for _ in range(1500):
        with cl.Ring.create(1) as ring:
            start, told = threading.Barrier(3), []

            def take(ring=ring, start=start, told=told):
                start.wait()
                told.append(ring.take("consumer"))

            threads = [threading.Thread(target=take) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert told == [None, None, None]  # and not ourselves, dead


def test_closing_waits_for_a_copy_that_is_under_way():
    large = bytes(2**26)
    with cl.Ring.create(2**27) as ring:
        other = cl.Ring.attach(ring)
        ring.take("producer")
        failed = []

        def put():
            try:
                ring.put(large)
            except ValueError:
                failed.append(True)

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(0.005)  # it copies by now, or will find the ring closed
        ring.close()
        # What is put is put before the side falls free: whoever takes it then is alone on it.
        there = other.stats().producer.records
        other.take("producer")
        thread.join()
        assert there + len(failed) == 1
        assert other.stats().producer.records == there


def test_threads_of_one_program_may_share_a_handle():
    total, most = 4000, 200_000
    with cl.Ring.create(2**20) as ring:
        got = queue.SimpleQueue()

        def put(thread):
            for i in range(total):
                ring.put(bytes([thread]) * (most if i % 1000 == 0 else i % 50 + 1))

        def get():
            for _ in range(total):
                record = ring.get(timeout=PATIENCE)
                got.put((record[0], len(record), len(set(record))))

        threads = [threading.Thread(target=put, args=(i,)) for i in range(2)]
        threads += [threading.Thread(target=get) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [got.get() for _ in range(2 * total)]
    assert all(kinds == 1 for _, _, kinds in found)
    assert sum(size for _, size, _ in found) == 2 * sum(most if i % 1000 == 0 else i % 50 + 1 for i in range(total))


def test_stats_of_anyone(ring, name):
    with cl.Ring.create(100, name) as named, cl.Ring.attach(name, readonly=True) as looking:
        assert looking.stats().producer.state == "free"
        named.put(b"12345")
        stats = looking.stats()
        assert (stats.depth, stats.capacity) == (16, named.capacity)
        assert (stats.producer.records, stats.producer.bytes, stats.producer.pid) == (1, 5, os.getpid())
        assert (stats.producer.state, stats.consumer.state) == ("open", "free")
        with pytest.raises(PermissionError, match="read-only"):
            looking.get()
        with pytest.raises(cl.QueueFull):
            named.put(bytes(named.largest), timeout=0.01)
        assert looking.stats().producer.waits >= 1
        named.get()
        assert looking.stats().consumer.bytes == 5


def test_spin_is_settable_and_zero_is_honoured():
    with pytest.raises(ValueError, match="spin"):
        cl.Ring.create(1, spin=-1)
    try:
        shm.set_default_spin(0)
        assert shm.default_spin() == 0
        shm.set_default_spin(0.001)
        assert shm.default_spin() == 0.001
    finally:
        shm.set_default_spin(None)
    assert 0 <= shm.default_spin() <= 1e-3


@pytest.mark.parametrize(
    ("cpus", "quota", "spin"), [((0, 1), None, 50e-6), ((0, 1), 2.0, 50e-6), ((3,), None, 0), ((0, 1, 2, 3), 1.5, 0)]
)
def test_nobody_spins_by_default_where_the_other_side_could_not_run(monkeypatch, cpus, quota, spin):
    monkeypatch.setattr("corelane.cpu.budget", lambda **_: types.SimpleNamespace(cpus=cpus, quota=quota))
    shm.set_default_spin(None)
    assert shm.default_spin() == spin


def test_an_idle_waiter_costs_no_cpu():
    """Gaps of 5 ms: the wait is asleep, not spinning. Without the limit it would use all of them."""
    with cl.Ring.create(1) as ring:
        code = (
            "import resource\nring.get()\ndef cpu():\n    u = resource.getrusage(resource.RUSAGE_SELF)\n"
            "    return u.ru_utime + u.ru_stime\n"
            "start = cpu()\nfor record in ring: pass\nprint(cpu() - start, flush=True)\n"
        )
        with another(code, ring) as process:
            ring.put(b"begin")
            began = time.monotonic()
            for _ in range(100):
                time.sleep(0.005)
                ring.put(b"x")
            took = time.monotonic() - began
            ring.close()
            assert float(line_of(process)) < 0.2 * took


# ---- death, stopping, forking, signals ----


def test_a_producer_that_is_killed_is_told_of_after_what_it_had_put(ring):
    code = "ring.put(b'one'); ring.put(b'two'); print('ready', flush=True); r = ring.reserve(8); time.sleep(60)"
    with another(code, ring) as process:
        assert line_of(process) == "ready"
        ring.take("consumer")
        process.kill()
        process.wait()
        assert ring.get() == b"one"
        assert ring.get() == b"two"
        for call in (ring.get, ring.get_nowait, lambda: ring.get_many(2), ring.peek, lambda: next(iter(ring))):
            with pytest.raises(cl.PeerDied, match=rf"producer, process {process.pid}") as caught:
                call()
            assert caught.value.pid == process.pid
        assert ring.stats().producer.state == "dead"
    with cl.Ring.attach(ring) as successor:
        assert successor.take("producer") == process.pid
        assert successor.predecessors == {"producer": process.pid}
        successor.put(b"three")
        assert ring.get() == b"three"


def test_a_sleeper_learns_of_a_death_in_time(ring):
    with another("ring.take('producer'); print('ready', flush=True); time.sleep(60)", ring) as process:
        assert line_of(process) == "ready"
        killed = []

        def kill():
            wait_until(lambda: ring.stats().consumer.state == "open", "the consumer")
            time.sleep(0.15)  # past the first look of its sleep
            killed.append(time.monotonic())
            process.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(cl.PeerDied):
            ring.get(timeout=PATIENCE)
        took = time.monotonic() - killed[0]
        thread.join()
        assert took < 2  # 100 ms, and what a busy machine adds


def test_a_consumer_that_is_killed(ring):
    with another("ring.take('consumer'); print('ready', flush=True); time.sleep(60)", ring) as process:
        assert line_of(process) == "ready"
        ring.put(bytes(ring.largest))
        process.kill()
        process.wait()
        with pytest.raises(cl.PeerDied, match=r"full.*consumer"):
            ring.put(b"x")
        with pytest.raises(cl.PeerDied):
            ring.put_nowait(b"x")
    with cl.Ring.attach(ring) as successor:
        assert successor.get() == bytes(ring.largest)
        assert successor.predecessors == {"consumer": process.pid}


def test_a_stopped_one_is_not_dead(ring):
    with another(
        "ring.take('producer'); print('ready', flush=True); ring.put(sys.stdin.read().encode())",
        ring,
        stdin=subprocess.PIPE,
    ) as process:
        assert line_of(process) == "ready"
        os.kill(process.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it to stop")
        with pytest.raises(cl.QueueEmpty, match=f"its producer, process {process.pid}, is slow or stopped, and alive"):
            ring.get(timeout=0.25)
        with pytest.raises(cl.SideTaken):
            ring.take("producer")
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("alive")
        process.stdin.close()
        assert ring.get(timeout=PATIENCE) == b"alive"


def test_who_keeps_it_full_is_named(ring):
    with pytest.raises(cl.QueueFull, match="bytes in time: it has no consumer"):
        ring.put_many([bytes(1000)] * ring.capacity, timeout=0.01)
    with cl.Ring.attach(ring) as consumer:
        consumer.take("consumer")
        with pytest.raises(cl.QueueFull, match=f"its consumer, process {os.getpid()}, is slow or stopped, and alive"):
            ring.put(bytes(1000), timeout=0.01)


def test_a_forked_child_has_no_side_of_its_parents(ring):
    ring.put(b"parent's")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(cl.ShmError, match="forked"):
                ring.put(b"child's")
            with cl.Ring.attach(ring) as anew:
                with pytest.raises(cl.SideTaken):
                    anew.put(b"child's")
                assert anew.get() == b"parent's"
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    ring.take("consumer")
    ring.put(b"more")
    assert ring.get() == b"more"


def test_ctrl_c_ends_a_wait(ring):
    code = (
        "print('ready', flush=True)\ntry:\n    ring.get()\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)"
    )
    with another(code, ring) as process:
        assert line_of(process) == "ready"
        wait_until(lambda: ring.stats().consumer.state == "open", "it to wait")
        os.kill(process.pid, signal.SIGINT)
        assert line_of(process) == "interrupted"


@pytest.mark.parametrize(
    ("side", "call"),
    [
        ("consumer", "ring.get()"),
        ("consumer", "ring.get(timeout=600)"),
        ("producer", "ring.put(b'x' * ring.largest)"),
        ("producer", "ring.put(b'x' * ring.largest, timeout=600)"),
    ],
)
def test_ctrl_c_ends_a_wait_of_a_side_that_is_taken(ring, side, call):
    """Which is another one: in C, from its beginning."""
    code = (
        f"ring.take({side!r})\nif {side!r} == 'producer':\n    ring.put(b'x' * ring.largest)\n"
        f"try:\n    print('ready', flush=True)\n    {call}\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)"
    )
    with another(code, ring) as process:
        assert line_of(process) == "ready"
        wait_until(lambda: getattr(ring.stats(), side).waits > 0, "it to wait")
        os.kill(process.pid, signal.SIGINT)
        assert line_of(process) == "interrupted"


def test_a_signal_does_not_lengthen_a_wait(ring):
    seen = []
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        began = time.monotonic()
        with pytest.raises(cl.QueueEmpty):
            ring.get(timeout=0.2)
        took = time.monotonic() - began
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert took >= 0.2
    assert len(seen) > 3


@pytest.mark.slow
def test_killed_again_and_again(ring):
    """A producer is killed at random moments, fifteen times; each successor goes on, and no record is torn."""
    code = (
        "import random\nring.take('producer')\nprint('ready', flush=True)\n"
        "while True:\n    b = random.randrange(256); ring.put(bytes([b]) * random.randrange(1, 300))"
    )
    for turn in range(15):
        with another(code, ring) as process:
            assert line_of(process) == "ready"
            deadline = time.monotonic() + 0.003 * (turn % 5)
            while time.monotonic() < deadline:
                with contextlib.suppress(cl.QueueEmpty):
                    assert len(set(ring.get(timeout=0.001))) == 1
            process.kill()
            process.wait()
            with contextlib.suppress(cl.PeerDied):
                while len(set(ring.get())) == 1:
                    pass
                pytest.fail("a torn record")


# ---- strangers ----


def _scribble(ring, at, value):
    report = ffi.new("cl_segment_report *")
    lib.cl_segment_report_of(ring._segment._core, report)
    ctypes.c_uint64.from_address(int(ffi.cast("uintptr_t", report.data)) + at).value = value


@pytest.mark.parametrize(("at", "value", "why"), [(0, 2**40, "apart"), (0, 12, "no multiple of 8")])
def test_what_cannot_be_is_corrupted(ring, at, value, why):
    ring.put(b"x")
    _scribble(ring, at, value)
    for _ in range(2):
        with pytest.raises(cl.Corrupted, match=why):
            ring.get()
    with pytest.raises(cl.Corrupted):
        ring.stats() and ring.put(b"x")


def test_a_length_that_cannot_be_is_corrupted(ring):
    with ring.reserve(8) as view:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    ctypes.c_uint64.from_address(address - 8).value = 2**63
    with pytest.raises(cl.Corrupted, match="9223372036854775808 bytes"):
        ring.get()


def test_what_is_no_ring_is_refused(name):
    with shm.Segment.create(10, name), pytest.raises(cl.Corrupted, match="kind bytes, not ring"):
        cl.Ring.attach(name)
    with cl.Ring.create(10, name) as ring:
        ring._segment._about[:8] = (12345).to_bytes(8, "little")
        with pytest.raises(cl.Corrupted, match="does not say what ring"):
            cl.Ring.attach(name)
    with pytest.raises(TypeError):
        cl.Ring.attach(3.5)


# ---- under an event loop ----


def test_both_sides_under_a_loop(ring):
    async def produce():
        for i in range(300):
            await ring.aput(bytes(i))
        ring_again.close()

    async def main():
        task = asyncio.create_task(produce())
        sizes = [len(await ring.aget(timeout=PATIENCE)) for _ in range(300)]
        await task
        with pytest.raises(cl.QueueEmpty):
            await ring.aget(timeout=0.02)
        return sizes

    ring_again = cl.Ring.attach(ring)
    assert asyncio.run(main()) == list(range(300))


def test_a_selector_is_told(ring):
    code = (
        "ring.take('producer')\nfor line in sys.stdin:\n    ring.put_many([line.strip().encode()] * 3)\n"
        "    print('put', flush=True)\nring.close()"
    )
    with another(code, ring, stdin=subprocess.PIPE) as process, selectors.DefaultSelector() as selector:
        selector.register(ring, selectors.EVENT_READ)
        assert selector.select(PATIENCE)  # at first, so that what was there before is found
        for word in ("one", "two"):
            with pytest.raises(cl.QueueEmpty):
                ring.get_nowait()
            assert not selector.select(0)
            process.stdin.write(word + "\n")
            process.stdin.flush()
            assert selector.select(PATIENCE)
            assert line_of(process) == "put"
            assert ring.get_many(10) == [word.encode()] * 3
        with pytest.raises(cl.QueueEmpty):
            ring.get_nowait()
        process.stdin.close()
        assert selector.select(PATIENCE)
        with pytest.raises(cl.Closed):
            ring.get_nowait()
        selector.unregister(ring)


def test_a_producer_waits_in_a_selector(ring):
    with cl.Ring.attach(ring) as consumer, selectors.DefaultSelector() as selector:
        ring.take("producer")
        consumer.take("consumer")
        selector.register(ring, selectors.EVENT_READ)
        with pytest.raises(cl.QueueFull):
            ring.put_many([bytes(100)] * 100, timeout=0)
        with pytest.raises(cl.QueueFull):
            ring.put_nowait(bytes(100))
        assert not selector.select(0)
        consumer.get_many(1000)
        assert selector.select(PATIENCE)
        ring.put_nowait(b"x")


@needs_reopening
def test_a_bell_of_somebody_elses_stays_silent(ring):
    """What is said in shared memory is a wish: only a bell of our own user's is written to, and only the very one."""
    ordinary, end = os.pipe()  # our stdout, say, which a stranger who writes here may not write to
    os.set_blocking(ordinary, False)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
    os.set_blocking(reading, False)
    try:
        bell = 3 * 128 + 24  # pid, inode, number of the consumer's
        inode = os.fstat(reading).st_ino
        for pid, what, number in (
            (os.getpid(), inode + 1, reading),
            (os.getpid(), inode, 0),
            (2**22 + 1, inode, reading),
            (os.getpid(), os.fstat(ordinary).st_ino, ordinary),
        ):
            for at, value in ((0, pid), (8, what), (16, number), (-24, 2 + 4)):
                _scribble(ring, bell + at, value)
            ring.put(b"x")
            for each in (reading, ordinary):
                with pytest.raises(BlockingIOError):
                    os.read(each, 1)
        for at, value in ((0, os.getpid()), (8, inode), (16, reading), (-24, 2 + 4)):
            _scribble(ring, bell + at, value)
        ring.put(b"x")
        assert os.read(reading, 10) == b"\0"
        os.close(reading)
        reading = -1
        _scribble(ring, bell - 24, 2 + 4)
        ring.put(b"x")  # no SIGPIPE
    finally:
        for each in (writing, ordinary, end):
            os.close(each)
        if reading >= 0:
            os.close(reading)


def test_a_loop_sleeps_until_it_is_woken(ring):
    """Not by its 100 ms: a hundred records, one at a time, there and back."""

    async def main():
        began = time.monotonic()
        for _ in range(100):
            back.put(b"x")
            assert await ring.aget(timeout=PATIENCE) == b"x"
        return time.monotonic() - began

    with cl.Ring.create(1) as back:
        code = "back = cl.Ring.attach(int(sys.argv[1]))\nfor r in back: time.sleep(0.001); ring.put(r)"
        with another(code, ring, str(back.segment.fileno()), pass_fds=[ring.segment.fileno(), back.segment.fileno()]):
            back.put(b"x")
            assert ring.get(timeout=PATIENCE) == b"x"
            assert asyncio.run(main()) < 100 * 0.1 * 0.5


def test_a_task_whose_ring_is_closed_takes_nobodys_reader(ring):
    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(ring.aget())
        await asyncio.sleep(0.01)
        ring.close()  # from here on its descriptor's number is anybody's
        ends = [end for _ in range(4) for end in socket.socketpair()]
        for end in ends:
            loop.add_reader(end, end.recv, 1)
        with pytest.raises(ValueError, match="closed"):
            await task
        for end in ends:
            assert loop.remove_reader(end)
            end.close()

    asyncio.run(main())


def test_async_iteration_ends_with_the_producer(ring):
    async def main():
        return [record async for record in ring]

    with another("[ring.put(bytes([65 + i])) or time.sleep(0.002) for i in range(5)]", ring):
        assert asyncio.run(main()) == [b"A", b"B", b"C", b"D", b"E"]


def test_a_loop_is_told_of_a_death(ring):
    with another("ring.take('producer'); print('ready', flush=True); time.sleep(60)", ring) as process:
        assert line_of(process) == "ready"
        process.kill()
        process.wait()
        with pytest.raises(cl.PeerDied):
            asyncio.run(ring.aget())


# ---- against a model ----


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 1500)),
            st.tuples(st.just("many"), st.lists(st.integers(0, 700), max_size=12)),
            st.tuples(st.just("get"), st.just(0)),
            st.tuples(st.just("get_many"), st.integers(1, 10)),
            st.tuples(st.just("reserve"), st.integers(0, 1500)),
            st.tuples(st.just("peek"), st.booleans()),
        ),
        max_size=40,
    )
)
def test_it_is_a_bounded_queue(steps):
    model, serial = [], 0

    def used():
        return sum(8 + (len(record) + 7) // 8 * 8 for record in model)

    def make(size):
        nonlocal serial
        serial += 1
        return (bytes([serial % 251]) * size)[:size]

    with cl.Ring.create(4096) as ring:
        ring.take("consumer")
        for what, value in steps:
            before = used()
            if what == "put":
                record = make(value)
                try:
                    ring.put_nowait(record)
                    model.append(record)
                    assert used() <= ring.capacity
                except cl.QueueFull:
                    assert before + 8 + (value + 7) // 8 * 8 > ring.capacity
            elif what == "many":
                records = [make(size) for size in value]
                try:
                    ring.put_many(records, timeout=0)
                    model += records
                except cl.QueueFull as full:
                    model += records[: full.done]
                assert used() <= ring.capacity
            elif what == "get":
                try:
                    assert ring.get_nowait() == model.pop(0)
                except cl.QueueEmpty:
                    assert not model
            elif what == "get_many":
                try:
                    found = ring.get_many(value, timeout=0)
                    assert found == model[:value]
                    del model[:value]
                except cl.QueueEmpty:
                    assert not model
            elif what == "reserve":
                record = make(value)
                with contextlib.suppress(cl.QueueFull), ring.reserve(value, timeout=0) as view:
                    view[:] = record
                    model.append(record)
            else:
                with contextlib.suppress(cl.QueueEmpty):
                    peeked = ring.peek(timeout=0)
                    assert bytes(peeked.view) == model[0]
                    if value:
                        peeked.release()
                        del model[0]
                    else:
                        peeked.keep()
            assert ring.stats().depth == used()
