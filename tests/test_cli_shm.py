"""`corelane shm`: what lies around, who holds it, and removing what nobody does."""

import json
import os
import subprocess
import sys
import uuid

import pytest
from helpers import needs_lease_in_place, needs_linux

import corelane as cl
from corelane import shm

pytestmark = needs_linux


def corelane(*args):
    return subprocess.run(
        [sys.executable, "-m", "corelane", "shm", *args], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def names():
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    left, held = f"left-{mark}", f"held-{mark}"
    shm.array((2, 3), "f4", left, keep=True).segment.close()
    with shm.Segment.create(50, held, mode=0o640):
        yield left, held
    if os.path.exists(f"/dev/shm/corelane.{left}"):
        os.unlink(f"/dev/shm/corelane.{left}")


def test_list(names):
    left, held = names
    rows = {line.split()[0]: line.split() for line in corelane("list").stdout.splitlines()}
    assert rows["NAME"][:4] == ["NAME", "KIND", "BYTES", "HELD"]
    assert rows[left][1:6] == ["array", "24", "no", str(os.geteuid()), "0600"]
    assert rows[held][1:6] == ["bytes", "50", "yes", str(os.geteuid()), "0640"]
    told = {entry["name"]: entry for entry in map(json.loads, corelane("list", "--json").stdout.splitlines())}
    assert (told[held]["held"], told[held]["creator"]) == (True, os.getpid())


def test_stat(names):
    left, _ = names
    done = corelane("stat", left)
    assert (done.returncode, "array" in done.stdout) == (0, True)
    told = json.loads(corelane("stat", "--json", left).stdout)
    assert (told["size"], told["held"], told["problem"]) == (24, False, "")
    missing = corelane("stat", "not-there")
    assert (missing.returncode, "not-there" in missing.stderr) == (125, True)


@needs_lease_in_place
def test_who_holds_it_is_named(names):
    """By its lease: not who has merely a descriptor of it, nor who is dead."""
    left, held = names
    code = "import sys; from corelane import shm; x = shm.Segment.attach(sys.argv[1]); print('up', flush=True); input()"
    descriptor = os.open(f"/dev/shm/corelane.{left}", os.O_RDONLY)
    with subprocess.Popen(
        [sys.executable, "-c", code, left], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "up\n"
            told = {entry["name"]: entry for entry in map(json.loads, corelane("list", "--json").stdout.splitlines())}
            assert (told[left]["held_by"], told[held]["held_by"]) == ([holder.pid], [os.getpid()])
            rows = {line.split()[0]: line.split() for line in corelane("list").stdout.splitlines()}
            assert rows[left][-1] == str(holder.pid)
            assert json.loads(corelane("stat", "--json", left).stdout)["held_by"] == [holder.pid]
            assert f"{left} stays: held by {holder.pid}" in corelane("clean", left).stderr
        finally:
            holder.kill()
            holder.wait()
            os.close(descriptor)
    assert json.loads(corelane("stat", "--json", left).stdout)["held_by"] == []


def test_stat_of_what_is_waited_for():
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def told(kind):
        return json.loads(corelane("stat", "--json", f"{kind}-{mark}").stdout)

    with cl.Event.create(f"event-{mark}") as event, cl.Barrier.create(2, f"barrier-{mark}"):
        lock, semaphore = cl.Lock.create(f"lock-{mark}"), cl.Semaphore.create(3, f"semaphore-{mark}")
        with lock, semaphore:
            event.set()
            assert told("lock")["holder"] == os.getpid()
            assert [told("semaphore")[key] for key in ("permits", "value")] == [3, 2]
            assert told("semaphore")["holders"] == {str(os.getpid()): 1}
            assert told("event")["is_set"] is True
            barrier = told("barrier")
            assert [barrier[key] for key in ("parties", "waiting", "broken")] == [2, 0, False]
        assert told("lock")["holder"] is None
        lock.close()
        semaphore.close()


def test_clean(names):
    left, held = names
    assert left in corelane("clean", "-n").stdout.split()
    done = corelane("clean", left, held)
    assert (done.returncode, done.stdout) == (1, f"{left}\n")
    assert f"{held} stays" in done.stderr
    assert corelane("clean", left).returncode == 125
    shm.Segment.attach(held).close()


def test_a_file_of_a_foreign_name_hides_nothing(names):
    """Anybody may put a file into that directory."""
    left, _ = names
    foreign = f"/dev/shm/corelane.not a name {left}"
    with open(foreign, "w"):
        try:
            assert left in corelane("list").stdout
            assert left in corelane("clean", "-n").stdout.split()
        finally:
            os.unlink(foreign)


def test_what_is_not_there_keeps_no_other_from_being_removed(names):
    left, _ = names
    done = corelane("clean", "not-there", left)
    assert (done.returncode, done.stdout) == (125, f"{left}\n")
    assert "'not-there'" in done.stderr


def test_a_dry_run_says_what_a_run_removes():
    """What is damaged, too: here the version of its layout."""
    name = f"damaged-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    shm.Segment.create(8, name, keep=True).close()
    with open(f"/dev/shm/corelane.{name}", "r+b") as file:
        file.seek(8)
        file.write(b"\xff")
    assert corelane("clean", "-n", name).stdout == corelane("clean", name).stdout == f"{name}\n"


def test_stat_of_channels():
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with (
        cl.Ring.create(4096, f"ring-{mark}") as ring,
        cl.Queue.create(4, 8, f"queue-{mark}") as queue,
        cl.Deque.create(4, 8, f"deque-{mark}") as deque,
        cl.Broadcast.create(4, 8, f"broadcast-{mark}") as broadcast,
        cl.Broadcast.attach(broadcast),
    ):
        for put in (ring.put, queue.put, deque.push, broadcast.put):
            put(b"1")
        for kind in ("ring", "queue", "deque", "broadcast"):
            done = corelane("stat", f"{kind}-{mark}")
            rows = dict(line.split(":", 1) for line in done.stdout.splitlines())
            assert {key: rows[key].strip() for key in ("kind", "owner", "held")} == {
                "kind": kind,
                "owner": str(os.geteuid()),
                "held": "yes",
            }
            assert rows["depth"].strip() == ("16" if kind == "ring" else "1")  # of a ring in bytes
            assert str(os.getpid()) in done.stdout
        told = json.loads(corelane("stat", "--json", f"ring-{mark}").stdout)
        assert (told["size"], told["producer"]["records"]) == (ring.segment.size, 1)
        (reader,) = json.loads(corelane("stat", "--json", f"broadcast-{mark}").stdout)["readers"]
        assert (reader["pid"], reader["lag"]) == (os.getpid(), 1)
        assert broadcast.stats().readers[0].lag == 1  # it was only looked at
