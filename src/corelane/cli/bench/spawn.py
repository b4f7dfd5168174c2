"""The spawn suite: one child at a time, waited for or captured, by everyone who can.

Owns nothing but the contenders it starts for the length of one table. The child is `tiny`, which does
nothing, so that spawning is measured; the same with /bin/true stands beside it, as that is what most children
are like.
"""

from collections.abc import Callable
from dataclasses import dataclass

from corelane.cli.bench.contenders import CAPTURE_TABLE, WAIT_TABLE, Available
from corelane.cli.bench.protocol import Contender, Series, alternate, serving
from corelane.cli.bench.report import Section, Target

Watch = Callable[[str, int], Callable[[Series, int], None]]
"""watch(title, number of measured rounds) announces a table and returns what is called after each round."""


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds a table, spawns a round (of tiny, of a real program), unmeasured spawns
    before.
    """

    rounds: int
    tiny: int
    real: int
    warm_up: int


QUICK = Effort(rounds=9, tiny=120, real=40, warm_up=20)
FULL = Effort(rounds=20, tiny=200, real=50, warm_up=100)


def measure(
    contenders: list[Contender],
    program: str,
    title: str,
    *,
    rounds: int,
    count: int,
    warm_up: int,
    watch: Watch,
    on_skip: Callable[[str], None],
) -> dict[str, Series]:
    """Starts the contenders, measures them in turn and ends them. For the arguments see alternate()."""
    on_round = watch(title, rounds * len(contenders))
    with serving(contenders, program, on_skip) as servers:
        return alternate(
            servers, program, count=count, rounds=rounds, warm_up=warm_up, on_round=on_round, on_skip=on_skip
        )


def sections(available: Available, effort: Effort, watch: Watch) -> list[Section]:
    """Measures the four tables (wait and capture; tiny and /bin/true), or two where there is no tiny."""
    plans = [
        ("wait_tiny", "spawn + wait, tiny", WAIT_TABLE, available.tiny, effort.tiny),
        ("wait_true", "spawn + wait, /bin/true", WAIT_TABLE, available.true, effort.real),
        ("capture_tiny", "spawn + capture, tiny", CAPTURE_TABLE, available.tiny_out, effort.tiny),
        ("capture_true", "spawn + capture, /bin/true", CAPTURE_TABLE, available.true, effort.real),
    ]
    if available.native is None:
        plans = [plan for plan in plans if plan[0].endswith("_true")]
    found = []
    for key, title, table, program, count in plans:
        series = measure(
            available.table(table),
            program,
            title,
            rounds=effort.rounds,
            count=count,
            warm_up=min(effort.warm_up, count),
            watch=watch,
            on_skip=available.notices.append,
        )
        ours = "corelane" if table is WAIT_TABLE else "corelane_capture"
        found.append(Section(key, title, table[0], ours, series))
    return found


HOLDS = ("asyncio_on_asyncio_hold", "asyncio_on_uvloop_hold", "corelane_on_asyncio_hold", "corelane_on_uvloop_hold")


def holds(available: Available, effort: Effort, watch: Watch) -> Section:
    """How long an event loop is held for each child, by the longest of its turns."""
    title = "an event loop's longest turn for each child, captured"
    series = measure(
        available.table(HOLDS),
        available.tiny_out,
        title,
        rounds=effort.rounds,
        count=effort.tiny,
        warm_up=effort.warm_up,
        watch=watch,
        on_skip=available.notices.append,
    )
    return Section("loop_hold", title, "asyncio_on_asyncio_hold", "corelane_on_asyncio_hold", series)


def targets(found: list[Section]) -> list[Target]:
    """What corelane promises for these tables, and what was measured; only rows whose table is there."""
    by_key = {section.key: section for section in found}
    wait, capture = ("wait_tiny", "c.vfork"), ("capture_tiny", "c.capture")
    promises = [
        ("Command.run() vs raw C vfork", wait, "corelane", "c.vfork", 1.15),
        ("cold cl.run([...]) vs raw C vfork", wait, "corelane_cold", "c.vfork", 1.30),
        ("capture vs raw C with two pipes", capture, "corelane_capture", "c.capture", 1.25),
        ("capture vs Rust std output", capture, "corelane_capture", "rust.std_output", 1.00),
        ("subprocess.run vs ours", wait, "subprocess", "corelane", 2.0),
        ("captured subprocess.run vs ours", capture, "subprocess_capture", "corelane_capture", 2.5),
        ("asyncio exec + wait vs run_async", wait, "asyncio_on_asyncio", "corelane_on_asyncio", 2.5),
    ]
    kept = []
    for label, (key, floor), mine, theirs, bound in promises:
        if key not in by_key:
            continue
        section, at_most = by_key[key], mine.startswith("corelane")
        itself = None if theirs == floor else section.ratio(floor if at_most else mine, theirs if at_most else floor)
        kept.append(Target(label, bound, section.ratio(mine, theirs), at_most, floor=itself))
    return kept


def hold_targets(section: Section) -> list[Target]:
    """How much longer a turn of the loop is when it starts a child; only where run_async was measured."""
    ours = section.series.get(section.ours)
    return [] if ours is None else [Target("the loop is held for each child", 10.0, ours.p50 / 1e3, unit=" us")]
