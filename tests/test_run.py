"""run() and read(): one child from start to end, its output, its limits, and what ends it early."""

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time
import tty

import psutil
import pytest
from faults_child import nothing_left
from helpers import is_running, wait_until

import corelane as cl

# A child that ignores TERM, and says when it does.
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"

# A descendant that leaves the group, and writes its pid to a file once it has.
ESCAPE = """
import os, sys, time
os.setsid()
with open(sys.argv[1] + ".new", "w") as mark:
    mark.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def shell(text, *args, **options):
    return cl.Command.shell(text, *args, **{"timeout": 30, **options})


def took(started):
    return time.monotonic() - started


# ---- the plain run ----


def test_a_list_a_tuple_and_a_command_are_taken():
    assert cl.run(["echo", "x"], stdout=cl.PIPE).stdout == b"x\n"
    assert cl.run(("echo", "x"), stdout=cl.PIPE).stdout == b"x\n"
    assert cl.run(cl.Command("echo", "x"), stdout=cl.PIPE).stdout == b"x\n"
    assert cl.run(cl.Command("echo", "x", stdout=cl.DEVNULL), stdout=cl.PIPE).stdout == b"x\n"


def test_nothing_is_captured_unless_asked(capfd):
    result = cl.run(["sh", "-c", "echo out; echo err >&2"])
    assert (result.stdout, result.stderr) == (None, None)
    assert capfd.readouterr() == ("out\n", "err\n")


def test_capture_takes_both_streams():
    result = shell("echo out; echo err >&2", capture=True).run()
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_stderr_can_go_into_stdout():
    result = shell("echo 1; echo 2 >&2; echo 3", stdout=cl.PIPE, stderr=cl.STDOUT).run()
    assert (result.stdout, result.stderr) == (b"1\n2\n3\n", None)


def test_both_streams_are_drained_at_once():
    """A child that fills one pipe while its parent reads the other would hang."""
    result = shell("head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero; printf end >&2", capture=True).run()
    assert len(result.stdout) == 1_000_000
    assert len(result.stderr) == 1_000_003


def test_read_returns_text_exactly_as_written():
    assert cl.read(["printf", "a\r\n b\n\n"]) == "a\r\n b\n\n"
    assert cl.Command("printf", "%s", "\u20ac").read() == "\u20ac"
    assert cl.Command("printf", "\\351", encoding="latin-1").read() == "\u00e9"
    assert cl.Command("printf", "a\\377", errors="replace").read() == "a\ufffd"
    with pytest.raises(UnicodeDecodeError):
        cl.Command("printf", "\\377").read()


def test_read_raises_like_run():
    with pytest.raises(cl.NonZeroExit):
        cl.read(["false"])
    assert cl.read(["false"], check=False) == ""


@pytest.mark.parametrize("command", [["echo", "x"], cl.Command("echo", "x"), cl.Command("echo", "x") | ["cat"]])
def test_read_is_not_told_to_send_its_stdout_elsewhere(command, tmp_path):
    with pytest.raises(ValueError, match=r"read returns the stdout, which cannot go to .*out"):
        cl.read(command, stdout=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert cl.read(command, stdout=cl.PIPE) == "x\n"


def test_read_keeps_what_else_was_to_be_captured():
    with pytest.raises(cl.NonZeroExit) as caught:
        shell("echo oops >&2; exit 3", capture=True).read()
    assert caught.value.stderr_tail == b"oops\n"


def test_the_run_of_a_failed_child_raises_unless_told_not_to():
    with pytest.raises(cl.NonZeroExit) as caught:
        cl.run(["sh", "-c", "exit 7"])
    assert caught.value.returncode == caught.value.code == 7
    assert cl.run(["sh", "-c", "exit 7"], check=False).returncode == 7


# ---- stdin ----


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        (b"bytes\n", b"bytes\n"),
        ("te\u00dft", "te\u00dft".encode()),
        (b"", b""),
        ([], b""),
        ([b"", b"a", b"", b"b"], b"ab"),
        ([bytearray(b"x"), memoryview(b"y")], b"xy"),
        (cl.DEVNULL, b""),
        (cl.PIPE, b""),
    ],
)
def test_what_is_fed_arrives(given, arrives):
    assert cl.run(["cat"], stdin=given, stdout=cl.PIPE, timeout=30).stdout == arrives


def test_text_is_fed_in_the_commands_encoding():
    assert cl.run(["cat"], stdin="\u00e9", encoding="latin-1", stdout=cl.PIPE).stdout == b"\xe9"


def test_a_batch_longer_than_one_writev_is_fed_whole():
    pieces = [bytes([i % 256]) * (i % 97) for i in range(3000)]
    assert cl.run(["cat"], stdin=pieces, stdout=cl.PIPE, timeout=60).stdout == b"".join(pieces)


def test_a_large_input_is_fed_while_the_output_is_drained():
    data = os.urandom(1 << 20) * 4
    assert cl.run(["cat"], stdin=data, stdout=cl.PIPE, timeout=60).stdout == data


def test_a_child_may_leave_its_stdin_unread():
    result = cl.run(["head", "-c", "1"], stdin=b"x" * 1_000_000, stdout=cl.PIPE, timeout=60)
    assert result.stdout == b"x"
    assert result.returncode == 0
    assert 0 < result.stdin_left < 1_000_000
    assert cl.run(["cat"], stdin=b"x", stdout=cl.DEVNULL).stdin_left == 0


def test_feeding_a_dead_child_does_not_raise_sigpipe():
    """Also where the program has set SIGPIPE back to its default, which would end it."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        assert cl.run(["true"], stdin=b"x" * 1_000_000).returncode == 0
    finally:
        signal.signal(signal.SIGPIPE, before)


