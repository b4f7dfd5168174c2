"""Pieces of a ring that the program has for a while: room to be filled, a record to be looked at, where they lie.

Each owns its side of the ring until it is done with it. It is done by its `with` block, or when it is dropped.
"""

from __future__ import annotations

from corelane._ffi import lib
from corelane._values import integer
from corelane.shm.shared import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corelane.shm.ring import Ring

__all__ = ["Peeked", "Reserved"]

_PRODUCER, _CONSUMER = lib.CL_RING_PRODUCER, lib.CL_RING_CONSUMER


class _Borrowed(Claim):
    """A piece of a ring that the program has: the side is its own until it is done.

    A signal's exception may come between any two steps: what is not done then is done when the object goes.
    """

    __slots__ = ("_ring", "view")

    def __init__(self, ring: Ring, view: memoryview) -> None:
        self.view = view
        self._ring: Ring | None = ring

    def _borrowed(self) -> Ring:
        if self._ring is None:
            raise ValueError("this record is done with: it was committed, released or given up")
        return self._ring

    def _hide(self) -> None:
        try:  # noqa: SIM105 (a context manager takes half a microsecond)
            self.view.release()
        except BufferError:  # somebody has a view of it: it stays mapped, and is the ring's again
            pass

    def _give_up(self, side: int) -> None:
        ring = self._borrowed()
        self._hide()
        ring._let_go(side)
        self._ring = None

    def __enter__(self) -> memoryview:
        return self.view


class Reserved(_Borrowed):
    """Room for a record. `view` is its memory."""

    __slots__ = ()

    def commit(self, size: int | None = None) -> None:
        """Let the consumer have it, or its first `size` bytes."""
        ring, most = self._borrowed(), self.view.nbytes
        wanted = most if size is None else integer(0, most)("size", size)
        self._hide()
        rc = ring._commit(wanted)
        self._ring = None
        if rc < 0:
            raise ring._failed(rc, _PRODUCER)

    def abandon(self) -> None:
        """Nothing was put."""
        lib.cl_ring_abandon(self._borrowed()._core)
        self._give_up(_PRODUCER)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._ring is not None:
            if kind is None:
                self.commit()
            else:
                self.abandon()

    def __del__(self) -> None:
        if getattr(self, "_ring", None) is not None:
            self.abandon()


class Peeked(_Borrowed):
    """The next record. `view` is its memory, read-only."""

    __slots__ = ()

    def release(self) -> None:
        """It is done with: its room is the producer's."""
        ring = self._borrowed()
        self._hide()
        rc = ring._release()
        self._ring = None
        if rc < 0:
            raise ring._failed(rc, _CONSUMER)

    def keep(self) -> None:
        """It stays: the next get is of it."""
        lib.cl_ring_rewind(self._borrowed()._core)
        self._give_up(_CONSUMER)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._ring is not None:
            if kind is None:
                self.release()
            else:
                self.keep()

    def __del__(self) -> None:
        if getattr(self, "_ring", None) is not None:
            self.keep()
