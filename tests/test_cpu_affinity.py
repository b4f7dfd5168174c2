"""Affinity: looking, setting, pinning for a while, against what the kernel says; and what it refuses, in words."""

import asyncio
import errno
import os
import pickle
import subprocess
import sys
import threading

import pytest
from helpers import OURS, needs, needs_linux, needs_root, needs_two, script, wait_until

import corelane as cl
from corelane import cpu
from corelane.cpu import affinity, refusals

pytestmark = needs_linux

FIRST, LAST = OURS[0], OURS[-1]


def online():
    with open("/sys/devices/system/cpu/online") as file:
        return cpu.parse_cpus(file.read())


NOWHERE = max(online()) + 7 if sys.platform == "linux" else 99  # beyond what this machine can have
while sys.platform == "linux" and os.path.exists(f"/sys/devices/system/cpu/cpu{NOWHERE}"):
    NOWHERE += 7


@pytest.fixture(autouse=True)
def _as_before():
    before = os.sched_getaffinity(0)
    yield
    assert os.sched_getaffinity(0) == before
    assert affinity._pins.stack == []


@pytest.fixture
def child():
    """A sleeping process of one thread."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


class Threaded:
    """A Python process with threads that sleep, and one that starts short-lived threads all the time."""

    _CODE = """
import sys, threading, time
def churn():
    while True:
        made = threading.Thread(target=time.sleep, args=(0.005,))
        made.start()
        time.sleep(0.0005)
def sleep():
    time.sleep(1000)
for _ in range(5):
    threading.Thread(target=sleep, daemon=True).start()
if sys.argv[1] == "churn":
    threading.Thread(target=churn, daemon=True).start()
