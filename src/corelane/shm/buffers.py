"""Pools of buffers: blocks of one size in shared memory, handed from process to process without a copy.

A BufferPool owns its Segment, and the place of one participant in it: a lease that ends with the process, however it
ends, and with it all that the process held. A Block owns one reference; what has a view of it (a memoryview, a numpy
array) keeps that reference alive, so memory that is read here is never another's by then.

What never waits is C that keeps the GIL (csrc/python/fast_buffers.c). Any thread of a process may use its BufferPool. A
forked child has the object and no place: it is refused until it calls `register`, and its parent's blocks are not its
own. Deliberately not here: clearing of blocks, which come with what their last holder wrote.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field

from corelane._ffi import fast, ffi, lib
from corelane._values import integer, seconds
from corelane.errors import NotSupported, PoolExhausted, ShmError, StaleBlock, shm_failed
from corelane.shm.looping import Bells, until
from corelane.shm.names import entries
from corelane.shm.segment import Handle, Segment, passed_on
from corelane.shm.shared import open_core
from corelane.shm.spin import spin_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Self

    import numpy as np
    from numpy.typing import DTypeLike

    from corelane.shm.looping import Bell
    from corelane.shm.segment import HasFileno

__all__ = ["Block", "BufferPool", "PoolStats", "Token", "pools"]

_AGAIN = (-errno.EAGAIN, -errno.EINTR)

if TYPE_CHECKING:

    class _Block:  # these are C: csrc/python/fast_buffers.c
        view: memoryview
        handle: bytes
        released: bool
        pool: BufferPool
        size: int
        index: int
        generation: int
        offset: int
        _address: int

        def release(self) -> None: ...
        def _send(self) -> bytes | int: ...
        def __enter__(self) -> Self: ...
        def __exit__(self, *unused: object) -> None: ...

    class _Calls:
        def acquire(self, timeout: float | None = None) -> Block: ...
        def open(self, token: bytes, /) -> Block: ...
        def _empty(self) -> Block: ...
        def _recall(self, token: bytes, /) -> int: ...
        def _join(self) -> int: ...
        def _leave_core(self) -> int: ...
        def _bell(self, number: int, /) -> int: ...
        def _silence(self, bell: int, /) -> int: ...
        def _arm(self) -> int: ...
        def _bind(
            self, address: int, owner: object, block: type[Block], device: int, inode: int, size: int, /
        ) -> None: ...

else:
    _Block, _Calls = fast.PoolBlock, fast.BufferPoolCalls


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Counted since the pool was made, over all who used it.

    `allocated` blocks are held now, or on their way (`in_flight` tokens that nobody has taken); `peak` is the most
    there were at once. `trimmed` are free, and their memory is the system's. `failures` raised PoolExhausted. `waits`
    are allocations that were not served at once, `mean_wait` how long one took. `mean_allocation` is over all of them;
    of those served at once, one in 64 is timed. `recoveries` counts participants found dead, `last_dead` is the pid of
    the last one, `reclaimed` the blocks that came free with them. `members` is how many participate now, `holders` how
    many blocks each process has, by its pid (0: of unknown pid). `last_used`: when a block was last let go of (now, if
    one is held), in seconds since 1970. Times are in seconds, None where there is none yet.
    """

    blocks: int
    block_size: int
    allocated: int
    in_flight: int
    trimmed: int
    peak: int
    allocations: int
    frees: int
    failures: int
    waits: int
    mean_wait: float | None
    mean_allocation: float | None
    last_used: float | None
    recoveries: int
    reclaimed: int
    last_dead: int | None
    members: int
    holders: dict[int, int] = field(default_factory=dict)

    @property
    def available(self) -> int:
        """Blocks that are free."""
        return self.blocks - self.allocated

    @property
    def utilisation(self) -> float:
        """The allocated part of them, 0 to 1."""
        return self.allocated / self.blocks

    def as_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "available": self.available, "utilisation": self.utilisation}


