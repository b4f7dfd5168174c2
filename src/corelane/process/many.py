"""run_many: many commands at once, through one C engine.

Owns the engine of one call, from its first item on: running out, an error and leaving the loop all kill and reap what
still runs. There is no thread and no call into Python per child: children are started in groups, and results taken in
groups.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from struct import Struct

from corelane._ffi import check, ffi, lib
from corelane.errors import NotOwner
from corelane.process import dropped
from corelane.process import result as layout
from corelane.process.command import Command, as_command
from corelane.process.engine import broken_off, failure_of, output_of
from corelane.process.environ import capture, new_snapshot
from corelane.process.explain import explain
from corelane.process.pack import opens_something, packed_like
from corelane.process.result import RUN_REPORT, Result

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Unpack

    from corelane.process.pack import Packed
    from corelane.process.typed import Options, Path

__all__ = ["run_many"]

_ITEMS, _DONE = ffi.typeof("cl_batch_item[]"), ffi.typeof("cl_batch_done[]")
_HEAD = Struct("=3q")  # of cl_batch_done: tag, slot, rc; a cl_run_report follows
_EACH = _HEAD.size + RUN_REPORT.size
_AT_ONCE = 64  # children started, and results taken, by one call
_STEP_NS = 500_000_000  # as in a single run: a signal that comes just before the engine sleeps is seen after so long
_ABORT_NS = 2_000_000_000
_PATIENCE = 1.0  # seconds for which a limit of the system is waited for while nothing of ours lives
_LOOK_AGAIN = 0.02
_NOTHING = (0,) * 32  # the report of what was never started


class _Job:
    """One command on its way."""

    __slots__ = ("command", "index", "packed")

    def __init__(self, index: int, command: Command, packed: Packed) -> None:
        self.index = index
        self.command = command
        self.packed = packed


class Batch:
    """The engine: commands in, Results out, in the order in which they end.

    Attributes:
        ready: jobs to be started.
        live: how many run.
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
        self._jobs: dict[int, _Job] = {}  # by tag: alive, or on the way there
        self._next_tag = 0
        self._blocked_since: float | None = None
        self.ready: deque[_Job] = deque()

    @property
    def live(self) -> int:
        return len(self._jobs)

    def start(self) -> list[Result]:
        """Start what is ready, as far as the system has room. Returns what it had no room for, for too long."""
        failed: list[Result] = []
        while self.ready:
            count = min(len(self.ready), _AT_ONCE)
            first = self._next_tag
            self._next_tag += count
            inherits = False
            for i in range(count):
                job = self.ready[i]
                item, packed = self._items[i], job.packed
                item.command, item.launch, item.options = packed.command, packed.launch, packed.options
                item.snapshot, item.tag = self._snapshot, first + i
                inherits = inherits or packed.inherits_environ
                self._jobs[first + i] = job
            if inherits:
                capture(self._capture_at)
            started = lib.cl_batch_start(self._core, self._items, count)
            for i in range(max(started, 0), count):
                del self._jobs[first + i]
            for _ in range(started):
                self.ready.popleft()
            if started == count:
                continue
            if started >= 0:
                self._blocked_since = None
                break  # there is room again when one of ours has ended
            number = -check_limit(started)
            if self._jobs:
                break  # nothing lives, but results wait: they are somebody's who has ended
            now = time.monotonic()
            self._blocked_since = self._blocked_since or now
            if now - self._blocked_since < _PATIENCE:
                time.sleep(_LOOK_AGAIN)  # it is somebody else who has to make room
                continue
            self._blocked_since = None
            job = self.ready.popleft()
            failed.append(unstarted(job.index, job.command, explain(job.command, self._items[0].stage, number)))
            close(job)
        return failed

    def wait(self) -> list[Result]:
        """Results: at least one, unless nothing lives or a signal has come."""
        rc = lib.cl_batch_step(self._core, _STEP_NS)
        if rc == -errno.EPERM:
            raise NotOwner("many runs go on in the process that started them, and not in its forked child")
        if rc <= 0:
            if rc != -errno.EINTR:
                check(rc, "a step of many runs")
            return []
        count = lib.cl_batch_take(self._core, self._done, _AT_ONCE)
        results = [self._result(at * _EACH, at) for at in range(count)]
        lib.cl_batch_release(self._core, self._slots, count)
        return results

    def _result(self, at: int, n: int) -> Result:
        tag, slot, rc = _HEAD.unpack_from(self._buffer, at)
        report = RUN_REPORT.unpack_from(self._buffer, at + _HEAD.size)
        self._slots[n] = slot
        job = self._jobs.pop(tag)
        command = job.command
        if report[layout.STAGE]:  # also an exec that failed after we went on
            close(job)
            return unstarted(job.index, command, explain(command, report[layout.STAGE], report[layout.ERROR]))
        stdout, stderr = (
            output_of(report[layout.DATA + i], report[layout.SIZES + i]) if job.packed.captures[i] else None
            for i in (0, 1)
        )
        result = Result(command, report, stdout, stderr, job.index)
        if rc != 1:
            result.error = broken_off(command, result, rc)
        elif not report[layout.IS_PLAIN]:
            result.error = failure_of(command, result, report)
        close(job)
        return result

    def close(self) -> None:
        """Kill and reap what lives."""
        jobs, self._jobs = list(self._jobs.values()), {}
        core = self._core
        if lib.cl_batch_abort(core, _ABORT_NS):
            dropped.waiting.append(lambda: lib.cl_batch_abort(core, 0) == 0)
        for job in [*jobs, *self.ready]:
            close(job)
        self.ready.clear()