print("ready", flush=True)
time.sleep(1000)
"""

    def __init__(self, kind="still"):
        self.process = subprocess.Popen([sys.executable, "-c", self._CODE, kind], stdout=subprocess.PIPE)

    def __enter__(self):
        assert self.process.stdout.readline() == b"ready\n"
        self.pid = self.process.pid
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def masks(self):
        found = {}
        for tid in os.listdir(f"/proc/{self.pid}/task"):
            try:
                found[int(tid)] = os.sched_getaffinity(int(tid))
            except ProcessLookupError:
                continue
        return found


# ---- getting and setting ----


def test_it_is_what_the_kernel_says(child):
    assert cpu.get_affinity() == os.sched_getaffinity(0)
    assert cpu.get_affinity(child) == cpu.get_affinity(tid=child) == os.sched_getaffinity(child)
    assert isinstance(cpu.get_affinity(), frozenset)


@needs_two
@pytest.mark.parametrize("written", [LAST, [LAST], {LAST}, str(LAST), hex(1 << LAST), frozenset({LAST})])
def test_every_way_of_writing_cpus(written, child):
    assert cpu.set_affinity(written, child) == ()
    assert os.sched_getaffinity(child) == {LAST}


@needs_two
def test_nothing_given_is_this_thread_alone():
    other = threading.Event(), threading.Event()
    seen = []

    def wait():
        other[0].set()
        other[1].wait()
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=wait)
    thread.start()
    other[0].wait()
    try:
        cpu.set_affinity(LAST)
        assert cpu.get_affinity() == {LAST}
    finally:
        os.sched_setaffinity(0, OURS)
        other[1].set()
        thread.join()
    assert seen == [set(OURS)]


@needs_two
def test_a_tid_is_one_thread_and_a_pid_is_all():
    with Threaded() as other:
        some = max(other.masks())
        cpu.set_affinity(LAST, tid=some)
        assert {tid for tid, mask in other.masks().items() if mask == {LAST}} == {some}
        assert cpu.get_affinity(tid=some) == {LAST}
        assert cpu.get_affinity(other.pid) == set(OURS)  # its main thread
        cpu.set_affinity(FIRST, other.pid)
        assert len(other.masks()) >= 6
        assert set(map(frozenset, other.masks().values())) == {frozenset({FIRST})}


@needs_two
def test_threads_that_are_started_meanwhile_are_set_too():
    with Threaded("churn") as other:
        for turn in range(10):
            wanted = OURS[turn % 2]
            cpu.set_affinity(wanted, other.pid)
            assert set(map(frozenset, other.masks().values())) == {frozenset({wanted})}


@needs_two
def test_a_thread_that_appears_after_the_first_look_is_set(monkeypatch, child):
    """What the loop is for: A clones B after the look and before it is set."""
    looks = iter([[child], [child, 10**6], [child, 10**6]])
    done = []
    target = cpu.threads.Target(child, None)
    monkeypatch.setattr(cpu.threads.Target, "threads", lambda self: next(looks))
    assert cpu.threads.apply(target, done.append, "affinity", False) == []
    assert done == [child, 10**6]


def test_a_mask_larger_than_the_first_guess(monkeypatch):
    """As on machines with thousands of CPUs: the kernel answers EINVAL until it has room."""
    monkeypatch.setattr(affinity, "_room", 0)
    monkeypatch.setattr(affinity, "_larger", lambda: setattr(affinity, "_room", affinity._room + 8) or True)
    assert cpu.get_affinity() == set(OURS)
    monkeypatch.setattr(affinity, "_room", 0)
    assert cpu.set_affinity(OURS) == ()
    assert affinity._room == max(8, (max(online()) // 64 + 1) * 8)


@needs("taskset")
def test_taskset_agrees(child):
    cpu.set_affinity(LAST, child)
    said = subprocess.run(["taskset", "-p", str(child)], capture_output=True, text=True, check=True).stdout
    assert cpu.parse_cpus(said.rpartition(": ")[2].strip(), mask=True) == cpu.get_affinity(child)


# ---- pinned ----


@needs_two
def test_pinned_restores_exactly():
    for before in ({FIRST}, {LAST}, set(OURS)):
        os.sched_setaffinity(0, before)
        with cpu.pinned(LAST) as block:
            assert (cpu.get_affinity(), block.cpus) == ({LAST}, {LAST})
        assert os.sched_getaffinity(0) == before
        with pytest.raises(ZeroDivisionError), cpu.pinned({FIRST}):
            _ = 1 / len(os.sched_getaffinity(0) - {FIRST})
        assert os.sched_getaffinity(0) == before
    assert before == set(OURS)


@needs_two
def test_pinned_can_be_nested_and_used_again():
    block = cpu.pinned(FIRST)
    with block, cpu.pinned(LAST):
        assert cpu.get_affinity() == {LAST}
        with block:
            assert cpu.get_affinity() == {FIRST}
        assert cpu.get_affinity() == {LAST}


@needs_two
def test_what_others_set_meanwhile_is_replaced_at_the_end():
    with cpu.pinned(FIRST):
        os.sched_setaffinity(0, {LAST})
    assert cpu.get_affinity() == set(OURS)


@needs_two
def test_one_object_in_several_threads():
    block, seen, inside = cpu.pinned(LAST), [], threading.Barrier(2, timeout=20)

    def work():
        with block:
            inside.wait()
            seen.append(cpu.get_affinity())
            inside.wait()
        seen.append(cpu.get_affinity())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[:2] == [{LAST}] * 2
    assert seen[2:] == [set(OURS)] * 2


@needs_two
def test_leaving_in_another_thread_is_an_error():
    block = cpu.pinned(LAST)
    block.__enter__()
    caught = []

    def leave():
        try:
            block.__exit__(None, None, None)
        except cl.CpuError as error:
            caught.append((str(error), os.sched_getaffinity(0)))

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    [(message, there)] = caught
    assert str(threading.get_native_id()) in message
    assert "leave it where it was entered" in message
    assert there == {LAST}  # which it inherited, and nobody changed
    assert cpu.get_affinity() == {LAST}
    block.__exit__(None, None, None)


@needs_two
def test_blocks_of_several_tasks_end_in_any_order():
    """In one thread: the mask of the last block that has begun is in force, and none is left behind."""

    async def main():
        first_begun, second_begun, first_done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def first():
            with cpu.pinned(FIRST):
                first_begun.set()
                await second_begun.wait()
            seen.append(cpu.get_affinity())
            first_done.set()

        async def second():
            await first_begun.wait()
            with cpu.pinned(LAST):
                second_begun.set()
                await first_done.wait()
            seen.append(cpu.get_affinity())

        await asyncio.gather(first(), second())

    seen = []
    asyncio.run(main())
    assert seen == [{LAST}, set(OURS)]


@needs_two
def test_an_exception_on_the_way_in_leaves_nothing(monkeypatch):
    real, calls = affinity._set, []

    def interrupted(*args):
        calls.append(real(*args))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(affinity, "_set", interrupted)
    with pytest.raises(KeyboardInterrupt), cpu.pinned(LAST):
        pass
    assert cpu.get_affinity() == set(OURS)


@needs_two
def test_an_exception_at_any_moment_leaves_nothing():
    """As of a signal's handler: at the start of a function, and wherever a call has come back."""

    def sweep(at):
        left = at

        def trace(frame, event, arg):
            nonlocal left
            if frame.f_code.co_filename != affinity.__file__ or event not in ("call", "line", "return"):
                return None
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        outer, inner = cpu.pinned(FIRST), cpu.pinned(LAST)
        sys.settrace(trace)
        try:
            with outer, inner:
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    moment = 1
    while sweep(moment):
        assert (moment, os.sched_getaffinity(0), affinity._pins.stack) == (moment, set(OURS), [])
        moment += 1
    assert moment > 50


