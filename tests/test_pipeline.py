"""Pipelines: connected directly, one scope and one deadline, and every stage's own Result; nothing is left however it
ends."""

import copy
import itertools
import os
import pickle
import resource
import signal
import sys
import threading
import time

import pytest
from faults_child import descriptors, fresh, nothing_left, until
from helpers import is_running, needs_linux, script, wait_until

import corelane as cl
from corelane.process import work
from corelane.process.functions import FunctionRun

C = cl.Command
FOREVER = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield
        wait_until(lambda: not stage_threads(), "the threads of the functions to end")


@pytest.fixture
def released():
    """What the functions of a test wait for, at most until its end."""
    event = threading.Event()
    yield event
    event.set()


def stage_threads():
    return [thread for thread in threading.enumerate() if thread.name == "corelane stage"]


def sh(script, **options):
    return C("sh", "-c", script, **options)


def upper(lines):
    for line in lines:
        yield line.upper()


def through(pieces):
    return pieces


def fail(pieces):
    next(iter(pieces), None)
    raise LookupError("not there")


# ---- values ----------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_a_value():
    one, other = C("a") | ["b", "c"], C("a") | C("b", "c")
    assert one == other
    assert hash(one) == hash(other)
    assert one != one.with_options(timeout=3)
    assert one != C("a") | ["c"]
    assert one != "a | b c"
    assert pickle.loads(pickle.dumps(one.with_options(timeout=3, cwd="/"))) == one.with_options(timeout=3, cwd="/")
    assert str(one) == "a | b c"
    assert repr(one.with_options(timeout=3)) == "Pipeline(Command('a'), Command('b', 'c'), timeout=3.0)"
    assert len(str(cl.Pipeline(*[["x" * 30]] * 20))) == 200
    assert copy.copy(one) is one
    with_file = one.with_options(stdin=sys.__stderr__)
    assert copy.deepcopy(with_file) is with_file
    with pytest.raises(AttributeError, match="with_options"):
        one.stages = ()
    with pytest.raises(AttributeError, match="immutable"):
        del one.stages


def test_a_function_is_a_value():
    one = cl.over_lines(upper)
    assert one == cl.over_lines(upper)
    assert one != cl.over_chunks(upper)
    assert hash(one) == hash(cl.over_lines(upper))
    assert str(one) == repr(one) == "over_lines(upper)"
    assert pickle.loads(pickle.dumps(one)) == one


def test_stages_can_be_given_in_all_ways():
    whole = cl.Pipeline(["a"], ["b"], ["c"])
    assert C("a") | ["b"] | C("c") == whole
    assert ["a"] | (C("b") | ["c"]) == whole
    assert ["a"] | C("b") | ["c"] == whole
    assert (C("a") | ["b"]) | (C("c") | ["d"]) == cl.Pipeline(["a"], ["b"], ["c"], ["d"])
    assert (["a"] | cl.over_lines(upper)).stages == (C("a"), cl.over_lines(upper))
    assert (cl.over_lines(upper) | ["a"]).stages == (cl.over_lines(upper), C("a"))
    assert cl.Pipeline(["echo", "x"]).read() == "x\n"


@pytest.mark.parametrize("bad", ["cat", b"cat", None, 5, print])
def test_what_is_no_stage(bad):
    with pytest.raises(TypeError, match="a stage is a Command, a list of arguments, or over_lines"):
        C("a") | bad


def test_bad_pipelines():
    with pytest.raises(ValueError, match="at least one command"):
        cl.Pipeline()
    with pytest.raises(ValueError, match="at least one command"):
        cl.over_lines(upper) | cl.over_lines(upper)
    with pytest.raises(TypeError, match="over_lines takes a function"):
        cl.over_lines(["cat"])
    with pytest.raises(TypeError, match="a stage is"):
        C("a").then(["b"]) | ["c"]


@pytest.mark.parametrize(
    ("stage", "at", "message"),
    [
        ({"timeout": 3}, 0, "timeout= is of the whole pipeline"),
        ({"capture": True}, 1, "capture= is of the whole pipeline"),
        ({"retry": cl.Retry()}, 1, "retry= is of the whole pipeline"),
        ({"contain": "none"}, 0, "contain= is of the whole pipeline"),
        ({"stdin": cl.DEVNULL}, 1, "its stdin is the stage before it"),
        ({"stdout": cl.DEVNULL}, 0, "its stdout is the next stage's stdin"),
        ({"new_session": True}, 0, "all stages are one process group"),
        ({"process_group": 0}, 1, "all stages are one process group"),
        ({"tee_stdout": 1, "stdout": cl.PIPE}, 1, "nobody would watch it"),
    ],
)
def test_what_a_stage_cannot_have(stage, at, message):
    stages = [C("a"), C("b")]
    stages[at] = stages[at].with_options(**stage)
    with pytest.raises(ValueError, match=message):
        cl.Pipeline(*stages)


@pytest.mark.parametrize("option", [{"new_session": True}, {"process_group": 0}, {"tee_stderr": 0}, {"tee_stdout": 1}])
def test_what_a_pipeline_cannot_have(option):
    with pytest.raises(ValueError, match="is not for a pipeline"):
        (C("a") | ["b"]).with_options(**option)


