"""One Python contender in a process of its own, speaking the protocol of the raw C baseline on stdin and
stdout.

It is started as a file (`python -P worker.py`), not as a module of the package, and imports a contender where
it is first used: its memory is the contender's and not that of all of them.

Owns: the contender's event loop, the memory and the descriptors that `rss` and `fds` ask it to hold. One
thread, no fork. It deliberately does not judge: a failed spawn becomes an `error` line and the harness
decides.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

Spawn = Callable[[], object]
"""Spawns once and waits; raises where the child did not end well."""

MADV_POPULATE_WRITE = 23
"""Linux: fault in a whole range at once, much faster than touching page by page."""

CORELANE_BASES = ("corelane", "corelane_cold", "corelane_capture")


@functools.cache
def _spare_descriptor() -> int:
    """What the option `fds` hands to the child as number 3."""
    return os.open("/dev/null", os.O_RDONLY)


@functools.cache
def _root_descriptor() -> int:
    """The directory that the option `cwd_fd` names by a descriptor."""
    return os.open("/", os.O_RDONLY)


def _corelane_options(words: list[str]) -> dict[str, Any]:
    """The keyword arguments that the +words of a mode mean; the same words as the raw C baseline's."""
    known: dict[str, Callable[[], dict[str, Any]]] = {
        "bare": lambda: {"contain": "none", "die_with_parent": False},
        "nice": lambda: {"nice": 1},
        "umask": lambda: {"umask": 0o22},
        "cwd": lambda: {"cwd": "/"},
        "rlimit": lambda: {"rlimits": {"nofile": 64}},
        "session": lambda: {"new_session": True},
        "group": lambda: {"process_group": 0},
        "fds": lambda: {"fds": {3: _spare_descriptor()}},
        "cpus": lambda: {"cpus": {min(os.sched_getaffinity(0))}},
        "no_new_privs": lambda: {"no_new_privs": True},
        "cwd_fd": lambda: {"cwd": _root_descriptor()},
        "env": lambda: {"env_add": {"CORELANE_BENCH": "1"}},
        "ignore": lambda: {"signal_ignores": {"HUP"}},
        "sched": lambda: {"sched": "batch"},
        "io_priority": lambda: {"io_priority": ("best-effort", 5)},
        "oom": lambda: {"oom_score_adj": 500},
        "death_signal": lambda: {"die_with_parent": True},
    }
    options: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        options.update({name: value} if value else known[name]())
    return options


def _corelane(base: str, words: list[str], program: str) -> Spawn:
    import corelane as cl

    options = _corelane_options(words)
    if base == "corelane_cold":
        return lambda: cl.run([program], **options)
    command = cl.Command(program, **options)
    if base == "corelane_capture":
        captured = command.with_options(capture=True)
        return lambda: captured.run().stdout
    return command.run


def _posix_spawn(program: str) -> Spawn:
    def spawn() -> None:
        pid = os.posix_spawn(program, [program], os.environ)
        status = os.waitpid(pid, 0)[1]
        if status:
            raise RuntimeError(f"wait status {status}")

    return spawn


def _subprocess(capture: bool, program: str) -> Spawn:
    import subprocess

    argv = [program]
    return lambda: subprocess.run(argv, check=True, capture_output=capture)


def sync_contender(mode: str, program: str) -> Spawn | None:
    """The callable that spawns once for a contender without an event loop; None where the mode is no such
    one.

    Everything that may be prepared is prepared here, outside the time that is measured.
    """
    base, *words = mode.split("+")
    if base in PIPELINES:
        return PIPELINES[base](_STAGES[words[0]])
    if base in CORELANE_BASES:
        return _corelane(base, words, program)
    makers: dict[str, Callable[[str], Spawn]] = {
        "os.posix_spawn": _posix_spawn,
        "subprocess": functools.partial(_subprocess, False),
        "subprocess_capture": functools.partial(_subprocess, True),
    }
    return makers[base](program) if base in makers else None


