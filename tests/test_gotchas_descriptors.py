"""GOTCHAS "Descriptors": each trap as a test that fails when its handling is taken away; docs/gotchas.md tells more."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from helpers import (
    PATIENCE,
    about,
    descriptors,
    every_road,
    is_running,
    needs_linux,
    needs_strace,
    script,
    trace,
    wait_until,
)

import corelane as cl


@pytest.fixture
def files(tmp_path):
    """Three open files; about() tells them apart by their inodes."""
    opened = [(tmp_path / name).open("w+") for name in "abc"]
    yield opened
    for file in opened:
        file.close()


def inode(file):
    return os.fstat(file.fileno()).st_ino


# ---- 10: the descriptor map ------------------------------------------------------------------------------------------


@every_road
def test_a_descriptor_under_its_own_number_arrives(road, files):
    """dup2(n, n) changes nothing, so CLOEXEC, which every descriptor of Python's has, would stay."""
    number = files[0].fileno()
    assert not os.get_inheritable(number)
    child = about(fds={number: number}, **road)
    assert child["files"][str(number)] == inode(files[0])
    assert not os.get_inheritable(number)


@every_road
def test_descriptors_can_be_exchanged(road, files):
    """Done one after the other, the first dup2 would destroy the source of a later one."""
    a, b, c = (file.fileno() for file in files)
    child = about(fds={a: b, b: c, c: a}, stdin=a, **road)
    got = [child["files"][str(number)] for number in (a, b, c, 0)]
    assert got == [inode(files[1]), inode(files[2]), inode(files[0]), inode(files[0])]


@every_road
def test_stdout_and_stderr_can_be_exchanged(road):
    code = """
import json, os, sys
import corelane as cl
keep = os.dup(1)
(read1, write1), (read2, write2) = os.pipe(), os.pipe()
os.dup2(write1, 1)
os.dup2(write2, 2)
cl.run(["sh", "-c", "echo out; echo err >&2"], stdout=2, stderr=1, **json.loads(sys.argv[1]))
os.dup2(keep, 1)
os.dup2(keep, 2)
os.close(write1)
os.close(write2)
os.write(keep, json.dumps([os.read(read1, 100).decode(), os.read(read2, 100).decode()]).encode())
"""
    assert script(code, json.dumps(road)) == ["err\n", "out\n"]


@every_road
def test_stderr_goes_where_stdout_goes(road, files):
    shell = cl.Command.shell("echo out; echo err >&2", **road)
    assert shell.with_options(stdout=cl.PIPE, stderr=cl.STDOUT).read() == "out\nerr\n"
    shell.with_options(stdout=files[0], stderr=cl.STDOUT).run()
    assert Path(files[0].name).read_text() == "out\nerr\n"


@every_road
def test_a_parent_without_standard_streams(road):
    """Pipe ends that got the numbers 0, 1 or 2 would be taken for the streams that the child inherits."""
    code = """
import json, os, sys
import corelane as cl
road = json.loads(sys.argv[1])
keep = [os.dup(n) for n in (0, 1, 2)]
feeder = cl.Command.shell("cat; echo err >&2", stdin=b"fed\\n", capture=True, **road)
lister = cl.Command.shell("exec 3>&1; for n in 0 1 2; do [ ! -e /dev/fd/$n ] || echo $n; done", stdout=cl.PIPE, **road)
failing = cl.Command("/nonexistent", capture=True, **road)
done = []
for closed in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
    for n in closed:
        os.close(n)
    fed = feeder.run()
    listed = lister.run()
    try:
        failed = failing.run().returncode
    except FileNotFoundError as error:
        failed = error.stage
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, **road).spawn() as process:
        ours = [process.stdin.fileno(), process.stdout.fileno()]
        process.stdin.write(b"more")
        process.stdin.close()
        more = process.stdout.read()
    for n in (0, 1, 2):
        os.dup2(keep[n], n)
    done.append([closed, fed.stdout.decode(), fed.stderr.decode(), listed.text.split(), failed, more.decode(),
                 min(ours) > 2])
print(json.dumps(done))
"""
    for closed, out, err, inherited, failed, more, high in script(code, json.dumps(road)):
        assert (out, err, failed, more, high) == ("fed\n", "err\n", "exec", "more", True), closed
        assert inherited == [str(n) for n in (0, 1, 2) if n == 1 or n not in closed], closed


