"""A Command is a value: immutable, equal to its like, hashable, picklable, and cheap to run again."""

import copy
import os
import pickle
import threading
from pathlib import Path

import pytest
from faults_child import nothing_left
from hypothesis import given, settings
from hypothesis import strategies as st

import corelane as cl
from corelane.process import options as known

GREP = cl.Command("grep", "-c", "ERROR", cwd="/", env_add={"LC_ALL": "C"}, capture=True)

# Commands with each kind of value that an option can have.
ALL_KINDS = [
    cl.Command("true"),
    GREP,
    cl.Command(b"c\xff", "\udcff", Path("/a b")),
    cl.Command("cat", stdin="text", stdout=cl.PIPE, stderr=cl.STDOUT),
    cl.Command("cat", stdin=[b"a", b"b"], stdout=cl.DEVNULL, stderr=2),
    cl.Command("cat", stdin=Path("in"), stdout=cl.File("out", append=True), stderr=cl.File(b"err")),
    cl.Command("cat", env={"A": b"\xff", b"B": "2"}, fds={3: 0, 4: 1}, pipe_size={"stdout": 4096}, buffer_size=100),
    cl.Command("cat", env_add={"A": "1"}, env_remove=["B", "C"], umask=0o77, rlimits={"nofile": (10, 20)}),
    cl.Command("cat", cpus={1, 0}, nice=5, sched=("rr", 3), io_priority="idle", oom_score_adj=10),
    cl.Command("cat", sched=cl.cpu.Deadline(0.001, 0.01), reset_on_fork=True, uclamp=(None, 9), best_effort=True),
    cl.Command("cat", memory_policy=("bind", "0-1"), autogroup=3, new_session=True),
    cl.Command("cat", signal_mask=["TERM"], signal_defaults=[2], signal_ignores={"SIGHUP"}, die_with_parent="TERM"),
    cl.Command("cat", user="root", group=0, extra_groups=[1, "root"], no_new_privs=True, new_session=True),
    cl.Command("cat", timeout=1, grace=0.5, drain=2, max_output=10, on_limit="kill", check=False, contain="group"),
    cl.Command("cat", program="/bin/cat", process_group=5, strategy="fork", close_others=False, cgroup="/x"),
    cl.Command("cat", new_session=True, controlling_terminal=0),
    cl.Command("cat", foreground=True, retry=cl.Retry(2)),
    cl.Command("cat", encoding="latin-1", errors="replace", capture=True, tee_stdout=1, tee_stderr=2, max_line=9),
]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


# ---- being a value ----


def test_equal_commands_are_one_key():
    again = cl.Command("grep", "-c", "ERROR", capture=True, env_add={"LC_ALL": "C"}, cwd="/")
    assert again is not GREP
    assert again == GREP
    assert hash(again) == hash(GREP)
    assert {again: 1, GREP: 2} == {GREP: 2}


@pytest.mark.parametrize(
    "other",
    [
        cl.Command("grep", "-c", "ERROR"),
        GREP.with_args("x"),
        GREP.with_options(cwd="/tmp"),
        GREP.with_options(check=False),
        cl.Command("grep", "-c ERROR", cwd="/", env_add={"LC_ALL": "C"}, capture=True),
        "grep -c ERROR",
        ("grep", "-c", "ERROR"),
        None,
    ],
)
def test_what_differs_is_not_equal(other):
    assert other != GREP


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cpus": {1, 0, 3}}, {"cpus": "0-1,3"}),
        ({"cpus": 2}, {"cpus": [2]}),
        ({"signal_mask": ["TERM", 2]}, {"signal_mask": {"SIGINT", 15}}),
        ({"rlimits": {"NOFILE": 10, "core": 0}}, {"rlimits": {"core": (0, 0), "nofile": (10, 10)}}),
        ({"env": {"A": "1", "B": "2"}}, {"env": {b"B": b"2", b"A": b"1"}}),
        ({"env_remove": ["A", "B"]}, {"env_remove": {"B", "A"}}),
        ({"stdout": Path("/f")}, {"stdout": cl.File("/f")}),
        ({"cwd": Path("/tmp")}, {"cwd": "/tmp"}),
        ({"stdin": bytearray(b"x")}, {"stdin": b"x"}),
        ({"stdin": [b"x", bytearray(b"y")]}, {"stdin": (b"x", memoryview(b"y"))}),
        ({"die_with_parent": True}, {"die_with_parent": "KILL"}),
        ({"pipe_size": 4096}, {"pipe_size": {"stdin": 4096, "stdout": 4096, "stderr": 4096}}),
        ({"timeout": 1}, {"timeout": 1.0}),
        ({"sched": "batch"}, {"sched": ("batch", 0)}),
        ({"contain": "auto", "strategy": "auto"}, {}),
        ({"timeout": None, "stdin": None}, {}),
    ],
)
def test_two_ways_to_say_the_same_are_equal(one, other):
    assert cl.Command("cat", **one) == cl.Command("cat", **other)
    assert hash(cl.Command("cat", **one)) == hash(cl.Command("cat", **other))


