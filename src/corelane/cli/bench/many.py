"""The suite of many: children captured as fast as they can be, some at a time, by everyone who can.

Owns nothing but the contenders it starts. A sample is the time per child over a whole round, so its inverse is the
throughput.
"""

import resource
from collections.abc import Sequence

from corelane.cli.bench.contenders import Available
from corelane.cli.bench.protocol import Contender, Series
from corelane.cli.bench.report import Curve, Section, Target
from corelane.cli.bench.spawn import Effort, Watch, measure

AT_ONCE = 100
CONCURRENCIES = (1, 10, 100, 1000)
ALL_AT_ONCE = (10, 50, 100)
LIVE = (10, 100, 1000, 10000)
THREADS = (1, 2, 4)
WAKEUPS = 2000

QUICK = Effort(rounds=5, tiny=400, real=100, warm_up=100)
FULL = Effort(rounds=9, tiny=2000, real=400, warm_up=200)
TOGETHER = Effort(rounds=15, tiny=0, real=0, warm_up=0)
SLEEPERS = Effort(rounds=5, tiny=0, real=0, warm_up=1)
CURVE = Effort(rounds=5, tiny=1000, real=0, warm_up=200)


def contenders(available: Available, at_once: int) -> list[Contender]:
    """Everyone at one concurrency: raw C first, then ours, Python's, Rust's."""
    return available.many(
        {
            f"c.many/{at_once}/1/nowait": "raw C, no wait for exec",
            f"c.many/{at_once}/1/vfork": "raw C, vfork",
            f"c.many/{at_once}/2/vfork": "raw C, vfork, 2 threads",
            f"c.many/{at_once}/2/nowait": "raw C, no wait, 2 threads",
            f"corelane_many/{at_once}": "corelane run_many",
            f"corelane_async_many/{at_once}": "corelane run_many_async",
            f"corelane_uvloop_many/{at_once}": "corelane run_many_async, uvloop",
            f"subprocess_many/{at_once}": "subprocess.run, threads",
            f"asyncio_many/{at_once}": "asyncio",
            f"uvloop_many/{at_once}": "uvloop",
            f"rust.std/many/{at_once}": "Rust std, threads",
            "rust.std/many/2": "Rust std, 2 threads",
            f"rust.duct/many/{at_once}": "Rust duct, threads",
            f"rust.tokio/current/many/{at_once}": "Rust tokio, 1 thread",
            f"rust.tokio/multi/many/{at_once}": "Rust tokio, threads",
        }
    )


def sections(available: Available, effort: Effort, watch: Watch) -> list[Section]:
    """AT_ONCE children at a time, of tiny and of /bin/true."""
    found = []
    for key, title, program, count in (
        ("many_tiny", f"capture {AT_ONCE} at a time, tiny", available.tiny_out, effort.tiny),
        ("many_true", f"capture {AT_ONCE} at a time, /bin/true", available.true, effort.real),
    ):
        series = measure(
            contenders(available, AT_ONCE),
            program,
            title,
            rounds=effort.rounds,
            count=count,
            warm_up=effort.warm_up,
            watch=watch,
            on_skip=available.notices.append,
        )
        found.append(Section(key, title, f"c.many/{AT_ONCE}/1/nowait", f"corelane_many/{AT_ONCE}", series))
    return found


def together(available: Available, effort: Effort, watch: Watch) -> list[Section]:
    """So many children of /bin/true at once, until all are done; a sample is the time per child."""
    found = []
    for count in ALL_AT_ONCE:
        kinds = {
            f"c.many/{count}/1/nowait": "raw C, no wait for exec",
            f"corelane_many/{count}": "corelane run_many",
            f"asyncio_many/{count}": "asyncio",
            f"rust.std/many/{count}": "Rust std, threads",
            f"rust.tokio/multi/many/{count}": "Rust tokio, threads",
        }
        title = f"{count} at once, until all are done, /bin/true"
        series = measure(
            available.many(kinds),
            available.true,
            title,
            rounds=effort.rounds,
            count=count,
            warm_up=count,
            watch=watch,
            on_skip=available.notices.append,
        )
        # By the same names at each count, so that they stand in one row.
        named = {key.replace(f"/{count}", "/N"): one for key, one in series.items()}
        found.append(Section(f"all_{count}", title, "c.many/N/1/nowait", "corelane_many/N", named))
    return found


