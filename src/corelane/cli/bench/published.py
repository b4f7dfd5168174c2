"""The field's own published figures, shown beside ours. They come from other machines and cannot be compared
by value.

Owns constants only. What exactly was timed is not published with them; they are here so that nobody has to
look for them, and so that the order of magnitude can be seen.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sequential:
    """One published row of 1,000 sequential spawns: milliseconds a spawn, spawns a second, megabytes of
    memory.
    """

    label: str
    mean_ms: float
    per_second: int
    memory_mb: float


START_UP_US = {"nix": 50.0, "Rust std": 100.0, "duct": 110.0, "tokio": 120.0}
"""Start-up of one process, in microseconds."""

AT_100 = {"Rust std, thread pool": 1000, "tokio": 5000, "duct": 900}
"""Throughput at 100 at a time, children a second."""


@dataclass(frozen=True)
class Together:
    """One published row of 100 children at once: milliseconds until all were done, CPU, megabytes."""

    label: str
    ms: float
    cpu_percent: int
    memory_mb: float


ALL_100 = (Together("tokio", 120, 380, 18), Together("rayon", 450, 390, 12))

SEQUENTIAL = (
    Sequential("Rust std", 0.95, 1053, 2.1),
    Sequential("tokio, 1 thread", 1.02, 980, 2.8),
    Sequential("tokio, threads", 0.88, 1136, 4.2),
    Sequential("duct", 1.15, 870, 2.5),
)
