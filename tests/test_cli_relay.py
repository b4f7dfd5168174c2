"""`corelane run` while the program runs: the end of its scope, signals, job control, terminals.

Where a test waits it waits for an event (a line, an end, a state) and gives up loudly. End of file on a pipe that the
program and its children hold is the proof that all of them are gone.
"""

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import termios
import time

import psutil
import pytest
from faults_child import fresh
from helpers import CORELANE

from corelane._ffi import PLATFORM

PATIENCE = 30  # seconds after which a test gives up
PYTHON = [sys.executable, "-ISc"]  # without site: a program that is quick to start

linux_only = pytest.mark.skipif(PLATFORM == "darwin", reason="macOS has no such setting")


def corelane(*argv):
    """Run `corelane run ARGV` to its end, with its output captured as text."""
    command = [CORELANE, "run", *map(str, argv)]
    streams = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, **streams, check=False, timeout=PATIENCE)


def in_python(before, *argv):
    """`corelane ARGV` in an interpreter that was prepared by some code first."""
    code = f"import sys; sys.argv[0] = 'corelane'\n{before}\nfrom corelane.cli.main import main\nsys.exit(main())"
    return [sys.executable, "-c", code, *argv]


def until(condition, what):
    """Wait for a condition; returns what it returned."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.002)
    return found


# ---- the end of the scope --------------------------------------------------------------------------------------------


def test_what_the_program_leaves_is_killed():
    assert corelane("sh", "-c", "sleep 1000 & exit 3").returncode == 3


def test_a_timeout_ends_all_of_it():
    began = time.monotonic()
    done = corelane("--timeout", "0.2", "sh", "-c", "sleep 1000 & echo started; sleep 1000")
    assert (done.returncode, done.stdout) == (124, "started\n")
    assert time.monotonic() - began >= 0.2


def test_the_grace_period_is_for_those_who_use_it():
    # Blocked from its first moment on, SIGTERM waits for a program that is slow to start.
    leaves = "import signal; signal.sigwait({signal.SIGTERM})"
    done = corelane("--json", "--timeout", "0.2", "--grace", "1h", "--block-signal", "TERM", *PYTHON, leaves)
    report = json.loads(done.stderr)
    assert (done.returncode, report["returncode"], report["timed_out"]) == (124, 0, True)


def test_after_the_grace_period_it_is_killed():
    done = corelane("--json", "--timeout", "0.1", "--grace", "0.1", "--ignore-signal", "TERM", "sleep", "1000")
    report = json.loads(done.stderr)
    assert (done.returncode, report["returncode"]) == (124, -9)
    assert report["elapsed"] >= 0.2


def test_a_timeout_may_be_far_away():
    assert corelane("--timeout", "9999999999d", "true").returncode == 0


def test_a_stopped_program_takes_the_hint_too():
    done = corelane("--json", "--timeout", "0.3", "--grace", "1h", "sh", "-c", "kill -STOP $$")
    assert (done.returncode, json.loads(done.stderr)["returncode"]) == (124, -15)


def test_not_contained_means_left_alone():
    with subprocess.Popen(
        [CORELANE, "run", "--contain", "none", "sh", "-c", "sleep 1000 & echo $!"], stdout=-1
    ) as proc:
        stray = psutil.Process(int(proc.stdout.readline()))
        assert proc.wait(PATIENCE) == 0
        assert stray.is_running()
        stray.kill()
        assert proc.stdout.read() == b""


@linux_only
def test_the_program_dies_with_us():
    with subprocess.Popen([CORELANE, "run", "sh", "-c", "echo $$; exec sleep 1000"], stdout=subprocess.PIPE) as proc:
        proc.stdout.readline()
        proc.kill()
        assert proc.stdout.read() == b""


def test_unless_it_should_not():
    code = "import os; print(os.getpid(), flush=True); print('still here', input())"
    command = [CORELANE, "run", "--no-die-with-parent", *PYTHON, code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proc:
        proc.stdout.readline()
        proc.kill()
        proc.wait(PATIENCE)
        proc.stdin.write(b"then\n")
        proc.stdin.flush()
        assert proc.stdout.read() == b"still here then\n"


# ---- signals ---------------------------------------------------------------------------------------------------------

# Says which signals come, and leaves at SIGTERM with 7. By sigwait: a handler that runs just before pause(2) is entered
# would say nothing until the next signal. (The handlers are for systems that drop what nobody handles.)
SAYS_SIGNALS = """
import os, signal, sys
wanted = {getattr(signal, "SIG" + each) for each in "HUP INT QUIT USR1 USR2 WINCH CONT TERM".split()}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
for each in wanted:
    signal.signal(each, lambda *_: None)
