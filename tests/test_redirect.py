"""Where streams come from and go to: every kind, for every stream, in a run and in a Process."""

import contextlib
import errno
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from faults_child import fresh, nothing_left
from helpers import about, every_strategy

import corelane as cl

# Says on stderr what came in on stdin, and on stdout what went out: all three streams in one child.
BOTH = 'cat; echo "to stderr" >&2'


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def shell(text=BOTH, *args, **options):
    return cl.Command.shell(text, *args, **{"timeout": 30, "stdin": cl.DEVNULL, **options})


def by_run(command):
    return command.run().returncode


def by_process(command):
    with command.with_options(timeout=None).spawn() as process:
        return process.wait(30)


both_ways = pytest.mark.parametrize("start", [by_run, by_process])


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


# ---- files by path ----


@both_ways
def test_a_path_is_truncated(start, log):
    log.write_text("something that was there before\n")
    assert start(shell("echo x", stdout=log)) == 0
    assert log.read_text() == "x\n"


@both_ways
def test_a_file_can_be_added_to(start, log):
    log.write_text("before\n")
    assert start(shell("echo x", stdout=cl.File(log, append=True))) == 0
    assert start(shell("echo y >&2", stderr=cl.File(os.fsencode(log), append=True))) == 0
    assert log.read_text() == "before\nx\ny\n"


@both_ways
def test_a_new_file_is_made_and_obeys_the_umask(start, log):
    before = os.umask(0o027)
    try:
        assert start(shell("echo x", stdout=log)) == 0
    finally:
        os.umask(before)
    assert log.stat().st_mode & 0o777 == 0o640


@both_ways
def test_a_path_for_stdin_is_read(start, log, tmp_path):
    log.write_text("input")
    assert start(shell(stdin=log, stdout=tmp_path / "out", stderr=cl.DEVNULL)) == 0
    assert (tmp_path / "out").read_text() == "input"
    assert log.read_text() == "input"


