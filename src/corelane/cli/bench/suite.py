"""One run of the benchmark: chooses the subjects, measures each, prints what it found, keeps it as a report.

Owns this process's CPU affinity while a pinned subject is measured, and restores it. Single-threaded but for
the live display. It deliberately measures nothing itself: every subject is a module of its own.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from corelane.cli.bench import cpu as cpus
from corelane.cli.bench import (
    curves,
    imports,
    ipc,
    jobs,
    machine,
    many,
    options,
    pictures,
    pingpong,
    pipelines,
    spawn,
    table,
)
from corelane.cli.bench.contenders import Available
from corelane.cli.bench.report import Grid, Latency, Report

PIPE_COLUMNS = 110
"""Width of the tables where stdout is no terminal."""


def _spawn(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = spawn.sections(available, spawn.QUICK if quick else spawn.FULL, watch)
    report.sections += found
    report.targets += spawn.targets(found)
    by_key = {section.key: section for section in found}
    for kind in ("wait", "capture"):
        real, tiny = by_key[f"{kind}_true"], by_key.get(f"{kind}_tiny")
        watch.show(table.section_table(tiny or real, real if tiny else None, watch.console))
    if "wait_tiny" in by_key:
        watch.show(table.start_up_table(by_key["wait_tiny"], watch.console))
    watch.show(table.sequential_table(by_key["capture_true"]))


def _options(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = options.options(available, spawn.QUICK if quick else spawn.FULL, watch, quick=quick)
    report.comparisons.append(found)
    report.targets += options.targets(found)
    watch.show(table.comparison_table(found, watch.console))


def _strategies(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = options.strategies(available, spawn.QUICK if quick else spawn.FULL, watch)
    report.comparisons.append(found)
    watch.show(table.comparison_table(found, watch.console))


def _memory(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = curves.memory(available, curves.QUICK if quick else curves.FULL, watch)
    report.curves.append(found)
    report.targets += curves.targets(found)
    watch.show(table.curve_table(found, watch.console))


def _descriptors(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = curves.descriptors(available, curves.QUICK if quick else curves.FULL, watch)
    report.curves.append(found)
    report.targets += curves.targets(found)
    watch.show(table.curve_table(found, watch.console))


def _import(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = imports.section(9, 2 if quick else 5, watch)
    report.sections.append(found)
    report.targets += imports.targets(found)
    watch.show(table.section_table(found, None, watch.console, floor_name="asyncio"))


def _many(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = many.sections(available, many.QUICK if quick else many.FULL, watch)
    report.sections += found
    report.targets += many.targets(found)
    tiny, real = found
    watch.show(table.many_table(tiny, real, watch.console))
    held = spawn.holds(available, spawn.QUICK if quick else spawn.FULL, watch)
    report.sections.append(held)
    report.targets += spawn.hold_targets(held)
    watch.show(table.section_table(held, None, watch.console, floor_name="asyncio"))
    if not quick:
        all_at_once = many.together(available, many.TOGETHER, watch)
        report.sections += all_at_once
        watch.show(table.together_table(all_at_once))
        beside, live = many.beside(available, many.SLEEPERS, watch)
        report.targets.append(many.beside_target(beside))
        for curve in (
            many.concurrency(available, many.CURVE, watch),
            many.threads(available, many.CURVE, watch),
            beside,
            live,
        ):
            report.curves.append(curve)
            watch.show(table.curve_table(curve, watch.console))


def _pipelines(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = pipelines.sections(available, pipelines.QUICK if quick else pipelines.FULL, watch)
    report.sections += found
    for section in found:
        watch.show(table.section_table(section, None, watch.console, floor_name="bash"))


def _jobs(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = jobs.sections(available, jobs.QUICK if quick else jobs.FULL, watch)
    report.sections += found
    for section in found:
        watch.show(table.section_table(section, None, watch.console, floor_name="xargs"))


def _cpu(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    found = cpus.sections(available, cpus.QUICK if quick else cpus.FULL, watch)
    report.sections += found
    report.targets += cpus.targets(found)
    for section in found:
        floor = section.series.get(section.floor)
        floor_name = floor.contender.label.split(",")[0].split("(")[0] if floor else "-"
        watch.show(table.section_table(section, None, watch.console, floor_name=floor_name))
    tail = pingpong.tail(available, pingpong.QUICK if quick else pingpong.FULL, watch)
    if tail is not None:
        report.tails.append(tail)
        report.targets += pingpong.targets(tail)
        watch.show(table.tail_table(tail, watch.console))


def _ipc(available: Available, quick: bool, watch: table.Watcher, report: Report) -> None:
    def show(one: Latency | Grid) -> None:
        watch.show(
            table.latency_table(one, watch.console)
            if isinstance(one, Latency)
            else table.grid_table(one, watch.console)
        )

    tables, grids = ipc.measure(available, ipc.QUICK if quick else ipc.FULL, watch, show)
    report.sections += tables
    report.grids += grids
    report.targets += ipc.targets(tables, grids)


_MEASURE: dict[str, Callable[[Available, bool, table.Watcher, Report], None]] = {
    "spawn": _spawn,
    "options": _options,
    "strategies": _strategies,
    "memory": _memory,
    "descriptors": _descriptors,
    "import": _import,
    "many": _many,
    "pipelines": _pipelines,
    "jobs": _jobs,
    "cpu": _cpu,
    "ipc": _ipc,
}

SUBJECTS = tuple(_MEASURE)
"""What can be measured."""

QUICK_SUBJECTS = ("spawn", "options", "import")
"""What a quick run measures unless told otherwise."""

UNPINNED = ("spawn", "many", "pipelines", "jobs", "cpu", "ipc")
"""What is measured as the scheduler likes, for that is what callers get; ipc pins its players itself. The other
subjects look for a few microseconds, and whether a child starts on the other CPU or on its parent's makes tens: they
keep to one CPU.
"""


@contextmanager
def _pinned(cpu: int | None) -> Iterator[None]:
    """Keeps this thread, and so every contender it starts, on one CPU; None, or a system that cannot: does
    nothing.

    Raises OSError for a CPU that is not to be had.
    """
    if cpu is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    if cpu not in before:
        raise OSError(f"CPU {cpu} is not one that this process may use: {', '.join(map(str, sorted(before)))}")
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _steady_cpu() -> int | None:
    """The last CPU this process may use: the first ones serve most interrupts. None where there is no
    affinity.
    """
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _console() -> Console:
    """stdout; a file or a pipe has no width of its own, so it gets one that cuts no table."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=PIPE_COLUMNS)


