"""How spawning slows down as the parent grows: by resident memory, and by open descriptors.

Owns nothing but the contenders it starts. Each state is set before a contender's round and given back after
it, so at any moment one process holds it, and all values of x are visited within each round: a drift of the
machine hits small and large alike.
"""

import resource
from collections.abc import Sequence
from dataclasses import dataclass

from corelane.cli.bench import machine
from corelane.cli.bench.contenders import Available
from corelane.cli.bench.protocol import Contender, Series, serving
from corelane.cli.bench.report import Curve, Target
from corelane.cli.bench.spawn import Watch

MEMORY_MIB = (10, 1024, 8192)
DESCRIPTORS = (10, 1000, 5000, 20000)
SPARE_DESCRIPTORS = 100
"""How many a contender keeps for itself below the hard limit."""

FEW = 3
"""Spawns a round for a contender that copies its page tables: it needs 40 ms a GiB."""


@dataclass(frozen=True)
class CurveEffort:
    """How much is measured: rounds, spawns at each value in a round, unmeasured spawns after each change of
    state.
    """

    rounds: int
    count: int
    warm_up: int


QUICK = CurveEffort(rounds=5, count=30, warm_up=10)
FULL = CurveEffort(rounds=5, count=100, warm_up=50)


def _measure(
    contenders: list[Contender],
    command: str,
    values: Sequence[int],
    available: Available,
    effort: CurveEffort,
    title: str,
    watch: Watch,
) -> dict[str, list[Series]]:
    """A Series for every contender and value; `command` is what sets the state ("rss" or "fds")."""
    on_round = watch(title, effort.rounds * len(values) * len(contenders))
    with serving(contenders, available.tiny, available.notices.append) as servers:
        lines = {key: [Series(server.contender) for _ in values] for key, server in servers.items()}
        for number in range(effort.rounds):
            for index, value in enumerate(values):
                keys = list(servers)
                first = (number + index) % len(keys)
                for key in keys[first:] + keys[:first]:
                    server = servers[key]
                    count = FEW if key == "c.fork" else effort.count
                    server.ask(f"{command} {value}")
                    server.round(min(effort.warm_up, count), available.tiny)
                    lines[key][index].rounds.append(server.round(count, available.tiny))
                    server.ask(f"{command} 0")
                    on_round(lines[key][index], number)
    return lines


def memory(available: Available, effort: CurveEffort, watch: Watch) -> Curve:
    """Latency against the parent's resident memory (touched, private, small pages)."""
    room = machine.memory_available_mib()
    values = [mib for mib in MEMORY_MIB if mib * 5 < room * 4]
    if len(values) < len(MEMORY_MIB):
        available.notices.append(f"memory: only {room} MiB are free, larger parents are left out")
    contenders = available.table(("c.vfork", "corelane", "subprocess", "c.fork"))
    title = "latency against resident memory"
    lines = _measure(contenders, "rss", values or [MEMORY_MIB[0]], available, effort, title, watch)
    return Curve("memory", title, "MiB", "c.vfork", "corelane", values or [MEMORY_MIB[0]], lines)


def descriptors(available: Available, effort: CurveEffort, watch: Watch) -> Curve:
    """Latency against the parent's open close-on-exec descriptors, up to the hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS[-1] if hard == resource.RLIM_INFINITY else hard - SPARE_DESCRIPTORS
    if most < DESCRIPTORS[-1]:
        available.notices.append(f"descriptors: the hard limit is {hard}, so the last point is {most}")
    values = sorted({min(count, most) for count in DESCRIPTORS})
    contenders = available.table(("c.vfork", "c.capture", "corelane", "corelane_capture", "subprocess"))
    title = "latency against open descriptors"
    lines = _measure(contenders, "fds", values, available, effort, title, watch)
    return Curve("descriptors", title, "descriptors", "c.vfork", "corelane", values, lines)


def targets(curve: Curve) -> list[Target]:
    """corelane's growth from the first to the last value over raw C's own."""
    measured = None
    if curve.floor in curve.series and curve.ours in curve.series:
        measured = curve.growth(curve.ours) / curve.growth(curve.floor)
    span = f"{curve.values[0]:,} -> {curve.values[-1]:,} {curve.unit}"
    return [Target(f"growth over C's own, {span}", 1.10, measured)]
