"""What a benchmark found, as data: sections, pairs and curves, and the targets they are held to.

Owns no resource. Everything here can be written as JSON and read by table.py and pictures.py; nothing here
measures or prints.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from corelane.cli.bench.protocol import Series, percentile


@dataclass
class Section:
    """One table: contenders that spawned the same child in the same rounds."""

    key: str
    title: str
    floor: str
    """Key of the series the others are divided by; it may be missing where it could not be built."""
    ours: str
    """Key of the series of corelane that the last column compares with."""
    series: dict[str, Series]

    def ratio(self, key: str, to: str) -> float | None:
        """Median of the per-round ratios of two contenders; None where one of them is missing."""
        if key not in self.series or to not in self.series:
            return None
        return self.series[key].ratio_to(self.series[to])

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report; ratios are to the floor."""
        rows = {
            key: one.as_dict() | {"ratio_to_floor": self.ratio(key, self.floor)} for key, one in self.series.items()
        }
        return {"title": self.title, "floor": self.floor, "contenders": rows}


@dataclass
class Latency(Section):
    """A table of latencies of which the long ones count, too; with what could not take part, and why."""

    missing: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        found = super().as_dict()
        for key, row in found["contenders"].items():
            row["p999_us"] = percentile(self.series[key].samples, 0.999) / 1e3
        return found | {"missing": self.missing}


@dataclass
class Line:
    """A row of a Grid. For each column a value a round; None where there is no such thing."""

    label: str
    ours: bool
    cells: list[list[float] | None]


