"""Parsers of plain values: each takes a parameter's name and what the caller wrote, and returns it checked, or raises
TypeError or ValueError with the name, the value, and what would be right.

Owns nothing and looks at nothing but its argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["choice", "flag", "integer", "one_of", "seconds"]


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def integer(low: int, high: int) -> Callable[[str, Any], int]:
    def parse(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, not {value!r} ({type(value).__name__})")
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value}")
        return value

    return parse


def seconds(name: str, value: Any) -> float:
    """A time span >= 0; what is longer than the kernel counts becomes the longest it does."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r} ({type(value).__name__})")
    if value != value or value < 0:  # NaN is the number that is not itself
        raise ValueError(f"{name} must be at least 0 seconds, not {value}")
    return float(min(value, 1e9))


def one_of(name: str, value: Any, words: Collection[str]) -> None:
    """It is one of these words."""
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")


def choice(*words: str) -> Callable[[str, Any], str | None]:
    def parse(name: str, value: Any) -> str | None:
        if value not in words:
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")
        return None if value == "auto" else str(value)

    return parse
