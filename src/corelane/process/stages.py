"""A pipeline that runs: its stages' children as jobs that the core joins, its functions in threads of their own.

While children live the core keeps their deadline; a function that goes on alone has the rest of it.
"""

from __future__ import annotations

import errno
import signal
import time

from corelane.errors import (
    NonZeroExit,
    ProcessError,
    ProcessTimeout,
    Signaled,
    SpawnFailed,
    StatusUnknown,
    spawn_failed,
)
from corelane.process.batch import take, unstarted
from corelane.process.functions import FunctionResult, FunctionRun
from corelane.process.opened import close
from corelane.process.pack import open_file, pack
from corelane.process.parts import PartsResult, of_part
from corelane.process.pipeline import Function
from corelane.process.redirect import is_opened
from corelane.process.result import Result
from corelane.process.work import WRONG, Driver, Job, Work

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.pipeline import Pipeline

__all__ = ["PipelineResult", "Stages", "failure_of", "shared_stderr"]


class PipelineResult(PartsResult):
    """What a run of a Pipeline left behind.

    Attributes:
        stages: a Result for each stage, a FunctionResult for a function.
        error: what `run` raises.
    """

    __slots__ = ()

    @property
    def stages(self) -> tuple[Any, ...]:
        return self._parts

    @property
    def stdout(self) -> bytes | None:
        """What was captured of the last stage's stdout."""
        captured: bytes | None = self._parts[-1].stdout
        return captured

    @property
    def returncode(self) -> int | None:
        """0, or the return code of the last stage that failed; see `Pipeline`."""
        failed = [n for n in range(len(self._parts)) if has_failed(self._parts, n)]
        code: int | None = self._parts[failed[-1]].returncode if failed else 0
        return code

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the first stage to the end of the last to end, as far as they are measured."""
        return max((part.elapsed for part in self._parts), default=0.0)


def has_failed(parts: Any, n: int) -> bool:
    """Whether stage `n` counts as failed: what died of SIGPIPE does not, unless it is the last. Who sent it is not
    asked: in a pipeline it is the kernel, because a later one reads no more."""
    part = parts[n]
    if not isinstance(part, Result):
        return part.error is not None
    if not part.command.option("check", True) or part.returncode == 0:
        return False
    return not (part.returncode == -signal.SIGPIPE and n < len(parts) - 1)


def shared_stderr(pipeline: Pipeline) -> list[Any]:
    """The owner of the file that is the stderr of all stages, if it is one: each would truncate it again."""
    given = pipeline.option("stderr")
    return [open_file(pipeline, 2, given)] if is_opened(given) else []


class Stages(Work):
    """A pipeline that runs."""

    __slots__ = ("_deadline", "_ended", "_held", "_is_late", "_jobs", "_use")

    def __init__(self, pipeline: Pipeline, index: int | None, use: str, parent: Work | None) -> None:
        super().__init__(pipeline, index, parent)
        self._use = use
        self._jobs: list[Job] = []
        self._ended: dict[Job, Any] = {}
        self._held: list[Any] = []  # descriptors for all stages
        self._deadline: _Deadline | None = None
        self._is_late = False

    def start(self, driver: Driver) -> None:
        self.tries += 1
        self._jobs = []
        self._ended = {}
        self._is_late = False
        try:
            self._held = shared_stderr(self.command)
            self._pack(driver)
        except BaseException as error:
            for job in self._jobs:
                job.close()
            self._close(driver)
            if not isinstance(error, WRONG):
                raise
            self.ended(driver, self._unpacked(error))  # of this pipeline alone
            return
        driver.batch.ready.extend(self._jobs)
        timeout = self.command.option("timeout")
        if timeout is not None and any(isinstance(job, FunctionJob) for job in self._jobs):
            self._deadline = _Deadline(self)
            driver.later(time, timeout, self._deadline)

    def _pack(self, driver: Driver) -> None:
        pipeline: Pipeline = self.command
        last = len(pipeline.stages) - 1
        scope = None
        for n in range(last + 1):
            stage = pipeline.stage(n)
            use = self._use if n == 0 else "many"
            if isinstance(stage, Function):
                job: Job = FunctionJob(FunctionRun(stage, pipeline, use, n == 0, n == last), self, driver)
            else:
                if self._held:
                    stage = stage.with_options(stderr=self._held[0].fd)
                job = Job(stage, None, self, use)
                job.packed = stage.packed(use) if scope is None else pack(stage, use, scope)
                scope = job.packed.scope if scope is None else scope
            job.more, job.joins = last - n, int(n < last)
            self._jobs.append(job)

    def _unpacked(self, error: Exception) -> PipelineResult:
        """The result where the stage after those that are in `_jobs` is not even ready to be started."""
        parts = tuple(unstarted(each, canceled(each)) for each in self.command.stages)
        result = PipelineResult(self.command, parts)
        result.error = error
        if getattr(error, "command", None) is not self.command:
            parts[len(self._jobs)].error = error
            result.error = of_stage(self.command, result, len(self._jobs))
        return result

    # ---- the ends ----------------------------------------------------------------------------------------------

    def part_ended(self, driver: Driver, part: Work, result: Any) -> None:
        assert isinstance(part, Job)
        self._ended[part] = result
        is_function = isinstance(part, FunctionJob)
        # A child has its result when all were started, or never will be; a function also while others wait for room.
        if not is_function or result.error is not None:
            self._drop_unstarted(driver)
        if is_function and result.error is not None:
            self._kill_children(driver)
        self._look(driver)

    def _look(self, driver: Driver) -> None:
        """Whether all are through. A function is waited for as long as there is nothing amiss: it may not return."""
        waited = [job for job in self._jobs if job not in self._ended]
        if any(not isinstance(job, FunctionJob) for job in waited):
            return
        if waited and not (self._is_late or self.killed or any(is_broken(each) for each in self._ended.values())):
            return
        for job in waited:
            assert isinstance(job, FunctionJob)
            self._ended[job] = job.abandon(driver, self._is_late)
        self._close(driver)
        result = PipelineResult(self.command, tuple(self._ended[job] for job in self._jobs))
        result.error = failure_of(self.command, result)
        self.ended(driver, result)

    def _drop_unstarted(self, driver: Driver) -> None:
        """One has failed, or has met a limit: the stages after it need not be started."""
        ready = driver.batch.ready
        pending = [job for job in self._jobs if job in ready] if ready else []
        if pending:
            driver.batch.break_off(self)
        for job in pending:
            ready.remove(job)
            job.close()
            self._ended[job] = unstarted(job.command, canceled(job.command))

    def _kill_children(self, driver: Driver) -> bool:
        living = [job for job in self._jobs if job.slot >= 0]
        if living:
            driver.batch.kill(living[0])  # and with it all the others
        return bool(living)

    def time_out(self, driver: Driver) -> None:
        """The deadline has passed. The core sees to the children."""
        self._is_late = True
        self._look(driver)

    def kill(self, driver: Driver) -> bool:
        self.killed = True
        if self._deadline is not None:
            driver.not_later(self._deadline)
        lives = self._kill_children(driver)
        self._drop_unstarted(driver)
        for job in self._jobs:
            if isinstance(job, FunctionJob) and not lives:
                job.abandon(driver, False)
        return lives

    def _close(self, driver: Driver) -> None:
        if self._deadline is not None:
            driver.not_later(self._deadline)
            self._deadline = None
        for owner in self._held:
            close(owner)
        self._held = []


class _Deadline(Work):
    """What `Driver.later` starts at the deadline of a pipeline with functions."""

    __slots__ = ("_stages",)

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages.command)
        self._stages = stages

    def start(self, driver: Driver) -> None:
        self._stages.time_out(driver)


def canceled(stage: Any) -> ProcessError:
    message = f"{stage} was not started: another stage of its pipeline could not be"
    return spawn_failed(message, command=stage, stage="prepare", errno=errno.ECANCELED)


def is_canceled(error: BaseException | None) -> bool:
    return isinstance(error, SpawnFailed) and error.errno == errno.ECANCELED


def is_broken(part: Any) -> bool:
    """Whether a stage's outcome is one that ends the others."""
    if not isinstance(part, Result):
        return part.error is not None
    return part.error is not None and not isinstance(part.error, (NonZeroExit, Signaled, StatusUnknown))


