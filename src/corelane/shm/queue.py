"""Queues: records of many producers to many consumers, which nobody's death can stop.

A Queue owns its Segment, and the place of one participant in it: a lease that ends with the process, however it ends.
What never waits is C that keeps the GIL (csrc/python/fast_queue.c). Any thread of a process may use its Queue.

A forked child has the object and no place: it is refused until it calls `register`. Deliberately not here: PeerDied. A
death is nobody's error in a queue: what the dead one held is recovered, and `stats` tells of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from dataclasses import dataclass

from corelane._ffi import fast, ffi, lib
from corelane._values import integer
from corelane.errors import Closed, Corrupted, NotSupported, QueueEmpty, QueueFull, ShmError, shm_failed
from corelane.shm.segment import Handle, Segment
from corelane.shm.shared import Shared, open_core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Self

    from corelane.shm.segment import HasFileno

__all__ = ["Peeked", "Queue", "QueueStats", "Reserved"]

_POLICIES = ("block", "fail", "drop-new", "drop-old")
_DELIVERIES = {"at-least-once": 0, "at-most-once": lib.CL_QUEUE_AT_MOST_ONCE}
_STATES = ("EMPTY", "WRITING", "FULL", "READING", "TOMBSTONE", "ORPHAN")
_AGAIN, _CLOSED, _TOO_LARGE = -errno.EAGAIN, -errno.EPIPE, -errno.EMSGSIZE
# Seconds of a sleep: on a queue that is empty or full; and behind a slot that somebody is working on, who may die.
_SLEEP, _SHORT_SLEEP = 0.1, 0.001
_FOR_RECORD, _FOR_ROOM = lib.CL_QUEUE_FOR_RECORD, lib.CL_QUEUE_FOR_ROOM
_DROP_PATIENCE = 0.01  # seconds that a put which drops waits for one who is just working on the slot in its way

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_queue.c
        def put(self, data: Any, timeout: float | None = None) -> None: ...
        def put_nowait(self, data: Any) -> None: ...
        def get(self, timeout: float | None = None) -> bytes: ...
        def get_nowait(self) -> bytes: ...
        def _put_some(self, items: list[Any], first: int) -> int: ...
        def _get_some(self, most: int) -> list[bytes] | int: ...
        def _reserve(self, address: int) -> int: ...
        def _commit(self, address: int, size: int) -> int: ...
        def _cancel(self, address: int) -> int: ...
        def _peek(self, address: int) -> int: ...
        def _release(self, address: int) -> int: ...
        def _give_back(self, address: int) -> int: ...
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


class Queue(Shared, _Calls):
    """A queue, made by `create` or `attach`. Each handle is a participant that may put and get.

    A context manager: leaving the block closes the handle. An iterator over its records, until it is shut and empty.
    """

    __slots__ = ("__weakref__", "_core", "_policy", "_segment")

    _core: Any
    _segment: Segment
    _policy: str

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
            options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. ValueError, TypeError.
        """
        plan, whole = ffi.new("cl_queue_plan *"), ffi.new("cl_segment_plan *")
        plan.slots = integer(1, lib.CL_QUEUE_SLOTS)("slots", slots)
        plan.slot_size = integer(1, 2**30)("slot_size", slot_size)
        plan.members = integer(1, lib.CL_QUEUE_MEMBERS)("members", members)
        if delivery not in _DELIVERIES:
            raise ValueError(f"delivery must be one of {', '.join(_DELIVERIES)}, not {delivery!r}")
        plan.flags = _DELIVERIES[delivery]
        _check_policy(policy)
        if lib.cl_queue_describe(plan, whole) < 0:
            raise ValueError(f"{slots} slots of {slot_size} bytes are more than any machine has")
        segment = Segment()
        about = bytes(ffi.buffer(plan))
        segment._create(whole.size, name, lib.CL_SEGMENT_QUEUE, about=about, layout=whole.layout, **options)
        return cls._of(segment, policy)

    @classmethod
    def attach(
        cls, target: str | int | HasFileno | Handle | Queue, *, policy: str = "block", readonly: bool = False
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or a Queue of it.
            policy: as in `create`, of this handle.
            readonly: it can only be looked at: `stats()`.

        Raises:
            ShmFailed: there is none of that name, no permission. ShmError: it has `members` participants already.
            Corrupted: it is no queue, or what it says of itself is not so. ValueError, TypeError.
        """
        _check_policy(policy)
        segment = Segment()
        segment._attach(target.segment if isinstance(target, Queue) else target, lib.CL_SEGMENT_QUEUE, readonly)
        return cls._of(segment, policy)

    @classmethod
    def _of(cls, segment: Segment, policy: str) -> Self:
        core = open_core(segment, lib.cl_queue_open, "cl_queue", lib.cl_queue_free)
        queue = cls()
        queue._core, queue._segment, queue._policy = core, segment, policy
        queue._bind(int(ffi.cast("uintptr_t", core)), core)
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

    def stats(self) -> QueueStats:
        """What has gone through it; looks at every slot. Any handle may ask, also a read-only one."""
        self._check_open()
        out = self._report()
        counts: dict[str, Any] = {name: int(getattr(out, name, 0)) for name in QueueStats.__slots__}
        counts.update(members=int(out.joined), shut=bool(out.shut), last_dead=int(out.last_dead) or None)
        return QueueStats(**counts)

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
        return _attached, (type(self), self.handle, self._policy)

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

    def _waits(self, what: int, deadline: int) -> Iterator[None]:
        """Between two tries; ends when the time is over.

        A try after each announcement: what was published before it is found by the try, what comes after it ends the
        sleep (csrc/wake.h). Who dies wakes nobody: the try after a short sleep asks whether the one in the way lives.
        """
        while True:
            announced = lib.cl_queue_announce(self._core, what)
            yield
            left = _SLEEP if deadline < 0 else (deadline - time.monotonic_ns()) / 1e9
            if left <= 0:
                return
            span = min(left, _SLEEP if self.blocked_by is None else _SHORT_SLEEP)
            lib.cl_queue_sleep(self._core, what, announced, int(span * 1e9))

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
        if rc in (-errno.EACCES, -errno.ENOTCONN):
            return shm_failed(errno.EACCES, f"{self!r} was attached read-only: it can only be looked at")
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
        deadline = self._deadline(timeout)
        self._put_all([data], deadline, rc)

    def put_many(self, records: Iterable[Any], timeout: float | None = None) -> None:
        """Put all of them, in order; those of others may come between.

        Args:
            records: bytes or buffers.
            timeout: seconds for all of them.

        Raises:
            QueueFull: the time is over; its `done` is how many were put. As `put`.
        """
        self._put_all(list(records), self._deadline(timeout), 0)

    def _put_all(self, items: list[Any], deadline: int, rc: int) -> None:
        """All of `items`, or what is left of them after the policy. `rc`: what the first one has met already, or 0."""
        done, waits = 0, None
        while True:
            rc = rc or self._put_some(items, done) if done < len(items) else 0
            if rc > 0:
                done, rc, waits = done + rc, 0, None
                continue
            if done == len(items):
                return
            if rc != _AGAIN:
                raise self._failed(rc, memoryview(items[done]).nbytes)
            rc = 0
            if self._policy.startswith("drop"):
                done += self._drop(items[done])
                continue
            waits = waits or self._waits(_FOR_ROOM, 0 if self._policy == "fail" else deadline)
            if next(waits, self) is self:
                lib.cl_queue_note(self._core, lib.CL_QUEUE_FULL, 1)
                raise QueueFull(f"{self!r} had no room in time{self._held_up()}", done)

    def _drop(self, item: Any) -> int:
        """Put it, or drop it. 1: done with. 0: a place was made, perhaps."""
        if self._policy == "drop-old" and self.blocked_by is None:
            found = self._get_some(1)
            if not isinstance(found, int):
                lib.cl_queue_note(self._core, lib.CL_QUEUE_DROPPED_OLD, len(found))
                return 0
        elif self._policy == "drop-old":  # dropping others would not help
            for _ in self._waits(_FOR_ROOM, self._deadline(_DROP_PATIENCE)):
                if self._put_some([item], 0) == 1:
                    return 1
        lib.cl_queue_note(self._core, lib.CL_QUEUE_DROPPED_NEW, 1)
        return 1

    def reserve(self, timeout: float | None = None) -> Reserved:
        """A slot to be filled in place.

            with queue.reserve() as view:       # a memoryview of slot_size bytes
                view[:5] = b"hello"             # committed at the end of the block, all of it; not at all if it raises

        Those behind it in order wait until then. `commit(size)` of what is returned puts fewer bytes.

        Args:
            timeout: seconds to wait for room, whatever the policy.
        """
        made = Reserved(self)
        self._claim(self._reserve, made, timeout, lib.CL_QUEUE_FULL)
        made.view = self._map(made._claim)
        return made

    def _claim(self, call: Callable[[int], int], made: _Claimed, timeout: float | None, note: int) -> None:
        self._check_open()
        what = _FOR_ROOM if note == lib.CL_QUEUE_FULL else _FOR_RECORD
        waits = self._waits(what, self._deadline(timeout))
        while (rc := call(made._address)) < 0:
            if rc != _AGAIN:
                raise self._failed(rc)
            if next(waits, self) is self:
                lib.cl_queue_note(self._core, note, 1)
                if note == lib.CL_QUEUE_FULL:
                    raise QueueFull(f"{self!r} had no room in time{self._held_up()}")
                raise QueueEmpty(f"{self!r} had no record in time{self._held_up()}")

    def _map(self, claim: Any, readonly: bool = False) -> memoryview:
        return memoryview(fast.Kept(self._core, int(ffi.cast("uintptr_t", claim.data)), claim.size, readonly))

    # ---- getting ----

    def _get_later(self, rc: int, timeout: Any, unused: object) -> bytes:
        return self._get_all(1, self._deadline(timeout), rc)[0]

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
        return self._get_all(integer(1, sys.maxsize)("most", most), self._deadline(timeout), 0)

    def _get_all(self, most: int, deadline: int, rc: int) -> list[bytes]:
        waits = self._waits(_FOR_RECORD, deadline)
        while True:
            if not rc:
                found = self._get_some(most)
                if not isinstance(found, int):
                    return found
                rc = found
            if rc != _AGAIN:
                raise self._failed(rc)
            rc = 0
            if next(waits, self) is self:
                lib.cl_queue_note(self._core, lib.CL_QUEUE_EMPTY, 1)
                raise QueueEmpty(f"{self!r} had no record in time{self._held_up()}")

    def peek(self, timeout: float | None = None) -> Peeked:
        """The next record where it lies: ours until we are done with it, or die.

            with queue.peek() as view:          # a read-only memoryview
                work(view)                      # done with at the end of the block; for another one if it raises

        With at-least-once delivery this is how work survives whoever does it.
        """
        made = Peeked(self)
        self._claim(self._peek, made, timeout, lib.CL_QUEUE_EMPTY)
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

    # ---- the end ----

    def shutdown(self) -> None:
        """No more is put, by anybody, for good; what is in it can still be got, then Closed is raised."""
        self._check_open()
        rc = lib.cl_queue_shut(self._core)
        if rc < 0:
            raise self._failed(rc)


class _Claimed:
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


class Reserved(_Claimed):
    """A slot to be filled. `view` is its memory."""

    __slots__ = ()

    def commit(self, size: int | None = None) -> None:
        """It is a record: all of it, or its first `size` bytes."""
        if self._queue is None:
            raise ValueError("this record is done with")
        most = int(self._claim.size)
        self._end(Queue._commit, most if size is None else integer(0, most)("size", size))

    def cancel(self) -> None:
        """It is no record."""
        self._end(Queue._cancel)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._queue is not None:
            if kind is None:
                self.commit()
            else:
                self._drop(Queue._cancel)

    def __del__(self) -> None:
        if self._queue is not None:
            self._drop(Queue._cancel)


class Peeked(_Claimed):
    """A record. `view` is its memory, read-only."""

    __slots__ = ()

    def release(self) -> None:
        """It is dealt with."""
        self._end(Queue._release)

    def give_back(self) -> None:
        """It is for somebody else; with at-most-once delivery, for nobody."""
        self._end(Queue._give_back)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._queue is not None:
            if kind is None:
                self.release()
            else:
                self._drop(Queue._give_back)

    def __del__(self) -> None:
        if self._queue is not None:
            self._drop(Queue._give_back)


def _check_policy(policy: Any) -> None:
    if policy not in _POLICIES:
        raise ValueError(f"policy must be one of {', '.join(_POLICIES)}, not {policy!r}")


def _attached(cls: type[Queue], handle: Handle, policy: str) -> Queue:
    return cls.attach(handle, policy=policy)
