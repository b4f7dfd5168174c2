"""What one item of many comes to, from its first child to its Result: a state for each kind of item, and the Driver
that brings them on.

    Job        a child: a job for the Batch
    Stages     a pipeline (stages.py)
    Steps      a sequence (sequence.py)

A work whose outcome is a failure is started again where its command has a `retry`; then it is delivered, or handed to
the work that it is a part of.
"""

from __future__ import annotations

import heapq
import time
from _queue import Empty, SimpleQueue
from _weakref import ref
from collections import deque
from collections.abc import Callable

from corelane.errors import CorelaneError, ResourceExhausted
from corelane.process import dropped
from corelane.process.batch import STEP_NS, Batch, unstarted
from corelane.process.retry import tell_tries

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.functions import FunctionResult, FunctionRun
    from corelane.process.pack import Packed
    from corelane.process.result import Result

__all__ = ["LOOK_AGAIN", "WRONG", "Driver", "Job", "Work", "work_of"]

_PATIENCE = 1.0  # seconds for which a limit of the system is waited for while nothing of ours lives
_STEP = STEP_NS / 1e9
# What can be wrong with one command alone. Anything else is raised by a signal handler, and is the caller's.
WRONG = (CorelaneError, LookupError, OSError, TypeError, ValueError)
LOOK_AGAIN = 0.02  # seconds after which it is asked again whether there is room
_RETURN_WITHIN = 0.1  # seconds: a function whose input has ended returns at once, or may never


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

    def part_ended(self, driver: Driver, part: Work, result: Any) -> None:
        """One of its parts has its result."""
        raise NotImplementedError

    def kill(self, driver: Driver) -> bool:
        """End what lives of it, and start nothing more. Returns whether anything lived: then a result comes."""
        raise NotImplementedError

    def ended(self, driver: Driver, result: Any) -> None:
        """It has a result: for this try."""
        retry = None if result.error is None or self.killed else self.command.option("retry")
        if retry is not None and retry.is_for(result.error, self.tries):
            driver.later(retry.timer, retry.pause(self.tries), self)
            return
        result.index = self.index
        result.tries = self.tries
        tell_tries(result.error, self.tries)
        if self.parent is None:
            driver.deliver(self, result)
        else:
            self.parent.part_ended(driver, self, result)


class Job(Work):
    """One child.

    Attributes:
        packed: its structs, once it is ready to be started.
        more, joins: of a stage: how many others of its pipeline come after it, and whether it writes to the next one.
        tag, slot: by which the Batch knows it; slot is -1 while it does not live.
    """

    __slots__ = ("joins", "more", "packed", "slot", "tag", "use")

    packed: Packed | None

    def __init__(self, command: Any, index: int | None = None, parent: Work | None = None, use: str = "many") -> None:
        super().__init__(command, index, parent)
        self.use = use
        self.packed = None
        self.more = self.joins = 0
        self.tag = self.slot = -1

    def start(self, driver: Driver) -> None:
        self.tries += 1
        try:
            self.packed = self.command.packed(self.use)
        except WRONG as error:  # of this command alone
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

    def begin(self, item: Any) -> None:
        """The core has handed out the descriptors of a stage that has no child."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was opened for it."""
        if self.packed is not None and not self.packed.reusable:
            self.packed.close()


def work_of(command: Any, index: int | None = None, use: str = "many", parent: Work | None = None) -> Work:
    """The work that a Command, Pipeline or Sequence comes to.

    Args:
        use: "run" or "many", as for `pack`.
    """
    work: Work = command._work(index, use, parent)
    return work


def run_one(command: Any) -> Any:
    """Run a Pipeline or a Sequence to its end; its Result, or what it raises."""
    if dropped.waiting:
        dropped.reap()
    driver = Driver()
    try:
        work_of(command, use="run").start(driver)
        while not (done := driver.take()):
            driver.turn()
    finally:
        driver.close()
    result: Any = done[0][1]
    if result.error is not None:
        error, result.error = result.error, None
        raise error
    return result


