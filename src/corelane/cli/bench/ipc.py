"""The suite of messages between processes: round trips, throughput, many to one, what waiting costs, what a death does.

Owns the contenders' processes while it measures, and the busy neighbours of one table. Each contender is a server
(ipc_worker.py, or the programs ipc_floor and ipc_core in C) with a peer of its own, on another CPU. All of a table
take turns, as everywhere here; one that fails or hangs is given up, and a note says so.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corelane.cli.bench import machine, toolchain
from corelane.cli.bench.contenders import Available
from corelane.cli.bench.protocol import Contender, ContenderFailed, Round, Series, Server
from corelane.cli.bench.report import Grid, Latency, Line, Target
from corelane.cli.bench.spawn import Watch

WORKER = str(Path(__file__).with_name("ipc_worker.py"))
SIZE = 64
KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 60.0
"""Seconds for one round, after which a contender is given up."""

MEMORY_FOR_LARGEST = 8 * KIB
"""MiB that must be free for records of 64 MiB: some five contenders have room for three."""

_LABELS = {
    "c.ring": "raw C ring, spinning",
    "c.futex": "raw C futex",
    "c.pipe": "raw C pipe",
    "c.vyukov": "raw C Vyukov queue",
    "core.ring": "corelane's core in C, ring",
    "core.ring_many": "corelane's core in C, 256 a commit",
    "core.ring_sleep": "corelane's core in C, ring",
    "core.queue": "corelane's core in C, Queue",
    "core.queue_membarrier": "the same, with membarrier",
    "ring": "corelane Ring",
    "ring_spin": "corelane Ring",
    "ring_sleep": "corelane Ring, spin=0",
    "ring_lists": "corelane Ring, lists",
    "ring_arrays": "corelane Ring, numpy",
    "ring_in_place": "corelane Ring, in place",
    "queue": "corelane Queue",
    "queue_lists": "corelane Queue, lists",
    "queue_polled": "corelane Queue, polled",
    "mp_pipe": "multiprocessing.Pipe",
    "mp_simple_queue": "multiprocessing.SimpleQueue",
    "mp_queue": "multiprocessing.Queue",
    "faster_fifo": "faster-fifo",
    "faster_fifo_lists": "faster-fifo, lists",
    "zmq_pair": "pyzmq ipc PAIR",
    "iceoryx2": "iceoryx2, polled",
}

_PACKAGES = {"faster_fifo": "faster_fifo", "zmq": "zmq", "iceoryx2": "iceoryx2"}

_NEVER = {"tachyon-ipc": "not installed"}
_WHY = "tachyon-ipc is not compared: pip has its source only, which asks for GCC 14"

SPINNING = ("c.ring", "core.ring", "ring_spin", "queue_polled", "iceoryx2")
ASLEEP = (
    "c.futex", "c.pipe", "core.ring_sleep", "ring_sleep", "ring", "queue",
    "mp_pipe", "mp_simple_queue", "mp_queue", "faster_fifo", "zmq_pair",
)  # fmt: skip
BUSY = ("c.ring", "c.futex", "c.pipe", "ring", "ring_sleep", "queue", "mp_pipe", "mp_queue", "faster_fifo", "zmq_pair")
FLOW = (
    "c.ring", "c.pipe", "core.ring", "core.ring_many", "ring", "ring_lists", "ring_arrays", "ring_in_place",
    "queue", "queue_lists", "mp_pipe", "mp_simple_queue", "mp_queue", "faster_fifo", "faster_fifo_lists", "zmq_pair",
    "iceoryx2",
)  # fmt: skip
LARGEST = dict.fromkeys(("ring_lists", "ring_arrays", "queue_lists", "faster_fifo_lists", "core.ring_many"), 64 * KIB)
LARGEST |= dict.fromkeys(("queue", "iceoryx2", "mp_simple_queue"), MIB)
"""Bytes of the largest records that a contender is asked for: beyond, a list is one record, and slots are gigabytes."""

FAN = ("c.vyukov", "queue", "mp_simple_queue", "mp_queue", "faster_fifo")
IDLE = ("c.futex", "ring", "queue", "mp_pipe", "c.pipe", "mp_simple_queue", "mp_queue", "faster_fifo", "zmq_pair")
MEMORY = {
    "ring": "corelane Ring of 4 KiB",
    "ring_attached": "the same, attached once more",
    "queue": "corelane Queue of 1 KiB",
    "array": "corelane shm.array of 4 KiB",
    "mp_pipe": "multiprocessing.Pipe",
    "mp_simple_queue": "multiprocessing.SimpleQueue",
    "mp_queue": "multiprocessing.Queue",
    "faster_fifo": "faster-fifo of 4 KiB",
}
DEATHS = {
    "producer": "behind a producer's slot",
    "full": "behind a consumer's slot",
    "consumer": "asleep, Queue empty but for it",
    "ring": "asleep, Ring empty",
}


@dataclass(frozen=True)
class IpcEffort:
    """How much is measured. `ms`: of a round; `idle_ms`: of one of waiting."""

    rounds: int
    ms: int
    sizes: tuple[int, ...]
    many: tuple[int, ...]
    idle_ms: int
    gaps: tuple[int, ...]
    waiters: int
    """How many contenders wait, of IDLE."""
    kills: int
    """In a round, of each kind."""
    less: frozenset[str] = frozenset()
    """Contenders that are left out where there are others like them."""


QUICK = IpcEffort(
    rounds=5,
    ms=10,
    sizes=(SIZE, MIB),
    many=(4,),
    idle_ms=50,
    gaps=(0, 5),
    waiters=4,
    kills=1,
    less=frozenset({"mp_simple_queue", "faster_fifo_lists", "core.ring_many", "core.ring_sleep", "c.pipe"}),
)
FULL = IpcEffort(
    rounds=9,
    ms=150,
    sizes=(8, SIZE, KIB, 64 * KIB, MIB, 64 * MIB),
    many=(1, 2, 4, 8),
    idle_ms=500,
    gaps=(0, 1, 5, 20),
    waiters=len(IDLE),
    kills=5,
)


def size_text(size: int) -> str:
    """64 B, 1 KiB, 64 MiB."""
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def _rate(nanoseconds: float) -> str:
    each = 1e9 / nanoseconds
    return f"{each / 1e6:.2f} M/s" if each >= 1e6 else f"{each / 1e3:,.1f} k/s"


def _flow_shown(size: int) -> Callable[[float], str]:
    return _rate if size < 16 * KIB else lambda nanoseconds: f"{size / nanoseconds:.2f} GB/s"


def missing_package(key: str) -> str | None:
    """Why a contender cannot take part, or None."""
    name = next((module for prefix, module in _PACKAGES.items() if key.startswith(prefix)), None)
    return "not installed" if name is not None and importlib.util.find_spec(name) is None else None


def players_cpus() -> tuple[int, int]:
    """Where the two processes run: the last CPUs that we may use, as the first ones serve most interrupts."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[-1], cpus[-2] if len(cpus) > 1 else cpus[-1]


