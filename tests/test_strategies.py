"""Every strategy passes one suite: what one can do, all can, and none of them shows but in `.strategy`."""

import errno
import grp
import os
import pwd
import resource
import signal
import sys
import threading
import time

import psutil
import pytest
from faults_child import nothing_left
from helpers import about, every_strategy, needs_linux, needs_root, signal_bits, wait_until

import corelane as cl
from corelane._ffi import PLATFORM

pytestmark = every_strategy


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


@pytest.fixture(autouse=True)
def _is_there(strategy):
    """A seccomp filter or an old kernel may lack one; with the others nothing is skipped."""
    if strategy == "clone3":
        try:
            cl.run(["true"], strategy=strategy)
        except cl.SpawnFailed as error:
            if error.stage == "clone" and error.errno in (errno.ENOSYS, errno.EPERM):
                pytest.skip(f"this machine forbids clone3: {error}")
            raise


def inspected(look, **options):
    """What `look` says of a running child."""
    with cl.Command("sleep", "1000", **{"stdin": cl.DEVNULL, **options}).spawn() as process:
        try:
            return look(psutil.Process(process.pid))
        finally:
            process.kill()


# ---- running ----


def test_it_is_the_one_that_was_used(strategy):
    assert cl.run(["true"], strategy=strategy).strategy == strategy
    with cl.Command("true", strategy=strategy).spawn() as process:
        assert process.strategy == strategy


def test_a_run(strategy):
    result = cl.run(
        ["sh", "-c", "cat; echo err >&2; exit 3"], strategy=strategy, stdin=b"in", capture=True, check=False
    )
    assert (result.stdout, result.stderr, result.returncode) == (b"in", b"err\n", 3)
    assert result.usage.max_rss > 0
    assert 0 < result.elapsed < 60


