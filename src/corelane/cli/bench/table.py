"""How a report looks in a terminal: live progress, tables, and bars where a picture says more.

Owns the live display while `Watcher` is entered. It deliberately measures nothing and decides nothing: the
numbers are those of report.py.
"""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from corelane.cli.bench.protocol import Series, percentile
from corelane.cli.bench.published import ALL_100, AT_100, SEQUENTIAL, START_UP_US
from corelane.cli.bench.report import Comparison, Curve, Grid, Latency, Report, Section, Tail, Target

NARROW, BAR_NARROW, BAR_WIDE = 100, 9, 24
"""Below NARROW columns a bar has BAR_NARROW cells at most, else BAR_WIDE."""

OUTLIER = 6.0
"""A bar is cut at so many times the shortest and ends in ">": one slow row must not flatten the rest."""

EIGHTHS = " ▏▎▍▌▋▊▉"


class Watcher:
    """Shows which table is being measured, how far it is, and each contender's last median as it comes in."""

    def __init__(self, console: Console) -> None:
        """Writes to `console`; where that is no terminal, only one line a table is printed."""
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
            transient=True,
        )

    def __enter__(self) -> "Watcher":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, table: Table) -> None:
        """Prints a finished table above the live display."""
        self.console.print(table, "")

    def __call__(self, title: str, total: int) -> Callable[[Series, int], None]:
        """Announces a table of `total` measured rounds; returns what is to be called after each of them."""
        if not self.console.is_terminal:
            self.console.print(f"measuring: {title}")
        for old in self._progress.task_ids:
            self._progress.remove_task(old)
        task = self._progress.add_task(title, total=total, last="starting")

        def on_round(series: Series, number: int) -> None:
            last = series.contender.label
            if series.rounds:
                last += f" {series.round_medians[-1] / 1e3:,.0f} us"
            self._progress.update(task, advance=1, last=last)

        return on_round


def bar(value: float, most: float, console: Console) -> str:
    """A bar of `value` where `most` is the longest; in eighths of a cell where the terminal's encoding has
    them.
    """
    cells = BAR_NARROW if console.width < NARROW else BAR_WIDE
    if value > most:
        return bar(most, most, console)[:-1] + ">"
    share = (value / most if most > 0 else 0.0) * cells
    if not console.encoding.lower().startswith("utf"):
        return "#" * max(1, round(share))
    whole, rest = int(share), int((share - int(share)) * 8)
    return "█" * whole + (EIGHTHS[rest] if rest else "") or EIGHTHS[1]


def _grid(title: str, *columns: str) -> Table:
    """An empty table: the first column is text, the others are numbers, one called "" is a bar."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), header_style="dim"
    )
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 or not name else "right", no_wrap=True)
    return table


def _us(nanoseconds: float) -> str:
    digits = 2 if nanoseconds < 1e4 else 1 if nanoseconds < 1e6 else 0
    return f"{nanoseconds / 1e3:,.{digits}f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def machine_table(report: Report) -> Table:
    """The header: what was measured on, and with."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in report.machine.items():
        table.add_row(name, value)
    return table


def section_table(section: Section, real: Section | None, console: Console, floor_name: str = "C") -> Table:
    """One suite table, ratios to its floor and to corelane; `real` is the same with /bin/true, shown in the
    last column (p50, us).
    """
    floor = section.series.get(section.floor)
    columns = ["", "p50 us", "p99 us", f"vs {floor_name}", "vs ours", ""]
    table = _grid(section.title, *columns, *(["/bin/true"] if real else []))
    medians = [series.p50 for series in section.series.values()]
    most = min(max(medians), OUTLIER * min(medians))
    for key, series in section.series.items():
        cells = [
            series.contender.label,
            _us(series.p50),
            _us(series.p99),
            _times(section.ratio(key, section.floor)),
            _times(section.ratio(key, section.ours)),
            bar(series.p50, most, console),
        ]
        if real:
            also = real.series.get(key)
            cells.append(_us(also.p50) if also else "-")
        table.add_row(*cells, style="bold green" if series.contender.ours else "dim" if series is floor else "")
    return table


