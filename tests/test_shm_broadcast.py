"""Broadcasts: between real processes, in order, through kills and stops, with exact losses; refused in words."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE, needs_linux, needs_root, wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import corelane as cl
from corelane import shm
from corelane.shm import around

pytestmark = needs_linux

LOSSY, LOSSLESS = {"lossless": False}, {"lossless": True}
both = pytest.mark.parametrize("kind", [LOSSY, LOSSLESS], ids=["lossy", "lossless"])


def another_program(code, broadcast, *args, **options):
    """A Python that runs `code`, with `attach(...)` giving it the broadcast, and whose lines we can read."""
    fd = broadcast.segment.fileno()
    head = f"""
import sys, time, os
import corelane as cl
from corelane import shm
attach = lambda **options: cl.Broadcast.attach({fd}, **options)
def say(*what): print(*what, flush=True)
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd],
        **options,
    )


def end(program):
    program.kill()
    program.wait()
    for pipe in (program.stdin, program.stdout):
        pipe.close()


def exhaust(reader, timeout):
    """Get until something is raised."""
    while True:
        reader.get(timeout)


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


# ---- one process ----


@both
def test_each_reader_sees_all(kind):
    with cl.Broadcast.create(5, 64, **kind) as one:
        assert (one.slots, one.slot_size, one.name, one.lossless, one.closed) == (8, 64, None, kind["lossless"], False)
        readers = [cl.Broadcast.attach(one) for _ in range(3)]
        records = [b"", b"x", bytes(range(64)), bytearray(b"array"), memoryview(b"view")]
        for record in records:
            one.put(record)
        for reader in readers:
            assert [reader.get() for _ in records] == [bytes(record) for record in records]
            with pytest.raises(cl.QueueEmpty, match="no record in time"):
                reader.get_nowait()
            with pytest.raises(cl.QueueEmpty):
                reader.get(timeout=0.002)
        one.put_many([b"1", b"2"])
        one.close()
        for reader in readers:
            assert list(reader) == [b"1", b"2"]
            with pytest.raises(cl.Closed, match="has closed it"):
                reader.get()
            reader.close()
    assert "closed" in repr(one)
    with pytest.raises(ValueError, match="cannot be used any more"):
        one.put(b"")
    with pytest.raises(ValueError, match="cannot be used any more"):
        readers[0].get()


def test_a_lossy_reader_knows_what_it_lost():
    with cl.Broadcast.create(8, 8) as one, cl.Broadcast.attach(one) as counts:
        told = cl.Broadcast.attach(one, on_loss="raise")
        one.put_many(b"%d" % i for i in range(20))
        assert [counts.get() for _ in range(8)] == [b"%d" % i for i in range(12, 20)]
        assert counts.lost == 12
        with pytest.raises(cl.RecordsLost, match="12 records were lost") as caught:
            told.get()
        assert (caught.value.lost, told.lost) == (12, 12)
        assert pickle.loads(pickle.dumps(caught.value)).lost == 12
        assert told.get_many(3) == [b"12", b"13", b"14"]
        one.put_many(b"%d" % i for i in range(20, 25))
        assert told.lost == 12  # not yet found
        with pytest.raises(cl.RecordsLost) as caught:
            told.get_many(3)
        assert caught.value.lost == 2
        assert told.get() == b"17"
        old = cl.Broadcast.attach(one, start="oldest")
        assert old.get_many(20) == [b"%d" % i for i in range(17, 25)]
        assert old.lost == 0


def test_a_loss_in_the_midst_of_many_is_told_by_the_next_call():
    """What was got before is returned first."""
    with cl.Broadcast.create(2, 8) as one, cl.Broadcast.attach(one, on_loss="raise") as reader:
        one.put_many([b"1", b"2"])
        record = reader.peek()
        one.put_many([b"3", b"4"])
        with pytest.raises(cl.RecordsLost):
            record.release()
        assert reader.get_many(9) == [b"3", b"4"]  # told once


def test_in_place():
    with cl.Broadcast.create(4, 16, lossless=True) as one, cl.Broadcast.attach(one) as reader:
        with one.reserve() as view:
            assert view.nbytes == 16
            view[:] = b"0123456789abcdef"
            with pytest.raises(RuntimeError, match="reserved, or being looked at"):
                one.put(b"")
        reserved = one.reserve()
        reserved.view[:3] = b"abc"
        with pytest.raises(ValueError, match="size must be"):
            reserved.commit(17)
        reserved.commit(3)
        with pytest.raises(ValueError, match="done with"):
            reserved.commit()
        with pytest.raises(RuntimeError), one.reserve():
            raise RuntimeError
        dropped = one.reserve()
        del dropped
        gc.collect()
        one.put(b"last")
        with reader.peek() as view:
            assert bytes(view) == b"0123456789abcdef"
            with pytest.raises(TypeError):
                view[0] = 0
            with pytest.raises(RuntimeError, match="being looked at"):
                reader.get_nowait()
        with pytest.raises(KeyError), reader.peek() as view:
            raise KeyError
        peeked = reader.peek()
        assert peeked.whole
        peeked.keep()
        assert reader.get() == b"abc"
        assert reader.get() == b"last"
        with pytest.raises(cl.QueueEmpty):
            reader.peek(timeout=0)


