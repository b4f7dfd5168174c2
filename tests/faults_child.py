"""What the tests of bad input and bad weather share: a fresh interpreter to be unlucky in, and a look at what is left.

As a program it is that interpreter: it runs one function of a test file, see `fresh`.
"""

import contextlib
import gc
import inspect
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import corelane as cl  # noqa: F401, for the functions that are run here
from corelane._ffi import PLATFORM

STRATEGIES = ["clone3", "vfork", "fork", "posix_spawn"] if PLATFORM == "linux" else ["posix_spawn"]


def descriptors():
    """{number: what it is} of all that this process has open."""
    found = {}
    for name in os.listdir("/dev/fd"):
        # One of them was the directory's own, and is closed by now.
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}") if PLATFORM != "darwin" else "open"
    return found


def children():
    """The pids of our children, zombies too."""
    tasks = Path("/proc/self/task")
    if (tasks / str(os.getpid()) / "children").exists():
        found = []
        for task in tasks.iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                found += map(int, (task / "children").read_text().split())
        return found
    import psutil

    return [child.pid for child in psutil.Process().children()]


def _new_since(before):
    open_before, children_before = before
    opened = {fd: what for fd, what in descriptors().items() if open_before.get(fd) != what}
    return opened, sorted(set(children()) - set(children_before))


@contextlib.contextmanager
def nothing_left():
    """After the block this process has no descriptors and no children that it did not have before."""
    before = descriptors(), children()
    yield
    if _new_since(before) != ({}, []):
        gc.collect()  # which takes longer than most tests, so it is not for all of them
    opened, born = _new_since(before)
    assert not opened, f"left open: {opened}"
    assert not born, f"left behind: the children {born}"


class raises:
    """pytest.raises, where there is no pytest."""

    def __init__(self, kind):
        self.kind = kind
        self.value = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        assert kind, f"{self.kind.__name__} was not raised"
        self.value = error
        return issubclass(kind, self.kind)


def until(condition, within=20):
    """Wait for `condition()` to be true, and return it."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not true after {within} s"
        time.sleep(0.002)
    return value


def is_gone(pid):
    """Whether nothing runs as `pid`; somebody else's zombie is gone too."""
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def resident():
    """Bytes of memory that this process holds."""
    import psutil

    gc.collect()
    return psutil.Process().memory_info().rss


def task_of(function, *args, also=()):
    """The argv of an interpreter that runs `function`.

    Its source is sent, and that of the functions `also` there, so none can have a closure; they see what this module
    imports and defines, and what they import themselves. It fails by raising. Warnings are errors there.
    """
    sources = []
    for each in (*also, function):
        lines, first = inspect.getsourcelines(each)
        sources.append((inspect.getsourcefile(each), first, textwrap.dedent("".join(lines))))
    task = {"sources": sources, "name": function.__name__, "args": args}
    return [sys.executable, "-Werror", "-Xfaulthandler", __file__, json.dumps(task)]


def fresh(function, *args, also=(), stderr="", timeout=120, **options):
    """Run `function` in an interpreter of its own, where it may ignore signals, close its stdio or lower its limits.

    It may write nothing to stderr (None: whatever it likes). See `task_of` for what it can be.

    Returns:
        What it printed.
    """
    argv = task_of(function, *args, also=also)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, **options)
    assert done.returncode == 0, f"{function.__name__} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    assert stderr is None or done.stderr == stderr
    return done.stdout


def main():
    task = json.loads(sys.argv[1])
    names = dict(globals())
    for file, line, source in task["sources"]:
        # Moved down to where it was, so that a traceback shows the right lines.
        exec(compile("\n" * (line - 1) + source, file, "exec"), names)
    names[task["name"]](*task["args"])


if __name__ == "__main__":
    main()
