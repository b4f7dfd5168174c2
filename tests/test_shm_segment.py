"""Segments: shared, named, passed on by every road, held until the kernel says otherwise, refused in words."""

import errno
import gc
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import by_every_handle, needs_lease_files, needs_linux, needs_memfd, needs_reopening, wait_until

import corelane as cl
from corelane import shm
from corelane._ffi import lib
from corelane.shm import around
from corelane.shm.names import DIRECTORY, PREFIX

pytestmark = needs_linux


def in_another_program(code, *args, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False, timeout=60, **options
    )


# ---- made, shared, passed on ----


def test_one_without_a_name():
    with shm.Segment.create(100) as segment:
        assert (segment.size, segment.name, segment.readonly, segment.closed) == (100, None, False, False)
        assert bytes(segment.buf) == bytes(100)
        segment.buf[:5] = b"hello"
        with shm.Segment.attach(segment) as other:
            assert bytes(other.buf[:5]) == b"hello"
            other.buf[0] = ord("j")
        assert bytes(segment.buf[:5]) == b"jello"
    assert segment.closed
    assert "closed" in repr(segment)


def test_an_unrelated_program_attaches_it_by_name(name):
    code = (
        "import sys; from corelane import shm\n"
        "with shm.Segment.attach(sys.argv[1]) as s: s.buf[:3] = bytes(reversed(s.buf[:3]))"
    )
    with shm.Segment.create(3, name) as segment:
        segment.buf[:] = b"abc"
        done = in_another_program(code, name)
        assert (done.returncode, done.stderr) == (0, "")
        assert bytes(segment.buf) == b"cba"


def test_it_is_passed_to_a_child_as_a_descriptor():
    code = "from corelane import shm; s = shm.Segment.attach(3); s.buf[0] += 1; print(s.size)"
    with shm.Segment.create(10) as segment:
        segment.buf[0] = 41
        assert cl.read([sys.executable, "-c", code], fds={3: segment}) == "10\n"
        assert segment.buf[0] == 42


def test_it_is_a_childs_stdin_without_a_byte_passing_through_us():
    with shm.Segment.create(6) as segment:
        segment.buf[:] = b"bytes\n"
        fd = os.open(f"/proc/self/fd/{segment.fileno()}", os.O_RDONLY)  # an offset of its own
        try:
            os.lseek(fd, segment.data_offset, os.SEEK_SET)
            assert cl.read(["head", "-c", "6"], stdin=fd) == "bytes\n"
        finally:
            os.close(fd)


def test_it_is_sent_over_a_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs, shm.Segment.create(10) as segment:
        segment.buf[3] = 3
        socket.send_fds(ours, [b"x"], [segment.fileno()])
        _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
        with shm.Segment.attach(fd) as other:
            os.close(fd)
            assert other.buf[3] == 3


@by_every_handle
def test_its_handle_is_pickled(named, name):
    code = (
        "import pickle, sys; handle = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "from corelane import shm; s = shm.Segment.attach(handle); s.buf[0] = 9; print(handle)"
    )
    with shm.Segment.create(10, name if named else None) as segment:
        done = in_another_program(code, pickle.dumps(segment.handle).hex())
        assert (done.stderr, segment.buf[0]) == ("", 9)
        again = pickle.loads(pickle.dumps(segment))
        assert again.buf[0] == 9
        assert again.handle == segment.handle or not named
        assert len({segment.handle, segment.handle}) == 1


def _increment(segment):
    segment.buf[0] += 1


@pytest.mark.usefixtures("stops_the_tracker")
def test_multiprocessing_takes_it_as_an_argument():
    with shm.Segment.create(10) as segment:
        worker = multiprocessing.get_context("spawn").Process(target=_increment, args=(segment,))
        worker.start()
        worker.join()
        assert (worker.exitcode, segment.buf[0]) == (0, 1)


def _report(objects, out):
    queue = objects[0]
    out.put_many([*queue.get_many(9), repr(queue.name).encode()])
    out.put_many([type(each).__name__.encode() for each in objects])


