"""What a caller can get wrong: each has an error of the right type that says what was asked, and leaves nothing."""

import contextlib
import io
import math
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
from faults_child import STRATEGIES, fresh, nothing_left, raises, resident
from hypothesis import given
from hypothesis import strategies as st

import corelane as cl
from corelane._ffi import PLATFORM
from corelane.process import options as known


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def refuse(error, message, call, *args, **options):
    """`call` raises just `error`, with a message that matches."""
    with pytest.raises(error, match=message) as caught:
        call(*args, **options)
    assert not isinstance(caught.value, cl.CorelaneError), "nothing was started, so this is the caller's mistake"
    return caught.value


def fail(stage, kind, message, *argv, **options):
    """The spawn fails at `stage`, as an OSError of that kind, however it is done."""
    for start in (cl.run, lambda argv, **options: cl.Command(*argv, **options).spawn()):
        with pytest.raises(kind, match=message) as caught:
            start(argv, **options)
        error = caught.value
        assert isinstance(error, cl.SpawnFailed)
        assert error.stage == stage
        assert str(error).startswith(f"cannot start {error.command}: ")
        assert error.command == cl.Command(*argv, **options)
        assert error.result is None
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.errno) == (type(error), str(error), error.errno)
    return error


@pytest.fixture
def script(tmp_path):
    def make(text, name="script", mode=0o755):
        path = tmp_path / name
        path.write_bytes(text)
        path.chmod(mode)
        return path

    return make


# ---- the argv --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], (), [""], [b""]])
def test_an_argv_without_a_program(argv):
    refuse(ValueError, "program", cl.run, argv)
    refuse(ValueError, "program", cl.Command, *argv)


@pytest.mark.parametrize("argv", ["ls -l", b"ls -l", ""])
def test_a_string_for_an_argv_names_the_way_to_a_shell(argv):
    for call in (cl.run, cl.read):
        message = str(refuse(TypeError, r"Command\.shell", call, argv))
        assert repr(argv) in message


@pytest.mark.parametrize("argv", [None, 7, {"ls": 1}, {"ls"}, object(), iter(["ls"]), Path("/bin/ls")])
def test_what_is_no_argv_at_all(argv):
    refuse(TypeError, "a list of arguments", cl.run, argv)


@pytest.mark.parametrize("argument", [None, 7, 1.5, object(), bytearray(b"x"), ["-l"], ("-l",)])
def test_what_is_no_argument(argument):
    refuse(TypeError, "argument", cl.run, ["ls", argument])
    refuse(TypeError, "argument", cl.Command("ls").with_args, argument)


def test_a_list_given_as_one_argument_says_how_to_give_it():
    refuse(TypeError, re.escape("Command(*['ls', '-l'])"), cl.Command, ["ls", "-l"])


@pytest.mark.parametrize("nul", ["a\0b", b"a\0b", Path("a\0b")])
def test_a_nul_would_cut_the_text_short(nul):
    for argv, options in [
        ((nul,), {}),
        (("true", nul), {}),
        (("true",), {"program": nul}),
        (("true",), {"cwd": nul}),
        (("true",), {"env": {nul: "x"}}),
        (("true",), {"env": {"x": nul}}),
        (("true",), {"env_add": {"x": nul}}),
        (("true",), {"env_remove": [nul]}),
        (("true",), {"cgroup": nul}),
    ]:
        refuse(ValueError, "NUL", cl.Command, *argv, **options)
    refuse(ValueError, "NUL", cl.File, nul)
    refuse(ValueError, "NUL", cl.quote, nul)
    if isinstance(nul, str):
        refuse(ValueError, "NUL", cl.Command.shell, nul)


def test_text_that_no_encoding_has_is_refused_where_it_is_given():
    lone = "\ud800"
    for call, name in [
        (lambda: cl.Command("echo", lone), "an argument"),
        (lambda: cl.Command("echo", cwd=lone), "cwd"),
        (lambda: cl.Command("echo", env={"NAME": lone}), "NAME"),
        (lambda: cl.Command("echo", env_remove=[lone]), "env_remove"),
        (lambda: cl.File(lone), "path"),
        (lambda: cl.run(["cat"], stdin=lone), "stdin"),
        (lambda: cl.run(["cat"], stdin="\u20ac", encoding="latin-1"), "stdin"),
    ]:
        refuse(ValueError, f"{name}.*cannot be written in", call)


# ---- the options -----------------------------------------------------------------------------------------------------

