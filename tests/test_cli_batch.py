"""`corelane batch` from outside: what it runs, what it writes, what it logs, and how it ends in bad weather.

Each test starts the installed program with subprocess. End of file on a pipe that jobs hold proves that they are gone.
"""

import contextlib
import errno
import fcntl
import json
import os
import pty
import random
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import CORELANE, script, wait_until

from corelane._ffi import PLATFORM

PATIENCE = 60  # seconds after which a test gives up

linux_only = pytest.mark.skipif(PLATFORM == "darwin", reason="macOS has no such setting")
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write what is read-only")


def batch(*argv, **options):
    """Run `corelane batch ARGV` to its end, with its output captured as text."""
    streams = {"capture_output": True, "text": True, "errors": "surrogateescape", "timeout": PATIENCE}
    if "input" not in options:
        streams["stdin"] = subprocess.DEVNULL
    return subprocess.run([CORELANE, "batch", *map(str, argv)], check=False, **(streams | options))


@contextlib.contextmanager
def started(*argv, **options):
    """`corelane batch ARGV`, running; killed at the end of the block, and its jobs with it."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([CORELANE, "batch", *map(str, argv)], **(streams | options)) as proc:
        try:
            yield proc
        finally:
            proc.kill()


def end_of(proc, **communicate):
    out, err = proc.communicate(timeout=PATIENCE, **communicate)
    return proc.returncode, out, err


def logged(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def lines(text):
    return sorted(text.splitlines())


# ---- commands --------------------------------------------------------------------------------------------------------


def test_each_line_is_a_command():
    text = "echo one\n\n   \n# echo two\n  echo  three # four\necho 'a  b' \"c d\" e\\ f ''"
    done = batch("-j1", input=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\nthree # four\na  b c d e f \n", "")


def test_a_file_of_commands(tmp_path):
    (tmp_path / "jobs").write_text("echo from a file\n")
    assert batch(tmp_path / "jobs").stdout == "from a file\n"
    assert batch("-", input="echo from stdin").stdout == "from stdin\n"


def test_no_shell_reads_a_line():
    done = batch("-j1", input="echo $HOME * `x`\necho x > y\necho a && echo b\necho 'c > d' '>' \"|\"\n")
    assert done.stdout == "$HOME * `x`\nc > d > |\n"
    assert done.returncode == 2
    assert "line 2: '>' means something to a shell only" in done.stderr
    assert "line 3: '&&' means something to a shell only" in done.stderr


def test_unless_it_is_asked_to():
    done = batch("-j1", "--shell", input="echo a && echo b\n# none\nx=1; echo $x | cat\n- 2>/dev/null || echo c\n")
    assert (done.returncode, done.stdout) == (0, "a\nb\n1\nc\n")


def test_lines_of_json(tmp_path):
    file = {"file": f"{tmp_path}/o"}
    jobs = [
        ["echo", "a list"],
        {"args": ["pwd"], "cwd": str(tmp_path)},
        {"args": ["sh", "-c", "echo $A"], "env_add": {"A": "set"}, "id": 7},
        {"args": ["cat"], "stdin": "fed"},
        {"args": ["sh", "-c", "echo out; echo err >&2"], "stdout": file, "stderr": file},
        {"args": ["sh", "-c", "ulimit -n"], "rlimits": {"nofile": 33}},
        {"args": ["sleep", "1000"], "timeout": 0.05},
    ]
    done = batch("-j1", "--json", "--joblog", tmp_path / "log", input="\n".join(map(json.dumps, jobs)))
    assert done.stdout == f"a list\n{tmp_path}\nset\nfed33\n"
    assert (tmp_path / "o").read_text() == "out\nerr\n"
    assert done.returncode == 1
    assert [line["id"] for line in logged(tmp_path / "log")] == [None, None, "7", None, None, None, None]
    assert [line["timed_out"] for line in logged(tmp_path / "log")] == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting"),
        ("7", "a job is a list of arguments, or an object"),
        ("[]", "args must be a list of strings"),
        ('["sleep", 1]', "args must be a list of strings"),
        ('{"args": ["true"], "tiemout": 1}', "there is no option 'tiemout' for a job"),
        ('{"args": ["true"], "timeout": "1"}', "timeout must be a number of seconds"),
        ('{"args": ["true"], "cwd": 3}', "cwd must be a path"),
        ('{"args": ["true"], "stdout": 1}', 'stdout must be like {"file": "path"}'),
        ('{"args": ["true"], "stdout": {"file": "x", "append": 1}}', "append in stdout must be true or false"),
        ('{"args": ["true"], "stdin": 0}', 'stdin must be like {"file": "path"}, or text'),
        ('{"args": ["true"], "id": [1]}', "an id is a string or a number"),
        ('["a\\u0000b"]', "NUL"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_line_of_json_is_an_error_of_that_line(line, why):
    done = batch("-j1", "--json", input=f'["echo", "before"]\n{line}\n["echo", "after"]\n')
    assert (done.returncode, done.stdout) == (1, "before\nafter\n")
    assert done.stderr.startswith("corelane: line 2: ")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_lines_among_thousands(tmp_path):
    """More of them in a row, too, than wait for their output at any time."""
    text = "true\n" * 100 + "echo 'unclosed\nno-such-program\n" * 300 + "\0\n" * 2 + "true\n" * 900
    done = batch("-j4", "--joblog", tmp_path / "log", input=text)
    assert done.returncode == 101
    assert done.stderr.splitlines()[-1] == "corelane: 1000 done, 602 failed"
    assert sum(line.startswith("corelane: line ") for line in done.stderr.splitlines()) == 302
    assert len(logged(tmp_path / "log")) == 1602


def test_no_jobs_are_no_failure():
    assert batch().returncode == 0
    assert batch(input="\n\n# nothing").returncode == 0


def test_an_input_that_cannot_be_read(tmp_path):
    done = batch(tmp_path)
    assert done.returncode == 125
    assert "the input cannot be read" in done.stderr
    assert batch(tmp_path / "none").returncode == 125


def test_a_line_without_an_end():
    with open("/dev/zero") as zeros:
        done = batch(stdin=zeros)
    assert done.returncode == 125
    assert "longer than 16 MiB" in done.stderr


# ---- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        (["echo", ":::", "a", "b c"], ["a", "b c"]),
        (["echo", "<{}>", "{}", ":::", "a", "$x; b"], ["<a> a", "<$x; b> $x; b"]),
        (["echo {.} {/} {//} {/.}", ":::", "d/e.f.g", "h"], ["d/e.f e.f.g d e.f", "h h . h"]),
        (["echo", "{1}-{2}", ":::", "a", "b", ":::", "1", "2"], ["a-1", "a-2", "b-1", "b-2"]),
        (["echo", "{2/} {1.}", ":::", "a.b", ":::", "c/d"], ["d a"]),
        (["echo", ":::", "a", "b", ":::", "1"], ["a 1", "b 1"]),
        (["echo {#} {}", ":::", "a", "b"], ["1 a", "2 b"]),
        (["--", "echo", "-n{}", ":::", "x"], ["-nx"]),
        (["{}", "x", ":::", "echo"], ["x"]),
        (["echo", "{x} {} }{", ":::", "a"], ["{x} a }{"]),
        (["echo '{} {}' b", ":::", "a"], ["a a b"]),
        (["--shell", 'echo "$2$1" "$0"', ":::", "a; b", ":::", "$x"], ["$xa; b sh"]),
    ],
    ids=str,
)
def test_values_are_put_into_a_command(argv, printed):
    done = batch("-j1", *argv)
    assert (done.returncode, done.stdout.splitlines()) == (0, printed)


def test_each_line_of_stdin_is_a_value():
    names = [os.fsdecode(b"\xff\xfe"), "a 'b' \\ \"", "", "*", "# no comment"]
    done = batch("-j1", "--", "printf", "<%s>", "{}", input="\n".join(names) + "\n")
    assert done.stdout == "".join(f"<{name}>" for name in names)


def test_values_that_end_with_nul():
    done = batch("-0", "-j1", "--", "printf", "<%s>", input="a\nb\0\0c")
    assert done.stdout == "<a\nb><><c>"


def test_a_dry_run_only_shows(tmp_path):
    done = batch("--dry-run", "touch", f"{tmp_path}/{{}}", ":::", "a b", "c")
    assert done.stdout == f"touch '{tmp_path}/a b'\ntouch {tmp_path}/c\n"
    assert os.listdir(tmp_path) == []
    assert batch("--dry-run", input="true\n'\n").returncode == 1


def test_a_dry_run_knows_what_is_done(tmp_path):
    batch("--joblog", tmp_path / "log", "true", ":::", "a", "b")
    before = (tmp_path / "log").read_bytes()
    done = batch("--dry-run", "--resume", "--joblog", tmp_path / "log", "true", ":::", "a", "c", "b")
    assert done.stdout == "true c\n"
    assert (tmp_path / "log").read_bytes() == before


@pytest.mark.parametrize(
    "argv",
    [
        ["-j0"],
        ["-j", "x"],
        ["--no-such-option"],
        ["--resume"],
        ["gzip", "-9"],
        ["file", "--", "gzip"],
        ["--"],
        [":::", "a"],
        ["--json", "--", "x"],
        ["--json", "--shell"],
        ["--shell", "--", "echo", "{}"],
        ["--shell", "--", "echo {}"],
        ["echo {2}", ":::", "a"],
        ["echo {0}", ":::", "a"],
        ["echo {}", ":::", "a", ":::", "b"],
        ["echo '", ":::", "a"],
        ["--halt", "maybe"],
        ["--halt", "soon,0"],
        ["--halt", "never,1"],
        ["--halt", "now,x%"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--grace", "-1"],
        ["--retries", "-1"],
        ["--retries", "1", "--backoff", "-1"],
        ["--cpus", "3-1"],
        ["--pin", "--cpus", "0", "-j2"],
        ["--joblog", "/no/such/directory/log"],
        ["--joblog", "/"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_125_and_starts_nothing(argv, tmp_path):
    done = batch(*argv, input="touch started\n", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


# ---- how they run ----------------------------------------------------------------------------------------------------


def test_so_many_run_at_once(tmp_path):
    """Each waits for the others to be there, as many as may run; one more would be seen."""
    code = 'echo x >>"$1"; until test "$(wc -l <"$1")" -ge 3; do sleep 0.01; done; wc -l <"$1"; sleep 0.1; '
    done = batch("-j3", "--timeout", "20", "--", "sh", "-c", code, "sh", "{}", input="f\nf\nf\n", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.split() == ["3", "3", "3"]


def test_stdin_is_not_the_jobs():
    assert batch("-j1", input="cat\necho still here\n").stdout == "still here\n"


@linux_only
def test_cpus_and_pins():
    allowed = sorted(os.sched_getaffinity(0))
    show = "grep Cpus_allowed_list /proc/self/status"
    done = batch("-j1", "--cpus", str(allowed[-1]), input=show)
    assert done.stdout.split()[-1] == str(allowed[-1])
    done = batch("--pin", f"-j{len(allowed)}", input=f"{show}\n" * 8)
    assert {line.split()[-1] for line in done.stdout.splitlines()} <= {str(cpu) for cpu in allowed}


def test_as_many_as_there_are_cpus_for_us(tmp_path):
    """Not as the affinity has: a quota or a batch system may leave less."""
    env = {**os.environ, "PYTHON_CPU_COUNT": "1"}
    assert batch("--shell", input="mkdir a && sleep 0.05 && rmdir a\n" * 4, env=env, cwd=tmp_path).returncode == 0


def test_descriptors_for_many_are_ours_alone():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    done = batch("-j60", "--shell", input="ulimit -n; sleep 0.1\n" * 60, preexec_fn=few)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "100\n" * 60


def test_a_timeout_is_of_each(tmp_path):
    done = batch("-j2", "--timeout", "0.1", "--joblog", tmp_path / "log", input="sleep 1000\ntrue\nsleep 1000\n")
    assert done.returncode == 2
    assert [line["timed_out"] for line in sorted(logged(tmp_path / "log"), key=lambda x: x["seq"])] == [
        True,
        False,
        True,
    ]


def test_retries(tmp_path):
    count = 'echo x >>"$1"; echo try; test "$(wc -l <"$1")" = 3'
    options = ["--retries", "4", "--backoff", "1ms", "--joblog", tmp_path / "log"]
    done = batch(*options, "sh", "-c", count, "sh", ":::", tmp_path / "n")
    assert (done.returncode, done.stdout) == (0, "try\n")  # the output of the last one
    assert [(line["tries"], line["status"]) for line in logged(tmp_path / "log")] == [(3, "ok")]
    done = batch("--retries", "2", "--backoff", "1ms", "--shell", input=f"echo x >>{tmp_path}/m; exit 1")
    assert done.returncode == 1
    assert (tmp_path / "m").read_text() == "x\n" * 3


@pytest.mark.parametrize("count", [0, 1, 7, 100, 101, 150])
def test_the_status_is_the_number_of_failures(count):
    done = batch("-j4", input="true\n" * 3 + "false\n" * count)
    assert done.returncode == min(count, 101)
    assert len(done.stderr.splitlines()) == (count + 1 if count else 0)


@pytest.mark.parametrize(("limit", "ran"), [("soon", 2), ("soon,3", 6), ("soon,50%", 6), ("never", 20)])
def test_halt_soon(limit, ran, tmp_path):
    done = batch("-j1", "--halt", limit, "--joblog", tmp_path / "log", input="true\nfalse\n" * 10)
    assert len(logged(tmp_path / "log")) == ran
    assert done.returncode == ran // 2
    if limit != "never":
        assert f"corelane: halted: {ran // 2} done, {ran // 2} failed, {20 - ran} not started" in done.stderr


def test_halt_now_kills(tmp_path):
    done = batch("-j3", "--halt", "now", "--joblog", tmp_path / "log", input="sleep 1000\nsleep 1000\nfalse\ntrue\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "corelane: halted: 0 done, 1 failed, 2 killed, 1 not started"
    assert [line["status"] for line in logged(tmp_path / "log")].count("killed") == 2


def test_halt_soon_lets_others_end(tmp_path):
    os.mkfifo(tmp_path / "go")
    with started("-j2", "--halt", "soon", "--shell") as proc:
        proc.stdin.write(f"cat <{tmp_path}/go\nexit 1\ntrue\n")
        proc.stdin.close()
        proc.stdin = None
        assert "exited with status 1" in proc.stderr.readline()
        (tmp_path / "go").write_text("went on\n")
        assert end_of(proc)[:2] == (1, "went on\n")


def test_a_slow_producer_holds_up_nothing():
    with started("-j4") as proc:
        for n in range(3):
            proc.stdin.write(f"echo {n}\n")
            proc.stdin.flush()
            assert proc.stdout.readline() == f"{n}\n"  # while we are still to write the next one
        proc.stdin.write("sleep 1000")
        proc.stdin.flush()
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(PATIENCE) == 143
        assert proc.stderr.read() == "corelane: stopped by SIGTERM: 3 done, 0 failed, at least 0 not started\n"


def test_an_endless_producer():
    with subprocess.Popen(["yes", "echo x"], stdout=subprocess.PIPE) as yes:
        with started("-j2", stdin=yes.stdout) as proc:
            yes.stdout.close()
            for _ in range(60):
                assert proc.stdout.readline() == "x\n"
            proc.send_signal(signal.SIGINT)
            assert end_of(proc)[0] == -signal.SIGINT
        yes.kill()


# ---- output ----------------------------------------------------------------------------------------------------------


def test_output_comes_in_blocks():
    done = batch("-j4", "--shell", "--", 'for i in 1 2 3; do echo "$1"; sleep 0.01; done', input="a\nb\nc\nd\n")
    found = done.stdout.split()
    assert sorted(found) == sorted("abcd" * 3)
    assert all(len(set(found[at : at + 3])) == 1 for at in range(0, 12, 3))


def test_keep_order(tmp_path):
    """The first ends last: it waits for the third."""
    wait = f"until test -e {tmp_path}/go; do sleep 0.01; done"
    text = f"{wait}; echo 1; echo e1 >&2\necho 2\ntouch {tmp_path}/go; echo 3; echo e3 >&2\n"
    done = batch("-j3", "-k", "--shell", "--joblog", tmp_path / "log", input=text)
    assert (done.stdout, done.stderr) == ("1\n2\n3\n", "e1\ne3\n")
    assert [line["seq"] for line in logged(tmp_path / "log")] == [1, 2, 3]


def test_a_slow_first_job_does_not_idle_the_others(tmp_path):
    text = (
        f"until test -e {tmp_path}/go; do sleep 0.01; done; echo first\n" + "echo x\n" * 99 + f"touch {tmp_path}/go\n"
    )
    done = batch("-j2", "-k", "--shell", input=text)
    assert done.stdout == "first\n" + "x\n" * 99


def test_as_they_end(tmp_path):
    text = f"until test -e {tmp_path}/go; do sleep 0.01; done; echo 1\necho 2; touch {tmp_path}/go\n"
    assert batch("-j2", "--shell", input=text).stdout == "2\n1\n"


def test_ungrouped_output_is_the_jobs_own(tmp_path):
    with started("-u", "--shell") as proc:
        proc.stdin.write("echo at once; exec sleep 1000\n")
        proc.stdin.flush()
        assert proc.stdout.readline() == "at once\n"


def test_much_output_takes_little_memory():
    """A hundred megabytes, in a process that may not have as many."""

    def little():
        resource.setrlimit(resource.RLIMIT_DATA, (90 << 20, 90 << 20))

    argv = [CORELANE, "batch", "-k", "-j2", "--shell", "head -c 50M /dev/zero", ":::", "1", "2"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=little) as proc:
        size = 0
        while chunk := proc.stdout.read(1 << 20):
            size += len(chunk)
    assert (proc.returncode, size) == (0, 100 << 20)


@linux_only
def test_a_job_that_opens_its_output_again():
    """It begins the file anew, as in any file; what comes then leaves no hole."""
    assert batch("--shell", input="echo a; echo b >>/dev/stdout; echo c").stdout == "a\nb\nc\n"
    assert batch("--shell", input="echo aaaa; echo b >/dev/stdout; echo c").stdout == "b\nc\n"


def test_what_a_job_leaves_behind_writes_into_no_other_jobs_output(tmp_path):
    go, went = tmp_path / "go", tmp_path / "went"
    stray = f"setsid sh -c 'touch {go}1; until test -e {go}; do sleep 0.01; done; echo stray; touch {went}' &"
    stray += f" until test -e {go}1; do sleep 0.01; done"
    wait = f"touch {go}; until test -e {went}; do sleep 0.01; done; echo mine"
    assert batch("-j1", "--shell", "--timeout", "20", input=f"{stray}\n{wait}\n").stdout == "mine\n"


def test_a_reader_that_leaves_ends_it(tmp_path):
    with started("-j2", "--joblog", tmp_path / "log") as proc:
        proc.stdin.write("echo one\n")
        proc.stdin.flush()
        assert proc.stdout.readline() == "one\n"
        proc.stdout.close()
        proc.stdin.write("sleep 1000\necho two\ntrue\n")
        proc.stdin.flush()
        assert proc.wait(PATIENCE) == -signal.SIGPIPE
        assert "1 ended without their output being written" in proc.stderr.read()
    found = [(line["args"][-1], line["status"]) for line in logged(tmp_path / "log")]
    assert found == [("one", "ok"), ("1000", "killed")]  # "two" was not delivered, and so is run again


@pytest.mark.slow
def test_a_reader_that_stops_holds_up_no_deadline_and_no_signal(tmp_path):
    """Jobs go on while their output waits, up to a bound; and TERM ends all of it."""
    with started("-j2", "--grace", "0.1", "--joblog", tmp_path / "log", "--shell") as proc:
        proc.stdin.write(f"head -c 1M /dev/zero\ntouch {tmp_path}/on\n" + "true\n" * 1000)
        proc.stdin.flush()
        wait_until(lambda: (tmp_path / "on").exists(), "the second job")
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(PATIENCE) == 143
        assert "stopped by SIGTERM" in proc.stderr.read()
    assert 1 not in [line["seq"] for line in logged(tmp_path / "log")]  # it was never delivered


def test_nobody_reads_what_it_says():
    """Its messages wait as the jobs' output does; and the last one is not waited for."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(4096)):
            continue
    os.set_blocking(writer, True)
    with started("-j1", "--grace", "0", "--shell", stderr=writer) as proc:
        proc.stdin.write("echo; exit 3\nsleep 1000\n")
        proc.stdin.flush()
        assert proc.stdout.read(1) == "\n"
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(PATIENCE) == 143
    os.close(reader)
    os.close(writer)


