"""What locks, semaphores, events and barriers between processes have alike: making, attaching, waiting, their errors.

A Primitive owns its Segment, and the place of one participant in it: a lease that ends with the process, however it
ends. What claims something is C (csrc/python/fast_sync.c): a signal's exception comes before the claim, or after it is
known. A forked child has the object and no place: it is refused until it calls `register`.

Each has one bell (looping.py), which rings for all who wait for anything of it.
"""

from __future__ import annotations

import errno
import os
import time

from corelane._ffi import ffi, lib
from corelane._values import integer
from corelane.errors import NotSupported, ShmError, shm_failed
from corelane.shm.looping import Bells, until
from corelane.shm.segment import Handle, Segment, passed_on
from corelane.shm.shared import open_core
from corelane.shm.spin import spin_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self

    from corelane.shm.segment import HasFileno

__all__ = ["SLOTS", "Primitive", "pid_or_none"]

SLOTS = ("__weakref__", "_bells", "_core", "_segment", "_spin")  # of each subclass: a base with any could have no other
_INTERRUPTED, _TIMEOUT, _BROKEN = -errno.EINTR, -errno.ETIMEDOUT, -errno.EPIPE


class Primitive(Bells):
    """Base of Lock, Semaphore, Event and Barrier. A subclass is also of the C type with its calls."""

    if TYPE_CHECKING:
        __slots__ = SLOTS
        _KIND: ClassVar[int]
        _TYPE: ClassVar[str]  # as the core names it
        _spin: float | None

        def _join(self) -> int: ...
        def _bind(self, address: int, owner: object) -> None: ...
        def _bell(self, bell: int, /) -> int: ...
        def _arm(self, bell: int, /) -> int: ...

    else:
        __slots__ = ()

    # ---- making and attaching ----

    @classmethod
    def _make(cls, count: int, name: str | None, members: int, spin: float | None, options: dict[str, Any]) -> Self:
        plan, whole = ffi.new("cl_sync_plan *"), ffi.new("cl_segment_plan *")
        plan.kind, plan.count = cls._KIND, count
        plan.members = integer(1, lib.CL_SYNC_MEMBERS)("members", members)
        spin_ns("spin", spin)
        lib.cl_sync_describe(plan, whole)
        segment = Segment()
        about = bytes(ffi.buffer(plan))
        segment._create(whole.size, name, cls._KIND, about=about, layout=whole.layout, **options)
        return cls._of(segment, spin)

    @classmethod
    def attach(
        cls, target: str | int | HasFileno | Handle | Self, *, spin: float | None = None, readonly: bool = False
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or an object of it.
            spin: as in `create`, of this handle.
            readonly: it can only be looked at.

        Raises:
            ShmFailed: there is none of that name, no permission. ShmError: it has `members` participants already.
            Corrupted: it is none of these, or what it says of itself is not so. ValueError, TypeError.
        """
        spin_ns("spin", spin)
        segment = Segment()
        segment._attach(target.segment if isinstance(target, Primitive) else target, cls._KIND, readonly)
        return cls._of(segment, spin)

    @classmethod
    def _of(cls, segment: Segment, spin: float | None) -> Self:
        core = open_core(segment, getattr(lib, f"{cls._TYPE}_open"), cls._TYPE, lib.cl_sync_free)
        made = cls.__new__(cls)
        made._core, made._segment, made._spin, made._bells = core, segment, spin, {}
        made._bind(int(ffi.cast("uintptr_t", core)), core)
        lib.cl_sync_set_spin(core, spin_ns("spin", spin))
        if not segment.readonly:
            try:
                made.register()
            except BaseException:
                made.close()
                raise
        return made

    def register(self) -> None:
        """Become a participant: what a forked child does with the object of its parent before it uses it.

        Raises:
            ShmError: there are `members` participants already, and all of them live.
        """
        self._check_open()
        rc = self._join()
        if rc == -errno.EUSERS:
            most = int(self._report().members)
            raise ShmError(f"{self!r} has {most} participants, all alive: create it with more members, or close some")
        if rc == -errno.ENOTSUP:
            raise NotSupported(f"{self!r}: this platform has no leases, which say who is alive")
        if rc < 0:
            raise self._failed(rc)
        self._close_at_the_end()

    # ---- what it is ----

    def recover(self) -> int:
        """Look now which participants have died, and give on what they held. Whoever waits does it by itself.

        Returns:
            How many.
        """
        self._check_open()
        rc = lib.cl_sync_recover(self._core)
        if rc < 0:
            raise self._failed(rc)
        return int(rc)

    def _report(self) -> Any:
        out = ffi.new("cl_sync_report *")
        lib.cl_sync_report_of(self._core, out)
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self._segment), self._spin, self._segment.readonly)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        return f"<{type(self).__name__}{name}{self._says()}{', closed' if self.closed else ''}>"

    def _says(self) -> str:
        return ""

    def _failed(self, rc: int) -> Exception:
        self._check_open()
        if rc == -errno.ESTALE:
            return self._use_after_fork()
        if rc in (-errno.EACCES, -errno.ENOTCONN):
            return self._not_a_member(rc)
        return shm_failed(-rc, f"{self!r}: {os.strerror(-rc)}")

    def _refused(self, rc: int, *unused: object) -> None:
        raise self._failed(rc)

    # ---- waiting ----

    def _wait_until(self, ticket: int, state: tuple[int, int]) -> bool:
        """Until another look is worth it, also at what is broken. `state`: since when, and the deadline.

        Returns:
            False: the time is over.
        """
        while (rc := lib.cl_sync_wait(self._core, ticket, *state)) == _INTERRUPTED:
            continue  # whatever handler there is for that signal has run by now
        if rc < 0 and rc not in (_TIMEOUT, _BROKEN):
            raise self._failed(rc)
        return bool(rc != _TIMEOUT)

    def _deadline(self, timeout: Any) -> int:
        return -1 if timeout is None else time.monotonic_ns() + int(self._seconds(timeout) * 1e9)  # False is none

    def _began(self, timeout: Any) -> tuple[int, int]:
        return time.monotonic_ns(), self._deadline(timeout)

    # ---- under an event loop ----

    async def _until(self, attempt: Callable[[], bool], timeout: float | None) -> bool:
        """Let other tasks run until `attempt()` is true. False: the time is over."""
        import asyncio

        while lib.cl_sync_gives_way(self._core):  # at most a fifth of a millisecond
            await asyncio.sleep(0)
        bell = (self._bell_of(0), self._armed)
        return await until(lambda: attempt() or None, [bell], self._deadline(timeout)) is True

    def _armed(self) -> None:
        rc = self._arm(0)
        if rc < 0:
            raise self._failed(rc)

    def _poll_fd(self, bell: int, /) -> int:
        rc = self._bell(bell)
        if rc < 0:
            raise self._failed(rc)
        return rc


def pid_or_none(rc: int) -> int | None:
    """A pid as the core says it: None: nobody; -1: one that did not say its pid."""
    return -1 if rc == lib.CL_SYNC_UNKNOWN else int(rc) if rc > 0 else None


def _attached(cls: type[Primitive], passed: Any, spin: float | None, readonly: bool) -> Primitive:
    return cls.attach(passed, spin=spin, readonly=readonly)
