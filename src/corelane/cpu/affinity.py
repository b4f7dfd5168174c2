"""Which CPUs a thread may run on: looking, setting, and setting for the length of a `with` block.

Owns nothing, but that `pinned` blocks remember, for each thread, what was there before them. What is set is read back:
the kernel takes what it can of a mask, and says nothing of the rest.
"""

from __future__ import annotations

import errno
import threading
from functools import lru_cache

from corelane._ffi import ffi, lib
from corelane.cpu.lists import MOST_CPUS, format_cpus, from_kernel_mask, kernel_mask, parse_cpus
from corelane.cpu.threads import Target, apply, collect, refusal
from corelane.errors import CpuError

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from corelane.errors import CpuRefused

__all__ = ["get_affinity", "pinned", "set_affinity"]

_get_affinity, _set_affinity = lib.cl_cpu_get_affinity, lib.cl_cpu_set_affinity
_MASK = ffi.typeof("uint8_t[]")
_MOST = MOST_CPUS // 8
_new = ffi.new_allocator(should_clear_after_alloc=False)  # the kernel fills what is read
_mask_of = lru_cache(256)(kernel_mask)
_parse_set = lru_cache(256)(parse_cpus)  # most callers have a few frozensets, which they set again and again
_cpus_of = lru_cache(256)(from_kernel_mask)
_room = 128  # bytes of a mask: grows to what this kernel needs, which is the same for all threads


def _larger() -> bool:
    """After EINVAL: whether there is more to try."""
    global _room
    if _room >= _MOST:
        return False
    _room *= 2
    return True


def get_affinity(pid: int | None = None, *, tid: int | None = None) -> frozenset[int]:
    """The CPUs that a thread may run on.

    Args:
        pid: a process: the answer is its main thread's, as of taskset(1). tid: one thread. Neither: the calling thread.

    Returns:
        Their numbers: what was set, as far as the thread's cpuset allows and the CPUs are online.

    Raises:
        CpuRefused: it is gone (also ProcessLookupError). NotSupported: macOS has no affinity.
    """
    target = _THIS if pid is tid is None else Target(pid, tid)
    while True:
        mask = _new(_MASK, _room)
        rc = _get_affinity(target.thread, mask, _room)
        if rc >= 0:
            return _cpus_of(ffi.buffer(mask, rc)[:])
        if rc != -errno.EINVAL or not _larger():
            collect([refusal(f"the CPUs of {target.text}", -rc, "affinity", target=target)], False)


_THIS = Target(None, None)


def _set(thread: int, cpus: frozenset[int], all_or_nothing: bool) -> tuple[int, frozenset[int]]:
    """Set one thread's mask: 0 or an errno, and what was applied, or could be."""
    wanted = _mask_of(cpus)
    while True:
        room = _room
        masks = ffi.new(_MASK, 2 * room)  # before, after: zeros beyond what the kernel writes
        rc = _set_affinity(thread, wanted, len(wanted), all_or_nothing, masks, masks + room, room)
        if rc > 0:
            return 0, cpus
        if rc == -errno.ENODEV:
            obtained = _cpus_of(ffi.buffer(masks + room, room)[:])
            return errno.ENODEV if obtained else errno.EINVAL, obtained
        if rc != -errno.EINVAL or not _larger():
            return -rc, frozenset()


def _refused(target: Target, number: int, cpus: frozenset[int], obtained: frozenset[int], kept: bool) -> CpuRefused:
    if number == errno.ENODEV:
        only = f"only {format_cpus(obtained)} {'were applied' if kept else 'can be had, so none were applied'}"
        what = f"CPUs {format_cpus(cpus)} for {target.text}, of which {only}"
    else:
        what = f"CPUs {format_cpus(cpus)} for {target.text}"
    return refusal(what, number, "affinity", value=cpus, target=target, obtained=obtained)


def set_affinity(
    cpus: int | str | Collection[int],
    pid: int | None = None,
    *,
    tid: int | None = None,
    best_effort: bool = False,
) -> tuple[CpuRefused, ...]:
    """Let a thread, or all threads of a process, run on these CPUs only.

    Of a process all threads that it has are set, and what they start meanwhile; see `threads.apply` for how, and for
    the race that is left. What has been started before it has failed stays.

    Args:
        cpus: numbers, or text like "0-3,8" or "0x10f".
        pid: a process. tid: one thread. Neither: the calling thread.
        best_effort: apply what can be, and return why the rest was not.

    Returns:
        What was not applied, and why; () if all was.

    Raises:
        ValueError, TypeError: no such set can be meant.
        CpuRefused: some of the CPUs do not exist, are offline or are outside of the cpuset: which and why. That thread
            has its old mask again. Or the process is gone, or is somebody else's.
        NotSupported: macOS has no affinity.
    """
    wanted = _parse_set(cpus) if type(cpus) is frozenset else parse_cpus(cpus)
    target = _THIS if pid is tid is None else Target(pid, tid)
    if target.pid is None and not _set(target.thread, wanted, not best_effort)[0]:
        return ()

    def act(thread: int) -> CpuRefused | None:
        number, obtained = _set(thread, wanted, not best_effort)
        return _refused(target, number, wanted, obtained, best_effort) if number else None

    return collect(apply(target, act, "affinity", best_effort), best_effort)


