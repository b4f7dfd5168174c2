"""What became of the jobs of `corelane batch`, counted, and when that is reason to end it. Owns nothing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Halt", "Tally"]

_ENOUGH = 3  # failures before a percentage says anything


@dataclass(frozen=True)
class Halt:
    """When failures end a batch.

    Attributes:
        when: "never", "soon" (start nothing more) or "now" (kill what runs).
        limit: how many failures; if `percent`, how many of a hundred jobs that have ended, and three at least.
    """

    when: str = "never"
    limit: int = 1
    percent: bool = False

    def is_reached(self, failed: int, ended: int) -> bool:
        if self.when == "never":
            return False
        if self.percent:
            return failed >= _ENOUGH and failed * 100 >= self.limit * ended
        return failed >= self.limit


@dataclass
class Tally:
    """How many jobs came to what.

    Attributes:
        ok, failed: they ended, and their output was written. killed: by us, before their end.
        lost: they ended, but their output was not written. unlogged: the log had no room for them.
        skipped: they were done before. left: they were not started, or waited for another try.
        left_is_all: whether `left` are all that there are: the input has no more.
    """

    ok: int = 0
    failed: int = 0
    killed: int = 0
    lost: int = 0
    unlogged: int = 0
    skipped: int = 0
    left: int = 0
    left_is_all: bool = True

    @property
    def is_complete(self) -> bool:
        """Whether each job has been run to its end."""
        return not (self.killed or self.lost or self.left) and self.left_is_all

    def __str__(self) -> str:
        parts = [f"{self.ok} done", f"{self.failed} failed"]
        parts += [f"{self.killed} killed"] if self.killed else []
        parts += [f"{self.lost} ended without their output being written"] if self.lost else []
        if not (self.left_is_all and self.left == 0):
            parts.append(f"{'' if self.left_is_all else 'at least '}{self.left} not started")
        parts += [f"{self.skipped} were done before"] if self.skipped else []
        parts += [f"{self.unlogged} could not be logged"] if self.unlogged else []
        return ", ".join(parts)