# ---- what is refused ----


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ("3-1", ValueError, "runs backwards"),
        ("a-b", ValueError, "'a-b' in 'a-b' is neither a CPU"),
        ("-1", ValueError, "neither a CPU"),
        (-1, ValueError, "not -1"),
        ([], ValueError, "empty"),
        ("", ValueError, "empty"),
        ("0x0", ValueError, "empty"),
        (10**9, ValueError, "from 0 to"),
        ("70000", ValueError, "beyond what any kernel has"),
        (True, TypeError, "not True"),
        (1.0, TypeError, "not 1.0"),
        (None, TypeError, "not None"),
    ],
)
def test_bad_input(wrong, kind, message):
    for call in (cpu.set_affinity, cpu.pinned):
        with pytest.raises(kind, match=message):
            call(wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pid": 1, "tid": 1}, "not both"),
        ({"pid": 0}, "leave it out"),
        ({"tid": 0}, "leave it out"),
        ({"pid": -5}, "from 1 to"),
        ({"tid": 2**31}, "from 1 to"),
    ],
)
def test_bad_targets(given, message):
    for call in (cpu.get_affinity, lambda **given: cpu.set_affinity(FIRST, **given)):
        with pytest.raises(ValueError, match=message):
            call(**given)


def test_a_cpu_that_does_not_exist_is_named():
    with pytest.raises(cl.CpuRefused) as info:
        cpu.set_affinity({FIRST, NOWHERE})
    assert info.value.errno == errno.ENODEV
    assert f"CPU {NOWHERE} does not exist here" in str(info.value)
    assert f"only {FIRST} can be had" in str(info.value)
    assert cpu.get_affinity() == set(OURS)  # all or nothing
    with pytest.raises(cl.CpuRefused) as info:
        cpu.set_affinity(NOWHERE)
    assert info.value.errno == errno.EINVAL
    assert f"CPU {NOWHERE} does not exist here" in info.value.advice
    assert isinstance(info.value, OSError)
    assert str(pickle.loads(pickle.dumps(info.value))) == str(info.value)


def test_best_effort_applies_what_it_can_and_tells(child):
    [refused] = cpu.set_affinity({FIRST, NOWHERE}, child, best_effort=True)
    assert os.sched_getaffinity(child) == {FIRST}
    assert f"of which only {FIRST} were applied" in str(refused)
    assert f"CPU {NOWHERE} does not exist here" in refused.advice
    [refused] = cpu.set_affinity(NOWHERE, child, best_effort=True)
    assert os.sched_getaffinity(child) == {FIRST}
    with cpu.pinned([FIRST, NOWHERE], best_effort=True) as block:
        assert cpu.get_affinity() == {FIRST}
        assert len(block.not_applied) == 1
    with pytest.raises(cl.CpuRefused), cpu.pinned([FIRST, NOWHERE]):
        pass


def test_a_process_that_is_gone():
    with subprocess.Popen(["true"]) as process:
        pass
    for call in (
        cpu.get_affinity,
        lambda pid: cpu.set_affinity(FIRST, pid),
        lambda pid: cpu.set_affinity(FIRST, tid=pid),
    ):
        with pytest.raises(ProcessLookupError) as info:
            call(process.pid)
        assert isinstance(info.value, cl.CpuRefused)
        assert str(process.pid) in str(info.value)
    [refused] = cpu.set_affinity(FIRST, process.pid, best_effort=True)
    assert refused.errno == errno.ESRCH


