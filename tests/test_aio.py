"""run_async and run_many_async: the loop is not held, what is cancelled is gone, and nothing is left however a loop
ends."""

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import resource
import threading
import time
import weakref

import loops
import pytest
from faults_child import children, fresh, nothing_left, raises, until
from helpers import Clock, counting, needs_linux
from loops import cancelled_at_every_turn, eventually, new_loop, turns

import corelane as cl
from corelane.process import loop as loop_module

kind, run = loops.kind, loops.run  # fixtures
FOREVER = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def say(text, status=0):
    return ["sh", "-c", 'printf %s "$0"; exit "$1"', text, str(status)]


# ---- run_async -------------------------------------------------------------------------------------------------------


def test_it_returns_what_run_returns(run):
    result = run(cl.run_async(say("x"), capture=True))
    assert (result.text, result.returncode, result.ok, result.index, result.error) == ("x", 0, True, None, None)
    assert run(cl.Command(*say("y"), capture=True).run_async()).stdout == b"y"
    assert run(cl.run_async(["cat"], stdin=b"fed", capture=True)).stdout == b"fed"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["sh", "-c", "exit 3"], {}),
        (["sh", "-c", "kill -9 $$"], {}),
        (["no-such-program"], {}),
        (["/etc/passwd"], {}),
        (FOREVER, {"timeout": 0.05}),
        (["head", "-c", "5000", "/dev/zero"], {"capture": True, "max_output": 10}),
        ("a string", {}),
        ([], {}),
        (["true"], {"cwd": "/no/such/directory"}),
        (["true"], {"stdin": cl.File("/no/such/file")}),
        (["true"], {"umask": -1}),
    ],
    ids=str,
)
def test_it_raises_what_run_raises(run, command, options):
    with pytest.raises(Exception) as expected:  # noqa: PT011, its type is compared
        cl.run(command, **options)
    with pytest.raises(type(expected.value)) as found:
        run(cl.run_async(command, **options))
    assert str(found.value) == str(expected.value)
    result = getattr(found.value, "result", None)
    assert result is None or (result.error, result.tries) == (None, 1)


def test_tees_are_refused(run):
    with pytest.raises(ValueError, match="tee_stdout"):
        run(cl.run_async(["true"], capture=True, tee_stdout=1))


def _reads_our_stdin():
    import asyncio

    for one in (cl.run, lambda *args, **options: asyncio.run(cl.run_async(*args, **options))):
        print(one(["head", "-n", "1"], capture=True).stdout, end=" ")


def test_stdin_is_ours_as_in_run():
    assert fresh(_reads_our_stdin, input="one\n" * 100_000).split()[0].startswith("b'one")


def test_a_hundred_at_once_with_much_both_ways(run):
    data = os.urandom(300_000)

    async def main():
        done = await asyncio.gather(*(cl.run_async(["cat"], stdin=data, capture=True) for _ in range(100)))
        assert all(result.stdout == data for result in done)

    run(main())


def test_the_loop_goes_on_meanwhile(run):
    async def main():
        ticks = 0
        task = asyncio.ensure_future(cl.run_async(["sleep", "0.1"]))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.001)
        assert ticks > 10

    run(main())


def test_a_timeout_of_the_loops_ends_the_whole_scope(run, tmp_path):
    script = 'sleep 1000 & echo $! >"$0"; wait'

    async def main():
        with raises(TimeoutError):
            async with asyncio.timeout(20) as limit:
                task = asyncio.ensure_future(cl.run_async(["sh", "-c", script, str(tmp_path / "pid")]))
                await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
                limit.reschedule(0)
                await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cl.run_async(FOREVER), 0.02)
        assert children() == []

    run(main())
    until(lambda: not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}"))


