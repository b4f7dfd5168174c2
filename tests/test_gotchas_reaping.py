"""GOTCHAS "Reaping and signals": each trap as a test that fails when its handling is taken away; docs/gotchas.md tells
more."""

import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers import (
    KERNEL,
    PATIENCE,
    PLATFORM,
    every_road,
    is_running,
    needs_clone,
    needs_linux,
    needs_strace,
    script,
    trace,
    wait_until,
)

import corelane as cl
from corelane._ffi import ffi, lib

PR_GET_CHILD_SUBREAPER = 37
INT64_MAX = 2**63 - 1
# Since then a pidfd knows the status of a child that somebody else reaped.
PIDFD_KNOWS_STATUS = PLATFORM == "linux" and KERNEL >= (6, 15)


def status_of_a_lost_child(road, status):
    """What may be learnt of a child that somebody else reaped: with a pidfd from birth all, else perhaps nothing."""
    if PIDFD_KNOWS_STATUS and road["strategy"] != "posix_spawn":
        return [status]
    return [status, None] if PIDFD_KNOWS_STATUS else [None]


# ---- 25: whose child is it? ------------------------------------------------------------------------------------------


@needs_linux
@every_road
def test_children_of_others_are_left_alone(road):
    """A waitpid(-1) of ours would take them from a program that then waits in vain."""
    with subprocess.Popen(["sh", "-c", "exit 7"]) as other:
        wait_until(lambda: not is_running(other.pid), "another child's end")
        cl.run(["true"], **road)
        with cl.Command("true", **road).spawn() as process:
            process.wait()
        with pytest.raises(FileNotFoundError):
            cl.run(["/nonexistent"], **road)
        assert other.wait() == 7


@needs_linux
def test_sigchld_is_left_alone():
    """A handler of ours would take it from the program, and one of the program's from us."""
    code = """
import json
def dispositions():
    with open("/proc/self/status") as status:
        return [line for line in status if line.startswith(("SigIgn", "SigCgt"))]
before = dispositions()
import corelane as cl
cl.run(["true"], timeout=20)
with cl.Command("true").spawn() as process:
    process.wait(20)
print(json.dumps(dispositions() == before))
"""
    assert script(code)


@every_road
def test_a_host_that_ignores_sigchld_gets_an_answer(road):
    """The kernel reaps for it, and every wait is ECHILD."""
    code = """
import json, signal, sys
import corelane as cl
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
road = json.loads(sys.argv[1])
done = cl.run(["sh", "-c", "echo out; exit 7"], capture=True, check=False, timeout=20, **road)
process = cl.Command("sh", "-c", "read _; exit 7", stdin=cl.PIPE, **road).spawn()
running = process.state
process.stdin.close()
waited = process.wait(20)
try:
    cl.run(["/nonexistent"], **road)
except FileNotFoundError as error:
    stage = error.stage
print(json.dumps([done.text, done.returncode, running, waited, process.state, stage]))
"""
    text, code_of_run, running, code_of_process, state, stage = script(code, json.dumps(road))
    assert (text, running, stage) == ("out\n", "running", "exec")
    assert code_of_run in status_of_a_lost_child(road, 7)
    assert code_of_process in ([7] if PIDFD_KNOWS_STATUS else [None])  # it ran on, so its pidfd is there
    assert state == ("unknown" if code_of_process is None else "exited")


@every_road
def test_a_status_that_somebody_else_took_is_an_answer(road):
    process = cl.Command("sh", "-c", "read _; exit 7", stdin=cl.PIPE, **road).spawn()
    process.stdin.close()
    os.waitpid(process.pid, 0)
    assert process.wait(PATIENCE) in ([7] if PIDFD_KNOWS_STATUS else [None])
    assert process.state == ("exited" if PIDFD_KNOWS_STATUS else "unknown")
    assert process.send_signal("TERM") is False


