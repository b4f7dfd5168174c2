"""What is known of a broadcast, the words for how it is read, and what its errors say.

Owns nothing.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from corelane._ffi import ffi, lib
from corelane.errors import (
    Closed,
    Corrupted,
    Evicted,
    NotSupported,
    PeerDied,
    RecordsLost,
    ShmError,
    shm_failed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corelane.shm.broadcast import Broadcast

__all__ = ["BroadcastStats", "ReaderStats", "bits", "check", "failed", "held_up", "report_of", "stats_of"]

_POLICIES = {"block": lib.CL_BROADCAST_BLOCK, "skip": lib.CL_BROADCAST_SKIP, "evict": lib.CL_BROADCAST_EVICT}
_POLICY_NAMES = {0: "lossy", **{number: name for name, number in _POLICIES.items()}}
_STARTS = {"next": 0, "oldest": lib.CL_BROADCAST_FROM_OLDEST}
_LOSSES = {"count": 0, "raise": lib.CL_BROADCAST_TELL_LOSS}
_DEATHS = {"raise": 0, "wait": lib.CL_BROADCAST_PATIENT}
_STATES = ("new", "open", "closed", "died")


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """One registered reader. `lag`: how many records it is behind; `lost`: by its own count; `waits`: its sleeps.
    `policy`: "block", "skip", "evict", or "lossy"."""

    pid: int
    lag: int
    lost: int
    waits: int
    policy: str
    evicted: bool


@dataclass(frozen=True, slots=True)
class BroadcastStats:
    """Counted since the broadcast was made, over all who used it.

    `put` is how many records there ever were; `depth` how far the slowest registered reader is behind, `most` the same
    as the writer of a lossless one has found it when it looked. `skipped` are records that it has moved readers past,
    `evictions` readers that it did not wait for. `refused` are puts that found no room and raised, `dropped` records
    that found none and were dropped. `waits` counts sleeps, `wakes` how often somebody had to be woken; `recoveries`
    participants found dead, `last_dead` is the pid of the last one. `state` is the writer's: "new" (nobody yet),
    "open", "closed", "died"; `writer` the pid of who writes, or has died. `readers` are the registered ones.
    """

    slots: int
    slot_size: int
    lossless: bool
    put: int
    depth: int
    most: int
    skipped: int
    evictions: int
    refused: int
    dropped: int
    waits: int
    wakes: int
    recoveries: int
    last_dead: int | None
    state: str
    writer: int | None
    readers: tuple[ReaderStats, ...]


def report_of(core: Any) -> Any:
    """The core's report."""
    out = ffi.new("cl_broadcast_report *")
    lib.cl_broadcast_report_of(core, out)
    return out


def stats_of(core: Any) -> BroadcastStats:
    """The same as people read it."""
    out = report_of(core)
    counts: dict[str, Any] = {name: int(getattr(out, name, 0)) for name in BroadcastStats.__slots__}
    found = ffi.new("cl_broadcast_reader[]", int(out.members))
    count = lib.cl_broadcast_readers_of(core, found, out.members)
    counts.update(
        lossless=bool(out.flags & lib.CL_BROADCAST_LOSSLESS),
        last_dead=int(out.last_dead) or None,
        state=_STATES[out.state] if out.state < len(_STATES) else "unknown",
        writer=int(out.writer) or None,
        readers=tuple(_reader(found[i]) for i in range(count)),
    )
    return BroadcastStats(**counts)


def held_up(report: Any) -> str:
    """By whom a reader is that has waited in vain: a stopped one (SIGSTOP) is alive, too."""
    if report.state != lib.CL_BROADCAST_OPEN:
        return ": it has no writer"
    return f": its writer, process {int(report.writer)}, is slow or stopped, and alive"


def _reader(one: Any) -> ReaderStats:
    policy = _POLICY_NAMES.get(one.policy, "unknown")
    return ReaderStats(int(one.pid), int(one.lag), int(one.lost), int(one.waits), policy, bool(one.is_evicted))


def check(policy: Any, start: Any, on_loss: Any, on_death: Any) -> None:
    """Refuse what are no words for how a broadcast is read, before anything is done."""
    if policy is not None and policy not in _POLICIES:
        raise ValueError(f"policy must be None or one of {', '.join(_POLICIES)}, not {policy!r}")
    for name, value, known in (
        ("start", start, _STARTS),
        ("on_loss", on_loss, _LOSSES),
        ("on_death", on_death, _DEATHS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def bits(broadcast: Broadcast, policy: str | None, start: str, on_loss: str, on_death: str) -> tuple[int, int]:
    """The same as numbers of the core: the policy, and what of CL_BROADCAST_FROM_OLDEST and the like."""
    check(policy, start, on_loss, on_death)
    lossless = broadcast.lossless
    if not lossless and policy is not None:
        raise ValueError(f"policy must be None, not {policy!r}: {broadcast!r} waits for nobody")
    if lossless and start != "next":
        raise ValueError(f"start must be 'next', not {start!r}: what {broadcast!r} has, its writer may overwrite")
    number = _POLICIES[policy or "block"] if lossless else 0
    return number, _STARTS[start] | _LOSSES[on_loss] | _DEATHS[on_death]


def failed(broadcast: Broadcast, number: int, item: Any) -> Exception:
    """What an errno of the core means. `item`: what should have been put; None: records of a dtype were to be got."""
    if number == errno.EBADF:
        return ValueError(f"{broadcast!r} was closed and cannot be used any more")
    if number == errno.EPIPE:
        return Closed(f"the writer of {broadcast!r} has closed it, and all that it had put was got")
    if number == errno.EOWNERDEAD:
        pid = int(report_of(broadcast._core).writer)
        return PeerDied(
            f"the writer of {broadcast!r}, process {pid}, has died without closing it, and all that it had put was got",
            pid,
        )
    if number == errno.EOVERFLOW:
        lost = int(report_of(broadcast._core).lost_now)
        return RecordsLost(f"this reader of {broadcast!r} was overtaken: {lost} records were lost to it", lost)
    if number == errno.ECONNABORTED:
        return Evicted(f"this reader of {broadcast!r} was too slow, and was evicted: subscribe() begins anew")
    if number == errno.EMSGSIZE:
        if item is None:
            return ValueError(f"the next record of {broadcast!r} has another size than the dtype: it stays")
        return ValueError(
            f"a record of {memoryview(item).nbytes} bytes does not fit into a slot of {broadcast!r}: "
            f"{broadcast.slot_size} bytes"
        )
    if number == errno.ESTALE:
        return broadcast._use_after_fork()
    if number == errno.EISCONN:
        return ShmError(f"this handle of {broadcast!r} is a reader that has read, or the writer: attach another one")
    if number == errno.EUSERS:
        return ShmError(
            f"{broadcast!r} has all participants that it may have: create it with more members, or close some"
        )
    if number == errno.ENOTSUP:
        return NotSupported(f"{broadcast!r}: this platform has no leases, which say who is alive")
    if number == errno.EBADMSG:
        out = report_of(broadcast._core)
        return Corrupted(
            f"{broadcast!r} was written to by a stranger: it says {int(out.fault_word)} "
            f"where {int(out.fault_expected)} was expected"
        )
    if number == errno.ENOTCONN and not broadcast.segment.readonly:
        return ShmError(f"this handle of {broadcast!r} takes no part in it yet: subscribe() or take() first")
    if number in (errno.EACCES, errno.ENOTCONN):
        return shm_failed(errno.EACCES, f"{broadcast!r} was attached read-only, or its permissions are")
    return shm_failed(number, f"{broadcast!r}: {os.strerror(number)}")