@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_a_worker_is_given_may_be_closed_before_it_is_up(method, named, name):
    with cl.Queue.create(32, 64) as out:
        queue = cl.Queue.create(4, 64, name if named else None)
        others = [
            cl.Ring.create(1), cl.Broadcast.create(4, 64), cl.Deque.create(4, 64), cl.BufferPool.create(2, 64),
            cl.QueuePool.create(queues=2, slots=2, slot_size=64), cl.Lock.create(), cl.Semaphore.create(1),
            cl.Event.create(), cl.Barrier.create(2), shm.Segment.create(9),
        ]  # fmt: skip
        objects = [queue, *others]
        worker = multiprocessing.get_context(method).Process(target=_report, args=(objects, out))
        worker.start()
        queue.put_many([b"one", b"two"])
        for each in objects:
            each.close()
        worker.join()
        assert worker.exitcode == 0
        kinds = [type(each).__name__.encode() for each in objects]
        assert out.get_many(99) == [b"one", b"two", repr(name if named else None).encode(), *kinds]
    if method == "forkserver":
        from multiprocessing import forkserver

        forkserver._forkserver._stop()


def _look_twice(queue, segment):
    assert segment.buf[:2] == queue.segment.buf[:2]


@pytest.mark.usefixtures("stops_the_tracker")
def test_a_worker_may_be_given_an_object_and_its_segment():
    with cl.Queue.create(4, 64) as queue:  # which have one descriptor, and none can be passed twice
        arguments = (queue, queue.segment)
        worker = multiprocessing.get_context("spawn").Process(target=_look_twice, args=arguments)
        worker.start()
        worker.join()
        assert worker.exitcode == 0


@needs_reopening
def test_a_handle_whose_process_has_gone_says_so():
    done = cl.run(
        [sys.executable, "-c", "import pickle, sys; from corelane import shm; s = shm.Segment.create(9)\n"
         "sys.stdout.buffer.write(pickle.dumps(s.handle))"],
        capture=True,
    )  # fmt: skip
    with pytest.raises(FileNotFoundError, match="has closed it, or has ended") as caught:
        shm.Segment.attach(pickle.loads(done.stdout))
    assert isinstance(caught.value, cl.ShmError)


@needs_lease_files
def test_a_handle_without_a_name_leads_only_to_its_own_process():
    code = "import pickle, sys; from corelane import shm; shm.Segment.attach(pickle.loads(bytes.fromhex(sys.argv[1])))"
    with shm.Segment.create(10) as segment:
        handle = pickle.loads(pickle.dumps(segment.handle))
        segment.buf[0] = 1
        with shm.Segment.attach(handle) as same:
            assert same.buf[0] == 1
        said = in_another_program(code, pickle.dumps(handle).hex()).stderr
        assert "NotSupported" in said
        assert "give the segment a name, pass the descriptor" in said
    with pytest.raises(FileNotFoundError, match="it has closed it"):
        shm.Segment.attach(handle)
    other = os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, handle.fd)
    try:
        with pytest.raises(FileNotFoundError, match="another one is there now"):
            shm.Segment.attach(handle)
    finally:
        for fd in {other, handle.fd}:
            os.close(fd)


def _attach_and_count(segment, ready, go):
    descriptors = len(os.listdir("/proc/self/fd"))
    segment.buf[0] += 1
    ready.set()
    go.wait()
    segment.close()
    del segment
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < descriptors


@needs_lease_files
@pytest.mark.usefixtures("stops_the_tracker")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_takes_one_without_a_name(method):
    """Also when whoever made it has closed it before the other one is there."""
    context = multiprocessing.get_context(method)
    ready, go = context.Event(), context.Event()
    segment = shm.Segment.create(10)
    with shm.Segment.attach(segment) as same:
        worker = context.Process(target=_attach_and_count, args=(segment, ready, go))
        worker.start()
        segment.close()
        assert ready.wait(60)
        go.set()
        worker.join()
        assert (worker.exitcode, same.buf[0]) == (0, 1)


def test_a_handle_of_what_was_replaced_is_refused(name):
    with shm.Segment.create(10, name) as first:
        old = first.handle
    with shm.Segment.create(10, name), pytest.raises(FileNotFoundError, match="another one is there now"):
        shm.Segment.attach(old)


# ---- what is read stays mapped ----


