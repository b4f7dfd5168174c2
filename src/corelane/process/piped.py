"""PipelineProcess: a pipeline that runs, as a Process for each of its commands.

Owns its Processes and the threads of its functions. Unless its caller waits for the first stage by itself, that one is
reaped after all others have ended: until then its group's number is its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import time
from types import TracebackType

from corelane._ffi import fast
from corelane._values import seconds
from corelane.errors import CorelaneError, NotSupported, ProcessTimeout, ResourceExhausted, SpawnFailed, spawn_failed
from corelane.process.explain import ADVICE
from corelane.process.functions import FunctionResult, FunctionRun
from corelane.process.opened import close, owned_pipe
from corelane.process.pack import pack
from corelane.process.pipeline import Function
from corelane.process.process import Process
from corelane.process.redirect import PIPE
from corelane.process.stages import PipelineResult, failure_of, shared_stderr

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterable
    from threading import Thread
    from typing import IO, Any, NoReturn

    from corelane.errors import CpuRefused
    from corelane.process.command import Command
    from corelane.process.pipeline import Pipeline
    from corelane.process.result import Usage

__all__ = ["PipelineProcess"]

_REAP_WITHIN = 5.0  # seconds: what SIGKILL has not ended by then is in uninterruptible sleep
_RETURN_WITHIN = 0.1  # seconds: a function whose input has ended returns at once, or may never


class PipelineProcess:
    """A pipeline that runs. Made by `Pipeline.spawn`, and best used as a context manager, whose end is that of a
    Process's: normally our ends of the pipes are closed, all stages waited for, and leftovers killed; by an exception
    it is `terminate()`.

    Attributes:
        command: the Pipeline.
        stages: a Process for each command among its stages, in their order.
        stdin, stdout: file objects, where the pipeline was given PIPE for them; the stderr of each stage is its own.
    """

    stdin: IO[Any] | None
    stdout: IO[Any] | None

    def __init__(self, pipeline: Pipeline, *, for_run: bool = False) -> None:
        self.command = pipeline
        self.stages: list[Process] = []
        self.stdin = self.stdout = None
        self._use = "run" if for_run else "spawn"
        self._parts: list[Process | _Thread] = []
        self._addresses: tuple[int, ...] = ()  # for `__exit__`
        self._joints: list[Any] = []  # descriptors that nobody else has got yet
        self._kill_dropped = True  # until its caller has it; see Pipeline.spawn
        self._maker = os.getpid()
        try:
            self._start()
        except BaseException:
            self._kill_and_reap()
            for owner in self._joints:
                close(owner)
            self.stages.clear()
            self._parts.clear()
            self._addresses = ()
            raise

    def _start(self) -> None:
        pipeline = self.command
        last = len(pipeline.stages) - 1
        source: Any = None
        held = shared_stderr(pipeline)
        self._joints += held
        for n in range(last + 1):
            stage = pipeline.stage(n)
            reader, writer = self._pipe() if n < last else (None, None)
            self._joints += [end for end in (reader, writer) if end is not None]
            if isinstance(stage, Function):
                self._start_function(stage, n, source, writer)
            else:
                given: dict[str, Any] = {} if source is None else {"stdin": source.fd}
                if writer is not None:
                    given["stdout"] = writer.fd
                if held:
                    given["stderr"] = held[0].fd
                self._start_stage(stage.with_options(**given) if given else stage)
                for end in (source, writer):
                    if end is not None:
                        close(end)
            source = reader
        for owner in held:
            close(owner)
        self._joints = []
        self.stdin = self.stdin or self.stages[0].stdin
        self.stdout = self.stdout or self.stages[-1].stdout

    def _start_stage(self, command: Command) -> None:
        self.stages.append(self._process(command))
        self._parts.append(self.stages[-1])
        self._addresses += self.stages[-1]._addresses

    def _process(self, command: Command) -> Process:
        for_run = self._use == "run"
        if not self.stages:
            return Process(command, for_run=for_run)
        leader = self.stages[0]
        if leader._scope is not None:
            return Process(command, packed=pack(command, self._use, leader._scope))
        if leader.contained == "none":
            return Process(command.with_options(contain="none"), for_run=for_run)
        try:
            return Process(command.with_options(process_group=leader.pid), for_run=for_run)
        except SpawnFailed as error:
            if error.stage != "group":
                raise
            # Where SIGCHLD is ignored, or somebody waits for all, the leader may be gone, and its group with it.
            return Process(command, for_run=for_run)

    def _pipe(self) -> tuple[Any, Any]:
        try:
            return owned_pipe()
        except OSError as error:
            number = error.errno or errno.EMFILE
            message = (
                f"cannot start {self.command}: [pipe] {os.strerror(number)}: {ADVICE.get(number, 'there is no room')}"
            )
            raise spawn_failed(message, command=self.command, stage="pipe", errno=number) from None

    def _start_function(self, function: Function, n: int, source: Any, sink: Any) -> None:
        pipeline = self.command
        is_first, is_last = n == 0, n == len(pipeline.stages) - 1
        run = FunctionRun(function, pipeline, self._use, is_first, is_last)
        if is_first and pipeline.stdin is PIPE:
            source, ours = self._pipe()
            self.stdin = self._file(ours, "wb")
        if is_last and pipeline.stdout is PIPE:
            ours, sink = self._pipe()
            self.stdout = self._file(ours, "rb")
        self._joints = [end for end in self._joints if end is not source and end is not sink]
        run.connect(source, sink)
        part = _Thread(run)
        self._parts.append(part)
        part.start()

    def _file(self, owner: Any, mode: str) -> IO[Any]:
        fd = owner.fd
        owner.fd = -1  # between these Python looks for no signal: a descriptor always has one owner
        raw = io.FileIO(fd, mode)
        buffered = io.BufferedWriter(raw) if mode == "wb" else io.BufferedReader(raw)
        encoding = self.command.option("encoding")
        if encoding is None:
            return buffered
        return io.TextIOWrapper(buffered, encoding, self.command.option("errors", "strict"), newline="\n")

    # ---- looking and waiting -----------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The first command's process id, which is the group's number."""
        return self.stages[0].pid

    @property
    def not_applied(self) -> tuple[CpuRefused, ...]:
        """As of a Process: of all stages."""
        return tuple(one for stage in self.stages for one in getattr(stage, "not_applied", ()))

    @property
    def contained(self) -> str:
        """The containment obtained; see `Process.contained`."""
        return self.stages[0].contained

    @property
    def returncode(self) -> int | None:
        """The pipeline's return code once all stages were waited for, else None."""
        if any(part.usage is None for part in self._parts):
            return None
        return self.result().returncode

    def fileno(self) -> int:
        """A descriptor that becomes readable when the last command has ended.

        Raises:
            NotSupported: this platform has none, or a function comes after that command.
        """
        if not isinstance(self._parts[-1], Process):
            raise NotSupported("there is no descriptor for the end of a function; use wait or poll")
        return self._parts[-1].fileno()

    def poll(self) -> int | None:
        """The return code if all stages have ended, else None. Does not block."""
        return self.returncode if self._wait(0) else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for all stages to end.

        Args:
            timeout: seconds, or None to wait for ever.

        Returns:
            0, or the return code of the last stage that failed; see `Pipeline`.

        Raises:
            ProcessTimeout: one still runs. Nothing was done to it.
        """
        if not self._wait(None if timeout is None else seconds("timeout", timeout)):
            raise ProcessTimeout(
                f"{self.command} still runs after {timeout:g} s", command=self.command, timeout=timeout or 0
            )
        return self.returncode

    def _wait(self, timeout: float | None, *, reap: bool = True) -> bool:
        return self._wait_for(self._parts, timeout, reap)

    def _wait_for(self, parts: Iterable[Process | _Thread], timeout: float | None, reap: bool) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        # All of them first: reaped, the leader would lose its group's number while others are in it.
        for part in parts:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not part._wait(left, reap=False):
                return False
        for stage in reversed(self.stages) if reap else ():
            stage._wait(None)
        return True

    def result(self, *, timed_out: bool = False) -> PipelineResult:
        """The PipelineResult so far; what went through pipes is not in it."""
        results = [part.result(timed_out=timed_out) for part in self._parts]
        return PipelineResult(self.command, tuple(results))

    def check(self) -> None:
        """Wait, and raise what `run` would have raised."""
        self.wait()
        result = self.result()
        for stage, process in zip(result.stages, self._parts, strict=True):
            if isinstance(process, Process):
                stage.error = process._failure()
        error = failure_of(self.command, result)
        if error is not None:
            raise error

    # ---- signalling and the end --------------------------------------------------------------------------------

    def signal_scope(self, signal: int | str) -> bool:
        """Send a signal to all that the containment holds. False if nobody was left."""
        if self.stages and self.contained != "none":
            with contextlib.suppress(CorelaneError):  # one that we may not signal
                if self.stages[0].signal_scope(signal):
                    return True
        # There is no such scope, or its leader is gone: was waited for, or taken by whoever ignores SIGCHLD.
        reached = [stage.signal_scope(signal) for stage in self.stages]
        return any(reached)

    def kill(self) -> None:
        """SIGKILL to all stages, and all that the containment holds."""
        self.signal_scope("KILL")
        for stage in self.stages:
            if stage.usage is None:
                stage.signal_scope("KILL")  # not kill(), which would reap it, and the leader has to stay

    def terminate(self, grace: float = 5) -> int | None:
        """End all stages: SIGTERM (and SIGCONT, should one be stopped), up to `grace` seconds, then SIGKILL. A function
        that does not return although its input has ended is left to itself.

        Returns:
            The return code; None if there is such a function.

        Raises:
            ProcessTimeout: even SIGKILL did not end one within 5 s (uninterruptible sleep).
        """
        grace = seconds("grace", grace)
        self.signal_scope("TERM")
        self.signal_scope("CONT")
        self._wait_for(self.stages, grace, reap=False)
        self.kill()
        if not self._wait_for(self.stages, _REAP_WITHIN, reap=True):
            raise ProcessTimeout(
                f"{self.command} was killed, and has not ended: a stage is in uninterruptible sleep, or frozen",
                command=self.command,
                timeout=_REAP_WITHIN,
            )
        self._wait(_RETURN_WITHIN)
        return self.returncode

    def close(self) -> None:
        """Close our ends of the pipes."""
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        for stage in self.stages:
            stage.close()

    def lines(self) -> Any:
        """The lines of stdout, as they come; see `Process.lines`."""
        if self.stdout is None:
            raise ValueError(f"{self.command} was spawned without stdout=PIPE: there is nothing to read")
        return iter(self.stdout)

    def _kill_and_reap(self) -> None:
        self.kill()
        self._drop_streams()
        self._wait_for(self.stages, _REAP_WITHIN, reap=True)
        self._wait(_RETURN_WITHIN)

    def _drop_streams(self) -> None:
        for stage in self.stages:
            stage._drop_streams()
        for stream in (self.stdin, self.stdout):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    if TYPE_CHECKING:

        def __enter__(self) -> PipelineProcess: ...

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    def _leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """The end of a `with` block; see `Process._leave`."""
        if os.getpid() != self._maker:
            self._drop_streams()
            self._foreign("ended")
        try:
            if kind is None:
                self.close()
                self._wait(None, reap=False)
            else:
                with contextlib.suppress(CorelaneError):  # the block's own exception is what its caller must see
                    self.terminate()
                self._drop_streams()
        except BaseException:
            self._kill_and_reap()
            raise
        finally:
            for stage in [self.stages[0], *self.stages[:0:-1]]:  # the leader's scope, then what is left of each
                stage._end_scope()
            self._kill_dropped = False  # what is still there cannot be killed

    def __del__(self) -> None:
        if not self._kill_dropped:  # its stages are its caller's, too
            for stage in self.stages:
                stage._kill_dropped = False

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PipelineProcess cannot be copied or pickled: its children are its maker's to wait for")

    def _foreign(self, what: str) -> NoReturn:
        self.stages[0]._foreign(what)

    def __repr__(self) -> str:
        return f"<PipelineProcess {self.command} pids={[stage.pid for stage in self.stages]}>"


PipelineProcess.__enter__, PipelineProcess.__exit__ = fast.make_with(PipelineProcess)  # type: ignore[method-assign]


class _Thread:
    """A function that runs, with the names of a Process that are used of it here."""

    def __init__(self, run: FunctionRun) -> None:
        self._run = run
        self._began = time.monotonic()
        self._result: FunctionResult | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        try:
            self._thread = self._run.start(self._ended)
        except ResourceExhausted:
            self._run.close()
            raise

    def _ended(self, result: FunctionResult) -> None:
        self._result = result

    def _wait(self, timeout: float | None, *, reap: bool = True) -> bool:
        if self._thread is None:  # `start` was interrupted: there may be a thread, and then it owns what it closes
            until = time.monotonic() + (timeout or 0.0)
            while not self._run.is_over and time.monotonic() < until:
                time.sleep(0.001)
            return self._run.is_over
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def usage(self) -> Usage | None:
        return None if self._result is None else self._result.usage

    def result(self, *, timed_out: bool = False) -> FunctionResult:
        if self._result is not None:
            return self._result
        result = FunctionResult(self._run.function, None, time.monotonic() - self._began)
        result.timed_out = timed_out
        return result
