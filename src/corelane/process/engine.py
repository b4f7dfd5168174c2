"""One run from start to end, driven through the C drain engine.

Owns a small pool of engines (each with its buffers and an environment snapshot), one in use per run. A run that is
left by an exception - Ctrl-C, MemoryError - kills its scope and reaps before the exception goes on.
"""

from __future__ import annotations

import errno
import os

from corelane._ffi import check, ffi, lib
from corelane.errors import (
    CallFailed,
    NonZeroExit,
    NotOwner,
    OutputLimitExceeded,
    ProcessError,
    ProcessTimeout,
    Signaled,
    StatusUnknown,
    TeeFailed,
)
from corelane.process import dropped
from corelane.process import result as layout
from corelane.process.environ import capture, new_snapshot
from corelane.process.explain import explain
from corelane.process.result import EXITED, SIGNALED, Result, signal_of
from corelane.process.retry import tell_tries

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import NoReturn

    from corelane.process.command import Command

__all__ = ["execute"]

# A signal that comes just before the engine sleeps is seen at the end of the step, so a step is short for a person and
# long for a machine.
_STEP_NS = 500_000_000
_REAP_NS = 2_000_000_000
_TAIL = 400  # bytes of stderr in a message
_KEEP = 1 << 20  # bytes of output whose memory an engine may keep for its next run
_EINTR = -errno.EINTR
# Killed, and still there: what was read is kept, the child is reaped when it ends.
_UNKILLABLE = {
    -errno.ETIMEDOUT: "it is in uninterruptible sleep, or frozen",
    -errno.EPERM: "it runs as a user whose processes we may not signal",
}
_CHAR = ffi.typeof("char *")
_start, _step, _report_get = lib.cl_run_start_report, lib.cl_run_step, lib.cl_run_report_get


class _Engine:
    __slots__ = ("buffer", "capture_at", "maker", "report", "run", "snapshot")

    def __init__(self) -> None:
        made = ffi.new("cl_run **")
        check(lib.cl_run_new(made), "a run")
        self.run = ffi.gc(made[0], lib.cl_run_free)
        self.snapshot, self.capture_at = new_snapshot()
        self.report = ffi.new("cl_run_report *")
        self.buffer = ffi.buffer(self.report)
        self.maker = os.getpid()

    def is_gone(self) -> bool:
        """For `dropped`."""
        return bool(lib.cl_run_abort(self.run, 0))


_idle: list[_Engine] = []
_IDLE_MOST = 32


def _forget_engines() -> None:
    # In a forked child an engine's memory is a copy, its descriptors may since be somebody else's numbers.
    _idle.clear()


os.register_at_fork(after_in_child=_forget_engines)


def execute(command: Command, tries: int = 0) -> Result:
    """Run `command` to its end; see `corelane.run` for what it returns and raises.

    Args:
        tries: which try of its `retry` this is, from 1; 0: make as many as that says.
    """
    if tries == 0 and "retry" in command._options:
        return _with_retries(command)
    if dropped.waiting:
        dropped.reap()
    packed = command.packed("run")
    try:
        engine = _idle.pop()
    except IndexError:
        engine = _Engine()
    try:
        if packed.inherits_environ:
            capture(engine.capture_at)
        report = engine.report
        rc = _start(engine.run, packed.command, packed.launch, packed.options, engine.snapshot, _STEP_NS, report)
        if rc == 0 or rc == _EINTR:
            while rc == 0 or rc == _EINTR:
                rc = _step(engine.run, _STEP_NS)
            _report_get(engine.run, report)
        stdout = stderr = None
        if rc == 1 or rc in _UNKILLABLE:
            if packed.captures[0]:
                stdout = output_of(report.data[0], report.size[0])
            if packed.captures[1]:
                stderr = output_of(report.data[1], report.size[1])
        is_plain, raw = report.is_plain, engine.buffer[:]
        if (stdout and len(stdout) > _KEEP) or (stderr and len(stderr) > _KEEP):
            lib.cl_run_forget(engine.run)  # an idle engine may idle for ever
    except BaseException:
        if engine.maker == os.getpid():
            # Before the abort, whose result a second Ctrl-C may take: it runs as somebody else, perhaps, or is frozen.
            dropped.waiting.append(engine.is_gone)
        lib.cl_run_abort(engine.run, _REAP_NS)
        raise
    finally:
        if not packed.reusable:
            packed.close()
    result = Result(command, raw, stdout, stderr)
    if rc != 1:
        _raise_failed(command, engine, result, rc)
    if len(_idle) < _IDLE_MOST:
        _idle.append(engine)
    if not is_plain:
        failure = failure_of(command, result, result._report)
        if failure is not None:
            raise failure
    return result


