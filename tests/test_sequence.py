"""Sequences: one after the other as long as each succeeds, and every command's own Result."""

import copy
import pickle
import signal

import pytest
from faults_child import nothing_left

import corelane as cl

C = cl.Command


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def sh(script, **options):
    return C("sh", "-c", script, **options)


# ---- values ----------------------------------------------------------------------------------------------------------


def test_a_sequence_is_a_value():
    one = C("a").then(["b", "c"], C("d") | ["e"])
    assert one == cl.Sequence(["a"], C("b", "c"), C("d") | ["e"])
    assert hash(one) == hash(C("a").then(["b", "c"], C("d") | ["e"]))
    assert one != C("a").then(["b"])
    assert one != "a && b c"
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.copy(one) is one
    assert copy.deepcopy(one) is one
    assert str(one) == "a && b c && d | e"
    assert repr(C("a").then(["b"])) == "Sequence(Command('a'), Command('b'))"
    assert len(str(cl.Sequence(*[["x" * 30]] * 20))) == 200
    with pytest.raises(AttributeError, match="with_options or then"):
        one.steps = ()
    with pytest.raises(AttributeError, match="immutable"):
        del one.steps


def test_steps_can_be_given_in_all_ways():
    whole = cl.Sequence(["a"], ["b"], ["c"])
    assert C("a").then(["b"]).then(["c"]) == whole
    assert C("a").then(C("b").then(["c"])) == whole
    assert (C("a") | ["b"]).then(["c"]).steps == (C("a") | ["b"], C("c"))
    assert cl.Sequence(["echo", "x"]).read() == "x\n"


@pytest.mark.parametrize("bad", ["true", b"true", None, 5, cl.over_lines(list)])
def test_what_is_no_step(bad):
    with pytest.raises(TypeError, match="a step is a Command, a list of arguments or a Pipeline"):
        C("a").then(bad)


def test_a_sequence_needs_a_command():
    with pytest.raises(ValueError, match="at least one command"):
        cl.Sequence()


def test_it_is_run_and_not_spawned():
    sequence = C("true").then(["true"])
    for attempt in (sequence.spawn, lambda: list(sequence.lines()), lambda: next(sequence.chunks())):
        with pytest.raises(TypeError, match=r"true && true: a sequence is run"):
            attempt()


def test_options_are_of_each(tmp_path):
    done = (
        sh("pwd; echo $A").then(sh("pwd") | ["cat"]).with_options(cwd=tmp_path, env_add={"A": "b"}, capture=True).run()
    )
    assert done.text == f"{tmp_path}\nb\n{tmp_path}\n"
    with pytest.raises(ValueError, match="is not for a pipeline"):
        C("true").then(C("true") | ["true"]).with_options(new_session=True)


# ---- running ---------------------------------------------------------------------------------------------------------


def test_each_starts_when_the_one_before_it_has_succeeded(tmp_path):
    path = tmp_path / "order"
    sequence = sh(f"sleep 0.05; echo 1 >> {path}").then(sh(f"echo 2 >> {path}") | ["cat"], sh(f"echo 3 >> {path}"))
    assert sequence.run().ok
    assert path.read_text() == "1\n2\n3\n"


def test_each_has_its_result():
    done = sh("echo a; echo x >&2").then(sh("echo b") | sh("cat; echo y >&2")).with_options(capture=True).run()
    assert [step.stdout for step in done.steps] == [b"a\n", b"b\n"]
    assert [step.stderr for step in done.steps] == [b"x\n", b"y\n"]
    assert (done.stdout, done.stderr, done.text, done.returncode, done.ok) == (b"a\nb\n", b"x\ny\n", "a\nb\n", 0, True)
    assert done.elapsed == pytest.approx(sum(step.elapsed for step in done.steps))
    assert done.usage.max_rss == max(step.usage.max_rss for step in done.steps)
    assert "returncodes=[0, 0]" in repr(done)
    assert pickle.loads(pickle.dumps(done)) == done
    assert C("true").then(["true"]).run().stdout is None


def test_read_is_all_that_they_wrote():
    assert C("echo", "a").then(C("echo", "b") | ["cat"], ["echo", "c"]).read() == "a\nb\nc\n"
    assert cl.read(C("echo", "ä").then(["echo", "ö"]), encoding="utf-8") == "ä\nö\n"


@pytest.mark.parametrize(
    ("failing", "kind", "code"),
    [
        (["sh", "-c", "exit 3"], cl.NonZeroExit, 3),
        (["sh", "-c", "kill -9 $$"], cl.Signaled, -signal.SIGKILL),
        (["no-such-program"], FileNotFoundError, None),
        (C("true") | ["sh", "-c", "exit 4"], cl.NonZeroExit, 4),
        (C("sleep", "1000", timeout=0.05), cl.ProcessTimeout, -signal.SIGKILL),
    ],
)
def test_a_failure_ends_it(failing, kind, code):
    sequence = C("true").then(failing, ["no-such-program-at-all"])
    (done,) = cl.run_many([sequence])
    assert isinstance(done.error, kind)
    assert len(done.steps) == 2
    assert (done.returncode, done.ok) == (code, False)
    with pytest.raises(kind) as caught:
        sequence.run()
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_the_error_says_which_step_and_has_them_all():
    with pytest.raises(cl.NonZeroExit, match=r"\(step 2 of echo a && sh -c 'exit 3'\)") as caught:
        cl.run(cl.Command("echo", "a").then(["sh", "-c", "exit 3"]), capture=True)
    assert caught.value.stdout == b"a\n"
    assert [step.returncode for step in caught.value.result.steps] == [0, 3]


def test_unchecked_goes_on():
    done = C("false", check=False).then(["echo", "x"]).with_options(capture=True).run()
    assert [step.returncode for step in done.steps] == [1, 0]
    assert (done.returncode, done.error, done.stdout) == (0, None, b"x\n")
    last = C("true").then(C("false", check=False)).run()
    assert (last.returncode, last.error) == (1, None)


def test_timeout_and_retry_are_of_each(tmp_path):
    count = tmp_path / "count"
    flaky = sh(f"echo x >> {count}; test $(wc -l < {count}) -ge 3")
    done = C("true").then(flaky).with_options(retry=cl.Retry(5, backoff=0.001)).run()
    assert [step.tries for step in done.steps] == [1, 3]
    assert done.tries == 1
    assert C("sleep", "0.2").then(["sleep", "0.2"]).with_options(timeout=0.35).run().ok


def test_many():
    sequences = [sh(f"exit {n % 2}").then(["echo", str(n)]) for n in range(10)]
    done = list(cl.run_many(sequences, concurrency=3, ordered=True, capture=True))
    assert [result.index for result in done] == list(range(10))
    assert [len(result.steps) for result in done] == [2, 1] * 5
    assert [result.stdout for result in done[::2]] == [b"%d\n" % n for n in range(0, 10, 2)]


def test_leaving_run_many_ends_it():
    results = cl.run_many([["true"], C("true").then(["sleep", "1000"], ["true"])], concurrency=2)
    next(results)
    results.close()
