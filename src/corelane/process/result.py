"""What a run leaves behind. A Result owns nothing but its bytes: no descriptor, no process."""

from __future__ import annotations

import signal as _signal
from collections import namedtuple
from struct import Struct

from corelane._ffi import lib

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.errors import CpuRefused
    from corelane.process.command import Command

__all__ = ["Result", "Usage"]


class Usage(
    namedtuple(
        "Usage",
        "user system max_rss minor_faults major_faults block_reads block_writes "
        "voluntary_switches involuntary_switches",
    )
):
    """What the child and its waited-for descendants used, as the kernel counted it (getrusage(2)).

    `user` and `system` are seconds of CPU time, `max_rss` is bytes, the rest are counts. Linux never reports a
    `max_rss` below what *this* process had resident when it spawned the child: the mark of the shared or copied
    address space goes through exec.
    """

    __slots__ = ()


# cl_report: 64-bit fields only, so that one unpack reads it. cl_run_report begins with one.
REPORT = Struct("=23q")
RUN_REPORT = Struct("=33q")
PID, PIDFD, STRATEGY, CONTAINED, STAGE, ERROR, PIPES = 0, 1, 2, 3, 4, 5, 6
STATE, STATUS, CORE_DUMPED, ELAPSED, USAGE = 9, 10, 11, 12, 13
NOT_APPLIED = 22
TIMED_OUT, LIMIT_HIT, PIPES_LEFT_OPEN, TEE_ERROR, FEED_LEFT, SIZES, DATA, IS_PLAIN = 23, 24, 25, 26, 27, 28, 30, 32

STRATEGIES = {
    lib.CL_STRATEGY_CLONE3: "clone3",
    lib.CL_STRATEGY_FLIGHT: "clone3-nowait",
    lib.CL_STRATEGY_VFORK: "vfork",
    lib.CL_STRATEGY_POSIX_SPAWN: "posix_spawn",
    lib.CL_STRATEGY_FORK: "fork",
}
CONTAINMENTS = {lib.CL_CONTAIN_NONE: "none", lib.CL_CONTAIN_GROUP: "group", lib.CL_CONTAIN_CGROUP: "cgroup"}
EXITED, SIGNALED, UNKNOWN = lib.CL_STATE_EXITED, lib.CL_STATE_SIGNALED, lib.CL_STATE_UNKNOWN


def returncode_of(state: int, status: int) -> int | None:
    """The exit code, -N for signal N, None while it runs or where nobody knows."""
    if state == EXITED:
        return status
    return -status if state == SIGNALED else None


def usage_of(report: tuple[int, ...]) -> Usage:
    """The Usage in an unpacked report."""
    user, system, rss, *counts = report[USAGE : USAGE + 9]
    return Usage(user / 1e6, system / 1e6, rss * 1024, *counts)