@every_road
def test_a_foreign_reaper_breaks_nothing(road):
    stop = threading.Event()

    def reap():
        while not stop.is_set():
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                continue

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        done = [cl.run(["sh", "-c", "exit 7"], check=False, **road).returncode for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert set(done) <= {7, None}


@needs_linux
@needs_strace
def test_an_unknown_status_is_said_in_words(tmp_path):
    """Before Linux 6.15 the pidfd does not know either."""
    code = """
import json, signal
import corelane as cl
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
done = cl.run(["true"], check=False)
try:
    cl.run(["true"])
except cl.StatusUnknown as error:
    print(json.dumps([done.returncode, str(error)]))
"""
    (code_of_run, message), _ = trace(code, tmp_path, calls="ioctl", inject=["ioctl:error=ENOTTY"])
    assert code_of_run is None
    assert "waitpid(-1)" in message


# ---- 26: whose pid is it? --------------------------------------------------------------------------------------------


@needs_clone
@needs_strace
@every_road
def test_signals_go_through_the_pidfd_and_stop_at_the_end(road, tmp_path):
    code = """
import json, os, sys
import corelane as cl
process = cl.Command("sleep", "1000", contain="none", **json.loads(sys.argv[1])).spawn()
sent = [process.send_signal("CONT"), process.signal_scope("TERM")]
process.wait()
os.access("/reaped", os.F_OK)
print(json.dumps([sent, process.send_signal("TERM"), process.signal_scope("TERM"), process.kill()]))
"""
    calls = "kill,tkill,tgkill,pidfd_send_signal,access"
    printed, calls = trace(code, tmp_path, json.dumps(road), calls=calls)
    assert printed == [[True, True], False, False, False]
    reaped = next(i for i, call in enumerate(calls) if "/reaped" in call.text)
    sent = [call for call in calls if call.name != "access"]
    assert [call.name for call in sent] == ["pidfd_send_signal"] * 2
    assert all(call in calls[:reaped] for call in sent)


# A leftover of the child's group that holds none of its pipes; the run's last words are its pid.
_LEAVE = ["sh", "-c", "sleep 1000 >/dev/null & echo $!"]


@needs_linux
@every_road
def test_what_a_run_leaves_in_its_group_is_killed(road):
    done = cl.run(_LEAVE, stdin=cl.DEVNULL, stdout=cl.PIPE, **road)
    assert done.contained == "group"
    wait_until(lambda: not is_running(int(done.text)), "the leftover's end")


@needs_linux
@every_road
def test_contain_none_leaves_it_alone(road):
    done = cl.run(_LEAVE, stdin=cl.DEVNULL, stdout=cl.PIPE, contain="none", **road)
    assert done.contained == "none"
    assert is_running(int(done.text))
    os.kill(int(done.text), signal.SIGKILL)


@needs_linux
@needs_strace
@every_road
def test_the_group_is_killed_before_its_leader_is_reaped(road, tmp_path):
    """Afterwards its number may be a stranger's. Here as before Linux 6.9, where a group has only its number."""
    code = """
import json, os, sys
import corelane as cl
done = cl.run(json.loads(sys.argv[1]), stdout=cl.PIPE, **json.loads(sys.argv[2]))
try:
    os.kill(int(done.text), 9)  # strace would wait for it
except ProcessLookupError:
    pass
print(json.dumps(done.pid))
"""
    argv = json.dumps(_LEAVE), json.dumps(road)
    calls = "kill,pidfd_send_signal,waitid,wait4"
    inject = ["pidfd_send_signal:error=EINVAL"]
    leader, calls = trace(code, tmp_path, *argv, calls=calls, inject=inject)
    kills = [i for i, call in enumerate(calls) if call.text.startswith("kill(-")]
    [reap] = [i for i, call in enumerate(calls) if _reaps(call, leader)]
    assert {calls[i].text.split(")")[0] for i in kills} == {f"kill(-{leader}, SIGKILL"}
    assert all(i < reap for i in kills)


@needs_linux
@needs_strace
@every_road
@pytest.mark.parametrize("end", ["pass", "process.terminate(grace=20)"])
def test_a_process_kills_its_group_before_its_leader_is_reaped(end, road, tmp_path):
    code = f"""
import json, os, sys
import corelane as cl
command = cl.Command(*json.loads(sys.argv[1]), stdin=cl.DEVNULL, stdout=cl.PIPE, **json.loads(sys.argv[2]))
with command.spawn() as process:
    left = int(process.stdout.readline())
    {end}
try:
    os.kill(left, 9)  # strace would wait for it
except ProcessLookupError:
    pass
print(json.dumps([process.pid, process.returncode]))
"""
    argv = json.dumps(_LEAVE), json.dumps(road)
    calls = "kill,pidfd_send_signal,waitid,wait4"
    inject = ["pidfd_send_signal:error=EINVAL"]
    (leader, status), calls = trace(code, tmp_path, *argv, calls=calls, inject=inject)
    assert status in ((0,) if end == "pass" else (0, -signal.SIGTERM))
    kills = [i for i, call in enumerate(calls) if call.text.startswith(f"kill(-{leader}, SIGKILL)")]
    [reap] = [i for i, call in enumerate(calls) if _reaps(call, leader)]
    assert kills
    assert all(i < reap for i in kills)


def _reaps(call, pid):
    if call.name == "wait4":
        return call.result == pid
    return call.name == "waitid" and f"si_pid={pid}," in call.text and "WNOWAIT" not in call.text


@needs_linux
@needs_strace
def test_a_group_whose_leader_somebody_else_reaped_is_not_signalled_by_its_number(tmp_path):
    """SIGCHLD is ignored, so the number is free as soon as the leader has ended."""
    code = """
import json, os, signal, sys
import corelane as cl
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
leftover = int(cl.run(json.loads(sys.argv[1]), stdout=cl.PIPE, check=False).text)
os.kill(leftover, signal.SIGKILL)
print(json.dumps(leftover))
"""
    inject = ["pidfd_send_signal:error=EINVAL", "ioctl:error=ENOTTY"]
    leftover, calls = trace(code, tmp_path, json.dumps(_LEAVE), calls="kill,ioctl,pidfd_send_signal", inject=inject)
    # strace sometimes writes the call down once more, as one of the killed, whose own call it could not read in time.
    kills = [call.text for call in calls if call.name == "kill" and call.pid != leftover and ", 0)" not in call.text]
    assert [text.split(")")[0] for text in kills] == [f"kill({leftover}, SIGKILL"]


# ---- 27: subreaper ---------------------------------------------------------------------------------------------------


@needs_linux
def test_we_adopt_nobody(tmp_path):
    """It is process-wide, and would bring the program strangers as children."""
    done = cl.run(_LEAVE, stdin=cl.DEVNULL, stdout=cl.PIPE, contain="none")
    try:
        with open(f"/proc/{int(done.text)}/stat") as stat:
            assert int(stat.read().rpartition(")")[2].split()[1]) != os.getpid()
    finally:
        os.kill(int(done.text), signal.SIGKILL)
    adopts = ctypes.c_int(-1)
    assert ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts)) == 0
    assert adopts.value == 0