def _with_retries(command: Command) -> Result:
    retry = command.option("retry")
    tries = 1
    while True:
        try:
            result = execute(command, tries)
        except ProcessError as error:
            if not retry.is_for(error, tries):
                if error.result is not None:
                    error.result.tries = tries
                tell_tries(error, tries)
                raise
        else:
            result.tries = tries
            return result
        retry.timer.sleep(retry.pause(tries))
        tries += 1


def output_of(address: int, size: int) -> bytes:
    """A copy of what an engine captured of one stream."""
    return ffi.buffer(ffi.cast(_CHAR, address), size)[:] if size else b""


def _raise_failed(command: Command, engine: _Engine, result: Result, rc: int) -> NoReturn:
    report = result._report
    if report[layout.STAGE]:
        _idle.append(engine)
        raise explain(command, report[layout.STAGE], report[layout.ERROR])
    if engine.maker != os.getpid():
        raise NotOwner(
            f"this is a forked child (of process {engine.maker}, where a signal handler forked): its parent waits for "
            f"{command}",
            command=command,
        )
    if rc in _UNKILLABLE:
        dropped.waiting.append(engine.is_gone)
    else:
        lib.cl_run_abort(engine.run, _REAP_NS)
    raise broken_off(command, result, rc)


def broken_off(command: Command, result: Result, rc: int) -> Exception:
    """Why a run could not be brought to its end: `rc` is what its last step returned."""
    if rc in _UNKILLABLE:
        message = f"{command} was to be killed, but has not ended: {_UNKILLABLE[rc]}. It is reaped when it ends"
        if result.timed_out:
            return ProcessTimeout(message, command=command, result=result, timeout=command.option("timeout"))
        return ProcessError(message, command=command, result=result)
    if rc == -errno.ENOMEM:
        return MemoryError(f"the output of {command} does not fit into memory: give max_output=, or use chunks()")
    return CallFailed(-rc, f"running {command}: {os.strerror(-rc)}")


def failure_of(command: Command, result: Result, report: tuple[int, ...]) -> ProcessError | None:
    """What `run` raises after a run: what must not be overlooked. `check=False` covers the child's failures only."""
    if report[layout.TIMED_OUT]:
        timeout = command.option("timeout")
        return ProcessTimeout(
            f"{command} ran longer than {timeout:g} s and was killed with all in its scope "
            f"(contained by {result.contained})",
            command=command,
            result=result,
            timeout=timeout,
        )
    if report[layout.LIMIT_HIT] and command.option("on_limit", "fail") == "fail":
        return OutputLimitExceeded(
            f"{command} wrote more than max_output={command.option('max_output')} bytes and was killed; "
            "raise it, or give on_limit='truncate'",
            command=command,
            result=result,
        )
    if report[layout.TEE_ERROR]:
        number = report[layout.TEE_ERROR]
        return TeeFailed(
            f"the output of {command} could not be copied to its tee: {os.strerror(number)}",
            command=command,
            result=result,
            errno=number,
        )
    # What we killed for its output has the result that was asked for.
    if command.option("check", True) and not (report[layout.LIMIT_HIT] and command.option("on_limit") == "kill"):
        return status_failure(command, result, report)
    return None


def status_failure(command: Command, result: Result, report: tuple[int, ...]) -> ProcessError | None:
    """NonZeroExit, Signaled or StatusUnknown, unless the child exited with 0."""
    state, status = report[layout.STATE], report[layout.STATUS]
    tail = (result.stderr or b"")[-_TAIL:]
    said = f"; stderr ends: {tail.decode('utf-8', 'replace').strip()}" if tail.strip() else ""
    if state == SIGNALED:
        signal = signal_of(report)
        name = getattr(signal, "name", f"signal {signal}")
        core = " and left a core" if result.core_dumped else ""
        return Signaled(
            f"{command} was ended by {name}{core}{said}",
            command=command,
            result=result,
            signal=status,
            core_dumped=result.core_dumped,
        )
    if state == EXITED and status != 0:
        return NonZeroExit(
            f"{command} exited with status {status}{said}",
            command=command,
            result=result,
            code=status,
            stderr_tail=tail,
        )
    if state != EXITED:
        return StatusUnknown(
            f"{command} has ended, but its status was taken by somebody else in this process (a waitpid(-1), or "
            "SIGCHLD is ignored); check=False accepts that",
            command=command,
            result=result,
        )
    return None
