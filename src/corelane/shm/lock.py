"""Locks between processes, which nobody's death can keep.

A Lock owns its Segment and one participant's place in it (sync.py). The lock names its holder in one word, so a dead
one is known and a live one is never robbed; how, is drawn in csrc/sync_lock.c. Deliberately not here: recursion, and
order (whoever is first when it falls free has it; but who has just had it lets others have a turn).
"""

from __future__ import annotations

import errno
import weakref

from corelane._ffi import fast, lib
from corelane.errors import AlreadyHeld, NotHeld, ShmTimeout
from corelane.shm.sync import SLOTS, Primitive, pid_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

__all__ = ["Lock"]

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_sync.c
        def acquire(self, timeout: float | None = None) -> bool: ...
        def try_acquire(self) -> bool: ...
        def release(self) -> None: ...
        def __enter__(self) -> Self: ...
        def __exit__(self, *unused: object) -> None: ...
        def _leave(self) -> None: ...

else:
    _Calls = fast.LockCalls


class Lock(_Calls, Primitive):
    """A lock, made by `create` or `attach`. It is held by one thread of one handle, in one process.

    A context manager, also with `async with`: held in the block. If its holder dies the next one has it, and is told
    by `recovered`: what the lock protects may be half done. The one after that is told, too, if this one dies, or its
    block raises; not any more after a `release`.
    """

    __slots__ = (*SLOTS, "_task")

    _KIND = lib.CL_SEGMENT_MUTEX
    _TYPE = "cl_lock"

    @classmethod
    def create(cls, name: str | None = None, *, members: int = 255, spin: float | None = None, **options: Any) -> Self:
        """Make one, free.

        Args:
            name: what another program attaches it by. None: it has none, and is passed on.
            members: how many handles there may be at once, 1 to 4095.
            spin: seconds that a wait of this handle looks before it sleeps, at most; 0: none. None: `default_spin()`.
            options: as in `Segment.create`: mode, owner, group, keep, populate, lock, numa.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. ValueError, TypeError.
        """
        return cls._make(1, name, members, spin, options)

    @property
    def holder(self) -> int | None:
        """The pid of the process that has it, as that sees it itself; -1: one that did not say. None: it is free."""
        return pid_or_none(lib.cl_lock_holder(self._core))

    @property
    def held(self) -> bool:
        """Whether this thread has it, through this handle."""
        return bool(lib.cl_lock_is_held(self._core) == 1)

    @property
    def recovered(self) -> int | None:
        """While this handle has it: the pid of the process that died with it, if it was not released since; -1: one
        that did not say. None: what it protects is as its last holder meant it to be."""
        return pid_or_none(lib.cl_lock_recovered(self._core))

    def _says(self) -> str:
        pid = self.holder
        return ", free" if pid is None else f", held by process {pid}"

    def _failed(self, rc: int) -> Exception:
        if rc == -errno.EDEADLK:
            return AlreadyHeld(f"{self!r}: this thread has it already: it would wait for itself; release it first")
        if rc == -errno.EPERM:
            return NotHeld(f"{self!r} cannot be released here: this thread does not have it", self.holder)
        return super()._failed(rc)

    def _late(self) -> ShmTimeout:
        pid = self.holder
        who = "" if pid is None else f": process {pid} has it, at work or stopped, and alive"
        return ShmTimeout(f"{self!r} was not free in time{who}", pid)

    def _wait_later(self, rc: int, timeout: Any, state: tuple[int, int] | None) -> tuple[int, int]:
        if rc != -errno.EAGAIN:
            raise self._failed(rc)
        state = state or self._began(timeout)
        if not self._wait_until(0, state):
            raise self._late()
        return state

    # ---- under an event loop ----

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """`acquire`, for an event loop: other tasks run meanwhile. The tasks of a thread exclude each other, too.

        Raises:
            ShmTimeout: the time is over. AlreadyHeld: this task has it.
        """
        import asyncio

        me, had = asyncio.current_task(), getattr(self, "_task", None)
        # Its last claim may be over, and the lock another task's of this thread.
        if had is not None and had[0]() is me and self.held and had[1] == lib.cl_lock_claims(self._core):
            raise AlreadyHeld(f"{self!r}: this task has it already: it would wait for itself; release it first")
        if not await self._until(self.try_acquire, timeout):
            raise self._late()
        self._task = (weakref.ref(me), lib.cl_lock_claims(self._core)) if me is not None else None
        return True

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._task = None
        self.__exit__(*raised)
