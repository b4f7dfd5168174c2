"""Every system call of a spawn fails once, in turn, as strace can make it: whatever the answer, it is a result or an
error that says which step failed, nothing is left, and the next spawn works.

A fault is set to hit the Nth such call of each process, and N grows until none is hit any more, so the list below names
calls and their errors, not how often we make them. Two kinds are not here: `close`, which closes even when it reports
an error, as no injection can; and calls that cannot fail.
"""

import errno
import gc
import json
import os
import select
import shutil
import signal
import subprocess
import time

import pytest
from faults_child import STRATEGIES, nothing_left, task_of

import corelane as cl
from corelane._ffi import PLATFORM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace here, which makes calls fail"),
]

PATIENCE = 30


def serve():
    """Forks one process per fault, each with nothing done yet, and takes it through: ready, go, done, check."""
    import ctypes
    import traceback
    from concurrent.futures import ThreadPoolExecutor

    import corelane.process.stream  # noqa: F401, what is loaded late would be loaded among the faults

    ANY_TRACER = ctypes.c_ulong(-1)
    SET_TRACER = 0x59616D61

    def say(text):
        while True:  # the fault may have been kept for this write
            try:
                return os.write(1, text.encode() + b"\n")
            except OSError:
                continue

    def hear():
        while True:
            try:
                return os.read(0, 100).decode().strip()
            except OSError:
                continue

    def run(command):
        done = command.run()
        fed = command.option("stdin")
        # It may stop reading when it likes, and here a fault makes it look so.
        return fed if done.stdout == fed[: len(fed) - done.stdin_left] else done.stdout

    def find_nothing(command):
        try:
            command.run()
        except FileNotFoundError:
            return "nothing"

    def end_early(command):
        with command.spawn() as process:
            return process.terminate(0.01)

    def talk(command):
        with command.spawn(stdin=cl.PIPE, stdout=cl.PIPE) as process:
            process.stdin.write(b"in")
            process.stdin.close()
            said = process.stdout.read()
            process.wait()
        process.check()
        return said

    def stop_early(command):
        lines = command.lines()
        first = next(lines)
        lines.close()
        return first

    def run_out(command):
        try:
            command.run()
        except cl.ProcessTimeout as error:
            return error.result.signal
        raise AssertionError("it did not run out of time")

    def scenario(name, strategy):
        how = {} if strategy == "auto" else {"strategy": strategy}
        cat = cl.Command("cat", **how)
        fed = cat.with_options(stdin=b"in", stdout=cl.PIPE)
        sleep = cl.Command("sleep", "1000", stdout=cl.DEVNULL, **how)
        worker = ThreadPoolExecutor(1)
        if name == "thread":
            worker.submit(os.getpid).result()  # its thread is no part of the attempt
        full = {"cwd": "/", "umask": 0o22, "nice": 1, "rlimits": {"core": 0, "nofile": 100}, "signal_ignores": ["HUP"],
                "fds": {5: 2}, "no_new_privs": True, "oom_score_adj": 500, "env_add": {"A": "b"}}  # fmt: skip
        full |= {"cpus": sorted(os.sched_getaffinity(0)), "sched": "batch", "io_priority": "idle"}
        return {
            "run": (lambda: run(fed), b"in"),
            "full": (lambda: run(fed.with_options(stderr=cl.DEVNULL, **full)), b"in"),
            "big": (lambda: len(run(cat.with_options(stdin=bytes(300_000), capture=True))), 300_000),
            "process": (lambda: talk(cat), b"in"),
            "lines": (lambda: list(cl.Command("echo", "a\nb", **how).lines()), ["a", "b"]),
            "early": (lambda: stop_early(cl.Command("yes", **how)), "y"),
            "timeout": (lambda: run_out(sleep.with_options(timeout=0.02)), 9),
            "terminate": (lambda: end_early(sleep), -15),
            "missing": (lambda: find_nothing(cl.Command("no-such-program", **how)), "nothing"),
            "session": (lambda: run(fed.with_options(new_session=True)), b"in"),
            "account": (lambda: run(fed.with_options(user=os.geteuid())), b"in"),
            "thread": (lambda: worker.submit(run, fed).result(), b"in"),
        }[name]

    def outcome_of(attempt):
        try:
            return {"value": attempt()}
        except (cl.CorelaneError, OSError, MemoryError) as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            known = {key: getattr(error, key, None) for key in ("stage", "errno")}
            return {"error": kinds, "message": str(error), **known}

    def suffer(name, strategy):
        ctypes.CDLL(None).prctl(SET_TRACER, ANY_TRACER, 0, 0, 0)
        attempt, expected = scenario(name, strategy)
        with nothing_left():
            say(f"ready {os.getpid()}")
            hear()
            outcome = outcome_of(attempt)
            say("done")
            hear()
            assert "error" in outcome or outcome["value"] == expected, outcome
            gc.collect()
        again = outcome_of(attempt)
        assert again == {"value": expected}, f"after {outcome} the next one is {again}"
        outcome.pop("value", None)
        return outcome

    while order := hear():
        pid = os.fork()
        if pid == 0:
            try:
                outcome = suffer(*order.split())
            except BaseException:
                outcome = {"broken": traceback.format_exc()}
            say("outcome " + json.dumps(outcome))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            say("outcome " + json.dumps({"broken": f"ended with {os.waitstatus_to_exitcode(status)}"}))