def test_more_jobs_than_descriptors():
    """As many as there is room for, and it says so."""

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

    done = batch("-j", "500", "echo", ":::", *range(200), preexec_fn=limit)
    assert done.returncode == 0
    assert sorted(map(int, done.stdout.split())) == list(range(200))
    assert "10 jobs at once, and not 500: no more than 60 descriptors are allowed" in done.stderr


@pytest.mark.slow
def test_a_reader_that_stops_is_not_run_away_from(tmp_path):
    """So many jobs may wait to be written, and no more are started."""
    count = tmp_path / "count"
    count.touch()
    with started("-j2", "-k", "--grace", "0", "--shell") as proc:
        proc.stdin.write("head -c 1M /dev/zero\n" + f"echo >>{count}; echo\n" * 1000)
        proc.stdin.flush()
        wait_until(lambda: count.stat().st_size >= 200, "jobs")
        until = time.monotonic() + 1
        while time.monotonic() < until:  # on a slow machine too few would be started, and nothing be seen
            assert count.stat().st_size <= 258
        proc.send_signal(signal.SIGTERM)
        proc.wait(PATIENCE)


def test_a_slow_reader_gets_it_all():
    with started("-j4", "-k", "--shell", "head -c 100000 /dev/zero | tr '\\0' $1", ":::", *"abcdef") as proc:
        got = ""
        while chunk := proc.stdout.read(30_000):
            got += chunk
        assert proc.wait(PATIENCE) == 0
    assert got == "".join(letter * 100_000 for letter in "abcdef")


