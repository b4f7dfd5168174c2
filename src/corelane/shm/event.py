"""Events between processes: something has happened, and all may know.

An Event owns its Segment and one participant's place in it (sync.py). It is a count of changes (csrc/sync_event.c): who
waited goes on when it is set, also if it is cleared again before it looks.
"""

from __future__ import annotations

from corelane._ffi import fast, lib
from corelane.errors import ShmTimeout
from corelane.shm.sync import SLOTS, Primitive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Event"]

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_sync.c
        def set(self) -> None: ...
        def clear(self) -> None: ...
        def is_set(self) -> bool: ...
        def _leave(self) -> None: ...

else:
    _Calls = fast.EventCalls


class Event(_Calls, Primitive):
    """An event, made by `create` or `attach`. A context manager: leaving the block closes the handle."""

    __slots__ = SLOTS

    _KIND = lib.CL_SEGMENT_EVENT
    _TYPE = "cl_event"

    @classmethod
    def create(cls, name: str | None = None, *, members: int = 255, spin: float | None = None, **options: Any) -> Self:
        """Make one, not set.

        Args:
            name, members, spin, options: as in `Lock.create`.
        """
        return cls._make(1, name, members, spin, options)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; for `timeout` seconds at most. True.

        Raises:
            ShmTimeout: the time is over.
        """
        state = self._began(timeout)
        self._check_open()
        ticket = int(lib.cl_event_now(self._core))
        while not self._has_happened(ticket):
            if not self._wait_until(ticket, state):
                raise self._late()
        return True

    def _has_happened(self, ticket: int) -> bool:
        return bool(ticket & 1 or lib.cl_event_now(self._core) != ticket)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """`wait`, for an event loop: other tasks run meanwhile."""
        self._check_open()
        ticket = int(lib.cl_event_now(self._core))
        if not await self._until(lambda: self._has_happened(ticket), timeout):
            raise self._late()
        return True

    def _late(self) -> ShmTimeout:
        return ShmTimeout(f"{self!r} was not set in time")

    def _says(self) -> str:
        return ", set" if lib.cl_event_now(self._core) & 1 else ", not set"
