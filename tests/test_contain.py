"""What is ended together with a child, when, and whether `contained` tells the truth about it."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults_child import children, fresh, is_gone, nothing_left, raises, until
from helpers import STRATEGIES, every_strategy, is_running, needs_linux, script, wait_until

import corelane as cl
from corelane._ffi import PLATFORM
from corelane.process import cgroup as groups

# Two descendants: one in the leader's group, one in a session of its own. Their pids go to a file, because a pipe that
# they held would keep the run.
FAMILY = """
import os, sys, time
near = os.fork() or time.sleep(1000)
reader, writer = os.pipe()
stray = os.fork()
if stray == 0:
    os.setsid()
    os.write(writer, b"x")
    time.sleep(1000)
os.read(reader, 1)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {near} {stray}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
if sys.argv[2] == "stay":
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


class Family:
    """A child with descendants; all that are left of them are killed at the end."""

    def __init__(self, directory):
        self.file = directory / "family"

    def command(self, then="leave", **options):
        streams = {"stdin": cl.DEVNULL, "stdout": cl.DEVNULL, "stderr": cl.DEVNULL}
        return cl.Command(sys.executable, "-I", "-S", "-c", FAMILY, self.file, then, **{**streams, **options})

    def pids(self):
        wait_until(self.file.exists, "the family")
        return tuple(map(int, self.file.read_text().split()))

    def end(self):
        if self.file.exists():
            for pid in self.pids()[1:]:
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def family(tmp_path):
    made = Family(tmp_path)
    yield made
    made.end()


def ended(*pids):
    for pid in pids:
        wait_until(lambda pid=pid: not is_running(pid), f"the end of {pid}")


# ---- a group ----


@every_strategy
@pytest.mark.parametrize("contain", ["auto", "group"])
def test_a_group_ends_with_the_run(contain, strategy, family):
    result = family.command(contain=contain, strategy=strategy, timeout=30).run()
    _, near, stray = family.pids()
    assert result.contained == "group"
    ended(near)
    assert is_running(stray), "it left the group, which is no more than was promised"


def test_a_group_ends_at_the_deadline(family):
    with pytest.raises(cl.ProcessTimeout, match="contained by group"):
        family.command("stay", timeout=0.9).run()
    leader, near, stray = family.pids()
    ended(leader, near)
    assert is_running(stray)


@pytest.mark.parametrize("leave", ["normally", "waited for", "terminate", "kill_tree"])
def test_a_group_ends_with_the_block(leave, family):
    if leave == "waited for" and PLATFORM != "linux":
        pytest.skip("documented: no pidfd to reach a group by after wait() has reaped its leader")
    with family.command("leave" if leave in ("normally", "waited for") else "stay").spawn() as process:
        leader, near, stray = family.pids()
        if leave == "waited for":
            assert process.wait(20) == 0
        elif leave == "terminate":
            assert process.terminate(20) == -signal.SIGTERM
        elif leave == "kill_tree":
            process.kill_tree()
    assert process.contained == "group"
    ended(leader, near)
    if leave == "kill_tree":
        ended(stray)
    else:
        assert is_running(stray)


# ---- nothing ----


def test_without_containment_only_the_child_ends(family):
    result = family.command(contain="none", timeout=30).run()
    _, near, stray = family.pids()
    assert result.contained == "none"
    assert is_running(near)
    assert is_running(stray)


def test_without_containment_only_the_child_ends_at_the_deadline(family):
    with pytest.raises(cl.ProcessTimeout, match="contained by none"):
        family.command("stay", contain="none", timeout=0.9).run()
    leader, near, stray = family.pids()
    ended(leader)
    assert is_running(near)
    assert is_running(stray)


def test_without_containment_the_block_ends_only_the_child(family):
    with family.command("stay", contain="none").spawn() as process:
        _, near, _ = family.pids()
        assert process.contained == "none"
        assert process.signal_scope("TERM")
        assert process.wait(20) == -signal.SIGTERM
    assert is_running(near)


def test_without_containment_kill_tree_still_finds_all(family):
    with family.command("stay", contain="none").spawn() as process:
        _, near, stray = family.pids()
        process.kill_tree()
        ended(near, stray)