def test_a_view_outlives_its_segment():
    segment = shm.Segment.create(1 << 20)
    array = np.frombuffer(segment.buf, "u1")
    array[-1] = 5
    segment.close()
    with pytest.raises(ValueError, match="closed"):
        _ = segment.buf
    with pytest.raises(ValueError, match="closed"):
        segment.fileno()
    del segment
    gc.collect()
    assert array[-1] == 5


def test_nothing_is_leaked(name):
    def maps():
        with open("/proc/self/maps") as file:
            return sum("corelane" in line for line in file)

    fds, mapped = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(50):
        with shm.Segment.create(100) as one, shm.Segment.attach(one) as two:
            assert two.buf[0] == 0
        with shm.Segment.create(100, name), pytest.raises(FileExistsError):
            shm.Segment.create(100, name)
    del one, two
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), maps()) == (fds, mapped)


# ---- names ----


def test_a_name_goes_with_its_maker(name):
    with shm.Segment.create(10, name) as segment:
        assert around.entry_of(name).held
        attached = shm.Segment.attach(name)
    assert not os.path.exists(f"{DIRECTORY}/{PREFIX}{name}")
    assert segment.closed
    attached.buf[0] = 1  # whoever has it keeps it
    attached.close()


def test_a_name_that_is_kept(name):
    with shm.Segment.create(10, name, keep=True) as segment:
        segment.buf[0] = 7
    with shm.Segment.attach(name) as again:
        assert again.buf[0] == 7
        again.unlink()
    with pytest.raises(FileNotFoundError):
        shm.Segment.attach(name)


def test_the_name_goes_at_the_interpreters_end(name):
    code = "import sys; from corelane import shm; s = shm.Segment.create(10, sys.argv[1]); print(s.name)"
    assert in_another_program(code, name).stdout == f"{name}\n"
    assert not os.path.exists(f"{DIRECTORY}/{PREFIX}{name}")


def test_a_forked_child_does_not_remove_it(name):
    with shm.Segment.create(10, name) as segment:
        pid = os.fork()
        if pid == 0:
            segment.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        shm.Segment.attach(name).close()


def test_only_its_own_name_is_removed(name):
    with shm.Segment.create(10, name) as first:
        os.unlink(f"{DIRECTORY}/{PREFIX}{name}")
        second = shm.Segment.create(20, name)
        first.unlink()
        shm.Segment.attach(name).close()
        second.close()


def test_permissions(name):
    old = os.umask(0o077)
    try:
        with shm.Segment.create(10, name, mode=0o644) as segment:
            there = os.stat(segment.fileno())
            assert there.st_mode & 0o7777 == 0o644
            assert os.stat(f"{DIRECTORY}/{PREFIX}{name}").st_uid == os.geteuid()
    finally:
        os.umask(old)


class _User:
    """In a cycle with what it uses at its end."""

    ended = 0

    def __init__(self, segment, view):
        self.segment, self.view, self.me = segment, view, self

    def __del__(self):
        assert bytes(self.view) == bytes(len(self.view))
        if self.segment is not None:
            self.segment.close()
        _User.ended += 1


@pytest.mark.parametrize("only_its_view", [False, True])
def test_a_cycle_is_collected_in_a_safe_order(only_its_view):
    before = _User.ended
    for _ in range(5):
        segment = shm.Segment.create(2**20)
        _User(None if only_its_view else segment, segment.buf)
        del segment
        gc.collect()
    assert _User.ended == before + 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user(name):
    # Everything is imported first: the interpreter may lie where another user cannot read.
    code = (
        "import os, sys; from corelane import shm; shm.Segment.create(1).close(); os.setuid(65534)\n"
        "try: shm.Segment.attach(sys.argv[1]).close(); print('attached')\n"
        "except PermissionError as error: print(error)"
    )
    with shm.Segment.create(10, name):
        said = in_another_program(code, name).stdout
        assert "Permission denied" in said
        assert name in said
    with shm.Segment.create(10, name, owner=65534):
        assert in_another_program(code, name).stdout == "attached\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_descriptor_of_what_may_not_be_opened(name):
    # A lease is a description of one's own: who may open none cannot hold the segment, and is told so.
    code = (
        "import os; from corelane import shm; shm.Segment.create(1).close(); os.setuid(65534)\n"
        "try: shm.Segment.attach(0)\n"
        "except PermissionError as error: print(error)"
    )
    with shm.Segment.create(10, name) as segment:
        assert "Permission denied; we may not open its file for that" in in_another_program(code, stdin=segment).stdout