class Players:
    """The servers: one for each library, started when it is first asked, in whatever tables."""

    def __init__(self, available: Available, effort: IpcEffort, watch: Watch) -> None:
        self.available, self.effort, self.watch = available, effort, watch
        self.mine, self.theirs = players_cpus()
        self.alone = self.mine == self.theirs
        self._servers: dict[str, Server] = {}

    @property
    def where(self) -> str:
        """For the titles."""
        return f"both on CPU {self.mine}" if self.alone else f"CPUs {self.mine} and {self.theirs}"

    def _argv(self, key: str) -> tuple[str, ...] | None:
        native, (kind, _, rest) = self.available.native, key.partition(".")
        if not rest:
            return (sys.executable, "-P", WORKER)
        program = None if native is None else native.ipc_floor if kind == "c" else native.ipc_core
        return None if program is None else (str(program),)

    def why_not(self, key: str, spins: bool = False) -> str | None:
        """Why a contender cannot take part, or None. `spins`: it has no other way of waiting."""
        if self._argv(key) is None:
            return "not built"
        if self.alone and spins:
            return "needs two CPUs"
        return missing_package(key)

    def contender(self, key: str, label: str = "") -> Contender:
        argv = self._argv(key)
        assert argv is not None
        name = key.partition(".")[2] or key
        return Contender(key, label or _LABELS[key], argv, name, ours=not key.startswith("c.") and self._is_ours(key))

    @staticmethod
    def _is_ours(key: str) -> bool:
        return key.startswith(("core.", "ring", "queue", "array"))

    def ask(self, one: Contender, kind: str, ms: int, size: int) -> dict[str, Any]:
        """One round of it. Raises ContenderFailed: its server is gone then, and begins anew when it is asked again."""
        library = "c" if one.key.startswith("c.") else "core" if one.key.startswith("core.") else one.key[:2]
        library = "ours" if library != "c" and one.ours and library != "core" else library
        if library not in self._servers:
            self._servers[library] = Server(one, PATIENCE)
        try:
            return self._servers[library].ask(f"run {kind} {ms} {size} {self.mine} {self.theirs}")
        except ContenderFailed:
            self._servers.pop(library).close()
            raise

    def end(self) -> None:
        """What a table has begun, of everybody."""
        for library, server in list(self._servers.items()):
            try:
                server.ask("end")
            except ContenderFailed:
                self._servers.pop(library).close()

    def close(self) -> None:
        while self._servers:
            self._servers.popitem()[1].close()

    def in_turn(
        self,
        title: str,
        who: Sequence[Contender],
        ask: Callable[[Contender, int], dict[str, Any]],
        found: Callable[[Contender, dict[str, Any]], None],
        rounds: int | None = None,
    ) -> dict[str, str]:
        """One round that does not count, and then all others; `ask(who, round)` is one. Returns those that failed on
        the way, and why; one of ours raises.
        """
        rounds = rounds or self.effort.rounds
        on_round = self.watch(title, rounds * len(who))
        failed: dict[str, str] = {}
        for number in range(-1, rounds):
            first = max(number, 0) % max(len(who), 1)
            for one in [*who[first:], *who[:first]]:
                if one.key in failed:
                    continue
                try:
                    answer = ask(one, number)
                except (ContenderFailed, OSError) as error:
                    if one.ours:
                        raise
                    failed[one.key] = "failed"
                    self.available.notices.append(f"left out of {title!r}: {error}")
                    continue
                if number >= 0:
                    found(one, answer)
                    on_round(Series(one), number)
        self.end()
        return failed

    def split(self, keys: Sequence[str], spinners: Sequence[str] = ()) -> tuple[list[Contender], dict[str, str]]:
        """Those of `keys` that can take part, and the labels of the others with why not."""
        reasons = {key: self.why_not(key, key in spinners) for key in keys if key not in self.effort.less}
        there = [self.contender(key) for key, why in reasons.items() if why is None]
        return there, {_LABELS[key]: why for key, why in reasons.items() if why is not None}


