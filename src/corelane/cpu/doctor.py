"""What on this host costs latency: `diagnose()`, and what it answers with.

Owns nothing and changes nothing. Findings are made in `doctor_checks.py` from files of /proc, /sys and /boot, and from
short measurements (`doctor_measures.py`), which take a second together and keep one CPU busy for a tenth of it. What
cannot be read is a finding too: "unknown", with the reason.
"""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import asdict, dataclass

from corelane.errors import NotSupported

TYPE_CHECKING = False  # importing typing would cost more than importing this package
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Advice", "Cost", "Diagnosis", "Evidence", "Finding", "diagnose"]

COSTS, OK, UNKNOWN = "costs", "ok", "unknown"
_HEADINGS = {COSTS: "costs latency", OK: "as it should be", UNKNOWN: "not known"}
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found, and where: a file, a system call, a measurement."""

    where: str
    value: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured or counted on this host: `value` in `unit`, and what of."""

    value: float
    unit: str
    what: str

    def __str__(self) -> str:
        return f"{self.value:,.{2 if self.value < 10 else 1 if self.value < 100 else 0}f} {self.unit}: {self.what}"


@dataclass(frozen=True, slots=True)
class Advice:
    """What changes it. `command` is for a shell, or for the kernel's command line if `boot`; `administrator`: it needs
    root. `but` is what it costs in turn, or ""."""

    command: str
    administrator: bool = True
    boot: bool = False
    but: str = ""

    def __str__(self) -> str:
        who = [*(["administrator"] if self.administrator else []), *(["kernel command line"] if self.boot else [])]
        return self.command + (f"  [{', '.join(who)}]" if who else "") + (f"  ({self.but})" if self.but else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what, as a word: "governor", "smt", ...
        status: "costs", "ok" or "unknown".
        text: what was found and why it matters; for "unknown" the reason.
        evidence: the values, and where each was read.
        cost: what it takes, if that was measured or counted; None if not.
        advice: what changes it; None if nothing need be or can be changed.
    """

    name: str
    status: str
    text: str
    evidence: tuple[Evidence, ...] = ()
    cost: Cost | None = None
    advice: Advice | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in a fixed order. `str()` of it is a report; `root` is the directory that was taken for /."""

    findings: tuple[Finding, ...]
    root: str = "/"
    measured: bool = False

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name.

        Raises:
            KeyError: there is none.
        """
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"there is no finding {name!r}; there are {', '.join(each.name for each in self.findings)}")

    def of(self, status: str) -> tuple[Finding, ...]:
        """Those with this status: "costs", "ok" or "unknown"."""
        return tuple(finding for finding in self.findings if finding.status == status)

    @property
    def costs(self) -> tuple[Finding, ...]:
        """What costs latency."""
        return self.of(COSTS)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "root": self.root,
            "measured": self.measured,
            "findings": [
                {**asdict(finding), "evidence": [*map(asdict, finding.evidence)]} for finding in self.findings
            ],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        counts = {status: len(self.of(status)) for status in _HEADINGS}
        yield f"{counts[COSTS]} of {len(self.findings)} cost latency, {counts[UNKNOWN]} are not known"
        for status, heading in _HEADINGS.items():
            found = self.of(status)
            if found:
                yield from ("", heading)
            for finding in found:
                yield from _wrapped(f"  {finding.name:<14} ", finding.text)
                if status != COSTS:
                    continue
                if finding.cost is not None:
                    yield from _wrapped(" " * 17 + "cost:   ", str(finding.cost))
                for each in finding.evidence:
                    yield from _wrapped(" " * 17 + "read:   ", f"{each.where}: {each.value}")
                if finding.advice is not None:  # a command is for copying: it is not wrapped
                    yield " " * 17 + f"change: {finding.advice}"


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def diagnose(root: str | os.PathLike[str] = "/", *, measure: bool = True) -> Diagnosis:
    """Look for what on this host costs latency. Nothing is changed.

    Args:
        root: the directory that has the host's proc, sys and boot: another one is for trees that were copied from
            elsewhere, and then nothing is measured.
        measure: also measure, for about a second: what a wake-up, a timer, the clock and a system call cost, how often
            a running thread is interrupted, and what share of its time the hypervisor takes.

    Returns:
        The findings. What cannot be read, or makes no sense, is "unknown" and says why.

    Raises:
        ValueError: `root` is no directory. TypeError: it is no path.
        NotSupported: this system is no Linux, and so has nothing to read at /.
    """
    where = os.fspath(root) if isinstance(root, (str, os.PathLike)) else None
    if not isinstance(where, str):
        raise TypeError(f"root must be a path in text, not {root!r}")
    if not isinstance(measure, bool):
        raise TypeError(f"measure must be True or False, not {measure!r}")
    if not os.path.isdir(where):
        raise ValueError(f"root {where!r} is no directory")
    here = os.path.realpath(where) == "/"
    if here and sys.platform != "linux":
        raise NotSupported(f"a diagnosis reads Linux's /proc and /sys, which {sys.platform} does not have")
    from corelane.cpu.doctor_checks import CHECKS, Host, run_check

    host = Host(where, here)
    if here and measure:
        from corelane.cpu.doctor_measures import measured

        host.figures = measured(host)
    return Diagnosis(tuple(run_check(check, host) for check in CHECKS), where, host.figures is not None)
