"""Ctrl-C at any moment: no child lives on, no descriptor is left, and the next run works.

Python looks for signals in three places: at the start of a function, when a loop jumps back, and when a call of
something written in C comes back - its result is then lost. The sweeps raise at each of those, one execution for each;
the storms raise for real, at every offset in time.
"""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest
from faults_child import children, descriptors, fresh, is_gone, task_of, until

import corelane as cl

pytestmark = pytest.mark.slow


def scenarios(where):
    """What is interrupted, each as a function that does it once, from making the Command on."""
    import signal
    import threading
    import warnings
    from pathlib import Path

    out = Path(where, "out")
    pipes = {"stdin": cl.PIPE, "stdout": cl.PIPE, "stderr": cl.PIPE}

    def fail(kind, attempt):
        try:
            attempt()
        except kind:
            return
        raise AssertionError("it did not fail")

    def talk(process):
        process.stdin.write("in" if process.command.option("encoding") else b"in")
        process.stdin.close()
        process.stdout.read()
        process.wait()

    def in_block(*args, **options):
        with cl.Command(*args, **options).spawn() as process:
            talk(process)

    def leave_by_error():
        with cl.Command("sleep", "1000", **pipes).spawn():
            raise LookupError

    def by_hand():
        process = None
        try:
            # A call with ** goes through C, and Python looks for a signal before what it returns is kept.
            process = cl.Command("cat", **pipes).spawn()
            talk(process)
        finally:
            if process is not None:
                process.kill()
                process.close()
                process.wait()

    def end_early():
        with cl.Command("sleep", "1000").spawn(stdout=cl.PIPE) as process:
            process.terminate(1)

    def kill_tree():
        with cl.Command("sh", "-c", "sleep 1000; :").spawn(stdout=cl.PIPE) as process:
            process.kill_tree()

    def stop_early():
        lines = cl.Command("yes").lines()
        next(lines)
        lines.close()

    def some_of_many():
        results = cl.run_many([["true"], *[["sleep", "1000"]] * 3], concurrency=3)
        next(results)
        results.close()

    def feed_file():
        out.write_bytes(b"in")
        cl.run(["cat"], stdin=out, stdout=cl.File(out, append=False), stderr=cl.File(out, append=True))

    def keep(*args, error=None):
        process = None
        try:
            with cl.Command(*args, **pipes).spawn() as process:
                if error:
                    raise error
        finally:
            # It has ended with its block, not only when the last reference to it goes.
            assert process is None or children() == []

    def drop(pids):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            process = cl.Command("sleep", "1000").spawn()
            pids.append(process.pid)
            del process  # and nobody holds it any more

    def run_beside_dropped():
        pids = []
        thread = threading.Thread(target=drop, args=[pids])  # where no interrupt is raised
        thread.start()
        thread.join()
        try:
            cl.run(["true"])
        finally:
            os.kill(pids[0], signal.SIGKILL)
            until(lambda: is_gone(pids[0]))
            try:
                cl.run(["true"])
            except KeyboardInterrupt:
                cl.run(["true"])
                raise

    def pipe(*stages, **options):
        return cl.Pipeline(*stages, **options)

    def pipeline_in_block(*stages):
        with pipe(*stages, stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
            talk(process)

    def keep_pipeline(error=None):
        process = None
        try:
            with pipe(["cat"], ["cat"], ["cat"], stdin=cl.PIPE, stdout=cl.PIPE).spawn() as process:
                if error:
                    raise error
        finally:
            assert process is None or children() == []

    through = cl.over_lines(list)
    again = cl.Command("true")
    return {
        "run": lambda: cl.run(["true"]),
        "again": again.run,
        "capture": lambda: cl.run(["cat"], stdin=[b"in", b"put"], capture=True, env_add={"A": "b"}, cwd="/").text,
        "files": feed_file,
        "read": lambda: cl.read(["echo", "x"]),
        "missing": lambda: fail(FileNotFoundError, lambda: cl.run(["no-such-program"], stdout=out, capture=None)),
        "status": lambda: fail(cl.NonZeroExit, lambda: cl.run(["sh", "-c", "echo no >&2; exit 3"], capture=True)),
        "timeout": lambda: fail(cl.ProcessTimeout, lambda: cl.run(["sleep", "1000"], timeout=0.001)),
        "lines": lambda: list(cl.Command("echo", "a\nb").lines()),
        "chunks": lambda: list(cl.Command("echo", "a\nb").chunks(2)),
        "stop": stop_early,
        "stream timeout": lambda: fail(cl.ProcessTimeout, lambda: [*cl.Command("sleep", "9", timeout=0.001).lines()]),
        "process": lambda: in_block("cat", **pipes),
        "text": lambda: in_block("cat", encoding="utf-8", **pipes),
        "process files": lambda: in_block("cat", stdin=cl.PIPE, stdout=cl.PIPE, stderr=out),
        "no process": lambda: fail(FileNotFoundError, lambda: in_block("no-such-program", **pipes)),
        "error": lambda: fail(LookupError, leave_by_error),
        "by hand": by_hand,
        "many": lambda: list(cl.run_many([["true"], ["no-such-program"], ["echo", "x"]], concurrency=2, capture=True)),
        "some of many": some_of_many,
        "terminate": end_early,
        "kill tree": kill_tree,
        "kept": lambda: keep("cat"),
        "kept error": lambda: fail(LookupError, lambda: keep("sleep", "1000", error=LookupError)),
        "dropped": run_beside_dropped,
        "cgroup": lambda: cl.run(["true"], contain="cgroup"),
        "pipeline": lambda: pipe(["echo", "x"], ["cat"], ["cat"]).read(),
        "pipeline files": lambda: pipe(["echo", "x"], ["cat"], stdout=out, stderr=out).run(),
        "pipeline missing": lambda: fail(FileNotFoundError, pipe(["sleep", "1000"], ["no-such-program"]).run),
        "pipeline function": lambda: pipe(["echo", "x"], through, ["cat"]).read(),
        "pipeline lines": lambda: list(pipe(["echo", "x"], ["cat"]).lines()),
        "pipeline spawn": lambda: pipeline_in_block(["cat"], ["cat"]),
        "pipeline spawn function": lambda: pipeline_in_block(["cat"], through, ["cat"]),
        "pipeline kept": keep_pipeline,
        "pipeline kept error": lambda: fail(LookupError, lambda: keep_pipeline(LookupError)),
        "sequence": lambda: cl.Command("true").then(["true"], pipe(["echo", "x"], ["cat"])).read(),
        "process in cgroup": lambda: in_block("cat", contain="cgroup", **pipes),
    }


NAMES = sorted(scenarios("/tmp"))


def sweep(name, where):
    """Raise KeyboardInterrupt at the first point of a scenario, then at the second, ...; prints what each left."""
    import dis
    import glob
    import itertools
    import signal

    import psutil  # noqa: F401, or it would be loaded in the middle

    from corelane.process import cgroup

    package = os.path.dirname(cl.__file__)
    scenario = scenarios(where)[name]
    try:
        scenario()
    except cl.CgroupUnavailable as error:
        print(f"unavailable: {error}")
        return
    ignored = []  # exceptions in finalizers, which nobody can raise from there
    sys.unraisablehook = lambda what: ignored.append(what.exc_type.__name__)
    left, hit = 0, None
    came_by = {}  # id of a frame -> how it came to where it is

    def point(frame, what):
        nonlocal left, hit
        left -= 1
        if left == 0:
            code = frame.f_code
            hit = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name} {what}"
            raise KeyboardInterrupt

    def ours(frame):
        return frame.f_code.co_filename.startswith(package)

    def profile(frame, event, arg):
        if event == "c_return" and ours(frame):
            came_by[id(frame)] = "a function"
            point(frame, f"after {arg.__name__}")
        elif event == "return" and frame.f_code.co_name == "__init__" and ours(frame):
            point(frame, "at its end")  # it was called from C, by its class

    def trace(frame, event, arg):
        came_by[id(frame.f_back)] = "a function"
        if not ours(frame):
            return None
        came_by[id(frame)] = "entry"  # of a generator: each time that it goes on
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    def step(frame, event, arg):
        if event == "opcode":
            last = came_by.get(id(frame), "")
            came_by[id(frame)] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            # A call that was not of a function was of a class.
            if last in ("entry", "JUMP_BACKWARD") or last.startswith("CALL"):
                point(frame, f"after {last}")
        return step

    def groups():
        return glob.glob(f"{cgroup.find()}/corelane-{os.getpid()}-*")

    for nth in itertools.count(1):
        left, hit, outcome = nth, None, None
        came_by.clear()
        ignored.clear()
        before = descriptors()
        sys.setprofile(profile)
        sys.settrace(trace)
        try:
            scenario()
        except BaseException as error:
            outcome = type(error).__name__
        finally:
            sys.settrace(None)
            sys.setprofile(None)
        gc.collect()
        until(no_function_runs)
        remains = {fd: what for fd, what in descriptors().items() if fd not in before}
        alive = children()
        if hit is None:
            break
        if remains or alive or groups() or (outcome != "KeyboardInterrupt" and "KeyboardInterrupt" not in ignored):
            print(f"{hit}: raised {outcome}, {len(alive)} children, {remains}, {groups()}")
        for pid in alive:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for fd in remains:
            os.close(fd)
        for group in groups():
            until(lambda group=group: not open(f"{group}/cgroup.procs").read())  # noqa: SIM115
            os.rmdir(group)
    assert (outcome, remains, alive, groups()) == (None, {}, [], []), "without an interrupt"
    assert nth > 10, "nothing was interrupted"


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_wherever_python_looks_for_one(name, tmp_path):
    """Not at every line: between two lines that call nothing there is no such moment, and we rely on that."""
    holes = fresh(sweep, name, str(tmp_path), also=[scenarios, no_function_runs])
    if holes.startswith("unavailable"):
        pytest.skip(holes)
    assert not holes


