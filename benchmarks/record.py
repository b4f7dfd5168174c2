"""Writes reports of `corelane bench --json` into README.md as Markdown tables.

    python benchmarks/record.py report.json [subject.json...]

The first is of a whole run; others replace or add subjects, and the page says so. Everything between the two `recorded`
comments of README.md is replaced; what surrounds them is written by hand.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- recorded: begin -->", "<!-- recorded: end -->"

Row = list[str]


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def table(head: Row, rows: list[Row]) -> Iterator[str]:
    """The lines of a Markdown table whose first column is text."""
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def spawn_tables(sections: dict[str, Any]) -> Iterator[str]:
    """Wait and capture: tiny, with /bin/true in the last columns."""
    for kind in ("wait", "capture"):
        tiny, real = sections.get(f"{kind}_tiny"), sections.get(f"{kind}_true")
        if not tiny or not real:
            continue
        yield f"**{tiny['title']}** ({next(iter(tiny['contenders'].values()))['samples']:,} samples each)\n"
        rows = []
        for key, one in tiny["contenders"].items():
            also = real["contenders"].get(key, {})
            row = [one["label"], number(one["p50_us"]), number(one["p99_us"], 0)]
            row += [number(one["ratio_to_floor"], 2, "x"), number(also.get("p50_us"))]
            rows.append([*row, number(also.get("ratio_to_floor"), 2, "x")])
        yield from table(["", "p50 us", "p99 us", "vs raw C", "/bin/true p50 us", "vs raw C"], rows)


def sequential_table(sections: dict[str, Any], published: Any) -> Iterator[str]:
    """Sequential spawns of /bin/true, and the published rows."""
    if "capture_true" not in sections:
        return
    contenders = sections["capture_true"]["contenders"]
    spawns = next(iter(contenders.values()))["samples"]
    yield f"**{spawns:,} sequential spawns of /bin/true, captured, beside the published 1,000**\n"
    rows = [
        [
            one["label"],
            number(one["mean_us"] / 1e3, 2),
            number(one["per_second"], 0),
            number(one["cpu_percent"], 0),
            number(one["peak_mib"], 1),
        ]
        for one in contenders.values()
    ]
    for row in published.SEQUENTIAL:
        label = f"*{row.label} (published, other machine)*"
        rows.append([label, number(row.mean_ms, 2), number(row.per_second, 0), "-", f"{row.memory_mb} MB"])
    yield from table(["", "ms each", "per second", "CPU %", "peak MiB"], rows)
    start_up = ", ".join(f"{name} {value:.0f}" for name, value in published.START_UP_US.items())
    yield f"Published start-up of one process, other machine: {start_up} us. Ours is the first table.\n"


def many_tables(sections: dict[str, Any], published: Any) -> Iterator[str]:
    """Many at once: tiny, with /bin/true in the last column, and the published rows."""
    tiny, real = sections.get("many_tiny"), sections.get("many_true")
    if not tiny or not real:
        return
    yield f"**{tiny['title']}** ({next(iter(tiny['contenders'].values()))['samples']} rounds)\n"
    rows = []
    for key, one in tiny["contenders"].items():
        ratio = one["ratio_to_floor"]
        also = real["contenders"].get(key, {})
        row = [one["label"], number(1e6 / one["p50_us"], 0), number(1 / ratio if ratio else None, 2, "x")]
        row += [number(one["cpu_percent"], 0), number(one["peak_mib"], 1)]
        rows.append([*row, number(1e6 / also["p50_us"] if also else None, 0)])
    rows += [
        [f"*{name} (published, other machine)*", number(rate, 0), *["-"] * 4] for name, rate in published.AT_100.items()
    ]
    yield from table(["", "children/s", "vs raw C, no wait", "CPU %", "peak MiB", "/bin/true/s"], rows)


def together_table(sections: dict[str, Any], published: Any) -> Iterator[str]:
    """So many at once, until all are done, and the published rows for 100."""
    counts = [10, 50, 100]
    if not all(f"all_{count}" in sections for count in counts):
        return
    yield "**so many at once, until all are done, /bin/true** (p50 ms)\n"
    rows = []
    for key, last in sections["all_100"]["contenders"].items():
        found = [sections[f"all_{count}"]["contenders"].get(key) for count in counts]
        times = [number(one["p50_us"] * count / 1e3 if one else None) for one, count in zip(found, counts, strict=True)]
        rows.append([last["label"], *times, number(last["cpu_percent"], 0), number(last["peak_mib"])])
    for one in published.ALL_100:
        label = f"*{one.label} (published, other machine)*"
        rows.append([label, "-", "-", number(one.ms, 0), number(one.cpu_percent, 0), f"{one.memory_mb:g} MB"])
    yield from table(["", "10", "50", "100", "CPU % at 100", "peak MiB"], rows)


def end_to_end_tables(sections: dict[str, Any]) -> Iterator[str]:
    """Pipelines of three stages, tools that run a job for each line, and what holds an event loop."""
    for key, unit, scale, floor in (
        ("pipeline_small", "ms", 1e3, "bash by subprocess"),
        ("pipeline_big", "ms", 1e3, "bash by subprocess"),
        ("jobs_tiny", "us a job", 1, "xargs"),
        ("jobs_true", "us a job", 1, "xargs"),
        ("loop_hold", "us", 1, "asyncio"),
    ):
        one = sections.get(key)
        if not one:
            continue
        yield f"**{one['title']}**\n"
        rows = [
            [each["label"], number(each["p50_us"] / scale, 2), number(each["ratio_to_floor"], 2, "x")]
            for each in one["contenders"].values()
        ]
        yield from table(["", f"p50 {unit}", f"vs {floor}"], rows)


def cpu_tables(sections: dict[str, Any]) -> Iterator[str]:
    """Affinity, topology, plans and load: each beside the first of its rows."""
    for key, one in sections.items():
        if not key.startswith("cpu_") or not one["contenders"]:
            continue
        yield f"**{one['title']}**\n"
        floor = one["contenders"].get(one["floor"])
        rows = [
            [each["label"], number(each["p50_us"], 2), number(each["ratio_to_floor"], 2, "x")]
            for each in one["contenders"].values()
        ]
        yield from table(["", "p50 us", f"vs {floor['label']}" if floor else "-"], rows)


def ipc_tables(sections: dict[str, Any], grids: dict[str, Any]) -> Iterator[str]:
    """Messages between processes: round trips, then what is said in words."""
    for key, one in sections.items():
        if not key.startswith("ipc_"):
            continue
        floor = one["contenders"].get(one["floor"])
        yield f"**{one['title']}** (us)\n"
        rows = []
        for each in one["contenders"].values():
            times = [number(each[name], 2) for name in ("p50_us", "p99_us", "p999_us")]
            rows.append([each["label"], *times, number(each["ratio_to_floor"], 2, "x")])
        rows += [[label, why, "-", "-", "-"] for label, why in one["missing"].items()]
        yield from table(["", "p50", "p99", "p99.9", f"vs {floor['label']}" if floor else "-"], rows)
    for one in grids.values():
        yield f"**{one['title']}**\n"
        rows = [[each["label"], *each["texts"]] for each in one["contenders"].values()]
        rows += [[label, why, *["-"] * (len(one["columns"]) - 1)] for label, why in one["missing"].items()]
        yield from table(["", *one["columns"]], rows)


def tail_tables(tails: dict[str, Any]) -> Iterator[str]:
    """The ping-pong."""
    for one in tails.values():
        yield f"**{one['title']}** (us, there and back)\n"
        rows = []
        for each in one["placements"].values():
            shares = each["percentiles_us"]
            row = [
                each["label"],
                *(number(shares[name]) for name in ("50", "99", "99.9")),
                number(each["longest_us"], 0),
            ]
            rows.append([*row, number(each["gain_at_99.9"], 1, "x")])
        yield from table(["", "p50", "p99", "p99.9", "longest", "plain's p99.9 is"], rows)


def comparison_tables(comparisons: dict[str, Any]) -> Iterator[str]:
    """Options and strategies."""
    for one in comparisons.values():
        yield f"**{one['title']}** (p50 us)\n"
        rows = []
        for pair in [*([one["plain"]] if one["plain"] else []), *one["pairs"]]:
            raw = pair["raw_c"]["p50_us"] if pair["raw_c"] else None
            added = pair.get("added_us") or (None, None)
            row = [pair["label"], number(raw), number(pair["corelane"]["p50_us"]), number(pair["over_raw_c_us"])]
            rows.append(row + ([number(value) for value in added] if one["plain"] else []))
        more = ["it adds in raw C", "it adds in corelane"] if one["plain"] else []
        yield from table(["", "raw C", "corelane", "difference", *more], rows)


def curve_tables(curves: dict[str, Any]) -> Iterator[str]:
    """Latency against the parent's size."""
    for one in curves.values():
        yield f"**{one['title']}** ({one['measured']} at {one['unit']})\n"
        rows = [
            [
                line["points"][0]["label"],
                *(number(point["p50_us"]) for point in line["points"]),
                number(line["growth"], 2, "x"),
            ]
            for line in one["contenders"].values()
        ]
        yield from table(["", *(f"{value:,}" for value in one["values"]), "growth"], rows)


