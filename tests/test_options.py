"""The options of a Command: each way to write one, what the environment becomes, and answers to typing errors."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from faults_child import nothing_left
from hypothesis import given, settings
from hypothesis import strategies as st

import corelane as cl
from corelane.process import engine, environ, typed
from corelane.process import options as known

ON_DARWIN = sys.platform == "darwin"


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


# ---- every way to write an option ----

# name -> (as it may be written, the form it is kept in)
FORMS = {
    "program": [("cat", "cat"), (b"c\xff", b"c\xff"), (Path("/bin/cat"), "/bin/cat")],
    "cwd": [("/tmp", "/tmp"), (b"/\xff", b"/\xff"), (Path("/a/b"), "/a/b"), (3, 3)],
    "env": [({}, ()), ({"B": "2", b"A": Path("/x")}, ((b"A", b"/x"), (b"B", b"2"))), ({"A": "="}, ((b"A", b"="),))],
    "env_add": [({"A": ""}, ((b"A", b""),)), ({b"\xff": "\udcff"}, ((b"\xff", b"\xff"),))],
    "env_remove": [(["B", b"A", "B"], (b"A", b"B")), ({"A"}, (b"A",)), (("A",), (b"A",))],
    "umask": [(0, 0), (0o777, 0o777)],
    "user": [("root", "root"), (0, 0), (2**32 - 2, 2**32 - 2)],
    "group": [("wheel", "wheel"), (7, 7)],
    "extra_groups": [([], ()), (["adm", 4], ("adm", 4))],
    "no_new_privs": [(True, True), (False, False)],
    "stdin": [
        (b"x", b"x"),
        ("x", "x"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        ([b"x", bytearray(b"y")], (b"x", b"y")),
        (Path("/f"), cl.File("/f")),
        (cl.PIPE, cl.PIPE),
        (cl.DEVNULL, cl.DEVNULL),
        (0, 0),
        (sys.__stderr__, sys.__stderr__),
    ],
    "stdout": [(Path("f"), cl.File("f")), (cl.File("f", append=True), cl.File("f", append=True)), (2, 2)],
    "stderr": [(cl.STDOUT, cl.STDOUT), (cl.PIPE, cl.PIPE), (1, 1)],
    "fds": [({5: 0, 3: 1}, ((3, 1), (5, 0))), ({3: sys.__stderr__}, ((3, sys.__stderr__),)), ({}, ())],
    "close_others": [(True, True), (False, False)],
    "pipe_size": [(4096, (4096, 4096, 4096)), ({"stdout": 8192}, (0, 8192, 0)), ({}, (0, 0, 0))],
    "buffer_size": [(1, (1, 1, 1)), ({"stdin": 1, "stderr": 3}, (1, 0, 3))],
    "process_group": [(0, 0), (2**31 - 1, 2**31 - 1)],
    "new_session": [(True, True)],
    "controlling_terminal": [(0, 0)],
    "foreground": [(True, True)],
    "contain": [("group", "group"), ("cgroup", "cgroup"), ("none", "none"), ("auto", None)],
    "cgroup": [("/c", "/c"), (Path("/c"), "/c")],
    "die_with_parent": [(True, signal.SIGKILL), (False, 0), ("TERM", signal.SIGTERM), (signal.SIGHUP, signal.SIGHUP)],
    "signal_mask": [([], ()), (["TERM", 2, signal.SIGHUP], (1, 2, 15)), ({"SIGKILL"}, (9,))],
    "signal_defaults": [(["HUP", "SIGHUP", 1], (1,))],
    "signal_ignores": [(("INT",), (2,))],
    "rlimits": [
        ({"nofile": 64, "CPU": (1, 2)}, (("cpu", 1, 2), ("nofile", 64, 64))),
        ({"core": "unlimited", "data": (0, "unlimited")}, (("core", 2**64 - 1, 2**64 - 1), ("data", 0, 2**64 - 1))),
        ({"stack": [1, 2]}, (("stack", 1, 2),)),
    ],
    "nice": [(-20, -20), (19, 19)],
    "sched": [("batch", (3, 0)), ("idle", (5, 0)), ("other", (0, 0)), (("fifo", 1), (1, 1)), (("rr", 99), (2, 99)),
        (cl.cpu.Deadline(0.001, 0.01), cl.cpu.Deadline(0.001, 0.01, 0.01))],
    "reset_on_fork": [(True, True), (False, False)],
    "uclamp": [((0, 1024), (0, 1024)), ((None, 512), (-1, 512)), ([100, None], (100, -1))],
    "cpus": [
        ("0", (0,)),
        ("0-3,8", (0, 1, 2, 3, 8)),
        (" 5,4-5,0-0 ", (0, 4, 5)),
        ({3, 1}, (1, 3)),
        (7, (7,)),
        (range(3), (0, 1, 2)),
    ],
    "io_priority": [("idle", 3 << 13), (("best-effort", 7), 2 << 13 | 7), (("realtime", 0), 1 << 13), ("none", 0)],
    "memory_policy": [
        ("default", (0, ())),
        ("local", (4, ())),
        (("bind", "0-1,4"), (2, (0, 1, 4))),
        (("interleave", {1, 0}), (3, (0, 1))),
        (("preferred", 7), (1, (7,))),
        (("preferred-many", [1, 2]), (5, (1, 2))),
        (("weighted-interleave", "0x3"), (6, (0, 1))),
    ],
    "autogroup": [(-20, -20), (19, 19)],
    "best_effort": [(True, True), (False, False)],
    "oom_score_adj": [(-1000, -1000), (1000, 1000)],
    "strategy": [("clone3", "clone3"), ("vfork", "vfork"), ("posix_spawn", "posix_spawn"), ("fork", "fork")],
    "capture": [(True, True), (False, False)],
    "check": [(False, False), (True, True)],
    "timeout": [(0, 0.0), (1.5, 1.5), (1e300, 1e9), (float("inf"), 1e9)],
    "retry": [(cl.Retry(2), cl.Retry(2))],
    "grace": [(2, 2.0)],
    "drain": [(0.25, 0.25)],
    "encoding": [("latin-1", "latin-1"), ("UTF-16", "UTF-16")],
    "errors": [("replace", "replace"), ("surrogateescape", "surrogateescape")],
    "max_output": [(0, 0), (2**62, 2**62)],
    "on_limit": [("fail", "fail"), ("truncate", "truncate"), ("kill", "kill")],
    "max_line": [(1, 1), (2**62, 2**62)],
    "tee_stdout": [(1, 1)],
    "tee_stderr": [(sys.__stderr__, sys.__stderr__)],
}  # fmt: skip
# What some cannot be without.
BESIDE = {
    "autogroup": {"new_session": True},
    "reset_on_fork": {"sched": "batch"},
    "controlling_terminal": {"new_session": True},
    "tee_stdout": {"capture": True},
    "tee_stderr": {"stderr": cl.PIPE},
}


def test_every_option_is_in_the_list():
    assert set(FORMS) == set(known._PARSERS)


@pytest.mark.parametrize("name", FORMS)
def test_each_way_to_write_it(name):
    for written, kept in FORMS[name]:
        command = cl.Command("x", **{name: written}, **BESIDE.get(name, {}))
        assert command.option(name) == kept, written
        assert hash(command) == hash(cl.Command("x", **{name: written}, **BESIDE.get(name, {})))


def test_what_is_not_given_has_no_value():
    command = cl.Command("x", timeout=None)
    assert command.option("timeout") is None
    assert command.option("timeout", 5) == 5
    assert command.options_given == {}


@pytest.mark.parametrize("name", FORMS)
def test_a_typing_error_is_answered_with_the_name_that_was_meant(name):
    """Two letters exchanged, one left out, one doubled."""
    middle = len(name) // 2
    wrong = [
        name[:middle] + name[middle + 1] + name[middle] + name[middle + 2 :],
        name[:middle] + name[middle + 1 :],
        name[:middle] + name[middle] + name[middle:],
    ]
    for typo in set(wrong) - set(FORMS):
        with pytest.raises(TypeError, match=f"no option '{typo}'; did you mean '") as info:
            cl.Command("x", **{typo: None})
        guess = str(info.value).rpartition("did you mean ")[2].strip("'?")
        assert guess in FORMS
        # Short names have neighbours: `env` is as near to `en` as `end` would be.
        assert guess == name or len(name) < 8


@pytest.mark.parametrize(
    "call",
    [
        lambda **options: cl.run(["x"], **options),
        lambda **options: cl.read(["x"], **options),
        lambda **options: cl.Command("x").with_options(**options),
        lambda **options: cl.Command("x").spawn(**options),
        lambda **options: cl.Command.shell("x", **options),
    ],
)
def test_wherever_options_are_taken(call):
    with pytest.raises(TypeError, match="no option 'timeuot'; did you mean 'timeout'"):
        call(timeuot=1)
    with pytest.raises(TypeError, match=r"there is no option 'xyzzy'$"):
        call(xyzzy=1)


def test_type_checkers_know_every_option():
    assert typed.Options.__annotations__.keys() == known._PARSERS.keys()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"new_session": True, "process_group": 0}, ["new_session", "process_group"]),
        ({"foreground": True, "new_session": True}, ["foreground", "new_session"]),
        ({"autogroup": 5}, ["autogroup", "new_session=True"]),
        ({"reset_on_fork": True}, ["reset_on_fork", "sched="]),
        ({"foreground": True, "process_group": 5}, ["foreground", "process_group"]),
        ({"controlling_terminal": 0}, ["controlling_terminal", "new_session"]),
        ({"contain": "group", "process_group": 5}, ["contain='group'", "process_group"]),
        ({"contain": "cgroup", "process_group": 5}, ["contain='cgroup'", "process_group"]),
        ({"capture": True, "stdout": cl.DEVNULL, "stderr": cl.STDOUT}, ["capture", "stdout", "stderr"]),
        ({"capture": True, "stdout": cl.DEVNULL, "tee_stdout": 1}, ["tee_stdout", "stdout=PIPE"]),
        ({"env": {}, "env_add": {}}, ["env", "env_add"]),
        ({"env": {}, "env_remove": []}, ["env", "env_remove"]),
        ({"env_add": {"A": "1", "B": "2"}, "env_remove": [b"B"]}, ["env_add", "env_remove", "'B'"]),
        (
            {"signal_defaults": ["HUP"], "signal_ignores": ["HUP", "INT"]},
            ["signal_defaults", "signal_ignores", "signal 1"],
        ),
        ({"user": "root", "strategy": "clone3"}, ["user", "fork"]),
        ({"extra_groups": [], "strategy": "vfork"}, ["extra_groups", "fork"]),
        ({"tee_stdout": 1}, ["tee_stdout", "capture"]),
        ({"tee_stderr": 1, "stdout": cl.PIPE}, ["tee_stderr", "stderr=PIPE"]),
    ],
)
def test_a_contradiction_names_both_sides(options, named):
    with pytest.raises(ValueError, match=named[0]) as info:
        cl.Command("x", **options)
    assert all(each in str(info.value) for each in named)


@pytest.mark.parametrize(
    "options",
    [
        {"new_session": True, "controlling_terminal": 0},
        {"foreground": True, "process_group": 0},
        {"process_group": 5, "contain": "none"},
        {"process_group": 5},
        {"process_group": 0, "contain": "group"},
        {"capture": False, "stdout": cl.PIPE},
        {"env_add": {"A": "1"}, "env_remove": ["B"]},
        {"user": 0, "strategy": "fork"},
        {"user": 0, "strategy": "posix_spawn"},
        {"stdout": cl.PIPE, "stderr": cl.STDOUT, "tee_stdout": 1},
        {"signal_mask": ["HUP"], "signal_ignores": ["HUP"]},
    ],
)
def test_what_goes_together(options):
    assert cl.Command("x", **options).options_given.keys() == options.keys()


# ---- the environment ----

SHOW = (sys.executable, "-I", "-S", "-c", "import os, sys; sys.stdout.buffer.write(b'\\0'.join(b'='.join(i) for i in os.environb.items()))")  # fmt: skip  # noqa: E501


def environment(**options):
    """A child's environment."""
    return parsed(cl.run(SHOW, stdout=cl.PIPE, timeout=30, **options).stdout)