def test_read_only(name):
    with shm.Segment.create(10, name) as segment, shm.Segment.attach(name, readonly=True) as reader:
        segment.buf[0] = 1
        assert reader.readonly
        assert reader.buf[0] == 1
        with pytest.raises(TypeError):
            reader.buf[0] = 2
        with pytest.raises(ValueError, match="read-only"):
            np.frombuffer(reader.buf, "u1")[0] = 2


# ---- options ----


def test_memory_that_is_there_already():
    with shm.Segment.create(1 << 20, populate=True) as segment:
        with open("/proc/self/smaps") as file:
            text = file.read()
        block = text[re.search(r"memfd:corelane|/\.corelane\.part", text).start() :]
        resident = next(line for line in block.splitlines() if line.startswith("Rss:"))
        assert int(resident.split()[1]) >= 1024
        assert segment.size == 1 << 20


def test_memory_that_is_locked():
    with shm.Segment.create(65536, lock=True):
        with open("/proc/self/status") as file:
            locked = next(line for line in file if line.startswith("VmLck"))
        assert int(locked.split()[1]) >= 64


@needs_memfd
def test_memory_of_a_node():
    if not os.path.exists("/sys/devices/system/node/node0"):
        pytest.skip("this kernel knows no NUMA nodes")
    with shm.Segment.create(65536, numa=("bind", "0")) as segment:
        segment.buf[0] = 1
    with pytest.raises(OSError, match="cannot make a segment of 100 bytes"):
        shm.Segment.create(100, numa=("bind", 1000))


@needs_memfd
def test_huge_pages():
    path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
    if not os.path.exists(path):
        pytest.skip("this kernel has no pages of 2 MiB")
    with open(path) as file:
        free = int(file.read())
    if free:
        with shm.Segment.create(3 << 20, huge_pages="2M") as segment:
            segment.buf[-1] = 1
    else:
        with pytest.raises(OSError, match="too few pages of 2M are free"):
            shm.Segment.create(3 << 20, huge_pages="2M")


@needs_lease_files
@pytest.mark.parametrize("options", [{"huge_pages": "2M"}, {"numa": ("bind", "0")}])
def test_memory_that_the_platform_does_not_have(options):
    with pytest.raises(cl.NotSupported, match="neither huge pages nor NUMA nodes"):
        shm.Segment.create(100, **options)


def test_a_full_file_system_is_an_error_and_no_sigbus(tmp_path):
    """In a mount namespace of its own, with a /dev/shm of one megabyte."""
    code = (
        "from corelane import shm\n"
        "try: shm.Segment.create(2 << 20, 'large')\n"
        "except OSError as error: print(error.errno, error)\n"
        "print(len(shm.Segment.create(500_000, 'small').buf), flush=True)\n"
    )
    script = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, code],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    assert done.stderr == ""
    assert done.stdout.startswith(f"{errno.ENOSPC} cannot make a segment of 2097152 bytes named 'large'")
    assert "is full" in done.stdout
    assert done.stdout.endswith("500000\n")


# ---- ordinary files ----


def test_an_ordinary_file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    with shm.Segment.from_file(path) as segment:
        assert bytes(segment.buf) == b"0123456789"
        assert segment.readonly
        assert segment.data_offset == 0
    with shm.Segment.from_file(path, readonly=False) as segment:
        segment.buf[0] = ord("x")
    assert path.read_bytes() == b"x123456789"


def test_files_that_cannot_be_mapped(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(cl.Corrupted, match="has 0 bytes"):
        shm.Segment.from_file(tmp_path / "empty")
    with pytest.raises(cl.Corrupted, match="no regular file"):
        shm.Segment.from_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        shm.Segment.from_file(tmp_path / "gone")


# ---- refused ----


@pytest.mark.parametrize("wrong", ["", "a/b", "../x", "ä", "a b", "x" * 300, "nul\0"])
def test_names_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="name must"):
        shm.Segment.create(10, wrong)
    with pytest.raises(ValueError, match="name must"):
        shm.Segment.attach(wrong)