@both_ways
def test_a_path_is_relative_to_us_not_to_the_childs_cwd(start, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    assert start(shell("echo x", stdout=Path("here"), cwd="below")) == 0
    assert (tmp_path / "here").read_text() == "x\n"


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@both_ways
def test_a_path_that_cannot_be_opened_is_an_error_of_its_own(start, stream, tmp_path):
    """Of the file, not of the program: nothing was started."""
    path = tmp_path / "no" / "file"
    with pytest.raises(FileNotFoundError, match=f"its {stream} '{path}' cannot be opened") as info:
        start(shell("echo x", **{stream: path}))
    assert isinstance(info.value, cl.SpawnFailed)
    assert (info.value.stage, info.value.errno) == ("open", errno.ENOENT)


@both_ways
def test_files_that_were_opened_are_closed_when_another_cannot_be(start, log, tmp_path):
    """The check is `_nothing_left`."""
    with pytest.raises(FileNotFoundError):
        start(shell("echo x", stdin=Path(os.devnull), stdout=log, stderr=tmp_path / "no" / "file"))


# ---- file objects and descriptors ----


@both_ways
def test_a_file_object_continues_where_it_is(start, log):
    with open(log, "wb") as file:
        file.write(b"from us, ")
        assert start(shell("echo from the child", stdout=file)) == 0
        file.write(b"and us\n")
    # The child moved the offset that both share.
    assert log.read_bytes() == b"from us, from the child\nand us\n"


@pytest.mark.parametrize("buffering", [-1, 1, 4096])
def test_what_a_text_file_has_buffered_is_written_first(buffering, log):
    with open(log, "w", buffering=buffering) as file:
        for word in ("one", "two"):
            print(word, file=file)
            shell('echo "$1"', word * 2, stdout=file).run()
    assert log.read_text() == "one\noneone\ntwo\ntwotwo\n"


def test_one_prepared_command_flushes_at_each_run(log):
    with open(log, "w") as file:
        command = shell("echo child", stdout=file)
        for word in ("one", "two"):
            print(word, file=file)
            command.run()
    assert log.read_text() == "one\nchild\ntwo\nchild\n"


def test_two_objects_over_one_file_are_both_flushed(log):
    with open(log, "a") as out, open(log, "a") as err:
        out.write("1\n")
        out.flush()
        err.write("2\n")
        shell("echo 3; echo 4 >&2", stdout=out, stderr=err).run()
    assert log.read_text() == "1\n2\n3\n4\n"


def test_a_file_object_for_stdin_is_read_from_where_it_stands(log):
    log.write_bytes(b"skipped, read")
    with open(log, "rb", buffering=0) as file:
        file.seek(9)
        assert shell(stdin=file, stdout=cl.PIPE, stderr=cl.DEVNULL).run().stdout == b"read"


@both_ways
def test_a_temporary_file(start):
    with tempfile.TemporaryFile() as file:
        assert start(shell("echo x", stdout=file)) == 0
        file.seek(0)
        assert file.read() == b"x\n"


@both_ways
def test_a_socket(start):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hi")
        ours.shutdown(socket.SHUT_WR)
        assert start(shell(stdin=theirs, stdout=theirs, stderr=cl.DEVNULL)) == 0
        assert ours.recv(10) == b"hi"


@both_ways
def test_a_descriptor_stays_ours(start):
    reader, writer = os.pipe()
    try:
        assert start(shell("echo x", stdout=writer)) == 0
        assert start(shell("echo y >&2", stderr=writer)) == 0
        assert os.read(reader, 100) == b"x\ny\n"
    finally:
        os.close(reader)
        os.close(writer)


@both_ways
def test_one_descriptor_for_both_streams(start, log):
    with open(log, "wb") as file:
        assert start(shell("echo 1; echo 2 >&2; echo 3", stdout=file, stderr=file)) == 0
    assert log.read_bytes() == b"1\n2\n3\n"


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr", "fds", "tee_stdout"])
def test_a_closed_file_object_is_refused(stream, log):
    file = open(log, "w+")  # noqa: SIM115 - it is to be closed
    file.close()
    given = {3: file} if stream == "fds" else file
    extra = {"stdout": cl.PIPE} if stream == "tee_stdout" else {}
    with pytest.raises(ValueError, match="closed file"):
        shell("echo x", **{stream: given}, **extra).run()


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_an_object_without_a_descriptor_is_refused(stream):
    with pytest.raises(TypeError, match=stream):
        shell("echo x", **{stream: io.BytesIO()})


@pytest.mark.parametrize("name", ["PIPE", "DEVNULL", "STDOUT"])
def test_the_constants_of_subprocess_are_told_from_descriptors(name):
    with pytest.raises(ValueError, match=f"corelane.{name}"):
        shell("echo x", stderr=getattr(subprocess, name))


# ---- PIPE, DEVNULL, STDOUT, nothing ----


def test_capture_leaves_alone_what_is_given(tmp_path):
    merged = shell("echo out; echo err >&2", capture=True, stderr=cl.STDOUT).run()
    assert (merged.stdout, merged.stderr) == (b"out\nerr\n", None)
    command = shell("echo out; echo err >&2", capture=True, stdout=tmp_path / "out")
    other = command.run()
    assert (other.stdout, other.stderr, (tmp_path / "out").read_text()) == (None, b"err\n", "out\n")
    assert command.read() == "out\n"


def test_devnull_for_each():
    result = shell("cat; echo x; echo y >&2", stdin=cl.DEVNULL, stdout=cl.DEVNULL, stderr=cl.DEVNULL).run()
    assert (result.stdout, result.stderr) == (None, None)


@every_strategy
def test_devnull_is_opened_for_reading_and_writing(strategy):
    inode = os.stat(os.devnull).st_ino
    with tempfile.TemporaryFile() as out:
        about(out=3, fds={3: out}, stdin=cl.DEVNULL, stdout=cl.DEVNULL, stderr=cl.DEVNULL, strategy=strategy)
        out.seek(0)
        files = json.load(out)["files"]
    assert [files[n] for n in "012"] == [inode] * 3


@both_ways
def test_stderr_follows_stdout_wherever_it_goes(start, log):
    with open(log, "wb") as file:
        for target in (file, file.fileno(), cl.File(log, append=True)):
            assert start(shell("echo 1; echo 2 >&2", stdout=target, stderr=cl.STDOUT)) == 0
    assert log.read_bytes() == b"1\n2\n" * 3


def test_stderr_follows_a_stdout_that_is_inherited(capfd):
    shell("echo 1; echo 2 >&2", stderr=cl.STDOUT).run()
    assert capfd.readouterr() == ("1\n2\n", "")


def test_a_process_has_a_file_object_for_each_pipe():
    with shell("cat; echo err >&2", stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE, timeout=None).spawn() as process:
        process.stdin.write(b"in")
        process.stdin.close()
        assert process.stdout.read() == b"in"
        assert process.stderr.read() == b"err\n"
    with shell("true", timeout=None).spawn() as process:
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)


def test_capture_gives_a_process_its_pipes():
    with shell("echo out; echo err >&2", capture=True, timeout=None).spawn() as process:
        assert process.stdout.read() == b"out\n"
        assert process.stderr.read() == b"err\n"


# ---- swaps and clashes ----

ORDERS = [
    pytest.param({"stdout": 2, "stderr": 1}, {1: 2, 2: 1}, id="1->2 2->1"),
    pytest.param({"stdin": 1, "stdout": 2, "stderr": 0}, {0: 1, 1: 2, 2: 0}, id="all round"),
    pytest.param({"stdin": 2, "stdout": 0, "stderr": 1}, {0: 2, 1: 0, 2: 1}, id="the other way round"),
    pytest.param({"stdin": 0, "stdout": 1, "stderr": 2}, {0: 0, 1: 1, 2: 2}, id="all as they are"),
    pytest.param({"stdout": 2}, {0: 0, 1: 2, 2: 2}, id="both to stderr"),
    pytest.param({"stdout": 2, "stderr": cl.STDOUT}, {0: 0, 1: 2, 2: 2}, id="STDOUT after the swap"),
    pytest.param({"stdin": 1, "stdout": 0}, {0: 1, 1: 0, 2: 2}, id="0->1 1->0"),
]


