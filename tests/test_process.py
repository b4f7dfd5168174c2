"""A running child as an object: looking at it, waiting, signalling, talking to it, and the end of its scope."""

import contextlib
import copy
import fcntl
import gc
import io
import os
import pickle
import select
import signal
import sys
import termios
import threading
import time
import warnings

import psutil
import pytest
from faults_child import nothing_left
from helpers import PATIENCE, is_running, needs_linux, script, wait_until

import corelane as cl
import corelane.process.child
from corelane._ffi import PLATFORM
from corelane.process import dropped

# A child in two: a leader that waits for its stdin's end, and a descendant in its group that never ends by itself.
TWO = "sleep 1000 & echo $!; exec cat >/dev/null"
# The same, but the descendant has a session of its own, so that no signal to the group reaches it.
ESCAPE = """
import os, subprocess, sys
stray = subprocess.Popen([sys.executable, "-I", "-S", "-c",
    "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(1000)"])
sys.stdin.read()
"""
# The same, and it keeps the pipes of its leader, which never ends by itself either.
KEEP = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.write(1, b"x")
    os.write(2, b"%d\\n" % os.getpid())
time.sleep(1000)
"""
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def shell(text, *args, **options):
    return cl.Command.shell(text, *args, **{"stdin": cl.DEVNULL, **options})


def forever(**options):
    return cl.Command("sleep", "1000", **{"stdin": cl.DEVNULL, **options})


def first_line(process):
    return process.stdout.readline().rstrip(b"\n")


def ended(pid):
    wait_until(lambda: not is_running(pid), f"the end of {pid}")


# ---- looking ----


def test_what_it_is():
    command = shell("exec cat", stdin=cl.PIPE)
    with command.spawn() as process:
        assert process.command is command
        assert psutil.Process(process.pid).ppid() == os.getpid()
        assert process.contained == "group"
        assert process.strategy == {"linux": "clone3"}.get(PLATFORM, "posix_spawn")
        assert repr(process) == f"<Process {command} pid={process.pid} returncode=None>"
    assert repr(process) == f"<Process {command} pid={process.pid} returncode=0>"


def test_its_states():
    with forever().spawn() as process:
        assert (process.state, process.poll(), process.returncode) == ("running", None, None)
        assert process.send_signal("STOP")
        wait_until(lambda: process.state == "stopped", "the stop")
        assert process.poll() is None
        assert process.send_signal(signal.SIGCONT)
        wait_until(lambda: process.state == "running", "going on")
        assert process.kill()
        wait_until(lambda: process.state == "signaled", "the end")
        assert process.returncode == process.poll() == process.wait() == -signal.SIGKILL
    with shell("exit 3").spawn() as process:
        wait_until(lambda: process.state == "exited", "the end")
        assert process.returncode == 3


def test_the_returncode_does_not_look_but_poll_does():
    with shell("exit 3").spawn() as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "the end")
        assert process.returncode is None
        assert process.poll() == 3
        assert process.returncode == 3


def test_usage_is_there_after_the_end():
    with shell("exec cat", stdin=cl.PIPE).spawn() as process:
        assert process.usage is None
        process.stdin.close()
        process.wait(20)
    assert process.usage.max_rss > 0


def test_its_result_so_far():
    with shell("exit 3").spawn() as process:
        process.wait(20)
        result = process.result()
    assert (result.returncode, result.stdout, result.pid) == (3, None, process.pid)
    assert (result.args, result.contained, result.strategy) == (process.command.args, "group", process.strategy)


@pytest.mark.skipif(PLATFORM == "portable", reason="the portable build has no descriptor for the end of a child")
def test_its_descriptor_is_readable_at_the_end():
    with shell("exec cat", stdin=cl.PIPE).spawn() as process:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        assert poll.poll(0) == []
        process.stdin.close()
        assert poll.poll(20_000) == [(process.fileno(), select.POLLIN)]
        assert process.wait(20) == 0


def test_where_there_is_no_such_descriptor_it_says_so():
    with shell("true").spawn() as process:
        if PLATFORM != "portable":
            assert process.fileno() > 2
            return
        with pytest.raises(cl.NotSupported, match="use wait or poll"):
            process.fileno()


# ---- waiting ----


def test_wait_has_a_deadline_that_hurts_nobody():
    with shell("exec cat", stdin=cl.PIPE).spawn() as process:
        started = time.monotonic()
        with pytest.raises(cl.ProcessTimeout, match=rf"pid {process.pid}\) still runs after 0\.1 s") as info:
            process.wait(0.1)
        assert 0.1 <= time.monotonic() - started < 5
        assert info.value.timeout == 0.1
        with pytest.raises(cl.ProcessTimeout):
            process.wait(0)
        assert process.state == "running"
        process.stdin.close()
        assert process.wait(20) == 0


def test_wait_again_and_again():
    with shell("exit 3").spawn() as process:
        assert [process.wait(20), process.wait(), process.wait(0), process.poll()] == [3] * 4


def test_wait_from_many_threads():
    with shell("exec cat", stdin=cl.PIPE).spawn() as process:
        codes = []
        threads = [threading.Thread(target=lambda: codes.append(process.wait(30))) for _ in range(8)]
        for thread in threads:
            thread.start()
        process.stdin.close()
        for thread in threads:
            thread.join()
    assert codes == [0] * 8


def test_wait_goes_on_after_a_signal():
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with cl.Command("sleep", "0.3").spawn() as process:
            assert process.wait(20) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 3


def test_check_raises_what_a_run_would():
    with shell("exit 3").spawn() as process, pytest.raises(cl.NonZeroExit) as info:
        process.check()
    assert info.value.code == 3
    with forever().spawn() as process:
        process.kill()
        with pytest.raises(cl.Signaled):
            process.check()
    with shell("exit 0").spawn() as process:
        assert process.check() is None


# ---- signalling ----


def test_a_signal_by_any_of_its_names():
    for name in ("TERM", "SIGTERM", signal.SIGTERM, 15):
        with forever().spawn() as process:
            assert process.send_signal(name) is True
            assert process.wait(20) == -signal.SIGTERM


# Documented in docs/gotchas.md: once wait() has reaped the leader, its group has nothing but a number there.
reaches_after_wait = pytest.mark.skipif(
    PLATFORM != "linux", reason="no pidfd to reach a group by after its leader's reap"
)


@reaches_after_wait
def test_a_signal_goes_to_the_child_alone():
    with shell("trap 'exit 9' USR1; sleep 1000 & echo $!; while :; do sleep 0.02; done", stdout=cl.PIPE).spawn() as p:
        descendant = int(first_line(p))
        p.send_signal("USR1")
        assert p.wait(20) == 9
        assert is_running(descendant)
    ended(descendant)


def test_signals_after_the_end_reach_nobody():
    with shell("true").spawn() as process:
        process.wait(20)
        assert process.send_signal("TERM") is False
        assert process.kill() is False
        assert process.kill_tree() is None
        assert process.terminate(0) == 0
    assert process.kill() is False


def test_a_zombie_counts_as_ended():
    with shell("exit 3").spawn() as process:
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "the end")
        assert process.send_signal("TERM") is False
        assert process.wait(20) == 3


def test_signal_scope_reaches_the_group():
    with shell(TWO, stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        descendant = int(first_line(process))
        assert process.signal_scope("TERM") is True
        assert process.wait(20) == -signal.SIGTERM
        ended(descendant)


def test_terminate_asks_first():
    with shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done", stdout=cl.PIPE).spawn() as process:
        first_line(process)
        assert process.terminate() == 7


def test_terminate_ends_in_sigkill():
    with shell(STUBBORN, stdout=cl.PIPE).spawn() as process:
        first_line(process)
        started = time.monotonic()
        assert process.terminate(grace=0.2) == -signal.SIGKILL
        assert time.monotonic() - started >= 0.2


def test_terminate_wakes_one_that_is_stopped():
    with forever().spawn() as process:
        process.send_signal("STOP")
        wait_until(lambda: process.state == "stopped", "the stop")
        assert process.terminate(grace=20) == -signal.SIGTERM


def test_terminate_ends_also_what_the_leader_left():
    """The leader obeys at once; its descendant does not."""
    text = "(trap '' TERM; echo ready; while :; do sleep 0.05; done) & echo $!; exec cat >/dev/null"
    process = shell(text, stdin=cl.PIPE, stdout=cl.PIPE).spawn()
    lines = {first_line(process), first_line(process)} - {b"ready"}
    descendant = int(lines.pop())
    assert process.terminate(grace=20) == -signal.SIGTERM
    ended(descendant)
    process.close()


def test_kill_is_for_the_child_alone_and_kill_tree_for_all():
    with shell(TWO, stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        descendant = int(first_line(process))
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        assert is_running(descendant)
    with shell(TWO, stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        descendant = int(first_line(process))
        process.kill_tree()
        ended(descendant)


def test_kill_tree_reaches_one_that_has_left_the_group():
    with cl.Command(sys.executable, "-c", ESCAPE, stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        stray = int(first_line(process))
        assert os.getsid(stray) == stray
        process.kill_tree()
        assert process.wait(20) == -signal.SIGKILL
        ended(stray)


def test_kill_from_one_thread_while_another_waits():
    with forever().spawn() as process:
        codes = []
        waiter = threading.Thread(target=lambda: codes.append(process.wait(30)))
        waiter.start()
        assert process.kill()
        waiter.join()
    assert codes == [-signal.SIGKILL]


def test_many_threads_signal_while_it_ends():
    """Whoever comes too late gets False: never an error, never a signal to a stranger."""
    for _ in range(5):
        with shell("exec cat", stdin=cl.PIPE).spawn() as process:
            start, answers = threading.Barrier(5), []

            def signal_it(start=start, answers=answers, process=process):
                start.wait()
                answers.extend(process.send_signal("CONT") for _ in range(50))

            threads = [threading.Thread(target=signal_it) for _ in range(4)]
            for thread in threads:
                thread.start()
            start.wait()
            process.stdin.close()
            assert process.wait(20) == 0
            for thread in threads:
                thread.join()
            assert set(answers) <= {True, False}
            assert len(answers) == 200


# ---- talking ----


def test_a_binary_conversation():
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        assert isinstance(process.stdin, io.BufferedWriter)
        assert isinstance(process.stdout, io.BufferedReader)
        for word in (b"one\n", b"two\xff\n", b"\x00\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_a_conversation_in_text():
    command = cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, encoding="latin-1")
    with command.spawn() as process:
        process.stdin.write("\u00e9\n")
        process.stdin.flush()
        assert process.stdout.buffer.readline() == b"\xe9\n"
        process.stdin.write("\u00fc\n")
        process.stdin.flush()
        assert process.stdout.readline() == "\u00fc\n"
    with command.with_options(encoding="ascii", errors="replace", stdin=cl.DEVNULL).spawn() as process:
        assert process.stdout.read() == ""


def test_text_keeps_its_line_ends():
    """As Result.text and lines() do: what was written is what is read."""
    with cl.Command("printf", "a\\r\\nb\\rc\\n", stdout=cl.PIPE, encoding="utf-8").spawn() as process:
        assert process.stdout.read() == "a\r\nb\rc\n"


def test_its_lines():
    with cl.Command("printf", "a\\nb\\xff\\n\\nend", stdout=cl.PIPE).spawn() as process:
        assert list(process.lines()) == [b"a\n", b"b\xff\n", b"\n", b"end"]
    with cl.Command("printf", "a\\nb", stdout=cl.PIPE, encoding="utf-8").spawn() as process:
        assert list(process.lines()) == ["a\n", "b"]
    with shell("true").spawn() as process, pytest.raises(ValueError, match="stdout=PIPE"):
        process.lines()


def test_lines_come_as_they_are_written():
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        lines = process.lines()
        for word in (b"one\n", b"two\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert next(lines) == word


def test_a_batch_is_written_whole_and_in_order():
    pieces = [bytes([i % 256]) * (i % 301) for i in range(2500)] + [b"", bytearray(b"y"), memoryview(b"zz")]
    expected = b"<" + b"".join(pieces)
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        got = []
        reader = threading.Thread(target=lambda: got.append(process.stdout.read()))
        reader.start()
        process.stdin.write(b"<")
        assert process.writev(pieces) == len(expected) - 1
        assert process.writev([]) == 0
        process.stdin.close()
        reader.join()
    assert got == [expected]
    with shell("true").spawn() as process, pytest.raises(ValueError, match="stdin=PIPE"):
        process.writev([b"x"])


def test_a_batch_is_read():
    with cl.Command("printf", "0123456789", stdout=cl.PIPE).spawn() as process:
        process.wait(20)
        first, second = bytearray(4), bytearray(20)
        assert process.readv([first, second]) == 10
        assert (bytes(first), bytes(second[:6])) == (b"0123", b"456789")
        assert process.readv([first]) == 0
    with shell("true").spawn() as process, pytest.raises(ValueError, match="stdout=PIPE"):
        process.readv([bytearray(1)])


@pytest.mark.parametrize("size", [1, 2, 100, 1 << 20])
def test_buffers_of_any_size(size):
    command = cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, buffer_size=size)
    with command.spawn() as process:
        process.stdin.write(b"some words\n")
        process.stdin.close()
        assert process.stdout.read() == b"some words\n"


def test_bytes_are_not_fed_to_a_process():
    for given in (b"x", "x", [b"x"]):
        with pytest.raises(ValueError, match="stdin=PIPE"):
            cl.Command("cat", stdin=given).spawn()


@pytest.mark.parametrize("option", ["timeout", "grace", "max_output", "check", "drain"])
def test_what_belongs_to_runs_is_refused(option):
    with pytest.raises(ValueError, match=f"{option}= belongs to runs"):
        forever().spawn(**{option: 1 if option != "check" else True})


def test_a_child_that_reads_nothing_does_not_end_us():
    """Neither by SIGPIPE nor by the error of what was still buffered."""
    with shell("exec true", stdin=cl.PIPE).spawn() as process:
        process.stdin.write(b"nobody reads this")
        process.wait(20)
    assert process.returncode == 0


# ---- the end of its scope ----


def test_leaving_the_block_closes_stdin_and_waits():
    with shell("cat >/dev/null; exit 4", stdin=cl.PIPE).spawn() as process:
        process.stdin.write(b"x" * 10)
    assert process.returncode == 4
    assert process.stdin.closed


@pytest.mark.parametrize(
    "wait_first", [False, pytest.param(True, marks=reaches_after_wait)], ids=["left running", "waited for"]
)
def test_leaving_the_block_kills_what_the_child_left(wait_first):
    with shell("sleep 1000 & echo $!", stdout=cl.PIPE).spawn() as process:
        descendant = int(first_line(process))
        if wait_first:
            assert process.wait(20) == 0
        assert is_running(descendant)
    assert process.returncode == 0
    assert not psutil.pid_exists(process.pid), "reaped"
    ended(descendant)


def test_leaving_the_block_by_an_exception_terminates_the_scope(tmp_path):
    text = "trap 'echo cleaned >\"$1\"; exit 6' TERM; sleep 1000 & echo $!; while :; do sleep 0.02; done"
    process = shell(text, tmp_path / "mark", stdout=cl.PIPE).spawn()

    def fail():
        with process:
            raise LookupError(first_line(process))

    with pytest.raises(LookupError) as info:
        fail()
    assert process.returncode == 6
    assert (tmp_path / "mark").read_text() == "cleaned\n"
    ended(int(info.value.args[0]))


def test_an_exception_while_leaving_leaves_nothing_running():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt), forever().spawn() as process:
            pass  # leaving waits for the child, and that is when the signal comes
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert process.returncode == -signal.SIGKILL


def test_the_exception_of_the_block_is_the_one_that_comes_out():
    def fail():
        with shell("exec true", stdin=cl.PIPE).spawn() as process:
            process.wait(20)
            process.stdin.write(b"for nobody")
            raise LookupError

    with pytest.raises(LookupError):
        fail()


def leave_by_error_while_pipes_are_kept(prepare):
    """Whether leaving a block by an exception ends soon, though one that escaped keeps the child's pipes."""
    escaped, caught = [], []

    def leave():
        command = cl.Command(sys.executable, "-I", "-S", "-c", KEEP, stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE)
        try:
            with command.spawn() as process:
                escaped.append(int(process.stderr.readline()))
                prepare(process)
                raise LookupError
        except LookupError as error:
            caught.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join(PATIENCE)
    in_time = not thread.is_alive()
    os.kill(escaped[0], signal.SIGKILL)
    thread.join()
    assert len(caught) == 1
    return in_time