@pytest.mark.parametrize("size", [0, -1, 2**63])
def test_sizes_that_cannot_be(size):
    with pytest.raises(ValueError, match="size must be from 1"):
        shm.Segment.create(size)


@pytest.mark.parametrize(
    "options",
    [{"mode": 0o1777}, {"huge_pages": "3M"}, {"numa": "bind"}, {"numa": ("everywhere", 0)}, {"owner": 0}],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        shm.Segment.create(10, **options)


@pytest.mark.parametrize("make", [shm.Segment.create, cl.Ring.create])
def test_options_that_there_are_not(make):
    with pytest.raises(TypeError, match="sizze: no such option; there are mode, owner"):
        make(4096, sizze=1)


@pytest.mark.parametrize("private", ["about", "layout"])
def test_what_only_objects_say_is_no_option(private):
    with pytest.raises(TypeError, match=f"{private}: no such option"):
        shm.Segment.create(10, **{private: 1})


@needs_memfd
def test_a_node_that_is_not_there():
    with pytest.raises(OSError, match=r"numa=\('bind', '1000'\): are all of these nodes there") as caught:
        shm.Segment.create(10, numa=("bind", "1000"))
    assert caught.value.errno == errno.EINVAL


def test_a_symbolic_link_is_not_followed(name):
    path = f"{DIRECTORY}/{PREFIX}{name}"
    with shm.Segment.create(10, f"{name}-2"):
        os.symlink(f"{path}-2", path)
        try:
            with pytest.raises(OSError, match="is a symbolic link, which is not followed"):
                shm.Segment.attach(name)
        finally:
            os.unlink(path)


def test_what_is_larger_than_memory():
    with pytest.raises(OSError, match="bytes of memory and swap are available") as caught:
        shm.Segment.create(1 << 50)
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize("target", [None, 1.5, True, object(), -1])
def test_what_cannot_be_attached(target):
    with pytest.raises(TypeError, match="must be a name, a Handle or a descriptor"):
        shm.Segment.attach(target)


OBJECTS = {
    "ring": lambda: cl.Ring.create(4096),
    "queue": lambda: cl.Queue.create(2, 8),
    "broadcast": lambda: cl.Broadcast.create(2, 8),
    "deque": lambda: cl.Deque.create(2, 8),
    "buffers": lambda: cl.BufferPool.create(2, 8),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_of_another_kind_is_named(kind):
    """By its segment; the descriptor that fileno() tells of is a bell's."""
    with OBJECTS[kind]() as there:
        for other, made in OBJECTS.items():
            with made() as one:
                if other == kind:
                    type(one).attach(there).close()
                    continue
                with pytest.raises(cl.Corrupted, match=f"it is of kind {kind}, not {other}"):
                    type(one).attach(there)
        with pytest.raises(cl.Corrupted, match=f"it is of kind {kind}, not array"):
            shm.attach_array(there)


def _version(file):
    file.seek(8)
    file.write(b"\xff")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.truncate(0), "it has 0 bytes, and would need at least 4096"),
        (lambda file: file.truncate(100), "it has 100 bytes, and would need at least 4096"),
        (lambda file: file.truncate(8192), "it has 8192 bytes, and was made with 24096: somebody has resized it"),
        (lambda file: file.truncate(40000), "it has 40000 bytes, and was made with 24096: somebody has resized it"),
        (_version, "its layout is of version 255, and this corelane's of 1"),
    ],
)
def test_a_file_that_was_changed(name, spoil, why):
    """Refused before it is mapped: a touch of what is cut off would be SIGBUS."""
    with shm.Segment.create(20_000, name):
        with open(f"{DIRECTORY}/{PREFIX}{name}", "r+b") as file:
            spoil(file)
        with pytest.raises(cl.Corrupted, match=why):
            shm.Segment.attach(name)
        assert why in around.entry_of(name).problem


def test_a_bell_is_no_segment():
    with (
        cl.Ring.create(4096) as ring,
        pytest.raises(cl.Corrupted, match=r"pass on the segment: fds=\{3: ring.segment\}"),
    ):
        cl.Ring.attach(ring.fileno())