WRONG = {
    "retry": [3, True, "often", cl.Retry],
    "timeout": ["5", -1, -0.001, math.nan, -math.inf, True, 1j],
    "grace": ["5", -1, math.nan],
    "drain": ["5", -1, math.nan],
    "cwd": [-1, 2**31, 1.5, True, ["/"]],
    "program": ["", 7],
    "env": [["A=b"], "A=b", {1: "x"}, {"A": 1}, {"A=B": "x"}, {"": "x"}, {b"=": b""}],
    "env_add": [["A=b"], {"A=B": "x"}, {"": "x"}],
    "env_remove": ["A", b"A", 7, ["A=B"], [""], [7]],
    "umask": [-1, 0o1000, "022", True],
    "user": ["", -1, 2**32, 1.5],
    "group": ["", -1, 2**32, 1.5],
    "extra_groups": ["wheel", 7, [""], [-1]],
    "stdin": [-1, 2**31, 1.5, True, object(), ["text"], [b"x", 7], cl.STDOUT],
    "stdout": ["/dev/null", b"/dev/null", -1, 2**31, True, object(), cl.STDOUT, [1]],
    "stderr": ["/dev/null", -1, 2**31, True, object()],
    "fds": [[3], {2: 0}, {-1: 0}, {"3": 0}, {True: 0}, {3: -1}, {3: 2**31}, {3: "x"}, {2**40: 0}],
    "pipe_size": [0, -1, 2**31, "64k", {"stdout": 0}, {"stdlog": 1}],
    "buffer_size": [0, -1, 2**31, "64k", {"stdlog": 1}],
    "process_group": [-1, 2**31, "new"],
    "controlling_terminal": [-1, 2**31, "tty"],
    "contain": ["jail", True, [], {}],
    "strategy": ["spawn", 3, []],
    "cgroup": [7, True],
    "die_with_parent": ["NOPE", 0, 999, 1.5],
    "signal_mask": ["TERM", 7, ["NOPE"], [0], [True], [999]],
    "signal_defaults": ["TERM", ["KILL"], ["STOP"]],
    "signal_ignores": ["TERM", ["KILL"]],
    "rlimits": [
        ["nofile"],
        {"files": 1},
        {7: 1},
        {"nofile": -2},
        {"nofile": (2, 1)},
        {"nofile": 2**64},
        {"nofile": "x"},
    ],
    "nice": [-21, 20, "low", 1.5],
    "sched": ["fast", 5, ("fifo",), ("fifo", 0), ("fifo", 100), ("other", 1), ("fifo", 1, 2), ([], 1), {}],
    "uclamp": [5, (1,), (2, 1), (-1, 5), (0, 1025), (None, None), ("a", 1), (1.5, None)],
    "memory_policy": [
        "bind",
        "fast",
        ("local", 0),
        ("bind", ""),
        ("bind", "1-0"),
        ("preferred", "0-1"),
        ("bind", -1),
        5,
    ],
    "autogroup": [-21, 20, "low", 1.5],
    "cpus": ["", "a", "3-1", "1,", "-1", [-1], [1.5], [], "0-99999999", None.__class__, [[1]]],
    "io_priority": ["fast", ("best-effort", 8), ("realtime", -1), ([], 1), 7, ("idle",)],
    "oom_score_adj": [-1001, 1001, "max"],
    "encoding": ["klingon", 8, "hex"],
    "errors": ["shrug", 8],
    "max_output": [-1, "1M", 1.5],
    "on_limit": ["panic", None.__class__],
    "max_line": [0, -1, "1M"],
    "tee_stdout": [-1, 2**31, "/tmp/x", True],
    "tee_stderr": [-1, "/tmp/x"],
}
FLAGS = [
    "capture",
    "check",
    "close_others",
    "new_session",
    "foreground",
    "no_new_privs",
    "reset_on_fork",
    "best_effort",
]
WRONG.update({name: [1, 0, "yes", [], math.nan] for name in FLAGS})


def test_every_option_is_in_the_list_of_wrong_values():
    assert set(WRONG) == set(known._PARSERS)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_names_its_option(name):
    for value in WRONG[name]:
        refuse((TypeError, ValueError), name, cl.run, ["true"], **{name: value})


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(known._PARSERS)), JUNK, max_size=4))
def test_junk_is_refused_as_such_or_makes_a_command(options):
    """Whatever is wrong is found when the Command is made, and is a TypeError or a ValueError."""
    with contextlib.suppress(TypeError, ValueError):
        command = cl.Command("true", **options)
        assert command == pickle.loads(pickle.dumps(command))


def test_an_unknown_option_names_its_neighbour():
    refuse(TypeError, "'timeuot'.*'timeout'", cl.run, ["true"], timeuot=1)
    refuse(TypeError, "'qqq'", cl.Command("true").with_options, qqq=1)


