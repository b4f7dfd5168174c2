"""What the system, the child and the rest of the program can do to us: each ends in a result or an error of the right
type, in bounded time, and leaves nothing."""

import contextlib
import errno
import gc
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from faults_child import STRATEGIES, children, fresh, is_gone, nothing_left, raises, until

import corelane as cl
from corelane._ffi import PLATFORM

SLEEPER = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


# ---- no room ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_any_number_of_free_descriptors(strategy, tmp_path):
    """Whichever of the pipes, pidfds and copies is the one too many, the ones before it are closed again."""

    def run_out(strategy, out):
        import errno
        import resource

        def in_use():
            return {fd for fd in range(64) if not fails(os.fstat, fd)}  # listing a directory needs a descriptor

        def fails(call, *args):
            with contextlib.suppress(OSError):
                call(*args)
                return False
            return True

        how = {"strategy": strategy}
        cat = cl.Command("cat", **how)
        attempts = {
            "run": lambda: cat.with_options(capture=True, stdin=b"in").run().stdout == b"in",
            "null": lambda: cat.with_options(stdin=cl.DEVNULL, stdout=cl.DEVNULL, stderr=cl.STDOUT).run().ok,
            "file": lambda: cat.with_options(stdin=b"in", stdout=cl.File(out)).run().ok,
            "map": lambda: cat.with_options(stdin=cl.DEVNULL, fds={3: 0, 9: 1}, cwd="/").run().ok,
            "lines": lambda: list(cl.Command("echo", "in", **how).lines()) == ["in"],
            "process": lambda: talk(cat) == b"in",
        }

        def talk(command):
            with command.spawn(stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE) as process:
                process.stdin.write(b"in")
                process.stdin.close()
                return process.stdout.read()

        for attempt in attempts.values():
            assert attempt()  # whatever is loaded late is loaded now
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        taken = []
        while not fails(lambda: taken.append(os.dup(2))):
            continue
        refused = dict.fromkeys(attempts, 0)
        for free in range(24):
            for name, attempt in attempts.items():
                before = in_use()
                assert len(before) == 64 - free
                error = None
                try:
                    assert attempt(), name
                except cl.ResourceExhausted as refusal:
                    error = refusal
                assert in_use() == before, (name, free)
                assert fails(os.waitpid, -1, os.WNOHANG), (name, free, "a child is left")
                if error is not None:
                    assert error.errno == errno.EMFILE, error
                    assert "too many descriptors" in str(error), error
                    refused[name] += 1
                    assert free < 23, error
            os.close(taken.pop())
        assert all(refused.values()), refused

    fresh(run_out, strategy, str(tmp_path / "out"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_no_process_to_spare(strategy):
    def run_out(strategy):
        import errno
        import resource

        cl.run(["true"], strategy=strategy)
        if os.geteuid() == 0:  # whom the limit does not bind
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        for start in (cl.run, lambda argv, **options: cl.Command(*argv, **options).spawn(stdout=cl.PIPE)):
            for options in ({"strategy": strategy}, {"strategy": strategy, "cwd": "/", "umask": 0o22}):
                with nothing_left(), raises(cl.ResourceExhausted) as caught:
                    start(["true"], **options)
                error = caught.value
                assert isinstance(error, BlockingIOError)
                assert error.errno == errno.EAGAIN
                assert error.stage == "clone" or (strategy, error.stage) == ("posix_spawn", "trampoline"), error
                assert "ulimit -u" in str(error)
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        cl.run(["true"], strategy=strategy)

    fresh(run_out, strategy)


@pytest.mark.skipif(PLATFORM == "darwin", reason="no child is tied to its parent on macOS")
def test_with_no_thread_to_spare():
    """A child that dies with us is cloned by a thread of its own where the caller may end before it."""

    def run_out():
        import resource
        import threading

        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        start, caught = threading.Event(), []

        def work():
            start.wait()
            for attempt in (cl.Command("true").run, cl.Command("true", die_with_parent=True).spawn):
                try:
                    attempt()
                except Exception as error:
                    caught.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        start.set()
        worker.join()
        assert [type(error).__mro__.count(cl.ResourceExhausted) for error in caught] == [1, 1], caught
        assert children() == []

    fresh(run_out)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(PLATFORM == "darwin", reason="macOS has no such check at exec")
def test_a_limit_on_processes_that_exec_looks_at():
    """The change of user is granted, and the exec after it is not."""
    other = {"user": 54321, "group": 54321, "extra_groups": []}
    with cl.Command("sleep", "1000", **other).spawn() as first:
        with pytest.raises(cl.ResourceExhausted, match="ulimit -u") as caught:
            cl.run(["true"], rlimits={"nproc": 0}, **other)
        first.kill()
    assert (caught.value.stage, caught.value.errno) == ("exec", errno.EAGAIN)


@pytest.mark.skipif(PLATFORM == "darwin", reason="macOS does not enforce RLIMIT_AS")
def test_output_that_does_not_fit_into_memory():
    def run_out():
        import resource

        endless = cl.Command("head", "-c", "300000000", "/dev/zero", capture=True)
        cl.run(["true"], capture=True)
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (96 << 20), limits[1]))
        with nothing_left():
            with raises(MemoryError) as caught:
                endless.run()
            assert str(endless) in str(caught.value)
            assert "max_output" in str(caught.value)
            del caught
            assert cl.run(["echo", "x"], capture=True).stdout == b"x\n"
            assert sum(map(len, endless.chunks())) == 300000000
            done = endless.with_options(max_output=1000, on_limit="truncate").run()
            assert (len(done.stdout), done.truncated) == (1000, True)

    fresh(run_out)