# ---- which group ----


def group_of(**options):
    """(its group is its own, what is contained) of a child."""
    with cl.Command("sleep", "1000", **{"stdin": cl.DEVNULL, **options}).spawn() as process:
        own = os.getpgid(process.pid) == process.pid
        contained = process.contained
        process.kill()
    return own, contained


@every_strategy
def test_whose_group_it_is(strategy):
    assert group_of(strategy=strategy) == (True, "group")
    assert group_of(strategy=strategy, contain="group") == (True, "group")
    assert group_of(strategy=strategy, contain="none") == (False, "none")
    assert group_of(strategy=strategy, process_group=0) == (True, "group")
    assert group_of(strategy=strategy, process_group=0, contain="none") == (True, "none")
    assert group_of(strategy=strategy, new_session=True) == (True, "group")
    assert group_of(strategy=strategy, new_session=True, contain="none") == (True, "none")


@every_strategy
def test_a_group_that_is_joined_is_not_ours_to_kill(strategy):
    sleep = cl.Command("sleep", "1000", stdin=cl.DEVNULL, strategy=strategy)
    with sleep.spawn() as first:
        with sleep.spawn(process_group=first.pid) as second:
            assert os.getpgid(second.pid) == first.pid
            assert second.contained == "none"
            second.kill()
        assert first.state == "running"
        first.kill()


# ---- a terminal ----

TERMINAL = """
import json, os, pty, select, signal, sys
import corelane as cl

def inside():
    # We lead the session of a terminal, as a shell does.
    answers = {}
    tty = os.open("/dev/tty", os.O_RDWR)
    read_line = 'read line; echo "$line"'
    os.write(report, b"go\\n")
    answers["auto"] = cl.run(["true"]).contained
    answers["stdin is another"] = cl.run(["true"], stdin=cl.DEVNULL).contained
    answers["as a descriptor"] = cl.run(["true"], stdin=tty).contained
    answers["asked for"] = cl.run(["true"], contain="group").contained
    answers["reads"] = cl.Command.shell(read_line, stdout=cl.PIPE, timeout=20).run().text
    os.write(report, b"go\\n")
    lent = cl.Command.shell(read_line, stdout=cl.PIPE, timeout=20, foreground=True).run()
    answers["lent"] = [lent.text, lent.contained]
    answers["taken back"] = os.tcgetpgrp(tty) == os.getpgrp()
    with cl.Command("sleep", "1000", foreground=True).spawn() as process:
        answers["lent to a process"] = os.tcgetpgrp(tty) == process.pid
        process.kill()
    answers["taken back again"] = os.tcgetpgrp(tty) == os.getpgrp()
    try:
        cl.Command("sleep", "1000", foreground=True, timeout=0.1).run()
    except cl.ProcessTimeout:
        answers["taken back at a deadline"] = os.tcgetpgrp(tty) == os.getpgrp()
    try:
        cl.run(["/no/such/program"], foreground=True)
    except cl.SpawnFailed:
        answers["taken back after a failure"] = os.tcgetpgrp(tty) == os.getpgrp()
    return answers

reader, report = os.pipe()
pid, master = pty.fork()
if pid == 0:
    os.close(reader)
    try:
        answers = inside()
    except BaseException as error:
        answers = {"error": repr(error)}
    os.write(report, json.dumps(answers).encode() + b"\\n")
    os._exit(0)
os.close(report)
words = iter([b"first\\n", b"second\\n"])
seen = b""
while True:
    ready, _, _ = select.select([reader, master], [], [])
    try:
        if master in ready:
            os.read(master, 4096)
    except OSError:
        pass
    if reader in ready:
        piece = os.read(reader, 65536)
        if not piece:
            break
        if piece.startswith(b"go\\n"):
            os.write(master, next(words))
            piece = piece[3:]
        seen += piece
os.waitpid(pid, 0)
os.write(1, seen)
"""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_terminal_decides_what_auto_is(strategy):
    code = TERMINAL.replace('cl.run(["true"]', f'cl.run(["true"], strategy="{strategy}"')
    answers = script(code)
    assert answers == {
        "auto": "none",
        "stdin is another": "group",
        "as a descriptor": "none",
        "asked for": "group",
        "reads": "first\n",
        "lent": ["second\n", "group"],
        "taken back": True,
        "lent to a process": True,
        "taken back again": True,
        "taken back at a deadline": True,
        "taken back after a failure": True,
    }


