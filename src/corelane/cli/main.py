"""Where the `corelane` program begins and ends: what its exit status means, and what is loaded for it.

Owns nothing. click is imported here and not on top, so that its absence is a sentence and not a traceback.
"""

from __future__ import annotations

import signal
import sys
import traceback

__all__ = ["OWN_FAILURE", "main"]

OWN_FAILURE = 125  # as timeout(1) and env(1) have it: not a status of the child's


def main() -> int:
    """Run the program on sys.argv; returns its exit status."""
    # Nothing has been started: Ctrl-C may simply end us, without a traceback from the middle of some import. Where it
    # is ignored (a background job of a plain shell) it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import click
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print("corelane: the command line needs click: pip install 'corelane[cli]'", file=sys.stderr)
        return OWN_FAILURE
    from corelane.cli.commands import program

    try:
        # Our own mode: click would end with status 2 for a usage error, which is a common status of children.
        status = program.main(prog_name="corelane", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return OWN_FAILURE
    except click.Abort:
        return 128 + signal.SIGINT
    except Exception:  # ours: Python's own status for it would be taken for a child's, or for one job that failed
        traceback.print_exc()
        return OWN_FAILURE
    return status if isinstance(status, int) else 0