@pytest.mark.parametrize(
    "options",
    [
        {"new_session": True, "process_group": 0},
        {"foreground": True, "new_session": True},
        {"controlling_terminal": 0},
        {"contain": "group", "process_group": 1},
        {"contain": "cgroup", "process_group": 1},
        {"capture": True, "stdout": cl.PIPE, "stderr": cl.STDOUT},
        {"env": {}, "env_add": {"A": "b"}},
        {"strategy": "clone3", "user": 0},
        {"tee_stdout": 1},
        {"tee_stderr": 1, "stdout": cl.PIPE},
    ],
)
def test_options_that_contradict_each_other_are_both_named(options):
    first, *others = options
    error = refuse(ValueError, first, cl.run, ["true"], **options)
    assert all(other in str(error) for other in others) or len(options) == 1 or "tee" in first or first == "foreground"
    # Also when each came by itself.
    given = {name: value for name, value in options.items() if name != first}
    if given and "tee" not in first:
        refuse(ValueError, first, cl.Command("true", **given).with_options, **{first: options[first]})


def test_objects_without_a_descriptor():
    with open(os.devnull) as closed:
        pass
    refuse(ValueError, "closed file", cl.run, ["true"], stdout=closed)
    for memory in (io.StringIO("x"), io.BytesIO(b"x")):
        refuse(TypeError, "feed its contents", cl.run, ["true"], stdin=memory)
        refuse(TypeError, "capture=True", cl.run, ["true"], stdout=memory)

    class Liar:
        def __init__(self, number):
            self.fileno = lambda: number

    for number in (-1, 2**31, "1", None):
        refuse(ValueError, "has no descriptor", cl.run, ["true"], stdout=Liar(number))


def test_what_needs_a_process_and_what_needs_a_run():
    for name, value in [("timeout", 1), ("capture", True), ("check", False), ("max_output", 1)]:
        refuse(ValueError, f"{name}= belongs to runs", cl.Command("true").spawn, **{name: value})
    for value in ("text", b"bytes", [b"bytes"]):
        refuse(ValueError, "not fed", cl.Command("cat").spawn, stdin=value)
    with cl.Command("true").spawn() as process:
        refuse(ValueError, "stdin=PIPE", process.writev, [b"x"])
        refuse(ValueError, "stdout=PIPE", process.lines)


@pytest.mark.parametrize("timeout", [-1, -0.5, math.nan, "1", True, None.__class__])
def test_a_process_refuses_the_same_times_as_a_run(timeout):
    with cl.Command("true").spawn() as process:
        refuse((TypeError, ValueError), "timeout must be", process.wait, timeout)
        refuse((TypeError, ValueError), "grace must be", process.terminate, timeout)


@pytest.mark.parametrize("signal", [0, -1, 65, 999, "NOPE", "SIG_DFL", "term", 1.5, None, True])
def test_a_process_refuses_what_is_no_signal(signal):
    with cl.Command("true").spawn() as process:
        refuse((TypeError, ValueError), "signal", process.send_signal, signal)
        refuse((TypeError, ValueError), "signal", process.signal_scope, signal)


@pytest.mark.parametrize("timeout", [1e9, 1e300, math.inf, 10**400, sys.maxsize])
def test_a_huge_timeout_is_a_long_one(timeout):
    assert cl.run(["true"], timeout=timeout, grace=timeout, drain=timeout).ok
    assert list(cl.Command("echo", "x", timeout=timeout, drain=timeout).lines()) == ["x"]
    with cl.Command("true").spawn() as process:
        assert process.wait(timeout) == 0


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_has_a_size(size):
    refuse(ValueError, "size must be", cl.Command("true").chunks, size)
    for wrong in ("1", 1.5, None, True):
        refuse(TypeError, "size must be", cl.Command("true").chunks, wrong)


def test_a_stream_would_not_read_stderr():
    refuse(ValueError, "stderr=PIPE", cl.Command("true", stderr=cl.PIPE).lines)


# ---- what the child is given -----------------------------------------------------------------------------------------

ALL_BYTES = bytes(range(1, 256))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("argument", [ALL_BYTES, os.fsdecode(ALL_BYTES), "\u20ac \U0001f600\n'\"\\$", ""])
def test_an_argument_arrives_as_it_was_given(argument, strategy):
    done = cl.run(["sh", "-c", 'printf %s "$1"', "sh", argument], capture=True, strategy=strategy)
    assert done.stdout == os.fsencode(argument)
    # Through the helper program that posix_spawn needs for some options, too.
    done = cl.run(["sh", "-c", 'printf %s "$1"', "sh", argument], capture=True, strategy=strategy, cwd="/", umask=0o22)
    assert done.stdout == os.fsencode(argument)


