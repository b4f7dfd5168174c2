"""The error tree: who is whose child, what each carries, and that each arrives whole in another process."""

import concurrent.futures
import errno
import multiprocessing
import os
import pickle
import signal
import sys

import pytest
from faults_child import fresh, nothing_left, raises
from helpers import needs_linux

import corelane as cl
from corelane import errors

COMMAND = cl.Command("tool", "-x", cwd="/tmp")


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def caught(call, *args, **options):
    with pytest.raises(cl.CorelaneError) as info:
        call(*args, **options)
    return info.value


def shell(text, **options):
    return cl.Command.shell(text, **{"timeout": 30, **options}).run()


# ---- the tree ----

PARENTS = {
    "NotSupported": (cl.CorelaneError,),
    "CallFailed": (cl.CorelaneError, OSError),
    "Corrupted": (cl.ShmError,),
    "CpuError": (cl.CorelaneError,),
    "CpuRefused": (cl.CpuError, OSError),
    "ShmError": (cl.CorelaneError,),
    "QueueFull": (cl.ShmError,),
    "QueueEmpty": (cl.ShmError,),
    "Closed": (cl.ShmError,),
    "PoolExhausted": (cl.ShmError,),
    "StaleBlock": (cl.ShmError,),
    "PeerDied": (cl.ShmError,),
    "SideTaken": (cl.ShmError,),
    "AlreadyHeld": (cl.ShmError, RuntimeError),
    "NotHeld": (cl.ShmError, RuntimeError),
    "BrokenBarrier": (cl.ShmError, RuntimeError),
    "ShmTimeout": (cl.ShmError, TimeoutError),
    "ProcessError": (cl.CorelaneError,),
    "SpawnFailed": (cl.ProcessError, OSError),
    "ResourceExhausted": (cl.SpawnFailed,),
    "CgroupUnavailable": (cl.ProcessError, OSError),
    "ProcessTimeout": (cl.ProcessError, TimeoutError),
    "NonZeroExit": (cl.ProcessError,),
    "Signaled": (cl.ProcessError,),
    "StatusUnknown": (cl.ProcessError,),
    "OutputLimitExceeded": (cl.ProcessError,),
    "TeeFailed": (cl.ProcessError, OSError),
    "NotOwner": (cl.ProcessError,),
}


@pytest.mark.parametrize("name", PARENTS)
def test_the_tree(name):
    error = getattr(cl, name)
    assert issubclass(error, PARENTS[name])
    assert issubclass(error, OSError) == any(issubclass(parent, OSError) for parent in PARENTS[name])
    assert error.__doc__


def test_all_errors_are_in_the_tree():
    exported = {name for name in cl.__all__ if isinstance(getattr(cl, name), type) and name in errors.__all__}
    assert exported - {"CorelaneError"} == set(PARENTS)
    assert all(issubclass(getattr(cl, name), cl.CorelaneError) for name in exported)


@pytest.mark.parametrize(
    ("number", "kinds"),
    [
        (errno.ENOENT, [FileNotFoundError]),
        (errno.ENOTDIR, [NotADirectoryError]),
        (errno.EACCES, [PermissionError]),
        (errno.EPERM, [PermissionError]),
        (errno.ESRCH, [ProcessLookupError]),
        (errno.EAGAIN, [BlockingIOError, cl.ResourceExhausted]),
        (errno.EMFILE, [cl.ResourceExhausted]),
        (errno.ENFILE, [cl.ResourceExhausted]),
        (errno.ENOMEM, [cl.ResourceExhausted]),
        (errno.E2BIG, []),
        (errno.ENOEXEC, []),
        (errno.EINVAL, []),
    ],
)
def test_a_failed_spawn_is_also_the_oserror_of_its_errno(number, kinds):
    error = errors.spawn_failed("no luck", command=COMMAND, stage="exec", errno=number)
    assert isinstance(error, cl.SpawnFailed)
    assert all(isinstance(error, kind) for kind in kinds)
    assert isinstance(error, cl.ResourceExhausted) == (cl.ResourceExhausted in kinds)
    assert isinstance(error, type(OSError(number, ""))), "what Python itself would raise for it"
    assert (error.errno, error.strerror, error.stage) == (number, os.strerror(number), "exec")
    assert str(error) == "no luck"


# ---- what they carry ----


def test_a_missing_program():
    error = caught(cl.run, ["corelane-no-such-program", "x"])
    assert isinstance(error, cl.SpawnFailed)
    assert isinstance(error, FileNotFoundError)
    assert (error.stage, error.errno) == ("exec", errno.ENOENT)
    assert error.command == cl.Command("corelane-no-such-program", "x")
    assert (error.result, error.returncode, error.stdout, error.stderr) == (None, None, None, None)
    assert "corelane-no-such-program" in str(error)


