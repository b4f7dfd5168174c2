"""Writing to stdout and stderr without waiting for their reader: one who has stopped reading, or typed Ctrl-S, must
hold up neither signals nor deadlines. A Sink owns, for a terminal, a description of its own.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import stat

__all__ = ["Sink", "sink_of"]

_PIECE = 4096  # of a pipe that is writable: so much has room for certain
_AT_ONCE = 1 << 16  # of anything else


class Sink:
    """A descriptor to write to.

    Attributes:
        fd: what tells when there is room: to be waited for with POLLOUT.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll: select.poll | None = None
        self._piece = _AT_ONCE
        try:
            mode = os.fstat(fd).st_mode
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return  # a write will say so
        if stat.S_ISREG(mode):
            return
        if os.isatty(fd):
            try:  # one that is writable may have room for less; and the flags of ours are everybody's
                self.fd = os.open(os.ttyname(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self._piece = 1
        else:
            self._piece = _PIECE
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLOUT)

    def write(self, data: bytes, seconds: float = 0) -> int:
        """Write some of `data`.

        Args:
            seconds: for which room is waited for.

        Returns:
            How many bytes; 0 if there was no room.

        Raises:
            OSError: somebody has closed the other end, or the disk is full.
        """
        if self._poll is not None and not self._poll.poll(seconds * 1000):
            return 0
        try:
            return os.write(self.fd, data[: self._piece])
        except BlockingIOError:
            return 0


@functools.cache
def sink_of(fd: int) -> Sink:
    """The Sink of stdout or stderr."""
    return Sink(fd)
