"""Process: one running child.

Owns its pidfd and our ends of its pipes, from the constructor until `close` or the end of the `with` block. Safe from
several threads: the C core's lock makes reaping and signalling one step, and a descriptor lives as long as the object.
Only the process that started a child acts on it; in a forked child every method raises NotOwner.

A Process that is dropped while its child runs warns and leaves it running; it is reaped when it ends, at the next
spawn or run. It never kills by garbage collection.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from corelane._ffi import check, fast, ffi, lib
from corelane.errors import CorelaneError, NotOwner, NotSupported, ProcessError, ProcessTimeout
from corelane.process import dropped
from corelane.process import result as layout
from corelane.process.engine import status_failure
from corelane.process.environ import capture, new_snapshot
from corelane.process.explain import explain
from corelane.process.pack import nanoseconds
from corelane.process.result import CONTAINMENTS, REPORT, STRATEGIES, Result, Usage, returncode_of, usage_of
from corelane.process.values import seconds, signal_number
from corelane.process.vectored import read_batch, write_batch

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import IO, Any, NoReturn

    from corelane.process.command import Command
    from corelane.process.pack import Packed

__all__ = ["Process"]

_STEP_NS = 500_000_000
_STATES = {
    lib.CL_STATE_RUNNING: "running",
    lib.CL_STATE_STOPPED: "stopped",
    lib.CL_STATE_EXITED: "exited",
    lib.CL_STATE_SIGNALED: "signaled",
    lib.CL_STATE_UNKNOWN: "unknown",
}
_ALIVE = (lib.CL_STATE_RUNNING, lib.CL_STATE_STOPPED)
_KILL, _TERM, _CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGCONT
_REAP_WITHIN = 5.0  # seconds: a killed child that is not gone then is in uninterruptible sleep
_WRITER_SIZE, _READER_SIZE = 8192, 65536
_STREAMS = ("stdin", "stdout", "stderr")


class Process:
    """A running child. Made by `Command.spawn`.

    Attributes:
        command: the Command it runs.
        pid: its process id.
        stdin, stdout, stderr: file objects for streams that were given as PIPE, else None; text if the command has an
            `encoding`, else binary and buffered.
        strategy: how it was spawned. contained: the containment obtained, "group", "cgroup" or "none".

    Leaving a `with` block normally closes our ends of the pipes, waits for the child without a bound, and kills what is
    left of its scope. Leaving it by an exception is `terminate()` - SIGTERM, five seconds, SIGKILL - and drops the
    pipes, with what was not yet written.
    """

    stdin: IO[Any] | None
    stdout: IO[Any] | None
    stderr: IO[Any] | None

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
        self._address = int(ffi.cast("uintptr_t", made[0]))  # for `__exit__`
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
        rc = lib.cl_process_spawn(self._core, packed.command, packed.launch, snapshot)
        report = _report(self._core)
        if rc < 0:
            raise explain(self.command, report[layout.STAGE], report[layout.ERROR])
        return report

    def _undo(self) -> None:
        """The spawn failed, or an exception (Ctrl-C) came before the constructor's end: nothing may be left. A second
        Ctrl-C may come in here; then `__del__` does it again."""
        report = _report(self._core)
        if report[layout.PID] > 0:
            self._kill_and_reap()
            if self._ends is None:
                self._ends = list(report[layout.PIPES : layout.PIPES + 3])
            for i, fd in enumerate(self._ends):
                if fd >= 0:
                    self._ends[i] = -1  # between this and the next line Python looks for no signal
                    os.close(fd)
            self._drop_streams()
        self._close_scope()

    def _kill_and_reap(self) -> bool:
        """SIGKILL to the scope, and whether the leader was gone in time."""
        lib.cl_process_signal_scope(self._core, _KILL)
        lib.cl_process_signal(self._core, _KILL)
        return bool(lib.cl_process_wait(self._core, nanoseconds(_REAP_WITHIN)) == 1)

    def _close_scope(self) -> None:
        if self._scope is not None and not self._scope.close():
            dropped.waiting.append(self._scope.is_gone)

    def _wrap(self, ends: list[int]) -> None:
        sizes = self.command.option("buffer_size", (0, 0, 0))
        encoding = self.command.option("encoding")
        for i, (name, fd, size) in enumerate(zip(_STREAMS, ends, sizes, strict=True)):
            if fd < 0:
                continue
            writes = name == "stdin"
            size = size or (_WRITER_SIZE if writes else _READER_SIZE)
            mode = "wb" if writes else "rb"
            # Between these two Python looks for no signal: a descriptor always has one owner, we or the file object.
            ends[i] = -1
            raw = io.FileIO(fd, mode)
            stream: Any = io.BufferedWriter(raw, size) if writes else io.BufferedReader(raw, size)
            setattr(self, name, stream)
            if encoding is not None:
                errors = self.command.option("errors", "strict")
                # Line ends as they are written, like in Result.text and lines().
                setattr(self, name, io.TextIOWrapper(stream, encoding, errors, newline="\n"))

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
    def usage(self) -> Usage | None:
        """What the child used, once it has been waited for."""
        report = _report(self._core)
        return usage_of(report) if report[layout.STATE] > lib.CL_STATE_STOPPED else None

    # ---- waiting -----------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the child to end.

        Args:
            timeout: seconds, or None to wait for ever. 0 only looks.

        Returns:
            Its return code: the exit code, -N for signal N, None if somebody else took the status.

        Raises:
            ProcessTimeout: it still runs. Nothing was done to it.
        """
        if not self._wait(None if timeout is None else seconds("timeout", timeout)):
            raise ProcessTimeout(
                f"{self.command} (pid {self.pid}) still runs after {timeout:g} s",
                command=self.command,
                timeout=timeout or 0,
            )
        return self.returncode

    def _wait(self, timeout: float | None, *, reap: bool = True) -> bool:
        # Unreaped, the leader keeps its group's number: on systems that cannot signal a group through a pidfd, that is
        # the only time at which what it left can be killed.
        wait = lib.cl_process_wait if reap else lib.cl_process_await_end
        left = -1 if timeout is None else nanoseconds(timeout)
        while True:
            step = _STEP_NS if left < 0 else min(left, _STEP_NS)
            began = time.monotonic_ns()
            rc = wait(self._core, step)
            if rc == 1:
                return True
            if rc != -errno.EINTR:
                self._checked(rc, "waited for")
            if left >= 0:
                left -= min(left, time.monotonic_ns() - began)
                if left == 0:
                    return bool(self._checked(wait(self._core, 0), "waited for"))

    def result(self, *, timed_out: bool = False) -> Result:
        """The Result so far, without output (that went through the pipes).

        Args:
            timed_out: what the caller's own deadline says of it.
        """
        return Result(self.command, (*_report(self._core), int(timed_out)))

    def check(self) -> None:
        """Wait, and raise NonZeroExit, Signaled or StatusUnknown unless the child exited with 0."""
        self.wait()
        failure = self._failure()
        if failure is not None:
            raise failure

    def _failure(self) -> ProcessError | None:
        """Why one that has been waited for has failed, if it has."""
        report = _report(self._core)
        return status_failure(self.command, Result(self.command, report), report)

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

    def terminate(self, grace: float = 5) -> int | None:
        """End the scope: SIGTERM (and SIGCONT, should it be stopped), up to `grace` seconds, then SIGKILL.

        Returns:
            The return code.

        Raises:
            ProcessTimeout: even SIGKILL did not end it within 5 s (uninterruptible sleep).
        """
        grace = seconds("grace", grace)
        self.signal_scope(_TERM)  # a child that we may not signal (a set-user-id program) is left to its user at once
        self.signal_scope(_CONT)
        self._wait(grace, reap=False)
        self.signal_scope(_KILL)  # also when the child is gone: it may have left others
        self.kill()
        return self.wait(_REAP_WITHIN)

    def _signal(self, call: Any, signal: int) -> bool:
        rc = call(self._core, signal)
        if rc in (-errno.ESRCH, -errno.ECHILD):
            return False
        self._checked(rc, f"sent signal {signal}")
        return True

    # ---- streams -----------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[Any]:
        """The lines of stdout, as they come: str if the command has an encoding, else bytes; with their newline.

        Raises:
            ValueError: stdout is no pipe.
        """
        if self.stdout is None:
            raise ValueError(f"{self.command} was spawned without stdout=PIPE: there is nothing to read")
        return iter(self.stdout)

    def writev(self, pieces: Sequence[Any]) -> int:
        """Write a batch of buffers to stdin with as few system calls as possible.

        Returns:
            The bytes written: all of them.
        """
        if self.stdin is None:
            raise ValueError(f"{self.command} was spawned without stdin=PIPE")
        self.stdin.flush()
        return write_batch(self.stdin.fileno(), pieces)

    def readv(self, buffers: Sequence[Any]) -> int:
        """Fill buffers from stdout with one readv(2), past the file object's own buffer: use it or `stdout`, not both.

        Returns:
            The bytes read; 0 at the end.
        """
        if self.stdout is None:
            raise ValueError(f"{self.command} was spawned without stdout=PIPE: there is nothing to read")
        return read_batch(self.stdout.fileno(), buffers)

    # ---- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close our ends of the pipes. The child is left alone; it may notice end of file, or SIGPIPE."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # what was still buffered is of no interest to a child that has closed its end

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
        if not self._wait(0):
            self._reaped_later = True
            dropped.waiting.append(_reaper(self._core, None))  # it belongs to another user itself
        lib.cl_process_take_terminal(self._core)
        self._close_scope()

    if TYPE_CHECKING:

        def __enter__(self) -> Process: ...

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    def _leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """The end of a `with` block. `__exit__` is in C: should this be left by an exception, even before its first
        line, it kills and reaps."""
        if os.getpid() != self._maker:
            self._drop_streams()  # what is still buffered is its owner's to write
            self._foreign("ended")
        try:
            if kind is None:
                self.close()
                self._wait(None, reap=False)
            else:
                with contextlib.suppress(CorelaneError):  # the block's own exception is what its caller must see
                    self.terminate()
                self._drop_streams()
        except BaseException:
            self._kill_and_reap()
            self._drop_streams()
            raise
        finally:
            self._end_scope()
            self._kill_dropped = False  # what is still there cannot be killed

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


Process.__enter__, Process.__exit__ = fast.make_with(Process)  # type: ignore[method-assign]


def _is_foreign(core: Any) -> bool:
    return bool(lib.cl_process_state(core) == -errno.EPERM)


def _report(core: Any) -> tuple[int, ...]:
    report = ffi.new("cl_report *")
    lib.cl_process_report(core, report)
    return REPORT.unpack(ffi.buffer(report))