class Result:
    """What one run left behind.

    Attributes:
        stdout, stderr: the bytes captured, or None where the stream was not captured.
        index: which one of `run_many`'s commands it belongs to, from 0; else None.
        error: what `run` would have raised, where nothing is raised; else None.
        tries: how often it was run, with `retry`; this is the outcome of the last one.
    """

    __slots__ = ("_command", "_raw", "error", "index", "stderr", "stdout", "tries")

    error: Exception | None
    index: int | None
    tries: int

    def __init__(
        self,
        command: Command,
        report: tuple[int, ...] | bytes,
        stdout: bytes | None = None,
        stderr: bytes | None = None,
        index: int | None = None,
    ) -> None:
        self._command = command
        self._raw = report
        self.stdout = stdout
        self.stderr = stderr
        self.index = index
        self.error = None
        self.tries = 1

    @property
    def _report(self) -> tuple[int, ...]:
        """The report as numbers; unpacked only now, because most runs are asked for nothing but their output."""
        if isinstance(self._raw, bytes):
            self._raw = RUN_REPORT.unpack(self._raw)
        return self._raw

    @property
    def command(self) -> Command:
        """The Command that was run. After pickling only what the Result itself shows is left of its options."""
        return self._command

    @property
    def args(self) -> tuple[str | bytes, ...]:
        """The program and its arguments, as they were given; nothing where `run_many` was given no command at all."""
        return getattr(self._command, "args", ())

    @property
    def pid(self) -> int:
        """The child's process id, which may by now be somebody else's."""
        return self._report[PID]

    @property
    def returncode(self) -> int | None:
        """The exit code, -N for signal N, or None if somebody else in this process took the status."""
        return returncode_of(self._report[STATE], self._report[STATUS])

    @property
    def signal(self) -> _signal.Signals | int | None:
        """The signal that ended the child, or None."""
        return signal_of(self._report)

    @property
    def core_dumped(self) -> bool:
        """Whether it left a core."""
        return bool(self._report[CORE_DUMPED])

    @property
    def ok(self) -> bool:
        """Whether the child exited with 0, in time, and nothing else went wrong."""
        return self.returncode == 0 and not self.timed_out and self.error is None

    @property
    def text(self) -> str:
        """stdout as text, by the command's `encoding` (UTF-8) and `errors` (strict).

        Raises:
            ValueError: stdout was not captured.
            UnicodeDecodeError: it is not in that encoding.
        """
        if self.stdout is None and self.error is not None and not self._report[STATE]:
            raise ValueError(f"there is no stdout, for there was no child: {self.error}")
        return decoded(self._command, self.stdout)

    @property
    def elapsed(self) -> float:
        """Seconds from just before the spawn until we learnt of the end."""
        return self._report[ELAPSED] / 1e9

    @property
    def usage(self) -> Usage:
        """CPU time, memory and other counts."""
        return usage_of(self._report)

    @property
    def timed_out(self) -> bool:
        """Whether the deadline passed and the scope was killed."""
        return bool(self._flag(TIMED_OUT))

    @property
    def truncated(self) -> bool:
        """Whether output is missing because a stream reached `max_output`."""
        return bool(self._flag(LIMIT_HIT))

    @property
    def pipes_left_open(self) -> bool:
        """Whether somebody still held stdout or stderr when the child had ended and the drain's time was over, so that
        output may be missing."""
        return bool(self._flag(PIPES_LEFT_OPEN))

    @property
    def stdin_left(self) -> int:
        """Bytes of stdin that the child did not take."""
        return self._flag(FEED_LEFT)

    @property
    def contained(self) -> str:
        """The containment that was really obtained: "group", "cgroup" or "none"."""
        return CONTAINMENTS.get(self._report[CONTAINED], "none")

    @property
    def strategy(self) -> str:
        """How it was spawned: "clone3", "clone3-nowait" (of many, of a pipeline, under asyncio), "vfork", "posix_spawn"
        or "fork"."""
        return STRATEGIES.get(self._report[STRATEGY], "none")

    @property
    def not_applied(self) -> tuple[CpuRefused, ...]:
        """With best_effort: what of its scheduling, CPUs and memory the system refused, and why; () if nothing."""
        return not_applied(self._command, self._report)

    def _flag(self, at: int) -> int:
        return self._report[at] if len(self._report) > at else 0

    def __repr__(self) -> str:
        parts = [f"args={self.args!r}", f"returncode={self.returncode}"]
        parts += [f"{name}={value!r}" for name in ("stdout", "stderr") if (value := _short(getattr(self, name)))]
        parts += [name for name in ("timed_out", "truncated", "pipes_left_open") if getattr(self, name)]
        parts += [] if self.error is None else [f"error={type(self.error).__name__}({str(self.error)!r})"]
        return f"Result({', '.join(parts)}, elapsed={self.elapsed:.6f})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Of the command only what a Result shows: its options may hold what cannot be pickled, like file objects.
        given = getattr(self._command, "options_given", {})
        kept = {name: given.get(name) for name in ("encoding", "errors")}
        if self._report[NOT_APPLIED]:
            kept["best_effort"] = True
            for number, _ in steps_refused(self._report[NOT_APPLIED]):
                kept[STEPS[number]] = given.get(STEPS[number])
        state = (self.args, kept, self._report, self.stdout, self.stderr, self.index)
        return (
            _restore,
            state,
            (None, {"error": self.error, "tries": self.tries}),
        )  # apart: the error carries this result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        mine, theirs = ((r.args, r._report, r.stdout, r.stderr) for r in (self, other))
        return mine == theirs

    def __hash__(self) -> int:
        return hash(self._report)


def _restore(
    args: tuple[str | bytes, ...],
    options: dict[str, Any],
    report: tuple[int, ...],
    stdout: bytes | None,
    stderr: bytes | None,
    index: int | None,
) -> Result:
    from corelane.process.command import Command

    command: Any = Command(*args) if args else None
    if command is not None:
        # In their normal form already, and without those that they would have to be given with.
        object.__setattr__(command, "_options", {name: value for name, value in options.items() if value is not None})
    return Result(command, report, stdout, stderr, index)


# The options that may be refused, in the order of their stages from CL_STAGE_NICE on.
STEPS = ("nice", "sched", "uclamp", "cpus", "io_priority", "memory_policy", "autogroup", "oom_score_adj")


def steps_refused(word: int) -> list[tuple[int, int]]:
    """cl_report.not_applied as pairs: which of STEPS, and its errno."""
    return [(n, word >> 8 * n & 0xFF) for n in range(len(STEPS)) if word >> 8 * n & 0xFF]


def not_applied(command: Any, report: tuple[int, ...]) -> tuple[CpuRefused, ...]:
    """What the report says that the child went on without."""
    if not report[NOT_APPLIED]:
        return ()
    from corelane.process.explain import refused_step

    return tuple(refused_step(command, STEPS[n], number) for n, number in steps_refused(report[NOT_APPLIED]))


def decoded(command: Any, stdout: bytes | None) -> str:
    """What `command` wrote, as text, by its options."""
    if stdout is None:
        raise ValueError(f"the stdout of {command} was not captured: run it with capture=True")
    try:
        return stdout.decode(command.option("encoding", "utf-8"), command.option("errors", "strict"))
    except UnicodeDecodeError as error:
        error.add_note(f"in the stdout of {command}; encoding= and errors= say how to read it, .stdout has the bytes")
        raise


def signal_of(report: tuple[int, ...]) -> _signal.Signals | int | None:
    """The signal in an unpacked report; a plain number where Python has no name for it (real-time ones)."""
    if report[STATE] != SIGNALED:
        return None
    try:
        return _signal.Signals(report[STATUS])
    except ValueError:
        return report[STATUS]


def _short(data: bytes | None) -> bytes | None:
    return data if data is None or len(data) <= 60 else data[:57] + b"..."
