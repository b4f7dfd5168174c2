"""Leases in files, as macOS has them, in the portable build: made, found, removed, and what is not believed.

That they hold, and end with their holders, is what all other tests of shared memory show in that build. Each of these
has the directory to itself, in a mount namespace: others may sweep there, and leave things.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import signal
import struct
import subprocess
import sys

import pytest
from helpers import PATIENCE, needs_lease_files, needs_linux, needs_root

import corelane as cl
from corelane import shm
from corelane._ffi import lib
from corelane.shm import around
from corelane.shm.names import DIRECTORY, PREFIX

pytestmark = [needs_linux, needs_lease_files]

NAME = "one"
NOBODY = 2**22 + 1  # a pid that no process can have
SCRIPT = f'mount -t tmpfs none {DIRECTORY} && exec "$@"'


def alone(function):
    """The test as a program of its own, in a mount namespace; its arguments by their place."""

    @functools.wraps(function)
    def test(**arguments):
        words = [sys.executable, __file__, function.__name__, json.dumps(arguments)]
        done = subprocess.run(
            ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", SCRIPT, "sh", *words],
            capture_output=True, text=True, check=False, timeout=3 * PATIENCE,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )  # fmt: skip
        if done.stderr.startswith(("unshare", "mount")):
            pytest.skip(f"no mount namespace: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr

    return test


HOLDER = (
    "import sys, time; from corelane import shm; s = shm.Segment.{0}\n"
    "print(s.fileno(), flush=True); sys.stdin.read(); {1}"
)


def lease_of(segment):
    there = os.fstat(segment if isinstance(segment, int) else segment.fileno())
    return f"{DIRECTORY}/.{PREFIX}lease.{there.st_dev:x}.{there.st_ino:x}"


def there():
    return set(os.listdir(DIRECTORY))


@contextlib.contextmanager
def in_another_program(how, at_the_end=""):
    """A program that has a segment until its stdin ends; its process."""
    code = HOLDER.format(how, at_the_end)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


@alone
def test_one_without_a_name_leaves_nothing():
    with shm.Segment.create(10) as segment, shm.Segment.attach(segment) as other:
        path = lease_of(segment)
        assert os.path.exists(path)
        segment.close()
        assert os.path.exists(path), "somebody holds it"
        other.close()
        assert not os.path.exists(path)


@alone
def test_that_of_a_named_one_goes_with_its_name():
    with shm.Segment.create(10, NAME) as segment:
        path = lease_of(segment)
        with in_another_program(f"attach({NAME!r})", "s.close()") as process:
            segment.close()
            assert os.path.exists(path), "somebody holds it, though it has no name any more"
            process.stdin.close()
            assert process.wait(PATIENCE) == 0
        assert not os.path.exists(path)


@alone
def test_that_of_a_kept_one_stays_and_is_cleaned_with_it():
    shm.Segment.create(10, NAME, keep=True).close()
    assert len(there()) == 2
    assert around.clean() == [NAME]
    assert there() == set()


@alone
def test_sweeping_spares_the_lease_of_what_has_a_name():
    with shm.Segment.create(10, NAME, keep=True) as segment:
        path = lease_of(segment)
    lib.cl_segment_sweep()
    assert os.path.exists(path)
    shm.Segment.attach(NAME).close()
    assert around.clean([NAME]) == [NAME]
    assert not os.path.exists(path)


@alone
def test_it_is_as_the_segment_is():
    old = os.umask(0o077)
    try:
        with shm.Segment.create(10, NAME, mode=0o646) as segment:
            assert os.stat(lease_of(segment)).st_mode & 0o7777 == 0o646
    finally:
        os.umask(old)


@needs_root
@alone
def test_it_belongs_to_whom_the_segment_belongs():
    with shm.Segment.create(10, NAME, owner=65534, group=65533) as segment:
        there = os.stat(lease_of(segment))
        assert (there.st_uid, there.st_gid) == (65534, 65533)


# ---- the last one goes, and another one comes ----


@alone
def test_a_descriptor_on_its_way_when_the_last_holder_goes():
    segment = shm.Segment.create(10)
    fd, path = os.dup(segment.fileno()), lease_of(segment)
    segment.buf[0] = 7
    segment.close()
    assert not os.path.exists(path)
    assert lib.cl_segment_is_held(fd) == 0
    with shm.Segment.attach(fd) as again, shm.Segment.attach(fd) as third:
        assert os.path.exists(path)
        assert (lib.cl_segment_is_held(fd), again.buf[0], third.buf[0]) == (1, 7, 7)
    assert not os.path.exists(path)
    with shm.Segment.attach(fd, readonly=True):
        assert lib.cl_segment_is_held(fd) == 1
    os.close(fd)


@alone
def test_several_that_go_at_once_leave_nothing():
    for _ in range(30):
        segment = shm.Segment.create(10)
        pids = []
        for _ in range(3):
            pids.append(os.fork())
            if pids[-1] == 0:
                segment.close()
                os._exit(0)
        segment.close()
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
        assert there() == set()


@alone
def test_one_that_was_removed_by_a_stranger():
    """Those who hold it go on, and find out who dies. Nobody new can come: to him they would all seem dead."""
    with cl.Queue.create(4, 8) as queue, cl.Queue.attach(queue) as other:
        os.unlink(lease_of(queue.segment))
        with pytest.raises(cl.ShmError, match="the file of its lease was removed") as caught:
            cl.Queue.attach(queue)
        assert caught.value.errno == errno.ENOLCK
        assert lib.cl_segment_is_held(queue.segment.fileno()) == 0, "who asks by the name cannot know"
        queue.put(b"1")
        assert (other.get(), other.recover()) == (b"1", 0)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if _cannot(queue.register) else 1)
        assert os.waitpid(pid, 0)[1] == 0


def _cannot(call):
    try:
        call()
    except Exception:
        return True
    return False


@alone
def test_one_that_was_removed_and_is_there_again():
    """Not by us: who holds the old one asks there, and takes nobody for dead who has the new one."""
    with cl.Queue.create(4, 8) as queue, cl.Queue.attach(queue) as other:
        path = lease_of(queue.segment)
        os.unlink(path)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        assert queue.recover() == 0
        other.put(b"1")
        assert queue.get() == b"1"
        os.unlink(path)


@alone
def test_a_death_is_found_by_whoever_holds_a_removed_one():
    with cl.Queue.create(4, 8) as queue:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            queue.register()
            queue.put(b"x")
            os.write(theirs, b".")
            signal.pause()
        assert os.read(ours, 1) == b"."
        os.unlink(lease_of(queue.segment))
        assert queue.recover() == 0
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert queue.recover() == 1
        os.close(ours)
        os.close(theirs)


# ---- what is not believed ----


@needs_root
@alone
def test_a_file_of_somebody_elses_is_not_believed():
    with shm.Segment.create(10, NAME) as segment:
        path = lease_of(segment)
        os.unlink(path)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
        os.chown(path, 65534, 65534)
        with pytest.raises(cl.ShmError, match="the file of its lease was removed"):
            shm.Segment.attach(NAME)
        os.unlink(path)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
@alone
def test_what_is_no_file_is_not_believed(kind):
    with shm.Segment.create(10, NAME) as segment:
        path = lease_of(segment)
        os.unlink(path)
        make = {"link": lambda: os.symlink("/etc/passwd", path), "fifo": lambda: os.mkfifo(path)}
        make.get(kind, lambda: os.mkdir(path))()
        with pytest.raises(cl.ShmError, match="cannot attach"):
            shm.Segment.attach(NAME)
        (os.rmdir if kind == "directory" else os.unlink)(path)


@alone
def test_an_old_one_of_a_file_that_had_our_number():
    """Left by one that was killed: it is replaced, whatever it allows."""
    with shm.Segment.create(10) as segment:
        fd, path = os.dup(segment.fileno()), lease_of(segment)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o400))
        with shm.Segment.attach(fd) as again:  # of this one it is as good as any
            assert lib.cl_segment_is_held(fd) == 1
            assert again.size == 10
    finally:
        os.close(fd)


# ---- what the killed leave ----


@alone
def test_a_killed_one_leaves_a_lease_that_is_swept():
    with in_another_program("create(10)") as process:
        [left] = there()
        assert lib.cl_segment_sweep() == 0, "it is held"
        process.kill()
        process.wait()
        assert there() == {left}
        assert lib.cl_segment_sweep() == 1
        assert there() == set()


@alone
def test_the_bell_of_a_killed_one_is_swept():
    code = "import corelane as cl; q = cl.Queue.attach(3); q.fileno(); print(flush=True); import sys; sys.stdin.read()"
    with cl.Queue.create(4, 8) as queue:
        before = there()
        with subprocess.Popen(
            [sys.executable, "-c", f"import os; os.dup2({queue.segment.fileno()}, 3); {code}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[queue.segment.fileno()],
        ) as process:
            assert process.stdout.readline()
            bells = there() - before
            assert bells
            assert all(each.startswith(f".{PREFIX}bell.{process.pid:x}.") for each in bells)
            assert lib.cl_segment_sweep() == 0, "it waits for them"
            process.kill()
        assert there() - before == bells
        assert lib.cl_segment_sweep() == len(bells)
        assert there() == before


@alone
def test_what_was_not_whole_when_its_maker_was_killed_is_swept():
    """Killed between the file and its name; and while it lives nobody removes it."""
    part = f".{PREFIX}part.{{pid:x}}.0"
    code = (
        "import fcntl, os, sys, time\n"
        f"fd = os.open('{DIRECTORY}/.{PREFIX}part.%x.0' % os.getpid(), os.O_CREAT | os.O_RDWR, 0o600)\n"
        "print('made', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"made\n"
        path = f"{DIRECTORY}/{part.format(pid=process.pid)}"
        lib.cl_segment_sweep()
        assert os.path.exists(path), "its maker lives, and may be about to hold it"
        process.kill()
    lib.cl_segment_sweep()
    assert not os.path.exists(path)


@alone
def test_what_one_of_another_pid_namespace_is_about_is_not_swept():
    """No process of that pid is to be seen from here, but what it has is locked, or read."""
    part, bell = (f"{DIRECTORY}/.{PREFIX}{kind}.{NOBODY:x}.1" for kind in ("part", "bell"))
    fds = [os.open(part, os.O_CREAT | os.O_RDWR, 0o600)]
    os.mkfifo(bell, 0o600)
    fds.append(os.open(bell, os.O_RDONLY | os.O_NONBLOCK))
    fcntl.fcntl(fds[0], fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 1 << 62, 1, 0))
    assert lib.cl_segment_sweep() == 0
    for fd in fds:
        os.close(fd)
    assert lib.cl_segment_sweep() == 2


@pytest.mark.parametrize(
    "odd", ["", "x", "lease", "lease.", "lease.1", "lease.zz.1", "lease.1.1.1", "part.1.1x", "bell.-1.1"]
)
@alone
def test_what_only_looks_like_ours_is_left_alone(odd):
    path = f"{DIRECTORY}/.{PREFIX}{odd}-test-{os.getpid()}"
    with open(path, "w"):
        try:
            lib.cl_segment_sweep()
            assert os.path.exists(path)
        finally:
            os.unlink(path)


@alone
def test_clean_sweeps():
    left = f".{PREFIX}part.{NOBODY:x}.1"
    os.close(os.open(f"{DIRECTORY}/{left}", os.O_CREAT | os.O_RDWR, 0o600))
    around.clean([])
    assert there() == {left}
    around.clean()
    assert there() == set()


@alone
def test_one_that_cannot_get_its_name_leaves_nothing():
    with shm.Segment.create(10, NAME):
        before = there()
        for _ in range(3):
            with pytest.raises(FileExistsError):
                shm.Segment.create(10, NAME)
        assert there() == before
    assert there() == set()


@alone
def test_a_name_is_never_given_to_two():
    code = (
        "from corelane import shm\n"
        "made = 0\n"
        "for i in range(200):\n"
        "    try: s = shm.Segment.create(10, f'{i}', keep=True); made += 1; s.close()\n"
        "    except FileExistsError: pass\n"
        "print(made)"
    )
    several = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(each.communicate(timeout=PATIENCE)[0]) for each in several) == 200
    assert len(around.clean()) == 200
    assert there() == set()


if __name__ == "__main__":
    globals()[sys.argv[1]].__wrapped__(**json.loads(sys.argv[2]))
