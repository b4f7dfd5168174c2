"""What one item of many comes to, from its first child to its Result: a state for each kind of item, and the Driver
that brings them on.

    Job        a child: a job for the Batch

A work whose outcome is a failure is started again where its command has a `retry`; then it is delivered, or handed to
the work that it is a part of.
"""

from __future__ import annotations

import heapq
import time

from corelane.process.batch import STEP_NS, Batch, unstarted

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.command import Command
    from corelane.process.pack import Packed
    from corelane.process.result import Result

__all__ = ["Driver", "Job", "Work"]

_PATIENCE = 1.0  # seconds for which a limit of the system is waited for while nothing of ours lives
_LOOK_AGAIN = 0.02


class Work:
    """Something on its way to a Result.

    Attributes:
        command: what was asked for.
        index: its place among many, or None.
        parent: the work that this one is a part of, or None.
        tries: how often it was started.
        killed: nothing more of it is to be started.
    """

    __slots__ = ("command", "index", "killed", "parent", "tries")

    def __init__(self, command: Any, index: int | None = None, parent: Work | None = None) -> None:
        self.command = command
        self.index = index
        self.parent = parent
        self.tries = 0
        self.killed = False

    def start(self, driver: Driver) -> None:
        """Begin, once more if it is a retry."""
        raise NotImplementedError

    def part_ended(self, driver: Driver, part: Work, result: Result) -> None:
        """One of its parts has its result."""
        raise NotImplementedError

    def kill(self, driver: Driver) -> bool:
        """End what lives of it, and start nothing more. Returns whether anything lived: then a result comes."""
        raise NotImplementedError

    def ended(self, driver: Driver, result: Result) -> None:
        """It has a result: for this try."""
        retry = None if result.error is None or self.killed else self.command.option("retry")
        if retry is not None and retry.is_for(result.error, self.tries):
            driver.later(retry.timer, retry.pause(self.tries), self)
            return
        result.index = self.index
        result.tries = self.tries
        if self.parent is None:
            driver.deliver(self, result)
        else:
            self.parent.part_ended(driver, self, result)


class Job(Work):
    """One child.

    Attributes:
        packed: its structs, once it is ready to be started.
        tag, slot: by which the Batch knows it; slot is -1 while it does not live.
    """

    __slots__ = ("packed", "slot", "tag", "use")

    packed: Packed

    def __init__(
        self, command: Command, index: int | None = None, parent: Work | None = None, use: str = "many"
    ) -> None:
        super().__init__(command, index, parent)
        self.use = use
        self.tag = self.slot = -1

    def start(self, driver: Driver) -> None:
        self.tries += 1
        try:
            self.packed = self.command.packed(self.use)
        except Exception as error:  # of this command alone
            self.ended(driver, unstarted(self.command, error))
            return
        driver.batch.ready.append(self)

    def kill(self, driver: Driver) -> bool:
        self.killed = True
        if self.slot >= 0:
            driver.batch.kill(self)
            return True
        if self in driver.batch.ready:
            driver.batch.ready.remove(self)
            self.close()
        return False

    def close(self) -> None:
        """Close what was opened for it."""
        if not self.packed.reusable:
            self.packed.close()


class Driver:
    """Brings works on: starts what is ready, hands out what has ended, and starts again what is to be retried.

    Attributes:
        batch: the engine.
    """

    def __init__(self) -> None:
        self.batch = Batch()
        self._done: list[tuple[Work, Result]] = []
        self._later: dict[Any, list[tuple[float, int, Work]]] = {}  # a heap for each clock
        self._count = 0  # of all that were ever put into a heap: those of one moment keep their order
        self._blocked_since: float | None = None

    @property
    def busy(self) -> bool:
        """Whether anything lives, is ready, or waits for its next try."""
        return bool(self.batch.live or self.batch.ready or self._later)

    def deliver(self, work: Work, result: Result) -> None:
        """A work is through."""
        self._done.append((work, result))

    def take(self) -> list[tuple[Work, Result]]:
        """The works that are through, with their results; they are forgotten."""
        done, self._done = self._done, []
        return done

    def later(self, clock: Any, pause: float, work: Work) -> None:
        """Start `work` again, `pause` seconds from now by `clock`."""
        self._count += 1
        heapq.heappush(self._later.setdefault(clock, []), (clock.monotonic() + pause, self._count, work))

    def turn(self) -> None:
        """Start what can be, and wait until something has ended, though not for long."""
        pause, clock = self._start_due()
        batch = self.batch
        batch.start()
        if batch.blocked:
            self._be_patient()
            return
        self._blocked_since = None
        if batch.live and not self._done:
            for job, result in batch.wait(STEP_NS if pause is None else min(STEP_NS, round(pause * 1e9))):
                if result.error is None and job.parent is None:  # as most are
                    result.tries = job.tries
                    self._done.append((job, result))
                else:
                    job.ended(self, result)
        elif pause is not None and not self._done:
            clock.sleep(pause)

    def _start_due(self) -> tuple[float | None, Any]:
        """Start what is due, and return the seconds until the next one is, by its clock; None if there is none."""
        soonest, whose = None, None
        for clock, heap in list(self._later.items()):
            now = clock.monotonic()
            while heap and heap[0][0] <= now:
                work = heapq.heappop(heap)[2]
                if not work.killed:
                    work.start(self)
            if not heap:
                del self._later[clock]
            elif soonest is None or heap[0][0] - now < soonest:
                soonest, whose = heap[0][0] - now, clock
        return soonest, whose

    def _be_patient(self) -> None:
        now = time.monotonic()
        self._blocked_since = self._blocked_since or now
        if now - self._blocked_since < _PATIENCE:
            time.sleep(_LOOK_AGAIN)
            return
        self._blocked_since = None
        job, result = self.batch.give_up_first()
        job.ended(self, result)

    def close(self) -> None:
        """Kill and reap what lives, and start nothing more."""
        self._later.clear()
        self.batch.close()