# ---- round trips ----


def round_trips(players: Players, key: str, title: str, keys: Sequence[str], floor: str, ours: str) -> Latency:
    """A table of round trips of 64 bytes; each is a sample."""
    who, missing = players.split(keys, SPINNING)
    series = {one.key: Series(one) for one in who}

    def found(one: Contender, answer: dict[str, Any]) -> None:
        series[one.key].rounds.append(Round(tuple(answer["ns"]), answer["wall_ns"], answer["cpu_ns"]))

    title = f"round trip of {SIZE} bytes, {title} ({players.where})"
    failed = players.in_turn(
        title, who, lambda one, _: players.ask(one, f"rt/{one.mode}", players.effort.ms, SIZE), found
    )
    for gone in failed:
        missing[series.pop(gone).contender.label] = failed[gone]
    return Latency(key, title, floor, ours, series, missing)


@contextmanager
def _neighbours(players: Players) -> Iterator[None]:
    """A process on each of the two CPUs that only uses it; leaving the block ends them."""
    import corelane as cl

    assert players.available.native is not None
    program = str(players.available.native.pingpong)
    with ExitStack() as stack:
        for cpu in {players.mine, players.theirs}:
            child = stack.enter_context(cl.Command(program, "busy", cpus={cpu}, die_with_parent=True).spawn())
            stack.callback(child.kill)  # before the block of the child waits for its end
        yield