@pytest.mark.parametrize("name", ["args", "timeout", "anything", "_options"])
def test_nothing_of_it_can_be_set(name):
    with pytest.raises(AttributeError, match="immutable"):
        setattr(GREP, name, 1)
    with pytest.raises(AttributeError, match="immutable"):
        delattr(GREP, name)


def test_one_that_holds_what_is_not_hashable_is_hashable():
    class Unhashable:
        __hash__ = None

        def __init__(self):
            self.fileno = lambda: 2

    one = cl.Command("true", stderr=Unhashable())
    assert {one: "found"}[one.with_options()] == "found"
    assert one != one.with_options(stderr=Unhashable())


def test_what_it_was_made_from_can_change_later():
    env, piece, cpus = {"A": "1"}, bytearray(b"abc"), {0}
    command = cl.Command("cat", env=env, stdin=[piece], cpus=cpus)
    same = cl.Command("cat", env={"A": "1"}, stdin=[b"abc"], cpus={0})
    env["A"] = "2"
    piece[:] = b"xyz"
    cpus.add(1)
    assert command == same


@pytest.mark.parametrize("command", ALL_KINDS, ids=str)
def test_it_survives_pickling(command):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(command, protocol))
        assert again == command
        assert hash(again) == hash(command)
        assert again.args == command.args
        assert repr(again) == repr(command)


def test_the_kinds_above_cover_every_option():
    covered = {name for command in ALL_KINDS for name in command.options_given}
    assert covered == set(known._PARSERS)


def test_a_pickle_holds_no_environment_and_nothing_packed():
    command = cl.Command("true", timeout=20)
    before = pickle.dumps(command)
    command.run()
    assert pickle.dumps(command) == before
    os.environ["CORELANE_SECRET"] = "hidden"
    try:
        command.run()
        assert b"hidden" not in pickle.dumps(command)
    finally:
        del os.environ["CORELANE_SECRET"]
    assert pickle.loads(before).run().returncode == 0


def test_a_copy_is_itself():
    assert copy.copy(GREP) is GREP
    assert copy.deepcopy(GREP) is GREP
    assert copy.deepcopy([GREP])[0] is GREP


def test_repr_shows_what_was_given():
    command = cl.Command("ls", b"\xff", cwd="/tmp", stdout=cl.PIPE)
    assert repr(command) == "Command('ls', b'\\xff', cwd='/tmp', stdout=corelane.PIPE)"


def test_str_is_what_a_shell_would_need_and_never_endless():
    assert str(cl.Command("echo", "a b", "", "it's")) == "echo 'a b' '' 'it'\"'\"'s'"
    assert len(str(cl.Command("echo", "x" * 10_000))) == 200


@settings(derandomize=True)
@given(st.lists(st.text(st.sampled_from("a '\u20ac"), max_size=6).map(lambda text: text * 40), min_size=1, max_size=5))
def test_str_is_the_first_200_characters_of_it_all(args):
    whole = cl.quote("x", *args)
    assert str(cl.Command("x", *args)) == (whole if len(whole) <= 200 else whole[:197] + "...")


@pytest.mark.parametrize("text", ["a" * 250, "a" * 250 + " b", "a" * 201], ids=["plain", "quoted", "a little too long"])
def test_str_of_one_long_argument_is_its_beginning_too(text):
    assert str(cl.Command(text)) == cl.quote(text)[:197] + "..."


def test_str_does_not_quote_what_it_does_not_show(monkeypatch):
    """Every error's message has it."""
    command = cl.Command("echo", *["x"] * 1_000_000)
    quoted = []

    def count(*words):
        quoted.extend(words)
        return cl.quote(*words)

    monkeypatch.setattr("corelane.process.command.quote", count)
    assert str(command) == ("echo" + " x" * 200)[:197] + "..."
    assert len(quoted) < 1000


# ---- arguments ----


def test_an_argument_may_be_text_bytes_or_a_path():
    assert cl.Command(Path("/bin/cat"), b"\xff", "\udcff").args == ("/bin/cat", b"\xff", "\udcff")


ARGUMENT = st.one_of(
    st.binary(max_size=20).filter(lambda data: b"\0" not in data),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20),
)


@settings(max_examples=50, derandomize=True)
@given(st.lists(ARGUMENT, max_size=8))
def test_arguments_arrive_byte_for_byte(args):
    show = cl.Command.shell('for word do printf "%s\\0" "$word"; done', *args, stdout=cl.PIPE, timeout=20)
    assert show.run().stdout == b"".join(os.fsencode(arg) + b"\0" for arg in args)


# ---- variations ----


def test_with_options_leaves_the_original_alone():
    timed = GREP.with_options(timeout=3)
    assert timed.option("timeout") == 3
    assert timed.option("cwd") == "/"
    assert timed.args == GREP.args
    assert GREP.option("timeout") is None
    assert timed.with_options(timeout=4).option("timeout") == 4


@pytest.mark.parametrize("command", ALL_KINDS, ids=str)
def test_none_takes_every_option_back_to_its_default(command):
    bare = command.with_options(**dict.fromkeys(command.options_given))
    assert bare == cl.Command(*command.args)
    assert bare.options_given == {}