# ---- deadlines ----


def test_a_deadline_kills_and_keeps_what_was_read():
    started = time.monotonic()
    with pytest.raises(cl.ProcessTimeout, match=r"longer than 0\.5 s") as caught:
        shell("echo begun; echo warned >&2; exec sleep 1000", capture=True, timeout=0.5).run()
    assert 0.5 <= took(started) < 20
    error = caught.value
    assert (error.stdout, error.stderr, error.timeout) == (b"begun\n", b"warned\n", 0.5)
    assert error.returncode == -signal.SIGKILL
    assert error.result.timed_out
    assert not error.result.ok


def test_a_deadline_raises_also_without_check():
    with pytest.raises(cl.ProcessTimeout):
        cl.run(["sleep", "1000"], timeout=0.05, check=False)


def test_grace_gives_the_child_time_to_clean_up():
    text = "trap 'echo cleaned; exit 5' TERM; echo on; while :; do sleep 0.02; done"
    with pytest.raises(cl.ProcessTimeout) as caught:
        shell(text, stdout=cl.PIPE, timeout=0.5, grace=20).run()
    assert caught.value.stdout == b"on\ncleaned\n"
    assert caught.value.returncode == 5


def test_grace_ends_in_sigkill():
    started = time.monotonic()
    with pytest.raises(cl.ProcessTimeout) as caught:
        shell(STUBBORN, stdout=cl.PIPE, timeout=0.5, grace=0.2).run()
    assert took(started) >= 0.7
    assert caught.value.returncode == -signal.SIGKILL


def test_a_stopped_child_is_ended_by_its_deadline():
    with pytest.raises(cl.ProcessTimeout) as caught:
        shell("kill -STOP $$", timeout=0.4, grace=20).run()
    assert caught.value.returncode == -signal.SIGTERM


def test_a_flood_does_not_outrun_its_deadline():
    with pytest.raises(cl.ProcessTimeout) as caught:
        cl.run(["cat", "/dev/zero"], stdout=cl.PIPE, max_output=1000, on_limit="truncate", timeout=0.2)
    assert caught.value.stdout == bytes(1000)


def test_a_deadline_that_is_not_reached_costs_nothing():
    started = time.monotonic()
    assert cl.run(["true"], timeout=1e9, grace=1e9).ok
    assert took(started) < 5


# ---- pipes that outlive the child ----


def test_a_descendant_that_keeps_the_pipe_ends_with_the_run():
    result = shell("sleep 1000 & echo $!", stdout=cl.PIPE, drain=0.05).run()
    assert result.pipes_left_open
    assert result.ok
    wait_until(lambda: not is_running(int(result.stdout)), "the descendant's end")