def parsed(output):
    found = dict(pair.split(b"=", 1) for pair in output.split(b"\0") if pair)
    for name in (b"LC_CTYPE", b"__CF_USER_TEXT_ENCODING"):  # which an interpreter and macOS add for themselves
        if name not in os.environb:
            found.pop(name, None)
    return found


def ours():
    """Our own, as the C library has it: with what libraries put there behind Python's back."""
    done = subprocess.run(SHOW, stdout=subprocess.PIPE, check=True)
    return parsed(done.stdout)


def test_without_options_it_is_ours():
    assert environment() == ours()


def test_it_can_be_replaced():
    assert environment(env={"ONE": "1", b"TWO": b"\xff="}) == {b"ONE": b"1", b"TWO": b"\xff="}


def test_it_can_be_emptied():
    assert environment(env={}) == {}


def test_it_can_be_changed(monkeypatch):
    monkeypatch.setenv("CORELANE_A", "old")
    monkeypatch.setenv("CORELANE_B", "stays")
    monkeypatch.setenv("CORELANE_C", "goes")
    expected = {**ours(), b"CORELANE_A": b"new", b"CORELANE_D": b""}
    del expected[b"CORELANE_C"]
    assert (
        environment(env_add={"CORELANE_A": "new", "CORELANE_D": ""}, env_remove=["CORELANE_C", "NO_SUCH"]) == expected
    )


