"""`corelane count`: how many CPUs are really ours, and why. Owns nothing, and changes nothing."""

from __future__ import annotations

import json

import click

from corelane import cpu
from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import answer, say
from corelane.cli.values import ROOT
from corelane.cpu.lists import format_cpus
from corelane.errors import CorelaneError

__all__ = ["count"]


@click.command()
@click.option("--explain", is_flag=True, help="Every limit, where it was read, and which ones bind.")
@click.option("--list", "as_list", is_flag=True, help="Which CPUs instead: 0-3,8.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@ROOT
def count(explain: bool, as_list: bool, as_json: bool, root: str) -> int:
    """Print how many CPUs this process may really use.

    That is its affinity, the cpusets and quotas of its cgroups, and what Slurm, PBS or LSF granted.
    """
    if explain + as_list + as_json > 1:
        raise click.UsageError("--explain, --list and --json are three answers: ask for one")
    try:
        found = cpu.budget(root)
    except CorelaneError as error:
        say(str(error))
        return OWN_FAILURE
    if as_json:
        answer(json.dumps(found.as_dict(), indent=2))
    elif as_list:
        answer(format_cpus(found.cpus))
    else:
        answer(found.explain() if explain else str(found.count))
    return 0
