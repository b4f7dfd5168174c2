"""Semaphores between processes: so many at a time, and a dead one's permits come back.

A Semaphore owns its Segment and one participant's place in it (sync.py). Each permit names who has it (csrc/
sync_semaphore.c), so only what a handle has taken can it give back: there are never more permits than at first.
Deliberately not here: a count that one raises and another lowers; that is what a Queue or an Event is for.
"""

from __future__ import annotations

import errno
from collections import Counter

from corelane._ffi import fast, lib
from corelane._values import integer
from corelane.errors import NotHeld, ShmTimeout
from corelane.shm.sync import SLOTS, Primitive, pid_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Semaphore"]

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_sync.c
        def acquire(self, timeout: float | None = None) -> bool: ...
        def try_acquire(self) -> bool: ...
        def release(self) -> None: ...
        def __enter__(self) -> Self: ...
        def __exit__(self, *unused: object) -> None: ...
        def _leave(self) -> None: ...

else:
    _Calls = fast.SemaphoreCalls


class Semaphore(_Calls, Primitive):
    """A semaphore, made by `create` or `attach`. Its permits are held by handles, from whatever thread.

    A context manager, also with `async with`: a permit is held in the block. What a process holds that dies, or closes
    its handle, is free again.
    """

    __slots__ = SLOTS

    _KIND = lib.CL_SEGMENT_SEMAPHORE
    _TYPE = "cl_semaphore"

    @classmethod
    def create(
        cls, value: int, name: str | None = None, *, members: int = 255, spin: float | None = None, **options: Any
    ) -> Self:
        """Make one, with all its permits free.

        Args:
            value: how many permits, 1 to 65536.
            name, members, spin, options: as in `Lock.create`.
        """
        return cls._make(integer(1, lib.CL_SYNC_COUNT)("value", value), name, members, spin, options)

    @property
    def value(self) -> int:
        """How many permits are free now."""
        return int(self._report().free)

    @property
    def permits(self) -> int:
        """How many there are."""
        return int(self._report().count)

    @property
    def held(self) -> int:
        """How many this handle has."""
        return int(self._report().mine)

    def holders(self) -> dict[int, int]:
        """How many permits each process has, by pid; -1: those that did not say theirs."""
        pids = [pid_or_none(lib.cl_semaphore_holder(self._core, i)) for i in range(self.permits)]
        return dict(Counter(pid for pid in pids if pid is not None))

    def _says(self) -> str:
        report = self._report()
        return f", {report.free} of {report.count} free"

    def _failed(self, rc: int) -> Exception:
        if rc == -errno.EPERM:
            return NotHeld(f"{self!r}: nothing to release: this handle has no permit")
        return super()._failed(rc)

    def _late(self) -> ShmTimeout:
        found = sorted(self.holders().items())
        who = ", ".join(f"process {pid} has {count}" for pid, count in found[:5])
        return ShmTimeout(
            f"{self!r} had no permit in time: {who or 'they are free by now'}{', ...' if len(found) > 5 else ''}",
            found[0][0] if len(found) == 1 else None,
        )

    def _wait_later(self, rc: int, timeout: Any, state: tuple[int, int] | None) -> tuple[int, int]:
        if rc != -errno.EAGAIN:
            raise self._failed(rc)
        state = state or self._began(timeout)
        if not self._wait_until(0, state):
            raise self._late()
        return state

    # ---- under an event loop ----

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """`acquire`, for an event loop: other tasks run meanwhile."""
        if not await self._until(self.try_acquire, timeout):
            raise self._late()
        return True

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.__exit__(*raised)