def test_what_is_at_its_default_is_no_option():
    assert (C("true", new_session=False) | C("true")).with_options(new_session=False).run().ok


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_the_ends_of_a_part_stay_its_ends(name):
    """It would silently have been the stream of another stage."""
    part = (C("a") | ["b"]).with_options(**{name: cl.DEVNULL})
    with pytest.raises(ValueError, match=f"its {name}= would be lost"):
        ["c"] | part | ["d"]
    assert (part | ["c"] if name == "stdin" else ["c"] | part).option(name) is cl.DEVNULL


# ---- run, read, results ----------------------------------------------------------------------------------------------


def test_read_is_the_last_ones_stdout():
    assert (C("printf", "b\na\nc\n") | ["sort"] | ["head", "-n", "2"]).read() == "a\nb\n"
    assert cl.read(C("echo", "x") | ["tr", "x", "y"]) == "y\n"


def test_each_stage_has_its_result():
    done = cl.run(
        sh("echo 1 >&2; exit 3") | sh("echo 2 >&2; cat; exit 0") | sh("echo 3 >&2; echo x"), capture=True, check=False
    )
    assert [stage.returncode for stage in done.stages] == [3, 0, 0]
    assert [stage.stderr for stage in done.stages] == [b"1\n", b"2\n", b"3\n"]
    assert [stage.stdout for stage in done.stages] == [None, None, b"x\n"]
    assert all(stage.elapsed > 0 and stage.usage.max_rss > 0 and stage.pid > 0 for stage in done.stages)
    assert (done.stdout, done.stderr, done.text, done.returncode, done.ok) == (b"x\n", b"1\n2\n3\n", "x\n", 3, False)
    assert done.elapsed == max(stage.elapsed for stage in done.stages)
    assert done.usage.max_rss == max(stage.usage.max_rss for stage in done.stages)
    assert done.usage.user == pytest.approx(sum(stage.usage.user for stage in done.stages))
    assert not done.timed_out
    assert not done.truncated
    assert not done.pipes_left_open
    assert "returncodes=[3, 0, 0]" in repr(done)


def test_nothing_is_captured_unless_asked_for():
    done = (C("true") | ["true"]).run()
    assert (done.stdout, done.stderr) == (None, None)
    with pytest.raises(ValueError, match=r"the stdout of true \| true was not captured"):
        _ = done.text


def test_bytes_do_not_pass_through_python():
    """The stages' ends of a pipe are the same pipe, with nobody between."""
    look = "import os; print(os.fstat({}).st_ino, file=open(3, 'w'))"
    reader, writer = os.pipe()
    stages = [C(sys.executable, "-Sc", look.format(n), fds={3: writer}) for n in (1, 0)]
    cl.Pipeline(*stages).run()
    os.close(writer)
    with open(reader) as said:
        assert len(set(said.read().split())) == 1


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_any_size_flows(size):
    data = os.urandom(size)
    done = cl.run(C("cat") | ["cat"] | ["cat"], stdin=data, capture=True)
    assert done.stdout == data


def test_all_write_much_at_once():
    noise = "head -c 300000 /dev/zero >&2; cat; head -c 300000 /dev/zero >&2"
    done = cl.run(sh(noise) | sh(noise) | sh(noise), stdin=bytes(300_000), capture=True)
    assert len(done.stdout) == 300_000
    assert [len(stage.stderr) for stage in done.stages] == [600_000] * 3


# ---- pipefail --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "code", "at"),
    [
        (["exit 0", "exit 0", "exit 0"], 0, None),
        (["exit 3", "exit 0", "exit 0"], 3, 1),
        (["exit 3", "exit 4", "exit 0"], 4, 2),
        (["exit 3", "exit 4", "exit 5"], 5, 3),
        (["kill -9 $$", "cat >/dev/null"], -9, 1),
        (["kill -PIPE $$", "cat >/dev/null"], 0, None),
        (["cat </dev/null", "kill -PIPE $$"], -13, 2),
        (["kill -PIPE $$", "cat >/dev/null; exit 2"], 2, 2),
    ],
)
def test_the_last_one_that_failed_decides(stages, code, at):
    pipeline = cl.Pipeline(*map(sh, stages))
    assert pipeline.with_options(check=False).run().returncode == code
    if at is None:
        assert pipeline.run().ok
        return
    with pytest.raises((cl.NonZeroExit, cl.Signaled)) as caught:
        pipeline.run()
    error = caught.value
    assert f"(stage {at} of {pipeline})" in str(error)
    assert error.command is pipeline
    assert error.returncode == code
    assert error.result.stages[at - 1].error is error
    assert [stage.returncode for stage in error.result.stages][at - 1] == code


def test_who_had_enough_fails_nobody():
    done = cl.run(C("yes") | ["cat"] | ["head", "-n", "1"], capture=True)
    assert done.stdout == b"y\n"
    assert done.ok
    assert done.stages[0].returncode == -signal.SIGPIPE
    assert [stage.error for stage in done.stages] == [None] * 3


def test_a_stage_may_be_unchecked():
    pipeline = C("printf", "a\n") | C("grep", "b", check=False) | ["cat"]
    done = pipeline.run()
    assert [stage.returncode for stage in done.stages] == [0, 1, 0]
    assert (done.returncode, done.error) == (0, None)
    with pytest.raises(cl.NonZeroExit):
        (sh("exit 2") | pipeline).run()


def test_unchecked_as_a_whole():
    done = (sh("exit 3") | ["false"]).with_options(check=False).run()
    assert done.returncode == 1
    assert done.error is None
    assert all(stage.error is None for stage in done.stages)
    assert not done.ok


