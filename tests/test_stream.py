"""lines() and chunks(): a child's output as it comes, in bounded memory, and ended when nobody wants more."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from faults_child import fresh, nothing_left
from helpers import is_running, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

import corelane as cl
from corelane.process import stream

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def shell(text, *args, **options):
    return cl.Command.shell(text, *args, **{"timeout": 30, "stdin": cl.DEVNULL, **options})


def write(data, **options):
    """A command that writes those bytes."""
    code = "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))"
    return cl.Command(sys.executable, "-I", "-S", "-c", code, data.hex(), timeout=30, **options)


def ended(pid):
    wait_until(lambda: not is_running(pid), f"the end of {pid}")


def slowly(stream, most=10):
    """Read so slowly that there is always something to read; not for ever, though."""
    started = time.monotonic()
    for piece in stream:
        assert time.monotonic() - started < most, "it never ends"
        yield piece
        time.sleep(0.005)


def until_it_fails(stream):
    """What came, and the error that ended it."""
    came = []
    try:
        for piece in stream:
            came.append(piece)
    except (cl.CorelaneError, UnicodeError) as error:
        return came, error
    return came, None


# ---- lines ----


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\n\n", ["", ""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\rc\n", ["a\r", "b\rc"]),
        (b"a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\n", ["a\x0bb\x0cc\x1cd\x85e\u2028f"]),
        (b" a \n", [" a "]),
        ("\u20ac\U0001f600\n".encode(), ["\u20ac\U0001f600"]),
        (b"a\0b\n", ["a\0b"]),
    ],
)
def test_lines(written, lines):
    """Only a newline ends a line, and nothing else is taken away."""
    assert list(write(written).lines()) == lines
    assert "".join(write(written).lines(keepends=True)) == written.decode()


@settings(max_examples=60, derandomize=True)
@given(st.text(st.sampled_from("ab\n\r\u00e9\u20ac\U0001f600"), max_size=60), st.integers(1, 7))
def test_lines_do_not_depend_on_how_the_output_was_cut(text, size):
    """Multibyte characters and line ends fall on every border between two pieces."""
    command = cl.Command("printf", "%s", text, buffer_size=size, timeout=30)
    with_ends = [line for line in re.split(r"(?<=\n)", text) if line]
    assert list(command.lines(keepends=True)) == with_ends
    assert list(command.lines()) == [line.removesuffix("\n") for line in with_ends]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "shift_jis", "utf-8-sig"])
def test_lines_in_other_encodings(encoding):
    text = "\u65e5\u672c\nzwei\n\u3042" if encoding == "shift_jis" else "eins\n\u00e4\u00f6\n\ndrei"
    command = write(text.encode(encoding), encoding=encoding, buffer_size=3)
    assert list(command.lines()) == text.split("\n")


def test_what_is_not_in_the_encoding():
    came, error = until_it_fails(write(b"good\nbad \xff\n").lines())
    assert isinstance(error, UnicodeDecodeError)
    assert came in ([], ["good"]), "depending on how the output was cut"
    assert list(write(b"good\nbad \xff\n", errors="replace").lines()) == ["good", "bad \ufffd"]
    assert list(write(b"\xff", encoding="ascii", errors="backslashreplace").lines()) == ["\\xff"]


def test_a_character_that_is_cut_short_by_the_end():
    came, error = until_it_fails(write("whole\n\u20ac".encode()[:-1]).lines())
    assert (came, type(error)) == (["whole"], UnicodeDecodeError)
    assert list(write("\u20ac".encode()[:-1], errors="replace").lines()) == ["\ufffd"]


def test_lines_come_as_they_are_written(tmp_path):
    """The child waits for us after each."""
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    stream = shell('echo one; read x <"$1"; echo two; read x <"$2"; printf three', first, second).lines()
    assert next(stream) == "one"
    first.write_text("x\n")
    assert next(stream) == "two"
    second.write_text("x\n")
    assert list(stream) == ["three"]


@pytest.mark.parametrize(("longest", "passes"), [(5, True), (4, False)])
@pytest.mark.parametrize("buffer", [1, 3, 65536])
@pytest.mark.parametrize("written", [b"12345\n", b"12345", b"a\n12345\nb\n", "\u20ac".encode() * 5])
def test_a_line_has_a_longest_length(written, buffer, longest, passes):
    """Wherever the output was cut, and whether or not the line's end came with it."""
    came, error = until_it_fails(write(written, max_line=longest, buffer_size=buffer).lines())
    if passes:
        assert (came, error) == (written.decode().removesuffix("\n").split("\n"), None)
    else:
        assert isinstance(error, cl.OutputLimitExceeded)
        assert "max_line=4 characters" in str(error)
        assert came == (["a"] if written.startswith(b"a") else [])