def many_table(section: Section, real: Section, console: Console) -> Table:
    """Throughput with CPU and memory, above the field's published rows, which are from another machine; `real` is the
    same with /bin/true.
    """
    columns = ["", "per s", "vs C", "vs ours", "CPU %", "MiB", "true/s", ""]
    table = _grid(section.title, *columns)
    rates = {key: 1e9 / series.p50 for key, series in section.series.items()}
    for key, series in section.series.items():
        also = real.series.get(key)
        floor, ours = section.ratio(section.floor, key), section.ratio(section.ours, key)
        cells = [f"{rates[key]:,.0f}", _times(floor), _times(ours), f"{series.cpu_percent:.0f}"]
        cells.append("-" if series.peak_mib is None else f"{series.peak_mib:.1f}")
        cells.append(f"{1e9 / also.p50:,.0f}" if also else "-")
        cells.append(bar(rates[key], max(rates.values()), console))
        table.add_row(series.contender.label, *cells, style="bold green" if series.contender.ours else "")
    for name, rate in AT_100.items():
        table.add_row(f"{name} (published)", f"{rate:,}", *["-"] * 5, "", style="dim")
    return table


def together_table(sections: list[Section]) -> Table:
    """So many at once until all are done, above the published rows for the most of them."""
    last = sections[-1]
    most = int(last.key.removeprefix("all_"))
    counts = [section.key.removeprefix("all_") for section in sections]
    table = _grid("until all are done, /bin/true (p50 ms)", "", *counts, f"CPU % at {most}", "MiB")
    for key, one in last.series.items():
        cells = [
            f"{section.series[key].p50 * int(count) / 1e6:,.1f}" if key in section.series else "-"
            for section, count in zip(sections, counts, strict=True)
        ]
        cells += [f"{one.cpu_percent:.0f}", "-" if one.peak_mib is None else f"{one.peak_mib:.1f}"]
        table.add_row(one.contender.label, *cells, style="bold green" if one.contender.ours else "")
    for row in ALL_100:
        cells = [*["-"] * (len(counts) - 1), f"{row.ms:g}", f"{row.cpu_percent}", f"{row.memory_mb:g} MB"]
        table.add_row(f"{row.label} (published)", *cells, style="dim")
    return table


def sequential_table(section: Section) -> Table:
    """Sequential spawns with CPU and memory, above the field's published rows."""
    first = next(iter(section.series.values()))
    title = f"{len(first.samples):,} sequential spawns of /bin/true, captured, beside the published 1,000"
    table = _grid(title, "", "ms each", "per s", "CPU %", "peak MiB")
    for series in section.series.values():
        memory = "-" if series.peak_mib is None else f"{series.peak_mib:.1f}"
        cells = [f"{series.mean / 1e6:.2f}", f"{1e9 / series.mean:,.0f}", f"{series.cpu_percent:.0f}", memory]
        table.add_row(series.contender.label, *cells, style="bold green" if series.contender.ours else "")
    for row in SEQUENTIAL:
        cells = [f"{row.mean_ms:.2f}", f"{row.per_second:,}", "-", f"{row.memory_mb:.1f} MB"]
        table.add_row(f"{row.label} (published, other machine)", *cells, style="dim")
    return table


def start_up_table(section: Section, console: Console) -> Table:
    """Start-up of one process beside the field's published figures."""
    table = _grid("start-up: spawn + wait of tiny, p50", "", "us", "")
    rows = [(series.contender.label, series.p50 / 1e3, series.contender.ours) for series in section.series.values()]
    ours = [row for row in rows if row[2] or row[0].startswith(("raw C", "Rust"))]
    theirs = [(f"{name} (published, other machine)", value) for name, value in START_UP_US.items()]
    most = max([value for _, value, _ in ours] + [value for _, value in theirs])
    for label, value, mine in ours:
        table.add_row(label, f"{value:.0f}", bar(value, most, console), style="bold green" if mine else "")
    for label, value in theirs:
        table.add_row(label, f"{value:.0f}", bar(value, most, console), style="dim")
    return table


def comparison_table(comparison: Comparison, console: Console) -> Table:
    """Pairs of raw C and corelane, with what each option adds where that is known."""
    plain = comparison.plain
    columns = ["", "raw C us", "corelane us", "over C us"]
    table = _grid(comparison.title, *columns, *(["adds in C", "in corelane"] if plain else []), "")
    pairs = [*([plain] if plain else []), *comparison.pairs]
    most = max(pair.ours.p50 for pair in pairs)
    for pair in pairs:
        over = pair.over_us
        cells = [pair.label, _us(pair.floor.p50) if pair.floor else "-", _us(pair.ours.p50)]
        cells.append("-" if over is None else f"{over:+.1f}")
        added = comparison.added_us(pair)
        if added is not None:
            cells += ["-" if value is None else f"{value:+.1f}" for value in added]
        table.add_row(*cells, bar(pair.ours.p50, most, console))
    return table


