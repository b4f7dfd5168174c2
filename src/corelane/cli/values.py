"""How the commands' options are written: each type turns a word of the command line into a value, or says what is wrong
with it.

Owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from corelane.cpu.policies import POLICIES, Deadline

__all__ = [
    "ACCOUNT",
    "CLAMP",
    "LIMIT",
    "MEMORY",
    "PAIR",
    "PATH",
    "PID",
    "ROOT",
    "SCHED",
    "SECONDS",
    "TIMEOUT",
    "UMASK",
    "VARIABLE",
    "Type",
]


class Type(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3, and no class to subscript before
    """An option's value, by a function that raises ValueError with the reason."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    unit = next((unit for unit in units if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * units.get(unit, 1.0)
    except ValueError:
        raise ValueError(f"{text!r} is no time: seconds, or a number with one of {', '.join(units)}") from None


def _timeout(text: str) -> float:
    found = _seconds(text)
    if found == 0:
        raise ValueError("0 would end the program before it begins; leave the option out for no timeout")
    return found


def _pair(text: str) -> Any:
    """WORD or WORD:NUMBER."""
    word, colon, number = text.partition(":")
    if not colon:
        return word
    if not number.isdecimal():
        raise ValueError(f"{number!r} in {text!r} is no number")
    return word, int(number)


def _sched(text: str) -> Any:
    """As _pair, or deadline:RUNTIME:DEADLINE[:PERIOD]."""
    word, *spans = text.split(":")
    if word in POLICIES:
        if word in ("fifo", "rr") and not spans:
            raise ValueError(f"{text!r} needs a priority from 1 to 99, like {word}:10")
        return _pair(text)
    if word != "deadline":
        raise ValueError(f"{text!r} is none of other, batch, idle, fifo:N, rr:N and deadline:RUNTIME:DEADLINE[:PERIOD]")
    if len(spans) not in (2, 3):
        raise ValueError(f"{text!r} is not deadline:RUNTIME:DEADLINE[:PERIOD], like deadline:2ms:10ms")
    return Deadline(*map(_seconds, spans))


def _memory(text: str) -> Any:
    word, colon, nodes = text.partition(":")
    return (word, nodes) if colon else word


def _pid(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise ValueError(f"{text!r} is no PID: that comes first, and CPUs after it, as in -p 1234 0-3")
    return int(text)


def _clamp(text: str) -> tuple[int | None, int | None]:
    low, colon, high = text.partition(":")
    if not colon or not all(each.isdecimal() or not each for each in (low, high)):
        raise ValueError(f"{text!r} is not LOW:HIGH, each from 0 to 1024, or empty: unchanged")
    return (int(low) if low else None), (int(high) if high else None)


def _amount(text: str) -> int | str:
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    digits = text[:-1] if text[-1:] in factors else text
    if text == "unlimited":
        return text
    if not digits.isdecimal():
        raise ValueError(f"{text!r} is neither a number (K, M, G and T may follow it) nor 'unlimited'")
    return int(digits) * factors.get(text[-1], 1)


def _limit(text: str) -> tuple[str, Any]:
    name, _, bounds = text.partition("=")
    soft, colon, hard = bounds.partition(":")
    if not bounds:
        raise ValueError(f"{text!r} is not NAME=SOFT or NAME=SOFT:HARD")
    return name, (_amount(soft), _amount(hard if colon else soft))


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE (to remove a variable: --unset)")
    return name, value


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise ValueError(f"{text!r} is no octal number like 022") from None


def _account(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


SCHED, MEMORY = Type("POLICY", _sched), Type("POLICY[:NODES]", _memory)
PID, CLAMP = Type("PID", _pid), Type("LOW:HIGH", _clamp)
SECONDS, TIMEOUT, PAIR = Type("TIME", _seconds), Type("TIME", _timeout), Type("WORD[:NUMBER]", _pair)
LIMIT, VARIABLE = Type("NAME=SOFT[:HARD]", _limit), Type("NAME=VALUE", _variable)
UMASK, ACCOUNT = Type("OCTAL", _octal), Type("NAME|ID", _account)
PATH = click.Path()
ROOT = click.option(
    "--root",
    type=PATH,
    default="/",
    metavar="DIR",
    help="Read another machine's /sys and /proc, copied to this directory.",
)
