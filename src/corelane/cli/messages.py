"""What a command says of itself, one line per message, on stderr; and what it answers, on stdout. Owns nothing."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

import click

from corelane.cli.main import OWN_FAILURE
from corelane.cli.sink import sink_of

__all__ = ["answer", "message", "say", "write_line"]

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


def answer(text: str, encoding: str = "utf-8", errors: str = "surrogateescape") -> None:
    """Write what was asked for to stdout, whole. Whoever reads the first lines only ends us, as other filters.

    Raises:
        Exit: it cannot be written, and that was said: there is no stdout, or no room.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        write_line(1, text, encoding, errors)
    except OSError as error:
        say(f"stdout: {error.strerror}")
        raise click.exceptions.Exit(OWN_FAILURE) from None


def write_line(fd: int, line: str, encoding: str = "utf-8", errors: str = "surrogateescape") -> None:
    """One line, whole; sys.stderr may be missing, and would keep what it could not write until the end."""
    left = line.encode(encoding, errors) + b"\n"
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody made it non-blocking, for all who share it
            select.select([], [fd], [])