# ---- 28: a child that cannot be killed -------------------------------------------------------------------------------


@pytest.fixture
def freezer():
    """A cgroup of the v1 freezer: its frozen members are in uninterruptible sleep, as on a dead filesystem."""
    path = Path(f"/sys/fs/cgroup/freezer/corelane-test-{os.getpid()}")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"only the v1 freezer makes a child unkillable, and it is not there: {error}")
    yield path
    (path / "freezer.state").write_text("THAWED")
    wait_until(lambda: (path / "cgroup.procs").read_text() == "", "the end of all in the freezer")
    path.rmdir()


def freeze(path):
    (path / "freezer.state").write_text("FROZEN")
    wait_until(lambda: (path / "freezer.state").read_text() == "FROZEN\n", "the frost")


@needs_linux
def test_terminate_gives_up_on_an_unkillable_child(freezer, monkeypatch):
    monkeypatch.setattr("corelane.process.process.REAP_WITHIN", 0.05)
    process = cl.Command("sleep", "1000", cgroup=freezer).spawn()
    freeze(freezer)
    with pytest.raises(cl.ProcessTimeout):
        process.terminate(grace=0)
    assert process.state == "running"
    (freezer / "freezer.state").write_text("THAWED")
    assert process.wait(PATIENCE) < 0


@needs_linux
def test_abort_gives_up_on_an_unkillable_child(freezer):
    """What Ctrl-C does in a run."""
    packed = cl.Command("sleep", "1000", cgroup=freezer).packed("run")
    made = ffi.new("cl_run **")
    assert lib.cl_run_new(made) == 0
    run = ffi.gc(made[0], lib.cl_run_free)
    assert lib.cl_run_start(run, packed.command, packed.launch, packed.options, ffi.NULL, 0) == 0
    packed.close()
    freeze(freezer)
    began = time.monotonic()
    assert lib.cl_run_abort(run, 50_000_000) == 0
    assert time.monotonic() - began < PATIENCE
    (freezer / "freezer.state").write_text("THAWED")
    assert lib.cl_run_abort(run, 10**10) == 1