def test_a_descendant_may_finish_what_it_writes_while_pipes_are_drained():
    result = shell("(sleep 0.1; echo late) & echo early", stdout=cl.PIPE, drain=20).run()
    assert result.stdout == b"early\nlate\n"
    assert not result.pipes_left_open


def test_one_outside_the_scope_does_not_hold_up_the_run(tmp_path):
    mark = tmp_path / "pid"
    started = time.monotonic()
    result = shell(
        '"$@" & while ! [ -s "$4" ]; do sleep 0.01; done; echo done',
        *(sys.executable, "-c", ESCAPE, mark),
        stdout=cl.PIPE,
        drain=0.05,
    ).run()
    pid = int(mark.read_text())
    try:
        assert (result.stdout, result.ok, result.pipes_left_open) == (b"done\n", True, True)
        assert took(started) < 10
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_no_time_to_drain_is_enough_to_see_that_nobody_has_the_pipe(tmp_path):
    for _ in range(200):
        result = cl.run(["echo", "x"], capture=True, drain=0)
        assert (result.stdout, result.pipes_left_open) == (b"x\n", False)
    mark = tmp_path / "pid"
    wait = '"$@" & while ! [ -s "$4" ]; do sleep 0.01; done; echo done'
    result = shell(wait, *(sys.executable, "-c", ESCAPE, mark), capture=True, drain=0).run()
    os.kill(int(mark.read_text()), signal.SIGKILL)
    assert (result.stdout, result.pipes_left_open) == (b"done\n", True)


def test_the_deadline_ends_where_the_drain_begins():
    """The child made it in time; what it left behind has a bound of its own."""
    result = shell("sleep 1000 & echo done", stdout=cl.PIPE, timeout=20, drain=0.1).run()
    assert (result.stdout, result.timed_out, result.pipes_left_open) == (b"done\n", False, True)


# ---- max_output ----


def test_a_cap_that_is_reached_exactly_is_not_passed():
    result = cl.run(["printf", "12345"], capture=True, max_output=5)
    assert (result.stdout, result.truncated) == (b"12345", False)


def test_more_output_than_the_cap_fails():
    with pytest.raises(cl.OutputLimitExceeded, match="max_output=10 bytes") as caught:
        cl.run(["cat", "/dev/zero"], stdout=cl.PIPE, max_output=10, timeout=30)
    assert caught.value.stdout == bytes(10)
    assert caught.value.returncode == -signal.SIGKILL
    assert caught.value.result.truncated


def test_more_output_than_the_cap_can_be_cut():
    result = shell("head -c 300000 /dev/zero; echo end >&2", capture=True, max_output=10, on_limit="truncate").run()
    assert (result.stdout, result.stderr, result.truncated, result.returncode) == (bytes(10), b"end\n", True, 0)


def test_more_output_than_the_cap_can_end_the_child():
    result = cl.run(["cat", "/dev/zero"], stdout=cl.PIPE, max_output=10, on_limit="kill", timeout=30)
    assert (result.stdout, result.truncated, result.returncode) == (bytes(10), True, -signal.SIGKILL)


def test_a_failure_is_not_hidden_by_a_cut():
    with pytest.raises(cl.NonZeroExit) as caught:
        shell("head -c 100 /dev/zero; exit 3", stdout=cl.PIPE, max_output=10, on_limit="truncate").run()
    assert caught.value.result.truncated


@pytest.mark.parametrize("action", ["fail", "kill"])
def test_the_cap_ends_the_whole_scope(action):
    command = shell("sleep 1000 & echo $!; cat /dev/zero", stdout=cl.PIPE, max_output=1000, on_limit=action)
    try:
        output = command.run().stdout
    except cl.OutputLimitExceeded as error:
        output = error.stdout
    wait_until(lambda: not is_running(int(output.split(b"\n")[0])), "the descendant's end")


def test_the_cap_holds_for_each_stream():
    result = shell("printf 12345; printf 123456 >&2", capture=True, max_output=5, on_limit="truncate").run()
    assert (result.stdout, result.stderr, result.truncated) == (b"12345", b"12345", True)


def test_a_cap_of_nothing():
    assert cl.run(["true"], capture=True, max_output=0).stdout == b""
    with pytest.raises(cl.OutputLimitExceeded):
        cl.run(["echo"], capture=True, max_output=0)