class Token(bytes):
    """The bytes of a block on its way, of 32. `with block.send() as token:` recalls it if the block raises."""

    _pool: BufferPool | None = None  # of who has sent it; what was received are bytes

    def recall(self) -> bool:
        """Take it back: nobody can open it any more. False: somebody has opened it.

        Raises:
            ValueError: it does not come from a `send` of this process.
        """
        if self._pool is None:
            raise ValueError(
                "this token was received or made up: only what send() has returned recalls it, or its pool's recall()"
            )
        rc = self._pool._recall(self)
        if rc < 0:
            raise self._pool._failed(rc)
        return rc == 1

    def __enter__(self) -> Token:
        return self

    def __exit__(self, kind: object, *unused: object) -> None:
        if kind is not None and self._pool is not None and not self._pool.closed:
            self.recall()

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (bytes(self),)


class Block(_Block):
    """A block of a pool, made by `acquire` or `open`: held until its `with` block ends, or it is released or dropped.

    `view` is its memory, `array` a numpy array over it. A view of that, or an array, keeps the block held after the
    release, until it is gone, too; `view` itself is invalid then.
    """

    __slots__ = ()

    def array(self, dtype: DTypeLike = "u1", shape: int | Sequence[int] | None = None) -> np.ndarray[Any, Any]:
        """Its memory as a numpy array, which keeps it held.

        Args:
            dtype: any numpy dtype without Python objects in it.
            shape: its extents. None: one dimension, as many as fit.

        Raises:
            ValueError: it does not fit. TypeError: the dtype has Python objects.
        """
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject or kind.itemsize < 1:
            raise TypeError(f"an array of {kind} cannot be shared: it has no size, or Python objects in it")
        if shape is None:
            shape = self.size // kind.itemsize
        extents = (shape,) if isinstance(shape, int) else tuple(shape)
        needs = kind.itemsize
        for extent in extents:
            if extent < 0:
                raise ValueError(f"shape must have no negative extents, not {extents}")
            needs *= extent
        if needs > self.size:
            raise ValueError(f"an array of {extents} {kind} needs {needs} bytes, and a block has {self.size}")
        return np.ndarray(extents, kind, buffer=self.view)

    @property
    def segment(self) -> Segment:
        """What it is in: its bytes are `size` of the segment's data, from `offset` on."""
        return self.pool.segment

    def send(self) -> Token:
        """Hand it on: it is ours no more (but for views of it), and whose it will be is whoever opens the token.

            with block.send() as token:         # recalled if the put fails
                queue.put(token)
            ...
            with pool.open(queue.get()) as block:

        Until then it stays allocated on our lease: if this process ends before, the token is void. What nobody will
        open is taken back with `Token.recall`, `BufferPool.recall`, or by closing the pool. To several: open it again
        for each, and send that.

        Raises:
            ShmError: another participant has sent the same block, and not all of its tokens were opened yet; or 255
                are on their way.
        """
        pool = self.pool
        made = self._send()
        if isinstance(made, int):
            raise pool._failed(made)
        token = Token(made)
        token._pool = pool
        return token

    def __repr__(self) -> str:
        if self.released:
            return f"<Block of {self.size} bytes, released>"
        return f"<Block {self.index} of {self.pool!r}, use {self.generation}>"


