"""The pictures of the subject `ipc`: how long round trips take, and throughput against size.

Owns nothing; pictures.py saves what is drawn here.
"""

from typing import Any

from corelane.cli.bench.protocol import percentile
from corelane.cli.bench.report import Grid, Latency

OURS = ("#0d5c3d", "#1b7f5c", "#4fae86", "#9fd0b5", "#7a9a3b")
RAW = ("#1c2430", "#3a4a5f", "#8a94a3")
OTHERS = ("#c0392b", "#d98c3f", "#c9b458", "#8e5ea2", "#3e95cd", "#b56576", "#6d597a")


def _colours(keys: list[str], ours: list[bool]) -> dict[str, str]:
    """Raw C grey, ours green, each other a colour of its own."""
    found, greys, greens, others = {}, iter(RAW * 3), iter(OURS * 3), iter(OTHERS * 3)
    for key, mine in zip(keys, ours, strict=True):
        found[key] = next(greens) if mine else next(greys) if key.startswith("c.") else next(others)
    return found


def latency(plot: Any, one: Latency, caption: str) -> Any:
    """Two parts: a histogram of the latencies, and the share that is faster, in nines. Both over the same axis."""
    figure, (above, below) = plot.subplots(2, 1, figsize=(9, 8), sharex=True)
    colours = _colours(list(one.series), [series.contender.ours for series in one.series.values()])
    least = min(min(series.samples) for series in one.series.values()) / 1e3
    most = max(percentile(series.samples, 0.999) for series in one.series.values()) / 1e3
    steps = 160
    edges = [least * (1.01 * most / least) ** (step / steps) for step in range(steps + 1)]
    for key, series in one.series.items():
        ordered = sorted(sample / 1e3 for sample in series.samples)
        style: dict[str, Any] = {"color": colours[key], "linewidth": 2.2 if series.contender.ours else 1.4}
        share = [1 / len(ordered)] * len(ordered)
        above.hist(ordered, edges, weights=share, histtype="step", **style)
        # As far as some ten samples are slower: what one sample says is an accident.
        points = [step for step in range(1, 101) if 10 ** (step / 20) <= len(ordered) / 10]
        shares = [0.0, *(1 - 10 ** (-step / 20) for step in points)]
        values = [ordered[int(share * len(ordered))] for share in shares]
        label = f"{series.contender.label} (p50 {values[0] if not points else series.p50 / 1e3:,.2f} us)"
        below.plot(values, [1 / (1 - share) for share in shares], label=label, **style)
    above.set(xscale="log", xlim=(0.9 * least, 1.1 * most), title=one.title, ylabel="share of the samples")
    below.set(yscale="log", xlabel=f"microseconds, there and back\n{caption}", ylabel="are faster")
    below.set_yticks([1, 2, 10, 100, 1000, 10000], ["0%", "50%", "90%", "99%", "99.9%", "99.99%"])
    below.minorticks_off()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    below.legend(fontsize=7, loc="upper left")
    return figure


def throughput(plot: Any, grid: Grid, caption: str) -> Any:
    """Records a second, and bytes, against the size of a record."""
    figure, found = plot.subplot_mosaic("lr\nkk", figsize=(12, 7), height_ratios=(5, 1))
    left, right, key_of = found["l"], found["r"], found["k"]
    colours = _colours(list(grid.lines), [line.ours for line in grid.lines.values()])
    drawn: set[str] = set()
    for key, line in grid.lines.items():
        values = [grid.value(key, column) for column in range(len(grid.sizes))]
        there = [(size, value) for size, value in zip(grid.sizes, values, strict=True) if value]
        sizes = [size for size, _ in there]
        style = {"color": colours[key], "linewidth": 2.2 if line.ours else 1.4, "marker": "o", "markersize": 3}
        style["linestyle"] = "--" if colours[key] in drawn else "-"
        drawn.add(colours[key])
        left.plot(sizes, [1e9 / value for _, value in there], label=line.label, **style)
        right.plot(sizes, [size / value for size, value in there], **style)
    left.set(title="records a second", xscale="log", yscale="log", xlabel=f"bytes of a record\n{caption}")
    right.set(title="GB a second", xscale="log", yscale="log", xlabel=f"bytes of a record\n{grid.title}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    key_of.axis("off")
    key_of.legend(*left.get_legend_handles_labels(), fontsize=8, ncols=4, loc="center")
    return figure


def bars(plot: Any, grid: Grid, caption: str) -> Any:
    """A group of bars for each column of a table whose columns are of one unit."""
    figure, axes = plot.subplots(figsize=(9, 5))
    colours = _colours(list(grid.lines), [line.ours for line in grid.lines.values()])
    width = 0.8 / max(1, len(grid.lines))
    for index, (key, line) in enumerate(grid.lines.items()):
        values = [grid.value(key, column) or 0.0 for column in range(len(grid.columns))]
        places = [column + index * width for column in range(len(grid.columns))]
        axes.bar(places, values, width, color=colours[key], label=line.label)
    middle = width * (len(grid.lines) - 1) / 2
    axes.set_xticks([column + middle for column in range(len(grid.columns))], grid.columns)
    axes.set(title=grid.title, xlabel=caption)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=7)
    return figure


PICTURES = {"ipc_flow": throughput, "ipc_idle": bars}
"""The tables that a picture is drawn of, by their keys."""
