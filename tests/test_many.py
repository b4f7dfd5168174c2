"""run_many: every command has its Result, nothing is raised for a child, and nothing is left however it is ended."""

import gc
import itertools
import os
import pickle
import resource
import signal
import sys
import threading
import time

import psutil
import pytest
from faults_child import fresh, nothing_left
from helpers import is_running, needs_clone, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

import corelane as cl

FOREVER = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def say(text, status=0):
    return ["sh", "-c", 'printf %s "$0"; exit "$1"', text, str(status)]


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3, 100, None])
def test_each_command_has_its_result(concurrency):
    done = list(cl.run_many([say(str(n)) for n in range(20)], concurrency=concurrency, capture=True))
    assert sorted(result.index for result in done) == list(range(20))
    assert all(result.text == str(result.index) == result.args[3] for result in done)
    assert all(result.ok and result.error is None and result.returncode == 0 for result in done)


def test_as_many_as_there_are_cpus_for_us(monkeypatch, tmp_path):
    """Not as the affinity has: a quota or a batch system may leave less."""
    monkeypatch.setenv("PYTHON_CPU_COUNT", "1")
    holding = ["sh", "-c", 'mkdir "$0" && sleep 0.05 && rmdir "$0"', str(tmp_path / "held")]
    assert [done.ok for done in cl.run_many([holding] * 4)] == [True] * 4


def test_they_come_as_they_end():
    reader, writer = os.pipe()
    order = []
    for result in cl.run_many([cl.Command("cat", stdin=reader), ["true"]], concurrency=2):
        if not order:
            os.close(writer)  # which ends the first
        order.append(result.index)
    os.close(reader)
    assert order == [1, 0]


def test_ordered_is_the_order_of_the_commands():
    """The first is the last to end: by its timeout."""
    done = list(cl.run_many([FOREVER, *[["true"]] * 3], concurrency=4, ordered=True, timeout=0.3))
    assert [result.index for result in done] == [0, 1, 2, 3]
    assert [result.timed_out for result in done] == [True, False, False, False]


def test_at_most_concurrency_are_alive_and_pulled():
    pulled = 0

    def commands():
        nonlocal pulled
        for _ in range(12):
            pulled += 1
            assert len(psutil.Process().children()) < 3
            yield ["true"]

    for taken, _ in enumerate(cl.run_many(commands(), concurrency=3)):
        assert pulled <= taken + 1 + 3


def test_held_results_count_as_alive_when_ordered():
    """The first is slow: no more than so many that are done already wait behind it."""
    reader, writer = os.pipe()
    pulled = []

    def commands():
        yield cl.Command("cat", stdin=reader)
        for n in range(50):
            pulled.append(n)
            yield ["true"]

    results = cl.run_many(commands(), concurrency=5, ordered=True)
    closer = threading.Timer(0.3, os.close, [writer])
    closer.start()
    assert next(results).index == 0
    assert len(pulled) <= 5
    assert [result.index for result in results] == list(range(1, 51))
    closer.join()
    os.close(reader)


