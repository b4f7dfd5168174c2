"""Retry: how often, and after what pauses, something that failed is tried again. A value; owns nothing."""

from __future__ import annotations

import time
from collections import namedtuple

from corelane._values import seconds
from corelane.errors import ProcessError, ResourceExhausted, SpawnFailed

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Retry"]


class Retry(namedtuple("Retry", "tries backoff factor max_backoff jitter clock")):
    """Try again what has failed.

    What is tried again is what would have raised: a status other than 0 (unless check=False), a signal, a timeout, too
    much output, no room for another process. A program that is not there, or may not be run, is not: it would not be
    there the next time.

    Args:
        tries: how often in all, from 1.
        backoff: seconds of the pause after the first failure. factor: by what each further pause is longer, from 1.
        max_backoff: seconds that no pause exceeds.
        jitter: the part of each pause, from 0 to 1, that is left to chance, so that those who failed together do not
            come back together: a pause of s seconds becomes one between s * (1 - jitter) and s.
        clock: what has `monotonic()` and `sleep(seconds)`, for tests; default: the module `time`.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    __slots__ = ()

    def __new__(
        cls,
        tries: int = 5,
        backoff: float = 1.0,
        factor: float = 2.0,
        max_backoff: float = 60.0,
        jitter: float = 0.5,
        clock: Any = None,
    ) -> Retry:
        if isinstance(tries, bool) or not isinstance(tries, int):
            raise TypeError(f"tries must be a number of times, not {tries!r}")
        if tries < 1:
            raise ValueError(f"tries must be at least 1, not {tries}")
        backoff, max_backoff = seconds("backoff", backoff), seconds("max_backoff", max_backoff)
        for name, value in (("factor", factor), ("jitter", jitter)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {value!r}")
        if not factor >= 1:
            raise ValueError(f"factor must be at least 1, not {factor}: each pause is that much longer")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter must be a part from 0 to 1, not {jitter}")
        if not (clock is None or (hasattr(clock, "monotonic") and hasattr(clock, "sleep"))):
            raise TypeError(f"a clock has monotonic() and sleep(seconds), which {clock!r} has not")
        import random  # noqa: F401 - now: a failure may be that there is no descriptor to read it by

        return super().__new__(cls, tries, backoff, float(factor), max_backoff, float(jitter), clock)

    def is_for(self, error: BaseException | None, tries: int) -> bool:
        """Whether `error`, the outcome of try number `tries` (from 1), is to be followed by another one."""
        if tries >= self.tries or not isinstance(error, ProcessError):
            return False
        return isinstance(error, ResourceExhausted) or not isinstance(error, SpawnFailed)

    def pause(self, tries: int) -> float:
        """Seconds between the failure of try number `tries` (from 1) and the next one."""
        import random

        try:
            longest = min(self.max_backoff, self.backoff * self.factor ** (tries - 1))
        except OverflowError:
            longest = self.max_backoff
        return float(longest * (1 - self.jitter * random.random()))

    @property
    def timer(self) -> Any:
        """The clock, also where none was given."""
        return self.clock or time


def tell_tries(error: BaseException | None, tries: int) -> None:
    """Say in `error` that it is that of the last of several tries."""
    if tries > 1 and isinstance(error, ProcessError):
        error.message = f"{error.message} (tried {tries} times)"


def option(name: str, value: Any) -> Retry:
    """The parser of the option `retry`."""
    if not isinstance(value, Retry):
        raise TypeError(f"{name} must be a Retry, like Retry(tries=5), not {value!r}")
    return value