def test_what_was_overwritten_while_it_was_looked_at_is_not_believed():
    with cl.Broadcast.create(2, 8) as one, cl.Broadcast.attach(one) as reader:
        one.put(b"1")
        peeked = reader.peek()
        assert peeked.whole
        one.put_many([b"2", b"3"])
        assert not peeked.whole
        with pytest.raises(cl.RecordsLost), peeked:
            pass
        assert (reader.get(), reader.get(), reader.lost) == (b"2", b"3", 1)


class _Interrupted(cl.Broadcast):
    __slots__ = ()

    def _tried(self, call, what, item=b""):
        super()._tried(call, what, item)
        raise KeyboardInterrupt


def test_a_claim_survives_no_signal():
    """An exception between the core's claim and our use of it leaves no claim behind that nobody knows of."""
    with _Interrupted.create(2, 8, lossless=True) as one, _Interrupted.attach(one) as reader:
        with pytest.raises(KeyboardInterrupt):
            one.reserve()
        gc.collect()
        one.put_nowait(b"1")
        with pytest.raises(KeyboardInterrupt):
            reader.peek()
        gc.collect()
        assert reader.get_nowait() == b"1"


def test_policies():
    with cl.Broadcast.create(4, 8, lossless=True) as one:
        skips = cl.Broadcast.attach(one, policy="skip")
        evicted = cl.Broadcast.attach(one, policy="evict")
        one.put_many(b"%d" % i for i in range(6))
        assert skips.get_many(9) == [b"2", b"3", b"4", b"5"]
        assert skips.lost == 2
        for _ in range(2):
            with pytest.raises(cl.Evicted, match="was too slow"):
                evicted.get()
        stats = one.stats()
        assert (stats.skipped, stats.evictions, stats.put, stats.most) == (2, 1, 6, 4)
        assert [(each.policy, each.evicted, each.lost) for each in stats.readers] == [
            ("skip", False, 2),
            ("evict", True, 0),
        ]
        evicted.subscribe("evict")
        blocks = cl.Broadcast.attach(one)
        one.put_many(b"%d" % i for i in range(6, 10))
        with pytest.raises(cl.ReaderBlocks, match=f"process {os.getpid()} has not read") as caught:
            one.put(b"10", timeout=0.002)
        assert isinstance(caught.value, cl.QueueFull)
        assert (caught.value.pid, caught.value.done) == (os.getpid(), 0)
        assert pickle.loads(pickle.dumps(caught.value)).pid == os.getpid()
        with pytest.raises(cl.ReaderBlocks):
            one.put_nowait(b"10")
        assert evicted.get() == b"6"  # nobody loses a record over one that is not put
        assert blocks.get_many(2) == [b"6", b"7"]
        with pytest.raises(cl.ReaderBlocks) as caught:
            one.put_many([b"10", b"11", b"12"], timeout=0)
        assert caught.value.done == 2
        blocks.close()
        one.put_many([b"12", b"13"], timeout=0)
        assert one.stats().depth == 4


def test_one_handle_writes_the_others_read():
    with cl.Broadcast.create(4, 8) as one, cl.Broadcast.attach(one) as reader:
        assert one.stats().state == "new"
        one.put(b"1")
        with pytest.raises(cl.SideTaken, match=f"process {os.getpid()}"):
            reader.put(b"")
        with pytest.raises(cl.ShmError, match="attach another one"):
            one.get()
        assert reader.get() == b"1"
        waiting = cl.Broadcast.attach(one)
        one.close()
        with pytest.raises(cl.ShmError, match="attach another one"):
            reader.put(b"")
        assert waiting.take() is False  # it has got nothing: it may
        waiting.put(b"2")
        assert reader.get() == b"2"
        assert reader.stats().writer == os.getpid()
        assert [each.policy for each in reader.stats().readers] == ["lossy"]


def test_a_handle_that_was_made_reads_from_when_it_asks():
    with cl.Broadcast.create(4, 8) as one, cl.Broadcast.attach(one, subscribe=False) as other:
        assert one.stats().readers == ()
        with pytest.raises(cl.QueueEmpty):
            one.get_nowait()
        other.put(b"1")
        assert one.get() == b"1"


def test_numpy_records():
    np = pytest.importorskip("numpy")
    tick = np.dtype([("when", "f8"), ("price", "f8"), ("id", "u4")])
    with cl.Broadcast.create(256, tick.itemsize, lossless=True) as one, cl.Broadcast.attach(one) as reader:
        sent = np.zeros(200, tick)
        sent["id"] = np.arange(200)
        one.records_in(sent)
        first = reader.records_out(tick, 150)
        assert np.array_equal(first, sent[:150])
        assert np.array_equal(reader.records_out(tick, 150), sent[150:])
        one.put(b"short")
        with pytest.raises(ValueError, match="another size"):
            reader.records_out(tick, 3)
        assert reader.get() == b"short"
        with pytest.raises(cl.ReaderBlocks) as caught:
            one.records_in(np.zeros(300, tick), timeout=0)
        assert caught.value.done == 256
        with pytest.raises(ValueError, match="does not fit"):
            one.records_in(np.zeros((2, 100)))
        one.records_in(np.zeros(0))


