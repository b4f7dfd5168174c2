"""Shared memory under random kills and stops: soak.py and soak_held.py. And peers that are in another pid namespace."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE, needs_linux
from soak import KINDS, UNSHARE, can_unshare
from soak_held import KINDS as HELD

import corelane as cl

pytestmark = needs_linux

TESTS = Path(__file__).resolve().parent


def soak(kind, seconds):
    """In a process of its own, which forks, with a seed that it prints."""
    script = TESTS / ("soak.py" if kind in KINDS else "soak_held.py")
    argv = [sys.executable, str(script), kind, "--seconds", str(seconds)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=seconds + 120)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *HELD])
def test_three_seconds_of_kills(kind):
    found = soak(kind, 3)
    assert found["records" if kind in KINDS else "turns"] > 0
    assert found["kills"] > 0


@pytest.mark.stress
@pytest.mark.parametrize("kind", [*KINDS, *HELD])
def test_minutes_of_kills(kind):
    soak(kind, 150)


# ---- another pid namespace ----

needs_unshare = pytest.mark.skipif(
    sys.platform != "linux" or not can_unshare(),
    reason="no pid namespace can be made here: unshare is missing or refused",
)


@contextlib.contextmanager
def another(shared, code, *before):
    """A program with the object as `it`; killed in the end. `before`: what starts it."""
    fd = shared.segment.fileno()
    head = f"import corelane as cl, os, signal, sys\nit = cl.{type(shared).__name__}.attach({fd})\n"
    argv = [*before, sys.executable, "-c", head + code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[fd]) as process:
        try:
            yield process
        finally:
            process.kill()


HOLDS = "held = it.peek()\nheld.__enter__()\n"  # and `held` keeps it


@needs_unshare
def test_a_ring_of_another_pid_namespace():
    """Death is told by the lease, not by a pid: there are two processes with that number, or none."""
    code = "assert os.getpid() == 1\nit.put(b'one')\nprint('put', flush=True)\nsys.stdin.read()"
    with cl.Ring.create(1) as ring:
        ring.take("consumer")
        with another(ring, code, *UNSHARE) as other:
            assert other.stdout.readline() == "put\n"
            assert ring.get(PATIENCE) == b"one"
            with pytest.raises(cl.QueueEmpty):  # it lives, whatever has that pid here
                ring.get(0.2)
            other.kill()
            with pytest.raises(cl.PeerDied) as caught:
                ring.get(PATIENCE)
            assert caught.value.pid == 1
        with cl.Ring.attach(ring.segment.fileno()) as successor:
            assert successor.take("producer") == 1


@needs_unshare
def test_a_queue_of_another_pid_namespace():
    with cl.Queue.create(4, 16) as queue:
        queue.put(b"one")
        with another(queue, HOLDS + "print('held', flush=True)\nsys.stdin.read()", *UNSHARE) as other:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(cl.QueueEmpty):
                queue.get(0.2)
            other.kill()
            assert queue.get(PATIENCE) == b"one"
        assert (queue.stats().recoveries, queue.stats().last_dead) == (1, 1)


# ---- exec and fork ----


def test_what_execs_has_left():
    """Exec closes the descriptor of its lease: what it held is given to others, though the process lives."""
    code = HOLDS + "print('held', flush=True)\nsys.stdin.readline()\nos.execvp('cat', ['cat'])"
    with cl.Queue.create(4, 16) as queue:
        queue.put(b"one")
        with another(queue, code) as other:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(cl.QueueEmpty):
                queue.get(0.1)
            other.stdin.write("go\n")
            other.stdin.flush()
            assert queue.get(PATIENCE) == b"one"
            assert other.poll() is None


def test_a_forked_child_is_nobodys_lease():
    """The parent is killed; its child, which has inherited all that it had, keeps nobody's record."""
    fork = "if os.fork() == 0:\n    print('born', flush=True)\n    sys.stdin.read()\n    os._exit(0)\nsignal.pause()"
    with cl.Queue.create(4, 16) as queue:
        queue.put(b"one")
        with another(queue, HOLDS + fork) as other:
            assert other.stdout.readline() == "born\n"  # it is there until its stdin ends, and that is in our hands
            with pytest.raises(cl.QueueEmpty):
                queue.get(0.1)
            other.kill()
            assert queue.get(PATIENCE) == b"one"