class Victim:
    """The server above, and a strace for each fault."""

    def __init__(self, directory):
        self.log = directory / "strace"
        self.server = subprocess.Popen(
            task_of(serve), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.heard = b""

    def close(self):
        self.server.kill()
        self.server.wait()
        self.server.stdin.close()
        self.server.stdout.close()

    def say(self, text):
        self.server.stdin.write(text.encode() + b"\n")
        self.server.stdin.flush()

    def hear(self, word):
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self.heard:
            ready, _, _ = select.select([self.server.stdout], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.server.stdout.fileno(), 65536) if ready else b""
            assert more, f"the victim hangs, or has crashed ({self.server.poll()}), before it said {word!r}"
            self.heard += more
        line, _, self.heard = self.heard.partition(b"\n")
        first, _, rest = line.decode().partition(" ")
        if first == "outcome" and word != first:
            pytest.fail(rest)
        assert first == word, line
        return rest

    def suffer(self, scenario, strategy, faults):
        """One attempt with faults: whether one was hit, and the outcome."""
        self.say(f"{scenario} {strategy}")
        pid = int(self.hear("ready"))
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", self.log, "-e", f"trace={calls}", "-p", str(pid)]
            + [word for fault in faults for word in ("-e", f"inject={fault}")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            first = tracer.stderr.readline().decode()
            if "attached" not in first:
                self.say("go")
                self.hear("done")
                self.say("check")
                self.hear("outcome")
                pytest.skip(f"strace may not attach to a process here: {first}")
            self.say("go")
            self.hear("done")
        except BaseException:
            os.kill(pid, signal.SIGKILL)  # it hangs; the server is its parent and has not reaped it
            raise
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
        self.say("check")
        outcome = json.loads(self.hear("outcome"))
        assert "broken" not in outcome, outcome["broken"]
        return "INJECTED" in self.log.read_text(), outcome


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    victim = Victim(tmp_path_factory.mktemp("faults"))
    yield victim
    victim.close()


def fail_in_turn(victim, scenario, strategy, call, error, most=200):
    """Fail the first such call of each process, then the second, ...; the outcomes of those that hit."""
    outcomes = []
    for nth in range(1, most):
        hit, outcome = victim.suffer(scenario, strategy, [f"{call}:error={error}:when={nth}"])
        if not hit:
            assert "error" not in outcome, outcome
            return outcomes
        outcomes.append(outcome)
    raise AssertionError(f"more than {most} calls of {call}")


def outcome_name(outcome):
    return outcome["stage"] or outcome["error"][0] if "error" in outcome else "ok"


# What a call's failure comes to: a stage of SpawnFailed, an error's name, or "ok" where we go on without. First the
# calls that only we make, where the outcomes are all of these and no others.
OURS = [
    ("pipe2:EMFILE", {"pipe"}),
    ("pipe2:ENFILE", {"pipe"}),
    ("clone3:EAGAIN", {"clone"}),
    ("clone3:ENOMEM", {"clone"}),
    ("clone3:ENOSYS", {"ok"}),  # an old kernel
    ("clone3:EPERM", {"ok"}),  # an old container
    ("clone3:EINVAL", {"ok"}),
    ("dup3:EMFILE", {"descriptors"}),
    ("dup3:EBADF", {"descriptors"}),
    ("fcntl:EMFILE", {"descriptors", "ok"}),  # "ok": only the feed blocks, which fits
    ("close_range:ENOSYS", {"ok"}),
    ("close_range:EPERM", {"ok"}),
    ("chdir:EIO", {"cwd"}),
    ("chdir:EACCES", {"cwd"}),
    ("setpgid:EPERM", {"group"}),
    ("prctl:EINVAL", {"death_signal", "no_new_privs"}),
    ("sched_setaffinity:EINVAL", {"affinity"}),
    ("sched_setscheduler:EPERM", {"scheduler"}),
    ("setpriority:EACCES", {"nice"}),
    ("ioprio_set:EPERM", {"io_priority"}),
    ("execve:ENOMEM", {"exec"}),
    ("execve:EIO", {"exec"}),
    ("execve:EAGAIN", {"exec"}),
    ("execve:ETXTBSY", {"ok"}),  # somebody is still writing the program: again
    ("execve:EACCES", {"ok"}),  # there are more directories in PATH
    ("waitid:EINVAL", {"ok"}),  # a kernel that cannot wait for a pidfd
    ("waitid:EINTR", {"ok"}),
    ("wait4:EINTR", {"ok"}),
    ("ppoll:EINTR", {"ok"}),
    ("ppoll:ENOMEM", {"MemoryError"}),
    ("writev:EAGAIN", {"ok"}),
    ("writev:EINTR", {"ok"}),
    ("writev:EPIPE", {"ok"}),  # a child need not read
    ("pidfd_send_signal:EPERM", {"ok"}),  # what is left of the group is not ours to kill
    ("pidfd_send_signal:EINVAL", {"ok"}),  # a kernel that cannot signal a group by its leader's pidfd
    ("rt_sigpending:EINVAL", {"ok"}),
    ("umask:EPERM", {"ok"}),
]
# Then those that the started program makes too, and then fails or not, as it likes.
SHARED = [
    ("mmap:ENOMEM", {"prepare"}),
    ("mprotect:ENOMEM", {"prepare"}),
    ("brk:ENOMEM", set()),
    ("munmap:EINVAL", set()),
    ("openat:EMFILE", {"oom", "descriptors"}),
    ("openat:ENOENT", {"oom", "descriptors"}),
    ("prlimit64:EPERM", {"limits"}),
    ("rt_sigaction:EINVAL", {"signals"}),
    ("rt_sigprocmask:EINVAL", {"signals"}),
    ("write:EIO", {"oom"}),
    ("read:EIO", {"CallFailed"}),
    ("read:EINTR", set()),
    ("read:EAGAIN", set()),
]
THE_PROGRAMS_OWN = {"ok", "NonZeroExit", "Signaled"}

linux = pytest.mark.skipif(PLATFORM != "linux", reason="other builds leave most of these calls to libc's posix_spawn")


@linux
@pytest.mark.parametrize(("fault", "expected"), OURS, ids=[fault for fault, _ in OURS])
def test_a_failure_says_which_step_it_was(victim, fault, expected):
    outcomes = fail_in_turn(victim, "full", "auto", *fault.split(":"))
    assert {outcome_name(outcome) for outcome in outcomes} == expected
    for outcome in outcomes:
        if outcome.get("stage"):
            assert "SpawnFailed" in outcome["error"]
            # EBADF: what looks whether a descriptor is open knows no other reason.
            assert outcome["errno"] in (getattr(errno, fault.split(":")[1]), errno.EBADF)


@linux
@pytest.mark.parametrize(("fault", "expected"), SHARED, ids=[fault for fault, _ in SHARED])
def test_a_failure_that_may_also_be_the_programs(victim, fault, expected):
    outcomes = fail_in_turn(victim, "full", "auto", *fault.split(":"))
    assert {outcome_name(outcome) for outcome in outcomes} - THE_PROGRAMS_OWN == expected


# Whatever else spawns and waits: here it is enough that nothing is left and the error has a type.
EVERYWHERE = {
    "run": ["mmap:ENOMEM", "pipe2:EMFILE"],
    "big": ["ppoll:EINTR", "writev:EAGAIN", "read:EINTR", "mmap:ENOMEM", "mremap:ENOMEM"],
    "process": ["pipe2:EMFILE", "clone3:EAGAIN", "mmap:ENOMEM", "execve:ENOMEM", "write:EPIPE", "read:EIO"],
    "lines": ["pipe2:EMFILE", "clone3:EAGAIN", "mmap:ENOMEM", "?poll:EINTR", "?poll:ENOMEM", "read:EIO"],
    "early": ["?poll:ENOMEM", "read:EIO", "pidfd_send_signal:EPERM", "kill:EPERM", "waitid:EINVAL", "ppoll:EINTR"],
    "timeout": ["pidfd_send_signal:EPERM", "pidfd_send_signal:EINVAL", "ppoll:EINTR", "ppoll:ENOMEM", "waitid:EINVAL"],
    "terminate": ["pidfd_send_signal:EPERM", "pidfd_send_signal:EINVAL", "ppoll:EINTR", "waitid:EINVAL", "mmap:ENOMEM"],
    "missing": ["pipe2:EMFILE", "clone3:EAGAIN", "mmap:ENOMEM", "execve:EIO", "wait4:EINTR"],
    "session": ["setsid:EPERM"],
    "account": ["setgroups:EPERM", "setresgid:EPERM", "setresuid:EAGAIN", "pipe2:EMFILE", "clone:EAGAIN", "write:EIO"],
    "thread": ["clone3:EAGAIN", "clone:EAGAIN", "mmap:ENOMEM", "mprotect:ENOMEM", "rt_sigprocmask:EINVAL"],
}  # fmt: skip


@pytest.mark.parametrize("scenario", EVERYWHERE)
def test_nothing_is_left_of_an_attempt_that_failed(victim, scenario):
    for fault in EVERYWHERE[scenario]:
        fail_in_turn(victim, scenario, "auto", *fault.split(":"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_left_by_any_strategy(victim, strategy):
    for fault in ["pipe2:EMFILE", "fcntl:EMFILE", "execve:ENOMEM", "execve:EACCES", "pidfd_open:EMFILE", "write:EIO",
                  "clone:EAGAIN", "clone3:EAGAIN", "mmap:ENOMEM", "ppoll:EINTR", "close_range:ENOSYS"]:  # fmt: skip
        fail_in_turn(victim, "full", strategy, *fault.split(":"))


@linux
def test_without_close_range_every_descriptor_is_looked_at(victim):
    """And a directory of them that cannot be read is no reason to leak them into the child."""
    hit, outcome = victim.suffer("full", "auto", ["close_range:error=ENOSYS", "getdents64:error=EIO:when=1"])
    assert hit
    assert (outcome_name(outcome), outcome["errno"]) == ("descriptors", errno.EIO)