def test_a_missing_stage_ends_all():
    for missing in range(3):
        stages = [FOREVER] * 3
        stages[missing] = ["no-such-program"]
        began = time.monotonic()
        with pytest.raises(FileNotFoundError, match=rf"stage {missing + 1} of ") as caught:
            cl.Pipeline(*stages).with_options(check=False).run()  # which covers no such failure
        assert time.monotonic() - began < 20
        assert caught.value.stage == "exec"
        assert "no-such-program" in str(caught.value)
        assert isinstance(caught.value.result.stages[missing].error, cl.SpawnFailed)


def test_errors_and_results_can_be_pickled():
    pipeline = (sh("cat; exit 3") | cl.over_lines(lambda lines: lines) | ["cat"]).with_options(capture=True)
    with open(os.devnull) as held, pytest.raises(cl.NonZeroExit) as caught:
        pipeline.with_options(stdin=held).run()
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.result.stages[0].error is again
    assert again.result == caught.value.result
    assert hash(again.result) == hash(caught.value.result)
    with pytest.raises(TypeError, match="could not be pickled"):
        again.result.stages[1].command.function([])


# ---- input and output ------------------------------------------------------------------------------------------------


def test_where_the_input_comes_from(tmp_path):
    pipeline = C("cat") | ["tr", "a-z", "A-Z"]
    path = tmp_path / "in"
    path.write_bytes(b"file")
    assert cl.read(pipeline, stdin=b"bytes") == "BYTES"
    assert cl.read(pipeline, stdin="text") == "TEXT"
    assert cl.read(pipeline, stdin=[b"pie", b"ces"]) == "PIECES"
    assert cl.read(pipeline, stdin=path) == "FILE"
    assert cl.read(pipeline, stdin=cl.DEVNULL) == ""
    assert cl.read(C("cat", stdin=path) | ["tr", "a-z", "A-Z"]) == "FILE"
    with path.open() as file:
        assert cl.read(pipeline, stdin=file) == "FILE"
    reader, writer = os.pipe()
    os.write(writer, b"fd")
    os.close(writer)
    assert cl.read(pipeline, stdin=reader) == "FD"
    os.close(reader)


def test_where_the_output_goes(tmp_path):
    path = tmp_path / "out"
    cl.run(C("echo", "1") | ["cat"], stdout=path)
    cl.run(C("echo", "2") | C("cat", stdout=cl.File(path, append=True)))
    assert path.read_text() == "1\n2\n"
    with path.open("wb") as file:
        cl.run(C("echo", "3") | ["cat"], stdout=file)
        cl.run(C("echo", "4") | ["cat"], stdout=file.fileno())
    assert path.read_text() == "3\n4\n"
    assert cl.run(C("echo", "5") | ["cat"], stdout=cl.DEVNULL).stdout is None


def test_where_stderr_goes(tmp_path):
    loud = sh("echo 1 >&2; echo 2") | sh("cat; echo 3 >&2")
    assert cl.run(loud, stdout=cl.PIPE, stderr=cl.STDOUT).stdout == b"1\n2\n3\n"
    assert cl.run(loud, capture=True, stderr=cl.DEVNULL).stderr is None
    own = cl.run(sh("echo 1 >&2", stderr=cl.PIPE) | sh("echo 2 >&2", stderr=cl.DEVNULL))
    assert [stage.stderr for stage in own.stages] == [b"1\n", None]
    mixed = cl.run(sh("echo 1 >&2") | sh("echo 2 >&2", stderr=cl.DEVNULL), capture=True)
    assert [stage.stderr for stage in mixed.stages] == [b"1\n", None]


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("how", ["run", "spawn", "lines", "many"])
def test_one_file_for_all_stderrs(how, append, tmp_path):
    """Opened by each stage it would be truncated again, and each would write at its own place."""
    path = tmp_path / "err"
    path.write_text("old\n")
    part = "echo begin >&2; cat; echo end >&2"
    pipeline = (sh(part) | sh(part) | sh(part)).with_options(
        stdin=cl.DEVNULL, stderr=cl.File(path, append=append), stdout=cl.PIPE if how == "lines" else cl.DEVNULL
    )
    if how == "spawn":
        with pipeline.spawn() as process:
            process.wait()
    elif how == "run":
        pipeline.run()
    else:
        list(pipeline.lines() if how == "lines" else cl.run_many([pipeline]))
    assert sorted(path.read_text().split()) == sorted(["begin", "end"] * 3 + ["old"] * append)


def test_a_file_that_cannot_be_opened(tmp_path):
    nowhere = tmp_path / "no" / "where"
    with pytest.raises(FileNotFoundError, match=r"cannot start cat: its stdin .*\(stage 1 of cat \| cat\)"):
        (C("cat") | ["cat"]).with_options(stdin=nowhere).run()
    with pytest.raises(FileNotFoundError, match=r"cannot start cat \| cat: its stderr .* cannot be opened"):
        (C("cat") | ["cat"]).with_options(stderr=nowhere).run()
    with pytest.raises(cl.SpawnFailed, match=r"over_lines\(upper\): its stdout .*\(stage 2 of cat"):
        (C("cat") | cl.over_lines(upper)).with_options(stdout=nowhere).run()


