"""A line on the terminal that says how far a batch is. Owns that line, while it is shown.

Drawn by hand: rich would cost more start-up than a thousand jobs, and would have to share the terminal with the jobs'
own output, which is written around the line.
"""

from __future__ import annotations

import time
from contextlib import suppress

from corelane.cli.sink import sink_of

__all__ = ["Progress"]

_EVERY = 0.1  # seconds
_WIDTH = 24


class Progress:
    """The line, on stderr.

    Args:
        total: how many jobs there are; None if nobody knows.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._began = time.monotonic()
        self._due = 0.0
        self._shown = False
        self._is_late = True

    @property
    def due(self) -> float:
        """The monotonic time at which it has something new to show."""
        return self._due if self._is_late else float("inf")

    def show(self, ended: int, failed: int, running: int, skipped: int) -> None:
        """Draw it, if it was not drawn just now.

        Args:
            ended: jobs that need not be run any more, `failed` and `skipped` ones among them.
        """
        now = time.monotonic()
        self._is_late = now < self._due
        if self._is_late:
            return
        self._due = now + _EVERY
        passed = now - self._began
        parts = [f"{ended}/{self._total}" if self._total is not None else str(ended)]
        if self._total:
            full = min(_WIDTH, _WIDTH * ended // self._total)
            parts[0] = f"[{'#' * full}{' ' * (_WIDTH - full)}] {parts[0]}"
        parts += [f"{count} {what}" for count, what in ((failed, "failed"), (running, "running")) if count]
        parts.append(_clock(passed))
        fresh = ended - skipped
        if self._total is not None and fresh >= 3 and ended < self._total:
            parts.append(f"about {_clock(passed / fresh * (self._total - ended))} left")
        self._write("\r" + ", ".join(parts) + "\x1b[K")
        self._shown = True

    def hide(self) -> None:
        """Make room for something else; it is drawn again when it is due."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        with suppress(OSError):
            sink_of(2).write(text.encode())  # what there is no room for is drawn the next time


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
