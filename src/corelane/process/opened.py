"""Descriptors that are closed with their owner.

`os.open` returns a number. An exception that a signal raises before the number is kept loses it, and nobody can close
the descriptor any more. Here the core opens into an object that is there before, and that closes when it goes.
"""

from __future__ import annotations

import errno
import os

from corelane._ffi import ffi, lib

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["OPENED", "close", "opened", "owned_pipe"]

OPENED = ffi.typeof("cl_opened *")
close = lib.cl_opened_close


def opened(path: str | bytes | os.PathLike[Any], flags: int, directory: int = -1) -> Any:
    """Open a file; the result's `fd` is its descriptor.

    Args:
        flags: os.O_*; a new file gets mode 0o666 without the umask's bits.
        directory: a descriptor of the directory that a relative `path` begins at.

    Raises:
        OSError: as os.open.
    """
    owner = ffi.gc(ffi.new(OPENED, {"fd": -1}), close)
    name = os.fsencode(path)
    while (rc := lib.cl_opened_open(owner, directory, name, flags)) == -errno.EINTR:
        continue  # whatever handler there is for that signal has run by now
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc), path)
    return owner


def owned_pipe() -> tuple[Any, Any]:
    """A pipe: the owners of its reading and its writing end.

    Raises:
        OSError: as os.pipe.
    """
    reader, writer = (ffi.gc(ffi.new(OPENED, {"fd": -1}), close) for _ in range(2))
    rc = lib.cl_opened_pipe(reader, writer)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return reader, writer