def _keep(report: Report, json_file: str | Path | None, directory: str | Path | None, console: Console) -> None:
    """Writes the report as JSON and as pictures, where asked to."""
    if json_file is not None:
        Path(json_file).write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    if directory is None:
        return
    if not pictures.available():
        console.print("note: no pictures, matplotlib is not installed; the bars above show the same", style="dim")
        return
    for path in pictures.draw(report, Path(directory)):
        console.print(f"wrote {path}", markup=False, highlight=False)


def run(
    subjects: Sequence[str] = (),
    *,
    quick: bool = False,
    rust: bool = True,
    cpu: int | None = None,
    json_file: str | Path | None = None,
    pictures_directory: str | Path | None = None,
    console: Console | None = None,
) -> Report:
    """Measures, prints and returns a report.

    `subjects` are some of SUBJECTS; none means all, or with `quick` those that fit into a minute. `rust`
    false leaves the Rust contenders out. `cpu` pins every contender to that CPU also where that is not the
    custom: steadier, and unfair to those with several threads. `json_file` gets the report as JSON,
    `pictures_directory` PNG pictures where matplotlib is installed. `console` is where it prints (default:
    stdout).

    Raises ValueError for an unknown subject, ContenderFailed where corelane itself fails, OSError where a
    file cannot be written or a CPU is not to be had.
    """
    console = console or _console()
    chosen = tuple(subjects) or (QUICK_SUBJECTS if quick else SUBJECTS)
    unknown = sorted(set(chosen) - set(SUBJECTS))
    if unknown:
        raise ValueError(f"unknown subject {unknown[0]!r}: choose from {', '.join(SUBJECTS)}")
    if json_file is not None:
        Path(json_file).touch()  # a path that cannot be written is better known now than at the end
    with console.status("building the raw C baseline and the Rust contenders"):
        available = Available.load(rust=rust, may_wait=not quick)
    steady = _steady_cpu() if cpu is None else cpu
    freely = ", ".join(subject for subject in UNPINNED if subject != "ipc")
    freely = f"{freely} as the scheduler likes, ipc a CPU for either side, " if cpu is None else ""
    header = machine.describe() | available.versions()
    header["placement"] = "not pinned" if steady is None else f"{freely}all else pinned to CPU {steady}"
    report = Report(header, quick, notices=available.notices)
    console.print(table.machine_table(report), "")
    with table.Watcher(console) as watch:
        for subject in chosen:
            with _pinned(cpu if subject in UNPINNED else steady):
                _MEASURE[subject](available, quick, watch, report)
    console.print(table.targets_table(report.targets), "")
    for notice in report.notices:
        console.print(f"note: {notice}", style="dim", markup=False, highlight=False)
    _keep(report, json_file, pictures_directory, console)
    return report