def test_options_for_each_stage(tmp_path):
    pipeline = sh('echo "$A $PWD $(nice)"') | sh('cat; echo "$A $PWD $(nice)"', nice=7)
    said = pipeline.with_options(env_add={"A": "b"}, cwd=tmp_path, capture=True)
    assert said.run().text == f"b {tmp_path} {os.nice(0)}\nb {tmp_path} {os.nice(0) + 7}\n"


# ---- one scope, one deadline -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["run", "spawn"])
def test_all_are_one_group(how):
    say = "ps -o pgid= -p $$ >&2; cat"
    pipeline = (sh(say) | sh(say) | sh(say)).with_options(stdin=cl.DEVNULL, stderr=cl.PIPE)
    if how == "run":
        groups = [int(stage.stderr) for stage in pipeline.run().stages]
    else:
        with pipeline.spawn() as process:
            groups = [int(stage.stderr.read()) for stage in process.stages]
            assert process.pid == process.stages[0].pid == groups[0]
    assert len(set(groups)) == 1
    assert groups[0] != os.getpgrp()


_LOOK_AT_THE_LEADER = """
import os, time
leader = os.getpgrp()
def state():
    return open(f"/proc/{leader}/stat").read().rpartition(")")[2].split()[0]
while state() != "Z":
    time.sleep(0.001)
for _ in range(20):
    time.sleep(0.001)
    assert state() == "Z"
print(leader)
"""


@needs_linux
@pytest.mark.parametrize("how", ["run", "spawn"])
def test_the_leader_is_reaped_last(how):
    """Gotcha 24: reaped when it ends, its number, and with it the group's, would be anybody's."""
    pipeline = C("true") | [sys.executable, "-Sc", _LOOK_AT_THE_LEADER]
    if how == "run":
        done = pipeline.with_options(stdout=cl.PIPE, timeout=60).run()
        assert int(done.text) == done.stages[0].pid
    else:
        with pipeline.spawn(stdout=cl.PIPE) as process:
            assert process.wait(60) == 0
            assert int(process.stdout.read()) == process.pid


@pytest.mark.parametrize("contain", ["none", "group", "auto"])
def test_containment(contain):
    done = cl.run(C("true") | ["true"], contain=contain, stdin=cl.DEVNULL)
    assert [stage.contained for stage in done.stages] == ["none" if contain == "none" else "group"] * 2
    with (C("true") | ["true"]).spawn(contain=contain, stdin=cl.DEVNULL) as process:
        assert process.contained == done.stages[0].contained


@pytest.mark.parametrize("how", ["run", "spawn"])
def test_one_cgroup_for_all(how):
    say = "grep ^0:: /proc/self/cgroup >&2; cat"
    pipeline = (sh(say) | sh(say)).with_options(stdin=cl.DEVNULL, stderr=cl.PIPE, contain="cgroup")
    try:
        if how == "run":
            places = {stage.stderr for stage in pipeline.run().stages}
        else:
            with pipeline.spawn() as process:
                places = {stage.stderr.read() for stage in process.stages}
    except (cl.CgroupUnavailable, cl.NotSupported) as error:
        pytest.skip(str(error))
    assert len(places) == 1
    assert b"corelane" in places.pop()


def test_leftovers_are_killed_at_the_end():
    reader, writer = os.pipe()
    cl.run(sh("sleep 1000 >/dev/null & echo") | ["cat"], fds={3: writer}, stdout=cl.DEVNULL)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("how", ["run", "lines", "many"])
def test_one_deadline_for_all(how):
    pipeline = (C("true") | FOREVER | ["cat"]).with_options(timeout=0.2)
    if how == "many":
        (done,) = cl.run_many([pipeline])
        error = done.error
        assert done.timed_out
    else:
        with pytest.raises(cl.ProcessTimeout) as caught:
            list(pipeline.lines()) if how == "lines" else pipeline.run()
        error = caught.value
    assert isinstance(error, TimeoutError)
    assert str(error).startswith(f"{pipeline} ran longer than 0.2 s and was killed with all in its scope")
    assert error.timeout == 0.2
    assert error.result.timed_out
    assert error.result.stages[0].returncode == 0
    assert error.result.stages[1].returncode in ((-15, -9) if how == "lines" else (-9,))


def test_a_deadline_with_grace():
    gentle = sh("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done")
    stubborn = sh("trap '' TERM; cat >/dev/null; while :; do sleep 0.01; done")
    with pytest.raises(cl.ProcessTimeout) as caught:
        (gentle | stubborn).with_options(timeout=0.3, grace=0.2).run()
    assert [stage.returncode for stage in caught.value.result.stages] == [7, -9]


def test_a_stopped_stage_meets_the_deadline():
    with pytest.raises(cl.ProcessTimeout):
        (sh("kill -STOP $$") | ["cat"]).with_options(timeout=0.2, grace=5).run()


@pytest.mark.parametrize("on_limit", ["fail", "truncate", "kill"])
@pytest.mark.parametrize("last", [["cat"], cl.over_chunks(through)], ids=["cat", "function"])
def test_max_output(on_limit, last):
    source = C("yes") if on_limit != "truncate" else C("seq", "30000")
    pipeline = (source | last).with_options(stdout=cl.PIPE, max_output=100, on_limit=on_limit)
    if on_limit == "fail":
        with pytest.raises(cl.OutputLimitExceeded, match=r"max_output=100 .*\(stage 2 of yes") as caught:
            pipeline.run()
        done = caught.value.result
    else:
        done = pipeline.run()
        assert done.error is None
    assert len(done.stdout) == 100
    assert done.truncated
    if on_limit == "truncate":  # it is read on, so that nobody dies of it
        assert [stage.returncode for stage in done.stages] == [0, 0]