@needs_linux
def test_a_program_in_a_cwd_that_is_a_descriptor_is_looked_for_there(tmp_path):
    """Not in our own directory; and nobody waits for the writer of a FIFO to tell its interpreter."""

    def look(ours, theirs):
        os.chdir(ours)
        fd = os.open(theirs, os.O_RDONLY)
        os.mkfifo("missing")
        os.mkfifo("wrong")
        wrong = os.open(f"{theirs}/wrong", os.O_WRONLY | os.O_CREAT, 0o755)
        os.write(wrong, b"#!/no/such/interpreter -x\nexit\n")
        os.close(wrong)
        for name, why in (("missing", "there is no file './missing'"), ("wrong", "'/no/such/interpreter' of its #!")):
            with raises(FileNotFoundError) as caught:
                cl.run([f"./{name}"], cwd=fd)
            assert why in str(caught.value), caught.value
        with raises(FileNotFoundError) as caught:
            cl.run(["wrong"], cwd=fd, env={"PATH": "."})
        assert "'/no/such/interpreter' of its #!" in str(caught.value)

    for directory in ("ours", "theirs"):
        (tmp_path / directory).mkdir()
    fresh(look, str(tmp_path / "ours"), str(tmp_path / "theirs"), timeout=20)


def test_a_missing_cwd_is_not_a_missing_program():
    error = caught(cl.run, ["true"], cwd="/no/such/place")
    assert (error.stage, error.errno) == ("cwd", errno.ENOENT)
    assert "'/no/such/place'" in str(error)


def test_a_non_zero_exit():
    error = caught(shell, "echo out; echo first >&2; echo last words >&2; exit 3", capture=True)
    assert isinstance(error, cl.NonZeroExit)
    assert (error.code, error.returncode) == (3, 3)
    assert (error.stdout, error.stderr) == (b"out\n", b"first\nlast words\n")
    assert error.stderr_tail == b"first\nlast words\n"
    assert error.result.returncode == 3
    assert error.command.args[:2] == ("/bin/sh", "-c")
    assert "status 3" in str(error)
    assert "last words" in str(error)


def test_the_tail_of_stderr_is_its_end_and_bounded():
    error = caught(shell, "head -c 100000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1", capture=True)
    assert error.stderr_tail.endswith(b"xxx" + b"the end\n")
    assert len(error.stderr_tail) < 1000
    assert len(error.stderr) == 100_008
    assert len(str(error)) < 1500


def test_what_was_not_captured_has_no_tail():
    error = caught(shell, "exit 1")
    assert (error.stdout, error.stderr, error.stderr_tail) == (None, None, b"")


def test_a_signal():
    error = caught(shell, "kill -USR1 $$", capture=True)
    assert isinstance(error, cl.Signaled)
    assert (error.signal, error.returncode, error.core_dumped) == (signal.SIGUSR1, -signal.SIGUSR1, False)
    assert "SIGUSR1" in str(error)


def test_a_timeout():
    error = caught(shell, "echo begun; exec sleep 1000", capture=True, timeout=0.5)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, cl.ProcessTimeout)
    assert (error.timeout, error.stdout, error.stderr, error.errno) == (0.5, b"begun\n", b"", errno.ETIMEDOUT)


def test_too_much_output():
    error = caught(cl.run, ["head", "-c", "100", "/dev/zero"], capture=True, max_output=10)
    assert isinstance(error, cl.OutputLimitExceeded)
    assert error.stdout == bytes(10)
    assert "max_output=10" in str(error)


def test_every_message_names_the_command():
    for error in real_errors():
        assert str(error.command) in str(error)
        assert str(error) == error.message


def test_descriptors_that_run_out():
    """The limit is this process's own, so it is another one's."""

    def lower():
        import resource

        import pytest

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        cl.run(["true"], capture=True)
        with open(os.devnull) as last:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
            with pytest.raises(cl.ResourceExhausted) as info:
                cl.run(["true"], capture=True)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert info.value.errno == __import__("errno").EMFILE
        assert "ulimit -n" in str(info.value)
        assert cl.run(["true"], capture=True).ok

    fresh(lower)


# ---- going to another process ----


def real_errors():
    yield caught(cl.run, ["corelane-no-such-program"])
    yield caught(cl.run, ["/"])
    yield caught(cl.run, ["true"], cwd=b"/\xff")
    yield caught(shell, "echo a; echo b >&2; exit 3", capture=True)
    yield caught(shell, "kill -TERM $$", capture=True)
    yield caught(shell, "exec sleep 1000", timeout=0.05)
    yield caught(cl.run, ["echo", "long"], capture=True, max_output=1)
    yield caught(cl.Command("echo", "long", max_line=1).lines().__next__)
    with cl.Command("sleep", "1000").spawn() as process:
        yield caught(process.wait, 0)
        process.kill()


