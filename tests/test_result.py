"""What a Result says of a run, and that it is a value which can be kept, compared and sent."""

import os
import pickle
import resource
import signal
import sys
import time

import psutil
import pytest
from faults_child import fresh, nothing_left, resident
from helpers import STRATEGIES

import corelane as cl
from corelane._ffi import PLATFORM


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def shell(text, **options):
    return cl.Command.shell(text, **{"timeout": 30, "check": False, **options}).run()


def test_the_fields_of_a_plain_run():
    result = cl.run(["echo", b"x", "y"], capture=True, timeout=30)
    assert result.args == ("echo", b"x", "y")
    assert (result.returncode, result.signal, result.core_dumped, result.ok) == (0, None, False, True)
    assert (result.stdout, result.stderr, result.text) == (b"x y\n", b"", "x y\n")
    assert (result.timed_out, result.truncated, result.pipes_left_open, result.stdin_left) == (False, False, False, 0)
    assert result.contained == "group"
    assert result.strategy == {"linux": "clone3"}.get(PLATFORM, "posix_spawn")


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 255])
def test_an_exit_code_is_the_returncode(code):
    result = shell(f"exit {code}")
    assert (result.returncode, result.signal, result.ok) == (code, None, code == 0)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGPIPE", "SIGALRM"])
def test_a_signal_is_named(name):
    number = getattr(signal, name)
    result = shell(f"kill -{name[3:]} $$")
    assert (result.returncode, result.signal, result.ok) == (-number, number, False)
    assert isinstance(result.signal, signal.Signals)


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="this system has no real-time signals")
def test_a_signal_without_a_name_is_a_number():
    code = f"import os, signal; os.kill(os.getpid(), {signal.SIGRTMIN + 3})"
    result = cl.run([sys.executable, "-I", "-S", "-c", code], check=False, timeout=30)
    assert result.signal == signal.SIGRTMIN + 3
    assert result.returncode == -(signal.SIGRTMIN + 3)


def test_a_core_is_reported(tmp_path):
    """Whether the system writes one depends on its settings; that the flag is no constant does not."""
    assert not shell("kill -ABRT $$", rlimits={"core": 0}, cwd=tmp_path).core_dumped
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("the hard limit forbids core files here")
    result = shell(
        "kill -ABRT $$", rlimits={"core": (1 << 24, resource.getrlimit(resource.RLIMIT_CORE)[1])}, cwd=tmp_path
    )
    assert result.signal == signal.SIGABRT
    if not result.core_dumped:
        pytest.skip("this system writes no core files, whatever the limit")


def test_the_pid_is_the_childs():
    result = shell("echo $$", stdout=cl.PIPE)
    assert result.pid == int(result.stdout)
    assert not psutil.pid_exists(result.pid), "reaped when the run returns"


def test_elapsed_is_the_childs_time():
    began = time.monotonic()
    result = cl.run(["sleep", "0.1"])
    assert 0.1 <= result.elapsed <= time.monotonic() - began


def test_usage_is_the_childs():
    busy = "import resource\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.1: pass\nx = b'x' * 50_000_000"
    used = cl.run([sys.executable, "-I", "-S", "-c", busy], timeout=60).usage
    assert 0.1 <= used.user + used.system < 30
    assert 50_000_000 < used.max_rss < 1_000_000_000
    assert used.minor_faults > 100
    idle = cl.run(["true"]).usage
    assert idle.user + idle.system < 0.1
    assert all(isinstance(count, int) for count in idle[2:])
    assert idle._fields[:3] == ("user", "system", "max_rss")


def test_usage_counts_descendants_that_were_waited_for():
    busy = "import resource\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.1: pass"
    used = cl.Command.shell('"$1" -I -S -c "$2"; true', sys.executable, busy, timeout=60).run().usage
    assert used.user + used.system >= 0.1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_strategy_is_the_one_that_was_used(strategy):
    assert cl.run(["true"], strategy=strategy).strategy == strategy