class Driver:
    """Brings works on: starts what is ready, hands out what has ended, and starts again what is to be retried.

    `turn` sleeps until there is something to do; whoever is told of that by an event loop (aio.py) calls its parts.

    Attributes:
        batch: the engine.
    """

    def __init__(self) -> None:
        self.batch = Batch()
        self._functions: dict[int, Callable[[Driver, Any], None]] = {}  # that are waited for, in threads of their own
        self._running: dict[int, FunctionRun] = {}  # also those that nobody waits for any more
        self._threadless: deque[Any] = deque()  # functions that wait for room for a thread
        self._refused_since: float | None = None
        self._posted: SimpleQueue[tuple[int, Any]] = SimpleQueue()  # those that have returned
        self._done: list[tuple[Work, Result]] = []
        self._later: dict[Any, list[tuple[float, int, Work]]] = {}  # a heap for each clock
        self._count = 0  # of all that were ever put into a heap: those of one moment keep their order
        self._blocked_since: float | None = None

    @property
    def busy(self) -> bool:
        """Whether anything lives, is ready, or waits for its next try."""
        return bool(self.batch.live or self.batch.ready or self._functions or any(self._later.values()))

    @property
    def has_results(self) -> bool:
        """Whether works are through that nobody has taken."""
        return bool(self._done)

    def deliver(self, work: Work, result: Result) -> None:
        """A work is through."""
        self._done.append((work, result))

    def take(self) -> list[tuple[Work, Result]]:
        """The works that are through, with their results; they are forgotten."""
        done, self._done = self._done, []
        return done

    def run_function(self, target: FunctionRun, ended: Callable[[Driver, Any], None], of: Work | None) -> int:
        """Call `target` in a thread of its own, and then, in ours, `ended` with what it returned.

        Args:
            of: the work that it is a part of, whose children may wait for it.

        Returns:
            Its number, for `forget_function`.
        """
        self._count += 1
        number = self._count
        self._functions[number] = ended
        self._running[number] = target
        weak = ref(self)  # a function that does not return holds no engine

        def returned(outcome: FunctionResult) -> None:
            driver = weak()
            if driver is not None:
                driver.post(number, outcome)

        self._threadless.append((number, target, returned, of))
        self._start_threads()
        return number

    def _start_threads(self) -> None:
        """Start the functions for which there is room. As for a child it is waited for while others may make some, and
        for a while where nobody of ours will."""
        while self._threadless:
            number, target, returned, _ = self._threadless[0]
            try:
                if number in self._functions:
                    target.start(returned)
                else:
                    target.close()  # nobody waits for it any more
            except ResourceExhausted as error:
                now = time.monotonic()
                self._refused_since = self._refused_since or now
                waiting = {of for *_, of in self._threadless}
                if now - self._refused_since < _PATIENCE or self.batch.has_others(waiting):
                    return
                self.post(number, target.refused(error))
            self._refused_since = None
            self._threadless.popleft()

    def forget_function(self, number: int) -> None:
        """One is not waited for any more: what it returns is dropped."""
        self._functions.pop(number, None)

    def post(self, number: int, outcome: Any) -> None:
        """A function has returned. Called in its thread."""
        self._posted.put((number, outcome))

    def function_ended(self, number: int, outcome: Any) -> None:
        """The same, in ours."""
        self._running.pop(number, None)
        ended = self._functions.pop(number, None)
        if ended is not None:
            ended(self, outcome)

    def later(self, clock: Any, pause: float, work: Work) -> None:
        """Start `work` again, `pause` seconds from now by `clock`."""
        self._count += 1
        heapq.heappush(self._later.setdefault(clock, []), (clock.monotonic() + pause, self._count, work))

    def not_later(self, work: Work) -> None:
        """Forget what `later` was told of `work`."""
        for heap in self._later.values():
            kept = [each for each in heap if each[2] is not work]
            if len(kept) != len(heap):
                heapq.heapify(kept)
                heap[:] = kept  # in its place: what is due now may have been told that something else is not, any more

    def turn(self, at_most: float | None = None) -> float | None:
        """Start what can be, and wait until something has ended, though not for long.

        Args:
            at_most: seconds of the wait, for somebody who waits for other things too.

        Returns:
            Seconds until the next try is due; None if none waits.
        """
        pause, clock = self._start_due()
        if self._threadless:
            self._start_threads()
        if self._functions:
            self._take_posted(0)
        span = min(each for each in (pause, at_most, _STEP) if each is not None)
        if not self._start_ready():
            self._wait_for_room()
        elif self.batch.live and not self._done:
            # The core cannot be woken by a function that returns.
            self._collect(round(min(span, LOOK_AGAIN if self._functions else span) * 1e9))
        elif self._functions and not self._done:
            self._take_posted(span)
        elif pause is not None and not self._done:
            clock.sleep(pause if at_most is None else min(pause, at_most))
        return pause

    def _wait_for_room(self) -> None:
        if self.batch.live:  # the first stages of a pipeline that waits for room for its others
            self._collect(round(LOOK_AGAIN * 1e9))
        else:
            time.sleep(LOOK_AGAIN)

    def _start_ready(self) -> bool:
        """Start what is ready. False: the system has no room, nothing lives that will make some, and it is worth
        another look soon."""
        self.batch.start()
        if not self.batch.blocked:
            self._blocked_since = None
            return True
        now = time.monotonic()
        self._blocked_since = self._blocked_since or now
        if now - self._blocked_since < _PATIENCE:
            return False
        self._blocked_since = None
        job, result = self.batch.give_up_first()
        job.ended(self, result)
        return True

    def _collect(self, at_most_ns: int) -> None:
        """Wait until something has ended, and see what comes of it."""
        for job, result in self.batch.wait(at_most_ns):
            if result.error is None and job.parent is None:  # as most are
                result.tries = job.tries
                self.deliver(job, result)
            else:
                job.ended(self, result)

    def _start_due(self) -> tuple[float | None, Any]:
        """Start what is due, and return the seconds until the next one is, by its clock; None if there is none."""
        soonest, whose = None, None
        for clock, heap in list(self._later.items()):
            now = clock.monotonic()
            while heap and heap[0][0] <= now:
                work = heapq.heappop(heap)[2]
                if not work.killed:
                    work.start(self)
            if heap and (soonest is None or heap[0][0] - now < soonest):
                soonest, whose = heap[0][0] - now, clock
        return soonest, whose

    def _take_posted(self, at_most: float) -> None:
        """See what has become of functions; wait for one, at most so many seconds."""
        try:
            self.function_ended(*self._posted.get(at_most > 0, at_most or None))
        except Empty:
            return

    def close(self) -> None:
        """Kill and reap what lives, and start nothing more. A function that returns has closed its descriptors then."""
        self._later.clear()
        self._functions.clear()
        self._start_threads()  # which closes what they own
        self.batch.close()
        until = time.monotonic() + _RETURN_WITHIN
        while not all(run.is_over for run in self._running.values()) and time.monotonic() < until:
            time.sleep(0.001)
