"""wait_any: over rings and queues at once, woken by whichever comes, and idle until then."""

import asyncio
import gc
import os
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
from corelane.shm import looping, waiting

pytestmark = needs_linux

NO_SPIN = 0.0


@pytest.fixture(params=["words", "bells"])
def way(request, monkeypatch):
    """How a wait sleeps: on the words of all, or, as on an old kernel, for their bells."""
    if request.param == "bells":
        real = waiting.lib

        class OldKernel:
            def __getattr__(self, name):
                return getattr(real, name)

            def cl_wait_any(self, all_, count, deadline, spin, ready):
                rc = real.cl_wait_any(all_, count, 0, spin, ready)
                return rc if rc > 0 else waiting._NOT_HERE

        monkeypatch.setattr(waiting, "lib", OldKernel())
        monkeypatch.setattr(waiting, "LOOK", PATIENCE)
    return request.param


@pytest.fixture
def three():
    with cl.Ring.create(4096) as ring, cl.Queue.create(4, 16) as first, cl.Queue.create(4, 16) as second:
        yield [ring, first, second]


def another_program(code, *objects):
    fds = [one.segment.fileno() for one in objects]
    kinds = [type(one).__name__ for one in objects]
    head = "import sys, time; from corelane import shm\n"
    head += f"all = [getattr(shm, kind).attach(fd) for kind, fd in zip({kinds}, {fds})]\n"
    return subprocess.Popen([sys.executable, "-c", head + code], stdout=subprocess.PIPE, pass_fds=fds)


def end(program):
    program.kill()
    program.wait()
    program.stdout.close()


def test_those_that_are_ready_in_the_order_given(three):
    assert shm.wait_any(three, timeout=0) == []
    assert shm.wait_any(three, timeout=0.002) == []
    three[2].put(b"x")
    assert shm.wait_any(three) == [three[2]]
    three[0].put(b"x")
    assert shm.wait_any(reversed(three)) == [three[2], three[0]]
    assert shm.wait_any([three[2], three[2]]) == [three[2], three[2]]
    three[2].get_nowait()
    three[0].get_nowait()
    three[1].shutdown()  # what is to be said is ready, too
    assert shm.wait_any(three) == [three[1]]


def test_whichever_comes_wakes_it(three, way):
    program = another_program(
        "for i in range(60): time.sleep(0.002); all[i * 7 % 3].put(b'%d' % i)\ntime.sleep(60)",
        *three,
    )
    try:
        got = []
        while len(got) < 60:
            ready = shm.wait_any(three, PATIENCE, spin=NO_SPIN)
            assert ready
            got += [one.get_nowait() for one in ready]
        assert sorted(map(int, got)) == list(range(60))
    finally:
        end(program)


def test_several_threads_wait_for_the_same(three, way):
    """Whoever hears a bell first tells the others."""
    got, started = [], threading.Barrier(4)

    def wait():
        started.wait(PATIENCE)
        while True:
            try:
                for one in shm.wait_any(three, PATIENCE, spin=NO_SPIN):
                    got.append(one.get_nowait())
                    return
            except cl.QueueEmpty:
                continue

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(PATIENCE)
    time.sleep(0.01)
    for i, one in enumerate(three):
        one.put(b"%d" % i)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(got) == [b"0", b"1", b"2"]


def test_a_thread_and_a_task_wait_for_the_same_bell(three, way, monkeypatch):
    monkeypatch.setattr(looping, "LOOK", PATIENCE)
    ready = []
    thread = threading.Thread(target=lambda: ready.append(shm.wait_any(three, PATIENCE, spin=NO_SPIN)))

    async def main():
        task = asyncio.create_task(shm.wait_any_async(three, PATIENCE))
        thread.start()
        await asyncio.sleep(0.02)
        three[1].put(b"x")
        return await asyncio.wait_for(task, PATIENCE)

    assert asyncio.run(main()) == [three[1]]
    thread.join(PATIENCE)
    assert ready == [[three[1]]]


def test_in_a_loop(three, monkeypatch):
    monkeypatch.setattr(looping, "LOOK", PATIENCE)
    program = another_program(
        "for i in range(30): time.sleep(0.002); all[i % 3].put(b'%d' % i)\ntime.sleep(60)", *three
    )

    async def main():
        got = []
        while len(got) < 30:
            got += [one.get_nowait() for one in await shm.wait_any_async(three, PATIENCE)]
        assert await shm.wait_any_async(three, 0.01) == []
        return got

    try:
        assert sorted(map(int, asyncio.run(main()))) == list(range(30))
    finally:
        end(program)