def test_a_name_that_begins_like_another_is_another(monkeypatch):
    monkeypatch.setenv("CORELANE", "short")
    monkeypatch.setenv("CORELANE_LONG", "long")
    found = environment(env_remove=["CORELANE"], env_add={"CORELANE_LON": "x"})
    assert b"CORELANE" not in found
    assert (found[b"CORELANE_LONG"], found[b"CORELANE_LON"]) == (b"long", b"x")


NAME = st.text(st.characters(blacklist_characters="\0=", blacklist_categories=["Cs"]), min_size=1, max_size=8)
VALUE = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=12)


@pytest.mark.skipif(ON_DARWIN, reason="macOS adds variables of its own")
@settings(max_examples=25, derandomize=True)
@given(st.dictionaries(NAME, VALUE, max_size=6))
def test_any_environment_arrives(env):
    found = environment(env=env)
    expected = {name.encode(): value.encode() for name, value in env.items()}
    if b"LC_CTYPE" not in expected:
        found.pop(b"LC_CTYPE", None)
    assert found == expected


def test_a_prepared_command_sees_the_environment_of_each_run(monkeypatch):
    """However it was changed in between: by Python, by C, by a removal."""
    command = cl.Command("sh", "-c", 'echo "${CORELANE_NOW-unset}"', timeout=30)
    libc = ctypes.CDLL(None)
    read = [command.read()]
    monkeypatch.setenv("CORELANE_NOW", "python")
    read.append(command.read())
    assert libc.setenv(b"CORELANE_NOW", b"setenv", 1) == 0
    read.append(command.read())
    kept = ctypes.create_string_buffer(b"CORELANE_NOW=putenv")
    assert libc.putenv(kept) == 0
    read.append(command.read())
    kept.value = b"CORELANE_NOW=in place"[:19]
    read.append(command.read())
    assert libc.unsetenv(b"CORELANE_NOW") == 0
    read.append(command.read())
    assert read == ["unset\n", "python\n", "setenv\n", "putenv\n", "in pla\n", "unset\n"]


