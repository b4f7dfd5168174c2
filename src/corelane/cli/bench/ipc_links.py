"""The contenders of the subject `ipc`: one class for each way to send records from one process to another.

A Link is made before the process forks; `open_sender` and `open_receiver` are called in the process that is to be the
one or the other. Loaded from its file by ipc_worker.py, so that the interpreter that is measured has imported no more
than it needs. Owns what its objects own; `close` gives it back.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

CAPACITY = 1 << 20
"""Bytes of a ring or of a queue's slots, or what three records take if that is more: as the raw C ring has it."""

AT_ONCE = 256
"""Records in a list, or in an array, at most; and no more bytes than LIST_BYTES."""
LIST_BYTES = 1 << 18

_numbers = itertools.count()


class Link:
    """One direction. A record is a bytes object, but where a subclass says otherwise; the last one may be shorter."""

    WAITS = True
    """Whether `get` sleeps: what only polls is never measured while idle."""

    put: Callable[..., Any]
    get: Callable[[], Any]

    def __init__(self, size: int, ends: int = 2) -> None:
        """`size`: bytes of the largest record. `ends`: how many processes will use it."""
        self.size, self.ends = size, ends
        self.data = b"x" * size
        self.make()

    def make(self) -> None:
        raise NotImplementedError

    def open_sender(self) -> None:
        """In the process that will put."""

    def open_receiver(self) -> None:
        """In the process that will get."""

    def put_all(self, count: int) -> None:
        """So many records."""
        put, data = self.put, self.data
        for _ in range(count):
            put(data)

    def get_all(self, count: int) -> None:
        get = self.get
        for _ in range(count):
            get()

    def close(self) -> None:
        """The end of it, in each process."""


def _capacity(size: int) -> int:
    return max(CAPACITY, 3 * (size + 16))