def test_frames_where_they_lie():
    np = pytest.importorskip("numpy")
    shape = (1024, 1024, 8)  # 8 MiB
    with cl.Broadcast.create(4, 8 << 20, lossless=True) as one:
        readers = [cl.Broadcast.attach(one) for _ in range(2)]
        for i in range(6):
            with one.reserve() as view:
                frame = np.frombuffer(view, "u1").reshape(shape)
                assert frame.ctypes.data % 64 == 0
                frame[...] = i
                del frame
            for reader in readers:
                with reader.peek() as view:
                    frame = np.frombuffer(view, "u1").reshape(shape)
                    assert frame[0, 0, 0] == frame[-1, -1, -1] == i
                    kept = frame
        assert kept[5, 5, 5] == 5  # of a view that somebody has, the memory stays
        one.put(kept)
        assert readers[0].get() == bytes([5]) * (8 << 20)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"slots": 0}, "slots must be"),
        ({"slots": 2**25}, "slots must be"),
        ({"slot_size": 0}, "slot_size must be"),
        ({"slot_size": 2**31}, "slot_size must be"),
        ({"members": 0}, "members must be"),
        ({"members": 4096}, "members must be"),
        ({"slots": 2**24, "slot_size": 2**30}, "more than any machine"),
        ({"spin": -1}, "spin must be"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_bad_makings(options, what):
    with pytest.raises(ValueError, match=what):
        cl.Broadcast.create(**{"slots": 4, "slot_size": 8, **options})


def test_bad_uses():
    with cl.Broadcast.create(4, 8) as one, cl.Broadcast.create(4, 8, lossless=True) as other:
        for target, options, what in [
            (one, {"policy": "block"}, "policy must be None"),
            (one, {"policy": "wait"}, "policy must be None or one of"),
            (one, {"start": "now"}, "start must be"),
            (one, {"on_loss": "tell"}, "on_loss must be"),
            (one, {"on_death": "tell"}, "on_death must be"),
            (other, {"start": "oldest"}, "start must be 'next'"),
        ]:
            with pytest.raises(ValueError, match=what):
                cl.Broadcast.attach(target, **options)
        with pytest.raises(TypeError):
            one.put("text")
        with pytest.raises(ValueError, match="a record of 9 bytes does not fit"):
            one.put(b"123456789")
        for timeout in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                one.put(b"", timeout)
        with pytest.raises(TypeError):
            one.put_many([b"1", "2"])
        with cl.Broadcast.attach(one) as reader:
            for timeout in (-1, float("nan")):
                with pytest.raises(ValueError, match="timeout"):
                    reader.get(timeout)
        with cl.Queue.create(2, 8) as queue, pytest.raises(cl.Corrupted, match="of kind queue, not broadcast"):
            cl.Broadcast.attach(queue.segment)
        with pytest.raises(cl.ShmError):
            cl.Broadcast.attach("no-such-broadcast-here")
        with cl.Broadcast.create(4, 8, members=1) as small:
            small.put(b"")
            with pytest.raises(cl.ShmError, match="all participants that it may have"):
                cl.Broadcast.attach(small)


def test_what_a_stranger_wrote_is_found():
    with cl.Broadcast.create(4, 8) as one, cl.Broadcast.attach(one) as reader:
        one.put(b"1")
        reader.segment._view = None
        with shm.Segment.attach(one.segment) as raw:
            tail = raw.buf.cast("Q")
            assert tail[0] == 1
            tail[0] = 2**63
            with pytest.raises(cl.Corrupted, match="by a stranger"):
                reader.get()
            del tail


def test_it_is_seen_among_the_segments(name):
    with cl.Broadcast.create(4, 8, name) as one:
        assert around.entry_of(name).kind == "broadcast"
        with cl.Broadcast.attach(name) as reader:
            one.put(b"1")
            assert reader.get() == b"1"
            assert reader.name == name


# ---- waiting ----


def test_a_put_wakes_readers_that_sleep():
    with cl.Broadcast.create(4, 8, spin=0) as one:
        readers = [cl.Broadcast.attach(one, spin=0) for _ in range(2)]
        readers.append(cl.Broadcast.attach(one, readonly=True))
        found = []
        threads = [threading.Thread(target=lambda each=each: found.append(each.get(timeout=20))) for each in readers]
        for thread in threads:
            thread.start()
        one.put(b"now")
        for thread in threads:
            thread.join()
        assert found == [b"now"] * 3


def test_closing_a_handle_ends_the_waits_of_its_other_threads():
    with cl.Broadcast.create(4, 8) as one:
        reader = cl.Broadcast.attach(one)
        caught = []

        def wait():
            try:
                reader.get()
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.01)
        reader.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert isinstance(caught[0], ValueError)


class _Alarm(Exception):
    pass


