"""Cgroups for `contain="cgroup"` and `cgroup=`.

Owns one directory and one descriptor per contained child, from `Scope.create` to `Scope.close`. A scope is emptied by
the C core (cgroup.kill) before it is closed; what cannot be removed then is left and reported, never waited for
without bound. No systemd is spoken to: the subtree must be writable for us already.
"""

from __future__ import annotations

import errno
import itertools
import os
import time

from corelane.errors import CgroupUnavailable, CorelaneError, spawn_failed
from corelane.process.explain import ADVICE
from corelane.process.opened import close, opened

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.command import Command

__all__ = ["Scope", "find", "is_v1", "open_target"]

_numbers = itertools.count(1)
_EMPTY_WITHIN = 1.0  # seconds for killed members to be gone; they are dead, the kernel only has to notice


def find() -> str | None:
    """The cgroup v2 directory of this process, or None where no v2 hierarchy is mounted."""
    mount = None
    try:
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                if after.startswith("cgroup2 "):
                    root, mount = before.split()[3:5]
                    break
        with open("/proc/self/cgroup") as lines:
            own = next((line[3:].rstrip("\n") for line in lines if line.startswith("0::")), None)
    except FileNotFoundError:
        return None
    if mount is None or own is None:
        return None
    below = own.removeprefix(root) if root != "/" else own
    return os.path.normpath(f"{mount}/{below}")


def is_v1(path: str | bytes) -> bool:
    """Whether the directory belongs to a v1 hierarchy."""
    return not os.path.exists(os.path.join(os.fsencode(path), b"cgroup.controllers"))


def open_target(path: str | bytes, command: Command) -> Any:
    """An owned descriptor (see `opened`) of a cgroup that a child can be born in.

    Raises:
        CgroupUnavailable: it cannot be opened, is no cgroup, or is frozen (a child born frozen would hold its parent
            in clone for ever).
    """
    try:
        owner = opened(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _refused(f"cgroup {path!r} cannot be opened", command, error) from None
    try:
        os.stat("cgroup.procs", dir_fd=owner.fd)
    except OSError as error:
        raise _refused(f"{path!r} is no cgroup: it has no cgroup.procs", command, error) from None
    if _event(owner.fd, "frozen") == "1" or _text(owner.fd, "freezer.state") not in ("", "THAWED\n"):
        raise CgroupUnavailable(
            f"cannot start {command}: cgroup {path!r} is frozen; write 0 to its cgroup.freeze first (v1: THAWED to "
            "freezer.state)",
            command=command,
            errno=errno.EBUSY,
        )
    return owner


class Scope:
    """A new cgroup for one child and all that it starts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory: Any = None
        self._maker = os.getpid()
        self._closed = False

    @property
    def fd(self) -> int:
        """The descriptor of its directory, or -1."""
        return -1 if self._directory is None else int(self._directory.fd)

    @classmethod
    def create(cls, parent: str | bytes | None, command: Command) -> Scope:
        """Make a cgroup below `parent` (default: our own cgroup).

        Raises:
            CgroupUnavailable: no v2 hierarchy, or no right to make one there; the message says what to ask for.
        """
        try:
            where = os.fsdecode(parent) if parent is not None else find()
        except OSError as error:
            raise _refused("our own cgroup cannot be found", command, error) from None
        if where is None:
            raise CgroupUnavailable(
                f"cannot start {command}: no cgroup v2 hierarchy is mounted; use contain='group'", command=command
            )
        path = os.path.join(where, f"corelane-{os.getpid()}-{next(_numbers)}")
        while os.path.exists(path):  # left by a process that was killed, and had our number: not ours to remove
            path = os.path.join(where, f"corelane-{os.getpid()}-{next(_numbers)}")
        scope = cls(path)
        try:
            os.mkdir(scope.path)
            scope._directory = open_target(scope.path, command)
            if not _has(scope.fd, "cgroup.kill"):
                raise CgroupUnavailable(
                    f"cannot start {command}: a cgroup in {where!r} could not be killed, it has no cgroup.kill: that "
                    "needs cgroup v2 and Linux 5.14; use contain='group'",
                    command=command,
                )
        except CorelaneError:
            scope.close()
            raise
        except OSError as error:
            scope._closed = True  # nothing was made
            raise _refused(
                f"no cgroup can be made in {where!r}; give cgroup= a directory that is delegated to you, or start "
                "this program with: systemd-run --user --scope -p Delegate=yes",
                command,
                error,
            ) from None
        return scope  # any other exception: `__del__` removes what was made

    def close(self, *, wait: bool = True) -> bool:
        """Remove the cgroup and those that the child made below it.

        Args:
            wait: give what was killed in it up to a second to be gone.

        Returns:
            Whether it is removed; False if something in it is still alive (a process in uninterruptible sleep).
        """
        if self._closed or self._maker != os.getpid():
            return True
        deadline = time.monotonic() + _EMPTY_WITHIN
        while wait and self.fd >= 0 and _event(self.fd, "populated") == "1" and time.monotonic() < deadline:
            time.sleep(0.0005)  # cgroup.events can be polled, but the kernel notifies at most every 10 ms
        if self._directory is not None:
            close(self._directory)
        self._closed = _remove(self.path)
        return self._closed

    def is_gone(self) -> bool:
        """For `dropped`: remove it if that can be done now."""
        return self.close(wait=False)

    def __del__(self) -> None:
        # Only an exception at a bad moment, or a Process that was dropped, leaves it to this.
        self.close(wait=False)


def _remove(path: str) -> bool:
    """Remove a cgroup, and those that the child made below it; its files go with it. Whether it is gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        # Looking for those below needs a descriptor, which there may be none of.
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return False
        return not os.path.exists(path)
    return True


def _has(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


def _event(fd: int, name: str) -> str | None:
    return dict(line.split() for line in _text(fd, "cgroup.events").splitlines()).get(name)


def _text(fd: int, name: str) -> str:
    """The content of a cgroup's file; "" where it has no such file: v1 and v2 have different ones."""
    try:
        file = opened(name, os.O_RDONLY, fd)
        return os.read(file.fd, 4096).decode()
    except OSError:
        return ""


def _refused(what: str, command: Command, error: OSError) -> CorelaneError:
    number = error.errno or errno.EIO
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        why = f"{os.strerror(number)}: {ADVICE[number]}"
        return spawn_failed(f"cannot start {command}: {why}", command=command, stage="cgroup", errno=number)
    return CgroupUnavailable(f"cannot start {command}: {what} ({os.strerror(number)})", command=command, errno=number)