def test_a_task_group_ends_the_others(run):
    async def main():
        with raises(ExceptionGroup) as found:
            async with asyncio.TaskGroup() as group:
                for command in (FOREVER, FOREVER, ["sh", "-c", "exit 3"]):
                    group.create_task(cl.run_async(command))
        assert [type(error) for error in found.value.exceptions] == [cl.NonZeroExit]
        assert children() == []

    run(main())


@pytest.mark.parametrize("command", [FOREVER, ["true"], ["no-such-program"]], ids=str)
def test_cancelled_at_every_turn(run, command):
    cancelled_at_every_turn(run, lambda: cl.run_async(command, check=False, capture=True))


def test_a_second_cancellation_does_not_end_the_wait_for_the_end(run):
    async def main():
        task = asyncio.ensure_future(cl.run_async(FOREVER))
        await eventually(children)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert children() == []

    run(main())


def test_a_coroutine_that_is_closed_kills_its_child(run):
    async def main():
        running = cl.run_async(FOREVER)
        running.send(None)
        assert children() != []
        running.close()
        await eventually(lambda: children() == [])

    run(main())


# ---- retry -----------------------------------------------------------------------------------------------------------


def test_it_is_tried_again(run, tmp_path):
    result = run(cl.run_async(counting(tmp_path / "n", 3), retry=cl.Retry(backoff=0.01)))
    assert (result.ok, result.tries) == (True, 3)
    with pytest.raises(cl.NonZeroExit) as found:
        run(cl.run_async(counting(tmp_path / "n", 99), retry=cl.Retry(tries=2, backoff=0.01)))
    assert found.value.result.tries == 2


class AsyncClock(Clock):
    async def sleep(self, seconds):
        await asyncio.sleep(0)
        super().sleep(seconds)


@pytest.mark.parametrize("clock", [Clock, AsyncClock])
def test_pauses_are_slept_by_the_clock_that_was_given(run, tmp_path, clock):
    retry = cl.Retry(tries=5, backoff=10, factor=3, max_backoff=50, jitter=0, clock=clock())
    result = run(cl.run_async(counting(tmp_path / "n", 4), retry=retry))
    assert result.tries == 4
    assert retry.clock.pauses == pytest.approx([10, 30, 50])


def test_a_clock_that_fails_is_the_outcome(run):
    class Broken(Clock):
        async def sleep(self, seconds):
            raise RuntimeError("no time")

    with pytest.raises(RuntimeError, match="no time"):
        run(cl.run_async(["false"], retry=cl.Retry(clock=Broken())))


@pytest.mark.parametrize("clock", [None, AsyncClock], ids=str)
def test_cancelled_between_two_tries(run, clock):
    """There is nothing to wait for, and no timer that would hold the loop until the next try."""

    class Slow(Clock):
        async def sleep(self, seconds):
            await asyncio.sleep(1000)

    async def main():
        retry = cl.Retry(backoff=1000, clock=clock and Slow())
        task = asyncio.ensure_future(cl.run_async(["false"], retry=retry))
        await turns(1)
        engine = loop_module.engine_of(asyncio.get_running_loop())
        await eventually(lambda: engine._later or engine._pauses)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: not engine.busy)

    run(main())


# ---- loops and engines -----------------------------------------------------------------------------------------------


def test_an_idle_engine_is_not_in_the_loop_and_keeps_it_not_alive(kind):
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        runner.run(cl.run_async(["true"]))
        loop = runner.get_loop()
        engine = loop_module.engine_of(loop)
        runner.run(turns(3))
        assert loop_module.engine_of(loop) is engine, "it is kept for the next one"
        assert (engine._loop, engine._reads, engine._timer) == (None, -1, None)
        if kind == "asyncio":
            assert len(loop._selector.get_map()) == 1  # the loop's own
        gone = weakref.ref(loop)
        del loop
    del runner
    until(lambda: gc.collect() is not None and gone() is None)


@needs_linux
def test_no_thread_has_a_part_in_it(run):
    async def main():
        await asyncio.gather(*(cl.run_async(["true"]) for _ in range(5)))
        assert set(os.listdir("/proc/self/task")) <= before

    before = set(os.listdir("/proc/self/task"))
    run(main())


