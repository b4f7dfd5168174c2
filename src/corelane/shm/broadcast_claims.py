"""Slots of a broadcast that the program has for a while: to be filled, or looked at, where they lie.

Each owns its claim until it is done with it. It is done by its `with` block, or when it is dropped.
"""

from __future__ import annotations

import contextlib
import errno

from corelane._ffi import fast, ffi, lib
from corelane._values import integer
from corelane.errors import ShmError
from corelane.shm.shared import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corelane.shm.broadcast import Broadcast

__all__ = ["Claimed", "Peeked", "Reserved"]

_calls = fast.BroadcastCalls  # which Broadcast inherits from


class Claimed(Claim):
    """A slot that the program has until it is done.

    It is there before the slot is claimed, and forgotten after it was given on: a signal's exception in between must
    not leave a claim that nobody knows of.
    """

    __slots__ = ("_address", "_broadcast", "_claim", "view")

    _readonly = True

    def __init__(self, broadcast: Broadcast) -> None:
        self.view = memoryview(b"")
        self._claim = ffi.new("cl_broadcast_claim *")
        self._address = int(ffi.cast("uintptr_t", self._claim))
        self._broadcast: Broadcast | None = broadcast

    def _map(self) -> None:
        address = int(ffi.cast("uintptr_t", self._claim.data))
        self.view = memoryview(fast.Kept(self._held()._core, address, self._claim.size, self._readonly))

    def _held(self) -> Broadcast:
        if self._broadcast is None:
            raise ValueError("this record is done with")
        return self._broadcast

    def _end(self, call: Callable[..., int], *args: int) -> None:
        broadcast = self._held()
        with contextlib.suppress(
            BufferError
        ):  # somebody has a view of it: it stays mapped, and is the broadcast's again
            self.view.release()
        rc = call(broadcast, self._address, *args)  # which uses the claim up
        self._broadcast = None
        if rc == -errno.EINVAL:
            raise ValueError("this record is done with: its handle was subscribed or registered anew meanwhile")
        if rc < 0:
            raise broadcast._failed(rc)

    def _drop(self, call: Callable[..., int]) -> None:
        # Its process may have been forked, its handle closed: then there is nothing to be given back.
        if getattr(self, "_broadcast", None) is not None:
            with contextlib.suppress(ShmError, ValueError):
                self._end(call)

    def __enter__(self) -> memoryview:
        return self.view


class Reserved(Claimed):
    """A slot to be filled. `view` is its memory."""

    __slots__ = ()

    _readonly = False

    def commit(self, size: int | None = None) -> None:
        """It is a record: all of it, or its first `size` bytes."""
        self._held()
        most = int(self._claim.size)
        self._end(_calls._commit, most if size is None else integer(0, most)("size", size))

    def cancel(self) -> None:
        """It is no record. What was in the slot before is gone."""
        self._end(_calls._cancel)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._broadcast is not None:
            if kind is None:
                self.commit()
            else:
                self._drop(_calls._cancel)

    def __del__(self) -> None:
        self._drop(_calls._cancel)


class Peeked(Claimed):
    """A record. `view` is its memory, read-only."""

    __slots__ = ()

    @property
    def whole(self) -> bool:
        """Whether the writer has not come to its slot again so far."""
        return bool(lib.cl_broadcast_is_whole(self._held()._core, self._claim) == 1)

    def release(self) -> None:
        """It is dealt with.

        Raises:
            RecordsLost: it was overwritten meanwhile. Evicted: and this reader gets no more.
        """
        self._end(_calls._release)

    def keep(self) -> None:
        """It stays: the next get is of it."""
        self._end(_calls._keep)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._broadcast is not None:
            if kind is None:
                self.release()
            else:
                self._drop(_calls._keep)

    def __del__(self) -> None:
        self._drop(_calls._keep)