@dataclass
class Grid:
    """A table of figures of any unit: contenders by what they were asked for, all in the same rounds."""

    key: str
    title: str
    columns: list[str]
    shown: list[Callable[[float], str]]
    """How a value of each column is written."""
    floor: str
    lines: dict[str, Line]
    missing: dict[str, str] = field(default_factory=dict)
    """Labels of those that could not take part, and why."""
    sizes: list[int] = field(default_factory=list)
    """Where the columns are sizes of records in bytes: these, and the values are nanoseconds a record."""

    def value(self, key: str, column: int) -> float | None:
        """The median over the rounds."""
        found = self.lines[key].cells[column] if key in self.lines else None
        return statistics.median(found) if found else None

    def ratio(self, key: str, to: str, column: int) -> float | None:
        """The median over the rounds of one's value over the other's in the same round; None where one is missing."""
        if key not in self.lines or to not in self.lines:
            return None
        mine, theirs = self.lines[key].cells[column], self.lines[to].cells[column]
        if not mine or not theirs or len(mine) != len(theirs) or not all(theirs):
            return None
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))

    def texts(self, key: str) -> list[str]:
        """What a row says, column by column."""
        values = [self.value(key, column) for column in range(len(self.columns))]
        return ["-" if value is None else show(value) for show, value in zip(self.shown, values, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        rows = {
            key: {"label": line.label, "ours": line.ours, "texts": self.texts(key), "rounds": line.cells}
            for key, line in self.lines.items()
        }
        return {
            "title": self.title,
            "columns": self.columns,
            "floor": self.floor,
            "contenders": rows,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class Pair:
    """The same thing asked of raw C and of corelane: an option, or a strategy. `floor` is None where C was
    not built.
    """

    label: str
    floor: Series | None
    ours: Series

    @property
    def over_us(self) -> float | None:
        """What corelane takes more than raw C, in microseconds: the median of the per-round differences."""
        return None if self.floor is None else self.ours.difference_to(self.floor) / 1e3

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        floor = None if self.floor is None else self.floor.as_dict()
        return {
            "label": self.label,
            "raw_c": floor,
            "corelane": self.ours.as_dict(),
            "over_raw_c_us": self.over_us,
        }


@dataclass
class Comparison:
    """Pairs measured together. Where `plain` is given it is the pair without any option, for what an option
    adds.
    """

    key: str
    title: str
    pairs: list[Pair]
    plain: Pair | None = None

    def added_us(self, pair: Pair) -> tuple[float | None, float] | None:
        """What the option itself costs (raw C, corelane) in microseconds; None without a plain pair."""
        if self.plain is None:
            return None
        floor = None
        if pair.floor is not None and self.plain.floor is not None:
            floor = pair.floor.difference_to(self.plain.floor) / 1e3
        return floor, pair.ours.difference_to(self.plain.ours) / 1e3

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        rows = [pair.as_dict() | {"added_us": self.added_us(pair)} for pair in self.pairs]
        return {"title": self.title, "plain": self.plain.as_dict() if self.plain else None, "pairs": rows}


@dataclass
class Curve:
    """Latency against a state of the parent: a Series per contender and per value of x."""

    key: str
    title: str
    unit: str
    floor: str
    ours: str
    values: list[int]
    series: dict[str, list[Series]]
    measured: str = "p50 us"
    """What the figures are: a thousandth of a sample."""

    def growth(self, key: str) -> float:
        """The last value's latency over the first one's: the median of the per-round ratios."""
        return self.series[key][-1].ratio_to(self.series[key][0])

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        rows = {
            key: {"growth": self.growth(key), "points": [one.as_dict() for one in line]}
            for key, line in self.series.items()
        }
        return {
            "title": self.title,
            "unit": self.unit,
            "measured": self.measured,
            "values": self.values,
            "contenders": rows,
        }


@dataclass
class Tail:
    """Latencies under contention, by how they were placed: what counts is how long the longest are."""

    key: str
    title: str
    floor: str
    """Key of the series without any placement."""
    series: dict[str, Series]

    SHARES: ClassVar[tuple[float, ...]] = (0.5, 0.9, 0.99, 0.999, 0.9999)

    def gain(self, key: str, share: float) -> float:
        """How many times as long it takes without a placement, at this percentile: the median of the per-round
        ratios.
        """
        pairs = zip(self.series[self.floor].rounds, self.series[key].rounds, strict=True)
        return statistics.median(percentile(a.samples, share) / percentile(b.samples, share) for a, b in pairs)

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report; times in microseconds."""
        rows = {
            key: {
                "label": one.contender.label,
                "samples": len(one.samples),
                "percentiles_us": {f"{100 * share:g}": percentile(one.samples, share) / 1e3 for share in self.SHARES},
                "longest_us": max(one.samples) / 1e3,
                "gain_at_99.9": self.gain(key, 0.999),
            }
            for key, one in self.series.items()
        }
        return {"title": self.title, "floor": self.floor, "placements": rows}


@dataclass(frozen=True)
class Target:
    """A promise and what came of it. `at_most` says in which direction `bound` holds; `measured` None: not
    measured.

    `floor` is what raw C itself reaches in the same rounds, where the promise is about somebody else: what is
    out of C's reach on this machine is out of ours.
    """

    label: str
    bound: float
    measured: float | None
    at_most: bool = True
    unit: str = "x"
    floor: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it was kept; None where it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report."""
        return {
            "label": self.label,
            "bound": self.bound,
            "at_most": self.at_most,
            "unit": self.unit,
            "measured": self.measured,
            "raw_c_itself": self.floor,
            "met": self.met,
        }


@dataclass
class Report:
    """Everything one run found."""

    machine: dict[str, str]
    quick: bool
    sections: list[Section] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def section(self, key: str) -> Section | None:
        """The section of that key, where it was measured."""
        return next((section for section in self.sections if section.key == key), None)

    def as_dict(self) -> dict[str, Any]:
        """The JSON report."""
        return {
            "machine": self.machine,
            "quick": self.quick,
            "sections": {section.key: section.as_dict() for section in self.sections},
            "comparisons": {comparison.key: comparison.as_dict() for comparison in self.comparisons},
            "curves": {curve.key: curve.as_dict() for curve in self.curves},
            "tails": {tail.key: tail.as_dict() for tail in self.tails},
            "grids": {grid.key: grid.as_dict() for grid in self.grids},
            "targets": [target.as_dict() for target in self.targets],
            "notices": self.notices,
        }
