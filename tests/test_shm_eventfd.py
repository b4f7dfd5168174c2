"""EventFd: counting, waiting by every road, passed on, closed and forked under those who wait; as an eventfd, and as
the FIFO that stands in for one."""

import asyncio
import contextlib
import dis
import errno
import gc
import multiprocessing
import os
import pickle
import select
import socket
import sys
import threading
import time

import pytest
from faults_child import fresh, nothing_left
from helpers import PATIENCE, needs_linux, wait_until

import corelane as cl
from corelane import shm
from corelane._ffi import lib
from corelane.shm import eventfd

MOST = 2**64 - 2


class Fifo(shm.EventFd):
    """What macOS has."""

    __slots__ = ()
    _flags = lib.CL_EVENTFD_FIFO


KINDS = [pytest.param(shm.EventFd, id="eventfd", marks=needs_linux), pytest.param(Fifo, id="fifo")]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def _nothing_left(request):
    # What multiprocessing has for its resource tracker stays until that is stopped, after this.
    with contextlib.nullcontext() if "stops_the_tracker" in request.fixturenames else nothing_left():
        yield


def is_readable(event):
    return bool(select.select([event], [], [], 0)[0])


def is_asleep(thread):
    """Whether it is in ppoll(2), so far as the system tells; waiting for the GIL is another call."""
    try:
        with open(f"/proc/self/task/{thread.native_id}/syscall") as call:
            return call.read().split()[0] in ("271", "73")  # x86-64, and all that are newer
    except OSError:
        return True


# ---- the count ----


def test_a_counter_is_taken_whole(kind):
    with kind(3) as event:
        assert is_readable(event)
        assert event.wait() == 3
        assert not is_readable(event)
        assert event.wait_nowait() == 0
        for n in (1, 2, 1000):
            event.signal(n)
        assert event.wait(1) == 1003
        assert event.wait(0) == 0
        event.signal(2**40)
        event.signal(2**40)
        assert event.wait() == 2**41


def test_a_semaphore_is_taken_one_by_one(kind):
    with kind(2, semaphore=True) as event:
        event.signal()
        assert [event.wait_nowait() for _ in range(4)] == [1, 1, 1, 0]
        event.signal(1300)
        assert sum(event.wait_nowait() for _ in range(2000)) == 1300


def test_a_wait_ends_with_its_time(kind):
    with kind() as event:
        for timeout in (0, 0.02, 0.15):  # 0.15: longer than one sleep in C
            began = time.monotonic()
            assert event.wait(timeout) == 0
            assert timeout <= time.monotonic() - began < timeout + 5


def test_many_signals_that_nobody_waits_for(kind):
    with kind() as event:
        for _ in range(3000):
            event.signal(7)
        assert event.wait() == 21_000
        assert event.wait_nowait() == 0


@needs_linux
def test_it_is_full_at_its_most():
    with shm.EventFd(MOST) as event:
        for timeout in (0, 0.02):
            with pytest.raises(cl.QueueFull, match="has no room for 1 more: nobody waits") as info:
                event.signal(timeout=timeout)
            assert info.value.done == 0
        assert event.wait() == MOST
        event.signal(MOST - 1)
        with pytest.raises(cl.QueueFull, match="no room for 2 more"):
            event.signal(2, timeout=0.02)  # it is writable, for one
        event.signal(1)
        assert event.wait_nowait() == MOST


def fill(event, n=1):
    """Signal until there is no room; how much that was."""
    added = 0
    while True:
        try:
            event.signal(n, timeout=0)
        except cl.QueueFull as error:
            return added + error.done
        added += n


@pytest.mark.parametrize("semaphore", [False, True])
def test_a_fifo_is_full_at_its_size(semaphore):
    with Fifo(semaphore=semaphore) as event:
        added = fill(event, 10**6 if semaphore else 1)
        assert added >= (4096 if semaphore else 512)
        assert event.wait_nowait() == (1 if semaphore else added)
        taken = sum(iter(event.wait_nowait, 0))
        assert taken == (added - 1 if semaphore else 0)
        if semaphore:
            with pytest.raises(ValueError, match="more than a FIFO holds"):
                Fifo(10**6, semaphore=True)