def test_auto_takes_a_choice_back_to_its_default():
    assert (
        GREP.with_options(contain="group", strategy="posix_spawn").with_options(contain="auto", strategy="auto") == GREP
    )


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ({"capture": True}, {"tee_stdout": 1}),
        ({"stdout": cl.PIPE}, {"tee_stdout": 1}),
        ({"new_session": True}, {"controlling_terminal": 0}),
    ],
)
def test_a_new_option_may_lean_on_one_that_is_there(kept, added):
    assert cl.Command("cat", **kept).with_options(**added) == cl.Command("cat", **kept, **added)


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ({"capture": True, "stderr": cl.PIPE}, {"stdout": cl.DEVNULL}),
        ({"env": {}}, {"env_add": {"A": "1"}}),
        ({"env_add": {"A": "1"}}, {"env_remove": ["A"]}),
        ({"new_session": True}, {"process_group": 0}),
        ({"process_group": 5}, {"contain": "group"}),
        ({"foreground": True}, {"new_session": True}),
        ({"user": 0}, {"strategy": "clone3"}),
        ({"new_session": True, "controlling_terminal": 0}, {"new_session": None}),
        ({"capture": True, "tee_stdout": 1}, {"capture": None}),
        ({"capture": True, "stdout": cl.DEVNULL}, {"stderr": cl.STDOUT}),
    ],
)
def test_a_contradiction_is_found_also_when_it_comes_later(kept, added):
    command = cl.Command("cat", **kept)
    with pytest.raises(ValueError, match=next(iter({**kept, **added}))):
        command.with_options(**added)


def test_with_args_adds_at_the_end_and_keeps_the_options():
    more = GREP.with_args("file", b"\xff")
    assert more.args == ("grep", "-c", "ERROR", "file", b"\xff")
    assert more.options_given == GREP.options_given
    assert GREP.with_args() == GREP
    with pytest.raises(ValueError, match="NUL"):
        GREP.with_args("a\0b")


# ---- running it again ----


def test_it_runs_again_and_again():
    command = cl.Command("echo", "again", capture=True, timeout=20)
    assert {command.run().stdout for _ in range(5)} == {b"again\n"}


def test_a_file_is_opened_anew_at_each_run(tmp_path):
    command = cl.Command("echo", "line", stdout=cl.File(tmp_path / "log", append=True), timeout=20)
    command.run()
    command.run()
    assert (tmp_path / "log").read_text() == "line\nline\n"
    (tmp_path / "log").unlink()
    command.run()
    assert (tmp_path / "log").read_text() == "line\n"


def test_many_threads_may_run_one_command():
    command = cl.Command("cat", stdin=b"shared" * 1000, capture=True, timeout=60)
    wrong, start = [], threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(10):
            if command.run().stdout != b"shared" * 1000:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_is_made_and_dropped_without_a_trace():
    """Packing makes reference cycles at most where the collector finds them."""
    import gc
    import weakref

    command = cl.Command("echo", "x", timeout=20, stdout=cl.PIPE)
    command.run()
    command.read()
    seen = weakref.ref(command)
    del command
    gc.collect()
    assert seen() is None


# ---- what is run where ----


def test_a_relative_program_is_relative_to_cwd(tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho found; pwd\n")
    tool.chmod(0o755)
    assert cl.read(["./tool"], cwd=tmp_path, timeout=20) == f"found\n{os.path.realpath(tmp_path)}\n"
    assert cl.read(["echo", "x"], program="./tool", cwd=tmp_path, timeout=20).startswith("found\n")


def test_the_program_is_looked_up_in_the_childs_path(tmp_path):
    tool = tmp_path / "corelane-test-tool"
    tool.write_text("#!/bin/sh\necho mine\n")
    tool.chmod(0o755)
    assert cl.read(["corelane-test-tool"], env={"PATH": f"/nowhere:{tmp_path}"}, timeout=20) == "mine\n"
    assert cl.read(["corelane-test-tool"], env_add={"PATH": str(tmp_path)}, timeout=20) == "mine\n"
    with pytest.raises(FileNotFoundError, match="no 'corelane-test-tool' in PATH='/bin:/usr/bin'"):
        cl.run(["corelane-test-tool"], env={}, timeout=20)
    with pytest.raises(FileNotFoundError, match="in PATH='/bin:/usr/bin'"):
        cl.run(["corelane-test-tool"], env_remove=["PATH"], timeout=20)


def test_without_a_path_the_usual_directories_are_searched():
    assert cl.read(["echo", "x"], env={}, timeout=20) == "x\n"


def test_program_hides_behind_another_name():
    assert cl.read(["odd", "-c", 'echo "$0"'], program="/bin/sh", timeout=20) == "odd\n"


def test_a_directory_can_be_given_as_a_descriptor(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert cl.read(["pwd", "-P"], cwd=fd, env_remove=["PWD"], timeout=20) == f"{os.path.realpath(tmp_path)}\n"
    finally:
        os.close(fd)
