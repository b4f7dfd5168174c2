"""Queues: records of many producers to many consumers, which nobody's death can stop.

A Queue owns its Segment, and the place of one participant in it: a lease that ends with the process, however it ends.
What never waits is C that keeps the GIL (csrc/python/fast_queue.c). Any thread of a process may use its Queue.

Putting and getting are attempts, which are repeated until they succeed: between two of them a
thread waits in C, which lets the GIL go, and a task in its loop (looping.py).

A forked child has the object and no place: it is refused until it calls `register`. Deliberately not here: PeerDied. A
death is nobody's error in a queue: what the dead one held is recovered, and `stats` tells of it.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass

from corelane._ffi import fast, ffi, lib
from corelane._values import integer, one_of
from corelane.errors import Closed, Corrupted, NotSupported, QueueEmpty, QueueFull, ShmError, shm_failed
from corelane.shm.claims import Claimed, Peeked, Reserved
from corelane.shm.looping import Bell, Bells, until
from corelane.shm.records import listed, room_for, rows_of
from corelane.shm.segment import Handle, Segment, passed_on
from corelane.shm.shared import no_membarrier, open_core, wants_membarrier
from corelane.shm.spin import spin_ns
from corelane.shm.waiting import Waitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from typing import Any, Self, TypeVar

    import numpy as np
    from numpy.typing import DTypeLike

    from corelane.shm.segment import HasFileno

    T = TypeVar("T")

__all__ = ["Peeked", "Queue", "QueueStats", "Reserved"]

_POLICIES = ("block", "fail", "drop-new", "drop-old")
_DELIVERIES = {"at-least-once": 0, "at-most-once": lib.CL_QUEUE_AT_MOST_ONCE}
_STATES = ("EMPTY", "WRITING", "FULL", "READING", "TOMBSTONE", "ORPHAN")
_AGAIN, _CLOSED, _TOO_LARGE = -errno.EAGAIN, -errno.EPIPE, -errno.EMSGSIZE
_TIMEOUT, _SIGNAL = -errno.ETIMEDOUT, -errno.EINTR
_NEVER = 0  # as a deadline: it is not waited at all
_FOR_RECORD, _FOR_ROOM = lib.CL_QUEUE_FOR_RECORD, lib.CL_QUEUE_FOR_ROOM
_SIDES = {"consumer": _FOR_RECORD, "producer": _FOR_ROOM}
_DROP_PATIENCE = 0.01  # seconds that a put which drops waits for one who is just working on the slot in its way

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_queue.c
        def put(self, data: Any, timeout: float | None = None) -> None: ...
        def put_nowait(self, data: Any) -> None: ...
        def get(self, timeout: float | None = None) -> bytes: ...
        def get_nowait(self) -> bytes: ...
        def _put_some(self, items: list[Any], first: int) -> int: ...
        def _get_some(self, most: int) -> list[bytes] | int: ...
        def _put_records(self, buffer: Any, size: int, first: int) -> int: ...
        def _get_records(self, buffer: Any, size: int, first: int) -> int: ...
        def _reserve(self, address: int) -> int: ...
        def _commit(self, address: int, size: int) -> int: ...
        def _cancel(self, address: int) -> int: ...
        def _peek(self, address: int) -> int: ...
        def _release(self, address: int) -> int: ...
        def _give_back(self, address: int) -> int: ...
        def _bell(self, what: int) -> int: ...
        def _silence(self, what: int, /) -> int: ...
        def _arm(self, what: int) -> int: ...
        def _join(self) -> int: ...
        def _leave(self) -> None: ...
        def _bind(self, address: int, owner: object) -> None: ...

else:
    _Calls = fast.QueueCalls


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counted since the queue was made, over all who used it.

    `size` is what is in it now, with what a consumer has peeked at; `most` the largest size. `failed_puts` and
    `failed_gets` raised QueueFull and QueueEmpty. `recoveries` counts participants found dead, `last_dead` is the pid
    of the last one; `unfinished` are records that were never whole (their producers died or let go of them),
    `redelivered` those whose consumer died or gave them back; with at-most-once delivery these are `lost` instead.
    `members` is how many participate now.

    `put_waits` and `get_waits` are calls that did not succeed at once and waited (spinning counts), and have ended
    since, in vain or not; `mean_put_wait` and `mean_get_wait` the seconds from the first try of such a call to its end,
    on average (0.0: there was none). `wakes` is how often a put or a get woke somebody who slept or had armed a
    descriptor.
    """

    slots: int
    slot_size: int
    size: int
    most: int
    enqueued: int
    dequeued: int
    failed_puts: int
    failed_gets: int
    dropped_new: int
    dropped_old: int
    recoveries: int
    unfinished: int
    redelivered: int
    lost: int
    last_dead: int | None
    members: int
    shut: bool
    put_waits: int
    get_waits: int
    mean_put_wait: float
    mean_get_wait: float
    wakes: int