def _spawn_on_a_loop(ours: bool, capture: bool, program: str) -> Callable[[], Coroutine[Any, Any, None]]:
    import asyncio

    import corelane as cl

    command = cl.Command(program, capture=capture)
    stream = asyncio.subprocess.PIPE if capture else None

    async def run_ours() -> None:
        await command.run_async()

    async def run_theirs() -> None:
        process = await asyncio.create_subprocess_exec(program, stdout=stream, stderr=stream)
        await (process.communicate() if capture else process.wait())
        if process.returncode:
            raise RuntimeError(f"return code {process.returncode}")

    return run_ours if ours else run_theirs


async def _one_at_a_time(spawn: Callable[[], Coroutine[Any, Any, None]], count: int) -> list[int]:
    samples = [0] * count
    for index in range(count):
        start = time.perf_counter_ns()
        await spawn()
        samples[index] = time.perf_counter_ns() - start
    return samples


async def _longest_holds(spawn: Callable[[], Coroutine[Any, Any, None]], count: int) -> list[int]:
    """The longest turns of the loop, as many as there are spawns: each has the one in which the child was started."""
    import asyncio

    turns: list[int] = []

    async def tick() -> None:
        last = time.perf_counter_ns()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter_ns()
            turns.append(now - last)
            last = now

    ticking = asyncio.get_running_loop().create_task(tick())
    await _one_at_a_time(spawn, count)
    ticking.cancel()
    return sorted(turns)[-count:]


LOOP_SUFFIXES = ("", "_capture", "_hold")
"""What is asked of a loop: run and wait, run and capture, or how long the loop is held by each run."""


def _on_a_loop(mode: str, count: int, program: str) -> list[int]:
    """A mode is WHOSE_on_LIBRARY, with one of LOOP_SUFFIXES."""
    whose, _, rest = mode.partition("_on_")
    library, _, suffix = rest.partition("_")
    spawn = _spawn_on_a_loop(whose == "corelane", suffix != "", program)
    return _runner(library).run((_longest_holds if suffix == "hold" else _one_at_a_time)(spawn, count))


@functools.cache
def _runner(library: str) -> asyncio.Runner:
    """The event loop of `asyncio` or `uvloop`, made once and kept for every round."""
    import asyncio

    if library == "asyncio":
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=importlib.import_module(library).new_event_loop)


def _many_of_ours(at_once: int, count: int, program: str) -> None:
    import corelane as cl

    for done in cl.run_many(([program] for _ in range(count)), concurrency=at_once, capture=True):
        if done.error is not None:
            raise done.error


async def _many_of_ours_on_a_loop(at_once: int, count: int, program: str) -> None:
    import corelane as cl

    async with cl.run_many_async(([program] for _ in range(count)), concurrency=at_once, capture=True) as results:
        async for done in results:
            if done.error is not None:
                raise done.error


