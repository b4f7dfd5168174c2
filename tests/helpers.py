"""Small things that several tests need: children that describe themselves, scripts in a process of their own, traces
of system calls, and waiting for a condition instead of for a while."""

import contextlib
import ctypes
import errno
import functools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass

import psutil
import pytest

import corelane as cl
from corelane._ffi import PLATFORM

KERNEL = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2])


def _clone3_works():
    # Asked of the kernel, not of corelane. EINVAL, as the request has no size: it is looked at, then.
    libc = ctypes.CDLL(None, use_errno=True)
    return KERNEL >= (5, 5) and libc.syscall(435, None, 0) == -1 and ctypes.get_errno() == errno.EINVAL


needs_clone3 = pytest.mark.skipif(
    PLATFORM == "linux" and not _clone3_works(), reason="clone3 is refused here, as in old kernels and some containers"
)
_ONLY_POSIX_SPAWN = pytest.mark.skipif(PLATFORM != "linux", reason=f"the {PLATFORM} build has only posix_spawn")
STRATEGIES = [
    pytest.param("clone3", marks=[_ONLY_POSIX_SPAWN, needs_clone3]),
    pytest.param("vfork", marks=_ONLY_POSIX_SPAWN),
    "posix_spawn",
    pytest.param("fork", marks=_ONLY_POSIX_SPAWN),
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
# The code that puts a child together: posix_spawn has two ways, by itself and, for options that it knows nothing of
# (here a umask), through the trampoline.
every_road = pytest.mark.parametrize(
    "road",
    [
        pytest.param({"strategy": "clone3"}, id="clone3", marks=[_ONLY_POSIX_SPAWN, needs_clone3]),
        pytest.param({"strategy": "vfork"}, id="vfork", marks=_ONLY_POSIX_SPAWN),
        pytest.param({"strategy": "fork"}, id="fork", marks=_ONLY_POSIX_SPAWN),
        pytest.param({"strategy": "posix_spawn", "die_with_parent": False}, id="posix_spawn"),
        pytest.param({"strategy": "posix_spawn", "die_with_parent": False, "umask": 0o022}, id="trampoline"),
    ],
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's /proc")
# What memory that is ordinary files (the portable build, macOS) does not have.
# There a descriptor is opened anew, and sizes are sealed: so a child has the segment's own memory.
IN_PLACE = PLATFORM == "linux"
needs_in_place = pytest.mark.skipif(not IN_PLACE, reason=f"in the {PLATFORM} build a child's stream is a copy")
needs_reopening = pytest.mark.skipif(
    PLATFORM != "linux", reason=f"the {PLATFORM} build opens no descriptor of another process"
)
needs_memfd = pytest.mark.skipif(
    PLATFORM != "linux", reason=f"the {PLATFORM} build has no huge pages and no NUMA nodes"
)
needs_lease_in_place = pytest.mark.skipif(
    PLATFORM != "linux", reason=f"in the {PLATFORM} build a lease is a lock on a file of its own, and nobody is named"
)
needs_lease_files = pytest.mark.skipif(PLATFORM == "linux", reason="here a lease is a lock on the segment itself")
# With and without a name, for what finds its way by a handle.
by_every_handle = pytest.mark.parametrize("named", [pytest.param(False, marks=needs_reopening), True])
needs_clone = pytest.mark.skipif(PLATFORM != "linux", reason=f"the {PLATFORM} build does not clone, and has no pidfd")
OURS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]  # the CPUs that we may use
needs_two = pytest.mark.skipif(len(OURS) < 2, reason="this process may use one CPU only: there is nothing to choose")
CORELANE = os.path.join(sysconfig.get_path("scripts"), "corelane")


def needs(tool):
    return pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user and the groups")

PATIENCE = 20.0  # seconds after which a condition that should hold at once is held to be broken


def wait_until(condition, what, timeout=PATIENCE):
    """Poll until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting for {what} after {timeout:g} s"
        time.sleep(0.001)
    return value


def is_running(pid):
    """Whether a process is there and no zombie: the orphans we kill are reaped by init, at its leisure."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def descriptors():
    """The numbers of this process's open descriptors."""
    numbers = {int(name) for name in os.listdir("/dev/fd")}
    return {number for number in numbers if _is_open(number)}  # without the one that did the listing


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


# ---- children that describe themselves -------------------------------------------------------------------------------

_ABOUT = r"""
import json, os, resource, signal, sys
numbers = []
for name in os.listdir("/dev/fd"):
    try:
        os.fstat(int(name))
    except OSError:
        continue
    numbers.append(int(name))
me = {
    "pid": os.getpid(), "ppid": os.getppid(), "pgid": os.getpgrp(), "sid": os.getsid(0), "cwd": os.getcwd(),
    "umask": os.umask(0), "uid": os.getresuid()[0], "gid": os.getresgid()[0], "groups": os.getgroups(),
    "nice": os.getpriority(os.PRIO_PROCESS, 0), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "fds": sorted(numbers), "nonblocking": [n for n in (0, 1, 2) if n in numbers and not os.get_blocking(n)],
    "files": {n: os.fstat(n).st_ino for n in numbers},
}
os.write(int(sys.argv[1]), json.dumps(me).encode())
"""


def about(*, out=1, **options):
    """Run a child that describes itself. JSON makes the keys of `files` (descriptor -> inode) strings.

    Args:
        out: the child's descriptor for the description; another one than 1 must be led to a file or pipe by `options`.
        **options: of the Command.
    """
    command = cl.Command(sys.executable, "-I", "-S", "-c", _ABOUT, str(out), timeout=PATIENCE, **options)
    if out != 1:
        return command.run()
    return json.loads(command.with_options(stdout=cl.PIPE).run().stdout)


def signal_bits(**options):
    """The SigBlk, SigIgn and SigCgt of a child, as sets of numbers; asked of a program that changes none of them."""
    status = cl.read(["grep", "^Sig", "/proc/self/status"], timeout=PATIENCE, **options)
    fields = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigB", "SigI", "SigC")))
    return {name: {s for s in range(1, 65) if int(bits, 16) >> (s - 1) & 1} for name, bits in fields.items()}


# ---- scripts in a process of their own -------------------------------------------------------------------------------


def script(code, *args, under=(), timeout=30.0, **options):
    """Run Python code in a process of its own and return what it printed as JSON.

    Through subprocess, so that the judge is not the accused; killed with its whole session when it hangs.

    Args:
        under: a program with arguments that runs it, such as strace.
        **options: for subprocess.Popen.
    """
    argv = [*under, sys.executable, "-c", code, *map(str, args)]
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(argv, start_new_session=True, **given) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_session(process.pid)
            out, err = process.communicate()
            pytest.fail(f"hung for {timeout:g} s:\n{code}\n{_text(out)}{_text(err)}")
    assert process.returncode == 0, f"ended with {process.returncode}:\n{code}\n{_text(out)}{_text(err)}"
    return json.loads(out) if out else None


def kill_session(leader):
    """Kill a process that leads a session, with its descendants and all that is left in the session."""
    for process in psutil.Process(leader).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def _text(output):
    return (output or b"").decode(errors="replace")


# ---- traces of system calls ------------------------------------------------------------------------------------------


@functools.cache
def _can_trace():
    if not shutil.which("strace"):
        return False
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_strace = pytest.mark.skipif(not _can_trace(), reason="strace is missing, or tracing is forbidden here")


@dataclass(frozen=True)
class Call:
    """One system call of a trace, at the place where it was entered."""

    pid: int  # of the thread
    name: str
    text: str  # as strace writes it, with the result

    @property
    def result(self):
        """The number it returned, or None if it never returned."""
        value = self.text.rpartition(") = ")[2].split(" ")[0]
        return None if value in ("", "?") else int(value, 0)

    def argument(self, name):
        """The value of a named field, as clone3's `flags`."""
        found = re.search(rf"\b{name}=([^,}} ]+)", self.text)
        return found[1] if found else None


def parse_trace(text):
    """The calls in the output of `strace -f`, in the order in which they were entered."""
    calls, open_calls = [], {}
    for line in text.splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        resumed = re.match(r"<\.\.\. (\w+) resumed>", rest)
        if resumed:
            at = open_calls.pop(int(pid))
            calls[at] = Call(int(pid), resumed[1], calls[at].text + rest[resumed.end() :])
        elif entered := re.match(r"(\w+)\(", rest):
            if rest.endswith("<unfinished ...>"):
                open_calls[int(pid)] = len(calls)
            calls.append(Call(int(pid), entered[1], rest.removesuffix(" <unfinished ...>")))
    return calls


def trace(code, tmp_path, *args, calls="all", inject=(), **options):
    """Run Python code under strace.

    Args:
        calls: which system calls to record, as for `strace -e trace=`.
        inject: faults, each as for `strace -e inject=`.

    Returns:
        What the code printed as JSON, and the list of calls.
    """
    log = tmp_path / "trace"
    under = ["strace", "-f", "-qq", "-a1", "-s", "300", "-e", "signal=none", "-e", f"trace={calls}", "-o", str(log)]
    for fault in inject:
        under += ["-e", f"inject={fault}"]
    printed = script(code, *args, under=under, **options)
    return printed, parse_trace(log.read_text(errors="replace"))


def counting(path, succeeds_at):
    """A command that appends a line to `path`, and exits with 0 the given time only."""
    return ["sh", "-c", 'echo >>"$0"; test $(wc -l <"$0") -eq "$1"', str(path), str(succeeds_at)]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 100.0
        self.pauses = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
