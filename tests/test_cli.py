"""`corelane run` from outside: what it answers, what it sets, what it reports.

Each test starts the installed program with subprocess, never with corelane: what is tested is not its own judge. What
becomes of signals and terminals is in test_cli_relay.py.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import CORELANE

from corelane._ffi import PLATFORM

PATIENCE = 30  # seconds after which a test gives up
PYTHON = [sys.executable, "-ISc"]  # without site: a program that is quick to start

linux_only = pytest.mark.skipif(PLATFORM == "darwin", reason="macOS has no such setting")
clones = pytest.mark.skipif(PLATFORM != "linux", reason="documented: only the Linux build clones")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


def corelane(*argv, **options):
    """Run `corelane run ARGV` to its end, with its output captured as text."""
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": PATIENCE} | options
    return subprocess.run([CORELANE, "run", *map(str, argv)], check=False, **options)


def python_says(*options, code):
    """What a Python program prints under these options."""
    done = corelane(*options, "--", *PYTHON, code)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# ---- the exit status -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_status_is_the_programs(status):
    assert corelane("--", "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV"])
def test_a_signal_is_128_and_its_number(name):
    done = corelane("--limit", "core=0", "--", "sh", "-c", f"kill -{name} $$")
    assert done.returncode == 128 + signal.Signals[f"SIG{name}"]


def test_a_program_that_is_not_there_is_127():
    done = corelane("--", "no-such-program")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr.startswith("corelane: cannot start no-such-program: ")
    assert len(done.stderr.splitlines()) == 1


def test_what_cannot_be_executed_is_126(tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    assert corelane(text).returncode == 126
    text.chmod(0o755)
    assert corelane(text).returncode == 126  # no shell is asked to make sense of it
    assert corelane(tmp_path).returncode == 126


def test_what_fails_before_the_program_is_125(tmp_path):
    done = corelane("--cwd", tmp_path / "none", "--", "true")
    assert done.returncode == 125
    assert "[cwd]" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--no-such-option"],
        ["--nice", "20"],
        ["--nice", "high"],
        ["--cpus", "3-1"],
        ["--sched", "fastest"],
        ["--sched", "fifo:x"],
        ["--sched", "deadline:1ms"],
        ["--sched", "deadline:2ms:1ms"],
        ["--uclamp", "5"],
        ["--uclamp", "9:8"],
        ["--mem", "bind"],
        ["--mem", "bind:x"],
        ["--autogroup", "5"],
        ["--reset-on-fork"],
        ["--io-priority", "best-effort:9"],
        ["--oom-score-adj", "2000"],
        ["--timeout", "soon"],
        ["--timeout", "-1"],
        ["--timeout", "nan"],
        ["--timeout", "0"],
        ["--timeout", ""],
        ["--grace", "-1"],
        ["--limit", "nofile"],
        ["--limit", "nofile=x"],
        ["--limit", "nofile=9:8"],
        ["--limit", "no-such-limit=1"],
        ["--contain", "well"],
        ["--env", "NAME"],
        ["--env", "=VALUE"],
        ["--unset", "A=B"],
        ["--umask", "9"],
        ["--umask", "1000"],
        ["--ignore-signal", "NONE"],
        ["--ignore-signal", "KILL"],
        ["--strategy", "best"],
        ["--foreground", "--new-session"],
        ["--user", "root", "--strategy", "clone3"],
        ["--user", "no-such-user"],
        ["--json-file", "/no/such/directory/report"],
        ["--stdin", "/no/such/file"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_125_and_starts_nothing(options, tmp_path):
    done = corelane(*options, "--", "touch", "started", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_no_program_at_all_is_125():
    assert corelane().returncode == 125


def test_everything_after_the_program_is_its_own():
    assert python_says(code="import sys; print(sys.argv)") == "['-c']"
    done = corelane("echo", "--", "--nice", "x")
    assert done.stdout == "-- --nice x\n"
    done = corelane("--", "echo", "--help", "", "*", os.fsdecode(b"\xff"), encoding="utf-8", errors="surrogateescape")
    assert done.stdout == os.fsdecode(b"--help  * \xff\n")


# ---- the options -----------------------------------------------------------------------------------------------------


@linux_only
def test_cpus():
    some = max(os.sched_getaffinity(0))
    assert python_says("--cpus", some, code="import os; print(os.sched_getaffinity(0))") == str({some})


def test_nice():
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    assert python_says("--nice", nice, code="import os; print(os.nice(0))") == str(nice)


@linux_only
def test_scheduling():
    assert python_says("--sched", "batch", code="import os; print(os.sched_getscheduler(0))") == str(os.SCHED_BATCH)
    done = corelane("--sched", "fifo:5", "--json", "--", "true")
    may = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_RTPRIO)[0] >= 5
    assert done.returncode == 0 if may else json.loads(done.stderr.splitlines()[-1])["stage"] == "scheduler"


@linux_only
def test_what_is_not_applied_is_said():
    done = corelane("--best-effort", "--cpus", "0-60000", "--json", "--", "echo", "out")
    assert (done.returncode, done.stdout) == (0, "out\n")
    message, report = done.stderr.splitlines()
    assert message.startswith("corelane: cpus='0-60000' of echo out: ")
    assert json.loads(report)["not_applied"] == [message.removeprefix("corelane: ")]


@pytest.mark.skipif(not shutil.which("ionice"), reason="there is no ionice here")
@pytest.mark.parametrize(
    ("given", "seen"),
    [("idle", "idle"), ("best-effort:6", "best-effort: prio 6"), ("best-effort", "best-effort: prio 4")],
)
def test_io_priority(given, seen):
    assert corelane("--io-priority", given, "ionice").stdout.strip() == seen


@linux_only
def test_oom_score():
    assert corelane("--oom-score-adj", "700", "cat", "/proc/self/oom_score_adj").stdout == "700\n"


def test_limits():
    read = "from resource import *; print(*map(getrlimit, (RLIMIT_NOFILE, RLIMIT_CORE, RLIMIT_CPU)))"
    says = python_says("--limit", "nofile=64:128", "--limit", "core=0", "--limit", "cpu=1K", code=read)
    assert says == "(64, 128) (0, 0) (1024, 1024)"


def test_two_names_of_one_file_are_one_file(tmp_path):
    """Opened twice, stdout and stderr would overwrite each other."""
    (tmp_path / "a").write_text("")
    os.link(tmp_path / "a", tmp_path / "b")
    corelane("--stdout", tmp_path / "a", "--stderr", tmp_path / "b", "sh", "-c", "echo out; echo err >&2")
    assert (tmp_path / "a").read_text() == "out\nerr\n"


def test_environment():
    show = "import os; print(*(os.environ.get(name) for name in ('ONE', 'TWO', 'HOME')))"
    here = {**os.environ, "ONE": "1", "HOME": "home"}
    run = {"env": here}
    done = corelane("--env", "TWO=a=b", "--unset", "ONE", "--", *PYTHON, show, **run)
    assert done.stdout == "None a=b home\n"
    assert corelane("--clear-env", "--env", "TWO=2", "/usr/bin/env", **run).stdout == "TWO=2\n"


def test_the_program_is_found_in_the_childs_path(tmp_path):
    tool = tmp_path / "some-tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    assert corelane("--env", f"PATH={tmp_path}", "some-tool").stdout == "found\n"


def test_working_directory_and_umask(tmp_path):
    (tmp_path / "here").write_text("#!/bin/sh\npwd\numask\n")
    (tmp_path / "here").chmod(0o755)
    assert corelane("--cwd", tmp_path, "--umask", "027", "./here").stdout == f"{tmp_path.resolve()}\n0027\n"
    # 0 is a value, and not "nothing was said".
    assert corelane("--umask", "0", "sh", "-c", "umask").stdout == "0000\n"


@root_only
def test_user_and_groups():
    def ids(*options):
        return corelane(*options, "sh", "-c", "id -u; id -g; id -G").stdout.split("\n")[:3]

    assert ids("--user", 65534, "--group", 65533) == ["65534", "65533", "65533"]
    assert ids("--user", 65534, "--group", 65533, "--extra-group", 17) == ["65534", "65533", "65533 17"]
    assert ids("--user", 0)[0] == "0"


@linux_only
def test_no_new_privileges():
    assert corelane("--no-new-privs", "grep", "NoNewPrivs", "/proc/self/status").stdout.split() == ["NoNewPrivs:", "1"]


def test_new_session():
    assert python_says("--new-session", code="import os; print(os.getsid(0) == os.getpid())") == "True"


def test_files_as_streams(tmp_path):
    (tmp_path / "in").write_text("text\n")
    run = {"cwd": tmp_path}
    both = "cat; echo error >&2"
    done = corelane("--stdin", "in", "--stdout", "out", "--stderr", "err", "sh", "-c", both, **run)
    assert (done.stdout, done.stderr) == ("", "")
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("text\n", "error\n")
    corelane("--append", "--stdin", "in", "--stdout", "out", "sh", "-c", both, **run)
    assert (tmp_path / "out").read_text() == "text\ntext\n"
    corelane("--stdin", "in", "--stdout", "out", "--stderr", "./out", "sh", "-c", both, **run)
    assert (tmp_path / "out").read_text() == "text\nerror\n"


def test_descriptors_that_we_were_given_are_passed_on():
    ours, theirs = os.pipe()
    try:
        write = [*PYTHON, f"import os; os.write({theirs}, b'here')"]
        assert corelane(*write, pass_fds=[theirs]).returncode == 0
        assert os.read(ours, 100) == b"here"
        assert "Bad file descriptor" in corelane("--close-fds", *write, pass_fds=[theirs]).stderr
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc here")
def test_nothing_of_ours_is_passed_on(tmp_path):
    done = corelane("--json-file", tmp_path / "report", "--", "ls", "/proc/self/fd")
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls's own


@linux_only
def test_signals_at_the_start():
    show = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]

    def sets(command):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
        return [int(line.split()[1], 16) for line in done.stdout.splitlines()]

    def bits(*numbers):
        return sum(1 << number - 1 for number in numbers)

    run = [CORELANE, "run"]
    blocked, ignored = sets([*run, *show])
    assert blocked == 0, "what corelane blocks for itself is not the program's"
    changed = [*run, "--ignore-signal", "HUP", "--ignore-signal", "SIGUSR2", "--block-signal", "USR1", *show]
    assert sets(changed) == [bits(signal.SIGUSR1), ignored | bits(signal.SIGHUP, signal.SIGUSR2)]
    ignoring = ["sh", "-c", 'trap "" USR1; exec "$@"', "sh", *run]
    assert sets([*ignoring, *show])[1] == ignored | bits(signal.SIGUSR1)
    assert sets([*ignoring, "--default-signal", "USR1", *show])[1] == ignored


@pytest.mark.parametrize(
    "strategy",
    ["posix_spawn", *(pytest.param(name, marks=clones) for name in ("clone3", "vfork", "fork"))],
)
def test_strategy(strategy):
    done = corelane("--json", "--strategy", strategy, "true")
    assert json.loads(done.stderr)["strategy"] == strategy


def test_a_cgroup_that_is_none_is_an_error(tmp_path):
    done = corelane("--cgroup", tmp_path, "true")
    assert done.returncode == 125
    assert str(tmp_path) in done.stderr


# ---- the report ------------------------------------------------------------------------------------------------------


def test_the_report():
    done = corelane("--json", "sh", "-c", "echo out; exit 3")
    assert done.stdout == "out\n"
    report = json.loads(done.stderr)  # one line, and nothing else
    assert report.pop("pid") > 0
    assert 0 < report.pop("elapsed") < PATIENCE
    assert report.pop("strategy") in ("clone3", "vfork", "posix_spawn")
    usage = report.pop("usage")
    assert usage.pop("max_rss") > 100_000  # bytes
    counts = ["minor_faults", "major_faults", "block_reads", "block_writes"]
    assert list(usage) == ["user", "system", *counts, "voluntary_switches", "involuntary_switches"]
    assert report == {
        "args": ["sh", "-c", "echo out; exit 3"],
        "returncode": 3,
        "signal": None,
        "core_dumped": False,
        "not_applied": [],
        "timed_out": False,
        "contained": "group",
        "status": 3,
    }


def test_the_report_of_a_signal_and_of_a_timeout():
    report = json.loads(corelane("--json", "sh", "-c", "kill -USR1 $$").stderr)
    assert (report["returncode"], report["signal"], report["status"]) == (-10, "SIGUSR1", 138)
    report = json.loads(corelane("--json", "--timeout", "50ms", "sleep", "1000").stderr)
    assert (report["returncode"], report["signal"], report["timed_out"], report["status"]) == (-9, "SIGKILL", True, 124)
    assert 0.05 <= report["elapsed"] < PATIENCE


def test_the_report_of_what_could_not_be_started(tmp_path):
    path = tmp_path / "report"
    done = corelane("--json-file", path, "no-such-program")
    report = json.loads(path.read_text())
    assert report.pop("error") == done.stderr.removeprefix("corelane: ").strip()
    assert report == {"args": ["no-such-program"], "stage": "exec", "errno": 2, "status": 127}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_report_that_cannot_be_written_is_not_overlooked():
    done = corelane("--json-file", "/dev/full", "sh", "-c", "exit 3")
    assert done.returncode == 125
    assert "status was 3" in done.stderr


def test_with_stderr_closed_nothing_goes_elsewhere(tmp_path):
    for program, status in (("no-such-program", 127), ("false", 1)):
        shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", CORELANE, "run", "--json-file", "report", program]
        done = subprocess.run(shell, stdout=subprocess.PIPE, check=False, timeout=PATIENCE, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (status, b"")
        assert json.loads((tmp_path / "report").read_text())["status"] == status


# ---- what is loaded --------------------------------------------------------------------------------------------------


def in_python(before, *argv):
    """`corelane ARGV` in an interpreter that was prepared by some code first."""
    code = f"import sys; sys.argv[0] = 'corelane'\n{before}\nfrom corelane.cli.main import main\nsys.exit(main())"
    return [sys.executable, "-c", code, *argv]


def test_without_click_it_says_what_to_install():
    driver = in_python("sys.modules['click'] = None", "run", "true")
    done = subprocess.run(driver, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == "corelane: the command line needs click: pip install 'corelane[cli]'\n"


def test_run_loads_what_it_needs_and_no_more():
    code = "import atexit; atexit.register(lambda: print(*sys.modules))"
    driver = in_python(code, "run", "true")
    loaded = subprocess.run(driver, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.split()
    assert "corelane.cli.run" in loaded
    heavy = {"rich", "numpy", "psutil", "asyncio", "subprocess", "json", "corelane.cli.bench"}
    assert heavy.intersection(loaded) == set()


@linux_only
@pytest.mark.parametrize("command", ["topology", "plan 2", "doctor --no-measure", f"pin -p {os.getpid()}"])
@pytest.mark.parametrize(
    ("where", "status", "says"), [("&-", 125, "Bad file"), ("/dev/full", 125, "No space"), ("", 0, "")]
)
def test_an_answer_that_cannot_be_written_is_a_failure(command, where, status, says):
    """And one line, not a traceback; nor a success, of which nobody saw anything."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" {command} {where and ">" + where}', CORELANE],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if says else 0)
    assert says in done.stderr


@linux_only
@pytest.mark.parametrize("command", ["topology", "plan 2", "doctor --no-measure", f"pin -p {os.getpid()}"])
def test_a_reader_who_leaves_ends_us_without_a_word(command):
    reader, writer = os.pipe()
    os.close(reader)
    argv = [CORELANE, *command.split()]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=PATIENCE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_the_other_commands_are_there():
    done = subprocess.run([CORELANE, "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert {"bench", "run"} <= set(done.stdout.split())
    done = subprocess.run([CORELANE, "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.startswith("corelane ")
