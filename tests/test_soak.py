"""Many spawns of all kinds: nothing grows."""

import contextlib
import gc
import os
import time

import pytest
from faults_child import STRATEGIES, children, descriptors, fresh, resident

import corelane as cl
from corelane._ffi import PLATFORM


def soak(strategies, seed, threads, rounds, seconds, out):
    """Spawn `rounds` times, or for some seconds, with random options; checks every one, and what is left in the end.

    Prints how often it spawned.
    """
    import random
    from concurrent.futures import ThreadPoolExecutor

    import psutil  # noqa: F401, before memory is measured

    import corelane.process.stream  # noqa: F401

    pick = random.Random(seed)
    linux = PLATFORM != "darwin"

    def choose(**maybe):
        """Some of the options, each with one of its values."""
        return {name: pick.choice(values) for name, values in maybe.items() if pick.random() < 0.3}

    def options():
        found = choose(
            strategy=strategies,
            cwd=["/", "/tmp"],
            umask=[0o22, 0o77],
            nice=[1, 5],
            contain=["auto", "group", "none"],
            new_session=[True],
            env_add=[{"A": "b"}, {"PATH": os.environ["PATH"], "B" * 100: "c" * 1000}],
            env_remove=[["HOME"], ["LANG", "NO_SUCH"]],
            rlimits=[{"core": 0}, {"nofile": 100, "core": (0, 0)}],
            signal_mask=[["USR1"]],
            signal_ignores=[["HUP", "USR2"]],
            signal_defaults=[["INT", "TERM"]],
            fds=[{3: 2}, {9: 2, 4: 1}],
            close_others=[False, True],
            pipe_size=[4096, {"stdout": 1 << 16}],
            buffer_size=[1, 100, {"stdin": 10, "stderr": 20}],
        )
        if linux:
            found |= choose(
                cpus=[sorted(os.sched_getaffinity(0))],
                sched=["batch", "other"],
                io_priority=["idle", ("best-effort", 3)],
                oom_score_adj=[100, 500],
                no_new_privs=[True],
                die_with_parent=[True, False, "TERM"],
            )
        return found

    def run():
        feed = pick.choice([b"", b"in", b"x" * 70_000, [b"a", b"b" * 5000]])
        extra = choose(timeout=[10, 100], grace=[1], drain=[0.5], max_output=[1 << 20], on_limit=["truncate"])
        done = cl.run(["cat"], stdin=feed, capture=True, **options(), **extra)
        assert done.stdout == (b"".join(feed) if isinstance(feed, list) else feed), done
        assert done.stderr == b""

    def run_quietly():
        streams = [cl.DEVNULL, cl.File(out), cl.File(out, append=True)]
        assert cl.run(["true"], stdin=cl.DEVNULL, stdout=pick.choice(streams), stderr=cl.STDOUT, **options()).ok

    def again():
        assert command.run().ok
        assert capture.run().text == "x\n"

    def lines():
        assert list(cl.Command("echo", "a\nb", **options()).lines()) == ["a", "b"]

    def stop_early():
        chunks = cl.Command("yes", **options()).chunks(pick.choice([1, 100, 100_000]))
        assert next(chunks)[:1] == b"y"
        chunks.close()

    def talk():
        encoding = choose(encoding=["utf-8", "latin-1"])
        streams = {"stdin": cl.PIPE, "stdout": cl.PIPE, "stderr": pick.choice([cl.PIPE, cl.DEVNULL, cl.STDOUT])}
        with cl.Command("cat", **streams, **encoding, **options()).spawn() as process:
            text = "in\n" if encoding else b"in\n"
            process.stdin.write(text)
            process.stdin.close()
            assert process.stdout.read() == text
            assert process.wait(20) == 0

    def end_early():
        with cl.Command("sleep", "100", **options()).spawn() as process:
            end = pick.choice([process.kill, process.kill_tree, lambda: process.terminate(1), lambda: process.wait(0)])
            try:
                end()
            except cl.ProcessTimeout:
                process.send_signal("KILL")
            assert process.wait(20) < 0

    def leave_by_error():
        with contextlib.suppress(LookupError), cl.Command("sleep", "100", **options()).spawn(stdout=cl.PIPE):
            raise LookupError

    def fail(error, argv, **more):
        given = options() | more
        try:
            start = pick.choice([cl.run, lambda argv, **options: cl.Command(*argv, **options).spawn().check()])
            start(argv, **given)
        except error:
            return
        raise AssertionError(f"{argv} {given}: no {error.__name__}")

    failures = [
        lambda: fail(FileNotFoundError, ["no-such-program"]),
        lambda: fail(FileNotFoundError, ["true"], cwd="/no/such/place"),
        lambda: fail(PermissionError, ["/"]),
        lambda: fail(cl.SpawnFailed, ["true"], fds={3: 1000}),
        lambda: fail(cl.NonZeroExit, ["false"]),
        lambda: fail(cl.Signaled, ["sh", "-c", "kill -9 $$"]),
        lambda: fail(ValueError, ["true"], contain="nothing"),
    ]
    kinds = [
        run,
        run_quietly,
        again,
        lines,
        stop_early,
        talk,
        end_early,
        leave_by_error,
        lambda: pick.choice(failures)(),
    ]

    def turn(rounds, until):
        done = 0
        while done < rounds and time.monotonic() < until:
            pick.choices(kinds, weights=[6, 6, 6, 3, 1, 3, 1, 1, 3])[0]()
            done += 1
        return done

    def turns(rounds, seconds):
        until = time.monotonic() + seconds
        return sum(pool.map(turn, [rounds // threads] * threads, [until] * threads)) if pool else turn(rounds, until)

    command, capture = cl.Command("true"), cl.Command("echo", "x", capture=True)
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    turns(1000, seconds)
    gc.collect()
    before, memory = descriptors(), resident()
    done = turns(rounds, seconds)
    gc.collect()
    assert descriptors() == before
    assert children() == []
    grown = resident() - memory
    assert grown < 1 << 20, f"{grown} bytes more after {done} rounds"
    print(done)


@pytest.mark.slow
def test_twenty_thousand_spawns_leave_nothing(tmp_path):
    """Random options from a fixed seed, failures and early ends among them."""
    spawns = 20_000
    assert int(fresh(soak, STRATEGIES, 1, 1, spawns, 600, str(tmp_path / "out"), timeout=700)) == spawns


@pytest.mark.stress
@pytest.mark.parametrize("threads", [1, 4])
def test_half_a_minute_of_spawns(threads, tmp_path):
    fresh(soak, STRATEGIES, 2, threads, 10_000_000, 30, str(tmp_path / "out"), timeout=200)
