"""Waiting under an event loop, for all objects in shared memory that have bells.

A bell is a pipe of a handle's, which another process makes readable (csrc/bell.c). A Bell here is one of them with
those in this process who wait for it, in whatever loops and threads: whoever hears it silences it and wakes them all,
and each tries again. So nobody's wake-up is lost:

    task B: is on the list     arms: others ring from now on     tries: what was published before
    a loop: hears the bell     silences it                       wakes all who are on the list

If the byte that was meant for B is silenced, it was written after B had armed, so B was on the list.

A Bell owns a copy of the pipe's descriptor for each loop in which somebody waits: when the handle is closed its own
number may be another file's at once, which has a reader. asyncio is imported by whoever waits.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref

from corelane.errors import shm_failed
from corelane.shm.shared import Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol, TypeVar

    T = TypeVar("T")

    class Rings(Protocol):
        """What a Bell asks of its handle."""

        def _poll_fd(self, bell: int, /) -> int:
            """The pipe that is readable when that bell is rung; made if there is none."""

        def _silence(self, bell: int, /) -> int:
            """Read what is in the pipe; nothing if it is closed."""

    class Wakes(Protocol):
        """What is on a Bell's list."""

        def wake(self) -> None:
            """From any thread."""


__all__ = ["LOOK", "Bell", "Bells", "until"]

LOOK = 0.095  # seconds after which a task looks by itself, as nobody is woken by a death: so within 100 ms
_STRAIGHT = 32  # results that were there at once before the other tasks have a turn


class Bell:
    """One bell of a handle, and who waits for it here."""

    __slots__ = ("_handle", "_number", "_readers", "_waiting", "straight")

    def __init__(self, handle: Rings, number: int) -> None:
        self._handle = weakref.ref(handle)  # which has us, and is closed when it is dropped
        self._number = number
        self._waiting: dict[Wakes, None] = {}  # each change of it is one step of the interpreter's
        self._readers: dict[asyncio.AbstractEventLoop, list[int]] = {}  # its copy, and how many wait in that loop
        self.straight = 0

    def add(self, waiter: Wakes) -> None:
        """From now on it is woken when the bell rings for anybody of this process. Arm after that, and then try."""
        self._waiting[waiter] = None

    def discard(self, waiter: Wakes) -> None:
        self._waiting.pop(waiter, None)

    def poll_fd(self) -> int:
        """The handle's own descriptor of it."""
        handle = self._handle()
        if handle is None:
            raise ReferenceError("the handle of this bell is gone")
        return handle._poll_fd(self._number)

    def heard(self) -> None:
        """Silence it, and wake all who wait for it."""
        handle = self._handle()
        if handle is not None:
            handle._silence(self._number)
        for waiter in list(self._waiting):
            waiter.wake()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        reader = self._readers.get(loop)
        if reader is None:
            self._forget_closed()
            try:
                fd = os.dup(self.poll_fd())
            except OSError as error:
                raise shm_failed(error.errno or 0, f"cannot wait in an event loop: {error.strerror}") from None
            try:
                loop.add_reader(fd, self.heard)
            except BaseException:
                os.close(fd)
                raise
            reader = self._readers[loop] = [fd, 0]
        reader[1] += 1

    def _unlisten(self, loop: asyncio.AbstractEventLoop) -> None:
        reader = self._readers.get(loop)
        if reader is None:  # we are the child of a fork, or it could not be heard
            return
        reader[1] -= 1
        if reader[1] == 0 and self._readers.pop(loop, None) is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.remove_reader(reader[0])
            os.close(reader[0])

    def _forget_closed(self) -> None:
        """A loop that is closed while tasks wait in it ends none of them: we have them, and they have our copy."""
        for loop in list(self._readers):
            if loop.is_closed() and (reader := self._readers.pop(loop, None)) is not None:
                os.close(reader[0])
                for waiter in list(self._waiting):
                    if isinstance(waiter, _Task) and waiter.is_of(loop):
                        self.discard(waiter)

    def _forked(self) -> None:
        """The loops are the parent's, and share what they watch with it: nothing is taken out of them."""
        readers, self._readers, self._waiting = self._readers, {}, {}
        for fd, _ in readers.values():
            os.close(fd)


class Bells(Shared):
    """A handle that has bells. A subclass has a slot `_bells`, which is {} at first, and the two calls below."""

    __slots__ = ()

    if TYPE_CHECKING:
        _bells: dict[int, Bell]

        def _poll_fd(self, bell: int, /) -> int: ...
        def _silence(self, bell: int, /) -> int: ...

    def _bell_of(self, number: int) -> Bell:
        bell = self._bells.get(number)
        return bell if bell is not None else self._bells.setdefault(number, Bell(self, number))

    def _heard(self, number: int) -> None:
        """Silence a bell, without robbing the tasks that wait for it. Before it is armed for the program's selector."""
        bell = self._bells.get(number)
        if bell is None:
            self._silence(number)
        else:
            bell.heard()

    def close(self) -> None:
        super().close()
        for bell in list(self._bells.values()):  # who waits through us is told that we are closed
            bell.heard()

    def _forked(self) -> None:
        for bell in list(self._bells.values()):
            bell._forked()


class _Task:
    """One that waits in a loop; on the list of some bells."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.renew()

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop is loop

    def renew(self) -> None:
        """What rings from now on is heard by the next sleep."""
        self._future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> None:
        import asyncio

        with contextlib.suppress(RuntimeError):  # there is no loop in this thread, or ours is closed
            if asyncio.get_running_loop() is self._loop:
                _set(self._future)
                return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_set, self._future)

    async def sleep(self, span: float) -> None:
        timer = self._loop.call_later(span, _set, self._future)
        try:
            await self._future
        finally:
            timer.cancel()


def _set(future: Any) -> None:
    if not future.done():
        future.set_result(None)


async def until(
    attempt: Callable[[], T | None], bells: Iterable[tuple[Bell, Callable[[], object]]], deadline: int
) -> T | None:
    """Try until it succeeds: at once, whenever one of the bells rings, and every 100 ms.

    A cancelled task loses nothing: what `attempt` returns is returned without another turn of the loop.

    Args:
        attempt: returns what was wanted, or None: not yet. What it raises is raised.
        bells: each with what arms it: called after the task is on the bell's list, before a try. It may raise, too.
        deadline: ns of time.monotonic, -1: none.

    Returns:
        What `attempt` returned; None: the time is over.
    """
    import asyncio

    pairs = list(bells)
    first = pairs[0][0]
    if first.straight >= _STRAIGHT:  # others in this loop have a turn, also when there is always something
        first.straight = 0
        await asyncio.sleep(0)
    found = attempt()
    if found is not None:
        first.straight += 1
        return found
    first.straight = 0
    loop = asyncio.get_running_loop()
    task, heard = _Task(loop), 0
    try:
        for bell, _ in pairs:
            bell.add(task)
            bell._listen(loop)
            heard += 1
        while True:
            task.renew()
            for _, arm in pairs:
                arm()
            found = attempt()
            left = LOOK if deadline < 0 else (deadline - time.monotonic_ns()) / 1e9
            if found is not None or left <= 0:
                return found
            await task.sleep(min(left, LOOK))
            found = attempt()  # unarmed, as it will succeed: who publishes next need not ring
            if found is not None:
                return found
    finally:
        for bell, _ in pairs:
            bell.discard(task)
            if heard > 0:
                heard -= 1
                bell._unlisten(loop)
