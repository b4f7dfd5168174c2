"""AsyncProcess: one running child under asyncio.

Owns what a Child does, and the transports around its pipes, from `spawn_async` until `close` or the end of the
`async with` block. It belongs to the loop that it was started in. Nobody waits in a thread: the pidfd is in the loop's
selector while somebody waits; where the platform has none, timers look.

The spawn is a flight (csrc/flight_linux.c), so that an exec that hangs holds nobody but who awaits it. No descriptor
tells of the exec, as one does of the end: it is looked for in each turn of the loop for a moment, and then by timers.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Generator
from types import TracebackType

from corelane._ffi import lib
from corelane._values import seconds
from corelane.errors import CorelaneError
from corelane.process.child import REAP_WITHIN, Child
from corelane.process.loop import LOOK_FIRST, LOOK_LAST
from corelane.process.stream import MAX_LINE, LineCutter, line_too_long

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.command import Command

__all__ = ["AsyncProcess", "Spawning"]

_TERM, _CONT, _KILL = signal.SIGTERM, signal.SIGCONT, signal.SIGKILL
_EXEC_SOON = 0.0003  # seconds in which most programs have exec'd; a timer of a loop's is not shorter than 0.001
_EXEC_LOOK_LAST = 0.02
_LIMIT = 65536  # bytes that a StreamReader holds before it stops reading, twice over
_PIECE = 65536


class AsyncProcess(Child):
    """A running child. Made by `Command.spawn_async`.

    Attributes:
        command: the Command it runs.
        pid: its process id.
        stdin: an asyncio.StreamWriter, stdout, stderr: asyncio.StreamReaders, for streams that were given as PIPE, else
            None. They carry bytes, whatever the command's `encoding`; see `lines` for text.
        strategy: how it was spawned. contained: the containment obtained, "group", "cgroup" or "none".

    Leaving an `async with` block normally closes our ends of the pipes, waits for the child without a bound, and kills
    what is left of its scope. Leaving it by an exception, a cancellation too, is `terminate()` - SIGTERM, five seconds,
    SIGKILL - and drops the pipes, with what was not yet written; a second cancellation is SIGKILL at once.
    """

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader | None

    _spawn = "cl_process_spawn_nowait"

    def __init__(self, command: Command) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[bool]] = []
        self._lines: _Lines | None = None
        self._files: list[Any] = []  # whose transport is not made yet
        self._protocols: list[_Protocol] = []
        super().__init__(command)

    def _undone_within(self) -> float:
        return 0.0 if self._loop.is_running() else REAP_WITHIN

    # ---- the beginning -----------------------------------------------------------------------------------------

    def _wrap(self, ends: list[int]) -> None:
        super()._wrap(ends)
        self._files = [self.stdin, self.stdout, self.stderr]
        self.stdin = self.stdout = self.stderr = None

    async def _begin(self) -> None:
        """Until the child has exec'd, and its pipes are in the loop. Whatever ends this ends the child."""
        try:
            await self._until_exec()
            await self._connect()
        except (Exception, asyncio.CancelledError):
            await self._kill_and_await()
            self._undo()
            raise
        except BaseException:  # GeneratorExit: nobody can wait any more
            self._undo()
            raise

    async def _until_exec(self) -> None:
        soon = self._loop.time() + _EXEC_SOON
        pause = LOOK_FIRST
        while not (rc := lib.cl_process_exec_state(self._core)):
            if self._loop.time() < soon:
                os.sched_yield()  # the child may have been put on our CPU
                await asyncio.sleep(0)
            else:
                if await self._changed(pause) and not lib.cl_process_exec_state(self._core):
                    await asyncio.sleep(pause)  # it has ended, but a debugger has not let go of it
                pause = min(pause * 2, _EXEC_LOOK_LAST)
        if rc < 0:
            if os.getpid() != self._maker:
                self._foreign("waited for")
            raise self._failed()

    async def _connect(self) -> None:
        loop = self._loop
        sizes = self.command.option("buffer_size", (0, 0, 0))
        for i, name in enumerate(("stdin", "stdout", "stderr")):
            file = self._files[i]
            if file is None:
                continue
            reader = asyncio.StreamReader(sizes[i] or _LIMIT, loop)
            protocol = _Protocol(reader, loop=loop)
            self._protocols.append(protocol)
            connect = loop.connect_read_pipe if i else loop.connect_write_pipe
            try:
                transport, _ = await _whole(connect(protocol.itself, file))
            finally:
                if protocol.is_made:
                    self._files[i] = None
            setattr(self, name, reader if i else asyncio.StreamWriter(transport, protocol, None, loop))

    # ---- waiting -----------------------------------------------------------------------------------------------

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the child to end. Any number of tasks may; cancelling one of them does nothing to the child.

        Args:
            timeout: seconds, or None to wait for ever. 0 only looks.

        Returns:
            Its return code: the exit code, -N for signal N, None if somebody else took the status.

        Raises:
            ProcessTimeout: it still runs. Nothing was done to it.
        """
        if not await self._until_end(None if timeout is None else seconds("timeout", timeout)):
            raise self._late(timeout)
        return self.returncode

    async def check(self) -> None:
        """Wait, and raise NonZeroExit, Signaled or StatusUnknown unless the child exited with 0."""
        await self.wait()
        failure = self._failure()
        if failure is not None:
            raise failure

    async def _until_end(self, timeout: float | None, *, reap: bool = True) -> bool:
        until = None if timeout is None else self._loop.time() + timeout
        look = LOOK_FIRST
        while not self._is_over(reap=reap):
            left = None if until is None else until - self._loop.time()
            if left is not None and left <= 0:
                return False
            if self._watch < 0:
                left = look if left is None else min(left, look)
                look = min(look * 2, LOOK_LAST)
            if await self._changed(left) and not self._is_over(reap=reap):
                await asyncio.sleep(LOOK_FIRST)  # it has ended, but a debugger has not let go of it
        return True

    async def _changed(self, at_most: float | None) -> bool:
        """Until the child's descriptor tells of its end (True), or `at_most` seconds have passed."""
        waiter = self._loop.create_future()
        timer = None if at_most is None else self._loop.call_later(at_most, _answer, waiter, False)
        try:
            self._waiters.append(waiter)
            if self._watch >= 0 and len(self._waiters) == 1:
                self._loop.add_reader(self._watch, self._wake)
            told: bool = await waiter
            return told
        finally:
            self._waiters.remove(waiter)
            if self._watch >= 0 and not self._waiters:
                self._loop.remove_reader(self._watch)
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        for waiter in self._waiters:
            _answer(waiter, True)

    async def _kill_and_await(self) -> None:
        """SIGKILL to the scope, and wait until the leader is gone, though not for ever. No cancellation ends this: an
        exception is on its way already."""
        with contextlib.suppress(CorelaneError):  # one that we may not signal
            self.signal_scope(_KILL)
            self.kill()
        until = self._loop.time() + REAP_WITHIN
        while (left := until - self._loop.time()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await self._until_end(left)
                return

    # ---- signalling --------------------------------------------------------------------------------------------

    async def terminate(self, grace: float = 5) -> int | None:
        """End the scope: SIGTERM (and SIGCONT, should it be stopped), up to `grace` seconds, then SIGKILL. Cancelled,
        it does the rest without that grace.

        Returns:
            The return code.

        Raises:
            ProcessTimeout: even SIGKILL did not end it within 5 s (uninterruptible sleep).
        """
        grace = seconds("grace", grace)
        self.signal_scope(_TERM)  # a child that we may not signal (a set-user-id program) is left to its user at once
        self.signal_scope(_CONT)
        try:
            await self._until_end(grace, reap=False)
        except asyncio.CancelledError:
            await self._kill_and_await()
            raise
        self.signal_scope(_KILL)  # also when the child is gone: it may have left others
        self.kill()
        return await self.wait(REAP_WITHIN)

    # ---- streams -----------------------------------------------------------------------------------------------

    def lines(self) -> AsyncIterator[Any]:
        """The lines of stdout, as they come: str if the command has an encoding, else bytes; with their newline. Of any
        length up to 64 Mi, where the lines of `stdout` itself may have 64 Ki.

        It is one iterator, however often it is asked for: a loop that is left, or a wait that is cancelled, loses no
        line, and the next one goes on from there. It reads ahead of `stdout`: use one of the two.

        Raises:
            ValueError: stdout is no pipe.
            OutputLimitExceeded: a line is longer; the child was killed.
        """
        if self.stdout is None:
            raise ValueError(f"{self.command} was spawned without stdout=PIPE: there is nothing to read")
        if self._lines is None:
            self._lines = _Lines(self, self.stdout)
        return self._lines

    # ---- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close our ends of the pipes; what was written goes on its way first. The child is left alone; it may notice
        end of file, or SIGPIPE."""
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.close()

    def _drop_streams(self) -> None:
        """As `close`, but what was not yet written is lost. Also from a destructor, in whatever thread."""
        for file in self._files:
            if file is not None:
                file.close()
        for protocol in self._protocols:
            if asyncio._get_running_loop() is self._loop:
                protocol.drop()
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(protocol.drop)

    async def __aenter__(self) -> AsyncProcess:
        self._kill_dropped = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._maker:
            self._foreign("ended")
        if isinstance(error, GeneratorExit):  # nobody can wait any more
            self._undo()
            return
        try:
            if kind is None:
                self.close()
                await self._until_end(None, reap=False)
            else:
                with contextlib.suppress(CorelaneError):  # the block's own exception is what its caller must see
                    await self.terminate()
                self._drop_streams()
        except (Exception, asyncio.CancelledError):
            await self._kill_and_await()
            self._drop_streams()
            raise
        except BaseException:
            self._undo()
            raise
        finally:
            self._end_scope()
            self._kill_dropped = False  # what is still there cannot be killed

    def __repr__(self) -> str:
        return f"<AsyncProcess {self.command} pid={getattr(self, 'pid', None)} returncode={self.returncode}>"


class _Lines:
    """The lines of a process's stdout. What was read is kept here, and not in whatever waits for it."""

    def __init__(self, process: AsyncProcess, source: asyncio.StreamReader) -> None:
        self._process = process
        self._source = source
        self._ready: deque[Any] = deque()
        self._decode = None
        self._newline: Any = b"\n"
        encoding = process.command.option("encoding")
        if encoding is not None:
            self._newline = "\n"
            decoder = codecs.getincrementaldecoder(encoding)
            self._decode = decoder(process.command.option("errors", "strict")).decode
        self._cutter = LineCutter(self._newline, MAX_LINE)
        self._is_at_end = self._is_too_long = False

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> Any:
        while not self._ready:
            if self._is_too_long:
                self._process.signal_scope(_KILL)
                raise line_too_long(self._process.command, MAX_LINE)
            if self._is_at_end:
                raise StopAsyncIteration
            self._take(await self._source.read(_PIECE))
        return self._ready.popleft()

    def _take(self, piece: bytes) -> None:
        text = piece if self._decode is None else self._decode(piece, not piece)
        complete, self._is_too_long = self._cutter.cut(text)
        self._ready.extend(line + self._newline for line in complete)
        if not piece:
            self._is_at_end = True
            if self._cutter.held:
                self._ready.append(self._cutter.rest())


class Spawning:
    """A child to be: `await` it, or enter it with `async with`, for the AsyncProcess. Made by `Command.spawn_async`;
    nothing is started before."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._process: AsyncProcess | None = None

    def __await__(self) -> Generator[Any, None, AsyncProcess]:
        return self._spawned().__await__()

    async def _spawned(self) -> AsyncProcess:
        process = AsyncProcess(self._command)
        await process._begin()
        process._kill_dropped = False  # it is its caller's now
        return process

    async def __aenter__(self) -> AsyncProcess:
        process = AsyncProcess(self._command)
        await process._begin()
        self._process = process
        return process

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        assert process is not None
        await process.__aexit__(kind, error, trace)


async def _whole(connecting: Coroutine[Any, Any, Any]) -> Any:
    """Await it to its end; a cancellation goes on after it. Of a transport that is half made it is not known whose the
    descriptor is: uvloop's closes it, by its number, some time after it was cancelled."""
    task = asyncio.ensure_future(connecting)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


class _Protocol(asyncio.StreamReaderProtocol):
    """Of one pipe, with the transport for as long as it is open."""

    transport: Any = None
    is_made = False  # the transport: the file is its own

    def itself(self) -> _Protocol:
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.is_made = transport, True
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        super().connection_lost(error)

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # close it: a pipe is not half of something, as a socket is

    def drop(self) -> None:
        """Close the pipe; what was not yet written is lost."""
        if isinstance(self.transport, asyncio.WriteTransport):
            if not self.transport.is_closing() or self.transport.get_write_buffer_size():
                self.transport.abort()  # of one that is closed already, asyncio's own fails
        elif self.transport is not None:
            self.transport.close()


def _answer(waiter: asyncio.Future[bool], answer: bool) -> None:
    if not waiter.done():
        waiter.set_result(answer)
