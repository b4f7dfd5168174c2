"""Child: one running child without a way to wait for it: what a Process and an AsyncProcess have in common.

Owns its pidfd and our ends of its pipes, from the constructor until they are closed. Safe from several threads: the C
core's lock makes reaping and signalling one step, and a descriptor lives as long as the object. Only the process that
started a child acts on it; in a forked child every method raises NotOwner.

A Child that is dropped while it runs warns and leaves it running; it is reaped when it ends, at the next spawn or run.
It never kills by garbage collection.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import warnings
from collections.abc import Callable

from corelane._ffi import check, ffi, lib
from corelane.errors import NotOwner, NotSupported, ProcessTimeout
from corelane.process import dropped
from corelane.process import result as layout
from corelane.process.engine import status_failure
from corelane.process.environ import capture, new_snapshot
from corelane.process.explain import explain
from corelane.process.pack import nanoseconds
from corelane.process.result import (
    CONTAINMENTS,
    REPORT,
    STRATEGIES,
    Result,
    Usage,
    not_applied,
    returncode_of,
    usage_of,
)
from corelane.process.values import signal_number

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from corelane.errors import CpuRefused
    from corelane.process.command import Command
    from corelane.process.pack import Packed

__all__ = ["REAP_WITHIN", "STREAMS", "Child"]

_STATES = {
    lib.CL_STATE_RUNNING: "running",
    lib.CL_STATE_STOPPED: "stopped",
    lib.CL_STATE_EXITED: "exited",
    lib.CL_STATE_SIGNALED: "signaled",
    lib.CL_STATE_UNKNOWN: "unknown",
}
_ALIVE = (lib.CL_STATE_RUNNING, lib.CL_STATE_STOPPED)
_KILL = signal.SIGKILL
REAP_WITHIN = 5.0  # seconds: a killed child that is not gone then is in uninterruptible sleep
STREAMS = ("stdin", "stdout", "stderr")


class Child:
    """A child, and our ends of its pipes.

    Attributes:
        command: the Command it runs.
        pid: its process id.
        stdin, stdout, stderr: our ends of the streams that were given as PIPE, else None.
        strategy: how it was spawned. contained: the containment obtained, "group", "cgroup" or "none".
    """

    stdin: Any
    stdout: Any
    stderr: Any

    _spawn = "cl_process_spawn"  # of the core

    def __init__(self, command: Command, *, for_run: bool = False, packed: Packed | None = None) -> None:
        self.command = command
        self.stdin = self.stdout = self.stderr = None
        self._scope: Any = None
        self._reaped_later = False  # it is in `dropped`
        self._kill_dropped = True  # until its caller has it; see Command.spawn
        self._ends: list[int] | None = None
        self._maker = os.getpid()
        if isinstance(command.option("stdin"), (str, bytes, tuple)):
            raise ValueError(f"{command}: a Process is not fed; give stdin=PIPE and write to .stdin, or use run")
        if dropped.waiting:
            dropped.reap()
        made = ffi.new("cl_process **")
        check(lib.cl_process_new(made), "a process object")
        self._core: Any = ffi.gc(made[0], lib.cl_process_free)
        self._addresses = (int(ffi.cast("uintptr_t", made[0])),)  # for `__exit__`
        if packed is None:
            packed = command.packed("run" if for_run else "spawn")
        try:
            # The scope lives as long as the child: it goes from the packed command, which is closed here, to us.
            self._scope, packed.scope = packed.scope, None
            report = self._start(packed)
            self.pid = report[layout.PID]
            self.strategy = STRATEGIES[report[layout.STRATEGY]]
            self.contained = CONTAINMENTS[report[layout.CONTAINED]]
            self._watch = report[layout.PIDFD]
            self._ends = list(report[layout.PIPES : layout.PIPES + 3])
            self._wrap(self._ends)
            if not packed.reusable:
                packed.close()
        except BaseException:
            self._undo()
            if not packed.reusable:
                packed.close()
            raise

    def _start(self, packed: Packed) -> tuple[int, ...]:
        snapshot = ffi.NULL
        if packed.inherits_environ:
            snapshot, address = new_snapshot()
            capture(address)
        rc = getattr(lib, self._spawn)(self._core, packed.command, packed.launch, snapshot)
        if rc < 0:
            raise self._failed()
        return _report(self._core)

    def _failed(self) -> Exception:
        """Why it could not be started."""
        report = _report(self._core)
        return explain(self.command, report[layout.STAGE], report[layout.ERROR])

    def _undo(self) -> None:
        """The spawn failed, or an exception (Ctrl-C) came before the constructor's end: nothing may be left. A second
        Ctrl-C may come in here; then `__del__` does it again."""
        report = _report(self._core)
        if report[layout.PID] > 0:
            is_gone = self._kill_and_reap(self._undone_within())
            if self._ends is None:
                self._ends = list(report[layout.PIPES : layout.PIPES + 3])
            for i, fd in enumerate(self._ends):
                if fd >= 0:
                    self._ends[i] = -1  # between this and the next line Python looks for no signal
                    os.close(fd)
            self._drop_streams()
            if not is_gone and not self._reaped_later:
                self._reaped_later = True
                dropped.waiting.append(_reaper(self._core, None))
        self._close_scope()

    def _undone_within(self) -> float:
        """Seconds for which `_undo` waits for what it killed; what is still there then is reaped later."""
        return REAP_WITHIN

    def _kill_and_reap(self, within: float = REAP_WITHIN) -> bool:
        """SIGKILL to the scope, and whether the leader was gone in time."""
        lib.cl_process_signal_scope(self._core, _KILL)
        lib.cl_process_signal(self._core, _KILL)
        return bool(lib.cl_process_wait(self._core, nanoseconds(within)) == 1)

    def _close_scope(self) -> None:
        if self._scope is not None and not self._scope.close():
            dropped.waiting.append(self._scope.is_gone)

    def _wrap(self, ends: list[int]) -> None:
        for i, (name, fd) in enumerate(zip(STREAMS, ends, strict=True)):
            if fd < 0:
                continue
            # Between these two Python looks for no signal: a descriptor always has one owner, we or the file object.
            ends[i] = -1
            setattr(self, name, io.FileIO(fd, "rb" if i else "wb"))

    # ---- looking -----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A descriptor that becomes readable when the child ends: the pidfd, on macOS a kqueue. It belongs to this
        object.

        Raises:
            NotSupported: this platform has none.
        """
        if self._watch < 0:
            raise NotSupported("this platform has no descriptor for the end of a process; use wait or poll")
        return int(self._watch)

    @property
    def state(self) -> str:
        """ "running", "stopped", "exited", "signaled", or "unknown" (it ended, and somebody else took its status)."""
        return _STATES[self._call(lib.cl_process_state, "looked at")]

    def poll(self) -> int | None:
        """The return code if the child has ended (-N for signal N), else None. Does not block. None is also the code
        of a child whose status somebody else took: `state` tells the two apart."""
        self._call(lib.cl_process_state, "polled")
        return self.returncode

    @property
    def returncode(self) -> int | None:
        """The return code as far as it is known; does not look at the child."""
        report = _report(self._core)
        return returncode_of(report[layout.STATE], report[layout.STATUS])

    @property
    def not_applied(self) -> tuple[CpuRefused, ...]:
        """With best_effort: what of its scheduling, CPUs and memory the system refused, and why; () if nothing."""
        return not_applied(self.command, _report(self._core))

    @property
    def usage(self) -> Usage | None:
        """What the child used, once it has been waited for."""
        report = _report(self._core)
        return usage_of(report) if report[layout.STATE] > lib.CL_STATE_STOPPED else None

    def result(self, *, timed_out: bool = False) -> Result:
        """The Result so far, without output (that went through the pipes).

        Args:
            timed_out: what the caller's own deadline says of it.
        """
        return Result(self.command, (*_report(self._core), int(timed_out)))

    def _late(self, timeout: float | None) -> ProcessTimeout:
        """What `wait` raises."""
        return ProcessTimeout(
            f"{self.command} (pid {self.pid}) still runs after {timeout:g} s",
            command=self.command,
            timeout=timeout or 0,
        )

    def _failure(self) -> Exception | None:
        """What `check` raises of a child that has ended."""
        report = _report(self._core)
        return status_failure(self.command, Result(self.command, report), report)

    def _is_over(self, *, reap: bool = True) -> bool:
        """Whether it has ended; by default it is reaped then. Does not block."""
        # Unreaped, the leader keeps its group's number: on systems that cannot signal a group through a pidfd, that is
        # the only time at which what it left can be killed.
        look = lib.cl_process_wait if reap else lib.cl_process_await_end
        return bool(self._checked(look(self._core, 0), "waited for"))

    # ---- signalling --------------------------------------------------------------------------------------------

    def send_signal(self, signal: int | str) -> bool:
        """Send a signal to the child alone.

        Returns:
            False if it had already ended: then nobody gets it.
        """
        return self._signal(lib.cl_process_signal, signal_number("signal", signal))

    def kill(self) -> bool:
        """SIGKILL to the child alone; see `kill_tree` for all of it."""
        return self.send_signal(_KILL)

    def signal_scope(self, signal: int | str) -> bool:
        """Send a signal to all that the containment holds: the cgroup, the group, or the child alone."""
        return self._signal(lib.cl_process_signal_scope, signal_number("signal", signal))

    def kill_tree(self) -> None:
        """SIGKILL to all that the containment holds, and to every descendant, also one that left the group; not to a
        daemon whose own parent has ended: that one descends from init."""
        strays = self._descendants()
        self.signal_scope(_KILL)
        self.kill()
        import psutil

        for stray in strays:
            try:
                stray.kill()  # psutil compares the start time, so a reused pid is not hit
            except psutil.Error:
                continue

    def _descendants(self) -> list[Any]:
        """Before the kill: after it the children of the dead belong to init."""
        import psutil

        try:
            return psutil.Process(self.pid).children(recursive=True) if self.poll() is None else []
        except psutil.Error:
            return []

    def _signal(self, call: Any, signal: int) -> bool:
        rc = call(self._core, signal)
        if rc in (-errno.ESRCH, -errno.ECHILD):
            return False
        self._checked(rc, f"sent signal {signal}")
        return True

    # ---- the end -----------------------------------------------------------------------------------------------

    def _drop_streams(self) -> None:
        """As `close`, but without a flush, which the child's pipe may have no room for, and without the locks of the
        file objects: a thread that reads holds one as long as a descendant of the child's keeps the pipe open."""
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(OSError, ValueError):  # it was detached, or somebody has closed its descriptor
                buffer: Any = getattr(stream, "buffer", stream)
                raw = getattr(buffer, "raw", buffer)
                if raw is not None:
                    raw.close()

    def _end_scope(self) -> None:
        """What the child left is killed, the terminal taken back, the cgroup removed."""
        if self.contained != "none":
            lib.cl_process_signal_scope(self._core, _KILL)  # what belongs to another user is not ours to kill
        if not self._is_over():
            self._reaped_later = True
            dropped.waiting.append(_reaper(self._core, None))  # it belongs to another user itself
        lib.cl_process_take_terminal(self._core)
        self._close_scope()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is None:
            return
        is_alive = lib.cl_process_state(core) in _ALIVE
        # An exception came before its caller had it, or before the end of its `with` block; perhaps a second one when
        # the first was being answered.
        if self._kill_dropped and (is_alive or self._ends is None or max(self._ends) >= 0):
            self._undo()
            return
        if not is_alive and self._scope is not None and not self._scope.close(wait=False):
            dropped.waiting.append(self._scope.is_gone)  # a daemon lives in it
        if not is_alive or self._reaped_later:
            return
        dropped.waiting.append(_reaper(core, self._scope))
        warnings.warn(
            f"{self!r} was dropped while it runs: use `with`, or wait()", ResourceWarning, source=self, stacklevel=2
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Process cannot be copied or pickled: it is one child, which its maker alone can wait for")

    def __repr__(self) -> str:
        return f"<Process {self.command} pid={getattr(self, 'pid', None)} returncode={self.returncode}>"

    # ---- the core ----------------------------------------------------------------------------------------------

    def _call(self, call: Any, what: str) -> int:
        return self._checked(call(self._core), what)

    def _checked(self, rc: int, what: str) -> int:
        if rc == -errno.EPERM and _is_foreign(self._core):
            self._foreign(what)
        return check(rc, f"{self.command} (pid {self.pid}) cannot be {what}")

    def _foreign(self, what: str) -> NoReturn:
        raise NotOwner(
            f"{self.command} (pid {self.pid}) was started by another process and cannot be {what} "
            f"by its forked child (pid {os.getpid()})",
            command=self.command,
        )


def _reaper(core: Any, scope: Any) -> Callable[[], bool]:
    """For `dropped`: whether the child has ended; its cgroup goes with it."""

    def is_gone() -> bool:
        if lib.cl_process_state(core) in _ALIVE:
            return False
        return scope is None or bool(scope.close(wait=False))

    return is_gone


def _is_foreign(core: Any) -> bool:
    return bool(lib.cl_process_state(core) == -errno.EPERM)


def _report(core: Any) -> tuple[int, ...]:
    report = ffi.new("cl_report *")
    lib.cl_process_report(core, report)
    return REPORT.unpack(ffi.buffer(report))
