"""Waiting for queues: in threads, tasks and selectors; arrays of records; what is counted of waits."""

import asyncio
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import PATIENCE, needs_linux, wait_until

import corelane as cl
from corelane._ffi import PLATFORM
from corelane.shm import looping

pytestmark = needs_linux


@pytest.fixture
def queue():
    with cl.Queue.create(4, 16, spin=0) as made:
        yield made


@pytest.fixture
def rarely(monkeypatch):
    """No task looks by itself: who is woken, was rung for."""
    monkeypatch.setattr(looping, "LOOK", PATIENCE)


def another_program(code, queue, *args):
    """A Python that runs `code`, with the queue as `q`."""
    fd = queue.segment.fileno()
    head = f"import sys, time, os, asyncio; from corelane import shm, Closed; q = shm.Queue.attach({fd})\n"
    return subprocess.Popen([sys.executable, "-c", head + code, *map(str, args)], stdout=subprocess.PIPE, pass_fds=[fd])


def end(program):
    program.kill()
    program.wait()
    program.stdout.close()


async def asleep(queue, what, count):
    until = time.monotonic() + PATIENCE
    while (bell := queue._bells.get(what)) is None or len(bell._waiting) < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


# ---- tasks ----


def test_many_tasks_on_both_sides_of_one_handle(queue, rarely):
    async def main():
        async def put(number):
            for i in range(20):
                await queue.aput(b"%d %d" % (number, i), timeout=PATIENCE)

        async def get():
            return [await queue.aget(timeout=PATIENCE) for _ in range(20)]

        async with asyncio.TaskGroup() as group:
            getters = [group.create_task(get()) for _ in range(5)]
            for number in range(5):
                group.create_task(put(number))
        return [record for getter in getters for record in getter.result()]

    got = asyncio.run(main())
    assert sorted(got) == sorted(b"%d %d" % (number, i) for number in range(5) for i in range(20))


def test_a_task_is_woken_by_another_process(queue, rarely):
    program = another_program("for i in range(50): q.put(b'%d' % i); time.sleep(0.001)\nq.shutdown()", queue)
    try:

        async def main():
            return [record async for record in queue]

        assert asyncio.run(main()) == [b"%d" % i for i in range(50)]
    finally:
        end(program)


def test_a_task_that_waits_for_room(queue, rarely):
    queue.put_many([b"x"] * 4)

    async def main():
        task = asyncio.create_task(queue.aput(b"y", timeout=PATIENCE))
        await asleep(queue, 1, 1)
        assert queue.get_many(4) == [b"x"] * 4
        await task
        assert queue.get_nowait() == b"y"
        with pytest.raises(cl.QueueEmpty, match="in time"):
            await queue.aget(timeout=0.01)
        with pytest.raises(ValueError, match="timeout"):
            await queue.aget(timeout=-1)
        queue.put_many([b"x"] * 4)
        with pytest.raises(cl.QueueFull, match="in time"):
            await queue.aput(b"y", timeout=0.01)
        with pytest.raises(ValueError, match="17 bytes"):
            await queue.aput(bytes(17))

    asyncio.run(main())
    stats = queue.stats()
    assert (stats.failed_gets, stats.failed_puts) == (1, 1)


@pytest.mark.parametrize("policy", ["fail", "drop-new", "drop-old"])
def test_the_policy_is_that_of_a_task_too(queue, policy):
    with cl.Queue.attach(queue, policy=policy) as other:
        queue.put_many([b"1", b"2", b"3", b"4"])

        async def main():
            if policy == "fail":
                with pytest.raises(cl.QueueFull):
                    await other.aput(b"5")
            else:
                await other.aput(b"5")

        asyncio.run(main())
        assert queue.get_many(9)[-1] == (b"5" if policy == "drop-old" else b"4")


