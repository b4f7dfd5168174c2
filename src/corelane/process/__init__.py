"""Processes: a Command as a value, its run to the end, and a running child as an object."""

from corelane.process.command import Command, read, run
from corelane.process.many import run_many
from corelane.process.process import Process
from corelane.process.redirect import DEVNULL, PIPE, STDOUT, File
from corelane.process.result import Result, Usage
from corelane.process.retry import Retry
from corelane.process.shell import quote

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Command",
    "File",
    "Process",
    "Result",
    "Retry",
    "Usage",
    "quote",
    "read",
    "run",
    "run_many",
]
