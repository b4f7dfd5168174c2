"""How scheduling, I/O priority and memory policy are written: each parser takes a parameter's name and what the caller
wrote, and returns its immutable normal form, the kernel's numbers, or raises TypeError or ValueError.

Owns nothing and looks at nothing but its argument: whether the system grants it is not asked here.
"""

from __future__ import annotations

from collections import namedtuple

from corelane._values import integer, seconds
from corelane.cpu.lists import cpu_list, format_cpus

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = [
    "DEADLINE",
    "Deadline",
    "io_priority",
    "io_priority_of",
    "memory_policy",
    "memory_policy_of",
    "nice",
    "sched_of",
    "scheduler",
    "uclamp",
    "written",
]

# The kernel's numbers: CL_SCHED_*, ioprio_set(2), CL_MEMORY_*. Here and not from the core, which parsers do not need.
POLICIES = {"other": 0, "fifo": 1, "rr": 2, "batch": 3, "idle": 5}
DEADLINE = 6
IO_CLASSES = {"realtime": 1, "best-effort": 2, "idle": 3}
MEMORY_POLICIES = {"default": 0, "preferred": 1, "bind": 2, "interleave": 3, "local": 4, "preferred-many": 5,
                   "weighted-interleave": 6}  # fmt: skip
_WITHOUT_NODES = ("default", "local")
MOST_NODES = 1024  # more than any kernel is built for (MAX_NUMNODES)
_SHORTEST = 1024e-9  # seconds: the kernel counts runtimes in units of 1024 ns

nice = integer(-20, 19)


class Deadline(namedtuple("Deadline", "runtime deadline period")):
    """SCHED_DEADLINE: in every period a thread gets `runtime` of CPU time before `deadline` has passed.

    The kernel admits it only if all such promises can be kept together. It runs before all that is real-time, on any
    CPU of its scheduling domain: a thread that is kept to some of them is refused.

    Args:
        runtime, deadline: seconds. period: seconds; None: the deadline. runtime <= deadline <= period.

    Raises:
        TypeError, ValueError: one of them is no such number.
    """

    __slots__ = ()

    def __new__(cls, runtime: float, deadline: float, period: float | None = None) -> Deadline:
        given = {"runtime": runtime, "deadline": deadline, "period": deadline if period is None else period}
        spans = [seconds(f"Deadline: {name}", value) for name, value in given.items()]
        if spans[0] < _SHORTEST:
            raise ValueError(f"Deadline: runtime must be at least {_SHORTEST} seconds, not {runtime}")
        if not spans[0] <= spans[1] <= spans[2]:
            raise ValueError(
                f"Deadline: runtime <= deadline <= period is needed, not {spans[0]} <= {spans[1]} <= {spans[2]}"
            )
        return super().__new__(cls, *spans)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Deadline:  # type: ignore[override]  # mypy: of any subclass
        return cls(*iterable)  # so that _replace checks, too

    def __getnewargs__(self) -> tuple[float, ...]:
        return tuple(self)

    @property
    def nanoseconds(self) -> tuple[int, int, int]:
        """The three as the kernel counts them."""
        runtime, deadline, period = (round(span * 1e9) for span in self)
        return runtime, deadline, period

    @classmethod
    def of_nanoseconds(cls, *spans: int) -> Deadline:
        return super().__new__(cls, *(span / 1e9 for span in spans))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and not isinstance(value, Deadline)


def scheduler(name: str, value: Any) -> tuple[int, int] | Deadline:
    """A policy: "other", "batch", "idle", ("fifo", 1..99), ("rr", 1..99) or a Deadline.

    Returns:
        (number of the policy, real-time priority or 0), or the Deadline.
    """
    if isinstance(value, Deadline):
        return value
    if value == "deadline":
        raise ValueError(f"{name}: 'deadline' needs numbers: give cpu.Deadline(runtime, deadline, period), in seconds")
    if value in ("fifo", "rr"):
        raise ValueError(f"{name}: {value!r} needs a priority from 1 to 99: give a pair like ({value!r}, 10)")
    policy, priority = (value, 0) if isinstance(value, str) else value if _is_pair(value) else (None, 0)
    if not isinstance(policy, str) or policy not in POLICIES:
        raise ValueError(
            f"{name} must be one of {', '.join(POLICIES)}, a pair like ('fifo', 10), or a cpu.Deadline, not {value!r}"
        )
    real_time = policy in ("fifo", "rr")
    return POLICIES[policy], integer(1 if real_time else 0, 99 if real_time else 0)(f"{name}: priority", priority)