@pytest.mark.parametrize("what", ["get", "peek", "put", "reserve", "wait_readers"])
def test_a_signal_ends_a_wait_and_leaves_nothing_held(what):
    def ring(*unused):
        raise _Alarm

    with cl.Broadcast.create(2, 8, lossless=True) as one, cl.Broadcast.attach(one) as reader:
        if what in ("put", "reserve"):
            one.put_many([b"", b""])
        waits = {
            "get": reader.get,
            "peek": reader.peek,
            "put": lambda: one.put(b""),
            "reserve": one.reserve,
            "wait_readers": lambda: one.wait_readers(5),
        }

        def wait():
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            waits[what]()

        before = signal.signal(signal.SIGALRM, ring)
        try:
            with pytest.raises(_Alarm):
                wait()
        finally:
            signal.signal(signal.SIGALRM, before)
        if what in ("put", "reserve"):
            assert reader.get_many(2) == [b"", b""]
        one.put(b"1")
        assert reader.get() == b"1"


def test_a_selector_is_told():
    with cl.Broadcast.create(2, 8, lossless=True) as one, cl.Broadcast.attach(one) as reader:

        def readable(handle):
            return bool(select.select([handle], [], [], 0)[0])

        assert readable(reader)
        with pytest.raises(cl.QueueEmpty):
            reader.get_nowait()
        assert not readable(reader)
        one.put(b"1")
        assert readable(reader)
        assert reader.get_nowait() == b"1"
        with pytest.raises(cl.QueueEmpty):
            reader.get_nowait()
        assert not readable(reader)
        one.put_many([b"2", b"3"])
        assert readable(one)
        with pytest.raises(cl.ReaderBlocks):
            one.put_nowait(b"4")
        assert not readable(one)
        assert reader.get_nowait() == b"2"
        assert readable(one)
        one.put_nowait(b"4")
        with cl.Broadcast.attach(one, readonly=True) as looks, pytest.raises(cl.ShmError, match="read-only"):
            looks.fileno()


@both
def test_under_an_event_loop(kind):
    async def main():
        with cl.Broadcast.create(4, 8, **kind) as one:
            readers = [cl.Broadcast.attach(one) for _ in range(3)]

            async def collect(reader):
                return [record async for record in reader]

            tasks = [asyncio.create_task(collect(reader)) for reader in readers]
            sent = [b"%d" % i for i in range(50)]
            for record in sent:
                await one.aput(record, timeout=20)
                if not one.lossless:
                    while any(each.lag for each in one.stats().readers):
                        await asyncio.sleep(0)
            one.close()
            for task in tasks:
                assert await asyncio.wait_for(task, PATIENCE) == sent
            with pytest.raises(cl.Closed):
                await readers[0].aget()

    asyncio.run(main())


def test_several_tasks_wait_on_one_handle():
    async def main():
        with cl.Broadcast.create(64, 8) as one, cl.Broadcast.attach(one) as reader:
            tasks = [asyncio.create_task(reader.aget(timeout=PATIENCE)) for _ in range(5)]
            await asyncio.sleep(0)
            for i in range(5):
                one.put(b"%d" % i)
                await asyncio.sleep(0)
            assert sorted(await asyncio.gather(*tasks)) == [b"%d" % i for i in range(5)]
            with pytest.raises(cl.QueueEmpty):
                await reader.aget(timeout=0.001)
            with cl.Broadcast.attach(one, readonly=True) as looks:
                task = asyncio.create_task(looks.aget())
                await asyncio.sleep(0)
                one.put(b"6")
                assert await asyncio.wait_for(task, PATIENCE) == b"6"
                with pytest.raises(cl.QueueEmpty):
                    await looks.aget(timeout=0.001)

    asyncio.run(main())


@pytest.mark.parametrize("readonly", [False, True])
def test_a_task_that_always_finds_something_leaves_others_a_turn(readonly):
    async def main():
        with cl.Broadcast.create(1024, 8) as one, cl.Broadcast.attach(one, readonly=readonly) as reader:
            one.put_many([b""] * 1000)
            turns = 0

            async def other():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(other())
            for _ in range(1000):
                await reader.aget()
            assert turns >= 10
            task.cancel()

    asyncio.run(main())


def test_a_writer_in_a_loop_waits_for_room():
    async def main():
        with cl.Broadcast.create(2, 8, lossless=True) as one, cl.Broadcast.attach(one) as reader:
            one.put_many([b"1", b"2"])
            task = asyncio.create_task(one.aput(b"3"))
            await asyncio.sleep(0.01)
            assert not task.done()
            assert reader.get() == b"1"
            await asyncio.wait_for(task, PATIENCE)
            with pytest.raises(cl.ReaderBlocks):
                await one.aput(b"4", timeout=0.001)

    asyncio.run(main())


# ---- several processes ----

READER = """
reader = attach()
say("ready")
found = [int(record) for record in reader]
say(found == list(range(len(found))), len(found), reader.lost)
"""


def test_three_programs_each_see_all_in_order():
    with cl.Broadcast.create(64, 16, lossless=True) as one:
        programs = [another_program(READER, one) for _ in range(3)]
        assert one.wait_readers(3, timeout=PATIENCE)
        one.put_many(b"%d" % i for i in range(20000))
        one.close()
        for program in programs:
            assert program.stdout.readline() == "ready\n"
            assert program.stdout.readline() == "True 20000 0\n"
            end(program)