def test_a_prepared_process_sees_it_too(monkeypatch):
    command = cl.Command("sh", "-c", 'echo "${CORELANE_NOW-unset}"', stdout=cl.PIPE, env_add={"X": "1"})
    read = []
    for value in ("one", "two"):
        monkeypatch.setenv("CORELANE_NOW", value)
        with command.spawn() as process:
            read.append(process.stdout.read())
    assert read == [b"one\n", b"two\n"]


def test_an_environment_that_is_given_is_not_touched_by_ours(monkeypatch):
    command = cl.Command("sh", "-c", 'echo "$CORELANE_NOW"', env={"CORELANE_NOW": "given"}, timeout=30)
    monkeypatch.setenv("CORELANE_NOW", "ours")
    assert command.read() == "given\n"


def test_an_environment_of_thousands(monkeypatch):
    many = {f"CORELANE_{number}": str(number) * 20 for number in range(3000)}
    found = environment(env_add=many)
    assert {name: found[name.encode()].decode() for name in many} == many


@pytest.mark.parametrize("capture", [environ.capture, environ.capture_os_environ])
def test_threads_may_change_the_environment_while_others_run(monkeypatch, capture):
    """setenv moves the table that a spawn reads. The second way is the one of a Python without a GIL."""
    monkeypatch.setattr(engine, "capture", capture)
    stop, wrong = threading.Event(), []

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            os.environ[f"CORELANE_{number % 200}"] = "x" * (number % 100)
            os.environ.pop(f"CORELANE_{(number + 100) % 200}", None)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        command = cl.Command("sh", "-c", 'echo "$HOME"', timeout=30)
        home = os.environ.get("HOME", "")
        wrong = [got for got in (command.read() for _ in range(50)) if got != f"{home}\n"]
    finally:
        stop.set()
        changer.join()
        for name in [name for name in os.environ if name.startswith("CORELANE_")]:
            del os.environ[name]
    assert not wrong
