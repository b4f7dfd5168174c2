"""Pools of buffers: between real processes, through kills and stops; what is read is never another's."""

import asyncio
import contextlib
import errno
import gc
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import PATIENCE, by_every_handle, needs_linux, wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import corelane as cl
from corelane import shm
from corelane.cli.shm import shm as command
from corelane.shm import buffers as buffers_module
from corelane.shm import looping

pytestmark = needs_linux

PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture
def pool():
    with cl.BufferPool.create(4, PAGE) as made:
        yield made


def another_program(code, pool, *args):
    """A Python that runs `code`, with the pool as `p`, and whose lines we can read."""
    fd = pool.segment.fileno()
    head = f"import sys, time, os; import corelane as cl; p = cl.BufferPool.attach({fd})\n"
    program = subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd],
    )
    _programs.append(program)
    return program


_programs: list = []


@pytest.fixture(autouse=True)
def _ends_all():
    """Also those of a test that has failed."""
    yield
    while _programs:
        end(_programs.pop())


def line_of(program):
    return program.stdout.readline().strip()


def end(program):
    program.kill()
    program.wait()
    for pipe in (program.stdin, program.stdout):
        pipe.close()


def all_free(pool):
    """Every block, once: none is lost, none is two's."""
    wait_until(lambda: pool.recover() or pool.stats().allocated == 0, "all blocks to be free")
    taken = [pool.acquire(timeout=0) for _ in range(pool.blocks)]
    assert sorted(block.index for block in taken) == list(range(pool.blocks))
    with pytest.raises(cl.PoolExhausted):
        pool.acquire(timeout=0)
    for block in taken:
        block.release()
    assert pool.stats().available == pool.blocks


# ---- one process ----


def test_a_block(pool):
    with pool.acquire() as block:
        assert (block.size, block.view.nbytes, block.generation, block.pool is pool) == (PAGE, PAGE, 1, True)
        block.view[:5] = b"hello"
        assert bytes(pool.segment.buf[block.offset : block.offset + 5]) == b"hello"
        assert block.segment is pool.segment
        assert (pool.segment.data_offset + block.offset) % PAGE == 0
        assert pool.stats().holders == {os.getpid(): 1}
        view = block.view
    assert block.released
    with pytest.raises(ValueError, match="released"):
        view[0]
    for call in (lambda: block.view, lambda: block.handle, lambda: block.index, block.send, block.array):
        with pytest.raises(ValueError, match="was released"):
            call()
    block.release()
    stats = pool.stats()
    assert (stats.allocations, stats.frees, stats.allocated, stats.peak, stats.available) == (1, 1, 0, 1, 4)
    assert (stats.utilisation, stats.failures, stats.waits, stats.mean_wait, stats.members) == (0.0, 0, 0, None, 1)
    assert abs(stats.last_used - time.time()) < 60
    assert "released" in repr(block)


def test_a_dropped_block_is_free(pool):
    pool.acquire()
    assert pool.stats().allocated == 0
    with pytest.raises(RuntimeError), pool.acquire():
        raise RuntimeError
    assert pool.stats().allocated == 0


def test_arrays(pool):
    block = pool.acquire()
    array = block.array("f4", (8, 16))
    array[:] = np.arange(128).reshape(8, 16)
    assert block.array("f4")[127] == 127
    assert block.array().shape == (PAGE,)
    assert block.array([("a", "u2"), ("b", "f8")], 3)["b"].shape == (3,)
    for shape in (PAGE + 1, (PAGE, 2), -1):
        with pytest.raises(ValueError, match=r"shape must have|needs"):
            block.array("u1", shape)
    with pytest.raises(TypeError, match="Python objects"):
        block.array("O")


@pytest.mark.parametrize("seen", [lambda block: block.array("u1", 5), lambda block: block.view[:5],
                                  lambda block: np.frombuffer(block.view, "u1", 5),
                                  lambda block: np.ndarray(5, "u1", block.view)])  # fmt: skip
