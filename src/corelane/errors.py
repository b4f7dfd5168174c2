"""Every error that corelane raises.

One tree under `CorelaneError`. An error that stands for an errno is also the `OSError` subclass that people already
catch (`FileNotFoundError`, `PermissionError`, ...), and one that stands for a deadline is also a `TimeoutError`.
Every message names the command or object, what was asked, and what to do about it.

This module knows nothing of processes: commands and results are carried, not inspected beyond their public fields.
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any


__all__ = [
    "AlreadyHeld",
    "BrokenBarrier",
    "CallFailed",
    "CgroupUnavailable",
    "Closed",
    "CorelaneError",
    "Corrupted",
    "CpuError",
    "CpuRefused",
    "NonZeroExit",
    "NotHeld",
    "NotOwner",
    "NotSupported",
    "OutputLimitExceeded",
    "PeerDied",
    "PoolExhausted",
    "ProcessError",
    "ProcessTimeout",
    "QueueEmpty",
    "QueueFull",
    "ResourceExhausted",
    "ShmError",
    "ShmTimeout",
    "SideTaken",
    "Signaled",
    "SpawnFailed",
    "StaleBlock",
    "StatusUnknown",
    "TeeFailed",
]


class CorelaneError(Exception):
    """The root of all errors raised by corelane."""


class NotSupported(CorelaneError):
    """The platform, or this build of corelane, cannot do what was asked."""


class CallFailed(CorelaneError, OSError):
    """A call into the C core failed for a reason that no narrower error describes."""


class CpuError(CorelaneError):
    """Something about CPUs, scheduling or memory policy is not as it must be."""


class CpuRefused(CpuError, OSError):
    """The system refused a placement or a priority. What is raised is also the OSError of its errno: PermissionError,
    ProcessLookupError, ... `what` is what was asked of which object, `advice` what to do or whom to ask for what."""

    def __init__(self, what: str, number: int, advice: str = "") -> None:
        reason = os.strerror(number) if number else "not applied"
        super().__init__(number, f"{what}: {reason}" + (f": {advice}" if advice else ""))
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[Any, ...]:
        return cpu_refused, (self.what, self.errno, self.advice)


class CpuNotPermitted(CpuRefused, PermissionError):
    """EPERM, EACCES."""


class CpuNoSuchProcess(CpuRefused, ProcessLookupError):
    """ESRCH: the process or thread is gone."""


def cpu_refused(what: str, number: int, advice: str = "") -> CpuRefused:
    """The CpuRefused that is also the right OSError for `number`."""
    kinds = {_errno.EPERM: CpuNotPermitted, _errno.EACCES: CpuNotPermitted, _errno.ESRCH: CpuNoSuchProcess}
    return kinds.get(number, CpuRefused)(what, number, advice)


def cpu_unreadable(path: str, number: int) -> CpuError:
    """For a file or directory of the system's that is there and cannot be read."""
    if number == _errno.EFBIG:
        return CpuError(f"{path} does not end: it cannot be what a kernel says")
    if number in (_errno.EMFILE, _errno.ENFILE):
        whose = "this process has" if number == _errno.EMFILE else "all processes together have"
        remedy = f": {whose} too many descriptors open; close some, or ask for a higher limit (ulimit -n, fs.file-max)"
    elif number in (_errno.EACCES, _errno.EPERM):
        remedy = ": ask the administrator for the right to read it"
    else:
        remedy = ""
    return CpuError(f"{path} cannot be read: {os.strerror(number)}{remedy}")


class ShmError(CorelaneError):
    """Shared memory could not be made, found or used."""


class Corrupted(ShmError):
    """Shared memory does not hold what it must: it is foreign, truncated, of another version, or was overwritten."""


class QueueFull(ShmError):
    """There was no room in time. `done` is how many of several records were put."""

    def __init__(self, message: str, done: int = 0) -> None:
        super().__init__(message, done)
        self.done = done

    def __str__(self) -> str:
        return str(self.args[0])


class QueueEmpty(ShmError):
    """There was nothing in time."""


class PoolExhausted(ShmError):
    """No block of a pool was free in time."""


class StaleBlock(ShmError):
    """A block was freed since its handle was made, or its token was taken, recalled, or died with its sender."""


class Closed(ShmError):
    """The other side has closed: all that it put was got, or nobody will get what is put."""


