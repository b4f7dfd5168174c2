"""`corelane shm`: the segments that lie around.

Owns nothing. Removes only what nobody holds.
"""

from __future__ import annotations

import json
import time

import click

from corelane.cli.messages import say
from corelane.errors import ShmError
from corelane.shm import around

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["shm"]

_HEADINGS = ("NAME", "KIND", "BYTES", "HELD", "OWNER", "MODE", "AGE", "MADE BY")


@click.group()
def shm() -> None:
    """Shared memory that has a name: what there is, who holds it, and removing what nobody does."""


@shm.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(as_json: bool) -> None:
    """All segments that have a name here."""
    found = around.list_segments()
    if as_json:
        for entry in found:
            click.echo(json.dumps(entry.as_dict()))
        return
    _table([_HEADINGS, *(_row(entry) for entry in found)])


@shm.command("stat")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def stat(name: str, as_json: bool) -> int:
    """All that is known of one segment; of a pool of buffers, its figures too."""
    try:
        entry = around.entry_of(name)
        figures = _figures(entry)
    except (OSError, ValueError, ShmError) as error:
        raise click.ClickException(str(error)) from None
    told = {**entry.as_dict(), **figures}
    if as_json:
        click.echo(json.dumps(told))
    else:
        _table([(f"{key}:", _shown(key, value)) for key, value in told.items() if value not in (None, "")])
    return 1 if entry.problem else 0


def _figures(entry: around.Entry) -> dict[str, Any]:
    """Of what keeps some."""
    if entry.kind != "buffers":
        return {}
    from corelane.shm.buffers import pools

    return pools([entry.name])[entry.name].as_dict()


@shm.command("clean")
@click.argument("names", nargs=-1)
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be removed.")
def clean(names: tuple[str, ...], dry_run: bool) -> int:
    """Remove the segments that nobody holds: all of them, or those named."""
    try:
        if dry_run:
            entries = [around.entry_of(name) for name in names] if names else around.list_segments()
            removed = [entry.name for entry in entries if entry.held is False and entry.kind]
        else:
            removed = around.clean(list(names) or None)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    for name in removed:
        click.echo(name)
    kept = [name for name in names if name not in removed]
    for name in kept:
        say(f"{name} stays: somebody holds it, or it is no segment")
    return 1 if kept else 0


def _row(entry: around.Entry) -> tuple[str, ...]:
    keys = ("kind", "size", "held", "owner", "mode", "created", "creator")
    shown = [_shown(key, getattr(entry, key)) for key in keys]
    if entry.problem:
        shown[0] = "-"
        shown[-1] = f"({entry.problem})"
    return entry.name, *shown


def _shown(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key == "held":
        return "yes" if value else "no"
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