def test_what_is_seen_is_never_anothers(pool, seen):
    """A view keeps the block held, after the release, the pool's close, and the drop of all that led to it."""
    other = cl.BufferPool.attach(pool)
    mine = cl.BufferPool.attach(pool)
    block = mine.acquire()
    block.view[:5] = b"hello"
    view = seen(block)
    block.release()
    assert other.stats().allocated == 1
    mine.close()
    with pytest.raises(ValueError, match="closed"):
        mine.acquire()
    assert (mine.closed, other.stats().members) == (True, 3)
    del block, mine
    gc.collect()
    taken = [other.acquire(timeout=0) for _ in range(3)]
    for each in taken:
        each.view[:5] = b"other"
    with pytest.raises(cl.PoolExhausted):
        other.acquire(timeout=0)
    assert other.recover() == 0
    assert bytes(view) == b"hello"
    del view
    stats = other.stats()
    assert (stats.allocated, stats.members, stats.recoveries) == (3, 2, 0)
    del taken, each
    other.close()


def test_several_references(pool):
    block = pool.acquire()
    again = pool.open(block.handle)
    again.view[:2] = b"ab"
    assert bytes(block.view[:2]) == b"ab"
    handle = block.handle
    block.release()
    assert pool.stats().allocated == 1
    again.release()
    with pytest.raises(cl.StaleBlock, match="freed since"):
        pool.open(handle)
    taken = [pool.acquire() for _ in range(4)]  # one of them is that memory, of another use
    with pytest.raises(cl.StaleBlock):
        pool.open(handle)
    del taken


def test_full(pool):
    taken = [pool.acquire() for _ in range(4)]
    began = time.monotonic()
    with pytest.raises(cl.PoolExhausted, match=rf"no free block in time: process {os.getpid()} has 4") as caught:
        pool.acquire(timeout=0.02)
    assert time.monotonic() - began >= 0.02
    assert isinstance(caught.value, cl.ShmError)
    with pytest.raises(cl.PoolExhausted):
        pool.acquire(0)
    assert pool.stats().failures == 2
    assert pool.stats().utilisation == 1.0
    threading.Timer(0.02, taken.pop().release).start()
    with pool.acquire(timeout=PATIENCE):
        stats = pool.stats()
        assert stats.waits == 1
        assert 0.001 < stats.mean_wait < PATIENCE
        assert stats.mean_allocation > 0


def test_a_wait_is_interrupted_by_a_signal(pool):
    def handler(*_):
        raise KeyboardInterrupt

    taken = [pool.acquire() for _ in range(4)]
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            pool.acquire(timeout=PATIENCE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    del taken
    all_free(pool)


@pytest.mark.slow
def test_ctrl_c_anywhere_leaves_no_block_held(pool):
    """An exception between any two steps of the program."""

    def raise_at(count):
        def trace(frame, event, argument):
            nonlocal count
            frame.f_trace_opcodes = True
            count -= frame.f_code.co_filename in (buffers_module.__file__, __file__)
            if count < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        return trace

    def use():
        with pool.acquire() as block:
            with pool.open(block.handle) as again:
                again.view[:1] = b"x"
            array = block.array("u4")
            array[0] = 1
        with pool.open(pool.acquire().send()) as block:
            block.view[:1] = b"y"

    before, count, interrupted = sys.gettrace(), 0, True
    while interrupted:
        interrupted = False
        try:
            sys.settrace(raise_at(count))
            use()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        pool.recall()  # the token may be lost: its bytes are the only ones to know of it
        assert pool.stats().allocated == 0, count
        count += 1
    assert count > 50


def test_nothing_is_leaked():
    def maps():
        with open("/proc/self/maps") as file:
            return sum("corelane" in line for line in file)

    gc.collect()  # of the tests before
    fds, mapped = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(30):
        with cl.BufferPool.create(4, 100) as one, cl.BufferPool.attach(one) as two:
            block = two.acquire()
            array = block.array()
            one.open(block.send())
    del one, two, block, array
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), maps()) == (fds, mapped)


