"""Barriers between processes: nobody goes on before all have come.

A Barrier owns its Segment and one participant's place in it (sync.py). Who has come stands there by name (csrc/
sync_barrier.c), so one that dies waiting is missed. Deliberately not here: missing one that never came; that is what a
timeout is for.
"""

from __future__ import annotations

import errno

from corelane._ffi import fast, ffi, lib
from corelane._values import integer
from corelane.errors import BrokenBarrier, ShmTimeout
from corelane.shm.sync import SLOTS, Primitive, pid_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Barrier"]

_WHY = {
    lib.CL_BARRIER_WHOLE: "reset it while this one waited",
    lib.CL_BARRIER_DIED: "died while it waited",
    lib.CL_BARRIER_GAVE_UP: "waited no longer",
    lib.CL_BARRIER_ABORTED: "aborted it",
}

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_sync.c
        def wait(self, timeout: float | None = None) -> int: ...
        def _leave(self) -> None: ...

else:
    _Calls = fast.BarrierCalls


class Barrier(_Calls, Primitive):
    """A barrier, made by `create` or `attach`; for one generation after the other.

    It is broken, for all who wait and all who come, when one that waits dies or waits no longer, or by `abort`; until
    it is `reset`. A context manager: leaving the block closes the handle.
    """

    __slots__ = SLOTS

    _KIND = lib.CL_SEGMENT_BARRIER
    _TYPE = "cl_barrier"

    @classmethod
    def create(
        cls, parties: int, name: str | None = None, *, members: int = 255, spin: float | None = None, **options: Any
    ) -> Self:
        """Make one.

        Args:
            parties: how many must come, 1 to 65536; threads of one handle are one each.
            name, members, spin, options: as in `Lock.create`.
        """
        return cls._make(integer(1, lib.CL_SYNC_COUNT)("parties", parties), name, members, spin, options)

    @property
    def parties(self) -> int:
        """How many must come."""
        return int(self._report().count)

    @property
    def waiting(self) -> int:
        """How many have come, and wait."""
        return int(self._report().waiting)

    @property
    def broken(self) -> bool:
        """Whether it is broken: who comes is refused until it is reset."""
        return bool(lib.cl_barrier_why(self._core))

    def abort(self) -> None:
        """Break it: those who wait get BrokenBarrier, and those who come."""
        self._check(lib.cl_barrier_abort(self._core))

    def reset(self) -> None:
        """Not broken any more. Those who wait just now get BrokenBarrier."""
        self._check(lib.cl_barrier_reset(self._core))

    def _check(self, rc: int) -> None:
        if rc < 0:
            raise self._failed(rc)

    def _says(self) -> str:
        report = self._report()
        return f" of {report.count}, broken" if self.broken else f" of {report.count}, {report.waiting} waiting"

    def _failed(self, rc: int) -> Exception:
        self._check_open()
        if rc == -errno.ETIMEDOUT:
            return ShmTimeout(f"{self!r}: not all came in time; it is broken for those who did, until reset()")
        if rc == -errno.EPIPE:
            pid = pid_or_none(lib.cl_barrier_breaker(self._core))
            return BrokenBarrier(f"{self!r}: process {pid} {_WHY[lib.cl_barrier_why(self._core)]}", pid)
        return super()._failed(rc)

    def _wait_on(self, generation: int, timeout: Any, state: tuple[int, int] | None) -> tuple[int, int] | bool:
        state = state or self._began(timeout)
        return state if self._wait_until(generation, state) else False

    def _is_over(self, generation: int) -> bool:
        if lib.cl_barrier_look(self._core, generation) == 0:
            self._check(lib.cl_sync_recover(self._core))  # a death rings for nobody
        return bool(lib.cl_barrier_look(self._core, generation))

    async def wait_async(self, timeout: float | None = None) -> int:
        """`wait`, for an event loop: other tasks run meanwhile. One whose task is cancelled waits no longer."""
        self._deadline(timeout)
        ticket = ffi.new("cl_barrier_ticket *")
        on_time = False
        try:
            self._check(lib.cl_barrier_arrive(self._core, ticket))
            generation = int(ticket.generation)
            on_time = await self._until(lambda: self._is_over(generation), timeout)
        finally:
            is_whole = lib.cl_barrier_give_up(self._core, ticket)
        if not is_whole:
            raise self._failed(-errno.EPIPE if on_time else -errno.ETIMEDOUT)
        return int(ticket.index)
