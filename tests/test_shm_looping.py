"""Several tasks, loops and threads that wait for one bell: nobody's wake-up is lost, and no loop is kept."""

import array
import asyncio
import contextlib
import copy
import ctypes
import errno
import gc
import os
import pickle
import resource
import struct
import sys
import threading
import time

import pytest
from helpers import PATIENCE, needs_linux

import corelane as cl
from corelane import errors
from corelane.shm import looping

pytestmark = needs_linux


@pytest.fixture
def ring():
    with cl.Ring.create(1 << 16) as made:
        yield made


@pytest.fixture
def rarely(monkeypatch):
    """Nobody looks by itself: who is woken, was rung for."""
    monkeypatch.setattr(looping, "LOOK", PATIENCE)


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def asleep(ring, side, count):
    """Until so many tasks are on the list."""
    until = time.monotonic() + PATIENCE
    while (bell := ring._bells.get(side)) is None or len(bell._waiting) < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


def test_each_of_several_tasks_gets_its_record(ring, rarely):
    async def main():
        tasks = [asyncio.create_task(ring.aget(timeout=PATIENCE)) for _ in range(5)]
        await asleep(ring, 1, 5)
        for i in range(5):
            ring.put(b"%d" % i)
            await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    assert sorted(asyncio.run(main())) == [b"%d" % i for i in range(5)]


def test_a_task_that_is_cancelled_takes_nothing_with_it(ring, rarely):
    async def main():
        first, second = (asyncio.create_task(ring.aget(timeout=PATIENCE)) for _ in range(2))
        await asleep(ring, 1, 2)
        ring.put(b"x")
        first.cancel()  # the bell has rung, the loop has not heard it
        with pytest.raises(asyncio.CancelledError):
            await first
        return await asyncio.wait_for(second, PATIENCE)

    assert asyncio.run(main()) == b"x"


def test_two_loops_hear_one_bell(ring, rarely):
    got = []
    turn = threading.Barrier(3)

    def live():
        async def main():
            task = asyncio.create_task(ring.aget(timeout=PATIENCE))
            await asleep(ring, 1, 2)
            turn.wait(PATIENCE)
            got.append(await task)

        asyncio.run(main())

    threads = [threading.Thread(target=live) for _ in range(2)]
    for thread in threads:
        thread.start()
    turn.wait(PATIENCE)
    ring.put_many([b"1", b"2"])
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(got) == [b"1", b"2"]
    assert not ring._bells[1]._waiting
    assert not ring._bells[1]._readers


def test_a_selector_does_not_rob_a_task(ring, rarely):
    """get_nowait silences the bell before it arms it: what it read away may have been for a task."""

    async def main():
        task = asyncio.create_task(ring.aget(timeout=PATIENCE))
        await asleep(ring, 1, 1)
        ring.put(b"x")
        ring._heard(1)
        return await asyncio.wait_for(task, PATIENCE)

    assert asyncio.run(main()) == b"x"


def test_producers_of_several_sizes_are_woken_by_the_room_they_need(rarely):
    """One word says from when on they are to be woken: for the one who needs least."""
    with cl.Ring.create(4096) as ring:
        whole = bytes(4096 - 8)

        async def main():
            ring.put(whole)
            large = asyncio.create_task(ring.aput(whole, timeout=PATIENCE))
            await asleep(ring, 0, 1)
            assert ring.get() == whole
            await asyncio.wait_for(large, PATIENCE)
            assert ring.get() == whole

            for _ in range(64):
                ring.put(bytes(56))
            small = asyncio.create_task(ring.aput(b"small", timeout=PATIENCE))
            await asleep(ring, 0, 1)
            large = asyncio.create_task(ring.aput(whole, timeout=PATIENCE))
            await asleep(ring, 0, 2)
            ring.get_many(16)
            await asyncio.wait_for(small, PATIENCE)
            assert not large.done()
            ring.get_many(64)
            await asyncio.wait_for(large, PATIENCE)

        asyncio.run(main())


def test_a_loop_that_always_finds_something_has_turns_for_others(ring):
    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(200):
            ring.put(b"x")
            assert await ring.aget() == b"x"
        task.cancel()
        return turns

    assert asyncio.run(main()) >= 200 // looping._STRAIGHT