@pytest.mark.parametrize(("contain", "obtained"), [("auto", "group"), ("group", "group"), ("none", "none")])
def test_contained_is_what_was_obtained(contain, obtained):
    assert cl.run(["true"], stdin=cl.DEVNULL, contain=contain).contained == obtained


# ---- text ----


def test_text_is_in_the_commands_encoding():
    assert cl.run(["printf", "\\351"], capture=True, encoding="latin-1").text == "\u00e9"
    assert cl.run(["printf", "a\\377"], capture=True, errors="backslashreplace").text == "a\\xff"
    result = cl.run(["printf", "\\377"], capture=True)
    with pytest.raises(UnicodeDecodeError) as caught:
        _ = result.text
    assert "printf" in caught.value.__notes__[0]
    assert result.stdout == b"\xff"


def test_text_of_what_was_not_captured_says_how_to_capture_it():
    with pytest.raises(ValueError, match=r"the stdout of true was not captured.*capture=True"):
        _ = cl.run(["true"]).text
    with pytest.raises(ValueError, match="not captured"):
        _ = cl.run(["true"], stderr=cl.PIPE).text


def test_one_stream_can_be_captured_alone():
    result = shell("echo out; echo err >&2", stdout=cl.DEVNULL, stderr=cl.PIPE)
    assert (result.stdout, result.stderr) == (None, b"err\n")


# ---- being a value ----


def some_results():
    yield cl.run(["echo", "x"], capture=True, encoding="latin-1", errors="replace")
    yield shell("echo x; kill -TERM $$", capture=True)
    yield shell("printf 12345", stdout=cl.PIPE, max_output=2, on_limit="truncate")
    yield cl.run(["true"], stdin=b"")


def test_it_survives_pickling():
    for result in some_results():
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(result, protocol))
            assert again == result
            assert hash(again) == hash(result)
            assert repr(again) == repr(result)
            for name in ("args", "returncode", "signal", "stdout", "stderr", "elapsed", "usage", "pid", "timed_out",
                         "truncated", "pipes_left_open", "stdin_left", "contained", "strategy", "ok"):  # fmt: skip
                assert getattr(again, name) == getattr(result, name)
            if result.stdout is not None:
                assert again.text == result.text


def test_two_runs_are_two_results():
    one, other = (cl.run(["true"]) for _ in range(2))
    assert one == one
    assert one != other, "another pid, another time"
    assert one != "a result"


def test_a_result_outlives_the_next_run():
    """The engine's buffers are used again: a Result must not look into them."""
    first = cl.run(["echo", "first"], capture=True)
    for _ in range(3):
        cl.run(["echo", "other"], capture=True)
    assert first.stdout == b"first\n"


def test_repr_tells_what_matters_and_is_short():
    text = repr(shell("echo x; echo y >&2; exit 3", capture=True))
    assert text.startswith("Result(args=('/bin/sh', '-c',")
    for part in ("returncode=3", "stdout=b'x\\n'", "stderr=b'y\\n'", "elapsed=0."):
        assert part in text
    assert "timed_out" not in text
    assert len(repr(cl.run(["head", "-c", "100000", "/dev/zero"], capture=True))) < 500
    cut = shell("printf 12345; sleep 1000 &", stdout=cl.PIPE, max_output=2, on_limit="truncate", drain=0.02)
    assert "truncated" in repr(cut)
    assert "pipes_left_open" in repr(cut)


def test_a_result_owns_nothing_but_its_bytes():
    result = cl.run(["echo", "x"], capture=True)
    before = set(os.listdir("/dev/fd"))
    del result
    assert set(os.listdir("/dev/fd")) == before


def test_the_memory_of_a_large_output_goes_with_its_result():
    """The engine that ran it waits for the next run, and may wait for ever."""

    def run():
        cl.run(["head", "-c", "1000", "/dev/zero"], capture=True)
        before = resident()
        result = cl.run(["head", "-c", str(64 << 20), "/dev/zero"], capture=True)
        assert len(result.stdout) == 64 << 20
        assert resident() - before > 64 << 20
        del result
        assert resident() - before < 8 << 20

    fresh(run)