def test_a_file_that_was_deleted(name):
    """Nobody finds it any more; those who hold it go on."""
    with shm.Segment.create(10, name) as segment, shm.Segment.attach(name) as other:
        os.unlink(f"{DIRECTORY}/{PREFIX}{name}")
        with pytest.raises(FileNotFoundError, match=name):
            shm.Segment.attach(name)
        segment.buf[0] = 7
        assert other.buf[0] == 7


def test_what_is_no_segment(name, tmp_path):
    with open(f"{DIRECTORY}/{PREFIX}{name}", "wb") as file:
        file.write(b"#!/bin/sh\n" + bytes(8192))
    with pytest.raises(cl.Corrupted, match="does not begin as a segment does"):
        shm.Segment.attach(name)
    with open("/dev/null") as null, pytest.raises(cl.Corrupted, match="no regular file"):
        shm.Segment.attach(null)
    entry = around.entry_of(name)
    assert (entry.kind, entry.held) == (None, False)
    assert "does not begin" in entry.problem
    assert around.clean([name]) == []


# ---- held ----


KINDS_OF_NAMED = {
    "segment": lambda name: shm.Segment.create(100, name),
    "array": lambda name: shm.array(3, name=name).segment,
    "ring": lambda name: cl.Ring.create(4096, name),
    "queue": lambda name: cl.Queue.create(2, 16, name),
    "queue pool": lambda name: cl.QueuePool.create(2, 2, 16, name),
    "broadcast": lambda name: cl.Broadcast.create(2, 16, name),
    "deque": lambda name: cl.Deque.create(2, 16, name),
    "pool": lambda name: cl.BufferPool.create(2, 16, name),
}


@pytest.mark.parametrize("kind", KINDS_OF_NAMED)
def test_an_interrupt_leaves_no_name(kind, name, monkeypatch):
    """Ctrl-C wherever Python looks for a signal, while one is made and closed: at the start of a function, and when one
    in C comes back. Its name goes all the same, its descriptor too, and no finalizer complains."""
    package, make = os.path.dirname(cl.__file__), KINDS_OF_NAMED[kind]
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: complaints.append(what.exc_type))
    left = 0

    def profile(frame, event, unused):
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(package):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    def use():
        with make(name):
            pass

    use()
    gc.collect()
    descriptors = os.listdir("/proc/self/fd")
    for nth in range(1, 10_000):
        left = nth
        sys.setprofile(profile)
        try:
            use()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        gc.collect(0)
        assert [each for each in os.listdir(DIRECTORY) if name in each] == [], nth
        assert len(os.listdir("/proc/self/fd")) == len(descriptors), nth
        if left > 0:
            break
    assert nth > 20, "nothing was interrupted"
    assert set(complaints) <= {KeyboardInterrupt, ResourceWarning}  # the latter of a file that Python itself closes


def test_one_that_cannot_be_closed_at_the_end_keeps_no_other_from_it(name):
    code = """if True:
        import sys
        import corelane as cl
        from corelane import shm

        class Broken(cl.Queue):
            __slots__ = ()
            def _leave(self):
                raise OSError("broken")

        class BrokenSegment(shm.Segment):
            __slots__ = ()
            def _unlink(self):
                raise OSError("broken, too")

        name = sys.argv[1]
        kept = [Broken.create(2, 8) for _ in range(8)] + [BrokenSegment.create(1, f"{name}.b{i}") for i in range(8)]
        made = [cl.Queue.create(2, 8, f"{name}.{i}") for i in range(4)]
        segments = [shm.Segment.create(8, f"{name}.s{i}") for i in range(4)]
    """
    done = in_another_program(code, name)
    assert "broken" in done.stderr
    left = [each.removeprefix(PREFIX + name) for each in os.listdir(DIRECTORY) if name in each]
    for each in left:
        os.unlink(f"{DIRECTORY}/{PREFIX}{name}{each}")
    assert sorted(left) == [f".b{i}" for i in range(8)]