def test_a_process(strategy):
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, strategy=strategy).spawn() as process:
        process.stdin.write(b"word\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"word\n"
        assert process.state == "running"
        assert psutil.Process(process.pid).ppid() == os.getpid()
    assert process.returncode == 0


def test_lines(strategy):
    assert list(cl.Command("seq", "3", strategy=strategy).lines()) == ["1", "2", "3"]


def test_a_signal(strategy):
    with cl.Command("sleep", "1000", strategy=strategy).spawn() as process:
        process.send_signal("HUP")
        assert process.wait(20) == -signal.SIGHUP


def test_a_deadline(strategy):
    with pytest.raises(cl.ProcessTimeout) as info:
        cl.run(["sleep", "1000"], strategy=strategy, timeout=0.1)
    assert info.value.result.strategy == strategy


def test_many_at_once_from_many_threads(strategy):
    wrong = []

    def work(number):
        for turn in range(5):
            word = f"{number}.{turn}"
            if cl.run(["echo", word], strategy=strategy, capture=True, timeout=60).text != f"{word}\n":
                wrong.append(word)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- failing ----


@pytest.mark.parametrize(
    ("options", "stage", "number"),
    [
        ({"program": "/no/such/program"}, "exec", errno.ENOENT),
        ({"program": "corelane-no-such-program"}, "exec", errno.ENOENT),
        ({"program": "/"}, "exec", errno.EACCES),
        ({"program": "/etc/passwd/x"}, "exec", errno.ENOTDIR),
        ({"cwd": "/no/such/place"}, "cwd", errno.ENOENT),
        ({"cwd": "/etc/passwd"}, "cwd", errno.ENOTDIR),
        ({"cwd": "/no/such/place", "program": "/no/such/program"}, "cwd", errno.ENOENT),
        ({"process_group": 2**22 + 1}, "group", errno.EPERM),
    ],
)
def test_what_fails_says_at_which_step(options, stage, number, strategy):
    for start in (cl.run, lambda argv, **options: cl.Command(*argv, **options).spawn()):
        with pytest.raises(cl.SpawnFailed) as info:
            start(["true"], strategy=strategy, **{"timeout": 20} if start is cl.run else {}, **options)
        assert (info.value.stage, info.value.errno) == (stage, number)


def test_an_empty_file_is_no_program(strategy, tmp_path):
    (tmp_path / "empty").touch(mode=0o755)
    with pytest.raises(cl.SpawnFailed) as info:
        cl.run([tmp_path / "empty"], strategy=strategy)
    assert (info.value.stage, info.value.errno) == ("exec", errno.ENOEXEC)


def test_a_later_directory_of_the_path_is_tried(strategy, tmp_path):
    """Past what is missing, is no directory, or may not be executed."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text(f"#!/bin/sh\necho {name}\n")
    (tmp_path / "b" / "tool").chmod(0o755)
    path = f"{tmp_path}/missing:{sys.executable}:{tmp_path}/a:{tmp_path}/b"
    assert cl.read(["tool"], env={"PATH": path}, strategy=strategy) == "b\n"
    with pytest.raises(PermissionError):
        cl.read(["tool"], env={"PATH": f"{tmp_path}/a:{tmp_path}/missing"}, strategy=strategy)


def test_an_empty_entry_of_the_path_is_the_childs_directory(strategy, tmp_path):
    (tmp_path / "tool").write_text("#!/bin/sh\necho here\n")
    (tmp_path / "tool").chmod(0o755)
    for path in (":", "/nowhere:", ":/nowhere", "", "."):
        assert cl.read(["tool"], env={"PATH": path}, cwd=tmp_path, strategy=strategy) == "here\n"


# ---- what is applied in the child ----


def test_its_directory(strategy, tmp_path):
    assert about(cwd=tmp_path, strategy=strategy)["cwd"] == os.path.realpath(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert about(cwd=fd, strategy=strategy)["cwd"] == os.path.realpath(tmp_path)
    finally:
        os.close(fd)


def test_its_environment(strategy):
    show = cl.Command("sh", "-c", 'echo "$A-$B"', strategy=strategy, timeout=20)
    assert show.with_options(env={"A": "1"}).read() == "1-\n"
    assert show.with_options(env_add={"B": "2"}).read().endswith("-2\n")


def test_its_umask(strategy):
    assert about(umask=0o137, strategy=strategy)["umask"] == 0o137


def test_its_session_and_group(strategy):
    me = about(new_session=True, strategy=strategy)
    assert me["pid"] == me["pgid"] == me["sid"]
    me = about(process_group=0, strategy=strategy)
    assert (me["pgid"], me["sid"]) == (me["pid"], os.getsid(0))
    me = about(contain="none", strategy=strategy)
    assert (me["pgid"], me["sid"]) == (os.getpgrp(), os.getsid(0))


def test_its_terminal(strategy):
    master, slave = os.openpty()
    try:
        session = {"new_session": True, "controlling_terminal": slave}
        cl.Command.shell("echo mine >/dev/tty", strategy=strategy, timeout=20, **session).run()
        assert os.read(master, 100) == b"mine\r\n"
    finally:
        os.close(master)
        os.close(slave)


def test_its_limits(strategy):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert about(rlimits={"nofile": 64}, strategy=strategy)["nofile"] == [64, 64]
    assert about(rlimits={"nofile": (63, hard)}, strategy=strategy)["nofile"] == [63, hard]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    text = "ulimit -c; ulimit -t"
    limited = cl.Command.shell(text, rlimits={"core": 0, "cpu": (7, 9)}, strategy=strategy, timeout=20)
    assert limited.read() == "0\n7\n"


def test_its_niceness(strategy):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert about(nice=before + 3, strategy=strategy)["nice"] == before + 3
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@needs_linux
def test_its_scheduling(strategy):
    assert inspected(lambda child: os.sched_getscheduler(child.pid), sched="batch", strategy=strategy) == os.SCHED_BATCH
    assert inspected(lambda child: os.sched_getscheduler(child.pid), sched="idle", strategy=strategy) == os.SCHED_IDLE


@needs_linux
@needs_root
def test_its_real_time_priority(strategy):
    def look(child):
        return os.sched_getscheduler(child.pid), os.sched_getparam(child.pid).sched_priority

    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pytest.skip("this machine gives root no real-time scheduling")
    assert inspected(look, sched=("fifo", 3), strategy=strategy) == (os.SCHED_FIFO, 3)


@needs_linux
def test_its_cpus(strategy):
    ours = os.sched_getaffinity(0)
    last = max(ours)
    assert inspected(lambda child: os.sched_getaffinity(child.pid), cpus={last}, strategy=strategy) == {last}
    assert os.sched_getaffinity(0) == ours
    with pytest.raises(cl.SpawnFailed) as info:
        cl.run(["true"], cpus={60000}, strategy=strategy)
    assert (info.value.stage, info.value.errno) == ("affinity", errno.EINVAL)


@needs_linux
def test_its_io_priority(strategy):
    kind, level = inspected(lambda child: child.ionice(), io_priority=("best-effort", 6), strategy=strategy)
    assert (kind, level) == (psutil.IOPRIO_CLASS_BE, 6)
    assert inspected(lambda child: child.ionice(), io_priority="idle", strategy=strategy)[0] == psutil.IOPRIO_CLASS_IDLE


@needs_linux
def test_its_oom_score(strategy):
    ours = _score("self")
    assert inspected(lambda child: _score(child.pid), oom_score_adj=777, strategy=strategy) == 777
    assert _score("self") == ours


def _score(pid):
    with open(f"/proc/{pid}/oom_score_adj") as file:
        return int(file.read())


@needs_linux
def test_it_can_get_no_privileges_any_more(strategy):
    def look(**options):
        return cl.read(["grep", "NoNewPrivs", "/proc/self/status"], strategy=strategy, timeout=20, **options)

    assert look() == "NoNewPrivs:\t0\n"
    assert look(no_new_privs=True) == "NoNewPrivs:\t1\n"


@needs_linux
def test_its_signals(strategy):
    """Ours: Python's SIGINT handler, SIGPIPE ignored, and what this test adds."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda *_: None)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        plain = signal_bits(strategy=strategy)
        given = signal_bits(
            strategy=strategy, signal_mask=["TERM", 34], signal_ignores=["INT"], signal_defaults=["HUP"]
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGUSR1, before[1])
    libcs = {32, 33}  # its own, which glibc's posix_spawn leaves ignored
    assert (plain["SigBlk"], plain["SigIgn"] - libcs) == (set(), {signal.SIGHUP})
    assert (given["SigBlk"], given["SigIgn"] - libcs) == ({signal.SIGTERM, 34}, {signal.SIGINT})


def test_its_signals_by_what_they_do(strategy):
    raised = cl.Command.shell('kill -"$1" $$; echo survived', "USR1", stdout=cl.PIPE, strategy=strategy, check=False)
    assert raised.run().signal == signal.SIGUSR1
    assert raised.with_options(signal_ignores=["USR1"]).run().stdout == b"survived\n"
    assert raised.with_options(signal_mask=["USR1"]).run().stdout == b"survived\n"


@needs_root
def test_its_user(strategy):
    if strategy in ("clone3", "vfork"):
        with pytest.raises(ValueError, match="fork"):
            cl.Command("true", user=1, strategy=strategy)
        return
    nobody = pwd.getpwnam("nobody")
    # Where this interpreter is may be closed to others.
    show = cl.Command("id", cwd="/", strategy=strategy, timeout=20)

    def ids(**options):
        shown = [show.with_options(**options).with_args(*flag).read().split() for flag in (["-u"], ["-g"], ["-G"])]
        return [int(shown[0][0]), int(shown[1][0]), set(map(int, shown[2]))]

    assert ids(user="nobody") == [nobody.pw_uid, nobody.pw_gid, set(os.getgrouplist("nobody", nobody.pw_gid))]
    assert ids(user=nobody.pw_uid, group=1, extra_groups=[2, 3]) == [nobody.pw_uid, 1, {1, 2, 3}]
    assert ids(group=grp.getgrgid(1).gr_name)[:2] == [0, 1]
    assert os.getresuid() == (0, 0, 0)
    with pytest.raises(ValueError, match="no user 'corelane-nobody'"):
        ids(user="corelane-nobody")


def test_all_together(strategy, tmp_path):
    """One child with as many options as go together."""
    options = {
        "cwd": tmp_path,
        "env_add": {"CORELANE_ALL": "x"},
        "umask": 0o77,
        "new_session": True,
        "rlimits": {"nofile": 50, "core": 0},
        "nice": os.getpriority(os.PRIO_PROCESS, 0) + 1,
        "signal_mask": ["USR1"],
        "signal_ignores": ["USR2"],
        "fds": {9: 0},
        "stderr": cl.STDOUT,
        "pipe_size": 65536 if PLATFORM == "linux" else None,
    }
    if sys.platform == "linux":
        last = max(os.sched_getaffinity(0))
        options |= {"cpus": {last}, "sched": "batch", "io_priority": "idle", "oom_score_adj": 500, "no_new_privs": True}
    me = about(strategy=strategy, **options)
    assert (me["cwd"], me["umask"], me["nice"]) == (os.path.realpath(tmp_path), 0o77, options["nice"])
    assert me["pid"] == me["sid"]
    assert me["nofile"] == [50, 50]
    assert me["blocked"] == [signal.SIGUSR1]
    assert me["fds"] == [0, 1, 2, 9]
    assert me["files"]["1"] == me["files"]["2"]


# ---- what it leaves behind ----


def test_nothing_is_left_of_us_that_it_changed(strategy, tmp_path):
    """CLONE_VM shares the memory, and nothing else."""

    def state():
        mask = os.umask(0)
        os.umask(mask)
        return (
            *(os.getcwd(), mask, os.getpriority(os.PRIO_PROCESS, 0), os.getpgrp(), os.getsid(0)),
            *(signal.pthread_sigmask(signal.SIG_BLOCK, []), resource.getrlimit(resource.RLIMIT_NOFILE)),
            *(signal.getsignal(s) for s in (signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1)),
        )

    before = state()
    given = {"cwd": tmp_path, "umask": 0o77, "nice": 19, "new_session": True, "rlimits": {"nofile": 30}}
    cl.run(["true"], strategy=strategy, signal_mask=["USR1"], signal_defaults=["INT"], **given)
    with pytest.raises(cl.SpawnFailed):
        cl.run(["/no/such/program"], strategy=strategy, signal_mask=["USR1"], signal_defaults=["INT"], **given)
    assert state() == before


def test_many_failures_leave_nothing(strategy):
    """The check is `_nothing_left`."""
    for _ in range(25):
        for wrong in ({"program": "/no/such/program"}, {"cwd": "/no/such/place"}):
            with pytest.raises(cl.SpawnFailed):
                cl.run(["true"], strategy=strategy, stdin=b"x", capture=True, **wrong)


def test_a_child_that_ends_at_once_is_no_riddle(strategy):
    for _ in range(20):
        assert cl.run(["true"], strategy=strategy).returncode == 0
        with cl.Command("true", strategy=strategy).spawn() as process:
            wait_until(lambda process=process: process.poll() is not None, "the end")
            assert process.returncode == 0


def test_it_returns_when_the_program_runs(strategy):
    """Not before exec: what the spawn reports is the program, not a half-made child."""
    for _ in range(10):
        with cl.Command("sleep", "1000", strategy=strategy).spawn() as process:
            assert psutil.Process(process.pid).name() == "sleep"
            process.kill()


def test_spawning_does_not_wait_for_the_end(strategy):
    started = time.monotonic()
    with cl.Command("sleep", "1000", strategy=strategy).spawn() as process:
        assert time.monotonic() - started < 10
        process.kill()
