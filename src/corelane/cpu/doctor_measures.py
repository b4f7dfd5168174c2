"""What the doctor measures: short loops of the C core, half a second together.

Owns a thread and two pipes for as long as a wake-up is measured. On a busy machine the figures say how busy it is: that
is what programs on it get."""

from __future__ import annotations

from dataclasses import dataclass, field

from corelane._ffi import check, ffi, lib
from corelane.cpu.doctor_host import Host, Look, Unread
from corelane.errors import CorelaneError

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Figures", "Spread", "cpu_times", "measured"]

_IDLE_ROUNDS, _IDLE_GAP = 60, 3_000_000  # ns; long enough for a CPU to go to sleep in earnest
_BUSY_ROUNDS = 2000
_TIMER_ROUNDS, _TIMER_NS = 100, 1_000_000
_CLOCK_ROUNDS, _CALL_ROUNDS = 20_000, 10_000
_GAP_SPAN, _LEAST_GAP, _GAP_ROOM = 100_000_000, 20_000, 10_000  # ns; ns; gaps


@dataclass(frozen=True)
class Spread:
    """Some samples, in microseconds."""

    p50: float
    p99: float
    longest: float


@dataclass
class Figures:
    """What was measured; None where that failed, and `problems` has why.

    Attributes:
        wake_idle, wake_busy: of a thread of ours, when the CPUs have slept for 3 ms, and when they have not; us.
        timer: how late sleeps of 1 ms end; us.
        clock, call: ns of reading the clock by way of libc, and of a system call that does nothing.
        gaps: of a thread that only runs, the times of 20 us and more in which it did not; us. None if there was none.
        gap_rate: how many of those a second.
        steal: the share of all CPU time that the hypervisor gave to others meanwhile.
    """

    wake_idle: Spread | None = None
    wake_busy: Spread | None = None
    timer: Spread | None = None
    clock: float | None = None
    call: float | None = None
    gaps: Spread | None = None
    gap_rate: float | None = None
    steal: float | None = None
    problems: dict[str, str] = field(default_factory=dict)


def _spread(samples: list[int]) -> Spread:
    ordered = sorted(samples)
    return Spread(
        ordered[len(ordered) // 2] / 1e3,
        ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / 1e3,
        ordered[-1] / 1e3,
    )


def _wakeups(rounds: int, gap: int) -> Spread:
    out = ffi.new("int64_t[]", rounds)
    return _spread(list(out[0 : check(lib.cl_measure_wakeup(rounds, gap, out), "measuring wake-ups")]))


def _timers() -> Spread:
    out = ffi.new("int64_t[]", _TIMER_ROUNDS)
    return _spread(list(out[0 : check(lib.cl_measure_timer(_TIMER_ROUNDS, _TIMER_NS, out), "measuring timers")]))


def _gaps() -> list[int]:
    out = ffi.new("int64_t[]", _GAP_ROOM)
    count = check(lib.cl_measure_gaps(_GAP_SPAN, _LEAST_GAP, out, _GAP_ROOM), "measuring interruptions")
    return list(out[0 : min(count, _GAP_ROOM)])


def cpu_times(look: Look) -> tuple[int, int]:
    """Ticks since boot that the hypervisor gave to others, and of all, over all CPUs: the first line of /proc/stat.

    Raises:
        Unread: it is not there, or no such line.
    """
    name = "/proc/stat"
    line = look.text(name, note=False).partition("\n")[0]
    words = line.split()
    if words[:1] != ["cpu"] or len(words) < 9:
        raise look.odd(name, line, "a line 'cpu' with eight times or more")
    times = [look.to_int(name, word) for word in words[1:9]]  # guests' times are also in user and nice
    return times[7], sum(times)


def measured(host: Host) -> Figures:
    """Measure this machine, now."""
    figures = Figures()

    def attempt(name: str, what: Callable[[], Spread | float]) -> None:
        try:
            setattr(figures, name, what())
        except CorelaneError as error:  # no descriptor left, no thread
            figures.problems[name] = str(error)

    try:
        before = cpu_times(Look("steal", host))
    except Unread:
        before = (0, 0)
    attempt("wake_busy", lambda: _wakeups(_BUSY_ROUNDS, 0))
    attempt("wake_idle", lambda: _wakeups(_IDLE_ROUNDS, _IDLE_GAP))
    attempt("timer", _timers)
    attempt("clock", lambda: check(lib.cl_measure_clock(_CLOCK_ROUNDS), "measuring the clock") / _CLOCK_ROUNDS)
    attempt("call", lambda: check(lib.cl_measure_call(_CALL_ROUNDS), "measuring a system call") / _CALL_ROUNDS)
    gaps = _gaps()
    figures.gaps = _spread(gaps) if gaps else None
    figures.gap_rate = len(gaps) * 1e9 / _GAP_SPAN
    try:
        after = cpu_times(Look("steal", host))
    except Unread as error:
        figures.problems["steal"] = str(error)
        return figures
    if after[1] > before[1] > 0:
        figures.steal = max(0, after[0] - before[0]) / (after[1] - before[1])
    return figures