def test_what_lossy_readers_got_and_lost_is_all():
    code = """
reader = attach()
say("ready")
last, got = -1, 0
for record in reader:
    number = int(record[:8])
    assert number > last and record == b"%08d" % number * 100, (number, last, record)
    last, got = number, got + 1
say(got + reader.lost, last)
"""
    with cl.Broadcast.create(4, 800) as one:
        programs = [another_program(code, one) for _ in range(2)]
        assert one.wait_readers(2, timeout=PATIENCE)
        for i in range(50000):
            one.put(b"%08d" % i * 100)
        one.close()
        for program in programs:
            program.stdout.readline()
            assert program.stdout.readline() == "50000 49999\n"
            end(program)


def test_recovering_takes_part(name):
    with cl.Broadcast.create(4, 8, name) as one, cl.Broadcast.attach(name, readonly=True) as looking:
        with pytest.raises(cl.ShmError, match=r"takes no part in it yet: subscribe\(\) or take\(\) first"):
            one.recover()
        with pytest.raises(PermissionError, match="attached read-only"):
            looking.recover()
        one.take()
        assert one.recover() == 0


@both
def test_one_that_is_refused_takes_nothing_from_the_one_who_holds(kind):
    """A second claim of a handle is refused, and dropped: the first one is held all the same."""
    with cl.Broadcast.create(4, 8, **kind) as writer, cl.Broadcast.attach(writer) as reader:
        reader.subscribe()
        writer.put(b"1")
        with writer.reserve() as room, reader.peek() as view:
            for _ in range(2):
                for call in (writer.reserve, lambda: writer.put(b"x"), reader.peek, reader.get):
                    with pytest.raises(RuntimeError, match="leave its `with` block first"):
                        call()
            room[:] = b"22222222"
            assert view == b"1"
        assert reader.get() == b"22222222"


def test_readers_that_are_late_are_not_waited_for():
    with cl.Broadcast.create(4, 8, lossless=True) as one:
        assert not one.wait_readers(1, timeout=0.002)
        one.put_many([b"1"] * 20)
        with cl.Broadcast.attach(one) as reader:
            assert one.wait_readers(1)
            one.put(b"2")
            assert reader.get() == b"2"


@both
def test_a_killed_writer_is_told_of_and_has_a_successor(kind):
    with cl.Broadcast.create(8, 8, **kind) as one:
        program = another_program("one = attach(); one.put_many([b'1', b'2']); say('put'); time.sleep(100)", one)
        reader, waits = cl.Broadcast.attach(one), cl.Broadcast.attach(one, on_death="wait")
        looks = None if one.lossless else cl.Broadcast.attach(one, readonly=True)
        program.stdout.readline()
        first = reader.get_many(9)
        assert first in ([b"1", b"2"], []) or first[-1] == b"2"
        program.kill()
        program.wait()
        began = time.monotonic()
        with pytest.raises(cl.PeerDied, match=f"process {program.pid}") as caught:
            exhaust(reader, PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        assert caught.value.pid == program.pid
        if looks:
            with pytest.raises(cl.PeerDied):
                exhaust(looks, PATIENCE)
        with pytest.raises(cl.QueueEmpty):
            exhaust(waits, 0.01)
        stats = one.stats()
        assert (stats.state, stats.writer, stats.last_dead, stats.recoveries) == ("died", program.pid, program.pid, 1)
        assert one.take() is True
        one.put(b"3")
        assert reader.get() == waits.get() == b"3"
        end(program)


def test_a_killed_reader_is_not_waited_for():
    with cl.Broadcast.create(4, 8, lossless=True) as one:
        program = another_program("reader = attach(); say('ready'); time.sleep(100)", one)
        program.stdout.readline()
        one.put_many([b""] * 4)
        with pytest.raises(cl.ReaderBlocks):
            one.put_nowait(b"")
        threading.Timer(0.02, program.kill).start()
        one.put(b"", timeout=PATIENCE)
        assert one.stats().recoveries == 1
        assert one.stats().readers == ()
        end(program)


def test_a_stopped_reader_is_named_and_not_robbed():
    with cl.Broadcast.create(4, 8, lossless=True) as one:
        program = another_program("reader = attach(); say('ready'); say(len(reader.get_many(4)))", one)
        program.stdout.readline()
        program.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(program.pid), "the stop")
        one.put_many([b""] * 4)
        with pytest.raises(cl.ReaderBlocks, match=f"process {program.pid} ") as caught:
            one.put(b"", timeout=0.15)
        assert caught.value.pid == program.pid
        assert one.stats().recoveries == 0
        program.send_signal(signal.SIGCONT)
        one.put(b"", timeout=PATIENCE)
        assert int(program.stdout.readline()) >= 1
        end(program)


@both
def test_a_stopped_writer_is_named_and_keeps_its_place(kind):
    with cl.Broadcast.create(4, 8, **kind) as one, cl.Broadcast.attach(one) as reader:
        calls = [
            lambda: reader.get(0.02),
            lambda: reader.get_many(2, 0.02),
            lambda: reader.records_out("u8", 2, 0.02),
            lambda: reader.peek(0.02),
            lambda: asyncio.run(reader.aget(0.02)),
        ]
        for call in calls:
            with pytest.raises(cl.QueueEmpty, match="in time: it has no writer"):
                call()
        program = another_program("w = attach(subscribe=False); w.take(); say('up'); w.put(input().encode())", one)
        assert program.stdout.readline() == "up\n"
        program.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(program.pid), "the stop")
        for call in calls:
            with pytest.raises(cl.QueueEmpty, match=f"its writer, process {program.pid}, is slow or stopped"):
                call()
        with pytest.raises(cl.SideTaken):
            one.take()
        program.send_signal(signal.SIGCONT)
        program.stdin.write("1\n")
        program.stdin.flush()
        assert reader.get(timeout=PATIENCE) == b"1"
        end(program)