def test_it_learns_of_deaths(three):
    """Of a ring's producer; and of somebody who held a queue's next slot."""
    program = another_program(
        "all[0].take('producer'); claim = all[1].reserve(); print(flush=True); time.sleep(60)", *three
    )
    try:
        program.stdout.readline()
        three[1].put(b"behind it")
        assert shm.wait_any(three, 0.01) == []
        program.kill()
        found = set()
        while len(found) < 2:
            found |= {one.segment for one in shm.wait_any(three, PATIENCE)}
        assert found == {three[0].segment, three[1].segment}
        with pytest.raises(cl.PeerDied):
            three[0].get_nowait()
        assert three[1].get_nowait() == b"behind it"
    finally:
        end(program)


def test_a_signal_ends_it(three, way):
    def raise_it(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        gc.collect()  # what other tests have left has descriptors
        fds = len(os.listdir("/proc/self/fd"))
        for i in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                shm.wait_any(three)
            if i == 0:
                fds = len(os.listdir("/proc/self/fd"))  # with the bells
        assert len(os.listdir("/proc/self/fd")) == fds
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(PLATFORM != "linux", reason="the portable build takes naps")
def test_waiting_costs_nothing(three, way):
    began = time.process_time()
    assert shm.wait_any(three, timeout=0.5) == []
    assert time.process_time() - began < 0.02


def test_more_than_the_kernel_takes_at_once():
    queues = [cl.Queue.create(1, 8) for _ in range(130)]
    try:
        thread = threading.Timer(0.02, lambda: queues[129].put(b"x"))
        thread.start()
        assert shm.wait_any(queues, PATIENCE, spin=NO_SPIN) == [queues[129]]
        thread.join()
    finally:
        for queue in queues:
            queue.close()


def test_closing_one_of_them_ends_it(three, way):
    ready = []
    thread = threading.Thread(target=lambda: ready.append(shm.wait_any(three, PATIENCE, spin=NO_SPIN)))
    thread.start()
    time.sleep(0.01)
    three[1].close()
    wait_until(lambda: ready, "the wait to end")
    thread.join()
    assert ready == [[three[1]]]


def test_a_broadcast_among_others(three, way):
    with cl.Broadcast.create(8, 16) as news, cl.Broadcast.attach(news) as reader:
        assert shm.wait_any([reader, *three], 0) == []
        threading.Timer(0.02, news.put, [b"1"]).start()
        assert shm.wait_any([*three, reader], PATIENCE, spin=0) == [reader]
        assert reader.get_nowait() == b"1"

        async def hear():
            threading.Timer(0.02, news.put, [b"2"]).start()
            return await shm.wait_any_async([reader, *three], PATIENCE)

        assert asyncio.run(hear()) == [reader]
        assert reader.get_nowait() == b"2"
        news.close()
        assert shm.wait_any([three[0], reader], PATIENCE) == [reader]
        with pytest.raises(cl.Closed):
            reader.get_nowait()


def test_a_broadcasts_writer_that_dies_is_heard_of(three, way):
    with cl.Broadcast.create(8, 16) as news, cl.Broadcast.attach(news) as reader:
        pid = os.fork()
        if pid == 0:
            own = cl.Broadcast.attach(news, subscribe=False)
            own.put(b"last")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert reader.get(PATIENCE) == b"last"
        assert shm.wait_any([*three, reader], PATIENCE) == [reader]
        with pytest.raises(cl.PeerDied):
            reader.get_nowait()


def test_what_cannot_be_waited_for(three):
    with pytest.raises(ValueError, match="at least one"):
        shm.wait_any([])
    with pytest.raises(TypeError, match=r"takes a list of objects: wait_any\(\[...\]\), not <"):
        shm.wait_any(three[0])  # which is an iterator, and would never end
    with pytest.raises(TypeError, match="not for 3"):
        shm.wait_any([three[0], 3])
    for timeout in (-1, float("nan"), "1"):
        with pytest.raises((ValueError, TypeError), match="timeout"):
            shm.wait_any(three, timeout)
    with pytest.raises(ValueError, match="spin"):
        shm.wait_any(three, spin=-1)
    with cl.Ring.attach(three[0]) as other:
        shm.wait_any(three, 0)
        with pytest.raises(cl.SideTaken):
            shm.wait_any([other])
    with (
        cl.Broadcast.create(8, 16) as news,
        cl.Broadcast.attach(news, readonly=True) as other,
        pytest.raises(cl.NotSupported, match="read-only"),
    ):
        shm.wait_any([other])
    with cl.Queue.attach(three[1], readonly=True) as other, pytest.raises(cl.ShmError, match="read-only"):
        shm.wait_any([other])
    three[2].close()
    with pytest.raises(ValueError, match="cannot be used"):
        shm.wait_any(three)
    with pytest.raises(ValueError, match="at least one"):
        asyncio.run(shm.wait_any_async([]))