@every_road
def test_the_map_cannot_hide_a_failure(road, files):
    """What reports a failure to us is a descriptor too, and may have the number of a target."""
    targets = dict.fromkeys(range(3, 60), files[0])
    with pytest.raises(FileNotFoundError) as failure:
        cl.run(["/nonexistent"], fds=targets, **road)
    assert failure.value.stage == "exec"


@every_road
def test_the_map_cannot_hide_the_directory(road, files, tmp_path):
    """`cwd` given as a descriptor is meant as it is in this process."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        child = about(cwd=directory, fds={directory: files[0]}, **road)
    finally:
        os.close(directory)
    assert child["cwd"] == os.path.realpath(tmp_path)
    assert child["files"][str(directory)] == inode(files[0])


@every_road
def test_the_last_number_that_the_limit_allows_is_a_number(road):
    """Also where sources have to be moved out of each other's way: there is no room above the highest target."""
    code = """
import json, os, resource, sys
import corelane as cl
road = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
(read1, write1), (read2, write2) = os.pipe(), os.pipe()
show = "import os; os.write(63, b'63'); os.write(%d, b'other')" % write1
cl.run([sys.executable, "-c", show], fds={63: write1, write1: write2}, **road)
answers = [os.read(read1, 100).decode(), os.read(read2, 100).decode()]
for number in (64, 2**31 - 1):
    try:
        cl.run(["true"], fds={number: write1}, **road)
    except cl.SpawnFailed as failed:
        answers.append(failed.stage)
print(json.dumps(answers))
"""
    assert script(code, json.dumps(road)) == ["63", "other", "descriptors", "descriptors"]


# ---- 11: O_NONBLOCK --------------------------------------------------------------------------------------------------


@every_road
def test_a_childs_streams_block(road):
    """Ours may not; the flag is the open description's, so the two must not share one."""
    feed = b"x" * 300_000
    code = "import os, sys; flags = [os.get_blocking(n) for n in (0, 1, 2)]; sys.stdin.read(); print(*flags)"
    done = cl.run([sys.executable, "-c", code], stdin=feed, capture=True, **road)
    assert done.text.split() == ["True"] * 3
    assert done.stdin_left == 0


@every_road
def test_the_flags_of_a_given_descriptor_are_left_alone(road, files):
    """Whoever shares its description would be surprised."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        cl.run(["echo", "x"], stdin=files[0], stdout=cl.PIPE, tee_stdout=files[1], stderr=write, **road)
        assert not os.get_blocking(write)
        assert os.get_blocking(files[0].fileno())
        assert os.get_blocking(files[1].fileno())
        assert Path(files[1].name).read_text() == "x\n"
    finally:
        os.close(read)
        os.close(write)


# ---- 12: nothing of ours is ever inheritable -------------------------------------------------------------------------


@every_road
def test_what_a_process_holds_is_not_inherited(road):
    with cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE, **road).spawn() as process:
        held = {stream.fileno() for stream in (process.stdin, process.stdout, process.stderr)}
        assert not any(os.get_inheritable(number) for number in held)
        other = about(close_others=False, **road)
        process.kill()
    assert held.isdisjoint(other["fds"])


@needs_linux
@needs_strace
@every_road
def test_pipes_are_born_with_cloexec(road, tmp_path):
    """Set afterwards, a concurrent spawn could come between."""
    code = """
import json, sys
import corelane as cl
cl.run(["true"], stdin=b"x", capture=True, **json.loads(sys.argv[1]))
"""
    _, calls = trace(code, tmp_path, json.dumps(road), calls="pipe,pipe2")
    made = [call.text for call in calls]
    assert len(made) >= 3
    assert all(text.startswith("pipe2(") and "O_CLOEXEC" in text for text in made)


# ---- 13: descriptors of other libraries ------------------------------------------------------------------------------


@every_road
def test_inheritable_descriptors_of_others_stay_behind(road, files):
    number = files[0].fileno()
    os.set_inheritable(number, True)
    assert number not in about(**road)["fds"]
    assert number not in about(fds={number + 50: files[1]}, **road)["fds"]
    assert number in about(close_others=False, **road)["fds"]
    assert os.get_inheritable(number)


@every_road
def test_no_descriptor_appears_from_nowhere(road, tmp_path):
    """What we open to put a child together must not end up in it, also where nothing is closed for it."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        child = about(close_others=False, cwd=directory, fds={directory + 9: directory}, **road)
    finally:
        os.close(directory)
    assert set(child["fds"]) <= {0, 1, 2, directory + 9} | {n for n in descriptors() if os.get_inheritable(n)}


