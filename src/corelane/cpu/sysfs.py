"""Small files of /sys and /proc, one or many in one call into the core, which no signal can come between.

Owns nothing: no descriptor outlives a call. What is not there is None, which is a fact about the machine; what cannot
be read, or says something else than it must, is a CpuError with the file's name and its text.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from corelane._ffi import ffi, lib
from corelane.cpu.lists import cpu_list
from corelane.errors import CpuError, cpu_unreadable

__all__ = ["SysFiles", "contents", "inside", "read"]

# ENODEV, ENXIO, EBUSY: the file is there and what it tells of is not, or not now (a CPU that is going offline).
_MISSING = frozenset({-errno.ENOENT, -errno.ENOTDIR, -errno.ENODEV, -errno.ENXIO, -errno.EBUSY})
_PAGE, _EACH = 8192, 64  # bytes of room at first: for one that is long, and for each
_ROOM, _MOST_ROOM = 4096, 1 << 26
_new_room = ffi.new_allocator(should_clear_after_alloc=False)


def inside(root: str, path: str) -> str:
    """The absolute `path` of the machine whose files are below `root`."""
    return path if root == "/" else root.rstrip("/") + path


def contents(path: str) -> bytes | int:
    """All that is in a small file; or -errno, as much of what is looked for is not there."""
    name, size = os.fsencode(path), _ROOM
    while size <= _MOST_ROOM:
        room = _new_room("char[]", size)
        got: int = lib.cl_read_file(name, room, size)
        if 0 <= got < size:
            found: bytes = ffi.unpack(room, got)
            return found
        if got == size:
            size *= 8  # a table of mounts, or a list of CPUs with many holes
        elif got != -errno.EINTR:  # whatever handler there is for that signal has run by now
            return got
    return -errno.EFBIG


def read(path: str) -> str | None:
    """The text of a small file of the kernel's, or None where it is not there.

    Raises:
        CpuError: it is there and cannot be read.
    """
    found = contents(path)
    if isinstance(found, bytes):
        return os.fsdecode(found)
    if found in _MISSING:
        return None
    raise cpu_unreadable(path, -found)


class SysFiles:
    """The files below one directory, and what their texts mean."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._sets: dict[str, frozenset[int]] = {}  # each text is parsed once: siblings all say the same

    def path(self, name: str) -> str:
        """Where a file is, for messages."""
        return os.path.normpath(os.path.join(self.directory, name))

    def read(self, names: Iterable[str]) -> list[str | None]:
        """The texts of files, without the white space around them; None for each that is not there.

        Raises:
            CpuError: one of them cannot be read.
        """
        left = list(names)
        texts: list[str | None] = []
        size = _PAGE + _EACH * len(left)
        while left:
            found = self._some(left, size)
            if not found:
                size *= 16  # a list of CPUs with many holes, on a kernel that gives more than a page
                if size > 1 << 30:
                    raise CpuError(f"{self.path(left[0])} does not end: it cannot be what a kernel says of CPUs")
                continue
            texts += found
            left = left[len(found) :]
        return texts

    def _some(self, names: list[str], size: int) -> list[str | None]:
        text = ffi.new("char[]", size)
        lengths = ffi.new("int64_t[]", len(names))
        packed = os.fsencode("\0".join(names)) + b"\0"
        done = lib.cl_read_files(os.fsencode(self.directory), packed, len(names), text, size, lengths)
        if done in _MISSING:
            return [None] * len(names)
        if done == -errno.EOVERFLOW:
            return []
        if done < 0:
            raise cpu_unreadable(self.directory, -done)
        texts: list[str | None] = []
        each = ffi.unpack(lengths, done)
        # Latin-1 has a character for each byte, so that lengths stay what they are.
        data, start = bytes(ffi.buffer(text, sum(length for length in each if length > 0))).decode("latin-1"), 0
        for name, length in zip(names, each, strict=False):
            if length >= 0:
                texts.append(data[start : start + length].strip())
                start += length
            elif length in _MISSING:
                texts.append(None)
            else:
                raise cpu_unreadable(self.path(name), -length)
        return texts

    def cpus(self, name: str, text: str) -> frozenset[int]:
        """The CPUs of a list, which may be empty; "(null)" is what some kernels say for none.

        Raises:
            CpuError: it is no list.
        """
        known = self._sets.get(text)
        if known is not None:
            return known
        try:
            found = frozenset(() if text in ("", "(null)") else cpu_list("the list", text))
        except ValueError as error:
            raise CpuError(f"{self.path(name)} says {text[:200]!r}: {error}") from None
        self._sets[text] = found
        return found

    def number(self, name: str, text: str) -> int:
        """A number, which may be negative where the kernel knows none.

        Raises:
            CpuError: it is no number.
        """
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
            raise CpuError(f"{self.path(name)} says {text[:200]!r}, which is no number")
        return int(text)

    def size(self, name: str, text: str) -> int:
        """A size in bytes: "32K", "1M", "512".

        Raises:
            CpuError: it is none.
        """
        factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0)
        digits = text[:-1] if factor else text
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 16):
            raise CpuError(f"{self.path(name)} says {text[:200]!r}, which is no size like 32K")
        return int(digits) * (factor or 1)
