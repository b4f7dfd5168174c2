"""How long a wait looks before it sleeps.

Owns one number, the default of this process. A channel can have its own; 0 is honoured everywhere.
"""

from __future__ import annotations

from corelane._values import seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["default_spin", "set_default_spin", "spin_ns"]

_MOST = 50e-6  # about what being woken costs: who spins longer would have been served sooner asleep
_default: float | None = None


def set_default_spin(span: float | None) -> None:
    """Let channels that are made or attached from now on spin for at most so many seconds in each wait; 0: not at all.

    None is the beginning's: 50 microseconds, or 0 where this process has fewer than two CPUs' worth of time: there the
    other side can do nothing while we spin.
    """
    global _default
    _default = None if span is None else seconds("span", span)


def default_spin() -> float:
    """What a channel spins if it was not told otherwise, in seconds."""
    if _default is not None:
        return _default
    return _MOST if _cpus() >= 2 else 0.0


def spin_ns(name: str, span: Any) -> int:
    """The option of a channel, in nanoseconds; None: the default."""
    return int((default_spin() if span is None else seconds(name, span)) * 1e9)


def _cpus() -> float:
    from corelane.cpu import budget

    found = budget(best_effort=True)  # what cannot be read limits nothing
    return min(len(found.cpus), found.quota or len(found.cpus))
