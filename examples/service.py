"""Keep a program running: start it again whenever it fails, after a pause that grows, and end it cleanly.

    python examples/service.py PROGRAM [ARGUMENT]...

The pause is 0.1 s at first and doubles up to 10 s; once the program has lived for 5 s it is 0.1 s again. A program that
exits with 0 is done. Ctrl-C or SIGTERM ends it and all that it has started: they get SIGTERM, and what is still there
after five seconds SIGKILL.
"""

import signal
import sys
import time

import corelane as cl

SHORTEST, LONGEST, STABLE_AFTER = 0.1, 10.0, 5.0


def keep_running(command: cl.Command) -> None:
    """Run `command` until it exits with 0. Any exception ends it; that is what the `with` block is for."""
    pause = SHORTEST
    while True:
        began = time.monotonic()
        with command.spawn() as process:
            print(f"{process.pid} is started", flush=True)
            code = process.wait()
        print(f"{process.pid} has ended with {code}", flush=True)
        if code == 0:
            return
        if time.monotonic() - began >= STABLE_AFTER:
            pause = SHORTEST
        time.sleep(pause)
        pause = min(2 * pause, LONGEST)


def main() -> None:
    """Keep the program on our command line running."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: KeyboardInterrupt
    service = cl.Command(
        *sys.argv[1:],
        stdin=cl.DEVNULL,
        contain="group",  # also at a terminal: Ctrl-C is for us, and the program gets the SIGTERM of a clean end
        die_with_parent=sys.platform == "linux",  # should we be killed, it is not left without anybody to watch it
    )
    try:
        keep_running(service)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except cl.SpawnFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