# ---- tee ----


def test_a_tee_gets_what_is_captured(tmp_path):
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        result = shell("echo out; echo err >&2", capture=True, tee_stdout=out, tee_stderr=err.fileno()).run()
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert (tmp_path / "out").read_bytes() == b"out\n"
    assert (tmp_path / "err").read_bytes() == b"err\n"


def test_a_tee_gets_all_of_a_long_output_and_more_than_the_cap(tmp_path):
    data = os.urandom(1 << 20)
    with open(tmp_path / "out", "wb") as out:
        result = cl.run(["cat"], stdin=data, stdout=cl.PIPE, tee_stdout=out, max_output=100, on_limit="truncate")
    assert result.stdout == data[:100]
    assert (tmp_path / "out").read_bytes() == data


def test_one_tee_may_serve_both_streams(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        shell("echo 1; echo 2 >&2", capture=True, tee_stdout=log, tee_stderr=log).run()
    assert sorted((tmp_path / "log").read_bytes().split()) == [b"1", b"2"]


def test_what_a_tee_file_has_buffered_comes_first(tmp_path):
    with open(tmp_path / "log", "w") as log:
        log.write("before\n")
        cl.run(["echo", "after"], capture=True, tee_stdout=log)
    assert (tmp_path / "log").read_text() == "before\nafter\n"


def test_a_tee_that_nobody_reads_fails_and_the_output_is_kept():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(cl.TeeFailed, match="could not be copied") as caught:
            cl.run(["head", "-c", "300000", "/dev/zero"], stdout=cl.PIPE, tee_stdout=writer, timeout=30)
    finally:
        os.close(writer)
    assert caught.value.stdout == bytes(300_000)
    assert caught.value.returncode == 0
    assert isinstance(caught.value, OSError)


def test_a_full_tee_does_not_break_the_deadline():
    reader, writer = os.pipe()
    started = time.monotonic()
    try:
        with pytest.raises(cl.ProcessTimeout):
            cl.run(["cat", "/dev/zero"], stdout=cl.PIPE, tee_stdout=writer, timeout=0.3)
        assert took(started) < 10
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_socket_as_tee_does_not_break_the_deadline():
    """It cannot be opened once more to be written to without blocking. Both streams wait for it, both are told that
    there is room, and the first one's copy takes it."""
    reader, writer = socket.socketpair()
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    started = time.monotonic()
    with reader, writer:
        with contextlib.suppress(BlockingIOError):
            while True:
                writer.send(bytes(1000), socket.MSG_DONTWAIT)
        make_room = threading.Timer(0.3, reader.recv, [1 << 20])
        make_room.start()
        with pytest.raises(cl.ProcessTimeout):
            shell("cat /dev/zero >&2 & exec cat /dev/zero", capture=True, tee_stdout=writer, tee_stderr=writer,
                  timeout=0.6).run()  # fmt: skip
        assert took(started) < 10
        make_room.join()
        assert writer.getblocking()


def test_a_tee_to_the_master_of_a_terminal_arrives_at_its_slave():
    """Opening a master once more, for a description that does not block, would make another terminal."""
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        assert cl.run(["echo", "x"], capture=True, tee_stdout=master).stdout == b"x\n"
        ready, _, _ = select.select([slave], [], [], 5)
        assert ready, "it went somewhere else"
        assert os.read(slave, 100) == b"x\n"
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_tee_to_a_closed_descriptor_starts_nothing(stream, tmp_path):
    """One of the pipes of the run would get that number."""
    held = [os.dup(0) for _ in range(10)]
    for fd in held:
        os.close(fd)
    for fd in held:
        touch = cl.Command("touch", tmp_path / "mark", stdin=b"x" * 100_000, capture=True, timeout=20)
        with pytest.raises(cl.SpawnFailed, match="touch") as caught:
            touch.with_options(**{f"tee_{stream}": fd}).run()
        assert (caught.value.stage, caught.value.errno) == ("descriptors", errno.EBADF)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_tee_loses_nothing():
    """Its reader wakes up long after the child's end and the drain's time."""
    reader, writer = os.pipe()
    copied = []
    ended = threading.Event()

    def read_late():
        ended.wait(20)
        while piece := os.read(reader, 65536):
            copied.append(piece)

    slow = threading.Thread(target=read_late)
    slow.start()
    timer = threading.Timer(0.5, ended.set)
    timer.start()
    try:
        result = cl.run(
            ["head", "-c", "120000", "/dev/zero"], stdout=cl.PIPE, tee_stdout=writer, timeout=30, drain=0.05
        )
    finally:
        timer.join()
        os.close(writer)
        slow.join()
        os.close(reader)
    assert (len(result.stdout), result.pipes_left_open) == (120_000, False)
    assert sum(map(len, copied)) == 120_000


# ---- sizes of buffers and pipes ----


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_buffers_of_any_size_hold_all(size):
    data = os.urandom(100_000)
    assert cl.run(["cat"], stdin=data, capture=True, buffer_size=size, timeout=60).stdout == data


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="this system cannot size its pipes")
def test_pipes_have_the_capacity_asked_for():
    show = "import fcntl, json; print(json.dumps([fcntl.fcntl(n, fcntl.F_GETPIPE_SZ) for n in (0, 1, 2)]))"
    command = cl.Command(sys.executable, "-I", "-S", "-c", show, stdin=b"", capture=True, timeout=30)
    sized = command.with_options(pipe_size={"stdin": 4096, "stdout": 131072, "stderr": 262144})
    assert sized.read() == "[4096, 131072, 262144]\n"
    assert command.with_options(pipe_size=8192).read() == "[8192, 8192, 8192]\n"