class PeerDied(ShmError):
    """The process of the other side has died without closing. `pid` is its number, in its own pid namespace."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message, pid)
        self.pid = pid

    def __str__(self) -> str:
        return str(self.args[0])


class ReaderBlocks(QueueFull):
    """A lossless broadcast had no room in time, as a live reader has not got what is in the way. `pid` is its process;
    -1: it did not say."""

    def __init__(self, message: str, pid: int, done: int = 0) -> None:
        super().__init__(message, done)
        self.args = (message, pid, done)
        self.pid = pid


class RecordsLost(ShmError):
    """A reader of a broadcast was overtaken. `lost` is how many records it has lost by that; the next get goes on after
    them."""

    def __init__(self, message: str, lost: int) -> None:
        super().__init__(message, lost)
        self.lost = lost

    def __str__(self) -> str:
        return str(self.args[0])


class Evicted(ShmError):
    """A reader of a lossless broadcast was too slow, and its policy is "evict": it gets nothing more, until it
    subscribes anew."""


class SideTaken(ShmError):
    """Another handle, which lives, is what this one would have to be: the producer, the consumer. `pid` is its
    process."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message, pid)
        self.pid = pid

    def __str__(self) -> str:
        return str(self.args[0])


class AlreadyHeld(ShmError, RuntimeError):
    """This thread, or task, has the lock: it would wait for itself for ever."""


class NotHeld(ShmError, RuntimeError):
    """What was to be released is not held here. `pid` is who has it: None: nobody; -1: one that did not say."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message, pid)
        self.pid = pid

    def __str__(self) -> str:
        return str(self.args[0])


class BrokenBarrier(ShmError, RuntimeError):
    """One of those who waited at it died, or waited no longer, or somebody has broken or reset it: `pid`."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message, pid)
        self.pid = pid

    def __str__(self) -> str:
        return str(self.args[0])


class ShmTimeout(ShmError, TimeoutError):
    """The time is over. `pid` is the live process that has what was waited for, at work or stopped; -1: it did not say
    its number; None: there is none, or several."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(_errno.ETIMEDOUT, message)
        self.pid = pid

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.strerror, self.pid)


class ShmFailed(ShmError, OSError):
    """The system refused. What is raised is also the OSError of its errno: FileExistsError, FileNotFoundError, ..."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)

    def __str__(self) -> str:
        return str(self.strerror)


class ShmExists(ShmFailed, FileExistsError):
    """EEXIST: the name is taken."""


class ShmNotFound(ShmFailed, FileNotFoundError):
    """ENOENT: there is nothing of that name."""


class ShmNotPermitted(ShmFailed, PermissionError):
    """EACCES, EPERM."""


def shm_failed(number: int, message: str) -> ShmFailed:
    """The ShmFailed that is also the right OSError for `number`."""
    kinds: dict[int, type[ShmFailed]] = {
        _errno.EEXIST: ShmExists,
        _errno.ENOENT: ShmNotFound,
        _errno.EACCES: ShmNotPermitted,
        _errno.EPERM: ShmNotPermitted,
    }
    return kinds.get(number, ShmFailed)(number, message)


