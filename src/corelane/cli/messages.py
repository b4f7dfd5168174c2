"""What a command says of itself: one line per message, on stderr. Owns nothing."""

from __future__ import annotations

import os
import select
from contextlib import suppress

__all__ = ["message", "say", "write_line"]


def message(text: str) -> str:
    """A message as it is written, on one line: a file name in it may have more."""
    return f"corelane: {text}".replace("\n", "\\n")


def say(text: str) -> None:
    """Write a message to stderr, if there is one."""
    with suppress(OSError):  # there is no other place to complain at
        write_line(2, message(text))


def write_line(fd: int, line: str) -> None:
    """One line, whole; sys.stderr may be missing, and would keep what it could not write until the end."""
    left = line.encode("utf-8", "surrogateescape") + b"\n"
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody made it non-blocking, for all who share it
            select.select([], [fd], [])
