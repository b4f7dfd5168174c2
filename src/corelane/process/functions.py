"""A function as a stage of a pipeline that runs, in a thread of its own.

Owns the two descriptors between which the function stands, from `connect` until its thread has closed them.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import signal
import sys
import time

from corelane.errors import OutputLimitExceeded, spawn_failed
from corelane.process.opened import close
from corelane.process.pack import encode, open_file
from corelane.process.redirect import DEVNULL, PIPE, is_opened
from corelane.process.result import Usage
from corelane.process.stream import lines_of

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Thread
    from typing import Any

    from corelane.process.pipeline import Function, Pipeline

__all__ = ["FunctionResult", "FunctionRun"]

_READ = 65536
_BYTES = (bytes, bytearray, memoryview)


class FunctionResult:
    """What a function in a pipeline left behind, with the names of a Result.

    Attributes:
        command: the Function. error: what it raised, or None. elapsed: seconds.
        stdout: what it wrote, if it was the last stage and was to be captured. truncated, timed_out: as of a Result.
    """

    __slots__ = ("command", "elapsed", "error", "stdout", "timed_out", "truncated")

    stderr = None
    pipes_left_open = False
    usage = Usage(0.0, 0.0, 0, 0, 0, 0, 0, 0, 0)

    def __init__(
        self, command: Function, error: BaseException | None, elapsed: float, stdout: bytes | None = None
    ) -> None:
        self.command = command
        self.error = error
        self.elapsed = elapsed
        self.stdout = stdout
        self.timed_out = self.truncated = False

    @property
    def returncode(self) -> int:
        """0, or 1 if it raised."""
        return 0 if self.error is None else 1

    @property
    def ok(self) -> bool:
        """Whether it did not raise, and returned in time."""
        return self.error is None and not self.timed_out

    def __reduce__(self) -> tuple[Any, ...]:
        command = self.command.without_objects()
        state = {"timed_out": self.timed_out, "truncated": self.truncated}
        return FunctionResult, (command, self.error, self.elapsed, self.stdout), (None, state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FunctionResult):
            return NotImplemented
        mine, theirs = ((str(r.command), repr(r.error), r.elapsed, r.stdout) for r in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self.elapsed, self.stdout))

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

    Attributes:
        is_over: it has closed what it owned.
    """

    __slots__ = (
        "_is_cut", "_is_first", "_is_last", "_kept", "_kept_size", "_pipeline", "_sink", "_source", "_use", "function",
        "is_over",
    )  # fmt: skip

    def __init__(self, function: Function, pipeline: Pipeline, use: str, is_first: bool, is_last: bool) -> None:
        import threading  # noqa: F401 - now: when the thread is to start there may be no descriptor to read it by

        self.function = function
        self._pipeline = pipeline
        self._use = use
        self._is_first = is_first
        self._is_last = is_last
        self._kept: list[bytes] = []
        self._kept_size = 0
        self.is_over = False
        self._is_cut = False  # not all was kept
        self._source = self._opened(0, pipeline.stdin) if is_first else None
        self._sink = self._opened(1, pipeline.stdout) if is_last else None

    def _opened(self, which: int, given: Any) -> Any:
        """The owner of a descriptor, or a number or an object that stays the caller's, or None."""
        if is_opened(given):
            return open_file(self.function, which, given)
        return None if isinstance(given, (str, bytes, tuple)) or given in (None, PIPE, DEVNULL) else given

    def connect(self, source: Any, sink: Any) -> None:
        """Take the owners of the descriptors to read from and to write to; None leaves what the pipeline was given."""
        self._source = self._source if source is None else source
        self._sink = self._sink if sink is None else sink

    def close(self) -> None:
        """Close what it owns."""
        for owner in (self._source, self._sink):
            if hasattr(owner, "fd"):
                close(owner)
        self.is_over = True

    def refused(self, error: BaseException) -> FunctionResult:
        """What is left where `start` has raised `error`, and will not be called again."""
        self.close()
        return FunctionResult(self.function, error, 0.0)

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
        result = FunctionResult(self.function, error, time.monotonic() - began, captured)
        result.truncated = self._is_cut
        return result

    def start(self, ended: Callable[[FunctionResult], None]) -> Thread:
        """Run it in a thread of its own, and there call `ended` with what is left of it.

        Raises:
            ResourceExhausted: there is no room for a thread. It may be tried again, or `refused`.
        """
        import threading

        # An exception may come at the start of a thread that begins all the same, and then owns what is open; of one
        # that does not `threading` keeps the arguments for ever.
        waiting = [(self, ended)]

        def call() -> None:
            try:
                run, then = waiting.pop()
            except IndexError:
                return
            then(run())

        # A daemon: nobody can end a function that does not return, and nobody should have to wait for it.
        thread = threading.Thread(target=call, name="corelane stage", daemon=True)
        handled = sys.exc_info()[1]
        try:
            thread.start()
        except BaseException as error:
            interrupt: BaseException | None = error
            if isinstance(error, RuntimeError):
                # So it says that no thread could be made. But an interrupt of its wait for the thread can also find a
                # lock of `threading` unlocked, whose RuntimeError then hides it.
                interrupt = None if error.__context__ is handled else error.__context__
            with contextlib.suppress(IndexError):
                run, _ = waiting.pop()
                if interrupt is not None:
                    run.close()
            if interrupt is not None:
                raise interrupt from None
            why = "the limit on threads is reached (ulimit -u, pids.max); wait for some to end"
            message = f"cannot start {self.function}: {why}"
            raise spawn_failed(message, command=self.function, stage="clone", errno=errno.EAGAIN) from None
        return thread

    def _pump(self) -> None:
        unit, source = self.function.unit, self._read()
        made = self.function.function(lines_of(self._pipeline, source, False) if unit == "lines" else source)
        if isinstance(made, (str, bytes)) or not hasattr(made, "__iter__"):
            raise TypeError(f"{self.function} must return or yield {unit}, not {made!r}")
        pieces: Iterator[Any] = iter(made)
        kind, called = (str, "str") if unit == "lines" else (_BYTES, "bytes")
        # One for all lines: some encodings begin with a mark, which belongs to the first alone.
        encoder = codecs.getincrementalencoder(self._pipeline.option("encoding", "utf-8"))
        encode_line = encoder(self._pipeline.option("errors", "strict")).encode
        try:
            for piece in pieces:
                is_right = isinstance(piece, kind)
                if not is_right:
                    raise TypeError(f"the {unit} of {self.function} must be {called}, not {piece!r}")
                self._write(encode_line(piece if piece[-1:] == "\n" else piece + "\n") if unit == "lines" else piece)
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
        self._is_cut = True
        if option("on_limit", "fail") == "fail":
            message = f"{self.function} wrote more than max_output={most} bytes; raise it, or give on_limit='truncate'"
            raise OutputLimitExceeded(message, command=self._pipeline)
        if option("on_limit") == "kill":
            raise _Enough


def _number_of(end: Any, ours: int) -> int:
    if end is None:
        return ours
    if isinstance(end, int):
        return end
    return int(end.fd) if hasattr(end, "fd") else int(end.fileno())