def test_stdout_is_a_full_disk(tmp_path):
    with open("/dev/full", "w") as full:
        streams = {"stdout": full, "stderr": subprocess.PIPE, "capture_output": False}
        done = batch("-j1", "--joblog", tmp_path / "log", input="true\necho x\ntrue\n", **streams)
    assert done.returncode == 125
    assert f"output cannot be written: {os.strerror(errno.ENOSPC)}" in done.stderr
    assert "1 done, 0 failed, 1 ended without their output being written, " in done.stderr
    assert len(logged(tmp_path / "log")) == 1


def test_streams_that_are_closed(tmp_path):
    """No file of ours gets their numbers."""
    log = tmp_path / "log"
    argv = f"exec {CORELANE} batch --joblog {log} echo ::: a b <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", argv], check=False, timeout=PATIENCE).returncode == 0
    assert [line["status"] for line in logged(log)] == ["ok", "ok"]


# ---- the log ---------------------------------------------------------------------------------------------------------


def test_what_the_log_says(tmp_path):
    before = time.time()
    text = "sh -c 'exit 3'\nsh -c 'kill -TERM $$'\ntrue\nno-such-program\nsleep 0.1\n"
    batch("-j1", "--joblog", tmp_path / "log", input=text)
    exited, killed, fine, missing, slept = logged(tmp_path / "log")
    assert list(fine) == ["corelane", "key", "seq", "id", "args", "status", "start", "elapsed", "returncode", "signal",
                          "timed_out", "tries", "user", "system", "max_rss", "error"]  # fmt: skip
    assert [line["seq"] for line in (exited, killed, fine, missing, slept)] == [1, 2, 3, 4, 5]
    assert (exited["status"], exited["returncode"], exited["signal"]) == ("failed", 3, None)
    assert (killed["status"], killed["returncode"], killed["signal"]) == ("failed", -15, "SIGTERM")
    assert (fine["status"], fine["returncode"], fine["args"], fine["error"]) == ("ok", 0, ["true"], None)
    assert (missing["status"], missing["returncode"]) == ("failed", None)
    assert "cannot start no-such-program" in missing["error"]
    assert before <= slept["start"] <= time.time()
    assert 0.1 <= slept["elapsed"] < PATIENCE
    assert fine["max_rss"] > 0


