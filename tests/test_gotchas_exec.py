"""GOTCHAS "exec": each trap as a test that fails when its handling is taken away; docs/gotchas.md tells more."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from helpers import (
    PATIENCE,
    about,
    descriptors,
    every_road,
    every_strategy,
    is_running,
    kill_session,
    needs_clone,
    needs_linux,
    needs_root,
    needs_strace,
    script,
    signal_bits,
    trace,
    wait_until,
)

import corelane as cl


def program(path, text="#!/bin/sh\necho $0", mode=0o755):
    """Write a file that can be run."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# ---- 16: which file is run -------------------------------------------------------------------------------------------


@every_road
def test_the_childs_path_is_searched(road, tmp_path):
    """Not ours: the two differ as soon as env= is given."""
    tool = program(tmp_path / "bin" / "corelane-test-tool")
    for options in ({"env": {"PATH": str(tool.parent)}}, {"env_add": {"PATH": str(tool.parent)}}):
        assert cl.read([tool.name], **options, **road) == f"{tool}\n"
    with pytest.raises(FileNotFoundError, match="in PATH="):
        cl.run([tool.name], **road)


@every_road
def test_without_a_path_there_is_a_default_one(road):
    assert cl.read(["sh", "-c", "echo $0"], env={}, **road) == "sh\n"
    assert cl.read(["sh", "-c", "echo $0"], env_remove=["PATH"], **road) == "sh\n"