def latencies(players: Players) -> list[Latency]:
    """Spinning, asleep, and beside busy neighbours."""
    notices = players.available.notices
    tables = []
    if players.alone:
        notices.append("round trips by spinning are left out: with one CPU they say how long a time slice is")
    else:
        tables.append(round_trips(players, "ipc_rt_spin", "spinning", SPINNING, "c.ring", "ring_spin"))
    tables.append(round_trips(players, "ipc_rt_sleep", "asleep", ASLEEP, "c.futex", "ring_sleep"))
    if players.available.native is None:
        notices.append("round trips beside busy neighbours are left out: there is no C compiler for the neighbours")
    else:
        with _neighbours(players):
            title = "a busy neighbour on each CPU"
            tables.append(round_trips(players, "ipc_rt_busy", title, BUSY, "c.futex", "ring"))
    return tables


# ---- tables of figures ----


def _grid(
    players: Players,
    key: str,
    title: str,
    who: Sequence[Contender],
    columns: dict[str, Callable[[float], str]],
    ask: Callable[[Contender, int, int], dict[str, Any] | None],
    missing: dict[str, str],
    rounds: dict[int, int] | None = None,
) -> Grid:
    """A Grid of what `ask(who, column, round)` answers, column by column; `rounds`, where a column has others."""
    lines = {one.key: Line(one.label, one.ours, [None] * len(columns)) for one in who}
    for column, name in enumerate(columns):

        def found(one: Contender, answer: dict[str, Any], column: int = column) -> None:
            cells = lines[one.key].cells
            cells[column] = [*(cells[column] or []), *answer.get("values", [answer.get("value")])]

        there = [one for one in who if ask(one, column, -2) is not None]

        def asked(one: Contender, number: int, column: int = column) -> dict[str, Any]:
            return ask(one, column, number) or {}

        gone = players.in_turn(f"{title}, {name}", there, asked, found, (rounds or {}).get(column))
        for lost in gone:
            lines[lost].cells[column] = None
    floor = who[0].key if who and who[0].key.startswith("c.") else ""
    return Grid(key, title, list(columns), list(columns.values()), floor, lines, missing)


def flow(players: Players) -> Grid:
    """Records one way, by their size."""
    who, missing = players.split(FLOW, ("c.ring", "core.ring", "core.ring_many", "iceoryx2"))
    sizes = list(players.effort.sizes)
    if sizes[-1] > MIB and machine.memory_available_mib() < MEMORY_FOR_LARGEST:
        players.available.notices.append(f"records of {size_text(sizes.pop())} are left out: too little memory is free")

    def ask(one: Contender, column: int, number: int) -> dict[str, Any] | None:
        size = sizes[column]
        if size > LARGEST.get(one.key, size):
            return None
        return {} if number < -1 else players.ask(one, f"flow/{one.mode}", players.effort.ms, size)

    columns = {size_text(size): _flow_shown(size) for size in sizes}
    title = f"one way, by size of the records ({players.where})"
    few = {column: 5 for column, size in enumerate(sizes) if size > MIB}  # each of which takes some seconds
    found = _grid(players, "ipc_flow", title, who, columns, ask, missing, few)
    found.sizes = sizes
    return found


