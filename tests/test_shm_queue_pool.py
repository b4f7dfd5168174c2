"""Pools of queues: in turn, from all, by name and by handle, through deaths and half a shutdown."""

import asyncio
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE, needs_linux, wait_until

import corelane as cl
from corelane import shm
from corelane._ffi import PLATFORM
from corelane.shm import around, looping
from corelane.shm.names import path_of

pytestmark = needs_linux


@pytest.fixture
def pool():
    with cl.QueuePool.create(3, 2, 16, spin=0) as made:
        yield made


@pytest.fixture
def names(name):
    """Those of a pool of up to 4; nothing is left of them."""
    yield name
    for each in (name, *(f"{name}.{i}" for i in range(1, 4))):
        if os.path.lexists(path_of(each)):
            os.unlink(path_of(each))


def test_put_goes_round_and_get_looks_in_all(pool):
    for i in range(6):
        pool.put(b"%d" % i)
    assert [queue.stats().size for queue in pool.queues] == [2, 2, 2]
    with pytest.raises(cl.QueueFull, match=r"QueuePool.*3 queues of 2 slots"):
        pool.put_nowait(b"6")
    with pytest.raises(cl.QueueFull):
        pool.put(b"6", timeout=0.002)
    assert sorted(pool.get() for _ in range(6)) == [b"%d" % i for i in range(6)]
    with pytest.raises(cl.QueueEmpty):
        pool.get_nowait()
    with pytest.raises(cl.QueueEmpty):
        pool.get(timeout=0.002)
    stats = pool.stats()
    assert (stats.slots, stats.slot_size, stats.enqueued, stats.dequeued, stats.size) == (6, 16, 6, 6, 0)
    assert (stats.failed_puts, stats.failed_gets, stats.put_waits, stats.get_waits) == (2, 2, 1, 1)
    assert stats.mean_put_wait >= 0.001
    assert (stats.members, stats.recoveries, stats.last_dead, stats.shut) == (1, 0, None, False)
    with pytest.raises(ValueError, match="17 bytes"):
        pool.put(bytes(17))


def test_a_full_queue_is_passed_over(pool):
    pool.queues[0].put_many([b"x"] * 2)
    for _ in range(4):
        pool.put_nowait(b"y")
    assert [queue.stats().size for queue in pool.queues] == [2, 2, 2]
    assert sorted(pool.get_many(10)) == [b"x", b"x"] + [b"y"] * 4
    with pytest.raises(cl.QueueFull) as caught:
        pool.put_many([b"z"] * 9, timeout=0.002)
    assert caught.value.done == 6


@pytest.mark.parametrize(("policy", "left"), [("drop-new", b"0"), ("drop-old", b"x")])
def test_policies(pool, policy, left):
    with cl.QueuePool.attach(pool, policy=policy) as other:
        pool.put_many([b"0"] * 6)
        for _ in range(3):
            other.put(b"x")
        assert left in pool.get_many(6)
        stats = pool.stats()
        assert stats.dropped_new + stats.dropped_old == 3
    with cl.QueuePool.attach(pool, policy="fail") as other:
        pool.put_many([b"0"] * 6)
        with pytest.raises(cl.QueueFull):
            other.put(b"x", timeout=PATIENCE)


@pytest.mark.skipif(PLATFORM != "linux", reason="the portable build takes naps")
def test_whoever_waits_is_woken_by_any_of_them_and_burns_nothing(pool):
    """Ten thousand of its 100 ms would take for ever."""
    got = []

    def consume():
        got.extend(pool)

    thread = threading.Thread(target=consume)
    thread.start()
    for i in range(2000):
        pool.queues[i * 5 % 3].put(b"%d" % i, timeout=PATIENCE)
    wait_until(lambda: len(got) == 2000, "all to be got")
    began = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - began < 0.03
    pool.shutdown()
    thread.join(PATIENCE)
    assert sorted(map(int, got)) == list(range(2000))


def test_a_producer_waits_for_room_in_any(pool):
    pool.put_many([b"x"] * 6)
    thread = threading.Thread(target=pool.put, args=(b"y", PATIENCE))
    thread.start()
    time.sleep(0.01)
    assert pool.queues[2].get() == b"x"
    thread.join(PATIENCE)
    assert pool.queues[2].get_many(2) == [b"x", b"y"]


def test_in_a_loop(pool, monkeypatch):
    monkeypatch.setattr(looping, "LOOK", PATIENCE)

    async def main():
        async def put():
            for i in range(100):
                await pool.aput(b"%d" % i, timeout=PATIENCE)
            pool.shutdown()

        async def get():
            return [record async for record in pool]

        async with asyncio.TaskGroup() as group:
            getters = [group.create_task(get()) for _ in range(3)]
            group.create_task(put())
        return [record for getter in getters for record in getter.result()]

    assert sorted(map(int, asyncio.run(main()))) == list(range(100))
    with pytest.raises(cl.Closed):
        asyncio.run(pool.aget())


def test_it_is_among_others_that_are_waited_for(pool):
    with cl.Ring.create(1) as ring:
        assert shm.wait_any([ring, pool], timeout=0.001) == []
        pool.queues[2].put(b"x")
        assert shm.wait_any([ring, pool]) == [pool]
        assert asyncio.run(shm.wait_any_async([ring, pool])) == [pool]


def test_shutdown(pool):
    pool.put(b"last")
    pool.shutdown()
    with pytest.raises(cl.Closed):
        pool.put(b"x")
    assert pool.get() == b"last"
    with pytest.raises(cl.Closed):
        pool.get()
    assert list(pool) == []
    assert pool.stats().shut