def test_a_variable_arrives_as_it_was_given():
    show = [sys.executable, "-Sc", r"import os; os.write(1, os.environb[b'n\xff\n\x01'])"]
    names = [b"n\xff\n\x01", "n\udcff\n\x01"]
    for name in names:
        for value in (ALL_BYTES, os.fsdecode(ALL_BYTES)):
            assert cl.run(show, env={name: value}, capture=True).stdout == ALL_BYTES
    assert cl.run(show, env_add={names[0]: ALL_BYTES}, capture=True).stdout == ALL_BYTES
    os.environb[names[0]] = ALL_BYTES
    try:
        assert cl.run(show, capture=True).stdout == ALL_BYTES
        for name in names:
            count = cl.run(["sh", "-c", "env | grep -c ^n"], env_remove=[name], capture=True, check=False)
            assert count.stdout == b"0\n"
    finally:
        del os.environb[names[0]]


@pytest.mark.skipif(sys.platform == "darwin", reason="the file systems of macOS take UTF-8 names only")
def test_a_path_is_bytes(tmp_path):
    strange = os.fsencode(tmp_path) + b"/dir\xff\n" + bytes(range(1, 47))
    os.mkdir(strange)
    for where in (strange, os.fsdecode(strange), Path(os.fsdecode(strange))):
        assert cl.run(["sh", "-c", "pwd -P"], cwd=where, capture=True).stdout[:-1] == os.path.realpath(strange)
    shutil.copy(shutil.which("cat"), strange + b"/c\xfft")
    for program in (strange + b"/c\xfft", os.fsdecode(strange + b"/c\xfft")):
        assert cl.run([program], stdin=b"in", capture=True).stdout == b"in"
    assert cl.run([b"c\xfft"], env={"PATH": strange}, stdin=b"in", capture=True).stdout == b"in"
    inside, outside = strange + b"/in\xfe", strange + b"/out\xfe"
    Path(os.fsdecode(inside)).write_bytes(b"data")
    cl.run(["cat"], stdin=cl.File(inside), stdout=cl.File(os.fsdecode(outside)))
    cl.run(["cat"], stdin=cl.File(inside), stdout=cl.File(outside, append=True))
    assert Path(os.fsdecode(outside)).read_bytes() == b"datadata"
    missing = fail("exec", FileNotFoundError, "there is no file", strange + b"/nothing\xff")
    assert missing.command.args == (strange + b"/nothing\xff",)


# ---- programs that cannot be started ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_which_of_program_cwd_and_interpreter_is_missing(strategy, script):
    """The kernel says ENOENT for all three, and only one of them is a typing mistake."""
    how = {"strategy": strategy}
    fail("exec", FileNotFoundError, "there is no 'no-such-program' in PATH=", "no-such-program", **how)
    fail("exec", FileNotFoundError, "there is no file '/no/such/program'", "/no/such/program", **how)
    fail("cwd", FileNotFoundError, "working directory '/no/such/place'", "true", cwd="/no/such/place", **how)
    for text, interpreter in [(b"#!/no/such/interpreter -x\n", "/no/such/interpreter"), (b"#! /no/such\n", "/no/such")]:
        path = script(text)
        message = f"{path.name}' is there, but the interpreter '{interpreter}' of its #! line is not"
        fail("exec", FileNotFoundError, message, path, **how)
        fail("exec", FileNotFoundError, message, path.name, env={"PATH": path.parent}, **how)
        fail("exec", FileNotFoundError, message, f"./{path.name}", cwd=path.parent, **how)


