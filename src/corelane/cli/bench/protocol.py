"""How a figure is taken: contenders in processes of their own, asked for rounds in turn, compared round by
round.

Ratios, not seconds, are what can be compared between machines, and on a shared machine even they drift: the
same spawn can cost twice as much a minute later. So every contender of a table is alive at once, round r of
each follows directly on round r of the one before it (the first to go changes every round), a ratio is formed
within a round, and the median of these ratios is reported.

Owns: the contenders' processes and the pipes to them; `Server` closes both, `serving()` closes every one. One
thread. It deliberately does not decide what to compare (contenders.py) or how to show it (table.py).
"""

import json
import os
import select
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 300.0


class ContenderFailed(Exception):
    """A contender died, answered with an error or did not answer; the message says which and why."""


@dataclass(frozen=True)
class Contender:
    """One thing to measure: a server to start (`argv`) and what to ask of it (`mode`)."""

    key: str
    label: str
    argv: tuple[str, ...]
    mode: str
    ours: bool = False


@dataclass(frozen=True)
class Round:
    """One answer: a sample per spawn, the wall time of the round, and the CPU time of spawner and children;
    all in ns.
    """

    samples: tuple[int, ...]
    wall: int
    cpu: int


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, by nearest rank; raises on no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Series:
    """All measured rounds of one contender in one table."""

    contender: Contender
    rounds: list[Round] = field(default_factory=list)
    peak_mib: float | None = None
    """Peak resident memory of the contender's own process, without its children; None where it is not known.
    """

    @property
    def samples(self) -> list[int]:
        """Every sample of every round, in ns."""
        return [sample for one in self.rounds for sample in one.samples]

    @property
    def p50(self) -> float:
        """Median over all samples, in ns."""
        return percentile(self.samples, 0.50)

    @property
    def p99(self) -> float:
        """99th percentile over all samples, in ns."""
        return percentile(self.samples, 0.99)

    @property
    def mean(self) -> float:
        """Wall time per spawn over all rounds, in ns: what a caller in a loop sees, measuring overhead
        included.
        """
        return sum(one.wall for one in self.rounds) / len(self.samples)

    @property
    def cpu_percent(self) -> float:
        """CPU time of spawner and children over wall time; above 100 where several CPUs worked."""
        return 100.0 * sum(one.cpu for one in self.rounds) / sum(one.wall for one in self.rounds)

    @property
    def round_medians(self) -> list[float]:
        """The median of each round, in ns."""
        return [statistics.median(one.samples) for one in self.rounds]

    def ratio_to(self, other: "Series") -> float:
        """The median over rounds of (this round's median / the other's median in the same round)."""
        return statistics.median(
            mine / theirs for mine, theirs in zip(self.round_medians, other.round_medians, strict=True)
        )

    def difference_to(self, other: "Series") -> float:
        """The median over rounds of (this round's median - the other's median in the same round), in ns."""
        return statistics.median(
            mine - theirs for mine, theirs in zip(self.round_medians, other.round_medians, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        """For the JSON report; times in microseconds."""
        return {
            "label": self.contender.label,
            "p50_us": self.p50 / 1e3,
            "p99_us": self.p99 / 1e3,
            "mean_us": self.mean / 1e3,
            "per_second": 1e9 / self.mean,
            "cpu_percent": self.cpu_percent,
            "peak_mib": self.peak_mib,
            "samples": len(self.samples),
            "round_medians_us": [value / 1e3 for value in self.round_medians],
        }


class Server:
    """One contender's process: a command a line in, one JSON line back."""

    def __init__(self, contender: Contender, patience: float = ANSWER_SECONDS) -> None:
        """Starts it; it has `patience` seconds for each answer. Raises OSError where the program cannot be started."""
        self.contender = contender
        self._patience = patience
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        self._pending = b""
        try:
            self._process = subprocess.Popen(
                contender.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
            )
        except BaseException:
            self._stderr.close()
            raise

    def _failed(self, why: str) -> ContenderFailed:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        return ContenderFailed(f"{self.contender.label}: {why}{' - ' + said[0] if said else ''}")

    def _read_line(self) -> bytes:
        """One line of the answer; raises ContenderFailed at end of file or when the patience is at its end."""
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._pending:
            if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._failed(f"no answer in {self._patience:.0f} s")
            chunk = os.read(source, 1 << 16)
            if not chunk:
                raise self._failed(f"ended with status {self._process.wait()}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def ask(self, command: str) -> dict[str, Any]:
        """Sends one command line and returns the answer; raises ContenderFailed for an error or no answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed(f"could not be asked: {error}") from error
        line = self._read_line()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self._failed(f"answered {line[:80]!r}, which is not JSON") from None
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def round(self, count: int, program: str) -> Round:
        """Has `program` spawned `count` times: one at a time, or, in a mode of many, with one sample for all, the time
        per child.
        """
        answer = self.ask(f"run {self.contender.mode} {count} {program}")
        samples = answer["ns"]
        share = count // len(samples)
        return Round(tuple(samples), answer["wall_ns"] // share, answer["cpu_ns"] // share)

    def peak_mib(self) -> float | None:
        """Peak resident memory of the process so far, in MiB; None where /proc does not tell.

        Not ru_maxrss: a child starts with its parent's there, so it would show the harness's own size.
        """
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return None

    def close(self) -> None:
        """Ends the process: by the end of its stdin, and by a kill where that is not enough."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone already, with a command unread
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()


@contextmanager
def serving(
    contenders: Sequence[Contender], program: str, on_skip: Callable[[str], None]
) -> Iterator[dict[str, Server]]:
    """Starts every contender and has it spawn `program` once; leaving the block ends them all.

    A contender that fails here is left out and `on_skip` is told why, but one of ours is never left out: that
    raises.
    """
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for contender in contenders:
            try:
                server = Server(contender)
                stack.callback(server.close)
                server.round(1, program)
            except (ContenderFailed, OSError) as error:
                if contender.ours:
                    raise
                on_skip(f"skipped: {error}")
                continue
            servers[contender.key] = server
        yield servers


def alternate(
    servers: Mapping[str, Server],
    program: str,
    *,
    count: int,
    rounds: int,
    warm_up: int,
    on_round: Callable[[Series, int], None],
    on_skip: Callable[[str], None],
) -> dict[str, Series]:
    """Measures all servers in turn, round by round.

    `count` spawns of `program` make a round; each contender first spawns `warm_up` times unmeasured. The one
    that goes first changes with every round. `on_round(series, round)` is called after each. Returns a Series
    per key; one of the others that fails on the way is missing in it and `on_skip` was told, one of ours
    raises.
    """
    series = {key: Series(server.contender) for key, server in servers.items()}

    def measured(key: str, spawns: int) -> Round | None:
        try:
            return servers[key].round(spawns, program)
        except ContenderFailed as error:
            if servers[key].contender.ours:
                raise
            del series[key]
            on_skip(f"left out: {error}")
            return None

    for key in list(series):
        measured(key, warm_up)
    for number in range(rounds):
        keys = list(series)
        first = number % len(keys)
        for key in keys[first:] + keys[:first]:
            one = measured(key, count)
            if one is not None:
                series[key].rounds.append(one)
                on_round(series[key], number)
    for key, one_series in series.items():
        one_series.peak_mib = servers[key].peak_mib()
    return series