@every_strategy
@pytest.mark.parametrize(("streams", "expected"), ORDERS)
def test_our_own_stdio_in_any_order(streams, expected, strategy, tmp_path):
    def swap(streams, strategy, directory):
        """With three files as our stdio, so that each can be told by its inode."""
        names = ["in", "out", "err"]
        for number, name in enumerate(names):
            fd = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT)
            os.dup2(fd, number)
            os.close(fd)
        if streams.get("stderr") == "STDOUT":
            streams["stderr"] = cl.STDOUT
        sys.path.insert(0, str(Path(__file__).parent))
        from helpers import about

        with open(f"{directory}/answer", "w+b") as answer:
            about(out=9, fds={9: answer}, strategy=strategy, **streams)

    plain = {name: "STDOUT" if value is cl.STDOUT else value for name, value in streams.items()}
    fresh(swap, plain, strategy, str(tmp_path), stderr=None)
    files = json.loads((tmp_path / "answer").read_bytes())["files"]
    inodes = [(tmp_path / name).stat().st_ino for name in ("in", "out", "err")]
    for target, source in expected.items():
        assert files[str(target)] == inodes[source]


@pytest.fixture
def three(tmp_path):
    """Three open files and their inodes."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(tmp_path / name, "w+b")) for name in "abc"]
        yield [(file.fileno(), os.fstat(file.fileno()).st_ino) for file in files]


@every_strategy
def test_descriptors_get_the_numbers_asked_for(three, strategy):
    (a, ino_a), (b, ino_b), (c, ino_c) = three
    me = about(fds={20: a, 3: b, 7: c}, strategy=strategy)
    assert me["fds"] == [0, 1, 2, 3, 7, 20]
    assert [me["files"][n] for n in ("20", "3", "7")] == [ino_a, ino_b, ino_c]


@every_strategy
def test_descriptors_whose_numbers_clash(three, strategy):
    """Each target is another entry's source: copied one after the other, one would be lost."""
    (a, ino_a), (b, ino_b), (c, ino_c) = three
    me = about(fds={a: b, b: c, c: a}, strategy=strategy)
    assert [me["files"][str(n)] for n in (a, b, c)] == [ino_b, ino_c, ino_a]
    assert me["fds"] == sorted([0, 1, 2, a, b, c])


@every_strategy
def test_a_descriptor_under_its_own_number(three, strategy):
    """Copying a descriptor onto itself leaves it closed on exec."""
    (a, ino_a), *_ = three
    assert about(fds={a: a}, strategy=strategy)["files"][str(a)] == ino_a


@every_strategy
def test_one_descriptor_under_many_numbers(three, strategy):
    (a, ino_a), *_ = three
    me = about(fds={30: a, 31: a, 40: a}, stdin=a, strategy=strategy)
    assert [me["files"][n] for n in ("0", "30", "31", "40")] == [ino_a] * 4


@every_strategy
def test_a_stream_may_also_be_in_the_map(three, strategy):
    """Our stdout as the child's 5, while its own stdout is a pipe."""
    me = about(fds={5: 1, 6: 0}, stdin=three[0][0], strategy=strategy)
    assert me["files"]["5"] == os.fstat(1).st_ino
    assert me["files"]["6"] == os.fstat(0).st_ino
    assert me["files"]["0"] == three[0][1]


def test_objects_may_be_in_the_map(tmp_path):
    with open(tmp_path / "x", "w") as file:
        file.write("before ")
        shell("printf after >&4", fds={4: file}).run()
    assert (tmp_path / "x").read_text() == "before after"


@every_strategy
@pytest.mark.parametrize("given", ["fds", "stdout"])
def test_a_descriptor_that_is_not_open_is_an_error_of_that_stage(given, strategy):
    """Also where the spawn itself opens something, which then gets the free number."""
    free = os.dup(0)
    os.close(free)
    with pytest.raises(cl.SpawnFailed) as info:
        shell("true", strategy=strategy, stderr=cl.PIPE, **{given: {5: free} if given == "fds" else free}).run()
    assert (info.value.stage, info.value.errno) == ("descriptors", errno.EBADF)


# ---- what else the child has ----


@every_strategy
def test_nothing_else_is_inherited(three, strategy):
    """Descriptors that some library opened without CLOEXEC."""
    for fd, _ in three:
        os.set_inheritable(fd, True)
    assert about(strategy=strategy)["fds"] == [0, 1, 2]
    assert about(strategy=strategy, fds={9: three[0][0]})["fds"] == [0, 1, 2, 9]


@every_strategy
def test_everything_inheritable_is_inherited_on_demand(three, strategy):
    os.set_inheritable(three[0][0], True)
    me = about(strategy=strategy, close_others=False)
    assert me["files"][str(three[0][0])] == three[0][1]
    assert not {three[1][0], three[2][0]} & set(me["fds"])


@every_strategy
def test_our_end_of_a_pipe_may_be_nonblocking_the_childs_is_not(strategy):
    me = about(strategy=strategy, stdin=b"x", stderr=cl.PIPE)
    assert me["nonblocking"] == []
