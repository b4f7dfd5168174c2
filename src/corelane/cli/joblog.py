"""The log of `corelane batch`: one line of JSON for each job that has ended, and from it what is done already.

A JobLog owns its file: open, locked against a second batch, and appended to with one write for each line. So whenever
we are killed, all lines but the last are whole; a torn last line is a job that is run again.

It is not synced line by line, only at its end: what was written survives our own death, and a crash of the machine
costs the jobs of the last seconds once more, where a sync for each would cost every job milliseconds.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corelane.cli.source import Entry
    from corelane.process import Result

__all__ = ["JobLog", "LogError", "done_in", "line_of"]

_BEGIN = b'{"corelane":1,"key":"'  # of every line; 1 is the version of what follows
_LOCKED_WITHIN = 2.0  # seconds: children of a batch that was just killed may hold its log until they exec
_encode = json.JSONEncoder(separators=(",", ":")).encode


class LogError(Exception):
    """The log cannot be used; nothing in it was changed."""


class JobLog:
    """The log, open for appending.

    Args:
        path: where it is.
        resume: there may be one already; it is gone on with.

    Attributes:
        done: how often each key has succeeded.
        damaged: lines that are no longer JSON.
        locked: False where the file system has no locks, so that nobody notices a second batch.

    Raises:
        LogError: it is not ours, or not empty without `resume`, or another batch writes it.
        OSError: it cannot be opened, read or written.
    """

    def __init__(self, path: str, resume: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self.locked = self._lock(path)
            self._size = 0
            self.done: Counter[str] = Counter()
            self.damaged = 0
            is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
            if is_file and os.fstat(self._fd).st_size:
                if not resume:
                    raise LogError(f"{path!r} is there already: --resume goes on with it, or remove it")
                self.done, self.damaged, self._size = done_in(path)
                os.ftruncate(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self, path: str) -> bool:
        until = time.monotonic() + _LOCKED_WITHIN
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LogError(f"{path!r} is being written by another batch") from None
                time.sleep(0.02)
            except OSError as error:
                if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                    return False
                raise

    def append(self, line: str) -> None:
        """Add a line, wholly or not at all.

        Raises:
            OSError: there is no room for it.
        """
        data = line.encode("utf-8", "surrogateescape")
        written = os.write(self._fd, data)
        if written < len(data):  # the disk was full in the middle of it
            os.ftruncate(self._fd, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def close(self) -> None:
        """Bring it to the disk.

        Raises:
            OSError: that failed.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no file on a disk: a terminal, say
                raise
        finally:
            os.close(self._fd)


def done_in(path: str) -> tuple[Counter[str], int, int]:
    """What a log says was done: how often each key has succeeded, how many lines are damaged, and where its last whole
    line ends.

    Raises:
        LogError: it is not a log of ours.
        OSError: it cannot be read.
    """
    done: Counter[str] = Counter()
    damaged = end = 0
    with open(path, "rb") as file:
        for line in file:
            if not end and not line.startswith(_BEGIN) and not _BEGIN.startswith(line):
                raise LogError(f"{path!r} is no log of corelane batch, or one of another version: it is left alone")
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                said = json.loads(line)
                if said["status"] == "ok":
                    done[said["key"]] += 1
            except (ValueError, KeyError, TypeError):
                damaged += 1
    return done, damaged, end


def line_of(entry: Entry, status: str, began: float, result: Result | None, error: str | None) -> str:
    """The line of a job.

    Args:
        status: "ok", "failed" or "killed".
        began: seconds since the epoch at which its last try was started.
        result: what it came to; None if there was no child.
    """
    facts: dict[str, Any] = {
        "corelane": 1,
        "key": entry.key,
        "seq": entry.seq,
        "id": entry.id,
        "args": list(entry.args),
    }
    facts |= {"status": status, "start": round(began, 6), "elapsed": 0.0, "returncode": None, "signal": None}
    facts |= {"timed_out": False, "tries": 0, "user": 0.0, "system": 0.0, "max_rss": 0, "error": error}
    if result is not None:
        usage, number = result.usage, result.signal
        facts |= {
            "elapsed": round(result.elapsed, 6),
            "returncode": result.returncode,
            "signal": getattr(number, "name", number),
            "timed_out": result.timed_out,
            "tries": result.tries,
            "user": usage.user,
            "system": usage.system,
            "max_rss": usage.max_rss,
        }
    return _encode(facts) + "\n"