def test_a_signal_waits_for_room(kind):
    with kind(MOST if kind is shm.EventFd else 0) as event:
        filled = fill(event) or MOST
        thread = threading.Thread(target=event.signal, args=[5])
        thread.start()
        wait_until(lambda: is_asleep(thread), "a thread that has no room")
        taken = event.wait(PATIENCE)
        thread.join(PATIENCE)
        # There is room before the last of a FIFO is read.
        assert taken + event.wait_nowait() == filled + 5


# ---- several who wait ----


def test_one_signal_is_for_one_of_two_who_wait(kind):
    got = []
    with kind(semaphore=True) as event:
        threads = [threading.Thread(target=lambda: got.append(event.wait(PATIENCE))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(map(is_asleep, threads)), "two who wait")
        event.signal()
        wait_until(lambda: got, "the first")
        assert not all(thread.is_alive() for thread in threads)
        event.signal()
        for thread in threads:
            thread.join(PATIENCE)
        assert (got, event.wait_nowait()) == ([1, 1], 0)


@pytest.mark.parametrize("semaphore", [False, True])
def test_nothing_is_lost_or_got_twice(kind, semaphore):
    rounds, signallers, waiters = 400, 3, 3
    got = [0] * waiters

    def take(i):
        with contextlib.suppress(ValueError):  # it is closed in the end
            while True:
                got[i] += event.wait()

    with kind(semaphore=semaphore) as event:
        takers = [threading.Thread(target=take, args=[i]) for i in range(waiters)]
        givers = [threading.Thread(target=lambda: [event.signal() for _ in range(rounds)]) for _ in range(signallers)]
        for thread in takers + givers:
            thread.start()
        for thread in givers:
            thread.join(PATIENCE)
        wait_until(lambda: sum(got) >= rounds * signallers, "all of them")
    for thread in takers:
        thread.join(PATIENCE)
    assert sum(got) == rounds * signallers


# ---- other processes ----

PING = """
import corelane as cl, sys
from corelane.shm import EventFd
there, back = EventFd.attach(3), EventFd.attach(4)
for _ in range(int(sys.argv[1])):
    n = there.wait(20)
    back.signal(n + 1)
"""


def test_a_child_waits_and_signals(kind):
    with kind() as there, kind() as back:
        child = cl.Command(sys.executable, "-c", PING, "200", fds={3: there, 4: back})
        with child.spawn() as process:
            for i in range(1, 201):
                there.signal(i)
                assert back.wait(PATIENCE) == i + 1
            assert process.wait(PATIENCE) == 0


@needs_linux
def test_a_program_that_knows_only_eventfds():
    code = "import os, select; select.select([3], [], []); os.eventfd_write(4, os.eventfd_read(3) * 2)"
    with shm.EventFd() as there, shm.EventFd() as back:
        process = cl.Command(sys.executable, "-c", code, fds={3: there, 4: back}).spawn()
        there.signal(21)
        assert back.wait(PATIENCE) == 42
        process.wait(PATIENCE)
        process.close()


@needs_linux
def test_one_that_was_made_by_another_library():
    """It blocks those who read it; the second of two who are woken would never come back."""
    fd = os.eventfd(5)
    with shm.EventFd.attach(fd) as event:
        assert event.wait() == 5
        assert event.wait(0.02) == 0
        os.eventfd_write(fd, 3)
        assert event.wait_nowait() == 3
    os.eventfd_write(fd, 3)  # it is still open
    os.close(fd)


def test_what_says_what_it_is_goes_with_its_descriptor(kind):
    for semaphore in (False, True):
        with kind(2, semaphore=semaphore) as event, kind.attach(event) as other, kind.attach(other.fileno()) as third:
            assert third.wait() == (1 if semaphore else 2)
            third.signal(3)
            assert event.wait() == (1 if semaphore else 3)


def test_it_is_sent_through_a_socket(kind):
    one, two = socket.socketpair()
    with one, two, kind(4) as event:
        socket.send_fds(one, [b"event"], [event.fileno()])
        _, fds, _, _ = socket.recv_fds(two, 10, 1)
        with kind.from_fd(fds[0]) as received:
            assert received.fileno() != fds[0]
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fds[0])
            assert received.wait() == 4