def test_nothing_is_left_of_a_wait(ring):
    async def main():
        with pytest.raises(cl.QueueEmpty):
            await ring.aget(timeout=0.001)
        task = asyncio.create_task(ring.aget())
        await asleep(ring, 1, 1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    before = descriptors()
    for _ in range(5):
        asyncio.run(main())
    assert descriptors() == before


@pytest.mark.parametrize("kind", ["ring", "queue", "event"])
def test_loops_that_are_closed_over_their_tasks_leave_nothing(kind):
    made = {"ring": lambda: cl.Ring.create(4096), "queue": lambda: cl.Queue.create(2, 8), "event": cl.EventFd}[kind]()
    wait = made.wait_async if kind == "event" else made.aget

    def leave_one():
        loop = asyncio.new_event_loop()
        task = loop.create_task(wait())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        task._log_destroy_pending = False

    with made:
        leave_one()
        leave_one()
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            leave_one()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_handle_is_closed_when_it_is_dropped(ring):
    """Its bells know it, but do not keep it."""

    async def main():
        other = cl.Ring.attach(ring)
        with pytest.raises(cl.QueueEmpty):
            await other.aget(timeout=0)

    asyncio.run(main())
    gc.disable()
    try:
        asyncio.run(main())
        assert ring.stats().consumer.state == "closed"
    finally:
        gc.enable()


def test_a_forked_child_leaves_the_loop_of_its_parent_alone(ring):
    async def main():
        task = asyncio.create_task(ring.aget(timeout=PATIENCE))
        await asleep(ring, 1, 1)
        pid = os.fork()
        if pid == 0:
            os._exit(bool(ring._bells[1]._waiting or ring._bells[1]._readers))
        assert os.waitpid(pid, 0)[1] == 0
        ring.put(b"x")
        return await asyncio.wait_for(task, PATIENCE)

    assert asyncio.run(main()) == b"x"


def test_nothing_but_a_bell_is_opened(ring, tmp_path):
    """What stands in shared memory is a wish, also to open a device, which alone may do something."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    path = tmp_path / "precious"
    with path.open("wb") as file:
        try:
            assert libc.inotify_add_watch(watch, os.fsencode(path), 0x20) >= 0  # IN_OPEN
            door = ring.segment.buf[3 * 128 : 3 * 128 + 48]  # of the consumer: word, wake_at, pid, and its bell's place
            struct.pack_into("qqi", door, 24, os.getpid(), os.fstat(file.fileno()).st_ino, file.fileno())
            struct.pack_into("I", door, 0, 2 + 4)
            ring.put(b"x")
            with pytest.raises(BlockingIOError):
                os.read(watch, 1000)
            with open(path, "rb"):
                assert os.read(watch, 1000)
        finally:
            os.close(watch)


def test_two_threads_close_a_named_ring_at_once(name):
    for _ in range(200):
        ring = cl.Ring.create(1, name)
        turn, failed = threading.Barrier(2), []

        def close(ring=ring, turn=turn, failed=failed):
            turn.wait(PATIENCE)
            try:
                ring.segment.close()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed


def test_buffers_of_all_kinds_in_their_order(ring):
    kinds = (bytes, bytearray, memoryview, lambda item: array.array("B", item))
    items = [kinds[i % 7 % 4](b"%d" % i) for i in range(50)]
    ring.put_many(items)
    assert ring.get_many(100) == [b"%d" % i for i in range(50)]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 no buffer runs code of its own")
def test_a_buffer_that_puts_itself(ring):
    """Its code runs before we are the producer: what it puts comes first, and nothing is put twice."""

    class Item:
        def __buffer__(self, flags):
            ring.put(b"from within")
            return memoryview(b"itself")

        def __release_buffer__(self, view):
            ring.put(b"afterwards")

    ring.put_many([b"1", Item(), b"2", b"3"])
    assert ring.get_many(9) == [b"1", b"from within", b"itself", b"afterwards", b"2", b"3"]


def claims():
    """How each object lends a piece of its memory: what is made, and the call that lends."""
    queue, ring, broadcast = (lambda: cl.Queue.create(4, 8)), (lambda: cl.Ring.create(4096)), cl.Broadcast.create
    deque = cl.Deque.create
    return {
        "ring reserve": (ring, lambda one: one.reserve(8)),
        "ring peek": (ring, lambda one: (one.put(b"1"), one.peek())[1]),
        "queue reserve": (queue, lambda one: one.reserve()),
        "queue peek": (queue, lambda one: (one.put(b"1"), one.peek())[1]),
        "broadcast reserve": (lambda: broadcast(4, 8), lambda one: one.reserve()),
        "deque reserve": (lambda: deque(4, 8), lambda one: one.reserve()),
        "deque claim": (lambda: deque(4, 8), lambda one: (one.push(b"1"), one.pop_claim())[1]),
    }


@pytest.mark.parametrize("kind", claims())
def test_a_piece_that_is_held_cannot_be_copied(kind):
    """A copy would end the same claim a second time, when it is somebody else's."""
    make, lend = claims()[kind]
    with make() as one:
        held = lend(one)
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=f"{type(held).__name__} cannot be copied or pickled"):
                copied(held)
        with held:
            pass


def test_no_descriptor_left_for_an_event_loop(ring):
    async def get():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        ring.fileno()  # its bell is there; what is missing is the loop's own
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        unused = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    unused.append(os.dup(0))
            with pytest.raises(errors.ShmFailed, match="cannot wait in an event loop: Too many open files") as caught:
                await ring.aget()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in unused:
                os.close(fd)
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(cl.QueueEmpty):
            await ring.aget(timeout=0.01)

    asyncio.run(get())


def buffers_with_an_end(put_many):
    """What of a list was in it when the second one's buffer was asked for."""

    class Stop(Exception):
        pass

    class Once:
        asked = False

        def __buffer__(self, flags):
            if not Once.asked:
                Once.asked = True
                raise Stop
            return memoryview(b"once")

    with pytest.raises(Stop):
        put_many([b"first", Once(), b"last"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 no buffer runs code of its own")
def test_what_a_buffer_raises_once_is_raised():
    """Ctrl-C, say. It comes up only once, so it must not be left to the next call."""
    with cl.Ring.create(4096) as ring, cl.Queue.create(4, 8) as queue, cl.Broadcast.create(4, 8) as broadcast:
        for put_many in (ring.put_many, queue.put_many, broadcast.put_many):
            buffers_with_an_end(put_many)
        assert ring.get() == queue.get() == b"first"
        assert (ring.stats().depth, queue.stats().size) == (0, 0)
    with cl.Deque.create(4, 8) as deque:
        buffers_with_an_end(deque.push_many)
        assert deque.pop() == b"first"