def test_a_new_session_can_have_a_terminal_of_its_own():
    master, slave = os.openpty()
    try:
        text = "echo to the terminal >/dev/tty"
        cl.Command.shell(text, new_session=True, controlling_terminal=slave, stdin=slave, timeout=20).run()
        assert os.read(master, 100) == b"to the terminal\r\n"
    finally:
        os.close(master)
        os.close(slave)


def test_foreground_without_a_terminal_is_an_error_of_that_stage():
    code = """
import json
import corelane as cl
try:
    cl.run(["true"], foreground=True)
except cl.SpawnFailed as error:
    print(json.dumps([error.stage, "controlling terminal" in str(error)]))
"""
    assert script(code) == ["foreground", True]


# ---- a cgroup ----

needs_members = pytest.mark.skipif(
    PLATFORM == "portable", reason="the portable build has no pidfd to signal the members of a cgroup by"
)


def our_cgroup():
    """The directory of our own v2 cgroup, found in another way than the package does it."""
    if sys.platform != "linux":
        pytest.skip("this system has no cgroups")
    with open("/proc/self/cgroup") as lines:
        own = next((line[3:].strip() for line in lines if line.startswith("0::")), None)
    found = subprocess.run(["findmnt", "-nro", "TARGET", "-t", "cgroup2"], capture_output=True, text=True, check=False)
    mounts = found.stdout.split()
    if own is None or not mounts:
        pytest.skip("no cgroup v2 hierarchy is mounted here")
    return mounts[0].rstrip("/") + own.rstrip("/")


_numbers = itertools.count()


@pytest.fixture
def cgroup():
    """A cgroup of the test's own, which must be empty of cgroups at the end."""
    path = os.path.join(our_cgroup(), f"corelane-test-{os.getpid()}-{next(_numbers)}")
    try:
        os.mkdir(path)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    joins = ["sh", "-c", 'echo $$ >"$1/cgroup.procs"', "sh", path]
    can_join = subprocess.run(joins, stderr=subprocess.DEVNULL, check=False).returncode == 0
    try:
        if not can_join or not os.path.exists(f"{path}/cgroup.kill"):
            pytest.skip("our cgroup cannot be entered, or this kernel has no cgroup.kill")
        yield path
        assert scopes(path) == []
    finally:
        if can_join:
            write(path, "cgroup.freeze", "0")
            write(path, "cgroup.kill", "1")
            wait_until(lambda: "populated 0" in read(path, "cgroup.events"), "an empty cgroup")
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)


def write(path, name, text):
    with open(os.path.join(path, name), "w") as file:
        file.write(text)


def read(path, name):
    with open(os.path.join(path, name)) as file:
        return file.read()


def members(path):
    return set(map(int, read(path, "cgroup.procs").split()))


def scopes(path):
    return [entry.path for entry in os.scandir(path) if entry.is_dir()]


@every_strategy
def test_a_cgroup_ends_with_the_run(strategy, cgroup, family):
    result = family.command(contain="cgroup", cgroup=cgroup, strategy=strategy, timeout=30).run()
    assert (result.contained, result.strategy) == ("cgroup", strategy)
    assert not any(map(is_running, family.pids())), "nobody leaves a cgroup, and all are dead when the run returns"


def test_a_cgroup_ends_at_the_deadline(cgroup, family):
    with pytest.raises(cl.ProcessTimeout, match="contained by cgroup") as info:
        family.command("stay", contain="cgroup", cgroup=cgroup, timeout=0.9).run()
    assert info.value.result.contained == "cgroup"
    assert not any(map(is_running, family.pids()))