def test_stdin_is_devnull_unless_given():
    """They would all read ours, each a part of it."""
    (done,) = cl.run_many([[sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"]], capture=True)
    assert done.text == "0\n"
    (fed,) = cl.run_many([cl.Command("cat", stdin=b"fed")], capture=True)
    assert fed.stdout == b"fed"


def test_options_are_for_all_and_beside_the_commands_own():
    command = cl.Command("sh", "-c", "echo $A $B", env_add={"A": "own"})
    done = list(cl.run_many([command, ["sh", "-c", "echo $A $B"]], capture=True, env_add={"B": "all"}, ordered=True))
    assert [result.text for result in done] == ["all\n", "all\n"]  # env_add is one option: it is replaced
    done = list(cl.run_many([command], capture=True))
    assert done[0].text == "own\n"


def test_input_and_output_of_any_size_flow_at_once():
    data = os.urandom(300_000)
    for result in cl.run_many([cl.Command("cat", stdin=data)] * 10, concurrency=10, capture=True):
        assert result.stdout == data


def test_options_of_a_run_hold_for_each():
    commands = [
        cl.Command("head", "-c", "5000", "/dev/zero", max_output=10, on_limit="truncate"),
        cl.Command("head", "-c", "5000", "/dev/zero", max_output=10),
        cl.Command(*FOREVER, timeout=0.1),
        cl.Command("sh", "-c", "trap 'exit 7' TERM; echo; while :; do sleep 0.01; done", timeout=0.3, grace=20),
        cl.Command("sh", "-c", "exit 3", check=False),
        cl.Command("sh", "-c", "kill -9 $$"),
    ]
    done = list(cl.run_many(commands, concurrency=10, capture=True, ordered=True))
    kinds = [type(result.error) for result in done]
    assert kinds == [type(None), cl.OutputLimitExceeded, cl.ProcessTimeout, cl.ProcessTimeout, type(None), cl.Signaled]
    assert (len(done[0].stdout), done[0].truncated) == (10, True)
    assert [done[2].signal, done[3].returncode, done[4].returncode] == [signal.SIGKILL, 7, 3]
    assert all(result.error is None or result.error.result is result for result in done)


@needs_clone
def test_nobody_waits_for_an_exec_and_the_result_says_so():
    done = list(cl.run_many([["true"], cl.Command("true", strategy="vfork"), cl.Command("true", oom_score_adj=500)]))
    assert {result.index: result.strategy for result in done} == {0: "clone3-nowait", 1: "vfork", 2: "clone3"}


def test_results_survive_pickling():
    done = list(cl.run_many([["echo", "x"], ["false"], ["no-such-program"], 3], capture=True, ordered=True))
    again = pickle.loads(pickle.dumps(done))
    assert again == done
    assert [result.index for result in again] == [0, 1, 2, 3]
    assert [type(result.error) for result in again] == [type(result.error) for result in done]
    assert again[1].error.result == done[1]
    assert "no-such-program" in str(again[2].error)
    assert again[0].command.args == ("echo", "x")


# ---- bad commands ----------------------------------------------------------------------------------------------------


def test_a_bad_command_among_many_is_a_result():
    commands = [["true"]] * 60
    bad = {7: ["no-such-program"], 20: "a string", 31: [], 32: 3, 44: ["a\0b"], 50: cl.Command("/etc/passwd")}
    for at, command in bad.items():
        commands[at] = command
    errors = {result.index: result.error for result in cl.run_many(commands, concurrency=10) if result.error}
    assert {at: type(error) for at, error in errors.items()} == {
        7: type(errors[7]), 20: TypeError, 31: ValueError, 32: TypeError, 44: ValueError, 50: type(errors[50]),
    }  # fmt: skip
    assert isinstance(errors[7], cl.SpawnFailed)
    assert isinstance(errors[7], FileNotFoundError)
    assert isinstance(errors[50], PermissionError)
    assert errors[7].stage == errors[50].stage == "exec"


def test_tees_are_refused():
    with pytest.raises(ValueError, match="tee_stdout"):
        cl.run_many([["true"]], capture=True, tee_stdout=1)
    (result,) = cl.run_many([cl.Command("true", capture=True, tee_stderr=2)])
    assert isinstance(result.error, ValueError)


@needs_clone  # the trampoline is exec'd before the change of directory, and has the descriptor no more
@pytest.mark.parametrize("start", ["/proc/self/fd", "/dev/fd", "//proc/self/fd"])
def test_a_directory_or_program_may_be_named_by_a_descriptor(start, tmp_path):
    """Which a child that nobody waits for closes before it gets there."""
    (tmp_path / "tool").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "tool").chmod(0o755)
    fd, programs = os.open(tmp_path, os.O_RDONLY), os.open("/bin", os.O_RDONLY)
    try:
        (done,) = cl.run_many([["./tool"]], cwd=f"{start}/{fd}", capture=True)
        (other,) = cl.run_many([[f"{start}/{programs}/true"]])
    finally:
        os.close(fd)
        os.close(programs)
    assert (done.error, done.text) == (None, f"{tmp_path}\n")
    assert other.error is None


def test_who_ended_in_time_is_not_late_when_the_caller_is():
    results = cl.run_many([["echo", "x"]] * 4, concurrency=4, capture=True, timeout=1)
    done = [next(results)]
    time.sleep(1.2)  # past the deadline of those that have long ended
    done += results
    assert [result.error for result in done] == [None] * 4


def test_what_never_became_a_child_has_no_status():
    for result in cl.run_many([["no-such-program"], 3], capture=True):
        assert (result.returncode, result.signal, result.stdout, result.ok) == (None, None, None, False)
        with pytest.raises(ValueError, match="no child"):
            _ = result.text


@pytest.mark.parametrize(
    ("wrong", "error", "word"),
    [
        ({"concurrency": 0}, ValueError, "concurrency"),
        ({"concurrency": True}, TypeError, "concurrency"),
        ({"concurrency": 2.5}, TypeError, "concurrency"),
        ({"timeuot": 3}, TypeError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
    ],
)
def test_what_is_wrong_for_all_is_raised_at_once(wrong, error, word):
    with pytest.raises(error, match=word):
        cl.run_many([["true"]], **wrong)


@pytest.mark.parametrize("single", ["true", b"true", cl.Command("true")])
def test_one_command_is_no_iterable_of_commands(single):
    with pytest.raises(TypeError, match="single"):
        cl.run_many(single)


# ---- the end ---------------------------------------------------------------------------------------------------------


def alive():
    return [child.pid for child in psutil.Process().children() if is_running(child.pid)]


@pytest.mark.parametrize("how", ["break", "close", "drop", "error", "source"])
def test_leaving_kills_what_runs(how):
    def commands():
        yield ["true"]
        yield from itertools.repeat(["sh", "-c", "sleep 1000 & sleep 1000"], 5)
        if how == "source":
            raise LookupError("source")

    results = cl.run_many(commands(), concurrency=4)
    next(results)
    if how == "source":
        for child in psutil.Process().children():
            child.kill()
        with pytest.raises(LookupError, match="source"):
            list(results)
    elif how == "error":
        with pytest.raises(ZeroDivisionError):
            results.throw(ZeroDivisionError)
    elif how == "close":
        results.close()
    del results
    gc.collect()
    assert alive() == []


def test_nothing_happens_before_the_first_item():
    pulled = []
    results = cl.run_many(pulled.append(n) or ["true"] for n in range(3))
    assert pulled == []
    results.close()


def test_no_commands_at_all():
    assert list(cl.run_many([])) == []


def test_a_process_group_and_a_cgroup_end_with_each():
    """What a child leaves in its scope is killed with its own end, and not with the end of all."""
    reader, writer = os.pipe()
    command = cl.Command("sh", "-c", "sleep 1000 & echo $! >&3", fds={3: writer})
    results = cl.run_many([command, FOREVER], concurrency=2)
    assert next(results).index == 0
    left = int(os.read(reader, 100))
    wait_until(lambda: not is_running(left), "the end of what it left")
    results.close()
    os.close(reader)
    os.close(writer)


def test_two_at_a_time_in_turns():
    a, b = (cl.run_many([say(f"{name}{n}") for n in range(5)], concurrency=2, capture=True) for name in "ab")
    both = [result.text for pair in zip(a, b, strict=True) for result in pair]
    assert sorted(both) == sorted(f"{name}{n}" for name in "ab" for n in range(5))


def test_in_several_threads():
    found = []

    def work(name):
        commands = (say(f"{name}{n}") for n in range(30))
        found.extend(result.text for result in cl.run_many(commands, concurrency=5, capture=True))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{name}{n}" for name in "abcd" for n in range(30))


def test_a_forked_child_has_no_part_in_it():
    def fork_meanwhile():
        import os
        import warnings

        warnings.simplefilter("ignore", DeprecationWarning)
        results = cl.run_many([["true"], ["sleep", "1000"], ["sleep", "1000"]], concurrency=3)
        assert next(results).index == 0
        if (pid := os.fork()) == 0:
            try:
                next(results)
            except cl.NotOwner:
                os._exit(7)
            os._exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert len(children()) == 2  # noqa: F821
        results.close()
        assert children() == []  # noqa: F821

    fresh(fork_meanwhile)


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_few_descriptors_slow_it_down_and_lose_nothing():
    def run_with_few():
        import resource

        soft = max(map(int, os.listdir("/dev/fd"))) + 14
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        commands = (["sh", "-c", f"echo {n}"] for n in range(100))
        done = list(cl.run_many(commands, concurrency=50, capture=True))
        assert sorted(int(result.text) for result in done) == list(range(100)), [result.error for result in done]

    fresh(run_with_few)


def test_no_descriptor_at_all_is_an_error_of_each():
    def run_with_none():
        import resource

        results = cl.run_many([["true"], ["true"]], concurrency=1)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert next(results).ok
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        second = next(results)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert isinstance(second.error, cl.ResourceExhausted), second
        assert list(results) == []

    fresh(run_with_none)


# ---- against the single run ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 100_000)), max_size=12),
    st.integers(1, 8),
    st.booleans(),
)
def test_it_finds_what_single_runs_find(kinds, concurrency, ordered):
    commands = [cl.Command("sh", "-c", 'head -c "$1" /dev/zero; exit "$0"', *map(str, kind)) for kind in kinds]
    done = {result.index: result for result in cl.run_many(commands, concurrency=concurrency, capture=True)}
    assert sorted(done) == list(range(len(kinds)))
    for at, (status, size) in enumerate(kinds):
        assert (done[at].returncode, len(done[at].stdout), done[at].stderr) == (status, size, b"")
        assert (done[at].error is None) == (status == 0)


@pytest.mark.slow
def test_thousands_leave_nothing_behind():
    before = psutil.Process().memory_info().rss
    count = sum(result.ok for result in cl.run_many((["true"] for _ in range(3000)), concurrency=50, capture=True))
    assert count == 3000
    assert psutil.Process().memory_info().rss - before < 20 << 20


@pytest.mark.stress
def test_a_million_leave_nothing_behind():
    """Ten thousand first: what is kept for the next ones is there by then. It takes minutes: run it with
    `-m stress -o faulthandler_timeout=3600`."""

    def run_a_million():
        def run_some(number):
            commands = (["true"] for _ in range(number))
            return sum(result.ok for result in cl.run_many(commands, concurrency=100, capture=True))

        run_some(10_000)
        before, fds = resident(), descriptors()  # noqa: F821
        assert run_some(1_000_000) == 1_000_000
        assert resident() - before < 1 << 20  # noqa: F821
        assert descriptors() == fds  # noqa: F821
        assert children() == []  # noqa: F821

    fresh(run_a_million, timeout=3600)


def test_wall_time_is_that_of_the_longest():
    """Not of the sum: they do run at once."""
    began = time.monotonic()
    done = list(cl.run_many([["sleep", "0.2"]] * 40, concurrency=40))
    assert len(done) == 40
    assert time.monotonic() - began < 40 * 0.2 / 2


def test_the_limit_of_descriptors_is_left_alone():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    list(cl.run_many([["true"]]))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


class SoftLimit(Exception):
    """What a program raises in its signal handlers."""


def test_what_a_signal_handler_raises_is_the_callers(monkeypatch):
    """Also while a command is prepared, where what is wrong is of that command alone."""

    def raised_there(*_):
        raise SoftLimit

    monkeypatch.setattr(cl.Command, "packed", raised_there)
    for commands in ([cl.Command("true")], [cl.Command("true") | ["cat"]], [cl.Command("true").then(["true"])]):
        with pytest.raises(SoftLimit):
            list(cl.run_many(commands))