class _Reader:
    """In a cycle with what it reads at its end."""

    def __init__(self, *kept):
        self.kept, self.me = kept, self

    def __del__(self):
        _Reader.last = bytes(self.kept[0].view[:1])


def test_a_cycle_is_collected_in_a_safe_order():
    for _ in range(5):
        pool = cl.BufferPool.create(2, 64)
        block = pool.acquire()
        block.view[:1] = b"x"
        _Reader(block, pool)
        del block, pool
        gc.collect()
        assert _Reader.last == b"x"


# ---- tokens ----


def test_a_token_is_opened_once(pool):
    other = cl.BufferPool.attach(pool)
    block = pool.acquire()
    block.view[:5] = b"hello"
    token = block.send()
    assert block.released
    assert len(token) == 32
    stats = pool.stats()
    assert (stats.in_flight, stats.allocated, stats.holders) == (1, 1, {os.getpid(): 1})
    with other.open(token) as got:
        assert bytes(got.view[:5]) == b"hello"
        assert pool.stats().in_flight == 0
        with pytest.raises(cl.StaleBlock, match="was opened"):
            pool.open(token)
    assert pool.stats().allocated == 0
    assert token.recall() is False
    assert type(pickle.loads(pickle.dumps(token))) is bytes
    other.close()


def test_tokens_are_recalled(pool):
    first, second = pool.acquire(), pool.acquire()
    assert first.send().recall() is True
    with pytest.raises(RuntimeError), second.send() as token:
        raise RuntimeError
    with pytest.raises(cl.StaleBlock):
        pool.open(token)
    with pool.acquire().send() as lost:
        pass
    assert pool.stats().in_flight == 1
    assert pool.recall() == 1
    with pytest.raises(cl.StaleBlock):
        pool.open(lost)
    assert pool.stats().allocated == 0


def test_to_several(pool):
    with cl.BufferPool.attach(pool) as other, pool.acquire() as block:
        tokens = [pool.open(block.handle).send() for _ in range(3)]
        assert pool.stats().in_flight == 3
        with other.open(tokens[0]) as got, pytest.raises(cl.ShmError, match="not all of its tokens were opened"):
            got.send()
        got = [other.open(token) for token in tokens[1:]]
        got[0].send().recall()
    with pool.acquire() as block:
        tokens = [pool.open(block.handle).send() for _ in range(255)]
        with pytest.raises(cl.ShmError, match="255 tokens"):
            block.send()
        assert not block.released
    assert pool.recall() == len(tokens)


def test_a_closed_pool_has_no_tokens(pool):
    with cl.BufferPool.attach(pool) as other:
        token = other.acquire().send()
    with pytest.raises(cl.StaleBlock):
        pool.open(token)
    assert pool.stats().allocated == 0
    with token:
        pass
    with pytest.raises(RuntimeError), token:  # there is nothing to be recalled, and nothing else is raised
        raise RuntimeError


@pytest.mark.parametrize("token", [b"", bytes(32), b"x" * 32, b"x" * 31, b"x" * 33])
def test_what_is_no_token(pool, token):
    with pytest.raises(ValueError, match="no handle and no token"):
        pool.open(token)


def test_tokens_of_others(pool):
    with cl.BufferPool.create(4, PAGE) as stranger, stranger.acquire() as block:
        with pytest.raises(ValueError, match="of another pool"):
            pool.open(block.handle)
        with pytest.raises(TypeError, match="takes the bytes"):
            pool.open(bytearray(block.handle))
        made = bytearray(block.handle)
        made[24:28] = (99).to_bytes(4, sys.byteorder)
        with pytest.raises(ValueError, match="no handle"):
            stranger.open(bytes(made))


# ---- refused ----


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"blocks": 0}, "blocks must be from 1"),
        ({"blocks": 2**21}, "blocks must be from 1"),
        ({"block_size": 0}, "block_size must be from 1"),
        ({"block_size": 2**41}, "block_size must be from 1"),
        ({"members": 0}, "members must be from 1 to 48"),
        ({"members": 49}, "members must be from 1 to 48"),
        ({"spin": -1}, "spin must be at least 0"),
        ({"blocks": 2**20, "block_size": 2**40}, "more than any machine has"),
    ],
)
def test_what_cannot_be_made(arguments, match):
    with pytest.raises(ValueError, match=match):
        cl.BufferPool.create(**{"blocks": 4, "block_size": 8, **arguments})


