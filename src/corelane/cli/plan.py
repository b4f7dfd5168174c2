"""`corelane plan`: who would go where, printed. Owns nothing, and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import click

from corelane import cpu
from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import answer, say
from corelane.cli.values import ROOT
from corelane.cpu.lists import cpu_list, format_cpus, format_mask
from corelane.cpu.placement import POLICIES, Plan
from corelane.cpu.placement import plan as make
from corelane.errors import CorelaneError

__all__ = ["plan"]

_FORMATS: dict[str, Any] = {
    "table": str,
    "json": lambda plan: json.dumps(plan.as_dict(), indent=2),
    "list": lambda plan: "\n".join(format_cpus(mask) for mask in plan),
    "mask": lambda plan: "\n".join(format_mask(mask) for mask in plan),
    "taskset": lambda plan: "\n".join(f"taskset -c {format_cpus(mask)}" for mask in plan),
}


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--policy", type=click.Choice(list(POLICIES)), default="compact", help="How to choose (default: compact)."
)
@click.option("--per", type=int, default=1, metavar="K", help="CPUs for each worker.")
@click.option("--avoid", metavar="CPUS", help="CPUs to leave out: 0, or 0-3,8.")
@click.option("--smt/--no-smt", default=None, help="A worker may have siblings of a core; one CPU of each core only.")
@click.option("--numa", metavar="NODES", help="Only CPUs of these NUMA nodes.")
@click.option("--cpus", metavar="CPUS", help="Plan with these CPUs instead of those this process may use.")
@click.option("--format", "form", type=click.Choice(list(_FORMATS)), default="table", help="What is printed.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@ROOT
@click.argument("n", type=int, metavar="N")
def plan(n: int, form: str, as_json: bool, root: str, cpus: str | None, avoid: str | None, **given: Any) -> int:
    """Plan CPUs for N workers, and print them.

    The formats list, mask and taskset have one line for each worker, for a loop in a shell (which waits within the
    braces: the shell outside of them has not started the workers):

    \b
        corelane plan 4 --policy spread --format taskset | {
            while read -r pin; do $pin ./worker & done; wait
        }

    With --root all CPUs that are online there can be used, unless --cpus says otherwise.
    """
    try:
        topology = cpu.topology(root)
        budget: Any
        if cpus is not None:
            budget = frozenset(cpu_list("--cpus", cpus))
            if absent := format_cpus(budget - topology.online):
                raise ValueError(f"--cpus: CPU {absent} is not online here (online: {format_cpus(topology.online)})")
        else:
            budget = cpu.budget() if root == "/" else topology.online
        made: Plan = make(n, avoid=avoid or (), topology=topology, budget=budget, **given)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    except CorelaneError as error:
        say(str(error))
        return OWN_FAILURE
    answer(_FORMATS["json" if as_json else form](made))
    return 0