def _at_once(size: int) -> int:
    return max(1, min(AT_ONCE, LIST_BYTES // size))


# ---- corelane ----


class OurRing(Link):
    SPIN: float | None = None

    def make(self) -> None:
        import corelane as cl

        self.ring = cl.Ring.create(_capacity(self.size), spin=self.SPIN, populate=True)
        self.put, self.get = self.ring.put, self.ring.get

    def close(self) -> None:
        self.ring.close()


class OurRingSpinning(OurRing):
    SPIN = 0.1


class OurRingAsleep(OurRing):
    SPIN = 0.0


class OurRingLists(OurRing):
    def put_all(self, count: int) -> None:
        many = _at_once(self.size)
        records = [self.data] * many
        for _ in range(count // many):
            self.ring.put_many(records)
        self.ring.put_many(records[: count % many])

    def get_all(self, count: int) -> None:
        get_many, most = self.ring.get_many, _at_once(self.size)
        while count > 0:
            count -= len(get_many(min(most, count)))


class OurRingArrays(OurRing):
    def make(self) -> None:
        import numpy as np

        super().make()
        self.dtype = np.dtype((np.void, self.size))
        self.array = np.zeros(16 * _at_once(self.size), self.dtype)

    def put_all(self, count: int) -> None:
        records_in, array = self.ring.records_in, self.array
        for _ in range(count // len(array)):
            records_in(array)
        records_in(array[: count % len(array)])

    def get_all(self, count: int) -> None:
        records_out, dtype, most = self.ring.records_out, self.dtype, len(self.array)
        while count > 0:
            count -= len(records_out(dtype, min(most, count)))


class OurRingInPlace(OurRing):
    """A copy by either side, as the raw C ring makes one."""

    def put_all(self, count: int) -> None:
        reserve, data, size = self.ring.reserve, self.data, self.size
        for _ in range(count):
            with reserve(size) as view:
                view[:] = data

    def get_all(self, count: int) -> None:
        peek, room = self.ring.peek, memoryview(bytearray(self.size))
        for _ in range(count):
            with peek() as view:
                room[:] = view


class OurQueue(Link):
    def make(self) -> None:
        import corelane as cl

        self.queue = cl.Queue.create(max(4, CAPACITY // (self.size + 64)), self.size)
        self.put, self.get = self.queue.put, self.queue.get
        self.owner = os.getpid()

    def open_sender(self) -> None:
        if os.getpid() != self.owner:
            self.queue.register()

    open_receiver = open_sender

    def close(self) -> None:
        self.queue.close()


class OurQueueLists(OurQueue):
    def put_all(self, count: int) -> None:
        many = _at_once(self.size)
        records = [self.data] * many
        for _ in range(count // many):
            self.queue.put_many(records)
        self.queue.put_many(records[: count % many])

    def get_all(self, count: int) -> None:
        get_many, most = self.queue.get_many, _at_once(self.size)
        while count > 0:
            count -= len(get_many(min(most, count)))


class OurQueuePolled(OurQueue):
    WAITS = False

    def make(self) -> None:
        super().make()
        from corelane.errors import QueueEmpty

        get_nowait = self.queue.get_nowait

        def get() -> bytes:
            while True:
                try:
                    return get_nowait()
                except QueueEmpty:
                    continue

        self.get = get


# ---- multiprocessing ----


class MpPipe(Link):
    def make(self) -> None:
        import multiprocessing as mp

        self.receiver, self.sender = mp.Pipe(duplex=False)
        self.put, self.get = self.sender.send_bytes, self.receiver.recv_bytes

    def close(self) -> None:
        self.receiver.close()
        self.sender.close()


class MpSimpleQueue(Link):
    def make(self) -> None:
        import multiprocessing as mp

        self.queue = mp.get_context("fork").SimpleQueue()
        self.put, self.get = self.queue.put, self.queue.get

    def close(self) -> None:
        self.queue.close()


class MpQueue(Link):
    """Bounded, as the others are: else its sender only fills memory, and what is timed is the end of it."""

    def make(self) -> None:
        import multiprocessing as mp

        self.queue = mp.get_context("fork").Queue(max(4, min(16384, CAPACITY // (self.size + 64))))
        self.put, self.get = self.queue.put, self.queue.get

    def close(self) -> None:
        self.queue.cancel_join_thread()
        self.queue.close()


# ---- others ----


class FasterFifo(Link):
    def make(self) -> None:
        faster_fifo = importlib.import_module("faster_fifo")
        importlib.import_module("faster_fifo_reduction")
        self.queue = faster_fifo.Queue(max_size_bytes=_capacity(self.size) + 4096)
        # Its own timeout is 10 s by default.
        self.put = lambda data: self.queue.put(data, timeout=3600.0)
        self.get = lambda: self.queue.get(timeout=3600.0)

    def close(self) -> None:
        self.queue.close()


class FasterFifoLists(FasterFifo):
    def put_all(self, count: int) -> None:
        many = _at_once(self.size)
        records = [self.data] * many
        for done in range(0, count, many):
            self.queue.put_many(records[: count - done], timeout=3600.0)

    def get_all(self, count: int) -> None:
        get_many, most = self.queue.get_many, _at_once(self.size)
        while count > 0:
            count -= len(get_many(max_messages_to_get=min(most, count), timeout=3600.0))


class ZmqPair(Link):
    """A socket of either side, made after the fork: a context must not be shared."""

    def make(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="corelane-bench-")
        self.address = f"ipc://{self.directory}/pair"
        self.owner = os.getpid()
        self.contexts: list[Any] = []

    def _open(self, *, bind: bool) -> Any:
        zmq = importlib.import_module("zmq")
        self.contexts.append(zmq.Context())
        socket = self.contexts[-1].socket(zmq.PAIR)
        (socket.bind if bind else socket.connect)(self.address)
        return socket

    def open_sender(self) -> None:
        self.put = self._open(bind=True).send

    def open_receiver(self) -> None:
        self.get = self._open(bind=False).recv

    def close(self) -> None:
        for context in self.contexts:
            context.destroy(linger=0)
        if os.getpid() == self.owner:
            import shutil

            shutil.rmtree(self.directory, ignore_errors=True)


class Iceoryx2(Link):
    """Publish and subscribe, polled: to wait would take a second service, of events."""

    WAITS = False

    def make(self) -> None:
        self.name = f"corelane-bench-{os.getpid()}-{next(_numbers)}"

    def _service(self) -> Any:
        iox2 = importlib.import_module("iceoryx2")
        iox2.set_log_level(iox2.LogLevel.Error)
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        self.type = ctypes.c_uint8 * self.size
        builder = self.node.service_builder(iox2.ServiceName.new(self.name)).publish_subscribe(self.type)
        depth = max(2, min(64, CAPACITY // self.size))
        self.service = builder.enable_safe_overflow(False).subscriber_max_buffer_size(depth).open_or_create()
        return iox2

    def open_sender(self) -> None:
        iox2 = self._service()
        builder = self.service.publisher_builder()
        self.publisher = builder.backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered).create()
        record, send = self.type.from_buffer_copy(self.data), self.publisher.send_copy
        self.put = lambda _: send(record)
        deadline = time.monotonic() + 10.0
        while self.service.dynamic_config.number_of_subscribers == 0 and time.monotonic() < deadline:
            time.sleep(0.001)

    def open_receiver(self) -> None:
        self._service()
        receive, size, copied = self.service.subscriber_builder().create().receive, self.size, ctypes.string_at

        def get() -> bytes:
            while (sample := receive()) is None:
                continue
            return copied(sample.payload_ptr, size)

        self.get = get


LINKS: dict[str, type[Link]] = {
    "ring": OurRing,
    "ring_spin": OurRingSpinning,
    "ring_sleep": OurRingAsleep,
    "ring_lists": OurRingLists,
    "ring_arrays": OurRingArrays,
    "ring_in_place": OurRingInPlace,
    "queue": OurQueue,
    "queue_lists": OurQueueLists,
    "queue_polled": OurQueuePolled,
    "mp_pipe": MpPipe,
    "mp_simple_queue": MpSimpleQueue,
    "mp_queue": MpQueue,
    "faster_fifo": FasterFifo,
    "faster_fifo_lists": FasterFifoLists,
    "zmq_pair": ZmqPair,
    "iceoryx2": Iceoryx2,
}
"""By the names that ipc_worker.py is asked for."""