def test_a_log_that_is_there_is_not_overwritten(tmp_path):
    log = tmp_path / "log"
    batch("--joblog", log, input="true\n")
    before = log.read_bytes()
    done = batch("--joblog", log, input="true\n")
    assert done.returncode == 125
    assert "--resume goes on with it" in done.stderr
    assert log.read_bytes() == before


def test_resume_leaves_out_what_succeeded(tmp_path):
    log, text = tmp_path / "log", "echo a\necho b\nsh -c 'echo c; exit 1'\necho a\n"
    assert batch("--joblog", log, "--resume", input=text).returncode == 1  # there is none yet
    done = batch("--joblog", log, "--resume", "--timeout", "10", input=text)
    assert (done.returncode, done.stdout) == (1, "c\n")
    assert "0 done, 1 failed, 3 were done before" in done.stderr
    # One more of the same is one more job; another order is none.
    done = batch("--joblog", log, "--resume", input="echo b\necho a\necho a\necho a\n")
    assert done.stdout == "a\n"


def test_a_job_is_its_arguments_and_options(tmp_path):
    log = tmp_path / "log"

    def run(*jobs):
        return batch("-j1", "--json", "--joblog", log, "--resume", input="\n".join(map(json.dumps, jobs))).stdout

    assert (
        run(["echo", "a b"], {"args": ["echo", "x"], "nice": 1}, {"id": "one", "args": ["echo", "y"]}) == "a b\nx\ny\n"
    )
    assert run({"nice": 1, "args": ["echo", "x"]}, ["echo", "a b"], {"args": ["echo", "other"], "id": "one"}) == ""
    assert (
        run(["echo", "a", "b"], {"args": ["echo", "x"], "nice": 2}, {"args": ["echo", "y"], "id": "two"})
        == "a b\nx\ny\n"
    )
    assert batch("--joblog", log, "--resume", "echo", ":::", "a b").stdout == ""  # however it was asked for


