"""What limits the CPUs of a process, as values: each limit by itself, and the budget that they come to. Read from the
system in `counting.py`; built by hand in tests of what only reasons about them (placement)."""

from __future__ import annotations

from dataclasses import dataclass

from corelane.cpu.lists import format_cpus

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Budget", "Limit", "rounded_up"]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: which CPUs, or how many.

    `cpus` are those that it leaves, None if it is a number only. `amount` is how many CPUs' worth of time or threads,
    None if it is a set only. `where` is the file, the call or "environment", `text` what was read there. `binds`: the
    count would be higher without it, or another limit happens to be just as low. `ignored` is the reason why it limits
    nothing, "" if it does.
    """

    name: str
    cpus: frozenset[int] | None = None
    amount: float | None = None
    where: str = ""
    text: str = ""
    binds: bool = False
    ignored: str = ""

    @property
    def value(self) -> frozenset[int] | float | None:
        """The CPUs, or the number."""
        return self.amount if self.cpus is None else self.cpus

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON; the CPUs as a sorted list."""
        return {
            "name": self.name,
            "cpus": None if self.cpus is None else sorted(self.cpus),
            "amount": self.amount,
            "where": self.where,
            "text": self.text.strip(),
            "binds": self.binds,
            "ignored": self.ignored,
        }

    def __str__(self) -> str:
        if self.cpus is not None:
            return f"{len(self.cpus)}: {format_cpus(self.cpus)}"
        return "" if self.amount is None else f"{self.amount:.4g}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a process may use.

    `cpus` are those that it may run on; `quota` is the time it gets, in CPUs' worth, None for no quota; `count` is how
    many threads can really run at the same time, never less than 1. `limits` are all that were found, `ignored` those
    that limit nothing, each with its reason.
    """

    cpus: frozenset[int]
    quota: float | None
    count: int
    limits: tuple[Limit, ...] = ()
    ignored: tuple[Limit, ...] = ()

    @property
    def binding(self) -> tuple[Limit, ...]:
        """The limits that make the count what it is; none if it is all CPUs that are online."""
        return tuple(limit for limit in self.limits if limit.binds)

    def explain(self) -> str:
        """A table: the count, every limit with where it was read, a * before those that bind, what was ignored."""
        why = ", ".join(dict.fromkeys(limit.name for limit in self.binding)) or "all CPUs that are online"
        lines = [f"count {self.count}: {why}"]
        rows = [("*" if each.binds else " ", each.name, str(each), _where(each)) for each in self.limits]
        rows.insert(0, (" ", "LIMIT", "CPUS", "READ IN"))
        names, values = (max(len(row[column]) for row in rows) for column in (1, 2))
        lines += [f"{mark} {name:{names}}  {value:{values}}  {where}".rstrip() for mark, name, value, where in rows]
        lines += [f"  ignored: {each.name}: {each.ignored}; {_where(each)}" for each in self.ignored]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON: count, quota, cpus, and the limits and what was ignored as lists of objects."""
        return {
            "count": self.count,
            "quota": self.quota,
            "cpus": sorted(self.cpus),
            "limits": [limit.as_dict() for limit in self.limits],
            "ignored": [limit.as_dict() for limit in self.ignored],
        }

    def __str__(self) -> str:
        return f"{self.count} CPU{'s' * (self.count != 1)} of {format_cpus(self.cpus)}" + (
            f", quota {self.quota:.4g}" if self.quota else ""
        )


def _where(limit: Limit) -> str:
    text = limit.text.strip()
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"{limit.where}: {shown!r}" if shown or limit.where == "environment" else limit.where


def rounded_up(amount: float) -> int:
    """A number of CPUs' worth of time as a number of threads, at least 1. 2.5 is 3: two threads could never use what is
    left of the third CPU. The kernel's own rounding of a quota's fraction does not make another thread."""
    whole = int(amount)
    return max(1, whole + (amount - whole > 1e-9))