def made_errors():
    result = cl.run(["true"], capture=True)
    for number in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESRCH, errno.EAGAIN, errno.EMFILE, errno.E2BIG):
        yield errors.spawn_failed("m", command=COMMAND, stage="limits", errno=number)
    yield cl.CgroupUnavailable("m", command=COMMAND, errno=errno.EROFS)
    yield cl.ProcessTimeout("m", command=COMMAND, result=result, timeout=1.5)
    yield cl.NonZeroExit("m", command=COMMAND, result=result, code=3, stderr_tail=b"x")
    yield cl.Signaled("m", command=COMMAND, result=result, signal=9, core_dumped=True)
    yield cl.StatusUnknown("m", command=COMMAND, result=result)
    yield cl.OutputLimitExceeded("m", command=COMMAND, result=result)
    yield cl.TeeFailed("m", command=COMMAND, result=result, errno=errno.EPIPE)
    yield cl.NotOwner("m", command=COMMAND)
    yield cl.ProcessError("m")
    yield cl.CpuError("m")
    yield cl.ShmError("m")
    yield cl.Corrupted("m")
    for number in (errno.EEXIST, errno.ENOENT, errno.EPERM, errno.ENOSPC):
        yield errors.shm_failed(number, "cannot make a segment")
    for number in (errno.EPERM, errno.ESRCH, errno.EINVAL):
        yield errors.cpu_refused("nice -5 for process 1", number, "ask for it")
    for kind in (cl.ShmError, cl.Corrupted, cl.QueueEmpty, cl.Closed, cl.PoolExhausted, cl.StaleBlock):
        yield kind("m")
    yield cl.QueueFull("m", 3)
    yield cl.PeerDied("m", 42)
    yield cl.SideTaken("m", 42)
    yield cl.AlreadyHeld("m")
    for held in (cl.NotHeld, cl.BrokenBarrier, cl.ShmTimeout):
        yield held("m", 42)
        yield held("m")


def alike(one, other):
    assert type(one) is type(other)
    assert str(one) == str(other)
    assert one.__dict__ == other.__dict__
    assert one.args == other.args
    assert getattr(one, "errno", None) == getattr(other, "errno", None)
    assert getattr(one, "strerror", None) == getattr(other, "strerror", None)
    for name in ("command", "result", "returncode", "stdout", "stderr"):
        assert getattr(one, name, None) == getattr(other, name, None)


@pytest.mark.parametrize("source", [real_errors, made_errors])
def test_every_error_survives_pickling(source):
    for error in source():
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            alike(pickle.loads(pickle.dumps(error, protocol)), error)


def test_the_made_errors_are_all_there_are():
    """A new class must be pickled by the test above, too."""
    made = {type(error) for error in made_errors()}
    known = {getattr(cl, name) for name in PARENTS} - {cl.NotSupported, cl.CallFailed, cl.SpawnFailed}
    assert known <= made | {cl.SpawnFailed}
    assert str(errors.cpu_refused("a", errno.EPERM, "b")) == "a: Operation not permitted: b"


def test_the_two_plain_errors_survive_pickling():
    for error in (cl.NotSupported("no such call"), cl.CallFailed(errno.EIO, "a run: broken")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.args, str(again)) == (type(error), error.args, str(error))


def test_an_error_survives_pickling_also_where_its_command_does_not(tmp_path):
    """Else a pool's worker that logs to an open file could never report a failure."""
    with open(tmp_path / "log", "wb") as log:
        error = caught(shell, "exit 3", stdout=log, fds={5: log})
        again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, cl.NonZeroExit)
    assert (again.code, str(again), again.command.args) == (3, str(error), error.command.args)
    assert again.command.option("timeout") == 30


def fail_with(code):
    cl.Command.shell(f"echo oops >&2; exit {code}", capture=True).run()


@pytest.mark.slow
@pytest.mark.usefixtures("stops_the_tracker")
def test_an_error_comes_home_from_a_pool():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool, pytest.raises(cl.NonZeroExit) as info:
        pool.submit(fail_with, 7).result(60)
    assert (info.value.code, info.value.stderr) == (7, b"oops\n")


def test_notes_and_causes_are_kept():
    error = caught(cl.run, ["false"])
    error.add_note("while testing")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while testing"]


def test_they_can_be_caught_as_people_do_already():
    with pytest.raises(FileNotFoundError):
        cl.run(["corelane-no-such-program"])
    with pytest.raises(PermissionError):
        cl.run([os.path.dirname(sys.executable)])
    with pytest.raises(TimeoutError):
        cl.run(["sleep", "1000"], timeout=0.05)
    with pytest.raises(OSError, match="cannot start"):
        cl.run(["corelane-no-such-program"])