_AT_EACH_BYTE = r"""
import json, os, sys
from corelane.cli import batch
from corelane.cli.commands import program

log, jobs, count = sys.argv[1:]
whole = open(log, "rb").read()
ends = [n + 1 for n, byte in enumerate(whole) if byte == 10]
wrong = []
for size in range(len(whole) + 1):
    with open(log, "wb") as file:
        file.write(whole[:size])
    open(count, "w").close()
    if not (pid := os.fork()):
        os._exit(program.main(["batch", "--joblog", log, "--resume", jobs], standalone_mode=False))
    _, status = os.waitpid(pid, 0)
    ran = sorted(open(count).read().split())
    lines = [json.loads(line) for line in open(log)]
    kept = sum(end <= size for end in ends)
    done = sorted(line["args"][-1] for line in lines if line["status"] == "ok")
    if status or len(ran) != len(ends) - kept or done != [str(n) for n in range(len(ends))]:
        wrong.append((size, status, ran, done))
print(json.dumps(wrong))
"""


@pytest.mark.slow
def test_resume_after_a_kill_at_any_byte_of_the_log(tmp_path):
    """What has a whole line is done, what has not is run once more; and the log is whole again."""
    jobs = tmp_path / "jobs"
    jobs.write_text("".join(f"sh -c 'echo $0 >>{tmp_path}/count' {n}\n" for n in range(2)))
    assert batch("-j1", "--joblog", tmp_path / "log", jobs).returncode == 0
    assert script(_AT_EACH_BYTE, tmp_path / "log", jobs, tmp_path / "count", timeout=300) == []