@needs_linux
@needs_strace
@every_road
def test_without_close_range_they_stay_behind_too(road, tmp_path):
    """Before 5.11, or behind a filter. More of them than one getdents call lists."""
    code = """
import json, os, sys
import corelane as cl
for _ in range(300):
    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
child = "import json, os; print(json.dumps([n for n in range(400) if os.path.exists(f'/proc/self/fd/{n}')]))"
print(cl.read([sys.executable, "-c", child], fds={77: 0}, **json.loads(sys.argv[1])))
"""
    inject = ["close_range:error=ENOSYS"]
    numbers, calls = trace(code, tmp_path, json.dumps(road), calls="close_range,getdents64", inject=inject)
    assert numbers == [0, 1, 2, 77]
    assert any(call.name == "getdents64" for call in calls)


# ---- 14: ETXTBSY -----------------------------------------------------------------------------------------------------


@needs_linux
@every_road
def test_a_busy_program_is_given_up_in_the_end(road, tmp_path):
    """That it is tried again at all is seen in test_other_threads_run_while_a_child_is_stuck_before_exec."""
    code = """
import json, shutil, subprocess, sys
import corelane as cl
program = shutil.copy(shutil.which("true"), sys.argv[1])
with subprocess.Popen(["sh", "-c", 'exec 3>>"$0"; echo; read _', program], stdin=-1, stdout=-1) as holder:
    holder.stdout.readline()
    try:
        cl.run([program], **json.loads(sys.argv[2]))
    except cl.SpawnFailed as error:
        print(json.dumps([error.errno, error.stage]))
"""
    assert script(code, tmp_path, json.dumps(road)) == [errno.ETXTBSY, "exec"]


# ---- 15: end of file -------------------------------------------------------------------------------------------------


@every_road
def test_end_of_file_comes_while_other_children_live(road):
    """A later child that had inherited the write end of an earlier one's stdin would keep it open."""
    first = cl.Command("cat", stdin=cl.PIPE, stdout=cl.PIPE, **road).spawn()
    second = cl.Command("sleep", "100", close_others=False, **road).spawn()
    try:
        first.stdin.write(b"x")
        first.stdin.close()
        assert first.wait(PATIENCE) == 0
        assert first.stdout.read() == b"x"
    finally:
        first.close()
        second.kill()
        second.wait()


@every_road
def test_a_process_forked_meanwhile_holds_nobody_up(road):
    """It has every descriptor that was open at that moment, also those through which a child tells that its exec has
    succeeded; and it lives for long."""
    code = """
import json, os, sys, threading, time, warnings
import corelane as cl
warnings.simplefilter("ignore")
command = cl.Command("true", **json.loads(sys.argv[1]))
leash, end = os.pipe()
done = threading.Event()

def fork():
    for _ in range(100):
        if os.fork() == 0:
            os.close(end)
            os.read(leash, 1)
            os._exit(0)
    done.set()

forker = threading.Thread(target=fork)
forker.start()
while not done.is_set():
    command.run()
forker.join()
os.close(end)
for _ in range(100):
    os.wait()
print("true")
"""
    assert script(code, json.dumps(road)) is True


@every_road
def test_our_copies_of_the_childs_ends_are_closed(road):
    before = descriptors()
    done = cl.run(["echo", "x"], capture=True, drain=PATIENCE, **road)
    assert not done.pipes_left_open
    with cl.Command("echo", "x", stdout=cl.PIPE, **road).spawn() as process:
        assert process.stdout.read() == b"x\n"
    del process
    assert descriptors() == before


_DAEMON = """
import os, sys, time
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.setsid()
    os.write(write, b"x")
    time.sleep(1000)
os.read(read, 1)
print(pid, flush=True)
"""


@needs_linux
@every_road
def test_a_pipe_that_outlives_the_child_is_read_no_longer_than_drain(road):
    """A grandchild that made itself a session, so that nothing short of a cgroup contains it, holds stdout."""
    done = cl.run([sys.executable, "-c", _DAEMON], stdout=cl.PIPE, drain=0.05, timeout=PATIENCE, **road)
    daemon = int(done.text)
    try:
        assert done.pipes_left_open
        assert is_running(daemon)
        assert done.elapsed < PATIENCE
    finally:
        os.kill(daemon, 9)
        wait_until(lambda: not is_running(daemon), "the daemon's end")