def test_two_loops_in_two_threads(kind):
    """No watcher of the main thread's is needed, and none of the loops knows of the other's children."""
    data = b"x" * 100_000
    ended = []

    async def main():
        for _ in range(3):
            done = await asyncio.gather(*(cl.run_async(["cat"], stdin=data, capture=True) for _ in range(20)))
            ended.extend(result.stdout == data for result in done)
        async for result in cl.run_many_async([["echo", str(n)] for n in range(20)], concurrency=5, capture=True):
            ended.append(result.ok)

    def thread():
        with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
            runner.run(main())

    threads = [threading.Thread(target=thread) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert ended == [True] * 160


def _with_sigchld(disposition):
    import asyncio
    import signal

    seen = []
    how = signal.SIG_IGN if disposition == "ignored" else lambda number, frame: seen.append(number)
    signal.signal(signal.SIGCHLD, how)

    async def main():
        result = await cl.run_async(["sh", "-c", "echo x; exit 3"], capture=True, check=False)
        assert result.stdout == b"x\n"
        assert disposition == "ignored" or result.returncode == 3
        async with cl.Command("echo", "y").spawn_async(stdout=cl.PIPE) as process:
            assert [line async for line in process.lines()] == [b"y\n"]

    asyncio.run(main())
    assert signal.getsignal(signal.SIGCHLD) is how
    assert disposition == "ignored" or seen


@pytest.mark.parametrize("disposition", ["ignored", "handled"])
def test_the_hosts_sigchld_is_its_own(disposition):
    fresh(_with_sigchld, disposition)


def test_the_loops_own_children_are_left_to_it(run):
    async def main():
        theirs = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
        await asyncio.gather(*(cl.run_async(["true"]) for _ in range(20)))
        assert await theirs.wait() == 5

    run(main())


@pytest.mark.parametrize("how", ["run_async", "run_many_async"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_with_children_alive(kind, how):
    """Nobody is told of a loop's end; what the loop held goes with it."""
    loop = new_loop(kind)
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!", which it is

    async def many():
        async for _ in cl.run_many_async([FOREVER] * 3, concurrency=3):
            pass

    tasks = [loop.create_task(cl.run_async(FOREVER) if how == "run_async" else many()) for _ in range(3)]
    loop.run_until_complete(turns(3))
    assert children() != []
    loop.close()
    del tasks, loop
    gc.collect()
    assert children() == []


def test_a_fork_with_children_alive(run):
    """The child of the fork has copies of everything, and may touch nothing."""

    async def main():
        tasks = [asyncio.ensure_future(cl.run_async(FOREVER)) for _ in range(3)]
        many = cl.run_many_async([FOREVER], concurrency=1)
        waiting = asyncio.ensure_future(anext(many))
        await turns(3)
        alive = children()
        engine = loop_module.engine_of(asyncio.get_running_loop())
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                assert not engine.kill(next(iter(engine._sinks)))
                tasks[0].cancel()
                del many
                loop_module._engines.clear()
                gc.collect()
                tasks[0].get_coro().close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert sorted(set(children()) & set(alive)) == sorted(alive)
        waiting.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, waiting, return_exceptions=True)
        await many.aclose()

    run(main())


def test_an_interrupt_in_the_loops_callback(kind, monkeypatch):
    """Results may have been in its hands: nothing can be lost but all that lives, which is killed, and said so."""
    real = loop_module.Engine._collect

    def interrupted(self, at_most_ns):
        real(self, at_most_ns)
        if len(self._sinks) < 3:  # one has ended
            monkeypatch.undo()
            raise KeyboardInterrupt

    loop = new_loop(kind)
    tasks = [loop.create_task(cl.run_async(command)) for command in (["sleep", "0.1"], FOREVER, FOREVER)]
    loop.run_until_complete(turns(1))
    monkeypatch.setattr(loop_module.Engine, "_collect", interrupted)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):  # the second is uvloop's for it
        loop.run_until_complete(tasks[0])
    assert children() == []
    done = loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    assert [type(one) for one in done] == [cl.Result, cl.ProcessError, cl.ProcessError]
    assert "KeyboardInterrupt" in str(done[1])
    if kind == "asyncio":  # uvloop stops once more, for the first of them
        assert loop.run_until_complete(cl.run_async(["true"])).ok
    loop.close()


def _interrupted_by_a_person(many):
    import asyncio
    import os
    import signal

    async def main():
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        if many:
            async with cl.run_many_async([["sleep", "1000"]] * 3, concurrency=3) as results:
                async for _ in results:
                    pass
        await cl.run_async(["sleep", "1000"])

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        from faults_child import children

        assert children() == []
        print("interrupted")


@pytest.mark.parametrize("many", [0, 1])
def test_ctrl_c(many):
    assert fresh(_interrupted_by_a_person, many) == "interrupted\n"


def _with_few_descriptors(limit):
    import asyncio
    import resource

    async def main():
        runs = [cl.run_async(["sh", "-c", f"echo {n}"], capture=True) for n in range(60)]
        done = await asyncio.gather(*runs)
        assert [int(result.text) for result in done] == list(range(60))
        found = [int(result.text) async for result in cl.run_many_async(
            [["sh", "-c", f"echo {n}"] for n in range(60)], concurrency=60, capture=True, timeout=60
        )]  # fmt: skip
        assert sorted(found) == list(range(60))

    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    asyncio.run(main())


@pytest.mark.parametrize("limit", [24, 40])
def test_with_few_descriptors_fewer_run_at_a_time_and_none_is_lost(limit):
    fresh(_with_few_descriptors, limit)


def test_with_no_room_at_all_it_is_tried_for_a_second(run):
    async def main():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        await cl.run_async(["true"])  # the loop and the engine have theirs
        began = time.monotonic()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(cl.ResourceExhausted):
                await cl.run_async(["true"], capture=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert time.monotonic() - began >= 0.9
        task = asyncio.ensure_future(cl.run_async(["true"]))
        assert (await task).ok

    run(main())


def test_with_no_descriptor_for_the_engines_timer(run, monkeypatch):
    def no_room(batch):
        raise cl.CallFailed(errno.EMFILE, "no descriptor")

    monkeypatch.setattr("corelane.process.batch.Batch.arm", no_room)
    with pytest.raises(cl.ProcessTimeout):
        run(cl.run_async(FOREVER, timeout=0.05))


# ---- run_many_async --------------------------------------------------------------------------------------------------


async def all_of(commands, **options):
    return [result async for result in cl.run_many_async(commands, **options)]


@pytest.mark.parametrize("concurrency", [1, 3, 100, None])
def test_each_command_has_its_result(run, concurrency):
    done = run(all_of([say(str(n)) for n in range(40)], concurrency=concurrency, capture=True))
    assert sorted(result.index for result in done) == list(range(40))
    assert all(result.text == str(result.index) for result in done)


def test_nothing_is_raised_for_a_child(run):
    commands = [["true"], ["sh", "-c", "exit 3"], ["no-such-program"], "a string", 3, FOREVER]
    done = run(all_of(commands, concurrency=3, ordered=True, timeout=0.3))
    assert [type(result.error) for result in done] == [
        type(None), cl.NonZeroExit, type(done[2].error), TypeError, TypeError, cl.ProcessTimeout,
    ]  # fmt: skip
    assert isinstance(done[2].error, FileNotFoundError)


def test_wrong_arguments_are_raised_at_once():
    for wrong in ("true", cl.Command("true")):
        with pytest.raises(TypeError):
            cl.run_many_async(wrong)
    with pytest.raises(TypeError):
        cl.run_many_async(3)
    with pytest.raises(ValueError, match="concurrency"):
        cl.run_many_async([], concurrency=0)
    with pytest.raises(ValueError, match="tee_stdout"):
        cl.run_many_async([["true"]], tee_stdout=1)
    assert asyncio.run(all_of([])) == []


def numbered(pulled, count=50):
    for n in range(count):
        pulled.append(n)
        yield ["true"]


async def numbered_slowly(pulled, count=50):
    for given in numbered(pulled, count):
        await asyncio.sleep(0)
        yield given


@pytest.mark.parametrize("source", [numbered, numbered_slowly])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_input_is_pulled_as_there_is_room(run, source, ordered):
    async def main():
        pulled = []
        taken = 0
        async for _ in cl.run_many_async(source(pulled), concurrency=4, ordered=ordered):
            taken += 1
            await asyncio.sleep(0.002)
            assert len(pulled) <= taken + 4
        assert taken == 50

    run(main())


def test_at_most_so_many_results_wait_unread(run):
    async def main():
        pulled = []
        async with cl.run_many_async(numbered(pulled, 1000), concurrency=5) as results:
            await anext(results)
            await eventually(lambda: not children())
            assert len(pulled) <= 5
            assert sum([1 async for _ in results]) == 999

    run(main())


def test_they_run_while_the_body_awaits_something_else(run):
    async def main():
        results = cl.run_many_async([say(str(n)) for n in range(5)], concurrency=5, capture=True)
        await anext(results)
        await eventually(lambda: not children())
        assert len(results._many.items.ready) == 4
        assert len([result async for result in results]) == 4

    run(main())


def test_ordered_is_the_order_of_the_commands(run):
    commands = [["sh", "-c", f"sleep 0.0{9 - n}; echo {n}"] for n in range(9)]
    done = run(all_of(commands, concurrency=9, ordered=True, capture=True))
    assert [result.text for result in done] == [f"{n}\n" for n in range(9)]


def test_a_slow_async_input_holds_no_result(run):
    async def main():
        gate = asyncio.Event()

        async def commands():
            yield ["echo", "first"]
            await gate.wait()
            yield ["echo", "second"]

        found = []
        async for result in cl.run_many_async(commands(), concurrency=5, capture=True):
            found.append(result.text)
            gate.set()
        assert found == ["first\n", "second\n"]

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_of_the_iterables_kills_the_rest(run, is_async):
    def commands():
        yield ["true"]
        yield FOREVER
        yield FOREVER
        raise RuntimeError("no more")

    async def commands_async():
        for command in commands():
            yield command

    async def main():
        found = []
        with raises(RuntimeError):
            async for result in cl.run_many_async(commands_async() if is_async else commands(), concurrency=5):
                found.append(result.index)
        assert found in ([], [0])
        assert children() == []

    run(main())


def test_leaving_the_loop_kills_the_rest(run):
    async def main():
        async for _ in cl.run_many_async([["true"], FOREVER, FOREVER], concurrency=3):
            break
        await eventually(lambda: not children())
        async with cl.run_many_async([["true"], FOREVER, FOREVER], concurrency=3) as results:
            async for _ in results:
                break
        assert children() == []
        assert [result async for result in results] == []
        await results.aclose()

    run(main())


def test_a_dropped_iterator_with_a_slow_async_input(run):
    async def main():
        async def commands():
            yield ["true"]
            yield FOREVER
            await asyncio.Event().wait()

        async for _ in cl.run_many_async(commands(), concurrency=5):
            break
        await eventually(lambda: not children())
        await eventually(lambda: len(asyncio.all_tasks()) == 1)

    run(main())


def test_a_dropped_iterator_whose_input_is_all_that_is_awaited(run):
    async def main():
        async def commands():
            yield ["true"]
            await asyncio.Event().wait()

        results = cl.run_many_async(commands(), concurrency=5)
        assert (await anext(results)).ok
        many = results._many
        await eventually(lambda: many.engine._loop is None)  # it is at rest
        del results
        await eventually(lambda: len(asyncio.all_tasks()) == 1)

    run(main())


def test_dropped_in_another_thread(run):
    """As the garbage collector may."""

    async def main():
        results = [cl.run_many_async([["true"], FOREVER], concurrency=2)]
        await anext(results[0])
        thread = threading.Thread(target=results.clear)
        thread.start()
        thread.join()
        await eventually(lambda: not children())

    run(main())


@pytest.mark.parametrize("source", [numbered, numbered_slowly])
def test_many_cancelled_at_every_turn(run, source):
    async def many():
        async with cl.run_many_async(source([]), concurrency=3) as results:
            async for _ in results:
                pass

    cancelled_at_every_turn(run, many)


def test_more_cancellations_do_not_end_the_wait_for_many(run):
    async def many():
        async with cl.run_many_async([FOREVER] * 3, concurrency=3) as results:
            async for _ in results:
                pass

    async def main():
        task = asyncio.ensure_future(many())
        await eventually(lambda: len(children()) == 3)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        assert children() == []

    run(main())


def test_cancelling_a_wait_for_one_result_ends_nothing(run):
    async def main():
        async with cl.run_many_async([["sleep", "0.1"]], concurrency=1) as results:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(results), 0.02)
            assert (await anext(results)).ok

    run(main())


def test_many_tasks_share_one_iterator(run):
    async def main():
        results = cl.run_many_async([["echo", str(n)] for n in range(50)], concurrency=5, capture=True)

        async def some():
            return [int(result.text) async for result in results]

        found = await asyncio.gather(some(), some(), some())
        assert sorted(itertools.chain(*found)) == list(range(50))

    run(main())


def test_many_are_tried_again(run, tmp_path):
    commands = [counting(tmp_path / str(n), 2) for n in range(5)]
    done = run(all_of(commands, concurrency=5, retry=cl.Retry(backoff=0.01)))
    assert [(result.ok, result.tries) for result in done] == [(True, 2)] * 5


class Pauses:
    """A clock whose pauses are tasks of the loop, as any others."""

    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


def test_a_pause_that_somebody_cancels_ends_the_tries(run):
    """As a program does that cancels all tasks but its own."""

    async def main():
        me = asyncio.current_task()
        retry = cl.Retry(tries=3, backoff=1000, clock=Pauses())
        waiting = asyncio.ensure_future(cl.run_async(["false"], retry=retry))
        pause = await eventually(lambda: asyncio.all_tasks() - {me, waiting})
        for task in pause:
            task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(cl.ProcessError, match="the pause before its next try was ended"):
                await waiting

    run(main())


@contextlib.contextmanager
def tasks_still_born():
    """What is made within is cancelled before its first step."""

    def make(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        task.cancel()
        return task

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(None)


def test_a_pause_that_is_cancelled_before_its_first_step_ends_the_tries(run):
    async def main():
        retry = cl.Retry(tries=3, backoff=1000, clock=Pauses())
        async with asyncio.timeout(20):
            with tasks_still_born(), pytest.raises(cl.ProcessError, match="was ended by CancelledError"):
                await cl.run_async(["false"], retry=retry)

    run(main())


def test_an_async_iterable_that_is_cancelled_before_its_first_step_ends_the_iterator(run):
    async def commands():
        yield ["true"]

    async def main():
        with tasks_still_born(), pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(20):
                await anext(cl.run_many_async(commands()))

    run(main())


def test_a_coroutine_closed_in_a_block_of_many(run):
    async def main():
        async with cl.run_many_async([FOREVER], concurrency=1) as results:
            async for _ in results:
                pass

    async def outer():
        body = main()
        task = asyncio.ensure_future(asyncio.sleep(0))
        body.send(None)
        await eventually(children)
        body.close()
        await task
        await eventually(lambda: not children())

    run(outer())
