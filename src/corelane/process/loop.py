"""Engine: the children of one event loop, through one C engine.

Owns the engines. One is in its loop's selector, or has a timer there, while something of it lives, and then nobody
else holds it: closing or dropping the loop drops the engine, which kills and reaps. An idle one is kept for its loop
and knows nothing of it, so it keeps no loop alive.

No thread and no child watcher has a part in this. The loop is held while a child is cloned, not until it has exec'd.
All calls come from the loop's thread, but for the end of objects that the garbage collector finds in another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
import weakref
from collections.abc import Callable
from functools import partial

from corelane.errors import CallFailed, NotSupported, ProcessError
from corelane.process import dropped
from corelane.process.batch import unstarted
from corelane.process.work import LOOK_AGAIN, Driver

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.result import Result
    from corelane.process.work import Work

__all__ = ["LOOK_FIRST", "LOOK_LAST", "Engine", "engine_of"]

LOOK_FIRST, LOOK_LAST = 0.001, 0.01  # seconds between looks, where no descriptor tells that there is something to do


class Engine(Driver):
    """The children of one event loop.

    Whatever exception leaves one of its steps, Ctrl-C's too, could have taken results along: then all that lives is
    killed and reaped, and each work has a ProcessError for its result.
    """

    def __init__(self) -> None:
        super().__init__()
        self._maker = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None  # while it is busy
        self._sinks: dict[Work, Callable[[Result], None]] = {}  # who waits for what
        self._pauses: dict[Work, asyncio.Task[None]] = {}  # by clocks whose sleep is a coroutine function
        self._reads = -1  # the descriptor that is in the loop's selector
        self._timer: asyncio.Handle | None = None
        self._due = 0.0  # when it calls, by the loop's clock
        self._look_every = LOOK_FIRST
        self._is_to_rest = False

    @property
    def busy(self) -> bool:
        return bool(super().busy or self._pauses)

    # ---- for those who wait ------------------------------------------------------------------------------------

    def begin(self, work: Work, loop: asyncio.AbstractEventLoop, sink: Callable[[Result], None]) -> None:
        """Start `work` at the next `go_on`; `sink` is called with its result, also before this returns."""
        if self._loop is None:
            self._loop = loop
            _engines[loop] = weakref.ref(self)
        self._look_every = LOOK_FIRST
        self._sinks[work] = sink
        work.start(self)

    async def result(self, work: Work, loop: asyncio.AbstractEventLoop) -> Result:
        """Start `work`, and wait for its result. Cancelled, it is killed, and waited for all the same."""
        future = loop.create_future()
        try:
            self.begin(work, loop, _into(future))
            self.go_on()
            result: Result = await future
            return result
        except asyncio.CancelledError:
            lives = self.kill(work)
            # The caller may count on its being gone: another cancellation does not end this, the engine bounds it.
            while lives and work in self._sinks:
                future = loop.create_future()
                self._sinks[work] = _into(future)
                with contextlib.suppress(asyncio.CancelledError):
                    await future
            raise
        except BaseException:  # GeneratorExit, when nobody can wait any more
            self.drop(lambda: self.kill(work), loop)
            raise

    def kill(self, work: Work) -> bool:
        """End a work that is on its way. Returns whether its result still comes."""
        if work not in self._sinks or os.getpid() != self._maker:
            return False
        lives = work.kill(self)
        for one, pause in list(self._pauses.items()):
            if one.killed:
                pause.cancel()
        for heap in self._later.values():
            if any(entry[2].killed for entry in heap):
                heap[:] = sorted(entry for entry in heap if not entry[2].killed)  # which is a heap
        if not lives:
            del self._sinks[work]
        if self._loop is not None:
            self._arrange()
        return lives

    def drop(self, kill: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        """Have `kill` called in the loop: from a destructor, which may run in another thread, and in the midst of a
        step of ours. A fork's copy of the loop is left alone: its descriptors are the parent's too."""
        if os.getpid() != self._maker:
            return
        if loop.is_closed():
            self.close()
        elif loop.is_running():
            loop.call_soon_threadsafe(kill)
        else:
            kill()

    # ---- for the loop ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Something has happened, or it is time to look."""
        try:
            if self.batch.live:
                self._collect(0)
        except BaseException as error:
            self._break_off(error)
            raise
        self.go_on()

    def go_on(self) -> None:
        """Start what can be, and see to it that the loop calls again."""
        if self._loop is None:  # nothing has begun
            return
        try:
            self._start_due()
            self._start_threads()
            self._start_ready()
            self._arrange()
        except BaseException as error:
            self._break_off(error)
            raise

    def _at_timer(self) -> None:
        self._timer = None
        self._look_every = min(self._look_every * 2, LOOK_LAST)
        self.step()

    def _arrange(self) -> None:
        assert self._loop is not None
        pauses = [LOOK_AGAIN] if self.batch.ready or self._threadless else []
        for clock, heap in self._later.items():
            if not heap:
                continue
            pause = max(0.0, heap[0][0] - clock.monotonic())
            if clock is not time:
                if self.batch.live or self.batch.ready:
                    continue  # as without a loop: nobody sleeps by such a clock while anything lives
                clock.sleep(pause)
                pause = 0.0
            pauses.append(pause)
        if self.batch.live:
            self._watch(pauses)
        if pauses:
            self._call_within(min(pauses))
        elif not self.busy and not self._is_to_rest:
            # Later, as those who wait for a result often start the next one.
            self._is_to_rest = True
            self._loop.call_soon(self._rest)

    def _watch(self, pauses: list[float]) -> None:
        """Have the loop call when the batch has something to do, by its descriptor if it has one."""
        assert self._loop is not None
        try:
            if self._reads < 0:
                fd = self.batch.fileno()
                self._loop.add_reader(fd, self.step)
                self._reads = fd
            self.batch.arm()
        except NotSupported:
            pauses.append(self._look_every)
        except CallFailed:  # no descriptor is left for its timer
            pauses.append(LOOK_AGAIN)

    def _call_within(self, pause: float) -> None:
        assert self._loop is not None
        when = self._loop.time() + pause
        if self._timer is not None:
            if self._due <= when:
                return
            self._timer.cancel()
        self._timer, self._due = self._loop.call_at(when, self._at_timer), when

    def _rest(self) -> None:
        """Out of the loop, unless something lives again."""
        self._is_to_rest = False
        if self.busy or self._loop is None:
            return
        self._leave_loop()
        loop, self._loop = self._loop, None
        _engines[loop] = self.itself

    def itself(self) -> Engine:
        """For `_engines`: a reference that keeps it."""
        return self

    def _leave_loop(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reads >= 0:
            self._loop.remove_reader(self._reads)
            self._reads = -1

    def _break_off(self, error: BaseException) -> None:
        sinks, self._sinks = self._sinks, {}
        try:
            self.close()
        finally:
            for pause in self._pauses.values():
                pause.cancel()
            for work, sink in sinks.items():
                work.killed = True
                message = f"{work.command} was killed: the engine of its event loop was left by {error!r}"
                result = unstarted(work.command, ProcessError(message, command=work.command))
                result.index, result.tries = work.index, work.tries
                sink(result)
            self._arrange()

    # ---- a Driver ----------------------------------------------------------------------------------------------

    def deliver(self, work: Work, result: Result) -> None:
        self._look_every = LOOK_FIRST
        sink = self._sinks.pop(work, None)
        if sink is not None:
            sink(result)

    def later(self, clock: Any, pause: float, work: Work) -> None:
        if not inspect.iscoroutinefunction(clock.sleep):
            super().later(clock, pause, work)
            return
        assert self._loop is not None
        # What comes after it is not the task's: one that is cancelled before its first step never runs.
        task = self._pauses[work] = self._loop.create_task(_sleep(clock, pause))
        task.add_done_callback(partial(self._at_pause, work))

    def post(self, number: int, outcome: Any) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed, and nobody waits
                loop.call_soon_threadsafe(self._at_post, number, outcome)

    def _at_post(self, number: int, outcome: Any) -> None:
        self.function_ended(number, outcome)
        self.go_on()

    def _at_pause(self, work: Work, pause: asyncio.Task[None]) -> None:
        del self._pauses[work]
        try:
            # Of a clock that is not ours, or somebody has cancelled all tasks.
            error = asyncio.CancelledError() if pause.cancelled() else pause.exception()
            if work.killed:
                pass
            elif error is None:
                work.start(self)
            else:
                work.killed = True
                message = f"{work.command}: the pause before its next try was ended by {error!r}"
                wrong = error if isinstance(error, Exception) else ProcessError(message, command=work.command)
                work.ended(self, unstarted(work.command, wrong))
        except BaseException as error:
            self._break_off(error)
            raise
        self.go_on()

    def close(self) -> None:
        self._sinks.clear()
        super().close()

    def __del__(self) -> None:
        # The core kills by itself when it is freed; what was opened for the children, and who does not die, is ours.
        if hasattr(self, "batch") and self.busy:
            self.close()


async def _sleep(clock: Any, seconds: float) -> None:
    await clock.sleep(seconds)


def _into(future: asyncio.Future[Result]) -> Callable[[Result], None]:
    def sink(result: Result) -> None:
        if not future.done():
            future.set_result(result)

    return sink


# A busy engine is found by a weak reference, an idle one by a method of its own, which keeps it.
_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Callable[[], Engine | None]]
_engines = weakref.WeakKeyDictionary()

os.register_at_fork(after_in_child=_engines.clear)


def engine_of(loop: asyncio.AbstractEventLoop) -> Engine:
    if dropped.waiting:
        dropped.reap()
    found = _engines.get(loop)
    engine = found() if found is not None else None
    if engine is None:
        engine = Engine()
        _engines[loop] = engine.itself
    return engine