def sched_of(policy: int, priority: int) -> Any:
    """The way back from `scheduler`, also of policies that cannot be asked for."""
    name = {number: name for name, number in POLICIES.items()}.get(policy, f"policy {policy}")
    return (name, priority) if priority else name


def uclamp(name: str, value: Any) -> tuple[int, int]:
    """Utilisation clamps: (lowest, highest), each 0 to 1024 of 1024, or None for unchanged.

    Returns:
        The two, -1 for unchanged.
    """
    if not (isinstance(value, (tuple, list)) and len(value) == 2):
        raise TypeError(f"{name} must be a pair like (256, None), each from 0 to 1024 or None, not {value!r}")
    low, high = (-1 if one is None else integer(0, 1024)(name, one) for one in value)
    if low < 0 and high < 0:
        raise ValueError(f"{name}: (None, None) would change nothing; leave it out")
    if 0 <= high < low:
        raise ValueError(f"{name}: the lowest, {low}, is above the highest, {high}")
    return low, high


def io_priority(name: str, value: Any) -> int:
    """An I/O priority: "idle", ("best-effort", 0..7), ("realtime", 0..7) or "none", which follows the nice value.

    Returns:
        class << 13 | level, as ioprio_set(2) takes it.
    """
    if value == "none":
        return 0
    kind, level = (value, 4) if isinstance(value, str) else value if _is_pair(value) else (None, 0)
    if not isinstance(kind, str) or kind not in IO_CLASSES:
        raise ValueError(f"{name} must be 'idle' or a pair like ('best-effort', 4), not {value!r}")
    return IO_CLASSES[kind] << 13 | (0 if kind == "idle" else integer(0, 7)(f"{name}: level", level))


def io_priority_of(number: int) -> Any:
    """The way back from `io_priority`. Newer kernels keep hints above the level's three bits."""
    kind = {number: name for name, number in IO_CLASSES.items()}.get(number >> 13, "none")
    return kind if kind in ("none", "idle") else (kind, number & 7)


def memory_policy(name: str, value: Any) -> tuple[int, tuple[int, ...]]:
    """A memory policy: "default", "local", or a pair of a name and NUMA nodes: ("bind", "0-1"), ("interleave", [0, 1]),
    ("preferred", 0), ("preferred-many", ...), ("weighted-interleave", ...).

    Returns:
        (number of the policy, its nodes).
    """
    kind, nodes = (value, None) if isinstance(value, str) else value if _is_pair(value) else (None, None)
    if not isinstance(kind, str) or kind not in MEMORY_POLICIES:
        raise ValueError(
            f"{name} must be 'default', 'local', or a pair like ('bind', '0-1') with one of "
            f"{', '.join(each for each in MEMORY_POLICIES if each not in _WITHOUT_NODES)}, not {value!r}"
        )
    if (kind in _WITHOUT_NODES) != (nodes is None):
        raise ValueError(f"{name}: {kind!r} takes {'no nodes' if nodes is not None else 'NUMA nodes: give a pair'}")
    if nodes is None:
        return MEMORY_POLICIES[kind], ()
    listed = cpu_list(f"{name}: nodes", nodes, "node", MOST_NODES)
    if kind == "preferred" and len(listed) > 1:
        raise ValueError(
            f"{name}: 'preferred' takes one node, not {format_cpus(listed)}; 'preferred-many' takes several"
        )
    return MEMORY_POLICIES[kind], listed


def memory_policy_of(policy: int, nodes: tuple[int, ...]) -> Any:
    """The way back from `memory_policy`."""
    name = {number: name for name, number in MEMORY_POLICIES.items()}.get(policy, f"policy {policy}")
    if name == "preferred" and not nodes:
        return "local"  # which older kernels have no number for
    return name if name in _WITHOUT_NODES else (name, nodes)


def written(name: str, kept: Any) -> str:
    """An option and its normal form as the caller could have written it, for messages."""
    if name == "cpus":
        return f"cpus={format_cpus(kept)!r}"
    if name == "sched" and not isinstance(kept, Deadline):
        kept = sched_of(*kept)
    elif name == "io_priority":
        kept = io_priority_of(kept)
    elif name == "uclamp":
        kept = tuple(None if one < 0 else one for one in kept)
    elif name == "memory_policy":
        policy = memory_policy_of(*kept)
        kept = policy if isinstance(policy, str) else (policy[0], format_cpus(policy[1]))
    return f"{name}={kept!r}"
