"""A camera and two programs that look at its frames, each of 8 MiB, which nobody copies.

    python examples/camera.py [frames]

The recorder must have every frame, so the camera waits for it. The display need not: it is moved on where it is too
slow, and says how many it has not seen.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

import corelane as cl

SHAPE, DTYPE = (1024, 1024, 4), np.dtype("u2")
SIZE = DTYPE.itemsize * 1024 * 1024 * 4


def camera(count: int) -> None:
    with cl.Broadcast.create(8, SIZE, lossless=True) as frames:
        fd = frames.segment.fileno()
        me = [sys.executable, __file__, str(fd)]
        lookers = [subprocess.Popen([*me, who], pass_fds=[fd]) for who in ("recorder", "display")]
        frames.wait_readers(2)
        for number in range(count):
            with frames.reserve(timeout=10) as view:
                image = np.frombuffer(view, DTYPE).reshape(SHAPE)
                image[...] = number % 65536  # exposed where the others will look at it
        frames.close()
        for looker in lookers:
            looker.wait()


def look(fd: int, who: str) -> None:
    is_display = who == "display"
    seen, brightest = 0, 0
    with cl.Broadcast.attach(fd, policy="skip" if is_display else "block") as frames:
        while True:
            try:
                with frames.peek(timeout=10) as view:
                    found = int(np.frombuffer(view, DTYPE).reshape(SHAPE)[::256, ::256].max())
                    if is_display:
                        time.sleep(1 / 60)
            except cl.RecordsLost:
                continue  # this one was overwritten while it was shown
            except cl.Closed:
                break
            seen, brightest = seen + 1, max(brightest, found)
        print(f"{who}: {seen} frames seen, {frames.lost} not; the brightest: {brightest}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        look(int(sys.argv[1]), sys.argv[2])
    else:
        camera(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
