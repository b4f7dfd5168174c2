"""Objects made with membarrier: the same as others, and refused where there is no membarrier(2)."""

import asyncio
import os
import pickle
import subprocess
import sys
import time

import pytest
from helpers import PATIENCE, needs_linux

import corelane as cl
from corelane import shm
from corelane._ffi import lib
from corelane.shm.names import path_of

pytestmark = needs_linux

ROUNDS = 3000


def can():
    """Whether membarrier(2) can be had: asked in another process, as asking is registering."""
    code = "from corelane._ffi import lib; raise SystemExit(lib.cl_membarrier_register() < 0)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


needs_membarrier = pytest.mark.skipif(not can(), reason="no membarrier(2) here: not in this build, or not for us")


def make_ring():
    return cl.Ring.create(4096, spin=0, membarrier=True)


def make_queue():
    return cl.Queue.create(4, 16, spin=0, membarrier=True)


both = pytest.mark.parametrize("make", [make_ring, make_queue], ids=["ring", "queue"])

# Another program, which answers what it gets, and is asleep in between.
ECHO = """
import sys, corelane as cl
kind = getattr(cl, sys.argv[1])
there, back = (kind.attach(int(fd), spin=0) for fd in sys.argv[2:4])
while (data := there.get(timeout=60)) != b"over":
    back.put(data, timeout=60)
"""
# From `forbid()` on, a filter of system calls refuses membarrier(2).
FILTER = """
import ctypes, struct, platform
number = {"x86_64": 324}.get(platform.machine(), 283)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
def forbid():
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    made = Program(4, ctypes.addressof(program))
    assert libc.prctl(22, 2, ctypes.byref(made), 0, 0) == 0, ctypes.get_errno()
"""


def another_program(code, *args, fds=()):
    """A Python that runs `code`: its return code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@needs_membarrier
@both
def test_two_processes_that_sleep_are_woken_thousands_of_times(make):
    """A wake-up that was lost takes the rest of 100 ms."""
    with make() as there, make() as back:
        fds = there.segment.fileno(), back.segment.fileno()
        echo = subprocess.Popen([sys.executable, "-c", ECHO, type(there).__name__, *map(str, fds)], pass_fds=fds)
        try:
            there.put(b"0", timeout=PATIENCE)
            assert back.get(timeout=PATIENCE) == b"0"
            late = 0
            for number in range(ROUNDS):
                began = time.monotonic()
                there.put(b"%d" % number, timeout=PATIENCE)
                assert back.get(timeout=PATIENCE) == b"%d" % number
                late += time.monotonic() - began > 0.09
            there.put(b"over", timeout=PATIENCE)
            assert echo.wait(PATIENCE) == 0
            said = there.stats()
            assert (said.wakes if isinstance(said, shm.QueueStats) else said.producer.wakes) > ROUNDS // 10  # it slept
        finally:
            echo.kill()
            echo.wait()
    # A machine that does much else may hold up one now and then. That none is lost, csrc's litmus test looks for.
    assert late <= ROUNDS // 100


@needs_membarrier
@both
def test_all_who_attach_it_know(make):
    with make() as one, type(one).attach(one) as again, pickle.loads(pickle.dumps(one)) as third:
        assert (one.membarrier, again.membarrier, third.membarrier) == (True, True, True)
    for plain in (cl.Ring.create(4096), cl.Queue.create(4, 16)):
        with plain:
            assert not plain.membarrier


@needs_membarrier
@both
def test_under_an_event_loop(make):
    async def main(there, back):
        async def answer():
            for _ in range(200):
                await back.aput(await theirs.aget(timeout=PATIENCE), timeout=PATIENCE)

        with type(there).attach(there, spin=0) as theirs, type(back).attach(back, spin=0) as ours:
            task = asyncio.create_task(answer())
            for number in range(200):
                await there.aput(b"%d" % number, timeout=PATIENCE)
                assert await ours.aget(timeout=PATIENCE) == b"%d" % number
            await task

    with make() as there, make() as back:
        asyncio.run(main(there, back))


@needs_membarrier
@both
def test_waiting_for_several(make):
    with make() as one, make() as two, type(two).attach(two) as other:
        assert shm.wait_any([one, two], timeout=0.01) == []
        other.put(b"x")
        assert shm.wait_any([one, two], timeout=PATIENCE) == [two]


@needs_membarrier
def test_a_pool_of_queues():
    with cl.QueuePool.create(2, 4, 16, membarrier=True) as pool:
        pool.put(b"x", timeout=PATIENCE)
        assert pool.get(timeout=PATIENCE) == b"x"


@needs_membarrier
def test_a_forked_child():
    with make_queue() as queue:
        pid = os.fork()
        if pid == 0:
            try:
                queue.register()
                queue.put(b"child", timeout=PATIENCE)
                queue.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert queue.get(timeout=PATIENCE) == b"child"
        assert os.waitpid(pid, 0)[1] == 0


@needs_membarrier
@both
def test_whoever_may_not_is_refused(make):
    """To make one, to attach one, and to wait for one, if the filter came later. Looking on needs nothing."""
    code = FILTER + (
        "import sys, corelane as cl\n"
        "kind, fd = getattr(cl, sys.argv[1]), int(sys.argv[2])\n"
        "def says(call):\n"
        "    try: print('went on', call())\n"
        "    except cl.NotSupported as error: print(error)\n"
        "late = kind.attach(fd)\n"
        "forbid()\n"
        "says(lambda: late.get(timeout=1))\n"
        "says(lambda: kind.attach(fd))\n"
        "says(lambda: kind.create(8192, **({'slot_size': 8} if kind is cl.Queue else {}), membarrier=True))\n"
        "print(kind.attach(fd, readonly=True).membarrier)\n"
    )
    with make() as one:
        fd = one.segment.fileno()
        rc, said = another_program(code, type(one).__name__, fd, fds=[fd])
    assert rc == 0, said
    *refusals, looked = said.splitlines()
    assert len(refusals) == 3, said
    for each in refusals:
        assert "membarrier(2)" in each
        assert "create it without membarrier=True" in each
    assert looked == "True"


def test_nothing_is_made_where_there_is_none(name):
    """In a build without it (portable), and of what is no bool."""
    for create in (
        lambda value: cl.Ring.create(4096, name, membarrier=value),
        lambda value: cl.Queue.create(4, 16, name, membarrier=value),
    ):
        with pytest.raises(TypeError, match="membarrier must be True or False, not 1"):
            create(1)
        if lib.cl_membarrier_register() < 0:
            with pytest.raises(cl.NotSupported, match=r"membarrier\(2\)"):
                create(True)
        assert not os.path.lexists(path_of(name))