def test_retry_tries_all_of_it_again(tmp_path):
    count = tmp_path / "count"
    part = sh(f"echo x >> {count}; cat; test $(wc -l < {count}) -ge 3")
    done = (
        (part | cl.over_lines(upper) | ["cat"])
        .with_options(stdin=b"a", capture=True, retry=cl.Retry(5, backoff=0.001))
        .run()
    )
    assert (done.tries, done.text) == (3, "A\n")
    with pytest.raises(cl.NonZeroExit) as caught:
        (C("false") | ["cat"]).with_options(stdin=cl.DEVNULL, retry=cl.Retry(2, backoff=0.001)).run()
    assert caught.value.result.tries == 2


# ---- functions -------------------------------------------------------------------------------------------------------


def test_a_function_over_lines():
    assert (C("printf", "a\nb") | cl.over_lines(upper) | ["cat"]).read() == "A\nB\n"
    assert (C("seq", "5") | cl.over_lines(lambda lines: [str(sum(map(int, lines)))])).read() == "15\n"
    assert (cl.over_lines(upper) | ["cat"]).with_options(stdin="x\ny").read() == "X\nY\n"
    assert (cl.over_lines(lambda none: ["made"]) | ["cat"]).with_options(stdin=cl.DEVNULL).read() == "made\n"


@pytest.mark.parametrize("given", [b"abc", [b"a", b"bc"], "abc"])
def test_a_function_over_chunks(given):
    data = os.urandom(500_000)
    assert cl.run(C("cat") | cl.over_chunks(through) | ["cat"], stdin=data, capture=True).stdout == data
    double = cl.over_chunks(lambda pieces: (memoryview(piece * 2) for piece in pieces))
    assert cl.run(double | C("cat"), stdin=given, capture=True).stdout == b"".join(
        piece * 2 for piece in ([b"a", b"bc"] if isinstance(given, list) else [b"abc"])
    )


def test_functions_beside_each_other():
    stages = [cl.over_lines(upper), cl.over_chunks(through), cl.over_lines(through)]
    assert cl.Pipeline(["seq", "-f", "a%g", "3"], *stages, *stages).read() == "A1\nA2\nA3\n"
    assert cl.Pipeline(["echo", "x"], *[cl.over_lines(through), ["cat"]] * 40).read() == "x\n"


