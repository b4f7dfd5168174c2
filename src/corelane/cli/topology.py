"""`corelane topology`: the machine as a picture, as JSON, or in lscpu(1)'s parsable format. Owns nothing; what it
prints goes to stdout, what it has to say of itself to stderr."""

from __future__ import annotations

import json
import os
import sys

import click

from corelane import cpu
from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import answer, say
from corelane.cli.values import ROOT
from corelane.errors import CorelaneError

__all__ = ["parsable", "topology"]


@click.command(options_metavar="[OPTION]...")
@click.option("--json", "as_json", is_flag=True, help="As JSON: Topology.as_dict().")
@click.option("-p", "--parse", "as_table", is_flag=True, help="As `lscpu -p` prints it.")
@ROOT
@click.option("--width", type=click.IntRange(40, 100_000), help="Columns of the picture; else the terminal's.")
@click.option("--ascii", "plain", is_flag=True, help="Boxes of +, - and |.")
@click.option("--all/--collapse", "everything", default=None, help="Draw all, or one of those that look the same.")
def topology(as_json: bool, as_table: bool, root: str, width: int | None, plain: bool, everything: bool | None) -> int:
    """Show what the machine is made of: packages, NUMA nodes, caches, cores and CPUs.

    In the picture, CPUs that corelane itself may use are marked with * unless that is all of them, those outside the
    limits of the container or the job with x, isolated ones with i, nohz_full with n.

    The exit status is 0, or 125 if the system's files cannot be read or do not make sense.
    """
    if as_json and as_table:
        raise click.UsageError("--json and -p are two ways of printing: use one")
    try:
        found = cpu.topology(root)
        if as_json:
            answer(json.dumps(found.as_dict(), indent=2))
            return 0
        if as_table:
            answer(parsable(found))
            return 0
        own = os.path.realpath(root) == "/"
        mine, allowed, limits = _ours() if own else (None, None, [])
        collapse = None if everything is None else not everything
        text = found.draw(width, mark=mine, allowed=allowed, ascii=plain or not _has_lines(), collapse=collapse)
        answer("\n".join([text, *limits]), _encoding(), "replace")
    except CorelaneError as error:
        say(str(error))
        return OWN_FAILURE
    return 0


def parsable(topology: cpu.Topology) -> str:
    """One line a CPU, as `lscpu -p` prints it: numbers of cores and packages count from 0, those of caches are the
    kernel's."""
    levels = sorted({cache.name for cache in topology.caches})
    numbers: dict[tuple[str, int], int] = {}
    nth: dict[str, int] = {}
    for cache in topology.caches:
        at = nth[cache.name] = nth.get(cache.name, -1) + 1
        for sharing in cache.cpus:
            numbers[cache.name, sharing] = at if cache.id is None else cache.id
    numa = any(node.distances for node in topology.nodes)
    lines = [
        "# One line for each CPU that is online, its fields separated by commas.",
        "# Equal numbers in a column: the same core, package (socket), node or cache.",
        "# CPU,Core,Socket,Node" + ("," if levels else "") + "".join(f",{level}" for level in levels),
    ]
    for each in topology.cpus:
        fields = [str(each.id), str(each.core), str(each.package), str(each.node) if numa else ""]
        if levels:
            fields += ["", *(str(numbers.get((level, each.id), "")) for level in levels)]
        lines.append(",".join(fields))
    return "\n".join(lines)


def _ours() -> tuple[frozenset[int], frozenset[int] | None, list[str]]:
    """Our own CPUs, those that the limits around us allow, and a line for each limit that binds."""
    found = cpu.budget()
    # What the affinity leaves out is not ours, but it is allowed: we may widen it.
    sets = [limit.cpus for limit in found.limits if limit.cpus is not None and limit.name != "affinity"]
    lines = [f"limit of {limit.name}: {limit} ({limit.where})" for limit in found.limits if limit.binds]
    return found.cpus, frozenset.intersection(*sets) if sets else None, lines


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _has_lines() -> bool:
    try:
        "┌─┐│└┘".encode(_encoding())
    except (UnicodeError, LookupError):
        return False
    return True