def test_half_a_shutdown_is_finished_by_whoever_gets(pool):
    pool.queues[1].shutdown()  # and then whoever did it was killed
    with pytest.raises(cl.Closed):
        pool.get(timeout=PATIENCE)
    assert pool.stats().shut


@pytest.mark.skipif(PLATFORM != "linux", reason="the portable build takes naps")
def test_waiting_for_the_last_record_that_somebody_has_burns_nothing(pool):
    pool.put(b"x")
    with cl.QueuePool.attach(pool) as other, pool.queues[0].peek():
        pool.shutdown()
        began = time.process_time()
        with pytest.raises(cl.QueueEmpty):
            other.get(timeout=0.3)
        assert time.process_time() - began < 0.1


# ---- attaching ----


def test_by_name(names):
    with cl.QueuePool.create(4, 2, 16, names) as pool:
        assert pool.name == names
        assert [queue.name for queue in pool.queues] == [names, f"{names}.1", f"{names}.2", f"{names}.3"]
        assert "4 queues" in repr(pool)
        with cl.QueuePool.attach(names) as other, cl.Queue.attach(f"{names}.2") as one:
            other.put_many([b"x"] * 4)
            assert one.get() == b"x"
            assert len(pool.get_many(9)) == 3
        with cl.QueuePool.attach(names, readonly=True) as reader:
            assert reader.stats().dequeued == 4
            with pytest.raises(cl.ShmError, match="read-only"):
                reader.get()
    assert not any(where.name.startswith(names) for where in around.list_segments())


def test_by_handle(pool):
    with pickle.loads(pickle.dumps(pool)) as other, cl.QueuePool.attach(pool.handle) as third:
        other.put(b"x")
        assert third.get(timeout=PATIENCE) == b"x"
        assert pool.stats().members == 3


def _serve(there, back):
    for record in there:
        back.put(record)
    back.shutdown()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing_takes_it_as_an_argument(pool, method, stops_the_tracker):
    with cl.QueuePool.create(2, 2, 16) as back:
        arguments = (pool, back)
        target = _serve if method == "spawn" else _serve_forked
        process = multiprocessing.get_context(method).Process(target=target, args=arguments)
        process.start()
        feeder = threading.Thread(target=lambda: (pool.put_many([b"%d" % i for i in range(50)]), pool.shutdown()))
        feeder.start()
        assert sorted(map(int, back)) == list(range(50))
        feeder.join()
        process.join(PATIENCE)
        assert process.exitcode == 0


def _serve_forked(there, back):
    with pytest.raises(cl.ShmError, match="register"):
        there.get()
    there.register()
    back.register()
    _serve(there, back)


def test_a_dead_participant_is_got_past(pool):
    fds = [queue.segment.fileno() for queue in pool.queues]
    code = (
        "import sys, time\nfrom corelane import shm\n"
        f"queues = [shm.Queue.attach(fd) for fd in {fds}]\nclaims = [queue.reserve() for queue in queues]\n"
        "print(flush=True)\ntime.sleep(60)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=fds)
    try:
        program.stdout.readline()
        pool.put_many([b"x"] * 3)
        with pytest.raises(cl.QueueEmpty):
            pool.get(timeout=0.005)
        program.send_signal(signal.SIGKILL)
        assert sorted(pool.get(timeout=PATIENCE) for _ in range(3)) == [b"x"] * 3
        pool.recover()
        stats = pool.stats()
        assert (stats.recoveries, stats.last_dead, stats.unfinished, stats.members) == (1, program.pid, 3, 1)
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 2, 2), "queues"),
        ((65, 2, 2), "queues"),
        ((2, 0, 2), "slots"),
        ((2, 2, 0), "slot_size"),
        ((2, 2, 2, "a/b"), "name"),
        ((11, 2, 2, "n" * 245), "name"),
    ],
)
def test_what_cannot_be_made(arguments, match):
    with pytest.raises(ValueError, match=match):
        cl.QueuePool.create(*arguments)


def test_a_name_that_is_taken_leaves_nothing(names):
    with cl.Queue.create(2, 2, f"{names}.1"):
        fds = len(os.listdir("/proc/self/fd"))
        with pytest.raises(FileExistsError):
            cl.QueuePool.create(3, 2, 2, names, keep=True)
        assert [where.name for where in around.list_segments() if where.name.startswith(names)] == [f"{names}.1"]
        assert len(os.listdir("/proc/self/fd")) == fds


def test_what_is_no_pool(names, pool):
    with cl.Queue.create(2, 2, names), pytest.raises(cl.Corrupted, match="no pool"):
        cl.QueuePool.attach(names)
    with pytest.raises(cl.ShmError):
        cl.QueuePool.attach(names)
    with pytest.raises(cl.Corrupted, match="not all of one"):
        cl.QueuePool.attach(pool.handle[:2])
    with cl.QueuePool.create(3, 2, 16) as other:
        with pytest.raises(cl.Corrupted, match="not of one pool"):
            cl.QueuePool.attach((*pool.handle[:2], other.handle[2]))
        with pytest.raises(cl.Corrupted, match="not of one pool"):
            cl.QueuePool.attach(pool.handle[::-1])
    pool.close()
    assert pool.closed
    with pytest.raises(ValueError, match="cannot be used"):
        pool.get()


def test_what_is_no_pool_is_not_looked_into():
    with cl.Queue.create(4, 8) as queue:
        queue.put(b"1")
        queue.shutdown()
        with pytest.raises(TypeError, match="target must be the name, the handle or an object of a pool, not <Queue"):
            cl.QueuePool.attach(queue)
        assert queue.get_nowait() == b"1"