def test_the_streams_of_a_function(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("a\n")
    (cl.over_lines(upper) | C("cat")).with_options(stdin=source, stdout=target).run()
    assert target.read_text() == "A\n"
    with source.open() as file, target.open("w") as out:
        (cl.over_lines(upper) | C("cat") | cl.over_lines(through)).with_options(stdin=file, stdout=out).run()
        assert out.fileno() > 0
    assert target.read_text() == "A\n"
    (C("cat") | cl.over_lines(upper)).with_options(stdin=source, stdout=cl.File(target, append=True)).run()
    assert target.read_text() == "A\nA\n"
    assert (C("cat") | cl.over_lines(upper)).with_options(stdin=source, stdout=cl.DEVNULL).run().stdout is None


@pytest.mark.parametrize(
    ("encoding", "errors", "data"),
    [
        ("utf-8", "surrogateescape", b"a\xff\n"),
        ("utf-16", "strict", "ä\nö\n".encode("utf-16")),
        ("latin-1", "strict", b"\xe4\n"),
    ],
)
def test_a_function_writes_as_it_reads(encoding, errors, data):
    """An encoding's mark comes once, and not with each line; and what was let in can go out."""
    done = cl.run(C("cat") | cl.over_lines(list), stdin=data, encoding=encoding, errors=errors, capture=True)
    assert done.stdout == data


def test_a_function_that_ends_early_ends_its_input():
    done = cl.run(C("yes") | cl.over_lines(lambda lines: [next(lines)]) | ["cat"], capture=True)
    assert done.stdout == b"y\n"
    assert done.stages[0].returncode == -signal.SIGPIPE
    assert done.ok


def test_a_function_whose_reader_ends():
    ended = threading.Event()

    def count(lines):
        try:
            n = 0
            while True:
                yield str(n)
                n += 1
        finally:
            ended.set()

    assert (C("true") | cl.over_lines(count) | ["head", "-n", "2"]).read() == "0\n1\n"
    assert ended.wait(20)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_function_that_raises_ends_the_pipeline(at, check):
    stages = [sh("echo; exec sleep 1000"), ["cat"]]
    stages.insert(at, cl.over_lines(fail))
    pipeline = cl.Pipeline(*stages, stdin=b"", check=check)
    with pytest.raises(LookupError, match="not there") as caught:
        pipeline.run()
    assert caught.value.__notes__ == [f"in stage {at + 1} of {pipeline}"]
    (done,) = cl.run_many([pipeline])
    assert isinstance(done.stages[at].error, LookupError)
    assert (done.stages[at].returncode, done.stages[at].ok) == (1, False)


@pytest.mark.parametrize("made", [None, 5, "text", b"bytes", [b"line"], [3]])
def test_what_a_function_cannot_return(made):
    with pytest.raises(TypeError, match=r"over_lines\(<lambda>\)") as caught:
        (C("true") | cl.over_lines(lambda lines: made) | ["cat"]).run()
    assert repr(made[0] if isinstance(made, list) else made) in str(caught.value)


@pytest.mark.slow
def test_a_function_that_does_not_return_meets_the_deadline(released):
    """All commands have ended: nothing but the clock is left to look at."""
    pipeline = (C("true") | cl.over_lines(lambda lines: released.wait(60) and [])).with_options(timeout=0.2)
    with pytest.raises(cl.ProcessTimeout) as caught:
        pipeline.run()
    assert caught.value.result.elapsed > 0.1
    assert not caught.value.result.stages[1].ok
    assert pickle.loads(pickle.dumps(caught.value)).result.timed_out
    began = time.monotonic()
    with pytest.raises(cl.ProcessTimeout):
        list(pipeline.lines())
    done = list(cl.run_many([pipeline, pipeline, ["true"], pipeline], concurrency=4, ordered=True))
    assert [result.timed_out for result in done] == [True, True, False, True]
    assert time.monotonic() - began < 20


def test_a_function_that_raises_is_seen_at_once():
    """Nothing else happens that would wake the engine: its step is half a second."""

    def seconds():
        began = time.monotonic()
        with pytest.raises(LookupError):
            (C(*FOREVER) | cl.over_lines(lambda lines: fail([]))).run()
        return time.monotonic() - began

    assert min(seconds() for _ in range(3)) < 0.4


def test_no_room_for_a_thread(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    pipeline = C(*FOREVER) | cl.over_lines(upper) | ["cat"]
    monkeypatch.setattr(work, "_PATIENCE", 0.05)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = list(cl.run_many([pipeline, ["true"]], ordered=True, concurrency=2))
    assert isinstance(done[0].error, cl.ResourceExhausted)
    assert "the limit on threads is reached" in str(done[0].error)
    assert done[1].ok
    with pytest.raises(cl.ResourceExhausted) as caught:
        pipeline.spawn()
    assert caught.value.errno == 11


@pytest.mark.parametrize("begins", [False, True])
def test_an_interrupt_that_threading_hides_is_raised(monkeypatch, begins):
    """A Condition whose `wait` is interrupted may release a lock that it does not hold: a RuntimeError over it."""
    start = threading.Thread.start

    def interrupted(thread):
        if begins:
            start(thread)
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with nothing_left(), pytest.raises(KeyboardInterrupt):
        (C(*FOREVER) | cl.over_lines(upper) | ["cat"]).spawn()


def test_no_room_for_a_pipe_names_the_pipeline(few_descriptors):
    few_descriptors(1)
    with pytest.raises(cl.ResourceExhausted, match=r"cannot start cat \\| cat: \[pipe\] Too many open files"):
        (C("cat") | ["cat"]).spawn()


def test_the_first_signal_reaches_all_though_nothing_is_contained():
    """At the deadline, with a grace: as where our terminal is its stdin."""
    ends = ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.01; done"]
    with pytest.raises(cl.ProcessTimeout) as caught:
        cl.run(C(*ends) | ends, contain="none", timeout=0.2, grace=60)
    assert [stage.returncode for stage in caught.value.result.stages] == [3, 3]


def test_room_for_a_thread_is_waited_for(monkeypatch):
    """Others that end make it: nothing is lost."""
    start, refusals = threading.Thread.start, iter(range(30))

    def refuse_at_first(thread):
        if thread.name == "corelane stage" and next(refusals, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_at_first)
    pipelines = [C("echo", str(n)) | cl.over_lines(upper) | ["cat"] for n in range(20)]
    done = list(cl.run_many(pipelines, stdout=cl.PIPE, concurrency=5, ordered=True))
    assert [result.text for result in done] == [f"{n}\n" for n in range(20)]


def test_no_module_is_loaded_when_there_may_be_no_descriptor_left():
    """In a program that has no thread yet, `threading` would be loaded at the first function's start."""
    done = script("""
import resource, sys
import corelane as cl
assert "threading" not in sys.modules
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
def pipelines():
    for n in range(40):
        yield cl.Command("echo", str(n)) | cl.over_lines(list) | ["cat"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (13, hard))
results = cl.run_many(pipelines(), stdout=cl.PIPE, concurrency=20, ordered=True)
import json; print(json.dumps([[result.text, str(result.error)] for result in results]))
""")
    assert done == [[f"{n}\n", "None"] for n in range(40)]


# ---- bad weather -----------------------------------------------------------------------------------------------------


@pytest.fixture
def few_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(more):
        free = (number for number in itertools.count() if number not in descriptors())
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), hard))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("middle", [["cat"], cl.over_lines(list)], ids=["cat", "function"])
@pytest.mark.parametrize("more", [12, 16, 22])
def test_few_descriptors_slow_it_down(few_descriptors, middle, more):
    pipelines = [C("echo", str(n)) | middle | ["cat"] for n in range(30)]
    few_descriptors(more)
    done = list(cl.run_many(pipelines, stdout=cl.PIPE, concurrency=10, ordered=True))
    assert [(result.stdout, result.error) for result in done] == [(b"%d\n" % n, None) for n in range(30)]