def test_the_lines_before_one_that_is_too_long_keep_their_ends():
    came, error = until_it_fails(write(b"a\nb\nccccc\nd\n", max_line=4).lines(keepends=True))
    assert came == ["a\n", "b\n"]
    assert isinstance(error, cl.OutputLimitExceeded)


def test_a_line_without_end_is_ended():
    came, error = until_it_fails(cl.Command("cat", "/dev/zero", max_line=100_000, timeout=30).lines())
    assert (came, type(error)) == ([], cl.OutputLimitExceeded)


# ---- chunks ----


def test_chunks_are_all_of_the_output():
    data = os.urandom(50_000)
    assert b"".join(write(data).chunks()) == data
    assert list(shell("true").chunks()) == []


@pytest.mark.parametrize("size", [1, 3, 1000, MIB])
def test_no_chunk_is_longer_than_asked(size):
    pieces = list(write(b"0123456789" * 20).chunks(size))
    assert b"".join(pieces) == b"0123456789" * 20
    assert all(0 < len(piece) <= size for piece in pieces)


def test_a_chunk_comes_when_there_is_something():
    """Not when it is full."""
    stream = shell("echo now; exec sleep 1000", timeout=None).chunks(MIB)
    assert next(stream) == b"now\n"
    stream.close()


# ---- how it ends ----


def test_a_failed_child_raises_after_its_last_line():
    came, error = until_it_fails(shell("echo a; printf b; exit 3").lines())
    assert (came, type(error), error.code) == (["a", "b"], cl.NonZeroExit, 3)
    came, error = until_it_fails(shell("printf a; kill -TERM $$").chunks())
    assert (came, type(error), error.signal) == ([b"a"], cl.Signaled, signal.SIGTERM)


def test_a_failed_child_is_quiet_without_check():
    assert list(shell("echo a; exit 3", check=False).lines()) == ["a"]


def test_a_missing_program_is_an_error_of_the_first_line():
    stream = cl.Command("corelane-no-such-program").lines()
    with pytest.raises(FileNotFoundError):
        next(stream)


def test_nothing_starts_before_the_first_line_is_asked_for(tmp_path):
    stream = shell('echo >"$1"', tmp_path / "mark").lines()
    assert not (tmp_path / "mark").exists()
    stream.close()
    assert not (tmp_path / "mark").exists()
    assert list(shell('echo >"$1"', tmp_path / "mark").lines()) == []
    assert (tmp_path / "mark").exists()


def stop_by_break(stream):
    for _ in stream:
        break


def stop_by_close(stream):
    next(stream)
    stream.close()


def stop_by_dropping(stream):
    next(stream)


def stop_by_exception(stream):
    with pytest.raises(LookupError):
        raise_at_first(stream)


def raise_at_first(stream):
    for piece in stream:
        raise LookupError(piece)


STOPS = [stop_by_break, stop_by_close, stop_by_dropping, stop_by_exception]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("kind", ["lines", "chunks"])
def test_stopping_early_ends_the_scope(stop, kind, tmp_path):
    """At once, although the child would like some time for that."""
    text = 'trap \'\' TERM; echo $$ >"$1"; sleep 1000 & echo $! >>"$1"; while :; do echo more; done'
    started = time.monotonic()
    stop(getattr(shell(text, tmp_path / "pids", timeout=None), kind)())
    assert time.monotonic() - started < 4
    leader, descendant = map(int, (tmp_path / "pids").read_text().split())
    assert not psutil.pid_exists(leader), "reaped"
    ended(descendant)


def test_the_end_kills_what_the_child_left(tmp_path):
    assert list(shell('sleep 1000 >/dev/null & echo $! >"$1"; echo a', tmp_path / "pid").lines()) == ["a"]
    ended(int((tmp_path / "pid").read_text()))


def test_a_descendant_that_keeps_the_pipe_does_not_keep_us():
    started = time.monotonic()
    came = list(shell("sleep 1000 & echo $!", drain=0.1, timeout=None).lines())
    assert time.monotonic() - started < 5
    ended(int(came[0]))