# ---- a parent without standard streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_any_of_the_standard_streams_closed(strategy, tmp_path):
    """The numbers 0 to 2 are then given to the next pipe, which must not become a stream of the child by accident."""

    def go_without(strategy, out):
        how = {"strategy": strategy}

        def sh(script, **options):
            return cl.run(["sh", "-c", script], **options, **how)

        def talk():
            process = cl.Command("cat", **how).spawn(stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE)
            streams = [process.stdin, process.stdout, process.stderr]
            assert all(stream.fileno() > 2 for stream in streams)
            assert PLATFORM == "portable" or process.fileno() > 2
            with process:
                process.stdin.write(b"in")
                process.stdin.close()
                return process.stdout.read(), process.stderr.read()

        def check(closed):
            assert sh("cat", stdin=b"in", capture=True).stdout == b"in"
            both = sh("echo out; echo err >&2", capture=True)
            assert (both.stdout, both.stderr) == (b"out\n", b"err\n")
            assert sh("echo err >&2; echo out", stdout=cl.PIPE, stderr=cl.STDOUT).stdout == b"err\nout\n"
            assert sh("echo err >&2", stderr=cl.PIPE).stderr == b"err\n"
            quiet = {"stdin": cl.DEVNULL, "stdout": cl.DEVNULL, "stderr": cl.DEVNULL}
            assert sh("cat; echo out && echo err >&2", **quiet).ok
            sh("echo out; echo err >&2", stdout=cl.File(out), stderr=cl.STDOUT)
            with open(out) as file:
                assert file.read() == "out\nerr\n"
            assert list(cl.Command("echo", "line", **how).lines()) == ["line"]
            assert talk() == (b"in", b"")
            # What is closed here is closed there, whatever pipes are made between.
            for number in (0, 1, 2):
                open_there = sh(f"exec 9<&{number}", stderr=cl.PIPE, check=False)
                assert open_there.ok == (number not in closed or number == 2), (number, open_there)
            reader, writer = os.pipe()  # on the lowest numbers
            os.write(writer, b"mapped")
            os.close(writer)
            assert sh("cat <&7", stdout=cl.PIPE, fds={7: reader}).stdout == b"mapped"
            os.close(reader)

        cl.run(["true"])
        kept = [os.dup(fd) for fd in (0, 1, 2)]
        for pick in range(8):
            closed = [fd for fd in (0, 1, 2) if pick >> fd & 1]
            for fd in closed:
                os.close(fd)
            try:
                with nothing_left():
                    check(closed)
            finally:
                for fd in closed:
                    os.dup2(kept[fd], fd)

    fresh(go_without, strategy, str(tmp_path / "out"))


