"""What the Results of pipelines and sequences have in common. A Result owns nothing but its bytes."""

from __future__ import annotations

from corelane.errors import ProcessError
from corelane.process.result import Usage, decoded

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

    from corelane.errors import CpuRefused

__all__ = ["PartsResult", "of_part"]


class PartsResult:
    """The Result of several commands that were one run.

    Attributes:
        command: the Pipeline or Sequence. error, index, tries: as of a Result.
    """

    __slots__ = ("_parts", "command", "error", "index", "tries")

    def __init__(self, command: Any, parts: tuple[Any, ...]) -> None:
        self.command = command
        self._parts = parts
        self.error: BaseException | None = None
        self.index: int | None = None
        self.tries = 1

    @property
    def stdout(self) -> bytes | None:
        raise NotImplementedError

    @property
    def returncode(self) -> int | None:
        raise NotImplementedError

    @property
    def args(self) -> tuple[str]:
        """What was run, as text."""
        return (str(self.command),)

    @property
    def stderr(self) -> bytes | None:
        """What was captured of the stderr of all of them, one after the other; None if nothing was."""
        return self._joined("stderr")

    @property
    def text(self) -> str:
        """stdout as text; see `Result.text`."""
        return decoded(self.command, self.stdout)

    @property
    def ok(self) -> bool:
        """Whether all went well."""
        return self.error is None and self.returncode == 0 and not self.timed_out

    @property
    def timed_out(self) -> bool:
        """Whether a deadline passed and the scope was killed."""
        return any(part.timed_out for part in self._parts)

    @property
    def truncated(self) -> bool:
        """Whether output is missing because a stream reached `max_output`."""
        return any(part.truncated for part in self._parts)

    @property
    def pipes_left_open(self) -> bool:
        """As of a Result: of any of them."""
        return any(part.pipes_left_open for part in self._parts)

    @property
    def contained(self) -> str:
        """The containment that was obtained, by the first of them: "group", "cgroup" or "none"."""
        found: str = next((part.contained for part in self._parts if hasattr(part, "contained")), "none")
        return found

    @property
    def strategy(self) -> str:
        """How the first of them was spawned; see `Result.strategy`."""
        found: str = next((part.strategy for part in self._parts if hasattr(part, "strategy")), "none")
        return found

    @property
    def not_applied(self) -> tuple[CpuRefused, ...]:
        """As of a Result: of all of them."""
        return tuple(one for part in self._parts for one in getattr(part, "not_applied", ()))

    @property
    def elapsed(self) -> float:
        """Seconds that all of them took."""
        return sum((part.elapsed for part in self._parts), 0.0)

    @property
    def usage(self) -> Usage:
        """What all of them used: the sum, but for `max_rss`, which is the largest."""
        usages = [part.usage for part in self._parts]
        sums = Usage(*(sum(each) for each in zip(*usages, strict=True)))
        return sums._replace(max_rss=max(usage.max_rss for usage in usages))

    def _joined(self, name: str) -> bytes | None:
        captured = [each for part in self._parts if (each := getattr(part, name)) is not None]
        return b"".join(captured) if captured else None

    def __repr__(self) -> str:
        codes = [part.returncode for part in self._parts]
        error = "" if self.error is None else f", error={type(self.error).__name__}({str(self.error)!r})"
        return f"{type(self).__name__}({str(self.command)!r}, returncodes={codes}{error}, elapsed={self.elapsed:.6f})"

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in ("error", "index", "tries")}
        return type(self), (self.command.without_objects(), self._parts), (None, state)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return str(self.command) == str(other.command) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)


def of_part(error: BaseException | None, command: Any, result: PartsResult, part: str) -> BaseException | None:
    """The error of one part as that of the whole.

    Args:
        part: which one, as "stage 2".
    """
    where = f"{part} of {command}"
    if isinstance(error, ProcessError):
        error.message = f"{error.message} ({where})"
        error.command, error.result = command, result
    elif error is not None:
        error.add_note(f"in {where}")
    return error