@every_road
def test_the_search_goes_past_what_cannot_be_run(road, tmp_path):
    """A missing directory, a file for a directory, a loop of links, a name too long, a directory for a program, a
    program without permission."""
    program(tmp_path / "file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "directory" / "tool").mkdir(parents=True)
    program(tmp_path / "forbidden" / "tool", mode=0o644)
    good = program(tmp_path / "good" / "tool")
    bad = [str(tmp_path / name) for name in ("missing", "file", "loop", "long" * 100, "directory", "forbidden")]
    assert cl.read(["tool"], env={"PATH": ":".join([*bad, str(good.parent)])}, **road) == f"{good}\n"
    # Nothing better came: that there is one, but forbidden, says more than "not found".
    with pytest.raises(PermissionError):
        cl.run(["tool"], env={"PATH": ":".join([*bad, str(tmp_path / "last")])}, **road)
    with pytest.raises(FileNotFoundError):
        cl.run(["tool"], env={"PATH": ":".join(bad[:4])}, **road)


@every_road
def test_what_is_relative_is_relative_to_the_childs_directory(road, tmp_path):
    program(tmp_path / "tool", "#!/bin/sh\necho at the top")
    program(tmp_path / "bin" / "other", "#!/bin/sh\necho in bin")
    assert cl.read(["./tool"], cwd=tmp_path, **road) == "at the top\n"
    assert cl.read(["other"], cwd=tmp_path, env={"PATH": "bin"}, **road) == "in bin\n"
    assert cl.read(["tool"], cwd=tmp_path, env={"PATH": "/nonexistent:"}, **road) == "at the top\n"
    with pytest.raises(FileNotFoundError, match="relative to the child's cwd"):
        cl.run(["./tool"], cwd="/", **road)


# ---- 17: no silent shell ---------------------------------------------------------------------------------------------


@every_road
def test_a_file_without_an_interpreter_is_not_given_to_sh(road, tmp_path):
    """execvp would: then a truncated binary is read as shell text."""
    text = program(tmp_path / "text", f"touch {tmp_path}/ran\n")
    for argv, options in (([text], {}), ([text.name], {"env": {"PATH": str(tmp_path)}})):
        with pytest.raises(cl.SpawnFailed) as failure:
            cl.run(argv, **options, **road)
        assert (failure.value.errno, failure.value.stage) == (errno.ENOEXEC, "exec")
    assert not (tmp_path / "ran").exists()


# ---- 18: what failed, and what is left of it -------------------------------------------------------------------------

FAILURES = {
    "cwd": ({"cwd": "/nonexistent"}, "cwd", errno.ENOENT),
    "cwd descriptor": ({"cwd": 0}, "cwd", errno.ENOTDIR),
    "program": ({"program": "/nonexistent"}, "exec", errno.ENOENT),
    "directory": ({"program": "/"}, "exec", errno.EACCES),
    "group": ({"process_group": 1}, "group", errno.EPERM),
    "terminal": ({"new_session": True, "controlling_terminal": 0}, "terminal", errno.ENOTTY),
    "no terminal": ({"foreground": True}, "foreground", errno.ENXIO),
    "limit": ({"rlimits": {"nofile": 2**40}}, "limits", errno.EPERM),
    "map": ({"fds": {9: 900}}, "descriptors", errno.EBADF),
    "stream": ({"stdout": 900}, "descriptors", errno.EBADF),
    "cpus": ({"cpus": [4000]}, "affinity", errno.EINVAL),
    "nice": ({"nice": -5}, "nice", errno.EACCES),
    "scheduler": ({"sched": ["fifo", 1]}, "scheduler", errno.EPERM),
    "I/O priority": ({"io_priority": ["realtime", 0]}, "io_priority", errno.EPERM),
    "OOM score": ({"oom_score_adj": -1000}, "oom", errno.EACCES),
    "user": ({"user": 0, "group": 12345, "extra_groups": ()}, "groups", errno.EPERM),
    "group only": ({"group": 0}, "gid", errno.EPERM),
}

_FAIL = """
import grp, json, os, pwd, sys  # grp and pwd: when we are nobody, the library may be out of reach
import corelane as cl
road, failures = json.loads(sys.argv[1]), json.loads(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)
os.chdir("/")
before = len(os.listdir("/dev/fd"))
got = {}
for name, (options, *_) in failures.items():
    for key in ("sched", "io_priority"):
        if key in options:
            options[key] = tuple(options[key])
    if "fds" in options:
        options["fds"] = {int(target): source for target, source in options["fds"].items()}
    if options.keys() & {"user", "group"} and road["strategy"] in ("clone3", "vfork"):
        continue
    try:
        cl.run(["true"], **{**road, **options})
        got[name] = ["none", 0]
    except cl.SpawnFailed as error:
        got[name] = [error.stage, error.errno]
try:
    left = os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    left = None
print(json.dumps([got, left, len(os.listdir("/dev/fd")) - before]))
"""


@needs_linux
@every_road
def test_a_failure_names_its_step_and_leaves_nothing(road):
    got, zombie, grown = script(_FAIL, json.dumps(road), json.dumps(FAILURES))
    for name, answer in got.items():
        assert answer == list(FAILURES[name][1:]), name
    assert len(got) == len(FAILURES) - (2 if road["strategy"] in ("clone3", "vfork") else 0)
    assert zombie is None
    assert grown <= 0


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ([], {}),
        ([""], {}),
        (["echo", "a\0b"], {}),
        (["echo"], {"env": {"A\0": "b"}}),
        (["echo"], {"env": {"A": "b\0c"}}),
        (["echo"], {"env_add": {"A=B": "c"}}),
        (["echo"], {"env": {"": "c"}}),
        (["echo"], {"cwd": "/\0"}),
    ],
)
def test_what_the_kernel_would_misread_is_refused(argv, options):
    with pytest.raises(ValueError):  # noqa: PT011 - that it is refused, and not what is said
        cl.run(argv, **options)


# ---- 19: signals across exec -----------------------------------------------------------------------------------------


@every_road
def test_sigpipe_and_sigxfsz_end_a_child_as_everywhere(road):
    """Python ignores them, and ignoring survives exec: `yes | head` would write on for ever."""
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    for name in ("PIPE", "XFSZ"):
        done = cl.Command.shell(f"kill -{name} $$; echo not ended", check=False, capture=True, **road).run()
        assert (done.signal, done.stdout) == (getattr(signal, f"SIG{name}"), b"")