def test_wrong_arguments(pool):
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            pool.acquire(timeout)
    with pytest.raises(TypeError, match="timeout"):
        pool.acquire(timeout="1")
    with pytest.raises(TypeError, match="no argument"):
        pool.acquire(wait=1)
    with pytest.raises(ValueError, match="idle must be at least 0"):
        pool.trim(idle=-1)
    with pytest.raises(ValueError, match="never opened"):
        cl.BufferPool.__new__(cl.BufferPool).acquire()
    with pytest.raises(ValueError, match="released"):
        _ = shm.Block().view
    assert pool.stats().allocated == 0


def test_too_many_participants():
    with (
        cl.BufferPool.create(4, 8, members=2) as pool,
        cl.BufferPool.attach(pool),
        pytest.raises(cl.ShmError, match="2 participants, all alive"),
    ):
        cl.BufferPool.attach(pool)


def test_a_remedy_that_cannot_be_is_not_offered():
    with cl.BufferPool.create(4, 8) as pool:
        others = [cl.BufferPool.attach(pool) for _ in range(47)]
        with pytest.raises(cl.ShmError, match="48 participants, all alive: no pool can have more: close some"):
            cl.BufferPool.attach(pool)
        for each in others:
            each.close()


def test_one_that_another_thread_is_closing_is_not_said_to_be_read_only():
    with cl.BufferPool.create(4, 8) as pool:
        pool._leave_core()  # the other thread is between that and closing the segment
        with pytest.raises(ValueError, match="was closed"):
            pool.acquire()


def test_read_only(name):
    with cl.BufferPool.create(4, 8, name) as pool, cl.BufferPool.attach(name, readonly=True) as reader:
        token = pool.acquire().send()
        assert reader.stats().in_flight == 1
        for call in (reader.acquire, lambda: reader.open(token), reader.recall, reader.trim, reader.register):
            with pytest.raises(PermissionError, match="read-only"):
                call()


def test_what_is_no_pool(name):
    with shm.Segment.create(10000) as segment, pytest.raises(cl.Corrupted, match="of kind bytes, not buffers"):
        cl.BufferPool.attach(segment)
    with cl.BufferPool.create(4, 8, name), pytest.raises(cl.Corrupted, match="of kind buffers, not queue"):
        cl.Queue.attach(name)


def test_closed(pool):
    with cl.BufferPool.attach(pool) as other:
        pass
    other.close()
    for call in (other.acquire, lambda: other.open(bytes(32)), other.stats, other.recall, other.recover, other.trim,
                 other.register):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.slow
