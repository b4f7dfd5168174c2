"""How busy each CPU is: two samples of the kernel's counters, and what lies between them.

A LoadSampler owns its last sample and the memory that files are read into. Each file is read in one go, which the
kernel writes down in one go, and parsed by the core (csrc/load.c). Threads may share a sampler; a forked child of its
owner goes on from the last sample with memory of its own. There is no thread, and no descriptor stays open.

It does not look at what a container may use: /proc/stat is the whole machine's.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corelane._ffi import ffi, lib
from corelane._values import seconds
from corelane.errors import CpuError, NotSupported, cpu_unreadable

__all__ = ["Load", "LoadSampler", "Pressure", "busyness", "load"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_Psi = tuple[float, float, float, float]
_Average = tuple[int, int, tuple[float, float, float]]

_COLUMNS = lib.CL_LOAD_COLUMNS
_USER, _NICE, _SYSTEM = lib.CL_LOAD_USER, lib.CL_LOAD_NICE, lib.CL_LOAD_SYSTEM
_IDLE, _IOWAIT, _STEAL = lib.CL_LOAD_IDLE, lib.CL_LOAD_IOWAIT, lib.CL_LOAD_STEAL
_TIMES = slice(_USER, _STEAL + 1)  # what adds up to all time; guest time is in user and nice already
_ROWS = 64  # room for so many CPUs at first
_MOST_TASKS = 1e9  # that want a CPU: more than there can be, and small enough to reckon with
_PAUSE = 0.1  # seconds between the two samples of a caller who wants the load of now


@dataclass(frozen=True, slots=True)
class Pressure:
    """Pressure stall information of the CPUs: the part of time (0 to 1) in which some task was ready but had none.

    `avg10`, `avg60` and `avg300` are the kernel's averages over so many seconds, `total` the seconds since boot, and
    `recent` the part of the time between the two samples, None for a first one.
    """

    avg10: float
    avg60: float
    avg300: float
    total: float
    recent: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """The CPUs' load between two samples. Arrays have one value for each CPU in `cpus`, and cannot be changed.

    Attributes:
        cpus: the numbers of the CPUs that are online, rising.
        utilisation: the part of time, 0 to 1, in which the CPU did not idle. Stolen time is in it (nobody here could
            use it), waiting for disks is not.
        user, system, iowait, steal: parts of time, 0 to 1, of programs (nice ones too), the kernel, idling while a disk
            was waited for, and the hypervisor giving the CPU to others.
        waiting: how many tasks were ready but waited for this CPU, on average; None where the kernel has no
            /proc/schedstat.
        pressure: the machine's, None where the kernel has no /proc/pressure/cpu.
        runnable, tasks: how many tasks run or are ready, and how many there are; averages: of runnable tasks over 1, 5
            and 15 minutes. None where there is no /proc/loadavg.
        interval: seconds between the two samples; since boot for a first one.
        since_boot: this is a first sample, and its figures are averages since boot.
        when: time.monotonic() of the later one.
    """

    cpus: Integers
    utilisation: Floats
    user: Floats
    system: Floats
    iowait: Floats
    steal: Floats
    waiting: Floats | None
    pressure: Pressure | None
    runnable: int | None
    tasks: int | None
    averages: tuple[float, float, float] | None
    interval: float
    since_boot: bool
    when: float

    @property
    def demand(self) -> Floats:
        """How many tasks want each CPU: its utilisation and those that wait for it, as far as that is known."""
        return self.utilisation if self.waiting is None else self.utilisation + self.waiting

    def as_dict(self) -> dict[str, Any]:
        """The same in plain numbers and lists, for JSON."""
        plain: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                plain[name] = value.tolist()
            elif isinstance(value, Pressure):
                plain[name] = {each: getattr(value, each) for each in value.__dataclass_fields__}
            else:
                plain[name] = list(value) if isinstance(value, tuple) else value
        return plain

    def __repr__(self) -> str:
        mean = float(self.utilisation.mean())
        return f"<Load of {len(self.cpus)} CPUs over {self.interval:.3g} s: {mean:.0%} busy>"


def busyness(load: Load | Mapping[int, float]) -> dict[int, float]:
    """How many tasks want each CPU, by its number: of a Load, or of a mapping that says so itself.

    Raises:
        TypeError, ValueError: it is neither, or has what is no number from 0.
    """
    if isinstance(load, Load):
        return dict(zip(load.cpus.tolist(), load.demand.tolist(), strict=True))
    if not isinstance(load, Mapping):
        raise TypeError(f"load must be a Load or map CPUs to their utilisation, not {load!r} ({type(load).__name__})")
    for cpu, value in load.items():
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise TypeError(f"load: {cpu!r} is no CPU")
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"load of CPU {cpu} must be a number like 0.5, not {value!r}")
        if not 0 <= value <= _MOST_TASKS:
            raise ValueError(f"load of CPU {cpu} must be from 0 (idle) on, 1 is busy, to {_MOST_TASKS:g}, not {value}")
    return {cpu: float(value) for cpu, value in load.items()}


@dataclass(slots=True)
class _Sample:
    """What the counters were."""

    when: float
    rows: Integers
    queues: Integers | None
    stalled: float | None  # seconds
    utilisation: Floats


class LoadSampler:
    """Samples of the load, each compared with the one before.

    Args:
        root: where proc/ lies; another one than "/" is for fixtures.
        queues: read /proc/schedstat too, for Load.waiting. The kernel prints some kilobytes for each CPU there.
    """

    def __init__(self, root: str | os.PathLike[str] = "/", *, queues: bool = True) -> None:
        self._stat, self._schedstat, self._psi, self._average = (
            os.path.join(os.fspath(root), "proc", name) for name in ("stat", "schedstat", "pressure/cpu", "loadavg")
        )
        self._is_live = os.fspath(root) == "/"
        self._queues = queues
        self._last: _Sample | None = None
        self._work = _Work()

    def sample(self) -> Load:
        """Read the counters, and compare them with those of the call before.

        The first call has none to compare with: its figures are averages since boot, and it says so (`since_boot`).
        A CPU that came online in between has its own since boot; one that went is not there. A CPU whose counters stood
        still (they tick at 100 Hz) keeps its figure of the last time. Counters of idle time can run backwards by a
        little, which counts as not having moved.

        Raises:
            CpuError: a file is malformed or cannot be read; it is named. NotSupported: the system has no /proc/stat.
        """
        work = self._work
        if work.pid != os.getpid():
            # In a forked child another thread of the parent's may have held the lock, and will never release it.
            work = self._work = _Work()
        with work.lock:
            sample, pressure, average = self._read(work)
            load = self._compare(sample, pressure, average, self._last)
            self._last = sample
        return load

    # ---- reading ----

    def _read(self, work: _Work) -> tuple[_Sample, _Psi | None, _Average | None]:
        rows = self._rows_of(work, self._stat, lib.cl_load_stat, _COLUMNS, needed=True)
        when = time.monotonic()
        assert rows is not None
        queues = self._rows_of(work, self._schedstat, lib.cl_load_schedstat, 3) if self._queues else None
        psi = _parse_pressure(self._psi, work.text_of(self._psi))
        average = _parse_average(self._average, work.text_of(self._average))
        nothing: Floats = np.zeros(len(rows))
        return _Sample(when, rows, queues, psi[3] if psi else None, nothing), psi, average

    def _rows_of(self, work: _Work, path: str, parse: Any, columns: int, needed: bool = False) -> Integers | None:
        rc = lib.cl_text_read(work.text, os.fsencode(path))
        if rc in (-errno.ENOENT, -errno.EACCES, -errno.EOPNOTSUPP) and not needed:
            return None
        if rc == -errno.ENOENT and self._is_live and sys.platform != "linux":
            raise NotSupported(f"the load of each CPU is read from {path}, which {sys.platform} has not")
        if rc < 0:
            raise cpu_unreadable(path, -rc)
        while True:
            room = work.rows_for(columns)
            count = parse(work.text, room, work.most, work.where)
            if count == -errno.ENOTSUP:
                return None
            if count < 0:
                line = ffi.string(work.text.data + work.where[0], 100).split(b"\n")[0].decode(errors="replace")
                raise CpuError(f"{path} is malformed: {line!r} is no line of a CPU's counters")
            if count <= work.most:
                break
            work.most = 2 * count
        if not count:
            if needed:
                raise CpuError(f"{path} is malformed: it has no line 'cpu0 ...'")
            return None
        flat = np.frombuffer(ffi.buffer(room), dtype=np.int64)
        rows: Integers = flat[: count * columns].reshape(count, columns).copy()
        if (np.diff(rows[:, 0]) <= 0).any():
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            twice = rows[1:, 0][np.diff(rows[:, 0]) == 0]
            if len(twice):
                raise CpuError(f"{path} is malformed: it has CPU {twice[0]} twice")
        return rows

    # ---- comparing ----

    def _compare(self, sample: _Sample, psi: _Psi | None, average: _Average | None, last: _Sample | None) -> Load:
        rows, known = sample.rows, np.zeros(len(sample.rows), dtype=bool)
        delta, kept = rows, np.zeros(len(rows))
        if last is not None:
            at, known = _places(last.rows[:, 0], rows[:, 0])
            delta = rows - np.where(known[:, None], last.rows[at], 0)
            np.maximum(delta, 0, out=delta)
            kept = np.where(known, last.utilisation[at], 0.0)
        total = delta[:, _TIMES].sum(axis=1)
        parts = delta / np.maximum(total, 1)[:, None]
        idle = parts[:, _IDLE] + parts[:, _IOWAIT]
        busy = np.where(total > 0, 1.0 - idle, kept)
        np.clip(busy, 0.0, 1.0, out=busy)  # what rounding makes of an idle CPU is -1e-17
        sample.utilisation = busy
        interval = sample.when - last.when if last else float(total.max()) / os.sysconf("SC_CLK_TCK")
        pressure = None
        if psi is not None:
            before = last.stalled if last else None
            recent = None if before is None or interval <= 0 else min(1.0, max(0.0, (psi[3] - before) / interval))
            pressure = Pressure(*psi, recent)
        runnable, tasks, averages = average or (None, None, None)
        load = Load(
            cpus=rows[:, 0].copy(),
            utilisation=busy,
            user=parts[:, _USER] + parts[:, _NICE],
            system=parts[:, _SYSTEM].copy(),
            iowait=parts[:, _IOWAIT].copy(),
            steal=parts[:, _STEAL].copy(),
            waiting=_waiting(sample, last, interval),
            pressure=pressure,
            runnable=runnable,
            tasks=tasks,
            averages=averages,
            interval=interval,
            since_boot=last is None,
            when=sample.when,
        )
        for array in (load.cpus, busy, load.user, load.system, load.iowait, load.steal, load.waiting):
            if array is not None:
                array.flags.writeable = False
        return load


class _Work:
    """Memory to read into, and the lock of who does; one process's."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.text = ffi.gc(ffi.new("cl_text *"), lib.cl_text_free)
        self.where = ffi.new("int64_t *")
        self.most = _ROWS
        self._rows: Any = ffi.new("int64_t[]", _ROWS * _COLUMNS)

    def rows_for(self, columns: int) -> Any:
        if len(self._rows) < self.most * columns:
            self._rows = ffi.new("int64_t[]", self.most * columns)
        return self._rows

    def text_of(self, path: str) -> str | None:
        """The content of a file that need not be there."""
        size = lib.cl_text_read(self.text, os.fsencode(path))
        if size in (-errno.ENOENT, -errno.EACCES, -errno.EOPNOTSUPP):
            return None
        if size < 0:
            raise cpu_unreadable(path, -size)
        return str(ffi.buffer(self.text.data, size)[:], "ascii", "replace")


