"""Retry: what is tried again, how often, and after which pauses; with a clock that does not wait."""

import pickle
import signal
import time

import pytest
from helpers import Clock, counting

import corelane as cl


def plain(**kwargs):
    return cl.Retry(jitter=0, clock=Clock(), **kwargs)


def lines_of(path):
    return len(path.read_text().splitlines())


RUNS = {
    "run": lambda command, **options: cl.run(command, check=True, **options),
    "many": lambda command, **options: next(cl.run_many([command], **options)),
}


@pytest.fixture(params=RUNS)
def run(request):
    """Runs one command by either road; its result, or the result of its error."""

    def once(command, **options):
        try:
            return RUNS[request.param](command, **options)
        except cl.ProcessError as error:
            error.result.error = error
            return error.result

    return once


def test_it_is_tried_until_it_succeeds(tmp_path, run):
    retry = plain(tries=5, backoff=1, factor=3, max_backoff=5)
    result = run(counting(tmp_path / "n", 4), retry=retry)
    assert (result.ok, result.tries, lines_of(tmp_path / "n")) == (True, 4, 4)
    assert retry.clock.pauses == pytest.approx([1, 3, 5])


def test_the_last_failure_is_the_outcome(tmp_path, run):
    retry = plain(tries=3)
    result = run(counting(tmp_path / "n", 99), retry=retry)
    assert (type(result.error), result.tries, lines_of(tmp_path / "n")) == (cl.NonZeroExit, 3, 3)
    assert result.error.result is result
    assert str(result.error).endswith("(tried 3 times)")
    assert len(retry.clock.pauses) == 2


def test_one_try_is_none_again(tmp_path, run):
    assert run(counting(tmp_path / "n", 2), retry=plain(tries=1)).tries == 1
    assert lines_of(tmp_path / "n") == 1


def test_a_success_is_not_tried_again(tmp_path, run):
    assert run(counting(tmp_path / "n", 1), retry=plain()).tries == 1
    assert lines_of(tmp_path / "n") == 1


def test_what_check_false_accepts_is_no_failure(tmp_path):
    result = cl.run(counting(tmp_path / "n", 2), check=False, retry=plain())
    assert (result.returncode, result.tries) == (1, 1)


def test_a_program_that_is_not_there_is_not_tried_again():
    retry = plain()
    with pytest.raises(FileNotFoundError):
        cl.run(["no-such-program"], retry=retry)
    (result,) = cl.run_many([["no-such-program"]], retry=retry)
    assert isinstance(result.error, FileNotFoundError)
    assert retry.clock.pauses == []


def test_each_try_has_its_own_timeout(run):
    retry = plain(tries=2)
    result = run(["sleep", "1000"], timeout=0.05, retry=retry)
    assert (result.timed_out, result.tries, result.signal) == (True, 2, signal.SIGKILL)


def test_no_room_for_a_process_is_tried_again():
    assert cl.Retry().is_for(cl.ResourceExhausted("", stage="clone", errno=11), 1)
    assert not cl.Retry().is_for(cl.SpawnFailed("", stage="exec", errno=2), 1)
    assert not cl.Retry().is_for(ValueError(), 1)


def test_many_wait_side_by_side(tmp_path):
    """Each has its own pauses, and the others go on meanwhile: they end in the order in which their tries allow."""
    clock = Clock()
    commands = [
        cl.Command(*counting(tmp_path / "a", 2), retry=cl.Retry(backoff=10, jitter=0, clock=clock)),
        cl.Command(*counting(tmp_path / "b", 2), retry=cl.Retry(backoff=3, jitter=0, clock=clock)),
        cl.Command("true"),
    ]
    done = list(cl.run_many(commands, concurrency=3))
    assert [(result.index, result.tries) for result in done] == [(2, 1), (1, 2), (0, 2)]
    assert clock.now == pytest.approx(110)


def test_those_that_wait_keep_their_places(tmp_path):
    """Else a list whose every command fails would be pulled to its end before the first second try."""
    clock = Clock()
    pulled = []

    def commands():
        for n in range(6):
            pulled.append((n, clock.now))
            yield counting(tmp_path / str(n), 2)

    done = list(cl.run_many(commands(), concurrency=2, retry=cl.Retry(backoff=1, jitter=0, clock=clock)))
    assert all(result.ok and result.tries == 2 for result in done)
    assert max(now for n, now in pulled if n < 2) == 100.0
    assert min(now for n, now in pulled if n >= 2) >= 101.0


def test_without_a_clock_it_waits_in_real_time(tmp_path, run):
    started = time.monotonic()
    assert run(counting(tmp_path / "n", 3), retry=cl.Retry(backoff=0.02, factor=1, jitter=0)).tries == 3
    assert time.monotonic() - started >= 0.04


def test_leaving_the_loop_forgets_what_waits(tmp_path):
    results = cl.run_many([["true"], counting(tmp_path / "n", 2)], retry=cl.Retry(backoff=1000), concurrency=2)
    assert next(results).index == 0
    results.close()
    assert not list(results)


def test_jitter_takes_at_most_its_part():
    pauses = [cl.Retry(backoff=10, jitter=0.3).pause(1) for _ in range(300)]
    assert 7 <= min(pauses) < max(pauses) <= 10
    assert max(pauses) - min(pauses) > 1


def test_pauses_grow_to_their_limit_and_no_further():
    retry = cl.Retry(tries=10**9, backoff=1, factor=10, max_backoff=60, jitter=0)
    assert [retry.pause(n) for n in (1, 2, 3, 10**6)] == [1, 10, 60, 60]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"tries": 0}, ValueError),
        ({"tries": 1.5}, TypeError),
        ({"tries": True}, TypeError),
        ({"backoff": -1}, ValueError),
        ({"backoff": "1"}, TypeError),
        ({"factor": 0.5}, ValueError),
        ({"factor": float("nan")}, ValueError),
        ({"max_backoff": float("nan")}, ValueError),
        ({"jitter": 1.5}, ValueError),
        ({"jitter": "x"}, TypeError),
        ({"clock": 5}, TypeError),
    ],
)
def test_wrong_values_are_refused(wrong, kind):
    with pytest.raises(kind, match=next(iter(wrong))):
        cl.Retry(**wrong)


def test_a_number_is_no_retry():
    with pytest.raises(TypeError, match=r"Retry\(tries=5\)"):
        cl.run(["true"], retry=5)


def test_it_is_of_runs():
    command = cl.Command("true", retry=cl.Retry())
    with pytest.raises(ValueError, match="retry= belongs to runs"):
        command.spawn()
    with pytest.raises(ValueError, match="not retried"):
        list(command.lines())


def test_it_is_a_value():
    assert cl.Retry(3) == cl.Retry(3) != cl.Retry(4)
    assert pickle.loads(pickle.dumps(cl.Command("true", retry=cl.Retry(3)))) == cl.Command("true", retry=cl.Retry(3))
    assert len({cl.Command("x", retry=cl.Retry(3)), cl.Command("x", retry=cl.Retry(3))}) == 1
    result = next(cl.run_many([["false"]], retry=plain(tries=2)))
    assert pickle.loads(pickle.dumps(result)).tries == 2