def test_closing_beside_threads_leaves_no_block_behind(pool):
    """A block that is claimed after the closing has looked at its word would be nobody's."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(30):
            other = cl.BufferPool.attach(pool)

            def work(other=other):
                with contextlib.suppress(ValueError):
                    while True:
                        with other.acquire(timeout=0.001) as block, other.open(block.handle):
                            other.trim(idle=0)

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            other.close()
            for thread in threads:
                thread.join()
            stats = pool.stats()
            assert (stats.allocated, stats.members, stats.recoveries) == (0, 1, 0)
        all_free(pool)
    finally:
        sys.setswitchinterval(interval)


# ---- trimming ----


def test_trimming_gives_memory_back(pool):
    def used():
        return os.fstat(pool.segment.fileno()).st_blocks * 512

    whole = used()
    with pool.acquire() as block:
        block.view[:1] = b"x"
        assert pool.trim(idle=0) == 3 * PAGE
    assert used() == whole - 3 * PAGE
    assert pool.trim(idle=3600) == 0
    assert pool.stats().trimmed == 3
    all_free(pool)
    assert used() == whole
    with cl.BufferPool.create(4, 8) as small, pytest.raises(cl.NotSupported, match="whole pages"):
        small.trim()


def test_no_memory_for_what_was_trimmed_is_an_error_and_no_sigbus():
    """In a mount namespace of its own, with a /dev/shm of one megabyte."""
    code = (
        "import corelane as cl\n"
        "from corelane import shm\n"
        "pool = cl.BufferPool.create(4, 100_000, 'pool')\n"
        "assert pool.trim(idle=0) > 400_000\n"
        "taken = [pool.acquire()]\n"
        "other = shm.Segment.create(900_000, 'other')\n"
        "try: pool.acquire()\n"
        "except OSError as error: print(error.errno, error)\n"
        "stats = pool.stats()\n"
        "print(stats.allocated, stats.trimmed, stats.failures)\n"
        "other.close()\n"
        "del other\n"
        "taken.append(pool.acquire())\n"
        "taken[1].view[:] = bytes(100_000)\n"
        "print('fine', flush=True)\n"
    )
    script = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, code],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    assert done.stderr == ""
    first, second, third = done.stdout.splitlines()
    assert first.startswith(f"{errno.ENOSPC} <BufferPool 'pool'")
    assert "was trimmed, and there is no memory for it" in first
    assert (second, third) == ("1 3 1", "fine")


# ---- other processes ----


@by_every_handle
def test_its_handle_is_pickled(named, name):
    code = (
        "import pickle, sys; p = pickle.loads(bytes.fromhex(sys.argv[1])); b = p.open(bytes.fromhex(sys.argv[2]))\n"
        "print(bytes(b.view[:5]).decode(), p.stats().members); b.view[:5] = b'there'"
    )
    with cl.BufferPool.create(4, 64, name if named else None) as pool, pool.acquire() as block:
        block.view[:5] = b"hello"
        done = subprocess.run(
            [sys.executable, "-c", code, pickle.dumps(pool).hex(), block.handle.hex()],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.stderr, done.stdout) == ("", "hello 2\n")
        assert bytes(block.view[:5]) == b"there"
        stats = pool.stats()
        assert (stats.members, stats.recoveries) == (1, 0)  # it has left, it has not died


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_tokens_go_through_queues(method):
    with (
        cl.BufferPool.create(3, 1 << 16) as pool,
        cl.Queue.create(4, 64) as there,
        cl.Queue.create(4, 64) as back,
    ):
        worker = multiprocessing.get_context(method).Process(target=_serve, args=(pool, there, back, method == "fork"))
        worker.start()
        for i in range(20):
            with pool.acquire(timeout=60) as block:
                block.array("u4")[:] = i
                with block.send() as token:
                    there.put(token)
            with pool.open(back.get(timeout=60)) as block:
                assert (block.array("u4") == 2 * i).all()
        worker.join()
        assert worker.exitcode == 0
        stats = pool.stats()
        assert (stats.allocated, stats.recoveries, stats.peak) == (0, 0, 1)
        all_free(pool)


def _serve(pool, there, back, forked):
    if forked:
        for each in (pool, there, back):
            each.register()
    for _ in range(20):
        with pool.open(there.get(timeout=60)) as block:
            block.array("u4")[:] *= 2
            with block.send() as token:
                back.put(token)
    wait_until(lambda: pool.stats().in_flight == 0, "the last one to be opened")


def test_a_forked_child_must_register(pool):
    block, other = pool.acquire(), pool.acquire()
    handle = block.handle
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for call in (pool.acquire, lambda: pool.open(handle), block.send, pool.recall, pool.trim, pool.recover):
                with pytest.raises(cl.ShmError, match="register"):
                    call()
            other.release()  # which is the parent's, and stays so
            pool.register()
            del other
            block.release()
            with pool.open(handle) as mine:
                assert bytes(mine.view[:2]) == b"\0\0"
            mine = pool.acquire()
            code = 0 if pool.stats().allocated == 3 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wait_until(lambda: pool.recover() or pool.stats().members == 1, "the child's place to be free")
    stats = pool.stats()
    assert (stats.allocated, stats.last_dead, stats.reclaimed) == (2, pid, 1)
    block.release()
    other.release()
    all_free(pool)


def test_the_blocks_of_a_dead_one_come_back(pool):
    program = another_program("a = [p.acquire() for _ in range(4)]; print('ready', flush=True); time.sleep(1000)", pool)
    assert line_of(program) == "ready"
    with pytest.raises(cl.PoolExhausted, match=f"process {program.pid} has 4"):
        pool.acquire(timeout=0.01)
    os.kill(program.pid, signal.SIGSTOP)  # not dead: it is not robbed
    with pytest.raises(cl.PoolExhausted):
        pool.acquire(timeout=0.02)
    assert pool.recover() == 0
    end(program)
    began = time.monotonic()
    with pool.acquire(timeout=PATIENCE):
        assert time.monotonic() - began < 1
    stats = pool.stats()
    assert (stats.recoveries, stats.reclaimed, stats.last_dead) == (1, 4, program.pid)
    all_free(pool)


def test_a_sleeper_hears_of_a_death(pool):
    program = another_program("a = [p.acquire() for _ in range(4)]; print('ready', flush=True); time.sleep(1000)", pool)
    assert line_of(program) == "ready"
    threading.Timer(0.15, program.kill).start()
    with pool.acquire(timeout=PATIENCE):
        pass
    end(program)
    all_free(pool)


def test_a_sender_that_dies_before_its_token_is_opened(pool):
    program = another_program("t = p.acquire().send(); print(t.hex(), flush=True); time.sleep(1000)", pool)
    token = bytes.fromhex(line_of(program))
    assert pool.stats().holders == {program.pid: 1}
    end(program)
    wait_until(pool.recover, "the sender's death to be seen")
    with pytest.raises(cl.StaleBlock, match="its sender has ended"):
        pool.open(token)
    all_free(pool)


def test_a_sender_that_dies_after_its_token_was_opened(pool):
    program = another_program(
        "b = p.acquire(); b.view[:5] = b'hello'; print(b.send().hex(), flush=True); time.sleep(1000)", pool
    )
    with pool.open(bytes.fromhex(line_of(program))) as block:
        end(program)
        wait_until(pool.recover, "the sender's death to be seen")
        assert bytes(block.view[:5]) == b"hello"
        assert pool.stats().allocated == 1
    all_free(pool)


def test_a_receiver_that_dies(pool):
    code = "b = p.open(bytes.fromhex(sys.stdin.readline())); print('got', flush=True); time.sleep(1000)"
    program = another_program(code, pool)
    token = pool.acquire().send()
    program.stdin.write(token.hex() + "\n")
    program.stdin.flush()
    assert line_of(program) == "got"
    assert pool.stats().holders == {program.pid: 1}
    end(program)
    all_free(pool)
    program = another_program("print('ready', flush=True); time.sleep(1000)", pool)  # before it has opened it
    assert line_of(program) == "ready"
    token = pool.acquire().send()
    end(program)
    wait_until(pool.recover, "its death to be seen")
    with pool.open(token):  # still on our lease, and ours to take back
        pass
    all_free(pool)


# ---- event loops ----


def test_tasks_wait(pool, monkeypatch):
    monkeypatch.setattr(looping, "LOOK", PATIENCE)  # nobody looks by itself

    async def main():
        taken = [await pool.acquire_async() for _ in range(4)]
        with pytest.raises(cl.PoolExhausted):
            await pool.acquire_async(timeout=0.01)
        tasks = [asyncio.create_task(pool.acquire_async(timeout=PATIENCE)) for _ in range(3)]
        cancelled = asyncio.create_task(pool.acquire_async())
        while (bell := pool._bells.get(0)) is None or len(bell._waiting) < 4:
            await asyncio.sleep(0.001)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        for block in taken[:3]:
            block.release()
            await asyncio.sleep(0)
        got = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        assert len({block.index for block in got}) == 3
        assert pool.stats().failures == 1
        assert pool.stats().waits == 3

    asyncio.run(main())
    gc.collect()
    all_free(pool)


def test_a_task_is_woken_by_another_process(pool, monkeypatch):
    monkeypatch.setattr(looping, "LOOK", PATIENCE)
    code = "a = [p.acquire() for _ in range(4)]; print('ready', flush=True); sys.stdin.readline(); del a; "
    program = another_program(code + "time.sleep(1000)", pool)
    assert line_of(program) == "ready"

    async def main():
        task = asyncio.create_task(pool.acquire_async(timeout=PATIENCE))
        while (bell := pool._bells.get(0)) is None or not bell._waiting:
            await asyncio.sleep(0.001)
        program.stdin.write("\n")
        program.stdin.flush()
        (await asyncio.wait_for(task, PATIENCE)).release()

    asyncio.run(main())
    end(program)
    all_free(pool)


def test_closing_ends_the_waits_of_tasks(pool):
    async def main():
        other = cl.BufferPool.attach(pool)
        taken = [pool.acquire() for _ in range(4)]
        task = asyncio.create_task(other.acquire_async())
        while (bell := other._bells.get(0)) is None or not bell._waiting:
            await asyncio.sleep(0.001)
        other.close()
        with pytest.raises(ValueError, match="closed"):
            await asyncio.wait_for(task, PATIENCE)
        del taken

    asyncio.run(main())


# ---- what is told ----


def test_pools_and_their_figures(name):
    with cl.BufferPool.create(4, 4096, name) as pool:
        with pool.acquire(), pool.acquire():
            found = shm.pools()[name]
            assert (found.allocated, found.blocks, found.block_size, found.utilisation) == (2, 4, 4096, 0.5)
        assert shm.pools([name])[name].available == 4
        done = CliRunner().invoke(command, ["stat", name])
        assert done.exit_code == 0
        assert "utilisation:" in done.output
        told = json.loads(CliRunner().invoke(command, ["stat", name, "--json"]).output)
        assert (told["kind"], told["available"], told["peak"], told["allocations"]) == ("buffers", 4, 2, 2)
    with pytest.raises(FileNotFoundError):
        shm.pools([name])
    assert name not in shm.pools()


# ---- killed again and again ----

_CHURN = """
import random
rng = random.Random(int(sys.argv[1]))
q = cl.Queue.attach(int(sys.argv[2]))
while True:
    try:
        with p.acquire(timeout=0.05) as b:
            a = b.array('u8'); me = os.getpid() << 32 | rng.getrandbits(32); a[:] = me
            with p.open(b.handle) as again: assert (again.array('u8') == me).all()
            assert (a == me).all()
            if rng.random() < 0.5:
                with b.send() as token: q.put(token, timeout=0.05)
            a = None
    except (cl.PoolExhausted, cl.QueueFull): pass
    if rng.random() < 0.2: p.trim(idle=0)
    try:
        with p.open(q.get(timeout=0)) as b:
            a = b.array('u8'); assert (a == a[0]).all(), 'torn'
            a = None
    except (cl.QueueEmpty, cl.StaleBlock): pass
    a = again = None
