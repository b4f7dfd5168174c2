"""`corelane pin`: what taskset(1), chrt(1), nice(1), ionice(1) and numactl(1) do, to a program or to what runs already.

Owns nothing. A program is started as those start one: this process changes itself, and becomes it, with the same pid.
What is said of a pid is in taskset's and chrt's own words, on stdout; what goes wrong is on stderr.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import click

from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import answer, say
from corelane.cli.run import NOT_EXECUTABLE, NOT_FOUND
from corelane.cli.values import CLAMP, MEMORY, PAIR, PID, SCHED
from corelane.cpu import affinity, policies, priority
from corelane.cpu.lists import cpu_list, format_mask
from corelane.errors import CorelaneError, CpuRefused

__all__ = ["pin"]

_settings = {"allow_interspersed_args": False, "max_content_width": 100}


class _Pin(click.Command):
    """Takes options before CPUS and after them, and leaves alone all that follows the program's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, words = list(args), self._words(ctx, args)
        if len(words) > 1 and words[1].startswith("-") and words[1] != "--":
            program = self._words(ctx, words[1:])
            options = words[1 : len(words) - len(program)]
            if options[-1] == "--":
                options, program = options[:-1], ["--", *program]
            given = [*args[: len(args) - len(words)], *options, words[0], *program]
        return super().parse_args(ctx, given)

    def _words(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is left when the options that come first are taken away."""
        words = self.make_parser(ctx).parse_args(list(args))[0].get("words")
        return list(words) if isinstance(words, tuple) else []  # click has an object of its own for "none"


@click.command(cls=_Pin, context_settings=_settings, options_metavar="[OPTION]...")
@click.option("-p", "--pid", type=PID, help="Look at, or change, a process instead of starting one. CPUS follow PID.")
@click.option("-a", "--all-tasks", is_flag=True, help="With -p: all threads of it, not the main one alone.")
@click.option("-c", "--cpu-list", "as_list", is_flag=True, help="With -p: print a list of CPUs, not a mask.")
@click.option("-s", "--show", is_flag=True, help="With -p: print policy, I/O priority and nice value too.")
@click.option("--nice", type=int, metavar="N", help="Priority, from -20 (high) to 19.")
@click.option("--sched", type=SCHED, help="other, batch, idle, fifo:N, rr:N or deadline:RUNTIME:DEADLINE[:PERIOD].")
@click.option("--reset-on-fork", is_flag=True, default=None, help="With --sched: not for what the program forks.")
@click.option("--uclamp", type=CLAMP, help="Lowest and highest utilisation, 0 to 1024.")
@click.option("--io-priority", type=PAIR, help="none, idle, best-effort:LEVEL or realtime:LEVEL, 0 (high) to 7.")
@click.option("--mem", "memory_policy", type=MEMORY, help="local, bind:NODES, interleave:NODES or preferred:NODE.")
@click.option("--best-effort", is_flag=True, help="Go on without what the system refuses, and say so.")
@click.argument(
    "words",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="CPUS [OPTION]... [--] PROGRAM [ARGUMENT]... | -p PID [CPUS]",
)
def pin(
    words: tuple[str, ...],
    pid: int | None,
    all_tasks: bool,
    as_list: bool,
    show: bool,
    memory_policy: Any,
    best_effort: bool,
    **given: Any,
) -> int:
    """Run a program on some CPUs, with priorities of its own; or look at, or change, what runs.

    CPUS is a list like 2 or 0-3,8, or a mask with 0x (taskset(1) reads a plain number as a mask, this does not).

    With -p, what is shown and changed is the main thread, as taskset(1) does it; with -a all threads.

    The program replaces this one and keeps its pid. The exit status is the program's; 127 if it was not found; 126 if
    it could not be executed; 125 if the system refused what was asked, or corelane itself failed.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    try:
        if pid is None:
            if all_tasks or show:  # -c is how taskset(1) is told what CPUS is here anyway: a list
                raise click.UsageError("-a and -s go with -p PID")
            return _start(words, asked, memory_policy, best_effort)
        if memory_policy is not None:
            raise click.UsageError("--mem is for a program that is started: only a thread itself can set its policy")
        if len(words) > 1:
            raise click.UsageError(f"-p takes CPUS at most, and not {' '.join(words[1:])!r}")
        return _change(pid, words[0] if words else None, asked, all_tasks, as_list, show, best_effort)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    except (CorelaneError, OSError) as error:
        say(f"{error}{_turned_round(pid, words)}")
        return OWN_FAILURE


# ---- a program -------------------------------------------------------------------------------------------------------


def _start(words: tuple[str, ...], asked: dict[str, Any], memory_policy: Any, best_effort: bool) -> int:
    if len(words) < 2:
        raise click.UsageError("what is needed is CPUS and a PROGRAM, or -p PID (for priorities alone: corelane run)")
    cpus, program, *_ = words
    if program == "--":
        words, program = words[1:], (words[2:3] or [""])[0]
        if not program:
            raise click.UsageError("there is no PROGRAM after --")
    wanted = cpu_list("CPUS", cpus)
    if memory_policy is not None:
        policies.memory_policy("--mem", memory_policy)  # before anything is changed
    refused = [*affinity.set_affinity(wanted, best_effort=best_effort)]  # first: a Deadline needs all CPUs
    refused += priority.set_priority(**asked, best_effort=best_effort)
    if memory_policy is not None:
        refused += priority.set_memory_policy(memory_policy, best_effort=best_effort)
    _say_all(refused)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and that would outlive exec
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(program, words[1:])
    except OSError as error:
        say(f"cannot start {program!r}: {error.strerror}")
        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE


def _say_all(refused: Iterable[CpuRefused]) -> None:
    for each in refused:
        say(str(each))


# ---- a process that runs ---------------------------------------------------------------------------------------------


def _change(
    pid: int, cpus: str | None, asked: dict[str, Any], all_tasks: bool, as_list: bool, show: bool, best_effort: bool
) -> int:
    wanted = None if cpus is None else cpu_list("CPUS", cpus)
    tids = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task")) if all_tasks and _is_there(pid) else [pid]
    changes: list[Callable[[int], Iterable[CpuRefused]]] = []
    if asked:
        changes.append(lambda tid: priority.set_priority(tid=tid, **asked, best_effort=best_effort))
    if wanted is not None:
        # A thread needs all CPUs before it has a Deadline, and can have fewer only after it has lost it.
        at = 0 if isinstance(asked.get("sched"), policies.Deadline) else len(changes)
        changes.insert(at, lambda tid: affinity.set_affinity(wanted, tid=tid, best_effort=best_effort))
    for tid in tids:
        if wanted is not None or not asked:
            _print_cpus(tid, "current", as_list)
        for change in changes:
            _say_all(change(tid))
        if wanted is not None:
            _print_cpus(tid, "new", as_list)
        if "sched" in asked or show:
            _print_policy(tid, "new" if "sched" in asked else "current")
        if show:
            _print_others(tid)
    return 0


def _turned_round(pid: int | None, words: tuple[str, ...]) -> str:
    """A hint for who writes them in the order of taskset(1), for which the PID is last."""
    last = words[0] if pid is not None and words else ""
    if not last.isdecimal() or os.path.isdir(f"/sys/devices/system/cpu/cpu{last}") or not _is_there(int(last)):
        return ""
    return f"; {last} is a process: it follows -p, and the CPUs follow it (-p {last} {pid})"


def _is_there(pid: int) -> bool:
    return os.path.isdir(f"/proc/{pid}/task")  # if not, the first call says so


def _print_cpus(tid: int, when: str, as_list: bool) -> None:
    cpus = affinity.get_affinity(tid=tid)
    what = f"list: {_list_of(cpus)}" if as_list else f"mask: {format_mask(cpus)[2:]}"
    answer(f"pid {tid}'s {when} affinity {what}")


def _list_of(cpus: Iterable[int]) -> str:
    """As taskset(1) writes it: two neighbours are no range."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(
        f"{part[0]}-{part[-1]}" if len(part) > 2 else ",".join(map(str, part)) for part in parts
    )  # fmt: skip


def _print_policy(tid: int, when: str) -> None:
    found = priority.get_priority(tid=tid)
    deadline = found.sched if isinstance(found.sched, policies.Deadline) else None
    name = found.sched[0] if isinstance(found.sched, tuple) and not deadline else found.sched
    name = "deadline" if deadline else name
    level = found.sched[1] if isinstance(found.sched, tuple) and not deadline else 0
    reset = "|SCHED_RESET_ON_FORK" if found.reset_on_fork else ""
    answer(f"pid {tid}'s {when} scheduling policy: SCHED_{name.upper()}{reset}")
    answer(f"pid {tid}'s {when} scheduling priority: {level}")
    if deadline:
        spans = "/".join(map(str, deadline.nanoseconds))
        answer(f"pid {tid}'s {when} runtime/deadline/period parameters: {spans}")


def _print_others(tid: int) -> None:
    found = priority.get_priority(tid=tid)
    io = found.io_priority
    if io is not None:
        kind, level = io if isinstance(io, tuple) else (io, 0)
        answer(f"pid {tid}'s I/O priority: {kind if kind == 'idle' else f'{kind}: prio {level}'}")
    answer(f"pid {tid}'s nice value: {found.nice}")
