"""Broadcasts: records of one writer, each of which every reader sees.

A Broadcast owns its Segment, and the place of one participant in it: the writer's or a reader's, a lease that ends with
the process, however it ends. What never waits is C that keeps the GIL (csrc/python/fast_broadcast.c).

A handle is the writer or a reader. A forked child has the object and no place: it is refused until it calls `register`.
A reader of a lossy broadcast that is attached read-only takes part in nothing: nobody sees it.
"""

from __future__ import annotations

import errno
import functools
import sys
import time

from corelane._ffi import fast, ffi, lib
from corelane._values import integer, one_of
from corelane.errors import Closed, NotSupported, QueueEmpty, ReaderBlocks, SideTaken
from corelane.shm.broadcast_claims import Peeked, Reserved
from corelane.shm.broadcast_state import BroadcastStats, ReaderStats, bits, check, failed, held_up, report_of, stats_of
from corelane.shm.looping import Bells, until
from corelane.shm.records import listed, room_for, rows_of
from corelane.shm.segment import Handle, Segment, passed_on
from corelane.shm.shared import open_core
from corelane.shm.spin import spin_ns
from corelane.shm.waiting import Waitable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from typing import Any, Self, TypeVar

    import numpy as np
    from numpy.typing import DTypeLike

    from corelane.shm.looping import Bell
    from corelane.shm.segment import HasFileno

    T = TypeVar("T")

__all__ = ["Broadcast", "BroadcastStats", "Peeked", "ReaderStats", "Reserved"]

_RECORD, _ROOM, _READERS = lib.CL_BROADCAST_FOR_RECORD, lib.CL_BROADCAST_FOR_ROOM, lib.CL_BROADCAST_FOR_READERS
_AGAIN, _UNTAKEN, _SIGNAL, _TIMEOUT = -errno.EAGAIN, -errno.ENOTCONN, -errno.EINTR, -errno.ETIMEDOUT
_NOW = 0  # a deadline: do not wait
_WHEN_FULL = ("block", "fail", "drop-new")
_NOT_READING = ("spin", "when_full")  # of a handle's options
_NAPS = (50e-6, 5e-3)  # seconds: what a task naps between its looks, which nobody can wake

if TYPE_CHECKING:

    class _Calls:  # these are C: csrc/python/fast_broadcast.c
        def put(self, data: Any, timeout: float | None = None) -> None: ...
        def put_nowait(self, data: Any) -> None: ...
        def get(self, timeout: float | None = None) -> bytes: ...
        def get_nowait(self) -> bytes: ...
        def _put_some(self, items: list[Any], first: int) -> int: ...
        def _put_records(self, buffer: Any, size: int, first: int) -> int: ...
        def _get_some(self, most: int) -> list[bytes] | int: ...
        def _get_records(self, buffer: Any, size: int) -> int: ...
        def _reserve(self, address: int) -> int: ...
        def _commit(self, address: int, size: int) -> int: ...
        def _cancel(self, address: int) -> int: ...
        def _peek(self, address: int) -> int: ...
        def _release(self, address: int) -> int: ...
        def _keep(self, address: int) -> int: ...
        def _subscribe(self, policy: int, reading: int) -> int: ...
        def _take(self) -> int: ...
        def _enroll(self) -> int: ...
        def _forget(self) -> None: ...
        def _bell(self, what: int) -> int: ...
        def _silence(self, what: int, /) -> int: ...
        def _arm(self, what: int) -> int: ...
        def _leave(self) -> None: ...
        def _bind(self, address: int, owner: object) -> None: ...

else:
    _Calls = fast.BroadcastCalls