class BufferPool(Bells, _Calls):
    """A pool, made by `create` or `attach`. Each handle is a participant that may hold blocks.

    A context manager: leaving the block closes the handle.
    """

    __slots__ = ("__weakref__", "_bells", "_core", "_ended", "_segment")

    _core: Any
    _segment: Segment
    _bells: dict[int, Bell]
    _ended: bool

    # ---- making and attaching ----

    @classmethod
    def create(
        cls,
        blocks: int,
        block_size: int,
        name: str | None = None,
        *,
        members: int = 48,
        spin: float | None = None,
        **options: Any,
    ) -> Self:
        """Make one, all of it free.

        Args:
            blocks: how many, 1 to 2**20.
            block_size: bytes of each. From a page (4096) on they lie on whole pages, and can be trimmed.
            name: what another program attaches it by. None: it has none, and is passed on.
            members: how many handles there may be at once, 1 to 48.
            spin: seconds that a wait looks before it sleeps, at most. None: the default.
            options: as in `Segment.create`: mode, owner, group, keep, huge_pages, populate, lock, numa.

        Raises:
            ShmFailed: the system refused: the name is taken, no room, no permission. ValueError, TypeError.
        """
        plan, whole = ffi.new("cl_buffers_plan *"), ffi.new("cl_segment_plan *")
        plan.blocks = integer(1, lib.CL_BUFFERS_BLOCKS)("blocks", blocks)
        plan.block_size = integer(1, 2**40)("block_size", block_size)
        plan.members = integer(1, lib.CL_BUFFERS_MEMBERS)("members", members)
        span = spin_ns("spin", spin)
        if lib.cl_buffers_describe(plan, whole) < 0:
            raise ValueError(f"{blocks} blocks of {block_size} bytes are more than any machine has")
        segment = Segment()
        about = bytes(ffi.buffer(plan))
        segment._create(whole.size, name, lib.CL_SEGMENT_BUFFERS, about=about, layout=whole.layout, **options)
        return cls._of(segment, span)

    @classmethod
    def attach(
        cls,
        target: str | int | HasFileno | Handle | BufferPool,
        *,
        spin: float | None = None,
        readonly: bool = False,
    ) -> Self:
        """Attach one that there is already.

        Args:
            target: its name, its `handle`, a descriptor of it that was passed here, or a BufferPool of it.
            spin: as in `create`, of this handle.
            readonly: it can only be looked at: `stats()`.

        Raises:
            ShmFailed: there is none of that name, no permission. ShmError: it has `members` participants already.
            Corrupted: it is no pool, or what it says of itself is not so. ValueError, TypeError.
        """
        span = spin_ns("spin", spin)
        segment = Segment()
        segment._attach(target, lib.CL_SEGMENT_BUFFERS, readonly)
        return cls._of(segment, span)

    @classmethod
    def _of(cls, segment: Segment, span: int) -> Self:
        core = open_core(segment, lib.cl_buffers_open, "cl_buffers", lib.cl_buffers_free)
        pool = cls.__new__(cls)
        pool._segment, pool._bells, pool._ended = segment, {}, False
        there = os.fstat(segment.fileno())
        address, plan = int(ffi.cast("uintptr_t", core)), ffi.new("cl_buffers_plan *")
        lib.cl_buffers_plan_of(core, plan)
        pool._bind(address, core, Block, there.st_dev, there.st_ino, int(plan.block_size))
        pool._core = core  # from here on it is closed when it goes
        lib.cl_buffers_set_spin(core, span)
        if not segment.readonly:
            try:
                pool.register()
            except BaseException:
                pool.close()
                raise
        return pool

    def register(self) -> None:
        """Become a participant: what a forked child does with the pool of its parent before it uses it.

        Raises:
            ShmError: there are `members` participants already, and all of them live.
        """
        self._check_open()
        rc = self._join()
        if rc == -errno.EUSERS:
            most = int(self._plan().members)
            more = "create it with more members, or " if most < lib.CL_BUFFERS_MEMBERS else "no pool can have more: "
            raise ShmError(f"{self!r} has {most} participants, all alive: {more}close some")
        if rc == -errno.ENOTSUP:
            raise NotSupported(f"{self!r}: this platform has no leases, which say who is alive")
        if rc < 0:
            raise self._failed(rc)
        self._close_at_the_end()

    # ---- what it is ----

    @property
    def blocks(self) -> int:
        """How many it has."""
        return int(self._plan().blocks)

    @property
    def block_size(self) -> int:
        """Bytes of each."""
        return int(self._plan().block_size)

    @property
    def closed(self) -> bool:
        return self._ended or self._segment.closed

    def stats(self) -> PoolStats:
        """What it has done; looks at every block. Any handle may ask, also a read-only one."""
        self._check_open()
        out = self._report()
        counts: dict[str, Any] = {name: int(getattr(out, name, 0)) for name in PoolStats.__slots__}
        waits, allocations = int(out.waits), int(out.allocations)
        at_once = out.timed_ns / out.timed if out.timed else 0.0
        total = out.waited_ns + at_once * (allocations - waits)
        counts.update(
            mean_wait=out.waited_ns / waits / 1e9 if waits else None,
            mean_allocation=total / allocations / 1e9 if allocations and (out.timed or waits) else None,
            last_used=None if out.idle_ns < 0 else time.time() - out.idle_ns / 1e9,
            last_dead=int(out.last_dead) or None,
            members=int(out.joined),
            holders=_holders(out),
        )
        return PoolStats(**counts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (type(self), passed_on(self._segment), self._segment.readonly)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name is not None else ""
        what = f"{self.blocks} blocks of {self.block_size} bytes"
        return f"<BufferPool{name} of {what}{', closed' if self.closed else ''}>"

    def _plan(self) -> Any:
        out = ffi.new("cl_buffers_plan *")
        lib.cl_buffers_plan_of(self._core, out)
        return out

    def _report(self) -> Any:  # which reads the word of every block
        out = ffi.new("cl_buffers_report *")
        lib.cl_buffers_report_of(self._core, out)
        return out

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self!r} cannot be used any more")

    # ---- acquiring ----

    def _acquire_later(self, rc: int, block: Block, timeout: Any) -> Block:
        deadline, ref = self._deadline(timeout), ffi.cast("cl_buffers_ref *", block._address)
        while rc in _AGAIN:  # whatever handler there is for a signal has run by now
            rc = lib.cl_buffers_acquire(self._core, deadline, ref)
        if rc < 0:
            raise self._failed(rc)
        return block

    async def acquire_async(self, timeout: float | None = None) -> Block:
        """`acquire`, for an event loop: no thread, no polling while nothing happens. Any number of tasks may wait."""
        deadline, block = self._deadline(timeout), self._empty()
        ref = ffi.cast("cl_buffers_ref *", block._address)

        def attempt() -> Block | None:
            rc = lib.cl_buffers_acquire(self._core, 0, ref)
            if rc < 0 and rc not in _AGAIN:
                raise self._failed(rc)
            return block if rc == 0 else None

        def arm() -> None:
            rc = self._arm()
            if rc < 0:
                raise self._failed(rc)

        found = await until(attempt, [(self._bell_of(0), arm)], deadline)
        if found is None:
            raise self._failed(-errno.ETIMEDOUT)
        return found

    def _poll_fd(self, bell: int, /) -> int:
        rc = self._bell(bell)
        if rc < 0:
            raise self._failed(rc)
        return rc

    def _failed(self, rc: int) -> Exception:
        self._check_open()
        if rc == -errno.ETIMEDOUT:
            lib.cl_buffers_note_failure(self._core)
            return PoolExhausted(f"{self!r} had no free block in time: {self._who()}")
        if rc == -errno.ESTALE:
            return self._use_after_fork()
        if rc in (-errno.EACCES, -errno.ENOTCONN):
            return self._not_a_member(rc)
        if rc in (-errno.ENOSPC, -errno.ENOMEM):
            lib.cl_buffers_note_failure(self._core)
            return shm_failed(-rc, f"{self!r}: a block was trimmed, and there is no memory for it: {os.strerror(-rc)}")
        if rc == -errno.EBUSY:
            return ShmError(
                f"{self!r}: another participant has sent this block, and not all of its tokens were opened yet"
            )
        if rc == -errno.EOVERFLOW:
            return ShmError(f"{self!r}: {lib.CL_BUFFERS_TOKENS} tokens of this block are on their way: recall some")
        return shm_failed(-rc, f"{self!r}: {os.strerror(-rc)}")

    def _who(self) -> str:
        out = self._report()
        told = [f"process {pid} has {count}" for pid, count in sorted(_holders(out).items(), key=lambda item: -item[1])]
        text = ", ".join(told[:8]) or "all are free by now"
        if out.in_flight:
            text += f"; {out.in_flight} tokens are on their way"
        return text + " (a view of a block, or an array, keeps it held)"

    # ---- tokens ----

    def _open_failed(self, rc: int, token: bytes, unused: object) -> Any:
        self._check_open()
        if rc == -errno.ENOENT:
            raise StaleBlock(
                f"{self!r}: that block was freed since, or the token was opened or recalled, or its sender has ended"
            )
        if rc == -errno.EXDEV:
            raise ValueError(f"that is a block of another pool, not of {self!r}")
        if rc in (-errno.EBADMSG, -errno.EINVAL):
            raise ValueError(f"{bytes(token[:40])!r} is no handle and no token of a block")
        raise self._failed(rc)

    def recall(self) -> int:
        """Take back all tokens that this handle has sent, and nobody has opened.

        Returns:
            How many.
        """
        return self._counted(lib.cl_buffers_recall_all(self._core))

    # ---- care ----

    def recover(self) -> int:
        """Look now which participants have died, and free what they held. Whoever waits does it by itself.

        Returns:
            How many.
        """
        return self._counted(lib.cl_buffers_recover(self._core))

    def trim(self, idle: float = 60.0) -> int:
        """Give the memory of idle blocks back to the system; it is reserved again when one is acquired.

        Args:
            idle: seconds for which a block must have been free.

        Returns:
            Bytes.

        Raises:
            NotSupported: the blocks are smaller than a page (of `huge_pages`, if it has those).
        """
        rc = lib.cl_buffers_trim(self._core, int(seconds("idle", idle) * 1e9))
        if rc in (-errno.ENOTSUP, -errno.EOPNOTSUPP):
            raise NotSupported(f"{self!r} cannot be trimmed: its blocks are not of whole pages, or the system cannot")
        return self._counted(rc)

    def _counted(self, rc: int) -> int:
        self._check_open()
        if rc < 0:
            raise self._failed(rc)
        return int(rc)

    # ---- the end ----

    def _leave(self) -> None:
        self._leave_core()

    def close(self) -> None:
        """Let go of it; the others go on. Nothing is acquired here any more, and tokens nobody has opened are void.

        Blocks that are held here, and views of them, stay as they are: the place of this participant is given up with
        the last of them. Does nothing the second time.
        """
        if self.closed:
            return
        if self._leave_core() == 1:
            super().close()
            return
        self._ended = True
        if self._segment._maker == os.getpid():
            self._segment.unlink()
        for bell in list(self._bells.values()):
            bell.heard()


def pools(names: Iterable[str] | None = None) -> dict[str, PoolStats]:
    """The figures of pools that have a name.

    Args:
        names: which; None: all that there are here, and we may look at.

    Raises:
        As `BufferPool.attach`, for those in `names`.
    """
    found = {}
    for name in sorted(name for name, _ in entries()) if names is None else names:
        try:
            with BufferPool.attach(name, readonly=True) as pool:
                found[name] = pool.stats()
        except (ShmError, OSError):
            if names is not None:
                raise
    return found


def _holders(report: Any) -> dict[int, int]:
    found: dict[int, int] = {}
    for pid, held in zip(report.pids, report.held, strict=True):
        if held:
            found[pid] = found.get(pid, 0) + held
    return found


def _attached(cls: type[BufferPool], passed: Any, readonly: bool) -> BufferPool:
    return cls.attach(passed, readonly=readonly)