print(os.getpid(), flush=True)
while True:
    number = signal.sigwait(wanted)
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
"""


@contextlib.contextmanager
def started(*argv, driver=None, **options):
    """A running `corelane run ARGV` in a group of its own; killed at the end if it is still there."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "process_group": 0} | options
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would stay ignored, by all of them
    command = driver(*argv) if driver else [CORELANE, "run", *map(str, argv)]
    with subprocess.Popen(command, **options) as proc:
        signal.signal(signal.SIGHUP, before)
        try:
            yield proc
        finally:
            proc.kill()


def line_of(proc):
    return proc.stdout.readline().decode().strip()


def without(*names):
    """A Python that lacks what macOS lacks, so that what is done there instead is tested here too."""
    code = "import os, signal\n" + "\n".join(f"del {name}" for name in names)
    return lambda *argv: in_python(code, "run", *argv)


DRIVERS = [
    None,
    without("signal.sigtimedwait", "signal.sigwaitinfo"),
    without("signal.sigtimedwait", "signal.sigwaitinfo", "os.waitid"),
]
every_driver = pytest.mark.parametrize("driver", DRIVERS, ids=["here", "without sigtimedwait", "without waitid"])


@every_driver
def test_signals_are_passed_on(driver):
    with started(*PYTHON, SAYS_SIGNALS, driver=driver) as proc:
        assert line_of(proc).isdecimal()
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT", "TERM"):
            proc.send_signal(getattr(signal, f"SIG{name}"))
            assert line_of(proc) == f"SIG{name}"
        assert proc.wait(PATIENCE) == 7


@every_driver
def test_timeouts_without_what_macos_lacks(driver):
    options = ["--timeout", "0.2", "--grace", "0.1", "--ignore-signal", "TERM"]
    with started(*options, "sleep", "1000", driver=driver) as proc:
        assert proc.wait(PATIENCE) == 124


def test_signals_reach_all_of_the_scope():
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-ISc', {SAYS_SIGNALS!r}])\n{SAYS_SIGNALS}"
    with started(*PYTHON, code) as proc:
        assert {line_of(proc), line_of(proc)}.isdisjoint({""})
        proc.send_signal(signal.SIGUSR1)
        assert [line_of(proc), line_of(proc)] == ["SIGUSR1", "SIGUSR1"]
        proc.terminate()
        assert proc.wait(PATIENCE) == 7


def test_a_signal_that_comes_before_the_program_is_not_lost():
    # The mask outlives the exec, so this SIGTERM is there before a line of corelane's has run.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with started("sleep", "1000") as proc:
            proc.terminate()
            assert proc.wait(PATIENCE) == 128 + signal.SIGTERM
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_a_signal_that_comes_after_the_program_changes_nothing():
    with started("sh", "-c", "echo $$; read nothing; exit 3", stdin=subprocess.PIPE) as proc:
        child = psutil.Process(int(line_of(proc)))
        proc.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(proc.pid).status() == psutil.STATUS_STOPPED, "corelane to stop")
        proc.stdin.close()
        until(lambda: child.status() == psutil.STATUS_ZOMBIE, "the program's end")
        proc.terminate()
        proc.send_signal(signal.SIGCONT)
        assert proc.wait(PATIENCE) == 3