def test_a_descendant_that_floods_the_pipe_does_not_keep_us():
    assert until_it_fails(slowly(shell("cat /dev/zero & sleep 0.1", drain=0.1, timeout=None).chunks()))[1] is None


def test_a_slow_reader_gets_all_that_the_child_wrote():
    """Although the child is long gone, and the time to drain is over."""
    came = 0
    for piece in shell("head -c 60000 /dev/zero; sleep 1000 &", drain=0.05, timeout=None).chunks(20_000):
        came += len(piece)
        time.sleep(0.1)
    assert came == 60_000


# ---- deadlines ----


def test_a_deadline_ends_a_silent_child():
    stream = shell("echo a; exec sleep 1000", timeout=0.5).lines()
    came, error = until_it_fails(stream)
    assert (came, type(error), error.timeout) == (["a"], cl.ProcessTimeout, 0.5)


@pytest.mark.parametrize("kind", ["lines", "chunks"])
def test_a_deadline_ends_one_that_never_stops_writing(kind):
    _, error = until_it_fails(slowly(getattr(cl.Command("yes", "x" * 40_000, timeout=0.5), kind)()))
    assert isinstance(error, cl.ProcessTimeout)


def test_a_deadline_ends_one_that_closed_its_stdout():
    came, error = until_it_fails(shell("echo a; exec >/dev/null; exec sleep 1000", timeout=0.5).lines())
    assert (came, type(error)) == (["a"], cl.ProcessTimeout)


def test_a_deadline_with_grace_lets_the_child_clean_up(tmp_path):
    text = "trap 'echo cleaned >\"$1\"; exit 5' TERM; echo a; while :; do sleep 0.02; done"
    came, error = until_it_fails(shell(text, tmp_path / "mark", timeout=0.5, grace=20).lines())
    assert (came, type(error), error.returncode) == (["a"], cl.ProcessTimeout, 5)
    assert (tmp_path / "mark").read_text() == "cleaned\n"


def test_a_child_that_made_it_in_time_is_not_timed_out_by_a_slow_reader():
    stream = shell("head -c 1000 /dev/zero", timeout=0.6).chunks(500)
    assert next(stream) == bytes(500)
    time.sleep(0.8)
    assert list(stream) == [bytes(500)]


def test_a_signal_while_waiting_ends_the_scope(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    stream = shell('echo $$ >"$1"; echo a; exec sleep 1000', tmp_path / "pid", timeout=None).lines()
    assert next(stream) == "a"
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


# ---- options ----


def test_stderr_can_be_merged_or_dropped_but_not_lost_in_a_pipe():
    assert list(shell("echo a; echo b >&2", stderr=cl.STDOUT).lines()) == ["a", "b"]
    assert list(shell("echo a; echo b >&2", stderr=cl.DEVNULL).lines()) == ["a"]
    with pytest.raises(ValueError, match="nobody would read stderr"):
        shell("true", stderr=cl.PIPE).lines()


def test_a_pipe_to_stdin_that_nobody_could_write_to_is_at_its_end():
    assert list(cl.Command("cat", stdin=cl.PIPE, timeout=20).lines()) == []


@pytest.mark.parametrize("size", [2**40, sys.maxsize, 2**64])
def test_a_chunk_may_be_as_long_as_it_likes(size):
    assert b"".join(cl.Command("echo", "x").chunks(size)) == b"x\n"


@pytest.mark.parametrize("kind", ["lines", "chunks"])
def test_a_stream_that_a_forked_child_goes_on_with_is_its_parents(kind):
    def fork(kind):
        reader, writer = os.pipe()
        command = cl.Command("sh", "-c", "echo one; read line; echo two", stdin=reader, timeout=20)
        stream = getattr(command, kind)()
        came = [next(stream)]
        child = os.fork()
        os.close(writer)  # from now on there is something to read
        if child == 0:
            code = 1
            try:
                next(stream)
            except cl.NotOwner:
                code = 7
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        came += stream
        assert came == (["one", "two"] if kind == "lines" else [b"one\n", b"two\n"])

    fresh(fork, kind)


def stream_inside_the_first(package):
    """The first stream of a process is interrupted by another, once at each line of ours; each time in a fork."""

    def attempt(nth):
        seen = 0
        came = []

        def trace(frame, event, arg):
            nonlocal seen
            if not frame.f_code.co_filename.startswith(package):
                return None
            seen += event == "line"
            if seen == nth and event == "line":
                sys.settrace(None)
                came.append(list(cl.Command("echo", "inner").lines()))
            return trace

        sys.settrace(trace)
        came.append(list(cl.Command("echo", "outer").lines()))
        sys.settrace(None)
        if seen < nth:
            return 2
        assert came == [["inner"], ["outer"]], came
        return 0

    for nth in range(1, 10_000):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = attempt(nth)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 2), f"at the line of number {nth}"
        if code == 2:
            break
    assert nth > 50, "nothing was interrupted"