def test_a_task_learns_of_a_death_behind_a_slot(queue):
    program = another_program("c = q.reserve(); print(flush=True); time.sleep(60)", queue)
    program.stdout.readline()
    queue.put(b"behind it")

    async def main():
        task = asyncio.create_task(queue.aget(timeout=PATIENCE))
        await asleep(queue, 0, 1)
        program.kill()
        return await task

    try:
        assert asyncio.run(main()) == b"behind it"
    finally:
        end(program)


def test_closing_the_handle_ends_its_tasks(queue, rarely):
    async def main():
        task = asyncio.create_task(queue.aget())
        await asleep(queue, 0, 1)
        queue.close()
        with pytest.raises(ValueError, match="closed"):
            await asyncio.wait_for(task, PATIENCE)

    asyncio.run(main())


def test_a_forked_child_waits_after_it_has_registered(queue):
    async def wait():
        with pytest.raises(cl.QueueEmpty):
            await queue.aget(timeout=0.001)

    asyncio.run(wait())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pytest.raises(cl.ShmError, match="register"):
                asyncio.run(queue.aget())
            with pytest.raises(cl.ShmError, match="register"):
                queue.fileno()
            queue.register()
            asyncio.run(wait())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    asyncio.run(wait())


def test_a_reader_closes_beside_one_who_waits(queue):
    """Whoever leaves wakes those who wait; a reader has nothing to leave, and may not write."""
    with pytest.raises(cl.QueueEmpty):
        queue.get(timeout=0.001)  # which leaves a mark that somebody sleeps
    for _ in range(2):
        cl.Queue.attach(queue, readonly=True).close()


# ---- selectors ----


@pytest.mark.parametrize("side", ["consumer", "producer"])
def test_a_selector_is_told_by_another_process(queue, side):
    if side == "producer":
        queue.put_many([b"x"] * 4)
    code = "for line in sys.stdin: q.get() if sys.argv[1] == 'producer' else q.put(b'x')"
    fd = queue.segment.fileno()
    head = f"import sys; from corelane import shm; q = shm.Queue.attach({fd})\n"
    program = subprocess.Popen([sys.executable, "-c", head + code, side], stdin=subprocess.PIPE, pass_fds=[fd])
    attempt, empty = (
        (lambda: queue.put_nowait(b"y"), cl.QueueFull) if side == "producer" else (queue.get_nowait, cl.QueueEmpty)
    )
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(queue if side == "consumer" else queue.fileno(side), selectors.EVENT_READ)
            assert selector.select(PATIENCE)  # at first, so that what was there before is found
            for _ in range(3):
                with pytest.raises(empty):
                    attempt()
                assert not selector.select(0)
                program.stdin.write(b"\n")
                program.stdin.flush()
                assert selector.select(PATIENCE)
                attempt()
    finally:
        program.kill()
        program.wait()
        program.stdin.close()


def test_whoever_asked_for_no_descriptor_arms_none(queue):
    with pytest.raises(cl.QueueEmpty):
        queue.get_nowait()
    queue.put(b"x")
    assert queue.stats().wakes == 0
    with pytest.raises(ValueError, match="side"):
        queue.fileno("both")


# ---- threads ----