# ---- a host program that reaps --------------------------------------------------------------------------------------


def _kernel_keeps_statuses():
    release = [int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdecimal()]
    return PLATFORM == "linux" and release >= [6, 15]


@pytest.mark.parametrize("how", ["ignored", "handler", "thread"])
def test_a_host_that_takes_our_childrens_statuses(how):
    """SIGCHLD ignored, a handler that reaps all, a thread in waitpid(-1): we get the status from elsewhere, or say that
    nobody knows it; we never hang, and never call a failure a success."""

    def live_with_it(how, known):
        import contextlib
        import signal
        import threading

        stop = threading.Event()

        def reap(*_):
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue

        def reap_always():
            while not stop.is_set():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, os.WNOHANG)

        if how == "thread":
            reaper = threading.Thread(target=reap_always)
            reaper.start()
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN if how == "ignored" else reap)

        def outcome(command):
            try:
                return command.run().returncode
            except cl.NonZeroExit as error:
                return error.code
            except cl.Signaled as error:
                return -error.signal
            except cl.StatusUnknown as error:
                return error.result.returncode if "waitpid(-1)" in str(error) else "a message that says nothing"

        try:
            for script, code in [(":", 0), ("exit 3", 3), ("kill -9 $$", -9)] * 20:
                command = cl.Command("sh", "-c", script)
                for got in (outcome(command), outcome(command.with_options(capture=True))):
                    assert got == code or (got is None and not known), (script, got)
                assert command.with_options(check=False).run().returncode in (code, None)
                with command.spawn(stdout=cl.PIPE) as process:
                    assert process.wait() in (code, None)
                    assert process.state in ("exited", "signaled", "unknown")
                    assert process.kill() is False
            for bad in (["no-such-program"], ["true", "x" * 2_000_000]):
                with raises(cl.SpawnFailed) as caught:
                    cl.run(bad)
                assert caught.value.stage == "exec"
            if how != "ignored":
                assert cl.run(["sleep", "0.01"], capture=True, check=False).pid
        finally:
            stop.set()
            if how == "thread":
                reaper.join()
        with nothing_left():
            cl.run(["true"], check=False)

    fresh(live_with_it, how, _kernel_keeps_statuses())


def test_a_status_that_somebody_took():
    def take_it(known):
        process = cl.Command("sh", "-c", "exit 3").spawn()
        assert os.waitpid(-1, 0)[0] == process.pid
        assert process.wait() == (3 if known else None)
        assert process.state == ("exited" if known else "unknown")
        assert process.send_signal("TERM") is False
        assert process.terminate() == (3 if known else None)
        with raises(cl.NonZeroExit if known else cl.StatusUnknown) as caught:
            process.check()
        assert str(process.command) in str(caught.value)

    fresh(take_it, _kernel_keeps_statuses())


# ---- children that do not end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_child_that_ignores_the_polite_signal(strategy):
    # Born ignoring it, so that there is no moment at which it would work.
    stubborn = cl.Command(*SLEEPER, signal_ignores=["TERM"], strategy=strategy)
    with pytest.raises(cl.ProcessTimeout, match=rf"^{re.escape(str(stubborn))} ran longer than 0\.05 s") as caught:
        stubborn.with_options(timeout=0.05, grace=0.05).run()
    assert caught.value.result.signal == signal.SIGKILL
    assert caught.value.result.elapsed >= 0.1
    with stubborn.spawn() as process:
        assert process.terminate(grace=0.05) == -signal.SIGKILL
    with pytest.raises(cl.ProcessTimeout):
        list(stubborn.with_options(timeout=0.05, grace=0.05).lines())


