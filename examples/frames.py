"""A camera, and two programs that look at its frames of 8 MiB, without a copy.

    python examples/frames.py [FRAMES]

The camera draws each frame where the others read it: a slot of a lossless broadcast. The recorder must see every frame,
so the camera waits for it when it is eight frames behind. The preview shows what it can: it is moved on past what it
was too slow for, and told how much that was. Either may be killed: the other one and the camera go on.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator

import numpy as np

import corelane as cl

SHAPE = (2048, 4096)  # bytes: a picture in shades of grey
FRAME = SHAPE[0] * SHAPE[1]
SLOTS = 8
AS_A_DISPLAY = 0.02  # seconds that the preview shows a frame


def draw(frame: np.ndarray, number: int) -> None:
    """As a camera would: a bright column that wanders over a dark ground."""
    frame[:] = 16
    frame[:, number % SHAPE[1]] = 255


def seen(frames: cl.Broadcast) -> Iterator[int]:
    """The numbers of the frames, read where they lie, until the camera closes."""
    while True:
        try:
            with frames.peek() as view:
                frame = np.frombuffer(view, "u1").reshape(SHAPE)
                column = int(frame[0].argmax())
                is_whole = (frame[:, column] == 255).all()
                del frame
        except cl.RecordsLost:
            continue  # it was drawn over while we looked, as the camera does not wait for us: we have seen nothing
        except cl.Closed:
            return
        assert is_whole
        yield column


def camera(count: int) -> None:
    """Start both programs, and draw so many frames for them."""
    with cl.Broadcast.create(SLOTS, FRAME, lossless=True) as frames, contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(cl.Command(sys.executable, __file__, part).spawn(fds={3: frames.segment}))
            for part in ("record", "preview")
        ]
        if not frames.wait_readers(2, timeout=60):
            sys.exit("the recorder and the preview have not come up")
        began = time.perf_counter()
        for number in range(count):
            with frames.reserve() as view:  # waits for the recorder, if that is too far behind
                frame = np.frombuffer(view, "u1").reshape(SHAPE)
                draw(frame, number)
                del frame
        took = time.perf_counter() - began
        print(json.dumps({"camera": count, "frames_a_second": round(count / took)}), flush=True)
        frames.close()  # the others get what is there, and then Closed
        for program in programs:
            program.wait()


def record() -> None:
    """See every frame, in order."""
    with cl.Broadcast.attach(3, policy="block") as frames:
        numbers = list(seen(frames))
        in_order = numbers == [number % SHAPE[1] for number in range(len(numbers))]
        print(json.dumps({"recorder": len(numbers), "lost": frames.lost, "in_order": in_order}), flush=True)


def preview() -> None:
    """Show what there is time for."""
    with cl.Broadcast.attach(3, policy="skip") as frames:
        shown = 0
        for _ in seen(frames):
            shown += 1
            time.sleep(AS_A_DISPLAY)
        print(json.dumps({"preview": shown, "lost": frames.lost}), flush=True)


def main() -> None:
    """The camera, or one of its two programs."""
    parts = {"record": record, "preview": preview}
    if sys.argv[1:] and sys.argv[1] in parts:
        parts[sys.argv[1]]()
    else:
        camera(int(sys.argv[1]) if len(sys.argv) > 1 else 300)


if __name__ == "__main__":
    main()