@needs_root
def test_somebody_elses_process(child):
    """As a plain user: whose it is, who we are, and what to ask for."""
    said = script(
        f"""
import json, os, sys
from corelane import cpu
from corelane.cpu import refusals
cpu.set_affinity(os.sched_getaffinity(0)), cpu.set_nice(cpu.get_nice())  # imports, while we may read all
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
said = []
for call in (lambda: cpu.set_affinity({FIRST}, {child}), lambda: cpu.set_nice(5, {child}),
             lambda: cpu.set_priority({child}, sched="batch"), lambda: cpu.set_io_priority("idle", {child})):
    try:
        call()
    except PermissionError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    )
    assert len(said) == 4
    assert all("belongs to user 0, and we are user 65534" in each and "CAP_SYS_NICE" in each for each in said), said


@needs_root
def test_a_kernel_thread_stays_where_it_is():
    kernel = [pid for pid in os.listdir("/proc") if pid.isdigit() and _comm(pid).startswith("migration/")]
    if not kernel:
        pytest.skip("no kernel thread is visible here (a pid namespace)")
    with pytest.raises(cl.CpuRefused, match="kernel thread cannot be moved"):
        cpu.set_affinity(OURS, int(kernel[0]))


def _comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read()
    except OSError:
        return ""


# ---- machines that this one is not ----


def test_which_cpus_are_left_out_and_why(tmp_path):
    base = "sys/devices/system/cpu"
    files = {
        f"{base}/present": "0-7",
        f"{base}/online": "0-5",
        "proc/5/cpuset": "/batch/job1",
        "proc/5/cgroup": "4:cpuset:/batch/job1\n0::/batch/job1",
        "proc/self/mountinfo": "31 22 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "32 22 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
        "sys/fs/cgroup/batch/cpuset.cpus.effective": "0-3",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    assert "CPUs 8-9 do not exist here" in refusals.left_out({8, 9}, "5", str(tmp_path))
    said = refusals.left_out({3, 4, 6, 9}, "5", str(tmp_path))
    assert "CPU 9 does not exist here (CPUs here: 0-7)" in said
    assert "CPU 6 is offline" in said
    assert "cpu6/online" in said
    assert "CPU 4 is there, but outside of the cpuset /batch/job1" in said
    assert "CPU 3" not in said
    v1 = tmp_path / "sys/fs/cgroup/cpuset/batch/job1"
    v1.mkdir(parents=True)
    (v1 / "cpuset.effective_cpus").write_text("0-4\n")
    (tmp_path / "sys/fs/cgroup/batch/cpuset.cpus.effective").unlink()  # a controller is in one version, not in both
    assert "outside" not in refusals.left_out({4}, "5", str(tmp_path))
    assert "CPU 5 is there, but outside" in refusals.left_out({4, 5}, "5", str(tmp_path))
    assert refusals.left_out({1}, "5", str(tmp_path / "nowhere")) != ""  # nothing can be read: no traceback


@needs_root
@needs_two
def test_a_cpu_outside_of_a_real_cpuset(tmp_path):
    """In a v1 or v2 cpuset of our own, where one can be made."""
    group = _new_cpuset()
    if group is None:
        pytest.skip("no cpuset can be made here")
    try:
        said = script(
            f"""
import json, os, sys
from corelane import cpu
import corelane as cl
widest = cpu.pinned({OURS!r})
widest.__enter__()
narrow = cpu.pinned({LAST})
narrow.__enter__()
with open({str(group / "cgroup.procs")!r}, "w") as file:
    file.write("0")
narrow.__exit__(None, None, None)  # what is left of the mask of before
widest.__exit__(None, None, None)
said = []
for call in (lambda: cpu.set_affinity({OURS!r}), lambda: cpu.set_affinity({LAST}),
             lambda: cl.run(["true"], cpus={OURS!r})):
    try:
        call()
    except OSError as error:
        said.append(str(error))
said.append(sorted(cpu.get_affinity()))
said.append([str(r) for r in cl.run(["true"], cpus={OURS!r}, best_effort=True).not_applied])
print(json.dumps(said))
"""
        )
    finally:
        wait_until(lambda: _rmdir(group), "the end of the cpuset")
    *messages, left, [not_applied] = said
    assert left == [FIRST]
    assert len(messages) == 3
    assert all(f"CPU {cpu.format_cpus(OURS[1:])} is there, but outside" in each for each in [*messages, not_applied]), (
        said
    )


def _new_cpuset():
    from pathlib import Path

    for top, names in (("/sys/fs/cgroup/cpuset", ("cpuset.cpus", "cpuset.mems")), ("/sys/fs/cgroup", ("cpuset.cpus",))):
        path = Path(top, f"corelane-cpuset-{os.getpid()}")
        try:
            path.mkdir()
            for name, value in zip(names, (str(FIRST), "0"), strict=False):
                (path / name).write_text(value)
        except OSError:
            _rmdir(path)
            continue
        return path
    return None


def _rmdir(path):
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