def test_an_exception_does_not_wait_for_a_thread_that_reads():
    """It holds the lock of the file object for as long as somebody has the other end of the pipe."""
    readers = []

    def read(stream):
        with contextlib.suppress(OSError, ValueError):  # it is closed meanwhile
            stream.read()

    def prepare(process):
        readers.append(threading.Thread(target=read, args=(process.stdout,)))
        readers[0].start()
        wait_until(lambda: fcntl.ioctl(process.stdout.fileno(), termios.FIONREAD, bytes(4)) == bytes(4), "the reader")

    assert leave_by_error_while_pipes_are_kept(prepare)
    readers[0].join()


def test_an_exception_does_not_wait_for_room_in_a_pipe():
    """What was not yet written is dropped: nobody may ever read it."""

    def prepare(process):
        fd = process.stdin.fileno()
        os.set_blocking(fd, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 4096)
        os.set_blocking(fd, True)
        process.stdin.write(b"buffered")

    assert leave_by_error_while_pipes_are_kept(prepare)


class InterruptedLib:
    """The C core, as if a signal's handler raised when the given functions return for the first time."""

    def __init__(self, lib, *names):
        self._lib = lib
        self._names = list(names)

    def __getattr__(self, name):
        call = getattr(self._lib, name)
        if name not in self._names:
            return call

        def interrupted(*args):
            call(*args)
            if name not in self._names:
                return None
            self._names.remove(name)
            raise KeyboardInterrupt(name)

        return interrupted


