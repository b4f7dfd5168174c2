"""Reading a child's stdout as it comes, in bounded memory.

Each generator owns one child from its first item on: running out, an error and an early stop all end the scope and reap
it. The child's end is watched beside the pipe, so that a descendant that keeps the pipe open ends the stream too, after
the same bounded drain as in a run.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import select
import sys
import termios
import time
from collections.abc import Iterator

from corelane.errors import CorelaneError, NotSupported, OutputLimitExceeded, ProcessTimeout
from corelane.process.redirect import PIPE

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.command import Runnable
    from corelane.process.piped import PipelineProcess
    from corelane.process.process import Process

__all__ = ["MAX_LINE", "LineCutter", "chunks", "line_too_long", "lines"]

MAX_LINE = 64 * 1024 * 1024
_LOOK_EVERY = 0.01  # seconds, where no descriptor tells of the child's end
_SLEEP_MOST = 1e6  # seconds: poll counts milliseconds in a C int
_PIPE_AT_MOST = 1 << 20  # bytes that a pipe's capacity can be without privileges
_READS = 16  # that are tried before the child and the clock are looked at again


def chunks(command: Runnable, size: int, mark_end: bool = False) -> Iterator[bytes]:
    """Run `command` and yield its stdout as it comes.

    The deadline is looked at while the next piece is waited for: a child whose reader is busy elsewhere meets it at the
    next read. What the child writes during the grace after it is not read.

    Args:
        size: most bytes in one piece; more than a pipe holds never come in one.
        mark_end: yield an empty piece after the last one, before the child's status is judged.

    Raises:
        ProcessTimeout, NonZeroExit, Signaled: as `run`; the last two at the end, and not with check=False.
        ValueError: `size` is below 1, stderr=PIPE, which nobody would read, or an option for captured output.
    """
    for name in ("max_output", "on_limit", "tee_stdout", "tee_stderr"):
        if command.option(name) is not None:
            raise ValueError(f"{command}: {name}= is for captured output, and a stream captures none")
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be a number of bytes, not {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1 byte, not {size}")
    if command.option("retry") is not None:
        raise ValueError(f"{command}: what has been yielded cannot be taken back, so a stream is not retried")
    if PIPE in (each.option("stderr") for each in (command, *getattr(command, "stages", ()))):
        raise ValueError(
            f"{command}: nobody would read stderr=PIPE while stdout streams; use STDOUT, DEVNULL or a file"
        )
    return _chunks(command, min(size, max(_PIPE_AT_MOST, command.option("pipe_size", (0, 0, 0))[1])), mark_end)


def _chunks(command: Runnable, size: int, mark_end: bool = False) -> Iterator[bytes]:
    with command._process(for_run=True) as process:
        if process.stdin is not None:
            process.stdin.close()  # nobody could write to it: as in a run it is at its end
        source = _Source(process, command)
        try:
            while piece := source.read(size):
                yield piece
            source.wait()
        except BaseException:  # also GeneratorExit: whoever stops reading wants no more of it, not even a grace period
            with contextlib.suppress(CorelaneError):  # one that we may not signal hides nothing either
                process.signal_scope("KILL")
                process.kill()
            raise
    if mark_end:
        yield b""
    if command.option("check", True):
        process.check()


def lines(command: Runnable, keepends: bool) -> Iterator[str]:
    """Run `command` and yield the lines of its stdout as text.

    Args:
        keepends: leave the newline at each line's end.

    Raises:
        As `chunks`; UnicodeDecodeError by the command's encoding and errors; OutputLimitExceeded for a line longer than
        `max_line` characters (64 Mi).
    """
    return lines_of(command, chunks(command, command.option("buffer_size", (0, 0, 0))[1] or 65536, True), keepends)


def lines_of(command: Any, source: Iterator[bytes], keepends: bool) -> Iterator[str]:
    """The lines in the pieces of `source`, which ends with an empty one; see `lines`.

    Args:
        command: has the options encoding, errors and max_line.
    """
    decode = codecs.getincrementaldecoder(command.option("encoding", "utf-8"))(
        command.option("errors", "strict")
    ).decode
    cutter = LineCutter("\n", command.option("max_line", MAX_LINE))
    try:
        for piece in source:
            complete, too_long = cutter.cut(decode(piece, not piece))
            yield from [line + "\n" for line in complete] if keepends else complete
            if too_long:
                raise line_too_long(command, cutter.most)
            if cutter.held and not piece:  # the end, and no newline there
                yield cutter.rest()
    finally:
        source.close()  # type: ignore[attr-defined]


class LineCutter:
    """Makes lines of the pieces in which a text, or bytes, come.

    Attributes:
        most: the longest that a line may be.
        held: how much there is of a line whose end has not come.
    """

    def __init__(self, newline: Any, most: int) -> None:
        self.most = most
        self.held = 0
        self._newline = newline
        self._pending: list[Any] = []

    def cut(self, text: Any) -> tuple[list[Any], bool]:
        """The lines that `text` completes, without their newlines; and whether the one after them is too long."""
        whole = text.split(self._newline)
        last = whole.pop()
        if whole:
            whole[0] = self._newline[:0].join([*self._pending, whole[0]])
            # A line can only be too long where all of them together are.
            if self.held + len(text) > self.most:
                for n, line in enumerate(whole):
                    if len(line) > self.most:
                        return whole[:n], True
            self._pending, self.held = [], 0
        self._pending.append(last)
        self.held += len(last)
        return whole, self.held > self.most

    def rest(self) -> Any:
        """What there is of the last line."""
        return self._newline[:0].join(self._pending)


def line_too_long(command: Any, most: int) -> OutputLimitExceeded:
    return OutputLimitExceeded(
        f"{command} wrote a line longer than max_line={most} characters and was killed; use chunks()", command=command
    )


def _readable(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


class _Source:
    """A child's stdout with its deadline, and its end watched."""

    def __init__(self, process: Process | PipelineProcess, command: Runnable) -> None:
        assert process.stdout is not None
        self._process = process
        self._command = command
        self._fd = process.stdout.fileno()
        timeout = command.option("timeout")
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._drain_until: float | None = None
        self._left = 0  # bytes that were in the pipe when the child ended: read however slow our caller is
        self._maker = os.getpid()
        self._eager = _READS
        os.set_blocking(self._fd, False)  # our end of a pipe is a description of its own: the child's end blocks
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        try:
            self._watch: int | None = process.fileno()
            self._poll.register(self._watch, select.POLLIN)
        except NotSupported:
            self._watch = None

    def read(self, size: int) -> bytes:
        """The next bytes; b"" at the end."""
        if os.getpid() != self._maker:
            self._process._foreign("read")  # by whom its parent would miss it
        while self._eager:  # a child that writes as fast as we read needs no poll for each piece
            self._eager -= 1
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                break
        while True:
            ready = {fd for fd, _ in self._poll.poll(self._sleep_ms())}
            now = time.monotonic()
            if self._drain_until is None and self._ended(ready):
                self._drain_until = now + self._command.option("drain", 0.1)
                self._left = _readable(self._fd)
                self._eager = 0  # from now on it is counted
            if self._drain_until is None:
                if self._deadline is not None and now >= self._deadline:
                    self._time_out()
            elif now >= self._drain_until and self._left <= 0:
                return b""
            if self._fd in ready:
                piece = os.read(self._fd, size)
                self._left -= len(piece)
                if self._drain_until is None:
                    self._eager = _READS
                return piece

    def wait(self) -> None:
        """After the end of file: wait for the child, still within the deadline."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if not self._process._wait(left, reap=False):  # what it left is killed before it is reaped
            self._time_out()

    def _ended(self, ready: set[int]) -> bool:
        if self._watch is None:
            return self._process._wait(0, reap=False)
        if self._watch in ready:
            self._poll.unregister(self._watch)
            return True
        return False

    def _sleep_ms(self) -> float | None:
        times = [t - time.monotonic() for t in (self._deadline, self._drain_until) if t is not None]
        if self._watch is None:
            times.append(_LOOK_EVERY)
        return max(0.0, min(*times, _SLEEP_MOST)) * 1000 + 0.5 if times else None

    def _time_out(self) -> None:
        grace = self._command.option("grace", 0.0)
        with contextlib.suppress(CorelaneError):  # one that we may not signal has timed out too
            self._process.terminate(grace)
        timeout = self._command.option("timeout")
        raise ProcessTimeout(
            f"{self._command} ran longer than {timeout:g} s and was killed with all in its scope "
            f"(contained by {self._process.contained})",
            command=self._command,
            result=self._process.result(timed_out=True),
            timeout=timeout,
        )