def _against(
    values: Sequence[int],
    kinds: dict[str, str],
    curve: tuple[str, str, str],
    available: Available,
    effort: Effort,
    watch: Watch,
) -> Curve:
    """Time per child at each value, by everyone who could be measured at all of them.

    `kinds` are modes with a place for the value, raw C's first and then ours, and labels; `curve` is its key, title and
    unit.
    """
    key, title, unit = curve
    lines: dict[str, list[Series]] = {}
    for value in values:
        series = measure(
            available.many({kind.format(value): label for kind, label in kinds.items()}),
            available.tiny_out,
            f"{title}: {value}",
            rounds=effort.rounds,
            count=effort.tiny,
            warm_up=effort.warm_up,
            watch=watch,
            on_skip=available.notices.append,
        )
        for kind in kinds:
            if kind.format(value) in series:
                lines.setdefault(kind.format("N"), []).append(series[kind.format(value)])
    whole = {name: line for name, line in lines.items() if len(line) == len(values)}
    floor, ours, *_ = (kind.format("N") for kind in kinds)
    return Curve(key, title, unit, floor, ours, list(values), whole)


def concurrency(available: Available, effort: Effort, watch: Watch) -> Curve:
    """Time per child against how many live at a time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    values = [value for value in CONCURRENCIES if hard == resource.RLIM_INFINITY or value * 3 + 100 < hard]
    wanted = max(soft, CONCURRENCIES[-1] * 3 + 100)
    # Three descriptors for each that lives; the contenders inherit the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    kinds = {"c.many/{}/1/nowait": "raw C, no wait for exec", "corelane_many/{}": "corelane run_many",
             "asyncio_many/{}": "asyncio", "rust.tokio/multi/many/{}": "Rust tokio, threads"}  # fmt: skip
    curve = ("concurrency", "time per child against how many live at a time", "at a time")
    try:
        return _against(values, kinds, curve, available, effort, watch)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def threads(available: Available, effort: Effort, watch: Watch) -> Curve:
    """Time per child against the threads that spawn, with AT_ONCE at a time in all."""
    kinds = {f"c.many/{AT_ONCE}/{{}}/nowait": "raw C, no wait for exec", "corelane_threads/{}": "corelane run_many"}
    curve = ("threads", "time per child against spawning threads", "threads")
    return _against(THREADS, kinds, curve, available, effort, watch)


def beside_target(curve: Curve) -> Target:
    """One wake-up costs the same, however many live."""
    ours = next(iter(curve.series))
    span = f"{curve.values[0]:,} -> {curve.values[-1]:,} live"
    return Target(f"run_many: a wake-up, {span}", 1.10, curve.growth(ours))


def beside(available: Available, effort: Effort, watch: Watch) -> list[Curve]:
    """What a wake-up of the engine costs, and its memory per child, against how many live."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    values = [value for value in LIVE if hard == resource.RLIM_INFINITY or value + 300 < hard]
    found = []
    for key, title, measured in (
        ("beside", "CPU time of a wake-up, beside children that sleep", "p50 us"),
        ("live", "memory of the engine per child that lives", "kB"),
    ):
        modes = [f"corelane_{key}/{value}" for value in values]
        series = measure(  # all values in the same rounds: a drift of the machine hits them alike
            available.many(dict.fromkeys(modes, "corelane run_many")),
            available.tiny_out,
            title,
            rounds=effort.rounds,
            count=WAKEUPS,
            warm_up=effort.warm_up,
            watch=watch,
            on_skip=available.notices.append,
        )
        line = [series[mode] for mode in modes]
        ours = f"corelane_{key}/N"
        found.append(Curve(key, title, "live", "", ours, values, {ours: line}, measured))
    return found


def targets(found: list[Section]) -> list[Target]:
    """What is promised for AT_ONCE at a time."""
    tiny = next(section for section in found if section.key == "many_tiny")
    floors = [key for key in tiny.series if key.startswith("c.many")]
    best = min(floors, key=lambda key: tiny.series[key].p50) if floors else tiny.floor
    promises = [
        ("run_many: throughput vs tokio, threads", f"rust.tokio/multi/many/{AT_ONCE}", 1.8),
        ("run_many: throughput vs the best raw C engine", best, 0.85),
        ("run_many: throughput vs asyncio", f"asyncio_many/{AT_ONCE}", 15.0),
    ]
    return [
        Target(label, bound, tiny.ratio(theirs, tiny.ours), at_most=False, floor=tiny.ratio(theirs, best))
        for label, theirs, bound in promises
    ]
