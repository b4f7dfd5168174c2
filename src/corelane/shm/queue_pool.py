"""Pools of queues: several queues that are put into in turn and got from together.

Each queue is a segment of its own, and a Queue as any other: `pool.queues[3]`, or by its name, for who needs just that
one. So there is no second layout, and nothing new that a death could break; a queue that a stranger has written to
spoils only itself; and a wait sleeps on the words of all (waiting.py). The price is a descriptor, a lease and, with a
name, a file for each.

The first queue has the pool's name, the others that and a number: "jobs", "jobs.1", "jobs.2". Each says which pool it
is of and how many there are. They are made from the last to the first, so whoever finds the name finds all; and their
names go from the first to the last.

A QueuePool owns its Queues. Shutting one of them shuts the pool: whoever gets from it shuts the others.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import sys
import time
from dataclasses import fields, replace

from corelane._ffi import lib
from corelane._values import integer, seconds
from corelane.errors import Closed, Corrupted, QueueEmpty, QueueFull
from corelane.shm.looping import until
from corelane.shm.names import path_of
from corelane.shm.queue import _AGAIN, _CLOSED, _FOR_RECORD, _FOR_ROOM, _NEVER, Queue, QueueStats
from corelane.shm.records import several
from corelane.shm.segment import passed_on, use_makers
from corelane.shm.spin import spin_ns
from corelane.shm.waiting import Together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from typing import Any, Self, TypeVar

    from corelane.shm.segment import Handle
    from corelane.shm.waiting import Waitable

    T = TypeVar("T")

__all__ = ["QueuePool"]

# What is no sum over the queues.
_OF_ALL: dict[str, Callable[[list[Any]], Any]] = {
    "slot_size": max,
    "recoveries": max,  # whoever dies is a participant of each
    "members": max,
    "last_dead": lambda each: next((pid for pid in each if pid is not None), None),
    "shut": all,
}


class QueuePool:
    """Several queues as one, made by `create` or `attach`. Each handle is a participant of each of them.

    Records of one producer are in order in each queue, and not between them. A context manager, and an iterator as
    Queue is.
    """

    __slots__ = ("__weakref__", "_gets", "_over", "_policy", "_puts", "_queues", "_spin", "_together")

    _queues: tuple[Queue, ...]
    _policy: str
    _spin: float | None
    _puts: Iterator[int]
    _gets: Iterator[int]
    _over: set[Queue]  # shut, and all was got: for good
    _together: dict[tuple[int, int], Together]

    def __init__(self, *unused: object, **options: object) -> None:
        raise use_makers(type(self))

    # ---- making and attaching ----

    @classmethod
    def create(
        cls,
        queues: int,
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
            queues: how many, 1 to 64.
            slots: of each of them.
            slot_size, members, delivery, policy, spin, membarrier, options: as in `Queue.create`.
            name: of the pool; the segments are called that, and that with ".1", ".2" and so on.

        Raises:
            As `Queue.create`; then nothing is left of those that were made.
        """
        count = integer(1, lib.CL_QUEUE_POOL)("queues", queues)
        if name is not None:
            path_of(_name_of(name, count - 1))
        number = secrets.randbits(63) | 1
        made: list[Queue] = []
        try:
            for place in reversed(range(count)):
                plan = Queue._planned(slots, slot_size, members, delivery, membarrier)
                plan.pool, plan.queues, plan.place = number, count, place
                called = None if name is None else _name_of(name, place)
                made.insert(0, Queue._created(plan, called, policy, spin, dict(options)))
        except BaseException:
            for queue in made:
                queue.unlink()
                queue.close()
            raise
        return cls._of(made, policy, spin)

    @classmethod
    def attach(
        cls,
        target: str | Sequence[Handle] | QueuePool,
        *,
        policy: str = "block",
        spin: float | None = None,
        readonly: bool = False,
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, or a QueuePool of it.
            policy, spin, readonly: as in `Queue.attach`.

        Raises:
            Corrupted: what has these names is no pool, or parts of several. As `Queue.attach`.
        """
        if isinstance(target, QueuePool):
            target = target.handle
        found: list[Queue] = []
        try:
            each: Iterable[Any]
            if isinstance(target, str):
                found.append(Queue.attach(target, policy=policy, spin=spin, readonly=readonly))
                each = [_name_of(target, place) for place in range(1, int(found[0]._plan().queues))]
            elif isinstance(target, (list, tuple)):
                each = target
            else:  # not whatever can be iterated over: a queue would be emptied
                raise TypeError(f"target must be the name, the handle or an object of a pool, not {target!r}")
            for one in each:
                found.append(Queue.attach(one, policy=policy, spin=spin, readonly=readonly))
            _check_pool(found)
        except BaseException:
            for queue in found:
                queue.close()
            raise
        return cls._of(found, policy, spin)

    @classmethod
    def _of(cls, queues: list[Queue], policy: str, spin: float | None) -> Self:
        pool = cls.__new__(cls)
        pool._queues, pool._policy, pool._spin = tuple(queues), policy, spin
        pool._puts, pool._gets = itertools.count(), itertools.count()
        pool._over, pool._together = set(), {}
        return pool

    def register(self) -> None:
        """Become a participant: what a forked child does with the pool of its parent before it uses it."""
        for queue in self._queues:
            queue.register()

    # ---- what it is ----

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues, each as any other; closed with the pool."""
        return self._queues

    @property
    def name(self) -> str | None:
        return self._queues[0].name

    @property
    def policy(self) -> str:
        """What putting means if all queues are full."""
        return self._policy

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return any(queue.closed for queue in self._queues)

    @property
    def handle(self) -> tuple[Handle, ...]:
        """What another process attaches it by; picklable, as the object itself is."""
        return tuple(queue.handle for queue in self._queues)

    def stats(self) -> QueueStats:
        """Those of all queues, summed; a `recoveries` counts whoever has died once. Each has its own, too."""
        each = [queue.stats() for queue in self._queues]
        total = {}
        for field in fields(QueueStats):
            total[field.name] = _OF_ALL.get(field.name, sum)([getattr(one, field.name) for one in each])
        sums = QueueStats(**total)
        waited = {
            f"mean_{side}_wait": sum(getattr(one, f"mean_{side}_wait") * getattr(one, f"{side}_waits") for one in each)
            / max(1, getattr(sums, f"{side}_waits"))
            for side in ("put", "get")
        }
        return replace(sums, **waited)

    def recover(self) -> int:
        """Look now which participants have died, as `Queue.recover`: how many, in each queue where that was found."""
        return sum(queue.recover() for queue in self._queues)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (
            type(self),
            tuple(passed_on(queue.segment) for queue in self._queues),
            self._policy,
            self._spin,
            self._queues[0].segment.readonly,
        )

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        closed = ", closed" if self.closed else ""
        first = self._queues[0]
        return (
            f"<QueuePool{name} of {len(self._queues)} queues of {first.slots} slots of {first.slot_size} bytes{closed}>"
        )

    # ---- waiting ----

    def _waiting(self, what: int) -> Together:
        """For those that something can come of: one that is over would be ready for ever."""
        key = what, len(self._over) if what == _FOR_RECORD else 0
        found = self._together.get(key)
        if found is None:
            over = self._over if what == _FOR_RECORD else ()
            each = [queue._waitable(what) for queue in self._queues if queue not in over]
            found = self._together[key] = Together(each)
        return found

    def _waitables(self) -> list[Waitable]:
        self._check_open()
        return [queue._waitable(_FOR_RECORD) for queue in self._queues]

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self!r} cannot be used any more")

    def _deadline(self, timeout: Any) -> int:
        if timeout is None:
            return -1
        return _NEVER if timeout is False else time.monotonic_ns() + int(seconds("timeout", timeout) * 1e9)

    def _until(self, attempt: Callable[[], T | None], what: int, deadline: int) -> T | None:
        self._check_open()
        found = attempt()
        if found is not None or deadline == _NEVER:
            return found
        spin, began = spin_ns("spin", self._spin), time.monotonic_ns()
        try:
            while True:
                ready = self._waiting(what).wait(deadline, spin)
                found = attempt()
                if found is not None or ready is None:
                    return found
        finally:
            self._note_wait(what, began)

    async def _until_async(self, attempt: Callable[[], T | None], what: int, deadline: int) -> T | None:
        self._check_open()
        found = attempt()
        if found is not None or deadline == _NEVER:
            return found
        began = time.monotonic_ns()
        try:
            return await until(attempt, self._waiting(what).bells(), deadline)
        finally:
            self._note_wait(what, began)

    def _note_wait(self, what: int, began: int) -> None:
        lib.cl_queue_note_wait(self._queues[0]._core, what, time.monotonic_ns() - began)

    # ---- putting ----

    def _in_turn(self, turns: Iterator[int]) -> Iterator[Queue]:
        first = next(turns)
        for i in range(len(self._queues)):
            yield self._queues[(first + i) % len(self._queues)]

    def _try_put(self, data: Any) -> bool | None:
        one, queue = [data], self._queues[0]
        for queue in self._in_turn(self._puts):
            rc = queue._put_some(one, 0)
            if rc > 0:
                return True
            if rc != _AGAIN:
                raise queue._failed(rc, memoryview(data).nbytes)
        if self._policy.startswith("drop"):
            queue.put(data)  # which is of the same policy
            return True
        return None

    def _put_deadline(self, timeout: Any) -> int:
        deadline = self._deadline(timeout)
        return _NEVER if self._policy == "fail" else deadline

    def put(self, data: Any, timeout: float | None = None) -> None:
        """Put one record into the queue whose turn it is, or the next one that has room.

        Args:
            data: bytes or any buffer of them.
            timeout: seconds to wait for room in any, if they are all full and the policy is to wait.

        Raises:
            QueueFull, Closed, ValueError: as `Queue.put`.
        """
        if self._until(lambda: self._try_put(data), _FOR_ROOM, self._put_deadline(timeout)) is None:
            raise self._full()

    def put_nowait(self, data: Any) -> None:
        """As put, but never waits."""
        if self._until(lambda: self._try_put(data), _FOR_ROOM, _NEVER) is None:
            raise self._full()

    def put_many(self, records: Iterable[Any], timeout: float | None = None) -> None:
        """Put all of them, each into the queue whose turn it is.

        Args:
            timeout: seconds for all of them.

        Raises:
            QueueFull: the time is over; its `done` is how many were put. As `put`.
        """
        deadline = self._put_deadline(timeout)
        for done, data in enumerate(several("put_many", records)):
            if self._until(functools.partial(self._try_put, data), _FOR_ROOM, deadline) is None:
                raise self._full(done)

    async def aput(self, data: Any, timeout: float | None = None) -> None:
        """`put`, for an event loop."""
        if await self._until_async(lambda: self._try_put(data), _FOR_ROOM, self._put_deadline(timeout)) is None:
            raise self._full()

    def _full(self, done: int = 0) -> QueueFull:
        lib.cl_queue_note(self._queues[0]._core, lib.CL_QUEUE_FULL, 1)
        return QueueFull(f"{self!r} had no room in time", done)

    # ---- getting ----

    def _try_get(self, most: int) -> list[bytes] | None:
        got: list[bytes] = []
        for queue in self._in_turn(self._gets):
            found = queue._get_some(most - len(got))
            if not isinstance(found, int):
                got += found
                if len(got) == most:
                    break
            elif found == _CLOSED:
                self._over.add(queue)
            elif found != _AGAIN and not got:  # else it comes up again
                raise queue._failed(found)
        if got:
            return got
        if len(self._over) == len(self._queues):
            raise Closed(f"{self!r} is shut: nothing more is put, and what was in it has been got")
        if self._over:  # whoever shut it has died over the others, or is about it still
            self.shutdown()
        return None

    def _get(self, most: int, deadline: int) -> list[bytes]:
        found = self._until(lambda: self._try_get(most), _FOR_RECORD, deadline)
        if found is None:
            raise self._empty()
        return found

    def get(self, timeout: float | None = None) -> bytes:
        """The next record of one of the queues, each of which has its turn to be first; wait until there is one.

        Raises:
            QueueEmpty, Closed: as `Queue.get`.
        """
        return self._get(1, self._deadline(timeout))[0]

    def get_nowait(self) -> bytes:
        """The next record, or raise QueueEmpty at once."""
        return self._get(1, _NEVER)[0]

    def get_many(self, most: int, timeout: float | None = None) -> list[bytes]:
        """Wait for a record, and get all there are by then, `most` of them at most: at least one."""
        return self._get(integer(1, sys.maxsize)("most", most), self._deadline(timeout))

    async def aget(self, timeout: float | None = None) -> bytes:
        """`get`, for an event loop."""
        found = await self._until_async(lambda: self._try_get(1), _FOR_RECORD, self._deadline(timeout))
        if found is None:
            raise self._empty()
        return found[0]

    def _empty(self) -> QueueEmpty:
        lib.cl_queue_note(self._queues[0]._core, lib.CL_QUEUE_EMPTY, 1)
        return QueueEmpty(f"{self!r} had no record in time")

    def __iter__(self) -> Iterator[bytes]:
        """Its records, until it is shut and empty."""
        while True:
            try:
                found = self.get()
            except Closed:
                return
            yield found

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
        for queue in self._queues:
            queue.shutdown()

    def close(self) -> None:
        """Let go of it; the others go on. Does nothing the second time."""
        for queue in self._queues:
            queue.close()

    def unlink(self) -> None:
        """Remove its names: those who hold it keep it, nobody finds it any more."""
        for queue in self._queues:
            queue.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _name_of(name: str, place: int) -> str:
    return name if place == 0 else f"{name}.{place}"


def _check_pool(found: list[Queue]) -> None:
    plans = [queue._plan() for queue in found]
    if not plans or plans[0].queues != len(plans):
        what = repr(found[0]) if found else "nothing"
        raise Corrupted(f"{what} is no pool of queues, or not all of one: attach a queue by Queue.attach")
    if any(plan.pool != plans[0].pool or plan.place != place for place, plan in enumerate(plans)):
        raise Corrupted(f"{found[0]!r} and those after it are not of one pool: remove them and make it anew")


def _attached(
    cls: type[QueuePool], passed: tuple[Any, ...], policy: str, spin: float | None, readonly: bool
) -> QueuePool:
    return cls.attach(passed, policy=policy, spin=spin, readonly=readonly)
