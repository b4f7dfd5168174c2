"""AsyncProcess: started, waited for and ended without holding the event loop, and nothing is left however it goes."""

import asyncio
import contextlib
import gc
import os
import signal
import time
import warnings

import loops
import pytest
from faults_child import children, fresh, is_gone, nothing_left, raises
from helpers import needs_clone, needs_linux, needs_root
from loops import cancelled_at_every_turn, eventually, new_loop, turns

import corelane as cl

kind, run = loops.kind, loops.run  # fixtures
FOREVER = cl.Command("sleep", "1000")
CAT = cl.Command("cat")


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def sh(script, *args, **options):
    return cl.Command("sh", "-c", script, *args, **options)


# ---- the beginning ---------------------------------------------------------------------------------------------------


def test_awaited_or_entered(run):
    async def main():
        process = await sh("exit 3").spawn_async()
        assert isinstance(process, cl.AsyncProcess)
        assert process.pid in children()
        assert await process.wait() == process.returncode == process.poll() == 3
        assert process.state == "exited"
        assert process.usage.max_rss > 0
        assert process.result().returncode == 3
        async with sh("exit 4").spawn_async() as other:
            assert other.command == sh("exit 4")
        assert other.returncode == 4
        process = await sh("exit 5").spawn_async()
        async with process:
            pass
        assert process.returncode == 5

    run(main())


@needs_clone
def test_nobody_waits_for_an_exec_and_the_process_says_so(run):
    async def main():
        for options, strategy in (({}, "clone3-nowait"), ({"strategy": "vfork"}, "vfork")):
            async with cl.Command("true", **options).spawn_async() as process:
                assert process.strategy == strategy

    run(main())


@pytest.mark.parametrize(
    ("command", "error", "stage"),
    [
        (cl.Command("no-such-program"), FileNotFoundError, "exec"),
        (cl.Command("/etc/passwd"), PermissionError, "exec"),
        (cl.Command("true", cwd="/no/such/directory"), FileNotFoundError, "cwd"),
        (cl.Command("true", stdin=cl.File("/no/such/file")), FileNotFoundError, "open"),
    ],
    ids=str,
)
def test_what_cannot_be_started_raises_as_spawn_does(run, command, error, stage):
    async def main():
        with pytest.raises(error) as found:
            await command.spawn_async(stdout=cl.PIPE)
        with pytest.raises(error) as expected:
            command.spawn(stdout=cl.PIPE)
        assert (found.value.stage, str(found.value)) == (stage, str(expected.value))
        assert children() == []
        with raises(error):
            async with command.spawn_async():
                pass

    run(main())


def test_options_of_runs_are_refused_at_once():
    with pytest.raises(ValueError, match="timeout= belongs to runs"):
        FOREVER.spawn_async(timeout=3)
    with pytest.raises(ValueError, match="is not fed"):
        asyncio.run(cl.Command("cat", stdin=b"x").spawn_async()._spawned())


def test_a_spawning_that_is_not_awaited_starts_nothing():
    FOREVER.spawn_async()
    assert children() == []


@pytest.mark.parametrize("command", [FOREVER, cl.Command("true"), cl.Command("no-such-program")], ids=str)
def test_cancelled_at_every_turn(run, command):
    async def spawned():
        async with command.spawn_async(stdin=cl.PIPE, stdout=cl.PIPE, stderr=cl.PIPE) as process:
            await process.wait()

    cancelled_at_every_turn(run, spawned)


# ---- waiting and signalling ------------------------------------------------------------------------------------------


def test_several_tasks_wait_and_one_is_cancelled(run):
    async def main():
        process = await FOREVER.spawn_async()
        waits = [asyncio.ensure_future(process.wait()) for _ in range(5)]
        await turns(3)
        waits[0].cancel()
        await turns(3)
        assert process.poll() is None
        with pytest.raises(cl.ProcessTimeout, match=r"still runs after 0\.01 s"):
            await process.wait(timeout=0.01)
        with pytest.raises(cl.ProcessTimeout):
            await process.wait(timeout=0)
        with pytest.raises(ValueError, match="timeout"):
            await process.wait(timeout=-1)
        assert process.send_signal("TERM")
        assert await asyncio.gather(*waits[1:]) == [-signal.SIGTERM] * 4
        assert not process.send_signal("TERM")
        assert await process.wait(timeout=0) == -signal.SIGTERM

    run(main())