@needs_linux
@every_road
def test_no_other_ignored_signal_is_reset(road):
    """`nohup program` asks its children, too, to survive SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with open("/proc/self/status") as status:
            ours = next(int(line.split()[1], 16) for line in status if line.startswith("SigIgn"))
        ignored = signal_bits(**road)["SigIgn"]
    finally:
        signal.signal(signal.SIGHUP, before)
    # glibc's posix_spawn ignores its own two in the child, where nobody may send them anyway; ours may be such a child.
    libc = {32, 33}
    expected = {s for s in range(1, 65) if ours >> (s - 1) & 1} - {signal.SIGPIPE, signal.SIGXFSZ}
    assert ignored - libc == expected - libc


@needs_linux
@every_road
def test_the_mask_is_empty_or_what_was_asked_for(road):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN])
    try:
        assert signal_bits(**road)["SigBlk"] == set()
        assert signal_bits(signal_mask=["USR2"], **road)["SigBlk"] == {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@needs_linux
@every_road
def test_dispositions_can_be_asked_for(road):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        bits = signal_bits(signal_defaults=["HUP"], signal_ignores=["USR1"], **road)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP not in bits["SigIgn"]
    assert signal.SIGUSR1 in bits["SigIgn"]


# ---- 20: the order ---------------------------------------------------------------------------------------------------

# What a step needs must not have been given away by an earlier one: the rights by a change of user, the death signal
# by the same, descriptors by the limit on them; the terminal needs the session, and a deadline all CPUs.
ORDER = [
    "setsid(",
    "TIOCSCTTY",
    "umask(",
    "dup3(",
    "CLOSE_RANGE_CLOEXEC",
    "setpriority(",
    "sched_setaffinity(",
    "sched_setscheduler(",
    "ioprio_set(",
    "RLIMIT_CORE",
    "chdir(",
    "RLIMIT_NOFILE",
    "setgroups(",
    "setresgid(",
    "setresuid(",
    "PR_SET_PDEATHSIG",
    "PR_SET_NO_NEW_PRIVS",
    "rt_sigaction(SIGPIPE",
    "rt_sigprocmask(",
    "execve(",
]


@needs_root
@needs_clone
@needs_strace
def test_the_order_of_the_steps(tmp_path):
    code = """
import os, pty
import corelane as cl
_, terminal = pty.openpty()
cl.run(["true"], new_session=True, controlling_terminal=terminal, nice=1, sched="batch", io_priority="idle",
       cpus=os.sched_getaffinity(0), rlimits={"core": 0, "nofile": 64}, umask=0o077, cwd="/", fds={9: 0}, user=12345,
       group=12345, extra_groups=[], no_new_privs=True, die_with_parent=True)
"""
    _, calls = trace(code, tmp_path)
    at = next(i for i, call in enumerate(calls) if call.name == "setsid")
    texts = [call.text for call in calls[at:] if call.pid == calls[at].pid]
    found = [next((i for i, text in enumerate(texts) if step in text), step) for step in ORDER]
    assert found == sorted(found, key=str if any(isinstance(i, str) for i in found) else None)


# ---- 21: the death signal --------------------------------------------------------------------------------------------

_PARENT = """
import json, os, sys, time
import corelane as cl
child = cl.Command("sleep", "1000", **json.loads(sys.argv[1])).spawn()
print(child.pid, flush=True)
time.sleep(1000)
"""


def dies_with_its_parent(options):
    """Kill a parent and see whether its child goes too."""
    with subprocess.Popen([sys.executable, "-c", _PARENT, json.dumps(options)], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    try:
        wait_until(lambda: not is_running(child), "the child's end")
    finally:
        if is_running(child):
            os.kill(child, signal.SIGKILL)


@needs_linux
@every_road
def test_a_child_dies_with_its_parent(road):
    dies_with_its_parent({**road, "die_with_parent": True})


@needs_root
@needs_linux
def test_a_child_of_another_user_dies_with_its_parent():
    """The kernel clears the signal when the user changes, so it has to be set after that."""
    dies_with_its_parent({"user": 12345, "die_with_parent": True})


@needs_linux
@every_road
def test_a_child_outlives_the_thread_that_asked_for_it(road):
    """PR_SET_PDEATHSIG follows the *thread*: when a worker thread ends, so would what it had started."""
    code = """