def _many_of_ours_in_threads(threads: int, count: int, program: str) -> None:
    """100 at a time in all, by one engine in each thread."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(_many_of_ours, 100 // threads, count // threads, program) for _ in range(threads)]
        for part in parts:
            part.result()


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def _beside_ours(live: int, wakeups: int) -> list[int]:
    """One child that writes a byte at a time, beside `live` others of the same engine that sleep.

    Returns the CPU time of this process per time that it was woken, in nanoseconds, and its memory per child that
    sleeps, in bytes.
    """
    import corelane as cl

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, live + 200), hard))
    reader, writer = os.pipe()
    sleeper = cl.Command("cat", stdin=reader, stdout=cl.DEVNULL)  # of the many descriptors needed, one for each
    code = f"import os, time\nfor _ in range({wakeups}): os.write(1, b'.'); time.sleep(0.0002)"
    slow = cl.Command(sys.executable, "-ISc", code, stdout=cl.PIPE)  # each byte finds the engine asleep
    before = _resident_bytes()
    commands = itertools.chain(itertools.repeat(sleeper, live), [cl.Command("true"), slow])
    results = cl.run_many(commands, concurrency=live + 1)
    next(results)  # now all that sleep have been started
    bytes_each = (_resident_bytes() - before) // live
    start, woken = resource.getrusage(resource.RUSAGE_SELF), 0
    next(results)
    end = resource.getrusage(resource.RUSAGE_SELF)
    woken = end.ru_nvcsw - start.ru_nvcsw
    spent = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    os.close(writer)
    for done in results:
        if done.error is not None:
            raise done.error
    os.close(reader)
    return [round(spent * 1e9) // max(1, woken), bytes_each]


def _live_bytes(live: int) -> int:
    """The memory of it, in an interpreter that has not done the same before and kept the memory."""
    import subprocess

    command = [sys.executable, "-P", __file__]
    done = subprocess.run(command, input=f"run corelane_fresh/{live} 1 -\n", capture_output=True, text=True, check=True)
    reply: dict[str, Any] = json.loads(done.stdout)
    return int(reply["ns"][0])


def _many_in_threads(at_once: int, count: int, program: str) -> None:
    import subprocess
    from concurrent.futures import ThreadPoolExecutor

    def spawn(_: int) -> None:
        subprocess.run([program], check=True, capture_output=True, stdin=subprocess.DEVNULL)

    with ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(spawn, range(count)):
            pass


async def _many_on_a_loop(at_once: int, count: int, program: str) -> None:
    import asyncio

    left = iter(range(count))
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL

    async def worker() -> None:
        for _ in left:
            process = await asyncio.create_subprocess_exec(program, stdin=null, stdout=pipe, stderr=pipe)
            await process.communicate()
            if process.returncode:
                raise RuntimeError(f"return code {process.returncode}")

    await asyncio.gather(*(worker() for _ in range(at_once)))


_STAGES = {
    "small": (["echo", "some words of a line"], ["cat"], ["wc", "-c"]),
    "big": (["head", "-c", "1073741824", "/dev/zero"], ["cat"], ["wc", "-c"]),
}
"""Pipelines of three stages: one of a few bytes, one of a GiB."""


def _pipeline_of_ours(stages: Any) -> Spawn:
    import corelane as cl

    first, second, third = (cl.Command(*stage) for stage in stages)
    return (first | second | third).with_options(capture=True).run


def _pipeline_in_bash(stages: Any, *, ours: bool) -> Spawn:
    import shlex
    import subprocess

    import corelane as cl

    argv = ["bash", "-c", " | ".join(map(shlex.join, stages))]
    if ours:
        return cl.Command(*argv, capture=True).run
    return lambda: subprocess.run(argv, check=True, capture_output=True)


def _pipeline_of_subprocess(stages: Any) -> Spawn:
    import subprocess

    def run() -> None:
        source, processes = None, []
        for stage in stages:
            process = subprocess.Popen(stage, stdin=source, stdout=subprocess.PIPE)
            if source is not None:
                source.close()
            source = process.stdout
            processes.append(process)
        processes[-1].communicate()
        statuses = [process.wait() for process in processes]
        if any(statuses):
            raise RuntimeError("a stage failed")

    return run


def _pipeline_of_plumbum(stages: Any) -> Spawn:
    local = importlib.import_module("plumbum").local
    first, second, third = (local[stage[0]][tuple(stage[1:])] for stage in stages)
    whole: Spawn = first | second | third
    return whole


PIPELINES: dict[str, Callable[[Any], Spawn]] = {
    "corelane_pipeline": _pipeline_of_ours,
    "bash_by_corelane": functools.partial(_pipeline_in_bash, ours=True),
    "bash_by_subprocess": functools.partial(_pipeline_in_bash, ours=False),
    "subprocess_pipeline": _pipeline_of_subprocess,
    "plumbum_pipeline": _pipeline_of_plumbum,
}
"""Contenders for pipelines, by their stages."""


def _tool(*command: str) -> Callable[[int, int, str], None]:
    """A program that runs a command for each line of its stdin; its N is how many run at once."""

    def run(at_once: int, count: int, program: str) -> None:
        import subprocess

        argv = [word.replace("N", str(at_once)) for word in command]
        values = "".join(f"{number}\n" for number in range(count)).encode()
        done = subprocess.run([*argv, program], input=values, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-200:]!r}")

    return run


_OUR_PROGRAM = (sys.executable, "-P", "-m", "corelane", "batch", "-j", "N", "--no-progress", "--")

MANY: dict[str, Callable[[int, int, str], None]] = {
    "corelane_many": _many_of_ours,
    "corelane_async_many": lambda *args: _runner("asyncio").run(_many_of_ours_on_a_loop(*args)),
    "corelane_uvloop_many": lambda *args: _runner("uvloop").run(_many_of_ours_on_a_loop(*args)),
    "corelane_threads": _many_of_ours_in_threads,
    "corelane_batch": _tool(*_OUR_PROGRAM),
    "xargs": _tool("xargs", "-P", "N", "-n", "1"),
    "parallel": _tool("parallel", "--will-cite", "-j", "N"),
    "subprocess_many": _many_in_threads,
    "asyncio_many": lambda *args: _runner("asyncio").run(_many_on_a_loop(*args)),
    "uvloop_many": lambda *args: _runner("uvloop").run(_many_on_a_loop(*args)),
}
"""Contenders for many at once: (how many at a time, how many in all, program)."""


def measure(mode: str, count: int, program: str) -> list[int]:
    """Spawns `program` `count` times, one at a time; returns a sample in nanoseconds for each. With a mode NAME/N, N at
    a time; then there is one sample, the time per child.

    Raises whatever the contender raises, and KeyError or ValueError for a mode that does not exist.
    """
    kind, _, at_once = mode.partition("/")
    if kind == "corelane_live":
        return [_live_bytes(int(at_once))]
    if kind in ("corelane_beside", "corelane_fresh"):
        return [_beside_ours(int(at_once), count)[kind == "corelane_fresh"]]
    if at_once:
        start = time.perf_counter_ns()
        MANY[kind](int(at_once), count, program)
        return [(time.perf_counter_ns() - start) // count]
    if "_on_" in mode:
        return _on_a_loop(mode, count, program)
    spawn = sync_contender(mode, program)
    if spawn is None:
        raise ValueError(f"no contender is called {mode!r}")
    samples = [0] * count
    clock = time.perf_counter_ns
    for index in range(count):
        start = clock()
        spawn()
        samples[index] = clock() - start
    return samples


def cpu_time_ns() -> int:
    """User and system time of this process and of the children it reaped, in nanoseconds."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(sum(usage.ru_utime + usage.ru_stime for usage in both) * 1e9)