@needs_clone  # elsewhere there is no descriptor
def test_the_loop_has_the_descriptor_only_while_somebody_waits(run):
    async def main():
        async with FOREVER.spawn_async() as process:
            loop, fd = asyncio.get_running_loop(), process.fileno()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.01)
            assert not loop.remove_reader(fd)
            process.kill()
            await process.wait()
            assert not loop.remove_reader(fd)

    run(main())


def test_check(run):
    async def main():
        await (await cl.Command("true").spawn_async()).check()
        with pytest.raises(cl.NonZeroExit) as found:
            await (await sh("exit 7").spawn_async()).check()
        assert found.value.code == 7

    run(main())


def test_terminate(run):
    async def main():
        process = await FOREVER.spawn_async()
        assert await process.terminate() == -signal.SIGTERM
        assert await process.terminate() == -signal.SIGTERM
        stubborn = await sh("trap '' TERM; echo; while :; do sleep 0.01; done").spawn_async(stdout=cl.PIPE)
        async with stubborn:
            await stubborn.stdout.readline()
            assert await stubborn.terminate(grace=0.05) == -signal.SIGKILL

    run(main())


def test_terminate_cancelled_is_kill(run):
    async def main():
        process = await sh("trap '' TERM; echo; while :; do sleep 0.01; done").spawn_async(stdout=cl.PIPE)
        await process.stdout.readline()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.terminate(grace=1000), 0.05)
        assert process.returncode == -signal.SIGKILL
        process.close()

    run(main())


def test_kill_tree_and_the_scope(run):
    async def main():
        for end in (lambda one: one.kill_tree(), lambda one: one.signal_scope("KILL")):
            async with sh("sleep 1000 & echo $!; wait").spawn_async(stdout=cl.PIPE) as process:
                pid = int(await process.stdout.readline())
                end(process)
                await eventually(lambda pid=pid: is_gone(pid))
            assert process.returncode == -signal.SIGKILL

    run(main())


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_back(run):
    data = os.urandom(3_000_000)

    async def main():
        async with CAT.spawn_async(stdin=cl.PIPE, stdout=cl.PIPE) as process:

            async def write():
                process.stdin.write(data)
                await process.stdin.drain()
                process.stdin.close()
                await process.stdin.wait_closed()

            _, read = await asyncio.gather(write(), process.stdout.read())
            assert read == data

    run(main())


def test_lines_are_text_with_an_encoding_and_bytes_without(run):
    async def main():
        for encoding, expected in ((None, ["ä\n".encode(), b"b\n", b"c"]), ("utf-8", ["ä\n", "b\n", "c"])):
            async with sh("printf 'ä\\nb\\nc'").spawn_async(stdout=cl.PIPE, encoding=encoding) as process:
                assert [line async for line in process.lines()] == expected
        async with cl.Command("true").spawn_async(stdout=cl.PIPE) as process:
            assert [line async for line in process.lines()] == []
        async with cl.Command("true").spawn_async() as process:
            with pytest.raises(ValueError, match="stdout=PIPE"):
                process.lines()

    run(main())


def test_no_line_is_lost_by_a_break_or_a_timeout(run):
    """A child that answers slowly, and in pieces, to somebody who does not wait for ever."""
    script = 'printf "one\\ntwo\\npar"; read _; printf "tial\\nlast"'

    async def main():
        async with cl.Command("sh", "-c", script).spawn_async(stdin=cl.PIPE, stdout=cl.PIPE) as process:
            async for line in process.lines():
                found = [line]
                break
            found.append(await anext(process.lines()))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(process.lines())
            process.stdin.write(b"\n")
            return found + [line async for line in process.lines()]

    assert run(main()) == [b"one\n", b"two\n", b"partial\n", b"last"]