"""


@pytest.mark.slow
def test_nothing_is_lost_by_kills():
    """SIGKILL at random moments, of anybody: nobody sees another's bytes, and in the end every block is free."""
    rng = random.Random(5)
    with cl.BufferPool.create(6, 2 * PAGE, members=16) as pool, cl.Queue.create(4, 32, members=16) as queue:
        numbers = iter(range(1000))

        def start():
            fds = [pool.segment.fileno(), queue.segment.fileno()]
            head = f"import sys, time, os; import corelane as cl; p = cl.BufferPool.attach({fds[0]})\n"
            argv = [sys.executable, "-c", head + _CHURN, str(next(numbers)), str(fds[1])]
            return subprocess.Popen(argv, pass_fds=fds, stderr=subprocess.PIPE, text=True)

        programs, kills, until = [start() for _ in range(3)], 0, time.monotonic() + 10 * PATIENCE
        try:
            while kills < 8 or pool.stats().allocations < 300:  # some of them die before they have begun
                assert time.monotonic() < until
                time.sleep(rng.uniform(0.1, 0.7))
                index = rng.randrange(3)
                assert programs[index].poll() is None, programs[index].stderr.read()
                programs[index].kill()
                assert "Error" not in programs[index].communicate()[1]
                kills += 1
                programs[index] = start()
        finally:
            for program in programs:
                program.kill()
            told = [program.communicate()[1] for program in programs]
        assert "Error" not in "".join(told)
        all_free(pool)
        stats = pool.stats()
        assert (stats.members, stats.in_flight) == (1, 0)


