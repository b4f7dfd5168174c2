"""`corelane doctor`: what on this host costs latency, as a report or as JSON. Owns nothing and changes nothing."""

from __future__ import annotations

import click

from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import answer, say
from corelane.cli.values import PATH
from corelane.cpu.doctor import diagnose
from corelane.errors import CorelaneError

__all__ = ["doctor"]

_COSTS = 1  # the status of --strict


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-measure", is_flag=True, help="Read files only; measuring takes half a second.")
@click.option("--root", type=PATH, default="/", metavar="DIR", help="Take DIR for /, and measure nothing.")
@click.option("--strict", is_flag=True, help="End with status 1 if anything costs latency.")
def doctor(as_json: bool, no_measure: bool, root: str, strict: bool) -> int:
    """Say what on this host costs latency, what it costs, and which command changes it.

    Nothing is changed. What cannot be read is said to be not known. The exit status is 0; with --strict, 1 if anything
    costs latency.
    """
    try:
        found = diagnose(root, measure=not no_measure)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except CorelaneError as error:
        say(str(error))
        return OWN_FAILURE
    if as_json:
        import json

        text = json.dumps(found.as_dict(), indent=1)
    else:
        text = str(found)
    answer(text)
    return _COSTS if strict and found.costs else 0