import json, os, sys, threading, time
import corelane as cl
command = cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, **{**json.loads(sys.argv[1]), "die_with_parent": True})
made = []
thread = threading.Thread(target=lambda: made.append((command.spawn(), threading.get_native_id())))
thread.start()
thread.join()
with made[0][0] as process:
    while os.path.exists(f"/proc/self/task/{made[0][1]}"):
        time.sleep(0.001)
    process.stdin.write(b"alive")
    process.stdin.close()
    print(json.dumps(process.stdout.read().decode()))
"""
    assert script(code, json.dumps(road)) == "alive"


@needs_linux
@needs_strace
@every_road
def test_a_child_whose_parent_died_early_does_not_start(road, tmp_path):
    """Then PR_SET_PDEATHSIG is too late, and no signal will ever come. The child is stopped before it gets there."""
    code = "import json, sys, corelane as cl; cl.Command('touch', sys.argv[1], **json.loads(sys.argv[2])).spawn()"
    options = json.dumps({**road, "die_with_parent": True, "contain": "group"})
    log, ran = tmp_path / "log", tmp_path / "ran"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=setpgid,prctl,exit_group"]
    argv = [*strace, "-e", "inject=setpgid:signal=STOP", sys.executable, "-c", code, str(ran), options]
    with subprocess.Popen(argv, start_new_session=True) as traced:
        try:
            stop = wait_until(lambda: _line(log, "stopped by SIGSTOP"), "the child's stop")
            child = int(stop.split()[0])
            parent = _parent_of(child)
            os.kill(parent, signal.SIGKILL)
            wait_until(lambda: _parent_of(child) != parent, "the parent's end")
            os.kill(child, signal.SIGCONT)
            traced.wait(PATIENCE)
        finally:
            if traced.poll() is None:
                kill_session(traced.pid)
    assert _line(log, "exit_group(127)")
    assert not ran.exists()


def _line(log, text):
    return next((line for line in log.read_text().splitlines() if text in line), None) if log.exists() else None


def _parent_of(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


# ---- 22: limits that the spawn itself would hit ----------------------------------------------------------------------


@every_road
def test_a_low_limit_on_descriptors_comes_after_the_work_with_them(road, tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open(tmp_path / "file", "w") as file:
        child = about(fds={50: file, 51: file}, rlimits={"nofile": (8, hard)}, **road)
    assert {50, 51} <= set(child["fds"])
    assert child["nofile"][0] == 8


@needs_root
@needs_linux
def test_too_many_processes_is_told_from_a_broken_program():
    """With RLIMIT_NPROC lowered, the kernel finds out at exec, after the change of user."""
    with cl.Command("sleep", "1000", user=54321).spawn() as first:
        with pytest.raises(cl.ResourceExhausted) as failure:
            cl.run(["true"], user=54321, rlimits={"nproc": 0})
        first.kill()
    assert (failure.value.errno, failure.value.stage) == (errno.EAGAIN, "exec")


# ---- 23: the terminal ------------------------------------------------------------------------------------------------

# The start of a script that has a terminal: it leads a session, and what is written to `master` is typed in it.
_TERMINAL = """
import fcntl, json, os, pty, signal, sys, termios, time
import corelane as cl
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
road = json.loads(sys.argv[1])
def mine():
    return os.tcgetpgrp(slave) == os.getpgrp()
def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
"""


@every_road
def test_a_background_group_that_reads_the_terminal_is_stopped(road):
    """The trap itself: SIGTTIN. The state says so, and a stopped child can be killed."""
    code = f"""{_TERMINAL}
process = cl.Command("cat", stdin=slave, contain="group", **road).spawn()
until(lambda: process.state == "stopped")
print(json.dumps([process.contained, process.terminate(grace=10), mine()]))
"""
    assert script(code, json.dumps(road)) == ["group", -signal.SIGTERM, True]


@every_road
def test_auto_leaves_a_child_that_may_read_the_terminal_in_our_group(road):
    code = f"""{_TERMINAL}
