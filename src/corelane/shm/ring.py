"""Rings: bytes records of any size from one process to another, at the speed of the cache.

A Ring owns its Segment, a second mapping of the records, and, once it has put or got, that side of the ring: a lease
which ends with the process, however it ends. What never waits is C that keeps the GIL (csrc/python/fast_ring.c); what
waits lets it go.

A forked child has the object and none of its sides: it takes those that its parent has not.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass

from corelane._ffi import fast, ffi, lib
from corelane._values import integer, one_of
from corelane.errors import Closed, Corrupted, PeerDied, QueueEmpty, QueueFull, ShmError, SideTaken, shm_failed
from corelane.shm.looping import Bell, Bells, until
from corelane.shm.records import listed, room_for, rows_of
from corelane.shm.ring_claims import Peeked, Reserved
from corelane.shm.segment import _HUGE, Handle, Segment, passed_on
from corelane.shm.shared import no_membarrier, open_core, wants_membarrier
from corelane.shm.spin import spin_ns
from corelane.shm.waiting import Waitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from typing import Any, Self

    import numpy as np
    from numpy.typing import DTypeLike

    from corelane.shm.segment import HasFileno

__all__ = ["Peeked", "Reserved", "Ring", "RingStats", "SideStats"]

_PRODUCER, _CONSUMER = lib.CL_RING_PRODUCER, lib.CL_RING_CONSUMER
_LARGEST = 2**40  # of csrc/ring.c
_SIDES = {"producer": _PRODUCER, "consumer": _CONSUMER}
_NAMES = ("producer", "consumer")
_POLICIES = ("block", "fail", "drop-new")
_any_size = integer(0, 2**62)
_AGAIN, _UNTAKEN, _TIMEOUT, _DIED, _SIGNAL = (
    -errno.EAGAIN,
    -errno.ENOTCONN,
    -errno.ETIMEDOUT,
    -errno.EOWNERDEAD,
    -errno.EINTR,
)

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_ring.c
        def put(self, data: Any, timeout: float | None = None) -> None: ...
        def put_nowait(self, data: Any) -> None: ...
        def get(self, timeout: float | None = None) -> bytes: ...
        def get_nowait(self) -> bytes: ...
        def _put_some(self, items: list[Any], first: int) -> int: ...
        def _put_records(self, buffer: Any, size: int, first: int) -> int: ...
        def _get_some(self, most: int) -> list[bytes] | int: ...
        def _get_records(self, buffer: Any, size: int) -> int: ...
        def _reserve(self, size: int) -> memoryview | int: ...
        def _peek(self) -> memoryview | int: ...
        def _let_go(self, side: int) -> None: ...
        def _never_wait(self) -> None: ...
        def _holds(self, side: int) -> bool: ...
        def _commit(self, size: int) -> int: ...
        def _release(self) -> int: ...
        def _take_side(self, side: int) -> int: ...
        def _bell(self, side: int) -> int: ...
        def _silence(self, side: int, /) -> int: ...
        def _arm(self, side: int, size: int) -> int: ...
        def _leave(self) -> None: ...
        def _bind(self, address: int, owner: object, kept: type) -> None: ...

else:
    _Calls = fast.RingCalls


@dataclass(frozen=True, slots=True)
class SideStats:
    """One side of a ring. `state`: "free" (nobody yet), "open", "closed" or "dead"; `pid` is who has, or had, it."""

    records: int
    bytes: int
    waits: int
    wakes: int
    state: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class RingStats:
    """`depth`: bytes in the ring now, headers included; `most`: as found by either side when it looked; `dropped`:
    records that found no room, by the producer's policy."""

    capacity: int
    depth: int
    most: int
    producer: SideStats
    consumer: SideStats
    dropped: int


