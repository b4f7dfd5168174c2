"""Waiting for any of several objects in shared memory: `wait_any`, and what carries objects that consist of several.

An object that can be waited for has `_waitables()`: a list of Waitable, one for each thing that makes it ready to be
got from. To be waited for in C it fills a cl_waitable (csrc/api/wait.h), to be waited for in a loop it has a Bell.

Owns nothing but, where the kernel cannot sleep on several words at once (before Linux 5.16, or more than 128), an
eventfd (or a pipe) for as long as somebody waits: then it is done through the bells, as in a loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from dataclasses import dataclass

from corelane._ffi import PLATFORM, ffi, lib
from corelane._values import seconds
from corelane.shm.looping import LOOK, until
from corelane.shm.spin import spin_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol, TypeVar

    from corelane.shm.looping import Bell

    class CanBeWaitedFor(Protocol):
        """A Ring, a Queue, and whatever else has this."""

        def _waitables(self) -> list[Waitable]:
            """What makes it ready; raises what a get from it would raise of a handle that is of no use."""

    W = TypeVar("W", bound="CanBeWaitedFor")


__all__ = ["Together", "Waitable", "wait_any", "wait_any_async"]

_SIGNAL, _TIMEOUT, _NOT_HERE = -errno.EINTR, -errno.ETIMEDOUT, -errno.ENOSYS


@dataclass(frozen=True, slots=True)
class Waitable:
    """One thing to wait for.

    `fill(address)` makes the cl_waitable there, or raises; `bell()` is what is rung for it, armed by `arm()`. `owner`
    is whatever must stay alive for that.
    """

    fill: Callable[[Any], None]
    bell: Callable[[], Bell]
    arm: Callable[[], object]
    owner: object


class Together:
    """Some things that are waited for at once. Any thread may use it."""

    __slots__ = ("_all", "_each")

    def __init__(self, each: list[Waitable]) -> None:
        self._each = each
        self._all = ffi.new("cl_waitable[]", len(each))
        for i, one in enumerate(each):
            one.fill(self._all + i)

    def look(self) -> list[int] | None:
        """The indices of those that are ready; None: there is none. Who has died is asked for, too."""
        ready = ffi.new("uint8_t[]", len(self._each))
        return _indices(ready) if lib.cl_wait_look(self._all, len(self._each), ready) > 0 else None

    def wait(self, deadline: int, spin: int) -> list[int] | None:
        """Until one is ready. As `look`; None: the time is over.

        Args:
            deadline: ns of time.monotonic, -1: none.
            spin: ns that it looks before it sleeps, at most.
        """
        ready = ffi.new("uint8_t[]", len(self._each))
        while (rc := lib.cl_wait_any(self._all, len(self._each), deadline, spin, ready)) == _SIGNAL:
            continue  # a signal, whose handler has run; or a look whether one came unseen
        if rc == _NOT_HERE:
            return self._wait_for_bells(deadline)
        return None if rc == _TIMEOUT else _indices(ready)

    async def wait_async(self, deadline: int) -> list[int] | None:
        """The same, in an event loop."""
        return await until(self.look, self.bells(), deadline)

    def bells(self) -> list[tuple[Bell, Callable[[], object]]]:
        return [(one.bell(), one.arm) for one in self._each]

    def _wait_for_bells(self, deadline: int) -> list[int] | None:
        import select

        thread, poll = _Thread(), select.poll()
        bells = self.bells()
        try:
            poll.register(thread.fd, select.POLLIN)
            numbers = {}
            for bell, _ in bells:
                bell.add(thread)
                numbers[bell.poll_fd()] = bell
            for number in numbers:
                poll.register(number, select.POLLIN)
            while True:
                for _, arm in bells:
                    arm()
                found = self.look()
                left = LOOK if deadline < 0 else (deadline - time.monotonic_ns()) / 1e9
                if found is not None or left <= 0:
                    return found
                for number, _ in poll.poll(min(left, LOOK) * 1000):
                    if number in numbers:
                        numbers[number].heard()
                thread.silence()
        finally:
            for bell, _ in bells:
                bell.discard(thread)


class _Thread:
    """One that waits in poll, and is on the list of some bells: another one may hear them first, and be about to wake
    it when it is not on the list any more. So its descriptor is closed with the last reference to it."""

    __slots__ = ("_end", "fd")

    def __init__(self) -> None:
        if PLATFORM == "linux":
            self.fd = self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return
        self.fd, self._end = os.pipe()
        for each in (self.fd, self._end):
            os.set_blocking(each, False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # it is readable as it is
            os.write(self._end, (1).to_bytes(8, sys.byteorder))

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def __del__(self) -> None:
        os.close(self.fd)
        if self._end != self.fd:
            os.close(self._end)


def _indices(ready: Any) -> list[int]:
    return [i for i, is_ready in enumerate(ffi.buffer(ready)[:]) if is_ready]


class _Asked:
    """The objects that somebody waits for, and what each consists of."""

    __slots__ = ("_objects", "_owners", "together")

    def __init__(self, name: str, objects: Iterable[Any]) -> None:
        if hasattr(objects, "_waitables"):  # going over a ring would get from it
            raise TypeError(f"{name}() takes a list of objects: {name}([...]), not {objects!r}")
        self._objects = list(objects)
        if not self._objects:
            raise ValueError(f"{name}() needs at least one ring or queue to wait for: it would wait for ever")
        each: list[Waitable] = []
        self._owners: list[int] = []
        for i, one in enumerate(self._objects):
            if not hasattr(one, "_waitables"):
                raise TypeError(f"{name}() waits for rings, queues and the like, not for {one!r}")
            found = one._waitables()
            each += found
            self._owners += [i] * len(found)
        self.together = Together(each)

    def of(self, found: list[int] | None) -> list[Any]:
        wanted = {self._owners[i] for i in found or ()}
        return [one for i, one in enumerate(self._objects) if i in wanted]


def _deadline(timeout: float | None) -> int:
    return -1 if timeout is None else time.monotonic_ns() + int(seconds("timeout", timeout) * 1e9)


def wait_any(objects: Iterable[W], timeout: float | None = None, *, spin: float | None = None) -> list[W]:
    """Wait until something can be got from one of several rings, queues and the like.

    Args:
        objects: as many as you like, at least one. Of a ring its consumer's side is taken, if nobody has it.
        timeout: seconds; None: no end; 0: only look.
        spin: seconds that it looks before it sleeps, at most; less where waits are long. None: `default_spin()`.

    Returns:
        Those whose `get_nowait` is answered at once, in the order given: with a record, or with what is to be said
        (Closed, PeerDied). Another consumer may be faster: then it is QueueEmpty. [] when the time is over.

    Raises:
        ValueError: there is none, one of them is closed, a wrong timeout. TypeError: one of them cannot be waited for.
    """
    deadline = _deadline(timeout)
    asked = _Asked("wait_any", objects)
    return asked.of(asked.together.wait(deadline, spin_ns("spin", spin)))


async def wait_any_async(objects: Iterable[W], timeout: float | None = None) -> list[W]:
    """`wait_any`, for an event loop: no thread, no polling while nothing happens."""
    deadline = _deadline(timeout)
    asked = _Asked("wait_any_async", objects)
    return asked.of(await asked.together.wait_async(deadline))