def _places(old: Integers, new: Integers) -> tuple[Any, Any]:
    """Where each of the new CPUs is among the old ones, and whether it is."""
    if len(old) == len(new) and (old == new).all():
        return slice(None), np.ones(len(new), dtype=bool)
    at = np.minimum(np.searchsorted(old, new), len(old) - 1)
    return at, old[at] == new


def _waiting(now: _Sample, last: _Sample | None, interval: float) -> Floats | None:
    if now.queues is None or interval <= 0:
        return None
    waited = now.queues[:, 2].astype(np.float64)
    if last is not None and last.queues is not None:
        at, known = _places(last.queues[:, 0], now.queues[:, 0])
        waited -= np.where(known, last.queues[at, 2], now.queues[:, 2])  # of a new one nothing is known yet
    found: Floats = np.zeros(len(now.rows))
    at, known = _places(now.queues[:, 0], now.rows[:, 0])
    np.divide(np.maximum(waited[at], 0.0), interval * 1e9, out=found)
    found[~known] = 0.0
    return found


def _parse_pressure(path: str, text: str | None) -> _Psi | None:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`: percents and microseconds, as parts and seconds."""
    if not text:
        return None
    line = text.partition("\n")[0]
    try:
        word, *pairs = line.split()
        values = {name: float(value) for name, _, value in (pair.partition("=") for pair in pairs)}
        if word != "some":
            raise ValueError
        return values["avg10"] / 100, values["avg60"] / 100, values["avg300"] / 100, values["total"] / 1e6
    except (ValueError, KeyError):
        raise CpuError(f"{path} is malformed: {line[:100]!r} is not 'some avg10=... total=...'") from None


def _parse_average(path: str, text: str | None) -> _Average | None:
    """`0.20 0.18 0.12 1/80 11206`."""
    if not text:
        return None
    try:
        one, five, fifteen, counts, *_ = text.split()
        runnable, _, tasks = counts.partition("/")
        return int(runnable), int(tasks), (float(one), float(five), float(fifteen))
    except ValueError:
        raise CpuError(f"{path} is malformed: {text[:100]!r} is not like '0.20 0.18 0.12 1/80 11206'") from None


_shared: dict[str, LoadSampler] = {}


def load(interval: float | None = None, *, root: str | os.PathLike[str] = "/") -> Load:
    """How busy each CPU is.

    Args:
        interval: seconds between two samples that are taken now, which the call lasts. None: since the last such call
            in this process, by whatever thread; the first one, and each with a `root` of its own, has averages since
            boot (`Load.since_boot`). Who wants periods of their own keeps a LoadSampler.
        root: where proc/ lies; another one than "/" is for fixtures.

    Raises:
        TypeError, ValueError: interval is no span of time above 0.
        CpuError: a file is malformed or cannot be read. NotSupported: the system has no /proc/stat (macOS).
    """
    if interval is None:
        if os.fspath(root) != "/":
            return LoadSampler(root).sample()
        # Two first callers make two samplers, of which setdefault keeps one for both.
        return (_shared.get("/") or _shared.setdefault("/", LoadSampler())).sample()
    pause = seconds("interval", interval)
    if not pause:
        raise ValueError("interval must be above 0 seconds: the counters tick 100 times a second")
    sampler = LoadSampler(root)
    sampler.sample()
    time.sleep(pause)
    return sampler.sample()


def load_now() -> Load:
    """The load of this moment, for a decision that is taken now: two samples, a tenth of a second apart."""
    return load(_PAUSE)
