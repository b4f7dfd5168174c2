"""Batch: many children through one C engine.

Owns the engine, from its first child on; `close` kills and reaps what lives. There is no thread and no call into Python
per child: children are started in groups, and results taken in groups.
"""

from __future__ import annotations

import errno
from collections import deque
from struct import Struct

from corelane._ffi import check, ffi, lib
from corelane.errors import NotOwner
from corelane.process import dropped
from corelane.process import result as layout
from corelane.process.engine import broken_off, failure_of, output_of
from corelane.process.environ import capture, new_snapshot
from corelane.process.explain import explain
from corelane.process.opened import OPENED, close
from corelane.process.result import RUN_REPORT, Result

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.work import Job, Work

__all__ = ["STEP_NS", "Batch", "unstarted"]

_ITEMS, _DONE = ffi.typeof("cl_batch_item[]"), ffi.typeof("cl_batch_done[]")
_HEAD = Struct("=3q")  # of cl_batch_done: tag, slot, rc; a cl_run_report follows
_EACH = _HEAD.size + RUN_REPORT.size
_AT_ONCE = 64  # children started, and results taken, by one call
STEP_NS = 500_000_000  # as in a single run: a signal that comes just before the engine sleeps is seen after so long
_ABORT_NS = 2_000_000_000
_NOTHING = (0,) * (RUN_REPORT.size // 8)  # the report of what was never started


class Batch:
    """The engine: jobs in, Results out, in the order in which they end.

    Attributes:
        ready: jobs to be started.
        blocked: nothing lives, and the system has no room for the first job that is ready: others have to make it.
    """

    def __init__(self) -> None:
        made = ffi.new("cl_batch **")
        check(lib.cl_batch_new(made), "an engine for many runs")
        self._core = ffi.gc(made[0], lib.cl_batch_free)
        self._items = ffi.new(_ITEMS, _AT_ONCE)
        self._done = ffi.new(_DONE, _AT_ONCE)
        self._buffer = ffi.buffer(self._done)
        self._slots = ffi.new("int64_t[]", _AT_ONCE)
        self._snapshot, self._capture_at = new_snapshot()
        self._jobs: dict[int, Job] = {}  # by tag: alive, or on the way there
        self._next_tag = 0
        self._building: Work | None = None  # the pipeline of which some stages were started, and not yet all
        self._limit: Any = None  # the item that met the limit
        self._functions = False  # there were stages that are functions
        self.ready: deque[Job] = deque()
        self.blocked = False

    @property
    def live(self) -> int:
        """How many run."""
        return len(self._jobs)

    def has_others(self, works: set[Work | None]) -> bool:
        """Whether children live that are not parts of these."""
        return any(job.parent not in works for job in self._jobs.values())

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` has something to do, for an event loop; see `arm`.

        Raises:
            NotSupported: this platform has none. CallFailed: there is no room for it.
        """
        return check(lib.cl_batch_fd(self._core), "a descriptor for many runs")

    def arm(self) -> None:
        """Before each return to an event loop: makes the descriptor readable also at the next deadline."""
        check(lib.cl_batch_arm(self._core), "a timer for many runs")

    def start(self) -> None:
        """Start what is ready, as far as the system has room."""
        self.blocked = False
        while self.ready:
            count = min(len(self.ready), _AT_ONCE)
            first = self._next_tag
            self._next_tag += count
            inherits = False
            for i in range(count):
                job = self.ready[i]
                item, packed = self._items[i], job.packed
                item.more, item.joins, item.tag = job.more, job.joins, first + i
                if packed is None:  # a function of the caller's
                    item.command = ffi.NULL
                    self._expect_functions()
                    continue
                item.command, item.launch, item.options = packed.command, packed.launch, packed.options
                item.snapshot = self._snapshot
                inherits = inherits or packed.inherits_environ
                self._jobs[first + i] = job
            if inherits:
                capture(self._capture_at)
            started = lib.cl_batch_start(self._core, self._items, count)
            for i in range(max(started, 0), count):
                self._jobs.pop(first + i, None)
            for i in range(started):
                job, item = self.ready.popleft(), self._items[i]
                job.tag, job.slot = first + i, item.slot
                if job.more or self._building:
                    self._building = job.parent if job.more else None
                    if job.packed is None:
                        job.begin(item)
            if started == count:
                continue
            if started < 0:
                check_limit(started)
            # There is room again when one of ours has ended; but not one that waits for the rest of its pipeline.
            half = self._building
            others = [job for job in self._jobs.values() if half is None or job.parent is not half]
            self.blocked = not others
            self._limit = self._items[max(started, 0)]
            return

    def _expect_functions(self) -> None:
        if not self._functions:
            for item in self._items:
                item.fd = (-1, -1)
            self._functions = True

    def give_up_first(self) -> tuple[Job, Result]:
        """The first job that is ready, with the limit that it is `blocked` by as its error."""
        job = self.ready.popleft()
        self.blocked = False
        if self._building is not None:
            self.break_off(self._building)
        result = unstarted(job.command, explain(job.command, self._limit.stage, self._limit.error))
        job.close()
        return job, result

    def wait(self, at_most_ns: int = STEP_NS) -> list[tuple[Job, Result]]:
        """What has ended: at least one, unless nothing lives, the time has passed, or a signal has come."""
        rc = lib.cl_batch_step(self._core, at_most_ns)
        if rc == -errno.EPERM:
            raise NotOwner("many runs go on in the process that started them, and not in its forked child")
        if rc <= 0:
            if rc != -errno.EINTR:
                check(rc, "a step of many runs")
            return []
        count = lib.cl_batch_take(self._core, self._done, _AT_ONCE)
        ended = [self._result(at * _EACH, at) for at in range(count)]
        lib.cl_batch_release(self._core, self._slots, count)
        return ended

    def _result(self, at: int, n: int) -> tuple[Job, Result]:
        tag, slot, rc = _HEAD.unpack_from(self._buffer, at)
        report = RUN_REPORT.unpack_from(self._buffer, at + _HEAD.size)
        self._slots[n] = slot
        job = self._jobs.pop(tag)
        job.slot = -1
        command, packed = job.command, job.packed
        assert packed is not None
        if report[layout.STAGE]:  # also an exec that failed after we went on
            job.close()
            return job, unstarted(command, explain(command, report[layout.STAGE], report[layout.ERROR]))
        captures_out, captures_err = packed.captures
        stdout = output_of(report[layout.DATA], report[layout.SIZES]) if captures_out else None
        stderr = output_of(report[layout.DATA + 1], report[layout.SIZES + 1]) if captures_err else None
        result = Result(command, report, stdout, stderr, job.index)
        if rc != 1:
            result.error = broken_off(command, result, rc)
        elif not report[layout.IS_PLAIN]:
            result.error = failure_of(command, result, report)
        job.close()
        return job, result

    def break_off(self, pipeline: Work) -> None:
        """No stages of `pipeline` are started any more; those that were are killed."""
        if self._building is pipeline:
            self._building = None
            check(lib.cl_batch_break(self._core), "the end of a pipeline")

    def kill(self, job: Job) -> None:
        """SIGKILL to the scope of one that lives, whose result then comes; nothing to one that lives no more."""
        rc = lib.cl_batch_kill(self._core, job.slot, job.tag)
        if rc != -errno.ESRCH:
            check(rc, "a kill of one of many runs")

    def close(self) -> None:
        """Kill and reap what lives."""
        jobs, self._jobs = list(self._jobs.values()), {}
        core = self._core
        self._building = None
        if lib.cl_batch_abort(core, _ABORT_NS):
            dropped.waiting.append(lambda: lib.cl_batch_abort(core, 0) == 0)
        for job in [*jobs, *self.ready]:
            job.close()
        if self._functions:  # descriptors that no function has got
            for item in self._items:
                if item.command == ffi.NULL:
                    take(item, 0), take(item, 1)
        self.ready.clear()


def take(item: Any, which: int) -> Any:
    """The owner of a descriptor that was handed out to a function, its input (0) or output (1)."""
    owner = ffi.gc(ffi.new(OPENED, {"fd": -1}), close)
    owner.fd = item.fd[which]
    item.fd[which] = -1  # between this and the line before Python looks for no signal
    return owner


def check_limit(rc: int) -> int:
    """`rc` if it is a limit of the system, which may go away."""
    if rc in (-errno.EAGAIN, -errno.EMFILE, -errno.ENFILE, -errno.ENOMEM):
        return rc
    return check(rc, "starting many runs")


def unstarted(command: Any, error: Exception) -> Result:
    """The Result of a command that never became a child."""
    result = Result(command, _NOTHING)
    result.error = error
    return result
