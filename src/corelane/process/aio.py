"""run_async and run_many_async: commands under asyncio.

Owns, for each `run_many_async`, the works that are on their way; their children belong to the event loop's engine
(loop.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable

from corelane.process.command import as_command
from corelane.process.loop import engine_of
from corelane.process.many import Items, refuse_single, refuse_tee
from corelane.process.work import work_of

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Unpack, overload

    from corelane.process.command import Command, Runnable
    from corelane.process.loop import Engine
    from corelane.process.pipeline import Pipeline
    from corelane.process.result import Result
    from corelane.process.sequence import Sequence as Steps
    from corelane.process.sequence import SequenceResult
    from corelane.process.stages import PipelineResult
    from corelane.process.typed import Options, Path
    from corelane.process.work import Work

__all__ = ["AsyncResults", "run_async", "run_many_async"]

_PULLED_AT_ONCE = 16  # commands, before the loop's others have their turn


if TYPE_CHECKING:

    @overload
    async def run_async(command: Pipeline, **options: Unpack[Options]) -> PipelineResult: ...
    @overload
    async def run_async(command: Steps, **options: Unpack[Options]) -> SequenceResult: ...
    @overload
    async def run_async(command: Command | Sequence[Path], **options: Unpack[Options]) -> Result: ...
    @overload
    async def run_async(command: Runnable, **options: Unpack[Options]) -> Any: ...


async def run_async(command: Runnable | Sequence[Path], **options: Unpack[Options]) -> Any:
    """Run a program, a Pipeline or a Sequence to its end, without holding the event loop.

    Args:
        command: a list of arguments, a Command, a Pipeline or a Sequence.
        **options: as for Command, but for tee_stdout and tee_stderr.

    Returns:
        The Result.

    Cancelled, it kills the child with its scope, waits until it is gone (five seconds for one that does not die), and
    only then raises CancelledError: what comes after `asyncio.timeout()` finds nothing running.

    Raises:
        As `run`.
    """
    wanted = as_command(command, options)
    refuse_tee(wanted)
    loop = asyncio.get_running_loop()
    result: Any = await engine_of(loop).result(work_of(wanted, use="run"), loop)
    if result.error is not None:
        error, result.error = result.error, None
        raise error
    return result


class _Many:
    """The commands of one call that are on their way. The caller holds another object, which can be dropped while this
    one is still waited for by an engine."""

    def __init__(self, commands: Any, items: Items) -> None:
        self.items = items
        self.is_async = hasattr(commands, "__aiter__")
        self.commands = aiter(commands) if self.is_async else iter(commands)
        self.more = True
        self.works: set[Work] = set()
        self.error: BaseException | None = None  # the iterable's
        self.changed = asyncio.Event()  # a result, room, the end of something
        self.engine: Engine | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.puller: asyncio.Task[None] | None = None
        self.is_closed = False

    async def next(self) -> Result:
        loop = asyncio.get_running_loop()
        if self.loop is None:
            self.loop, self.engine = loop, engine_of(loop)
        elif self.loop is not loop:
            raise RuntimeError("these commands run in another event loop")
        while True:
            self.pull()
            if self.items.ready:
                result = self.items.take()
                self.changed.set()  # there is room
                return result
            if self.error is not None:
                error, self.error = self.error, None
                await self.close()
                raise error
            if not self.more and not self.works:
                raise StopAsyncIteration
            if self.more and self.items.room and not self.is_async:
                await asyncio.sleep(0)
                continue
            self.changed.clear()
            await self.changed.wait()

    def pull(self) -> None:
        """Start some of those for which there is room."""
        assert self.loop is not None
        assert self.engine is not None
        if self.is_async:
            if self.puller is None and self.more:
                self.puller = self.loop.create_task(self.pull_async())
                self.puller.add_done_callback(self.pulled)
            return
        try:
            for _ in range(min(self.items.room, _PULLED_AT_ONCE) if self.more else 0):
                self.add(next(self.commands))
        except StopIteration:
            self.more = False
        except BaseException as error:
            self.fail(error)
        self.engine.go_on()

    async def pull_async(self) -> None:
        assert self.engine is not None
        async for given in self.commands:
            self.add(given)
            self.engine.go_on()
            while not self.items.room:
                self.changed.clear()
                await self.changed.wait()

    def pulled(self, puller: asyncio.Task[None]) -> None:
        """`pull_async` has ended, or was cancelled before its first step."""
        self.more = False
        error = asyncio.CancelledError() if puller.cancelled() else puller.exception()
        if error is not None and not self.is_closed:
            self.fail(error)
        self.changed.set()

    def add(self, given: Any) -> None:
        assert self.loop is not None
        assert self.engine is not None
        work = self.items.add(given)
        if work is None:
            self.changed.set()
            return
        self.works.add(work)
        self.engine.begin(work, self.loop, lambda result: self.deliver(work, result))

    def deliver(self, work: Work, result: Result) -> None:
        self.works.discard(work)
        if not self.is_closed:
            self.items.through(result)
        self.changed.set()

    def fail(self, error: BaseException) -> None:
        """The iterable has raised: what runs is killed, what has ended can be read, and then comes its exception."""
        self.error = error
        self.stop()

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        self.is_closed = True
        self.more = False
        if self.puller is not None and self.error is None:
            self.puller.cancel()
        for work in list(self.works):
            if self.engine is None or not self.engine.kill(work):
                self.works.discard(work)

    async def close(self) -> None:
        """`stop`, and wait until all are gone. A cancellation does not end this, it is raised after it."""
        self.stop()
        self.items.ready.clear()
        cancelled: asyncio.CancelledError | None = None
        while self.works or (self.puller is not None and not self.puller.done()):
            self.changed.clear()
            try:
                await self.changed.wait()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


class AsyncResults:
    """The results of many commands, as they come: an async iterator, and an async context manager that, left, waits for
    what it kills. Made by `run_many_async`."""

    def __init__(self, many: _Many) -> None:
        self._many = many

    def __aiter__(self) -> AsyncResults:
        return self

    async def __anext__(self) -> Result:
        return await self._many.next()

    async def aclose(self) -> None:
        """Kill what still runs, and wait until it is gone. There are no more results then."""
        await self._many.close()

    async def __aenter__(self) -> AsyncResults:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # nobody can wait any more
            self._many.stop()
        else:
            await self.aclose()

    def __del__(self) -> None:
        many = self._many
        if many.engine is not None and many.loop is not None and not many.is_closed:
            many.engine.drop(many.stop, many.loop)


def run_many_async(
    commands: Iterable[Runnable | Sequence[Path]] | AsyncIterable[Runnable | Sequence[Path]],
    *,
    concurrency: int | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> AsyncResults:
    """Run many commands, some at a time, without holding the event loop.

    Args:
        commands: lists of arguments, Commands, Pipelines or Sequences, from an iterable or an async one; pulled one by
            one, as there is room for them, after the first result was asked for.
        concurrency, ordered, **options: as for `run_many`.

    Returns:
        An async iterator of a Result for each command, as those of `run_many`: nothing is raised for a child. They run
        while the body of an `async for` awaits something else; at most `concurrency` results wait unread.

    Leaving the loop drops the iterator, which kills what still runs, and does not wait for it; `async with` around it,
    or `aclose()`, does. An exception of the iterable's kills the rest, and goes on to the caller after the results that
    were there.

    Raises:
        TypeError, ValueError: an argument or option is wrong; nothing was started.
    """
    refuse_single(commands)
    return AsyncResults(_Many(commands, Items(concurrency, ordered, dict(options))))
