"""Slots of a queue that the program has for a while: to be filled, or looked at, where they lie.

Each owns its claim until it is done with it. It is done by its `with` block, or when it is dropped.
"""

from __future__ import annotations

import contextlib
import errno

from corelane._ffi import fast, ffi
from corelane._values import integer
from corelane.errors import ShmError
from corelane.shm.shared import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corelane.shm.queue import Queue

__all__ = ["Claimed", "Peeked", "Reserved"]

_calls = fast.QueueCalls  # which Queue inherits from


class Claimed(Claim):
    """A slot that the program has until it is done.

    It is there before the slot is claimed, and forgotten after it was given on: a signal's exception in between must
    not leave a slot that a live process holds, for ever, and that nobody knows of.
    """

    __slots__ = ("_address", "_claim", "_queue", "view")

    def __init__(self, queue: Queue) -> None:
        self.view = memoryview(b"")
        self._claim = ffi.new("cl_queue_claim *")
        self._address = int(ffi.cast("uintptr_t", self._claim))
        self._queue: Queue | None = queue

    def _end(self, call: Callable[..., int], *args: int) -> None:
        if self._queue is None:
            raise ValueError("this record is done with")
        queue = self._queue
        with contextlib.suppress(BufferError):  # somebody has a view of it: it stays mapped, and is the queue's again
            self.view.release()
        rc = call(queue, self._address, *args)  # which uses the claim up
        self._queue = None
        if rc == -errno.EINVAL:
            raise ValueError("this record is done with: its queue was closed and registered again meanwhile")
        if rc < 0:
            raise queue._failed(rc)

    def __enter__(self) -> memoryview:
        return self.view

    def _drop(self, call: Callable[..., int]) -> None:
        # Its process may have been forked, its queue closed: then there is nothing to be given back.
        with contextlib.suppress(ShmError, ValueError):
            self._end(call)


class Reserved(Claimed):
    """A slot to be filled. `view` is its memory."""

    __slots__ = ()

    def commit(self, size: int | None = None) -> None:
        """It is a record: all of it, or its first `size` bytes."""
        if self._queue is None:
            raise ValueError("this record is done with")
        most = int(self._claim.size)
        self._end(_calls._commit, most if size is None else integer(0, most)("size", size))

    def cancel(self) -> None:
        """It is no record."""
        self._end(_calls._cancel)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._queue is not None:
            if kind is None:
                self.commit()
            else:
                self._drop(_calls._cancel)

    def __del__(self) -> None:
        if getattr(self, "_queue", None) is not None:
            self._drop(_calls._cancel)


class Peeked(Claimed):
    """A record. `view` is its memory, read-only."""

    __slots__ = ()

    def release(self) -> None:
        """It is dealt with."""
        self._end(_calls._release)

    def give_back(self) -> None:
        """It is for somebody else; with at-most-once delivery, for nobody."""
        self._end(_calls._give_back)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._queue is not None:
            if kind is None:
                self.release()
            else:
                self._drop(_calls._give_back)

    def __del__(self) -> None:
        if getattr(self, "_queue", None) is not None:
            self._drop(_calls._give_back)