@pytest.mark.parametrize("moment", ["before", "after"])
def test_around_the_spawn_no_signal_is_lost(moment):
    send = "os.kill(os.getpid(), signal.SIGTERM)"
    spawn = "real(*args, **kwargs)"
    steps = [send, spawn] if moment == "before" else [spawn, send]
    code = f"""
import os, signal
from corelane import Process
real = Process.__init__
def spawn(*args, **kwargs):
    {steps[0]}
    {steps[1]}
Process.__init__ = spawn
"""
    with started("sleep", "1000", driver=lambda *argv: in_python(code, "run", *argv)) as proc:
        assert proc.wait(PATIENCE) == 128 + signal.SIGTERM


def test_waiting_costs_nothing():
    with started("sh", "-c", "echo ready; sleep 0.4; echo later; read end", stdin=subprocess.PIPE) as proc:
        line_of(proc)
        before = sum(psutil.Process(proc.pid).cpu_times()[:2])
        line_of(proc)
        assert sum(psutil.Process(proc.pid).cpu_times()[:2]) - before < 0.2


def test_what_we_are_told_to_ignore_stays_ignored():
    shell = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", CORELANE, "run", "sh", "-c", "echo $$; exec sleep 1000"]
    with started(driver=lambda: shell) as proc:
        assert line_of(proc).isdecimal()
        proc.send_signal(signal.SIGHUP)
        proc.terminate()
        assert proc.wait(PATIENCE) == 128 + signal.SIGTERM


def test_the_status_survives_an_ignored_sigchld():
    # Not by a shell's trap: some of them do not let go of SIGCHLD.
    ignore = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with started(driver=lambda: [*PYTHON, ignore, CORELANE, "run", "sh", "-c", "exit 3"]) as proc:
        assert proc.wait(PATIENCE) == 3


# ---- stop and continue -----------------------------------------------------------------------------------------------


def wait_stopped(proc):
    """Wait for corelane itself to stop, as a shell does; returns the signal."""
    _, status = until(lambda: waited(proc, os.WUNTRACED), "corelane to stop")
    assert os.WIFSTOPPED(status), f"it ended with {os.waitstatus_to_exitcode(status)}"
    return os.WSTOPSIG(status)


def waited(proc, flags):
    done, status = os.waitpid(proc.pid, flags | os.WNOHANG)
    return (done, status) if done else None


# Without sigtimedwait a SIGTSTP is taken for Ctrl-Z, which a program in our own group would have got by itself.
@pytest.mark.parametrize(
    ("options", "driver"),
    [
        pytest.param([], DRIVERS[0], id="group"),
        pytest.param(["--new-session"], DRIVERS[0], id="session"),
        pytest.param(["--contain", "none"], DRIVERS[0], id="none"),
        pytest.param([], DRIVERS[1], id="group without sigtimedwait"),
        pytest.param(["--new-session"], DRIVERS[1], id="session without sigtimedwait"),
    ],
)
def test_stop_and_continue(options, driver):
    with started(*options, *PYTHON, SAYS_SIGNALS, driver=driver) as proc:
        child = psutil.Process(int(line_of(proc)))
        for _ in range(2):
            proc.send_signal(signal.SIGTSTP)
            assert wait_stopped(proc) == signal.SIGTSTP
            until(lambda: child.status() == psutil.STATUS_STOPPED, "the program to stop")
            proc.send_signal(signal.SIGCONT)
            assert line_of(proc) == "SIGCONT"
        proc.terminate()
        assert line_of(proc) == "SIGTERM"
        assert proc.wait(PATIENCE) == 7


@pytest.mark.slow
def test_no_continue_is_lost_however_soon_it_comes():
    """After the last SIGCONT both run, or this hangs."""
    dice = random.Random(1)
    with started(*PYTHON, SAYS_SIGNALS) as proc:
        line_of(proc)
        for _ in range(1500):
            proc.send_signal(signal.SIGTSTP)
            enough = time.perf_counter_ns() + dice.randrange(150_000)
            while time.perf_counter_ns() < enough:
                pass
            proc.send_signal(signal.SIGCONT)
            # It answers, so neither of the two is stopped.
            proc.send_signal(signal.SIGUSR1)
            answer = until(lambda: select.select([proc.stdout], [], [], PATIENCE)[0], "an answer")
            while answer and line_of(proc) != "SIGUSR1":
                pass
        proc.terminate()
        assert proc.wait(PATIENCE) == 7