def answer(there, back):
    back.signal(there.wait(20) * 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_is_an_argument_of_multiprocessing(kind, method, stops_the_tracker):
    if method == "fork" and sys.platform == "darwin":
        pytest.skip("a fork without exec is not safe here")
    context = multiprocessing.get_context(method)
    with kind() as there, kind(semaphore=True) as back:
        process = context.Process(target=answer, args=(there, back))
        process.start()
        there.signal(21)
        assert [back.wait(PATIENCE) for _ in range(42)] == [1] * 42
        process.join(PATIENCE)
        assert (process.exitcode, back.wait_nowait()) == (0, 0)
        process.close()
    if method == "forkserver":
        from multiprocessing import forkserver

        forkserver._forkserver._stop()


def test_it_is_not_pickled_otherwise(kind):
    with kind() as event, pytest.raises(TypeError, match=r"cannot be pickled: .* Command\(fds=\{3: event\}\)"):
        pickle.dumps(event)


def test_a_forked_child_shares_the_count(kind):
    with kind() as event:
        pid = os.fork()
        if pid == 0:
            event.signal(6)
            os._exit(0)
        assert event.wait(PATIENCE) == 6
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_closes_what_a_thread_of_its_parent_was_using(kind):
    """In the child nobody is in that call, and nobody would close the descriptor after it."""
    with kind() as event:
        thread = threading.Thread(target=event.wait, args=[PATIENCE])
        thread.start()
        wait_until(lambda: is_asleep(thread), "a thread that waits")
        pid = os.fork()
        if pid == 0:
            fd = event.fileno()
            event.close()
            try:
                os.fstat(fd)
            except OSError:
                os._exit(0)
            os._exit(1)
        status = os.waitpid(pid, 0)[1]
        event.signal()
        thread.join(PATIENCE)
        assert status == 0


# ---- signals ----


def wait_for_ctrl_c(flags):
    import signal
    import threading
    import time

    from corelane.shm import EventFd

    EventFd._flags = flags
    event = EventFd()

    def strike():
        os.write(1, b".")  # the other thread runs: who waits does not hold the GIL
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    for timeout in (None, 30):
        thread = threading.Thread(target=strike)
        thread.start()
        began = time.monotonic()
        try:
            event.wait(timeout)
        except KeyboardInterrupt:
            assert time.monotonic() - began < 10
        else:
            raise AssertionError("it was not interrupted")
        thread.join()
    event.signal()
    assert event.wait(1) == 1


def test_ctrl_c_ends_a_wait(kind):
    assert fresh(wait_for_ctrl_c, kind._flags) == ".."


def count_ticks(flags):
    """A handler that raises nothing does not end a wait, nor make it longer."""
    import signal
    import time

    from corelane.shm import EventFd

    EventFd._flags = flags
    ticks = 0

    def tick(*unused):
        nonlocal ticks
        ticks += 1

    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    began = time.monotonic()
    assert EventFd().wait(0.3) == 0
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert 0.3 <= time.monotonic() - began < 10
    assert ticks > 3


def test_a_handler_runs_while_it_waits(kind):
    fresh(count_ticks, kind._flags)


def raise_at(count):
    """A tracer that raises at the given opcode of eventfd.py. Not at a return: there Python looks for no signal."""

    def trace(frame, happened, argument):
        nonlocal count
        frame.f_trace_opcodes = True
        returns = happened == "opcode" and dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
        count -= frame.f_code.co_filename == eventfd.__file__ and not returns and happened in ("call", "opcode")
        if count < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    return trace


def test_ctrl_c_anywhere_loses_no_count(kind):
    """An exception between any two steps: what a wait has taken by then is there again."""

    for semaphore in (False, True):
        event, unit = kind(3, semaphore=semaphore), 1 if semaphore else 3
        before, count, interrupted = sys.gettrace(), 0, True
        while interrupted:
            interrupted, got = False, None
            try:
                sys.settrace(raise_at(count))
                got = event.wait(1)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                sys.settrace(before)
            there = sum(iter(event.wait_nowait, 0))
            assert there + (got or 0) == 3, f"at point {count}"
            event.signal(3)
            assert got in (None, unit)
            count += 1
        assert count > 20
        event.close()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_anywhere_leaves_no_descriptor(kind):
    async def scenario():
        with kind() as event, kind.attach(event) as other:
            other.signal()
            assert await event.wait_async() == 1
            assert await event.wait_async(0.001) == 0

    asyncio.run(scenario())
    before, count, interrupted = sys.gettrace(), 0, True
    while interrupted:
        interrupted = False
        with nothing_left(), asyncio.Runner() as runner:
            loop = runner.get_loop()
            task = loop.create_task(scenario())
            try:
                sys.settrace(raise_at(count))
                loop.run_until_complete(task)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                sys.settrace(before)
            del task
        count += 7
    assert count > 200


# ---- under an event loop ----


def test_tasks_wait_for_it(kind):
    async def main():
        with kind() as event:
            assert await event.wait_async(0) == 0
            assert await event.wait_async(0.02) == 0
            waiting = asyncio.create_task(event.wait_async())
            await asyncio.sleep(0)
            assert not waiting.done()
            event.signal(9)
            assert await asyncio.wait_for(waiting, PATIENCE) == 9

    asyncio.run(main())


def test_several_tasks_wait_for_one(kind):
    async def main():
        with kind(semaphore=True) as event:
            tasks = [asyncio.create_task(event.wait_async(PATIENCE)) for _ in range(5)]
            await asyncio.sleep(0)
            for done in range(1, 6):
                event.signal()
                while sum(task.done() for task in tasks) < done:
                    await asyncio.sleep(0.001)
                assert sum(task.done() for task in tasks) == done
            assert [task.result() for task in tasks] == [1] * 5

    asyncio.run(main())


def test_a_cancelled_task_takes_nothing(kind):
    async def main():
        with kind() as event:
            task = asyncio.create_task(event.wait_async())
            await asyncio.sleep(0)
            task.cancel()
            event.signal(2)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert event.wait_nowait() == 2
            assert not event._sleepers

    asyncio.run(main())


def test_a_forked_child_leaves_its_parents_loop_alone(kind):
    """A close there would write into the pipe that wakes the parent's loop."""

    async def main():
        with kind() as event:
            task = asyncio.create_task(event.wait_async())
            await asyncio.sleep(0)
            pid = os.fork()
            if pid == 0:
                os._exit(len(event._sleepers))
            assert os.waitpid(pid, 0)[1] == 0
            assert len(event._sleepers) == 1
            event.signal()
            assert await task == 1

    asyncio.run(main())


def test_another_process_wakes_a_loop(kind):
    async def main(event):
        code = "from corelane.shm import EventFd; EventFd.attach(3).signal(8)"
        async with cl.Command(sys.executable, "-c", code, fds={3: event}).spawn_async() as process:
            assert await event.wait_async(PATIENCE) == 8
            await process.wait()

    with kind() as event:
        asyncio.run(main(event))


@needs_linux
def test_a_loop_that_waits_does_nothing(kind):
    """No timer, no looking: it is in the selector until the signal."""

    async def main():
        loop = asyncio.get_running_loop()
        turns = 0
        select_once = loop._selector.select

        def counted(timeout=None):
            nonlocal turns
            turns += 1
            return select_once(timeout)

        loop._selector.select = counted
        with kind() as event:
            timer = threading.Timer(0.3, event.signal)
            timer.start()
            assert await event.wait_async() == 1
            timer.join()
        assert turns < 6

    asyncio.run(main())


# ---- the end ----


def test_who_waits_is_told_of_a_close(kind):
    errors = []

    def wait(event):
        try:
            event.wait()
        except ValueError as error:
            errors.append(str(error))

    event = kind()
    thread = threading.Thread(target=wait, args=[event])
    thread.start()
    wait_until(lambda: is_asleep(thread), "a thread that waits")
    event.close()
    thread.join(PATIENCE)
    assert errors == [f"<{kind.__name__}, closed> cannot be used any more"]


@pytest.mark.parametrize("from_thread", [False, True])
def test_a_task_that_waits_is_told_of_a_close(kind, from_thread):
    async def main():
        event = kind()
        task = asyncio.create_task(event.wait_async())
        await asyncio.sleep(0)
        if from_thread:
            await asyncio.to_thread(event.close)
        else:
            event.close()
        with pytest.raises(ValueError, match="cannot be used any more"):
            await asyncio.wait_for(task, PATIENCE)

    asyncio.run(main())


def test_a_task_that_begins_to_wait_is_told_of_a_close(kind, monkeypatch):
    """The task has its copy of the descriptor, and waits the next moment: a thread closes the event in between."""

    class Lib:
        def __getattr__(self, name):
            return getattr(lib, name)

        def cl_eventfd_dup(self, core, own):
            rc = lib.cl_eventfd_dup(core, own)
            thread = threading.Thread(target=event.close)
            thread.start()
            thread.join()
            return rc

    monkeypatch.setattr(eventfd, "lib", Lib())

    async def main():
        with pytest.raises(ValueError, match="cannot be used any more"):
            await asyncio.wait_for(event.wait_async(), PATIENCE)

    event = kind()
    asyncio.run(main())


def test_what_is_closed_is_refused(kind):
    with kind() as event:
        assert not event.closed
    event.close()
    assert event.closed
    assert repr(event) == f"<{kind.__name__}, closed>"
    for call in (event.wait, event.wait_nowait, event.signal, event.fileno, lambda: asyncio.run(event.wait_async())):
        with pytest.raises(ValueError, match="cannot be used any more"):
            call()


def test_a_dropped_one_is_closed(kind):
    event = kind()
    fd = event.fileno()
    del event
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# ---- bad input ----


def test_counts_and_times_that_cannot_be(kind):
    for bad in (-1, 2**64 - 1, 2**70):
        with pytest.raises(ValueError, match=r"initial must be from 0 to"):
            kind(bad)
    for bad in (1.0, "1", True, None):
        with pytest.raises(TypeError, match="initial must be an integer"):
            kind(bad)
    with pytest.raises(TypeError, match="semaphore must be True or False"):
        kind(semaphore=1)
    with kind() as event:
        for bad in (0, -1, 2**64 - 1):
            with pytest.raises(ValueError, match="n must be from 1 to"):
                event.signal(bad)
        with pytest.raises(TypeError, match="n must be an integer"):
            event.signal(1.5)
        for call in (event.wait, lambda timeout: event.signal(1, timeout)):
            for bad in (-1, float("nan")):
                with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
                    call(bad)
            with pytest.raises(TypeError, match="timeout must be a number of seconds"):
                call("1")
        assert event.wait_nowait() == 0


def test_what_is_no_event_is_not_attached(tmp_path):
    reader, writer = os.pipe()
    one, two = socket.socketpair()
    with one, two, open(tmp_path / "file", "wb") as file, select.epoll() if hasattr(select, "epoll") else one as poller:
        os.mkfifo(tmp_path / "fifo")
        named = os.open(tmp_path / "fifo", os.O_RDWR)
        for fd in (reader, writer, one, file, poller, named):
            with pytest.raises(ValueError, match="is of no event"):
                shm.EventFd.attach(fd)
        for fd in (reader, writer, named):
            os.close(fd)
    with pytest.raises(cl.ShmError, match=r"cannot attach the event at descriptor .*: Bad file descriptor") as info:
        shm.EventFd.attach(reader)
    assert info.value.errno == errno.EBADF
    for bad in ("3", -1, True, None, 3.0):
        with pytest.raises(TypeError, match="target must be a descriptor of an event"):
            shm.EventFd.attach(bad)


def test_a_fifo_that_was_written_to_by_a_stranger():
    with Fifo() as event:
        event.signal(2)
        os.write(event.fileno(), b"12345")
        with pytest.raises(cl.Corrupted, match="written to by a stranger"):
            event.wait()
        os.write(event.fileno(), bytes(8))
        with pytest.raises(cl.Corrupted, match="written to by a stranger"):
            event.wait(0)
        for _ in range(2):
            os.write(event.fileno(), b"\xff" * 8)
        assert event.wait() == MOST


def no_more_descriptors(flags):
    import resource

    from corelane.shm import EventFd

    EventFd._flags = flags
    import tempfile

    tempfile.gettempdir()
    highest = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    filling = []
    try:
        while True:
            filling.append(os.dup(0))
    except OSError:
        pass
    try:
        EventFd()
    except OSError as error:
        print(type(error).__name__, error)


def test_without_descriptors_it_is_an_error_that_says_so(kind):
    said = fresh(no_more_descriptors, kind._flags)
    assert said == "ShmFailed cannot make an event: Too many open files\n"
