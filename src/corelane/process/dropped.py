"""Children that nobody holds any more but that still run: to be reaped when they end, at the next spawn or run.

Owns what its entries close over. An entry is a function that returns whether its child is gone and cleaned up; it
must not block. Several threads may call `reap` at a time: each takes entries one by one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

__all__ = ["reap", "waiting"]

waiting: deque[Callable[[], bool]] = deque()

os.register_at_fork(after_in_child=waiting.clear)


def reap() -> None:
    """Look at each entry once, and keep those that still run."""
    for _ in range(len(waiting)):
        try:
            is_gone = waiting.popleft()
        except IndexError:  # another thread took it
            return
        if not is_gone():
            waiting.append(is_gone)
