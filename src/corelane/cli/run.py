"""`corelane run`: a Command from options, its run, and what is said about it.

Owns the file of --json-file. Stdin, stdout and stderr are the program's; what corelane says goes to stderr, one line
per message, and never to stdout. The exit status is the program's, or one of timeout(1)'s.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

import click

from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import say, write_line
from corelane.cli.relay import supervise
from corelane.cli.values import ACCOUNT, CLAMP, LIMIT, MEMORY, PAIR, PATH, SCHED, SECONDS, TIMEOUT, UMASK, VARIABLE
from corelane.errors import CorelaneError, SpawnFailed
from corelane.process import STDOUT, Command, File, Result

__all__ = ["run"]

TIMED_OUT, NOT_EXECUTABLE, NOT_FOUND = 124, 126, 127


# ---- the command -----------------------------------------------------------------------------------------------------

_settings = {"allow_interspersed_args": False, "max_content_width": 100}


@click.command(context_settings=_settings, options_metavar="[OPTION]...")
@click.option("--cpus", metavar="LIST", help="Run on these CPUs only: 2, or 0-3,8.")
@click.option("--nice", type=int, metavar="N", help="Priority, from -20 (high) to 19.")
@click.option("--sched", type=SCHED, help="other, batch, idle, fifo:N, rr:N or deadline:RUNTIME:DEADLINE[:PERIOD].")
@click.option("--reset-on-fork", is_flag=True, default=None, help="With --sched: not for what the program forks.")
@click.option("--uclamp", type=CLAMP, help="Lowest and highest utilisation, 0 to 1024.")
@click.option("--io-priority", type=PAIR, help="idle, best-effort:LEVEL or realtime:LEVEL, 0 (high) to 7.")
@click.option("--mem", "memory_policy", type=MEMORY, help="local, bind:NODES, interleave:NODES or preferred:NODE.")
@click.option("--autogroup", type=int, metavar="N", help="With --new-session: the session's priority, -20 to 19.")
@click.option("--best-effort", is_flag=True, help="Go on without what the system refuses of these, and say so.")
@click.option("--oom-score-adj", type=int, metavar="N", help="-1000 (never killed for memory) to 1000.")
@click.option("--limit", "rlimits", type=LIMIT, multiple=True, help="A resource limit, like nofile=64 or as=2G.")
@click.option("--timeout", type=TIMEOUT, help="End it after so long: 10, 1.5, 300ms, 2m, 1h.")
@click.option("--grace", type=SECONDS, default="0", help="With --timeout: SIGTERM first, SIGKILL so much later.")
@click.option("--contain", type=click.Choice(["auto", "group", "cgroup", "none"]), help="What ends with the program.")
@click.option("--cgroup", type=PATH, help="Start in this cgroup; with --contain cgroup, in a new one below it.")
@click.option("--die-with-parent/--no-die-with-parent", default=None, help="SIGKILL it if corelane dies (default).")
@click.option("--foreground", is_flag=True, help="A process group of its own that is lent the terminal.")
@click.option("--new-session", is_flag=True, help="A session of its own, without a terminal.")
@click.option("--cwd", type=PATH, help="Working directory; a program like ./x is looked up there.")
@click.option("--env", "env_add", type=VARIABLE, multiple=True, help="Set a variable.")
@click.option("--unset", "env_remove", metavar="NAME", multiple=True, help="Remove a variable.")
@click.option("--clear-env", is_flag=True, help="Begin with an empty environment.")
@click.option("--umask", type=UMASK, help="File mode creation mask.")
@click.option("--user", type=ACCOUNT, help="Run as this user, with that user's groups.")
@click.option("--group", type=ACCOUNT, help="Run as this group.")
@click.option("--extra-group", "extra_groups", type=ACCOUNT, multiple=True, help="A supplementary group.")
@click.option("--no-new-privs", is_flag=True, help="Set-user-id bits and file capabilities have no effect.")
@click.option("--stdin", type=PATH, help="Read stdin from a file.")
@click.option("--stdout", type=PATH, help="Write stdout to a file.")
@click.option("--stderr", type=PATH, help="Write stderr to a file; it may be that of --stdout.")
@click.option("--append", is_flag=True, help="Add to those files instead of replacing them.")
@click.option("--close-fds", is_flag=True, help="Keep descriptors from 3 on, which we were given, to ourselves.")
@click.option("--ignore-signal", "signal_ignores", metavar="NAME", multiple=True, help="Start it ignoring a signal.")
@click.option("--default-signal", "signal_defaults", metavar="NAME", multiple=True, help="Start it not ignoring one.")
@click.option("--block-signal", "signal_mask", metavar="NAME", multiple=True, help="Start it with a signal blocked.")
@click.option("--strategy", type=click.Choice(["auto", "clone3", "vfork", "posix_spawn", "fork"]), help="How to spawn.")
@click.option("--json", "json_on_stderr", is_flag=True, help="Report as one line of JSON on stderr.")
@click.option("--json-file", type=PATH, help="Report as one line of JSON in a file.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] PROGRAM [ARGUMENT]...")
def run(program: tuple[str, ...], json_on_stderr: bool, json_file: str | None, **given: Any) -> int:
    """Run a program with limits, priorities and a deadline, as if it had been started directly.

    Signals that come to corelane go to the program and what it started (TERM, HUP, INT, QUIT, USR1, USR2, WINCH, TSTP
    and CONT).

    The exit status is the program's; 128+N if signal N ended it; 124 if its time ran out; 127 if it was not found; 126
    if it could not be executed; 125 if corelane itself failed.
    """
    try:
        command = Command(*program, **_options(**given))
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    # Opened before the program starts: a report that cannot be written should not cost a run.
    report = _open_report(json_on_stderr, json_file)
    status, facts = _supervised(command)
    if report is None:
        return status
    import json

    try:
        write_line(report, json.dumps({**facts, "status": status}))
    except OSError as error:
        say(f"the report could not be written: {error.strerror}; the program's status was {status}")
        return OWN_FAILURE
    return status


def _options(
    *,
    env_add: tuple[tuple[str, str], ...],
    env_remove: tuple[str, ...],
    clear_env: bool,
    rlimits: tuple[tuple[str, Any], ...],
    stdin: str | None,
    stdout: str | None,
    stderr: str | None,
    append: bool,
    close_fds: bool,
    die_with_parent: bool | None,
    **others: Any,
) -> dict[str, Any]:
    """The command line as options of a Command."""
    # An option that was not given is None, a flag False, a list empty; 0 is a value like any other.
    options = {name: value for name, value in others.items() if value is not False and value != ()}
    options["die_with_parent"] = die_with_parent
    options["rlimits"] = dict(rlimits) or None
    # Whoever started us chose what we inherit (a shell's 3>file, make's job server); all that is ours is CLOEXEC.
    options["close_others"] = close_fds
    if clear_env:
        options["env"] = {name: value for name, value in env_add if name not in env_remove}
    else:
        options["env_add"] = dict(env_add) or None
        options["env_remove"] = env_remove or None
    options["stdin"] = None if stdin is None else File(stdin)
    options["stdout"] = None if stdout is None else File(stdout, append=append)
    options["stderr"] = None if stderr is None else File(stderr, append=append)
    if stdout is not None and stderr is not None and _are_one(stdout, stderr):
        options["stderr"] = STDOUT  # opened twice, each would overwrite the other
    return options


def _are_one(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(path) == os.path.realpath(other)


# ---- its run and what is said ----------------------------------------------------------------------------------------


def _supervised(command: Command) -> tuple[int, dict[str, Any]]:
    """Run it; the exit status, and what the report says."""
    try:
        result, timed_out = supervise(command)
    except (CorelaneError, OSError, ValueError) as error:
        say(str(error))
        facts: dict[str, Any] = {"args": command.args, "error": str(error)}
        if isinstance(error, SpawnFailed):
            facts |= {"stage": error.stage, "errno": error.errno}
        return _status_of_error(error), facts
    for refused in result.not_applied:
        say(str(refused))
    return _status(result, timed_out), _facts(result, timed_out)


def _status(result: Result, timed_out: bool) -> int:
    code = result.returncode
    if timed_out:
        return TIMED_OUT
    if code is None:
        say("somebody else took the program's status")
        return OWN_FAILURE
    return code if code >= 0 else 128 - code


def _status_of_error(error: Exception) -> int:
    if isinstance(error, SpawnFailed) and error.stage == "exec":
        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    return OWN_FAILURE


def _facts(result: Result, timed_out: bool) -> dict[str, Any]:
    number = result.signal
    return {
        "args": result.args,
        "pid": result.pid,
        "returncode": result.returncode,
        "signal": getattr(number, "name", number),
        "core_dumped": result.core_dumped,
        "timed_out": timed_out,
        "elapsed": result.elapsed,
        "usage": result.usage._asdict(),
        "contained": result.contained,
        "strategy": result.strategy,
        "not_applied": [str(refused) for refused in result.not_applied],
    }


def _open_report(on_stderr: bool, path: str | None) -> int | None:
    if path is None:
        return 2 if on_stderr else None
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise click.FileError(path, error.strerror) from None
    if fd > 2:
        return fd
    # We were started with stderr closed: what is said there is not for the report.
    lifted = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return lifted