os.write(master, b"typed\\n")
given = cl.run(["head", "-n1"], stdin=slave, stdout=cl.PIPE, timeout=20, **road)
os.dup2(slave, 0)
os.write(master, b"again\\n")
inherited = cl.run(["head", "-n1"], stdout=cl.PIPE, timeout=20, **road)
other = cl.run(["true"], stdin=cl.DEVNULL, **road)
print(json.dumps([given.text, given.contained, inherited.text, inherited.contained, other.contained]))
"""
    assert script(code, json.dumps(road)) == ["typed\n", "none", "again\n", "none", "group"]


@every_road
def test_the_foreground_is_lent_and_taken_back(road):
    """Both calls come from a background group, where they would raise SIGTTOU."""
    code = f"""{_TERMINAL}
os.write(master, b"typed\\n")
done = cl.run(["head", "-n1"], stdin=slave, stdout=cl.PIPE, foreground=True, timeout=20, **road)
after_run = mine()
process = cl.Command("cat", stdin=slave, stdout=cl.PIPE, foreground=True, **road).spawn()
with process:
    lent = os.tcgetpgrp(slave) == process.pid
    os.write(master, b"more\\n\\x04")
    text = process.stdout.read().decode()
print(json.dumps([done.text, done.contained, after_run, lent, text, process.returncode, mine()]))
"""
    assert script(code, json.dumps(road)) == ["typed\n", "group", True, True, "more\n", 0, True]


@every_road
def test_the_terminal_comes_back_after_a_failure(road):
    """The child has it already when exec fails."""
    code = f"""{_TERMINAL}
try:
    cl.run(["/nonexistent"], stdin=slave, foreground=True, **road)
    failed = None
except FileNotFoundError as error:
    failed = error.stage
after_failure = mine()
try:
    cl.run(["cat"], stdin=slave, foreground=True, timeout=0.05, **road)
    timed_out = False
except cl.ProcessTimeout:
    timed_out = True
print(json.dumps([failed, after_failure, timed_out, mine()]))
"""
    assert script(code, json.dumps(road)) == ["exec", True, True, True]


@every_road
def test_a_new_session_can_have_a_terminal(road):
    """Its number is the parent's, whatever the map puts there."""
    code = """
import json, os, pty, sys
import corelane as cl
master, slave = pty.openpty()
cl.Command.shell("echo at the terminal >/dev/tty", new_session=True, controlling_terminal=slave,
                 fds={slave: os.open(os.devnull, os.O_RDONLY)}, **json.loads(sys.argv[1])).run()
print(json.dumps(os.read(master, 100).decode()))
"""
    assert script(code, json.dumps(road)) == "at the terminal\r\n"


# ---- 24: groups ------------------------------------------------------------------------------------------------------


@every_road
def test_a_group_can_be_joined_after_its_leader_has_ended(road):
    """Nobody reaps the leader behind its owner's back, so its number stands until the others have joined."""
    leader = cl.Command("true", process_group=0, stdout=cl.PIPE, **road).spawn()
    assert leader.stdout.read() == b""  # it has ended, or is about to
    try:
        for _ in range(3):
            member = cl.Command("sleep", "1000", process_group=leader.pid, **road).spawn()
            assert os.getpgid(member.pid) == leader.pid
            assert member.contained == "none"  # the group is not only the child's
            member.kill()
            member.wait()
    finally:
        leader.close()
        assert leader.wait() == 0


# ---- what exec carries over ------------------------------------------------------------------------------------------


@needs_linux
@every_strategy
def test_max_rss_begins_with_the_parents_size(strategy):
    """The kernel's artefact, whoever spawns: the high-water mark of the address space that exec leaves is kept as the
    process's, and until exec the child had its parent's pages."""
    code = """
import json, sys
import corelane as cl
ballast = b"x" * 100_000_000
print(json.dumps(cl.run(["true"], strategy=sys.argv[1]).usage.max_rss))
"""
    assert script(code, strategy) > 100_000_000


def test_nothing_of_all_this_leaks():
    before = descriptors()
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            cl.run(["/nonexistent"], capture=True, cwd="/")
    assert descriptors() == before
