"""`corelane pin` beside the programs that it stands for: what it does to a program, and says of one that runs."""

import os
import subprocess
import sys

import pytest
from helpers import OURS, needs, needs_linux, needs_root, needs_two

from corelane import cpu

pytestmark = needs_linux

FIRST, LAST = OURS[0], OURS[-1]


def pin(*args, **options):
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-m", "corelane", "pin", *map(str, args)], check=False, **given)


def tool(*args):
    return subprocess.run(list(map(str, args)), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def child():
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


# ---- a program ----


def test_the_program_keeps_the_pid():
    with subprocess.Popen(
        [sys.executable, "-m", "corelane", "pin", str(LAST), "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert int(process.communicate(timeout=60)[0]) == process.pid


@needs_two
@pytest.mark.parametrize("between", [[], ["--"]])
def test_it_runs_on_those_cpus(between):
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    assert pin(LAST, *between, sys.executable, "-c", code).stdout == f"[{LAST}]\n"
    assert pin(hex(1 << FIRST), *between, sys.executable, "-c", code).stdout == f"[{FIRST}]\n"


def test_it_has_what_was_asked_for():
    show = "from corelane import cpu; print(*cpu.get_priority()[:3], cpu.get_io_priority())"
    options = ["--nice", 7, "--sched", "batch", "--reset-on-fork", "--io-priority", "best-effort:6"]
    assert pin(*options, FIRST, "--", sys.executable, "-c", show).stdout == "7 batch True ('best-effort', 6)\n"


@pytest.mark.parametrize(
    "args",
    [
        ["--nice", 7, FIRST, "nice"],
        [FIRST, "--nice", 7, "--", "nice"],
        [FIRST, "--nice", 7, "nice"],
        [FIRST, "--nice=7", "--", "nice"],
        ["--sched", "batch", FIRST, "--nice", 7, "--", "nice"],
    ],
)
def test_options_come_before_the_cpus_or_after_them(args):
    done = pin(*args)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_options_of_the_program_are_its_own():
    assert pin(FIRST, "--nice", 3, "--", "printf", "%s ", "--nice", "7", "--", "-p").stdout == "--nice 7 -- -p "
    assert pin(FIRST, "printf", "%s ", "--nice", "7").stdout == "--nice 7 "


def test_options_after_the_cpus_of_a_process(child):
    assert pin("-p", child, FIRST, "--nice", 4).returncode == 0
    assert (os.getpriority(os.PRIO_PROCESS, child), os.sched_getaffinity(child)) == (4, {FIRST})


@needs("numactl")
@pytest.mark.skipif(not os.path.isdir("/sys/devices/system/node"), reason="this kernel is built without NUMA")
@pytest.mark.parametrize("written", ["bind", "interleave"])
def test_numactl_sees_the_memory_policy(written):
    ours = pin("--mem", f"{written}:0", FIRST, "numactl", "-s")
    option = {"bind": "--membind=0", "interleave": "--interleave=0"}[written]
    theirs = tool("numactl", option, f"--physcpubind={FIRST}", "numactl", "-s")
    assert (ours.stdout, ours.stderr) == (theirs, "")
    assert f"policy: {written}" in ours.stdout


def test_a_program_as_taskset_is_given_it():
    assert pin("-c", FIRST, "nproc").stdout == "1\n"


def test_what_python_ignores_is_not_ignored_by_the_program():
    bits = pin(FIRST, "grep", "^SigIgn", "/proc/self/status").stdout.split()[1]
    assert not int(bits, 16) >> 12 & 1  # SIGPIPE


def test_exit_statuses(tmp_path):
    assert pin(FIRST, "sh", "-c", "exit 3").returncode == 3
    missing = pin(FIRST, "no-such-program")
    assert (missing.returncode, missing.stdout) == (127, "")
    assert "no-such-program" in missing.stderr
    (tmp_path / "file").write_text("")
    assert pin(FIRST, tmp_path / "file").returncode == 126
    refused = pin("60000", "true")
    assert refused.returncode == 125
    assert "CPU 60000 does not exist here" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_best_effort():
    done = pin("--best-effort", f"{FIRST},60000", "sh", "-c", "echo out")
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert done.stderr.startswith("corelane: CPUs ")
    assert "CPU 60000 does not exist here" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "what is needed"),
        (["0"], "what is needed"),
        (["--nice", "5", "true"], "corelane run"),
        (["0", "--"], "no PROGRAM"),
        (["0", "--nice", "5", "--"], "no PROGRAM"),
        (["0", "--nice", "5"], "what is needed"),
        (["0", "--nise", "5", "--", "true"], "--nise"),
        (["3-1", "true"], "runs backwards"),
        (["a", "true"], "neither a CPU"),
        (["-a", "0", "true"], "-p PID"),
        (["-p", "0"], "'0' is no PID"),
        (["-c", "-p", "0-1", "1234"], "as in -p 1234 0-3"),
        (["-p", "1", "0", "true"], "CPUS at most"),
        (["-p", "1", "--mem", "local"], "--mem"),
        (["-p", "1", "3-1"], "runs backwards"),
        (["--sched", "fast", "0", "true"], "'fast' is none of other, batch, idle, fifo:N"),
        (["--sched", "fifo", "0", "true"], "from 1 to 99, like fifo:10"),
        (["--mem", "bind:x", "0", "true"], "neither a node"),
        (["--nice", "99", "0", "true"], "from -20 to 19"),
        (["--reset-on-fork", "0", "true"], "give sched= too"),
    ],
)
def test_usage(args, message):
    done = pin(*args)
    assert (done.returncode, done.stdout) == (125, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# ---- a process that runs ----


@needs("taskset")
@pytest.mark.parametrize("flags", [[], ["-c"], ["-a"], ["-a", "-c"]])
def test_it_says_what_taskset_says(flags, child):
    joined = "-" + "".join(flag[1:] for flag in flags) + "p"
    assert pin(*flags, "-p", child).stdout == tool("taskset", joined, child)


def test_a_pid_after_the_cpus_as_taskset_has_it(child):
    done = pin("-p", os.getpid(), child)
    if not os.path.exists(f"/sys/devices/system/cpu/cpu{child}"):
        assert done.returncode == 125
        assert f"(-p {child} {os.getpid()})" in done.stderr
    assert "is a process" not in pin("-p", child, 65535).stderr


@needs("taskset")
@needs_two
def test_it_changes_what_taskset_changes(child):
    ours = pin("-c", "-p", child, FIRST).stdout
    cpu.set_affinity(OURS, child)
    assert ours == tool("taskset", "-cp", FIRST, child)
    assert os.sched_getaffinity(child) == {FIRST}
    cpu.set_affinity(OURS, child)
    ours = pin("-p", child, hex(1 << LAST)).stdout
    cpu.set_affinity(OURS, child)
    assert ours == tool("taskset", "-p", hex(1 << LAST), child)


def test_lists_are_written_as_taskset_does():
    from corelane.cli.pin import _list_of

    assert [_list_of(cpus) for cpus in ({0}, {0, 1}, {0, 1, 2}, {0, 1, 4, 5, 6, 9})] == [
        "0",
        "0,1",
        "0-2",
        "0,1,4-6,9",
    ]


@needs("chrt")
def test_it_says_what_chrt_says(child):
    assert tool("chrt", "-p", child) in pin("-s", "-p", child).stdout
    new = pin("--sched", "batch", "--reset-on-fork", "-p", child).stdout
    assert new == tool("chrt", "-p", child).replace("current", "new")
    assert "SCHED_BATCH|SCHED_RESET_ON_FORK" in new


@needs("chrt")
@needs_root
@pytest.mark.parametrize("sched", ["fifo:3", "rr:4", "deadline:1ms:10ms:20ms", "idle"])
def test_it_sets_what_chrt_shows(sched, child):
    if subprocess.run(["chrt", "-f", "-p", "1", str(child)], capture_output=True).returncode != 0:
        pytest.skip("this machine gives root no real-time scheduling")
    done = pin("--sched", sched, "-p", child)
    if done.returncode and sched.startswith("deadline"):
        pytest.skip(f"this machine gives no deadlines: {done.stderr}")
    assert (done.stderr, done.stdout) == ("", tool("chrt", "-p", child).replace("current", "new"))
    assert f"SCHED_{sched.partition(':')[0].upper()}" in done.stdout


@needs_root
@needs_two
def test_a_deadline_and_cpus(child):
    """A thread gets all CPUs before it gets a deadline, and fewer after it has lost it."""
    deadline, every = ["--sched", "deadline:1ms:10ms"], cpu.format_cpus(OURS)
    pin("-p", child, FIRST)
    given = pin("-p", child, every, *deadline)
    if "the machine cannot promise it" in given.stderr:
        pytest.skip("others have promised all there is")
    assert given.stderr == ""
    assert "SCHED_DEADLINE" in given.stdout
    assert pin("-p", child, FIRST, "--sched", "other").stderr == ""
    assert os.sched_getaffinity(child) == {FIRST}
    narrow = pin(FIRST, *deadline, "--", "true")
    assert narrow.returncode == 125
    assert f"kept to CPUs {FIRST} of {every}" in narrow.stderr
    with cpu.pinned(FIRST):  # as in a shell that taskset(1) has started
        assert pin(every, *deadline, "--", "true").returncode == 0


@needs("ionice")
@pytest.mark.parametrize("io", ["idle", "best-effort:2"])
def test_it_says_what_ionice_says(io, child):
    pin("--io-priority", io, "--nice", 6, "-p", child)
    said = tool("ionice", "-p", child)
    shown = pin("-s", "-p", child).stdout
    assert f"pid {child}'s I/O priority: {said}" in shown
    assert shown.endswith("nice value: 6\n")


@needs_two
def test_without_a_only_the_main_thread():
    code = """
import threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("ready", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            main, other = sorted(int(tid) for tid in os.listdir(f"/proc/{process.pid}/task"))
            pin("-p", process.pid, LAST)
            assert (os.sched_getaffinity(main), os.sched_getaffinity(other)) == ({LAST}, set(OURS))
            said = pin("-a", "-p", process.pid, FIRST).stdout.splitlines()
            assert len(said) == 4
            assert os.sched_getaffinity(main) == os.sched_getaffinity(other) == {FIRST}
        finally:
            process.kill()


def test_a_pid_that_is_gone():
    with subprocess.Popen(["true"]) as process:
        pass
    for given in ([], ["-a"], ["--nice", "5"]):
        done = pin(*given, "-p", process.pid)
        assert (done.returncode, done.stdout) == (125, "")
        assert "No such process" in done.stderr
