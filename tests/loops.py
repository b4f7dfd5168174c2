"""What the tests under event loops share: the loops, and waiting in them."""

import asyncio
import contextlib

import pytest
from faults_child import children

import corelane as cl

with contextlib.suppress(ImportError):
    import uvloop

    uvloop.run(asyncio.sleep(0))  # libuv's pipe for signals is of the process, and stays


def new_loop(kind):
    return asyncio.new_event_loop() if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop()


@pytest.fixture(params=["asyncio", "uvloop"])
def kind(request):
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return request.param


@pytest.fixture
def run(kind):
    """Runs a coroutine in a loop of its own."""

    def in_a_loop(coroutine):
        with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
            return runner.run(coroutine)

    return in_a_loop


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(condition):
    async with asyncio.timeout(20):
        while not (value := condition()):
            await asyncio.sleep(0.001)
    return value


def cancelled_at_every_turn(run, make):
    """Cancels what `make` makes after each number of turns of the loop: nothing may live when it says it is over."""

    async def once(count):
        task = asyncio.ensure_future(make())
        await turns(count)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, cl.SpawnFailed):
            await task
        assert children() == before, f"after {count} turns"

    before = children()
    for count in (*range(25), 50, 100, 200, 400):
        run(once(count))