class Held:
    """What the parent holds while it spawns: touched private memory and open descriptors."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._descriptors: list[int] = []

    def hold_memory(self, mib: int) -> None:
        """Touches `mib` mebibytes of private memory in small pages and keeps them; gives back what was held
        before.
        """
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if mib:
            self._memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                self._memory.madvise(mmap.MADV_NOHUGEPAGE)
            with contextlib.suppress(OSError):  # before Linux 5.14, and elsewhere
                self._memory.madvise(MADV_POPULATE_WRITE)
                return
            step = 256 << 20
            for start in range(0, mib << 20, step):
                length = min(step, (mib << 20) - start) // mmap.PAGESIZE
                self._memory[start : start + length * mmap.PAGESIZE : mmap.PAGESIZE] = b"\1" * length

    def hold_descriptors(self, count: int) -> None:
        """Opens `count` close-on-exec descriptors after closing those held before; raises OSError at the
        limit.
        """
        while self._descriptors:
            os.close(self._descriptors.pop())
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(count + 64, 1024) if hard < 0 else hard, hard))
        for _ in range(count):
            self._descriptors.append(os.open("/dev/null", os.O_RDONLY))


def answer(line: str, held: Held) -> dict[str, Any]:
    """Obeys one command line; returns the reply as it goes out. Raises ValueError for no command at all."""
    command, *words = line.split(" ", 3)
    if command == "run" and len(words) == 3:
        mode, count, program = words[0], int(words[1]), words[2]
        cpu, start = cpu_time_ns(), time.perf_counter_ns()
        samples = measure(mode, count, program)
        wall = time.perf_counter_ns() - start
        return {"ns": samples, "wall_ns": wall, "cpu_ns": cpu_time_ns() - cpu}
    if command == "rss" and len(words) == 1:
        held.hold_memory(int(words[0]))
    elif command == "fds" and len(words) == 1:
        held.hold_descriptors(int(words[0]))
    else:
        raise ValueError("commands: run MODE COUNT PROGRAM, rss MIB, fds COUNT")
    return {"ok": 1}


def main() -> None:
    """Serves commands until stdin ends."""
    held = Held()
    for line in sys.stdin:
        try:
            reply = answer(line.rstrip("\n"), held)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