@pytest.mark.slow
@linux_only
def test_resume_after_being_killed_again_and_again(tmp_path):
    """A job that is logged is never run again; so each runs once, and once more for each time that it was killed."""
    log, jobs, count = tmp_path / "log", tmp_path / "jobs", tmp_path / "count"
    count.touch()
    jobs.write_text("".join(f"sh -c 'echo $0 >>{count}; sleep 0.005' {n}\n" for n in range(60)))
    randomness, kills, status = random.Random(4), 0, None
    while status is None:
        done = {line["args"][-1] for line in logged(log)} if kills else set()
        began = len(count.read_text().split())
        enough = began + randomness.randrange(1, 12)
        with subprocess.Popen([CORELANE, "batch", "-j4", "--joblog", log, "--resume", jobs]) as proc:
            wait_until(lambda: len(count.read_text().split()) >= enough or proc.poll() is not None, "jobs")  # noqa: B023
            status = proc.poll()
            proc.kill()
        assert not done.intersection(count.read_text().split()[began:])
        kills += 1
    assert status == 0
    runs = count.read_text().split()
    assert set(runs) == {str(n) for n in range(60)}
    assert len(runs) <= 60 + 4 * kills
    assert sorted(line["args"][-1] for line in logged(log)) == sorted(set(runs))


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"hello", b'{"args": ["true"]}\n', b"\0" * 300, b'{"corelane":2,"key":"x"}\n', b"\n"],
    ids=repr,
)
def test_a_foreign_log_is_left_alone(content, tmp_path):
    (tmp_path / "log").write_bytes(content)
    done = batch("--joblog", tmp_path / "log", "--resume", input="touch started\n", cwd=tmp_path)
    assert done.returncode == 125
    assert "is no log of corelane batch" in done.stderr
    assert (tmp_path / "log").read_bytes() == content
    assert os.listdir(tmp_path) == ["log"]


def test_a_log_with_a_damaged_middle(tmp_path):
    log = tmp_path / "log"
    batch("-j1", "--joblog", log, "echo", ":::", "a", "b", "c")
    first, second, third = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second[:-30] + b"\n" + b"\0" * 20 + b"\n[]\n" + third)
    done = batch("--joblog", log, "--resume", "echo", ":::", "a", "b", "c")
    assert (done.returncode, done.stdout) == (0, "b\n")
    assert "3 lines of the log are damaged" in done.stderr