@pytest.mark.parametrize("leave", ["normally", "waited for", "terminate", "kill_tree"])
def test_a_cgroup_ends_with_the_block(leave, cgroup, family):
    command = family.command(
        "leave" if leave in ("normally", "waited for") else "stay", contain="cgroup", cgroup=cgroup
    )
    with command.spawn() as process:
        pids = family.pids()
        (scope,) = scopes(cgroup)
        assert members(scope) >= set(pids[1:])
        if leave == "waited for":
            assert process.wait(20) == 0
        elif leave == "terminate":
            assert process.terminate(20) == -signal.SIGTERM
        elif leave == "kill_tree":
            process.kill_tree()
    assert process.contained == "cgroup"
    assert not any(map(is_running, pids))


@needs_members
def test_the_polite_signal_reaches_everyone_in_a_cgroup(cgroup, family):
    with family.command("stay", contain="cgroup", cgroup=cgroup).spawn() as process:
        pids = family.pids()
        assert process.signal_scope("TERM")
        ended(*pids)
        assert process.wait(20) == -signal.SIGTERM
        assert process.signal_scope("TERM") is False


@needs_members
@pytest.mark.slow
def test_the_polite_signal_reaches_a_thousand(cgroup):
    """More than one read of cgroup.procs returns."""
    text = "i=0; while [ $i -lt 1000 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait"
    command = cl.Command.shell(text, stdout=cl.PIPE, contain="cgroup", cgroup=cgroup)
    with command.spawn() as process:
        assert process.stdout.readline() == b"ready\n"
        (scope,) = scopes(cgroup)
        assert len(members(scope)) == 1001
        assert process.signal_scope("TERM")
        wait_until(lambda: not members(scope), "the end of all")
        assert process.wait(20) == -signal.SIGTERM


@every_strategy
def test_a_child_is_born_in_the_cgroup_given(strategy, cgroup):
    """Which is not a scope: what else lives there is left alone."""
    with cl.Command("sleep", "1000", stdin=cl.DEVNULL, cgroup=cgroup, strategy=strategy).spawn() as process:
        assert members(cgroup) == {process.pid}
        assert process.contained == "group"
        with cl.Command("true", cgroup=cgroup, strategy=strategy).spawn() as other:
            assert other.wait(20) == 0
        assert process.state == "running"
        process.kill()
    assert scopes(cgroup) == []


def test_the_cgroup_is_found_when_none_is_given(cgroup, family):
    """`cgroup` is only asked for the right to make one."""
    assert groups.find() == our_cgroup()

    def ours():  # other programs of corelane may be making theirs beside
        return [path for path in scopes(our_cgroup()) if os.path.basename(path).startswith(f"corelane-{os.getpid()}-")]

    assert ours() == []
    with family.command(contain="cgroup").spawn() as process:
        pids = family.pids()
        (made,) = ours()
        assert members(made) >= set(pids[1:])
    assert process.contained == "cgroup"
    assert ours() == []
    assert not any(map(is_running, family.pids()))


def test_a_failed_spawn_leaves_no_cgroup(cgroup):
    with pytest.raises(FileNotFoundError):
        cl.run(["/no/such/program"], contain="cgroup", cgroup=cgroup)
    with pytest.raises(FileNotFoundError):
        cl.Command("/no/such/program", contain="cgroup", cgroup=cgroup).spawn()
    with pytest.raises(FileNotFoundError):
        cl.Command("true", contain="cgroup", cgroup=cgroup, stdin=cl.File("/no/such/file")).run()


@needs_linux
@pytest.mark.parametrize("contain", ["cgroup", "auto"])
def test_what_is_no_cgroup_is_refused(contain, tmp_path):
    with pytest.raises(cl.CgroupUnavailable, match="no cgroup") as info:
        cl.run(["true"], contain=contain, cgroup=tmp_path)
    assert isinstance(info.value, OSError)
    assert info.value.command.args == ("true",)
    with pytest.raises(cl.CgroupUnavailable, match="no/such"):
        cl.Command("true", contain=contain, cgroup="/no/such/place").spawn()
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_cgroup_is_refused_instead_of_hanging_us(cgroup):
    write(cgroup, "cgroup.freeze", "1")
    wait_until(lambda: "frozen 1" in read(cgroup, "cgroup.events"), "the frost")
    for contain in ("auto", "cgroup"):
        with pytest.raises(cl.CgroupUnavailable, match="frozen"):
            cl.run(["true"], contain=contain, cgroup=cgroup, timeout=5)
    write(cgroup, "cgroup.freeze", "0")
    assert cl.run(["true"], cgroup=cgroup, timeout=20).ok


