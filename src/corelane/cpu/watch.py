"""Being told when the budget changes.

A Watch owns one inotify descriptor (Linux) and, only if polling was asked for, one thread and a pipe to end it by; all
go with `close`. Writes to the files of our cgroups make the descriptor readable at once. Other changes have no event
and are found by the next `check`: a changed affinity, a CPU that goes offline, a move to another cgroup, a variable.

What is watched is the thread that made the Watch: an affinity is a thread's. A forked child may use its copy, which is
told of nothing any more.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading

from corelane._ffi import ffi, lib
from corelane._values import seconds
from corelane.cpu.counting import Evaluation, live
from corelane.errors import CpuError, NotSupported, cpu_refused

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from corelane.cpu.limit import Budget

__all__ = ["Watch", "watch_budget"]

_CLOSED = "this Watch is closed"
_MOST_MS = 2**31 - 1  # that poll(2) counts
_NO_SUCH_THING = (-errno.ENOTSUP, -errno.ENOSYS)
_LIMITS = {
    errno.EMFILE: "close descriptors, or ask for a higher fs.inotify.max_user_instances",
    errno.ENOSPC: "ask the administrator for a higher fs.inotify.max_user_watches",
}


def watch_budget(callback: Callable[[Budget, Budget], object], *, poll: float | None = None) -> Watch:
    """Call `callback(old, new)` when the budget of the running process has changed: its CPUs, quota or count.

    Nothing happens by itself without `poll`: put the Watch into a selector or an event loop, as it is a file with a
    `fileno`, and call its `check` when it is readable; or call `check` whenever it suits: it costs what `count()` does.

    Args:
        callback: is called by `check`, in whatever thread calls that.
        poll: seconds; a daemon thread calls `check` when a file of our cgroups is written to, and at least this often.
            What the callback raises there goes to threading.excepthook, and the thread goes on.

    Returns:
        The Watch, to be closed, or used as a context manager.

    Raises:
        CpuError: as `budget`. CpuRefused: a limit on watches is reached.
        TypeError, ValueError: `callback` cannot be called, or `poll` is no time span above 0.
    """
    if not callable(callback):
        raise TypeError(f"callback must be callable with (old, new), not {callback!r}")
    if poll is not None and seconds("poll", poll) == 0:
        raise ValueError("poll must be more than 0 seconds: a thread that never rests costs a whole CPU")
    return Watch(callback, poll)


class Watch:
    """See `watch_budget`, which makes it. `budget` is the last one seen."""

    def __init__(self, callback: Callable[[Budget, Budget], object], poll: float | None = None) -> None:
        self._callback = callback
        # A signal's handler may call us in the middle of a call of ours; `_depth` is how many of them the holder is in.
        self._lock, self._lock_pid, self._depth = threading.RLock(), os.getpid(), 0
        self._maker = threading.current_thread()
        self._pid, self._tid = os.getpid(), threading.get_native_id()
        self._watches: dict[str, int] = {}  # -1: the file is not there
        self._is_doubtful = False  # a cgroup may be gone and another have its name, of which the kernel tells nothing
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._notify, self._stop, self._stopper = (
            ffi.gc(ffi.new("cl_opened *", {"fd": -1}), lib.cl_opened_close) for _ in range(3)
        )
        rc = lib.cl_notify_open(self._notify)
        if rc < 0 and rc not in _NO_SUCH_THING:
            raise cpu_refused("hearing of writes to the files of our cgroups", -rc, _LIMITS.get(-rc, ""))
        self.budget = self._armed().budget
        if poll is not None:
            rc = lib.cl_opened_pipe(self._stop, self._stopper)
            if rc < 0:
                raise cpu_refused("a pipe to end the thread by", -rc, _LIMITS.get(-rc, ""))
            ms = max(1, min(int(poll * 1000), _MOST_MS))
            self._thread = threading.Thread(target=self._run, args=(ms,), name="corelane-budget", daemon=True)
            self._thread.start()

    def fileno(self) -> int:
        """A descriptor that is readable when there may be news; `check` then. Take it out of the loop before `close`.

        Raises:
            NotSupported: the platform has no such thing; use poll=, or call `check` now and then.
            ValueError: it is closed.
        """
        if self._is_closed:
            raise ValueError(_CLOSED)
        if self._notify.fd < 0:
            raise NotSupported("this platform does not tell of changed limits: use watch_budget(poll=...)")
        return int(self._notify.fd)

    def check(self) -> bool:
        """Read the budget again, and call the callback if it has changed.

        Returns:
            Whether it has.

        Raises:
            CpuError: as `budget`. ValueError: it is closed. What the callback raises.
        """
        found = self._look()
        if found is None:
            raise ValueError(_CLOSED)
        old, new = found
        if (old.cpus, old.quota, old.count) == (new.cpus, new.quota, new.count):
            return False
        self._callback(old, new)
        return True

    def close(self) -> None:
        """End it, and wait for its thread, unless that is the one that calls, or a signal's handler calls in the middle
        of a `check`. May be called more than once."""
        with self._locked():
            self._is_closed = True
            lib.cl_opened_close(self._stopper)
            thread = self._thread if os.getpid() == self._pid else None
            if thread is None:
                self._close_files()
            is_inside = self._depth > 0  # of a `check` that a signal interrupted: its lock may be what the thread needs
        if thread is not None and thread is not threading.current_thread() and not is_inside:
            thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Watch of {self.budget}{', closed' if self._is_closed else ''}>"

    def _look(self) -> tuple[Budget, Budget] | None:
        """The budget as it was and as it is; None if this is closed."""
        with self._locked():
            if self._is_closed:
                return None
            depth = self._depth
            try:
                self._depth = depth + 1
                # First this, then the files: what is written in between makes the descriptor readable again.
                if self._notify.fd >= 0 and os.getpid() == self._pid:
                    lib.cl_notify_drain(self._notify)
                    self._is_doubtful = True
                new = self._armed().budget
                # Not before: a signal's handler may have checked meanwhile, and told of what it has found.
                old, self.budget = self.budget, new
                return old, new
            finally:
                self._depth = depth

    def _locked(self) -> AbstractContextManager[Any]:
        if self._lock_pid != os.getpid():
            # In a forked child: a thread of the parent's may have held it, and is not here to release it.
            self._lock, self._lock_pid, self._depth = threading.RLock(), os.getpid(), 0
        return self._lock

    def _close_files(self) -> None:
        lib.cl_opened_close(self._notify)
        lib.cl_opened_close(self._stop)

    def _armed(self) -> Evaluation:
        """The budget, read when all files that made it were being watched already.

        A file is watched before it is read. The other way round: we read 2.0, somebody writes 1.0, we begin to watch,
        and nobody ever tells us.
        """
        while True:
            try:
                found = live(self._whose())
            except ProcessLookupError:  # it ended just now, or Python did not start it and does not know
                found = live(self._pid)
            if self._notify.fd < 0 or os.getpid() != self._pid or not self._arm(found.watched):
                return found

    def _arm(self, paths: tuple[str, ...]) -> bool:
        """Watch these files, and no others; whether there were new ones."""
        for path in [path for path in self._watches if path not in paths]:
            number = self._watches.pop(path, -1)
            if number >= 0 and number not in self._watches.values():
                lib.cl_notify_remove(self._notify, number)  # fails for a file that is gone, which is as good
        is_new, again, self._is_doubtful = False, self._is_doubtful, False
        for path in paths:
            number = self._watches.get(path, -1)
            if number >= 0 and not again:
                continue
            rc = lib.cl_notify_add(self._notify, os.fsencode(path))
            if rc in (-errno.ENOSPC, -errno.ENOMEM):
                raise cpu_refused(f"hearing of writes to {path}", -rc, _LIMITS.get(-rc, ""))
            is_new = is_new or (rc >= 0 and rc != number)  # the same file has the same number
            self._watches[path] = rc if rc >= 0 else -1
        return is_new

    def _whose(self) -> int:
        """The thread whose affinity counts: in a forked child the calling one (0), the main one if the maker ended."""
        if os.getpid() != self._pid:
            return 0
        return self._tid if self._maker.is_alive() else self._pid

    def _run(self, ms: int) -> None:
        poller = select.poll()
        for opened in (self._stop, self._notify):
            if opened.fd >= 0:
                poller.register(int(opened.fd), select.POLLIN)
        told = ""
        try:
            while not self._is_closed:
                ready: list[Any] = poller.poll(ms)
                if self._is_closed or any(fd == self._stop.fd for fd, _ in ready):
                    return
                try:
                    self.check()
                    told = ""
                except CpuError as error:
                    if str(error) != told:  # a file that stays malformed is told of once, not every time
                        told = str(error)
                        self._tell()
                except BaseException as error:
                    if not (self._is_closed and error.args == (_CLOSED,)):
                        self._tell()
        finally:
            with self._locked():
                self._close_files()

    @staticmethod
    def _tell() -> None:
        try:
            threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
        except BaseException:  # of the program's own hook: the thread goes on all the same, as with Python's
            sys.__excepthook__(*sys.exc_info())