@not_root
def test_a_log_that_may_not_be_written(tmp_path):
    (tmp_path / "log").touch(0o444)
    assert batch("--joblog", tmp_path / "log", input="true\n").returncode == 125


@pytest.mark.slow
def test_two_batches_on_one_log(tmp_path):
    log = tmp_path / "log"
    with started("--joblog", log, "--resume") as proc:
        proc.stdin.write("echo x\n")
        proc.stdin.flush()
        before = wait_until(lambda: log.exists() and log.read_bytes(), "its line")
        done = batch("--joblog", log, "--resume", input="echo x\n")
        assert (done.returncode, done.stdout) == (125, "")
        assert "is being written by another batch" in done.stderr
        assert log.read_bytes() == before


def test_a_log_that_is_still_locked_for_a_moment(tmp_path):
    """By a job of a batch that was killed, which has not reached its exec."""
    log = tmp_path / "log"
    log.touch()
    with open(log) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with started("--joblog", log, "echo", ":::", "x") as proc:
            time.sleep(0.3)  # it cannot be seen waiting; should it be slower than this, the test is weaker
            held.close()
            assert end_of(proc)[:2] == (0, "x\n")


def test_the_log_is_on_a_full_disk(tmp_path):
    done = batch("-j1", "--joblog", "/dev/full", input="true\n" * 5)
    assert done.returncode == 125
    assert f"the log cannot be written: {os.strerror(errno.ENOSPC)}" in done.stderr
    assert "1 done, 0 failed, 4 not started, 1 could not be logged" in done.stderr


def test_the_disk_is_full_in_the_middle_of_a_line(tmp_path):
    """What fits of the line is taken back, and what runs ends in peace."""
    log = tmp_path / "log"

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = batch("-j1", "--joblog", log, "echo", ":::", *"abcdefgh", preexec_fn=small)
    assert done.returncode == 125
    whole = logged(log)
    assert 1 <= len(whole) < 8
    assert done.stdout.split() == list("abcdefgh"[: len(whole) + 1])  # one more was done than could be logged
    done = batch("-j1", "--joblog", log, "--resume", "echo", ":::", *"abcdefgh")
    assert done.stdout.split() == list("abcdefgh"[len(whole) :])


# ---- signals ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sleepers(*argv, then="exec sleep 1000", **options):
    """A batch of two jobs that run and hold our pipe open, and two that do not run yet."""
    reader, writer = os.pipe()
    with started("-j2", *argv, "--shell", "-u", stdout=writer, **options) as proc, open(reader) as pipe:
        os.close(writer)
        proc.stdin.write(f"echo up; {then}\n" * 4)
        proc.stdin.close()
        proc.stdin = None
        assert [pipe.readline(), pipe.readline()] == ["up\n", "up\n"]
        yield proc, pipe


def test_an_int_kills_all_of_them(tmp_path):
    with sleepers("--joblog", tmp_path / "log") as (proc, pipe):
        began = time.monotonic()
        proc.send_signal(signal.SIGINT)
        assert pipe.read() == ""
        status, _, err = end_of(proc)
    assert status == -signal.SIGINT
    assert time.monotonic() - began < 10
    assert err == "corelane: stopped by SIGINT: 0 done, 0 failed, 2 killed, 2 not started\n"
    assert [line["status"] for line in logged(tmp_path / "log")] == ["killed"] * 2


def test_what_was_killed_is_run_again(tmp_path):
    log, text = tmp_path / "log", f"until test -e {tmp_path}/go; do sleep 0.01; done; echo done\n"
    with started("--shell", "--joblog", log) as proc:
        proc.stdin.write(f"touch {tmp_path}/up\n{text}")
        proc.stdin.close()
        proc.stdin = None
        wait_until(lambda: (tmp_path / "up").exists() and log.read_text(), "the first job")
        proc.send_signal(signal.SIGINT)
        assert end_of(proc)[0] == -signal.SIGINT
    (tmp_path / "go").touch()
    done = batch("--shell", "--joblog", log, "--resume", input=f"touch {tmp_path}/up\n{text}")
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_ctrl_c_at_a_terminal():
    leader, terminal = pty.openpty()
    with subprocess.Popen(
        [CORELANE, "batch", "--no-progress", "sleep", ":::", "1000", "1001"],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, 0x540E if sys.platform == "linux" else 0x20007461, 0),
    ) as proc:  # fmt: skip
        os.close(terminal)
        import psutil

        wait_until(lambda: len(psutil.Process(proc.pid).children()) >= 1, "a job")
        os.write(leader, b"\x03")
        assert proc.wait(PATIENCE) == -signal.SIGINT
        assert b"stopped by SIGINT: 0 done, 0 failed, " in read_terminal(leader)
    os.close(leader)