def test_a_frozen_child_is_killed_all_the_same(cgroup):
    with cl.Command("sleep", "1000", stdin=cl.DEVNULL, contain="cgroup", cgroup=cgroup).spawn() as process:
        (scope,) = scopes(cgroup)
        write(scope, "cgroup.freeze", "1")
        wait_until(lambda: "frozen 1" in read(scope, "cgroup.events"), "the frost")
        assert process.terminate(0.05) in (-signal.SIGTERM, -signal.SIGKILL)


def test_cgroups_that_the_child_made_go_with_its_own(cgroup):
    text = (
        'own=$(echo "$1"/corelane-*); mkdir -p "$own/below/further"; echo $$ >"$own/below/cgroup.procs"; sleep 1000 &'
    )
    streams = {"stdin": cl.DEVNULL, "stdout": cl.DEVNULL, "stderr": cl.DEVNULL}
    started = time.monotonic()
    result = cl.Command.shell(text, cgroup, contain="cgroup", cgroup=cgroup, timeout=30, **streams).run()
    assert result.contained == "cgroup"
    assert scopes(cgroup) == []
    assert time.monotonic() - started < 1


def test_a_dropped_process_keeps_its_cgroup_until_it_ends(cgroup):
    process = cl.Command("cat", stdin=cl.PIPE, contain="cgroup", cgroup=cgroup).spawn()
    ours = os.dup(process.stdin.fileno())
    process.close()
    pid = process.pid
    held = [process]
    del process
    started = time.monotonic()
    with pytest.warns(ResourceWarning, match="was dropped"):
        held.clear()
    assert time.monotonic() - started < 0.5, "nothing is waited for"
    (scope,) = scopes(cgroup)
    assert members(scope) == {pid}
    os.close(ours)
    wait_until(lambda: "populated 0" in read(scope, "cgroup.events"), "the end")
    cl.Command("true").spawn().wait(20)
    assert scopes(cgroup) == [], "removed when the child was reaped, at the next spawn"


@needs_linux
@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_forked_child_leaves_the_scope_alone(state, cgroup):
    """Also when nobody is in it, and it could be removed."""
    code = """
import gc, json, os, sys, time
import corelane as cl
argv = ["sleep", "1000"] if sys.argv[2] == "running" else ["true"]
process = cl.Command(*argv, stdin=cl.DEVNULL, contain="cgroup", cgroup=sys.argv[1]).spawn()
while process.state != sys.argv[2]:
    pass
child = os.fork()
if child == 0:
    started = time.monotonic()
    del process
    gc.collect()
    os._exit(time.monotonic() - started > 0.5)
status = os.waitpid(child, 0)[1]
scope = [entry.name for entry in os.scandir(sys.argv[1]) if entry.is_dir()]
state = process.state
process.kill()
process.__exit__(None, None, None)
print(json.dumps([status, len(scope), state]))
"""
    assert script(code, cgroup, state) == [0, 1, state]


