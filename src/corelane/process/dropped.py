"""Children that nobody holds any more but that still run: to be reaped when they end, at the next spawn or run.

Owns what its entries close over. An entry is a function that returns whether its child is gone and cleaned up; it
must not block, and may be asked again after it said yes: several threads may call `reap` at a time, and an exception
that a signal raises may come between the answer and its use.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

__all__ = ["reap", "waiting"]

waiting: list[Callable[[], bool]] = []

os.register_at_fork(after_in_child=waiting.clear)


def reap() -> None:
    """Look at each entry once, and forget those that are gone. None is ever out of the list before that is known."""
    for is_gone in waiting.copy():
        if is_gone():
            with contextlib.suppress(ValueError):  # another thread was faster
                waiting.remove(is_gone)