@needs_linux
@pytest.mark.slow
def test_a_run_gives_up_on_an_unkillable_child(freezer):
    def freeze_it():
        # Frozen before its exec, it would hold its spawner, which waits for the answer: so not before.
        def has_become_sleep():
            pids = (freezer / "cgroup.procs").read_text().split()
            return bool(pids) and Path(f"/proc/{pids[0]}/comm").read_text() == "sleep\n"

        wait_until(has_become_sleep, "the child's exec")
        freeze(freezer)

    frost = threading.Thread(target=freeze_it)
    frost.start()
    began = time.monotonic()
    with pytest.raises(cl.ProcessTimeout, match="has not ended") as caught:
        cl.run(["sleep", "1000"], cgroup=freezer, timeout=1)
    frost.join()
    assert 5 < time.monotonic() - began < 5 + PATIENCE
    pid = caught.value.result.pid
    assert Path(f"/proc/{pid}").exists()
    (freezer / "freezer.state").write_text("THAWED")

    def is_reaped():
        cl.run(["true"])  # any later run looks after it
        return not Path(f"/proc/{pid}").exists()

    wait_until(is_reaped, "the end of the child")


# ---- 29: timeouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeout", "grace", "drain"])
@pytest.mark.parametrize("value", [-1, -0.001, float("nan"), float("-inf")])
def test_a_timeout_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        cl.Command("true", **{name: value})


@pytest.mark.parametrize("value", [-1, float("nan")])
def test_so_is_one_of_a_process(value):
    with cl.Command("true").spawn() as process:
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            process.wait(value)
        with pytest.raises(ValueError, match="grace must be at least 0"):
            process.terminate(value)


@every_road
@pytest.mark.parametrize("value", [float("inf"), 1e308, 10**30])
def test_a_huge_timeout_is_a_long_one(road, value):
    """Not one that has wrapped around and is over at once."""
    done = cl.run(["echo", "x"], stdout=cl.PIPE, timeout=value, grace=value, drain=value, **road)
    assert done.text == "x\n"
    with cl.Command("cat", stdin=cl.PIPE, **road).spawn() as process:
        process.stdin.close()
        assert process.wait(value) == 0


def test_a_huge_timeout_is_a_long_one_for_the_core_too():
    packed = cl.Command("echo", "x", stdout=cl.PIPE).packed("run")
    options = packed.options
    options.timeout_ns = options.grace_ns = options.drain_ns = INT64_MAX
    made = ffi.new("cl_run **")
    assert lib.cl_run_new(made) == 0
    run = ffi.gc(made[0], lib.cl_run_free)
    assert lib.cl_run_start(run, packed.command, packed.launch, options, ffi.NULL, INT64_MAX) == 1
    report = ffi.new("cl_run_report *")
    lib.cl_run_report_get(run, report)
    assert (report.timed_out, report.child.status, report.size[0]) == (0, 0, 2)


# ---- 30: a timeout ends all of it ------------------------------------------------------------------------------------


@needs_linux
@every_road
@pytest.mark.parametrize("grace", [0, PATIENCE])
def test_a_timeout_ends_the_shell_and_its_children(road, grace):
    """Killed alone, the shell would leave them running with the pipes in their hands, and the run would wait on."""
    shell = cl.Command.shell("sleep 1000 & sleep 1001 & echo $!; wait", stdin=cl.DEVNULL, capture=True, **road)
    with pytest.raises(cl.ProcessTimeout) as failure:
        shell.with_options(timeout=0.2, grace=grace, drain=PATIENCE).run()
    result = failure.value.result
    assert result.contained == "group"
    assert not result.pipes_left_open
    assert result.elapsed < PATIENCE
    last = int(result.stdout)
    wait_until(lambda: not is_running(last), "the end of the shell's child")


@needs_linux
@every_road
def test_leaving_by_an_exception_ends_the_shell_and_its_children(road):
    shell = cl.Command.shell("sleep 1000 & echo $!; wait", stdin=cl.DEVNULL, stdout=cl.PIPE, **road)
    seen = []

    def leave():
        with shell.spawn() as process:
            seen.append(process)
            seen.append(int(process.stdout.readline()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    process, last = seen
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: not is_running(last), "the end of the shell's child")