def end_without_descriptors(how, cgroup, mark):
    """End a child in a cgroup, and its daemon, when this process has no descriptor left."""
    import resource
    import signal

    mark = Path(mark)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    daemons, held = [], []

    def take_all(*_):
        daemons.append(int(mark.read_text()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        mark.unlink()

    text = 'setsid sleep 1000 & echo $! >"$1"; kill -USR1 $PPID; while [ -e "$1" ]; do sleep 0.01; done; '
    text += "true" if how == "end" else "sleep 1000"
    streams = {"stdin": cl.DEVNULL, "stdout": cl.DEVNULL, "stderr": cl.DEVNULL}
    command = cl.Command.shell(text, mark, contain="cgroup", cgroup=cgroup, **streams)
    signal.signal(signal.SIGUSR1, take_all)
    if how == "end":
        assert command.run().ok
    elif how == "timeout":
        with raises(cl.ProcessTimeout):
            command.with_options(timeout=1).run()
    else:
        with raises(KeyError), command.spawn():
            until(lambda: held and not mark.exists())
            raise KeyError
    assert held, "it ended too early for this test"
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    until(lambda: is_gone(daemons[0]))

    def is_removed():  # at once, or by a later run
        cl.run(["true"])
        return not [entry for entry in os.scandir(cgroup) if entry.is_dir()]

    until(is_removed)
    assert children() == []


@pytest.mark.parametrize("how", ["end", "timeout", "with"])
def test_a_cgroup_ends_also_when_no_descriptor_is_left(how, cgroup, tmp_path):
    """Other threads may have taken the last one since the spawn; a daemon must not live on for that."""
    fresh(end_without_descriptors, how, cgroup, str(tmp_path / "mark"))


def run_short_of_descriptors(cgroup):
    """Run with 0, 1, 2, ... free descriptors; prints how often it failed before it did not."""
    import resource

    cl.run(["true"], contain="cgroup", cgroup=cgroup)
    cl.run(["true"])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    failed = 0
    for free in range(20):
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        for fd in held[len(held) - free :]:
            os.close(fd)
        del held[len(held) - free :]
        try:
            cl.run(["true"], contain="cgroup", cgroup=cgroup)
        except cl.ResourceExhausted:
            failed += 1
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        left = [entry.name for entry in os.scandir(cgroup) if entry.is_dir()]
        assert not left, f"with {free} free descriptors: {left}"
    print(failed)


def test_a_run_that_found_no_descriptor_leaves_no_cgroup(cgroup):
    assert 0 < int(fresh(run_short_of_descriptors, cgroup)) < 20


def run_after_a_predecessor(cgroup, kept):
    """As in a container that is started again: the same pid, and directories of the one that was killed."""
    left = [f"{cgroup}/corelane-{os.getpid()}-{number}" for number in (1, 2, 4)]
    for path in left:
        os.mkdir(path)
    for _ in range(3):
        assert cl.run(["true"], contain="cgroup", cgroup=cgroup).contained == "cgroup"
    with cl.Command("true", contain="cgroup", cgroup=cgroup).spawn() as process:
        process.wait()
    found = sorted(entry.path for entry in os.scandir(cgroup) if entry.is_dir())
    for path in found:
        os.rmdir(path)
    if kept:
        assert found == left
    else:
        assert set(found) <= set(left)


@pytest.mark.parametrize(
    "kept",
    [False, True],
    ids=["in the way", "touched"],
)
def test_what_a_predecessor_left_is_neither_in_the_way_nor_touched(kept, cgroup):
    """It may belong to one who lives, and has our pid in another namespace."""
    fresh(run_after_a_predecessor, cgroup, kept)


@pytest.mark.parametrize(
    "end",
    [lambda process: process.terminate(20), lambda process: process.signal_scope("KILL"), cl.Process.kill_tree],
    ids=["terminate", "signal_scope", "kill_tree"],
)
def test_a_cgroup_that_vanished_still_ends(end, cgroup):
    """An administrator may move its members and remove it; the child is still ours."""
    with cl.Command("sleep", "1000", stdin=cl.DEVNULL, contain="cgroup", cgroup=cgroup).spawn() as process:
        (scope,) = scopes(cgroup)
        write(cgroup, "cgroup.procs", str(process.pid))
        wait_until(lambda: "populated 0" in read(scope, "cgroup.events"), "the move")
        os.rmdir(scope)
        end(process)
        assert process.wait(20) in (-signal.SIGTERM, -signal.SIGKILL)


# ---- a fork in a signal handler ----


def fork_in_a_handler(options):
    """The child of a run makes us fork while we wait for it, and ends only after the forked child has."""
    import signal

    parent = os.getpid()
    reader, writer = os.pipe()
    verdicts = []

    def fork(*_):
        pid = os.fork()
        if pid:
            verdicts.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os.close(writer)

    signal.signal(signal.SIGUSR1, fork)
    text = "kill -USR1 $PPID; read line; echo done"
    try:
        result = cl.run(["sh", "-c", text], stdin=reader, stdout=cl.PIPE, timeout=20, **options)
    except BaseException as error:
        if os.getpid() == parent:
            raise
        os._exit(7 if type(error) is cl.NotOwner else 1)
    if os.getpid() != parent:
        os._exit(2)
    assert verdicts == [7], "7 is NotOwner"
    assert (result.stdout, result.returncode) == (b"done\n", 0)
    assert children() == []


def test_a_fork_in_a_signal_handler_leaves_the_run_to_the_parent():
    fresh(fork_in_a_handler, {})


def test_a_fork_in_a_signal_handler_leaves_the_cgroup_to_the_parent(cgroup):
    fresh(fork_in_a_handler, {"contain": "cgroup", "cgroup": cgroup})


# ---- dying with the parent ----

PARENT = """
import os, sys, threading
import corelane as cl

def start():
    global process
    command = cl.Command("sleep", "1000", stdin=cl.DEVNULL, stdout=cl.DEVNULL, **OPTIONS)
    process = command.spawn()

if WHERE == "a worker thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    # The signal would be sent when the kernel's thread ends, a moment after Python's.
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        pass
else:
    start()
print(process.pid, process.state, flush=True)
sys.stdin.read()
"""


def parent(where, **options):
    code = f"WHERE, OPTIONS = {where!r}, {options!r}\n{PARENT}"
    return cl.Command(sys.executable, "-c", code, stdin=cl.PIPE, stdout=cl.PIPE)


@needs_linux
@every_strategy
@pytest.mark.parametrize("where", ["the main thread", "a worker thread"])
def test_a_child_that_is_tied_dies_with_its_parent(where, strategy):
    with parent(where, strategy=strategy, die_with_parent=True, contain="none").spawn() as process:
        pid, state = process.stdout.readline().split()
        assert state == b"running"
        assert is_running(int(pid)), "also when the thread that spawned it has ended"
        process.kill()
        ended(int(pid))


@needs_linux
def test_the_signal_of_the_parents_death_can_be_chosen(tmp_path):
    text = "trap 'echo told >\"$1\"; exit' USR1; echo $$; while :; do sleep 0.02; done"
    code = (
        "import sys, corelane as cl\n"
        "process = cl.Command.shell(sys.argv[1], sys.argv[2], die_with_parent='USR1').spawn()\n"
        "process.wait()"
    )
    command = cl.Command(sys.executable, "-c", code, text, tmp_path / "mark", stdout=cl.PIPE)
    with command.spawn() as process:
        pid = int(process.stdout.readline())
        process.kill()
        ended(pid)
    assert (tmp_path / "mark").read_text() == "told\n"


@needs_linux
def test_a_child_of_a_run_is_tied():
    for call in ("cl.run(argv)", "list(cl.Command(*argv).lines())", "list(cl.Command(*argv).chunks())"):
        code = f"import corelane as cl; argv = ['sh', '-c', 'echo $$ >&2; exec sleep 1000']; {call}"
        with cl.Command(sys.executable, "-c", code, stderr=cl.PIPE).spawn() as process:
            pid = int(process.stderr.readline())
            process.kill()
            ended(pid)


@needs_linux
@pytest.mark.parametrize(
    "call",
    [
        "cl.Command('cat', contain='none').spawn().wait()",
        "cl.Command('cat', contain='none').spawn(die_with_parent=False).wait()",
        "cl.run(['cat'], contain='none', die_with_parent=False)",
    ],
)
def test_a_child_of_spawn_is_not_tied_and_one_of_a_run_need_not_be(call):
    """It has our pipes from its parent, and still answers when that is gone."""
    code = f"import corelane as cl; {call}"
    with cl.Command(sys.executable, "-c", code, stdin=cl.PIPE, stdout=cl.PIPE).spawn(contain="none") as process:
        for word in (b"before\n", b"after\n"):
            process.stdin.write(word)
            process.stdin.flush()
            assert process.stdout.readline() == word
            process.kill()
            assert process.wait(20) == -signal.SIGKILL
