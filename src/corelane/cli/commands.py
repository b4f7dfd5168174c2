"""The commands by name. Each is imported when it is asked for: `corelane run` starts without rich and the harness."""

from __future__ import annotations

import importlib
import signal

import click

import corelane

__all__ = ["program"]

_COMMANDS = {
    "batch": ("corelane.cli.batch", "batch"),
    "bench": ("corelane.cli.bench.command", "bench"),
    "count": ("corelane.cli.count", "count"),
    "doctor": ("corelane.cli.doctor", "doctor"),
    "pin": ("corelane.cli.pin", "pin"),
    "plan": ("corelane.cli.plan", "plan"),
    "run": ("corelane.cli.run", "run"),
    "shm": ("corelane.cli.shm", "shm"),
    "topology": ("corelane.cli.topology", "topology"),
}


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        # `run` takes signals its own way; others own children, which a KeyboardInterrupt lets them clean up.
        if cmd_name != "run" and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(corelane.__version__, "-V", "--version", message="corelane %(version)s")
def program() -> None:
    """Fast, contained processes."""
