"""corelane: processes for Python, at the speed of the machine.

    import corelane as cl

    cl.run(["tool", "-x"], timeout=5)
    cl.Command("grep", "-c", "ERROR", cwd="/var/log").read()

Importing it is cheap: what only some calls need is loaded by those.
"""

from __future__ import annotations

from corelane import cpu, shm
from corelane.errors import (
    AlreadyHeld,
    BrokenBarrier,
    CallFailed,
    CgroupUnavailable,
    Closed,
    CorelaneError,
    Corrupted,
    CpuError,
    CpuRefused,
    Evicted,
    NonZeroExit,
    NotHeld,
    NotOwner,
    NotSupported,
    OutputLimitExceeded,
    PeerDied,
    PoolExhausted,
    ProcessError,
    ProcessTimeout,
    QueueEmpty,
    QueueFull,
    ReaderBlocks,
    RecordsLost,
    ResourceExhausted,
    ShmError,
    ShmFailed,
    ShmTimeout,
    SideTaken,
    Signaled,
    SpawnFailed,
    StaleBlock,
    StatusUnknown,
    TeeFailed,
)
from corelane.process import (
    DEVNULL,
    PIPE,
    STDOUT,
    Command,
    File,
    Process,
    Result,
    Retry,
    Usage,
    quote,
    read,
    run,
    run_many,
)

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.process.aio import AsyncResults, run_async, run_many_async
    from corelane.process.async_process import AsyncProcess
    from corelane.process.command import Runnable
    from corelane.process.piped import PipelineProcess
    from corelane.process.pipeline import Function, Pipeline, over_chunks, over_lines
    from corelane.process.sequence import Sequence, SequenceResult
    from corelane.process.stages import PipelineResult
    from corelane.process.typed import Options
    from corelane.shm.barrier import Barrier
    from corelane.shm.broadcast import Broadcast
    from corelane.shm.buffers import BufferPool
    from corelane.shm.deque import Deque
    from corelane.shm.event import Event
    from corelane.shm.eventfd import EventFd
    from corelane.shm.lock import Lock
    from corelane.shm.queue import Queue
    from corelane.shm.queue_pool import QueuePool
    from corelane.shm.ring import Ring
    from corelane.shm.semaphore import Semaphore

__version__ = "0.1.0"

# What only some programs need, and where it is: loaded when it is asked for.
_LATER = {
    "AsyncProcess": "corelane.process.async_process",
    "AsyncResults": "corelane.process.aio",
    "EventFd": "corelane.shm.eventfd",
    "Deque": "corelane.shm.deque",
    "BufferPool": "corelane.shm.buffers",
    "Broadcast": "corelane.shm.broadcast",
    "Barrier": "corelane.shm.barrier",
    "Event": "corelane.shm.event",
    "Function": "corelane.process.pipeline",
    "Lock": "corelane.shm.lock",
    "Options": "corelane.process.typed",
    "Pipeline": "corelane.process.pipeline",
    "PipelineProcess": "corelane.process.piped",
    "PipelineResult": "corelane.process.stages",
    "Queue": "corelane.shm.queue",
    "QueuePool": "corelane.shm.queue_pool",
    "Ring": "corelane.shm.ring",
    "Runnable": "corelane.process.command",
    "Semaphore": "corelane.shm.semaphore",
    "Sequence": "corelane.process.sequence",
    "SequenceResult": "corelane.process.sequence",
    "over_chunks": "corelane.process.pipeline",
    "over_lines": "corelane.process.pipeline",
    "run_async": "corelane.process.aio",
    "run_many_async": "corelane.process.aio",
}


if not TYPE_CHECKING:  # to which any name would exist

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'corelane' has no attribute {name!r}")
        import importlib

        found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "AlreadyHeld",
    "AsyncProcess",
    "AsyncResults",
    "Barrier",
    "Broadcast",
    "BrokenBarrier",
    "BufferPool",
    "CallFailed",
    "CgroupUnavailable",
    "Closed",
    "Command",
    "CorelaneError",
    "Corrupted",
    "CpuError",
    "CpuRefused",
    "Deque",
    "Event",
    "EventFd",
    "Evicted",
    "File",
    "Function",
    "Lock",
    "NonZeroExit",
    "NotHeld",
    "NotOwner",
    "NotSupported",
    "Options",
    "OutputLimitExceeded",
    "PeerDied",
    "Pipeline",
    "PipelineProcess",
    "PipelineResult",
    "PoolExhausted",
    "Process",
    "ProcessError",
    "ProcessTimeout",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueuePool",
    "ReaderBlocks",
    "RecordsLost",
    "ResourceExhausted",
    "Result",
    "Retry",
    "Ring",
    "Runnable",
    "Semaphore",
    "Sequence",
    "SequenceResult",
    "ShmError",
    "ShmFailed",
    "ShmTimeout",
    "SideTaken",
    "Signaled",
    "SpawnFailed",
    "StaleBlock",
    "StatusUnknown",
    "TeeFailed",
    "Usage",
    "__version__",
    "cpu",
    "over_chunks",
    "over_lines",
    "quote",
    "read",
    "run",
    "run_async",
    "run_many",
    "run_many_async",
    "shm",
]