def close(job: _Job) -> None:
    if not job.packed.reusable:
        job.packed.close()


def check_limit(rc: int) -> int:
    """`rc` if it is a limit of the system, which may go away."""
    if rc in (-errno.EAGAIN, -errno.EMFILE, -errno.ENFILE, -errno.ENOMEM):
        return rc
    return check(rc, "starting many runs")


def refuse_tee(command: Command) -> None:
    for name in ("tee_stdout", "tee_stderr"):
        if command.option(name) is not None:
            raise ValueError(
                f"{name}= is for a single run: nobody would watch many tees; write Result.{name[4:]} to it"
            )


def unstarted(index: int, command: Any, error: Exception) -> Result:
    """The Result of a command that never became a child."""
    result = Result(command, _NOTHING, index=index)
    result.error = error
    return result


def run_many(
    commands: Iterable[Command | Sequence[Path]],
    *,
    concurrency: int | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> Iterator[Result]:
    """Run many commands, some at a time.

    Args:
        commands: lists of arguments, or Commands; pulled one by one, as there is room for them.
        concurrency: how many run at once (default: as many as we may use CPUs). At most so many results wait unread.
        ordered: yield in the order of `commands`, rather than as they end.
        **options: as for Command, for all of them; `timeout` is of each. Without `stdin` it is /dev/null.

    Yields:
        A Result for each command, with its `index` in `commands`, and `error`: what `run` would have raised. Nothing is
        raised for a child, or for a command that is none. The engine moves while the next result is waited for: what
        happens while the caller is busy elsewhere, a deadline too, is served at the next one.

    Leaving the loop kills what still runs; so does an exception of the iterable's, which goes on to the caller.

    Raises:
        TypeError, ValueError: an argument or option is wrong; nothing was started.
    """
    if concurrency is None:
        concurrency = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError(f"concurrency must be a number of commands, not {concurrency!r}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    if isinstance(commands, (str, bytes, Command)):
        raise TypeError(f"commands must be an iterable of commands, not the single {commands!r}")
    template = Command("true", **options)  # what is wrong with the options is wrong for all of them
    refuse_tee(template)
    return _run_many(iter(commands), concurrency, bool(ordered), template, dict(options))


def _run_many(
    commands: Iterator[Any], concurrency: int, ordered: bool, template: Command, options: dict[str, Any]
) -> Iterator[Result]:
    if dropped.waiting:
        dropped.reap()
    batch = Batch()
    shared = None if opens_something(template) else template.packed("many")
    held: dict[int, Result] = {}  # by index: those that are not their turn yet
    index = turn = 0
    more = True
    try:
        while more or batch.live or batch.ready:
            found: list[Result] = []
            while more and batch.live + len(batch.ready) + len(held) < concurrency:
                try:
                    given = next(commands)
                except StopIteration:
                    more = False
                    break
                try:
                    if type(given) in (list, tuple):  # what most are: they share all but their arguments
                        command = template.like(given)
                        packed = packed_like(shared, command) if shared else command.packed("many")
                    else:
                        command = as_command(given, options)
                        refuse_tee(command)
                        packed = command.packed("many")
                    batch.ready.append(_Job(index, command, packed))
                except Exception as error:  # of this command alone
                    found.append(unstarted(index, given, error))
                index += 1
            found += batch.start()
            if batch.live and not found:
                found = batch.wait()
            if not ordered:
                yield from found
                continue
            held.update((result.index, result) for result in found if result.index is not None)
            while turn in held:
                yield held.pop(turn)
                turn += 1
    finally:
        batch.close()