@pytest.mark.skipif(PLATFORM == "darwin", reason="macOS has one dynamic loader, which nobody chooses")
def test_a_binary_for_another_loader(script):
    binary = Path(shutil.which("true")).read_bytes()
    loader = re.search(rb"/[\w/.-]*/ld-[\w.-]+\0", binary)
    if not loader:
        pytest.skip("the `true` of this machine is statically linked")
    path = script(binary.replace(loader[0], b"/no/such/loader".ljust(len(loader[0]), b"\0")), "binary")
    fail("exec", FileNotFoundError, "is there, but the dynamic loader it was linked for is not", path)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_files_that_are_no_programs(strategy, script, tmp_path):
    how = {"strategy": strategy}
    fail("exec", PermissionError, "is a directory", tmp_path, **how)
    fail("exec", PermissionError, "is not executable: chmod", script(b"#!/bin/sh\n", "plain", 0o644), **how)
    fail("exec", PermissionError, "may not be executed", "plain", env={"PATH": tmp_path}, **how)
    for text in (b"echo no interpreter line\n", b"", b"\x7fELF", b"MZ"):
        fail("exec", cl.SpawnFailed, r"Exec format error.*Command\.shell", script(text, "strange"), **how)
    fail("exec", NotADirectoryError, "Not a directory", script(b"", "file") / "below", **how)
    fail("cwd", NotADirectoryError, "cannot be entered", "true", cwd=tmp_path / "file", **how)
    (tmp_path / "loop").symlink_to("loop")
    fail("exec", cl.SpawnFailed, "links lead in a circle", tmp_path / "loop", **how)
    fail("exec", cl.SpawnFailed, "so long a name", "/" + "x" * 5000, **how)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_arguments_than_exec_takes(strategy):
    for words in (["x" * 2_000_000], ["x" * 1000] * 7_000):
        for options in ({}, {"cwd": "/", "umask": 0o22}):
            error = fail(
                "exec", cl.SpawnFailed, "through stdin or a file", "true", *words, strategy=strategy, **options
            )
            assert len(str(error)) < 500, "the message would fill the screen"
    fail("exec", cl.SpawnFailed, "through stdin or a file", "true", env={"A": "x" * 2_000_000}, strategy=strategy)


def test_descriptors_that_are_not_open():
    for options in ({"stdout": 1000}, {"fds": {3: 1000}}):
        fail("descriptors", cl.SpawnFailed, "Bad file descriptor.*not open", "true", **options)
    # Where libc spawns, a directory is given to its helper program first.
    stage = "cwd" if PLATFORM == "linux" else "descriptors"
    fail(stage, cl.SpawnFailed, "Bad file descriptor", "true", cwd=1000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_what_an_account_without_rights_may_not(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    shutil.copy(shutil.which("true"), tmp_path / "closed" / "program")
    (tmp_path / "mine").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o700)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and not directory.stat().st_mode & 1:
            directory.chmod(directory.stat().st_mode | 0o11)

    def as_nobody(where):
        def refused(stage, message, *argv, **options):
            with nothing_left(), raises(PermissionError) as caught:
                cl.run(argv or ["/bin/sh", "-c", ":"], **options)
            assert (caught.value.stage, message in str(caught.value)) == (stage, True), caught.value

        import grp  # noqa: F401, before the rights to read the standard library are gone
        import pwd  # noqa: F401

        import corelane.cpu.refusals  # noqa: F401

        cl.run(["true"], capture=True)
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)
        refused("cwd", "closed' cannot be entered", cwd=f"{where}/closed")
        refused("exec", "Permission denied", f"{where}/closed/program")
        refused("exec", "is not executable", f"{where}/mine")
        refused("nice", "CAP_SYS_NICE", nice=-5)
        refused("limits", "CAP_SYS_RESOURCE", rlimits={"core": "unlimited"})
        refused("groups", "CAP_SETGID", extra_groups=[1])
        refused("gid", "CAP_SETGID", group=1)

    fresh(as_nobody, str(tmp_path), preexec_fn=_without_core)


def _without_core():
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ---- the sum ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mistakes_cost_no_memory(tmp_path):
    """What was made for a spawn that fails is freed, in C too."""

    def repeat(where):
        affinity = {"cpus": [0]} if PLATFORM == "linux" else {}

        def once():
            for argv, options in [
                (["no-such-program"], {}),
                (["no-such-program"], {"capture": True, "stdin": b"x" * 1000}),
                (["true"], {"cwd": "/no/such/place", "stdout": cl.File(f"{where}/out")}),
                (["true"], {"stdout": cl.File("/no/such/place")}),
                (["true", "x" * 200_000], {"env_add": {"A": "b"}}),
                (["true"], {"fds": {3: 1000}, "capture": True, **affinity}),
                (["true"], {"rlimits": {"nofile": 2**62}, "capture": True}),
                (["true"], {"stdout": "x"}),
                (["true"], {"program": "/no", "strategy": "posix_spawn", "umask": 0}),
                ([where], {"capture": True}),
            ]:
                for start in (cl.run, lambda argv, **options: cl.Command(*argv, **options).spawn()):
                    with contextlib.suppress(OSError, ValueError, TypeError):
                        start(argv, **options)
                        raise AssertionError(f"{argv} {options} was no mistake")

        with nothing_left():
            for _ in range(50):
                once()
            before = resident()
            for _ in range(100):
                once()
        grown = resident() - before
        assert grown < 2**20, f"{grown} bytes more"

    fresh(repeat, str(tmp_path))
