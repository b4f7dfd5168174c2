"""`corelane batch`: many commands from a file, from stdin or from a template, some at a time.

Owns nothing: source.py reads the commands, jobs.py runs them, joblog.py keeps the log. Here is what the options mean
together, and the exit status.
"""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from corelane._values import seconds
from corelane.cli.joblog import JobLog, LogError, done_in
from corelane.cli.jobs import Jobs
from corelane.cli.main import OWN_FAILURE
from corelane.cli.messages import say, write_line
from corelane.cli.source import Records, Source, Template, Values, json_line, shell_line, shell_template, words_line
from corelane.cli.tally import Halt
from corelane.cli.values import PATH, SECONDS, TIMEOUT, Type
from corelane.cpu.counting import usable
from corelane.cpu.lists import cpu_list
from corelane.errors import CorelaneError
from corelane.process import Command, Retry, quote

__all__ = ["batch"]

_EACH, _OURS = 4, 20  # descriptors of a job that runs, and those of ours beside
_MANY = 101  # the status of more failures than 100


def _halt(text: str) -> Halt:
    when, comma, limit = text.partition(",")
    number = limit.removesuffix("%")
    if when not in ("never", "soon", "now") or (
        comma and (when == "never" or not number.isdecimal() or not int(number))
    ):
        raise ValueError(f"{text!r} is not never, soon, now, or one of these two with a limit, like soon,3 or now,10%")
    return Halt(when, int(number or 1), limit.endswith("%"))


def _cpus(text: str) -> tuple[int, ...]:
    return cpu_list("cpus", text)


_HALT, _CPUS = Type("WHEN[,LIMIT]", _halt), Type("LIST", _cpus)