def import_table(sections: dict[str, Any]) -> Iterator[str]:
    """What importing costs."""
    if "import" not in sections:
        return
    yield "**import in a fresh interpreter**\n"
    rows = [
        [f"`{one['label']}`", number(one["p50_us"] / 1e3), number(one["ratio_to_floor"], 2, "x")]
        for one in sections["import"]["contenders"].values()
    ]
    yield from table(["", "p50 ms", "vs asyncio"], rows)


def target_table(targets: list[dict[str, Any]]) -> Iterator[str]:
    """What was promised and what was measured."""
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = []
    for one in targets:
        bound = f"{'<=' if one['at_most'] else '>='} {one['bound']:g}{one['unit']}"
        measured, floor = (number(one[key], 2, one["unit"]) for key in ("measured", "raw_c_itself"))
        rows.append([one["label"], bound, measured, floor, words[one["met"]]])
    yield from table(["target", "promised", "measured", "raw C itself", "kept"], rows)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The whole recorded part, without its two comments."""
    from corelane.cli.bench import published

    yield "\n".join(f"- {name}: {value}" for name, value in report["machine"].items()) + "\n"
    yield from target_table(report["targets"])
    yield from spawn_tables(report["sections"])
    yield from sequential_table(report["sections"], published)
    yield from many_tables(report["sections"], published)
    yield from together_table(report["sections"], published)
    yield from end_to_end_tables(report["sections"])
    yield from cpu_tables(report["sections"])
    yield from tail_tables(report.get("tails", {}))
    yield from ipc_tables(report["sections"], report.get("grids", {}))
    yield from comparison_tables(report["comparisons"])
    yield from curve_tables(report["curves"])
    yield from import_table(report["sections"])
    yield from (f"- {notice}" for notice in report["notices"])


def joined(report: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A report with the parts that a later run measured."""
    for part in ("sections", "tails", "grids", "comparisons", "curves"):
        report[part] = {**report.get(part, {}), **later.get(part, {})}
    labels = {target["label"] for target in later["targets"]}
    report["targets"] = [each for each in report["targets"] if each["label"] not in labels] + later["targets"]
    found = {key.partition("_")[0] for key in (*later["sections"], *later.get("tails", {}))}
    measured = ", ".join(sorted(found or later.get("grids", {})))
    machine = later["machine"]
    report["machine"][f"in a run of their own ({measured})"] = (
        f"{machine['CPU']}; {machine['cores']}; {machine['kernel']}"
    )
    return report


def main() -> None:
    """Replaces the recorded part of README.md by the reports named on the command line."""
    report, *others = (json.loads(Path(name).read_text()) for name in sys.argv[1:])
    for later in others:
        report = joined(report, later)
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    recorded = "\n".join(lines(report)).strip()
    README.write_text(f"{before}{BEGIN}\n\n{recorded}\n\n{END}{after}")


if __name__ == "__main__":
    main()