def read_terminal(leader):
    """All that is there, until the other end is closed."""
    got = b""
    with contextlib.suppress(OSError):  # EIO at its end, on Linux
        while select.select([leader], [], [], PATIENCE)[0] and (chunk := os.read(leader, 4096)):
            got += chunk
    return got


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_term_lets_them_end(number, status, tmp_path):
    wait = f"until test -e {tmp_path}/go; do sleep 0.01; done; echo ended"
    with sleepers("--joblog", tmp_path / "log", "--grace", "1h", then=wait) as (proc, pipe):
        proc.send_signal(number)
        assert "no more is started; 2 have 3600 s to end" in proc.stderr.readline()
        (tmp_path / "go").touch()
        assert pipe.read() == "ended\nended\n"
        assert end_of(proc)[0] == status
    assert [line["status"] for line in logged(tmp_path / "log")] == ["ok"] * 2


def test_until_the_grace_is_over(tmp_path):
    with sleepers("--grace", "0.3", "--joblog", tmp_path / "log") as (proc, pipe):
        began = time.monotonic()
        proc.send_signal(signal.SIGTERM)
        assert pipe.read() == ""
        assert time.monotonic() - began >= 0.3
        status, _, err = end_of(proc)
    said = ["corelane: SIGTERM: no more is started; 2 have 0.3 s to end"]
    said += ["corelane: stopped by SIGTERM: 0 done, 0 failed, 2 killed, 2 not started"]
    assert (status, err.splitlines()) == (143, said)
    assert [line["status"] for line in logged(tmp_path / "log")] == ["killed"] * 2


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_grace(second):
    with sleepers("--grace", "1h") as (proc, pipe):
        proc.send_signal(signal.SIGTERM)
        assert "no more is started" in proc.stderr.readline()
        proc.send_signal(second)
        assert pipe.read() == ""
        assert end_of(proc)[0] == 143


def test_a_term_when_all_is_done_changes_nothing(tmp_path):
    wait = f"until test -e {tmp_path}/go; do sleep 0.01; done"
    with started("--shell", "--grace", "1h") as proc:
        proc.stdin.write(f"touch {tmp_path}/up; {wait}\n")
        proc.stdin.close()
        proc.stdin = None
        wait_until(lambda: (tmp_path / "up").exists(), "the job")
        proc.send_signal(signal.SIGTERM)
        assert "no more is started" in proc.stderr.readline()
        (tmp_path / "go").touch()
        assert end_of(proc)[:2] == (0, "")


def test_a_term_while_one_waits_for_its_next_try(tmp_path):
    with started("--retries", "3", "--backoff", "1h", "--shell") as proc:
        proc.stdin.write(f"touch {tmp_path}/up; exit 1\n")
        proc.stdin.close()
        proc.stdin = None
        wait_until(lambda: (tmp_path / "up").exists(), "the first try")
        proc.send_signal(signal.SIGTERM)
        status, _, err = end_of(proc)
    # It may not have ended when the signal came: then it failed.
    assert (status, "1 not started" in err) == (143, True) or (status, "1 failed" in err) == (1, True)


def test_ignored_signals_stay_ignored(tmp_path):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    wait = f"until test -e {tmp_path}/go; do sleep 0.01; done; echo ended"
    with sleepers(then=wait, preexec_fn=ignore) as (proc, pipe):
        proc.send_signal(signal.SIGHUP)
        proc.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        assert sorted(pipe.read().split()) == sorted(["ended"] * 4 + ["up"] * 2)
        assert end_of(proc)[0] == 0


@linux_only
def test_the_jobs_die_with_us():
    with sleepers() as (proc, pipe):
        proc.kill()
        assert pipe.read() == ""


# ---- the line on the terminal ----------------------------------------------------------------------------------------


def at_a_terminal(*argv, text):
    leader, terminal = pty.openpty()
    with subprocess.Popen(
        [CORELANE, "batch", *argv], stdin=subprocess.PIPE, stdout=terminal, stderr=terminal, start_new_session=True
    ) as proc:
        os.close(terminal)
        proc.stdin.write(text)
        proc.stdin.close()
        got = read_terminal(leader)
        assert proc.wait(PATIENCE) == 0
    os.close(leader)
    return got


def test_progress_is_shown_at_a_terminal(tmp_path):
    (tmp_path / "jobs").write_text("true\n" * 7 + "sleep 0.3\n")
    got = at_a_terminal("-j1", str(tmp_path / "jobs"), text=b"")
    assert b"7/8, 1 running" in got
    assert got.endswith(b"\r\x1b[K")


def test_output_is_not_mixed_with_it():
    got = at_a_terminal("-j1", text=b"echo out\nsleep 0.3\necho put\n")
    assert got.startswith((b"out\r\n", b"\r"))
    for word in (b"out\r\n", b"put\r\n"):
        before = got[: got.rindex(word)]
        assert before.endswith((b"\r\x1b[K", b"\n")) or not before


def test_progress_can_be_off_and_is_off_elsewhere():
    assert at_a_terminal("--no-progress", text=b"sleep 0.2\n") == b""
    assert batch(input="sleep 0.2\n").stderr == ""
    assert "running" in batch("--progress", input="sleep 0.3\n").stderr
