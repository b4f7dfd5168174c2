"""What all objects in a segment have alike: what they are called, how they are passed on, and their ends.

A Shared owns its Segment. It is closed by its `with` block, when it is dropped, and when the interpreter ends (that of
a child of multiprocessing, too): a program that ends has left what it took part in, it has not died over it.
"""

from __future__ import annotations

import atexit
import errno
import functools
import os
import sys
import time
import weakref

from corelane._ffi import ffi, lib
from corelane._values import seconds
from corelane.errors import Corrupted, NotSupported, ShmError, shm_failed
from corelane.shm.segment import Handle, Segment, use_makers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Self

__all__ = ["Claim", "Shared", "no_membarrier", "open_core", "wants_membarrier"]


class Claim:
    """Base of what the program holds a piece of shared memory by, until it is done with it."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: both would let go of the same piece")


class Shared:
    """Base of Ring, Queue and the like. A subclass has `_core`, `_segment` and `_leave()`, which gives up its place."""

    __slots__ = ()

    if TYPE_CHECKING:
        _core: Any
        _segment: Segment

        def _leave(self) -> None: ...

    def __init__(self, *unused: object, **options: object) -> None:
        raise use_makers(type(self))

    # ---- what it is ----

    @property
    def name(self) -> str | None:
        return self._segment.name

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return self._segment.closed

    @property
    def handle(self) -> Handle:
        """What another process attaches it by; picklable, as the object itself is."""
        return self._segment.handle

    @property
    def segment(self) -> Segment:
        """What it is in: to be passed on as a descriptor, `Command(fds={3: ring.segment})`, and attached there."""
        return self._segment

    def _check_open(self) -> None:
        if self._segment.closed:
            raise ValueError(f"{self!r} cannot be used any more")

    def _use_after_fork(self) -> ShmError:
        return ShmError(f"this process was forked from one that uses {self!r}: call its register() here first")

    def _not_a_member(self, rc: int) -> Exception:
        """Why it has no place of its own: another thread that closes it gives that up first, and then the segment."""
        if rc == -errno.EACCES or self._segment.readonly:
            return shm_failed(errno.EACCES, f"{self!r} was attached read-only: it can only be looked at")
        return ValueError(f"{self!r} was closed and cannot be used any more")

    # ---- time ----

    def _seconds(self, timeout: Any) -> float:
        return seconds("timeout", timeout)

    def _deadline(self, timeout: Any) -> int:
        """In ns of time.monotonic, which is the clock that C has; -1: none. False stands for now."""
        if timeout is None:
            return -1
        return time.monotonic_ns() + (0 if timeout is False else int(seconds("timeout", timeout) * 1e9))

    # ---- the end ----

    def close(self) -> None:
        """Let go of it, as the class says; the others go on. Does nothing the second time."""
        if self._segment.closed:
            return
        self._leave()
        self._segment.close()
        _open.discard(self)

    def unlink(self) -> None:
        """Remove its name: those who hold it keep it, nobody finds it any more."""
        self._segment.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_core") and not sys.is_finalizing():
            self.close()

    def _forked(self) -> None:
        """In a forked child, at once: what a thread of the parent may have been about is nobody's here."""

    def _close_at_the_end(self) -> None:
        """From now on it takes part in something."""
        _open.add(self)
        _close_with_the_process()


def open_core(segment: Segment, call: Callable[..., int], kind: str, free: Callable[[Any], None], *args: Any) -> Any:
    """The core's object in a segment, which is closed if there is none.

    Args:
        call: of the core: (out, the segment's core, *args) -> 0 or -errno.
        kind: as the core names its type: "cl_queue".
        free: of the core.

    Returns:
        The object, which keeps the segment's memory mapped until it is freed.
    """
    out = ffi.new(f"{kind} **")
    rc = call(out, segment._core, *args)
    if rc < 0:
        what = repr(segment)
        segment.close()
        name = kind.removeprefix("cl_")
        if rc == -errno.EBADMSG:
            raise Corrupted(f"{what} does not say what {name} it is, or is one of another version of corelane")
        if rc == -errno.ENOSYS:
            raise no_membarrier(what)
        raise shm_failed(-rc, f"cannot open the {name} in {what}: {os.strerror(-rc)}")
    return ffi.gc(out[0], functools.partial(_free, free, segment._core))


def wants_membarrier(value: bool) -> bool:
    """Check the option `membarrier` of an object that is about to be made: nothing is made if it cannot be had.

    Raises:
        NotSupported: see `no_membarrier`. TypeError.
    """
    if not isinstance(value, bool):
        raise TypeError(f"membarrier must be True or False, not {value!r}")
    if value and lib.cl_membarrier_register() < 0:
        raise no_membarrier("an object with membarrier=True")
    return value


def no_membarrier(what: str) -> NotSupported:
    """Why an object that was made with `membarrier=True` cannot be used here."""
    return NotSupported(
        f"{what} needs membarrier(2), which this process cannot call (it is in Linux from 4.16 on; a filter of system "
        "calls, as containers have, may refuse it): create it without membarrier=True"
    )


def _free(free: Callable[[Any], None], segment: Any, core: Any) -> None:
    free(core)
    del segment


# What is alive at the interpreter's end is not finalised.
_open: weakref.WeakSet[Shared] = weakref.WeakSet()
_told: set[int] = set()


@atexit.register
def _close_all() -> None:
    failed: BaseException | None = None
    for shared in list(_open):
        try:
            shared.close()
        except Exception as error:  # the others are closed all the same: who is not has died, for its peers
            failed = error
    if failed is not None:
        raise failed


def _all_forked() -> None:
    for shared in list(_open):
        shared._forked()


os.register_at_fork(after_in_child=_all_forked)


def _close_with_the_process() -> None:
    """A child of multiprocessing ends without running atexit; it has a list of its own."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and os.getpid() not in _told:
        _told.add(os.getpid())
        util.Finalize(None, _close_all, exitpriority=0)
