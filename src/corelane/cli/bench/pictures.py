"""The same report as PNG pictures, where matplotlib is installed. It is not a dependency of corelane.

Owns nothing but the files it writes. Bars carry their values as text and corelane one colour everywhere, so
that a picture can be read without its table.
"""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from corelane.cli.bench import ipc_pictures
from corelane.cli.bench.report import Comparison, Curve, Latency, Report, Section, Tail

OUTLIER = 6.0
OURS, OTHERS, FLOOR = "#1b7f5c", "#8a94a3", "#3a4a5f"
DPI = 120


def available() -> bool:
    """Whether pictures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def _plot() -> Any:
    """matplotlib's pyplot, drawing to files only."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    return importlib.import_module("matplotlib.pyplot")


def _save(plot: Any, figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plot.close(figure)
    return path


def _section(plot: Any, section: Section, caption: str, path: Path) -> Path:
    """Horizontal bars of p50 from zero, p99 as text; one beyond OUTLIER times the shortest leaves the picture."""
    rows = list(section.series.items())[::-1]
    figure, axes = plot.subplots(figsize=(8, 0.42 * len(rows) + 1.4))
    colours = [OURS if one.contender.ours else FLOOR if key == section.floor else OTHERS for key, one in rows]
    values = [one.p50 / 1e3 for _, one in rows]
    most = min(max(values), OUTLIER * min(values))
    axes.barh([one.contender.label for _, one in rows], values, color=colours)
    for place, (_, one) in enumerate(rows):
        text, cut = f"{one.p50 / 1e3:,.0f}  (p99 {one.p99 / 1e3:,.0f})", one.p50 / 1e3 > 0.8 * most
        at = min(one.p50 / 1e3, most) * (0.98 if cut else 1.0)
        axes.annotate(
            text, (at, place), (4, 0), textcoords="offset points", fontsize=8,
            va="center", ha="right" if cut else "left", color="white" if cut else "black",
        )  # fmt: skip
    axes.set(title=section.title, xlabel=f"p50, microseconds\n{caption}", xlim=(0, most))
    return _save(plot, figure, path)


def _comparison(plot: Any, comparison: Comparison, caption: str, path: Path) -> Path:
    """Two bars a row: raw C and corelane."""
    pairs = [*([comparison.plain] if comparison.plain else []), *comparison.pairs][::-1]
    figure, axes = plot.subplots(figsize=(8, 0.5 * len(pairs) + 1.4))
    places = range(len(pairs))
    theirs = [pair.floor.p50 / 1e3 if pair.floor else 0.0 for pair in pairs]
    axes.barh([place + 0.2 for place in places], theirs, height=0.38, color=FLOOR, label="raw C")
    mine = axes.barh(
        [place - 0.2 for place in places],
        [pair.ours.p50 / 1e3 for pair in pairs],
        height=0.38,
        color=OURS,
        label="corelane",
    )
    axes.bar_label(mine, fmt=" %.0f", fontsize=8)
    axes.set_yticks(list(places), [pair.label for pair in pairs])
    axes.set(title=comparison.title, xlabel=f"p50, microseconds\n{caption}")
    axes.legend(fontsize=8)
    return _save(plot, figure, path)


def _curve(plot: Any, curve: Curve, caption: str, path: Path) -> Path:
    """A line per contender, both axes logarithmic."""
    figure, axes = plot.subplots(figsize=(8, 4.5))
    for key, line in curve.series.items():
        ours = line[0].contender.ours
        colour = OURS if ours else FLOOR if key == curve.floor else None
        points = [point.p50 / 1e3 for point in line]
        label = f"{line[0].contender.label} ({curve.growth(key):.2f}x)"
        axes.plot(curve.values, points, marker="o", color=colour, linewidth=2.5 if ours else 1.5, label=label)
    axes.set(title=curve.title, xlabel=f"{curve.unit}\n{caption}", ylabel=curve.measured)
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(plot, figure, path)


def _tail(plot: Any, tail: Tail, caption: str, path: Path) -> Path:
    """A line per placement: latency, logarithmic, against the share of samples that are faster, in nines."""
    figure, axes = plot.subplots(figsize=(9, 5))
    greys, greens = (
        iter(("#8a94a3", "#3a4a5f")),
        iter(("#c9b458", "#d98c3f", "#9fd0b5", "#4fae86", "#2b8f68", "#0d5c3d")),
    )
    nines = 0.0
    for key, one in tail.series.items():
        colour = next(greys) if key == "alone" else "#c0392b" if key == tail.floor else next(greens)
        ordered = sorted(one.samples)
        # As far as some ten samples are slower: what one sample says is an accident.
        steps = [step for step in range(1, 81) if 10 ** (step / 20) <= len(ordered) / 10]
        shares = [0.0, *(1 - 10 ** (-step / 20) for step in steps)]
        nines = max(nines, shares[-1])
        values = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e3 for share in shares]
        label = f"{one.contender.label} (p99.9 {ordered[int(0.999 * len(ordered))] / 1e3:,.0f} us)"
        style = "--" if key == "alone" else "-"
        axes.plot([1 / (1 - share) for share in shares], values, style, color=colour, linewidth=2, label=label)
    axes.set(xscale="log", yscale="log", title=tail.title, ylabel="microseconds, there and back")
    ticks = [share for share in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999) if share <= nines + 1e-9]
    axes.set_xticks([1 / (1 - share) for share in ticks], [f"{100 * share:g}%" for share in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"of all samples are faster\n{caption}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(plot, figure, path)


def _picture(section: Section) -> str:
    return section.key if section.key.startswith("cpu_") else f"spawn_{section.key}"


def draw(report: Report, directory: Path) -> list[Path]:
    """Writes one PNG for each table and curve into `directory` (made where missing); returns their paths.

    Raises ImportError without matplotlib, OSError where a file cannot be written.
    """
    plot = _plot()
    directory.mkdir(parents=True, exist_ok=True)
    caption = f"{report.machine.get('CPU', '')}, {report.machine.get('kernel', '')}"
    plain = [one for one in report.sections if not isinstance(one, Latency)]
    drawn = [_section(plot, one, caption, directory / f"{_picture(one)}.png") for one in plain]
    drawn += [_comparison(plot, one, caption, directory / f"{one.key}.png") for one in report.comparisons]
    drawn += [_curve(plot, one, caption, directory / f"{one.key}.png") for one in report.curves]
    drawn += [_tail(plot, one, caption, directory / f"{one.key}.png") for one in report.tails]
    figures = {one.key: ipc_pictures.latency(plot, one, caption) for one in report.sections if isinstance(one, Latency)}
    figures |= {
        one.key: ipc_pictures.PICTURES[one.key](plot, one, caption)
        for one in report.grids
        if one.key in ipc_pictures.PICTURES
    }
    drawn += [_save(plot, figure, directory / f"{key}.png") for key, figure in figures.items()]
    return drawn
