"""The jobs of `corelane batch`, from the source to the log: what is started when, and how all of it comes to an end.

A Jobs owns the library's engine (work.Driver), the places, the outbox and, until the process ends, the handlers of
SIGINT, SIGTERM and SIGHUP. One loop waits for all at once: children, input, the reader of our output, and signals.

    starting    jobs are pulled, as there are places
    draining    nothing is started any more; what runs goes on (after a TERM or HUP for the grace, else to its end)
    killed      what lived got SIGKILL, and its results come; after a bound they are not waited for any more

A job is logged once its output was written. What we kill is as if it had never run: its output is thrown away, and its
line in the log, which is there to see what ran, is none of a success.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from corelane.cli.joblog import JobLog, line_of
from corelane.cli.messages import message, say
from corelane.cli.output import Block, Outbox, Place
from corelane.cli.tally import Halt, Tally
from corelane.errors import CorelaneError, NotSupported
from corelane.process import Command
from corelane.process.batch import unstarted
from corelane.process.work import WRONG, Driver, Job

if TYPE_CHECKING:
    from corelane.cli.progress import Progress
    from corelane.cli.source import Entry, Source
    from corelane.process import Result

__all__ = ["Jobs"]

_STEP = 0.5  # seconds of one sleep; a signal that comes just before it is seen after so long
_LOOK = 0.02  # seconds, where the engine has no descriptor to be waited for together with others
_LEAVES_WITHIN = 2.0  # seconds: what SIGKILL has not ended by then is in uninterruptible sleep
_UNWRITTEN = 256  # jobs that have ended and wait to be written, until no more are started
_COUNTS_FOR = 0.2  # seconds: how many were not started is worth no longer wait
_STARTING, _DRAINING, _KILLED = range(3)


class Task(Job):
    """A job of ours.

    Attributes:
        entry: what was asked for.
        place: where it runs; None if it never does.
        began: when its last try was started, in seconds since the epoch.
        was_killed: whether we sent it SIGKILL.
        status: as a Tally counts it: "left" until it is settled. result, error: what it came to.
        blocks: its output, when it has ended.
    """

    __slots__ = ("began", "blocks", "entry", "error", "place", "result", "status", "was_killed")

    def __init__(self, entry: Entry, command: Command | None, place: Place | None) -> None:
        super().__init__(command, entry.seq)
        self.entry = entry
        self.place = place
        self.began = time.time()
        self.was_killed = False
        self.status = "left"
        self.result: Result | None = None
        self.error: str | None = None
        self.blocks: list[Block] = []

    def start(self, driver: Driver) -> None:
        assert self.place is not None
        self.tries += 1
        try:
            if self.tries > 1:
                self.place.prepare()  # what the try before has written is nobody's
            self.packed = self.place.packed(self.command)
        except WRONG as error:  # of this job alone
            self.ended(driver, unstarted(self.command, error))
            return
        self.began = time.time()
        driver.batch.ready.append(self)


class Jobs:
    """One batch.

    Args:
        source: where the jobs come from.
        concurrency: how many run at once.
        options: of the Command of each.
        cpus: for each place its own, or None.
        grouped: whether output is written job by job, after each one's end.
        ordered: write output, and log, in the order of the input.
        halt: what ends it early.
        grace: seconds for which a TERM or HUP lets jobs go on.
        log, progress: None for none.

    Attributes:
        tally: what became of the jobs.
        stopped_by: the signal that ended it early, or None.
        broken: why it ended early by itself, in words; "" if it did not.
        reader_left: nobody reads our output any more. is_halted: there were as many failures as `halt` says.
    """

    def __init__(
        self,
        source: Source,
        concurrency: int,
        options: dict[str, Any],
        *,
        cpus: list[int] | None,
        grouped: bool,
        ordered: bool,
        halt: Halt,
        grace: float,
        log: JobLog | None,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._concurrency = concurrency
        self._options = options
        self._cpus = cpus
        self._grouped = grouped
        self._ordered = ordered
        self._halt = halt
        self._grace = grace
        self._log = log
        self._skip: Counter[str] = Counter() if log is None else log.done
        self._progress = progress
        self.tally = Tally()
        self.stopped_by: signal.Signals | None = None
        self.broken = ""
        self.reader_left = self.is_halted = False
        self._stage = self._wanted = _STARTING
        self._kill_at = self._leave_at = float("inf")  # monotonic seconds
        self._ends = self._failures = 0
        self._driver = Driver()
        self._engine_fd: int | None = None
        self._outbox: Outbox[Task] = Outbox()
        self._running: set[Task] = set()
        self._turns: deque[Task] = deque()  # if ordered: what is not in the outbox yet
        self._places: list[Place] = []
        self._free: list[Place] = []
        self._signals: deque[int] = deque()
        self._bell, self._ringer = os.pipe()

    def run(self) -> None:
        """Run all of it. To be called once, in the main thread of a program that then ends: it takes the signals.

        Raises:
            OSError, MemoryError: there is no engine.
        """
        self._listen()
        try:
            with suppress(NotSupported):  # this platform has none
                self._engine_fd = self._driver.batch.fileno()
            while not self._is_over():
                self._heed_signals()
                self._advance()
                self._start_more()
                self._deliver()  # what cannot be started is through at once
                self._wait()
                self._collect()
                self._deliver()
                if self._progress is not None:
                    self._show(self._progress)
        finally:
            self._driver.close()
            self._account_for_the_rest()
            for place in self._places:
                place.close()
            if self._log is not None:
                try:
                    self._log.close()
                except OSError as error:
                    self._break(f"the log cannot be written: {error.strerror}")
            if self._progress is not None:
                self._progress.hide()

    # ---- the loop ----------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if time.monotonic() >= self._leave_at:
            return True
        if self._running or self._outbox or self._turns:
            return False
        return self._wanted > _STARTING or self._source.at_end

    @property
    def _has_room(self) -> bool:
        unwritten = len(self._outbox) + len(self._turns) - (len(self._running) if self._ordered else 0)
        return self._wanted == _STARTING and len(self._running) < self._concurrency and unwritten < _UNWRITTEN

    def _start_more(self) -> None:
        """Start jobs while there are places, and jobs that are here."""
        while self._has_room:
            try:
                entry = self._next()
            except (OSError, ValueError) as error:
                self._break(f"the input cannot be read: {error}")
                return
            if entry is None:
                return
            try:
                self._start(entry)
            except (OSError, CorelaneError) as error:  # of this job as of any other
                self.tally.left += 1
                advice = " (ulimit -n, or a lower -j)" if getattr(error, "errno", None) == errno.EMFILE else ""
                self._break(f"nothing can be started: {error}{advice}")

    def _next(self) -> Entry | None:
        """The next job that was not done before, if it is here."""
        while not self._signals and (entry := self._source.take()) is not None:
            if not self._skip or self._skip[key := entry.key] == 0:
                return entry
            self._skip[key] -= 1
            self.tally.skipped += 1
        return None

    def _start(self, entry: Entry) -> None:
        place, command, wrong = None, None, entry.error
        if not wrong:
            place = self._free.pop() if self._free else self._new_place()
            place.prepare()
            try:
                command = place.command(entry.args, entry.options)
            except (TypeError, ValueError) as error:
                wrong = str(error)
                self._free.append(place)
        task = Task(entry, command, place)
        if self._ordered:
            self._turns.append(task)
        if wrong:
            self._settle(task, "failed", wrong, [])
            return
        self._running.add(task)
        task.start(self._driver)

    def _new_place(self) -> Place:
        cpu = {} if self._cpus is None else {"cpus": self._cpus[len(self._places)]}
        place = Place(self._options | cpu, self._grouped)
        self._places.append(place)
        return place

    def _wait(self) -> None:
        """Until something has happened, though not for long."""
        now = time.monotonic()
        until = min(self._kill_at, self._leave_at, self._progress.due if self._progress is not None else now + _STEP)
        limit = max(0.0, min(_STEP, until - now))
        batch = self._driver.batch
        reader = self._outbox.waits_for
        feeder = self._source.fd if self._has_room else None
        if (batch.live or batch.ready) and reader is None and feeder is None:
            self._driver.turn(limit)
            return
        due = self._driver.turn(0)
        # Without a wait where there is something to do, and where a signal, whose byte may be taken, came just now.
        if self._driver.has_results or batch.ready or self._signals or self._is_over():
            return
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if feeder is not None:
            poll.register(feeder, select.POLLIN)
        if reader is not None:
            poll.register(reader, select.POLLOUT)
        if batch.live and self._engine_fd is not None:
            batch.arm()
            poll.register(self._engine_fd, select.POLLIN)
        elif batch.live:
            limit = min(limit, _LOOK)
        poll.poll(1000 * (limit if due is None else min(limit, due)))

    def _collect(self) -> None:
        """Take what has ended."""
        for task, result in self._driver.take():
            assert isinstance(task, Task)
            assert task.place is not None
            self._running.discard(task)
            self._free.append(task.place)
            task.result = result
            error = None if result.error is None else str(result.error)
            # Typed at our terminal, one reaches a child that has not got its own group yet.
            is_ours = result.signal == signal.SIGINT and signal.SIGINT in (self.stopped_by, *self._signals)
            if error is not None and (task.was_killed or is_ours):
                self._settle(task, "killed", error, [])
                continue
            try:
                blocks = task.place.output()
            except OSError as wrong:
                self._break(f"output cannot be kept: {wrong.strerror}")
                self._settle(task, "lost", error, [])
            else:
                self._settle(task, "ok" if error is None else "failed", error, blocks)

    def _settle(self, task: Task, status: str, error: str | None, blocks: list[Block]) -> None:
        """It is known what became of it; its output is still to be written."""
        task.status, task.error, task.blocks = status, error, blocks
        self._ends += status in ("ok", "failed")
        if status == "failed":
            self._failures += 1
            entry = task.entry
            said = message(f"{entry.where if task.command is None else f'job {entry.seq}'}: {error}")
            blocks.append(Block(2, f"{said}\n".encode("utf-8", "surrogateescape")))
            if self._halt.is_reached(self._failures, self._ends):
                self.is_halted = True
                self._want(_KILLED if self._halt.when == "now" else _DRAINING)
        if not self._ordered:
            self._outbox.put(task, blocks)

    # ---- the end of a job --------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Write what can be written, and log it."""
        while self._turns and self._turns[0] not in self._running:
            task = self._turns.popleft()
            self._outbox.put(task, task.blocks)
        if self._progress is not None and self._outbox.waits_for is not None:
            self._progress.hide()
        try:
            for task in self._outbox.write():
                self._account(task, True)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                self.reader_left = True
            else:
                self._break(f"output cannot be written: {error.strerror}")
            self._want(_KILLED)
            for task in self._outbox.clear():
                self._account(task, False)

    def _account(self, task: Task, is_written: bool) -> None:
        """Count it and log it."""
        status = task.status
        if status in ("ok", "failed") and not is_written:
            status = "lost"
        setattr(self.tally, status, getattr(self.tally, status) + 1)
        if self._log is None or status in ("lost", "left"):
            return
        try:
            self._log.append(line_of(task.entry, status, task.began, task.result, task.error))
        except OSError as error:
            self.tally.unlogged += 1
            self._break(f"the log cannot be written: {error.strerror}")

    def _account_for_the_rest(self) -> None:
        """What was not waited for, and what was never started."""
        for task in self._outbox.clear():
            self._account(task, False)
        for task in self._running.union(self._turns):
            if task in self._running:
                task.status = "killed"
            self._account(task, False)
        with suppress(OSError, ValueError):
            self._signals.clear()
            until = time.monotonic() + _COUNTS_FOR
            while time.monotonic() < until and self._next() is not None:
                self.tally.left += 1
        self.tally.left_is_all = self._source.at_end

    # ---- the end of all ----------------------------------------------------------------------------------------

    def _break(self, why: str) -> None:
        """End it because something of ours does not work."""
        self.broken = self.broken or why
        self._want(_DRAINING)

    def _want(self, stage: int) -> None:
        """Ask for a stage. It is brought about between two looks at what has ended: while results are gone through, a
        job that lives no more may be one whose result comes next."""
        self._wanted = max(self._wanted, stage)

    def _advance(self) -> None:
        """Bring about the stage that was asked for."""
        now = time.monotonic()
        if now >= self._kill_at:
            self._want(_KILLED)
        if self._stage < _DRAINING <= self._wanted:
            for task in [*self._running]:
                alive = task.slot >= 0
                task.killed = True  # no other try
                if not alive:  # it waits for one, or for room in the system
                    task.kill(self._driver)
                    self._running.discard(task)
                    self._settle(task, "left", None, [])
        if self._stage < _KILLED <= self._wanted:
            self._leave_at = now + _LEAVES_WITHIN
            for task in self._running:
                task.was_killed = True
                task.kill(self._driver)
        self._stage = self._wanted

    # ---- signals -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """From here on a signal is a number in a list, and a byte that ends a sleep."""
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ringer, False)
        signal.set_wakeup_fd(self._ringer, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it, or a plain shell for its background
                signal.signal(number, lambda number, _: self._signals.append(number))

    def _heed_signals(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._bell, 4096)
        while self._signals:
            number = signal.Signals(self._signals.popleft())
            now = time.monotonic()
            if self.stopped_by is None:
                self.stopped_by = number
                if number != signal.SIGINT:
                    self._kill_at = now + self._grace
                    self._want(_DRAINING)
                    if self._running and select.select([], [2], [], 0)[1]:
                        say(f"{number.name}: no more is started; {len(self._running)} have {self._grace:g} s to end")
                    continue
            elif number == signal.SIGINT and self._stage == _KILLED:
                self._leave_at = now
            self._want(_KILLED)

    def _show(self, progress: Progress) -> None:
        skipped = self.tally.skipped
        progress.show(self._ends + skipped, self._failures, len(self._running), skipped)