def test_a_line_may_be_longer_than_a_stream_readers(run):
    async def main():
        async with sh("head -c 1000000 /dev/zero; echo; echo x").spawn_async(stdout=cl.PIPE) as process:
            assert [len(line) async for line in process.lines()] == [1000001, 2]

    run(main())


def test_a_line_without_end_ends_the_child(run, monkeypatch):
    monkeypatch.setattr("corelane.process.async_process.MAX_LINE", 100_000)

    async def main():
        async with cl.Command("cat", "/dev/zero").spawn_async(stdout=cl.PIPE) as process:
            with raises(cl.OutputLimitExceeded):
                async for _ in process.lines():
                    pass
            assert await process.wait() == -signal.SIGKILL

    run(main())


def test_stderr_is_a_stream_of_its_own(run):
    async def main():
        async with sh("echo out; echo err >&2").spawn_async(stdout=cl.PIPE, stderr=cl.PIPE) as process:
            assert await asyncio.gather(process.stdout.read(), process.stderr.read()) == [b"out\n", b"err\n"]

    run(main())


def test_a_pipe_at_its_end_is_closed(run):
    """Without anybody's leaving a block."""

    async def main():
        process = await sh("echo x").spawn_async(stdout=cl.PIPE)
        assert await process.stdout.read() == b"x\n"
        await eventually(lambda: process._protocols[0].transport is None)
        await process.wait()

    run(main())


# ---- the end of a block ----------------------------------------------------------------------------------------------


def test_the_block_waits_and_kills_what_is_left(run):
    async def main():
        async with sh("sleep 1000 & echo $!").spawn_async(stdout=cl.PIPE) as process:
            pid = int(await process.stdout.readline())
        assert process.returncode == 0
        await eventually(lambda: is_gone(pid))
        async with CAT.spawn_async(stdin=cl.PIPE, stdout=cl.DEVNULL) as process:
            process.stdin.write(b"x" * 500_000)  # which goes on its way before the end of file
        assert process.returncode == 0

    run(main())


def test_an_exception_in_the_block_ends_the_child(run):
    async def main():
        with raises(ZeroDivisionError):
            async with FOREVER.spawn_async(stdin=cl.PIPE, stdout=cl.PIPE) as process:
                raise ZeroDivisionError
        assert process.returncode == -signal.SIGTERM
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), FOREVER.spawn_async() as process:
                await process.wait()
        assert process.returncode == -signal.SIGTERM

    run(main())


def test_a_second_cancellation_ends_the_grace(run):
    async def main():
        ready = asyncio.Event()

        async def block():
            stubborn = sh("trap '' TERM; echo; while :; do sleep 0.01; done")
            async with stubborn.spawn_async(stdout=cl.PIPE) as process:
                await process.stdout.readline()
                ready.set()
                await process.wait()

        task = asyncio.ensure_future(block())
        await ready.wait()
        began = time.monotonic()
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 4
        assert children() == []

    run(main())


def test_more_cancellations_end_nothing_but_the_grace(run):
    async def block():
        async with FOREVER.spawn_async(stdout=cl.PIPE) as process:
            await process.wait()

    async def main():
        for count in range(1, 30):
            task = asyncio.ensure_future(block())
            await turns(count)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert task.cancelled()
            assert children() == []

    run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_in_the_block(kind):
    async def block():
        async with FOREVER.spawn_async(stdin=cl.PIPE) as process:
            await process.wait()

    loop = new_loop(kind)
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!", which it is
    tasks = [loop.create_task(block()) for _ in range(2)]
    loop.run_until_complete(asyncio.sleep(0.05, loop))
    loop.run_until_complete(turns(3))
    assert children() != []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of the loop's transports
        loop.close()
        del tasks, loop
        gc.collect()
    assert children() == []


def test_dropped_while_it_runs_it_warns_and_is_left_running(run):
    async def main():
        process = await FOREVER.spawn_async()
        pid = process.pid
        held = [process]
        del process
        with pytest.warns(ResourceWarning, match="was dropped while it runs"):
            held.clear()
        assert pid in children()
        os.kill(pid, signal.SIGTERM)
        await eventually(lambda: is_gone(pid))
        await cl.run_async(["true"])
        assert children() == []  # reaped

    run(main())