def test_a_signal_handler_streams_while_the_first_stream_begins():
    """What is imported only then is half there: nothing is."""
    fresh(stream_inside_the_first, os.path.dirname(cl.__file__))


LATE = """
import os, sys
import corelane as cl
from corelane.process import stream

class Late:
    def __del__(self):
        for attempt in ATTEMPTS:
            try:
                os.write(1, repr(attempt()).encode() + b"\\n")
            except BaseException as error:
                os.write(1, repr(error).encode() + b"\\n")

def spawn():
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
        process.stdin.write(b"x")
        process.stdin.close()
        return process.stdout.read()

ATTEMPTS = [lambda: list(cl.Command("echo", "x").lines()), lambda: list(cl.Command("echo", "x").chunks()), spawn]
sys.modules["late"] = Late()  # modules go last
"""


def test_streams_and_spawns_while_the_interpreter_ends():
    """Nothing can be imported any more."""
    ended = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.stdout, ended.stderr) == ("['x']\n[b'x\\n']\nb'x'\n", "")


def test_a_command_streams_again_and_in_several_threads():
    command = cl.Command("seq", "1000", timeout=60)
    expected = [str(number) for number in range(1, 1001)]
    wrong = []

    def work():
        for _ in range(3):
            if list(command.lines()) != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_streams_can_be_read_by_turns():
    one, other = cl.Command("seq", "3").lines(), cl.Command("seq", "3").lines()
    assert [*itertools.chain.from_iterable(zip(one, other, strict=True))] == ["1", "1", "2", "2", "3", "3"]


# ---- bounded memory ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chunks", "lines"])
def test_two_gibibytes_go_through_a_small_process(kind):
    process = psutil.Process()
    command = (
        cl.Command("head", "-c", str(2048 * MIB), "/dev/zero") if kind == "chunks" else cl.Command("yes", "x" * 999)
    )
    came = most = 0
    stream = getattr(command, kind)()
    for piece in itertools.islice(stream, 10):
        came += len(piece)
    before = process.memory_info().rss
    for turn, piece in enumerate(stream):
        came += len(piece)
        if turn % 1000 == 0:
            most = max(most, process.memory_info().rss)
        if kind == "lines" and came >= 2048 * MIB:
            break
    assert came >= 2048 * MIB
    assert most - before < 20 * MIB


@pytest.mark.slow
def test_many_streams_stopped_early_leave_nothing():
    """What they might leave is seen by `_nothing_left`."""
    for _ in range(200):
        for _ in cl.Command("yes").lines():
            break


def test_what_comes_between_a_look_at_the_pipe_and_one_at_the_child_is_counted(monkeypatch):
    """An eager read finds nothing; then the child writes several pieces and ends, while a daemon keeps the pipe: what
    was in it at the end is read, and not waited for twice."""

    class Slow:
        def __getattr__(self, name):
            return getattr(os, name)

        def read(self, fd, size):
            try:
                return os.read(fd, size)
            except BlockingIOError:
                (child,) = [each for each in psutil.Process().children() if each.pid not in others]
                os.write(go, b"\n")
                wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE, "the end of the child")
                raise

    others = {each.pid for each in psutil.Process().children()}
    ready, go = os.pipe()
    leash, end = os.pipe()
    monkeypatch.setattr(stream, "os", Slow())
    script = "read line <&3; head -c 60000 /dev/zero; cat <&4 & exit 0"
    options = {"drain": 0.05, "stdin": cl.DEVNULL, "fds": {3: ready, 4: leash}, "contain": "none"}
    try:
        assert sum(map(len, shell(script, **options).chunks(20_000))) == 60_000
    finally:
        for fd in (ready, go, leash, end):
            os.close(fd)
