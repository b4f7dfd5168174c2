"""Shared memory: segments, numpy arrays in them, rings, queues, events.

    from corelane import shm

    frames = shm.array((16, 1080, 1920), "u1", name="frames")
    frames = shm.attach_array("frames", readonly=True)      # in another program

Each name is loaded when it is asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.shm.arrays import SharedArray, array, attach_array
    from corelane.shm.barrier import Barrier
    from corelane.shm.broadcast import Broadcast
    from corelane.shm.broadcast_state import BroadcastStats, ReaderStats
    from corelane.shm.buffers import Block, BufferPool, PoolStats, pools
    from corelane.shm.deque import Deque, DequeStats
    from corelane.shm.event import Event
    from corelane.shm.eventfd import EventFd
    from corelane.shm.lock import Lock
    from corelane.shm.queue import Queue, QueueStats
    from corelane.shm.queue_pool import QueuePool
    from corelane.shm.ring import Ring, RingStats, SideStats
    from corelane.shm.segment import Handle, Segment
    from corelane.shm.semaphore import Semaphore
    from corelane.shm.spin import default_spin, set_default_spin
    from corelane.shm.streams import SegmentInput, SegmentOutput
    from corelane.shm.waiting import wait_any, wait_any_async

# To which module each name belongs.
_LATER = {
    "Barrier": "barrier",
    "Block": "buffers",
    "Broadcast": "broadcast",
    "BroadcastStats": "broadcast_state",
    "BufferPool": "buffers",
    "Deque": "deque",
    "DequeStats": "deque",
    "Event": "event",
    "EventFd": "eventfd",
    "Handle": "segment",
    "Lock": "lock",
    "PoolStats": "buffers",
    "Queue": "queue",
    "QueuePool": "queue_pool",
    "QueueStats": "queue",
    "ReaderStats": "broadcast_state",
    "Ring": "ring",
    "RingStats": "ring",
    "Segment": "segment",
    "SegmentInput": "streams",
    "SegmentOutput": "streams",
    "Semaphore": "semaphore",
    "SharedArray": "arrays",
    "SideStats": "ring",
    "array": "arrays",
    "attach_array": "arrays",
    "default_spin": "spin",
    "pools": "buffers",
    "set_default_spin": "spin",
    "wait_any": "waiting",
    "wait_any_async": "waiting",
}


if not TYPE_CHECKING:  # to which any name would exist

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'corelane.shm' has no attribute {name!r}")
        import importlib

        found = globals()[name] = getattr(importlib.import_module(f"corelane.shm.{_LATER[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "Barrier",
    "Block",
    "Broadcast",
    "BroadcastStats",
    "BufferPool",
    "Deque",
    "DequeStats",
    "Event",
    "EventFd",
    "Handle",
    "Lock",
    "PoolStats",
    "Queue",
    "QueuePool",
    "QueueStats",
    "ReaderStats",
    "Ring",
    "RingStats",
    "Segment",
    "SegmentInput",
    "SegmentOutput",
    "Semaphore",
    "SharedArray",
    "SideStats",
    "array",
    "attach_array",
    "default_spin",
    "pools",
    "set_default_spin",
    "wait_any",
    "wait_any_async",
]
