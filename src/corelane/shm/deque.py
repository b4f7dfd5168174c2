"""Deques: the owner pushes and pops records at one end, newest first; thieves take the oldest at the other.

A Deque owns its Segment, and the place of one participant in it: a lease that ends with the process, however it ends.
One participant at a time is the owner, the one that pushed or popped first; when it dies another one may take its
place, and what it had pushed is there. What never waits is C that keeps the GIL (csrc/python/fast_deque.c). Any thread
of a process may use its Deque.

A forked child has the object and no place: it is refused until it calls `register`. Deliberately not here: waiting for
room. An owner that has none is the one that can make some.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from dataclasses import dataclass

from corelane._ffi import fast, ffi, lib
from corelane._values import integer
from corelane.errors import Closed, Corrupted, NotSupported, QueueEmpty, QueueFull, ShmError, SideTaken, shm_failed
from corelane.shm.records import listed
from corelane.shm.segment import Handle, Segment, passed_on
from corelane.shm.shared import Claim, Shared, open_core
from corelane.shm.spin import spin_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Self

    from corelane.shm.segment import HasFileno

__all__ = ["Claimed", "Deque", "DequeStats", "Reserved"]

_DELIVERIES = {"at-least-once": 0, "at-most-once": lib.CL_DEQUE_AT_MOST_ONCE}
_STATES = ("EMPTY", "WRITING", "FULL", "READING", "TOMBSTONE", "ORPHAN", "POPPING")
_AGAIN, _CLOSED, _TOO_LARGE = -errno.EAGAIN, -errno.EPIPE, -errno.EMSGSIZE
_NO_OWNER, _RESERVED, _TAKEN = -errno.EPERM, -errno.EBUSY, -errno.EBUSY
_SIGNAL, _TIMEOUT = -errno.EINTR, -errno.ETIMEDOUT

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_deque.c
        def push(self, data: Any) -> None: ...
        def pop(self) -> bytes: ...
        def steal(self, timeout: float | None = None) -> bytes: ...
        def steal_nowait(self) -> bytes: ...
        def _push_some(self, items: list[Any], first: int) -> int: ...
        def _steal_some(self, most: int) -> list[bytes] | int: ...
        def _reserve(self, address: int) -> int: ...
        def _commit(self, address: int, size: int) -> int: ...
        def _cancel(self, address: int) -> int: ...
        def _claim_newest(self, address: int) -> int: ...
        def _claim_oldest(self, address: int) -> int: ...
        def _release(self, address: int) -> int: ...
        def _give_back(self, address: int) -> int: ...
        def _join(self) -> int: ...
        def _leave(self) -> None: ...
        def _own(self) -> int: ...
        def _disown(self) -> int: ...
        def _bind(self, address: int, owner: object) -> None: ...

else:
    _Calls = fast.DequeCalls


@dataclass(frozen=True, slots=True)
class DequeStats:
    """Counted since the deque was made, over all who used it.

    `size` is what is in it now, with what somebody works on; `most` the largest size. `failed_pushes` and
    `failed_takes` raised QueueFull and QueueEmpty. `recoveries` counts participants found dead, `last_dead` is the pid
    of the last one; `redelivered` are records whose taker died or gave them back; with at-most-once delivery these are
    `lost` instead.
    `owners` is how often somebody became the owner, `owner` its pid, `members` how many participate now.
    """

    slots: int
    slot_size: int
    size: int
    most: int
    pushed: int
    popped: int
    stolen: int
    failed_pushes: int
    failed_takes: int
    recoveries: int
    redelivered: int
    lost: int
    owners: int
    owner: int | None
    last_dead: int | None
    members: int
    shut: bool


class Deque(Shared, _Calls):
    """A work-stealing deque, made by `create` or `attach`. Each handle is a participant that may steal; the first that
    pushes or pops becomes the owner.

    A context manager: leaving the block closes the handle.
    """

    __slots__ = ("__weakref__", "_core", "_segment", "_spin")

    _core: Any
    _segment: Segment
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
        spin: float | None = None,
        **options: Any,
    ) -> Self:
        """Make one, empty, without an owner.

        Args:
            slots: how many records it holds; rounded up to a power of two.
            slot_size: bytes that a record may have.
            name: what another program attaches it by. None: it has none, and is passed on.
            members: how many handles there may be at once, 1 to 4095.
            delivery: what becomes of a record whose taker dies between taking it and being done with it:
                "at-least-once": another one gets it (perhaps a second time), "at-most-once": it is lost.
            spin: seconds that a wait looks before it sleeps, at most; 0: none. None: `default_spin()`.
            options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. ValueError, TypeError.
        """
        plan, whole = ffi.new("cl_deque_plan *"), ffi.new("cl_segment_plan *")
        plan.slots = integer(1, lib.CL_DEQUE_SLOTS)("slots", slots)
        plan.slot_size = integer(1, 2**30)("slot_size", slot_size)
        plan.members = integer(1, lib.CL_DEQUE_MEMBERS)("members", members)
        if delivery not in _DELIVERIES:
            raise ValueError(f"delivery must be one of {', '.join(_DELIVERIES)}, not {delivery!r}")
        plan.flags = _DELIVERIES[delivery]
        ns = spin_ns("spin", spin)
        if lib.cl_deque_describe(plan, whole) < 0:
            raise ValueError(f"{slots} slots of {slot_size} bytes are more than any machine has")
        segment = Segment()
        about = bytes(ffi.buffer(plan))
        segment._create(whole.size, name, lib.CL_SEGMENT_DEQUE, about=about, layout=whole.layout, **options)
        return cls._of(segment, ns, spin)

    @classmethod
    def attach(
        cls, target: str | int | HasFileno | Handle | Deque, *, readonly: bool = False, spin: float | None = None
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or a Deque of it.
            readonly: it can only be looked at: `stats()`.
            spin: as in `create`.

        Raises:
            ShmFailed: there is none of that name, no permission. ShmError: it has `members` participants already.
            Corrupted: it is no deque, or what it says of itself is not so. ValueError, TypeError.
        """
        ns = spin_ns("spin", spin)
        segment = Segment()
        segment._attach(target, lib.CL_SEGMENT_DEQUE, readonly)
        return cls._of(segment, ns, spin)

    @classmethod
    def _of(cls, segment: Segment, ns: int, spin: float | None) -> Self:
        core = open_core(segment, lib.cl_deque_open, "cl_deque", lib.cl_deque_free)
        deque = cls.__new__(cls)
        deque._segment, deque._spin = segment, spin
        deque._bind(int(ffi.cast("uintptr_t", core)), core)
        deque._core = core  # from here on it is closed when it goes
        lib.cl_deque_set_spin(core, ns)
        if not segment.readonly:
            try:
                deque.register()
            except BaseException:
                deque.close()
                raise
        return deque

    def register(self) -> None:
        """Become a participant: what a forked child does with the deque of its parent before it uses it.

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

    # ---- the owner ----

    def own(self) -> None:
        """Become the owner now, rather than at the first push or pop. If the owner has died this is its successor.

        Raises:
            SideTaken: another handle is the owner, and its process lives (perhaps stopped); `pid` is that.
        """
        self._check_open()
        rc = self._own()
        if rc == _TAKEN:
            pid = self.blocked_by or -1
            who = f"process {pid}" if pid > 0 else "a participant of unknown pid"
            raise SideTaken(f"{self!r} has an owner that lives, {who}: others can only steal", pid)
        if rc < 0:
            raise self._failed(rc)

    def disown(self) -> None:
        """Be the owner no more: another handle may become it. What this one works on stays its own."""
        self._check_open()
        rc = self._disown()
        if rc < 0 and rc != _NO_OWNER:
            raise self._failed(rc)

    @property
    def is_owner(self) -> bool:
        """Whether this handle is the owner."""
        return bool(self._report().is_owner)

    # ---- what it is ----

    @property
    def slots(self) -> int:
        """How many records it holds."""
        return int(self._plan().slots)

    @property
    def slot_size(self) -> int:
        """Bytes that a record may have."""
        return int(self._plan().slot_size)

    def stats(self) -> DequeStats:
        """What has gone through it; looks at every slot. Any handle may ask, also a read-only one."""
        self._check_open()
        out = self._report()
        counts: dict[str, Any] = {name: int(getattr(out, name, 0)) for name in DequeStats.__slots__}
        counts.update(members=int(out.joined), shut=bool(out.shut))
        counts.update(owner=int(out.owner) or None, last_dead=int(out.last_dead) or None)
        return DequeStats(**counts)

    @property
    def blocked_by(self) -> int | None:
        """After a QueueFull or QueueEmpty: the pid of the live participant that works on what could not be had, or is
        stopped (SIGSTOP, a debugger); -1 if that did not say its pid. None: it was simply full or empty."""
        return int(lib.cl_deque_blocked_by(self._core)) or None

    def recover(self) -> int:
        """Look now which participants have died, and recover what they held. Whoever waits does it by itself.

        Returns:
            How many.
        """
        self._check_open()
        rc = lib.cl_deque_recover(self._core)
        if rc < 0:
            raise self._failed(rc)
        return int(rc)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self._segment), self._spin, self._segment.readonly)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        plan = self._plan()
        return f"<Deque{name} of {plan.slots} slots of {plan.slot_size} bytes{', closed' if self.closed else ''}>"

    def _plan(self) -> Any:
        out = ffi.new("cl_deque_plan *")
        lib.cl_deque_plan_of(self._core, out)
        return out

    def _report(self) -> Any:  # which reads every slot
        out = ffi.new("cl_deque_report *")
        lib.cl_deque_report_of(self._core, out)
        return out

    # ---- what can be said of a failure ----

    def _held_up(self) -> str:
        pid = self.blocked_by
        if pid is None:
            return ""
        who = f"process {pid}" if pid > 0 else "a participant of unknown pid"
        return f": {who} is at work on a record, or stopped, and alive"

    def _full(self, done: int = 0) -> QueueFull:
        lib.cl_deque_note(self._core, lib.CL_DEQUE_FULL, 1)
        return QueueFull(f"{self!r} has no room{self._held_up()}", done)

    def _empty(self) -> QueueEmpty:
        lib.cl_deque_note(self._core, lib.CL_DEQUE_EMPTY, 1)
        return QueueEmpty(f"{self!r} had no record in time{self._held_up()}")

    def _failed(self, rc: int, size: int = 0) -> Exception:
        self._check_open()
        if rc == _CLOSED:
            return Closed(f"{self!r} is shut: nothing more is pushed, and what was in it has been taken")
        if rc == _TOO_LARGE:
            return ValueError(f"a record of {size} bytes does not fit into a slot of {self!r}: {self.slot_size} bytes")
        if rc == _RESERVED:
            return RuntimeError("a reserved record was not committed yet: leave its `with` block first")
        if rc == _NO_OWNER:
            return ShmError(f"{self!r} is not owned by this handle any more: call its own() first")
        if rc == -errno.ESTALE:
            return self._use_after_fork()
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

    # ---- the owner's end ----

    def _push_later(self, rc: int, data: Any, unused: object) -> None:
        self._push_all([data], rc)

    def push_many(self, records: Iterable[Any]) -> None:
        """Push all of them, in order: the last one is the newest.

        Args:
            records: bytes or buffers.

        Raises:
            QueueFull: there is no room for all; its `done` is how many were pushed. As `push`.
        """
        self._push_all(listed("push_many", records), 0)

    def _push_all(self, items: list[Any], rc: int) -> None:
        done = 0
        while True:
            rc = rc or (self._push_some(items, done) if done < len(items) else 0)
            done, rc = (done + rc, 0) if rc > 0 else (done, rc)
            if done == len(items):
                return
            if rc == _AGAIN:
                raise self._full(done)
            if rc < 0:
                self._as_owner(rc, memoryview(items[done]).nbytes)
                rc = 0

    def _as_owner(self, rc: int, size: int = 0) -> None:
        """Become the owner if that is all that is amiss; else raise."""
        if rc != _NO_OWNER:
            raise self._failed(rc, size)
        self.own()

    def _pop_later(self, rc: int, *unused: object) -> bytes:
        if rc == _AGAIN:
            raise self._empty()
        self._as_owner(rc)
        return self.pop()

    def reserve(self) -> Reserved:
        """The next slot, to be filled in place.

            with deque.reserve() as view:       # a memoryview of slot_size bytes
                view[:5] = b"hello"             # pushed at the end of the block, all of it; not at all if it raises

        Until then nothing else is pushed or popped. `commit(size)` of what is returned pushes fewer bytes.

        Raises:
            As `push`. RuntimeError: one is reserved already.
        """
        made = Reserved(self)
        while (rc := self._reserve(made._address)) < 0:
            if rc == _AGAIN:
                raise self._full()
            self._as_owner(rc)
        made.view = self._map(made._claim)
        return made

    def pop_claim(self) -> Claimed:
        """The newest record where it lies: ours until we are done with it, or die. More may be pushed meanwhile.

            with deque.pop_claim() as view:     # a read-only memoryview
                deque.push(part_of(view))       # done with at the end of the block; for another one if it raises

        With at-least-once delivery this is how work survives whoever does it.

        Raises:
            As `pop`.
        """
        made = Claimed(self)
        while (rc := self._claim_newest(made._address)) < 0:
            if rc == _AGAIN:
                raise self._empty()
            self._as_owner(rc)
        made.view = self._map(made._claim, readonly=True)
        return made

    def _map(self, claim: Any, readonly: bool = False) -> memoryview:
        return memoryview(fast.Kept(self._core, int(ffi.cast("uintptr_t", claim.data)), claim.size, readonly))

    # ---- the thieves' end ----

    def _wait(self, rc: int, deadline: int) -> None:
        """Until trying again is of use, or raise. `rc`: what the last try has met."""
        if rc != _AGAIN:
            raise self._failed(rc)
        while (rc := lib.cl_deque_wait(self._core, deadline)) == _SIGNAL:
            continue  # a signal, whose handler has run; or a look whether one came unseen
        if rc == _TIMEOUT:
            raise self._empty()
        if rc < 0:
            raise self._failed(rc)

    def _steal_later(self, rc: int, timeout: Any, unused: object) -> bytes:
        if timeout is False and rc == _AGAIN:
            raise self._empty()
        return self._steal_all(1, timeout, rc)[0]

    def steal_many(self, most: int, timeout: float | None = None) -> list[bytes]:
        """Wait for a record, and take all there are by then, oldest first.

        Args:
            most: of them, at least 1.
            timeout: seconds to wait for the first.

        Returns:
            At least one.

        Raises:
            As `steal`.
        """
        return self._steal_all(integer(1, sys.maxsize)("most", most), timeout, 0)

    def _steal_all(self, most: int, timeout: Any, rc: int) -> list[bytes]:
        deadline = self._deadline(timeout)
        while True:
            if rc:
                self._wait(rc, deadline)
            found = self._steal_some(most)
            if not isinstance(found, int):
                return found
            rc = found

    def steal_claim(self, timeout: float | None = None) -> Claimed:
        """The oldest record where it lies, as `pop_claim`; for anybody. It keeps its slot: a push that comes round to
        it finds no room.

        Args:
            timeout: seconds to wait for one.

        Raises:
            As `steal`.
        """
        self._check_open()
        deadline = self._deadline(timeout)
        made = Claimed(self)
        while (rc := self._claim_oldest(made._address)) < 0:
            self._wait(rc, deadline)
        made.view = self._map(made._claim, readonly=True)
        return made

    # ---- the end ----

    def shutdown(self) -> None:
        """No more is pushed, by anybody, for good; what is in it can still be taken, then Closed is raised."""
        self._check_open()
        rc = lib.cl_deque_shut(self._core)
        if rc < 0:
            raise self._failed(rc)


class _Held(Claim):
    """A slot that the program has until it is done.

    It is there before the slot is claimed, and forgotten after it was given on: a signal's exception in between must
    not leave a slot that a live process holds, for ever, and that nobody knows of.
    """

    __slots__ = ("_address", "_claim", "_deque", "view")

    def __init__(self, deque: Deque) -> None:
        self.view = memoryview(b"")
        self._claim = ffi.new("cl_deque_claim *")
        self._address = int(ffi.cast("uintptr_t", self._claim))
        self._deque: Deque | None = deque

    def _end(self, call: Callable[..., int], *args: int) -> None:
        if self._deque is None:
            raise ValueError("this record is done with")
        deque = self._deque
        with contextlib.suppress(BufferError):  # somebody has a view of it: it stays mapped, and is the deque's again
            self.view.release()
        rc = call(deque, self._address, *args)  # which uses the claim up
        self._deque = None
        if rc == -errno.EINVAL:
            raise ValueError("this record is done with: its deque was closed, disowned or registered again meanwhile")
        if rc < 0:
            raise deque._failed(rc)

    def __enter__(self) -> memoryview:
        return self.view

    def _drop(self, call: Callable[..., int]) -> None:
        # Its process may have been forked, its deque closed: then there is nothing to be given back.
        with contextlib.suppress(ShmError, ValueError):
            self._end(call)


class Reserved(_Held):
    """A slot to be filled. `view` is its memory."""

    __slots__ = ()

    def commit(self, size: int | None = None) -> None:
        """It is a record: all of it, or its first `size` bytes."""
        if self._deque is None:
            raise ValueError("this record is done with")
        most = int(self._claim.size)
        self._end(Deque._commit, most if size is None else integer(0, most)("size", size))

    def cancel(self) -> None:
        """It is no record."""
        self._end(Deque._cancel)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._deque is not None:
            if kind is None:
                self.commit()
            else:
                self._drop(Deque._cancel)

    def __del__(self) -> None:
        if getattr(self, "_deque", None) is not None:
            self._drop(Deque._cancel)


class Claimed(_Held):
    """A record. `view` is its memory, read-only."""

    __slots__ = ()

    def release(self) -> None:
        """It is dealt with."""
        self._end(Deque._release)

    def give_back(self) -> None:
        """It is for somebody else; with at-most-once delivery, for nobody."""
        self._end(Deque._give_back)

    def __exit__(self, kind: object, *unused: object) -> None:
        if self._deque is not None:
            if kind is None:
                self.release()
            else:
                self._drop(Deque._give_back)

    def __del__(self) -> None:
        if getattr(self, "_deque", None) is not None:
            self._drop(Deque._give_back)


def _attached(cls: type[Deque], passed: Any, spin: float | None, readonly: bool) -> Deque:
    return cls.attach(passed, spin=spin, readonly=readonly)