@pytest.mark.slow
def test_no_room_for_all_of_it(few_descriptors):
    """A second, in case somebody makes room; then nothing of it is left."""
    few_descriptors(8)
    began = time.monotonic()
    with pytest.raises(cl.ResourceExhausted) as caught:
        cl.Pipeline(*[["cat"]] * 6).with_options(stdin=bytes(1_000_000), capture=True).run()
    assert 1 <= time.monotonic() - began < 20
    assert caught.value.errno == 24
    assert not any(stage.returncode == 0 for stage in caught.value.result.stages)


@pytest.mark.slow
def test_a_half_started_one_meets_its_deadline_beside_others(few_descriptors):
    """The other lives for longer, and has what would be needed: nobody waits for it."""
    reader, writer = os.pipe()
    late = cl.Pipeline(["sleep", "900"], *[["cat"]] * 5).with_options(timeout=0.3, capture=True)
    other = C("cat", stdin=reader)
    results = cl.run_many([other, late], concurrency=2)
    few_descriptors(12)
    first = next(results)
    assert first.command.stages == late.stages
    assert isinstance(first.error, cl.ProcessTimeout)
    os.close(writer)
    assert next(results).ok
    assert not list(results)
    os.close(reader)


@pytest.mark.parametrize("how", ["run", "many"])
def test_who_never_reads_and_who_never_writes(how):
    pipelines = [
        C("yes") | sh("exec <&-; exit 0"),
        sh("exec >&-; exit 0") | ["cat"],
        C("cat") | ["true"],
        C("true") | ["true"] | ["cat"],
    ]
    for pipeline in pipelines:
        given = pipeline.with_options(stdin=bytes(500_000), capture=True, timeout=60)
        done = given.run() if how == "run" else next(cl.run_many([given]))
        assert done.ok
        assert done.stdout == b""


def test_with_sigchld_ignored():
    fresh(_ignore_sigchld)


def _ignore_sigchld():
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(20):
        pipeline = cl.Command("true") | ["cat"] | ["cat"]
        done = cl.run(pipeline, check=False, capture=True, stdin=b"")
        assert all(stage.returncode in (0, None) for stage in done.stages)
        with pipeline.spawn(stdin=cl.DEVNULL) as process:
            process.wait()


def test_a_forked_child_leaves_it_alone():
    with (C("cat") | ["cat"]).spawn(stdin=cl.PIPE, stdout=cl.PIPE) as process:
        pid = os.fork()
        if pid == 0:
            code = 0
            for act in (process.wait, process.kill, process.terminate, process.check):
                try:
                    act()
                except cl.NotOwner:
                    code += 1
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
        process.stdin.write(b"still here")
        process.stdin.close()
        assert process.stdout.read() == b"still here"


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_lines_and_chunks():
    assert list((C("seq", "3") | ["cat"]).lines()) == ["1", "2", "3"]
    assert list((C("seq", "2") | ["cat"]).lines(keepends=True)) == ["1\n", "2\n"]
    assert b"".join((C("seq", "1000") | ["cat"]).chunks(7)) == "".join(f"{n}\n" for n in range(1, 1001)).encode()
    assert list((C("seq", "3") | cl.over_lines(upper)).lines()) == ["1", "2", "3"]
    for line in (C("yes") | ["cat"]).lines():
        assert line == "y"
        break
    for line in (C("yes") | cl.over_lines(upper)).lines():
        assert line == "Y"
        break


def test_lines_raise_at_the_end():
    lines = (C("seq", "2") | sh("cat; exit 3")).lines()
    assert [next(lines), next(lines)] == ["1", "2"]
    with pytest.raises(cl.NonZeroExit, match=r"\(stage 2 of "):
        next(lines)
    assert list((C("seq", "2") | sh("cat; exit 3")).with_options(check=False).lines()) == ["1", "2"]
    with pytest.raises(LookupError):
        list((C("seq", "2") | cl.over_lines(fail)).lines())


def test_nobody_would_read_a_stages_stderr():
    """It would write until its pipe is full, and wait for ever."""
    for pipeline in (C("yes", stderr=cl.PIPE) | ["cat"], (C("yes") | ["cat"]).with_options(stderr=cl.PIPE)):
        with pytest.raises(ValueError, match="nobody would read stderr=PIPE"):
            pipeline.lines()


# ---- spawn -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stages", [(["cat"], ["cat"]), (cl.over_chunks(through), ["cat"]), (["cat"], cl.over_chunks(through))]
)
def test_a_process_is_talked_to(stages):
    with cl.Pipeline(*stages).spawn(stdin=cl.PIPE, stdout=cl.PIPE) as process:
        process.stdin.write(b"in\n")
        process.stdin.close()
        assert list(process.lines()) == [b"in\n"]
        assert process.wait() == 0
    assert process.returncode == 0
    assert all(result.returncode == 0 for result in process.result().stages)
    assert "PipelineProcess" in repr(process)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(process)


def test_a_process_with_text():
    with (C("cat") | ["cat"]).spawn(stdin=cl.PIPE, stdout=cl.PIPE, encoding="utf-8") as process:
        process.stdin.write("ä\n")
        process.stdin.close()
        assert process.stdout.read() == "ä\n"


def test_wait_poll_and_the_return_code():
    with (C("cat") | sh("cat; exit 3")).spawn(stdin=cl.PIPE) as process:
        assert process.poll() is None
        with pytest.raises(cl.ProcessTimeout, match=r"still runs after 0\.01 s"):
            process.wait(0.01)
        with pytest.raises(ValueError, match="timeout"):
            process.wait(-1)
        process.stdin.close()
        assert wait_until(process.poll, "the end") == 3
        with pytest.raises(cl.NonZeroExit, match=r"stage 2 of cat \| "):
            process.check()