# ---- interruption ----


class Interrupted(Exception):
    pass


@pytest.fixture
def alarm():
    """Raises Interrupted in the main thread so many seconds later, as Ctrl-C would raise KeyboardInterrupt."""

    def raise_it(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raise_it)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_exception_in_a_signal_handler_ends_the_scope(alarm, tmp_path):
    alarm(0.3)
    with pytest.raises(Interrupted):
        shell('echo $$ >"$1"; sleep 1000 & echo $! >>"$1"; wait', tmp_path / "pids", timeout=None).run()
    leader, descendant = map(int, (tmp_path / "pids").read_text().split())
    assert not psutil.pid_exists(leader), "reaped before the exception goes on"
    wait_until(lambda: not is_running(descendant), "the descendant's end")


def test_a_flood_can_be_interrupted(alarm):
    """Where there is always something to read, the engine never sleeps."""
    alarm(0.2)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        cl.run(["cat", "/dev/zero"], stdout=cl.PIPE, max_output=0, on_limit="truncate")
    assert took(started) < 10


def test_a_signal_that_raises_nothing_does_not_end_the_run():
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        assert shell("sleep 0.3; echo done", stdout=cl.PIPE).run().stdout == b"done\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) > 3


# ---- threads ----


def test_many_threads_run_at_once():
    wrong = []

    def work(number):
        for turn in range(10):
            text = f"{number}.{turn}"
            result = cl.run(["cat"], stdin=text * 100, capture=True, timeout=60)
            if result.text != text * 100 or not result.ok:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_run_lets_other_threads_go_on():
    done = threading.Event()
    ticks = []

    def tick():
        while not done.is_set():
            ticks.append(1)
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    before = len(ticks)
    cl.run(["sleep", "0.2"])
    during = len(ticks) - before
    done.set()
    thread.join()
    assert during > 3


def test_a_run_within_a_run():
    """A signal handler may run a command of its own while the engine waits."""
    inner = []
    before = signal.signal(signal.SIGALRM, lambda *_: inner.append(cl.read(["echo", "inner"])))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        assert shell("sleep 0.4; echo outer", stdout=cl.PIPE).run().stdout == b"outer\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert inner == ["inner\n"]


@pytest.mark.slow
def test_the_memory_of_one_large_run_is_given_back():
    process = psutil.Process()
    cl.run(["head", "-c", "1000", "/dev/zero"], capture=True)
    before = process.memory_info().rss
    assert len(cl.run(["head", "-c", "300000000", "/dev/zero"], capture=True, timeout=120).stdout) == 300_000_000
    cl.run(["true"], capture=True)
    assert process.memory_info().rss - before < 50_000_000