def test_a_timeout_keeps_what_was_written_and_kills_the_whole_scope():
    script = "sleep 1000 & echo $!; echo oops >&2; wait"
    with pytest.raises(cl.ProcessTimeout) as caught:
        cl.run(["sh", "-c", script], timeout=0.5, capture=True)
    grandchild = int(caught.value.stdout)
    assert caught.value.stderr == b"oops\n"
    assert caught.value.result.contained == "group"
    until(lambda: is_gone(grandchild))


DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"daemon\\n")
        os.read(3, 1)  # until the test lets go of it
        os._exit(0)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_daemon_that_keeps_the_pipe(strategy):
    """It has left the group, so nothing of ours may hit it; and nothing of ours may wait for it."""
    leash, ours = os.pipe()
    try:
        command = cl.Command(sys.executable, "-Sc", DAEMON, fds={3: leash}, drain=0.5, strategy=strategy)
        done = command.with_options(capture=True).run()
        assert (done.stdout, done.pipes_left_open, done.returncode) == (b"daemon\n", True, 0)
        began = time.monotonic()
        assert list(command.lines()) == ["daemon"]
        assert b"".join(command.chunks()) == b"daemon\n"
        with command.with_options(drain=None).spawn(stdout=cl.PIPE, stderr=cl.PIPE) as process:
            assert process.stdout.readline() == b"daemon\n"
        assert time.monotonic() - began < 10
    finally:
        os.close(ours)
        os.close(leash)


def test_a_child_that_closes_its_output_early():
    began = time.monotonic()
    done = cl.run(["sh", "-c", "echo first; exec >&- 2>&-; sleep 0.1; exit 3"], capture=True, check=False)
    assert (done.stdout, done.returncode, done.pipes_left_open) == (b"first\n", 3, False)
    assert time.monotonic() - began >= 0.1
    assert list(cl.Command("sh", "-c", "echo first; exec >&-; sleep 0.05").lines()) == ["first"]


def test_a_child_that_does_not_read_its_input():
    feed = b"x" * (4 << 20)
    for command in (["true"], ["sh", "-c", "exec <&-; sleep 0.05"], ["head", "-c", "1"]):
        done = cl.run(command, stdin=feed, stdout=cl.DEVNULL)
        assert 0 < done.stdin_left <= len(feed)
    with cl.Command("true").spawn(stdin=cl.PIPE) as process:
        process.wait()
        with pytest.raises(BrokenPipeError):
            process.writev([feed])


def test_an_output_that_we_close_early():
    with cl.Command("yes").spawn(stdout=cl.PIPE) as process:
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == -signal.SIGPIPE
    lines = cl.Command("yes").lines()
    assert next(lines) == "y"
    [pid] = children()
    lines.close()
    assert is_gone(pid)


def test_a_broken_pipe_ends_whoever_writes_to_it():
    """Python ignores SIGPIPE. A child that inherited that would write for ever."""
    assert cl.run(["sh", "-c", "yes | head -n 1"], capture=True, timeout=20).stdout == b"y\n"


def test_a_broken_pipe_does_not_end_us():
    def write_to_nobody():
        import signal

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        assert cl.run(["true"], stdin=b"x" * (1 << 20)).stdin_left
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    fresh(write_to_nobody)


def test_stopped_and_continued():
    with cl.Command(*SLEEPER).spawn() as process:
        assert process.state == "running"
        process.send_signal("STOP")
        until(lambda: process.state == "stopped")
        assert process.poll() is None
        with pytest.raises(cl.ProcessTimeout, match="still runs after 0 s"):
            process.wait(0)
        process.send_signal("CONT")
        until(lambda: process.state == "running")
        process.send_signal("STOP")
        until(lambda: process.state == "stopped")
        assert process.terminate(grace=20) == -signal.SIGTERM, "a stopped child is continued, to die"
    assert process.state == "signaled"