def test_a_killed_holder_holds_nothing(name):
    code = (
        "import sys, time; from corelane import shm; s = shm.Segment.attach(sys.argv[1])\n"
        "print('attached', flush=True); time.sleep(1000)"
    )
    with shm.Segment.create(10, name, keep=True):
        pass
    assert around.entry_of(name).held is False
    holder = cl.Command(sys.executable, "-c", code, name).spawn(stdout=cl.PIPE)
    with holder:
        assert holder.stdout.readline() == b"attached\n"
        assert around.entry_of(name).held is True
        assert around.clean([name]) == []
        holder.send_signal(signal.SIGKILL)
        wait_until(lambda: around.entry_of(name).held is False, "the kernel to free the lease")
        assert around.clean([name]) == [name]


def test_a_child_that_is_started_does_not_hold_it(name):
    with shm.Segment.create(10, name, keep=True) as segment:
        fd = os.dup(segment.fileno())
    with cl.Command("sleep", "1000").spawn() as child:
        assert lib.cl_segment_is_held(fd) == 0
        child.kill()
    os.close(fd)
    around.clean([name])


KINDS = {
    "Ring": lambda: cl.Ring.create(1),
    "Queue": lambda: cl.Queue.create(4, 16),
    "QueuePool": lambda: cl.QueuePool.create(queues=2, slots=2, slot_size=16),
    "Broadcast": lambda: cl.Broadcast.create(4, 16),
    "Deque": lambda: cl.Deque.create(4, 16),
    "BufferPool": lambda: cl.BufferPool.create(2, 64),
    "Lock": cl.Lock.create,
    "Semaphore": lambda: cl.Semaphore.create(1),
    "Event": cl.Event.create,
    "Barrier": lambda: cl.Barrier.create(2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [(), (4, 16)])
def test_a_class_that_is_called_names_what_makes_one(kind, arguments):
    with pytest.raises(TypeError, match=rf"{kind} is made by {kind}\.create\(\) or {kind}\.attach\(\)"):
        getattr(cl, kind)(*arguments)
    with pytest.raises(TypeError, match=r"Segment is made by Segment\.create\(\)"):
        shm.Segment(100)


@pytest.mark.parametrize("kind", ["Ring", "Queue", "QueuePool", "Broadcast", "Deque"])
@pytest.mark.parametrize("record", [b"one", bytearray(b"one"), memoryview(b"one"), "one"])
def test_one_record_is_not_taken_for_several(kind, record):
    with KINDS[kind]() as made:
        call = "push_many" if kind == "Deque" else "put_many"
        with pytest.raises(
            TypeError, match=rf"{call}\(\) takes a list of records, and not one \({type(record).__name__}"
        ):
            getattr(made, call)(record)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "QueuePool"])
def test_a_child_is_not_given_an_object_but_its_segment(kind):
    made = KINDS[kind]()
    for wrong in ({"fds": {3: made}}, {"stdin": made}):
        with pytest.raises(TypeError, match=r"pass on the segment that it is in, fds=\{3: it\.segment\}"):
            cl.Command("true", **wrong)
    cl.run(["true"], fds={3: made.segment})
    made.close()


def test_an_array_that_is_refused_is_not_printed_whole():
    frames = shm.array(1000)
    with pytest.raises(TypeError, match=r"fds=\{3: it\.segment\}") as caught:
        cl.Command("true", fds={3: frames})
    with pytest.raises(TypeError, match="target must be a name") as again:
        shm.attach_array(frames)
    assert max(len(str(caught.value)), len(str(again.value))) < 300


def _is_read_only(objects):
    segments = [each.queues[0].segment if isinstance(each, cl.QueuePool) else each.segment for each in objects]
    assert [segment.readonly for segment in segments] == [True] * len(objects)


@pytest.mark.usefixtures("stops_the_tracker")
def test_one_that_is_read_only_is_so_where_it_is_passed_on(name):
    made = [cl.QueuePool.create(queues=2, slots=2, slot_size=16, name=name)]
    made += [make() for kind, make in KINDS.items() if kind != "QueuePool"]
    looking = [type(each).attach(name if isinstance(each, cl.QueuePool) else each, readonly=True) for each in made]
    _is_read_only(looking)
    _is_read_only([pickle.loads(pickle.dumps(each)) for each in looking])
    worker = multiprocessing.get_context("spawn").Process(target=_is_read_only, args=(looking,))
    worker.start()
    for each in [*looking, *made]:
        each.close()
    worker.join()
    assert worker.exitcode == 0