class Queue(Bells, _Calls):
    """A queue, made by `create` or `attach`. Each handle is a participant that may put and get.

    A context manager: leaving the block closes the handle. An iterator over its records, until it is shut and empty,
    and an asynchronous one.
    """

    __slots__ = ("__weakref__", "_bells", "_core", "_policy", "_segment", "_selected", "_spin")

    _bells: dict[int, Bell]
    _core: Any
    _segment: Segment
    _selected: set[int]  # what the program has asked a descriptor for
    _policy: str
    _spin: float | None

    # ---- making and attaching ----

    @classmethod
    def create(
        cls,
        slots: int,
        slot_size: int,
        name: str | None = None,
        *,
        members: int = 255,
        delivery: str = "at-least-once",
        policy: str = "block",
        spin: float | None = None,
        membarrier: bool = False,
        **options: Any,
    ) -> Self:
        """Make one, empty.

        Args:
            slots: how many records it holds; rounded up to a power of two.
            slot_size: bytes that a record may have.
            name: what another program attaches it by. None: it has none, and is passed on.
            members: how many handles there may be at once, 1 to 4095.
            delivery: what becomes of a record whose consumer dies between taking it and being done with it:
                "at-least-once": another one gets it (perhaps a second time), "at-most-once": it is lost.
            policy: of this handle: what putting into a full queue means: "block", "fail", "drop-new", "drop-old". What
                is dropped is counted.
            spin: seconds that a wait of this handle looks before it sleeps, at most (0.1 is the most); 0: none. None:
                `default_spin()`. Where arrivals are rarer than that it sleeps at once by itself.
            membarrier: putting and getting cost some ns less, and going to sleep some microseconds more, by which all
                processes with such objects that run then are interrupted: for where nobody sleeps often. It holds for
                all who attach it. Linux only.
            options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. NotSupported: no membarrier here.
            ValueError, TypeError.
        """
        plan = cls._planned(slots, slot_size, members, delivery, membarrier)
        return cls._created(plan, name, policy, spin, options)

    @staticmethod
    def _planned(slots: int, slot_size: int, members: int, delivery: str, membarrier: bool) -> Any:
        plan = ffi.new("cl_queue_plan *")
        plan.slots = integer(1, lib.CL_QUEUE_SLOTS)("slots", slots)
        plan.slot_size = integer(1, 2**30)("slot_size", slot_size)
        plan.members = integer(1, lib.CL_QUEUE_MEMBERS)("members", members)
        if delivery not in _DELIVERIES:
            raise ValueError(f"delivery must be one of {', '.join(_DELIVERIES)}, not {delivery!r}")
        plan.flags = _DELIVERIES[delivery] | (lib.CL_QUEUE_MEMBARRIER if wants_membarrier(membarrier) else 0)
        return plan

    @classmethod
    def _created(cls, plan: Any, name: str | None, policy: str, spin: float | None, options: dict[str, Any]) -> Self:
        one_of("policy", policy, _POLICIES)
        ns, whole = spin_ns("spin", spin), ffi.new("cl_segment_plan *")
        slots, size = int(plan.slots), int(plan.slot_size)
        if lib.cl_queue_describe(plan, whole) < 0:
            raise ValueError(f"{slots} slots of {size} bytes are more than any machine has")
        segment = Segment()
        about = bytes(ffi.buffer(plan))
        segment._create(whole.size, name, lib.CL_SEGMENT_QUEUE, about=about, layout=whole.layout, **options)
        return cls._of(segment, policy, ns, spin)

    @classmethod
    def attach(
        cls,
        target: str | int | HasFileno | Handle | Queue,
        *,
        policy: str = "block",
        spin: float | None = None,
        readonly: bool = False,
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or a Queue of it.
            policy, spin: as in `create`, of this handle.
            readonly: it can only be looked at: `stats()`.

        Raises:
            ShmFailed: there is none of that name, no permission. ShmError: it has `members` participants already.
            Corrupted: it is no queue, or what it says of itself is not so. NotSupported: it was made with membarrier,
            and there is none here. ValueError, TypeError.
        """
        one_of("policy", policy, _POLICIES)
        ns = spin_ns("spin", spin)
        segment = Segment()
        segment._attach(target, lib.CL_SEGMENT_QUEUE, readonly)
        return cls._of(segment, policy, ns, spin)

    @classmethod
    def _of(cls, segment: Segment, policy: str, ns: int, spin: float | None) -> Self:
        core = open_core(segment, lib.cl_queue_open, "cl_queue", lib.cl_queue_free)
        queue = cls.__new__(cls)
        queue._bells, queue._selected, queue._policy, queue._spin = {}, set(), policy, spin
        queue._segment = segment
        queue._bind(int(ffi.cast("uintptr_t", core)), core)
        queue._core = core  # from here on it is closed when it goes
        lib.cl_queue_set_spin(core, ns)
        if not segment.readonly:
            try:
                queue.register()
            except BaseException:
                queue.close()
                raise
        return queue

    def register(self) -> None:
        """Become a participant: what a forked child does with the queue of its parent before it uses it.

        Raises:
            ShmError: there are `members` participants already, and all of them live.
        """
        self._check_open()
        rc = self._join()
        if rc == -errno.EUSERS:
            most = int(self._plan().members)
            raise ShmError(f"{self!r} has {most} participants, all alive: create it with more members, or close some")
        if rc == -errno.ENOTSUP:
            raise NotSupported(f"{self!r}: this platform has no leases, which say who is alive")
        if rc < 0:
            raise self._failed(rc)
        self._close_at_the_end()

    # ---- what it is ----

    @property
    def slots(self) -> int:
        """How many records it holds."""
        return int(self._plan().slots)

    @property
    def slot_size(self) -> int:
        """Bytes that a record may have."""
        return int(self._plan().slot_size)

    @property
    def policy(self) -> str:
        """What putting into a full queue means."""
        return self._policy

    @property
    def membarrier(self) -> bool:
        """Whether it was made with `membarrier`."""
        return bool(self._plan().flags & lib.CL_QUEUE_MEMBARRIER)

    def stats(self) -> QueueStats:
        """What has gone through it; looks at every slot. Any handle may ask, also a read-only one."""
        self._check_open()
        out = self._report()
        counts: dict[str, Any] = {name: int(getattr(out, name, 0)) for name in QueueStats.__slots__}
        counts.update(members=int(out.joined), shut=bool(out.shut), last_dead=int(out.last_dead) or None)
        counts["mean_put_wait"] = int(out.put_waited_ns) / max(1, int(out.put_waits)) / 1e9
        counts["mean_get_wait"] = int(out.get_waited_ns) / max(1, int(out.get_waits)) / 1e9
        counts["wakes"] = int(out.put_wakes) + int(out.get_wakes)
        return QueueStats(**counts)

    def fileno(self, side: str = "consumer") -> int:
        """A descriptor for selectors and event loops: of the "consumer" side, for records, or the "producer" side, for
        room.

        It is readable at first, and from when `get_nowait` (or `put_nowait`) has raised QueueEmpty (QueueFull) until
        there may be a record (or room): so go on until one raises. It does not tell of a death, nor of what a process
        of another user does: look every 100 ms or so. A handle is either for a selector or for tasks (`aget`).
        """
        if side not in _SIDES:
            raise ValueError(f"side must be 'producer' or 'consumer', not {side!r}")
        fd = self._poll_fd(_SIDES[side])
        self._selected.add(_SIDES[side])
        return fd

    def _poll_fd(self, bell: int, /) -> int:
        fd = self._bell(bell)
        if fd < 0:
            raise self._failed(fd)
        return fd

    @property
    def blocked_by(self) -> int | None:
        """After a QueueFull or QueueEmpty: the pid of the live participant in whose slot the others are held up, as it
        is at work or stopped (SIGSTOP, a debugger); -1 if that did not say its pid. None: it was simply full or
        empty."""
        return int(lib.cl_queue_blocked_by(self._core)) or None

    def recover(self) -> int:
        """Look now which participants have died, and recover what they held. Whoever waits does it by itself.

        Returns:
            How many.
        """
        self._check_open()
        rc = lib.cl_queue_recover(self._core)
        if rc < 0:
            raise self._failed(rc)
        return int(rc)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self._segment), self._policy, self._spin, self._segment.readonly)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        plan = self._plan()
        return f"<Queue{name} of {plan.slots} slots of {plan.slot_size} bytes{', closed' if self.closed else ''}>"

    def _plan(self) -> Any:
        out = ffi.new("cl_queue_plan *")
        lib.cl_queue_plan_of(self._core, out)
        return out

    def _report(self) -> Any:  # which reads every slot
        out = ffi.new("cl_queue_report *")
        lib.cl_queue_report_of(self._core, out)
        return out

    # ---- waiting ----

    def _deadline_of(self, timeout: Any) -> int:
        return _NEVER if timeout is False else self._deadline(timeout)

    def _until(self, attempt: Callable[[], T | None], what: int, deadline: int) -> T | None:
        """Try until it succeeds: what `attempt` returns; None: the time is over."""
        found = attempt()
        if found is not None or deadline == _NEVER:
            return found if found is not None else self._told(attempt, what)
        began = time.monotonic_ns()
        try:
            while True:
                in_time = self._wait(what, deadline)
                found = attempt()
                if found is not None or not in_time:
                    return found
        finally:
            lib.cl_queue_note_wait(self._core, what, time.monotonic_ns() - began)

    def _wait(self, what: int, deadline: int) -> bool:
        """Until trying again may be of use. False: the time is over."""
        while (rc := lib.cl_queue_wait(self._core, what, deadline)) == _SIGNAL:
            continue  # a signal, whose handler has run; or a look whether one came unseen
        if rc < 0 and rc != _TIMEOUT:
            raise self._failed(rc)
        return bool(rc != _TIMEOUT)

    def _told(self, attempt: Callable[[], T | None], what: int) -> T | None:
        """In vain: from now on a selector is told. What came before that is found by one more try."""
        if what not in self._selected:
            return None
        self._heard(what)
        self._arm_or_raise(what)
        return attempt()

    def _arm_or_raise(self, what: int) -> None:
        rc = self._arm(what)
        if rc < 0:
            raise self._failed(rc)

    def _waitable(self, what: int) -> Waitable:
        def fill(out: Any) -> None:
            rc = lib.cl_queue_waitable(self._core, what, out)
            if rc < 0:
                raise self._failed(rc)

        # What arming finds wrong is for the get that follows.
        return Waitable(fill, lambda: self._bell_of(what), lambda: self._arm(what), self)

    def _waitables(self) -> list[Waitable]:
        self._check_open()
        return [self._waitable(_FOR_RECORD)]

    async def _until_async(self, attempt: Callable[[], T | None], what: int, deadline: int) -> T | None:
        began = 0

        def tried() -> T | None:
            nonlocal began
            found = attempt()
            if found is None and not began:
                began = time.monotonic_ns()
            return found

        if deadline == _NEVER:
            return attempt()
        try:
            return await until(tried, [(self._bell_of(what), lambda: self._arm_or_raise(what))], deadline)
        finally:
            if began:
                lib.cl_queue_note_wait(self._core, what, time.monotonic_ns() - began)

    def _held_up(self) -> str:
        pid = self.blocked_by
        if pid is None:
            return ""
        who = f"process {pid}" if pid > 0 else "a participant of unknown pid"
        return f": {who} is at work on the next slot, or stopped, and alive"

    def _failed(self, rc: int, size: int = 0) -> Exception:
        self._check_open()
        if rc == _CLOSED:
            return Closed(f"{self!r} is shut: nothing more is put, and what was in it has been got")
        if rc == _TOO_LARGE:
            return ValueError(f"a record of {size} bytes does not fit into a slot of {self!r}: {self.slot_size} bytes")
        if rc == -errno.ESTALE:
            return self._use_after_fork()
        if rc == -errno.ENOSYS:
            return no_membarrier(repr(self))
        if rc in (-errno.EACCES, -errno.ENOTCONN):
            return self._not_a_member(rc)
        if rc == -errno.EBADMSG:
            out = self._report()
            word, index = int(out.fault_word), int(out.fault_index)
            state, owner = word >> 12 & 15, word & 4095
            named = _STATES[state] if state < len(_STATES) else f"state {state}"
            return Corrupted(
                f"{self!r} was written to by a stranger: slot {index} says {named}, lap {word >> 16}, owner {owner}, "
                "or a record larger than a slot"
            )
        return shm_failed(-rc, f"{self!r}: {os.strerror(-rc)}")

    # ---- putting ----

    def _put_later(self, rc: int, data: Any, timeout: Any) -> None:
        self._put(self._sending([data]), timeout)

    def put_many(self, records: Iterable[Any], timeout: float | None = None) -> None:
        """Put all of them, in order; those of others may come between.

        Args:
            records: bytes or buffers.
            timeout: seconds for all of them.

        Raises:
            QueueFull: the time is over; its `done` is how many were put. As `put`.
        """
        self._put(self._sending(listed("put_many", records)), timeout)

    def records_in(self, array: np.ndarray[Any, Any], timeout: float | None = None) -> None:
        """Put each element along the first axis of a numpy array as a record.

        Args:
            array: of any dtype without Python objects, structured ones too. What is not contiguous is copied first.
            timeout: seconds for all of them.

        Raises:
            QueueFull: the time is over; its `done` is how many were put. As `put`.
        """
        flat = rows_of(array)
        if len(flat):
            size = flat.shape[1]
            self._put(_Sending(self, lambda done: self._put_records(flat, size, done), flat), timeout)

    def _sending(self, items: list[Any]) -> _Sending:
        return _Sending(self, lambda done: self._put_some(items, done), items)

    def _put(self, sending: _Sending, timeout: Any) -> None:
        deadline = self._put_deadline(timeout)
        if self._until(sending.attempt, _FOR_ROOM, deadline) is None:
            raise self._full(sending.done)

    def _put_deadline(self, timeout: Any) -> int:
        deadline = self._deadline_of(timeout)
        return _NEVER if self._policy == "fail" else deadline

    def _full(self, done: int = 0) -> QueueFull:
        lib.cl_queue_note(self._core, lib.CL_QUEUE_FULL, 1)
        return QueueFull(f"{self!r} had no room in time{self._held_up()}", done)

    def _empty(self) -> QueueEmpty:
        lib.cl_queue_note(self._core, lib.CL_QUEUE_EMPTY, 1)
        return QueueEmpty(f"{self!r} had no record in time{self._held_up()}")

    def _drop(self, item: Any, patience: float) -> int:
        """Put it, or drop it. 1: done with. 0: a place was made, perhaps."""
        if self._policy == "drop-old" and self.blocked_by is None:
            found = self._get_some(1)
            if not isinstance(found, int):
                lib.cl_queue_note(self._core, lib.CL_QUEUE_DROPPED_OLD, len(found))
                return 0
        elif self._policy == "drop-old" and patience:  # dropping others would not help
            deadline = self._deadline(patience)
            while self._wait(_FOR_ROOM, deadline):
                if self._put_some([item], 0) == 1:
                    return 1
        lib.cl_queue_note(self._core, lib.CL_QUEUE_DROPPED_NEW, 1)
        return 1

    def reserve(self, *, timeout: float | None = None) -> Reserved:
        """A slot to be filled in place.

            with queue.reserve() as view:       # a memoryview of slot_size bytes
                view[:5] = b"hello"             # committed at the end of the block, all of it; not at all if it raises

        Those behind it in order wait until then. `commit(size)` of what is returned puts fewer bytes.

        Args:
            timeout: seconds to wait for room, whatever the policy.
        """
        made = Reserved(self)
        if self._claim(self._reserve, made, timeout, _FOR_ROOM) is None:
            raise self._full()
        made.view = self._map(made._claim)
        return made

    def _claim(self, call: Callable[[int], int], made: Claimed, timeout: float | None, what: int) -> bool | None:
        self._check_open()

        def attempt() -> bool | None:
            rc = call(made._address)
            if rc < 0 and rc != _AGAIN:
                raise self._failed(rc)
            return None if rc < 0 else True

        return self._until(attempt, what, self._deadline(timeout))

    def _map(self, claim: Any, readonly: bool = False) -> memoryview:
        return memoryview(fast.Kept(self._core, int(ffi.cast("uintptr_t", claim.data)), claim.size, readonly))

    # ---- getting ----

    def _get_later(self, rc: int, *unused: object) -> bytes:
        """C has not got one, and has waited if that was asked for."""
        if rc not in (_AGAIN, _TIMEOUT):
            raise self._failed(rc)
        return self._get_all(1, _NEVER)[0]

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
        return self._get_all(integer(1, sys.maxsize)("most", most), self._deadline(timeout))

    def _get_all(self, most: int, deadline: int) -> list[bytes]:
        found = self._until(lambda: self._got(self._get_some(most)), _FOR_RECORD, deadline)
        if found is None:
            raise self._empty()
        return found

    def _got(self, found: T | int) -> T | None:
        """What an attempt returns for what C did."""
        if not isinstance(found, int):
            return found
        if found != _AGAIN:
            raise self._failed(found)
        return None

    def records_out(self, dtype: DTypeLike, most: int, timeout: float | None = None) -> np.ndarray[Any, Any]:
        """Wait for a record, and get all of that size there are by then, as an array.

        Args:
            dtype: of one record; without Python objects.
            most: of them, at least 1; so much memory is allocated.
            timeout: seconds to wait for the first.

        Returns:
            An array of its own of at least one element; it ends before a record of another size.

        Raises:
            ValueError: the first record has another size: whoever gets next has it. As `get`.
        """
        made = room_for(dtype, most)
        flat, size = made.view("u1"), made.itemsize
        if size > self.slot_size:
            raise ValueError(f"no record of {self!r} has {size} bytes, as those of {made.dtype}")

        def attempt() -> int | None:
            done = 0
            while done < len(made):
                try:
                    rc = self._get_records(flat, size, done)
                except ValueError:  # of another size
                    if done:
                        break
                    raise
                if rc < 0:
                    return done or self._got(rc)
                done += rc
            return done

        found = self._until(attempt, _FOR_RECORD, self._deadline(timeout))
        if found is None:
            raise self._empty()
        return made[:found]

    def peek(self, timeout: float | None = None) -> Peeked:
        """The next record where it lies: ours until we are done with it, or die.

            with queue.peek() as view:          # a read-only memoryview
                work(view)                      # done with at the end of the block; for another one if it raises

        With at-least-once delivery this is how work survives whoever does it.
        """
        made = Peeked(self)
        if self._claim(self._peek, made, timeout, _FOR_RECORD) is None:
            raise self._empty()
        made.view = self._map(made._claim, readonly=True)
        return made

    def __iter__(self) -> Iterator[bytes]:
        """Its records, until it is shut and empty."""
        while True:
            try:
                found = self.get()
            except Closed:
                return
            yield found

    # ---- under an event loop ----

    async def aput(self, data: Any, timeout: float | None = None) -> None:
        """`put`, for an event loop: no thread, no polling while nothing happens."""
        sending = self._sending([data])
        sending.patience = 0.0
        if await self._until_async(sending.attempt, _FOR_ROOM, self._put_deadline(timeout)) is None:
            raise self._full()

    async def aget(self, timeout: float | None = None) -> bytes:
        """`get`, for an event loop: no thread, no polling while nothing happens."""
        deadline = self._deadline(timeout)
        found = await self._until_async(lambda: self._got(self._get_some(1)), _FOR_RECORD, deadline)
        if found is None:
            raise self._empty()
        return found[0]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its records, until it is shut and empty."""
        while True:
            try:
                found = await self.aget()
            except Closed:
                return
            yield found

    # ---- the end ----

    def shutdown(self) -> None:
        """No more is put, by anybody, for good; what is in it can still be got, then Closed is raised."""
        self._check_open()
        rc = lib.cl_queue_shut(self._core)
        if rc < 0:
            raise self._failed(rc)


class _Sending:
    """Records on their way into a queue.

    `put` puts some from the done-th on, and says how many, or the core's answer; `items` are what it puts.
    """

    __slots__ = ("_items", "_put", "_queue", "done", "patience")

    def __init__(self, queue: Queue, put: Callable[[int], int], items: Any) -> None:
        self._queue, self._put, self._items = queue, put, items
        self.done = 0
        self.patience = _DROP_PATIENCE

    def attempt(self) -> bool | None:
        """All of them, or what is left of them after the policy: True. None: it is full."""
        while self.done < len(self._items):
            rc = self._put(self.done)
            if rc > 0:
                self.done += rc
            elif rc != _AGAIN:
                raise self._queue._failed(rc, memoryview(self._items[self.done]).nbytes)
            elif self._queue._policy.startswith("drop"):
                self.done += self._queue._drop(self._items[self.done], self.patience)
            else:
                return None
        return True


def _attached(cls: type[Queue], passed: Any, policy: str, spin: float | None, readonly: bool) -> Queue:
    return cls.attach(passed, policy=policy, spin=spin, readonly=readonly)
