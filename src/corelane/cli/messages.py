"""What a command says of itself: one line per message, on stderr. Owns nothing."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from corelane.cli.sink import sink_of

__all__ = ["message", "say", "write_line"]

_READ_WITHIN = 1.0  # seconds: whoever reads no more must not keep us from our end


def message(text: str) -> str:
    """A message as it is written, on one line: a file name in it may have more."""
    return f"corelane: {text}".replace("\n", "\\n")


def say(text: str) -> None:
    """Write a message to stderr, if there is one, and if it is read within a while."""
    left = message(text).encode("utf-8", "surrogateescape") + b"\n"
    until = time.monotonic() + _READ_WITHIN
    with suppress(OSError):  # there is no other place to complain at
        while left and (now := time.monotonic()) < until:
            left = left[sink_of(2).write(left, until - now) :]


def write_line(fd: int, line: str) -> None:
    """One line, whole; sys.stderr may be missing, and would keep what it could not write until the end."""
    left = line.encode("utf-8", "surrogateescape") + b"\n"
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody made it non-blocking, for all who share it
            select.select([], [fd], [])
