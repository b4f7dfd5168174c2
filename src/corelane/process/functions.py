"""A function as a stage of a pipeline that runs, in a thread of its own.

Owns the two descriptors between which the function stands, from `connect` until its thread has closed them.
"""

from __future__ import annotations

import os
import signal
import time

from corelane.errors import OutputLimitExceeded
from corelane.process.opened import close, opened
from corelane.process.pack import encode
from corelane.process.redirect import DEVNULL, PIPE, File
from corelane.process.result import Usage
from corelane.process.stream import lines_of

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from corelane.process.pipeline import Function, Pipeline

__all__ = ["FunctionResult", "FunctionRun"]

_READ = 65536


class FunctionResult:
    """What a function in a pipeline left behind, with the names of a Result.

    Attributes:
        command: the Function. error: what it raised, or None. elapsed: seconds.
        stdout: what it wrote, if it was the last stage and was to be captured.
    """

    __slots__ = ("command", "elapsed", "error", "stdout", "timed_out")

    stderr = None
    truncated = pipes_left_open = False
    usage = Usage(0.0, 0.0, 0, 0, 0, 0, 0, 0, 0)

    def __init__(
        self, command: Function, error: BaseException | None, elapsed: float, stdout: bytes | None = None
    ) -> None:
        self.command = command
        self.error = error
        self.elapsed = elapsed
        self.stdout = stdout
        self.timed_out = False

    @property
    def returncode(self) -> int:
        """0, or 1 if it raised."""
        return 0 if self.error is None else 1

    @property
    def ok(self) -> bool:
        """Whether it did not raise."""
        return self.error is None

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionResult, (self.command, self.error, self.elapsed, self.stdout)

    def __repr__(self) -> str:
        return f"FunctionResult({self.command}, error={self.error!r}, elapsed={self.elapsed:.6f})"


class _Enough(Exception):
    """Whoever reads what the function writes reads no more."""


class FunctionRun:
    """One run of a function.

    Args:
        pipeline: whose first stage, if it is that, reads what the pipeline was given, and whose last one writes to
            where the pipeline writes.
        use: "many": without a `stdin` there is nothing to read; else that is ours.
    """

    __slots__ = ("_is_first", "_is_last", "_kept", "_kept_size", "_pipeline", "_sink", "_source", "_use", "function")

    def __init__(self, function: Function, pipeline: Pipeline, use: str, is_first: bool, is_last: bool) -> None:
        self.function = function
        self._pipeline = pipeline
        self._use = use
        self._is_first = is_first
        self._is_last = is_last
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._source = _opened_end(pipeline.stdin, os.O_RDONLY) if is_first else None
        self._sink = _opened_end(pipeline.stdout, os.O_WRONLY) if is_last else None

    def connect(self, source: Any, sink: Any) -> None:
        """Take the owners of the descriptors to read from and to write to; None leaves what the pipeline was given."""
        self._source = self._source if source is None else source
        self._sink = self._sink if sink is None else sink

    def close(self) -> None:
        """Close what it owns."""
        for owner in (self._source, self._sink):
            if hasattr(owner, "fd"):
                close(owner)

    def __call__(self) -> FunctionResult:
        # A write to a stage that reads no more must be an error here, whatever the program has done to this signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        began = time.monotonic()
        error: BaseException | None = None
        try:
            self._pump()
        except _Enough:
            pass
        except BaseException as caught:
            error = caught
        finally:
            self.close()
        captured = b"".join(self._kept) if self._is_last and self._pipeline.stdout is PIPE else None
        return FunctionResult(self.function, error, time.monotonic() - began, captured)

    def _pump(self) -> None:
        unit, source = self.function.unit, self._read()
        made = self.function.function(lines_of(self._pipeline, source, False) if unit == "lines" else source)
        if made is None or isinstance(made, (str, bytes)):
            raise TypeError(f"{self.function} must return or yield {unit}, not {made!r}")
        pieces = iter(made)
        encoding = self._pipeline.option("encoding", "utf-8")
        try:
            for piece in pieces:
                self._write((piece + "\n").encode(encoding) if unit == "lines" else piece)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _read(self) -> Iterator[bytes]:
        """The pieces of what it is to read; for lines with an empty one at the end."""
        given = self._pipeline.stdin if self._is_first and self._source is None else None
        if isinstance(given, str):
            yield encode(given, self._pipeline.option("encoding", "utf-8"))
        elif isinstance(given, bytes):
            yield given
        elif isinstance(given, tuple):
            yield from given
        elif self._source is not None or (given is None and self._use != "many"):
            fd = _number_of(self._source, 0)
            while piece := os.read(fd, _READ):
                yield piece
        if self.function.unit == "lines":
            yield b""

    def _write(self, piece: Any) -> None:
        target = self._pipeline.stdout if self._sink is None else None
        if target is PIPE:
            self._keep(bytes(piece))
            return
        left = memoryview(piece).cast("B")
        fd = _number_of(self._sink, 1)
        while left and target is not DEVNULL:
            try:
                left = left[os.write(fd, left) :]
            except BrokenPipeError:
                raise _Enough from None

    def _keep(self, piece: bytes) -> None:
        option = self._pipeline.option
        most = option("max_output")
        room = len(piece) if most is None else most - self._kept_size
        self._kept.append(piece[:room])
        self._kept_size += len(self._kept[-1])
        if len(piece) <= room:
            return
        if option("on_limit", "fail") == "fail":
            message = f"{self.function} wrote more than max_output={most} bytes; raise it, or give on_limit='truncate'"
            raise OutputLimitExceeded(message, command=self._pipeline)
        raise _Enough


def _opened_end(given: Any, flags: int) -> Any:
    """The owner of a descriptor, or a number or an object that stays the caller's, or None."""
    if not isinstance(given, File):
        return None if isinstance(given, (str, bytes, tuple)) or given in (None, PIPE, DEVNULL) else given
    if flags == os.O_WRONLY:
        flags |= os.O_CREAT | (os.O_APPEND if given.append else os.O_TRUNC)
    return opened(given.path, flags)


def _number_of(end: Any, ours: int) -> int:
    if end is None:
        return ours
    if isinstance(end, int):
        return end
    return int(end.fd) if hasattr(end, "fd") else int(end.fileno())