def test_a_second_interrupt_while_the_first_is_answered(monkeypatch):
    """The check is `_nothing_left`."""
    lib = InterruptedLib(corelane.process.child.lib, "cl_process_spawn", "cl_process_wait")
    monkeypatch.setattr("corelane.process.child.lib", lib)
    with pytest.raises(KeyboardInterrupt, match="cl_process_wait"):
        forever(stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE).spawn()
    assert lib._names == []


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_one_of_a_kind(copying):
    """The end of a copy would be the end of the child."""
    with forever().spawn() as process:
        with pytest.raises(TypeError, match="Process cannot be copied or pickled"):
            copying(process)
        gc.collect()
        assert process.poll() is None
        assert process.kill() is True
        assert process.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize("how", ["detached", "raw", "closed"])
def test_what_was_done_to_the_file_objects_hides_no_exception(how):
    def fail():
        with shell("exec cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
            if how == "detached":
                process.stdout.detach().close()
            elif how == "raw":
                process.stdout = process.stdout.detach()
            else:
                os.close(process.stdout.fileno())
            raise LookupError

    with pytest.raises(LookupError):
        fail()


def test_close_closes_our_ends_and_leaves_the_child_alone():
    process = shell("cat; exec sleep 1000", stdin=cl.PIPE, stdout=cl.PIPE).spawn()
    process.close()
    process.close()
    assert process.stdin.closed
    assert process.stdout.closed
    assert process.state == "running"
    process.kill()
    assert process.wait(20) == -signal.SIGKILL


def test_a_dropped_process_warns_and_is_neither_killed_nor_left_a_zombie():
    process = shell("exec cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn()
    pid, ours = process.pid, os.dup(process.stdin.fileno())
    process.close()
    held = [process]
    del process
    with pytest.warns(ResourceWarning, match=rf"pid={pid} .*was dropped while it runs"):
        held.clear()
    assert is_running(pid)
    os.close(ours)  # which ends it
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the end")
    with shell("true").spawn() as other:
        other.wait(20)
    assert not psutil.pid_exists(pid), "reaped at the next spawn"


@pytest.fixture
def waiting():
    """The children that nobody holds any more, none of another test's among them."""
    kept = dropped.waiting.copy()
    dropped.waiting.clear()
    yield dropped.waiting
    dropped.waiting[:] = kept


@pytest.mark.parametrize("when", ["asked", "answered"])
def test_an_exception_while_dropped_ones_are_looked_at_loses_none(when, waiting):
    """As of a signal's handler: before this one answers, or when another has answered that it is gone."""
    asked = []
    raises_now = [True]

    def is_gone():
        asked.append("gone")
        return True

    def lives():
        asked.append("lives")
        if raises_now.pop() if raises_now else False:
            raise KeyboardInterrupt
        return False

    waiting += [lives, is_gone] if when == "asked" else [is_gone, lives]
    with pytest.raises(KeyboardInterrupt):
        dropped.reap()
    assert lives in waiting
    assert (is_gone in waiting) == ("gone" not in asked)
    dropped.reap()
    assert waiting == [lives]


def test_a_process_that_is_dropped_after_its_end_is_reaped_in_silence():
    process = shell("true").spawn()
    pid = process.pid
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the end")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del process
    assert not psutil.pid_exists(pid)


def test_an_interpreter_that_exits_leaves_its_children_running(tmp_path):
    code = """
import json, sys
import corelane as cl
process = cl.Command("sleep", "1000", stdin=cl.DEVNULL, stdout=cl.DEVNULL, stderr=cl.DEVNULL).spawn()
print(json.dumps(process.pid))
"""
    pid = script(code)
    try:
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_spawn_that_fails_leaves_nothing():
    """The check is `_nothing_left`."""
    for wrong in ({"cwd": "/no/such/place"}, {"program": "/no/such/program"}, {"fds": {5: 999}}):
        with pytest.raises(cl.SpawnFailed):
            cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE).spawn(**wrong)


# ---- in a forked child ----

FORKED = """
import json, os, warnings
import corelane as cl
warnings.simplefilter("error")
process = cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    answers = {}
    calls = {"poll": process.poll, "wait": lambda: process.wait(0), "kill": process.kill, "check": process.check,
             "terminate": lambda: process.terminate(0), "kill_tree": process.kill_tree,
             "send_signal": lambda: process.send_signal("TERM"), "signal_scope": lambda: process.signal_scope("TERM"),
             "state": lambda: process.state}
    for name, call in calls.items():
        try:
            answers[name] = repr(call())
        except BaseException as error:
            answers[name] = type(error).__name__
    answers["own"] = cl.read(["echo", "mine"])
    del process
    os.write(writer, json.dumps(answers).encode())
    os._exit(0)
os.close(writer)
with open(reader, "rb") as file:
    answers = json.load(file)
os.waitpid(child, 0)
process.stdin.write(b"alive")
process.stdin.close()
answers["parent"] = process.stdout.read().decode()
answers["code"] = process.wait(20)
process.close()
print(json.dumps(answers))
"""


def test_a_forked_child_cannot_touch_it():
    answers = script(FORKED)
    assert (answers.pop("parent"), answers.pop("code"), answers.pop("own")) == ("alive", 0, "mine\n")
    assert set(answers.values()) == {"NotOwner"}, answers


LEFT_TWICE = """
import json, os
import corelane as cl
process = cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn()
verdicts = []
with process:
    process.stdin.write(b"once")
    for error in (None, SystemExit()):
        child = os.fork()
        if child == 0:
            verdict = 1
            try:
                process.__exit__(error and type(error), error, None)
            except cl.NotOwner:
                verdict = 7
            finally:
                os._exit(verdict)
        verdicts.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    process.stdin.close()
    came = process.stdout.read().decode()
print(json.dumps([verdicts, came, process.returncode]))
"""


def test_a_forked_child_does_not_write_what_its_parent_will():
    """Both have a copy of what is buffered."""
    assert script(LEFT_TWICE) == [[7, 7], "once", 0]


# ---- threads ----


def test_many_threads_spawn_and_talk():
    wrong = []

    def work(number):
        for turn in range(5):
            word = f"{number}.{turn}\n".encode()
            with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
                process.stdin.write(word)
                process.stdin.close()
                if process.stdout.read() != word or process.wait(30) != 0:
                    wrong.append(word)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_linux
def test_a_pipe_of_one_child_is_not_open_in_another():
    """Else its reader would never see the end of file."""
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as first, cl.Command("cat", stdin=cl.PIPE).spawn():
        first.stdin.close()
        assert first.stdout.read() == b""
        assert first.wait(20) == 0