class Ring(Bells, _Calls):
    """A ring, made by `create` or `attach`. One handle puts, one gets, in whatever processes; the first `put` and the
    first `get` of a handle take that side, and another handle that tries meanwhile is refused (SideTaken).

    A context manager and, for its consumer, an iterator: it ends when the producer closes.
    """

    __slots__ = ("__weakref__", "_bells", "_core", "_policy", "_segment", "_spin")

    _bells: dict[int, Bell]
    _core: Any
    _policy: str
    _segment: Segment
    _spin: float | None

    # ---- making and attaching ----

    @classmethod
    def create(
        cls,
        capacity: int,
        name: str | None = None,
        *,
        policy: str = "block",
        spin: float | None = None,
        membarrier: bool = False,
        **options: Any,
    ) -> Self:
        """Make one, empty.

        Args:
            capacity: bytes of records and their headers (8 bytes each, and each record begins at a multiple of 8);
                rounded up to a power of two, and to a page. A record has at most 8 bytes less.
            name: what another program attaches it by. None: it has none, and is passed on.
            policy: of this handle: what putting into a full ring means: "block", "fail", "drop-new". What is dropped is
                counted. (The oldest are the consumer's: only that can drop them.)
            spin: seconds that a wait looks before it sleeps, at most (0.1 is the most); 0: none. None:
                `default_spin()`. Where arrivals are rarer than that it sleeps at once by itself.
            membarrier: putting and getting cost some ns less, and going to sleep some microseconds more, by which all
                processes with such objects that run then are interrupted: for where nobody sleeps often. It holds for
                all who attach it. Linux only.
            options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

        Returns:
            The ring; it has neither side yet.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. NotSupported: no membarrier here.
            ValueError, TypeError.
        """
        one_of("policy", policy, _POLICIES)
        about = ffi.new("cl_ring_about *")
        ns = spin_ns("spin", spin)
        size = integer(1, _LARGEST)("capacity", capacity)
        shift = _HUGE.get(options.get("huge_pages") or "", 0)
        lib.cl_ring_describe(size, shift, about)
        about.flags = lib.CL_RING_MEMBARRIER if wants_membarrier(membarrier) else 0
        segment = Segment()
        segment._create(
            about.size,
            name,
            lib.CL_SEGMENT_RING,
            about=bytes(ffi.buffer(about)),
            layout=lib.CL_RING_LAYOUT,
            **options,
        )
        return cls._of(segment, ns, spin, policy, populate=bool(options.get("populate")))

    @classmethod
    def attach(
        cls,
        target: str | int | HasFileno | Handle | Ring,
        *,
        policy: str = "block",
        readonly: bool = False,
        spin: float | None = None,
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or a Ring of it.
            readonly: it can only be looked at: `stats()`.
            policy, spin: as in `create`, of this handle.

        Raises:
            ShmFailed: there is none of that name, no permission. Corrupted: it is no ring, or what it says of itself is
                not so. NotSupported: it was made with membarrier, and there is none here. ValueError, TypeError.
        """
        one_of("policy", policy, _POLICIES)
        ns = spin_ns("spin", spin)
        segment = Segment()
        segment._attach(target, lib.CL_SEGMENT_RING, readonly)
        return cls._of(segment, ns, spin, policy)

    @classmethod
    def _of(cls, segment: Segment, ns: int, spin: float | None, policy: str, populate: bool = False) -> Self:
        core = open_core(segment, lib.cl_ring_open, "cl_ring", lib.cl_ring_free, populate)
        ring = cls.__new__(cls)
        ring._bells, ring._segment, ring._spin, ring._policy = {}, segment, spin, policy
        ring._bind(int(ffi.cast("uintptr_t", core)), core, fast.Kept)
        if policy != "block":
            ring._never_wait()
        ring._core = core  # from here on it is closed when it goes
        lib.cl_ring_set_spin(ring._core, ns)
        ring._close_at_the_end()
        return ring

    # ---- what it is ----

    @property
    def capacity(self) -> int:
        """Bytes of records and their headers."""
        return int(self._report().capacity)

    @property
    def policy(self) -> str:
        """What putting into a full ring means."""
        return self._policy

    @property
    def largest(self) -> int:
        """Bytes of the largest record."""
        return int(self._report().largest)

    @property
    def membarrier(self) -> bool:
        """Whether it was made with `membarrier`."""
        return bool(self._report().has_membarrier)

    @property
    def predecessors(self) -> dict[str, int]:
        """{"producer": pid}, {"consumer": pid}: who had the sides of this handle before it and died over them. What a
        dead producer had put is in the ring, what it was about to put is not; what a dead consumer had got is gone."""
        died = self._report().died
        return {name: int(died[side]) for name, side in _SIDES.items() if died[side]}

    def fileno(self) -> int:
        """A descriptor for selectors and event loops: of the consumer's side, which is taken now, or of the producer's,
        if this handle has put and never got.

        It is readable at first, and from when `get_nowait` (or `put_nowait`) has raised QueueEmpty (QueueFull) until
        there may be something (or room): so go on until one raises. It does not tell of a death, nor of what a process
        of another user does: look every 100 ms or so.
        """
        report = self._report()
        side = _PRODUCER if report.taken[_PRODUCER] and not report.taken[_CONSUMER] else _CONSUMER
        return self._poll_fd(side)

    def _poll_fd(self, side: int) -> int:
        fd = self._bell(side)
        if fd == _UNTAKEN:
            self._take(side)
            fd = self._bell(side)
        if fd < 0:
            raise self._failed(fd, side)
        return fd

    def stats(self) -> RingStats:
        """What has gone through it and who is there; any handle may ask, also a read-only one."""
        self._check_open()
        out = ffi.new("cl_ring_stats *")
        lib.cl_ring_stats_of(self._core, out)
        sides = []
        for side, tally in enumerate((out.producer, out.consumer)):
            held = out.held[side] != 0
            state = "closed" if out.closed[side] else "free" if not out.open[side] else "open" if held else "dead"
            pid = int(out.pids[side]) or None
            sides.append(
                SideStats(int(tally.records), int(tally.bytes), int(tally.waits), int(tally.wakes), state, pid)
            )
        return RingStats(int(out.capacity), int(out.depth), int(out.most), sides[0], sides[1], int(out.dropped))

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self._segment), self._spin, self._policy, self._segment.readonly)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        return f"<Ring{name} of {self.capacity} bytes{', closed' if self.closed else ''}>"

    def _report(self) -> Any:
        out = ffi.new("cl_ring_report *")
        lib.cl_ring_report_of(self._core, out)
        return out

    # ---- sides ----

    def take(self, side: str) -> int | None:
        """Become the "producer" or the "consumer" now, not only with the first put or get.

        Returns:
            The pid of whoever had that side and died over it, or None.

        Raises:
            SideTaken: somebody has it. ShmError: it was our parent's before we were forked.
        """
        if side not in _SIDES:
            raise ValueError(f"side must be 'producer' or 'consumer', not {side!r}")
        self._take(_SIDES[side])
        return self.predecessors.get(side)

    def _take(self, side: int) -> None:
        self._check_open()
        rc = self._take_side(side)
        if rc == -errno.EBUSY:
            pid = self._pid(side)
            raise SideTaken(f"{self!r} has a {_NAMES[side]}: process {pid}; a ring has one (a Queue many)", pid)
        if rc < 0:
            raise self._failed(rc, side)
        self._close_at_the_end()

    def _pid(self, side: int) -> int:
        out = ffi.new("cl_ring_stats *")
        lib.cl_ring_stats_of(self._core, out)
        return int(out.pids[side])

    # ---- waiting ----

    def _settle(self, rc: int, side: int, size: int, deadline: int | None, done: int = 0) -> None:
        """Do something about `rc`, so that trying again is of use, or raise. `deadline` None: do not wait."""
        if rc == _UNTAKEN:
            self._take(side)
            return
        if rc != _AGAIN:
            raise self._failed(rc, side, size)
        if deadline is None:
            self._heard(side)
            rc = self._arm(side, size)
            rc = (lib.cl_ring_look(self._core, side, size) if rc == -errno.EBADF else rc) or _TIMEOUT
        else:
            while (rc := lib.cl_ring_wait(self._core, side, size, deadline)) == _SIGNAL:
                continue  # a signal, whose handler has run; or a look whether one came unseen
        if rc == 1:
            return
        if rc == _TIMEOUT:
            raise self._too_late(side, size, done, deadline is not None)
        if rc != _UNTAKEN:  # another thread has left it
            raise self._failed(rc, side, size)

    def _too_late(self, side: int, size: int, done: int = 0, waited: bool = True) -> Exception:
        other = self._held_up(1 - side) if waited else ""  # who does not wait asks often, and wants it fast
        if side == _PRODUCER:
            return QueueFull(f"{self!r} had no room for {size} bytes in time{other}", done)
        return QueueEmpty(f"{self!r} had no record in time{other}")

    def _held_up(self, side: int) -> str:
        """By whom: a stopped one (SIGSTOP) is alive, too."""
        stats = self.stats()
        there = (stats.producer, stats.consumer)[side]
        if there.state != "open":
            return f": it has no {_NAMES[side]}"
        return f": its {_NAMES[side]}, process {there.pid}, is slow or stopped, and alive"

    def _failed(self, rc: int, side: int, size: int = 0) -> Exception:
        other = _NAMES[1 - side]
        if rc == -errno.EBADF:
            return ValueError(f"{self!r} was closed and cannot be used any more")
        if rc == _DIED:
            pid = self._pid(1 - side)
            state = "full" if side == _PRODUCER else "empty"
            return PeerDied(f"{self!r} is {state}, and its {other}, process {pid}, has died without closing it", pid)
        if rc == -errno.EPIPE:
            more = "nobody will get what is put" if side == _PRODUCER else "all that it had put was got"
            return Closed(f"the {other} of {self!r} has closed it: {more}")
        if rc == -errno.EMSGSIZE:
            largest = self.largest
            return ValueError(f"a record of {size} bytes never fits into {self!r}: the largest has {largest}")
        if rc == -errno.ESTALE:
            return ShmError(
                f"this process was forked after {self!r} had become the {_NAMES[side]} in its parent: "
                "attach the ring anew, when the parent has closed its own"
            )
        if rc == -errno.EBADMSG:
            report = self._report()
            found, expected = int(report.found), int(report.expected)
            why = {
                lib.CL_RING_DISTANCE: f"its head and tail are {found} bytes apart",
                lib.CL_RING_ALIGNMENT: f"its head or tail is {found}, which is no multiple of 8",
                lib.CL_RING_LENGTH: f"a record says that it has {found} bytes, where there are {expected}",
            }.get(report.fault, f"fault {report.fault}")
            return Corrupted(f"{self!r} was written to by a stranger: {why}; this handle is of no use any more")
        if rc == -errno.EACCES:
            return shm_failed(errno.EACCES, f"{self!r} was attached read-only, or its permissions are")
        if rc == -errno.ENOSYS:
            return no_membarrier(repr(self))
        return shm_failed(-rc, f"{self!r}: {os.strerror(-rc)}")

    def _waitables(self) -> list[Waitable]:
        def fill(out: Any) -> None:
            while (rc := lib.cl_ring_waitable(self._core, _CONSUMER, 0, out)) == _UNTAKEN:
                self._take(_CONSUMER)
            if rc < 0:
                raise self._failed(rc, _CONSUMER)

        def arm() -> None:
            self._arm(_CONSUMER, 0)  # what it finds wrong is for the get that follows

        self._check_open()
        return [Waitable(fill, lambda: self._bell_of(_CONSUMER), arm, self)]

    # ---- putting ----

    def _put_later(self, rc: int, data: Any, timeout: Any) -> None:
        deadline = None if timeout is False else self._patience(timeout)
        one = [data]
        # The size is asked for each time: a bytearray may grow meanwhile, and there would be room for what it was.
        while rc < 0 and not self._dropped(rc, memoryview(data).nbytes):
            self._settle(rc, _PRODUCER, memoryview(data).nbytes, deadline)
            rc = self._put_some(one, 0)

    def _patience(self, timeout: float | None) -> int | None:
        """The deadline of a put, checked also where the policy is not to wait."""
        deadline = self._deadline(timeout)
        return deadline if self._policy == "block" else None

    def _dropped(self, rc: int, size: int) -> bool:
        """Whether a record that finds no room is done with, by our policy. If nobody will ever make room, it is not."""
        if rc != _AGAIN or self._policy != "drop-new" or lib.cl_ring_look(self._core, _PRODUCER, size) != 0:
            return False
        lib.cl_ring_note_drops(self._core, 1)
        return True

    def put_many(self, records: Iterable[Any], timeout: float | None = None) -> None:
        """Put all of them, in order; the consumer sees as many at once as there was room for.

        Args:
            records: bytes or buffers.
            timeout: seconds for all of them.

        Raises:
            QueueFull: the time is over; its `done` is how many were put. As `put`.
        """
        items = listed("put_many", records)
        deadline = self._patience(timeout)
        done = 0
        while done < len(items):
            rc = self._put_some(items, done)
            if rc < 0 and self._dropped(rc, memoryview(items[done]).nbytes):
                done += 1
            elif rc < 0:
                self._settle(rc, _PRODUCER, memoryview(items[done]).nbytes, deadline, done)
            else:
                done += rc

    def records_in(self, array: np.ndarray[Any, Any], timeout: float | None = None) -> None:
        """Put each element along the first axis of a numpy array as a record.

        Args:
            array: of any dtype without Python objects, structured ones too. What is not contiguous is copied first.
            timeout: seconds for all of them.

        Raises:
            QueueFull: the time is over; its `done` is how many were put. As `put`.
        """
        flat, deadline = rows_of(array), self._patience(timeout)
        size = flat.shape[1]
        done = 0
        while done < len(flat):
            rc = self._put_records(flat, size, done)
            if rc < 0 and self._dropped(rc, size):
                done += 1
            elif rc < 0:
                self._settle(rc, _PRODUCER, size, deadline, done)
            else:
                done += rc

    def reserve(self, size: int, timeout: float | None = None) -> Reserved:
        """Room for a record in the ring itself, to be written where the consumer will read it.

            with ring.reserve(1000) as view:    # a memoryview
                view[:5] = b"hello"             # committed at the end of the block; not at all if it raises

        Args:
            size: bytes; `commit(fewer)` of what is returned puts fewer of them.
            timeout: seconds to wait for the room, whatever the policy.
        """
        if type(size) is not int or not 0 <= size < 2**62:  # a call less where all is well
            _any_size("size", size)
        deadline = -1 if timeout is None else self._deadline(timeout)
        held = self._holds(_PRODUCER)
        while True:
            try:
                found = self._reserve(size)
                if not isinstance(found, int):
                    return Reserved(self, found)
            except BaseException:
                # A signal's, after it was ours. What another thread holds, or this one has before, stays held.
                if not held and self._holds(_PRODUCER):
                    self._let_go(_PRODUCER)
                raise
            self._settle(found, _PRODUCER, size, deadline)

    # ---- getting ----

    def _get_later(self, rc: int, timeout: Any, unused: object) -> bytes:
        deadline = None if timeout is False else self._deadline(timeout)
        while True:
            self._settle(rc, _CONSUMER, 0, deadline)
            found = self._get_some(1)
            if not isinstance(found, int):
                return found[0]
            rc = found

    def get_many(self, most: int, timeout: float | None = None) -> list[bytes]:
        """Wait for a record, and get all there are by then.

        Args:
            most: of them, at least 1.
            timeout: seconds to wait for the first.

        Returns:
            At least one.

        Raises:
            As `get`.
        """
        integer(1, sys.maxsize)("most", most)
        deadline = self._deadline(timeout)
        while True:
            found = self._get_some(most)
            if not isinstance(found, int):
                return found
            self._settle(found, _CONSUMER, 0, deadline)

    def records_out(self, dtype: DTypeLike, most: int, timeout: float | None = None) -> np.ndarray[Any, Any]:
        """Wait for a record, and get all of that size there are by then, as an array.

        Args:
            dtype: of one record; without Python objects.
            most: of them, at least 1; so much memory is allocated.
            timeout: seconds to wait for the first.

        Returns:
            An array of its own of at least one element; it ends before a record of another size.

        Raises:
            ValueError: the first record has another size: it stays where it is. As `get`.
        """
        made, deadline = room_for(dtype, most), self._deadline(timeout)
        flat = made.view("u1")
        while (rc := self._get_records(flat, made.itemsize)) < 0:
            self._settle(rc, _CONSUMER, 0, deadline)
        return made[:rc]

    def peek(self, timeout: float | None = None) -> Peeked:
        """The next record where it lies.

            with ring.peek() as view:           # a read-only memoryview
                use(view)                       # its room is the producer's at the end; if it raises, the record stays

        A producer that means harm can change it while it is read: copy what something is decided by.
        """
        deadline = -1 if timeout is None else self._deadline(timeout)
        held = self._holds(_CONSUMER)
        while True:
            try:
                found = self._peek()
                if not isinstance(found, int):
                    return Peeked(self, found)
            except BaseException:
                if not held and self._holds(_CONSUMER):  # as in reserve
                    lib.cl_ring_rewind(self._core)
                    self._let_go(_CONSUMER)
                raise
            self._settle(found, _CONSUMER, 0, deadline)

    def __iter__(self) -> Iterator[bytes]:
        """Its records, until the producer closes."""
        while True:
            try:
                found = self.get()
            except Closed:
                return
            yield found

    # ---- under an event loop ----

    async def aput(self, data: Any, timeout: float | None = None) -> None:
        """`put`, for an event loop: no thread, no polling while nothing happens."""
        if self._policy != "block":
            self.put(data, timeout)
            return
        size, one = memoryview(data).nbytes, [data]
        await self._until(lambda: self._put_some(one, 0), _PRODUCER, size, timeout)

    async def aget(self, timeout: float | None = None) -> bytes:
        """`get`, for an event loop: no thread, no polling while nothing happens."""
        found: list[bytes] = await self._until(lambda: self._get_some(1), _CONSUMER, 0, timeout)
        return found[0]

    async def _until(self, call: Callable[[], Any], side: int, size: int, timeout: float | None) -> Any:
        def attempt() -> Any:
            while (found := call()) == _UNTAKEN:
                self._take(side)
            if isinstance(found, int) and found < 0 and found != _AGAIN:
                raise self._failed(found, side, size)
            return None if found == _AGAIN else found

        def arm() -> None:
            rc = self._arm(side, size)
            if rc < 0:
                raise self._failed(rc, side, size)

        found = await until(attempt, [(self._bell_of(side), arm)], self._deadline(timeout))
        if found is None:
            raise self._too_late(side, size)
        return found

    def _forked(self) -> None:
        super()._forked()
        for side in _SIDES.values():
            self._let_go(side)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its records, until the producer closes."""
        while True:
            try:
                found = await self.aget()
            except Closed:
                return
            yield found


def _attached(cls: type[Ring], passed: Any, spin: float | None, policy: str, readonly: bool) -> Ring:
    return cls.attach(passed, spin=spin, policy=policy, readonly=readonly)