# ---- terminals -------------------------------------------------------------------------------------------------------

# What a shell does for its jobs, and no more: a job in a group of its own in the foreground, and what becomes of it.
# Told "fg" or "bg" it continues the job, told "quit" it leaves.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
commands, answers = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w", buffering=1)
def lend(group):
    os.tcsetpgrp(0, group)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    lend(os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[3], sys.argv[3:])
print("job", job, file=answers)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    owner = os.tcgetpgrp(0)
    lend(os.getpid())
    if not os.WIFSTOPPED(status):
        print("ended", os.waitstatus_to_exitcode(status), "job" if owner == job else "other", file=answers)
        break
    print("stopped", signal.Signals(os.WSTOPSIG(status)).name, file=answers)
    if commands.readline() == "fg\\n":
        lend(job)
    os.killpg(job, signal.SIGCONT)
commands.readline()
"""
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A pseudo-terminal with our shell in it; what we type and see is `fd`."""

    def __init__(self, *argv):
        self.fd, tty = os.openpty()
        settings = termios.tcgetattr(tty)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(tty, termios.TCSANOW, settings)
        orders, self._orders = os.pipe()
        answers, told = os.pipe()
        shell = [*PYTHON, TAKE_TERMINAL, *PYTHON, SHELL, str(orders), str(told), *argv]
        self._shell = subprocess.Popen(shell, stdin=tty, stdout=tty, stderr=tty, pass_fds=[orders, told])
        for fd in (tty, orders, told):
            os.close(fd)
        self._answers = os.fdopen(answers)
        self._seen = b""
        self.job = int(self.told("job"))

    def told(self, what):
        """What the shell says next must begin with `what`; returns the rest."""
        assert select.select([self._answers], [], [], PATIENCE)[0], (
            f"the shell did not say {what!r}; seen: {self._seen}"
        )
        first, _, rest = self._answers.readline().strip().partition(" ")
        assert first == what, f"{first} {rest}; seen: {self._seen}"
        return rest

    def order(self, word):
        os.write(self._orders, f"{word}\n".encode())

    def type(self, text):
        os.write(self.fd, text)

    def see(self, text):
        """Wait until the terminal shows `text`; what was before it is forgotten."""
        while text not in self._seen:
            assert select.select([self.fd], [], [], PATIENCE)[0], f"no {text} in {self._seen}"
            self._seen += os.read(self.fd, 4096)
        before, _, self._seen = self._seen.partition(text)
        return before

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.job, signal.SIGKILL)
        self._shell.kill()
        self._shell.wait()
        self._answers.close()
        os.close(self._orders)
        os.close(self.fd)


@pytest.fixture
def terminal():
    opened = []

    def open_terminal(*options, code):
        opened.append(Terminal(CORELANE, "run", *options, *PYTHON, code))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


COUNTS = """
import signal, sys
wanted = {signal.SIGINT, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
count = 0
while signal.sigwait(wanted) == signal.SIGINT:
    count += 1
    print("interrupted", flush=True)
print("count", count, flush=True)
sys.exit(5)
"""
ECHOES = "import sys; print('ready', flush=True)\nfor line in sys.stdin: print('got', line, end='', flush=True)"
placed = pytest.mark.parametrize(
    "options", [[], ["--contain", "group"], ["--foreground"]], ids=["our group", "its group", "foreground"]
)


@placed
def test_ctrl_c_comes_once(terminal, options):
    shell = terminal(*options, code=COUNTS)
    shell.see(b"ready")
    shell.type(b"\x03")
    shell.see(b"interrupted")
    os.kill(shell.job, signal.SIGUSR1)
    shell.see(b"count 1\r\n")
    assert shell.told("ended") == "5 job"  # the terminal is our group's again, whoever had it


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="nothing here tells who sent a signal")
@placed
def test_an_interrupt_that_no_key_made_is_passed_on(terminal, options):
    shell = terminal(*options, code=COUNTS)
    shell.see(b"ready")
    os.kill(shell.job, signal.SIGINT)
    shell.see(b"interrupted")
    os.kill(shell.job, signal.SIGUSR1)
    shell.see(b"count 1\r\n")
    assert shell.told("ended") == "5 job"