def test_a_stopped_child_has_a_deadline_too():
    with pytest.raises(cl.ProcessTimeout) as caught:
        cl.run(["sh", "-c", "kill -STOP $$"], timeout=0.3, grace=20)
    assert caught.value.result.signal == signal.SIGTERM


def test_who_may_read_the_terminal():
    """A child in a group of its own that reads our terminal is stopped, so by default it stays in ours."""

    def at_a_terminal():
        import fcntl
        import signal
        import termios

        master, terminal = os.openpty()
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        os.dup2(terminal, 0)
        reader = cl.Command("head", "-n", "1", stdout=cl.PIPE)
        with nothing_left():
            os.write(master, b"typed\n")
            done = reader.run()
            assert (done.stdout, done.contained) == (b"typed\n", "none")
            os.write(master, b"again\n")
            assert list(reader.lines()) == ["again"]

            grouped = reader.with_options(contain="group")
            with grouped.spawn() as process:
                assert process.contained == "group"
                until(lambda: process.state == "stopped")
                process.kill()
            with raises(cl.ProcessTimeout) as caught:
                grouped.with_options(timeout=0.2, grace=20).run()
            assert caught.value.result.signal == signal.SIGTERM
            process = caught = None  # the pidfd lives as long as the object

            os.write(master, b"lent\n")
            done = reader.with_options(foreground=True).run()
            assert (done.stdout, done.contained) == (b"lent\n", "group")
            assert os.tcgetpgrp(0) == os.getpgrp(), "and we have it back"

    fresh(at_a_terminal)


# ---- the same Process, again and from everywhere ---------------------------------------------------------------------


def test_a_process_can_be_waited_for_again():
    process = cl.Command("sh", "-c", "exit 3").spawn()
    assert [process.wait(), process.wait(0), process.poll(), process.returncode] == [3, 3, 3, 3]
    for late in (process.kill, lambda: process.send_signal("TERM"), lambda: process.signal_scope("TERM")):
        assert late() is False
    process.kill_tree()
    assert process.terminate() == 3
    with process:
        assert process.state == "exited"
    process.close()
    assert process.wait() == 3