def test_only_its_maker_acts_on_it(run):
    async def main():
        async with FOREVER.spawn_async() as process:
            pid = os.fork()
            if pid == 0:
                status = 1
                with contextlib.suppress(BaseException):
                    for act in (process.poll, process.kill, lambda: process.signal_scope("KILL")):
                        with raises(cl.NotOwner):
                            act()
                    status = 0
                os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            assert process.poll() is None
            process.kill()

    run(main())


def test_fifty_at_once(run):
    async def one(n):
        async with CAT.spawn_async(stdin=cl.PIPE, stdout=cl.PIPE) as process:
            process.stdin.write(b"%d\n" % n)
            process.stdin.close()
            return [line async for line in process.lines()]

    async def main():
        assert await asyncio.gather(*map(one, range(50))) == [[b"%d\n" % n] for n in range(50)]

    run(main())


# ---- an exec that hangs ----------------------------------------------------------------------------------------------


def _mount_what_hangs(path):
    """A file system that says hello and answers nothing after it, in a mount namespace of ours. Returns its descriptor,
    or None where the system has no room for such things."""
    import ctypes
    import os
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x20000, 1 << 18 | 1 << 14
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
        return None
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        return None
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"hangs", os.fsencode(path), b"fuse", 0, options):
        return None
    (unique,) = struct.unpack_from("=Q", os.read(server, 1 << 17), 8)
    parallel = 1 << 18  # else who looks for one name waits, unkillable, for who looks for another
    hello = struct.pack("=IIIIHHII", 7, 31, 0, parallel, 0, 0, 1 << 17, 1).ljust(64, b"\0")
    os.write(server, struct.pack("=IiQ", 16 + len(hello), 0, unique) + hello)
    return server


def _beside_an_exec_that_hangs(path, kind):
    import asyncio
    import time

    from faults_child import children

    if _mount_what_hangs(path) is None:
        print("refused")
        return

    def hangs(name):
        return cl.Command(f"{path}/{name}")

    async def cancelled(task):
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True

    async def main():
        late = []

        async def tick():
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.001)
                late.append(time.monotonic() - began)

        ticks = asyncio.ensure_future(tick())
        hanging = [
            asyncio.ensure_future(hangs("one").run_async()),
            asyncio.ensure_future(hangs("two").spawn_async(stdout=cl.PIPE)._spawned()),
            asyncio.ensure_future(anext(cl.run_many_async([hangs("three")]))),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(children()) == 3
        for _ in range(10):
            assert (await cl.run_async(["echo", "x"], capture=True)).text == "x\n"
            async with cl.Command("echo", "y").spawn_async(stdout=cl.PIPE) as process:
                assert [line async for line in process.lines()] == [b"y\n"]
            async for result in cl.run_many_async([["true"]] * 5, concurrency=2):
                assert result.ok
        assert not any(task.done() for task in hanging)
        for task in hanging:
            assert await cancelled(task)
        ticks.cancel()
        assert max(late) < 1, max(late)
        while children():
            await asyncio.sleep(0.001)
        try:
            await hangs("four").with_options(timeout=0.05).run_async()
        except cl.ProcessTimeout:
            print("done")

    if kind == "asyncio":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())


@needs_linux
@needs_clone
@needs_root
def test_an_exec_that_hangs_holds_nobody_else(tmp_path, kind):
    printed = fresh(_beside_an_exec_that_hangs, str(tmp_path), kind, also=(_mount_what_hangs,), timeout=60)
    if printed == "refused\n":
        pytest.skip("no file system can be mounted here")
    assert printed == "done\n"


def test_leaving_a_block_whose_pipe_is_closed_already(run):
    """asyncio would abort the same transport twice, and tell its loop's exception handler."""

    async def main():
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        with contextlib.suppress(KeyError):
            async with cl.Command("cat").spawn_async(stdin=cl.PIPE) as process:
                process.kill()
                process.stdin.close()
                raise KeyError
        await turns(20)
        assert told == []

    run(main())