class Broadcast(Bells, _Calls):
    """A broadcast, made by `create` or `attach`. One handle writes, many read, in whatever processes.

    A context manager: leaving the block closes the handle. For a reader an iterator, also an asynchronous one: it ends
    when the writer closes.
    """

    __slots__ = ("__weakref__", "_bells", "_core", "_options", "_segment", "_selected")

    _bells: dict[int, Bell]
    _core: Any
    _segment: Segment
    _options: dict[str, Any]  # how it reads, and its spin
    _selected: bool  # the program has asked for a descriptor

    # ---- making and attaching ----

    @classmethod
    def create(
        cls,
        slots: int,
        slot_size: int,
        name: str | None = None,
        *,
        lossless: bool = False,
        members: int = 255,
        wakes_readonly: bool = False,
        when_full: str = "block",
        spin: float | None = None,
        **options: Any,
    ) -> Self:
        """Make one, empty.

        Args:
            slots: how many records it holds; rounded up to a power of two.
            slot_size: bytes that a record may have. In its slot it begins at a multiple of 64.
            name: what another program attaches it by. None: it has none, and is passed on.
            lossless: the writer waits for its readers, as their policies say. Else it never waits, and a reader that is
                overtaken is told how many records it has lost.
            members: how many handles there may be at once that write or, with write access, read: 1 to 4095.
            wakes_readonly: each put is a system call that wakes readers who are attached read-only. Else these nap, and
                see a record later by up to an eighth of the time that they have waited for it, 5 ms at most.
            when_full: what this handle's puts do where readers of a lossless one block: "block": wait; "fail": raise
                ReaderBlocks at once; "drop-new": drop the record, and count it. `reserve` waits in any case.
            spin: seconds that a wait looks before it sleeps, at most; 0: none. None: `default_spin()`.
            options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

        Returns:
            A handle that is the writer from its first put on, or a reader from its first get or `subscribe`.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. ValueError, TypeError.
        """
        plan, whole = ffi.new("cl_broadcast_plan *"), ffi.new("cl_segment_plan *")
        plan.slots = integer(1, lib.CL_BROADCAST_SLOTS)("slots", slots)
        plan.slot_size = integer(1, 2**30)("slot_size", slot_size)
        plan.members = integer(1, lib.CL_BROADCAST_MEMBERS)("members", members)
        plan.flags = lib.CL_BROADCAST_LOSSLESS if lossless else 0
        plan.flags |= lib.CL_BROADCAST_WAKES_ALL if wakes_readonly else 0
        one_of("when_full", when_full, _WHEN_FULL)
        ns = spin_ns("spin", spin)
        if lib.cl_broadcast_describe(plan, whole) < 0:
            raise ValueError(f"{slots} slots of {slot_size} bytes are more than any machine has")
        segment = Segment()
        about = bytes(ffi.buffer(plan))
        segment._create(whole.size, name, lib.CL_SEGMENT_BROADCAST, about=about, layout=whole.layout, **options)
        return cls._of(segment, ns, {"spin": spin, "when_full": when_full})

    @classmethod
    def attach(
        cls,
        target: str | int | HasFileno | Handle | Broadcast,
        *,
        policy: str | None = None,
        start: str = "next",
        on_loss: str = "count",
        on_death: str = "raise",
        subscribe: bool = True,
        readonly: bool = False,
        when_full: str = "block",
        spin: float | None = None,
    ) -> Self:
        """Attach one that there is already, and read it from the next record on.

        The first put of a handle that has got nothing makes it the writer, if there is none that lives.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or a Broadcast of it.
            policy, start, on_loss, on_death: as in `subscribe`.
            subscribe: become a reader now. Else with the first get or `subscribe`; until then nobody waits for it.
            readonly: without the right to write to the memory (`mode=0o640` and the group's readers): a lossy one can
                be read, a lossless one only looked at: `stats()`.
            when_full, spin: as in `create`.

        Raises:
            ShmFailed: there is none of that name, no permission. ShmError: it has `members` participants already.
            Corrupted: it is no broadcast, or what it says of itself is not so. ValueError, TypeError.
        """
        ns = spin_ns("spin", spin)
        check(policy, start, on_loss, on_death)
        one_of("when_full", when_full, _WHEN_FULL)
        segment = Segment()
        source = target
        segment._attach(source, lib.CL_SEGMENT_BROADCAST, readonly)
        reading: dict[str, Any] = {"policy": policy, "start": start, "on_loss": on_loss, "on_death": on_death}
        made = cls._of(segment, ns, {**reading, "spin": spin, "when_full": when_full})
        try:
            if subscribe and not (readonly and made.lossless):
                made.subscribe(**reading)
            else:
                made._bits(**reading)
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def _of(cls, segment: Segment, ns: int, options: dict[str, Any]) -> Self:
        core = open_core(segment, lib.cl_broadcast_open, "cl_broadcast", lib.cl_broadcast_free)
        made = cls.__new__(cls)
        made._bells, made._selected = {}, False
        made._segment, made._options = segment, options
        made._bind(int(ffi.cast("uintptr_t", core)), core)
        made._core = core  # from here on it is closed when it goes
        lib.cl_broadcast_set_spin(core, ns)
        made._close_at_the_end()
        return made

    # ---- what it is ----

    @property
    def slots(self) -> int:
        """How many records it holds."""
        return int(self._report().slots)

    @property
    def slot_size(self) -> int:
        """Bytes that a record may have."""
        return int(self._report().slot_size)

    @property
    def lossless(self) -> bool:
        """Whether the writer waits for its readers."""
        return bool(self._report().flags & lib.CL_BROADCAST_LOSSLESS)

    @property
    def lost(self) -> int:
        """How many records this reader has lost, exactly."""
        return int(self._report().lost)

    def stats(self) -> BroadcastStats:
        """What has gone through it and who is there; any handle may ask, also a read-only one."""
        self._check_open()
        return stats_of(self._core)

    def fileno(self) -> int:
        """A descriptor for selectors and event loops: a reader's (what has no role becomes one now), or the writer's.

        It is readable at first, and from when `get_nowait` (or `put_nowait`) has raised QueueEmpty (ReaderBlocks) until
        there may be something (or room): so go on until one raises. It does not tell of a death, nor of what a process
        of another user does: look every 100 ms or so.

        Raises:
            NotSupported: it was attached read-only.
        """
        role = self._report().role
        if role == lib.CL_BROADCAST_NOBODY:
            self._begin(_RECORD)
        self._selected = True
        return self._poll_fd(_ROOM if role == lib.CL_BROADCAST_WRITER else _RECORD)

    def _poll_fd(self, bell: int) -> int:
        rc = self._bell(bell)
        if rc == -errno.EACCES:
            raise self._cannot_ask()
        if rc < 0:
            raise self._failed(rc)
        return rc

    def _waitables(self) -> list[Waitable]:
        def fill(out: Any) -> None:
            while (rc := lib.cl_broadcast_waitable(self._core, _RECORD, out)) == _UNTAKEN:
                self._begin(_RECORD)
            if rc == -errno.EACCES:
                raise self._cannot_ask()
            if rc < 0:
                raise self._failed(rc)

        self._check_open()
        return [Waitable(fill, lambda: self._bell_of(_RECORD), lambda: self._arm(_RECORD), self)]

    def _cannot_ask(self) -> NotSupported:
        return NotSupported(f"{self!r} was attached read-only: who cannot write to it cannot ask to be told")

    def recover(self) -> int:
        """Look now which participants have died, and recover what they held. Whoever waits does it by itself.

        Returns:
            How many.
        """
        self._check_open()
        rc = lib.cl_broadcast_recover(self._core)
        if rc < 0:
            raise self._failed(rc)
        return int(rc)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self._segment), {**self._options, "readonly": self._segment.readonly})

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        out = self._report()
        kind = "lossless" if out.flags & lib.CL_BROADCAST_LOSSLESS else "lossy"
        closed = ", closed" if self.closed else ""
        return f"<Broadcast{name}, {kind}, of {out.slots} slots of {out.slot_size} bytes{closed}>"

    def _report(self) -> Any:
        return report_of(self._core)

    # ---- roles ----

    def subscribe(
        self, policy: str | None = None, *, start: str = "next", on_loss: str = "count", on_death: str = "raise"
    ) -> None:
        """Become a reader, from the next record on. One that was evicted begins anew.

        Args:
            policy: of a lossless broadcast: what the writer does when it would have to wait for this reader. "block":
                it waits (None: this); "skip": the reader loses the oldest records; "evict": it gets no more.
            start: of a lossy broadcast: "next", or "oldest": what is there still.
            on_loss: "count": what was lost shows in `lost` only; "raise": the next get raises RecordsLost, once.
            on_death: of the writer: "raise" PeerDied when all was got, or "wait" for a successor.

        Raises:
            ShmError: there are `members` participants already, and all of them live; this handle is the writer.
            ValueError.
        """
        self._check_open()
        rc = self._subscribe(*self._bits(policy, start, on_loss, on_death))
        if rc < 0:
            raise self._failed(rc)
        self._options.update(policy=policy, start=start, on_loss=on_loss, on_death=on_death)
        self._close_at_the_end()

    def _bits(self, policy: str | None, start: str, on_loss: str, on_death: str) -> tuple[int, int]:
        return bits(self, policy, start, on_loss, on_death)

    def take(self) -> bool:
        """Become the writer now, not only with the first put.

        Returns:
            Whether the writer before has died over it. What it had put is there, what it was about to put is not.

        Raises:
            SideTaken: there is one, and it lives. ShmError: this handle has read.
        """
        self._check_open()
        rc = self._take()
        if rc == -errno.EBUSY:
            pid = int(self._report().writer)
            raise SideTaken(f"{self!r} has a writer: process {pid}", pid)
        if rc < 0:
            raise self._failed(rc)
        self._close_at_the_end()
        return rc == 1

    def register(self) -> None:
        """In a forked child: become a participant, a reader if the parent's handle was one, before it is used here.

        Raises:
            ShmError: there are `members` participants already, and all of them live.
        """
        self._check_open()
        rc = self._enroll()
        if rc < 0:
            raise self._failed(rc)
        self._close_at_the_end()

    def _begin(self, what: int) -> None:
        if what == _RECORD:
            self.subscribe(**{name: value for name, value in self._options.items() if name not in _NOT_READING})
        else:
            self.take()

    def wait_readers(self, count: int, timeout: float | None = None) -> bool:
        """As the writer: wait until so many readers are registered. Those that were late see only what is put then.

        Returns:
            Whether there are; False: the time is over.
        """
        self.take()
        return self._wait(_READERS, self._deadline(timeout), integer(0, lib.CL_BROADCAST_MEMBERS)("count", count))

    # ---- waiting ----

    def _wait(self, what: int, deadline: int, count: int = 0) -> bool:
        while (rc := lib.cl_broadcast_wait(self._core, what, count, deadline)) == _SIGNAL:
            continue  # a signal, whose handler has run; or a look whether one came unseen
        if rc == _TIMEOUT:
            return False
        if rc < 0:
            raise self._failed(rc)
        return True

    def _tried(self, call: Callable[[], T], what: int, item: Any = b"") -> T | None:
        """What a call of the core has said; None: not yet."""
        found = call()
        if found == _UNTAKEN:
            self._begin(what)
            found = call()
        if found == _AGAIN:
            return None
        if isinstance(found, int) and found < 0:
            raise self._failed(found, item)
        return found

    def _until(self, call: Callable[[], T], what: int, deadline: int, item: Any = b"") -> T | None:
        """What a call said when it was done; None: the time is over."""
        while (found := self._tried(call, what, item)) is None:
            if deadline == _NOW:
                return self._last_try(call, what)
            if not self._wait(what, deadline):
                return None
        return found

    def _last_try(self, call: Callable[[], T], what: int) -> T | None:
        """Before the program's selector is to tell it of more."""
        if not self._selected:
            return None
        self._heard(what)
        self._arm(what)
        return self._tried(call, what)

    async def _until_async(self, call: Callable[[], T], what: int, deadline: int, item: Any = b"") -> T | None:
        def tried() -> T | None:
            return self._tried(call, what, item)

        def arm() -> None:
            rc = self._arm(what)
            if rc < 0:
                raise self._failed(rc)

        if self._segment.readonly:
            return await _nap_until(tried, deadline)
        return await until(tried, [(self._bell_of(what), arm)], deadline)

    def _forked(self) -> None:
        super()._forked()
        self._forget()

    def _failed(self, rc: int, item: Any = b"") -> Exception:
        return failed(self, -rc, item)

    # ---- putting ----

    def _put_later(self, rc: int, data: Any, timeout: Any) -> None:
        self._put_all([data], _NOW if timeout is False else self._deadline(timeout))

    def put_many(self, records: Iterable[Any], timeout: float | None = None) -> None:
        """Put all of them, in order.

        Args:
            records: bytes or buffers.
            timeout: seconds for all of them.

        Raises:
            ReaderBlocks: the time is over; its `done` is how many were put. As `put`.
        """
        self._put_all(listed("put_many", records), self._deadline(timeout))

    def _put_all(self, items: list[Any], deadline: int) -> None:
        done = 0
        while done < len(items):
            call = functools.partial(self._put_some, items, done)
            put = self._until(call, _ROOM, self._patience(deadline), items[done])
            done += self._no_room(done) if put is None else put

    def _patience(self, deadline: int) -> int:
        return deadline if self._options["when_full"] == "block" else _NOW

    def _no_room(self, done: int = 0) -> int:
        """How many records are done with that found no room: one, if it is dropped."""
        if self._options["when_full"] != "drop-new":
            raise self._blocked(done)
        lib.cl_broadcast_note(self._core, lib.CL_BROADCAST_DROPPED, 1)
        return 1

    def _blocked(self, done: int = 0) -> ReaderBlocks:
        lib.cl_broadcast_note(self._core, lib.CL_BROADCAST_REFUSED, 1)
        pid = int(self._report().blocked_by) or -1
        who = f"process {pid}" if pid > 0 else "a process of unknown pid"
        return ReaderBlocks(
            f"{self!r} had no room in time: {who} has not read what is in the way, and lives", pid, done
        )

    def records_in(self, array: np.ndarray[Any, Any], timeout: float | None = None) -> None:
        """Put each element along the first axis of a numpy array as a record.

        Args:
            array: of any dtype without Python objects, structured ones too. What is not contiguous is copied first.
            timeout: seconds for all of them.

        Raises:
            ReaderBlocks: the time is over; its `done` is how many were put. As `put`.
        """
        rows, deadline, done = rows_of(array), self._deadline(timeout), 0
        flat, size = rows.reshape(-1), rows.shape[1]
        while done < len(rows):
            call = functools.partial(self._put_records, flat, size, done)
            put = self._until(call, _ROOM, self._patience(deadline), rows[done])
            done += self._no_room(done) if put is None else put

    def reserve(self, *, timeout: float | None = None) -> Reserved:
        """The next slot, to be filled in place.

            with broadcast.reserve() as view:   # a memoryview of slot_size bytes
                view[:5] = b"hello"             # committed at the end of the block, all of it; not at all if it raises

        `commit(size)` of what is returned puts fewer bytes. One at a time.

        Args:
            timeout: seconds to wait for readers that block.
        """
        made = Reserved(self)
        if self._until(lambda: self._reserve(made._address), _ROOM, self._deadline(timeout)) is None:
            raise self._blocked()
        made._map()
        return made

    # ---- getting ----

    def _get_later(self, rc: int, timeout: Any, unused: object) -> bytes:
        if rc != _AGAIN and rc != _UNTAKEN:
            raise self._failed(rc)
        return self._get_all(1, _NOW if timeout is False else self._deadline(timeout))[0]

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
        found: Any = self._until(lambda: self._get_some(most), _RECORD, deadline)
        if found is None:
            raise self._empty(deadline)
        return list(found)

    def _empty(self, deadline: int) -> QueueEmpty:
        # Who does not wait asks often, and wants it fast.
        other = held_up(report_of(self._core)) if deadline != _NOW else ""
        return QueueEmpty(f"{self!r} had no record in time{other}")

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
        made = room_for(dtype, most)
        size, flat = made.dtype.itemsize, made.view("u1")
        deadline = self._deadline(timeout)
        got = self._until(lambda: self._get_records(flat, size), _RECORD, deadline, None)
        if got is None:
            raise self._empty(deadline)
        return made[:got]

    def peek(self, timeout: float | None = None) -> Peeked:
        """The next record where it lies.

            with reader.peek() as view:         # a read-only memoryview
                use(view)                       # done with at the end of the block; if it raises, it is got again

        A writer waits for a reader that blocks. Any other may be overtaken meanwhile: then the end of the block raises
        RecordsLost, and what was seen is not to be believed; `whole` tells it before. One at a time.
        """
        made = Peeked(self)
        deadline = self._deadline(timeout)
        if self._until(lambda: self._peek(made._address), _RECORD, deadline) is None:
            raise self._empty(deadline)
        made._map()
        return made

    def __iter__(self) -> Iterator[bytes]:
        """Its records, until the writer closes."""
        while True:
            try:
                found = self.get()
            except Closed:
                return
            yield found

    # ---- under an event loop ----

    async def aput(self, data: Any, timeout: float | None = None) -> None:
        """`put`, for an event loop: no thread, no polling while nothing happens."""
        one, deadline = [data], self._deadline(timeout)
        if self._patience(deadline) == _NOW:
            self._put_all(one, _NOW)
        elif await self._until_async(lambda: self._put_some(one, 0), _ROOM, deadline, data) is None:
            raise self._blocked()

    async def aget(self, timeout: float | None = None) -> bytes:
        """`get`, for an event loop: no thread, and no polling while nothing happens, but for what is read-only."""
        deadline = self._deadline(timeout)
        found: Any = await self._until_async(lambda: self._get_some(1), _RECORD, deadline)
        if found is None:
            raise self._empty(deadline)
        return bytes(found[0])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its records, until the writer closes."""
        while True:
            try:
                found = await self.aget()
            except Closed:
                return
            yield found


async def _nap_until(attempt: Callable[[], T | None], deadline: int) -> T | None:
    """For a reader that cannot ask to be told: a record is seen later by an eighth of the time that it took to come."""
    import asyncio

    await asyncio.sleep(0)  # others in this loop have a turn, also when there is always something
    began = time.monotonic_ns()
    while (found := attempt()) is None:
        now = time.monotonic_ns()
        nap = min(max((now - began) / 8e9, _NAPS[0]), _NAPS[1])
        if deadline >= 0:
            if now >= deadline:
                return None
            nap = min(nap, (deadline - now) / 1e9)
        await asyncio.sleep(nap)
    return found


def _attached(cls: type[Broadcast], passed: Any, options: dict[str, Any]) -> Broadcast:
    return cls.attach(passed, **options)
