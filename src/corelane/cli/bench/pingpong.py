"""The ping-pong: two processes throw a byte to and fro beside noisy neighbours, placed by corelane's options in turn.

Owns the children of one measurement for its length: all are killed and reaped before it returns. What is shown is the
tail: on a machine that others use too, it is not the average that people pin for.
"""

import array
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from corelane.cli.bench.contenders import Available
from corelane.cli.bench.machine import usable_cpus
from corelane.cli.bench.protocol import Contender, Round, Series
from corelane.cli.bench.report import Tail, Target
from corelane.cli.bench.spawn import Watch

NEIGHBOURS_PER_CPU = 2
SETTLE = 0.03
"""Seconds for the neighbours to start and be spread over the CPUs."""

SLACK = 30.0
"""Seconds that a round may take beyond its length."""

_NICE: dict[str, Any] = {"nice": -20}
_FIFO: dict[str, Any] = {"sched": ("fifo", 50)}


@dataclass(frozen=True)
class Placement:
    """Where the two players and their neighbours may run, and how urgent the players are: options of a Command."""

    key: str
    label: str
    ping: dict[str, Any]
    pong: dict[str, Any]
    neighbours: dict[str, Any] | None
    """None: there are none."""


@dataclass(frozen=True)
class PingEffort:
    """How much is measured: rounds, and milliseconds of play in each."""

    rounds: int
    ms: int


QUICK = PingEffort(rounds=3, ms=100)
FULL = PingEffort(rounds=9, ms=500)


def placements() -> list[Placement]:
    """What is compared, on the CPUs that we may use: the last is the players' own, as the first ones serve most
    interrupts.
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    own: dict[str, Any] = {"cpus": {cpus[-1]}}
    found = [
        Placement("alone", "no neighbours", {}, {}, None),
        Placement("plain", "plain", {}, {}, {}),
    ]
    if len(cpus) > 1:
        other: dict[str, Any] = {"cpus": {cpus[-2]}}
        found.append(Placement("apart", "pinned, a CPU each", own, other, {}))
    found.append(Placement("pinned", "pinned to one CPU", own, own, {}))
    for key, label, urgent in (("nice", "nice -20", _NICE), ("fifo", "FIFO 50", _FIFO)):
        placed = {**own, **urgent}
        found.append(Placement(key, f"pinned, {label}", placed, placed, {}))
        if len(cpus) > 1:
            away = {"cpus": set(cpus[:-1])}
            found.append(Placement(f"{key}_away", f"pinned, {label}, others away", placed, placed, away))
    return found


@contextmanager
def _neighbours(program: str, options: dict[str, Any] | None) -> Iterator[None]:
    """Children that only use CPUs; leaving the block ends them."""
    import corelane as cl

    with ExitStack() as stack:
        for _ in range(0 if options is None else NEIGHBOURS_PER_CPU * usable_cpus()):
            child = stack.enter_context(cl.Command(program, "busy", **(options or {})).spawn())
            stack.callback(child.kill)  # before the block of the child waits for its end
        time.sleep(SETTLE)
        yield


def play(program: str, placement: Placement, ms: int) -> Round:
    """One round: each time a byte took to go and come back, in ns.

    Raises what Command raises: SpawnFailed where the placement is refused.
    """
    import corelane as cl

    ours, theirs = socket.socketpair()
    with _neighbours(program, placement.neighbours), ours, theirs:
        start = time.perf_counter_ns()
        with cl.Command(program, "pong", stdin=theirs, **placement.pong).spawn() as pong:
            theirs.close()
            ping = cl.Command(program, "ping", str(ms), "0", stdin=ours, capture=True, **placement.ping)
            done = ping.with_options(timeout=ms / 1e3 + SLACK).run()
            ours.close()  # which ends pong
            pong.wait(SLACK)
        wall = time.perf_counter_ns() - start
    samples = array.array("q")
    samples.frombytes(done.stdout or b"")
    return Round(tuple(samples), wall, 0)


def tail(available: Available, effort: PingEffort, watch: Watch) -> Tail | None:
    """All placements in turn, round by round; None where the program could not be built."""
    from corelane.errors import SpawnFailed

    if available.native is None or sys.platform != "linux":
        available.notices.append("the ping-pong is skipped: it needs Linux and a C compiler")
        return None
    program = str(available.native.pingpong)
    cpus = usable_cpus()
    title = f"a byte to and fro beside {NEIGHBOURS_PER_CPU * cpus} busy neighbours on {cpus} CPU{'s' * (cpus > 1)}"
    playing = placements()
    on_round = watch(title, effort.rounds * len(playing))
    series = {one.key: Series(Contender(one.key, one.label, (program,), "", one.key != "plain")) for one in playing}
    for number in range(effort.rounds):
        first = number % len(playing)
        for one in playing[first:] + playing[:first]:
            if one.key not in series:
                continue
            try:
                series[one.key].rounds.append(play(program, one, effort.ms))
            except SpawnFailed as error:
                if not {"nice", "sched"} & one.ping.keys():
                    raise
                available.notices.append(f"ping-pong, {one.label}, is skipped: {error}")
                del series[one.key]
                continue
            on_round(series[one.key], number)
    return Tail("pingpong", title, "plain", series)


def targets(found: Tail) -> list[Target]:
    """That pinning with a priority shortens the tail at all, and what it is with the neighbours moved away."""
    kept = []
    for key, label in (("nice_away", "nice -20, others away"), ("fifo_away", "FIFO, others away")):
        if key in found.series:
            gain = found.gain(key, 0.999)
            kept.append(Target(f"ping-pong p99.9: plain vs {label}", 1.0, gain, at_most=False))
    return kept