def test_waiting_in_two_threads():
    process = cl.Command(*SLEEPER).spawn()
    codes = []
    waiters = [threading.Thread(target=lambda: codes.append(process.wait())) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    assert process.kill() is True
    for waiter in waiters:
        waiter.join()
    assert codes == [-signal.SIGKILL] * 4


def test_everything_at_once_from_everywhere():
    """All agree on how it ended, and no signal is sent to a number that is nobody's any more."""

    def hammer(process, start, calls, seen):
        start.wait()
        for call in calls:
            seen.append(call(process))

    calls = {
        "wait": lambda process: process.wait(),
        "poll": lambda process: process.poll(),
        "kill": lambda process: process.kill(),
        "term": lambda process: process.terminate(grace=0),
        "look": lambda process: process.state and process.returncode,
        "tree": lambda process: process.signal_scope("KILL"),
    }
    for round_ in range(25):
        process = cl.Command(*(["true"] if round_ % 2 else SLEEPER)).spawn()
        seen, start, names = [], threading.Barrier(len(calls)), list(calls)
        threads = []
        for i in range(len(calls)):
            order = [calls[name] for name in names[i:] + names[:i]]
            threads.append(threading.Thread(target=hammer, args=(process, start, order, seen)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert len(seen) == len(calls) ** 2
        codes = {code for code in seen if type(code) is int}
        assert len(codes) == 1
        assert codes <= {0, -signal.SIGKILL, -signal.SIGTERM}
        assert process.returncode in codes


def test_runs_in_many_threads():
    wrong = []

    def work(name):
        for i in range(15):
            text = f"{name}-{i}-" + "x" * (i * 1000)
            done = cl.run(["cat"], stdin=text, capture=True)
            if done.text != text:
                wrong.append((name, i, done))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(PLATFORM == "darwin", reason="no child is tied to its parent on macOS")
def test_a_child_outlives_the_thread_that_spawned_it():
    """The death signal follows the thread that cloned, so that thread must not be the caller's."""
    made = []
    thread = threading.Thread(target=lambda: made.append(cl.Command(*SLEEPER, die_with_parent=True).spawn()))
    thread.start()
    thread.join()
    with made[0] as process:
        # Once more on that thread: the signal, had there been one, has arrived by then.
        cl.run(["true"])
        assert process.poll() is None
        process.kill()


# ---- a child that became somebody else -------------------------------------------------------------------------------

# Root from then on, which it tells; it ends at the end of its stdin.
BECOME_ROOT = """
#include <signal.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char byte;
    (void)argv;
    if (setgid(0) || setuid(0) || write(1, "root\\n", 5) != 5 || (argc > 1 && kill(getppid(), SIGUSR1)))
        return 99;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
"""


@pytest.fixture
def becomes_root():
    """A set-user-id program of root's, where everybody can run it."""
    compiler = shutil.which("cc")
    if os.geteuid() != 0 or not compiler:
        pytest.skip("only root can make a set-user-id program of root's, and only with a compiler")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        if os.statvfs(directory).f_flag & os.ST_NOSUID:
            pytest.skip(f"{directory} is mounted nosuid")
        program = f"{directory}/become-root"
        subprocess.run([compiler, "-x", "c", "-o", program, "-"], input=BECOME_ROOT, text=True, check=True)
        os.chmod(program, 0o4755)
        tried = subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True, check=False, user=54321)
        if tried.returncode != 0:
            pytest.skip("no program becomes root here (no_new_privs, or a user namespace)")
        yield program


def meet_root(how, program):
    """Start as root what we may not end as somebody else."""
    import signal

    def wake(*_):
        raise LookupError

    is_gone(1)  # all that is imported on demand; somebody else may not be able to
    list(cl.Command("true").lines())
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
    signal.signal(signal.SIGUSR1, wake)
    reader, writer = os.pipe()
    command = cl.Command(program, stdin=reader)
    came = []
    began = time.monotonic()
    if how == "lines":
        with raises(cl.ProcessTimeout):
            for line in command.with_options(timeout=0.5).lines():
                came.append(line)
    elif how == "run timeout":
        with raises(cl.ProcessTimeout) as caught:
            command.with_options(timeout=0.5, capture=True).run()
        came.append(caught.value.result.text.strip())
    elif how == "with":
        with raises(KeyError), command.spawn(stdout=cl.PIPE) as process:
            came.append(process.stdout.readline().decode().strip())
            raise KeyError
    else:
        if how == "two interrupts":  # the second comes while the first waits for the child's end
            signal.signal(signal.SIGALRM, wake)
            signal.signal(signal.SIGUSR1, lambda *_: (signal.setitimer(signal.ITIMER_REAL, 0.3), wake()))
        with raises(LookupError):
            command.with_args("tell").with_options(stdout=cl.DEVNULL).run()
        came.append("root")
    took = time.monotonic() - began
    assert took < 4, took  # an abort waits for two seconds
    assert came == ["root"]
    (child,) = children()
    assert not is_gone(child)
    cl.run(["true"])
    assert children() == [child]
    os.close(writer)
    until(lambda: is_gone(child))
    cl.run(["true"])
    assert children() == []


@pytest.mark.parametrize(
    "how",
    ["lines", "run timeout", "with", "interrupt", "two interrupts"],
)
def test_a_child_that_we_may_not_signal_is_reaped_when_it_ends(how, becomes_root):
    """Nobody waits for it in vain, and it stays no zombie."""
    fresh(meet_root, how, becomes_root)


# ---- forks, and the end of the program -------------------------------------------------------------------------------


def test_a_forked_child_starts_over():
    """It can run programs of its own; its parent's it cannot touch."""

    def fork_twice():
        import threading
        import warnings

        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork in a program with threads, which is the point
        process = cl.Command("sleep", "1000").spawn(stdin=cl.PIPE, stdout=cl.DEVNULL, stderr=cl.DEVNULL)
        cl.run(["true"], capture=True)
        threading.Thread(target=cl.run, args=(["true"],)).start()  # now there is a spawner thread, too
        until(lambda: threading.active_count() == 1)

        def look():
            methods = {
                "wait": lambda: process.wait(),
                "wait(0)": lambda: process.wait(0),
                "poll": lambda: process.poll(),
                "state": lambda: process.state,
                "kill": lambda: process.kill(),
                "kill_tree": lambda: process.kill_tree(),
                "send_signal": lambda: process.send_signal("TERM"),
                "signal_scope": lambda: process.signal_scope("TERM"),
                "terminate": lambda: process.terminate(0),
                "check": lambda: process.check(),
                "with": lambda: process.__exit__(None, None, None),
                "with error": lambda: process.__exit__(ValueError, ValueError(), None),
            }
            for name, method in methods.items():
                with raises(cl.NotOwner) as caught:
                    method()
                assert f"(pid {process.pid})" in str(caught.value), name
            with nothing_left():
                assert cl.run(["echo", "x"], capture=True).stdout == b"x\n"
                assert list(cl.Command("echo", "x").lines()) == ["x"]
                worker = threading.Thread(target=cl.run, args=(["true"],))
                worker.start()
                worker.join()
                with cl.Command("cat").spawn(stdin=cl.PIPE, stdout=cl.PIPE) as own:
                    own.stdin.close()
                    assert own.stdout.read() == b""
                own = None  # and its pidfd
            assert children() == []

        for forks in (1, 2):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    if forks == 2 and os.fork() > 0:
                        code = os.waitstatus_to_exitcode(os.wait()[1])
                    else:
                        look()
                        del process
                        gc.collect()  # its end is no end of the child's
                        code = 0
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
        with process:
            assert process.poll() is None
            assert process.kill() is True
            assert process.wait() == -9

    fresh(fork_twice)


def test_running_while_the_program_ends():
    def leave():
        import atexit
        import threading

        def last_words(when):
            print(when, cl.run(["cat"], stdin=b"ran", capture=True).text, *cl.Command("echo", "x").lines())

        class Late:
            def __del__(self, last_words=last_words):
                last_words("finalizer")

        globals()["late"] = Late()
        atexit.register(last_words, "atexit")
        threading.Thread(target=lambda: (threading.main_thread().join(), last_words("thread"))).start()

    assert fresh(leave).splitlines() == ["thread ran x", "atexit ran x", "finalizer ran x"]


def test_a_program_that_ends_before_its_children():
    """They go on or die with it, as they were told; the end of the program is quiet but for the warning."""

    def leave():
        held = [cl.Command("sleep", "1000", die_with_parent=True).spawn(stdin=cl.PIPE)]
        print(held[0].pid, flush=True)
        lines = cl.Command("yes").lines()
        next(lines)
        globals().update(held=held, lines=lines)

    def leave_one_to_live(leash):
        process = cl.Command("sh", "-c", "cat <&3", fds={3: leash}, stdout=cl.DEVNULL, stderr=cl.DEVNULL).spawn()
        print(process.pid)
        globals()["process"] = process

    if PLATFORM != "darwin":
        pid = int(fresh(leave, stderr=None))
        until(lambda: is_gone(pid))
    theirs, ours = os.pipe()
    try:
        pid = int(fresh(leave_one_to_live, theirs, stderr=None, pass_fds=[theirs]))
        assert not is_gone(pid)
        os.close(ours)
        ours = -1
        until(lambda: is_gone(pid))
    finally:
        os.close(theirs)
        if ours >= 0:
            os.close(ours)
