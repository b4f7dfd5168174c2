"""What the jobs of `corelane batch` write: a place for each that runs, and whole blocks of output when it has ended.

A Place owns two unlinked temporary files, so that no amount of output fills our memory and none of it is mixed. An
Outbox owns what was not written yet. It never waits for a reader: one who has stopped reading must hold up neither
signals nor deadlines.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from corelane.cli.sink import sink_of
from corelane.process import Command
from corelane.process.pack import Packed, packed_like

__all__ = ["Block", "Outbox", "Place"]

Task = TypeVar("Task")

_SMALL = 1 << 16  # bytes that are kept in memory while they wait
# O_APPEND: a job that opens /dev/stdout once more begins the file anew, as in any file, and leaves no hole in it.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


def _temporary() -> int:
    """A new file that has no name and is nobody else's."""
    directory = tempfile.gettempdir()
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):  # not on this file system
            return os.open(directory, _FLAGS | os.O_TMPFILE, 0o600)
    fd, path = tempfile.mkstemp(dir=directory)
    os.unlink(path)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


class Block:
    """Some output: bytes, or a file of ours."""

    __slots__ = ("data", "fd", "size", "target")

    def __init__(self, target: int, data: bytes, fd: int = -1, size: int = 0) -> None:
        self.target = target
        self.data = data
        self.fd = fd
        self.size = size or len(data)

    def piece(self, at: int, size: int) -> bytes:
        return self.data[at : at + size] if self.fd < 0 else os.pread(self.fd, size, at)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Place:
    """Where one job at a time runs.

    Args:
        options: of every job's Command.
        grouped: whether output is kept until the job has ended; else it goes where ours goes.
    """

    def __init__(self, options: dict[str, Any], grouped: bool) -> None:
        self._files: list[int] = []
        self._is_used = False
        try:
            for _ in range(2 if grouped else 0):
                self._files.append(_temporary())
            self._options = {**options, **dict(zip(("stdout", "stderr"), self._files, strict=False))}
            self._template = Command("true", **self._options)
            self._packed = self._template.packed("many")
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Fresh files, under the same numbers. The old ones may still be held, by what a job left behind; and a try
        that failed has written to them.

        Raises:
            OSError: there is no room for them.
        """
        if self._is_used:
            for fd in self._files:
                fresh = _temporary()
                os.dup2(fresh, fd, inheritable=False)
                os.close(fresh)
        self._is_used = True

    def command(self, args: Any, options: dict[str, Any]) -> Command:
        """The Command of a job here.

        Raises:
            TypeError, ValueError: the job is wrong.
        """
        if not options:
            return self._template.like(args)
        both = {**self._options, **options}
        if "rlimits" in options and "rlimits" in self._options:
            both["rlimits"] = {**self._options["rlimits"], **options["rlimits"]}
        return Command(*args, **both)

    def packed(self, command: Command) -> Packed:
        """The structs of a command of this place; those without options of their own share them."""
        if command.options_given is self._template.options_given:
            return packed_like(self._packed, command)
        return command.packed("many")

    def output(self) -> list[Block]:
        """What the job has written, once it has ended."""
        blocks = []
        for target, fd in enumerate(self._files, start=1):
            size = os.fstat(fd).st_size
            if 0 < size <= _SMALL:
                blocks.append(Block(target, os.pread(fd, size, 0)))
            elif size:
                blocks.append(Block(target, b"", os.dup(fd), size))
        return blocks

    def close(self) -> None:
        for fd in self._files:
            os.close(fd)
        self._files = []


class Outbox(Generic[Task]):
    """Blocks of output on their way to our stdout and stderr, those of one job after those of another."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Task, list[Block]]] = deque()
        self._at = 0  # bytes of the first block that were written

    @property
    def waits_for(self) -> int | None:
        """The descriptor that has to become writable; None if nothing waits."""
        return sink_of(self._queue[0][1][0].target).fd if self._queue and self._queue[0][1] else None

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, task: Task, blocks: list[Block]) -> None:
        """The output of a job."""
        self._queue.append((task, blocks))

    def write(self) -> Iterator[Task]:
        """Write what can be written now; yields each job of which all was.

        Raises:
            OSError: somebody has closed the other end, or the disk is full.
        """
        while self._queue:
            task, blocks = self._queue[0]
            while blocks:
                if not self._write_some(blocks[0]):
                    return
                blocks.pop(0).close()
                self._at = 0
            self._queue.popleft()
            yield task

    def _write_some(self, block: Block) -> bool:
        """Write as much of it as goes without waiting; whether that was all."""
        sink = sink_of(block.target)
        while self._at < block.size:
            written = sink.write(block.piece(self._at, _SMALL))
            if not written:
                return False
            self._at += written
        return True

    def clear(self) -> list[Task]:
        """Throw away what was not written; returns whose it was."""
        tasks = []
        while self._queue:
            task, blocks = self._queue.popleft()
            tasks.append(task)
            for block in blocks:
                block.close()
        self._at = 0
        return tasks