class _Batch(click.Command):
    """Keeps a `--` among the arguments: it says that a template follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        if ":::" not in args[:at]:
            ctx.ensure_object(dict)["template"] = args[at + 1 :] if at < len(args) else None
            args = args[:at]
        return super().parse_args(ctx, args)


_settings = {"allow_interspersed_args": False, "max_content_width": 100}


@click.command(cls=_Batch, context_settings=_settings, options_metavar="[OPTION]...")
@click.option("-j", "--jobs", type=click.IntRange(min=1), metavar="N", help="So many at once (default: our CPUs).")
@click.option("-k", "--keep-order", is_flag=True, help="Write output in the order of the input.")
@click.option("-u", "--ungroup", is_flag=True, help="Do not hold output back until a job ends: it may mix.")
@click.option("-0", "--null", is_flag=True, help="The input's records end with NUL instead of newline.")
@click.option("--json", "is_json", is_flag=True, help="Each line is a list of arguments, or an object with options.")
@click.option("--shell", is_flag=True, help="Each line, or the template, is a script for sh.")
@click.option("--joblog", type=PATH, help="Write a line of JSON to this file for each job that has ended.")
@click.option("--resume", is_flag=True, help="Leave out what has succeeded by that log, and go on with it.")
@click.option("--retries", type=click.IntRange(min=0), default=0, metavar="N", help="Try N times more what failed.")
@click.option("--backoff", type=SECONDS, default="1", help="The first pause before that (default 1s), then doubled.")
@click.option(
    "--halt", type=_HALT, default="never", help="After LIMIT failures (3, 10%) start no more (soon), or kill (now)."
)
@click.option("--timeout", type=TIMEOUT, help="Kill a job after so long: 10, 1.5, 300ms, 2m, 1h.")
@click.option(
    "--grace", type=SECONDS, default="20", help="After a TERM or HUP let jobs go on for so long (default 20s)."
)
@click.option("--cpus", type=_CPUS, help="Run the jobs on these CPUs only: 2, or 0-3,8.")
@click.option("--pin", is_flag=True, help="Give each of the N that run at once a CPU of its own.")
@click.option("--progress/--no-progress", default=None, help="Show how far it is (default: if stderr is a terminal).")
@click.option("--dry-run", is_flag=True, help="Only write the commands to stdout, quoted for a shell.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[FILE] | -- COMMAND... | COMMAND... ::: VALUE...")
@click.pass_context
def batch(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> int:
    """Run many commands, some at a time.

    Without COMMAND each line of FILE or stdin is one, with quotes and backslashes as in a shell. With COMMAND each line
    of stdin, or each VALUE (with several ::: each combination), is put into it: {} the value, {.} without extension,
    {/} its last part, {//} its directory, {/.} its last part without extension, {2} {2.} ... the same of the second
    list, {#} the job's number; with none of them it is added at the end. Values are never parsed.

    A TERM or HUP starts no more and lets jobs go on for the grace; a second one, and Ctrl-C, kills them.

    The exit status is the number of jobs that failed, 101 for more than 100; 125 if corelane itself failed; and where
    not all was run, 143 after a TERM, 129 after a HUP, and that of a SIGINT after one.
    """
    _open_stdio()
    template = ctx.ensure_object(dict).get("template")
    source = _source(words, template, given["null"], given["is_json"], given["shell"])
    if given["resume"] and given["joblog"] is None:
        raise click.UsageError("--resume needs the --joblog that says what is done")
    if given["dry_run"]:
        return _dry_run(source, given["joblog"] if given["resume"] else None)
    jobs = _jobs(source, **given)
    try:
        jobs.run()
    except (CorelaneError, OSError) as error:  # of the engine's own; what ran was killed
        say(f"{error}; {jobs.tally}")
        return OWN_FAILURE
    return _end(jobs)


def _open_stdio() -> None:
    """Whoever closed one of these wants nothing from there; but a file of ours must not get its number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


# ---- what is to be run -----------------------------------------------------------------------------------------------


def _source(words: Sequence[str], template: list[str] | None, null: bool, is_json: bool, shell: bool) -> Source:
    """The jobs that the command line asks for."""
    if template is None and ":::" in words:
        template, words = list(words), ()
    if template is not None and words:
        raise click.UsageError(
            f"values for a command come from stdin or from ::: and not from a file like {words[0]!r}"
        )
    if len(words) > 1:
        raise click.UsageError(f"write -- before a command, if {quote(*words)} is one; else give one file")
    if is_json and (template is not None or shell or null):
        raise click.UsageError("--json is for whole commands, one a line: without COMMAND, --shell and --null")
    separator, what = (b"\0", "record") if null else (b"\n", "line")
    if template is None:
        parse = json_line if is_json else shell_line if shell else words_line
        return Source(Records(_open(words[0] if words else "-"), separator), parse, what)
    lists: list[list[str]] = []
    while ":::" in template:
        at = len(template) - 1 - template[::-1].index(":::")
        lists.insert(0, template[at + 1 :])
        template = template[:at]
    try:
        fill = _fill(template, shell, max(1, len(lists)))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if lists:
        return Source(Values(lists), fill, "job")
    return Source(Records(0, separator), fill, what)


def _fill(words: list[str], shell: bool, lists: int) -> Any:
    if not words:
        raise ValueError("there is no command for the values")
    if shell:
        if len(words) > 1:
            raise ValueError(f"with --shell the command is one script, and so one argument, not {len(words)}")
        return shell_template(words[0])
    if len(words) == 1 and (whole := words_line(words[0])) is not None:
        words = list(whole.args)
    return Template(words, lists).fill


def _open(path: str) -> int:
    if path == "-":
        return 0
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise click.FileError(path, error.strerror) from None


def _dry_run(source: Source, log: str | None) -> int:
    """Write what would be run."""
    wrong = 0
    try:
        done = done_in(log)[0] if log is not None and os.path.exists(log) else {}
        while not source.at_end:
            entry = source.take()
            if entry is None:
                if source.fd is not None:
                    select.select([source.fd], [], [])
            elif done.get(entry.key, 0) > 0:
                done[entry.key] -= 1
            elif entry.error:
                wrong += 1
                say(f"{entry.where}: {entry.error}")
            else:
                write_line(1, quote(*entry.args))
    except BrokenPipeError:
        return _die_of(signal.SIGPIPE)
    except (LogError, OSError, ValueError) as error:
        say(str(error))
        return OWN_FAILURE
    return min(wrong, _MANY)


# ---- how it is run ---------------------------------------------------------------------------------------------------


def _jobs(
    source: Source,
    *,
    jobs: int | None,
    keep_order: bool,
    ungroup: bool,
    joblog: str | None,
    resume: bool,
    retries: int,
    backoff: float,
    halt: Halt,
    timeout: float | None,
    grace: float,
    cpus: tuple[int, ...] | None,
    pin: bool,
    progress: bool | None,
    **_: Any,
) -> Jobs:
    ours = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    allowed = ours if cpus is None else list(cpus)
    if jobs is None:  # as many as run_many; CPUs that are named are what was chosen
        jobs = usable() if cpus is None else len(allowed)
    concurrency = jobs
    if pin and concurrency > len(allowed):
        raise click.UsageError(f"--pin: {concurrency} jobs at once, and {len(allowed)} CPUs for them")
    options: dict[str, Any] = {"timeout": timeout, "cpus": cpus}
    try:
        options["retry"] = Retry(tries=retries + 1, backoff=backoff) if retries else None
        Command("true", **options)
        grace = seconds("--grace", grace)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    log = None if joblog is None else _open_log(joblog, resume)
    shown = None
    if progress or (progress is None and os.isatty(2)):
        from corelane.cli.progress import Progress

        shown = Progress(source.total())
    concurrency, limits = _limits(concurrency)
    return Jobs(
        source,
        concurrency,
        options | limits,
        cpus=allowed if pin else None,
        grouped=not ungroup,
        ordered=keep_order,
        halt=halt,
        grace=grace,
        log=log,
        progress=shown,
    )


def _open_log(path: str, resume: bool) -> JobLog:
    try:
        log = JobLog(path, resume)
    except LogError as error:
        raise click.ClickException(f"the log {error}") from None
    except OSError as error:
        raise click.ClickException(f"the log {path!r} cannot be used: {error.strerror}") from None
    if log.damaged:
        say(f"{log.damaged} lines of the log are damaged: what they were about is run again")
    if not log.locked:
        say("the log's file system has no locks: see that no other batch uses it")
    return log


def _limits(concurrency: int) -> tuple[int, dict[str, Any]]:
    """Room for the descriptors of so many jobs: how many there is room for, and an option that gives the jobs what we
    had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _EACH * concurrency + 1024
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return concurrency, {}
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    possible = max(1, (most - _OURS) // _EACH)
    if possible < concurrency:
        say(f"{possible} jobs at once, and not {concurrency}: no more than {most} descriptors are allowed (ulimit -n)")
    limits = {"nofile": (soft, "unlimited" if hard == resource.RLIM_INFINITY else hard)}
    return min(possible, concurrency), {"rlimits": limits}


# ---- its end ---------------------------------------------------------------------------------------------------------


def _end(jobs: Jobs) -> int:
    """Say what was and was not done, and return the status for it."""
    tally = jobs.tally
    stopped = None if tally.is_complete else jobs.stopped_by
    if jobs.broken:
        say(jobs.broken)
    if stopped is not None:
        say(f"stopped by {stopped.name}: {tally}")
    elif jobs.broken or tally.failed or not tally.is_complete:
        say(f"{'halted: ' if jobs.is_halted else ''}{tally}")
    if jobs.reader_left:
        return _die_of(signal.SIGPIPE)
    if jobs.broken:
        return OWN_FAILURE
    if stopped is signal.SIGINT:
        return _die_of(stopped)  # so that a script that runs us is ended, too
    return min(tally.failed, _MANY) if stopped is None else 128 + stopped


def _die_of(number: signal.Signals) -> int:
    """End by a signal; returns the status that stands for it, to a first process that no signal ends."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