def test_the_return_code_waits_for_a_function(released):
    with (C("true") | cl.over_lines(lambda lines: released.wait(60) and [])).spawn() as process:
        until(lambda: process.stages[0].poll() is not None)
        assert process.returncode is None
        assert process.poll() is None
        with pytest.raises(cl.NotSupported):
            process.fileno()
        released.set()
        assert process.wait() == 0


@pytest.mark.parametrize("contain", ["auto", "none"])
def test_the_ends_of_a_process(contain):
    pipeline = (C(*FOREVER) | FOREVER).with_options(contain=contain)
    with pipeline.spawn() as process:
        process.kill()
        assert process.wait() == -9
    with pipeline.spawn() as process:
        assert process.terminate() == -15
    with pytest.raises(KeyError), pipeline.spawn() as process:
        raise KeyError
    assert process.returncode == -15


def test_leaving_the_block_closes_the_pipes_and_waits():
    with (C("cat") | sh("cat; exit 3")).spawn(stdin=cl.PIPE, stdout=cl.PIPE) as process:
        process.stdin.write(b"unread")
    assert process.returncode == 3


def test_a_function_that_does_not_return_holds_no_end_up(released):
    began = time.monotonic()
    stuck = cl.over_lines(lambda lines: released.wait(60) and [])
    with pytest.raises(KeyError), (C(*FOREVER) | stuck).spawn():
        raise KeyError
    assert time.monotonic() - began < 4


def test_what_spawn_refuses():
    pipeline = C("cat") | ["cat"]
    for options in ({"timeout": 3}, {"retry": cl.Retry()}, {"capture": True}, {"check": False}):
        with pytest.raises(ValueError, match="belongs to runs"):
            pipeline.spawn(**options)
    with pytest.raises(ValueError, match="a process is not fed"):
        pipeline.spawn(stdin=b"x")


def test_a_spawn_that_fails_holds_no_pipe_though_its_error_is_kept():
    """Its traceback keeps all that was there alive; and of a pipe that is held nobody sees the end."""
    kept = []
    before = pipes()
    for stages in ([FOREVER, ["no-such-program"]], [FOREVER, cl.over_lines(through), ["no-such-program"]]):
        with pytest.raises(FileNotFoundError) as caught:
            cl.Pipeline(*stages).spawn(stdin=cl.PIPE)
        kept.append(caught.value)
        wait_until(lambda: pipes() == before, "the pipes to be closed")


def pipes():
    return {number for number, what in descriptors().items() if what.startswith("pipe:")}


@needs_linux
def test_a_dropped_process_is_its_callers():
    """As one of a single command: a warning, and it runs on."""
    reader, writer = os.pipe()

    def drop():
        return [stage.pid for stage in (C("cat") | ["cat"]).spawn(stdin=reader).stages]

    with pytest.warns(ResourceWarning, match="was dropped while it runs"):
        pids = drop()
    assert all(map(is_running, pids))
    os.close(writer)
    os.close(reader)
    wait_until(lambda: not any(map(is_running, pids)), "their end")
    cl.run(["true"])  # which reaps them


# ---- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_run_many_takes_all_alike(concurrency):
    items = [
        C("echo", "0") | ["cat"],
        ["echo", "1"],
        C("echo", "2").then(["echo", "2b"]),
        C("echo", "3") | cl.over_lines(upper) | ["cat"],
        C("false") | ["cat"],
        C("cat") | ["no-such-program"],
        C("echo", "6").then(C("echo", "x") | ["false"], ["echo", "never"]),
    ]
    done = list(cl.run_many(items, capture=True, ordered=True, concurrency=concurrency))
    assert [result.index for result in done] == list(range(7))
    assert [result.stdout for result in done[:4]] == [b"0\n", b"1\n", b"2\n2b\n", b"3\n"]
    kinds = [type(result.error) for result in done]
    assert kinds[:5] == [type(None)] * 4 + [cl.NonZeroExit]
    assert isinstance(done[5].error, FileNotFoundError)
    assert isinstance(done[6].error, cl.NonZeroExit)
    assert len(done[6].steps) == 2


def test_run_many_ends_what_is_left():
    results = cl.run_many([["true"], C(*FOREVER) | FOREVER, C(*FOREVER) | cl.over_lines(upper)], concurrency=3)
    next(results)
    results.close()


def test_an_option_of_the_call_is_not_for_all():
    (done,) = cl.run_many([C("true") | ["true"]], new_session=True)
    assert "not for a pipeline" in str(done.error)


def test_two_threads():
    def work():
        for _ in range(10):
            outputs.append((C("seq", "100") | cl.over_lines(upper) | ["wc", "-l"]).read().strip())

    outputs = []
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == ["100"] * 20


def test_a_run_of_a_function_closes_what_it_never_used(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"x")
    run = FunctionRun(
        cl.over_lines(upper), (cl.over_lines(upper) | C("cat")).with_options(stdin=path), "run", True, False
    )
    run.close()
    assert run.is_over


def test_lines_with_their_newlines_are_not_doubled():
    """The lines of a Process have them, those that a function gets have not: both may be handed on."""
    pipeline = cl.Command("seq", "3") | cl.over_lines(lambda lines: [line + "\n" * (line == "2") for line in lines])
    assert pipeline.read() == "1\n2\n3\n"