def test_a_wait_is_ended_by_a_signal(queue):
    def raise_it(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            queue.get()
        claim = queue.reserve()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with cl.Queue.attach(queue) as other, pytest.raises(KeyboardInterrupt):
            other.get()  # behind the slot of another one
        claim.cancel()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert queue.stats().get_waits == 2


def test_it_spins_as_it_was_told(queue):
    for spin in (0, 0.001, None):
        with cl.Queue.create(1, 1, spin=spin) as made, cl.Queue.attach(made, spin=spin) as again:
            assert pickle.loads(pickle.dumps(again))._spin == spin
    with pytest.raises(ValueError, match="spin"):
        cl.Queue.create(1, 1, spin=-1)


@pytest.mark.skipif(PLATFORM != "linux", reason="the portable build takes naps")
def test_who_waits_for_long_costs_nothing(queue):
    began = time.process_time()
    with pytest.raises(cl.QueueEmpty):
        queue.get(timeout=0.5)
    assert time.process_time() - began < 0.02


def test_waits_are_counted_by_those_who_waited(queue):
    queue.put(b"x")
    assert queue.get() == b"x"
    with pytest.raises(cl.QueueEmpty):
        queue.get_nowait()
    stats = queue.stats()
    assert (stats.put_waits, stats.get_waits, stats.mean_get_wait, stats.mean_put_wait) == (0, 0, 0.0, 0.0)
    began = []
    thread = threading.Thread(target=lambda: began.append(time.monotonic()) or queue.get())
    thread.start()
    wait_until(lambda: began and time.monotonic() > began[0] + 0.02, "the thread to wait for a while")
    queue.put(b"y")
    thread.join()
    with pytest.raises(cl.QueueEmpty):
        queue.get(timeout=0.01)
    queue.put_many([b"x"] * 4)
    with cl.Queue.attach(queue) as other, pytest.raises(cl.QueueFull):
        other.put(b"y", timeout=0.01)
    stats = queue.stats()
    assert (stats.put_waits, stats.get_waits) == (1, 2)
    assert 0.01 <= stats.mean_put_wait < PATIENCE
    assert 0.01 <= stats.mean_get_wait < PATIENCE
    assert stats.wakes >= 1 or PLATFORM != "linux"


# ---- arrays ----


def test_records_of_an_array(queue):
    kind = np.dtype([("x", "i8"), ("y", "f4")])
    array = np.zeros(10, kind)
    array["x"] = range(10)
    thread = threading.Thread(target=queue.records_in, args=(array,))
    thread.start()
    got = [queue.records_out(kind, 3, timeout=PATIENCE)]
    while sum(map(len, got)) < 10:
        got.append(queue.records_out(kind, 100, timeout=PATIENCE))
    thread.join()
    assert np.array_equal(np.concatenate(got), array)
    queue.records_in(array[:0])
    queue.records_in(np.arange(8, dtype="i8").reshape(4, 2)[::2])
    assert queue.get_many(2) == [np.array(pair, "i8").tobytes() for pair in ((0, 1), (4, 5))]


def test_many_records_are_taken_in_pieces():
    with cl.Queue.create(4096, 8) as queue:
        array = np.arange(4000, dtype="i8")
        queue.records_in(array)
        assert np.array_equal(queue.records_out("i8", 5000), array)


def test_records_that_are_none(queue):
    queue.put(b"four")
    queue.put(b"eightbyt")
    with pytest.raises(ValueError, match="has 4 bytes, not the 8"):
        queue.records_out("i8", 3)
    assert queue.get() == b"four"  # it has stayed
    queue.put(b"four")
    assert queue.records_out("S8", 3).tolist() == [b"eightbyt"]
    assert queue.get() == b"four"
    with pytest.raises(cl.QueueEmpty):
        queue.records_out("i8", 3, timeout=0.001)
    with pytest.raises(ValueError, match="100 bytes"):
        queue.records_out("S100", 3)
    with pytest.raises(ValueError, match="24 bytes"):
        queue.records_in(np.zeros((2, 3)))
    for bad, error in ((np.array([object()]), TypeError), (np.array(3), ValueError)):
        with pytest.raises(error):
            queue.records_in(bad)
    for kind, most, error in (("O", 1, TypeError), ("V0", 1, ValueError), ("i8", 0, ValueError)):
        with pytest.raises(error):
            queue.records_out(kind, most)
    with pytest.raises(cl.QueueFull) as caught:
        queue.records_in(np.arange(9, dtype="i8"), timeout=0.001)
    assert caught.value.done == 4


def test_arrays_are_dropped_by_the_policy(queue):
    with cl.Queue.attach(queue, policy="drop-old") as other:
        other.records_in(np.arange(9, dtype="i8"))
        assert queue.records_out("i8", 9).tolist() == [5, 6, 7, 8]
        assert queue.stats().dropped_old == 5