def test_a_forked_child_is_refused_until_it_registers():
    with cl.Broadcast.create(4, 8, lossless=True) as one, cl.Broadcast.attach(one) as reader:
        one.put(b"1")
        with reader.peek():
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    for call in (lambda: one.put(b""), reader.get, one.take, lambda: reader.get(timeout=0)):
                        with pytest.raises(cl.ShmError, match=r"call its register\(\) here first"):
                            call()
                    one.register()
                    with pytest.raises(cl.SideTaken):
                        one.put(b"")
                    reader.register()  # the parent puts when it sees that
                    assert reader.get(timeout=PATIENCE) == b"2"
                    reader.close()
                    one.close()
                    status = 0
                finally:
                    os._exit(status)
            assert wait_until(lambda: len(one.stats().readers) == 2, "the child")
            one.put(b"2")
        assert os.waitpid(pid, 0)[1] == 0
        assert reader.get() == b"2"
        assert one.stats().state == "open"


def _writes(broadcast):
    broadcast.put_many([b"1", b"2", b"3"])
    broadcast.close()


@pytest.mark.slow
def test_a_handle_is_passed_to_a_worker(stops_the_tracker):
    with cl.Broadcast.create(16, 8, lossless=True) as one, cl.Broadcast.attach(one) as reader:
        worker = multiprocessing.get_context("spawn").Process(target=_writes, args=(one,))
        worker.start()
        assert list(reader) == [b"1", b"2", b"3"]
        worker.join()


def test_a_copy_reads_as_its_original_does():
    with cl.Broadcast.create(4, 8, lossless=True) as one:
        reader = cl.Broadcast.attach(one, policy="skip", on_loss="raise")
        copy = pickle.loads(pickle.dumps(reader))
        assert [each.policy for each in one.stats().readers] == ["skip", "skip"]
        one.put_many([b""] * 6)
        with pytest.raises(cl.RecordsLost):
            copy.get()


def test_a_read_only_reader_needs_no_right_to_write(name):
    """0640, and a reader of the group: it is in nobody's list, is woken if the writer cares, and hears of a death."""
    with cl.Broadcast.create(8, 8, name, mode=0o640, wakes_readonly=True) as one:
        reader = cl.Broadcast.attach(name, readonly=True)
        one.put(b"1")
        assert reader.get() == b"1"
        with pytest.raises(PermissionError):
            reader.put(b"")
        assert one.stats().readers == ()
        with pytest.raises(cl.QueueEmpty):
            reader.get(timeout=0.01)
        reader.close()
        one.put(b"2")


