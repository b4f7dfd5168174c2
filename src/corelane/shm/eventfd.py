"""EventFd: a count in the kernel that processes wait for, and that any selector or event loop can.

An EventFd owns a descriptor; the count is the kernel's and lives as long as anybody has a descriptor of it. Any number
of threads and processes may signal and wait. A forked child has its parent's, with the same count. It tells of no
death.

It is an eventfd on Linux. On macOS it is a FIFO without a name (csrc/eventfd.c), which holds less before a signal has
to wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import weakref

from corelane._ffi import fast, ffi, lib
from corelane._values import flag, integer, seconds
from corelane.errors import Corrupted, QueueFull, shm_failed
from corelane.shm.segment import to_child

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from typing import Any, Self

    from corelane.shm.segment import HasFileno

__all__ = ["EventFd"]

_MOST = 2**64 - 2
_units = integer(1, _MOST)
_COUNT, _OPENED = ffi.typeof("uint64_t *"), ffi.typeof("cl_opened *")
_NOW = 0  # a deadline that is over


class EventFd:
    """A count that `signal` adds to and `wait` takes from.

        event = cl.EventFd()
        with cl.Command("worker", fds={3: event}).spawn():     # there: event = cl.EventFd.attach(3)
            event.wait()                                       # until it has signalled

    Another program reads and writes it as eventfd(2) says. Its descriptor does not block, for all who have it.

    Args:
        initial: the count to begin with, at most 2**64 - 2.
        semaphore: a wait takes 1 of the count; without this, all of it.

    Raises:
        ShmFailed: the system refused: too many descriptors. ValueError, TypeError.
    """

    __slots__ = ("__weakref__", "_core", "_kept", "_sleepers")

    _flags = 0  # of cl_eventfd_open; a test has the FIFO also where it is not needed

    def __init__(self, initial: int = 0, *, semaphore: bool = False) -> None:
        integer(0, _MOST)("initial", initial)
        flags = self._flags | (lib.CL_EVENTFD_SEMAPHORE if flag("semaphore", semaphore) else 0)
        directory = b""
        if sys.platform != "linux" or flags & lib.CL_EVENTFD_FIFO:
            from tempfile import gettempdir

            directory = os.fsencode(gettempdir())
        self._prepare()
        rc = lib.cl_eventfd_open(self._core, initial, flags, directory)
        if rc == -errno.EAGAIN:
            raise ValueError(f"initial is {initial}, which is more than a FIFO holds on this system")
        if rc < 0:
            raise shm_failed(-rc, f"cannot make an event: {os.strerror(-rc)}")
        _open.add(self)

    def _prepare(self) -> None:
        out = ffi.new("cl_eventfd **")
        if lib.cl_eventfd_new(out) < 0:
            raise MemoryError("no memory for an event")
        self._core = ffi.gc(out[0], lib.cl_eventfd_free)
        self._kept = fast.Kept(self._core)
        self._sleepers: set[tuple[AbstractEventLoop, Future[None]]] = set()

    @classmethod
    def attach(cls, target: int | HasFileno) -> Self:
        """One whose descriptor was inherited, or passed here. The descriptor stays open: this has a duplicate.

        Args:
            target: its number, or what has it. What it is of does not block from now on, whoever made it.

        Raises:
            ValueError: it is no event. ShmFailed: it is not open. TypeError.
        """
        fd = target if isinstance(target, int) else target.fileno() if hasattr(target, "fileno") else None
        if not isinstance(fd, int) or isinstance(fd, bool) or not 0 <= fd < 2**31:
            raise TypeError(f"target must be a descriptor of an event, not {target!r}")
        event = cls.__new__(cls)
        event._prepare()
        rc = lib.cl_eventfd_attach(event._core, fd)
        if rc == -errno.EINVAL:
            raise ValueError(f"descriptor {fd} is of no event; pass one on by Command(fds={{3: event}})")
        if rc < 0:
            raise shm_failed(-rc, f"cannot attach the event at descriptor {fd}: {os.strerror(-rc)}")
        _open.add(event)
        return event

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """`attach`, and close that descriptor: this has its own. For one that was received, `socket.recv_fds`."""
        event = cls.attach(fd)
        os.close(fd)
        return event

    # ---- the count ----

    def signal(self, n: int = 1, timeout: float | None = None) -> None:
        """Add to the count, and wake who waits for it.

        Args:
            n: from 1 to 2**64 - 2.
            timeout: seconds to wait for room; 0: not at all. The count of an eventfd is at most 2**64 - 2. A FIFO
                (macOS) holds its size in bytes, 8 KiB or more: 8 bytes for each signal that nobody has waited for, as a
                semaphore 1 for each unit.

        Raises:
            QueueFull: there was no room in time; its `done` is how much was added: nothing, but for the semaphore on
                macOS. ValueError: it is closed, or n is wrong.
        """
        _units("n", n)
        deadline, done = _deadline(timeout), ffi.new(_COUNT)
        while (rc := lib.cl_eventfd_signal(self._core, n, deadline, done)) == -errno.EINTR:
            continue  # a signal, whose handler has run; or a look whether one came unseen
        if rc == -errno.ETIMEDOUT:
            added = int(done[0])
            raise QueueFull(f"{self!r} has no room for {n - added} more: nobody waits for what was signalled", added)
        if rc < 0:
            raise self._failed(rc)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the count is not 0, and take it. Of several who wait, one gets it.

        Args:
            timeout: seconds; None: for ever.

        Returns:
            What was taken: the whole count, or 1 of a semaphore; 0 if the time is over.

        Raises:
            ValueError: it is closed, also while this waits. Corrupted: a stranger has written to it (a FIFO).
        """
        return self._take(_deadline(timeout))

    def wait_nowait(self) -> int:
        """`wait` that does not wait: what was taken, or 0."""
        return self._take(_NOW)

    def _take(self, deadline: int) -> int:
        taken = ffi.new(_COUNT)
        try:
            while (rc := lib.cl_eventfd_wait(self._core, deadline, taken)) == -errno.EINTR:
                continue
            if rc < 0 and rc != -errno.ETIMEDOUT:
                raise self._failed(rc)
            return int(taken[0])
        except BaseException:
            # A signal's exception, after it was taken: it is for somebody else.
            if taken[0]:
                lib.cl_eventfd_signal(self._core, taken[0], _NOW, ffi.new(_COUNT))
            raise

    async def wait_async(self, timeout: float | None = None) -> int:
        """`wait` for an event loop: no thread, and nothing runs until there is something. Any number of tasks may."""
        deadline = _deadline(timeout)
        while not (taken := self._take(_NOW)):
            left = None if deadline < 0 else (deadline - time.monotonic_ns()) / 1e9
            if left is not None and left <= 0:
                return 0
            await self._readable(left)
        return taken

    async def _readable(self, timeout: float | None) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        future: Future[None] = loop.create_future()
        # A number for each task: a loop has one reader for each; and if the event is closed meanwhile, its number may
        # be that of another file by the time that we remove the reader.
        own = ffi.gc(ffi.new(_OPENED, {"fd": -1}), lib.cl_opened_close)
        sleeper, timer = (loop, future), None
        # A loop that is closed ends none of its tasks: we would have them, and they their copies.
        self._sleepers.difference_update([each for each in list(self._sleepers) if each[0].is_closed()])
        try:
            # On the list first: who closes it in another thread wakes us then, or has closed it before we duplicate.
            self._sleepers.add(sleeper)
            rc = lib.cl_eventfd_dup(self._core, own)
            if rc < 0:
                raise self._failed(rc)
            loop.add_reader(own.fd, _set, future)
            if timeout is not None:
                timer = loop.call_later(timeout, _set, future)
            await future
        finally:
            self._sleepers.discard(sleeper)
            if timer is not None:
                timer.cancel()
            if own.fd >= 0:
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    loop.remove_reader(own.fd)
            lib.cl_opened_close(own)

    def _failed(self, rc: int) -> Exception:
        if rc == -errno.EBADF:
            return ValueError(f"{self!r} cannot be used any more")
        if rc == -errno.EBADMSG:
            return Corrupted(f"{self!r} was written to by a stranger: what is in it are no signals")
        return shm_failed(-rc, f"{self!r}: {os.strerror(-rc)}")

    # ---- what it is ----

    def fileno(self) -> int:
        """Its descriptor: readable while the count is not 0; to be passed on, too."""
        fd = int(lib.cl_eventfd_fd(self._core))
        if fd < 0:
            raise self._failed(fd)
        return fd

    @property
    def closed(self) -> bool:
        return int(lib.cl_eventfd_fd(self._core)) < 0

    def __repr__(self) -> str:
        fd = lib.cl_eventfd_fd(self._core)
        return f"<{type(self).__name__}, {'closed' if fd < 0 else f'descriptor {fd}'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        passed = to_child(self.fileno())
        if passed is None:
            raise TypeError(
                f"{self!r} cannot be pickled: its descriptor must be passed on: Command(fds={{3: event}}) and "
                "EventFd.attach(3), an argument of multiprocessing.Process, or socket.send_fds and EventFd.from_fd"
            )
        return _attached, (type(self), passed)

    # ---- the end ----

    def close(self) -> None:
        """Let go of it; others who have it go on. Who waits for it through this, in another thread or task, gets a
        ValueError. Does nothing the second time."""
        lib.cl_eventfd_close(self._core)
        for loop, future in list(self._sleepers):
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(_set, future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _deadline(timeout: float | None) -> int:
    """In ns of time.monotonic, which is the clock that C has; -1: none."""
    return -1 if timeout is None else time.monotonic_ns() + int(seconds("timeout", timeout) * 1e9)


def _set(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _attached(cls: type[EventFd], passed: Any) -> EventFd:
    return cls.from_fd(passed.detach())


_open: weakref.WeakSet[EventFd] = weakref.WeakSet()


def _forked() -> None:
    for event in list(_open):
        lib.cl_eventfd_forked(event._core)
        event._sleepers.clear()  # tasks of the parent's loops


os.register_at_fork(after_in_child=_forked)
