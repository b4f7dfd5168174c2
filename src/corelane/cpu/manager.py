"""AffinityManager: what was placed where, how busy those CPUs are, and who should move.

Owns a record for each process that it placed, and a LoadSampler; no descriptor, no thread, no child. A record is of one
process for ever: its number and the moment it started. Records of processes that have ended are dropped whenever the
manager is used, so there are never more than about twice as many as live. All methods may be called by any thread; in a
forked child the manager goes on with the records of its parent.

A number is looked at before and after something is set for it, and set by number in between:

    manager                         elsewhere
    the start of 4711 is as recorded
                                    4711 ends and is reaped; 4711 is given to a stranger
    sets the CPUs of 4711
    the start of 4711 is another: CpuRefused, the record is dropped

No call sets the CPUs of a process by a descriptor, so the stranger keeps what was set. It takes a number that comes
again within microseconds, and cannot happen to a child of ours that we have not reaped.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from corelane._values import integer, seconds
from corelane.cpu import hardware
from corelane.cpu.affinity import set_affinity
from corelane.cpu.classes import PriorityClass, priority_class
from corelane.cpu.counting import available
from corelane.cpu.lists import format_cpus
from corelane.cpu.machine import budget_cpus
from corelane.cpu.model import Topology
from corelane.cpu.moves import MARGIN, THRESHOLD, Move, check_limits, propose
from corelane.cpu.sampler import Floats, Integers, Load, LoadSampler, busyness
from corelane.cpu.setting import cpu_seconds, start_of
from corelane.errors import CpuRefused, cpu_refused

__all__ = ["AffinityManager", "CpuStatistics", "Placed"]

_FRESH = 1.0  # seconds for which a sample is good enough to place the next process by
_SWEEP = 64  # records there are before the first search for ended ones


@dataclass(frozen=True, slots=True)
class Placed:
    """What is known of one process: what it was placed as (`name` is its class, None if CPUs were given), on which CPUs
    and when (time.time()), what it used of a CPU when last measured (None: not yet), and what the system refused of its
    class with best_effort."""

    pid: int
    started: int  # ticks since boot
    cpus: frozenset[int]
    name: str | None
    when: float
    movable: bool
    usage: float | None = None
    not_applied: tuple[CpuRefused, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class CpuStatistics:
    """One value for each CPU of the budget: `usage` (0 to 1, NaN if never seen), `processes` placed on it, and
    `updated`, time.monotonic() of the sample that its usage is from (0 if never)."""

    cpus: Integers
    usage: Floats
    processes: Integers
    updated: Floats


class AffinityManager:
    """Places processes on CPUs, remembers them, and says which of them should move.

    Args:
        budget: the CPUs to use, or a Budget; default: this process's.
        topology: default: this machine's.
        sampler: where the load comes from; what has `sample()`. Default: a LoadSampler of its own.
        interval: seconds that two samples are apart at least; within them the last one is used again. Counters tick at
            100 Hz, so shorter ones would be noise.
        threshold, margin: of `rebalance`.
    """

    def __init__(
        self,
        *,
        budget: Any = None,
        topology: Topology | None = None,
        sampler: Any = None,
        interval: float = 0.1,
        threshold: float = THRESHOLD,
        margin: float = MARGIN,
    ) -> None:
        check_limits(threshold, margin)
        self.topology = hardware.topology() if topology is None else topology
        self.cpus = budget_cpus(available() if budget is None else budget, self.topology)
        self.threshold, self.margin, self.interval = threshold, margin, seconds("interval", interval)
        self._sampler = LoadSampler() if sampler is None else sampler
        self._records: dict[int, Placed] = {}
        self._times: dict[int, tuple[float, float]] = {}  # CPU seconds of a process, and when that was
        self._load: Load | None = None
        self._seen: dict[int, tuple[float, float]] = {}  # usage of a CPU, and when that was
        self._sweep_at = _SWEEP
        self._lock = threading.RLock()
        self._pid = os.getpid()

    # ---- placing ----

    def place(
        self, pid: int, cls: str = "normal", *, cpus: Any = None, best_effort: bool = False, **fields: Any
    ) -> Placed:
        """Give a process the CPUs and the priority of a class, and remember it.

        Args:
            pid: a process; all its threads are set. One placed before is placed anew.
            cls: a priority class. "normal" puts it on the one CPU with least to do, where those placed since the last
                sample count as busy; only such ones are moved by `rebalance`.
            cpus: CPUs instead of the class's; the priority is left alone unless `fields` say otherwise.
            best_effort: what the system refuses of the priority is in `not_applied` instead of being raised.
            **fields: nice, sched, io_priority, real_time: as of `priority_class`.

        Raises:
            TypeError, ValueError: an argument is wrong, or the CPUs are outside the budget.
            CpuRefused: the system refused something, or the process is gone: then it is not remembered.
        """
        pid = integer(1, 2**31 - 1)("pid", pid)
        with self._locked():
            self._sweep()
            started = start_of(pid)
            if started is None:
                self._forget(pid)
                raise cpu_refused(f"placing process {pid}", errno.ESRCH)
            priority = self._priority(cls, cpus, fields)
            assert priority.cpus is not None
            outside = priority.cpus - self.cpus
            if outside:
                raise ValueError(f"cpus: {format_cpus(outside)} are outside the budget {format_cpus(self.cpus)}")
            refused = priority.apply(pid, best_effort=best_effort)
            if start_of(pid) != started:  # see the top of this module
                self._forget(pid)
                raise cpu_refused(f"placing process {pid}", errno.ESRCH)
            movable = cpus is None and cls == "normal"
            name = None if cpus is not None else cls
            record = Placed(pid, started, priority.cpus, name, time.time(), movable, None, refused)
            self._records[pid] = record
            self._times.pop(pid, None)
            return record

    def _priority(self, cls: str, cpus: Any, fields: dict[str, Any]) -> PriorityClass:
        unknown = fields.keys() - {"nice", "sched", "io_priority", "real_time"}
        if unknown:
            raise TypeError(f"place() has no option {min(unknown)!r}")
        if cpus is not None:
            given = {"nice": None, "io_priority": None, **fields}
            return priority_class(cls, cpus=cpus, budget=self.cpus, topology=self.topology, **given)
        load = None
        if cls == "normal":
            if self._load is None or time.monotonic() - self._load.when > _FRESH:
                self._look()
            load = self._heat(with_new=True)
        return priority_class(cls, budget=self.cpus, topology=self.topology, load=load, **fields)

    def forget(self, pid: int) -> bool:
        """Stop looking after a process, which keeps what was set. Whether there was a record of it."""
        with self._locked():
            return self._forget(pid)

    def placed(self) -> tuple[Placed, ...]:
        """The records of all that live, in the order in which they were placed."""
        with self._locked():
            self._sweep(now=True)
            return tuple(self._records.values())

    # ---- looking ----

    def statistics(self) -> CpuStatistics:
        """Take a sample, and say how each CPU is used and by how many of those placed.

        A CPU that is offline keeps what was last known of it, and when.
        """
        with self._locked():
            self._sweep(now=True)
            self._look()
            cpus = sorted(self.cpus)
            counts = dict.fromkeys(cpus, 0)
            for record in self._records.values():
                for cpu in record.cpus & self.cpus:
                    counts[cpu] += 1
            seen = [self._seen.get(cpu, (float("nan"), 0.0)) for cpu in cpus]
            return CpuStatistics(
                cpus=np.array(cpus, dtype=np.int64),
                usage=np.array([usage for usage, _ in seen]),
                processes=np.array([counts[cpu] for cpu in cpus], dtype=np.int64),
                updated=np.array([when for _, when in seen]),
            )

    def rebalance(self, *, apply: bool = False) -> list[Move]:
        """Take a sample, and say which processes would gain by another CPU (Move.worker is the pid).

        What each used is measured since the last sample; a first one has nothing to compare with, and proposes nothing.
        Those of class normal are moved, no others: their CPUs are what they were asked to be.

        Args:
            apply: move them, too. One that ends meanwhile is dropped, and so is its move.

        Raises:
            CpuRefused: the system refused a move; those before it are done.
        """
        with self._locked():
            self._sweep(now=True)
            self._look()
            load = self._load
            if load is None or load.since_boot:
                return []
            movable = {pid: record for pid, record in self._records.items() if record.movable}
            usage = {pid: record.usage or 0.0 for pid, record in movable.items()}
            moves = propose(
                {pid: record.cpus for pid, record in movable.items()},
                usage,
                self._heat(with_new=False),
                self.cpus,
                self.topology,
                threshold=self.threshold,
                margin=self.margin,
            )
            return [move for move in moves if self._move(move)] if apply else moves

    def _move(self, move: Move) -> bool:
        record = self._records.get(move.worker)
        if record is None or start_of(record.pid) != record.started:
            self._forget(move.worker)
            return False
        try:
            set_affinity(move.target, record.pid)
        except ProcessLookupError:
            self._forget(move.worker)
            return False
        if start_of(record.pid) != record.started:
            self._forget(move.worker)
            return False
        # It counts as busy where it is now until it has been measured there.
        self._records[record.pid] = replace(record, cpus=move.target, usage=None)
        self._times.pop(record.pid, None)
        return True

    # ---- its state, under the lock ----

    def _locked(self) -> AbstractContextManager[Any]:
        if self._pid != os.getpid():
            # In a forked child: a thread of the parent's may have held it, and is not here to release it.
            self._lock, self._pid = threading.RLock(), os.getpid()
        return self._lock

    def _forget(self, pid: int) -> bool:
        self._times.pop(pid, None)
        return self._records.pop(pid, None) is not None

    def _sweep(self, now: bool = False) -> None:
        """Drop the records of those that ended: when a caller wants to see them, or when their number has doubled."""
        if not now and len(self._records) < self._sweep_at:
            return
        for pid, record in list(self._records.items()):
            if start_of(pid) != record.started:
                self._forget(pid)
        self._sweep_at = max(_SWEEP, 2 * len(self._records))

    def _look(self) -> None:
        """A sample of the CPUs, and of what each process used."""
        if self._load is not None and time.monotonic() - self._load.when < self.interval:
            return
        load: Load = self._sampler.sample()
        self._load = load
        for cpu, usage in zip(load.cpus.tolist(), load.utilisation.tolist(), strict=True):
            self._seen[cpu] = (usage, load.when)
        for pid, record in self._records.items():
            if not record.movable:
                continue
            used, when = cpu_seconds(pid), time.monotonic()
            before = self._times.get(pid)
            if used is None:
                continue
            self._times[pid] = (used, when)
            if before is not None and when > before[1]:
                share = max(0.0, used - before[0]) / (when - before[1])
                self._records[pid] = replace(record, usage=share)

    def _heat(self, with_new: bool) -> dict[int, float]:
        """How many tasks want each CPU; with those placed whose work no sample has seen yet."""
        heat = {} if self._load is None else busyness(self._load)
        if with_new:
            for record in self._records.values():
                if record.movable and record.usage is None:
                    for cpu in record.cpus:
                        heat[cpu] = heat.get(cpu, 1.0) + 1.0
        return heat
