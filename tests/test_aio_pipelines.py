"""Pipelines and sequences under asyncio: as without a loop, and nothing of them is left when they are cancelled."""

import asyncio
import time

import loops
import pytest
from faults_child import children, nothing_left
from loops import cancelled_at_every_turn, eventually, new_loop

import corelane as cl

kind, run = loops.kind, loops.run  # fixtures
FOREVER = ["sleep", "1000"]


@pytest.fixture(autouse=True)
def _nothing_left():
    with nothing_left():
        yield


def doubled(lines):
    return (line * 2 for line in lines)


def functions_are_over():
    import threading

    return not any(thread.name == "corelane stage" for thread in threading.enumerate())


def test_the_result_has_all_stages(run):
    pipeline = cl.Command("seq", "3") | cl.over_lines(doubled) | ["cat"]
    result = run(pipeline.with_options(capture=True).run_async())
    assert (result.text, result.ok, len(result.stages)) == ("11\n22\n33\n", True, 3)
    assert {result.stages[0].contained, result.contained} == {"group"}


def test_it_raises_what_run_raises(run):
    with pytest.raises(cl.NonZeroExit, match="stage 1 of") as caught:
        run(cl.run_async(cl.Command("sh", "-c", "exit 3") | ["cat"]))
    assert caught.value.result.returncode == 3
    with pytest.raises(FileNotFoundError, match="stage 2 of"):
        run(cl.run_async(cl.Command(*FOREVER) | ["no-such-program"] | ["cat"]))
    with pytest.raises(ZeroDivisionError):
        run(cl.run_async(cl.Command(*FOREVER) | cl.over_lines(lambda lines: 1 / 0) | ["cat"]))
    with pytest.raises(cl.ProcessTimeout):
        run(cl.run_async(cl.Command(*FOREVER) | ["cat"], timeout=0.05))


def test_a_sequence_has_all_steps(run):
    sequence = cl.Command("echo", "a").then(cl.Command("echo", "b") | ["cat"], ["echo", "c"])
    result = run(cl.run_async(sequence, capture=True))
    assert (result.text, len(result.steps)) == ("a\nb\nc\n", 3)


@pytest.mark.parametrize(
    "command",
    [
        cl.Command("echo", "x") | ["cat"] | ["cat"],
        cl.Command(*FOREVER) | ["cat"],
        cl.Command(*FOREVER) | cl.over_lines(doubled) | ["cat"],
        cl.over_lines(doubled) | cl.Command("cat"),
        cl.Command(*FOREVER) | ["no-such-program"],
        cl.Command("true").then(FOREVER),
        cl.Command("false", retry=cl.Retry(backoff=0.001)).then(["true"]),
    ],
    ids=str,
)
def test_cancelled_at_every_turn(run, command):
    async def once():
        try:
            await cl.run_async(command)
        except (cl.ProcessError, OSError):
            return

    cancelled_at_every_turn(run, once)
    deadline = time.monotonic() + 20
    while not functions_are_over():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_function_that_blocks_holds_neither_the_loop_nor_a_cancellation(run):
    import threading

    let_go = threading.Event()

    def blocks(lines):
        let_go.wait(60)
        return []

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(cl.run_async(cl.Command(*FOREVER) | cl.over_lines(blocks) | ["cat"]))
        await eventually(lambda: len(children()) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == []
        let_go.set()
        await eventually(functions_are_over)

    run(main())


def test_many_take_all_alike(run):
    async def main():
        commands = [
            ["echo", "0"],
            cl.Command("echo", "1") | ["cat"],
            cl.Command("true").then(["echo", "2"]),
            cl.Command("seq", "3", "3") | cl.over_lines(list),
            cl.Command("false") | ["cat"],
        ]
        async with cl.run_many_async(commands, concurrency=3, ordered=True, stdout=cl.PIPE) as results:
            return [(result.index, result.text, type(result.error)) async for result in results]

    assert run(main()) == [
        (0, "0\n", type(None)),
        (1, "1\n", type(None)),
        (2, "2\n", type(None)),
        (3, "3\n", type(None)),
        (4, "", cl.NonZeroExit),
    ]


def test_leaving_many_ends_all_stages(run):
    async def main():
        commands = [["true"], cl.Command(*FOREVER) | cl.over_lines(doubled) | ["cat"], cl.Command(*FOREVER) | ["cat"]]
        async with cl.run_many_async(commands, concurrency=3) as results:
            async for result in results:
                assert result.index == 0
                break
        assert children() == []
        await eventually(functions_are_over)

    run(main())


def test_a_loop_that_is_closed_with_a_pipeline_alive(kind):
    loop = new_loop(kind)

    async def main():
        task = loop.create_task(cl.run_async(cl.Command(*FOREVER) | cl.over_lines(doubled) | ["cat"]))
        await eventually(lambda: len(children()) == 2)
        return task

    task = loop.run_until_complete(main())
    loop.close()
    task._log_destroy_pending = False
    del task
    deadline = time.monotonic() + 20
    while children() or not functions_are_over():
        import gc

        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.001)
