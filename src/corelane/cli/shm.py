"""`corelane shm`: the segments that lie around.

Owns nothing. Removes only what nobody holds.
"""

from __future__ import annotations

import json
import time
from contextlib import closing, suppress

import click

from corelane import shm as shared
from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import say
from corelane.errors import ShmError
from corelane.shm import around

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["shm"]

# What has stats(), and how its class is called.
_WITH_STATS = {"ring": "Ring", "queue": "Queue", "broadcast": "Broadcast", "deque": "Deque"}
# What has none, and what is told of it; each is a property or takes no argument.
_TOLD = {
    "lock": ("Lock", ("holder",)),
    "semaphore": ("Semaphore", ("permits", "value", "holders")),
    "event": ("Event", ("is_set",)),
    "barrier": ("Barrier", ("parties", "waiting", "broken")),
}
# What would be mixed up with a segment's bytes and user.
_RENAMED = {"size": "depth", "owner": "owned_by"}

_HEADINGS = ("NAME", "KIND", "BYTES", "HELD", "OWNER", "MODE", "AGE", "MADE BY", "HELD BY")


@click.group()
def shm() -> None:
    """Shared memory that has a name: what there is, who holds it, and removing what nobody does."""


@shm.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(as_json: bool) -> None:
    """All segments that have a name here, and the processes that hold them, as far as we may look into those."""
    found = around.list_segments()
    around.find_holders(found)
    if as_json:
        for entry in found:
            click.echo(json.dumps(entry.as_dict()))
        return
    _table([_HEADINGS, *(_row(entry) for entry in found)])


@shm.command("stat")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def stat(name: str, as_json: bool) -> int:
    """All that is known of one segment: who holds it, and the figures of what it is."""
    try:
        entry = around.entry_of(name)
        around.find_holders([entry])
        figures = _figures(entry)
    except (OSError, ValueError, ShmError) as error:
        raise click.ClickException(str(error)) from None
    told = {**entry.as_dict(), **figures}
    if as_json:
        click.echo(json.dumps(told))
    else:
        _table([(f"{key}:", _shown(key, value)) for key, value in _flat(told) if value not in (None, "")])
    return 1 if entry.problem else 0


def _figures(entry: around.Entry) -> dict[str, Any]:
    """Of what keeps some."""
    if entry.kind == "buffers":
        from corelane.shm.buffers import pools

        return pools([entry.name])[entry.name].as_dict()
    if entry.kind in _TOLD:
        name, told = _TOLD[entry.kind]
        with closing(getattr(shared, name).attach(entry.name, readonly=True)) as one:
            found = {key: getattr(one, key) for key in told}
        return {key: value() if callable(value) else value for key, value in found.items()}
    if entry.kind not in _WITH_STATS:
        return {}
    import dataclasses

    of = getattr(shared, _WITH_STATS[entry.kind])
    options = {"subscribe": False} if entry.kind == "broadcast" else {}
    with of.attach(entry.name, readonly=True, **options) as opened:
        figures = dataclasses.asdict(opened.stats())
    return {_RENAMED.get(key, key): value for key, value in figures.items()}


def _flat(told: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Rows of it: of the two sides of a ring, and of each reader of a broadcast, too."""
    for key, value in told.items():
        if key in ("holders", "held_by"):
            yield key, value
        elif isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, (list, tuple)):
            for place, each in enumerate(value):
                yield from _flat(each, f"{before}{key}.{place}.")
        else:
            yield before + key, value


@shm.command("clean")
@click.argument("names", nargs=-1)
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be removed.")
def clean(names: tuple[str, ...], dry_run: bool) -> int:
    """Remove the segments that nobody holds: all of them, or those named."""
    status = 0
    each: list[list[str] | None] = [[name] for name in names]
    for wanted in each or [None]:  # one that is not there keeps no other from being removed
        try:
            removed = _would_clean(wanted) if dry_run else around.clean(wanted)
        except (OSError, ValueError) as error:
            say(str(error))
            status = OWN_FAILURE
            continue
        for name in removed:
            click.echo(name)
        if wanted and not removed:
            say(f"{wanted[0]} stays: {_why_it_stays(wanted[0])}")
            status = status or 1
    return status


def _why_it_stays(name: str) -> str:
    with suppress(OSError, ValueError):  # it is gone since
        entry = around.entry_of(name)
        around.find_holders([entry])
        if entry.held_by:
            return f"held by {_shown('held_by', entry.held_by)}"
        if not entry.ours:
            return f"it is no segment{f': {entry.problem}' if entry.problem else ''}"
    return "somebody holds it, whom we may not look at"


def _would_clean(names: list[str] | None) -> list[str]:
    entries = around.list_segments() if names is None else [around.entry_of(name) for name in names]
    return [entry.name for entry in entries if entry.held is False and entry.ours]


def _row(entry: around.Entry) -> tuple[str, ...]:
    keys = ("kind", "size", "held", "owner", "mode", "created", "creator", "held_by")
    shown = [_shown(key, getattr(entry, key)) for key in keys]
    if entry.problem:
        shown[0] = "-"
        shown[-1] += f"  ({entry.problem})"
    return entry.name, *shown


def _shown(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key == "held":
        return "yes" if value else "no"
    if key == "held_by" and isinstance(value, tuple):
        return " ".join(map(str, value)) or "-"
    if key == "mode":
        return f"{value:04o}"
    if key in ("created", "last_used") and isinstance(value, float):
        return f"{max(0.0, time.time() - value):.0f} s"
    if key.startswith("mean_") and isinstance(value, float):
        return f"{value * 1e6:.2f} us"
    if key == "utilisation":
        return f"{value:.0%}"
    if key == "holders" and isinstance(value, dict):
        return ", ".join(f"{count} by process {pid}" for pid, count in sorted(value.items())) or "-"
    return str(value)


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