@needs_root
def test_a_reader_of_another_user(name):
    code = """
import corelane as cl, os, sys
name = sys.argv[1]
with cl.Broadcast.create(2, 8) as one, cl.Broadcast.attach(one, readonly=True) as reader:
    one.put(b"")
    one.close()
    list(reader)  # all is loaded: the interpreter may lie where that user may not read
os.setgroups([]); os.setgid(54321); os.setuid(54321)
try:
    cl.Broadcast.attach(name)
except PermissionError:
    print("refused", flush=True)
reader = cl.Broadcast.attach(name, readonly=True)
print("ready", flush=True)
print([record.decode() for record in reader], reader.lost, flush=True)
"""
    with cl.Broadcast.create(8, 8, name, mode=0o640, group=54321) as one:
        program = subprocess.Popen(
            [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert program.stdout.readline() == "refused\n"
        assert program.stdout.readline() == "ready\n"
        one.put_many([b"1", b"2"])
        one.close()
        # A name goes with whoever made it; who has it attached keeps it.
        assert program.stdout.readline() == "['1', '2'] 0\n"
        end(program)


def test_a_read_only_lossless_one_can_be_looked_at():
    with cl.Broadcast.create(8, 8, lossless=True) as one, cl.Broadcast.attach(one, readonly=True) as looks:
        one.put(b"1")
        assert looks.stats().put == 1
        with pytest.raises(PermissionError, match="read-only"):
            looks.get()
        with pytest.raises(PermissionError, match="read-only"):
            looks.put(b"")


@pytest.mark.parametrize("policy", ["block", "skip", "evict"])
def test_idle_costs_nothing(policy):
    with cl.Broadcast.create(8, 8, lossless=True) as one, cl.Broadcast.attach(one, policy=policy) as reader:
        one.put(b"")
        reader.get()
        began = time.thread_time()
        with pytest.raises(cl.QueueEmpty):
            reader.get(timeout=0.3)
        assert time.thread_time() - began < 0.03


# ---- against a model ----


class Reading:
    """What a reader should get. `position`: of its next record; None: where a claim that was overtaken has left it."""

    def __init__(self, one, tail, policy, begins):
        self.policy, self.handle = policy, cl.Broadcast.attach(one, policy=policy, start=begins)
        self.begin(tail)

    def begin(self, position):
        self.position, self.peeked, self.evicted, self.kept = position, None, False, False
        self.first, self.got, self.lost_before = position, 0, self.handle.lost


class AgainstAList(RuleBasedStateMachine):
    """One writer after the other, and readers that come and go, against the list of all records there ever were."""

    @initialize(
        slots=st.sampled_from([1, 2, 4, 8]),
        lossless=st.booleans(),
        policies=st.lists(st.sampled_from(["block", "skip", "evict"]), min_size=1, max_size=3),
    )
    def make(self, slots, lossless, policies):
        self.one = cl.Broadcast.create(slots, 16, lossless=lossless)
        self.keeper = cl.Broadcast.attach(self.one, subscribe=False)
        self.one.take()
        self.slots, self.lossless, self.tail = slots, lossless, 0
        self.oldest = 0  # of a lossy one: the first record that is there still
        self.readers = []
        for policy in policies:
            self.come(policy, "next")

    # What a put does to readers; False: one is in its way.
    def make_room(self):
        if not self.lossless:
            self.oldest = max(self.oldest, self.tail + 1 - self.slots)
            return True
        late = [r for r in self.readers if not r.evicted and self.tail - r.position == self.slots]
        if any(r.policy is None or r.policy == "block" for r in late):
            return False
        for reader in late:
            if reader.policy == "skip":
                reader.position += 1
            else:
                reader.evicted = True
        return True

    def pick(self, which):
        return self.readers[which % len(self.readers)]

    @rule(policy=st.sampled_from([None, "block", "skip", "evict"]), begins=st.sampled_from(["next", "oldest"]))
    @precondition(lambda self: len(self.readers) < 4)
    def come(self, policy, begins):
        if self.lossless:
            self.readers.append(Reading(self.one, self.tail, policy, "next"))
        else:
            self.readers.append(Reading(self.one, self.tail, None, begins))
            if begins == "oldest":
                self.readers[-1].begin(max(0, self.tail - self.slots))

    @rule(which=st.integers(0, 3))
    @precondition(lambda self: self.readers)
    def go(self, which):
        reader = self.readers.pop(which % len(self.readers))
        if reader.peeked is None:
            reader.handle.close()
        else:  # dropped with what it has claimed
            del reader
            gc.collect()  # the frames of an error that was caught may have it

    @rule(count=st.integers(1, 6), at_once=st.booleans())
    def put(self, count, at_once):
        records = [b"%d" % (self.tail + i) for i in range(count)]
        done = 0
        while done < count and self.make_room():
            self.tail, done = self.tail + 1, done + 1
        if at_once:
            if done < count:
                with pytest.raises(cl.ReaderBlocks) as caught:
                    self.one.put_many(records, timeout=0)
                assert (caught.value.done, caught.value.pid) == (done, os.getpid())
            else:
                self.one.put_many(records, timeout=0)
            return
        for record in records[:done]:
            self.one.put_nowait(record)
        if done < count:
            with pytest.raises(cl.ReaderBlocks):
                self.one.put_nowait(records[done])

    @rule(commits=st.booleans(), which=st.integers(0, 3))
    def reserve(self, commits, which):
        if not self.make_room():
            with pytest.raises(cl.ReaderBlocks):
                self.one.reserve(timeout=0)
            return
        reserved = self.one.reserve(timeout=0)
        record = b"%d" % self.tail
        reserved.view[: len(record)] = record
        if self.readers and self.pick(which).peeked is None:
            self.get(which)  # what is not committed is not there, and what was in its slot is not, either
        if commits:
            reserved.commit(len(record))
            self.tail += 1
        else:
            reserved.cancel()

    def check(self, reader, record):
        """The record that comes next, with exactly so many lost as lie between."""
        number = int(record)
        assert self.oldest <= number < self.tail
        if self.is_exact(reader):
            assert number == max(reader.position, self.oldest)
        assert number == reader.first + reader.got + reader.handle.lost - reader.lost_before

    def is_exact(self, reader):
        """Else it is overtaken twice with nothing got in between: by a record that is not committed, or since it has
        looked and kept. Then it may go on with newer ones."""
        if reader.position is None:
            return False
        once = self.oldest <= max(0, self.tail - self.slots) and not reader.kept
        return once or reader.position >= self.oldest

    def is_empty(self, reader):
        return max(reader.position or 0, self.oldest) == self.tail

    @rule(which=st.integers(0, 3))
    @precondition(lambda self: self.readers)
    def get(self, which):
        reader = self.pick(which)
        if reader.peeked is not None:
            return
        if reader.evicted:
            with pytest.raises(cl.Evicted):
                reader.handle.get_nowait()
        elif self.is_empty(reader):
            with pytest.raises(cl.QueueEmpty):
                reader.handle.get_nowait()
        else:
            try:
                record = reader.handle.get_nowait()
            except cl.QueueEmpty:
                assert not self.is_exact(reader)
                reader.position = None
                return
            self.check(reader, record)
            reader.got += 1
            reader.position, reader.kept = int(record) + 1, False

    @rule(which=st.integers(0, 3), most=st.integers(1, 9))
    @precondition(lambda self: self.readers)
    def get_many(self, which, most):
        reader = self.pick(which)
        if reader.peeked is not None or reader.evicted or not self.is_exact(reader) or self.is_empty(reader):
            return
        first = max(reader.position, self.oldest)
        found = reader.handle.get_many(most, timeout=0)
        assert found == [b"%d" % i for i in range(first, min(first + most, self.tail))]
        reader.got, reader.position = reader.got + len(found), first + len(found)
        assert reader.position == reader.first + reader.got + reader.handle.lost - reader.lost_before

    @rule(which=st.integers(0, 3), meanwhile=st.integers(0, 10), keeps=st.sampled_from([None, False, False, True]))
    @precondition(lambda self: self.readers)
    def peek(self, which, meanwhile, keeps):
        reader = self.pick(which)
        if reader.peeked is not None or reader.evicted or not self.is_exact(reader) or self.is_empty(reader):
            return
        reader.peeked = reader.handle.peek(timeout=0)
        self.check(reader, bytes(reader.peeked.view))
        reader.position = reader.seen = int(bytes(reader.peeked.view))
        assert reader.peeked.whole
        if meanwhile:
            self.put(meanwhile, at_once=True)
        if keeps is not None:
            self.end_peek(which, keeps)

    @rule(which=st.integers(0, 3), keeps=st.booleans())
    @precondition(lambda self: self.readers)
    def end_peek(self, which, keeps):
        reader = self.pick(which)
        if reader.peeked is None:
            return
        peeked, reader.peeked = reader.peeked, None
        if keeps:
            peeked.keep()
            reader.kept = True
        elif reader.evicted:
            with pytest.raises(cl.Evicted):
                peeked.release()
        elif reader.position > reader.seen or reader.seen < self.oldest:  # the writer went past it meanwhile
            with pytest.raises(cl.RecordsLost):
                peeked.release()
            reader.position = reader.position if self.lossless else None
        else:
            peeked.release()
            reader.got, reader.position = reader.got + 1, reader.seen + 1

    @rule(which=st.integers(0, 3))
    @precondition(lambda self: any(r.evicted and r.peeked is None for r in self.readers))
    def begin_anew(self, which):
        reader = next(r for r in self.readers if r.evicted and r.peeked is None)
        reader.handle.subscribe(policy=reader.policy)
        reader.begin(self.tail)

    @rule()
    def another_writer(self):
        self.one.close()
        for reader in self.readers:
            if reader.peeked is None and not reader.evicted and self.is_exact(reader) and self.is_empty(reader):
                with pytest.raises(cl.Closed):
                    reader.handle.get_nowait()
        self.one = cl.Broadcast.attach(self.keeper, subscribe=False)
        assert not self.one.take()

    @invariant()
    def agrees(self):
        if hasattr(self, "one"):
            stats = self.one.stats()
            assert stats.put == self.tail
            assert len(stats.readers) == len(self.readers)
            if self.lossless:
                lags = sorted(each.lag for each in stats.readers if not each.evicted)
                assert lags == sorted(self.tail - r.position for r in self.readers if not r.evicted)

    def teardown(self):
        if hasattr(self, "one"):
            self.readers.clear()
            self.one.close()
            self.keeper.close()


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---- no room ----


@pytest.mark.parametrize("when_full", ["fail", "drop-new"])
def test_what_finds_no_room(when_full):
    """Counted in memory that is everybody's, and put nowhere; what comes later is put again."""
    import numpy as np

    with cl.Broadcast.create(2, 8, lossless=True, when_full=when_full) as writer:
        with cl.Broadcast.attach(writer) as reader:
            writer.put_many([b"1", b"2"])
            puts = (
                lambda: writer.put(b"3"),
                lambda: writer.put(b"3", timeout=PATIENCE),
                lambda: writer.put_nowait(b"3"),
                lambda: writer.put_many([b"3"]),
                lambda: writer.records_in(np.array([3], "u8")),
                lambda: asyncio.run(writer.aput(b"3")),
            )
            for put in puts:
                if when_full == "fail":
                    with pytest.raises(cl.ReaderBlocks, match=f"process {os.getpid()} has not read"):
                        put()
                else:
                    put()
            with pytest.raises(cl.ReaderBlocks):  # a slot is no record yet
                writer.reserve(timeout=0)
            stats = reader.stats()
            assert (stats.refused, stats.dropped) == ((len(puts) + 1, 0) if when_full == "fail" else (1, len(puts)))
            assert reader.get_many(9) == [b"1", b"2"]
            writer.put(b"4")
            assert reader.get() == b"4"
        with pickle.loads(pickle.dumps(writer)) as again:
            assert again._options["when_full"] == when_full


def test_wrong_words_for_no_room():
    with pytest.raises(ValueError, match="when_full must be one of block, fail, drop-new, not 'drop-old'"):
        cl.Broadcast.create(2, 8, lossless=True, when_full="drop-old")
    with cl.Broadcast.create(2, 8) as writer, pytest.raises(ValueError, match="when_full must be one of"):
        cl.Broadcast.attach(writer, when_full=None)