def fan(players: Players, which: str) -> Grid:
    """Many to one, or one to many, through a queue."""
    who, missing = players.split(FAN)
    many = players.effort.many

    def ask(one: Contender, column: int, number: int) -> dict[str, Any] | None:
        kind = f"fan_{which}/{many[column]}/{one.mode}"
        return {} if number < -1 else players.ask(one, kind, players.effort.ms, SIZE)

    names = {"in": "{} to 1", "out": "1 to {}"}
    columns: dict[str, Callable[[float], str]] = {names[which].format(number): _rate for number in many}
    what = "producers, one consumer" if which == "in" else "consumers, one producer"
    title = f"{what}, {SIZE} bytes (one on CPU {players.mine}, all others on {players.theirs})"
    return _grid(players, f"ipc_fan_{which}", title, who, columns, ask, missing)


def idle(players: Players) -> Grid:
    """What a waiting process costs."""
    who, missing = players.split(IDLE[: players.effort.waiters])
    gaps = players.effort.gaps

    def ask(one: Contender, column: int, number: int) -> dict[str, Any] | None:
        ms = players.effort.idle_ms
        kind = f"idle/{gaps[column]}/{one.mode}"
        return {} if number < -1 else players.ask(one, kind, ms if number >= 0 else max(1, ms // 10), SIZE)

    columns: dict[str, Callable[[float], str]] = {
        f"each {gap} ms" if gap else "never": lambda value: f"{value:.2f} %" for gap in gaps
    }
    title = f"CPU of a process that waits for a record ({players.where})"
    return _grid(players, "ipc_idle", title, who, columns, ask, missing)


def operations(players: Players) -> Grid:
    """Put and get in one process: what the guarantees of a Queue cost beside a queue without any."""
    who, missing = players.split(("c.vyukov", "core.queue", "core.queue_membarrier"))
    sizes = (8, SIZE, 256)

    def ask(one: Contender, column: int, number: int) -> dict[str, Any] | None:
        return {} if number < -1 else players.ask(one, f"op/{one.mode}", players.effort.ms, sizes[column])

    columns: dict[str, Callable[[float], str]] = {size_text(size): lambda value: f"{value:.1f} ns" for size in sizes}
    return _grid(players, "ipc_op", f"put and get, uncontended (CPU {players.mine})", who, columns, ask, missing)


def memory(players: Players) -> Grid:
    """What each object takes: memory of all who share it, and descriptors. Once: that is no matter of time."""
    reasons = {key: missing_package(key) for key in MEMORY}
    missing = {MEMORY[key]: why for key, why in reasons.items() if why is not None}
    lines = {}
    players.watch("what each object takes", 0)
    for key, why in reasons.items():
        if why is None:
            one = players.contender(key, MEMORY[key])
            found = players.ask(one, f"memory/{key}", 1, 1)["value"]
            lines[key] = Line(one.label, one.ours, [[value] for value in found])
    shown = [lambda value: f"{value:.1f}"] * 2
    return Grid("ipc_memory", "what each object takes", ["KiB", "descriptors"], shown, "", lines, missing)


def deaths(players: Players) -> Grid:
    """How long a survivor waits after the one it waits for was killed."""
    who = [Contender(key, label, (sys.executable, "-P", WORKER), key, True) for key, label in DEATHS.items()]

    def ask(one: Contender, _: int, number: int) -> dict[str, Any] | None:
        # At other times after the sleep began, which lasts some 95 ms.
        when, kills = 23 * (number + 1), players.effort.kills
        return {} if number < 0 else players.ask(one, f"death/{one.mode}", when, kills)

    columns: dict[str, Callable[[float], str]] = {"p50 ms": lambda value: f"{value:.2f}"}
    title = "a survivor goes on, after the end of the one it waits for"
    found = _grid(players, "ipc_death", title, who, columns, ask, {})
    found.columns.append("longest")
    found.shown.append(found.shown[0])
    for line in found.lines.values():
        line.cells.append([max(line.cells[0] or [0.0])])
    return found


# ---- all ----


def measure(
    available: Available, effort: IpcEffort, watch: Watch, show: Callable[[Latency | Grid], None]
) -> tuple[list[Latency], list[Grid]]:
    """All tables, on Linux; `show` is called with each as it is done. Raises ContenderFailed where corelane fails."""
    if sys.platform != "linux":
        available.notices.append(
            f"messages between processes are skipped: they are measured on Linux, not on {sys.platform}"
        )
        return [], []
    if available.native is not None:
        available.native = toolchain.build_ipc(available.native, available.notices.append)
    available.notices.append(_WHY)
    players = Players(available, effort, watch)
    try:
        tables = latencies(players)
        for table in tables:
            table.missing |= _NEVER
            show(table)
        grids = []
        for make in (
            flow,
            lambda players: fan(players, "in"),
            lambda players: fan(players, "out"),
            operations,
            idle,
            memory,
            deaths,
        ):
            grids.append(make(players))
            show(grids[-1])
        return tables, grids
    finally:
        players.close()


def targets(tables: Sequence[Latency], grids: Sequence[Grid]) -> list[Target]:
    """What corelane promises of these tables."""
    table = {one.key: one for one in tables}
    grid = {one.key: one for one in grids}
    found: list[Target] = []

    def trip(label: str, key: str, mine: str, theirs: str, bound: float) -> None:
        if key in table:
            found.append(Target(label, bound, table[key].ratio(mine, theirs)))

    def throughput(label: str, size: int, mine: str, theirs: str, bound: float) -> None:
        if "ipc_flow" in grid and size in grid["ipc_flow"].sizes:
            one = grid["ipc_flow"]
            column = one.sizes.index(size)
            floor = one.ratio(theirs, one.floor, column) if theirs != one.floor else None
            found.append(Target(label, bound, one.ratio(theirs, mine, column), at_most=False, floor=floor))

    def most(label: str, key: str, mine: str, bound: float, unit: str, columns: Sequence[int]) -> None:
        if key in grid and mine in grid[key].lines:
            one = grid[key]
            values = [one.value(mine, column) for column in columns]
            raw = [one.value(one.floor, column) for column in columns] if one.floor else []
            worst, floor = (max((v for v in them if v is not None), default=None) for them in (values, raw))
            found.append(Target(label, bound, worst, unit=unit, floor=floor))

    trip("Ring, round trip, spinning, vs raw C ring", "ipc_rt_spin", "ring_spin", "c.ring", 5.0)
    trip("Ring, round trip, asleep, vs raw C futex", "ipc_rt_sleep", "ring_sleep", "c.futex", 1.3)
    throughput("Ring, 64 B one by one, vs multiprocessing.Queue", SIZE, "ring", "mp_queue", 20.0)
    throughput("Ring, 64 B in lists, vs raw C ring", SIZE, "ring_lists", "c.ring", 0.1)
    throughput("Ring, 64 B in numpy arrays, vs raw C ring", SIZE, "ring_arrays", "c.ring", 0.5)
    throughput("Ring, 1 MiB, vs raw C ring", MIB, "ring", "c.ring", 0.9)
    throughput("the same in place", MIB, "ring_in_place", "c.ring", 0.9)
    if "ipc_op" in grid:
        one = grid["ipc_op"]
        column = one.columns.index(size_text(SIZE))
        for label, mine, bound in (
            ("Queue, put and get in C, vs Vyukov", "core.queue", 2.7),
            ("the same with membarrier", "core.queue_membarrier", 1.4),
        ):
            found.append(Target(label, bound, one.ratio(mine, "c.vyukov", column)))
    if "ipc_idle" in grid:
        gaps = [column for column, name in enumerate(grid["ipc_idle"].columns) if name != "never"]
        for name, label in (("ring", "Ring"), ("queue", "Queue")):
            most(f"{label}, CPU of a waiter at gaps", "ipc_idle", name, 2.0, " %", gaps)
            # What is promised is 0 %: what rounds to it, as ten looks a second are something.
            most(f"{label}, CPU of a waiter, nothing comes", "ipc_idle", name, 0.5, " %", [0])
    for key, bound in (("producer", 2.0), ("full", 2.0), ("consumer", 100.0), ("ring", 100.0)):
        most(f"survivor: {DEATHS[key]}", "ipc_death", key, bound, " ms", [1])
    return found
