"""Segments as the standard streams of children: what they read and write goes through the kernel, not through Python.

A stream owns an open file description, and with it an offset: of the segment itself where that can be, else of a file
in memory of exactly that size. Reading a segment's file ends where the file does, so only what ends there can be read
in place. Writing in place needs a size that is sealed, and nothing behind it that a child could overwrite.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import warnings

from corelane._ffi import ffi, lib
from corelane._values import flag, integer
from corelane.errors import shm_failed

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from corelane.shm.segment import Segment

__all__ = ["SegmentInput", "SegmentOutput", "whole"]

_OPENED = ffi.typeof("cl_opened *")


class _Stream:
    """The description that a child gets, and the part of the segment that it stands for.

    Attributes:
        offset, size: that part, in bytes of the data.
        in_place: whether the child has the segment's own memory, not other that is copied.
    """

    __slots__ = ("_base", "_opened", "_part", "in_place", "offset", "size")

    _writes = False

    def __init__(self, segment: Segment, offset: int, size: int | None, copy: bool = False) -> None:
        self.offset = integer(0, segment.size)("offset", offset)
        rest = segment.size - offset
        self.size = rest if size is None else integer(0, rest)("size", size)
        self._part: memoryview | None = segment.buf[offset : offset + self.size]
        self._base = segment.data_offset + offset
        self._opened = ffi.gc(ffi.new(_OPENED, {"fd": -1}), lib.cl_opened_close)
        fd = segment.fileno()
        fits = not flag("copy", copy) and os.fstat(fd).st_size == self._base + self.size
        self.in_place = fits and (not self._writes or _is_fixed(fd)) and self._open_anew(fd)
        if not self.in_place:
            self._base = 0
            self._open_beside(segment)

    def _open_anew(self, fd: int) -> bool:
        while (rc := lib.cl_segment_stream(fd, self._writes, self._base, self._opened)) == -errno.EINTR:
            continue  # whatever handler there is for that signal has run by now
        return bool(rc >= 0)  # without /proc, or the permission, it is done without

    def _open_beside(self, segment: Segment) -> None:
        rc = lib.cl_segment_beside(self.size, self._opened)
        if rc < 0:
            raise shm_failed(-rc, f"cannot make memory for {self!r} of {segment!r}: {os.strerror(-rc)}")

    @property
    def closed(self) -> bool:
        return int(self._opened.fd) < 0

    def fileno(self) -> int:
        """Its descriptor, with the offset where the next child goes on."""
        if self.closed:
            raise ValueError(f"{self!r} cannot be used any more")
        return int(self._opened.fd)

    def _copy(self, call: Callable[[int, Any, int], int], given: Callable[[memoryview], Any], size: int) -> None:
        """Between the mapping and the file beside it; by the kernel, once."""
        part, done = self._part, 0
        assert part is not None
        try:
            while done < size:  # no more at once than a call takes
                moved = call(self._opened.fd, given(part[done:size]), done)
                if not moved:  # a child has made it shorter, where nothing seals it
                    break
                done += moved
        except OSError as error:
            number = error.errno or errno.EIO
            raise shm_failed(number, f"cannot copy the bytes of {self!r}: {os.strerror(number)}") from None

    def _moved(self) -> int:
        """Bytes that children have read or written: how far the offset is."""
        return min(max(os.lseek(self.fileno(), 0, os.SEEK_CUR) - self._base, 0), self.size)

    def close(self) -> None:
        """Close the descriptor; children that have it go on. Does nothing the second time."""
        lib.cl_opened_close(self._opened)
        self._part = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<{type(self).__name__} of {self.size} bytes from {self.offset}{state}>"


class SegmentInput(_Stream):
    """A part of a segment as a child's stdin; see `Segment.stdin`. A context manager, and closed when it is dropped."""

    __slots__ = ()

    def _open_beside(self, segment: Segment) -> None:
        super()._open_beside(segment)
        self._copy(os.pwrite, lambda part: part, self.size)


class SegmentOutput(_Stream):
    """A part of a segment as a child's stdout; see `Segment.stdout`. A context manager; what was not written in place
    is lost with one that is dropped instead of closed, which warns."""

    __slots__ = ("_written",)

    _writes = True

    def __init__(self, segment: Segment, offset: int, size: int | None, copy: bool = False) -> None:
        self._written: int | None = None
        if segment.readonly:
            raise ValueError(f"{segment!r} was attached read-only: nothing can be written to it")
        super().__init__(segment, offset, size, copy)

    @property
    def written(self) -> int:
        """Bytes that children have written: how far their offset is. Also when it is closed."""
        return self._moved() if self._written is None else self._written

    def close(self) -> None:
        """Put what was written in its place, where it is not there yet, and close the descriptor. The children should
        have ended. Does nothing the second time.

        Raises:
            ShmFailed: where sizes cannot be sealed (macOS): children have written beyond the end (EFBIG). What fits is
                there.
        """
        if self._part is None:
            return
        written = self.written
        beyond = os.lseek(self.fileno(), 0, os.SEEK_CUR) - self._base - self.size
        if not self.in_place:
            self._copy(os.preadv, lambda part: [part], written)
        self._written = written
        super().close()
        if beyond > 0 and not self.in_place:
            raise shm_failed(
                errno.EFBIG, f"{self!r} has room for {self.size} bytes, and {beyond} more were written: they are lost"
            )

    def __del__(self) -> None:
        if getattr(self, "in_place", True) or self.closed or sys.is_finalizing():
            return
        if self._moved():
            warnings.warn(f"{self!r} was not closed: what was written to it is lost", ResourceWarning, stacklevel=1)


def _is_fixed(fd: int) -> bool:
    """Whether writes to the file can neither make it longer nor be refused for the size of its pages."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except (OSError, AttributeError):
        return False  # of no file system in memory; macOS has no seals
    return bool(seals & fcntl.F_SEAL_GROW) and os.fstatvfs(fd).f_bsize == os.sysconf("SC_PAGESIZE")


def whole(segment: Segment, which: int) -> Any:
    """The owner (a cl_opened) of a descriptor of all of a segment, for one child's stdin (0), stdout (1) or stderr (2).

    Raises:
        ValueError: it cannot be written in place, and somebody would have to copy when the child has ended.
    """
    if which == 0:
        return SegmentInput(segment, 0, None)._opened
    target = SegmentOutput(segment, 0, None)
    if not target.in_place:
        target.close()
        raise ValueError(
            f"{segment!r} cannot be a child's stdout itself (it has a name, huge pages, or is a file): "
            "give segment.stdout(), in a with block that ends after the child"
        )
    return target._opened