def no_function_runs():
    """The thread of a pipeline that was dropped sees for itself that its pipes have ended, and closes them."""
    import threading

    # One whose start was interrupted is listed for ever, and does not live.
    return not any(each.name == "corelane stage" and each.is_alive() for each in threading.enumerate())


def storm(name, rounds, directory):
    """A real signal at `rounds` moments of a scenario, evenly spread from its start to its end."""
    import signal
    import traceback

    scenario = scenarios(directory)[name]
    scenario()
    span = 1.0  # seconds: the shortest of some
    for _ in range(20):
        began = time.perf_counter()
        scenario()
        span = min(span, time.perf_counter() - began)
    sys.unraisablehook = lambda what: None  # a signal in a finalizer
    armed, hits, where = False, 0, ""

    def strike(signal, frame):
        nonlocal where
        if armed:
            where = " < ".join(f"{each.name}:{each.lineno}" for each in traceback.extract_stack(frame, 5)[::-1])
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, strike)
    before = descriptors()
    for i in range(1, rounds + 1):
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 1.1 * span * i / rounds)
            scenario()
            armed = False
        except KeyboardInterrupt:
            hits += 1
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect(0)
        until(no_function_runs)
        opened = {fd: what for fd, what in descriptors().items() if fd not in before}
        when = f"after {span * i / rounds * 1e6:.0f} of {span * 1e6:.0f} us, in {where}"
        assert (opened, children()) == ({}, []), when
    scenario()
    assert hits > rounds // 5, f"only {hits} of {rounds} signals came in time"