# ---- against a model ----


class AgainstCounts(RuleBasedStateMachine):
    """Two participants, against who holds what."""

    @initialize(blocks=st.integers(1, 5))
    def make(self, blocks):
        self.handles = [cl.BufferPool.create(blocks, PAGE)]
        self.handles.append(cl.BufferPool.attach(self.handles[0]))
        self.held = []  # (pool, block, its stamp)
        self.tokens = []  # (sender, token, stamp)
        self.old = []  # handles, with the stamp of that use
        self.stamp = 0

    def alive(self):
        return {stamp for _, _, stamp in self.held} | {stamp for _, _, stamp in self.tokens}

    @rule(who=st.integers(0, 1))
    def acquire(self, who):
        pool = self.handles[who]
        if len(self.alive()) == pool.blocks:
            with pytest.raises(cl.PoolExhausted):
                pool.acquire(timeout=0)
        else:
            block = pool.acquire(timeout=0)
            self.stamp += 1
            block.array("u4")[0] = self.stamp
            self.held.append((who, block, self.stamp))
            self.old.append((block.handle, self.stamp))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        _, block, stamp = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        assert block.array("u4")[0] == stamp
        block.release()

    @precondition(lambda self: self.old)
    @rule(who=st.integers(0, 1), data=st.data())
    def open_handle(self, who, data):
        handle, stamp = data.draw(st.sampled_from(self.old))
        if stamp in self.alive():
            block = self.handles[who].open(handle)
            assert block.array("u4")[0] == stamp
            self.held.append((who, block, stamp))
        else:
            with pytest.raises(cl.StaleBlock):
                self.handles[who].open(handle)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def send(self, data):
        at = data.draw(st.integers(0, len(self.held) - 1))
        who, block, stamp = self.held[at]
        if any(sender != who and other == stamp for sender, _, other in self.tokens):
            with pytest.raises(cl.ShmError, match="not all of its tokens"):
                block.send()
        else:
            self.tokens.append((who, block.send(), stamp))
            del self.held[at]

    @precondition(lambda self: self.tokens)
    @rule(who=st.integers(0, 1), data=st.data())
    def open_token(self, who, data):
        _, token, stamp = self.tokens.pop(data.draw(st.integers(0, len(self.tokens) - 1)))
        block = self.handles[who].open(token)
        assert block.array("u4")[0] == stamp
        self.held.append((who, block, stamp))

    @precondition(lambda self: self.tokens)
    @rule(who=st.integers(0, 1))
    def recall(self, who):
        mine = [each for each in self.tokens if each[0] == who]
        assert self.handles[who].recall() == len(mine)
        self.tokens = [each for each in self.tokens if each[0] != who]

    @rule(who=st.integers(0, 1))
    def trim(self, who):
        self.handles[who].trim(idle=0)
        assert self.handles[who].stats().trimmed == self.handles[0].blocks - len(self.alive())

    @invariant()
    def is_counted(self):
        if hasattr(self, "handles"):
            stats = self.handles[0].stats()
            assert (stats.allocated, stats.in_flight) == (len(self.alive()), len(self.tokens))
            assert stats.allocations == self.stamp

    def teardown(self):
        if hasattr(self, "handles"):
            for _, block, _ in self.held:
                block.release()
            for pool in self.handles:
                with contextlib.suppress(ValueError):
                    pool.close()


TestAgainstCounts = AgainstCounts.TestCase
TestAgainstCounts.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
