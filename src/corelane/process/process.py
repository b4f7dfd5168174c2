"""Process: one running child, waited for by whoever calls.

Owns what a Child does, and the file objects around its pipes, from the constructor until `close` or the end of the
`with` block.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from corelane._ffi import fast, lib
from corelane._values import seconds
from corelane.errors import CorelaneError
from corelane.process.child import REAP_WITHIN, STREAMS, Child
from corelane.process.pack import nanoseconds
from corelane.process.vectored import read_batch, write_batch

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import IO, Any

__all__ = ["Process"]

_STEP_NS = 500_000_000
_KILL, _TERM, _CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGCONT
_WRITER_SIZE, _READER_SIZE = 8192, 65536


class Process(Child):
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

    def _wrap(self, ends: list[int]) -> None:
        super()._wrap(ends)
        sizes = self.command.option("buffer_size", (0, 0, 0))
        encoding = self.command.option("encoding")
        for name, size in zip(STREAMS, sizes, strict=True):
            raw = getattr(self, name)
            if raw is None:
                continue
            writes = name == "stdin"
            size = size or (_WRITER_SIZE if writes else _READER_SIZE)
            stream: Any = io.BufferedWriter(raw, size) if writes else io.BufferedReader(raw, size)
            setattr(self, name, stream)
            if encoding is not None:
                errors = self.command.option("errors", "strict")
                # Line ends as they are written, like in Result.text and lines().
                setattr(self, name, io.TextIOWrapper(stream, encoding, errors, newline="\n"))

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
            raise self._late(timeout)
        return self.returncode

    def _wait(self, timeout: float | None, *, reap: bool = True) -> bool:
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

    def check(self) -> None:
        """Wait, and raise NonZeroExit, Signaled or StatusUnknown unless the child exited with 0."""
        self.wait()
        failure = self._failure()
        if failure is not None:
            raise failure

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
        return self.wait(REAP_WITHIN)

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


Process.__enter__, Process.__exit__ = fast.make_with(Process)  # type: ignore[method-assign]