STORMS = """run|again|capture|files|lines|stop|process|kept|kept error|by hand|missing|pipeline|pipeline function|
pipeline spawn""".replace("\n", "").split("|")


@pytest.mark.parametrize("name", STORMS)
def test_an_interrupt_at_any_moment(name, tmp_path):
    fresh(storm, name, 600, str(tmp_path), also=[scenarios, no_function_runs])


@pytest.mark.stress
@pytest.mark.parametrize("name", [name for name in NAMES if name != "dropped"])  # which could not stand a real one
def test_an_interrupt_at_every_microsecond(name, tmp_path):
    fresh(storm, name, 10_000, str(tmp_path), also=[scenarios, no_function_runs], timeout=1000)


def sleep_for_long(how):
    """A child and its child, which only we can end."""
    script = "sleep 1000 & echo $!; wait"
    command = cl.Command("sh", "-c", f"({script}) >&3", fds={3: 1}, stdout=cl.DEVNULL)
    try:
        if how == "run":
            command.run()
        elif how == "lines":
            list(command.lines())
        else:
            with command.spawn() as process:
                process.wait()
    except KeyboardInterrupt:
        assert children() == []


@pytest.mark.parametrize("how", ["run", "lines", "process"])
def test_ctrl_c_ends_all_that_a_long_run_started(how):
    victim = subprocess.Popen(task_of(sleep_for_long, how), stdout=subprocess.PIPE, text=True)
    with victim:
        grandchild = int(victim.stdout.readline())
        assert not is_gone(grandchild)
        began = time.monotonic()
        victim.send_signal(signal.SIGINT)
        assert victim.wait(60) == 0
        until(lambda: is_gone(grandchild))
        assert time.monotonic() - began < 10