def curve_table(curve: Curve, console: Console) -> Table:
    """p50 at each value of x, and the growth from the first to the last."""
    narrow = console.width < NARROW
    names = [f"{value:,}" for value in curve.values]
    table = _grid(
        f"{curve.title} ({curve.measured} at {curve.unit})", "", *names, "growth", "by", *([] if narrow else [""])
    )
    grown = [curve.growth(key) for key in curve.series]
    most = min(max(grown), OUTLIER * min(grown))
    for key, line in curve.series.items():
        growth = curve.growth(key)
        label = line[0].contender.label
        by = line[-1].difference_to(line[0]) / 1e3
        cells = [*(_us(point.p50) for point in line), f"{growth:,.2f}x", f"{by:+,.1f}"]
        cells += [] if narrow else [bar(growth, most, console)]
        table.add_row(label, *cells, style="bold green" if line[0].contender.ours else "")
    return table


def tail_table(tail: Tail, console: Console) -> Table:
    """Percentiles of each placement; the last figure is how many times as long it takes without one, at p99.9."""
    columns = ["", "p50 us", "p99 us", "p99.9 us", "longest", "p99.9: plain is", ""]
    table = _grid(tail.title, *columns)
    p999 = {key: percentile(one.samples, 0.999) for key, one in tail.series.items()}
    most = max(p999.values())
    for key, one in tail.series.items():
        cells = [_us(one.p50), _us(one.p99), _us(p999[key]), _us(max(one.samples)), _times(tail.gain(key, 0.999))]
        style = "dim" if key == "alone" else "" if key == tail.floor else "bold green"
        table.add_row(one.contender.label, *cells, bar(p999[key], most, console), style=style)
    return table


def latency_table(one: Latency, console: Console) -> Table:
    """p50 to p99.9 of each, ratios to the floor and to corelane, and who is missing."""
    floor = one.series.get(one.floor)
    name = "-" if floor is None else " ".join(floor.contender.label.split(",")[0].split()[:3])
    table = _grid(one.title, "", "p50 us", "p99 us", "p99.9 us", f"vs {name}", "vs ours", "")
    medians = [series.p50 for series in one.series.values()]
    most = min(max(medians), OUTLIER * min(medians)) if medians else 0.0
    for key, series in one.series.items():
        cells = [_us(series.p50), _us(series.p99), _us(percentile(series.samples, 0.999))]
        cells += [_times(one.ratio(key, one.floor)), _times(one.ratio(key, one.ours)), bar(series.p50, most, console)]
        style = "bold green" if series.contender.ours else "dim" if series is floor else ""
        table.add_row(series.contender.label, *cells, style=style)
    for label, why in one.missing.items():
        table.add_row(label, *["-"] * 5, why, style="dim")
    return table


def grid_table(grid: Grid, console: Console) -> Table:
    """The medians, and who is missing."""
    table = _grid(grid.title, "", *grid.columns, *([""] if grid.missing else []))
    table.min_width = min(console.width, len(grid.title) + 1)
    for key, line in grid.lines.items():
        style = "bold green" if line.ours else "dim" if key == grid.floor else ""
        table.add_row(line.label, *grid.texts(key), *([""] if grid.missing else []), style=style)
    for label, why in grid.missing.items():
        table.add_row(label, *["-"] * len(grid.columns), why, style="dim")
    return table


def targets_table(targets: list[Target]) -> Table:
    """What was promised and what was measured."""
    table = _grid("targets", "", "promised", "measured", "raw C", "kept")
    words = {True: Text("yes", "green"), False: Text("no", "bold red"), None: Text("-", "dim")}
    for target in targets:
        bound = f"{'<=' if target.at_most else '>='} {target.bound:g}{target.unit}"
        measured = "-" if target.measured is None else f"{target.measured:.2f}{target.unit}"
        itself = "-" if target.floor is None else f"{target.floor:.2f}{target.unit}"
        table.add_row(target.label, bound, measured, itself, words[target.met])
    return table
