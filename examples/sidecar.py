"""A service that must never wait, and a sidecar: a process beside it that does what takes time.

    python examples/sidecar.py [REQUESTS]

The service answers requests, and tells the sidecar of each through a ring: sixteen bytes, no system call while the
sidecar is awake, and never a wait: what finds no room is counted. The sidecar makes percentiles of it, a line each
second. It may be killed (try it): the service starts another one, which goes on in the ring where the first one was.

Without REQUESTS it goes on until Ctrl-C.
"""

import contextlib
import hashlib
import itertools
import json
import struct
import sys
import time

import numpy as np

import corelane as cl

TICK = np.dtype([("began", "i8"), ("took", "i8")])  # ns
pack = struct.Struct("=qq").pack  # the same, one by one
LOOK_EVERY = 1024  # requests, between two looks whether the sidecar lives


def answer(request: int) -> bytes:
    """What the service is for."""
    return hashlib.blake2b(request.to_bytes(8, "little")).digest()


def serve(requests: int | None) -> None:
    """Answer so many requests; None: until Ctrl-C."""
    sidecar = cl.Command(sys.executable, __file__, "--sidecar", contain="group", die_with_parent=True)
    told = dropped = 0
    clock = time.perf_counter_ns
    with cl.Ring.create(1 << 20) as ring, contextlib.ExitStack() as children:

        def start() -> cl.Process:
            process = children.enter_context(sidecar.spawn(fds={3: ring.segment}))
            print(f"sidecar {process.pid} is started", flush=True)
            return process

        process = start()
        try:
            for request in itertools.count() if requests is None else range(requests):
                began = clock()
                answer(request)
                try:
                    ring.put_nowait(pack(began, clock() - began))
                    told += 1
                except (cl.QueueFull, cl.PeerDied):
                    dropped += 1
                if request % LOOK_EVERY == 0 and process.poll() is not None:
                    process = start()
        except KeyboardInterrupt:
            pass
        ring.close()  # the sidecar gets what is there, and then Closed
        process.wait()
        print(f"told of {told} requests, dropped {dropped}", flush=True)


def watch() -> None:
    """The sidecar: until the service closes the ring, or dies."""
    seen, said_at = 0, time.monotonic()
    spans = np.empty(0, "i8")
    with cl.Ring.attach(3) as ring:
        while True:
            try:
                spans = np.concatenate([spans, ring.records_out(TICK, 1 << 16, timeout=1)["took"]])
            except cl.QueueEmpty:
                pass
            except (cl.Closed, cl.PeerDied):
                break
            if time.monotonic() - said_at >= 1:
                seen, said_at = seen + len(spans), time.monotonic()
                report(seen, spans)
                spans = spans[:0]
    report(seen + len(spans), spans)


def report(seen: int, spans: np.ndarray) -> None:
    """One line; `spans` are those since the last one."""
    p50, p99 = np.percentile(spans, [50, 99]) / 1000 if len(spans) else (None, None)
    print(json.dumps({"requests": seen, "p50_us": p50, "p99_us": p99}), flush=True)


def main() -> None:
    """Either of the two."""
    if sys.argv[1:] == ["--sidecar"]:
        watch()
    else:
        serve(int(sys.argv[1]) if len(sys.argv) > 1 else None)


if __name__ == "__main__":
    main()