@placed
def test_ctrl_z_stops_both_and_fg_continues_both(terminal, options):
    shell = terminal(*options, code=SAYS_SIGNALS)
    child = psutil.Process(int(shell.see(b"\r\n")))
    for _ in range(2):
        shell.type(b"\x1a")
        assert shell.told("stopped") == "SIGTSTP"
        until(lambda: child.status() == psutil.STATUS_STOPPED, "the program to stop")
        shell.order("fg")
        shell.see(b"SIGCONT\r\n")
    os.kill(shell.job, signal.SIGTERM)
    assert shell.told("ended") == "7 job"


def take_the_first_of_two():
    """In a process of its own, as the relay's is: SIGCHLD, for the child's stop, and SIGCONT wait at once."""
    import signal
    import time

    import corelane as cl
    from corelane.cli import relay

    with cl.Command("sleep", "1000", contain="group").spawn() as child:
        taken = relay._block()
        ours = relay._Relay(child, taken, relay._Bell(taken))
        ours._foreground = True
        ours._lend_terminal = ours._stop = lambda *_: None  # there is none, and nobody to continue us
        accept, accepted = ours._accept, []
        ours._accept = lambda number: accepted.append(number.name) or accept(number)
        child.send_signal("STOP")
        signal.raise_signal(signal.SIGCONT)
        while not {signal.SIGCHLD, signal.SIGCONT} <= signal.sigpending():
            time.sleep(0.001)
        ours._serve(0)
        print(*accepted)
        child.terminate(0)


@linux_only
def test_a_sigcont_is_taken_before_the_sigchld_of_the_stop():
    """fg came while that of Ctrl-Z was not yet taken. Taken first, the SIGCHLD would find the child still stopped and
    stop us once more, and with that the kernel drops the SIGCONT."""
    assert fresh(take_the_first_of_two) == "SIGCONT\n"


@pytest.mark.parametrize("options", [[], ["--foreground"]], ids=["our group", "foreground"])
def test_the_program_has_the_terminal_and_gets_it_back(terminal, options):
    shell = terminal(*options, code=ECHOES)
    shell.see(b"ready")
    shell.type(b"one\n")
    shell.see(b"got one")
    shell.type(b"\x1a")
    shell.told("stopped")
    shell.order("fg")
    shell.type(b"two\n")
    shell.see(b"got two")
    shell.type(b"\x04")
    assert shell.told("ended") == "0 job"


def test_in_the_background_it_does_not_take_the_terminal(terminal):
    shell = terminal("--foreground", code=ECHOES)
    shell.see(b"ready")
    shell.type(b"\x1a")
    shell.told("stopped")
    shell.order("bg")
    assert shell.told("stopped") == "SIGTSTP"  # it wanted to read, and was stopped for that by SIGTTIN
    shell.order("fg")
    shell.type(b"line\n\x04")
    shell.see(b"got line")
    assert shell.told("ended") == "0 job"


def test_what_ends_in_the_background_does_not_take_the_terminal_either(terminal):
    shell = terminal("--foreground", code=SAYS_SIGNALS)
    shell.see(b"\r\n")
    shell.type(b"\x1a")
    shell.told("stopped")
    shell.order("bg")
    shell.see(b"SIGCONT\r\n")
    os.kill(shell.job, signal.SIGTERM)
    assert shell.told("ended") == "7 other"


@pytest.mark.parametrize("stream", ["--stdin", "--stdout"])
def test_waiting_for_the_other_end_of_a_fifo_can_be_ended(stream, tmp_path):
    """It is opened before the signals are taken over, or nothing but SIGKILL could."""
    os.mkfifo(tmp_path / "fifo")
    with started(stream, tmp_path / "fifo", "cat") as proc:
        looks = 0
        while looks < 100:  # in a row: it sleeps, and it is in no import
            looks = looks + 1 if psutil.Process(proc.pid).status() == psutil.STATUS_SLEEPING else 0
            time.sleep(0.001)
        proc.terminate()
        assert proc.wait(PATIENCE) == -signal.SIGTERM