class _Pins(threading.local):
    """The `pinned` blocks that this thread is in, the innermost last: (a block's own mark, mask before it)."""

    def __init__(self) -> None:
        self.stack: list[tuple[object, frozenset[int]]] = []


_pins = _Pins()


class pinned:
    """`with pinned(cpus):` the calling thread runs on these CPUs only, and then where it could run before.

    What is pinned is the thread. Under asyncio that is the thread of the event loop: with an `await` in the block, all
    of the loop's tasks run on these CPUs while it waits. Blocks of several tasks may then end in another order than
    they began. The mask of the one that began last is in force until it ends, and after the last one the mask is what
    it was before the first:

        task A: pinned(0) begins                                  ends: 1 stays in force
        task B:                     pinned(1) begins                                        ends: as before A

    An object can be used again, and in several threads at a time. What others set meanwhile (taskset, an
    administrator) is replaced at the end: the mask is what it was at the beginning. Threads and processes that are
    started in the block inherit its mask, and keep it. An object that is dropped in its block (an exception of a
    signal's handler has kept Python from leaving it) puts back the mask then.

    Args:
        cpus: numbers, or text like "0-3,8" or "0x10f".
        best_effort: go on with the part that can be had, or none; `not_applied` has why.

    Attributes:
        cpus: those asked for. not_applied: what of the last entry was refused.

    Raises:
        ValueError, TypeError: no such set can be meant.
        CpuRefused, NotSupported: on entry, as `set_affinity`; on leaving, where the mask of before cannot be had any
            more.
        CpuError: the block is left in another thread than it was entered in; nothing is changed.
    """

    __slots__ = ("_best_effort", "_mark", "_threads", "cpus", "not_applied")

    def __init__(self, cpus: int | str | Collection[int], *, best_effort: bool = False) -> None:
        self.cpus = parse_cpus(cpus)
        self._best_effort = best_effort
        self._mark = object()
        self._threads: list[int] = []  # who is in, for a message
        self.not_applied: tuple[CpuRefused, ...] = ()

    def __enter__(self) -> pinned:
        before, stack = get_affinity(), _pins.stack
        entry = (self._mark, before)
        try:
            stack.append(entry)  # before the change: a signal's exception may come right after it
            number, obtained = _set(0, self.cpus, not self._best_effort)
            refused = [_refused(_THIS, number, self.cpus, obtained, self._best_effort)] if number else []
            self.not_applied = collect(refused, self._best_effort)
            self._threads.append(threading.get_native_id())
        except BaseException:
            _set(0, before, False)
            if stack and stack[-1] is entry:  # else the exception came before it was
                del stack[-1]
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        at = self._at()
        if at < 0:
            entered = ", ".join(map(str, self._threads)) or "none"
            raise CpuError(
                f"pinned({format_cpus(self.cpus)!r}) was entered in thread {entered}, and is left in thread "
                f"{threading.get_native_id()}: a mask is a thread's, so leave it where it was entered"
            )
        self._leave(at)

    def __del__(self) -> None:
        # Python looks for signals at the start of __exit__ too: an exception of a handler leaves it undone there.
        if getattr(self, "_threads", None):
            while (at := self._at()) >= 0:
                self._leave(at)

    def _at(self) -> int:
        """Where in this thread's stack our last entry is; -1: nowhere."""
        stack = _pins.stack
        at = len(stack) - 1
        while at >= 0 and stack[at][0] is not self._mark:
            at -= 1
        return at

    def _leave(self, at: int) -> None:
        entry = _pins.stack[at]
        try:
            number, obtained, before = _end(at)
        except BaseException:  # of a signal's handler
            if _pins.stack[at : at + 1] == [entry]:  # which came before all of it was done
                _end(at)
            raise
        me = threading.get_native_id()
        if me in self._threads:
            self._threads.remove(me)
        # ENODEV: the cpuset has shrunk meanwhile, and what it has left of the old mask is in force.
        if number not in (0, errno.ENODEV):
            collect([_refused(_THIS, number, before, obtained, True)], False)


def _end(at: int) -> tuple[int, frozenset[int], frozenset[int]]:
    """End a block of this thread's: the errno, what was applied, and what should have been. An interrupted one can be
    ended again, as its entry goes last."""
    stack = _pins.stack
    before = stack[at][1]
    number, obtained = 0, before
    if at == len(stack) - 1:
        number, obtained = _set(0, before, False)
    else:
        # That block is in force, and its end is now the end of ours, too.
        stack[at + 1] = (stack[at + 1][0], before)
    del stack[at]
    return number, obtained, before