def failure_of(pipeline: Pipeline, result: PipelineResult) -> BaseException | None:
    """What a run of `pipeline` raises. A stage that was not to be checked, or died of SIGPIPE, keeps no error."""
    stages = result.stages
    failed = [n for n in range(len(stages)) if has_failed(stages, n)]
    broken = [n for n, each in enumerate(stages) if is_broken(each) and not is_canceled(each.error)]
    is_checked = pipeline.option("check", True)
    limit_is_no_error = pipeline.option("on_limit") == "kill" and result.truncated
    for n, each in enumerate(stages):
        if isinstance(each, Result) and not is_broken(each) and (n not in failed or not is_checked):
            each.error = None
    if result.timed_out:
        timeout = pipeline.option("timeout")
        message = f"{pipeline} ran longer than {timeout:g} s and was killed with all in its scope"
        return ProcessTimeout(message, command=pipeline, result=result, timeout=timeout)
    if broken:
        return of_stage(pipeline, result, broken[0])
    return of_stage(pipeline, result, failed[-1]) if failed and is_checked and not limit_is_no_error else None


def of_stage(pipeline: Pipeline, result: PipelineResult, n: int) -> BaseException | None:
    """The error of one stage as that of the pipeline."""
    return of_part(result.stages[n].error, pipeline, result, f"stage {n + 1}")


class FunctionJob(Job):
    """A stage that is a function: between two others the core hands out its descriptors."""

    __slots__ = ("_began", "_driver", "_number", "_run")

    def __init__(self, stage: FunctionRun, parent: Stages, driver: Driver) -> None:
        super().__init__(stage.function, None, parent)
        self._driver = driver
        self._run = stage
        self._number = 0
        self._began = time.monotonic()

    def begin(self, item: Any) -> None:
        assert isinstance(self.parent, Stages)
        if item.fd[0] < 0 and item.fd[1] < 0:  # the pipeline is broken already
            self.parent._ended[self] = unstarted(self.command, canceled(self.command))
            self.close()
            return
        self._began = time.monotonic()
        source, sink = take(item, 0), take(item, 1)
        self._run.connect(source if source.fd >= 0 else None, sink if sink.fd >= 0 else None)
        self._number = self._driver.run_function(self._run, self._returned, self.parent)

    def _returned(self, driver: Driver, result: FunctionResult) -> None:
        if self.parent is not None:
            self.parent.part_ended(driver, self, result)

    def abandon(self, driver: Driver, is_late: bool) -> FunctionResult:
        """It is waited for no more. Its thread ends when it returns, or reads or writes for the next time."""
        driver.forget_function(self._number)
        result = FunctionResult(self.command, None, time.monotonic() - self._began)
        result.timed_out = is_late
        return result

    def close(self) -> None:
        self._run.close()