class ProcessError(CorelaneError):
    """Something went wrong with a child process.

    `command` is the Command, `result` the Result as far as it is known (None if there never was a child), and
    `returncode`, `stdout` and `stderr` are the result's.
    """

    def __init__(self, message: str, *, command: Any = None, result: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.command = command
        self.result = result

    @property
    def returncode(self) -> int | None:
        """The exit code, -N for signal N, or None if it is not known."""
        return None if self.result is None else self.result.returncode

    @property
    def stdout(self) -> bytes | None:
        """What was captured of stdout, also when the run did not finish."""
        return None if self.result is None else self.result.stdout

    @property
    def stderr(self) -> bytes | None:
        """What was captured of stderr, also when the run did not finish."""
        return None if self.result is None else self.result.stderr

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by calling the class with their args, which keyword arguments do not survive.
        state = dict(self.__dict__)
        if self.command is not None:
            state["command"] = self.command.without_objects()  # a worker must be able to report, whatever it had open
        return _rebuild, (type(self), self.message, state, getattr(self, "errno", None))


def _rebuild(cls: type[ProcessError], message: str, state: dict[str, Any], number: int | None) -> ProcessError:
    error = cls.__new__(cls)
    if isinstance(error, OSError) and number is not None:
        OSError.__init__(error, number, os.strerror(number))
    else:
        Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class SpawnFailed(ProcessError, OSError):
    """The child could not be started; nothing of it is left. What is raised is also the OSError of its errno: catch
    FileNotFoundError, PermissionError and so on for one of them. `stage` is the step that failed ("exec", "cwd",
    "limits", ...) and `errno` says why."""

    def __init__(self, message: str, *, command: Any = None, stage: str, errno: int) -> None:
        ProcessError.__init__(self, message, command=command)
        OSError.__init__(self, errno, os.strerror(errno))
        self.stage = stage


class ResourceExhausted(SpawnFailed):
    """The system had no room for another process, pipe or descriptor: EAGAIN, EMFILE, ENFILE or ENOMEM. The same
    call may work a moment later."""


# What `spawn_failed` really raises: each is also the OSError that people already catch for that errno.
class SpawnNotFound(SpawnFailed, FileNotFoundError):
    """ENOENT: the program, its interpreter or its working directory is not there."""


class SpawnNotADirectory(SpawnFailed, NotADirectoryError):
    """ENOTDIR: a part of the path is no directory."""


class SpawnNotPermitted(SpawnFailed, PermissionError):
    """EACCES, EPERM: the program may not be executed, or an option may not be used."""


class SpawnNoSuchProcess(SpawnFailed, ProcessLookupError):
    """ESRCH: the parent died while the child was being tied to it."""


class ResourceTemporarilyExhausted(ResourceExhausted, BlockingIOError):
    """EAGAIN: the limit on processes is reached."""


_SPAWN_FAILURES: dict[int, type[SpawnFailed]] = {
    _errno.ENOENT: SpawnNotFound,
    _errno.ENOTDIR: SpawnNotADirectory,
    _errno.EACCES: SpawnNotPermitted,
    _errno.EPERM: SpawnNotPermitted,
    _errno.ESRCH: SpawnNoSuchProcess,
    _errno.EAGAIN: ResourceTemporarilyExhausted,
    _errno.EMFILE: ResourceExhausted,
    _errno.ENFILE: ResourceExhausted,
    _errno.ENOMEM: ResourceExhausted,
}


def spawn_failed(message: str, *, command: Any, stage: str, errno: int) -> SpawnFailed:
    """The SpawnFailed that is also the right OSError for `errno`."""
    return _SPAWN_FAILURES.get(errno, SpawnFailed)(message, command=command, stage=stage, errno=errno)


class CgroupUnavailable(ProcessError, OSError):
    """No cgroup could be made or entered for the child."""

    def __init__(self, message: str, *, command: Any = None, errno: int = _errno.ENOENT) -> None:
        ProcessError.__init__(self, message, command=command)
        OSError.__init__(self, errno, os.strerror(errno))


class ProcessTimeout(ProcessError, TimeoutError):
    """The deadline passed. A run's scope has been killed and `result` has the partial output; a `Process.wait` only
    stopped waiting. `timeout` is in seconds."""

    def __init__(self, message: str, *, command: Any = None, result: Any = None, timeout: float) -> None:
        ProcessError.__init__(self, message, command=command, result=result)
        OSError.__init__(self, _errno.ETIMEDOUT, os.strerror(_errno.ETIMEDOUT))
        self.timeout = timeout


class NonZeroExit(ProcessError):
    """The child ended with a status other than 0. `code` is that status, `stderr_tail` the last bytes it wrote to
    stderr, if that was captured."""

    def __init__(self, message: str, *, command: Any = None, result: Any = None, code: int, stderr_tail: bytes) -> None:
        super().__init__(message, command=command, result=result)
        self.code = code
        self.stderr_tail = stderr_tail


class Signaled(ProcessError):
    """A signal ended the child. `signal` is its number, `core_dumped` whether it left a core."""

    def __init__(
        self, message: str, *, command: Any = None, result: Any = None, signal: int, core_dumped: bool
    ) -> None:
        super().__init__(message, command=command, result=result)
        self.signal = signal
        self.core_dumped = core_dumped


class StatusUnknown(ProcessError):
    """The child has ended, but its status was taken by somebody else in this process: a `waitpid(-1)`, or SIGCHLD is
    ignored."""


class OutputLimitExceeded(ProcessError):
    """The child wrote more than `max_output` bytes (or a line longer than `max_line`) and was killed."""


class TeeFailed(ProcessError, OSError):
    """The child ran to its end, but its output could not be copied to the tee's descriptor; `result` has it all."""

    def __init__(self, message: str, *, command: Any = None, result: Any = None, errno: int) -> None:
        ProcessError.__init__(self, message, command=command, result=result)
        OSError.__init__(self, errno, os.strerror(errno))


class NotOwner(ProcessError):
    """A Process was used in a process that did not start it (a forked child of its owner)."""
